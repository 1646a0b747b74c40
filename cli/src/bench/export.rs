//! A workload as files, so that other programs measure the very same data.
//!
//! A folder holds `spec.json`, a file for every input (`NAME.npy`, or `NAME.safetensors` where NumPy has no such type) and a file
//! for every level's segments (`NAME.offsets.npy`).

use super::case::Case;
use crate::execute::Input;
use crate::failure::file_error;
use crate::input::{Bind, SegmentForm};
use crate::output::{Entry, write_file};
use crate::spec_file::read_spec;
use levelfold::spec::{LeafSource, SegmentSource};
use levelfold::{DType, Error, ErrorCode, Hierarchy, TensorView};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a case into a folder, which is made where it is not there.
///
/// # Errors
/// `file`.
pub(super) fn export(case: &Case, folder: &Path) -> Result<(), Error> {
    if cfg!(target_endian = "big") {
        return Err(Error::new(ErrorCode::File, "files are little-endian, and this machine is not"));
    }
    std::fs::create_dir_all(folder).map_err(|cause| file_error("make", folder, cause))?;
    let mut hierarchy = case.hierarchy().clone();
    for level in &mut hierarchy.levels {
        if let SegmentSource::Inline(segments) = &level.segments {
            let Some(offsets) = segments.offsets() else {
                return Err(Error::new(ErrorCode::Unsupported, "its segments are no partition in order, so they have no offsets")
                    .at_level(&*level.name));
            };
            let shape = format!("({},)", offsets.len());
            write_npy(&folder.join(format!("{}.offsets.npy", level.name)), "<i8", "False", &shape, bytemuck::cast_slice(offsets))?;
        }
        level.segments = SegmentSource::Binding(level.name.clone());
    }
    for (name, view) in case.inputs()? {
        write_input(folder, (name, view))?;
    }
    let place = folder.join("spec.json");
    std::fs::write(&place, hierarchy.to_json()).map_err(|cause| file_error("write", &place, cause))
}

/// What a folder of [`export`] holds.
///
/// # Errors
/// `file` where one is missing; what is wrong with them.
pub(super) fn load(folder: &Path, seed: u64) -> Result<Case, Error> {
    let spec = folder.join("spec.json");
    let hierarchy = read_spec(&spec)?;
    let mut binds: Vec<Bind> = Vec::new();
    for name in hierarchy.unbound() {
        let path = folder.join(format!("{name}.offsets.npy"));
        binds.push(Bind { name: name.to_owned(), form: Some(SegmentForm::Offsets), path, tensor: None });
    }
    for name in inputs(&hierarchy) {
        binds.push(Bind { name: name.to_owned(), form: None, path: input_file(folder, name)?, tensor: None });
    }
    Case::of_spec(&spec, &binds, seed)
}

fn inputs(hierarchy: &Hierarchy) -> Vec<&str> {
    let mut names: Vec<&str> = match &hierarchy.leaves.source {
        LeafSource::Values { .. } => vec![&hierarchy.leaves.name],
        LeafSource::Lookup { ids, table } => vec![&ids.name, &table.name],
    };
    names.extend(hierarchy.levels.iter().filter_map(|level| level.weights.as_ref()).map(|weights| &*weights.name));
    names
}

fn input_file(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let files = [format!("{name}.npy"), format!("{name}.safetensors")].map(|file| folder.join(file));
    files.into_iter().find(|file| file.exists()).ok_or_else(|| {
        Error::new(ErrorCode::File, format!("{} has neither {name}.npy nor {name}.safetensors", folder.display()))
            .at_level(name)
            .help("write the folder with `levelfold bench --export`")
    })
}

fn write_input(folder: &Path, (name, view): Input<'_>) -> Result<(), Error> {
    let [rows, features] = view.shape();
    let feature_major = rows > 1 && features > 1 && view.layout().position(1, 0) == 1;
    let data = bytes_of(view);
    let Some(descr) = descr(view.dtype()) else {
        if feature_major {
            return Err(Error::new(
                ErrorCode::Unsupported,
                format!("no file holds {} values with the rows of a feature beside each other", view.dtype()),
            )
            .at_level(name)
            .help("export them row by row"));
        }
        let shape = [rows, features].map(|axis| u64::try_from(axis).unwrap_or(u64::MAX)).to_vec();
        let entry = Entry { name: name.to_owned(), dtype: view.dtype(), shape };
        return write_file(&folder.join(format!("{name}.safetensors")), &[], &[(entry, Cow::Borrowed(data))]).map(|_| ());
    };
    let shape = if features == 1 { format!("({rows},)") } else { format!("({rows}, {features})") };
    let order = if feature_major { "True" } else { "False" };
    write_npy(&folder.join(format!("{name}.npy")), descr, order, &shape, data)
}

/// The whole of it: inputs of a case have no gaps.
fn bytes_of(view: TensorView<'_>) -> &[u8] {
    fn of<T: levelfold::dtype::Element + bytemuck::NoUninit>(view: TensorView<'_>) -> &[u8] {
        bytemuck::cast_slice(view.elements::<T>().unwrap_or(&[]))
    }
    match view.dtype() {
        DType::F32 => of::<f32>(view),
        DType::F64 => of::<f64>(view),
        DType::F16 => of::<half::f16>(view),
        DType::BF16 => of::<half::bf16>(view),
        DType::U8 => of::<u8>(view),
        DType::U16 => of::<u16>(view),
        DType::U32 => of::<u32>(view),
        DType::I32 => of::<i32>(view),
        DType::I64 => of::<i64>(view),
    }
}

/// The type as NumPy writes it.
fn descr(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("<f4"),
        DType::F64 => Some("<f8"),
        DType::F16 => Some("<f2"),
        DType::BF16 => None,
        DType::U8 => Some("|u1"),
        DType::U16 => Some("<u2"),
        DType::U32 => Some("<u4"),
        DType::I32 => Some("<i4"),
        DType::I64 => Some("<i8"),
    }
}

/// Format version 1: see NumPy's documentation of `numpy.lib.format`.
fn write_npy(place: &Path, descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Result<(), Error> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let length = u16::try_from(padded).map_err(|_| Error::new(ErrorCode::Internal, "a header of 64 KiB"))?;
    let write = || {
        let mut file = BufWriter::new(File::create(place)?);
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(format!("{header:<width$}\n", width = padded - 1).as_bytes())?;
        file.write_all(data)?;
        file.flush()
    };
    write().map_err(|cause| file_error("write", place, cause))
}

//! Arrays in files: memory-mapped, and borrowed where they lie.
//!
//! A header is believed only as far as the file reaches: nothing is allocated by what a header claims. Data that is not aligned for its
//! element type is the one thing that is copied without being asked for, and [`FileArray::copied_bytes`] says so.
//!
//! A mapped file must not be cut short or rewritten while the command runs, as with any program that maps files.

mod bind;
mod npy;
mod tensors;

pub(crate) use bind::{BIND_HELP, Bind, SegmentForm};

use crate::failure::file_error;
use crate::memory::AlignedBytes;
use levelfold::{DType, Error, ErrorCode, Layout, Segments, TensorView};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An array of one or two axes in a file.
pub(crate) struct FileArray {
    path: PathBuf,
    scalar: Scalar,
    /// One or two entries.
    shape: Vec<usize>,
    order: Order,
    bytes: Bytes,
}

/// What a format says about an array, before anything is believed.
struct Header {
    scalar: Scalar,
    shape: Vec<u64>,
    order: Order,
    /// Where the data lies in the file.
    data: Range<usize>,
}

/// The type of one element in a file: those that the engine computes with, and some more that segments may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    Of(DType),
    I8,
    I16,
    U64,
}

/// Which axis is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    C,
    Fortran,
}

enum Bytes {
    /// In the file.
    Mapped {
        /// The whole of it.
        map: Mmap,
        /// Where in it.
        data: Range<usize>,
    },
    /// Not aligned in the file, or wanted in memory.
    Copied(AlignedBytes),
}

impl Scalar {
    fn size(self) -> usize {
        match self {
            Scalar::Of(dtype) => dtype.size(),
            Scalar::I8 => 1,
            Scalar::I16 => 2,
            Scalar::U64 => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Scalar::Of(dtype) => dtype.name(),
            Scalar::I8 => "i8",
            Scalar::I16 => "i16",
            Scalar::U64 => "u64",
        }
    }
}

impl FileArray {
    /// Opens an `.npy` file, or one tensor of a `.safetensors` file: the named one, else the only one, else the one called `fallback`.
    ///
    /// # Errors
    /// `file` with what is wrong with the file; `rank`; `unknown-name`.
    pub(crate) fn open(path: &Path, tensor: Option<&str>, fallback: &str) -> Result<FileArray, Error> {
        let (map, header) = read_header(path, tensor, fallback)?;
        FileArray::of(path, map, header).map_err(|error| in_file(error, path))
    }

    /// Whether a `.safetensors` file holds a tensor of this name.
    ///
    /// # Errors
    /// `file`.
    pub(crate) fn holds(path: &Path, tensor: &str) -> Result<bool, Error> {
        tensors::holds(&map_file(path)?, tensor).map_err(|error| in_file(error, path))
    }

    /// The same as a parameter `[rows, features]`: also where it has one axis and `rows` is 1, or a middle axis of 1.
    ///
    /// # Errors
    /// As for [`open`](Self::open); `shape`.
    pub(crate) fn open_param(path: &Path, tensor: Option<&str>, name: &str, wanted: [u64; 2]) -> Result<FileArray, Error> {
        let (map, mut header) = read_header(path, tensor, name)?;
        let said = header.shape.clone();
        header.shape = match said[..] {
            [features] => vec![1, features],
            [rows, 1, features] => vec![rows, features],
            _ => said.clone(),
        };
        if header.shape != wanted {
            let [rows, features] = wanted;
            return Err(in_file(
                Error::new(ErrorCode::Shape, format!("`{}` has shape {said:?}, wanted is [{rows}, {features}]", tensor.unwrap_or(name)))
                    .help("the file was made for another model, or the spec says other features, heads or layers than it has"),
                path,
            ));
        }
        FileArray::of(path, map, header).map_err(|error| in_file(error, path))
    }

    fn of(path: &Path, map: Mmap, header: Header) -> Result<FileArray, Error> {
        let Header { scalar, shape, order, data } = header;
        let wanted = shape
            .iter()
            .try_fold(scalar.size(), |product, &axis| product.checked_mul(usize::try_from(axis).ok()?))
            .ok_or_else(|| Error::new(ErrorCode::Overflow, format!("its header claims shape {shape:?}, which no memory holds")))?;
        if wanted != data.len() {
            return Err(Error::new(
                ErrorCode::File,
                format!("its header claims {}{shape:?}, which takes {wanted} bytes, but {} bytes follow it", scalar.name(), data.len()),
            )
            .help(if wanted > data.len() { "the file was cut short" } else { "it holds more than one array" }));
        }
        if !(1..=2).contains(&shape.len()) {
            return Err(Error::new(ErrorCode::Rank, format!("it has {} axes, shape {shape:?}", shape.len()))
                .help("values have two, [rows, features]; ids, weights and offsets have one"));
        }
        // Each axis fits, or the product would not have, unless another axis is 0.
        let shape = shape.iter().map(|&axis| usize::try_from(axis)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| Error::new(ErrorCode::Overflow, "an axis is longer than any memory"))?;
        let aligned = data.is_empty() || map[data.clone()].as_ptr().align_offset(scalar.size()) == 0;
        let bytes = if aligned { Bytes::Mapped { map, data } } else { Bytes::Copied(AlignedBytes::copy_of(&map[data])?) };
        Ok(FileArray { path: path.to_owned(), scalar, shape, order, bytes })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its length along the first axis.
    pub(crate) fn rows(&self) -> u64 {
        self.shape.first().map_or(0, |&rows| u64::try_from(rows).unwrap_or(u64::MAX))
    }

    /// Copies the data into memory of our own: aligned, and on huge pages where the system has them.
    ///
    /// # Errors
    /// `memory-limit`.
    pub(crate) fn read_into_memory(&mut self) -> Result<(), Error> {
        if let Bytes::Mapped { map, data } = &self.bytes {
            self.bytes = Bytes::Copied(AlignedBytes::copy_of(&map[data.clone()])?);
        }
        Ok(())
    }

    /// Bytes that were copied, because they were not aligned or because they were wanted in memory.
    pub(crate) fn copied_bytes(&self) -> usize {
        match &self.bytes {
            Bytes::Mapped { .. } => 0,
            Bytes::Copied(bytes) => bytes.len(),
        }
    }

    /// The array as `[rows, features]`; one axis is one feature. Fortran order becomes strides.
    ///
    /// # Errors
    /// `dtype` where the engine has no such element type.
    pub(crate) fn view(&self) -> Result<TensorView<'_>, Error> {
        let Scalar::Of(dtype) = self.scalar else {
            return Err(in_file(
                Error::new(ErrorCode::DType, format!("it holds {}", self.scalar.name()))
                    .help("values are f32, f64, f16 or bf16; ids are u8, u16, u32, i32 or i64"),
                &self.path,
            ));
        };
        let shape = [self.shape[0], self.shape.get(1).copied().unwrap_or(1)];
        let layout = match self.order {
            Order::C => Layout::row_major(shape),
            Order::Fortran => Layout::feature_major(shape),
        };
        TensorView::from_bytes(self.bytes.get(), dtype, layout).map_err(|error| in_file(error, &self.path))
    }

    /// Segments over a level: `rows` is its row count where it is known.
    ///
    /// # Errors
    /// `rank`, `dtype`, and what the constructors of [`Segments`] say.
    pub(crate) fn segments(&self, form: SegmentForm, rows: Option<u64>) -> Result<Segments, Error> {
        self.make_segments(form, rows).map_err(|error| in_file(error, &self.path))
    }

    fn make_segments(&self, form: SegmentForm, rows: Option<u64>) -> Result<Segments, Error> {
        let wanted_rank = if form == SegmentForm::Ranges { 2 } else { 1 };
        if self.shape.len() != wanted_rank || (wanted_rank == 2 && self.shape[1] != 2) {
            let wanted = if wanted_rank == 2 { "[n, 2]" } else { "[n]" };
            return Err(Error::new(ErrorCode::Rank, format!("it has shape {:?}, but {} have shape {wanted}", self.shape, form.name())));
        }
        let integers = self.integers()?;
        let need_rows = || {
            rows.ok_or_else(|| {
                Error::new(ErrorCode::SpecInvalid, format!("{} do not say how many rows there are", form.name()))
                    .help("bind the level below too, or give its row count in the spec")
            })
        };
        match form {
            SegmentForm::Offsets | SegmentForm::PartialOffsets => {
                let rows = rows.or_else(|| integers.last().and_then(|&last| u64::try_from(last).ok())).unwrap_or(0);
                if form == SegmentForm::Offsets {
                    Segments::from_offsets(&integers, rows)
                } else {
                    Segments::from_offsets_partial(&integers, rows)
                }
            }
            SegmentForm::Lengths => Segments::from_lengths(&integers),
            SegmentForm::Ids { count } => Segments::from_segment_ids(&integers, count),
            SegmentForm::Boundaries => Segments::from_boundaries(&integers, need_rows()?),
            SegmentForm::Ranges => {
                let half = integers.len() / 2;
                let pairs: Vec<(i64, i64)> = match self.order {
                    Order::C => integers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(),
                    Order::Fortran => integers[..half].iter().copied().zip(integers[half..].iter().copied()).collect(),
                };
                Segments::from_ranges(&pairs, need_rows()?)
            }
        }
    }

    /// The elements in memory order.
    fn integers(&self) -> Result<Vec<i64>, Error> {
        let bytes = self.bytes.get();
        let wide =
            |value: u64| i64::try_from(value).map_err(|_| Error::new(ErrorCode::Overflow, format!("{value} is larger than any row index")));
        Ok(match self.scalar {
            Scalar::I8 => bytemuck::cast_slice::<u8, i8>(bytes).iter().map(|&value| value.into()).collect(),
            Scalar::I16 => bytemuck::cast_slice::<u8, i16>(bytes).iter().map(|&value| value.into()).collect(),
            Scalar::U64 => bytemuck::cast_slice::<u8, u64>(bytes).iter().map(|&value| wide(value)).collect::<Result<_, _>>()?,
            Scalar::Of(DType::U8) => bytes.iter().map(|&value| value.into()).collect(),
            Scalar::Of(DType::U16) => bytemuck::cast_slice::<u8, u16>(bytes).iter().map(|&value| value.into()).collect(),
            Scalar::Of(DType::U32) => bytemuck::cast_slice::<u8, u32>(bytes).iter().map(|&value| value.into()).collect(),
            Scalar::Of(DType::I32) => bytemuck::cast_slice::<u8, i32>(bytes).iter().map(|&value| value.into()).collect(),
            Scalar::Of(DType::I64) => bytemuck::cast_slice::<u8, i64>(bytes).to_vec(),
            Scalar::Of(dtype @ (DType::F32 | DType::F64 | DType::F16 | DType::BF16)) => {
                return Err(Error::new(ErrorCode::DType, format!("it holds {dtype}, but segments are integers")));
            }
        })
    }
}

/// Maps a file, and reads what it says of one of its arrays.
fn read_header(path: &Path, tensor: Option<&str>, fallback: &str) -> Result<(Mmap, Header), Error> {
    let map = map_file(path)?;
    let header = if map.starts_with(npy::MAGIC) {
        if let Some(tensor) = tensor {
            return Err(file_error("use", path, format!("an .npy file holds one array, and none called `{tensor}`")));
        }
        npy::read_header(&map)
    } else if path.extension().is_some_and(|extension| extension == "npy") {
        Err(Error::new(ErrorCode::File, "it does not begin as an .npy file does"))
    } else {
        tensors::read_header(&map, tensor, fallback)
    };
    let header = header.map_err(|error| in_file(error, path))?;
    Ok((map, header))
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped { map, data } => &map[data.clone()],
            Bytes::Copied(bytes) => bytes.as_ref(),
        }
    }
}

/// Says which file an error is about.
fn in_file(error: Error, path: &Path) -> Error {
    let mut placed = Error::new(error.code(), format!("{}: {}", path.display(), error.message()));
    if let Some(help) = error.help_text() {
        placed = placed.help(help);
    }
    if let Some(index) = error.index() {
        placed = placed.at_index(index);
    }
    match error.level() {
        Some(level) => placed.at_level(level),
        None => placed,
    }
}

fn map_file(path: &Path) -> Result<Mmap, Error> {
    let file = File::open(path).map_err(|cause| file_error("open", path, cause))?;
    let metadata = file.metadata().map_err(|cause| file_error("open", path, cause))?;
    if !metadata.is_file() {
        return Err(file_error("map", path, "it is not a regular file"));
    }
    if metadata.len() == 0 {
        return Err(file_error("use", path, "it is empty"));
    }
    // SAFETY: the map is only read. Another process that cut the file short meanwhile would end this one with a signal, and one that
    // rewrote it would change the data; the module's documentation asks users not to, as every program that maps files must.
    unsafe { Mmap::map(&file) }.map_err(|cause| file_error("map", path, cause))
}

#[cfg(test)]
mod tests;

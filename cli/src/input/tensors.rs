//! One tensor of a `.safetensors` file.

use super::{Header, Order, Scalar};
use levelfold::error::suggestion;
use levelfold::{DType, Error, ErrorCode};
use safetensors::{Dtype, SafeTensors};

/// Whether there is a tensor of this name.
pub(super) fn holds(file: &[u8], tensor: &str) -> Result<bool, Error> {
    Ok(parse(file)?.names().contains(&tensor))
}

fn parse(file: &[u8]) -> Result<SafeTensors<'_>, Error> {
    SafeTensors::deserialize(file)
        .map_err(|cause| Error::new(ErrorCode::File, format!("it is neither an .npy nor a valid .safetensors file: {cause}")))
}

/// Finds a tensor: the named one, else the only one, else the one called `fallback`.
pub(super) fn read_header(file: &[u8], tensor: Option<&str>, fallback: &str) -> Result<Header, Error> {
    let tensors = parse(file)?;
    let mut names: Vec<&str> = tensors.names();
    names.sort_unstable();
    let wanted = match (tensor, names.as_slice()) {
        (Some(tensor), _) => tensor,
        (None, [only]) => only,
        (None, names) if names.contains(&fallback) => fallback,
        (None, names) => {
            return Err(Error::new(ErrorCode::UnknownName, format!("it holds {} tensors, and none is called `{fallback}`", names.len()))
                .help(format!("say which one with FILE:TENSOR; it has {}", shorten(names))));
        }
    };
    let Ok(view) = tensors.tensor(wanted) else {
        return Err(Error::new(ErrorCode::UnknownName, format!("it holds no tensor `{wanted}`")).help(suggestion(wanted, &names)));
    };
    let scalar = scalar(view.dtype())?;
    let data = view.data();
    let start = data.as_ptr().addr() - file.as_ptr().addr();
    let shape = view.shape().iter().map(|&axis| u64::try_from(axis).unwrap_or(u64::MAX)).collect();
    Ok(Header { scalar, shape, order: Order::C, data: start..start + data.len() })
}

fn scalar(dtype: Dtype) -> Result<Scalar, Error> {
    match dtype {
        Dtype::F32 => Ok(Scalar::Of(DType::F32)),
        Dtype::F64 => Ok(Scalar::Of(DType::F64)),
        Dtype::F16 => Ok(Scalar::Of(DType::F16)),
        Dtype::BF16 => Ok(Scalar::Of(DType::BF16)),
        Dtype::U8 => Ok(Scalar::Of(DType::U8)),
        Dtype::U16 => Ok(Scalar::Of(DType::U16)),
        Dtype::U32 => Ok(Scalar::Of(DType::U32)),
        Dtype::I32 => Ok(Scalar::Of(DType::I32)),
        Dtype::I64 => Ok(Scalar::Of(DType::I64)),
        Dtype::I8 => Ok(Scalar::I8),
        Dtype::I16 => Ok(Scalar::I16),
        Dtype::U64 => Ok(Scalar::U64),
        other => Err(Error::new(ErrorCode::DType, format!("its elements are {other:?}"))
            .help("values are f32, f64, f16 or bf16; ids are u8, u16, u32, i32 or i64")),
    }
}

fn shorten(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let more = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}

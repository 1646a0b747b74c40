//! Elements as bits and as numbers. Every value of a float type is a number of f64, so f64 is what values are held in between.

use half::{bf16, f16};
use levelfold::dtype::{DType, IdElement};
use levelfold::numerics::Value;
use levelfold::tensor::{TensorView, TensorViewMut};
use levelfold::{Error, ErrorCode, Result};

/// The bits of one element, in the low end.
pub(crate) type Bits = u64;

/// The bits of element (row, column) of a view.
pub(crate) fn load(view: &TensorView<'_>, row: usize, column: usize) -> Bits {
    match view.dtype() {
        DType::F32 => u64::from(view.get::<f32>(row, column).to_bits()),
        DType::F64 => view.get::<f64>(row, column).to_bits(),
        DType::F16 => u64::from(view.get::<f16>(row, column).to_bits()),
        DType::BF16 => u64::from(view.get::<bf16>(row, column).to_bits()),
        DType::U8 => u64::from(view.get::<u8>(row, column)),
        DType::U16 => u64::from(view.get::<u16>(row, column)),
        DType::U32 => u64::from(view.get::<u32>(row, column)),
        DType::I32 => u64::from(view.get::<i32>(row, column).cast_unsigned()),
        DType::I64 => view.get::<i64>(row, column).cast_unsigned(),
    }
}

/// Puts bits at element (row, column) of a view.
pub(crate) fn store(view: &mut TensorViewMut<'_>, row: usize, column: usize, bits: Bits) {
    let at = view.layout().position(row, column);
    match view.dtype() {
        DType::F32 => put(view, at, f32::from_bits(low(bits))),
        DType::F64 => put(view, at, f64::from_bits(bits)),
        DType::F16 => put(view, at, f16::from_bits(low(bits))),
        DType::BF16 => put(view, at, bf16::from_bits(low(bits))),
        DType::U8 => put::<u8>(view, at, low(bits)),
        DType::U16 => put::<u16>(view, at, low(bits)),
        DType::U32 => put::<u32>(view, at, low(bits)),
        DType::I32 => put(view, at, low::<u32>(bits).cast_signed()),
        DType::I64 => put(view, at, bits.cast_signed()),
    }
}

fn put<T: levelfold::dtype::Element>(view: &mut TensorViewMut<'_>, at: usize, value: T) {
    view.elements_mut::<T>().expect("the view's own element type")[at] = value;
}

/// The bits of an element from its bytes, as the arena holds them.
pub(crate) fn from_bytes(bytes: &[u8]) -> Bits {
    match *bytes {
        [byte] => u64::from(byte),
        [a, b] => u64::from(u16::from_ne_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_ne_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("elements have 1, 2, 4 or 8 bytes"),
    }
}

/// Puts the bits of an element into its bytes.
pub(crate) fn to_bytes(bits: Bits, bytes: &mut [u8]) {
    match bytes.len() {
        1 => bytes.copy_from_slice(&low::<u8>(bits).to_ne_bytes()),
        2 => bytes.copy_from_slice(&low::<u16>(bits).to_ne_bytes()),
        4 => bytes.copy_from_slice(&low::<u32>(bits).to_ne_bytes()),
        8 => bytes.copy_from_slice(&bits.to_ne_bytes()),
        _ => unreachable!("elements have 1, 2, 4 or 8 bytes"),
    }
}

/// The number that the bits of a value stand for.
pub(crate) fn number(dtype: DType, bits: Bits) -> Result<f64> {
    Ok(match dtype {
        DType::F32 => f32::from_bits(low(bits)).to_f64(),
        DType::F64 => f64::from_bits(bits),
        DType::F16 => f16::from_bits(low(bits)).to_f64(),
        DType::BF16 => bf16::from_bits(low(bits)).to_f64(),
        // A position: far below 2^53.
        DType::I64 => bits.cast_signed() as f64,
        DType::U8 | DType::U16 | DType::U32 | DType::I32 => {
            return Err(Error::new(ErrorCode::DType, format!("{dtype} holds ids, not values")));
        }
    })
}

/// The bits of the value nearest to a number: rounded once, NaN canonical. The trait is named: `half` has functions of these names that
/// round twice.
pub(crate) fn nearest(dtype: DType, number: f64) -> Result<Bits> {
    Ok(match dtype {
        DType::F32 => u64::from(<f32 as Value>::from_f64(number).to_bits()),
        DType::F64 => <f64 as Value>::from_f64(number).to_bits(),
        DType::F16 => u64::from(<f16 as Value>::from_f64(number).to_bits()),
        DType::BF16 => u64::from(<bf16 as Value>::from_f64(number).to_bits()),
        // A position, or what an empty segment gives: a whole number.
        DType::I64 => (number as i64).cast_unsigned(),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 => {
            return Err(Error::new(ErrorCode::DType, format!("{dtype} holds ids, not values")));
        }
    })
}

/// The row that an id looks up, or `None` where it is negative or does not fit.
pub(crate) fn row(dtype: DType, bits: Bits) -> Result<Option<usize>> {
    Ok(match dtype {
        DType::U8 => low::<u8>(bits).row(),
        DType::U16 => low::<u16>(bits).row(),
        DType::U32 => low::<u32>(bits).row(),
        DType::I32 => low::<u32>(bits).cast_signed().row(),
        DType::I64 => bits.cast_signed().row(),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {
            return Err(Error::new(ErrorCode::DType, format!("{dtype} holds values, not ids")));
        }
    })
}

/// Bits of an element of this width; nothing was ever put above them.
fn low<T: TryFrom<u64>>(bits: Bits) -> T {
    T::try_from(bits).unwrap_or_else(|_| unreachable!("an element's bits fit its width"))
}

//! The scalar arithmetic of encoders: one formula for each operation, in one order. `docs/numerics.md` says them in words.
//!
//! A is the accumulator of the rows that an operation takes: f32, or f64 for f64 rows. Each operation here takes and gives numbers of A (or
//! f64, where it says so); its result is then rounded to the type of the rows, and a NaN becomes the canonical one.

use super::elementary::{Elementary, cos, exp, gelu, gelu_tanh, log, sigmoid, silu, sin, sqrt, tanh};
use super::{Accumulator, Value, count_to_f64};
use crate::dtype::DType;
use crate::encoder::{Activation, ElementOp, dtype_after};
use half::{bf16, f16};

/// An activation of one number: relu is maximum(x, +0), the others are those of [`elementary`](super::elementary).
#[inline(always)]
pub fn activate<A: Elementary>(activation: Activation, x: A) -> A {
    match activation {
        Activation::Relu => Accumulator::maximum(x, A::of_f64(0.0)),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Silu => silu(x),
        Activation::Tanh => tanh(x),
        Activation::Sigmoid => sigmoid(x),
    }
}

/// What operations make of one number of rows of `dtype`: each result is rounded to the type of its rows.
pub fn operated(ops: &[ElementOp], mut dtype: DType, mut x: f64) -> f64 {
    for op in ops {
        let made = match (*op, dtype) {
            (ElementOp::Activate(activation), DType::F64) => activate(activation, x),
            (ElementOp::Activate(activation), _) => activate(activation, f32::of_f64(x)).as_f64(),
            (ElementOp::Scale(by), DType::F64) => x.mul(by.0),
            (ElementOp::Scale(by), _) => f32::of_f64(x).mul(f32::of_f64(by.0)).as_f64(),
            (ElementOp::Cast(_), _) => x,
        };
        dtype = dtype_after(&[*op], dtype);
        x = rounded(dtype, made);
    }
    x
}

/// The number of a type of values nearest to another, NaN canonical. No rows have values of the other types.
pub fn rounded(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => Value::to_f64(<f32 as Value>::from_f64(x)),
        DType::F64 => <f64 as Value>::from_f64(x),
        DType::F16 => Value::to_f64(<f16 as Value>::from_f64(x)),
        DType::BF16 => Value::to_f64(<bf16 as Value>::from_f64(x)),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => x,
    }
}

/// a − b.
#[inline(always)]
pub fn difference<A: Elementary>(a: A, b: A) -> A {
    // The product is exact.
    a.add(A::of_f64(-1.0).mul(b))
}

/// The angle, in f64, that pair `pair` of `width` columns has at a position: position · exp(−((2 · pair) ÷ width) · ln(base)).
///
/// Source: A. Vaswani et al., *Attention Is All You Need*, 2017, section 3.5; for rotation J. Su et al., *RoFormer*, 2021.
pub fn angle(position: u64, pair: u64, width: u64, base: f64) -> f64 {
    count_to_f64(position) * frequency(pair, width, base)
}

/// What a pair's angle grows by from one position to the next: exp(−((2 · pair) ÷ width) · ln(base)), in f64.
pub fn frequency(pair: u64, width: u64, base: f64) -> f64 {
    let part = count_to_f64(2 * pair) / count_to_f64(width);
    exp(-(part * log(base)))
}

/// The sine (even columns) or cosine (odd ones) that a position adds to a column of `features`, in f64.
pub fn sinusoid(position: u64, column: u64, features: u64, base: f64) -> f64 {
    let angle = angle(position, column / 2, features, base);
    if column.is_multiple_of(2) { sin(angle) } else { cos(angle) }
}

/// The cosine and the sine by which a pair of columns is rotated at a position, each rounded to A.
pub fn rotation<A: Elementary>(position: u64, pair: u64, width: u64, base: f64) -> (A, A) {
    let angle = angle(position, pair, width, base);
    (A::of_f64(cos(angle)), A::of_f64(sin(angle)))
}

/// A rotated pair: (x · cos − y · sin, x · sin + y · cos), each product rounded.
#[inline(always)]
pub fn rotate<A: Elementary>((x, y): (A, A), (cos, sin): (A, A)) -> (A, A) {
    (difference(x.mul(cos), y.mul(sin)), x.mul(sin).add(y.mul(cos)))
}

/// 1 ÷ √(mean square + eps), in f64, rounded to A: what norms multiply by.
#[inline(always)]
pub fn inverse_deviation<A: Elementary>(mean_square: f64, eps: f64) -> A {
    A::of_f64(1.0 / sqrt(mean_square + eps))
}

/// What attention scores of heads of this many features are multiplied by: 1 ÷ √features, rounded to A.
pub fn score_scale<A: Elementary>(features: u64) -> A {
    A::of_f64(1.0 / sqrt(count_to_f64(features)))
}

/// What is taken off scores before their exponential: their maximum, but 0 where that is −∞, so that nothing becomes ∞ − ∞.
#[inline(always)]
pub fn shift<A: Elementary>(maximum: A) -> A {
    if maximum == A::of_f64(f64::NEG_INFINITY) { A::of_f64(0.0) } else { maximum }
}

/// How two neighbouring groups of key blocks combine, the older first: their maximum, and what each is multiplied by. In f64.
///
/// The sums of exponentials, and the weighted values, of both are multiplied (rounded) and added.
///
/// Source: M. Milakov and N. Gimelshein, *Online normalizer calculation for softmax*, 2018.
#[inline(always)]
pub fn combine_softmax(older: f64, newer: f64) -> (f64, f64, f64) {
    let maximum = Accumulator::maximum(older, newer);
    let shift = shift(maximum);
    (maximum, exp(older - shift), exp(newer - shift))
}

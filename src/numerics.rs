//! The arithmetic that every backend follows: what makes results equal bit for bit.
//!
//! A segment of n rows is folded, feature by feature, like this, whatever the backend, thread count, tiling or fusion:
//!
//! 1. The rows are cut into blocks of [`BLOCK_ROWS`], counted from the segment's own start; the last may be shorter.
//! 2. Inside a block: left to right in the accumulator's type ([`DType::accumulator`]), from the reducer's
//!    [`identity`](ReduceOp::identity): `acc = op(acc, x)`, or `acc = op(acc, w · x)` with the product rounded first. No FMA.
//! 3. The block results, widened to f64, are paired with their neighbours level by level; an odd last one moves up untouched.
//!    [`PairTree`] does the same with a binary counter, so any aligned group of 2^k blocks, a ragged last one included, may be
//!    replaced by its value.
//! 4. [`finish`](finish_block): a mean divides by n (or by Σw, which is folded the same way): in the accumulator's type where the
//!    segment is one block, else in f64. Then one correctly rounded conversion to the level's type; a NaN becomes the canonical one.
//!
//! The reference backend takes the scalar operations from here and does the tree its own way (recursively), so that one mistake
//! cannot hide in both.
//!
//! [`sum_error_bound`] is the bound that follows. Source of the analysis: N. Higham, *Accuracy and Stability of Numerical
//! Algorithms*, 2nd ed., chapter 4.

use crate::dtype::{DType, Element};
use crate::reducer::Reducer;
use half::{bf16, f16};

mod bound;
pub mod elementary;
pub mod encoders;
mod monoid;
mod packed;
mod quantile;
#[cfg(test)]
mod tests;

pub use bound::{error_bound, exponent_error_bound, mean_shift, sum_error_bound, unit_roundoff, variance_error_bound};
pub use monoid::{MAX_STATE, Monoid, MonoidVisitor, Row, Start, State, Weighing};
pub use packed::Packed;
pub use quantile::{between_rows, quantile_of, quantile_place};

/// Rows per block: inside a block, plain left-to-right accumulation; above blocks, pairs in f64.
pub const BLOCK_ROWS: usize = 32;

/// [`BLOCK_ROWS`] as the public 64-bit integer.
pub const BLOCK_ROWS_U64: u64 = 32;

/// The type that the rows of a block are accumulated in: `f32` or `f64`.
pub trait Accumulator: Element + PartialOrd + Default {
    /// The number nearest to an f64.
    fn of_f64(value: f64) -> Self;
    /// The same number in f64.
    fn as_f64(self) -> f64;
    /// a + b.
    fn add(self, other: Self) -> Self;
    /// a − b.
    fn sub(self, other: Self) -> Self;
    /// a · b.
    fn mul(self, other: Self) -> Self;
    /// a ÷ b.
    fn div(self, other: Self) -> Self;
    /// |a|.
    fn abs(self) -> Self;
    /// √a, correctly rounded.
    fn sqrt(self) -> Self;
    /// IEEE 754-2019 maximum: a NaN wins, −0 < +0.
    fn maximum(self, other: Self) -> Self;
    /// IEEE 754-2019 minimum: a NaN wins, −0 < +0.
    fn minimum(self, other: Self) -> Self;
}

macro_rules! accumulator {
    ($float:ident, $from:expr, $to:expr) => {
        impl Accumulator for $float {
            #[inline(always)]
            fn of_f64(value: f64) -> Self {
                $from(value)
            }

            #[inline(always)]
            fn as_f64(self) -> f64 {
                $to(self)
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self + other
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self - other
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self * other
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self / other
            }

            #[inline(always)]
            fn abs(self) -> Self {
                $float::abs(self)
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                $float::sqrt(self)
            }

            #[inline(always)]
            #[allow(clippy::eq_op, reason = "only a NaN differs from itself, and this form becomes vector code")]
            fn maximum(self, other: Self) -> Self {
                // Selects only, so that a loop over features becomes vector code.
                let larger = if self > other { self } else { other };
                // Equal numbers have equal bits, but for the two zeros, of which the one without a sign is the larger.
                let larger = if self == other { $float::from_bits(self.to_bits() & other.to_bits()) } else { larger };
                if self != self { self } else { larger }
            }

            #[inline(always)]
            #[allow(clippy::eq_op, reason = "as above")]
            fn minimum(self, other: Self) -> Self {
                let smaller = if self < other { self } else { other };
                let smaller = if self == other { $float::from_bits(self.to_bits() | other.to_bits()) } else { smaller };
                if self != self { self } else { smaller }
            }
        }
    };
}

accumulator!(f32, narrow_to_f32, f64::from);
accumulator!(f64, std::convert::identity, std::convert::identity);

/// The f32 nearest to an f64, ties to even.
#[inline(always)]
pub(crate) fn narrow_to_f32(value: f64) -> f32 {
    value as f32
}

/// The type of a level's values: what the accumulator is loaded from and rounded to.
pub trait Value: Element {
    /// The type that this one is accumulated in.
    type Acc: elementary::Elementary;
    /// The canonical NaN: sign clear, quiet, no payload.
    const NAN: Self;
    /// The same number as an accumulator.
    fn widen(self) -> Self::Acc;
    /// The number nearest to an f32, ties to even, NaN canonical.
    fn from_f32(value: f32) -> Self;
    /// The number nearest to an f64, ties to even, NaN canonical: rounded once.
    fn from_f64(value: f64) -> Self;
    /// The same number in f64.
    fn to_f64(self) -> f64;
    /// The number nearest to an accumulator, of this type or another.
    #[inline(always)]
    fn from_acc<A: Accumulator>(value: A) -> Self {
        match A::DTYPE {
            DType::F64 => Self::from_f64(value.as_f64()),
            // The accumulator is f32: its f64 form is exact, and so is the way back.
            _ => Self::from_f32(narrow_to_f32(value.as_f64())),
        }
    }
}

impl Value for f32 {
    type Acc = f32;
    const NAN: Self = f32::from_bits(0x7fc0_0000);

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        if value.is_nan() { Self::NAN } else { value }
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        if value.is_nan() { Self::NAN } else { narrow_to_f32(value) }
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Value for f64 {
    type Acc = f64;
    const NAN: Self = f64::from_bits(0x7ff8_0000_0000_0000);

    #[inline(always)]
    fn widen(self) -> f64 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        Self::from_f64(f64::from(value))
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        if value.is_nan() { Self::NAN } else { value }
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

impl Value for f16 {
    type Acc = f32;
    const NAN: Self = f16::from_bits(0x7e00);

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        if value.is_nan() { Self::NAN } else { f16::from_f32(value) }
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        if value.is_nan() { Self::NAN } else { f16::from_bits(round_to_16_bits(value, 5, 10)) }
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }
}

impl Value for bf16 {
    type Acc = f32;
    const NAN: Self = bf16::from_bits(0x7fc0);

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        if value.is_nan() { Self::NAN } else { bf16::from_f32(value) }
    }

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        if value.is_nan() { Self::NAN } else { bf16::from_bits(round_to_16_bits(value, 8, 7)) }
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }
}

/// Rounds a number (not NaN) to a 16-bit float of the given exponent and fraction widths: to nearest, ties to even, once.
///
/// Going through f32 would round twice, and so would `half`'s own conversion from f64 for bf16.
fn round_to_16_bits(value: f64, exponent_bits: u32, fraction_bits: u32) -> u16 {
    let bits = value.to_bits();
    let sign = u16::from(bits >> 63 == 1) << 15;
    let bias = (1i64 << (exponent_bits - 1)) - 1;
    let infinity = ((1u64 << exponent_bits) - 1) << fraction_bits;
    let exponent = i64::try_from((bits >> 52) & 0x7ff).unwrap_or(0) - 1023;
    let fraction = bits & ((1 << 52) - 1);
    if exponent > bias {
        return sign | low_16(infinity);
    }
    // With the implicit one; below the smallest normal exponent the fraction is shifted further: subnormal.
    let (significand, target_exponent) = if exponent == -1023 { (0, 0) } else { (fraction | 1 << 52, exponent + bias) };
    let extra = u32::try_from((1 - target_exponent).clamp(0, 63)).unwrap_or(63);
    let shift = 52 - fraction_bits + extra;
    if shift > 60 {
        return sign;
    }
    let kept = significand >> shift;
    let rest = significand & ((1 << shift) - 1);
    let half_way = 1u64 << (shift - 1);
    let rounded = kept + u64::from(rest > half_way || (rest == half_way && kept & 1 == 1));
    // A normal number's implicit one carries into the exponent field by plain addition, and so does rounding up.
    let field = if target_exponent > 1 { u64::try_from(target_exponent - 1).unwrap_or(0) << fraction_bits } else { 0 };
    sign | low_16((field + rounded).min(infinity))
}

fn low_16(bits: u64) -> u16 {
    u16::try_from(bits & 0xffff).unwrap_or(u16::MAX)
}

/// The operation of a reducer on scalars, as the type parameter of a kernel.
pub trait ReduceOp: Copy + Send + Sync + 'static {
    /// What an accumulator starts from: −0 for sums, 1 for products, ∓∞ for max and min. Equals starting with the first row.
    fn identity<A: Accumulator>() -> A;
    /// One more row, in a block.
    fn push<A: Accumulator>(acc: A, x: A) -> A;
    /// Two neighbouring groups of blocks, the older one first.
    fn combine(older: f64, newer: f64) -> f64;
}

/// `a + b`: sum and mean.
#[derive(Clone, Copy, Debug)]
pub struct AddOp;
/// `a · b`: prod.
#[derive(Clone, Copy, Debug)]
pub struct MulOp;
/// IEEE 754-2019 maximum.
#[derive(Clone, Copy, Debug)]
pub struct MaxOp;
/// IEEE 754-2019 minimum.
#[derive(Clone, Copy, Debug)]
pub struct MinOp;

macro_rules! reduce_op {
    ($op:ident, $identity:expr, $method:ident) => {
        impl ReduceOp for $op {
            #[inline(always)]
            fn identity<A: Accumulator>() -> A {
                A::of_f64($identity)
            }

            #[inline(always)]
            fn push<A: Accumulator>(acc: A, x: A) -> A {
                Accumulator::$method(acc, x)
            }

            #[inline(always)]
            fn combine(older: f64, newer: f64) -> f64 {
                Accumulator::$method(older, newer)
            }
        }
    };
}

reduce_op!(AddOp, -0.0, add);
reduce_op!(MulOp, 1.0, mul);
reduce_op!(MaxOp, f64::NEG_INFINITY, maximum);
reduce_op!(MinOp, f64::INFINITY, minimum);

/// The result of a plain reducer over a segment of one block (n ≤ [`BLOCK_ROWS`]), in the accumulator's type. `weight` is the block's Σw where weighted.
#[inline(always)]
pub fn finish_block<A: Accumulator>(reducer: &Reducer, acc: A, n: u64, weight: Option<A>) -> A {
    // n ≤ 32 is exact in any accumulator.
    if *reducer == Reducer::Mean { acc.div(weight.unwrap_or_else(|| A::of_f64(count_to_f64(n)))) } else { acc }
}

/// The result of a plain reducer over a segment of several blocks, in f64. `weight` is the tree's Σw where weighted.
#[inline(always)]
pub fn finish_tree(reducer: &Reducer, acc: f64, n: u64, weight: Option<f64>) -> f64 {
    if *reducer == Reducer::Mean { acc / weight.unwrap_or_else(|| count_to_f64(n)) } else { acc }
}

/// A count of rows in f64: exact up to 2^53, to nearest above.
#[inline(always)]
pub fn count_to_f64(n: u64) -> f64 {
    n as f64
}

/// Pairs the block results of one segment, as they come: a binary counter over rows of `width` f64 values.
///
/// Pushing a group of 2^k blocks whose index is a multiple of 2^k gives the same bits as pushing its blocks one by one.
/// Allocates when it first grows past a depth, and never again.
#[derive(Clone, Debug, Default)]
pub struct PairTree {
    width: usize,
    /// How many blocks each entry of the stack covers; powers of two that decrease, but for a ragged last one.
    blocks: Vec<u64>,
    values: Vec<f64>,
}

impl PairTree {
    /// An empty tree for rows of `width` values, with room for `depth` entries: 40 are enough for 2^39 blocks.
    pub fn with_capacity(width: usize, depth: usize) -> Self {
        PairTree { width, blocks: Vec::with_capacity(depth), values: Vec::with_capacity(width * depth) }
    }

    /// Forgets what was pushed.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.values.clear();
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Pushes the value of `blocks` blocks (a power of two), then combines neighbours of equal size.
    pub fn push<R: ReduceOp>(&mut self, blocks: u64, value: impl IntoIterator<Item = f64>) {
        self.blocks.push(blocks);
        self.values.extend(value);
        debug_assert_eq!(self.values.len(), self.blocks.len() * self.width, "a row has `width` values");
        while let [.., older, newer] = self.blocks[..]
            && older == newer
        {
            self.combine_top::<R>();
        }
    }

    /// The value of everything that was pushed: what is left is combined from the newest to the oldest.
    pub fn fold<R: ReduceOp>(&mut self) -> &[f64] {
        while self.blocks.len() > 1 {
            self.combine_top::<R>();
        }
        &self.values
    }

    fn combine_top<R: ReduceOp>(&mut self) {
        let newest = self.values.len() - self.width;
        let (rest, newer) = self.values.split_at_mut(newest);
        let start = newest - self.width;
        for (older, newer) in rest[start..].iter_mut().zip(newer.iter()) {
            *older = R::combine(*older, *newer);
        }
        self.values.truncate(newest);
        let blocks = self.blocks.pop().unwrap_or(0);
        if let Some(top) = self.blocks.last_mut() {
            *top += blocks;
        }
    }
}

//! Row-wise operations on a tile of rows in the accumulator's type, and the ways into the tile and out of it.
//!
//! Bodies are plain loops over dense numbers, inlined into functions that are compiled for an instruction set; columns behind the last one, up
//! to the stride of the tile, are computed along and never read.

use crate::memory::Memory;
use crate::vector::Lanes;
use levelfold::encoder::Activation;
use levelfold::numerics::elementary::Elementary;
use levelfold::numerics::encoders::{activate, inverse_deviation};
use levelfold::numerics::{Accumulator, BLOCK_ROWS, Value, count_to_f64};

/// Rows of a view, widened.
///
/// # Safety
/// The view is of type `T` and has these rows and columns; `to` has room for `rows` rows of `stride` numbers.
#[inline(always)]
pub(crate) unsafe fn load<T: Value, V: Lanes<T>>(from: &Memory, first: usize, rows: usize, columns: usize, to: *mut V::Acc, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for row in 0..rows {
            let to = to.add(row * stride);
            if from.is_dense() {
                let from = from.row(first + row).cast::<T>();
                let mut column = 0;
                while column + V::LANES <= columns {
                    V::widen(from.add(column)).store(to.add(column));
                    column += V::LANES;
                }
                if column < columns {
                    V::widen_part(from.add(column), columns - column).store_part(to.add(column), columns - column);
                }
            } else {
                for column in 0..columns {
                    to.add(column).write(from.element(first + row, column).cast::<T>().read().widen());
                }
            }
        }
    }
}

/// Rows of a tile, which are numbers of `T`, to a view.
///
/// # Safety
/// As for `load`; nobody else writes these rows.
#[inline(always)]
pub(crate) unsafe fn store<T: Value, V: Lanes<T>>(from: *const V::Acc, stride: usize, to: &Memory, first: usize, rows: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for row in 0..rows {
            let from = from.add(row * stride);
            if to.is_dense() {
                let to_row = to.row(first + row).cast::<T>();
                let mut column = 0;
                while column + V::LANES <= to.features {
                    V::load(from.add(column)).round(to_row.add(column));
                    column += V::LANES;
                }
                if column < to.features {
                    let count = to.features - column;
                    V::load_part(from.add(column), count).round_part(to_row.add(column), count);
                }
            } else {
                for column in 0..to.features {
                    to.element(first + row, column).cast::<T>().write(T::from_acc(*from.add(column)));
                }
            }
        }
    }
}

/// Makes NaNs canonical, and rounds to `T` where that is narrower than its accumulator. `count` is a multiple of the lanes.
///
/// # Safety
/// `tile` has `count` numbers.
#[inline(always)]
pub(crate) unsafe fn round<T: Value, V: Lanes<T>>(tile: *mut V::Acc, count: usize) {
    let mut narrow = [T::NAN; 16];
    let mut at = 0;
    // SAFETY: the caller's promise; no vector has more than 16 lanes.
    unsafe {
        while at < count {
            let x = V::load(tile.add(at)).canonical();
            if T::DTYPE == <V::Acc as levelfold::dtype::Element>::DTYPE {
                x.store(tile.add(at));
            } else {
                x.round(narrow.as_mut_ptr());
                V::widen(narrow.as_ptr()).store(tile.add(at));
            }
            at += V::LANES;
        }
    }
}

/// An activation of each number.
#[inline(always)]
pub(crate) fn activate_all<A: Elementary>(activation: Activation, tile: &mut [A]) {
    // One loop an activation, so that each becomes vector code.
    match activation {
        Activation::Relu => tile.iter_mut().for_each(|x| *x = activate(Activation::Relu, *x)),
        Activation::Gelu => tile.iter_mut().for_each(|x| *x = activate(Activation::Gelu, *x)),
        Activation::GeluTanh => tile.iter_mut().for_each(|x| *x = activate(Activation::GeluTanh, *x)),
        Activation::Silu => tile.iter_mut().for_each(|x| *x = activate(Activation::Silu, *x)),
        Activation::Tanh => tile.iter_mut().for_each(|x| *x = activate(Activation::Tanh, *x)),
        Activation::Sigmoid => tile.iter_mut().for_each(|x| *x = activate(Activation::Sigmoid, *x)),
    }
}

/// x · a.
#[inline(always)]
pub(crate) fn scale<A: Elementary>(by: f64, tile: &mut [A]) {
    let by = A::of_f64(by);
    tile.iter_mut().for_each(|x| *x = x.mul(by));
}

/// x + y.
#[inline(always)]
pub(crate) fn add<A: Elementary>(tile: &mut [A], other: &[A]) {
    for (x, y) in tile.iter_mut().zip(other) {
        *x = x.add(*y);
    }
}

/// A layer norm (with μ taken off) or an RMS norm.
pub(crate) struct Norm {
    pub(crate) weight: *const u8,
    /// Or null.
    pub(crate) bias: *const u8,
    pub(crate) eps: f64,
    pub(crate) centered: bool,
}

/// Rows whose sums run side by side.
const TOGETHER: usize = 8;

/// Norms of each row of a tile.
///
/// # Safety
/// Weight and bias have `stride` numbers; `sums` has room for as many blocks of columns as a row has.
#[inline(always)]
pub(crate) unsafe fn norm<A: Elementary>(tile: &mut [A], stride: usize, features: usize, norm: &Norm, sums: &mut [[A; TOGETHER]]) {
    if features == 0 {
        return;
    }
    // SAFETY: the caller's promise.
    let (weight, bias) = unsafe {
        let weight = std::slice::from_raw_parts(norm.weight.cast::<A>(), stride);
        (weight, (!norm.bias.is_null()).then(|| std::slice::from_raw_parts(norm.bias.cast::<A>(), stride)))
    };
    for rows in tile.chunks_mut(stride * TOGETHER) {
        let count = rows.len() / stride;
        if norm.centered {
            let means = means(rows, stride, features, sums, |x| x);
            for (row, mean) in rows.chunks_exact_mut(stride).zip(means) {
                let mean = A::of_f64(mean);
                row.iter_mut().for_each(|x| *x = x.add(A::of_f64(-1.0).mul(mean)));
            }
        }
        let squares = means(rows, stride, features, sums, |x| x.mul(x));
        for (row, square) in rows.chunks_exact_mut(stride).zip(&squares[..count]) {
            let inverse = inverse_deviation::<A>(*square, norm.eps);
            match bias {
                Some(bias) => {
                    for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
                        *x = x.mul(inverse).mul(*w).add(*b);
                    }
                }
                None => {
                    for (x, w) in row.iter_mut().zip(weight) {
                        *x = x.mul(inverse).mul(*w);
                    }
                }
            }
        }
    }
}

/// The mean of each row, folded as a segment of its columns: blocks from left to right, pairs in f64.
#[inline(always)]
fn means<A: Elementary>(rows: &[A], stride: usize, features: usize, sums: &mut [[A; TOGETHER]], of: impl Fn(A) -> A) -> [f64; TOGETHER] {
    let count = rows.len() / stride;
    let blocks = features.div_ceil(BLOCK_ROWS);
    for (block, sum) in sums[..blocks].iter_mut().enumerate() {
        *sum = [A::of_f64(-0.0); TOGETHER];
        let columns = block * BLOCK_ROWS..features.min((block + 1) * BLOCK_ROWS);
        if count == TOGETHER {
            // Chains of several rows side by side hide each other's latency.
            for column in columns {
                for (row, sum) in sum.iter_mut().enumerate() {
                    *sum = sum.add(of(rows[row * stride + column]));
                }
            }
        } else {
            for (row, sum) in sum.iter_mut().enumerate().take(count) {
                for x in &rows[row * stride..][columns.clone()] {
                    *sum = sum.add(of(*x));
                }
            }
        }
    }
    let n = count_to_f64(features as u64);
    let mut means = [0.0; TOGETHER];
    if blocks == 1 {
        for (mean, sum) in means.iter_mut().zip(sums[0]) {
            *mean = sum.div(A::of_f64(n)).as_f64();
        }
        return means;
    }
    for (row, mean) in means.iter_mut().enumerate().take(count) {
        // Neighbours in pairs, level by level, an odd last one moving up: in the lower half of what is left.
        let mut pairs = [0.0; PAIRS];
        let mut tree = Counter { pairs: &mut pairs, blocks: 0 };
        for sum in &sums[..blocks] {
            tree.push(sum[row].as_f64());
        }
        *mean = tree.fold() / n;
    }
    means
}

/// Enough for 2^47 blocks.
const PAIRS: usize = 48;

/// The binary counter over single sums.
struct Counter<'a> {
    pairs: &'a mut [f64; PAIRS],
    blocks: u64,
}

impl Counter<'_> {
    #[inline(always)]
    fn push(&mut self, value: f64) {
        let mut top = self.blocks.count_ones() as usize;
        self.pairs[top] = value;
        self.blocks += 1;
        for _ in 0..self.blocks.trailing_zeros() {
            self.pairs[top - 1] += self.pairs[top];
            top -= 1;
        }
    }

    #[inline(always)]
    fn fold(&mut self) -> f64 {
        let mut top = self.blocks.count_ones() as usize - 1;
        while top > 0 {
            self.pairs[top - 1] += self.pairs[top];
            top -= 1;
        }
        self.pairs[0]
    }
}

/// Room for the sums of all blocks of a row of `features`, in numbers.
pub(crate) fn norm_sums(features: usize) -> usize {
    features.div_ceil(BLOCK_ROWS) * TOGETHER
}

/// Turns the pairs of a row: cosines and then sines of one head's pairs.
#[inline(always)]
pub(crate) fn rotate<A: Elementary>(row: &mut [A], columns: usize, width: usize, turns: &[A]) {
    let (cosines, sines) = turns.split_at(width / 2);
    for head in row[..columns].chunks_exact_mut(width) {
        for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cosines).zip(sines) {
            let (x, y) = (pair[0], pair[1]);
            pair[0] = x.mul(*cos).add(A::of_f64(-1.0).mul(y.mul(*sin)));
            pair[1] = x.mul(*sin).add(y.mul(*cos));
        }
    }
}

/// Rounds each number to another type, of which it is widened again.
///
/// # Safety
/// Both tiles have `count` numbers of their types, and do not overlap.
#[inline(always)]
pub(crate) unsafe fn cast<A: Accumulator, O: Value>(from: *const A, to: *mut O::Acc, count: usize) {
    for index in 0..count {
        // SAFETY: the caller's promise.
        unsafe { to.add(index).write(O::from_acc(*from.add(index)).widen()) };
    }
}

/// A depth-wise convolution of one row: taps of rows above one another, each `features` long up to whole vectors.
pub(crate) struct Taps<'a, A> {
    /// The rows that taps look at, null where there is none.
    pub(crate) rows: &'a [*const A],
    /// `[taps, stride]`.
    pub(crate) weight: *const A,
    /// Or null.
    pub(crate) bias: *const A,
    pub(crate) stride: usize,
    pub(crate) out: *mut A,
    pub(crate) features: usize,
}

/// One row of a convolution.
///
/// # Safety
/// Addresses are as [`Taps`] says; `out` has `stride` numbers.
#[inline(always)]
pub(crate) unsafe fn convolve<V: super::Fused>(taps: &Taps<'_, V::Acc>) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut column = 0;
        while column < taps.features {
            let whole = column + V::LANES <= taps.features;
            let mut acc = if taps.bias.is_null() { V::splat(V::Acc::of_f64(-0.0)) } else { V::load(taps.bias.add(column)) };
            for (tap, row) in taps.rows.iter().enumerate() {
                if row.is_null() {
                    continue;
                }
                let x = row.add(column);
                let x = if whole { V::load(x) } else { V::load_part(x, taps.features - column) };
                acc = x.fused(V::load(taps.weight.add(tap * taps.stride + column)), acc);
            }
            acc.canonical().store(taps.out.add(column));
            column += V::LANES;
        }
    }
}

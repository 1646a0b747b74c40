//! Attention of some queries of one block over the keys of their segment, all heads, block by block of keys.
//!
//! Scores and weighted values are products of the micro kernel of [`matmul`](super::matmul): keys are turned so that a vector holds scores of
//! neighbouring keys, and values get a column of ones, whose weighted sum is the sum of exponentials from left to right. States of
//! key blocks go to a binary counter in f64, whose depth grows with the logarithm of the segment: nothing else grows with it.

use super::matmul::{Fused, Product};
use super::rows;
use crate::memory::Memory;
use crate::vector::Lanes;
use levelfold::numerics::elementary::{Elementary, exp};
use levelfold::numerics::encoders::{combine_softmax, shift};
use levelfold::numerics::{Accumulator, BLOCK_ROWS, Value};

/// The shape of an attention, and where its scratch lies: offsets in numbers of the accumulator, but for the states, which are f64.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) width: usize,
    pub(crate) causal: bool,
    pub(crate) scale: f64,
    /// Of a row of values with its column of ones.
    pub(crate) value_stride: usize,
    pub(crate) depth: usize,
    pub(crate) queries: usize,
    pub(crate) pairs: usize,
    pub(crate) keys: usize,
    pub(crate) values: usize,
    pub(crate) scores: usize,
    pub(crate) weighted: usize,
    pub(crate) numbers: usize,
}

impl Shape {
    /// For segments of up to `longest` rows.
    pub(crate) fn new(features: usize, heads: usize, causal: bool, scale: f64, longest: u64) -> Self {
        let width = features / heads;
        let value_stride = (width + 1).next_multiple_of(16);
        let blocks = longest.div_ceil(BLOCK_ROWS as u64).max(1);
        let mut shape = Shape { heads, width, causal, scale, value_stride, depth: blocks.ilog2() as usize + 2, ..Shape::default() };
        let mut take = |numbers: usize| {
            let start = shape.numbers;
            shape.numbers += numbers.next_multiple_of(16);
            start
        };
        let queries = take(BLOCK_ROWS * features);
        let pairs = take(BLOCK_ROWS * 2 * features);
        let keys = take(BLOCK_ROWS * width);
        let values = take(BLOCK_ROWS * value_stride);
        let scores = take(BLOCK_ROWS * BLOCK_ROWS);
        let weighted = take(BLOCK_ROWS * value_stride);
        Shape { queries, pairs, keys, values, scores, weighted, ..shape }
    }

    /// The f64 values of the states: of each entry of the counter, head and query a maximum, a sum and the weighted values.
    pub(crate) fn states(&self) -> usize {
        self.depth * self.entry()
    }

    fn entry(&self) -> usize {
        self.heads * BLOCK_ROWS * (self.width + 2)
    }

    fn state(&self, level: usize, head: usize) -> usize {
        level * self.entry() + head * BLOCK_ROWS * (self.width + 2)
    }
}

/// Some queries of one block of their segment.
pub(crate) struct Queries {
    /// Queries, keys and values side by side.
    pub(crate) qkv: Memory,
    /// The segment.
    pub(crate) first: usize,
    pub(crate) last: usize,
    /// The queries, inside one block of the segment.
    pub(crate) row: usize,
    pub(crate) rows: usize,
    /// Where the result of the first goes; in numbers of `T`.
    pub(crate) out: *mut u8,
    pub(crate) stride: usize,
    pub(crate) numbers: *mut u8,
    pub(crate) states: *mut f64,
}

/// Attends. Results are numbers of `T`, or still to be rounded to it.
///
/// # Safety
/// The view is of type `T` and has these rows; `product` is that of the same vectors; scratch is as large as the shape says, and nobody else's.
#[inline(always)]
pub(crate) unsafe fn attend<T: Value, V: Lanes<T>>(shape: &Shape, q: &Queries, product: unsafe fn(&Product<u8>)) {
    let features = shape.heads * shape.width;
    let scratch = q.numbers.cast::<V::Acc>();
    let own = T::DTYPE == <V::Acc as levelfold::dtype::Element>::DTYPE && q.qkv.is_dense();
    // SAFETY: the caller's promise.
    unsafe {
        // Rows as they lie where they can be read in place, else widened.
        let rows_at = |row: usize, count: usize, column: usize, columns: usize, to: usize| {
            if own {
                let stride = q.qkv.row_stride / size_of::<T>() as isize;
                (q.qkv.row(row).cast::<V::Acc>().cast_const().add(column), stride)
            } else {
                let mut part = q.qkv;
                part.start = part.element(0, column);
                rows::load::<T, V>(&part, row, count, columns, scratch.add(to), columns);
                (scratch.add(to).cast_const(), columns as isize)
            }
        };
        let (queries, query_stride) = rows_at(q.row, q.rows, 0, features, shape.queries);
        let position = q.row - q.first;
        let seen = if shape.causal { position + q.rows } else { q.last - q.first };
        let blocks = seen.div_ceil(BLOCK_ROWS);
        for block in 0..blocks {
            let count = BLOCK_ROWS.min(seen - block * BLOCK_ROWS);
            let (pairs, pair_stride) = rows_at(q.first + block * BLOCK_ROWS, count, features, 2 * features, shape.pairs);
            // In the last block of a causal segment each query sees one key more than the one before it.
            let ahead = (shape.causal && block + 1 == blocks).then(|| position - block * BLOCK_ROWS);
            for head in 0..shape.heads {
                let column = head * shape.width;
                let one = Block { queries: queries.add(column), query_stride, rows: q.rows, count, ahead };
                let keys = (pairs.add(column), pair_stride);
                let values = (pairs.add(features + column), pair_stride);
                let weighted = scratch.add(shape.weighted);
                let maxima = one_block::<V>(shape, scratch, &one, keys, values, product);
                if blocks == 1 {
                    for row in 0..q.rows {
                        let from = std::slice::from_raw_parts(weighted.add(row * shape.value_stride), shape.width + 1);
                        let to = std::slice::from_raw_parts_mut(q.out.cast::<V::Acc>().add(row * q.stride + column), shape.width);
                        let sum = from[shape.width];
                        for (to, value) in to.iter_mut().zip(from) {
                            *to = value.div(sum);
                        }
                    }
                } else {
                    push(shape, q, head, block, &maxima, weighted.cast_const());
                }
            }
        }
        if blocks > 1 {
            for head in 0..shape.heads {
                fold(shape, q, head, blocks);
                let state = q.states.add(shape.state(0, head));
                for row in 0..q.rows {
                    let sum = *state.add(BLOCK_ROWS + row);
                    let to = q.out.cast::<V::Acc>().add(row * q.stride + head * shape.width);
                    for column in 0..shape.width {
                        let value = *state.add(2 * BLOCK_ROWS + row * shape.width + column) / sum;
                        to.add(column).write(T::from_f64(value).widen());
                    }
                }
            }
        }
    }
}

struct Block<A> {
    queries: *const A,
    query_stride: isize,
    rows: usize,
    count: usize,
    /// Where the last key that the first query sees stands, if the queries see different ones.
    ahead: Option<usize>,
}

/// One head over one block of keys: the maximum of each query; weighted values and sums go to scratch.
#[inline(always)]
unsafe fn one_block<V: Fused>(
    shape: &Shape,
    scratch: *mut V::Acc,
    block: &Block<V::Acc>,
    keys: (*const V::Acc, isize),
    values: (*const V::Acc, isize),
    product: unsafe fn(&Product<u8>),
) -> [V::Acc; BLOCK_ROWS] {
    let width = shape.width;
    let mut maxima = [V::Acc::default(); BLOCK_ROWS];
    // SAFETY: the caller's promise.
    unsafe {
        let (turned, panel) = (scratch.add(shape.keys), scratch.add(shape.values));
        let (scores, weighted) = (scratch.add(shape.scores), scratch.add(shape.weighted));
        for key in 0..block.count {
            let from = std::slice::from_raw_parts(keys.0.offset(key as isize * keys.1), width);
            for (column, x) in from.iter().enumerate() {
                turned.add(column * BLOCK_ROWS + key).write(*x);
            }
            let to = panel.add(key * shape.value_stride);
            std::ptr::copy_nonoverlapping(values.0.offset(key as isize * values.1), to, width);
            to.add(width).write(V::Acc::of_f64(1.0));
        }
        let mut column = 0;
        while column < block.count {
            let columns = super::matmul::panel_columns::<V>().min((block.count - column).next_multiple_of(V::LANES));
            product(
                &Product::<V::Acc> {
                    x: block.queries,
                    x_stride: block.query_stride,
                    rows: block.rows,
                    depth: width,
                    b: turned.add(column),
                    b_stride: BLOCK_ROWS,
                    first: std::ptr::null(),
                    out: scores.add(column),
                    out_stride: BLOCK_ROWS as isize,
                    columns,
                    exact: false,
                }
                .cast(),
            );
            column += columns;
        }
        let seen = |row: usize| block.ahead.map_or(block.count, |ahead| ahead + row + 1);
        for (row, maximum) in maxima.iter_mut().enumerate().take(block.rows) {
            let scores = std::slice::from_raw_parts_mut(scores.add(row * BLOCK_ROWS), BLOCK_ROWS);
            let (count, scale) = (seen(row), V::Acc::of_f64(shape.scale));
            *maximum = if count <= 16 {
                softmax::<V::Acc, 16>(&mut scores[..16], count, scale)
            } else {
                softmax::<V::Acc, 32>(scores, count, scale)
            };
        }
        // Rows that see the same keys in one product, others in one each.
        let together = if block.ahead.is_none() { block.rows } else { 1 };
        let mut row = 0;
        while row < block.rows {
            let mut column = 0;
            while column <= width {
                let columns = super::matmul::panel_columns::<V>().min((width + 1 - column).next_multiple_of(V::LANES));
                product(
                    &Product::<V::Acc> {
                        x: scores.add(row * BLOCK_ROWS),
                        x_stride: BLOCK_ROWS as isize,
                        rows: together,
                        depth: seen(row),
                        b: panel.add(column),
                        b_stride: shape.value_stride,
                        first: std::ptr::null(),
                        out: weighted.add(row * shape.value_stride + column),
                        out_stride: shape.value_stride as isize,
                        columns,
                        exact: false,
                    }
                    .cast(),
                );
                column += columns;
            }
            row += together;
        }
    }
    maxima
}

/// Scales the first `count` scores and puts exponentials in their place; returns the maximum.
#[inline(always)]
fn softmax<A: Elementary, const N: usize>(scores: &mut [A], count: usize, scale: A) -> A {
    let mut scaled = [A::of_f64(f64::NEG_INFINITY); N];
    for (index, (to, score)) in scaled.iter_mut().zip(scores.iter()).enumerate() {
        let score = score.mul(scale);
        *to = if index < count { score } else { *to };
    }
    let mut largest = scaled;
    let mut half = N / 2;
    while half > 0 {
        for index in 0..half {
            largest[index] = Accumulator::maximum(largest[index], largest[index + half]);
        }
        half /= 2;
    }
    let shift = A::of_f64(-1.0).mul(shift(largest[0]));
    for (to, score) in scores.iter_mut().zip(scaled) {
        *to = exp(score.add(shift));
    }
    largest[0]
}

/// Puts the states of a key block on the counter of a head, for all queries.
#[inline(always)]
unsafe fn push<A: Accumulator>(shape: &Shape, q: &Queries, head: usize, block: usize, maxima: &[A; BLOCK_ROWS], weighted: *const A) {
    let mut level = block.count_ones() as usize;
    // SAFETY: the caller's promise; the counter is never deeper than the states are.
    unsafe {
        let state = q.states.add(shape.state(level, head));
        for (row, maximum) in maxima.iter().enumerate().take(q.rows) {
            let from = weighted.add(row * shape.value_stride);
            state.add(row).write(maximum.as_f64());
            state.add(BLOCK_ROWS + row).write((*from.add(shape.width)).as_f64());
            let to = state.add(2 * BLOCK_ROWS + row * shape.width);
            for column in 0..shape.width {
                to.add(column).write((*from.add(column)).as_f64());
            }
        }
        for _ in 0..(block + 1).trailing_zeros() {
            combine(shape, q, head, level);
            level -= 1;
        }
    }
}

/// Combines what is left on the counter, from the newest to the oldest.
#[inline(always)]
unsafe fn fold(shape: &Shape, q: &Queries, head: usize, blocks: usize) {
    for level in (1..blocks.count_ones() as usize).rev() {
        // SAFETY: the caller's promise.
        unsafe { combine(shape, q, head, level) };
    }
}

/// The entry below `level` becomes that of both.
#[inline(always)]
unsafe fn combine(shape: &Shape, q: &Queries, head: usize, level: usize) {
    let count = BLOCK_ROWS * (shape.width + 2);
    // SAFETY: entries do not overlap.
    let (older, newer) = unsafe {
        (
            std::slice::from_raw_parts_mut(q.states.add(shape.state(level - 1, head)), count),
            std::slice::from_raw_parts(q.states.add(shape.state(level, head)), count),
        )
    };
    let mut factors = [(0.0, 0.0); BLOCK_ROWS];
    for (row, factor) in factors.iter_mut().enumerate().take(q.rows) {
        let (maximum, old, new) = combine_softmax(older[row], newer[row]);
        older[row] = maximum;
        older[BLOCK_ROWS + row] = older[BLOCK_ROWS + row] * old + newer[BLOCK_ROWS + row] * new;
        *factor = (old, new);
    }
    let (older, newer) = (&mut older[2 * BLOCK_ROWS..], &newer[2 * BLOCK_ROWS..]);
    if shape.width == 0 {
        return;
    }
    for ((older, newer), (old, new)) in older.chunks_exact_mut(shape.width).zip(newer.chunks_exact(shape.width)).zip(factors).take(q.rows) {
        for (older, newer) in older.iter_mut().zip(newer) {
            *older = *older * old + *newer * new;
        }
    }
}

//! Attention of some queries over the keys of their segments, all heads, block by block of keys.
//!
//! Queries lie side by side in vectors: scores are products of keys, read where they lie, and queries that were turned once, so that maxima and sums go
//! along the keys of all queries at once. Several short segments are taken together: a query meets the keys of its neighbours in the product, and what
//! comes of that is left alone. Weighted values are products too, of a segment's own keys only: a zero times an infinity would not be nothing.
//! States of key blocks go to a binary counter in f64, whose depth grows with the logarithm of the segment: nothing else grows with it.

use super::matmul::{Fused, Product, panel_columns};
use super::rows;
use crate::Isa;
use crate::memory::Memory;
use crate::turn::Turn;
use crate::vector::Lanes;
use levelfold::numerics::elementary::{Elementary, exp};
use levelfold::numerics::encoders::shift;
use levelfold::numerics::{Accumulator, BLOCK_ROWS, Value};
use std::ops::Range;

/// The most rows of several segments that are taken together: a vector of the widest.
pub(crate) const TOGETHER: usize = 16;

/// The shape of an attention, and where its scratch lies: offsets in numbers of the accumulator, but for the states, which are f64.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape {
    pub(crate) heads: usize,
    pub(crate) width: usize,
    pub(crate) causal: bool,
    pub(crate) scale: f64,
    /// Of a row of copied or weighted values.
    value_stride: usize,
    depth: usize,
    queries: usize,
    turned: usize,
    pairs: usize,
    values: usize,
    scores: usize,
    weighted: usize,
    maxima: usize,
    shifts: usize,
    sums: usize,
    pub(crate) numbers: usize,
}

impl Shape {
    /// For segments of up to `longest` rows.
    pub(crate) fn new(features: usize, heads: usize, causal: bool, scale: f64, longest: u64) -> Self {
        let width = features / heads;
        let value_stride = width.next_multiple_of(16);
        let blocks = longest.div_ceil(BLOCK_ROWS as u64).max(1);
        let mut shape = Shape { heads, width, causal, scale, value_stride, depth: blocks.ilog2() as usize + 2, ..Shape::default() };
        let mut take = |numbers: usize| {
            let start = shape.numbers;
            shape.numbers += numbers.next_multiple_of(16);
            start
        };
        let queries = take(BLOCK_ROWS * features);
        let turned = take(BLOCK_ROWS * features);
        let pairs = take(BLOCK_ROWS * 2 * features);
        let values = take(BLOCK_ROWS * value_stride);
        // A vector that begins in a row of scores may end behind it.
        let scores = take(BLOCK_ROWS * BLOCK_ROWS + 16);
        let weighted = take(BLOCK_ROWS * value_stride);
        let [maxima, shifts, sums] = [(); 3].map(|()| take(BLOCK_ROWS + 16));
        Shape { queries, turned, pairs, values, scores, weighted, maxima, shifts, sums, ..shape }
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

/// Some queries: of one block of their segment, or all of several whole segments of up to [`TOGETHER`] rows in all.
pub(crate) struct Queries<'a> {
    pub(crate) isa: Isa,
    /// Queries, keys and values side by side.
    pub(crate) qkv: Memory,
    /// Where the segments begin, and where the last one ends.
    pub(crate) offsets: &'a [u64],
    pub(crate) row: usize,
    pub(crate) rows: usize,
    /// Where the result of the first goes; in numbers of `T`.
    pub(crate) out: *mut u8,
    pub(crate) stride: usize,
    pub(crate) numbers: *mut u8,
    pub(crate) states: *mut f64,
}

/// Queries of one segment, by their place among all of them, and those keys of a block that are theirs.
#[derive(Clone, Copy)]
struct Part {
    query: usize,
    queries: usize,
    key: usize,
    keys: usize,
    /// Where the last key that the first query sees stands in the block, if the queries see different ones.
    ahead: Option<usize>,
}

impl Part {
    /// The keys that a query sees.
    fn seen(&self, query: usize) -> usize {
        self.ahead.map_or(self.keys, |ahead| ahead + query + 1)
    }
}

/// Attends. Results are numbers of `T`, or still to be rounded to it.
///
/// # Safety
/// The view is of type `T` and has these rows; `product` is that of the same vectors; scratch is as large as the shape says, and nobody else's.
#[inline(always)]
pub(crate) unsafe fn attend<T: Value, V: Lanes<T>>(shape: &Shape, q: &Queries<'_>, product: unsafe fn(&Product<u8>)) {
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
        let size = size_of::<V::Acc>();
        Turn {
            from: queries.cast(),
            row_stride: size as isize,
            column_stride: query_stride * size as isize,
            to: scratch.add(shape.turned).cast(),
            to_stride: BLOCK_ROWS * size,
            rows: features,
            columns: q.rows,
            size,
            ahead: 0,
        }
        .run(q.isa);
        let first = q.offsets[0] as usize;
        let position = q.row - first;
        let seen = if shape.causal && q.offsets.len() == 2 { position + q.rows } else { q.offsets[q.offsets.len() - 1] as usize - first };
        let blocks = seen.div_ceil(BLOCK_ROWS);
        for block in 0..blocks {
            let count = BLOCK_ROWS.min(seen - block * BLOCK_ROWS);
            let (pairs, pair_stride) = rows_at(first + block * BLOCK_ROWS, count, features, 2 * features, shape.pairs);
            let part = |index: usize| {
                let (start, end) = (q.offsets[index] as usize - first, q.offsets[index + 1] as usize - first);
                if q.offsets.len() == 2 {
                    // In the last block of a causal segment each query sees one key more than the one before it.
                    let ahead = (shape.causal && block + 1 == blocks).then(|| position - block * BLOCK_ROWS);
                    Part { query: 0, queries: q.rows, key: 0, keys: count, ahead }
                } else {
                    Part { query: start, queries: end - start, key: start, keys: end - start, ahead: shape.causal.then_some(0) }
                }
            };
            let parts = (0..q.offsets.len() - 1).map(part);
            for head in 0..shape.heads {
                let column = head * shape.width;
                let turned = scratch.add(shape.turned + column * BLOCK_ROWS).cast_const();
                let (keys, values) = ((pairs.add(column), pair_stride), (pairs.add(features + column), pair_stride));
                let across = q.rows.next_multiple_of(16);
                weigh::<V>(shape, scratch, (turned, across, q.rows), (keys.0, keys.1, count), parts.clone(), product);
                let out = q.out.cast::<V::Acc>().add(column);
                let to = (scratch.add(shape.weighted), shape.value_stride);
                blend::<V>(shape, scratch, across, (values.0, values.1, count), parts.clone(), to, product);
                if blocks == 1 {
                    divide::<V>(shape, scratch, q.rows, (out, q.stride));
                } else {
                    push(shape, q, head, block, scratch);
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

/// The exponentials of one head over one block of keys, a row of `across` queries for each key, and the maximum and the sum of each query.
#[inline(always)]
unsafe fn weigh<V: Fused>(
    shape: &Shape,
    scratch: *mut V::Acc,
    (turned, across, queries): (*const V::Acc, usize, usize),
    (keys, key_stride, count): (*const V::Acc, isize, usize),
    parts: impl Iterator<Item = Part> + Clone,
    product: unsafe fn(&Product<u8>),
) {
    let lowest = V::Acc::of_f64(f64::NEG_INFINITY);
    // SAFETY: the caller's promise; scores have room for a vector behind the last row.
    unsafe {
        let scores = scratch.add(shape.scores);
        let (maxima, shifts, sums) = (scratch.add(shape.maxima), scratch.add(shape.shifts), scratch.add(shape.sums));
        let mut column = 0;
        while column < queries {
            let columns = panel_columns::<V>().min((queries - column).next_multiple_of(V::LANES));
            product(
                &Product::<V::Acc> {
                    x: keys,
                    x_stride: key_stride,
                    x_step: 1,
                    rows: count,
                    depth: shape.width,
                    b: turned.add(column),
                    b_stride: BLOCK_ROWS,
                    first: std::ptr::null(),
                    out: scores.add(column),
                    out_stride: across as isize,
                    columns,
                    exact: false,
                }
                .cast(),
            );
            column += columns;
        }
        let scale = V::splat(V::Acc::of_f64(shape.scale));
        for part in parts.clone() {
            let from = scores.add(part.key * across + part.query);
            if let Some(ahead) = part.ahead {
                // Keys that a query does not see weigh nothing: their exponentials are zeros behind the first one.
                for key in ahead + 1..part.keys {
                    for query in 0..part.queries.min(key - ahead) {
                        from.add(key * across + query).write(lowest);
                    }
                }
            }
            for at in (0..part.queries).step_by(V::LANES) {
                let from = from.add(at);
                let mut maximum = V::splat(lowest);
                for key in 0..part.keys {
                    maximum = maximum.maximum(V::load(from.add(key * across)).mul(scale));
                }
                maximum.store(maxima.add(part.query + at));
                let minus = std::slice::from_raw_parts_mut(shifts, V::LANES);
                for (minus, maximum) in minus.iter_mut().zip(std::slice::from_raw_parts(maxima.add(part.query + at), V::LANES)) {
                    *minus = V::Acc::of_f64(-1.0).mul(shift(*maximum));
                }
                let minus = V::load(shifts);
                for key in 0..part.keys {
                    let score = from.add(key * across);
                    V::load(score).mul(scale).add(minus).store(score);
                }
            }
        }
        exponentials(std::slice::from_raw_parts_mut(scores, count * across));
        for part in parts {
            for at in (0..part.queries).step_by(V::LANES) {
                let from = scores.add(part.key * across + part.query + at);
                let mut sum = V::splat(V::Acc::of_f64(-0.0));
                for key in 0..part.keys {
                    sum = sum.add(V::load(from.add(key * across)));
                }
                sum.store(sums.add(part.query + at));
            }
        }
    }
}

#[inline(always)]
fn exponentials<A: Elementary>(scores: &mut [A]) {
    scores.iter_mut().for_each(|score| *score = exp(*score));
}

/// The values of one head, weighted by the exponentials and added up for each query.
#[inline(always)]
unsafe fn blend<V: Fused>(
    shape: &Shape,
    scratch: *mut V::Acc,
    across: usize,
    (values, value_stride, count): (*const V::Acc, isize, usize),
    parts: impl Iterator<Item = Part>,
    (out, out_stride): (*mut V::Acc, usize),
    product: unsafe fn(&Product<u8>),
) {
    let width = shape.width;
    // SAFETY: the caller's promise.
    unsafe {
        // Values are read where they lie if that takes whole vectors, and one after the other.
        let (values, value_stride) = match usize::try_from(value_stride) {
            Ok(stride) if width.is_multiple_of(V::LANES) => (values, stride),
            _ => {
                let panel = scratch.add(shape.values);
                for key in 0..count {
                    std::ptr::copy_nonoverlapping(values.offset(key as isize * value_stride), panel.add(key * shape.value_stride), width);
                }
                (panel.cast_const(), shape.value_stride)
            }
        };
        for part in parts {
            // Queries that see the same keys in one product, others in one each.
            let together = if part.ahead.is_none() { part.queries } else { 1 };
            for query in (0..part.queries).step_by(together.max(1)) {
                let mut column = 0;
                while column < width {
                    let columns = panel_columns::<V>().min((width - column).next_multiple_of(V::LANES));
                    product(
                        &Product::<V::Acc> {
                            x: scratch.add(shape.scores + part.key * across + part.query + query),
                            x_stride: 1,
                            x_step: across,
                            rows: together,
                            depth: part.seen(query),
                            b: values.add(part.key * value_stride + column),
                            b_stride: value_stride,
                            first: std::ptr::null(),
                            out: out.add((part.query + query) * out_stride + column),
                            out_stride: out_stride as isize,
                            columns,
                            exact: false,
                        }
                        .cast(),
                    );
                    column += columns;
                }
            }
        }
    }
}

/// Weighted values by their sums: the result, where there is one block of keys.
#[inline(always)]
unsafe fn divide<V: Fused>(shape: &Shape, scratch: *mut V::Acc, queries: usize, (out, stride): (*mut V::Acc, usize)) {
    // SAFETY: the caller's promise.
    unsafe {
        for query in 0..queries {
            let from = scratch.add(shape.weighted + query * shape.value_stride).cast_const();
            let (to, sum) = (out.add(query * stride), V::splat(*scratch.add(shape.sums + query)));
            let mut column = 0;
            while column + V::LANES <= shape.width {
                V::load(from.add(column)).div(sum).store(to.add(column));
                column += V::LANES;
            }
            if column < shape.width {
                V::load(from.add(column)).div(sum).store_part(to.add(column), shape.width - column);
            }
        }
    }
}

/// Puts the states of a key block on the counter of a head, for all queries.
#[inline(always)]
unsafe fn push<A: Accumulator>(shape: &Shape, q: &Queries<'_>, head: usize, block: usize, scratch: *const A) {
    let mut level = block.count_ones() as usize;
    // SAFETY: the caller's promise; the counter is never deeper than the states are.
    unsafe {
        let state = std::slice::from_raw_parts_mut(q.states.add(shape.state(level, head)), BLOCK_ROWS * (shape.width + 2));
        let (numbers, values) = state.split_at_mut(2 * BLOCK_ROWS);
        let (maxima, sums) = numbers.split_at_mut(BLOCK_ROWS);
        widen(maxima, std::slice::from_raw_parts(scratch.add(shape.maxima), BLOCK_ROWS));
        widen(sums, std::slice::from_raw_parts(scratch.add(shape.sums), BLOCK_ROWS));
        if shape.width > 0 {
            for (row, to) in values.chunks_exact_mut(shape.width).enumerate().take(q.rows) {
                widen(to, std::slice::from_raw_parts(scratch.add(shape.weighted + row * shape.value_stride), shape.width));
            }
        }
        for _ in 0..(block + 1).trailing_zeros() {
            combine(shape, q, head, level);
            level -= 1;
        }
    }
}

#[inline(always)]
fn widen<A: Accumulator>(to: &mut [f64], from: &[A]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.as_f64());
}

/// Combines what is left on the counter, from the newest to the oldest.
#[inline(always)]
unsafe fn fold(shape: &Shape, q: &Queries<'_>, head: usize, blocks: usize) {
    for level in (1..blocks.count_ones() as usize).rev() {
        // SAFETY: the caller's promise.
        unsafe { combine(shape, q, head, level) };
    }
}

/// The entry below `level` becomes that of both.
#[inline(always)]
unsafe fn combine(shape: &Shape, q: &Queries<'_>, head: usize, level: usize) {
    let count = BLOCK_ROWS * (shape.width + 2);
    // SAFETY: entries do not overlap.
    let (older, newer) = unsafe {
        (
            std::slice::from_raw_parts_mut(q.states.add(shape.state(level - 1, head)), count),
            std::slice::from_raw_parts(q.states.add(shape.state(level, head)), count),
        )
    };
    // For all rows of a block, one thing after the other, so that it is vector code; rows that are not there are never looked at.
    let mut factors = [0.0; 2 * BLOCK_ROWS];
    let (olds, news) = factors.split_at_mut(BLOCK_ROWS);
    for (((older, newer), old), new) in older.iter_mut().zip(newer).zip(olds).zip(news).take(BLOCK_ROWS) {
        let maximum = Accumulator::maximum(*older, *newer);
        let shift = shift(maximum);
        (*old, *new) = (*older - shift, *newer - shift);
        *older = maximum;
    }
    exponentials(&mut factors);
    let (olds, news) = factors.split_at(BLOCK_ROWS);
    let sums = older[BLOCK_ROWS..].iter_mut().zip(&newer[BLOCK_ROWS..]);
    for ((older, newer), (old, new)) in sums.zip(olds.iter().zip(news)) {
        *older = *older * old + *newer * new;
    }
    if shape.width == 0 {
        return;
    }
    let (older, newer) = (&mut older[2 * BLOCK_ROWS..], &newer[2 * BLOCK_ROWS..]);
    let rows = older.chunks_exact_mut(shape.width).zip(newer.chunks_exact(shape.width));
    for ((older, newer), (old, new)) in rows.zip(olds.iter().zip(news)).take(q.rows) {
        for (older, newer) in older.iter_mut().zip(newer) {
            *older = *older * old + *newer * new;
        }
    }
}

/// How many segments from the first of `offsets` on are taken together, given that the rows up to `end` are there: at least one.
pub(crate) fn together(offsets: &[u64], end: usize) -> usize {
    let first = offsets[0] as usize;
    let whole: Range<usize> = first..end.min(first + TOGETHER);
    offsets[1..].iter().take_while(|offset| **offset as usize <= whole.end).count().max(1)
}

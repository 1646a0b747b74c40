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
use crate::vector::{Lanes, Vector};
use levelfold::numerics::elementary::exp_of;
use levelfold::numerics::{Accumulator, BLOCK_ROWS, Packed, Value};
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
    /// Weighted values query by query, of a block whose queries see different keys.
    queried: usize,
    maxima: usize,
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
        let queried = take(if causal { BLOCK_ROWS * value_stride } else { 0 });
        let [maxima, sums] = [(); 2].map(|()| take(BLOCK_ROWS + 16));
        Shape { queries, turned, pairs, values, scores, weighted, queried, maxima, sums, ..shape }
    }

    /// The f64 values of the states: of each entry of the counter and head the maxima of all queries, their sums, and column by column the weighted values
    /// of all queries.
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
pub(crate) unsafe fn attend<T, V, W>(shape: &Shape, q: &Queries<'_>, product: unsafe fn(&Product<u8>))
where
    T: Value,
    V: Lanes<T> + Packed<Number = T::Acc>,
    W: Vector<Acc = f64> + Packed<Number = f64>,
{
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
                let values = (values.0, values.1, count);
                if blocks == 1 {
                    let to = (scratch.add(shape.weighted), shape.value_stride);
                    blend::<V>(shape, scratch, across, values, parts.clone(), to, product);
                    divide::<V>(shape, scratch, q.rows, (q.out.cast::<V::Acc>().add(column), q.stride));
                } else {
                    blend_turned::<V>(shape, scratch, across, values, part(0), product);
                    push::<V::Acc, W>(shape, q, head, block, scratch);
                }
            }
        }
        if blocks > 1 {
            for head in 0..shape.heads {
                for level in (1..blocks.count_ones() as usize).rev() {
                    combine_states::<W>(shape, q, head, level);
                }
                let state = q.states.add(shape.state(0, head));
                let mut quotients = [0.0; BLOCK_ROWS];
                for column in 0..shape.width {
                    for (row, quotient) in quotients.iter_mut().enumerate() {
                        *quotient = *state.add((2 + column) * BLOCK_ROWS + row) / *state.add(BLOCK_ROWS + row);
                    }
                    let to = q.out.cast::<V::Acc>().add(head * shape.width + column);
                    for (row, quotient) in quotients.iter().enumerate().take(q.rows) {
                        to.add(row * q.stride).write(T::from_f64(*quotient).widen());
                    }
                }
            }
        }
    }
}

/// The exponentials of one head over one block of keys, a row of `across` queries for each key, and the maximum and the sum of each query.
#[inline(always)]
unsafe fn weigh<V: Fused + Packed<Number = <V as Vector>::Acc>>(
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
        let (maxima, sums) = (scratch.add(shape.maxima), scratch.add(shape.sums));
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
        let scale = splat::<V>(V::Acc::of_f64(shape.scale));
        for part in parts {
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
                // Maxima of several keys on their way at once: which of them meet first changes nothing but the payload of a NaN and the sign of a zero, and
                // neither reaches an exponential.
                let mut maxima_of = [splat::<V>(lowest); 4];
                let mut key = 0;
                while key + 4 <= part.keys {
                    for (index, maximum) in maxima_of.iter_mut().enumerate() {
                        *maximum = maximum.maximum(Vector::mul(V::load(from.add((key + index) * across)), scale));
                    }
                    key += 4;
                }
                while key < part.keys {
                    maxima_of[0] = maxima_of[0].maximum(Vector::mul(V::load(from.add(key * across)), scale));
                    key += 1;
                }
                let [a, b, c, d] = maxima_of;
                let maximum = a.maximum(b).maximum(c.maximum(d));
                maximum.store(maxima.add(part.query + at));
                let shift = shift_of(maximum);
                let mut sum = splat::<V>(V::Acc::of_f64(-0.0));
                for key in 0..part.keys {
                    let score = from.add(key * across);
                    let weight = exp_of(Vector::mul(V::load(score), scale) - shift);
                    weight.store(score);
                    sum = Vector::add(sum, weight);
                }
                sum.store(sums.add(part.query + at));
            }
        }
    }
}

/// The same number in every lane.
#[inline(always)]
unsafe fn splat<V: Vector>(number: V::Acc) -> V {
    // SAFETY: the caller's promise.
    unsafe { <V as Vector>::splat(number) }
}

/// What is taken off the scores below a maximum: see [`shift`](levelfold::numerics::encoders::shift).
#[inline(always)]
fn shift_of<X: Packed>(maximum: X) -> X {
    X::pick(maximum.equals(X::of(f64::NEG_INFINITY)), X::of(0.0), maximum)
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
        // Whole vectors are read.
        let (values, value_stride) = if width.is_multiple_of(V::LANES) {
            forward(shape, scratch, (values, value_stride, count))
        } else {
            copied(shape, scratch, (values, value_stride, count))
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

/// Values whose rows lie one after the other: these, or copies.
#[inline(always)]
unsafe fn forward<A: Copy>(shape: &Shape, scratch: *mut A, values: (*const A, isize, usize)) -> (*const A, usize) {
    match usize::try_from(values.1) {
        Ok(stride) => (values.0, stride),
        // SAFETY: the caller's promise.
        Err(_) => unsafe { copied(shape, scratch, values) },
    }
}

/// Copies of the values of one head.
#[inline(always)]
unsafe fn copied<A: Copy>(shape: &Shape, scratch: *mut A, (values, stride, count): (*const A, isize, usize)) -> (*const A, usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let panel = scratch.add(shape.values);
        for key in 0..count {
            std::ptr::copy_nonoverlapping(values.offset(key as isize * stride), panel.add(key * shape.value_stride), shape.width);
        }
        (panel.cast_const(), shape.value_stride)
    }
}

/// Weighted values by their sums: the result, where there is one block of keys.
#[inline(always)]
unsafe fn divide<V: Fused>(shape: &Shape, scratch: *mut V::Acc, queries: usize, (out, stride): (*mut V::Acc, usize)) {
    // SAFETY: the caller's promise.
    unsafe {
        for query in 0..queries {
            let from = scratch.add(shape.weighted + query * shape.value_stride).cast_const();
            let (to, sum) = (out.add(query * stride), splat::<V>(*scratch.add(shape.sums + query)));
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

/// As [`blend`], of queries that a vector has side by side: column by column, a row of the queries' weighted values.
#[inline(always)]
unsafe fn blend_turned<V: Fused>(
    shape: &Shape,
    scratch: *mut V::Acc,
    across: usize,
    (values, value_stride, count): (*const V::Acc, isize, usize),
    part: Part,
    product: unsafe fn(&Product<u8>),
) {
    let out = scratch.wrapping_add(shape.weighted);
    // SAFETY: the caller's promise; there are as many weighted values either way round.
    unsafe {
        if part.ahead.is_some() {
            let queried = (scratch.add(shape.queried), shape.value_stride);
            blend::<V>(shape, scratch, across, (values, value_stride, count), std::iter::once(part), queried, product);
            for query in 0..part.queries {
                for column in 0..shape.width {
                    out.add(column * BLOCK_ROWS + query).write(*queried.0.add(query * queried.1 + column));
                }
            }
            return;
        }
        let (values, value_stride) = forward(shape, scratch, (values, value_stride, count));
        let mut query = 0;
        while query < part.queries {
            let columns = panel_columns::<V>().min((part.queries - query).next_multiple_of(V::LANES));
            product(
                &Product::<V::Acc> {
                    x: values,
                    x_stride: 1,
                    x_step: value_stride,
                    rows: shape.width,
                    depth: count,
                    b: scratch.add(shape.scores + query),
                    b_stride: across,
                    first: std::ptr::null(),
                    out: out.add(query),
                    out_stride: BLOCK_ROWS as isize,
                    columns,
                    exact: false,
                }
                .cast(),
            );
            query += columns;
        }
    }
}

/// The states of some queries, as numbers of some type: maxima, sums, and values column by column.
#[derive(Clone, Copy)]
struct States<A> {
    maxima: *const A,
    sums: *const A,
    values: *const A,
}

/// Puts the states of a key block on the counter of a head, for all queries.
#[inline(always)]
unsafe fn push<A: Accumulator, W: Vector<Acc = f64> + Packed<Number = f64>>(
    shape: &Shape,
    q: &Queries<'_>,
    head: usize,
    block: usize,
    scratch: *const A,
) {
    let level = block.count_ones() as usize;
    let pairs = (block + 1).trailing_zeros() as usize;
    // SAFETY: the caller's promise; the counter is never deeper than the states are.
    unsafe {
        let states = States { maxima: scratch.add(shape.maxima), sums: scratch.add(shape.sums), values: scratch.add(shape.weighted) };
        if pairs == 0 {
            let state = std::slice::from_raw_parts_mut(q.states.add(shape.state(level, head)), BLOCK_ROWS * (shape.width + 2));
            let (maxima, others) = state.split_at_mut(BLOCK_ROWS);
            let (sums, values) = others.split_at_mut(BLOCK_ROWS);
            widen(maxima, states.maxima);
            widen(sums, states.sums);
            widen(values, states.values);
            return;
        }
        // Straight from where the block's own are: half of all states never lie on the counter.
        combine::<A, W>(shape.width, q.states.add(shape.state(level - 1, head)), states);
        for level in (level + 1 - pairs..level).rev() {
            combine_states::<W>(shape, q, head, level);
        }
    }
}

#[inline(always)]
unsafe fn widen<A: Accumulator>(to: &mut [f64], from: *const A) {
    // SAFETY: the caller's promise: there are as many.
    let from = unsafe { std::slice::from_raw_parts(from, to.len()) };
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.as_f64());
}

/// The entry below `level` becomes that of both.
#[inline(always)]
unsafe fn combine_states<W: Vector<Acc = f64> + Packed<Number = f64>>(shape: &Shape, q: &Queries<'_>, head: usize, level: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let newer = q.states.add(shape.state(level, head)).cast_const();
        let newer = States { maxima: newer, sums: newer.add(BLOCK_ROWS), values: newer.add(2 * BLOCK_ROWS) };
        combine::<f64, W>(shape.width, q.states.add(shape.state(level - 1, head)), newer);
    }
}

/// An entry of the counter becomes that of itself and of newer states, for all queries of a block; those that are not there are never looked at.
#[inline(always)]
unsafe fn combine<A: Accumulator, W: Vector<Acc = f64> + Packed<Number = f64>>(width: usize, older: *mut f64, newer: States<A>) {
    // SAFETY: the caller's promise; entries do not overlap.
    unsafe {
        for at in (0..BLOCK_ROWS).step_by(W::LANES) {
            let (maxima, sums, values) = (older.add(at), older.add(BLOCK_ROWS + at), older.add(2 * BLOCK_ROWS + at));
            let (old, new) = (W::load(maxima), wide::<A, W>(newer.maxima.add(at)));
            let maximum = old.larger(new);
            let shift = shift_of(maximum);
            let (old, new) = (exp_of(old - shift), exp_of(new - shift));
            maximum.store(maxima);
            let combined = |older: *mut f64, newer: *const A| (W::load(older) * old + wide::<A, W>(newer) * new).store(older);
            combined(sums, newer.sums.add(at));
            for column in (0..width * BLOCK_ROWS).step_by(BLOCK_ROWS) {
                combined(values.add(column), newer.values.add(at + column));
            }
        }
    }
}

/// Accumulators as f64.
#[inline(always)]
unsafe fn wide<A: Accumulator, W: Vector<Acc = f64>>(from: *const A) -> W {
    // No vector of f64 has more lanes.
    let mut lanes = [0.0; 8];
    // SAFETY: the caller's promise.
    unsafe {
        for (index, lane) in lanes.iter_mut().enumerate().take(W::LANES) {
            *lane = (*from.add(index)).as_f64();
        }
        W::load(lanes.as_ptr())
    }
}

/// How many segments from the first of `offsets` on are taken together, given that the rows up to `end` are there: at least one.
pub(crate) fn together(offsets: &[u64], end: usize) -> usize {
    let first = offsets[0] as usize;
    let whole: Range<usize> = first..end.min(first + TOGETHER);
    offsets[1..].iter().take_while(|offset| **offset as usize <= whole.end).count().max(1)
}

//! The loops themselves, over vectors of any instruction set.
//!
//! Rows are read strictly in order, a whole row at a time, as its accumulators fit the registers or lie in the first cache: memory is then read exactly as
//! it lies, which is what it is fastest at. Of wide rows that are apart, four are taken at a time. Rows that a small table holds are in a cache already: of
//! those, wide ones are taken as many columns at a time as the registers hold.

use super::{Block, RowTo, Run, Source};
use crate::load::load_weights;
use crate::memory::LINE;
use crate::vector::{Lanes, Vector, VectorOp};
use levelfold::numerics::{Accumulator, BLOCK_ROWS, Value};

/// The fewest vectors of a row that are put together to lines.
const BY_LINES: usize = 16;

/// Where the rows of a block are.
trait Rows<T> {
    /// The first element that is wanted of a row.
    unsafe fn row(&self, index: usize) -> *const T;
}

struct Pointers(*const *const u8);

impl<T> Rows<T> for Pointers {
    #[inline(always)]
    unsafe fn row(&self, index: usize) -> *const T {
        // SAFETY: the caller asks for rows of the block.
        unsafe { self.0.add(index).read().cast() }
    }
}

struct Strided {
    start: *const u8,
    stride: isize,
}

impl<T> Rows<T> for Strided {
    #[inline(always)]
    unsafe fn row(&self, index: usize) -> *const T {
        self.start.wrapping_offset(index as isize * self.stride).cast()
    }
}

/// What becomes of the columns of a block that are folded.
trait Emit<X: Vector> {
    unsafe fn put(&self, column: usize, lanes: X);
    unsafe fn put_part(&self, column: usize, lanes: X, count: usize);
}

/// They stay accumulators.
struct ToAcc<A>(*mut A);

impl<X: Vector> Emit<X> for ToAcc<X::Acc> {
    #[inline(always)]
    unsafe fn put(&self, column: usize, lanes: X) {
        // SAFETY: the accumulator has all columns.
        unsafe { lanes.store(self.0.add(column)) }
    }

    #[inline(always)]
    unsafe fn put_part(&self, column: usize, lanes: X, count: usize) {
        // SAFETY: as above.
        unsafe { lanes.store_part(self.0.add(column), count) }
    }
}

/// They are divided by a divisor other than 0, rounded and written.
struct ToRow<T: Value> {
    out: *mut T,
    divisor: T::Acc,
    /// Whether whole vectors go past the cache.
    streams: bool,
    /// Where they are then written through the cache as well, or null.
    also: *mut T,
}

impl<T: Value> ToRow<T> {
    #[inline(always)]
    unsafe fn finish<X: Lanes<T>>(&self, lanes: X) -> X {
        // SAFETY: the caller is compiled for this vector.
        unsafe {
            let lanes = if self.divisor == T::Acc::default() { lanes } else { lanes.div(X::splat(self.divisor)) };
            lanes.canonical()
        }
    }
}

impl<T: Value, X: Lanes<T>> Emit<X> for ToRow<T> {
    #[inline(always)]
    unsafe fn put(&self, column: usize, lanes: X) {
        // SAFETY: the row has all columns.
        unsafe {
            let lanes = self.finish::<X>(lanes);
            if !self.streams {
                return lanes.round(self.out.add(column));
            }
            lanes.stream(self.out.add(column));
            if !self.also.is_null() {
                lanes.round(self.also.add(column));
            }
        }
    }

    #[inline(always)]
    unsafe fn put_part(&self, column: usize, lanes: X, count: usize) {
        // SAFETY: as above.
        unsafe { self.finish::<X>(lanes).round_part(self.out.add(column), count) }
    }
}

/// `count` rows of `features` elements, and their weights where `WEIGHTED`.
struct Input<'a, T: Value, S, const WEIGHTED: bool> {
    rows: &'a S,
    count: usize,
    features: usize,
    weights: *const T::Acc,
    /// `features` accumulators, for rows that are wider than the registers.
    acc: *mut T::Acc,
    /// Whether such rows are taken in tiles of columns.
    tiled: bool,
}

impl<T: Value, S: Rows<T>, const WEIGHTED: bool> Input<'_, T, S, WEIGHTED> {
    /// A row's lanes from a column on: `PART` of a vector, or all of it.
    #[inline(always)]
    unsafe fn lanes<X: Lanes<T>, const PART: bool>(&self, row: usize, column: usize, part: usize) -> X {
        // SAFETY: the caller asks for rows and columns of the block.
        unsafe {
            let from = self.rows.row(row).add(column);
            let x = if PART { X::widen_part(from, part) } else { X::widen(from) };
            if WEIGHTED { X::splat(self.weights.add(row).read()).mul(x) } else { x }
        }
    }

    /// Folds `N` vectors of columns of all rows, in registers.
    #[inline(always)]
    unsafe fn tile<X: Lanes<T>, R: VectorOp, const N: usize>(&self, column: usize, emit: &impl Emit<X>) {
        // SAFETY: the caller gives columns of the block.
        unsafe {
            let mut acc = [X::splat(R::identity()); N];
            for row in 0..self.count {
                for (index, acc) in acc.iter_mut().enumerate() {
                    *acc = R::push_vector(*acc, self.lanes::<X, false>(row, column + index * X::LANES, 0));
                }
            }
            for (index, acc) in acc.iter().enumerate() {
                emit.put(column + index * X::LANES, *acc);
            }
        }
    }

    /// Folds the last columns, fewer than a vector.
    #[inline(always)]
    unsafe fn part<X: Lanes<T>, R: VectorOp>(&self, column: usize, part: usize, emit: &impl Emit<X>) {
        // SAFETY: the caller gives columns of the block.
        unsafe {
            let mut acc = X::splat(R::identity());
            for row in 0..self.count {
                acc = R::push_vector(acc, self.lanes::<X, true>(row, column, part));
            }
            emit.put_part(column, acc, part);
        }
    }

    /// Adds `K` rows to accumulators in memory: the first rows begin them, the last ones emit them.
    #[inline(always)]
    unsafe fn sweep<X: Lanes<T>, R: VectorOp, const K: usize>(&self, first: usize, emit: &impl Emit<X>) {
        let (begins, ends) = (first == 0, first + K == self.count);
        let full = self.features / X::LANES * X::LANES;
        let part = self.features - full;
        // SAFETY: the block has these rows; accumulators have all columns.
        unsafe {
            let mut column = 0;
            while column < full {
                let mut acc = if begins { X::splat(R::identity()) } else { X::load(self.acc.add(column)) };
                for row in first..first + K {
                    acc = R::push_vector(acc, self.lanes::<X, false>(row, column, 0));
                }
                if ends {
                    emit.put(column, acc)
                } else {
                    acc.store(self.acc.add(column))
                }
                column += X::LANES;
            }
            if part > 0 {
                let mut acc = if begins { X::splat(R::identity()) } else { X::load_part(self.acc.add(full), part) };
                for row in first..first + K {
                    acc = R::push_vector(acc, self.lanes::<X, true>(row, full, part));
                }
                if ends { emit.put_part(full, acc, part) } else { acc.store_part(self.acc.add(full), part) }
            }
        }
    }

    /// Whether rows follow each other in memory.
    #[inline(always)]
    unsafe fn is_in_order(&self) -> bool {
        // SAFETY: rows of the block.
        self.count > 1 && unsafe { self.rows.row(1).addr().wrapping_sub(self.rows.row(0).addr()) <= 2 * self.features * size_of::<T>() }
    }

    #[inline(always)]
    unsafe fn wide<X: Lanes<T>, R: VectorOp>(&self, in_order: bool, emit: &impl Emit<X>) {
        // Of rows one after the other, a single one at a time is read exactly as memory lies; of others, four at once are waited for together.
        let mut row = 0;
        if in_order {
            while row < self.count {
                // SAFETY: as above.
                unsafe { self.sweep::<X, R, 1>(row, emit) };
                row += 1;
            }
        }
        while row < self.count {
            // SAFETY: rows of the block.
            unsafe {
                match self.count - row {
                    1 => self.sweep::<X, R, 1>(row, emit),
                    2 => self.sweep::<X, R, 2>(row, emit),
                    3 => self.sweep::<X, R, 3>(row, emit),
                    _ => self.sweep::<X, R, 4>(row, emit),
                }
            }
            row += 4;
        }
    }

    /// Whether rows that would fit the registers are read a row at a time all the same. Loads of whole lines with an addition each run so far ahead that
    /// memory is read out of order, and slower: up to 1.7 times as long where blocks are full. Accumulators in the first cache hold them back. Shorter segments
    /// hold themselves back, by the stores and branches at their ends.
    #[inline(always)]
    fn is_paced<X: Lanes<T>>(&self) -> bool {
        X::LANES * size_of::<T>() == LINE && self.count == BLOCK_ROWS
    }

    /// Folds all columns.
    #[inline(always)]
    unsafe fn fold<X: Lanes<T>, R: VectorOp>(&self, emit: &impl Emit<X>) {
        let vectors = self.features / X::LANES;
        // SAFETY: the caller's block; columns stay below its features.
        unsafe {
            let in_order = !self.tiled && vectors >= 4 && self.is_in_order();
            if !self.tiled && (vectors > X::TILE || in_order && self.is_paced::<X>()) {
                return self.wide::<X, R>(in_order, emit);
            }
            let mut done = 0;
            while X::TILE >= 16 && vectors - done >= 16 {
                self.tile::<X, R, 16>(done * X::LANES, emit);
                done += 16;
            }
            while vectors - done >= 8 {
                self.tile::<X, R, 8>(done * X::LANES, emit);
                done += 8;
            }
            if vectors - done >= 4 {
                self.tile::<X, R, 4>(done * X::LANES, emit);
                done += 4;
            }
            if vectors - done >= 2 {
                self.tile::<X, R, 2>(done * X::LANES, emit);
                done += 2;
            }
            if vectors > done {
                self.tile::<X, R, 1>(done * X::LANES, emit);
                done += 1;
            }
            let column = done * X::LANES;
            if column < self.features {
                self.part::<X, R>(column, self.features - column, emit);
            }
        }
    }
}

/// See [`Kernels::accumulate`](super::Kernels::accumulate).
#[inline(always)]
pub(super) unsafe fn accumulate<T: Value, X: Lanes<T>, R: VectorOp>(block: &Block) {
    let rows = &Pointers(block.rows);
    let (acc, weights) = (block.acc.cast::<T::Acc>(), block.weights.cast::<T::Acc>());
    let Block { count, features, tiled, .. } = *block;
    // SAFETY: the caller's block.
    unsafe {
        if weights.is_null() {
            Input::<T, _, false> { rows, count, features, weights, acc, tiled }.fold::<X, R>(&ToAcc(acc));
        } else {
            Input::<T, _, true> { rows, count, features, weights, acc, tiled }.fold::<X, R>(&ToAcc(acc));
        }
    }
}

/// Does something for every segment of a run that has rows: with its first row, how many rows the segments before it have, how many it has itself, and its
/// result's row. Segments without rows are filled; the first of more than one block is what comes out.
///
/// Not a function that takes a closure: a closure that the compiler leaves a function of its own would not be compiled for the instruction set.
macro_rules! each_segment {
    ($run:ident, $first:ident, $last:ident, $rows_read:ident, |$start:ident, $at:pat, $count:ident, $out:ident, $also:ident| $fold:block) => {{
        let mut before = 0;
        let mut next = $last;
        for segment in $first..$last {
            let range = $run.segments.range(segment);
            let $count = (range.end - range.start) as usize;
            if $count > BLOCK_ROWS {
                next = segment;
                break;
            }
            let ($out, also) = ($run.row(segment), $run.also_row(segment));
            if $count == 0 {
                $run.fill(segment);
                continue;
            }
            let ($start, $at, $also) = (range.start as usize, before, also);
            $fold
            before += $count;
        }
        *$rows_read += before as u64;
        next
    }};
}

/// See [`Kernels::fold_run`](super::Kernels::fold_run). Results have the type of rows, and are written from registers.
#[inline(always)]
pub(super) unsafe fn fold_run<T: Value, X: Lanes<T>, R: VectorOp>(run: &Run<'_>, first: u64, last: u64, rows_read: &mut u64) -> u64 {
    let Run { features, tiled, streams, .. } = *run;
    let acc = run.acc.cast::<T::Acc>();
    // Many vectors that would each be written across the end of a line. Fewer, or rows that come from memory, which take as long as this costs, are written in parts.
    if streams
        && tiled
        && features >= BY_LINES * X::LANES
        && X::LANES * size_of::<T>() == LINE
        && !(run.out.addr() | run.out_stride.unsigned_abs()).is_multiple_of(LINE)
    {
        // SAFETY: the caller's promise is passed on.
        return unsafe { fold_run_by_lines::<T::Acc>(run, first, last, rows_read, features / X::LANES) };
    }
    // SAFETY: the caller's rows, weights and results.
    unsafe {
        match (run.source, run.weights) {
            (Source::Strided { start: base, stride }, None) => {
                each_segment!(run, first, last, rows_read, |start, _unused, count, out, also| {
                    let rows = &Strided { start: base.wrapping_offset(start as isize * stride), stride };
                    let input = Input::<T, _, false> { rows, count, features, weights: std::ptr::null(), acc, tiled };
                    input.fold::<X, R>(&ToRow::<T> {
                        out: out.cast(),
                        divisor: divisor_of::<T::Acc>(run, count),
                        streams,
                        also: also.cast(),
                    });
                })
            }
            (Source::Pointers(all), None) => each_segment!(run, first, last, rows_read, |_start, at, count, out, also| {
                let rows = &Pointers(all.add(at));
                let input = Input::<T, _, false> { rows, count, features, weights: std::ptr::null(), acc, tiled };
                input.fold::<X, R>(&ToRow::<T> { out: out.cast(), divisor: divisor_of::<T::Acc>(run, count), streams, also: also.cast() });
            }),
            (Source::Strided { start: base, stride }, Some(memory)) => {
                each_segment!(run, first, last, rows_read, |start, _unused, count, out, also| {
                    let mut weights = [T::Acc::default(); BLOCK_ROWS];
                    let sum = load_weights::<T::Acc>(memory, start, &mut weights[..count]);
                    let rows = &Strided { start: base.wrapping_offset(start as isize * stride), stride };
                    let input = Input::<T, _, true> { rows, count, features, weights: weights.as_ptr(), acc, tiled };
                    let divisor = if run.divides { sum } else { T::Acc::default() };
                    input.fold::<X, R>(&ToRow::<T> { out: out.cast(), divisor, streams, also: also.cast() });
                })
            }
            (Source::Pointers(_), Some(_)) => fold_run_through::<T::Acc>(run, first, last, rows_read),
        }
    }
}

/// See [`Kernels::fold_run`](super::Kernels::fold_run): what is rarer goes through the accumulator in memory, and through other kernels.
pub(super) unsafe fn fold_run_through<A: Accumulator>(run: &Run<'_>, first: u64, last: u64, rows_read: &mut u64) -> u64 {
    let Run { features, tiled, .. } = *run;
    // SAFETY: the caller's rows, weights and results.
    unsafe {
        each_segment!(run, first, last, rows_read, |start, at, count, out, also| {
            let (mut divisor, mut weights) = (divisor_of::<A>(run, count), [A::default(); BLOCK_ROWS]);
            if let Some(memory) = run.weights {
                divisor = load_weights::<A>(memory, start, &mut weights[..count]);
            }
            let mut pointers = [std::ptr::null::<u8>(); BLOCK_ROWS];
            let rows = run.source.rows(at, start, &mut pointers[..count]);
            let weights = if run.weights.is_some() { weights.as_ptr().cast() } else { std::ptr::null() };
            (run.accumulate)(&Block { acc: run.acc, rows, count, features, weights, tiled });
            let divisor = if run.divides { std::ptr::from_ref(&divisor).cast() } else { std::ptr::null() };
            (run.finish_block)(run.acc, out, features, divisor);
            if !also.is_null() {
                std::ptr::copy_nonoverlapping(out, also, features * run.out_size);
            }
        })
    }
}

/// As [`fold_run`], where results go past the cache and begin inside lines: their rows, of so many whole vectors, are put together to lines.
unsafe fn fold_run_by_lines<A: Accumulator>(run: &Run<'_>, first: u64, last: u64, rows_read: &mut u64, vectors: usize) -> u64 {
    let Run { features, tiled, .. } = *run;
    // SAFETY: the caller's rows, weights and results.
    unsafe {
        each_segment!(run, first, last, rows_read, |start, at, count, out, also| {
            let (mut divisor, mut weights) = (divisor_of::<A>(run, count), [A::default(); BLOCK_ROWS]);
            if let Some(memory) = run.weights {
                let sum = load_weights::<A>(memory, start, &mut weights[..count]);
                divisor = if run.divides { sum } else { divisor };
            }
            let mut pointers = [std::ptr::null::<u8>(); BLOCK_ROWS];
            let rows = run.source.rows(at, start, &mut pointers[..count]);
            let weights = if run.weights.is_some() { weights.as_ptr().cast() } else { std::ptr::null() };
            (run.accumulate)(&Block { acc: run.acc, rows, count, features, weights, tiled });
            (run.finish_row)(run.acc, vectors, (&raw const divisor).cast(), RowTo { row: out, streams: true, also });
        })
    }
}

/// See [`Run::finish_row`].
#[inline(always)]
pub(super) unsafe fn finish_row<T: Value, X: Lanes<T>>(acc: *const u8, vectors: usize, divisor: *const u8, to: RowTo) {
    let (acc, out, also) = (acc.cast::<X::Acc>(), to.row.cast::<T>(), to.also.cast::<T>());
    // SAFETY: the caller gives so many vectors, a divisor, and a row with room for them.
    unsafe {
        let divisor = divisor.cast::<X::Acc>().read();
        let by = X::splat(divisor);
        let mut before = X::splat(divisor);
        for index in 0..vectors {
            let lanes = X::load(acc.add(index * X::LANES));
            let lanes = if divisor == X::Acc::default() { lanes } else { lanes.div(by) }.canonical();
            let to = out.add(index * X::LANES);
            if index == 0 {
                lanes.stream_first(to)
            } else {
                lanes.stream_next(before, to)
            }
            if !also.is_null() {
                lanes.round(also.add(index * X::LANES));
            }
            before = lanes;
        }
        before.stream_rest(out.add((vectors - 1) * X::LANES));
    }
}

/// What the result of so many rows without weights is divided by; 0 for nothing.
#[inline(always)]
fn divisor_of<A: Accumulator>(run: &Run<'_>, count: usize) -> A {
    if run.divides { A::of_f64(count as f64) } else { A::default() }
}

/// See [`Kernels::store`](super::Kernels::store).
#[inline(always)]
pub(super) unsafe fn store<A: Accumulator>(slot: *mut f64, acc: *const u8, features: usize) {
    // SAFETY: the caller gives `features` elements of each, which do not overlap.
    let (slot, acc) = unsafe { (std::slice::from_raw_parts_mut(slot, features), std::slice::from_raw_parts(acc.cast::<A>(), features)) };
    for (slot, acc) in slot.iter_mut().zip(acc) {
        *slot = acc.as_f64();
    }
}

/// See [`Kernels::combine_block`](super::Kernels::combine_block).
#[inline(always)]
pub(super) unsafe fn combine_block<A: Accumulator, R: VectorOp>(slot: *mut f64, acc: *const u8, features: usize) {
    // SAFETY: as for `store`.
    let (slot, acc) = unsafe { (std::slice::from_raw_parts_mut(slot, features), std::slice::from_raw_parts(acc.cast::<A>(), features)) };
    for (slot, acc) in slot.iter_mut().zip(acc) {
        *slot = R::combine(*slot, acc.as_f64());
    }
}

/// See [`Kernels::combine`](super::Kernels::combine).
#[inline(always)]
pub(super) unsafe fn combine<X: Vector<Acc = f64>, R: VectorOp>(older: *mut f64, newer: *const f64, features: usize) {
    let full = features / X::LANES * X::LANES;
    // SAFETY: as for `store`. Combining f64 values is pushing one to the other.
    unsafe {
        let mut column = 0;
        while column < full {
            R::push_vector(X::load(older.add(column)), X::load(newer.add(column))).store(older.add(column));
            column += X::LANES;
        }
        let part = features - full;
        if part > 0 {
            R::push_vector(X::load_part(older.add(full), part), X::load_part(newer.add(full), part)).store_part(older.add(full), part);
        }
    }
}

/// See [`Kernels::finish_block`](super::Kernels::finish_block).
#[inline(always)]
pub(super) unsafe fn finish_block<X: Vector, O: Value>(acc: *const u8, out: *mut u8, features: usize, divisor: *const u8) {
    let (acc, out) = (acc.cast::<X::Acc>(), out.cast::<O>());
    let full = features / X::LANES * X::LANES;
    // SAFETY: the caller gives `features` elements of each, which do not overlap, and a divisor or null.
    unsafe {
        let divisor = if divisor.is_null() { None } else { Some(X::splat(divisor.cast::<X::Acc>().read())) };
        let finish = |lanes: X| divisor.map_or(lanes, |divisor| lanes.div(divisor)).canonical();
        let mut column = 0;
        while column < full {
            finish(X::load(acc.add(column))).round_as(out.add(column), X::LANES);
            column += X::LANES;
        }
        if full < features {
            finish(X::load_part(acc.add(full), features - full)).round_as(out.add(full), features - full);
        }
    }
}

/// See [`Kernels::finish_tree`](super::Kernels::finish_tree).
#[inline(always)]
pub(super) unsafe fn finish_tree<O: Value>(slot: *const f64, out: *mut u8, features: usize, divisor: Option<f64>) {
    // SAFETY: the caller gives `features` elements of each, which do not overlap.
    let (slot, out) = unsafe { (std::slice::from_raw_parts(slot, features), std::slice::from_raw_parts_mut(out.cast::<O>(), features)) };
    match divisor {
        None => {
            for (out, value) in out.iter_mut().zip(slot) {
                *out = O::from_f64(*value);
            }
        }
        Some(divisor) => {
            for (out, value) in out.iter_mut().zip(slot) {
                *out = O::from_f64(*value / divisor);
            }
        }
    }
}

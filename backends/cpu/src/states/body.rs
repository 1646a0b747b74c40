//! The loops of reducers with a state, over vectors of any instruction set.
//!
//! A block's columns are taken in tiles whose states stay in registers over all rows of a pass. What a monoid does once over wide rows is done a row at a
//! time instead, with the states in the first cache, so that memory is read as it lies.

use super::To;
use crate::kernels::Block;
use crate::vector::{Lanes, Vector};
use levelfold::numerics::{Accumulator, BLOCK_ROWS, MAX_STATE, Monoid, Packed, Row, Start, State, Value, Weighing};

/// A vector of accumulators that states are computed in.
pub(crate) trait Numbers: Vector + Packed<Number = <Self as Vector>::Acc> {}

impl<X: Vector + Packed<Number = <X as Vector>::Acc>> Numbers for X {}

/// The rows of a block, its planes, and what its states begin with.
struct Input<'a, X: Numbers, M, const WEIGHTED: bool> {
    monoid: M,
    block: &'a Block,
    acc: *mut X::Acc,
    weights: *const X::Acc,
    /// Numbers from a plane to the next.
    plane: usize,
    scale: X,
    total: X,
}

impl<X: Numbers, M: Monoid, const WEIGHTED: bool> Input<'_, X, M, WEIGHTED> {
    /// A row's lanes from a column on: `part` of a vector, or all of it where that is 0.
    #[inline(always)]
    unsafe fn lanes(&self, row: usize, column: usize, part: usize) -> X {
        // SAFETY: the caller asks for rows and columns of the block.
        unsafe { load_of(self.block.rows.add(row).read().cast::<X::Acc>().add(column), part) }
    }

    #[inline(always)]
    unsafe fn start(&self, first: X) -> State<X> {
        let n = if WEIGHTED { None } else { Some(X::of(self.block.count as f64)) };
        self.monoid.start(Start { first, n, scale: self.scale, total: self.total })
    }

    #[inline(always)]
    unsafe fn push(&self, pass: usize, state: State<X>, row: usize, x: X) -> State<X> {
        // SAFETY: where there are weights, each row has one.
        let w = if WEIGHTED { Some(<X as Packed>::splat(unsafe { self.weights.add(row).read() })) } else { None };
        self.monoid.push(pass, state, Row { x, w, index: X::of(row as f64) })
    }

    #[inline(always)]
    unsafe fn store(&self, column: usize, part: usize, state: State<X>) {
        for (plane, component) in state.into_iter().enumerate().take(M::BLOCK) {
            // SAFETY: accumulators have all planes and columns.
            unsafe { store_of(component, self.acc.add(plane * self.plane + column), part) };
        }
    }

    /// One pass over all rows, with the states of `N` vectors of columns in registers.
    #[inline(always)]
    unsafe fn pass<const PASS: usize, const N: usize>(&self, states: &mut [State<X>; N], column: usize, part: usize) {
        // SAFETY: rows and columns of the block.
        unsafe {
            for row in self.monoid.rows(self.block.count) {
                for (index, state) in states.iter_mut().enumerate() {
                    *state = self.push(PASS, *state, row, self.lanes(row, column + index * X::LANES, part));
                }
            }
            for state in states.iter_mut() {
                *state = self.monoid.close(PASS, *state);
            }
        }
    }

    /// All passes over `N` vectors of columns.
    #[inline(always)]
    unsafe fn tile<const N: usize>(&self, column: usize, part: usize) {
        // SAFETY: as above.
        unsafe {
            let mut states = [[X::of(0.0); MAX_STATE]; N];
            for (index, state) in states.iter_mut().enumerate() {
                *state = self.start(self.lanes(0, column + index * X::LANES, part));
            }
            self.pass::<0, N>(&mut states, column, part);
            if M::PASSES > 1 {
                self.pass::<1, N>(&mut states, column, part);
            }
            for (index, state) in states.into_iter().enumerate() {
                self.store(column + index * X::LANES, part, state);
            }
        }
    }

    /// One row of the first pass, of all columns; the states are in memory between rows, and only what the row changes is written.
    #[inline(always)]
    unsafe fn sweep(&self, row: usize, begins: bool, ends: bool) {
        let features = self.block.features;
        let changes = self.monoid.changes(0, WEIGHTED);
        let mut column = 0;
        // SAFETY: rows and columns of the block.
        unsafe {
            while column < features {
                let part = part_of::<X>(features - column);
                let x = self.lanes(row, column, part);
                let state = if begins { self.start(x) } else { planes_of::<X>(self.acc, M::BLOCK, self.plane, column, part) };
                let mut state = self.push(0, state, row, x);
                if M::PASSES == 1 && ends {
                    state = self.monoid.close(0, state);
                }
                for (plane, component) in state.into_iter().enumerate().take(M::BLOCK) {
                    if begins || ends || changes[plane] {
                        store_of(component, self.acc.add(plane * self.plane + column), part);
                    }
                }
                column += X::LANES;
            }
        }
    }

    /// The second pass over `N` vectors of columns, after a first one that swept over all.
    #[inline(always)]
    unsafe fn second<const N: usize>(&self, column: usize, part: usize) {
        // SAFETY: rows and columns of the block.
        unsafe {
            let mut states = [[X::of(0.0); MAX_STATE]; N];
            for (index, state) in states.iter_mut().enumerate() {
                let first = planes_of::<X>(self.acc, M::BLOCK, self.plane, column + index * X::LANES, part);
                *state = self.monoid.close(0, first);
            }
            self.pass::<1, N>(&mut states, column, part);
            for (index, state) in states.into_iter().enumerate() {
                self.store(column + index * X::LANES, part, state);
            }
        }
    }

    #[inline(always)]
    unsafe fn fold(&self) {
        let features = self.block.features;
        let vectors = features / X::LANES;
        // Wide tiles where a state leaves room for them, and where they are worth their code.
        let widest = if M::VARYING == 1 && size_of::<X::Acc>() == 4 && X::LANES > 4 { X::TILE } else { 4 };
        // As for plain reducers, rows in memory are read a row at a time, where they are wide, or a whole block.
        let is_paced = X::LANES * size_of::<X::Acc>() == 64 && vectors >= 4 && self.block.count == BLOCK_ROWS;
        let swept = !self.block.tiled && (vectors > widest || M::PASSES == 1 && is_paced);
        let mut done = 0;
        // SAFETY: rows and columns of the block.
        unsafe {
            if swept {
                let rows = self.monoid.rows(self.block.count);
                for row in rows.clone() {
                    self.sweep(row, row == rows.start, row + 1 == rows.end);
                }
                if M::PASSES == 1 {
                    return;
                }
                while X::LANES > 4 && vectors - done >= 4 {
                    self.second::<4>(done * X::LANES, 0);
                    done += 4;
                }
                let mut column = done * X::LANES;
                while column < features {
                    self.second::<1>(column, part_of::<X>(features - column));
                    column += X::LANES;
                }
                return;
            }
            while widest == 16 && vectors - done >= 16 {
                self.tile::<16>(done * X::LANES, 0);
                done += 16;
            }
            while widest == 8 && vectors - done >= 8 {
                self.tile::<8>(done * X::LANES, 0);
                done += 8;
            }
            while X::LANES > 4 && vectors - done >= 4 {
                self.tile::<4>(done * X::LANES, 0);
                done += 4;
            }
            let mut column = done * X::LANES;
            while column < features {
                self.tile::<1>(column, part_of::<X>(features - column));
                column += X::LANES;
            }
        }
    }
}

/// How much of the next vector there is, where so many columns are left; 0 for all of it.
#[inline(always)]
pub(crate) fn part_of<X: Vector>(left: usize) -> usize {
    if left < X::LANES { left } else { 0 }
}

/// A vector, or the first `part` lanes of one.
#[inline(always)]
pub(crate) unsafe fn load_of<X: Vector>(from: *const X::Acc, part: usize) -> X {
    // SAFETY: the caller gives so many elements.
    unsafe { if part == 0 { X::load(from) } else { X::load_part(from, part) } }
}

#[inline(always)]
pub(crate) unsafe fn store_of<X: Vector>(lanes: X, to: *mut X::Acc, part: usize) {
    // SAFETY: as above.
    unsafe { if part == 0 { lanes.store(to) } else { lanes.store_part(to, part) } }
}

/// The states of a block of rows, in planes that are so many numbers apart.
#[inline(always)]
pub(super) unsafe fn accumulate<X: Numbers, M: Monoid, const WEIGHTED: bool>(monoid: M, block: &Block, plane: usize) {
    // What never has weights, or always, is compiled once.
    let is_asked_for = match M::WEIGHING {
        Weighing::Never => !WEIGHTED,
        Weighing::Either => true,
        Weighing::Scores => WEIGHTED,
    };
    if M::PASSES == 0 || !is_asked_for {
        return;
    }
    let (mut weights, acc) = (block.weights.cast::<X::Acc>(), block.acc.cast());
    let (mut scale, mut total) = (X::Acc::of_f64(0.0), X::Acc::of_f64(0.0));
    let mut weighed = [X::Acc::default(); BLOCK_ROWS];
    // SAFETY: the caller's block; where there are weights, each row has one.
    unsafe {
        if matches!(M::WEIGHING, Weighing::Scores) {
            let scores = std::slice::from_raw_parts(weights, block.count);
            scale = monoid.scale(scores);
            let mut first = 0;
            while first < block.count {
                let part = part_of::<X>(block.count - first);
                store_of(
                    monoid.weigh(load_of(weights.add(first), part), <X as Packed>::splat(scale)),
                    weighed.as_mut_ptr().add(first),
                    part,
                );
                first += X::LANES;
            }
            for weight in &weighed[..block.count] {
                total = Accumulator::add(total, *weight);
            }
            weights = weighed.as_ptr();
        }
        let (scale, total) = (<X as Packed>::splat(scale), <X as Packed>::splat(total));
        Input::<X, M, WEIGHTED> { monoid, block, acc, weights, plane, scale, total }.fold();
    }
}

/// Rows of a narrower type, as rows of accumulators: `features` of each from a column on, one after the other.
#[inline(always)]
pub(super) unsafe fn widen_rows<T: Value, X: Lanes<T>>(block: &Block, first: usize, features: usize, to: *mut T::Acc) {
    for row in 0..block.count {
        let mut column = 0;
        // SAFETY: the block has these rows and columns, and there is room for them.
        unsafe {
            let (from, to) = (block.rows.add(row).read().cast::<T>().add(first), to.add(row * features));
            while column < features {
                let part = part_of::<X>(features - column);
                let from = from.add(column);
                store_of(if part == 0 { X::widen(from) } else { X::widen_part(from, part) }, to.add(column), part);
                column += X::LANES;
            }
        }
    }
}

/// Does something for every vector of columns: from which on, and how much of it there is.
macro_rules! each_vector {
    ($vector:ty, $features:ident, |$column:ident, $part:ident| $body:block) => {{
        let mut $column = 0;
        while $column < $features {
            let $part = part_of::<$vector>($features - $column);
            $body
            $column += <$vector>::LANES;
        }
    }};
}

/// One vector of `count` planes, which are so many numbers apart.
#[inline(always)]
unsafe fn planes_of<X: Numbers>(from: *const X::Acc, count: usize, plane: usize, column: usize, part: usize) -> State<X> {
    let mut state = [X::of(0.0); MAX_STATE];
    for (index, component) in state.iter_mut().enumerate().take(count) {
        // SAFETY: the caller gives these planes.
        *component = unsafe { load_of(from.add(index * plane + column), part) };
    }
    state
}

/// The results of a segment of one block.
#[inline(always)]
pub(super) unsafe fn finish_block<A: Value<Acc = A>, X, M: Monoid>(monoid: M, acc: *const u8, n: f64, to: To, features: usize)
where
    X: Lanes<A> + Packed<Number = A>,
{
    let (acc, n) = (acc.cast::<A>(), X::of(n));
    let mut row = RowOut::<A, X>::new(to);
    // SAFETY: the caller's planes and results.
    unsafe {
        each_vector!(X, features, |column, part| {
            let state = planes_of::<X>(acc, M::BLOCK, features, column, part);
            row.put(monoid.finish_block(state, n), column, part);
        });
        row.end();
    }
}

/// Accumulators, divided by a number other than 0.
#[inline(always)]
pub(super) unsafe fn divide<A: Value<Acc = A>, X>(acc: *const u8, divisor: f64, to: To, features: usize)
where
    X: Lanes<A> + Packed<Number = A>,
{
    let mut row = RowOut::<A, X>::new(to);
    // SAFETY: the caller's accumulators and results.
    unsafe {
        each_vector!(X, features, |column, part| {
            let lanes: X = load_of(acc.cast::<A>().add(column), part);
            let lanes = if divisor == 0.0 { lanes } else { lanes / X::of(divisor) };
            row.put(lanes, column, part);
        });
        row.end();
    }
}

/// A row of results that is written vector by vector, from its first column on.
pub(crate) struct RowOut<A, X> {
    to: To,
    /// The vector that was written last, and to where.
    last: Option<(X, *mut A)>,
}

impl<A: Value<Acc = A>, X: Lanes<A>> RowOut<A, X> {
    #[inline(always)]
    pub(crate) fn new(to: To) -> Self {
        RowOut { to, last: None }
    }

    /// Writes a vector, or the first `part` lanes of one.
    ///
    /// # Safety
    /// The row has these columns.
    #[inline(always)]
    pub(crate) unsafe fn put(&mut self, lanes: X, column: usize, part: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let lanes = lanes.canonical();
            let To { row, streams, also } = self.to;
            let row = row.cast::<A>().add(column);
            if !streams || part > 0 {
                return store_of(lanes, row, part);
            }
            match self.last {
                None => lanes.stream_first(row),
                Some((before, _)) => lanes.stream_next(before, row),
            }
            self.last = Some((lanes, row));
            if !also.is_null() {
                lanes.store(also.cast::<A>().add(column));
            }
        }
    }

    /// Ends the row.
    ///
    /// # Safety
    /// As for [`put`](Self::put).
    #[inline(always)]
    pub(crate) unsafe fn end(self) {
        if let Some((last, row)) = self.last {
            // SAFETY: what was written.
            unsafe { last.stream_rest(row) }
        }
    }
}

/// A block, as a leaf of the tree.
#[inline(always)]
pub(super) unsafe fn widen<A: Accumulator, X, M: Monoid>(monoid: M, slot: *mut f64, acc: *const u8, features: usize, first_row: f64)
where
    X: Numbers + Vector<Acc = f64>,
{
    let acc = acc.cast::<A>();
    let mut wide = [[0f64; 16]; MAX_STATE];
    // SAFETY: the caller's planes. No vector has more lanes than the array.
    unsafe {
        each_vector!(X, features, |column, part| {
            let lanes = if part == 0 { X::LANES } else { part };
            for (plane, wide) in wide.iter_mut().enumerate().take(M::BLOCK) {
                let from = std::slice::from_raw_parts(acc.add(plane * features + column), lanes);
                for (wide, number) in wide.iter_mut().zip(from) {
                    *wide = number.as_f64();
                }
            }
            let mut state = [X::of(0.0); MAX_STATE];
            for (component, wide) in state.iter_mut().zip(&wide).take(M::BLOCK) {
                *component = X::load(wide.as_ptr());
            }
            put::<X, M>(slot, features, column, part, monoid.leaf(state, X::of(first_row)));
        });
    }
}

/// Writes one vector of a tree's planes.
#[inline(always)]
unsafe fn put<X: Vector<Acc = f64>, M: Monoid>(slot: *mut f64, features: usize, column: usize, part: usize, state: State<X>) {
    for (plane, component) in state.into_iter().enumerate().take(M::TREE) {
        // SAFETY: the caller gives these planes.
        unsafe { store_of(component, slot.add(plane * features + column), part) };
    }
}

/// Two neighbours of a tree, as one.
#[inline(always)]
pub(super) unsafe fn combine<X, M: Monoid>(monoid: M, older: *mut f64, newer: *const f64, features: usize)
where
    X: Numbers + Vector<Acc = f64>,
{
    // SAFETY: the caller's planes.
    unsafe {
        each_vector!(X, features, |column, part| {
            let a = planes_of::<X>(older, M::TREE, features, column, part);
            let b = planes_of::<X>(newer, M::TREE, features, column, part);
            put::<X, M>(older, features, column, part, monoid.combine(a, b));
        });
    }
}

/// The results of a segment of several blocks, in f64.
#[inline(always)]
pub(super) unsafe fn finish_tree<X, M: Monoid>(monoid: M, slot: *const f64, n: f64, out: *mut f64, features: usize)
where
    X: Numbers + Vector<Acc = f64>,
{
    // SAFETY: the caller's planes and results.
    unsafe {
        each_vector!(X, features, |column, part| {
            let state = planes_of::<X>(slot, M::TREE, features, column, part);
            store_of(monoid.finish_tree(state, X::of(n)), out.add(column), part);
        });
    }
}

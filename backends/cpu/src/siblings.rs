//! Several plain reducers of one level, without weights: a row is read once, and goes into a sum, a maximum and a minimum together.
//!
//! The three are planes of one state, so the loops are those of reducers with a state. Each reduction has the plane that is its own for an accumulator.

use crate::batch::{Dense, GROUP};
use crate::fold::{ReductionRun, Scratchpad, Walker, too_large};
use crate::kernels::{Block, Isa, Run};
use crate::states::{self, Divide, States, To};
use levelfold::error::Result;
use levelfold::numerics::{BLOCK_ROWS, Monoid, Packed, Row, Start, State};
use levelfold::{DType, Reducer};
use std::ops::Range;

/// The fewest features that are folded so.
const FEATURES: usize = 16;

/// What folds the reductions of a stage together.
pub(crate) struct Siblings {
    states: Box<dyn States>,
    /// Rounds nothing: divides a plane, or leaves it, and writes it.
    divide: Divide,
    accumulator: DType,
    /// Scratch: the planes.
    acc: usize,
}

impl Siblings {
    /// `None` where reductions are not such. Theirs are accumulators among these planes from then on.
    pub(crate) fn compile(
        isa: Isa,
        input: DType,
        features: usize,
        reductions: &mut [ReductionRun],
        scratch: &mut Scratchpad,
    ) -> Result<Option<Self>> {
        let planes: Option<Vec<usize>> = reductions.iter().map(|reduction| plane_of(&reduction.reducer)).collect();
        let (Some(planes), true) = (planes, reductions.len() > 1 && features >= FEATURES) else { return Ok(None) };
        if reductions.iter().any(|reduction| reduction.weights.is_some()) {
            return Ok(None);
        }
        let Some(states) = states::of_monoid(isa, input, Three) else { return Ok(None) };
        let accumulator = input.accumulator();
        let plane = features.checked_mul(accumulator.size()).ok_or_else(too_large)?;
        let acc = scratch.take(Three::BLOCK, plane)?;
        for (reduction, own) in reductions.iter_mut().zip(planes) {
            reduction.acc = acc + own * plane;
        }
        Ok(Some(Siblings { states, divide: states::dividing(isa, accumulator), accumulator, acc }))
    }

    /// Folds a block of rows into the accumulators of all reductions.
    ///
    /// # Safety
    /// Rows of the step, and this thread's scratch.
    pub(crate) unsafe fn accumulate(&self, scratch: *mut u8, rows: &[*const u8], features: usize, tiled: bool) {
        let acc = scratch.wrapping_add(self.acc);
        let block = Block { acc, rows: rows.as_ptr(), count: rows.len(), features, weights: std::ptr::null(), tiled };
        // SAFETY: the caller's promise; the planes were taken for these features.
        unsafe { self.states.accumulate(&block, features) }
    }
}

/// Which of the planes is a reducer's, where one is.
fn plane_of(reducer: &Reducer) -> Option<usize> {
    match reducer {
        Reducer::Sum | Reducer::Mean => Some(0),
        Reducer::Max => Some(1),
        Reducer::Min => Some(2),
        _ => None,
    }
}

/// A sum, a maximum and a minimum.
#[derive(Clone, Copy)]
struct Three;

impl Monoid for Three {
    const BLOCK: usize = 3;
    /// Trees are those of the reductions.
    const TREE: usize = 0;

    #[inline(always)]
    fn start<X: Packed>(self, _start: Start<X>) -> State<X> {
        [X::of(-0.0), X::of(f64::NEG_INFINITY), X::of(f64::INFINITY), X::of(0.0)]
    }

    #[inline(always)]
    fn push<X: Packed>(self, _pass: usize, [sum, largest, smallest, none]: State<X>, Row { x, .. }: Row<X>) -> State<X> {
        [sum + x, largest.larger(x), smallest.smaller(x), none]
    }

    #[inline(always)]
    fn finish_block<X: Packed>(self, state: State<X>, _n: X) -> X {
        state[0]
    }

    #[inline(always)]
    fn combine<X: Packed<Number = f64>>(self, older: State<X>, _newer: State<X>) -> State<X> {
        older
    }

    #[inline(always)]
    fn finish_tree<X: Packed<Number = f64>>(self, state: State<X>, _n: X) -> X {
        state[0]
    }
}

impl Walker<'_> {
    /// Runs reductions over short segments, each segment's rows once. Returns the rows.
    ///
    /// # Safety
    /// As for [`Walker::run`]; no segment is longer than a block.
    pub(crate) unsafe fn run_siblings(
        &self,
        siblings: &Siblings,
        reductions: &[ReductionRun],
        runs: &[Option<(Run<'_>, Dense)>; GROUP],
        segments: Range<u64>,
    ) -> u64 {
        let Some((any, _)) = runs.iter().flatten().next() else { return 0 };
        let mut pointers = [std::ptr::null::<u8>(); BLOCK_ROWS];
        let mut before = 0;
        for segment in segments {
            let range = any.segments.range(segment);
            let (start, count) = (range.start as usize, (range.end - range.start) as usize);
            // SAFETY: the caller's rows and results; planes lie in this thread's scratch.
            unsafe {
                if count > 0 {
                    let rows = any.source.rows(before, start, &mut pointers[..count]);
                    siblings.accumulate(self.scratch, std::slice::from_raw_parts(rows, count), any.features, any.tiled);
                    before += count;
                }
                for (reduction, run) in reductions.iter().zip(runs) {
                    let Some((run, _)) = run else { continue };
                    let to = To { row: run.row(segment), streams: run.streams, also: run.also_row(segment) };
                    if count == 0 {
                        run.fill(segment);
                        continue;
                    }
                    let acc = self.scratch.wrapping_add(reduction.acc);
                    let divisor = if run.divides { count as f64 } else { 0.0 };
                    if reduction.dtype == siblings.accumulator {
                        (siblings.divide)(acc, divisor, to, run.features);
                        continue;
                    }
                    // Numbers of 16 bits are rounded through the cache.
                    let (double, single) = (divisor, divisor as f32);
                    let divisor = match (run.divides, siblings.accumulator) {
                        (false, _) => std::ptr::null(),
                        (true, DType::F64) => std::ptr::from_ref(&double).cast(),
                        (true, _) => std::ptr::from_ref(&single).cast(),
                    };
                    (run.finish_block)(acc, to.row, run.features, divisor);
                    if !to.also.is_null() {
                        std::ptr::copy_nonoverlapping(to.row, to.also, run.features * run.out_size);
                    }
                }
            }
        }
        before as u64
    }
}

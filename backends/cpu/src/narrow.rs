//! Narrow rows, with fewer features than half a vector: consecutive segments, or the blocks of a long one, are taken many at a time.

use crate::batch::Dense;
use crate::fold::{ReductionRun, Scratchpad, Walker, too_large};
use crate::kernels::items::{self, ITEMS, ItemKernels, Items, Op, PAIRED};
use crate::kernels::{Block, Isa, Run, Source};
use crate::stream;
use levelfold::error::Result;
use levelfold::numerics::{BLOCK_ROWS, BLOCK_ROWS_U64};
use levelfold::plan::Load;
use levelfold::{DType, Reducer};
use std::ops::Range;

/// What a reduction of narrow rows has beside what every reduction has.
pub(crate) struct Narrow {
    kernels: ItemKernels,
    op: Op,
    accumulator: DType,
    /// The bytes of an element of rows.
    size: usize,
    /// Scratch: accumulators of as many items as are taken at once, and behind them one row of f64.
    acc: usize,
    value: usize,
    /// Scratch: rows as accumulators, where those have another type.
    wide: Option<usize>,
}

/// So many elements are widened at once, where that is at least an item.
const WIDE: usize = 4096;
/// So many items at once are few streams.
const FEW: usize = 4;
/// So many segments are looked at first: a long one may come soon.
const FIRST_ITEMS: usize = 32;

impl Narrow {
    /// `None` where rows are not narrow, and where the reducer has a state.
    pub(crate) fn compile(isa: Isa, input: DType, reducer: &Reducer, features: usize, scratch: &mut Scratchpad) -> Result<Option<Self>> {
        let accumulator = input.accumulator();
        let (Some(op), Some(kernels)) = (Op::of(reducer), items::select(isa, accumulator, features)) else { return Ok(None) };
        let size = accumulator.size();
        Ok(Some(Narrow {
            kernels,
            op,
            accumulator,
            size: input.size(),
            acc: scratch.take(ITEMS.checked_mul(features).ok_or_else(too_large)?, size)?,
            value: scratch.take(features, 8)?,
            wide: if input == accumulator { None } else { Some(scratch.take(WIDE, size)?) },
        }))
    }

    /// The most rows of a call.
    fn most_rows(&self, features: usize) -> usize {
        if self.wide.is_some() { WIDE / features } else { usize::MAX }
    }
}

impl Walker<'_> {
    /// What runs instead of a reduction's own kernel: where rows are narrow, have no weights, and lie one right after the other.
    pub(crate) fn narrow_run<'b>(&self, reduction: &'b ReductionRun, source: Source) -> Option<&'b Narrow> {
        let narrow = reduction.narrow.as_ref()?;
        let Source::Strided { stride, .. } = source else { return None };
        (reduction.weights.is_none() && stride == (self.step.features * narrow.size) as isize).then_some(narrow)
    }

    /// What [`fold_run`](crate::kernels::Kernels::fold_run) does, over segments between offsets.
    ///
    /// # Safety
    /// As for [`Walker::run`]; the source is what [`narrow_run`](Self::narrow_run) was asked about.
    pub(crate) unsafe fn run_narrow(
        &mut self,
        narrow: &Narrow,
        reduction: &ReductionRun,
        run: &Run<'_>,
        offsets: &[u64],
        segments: Range<u64>,
        rows_read: &mut u64,
    ) -> u64 {
        let features = self.step.features;
        let Source::Strided { start, .. } = run.source else { return segments.start };
        let row_bytes = features * reduction.size;
        let dense = run.out_stride == row_bytes as isize;
        // Results that nothing reads again go past the cache, from where they were rounded in place.
        let streams = reduction.is_large
            && dense
            && reduction.size <= narrow.accumulator.size()
            && self.writes_in_place(reduction)
            && !reduction.feeds;
        self.streamed |= streams;
        let (mut next, mut most) = (segments.start as usize, FIRST_ITEMS);
        let last = segments.end as usize;
        while next < last {
            let mut count = most.min(last - next);
            most = ITEMS;
            // SAFETY: the machine has the instruction set.
            let lengths = unsafe { (narrow.kernels.scan)(&offsets[next..=next + count]) };
            if lengths.any_long {
                count = (0..count).find(|item| offsets[next + item + 1] - offsets[next + item] > BLOCK_ROWS_U64).unwrap_or(count);
            }
            let is_cut = lengths.any_long;
            while (offsets[next + count] - offsets[next]) as usize > narrow.most_rows(features).max(BLOCK_ROWS) {
                count = count.div_ceil(2);
            }
            let all = &offsets[next..=next + count];
            let (first, end) = (all[0], all[count]);
            let out = run.out.wrapping_offset(next as isize * run.out_stride);
            // SAFETY: the caller's rows and results; scratch is nobody else's.
            unsafe {
                let rows = self.widened(narrow, reduction, start, first..end);
                let acc = self.scratch.add(narrow.acc);
                let mut folded = acc.cast_const();
                if lengths.any_several || lengths.any_empty {
                    (narrow.kernels.fold)(&Items {
                        rows,
                        features,
                        starts: &all[..count],
                        ends: &all[1..],
                        are_whole: false,
                        acc,
                        op: narrow.op,
                        divides: run.divides,
                    });
                } else {
                    // Each row is what would come of it.
                    folded = rows.wrapping_add(first as usize * features * narrow.accumulator.size());
                }
                match (dense, streams) {
                    (true, false) => (run.finish_block)(folded, out, count * features, std::ptr::null()),
                    (true, true) => (run.finish_block)(folded, acc, count * features, std::ptr::null()),
                    (false, _) => {
                        for item in 0..count {
                            let folded = folded.add(item * features * narrow.accumulator.size());
                            (run.finish_block)(folded, out.wrapping_offset(item as isize * run.out_stride), features, std::ptr::null());
                        }
                    }
                }
                if lengths.any_empty {
                    let made = if streams {
                        Dense { start: acc, stride: row_bytes as isize }
                    } else {
                        Dense { start: out, stride: run.out_stride }
                    };
                    for item in (0..count).filter(|item| all[*item] == all[item + 1]) {
                        for feature in 0..features {
                            let to = made.row(item).add(feature * reduction.size);
                            std::ptr::copy_nonoverlapping(reduction.fill.as_ptr(), to, reduction.size);
                        }
                    }
                }
                if streams {
                    stream::copy(acc, out, count * row_bytes);
                }
            }
            *rows_read += end - first;
            next += count;
            if is_cut && offsets.get(next + 1).is_some_and(|end| end - offsets[next] > BLOCK_ROWS_U64) {
                break;
            }
        }
        next as u64
    }

    /// Rows as accumulators: where row 0 of the table would be.
    unsafe fn widened(&self, narrow: &Narrow, reduction: &ReductionRun, start: *const u8, rows: Range<u64>) -> *const u8 {
        let Some(wide) = narrow.wide else { return start };
        let features = self.step.features;
        let (first, elements) = (rows.start as usize * features, (rows.end - rows.start) as usize * features);
        let acc = self.scratch.wrapping_add(wide);
        let from = start.wrapping_add(first * narrow.size);
        // SAFETY: the caller's rows, of no more elements than there is room for. One row is what a fold of it leaves.
        unsafe {
            let block = Block { acc, rows: &from, count: 1, features: elements, weights: std::ptr::null(), tiled: false };
            (reduction.kernels.accumulate)(&block);
        }
        acc.wrapping_sub(first * narrow.accumulator.size())
    }

    /// Where the rows of a stage lie, if long segments of it may be taken in groups of blocks.
    fn narrow_rows(&self, k: usize) -> Option<*const u8> {
        let stage = &self.step.stages[k];
        let (0, Load::View { values }, None) = (k, self.step.load, &stage.elements) else { return None };
        let memory = self.memory[values.index()];
        let source = Source::Strided { start: memory.start, stride: memory.row_stride };
        let all = stage.reductions.iter().all(|reduction| self.narrow_run(reduction, source).is_some());
        (memory.is_dense() && all).then_some(memory.start.cast_const())
    }

    /// Adds rows of one segment to the trees that have none yet, in groups of 2^n blocks, and returns the first row that is left: fewer than two blocks
    /// are.
    ///
    /// # Safety
    /// As for [`Walker::run`].
    pub(crate) unsafe fn fold_groups(&mut self, k: usize, rows: Range<u64>) -> u64 {
        let Some(memory) = self.narrow_rows(k) else { return rows.start };
        let step = self.step;
        let stage = &step.stages[k];
        let mut start = rows.start;
        loop {
            let mut blocks = ((rows.end - start) / BLOCK_ROWS_U64).min(PAIRED as u64) as usize;
            for narrow in stage.reductions.iter().filter_map(|reduction| reduction.narrow.as_ref()) {
                blocks = blocks.min(narrow.most_rows(step.features) / BLOCK_ROWS);
            }
            if blocks < 2 {
                return start;
            }
            let level = blocks.ilog2();
            let blocks = 1 << level;
            let end = start + blocks as u64 * BLOCK_ROWS_U64;
            for (index, reduction) in stage.reductions.iter().enumerate() {
                let Some(narrow) = &reduction.narrow else { continue };
                // Of few at once, each goes down blocks in order: long streams, which prefetchers follow.
                let at_once = narrow.kernels.at_once;
                let runs = if at_once <= FEW && blocks > at_once { blocks / at_once } else { 1 };
                let at = |block: usize| block % runs * (blocks / runs) + block / runs;
                let (mut starts, mut ends) = ([0u64; PAIRED], [0u64; PAIRED]);
                for block in 0..blocks {
                    let first = start + block as u64 * BLOCK_ROWS_U64;
                    (starts[at(block)], ends[at(block)]) = (first, first + BLOCK_ROWS_U64);
                }
                // SAFETY: the caller's rows; scratch is nobody else's.
                unsafe {
                    let acc = self.scratch.add(narrow.acc);
                    (narrow.kernels.fold)(&Items {
                        rows: self.widened(narrow, reduction, memory, start..end),
                        features: step.features,
                        starts: &starts[..blocks],
                        ends: &ends[..blocks],
                        are_whole: true,
                        acc,
                        op: narrow.op,
                        divides: false,
                    });
                    let value = self.scratch.add(narrow.value).cast::<f64>();
                    match narrow.accumulator {
                        DType::F64 => items::pair::<f64>(narrow.op, acc, blocks, step.features, at, value),
                        _ => items::pair::<f32>(narrow.op, acc, blocks, step.features, at, value),
                    }
                    self.push_group(k, index, level, value);
                }
            }
            self.read += (end - start) * (stage.weight_read + step.row_read);
            start = end;
        }
    }
}

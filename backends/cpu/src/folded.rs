//! Rows that lie column by column, folded as they are turned: a window of blocks at a time, in the order in which a task takes them.

use crate::fold::{FoldStep, Scratchpad, Walker};
use crate::kernels::Source;
use crate::kernels::items::Op;
use crate::kernels::panels::{self, FoldPanels, Panels, ROW_ALIGN, ROWS};
use crate::memory::{LINE, Memory};
use crate::stream;
use levelfold::DType;
use levelfold::error::Result;
use levelfold::numerics::BLOCK_ROWS_U64;
use levelfold::plan::Load;
use std::ops::Range;

/// What a step has to fold panels.
pub(crate) struct PanelRun {
    fold: FoldPanels,
    op: Op,
    /// Scratch: for each row of a window whether it goes on, and where it goes.
    goes_on: usize,
    places: usize,
    /// The bytes of a row of accumulators in the tile, and how many there are room for.
    stride: usize,
    most: usize,
}

/// The most rows of a window, but for what its last block has more, and for the line that it begins in.
const WINDOW: usize = 2048;
const TABLE: usize = WINDOW + 128;

impl PanelRun {
    /// For the one reduction of the lowest stage, whose tile has so many bytes; `None` where the instruction set or the reducer has nothing.
    pub(crate) fn compile(step: &FoldStep, tile_bytes: usize, scratch: &mut Scratchpad) -> Result<Option<Self>> {
        let stage = &step.stages[0];
        let [reduction] = stage.reductions.as_slice() else { return Ok(None) };
        let is_plain = stage.elements.is_none() && reduction.weights.is_none() && reduction.states.is_none();
        let (true, Some(op), Some(fold)) = (is_plain, Op::of(&reduction.reducer), panels::select(step.isa, stage.input)) else {
            return Ok(None);
        };
        let stride = (step.features * stage.input.accumulator().size()).next_multiple_of(ROW_ALIGN);
        let most = tile_bytes / stride.max(1);
        // One place is nobody's.
        if most < 2 || u32::try_from(tile_bytes).is_err() {
            return Ok(None);
        }
        let (goes_on, places) = (scratch.take(TABLE, 4)?, scratch.take(TABLE, 4)?);
        Ok(Some(PanelRun { fold, op, goes_on, places, stride, most }))
    }
}

/// The blocks that were folded, and the next of them that will be asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct FoldedWindow {
    /// The first row of the next block, and the end of the last.
    next: u64,
    end: u64,
    /// The place of the next block.
    place: usize,
}

impl Walker<'_> {
    /// Whether the rows of stage 0 are folded as they are turned.
    pub(crate) fn folds_panels(&self) -> bool {
        self.panel_source().is_some()
    }

    fn panel_source(&self) -> Option<Memory> {
        let (Some(_), Load::View { values }) = (&self.step.panels, self.step.load) else { return None };
        let memory = self.memory[values.index()];
        let lies_by_column = memory.packed.is_none() && !memory.is_dense() && memory.row_stride == memory.dtype.size() as isize;
        (lies_by_column && self.tables.get(self.step.stages[0].table).is_partition()).then_some(memory)
    }

    /// Folds consecutive short segments of stage 0, as [`fold_batch`](Self::fold_batch) does.
    ///
    /// # Safety
    /// As for [`Walker::run`], where [`folds_panels`](Self::folds_panels).
    pub(crate) unsafe fn fold_panels(&mut self, segments: Range<u64>, slots: *mut u8) -> u64 {
        let step = self.step;
        let stage = &step.stages[0];
        let table = self.tables.get(stage.table);
        let [reduction] = stage.reductions.as_slice() else { return segments.start };
        let source = Source::Pointers(std::ptr::null());
        let Some((run, out)) = self.run_of(0, reduction, segments.start, slots, source) else { return segments.end };
        let row_bytes = step.features * reduction.size;
        let (mut next, mut rows) = (segments.end, 0);
        for segment in segments.clone() {
            let range = table.range(segment);
            let count = range.end - range.start;
            if count > BLOCK_ROWS_U64 {
                next = segment;
                break;
            }
            let to = run.out.wrapping_offset(segment as isize * run.out_stride);
            let also = if run.also.is_null() { run.also } else { run.also.wrapping_offset(segment as isize * run.also_stride) };
            rows += count;
            // SAFETY: the caller's promise; a result is no larger than its accumulator where it is streamed.
            unsafe {
                if count == 0 {
                    for place in [to, also].into_iter().filter(|place| !place.is_null()) {
                        for feature in 0..step.features {
                            std::ptr::copy_nonoverlapping(reduction.fill.as_ptr(), place.add(feature * reduction.size), reduction.size);
                        }
                    }
                    continue;
                }
                let acc = self.folded_block(segment, range);
                let (single, double) = (count as f32, count as f64);
                let divisor: *const u8 = match (run.divides, stage.input.accumulator()) {
                    (false, _) => std::ptr::null(),
                    (true, DType::F64) => std::ptr::from_ref(&double).cast(),
                    (true, _) => std::ptr::from_ref(&single).cast(),
                };
                if run.streams {
                    (run.finish_block)(acc, acc, step.features, divisor);
                    stream::copy(acc, to, row_bytes);
                    if !also.is_null() {
                        std::ptr::copy_nonoverlapping(acc, also, row_bytes);
                    }
                } else {
                    (run.finish_block)(acc, to, step.features, divisor);
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.delivered(reduction, segments.start..next, &run, out, slots) };
        self.read += rows * step.row_read;
        self.written += (next - segments.start) * stage.segment_written;
        next
    }

    /// The accumulators of a block of a segment: blocks are asked for in order.
    ///
    /// # Safety
    /// As for [`fold_panels`](Self::fold_panels); the block begins a multiple of blocks behind its segment's start.
    pub(crate) unsafe fn folded_block(&mut self, segment: u64, rows: Range<u64>) -> *mut u8 {
        if rows.start != self.folded.next || rows.end > self.folded.end {
            // SAFETY: the caller's promise.
            unsafe { self.fold_window(segment, rows.start) };
        }
        let Some(panels) = &self.step.panels else { return std::ptr::null_mut() };
        let place = self.folded.place;
        self.folded = FoldedWindow { next: rows.end, place: place + 1, ..self.folded };
        self.scratch.wrapping_add(self.step.stages[0].tile + place * panels.stride)
    }

    /// Folds blocks from a row on, as far as the task has rows and there is room.
    unsafe fn fold_window(&mut self, mut segment: u64, first: u64) {
        let (Some(panels), Some(memory)) = (&self.step.panels, self.panel_source()) else { return };
        let table = self.tables.get(self.step.stages[0].table);
        let size = memory.dtype.size();
        // From where a line begins, so that lines are read once and whole; what comes before the first block goes to nobody's place.
        let behind = (memory.row(first as usize).addr() % LINE / size).min(first as usize);
        // SAFETY: this thread's scratch has room for both tables.
        let (goes_on, places) = unsafe {
            let table = |at: usize| std::slice::from_raw_parts_mut(self.scratch.add(at).cast::<u32>(), TABLE);
            (table(panels.goes_on), table(panels.places))
        };
        goes_on[..behind].fill(0);
        places[..behind].fill(0);
        let (mut rows, mut place, mut next) = (behind, 1, first);
        while next < self.until && place < panels.most && rows < WINDOW {
            let range = table.range(segment);
            while next < range.end.min(self.until) && place < panels.most && rows < WINDOW {
                let end = (next + BLOCK_ROWS_U64).min(range.end).min(self.until);
                let block = rows..rows + (end - next) as usize;
                goes_on[block.clone()].fill(u32::MAX);
                goes_on[block.start] = 0;
                places[block.clone()].fill((place * panels.stride) as u32);
                (rows, place, next) = (block.end, place + 1, end);
            }
            segment += 1;
        }
        let whole = rows.next_multiple_of(ROWS);
        goes_on[rows..whole].fill(0);
        places[rows..whole].fill(0);
        self.folded = FoldedWindow { next: first, end: next, place: 1 };
        let window = Panels {
            from: memory.row(first as usize - behind),
            column_stride: memory.feature_stride,
            features: self.step.features,
            rows,
            goes_on,
            places,
            acc: self.scratch.wrapping_add(self.step.stages[0].tile),
            op: panels.op,
        };
        // SAFETY: the window's rows are rows of the view; places lie in the tile, with room for whole vectors.
        unsafe { (panels.fold)(&window) }
    }
}

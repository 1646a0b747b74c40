//! Fold steps: walks segments depth first and feeds blocks of rows to kernels.
//!
//! *Invariant:* two tasks never write the same bytes: a segment belongs to one task or is cut into pieces, each of which writes its own row
//! of partials; the rows of lower stages that a task makes are those of its own segments, since the tables above the lowest partition them.

use crate::cuts::{Cuts, Split, Task};
use crate::kernels::{self, Block, FoldRun, Isa, Kernels, Run, Source};
use crate::load::load_weights;
use crate::memory::{Memory, narrow};
use half::{bf16, f16};
use levelfold::backend::TableSet;
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::ids::{TableId, ViewId};
use levelfold::numerics::{BLOCK_ROWS, BLOCK_ROWS_U64, Value};
use levelfold::plan::{Fold, Load, Order, Plan};
use levelfold::{DType, OnEmpty, Reducer};

/// A fold, compiled.
pub(crate) struct FoldStep {
    pub(crate) load: Load,
    pub(crate) stages: Vec<StageRun>,
    pub(crate) features: usize,
    /// Bytes that a leaf row costs to read.
    row_read: u64,
    pub(crate) cuts: Cuts,
    /// Where the rows of each segment begin in a packed view, when its table is not a partition.
    pub(crate) starts: Vec<u64>,
    /// The bytes of scratch that one thread needs.
    pub(crate) scratch_bytes: usize,
}

/// One stage, compiled.
pub(crate) struct StageRun {
    pub(crate) table: TableId,
    reductions: Vec<ReductionRun>,
    /// The reduction that the next stage folds.
    feeds: Option<usize>,
    /// The type of the rows that this stage folds.
    input: DType,
    /// Bytes of weights that one row costs to read.
    weight_read: u64,
    /// Bytes that one segment writes.
    segment_written: u64,
    /// Scratch: offsets from the start of a thread's memory.
    pub(crate) tile: usize,
    depth: usize,
}

struct ReductionRun {
    kernels: Kernels,
    reducer: Reducer,
    weights: Option<ViewId>,
    write: Option<ViewId>,
    /// One element of an empty segment's row, in the first bytes.
    fill: [u8; 8],
    size: usize,
    /// Scratch: offsets from the start of a thread's memory.
    acc: usize,
    tree: usize,
    sizes: usize,
    row: usize,
}

/// Rows of a tile: a feature-major input is turned this many rows at a time.
pub(crate) const TILE_ROWS: usize = 64;

impl FoldStep {
    pub(crate) fn compile(plan: &Plan, fold: &Fold, isa: Isa) -> Result<Self> {
        let (view, row_read) = match fold.load {
            Load::View { values } => (values, 0),
            Load::Gather { ids, table } => (table, plan.buffer_of(ids).dtype.size_u64()),
        };
        let features = narrow(plan.view(view).features)?;
        let mut input = plan.buffer_of(view).dtype;
        let row_read = row_read + plan.view(view).features * input.size_u64();
        // Where no level has a single segment nothing runs, however many features there would be.
        let idle = fold.stages.iter().all(|stage| plan.table(stage.table).segments == 0);
        let features = if idle { 0 } else { features };
        let mut scratch = Scratchpad::default();
        let mut stages = Vec::with_capacity(fold.stages.len());
        for (index, stage) in fold.stages.iter().enumerate() {
            let feeds = fold.stages.get(index + 1).map(|next| next.feed as usize);
            let longest = plan.table(stage.table).longest;
            let depth = longest.div_ceil(BLOCK_ROWS_U64).max(1).ilog2() as usize + 2;
            let mut reductions = Vec::with_capacity(stage.reductions.len());
            let (mut weight_read, mut segment_written) = (0, 0);
            for reduction in &stage.reductions {
                let kernels = kernels::select(isa, input, reduction.reducer, reduction.dtype).ok_or_else(|| {
                    Error::new(ErrorCode::Unsupported, format!("{} of {input} as {}", reduction.reducer, reduction.dtype))
                })?;
                if let Some(weights) = reduction.weights {
                    weight_read += plan.buffer_of(weights).dtype.size_u64();
                }
                if reduction.write.is_some() {
                    segment_written += features as u64 * reduction.dtype.size_u64();
                }
                reductions.push(ReductionRun {
                    kernels,
                    reducer: reduction.reducer,
                    weights: reduction.weights,
                    write: reduction.write,
                    fill: fill_of(reduction.on_empty, reduction.dtype),
                    size: reduction.dtype.size(),
                    acc: scratch.take(features + 1, 8)?,
                    tree: scratch.take((features + 1).checked_mul(depth).ok_or_else(too_large)?, 8)?,
                    sizes: scratch.take(depth, 8)?,
                    row: scratch.take(features, 8)?,
                });
            }
            let tile_rows = if index == 0 { TILE_ROWS } else { BLOCK_ROWS };
            let tile = scratch.take(features.checked_mul(tile_rows).ok_or_else(too_large)?, input.size())?;
            stages.push(StageRun { table: stage.table, reductions, feeds, input, weight_read, segment_written, tile, depth });
            if let Some(feeds) = feeds {
                input = stage.reductions[feeds].dtype;
            }
        }
        Ok(FoldStep {
            load: fold.load,
            stages,
            features,
            row_read,
            cuts: Cuts::default(),
            starts: Vec::new(),
            scratch_bytes: scratch.bytes,
        })
    }

    /// The f64 values of one row of partials, over all reductions of the topmost stage.
    pub(crate) fn partial_width(&self) -> usize {
        self.stages.last().map_or(0, |stage| stage.reductions.len() * (self.features + 1))
    }
}

#[derive(Default)]
struct Scratchpad {
    bytes: usize,
}

impl Scratchpad {
    /// The offset of `count` elements, on a cache line of its own.
    fn take(&mut self, count: usize, size: usize) -> Result<usize> {
        let start = self.bytes;
        let end = count.checked_mul(size).and_then(|bytes| start.checked_add(bytes));
        self.bytes = end.and_then(|end| end.checked_next_multiple_of(64)).ok_or_else(too_large)?;
        Ok(start)
    }
}

fn too_large() -> Error {
    Error::new(ErrorCode::Overflow, "the scratch of a fold cannot be addressed")
}

fn fill_of(on_empty: OnEmpty, dtype: DType) -> [u8; 8] {
    let value = on_empty.value().unwrap_or(0.0);
    let mut bytes = [0; 8];
    match dtype {
        DType::F32 => bytes[..4].copy_from_slice(bytemuck::bytes_of(&<f32 as Value>::from_f64(value))),
        DType::F64 => bytes.copy_from_slice(bytemuck::bytes_of(&<f64 as Value>::from_f64(value))),
        DType::F16 => bytes[..2].copy_from_slice(bytemuck::bytes_of(&<f16 as Value>::from_f64(value))),
        DType::BF16 => bytes[..2].copy_from_slice(bytemuck::bytes_of(&<bf16 as Value>::from_f64(value))),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => {}
    }
    bytes
}

/// One thread at work on a fold.
pub(crate) struct Walker<'a> {
    pub(crate) step: &'a FoldStep,
    pub(crate) memory: &'a [Memory],
    pub(crate) tables: &'a TableSet,
    /// This thread's memory, `scratch_bytes` long and aligned to 64 bytes.
    pub(crate) scratch: *mut u8,
    /// Rows of partials, `partial_width` f64 each.
    pub(crate) partials: *mut f64,
    pub(crate) read: u64,
    pub(crate) written: u64,
    /// The leaf rows that the tile of stage 0 holds, where it holds any.
    pub(crate) window: (usize, usize),
}

impl<'a> Walker<'a> {
    pub(crate) fn new(step: &'a FoldStep, memory: &'a [Memory], tables: &'a TableSet, scratch: *mut u8, partials: *mut f64) -> Self {
        Walker { step, memory, tables, scratch, partials, read: 0, written: 0, window: (0, 0) }
    }

    /// Runs one task.
    ///
    /// # Safety
    /// The memory of every view is valid for the shapes of the plan; nobody else uses `scratch`; no other task of the same step has the same
    /// segment or partial.
    pub(crate) unsafe fn run(&mut self, task: Task) {
        let top = self.step.stages.len() - 1;
        // SAFETY: the caller's promise.
        unsafe {
            match task {
                Task::Segments { first, last } => self.fold_segments(top, first..last, std::ptr::null_mut(), |_, _| ()),
                Task::Piece { segment, first_row, last_row, partial } => {
                    let start = self.tables.get(self.step.stages[top].table).range(segment).start;
                    self.fold_rows(top, segment, start + first_row..start + last_row);
                    let width = self.step.features + 1;
                    for index in 0..self.step.stages[top].reductions.len() {
                        let value = self.fold_tree(top, index);
                        let row = self.partials.add(partial * self.step.partial_width() + index * width);
                        std::ptr::copy_nonoverlapping(value, row, width);
                    }
                }
            }
        }
    }

    /// Combines the partials of a segment that was cut, and writes its rows.
    ///
    /// # Safety
    /// As for `run`, after all tasks.
    pub(crate) unsafe fn finish(&mut self, split: Split) {
        let step = self.step;
        let top = step.stages.len() - 1;
        let stage = &step.stages[top];
        let range = self.tables.get(stage.table).range(split.segment);
        let width = step.features + 1;
        for (index, reduction) in stage.reductions.iter().enumerate() {
            // SAFETY: the partials of this segment are ours now; pairs of rows do not overlap.
            unsafe {
                let row = |partial: usize| self.partials.add((split.first_partial + partial) * step.partial_width() + index * width);
                let mut stride = 1;
                while stride < split.partials {
                    let mut older = 0;
                    while older + stride < split.partials {
                        (reduction.kernels.combine)(row(older), row(older + stride), self.tree_width(top, index));
                        older += 2 * stride;
                    }
                    stride *= 2;
                }
                self.emit_tree(top, index, split.segment, range.end - range.start, row(0), std::ptr::null_mut());
            }
        }
        self.written += stage.segment_written;
    }

    /// Folds consecutive segments of a stage, writes what is to be written, and tells where the row of each lies that feeds the next stage: in
    /// its slot, or in an output. `slots` are as many dense rows where the stage feeds another, or null.
    #[inline(always)]
    unsafe fn fold_segments(&mut self, k: usize, segments: std::ops::Range<u64>, slots: *mut u8, mut fed: impl FnMut(usize, *const u8)) {
        let stage = &self.step.stages[k];
        let first = segments.start;
        let size = stage.reductions[stage.feeds.unwrap_or(0)].size * self.step.features;
        let mut segment = first;
        // SAFETY: the caller's promise.
        unsafe {
            let run = if k == 0 { self.run_of(first, slots) } else { None };
            while segment < segments.end {
                if let Some((kernel, run)) = &run {
                    let mut rows = 0;
                    let next = kernel(run, segment, segments.end, &mut rows);
                    self.read += rows * self.step.row_read;
                    self.written += (next - segment) * stage.segment_written;
                    for segment in segment..next {
                        fed((segment - first) as usize, run.out.wrapping_offset(segment as isize * run.out_stride));
                    }
                    segment = next;
                    if segment == segments.end {
                        break;
                    }
                }
                let index = (segment - first) as usize;
                let slot = if slots.is_null() { slots } else { slots.add(index * size) };
                fed(index, self.fold_segment(k, segment, slot));
                segment += 1;
            }
        }
    }

    /// Stage 0 as one call over many short segments, where its rows are dense and its one reduction is plain.
    fn run_of(&self, first: u64, slots: *mut u8) -> Option<(FoldRun, Run<'a>)> {
        let (step, memory) = (self.step, self.memory);
        let stage = &step.stages[0];
        let [reduction] = stage.reductions.as_slice() else { return None };
        let (Some(direct), None) = (reduction.kernels.direct, reduction.weights) else { return None };
        let segments = self.tables.get(stage.table);
        let source = match step.load {
            Load::View { values } => {
                let values = memory[values.index()];
                let in_order = match values.packed {
                    None => values.is_dense(),
                    Some((_, order)) => order == Order::RowMajor && segments.is_partition(),
                };
                if !in_order {
                    return None;
                }
                Source::Strided { start: values.start, stride: values.row_stride }
            }
            Load::Gather { ids, table } => {
                let (ids, table) = (memory[ids.index()], memory[table.index()]);
                if !table.is_dense() {
                    return None;
                }
                Source::Looked { ids, table }
            }
        };
        let size = (step.features * reduction.size) as isize;
        let (out, out_stride) = match reduction.write {
            Some(view) if memory[view.index()].is_dense() => (memory[view.index()].start, memory[view.index()].row_stride),
            None if !slots.is_null() => (slots.wrapping_offset(-(first as isize).wrapping_mul(size)), size),
            Some(_) | None => return None,
        };
        let run = Run {
            segments,
            source,
            features: step.features,
            acc: self.scratch.wrapping_add(reduction.acc),
            out,
            out_stride,
            divides: reduction.reducer == Reducer::Mean,
            fill: reduction.fill,
        };
        Some((direct.fold_run, run))
    }

    /// Folds one segment of a stage, writes what is to be written, and returns where the row that feeds the next stage lies: in `slot`, or in
    /// an output.
    unsafe fn fold_segment(&mut self, k: usize, segment: u64, slot: *mut u8) -> *const u8 {
        let step = self.step;
        let stage = &step.stages[k];
        let range = self.tables.get(stage.table).range(segment);
        let (rows, first_row) = (range.end - range.start, range.start as usize);
        let mut fed = std::ptr::null();
        self.written += stage.segment_written;
        // SAFETY: the caller's promise; `slot` has room for a row where this stage feeds another.
        unsafe {
            let mut block = BlockRows::uninit();
            let short = match rows {
                0 => &[][..],
                1..=BLOCK_ROWS_U64 => self.block_rows(k, segment, range, &mut block),
                _ => {
                    self.fold_rows(k, segment, range);
                    &[]
                }
            };
            for index in 0..stage.reductions.len() {
                let feeds = stage.feeds == Some(index);
                let slot = if feeds { slot } else { std::ptr::null_mut() };
                let row = if rows == 0 {
                    self.emit_fill(k, index, segment, slot)
                } else if rows > BLOCK_ROWS_U64 {
                    let value = self.fold_tree(k, index);
                    self.emit_tree(k, index, segment, rows, value, slot)
                } else {
                    self.emit_block(k, index, segment, first_row, short, slot)
                };
                if feeds {
                    fed = row;
                }
            }
        }
        fed
    }

    /// Adds rows of one segment to the trees, block by block.
    unsafe fn fold_rows(&mut self, k: usize, segment: u64, range: std::ops::Range<u64>) {
        let stage = &self.step.stages[k];
        for reduction in &stage.reductions {
            // SAFETY: the counter of this reduction's tree, in this thread's scratch.
            unsafe { self.scratch.add(reduction.sizes).cast::<u64>().write(0) };
        }
        let mut block = BlockRows::uninit();
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + BLOCK_ROWS_U64);
            // SAFETY: the caller's promise.
            unsafe {
                let rows = self.block_rows(k, segment, start..end, &mut block);
                for index in 0..stage.reductions.len() {
                    self.accumulate(k, index, start as usize, rows);
                    self.push_tree(k, index);
                }
            }
            start = end;
        }
    }

    /// The rows of one block of a segment: loaded, or made by the stage below.
    #[inline(always)]
    unsafe fn block_rows<'b>(&mut self, k: usize, segment: u64, range: std::ops::Range<u64>, block: &'b mut BlockRows) -> &'b [*const u8] {
        let step = self.step;
        let stage = &step.stages[k];
        let count = (range.end - range.start) as usize;
        self.read += (range.end - range.start) * (stage.weight_read + if k == 0 { step.row_read } else { 0 });
        // SAFETY: `count` is at most a block; every entry is written before the block is read.
        unsafe {
            let rows = std::slice::from_raw_parts_mut(block.as_mut_ptr().cast::<*const u8>(), count);
            if k == 0 {
                self.load(segment, range.start as usize, rows);
            } else {
                let tile = self.scratch.add(stage.tile);
                self.fold_segments(k - 1, range, tile, |index, row| rows[index] = row);
            }
            rows
        }
    }

    /// Adds one block of rows to the accumulator of a reduction, which starts anew; with weights, their sum stands behind the features.
    unsafe fn accumulate(&self, k: usize, index: usize, first_row: usize, rows: &[*const u8]) {
        let stage = &self.step.stages[k];
        let reduction = &stage.reductions[index];
        // SAFETY: accumulators and weights lie in this thread's scratch; rows are dense and have `features` elements.
        unsafe {
            let acc = self.scratch.add(reduction.acc);
            let mut weights = std::mem::MaybeUninit::<[u64; BLOCK_ROWS]>::uninit();
            let weighted = reduction.weights.map(|view| self.memory[view.index()]);
            if let Some(memory) = weighted {
                let into = weights.as_mut_ptr().cast::<u8>();
                match stage.input.accumulator() {
                    DType::F64 => load_weights::<f64>(memory, first_row, rows.len(), into, acc, self.step.features),
                    _ => load_weights::<f32>(memory, first_row, rows.len(), into, acc, self.step.features),
                }
            }
            (reduction.kernels.accumulate)(&Block {
                acc,
                rows: rows.as_ptr(),
                count: rows.len(),
                features: self.step.features,
                weights: if weighted.is_some() { weights.as_ptr().cast() } else { std::ptr::null() },
            });
        }
    }

    /// The values of a tree's row: the features, and the sum of weights where there is one.
    fn tree_width(&self, k: usize, index: usize) -> usize {
        self.step.features + usize::from(self.step.stages[k].reductions[index].weights.is_some())
    }

    /// Pushes the accumulator to the tree: a binary counter. `sizes[0]` is its depth, and the blocks of each entry follow from it: they are
    /// the binary digits of how many blocks were pushed, which stands in `sizes[1]`.
    unsafe fn push_tree(&self, k: usize, index: usize) {
        let stage = &self.step.stages[k];
        let reduction = &stage.reductions[index];
        let (width, stride) = (self.tree_width(k, index), self.step.features + 1);
        // SAFETY: the tree has room for `depth` rows, and a counter of so many digits never has more entries.
        unsafe {
            let blocks = self.scratch.add(reduction.sizes).cast::<u64>();
            let tree = self.scratch.add(reduction.tree).cast::<f64>();
            let acc = self.scratch.add(reduction.acc);
            let pushed = blocks.read();
            // Entries before this push: one for each 1 in the binary form; each trailing 1 is combined with the new block.
            let mut entries = pushed.count_ones() as usize;
            debug_assert!(entries < stage.depth, "the counter outgrew its tree");
            let carries = pushed.trailing_ones();
            if carries == 0 {
                (reduction.kernels.store)(tree.add(entries * stride), acc, width);
            } else {
                (reduction.kernels.combine_block)(tree.add((entries - 1) * stride), acc, width);
                for _ in 1..carries {
                    entries -= 1;
                    (reduction.kernels.combine)(tree.add((entries - 1) * stride), tree.add(entries * stride), width);
                }
            }
            blocks.write(pushed + 1);
        }
    }

    /// The value of a tree: what is left is combined from the newest to the oldest.
    unsafe fn fold_tree(&self, k: usize, index: usize) -> *const f64 {
        let reduction = &self.step.stages[k].reductions[index];
        let (width, stride) = (self.tree_width(k, index), self.step.features + 1);
        // SAFETY: as for `push_tree`.
        unsafe {
            let tree = self.scratch.add(reduction.tree).cast::<f64>();
            let mut entries = self.scratch.add(reduction.sizes).cast::<u64>().read().count_ones() as usize;
            while entries > 1 {
                entries -= 1;
                (reduction.kernels.combine)(tree.add((entries - 1) * stride), tree.add(entries * stride), width);
            }
            tree
        }
    }

    /// Folds the one block of a segment, and writes the result.
    #[inline(always)]
    unsafe fn emit_block(&self, k: usize, index: usize, segment: u64, first_row: usize, rows: &[*const u8], slot: *mut u8) -> *const u8 {
        let stage = &self.step.stages[k];
        let reduction = &stage.reductions[index];
        let features = self.step.features;
        // SAFETY: accumulators lie in scratch; `emit` gives a row of `features` elements to write.
        unsafe {
            let acc = self.scratch.add(reduction.acc);
            if let (Some(direct), None) = (reduction.kernels.direct, reduction.weights) {
                let divisor = if reduction.reducer == Reducer::Mean { rows.len() as f64 } else { 0.0 };
                let block = Block { acc, rows: rows.as_ptr(), count: rows.len(), features, weights: std::ptr::null() };
                return self.emit(k, index, segment, slot, |out| (direct.fold_block)(&block, out, divisor));
            }
            self.accumulate(k, index, first_row, rows);
            // The sum of the weights stands behind the features, and so does the count without them.
            let sum = acc.add(features * stage.input.accumulator().size());
            if reduction.weights.is_none() {
                match stage.input.accumulator() {
                    DType::F64 => sum.cast::<f64>().write(rows.len() as f64),
                    _ => sum.cast::<f32>().write(rows.len() as f32),
                }
            }
            let divisor = if reduction.reducer == Reducer::Mean { sum.cast_const() } else { std::ptr::null() };
            self.emit(k, index, segment, slot, |out| (reduction.kernels.finish_block)(acc, out, features, divisor))
        }
    }

    unsafe fn emit_tree(&self, k: usize, index: usize, segment: u64, rows: u64, value: *const f64, slot: *mut u8) -> *const u8 {
        let reduction = &self.step.stages[k].reductions[index];
        // SAFETY: `value` is a row of a tree; `emit` gives a row of `features` elements to write.
        unsafe {
            let divisor = match (reduction.reducer, reduction.weights) {
                (Reducer::Mean, Some(_)) => Some(value.add(self.step.features).read()),
                (Reducer::Mean, None) => Some(rows as f64),
                (Reducer::Sum | Reducer::Max | Reducer::Min | Reducer::Prod, _) => None,
            };
            self.emit(k, index, segment, slot, |out| (reduction.kernels.finish_tree)(value, out, self.step.features, divisor))
        }
    }

    unsafe fn emit_fill(&self, k: usize, index: usize, segment: u64, slot: *mut u8) -> *const u8 {
        let reduction = &self.step.stages[k].reductions[index];
        // SAFETY: `emit` gives a row of `features` elements to write.
        unsafe {
            self.emit(k, index, segment, slot, |out| {
                for feature in 0..self.step.features {
                    std::ptr::copy_nonoverlapping(reduction.fill.as_ptr(), out.add(feature * reduction.size), reduction.size);
                }
            })
        }
    }

    /// Lets `write` fill a dense row, and sees that it gets to where it belongs: the output's row, the slot of the next stage, or both.
    unsafe fn emit(&self, k: usize, index: usize, segment: u64, slot: *mut u8, write: impl FnOnce(*mut u8)) -> *const u8 {
        let reduction = &self.step.stages[k].reductions[index];
        let Some(view) = reduction.write else {
            if !slot.is_null() {
                write(slot);
            }
            return slot;
        };
        let memory = self.memory[view.index()];
        if memory.is_dense() {
            let row = memory.row(segment as usize);
            write(row);
            return row;
        }
        // SAFETY: a scratch row has room for `features` elements; the output has this row.
        unsafe {
            let row = if slot.is_null() { self.scratch.add(reduction.row) } else { slot };
            write(row);
            for feature in 0..self.step.features {
                let element = memory.element(segment as usize, feature);
                std::ptr::copy_nonoverlapping(row.add(feature * reduction.size), element, reduction.size);
            }
            row
        }
    }
}

/// Room for the row pointers of a block, which are written before they are read.
type BlockRows = std::mem::MaybeUninit<[*const u8; BLOCK_ROWS]>;

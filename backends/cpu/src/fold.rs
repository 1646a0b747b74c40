//! Fold steps: walks segments depth first and feeds blocks of rows to kernels.
//!
//! *Invariant:* two tasks never write the same bytes: a segment belongs to one task or is cut into pieces, each of which writes its own row
//! of partials; the rows of lower stages that a task makes are those of its own segments, since the tables above the lowest partition them.

use crate::batch::Dense;
use crate::cuts::{Cuts, Split, Task};
use crate::elements::Elements;
use crate::folded::{FoldedWindow, PanelRun};
use crate::histogram::Histogram;
use crate::kernels::{self, Isa, Kernels};
use crate::lookup;
use crate::memory::{Memory, narrow};
use crate::narrow::Narrow;
use crate::select::Select;
use crate::siblings::Siblings;
use crate::states::{self, States};
use crate::stream;
use half::{bf16, f16};
use levelfold::backend::TableSet;
use levelfold::custom::Registry;
use levelfold::encoder::dtype_after;
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::ids::{TableId, ViewId};
use levelfold::numerics::{BLOCK_ROWS, BLOCK_ROWS_U64, Value};
use levelfold::plan::{Fold, Load, Place, Plan};
use levelfold::reducer::ReducerClass;
use levelfold::{DType, OnEmpty, Reducer};

/// A fold, compiled.
pub(crate) struct FoldStep {
    pub(crate) load: Load,
    pub(crate) stages: Vec<StageRun>,
    pub(crate) features: usize,
    /// What runs instead of blocks and trees, where the reducer selects.
    pub(crate) select: Option<Select>,
    /// What leaf rows are turned with, and how many at once.
    pub(crate) isa: Isa,
    pub(crate) window_rows: usize,
    /// What folds rows that lie column by column.
    pub(crate) panels: Option<PanelRun>,
    /// What counts ids first, where the fold does.
    pub(crate) histogram: Option<Histogram>,
    /// Bytes that a leaf row costs to read.
    pub(crate) row_read: u64,
    /// Bytes that a run reads once, however many rows there are.
    pub(crate) once_read: u64,
    /// Whether leaf rows are likely to be in a cache, as those of a small table are.
    pub(crate) tiled: bool,
    /// Scratch: the pointers of a batch of leaf rows.
    pub(crate) pointers: usize,
    /// Scratch: room for the table that ids look up, where it is worth being read from lines of its own, and its rows.
    pub(crate) table_copy: Option<(usize, usize)>,
    pub(crate) cuts: Cuts,
    /// Where the rows of each segment begin in a packed view, when its table is not a partition.
    pub(crate) starts: Vec<u64>,
    /// The bytes of scratch that one thread needs.
    pub(crate) scratch_bytes: usize,
}

/// One stage, compiled.
pub(crate) struct StageRun {
    pub(crate) table: TableId,
    pub(crate) reductions: Vec<ReductionRun>,
    /// What folds them together, where they are all plain.
    pub(crate) siblings: Option<Siblings>,
    /// The reduction that the next stage folds.
    pub(crate) feeds: Option<usize>,
    /// What is done to the elements of its rows first.
    pub(crate) elements: Option<Elements>,
    /// The type of the rows that this stage folds.
    pub(crate) input: DType,
    /// Bytes of weights that one row costs to read.
    pub(crate) weight_read: u64,
    /// Bytes that one segment writes.
    pub(crate) segment_written: u64,
    /// The most rows of a batch.
    pub(crate) batch_rows: usize,
    /// How many finished rows are put together before they are written.
    pub(crate) staged_rows: usize,
    /// Scratch: offsets from the start of a thread's memory.
    pub(crate) tile: usize,
    pub(crate) depth: usize,
}

pub(crate) struct ReductionRun {
    pub(crate) kernels: Kernels,
    /// What runs instead, but for the rounding of results, where the reducer has a state.
    pub(crate) states: Option<Box<dyn States>>,
    pub(crate) reducer: Reducer,
    pub(crate) weights: Option<ViewId>,
    pub(crate) write: Option<ViewId>,
    /// What takes many narrow rows at a time.
    pub(crate) narrow: Option<Narrow>,
    /// Whether all that is written is too much for the cache.
    pub(crate) is_large: bool,
    /// Whether what is written goes past the cache, where its rows are whole lines.
    pub(crate) streams: bool,
    /// Whether the next stage folds it.
    pub(crate) feeds: bool,
    /// Whether the columns beside it are written right after it.
    pub(crate) beside: bool,
    /// One element of an empty segment's row, in the first bytes.
    pub(crate) fill: [u8; 8],
    pub(crate) size: usize,
    pub(crate) dtype: DType,
    /// What is done to the elements of results, and the bytes of one after that.
    pub(crate) elements: Option<Elements>,
    pub(crate) made_size: usize,
    /// Scratch: offsets from the start of a thread's memory.
    pub(crate) acc: usize,
    pub(crate) tree: usize,
    pub(crate) sizes: usize,
    pub(crate) staged: usize,
    /// Scratch: the results of a reducer with a state, in f64.
    pub(crate) result: usize,
    /// The f64 values of one entry of a tree, or of a partial, and where those stand among all partials of the stage.
    pub(crate) width: usize,
    partial: usize,
}

/// The bytes of the rows that are turned at once, where that is at least a block: as much as leaves room for the next ones in the second cache.
const WINDOW_BYTES: usize = 256 << 10;
/// The most rows that are turned at once.
const WINDOW_ROWS: usize = 1024;
/// And of those that are not turned far down.
const NARROW_WINDOW_ROWS: usize = 64;
/// A cache line has no more rows of a column.
pub(crate) const LINE_ROWS: usize = 32;
/// The most rows of a batch.
pub(crate) const BATCH_ROWS: usize = 256;
/// The bytes that the rows of a batch should have, where that is at least a block: they are read again from the first cache.
const BATCH_BYTES: usize = 16 << 10;
/// The bytes of finished rows that are put together before they are written.
const STAGED_BYTES: usize = 8 << 10;
/// Tables and inputs of up to this many bytes are read as if they were in the second cache.
const CACHED_BYTES: u64 = 1 << 20;

impl FoldStep {
    /// Compiles a fold for an instruction set. Outputs of `stream_bytes` or more go past the cache.
    pub(crate) fn compile(plan: &Plan, fold: &Fold, isa: Isa, stream_bytes: u64, registry: &Registry) -> Result<Self> {
        let view = fold.load.values();
        let features = narrow(plan.view(view).features)?;
        let mut input = plan.buffer_of(view).dtype;
        let in_tile = |view: ViewId| matches!(plan.buffer_of(view).place, Place::Tile { .. });
        let tiled = plan.buffer_of(view).bytes() <= CACHED_BYTES || in_tile(view);
        let row_bytes = if in_tile(view) { 0 } else { plan.view(view).features * input.size_u64() };
        let id_bytes = fold.load.ids().map_or(0, |ids| plan.buffer_of(ids).dtype.size_u64());
        // What is counted is read once, whatever the segments are; what is folded then are rows of f64.
        let (row_read, once_read) = match fold.load {
            Load::View { .. } | Load::Gather { .. } => (id_bytes + row_bytes, 0),
            Load::Histogram { .. } => (id_bytes, plan.buffer_of(view).rows * row_bytes),
        };
        if let Load::Histogram { .. } = fold.load {
            input = DType::F64;
        }
        // Where no level has a single segment nothing runs, however many features there would be.
        let idle = fold.stages.iter().all(|stage| plan.table(stage.table).segments == 0);
        let features = if idle { 0 } else { features };
        let mut scratch = Scratchpad::default();
        let pointers = scratch.take(BATCH_ROWS, size_of::<*const u8>())?;
        let table_copy = match fold.load {
            Load::Gather { table, .. } => match lookup::copied(plan, table, fold) {
                Some((rows, bytes)) => Some((scratch.take(bytes, 1)?, rows)),
                None => None,
            },
            Load::View { .. } | Load::Histogram { .. } => None,
        };
        let mut stages = Vec::with_capacity(fold.stages.len());
        let mut select = None;
        let mut window_rows = BLOCK_ROWS;
        let mut tile_bytes = 0;
        // Looked-up rows are turned one by one, and an arena's are dense.
        let is_bound = match fold.load {
            Load::View { values } => matches!(plan.buffer_of(values).place, Place::Input | Place::Param),
            Load::Gather { .. } | Load::Histogram { .. } => false,
        };
        let histogram = match fold.load {
            Load::View { .. } | Load::Gather { .. } => None,
            Load::Histogram { ids, table } => {
                let rows = narrow(plan.buffer_of(table).rows)?;
                let counts = scratch.take(Histogram::counts_of(rows).ok_or_else(too_large)?, 8)?;
                Some(Histogram { ids, table, rows, counts })
            }
        };
        for (index, stage) in fold.stages.iter().enumerate() {
            let feeds = fold.stages.get(index + 1).map(|next| next.feed as usize);
            let longest = histogram.as_ref().map_or(plan.table(stage.table).longest, |histogram| histogram.rows as u64);
            let depth = longest.div_ceil(BLOCK_ROWS_U64).max(1).ilog2() as usize + 2;
            let largest = stage.reductions.iter().map(|reduction| reduction.dtype.size()).max().unwrap_or(1);
            let staged_rows = (STAGED_BYTES / (features * largest).max(1)).clamp(1, BATCH_ROWS);
            let raw_size = input.size();
            let elements = Elements::compile(&stage.ops, input, features, isa, &mut scratch)?;
            input = dtype_after(&stage.ops, input);
            let batch_rows = (BATCH_BYTES / (features * input.size()).max(1)).clamp(BLOCK_ROWS, BATCH_ROWS);
            let mut reductions = Vec::with_capacity(stage.reductions.len());
            let (mut weight_read, mut segment_written, mut partial) = (0, 0, 0);
            for reduction in &stage.reductions {
                let states = states::find(isa, input, reduction, registry)?;
                // The kernels of a sum round the results of a state; positions need no rounding.
                let (plain, output) = match (reduction.reducer.class(), reduction.dtype) {
                    (ReducerClass::Plain, output) => (&reduction.reducer, output),
                    (ReducerClass::State | ReducerClass::Select, DType::I64) => (&Reducer::Sum, DType::F64),
                    (ReducerClass::State | ReducerClass::Select, output) => (&Reducer::Sum, output),
                };
                let kernels = kernels::select(isa, input, plain, output).ok_or_else(|| {
                    Error::new(ErrorCode::Unsupported, format!("{} of {input} as {}", reduction.reducer, reduction.dtype))
                })?;
                let (planes, width, result) = match &states {
                    // The sum of the weights, or the count, stands behind the features.
                    None if reduction.reducer.class() == ReducerClass::Select => (0, 0, scratch.take(features, 8)?),
                    None => (1, features + 1, 0),
                    Some(states) => {
                        let (block, tree) = states.planes();
                        (block, features.checked_mul(tree).ok_or_else(too_large)?, scratch.take(features, 8)?)
                    }
                };
                if let Reducer::Quantile(q) = reduction.reducer {
                    let longest = narrow(longest)?;
                    let columns = Select::columns(longest, features);
                    let values = scratch.take(longest.checked_mul(columns).ok_or_else(too_large)?, 8)?;
                    select = Some(Select { q: q.value(), columns, values });
                }
                if let Some(weights) = reduction.weights.filter(|weights| !in_tile(*weights)) {
                    weight_read += plan.buffer_of(weights).dtype.size_u64();
                }
                if reduction.write.is_some_and(|write| !in_tile(write)) {
                    segment_written += features as u64 * reduction.made().size_u64();
                }
                // Rows of a table that lies in memory wait for lines of their own, which stores past the cache would take from them.
                let waits = index == 0 && !tiled && matches!(fold.load, Load::Gather { .. });
                // What is still to be worked on is put together first.
                let is_large = reduction.ops.is_empty()
                    && reduction.write.is_some_and(|view| {
                        let buffer = plan.buffer_of(view);
                        matches!(buffer.place, Place::Output) && buffer.bytes() >= stream_bytes
                    });
                reductions.push(ReductionRun {
                    kernels,
                    narrow: match (&states, reduction.weights) {
                        (None, None) => Narrow::compile(isa, input, &reduction.reducer, features, &mut scratch)?,
                        (Some(_), _) | (_, Some(_)) => None,
                    },
                    is_large,
                    streams: is_large && !waits && kernels.in_registers && (states.is_none() || reduction.dtype == input.accumulator()),
                    feeds: feeds == Some(reductions.len()),
                    beside: stage.reductions.len() > 1,
                    reducer: reduction.reducer.clone(),
                    weights: reduction.weights,
                    write: reduction.write,
                    fill: fill_of(reduction.on_empty, reduction.dtype),
                    size: reduction.dtype.size(),
                    dtype: reduction.dtype,
                    elements: Elements::compile(&reduction.ops, reduction.dtype, features, isa, &mut scratch)?,
                    made_size: reduction.made().size(),
                    acc: scratch.take(features.checked_mul(planes).and_then(|all| all.checked_add(1)).ok_or_else(too_large)?, 8)?,
                    tree: scratch.take(width.checked_mul(depth).ok_or_else(too_large)?, 8)?,
                    sizes: scratch.take(depth, 8)?,
                    staged: scratch.take(features.checked_mul(staged_rows).ok_or_else(too_large)?, reduction.dtype.size())?,
                    states,
                    result,
                    width,
                    partial,
                });
                partial += width;
            }
            let siblings = match fold.load {
                Load::View { .. } | Load::Gather { .. } => Siblings::compile(isa, input, features, &mut reductions, &mut scratch)?,
                Load::Histogram { .. } => None,
            };
            if index == 0 {
                let table = plan.table(stage.table);
                let all = narrow(table.rows.max(table.total_rows))?.max(1).div_ceil(BLOCK_ROWS).saturating_mul(BLOCK_ROWS);
                // Far down only where rows may have been bound with any strides.
                let most = if is_bound { WINDOW_ROWS } else { NARROW_WINDOW_ROWS };
                window_rows = (WINDOW_BYTES / (features * raw_size).max(1) / BLOCK_ROWS * BLOCK_ROWS).clamp(BLOCK_ROWS, most).min(all);
            }
            // A window begins where a cache line does.
            let tile_rows = if index == 0 { window_rows + LINE_ROWS } else { batch_rows };
            let tile = scratch.take(features.checked_mul(tile_rows).ok_or_else(too_large)?, raw_size)?;
            if index == 0 {
                tile_bytes = scratch.bytes - tile;
            }
            stages.push(StageRun {
                table: stage.table,
                reductions,
                siblings,
                feeds,
                elements,
                input,
                weight_read,
                segment_written,
                batch_rows: if index == 0 && matches!(fold.load, Load::Gather { .. }) { BATCH_ROWS } else { batch_rows },
                staged_rows,
                tile,
                depth,
            });
            if let Some(feeds) = feeds {
                input = stage.reductions[feeds].made();
            }
        }
        let mut step = FoldStep {
            load: fold.load,
            stages,
            features,
            select,
            isa,
            window_rows,
            panels: None,
            histogram,
            row_read,
            once_read,
            tiled,
            pointers,
            table_copy,
            cuts: Cuts::default(),
            starts: Vec::new(),
            scratch_bytes: 0,
        };
        if is_bound && step.histogram.is_none() && step.select.is_none() {
            step.panels = PanelRun::compile(&step, tile_bytes, &mut scratch)?;
        }
        step.scratch_bytes = scratch.bytes;
        Ok(step)
    }

    /// How many rows make a task, where threads ask for so many.
    pub(crate) fn target(&self, rows: u64) -> u64 {
        self.histogram.as_ref().map_or(rows, |histogram| rows.max(histogram.task_rows()))
    }

    /// The f64 values of one row of partials, over all reductions of the topmost stage.
    pub(crate) fn partial_width(&self) -> usize {
        if let Some(histogram) = &self.histogram {
            return histogram.rows;
        }
        self.stages.last().map_or(0, |stage| stage.reductions.iter().map(|reduction| reduction.width).sum())
    }
}

#[derive(Default)]
pub(crate) struct Scratchpad {
    bytes: usize,
}

impl Scratchpad {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset of `count` elements, on a cache line of its own.
    pub(crate) fn take(&mut self, count: usize, size: usize) -> Result<usize> {
        let start = self.bytes;
        let end = count.checked_mul(size).and_then(|bytes| start.checked_add(bytes));
        self.bytes = end.and_then(|end| end.checked_next_multiple_of(64)).ok_or_else(too_large)?;
        Ok(start)
    }
}

pub(crate) fn too_large() -> Error {
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
        // A whole number, by the rules of a plan.
        DType::I64 => bytes.copy_from_slice(&(value as i64).to_ne_bytes()),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 => {}
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
    /// The blocks of stage 0 that were folded as they were turned, and the row behind the last that its task has.
    pub(crate) folded: FoldedWindow,
    pub(crate) until: u64,
    /// Whether something was written past the cache.
    pub(crate) streamed: bool,
    /// The table that ids look up, once it was needed: where it is, or this thread's copy.
    pub(crate) looked_up: Option<Memory>,
}

impl<'a> Walker<'a> {
    pub(crate) fn new(step: &'a FoldStep, memory: &'a [Memory], tables: &'a TableSet, scratch: *mut u8, partials: *mut f64) -> Self {
        Walker {
            step,
            memory,
            tables,
            scratch,
            partials,
            read: 0,
            written: 0,
            window: (0, 0),
            folded: FoldedWindow::default(),
            until: 0,
            streamed: false,
            looked_up: None,
        }
    }

    /// Runs one task.
    ///
    /// # Safety
    /// The memory of every view is valid for the shapes of the plan; nobody else uses `scratch`; no other task of the same step has the same
    /// segment or partial.
    pub(crate) unsafe fn run(&mut self, task: Task) {
        let top = self.step.stages.len() - 1;
        self.until = match task {
            Task::Segments { last, .. } => self.leaves_end(top + 1, last),
            Task::Piece { segment, last_row, .. } => {
                self.leaves_end(top, self.tables.get(self.step.stages[top].table).range(segment).start + last_row)
            }
        };
        // SAFETY: the caller's promise.
        unsafe {
            match task {
                Task::Segments { first, last } => {
                    self.fold_segments(top, first..last, std::ptr::null_mut());
                }
                Task::Piece { segment, first_row, last_row, partial } => {
                    let start = self.tables.get(self.step.stages[top].table).range(segment).start;
                    if let Some(histogram) = &self.step.histogram {
                        self.count_piece(histogram, start + first_row..start + last_row, partial);
                        return;
                    }
                    self.fold_rows(top, segment, start + first_row..start + last_row);
                    for (index, reduction) in self.step.stages[top].reductions.iter().enumerate() {
                        let value = self.fold_tree(top, index);
                        let row = self.partials.add(partial * self.step.partial_width() + reduction.partial);
                        std::ptr::copy_nonoverlapping(value, row, reduction.width);
                    }
                }
            }
        }
        self.settle();
    }

    /// The end of the leaf rows below the first `rows` rows of a stage, where tables are partitions.
    fn leaves_end(&self, k: usize, rows: u64) -> u64 {
        let below = self.step.stages[..k].iter().rev();
        below.fold(rows, |rows, stage| rows.checked_sub(1).map_or(0, |last| self.tables.get(stage.table).range(last).end))
    }

    /// Orders what was written past the cache before whatever tells others that it is there.
    fn settle(&mut self) {
        if std::mem::take(&mut self.streamed) {
            stream::fence();
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
        if let Some(histogram) = &step.histogram {
            // SAFETY: the caller's promise.
            unsafe { self.finish_counts(histogram, split, range.end - range.start) };
            self.settle();
            return;
        }
        for (index, reduction) in stage.reductions.iter().enumerate() {
            // SAFETY: the partials of this segment are ours now; pairs of rows do not overlap.
            unsafe {
                let start = self.partials.add(split.first_partial * step.partial_width() + reduction.partial);
                let row = |partial: usize| start.add(partial * step.partial_width());
                let mut stride = 1;
                while stride < split.partials {
                    let mut older = 0;
                    while older + stride < split.partials {
                        self.combine(top, index, row(older), row(older + stride));
                        older += 2 * stride;
                    }
                    stride *= 2;
                }
                self.emit_tree(top, index, split.segment, range.end - range.start, row(0), std::ptr::null_mut());
            }
        }
        self.written += stage.segment_written;
        self.settle();
    }

    /// Folds consecutive segments of a stage, writes what is to be written, and tells where the rows lie that feed the next stage: in `slots`, which
    /// are as many dense rows where the stage feeds another and else null, or in an output.
    pub(crate) unsafe fn fold_segments(&mut self, k: usize, segments: std::ops::Range<u64>, slots: *mut u8) -> Dense {
        if let Some(select) = &self.step.select {
            // SAFETY: the caller's promise; a quantile stands alone in its step.
            unsafe { self.select(select, segments) };
            return Dense { start: slots, stride: 0 };
        }
        if let Some(histogram) = &self.step.histogram {
            // SAFETY: the caller's promise; a fold by counts has one stage.
            unsafe { self.histogram(histogram, segments) };
            return Dense { start: slots, stride: 0 };
        }
        let stage = &self.step.stages[k];
        let feeding = &stage.reductions[stage.feeds.unwrap_or(0)];
        let size = feeding.made_size * self.step.features;
        let in_slots = Dense { start: slots, stride: size as isize };
        let made = match feeding.elements {
            None => self.out(feeding, segments.start, slots).unwrap_or(in_slots),
            Some(_) => in_slots,
        };
        let mut segment = segments.start;
        while segment < segments.end {
            let slot = if slots.is_null() { slots } else { slots.wrapping_add((segment - segments.start) as usize * size) };
            // SAFETY: the caller's promise.
            unsafe {
                let next = self.fold_batch(k, segment, segments.end, slot);
                if next == segment {
                    self.fold_long(k, segment, slot);
                }
                segment = next.max(segment + 1);
            }
        }
        made
    }

    /// Folds one segment of more than one block, and writes what is to be written.
    unsafe fn fold_long(&mut self, k: usize, segment: u64, slot: *mut u8) {
        let stage = &self.step.stages[k];
        let range = self.tables.get(stage.table).range(segment);
        let rows = range.end - range.start;
        self.written += stage.segment_written;
        // SAFETY: the caller's promise; `slot` has room for a row where this stage feeds another.
        unsafe {
            self.fold_rows(k, segment, range);
            for index in 0..stage.reductions.len() {
                let slot = if stage.feeds == Some(index) { slot } else { std::ptr::null_mut() };
                let value = self.fold_tree(k, index);
                self.emit_tree(k, index, segment, rows, value, slot);
            }
        }
    }

    /// Adds rows of one segment to the trees, block by block.
    unsafe fn fold_rows(&mut self, k: usize, segment: u64, range: std::ops::Range<u64>) {
        let stage = &self.step.stages[k];
        for reduction in &stage.reductions {
            // SAFETY: the counter of this reduction's tree, in this thread's scratch.
            unsafe { self.scratch.add(reduction.sizes).cast::<u64>().write(0) };
        }
        let mut block = BlockRows::uninit();
        let origin = self.tables.get(stage.table).range(segment).start;
        let by_panels = k == 0 && self.folds_panels();
        // SAFETY: the caller's promise; the trees are empty.
        let mut start = unsafe { self.fold_groups(k, range.clone()) };
        while start < range.end {
            let end = range.end.min(start + BLOCK_ROWS_U64);
            // SAFETY: the caller's promise.
            unsafe {
                if by_panels {
                    let bytes = self.step.features * stage.input.accumulator().size();
                    for index in 0..stage.reductions.len() {
                        let acc = self.scratch.add(stage.reductions[index].acc);
                        std::ptr::copy_nonoverlapping(self.folded_block(segment, start..end), acc, bytes);
                        self.push_tree(k, index, start - origin);
                    }
                    self.read += (end - start) * self.step.row_read;
                    start = end;
                    continue;
                }
                let rows = self.block_rows(k, segment, start..end, &mut block);
                for index in 0..stage.reductions.len() {
                    self.accumulate(k, index, start as usize, rows);
                    self.push_tree(k, index, start - origin);
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
                self.load(segment, range.start as usize, 0, rows);
            } else {
                let made = self.fold_segments(k - 1, range, self.scratch.add(stage.tile));
                for (index, row) in rows.iter_mut().enumerate() {
                    *row = made.row(index);
                }
            }
            if let Some(elements) = &stage.elements {
                let worked = elements.of_rows(self.scratch, rows);
                for (index, row) in rows.iter_mut().enumerate() {
                    *row = worked.row(index);
                }
            }
            rows
        }
    }

    /// Finishes the value of a tree, and sees that the row gets to where it belongs: the output's row, the slot of the next stage, or both.
    pub(crate) unsafe fn emit_tree(&mut self, k: usize, index: usize, segment: u64, rows: u64, value: *const f64, slot: *mut u8) {
        let reduction = &self.step.stages[k].reductions[index];
        let Some(out) = self.out(reduction, segment, slot) else { return };
        // SAFETY: `value` is a row of a tree; `out` is a row of `features` elements to write.
        unsafe {
            if let Some(states) = &reduction.states {
                let result = self.scratch.add(reduction.result).cast::<f64>();
                states.finish_tree(value, rows as f64, result, self.step.features);
                self.round(reduction, result, out.start);
            } else {
                let divisor = (reduction.reducer == Reducer::Mean).then(|| match reduction.weights {
                    Some(_) => value.add(self.step.features).read(),
                    None => rows as f64,
                });
                (reduction.kernels.finish_tree)(value, out.start, self.step.features, divisor);
            }
            self.deliver(reduction, segment..segment + 1, out, slot);
        }
    }
}

/// Room for the row pointers of a block, which are written before they are read.
type BlockRows = std::mem::MaybeUninit<[*const u8; BLOCK_ROWS]>;

//! A plan on the CPU backend: what is prepared once, and what happens in a run.

use crate::arena::Arena;
use crate::cuts::{self, Cuts};
use crate::encode::{EncodeStep, Piece};
use crate::float_mode::FloatMode;
use crate::fold::{FoldStep, Walker};
use crate::helpers::Helpers;
use crate::memory::{Memory, narrow, resolve};
use crate::moves::{self, Pack};
use crate::tile::{TileRun, TileStep};
use crate::{Pool, Shared};
use levelfold::backend::{Bindings, Executable, RunReport, TableSet};
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::ids::{StepId, TableId};
use levelfold::plan::{Copy, CopyKind, Load, Plan, Step, StepKind, TableForm, ViewLayout};
use levelfold::segments::Segments;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The least bytes of a task, as a part of what is small: below, handing it out costs more than it brings.
const TASK_SHARE: u64 = 8;
/// Steps that move fewer bytes than this are run by the caller and its helpers: a pool of threads that sleep begins too late for them.
const MEDIUM_BYTES: u64 = 64 << 20;
/// Tasks a thread, so that the slowest of them does not hold up the others for long.
const TASKS_A_THREAD: u64 = 12;
/// Fewer bytes of parameters are laid out by the calling thread alone.
const PACKED_BYTES: usize = 256 << 10;

pub(crate) struct CpuExecutable {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    tables: TableSet,
    steps: Vec<StepRun>,
    tiles: Vec<TileRun>,
    arena: Option<Arena>,
    memory: Vec<Memory>,
    /// One piece of scratch for each thread of the pool, and one for the caller.
    scratch: Scratch,
    partials: Vec<f64>,
    /// What encoders prepare, one step after the other.
    params: Option<Arena>,
    param_bytes: usize,
    /// The most bytes of the partials of cut segments, for as long as it is not known where they are cut.
    most_partials: u64,
    /// Bytes that tell where the rows of ranges are packed.
    start_bytes: u64,
    report: RunReport,
}

enum StepRun {
    Fold(Box<FoldStep>),
    /// And where its parameters begin.
    Encode(Box<EncodeStep>, usize),
    Copy {
        copy: Copy,
        cuts: Cuts,
        starts: Vec<u64>,
    },
}

/// The scratch of all threads, one after the other.
struct Scratch {
    /// Handed back when the executable is dropped.
    memory: Option<Arena>,
    stride: usize,
    threads: usize,
    /// Whose is in use, in the order of the threads.
    in_use: Vec<AtomicBool>,
}

/// The scratch of one task while it runs.
struct TaskScratch<'a> {
    start: *mut u8,
    in_use: Option<&'a AtomicBool>,
    /// Memory of its own, where that of its thread is taken.
    _own: Option<Arena>,
}

impl Scratch {
    /// Its memory comes with the first run.
    fn new(stride: usize, threads: usize) -> Self {
        Scratch { memory: None, stride, threads, in_use: std::iter::repeat_with(AtomicBool::default).take(threads + 1).collect() }
    }

    fn bytes(&self) -> usize {
        self.stride * (self.threads + 1)
    }

    /// Memory for a task: that of its thread by its number, which is one of a pool or of a helper, or comes behind them for the caller.
    ///
    /// An encoder of the caller's that waits for work of its own in the pool may run another task of the same step meanwhile. The thread's memory
    /// is in use then, and that task gets memory of its own.
    fn for_task(&self, index: usize) -> TaskScratch<'_> {
        let in_use = &self.in_use[index];
        if in_use.swap(true, Ordering::Acquire) {
            let own = Arena::new(self.stride, 64).unwrap_or_else(|error| panic!("{error}"));
            return TaskScratch { start: own.start(), in_use: None, _own: Some(own) };
        }
        let start = self.memory.as_ref().map_or(std::ptr::null_mut(), Arena::start);
        TaskScratch { start: start.wrapping_add(index * self.stride), in_use: Some(in_use), _own: None }
    }
}

impl Drop for TaskScratch<'_> {
    fn drop(&mut self) {
        if let Some(in_use) = self.in_use {
            in_use.store(false, Ordering::Release);
        }
    }
}

impl CpuExecutable {
    pub(crate) fn new(shared: Arc<Shared>, plan: Arc<Plan>) -> Result<Self> {
        if &*plan.target != "cpu" {
            return Err(Error::new(ErrorCode::WrongTarget, format!("the plan is for target `{}`, not `cpu`", plan.target))
                .help("plan again for this backend"));
        }
        // Kernels follow addresses: whoever made this plan, it has to keep the rules that make that sound.
        plan.verify()?;
        let mut steps = Vec::with_capacity(plan.steps.len());
        let (mut stride, mut param_bytes, mut most_partials, mut start_bytes) = (0usize, 0usize, 0u64, 0u64);
        for (index, step) in plan.steps.iter().enumerate() {
            steps.push(match &step.kind {
                StepKind::Fold(fold) => {
                    let fold = FoldStep::compile(&plan, fold, shared.isa, shared.stream_bytes, &shared.registry)
                        .map_err(|error| error.at_level(StepId::new(index).to_string()))?;
                    stride = stride.max(fold.scratch_bytes);
                    let moved = work(step);
                    if !shared.is_small(moved) && fold.select.is_none() && plan.tile_of(StepId::new(index)).is_none() {
                        let tables = fold.stages.iter().map(|stage| plan.table(stage.table));
                        let rows = tables.fold(0u64, |rows, table| rows.saturating_add(table.total_rows).saturating_add(table.segments));
                        let top = fold.stages.last().map_or(0, |stage| plan.table(stage.table).total_rows);
                        let pieces = cuts::most_pieces(rows, fold.target(shared.target(moved, rows)), top);
                        most_partials = most_partials.max(pieces.saturating_mul(8).saturating_mul(fold.partial_width() as u64));
                    }
                    if let Load::View { values } = fold.load
                        && let ViewLayout::Packed { table, .. } = plan.view(values).layout
                    {
                        start_bytes = start_bytes.saturating_add(bytes_of_starts(&plan, table));
                    }
                    StepRun::Fold(Box::new(fold))
                }
                StepKind::Encode(encode) => {
                    let encode = EncodeStep::compile(&plan, encode, shared.isa, &shared.registry)
                        .map_err(|error| error.at_level(StepId::new(index).to_string()))?;
                    stride = stride.max(encode.scratch_bytes);
                    let start = param_bytes;
                    param_bytes = encode
                        .params
                        .bytes
                        .checked_add(param_bytes)
                        .ok_or_else(|| Error::new(ErrorCode::Overflow, "the parameters of all encoders cannot be addressed"))?;
                    StepRun::Encode(Box::new(encode), start)
                }
                StepKind::Copy(copy) => {
                    if let CopyKind::Segments { table } | CopyKind::Spread { table } = copy.what {
                        start_bytes = start_bytes.saturating_add(bytes_of_starts(&plan, table));
                    }
                    StepRun::Copy { copy: copy.clone(), cuts: Cuts::default(), starts: Vec::new() }
                }
            });
        }
        let nests = plan.tiles.chunk_by(|tile, _| tile.inside);
        let tiles = nests.map(|nest| TileRun::compile(&plan, nest, stride)).collect::<Result<Vec<_>>>()?;
        let stride = tiles.iter().map(|tile| tile.scratch_bytes).max().unwrap_or(stride);
        let threads = shared.pool.threads();
        stride.checked_mul(threads + 1).ok_or_else(|| Error::new(ErrorCode::Overflow, "the scratch of all threads cannot be addressed"))?;
        let report = RunReport::for_plan(&plan);
        Ok(CpuExecutable {
            memory: Vec::with_capacity(plan.views.len()),
            tables: TableSet::new(),
            arena: None,
            partials: Vec::new(),
            params: None,
            param_bytes,
            most_partials,
            start_bytes,
            shared,
            plan,
            steps,
            tiles,
            scratch: Scratch::new(stride, threads),
            report,
        })
    }

    /// Cuts the work of every step, and takes the memory that runs need: once the tables are known, and the engine has seen how much that is.
    fn prepare(&mut self) -> Result<()> {
        if self.scratch.memory.is_none() {
            self.scratch.memory = Some(self.shared.arenas.take(self.scratch.bytes(), 64)?);
        }
        if self.param_bytes > 0 && self.params.is_none() {
            self.params = Some(self.shared.arenas.take(self.param_bytes, 64)?);
        }
        let (plan, tables, threads) = (&self.plan, &self.tables, self.shared.pool.threads());
        let mut partials = 0;
        for (index, (step, run)) in plan.steps.iter().zip(&mut self.steps).enumerate() {
            let moved = work(step);
            let is_small = self.shared.is_small(moved);
            let target = |rows: u64| self.shared.target(moved, rows);
            match run {
                StepRun::Fold(_) if plan.tile_of(StepId::new(index)).is_some() => {}
                StepRun::Fold(fold) => {
                    let chain: Vec<&Segments> = fold.stages.iter().map(|stage| tables.get(stage.table)).collect();
                    let top = chain[chain.len() - 1];
                    let rows: u64 = chain.iter().map(|table| table.total_rows() + table.len()).sum();
                    let target = fold.target(target(rows));
                    fold.cuts = if fold.select.is_some() && !is_small {
                        cuts::whole(top, target)
                    } else if is_small {
                        cuts::uncut(top)
                    } else {
                        cuts::cut(&chain, target)
                    };
                    partials = partials.max(fold.cuts.partials.saturating_mul(fold.partial_width()));
                    let packed = match fold.load {
                        Load::View { values } => matches!(plan.view(values).layout, ViewLayout::Packed { .. }),
                        Load::Gather { .. } | Load::Histogram { .. } => false,
                    };
                    if packed && !chain[0].is_partition() {
                        fold.starts = cuts::running_starts(chain[0]);
                    }
                }
                StepRun::Encode(encode, start) => {
                    let tasks = if is_small { 1 } else { (threads as u64 * TASKS_A_THREAD).min(moved / self.shared.task_bytes()).max(1) };
                    encode.cut(narrow(tasks)?);
                    let start = self.params.as_ref().map_or(std::ptr::null_mut(), Arena::start).wrapping_add(*start);
                    let _mode = FloatMode::set();
                    // SAFETY: each step has its own part of the parameters' memory.
                    unsafe { encode.params.make_waves(start) };
                }
                StepRun::Copy { copy, cuts, starts } => {
                    if let CopyKind::Segments { table } | CopyKind::Spread { table } = copy.what {
                        let table = tables.get(table);
                        *cuts = if is_small { cuts::uncut(table) } else { cuts::cut(&[table], target(table.total_rows() + table.len())) };
                        // Those of a partition are its offsets.
                        if !table.is_partition() {
                            *starts = cuts::running_starts(table);
                        }
                    }
                }
            }
        }
        for tile in &mut self.tiles {
            let moved = tile.steps().map(|step| work(&plan.steps[step])).fold(0, u64::saturating_add);
            let tasks = if self.shared.is_small(moved) { 1 } else { threads as u64 * TASKS_A_THREAD };
            tile.cut(tables, tasks);
            for step in tile.steps() {
                if let StepKind::Copy(Copy { what: CopyKind::Spread { table }, .. }) = plan.steps[step].kind {
                    tile.check_spread(tables, StepId::new(step), table)?;
                }
            }
        }
        self.partials = vec![0.0; partials];
        self.arena = Some(self.shared.arenas.take(narrow(plan.totals.arena_bytes)?, narrow(plan.align)?)?);
        Ok(())
    }

    /// Widens and lays out the parameters of a step: once a run, before any of its tasks.
    fn prepare_params(&self, encode: &EncodeStep, params: Partials, workers: &Workers<'_>) {
        // SAFETY: bindings were checked against the plan; the memory is this step's, pieces do not overlap, and no task runs yet.
        let prepare = |piece: &Piece| unsafe { encode.params.prepare(piece, &self.memory, params.start().cast()) };
        let caller = Workers::Caller(0);
        let workers = if encode.params.bytes < PACKED_BYTES { &caller } else { workers };
        each(workers, &encode.params.pieces, |piece, _| prepare(piece));
    }

    fn run_step(&mut self, index: usize) -> (u64, u64) {
        let plan = Arc::clone(&self.plan);
        let step = &plan.steps[index];
        let moved = work(step);
        let workers = self.shared.workers(moved);
        match &self.steps[index] {
            StepRun::Fold(fold) => {
                let tables: u64 = fold.stages.iter().map(|stage| self.tables.get(stage.table).bytes()).sum();
                let (read, written) = run_fold(fold, &self.memory, &self.tables, &self.scratch, self.partials.as_mut_ptr(), &workers);
                (read + tables + fold.once_read, written)
            }
            StepRun::Encode(encode, start) => {
                let params = Partials(self.params.as_ref().map_or(std::ptr::null_mut(), Arena::start).wrapping_add(*start).cast());
                self.prepare_params(encode, params, &workers);
                each(&workers, &encode.tasks, |task, thread| {
                    let scratch = self.scratch.for_task(thread);
                    // SAFETY: as above; each task has rows and scratch of its own.
                    unsafe { encode.run(task.clone(), &self.memory, &self.tables, params.start().cast(), scratch.start) };
                });
                (encode.read, encode.written)
            }
            StepRun::Copy { copy, cuts, starts } => {
                let memory = |view: levelfold::ids::ViewId| self.memory[view.index()];
                let to = memory(copy.write);
                let rows = plan.buffer_of(copy.write).rows as usize;
                let chunk = (self.shared.task_bytes() as usize / (to.features * to.dtype.size()).max(1)).max(1);
                match (copy.what, copy.read.as_slice()) {
                    (CopyKind::Segments { table } | CopyKind::Spread { table }, &[from]) => {
                        let pack = Pack { from: memory(from), to, table: self.tables.get(table), starts, isa: self.shared.isa };
                        // SAFETY: the cuts give each row of each segment to one task.
                        each(&workers, &cuts.tasks, |task, _| unsafe { pack.run(*task) });
                    }
                    (CopyKind::Gather, &[ids, table]) => {
                        let (ids, table) = (memory(ids), memory(table));
                        // SAFETY: ids were checked; each chunk writes its own rows.
                        each_chunk(&workers, rows, chunk, |rows| unsafe { moves::gather(ids, table, to, rows) });
                    }
                    (CopyKind::Rows, &[from]) => {
                        let from = memory(from);
                        // SAFETY: each chunk writes its own rows.
                        each_chunk(&workers, rows, chunk, |rows| unsafe { moves::rows(from, to, rows, self.shared.isa) });
                    }
                    (CopyKind::Columns, parts) => {
                        let parts = || parts.iter().map(|part| memory(*part));
                        // SAFETY: each chunk writes its own rows; parts are as wide as their columns.
                        each_chunk(&workers, rows, chunk, |rows| unsafe { moves::columns(parts(), to, rows, self.shared.isa) });
                    }
                    (CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Gather | CopyKind::Rows, _) => {
                        unreachable!("verified: the operands of a copy")
                    }
                }
                (step.cost.read, step.cost.written)
            }
        }
    }
}

impl CpuExecutable {
    /// Runs all steps of a tile, and reports each: its part of the time is that of the time that all workers spent.
    fn run_tile(&mut self, index: usize) {
        let from = Instant::now();
        let tile = &self.tiles[index];
        let moved = tile.steps().map(|step| work(&self.plan.steps[step])).fold(0, u64::saturating_add);
        let workers = self.shared.workers(moved);
        let params = Partials(self.params.as_ref().map_or(std::ptr::null_mut(), Arena::start).cast());
        for run in &self.steps[tile.steps()] {
            if let StepRun::Encode(encode, start) = run {
                self.prepare_params(encode, Partials(params.start().cast::<u8>().wrapping_add(*start).cast()), &workers);
            }
        }
        // Of a run that a panic ended, nothing is counted.
        tile.done().for_each(drop);
        let of_step = |step: usize| match &self.steps[step] {
            StepRun::Encode(encode, start) => TileStep::Encode(encode, params.start().cast::<u8>().wrapping_add(*start)),
            StepRun::Fold(fold) => TileStep::Fold(fold),
            StepRun::Copy { copy, starts, .. } => TileStep::Copy(copy, starts),
        };
        each(&workers, &tile.windows, |window, thread| {
            let scratch = self.scratch.for_task(thread);
            // SAFETY: bindings were checked against the plan; each window has rows, segments and scratch of its own.
            unsafe { tile.run(window, of_step, &self.memory, &self.tables, self.shared.isa, scratch.start) };
        });
        let taken = from.elapsed();
        let mut all = 0;
        for (step, done) in tile.steps().zip(tile.done()) {
            let report = &mut self.report.steps[step];
            (report.read, report.written) = match &self.steps[step] {
                StepRun::Encode(encode, _) => (encode.read, encode.written),
                StepRun::Copy { .. } => (self.plan.steps[step].cost.read, self.plan.steps[step].cost.written),
                StepRun::Fold(fold) => {
                    let tables: u64 = fold.stages.iter().map(|stage| self.tables.get(stage.table).bytes()).sum();
                    (done.read + tables, done.written)
                }
            };
            report.time = Duration::from_nanos(done.nanos);
            all += done.nanos;
        }
        for step in tile.steps() {
            let time = &mut self.report.steps[step].time;
            *time = taken.mul_f64(time.as_nanos() as f64 / all.max(1) as f64);
        }
    }
}

/// The bytes that tell where each of some segments is packed: of a partition, its offsets do.
fn bytes_of_starts(plan: &Plan, table: TableId) -> u64 {
    let table = plan.table(table);
    match table.form {
        TableForm::Offsets => 0,
        TableForm::Ranges => table.segments.saturating_add(1).saturating_mul(8),
    }
}

/// What a step costs, in bytes or what takes as long: operations are counted where there are many to a byte.
fn work(step: &Step) -> u64 {
    let moved = step.cost.read.saturating_add(step.cost.written);
    match step.kind {
        StepKind::Encode(_) => moved.saturating_add(step.cost.flops / 4),
        StepKind::Fold(ref fold) if fold.has_ops() => moved.saturating_add(step.cost.flops / 4),
        StepKind::Fold(_) | StepKind::Copy(_) => moved,
    }
}

fn run_fold(
    fold: &FoldStep,
    memory: &[Memory],
    tables: &TableSet,
    scratch: &Scratch,
    partials: *mut f64,
    workers: &Workers<'_>,
) -> (u64, u64) {
    let (read, written) = (AtomicU64::new(0), AtomicU64::new(0));
    let partials = Partials(partials);
    each(workers, &fold.cuts.tasks, |task, thread| {
        let scratch = scratch.for_task(thread);
        let mut walker = Walker::new(fold, memory, tables, scratch.start, partials.start());
        // SAFETY: bindings were checked against the plan; scratch is this task's own; the cuts give each segment and each partial to one task.
        unsafe { walker.run(*task) };
        read.fetch_add(walker.read, Ordering::Relaxed);
        written.fetch_add(walker.written, Ordering::Relaxed);
    });
    if !fold.cuts.splits.is_empty() {
        let _mode = FloatMode::set();
        let scratch = scratch.for_task(scratch.threads);
        let mut walker = Walker::new(fold, memory, tables, scratch.start, partials.start());
        for split in &fold.cuts.splits {
            // SAFETY: all tasks are done.
            unsafe { walker.finish(*split) };
        }
        written.fetch_add(walker.written, Ordering::Relaxed);
    }
    (read.into_inner(), written.into_inner())
}

/// The address of the partials, for tasks that write rows of their own.
#[derive(Clone, Copy)]
struct Partials(*mut f64);

// SAFETY: each task writes the rows that the cuts gave it.
unsafe impl Send for Partials {}
// SAFETY: as above.
unsafe impl Sync for Partials {}

impl Partials {
    fn start(&self) -> *mut f64 {
        self.0
    }
}

impl Shared {
    /// Whether a step that moves so many bytes is one task.
    fn is_small(&self, moved: u64) -> bool {
        self.pool.threads() == 1 || moved < self.small_bytes
    }

    /// How much of the work of a step is one task: work is counted in rows.
    fn target(&self, moved: u64, rows: u64) -> u64 {
        let tasks = (self.pool.threads() as u64 * TASKS_A_THREAD).min(moved / self.task_bytes()).max(1);
        rows.div_ceil(tasks)
    }

    fn task_bytes(&self) -> u64 {
        (self.small_bytes / TASK_SHARE).max(1)
    }
}

/// Who runs the tasks of a step.
enum Workers<'a> {
    /// The calling thread, whose number this is.
    Caller(usize),
    /// The calling thread, and who helps it; where those are at work for somebody else, the pool.
    Helped(&'a Helpers, &'a rayon::ThreadPool),
    /// The pool.
    Pool(&'a rayon::ThreadPool),
}

impl Shared {
    /// Who runs a step that moves so many bytes.
    fn workers(&self, moved: u64) -> Workers<'_> {
        match (&self.pool, &self.helpers) {
            (Pool::Caller, _) => Workers::Caller(1),
            (Pool::Threads(pool), _) if moved < self.small_bytes => Workers::Caller(pool.current_num_threads()),
            (Pool::Threads(pool), Some(helpers)) if moved < MEDIUM_BYTES => Workers::Helped(helpers, pool),
            (Pool::Threads(pool), _) => Workers::Pool(pool),
        }
    }
}

/// Calls `run` with each index and the number of the thread that runs it, in order on the calling thread or spread over threads.
fn spread(workers: &Workers<'_>, count: usize, run: impl Fn(usize, usize) + Sync) {
    let caller = match workers {
        Workers::Caller(thread) => *thread,
        Workers::Helped(_, pool) | Workers::Pool(pool) => pool.current_num_threads(),
    };
    let pool = match workers {
        Workers::Caller(_) => None,
        Workers::Helped(..) | Workers::Pool(_) if count <= 1 => None,
        Workers::Helped(helpers, _) if helpers.run(count, caller, &run) => return,
        Workers::Helped(_, pool) | Workers::Pool(pool) => Some(pool),
    };
    match pool {
        None => (0..count).for_each(|index| run(index, caller)),
        Some(pool) => pool.install(|| {
            (0..count).into_par_iter().with_max_len(1).for_each(|index| run(index, pool.current_thread_index().unwrap_or(caller)));
        }),
    }
}

/// Runs tasks, in the float mode of results, and tells each the number of its thread.
fn each<T: Sync>(workers: &Workers<'_>, tasks: &[T], run: impl Fn(&T, usize) + Sync) {
    spread(workers, tasks.len(), |index, thread| {
        let _mode = FloatMode::set();
        run(&tasks[index], thread);
    });
}

/// Runs chunks of rows.
fn each_chunk(workers: &Workers<'_>, rows: usize, chunk: usize, run: impl Fn(std::ops::Range<usize>) + Sync) {
    spread(workers, rows.div_ceil(chunk), |index, _| run(index * chunk..rows.min((index + 1) * chunk)));
}

impl Executable for CpuExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        let start = Instant::now();
        self.tables.check(&self.plan, bindings)?;
        if self.arena.is_none() {
            self.prepare()?;
        }
        let Some(arena) = &mut self.arena else {
            return Err(Error::new(ErrorCode::Internal, "the arena was not taken"));
        };
        if let Some(byte) = self.shared.poison {
            arena.fill(byte);
        }
        resolve(&self.plan, bindings, arena.start(), &mut self.memory)?;
        let mut index = 0;
        let mut tile = 0;
        while index < self.steps.len() {
            if let Some(steps) = self.tiles.get(tile).map(TileRun::steps).filter(|steps| steps.start == index) {
                self.run_tile(tile);
                (index, tile) = (steps.end, tile + 1);
                continue;
            }
            let from = Instant::now();
            let (read, written) = self.run_step(index);
            let report = &mut self.report.steps[index];
            (report.time, report.read, report.written) = (from.elapsed(), read, written);
            index += 1;
        }
        self.report.time = start.elapsed();
        Ok(&self.report)
    }

    fn scratch_bytes(&self) -> u64 {
        let partials = if self.arena.is_some() { (self.partials.len() * size_of::<f64>()) as u64 } else { self.most_partials };
        ((self.scratch.bytes() + self.param_bytes) as u64).saturating_add(self.start_bytes).saturating_add(partials)
    }
}

impl Drop for CpuExecutable {
    fn drop(&mut self) {
        for memory in [self.arena.take(), self.scratch.memory.take(), self.params.take()].into_iter().flatten() {
            self.shared.arenas.give(memory);
        }
    }
}

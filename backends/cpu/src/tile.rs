//! Tiles: all steps of some encoders and of the fold of what they make, window by window. A worker does all steps of a window by itself, in scratch of its
//! own, so that rows come from the second cache and go there.
//!
//! The steps are those that run over whole levels, and number rows and segments as there. Only the views of what lies in the tile differ: they begin
//! so far before the scratch as the window begins behind the first row.
//!
//! *Invariant:* a window's steps touch rows of a tile's buffers inside the window alone: they look along its segments, which it has in whole.

use crate::cuts::Task;
use crate::encode::EncodeStep;
use crate::fold::{FoldStep, Scratchpad, Walker};
use crate::memory::{Memory, narrow};
use crate::moves::{self, Pack};
use crate::{Isa, cuts};
use levelfold::backend::TableSet;
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::ids::{BufferId, StepId, TableId};
use levelfold::plan::{Copy, CopyKind, Place, Plan, Tile};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Windows have no fewer rows than this, where they are cut smaller to give every thread some.
const LEAST_ROWS: u64 = 48;

/// A tile, or several that run inside one another, compiled.
pub(crate) struct TileRun {
    /// The innermost first.
    nest: Vec<Nested>,
    /// How many views the plan has.
    all_views: usize,
    /// Scratch: offsets from the start of a worker's memory. The scratch of a step comes first.
    buffers: usize,
    memory: usize,
    pub(crate) scratch_bytes: usize,
    /// Segments, a range for each window.
    pub(crate) windows: Vec<Range<u64>>,
    /// What each step did.
    counts: Vec<Counts>,
}

/// One of the tiles.
struct Nested {
    tile: Tile,
    /// By number, the views of its buffers.
    views: Vec<usize>,
}

/// What the windows of one step did.
#[derive(Default)]
struct Counts {
    nanos: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

/// A step of a tile.
pub(crate) enum TileStep<'a> {
    /// And where its parameters lie.
    Encode(&'a EncodeStep, *const u8),
    Fold(&'a FoldStep),
    Copy(&'a Copy, &'a [u64]),
}

/// What one step of a run did, over all windows.
pub(crate) struct Done {
    pub(crate) nanos: u64,
    pub(crate) read: u64,
    pub(crate) written: u64,
}

impl TileRun {
    /// Compiles tiles that run inside one another, or one, whose steps need up to `step_bytes` of scratch.
    pub(crate) fn compile(plan: &Plan, tiles: &[Tile], step_bytes: usize) -> Result<Self> {
        let nested = |tile: &Tile| {
            let in_tile = |buffer: BufferId| matches!(plan.buffer(buffer).place, Place::Tile { last, .. } if tile.has(last));
            let views = plan.views.iter().enumerate().filter(|(_, view)| in_tile(view.buffer)).map(|(index, _)| index).collect();
            Nested { tile: *tile, views }
        };
        let steps = tiles.iter().map(|tile| tile.last.index() + 1 - tile.first.index()).sum();
        let bytes = tiles.iter().map(|tile| tile.bytes).max().unwrap_or(0);
        let mut scratch = Scratchpad::default();
        scratch.take(step_bytes, 1)?;
        let buffers = scratch.take(narrow(bytes)?, 1)?;
        let memory = scratch.take(plan.views.len(), size_of::<Memory>())?;
        Ok(TileRun {
            nest: tiles.iter().map(nested).collect(),
            all_views: plan.views.len(),
            buffers,
            memory,
            scratch_bytes: scratch.bytes(),
            windows: Vec::new(),
            counts: std::iter::repeat_with(Counts::default).take(steps).collect(),
        })
    }

    pub(crate) fn steps(&self) -> Range<usize> {
        match self.nest.as_slice() {
            [] => 0..0,
            [first, ..] => first.tile.first.index()..first.tile.first.index() + self.counts.len(),
        }
    }

    /// Cuts the windows, so that there are at least `tasks` of them where there are rows enough.
    pub(crate) fn cut(&mut self, tables: &TableSet, tasks: u64) {
        let Some(Nested { tile, .. }) = self.nest.last() else { return };
        let table = tables.get(tile.table);
        let rows = table.rows().div_ceil(tasks.max(1)).max(LEAST_ROWS).min(tile.rows);
        self.windows = Tile::windows(table.offsets().unwrap_or(&[]), rows).collect();
    }

    /// Whether a table of a step spreads rows into the segments of its tile, one by one: no plan says that much of its tables.
    pub(crate) fn check_spread(&self, tables: &TableSet, step: StepId, spread: TableId) -> Result<()> {
        let Some(Nested { tile, .. }) = self.nest.iter().find(|nested| nested.tile.has(step)) else { return Ok(()) };
        let starts = cuts::running_starts(tables.get(spread));
        if tables.get(tile.table).offsets().is_some_and(|offsets| offsets == starts) {
            return Ok(());
        }
        let message = format!("{spread} does not spread rows into the segments of {}, as its tile asks", tile.table);
        Err(Error::new(ErrorCode::PlanInvalid, message).help("plan again for these segments"))
    }

    /// Runs all steps over one window.
    ///
    /// # Safety
    /// As for the steps by themselves; `scratch` is this worker's own, and `memory` has the views of the plan.
    pub(crate) unsafe fn run<'s>(
        &self,
        window: &Range<u64>,
        step_of: impl Fn(usize) -> TileStep<'s>,
        memory: &[Memory],
        tables: &TableSet,
        isa: Isa,
        scratch: *mut u8,
    ) {
        let seen = scratch.wrapping_add(self.memory).cast::<Memory>();
        // SAFETY: the scratch has room for all views.
        let seen = unsafe {
            std::ptr::copy_nonoverlapping(memory.as_ptr(), seen, self.all_views);
            std::slice::from_raw_parts_mut(seen, self.all_views)
        };
        let worker = Worker { run: self, memory, tables, isa, scratch };
        // SAFETY: the caller's promise.
        unsafe { worker.window(self.nest.len() - 1, window.clone(), &step_of, seen) };
    }

    /// What each step did since the last call, all windows together.
    pub(crate) fn done(&self) -> impl Iterator<Item = Done> + '_ {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        self.counts.iter().map(move |counts| Done { nanos: take(&counts.nanos), read: take(&counts.read), written: take(&counts.written) })
    }
}

/// One worker at its windows.
struct Worker<'a> {
    run: &'a TileRun,
    /// The views of the plan: those of windows say where these lie from the start of the scratch.
    memory: &'a [Memory],
    tables: &'a TableSet,
    isa: Isa,
    scratch: *mut u8,
}

impl Worker<'_> {
    /// A window of one of the tiles: the windows inside it, then its own steps.
    unsafe fn window<'s>(&self, at: usize, segments: Range<u64>, step_of: &impl Fn(usize) -> TileStep<'s>, seen: &mut [Memory]) {
        let Nested { tile, views } = &self.run.nest[at];
        let offsets = self.tables.get(tile.table).offsets().unwrap_or(&[]);
        let rows = offsets[segments.start as usize] as usize..offsets[segments.end as usize] as usize;
        for &view in views {
            let first = (rows.start as isize).wrapping_mul(seen[view].row_stride);
            let start = self.scratch.wrapping_add(self.run.buffers + self.memory[view].start.addr());
            seen[view].start = start.wrapping_offset(first.wrapping_neg());
        }
        if let Some(inner) = at.checked_sub(1) {
            let Tile { table, rows: most, .. } = self.run.nest[inner].tile;
            let offsets = self.tables.get(table).offsets().unwrap_or(&[]);
            let first = rows.start as u64;
            for window in Tile::windows(&offsets[rows.start..=rows.end], most) {
                // SAFETY: the caller's promise: the segments inside are this window's rows.
                unsafe { self.window(inner, first + window.start..first + window.end, step_of, seen) };
            }
        }
        let task = Task::Segments { first: segments.start, last: segments.end };
        let all = self.run.steps().start;
        for step in tile.first.index()..=tile.last.index() {
            let counts = &self.run.counts[step - all];
            let began = Instant::now();
            // SAFETY: the caller's promise; the window's rows and segments are this worker's alone.
            unsafe {
                match step_of(step) {
                    TileStep::Encode(encode, params) => encode.run(rows.clone(), seen, self.tables, params, self.scratch),
                    TileStep::Fold(fold) => {
                        let mut walker = Walker::new(fold, seen, self.tables, self.scratch, std::ptr::null_mut());
                        walker.run(task);
                        counts.read.fetch_add(walker.read, Ordering::Relaxed);
                        counts.written.fetch_add(walker.written, Ordering::Relaxed);
                    }
                    TileStep::Copy(copy, starts) => copy_window(copy, starts, task, rows.clone(), seen, self.tables, self.isa),
                }
            }
            counts.nanos.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Copies the rows of a window.
unsafe fn copy_window(copy: &Copy, starts: &[u64], task: Task, rows: Range<usize>, memory: &[Memory], tables: &TableSet, isa: Isa) {
    let of = |view: levelfold::ids::ViewId| memory[view.index()];
    let to = of(copy.write);
    // SAFETY: the caller's promise.
    unsafe {
        match (copy.what, copy.read.as_slice()) {
            (CopyKind::Spread { table }, &[from]) => Pack { from: of(from), to, table: tables.get(table), starts, isa }.run(task),
            (CopyKind::Gather, &[ids, table]) => moves::gather(of(ids), of(table), to, rows),
            (CopyKind::Rows, &[from]) => moves::rows(of(from), to, rows, isa),
            (CopyKind::Columns, parts) => moves::columns(parts.iter().map(|part| of(*part)), to, rows, isa),
            (CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Gather | CopyKind::Rows, _) => {
                unreachable!("verified: the copies of a tile")
            }
        }
    }
}

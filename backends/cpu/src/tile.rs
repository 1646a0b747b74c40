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
use levelfold::ids::{BufferId, TableId};
use levelfold::plan::{Copy, CopyKind, Place, Plan, Tile};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Windows have no fewer rows than this, where they are cut smaller to give every thread some.
const LEAST_ROWS: u64 = 48;

/// A tile, compiled.
pub(crate) struct TileRun {
    tile: Tile,
    /// By number, the views of its buffers.
    views: Vec<usize>,
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
    /// Compiles a tile whose steps need up to `step_bytes` of scratch.
    pub(crate) fn compile(plan: &Plan, tile: Tile, step_bytes: usize) -> Result<Self> {
        let in_tile = |buffer: BufferId| matches!(plan.buffer(buffer).place, Place::Tile { first, .. } if tile.has(first));
        let views = plan.views.iter().enumerate().filter(|(_, view)| in_tile(view.buffer)).map(|(index, _)| index).collect();
        let mut scratch = Scratchpad::default();
        scratch.take(step_bytes, 1)?;
        let buffers = scratch.take(narrow(tile.bytes)?, 1)?;
        let memory = scratch.take(plan.views.len(), size_of::<Memory>())?;
        let steps = tile.last.index() + 1 - tile.first.index();
        Ok(TileRun {
            tile,
            views,
            all_views: plan.views.len(),
            buffers,
            memory,
            scratch_bytes: scratch.bytes(),
            windows: Vec::new(),
            counts: std::iter::repeat_with(Counts::default).take(steps).collect(),
        })
    }

    pub(crate) fn steps(&self) -> Range<usize> {
        self.tile.first.index()..self.tile.last.index() + 1
    }

    /// Cuts the windows, so that there are at least `tasks` of them where there are rows enough.
    pub(crate) fn cut(&mut self, tables: &TableSet, tasks: u64) {
        let table = tables.get(self.tile.table);
        let rows = table.rows().div_ceil(tasks.max(1)).max(LEAST_ROWS).min(self.tile.rows);
        self.windows = Tile::windows(table.offsets().unwrap_or(&[]), rows).collect();
    }

    /// Whether a table spreads rows into the segments of the tile, one by one: no plan says that much of its tables.
    pub(crate) fn check_spread(&self, tables: &TableSet, spread: TableId) -> Result<()> {
        let starts = cuts::running_starts(tables.get(spread));
        if tables.get(self.tile.table).offsets().is_some_and(|offsets| offsets == starts) {
            return Ok(());
        }
        let message = format!("{spread} does not spread rows into the segments of {}, as its tile asks", self.tile.table);
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
        let offsets = tables.get(self.tile.table).offsets().unwrap_or(&[]);
        let rows = offsets[window.start as usize] as usize..offsets[window.end as usize] as usize;
        let seen = scratch.wrapping_add(self.memory).cast::<Memory>();
        // SAFETY: the scratch has room for all views, and for the buffers of a window.
        let seen = unsafe {
            std::ptr::copy_nonoverlapping(memory.as_ptr(), seen, self.all_views);
            let seen = std::slice::from_raw_parts_mut(seen, self.all_views);
            for &view in &self.views {
                let view = &mut seen[view];
                let first = (rows.start as isize).wrapping_mul(view.row_stride);
                view.start = scratch.wrapping_add(self.buffers + view.start.addr()).wrapping_offset(first.wrapping_neg());
            }
            &*seen
        };
        for (step, counts) in self.steps().zip(&self.counts) {
            let began = Instant::now();
            let task = Task::Segments { first: window.start, last: window.end };
            // SAFETY: the caller's promise; the window's rows and segments are this worker's alone.
            unsafe {
                match step_of(step) {
                    TileStep::Encode(encode, params) => encode.run(rows.clone(), seen, tables, params, scratch),
                    TileStep::Fold(fold) => {
                        let mut walker = Walker::new(fold, seen, tables, scratch, std::ptr::null_mut());
                        walker.run(task);
                        counts.read.fetch_add(walker.read, Ordering::Relaxed);
                        counts.written.fetch_add(walker.written, Ordering::Relaxed);
                    }
                    TileStep::Copy(copy, starts) => copy_window(copy, starts, task, rows.clone(), seen, tables, isa),
                }
            }
            counts.nanos.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// What each step did since the last call, all windows together.
    pub(crate) fn done(&self) -> impl Iterator<Item = Done> + '_ {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        self.counts.iter().map(move |counts| Done { nanos: take(&counts.nanos), read: take(&counts.read), written: take(&counts.written) })
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

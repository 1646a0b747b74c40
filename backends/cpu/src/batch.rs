//! Batches: many short segments of a stage, folded by one call for each reduction.
//!
//! The tables above the lowest partition the rows below, so the rows of consecutive segments are consecutive rows of the stage below: they are made
//! in one batch as well, into a tile that stays in the first caches. What several reductions read is there from the second on, and results
//! that go past the cache, or to places apart, are put together in scratch first.

use crate::elements::ELEMENT_ROWS;
use crate::fold::{ReductionRun, Walker};
use crate::kernels::{Run, Source};
use crate::memory::LINE;
use crate::stream;
use crate::vector::prefetch;
use levelfold::Reducer;
use levelfold::numerics::BLOCK_ROWS_U64;
use levelfold::plan::{Load, Order};
use std::ops::Range;

/// Dense rows, one after the other: where the first lies, and how far the next is.
#[derive(Clone, Copy)]
pub(crate) struct Dense {
    pub(crate) start: *mut u8,
    pub(crate) stride: isize,
}

/// So many reductions are run side by side.
pub(crate) const GROUP: usize = 4;
/// The least rows of a batch that are pointed at, in a small table.
const POINTED_ROWS: usize = 64;
/// The most bytes that are asked for ahead of their use.
const ASKED_BYTES: usize = 8 << 10;
/// What stores past the cache have to be aligned to.
const VECTOR_ALIGN: usize = 16;

impl Dense {
    pub(crate) fn row(self, index: usize) -> *mut u8 {
        self.start.wrapping_offset(index as isize * self.stride)
    }
}

/// How the rows of stage 0 are found.
enum Found {
    /// In place, at equal distances, in the order of the table.
    InPlace(Source),
    /// One by one.
    Pointed,
    /// Turned, into the tile.
    Turned,
    /// Worked on in a tile of their own, wherever they come from.
    Worked,
}

impl<'a> Walker<'a> {
    /// Folds consecutive short segments of a stage, as many as make a batch, and returns the first that is left: the first of all where that is
    /// a long one. `slots` are dense rows for the results that feed another stage, from the first segment's on, or null.
    ///
    /// # Safety
    /// As for [`Walker::run`].
    pub(crate) unsafe fn fold_batch(&mut self, k: usize, first: u64, last: u64, slots: *mut u8) -> u64 {
        let step = self.step;
        let stage = &step.stages[k];
        let found = match &stage.elements {
            Some(_) => Found::Worked,
            None if k == 0 => self.find(),
            None => Found::Pointed,
        };
        let staged = self.stages_rows(k, slots);
        let most_segments = if staged { stage.staged_rows as u64 } else { u64::MAX };
        // SAFETY: the caller's promise.
        unsafe {
            if k == 0 && self.folds_panels() {
                return self.fold_panels(first..last.min(first.saturating_add(most_segments)), slots);
            }
            if let (Found::InPlace(source), [_], false) = (&found, stage.reductions.as_slice(), staged) {
                return self.run_all(k, first..last, slots, *source);
            }
            let turned = if k == 0 { stage.batch_rows.min(step.window_rows).min(self.left_of_window(first)) } else { stage.batch_rows };
            let most_rows = match found {
                Found::Turned => turned,
                Found::Worked => turned.min(ELEMENT_ROWS),
                // Rows that are pointed at take no room, and those of a small table are in a cache wherever a batch ends.
                Found::Pointed if k == 0 && step.tiled => stage.batch_rows.max(POINTED_ROWS),
                Found::InPlace(_) | Found::Pointed => stage.batch_rows,
            };
            let (last, rows) = self.batch_end(k, first..last.min(first.saturating_add(most_segments)), most_rows as u64);
            if last == first {
                return first;
            }
            let source = match found {
                Found::InPlace(source) => source,
                Found::Pointed if k > 0 => {
                    let table = self.tables.get(stage.table);
                    let children = table.range(first).start..table.range(last - 1).end;
                    let made = self.fold_segments(k - 1, children.clone(), self.scratch.add(stage.tile));
                    let start = made.start.wrapping_offset(-(children.start as isize).wrapping_mul(made.stride));
                    Source::Strided { start, stride: made.stride }
                }
                Found::Pointed | Found::Turned => self.point(first..last, rows as usize),
                Found::Worked => self.work(k, first..last, rows as usize),
            };
            self.run_all(k, first..last, slots, source)
        }
    }

    /// Whether a reduction's rows are put together in scratch before they are written.
    fn stages_rows(&self, k: usize, slots: *mut u8) -> bool {
        let stage = &self.step.stages[k];
        stage.reductions.iter().enumerate().any(|(index, reduction)| {
            let in_slots = stage.feeds == Some(index) && !slots.is_null();
            reduction.elements.is_some() || reduction.write.is_some() && !in_slots && !self.writes_in_place(reduction)
        })
    }

    /// Whether results are written where they belong at once, and only there. What goes past the cache and feeds the next stage is not.
    pub(crate) fn writes_in_place(&self, reduction: &ReductionRun) -> bool {
        reduction.write.is_some_and(|view| self.memory[view.index()].is_dense()) && !(reduction.feeds && self.streams(reduction))
    }

    /// Whether results go past the cache. Lines of memory are written whole: by what follows at once, or each by one row.
    fn streams(&self, reduction: &ReductionRun) -> bool {
        reduction.streams
            && reduction.write.is_some_and(|view| {
                let memory = self.memory[view.index()];
                let row_bytes = self.step.features * reduction.size;
                let align = if reduction.beside || memory.row_stride == row_bytes as isize { VECTOR_ALIGN } else { LINE };
                memory.is_dense()
                    && row_bytes.is_multiple_of(LINE)
                    && memory.start.addr().is_multiple_of(align)
                    && memory.row_stride.unsigned_abs().is_multiple_of(align)
            })
    }

    /// The end of a batch, which has so many rows at most and no long segment, and its rows.
    fn batch_end(&self, k: usize, segments: Range<u64>, most_rows: u64) -> (u64, u64) {
        let table = self.tables.get(self.step.stages[k].table);
        let mut rows = 0;
        for segment in segments.clone() {
            let range = table.range(segment);
            let own = range.end - range.start;
            if own > BLOCK_ROWS_U64 || rows + own > most_rows {
                return (segment, rows);
            }
            rows += own;
        }
        (segments.end, rows)
    }

    /// How many rows from a segment of stage 0 on are turned already; no limit where its own are not.
    fn left_of_window(&self, segment: u64) -> usize {
        let range = self.tables.get(self.step.stages[0].table).range(segment);
        let (start, end) = (range.start as usize, range.end as usize);
        if self.window.0 <= start && end <= self.window.1 && start < end { self.window.1 - start } else { usize::MAX }
    }

    /// How stage 0 finds its rows.
    fn find(&self) -> Found {
        let step = self.step;
        match step.load {
            Load::View { values } => {
                let values = self.memory[values.index()];
                let in_place = Found::InPlace(Source::Strided { start: values.start, stride: values.row_stride });
                match values.packed {
                    None if values.is_dense() => in_place,
                    None => Found::Turned,
                    Some((_, Order::RowMajor)) if self.tables.get(step.stages[0].table).is_partition() => in_place,
                    Some((_, Order::RowMajor)) => Found::Pointed,
                    Some((_, Order::FeatureMajor)) => Found::Turned,
                }
            }
            Load::Gather { table, .. } | Load::Histogram { table, .. } => {
                if self.memory[table.index()].is_dense() {
                    Found::Pointed
                } else {
                    Found::Turned
                }
            }
        }
    }

    /// Finds the rows of a batch of stage 0 one by one, or brings them to the tile.
    unsafe fn point(&mut self, segments: Range<u64>, rows: usize) -> Source {
        let table = self.tables.get(self.step.stages[0].table);
        // SAFETY: the caller's promise; a batch has no more rows than there is room for.
        unsafe {
            let pointers = self.scratch.add(self.step.pointers).cast::<*const u8>();
            let pointers = std::slice::from_raw_parts_mut(pointers, rows);
            if table.is_partition() && self.is_one_piece() {
                self.load(segments.start, table.range(segments.start).start as usize, 0, pointers);
            } else {
                let mut at = 0;
                for segment in segments {
                    let range = table.range(segment);
                    let own = (range.end - range.start) as usize;
                    self.load(segment, range.start as usize, at, &mut pointers[at..at + own]);
                    at += own;
                }
            }
            Source::Pointers(pointers.as_ptr())
        }
    }

    /// Brings the rows of a batch to the tile in which their elements are worked on.
    unsafe fn work(&mut self, k: usize, segments: Range<u64>, rows: usize) -> Source {
        let stage = &self.step.stages[k];
        let table = self.tables.get(stage.table);
        let (Some(elements), Some(last)) = (&stage.elements, segments.end.checked_sub(1)) else {
            return Source::Pointers(std::ptr::null());
        };
        let children = table.range(segments.start).start..table.range(last).end;
        // SAFETY: the caller's promise; a batch has no more rows than the tile.
        unsafe {
            let worked = if k > 0 {
                let made = self.fold_segments(k - 1, children.clone(), self.scratch.add(stage.tile));
                elements.of_strided(self.scratch, made, rows)
            } else {
                match self.find() {
                    Found::InPlace(Source::Strided { start, stride }) if table.is_partition() => {
                        let first = start.wrapping_offset((children.start as isize).wrapping_mul(stride));
                        elements.of_strided(self.scratch, Dense { start: first.cast_mut(), stride }, rows)
                    }
                    Found::InPlace(_) | Found::Pointed | Found::Turned | Found::Worked => {
                        self.point(segments, rows);
                        let pointers = self.scratch.add(self.step.pointers).cast::<*const u8>();
                        elements.of_rows(self.scratch, std::slice::from_raw_parts(pointers, rows))
                    }
                }
            };
            if table.is_partition() {
                let start = worked.start.wrapping_offset(-(children.start as isize).wrapping_mul(worked.stride));
                return Source::Strided { start, stride: worked.stride };
            }
            let pointers = self.scratch.add(self.step.pointers).cast::<*const u8>();
            for row in 0..rows {
                pointers.add(row).write(worked.row(row));
            }
            Source::Pointers(pointers)
        }
    }

    /// Whether rows are found in the same way across the ends of segments.
    fn is_one_piece(&self) -> bool {
        match self.step.load {
            Load::View { values } => self.memory[values.index()].packed.is_none(),
            Load::Gather { .. } | Load::Histogram { .. } => true,
        }
    }

    /// Runs every reduction over short segments, and sees that results get to where they belong. Returns the first that is left: where `segments`
    /// have a long one, that one.
    unsafe fn run_all(&mut self, k: usize, segments: Range<u64>, slots: *mut u8, source: Source) -> u64 {
        let step = self.step;
        let stage = &step.stages[k];
        let (mut next, mut rows) = (segments.end, 0);
        let offsets = self.tables.get(stage.table).offsets();
        let is_narrow = offsets.is_some() && stage.reductions.iter().all(|reduction| self.narrow_run(reduction, source).is_some());
        let slots_of = |index: usize| if stage.feeds == Some(index) { slots } else { std::ptr::null_mut() };
        // SAFETY: the source has the rows of these segments, and outputs theirs.
        unsafe {
            if !is_narrow && stage.reductions.len() > 1 && stage.reductions.iter().all(|reduction| reduction.states.is_none()) {
                for (group, reductions) in stage.reductions.chunks(GROUP).enumerate() {
                    let mut runs: [Option<(Run<'a>, Dense)>; GROUP] = std::array::from_fn(|index| {
                        self.run_of(k, reductions.get(index)?, segments.start, slots_of(group * GROUP + index), source)
                    });
                    rows = match &stage.siblings {
                        Some(siblings) => self.run_siblings(siblings, reductions, &runs, segments.clone()),
                        None => run_by_segment(reductions, &mut runs, segments.clone()),
                    };
                    for (index, (reduction, run)) in reductions.iter().zip(&runs).enumerate() {
                        if let Some((run, out)) = run {
                            self.delivered(reduction, segments.clone(), run, *out, slots_of(group * GROUP + index));
                        }
                    }
                }
            } else {
                for (index, reduction) in stage.reductions.iter().enumerate() {
                    let slots = slots_of(index);
                    let Some((run, out)) = self.run_of(k, reduction, segments.start, slots, source) else { continue };
                    rows = 0;
                    next = match (&reduction.states, self.narrow_run(reduction, source), offsets) {
                        (None, Some(narrow), Some(offsets)) => {
                            self.run_narrow(narrow, reduction, &run, offsets, segments.clone(), &mut rows)
                        }
                        (None, _, _) => (reduction.kernels.fold_run)(&run, segments.start, segments.end, &mut rows),
                        (Some(_), _, _) => self.run_states(k, index, &run, segments.clone(), &mut rows),
                    };
                    self.delivered(reduction, segments.start..next, &run, out, slots);
                }
            }
        }
        self.read += rows * (stage.weight_read + if k == 0 { step.row_read } else { 0 });
        self.written += (next - segments.start) * stage.segment_written;
        next
    }

    /// One reduction over a batch that begins with a segment, and where its results are written first.
    pub(crate) fn run_of(
        &self,
        k: usize,
        reduction: &ReductionRun,
        first: u64,
        slots: *mut u8,
        source: Source,
    ) -> Option<(Run<'a>, Dense)> {
        let step = self.step;
        let out = self.out(reduction, first, slots)?;
        let row_zero = |rows: Dense| rows.start.wrapping_offset((first as isize).wrapping_mul(rows.stride).wrapping_neg());
        let streams = self.streams(reduction);
        // What feeds the next stage is written twice: past the cache, and where that stage reads it.
        let (to, also) = match reduction.write {
            Some(view) if streams && reduction.feeds => {
                let memory = self.memory[view.index()];
                (Dense { start: memory.row(first as usize), stride: memory.row_stride }, row_zero(out))
            }
            Some(_) | None => (out, std::ptr::null_mut()),
        };
        let run = Run {
            segments: self.tables.get(step.stages[k].table),
            source,
            features: step.features,
            acc: self.scratch.wrapping_add(reduction.acc),
            out: row_zero(to),
            out_stride: to.stride,
            out_size: reduction.size,
            streams,
            also,
            also_stride: out.stride,
            weights: reduction.weights.map(|view| self.memory[view.index()]),
            divides: reduction.reducer == Reducer::Mean,
            accumulate: reduction.kernels.accumulate,
            finish_block: reduction.kernels.finish_block,
            finish_row: reduction.kernels.finish_row,
            fill: reduction.fill,
            tiled: k > 0 || step.tiled || step.stages[k].elements.is_some(),
        };
        Some((run, out))
    }

    /// Where the results of a reduction are written first, from a segment on.
    pub(crate) fn out(&self, reduction: &ReductionRun, segment: u64, slots: *mut u8) -> Option<Dense> {
        let row_bytes = (self.step.features * reduction.size) as isize;
        if reduction.elements.is_some() {
            let taken = reduction.write.is_some() || !slots.is_null();
            return taken.then(|| Dense { start: self.scratch.wrapping_add(reduction.staged), stride: row_bytes });
        }
        match reduction.write {
            Some(view) if self.writes_in_place(reduction) => {
                let memory = self.memory[view.index()];
                Some(Dense { start: memory.row(segment as usize), stride: memory.row_stride })
            }
            Some(_) if slots.is_null() => Some(Dense { start: self.scratch.wrapping_add(reduction.staged), stride: row_bytes }),
            Some(_) => Some(Dense { start: slots, stride: row_bytes }),
            None if slots.is_null() => None,
            None => Some(Dense { start: slots, stride: row_bytes }),
        }
    }

    /// As [`deliver`](Self::deliver), after a run that may have written past the cache.
    pub(crate) unsafe fn delivered(&mut self, reduction: &ReductionRun, segments: Range<u64>, run: &Run<'_>, from: Dense, slots: *mut u8) {
        self.streamed |= run.streams;
        if run.also.is_null() {
            // SAFETY: the caller's promise.
            unsafe { self.deliver(reduction, segments, from, slots) }
        }
    }

    /// Copies finished rows to the view that they belong to, where there is one and they are not there yet; those whose elements are still to be
    /// worked on, to the slots of the next stage as well.
    pub(crate) unsafe fn deliver(&mut self, reduction: &ReductionRun, segments: Range<u64>, from: Dense, slots: *mut u8) {
        if let Some(elements) = &reduction.elements {
            let view = reduction.write.map(|view| self.memory[view.index()]).map(|mut view| {
                view.start = view.row(segments.start as usize);
                view
            });
            let places = [view, (!slots.is_null()).then(|| elements.slots(slots))];
            // SAFETY: the caller's promise: finished rows, and places for all of them.
            unsafe { elements.write(self.scratch, from, (segments.end - segments.start) as usize, places) };
            return;
        }
        let Some(view) = reduction.write else { return };
        if self.writes_in_place(reduction) {
            return;
        }
        let memory = self.memory[view.index()];
        let row_bytes = self.step.features * reduction.size;
        let (first, rows) = (segments.start as usize, (segments.end - segments.start) as usize);
        // SAFETY: the view has these rows, `from` as well, and they are dense.
        unsafe {
            if memory.is_dense() {
                stream::copy(from.start, memory.row(first), rows * row_bytes);
                self.streamed = true;
            } else {
                for row in 0..rows {
                    for feature in 0..self.step.features {
                        let element = memory.element(first + row, feature);
                        std::ptr::copy_nonoverlapping(from.row(row).add(feature * reduction.size), element, reduction.size);
                    }
                }
            }
        }
    }
}

/// Runs several reductions over short segments, one segment after the other: how many rows it has is then guessed right by all but the first, and the
/// rows of the next come while the others compute. Returns the rows.
unsafe fn run_by_segment(reductions: &[ReductionRun], runs: &mut [Option<(Run<'_>, Dense)>; GROUP], segments: Range<u64>) -> u64 {
    let mut rows = 0;
    for segment in segments {
        let mut own = 0;
        for (index, (reduction, run)) in reductions.iter().zip(&mut *runs).enumerate() {
            let Some((run, _)) = run else { continue };
            own = 0;
            if index == 1 {
                ask_for(run, segment + 1, |count| 0..count);
            }
            // SAFETY: the source has the rows of this segment, and the output its row; pointers of the rows before it are left behind.
            unsafe {
                (reduction.kernels.fold_run)(run, segment, segment + 1, &mut own);
                if let Source::Pointers(all) = &mut run.source {
                    *all = all.add(own as usize);
                }
            }
        }
        rows += own;
    }
    rows
}

/// Asks for some rows of a segment, as far as they are in order in memory, and as many as fit the first cache beside others.
pub(crate) fn ask_for(run: &Run<'_>, segment: u64, rows_of: impl Fn(usize) -> Range<usize>) {
    let Source::Strided { start, stride } = run.source else { return };
    if run.tiled || segment >= run.segments.len() {
        return;
    }
    let range = run.segments.range(segment);
    let rows = rows_of((range.end - range.start) as usize);
    let first = start.wrapping_offset((range.start as isize).wrapping_add(rows.start as isize).wrapping_mul(stride));
    let bytes = rows.len().saturating_mul(stride.unsigned_abs()).min(ASKED_BYTES);
    for line in (0..bytes).step_by(LINE) {
        prefetch(first.wrapping_add(line));
    }
}

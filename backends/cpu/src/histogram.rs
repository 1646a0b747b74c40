//! Folds by counts: the ids of a segment are counted, and the rows of their table that occur are folded in f64, weighted by how often.
//!
//! Counts are whole numbers, so a segment may be cut anywhere, and the counts of its pieces are added. What follows goes through the kernels
//! and trees of rows of f64: the rows that occur, in the order of the table, are widened a block at a time.

use crate::cuts::Split;
use crate::fold::Walker;
use crate::kernels::Block;
use crate::memory::Memory;
use half::{bf16, f16};
use levelfold::DType;
use levelfold::Reducer;
use levelfold::ids::ViewId;
use levelfold::numerics::{BLOCK_ROWS, Value};
use std::ops::Range;

/// A fold by counts, compiled.
pub(crate) struct Histogram {
    pub(crate) ids: ViewId,
    pub(crate) table: ViewId,
    /// The rows of the table.
    pub(crate) rows: usize,
    /// Scratch: counts of one thread, [`COPIES`] of them where the table is small.
    pub(crate) counts: usize,
}

/// So many neighbours are counted apart, so that equal ones do not wait for each other.
pub(crate) const COPIES: usize = 8;
/// The bytes that all copies may have: they stay in the first cache.
const COPIES_BYTES: usize = 16 << 10;
/// Copies are worth clearing and adding up for so many ids a row of the table.
const COPIES_FROM: usize = 64;
/// A piece of a segment that is cut has at least this many ids a row of the table: it has counts of its own, to be cleared, kept and added up.
const PIECE: u64 = 4;

impl Histogram {
    /// How many counts a thread needs room for.
    pub(crate) fn counts_of(rows: usize) -> Option<usize> {
        rows.checked_mul(if rows <= COPIES_BYTES / 8 / COPIES { COPIES } else { 1 })
    }

    /// The fewest ids that are worth a task of their own.
    pub(crate) fn task_rows(&self) -> u64 {
        PIECE.saturating_mul(self.rows as u64)
    }

    fn copies(&self, ids: usize) -> usize {
        if self.rows <= COPIES_BYTES / 8 / COPIES && ids / COPIES_FROM >= self.rows { COPIES } else { 1 }
    }
}

impl Walker<'_> {
    /// Counts and folds consecutive segments, and writes their rows.
    ///
    /// # Safety
    /// As for [`Walker::run`], of a fold by counts.
    pub(crate) unsafe fn histogram(&mut self, histogram: &Histogram, segments: Range<u64>) {
        let table = self.tables.get(self.step.stages[0].table);
        for segment in segments {
            let range = table.range(segment);
            // SAFETY: the caller's promise; the counts lie in this thread's scratch.
            unsafe {
                let counts = self.scratch.add(histogram.counts).cast::<u64>();
                self.count(histogram, range.clone(), counts, histogram.copies((range.end - range.start) as usize));
                self.fold_counts(histogram, segment, range.end - range.start, counts);
            }
        }
    }

    /// Counts the ids of a piece of a segment, to a row of partials.
    ///
    /// # Safety
    /// As for [`Walker::run`].
    pub(crate) unsafe fn count_piece(&mut self, histogram: &Histogram, rows: Range<u64>, partial: usize) {
        // SAFETY: the caller's promise: a partial has room for a count a row of the table.
        unsafe {
            let counts = self.scratch.add(histogram.counts).cast::<u64>();
            self.count(histogram, rows.clone(), counts, histogram.copies((rows.end - rows.start) as usize));
            std::ptr::copy_nonoverlapping(counts, self.partials.cast::<u64>().add(partial * histogram.rows), histogram.rows);
        }
    }

    /// Adds up the counts of a segment that was cut, folds, and writes its row.
    ///
    /// # Safety
    /// As for [`Walker::finish`].
    pub(crate) unsafe fn finish_counts(&mut self, histogram: &Histogram, split: Split, rows: u64) {
        // SAFETY: the partials of this segment are ours now.
        unsafe {
            let counts = self.partials.cast::<u64>().add(split.first_partial * histogram.rows);
            add_up(counts, histogram.rows, split.partials);
            self.fold_counts(histogram, split.segment, rows, counts);
        }
    }

    /// Counts ids into `counts`, which are cleared first.
    unsafe fn count(&mut self, histogram: &Histogram, rows: Range<u64>, counts: *mut u64, copies: usize) {
        let ids = self.memory[histogram.ids.index()];
        self.read += (rows.end - rows.start) * self.step.row_read;
        let rows = rows.start as usize..rows.end as usize;
        // SAFETY: ids were checked to lie inside the table; there is room for so many copies.
        unsafe {
            counts.write_bytes(0, histogram.rows * copies);
            match ids.dtype {
                DType::U8 => count_ids::<u8>(ids, rows, counts, histogram.rows, copies, usize::from),
                DType::U16 => count_ids::<u16>(ids, rows, counts, histogram.rows, copies, usize::from),
                DType::U32 => count_ids::<u32>(ids, rows, counts, histogram.rows, copies, |id| id as usize),
                DType::I32 => count_ids::<i32>(ids, rows, counts, histogram.rows, copies, |id| id as usize),
                DType::I64 => count_ids::<i64>(ids, rows, counts, histogram.rows, copies, |id| id as usize),
                DType::F32 | DType::F64 | DType::F16 | DType::BF16 => unreachable!("ids were checked to be ids"),
            }
            add_up(counts, histogram.rows, copies);
        }
    }

    /// Folds the rows of the table by the counts of a segment of `rows` rows, and writes what it makes.
    unsafe fn fold_counts(&mut self, histogram: &Histogram, segment: u64, rows: u64, counts: *const u64) {
        let step = self.step;
        let stage = &step.stages[0];
        let features = step.features;
        self.written += stage.segment_written;
        // SAFETY: the caller's promise; a tile has room for a block of rows of f64.
        unsafe {
            if rows == 0 {
                for reduction in &stage.reductions {
                    let Some(out) = self.out(reduction, segment, std::ptr::null_mut()) else { continue };
                    for feature in 0..features {
                        std::ptr::copy_nonoverlapping(reduction.fill.as_ptr(), out.start.add(feature * reduction.size), reduction.size);
                    }
                    self.deliver(reduction, segment..segment + 1, out, std::ptr::null_mut());
                }
                return;
            }
            for reduction in &stage.reductions {
                self.scratch.add(reduction.sizes).cast::<u64>().write(0);
            }
            let table = self.memory[histogram.table.index()];
            let tile = self.scratch.add(stage.tile).cast::<f64>();
            let mut weights = [0f64; BLOCK_ROWS];
            let mut pointers = [std::ptr::null::<u8>(); BLOCK_ROWS];
            let (mut row, mut folded) = (0, 0);
            while row < histogram.rows {
                let mut count = 0;
                while row < histogram.rows && count < BLOCK_ROWS {
                    let occurs = counts.add(row).read();
                    // What does not occur is left out: 0 times an infinity is no 0.
                    if occurs > 0 {
                        let to = tile.add(count * features);
                        widen(table, row, features, to);
                        (weights[count], pointers[count]) = (occurs as f64, to.cast::<u8>().cast_const());
                        count += 1;
                    }
                    row += 1;
                }
                if count == 0 {
                    break;
                }
                for (index, reduction) in stage.reductions.iter().enumerate() {
                    let weighted = !matches!(reduction.reducer, Reducer::Max | Reducer::Min);
                    let block = Block {
                        acc: self.scratch.add(reduction.acc),
                        rows: pointers.as_ptr(),
                        count,
                        features,
                        weights: if weighted { weights.as_ptr().cast() } else { std::ptr::null() },
                        tiled: true,
                    };
                    (reduction.kernels.accumulate)(&block);
                    self.push_tree(0, index, folded);
                }
                folded += count as u64;
            }
            for index in 0..stage.reductions.len() {
                let value = self.fold_tree(0, index);
                self.emit_tree(0, index, segment, rows, value, std::ptr::null_mut());
            }
        }
    }
}

/// Adds the rows of counts behind the first to it.
unsafe fn add_up(counts: *mut u64, rows: usize, copies: usize) {
    for copy in 1..copies {
        for row in 0..rows {
            // SAFETY: the caller's rows.
            unsafe { *counts.add(row) += counts.add(copy * rows + row).read() };
        }
    }
}

/// Counts ids, neighbours in copies of their own.
unsafe fn count_ids<T: Copy>(ids: Memory, rows: Range<usize>, counts: *mut u64, stride: usize, copies: usize, index: impl Fn(T) -> usize) {
    let dense = ids.row_stride == size_of::<T>() as isize;
    // SAFETY: one id a row, checked to lie inside the table.
    unsafe {
        let mut row = rows.start;
        if dense && copies == COPIES {
            let start = ids.row(0).cast::<T>();
            while row + COPIES <= rows.end {
                // Read together, so that no id waits for a count to be written.
                let group = start.add(row).cast::<[T; COPIES]>().read_unaligned();
                for (copy, id) in group.into_iter().enumerate() {
                    *counts.add(copy * stride + index(id)) += 1;
                }
                row += COPIES;
            }
        }
        for row in row..rows.end {
            *counts.add(index(ids.row(row).cast::<T>().read_unaligned())) += 1;
        }
    }
}

/// One row of the table, in f64.
unsafe fn widen(table: Memory, row: usize, features: usize, to: *mut f64) {
    unsafe fn of<T: Value>(table: Memory, row: usize, features: usize, to: *mut f64) {
        // SAFETY: the table has this row, and `to` room for it.
        unsafe {
            if table.is_dense() {
                let from = table.row(row).cast::<T>();
                for feature in 0..features {
                    to.add(feature).write(from.add(feature).read_unaligned().to_f64());
                }
            } else {
                for feature in 0..features {
                    to.add(feature).write(table.element(row, feature).cast::<T>().read_unaligned().to_f64());
                }
            }
        }
    }
    // SAFETY: the caller's promise is passed on.
    unsafe {
        match table.dtype {
            DType::F32 => of::<f32>(table, row, features, to),
            DType::F64 => of::<f64>(table, row, features, to),
            DType::F16 => of::<f16>(table, row, features, to),
            DType::BF16 => of::<bf16>(table, row, features, to),
            DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => unreachable!("only floats are folded"),
        }
    }
}

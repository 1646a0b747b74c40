//! Copy steps: what a literal program does between its reductions, split over threads by rows. What changes from rows to columns, or back, is turned.

use crate::Isa;
use crate::cuts::Task;
use crate::load::load_ids;
use crate::memory::Memory;
use crate::turn::Turn;
use levelfold::plan::Order;
use levelfold::segments::Segments;

/// Copies `features` elements of each of some rows.
///
/// # Safety
/// Both views have these rows; nobody else writes them.
pub(crate) unsafe fn rows(from: Memory, to: Memory, rows: std::ops::Range<usize>, isa: Isa) {
    let size = from.dtype.size();
    if !from.is_dense() {
        // SAFETY: the caller's promise.
        return unsafe { Patch::of(from, rows.start).copy(Patch::of(to, rows.start), rows.len(), from.features, size, isa) };
    }
    for row in rows {
        // SAFETY: the caller's promise.
        unsafe { copy_row(from.row(row), from, to.row(row), to, size) };
    }
}

/// Copies rows of several views side by side.
///
/// # Safety
/// As for `rows`; the parts are as wide as what is written, together.
pub(crate) unsafe fn columns(parts: impl Iterator<Item = Memory>, to: Memory, rows: std::ops::Range<usize>, isa: Isa) {
    let mut column = to;
    for from in parts {
        column.features = from.features;
        // SAFETY: the caller's promise.
        unsafe { self::rows(from, column, rows.clone(), isa) };
        column.start = column.start.wrapping_offset(from.features as isize * column.feature_stride);
    }
}

/// Copies the rows that ids look up.
///
/// # Safety
/// As for `rows`, and the ids are rows of the table.
pub(crate) unsafe fn gather(ids: Memory, table: Memory, to: Memory, rows: std::ops::Range<usize>) {
    let size = table.dtype.size();
    for row in rows {
        let mut from = [std::ptr::null()];
        // SAFETY: the caller's promise.
        unsafe {
            load_ids(ids, row, &mut from, |id| table.row(id));
            copy_row(from[0].cast_mut(), table, to.row(row), to, size);
        }
    }
}

unsafe fn copy_row(from_row: *mut u8, from: Memory, to_row: *mut u8, to: Memory, size: usize) {
    // SAFETY: the caller's promise: both rows have `features` elements.
    unsafe {
        if from.is_dense() && to.is_dense() {
            std::ptr::copy_nonoverlapping(from_row, to_row, from.features * size);
            return;
        }
        for feature in 0..from.features {
            let source = from_row.wrapping_offset((feature as isize) * from.feature_stride);
            let target = to_row.wrapping_offset((feature as isize) * to.feature_stride);
            std::ptr::copy_nonoverlapping(source, target, size);
        }
    }
}

/// Packs the segments of a table, or spreads them as rows: reads rows, or another packed view of the same table.
pub(crate) struct Pack<'a> {
    pub(crate) from: Memory,
    pub(crate) to: Memory,
    pub(crate) table: &'a Segments,
    /// Where each segment begins among all rows of all segments, where those are no partition.
    pub(crate) starts: &'a [u64],
    pub(crate) isa: Isa,
}

impl Pack<'_> {
    /// Runs one task.
    ///
    /// # Safety
    /// The views belong to the table; no other task has the same segments or rows.
    pub(crate) unsafe fn run(&self, task: Task) {
        // SAFETY: the caller's promise.
        unsafe {
            match task {
                Task::Segments { first, last } => {
                    for segment in first..last {
                        let range = self.table.range(segment);
                        self.segment(segment, 0..(range.end - range.start) as usize);
                    }
                }
                Task::Piece { segment, first_row, last_row, .. } => self.segment(segment, first_row as usize..last_row as usize),
            }
        }
    }

    unsafe fn segment(&self, segment: u64, rows: std::ops::Range<usize>) {
        let range = self.table.range(segment);
        let length = (range.end - range.start) as usize;
        let start = self.table.offsets().unwrap_or(self.starts)[segment as usize] as usize;
        let (size, features) = (self.from.dtype.size(), self.from.features);
        let patch = |memory: Memory, first: usize| match memory.packed {
            None => Patch::of(memory, first + rows.start),
            Some((_, order)) => {
                let (row_stride, feature_stride) = match order {
                    Order::RowMajor => (features * size, size),
                    Order::FeatureMajor => (size, length * size),
                };
                let at = memory.start.wrapping_add(start * features * size + rows.start * row_stride);
                Patch { start: at, row_stride: row_stride as isize, feature_stride: feature_stride as isize }
            }
        };
        // SAFETY: positions are inside the blocks of this segment.
        unsafe { patch(self.from, range.start as usize).copy(patch(self.to, start), rows.len(), features, size, self.isa) }
    }
}

/// Where some rows lie: the first element of the first, and how far the next row and the next feature are, in bytes.
#[derive(Clone, Copy)]
struct Patch {
    start: *mut u8,
    row_stride: isize,
    feature_stride: isize,
}

impl Patch {
    fn of(memory: Memory, first: usize) -> Self {
        Patch { start: memory.row(first), row_stride: memory.row_stride, feature_stride: memory.feature_stride }
    }

    /// Copies elements to another place.
    ///
    /// # Safety
    /// Both have them, and do not overlap; nobody else writes them.
    unsafe fn copy(self, to: Patch, rows: usize, features: usize, size: usize, isa: Isa) {
        let one = size as isize;
        let turn = Turn {
            from: self.start,
            row_stride: self.row_stride,
            column_stride: self.feature_stride,
            to: to.start,
            to_stride: to.row_stride.unsigned_abs(),
            rows,
            columns: features,
            size,
            ahead: 0,
        };
        // SAFETY: the caller's promise.
        unsafe {
            if to.feature_stride == one && to.row_stride >= 0 {
                turn.run(isa);
            } else if to.row_stride == one && to.feature_stride >= 0 {
                // The other way round: what is a row here is a column there.
                let (row_stride, column_stride) = (turn.column_stride, turn.row_stride);
                let to_stride = to.feature_stride.unsigned_abs();
                Turn { row_stride, column_stride, to_stride, rows: features, columns: rows, ..turn }.run(isa);
            } else {
                for row in 0..rows as isize {
                    for feature in 0..features as isize {
                        let from = self.start.wrapping_offset(row * self.row_stride + feature * self.feature_stride);
                        let to = to.start.wrapping_offset(row * to.row_stride + feature * to.feature_stride);
                        std::ptr::copy_nonoverlapping(from, to, size);
                    }
                }
            }
        }
    }
}

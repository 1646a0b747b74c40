//! Copy steps: what a literal program does between its reductions. Plain loops, split over threads by rows.

use crate::cuts::Task;
use crate::load::load_ids;
use crate::memory::Memory;
use levelfold::plan::Order;
use levelfold::segments::Segments;

/// Copies `features` elements of each of some rows.
///
/// # Safety
/// Both views have these rows; nobody else writes them.
pub(crate) unsafe fn rows(from: Memory, to: Memory, rows: std::ops::Range<usize>) {
    let size = from.dtype.size();
    for row in rows {
        // SAFETY: the caller's promise.
        unsafe { copy_row(from.row(row), from, to.row(row), to, size) };
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
    /// Where each segment begins among all rows of all segments.
    pub(crate) starts: &'a [u64],
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
        let start = self.starts[segment as usize] as usize;
        let size = self.from.dtype.size();
        let features = self.from.features;
        // SAFETY: positions are inside the blocks of this segment.
        unsafe {
            match size {
                2 => self.elements::<u16>(&range, start, length, features, rows),
                4 => self.elements::<u32>(&range, start, length, features, rows),
                8 => self.elements::<u64>(&range, start, length, features, rows),
                _ => self.elements::<u8>(&range, start, length, features, rows),
            }
        }
    }

    #[inline(always)]
    unsafe fn elements<T: Copy>(
        &self,
        range: &std::ops::Range<u64>,
        start: usize,
        length: usize,
        features: usize,
        rows: std::ops::Range<usize>,
    ) {
        let size = size_of::<T>();
        let packed = |base: *mut u8, order: Order, row: usize, feature: usize| {
            let inside = match order {
                Order::RowMajor => row * features + feature,
                Order::FeatureMajor => feature * length + row,
            };
            base.wrapping_add((start * features + inside) * size).cast::<T>()
        };
        let address = |memory: &Memory, first: u64, row: usize, feature: usize| match memory.packed {
            None => memory.element(first as usize + row, feature).cast::<T>(),
            Some((_, order)) => packed(memory.start, order, row, feature),
        };
        // The written order inside, so that writes are in order.
        let by_feature = matches!(self.to.packed, Some((_, Order::FeatureMajor)));
        // SAFETY: the caller's promise.
        unsafe {
            if by_feature {
                for feature in 0..features {
                    for row in rows.clone() {
                        address(&self.to, start as u64, row, feature).write(address(&self.from, range.start, row, feature).read());
                    }
                }
            } else {
                for row in rows {
                    for feature in 0..features {
                        address(&self.to, start as u64, row, feature).write(address(&self.from, range.start, row, feature).read());
                    }
                }
            }
        }
    }
}

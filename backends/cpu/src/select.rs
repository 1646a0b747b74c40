//! Quantiles: a segment's rows, some columns of them at a time, gathered into scratch and selected from, feature by feature.
//!
//! Scratch has room for the longest segment of the table, times as many columns as come to 256 KiB, at least one. Nothing is cut inside a segment.

use crate::fold::{FoldStep, Walker};
use half::{bf16, f16};
use levelfold::DType;
use levelfold::numerics::{BLOCK_ROWS, Value, quantile_of};
use std::ops::Range;

/// The bytes of gathered columns, where that is at least one column.
const SELECT_BYTES: usize = 256 << 10;

/// A fold that selects, compiled.
pub(crate) struct Select {
    pub(crate) q: f64,
    /// Columns that are gathered at a time.
    pub(crate) columns: usize,
    /// Scratch: so many columns of so many rows as the longest segment has, in f64.
    pub(crate) values: usize,
}

impl Select {
    /// How many columns are gathered at a time.
    pub(crate) fn columns(longest: usize, features: usize) -> usize {
        (SELECT_BYTES / 8 / longest.max(1)).clamp(1, features.max(1))
    }
}

impl Walker<'_> {
    /// Selects from consecutive segments, and writes the results.
    ///
    /// # Safety
    /// As for [`Walker::run`], of a fold of one stage and one reduction.
    pub(crate) unsafe fn select(&mut self, select: &Select, segments: Range<u64>) {
        let step: &FoldStep = self.step;
        let stage = &step.stages[0];
        let reduction = &stage.reductions[0];
        let table = self.tables.get(stage.table);
        let mut pointers = [std::ptr::null::<u8>(); BLOCK_ROWS];
        for segment in segments {
            let range = table.range(segment);
            let (start, rows) = (range.start as usize, (range.end - range.start) as usize);
            let Some(out) = self.out(reduction, segment, std::ptr::null_mut()) else { continue };
            // SAFETY: the caller's promise; `values` has room for the columns of the longest segment, `result` for all features.
            unsafe {
                let values = self.scratch.add(select.values).cast::<f64>();
                let result = self.scratch.add(reduction.result).cast::<f64>();
                for first in (0..step.features).step_by(select.columns) {
                    let columns = first..step.features.min(first + select.columns);
                    for block in (0..rows).step_by(BLOCK_ROWS) {
                        let pointers = &mut pointers[..BLOCK_ROWS.min(rows - block)];
                        self.load(segment, start + block, 0, pointers);
                        if let Some(elements) = &stage.elements {
                            let worked = elements.of_rows(self.scratch, pointers);
                            pointers.iter_mut().enumerate().for_each(|(index, row)| *row = worked.row(index));
                        }
                        gather(stage.input, pointers, columns.clone(), values.add(block), rows);
                    }
                    for (index, feature) in columns.enumerate() {
                        let column = std::slice::from_raw_parts_mut(values.add(index * rows), rows);
                        result.add(feature).write(quantile_of(column, select.q));
                    }
                }
                if rows == 0 {
                    for feature in 0..step.features {
                        std::ptr::copy_nonoverlapping(reduction.fill.as_ptr(), out.start.add(feature * reduction.size), reduction.size);
                    }
                } else {
                    self.round(reduction, result, out.start);
                }
                self.deliver(reduction, segment..segment + 1, out, std::ptr::null_mut());
            }
            self.read += rows as u64 * step.row_read;
            self.written += stage.segment_written;
        }
    }
}

/// Widens some columns of rows: each of them becomes a run of values, `stride` apart.
unsafe fn gather(dtype: DType, rows: &[*const u8], columns: Range<usize>, values: *mut f64, stride: usize) {
    unsafe fn of<T: Value>(rows: &[*const u8], columns: Range<usize>, values: *mut f64, stride: usize) {
        for (index, column) in columns.enumerate() {
            for (row, from) in rows.iter().enumerate() {
                // SAFETY: the caller's rows have these columns, and `values` room for all of them.
                unsafe { values.add(index * stride + row).write(from.cast::<T>().add(column).read_unaligned().to_f64()) };
            }
        }
    }
    // SAFETY: the caller's promise is passed on.
    unsafe {
        match dtype {
            DType::F32 => of::<f32>(rows, columns, values, stride),
            DType::F64 => of::<f64>(rows, columns, values, stride),
            DType::F16 => of::<f16>(rows, columns, values, stride),
            DType::BF16 => of::<bf16>(rows, columns, values, stride),
            DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => unreachable!("only floats are folded"),
        }
    }
}

//! Operations on single elements inside folds: rows are brought to a tile in the accumulator's type, worked on there, and rounded after each operation.
//!
//! They are the kernels of encoders, so a fold gives the bits that an encoder in front of it or behind it would have given.

use crate::Isa;
use crate::batch::Dense;
use crate::encode::kernels::{Kernels, select};
use crate::fold::{Scratchpad, too_large};
use crate::memory::Memory;
use levelfold::DType;
use levelfold::encoder::{ElementOp, dtype_after};
use levelfold::error::{Error, ErrorCode, Result};

/// Rows of a tile.
pub(crate) const ELEMENT_ROWS: usize = 64;

/// Operations, compiled.
pub(crate) struct Elements {
    first: Kernels,
    /// Each with the kernels of the type that it takes, and of the one that it makes.
    ops: Vec<(ElementOp, Kernels, Kernels)>,
    last: Kernels,
    from: DType,
    to: DType,
    features: usize,
    /// Numbers of a row of the tile.
    stride: usize,
    /// Offsets in a thread's memory.
    tile: usize,
    other: usize,
    rounded: usize,
}

impl Elements {
    /// `None` where nothing is done.
    pub(crate) fn compile(ops: &[ElementOp], from: DType, features: usize, isa: Isa, scratch: &mut Scratchpad) -> Result<Option<Self>> {
        if ops.is_empty() {
            return Ok(None);
        }
        let kernels = |dtype: DType| {
            select(isa, dtype).ok_or_else(|| Error::new(ErrorCode::Unsupported, format!("elements of {dtype} have no kernels")))
        };
        let stride = features.checked_next_multiple_of(16).ok_or_else(too_large)?;
        let numbers = stride.checked_mul(ELEMENT_ROWS).ok_or_else(too_large)?;
        let mut compiled = Vec::with_capacity(ops.len());
        let mut dtype = from;
        for op in ops {
            let made = dtype_after(std::slice::from_ref(op), dtype);
            compiled.push((*op, kernels(dtype)?, kernels(made)?));
            dtype = made;
        }
        Ok(Some(Elements {
            first: kernels(from)?,
            ops: compiled,
            last: kernels(dtype)?,
            from,
            to: dtype,
            features,
            stride,
            tile: scratch.take(numbers, 8)?,
            other: scratch.take(numbers, 8)?,
            rounded: scratch.take(numbers, dtype.size())?,
        }))
    }

    fn memory(&self, start: *mut u8, stride: isize, dtype: DType) -> Memory {
        let feature_stride = dtype.size() as isize;
        Memory { start, row_stride: stride, feature_stride, features: self.features, dtype, packed: None }
    }

    /// Works on rows that lie at equal distances; the address of the tile.
    unsafe fn strided(&self, scratch: *mut u8, rows: Dense, count: usize) -> *mut u8 {
        let tile = scratch.wrapping_add(self.tile);
        // SAFETY: the caller's promise: `count` dense rows, and no more than the tile has.
        unsafe {
            (self.first.load)(&self.memory(rows.start, rows.stride, self.from), 0, count, tile, self.stride);
            self.work(scratch, count)
        }
    }

    /// The rows of a tile that is loaded, after all operations.
    unsafe fn work(&self, scratch: *mut u8, count: usize) -> *mut u8 {
        let (mut tile, mut other) = (scratch.wrapping_add(self.tile), scratch.wrapping_add(self.other));
        let numbers = count * self.stride;
        // SAFETY: both tiles have room for `ELEMENT_ROWS` rows of the largest type.
        unsafe {
            for (op, before, after) in &self.ops {
                match op {
                    ElementOp::Activate(activation) => (before.activate)(*activation, tile, numbers),
                    ElementOp::Scale(by) => (before.scale)(by.0, tile, numbers),
                    ElementOp::Cast(to) => {
                        before.cast_to(*to)(tile, other, numbers);
                        std::mem::swap(&mut tile, &mut other);
                    }
                }
                (after.round)(tile, numbers);
            }
        }
        tile
    }

    /// Dense rows of a tile, in the type that they end in.
    unsafe fn dense(&self, scratch: *mut u8, tile: *mut u8, count: usize) -> Dense {
        if self.to.accumulator() == self.to {
            return Dense { start: tile, stride: (self.stride * self.to.size()) as isize };
        }
        let (start, stride) = (scratch.wrapping_add(self.rounded), (self.features * self.to.size()) as isize);
        // SAFETY: as above.
        unsafe { (self.last.store)(tile, self.stride, &self.memory(start, stride, self.to), 0, count) };
        Dense { start, stride }
    }

    /// What becomes of rows at equal distances.
    ///
    /// # Safety
    /// At most [`ELEMENT_ROWS`] dense rows; `scratch` is this thread's own.
    pub(crate) unsafe fn of_strided(&self, scratch: *mut u8, rows: Dense, count: usize) -> Dense {
        // SAFETY: the caller's promise.
        unsafe {
            let tile = self.strided(scratch, rows, count);
            self.dense(scratch, tile, count)
        }
    }

    /// What becomes of rows that lie anywhere.
    ///
    /// # Safety
    /// As for `of_strided`.
    pub(crate) unsafe fn of_rows(&self, scratch: *mut u8, rows: &[*const u8]) -> Dense {
        // SAFETY: the caller's promise.
        unsafe {
            let mut to = scratch.wrapping_add(self.tile);
            for row in rows {
                (self.first.load)(&self.memory(row.cast_mut(), 0, self.from), 0, 1, to, self.stride);
                to = to.wrapping_add(self.stride * self.first.size);
            }
            let tile = self.work(scratch, rows.len());
            self.dense(scratch, tile, rows.len())
        }
    }

    /// Works on dense rows, as many as there are, and writes what becomes of them to each place that there is.
    ///
    /// # Safety
    /// As for `of_strided`, but for the number of rows; the places have room for them from their first row on.
    pub(crate) unsafe fn write(&self, scratch: *mut u8, rows: Dense, count: usize, places: [Option<Memory>; 2]) {
        let mut first = 0;
        while first < count {
            let some = (count - first).min(ELEMENT_ROWS);
            // SAFETY: the caller's promise.
            unsafe {
                let tile = self.strided(scratch, Dense { start: rows.row(first), stride: rows.stride }, some);
                for place in places.iter().flatten() {
                    (self.last.store)(tile, self.stride, place, first, some);
                }
            }
            first += some;
        }
    }

    /// Dense rows in the type that they end in, one after the other from an address on.
    pub(crate) fn slots(&self, start: *mut u8) -> Memory {
        self.memory(start, (self.features * self.to.size()) as isize, self.to)
    }
}

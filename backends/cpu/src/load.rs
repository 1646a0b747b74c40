//! How rows get to the kernels: as pointers to where they lie, or turned through a tile of scratch.

use crate::fold::{TILE_ROWS, Walker};
use crate::memory::Memory;
use half::{bf16, f16};
use levelfold::DType;
use levelfold::numerics::{Accumulator, AddOp, ReduceOp, Value};
use levelfold::plan::{Load, Order};

impl Walker<'_> {
    /// Finds (or brings to the tile, behind the `behind` rows that are there) the dense rows from `first` on.
    ///
    /// # Safety
    /// As for [`Walker::run`].
    pub(crate) unsafe fn load(&mut self, segment: u64, first: usize, behind: usize, rows: &mut [*const u8]) {
        let step = self.step;
        let stage = &step.stages[0];
        // SAFETY: the caller's promise: rows and ids are inside their views, checked before the run.
        unsafe {
            match step.load {
                Load::Gather { ids, table } => {
                    let (ids, table) = (self.memory[ids.index()], self.memory[table.index()]);
                    load_ids(ids, first, rows, |id| table.row(id));
                    if !table.is_dense() {
                        let tile = self.scratch.add(stage.tile);
                        for (index, row) in rows.iter_mut().enumerate() {
                            let from = *row;
                            *row = tile.add((behind + index) * step.features * table.dtype.size());
                            let element = |_, feature: usize| from.wrapping_offset(feature as isize * table.feature_stride);
                            copy_tile(row.cast_mut(), element, 1, step.features, table.dtype.size());
                        }
                    }
                }
                Load::View { values } => {
                    let memory = self.memory[values.index()];
                    match memory.packed {
                        Some((_, Order::RowMajor)) => {
                            let offset = self.packed_start(segment) + (first - self.tables.get(stage.table).range(segment).start as usize);
                            point_at(rows, memory, offset);
                        }
                        Some((_, Order::FeatureMajor)) => {
                            let range = self.tables.get(stage.table).range(segment);
                            let (length, skipped) = ((range.end - range.start) as usize, first - range.start as usize);
                            let size = memory.dtype.size();
                            let block = memory.start.add(self.packed_start(segment) * step.features * size);
                            let tile = self.scratch.add(stage.tile).add(behind * step.features * size);
                            let element = |row: usize, feature: usize| block.add((feature * length + skipped + row) * size).cast_const();
                            copy_tile(tile, element, rows.len(), step.features, size);
                            point_into(rows, tile, step.features * size);
                        }
                        None if memory.is_dense() => point_at(rows, memory, first),
                        None => self.load_window(memory, first, behind, rows),
                    }
                }
            }
        }
    }

    fn packed_start(&self, segment: u64) -> usize {
        let table = self.tables.get(self.step.stages[0].table);
        match table.offsets() {
            Some(offsets) => offsets[segment as usize] as usize,
            None => self.step.starts[segment as usize] as usize,
        }
    }

    /// Rows whose features do not lie together are turned through the tile. Where segments follow each other, the tile is filled ahead.
    unsafe fn load_window(&mut self, memory: Memory, first: usize, behind: usize, rows: &mut [*const u8]) {
        let step = self.step;
        let stage = &step.stages[0];
        let table = self.tables.get(stage.table);
        let size = memory.dtype.size();
        // SAFETY: the tile has room for `TILE_ROWS` rows, and the window stays inside the view.
        unsafe {
            let tile = self.scratch.add(stage.tile);
            let end = first + rows.len();
            let element = |row: usize, feature: usize| memory.element(first + row, feature).cast_const();
            if !table.is_partition() {
                let tile = tile.add(behind * step.features * size);
                copy_tile(tile, element, rows.len(), step.features, size);
                point_into(rows, tile, step.features * size);
                return;
            }
            if !(self.window.0 <= first && end <= self.window.1) {
                let ahead = (first + TILE_ROWS).min(table.rows() as usize);
                copy_tile(tile, element, ahead - first, step.features, size);
                self.window = (first, ahead);
            }
            point_into(rows, tile.add((first - self.window.0) * step.features * size), step.features * size);
        }
    }
}

fn point_at(rows: &mut [*const u8], memory: Memory, first: usize) {
    for (index, row) in rows.iter_mut().enumerate() {
        *row = memory.row(first + index);
    }
}

fn point_into(rows: &mut [*const u8], tile: *const u8, row_bytes: usize) {
    for (index, row) in rows.iter_mut().enumerate() {
        *row = tile.wrapping_add(index * row_bytes);
    }
}

/// Writes `rows × features` elements as dense rows.
#[inline(always)]
unsafe fn copy_tile(tile: *mut u8, element: impl Fn(usize, usize) -> *const u8, rows: usize, features: usize, size: usize) {
    #[inline(always)]
    unsafe fn of<T: Copy>(tile: *mut u8, element: impl Fn(usize, usize) -> *const u8, rows: usize, features: usize) {
        for feature in 0..features {
            for row in 0..rows {
                // SAFETY: the tile has room for all elements, and every address is one of an element.
                unsafe { tile.cast::<T>().add(row * features + feature).write(element(row, feature).cast::<T>().read()) };
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        match size {
            2 => of::<u16>(tile, element, rows, features),
            4 => of::<u32>(tile, element, rows, features),
            8 => of::<u64>(tile, element, rows, features),
            _ => of::<u8>(tile, element, rows * size, features),
        }
    }
}

/// The rows of a table that ids look up.
#[inline(always)]
pub(crate) unsafe fn load_ids(ids: Memory, first: usize, rows: &mut [*const u8], row_of: impl Fn(usize) -> *mut u8) {
    #[inline(always)]
    unsafe fn of<T: Copy>(
        ids: Memory,
        first: usize,
        rows: &mut [*const u8],
        row_of: impl Fn(usize) -> *mut u8,
        index: impl Fn(T) -> usize,
    ) {
        for (offset, row) in rows.iter_mut().enumerate() {
            // SAFETY: one id a row, checked to lie inside the table.
            *row = row_of(index(unsafe { ids.row(first + offset).cast::<T>().read() }));
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        match ids.dtype {
            DType::U8 => of::<u8>(ids, first, rows, row_of, usize::from),
            DType::U16 => of::<u16>(ids, first, rows, row_of, usize::from),
            DType::U32 => of::<u32>(ids, first, rows, row_of, |id| id as usize),
            DType::I32 => of::<i32>(ids, first, rows, row_of, |id| id as usize),
            DType::I64 => of::<i64>(ids, first, rows, row_of, |id| id as usize),
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => unreachable!("ids were checked to be ids"),
        }
    }
}

/// Widens the weights of a block, and gives their sum, left to right.
#[inline(always)]
pub(crate) unsafe fn load_weights<A: Accumulator>(memory: Memory, first: usize, into: &mut [A]) -> A {
    let mut sum: A = AddOp::identity();
    for (index, into) in into.iter_mut().enumerate() {
        let address = memory.row(first + index);
        // SAFETY: one weight a row.
        let weight = unsafe {
            match memory.dtype {
                DType::F32 => Value::to_f64(address.cast::<f32>().read()),
                DType::F64 => address.cast::<f64>().read(),
                DType::F16 => Value::to_f64(address.cast::<f16>().read()),
                DType::BF16 => Value::to_f64(address.cast::<bf16>().read()),
                DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => unreachable!("weights were checked to be floats"),
            }
        };
        // Exact: weights widen to the accumulator.
        let weight = A::of_f64(weight);
        sum = Accumulator::add(sum, weight);
        *into = weight;
    }
    sum
}

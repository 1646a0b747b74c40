//! How rows get to the kernels: as pointers to where they lie, or turned through a tile of scratch.

use crate::fold::{LINE_ROWS, Walker};
use crate::memory::Memory;
use crate::turn::Turn;
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
                Load::Gather { ids, table } | Load::Histogram { ids, table } => {
                    let (ids, table) = (self.memory[ids.index()], self.looked_up(table, first));
                    load_ids(ids, first, rows, |id| table.row(id));
                    if !table.is_dense() {
                        let tile = self.scratch.add(stage.tile);
                        for (index, row) in rows.iter_mut().enumerate() {
                            let from = *row;
                            *row = tile.add((behind + index) * step.features * table.dtype.size());
                            self.turn(Memory { start: from.cast_mut(), ..table }, 0, 1, row.cast_mut(), 0);
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
                            let (row_stride, feature_stride) = (size as isize, (length * size) as isize);
                            let block = Memory { start: block, row_stride, feature_stride, packed: None, ..memory };
                            self.turn(block, skipped, rows.len(), tile, 0);
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
        // SAFETY: the tile has room for a window and a cache line's rows, and the window stays inside the view.
        unsafe {
            let tile = self.scratch.add(stage.tile);
            let end = first + rows.len();
            if !table.is_partition() {
                let tile = tile.add(behind * step.features * size);
                self.turn(memory, first, rows.len(), tile, 0);
                point_into(rows, tile, step.features * size);
                return;
            }
            if !(self.window.0 <= first && end <= self.window.1) {
                // From where a cache line begins: the lines of a column are then read once and whole.
                let inside = if memory.row_stride == size as isize { memory.row(first).addr() % 64 / size } else { 0 };
                let start = first - inside.min(first).min(LINE_ROWS - 1);
                let window = (start + step.window_rows).max(end).min(table.rows() as usize);
                let ahead = if window < table.rows() as usize { window - start } else { 0 };
                self.turn(memory, start, window - start, tile, ahead);
                self.window = (start, window);
            }
            point_into(rows, tile.add((first - self.window.0) * step.features * size), step.features * size);
        }
    }

    /// Writes rows of a view as dense rows.
    unsafe fn turn(&self, memory: Memory, first: usize, rows: usize, tile: *mut u8, ahead: usize) {
        let (columns, size) = (self.step.features, memory.dtype.size());
        let turn = Turn {
            from: memory.row(first),
            row_stride: memory.row_stride,
            column_stride: memory.feature_stride,
            to: tile,
            to_stride: columns * size,
            rows,
            columns,
            size,
            ahead,
        };
        // SAFETY: the caller's rows and room; scratch is nobody else's.
        unsafe { turn.run(self.step.isa) }
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

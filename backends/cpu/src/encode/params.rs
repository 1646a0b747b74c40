//! What encoders need beside rows: parameters widened and laid out for the kernels, and the waves of positions.

use super::{matmul, too_large};
use crate::memory::{Memory, narrow};
use half::{bf16, f16};
use levelfold::DType;
use levelfold::error::Result;
use levelfold::ids::ViewId;
use levelfold::numerics::elementary::{Elementary, cos, sin};
use levelfold::numerics::encoders::frequency;
use levelfold::numerics::{Value, count_to_f64};

/// Bytes that the waves of one operation are kept in; those of later positions are made when they are needed.
const WAVE_BYTES: usize = 1 << 20;

/// How a parameter is laid out.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// Rows, each as long as a row of a tile.
    Rows { rows: usize, columns: usize },
    /// A weight of `columns` rows and `depth` columns, in panels.
    Packed { columns: usize, depth: usize, panel: usize },
    /// Columns become rows, each as long as a row of a tile.
    Turned { rows: usize, columns: usize },
}

impl Shape {
    /// One row.
    pub(crate) fn row(columns: usize) -> Self {
        Shape::Rows { rows: 1, columns }
    }

    fn len(self) -> Option<usize> {
        match self {
            Shape::Rows { rows, columns } => columns.checked_next_multiple_of(16)?.checked_mul(rows),
            Shape::Packed { columns, depth, panel } => matmul::packed_len(columns, depth, panel),
            Shape::Turned { rows, columns } => rows.checked_next_multiple_of(16)?.checked_mul(columns),
        }
    }
}

/// A parameter, and where it lies.
#[derive(Clone, Copy)]
pub(crate) struct Param {
    view: ViewId,
    shape: Shape,
    dtype: DType,
    pub(crate) offset: usize,
}

/// Everything of one step.
#[derive(Default)]
pub(crate) struct Params {
    params: Vec<Param>,
    waves: Vec<Wave>,
    pub(crate) bytes: usize,
}

/// Sines and cosines of the first positions, one row a position: in turns (sine, cosine, …), or the cosines of all pairs and then their sines.
#[derive(Clone, Copy)]
pub(crate) struct Wave {
    columns: usize,
    stride: usize,
    turns: bool,
    base: f64,
    kept: usize,
    double: bool,
    offset: usize,
    /// Of the frequencies of all pairs, in f64.
    frequencies: usize,
}

impl Params {
    fn place(&mut self, count: usize, size: usize) -> Result<usize> {
        let start = self.bytes;
        let end = count.checked_mul(size).and_then(|bytes| start.checked_add(bytes));
        self.bytes = end.and_then(|end| end.checked_next_multiple_of(64)).ok_or_else(too_large)?;
        Ok(start)
    }

    /// A parameter for rows of `dtype`.
    pub(crate) fn take(&mut self, view: ViewId, shape: Shape, dtype: DType) -> Result<Param> {
        let dtype = dtype.accumulator();
        let offset = self.place(shape.len().ok_or_else(too_large)?, dtype.size())?;
        let param = Param { view, shape, dtype, offset };
        self.params.push(param);
        Ok(param)
    }

    /// The waves of `columns` columns for segments of up to `longest` rows of `dtype`.
    pub(crate) fn wave(&mut self, columns: usize, turns: bool, base: f64, longest: u64, dtype: DType) -> Result<Wave> {
        let dtype = dtype.accumulator();
        let stride = columns.checked_next_multiple_of(16).ok_or_else(too_large)?;
        let kept = narrow(longest)?.min(WAVE_BYTES / (stride * dtype.size()).max(1));
        let offset = self.place(kept * stride, dtype.size())?;
        let frequencies = self.place(columns.div_ceil(2), 8)?;
        let wave = Wave { columns, stride, turns, base, kept, double: dtype == DType::F64, offset, frequencies };
        self.waves.push(wave);
        Ok(wave)
    }

    /// The numbers of the longest row of waves.
    pub(crate) fn widest_wave(&self) -> usize {
        self.waves.iter().map(|wave| wave.stride).max().unwrap_or(0)
    }

    /// Makes the waves: once.
    ///
    /// # Safety
    /// `start` has room for `bytes`, aligned to 64.
    pub(crate) unsafe fn make_waves(&self, start: *mut u8) {
        for wave in &self.waves {
            let frequencies = start.wrapping_add(wave.frequencies).cast::<f64>();
            for pair in 0..wave.columns.div_ceil(2) {
                // SAFETY: the caller's promise.
                unsafe { frequencies.add(pair).write(frequency(pair as u64, wave.columns as u64, wave.base)) };
            }
            for position in 0..wave.kept {
                let size = if wave.double { 8 } else { 4 };
                let row = start.wrapping_add(wave.offset + position * wave.stride * size);
                // SAFETY: as above.
                unsafe { wave.make(frequencies, position, row) };
            }
        }
    }

    /// Widens and lays out all parameters: at the start of a run.
    ///
    /// # Safety
    /// As above, and the memory of every view is valid for its shape.
    pub(crate) unsafe fn prepare(&self, memory: &[Memory], start: *mut u8) {
        for param in &self.params {
            let (from, to) = (&memory[param.view.index()], start.wrapping_add(param.offset));
            // SAFETY: the caller's promise.
            unsafe {
                match param.dtype {
                    DType::F64 => lay_out::<f64>(param.shape, from, to.cast()),
                    _ => lay_out::<f32>(param.shape, from, to.cast()),
                }
            }
        }
    }
}

unsafe fn lay_out<A: Elementary>(shape: Shape, from: &Memory, to: *mut A) {
    // SAFETY: the caller's promise; the views are of these types.
    unsafe {
        match from.dtype {
            DType::F64 => elements::<f64, A>(shape, from, to),
            DType::F16 => elements::<f16, A>(shape, from, to),
            DType::BF16 => elements::<bf16, A>(shape, from, to),
            _ => elements::<f32, A>(shape, from, to),
        }
    }
}

unsafe fn elements<P: Value, A: Elementary>(shape: Shape, from: &Memory, to: *mut A) {
    // SAFETY: the caller's promise: positions are inside the parameter, and inside its layout.
    let copy = |row: usize, column: usize, at: usize| unsafe {
        to.add(at).write(A::of_f64(from.element(row, column).cast::<P>().read().to_f64()));
    };
    match shape {
        Shape::Rows { rows, columns } => {
            let stride = columns.next_multiple_of(16);
            for row in 0..rows {
                (0..columns).for_each(|column| copy(row, column, row * stride + column));
            }
        }
        Shape::Packed { columns, depth, panel } => {
            for first in (0..columns).step_by(panel) {
                let start = matmul::packed_at(first, 0, depth, panel);
                for column in first..columns.min(first + panel) {
                    (0..depth).for_each(|k| copy(column, k, start + k * panel + column - first));
                }
            }
        }
        Shape::Turned { rows, columns } => {
            let stride = rows.next_multiple_of(16);
            for row in 0..rows {
                (0..columns).for_each(|column| copy(row, column, column * stride + row));
            }
        }
    }
}

impl Wave {
    /// The row of a position: a kept one, or one made in `own`.
    ///
    /// # Safety
    /// The waves were made at `start`; `own` has room for a row.
    pub(crate) unsafe fn row(&self, start: *const u8, position: usize, own: *mut u8) -> *const u8 {
        if position < self.kept {
            return start.wrapping_add(self.offset + position * self.stride * if self.double { 8 } else { 4 });
        }
        // SAFETY: the caller's promise.
        unsafe { self.make(start.wrapping_add(self.frequencies).cast(), position, own) };
        own
    }

    unsafe fn make(&self, frequencies: *const f64, position: usize, row: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.double {
                self.make_as::<f64>(frequencies, position, row.cast())
            } else {
                self.make_as::<f32>(frequencies, position, row.cast())
            }
        }
    }

    unsafe fn make_as<A: Elementary>(&self, frequencies: *const f64, position: usize, row: *mut A) {
        let pairs = self.columns / 2;
        for column in 0..self.columns {
            // The second of a pair; an odd last column is the first of its own.
            let (pair, cosine) = if self.turns { (column % pairs, column < pairs) } else { (column / 2, column % 2 == 1) };
            // SAFETY: the caller's promise.
            unsafe {
                let angle = count_to_f64(position as u64) * *frequencies.add(pair);
                row.add(column).write(A::of_f64(if cosine { cos(angle) } else { sin(angle) }));
            }
        }
    }
}

//! What encoders need beside rows: parameters widened and laid out for the kernels, and the waves of positions.

use super::{matmul, too_large};
use crate::Isa;
use crate::memory::{Memory, narrow};
use crate::turn::Turn;
use half::{bf16, f16};
use levelfold::DType;
use levelfold::error::Result;
use levelfold::ids::ViewId;
use levelfold::numerics::elementary::{Elementary, cos, sin};
use levelfold::numerics::encoders::frequency;
use levelfold::numerics::{Value, count_to_f64};
use std::ops::Range;

/// Bytes of a weight that are packed in one piece.
const PIECE_BYTES: usize = 128 << 10;
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

    /// The rows of the parameter, and how many of them are laid out in one piece.
    fn pieces(self, size: usize) -> (usize, usize) {
        match self {
            Shape::Rows { rows, .. } | Shape::Turned { rows, .. } => (rows, rows.max(1)),
            Shape::Packed { columns, depth, panel } => (columns, (PIECE_BYTES / (depth * panel * size).max(1)).max(1) * panel),
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
pub(crate) struct Params {
    isa: Isa,
    waves: Vec<Wave>,
    /// What [`prepare`](Params::prepare) may do on one thread each.
    pub(crate) pieces: Vec<Piece>,
    pub(crate) bytes: usize,
}

/// Some rows of a parameter.
pub(crate) struct Piece {
    param: Param,
    rows: Range<usize>,
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
    pub(crate) fn new(isa: Isa) -> Self {
        Params { isa, waves: Vec::new(), pieces: Vec::new(), bytes: 0 }
    }

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
        let (rows, each) = shape.pieces(dtype.size());
        self.pieces.extend((0..rows).step_by(each).map(|row| Piece { param, rows: row..rows.min(row + each) }));
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

    /// Widens and lays out a piece of a parameter: at the start of a run, before any task. Pieces do not overlap.
    ///
    /// # Safety
    /// As above, and the memory of every view is valid for its shape.
    pub(crate) unsafe fn prepare(&self, piece: &Piece, memory: &[Memory], start: *mut u8) {
        let param = &piece.param;
        let (from, to) = (&memory[param.view.index()], start.wrapping_add(param.offset));
        let rows = piece.rows.clone();
        // SAFETY: the caller's promise; the views are of these types.
        unsafe {
            match (param.dtype, from.dtype) {
                (DType::F64, DType::F64) => lay_out::<f64, f64>(self.isa, param.shape, rows, from, to.cast()),
                (DType::F64, DType::F16) => lay_out::<f16, f64>(self.isa, param.shape, rows, from, to.cast()),
                (DType::F64, DType::BF16) => lay_out::<bf16, f64>(self.isa, param.shape, rows, from, to.cast()),
                (DType::F64, _) => lay_out::<f32, f64>(self.isa, param.shape, rows, from, to.cast()),
                (_, DType::F64) => lay_out::<f64, f32>(self.isa, param.shape, rows, from, to.cast()),
                (_, DType::F16) => lay_out::<f16, f32>(self.isa, param.shape, rows, from, to.cast()),
                (_, DType::BF16) => lay_out::<bf16, f32>(self.isa, param.shape, rows, from, to.cast()),
                (_, _) => lay_out::<f32, f32>(self.isa, param.shape, rows, from, to.cast()),
            }
        }
    }
}

unsafe fn lay_out<P: Value, A: Elementary>(isa: Isa, shape: Shape, part: Range<usize>, from: &Memory, to: *mut A) {
    // SAFETY: the caller's promise: positions are inside the parameter, and inside its layout.
    let copy = |row: usize, column: usize, at: usize| unsafe {
        to.add(at).write(A::of_f64(from.element(row, column).cast::<P>().read().to_f64()));
    };
    match shape {
        Shape::Rows { columns, .. } => {
            let stride = columns.next_multiple_of(16);
            for row in part {
                (0..columns).for_each(|column| copy(row, column, row * stride + column));
            }
        }
        Shape::Packed { columns, depth, panel } => {
            for first in part.step_by(panel) {
                let start = matmul::packed_at(first, 0, depth, panel);
                let count = panel.min(columns - first);
                if P::DTYPE == <A as levelfold::dtype::Element>::DTYPE && from.packed.is_none() {
                    let turn = Turn {
                        from: from.row(first).cast_const(),
                        row_stride: from.feature_stride,
                        column_stride: from.row_stride,
                        to: to.wrapping_add(start).cast(),
                        to_stride: panel * size_of::<A>(),
                        rows: depth,
                        columns: count,
                        size: size_of::<A>(),
                        ahead: 0,
                    };
                    // SAFETY: as above; the machine has the instruction set.
                    unsafe { turn.run(isa) };
                } else {
                    for column in first..first + count {
                        (0..depth).for_each(|k| copy(column, k, start + k * panel + column - first));
                    }
                }
            }
        }
        Shape::Turned { rows, columns } => {
            let stride = rows.next_multiple_of(16);
            for row in part {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs a weight in its pieces, and holds every element that has a place to the definition, the others untouched.
    fn check<P: Value, A: Elementary>(isa: Isa, (columns, depth): (usize, usize), strides: (isize, isize), panel: usize) {
        let numbers: Vec<P> = (0..4 * (columns + 1) * (depth + 1)).map(|index| P::from_f64((index % 251) as f64 - 125.0)).collect();
        let size = size_of::<P>() as isize;
        // Backwards from the end where a stride is negative.
        let back = |stride: isize, count: usize| if stride < 0 { -stride * (count as isize - 1) } else { 0 };
        let first = back(strides.0, columns) + back(strides.1, depth);
        let from = Memory {
            start: numbers.as_ptr().wrapping_offset(first).cast_mut().cast(),
            row_stride: strides.0 * size,
            feature_stride: strides.1 * size,
            features: depth,
            dtype: P::DTYPE,
            packed: None,
        };
        let mut params = Params::new(isa);
        let shape = Shape::Packed { columns, depth, panel };
        let dtype = <A as levelfold::dtype::Element>::DTYPE;
        let param = params.take(ViewId::new(0), shape, dtype).expect("a parameter");
        let untouched = A::of_f64(7e3);
        let mut got = vec![untouched; matmul::packed_len(columns, depth, panel).expect("a length")];
        let mut wanted = got.clone();
        for column in 0..columns {
            for k in 0..depth {
                let at = first + column as isize * strides.0 + k as isize * strides.1;
                wanted[matmul::packed_at(column, k, depth, panel)] = A::of_f64(numbers[at as usize].to_f64());
            }
        }
        for piece in params.pieces.iter().rev() {
            // SAFETY: the view lies inside the numbers; the other vector has all places of the layout.
            unsafe { params.prepare(piece, &[from], got.as_mut_ptr().wrapping_byte_sub(param.offset).cast()) };
        }
        assert!(got == wanted, "{isa}: {} x {depth} of {}, strides {strides:?}, panels of {panel}", columns, P::DTYPE);
        assert!(columns * depth * size_of::<A>() < 4 * PIECE_BYTES || params.pieces.len() > 1, "a large weight is one piece");
    }

    #[test]
    fn a_weight_is_packed_by_its_definition_whatever_its_strides() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (columns, depth) in [(1, 1), (3, 5), (16, 16), (65, 33), (64, 130), (300, 513), (7, 1), (1, 70)] {
                let (columns_after, depth_after) = (columns as isize, depth as isize);
                for strides in
                    [(depth_after, 1), (depth_after + 3, 1), (1, columns_after), (-depth_after, 1), (2 * depth_after, -2), (0, 1), (1, 0)]
                {
                    for panel in [8, 16, 64] {
                        check::<f32, f32>(isa, (columns, depth), strides, panel);
                        check::<f64, f64>(isa, (columns, depth), strides, panel);
                    }
                    check::<bf16, f32>(isa, (columns, depth), strides, 64);
                    check::<f16, f32>(isa, (columns, depth), strides, 64);
                    check::<f32, f64>(isa, (columns, depth), strides, 32);
                }
            }
        }
    }
}

//! Rows that lie column by column, folded as they are turned.
//!
//! A panel is as many columns as a vector has lanes. Down a panel, squares are turned in registers, and each row of them goes straight to the accumulator, which
//! begins anew where an item begins: with a flag for each row and no branch, since lengths cannot be guessed. After every row it is
//! written to the place of the row's item: what stays there is what the item's last row left. So every line of memory is read once, and rows are written nowhere.

use super::Isa;
use super::items::Op;
#[cfg(target_arch = "x86_64")]
use super::items::with_op;
#[cfg(target_arch = "x86_64")]
use crate::vector::{Cell, Lanes, VectorOp, prefetch, squares::Square};
#[cfg(target_arch = "x86_64")]
use half::{bf16, f16};
use levelfold::DType;
#[cfg(target_arch = "x86_64")]
use levelfold::numerics::{AddOp, MaxOp, MinOp, MulOp, ReduceOp, Value};

/// Rows of a window, whose elements follow each other in each column, and where accumulators go.
pub(crate) struct Panels<'a> {
    /// The first row's first element.
    pub(crate) from: *const u8,
    pub(crate) column_stride: isize,
    pub(crate) features: usize,
    pub(crate) rows: usize,
    /// For each row, up to a multiple of [`ROWS`], whether it goes on what the row before it is part of, and where its accumulators are behind `acc`, in bytes.
    pub(crate) goes_on: &'a [u32],
    pub(crate) places: &'a [u32],
    /// Accumulators, as many each as fill vectors.
    pub(crate) acc: *mut u8,
    pub(crate) op: Op,
}

pub(crate) type FoldPanels = unsafe fn(&Panels<'_>);

/// Tables of rows have a multiple of so many.
pub(crate) const ROWS: usize = 16;
/// The accumulators of a row are a multiple of so many bytes.
pub(crate) const ROW_ALIGN: usize = 64;
/// How far ahead of its use a line is asked for, in bytes of a column: into the first cache, or into the second where the lines of a square meet in the same sets of the
/// first.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 512;
#[cfg(target_arch = "x86_64")]
const FAR_AHEAD: usize = 1024;
/// Lines at multiples of so many bytes meet in the same sets of the first cache.
#[cfg(target_arch = "x86_64")]
const SETS_BYTES: usize = 4096;

/// One module an instruction set: the same bodies, compiled for it.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($module:ident, $vectors:ident, #[$feature:meta]) => {
        mod $module {
            use super::*;

            #[$feature]
            pub(super) unsafe fn fold<T: Cell<$vectors: Square>>(panels: &Panels<'_>) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::fold::<T, T::$vectors>(panels) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, Avx2, #[target_feature(enable = "avx2,f16c")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, Avx512, #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]);

/// What folds panels of a type; `None` where the instruction set has nothing.
#[cfg(target_arch = "x86_64")]
pub(crate) fn select(isa: Isa, input: DType) -> Option<FoldPanels> {
    match (isa, input) {
        (Isa::Avx2, DType::F32) => Some(avx2::fold::<f32>),
        (Isa::Avx2, DType::F64) => Some(avx2::fold::<f64>),
        (Isa::Avx2, DType::F16) => Some(avx2::fold::<f16>),
        (Isa::Avx2, DType::BF16) => Some(avx2::fold::<bf16>),
        (Isa::Avx512, DType::F32) => Some(avx512::fold::<f32>),
        (Isa::Avx512, DType::F64) => Some(avx512::fold::<f64>),
        (Isa::Avx512, DType::F16) => Some(avx512::fold::<f16>),
        (Isa::Avx512, DType::BF16) => Some(avx512::fold::<bf16>),
        (Isa::Baseline, _) | (Isa::Avx2 | Isa::Avx512, DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64) => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn select(_isa: Isa, _input: DType) -> Option<FoldPanels> {
    None
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn fold<T: Value, X: Lanes<T> + Square>(panels: &Panels<'_>) {
    match X::LANES {
        // SAFETY: the caller's window; as many parts as lanes.
        4 => unsafe { fold_squares::<T, X, 4>(panels) },
        // SAFETY: as above.
        8 => unsafe { fold_squares::<T, X, 8>(panels) },
        // SAFETY: as above.
        _ => unsafe { fold_squares::<T, X, 16>(panels) },
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn fold_squares<T: Value, X: Lanes<T> + Square, const P: usize>(panels: &Panels<'_>) {
    if P != X::LANES {
        return;
    }
    let Panels { features, rows, column_stride, op, .. } = *panels;
    let line_rows = 64 / size_of::<T>();
    let meet = column_stride.unsigned_abs().is_multiple_of(SETS_BYTES);
    let ahead = if meet { FAR_AHEAD } else { AHEAD } / size_of::<T>();
    let source =
        |row: usize, column: usize| panels.from.cast::<T>().wrapping_add(row).wrapping_byte_offset(column as isize * column_stride);
    let mut column = 0;
    while column < features {
        let columns = P.min(features - column);
        let acc = panels.acc.wrapping_add(column * size_of::<X::Acc>());
        // SAFETY: the caller's window: its rows, tables of as many, and accumulators of whole vectors. An address that is only asked for may be any.
        unsafe {
            let identity = X::splat(with_op!(op, R => R::identity()));
            let mut folded = identity;
            let mut row = 0;
            while row < rows {
                if row % line_rows == 0 {
                    // Behind the window's end, from the top of the next panel.
                    let (ask, next) = if row + ahead < rows { (row + ahead, 0) } else { (row + ahead - rows.min(row + ahead), P) };
                    for part in 0..columns {
                        let line = source(ask, column + next + part);
                        if meet { ask_far(line) } else { prefetch(line) }
                    }
                }
                let mut square = [identity; P];
                if rows - row >= P && columns == P {
                    for (part, lanes) in square.iter_mut().enumerate() {
                        *lanes = X::widen(source(row, column + part));
                    }
                } else {
                    let has_rows = P.min(rows - row);
                    for (part, lanes) in square.iter_mut().enumerate().take(columns) {
                        *lanes = if has_rows == P {
                            X::widen(source(row, column + part))
                        } else {
                            X::widen_part(source(row, column + part), has_rows)
                        };
                    }
                }
                let turned = X::turn::<P>(square);
                let (goes_on, places) = (panels.goes_on.as_ptr().add(row), panels.places.as_ptr().add(row));
                with_op!(op, R => {
                    for (index, lanes) in turned.into_iter().enumerate() {
                        folded = R::push_vector(folded.kept(identity, goes_on.add(index).read()), lanes);
                        folded.store(acc.add(places.add(index).read() as usize).cast());
                    }
                });
                row += P;
            }
        }
        column += P;
    }
}

/// Asks for a line into the second cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ask_far<T>(address: *const T) {
    // SAFETY: every x86-64 has the instruction, which reads nothing and never faults.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast()) };
}

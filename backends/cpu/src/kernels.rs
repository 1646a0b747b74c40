//! The inner loops, for each element type, operation and instruction set, chosen once when a plan is compiled.
//!
//! A kernel folds up to one block of rows, feature by feature. Rows come as pointers (of any rows: those that ids look up, those of a scratch
//! tile) or, in runs of short segments, as a start and a stride. Bodies are generic over vectors and inlined into one function per
//! instruction set; none fuses a multiplication with an addition, so all of them give the same bits.

mod body;
pub(crate) mod items;
pub(crate) mod panels;

use self::items::{Op, with_op};
use crate::memory::Memory;
use crate::vector::{Cell, VectorOp};
use half::{bf16, f16};
use levelfold::DType;
use levelfold::Reducer;
use levelfold::Segments;
use levelfold::numerics::{Accumulator, AddOp, MaxOp, MinOp, MulOp, Value};
use std::fmt;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every machine of this architecture has.
    Baseline,
    /// AVX2, FMA and F16C, on x86-64.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL), on x86-64.
    Avx512,
}

impl Isa {
    /// Every instruction set, the narrowest first.
    pub const ALL: [Isa; 3] = [Isa::Baseline, Isa::Avx2, Isa::Avx512];

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// The widest that this machine has.
    pub fn widest() -> Self {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Baseline)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Isa::Baseline => "baseline",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

/// Up to one block of rows, and the accumulator that they go to.
pub(crate) struct Block {
    /// `features` accumulators.
    pub(crate) acc: *mut u8,
    /// `count` rows of `features` dense elements.
    pub(crate) rows: *const *const u8,
    pub(crate) count: usize,
    pub(crate) features: usize,
    /// One weight a row, in the accumulator's type, or null.
    pub(crate) weights: *const u8,
    /// Whether rows that are wider than the registers are taken in tiles of columns.
    pub(crate) tiled: bool,
}

/// Consecutive segments whose rows, dense, are folded by one reduction into dense rows.
pub(crate) struct Run<'a> {
    pub(crate) segments: &'a Segments,
    pub(crate) source: Source,
    pub(crate) features: usize,
    /// `features` accumulators.
    pub(crate) acc: *mut u8,
    /// The row that segment 0 would have.
    pub(crate) out: *mut u8,
    pub(crate) out_stride: isize,
    /// The size of an element of it.
    pub(crate) out_size: usize,
    /// Whether results go past the cache, from the registers: rows of them are whole lines, at multiples of 16 bytes.
    pub(crate) streams: bool,
    /// The row that segment 0 would have where results are written a second time, through the cache, or null.
    pub(crate) also: *mut u8,
    pub(crate) also_stride: isize,
    /// One weight a row of the table.
    pub(crate) weights: Option<Memory>,
    /// Whether results are divided by how many rows they have, or by the sum of the weights.
    pub(crate) divides: bool,
    /// What the rarer kinds of runs go through.
    pub(crate) accumulate: unsafe fn(&Block),
    pub(crate) finish_block: FinishBlock,
    /// What writes results past the cache where they begin inside lines.
    pub(crate) finish_row: FinishRow,
    /// One element of an empty segment's row, in the first bytes.
    pub(crate) fill: [u8; 8],
    /// Whether rows that are wider than the registers are taken in tiles of columns.
    pub(crate) tiled: bool,
}

impl Run<'_> {
    /// Where a segment's result is written.
    #[inline(always)]
    pub(crate) fn row(&self, segment: u64) -> *mut u8 {
        self.out.wrapping_offset(segment as isize * self.out_stride)
    }

    /// Where it is written a second time, or null.
    #[inline(always)]
    pub(crate) fn also_row(&self, segment: u64) -> *mut u8 {
        if self.also.is_null() { self.also } else { self.also.wrapping_offset(segment as isize * self.also_stride) }
    }

    /// Writes the row of a segment without rows, wherever it belongs.
    pub(crate) unsafe fn fill(&self, segment: u64) {
        for row in [self.row(segment), self.also_row(segment)].into_iter().filter(|row| !row.is_null()) {
            for feature in 0..self.features {
                // SAFETY: results have a row for each segment.
                unsafe { std::ptr::copy_nonoverlapping(self.fill.as_ptr(), row.add(feature * self.out_size), self.out_size) };
            }
        }
    }
}

/// Where the rows of a [`Run`] lie.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// Row r of the table begins at `start + r · stride`.
    Strided { start: *const u8, stride: isize },
    /// The rows of all segments of the run, one after the other.
    Pointers(*const *const u8),
}

impl Source {
    /// The rows of a segment, as many as there is room for: from which one on, and how many the segments of the run before it have.
    #[inline(always)]
    pub(crate) unsafe fn rows(self, before: usize, start: usize, room: &mut [*const u8]) -> *const *const u8 {
        match self {
            // SAFETY: the caller asks for rows of the run.
            Source::Pointers(rows) => unsafe { rows.add(before) },
            Source::Strided { start: base, stride } => {
                for (index, row) in room.iter_mut().enumerate() {
                    *row = base.wrapping_offset((start + index) as isize * stride);
                }
                room.as_ptr()
            }
        }
    }
}

/// Rounds an accumulator to a dense row, divided by a divisor (of the accumulator's type) where there is one.
pub(crate) type FinishBlock = unsafe fn(*const u8, *mut u8, usize, *const u8);

/// Where a row of results, or neighbouring columns of one, goes.
#[derive(Clone, Copy)]
pub(crate) struct RowTo {
    pub(crate) row: *mut u8,
    /// Whether whole vectors go past the cache.
    pub(crate) streams: bool,
    /// Where they are then written a second time, through the cache, or null.
    pub(crate) also: *mut u8,
}

/// Divides so many vectors of accumulators, at least one, by a divisor (of the accumulator's type) other than 0, and writes them past the cache.
pub(crate) type FinishRow = unsafe fn(*const u8, usize, *const u8, RowTo);

pub(crate) type FoldRun = unsafe fn(&Run<'_>, u64, u64, &mut u64) -> u64;

/// What one reduction of one stage runs, over `features` elements each.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// Folds segments from the first up to the last, which is left out, or up to the first of more than one block, which is returned. Adds
    /// up the rows that it read.
    pub(crate) fold_run: FoldRun,
    /// Whether that writes from registers, past the cache where it is asked to.
    pub(crate) in_registers: bool,
    /// Adds rows to an accumulator that starts anew.
    pub(crate) accumulate: unsafe fn(&Block),
    /// Rounds an accumulator to a row.
    pub(crate) finish_block: FinishBlock,
    /// Writes vectors of accumulators in the type of rows.
    pub(crate) finish_row: FinishRow,
    /// tree slot = accumulator, widened.
    pub(crate) store: unsafe fn(*mut f64, *const u8, usize),
    /// tree slot = combine(tree slot, accumulator).
    pub(crate) combine_block: unsafe fn(*mut f64, *const u8, usize),
    /// older slot = combine(older slot, newer slot).
    pub(crate) combine: unsafe fn(*mut f64, *const f64, usize),
    /// out = tree slot, divided where a divisor is given.
    pub(crate) finish_tree: unsafe fn(*const f64, *mut u8, usize, Option<f64>),
}

/// One module an instruction set: the same bodies, compiled for it.
macro_rules! compiled_for {
    ($module:ident, $vectors:ident, $in_registers:expr $(, #[$feature:meta])?) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn accumulate<T: Cell, R: VectorOp>(block: &Block) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::accumulate::<T, T::$vectors, R>(block) }
            }

            $(#[$feature])?
            unsafe fn fold_run<T: Cell, R: VectorOp>(run: &Run<'_>, first: u64, last: u64, rows: &mut u64) -> u64 {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::fold_run::<T, T::$vectors, R>(run, first, last, rows) }
            }

            $(#[$feature])?
            unsafe fn store<A: Accumulator>(slot: *mut f64, acc: *const u8, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::store::<A>(slot, acc, features) }
            }

            $(#[$feature])?
            unsafe fn combine_block<A: Accumulator, R: VectorOp>(slot: *mut f64, acc: *const u8, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::combine_block::<A, R>(slot, acc, features) }
            }

            $(#[$feature])?
            unsafe fn combine<R: VectorOp>(older: *mut f64, newer: *const f64, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::combine::<<f64 as Cell>::$vectors, R>(older, newer, features) }
            }

            $(#[$feature])?
            unsafe fn finish_block<T: Cell, O: Value>(acc: *const u8, out: *mut u8, features: usize, divisor: *const u8) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::finish_block::<T::$vectors, O>(acc, out, features, divisor) }
            }

            $(#[$feature])?
            unsafe fn finish_row<T: Cell>(acc: *const u8, vectors: usize, divisor: *const u8, to: RowTo) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::finish_row::<T, T::$vectors>(acc, vectors, divisor, to) }
            }

            $(#[$feature])?
            unsafe fn finish_tree<O: Value>(slot: *const f64, out: *mut u8, features: usize, divisor: Option<f64>) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::finish_tree::<O>(slot, out, features, divisor) }
            }

            pub(super) fn kernels<T: Cell, R: VectorOp, O: Value>() -> Kernels {
                let in_registers = $in_registers && R::COMMON && T::DTYPE == O::DTYPE;
                Kernels {
                    fold_run: if in_registers { fold_run::<T, R> } else { body::fold_run_through::<T::Acc> },
                    in_registers,
                    accumulate: accumulate::<T, R>,
                    finish_block: finish_block::<T::Wide, O>,
                    finish_row: finish_row::<T>,
                    store: store::<T::Acc>,
                    combine_block: combine_block::<T::Acc, R>,
                    combine: combine::<R>,
                    finish_tree: finish_tree::<O>,
                }
            }
        }
    };
}

// Where all machines but very old ones have more, its runs take the longer way: it is the same loops.
compiled_for!(baseline, Portable, cfg!(not(target_arch = "x86_64")));
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, Avx2, true, #[target_feature(enable = "avx2,f16c")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, Avx512, true, #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]);

/// The kernels of a reduction; `None` where a type is not one of values.
pub(crate) fn select(isa: Isa, input: DType, reducer: &Reducer, output: DType) -> Option<Kernels> {
    match input {
        DType::F32 => select_op::<f32>(isa, reducer, output),
        DType::F64 => select_op::<f64>(isa, reducer, output),
        DType::F16 => select_op::<f16>(isa, reducer, output),
        DType::BF16 => select_op::<bf16>(isa, reducer, output),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

fn select_op<T: Cell>(isa: Isa, reducer: &Reducer, output: DType) -> Option<Kernels> {
    // Those with a state: see `states`.
    let op = Op::of(reducer)?;
    with_op!(op, R => select_output::<T, R>(isa, output))
}

fn select_output<T: Cell, R: VectorOp>(isa: Isa, output: DType) -> Option<Kernels> {
    match output {
        DType::F32 => Some(select_isa::<T, R, f32>(isa)),
        DType::F64 => Some(select_isa::<T, R, f64>(isa)),
        DType::F16 => Some(select_isa::<T, R, f16>(isa)),
        DType::BF16 => Some(select_isa::<T, R, bf16>(isa)),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

fn select_isa<T: Cell, R: VectorOp, O: Value>(isa: Isa) -> Kernels {
    match isa {
        Isa::Baseline => baseline::kernels::<T, R, O>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernels::<T, R, O>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::kernels::<T, R, O>(),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => baseline::kernels::<T, R, O>(),
    }
}

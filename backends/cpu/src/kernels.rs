//! The inner loops, for each element type, operation and instruction set, chosen once when a plan is compiled.
//!
//! A kernel adds up to one block of rows to an accumulator, feature by feature. Rows come as pointers, so that rows in order, rows that ids look up and rows of a
//! scratch tile are one kernel. Bodies are generic and inlined into one function per instruction set, where the compiler turns their fixed-size
//! loops into vector code; no instruction set fuses a multiplication with an addition, so all of them give the same bits.

use half::{bf16, f16};
use levelfold::DType;
use levelfold::Reducer;
use levelfold::numerics::{Accumulator, AddOp, MaxOp, MinOp, MulOp, ReduceOp, Value};
use std::fmt;

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every machine of this architecture has.
    Baseline,
    /// AVX2, on x86-64.
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
            Isa::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
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
}

/// What one reduction of one stage runs, over `features` elements each.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// Adds rows to an accumulator that starts anew.
    pub(crate) accumulate: unsafe fn(&Block),
    /// Adds up the rows of a segment of one block, without weights, divides by a divisor other than 0, and writes the result.
    pub(crate) fold_block: unsafe fn(&Block, *mut u8, f64),
    /// tree slot = accumulator, widened.
    pub(crate) store: unsafe fn(*mut f64, *const u8, usize),
    /// tree slot = combine(tree slot, accumulator).
    pub(crate) combine_block: unsafe fn(*mut f64, *const u8, usize),
    /// older slot = combine(older slot, newer slot).
    pub(crate) combine: unsafe fn(*mut f64, *const f64, usize),
    /// out = accumulator, divided where a divisor (in the accumulator's type) is given.
    pub(crate) finish_block: unsafe fn(*const u8, *mut u8, usize, *const u8),
    /// out = tree slot, divided where a divisor is given.
    pub(crate) finish_tree: unsafe fn(*const f64, *mut u8, usize, Option<f64>),
}

/// An element type with a widening that becomes vector code.
trait Load: Value {
    fn load(self) -> Self::Acc;
}

impl Load for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
}

impl Load for f64 {
    #[inline(always)]
    fn load(self) -> f64 {
        self
    }
}

impl Load for bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Load for f16 {
    #[inline(always)]
    fn load(self) -> f32 {
        let bits = u32::from(self.to_bits());
        // Exponent and fraction moved into place are the number times 2^-112, subnormals included; the product is exact.
        let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
        let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
    }
}

/// The sum (or product, …) of `count` rows, columns `column..column + WIDTH`, in registers.
#[inline(always)]
unsafe fn columns<V: Load, R: ReduceOp, const WIDTH: usize>(block: &Block, column: usize) -> [V::Acc; WIDTH] {
    let mut local = [R::identity::<V::Acc>(); WIDTH];
    // SAFETY: the caller's block has `count` row pointers to `features` elements each, and a weight a row or none; `column + WIDTH` is
    // within `features`.
    unsafe {
        if block.weights.is_null() {
            for index in 0..block.count {
                let row = &*(*block.rows.add(index)).cast::<V>().add(column).cast::<[V; WIDTH]>();
                for lane in 0..WIDTH {
                    local[lane] = R::push(local[lane], row[lane].load());
                }
            }
        } else {
            for index in 0..block.count {
                let weight = *block.weights.cast::<V::Acc>().add(index);
                let row = &*(*block.rows.add(index)).cast::<V>().add(column).cast::<[V; WIDTH]>();
                for lane in 0..WIDTH {
                    local[lane] = R::push(local[lane], weight.mul(row[lane].load()));
                }
            }
        }
    }
    local
}

/// The same without weights, finished and written.
#[inline(always)]
unsafe fn finished_columns<V: Load, R: ReduceOp, O: Value, const WIDTH: usize>(block: &Block, column: usize, out: *mut u8, divisor: f64) {
    let mut local = [R::identity::<V::Acc>(); WIDTH];
    // SAFETY: as for `columns`; `out` has `features` elements.
    unsafe {
        for index in 0..block.count {
            let row = &*(*block.rows.add(index)).cast::<V>().add(column).cast::<[V; WIDTH]>();
            for lane in 0..WIDTH {
                local[lane] = R::push(local[lane], row[lane].load());
            }
        }
        let mut finished = [O::NAN; WIDTH];
        if divisor == 0.0 {
            for lane in 0..WIDTH {
                finished[lane] = O::from_acc(local[lane]);
            }
        } else {
            let divisor = V::Acc::of_f64(divisor);
            for lane in 0..WIDTH {
                finished[lane] = O::from_acc(local[lane].div(divisor));
            }
        }
        out.cast::<O>().add(column).cast::<[O; WIDTH]>().write_unaligned(finished);
    }
}

/// Adds `count` rows, one whole row after the other, with the accumulators in the first cache.
#[inline(always)]
unsafe fn whole_rows<V: Load, R: ReduceOp>(block: &Block) {
    // SAFETY: as for `columns`; rows and accumulators do not overlap.
    unsafe {
        let acc = std::slice::from_raw_parts_mut(block.acc.cast::<V::Acc>(), block.features);
        acc.fill(R::identity());
        for index in 0..block.count {
            let row = std::slice::from_raw_parts((*block.rows.add(index)).cast::<V>(), block.features);
            if block.weights.is_null() {
                for (acc, x) in acc.iter_mut().zip(row) {
                    *acc = R::push(*acc, x.load());
                }
            } else {
                let weight = *block.weights.cast::<V::Acc>().add(index);
                for (acc, x) in acc.iter_mut().zip(row) {
                    *acc = R::push(*acc, weight.mul(x.load()));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn accumulate<V: Load, R: ReduceOp, const WIDEST: usize>(block: &Block) {
    // SAFETY: each piece stays within `features` columns.
    unsafe {
        if block.features > WIDEST {
            return whole_rows::<V, R>(block);
        }
        let acc = block.acc.cast::<V::Acc>();
        let mut column = 0;
        while column + WIDEST <= block.features {
            acc.add(column).cast::<[V::Acc; WIDEST]>().write_unaligned(columns::<V, R, WIDEST>(block, column));
            column += WIDEST;
        }
        while WIDEST > 64 && column + 64 <= block.features {
            acc.add(column).cast::<[V::Acc; 64]>().write_unaligned(columns::<V, R, 64>(block, column));
            column += 64;
        }
        while column + 16 <= block.features {
            acc.add(column).cast::<[V::Acc; 16]>().write_unaligned(columns::<V, R, 16>(block, column));
            column += 16;
        }
        while column + 4 <= block.features {
            acc.add(column).cast::<[V::Acc; 4]>().write_unaligned(columns::<V, R, 4>(block, column));
            column += 4;
        }
        while column < block.features {
            acc.add(column).cast::<[V::Acc; 1]>().write_unaligned(columns::<V, R, 1>(block, column));
            column += 1;
        }
    }
}

#[inline(always)]
unsafe fn fold_block<V: Load, R: ReduceOp, O: Value, const WIDEST: usize>(block: &Block, out: *mut u8, divisor: f64) {
    // SAFETY: each piece stays within `features` columns.
    unsafe {
        if block.features > WIDEST {
            whole_rows::<V, R>(block);
            let divide_by = [V::Acc::of_f64(divisor)];
            let divisor = if divisor == 0.0 { std::ptr::null() } else { divide_by.as_ptr().cast() };
            return finish_block::<V::Acc, O>(block.acc, out, block.features, divisor);
        }
        let mut column = 0;
        while column + WIDEST <= block.features {
            finished_columns::<V, R, O, WIDEST>(block, column, out, divisor);
            column += WIDEST;
        }
        while WIDEST > 64 && column + 64 <= block.features {
            finished_columns::<V, R, O, 64>(block, column, out, divisor);
            column += 64;
        }
        while column + 16 <= block.features {
            finished_columns::<V, R, O, 16>(block, column, out, divisor);
            column += 16;
        }
        while column + 4 <= block.features {
            finished_columns::<V, R, O, 4>(block, column, out, divisor);
            column += 4;
        }
        while column < block.features {
            finished_columns::<V, R, O, 1>(block, column, out, divisor);
            column += 1;
        }
    }
}

#[inline(always)]
unsafe fn store<A: Accumulator>(slot: *mut f64, acc: *const u8, features: usize) {
    // SAFETY: the caller gives `features` elements of each, which do not overlap.
    let (slot, acc) = unsafe { (std::slice::from_raw_parts_mut(slot, features), std::slice::from_raw_parts(acc.cast::<A>(), features)) };
    for (slot, acc) in slot.iter_mut().zip(acc) {
        *slot = acc.as_f64();
    }
}

#[inline(always)]
unsafe fn combine_block<A: Accumulator, R: ReduceOp>(slot: *mut f64, acc: *const u8, features: usize) {
    // SAFETY: as for `store`.
    let (slot, acc) = unsafe { (std::slice::from_raw_parts_mut(slot, features), std::slice::from_raw_parts(acc.cast::<A>(), features)) };
    for (slot, acc) in slot.iter_mut().zip(acc) {
        *slot = R::combine(*slot, acc.as_f64());
    }
}

#[inline(always)]
unsafe fn combine<R: ReduceOp>(older: *mut f64, newer: *const f64, features: usize) {
    // SAFETY: as for `store`.
    let (older, newer) = unsafe { (std::slice::from_raw_parts_mut(older, features), std::slice::from_raw_parts(newer, features)) };
    for (older, newer) in older.iter_mut().zip(newer) {
        *older = R::combine(*older, *newer);
    }
}

#[inline(always)]
unsafe fn finish_block<A: Accumulator, O: Value>(acc: *const u8, out: *mut u8, features: usize, divisor: *const u8) {
    // SAFETY: the caller gives `features` elements of each, which do not overlap, and a divisor or null.
    unsafe {
        let acc = std::slice::from_raw_parts(acc.cast::<A>(), features);
        let out = std::slice::from_raw_parts_mut(out.cast::<O>(), features);
        if divisor.is_null() {
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = O::from_acc(*acc);
            }
        } else {
            let divisor = divisor.cast::<A>().read();
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = O::from_acc(acc.div(divisor));
            }
        }
    }
}

#[inline(always)]
unsafe fn finish_tree<O: Value>(slot: *const f64, out: *mut u8, features: usize, divisor: Option<f64>) {
    // SAFETY: the caller gives `features` elements of each, which do not overlap.
    let (slot, out) = unsafe { (std::slice::from_raw_parts(slot, features), std::slice::from_raw_parts_mut(out.cast::<O>(), features)) };
    match divisor {
        None => {
            for (out, value) in out.iter_mut().zip(slot) {
                *out = O::from_f64(*value);
            }
        }
        Some(divisor) => {
            for (out, value) in out.iter_mut().zip(slot) {
                *out = O::from_f64(*value / divisor);
            }
        }
    }
}

/// One module an instruction set: the same bodies, compiled for it.
macro_rules! compiled_for {
    ($module:ident, $widest:literal $(, #[$feature:meta])?) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn accumulate<V: Load, R: ReduceOp>(block: &Block) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::accumulate::<V, R, $widest>(block) }
            }

            $(#[$feature])?
            unsafe fn fold_block<V: Load, R: ReduceOp, O: Value>(block: &Block, out: *mut u8, divisor: f64) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::fold_block::<V, R, O, $widest>(block, out, divisor) }
            }

            $(#[$feature])?
            unsafe fn store<A: Accumulator>(slot: *mut f64, acc: *const u8, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::store::<A>(slot, acc, features) }
            }

            $(#[$feature])?
            unsafe fn combine_block<A: Accumulator, R: ReduceOp>(slot: *mut f64, acc: *const u8, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::combine_block::<A, R>(slot, acc, features) }
            }

            $(#[$feature])?
            unsafe fn combine<R: ReduceOp>(older: *mut f64, newer: *const f64, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::combine::<R>(older, newer, features) }
            }

            $(#[$feature])?
            unsafe fn finish_block<A: Accumulator, O: Value>(acc: *const u8, out: *mut u8, features: usize, divisor: *const u8) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::finish_block::<A, O>(acc, out, features, divisor) }
            }

            $(#[$feature])?
            unsafe fn finish_tree<O: Value>(slot: *const f64, out: *mut u8, features: usize, divisor: Option<f64>) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::finish_tree::<O>(slot, out, features, divisor) }
            }

            pub(super) fn kernels<V: Load, R: ReduceOp, O: Value>() -> Kernels {
                Kernels {
                    accumulate: accumulate::<V, R>,
                    fold_block: fold_block::<V, R, O>,
                    store: store::<V::Acc>,
                    combine_block: combine_block::<V::Acc, R>,
                    combine: combine::<R>,
                    finish_block: finish_block::<V::Acc, O>,
                    finish_tree: finish_tree::<O>,
                }
            }
        }
    };
}

compiled_for!(baseline, 64);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, 64, #[target_feature(enable = "avx2")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, 256, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]);

/// The kernels of a reduction; `None` where a type is not one of values.
pub(crate) fn select(isa: Isa, input: DType, reducer: Reducer, output: DType) -> Option<Kernels> {
    match input {
        DType::F32 => select_op::<f32>(isa, reducer, output),
        DType::F64 => select_op::<f64>(isa, reducer, output),
        DType::F16 => select_op::<f16>(isa, reducer, output),
        DType::BF16 => select_op::<bf16>(isa, reducer, output),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

fn select_op<V: Load>(isa: Isa, reducer: Reducer, output: DType) -> Option<Kernels> {
    match reducer {
        Reducer::Sum | Reducer::Mean => select_output::<V, AddOp>(isa, output),
        Reducer::Max => select_output::<V, MaxOp>(isa, output),
        Reducer::Min => select_output::<V, MinOp>(isa, output),
        Reducer::Prod => select_output::<V, MulOp>(isa, output),
    }
}

fn select_output<V: Load, R: ReduceOp>(isa: Isa, output: DType) -> Option<Kernels> {
    match output {
        DType::F32 => Some(select_isa::<V, R, f32>(isa)),
        DType::F64 => Some(select_isa::<V, R, f64>(isa)),
        DType::F16 => Some(select_isa::<V, R, f16>(isa)),
        DType::BF16 => Some(select_isa::<V, R, bf16>(isa)),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

fn select_isa<V: Load, R: ReduceOp, O: Value>(isa: Isa) -> Kernels {
    match isa {
        Isa::Baseline => baseline::kernels::<V, R, O>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernels::<V, R, O>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::kernels::<V, R, O>(),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => baseline::kernels::<V, R, O>(),
    }
}

//! Reducers with a state of several numbers a feature: any [`Monoid`], compiled for each instruction set.
//!
//! A block's state is planes of `features` accumulators, one plane a component, and a tree's are planes of f64.

pub(crate) mod body;

use crate::kernels::{Block, Isa};
use crate::named;
use crate::programs::Custom;
use crate::vector::Cell;
use half::{bf16, f16};
use levelfold::custom::Registry;
use levelfold::numerics::{Accumulator, BLOCK_ROWS, Monoid, MonoidVisitor};
use levelfold::plan::Reduction;
use levelfold::{DType, Reducer, Result};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Where the results of a segment of one block go: a row of accumulators.
pub(crate) use crate::kernels::RowTo as To;

/// What a reduction with a state runs.
///
/// # Safety
/// Of all methods: addresses are those of as many elements as the planes of `features` have, and do not overlap.
pub(crate) trait States: Send + Sync {
    /// Planes of a block, and of a tree.
    fn planes(&self) -> (usize, usize);
    /// Which of a segment's rows are read, and how many segments ahead they should be asked for; `None` where reading runs ahead by itself.
    fn asks_for(&self, count: usize) -> Option<(Range<usize>, u64)>;
    /// The state of a block of rows, in planes that are so many numbers apart.
    unsafe fn accumulate(&self, block: &Block, plane: usize);
    /// tree slot = block, which begins at a row of its segment.
    unsafe fn widen(&self, slot: *mut f64, acc: *const u8, features: usize, first_row: f64);
    /// older slot = combine(older slot, newer slot).
    unsafe fn combine(&self, older: *mut f64, newer: *const f64, features: usize);
    /// The results of a segment of one block of n rows.
    unsafe fn finish_block(&self, acc: *const u8, n: f64, to: To, features: usize);
    /// The results of a segment of several blocks, of n rows.
    unsafe fn finish_tree(&self, slot: *const f64, n: f64, out: *mut f64, features: usize);
}

/// The states of any reducer, also of one that only the registry knows; `None` as for [`select`].
pub(crate) fn find(isa: Isa, input: DType, reduction: &Reduction, registry: &Registry) -> Result<Option<Box<dyn States>>> {
    let Reducer::Named(named) = &reduction.reducer else { return Ok(select(isa, input, &reduction.reducer)) };
    let bound = registry.find_reducer(named)?;
    Ok(named::select(input, if reduction.weights.is_some() { bound.with_weights()? } else { bound }))
}

/// The states of any monoid over rows of a type; `None` where that is not one of values.
pub(crate) fn of_monoid<M: Monoid>(isa: Isa, input: DType, monoid: M) -> Option<Box<dyn States>> {
    let single = || Box::new(Of::<f32, M> { monoid, isa, accumulators: PhantomData });
    match input {
        DType::F32 => Some(single()),
        DType::F64 => Some(Box::new(Of::<f64, M> { monoid, isa, accumulators: PhantomData })),
        DType::F16 => Some(Box::new(Widened { states: single(), widen: widening::<f16>(isa) })),
        DType::BF16 => Some(Box::new(Widened { states: single(), widen: widening::<bf16>(isa) })),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

/// Writes accumulators as a row of their type, divided by a number other than 0.
pub(crate) type Divide = unsafe fn(*const u8, f64, To, usize);

/// What divides accumulators of f64, or of f32.
pub(crate) fn dividing(isa: Isa, accumulator: DType) -> Divide {
    fn of<A: Own>(isa: Isa) -> Divide {
        match isa {
            Isa::Baseline => baseline::divide::<A>,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::divide::<A>,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::divide::<A>,
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => baseline::divide::<A>,
        }
    }
    if accumulator == DType::F64 { of::<f64>(isa) } else { of::<f32>(isa) }
}

/// The states of a reducer; `None` where it is plain, or where the type is not one of values.
fn select(isa: Isa, input: DType, reducer: &Reducer) -> Option<Box<dyn States>> {
    let widened = |widen: Widen| Some(Box::new(Widened { states: select_of::<f32>(isa, reducer)?, widen }) as Box<dyn States>);
    match input {
        DType::F32 => select_of::<f32>(isa, reducer),
        DType::F64 => select_of::<f64>(isa, reducer),
        DType::F16 => widened(widening::<f16>(isa)),
        DType::BF16 => widened(widening::<bf16>(isa)),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

/// A type whose elements are their own accumulators.
pub(crate) trait Own: Cell<Acc = Self> + Accumulator {}

impl<A: Cell<Acc = A> + Accumulator> Own for A {}

fn select_of<A: Own>(isa: Isa, reducer: &Reducer) -> Option<Box<dyn States>> {
    match reducer {
        Reducer::Custom(custom) => Some(Box::new(Custom::<A>::new(isa, custom))),
        _ => reducer.visit_monoid(Boxed::<A>(isa, PhantomData)),
    }
}

struct Boxed<A>(Isa, PhantomData<A>);

impl<A: Own> MonoidVisitor for Boxed<A> {
    type Out = Box<dyn States>;

    fn visit<M: Monoid>(self, monoid: M) -> Self::Out {
        Box::new(Of::<A, M> { monoid, isa: self.0, accumulators: PhantomData })
    }
}

/// A monoid over rows of accumulators.
struct Of<A, M> {
    monoid: M,
    isa: Isa,
    accumulators: PhantomData<A>,
}

/// Writes columns of rows of a narrower type, from the first on and so many, as rows of accumulators.
type Widen = unsafe fn(&Block, usize, usize, *mut f32);

fn widening<T: Cell<Acc = f32>>(isa: Isa) -> Widen {
    match isa {
        Isa::Baseline => baseline::widen_rows::<T>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::widen_rows::<T>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::widen_rows::<T>,
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => baseline::widen_rows::<T>,
    }
}

/// States over rows of a narrower type, which are widened in the first cache: kernels are compiled for accumulators alone.
struct Widened {
    states: Box<dyn States>,
    widen: Widen,
}

/// Columns that are widened at a time.
const WIDENED: usize = 256;

impl States for Widened {
    fn planes(&self) -> (usize, usize) {
        self.states.planes()
    }

    fn asks_for(&self, count: usize) -> Option<(Range<usize>, u64)> {
        self.states.asks_for(count)
    }

    unsafe fn accumulate(&self, block: &Block, plane: usize) {
        let mut wide = MaybeUninit::<[f32; BLOCK_ROWS * WIDENED]>::uninit();
        let wide = wide.as_mut_ptr().cast::<f32>();
        let mut rows = [std::ptr::null::<u8>(); BLOCK_ROWS];
        let mut column = 0;
        while column < block.features {
            let features = WIDENED.min(block.features - column);
            for (index, row) in rows.iter_mut().enumerate() {
                *row = wide.wrapping_add(index * features).cast();
            }
            // SAFETY: the caller's block; a block of so many columns has room.
            unsafe {
                (self.widen)(block, column, features, wide);
                let acc = block.acc.cast::<f32>().add(column).cast();
                let block = Block { acc, rows: rows.as_ptr(), count: block.count, features, weights: block.weights, tiled: true };
                self.states.accumulate(&block, plane);
            }
            column += features;
        }
    }

    unsafe fn widen(&self, slot: *mut f64, acc: *const u8, features: usize, first_row: f64) {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.states.widen(slot, acc, features, first_row) }
    }

    unsafe fn combine(&self, older: *mut f64, newer: *const f64, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.states.combine(older, newer, features) }
    }

    unsafe fn finish_block(&self, acc: *const u8, n: f64, to: To, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.states.finish_block(acc, n, to, features) }
    }

    unsafe fn finish_tree(&self, slot: *const f64, n: f64, out: *mut f64, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.states.finish_tree(slot, n, out, features) }
    }
}

/// One module an instruction set: the same bodies, compiled for it.
macro_rules! compiled_for {
    ($module:ident, $vectors:ident $(, #[$feature:meta])?) => {
        mod $module {
            use super::*;

            type Tree = <f64 as Cell>::$vectors;

            $(#[$feature])?
            pub(super) unsafe fn widen_rows<T: Cell<Acc = f32>>(block: &Block, first: usize, features: usize, to: *mut f32) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::widen_rows::<T, T::$vectors>(block, first, features, to) }
            }

            $(#[$feature])?
            pub(super) unsafe fn divide<A: Own>(acc: *const u8, divisor: f64, to: To, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::divide::<A, A::$vectors>(acc, divisor, to, features) }
            }

            $(#[$feature])?
            pub(super) unsafe fn accumulate<A: Own, M: Monoid, const WEIGHTED: bool>(monoid: M, block: &Block, plane: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::accumulate::<A::$vectors, M, WEIGHTED>(monoid, block, plane) }
            }

            $(#[$feature])?
            pub(super) unsafe fn finish_block<A: Own, M: Monoid>(monoid: M, acc: *const u8, n: f64, to: To, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::finish_block::<A, A::$vectors, M>(monoid, acc, n, to, features) }
            }

            $(#[$feature])?
            pub(super) unsafe fn widen<A: Accumulator, M: Monoid>(monoid: M, slot: *mut f64, acc: *const u8, features: usize, first_row: f64) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::widen::<A, Tree, M>(monoid, slot, acc, features, first_row) }
            }

            $(#[$feature])?
            pub(super) unsafe fn combine<M: Monoid>(monoid: M, older: *mut f64, newer: *const f64, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::combine::<Tree, M>(monoid, older, newer, features) }
            }

            $(#[$feature])?
            pub(super) unsafe fn finish_tree<M: Monoid>(monoid: M, slot: *const f64, n: f64, out: *mut f64, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { body::finish_tree::<Tree, M>(monoid, slot, n, out, features) }
            }
        }
    };
}

compiled_for!(baseline, Portable);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, Avx2, #[target_feature(enable = "avx2,f16c")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, Avx512, #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]);

/// Calls the function of an instruction set, which is there, or it would not have been chosen.
macro_rules! on {
    ($isa:expr, $function:ident$(::<$($of:ty),* $(; $flag:literal)?>)?($($argument:expr),*)) => {
        match $isa {
            Isa::Baseline => baseline::$function$(::<$($of),* $(, $flag)?>)?($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::$function$(::<$($of),* $(, $flag)?>)?($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::$function$(::<$($of),* $(, $flag)?>)?($($argument),*),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => baseline::$function$(::<$($of),* $(, $flag)?>)?($($argument),*),
        }
    };
}
pub(crate) use on;

impl<A: Own, M: Monoid> States for Of<A, M> {
    fn planes(&self) -> (usize, usize) {
        (M::BLOCK, M::TREE)
    }

    fn asks_for(&self, count: usize) -> Option<(Range<usize>, u64)> {
        let rows = self.monoid.rows(count);
        if rows.len() < count {
            // Single rows that are apart: several are waited for together.
            return Some((rows, 8));
        }
        // The second pass reads nothing new, and computes long enough.
        (M::PASSES > 1).then_some((rows, 1))
    }

    unsafe fn accumulate(&self, block: &Block, plane: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if block.weights.is_null() {
                on!(self.isa, accumulate::<A, M; false>(self.monoid, block, plane))
            } else {
                on!(self.isa, accumulate::<A, M; true>(self.monoid, block, plane))
            }
        }
    }

    unsafe fn widen(&self, slot: *mut f64, acc: *const u8, features: usize, first_row: f64) {
        // SAFETY: the caller's promise.
        unsafe { on!(self.isa, widen::<A, M>(self.monoid, slot, acc, features, first_row)) }
    }

    unsafe fn combine(&self, older: *mut f64, newer: *const f64, features: usize) {
        // SAFETY: the caller's promise.
        unsafe { on!(self.isa, combine(self.monoid, older, newer, features)) }
    }

    unsafe fn finish_block(&self, acc: *const u8, n: f64, to: To, features: usize) {
        // SAFETY: the caller's promise.
        unsafe { on!(self.isa, finish_block::<A, M>(self.monoid, acc, n, to, features)) }
    }

    unsafe fn finish_tree(&self, slot: *const f64, n: f64, out: *mut f64, features: usize) {
        // SAFETY: the caller's promise.
        unsafe { on!(self.isa, finish_tree(self.monoid, slot, n, out, features)) }
    }
}

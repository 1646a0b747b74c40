//! Reducers with a state of several numbers a feature: any [`Monoid`], compiled for each instruction set.
//!
//! A block's state is planes of `features` accumulators, one plane a component, and a tree's are planes of f64. A block goes over some columns of all its
//! rows, as often as the monoid wants, while those lie in the first cache; loops over features are written so that they become vector code.

use crate::kernels::{Block, Isa};
use crate::programs::Custom;
use half::{bf16, f16};
use levelfold::numerics::{Accumulator, MAX_STATE, Monoid, MonoidVisitor, Row, State, Value};
use levelfold::{DType, Reducer};
use std::marker::PhantomData;

/// Features that are taken at a time.
pub(crate) const LANES: usize = 32;

/// What a reduction with a state runs.
///
/// # Safety
/// Of all methods: addresses are those of as many elements as the planes of `features` have, and do not overlap.
pub(crate) trait States: Send + Sync {
    /// Planes of a block, and of a tree.
    fn planes(&self) -> (usize, usize);
    /// The state of a block of rows.
    unsafe fn accumulate(&self, block: &Block);
    /// tree slot = block, which begins at a row of its segment.
    unsafe fn widen(&self, slot: *mut f64, acc: *const u8, features: usize, first_row: f64);
    /// older slot = combine(older slot, newer slot).
    unsafe fn combine(&self, older: *mut f64, newer: *const f64, features: usize);
    /// The results of a segment of one block of n rows, in f64.
    unsafe fn finish_block(&self, acc: *const u8, n: f64, out: *mut f64, features: usize);
    /// The results of a segment of several blocks, of n rows.
    unsafe fn finish_tree(&self, slot: *const f64, n: f64, out: *mut f64, features: usize);
}

/// The states of a reducer; `None` where it is plain, or where the type is not one of values.
pub(crate) fn select(isa: Isa, input: DType, reducer: &Reducer) -> Option<Box<dyn States>> {
    if let Reducer::Custom(custom) = reducer {
        return match input {
            DType::F32 => Some(Box::new(Custom::<f32>::new(isa, custom))),
            DType::F64 => Some(Box::new(Custom::<f64>::new(isa, custom))),
            DType::F16 => Some(Box::new(Custom::<f16>::new(isa, custom))),
            DType::BF16 => Some(Box::new(Custom::<bf16>::new(isa, custom))),
            DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
        };
    }
    match input {
        DType::F32 => reducer.visit_monoid(Boxed::<f32>(isa, PhantomData)),
        DType::F64 => reducer.visit_monoid(Boxed::<f64>(isa, PhantomData)),
        DType::F16 => reducer.visit_monoid(Boxed::<f16>(isa, PhantomData)),
        DType::BF16 => reducer.visit_monoid(Boxed::<bf16>(isa, PhantomData)),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

struct Boxed<T>(Isa, PhantomData<T>);

impl<T: Value> MonoidVisitor for Boxed<T> {
    type Out = Box<dyn States>;

    fn visit<M: Monoid>(self, monoid: M) -> Self::Out {
        Box::new(Of::<T, M> { monoid, isa: self.0, rows: PhantomData })
    }
}

struct Of<T, M> {
    monoid: M,
    isa: Isa,
    rows: PhantomData<T>,
}

/// One module an instruction set: the same bodies, compiled for it.
macro_rules! compiled_for {
    ($module:ident $(, #[$feature:meta])?) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            pub(super) unsafe fn accumulate<T: Value, M: Monoid>(monoid: M, block: &Block) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::accumulate::<T, M>(monoid, block) }
            }

            $(#[$feature])?
            pub(super) unsafe fn combine<M: Monoid>(monoid: M, older: *mut f64, newer: *const f64, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::combine(monoid, older, newer, features) }
            }
        }
    };
}

compiled_for!(baseline);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, #[target_feature(enable = "avx2,f16c")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]);

impl<T: Value, M: Monoid> States for Of<T, M> {
    fn planes(&self) -> (usize, usize) {
        (M::BLOCK, M::TREE)
    }

    unsafe fn accumulate(&self, block: &Block) {
        // SAFETY: the caller's promise; the instruction set is there, or it would not have been chosen.
        unsafe {
            match self.isa {
                Isa::Baseline => baseline::accumulate::<T, M>(self.monoid, block),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::accumulate::<T, M>(self.monoid, block),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512::accumulate::<T, M>(self.monoid, block),
                #[cfg(not(target_arch = "x86_64"))]
                Isa::Avx2 | Isa::Avx512 => baseline::accumulate::<T, M>(self.monoid, block),
            }
        }
    }

    unsafe fn widen(&self, slot: *mut f64, acc: *const u8, features: usize, first_row: f64) {
        for feature in 0..features {
            // SAFETY: the caller's promise.
            unsafe {
                put(slot, self.monoid.widen(get(acc.cast::<T::Acc>(), features, feature, M::BLOCK), first_row), features, feature, M::TREE)
            }
        }
    }

    unsafe fn combine(&self, older: *mut f64, newer: *const f64, features: usize) {
        // SAFETY: as for `accumulate`.
        unsafe {
            match self.isa {
                Isa::Baseline => baseline::combine(self.monoid, older, newer, features),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2::combine(self.monoid, older, newer, features),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512::combine(self.monoid, older, newer, features),
                #[cfg(not(target_arch = "x86_64"))]
                Isa::Avx2 | Isa::Avx512 => baseline::combine(self.monoid, older, newer, features),
            }
        }
    }

    unsafe fn finish_block(&self, acc: *const u8, n: f64, out: *mut f64, features: usize) {
        for feature in 0..features {
            // SAFETY: the caller's promise.
            unsafe {
                let state = get(acc.cast::<T::Acc>(), features, feature, M::BLOCK);
                out.add(feature).write(self.monoid.finish_block(state, T::Acc::of_f64(n)).as_f64());
            }
        }
    }

    unsafe fn finish_tree(&self, slot: *const f64, n: f64, out: *mut f64, features: usize) {
        for feature in 0..features {
            // SAFETY: the caller's promise.
            unsafe { out.add(feature).write(self.monoid.finish_tree(get(slot, features, feature, M::TREE), n)) }
        }
    }
}

/// One feature of some planes.
#[inline(always)]
unsafe fn get<A: Accumulator>(planes: *const A, features: usize, feature: usize, count: usize) -> State<A> {
    let mut state = [A::default(); MAX_STATE];
    for (plane, component) in state.iter_mut().enumerate().take(count) {
        // SAFETY: the caller gives so many planes.
        *component = unsafe { planes.add(plane * features + feature).read() };
    }
    state
}

/// Writes one feature of some planes.
#[inline(always)]
unsafe fn put<A: Accumulator>(planes: *mut A, state: State<A>, features: usize, feature: usize, count: usize) {
    for (plane, component) in state.into_iter().enumerate().take(count) {
        // SAFETY: as for `get`.
        unsafe { planes.add(plane * features + feature).write(component) };
    }
}

/// Columns of the rows of a block, a state each.
#[inline(always)]
unsafe fn accumulate<T: Value, M: Monoid>(monoid: M, block: &Block) {
    let (acc, weights) = (block.acc.cast::<T::Acc>(), block.weights.cast::<T::Acc>());
    let mut column = 0;
    while column < block.features {
        let lanes = LANES.min(block.features - column);
        let mut planes = [[T::Acc::default(); LANES]; MAX_STATE];
        let started = monoid.start::<T::Acc>();
        for (plane, component) in planes.iter_mut().zip(started) {
            plane.fill(component);
        }
        for pass in 0..M::PASSES {
            for row in 0..block.count {
                // SAFETY: the block has these rows, weights and columns.
                let (x, w) = unsafe {
                    let from = block.rows.add(row).read().cast::<T>().add(column);
                    (load(from, lanes), if weights.is_null() { T::Acc::of_f64(1.0) } else { weights.add(row).read() })
                };
                let index = T::Acc::of_f64(row as f64);
                each::<_, M>(&mut planes, |lane, state| monoid.push(pass, state, Row { x: x[lane], w, index }));
            }
            each::<_, M>(&mut planes, |_, state| monoid.close(pass, state));
        }
        for (plane, values) in planes.iter().enumerate().take(M::BLOCK) {
            // SAFETY: accumulators have all planes and columns.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), acc.add(plane * block.features + column), lanes) };
        }
        column += lanes;
    }
}

/// The first `lanes` elements, widened; the others are 0.
#[inline(always)]
pub(crate) unsafe fn load<T: Value>(from: *const T, lanes: usize) -> [T::Acc; LANES] {
    let mut x = [T::Acc::default(); LANES];
    // SAFETY: the caller gives so many elements.
    unsafe {
        if lanes == LANES {
            for (lane, x) in x.iter_mut().enumerate() {
                *x = from.add(lane).read_unaligned().widen();
            }
        } else {
            for (lane, x) in x.iter_mut().enumerate().take(lanes) {
                *x = from.add(lane).read_unaligned().widen();
            }
        }
    }
    x
}

/// Changes the state of every lane. Planes that the monoid does not have are neither read nor written.
#[inline(always)]
fn each<A: Accumulator, M: Monoid>(planes: &mut [[A; LANES]; MAX_STATE], change: impl Fn(usize, State<A>) -> State<A>) {
    let [a, b, c, d] = planes;
    for lane in 0..LANES {
        let of = |plane: usize, values: &[A; LANES]| if plane < M::BLOCK { values[lane] } else { A::default() };
        let state = change(lane, [of(0, a), of(1, b), of(2, c), of(3, d)]);
        for (plane, values) in [&mut *a, &mut *b, &mut *c, &mut *d].into_iter().enumerate() {
            if plane < M::BLOCK {
                values[lane] = state[plane];
            }
        }
    }
}

#[inline(always)]
unsafe fn combine<M: Monoid>(monoid: M, older: *mut f64, newer: *const f64, features: usize) {
    for feature in 0..features {
        // SAFETY: the caller's promise.
        unsafe {
            let combined = monoid.combine(get(older, features, feature, M::TREE), get(newer, features, feature, M::TREE));
            put(older, combined, features, feature, M::TREE);
        }
    }
}

//! Reducers of a user's own in Rust: called once for each block, over whole rows.
//!
//! Behind the planes of a block's state there is room for the state of one row, and for the widened rows of a block where their type is
//! not the accumulator's.

use crate::kernels::Block;
use crate::states::{States, To};
use half::{bf16, f16};
use levelfold::DType;
use levelfold::custom::{BoundReducer, Real};
use levelfold::numerics::elementary::Elementary;
use levelfold::numerics::{Accumulator, BLOCK_ROWS, Value};
use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::Range;

/// The states of a reducer over rows of a type; `None` where that is not one of values.
pub(crate) fn select(input: DType, reducer: BoundReducer) -> Option<Box<dyn States>> {
    match input {
        DType::F32 => Some(Box::new(Named::<f32> { reducer, rows: PhantomData })),
        DType::F64 => Some(Box::new(Named::<f64> { reducer, rows: PhantomData })),
        DType::F16 => Some(Box::new(Named::<f16> { reducer, rows: PhantomData })),
        DType::BF16 => Some(Box::new(Named::<bf16> { reducer, rows: PhantomData })),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

struct Named<T> {
    reducer: BoundReducer,
    rows: PhantomData<fn() -> T>,
}

impl<T: Value> Named<T> {
    /// Whether rows are accumulators as they lie.
    fn in_place() -> bool {
        TypeId::of::<T>() == TypeId::of::<T::Acc>()
    }
}

impl<T: Value> States for Named<T>
where
    T::Acc: Real,
{
    fn planes(&self) -> (usize, usize) {
        let state = self.reducer.planes();
        // A plane of accumulators has 8 bytes a feature, of which a widened row takes 4.
        let rows = if Self::in_place() { 0 } else { BLOCK_ROWS / 2 };
        (2 * state + rows, state)
    }

    fn asks_for(&self, _count: usize) -> Option<(Range<usize>, u64)> {
        None
    }

    unsafe fn accumulate(&self, block: &Block, plane: usize) {
        debug_assert_eq!(plane, block.features, "it takes whole rows");
        let (features, planes) = (block.features, self.reducer.planes());
        if features == 0 {
            return;
        }
        let acc = block.acc.cast::<T::Acc>();
        // SAFETY: the caller's promise: rows, weights and all planes of the accumulator, which do not overlap; elements of a type are aligned for it
        // wherever they lie.
        unsafe {
            let state = std::slice::from_raw_parts_mut(acc, planes * features);
            let lifted = std::slice::from_raw_parts_mut(acc.add(planes * features), planes * features);
            let weights = (!block.weights.is_null()).then(|| std::slice::from_raw_parts(block.weights.cast::<T::Acc>(), block.count));
            let pointers = std::slice::from_raw_parts(block.rows, block.count);
            let mut rows: [&[T::Acc]; BLOCK_ROWS] = [&[]; BLOCK_ROWS];
            let wide = acc.add(2 * planes * features);
            for (index, (row, pointer)) in rows.iter_mut().zip(pointers).enumerate() {
                let mut at = pointer.cast::<T::Acc>();
                if !Self::in_place() {
                    let wide = wide.add(index * features);
                    for feature in 0..features {
                        wide.add(feature).write(pointer.cast::<T>().add(feature).read().widen());
                    }
                    at = wide.cast_const();
                }
                *row = std::slice::from_raw_parts(at, features);
            }
            self.reducer.block(&rows[..block.count], weights, state, lifted);
        }
    }

    unsafe fn widen(&self, slot: *mut f64, acc: *const u8, features: usize, _first_row: f64) {
        for index in 0..features * self.reducer.planes() {
            // SAFETY: the caller's promise: both have all planes.
            unsafe { slot.add(index).write(acc.cast::<T::Acc>().add(index).read().as_f64()) }
        }
    }

    unsafe fn combine(&self, older: *mut f64, newer: *const f64, features: usize) {
        let count = features * self.reducer.planes();
        if count == 0 {
            return;
        }
        // SAFETY: the caller's promise: both have all planes, and do not overlap.
        unsafe { self.reducer.combine(std::slice::from_raw_parts_mut(older, count), std::slice::from_raw_parts(newer, count)) }
    }

    unsafe fn finish_block(&self, acc: *const u8, n: f64, to: To, features: usize) {
        if features == 0 {
            return;
        }
        let (acc, count) = (acc.cast_mut().cast::<T::Acc>(), features * self.reducer.planes());
        // SAFETY: the caller's promise; behind the state there is room for as much, which is this thread's own.
        unsafe {
            let made = std::slice::from_raw_parts_mut(acc.add(count), features);
            self.reducer.finish::<T::Acc>(std::slice::from_raw_parts(acc, count), T::Acc::of_f64(n), made);
            for row in [to.row, to.also].into_iter().filter(|row| !row.is_null()) {
                for (feature, value) in made.iter().enumerate() {
                    row.cast::<T::Acc>().add(feature).write_unaligned(value.canonical());
                }
            }
        }
    }

    unsafe fn finish_tree(&self, slot: *const f64, n: f64, out: *mut f64, features: usize) {
        if features == 0 {
            return;
        }
        let count = features * self.reducer.planes();
        // SAFETY: the caller's promise: a slot has all planes, and there are as many results as features.
        unsafe { self.reducer.finish(std::slice::from_raw_parts(slot, count), n, std::slice::from_raw_parts_mut(out, features)) }
    }
}

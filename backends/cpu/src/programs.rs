//! Custom reducers: their programs over some features at a time, compiled for each instruction set.
//!
//! A register is [`LANES`] numbers, one a feature. An instruction is looked up once for all of them, and its loop over the lanes is vector code.

use crate::kernels::{Block, Isa};
use crate::states::{LANES, States, load};
use levelfold::numerics::elementary::Elementary;
use levelfold::numerics::{Accumulator, Value};
use levelfold::reducer::{CustomReducer, Instruction, Program, REGISTERS};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// A custom reducer over rows of one type.
pub(crate) struct Custom<T> {
    components: usize,
    lift: Program,
    push: Program,
    combine: Program,
    finish: Program,
    isa: Isa,
    rows: PhantomData<fn() -> T>,
}

impl<T: Value> Custom<T> {
    pub(crate) fn new(isa: Isa, custom: &CustomReducer) -> Self {
        Custom {
            components: custom.components().len(),
            lift: custom.lifting(),
            push: custom.push(),
            combine: custom.combining(),
            finish: custom.finishing(),
            isa,
            rows: PhantomData,
        }
    }
}

/// The registers of a program. Constants are set when it is [loaded](Registers::load), inputs by whoever runs it, and the others by instructions, each
/// before it is read.
struct Registers<A>([MaybeUninit<[A; LANES]>; REGISTERS]);

impl<A: Elementary> Registers<A> {
    #[inline(always)]
    fn new() -> Self {
        Registers([const { MaybeUninit::uninit() }; REGISTERS])
    }

    #[inline(always)]
    fn set(&mut self, register: usize, lanes: [A; LANES]) {
        self.0[register].write(lanes);
    }

    /// # Safety
    /// The register was set.
    #[inline(always)]
    unsafe fn get(&self, register: usize) -> [A; LANES] {
        // SAFETY: the caller's promise.
        unsafe { self.0[register].assume_init() }
    }

    /// Sets the constants of a program.
    #[inline(always)]
    fn load(&mut self, program: &Program) {
        for (index, constant) in program.constants.iter().enumerate() {
            self.set(program.inputs + index, [A::of_f64(*constant); LANES]);
        }
    }

    /// # Safety
    /// The program was loaded and its inputs were set.
    #[inline(always)]
    unsafe fn run(&mut self, program: &Program) {
        let first = program.inputs + program.constants.len();
        for (index, instruction) in program.code.iter().enumerate() {
            let mut out = [A::default(); LANES];
            // SAFETY: operands are inputs, constants, or what an earlier instruction made.
            unsafe {
                match *instruction {
                    Instruction::Unary(operation, x) => {
                        let x = self.get(x);
                        each_unary(operation, &x, &mut out);
                    }
                    Instruction::Binary(operation, x, y) => {
                        let (x, y) = (self.get(x), self.get(y));
                        each_binary(operation, &x, &y, &mut out);
                    }
                }
            }
            self.set(first + index, out);
        }
    }
}

#[inline(always)]
fn each_unary<A: Elementary>(operation: levelfold::reducer::Unary, x: &[A; LANES], out: &mut [A; LANES]) {
    use levelfold::reducer::Unary::{Abs, Exp, Log, Neg, Sqrt};
    // One loop an operation: the choice stays outside.
    macro_rules! each {
        ($($name:ident),*) => {
            match operation {
                $($name => for (out, x) in out.iter_mut().zip(x) {
                    *out = $name.apply(*x);
                }),*
            }
        };
    }
    each!(Neg, Abs, Sqrt, Exp, Log);
}

#[inline(always)]
fn each_binary<A: Elementary>(operation: levelfold::reducer::Binary, x: &[A; LANES], y: &[A; LANES], out: &mut [A; LANES]) {
    use levelfold::reducer::Binary::{Add, Div, Max, Min, Mul, Sub};
    macro_rules! each {
        ($($name:ident),*) => {
            match operation {
                $($name => for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                    *out = $name.apply(*x, *y);
                }),*
            }
        };
    }
    each!(Add, Sub, Mul, Div, Max, Min);
}

/// Runs a program over planes: `inputs` are groups of planes, and `write` takes each output plane by plane.
///
/// # Safety
/// Each group of planes has as many as it says, of `features` numbers.
#[inline(always)]
unsafe fn over_planes<A: Elementary>(
    program: &Program,
    groups: &[(*const A, usize)],
    features: usize,
    mut write: impl FnMut(usize, usize, &[A]),
) {
    let mut registers = Registers::<A>::new();
    registers.load(program);
    let mut column = 0;
    while column < features {
        let lanes = LANES.min(features - column);
        let mut input = 0;
        for &(planes, count) in groups {
            for plane in 0..count {
                let mut values = [A::default(); LANES];
                // SAFETY: the caller gives these planes.
                unsafe { std::ptr::copy_nonoverlapping(planes.add(plane * features + column), values.as_mut_ptr(), lanes) };
                registers.set(input, values);
                input += 1;
            }
        }
        // SAFETY: loaded above, and every input is set.
        unsafe { registers.run(program) };
        for (plane, output) in program.outputs.iter().enumerate() {
            // SAFETY: an output is an input, a constant or a result.
            let values = unsafe { registers.get(*output) };
            write(plane, column, &values[..lanes]);
        }
        column += lanes;
    }
}

#[inline(always)]
unsafe fn accumulate<T: Value>(of: &Custom<T>, block: &Block)
where
    T::Acc: Elementary,
{
    let (acc, weights) = (block.acc.cast::<T::Acc>(), block.weights.cast::<T::Acc>());
    let count = of.components;
    let (mut lifting, mut pushing) = (Registers::<T::Acc>::new(), Registers::<T::Acc>::new());
    lifting.load(&of.lift);
    pushing.load(&of.push);
    let mut column = 0;
    while column < block.features {
        let lanes = LANES.min(block.features - column);
        let row = |row: usize| {
            // SAFETY: the block has these rows, weights and columns.
            unsafe {
                let from = block.rows.add(row).read().cast::<T>().add(column);
                (load(from, lanes), if weights.is_null() { T::Acc::of_f64(1.0) } else { weights.add(row).read() })
            }
        };
        let (x, w) = row(0);
        lifting.set(0, x);
        lifting.set(1, [w; LANES]);
        // SAFETY: loaded, and both inputs are set.
        unsafe {
            lifting.run(&of.lift);
            for (plane, output) in of.lift.outputs.iter().enumerate() {
                pushing.set(plane, lifting.get(*output));
            }
        }
        for index in 1..block.count {
            let (x, w) = row(index);
            pushing.set(count, x);
            pushing.set(count + 1, [w; LANES]);
            // SAFETY: loaded, and all inputs are set: the state, the value and the weight. All outputs are read before the state changes.
            unsafe {
                pushing.run(&of.push);
                let mut state = [[T::Acc::default(); LANES]; levelfold::numerics::MAX_STATE];
                for (component, output) in state.iter_mut().zip(&of.push.outputs) {
                    *component = pushing.get(*output);
                }
                for (plane, component) in state.into_iter().enumerate().take(count) {
                    pushing.set(plane, component);
                }
            }
        }
        for plane in 0..count {
            // SAFETY: the state was set; accumulators have all planes and columns.
            unsafe {
                let values = pushing.get(plane);
                std::ptr::copy_nonoverlapping(values.as_ptr(), acc.add(plane * block.features + column), lanes);
            }
        }
        column += lanes;
    }
}

#[inline(always)]
unsafe fn combine(program: &Program, count: usize, older: *mut f64, newer: *const f64, features: usize) {
    // SAFETY: the caller's promise; columns are read before they are written.
    unsafe {
        over_planes(program, &[(older.cast_const(), count), (newer, count)], features, |plane, column, values| {
            std::ptr::copy_nonoverlapping(values.as_ptr(), older.add(plane * features + column), values.len());
        });
    }
}

#[inline(always)]
unsafe fn finish<A: Elementary>(program: &Program, count: usize, state: *const A, out: *mut f64, features: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        over_planes(program, &[(state, count)], features, |_, column, values| {
            for (lane, value) in values.iter().enumerate() {
                out.add(column + lane).write(value.as_f64());
            }
        });
    }
}

/// One module an instruction set: the same bodies, compiled for it.
macro_rules! compiled_for {
    ($module:ident $(, #[$feature:meta])?) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            pub(super) unsafe fn accumulate<T: Value>(of: &Custom<T>, block: &Block) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::accumulate(of, block) }
            }

            $(#[$feature])?
            pub(super) unsafe fn combine(program: &Program, count: usize, older: *mut f64, newer: *const f64, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::combine(program, count, older, newer, features) }
            }

            $(#[$feature])?
            pub(super) unsafe fn finish<A: Elementary>(program: &Program, count: usize, state: *const A, out: *mut f64, features: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::finish(program, count, state, out, features) }
            }
        }
    };
}

compiled_for!(baseline);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, #[target_feature(enable = "avx2,f16c")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]);

/// Calls the function of an instruction set, which is there, or it would not have been chosen.
macro_rules! on {
    ($isa:expr, $function:ident($($argument:expr),*)) => {
        match $isa {
            Isa::Baseline => baseline::$function($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::$function($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::$function($($argument),*),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => baseline::$function($($argument),*),
        }
    };
}

impl<T: Value> States for Custom<T> {
    fn planes(&self) -> (usize, usize) {
        (self.components, self.components)
    }

    unsafe fn accumulate(&self, block: &Block) {
        // SAFETY: the caller's promise is passed on.
        unsafe { on!(self.isa, accumulate(self, block)) }
    }

    unsafe fn widen(&self, slot: *mut f64, acc: *const u8, features: usize, _first_row: f64) {
        for index in 0..features * self.components {
            // SAFETY: the caller's promise: both have all planes.
            unsafe { slot.add(index).write(acc.cast::<T::Acc>().add(index).read().as_f64()) }
        }
    }

    unsafe fn combine(&self, older: *mut f64, newer: *const f64, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { on!(self.isa, combine(&self.combine, self.components, older, newer, features)) }
    }

    unsafe fn finish_block(&self, acc: *const u8, _n: f64, out: *mut f64, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { on!(self.isa, finish(&self.finish, self.components, acc.cast::<T::Acc>(), out, features)) }
    }

    unsafe fn finish_tree(&self, slot: *const f64, _n: f64, out: *mut f64, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { on!(self.isa, finish(&self.finish, self.components, slot, out, features)) }
    }
}

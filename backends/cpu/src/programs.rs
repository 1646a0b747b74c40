//! Custom reducers: their programs over vectors of features, compiled for each instruction set.
//!
//! A register is a batch of vectors, and an instruction is looked up once for all of them. Where states are combined component by component, by one
//! operation each (sums, maxima and the like), rows are lifted a batch at a time, and what they give is folded in without a program; any other state
//! takes its rows one at a time.

use crate::kernels::{Block, Isa};
use crate::states::body::{Numbers, RowOut, load_of, store_of};
use crate::states::{Own, States, To, on};
use crate::vector::{Cell, Vector};
use levelfold::numerics::elementary::{exp_of, log_of};
use levelfold::numerics::{Accumulator, MAX_STATE, Packed};
use levelfold::reducer::{Binary, CustomReducer, Instruction, Program, REGISTERS, Unary};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Vectors of a register, whatever the program is.
const BATCH: usize = 8;
/// The most where a program has few registers.
const WIDE: usize = 32;

/// A custom reducer over rows of accumulators.
pub(crate) struct Custom<A> {
    components: usize,
    lift: Program,
    push: Program,
    combine: Program,
    finish: Program,
    /// Whether weights are read, when rows are lifted and when they are pushed.
    lift_weighs: bool,
    push_weighs: bool,
    /// How each component is combined with its own kind alone; empty where that is not all there is.
    folds: Vec<Binary>,
    isa: Isa,
    accumulators: PhantomData<fn() -> A>,
}

impl<A> Custom<A> {
    pub(crate) fn new(isa: Isa, custom: &CustomReducer) -> Self {
        let (components, combine) = (custom.components().len(), custom.combining());
        let first = combine.inputs + combine.constants.len();
        let fold_of = |component: usize| match combine.code.get(combine.outputs[component].checked_sub(first)?)? {
            Instruction::Binary(operation, x, y) if (*x, *y) == (component, components + component) => Some(*operation),
            Instruction::Binary(..) | Instruction::Unary(..) => None,
        };
        let (lift, push) = (custom.lifting(), custom.push());
        Custom {
            components,
            // Behind a row, which comes behind the state where there is one.
            lift_weighs: reads(&lift, 1),
            push_weighs: reads(&push, components + 1),
            lift,
            push,
            folds: (0..components).map(fold_of).collect::<Option<_>>().unwrap_or_default(),
            finish: custom.finishing(),
            combine,
            isa,
            accumulators: PhantomData,
        }
    }
}

/// Whether a program uses what is in a register.
fn reads(program: &Program, register: usize) -> bool {
    let by = |instruction: &Instruction| match *instruction {
        Instruction::Unary(_, x) => x == register,
        Instruction::Binary(_, x, y) => x == register || y == register,
    };
    program.outputs.contains(&register) || program.code.iter().any(by)
}

/// The registers of a program. Constants are set when it is [loaded](Registers::load), inputs by whoever runs it, and the others by instructions, each
/// before it is read.
struct Registers<X> {
    room: [MaybeUninit<X>; REGISTERS * BATCH],
    /// The vectors of each.
    batch: usize,
}

impl<X: Numbers> Registers<X> {
    /// With so many vectors each.
    #[inline(always)]
    fn new(batch: usize) -> Self {
        Registers { room: [const { MaybeUninit::uninit() }; REGISTERS * BATCH], batch }
    }

    /// The first vector of a register.
    #[inline(always)]
    fn at(&mut self, register: usize) -> *mut X {
        self.room[register * self.batch..][..self.batch].as_mut_ptr().cast()
    }

    #[inline(always)]
    fn fill(&mut self, register: usize, number: X::Acc) {
        self.room[register * self.batch..][..self.batch].fill(MaybeUninit::new(<X as Packed>::splat(number)));
    }

    /// Sets the constants of a program.
    #[inline(always)]
    fn load(&mut self, program: &Program) {
        for (index, constant) in program.constants.iter().enumerate() {
            self.fill(program.inputs + index, X::Acc::of_f64(*constant));
        }
    }

    /// The first vector of a register, where the first input is elsewhere.
    #[inline(always)]
    fn operand(&mut self, register: usize, input: *const X) -> *const X {
        if register == 0 { input } else { self.at(register) }
    }

    /// Runs a program over the first vectors of its registers, and of its first input, at any alignment.
    ///
    /// # Safety
    /// The program was loaded and so many vectors of its inputs were set, at most a batch.
    #[inline(always)]
    unsafe fn run(&mut self, program: &Program, vectors: usize, input: *const X) {
        let first = program.inputs + program.constants.len();
        for (index, instruction) in program.code.iter().enumerate() {
            let out = self.at(first + index);
            // SAFETY: operands are inputs, constants, or what an earlier instruction made, and none is what this one makes.
            unsafe {
                match *instruction {
                    Instruction::Unary(operation, x) => each_unary(operation, self.operand(x, input), out, vectors),
                    Instruction::Binary(operation, x, y) => {
                        each_binary(operation, self.operand(x, input), self.operand(y, input), out, vectors)
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn each_unary<X: Packed>(operation: Unary, x: *const X, out: *mut X, vectors: usize) {
    // One loop an operation: the choice stays outside.
    macro_rules! each {
        (|$x:ident| $made:expr) => {
            for vector in 0..vectors {
                // SAFETY: the caller gives so many vectors.
                unsafe {
                    let $x = x.add(vector).read_unaligned();
                    out.add(vector).write($made);
                }
            }
        };
    }
    match operation {
        // Of every number, zeros included, −0 − x is −x.
        Unary::Neg => each!(|x| X::of(-0.0) - x),
        Unary::Abs => each!(|x| x.absolute()),
        Unary::Sqrt => each!(|x| x.root()),
        Unary::Exp => each!(|x| exp_of(x)),
        Unary::Log => each!(|x| log_of(x)),
    }
}

/// An operation of two, known when what uses it is compiled.
trait Of {
    fn of<X: Packed>(x: X, y: X) -> X;
}

/// Something for whichever operation it is, which is then a type: each has loops of its own.
macro_rules! with_binary {
    ($operation:expr, |$made:ident| $body:expr) => {
        with_binary!(@ $operation, $made, $body, Add x y => x + y, Sub x y => x - y, Mul x y => x * y, Div x y => x / y,
            Max x y => x.larger(y), Min x y => x.smaller(y))
    };
    (@ $operation:expr, $made:ident, $body:expr, $($name:ident $x:ident $y:ident => $value:expr),*) => {
        match $operation {
            $(Binary::$name => {
                struct $made;
                impl Of for $made {
                    #[inline(always)]
                    fn of<X: Packed>($x: X, $y: X) -> X {
                        $value
                    }
                }
                $body
            })*
        }
    };
}

#[inline(always)]
unsafe fn each_binary<X: Packed>(operation: Binary, x: *const X, y: *const X, out: *mut X, vectors: usize) {
    with_binary!(operation, |Made| for vector in 0..vectors {
        // SAFETY: the caller gives so many vectors.
        unsafe { out.add(vector).write(Made::of(x.add(vector).read_unaligned(), y.add(vector).read_unaligned())) }
    });
}

/// Folds rows of `vectors` vectors each, at any alignment, into a state.
#[inline(always)]
unsafe fn fold_rows<X: Packed>(operation: Binary, state: *mut X, rows: *const X, count: usize, vectors: usize) {
    with_binary!(operation, |Made| for vector in 0..vectors {
        // SAFETY: the caller gives these rows.
        unsafe {
            let mut folded = state.add(vector).read();
            for row in 0..count {
                folded = Made::of(folded, rows.add(row * vectors + vector).read_unaligned());
            }
            state.add(vector).write(folded);
        }
    });
}

/// Columns that are taken at once: the first, how many vectors they are, and the lanes of the last one, 0 for all.
#[derive(Clone, Copy)]
struct Columns {
    first: usize,
    vectors: usize,
    part: usize,
    lanes: usize,
}

impl Columns {
    #[inline(always)]
    fn from(first: usize, features: usize, lanes: usize, most: usize) -> Self {
        let left = features - first;
        let vectors = left.div_ceil(lanes).min(most);
        Columns { first, vectors, part: if left < vectors * lanes { left % lanes } else { 0 }, lanes }
    }

    /// Where a vector begins, and how much of it there is.
    #[inline(always)]
    fn of(self, vector: usize) -> (usize, usize) {
        (self.first + vector * self.lanes, if vector + 1 == self.vectors { self.part } else { 0 })
    }

    #[inline(always)]
    fn next(self) -> usize {
        self.first + self.vectors * self.lanes
    }
}

/// Runs a program over planes: `groups` of them are its inputs. `write` takes each output, vector by vector: its plane, the vector, where it begins and
/// how much of it there is.
macro_rules! over_planes {
    ($program:expr, $groups:expr, $features:expr, $vector:ty, |$plane:ident, $lanes:ident, $column:ident, $part:ident| $write:expr) => {{
        let mut registers = Registers::<$vector>::new(BATCH);
        registers.load($program);
        let mut column = 0;
        while column < $features {
            let columns = Columns::from(column, $features, <$vector>::LANES, BATCH);
            let mut input = 0;
            for (planes, count) in $groups {
                for plane in 0..count {
                    for vector in 0..columns.vectors {
                        let (column, part) = columns.of(vector);
                        registers.at(input).add(vector).write(load_of(planes.add(plane * $features + column), part));
                    }
                    input += 1;
                }
            }
            let input = registers.at(0);
            registers.run($program, columns.vectors, input);
            for ($plane, output) in $program.outputs.iter().enumerate() {
                for vector in 0..columns.vectors {
                    let ($column, $part) = columns.of(vector);
                    let $lanes = registers.at(*output).add(vector).read();
                    $write;
                }
            }
            column = columns.next();
        }
    }};
}

#[inline(always)]
unsafe fn accumulate<X: Numbers>(of: &Custom<X::Acc>, block: &Block, plane: usize) {
    // What no other program follows has the room for itself.
    let batch = if of.folds.is_empty() { BATCH } else { (REGISTERS * BATCH / of.lift.registers().max(1)).clamp(BATCH, WIDE) };
    let mut registers = Registers::<X>::new(batch);
    if !of.folds.is_empty() {
        registers.load(&of.lift);
    }
    let mut column = 0;
    while column < block.features {
        let columns = Columns::from(column, block.features, X::LANES, batch);
        // SAFETY: the block has these rows, weights, planes and columns.
        unsafe {
            if of.folds.is_empty() {
                push_rows(of, block, plane, columns, &mut registers);
            } else {
                fold_lifted(of, block, plane, columns, &mut registers);
            }
        }
        column = columns.next();
    }
}

/// Where some columns of rows lie, if whole vectors of them follow each other from row to row.
#[inline(always)]
unsafe fn rows_in_place<X: Numbers>(block: &Block, rows: Range<usize>, columns: Columns) -> Option<*const X> {
    // SAFETY: the block has these rows and columns.
    unsafe {
        let start = |row: usize| block.rows.add(row).read().cast::<X::Acc>().add(columns.first);
        let bytes = columns.vectors * X::LANES * size_of::<X::Acc>();
        let follow = rows.clone().skip(1).all(|row| start(row).addr() == start(row - 1).addr().wrapping_add(bytes));
        (columns.part == 0 && follow).then(|| start(rows.start).cast())
    }
}

/// Sets a register to vectors of a row, from a vector of it on.
#[inline(always)]
unsafe fn take_row<X: Numbers>(x: *mut X, block: &Block, row: usize, columns: Columns) {
    // SAFETY: the block has this row and these columns, and the batch as many vectors.
    unsafe {
        let from = block.rows.add(row).read().cast::<X::Acc>();
        for vector in 0..columns.vectors {
            let (column, part) = columns.of(vector);
            x.add(vector).write(load_of(from.add(column), part));
        }
    }
}

/// Sets so many vectors of a register to the weight of a row.
#[inline(always)]
unsafe fn take_weight<X: Numbers>(w: *mut X, block: &Block, row: usize, vectors: usize) {
    // SAFETY: the block has this row, and the batch as many vectors.
    unsafe {
        let weight = if block.weights.is_null() { X::Acc::of_f64(1.0) } else { block.weights.cast::<X::Acc>().add(row).read() };
        for vector in 0..vectors {
            w.add(vector).write(<X as Packed>::splat(weight));
        }
    }
}

/// The state of some columns, where components are folded each by itself.
#[inline(always)]
unsafe fn fold_lifted<X: Numbers>(of: &Custom<X::Acc>, block: &Block, plane: usize, columns: Columns, registers: &mut Registers<X>) {
    let vectors = columns.vectors;
    let most = registers.batch / vectors;
    let mut states = [const { MaybeUninit::<[X; WIDE]>::uninit() }; MAX_STATE];
    let mut row = 0;
    // SAFETY: the block has these rows and columns; states are begun by the first batch.
    unsafe {
        while row < block.count {
            let some = most.min(block.count - row);
            let in_place = rows_in_place::<X>(block, row..row + some, columns);
            for index in 0..some {
                if in_place.is_none() {
                    take_row(registers.at(0).add(index * vectors), block, row + index, columns);
                }
                if of.lift_weighs {
                    take_weight(registers.at(1).add(index * vectors), block, row + index, vectors);
                }
            }
            let input = in_place.unwrap_or(registers.at(0));
            registers.run(&of.lift, some * vectors, input);
            for ((state, operation), output) in states.iter_mut().zip(&of.folds).zip(&of.lift.outputs) {
                let (state, lifted) = (state.as_mut_ptr().cast::<X>(), registers.operand(*output, input));
                if row == 0 {
                    for vector in 0..vectors {
                        state.add(vector).write(lifted.add(vector).read_unaligned());
                    }
                    fold_rows(*operation, state, lifted.add(vectors), some - 1, vectors);
                } else {
                    fold_rows(*operation, state, lifted, some, vectors);
                }
            }
            row += some;
        }
        for (index, state) in states.iter().enumerate().take(of.components) {
            put(state.as_ptr().cast::<X>(), block.acc.cast::<X::Acc>().add(index * plane), columns);
        }
    }
}

/// The state of some columns, row by row.
#[inline(always)]
unsafe fn push_rows<X: Numbers>(of: &Custom<X::Acc>, block: &Block, plane: usize, columns: Columns, registers: &mut Registers<X>) {
    let (vectors, count) = (columns.vectors, of.components);
    let mut states = [const { MaybeUninit::<[X; BATCH]>::uninit() }; MAX_STATE];
    // SAFETY: the block has these rows and columns; programs are loaded, and their inputs set, before they run.
    unsafe {
        registers.load(&of.lift);
        take_row(registers.at(0), block, 0, columns);
        if of.lift_weighs {
            take_weight(registers.at(1), block, 0, vectors);
        }
        let input = registers.at(0);
        registers.run(&of.lift, vectors, input);
        for row in 1..=block.count {
            // All results are read before the state changes.
            let outputs = if row == 1 { &of.lift.outputs } else { &of.push.outputs };
            for (state, output) in states.iter_mut().zip(outputs) {
                std::ptr::copy_nonoverlapping(registers.at(*output), state.as_mut_ptr().cast(), vectors);
            }
            if row == block.count {
                break;
            }
            if row == 1 {
                registers.load(&of.push);
            }
            for (plane, state) in states.iter().enumerate().take(count) {
                std::ptr::copy_nonoverlapping(state.as_ptr().cast(), registers.at(plane), vectors);
            }
            take_row(registers.at(count), block, row, columns);
            if of.push_weighs {
                take_weight(registers.at(count + 1), block, row, vectors);
            }
            registers.run(&of.push, vectors, input);
        }
        for (index, state) in states.iter().enumerate().take(count) {
            put(state.as_ptr().cast::<X>(), block.acc.cast::<X::Acc>().add(index * plane), columns);
        }
    }
}

/// Writes some columns of a plane.
#[inline(always)]
unsafe fn put<X: Vector>(from: *const X, plane: *mut X::Acc, columns: Columns) {
    for vector in 0..columns.vectors {
        let (column, part) = columns.of(vector);
        // SAFETY: the caller gives these vectors, and a plane of all columns.
        unsafe { store_of(from.add(vector).read(), plane.add(column), part) };
    }
}

/// One module an instruction set: the same bodies, compiled for it.
macro_rules! compiled_for {
    ($module:ident, $vectors:ident $(, #[$feature:meta])?) => {
        mod $module {
            use super::*;

            type Tree = <f64 as Cell>::$vectors;

            $(#[$feature])?
            pub(super) unsafe fn accumulate<A: Own>(of: &Custom<A>, block: &Block, plane: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::accumulate::<A::$vectors>(of, block, plane) }
            }

            $(#[$feature])?
            pub(super) unsafe fn combine(program: &Program, count: usize, older: *mut f64, newer: *const f64, features: usize) {
                // SAFETY: the caller's promise; columns are read before they are written.
                unsafe {
                    over_planes!(program, [(older.cast_const(), count), (newer, count)], features, Tree, |plane, lanes, column, part| {
                        store_of(lanes, older.add(plane * features + column), part)
                    });
                }
            }

            $(#[$feature])?
            pub(super) unsafe fn finish_block<A: Own>(of: &Custom<A>, acc: *const u8, to: To, features: usize) {
                // SAFETY: the caller's promise.
                unsafe {
                    let groups = [(acc.cast::<A>(), of.components)];
                    let mut row = RowOut::<A, A::$vectors>::new(to);
                    over_planes!(&of.finish, groups, features, A::$vectors, |_plane, lanes, column, part| row.put(lanes, column, part));
                    row.end();
                }
            }

            $(#[$feature])?
            pub(super) unsafe fn finish_tree(program: &Program, count: usize, slot: *const f64, out: *mut f64, features: usize) {
                // SAFETY: the caller's promise.
                unsafe {
                    over_planes!(program, [(slot, count)], features, Tree, |_plane, lanes, column, part| {
                        store_of(lanes, out.add(column), part)
                    });
                }
            }
        }
    };
}

compiled_for!(baseline, Portable);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, Avx2, #[target_feature(enable = "avx2,f16c")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, Avx512, #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]);

impl<A: Own> States for Custom<A> {
    fn planes(&self) -> (usize, usize) {
        (self.components, self.components)
    }

    fn asks_for(&self, _count: usize) -> Option<(Range<usize>, u64)> {
        None
    }

    unsafe fn accumulate(&self, block: &Block, plane: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { on!(self.isa, accumulate(self, block, plane)) }
    }

    unsafe fn widen(&self, slot: *mut f64, acc: *const u8, features: usize, _first_row: f64) {
        for index in 0..features * self.components {
            // SAFETY: the caller's promise: both have all planes.
            unsafe { slot.add(index).write(acc.cast::<A>().add(index).read().as_f64()) }
        }
    }

    unsafe fn combine(&self, older: *mut f64, newer: *const f64, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { on!(self.isa, combine(&self.combine, self.components, older, newer, features)) }
    }

    unsafe fn finish_block(&self, acc: *const u8, _n: f64, to: To, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { on!(self.isa, finish_block(self, acc, to, features)) }
    }

    unsafe fn finish_tree(&self, slot: *const f64, _n: f64, out: *mut f64, features: usize) {
        // SAFETY: the caller's promise is passed on.
        unsafe { on!(self.isa, finish_tree(&self.finish, self.components, slot, out, features)) }
    }
}

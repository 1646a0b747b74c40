//! The expressions of a custom reducer as straight-line programs over registers, for backends that compute many features at once.

use super::custom::CustomReducer;
use super::expression::{Binary, Expression, Unary, Variable};
use crate::numerics::MAX_STATE;
use smallvec::SmallVec;

/// The most registers that a program has.
pub const REGISTERS: usize = 64;

/// One operation; operands are registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Of one.
    Unary(Unary, usize),
    /// Of two.
    Binary(Binary, usize, usize),
}

/// A program: registers are its inputs, then its constants, then one for each instruction. Equal parts are computed once.
#[derive(Clone, Debug)]
pub struct Program {
    /// How many inputs there are.
    pub inputs: usize,
    /// The constants.
    pub constants: Vec<f64>,
    /// What is computed, in order.
    pub code: Vec<Instruction>,
    /// Which registers hold the results.
    pub outputs: SmallVec<[usize; MAX_STATE]>,
}

impl Program {
    /// How many registers it takes.
    pub fn registers(&self) -> usize {
        self.inputs + self.constants.len() + self.code.len()
    }
}

/// Instructions under way: registers of constants are only known in the end, so operands are tagged until then.
#[derive(Default)]
struct Compiler {
    constants: Vec<f64>,
    code: Vec<(Option<Unary>, Option<Binary>, [Operand; 2])>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    Input(usize),
    Constant(usize),
    Result(usize),
}

impl Compiler {
    /// Where the value of an expression is; `of` says where variables are.
    fn compile(&mut self, expression: &Expression, of: &dyn Fn(&mut Self, Variable) -> Operand) -> Operand {
        let made = match expression {
            Expression::Constant(number) => {
                let known = self.constants.iter().position(|constant| constant.to_bits() == number.to_bits());
                return Operand::Constant(known.unwrap_or_else(|| {
                    self.constants.push(*number);
                    self.constants.len() - 1
                }));
            }
            Expression::Variable(variable) => return of(self, *variable),
            Expression::Unary(operation, x) => {
                let x = self.compile(x, of);
                (Some(*operation), None, [x, x])
            }
            Expression::Binary(operation, both) => {
                let x = self.compile(&both[0], of);
                let y = self.compile(&both[1], of);
                (None, Some(*operation), [x, y])
            }
        };
        let known = self.code.iter().position(|other| *other == made);
        Operand::Result(known.unwrap_or_else(|| {
            self.code.push(made);
            self.code.len() - 1
        }))
    }

    fn finish(self, inputs: usize, outputs: &[Operand]) -> Program {
        let constants = self.constants.len();
        let register = |operand: Operand| match operand {
            Operand::Input(index) => index,
            Operand::Constant(index) => inputs + index,
            Operand::Result(index) => inputs + constants + index,
        };
        let code = self.code.iter().filter_map(|(unary, binary, [x, y])| match (unary, binary) {
            (Some(operation), _) => Some(Instruction::Unary(*operation, register(*x))),
            (None, Some(operation)) => Some(Instruction::Binary(*operation, register(*x), register(*y))),
            (None, None) => None,
        });
        Program {
            inputs,
            code: code.collect(),
            outputs: outputs.iter().map(|output| register(*output)).collect(),
            constants: self.constants,
        }
    }
}

impl CustomReducer {
    /// From `x` and `w` to the state of a row.
    pub fn lifting(&self) -> Program {
        let mut compiler = Compiler::default();
        let outputs: Vec<Operand> =
            self.components().iter().map(|part| compiler.compile(&part.lift, &|_, named| lift_input(named, 0))).collect();
        compiler.finish(2, &outputs)
    }

    /// From a state, `x` and `w` to the state with one more row: what combining with the lifted row gives.
    pub fn push(&self) -> Program {
        let mut compiler = Compiler::default();
        let count = self.components().len();
        let of = |compiler: &mut Compiler, named: Variable| match named {
            Variable::Newer(index) => compiler.compile(&self.components()[index].lift, &|_, named| lift_input(named, count)),
            Variable::Older(index) | Variable::State(index) => Operand::Input(index),
            Variable::Value | Variable::Weight => lift_input(named, count),
        };
        let outputs: Vec<Operand> = self.components().iter().map(|part| compiler.compile(&part.combine, &of)).collect();
        compiler.finish(count + 2, &outputs)
    }

    /// From two states, the older first, to one.
    pub fn combining(&self) -> Program {
        let mut compiler = Compiler::default();
        let count = self.components().len();
        let of = |_: &mut Compiler, named: Variable| match named {
            Variable::Newer(index) => Operand::Input(count + index),
            Variable::Older(index) | Variable::State(index) => Operand::Input(index),
            Variable::Value | Variable::Weight => Operand::Input(0),
        };
        let outputs: Vec<Operand> = self.components().iter().map(|part| compiler.compile(&part.combine, &of)).collect();
        compiler.finish(2 * count, &outputs)
    }

    /// From a state to the result.
    pub fn finishing(&self) -> Program {
        let mut compiler = Compiler::default();
        let of = |_: &mut Compiler, named: Variable| match named {
            Variable::State(index) | Variable::Older(index) | Variable::Newer(index) => Operand::Input(index),
            Variable::Value | Variable::Weight => Operand::Input(0),
        };
        let output = compiler.compile(self.finish(), &of);
        compiler.finish(self.components().len(), &[output])
    }
}

/// Where the two inputs of a lift are.
fn lift_input(named: Variable, first: usize) -> Operand {
    Operand::Input(first + usize::from(named == Variable::Weight))
}

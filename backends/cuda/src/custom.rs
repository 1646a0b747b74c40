//! Custom reducers as CUDA source: their programs, statement by statement, in the form that `kernels/states.cu` gives to reducers with a state.
//!
//! A register of a program is a constant of the accumulator's type. Every operation stands by itself and nothing is fused (`--fmad=false`), so the bits are those of
//! [`Expression::evaluate`](levelfold::reducer::Expression::evaluate).

use levelfold::reducer::{Binary, CustomReducer, Instruction, Program, Unary};
use std::fmt::Write;

/// The reducer as `Monoid<CUSTOM + number>`.
pub(crate) fn source(number: usize, custom: &CustomReducer) -> String {
    let count = custom.components().len();
    let state = |of: &str| (0..count).map(|part| format!("{of}.part[{part}]")).collect::<Vec<_>>();
    let mut lift = vec!["x".to_owned(), "w".to_owned()];
    let lifted = state_of(&custom.lifting(), &lift);
    let mut push = state("s");
    push.append(&mut lift);
    let pushed = state_of(&custom.push(), &push);
    let combined = state_of(&custom.combining(), &[state("a"), state("b")].concat());
    let finishing = custom.finishing();
    let finished = format!("{}return {};", statements(&finishing, &state("s")), register(&finishing, &state("s"), finishing.outputs[0]));
    format!(
        "
template <> struct Monoid<CUSTOM + {number}> : Usual {{
  static constexpr int BLOCK = {count}, TREE = {count}, PASSES = 1;
  template <class T> static LF_DEVICE State<T> lift(T x, T w) {{ {lifted} }}
  template <class T> static LF_DEVICE State<T> with(State<T> s, T x, T w) {{ {pushed} }}
  template <int PASS, class T> static LF_DEVICE State<T> push(State<T> s, T x, T w, u32 index) {{ return index ? with(s, x, w) : lift(x, w); }}
  static LF_DEVICE State<double> combine(State<double> a, State<double> b) {{ typedef double T; {combined} }}
  template <class T> static LF_DEVICE T finish(State<T> s) {{ {finished} }}
  template <class T> static LF_DEVICE T finish_block(State<T> s, T, u32) {{ return finish(s); }}
  static LF_DEVICE double finish_tree(State<double> s, double, u32) {{ return finish(s); }}
}};
"
    )
}

/// The statements of a program, and its results as a state.
fn state_of(program: &Program, inputs: &[String]) -> String {
    let mut parts: Vec<String> = program.outputs.iter().map(|output| register(program, inputs, *output)).collect();
    parts.resize(levelfold::numerics::MAX_STATE, "(T)0".to_owned());
    format!("{}return {{{{{}}}}};", statements(program, inputs), parts.join(", "))
}

fn statements(program: &Program, inputs: &[String]) -> String {
    let mut text = String::new();
    let first = program.inputs + program.constants.len();
    for (index, instruction) in program.code.iter().enumerate() {
        let of = |operand: usize| register(program, inputs, operand);
        let value = match *instruction {
            Instruction::Unary(operation, x) => {
                let x = of(x);
                match operation {
                    Unary::Neg => format!("(T)-1 * {x}"),
                    Unary::Abs => format!("lf_magnitude({x})"),
                    Unary::Sqrt => format!("root({x})"),
                    Unary::Exp => format!("lf_exp({x})"),
                    Unary::Log => format!("lf_log({x})"),
                }
            }
            Instruction::Binary(operation, x, y) => {
                let (x, y) = (of(x), of(y));
                match operation {
                    Binary::Add => format!("{x} + {y}"),
                    Binary::Sub => format!("{x} - {y}"),
                    Binary::Mul => format!("{x} * {y}"),
                    Binary::Div => format!("{x} / {y}"),
                    Binary::Max => format!("maximum({x}, {y})"),
                    Binary::Min => format!("minimum({x}, {y})"),
                }
            }
        };
        // Writing to a string does not fail.
        let _ = write!(text, "const T r{} = {value}; ", first + index);
    }
    text
}

/// A register by its name: an input, a constant, or what was computed.
fn register(program: &Program, inputs: &[String], register: usize) -> String {
    if register < program.inputs {
        return inputs[register].clone();
    }
    match program.constants.get(register - program.inputs) {
        // By its bits: no decimal is read again.
        Some(constant) => format!("(T)double_of({:#x}ull)", constant.to_bits()),
        None => format!("r{register}"),
    }
}

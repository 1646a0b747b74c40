//! Reducers whose state is several numbers a feature: variance, norms, positions, and whatever else is a monoid.
//!
//! The bracketing is that of all reducers (blocks of 32 rows, then pairs in f64). What differs is what a block makes of its rows and how two neighbours
//! are combined, and that is a [`Monoid`]:
//!
//! 1. A block starts from [`start`](Monoid::start) and takes its rows from left to right with [`push`](Monoid::push), in the accumulator's type;
//!    as often as it has [`PASSES`](Monoid::PASSES), with [`close`](Monoid::close) after each.
//! 2. A segment of one block ends with [`finish_block`](Monoid::finish_block), in the accumulator's type.
//! 3. Of several blocks each is [widened](Monoid::widen) to f64, neighbours are [combined](Monoid::combine) in pairs, and
//!    [`finish_tree`](Monoid::finish_tree) ends it, in f64.
//!
//! Every operation is a scalar one on one feature, without branches that depend on data, so loops over features become vector code.

use super::Accumulator;
use super::elementary::{Elementary, exp, log, sqrt};
use crate::reducer::Reducer;

/// The most components that a block or a tree has.
pub const MAX_STATE: usize = 4;

/// The components of one feature's state; those past [`Monoid::BLOCK`] or [`Monoid::TREE`] are 0.
pub type State<A> = [A; MAX_STATE];

/// One row of one feature, on its way into a block.
#[derive(Clone, Copy, Debug)]
pub struct Row<A> {
    /// The value.
    pub x: A,
    /// Its weight, 1 where there are none.
    pub w: A,
    /// Which row of the block it is, from 0.
    pub index: A,
}

/// A reducer as a monoid.
///
/// *Law:* `combine` is associative but for rounding, and widening blocks that hold the rows of one is that one, but for rounding.
pub trait Monoid: Copy + Send + Sync + 'static {
    /// Components of a block's state.
    const BLOCK: usize;
    /// Components of a tree's state.
    const TREE: usize;
    /// How often a block goes over its rows.
    const PASSES: usize = 1;

    /// A block before its first row.
    #[inline(always)]
    fn start<A: Elementary>(self) -> State<A> {
        [zero(); MAX_STATE]
    }
    /// One more row of a pass.
    fn push<A: Elementary>(self, pass: usize, state: State<A>, row: Row<A>) -> State<A>;
    /// The end of a pass.
    #[inline(always)]
    fn close<A: Elementary>(self, _pass: usize, state: State<A>) -> State<A> {
        state
    }
    /// The result of a segment of one block of n rows.
    fn finish_block<A: Elementary>(self, state: State<A>, n: A) -> A;
    /// A block as a leaf of the tree; `first_row` is where in the segment it begins.
    #[inline(always)]
    fn widen<A: Elementary>(self, state: State<A>, _first_row: f64) -> State<f64> {
        state.map(Accumulator::as_f64)
    }
    /// Two neighbouring groups of blocks, the older one first.
    fn combine(self, older: State<f64>, newer: State<f64>) -> State<f64>;
    /// The result of a segment of several blocks, of n rows.
    fn finish_tree(self, state: State<f64>, n: f64) -> f64;
}

/// What can be done with any monoid.
pub trait MonoidVisitor {
    /// What comes of it.
    type Out;
    /// With this one.
    fn visit<M: Monoid>(self, monoid: M) -> Self::Out;
}

impl Reducer {
    /// How often it goes over the rows of a block: [`Monoid::PASSES`]. Who makes its rows on the way has to hold those of a block where that is more than once.
    pub fn passes(&self) -> usize {
        struct Passes;
        impl MonoidVisitor for Passes {
            type Out = usize;
            fn visit<M: Monoid>(self, _: M) -> usize {
                M::PASSES
            }
        }
        self.visit_monoid(Passes).unwrap_or(1)
    }

    /// Shows a reducer's monoid to a visitor; `None` where it has none of these: a plain one, one that selects, or a
    /// custom one, whose expressions say what it is.
    pub fn visit_monoid<V: MonoidVisitor>(&self, visitor: V) -> Option<V::Out> {
        match *self {
            Reducer::Sum | Reducer::Mean | Reducer::Max | Reducer::Min | Reducer::Prod | Reducer::Quantile(_) | Reducer::Custom(_) => None,
            Reducer::Var { ddof } => Some(visitor.visit(Moments { ddof, root: false })),
            Reducer::Std { ddof } => Some(visitor.visit(Moments { ddof, root: true })),
            Reducer::L1 => Some(visitor.visit(Norm { squares: false })),
            Reducer::L2 => Some(visitor.visit(Norm { squares: true })),
            Reducer::LogSumExp => Some(visitor.visit(LogSum)),
            Reducer::SoftMax => Some(visitor.visit(SoftMax)),
            Reducer::First => Some(visitor.visit(End { last: false })),
            Reducer::Last => Some(visitor.visit(End { last: true })),
            Reducer::Count => Some(visitor.visit(Number)),
            Reducer::ArgMax => Some(visitor.visit(Position { sign: 1.0 })),
            Reducer::ArgMin => Some(visitor.visit(Position { sign: -1.0 })),
        }
    }
}

/// `yes` where the condition holds, else `no`: a select, which stays vector code.
#[inline(always)]
fn pick<A: Elementary>(condition: bool, yes: A, no: A) -> A {
    if condition { yes } else { no }
}

#[inline(always)]
fn zero<A: Elementary>() -> A {
    A::of_f64(0.0)
}

/// Variance and standard deviation.
///
/// A block shifts its rows by the first that has a weight, k, so that what is large in all of them is taken off before anything is squared:
/// d = x − k, m = Σwd ÷ Σw, then Σw(d − m)². As a leaf it is (Σw, k + m, that sum), and two leaves are combined by Chan, Golub and LeVeque's
/// rule (*Updating formulae and a pairwise algorithm for computing sample variances*, 1979).
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    ddof: u32,
    /// Whether the square root is taken in the end.
    root: bool,
}

impl Moments {
    #[inline(always)]
    fn finish<A: Elementary>(self, weight: A, squares: A) -> A {
        let divisor = weight.sub(A::of_f64(f64::from(self.ddof)));
        // A sample of one row has no variance, and neither has one of less.
        let variance = squares.div(pick(divisor > zero(), divisor, A::of_f64(f64::NAN)));
        if self.root { sqrt(variance) } else { variance }
    }
}

impl Monoid for Moments {
    /// Σw, k, Σwd and then m, Σw(d − m)².
    const BLOCK: usize = 4;
    /// Σw, the mean, Σw(x − mean)².
    const TREE: usize = 3;
    const PASSES: usize = 2;

    #[inline(always)]
    fn push<A: Elementary>(self, pass: usize, [weight, shift, sum, squares]: State<A>, Row { x, w, .. }: Row<A>) -> State<A> {
        if pass == 0 {
            let shift = pick(weight == zero(), x, shift);
            [weight.add(w), shift, sum.add(w.mul(x.sub(shift))), squares]
        } else {
            let away = x.sub(shift).sub(sum);
            [weight, shift, sum, squares.add(w.mul(away.mul(away)))]
        }
    }

    #[inline(always)]
    fn close<A: Elementary>(self, pass: usize, [weight, shift, sum, squares]: State<A>) -> State<A> {
        let mean = if pass == 0 { pick(weight == zero(), zero(), sum.div(weight)) } else { sum };
        [weight, shift, mean, squares]
    }

    #[inline(always)]
    fn finish_block<A: Elementary>(self, [weight, _, _, squares]: State<A>, _n: A) -> A {
        self.finish(weight, squares)
    }

    #[inline(always)]
    fn widen<A: Elementary>(self, [weight, shift, mean, squares]: State<A>, _first_row: f64) -> State<f64> {
        [weight.as_f64(), shift.as_f64() + mean.as_f64(), squares.as_f64(), 0.0]
    }

    #[inline(always)]
    fn combine(self, [weight_a, mean_a, squares_a, _]: State<f64>, [weight_b, mean_b, squares_b, _]: State<f64>) -> State<f64> {
        let weight = weight_a + weight_b;
        let share = pick(weight == 0.0, 0.0, weight_b / weight);
        let apart = mean_b - mean_a;
        // Rows without weight say nothing of the mean, but a NaN among them is in the squares already.
        let mean = pick(weight_a == 0.0, mean_b, pick(weight_b == 0.0, mean_a, mean_a + apart * share));
        let between = pick(weight_a == 0.0 || weight_b == 0.0, 0.0, apart * apart * (weight_a * share));
        [weight, mean, squares_a + squares_b + between, 0.0]
    }

    #[inline(always)]
    fn finish_tree(self, [weight, _, squares, _]: State<f64>, _n: f64) -> f64 {
        self.finish(weight, squares)
    }
}

/// Σw|x|, or √Σwx².
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    /// Whether rows are squared, and the root is taken in the end.
    squares: bool,
}

impl Monoid for Norm {
    const BLOCK: usize = 1;
    const TREE: usize = 1;

    #[inline(always)]
    fn start<A: Elementary>(self) -> State<A> {
        [A::of_f64(-0.0); MAX_STATE]
    }

    #[inline(always)]
    fn push<A: Elementary>(self, _pass: usize, mut state: State<A>, Row { x, w, .. }: Row<A>) -> State<A> {
        state[0] = state[0].add(w.mul(if self.squares { x.mul(x) } else { x.abs() }));
        state
    }

    #[inline(always)]
    fn finish_block<A: Elementary>(self, state: State<A>, _n: A) -> A {
        if self.squares { sqrt(state[0]) } else { state[0] }
    }

    #[inline(always)]
    fn combine(self, mut older: State<f64>, newer: State<f64>) -> State<f64> {
        older[0] += newer[0];
        older
    }

    #[inline(always)]
    fn finish_tree(self, state: State<f64>, _n: f64) -> f64 {
        if self.squares { sqrt(state[0]) } else { state[0] }
    }
}

/// The first row, or the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    last: bool,
}

impl Monoid for End {
    const BLOCK: usize = 1;
    const TREE: usize = 1;

    #[inline(always)]
    fn push<A: Elementary>(self, _pass: usize, mut state: State<A>, Row { x, index, .. }: Row<A>) -> State<A> {
        state[0] = pick(self.last || index == zero(), x, state[0]);
        state
    }

    #[inline(always)]
    fn finish_block<A: Elementary>(self, state: State<A>, _n: A) -> A {
        state[0]
    }

    #[inline(always)]
    fn combine(self, older: State<f64>, newer: State<f64>) -> State<f64> {
        if self.last { newer } else { older }
    }

    #[inline(always)]
    fn finish_tree(self, state: State<f64>, _n: f64) -> f64 {
        state[0]
    }
}

/// How many rows there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number;

impl Monoid for Number {
    const BLOCK: usize = 0;
    const TREE: usize = 0;
    const PASSES: usize = 0;

    #[inline(always)]
    fn push<A: Elementary>(self, _pass: usize, state: State<A>, _row: Row<A>) -> State<A> {
        state
    }

    #[inline(always)]
    fn finish_block<A: Elementary>(self, _state: State<A>, n: A) -> A {
        n
    }

    #[inline(always)]
    fn combine(self, older: State<f64>, _newer: State<f64>) -> State<f64> {
        older
    }

    #[inline(always)]
    fn finish_tree(self, _state: State<f64>, n: f64) -> f64 {
        n
    }
}

/// Where the largest (sign 1) or smallest (sign −1) value stands: the first NaN, else the first of the best numbers. The two zeros are equal.
///
/// Positions are exact up to 2^53 rows a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    sign: f64,
}

/// The better of two values and where each stands; the older one where neither is better.
#[inline(always)]
fn better<A: Elementary>(older: [A; 2], newer: [A; 2]) -> [A; 2] {
    let takes = newer[0] > older[0] || (is_nan(newer[0]) && !is_nan(older[0]));
    [pick(takes, newer[0], older[0]), pick(takes, newer[1], older[1])]
}

#[inline(always)]
#[allow(clippy::eq_op, reason = "only a NaN differs from itself, and this form becomes vector code")]
fn is_nan<A: Elementary>(value: A) -> bool {
    value != value
}

impl Monoid for Position {
    /// The best value so far, its sign turned for a minimum, and its place.
    const BLOCK: usize = 2;
    const TREE: usize = 2;

    #[inline(always)]
    fn start<A: Elementary>(self) -> State<A> {
        // The place of a first row that is −∞, which is no better than this.
        [A::of_f64(f64::NEG_INFINITY), zero(), zero(), zero()]
    }

    #[inline(always)]
    fn push<A: Elementary>(self, _pass: usize, state: State<A>, Row { x, index, .. }: Row<A>) -> State<A> {
        let [best, place] = better([state[0], state[1]], [x.mul(A::of_f64(self.sign)), index]);
        [best, place, state[2], state[3]]
    }

    #[inline(always)]
    fn finish_block<A: Elementary>(self, state: State<A>, _n: A) -> A {
        state[1]
    }

    #[inline(always)]
    fn widen<A: Elementary>(self, state: State<A>, first_row: f64) -> State<f64> {
        [state[0].as_f64(), state[1].as_f64() + first_row, 0.0, 0.0]
    }

    #[inline(always)]
    fn combine(self, older: State<f64>, newer: State<f64>) -> State<f64> {
        let [best, place] = better([older[0], older[1]], [newer[0], newer[1]]);
        [best, place, 0.0, 0.0]
    }

    #[inline(always)]
    fn finish_tree(self, state: State<f64>, _n: f64) -> f64 {
        state[1]
    }
}

/// log Σw·eˣ, with the largest exponent taken out.
///
/// Rows of weight 0 are left out, unless they are NaN: what they hold may be larger than all others, and would shift those to nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSum;

/// What exponents are shifted by: the largest, where it is finite.
#[inline(always)]
fn shift_of<A: Elementary>(largest: A) -> A {
    pick(Accumulator::abs(largest) == A::of_f64(f64::INFINITY), zero(), largest)
}

impl Monoid for LogSum {
    /// The largest exponent, and Σw·e^(x − shift).
    const BLOCK: usize = 2;
    const TREE: usize = 2;
    const PASSES: usize = 2;

    #[inline(always)]
    fn start<A: Elementary>(self) -> State<A> {
        [A::of_f64(f64::NEG_INFINITY), zero(), zero(), zero()]
    }

    #[inline(always)]
    fn push<A: Elementary>(self, pass: usize, mut state: State<A>, Row { x, w, .. }: Row<A>) -> State<A> {
        let counts = w != zero() || is_nan(x);
        if pass == 0 {
            state[0] = pick(counts, state[0].maximum(x), state[0]);
        } else {
            state[1] = state[1].add(pick(counts, w.mul(exp(x.sub(shift_of(state[0])))), zero()));
        }
        state
    }

    #[inline(always)]
    fn finish_block<A: Elementary>(self, state: State<A>, _n: A) -> A {
        shift_of(state[0]).add(log(state[1]))
    }

    #[inline(always)]
    fn combine(self, older: State<f64>, newer: State<f64>) -> State<f64> {
        let largest = Accumulator::maximum(older[0], newer[0]);
        let shift = shift_of(largest);
        let rescaled = |state: State<f64>| pick(state[1] == 0.0, 0.0, state[1] * exp(shift_of(state[0]) - shift));
        [largest, rescaled(older) + rescaled(newer), 0.0, 0.0]
    }

    #[inline(always)]
    fn finish_tree(self, state: State<f64>, _n: f64) -> f64 {
        shift_of(state[0]) + log(state[1])
    }
}

/// Σe^w·x ÷ Σe^w: the rows, weighted by the softmax of their scores, which stand where weights do.
///
/// A score of −∞ leaves its row out, but for a NaN or an infinity in it; where all scores are −∞, or one is +∞ or NaN, the result is NaN.
#[derive(Clone, Copy, Debug)]
pub(super) struct SoftMax;

impl Monoid for SoftMax {
    /// The largest score, Σe^(w − shift), Σe^(w − shift)·x.
    const BLOCK: usize = 3;
    const TREE: usize = 3;
    const PASSES: usize = 2;

    #[inline(always)]
    fn start<A: Elementary>(self) -> State<A> {
        [A::of_f64(f64::NEG_INFINITY), zero(), zero(), zero()]
    }

    #[inline(always)]
    fn push<A: Elementary>(self, pass: usize, mut state: State<A>, Row { x, w, .. }: Row<A>) -> State<A> {
        if pass == 0 {
            state[0] = state[0].maximum(w);
        } else {
            let part = exp(w.sub(shift_of(state[0])));
            state[1] = state[1].add(part);
            state[2] = state[2].add(part.mul(x));
        }
        state
    }

    #[inline(always)]
    fn finish_block<A: Elementary>(self, state: State<A>, _n: A) -> A {
        state[2].div(state[1])
    }

    #[inline(always)]
    fn combine(self, older: State<f64>, newer: State<f64>) -> State<f64> {
        let largest = Accumulator::maximum(older[0], newer[0]);
        let shift = shift_of(largest);
        // Of −∞ alone there is no part: e^(−∞).
        let scale = |state: State<f64>| exp(pick(state[0] == f64::NEG_INFINITY, state[0], shift_of(state[0]) - shift));
        let (a, b) = (scale(older), scale(newer));
        [largest, older[1] * a + newer[1] * b, older[2] * a + newer[2] * b, 0.0]
    }

    #[inline(always)]
    fn finish_tree(self, state: State<f64>, _n: f64) -> f64 {
        state[2] / state[1]
    }
}

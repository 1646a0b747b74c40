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
//! Every operation is one on a feature, or on several side by side: [`Packed`] numbers, without branches that depend on data.

use super::elementary::{Elementary, exp_of, log_of};
use super::{Accumulator, Packed};
use crate::reducer::Reducer;
use std::ops::Range;

/// The most components that a block or a tree has.
pub const MAX_STATE: usize = 4;

/// The components of one feature's state, or of several side by side; those past [`Monoid::BLOCK`] or [`Monoid::TREE`] are 0.
pub type State<X> = [X; MAX_STATE];

/// One row of one feature, or of several side by side, on its way into a block.
#[derive(Clone, Copy, Debug)]
pub struct Row<X> {
    /// The value.
    pub x: X,
    /// Its weight; none stands for 1.
    pub w: Option<X>,
    /// Which row of the block it is, from 0.
    pub index: X,
}

/// Whether rows may have weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighing {
    /// They never have.
    Never,
    /// As the level says.
    Either,
    /// They always have scores in place of weights: what a row weighs is [made of it](Monoid::weigh).
    Scores,
}

/// What a block's states begin with: the same for all features, but for the first row.
#[derive(Clone, Copy, Debug)]
pub struct Start<X> {
    /// The first row.
    pub first: X,
    /// How many rows there are, where they have no weights.
    pub n: Option<X>,
    /// Of scores, what they are [measured against](Monoid::scale).
    pub scale: X,
    /// Of scores, what they weigh together: added from the left, from 0.
    pub total: X,
}

/// A reducer as a monoid.
///
/// *Law:* `combine` is associative but for rounding, and widening blocks that hold the rows of one is that one, but for rounding.
pub trait Monoid: Copy + Send + Sync + 'static {
    /// Components of a block's state.
    const BLOCK: usize;
    /// Components of a tree's state.
    const TREE: usize;
    /// Components of it that change from row to row.
    const VARYING: usize = Self::BLOCK;
    /// How often a block goes over its rows.
    const PASSES: usize = 1;
    /// Whether it takes weights.
    const WEIGHING: Weighing = Weighing::Never;

    /// Which of a block's `count` rows matter at all.
    #[inline(always)]
    fn rows(self, count: usize) -> Range<usize> {
        0..count
    }
    /// What the scores of a block are measured against.
    #[inline(always)]
    fn scale<A: Elementary>(self, _scores: &[A]) -> A {
        A::of_f64(0.0)
    }
    /// What a row with a score weighs.
    #[inline(always)]
    fn weigh<X: Packed>(self, score: X, _scale: X) -> X {
        score
    }
    /// A block before its first row.
    #[inline(always)]
    fn start<X: Packed>(self, _start: Start<X>) -> State<X> {
        [zero(); MAX_STATE]
    }
    /// One more row of a pass.
    fn push<X: Packed>(self, pass: usize, state: State<X>, row: Row<X>) -> State<X>;
    /// Which components a row changes in a pass, the first row apart.
    #[inline(always)]
    fn changes(self, _pass: usize, _weighted: bool) -> [bool; MAX_STATE] {
        [true; MAX_STATE]
    }
    /// The end of a pass.
    #[inline(always)]
    fn close<X: Packed>(self, _pass: usize, state: State<X>) -> State<X> {
        state
    }
    /// The result of a segment of one block of n rows.
    fn finish_block<X: Packed>(self, state: State<X>, n: X) -> X;
    /// What a block's state, widened to f64, is as a leaf of the tree; `first_row` is where in the segment it begins.
    #[inline(always)]
    fn leaf<X: Packed<Number = f64>>(self, state: State<X>, _first_row: X) -> State<X> {
        state
    }
    /// A block as a leaf of the tree.
    #[inline(always)]
    fn widen<A: Elementary>(self, state: State<A>, first_row: f64) -> State<f64> {
        self.leaf(state.map(Accumulator::as_f64), first_row)
    }
    /// Two neighbouring groups of blocks, the older one first.
    fn combine<X: Packed<Number = f64>>(self, older: State<X>, newer: State<X>) -> State<X>;
    /// The result of a segment of several blocks, of n rows.
    fn finish_tree<X: Packed<Number = f64>>(self, state: State<X>, n: X) -> X;
}

/// What can be done with any monoid.
pub trait MonoidVisitor {
    /// What comes of it.
    type Out;
    /// With this one.
    fn visit<M: Monoid>(self, monoid: M) -> Self::Out;
}

impl Reducer {
    /// How often it goes over the rows of a block: [`Monoid::PASSES`], and once more where those are scores. Who makes its rows on the way has to hold those
    /// of a block where that is more than once.
    pub fn passes(&self) -> usize {
        struct Passes;
        impl MonoidVisitor for Passes {
            type Out = usize;
            fn visit<M: Monoid>(self, _: M) -> usize {
                M::PASSES + usize::from(matches!(M::WEIGHING, Weighing::Scores))
            }
        }
        self.visit_monoid(Passes).unwrap_or(1)
    }

    /// Shows a reducer's monoid to a visitor; `None` where it has none of these: a plain one, one that selects, or a
    /// custom one, whose expressions say what it is.
    pub fn visit_monoid<V: MonoidVisitor>(&self, visitor: V) -> Option<V::Out> {
        match *self {
            Reducer::Sum
            | Reducer::Mean
            | Reducer::Max
            | Reducer::Min
            | Reducer::Prod
            | Reducer::Quantile(_)
            | Reducer::Custom(_)
            | Reducer::Named(_) => None,
            Reducer::Var { ddof } => Some(visitor.visit(Moments { ddof, root: false })),
            Reducer::Std { ddof } => Some(visitor.visit(Moments { ddof, root: true })),
            Reducer::L1 => Some(visitor.visit(Norm::<false>)),
            Reducer::L2 => Some(visitor.visit(Norm::<true>)),
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

#[inline(always)]
fn zero<X: Packed>() -> X {
    X::of(0.0)
}

/// w·x.
#[inline(always)]
fn weighed<X: Packed>(w: Option<X>, x: X) -> X {
    match w {
        None => x,
        Some(w) => w * x,
    }
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
    fn finish<X: Packed>(self, weight: X, squares: X) -> X {
        let divisor = weight - X::of(f64::from(self.ddof));
        // A sample of one row has no variance, and neither has one of less.
        let variance = squares / X::pick(divisor.exceeds(zero()), divisor, X::of(f64::NAN));
        if self.root { variance.root() } else { variance }
    }
}

impl Monoid for Moments {
    /// Σw, k, Σwd and then m, Σw(d − m)².
    const BLOCK: usize = 4;
    /// Σw, the mean, Σw(x − mean)².
    const TREE: usize = 3;
    const PASSES: usize = 2;
    const WEIGHING: Weighing = Weighing::Either;

    #[inline(always)]
    fn start<X: Packed>(self, Start { first, n, .. }: Start<X>) -> State<X> {
        // Where all rows weigh 1, the first is what they are shifted by, and what they weigh together is known.
        n.map_or([zero(); MAX_STATE], |n| [n, first, zero(), zero()])
    }

    #[inline(always)]
    fn push<X: Packed>(self, pass: usize, [weight, shift, sum, squares]: State<X>, Row { x, w, .. }: Row<X>) -> State<X> {
        match (pass, w) {
            (0, None) => [weight, shift, sum + (x - shift), squares],
            (0, Some(w)) => {
                let shift = X::pick(weight.equals(zero()), x, shift);
                [weight + w, shift, sum + w * (x - shift), squares]
            }
            (_, w) => {
                let away = x - shift - sum;
                [weight, shift, sum, squares + weighed(w, away * away)]
            }
        }
    }

    #[inline(always)]
    fn changes(self, pass: usize, weighted: bool) -> [bool; MAX_STATE] {
        let first = pass == 0;
        [first && weighted, first && weighted, first, !first]
    }

    #[inline(always)]
    fn close<X: Packed>(self, pass: usize, [weight, shift, sum, squares]: State<X>) -> State<X> {
        let mean = if pass == 0 { X::pick(weight.equals(zero()), zero(), sum / weight) } else { sum };
        [weight, shift, mean, squares]
    }

    #[inline(always)]
    fn finish_block<X: Packed>(self, [weight, _, _, squares]: State<X>, _n: X) -> X {
        self.finish(weight, squares)
    }

    #[inline(always)]
    fn leaf<X: Packed<Number = f64>>(self, [weight, shift, mean, squares]: State<X>, _first_row: X) -> State<X> {
        [weight, shift + mean, squares, zero()]
    }

    #[inline(always)]
    fn combine<X: Packed<Number = f64>>(
        self,
        [weight_a, mean_a, squares_a, _]: State<X>,
        [weight_b, mean_b, squares_b, _]: State<X>,
    ) -> State<X> {
        let weight = weight_a + weight_b;
        let share = X::pick(weight.equals(zero()), zero(), weight_b / weight);
        let apart = mean_b - mean_a;
        let (a_is_empty, b_is_empty) = (weight_a.equals(zero()), weight_b.equals(zero()));
        // Rows without weight say nothing of the mean, but a NaN among them is in the squares already.
        let mean = X::pick(a_is_empty, mean_b, X::pick(b_is_empty, mean_a, mean_a + apart * share));
        let between = X::pick(X::either(a_is_empty, b_is_empty), zero(), apart * apart * (weight_a * share));
        [weight, mean, squares_a + squares_b + between, zero()]
    }

    #[inline(always)]
    fn finish_tree<X: Packed<Number = f64>>(self, [weight, _, squares, _]: State<X>, _n: X) -> X {
        self.finish(weight, squares)
    }
}

/// Σw|x|, or √Σwx²: rows are squared, and the root is taken in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm<const SQUARES: bool>;

impl<const SQUARES: bool> Monoid for Norm<SQUARES> {
    const BLOCK: usize = 1;
    const TREE: usize = 1;
    const WEIGHING: Weighing = Weighing::Either;

    #[inline(always)]
    fn start<X: Packed>(self, _start: Start<X>) -> State<X> {
        [X::of(-0.0); MAX_STATE]
    }

    #[inline(always)]
    fn push<X: Packed>(self, _pass: usize, mut state: State<X>, Row { x, w, .. }: Row<X>) -> State<X> {
        state[0] = state[0] + weighed(w, if SQUARES { x * x } else { x.absolute() });
        state
    }

    #[inline(always)]
    fn finish_block<X: Packed>(self, state: State<X>, _n: X) -> X {
        if SQUARES { state[0].root() } else { state[0] }
    }

    #[inline(always)]
    fn combine<X: Packed<Number = f64>>(self, mut older: State<X>, newer: State<X>) -> State<X> {
        older[0] = older[0] + newer[0];
        older
    }

    #[inline(always)]
    fn finish_tree<X: Packed<Number = f64>>(self, state: State<X>, _n: X) -> X {
        if SQUARES { state[0].root() } else { state[0] }
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
    fn rows(self, count: usize) -> Range<usize> {
        if self.last { count - 1..count } else { 0..1 }
    }

    #[inline(always)]
    fn push<X: Packed>(self, _pass: usize, mut state: State<X>, Row { x, index, .. }: Row<X>) -> State<X> {
        state[0] = if self.last { x } else { X::pick(index.equals(zero()), x, state[0]) };
        state
    }

    #[inline(always)]
    fn finish_block<X: Packed>(self, state: State<X>, _n: X) -> X {
        state[0]
    }

    #[inline(always)]
    fn combine<X: Packed<Number = f64>>(self, older: State<X>, newer: State<X>) -> State<X> {
        if self.last { newer } else { older }
    }

    #[inline(always)]
    fn finish_tree<X: Packed<Number = f64>>(self, state: State<X>, _n: X) -> X {
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
    fn push<X: Packed>(self, _pass: usize, state: State<X>, _row: Row<X>) -> State<X> {
        state
    }

    #[inline(always)]
    fn finish_block<X: Packed>(self, _state: State<X>, n: X) -> X {
        n
    }

    #[inline(always)]
    fn combine<X: Packed<Number = f64>>(self, older: State<X>, _newer: State<X>) -> State<X> {
        older
    }

    #[inline(always)]
    fn finish_tree<X: Packed<Number = f64>>(self, _state: State<X>, n: X) -> X {
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
fn better<X: Packed>(older: [X; 2], newer: [X; 2]) -> [X; 2] {
    let older_is_number = older[0].equals(older[0]);
    let takes = X::either(newer[0].exceeds(older[0]), X::both(newer[0].is_not_a_number(), older_is_number));
    [X::pick(takes, newer[0], older[0]), X::pick(takes, newer[1], older[1])]
}

impl Monoid for Position {
    /// The best value so far, its sign turned for a minimum, and its place.
    const BLOCK: usize = 2;
    const TREE: usize = 2;

    #[inline(always)]
    fn start<X: Packed>(self, _start: Start<X>) -> State<X> {
        // The place of a first row that is −∞, which is no better than this.
        [X::of(f64::NEG_INFINITY), zero(), zero(), zero()]
    }

    #[inline(always)]
    fn push<X: Packed>(self, _pass: usize, state: State<X>, Row { x, index, .. }: Row<X>) -> State<X> {
        let [best, place] = better([state[0], state[1]], [x * X::of(self.sign), index]);
        [best, place, state[2], state[3]]
    }

    #[inline(always)]
    fn finish_block<X: Packed>(self, state: State<X>, _n: X) -> X {
        state[1]
    }

    #[inline(always)]
    fn leaf<X: Packed<Number = f64>>(self, state: State<X>, first_row: X) -> State<X> {
        [state[0], state[1] + first_row, zero(), zero()]
    }

    #[inline(always)]
    fn combine<X: Packed<Number = f64>>(self, older: State<X>, newer: State<X>) -> State<X> {
        let [best, place] = better([older[0], older[1]], [newer[0], newer[1]]);
        [best, place, zero(), zero()]
    }

    #[inline(always)]
    fn finish_tree<X: Packed<Number = f64>>(self, state: State<X>, _n: X) -> X {
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
fn shift_of<X: Packed>(largest: X) -> X {
    X::pick(largest.absolute().equals(X::of(f64::INFINITY)), zero(), largest)
}

impl Monoid for LogSum {
    /// The largest exponent, and then what exponents are shifted by; and Σw·e^(x − shift).
    const BLOCK: usize = 2;
    const TREE: usize = 2;
    const PASSES: usize = 2;
    const WEIGHING: Weighing = Weighing::Either;

    #[inline(always)]
    fn start<X: Packed>(self, _start: Start<X>) -> State<X> {
        [X::of(f64::NEG_INFINITY), zero(), zero(), zero()]
    }

    #[inline(always)]
    fn push<X: Packed>(self, pass: usize, state: State<X>, Row { x, w, .. }: Row<X>) -> State<X> {
        let next = match pass {
            0 => [state[0].larger(x), state[1], state[2], state[3]],
            _ => [state[0], state[1] + weighed(w, exp_of(x - shift_of(state[0]))), state[2], state[3]],
        };
        let Some(w) = w else { return next };
        let is_left_out = X::both(w.equals(zero()), x.equals(x));
        [X::pick(is_left_out, state[0], next[0]), X::pick(is_left_out, state[1], next[1]), next[2], next[3]]
    }

    #[inline(always)]
    fn changes(self, pass: usize, _weighted: bool) -> [bool; MAX_STATE] {
        [pass == 0, pass == 1, false, false]
    }

    #[inline(always)]
    fn finish_block<X: Packed>(self, state: State<X>, _n: X) -> X {
        shift_of(state[0]) + log_of(state[1])
    }

    #[inline(always)]
    fn combine<X: Packed<Number = f64>>(self, older: State<X>, newer: State<X>) -> State<X> {
        let largest = older[0].larger(newer[0]);
        let shift = shift_of(largest);
        let a = X::pick(older[1].equals(zero()), zero(), older[1] * exp_of(shift_of(older[0]) - shift));
        let b = X::pick(newer[1].equals(zero()), zero(), newer[1] * exp_of(shift_of(newer[0]) - shift));
        [largest, a + b, zero(), zero()]
    }

    #[inline(always)]
    fn finish_tree<X: Packed<Number = f64>>(self, state: State<X>, _n: X) -> X {
        shift_of(state[0]) + log_of(state[1])
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
    const VARYING: usize = 1;
    const WEIGHING: Weighing = Weighing::Scores;

    #[inline(always)]
    fn scale<A: Elementary>(self, scores: &[A]) -> A {
        scores.iter().fold(A::of_f64(f64::NEG_INFINITY), |largest, score| largest.maximum(*score))
    }

    #[inline(always)]
    fn weigh<X: Packed>(self, score: X, largest: X) -> X {
        exp_of(score - shift_of(largest))
    }

    #[inline(always)]
    fn start<X: Packed>(self, Start { scale, total, .. }: Start<X>) -> State<X> {
        [scale, total, zero(), zero()]
    }

    #[inline(always)]
    fn push<X: Packed>(self, _pass: usize, mut state: State<X>, Row { x, w, .. }: Row<X>) -> State<X> {
        state[2] = state[2] + weighed(w, x);
        state
    }

    #[inline(always)]
    fn changes(self, _pass: usize, _weighted: bool) -> [bool; MAX_STATE] {
        [false, false, true, false]
    }

    #[inline(always)]
    fn finish_block<X: Packed>(self, state: State<X>, _n: X) -> X {
        state[2] / state[1]
    }

    #[inline(always)]
    fn combine<X: Packed<Number = f64>>(self, older: State<X>, newer: State<X>) -> State<X> {
        let largest = older[0].larger(newer[0]);
        let shift = shift_of(largest);
        // Of −∞ alone there is no part: e^(−∞).
        let nothing = X::of(f64::NEG_INFINITY);
        let a = exp_of(X::pick(older[0].equals(nothing), nothing, shift_of(older[0]) - shift));
        let b = exp_of(X::pick(newer[0].equals(nothing), nothing, shift_of(newer[0]) - shift));
        [largest, older[1] * a + newer[1] * b, older[2] * a + newer[2] * b, zero()]
    }

    #[inline(always)]
    fn finish_tree<X: Packed<Number = f64>>(self, state: State<X>, _n: X) -> X {
        state[2] / state[1]
    }
}

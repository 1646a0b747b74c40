//! The reduction of one feature of one segment, as [`levelfold::numerics`] words it: blocks from the left, then neighbours in pairs, level
//! by level.

use levelfold::Reducer;
use levelfold::numerics::elementary::Elementary;
use levelfold::numerics::{
    Accumulator, AddOp, BLOCK_ROWS, MaxOp, MinOp, Monoid, MonoidVisitor, MulOp, Packed, ReduceOp, Row, Start, State, Weighing,
    between_rows, finish_block, finish_tree, quantile_place,
};
use levelfold::reducer::CustomReducer;

/// Reduces the values of a segment, which has at least one. `weights` has one number a value.
///
/// The result is a number of the accumulator where the segment is one block, else of f64; it is not yet rounded to the level's dtype.
pub(crate) fn reduce<A: Elementary + Packed<Number = A>>(reducer: &Reducer, values: &[A], weights: Option<&[A]>) -> f64 {
    match reducer {
        Reducer::Sum | Reducer::Mean => reduce_with::<AddOp, A>(reducer, values, weights),
        Reducer::Max => reduce_with::<MaxOp, A>(reducer, values, weights),
        Reducer::Min => reduce_with::<MinOp, A>(reducer, values, weights),
        Reducer::Prod => reduce_with::<MulOp, A>(reducer, values, weights),
        Reducer::Quantile(q) => quantile(q.value(), values),
        Reducer::Custom(custom) => reduce_custom(custom, values, weights),
        Reducer::Named(_) => unreachable!("it sees whole rows: `named`"),
        Reducer::Var { .. }
        | Reducer::Std { .. }
        | Reducer::LogSumExp
        | Reducer::SoftMax
        | Reducer::L1
        | Reducer::L2
        | Reducer::First
        | Reducer::Last
        | Reducer::Count
        | Reducer::ArgMax
        | Reducer::ArgMin => reducer.visit_monoid(Segment { values, weights }).expect("these are monoids"),
    }
}

/// The mean of some numbers, as that of a segment of them.
pub(crate) fn mean<A: Accumulator>(values: &[A]) -> f64 {
    reduce_with::<AddOp, A>(&Reducer::Mean, values, None)
}

/// As the expressions say: rows from the left in blocks, in the accumulator's type, and blocks in pairs, in f64.
fn reduce_custom<A: Elementary>(custom: &CustomReducer, values: &[A], weights: Option<&[A]>) -> f64 {
    let lifted = |row: usize| custom.lifted(values[row], weights.map_or(A::of_f64(1.0), |weights| weights[row]));
    let block = |first: usize| {
        let mut state = lifted(first);
        for row in first + 1..values.len().min(first + BLOCK_ROWS) {
            state = custom.combined(&state, &lifted(row));
        }
        state
    };
    if values.len() <= BLOCK_ROWS {
        return custom.finished(&block(0)).as_f64();
    }
    let mut level: Vec<Vec<f64>> = (0..values.len()).step_by(BLOCK_ROWS).map(|first| widened(&block(first))).collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [older, newer] => custom.combined(older, newer),
                [last] => last.clone(),
                _ => unreachable!("chunks of two"),
            })
            .collect();
    }
    custom.finished(&level[0])
}

/// Sorts all rows.
fn quantile<A: Accumulator>(q: f64, values: &[A]) -> f64 {
    let mut sorted = widened(values);
    if sorted.iter().any(|x| x.is_nan()) {
        return f64::NAN;
    }
    sorted.sort_by(f64::total_cmp);
    let (below, fraction) = quantile_place(u64::try_from(sorted.len()).unwrap_or(u64::MAX), q);
    let below = usize::try_from(below).unwrap_or(usize::MAX);
    between_rows(sorted[below], sorted[(below + 1).min(sorted.len() - 1)], fraction)
}

/// The rows of a segment, on their way through a monoid.
struct Segment<'a, A> {
    values: &'a [A],
    weights: Option<&'a [A]>,
}

impl<A: Elementary + Packed<Number = A>> MonoidVisitor for Segment<'_, A> {
    type Out = f64;

    fn visit<M: Monoid>(self, monoid: M) -> f64 {
        let n = self.values.len();
        let block = |first: usize| {
            let rows = first..n.min(first + BLOCK_ROWS);
            // Weights of 1 are weights like others here: what a backend does without them is held against that.
            let weight = |at: usize| self.weights.map_or(A::of_f64(1.0), |weights| weights[at]);
            let scale = self.weights.map_or(A::of_f64(0.0), |weights| monoid.scale(&weights[rows.clone()]));
            let weights: Vec<A> = match M::WEIGHING {
                Weighing::Never | Weighing::Either => rows.clone().map(weight).collect(),
                Weighing::Scores => rows.clone().map(|at| monoid.weigh(weight(at), scale)).collect(),
            };
            let total = weights.iter().fold(A::of_f64(0.0), |total, weight| Accumulator::add(total, *weight));
            let mut state: State<A> = monoid.start(Start { first: self.values[first], n: None, scale, total });
            for pass in 0..M::PASSES {
                for (index, at) in rows.clone().enumerate() {
                    let w = Some(weights[index]);
                    state = monoid.push(pass, state, Row { x: self.values[at], w, index: A::of_f64(index as f64) });
                }
                state = monoid.close(pass, state);
            }
            state
        };
        if n <= BLOCK_ROWS {
            return monoid.finish_block(block(0), A::of_f64(n as f64)).as_f64();
        }
        let blocks: Vec<State<f64>> = (0..n).step_by(BLOCK_ROWS).map(|first| monoid.widen(block(first), first as f64)).collect();
        monoid.finish_tree(pairs_of(monoid, &blocks), n as f64)
    }
}

/// As `pairs`, of states.
fn pairs_of<M: Monoid>(monoid: M, level: &[State<f64>]) -> State<f64> {
    let above: Vec<State<f64>> = level
        .chunks(2)
        .map(|pair| match *pair {
            [older, newer] => monoid.combine(older, newer),
            [last] => last,
            _ => unreachable!("chunks of two"),
        })
        .collect();
    match above[..] {
        [top] => top,
        _ => pairs_of(monoid, &above),
    }
}

fn reduce_with<R: ReduceOp, A: Accumulator>(reducer: &Reducer, values: &[A], weights: Option<&[A]>) -> f64 {
    let n = u64::try_from(values.len()).unwrap_or(u64::MAX);
    let weighted: Vec<A> = match weights {
        None => values.to_vec(),
        Some(weights) => values.iter().zip(weights).map(|(&x, &w)| w.mul(x)).collect(),
    };
    let blocks: Vec<A> = weighted.chunks(BLOCK_ROWS).map(block::<R, A>).collect();
    // Σw is folded exactly as a sum of the values is.
    let weights: Option<Vec<A>> = weights.map(|weights| weights.chunks(BLOCK_ROWS).map(block::<AddOp, A>).collect());
    match blocks[..] {
        [only] => finish_block(reducer, only, n, weights.map(|weights| weights[0])).as_f64(),
        _ => finish_tree(reducer, pairs::<R>(&widened(&blocks)), n, weights.map(|weights| pairs::<AddOp>(&widened(&weights)))),
    }
}

/// Left to right, from the identity.
fn block<R: ReduceOp, A: Accumulator>(rows: &[A]) -> A {
    let mut acc = R::identity::<A>();
    for &x in rows {
        acc = R::push(acc, x);
    }
    acc
}

/// One level of pairs after the other; an odd last one moves up.
fn pairs<R: ReduceOp>(level: &[f64]) -> f64 {
    let above: Vec<f64> = level
        .chunks(2)
        .map(|pair| match *pair {
            [older, newer] => R::combine(older, newer),
            [last] => last,
            _ => unreachable!("chunks of two"),
        })
        .collect();
    match above[..] {
        [top] => top,
        _ => pairs::<R>(&above),
    }
}

fn widened<A: Accumulator>(blocks: &[A]) -> Vec<f64> {
    blocks.iter().map(|block| block.as_f64()).collect()
}

#[cfg(test)]
mod tests;

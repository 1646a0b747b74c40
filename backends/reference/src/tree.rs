//! The reduction of one feature of one segment, as [`levelfold::numerics`] words it: blocks from the left, then neighbours in pairs, level
//! by level.

use levelfold::Reducer;
use levelfold::numerics::{Accumulator, AddOp, BLOCK_ROWS, MaxOp, MinOp, MulOp, ReduceOp, finish_block, finish_tree};

/// Reduces the values of a segment, which has at least one. `weights` has one number a value.
///
/// The result is a number of the accumulator where the segment is one block, else of f64; it is not yet rounded to the level's dtype.
pub(crate) fn reduce<A: Accumulator>(reducer: Reducer, values: &[A], weights: Option<&[A]>) -> f64 {
    match reducer {
        Reducer::Sum | Reducer::Mean => reduce_with::<AddOp, A>(reducer, values, weights),
        Reducer::Max => reduce_with::<MaxOp, A>(reducer, values, weights),
        Reducer::Min => reduce_with::<MinOp, A>(reducer, values, weights),
        Reducer::Prod => reduce_with::<MulOp, A>(reducer, values, weights),
    }
}

fn reduce_with<R: ReduceOp, A: Accumulator>(reducer: Reducer, values: &[A], weights: Option<&[A]>) -> f64 {
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

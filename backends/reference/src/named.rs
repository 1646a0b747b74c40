//! Reducers of a user's own in Rust: over whole rows, as [`levelfold::numerics`] words it, with no step but lift and combine.

use crate::fold::empty;
use levelfold::custom::{BoundReducer, Real, Registry};
use levelfold::dtype::DType;
use levelfold::numerics::BLOCK_ROWS;
use levelfold::plan::Reduction;
use levelfold::{Reducer, Result};
use ndarray::{Array1, ArrayView2};

/// Whether the registry has what a reduction names, and it takes weights where there are some.
pub(crate) fn check(reduction: &Reduction, registry: &Registry) -> Result<()> {
    let Reducer::Named(named) = &reduction.reducer else { return Ok(()) };
    let bound = registry.find_reducer(named)?;
    if reduction.weights.is_some() {
        bound.with_weights()?;
    }
    Ok(())
}

/// One segment: the row that comes of it, before it is rounded to the reduction's dtype. `None` where the reducer is another one.
pub(crate) fn reduce(
    reduction: &Reduction,
    registry: &Registry,
    dtype: DType,
    rows: ArrayView2<'_, f64>,
    weights: Option<&Array1<f64>>,
    segment: usize,
) -> Result<Option<Vec<f64>>> {
    let Reducer::Named(named) = &reduction.reducer else { return Ok(None) };
    if rows.is_empty() {
        let features = rows.ncols();
        return if features == 0 { Ok(Some(Vec::new())) } else { Ok(Some(vec![empty(reduction, segment)?; features])) };
    }
    let reducer = registry.find_reducer(named)?;
    Ok(Some(match dtype.accumulator() {
        DType::F64 => fold::<f64>(&reducer, rows, weights),
        _ => fold::<f32>(&reducer, rows, weights),
    }))
}

fn fold<A: Real>(reducer: &BoundReducer, rows: ArrayView2<'_, f64>, weights: Option<&Array1<f64>>) -> Vec<f64> {
    let (count, features) = rows.dim();
    let lifted = |row: usize| {
        let values: Vec<A> = rows.row(row).iter().map(|&x| A::of_f64(x)).collect();
        let mut state = vec![A::default(); reducer.planes() * features];
        reducer.lift(&values, A::of_f64(weights.map_or(1.0, |weights| weights[row])), &mut state);
        state
    };
    let block = |first: usize| {
        let mut state = lifted(first);
        for row in first + 1..count.min(first + BLOCK_ROWS) {
            reducer.combine(&mut state, &lifted(row));
        }
        state
    };
    if count <= BLOCK_ROWS {
        let mut out = vec![A::default(); features];
        reducer.finish(&block(0), A::of_f64(count as f64), &mut out);
        return out.into_iter().map(|x| x.as_f64()).collect();
    }
    let widened = |block: Vec<A>| -> Vec<f64> { block.into_iter().map(|x| x.as_f64()).collect() };
    let mut level: Vec<Vec<f64>> = (0..count).step_by(BLOCK_ROWS).map(|first| widened(block(first))).collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match pair {
                [older, newer] => {
                    let mut both = older.clone();
                    reducer.combine(&mut both, newer);
                    both
                }
                [last] => last.clone(),
                _ => unreachable!("chunks of two"),
            })
            .collect();
    }
    let mut out = vec![0.0; features];
    reducer.finish(&level[0], count as f64, &mut out);
    out
}

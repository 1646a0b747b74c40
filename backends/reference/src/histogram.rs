//! Folds by counts: how often each row of a table occurs in a segment, and then those rows that do, in order, weighted by it, in f64.

use crate::copy::look_up;
use crate::fold::write;
use crate::memory::{Memory, Segment, size};
use crate::{flops, scalar, tree};
use levelfold::backend::TableSet;
use levelfold::ids::ViewId;
use levelfold::plan::{Fold, Plan};
use levelfold::{Error, ErrorCode, Reducer, Result};
use ndarray::Array2;

/// Runs a fold whose ids are counted.
pub(crate) fn run(plan: &Plan, fold: &Fold, ids: ViewId, table: ViewId, tables: &TableSet, memory: &mut Memory<'_, '_>) -> Result<()> {
    let [stage] = &fold.stages[..] else {
        return Err(Error::new(ErrorCode::PlanInvalid, "counts are folded by one stage"));
    };
    let (rows, features) = (size(plan.buffer_of(table).rows)?, memory.features(table)?);
    let whole = Segment::whole(rows);
    // The table is read once, in whole.
    let mut values: Array2<f64> = Array2::zeros((rows, features));
    for row in 0..rows {
        for feature in 0..features {
            let bits = memory.load(table, &whole, row, feature)?;
            values[[row, feature]] = scalar::number(memory.dtype(table), bits)?;
        }
    }
    let segments = memory.walk(tables.get(stage.table))?;
    let mut made: Vec<Array2<f64>> = stage.reductions.iter().map(|_| Array2::zeros((segments.len(), features))).collect();
    for (index, segment) in segments.iter().enumerate() {
        let mut counts = vec![0u64; rows];
        for at in 0..segment.len() {
            counts[look_up(memory, ids, segment, at)?] += 1;
        }
        memory.count_flops(flops::count(segment.len()));
        // What does not occur is left out: 0 times an infinity is no 0.
        let present: Vec<usize> = (0..rows).filter(|row| counts[*row] > 0).collect();
        let weights: Vec<f64> = present.iter().map(|row| counts[*row] as f64).collect();
        for (reduction, made) in stage.reductions.iter().zip(&mut made) {
            let weights = match reduction.reducer {
                Reducer::Max | Reducer::Min => None,
                _ => Some(&weights[..]),
            };
            for feature in 0..features {
                let column: Vec<f64> = present.iter().map(|row| values[[*row, feature]]).collect();
                let folded = match (&column[..], reduction.on_empty.value()) {
                    ([], None) => return Err(Error::new(ErrorCode::EmptySegment, format!("segment {index} is empty"))),
                    ([], Some(value)) => value,
                    (column, _) => tree::reduce::<f64>(&reduction.reducer, column, weights),
                };
                let bits = scalar::nearest(reduction.dtype, folded)?;
                made[[index, feature]] = scalar::number(reduction.dtype, bits)?;
                // Rows that do not occur count too: what is there depends on the ids.
                let (a_row, a_result) = flops::of_reducer(&reduction.reducer, weights.is_some());
                memory.count_flops(flops::count(rows) * a_row + a_result);
            }
        }
    }
    for (reduction, made) in stage.reductions.iter().zip(&made) {
        write(memory, reduction, made.view())?;
    }
    Ok(())
}

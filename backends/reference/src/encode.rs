//! Encoders, by the formulas of [`levelfold::numerics::encoders`], one row and one number after the other.
//!
//! Every operand is read once, in whole, into an array; every operation makes a new array, rounded to the type of its rows. Sums over the
//! columns of a row, and the key blocks of attention, are paired level by level, as segments of rows are.

use crate::flops::{Flops, count};
use crate::memory::{Memory, Segment, size};
use crate::named;
use crate::{scalar, tree};
use levelfold::backend::TableSet;
use levelfold::custom::{Registry, RowEncoder};
use levelfold::dtype::DType;
use levelfold::encoder::{Encoding, Kernel, RowOp};
use levelfold::ids::{StepId, TableId, ViewId};
use levelfold::numerics::elementary::{Elementary, exp};
use levelfold::numerics::encoders::{
    activate, combine_softmax, difference, inverse_deviation, rotate, rotation, score_scale, shift, sinusoid,
};
use levelfold::numerics::{Accumulator, BLOCK_ROWS, count_to_f64};
use levelfold::plan::{Encode, Plan, StepKind};
use levelfold::{Error, ErrorCode, Result};
use ndarray::{Array2, ArrayView1, s};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Rows in f64, each of which is a number of `dtype`.
struct Rows {
    values: Array2<f64>,
    dtype: DType,
}

/// The segments of each table, as ranges of rows.
type Tables = BTreeMap<TableId, Vec<Range<usize>>>;

/// Runs one encoder step.
pub(crate) fn run(plan: &Plan, encode: &Encode, tables: &TableSet, memory: &mut Memory<'_, '_>, registry: &Registry) -> Result<()> {
    let mut walked = Tables::new();
    for table in encode.encoding.tables() {
        let segments = memory.walk(tables.get(table))?;
        // By the rows that are seen, which in a tile are those of the window.
        let start = memory.start().0;
        let seen = |segment: Segment| segment.rows.start - start..segment.rows.end - start;
        walked.insert(table, segments.into_iter().map(seen).collect());
    }
    let mut by_row = encode.encoding.takes_rows().into_iter();
    let mut operand = |view: &ViewId| Ok::<_, Error>(Rc::new(load(plan, memory, *view, by_row.next() == Some(true))?));
    let Encoding { kernel, ops } = encode.encoding.try_map(&mut operand, Ok)?;
    let dtype = kernel.rows().dtype;
    let flops = Flops::default();
    let made = match dtype.accumulator() {
        DType::F64 => run_kernel::<f64>(&kernel, &walked, &flops)?,
        _ => run_kernel::<f32>(&kernel, &walked, &flops)?,
    };
    let mut rows = rounded(made, dtype)?;
    for op in &ops {
        if let RowOp::Custom { name, version } = op {
            let made = apply_custom(&*registry.find_encoder(name, *version)?, &rows);
            flops.add(count(made.len()));
            rows = rounded(made, rows.dtype)?;
            continue;
        }
        let made = match rows.dtype.accumulator() {
            DType::F64 => apply::<f64>(op, &rows, &walked, &flops)?,
            _ => apply::<f32>(op, &rows, &walked, &flops)?,
        };
        let dtype = if let RowOp::Cast(dtype) = op { *dtype } else { rows.dtype };
        rows = rounded(made, dtype)?;
    }
    memory.count_flops(flops.total());
    if memory.dtype(encode.write) != rows.dtype {
        return Err(Error::new(ErrorCode::PlanInvalid, format!("{} is written as {}", rows.dtype, memory.dtype(encode.write))));
    }
    let seen = memory.rows(encode.write)?;
    for ((row, feature), &value) in rows.values.indexed_iter() {
        memory.store(encode.write, &seen, row, feature, scalar::nearest(rows.dtype, value)?)?;
    }
    Ok(())
}

/// A user's own function of each row.
fn apply_custom(encoder: &dyn RowEncoder, rows: &Rows) -> Array2<f64> {
    let mut made = rows.values.clone();
    for mut row in made.rows_mut() {
        match rows.dtype.accumulator() {
            DType::F64 => {
                let mut values = row.to_vec();
                encoder.encode_f64(&mut values);
                row.iter_mut().zip(values).for_each(|(to, value)| *to = value);
            }
            _ => {
                // Exact: every value is a number of f32.
                let mut values: Vec<f32> = row.iter().map(|value| f32::of_f64(*value)).collect();
                encoder.encode_f32(&mut values);
                row.iter_mut().zip(values).for_each(|(to, value)| *to = f64::from(value));
            }
        }
    }
    made
}

/// Whether everything that a plan names is known.
pub(crate) fn check_custom(plan: &Plan, registry: &Registry) -> Result<()> {
    for (index, step) in plan.steps.iter().enumerate() {
        let at = |error: Error| error.at_level(StepId::new(index).to_string());
        match &step.kind {
            StepKind::Copy(_) => {}
            StepKind::Fold(fold) => {
                for reduction in fold.stages.iter().flat_map(|stage| &stage.reductions) {
                    named::check(reduction, registry).map_err(at)?;
                }
            }
            StepKind::Encode(encode) => {
                for op in &encode.encoding.ops {
                    if let RowOp::Custom { name, version } = op {
                        registry.find_encoder(name, *version).map_err(at)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The bytes of the arrays that the largest encoder step keeps while it runs.
pub(crate) fn scratch_bytes(plan: &Plan) -> u64 {
    let steps = plan.steps.iter().filter_map(|step| match &step.kind {
        StepKind::Encode(encode) => Some(encode),
        StepKind::Fold(_) | StepKind::Copy(_) => None,
    });
    let bytes = |encode: &Encode| {
        let elements = |view: ViewId| plan.buffer_of(view).rows.saturating_mul(plan.view(view).features);
        let read = encode.encoding.operands().into_iter().map(|&view| elements(view)).fold(0, u64::saturating_add);
        read.saturating_add(elements(encode.write).saturating_mul(2)).saturating_mul(8)
    };
    steps.map(bytes).max().unwrap_or(0)
}

/// The rows of an operand that is taken row by row, as far as they are seen, or all of a parameter.
fn load(plan: &Plan, memory: &mut Memory<'_, '_>, view: ViewId, by_row: bool) -> Result<Rows> {
    let (features, dtype) = (memory.features(view)?, memory.dtype(view));
    let seen = if by_row { memory.rows(view)? } else { Segment::whole(size(plan.buffer_of(view).rows)?) };
    let counted = memory.read();
    let mut values = Array2::zeros((seen.len(), features));
    for row in 0..seen.len() {
        for feature in 0..features {
            values[[row, feature]] = scalar::number(dtype, memory.load(view, &seen, row, feature)?)?;
        }
    }
    if !by_row {
        memory.count_once(counted);
    }
    Ok(Rows { values, dtype })
}

/// To the nearest numbers of a type.
fn rounded(mut values: Array2<f64>, dtype: DType) -> Result<Rows> {
    for value in &mut values {
        *value = scalar::number(dtype, scalar::nearest(dtype, *value)?)?;
    }
    Ok(Rows { values, dtype })
}

fn segments(tables: &Tables, table: TableId) -> Result<&[Range<usize>]> {
    tables.get(&table).map(Vec::as_slice).ok_or_else(|| Error::new(ErrorCode::Internal, format!("{table} was not read")))
}

fn run_kernel<A: Elementary>(kernel: &Kernel<Rc<Rows>>, tables: &Tables, flops: &Flops) -> Result<Array2<f64>> {
    Ok(match kernel {
        Kernel::Map { rows } => rows.values.clone(),
        Kernel::MatMul { rows, weight, bias } => {
            let shape = (rows.values.nrows(), weight.values.nrows());
            Array2::from_shape_fn(shape, |(row, feature)| {
                let first = bias.as_ref().map_or(-0.0, |bias| bias.values[[0, feature]]);
                dot::<A>(first, rows.values.row(row), weight.values.row(feature), flops).as_f64()
            })
        }
        Kernel::Attend { qkv, table, heads, causal, .. } => {
            attend::<A>(&qkv.values, segments(tables, *table)?, size(u64::from(*heads))?, *causal, flops)
        }
        Kernel::Convolve { rows, weight, bias, table, causal } => {
            let taps = weight.values.ncols();
            let before = if *causal { taps - 1 } else { (taps - 1) / 2 };
            let mut made = Array2::zeros(rows.values.dim());
            for segment in segments(tables, *table)? {
                for row in segment.clone() {
                    for feature in 0..rows.values.ncols() {
                        let mut acc = A::of_f64(bias.as_ref().map_or(-0.0, |bias| bias.values[[0, feature]]));
                        for tap in 0..taps {
                            // A row before the first one of the segment, or after the last, adds nothing; its product is counted all the same.
                            flops.add(2);
                            let Some(at) = (row + tap).checked_sub(before).filter(|at| segment.contains(at)) else { continue };
                            acc = A::of_f64(rows.values[[at, feature]]).fused(A::of_f64(weight.values[[feature, tap]]), acc);
                        }
                        made[[row, feature]] = acc.as_f64();
                    }
                }
            }
            made
        }
    })
}

/// One chain of fused multiply-adds, from the left.
fn dot<A: Elementary>(first: f64, x: ArrayView1<'_, f64>, w: ArrayView1<'_, f64>, flops: &Flops) -> A {
    flops.add(2 * count(x.len()));
    x.iter().zip(w).fold(A::of_f64(first), |acc, (&x, &w)| A::of_f64(x).fused(A::of_f64(w), acc))
}

/// Of one or several neighbouring key blocks: the largest score, the sum of exponentials, and the values weighted by them.
struct State {
    maximum: f64,
    sum: f64,
    values: Vec<f64>,
}

fn attend<A: Elementary>(qkv: &Array2<f64>, segments: &[Range<usize>], heads: usize, causal: bool, flops: &Flops) -> Array2<f64> {
    let features = qkv.ncols() / 3;
    let width = features / heads;
    let scale = score_scale::<A>(u64::try_from(width).unwrap_or(u64::MAX));
    let mut made = Array2::zeros((qkv.nrows(), features));
    for segment in segments {
        for head in 0..heads {
            let columns = |part: usize| part * features + head * width..part * features + (head + 1) * width;
            for row in segment.clone() {
                let keys: Vec<usize> = (segment.start..if causal { row + 1 } else { segment.end }).collect();
                let query = qkv.slice(s![row, columns(0)]);
                let blocks: Vec<State> = keys
                    .chunks(BLOCK_ROWS)
                    .map(|keys| {
                        let scores: Vec<A> =
                            keys.iter().map(|&key| dot::<A>(-0.0, query, qkv.slice(s![key, columns(1)]), flops).mul(scale)).collect();
                        let maximum =
                            scores.iter().fold(A::of_f64(f64::NEG_INFINITY), |maximum, score| Accumulator::maximum(maximum, *score));
                        let weights: Vec<A> = scores.iter().map(|score| exp(difference(*score, shift(maximum)))).collect();
                        // Scaled, compared, its exponential with the shift, and added up.
                        flops.add(4 * count(keys.len()));
                        let sum = weights.iter().fold(A::of_f64(-0.0), |sum, weight| sum.add(*weight));
                        let value = |column: usize| {
                            let pairs = keys.iter().zip(&weights);
                            flops.add(2 * count(keys.len()));
                            pairs.fold(A::of_f64(-0.0), |acc, (&key, &weight)| weight.fused(A::of_f64(qkv[[key, column]]), acc)).as_f64()
                        };
                        State { maximum: maximum.as_f64(), sum: sum.as_f64(), values: columns(2).map(value).collect() }
                    })
                    .collect();
                let one_block = blocks.len() == 1;
                let state = paired(blocks);
                for (value, column) in state.values.iter().zip(head * width..) {
                    flops.add(1);
                    // One block divides in the accumulator's type, several in f64.
                    made[[row, column]] = if one_block { A::of_f64(*value).div(A::of_f64(state.sum)).as_f64() } else { value / state.sum };
                }
            }
        }
    }
    made
}

/// One level of pairs after the other; an odd last one moves up.
fn paired(mut level: Vec<State>) -> State {
    while level.len() > 1 {
        let mut above = Vec::with_capacity(level.len().div_ceil(2));
        let mut blocks = level.into_iter();
        while let Some(older) = blocks.next() {
            let Some(newer) = blocks.next() else {
                above.push(older);
                break;
            };
            let (maximum, old, new) = combine_softmax(older.maximum, newer.maximum);
            let both = |a: f64, b: f64| a * old + b * new;
            let values = older.values.iter().zip(&newer.values).map(|(a, b)| both(*a, *b)).collect();
            above.push(State { maximum, sum: both(older.sum, newer.sum), values });
        }
        level = above;
    }
    level.pop().unwrap_or(State { maximum: f64::NEG_INFINITY, sum: 0.0, values: Vec::new() })
}

/// The row of a level at its position in its segment, for every row.
fn positions(segments: &[Range<usize>], rows: usize) -> Vec<u64> {
    let mut positions = vec![0; rows];
    for segment in segments {
        for (position, row) in segment.clone().enumerate() {
            positions[row] = u64::try_from(position).unwrap_or(u64::MAX);
        }
    }
    positions
}

fn apply<A: Elementary>(op: &RowOp<Rc<Rows>>, rows: &Rows, tables: &Tables, flops: &Flops) -> Result<Array2<f64>> {
    let x = &rows.values;
    let elements = count(x.len());
    let features = u64::try_from(x.ncols()).unwrap_or(u64::MAX);
    Ok(match op {
        RowOp::Activate(activation) => x.mapv(|x| {
            flops.add(1);
            activate::<A>(*activation, A::of_f64(x)).as_f64()
        }),
        RowOp::Scale(by) => x.mapv(|x| {
            flops.add(1);
            A::of_f64(x).mul(A::of_f64(by.0)).as_f64()
        }),
        RowOp::Add(other) => {
            let other = &other.values;
            flops.add(elements);
            Array2::from_shape_fn(x.dim(), |at| A::of_f64(x[at]).add(A::of_f64(other[at])).as_f64())
        }
        RowOp::Cast(_) => {
            flops.add(elements);
            x.clone()
        }
        RowOp::Custom { .. } => x.clone(),
        RowOp::LayerNorm { weight, bias, eps } => {
            let mut made = x.clone();
            for mut row in made.rows_mut() {
                let values: Vec<A> = row.iter().map(|x| A::of_f64(*x)).collect();
                let mean = A::of_f64(mean_of(&values));
                let away: Vec<A> = values.iter().map(|x| difference(*x, mean)).collect();
                let squares: Vec<A> = away.iter().map(|d| d.mul(*d)).collect();
                let inverse = inverse_deviation::<A>(mean_of(&squares), eps.0);
                // The mean and the mean of squares add, the row is shifted and squared, and scaled twice.
                flops.add(6 * count(row.len()));
                for (column, (to, d)) in row.iter_mut().zip(away).enumerate() {
                    flops.add(u64::from(bias.is_some()));
                    let scaled = d.mul(inverse).mul(A::of_f64(weight.values[[0, column]]));
                    *to = bias.as_ref().map_or(scaled, |bias| scaled.add(A::of_f64(bias.values[[0, column]]))).as_f64();
                }
            }
            made
        }
        RowOp::RmsNorm { weight, eps } => {
            let mut made = x.clone();
            for mut row in made.rows_mut() {
                let squares: Vec<A> = row.iter().map(|x| A::of_f64(*x).mul(A::of_f64(*x))).collect();
                let inverse = inverse_deviation::<A>(mean_of(&squares), eps.0);
                // Squared, added, and scaled twice.
                flops.add(4 * count(row.len()));
                for (column, to) in row.iter_mut().enumerate() {
                    *to = A::of_f64(*to).mul(inverse).mul(A::of_f64(weight.values[[0, column]])).as_f64();
                }
            }
            made
        }
        RowOp::Sinusoid { table, base } => {
            let positions = positions(segments(tables, *table)?, x.nrows());
            Array2::from_shape_fn(x.dim(), |(row, column)| {
                let wave = sinusoid(positions[row], u64::try_from(column).unwrap_or(u64::MAX), features, base.0);
                flops.add(2);
                A::of_f64(x[[row, column]]).add(A::of_f64(wave)).as_f64()
            })
        }
        RowOp::Learned { positions: learned, table } => {
            let positions = positions(segments(tables, *table)?, x.nrows());
            let mut made = x.clone();
            for ((row, column), to) in made.indexed_iter_mut() {
                // Looked up, and added.
                flops.add(2);
                *to = A::of_f64(*to).add(A::of_f64(learned.values[[size(positions[row])?, column]])).as_f64();
            }
            made
        }
        RowOp::Rotate { table, base, columns, width } => {
            let positions = positions(segments(tables, *table)?, x.nrows());
            let mut made = x.clone();
            for (row, &position) in positions.iter().enumerate() {
                for first in (0..*columns).step_by(2) {
                    let turn = rotation::<A>(position, (first % width) / 2, *width, base.0);
                    let at = size(first)?;
                    let pair = (A::of_f64(x[[row, at]]), A::of_f64(x[[row, at + 1]]));
                    // Four products and two sums.
                    flops.add(6);
                    let (left, right) = rotate(pair, turn);
                    (made[[row, at]], made[[row, at + 1]]) = (left.as_f64(), right.as_f64());
                }
            }
            made
        }
    })
}

/// The mean of the columns of a row: as that of the rows of a segment. Of no columns it is 0.
fn mean_of<A: Elementary>(values: &[A]) -> f64 {
    if values.is_empty() {
        return count_to_f64(0);
    }
    tree::mean(values)
}

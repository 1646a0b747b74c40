//! Folds: stage after stage, segment after segment, feature after feature.

use crate::copy::look_up;
use crate::memory::{Memory, Segment, size};
use crate::{flops, histogram, named, scalar, tree};
use levelfold::backend::TableSet;
use levelfold::custom::Registry;
use levelfold::dtype::DType;
use levelfold::encoder::dtype_after;
use levelfold::numerics::Packed;
use levelfold::numerics::elementary::Elementary;
use levelfold::numerics::encoders::operated;
use levelfold::plan::{Fold, Load, Plan, Reduction, StepKind};
use levelfold::{Error, ErrorCode, Reducer, Result};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

/// What a stage made of one of its reductions: `[segments, features]`, each element a number of `dtype`.
struct Made {
    values: Array2<f64>,
    dtype: DType,
}

/// Runs one fold step.
pub(crate) fn run(plan: &Plan, fold: &Fold, tables: &TableSet, memory: &mut Memory<'_, '_>, registry: &Registry) -> Result<()> {
    if let Load::Histogram { ids, table } = fold.load {
        return histogram::run(plan, fold, ids, table, tables, memory);
    }
    let mut below: Option<Vec<Made>> = None;
    for stage in &fold.stages {
        let segments = memory.walk(tables.get(stage.table))?;
        let (features, loaded, rows) = match &below {
            None => (loaded_features(memory, fold.load)?, loaded_dtype(memory, fold.load), None),
            Some(made) => {
                let fed = made.get(size(stage.feed.into())?).ok_or_else(|| no_feed(stage.feed))?;
                (fed.values.ncols(), fed.dtype, Some(fed.values.view()))
            }
        };
        let dtype = dtype_after(&stage.ops, loaded);
        let mut made: Vec<Made> = Vec::new();
        for reduction in &stage.reductions {
            made.push(Made { values: Array2::zeros((segments.len(), features)), dtype: reduction.made() });
        }
        for (index, segment) in segments.iter().enumerate() {
            // One read, however many reductions share it.
            let mut values = match &rows {
                None => load_rows(plan, memory, fold.load, segment, features)?,
                Some(rows) => rows.slice(s![segment.rows.clone(), ..]).to_owned(),
            };
            values.iter_mut().for_each(|value| *value = operated(&stage.ops, loaded, *value));
            memory.count_flops(flops::count(values.len() * stage.ops.len()));
            for (reduction, made) in stage.reductions.iter().zip(&mut made) {
                let weights = load_weights(memory, reduction, segment)?;
                let (a_row, a_result) = flops::of_reducer(&reduction.reducer, weights.is_some());
                if reduction.reducer == Reducer::Mean && weights.is_some() {
                    // Their sum is the divisor, of all features.
                    memory.count_flops(flops::count(segment.len()));
                }
                // What is written in Rust sees whole rows.
                let whole = named::reduce(reduction, registry, dtype, values.view(), weights.as_ref(), index)?;
                for feature in 0..features {
                    let column = values.column(feature);
                    let folded = match dtype.accumulator() {
                        _ if whole.is_some() => whole.as_ref().map_or(f64::NAN, |row| row[feature]),
                        DType::F64 => reduce::<f64>(reduction, column, weights.as_ref(), index)?,
                        DType::F32 => reduce::<f32>(reduction, column, weights.as_ref(), index)?,
                        other @ (DType::F16 | DType::BF16 | DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64) => {
                            return Err(Error::new(ErrorCode::DType, format!("nothing is accumulated in {other}")));
                        }
                    };
                    // Rounded here, so that the stage above reads what would have been stored.
                    let bits = scalar::nearest(reduction.dtype, folded)?;
                    let value = operated(&reduction.ops, reduction.dtype, scalar::number(reduction.dtype, bits)?);
                    let finishing = a_result + flops::count(reduction.ops.len());
                    memory.count_flops(flops::count(column.len()) * a_row + finishing);
                    made.values[[index, feature]] = value;
                }
            }
        }
        for (reduction, made) in stage.reductions.iter().zip(&made) {
            write(memory, reduction, made.values.view())?;
        }
        below = Some(made);
    }
    Ok(())
}

/// The bytes of the arrays that the largest fold of a plan keeps while it runs.
pub(crate) fn scratch_bytes(plan: &Plan) -> u64 {
    let fold_bytes = |fold: &Fold| {
        let features = plan.view(fold.load.values()).features;
        let rows = fold.stages.iter().map(|stage| {
            let table = plan.table(stage.table);
            let made = table.segments.saturating_mul(u64::try_from(stage.reductions.len()).unwrap_or(u64::MAX));
            made.saturating_add(table.longest)
        });
        let table = match fold.load {
            Load::View { .. } | Load::Gather { .. } => 0,
            Load::Histogram { table, .. } => plan.buffer_of(table).rows,
        };
        rows.fold(table, u64::saturating_add).saturating_mul(features).saturating_mul(8)
    };
    let steps = plan.steps.iter().map(|step| match &step.kind {
        StepKind::Fold(fold) => fold_bytes(fold),
        StepKind::Copy(_) | StepKind::Encode(_) => 0,
    });
    steps.max().unwrap_or(0)
}

fn loaded_features(memory: &Memory<'_, '_>, load: Load) -> Result<usize> {
    memory.features(load.values())
}

fn loaded_dtype(memory: &Memory<'_, '_>, load: Load) -> DType {
    memory.dtype(load.values())
}

/// The rows of a segment: `[len, features]`.
fn load_rows(plan: &Plan, memory: &mut Memory<'_, '_>, load: Load, segment: &Segment, features: usize) -> Result<Array2<f64>> {
    let mut rows = Array2::zeros((segment.len(), features));
    for index in 0..segment.len() {
        let (view, whole, row) = match load {
            Load::View { values } => (values, None, index),
            Load::Gather { ids, table } | Load::Histogram { ids, table } => {
                let row = look_up(memory, ids, segment, index)?;
                (table, Some(Segment::whole(size(plan.buffer_of(table).rows)?)), row)
            }
        };
        for feature in 0..features {
            let bits = memory.load(view, whole.as_ref().unwrap_or(segment), row, feature)?;
            rows[[index, feature]] = scalar::number(memory.dtype(view), bits)?;
        }
    }
    Ok(rows)
}

/// The weights of a segment's rows, where the reduction has weights.
fn load_weights(memory: &mut Memory<'_, '_>, reduction: &Reduction, segment: &Segment) -> Result<Option<Array1<f64>>> {
    let Some(view) = reduction.weights else { return Ok(None) };
    let mut weights = Array1::zeros(segment.len());
    for index in 0..segment.len() {
        let bits = memory.load(view, segment, index, 0)?;
        weights[index] = scalar::number(memory.dtype(view), bits)?;
    }
    Ok(Some(weights))
}

/// One feature of one segment, before it is rounded to the reduction's dtype.
fn reduce<A: Elementary + Packed<Number = A>>(
    reduction: &Reduction,
    column: ndarray::ArrayView1<'_, f64>,
    weights: Option<&Array1<f64>>,
    segment: usize,
) -> Result<f64> {
    if column.is_empty() {
        return empty(reduction, segment);
    }
    // Exact: every value and weight is a number of the accumulator's type.
    let column: Vec<A> = column.iter().map(|&x| A::of_f64(x)).collect();
    let weights: Option<Vec<A>> = weights.map(|weights| weights.iter().map(|&w| A::of_f64(w)).collect());
    Ok(tree::reduce(&reduction.reducer, &column, weights.as_deref()))
}

/// What an empty segment gives.
pub(crate) fn empty(reduction: &Reduction, segment: usize) -> Result<f64> {
    reduction.on_empty.value().ok_or_else(|| {
        Error::new(ErrorCode::EmptySegment, format!("segment {segment} is empty, and {} has no value for it", reduction.reducer))
    })
}

/// Stores what a reduction made, where it is written at all.
pub(crate) fn write(memory: &mut Memory<'_, '_>, reduction: &Reduction, made: ArrayView2<'_, f64>) -> Result<()> {
    let Some(view) = reduction.write else { return Ok(()) };
    if memory.dtype(view) != reduction.made() {
        return Err(Error::new(ErrorCode::PlanInvalid, format!("{} is written as {}", reduction.made(), memory.dtype(view))));
    }
    // Of a tile, the segments of the window.
    let first = memory.start().1;
    let whole = Segment { rows: first..first + made.nrows(), packed: first..first + made.nrows() };
    for (index, row) in made.axis_iter(Axis(0)).enumerate() {
        for (feature, &value) in row.iter().enumerate() {
            memory.store(view, &whole, index, feature, scalar::nearest(reduction.made(), value)?)?;
        }
    }
    Ok(())
}

fn no_feed(feed: u32) -> Error {
    Error::new(ErrorCode::PlanInvalid, format!("a stage folds reduction {feed} of the stage before, which has no such reduction"))
}

//! Type inference: what an operation gives, from what it takes.

use super::encode;
use super::print::types;
use super::{FoldLoad, LevelGraph, Op, OpName, RaggedMemory, Reduction, Stage, ValueType};
use crate::dtype::DType;
use crate::encoder::{ElementOp, dtype_after};
use crate::error::{Error, ErrorCode, Result};
use crate::ids::TableId;
use crate::plan::Order;
use crate::reducer::{OnEmpty, Reducer};
use smallvec::SmallVec;

/// The types of an operation's results: the facts that nodes carry.
///
/// # Errors
/// Where the operation does not take such operands. Errors do not name the level: the caller knows it.
pub(crate) fn infer(graph: &LevelGraph, op: &Op, operands: &[ValueType]) -> Result<SmallVec<[ValueType; 1]>> {
    let wrong = |message: String| Err(Error::new(ErrorCode::GraphInvalid, message));
    let one = |ty: ValueType| Ok(smallvec::smallvec![ty]);
    match (op, operands) {
        (Op::Input { .. }, _) => wrong("an input's type is given, not inferred".into()),
        (Op::Gather, &[ids, table]) => one(infer_gather(ids, table)?),
        (Op::Slice { table }, &[ValueType::Rows { rows, features, dtype }]) => {
            let segments = &graph.table(*table).segments;
            if segments.rows() != rows {
                return Err(Error::new(
                    ErrorCode::RowsMismatch,
                    format!("the segments are made for {} rows, but the level below has {rows}", segments.rows()),
                )
                .help("each level's segments cover the rows that the level below makes"));
            }
            one(ValueType::Ragged { table: *table, features, dtype, order: Order::RowMajor, memory: RaggedMemory::Rows })
        }
        (Op::Transpose, &[ValueType::Ragged { table, features, dtype, order, memory }]) => {
            one(ValueType::Ragged { table, features, dtype, order: order.transposed(), memory })
        }
        (Op::Contiguous, &[ValueType::Ragged { table, features, dtype, order, .. }]) => {
            one(ValueType::Ragged { table, features, dtype, order, memory: RaggedMemory::Packed(order) })
        }
        (Op::Reduce(reduction), &[ValueType::Ragged { table, features, dtype, .. }, ref weights @ ..]) => {
            check_reduction(graph, table, dtype, reduction)?;
            check_weights(graph, table, dtype, std::slice::from_ref(reduction), weights)?;
            one(ValueType::Pieces { segments: graph.table(table).segments.len(), features, dtype: reduction.made() })
        }
        (Op::Stack, &[ValueType::Pieces { segments, features, dtype }]) => one(ValueType::Stacked { rows: segments, features, dtype }),
        (Op::Squeeze, &[ValueType::Stacked { rows, features, dtype }]) => one(ValueType::Rows { rows, features, dtype }),
        (Op::Rename, &[ValueType::Pieces { segments, features, dtype }]) => one(ValueType::Rows { rows: segments, features, dtype }),
        (Op::Concat { .. }, &[first, ref others @ ..]) => one(infer_concat(first, others)?),
        (Op::Fold { load, stages }, operands) => infer_fold(graph, *load, stages, operands),
        (Op::Spread { table }, &[ValueType::Rows { rows, features, dtype }]) => {
            one(encode::infer_spread(graph, *table, rows, features, dtype)?)
        }
        (Op::Encode(encoding), operands) => one(encode::infer(graph, encoding, operands)?),
        (
            Op::Gather
            | Op::Slice { .. }
            | Op::Transpose
            | Op::Contiguous
            | Op::Reduce(_)
            | Op::Stack
            | Op::Squeeze
            | Op::Rename
            | Op::Concat { .. }
            | Op::Spread { .. },
            _,
        ) => wrong(format!("{} does not take ({})", OpName::of(op).name(), types(operands))),
    }
}

fn infer_gather(ids: ValueType, table: ValueType) -> Result<ValueType> {
    match (ids, table) {
        (ValueType::Rows { rows, features: 1, dtype: id }, ValueType::Rows { features, dtype, .. }) if id.is_id() && dtype.is_float() => {
            Ok(ValueType::Rows { rows, features, dtype })
        }
        (ids, table) => Err(Error::new(
            ErrorCode::DType,
            format!("a lookup takes ids with one feature and a table of floats, not ({})", types(&[ids, table])),
        )),
    }
}

fn infer_concat(first: ValueType, others: &[ValueType]) -> Result<ValueType> {
    let ValueType::Rows { rows, mut features, dtype } = first else {
        return Err(Error::new(ErrorCode::GraphInvalid, format!("concat takes rows, not {}", types(&[first]))));
    };
    for other in others {
        match other {
            ValueType::Rows { rows: r, features: f, dtype: d } if *r == rows && *d == dtype => {
                features = features
                    .checked_add(*f)
                    .ok_or_else(|| Error::new(ErrorCode::Overflow, "the features of a concat do not fit 64 bits"))?;
            }
            _ => {
                return Err(Error::new(
                    ErrorCode::Shape,
                    format!("concat takes rows of one count and type, not ({})", types(&[first, *other])),
                ));
            }
        }
    }
    Ok(ValueType::Rows { rows, features, dtype })
}

fn infer_fold(graph: &LevelGraph, load: FoldLoad, stages: &[Stage], operands: &[ValueType]) -> Result<SmallVec<[ValueType; 1]>> {
    let (rows, mut weights) = match (load, operands) {
        (FoldLoad::Rows, [rows @ ValueType::Rows { .. }, weights @ ..]) => (*rows, weights),
        (FoldLoad::Gather | FoldLoad::Histogram, [ids, table, weights @ ..]) => (infer_gather(*ids, *table)?, weights),
        (FoldLoad::Rows | FoldLoad::Gather | FoldLoad::Histogram, _) => {
            return Err(Error::new(ErrorCode::GraphInvalid, format!("a fold does not take ({})", types(operands))));
        }
    };
    let ValueType::Rows { mut rows, features, mut dtype } = rows else {
        return Err(Error::new(ErrorCode::Internal, "a fold's rows are rows"));
    };
    if load == FoldLoad::Histogram {
        let counted = |reduction: &Reduction| reduction.reducer.takes_counts() && !reduction.weighted && reduction.ops.is_empty();
        if !matches!(stages, [stage] if stage.ops.is_empty() && stage.reductions.iter().all(counted)) {
            return Err(Error::new(
                ErrorCode::GraphInvalid,
                "counts are folded by one stage of sums, means, maxima and minima without weights or operations on elements",
            ));
        }
    }
    let mut types = SmallVec::new();
    for (index, stage) in stages.iter().enumerate() {
        let segments = &graph.table(stage.table).segments;
        if segments.rows() != rows {
            return Err(Error::new(ErrorCode::RowsMismatch, format!("stage {index} folds {} rows, but gets {rows}", segments.rows())));
        }
        check_ops(&stage.ops)?;
        dtype = dtype_after(&stage.ops, dtype);
        let weighted = stage.reductions.iter().filter(|reduction| reduction.weighted).count();
        let (own, rest) = weights.split_at_checked(weighted).unwrap_or((weights, &[]));
        for reduction in &stage.reductions {
            check_reduction(graph, stage.table, dtype, reduction)?;
            check_ops(&reduction.ops)?;
            types.push(ValueType::Rows { rows: segments.len(), features, dtype: reduction.made() });
        }
        check_weights(graph, stage.table, dtype, &stage.reductions, own)?;
        weights = rest;
        let next = stages.get(index + 1).map_or(0, |next| crate::widen(next.feed));
        let Some(fed) = stage.reductions.get(next) else {
            return Err(Error::new(ErrorCode::GraphInvalid, format!("stage {index} has no reduction {next} to feed the next")));
        };
        (rows, dtype) = (segments.len(), fed.made());
    }
    if stages.is_empty() || !weights.is_empty() {
        return Err(Error::new(ErrorCode::GraphInvalid, "a fold without stages, or with more weights than reductions"));
    }
    Ok(types)
}

/// Operations on elements: results of floats are floats, and positions have none.
fn check_ops(ops: &[ElementOp]) -> Result<()> {
    match ops.iter().find_map(|op| op.problem()) {
        Some(problem) => Err(Error::new(ErrorCode::GraphInvalid, problem)),
        None => Ok(()),
    }
}

fn check_reduction(graph: &LevelGraph, table: TableId, dtype: DType, reduction: &Reduction) -> Result<()> {
    let segments = &graph.table(table).segments;
    let reducer = &reduction.reducer;
    if !dtype.is_float() {
        let help =
            "only floats are reduced: ids look rows up in a table first, and the positions that argmax and argmin give can only be kept";
        return Err(Error::new(ErrorCode::DType, format!("{reducer} of {dtype} is not defined")).help(help));
    }
    if !reducer.can_give(reduction.dtype) {
        let help = if reducer.gives_positions() { "its results are i64: say no other type" } else { "its results are floats" };
        return Err(Error::new(ErrorCode::DType, format!("{reducer} of {dtype} as {} is not defined", reduction.dtype)).help(help));
    }
    if reducer.gives_positions() && !reduction.ops.is_empty() {
        return Err(Error::new(ErrorCode::DType, format!("{reducer} gives positions, to whose elements nothing is done")));
    }
    if reduction.weighted && !reducer.takes_weights() {
        let known: Vec<&str> = Reducer::ALL.iter().filter(|reducer| reducer.takes_weights()).map(|reducer| reducer.name()).collect();
        let mut known = known;
        known.dedup();
        let help = if let Reducer::Custom(_) = reducer {
            "name the weight, `w`, in one of its lifts, or leave the weights out".to_owned()
        } else {
            format!("{} have one", known.join(", "))
        };
        return Err(Error::new(ErrorCode::Weights, format!("{reducer} has no weighted form")).help(help));
    }
    if reducer.needs_weights() && !reduction.weighted {
        return Err(Error::new(ErrorCode::Weights, format!("{reducer} has no scores"))
            .help("bind one score for each row as `weights`, or name a `query` that makes them"));
    }
    if !reduction.on_empty.fits(reduction.dtype) {
        return Err(Error::new(ErrorCode::DType, format!("an empty segment cannot give {} where results are i64", reduction.on_empty))
            .help("positions are whole numbers: say zero, or a fill such as -1"));
    }
    if let (OnEmpty::Error, Some(first)) = (reduction.on_empty, segments.first_empty()) {
        return Err(Error::new(
            ErrorCode::EmptySegment,
            format!(
                "segment {first} is empty ({} of {} are), and {} has no value for it",
                segments.empty_count(),
                segments.len(),
                reduction.reducer
            ),
        )
        .at_index(first)
        .help("say what an empty segment gives: zero, nan, or a fill value"));
    }
    Ok(())
}

fn check_weights(graph: &LevelGraph, table: TableId, dtype: DType, reductions: &[Reduction], weights: &[ValueType]) -> Result<()> {
    let wanted = reductions.iter().filter(|reduction| reduction.weighted).count();
    if wanted != weights.len() {
        return Err(Error::new(ErrorCode::Weights, format!("{wanted} weighted reductions, but {} weights", weights.len())));
    }
    let rows = graph.table(table).segments.rows();
    for weight in weights {
        let fits = match weight {
            ValueType::Rows { rows: r, features: 1, dtype: d } => *r == rows && d.is_float() && d.widens_to(dtype.accumulator()),
            ValueType::Rows { .. } | ValueType::Ragged { .. } | ValueType::Pieces { .. } | ValueType::Stacked { .. } => false,
        };
        if !fits {
            return Err(Error::new(
                ErrorCode::Weights,
                format!("weights are {}, wanted is one float a row: {rows} rows, exact in {}", types(&[*weight]), dtype.accumulator()),
            )
            .help("bind one weight for each row of the level that is folded"));
        }
    }
    Ok(())
}

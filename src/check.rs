//! Replays a plan against the graph that it claims to compute, trusting neither the passes nor the lowering.
//!
//! Both sides are brought to *terms*: what a value is, whatever its layout and place. From the graph, each output gives a term (slices, transposes,
//! contiguous copies, stacks and squeezes do not change what a value is, so the unoptimized graph will do). The plan is then run over a
//! simulated memory that holds terms instead of numbers: writing an arena buffer spoils every other one that shares bytes with it, and reading spoiled,
//! unwritten or differently laid out memory is an error. In the end each output must hold the term that the graph asks for.
//!
//! A table that was composed of two levels counts as the two folds that it stands for, so collapsed plans hold against the original graph too. The
//! plan itself should have passed [`verify`](Plan::verify) first: here ids are taken to be in range.

mod memory;
mod term;

use crate::dtype::DType;
use crate::encoder::dtype_after;
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{FoldLoad, LevelGraph, Op, Value, ValueType};
use crate::ids::TableId;
use crate::plan::{CopyKind, Fold, Load, Plan, StepKind, TableSource};
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;
use crate::widen;
use memory::Memory;
use std::collections::HashMap;
use term::{TermId, Terms};

/// Holds a plan against a graph: the one it was lowered from, or any that asks for the same.
///
/// # Errors
/// `plan-invalid` where the plan breaks its own rules; `plan-wrong` where it does not compute what the graph asks for, naming the step, the
/// buffer, what was expected and what is there.
pub fn replay(plan: &Plan, graph: &LevelGraph) -> Result<()> {
    plan.verify()?;
    check_tables(plan, graph)?;
    let mut terms = Terms::default();
    let wanted = graph_terms(graph, &mut terms)?;
    check_inputs(plan, graph)?;
    let mut memory = Memory::new(plan, &mut terms);
    for (index, step) in plan.steps.iter().enumerate() {
        let run = match &step.kind {
            StepKind::Fold(fold) => run_fold(plan, fold, &mut memory, &mut terms),
            StepKind::Encode(encode) => {
                let read = encode.encoding.try_map(|view| memory.read(*view, &mut terms), Ok);
                let (features, dtype) = (plan.view(encode.write).features, plan.buffer_of(*encode.encoding.kernel.rows()).dtype);
                let term = read.map(|encoding| terms.encode(&encoding, &term::PlanTables(plan), features, dtype));
                term.map(|term| memory.write(encode.write, term))
            }
            StepKind::Copy(copy) => {
                let written = match (copy.what, copy.read.as_slice()) {
                    (CopyKind::Rows, &[from]) => memory.read(from, &mut terms),
                    (CopyKind::Segments { table }, &[from]) => memory.read_segments(from, table, &mut terms),
                    (CopyKind::Gather, &[ids, table]) => {
                        let ids = memory.read(ids, &mut terms);
                        let table = memory.read(table, &mut terms);
                        ids.and_then(|ids| Ok(terms.gather(ids, table?)))
                    }
                    (CopyKind::Columns, parts) => {
                        let parts: Result<Vec<TermId>> = parts.iter().map(|part| memory.read(*part, &mut terms)).collect();
                        parts.map(|parts| terms.concat(&parts))
                    }
                    (CopyKind::Spread { table }, &[from]) => {
                        memory.read(from, &mut terms).map(|rows| terms.spread(rows, &term::PlanTables(plan), table))
                    }
                    (CopyKind::Rows | CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Gather, _) => {
                        Err(Error::new(ErrorCode::PlanWrong, "a copy with another number of operands"))
                    }
                };
                written.map(|term| memory.write(copy.write, term))
            }
        };
        let name = step.origin.first().map_or("", |origin| &**origin);
        run.map_err(|error| error.at_level(format!("step s{index} ({name})")))?;
    }
    for (name, term, ty) in &wanted {
        let buffer = plan.outputs().find(|(_, buffer)| buffer.name == *name);
        let Some((id, buffer)) = buffer else {
            return Err(Error::new(ErrorCode::PlanWrong, format!("the plan has no output `{name}`")).at_level(&**name));
        };
        let shape = ValueType::Rows { rows: buffer.rows, features: buffer.features, dtype: buffer.dtype };
        if shape != *ty {
            return Err(Error::new(ErrorCode::PlanWrong, format!("output `{name}` is {shape}, the graph asks for {ty}")).at_level(&**name));
        }
        let found = memory.read_buffer(id, &mut terms).map_err(|error| error.at_level(&**name))?;
        if found != *term {
            return Err(Error::new(
                ErrorCode::PlanWrong,
                format!("output `{name}` holds {}, the graph asks for {}", terms.describe(found), terms.describe(*term)),
            )
            .at_level(&**name));
        }
    }
    if plan.outputs().count() != wanted.len() {
        return Err(Error::new(ErrorCode::PlanWrong, "the plan has outputs that the graph does not have"));
    }
    Ok(())
}

/// What the plan says of its segments is so; segments that the graph does not have make another term, which is found later.
fn check_tables(plan: &Plan, graph: &LevelGraph) -> Result<()> {
    let mut known: Vec<Option<Segments>> = Vec::with_capacity(plan.tables.len());
    for (index, table) in plan.tables.iter().enumerate() {
        let segments = match table.source {
            TableSource::Bound => {
                graph.tables().iter().find(|of_graph| of_graph.segments.hash() == table.hash.0).map(|of_graph| of_graph.segments.clone())
            }
            TableSource::Compose { lower, upper } => match (&known[lower.index()], &known[upper.index()]) {
                (Some(lower), Some(upper)) => Some(lower.compose(upper)?),
                (None, _) | (_, None) => None,
            },
        };
        if let Some(segments) = segments.as_ref().filter(|segments| !table.describes(segments)) {
            return Err(Error::new(ErrorCode::PlanWrong, format!("table {} is not what the plan says: {segments:?}", TableId::new(index)))
                .at_level(&*table.name)
                .help("the plan was changed, or damaged: plan again"));
        }
        known.push(segments);
    }
    Ok(())
}

/// Every input of the graph is an input of the plan, of the same type.
fn check_inputs(plan: &Plan, graph: &LevelGraph) -> Result<()> {
    let mut count = 0;
    for node in graph.nodes() {
        let (Op::Input { name, .. }, [ty]) = (graph.op(node), graph.types(node)) else { continue };
        count += 1;
        let found = plan.inputs().find(|(_, buffer)| buffer.name == *name).map(|(_, buffer)| ValueType::Rows {
            rows: buffer.rows,
            features: buffer.features,
            dtype: buffer.dtype,
        });
        if found != Some(*ty) {
            let found = found.map_or("missing".to_string(), |found| found.to_string());
            return Err(Error::new(ErrorCode::PlanWrong, format!("input `{name}` is {found}, in the graph it is {ty}")).at_level(&**name));
        }
    }
    if plan.inputs().count() != count {
        return Err(Error::new(ErrorCode::PlanWrong, "the plan has inputs that the graph does not have"));
    }
    Ok(())
}

type Wanted = Vec<(std::sync::Arc<str>, TermId, ValueType)>;

/// The term of every output.
fn graph_terms(graph: &LevelGraph, terms: &mut Terms) -> Result<Wanted> {
    let mut of: HashMap<Value, TermId> = HashMap::new();
    for node in graph.topological() {
        let operands = graph.operands(node);
        let operand = |index: usize| -> Result<TermId> {
            let found = operands.get(index).and_then(|value| of.get(value)).copied();
            found.ok_or_else(|| Error::new(ErrorCode::GraphInvalid, format!("{node} has no operand {index}")))
        };
        let results: Vec<TermId> = match graph.op(node) {
            Op::Input { name, .. } => vec![terms.input(name, graph.value_type(Value { node, port: 0 }).features())],
            Op::Gather => vec![terms.gather(operand(0)?, operand(1)?)],
            Op::Slice { .. } | Op::Transpose | Op::Contiguous | Op::Stack | Op::Squeeze | Op::Rename => vec![operand(0)?],
            Op::Spread { table } => vec![terms.spread(operand(0)?, &term::GraphTables(graph), *table)],
            Op::Encode(encoding) => {
                let encoding = encoding.try_map(|number| operand(widen(*number)), Ok)?;
                let features = graph.value_type(Value { node, port: 0 }).features();
                let dtype = operands.first().map_or(crate::dtype::DType::F32, |rows| graph.value_type(*rows).dtype());
                vec![terms.encode(&encoding, &term::GraphTables(graph), features, dtype)]
            }
            Op::Concat { .. } => {
                let parts: Result<Vec<TermId>> = (0..operands.len()).map(operand).collect();
                vec![terms.concat(&parts?)]
            }
            Op::Reduce(reduction) => {
                let ValueType::Ragged { table, .. } = *graph.value_type(operands[0]) else {
                    return Err(Error::new(ErrorCode::GraphInvalid, format!("{node} reduces what is not ragged")));
                };
                let weights = if reduction.weighted { Some(operand(1)?) } else { None };
                let how = how(&reduction.reducer, reduction.on_empty, reduction.dtype, graph.value_type(operands[0]).dtype());
                vec![terms.fold(operand(0)?, &term::GraphTables(graph), table, how, weights)?]
            }
            Op::Fold { load, stages } => {
                let (mut rows, of, mut weights) = match load {
                    FoldLoad::Rows => (operand(0)?, operands[0], 1..),
                    // Counting and folding what was looked up come to the same.
                    FoldLoad::Gather | FoldLoad::Histogram => (terms.gather(operand(0)?, operand(1)?), operands[1], 2..),
                };
                let mut results = Vec::new();
                rows = terms.elements(rows, &stages[0].ops);
                let mut from = dtype_after(&stages[0].ops, graph.value_type(of).dtype());
                for (index, stage) in stages.iter().enumerate() {
                    let first = results.len();
                    for reduction in &stage.reductions {
                        let weight = if reduction.weighted { weights.next().map(operand).transpose()? } else { None };
                        let how = how(&reduction.reducer, reduction.on_empty, reduction.dtype, from);
                        let made = terms.fold(rows, &term::GraphTables(graph), stage.table, how, weight)?;
                        results.push(terms.elements(made, &reduction.ops));
                    }
                    if let Some(next) = stages.get(index + 1) {
                        rows = terms.elements(results[first + widen(next.feed)], &next.ops);
                        let feed = &stage.reductions[widen(next.feed)];
                        from = dtype_after(&next.ops, dtype_after(&feed.ops, feed.dtype));
                    }
                }
                results
            }
        };
        for (port, term) in results.into_iter().enumerate() {
            of.insert(Value { node, port: u32::try_from(port).unwrap_or(u32::MAX) }, term);
        }
    }
    graph
        .outputs()
        .iter()
        .map(|output| {
            let term = of.get(&output.value).copied();
            let term = term.ok_or_else(|| Error::new(ErrorCode::GraphInvalid, format!("output `{}` has no value", output.name)))?;
            Ok((output.name.clone(), term, *graph.value_type(output.value)))
        })
        .collect()
}

fn how(reducer: &Reducer, on_empty: OnEmpty, dtype: DType, from: DType) -> term::How {
    term::How { reducer: reducer.clone(), on_empty, dtype, from }
}

fn run_fold(plan: &Plan, fold: &Fold, memory: &mut Memory<'_>, terms: &mut Terms) -> Result<()> {
    let mut rows = match fold.load {
        Load::View { values } => memory.read_segments(values, fold.stages[0].table, terms)?,
        Load::Gather { ids, table } | Load::Histogram { ids, table } => {
            let (ids, table) = (memory.read(ids, terms)?, memory.read(table, terms)?);
            terms.gather(ids, table)
        }
    };
    rows = terms.elements(rows, &fold.stages[0].ops);
    let mut from = dtype_after(&fold.stages[0].ops, plan.buffer_of(fold.load.values()).dtype);
    // All reads come before all writes: a step may not read what it writes.
    let mut writes = Vec::new();
    for (index, stage) in fold.stages.iter().enumerate() {
        let mut results = Vec::new();
        for reduction in &stage.reductions {
            let weights = reduction.weights.map(|weights| memory.read(weights, terms)).transpose()?;
            let how = how(&reduction.reducer, reduction.on_empty, reduction.dtype, from);
            let term = terms.fold(rows, &term::PlanTables(plan), stage.table, how, weights)?;
            let term = terms.elements(term, &reduction.ops);
            results.push(term);
            writes.extend(reduction.write.map(|view| (view, term)));
        }
        if let Some(next) = fold.stages.get(index + 1) {
            let feed = &stage.reductions[widen(next.feed)];
            rows = terms.elements(results[widen(next.feed)], &next.ops);
            from = dtype_after(&next.ops, dtype_after(&feed.ops, feed.dtype));
        }
    }
    for (view, term) in writes {
        memory.write(view, term);
    }
    Ok(())
}

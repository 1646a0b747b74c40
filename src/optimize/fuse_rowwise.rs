//! fuse-rowwise: an operation on single rows joins what stands beside it, so its rows are never written and read again.
//!
//! 1. Behind an encoder it joins the encoder, whose rows it takes from registers or cache.
//! 2. One on single elements ([`ElementOp`]) behind a fold is done to each result before it is written.
//! 3. One on single elements before a fold is done to each element as it is read.
//!
//! The result of each operation is rounded to the type of its rows, fused or not, so no bit changes. Refused where something else takes the
//! rows too, or where they are kept: then they are written anyway; and before a fold whose segments overlap far, which would do it to a row again each
//! time. A target may not have an operation inside folds.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::encoder::{ElementOp, ElementOps, Encoding, Kernel};
use crate::error::Result;
use crate::graph::{FoldLoad, LevelGraph, Op, Operand, Value, ValueType};
use crate::ids::NodeId;
use smallvec::SmallVec;

/// How often a fold may read a row, on average: doing something to it each time then takes no longer than writing all rows and reading them again
/// (measured with gelu and tanh; relu would bear more).
const REPEATED: u64 = 2;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseRowwise;

impl Pass for FuseRowwise {
    fn name(&self) -> &'static str {
        "fuse-rowwise"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        // Operands come first, so what a node is fused into has taken in all that it could.
        for node in graph.topological() {
            if !is_map(graph, node) {
                continue;
            }
            let Some(rows) = graph.operand(node, 0) else { continue };
            if matches!(graph.op(rows.node), Op::Encode(_)) {
                decisions.push(fuse(graph, rows.node, node)?);
            } else if matches!(graph.op(rows.node), Op::Fold { .. }) {
                decisions.extend(behind(graph, target, rows, node)?);
            }
        }
        for node in graph.topological() {
            decisions.extend(before(graph, target, node)?);
        }
        Ok(decisions)
    }
}

/// Whether a node (which may be gone by now) is an encoding without a kernel of its own.
fn is_map(graph: &LevelGraph, node: NodeId) -> bool {
    graph.contains(node) && matches!(graph.op(node), Op::Encode(Encoding { kernel: Kernel::Map { .. }, .. }))
}

/// The operations of a node that does nothing but those on single elements.
fn elements_of(graph: &LevelGraph, node: NodeId) -> Option<ElementOps> {
    if !is_map(graph, node) {
        return None;
    }
    let Op::Encode(Encoding { kernel: Kernel::Map { .. }, ops }) = graph.op(node) else { return None };
    ops.iter().map(ElementOp::of).collect()
}

/// An operation that the target does not do inside a fold.
fn unsupported(target: &Target, ops: &[ElementOp]) -> Option<Refusal> {
    ops.iter().find(|op| !(target.element_op)(**op)).map(|op| Refusal::NotInFolds(*op))
}

/// Segments of a fold that overlap so far that working on each row once, and writing it, takes less.
fn repeated(graph: &LevelGraph, fold: NodeId) -> Option<Refusal> {
    let Op::Fold { stages, .. } = graph.op(fold) else { return None };
    let segments = &graph.table(stages[0].table).segments;
    let (rows, read) = (segments.rows(), segments.total_rows());
    (read > rows.saturating_mul(REPEATED)).then_some(Refusal::RowsRepeat { rows, read })
}

/// A fold does to its results what a node does to all of them.
fn behind(graph: &mut LevelGraph, target: &Target, made: Value, node: NodeId) -> Result<Option<Decision>> {
    let Some(ops) = elements_of(graph, node) else { return Ok(None) };
    let fold = made.node;
    let (names, fold_names) = (Names::of(graph, node), Names::of(graph, fold));
    let Op::Fold { load, mut stages } = graph.op(fold).clone() else { return Ok(None) };
    let at = (0..stages.len()).flat_map(|stage| (0..stages[stage].reductions.len()).map(move |which| (stage, which)));
    let Some((stage, which)) = at.into_iter().nth(made.port()) else { return Ok(None) };
    let handed_on = stages.get(stage + 1).is_some_and(|next| crate::widen(next.feed) == which);
    let uses = graph.uses(fold).iter().filter(|used| used.port == made.port).count();
    let kept = graph.outputs().iter().any(|output| output.value == made);
    let refusal = match unsupported(target, &ops) {
        // Where the rows are there anyway, a fold above may still do it as it reads.
        None if kept || uses > 1 || handed_on => return Ok(None),
        refusal => refusal,
    };
    if let Some(reason) = refusal {
        return Ok(Some(Decision::RefusedElements { ops: names, fold: fold_names, reason }));
    }
    let bytes = bytes_of(graph, made);
    stages[stage].reductions[which].ops.extend(ops);
    let origins = graph.merged_origins(&[fold, node]);
    let (operands, level, ports) = (graph.operands(fold), graph.node(fold).level, graph.types(fold).len());
    let fused = graph.add(Op::Fold { load, stages }, &operands, level, origins)?;
    graph.replace(Value { node, port: 0 }, Value { node: fused, port: made.port });
    graph.remove(node);
    move_ports(graph, fold, fused, ports);
    Ok(Some(Decision::FusedEpilogue { ops: names, fold: fold_names, bytes }))
}

/// A fold does to what it reads what a node does to all of its rows.
fn before(graph: &mut LevelGraph, target: &Target, node: NodeId) -> Result<Option<Decision>> {
    let Some(mut ops) = elements_of(graph, node) else { return Ok(None) };
    let folds = |used: &crate::graph::Use| used.operand == 0 && matches!(graph.op(used.user), Op::Fold { load: FoldLoad::Rows, .. });
    let Some(used) = graph.uses(node).into_iter().find(folds) else { return Ok(None) };
    let fold = used.user;
    let (names, fold_names) = (Names::of(graph, node), Names::of(graph, fold));
    let refusal = if graph.is_output(node) {
        Some(Refusal::IsOutput)
    } else if graph.only_use(node).is_none() {
        Some(Refusal::UsedElsewhere)
    } else {
        unsupported(target, &ops).or_else(|| repeated(graph, fold))
    };
    let from_fold = graph.operand(node, 0).is_some_and(|rows| matches!(graph.op(rows.node), Op::Fold { .. }));
    if matches!(refusal, Some(Refusal::NotInFolds(_))) && from_fold {
        // The fold below said so already.
        return Ok(None);
    }
    if let Some(reason) = refusal {
        return Ok(Some(Decision::RefusedElements { ops: names, fold: fold_names, reason }));
    }
    let Op::Fold { load, mut stages } = graph.op(fold).clone() else { return Ok(None) };
    let bytes = bytes_of(graph, Value { node, port: 0 });
    ops.extend(std::mem::take(&mut stages[0].ops));
    stages[0].ops = ops;
    let origins = graph.merged_origins(&[node, fold]);
    let (mut operands, level, ports) = (graph.operands(fold), graph.node(fold).level, graph.types(fold).len());
    operands[0] = graph.operands(node)[0];
    let fused = graph.add(Op::Fold { load, stages }, &operands, level, origins)?;
    move_ports(graph, fold, fused, ports);
    graph.remove(node);
    Ok(Some(Decision::FusedPrologue { ops: names, fold: fold_names, bytes }))
}

/// Makes every use of one fold a use of another, and removes it.
fn move_ports(graph: &mut LevelGraph, from: NodeId, to: NodeId, ports: usize) {
    for port in (0..ports).map(|port| u32::try_from(port).unwrap_or(u32::MAX)) {
        graph.replace(Value { node: from, port }, Value { node: to, port });
    }
    graph.remove(from);
}

fn bytes_of(graph: &LevelGraph, value: Value) -> u64 {
    match *graph.value_type(value) {
        ValueType::Rows { rows, features, dtype } => rows * features * dtype.size_u64(),
        ValueType::Ragged { .. } | ValueType::Pieces { .. } | ValueType::Stacked { .. } => 0,
    }
}

fn fuse(graph: &mut LevelGraph, first: NodeId, second: NodeId) -> Result<Decision> {
    let (into, ops) = (Names::of(graph, first), Names::of(graph, second));
    if graph.only_use(first).is_none() {
        let reason = if graph.is_output(first) { Refusal::IsOutput } else { Refusal::UsedElsewhere };
        return Ok(Decision::RefusedRowwise { ops, into, reason });
    }
    let (Op::Encode(before), Op::Encode(after)) = (graph.op(first), graph.op(second)) else {
        return Ok(Decision::RefusedRowwise { ops, into, reason: Refusal::NotRows });
    };
    let mut operands: SmallVec<[Value; 4]> = graph.operands(first);
    // Operand 0 of the second, its rows, is what the first makes; those behind it follow those of the first.
    let shift = Operand::try_from(operands.len()).unwrap_or(Operand::MAX) - 1;
    operands.extend(graph.operands(second)[1..].iter().copied());
    let after = crate::graph::renumbered(after, |operand| operand + shift, |table| table);
    let mut fused = before.clone();
    fused.ops.extend(after.ops);
    let bytes = bytes_of(graph, Value { node: first, port: 0 });
    let origins = graph.merged_origins(&[first, second]);
    let level = graph.node(second).level;
    let node = graph.add(Op::Encode(fused), &operands, level, origins)?;
    graph.replace(Value { node: second, port: 0 }, Value { node, port: 0 });
    graph.remove_unused_from(second);
    Ok(Decision::FusedRowwise { ops, into, bytes })
}

//! fuse-rowwise: an operation on single rows joins the encoder before it, whose rows are then read from registers or cache.
//!
//! The result of each operation is rounded to the type of its rows, fused or not, so no bit changes. Refused where something else takes the
//! rows too, or where they are kept: then they are written anyway.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::encoder::{Encoding, Kernel};
use crate::error::Result;
use crate::graph::{LevelGraph, Op, Operand, Value, ValueType};
use crate::ids::NodeId;
use smallvec::SmallVec;

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

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        // Operands come first, so what a node is fused into has taken in all that it could.
        for node in graph.topological() {
            let Op::Encode(Encoding { kernel: Kernel::Map { .. }, .. }) = graph.op(node) else { continue };
            let Some(rows) = graph.operand(node, 0) else { continue };
            if matches!(graph.op(rows.node), Op::Encode(_)) {
                decisions.push(fuse(graph, rows.node, node)?);
            }
        }
        Ok(decisions)
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
    let bytes = match *graph.value_type(Value { node: first, port: 0 }) {
        ValueType::Rows { rows, features, dtype } => rows * features * dtype.size_u64(),
        ValueType::Ragged { .. } | ValueType::Pieces { .. } | ValueType::Stacked { .. } => 0,
    };
    let origins = graph.merged_origins(&[first, second]);
    let level = graph.node(second).level;
    let node = graph.add(Op::Encode(fused), &operands, level, origins)?;
    graph.replace(Value { node: second, port: 0 }, Value { node, port: 0 });
    graph.remove_unused_from(second);
    Ok(Decision::FusedRowwise { ops, into, bytes })
}

//! eliminate-identity: what changes nothing goes.
//!
//! - `transpose(transpose(x))` is x.
//! - `contiguous(x)` is x where the blocks of x are dense in that order already, or where x is the rows of an ordered partition in row-major
//!   order: then the rows themselves are the dense blocks.
//! - `spread(x)` is x where the segments are an ordered partition: each row occurs once, in order.
//! - `squeeze(stack(x))` renames x: a reduce writes its rows one after the other, so stacking them would copy them to where they could
//!   have been.
//!
//! A fold over one-row segments is *not* an identity: it makes every NaN the canonical one.

use super::{Decision, Exactness, Names, Pass};
use crate::backend::Target;
use crate::error::Result;
use crate::graph::{LevelGraph, Op, RaggedMemory, Value, ValueType};
use crate::ids::{NodeId, TableId};
use crate::plan::Order;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct EliminateIdentity;

impl Pass for EliminateIdentity {
    fn name(&self) -> &'static str {
        "eliminate-identity"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for node in graph.topological() {
            if !graph.contains(node) {
                continue;
            }
            match graph.op(node) {
                Op::Transpose => remove_transpose_pair(graph, node, &mut decisions),
                Op::Contiguous => remove_contiguous(graph, node, &mut decisions),
                Op::Spread { table } => remove_spread(graph, node, *table, &mut decisions),
                Op::Squeeze => rename_stack(graph, node, &mut decisions)?,
                Op::Input { .. }
                | Op::Gather
                | Op::Slice { .. }
                | Op::Reduce(_)
                | Op::Stack
                | Op::Rename
                | Op::Concat { .. }
                | Op::Encode(_)
                | Op::Fold { .. } => {}
            }
        }
        if !decisions.is_empty() {
            graph.reinfer()?;
        }
        Ok(decisions)
    }
}

fn result(node: NodeId) -> Value {
    Value { node, port: 0 }
}

fn remove_transpose_pair(graph: &mut LevelGraph, node: NodeId, decisions: &mut Vec<Decision>) {
    let Some(below) = graph.operand(node, 0) else { return };
    let (Op::Transpose, Some(source)) = (graph.op(below.node), graph.operand(below.node, 0)) else { return };
    let ops = Names::of_origins(graph, &graph.merged_origins(&[below.node, node]));
    graph.replace(result(node), source);
    graph.remove_unused_from(node);
    decisions.push(Decision::RemovedIdentity { ops, copied_bytes: 0 });
}

fn remove_contiguous(graph: &mut LevelGraph, node: NodeId, decisions: &mut Vec<Decision>) {
    let Some(source) = graph.operand(node, 0) else { return };
    let ValueType::Ragged { table, features, dtype, order, memory } = *graph.value_type(source) else { return };
    let segments = &graph.table(table).segments;
    let dense = match memory {
        RaggedMemory::Packed(packed) => packed == order,
        RaggedMemory::Rows => order == Order::RowMajor && segments.is_partition(),
    };
    if !dense {
        return;
    }
    let copied_bytes = segments.total_rows() * features * dtype.size_u64();
    let ops = Names::of(graph, node);
    graph.replace(result(node), source);
    graph.remove_unused_from(node);
    decisions.push(Decision::RemovedIdentity { ops, copied_bytes });
}

fn remove_spread(graph: &mut LevelGraph, node: NodeId, table: TableId, decisions: &mut Vec<Decision>) {
    let Some(source) = graph.operand(node, 0) else { return };
    let ValueType::Rows { rows, features, dtype } = *graph.value_type(source) else { return };
    if !graph.table(table).segments.is_partition() {
        return;
    }
    let ops = Names::of(graph, node);
    graph.replace(result(node), source);
    graph.remove_unused_from(node);
    decisions.push(Decision::RemovedIdentity { ops, copied_bytes: rows * features * dtype.size_u64() });
}

fn rename_stack(graph: &mut LevelGraph, node: NodeId, decisions: &mut Vec<Decision>) -> Result<()> {
    let Some(stack) = graph.operand(node, 0) else { return Ok(()) };
    let (Op::Stack, Some(pieces)) = (graph.op(stack.node), graph.operand(stack.node, 0)) else { return Ok(()) };
    let ValueType::Pieces { segments, features, dtype } = *graph.value_type(pieces) else { return Ok(()) };
    let origins = graph.merged_origins(&[stack.node, node]);
    let ops = Names::of_origins(graph, &origins);
    let level = graph.node(node).level;
    let rename = graph.add(Op::Rename, &[pieces], level, origins)?;
    graph.replace(result(node), result(rename));
    graph.remove_unused_from(node);
    decisions.push(Decision::RemovedIdentity { ops, copied_bytes: segments * features * dtype.size_u64() });
    Ok(())
}

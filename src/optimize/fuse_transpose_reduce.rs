//! fuse-transpose-reduce: the literal chain becomes one fold over a view, and its copies are gone.
//!
//! Matches `slice → (transpose | contiguous)* → reduce → stack → squeeze` and `… → reduce → rename`. The order of a block's axes and the
//! place of its elements do not matter to a fold, so everything between slice and reduce falls away (what else uses it stays for that use).
//! Refused where the pieces of the reduce are taken by something else too.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::encoder::ElementOps;
use crate::error::Result;
use crate::graph::{FoldLoad, LevelGraph, Op, Stage, Value, ValueType};
use crate::ids::NodeId;
use smallvec::{SmallVec, smallvec};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseTransposeReduce;

impl Pass for FuseTransposeReduce {
    fn name(&self) -> &'static str {
        "fuse-transpose-reduce"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for node in graph.topological() {
            if graph.contains(node) && matches!(graph.op(node), Op::Reduce(_)) {
                decisions.push(fuse(graph, node)?);
            }
        }
        Ok(decisions)
    }
}

fn fuse(graph: &mut LevelGraph, reduce: NodeId) -> Result<Decision> {
    let refused = |graph: &LevelGraph, reason| Ok(Decision::RefusedReduce { ops: Names::of(graph, reduce), reason });
    let Op::Reduce(reduction) = graph.op(reduce).clone() else { return refused(graph, Refusal::NotRows) };
    let operands = graph.operands(reduce);
    let mut chain: SmallVec<[NodeId; 8]> = smallvec![];
    let mut copied_bytes = 0;
    let mut at = operands[0];
    let (table, rows) = loop {
        chain.insert(0, at.node);
        let Some(below) = graph.operand(at.node, 0) else { return refused(graph, Refusal::NotRows) };
        match graph.op(at.node) {
            Op::Slice { table } => break (*table, below),
            Op::Transpose => at = below,
            Op::Contiguous => {
                // Counted only where the copy goes away with this use.
                if graph.only_use(at.node).is_some()
                    && let ValueType::Ragged { table, features, dtype, .. } = *graph.value_type(at)
                {
                    copied_bytes += graph.table(table).segments.total_rows() * features * dtype.size_u64();
                }
                at = below;
            }
            Op::Input { .. }
            | Op::Gather
            | Op::Reduce(_)
            | Op::Stack
            | Op::Squeeze
            | Op::Rename
            | Op::Concat { .. }
            | Op::Spread { .. }
            | Op::Encode(_)
            | Op::Fold { .. } => {
                return refused(graph, Refusal::NotRows);
            }
        }
    };
    chain.push(reduce);
    let Some(above) = graph.only_use(reduce) else { return refused(graph, Refusal::UsedElsewhere) };
    chain.push(above.user);
    let last = match graph.op(above.user) {
        Op::Rename => above.user,
        Op::Stack => {
            let squeeze = graph.only_use(above.user).map(|used| used.user);
            let Some(squeeze) = squeeze.filter(|user| matches!(graph.op(*user), Op::Squeeze)) else {
                return refused(graph, Refusal::UsedElsewhere);
            };
            if let ValueType::Pieces { segments, features, dtype } = *graph.value_type(Value { node: reduce, port: 0 }) {
                copied_bytes += segments * features * dtype.size_u64();
            }
            chain.push(squeeze);
            squeeze
        }
        Op::Input { .. }
        | Op::Gather
        | Op::Slice { .. }
        | Op::Transpose
        | Op::Contiguous
        | Op::Reduce(_)
        | Op::Squeeze
        | Op::Concat { .. }
        | Op::Spread { .. }
        | Op::Encode(_)
        | Op::Fold { .. } => return refused(graph, Refusal::UsedElsewhere),
    };
    let origins = graph.merged_origins(&chain);
    let ops = Names::of_origins(graph, &origins);
    let mut fold_operands: SmallVec<[Value; 4]> = smallvec![rows];
    fold_operands.extend(operands[1..].iter().copied());
    let op = Op::Fold {
        load: FoldLoad::Rows,
        stages: smallvec![Stage { table, feed: 0, ops: ElementOps::new(), reductions: smallvec![reduction] }],
    };
    let level = graph.node(reduce).level;
    let fold = graph.add(op, &fold_operands, level, origins)?;
    graph.replace(Value { node: last, port: 0 }, Value { node: fold, port: 0 });
    graph.remove_unused_from(last);
    Ok(Decision::FusedReduce { ops, copied_bytes })
}

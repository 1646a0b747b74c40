//! fuse-gather: a fold looks its rows up by id, and the looked-up rows are never written out.
//!
//! Where several folds read one lookup, each looks up for itself. Refused where the looked-up rows are an output, or where anything but a
//! fold reads them: then they are in memory anyway.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::error::Result;
use crate::graph::{FoldLoad, LevelGraph, Op, Value, ValueType};
use crate::ids::NodeId;
use smallvec::{SmallVec, smallvec};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseGather;

impl Pass for FuseGather {
    fn name(&self) -> &'static str {
        "fuse-gather"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for node in graph.topological() {
            if graph.contains(node) && matches!(graph.op(node), Op::Gather) {
                decisions.push(fuse(graph, node)?);
            }
        }
        Ok(decisions)
    }
}

fn fuse(graph: &mut LevelGraph, gather: NodeId) -> Result<Decision> {
    let names = Names::of(graph, gather);
    if graph.is_output(gather) {
        return Ok(Decision::RefusedGather { gather: names, reason: Refusal::IsOutput });
    }
    let uses = graph.uses(gather);
    let by_fold = |graph: &LevelGraph, user, operand| operand == 0 && matches!(graph.op(user), Op::Fold { load: FoldLoad::Rows, .. });
    if uses.is_empty() || !uses.iter().all(|used| by_fold(graph, used.user, used.operand)) {
        return Ok(Decision::RefusedGather { gather: names, reason: Refusal::UsedElsewhere });
    }
    let ValueType::Rows { rows, features, dtype } = *graph.value_type(Value { node: gather, port: 0 }) else {
        return Ok(Decision::RefusedGather { gather: names, reason: Refusal::NotRows });
    };
    let lookup = graph.operands(gather);
    for used in &uses {
        let Op::Fold { stages, .. } = graph.op(used.user).clone() else { continue };
        let mut operands: SmallVec<[Value; 4]> = smallvec![lookup[0], lookup[1]];
        operands.extend(graph.operands(used.user)[1..].iter().copied());
        let origins = graph.merged_origins(&[gather, used.user]);
        let level = graph.node(used.user).level;
        let ports = u32::try_from(graph.types(used.user).len()).unwrap_or(u32::MAX);
        let fold = graph.add(Op::Fold { load: FoldLoad::Gather, stages }, &operands, level, origins)?;
        for port in 0..ports {
            graph.replace(Value { node: used.user, port }, Value { node: fold, port });
        }
        graph.remove_unused_from(used.user);
    }
    let folds = u32::try_from(uses.len()).unwrap_or(u32::MAX);
    Ok(Decision::FusedGather { gather: names, folds, copied_bytes: rows * features * dtype.size_u64() })
}

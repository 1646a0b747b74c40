//! drop-unused: what no output needs goes: nodes, reductions of a fold that nobody takes, and stages above the last that anybody takes.
//!
//! Inputs stay, so that a binding does not depend on the level of optimization.

use super::{Decision, Exactness, Names, Pass};
use crate::backend::Target;
use crate::error::Result;
use crate::graph::{FoldLoad, LevelGraph, Op, Stage, Value};
use crate::ids::NodeId;
use smallvec::SmallVec;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct DropUnused;

impl Pass for DropUnused {
    fn name(&self) -> &'static str {
        "drop-unused"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for node in graph.topological().into_iter().rev() {
            if matches!(graph.op(node), Op::Input { .. }) {
                continue;
            }
            if graph.uses(node).is_empty() && !graph.is_output(node) {
                decisions.push(Decision::DroppedUnused { ops: Names::of(graph, node) });
                graph.remove(node);
            } else if let Op::Fold { load, stages } = graph.op(node).clone() {
                trim(graph, node, load, &stages, &mut decisions)?;
            }
        }
        Ok(decisions)
    }
}

type Kept = Vec<Vec<(usize, u32, Option<Value>)>>;

fn reductions_kept(kept: &Kept) -> usize {
    kept.iter().map(Vec::len).sum()
}

fn trim(graph: &mut LevelGraph, node: NodeId, load: FoldLoad, stages: &[Stage], decisions: &mut Vec<Decision>) -> Result<()> {
    let used = |port: u32| {
        graph.uses(node).iter().any(|used| used.port == port) || graph.outputs().iter().any(|output| output.value == Value { node, port })
    };
    let operands = graph.operands(node);
    let (source, weights) = operands.split_at(load.operands());
    let mut weights = weights.iter().copied();
    // (what stays, its old port, its weights), stage by stage.
    let mut kept: Kept = Vec::new();
    let mut port = 0;
    for (index, stage) in stages.iter().enumerate() {
        let feeds = stages.get(index + 1).map(|next| crate::widen(next.feed));
        let mut here = Vec::new();
        for (which, reduction) in stage.reductions.iter().enumerate() {
            let weight = if reduction.weighted { weights.next() } else { None };
            if used(port) || feeds == Some(which) {
                here.push((which, port, weight));
            }
            port += 1;
        }
        kept.push(here);
    }
    while kept.last().is_some_and(|stage| stage.iter().all(|(_, port, _)| !used(*port))) {
        kept.pop();
        // What fed the stage that is gone has to be used on its own account now.
        if let Some(last) = kept.last_mut() {
            last.retain(|(_, port, _)| used(*port));
        }
    }
    let total: usize = stages.iter().map(|stage| stage.reductions.len()).sum();
    if reductions_kept(&kept) == total {
        return Ok(());
    }
    let mut operands: SmallVec<[Value; 4]> = source.into();
    let mut trimmed: SmallVec<[Stage; 1]> = SmallVec::new();
    let mut ports: SmallVec<[u32; 4]> = SmallVec::new();
    for (index, here) in kept.iter().enumerate() {
        let old = &stages[index];
        let feed = match index.checked_sub(1) {
            None => 0,
            Some(before) => kept[before].iter().position(|(which, ..)| *which == crate::widen(old.feed)).unwrap_or(0),
        };
        let reductions = here.iter().map(|(which, ..)| old.reductions[*which].clone()).collect();
        trimmed.push(Stage { table: old.table, feed: u32::try_from(feed).unwrap_or(u32::MAX), ops: old.ops.clone(), reductions });
        operands.extend(here.iter().filter_map(|(.., weight)| *weight));
        ports.extend(here.iter().map(|(_, port, _)| *port));
    }
    let origins = graph.merged_origins(&[node]);
    let level = graph.node(node).level;
    let reductions = u32::try_from(total - reductions_kept(&kept)).unwrap_or(u32::MAX);
    decisions.push(Decision::TrimmedFold { ops: Names::of(graph, node), reductions });
    let fold = graph.add(Op::Fold { load, stages: trimmed }, &operands, level, origins)?;
    for (to, from) in ports.into_iter().enumerate() {
        let to = u32::try_from(to).unwrap_or(u32::MAX);
        graph.replace(Value { node, port: from }, Value { node: fold, port: to });
    }
    graph.remove(node);
    Ok(())
}

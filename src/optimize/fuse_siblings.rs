//! fuse-siblings: folds of the same rows by the same table read them once.
//!
//! Weights and answers to empty segments may differ; reductions that are equal in everything are made once. Refused where one of the two
//! needs what the other makes (its weights, say), where one is a quantile, or where one step would
//! make more reductions than the target takes.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::error::Result;
use crate::graph::{FoldLoad, LevelGraph, Op, Reduction, Stage, Value, ValueType};
use crate::ids::NodeId;
use crate::reducer::ReducerClass;
use smallvec::{SmallVec, smallvec};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseSiblings;

impl Pass for FuseSiblings {
    fn name(&self) -> &'static str {
        "fuse-siblings"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        let mut folds: Vec<NodeId> = Vec::new();
        for node in graph.topological() {
            let Some(parts) = Parts::of(graph, node) else { continue };
            let mut merged = false;
            for first in &mut folds {
                let Some(other) = Parts::of(graph, *first) else { continue };
                if !other.reads_the_same(&parts) {
                    continue;
                }
                if other.selects() || parts.selects() {
                    let (first, second) = (Names::of(graph, *first), Names::of(graph, node));
                    decisions.push(Decision::RefusedSiblings { first, second, reason: Refusal::Selects });
                    continue;
                }
                if graph.reaches(*first, node) || graph.reaches(node, *first) {
                    let (first, second) = (Names::of(graph, *first), Names::of(graph, node));
                    decisions.push(Decision::RefusedSiblings { first, second, reason: Refusal::Depends });
                    continue;
                }
                let (reductions, limit) = (other.reductions_with(&parts), target.fusion.reductions);
                if reductions > limit {
                    let (first, second) = (Names::of(graph, *first), Names::of(graph, node));
                    let reason = Refusal::TooManyReductions { reductions, limit };
                    decisions.push(Decision::RefusedSiblings { first, second, reason });
                    continue;
                }
                let read_bytes = other.load_bytes(graph);
                let (names, second) = (Names::of(graph, *first), Names::of(graph, node));
                decisions.push(Decision::FusedSiblings { first: names, second, read_bytes });
                *first = merge(graph, *first, node, &other, &parts)?;
                merged = true;
                break;
            }
            if !merged {
                folds.push(node);
            }
        }
        Ok(decisions)
    }
}

/// A fold of one stage, taken apart.
struct Parts {
    load: FoldLoad,
    source: SmallVec<[Value; 2]>,
    stage: Stage,
    weights: SmallVec<[Option<Value>; 2]>,
}

impl Parts {
    fn of(graph: &LevelGraph, node: NodeId) -> Option<Parts> {
        if !graph.contains(node) {
            return None;
        }
        let Op::Fold { load, stages } = graph.op(node) else { return None };
        let [stage] = &stages[..] else { return None };
        let operands = graph.operands(node);
        let (source, mut weights) = operands.split_at(load.operands());
        let weights = stage
            .reductions
            .iter()
            .map(|reduction| {
                let (first, rest) = weights.split_first().filter(|_| reduction.weighted)?;
                weights = rest;
                Some(*first)
            })
            .collect();
        Some(Parts { load: *load, source: source.into(), stage: stage.clone(), weights })
    }

    fn reads_the_same(&self, other: &Parts) -> bool {
        self.load == other.load && self.source == other.source && self.stage.table == other.stage.table && self.stage.ops == other.stage.ops
    }

    fn selects(&self) -> bool {
        self.stage.reductions.iter().any(|reduction| reduction.reducer.class() == ReducerClass::Select)
    }

    /// How many reductions the two make as one.
    fn reductions_with(&self, other: &Parts) -> usize {
        let own = || self.stage.reductions.iter().zip(&self.weights);
        let new = other.stage.reductions.iter().zip(&other.weights).filter(|reduction| !own().any(|known| known == *reduction));
        self.stage.reductions.len() + new.count()
    }

    fn load_bytes(&self, graph: &LevelGraph) -> u64 {
        let segments = &graph.table(self.stage.table).segments;
        let row: u64 = self
            .source
            .iter()
            .map(|value| match graph.value_type(*value) {
                ty @ (ValueType::Rows { .. } | ValueType::Ragged { .. } | ValueType::Pieces { .. } | ValueType::Stacked { .. }) => {
                    ty.features() * ty.dtype().size_u64()
                }
            })
            .sum();
        segments.total_rows() * row
    }
}

fn merge(graph: &mut LevelGraph, first: NodeId, second: NodeId, a: &Parts, b: &Parts) -> Result<NodeId> {
    let mut reductions: SmallVec<[Reduction; 1]> = a.stage.reductions.clone();
    let mut weights = a.weights.clone();
    let mut ports: SmallVec<[u32; 2]> = smallvec![];
    for (reduction, weight) in b.stage.reductions.iter().zip(&b.weights) {
        let equal = reductions.iter().zip(&weights).position(|(other, other_weight)| other == reduction && other_weight == weight);
        let port = equal.unwrap_or_else(|| {
            reductions.push(reduction.clone());
            weights.push(*weight);
            reductions.len() - 1
        });
        ports.push(u32::try_from(port).unwrap_or(u32::MAX));
    }
    let mut operands: SmallVec<[Value; 4]> = a.source.iter().copied().collect();
    operands.extend(weights.iter().copied().flatten());
    let origins = graph.merged_origins(&[first, second]);
    let level = graph.node(first).level;
    let stages = smallvec![Stage { table: a.stage.table, feed: 0, ops: a.stage.ops.clone(), reductions }];
    let fold = graph.add(Op::Fold { load: a.load, stages }, &operands, level, origins)?;
    for port in 0..a.stage.reductions.len() {
        let port = u32::try_from(port).unwrap_or(u32::MAX);
        graph.replace(Value { node: first, port }, Value { node: fold, port });
    }
    for (port, to) in ports.into_iter().enumerate() {
        let port = u32::try_from(port).unwrap_or(u32::MAX);
        graph.replace(Value { node: second, port }, Value { node: fold, port: to });
    }
    graph.remove_unused_from(first);
    graph.remove_unused_from(second);
    Ok(fold)
}

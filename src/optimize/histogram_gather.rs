//! histogram-gather: where segments hold many more rows than the table that they are looked up in, ids are counted, and the rows of the table are
//! folded once a segment, each weighted by how often it occurs.
//!
//! For sums, means, maxima and minima without weights. Sums are bracketed otherwise, so they wait for `-O2`; maxima and minima do not round, and
//! need not wait. Levels of sums that are not kept are one level by then, where [`CollapseLevels`](super::CollapseLevels) composed their segments.
//!
//! It is a decision about cost, counted in operations on elements: with n ids, F features, T rows of the table and S segments, folding looked-up
//! rows takes n · F, and counting 4 · n for the counts and 2 · S · T · F for what they weigh. It has to take at most half.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::error::Result;
use crate::graph::{FoldLoad, LevelGraph, Op, ValueType};
use crate::ids::{NodeId, TableId, ViewId};
use crate::plan;
use crate::reducer::Reducer;

/// What counting one id takes, as operations on elements.
const COUNT: u64 = 4;
/// What a weighted element takes: it is computed in f64.
const WEIGHTED: u64 = 2;
/// It has to be cheaper by this factor.
const GAIN: u64 = 2;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct HistogramGather {
    /// Whether it may.
    pub exactness: Exactness,
}

impl Pass for HistogramGather {
    fn name(&self) -> &'static str {
        "histogram-gather"
    }

    fn exactness(&self) -> Exactness {
        self.exactness
    }

    fn run(&self, graph: &mut LevelGraph, target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for node in graph.topological() {
            let Op::Fold { load: FoldLoad::Gather, .. } = graph.op(node) else { continue };
            let Some(cost) = cost(graph, node) else { continue };
            let fold = Names::of(graph, node);
            decisions.push(match self.refusal(graph, node, cost, target) {
                Some(reason) => Decision::RefusedCount { fold, reason },
                None => {
                    if let Op::Fold { load, .. } = graph.op_mut(node) {
                        *load = FoldLoad::Histogram;
                    }
                    let Work { rows, table_rows, segments, folded, counted } = cost;
                    Decision::Counted { fold, rows, table_rows, segments, folded, counted }
                }
            });
        }
        Ok(decisions)
    }
}

/// What a fold takes both ways.
#[derive(Clone, Copy)]
struct Work {
    rows: u64,
    table_rows: u64,
    segments: u64,
    folded: u64,
    counted: u64,
}

/// Of a fold of one level; others were not fused yet.
fn cost(graph: &LevelGraph, fold: NodeId) -> Option<Work> {
    let Op::Fold { stages, .. } = graph.op(fold) else { return None };
    let [stage] = &stages[..] else { return None };
    let table = graph.operand(fold, 1)?;
    let ValueType::Rows { rows: table_rows, features, .. } = *graph.value_type(table) else { return None };
    let segments = &graph.table(stage.table).segments;
    let (rows, segments) = (segments.total_rows(), segments.len());
    let folded = rows.saturating_mul(features);
    let weighed = segments.saturating_mul(table_rows).saturating_mul(features);
    let counted = rows.saturating_mul(COUNT).saturating_add(weighed.saturating_mul(WEIGHTED));
    Some(Work { rows, table_rows, segments, folded, counted })
}

impl HistogramGather {
    fn refusal(&self, graph: &LevelGraph, fold: NodeId, cost: Work, target: &Target) -> Option<Refusal> {
        let Op::Fold { stages, .. } = graph.op(fold) else { return Some(Refusal::NotRows) };
        let reductions = &stages[0].reductions;
        if cost.counted.saturating_mul(GAIN) > cost.folded || cost.rows == 0 {
            return Some(Refusal::TooFewRows { folded: cost.folded, counted: cost.counted });
        }
        if reductions.iter().any(|reduction| reduction.weighted) {
            return Some(Refusal::Weighted);
        }
        if !stages[0].ops.is_empty() || reductions.iter().any(|reduction| !reduction.ops.is_empty()) {
            return Some(Refusal::WorksOnElements);
        }
        if let Some(other) = reductions.iter().find(|reduction| !reduction.reducer.takes_counts()) {
            return Some(Refusal::NotCounted(other.reducer.clone()));
        }
        if let Err(reason) = (target.supports)(&step(stages)) {
            return Some(Refusal::NotSupported(reason));
        }
        let chooses = |reducer: &Reducer| matches!(reducer, Reducer::Max | Reducer::Min);
        let adds = reductions.iter().any(|reduction| !chooses(&reduction.reducer));
        (adds && self.exactness == Exactness::BitExact).then_some(Refusal::WouldReassociate)
    }
}

/// A step of the kind that it would be: what a target is asked about.
fn step(stages: &[crate::graph::Stage]) -> plan::StepKind {
    let reduction = |reduction: &crate::graph::Reduction| plan::Reduction {
        reducer: reduction.reducer.clone(),
        weights: None,
        on_empty: reduction.on_empty,
        dtype: reduction.dtype,
        ops: reduction.ops.clone(),
        write: Some(ViewId::new(0)),
    };
    let stage = |stage: &crate::graph::Stage| plan::Stage {
        table: TableId::new(0),
        feed: 0,
        ops: stage.ops.clone(),
        reductions: stage.reductions.iter().map(reduction).collect(),
    };
    let load = plan::Load::Histogram { ids: ViewId::new(0), table: ViewId::new(0) };
    plan::StepKind::Fold(plan::Fold { load, stages: stages.iter().map(stage).collect() })
}

//! collapse-levels: two levels of one reducer become one, by composed segments; the rows between are never made.
//!
//! `max ∘ max` and `min ∘ min` keep every bit as long as no segment of the lower level is empty (its row would count as a value). `sum ∘ sum` and
//! `prod ∘ prod` bracket differently, so they wait for `-O2`; and nothing but brackets may change, so the level between has to be of the type that
//! its rows are added up in. (One of f16 or bf16 rounds each sum to eight or eleven bits; one of f64 above f32 rows is added up in f64.) Both folds must
//! be unweighted, of one type, the lower one's table an ordered partition, and nobody else may take the level between.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::dtype::DType;
use crate::encoder::{ElementOps, dtype_after};
use crate::error::Result;
use crate::graph::{FoldLoad, GraphTable, LevelGraph, Op, Reduction, Stage, Value};
use crate::ids::{NodeId, TableId};
use crate::reducer::Reducer;
use smallvec::smallvec;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct CollapseLevels {
    /// How far it may go.
    pub exactness: Exactness,
}

impl Pass for CollapseLevels {
    fn name(&self) -> &'static str {
        "collapse-levels"
    }

    fn exactness(&self) -> Exactness {
        self.exactness
    }

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for start in graph.topological() {
            let mut lower = start;
            while graph.contains(lower) {
                let Some((below, above, upper)) = pair(graph, lower) else { break };
                let (names, upper_names) = (Names::of(graph, lower), Names::of(graph, upper));
                match self.can_collapse(graph, rows_below(graph, lower), &below, &above) {
                    Ok(()) => {
                        let rows = graph.table(below.0).segments.len();
                        decisions.push(Decision::Collapsed { lower: names, upper: upper_names, rows });
                        lower = collapse(graph, lower, upper, below, above)?;
                    }
                    Err(reason) => {
                        // Levels that could never be one are not worth a word.
                        if reason != Refusal::ReducersDiffer {
                            decisions.push(Decision::RefusedCollapse { lower: names, upper: upper_names, reason });
                        }
                        break;
                    }
                }
            }
        }
        Ok(decisions)
    }
}

type Part = (TableId, ElementOps, Reduction);

/// A fold of one reduction, the fold of one reduction that alone takes its result, and that one's node.
fn pair(graph: &LevelGraph, lower: NodeId) -> Option<(Part, Part, NodeId)> {
    let single = |node: NodeId| {
        let Op::Fold { stages, .. } = graph.op(node) else { return None };
        let [Stage { table, ops, reductions, .. }] = &stages[..] else { return None };
        let [reduction] = &reductions[..] else { return None };
        Some((*table, ops.clone(), reduction.clone()))
    };
    let below = single(lower)?;
    let used = graph.only_use(lower).filter(|used| used.operand == 0)?;
    let reads_rows = matches!(graph.op(used.user), Op::Fold { load: FoldLoad::Rows, .. });
    let above = single(used.user).filter(|_| reads_rows)?;
    Some((below, above, used.user))
}

/// The type of the rows that a fold reads.
fn rows_below(graph: &LevelGraph, fold: NodeId) -> Option<DType> {
    let rows = match graph.op(fold) {
        Op::Fold { load: FoldLoad::Rows, .. } => 0,
        Op::Fold { load: FoldLoad::Gather | FoldLoad::Histogram, .. } => 1,
        Op::Input { .. }
        | Op::Gather
        | Op::Slice { .. }
        | Op::Transpose
        | Op::Contiguous
        | Op::Reduce(_)
        | Op::Stack
        | Op::Squeeze
        | Op::Rename
        | Op::Concat { .. }
        | Op::Spread { .. }
        | Op::Encode(_) => return None,
    };
    graph.operand(fold, rows).map(|rows| graph.value_type(rows).dtype())
}

impl CollapseLevels {
    fn can_collapse(&self, graph: &LevelGraph, rows: Option<DType>, below: &Part, above: &Part) -> Result<(), Refusal> {
        let ((table, before, lower), (_, between, upper)) = (below, above);
        let alike = lower.reducer == upper.reducer;
        if !alike || !matches!(lower.reducer, Reducer::Sum | Reducer::Prod | Reducer::Max | Reducer::Min) {
            return Err(Refusal::ReducersDiffer);
        }
        if lower.weighted || upper.weighted {
            return Err(Refusal::Weighted);
        }
        let segments = &graph.table(*table).segments;
        if !segments.is_partition() {
            return Err(Refusal::NotPartition);
        }
        if segments.empty_count() > 0 {
            return Err(Refusal::EmptySegments);
        }
        if !lower.ops.is_empty() || !between.is_empty() {
            return Err(Refusal::OperationsBetween);
        }
        if lower.dtype != upper.dtype {
            return Err(Refusal::RoundsBetween);
        }
        let exact = matches!(lower.reducer, Reducer::Max | Reducer::Min);
        let made_in = rows.map_or(lower.dtype, |rows| dtype_after(before, rows).accumulator());
        if !exact && made_in != lower.dtype {
            return Err(Refusal::OtherArithmetic { made_in, level: lower.dtype });
        }
        match self.exactness {
            Exactness::BitExact if !exact => Err(Refusal::WouldReassociate),
            Exactness::BitExact | Exactness::Reassociates => Ok(()),
        }
    }
}

fn collapse(graph: &mut LevelGraph, lower: NodeId, upper: NodeId, below: Part, above: Part) -> Result<NodeId> {
    let ((lower_table, ops, _), (upper_table, _, reduction)) = (below, above);
    let segments = graph.table(lower_table).segments.compose(&graph.table(upper_table).segments)?;
    let name = graph.table(upper_table).name.clone();
    let table = graph.add_table(GraphTable { name, segments, composed: Some((lower_table, upper_table)) });
    let Op::Fold { load, .. } = *graph.op(lower) else { return Ok(lower) };
    let operands = graph.operands(lower);
    let origins = graph.merged_origins(&[lower, upper]);
    let level = graph.node(upper).level;
    let stages = smallvec![Stage { table, feed: 0, ops, reductions: smallvec![reduction] }];
    let fold = graph.add(Op::Fold { load, stages }, &operands, level, origins)?;
    graph.replace(Value { node: upper, port: 0 }, Value { node: fold, port: 0 });
    graph.remove_unused_from(upper);
    Ok(fold)
}

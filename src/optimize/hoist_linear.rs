//! hoist-linear: `reduce(x W) = reduce(x) W` for sums and means, so a product of a row for each segment replaces one of every row.
//!
//! Sums are bracketed otherwise, so it waits for `-O2`, and says at `-O1` that it did. A bias passes through a mean; a sum would count it once
//! for each row. Refused where a segment is empty (its answer is no product), where a type in between would round (so in f16 and bf16, whose
//! sums may be far larger than what comes of them), and where something else takes the product.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::encoder::{Encoding, Kernel};
use crate::error::Result;
use crate::graph::{FoldLoad, LevelGraph, Op, Value, ValueType};
use crate::ids::NodeId;
use crate::reducer::Reducer;
use smallvec::{SmallVec, smallvec};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct HoistLinear {
    /// Whether it may.
    pub exactness: Exactness,
}

impl Pass for HoistLinear {
    fn name(&self) -> &'static str {
        "hoist-linear"
    }

    fn exactness(&self) -> Exactness {
        self.exactness
    }

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for node in graph.topological() {
            let Some((product, has_bias)) = product_below(graph, node) else { continue };
            let names = (Names::of(graph, product), Names::of(graph, node));
            match self.refusal(graph, product, node, has_bias) {
                Some(reason) => decisions.push(Decision::RefusedHoist { product: names.0, fold: names.1, reason }),
                None => decisions.push(hoist(graph, product, node, names)?),
            }
        }
        Ok(decisions)
    }
}

/// The bare matrix product that a fold of one sum or mean reads, and whether it has a bias.
fn product_below(graph: &LevelGraph, fold: NodeId) -> Option<(NodeId, bool)> {
    let Op::Fold { load: FoldLoad::Rows, stages } = graph.op(fold) else { return None };
    let [stage] = &stages[..] else { return None };
    let [reduction] = &stage.reductions[..] else { return None };
    let bare = stage.ops.is_empty() && reduction.ops.is_empty();
    if !bare || !matches!(reduction.reducer, Reducer::Sum | Reducer::Mean) {
        return None;
    }
    let rows = graph.operand(fold, 0)?;
    let Op::Encode(Encoding { kernel: Kernel::MatMul { bias, .. }, ops }) = graph.op(rows.node) else { return None };
    // Rows without features have no product that could be taken later.
    let below = graph.operand(rows.node, 0)?;
    (ops.is_empty() && graph.value_type(below).features() > 0).then_some((rows.node, bias.is_some()))
}

impl HoistLinear {
    fn refusal(&self, graph: &LevelGraph, product: NodeId, fold: NodeId, has_bias: bool) -> Option<Refusal> {
        let Op::Fold { stages, .. } = graph.op(fold) else { return Some(Refusal::NotRows) };
        let (table, reduction) = (stages[0].table, &stages[0].reductions[0]);
        let dtype = graph.value_type(Value { node: product, port: 0 }).dtype();
        if graph.is_output(product) {
            Some(Refusal::IsOutput)
        } else if graph.only_use(product).is_none() {
            Some(Refusal::UsedElsewhere)
        } else if graph.table(table).segments.empty_count() > 0 {
            Some(Refusal::EmptySegments)
        } else if reduction.dtype != dtype {
            Some(Refusal::RoundsBetween)
        } else if dtype != dtype.accumulator() {
            Some(Refusal::WouldRound(dtype))
        } else if has_bias && reduction.reducer != Reducer::Mean {
            Some(Refusal::AddsBias)
        } else if self.exactness == Exactness::BitExact {
            Some(Refusal::WouldReassociate)
        } else {
            None
        }
    }
}

fn hoist(graph: &mut LevelGraph, product: NodeId, fold: NodeId, (product_names, fold_names): (Names, Names)) -> Result<Decision> {
    let (fold_op, product_op) = (graph.op(fold).clone(), graph.op(product).clone());
    let product_operands = graph.operands(product);
    let mut fold_operands: SmallVec<[Value; 4]> = smallvec![product_operands[0]];
    fold_operands.extend(graph.operands(fold)[1..].iter().copied());
    let level = graph.node(fold).level;
    let (fold_origins, product_origins) = (graph.merged_origins(&[fold]), graph.merged_origins(&[product]));
    let rows = match *graph.value_type(Value { node: product, port: 0 }) {
        ValueType::Rows { rows, .. } => rows,
        ValueType::Ragged { .. } | ValueType::Pieces { .. } | ValueType::Stacked { .. } => 0,
    };
    let below = Value { node: graph.add(fold_op, &fold_operands, level, fold_origins)?, port: 0 };
    let ValueType::Rows { rows: segments, .. } = *graph.value_type(below) else {
        return Ok(Decision::RefusedHoist { product: product_names, fold: fold_names, reason: Refusal::NotRows });
    };
    let mut operands: SmallVec<[Value; 4]> = smallvec![below];
    operands.extend(product_operands[1..].iter().copied());
    let above = graph.add(product_op, &operands, level, product_origins)?;
    graph.replace(Value { node: fold, port: 0 }, Value { node: above, port: 0 });
    graph.remove_unused_from(fold);
    Ok(Decision::Hoisted { product: product_names, fold: fold_names, rows, segments })
}

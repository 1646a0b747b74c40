//! place-concat: the parts of a concat are written straight to its columns by the folds that make them.
//!
//! Refused where a part is not made by a fold, is an output of its own, stands in several places, or is made from another part (whose buffer it
//! would read and write at once).

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::error::Result;
use crate::graph::{ConcatHow, LevelGraph, Op, Value, ValueType};
use crate::ids::NodeId;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlaceConcat;

impl Pass for PlaceConcat {
    fn name(&self) -> &'static str {
        "place-concat"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for node in graph.topological() {
            if matches!(graph.op(node), Op::Concat { how: ConcatHow::Copied }) {
                decisions.push(place(graph, node));
            }
        }
        Ok(decisions)
    }
}

fn place(graph: &mut LevelGraph, node: NodeId) -> Decision {
    let concat = Names::of(graph, node);
    let refusal = graph.operands(node).iter().find_map(|part| graph.can_be_placed(*part, node).err());
    if let Some(reason) = refusal {
        return Decision::RefusedConcat { concat, reason: Refusal::CannotBePlaced(reason) };
    }
    *graph.op_mut(node) = Op::Concat { how: ConcatHow::Placed };
    let copied_bytes = match *graph.value_type(Value { node, port: 0 }) {
        ValueType::Rows { rows, features, dtype } => rows * features * dtype.size_u64(),
        ValueType::Ragged { .. } | ValueType::Pieces { .. } | ValueType::Stacked { .. } => 0,
    };
    Decision::PlacedConcat { concat, copied_bytes }
}

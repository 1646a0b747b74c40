//! The rules of a graph; each broken one is reported.
//!
//! 1. There is no cycle.
//! 2. The operands of a node are numbered 0, 1, 2, … without gaps, and name ports that exist.
//! 3. The types that a node carries are those that follow from its operation and its operands.
//! 4. Inputs are rows of distinct names.
//! 5. Each output names a value that exists and is rows; output names are distinct.
//! 6. Stages above the first of a fold have tables that partition their rows in order.
//! 7. A concat that is placed has operands that folds or encoders write, each used there once, nowhere an output or placed twice, and none
//!    made from another.
//! 8. A composed table has the content that its two parts give.
//! 9. The nodes of a tile exist, and are in one tile each; with the nodes of each tile together, there is still no cycle.

use super::{ConcatHow, Edge, LevelGraph, Op, ValueType, id_of, infer};
use crate::error::{Error, ErrorCode, Result};
use crate::ids::NodeId;
use petgraph::Direction;
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;

impl LevelGraph {
    /// Holds the graph against its rules (see the module).
    ///
    /// # Errors
    /// `graph-invalid`, with each broken rule among its causes.
    pub fn verify(&self) -> Result<()> {
        let mut found = Vec::new();
        let mut report = |node: Option<NodeId>, rule: u32, message: String| {
            let error = Error::new(ErrorCode::GraphInvalid, format!("{message} (rule {rule})"));
            found.push(match node {
                Some(node) => error.at_level(format!("{node} {}", self.level_name(node))),
                None => error,
            });
        };
        let order = self.topological();
        if order.len() != self.node_count() {
            report(None, 1, format!("{} nodes lie on a cycle", self.node_count() - order.len()));
        }
        let mut names: Vec<&str> = Vec::new();
        for node in self.graph.node_indices().map(id_of) {
            let mut edges: Vec<(Edge, NodeId)> = self
                .graph
                .edges_directed(super::index_of(node), Direction::Incoming)
                .map(|edge| (*edge.weight(), id_of(edge.source())))
                .collect();
            edges.sort_unstable_by_key(|(edge, _)| edge.operand);
            let mut sound = true;
            for (wanted, (edge, source)) in edges.iter().enumerate() {
                if crate::widen(edge.operand) != wanted || crate::widen(edge.port) >= self.types(*source).len() {
                    report(Some(node), 2, format!("operand {} is port {} of {source}", edge.operand, edge.port));
                    sound = false;
                }
            }
            if let Op::Input { name, .. } = self.op(node) {
                if names.contains(&&**name) || !matches!(self.types(node), [ValueType::Rows { .. }]) {
                    report(Some(node), 4, format!("input `{name}` is not rows, or not the only one of its name"));
                }
                names.push(name);
                continue;
            }
            if sound {
                let operands: SmallVec<[ValueType; 4]> = self.operands(node).iter().map(|value| *self.value_type(*value)).collect();
                match infer(self, self.op(node), &operands) {
                    Ok(types) if types[..] == *self.types(node) => {}
                    Ok(types) => report(Some(node), 3, format!("its types are {}", super::print::types(&types))),
                    Err(error) => report(Some(node), 3, error.to_string()),
                }
            }
            match self.op(node) {
                Op::Fold { stages, .. } => {
                    for stage in stages.iter().skip(1).filter(|stage| !self.table(stage.table).segments.is_partition()) {
                        report(Some(node), 6, format!("{} is not an ordered partition", stage.table));
                    }
                }
                Op::Concat { how: ConcatHow::Placed } => {
                    for operand in self.operands(node) {
                        if let Err(reason) = self.can_be_placed(operand, node) {
                            report(Some(node), 7, reason.to_string());
                        }
                    }
                }
                Op::Concat { how: ConcatHow::Copied }
                | Op::Input { .. }
                | Op::Gather
                | Op::Slice { .. }
                | Op::Transpose
                | Op::Contiguous
                | Op::Reduce(_)
                | Op::Stack
                | Op::Squeeze
                | Op::Rename
                | Op::Spread { .. }
                | Op::Encode(_) => {}
            }
        }
        for (index, output) in self.outputs.iter().enumerate() {
            let sound = self.contains(output.value.node)
                && matches!(self.types(output.value.node).get(crate::widen(output.value.port)), Some(ValueType::Rows { .. }))
                && self.outputs[..index].iter().all(|other| other.name != output.name);
            if !sound {
                report(None, 5, format!("output `{}` is not rows, or named twice", output.name));
            }
        }
        for table in &self.tables {
            if let Some((lower, upper)) = table.composed {
                let composed = self.table(lower).segments.compose(&self.table(upper).segments);
                if composed.is_ok_and(|composed| composed == table.segments) {
                    continue;
                }
                report(None, 8, format!("table `{}` is not {upper} over {lower}", table.name));
            }
        }
        let mut tiled: Vec<NodeId> = self.tiles.iter().flat_map(|tile| tile.nodes.iter().copied()).collect();
        tiled.sort_unstable();
        let whole = tiled.iter().all(|node| self.contains(*node)) && tiled.windows(2).all(|pair| pair[0] != pair[1]);
        let inside = |tile: usize| {
            self.tiles[tile].inside.is_none_or(|outer| outer < self.tiles.len() && !self.around(outer).any(|other| other == tile))
        };
        if !whole || !(0..self.tiles.len()).all(inside) || self.schedule().len() != order.len() {
            report(None, 9, "a tile has a node that is gone, or another tile's, or waits for itself".to_owned());
        }
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::collected(ErrorCode::GraphInvalid, "the graph breaks its rules", found))
    }

    /// Why a value cannot be written straight into the columns of a concat.
    pub(crate) fn can_be_placed(&self, value: super::Value, concat: NodeId) -> std::result::Result<(), &'static str> {
        if !matches!(self.op(value.node), Op::Fold { .. } | Op::Encode(_)) {
            return Err("a part is not made by a fold or an encoder");
        }
        if self.outputs.iter().any(|output| output.value == value) {
            return Err("a part is an output of its own");
        }
        let places = self.uses(value.node).into_iter().filter(|used| {
            used.port == value.port && (used.user == concat || matches!(self.op(used.user), Op::Concat { how: ConcatHow::Placed }))
        });
        if places.count() != 1 {
            return Err("a part stands in several places");
        }
        // A step may not read the buffer that it writes.
        let parts = self.operands(concat);
        if self.operands(value.node).iter().any(|operand| parts.contains(operand)) {
            return Err("a part is made from another part");
        }
        Ok(())
    }
}

//! Nodes that run together, and the order of all nodes in which they do.

use super::{LevelGraph, id_of, index_of};
use crate::ids::{NodeId, TableId};
use petgraph::Direction;
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;

/// Nodes whose steps run together, some segments at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphTile {
    /// The nodes, by id. Nothing outside depends on one of them and is an operand, however far, of another.
    pub nodes: Vec<NodeId>,
    /// Whose segments.
    pub table: TableId,
    /// The most rows at a time.
    pub rows: u64,
}

impl LevelGraph {
    /// The nodes that run together, where a pass said so.
    pub fn tiles(&self) -> &[GraphTile] {
        &self.tiles
    }

    pub(crate) fn tiles_mut(&mut self) -> &mut Vec<GraphTile> {
        &mut self.tiles
    }

    /// The nodes in the order of [`topological`](Self::topological), but those of each tile one after the other.
    ///
    /// Tiles that wait for each other, or for themselves, are left out: [`verify`](Self::verify) reports them.
    pub fn schedule(&self) -> Vec<NodeId> {
        let order = self.topological();
        if self.tiles.is_empty() {
            return order;
        }
        // Nodes that go together are known by the first of them, in order; the others wait in its place.
        let bound = order.iter().map(|node| node.index() + 1).max().unwrap_or(0);
        let mut tile_of: Vec<Option<usize>> = vec![None; bound];
        for (tile, nodes) in self.tiles.iter().map(|tile| &tile.nodes).enumerate() {
            nodes.iter().filter(|node| self.contains(**node)).for_each(|node| tile_of[node.index()] = Some(tile));
        }
        // Groups: tiles first, then every node, those in tiles unused.
        let group = |node: NodeId| tile_of[node.index()].unwrap_or(self.tiles.len() + node.index());
        let mut members: Vec<SmallVec<[NodeId; 1]>> = vec![SmallVec::new(); self.tiles.len() + bound];
        let mut waiting = vec![0u32; members.len()];
        for &node in &order {
            members[group(node)].push(node);
            for edge in self.graph.edges_directed(index_of(node), Direction::Incoming) {
                waiting[group(node)] += u32::from(group(id_of(edge.source())) != group(node));
            }
        }
        let key = |group: usize| members[group].first().map_or(usize::MAX, |first| first.index());
        let mut ready: std::collections::BinaryHeap<_> = (0..members.len())
            .filter(|group| waiting[*group] == 0 && !members[*group].is_empty())
            .map(|group| std::cmp::Reverse((key(group), group)))
            .collect();
        let mut scheduled = Vec::with_capacity(order.len());
        while let Some(std::cmp::Reverse((_, next))) = ready.pop() {
            scheduled.extend(members[next].iter().copied());
            for edge in members[next].iter().flat_map(|node| self.graph.edges_directed(index_of(*node), Direction::Outgoing)) {
                let target = group(id_of(edge.target()));
                if target != next {
                    waiting[target] -= 1;
                    if waiting[target] == 0 {
                        ready.push(std::cmp::Reverse((key(target), target)));
                    }
                }
            }
        }
        scheduled
    }
}

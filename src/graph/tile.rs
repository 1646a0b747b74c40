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
    /// The tile, by number, that it runs inside: whose rows its folds make.
    pub inside: Option<usize>,
}

impl LevelGraph {
    /// The nodes that run together, where a pass said so.
    pub fn tiles(&self) -> &[GraphTile] {
        &self.tiles
    }

    pub(crate) fn tiles_mut(&mut self) -> &mut Vec<GraphTile> {
        &mut self.tiles
    }

    /// The tiles that a tile runs inside, itself first.
    pub(crate) fn around(&self, tile: usize) -> impl Iterator<Item = usize> + '_ {
        // No longer than there are tiles, should they run in circles.
        std::iter::successors(Some(tile), |tile| self.tiles.get(*tile).and_then(|tile| tile.inside)).take(self.tiles.len())
    }

    /// The nodes in the order of [`topological`](Self::topological), but those of each tile one after the other, and behind those of the tile inside it.
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
        // Groups: tiles first, as the outermost that they are in, then every node, those in tiles unused.
        let outermost: Vec<usize> = (0..self.tiles.len()).map(|tile| self.around(tile).last().unwrap_or(tile)).collect();
        let group = |node: NodeId| tile_of[node.index()].map_or(self.tiles.len() + node.index(), |tile| outermost[tile]);
        let mut members: Vec<SmallVec<[NodeId; 1]>> = vec![SmallVec::new(); self.tiles.len() + bound];
        let mut waiting = vec![0u32; members.len()];
        for &node in &order {
            members[group(node)].push(node);
            for edge in self.graph.edges_directed(index_of(node), Direction::Incoming) {
                waiting[group(node)] += u32::from(group(id_of(edge.source())) != group(node));
            }
        }
        let depth = |node: &NodeId| tile_of[node.index()].map_or(0, |tile| self.around(tile).count());
        members.iter_mut().take(self.tiles.len()).for_each(|members| members.sort_by_key(|node| std::cmp::Reverse(depth(node))));
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

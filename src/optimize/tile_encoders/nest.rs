//! Tiles that run inside others.

use super::{row_bytes, row_operands};
use crate::backend::TileLimits;
use crate::graph::{LevelGraph, Op, Use};
use crate::ids::NodeId;
use crate::optimize::{Decision, Refusal};
use crate::plan::Tile;
use crate::widen_u64;

/// Runs a tile inside the one whose rows its folds make, if there is one: what they make is there a window at a time then.
pub(super) fn nest(graph: &mut LevelGraph, inner: usize, limits: TileLimits) -> Option<Decision> {
    let outer = fed(graph, inner)?;
    let made: Vec<NodeId> = graph.tiles()[inner].nodes.iter().copied().filter(|node| stays(graph, *node, outer)).collect();
    let level = graph.level_name(*made.first()?).clone();
    if graph.tiles().iter().any(|tile| tile.inside == Some(outer)) || !is_next(graph, inner, outer) {
        return None;
    }
    let refuse = |reason| Some(Decision::RefusedTile { level: level.clone(), reason });
    let windows = windows(graph, outer, limits.share);
    if windows < limits.share {
        return refuse(Refusal::TooFewWindows { windows, least: limits.share });
    }
    graph.tiles_mut()[inner].inside = Some(outer);
    if graph.schedule().len() != graph.node_count() {
        graph.tiles_mut()[inner].inside = None;
        return refuse(Refusal::Depends);
    }
    let bytes = |node: &NodeId| graph.table(graph.tiles()[outer].table).segments.rows().saturating_mul(row_bytes(graph, *node));
    let written_bytes = made.iter().map(bytes).fold(0, u64::saturating_add);
    let uses = |node: &NodeId| bytes(node).saturating_mul(widen_u64(graph.uses(*node).len()));
    let read_bytes = made.iter().map(uses).fold(0, u64::saturating_add);
    Some(Decision::Nested { level, rows: graph.tiles()[inner].rows, written_bytes, read_bytes })
}

/// The tile that takes what a fold of a tile makes, row by row.
fn fed(graph: &LevelGraph, inner: usize) -> Option<usize> {
    let folds = graph.tiles()[inner].nodes.iter().filter(|node| is_fold(graph, **node));
    folds.flat_map(|fold| graph.uses(*fold)).find_map(|used| tile_of(graph, used.user).filter(|tile| *tile != inner))
}

fn is_fold(graph: &LevelGraph, node: NodeId) -> bool {
    matches!(graph.op(node), Op::Fold { .. })
}

fn tile_of(graph: &LevelGraph, node: NodeId) -> Option<usize> {
    graph.tiles().iter().position(|tile| tile.nodes.contains(&node))
}

/// Whether nobody but a tile takes what a fold makes.
fn stays(graph: &LevelGraph, fold: NodeId, outer: usize) -> bool {
    is_fold(graph, fold)
        && !graph.is_output(fold)
        && !graph.uses(fold).is_empty()
        && graph.uses(fold).iter().all(|used| takes_rows(graph, fold, used, outer))
}

/// Whether a use of a node is by row, and in a tile.
fn takes_rows(graph: &LevelGraph, node: NodeId, used: &Use, outer: usize) -> bool {
    let by_row = row_operands(graph, used.user).iter().filter(|value| value.node == node).count();
    let all = graph.operands(used.user).iter().filter(|value| value.node == node).count();
    tile_of(graph, used.user) == Some(outer) && by_row == all
}

/// Whether the rows of one tile are the segments of another, and nothing else goes from that, or from what runs inside it, to this one or around it.
fn is_next(graph: &LevelGraph, inner: usize, outer: usize) -> bool {
    let segments = |tile: usize| &graph.table(graph.tiles()[tile].table).segments;
    let around: Vec<usize> = graph.around(outer).collect();
    let inside = (0..graph.tiles().len()).filter(|tile| graph.around(*tile).any(|other| other == inner));
    let only_rows = |tile: usize| {
        let uses = graph.tiles()[tile].nodes.iter().flat_map(|node| graph.uses(*node).into_iter().map(move |used| (*node, used)));
        let mut going = uses.filter(|(_, used)| tile_of(graph, used.user).is_some_and(|user| around.contains(&user)));
        going.all(|(node, used)| tile == inner && is_fold(graph, node) && takes_rows(graph, node, &used, outer))
    };
    let back = |tile: &usize| {
        let mut uses = graph.tiles()[*tile].nodes.iter().flat_map(|node| graph.uses(*node));
        uses.any(|used| tile_of(graph, used.user).is_some_and(|user| graph.around(user).any(|other| other == inner)))
    };
    segments(inner).len() == segments(outer).rows()
        && !around.contains(&inner)
        && inside.into_iter().all(only_rows)
        && !around.iter().any(back)
}

/// How many windows the outermost of some tiles has, counted no further than to `enough`.
fn windows(graph: &LevelGraph, tile: usize, enough: u64) -> u64 {
    let outermost = &graph.tiles()[graph.around(tile).last().unwrap_or(tile)];
    let offsets = graph.table(outermost.table).segments.offsets().unwrap_or(&[]);
    widen_u64(Tile::windows(offsets, outermost.rows).take(usize::try_from(enough).unwrap_or(usize::MAX)).count())
}

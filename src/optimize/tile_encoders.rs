//! tile-encoders: encoders of a level, and the fold of what they make, run window by window, so that the level is never written to memory in whole.
//!
//! A window is some whole segments of the next level. All steps of the level are done to it before the next one, in scratch that stays in
//! cache. Nothing looks across segments, and a row has the same bits whatever it is encoded beside, so no bit changes.
//!
//! 1. From the rows that a fold reads, what makes them joins, and what makes what that takes row by row: encoders along the same segments, lookups, spreads
//!    and concats. Then every fold of what only they take, by those segments.
//! 2. Encoders that no fold takes, as those of a kept level or of the topmost one, are tiled by the segments that they look along.
//!
//! 3. A tile whose folds make the rows of another runs inside it: for a window of that, over the windows of what becomes its rows.
//!
//! What is kept, or used elsewhere too, is written in whole, window after window; the rest is not. How many rows a window has follows from [`TileLimits`].
//! A level is left alone where its longest segment is too much for one window, or where something in between waits for the whole level.

mod nest;

use super::{Decision, Exactness, Pass, Refusal};
use crate::backend::{Target, TileLimits};
use crate::error::Result;
use crate::graph::{ConcatHow, FoldLoad, GraphTile, LevelGraph, Op, Value, ValueType};
use crate::ids::{NodeId, TableId};
use crate::segments::Segments;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct TileEncoders;

impl Pass for TileEncoders {
    fn name(&self) -> &'static str {
        "tile-encoders"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        let Some(limits) = target.tiles else { return Ok(decisions) };
        let mut refused = BTreeSet::new();
        let order = graph.topological();
        for &node in &order {
            if let Some(rows) = tiled_rows(graph, node)
                && let Op::Fold { stages, .. } = graph.op(node)
            {
                let table = stages[0].table;
                decisions.extend(tile(graph, &order, rows.node, table, limits, &mut refused));
            }
        }
        for &node in order.iter().rev() {
            if is_encoded(graph, node)
                && !refused.contains(&node)
                && let Some(table) = looked_along(graph, node)
            {
                decisions.extend(tile(graph, &order, node, table, limits, &mut refused));
            }
        }
        for inner in 0..graph.tiles().len() {
            decisions.extend(nest::nest(graph, inner, limits));
        }
        Ok(decisions)
    }
}

/// The rows that a fold of one level reads, where an encoder makes them.
pub(super) fn tiled_rows(graph: &LevelGraph, fold: NodeId) -> Option<Value> {
    let Op::Fold { load: FoldLoad::Rows, stages } = graph.op(fold) else { return None };
    let rows = graph.operand(fold, 0).filter(|_| stages.len() == 1)?;
    is_encoded(graph, rows.node).then_some(rows)
}

/// Whether an encoder makes the rows of a node, or some of their columns.
fn is_encoded(graph: &LevelGraph, node: NodeId) -> bool {
    match graph.op(node) {
        Op::Encode(_) => true,
        Op::Concat { .. } => graph.operands(node).iter().any(|part| is_encoded(graph, part.node)),
        Op::Input { .. }
        | Op::Gather
        | Op::Slice { .. }
        | Op::Transpose
        | Op::Contiguous
        | Op::Reduce(_)
        | Op::Stack
        | Op::Squeeze
        | Op::Rename
        | Op::Spread { .. }
        | Op::Fold { .. } => false,
    }
}

/// The first table whose segments an encoder looks along that makes a node's rows, or what they are made of row by row.
fn looked_along(graph: &LevelGraph, node: NodeId) -> Option<TableId> {
    let (mut open, mut seen): (SmallVec<[NodeId; 8]>, BTreeSet<NodeId>) = (smallvec::smallvec![node], BTreeSet::new());
    while let Some(node) = open.pop().filter(|_| !graph.tiles().iter().any(|tile| tile.nodes.contains(&node))) {
        if let Op::Encode(encoding) = graph.op(node)
            && let Some(table) = encoding.tables().first()
        {
            return Some(*table);
        }
        open.extend(row_operands(graph, node).iter().map(|value| value.node).filter(|node| seen.insert(*node)));
    }
    None
}

/// Tiles what makes the rows of a node, by the segments of a table; or says why not, and which nodes were refused.
fn tile(
    graph: &mut LevelGraph,
    order: &[NodeId],
    last: NodeId,
    table: TableId,
    limits: TileLimits,
    refused_nodes: &mut BTreeSet<NodeId>,
) -> Option<Decision> {
    if graph.tiles().iter().any(|tile| tile.nodes.contains(&last)) {
        return None;
    }
    let level = graph.level_name(last).clone();
    let refuse = |reason| Some(Decision::RefusedTile { level: level.clone(), reason });
    let segments = graph.table(table).segments.clone();
    if !segments.is_partition() {
        return refuse(Refusal::NotPartition);
    }
    let mut nodes = BTreeSet::new();
    grow(graph, last, &segments, &mut nodes);
    let folds = folds(graph, &segments, &mut nodes);
    let inner: Vec<NodeId> = order.iter().copied().filter(|node| nodes.contains(node) && stays(graph, *node, &nodes)).collect();
    if inner.is_empty() || segments.rows() == 0 {
        return None;
    }
    let rows = segments.rows();
    let fitting = limits.rows.max(limits.bytes / a_row(graph, order, &inner, &nodes).max(1));
    let limit = fitting.max(rows / limits.share.max(1));
    if segments.longest() > limit {
        refused_nodes.extend(nodes);
        return refuse(Refusal::SegmentTooLong { rows: segments.longest(), limit });
    }
    if nodes.iter().filter(|node| is_placed(graph, **node)).any(|node| graph.operands(*node).iter().any(|part| !nodes.contains(&part.node)))
    {
        refused_nodes.extend(nodes);
        return refuse(Refusal::Depends);
    }
    let (mut written_bytes, mut read_bytes) = (0u64, 0u64);
    for &node in &inner {
        let bytes = rows.saturating_mul(row_bytes(graph, node));
        let uses = crate::widen_u64(graph.uses(node).len());
        written_bytes = written_bytes.saturating_add(bytes);
        read_bytes = read_bytes.saturating_add(bytes.saturating_mul(uses));
    }
    let rows = fitting.min(rows).max(segments.longest());
    graph.tiles_mut().push(GraphTile { nodes: nodes.iter().copied().collect(), table, rows, inside: None });
    if graph.schedule().len() != graph.node_count() {
        graph.tiles_mut().pop();
        refused_nodes.extend(nodes);
        return refuse(Refusal::Depends);
    }
    Some(Decision::Tiled { level, folds: u32::try_from(folds).unwrap_or(u32::MAX), rows, written_bytes, read_bytes })
}

/// What a node takes row by row.
fn row_operands(graph: &LevelGraph, node: NodeId) -> SmallVec<[Value; 4]> {
    let operands = graph.operands(node);
    match graph.op(node) {
        Op::Encode(encoding) => {
            let numbers = encoding.operands().into_iter().zip(encoding.takes_rows()).filter(|(_, row)| *row).map(|(number, _)| number);
            numbers.filter_map(|number| operands.get(crate::widen(*number)).copied()).collect()
        }
        Op::Concat { .. } | Op::Fold { .. } => operands,
        Op::Input { .. }
        | Op::Gather
        | Op::Slice { .. }
        | Op::Transpose
        | Op::Contiguous
        | Op::Reduce(_)
        | Op::Stack
        | Op::Squeeze
        | Op::Rename
        | Op::Spread { .. } => SmallVec::new(),
    }
}

/// Adds a node, where it makes rows of these segments one by one, and what makes the rows that it takes.
fn grow(graph: &LevelGraph, node: NodeId, segments: &Segments, nodes: &mut BTreeSet<NodeId>) {
    let mut open: SmallVec<[NodeId; 8]> = smallvec::smallvec![node];
    while let Some(node) = open.pop() {
        if makes_rows(graph, node, segments) && nodes.insert(node) {
            open.extend(row_operands(graph, node).iter().map(|value| value.node));
        }
    }
}

fn makes_rows(graph: &LevelGraph, node: NodeId, segments: &Segments) -> bool {
    let alike = |table: &TableId| graph.table(*table).segments.hash() == segments.hash();
    let fits = match graph.op(node) {
        Op::Encode(encoding) => encoding.tables().iter().all(alike),
        Op::Gather | Op::Concat { .. } => true,
        Op::Spread { table } => spreads_into(&graph.table(*table).segments, segments),
        Op::Input { .. }
        | Op::Slice { .. }
        | Op::Transpose
        | Op::Contiguous
        | Op::Reduce(_)
        | Op::Stack
        | Op::Squeeze
        | Op::Rename
        | Op::Fold { .. } => false,
    };
    let rows = matches!(graph.types(node), [ValueType::Rows { rows, .. }] if *rows == segments.rows());
    fits && rows && !graph.tiles().iter().any(|tile| tile.nodes.contains(&node))
}

/// Whether the rows of each segment of one table become those of a segment of another.
fn spreads_into(from: &Segments, into: &Segments) -> bool {
    let length = |range: std::ops::Range<u64>| range.end - range.start;
    from.len() == into.len() && from.ranges().map(length).eq(into.ranges().map(length))
}

/// Adds the folds of what stays in the tile then, and what makes their weights; returns how many.
fn folds(graph: &LevelGraph, segments: &Segments, nodes: &mut BTreeSet<NodeId>) -> usize {
    let mut added = 0;
    let users: BTreeSet<NodeId> = nodes.iter().flat_map(|node| graph.uses(*node)).map(|used| used.user).collect();
    let may = |user: &NodeId| {
        let by = |stages: &[crate::graph::Stage]| graph.table(stages[0].table).segments.hash() == segments.hash();
        tiled_rows(graph, *user).is_some_and(|rows| nodes.contains(&rows.node))
            && matches!(graph.op(*user), Op::Fold { stages, .. } if by(stages))
            && !graph.tiles().iter().any(|tile| tile.nodes.contains(user))
    };
    let mut candidates: BTreeSet<NodeId> = users.into_iter().filter(may).collect();
    let mut all = nodes.clone();
    for fold in &candidates {
        for weights in graph.operands(*fold).iter().skip(1) {
            grow(graph, weights.node, segments, &mut all);
        }
    }
    // What a fold reads has to stay in the tile with it.
    loop {
        let with: BTreeSet<NodeId> = all.iter().chain(&candidates).copied().collect();
        let leaves = |fold: &NodeId| graph.operand(*fold, 0).is_none_or(|rows| !stays(graph, rows.node, &with));
        let Some(leaving) = candidates.iter().copied().find(leaves) else { break };
        candidates.remove(&leaving);
    }
    if !candidates.is_empty() {
        added = candidates.len();
        nodes.extend(all);
        nodes.extend(candidates);
    }
    added
}

/// Whether nobody outside takes what a node makes of each row.
fn stays(graph: &LevelGraph, node: NodeId, nodes: &BTreeSet<NodeId>) -> bool {
    let taken =
        |used: &crate::graph::Use| nodes.contains(&used.user) && row_operands(graph, used.user).iter().any(|value| value.node == node);
    let uses = graph.uses(node);
    // What is written to the columns of a concat lies where that does.
    let whole = uses.iter().filter(|used| is_placed(graph, used.user)).all(|used| stays(graph, used.user, nodes));
    whole && !matches!(graph.op(node), Op::Fold { .. }) && !graph.is_output(node) && uses.iter().all(taken)
}

fn is_placed(graph: &LevelGraph, node: NodeId) -> bool {
    matches!(graph.op(node), Op::Concat { how: ConcatHow::Placed })
}

fn row_bytes(graph: &LevelGraph, node: NodeId) -> u64 {
    match graph.types(node) {
        [ValueType::Rows { features, dtype, .. }] => features.saturating_mul(dtype.size_u64()),
        _ => 0,
    }
}

/// The most bytes of a row that stay in the tile at one time.
fn a_row(graph: &LevelGraph, order: &[NodeId], inner: &[NodeId], nodes: &BTreeSet<NodeId>) -> u64 {
    let steps: Vec<NodeId> = order.iter().copied().filter(|node| nodes.contains(node)).collect();
    let at = |node: NodeId| steps.iter().position(|step| *step == node).unwrap_or(0);
    let live: Vec<(usize, usize, u64)> = inner
        .iter()
        .map(|node| {
            let last = graph.uses(*node).iter().map(|used| at(used.user)).max().unwrap_or(0);
            (at(*node), last, row_bytes(graph, *node))
        })
        .collect();
    let at_step = |step: usize| {
        let alive = live.iter().filter(|(first, last, _)| (*first..=*last).contains(&step));
        alive.fold(0u64, |sum, (.., bytes)| sum.saturating_add(*bytes))
    };
    (0..steps.len()).map(at_step).max().unwrap_or(0)
}

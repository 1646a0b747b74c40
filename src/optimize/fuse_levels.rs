//! fuse-levels: a fold that feeds a fold becomes one step, depth first: each leaf row is read once, and a level that nobody keeps is never
//! written.
//!
//! Only where every table above the lowest partitions its rows in order: then the rows of a level are done in the order in which the
//! next one takes them. How deep is a decision about cost. A fused step is cut for threads between *units*: 32 rows of what its topmost stage folds, with
//! everything beneath them, because a block of 32 rows is added up in one go. The level joins as long as the largest unit has at most
//! [`unit_rows`](crate::backend::FusionLimits::unit_rows) leaf rows, or one part in
//! [`unit_share`](crate::backend::FusionLimits::unit_share) of all of them. Above, levels are so few rows that a step of their own costs
//! nothing, and long segments are cut well by it. A target may take so many stages and reductions in one step and no more,
//! and so many that go over a block's rows twice.
//!
//! A fold of encoded rows takes in no level above it, where the target runs encoders in [tiles](crate::plan::Tile): it is done window by window.
//!
//! A quantile is never fused: it selects among all rows of a segment at once.
//!
//! A level of several reducers is read as rows of all their results side by side, and a stage is fed by one reduction: the level above it starts a
//! step of its own.
//!
//! Where several folds read one level by different tables, the first takes it; the others read what it writes.

use super::{Decision, Exactness, Names, Pass, Refusal};
use crate::backend::Target;
use crate::error::Result;
use crate::graph::{FoldLoad, LevelGraph, Op, Stage, Value, ValueType, port_of};
use crate::ids::NodeId;
use crate::numerics::BLOCK_ROWS_U64;
use crate::reducer::ReducerClass;
use crate::segments::Segments;
use smallvec::SmallVec;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct FuseLevels;

impl Pass for FuseLevels {
    fn name(&self) -> &'static str {
        "fuse-levels"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        for start in graph.topological() {
            let mut lower = start;
            // A fold that was taken in has become another node, which goes on from there.
            while graph.contains(lower) && matches!(graph.op(lower), Op::Fold { .. }) {
                match fuse_next(graph, lower, target, &mut decisions)? {
                    Some(fused) => lower = fused,
                    None => break,
                }
            }
        }
        Ok(decisions)
    }
}

/// Fuses the first fold that can be fused onto `lower`, and reports those that cannot.
fn fuse_next(graph: &mut LevelGraph, lower: NodeId, target: &Target, decisions: &mut Vec<Decision>) -> Result<Option<NodeId>> {
    let Op::Fold { stages, .. } = graph.op(lower) else { return Ok(None) };
    let (below, last) = (stages.len() - 1, stages[stages.len() - 1].reductions.len());
    let first_port = port_of(stages, below, 0);
    let uses = graph.uses(lower);
    let fed = |port: u32| port.checked_sub(first_port).filter(|feed| crate::widen(*feed) < last);
    for used in &uses {
        if let Op::Concat { .. } = graph.op(used.user) {
            for above in graph.uses(used.user) {
                if above.operand == 0 && matches!(graph.op(above.user), Op::Fold { load: FoldLoad::Rows, .. }) {
                    refuse(graph, lower, above.user, Refusal::SideBySide, decisions);
                }
            }
            continue;
        }
        if used.operand != 0 || !matches!(graph.op(used.user), Op::Fold { load: FoldLoad::Rows, .. }) {
            continue;
        }
        let Some(feed) = fed(used.port) else {
            refuse(graph, lower, used.user, Refusal::FeedsAnother, decisions);
            continue;
        };
        match can_fuse(graph, lower, used.user, target) {
            Ok(unit) => {
                decisions.push(decide(graph, lower, used.user, used.port, unit));
                return fuse(graph, lower, used.user, feed).map(Some);
            }
            Err(reason) => refuse(graph, lower, used.user, reason, decisions),
        }
    }
    Ok(None)
}

fn refuse(graph: &LevelGraph, lower: NodeId, upper: NodeId, reason: Refusal, decisions: &mut Vec<Decision>) {
    let refusal = Decision::RefusedLevels { lower: Names::of(graph, lower), upper: Names::of(graph, upper), reason };
    if !decisions.contains(&refusal) {
        decisions.push(refusal);
    }
}

/// The leaf rows of the largest unit, where the two can be fused.
fn can_fuse(graph: &LevelGraph, lower: NodeId, upper: NodeId, target: &Target) -> Result<u64, Refusal> {
    let (Op::Fold { load, stages: below }, Op::Fold { stages: above, .. }) = (graph.op(lower), graph.op(upper)) else {
        return Err(Refusal::NotRows);
    };
    if *load == FoldLoad::Histogram {
        return Err(Refusal::FoldsCounts);
    }
    // What is made window by window is folded there, one level of it.
    if target.tiles.is_some() && super::tile_encoders::tiled_rows(graph, lower).is_some() {
        return Err(Refusal::FoldsTiles);
    }
    let selects = |stage: &Stage| stage.reductions.iter().any(|reduction| reduction.reducer.class() == ReducerClass::Select);
    if below.iter().chain(above).any(selects) {
        return Err(Refusal::Selects);
    }
    let stages = below.len() + above.len();
    if stages > target.fusion.stages {
        return Err(Refusal::TooManyStages { stages, limit: target.fusion.stages });
    }
    let reductions = below.iter().chain(above).map(|stage| stage.reductions.len()).sum();
    if reductions > target.fusion.reductions {
        return Err(Refusal::TooManyReductions { reductions, limit: target.fusion.reductions });
    }
    let goes_again = |stage: &&Stage| stage.reductions.iter().any(|reduction| reduction.reducer.passes() > 1);
    let again = below.iter().chain(above).filter(goes_again).count();
    if again > target.fusion.again {
        return Err(Refusal::TooManyAgain { again, limit: target.fusion.again });
    }
    let tables = |stages: &[Stage]| stages.iter().map(|stage| stage.table).collect::<SmallVec<[_; 4]>>();
    let (below, above) = (tables(below), tables(above));
    let partition = |table: &_| graph.table(*table).segments.is_partition();
    if !above.iter().all(partition) {
        return Err(Refusal::NotPartition);
    }
    // Apart from being fed, the upper fold must not wait for anything that waits for the lower one: its weights, say.
    let waits = graph.operands(upper)[1..].iter().any(|weights| graph.reaches(lower, weights.node));
    if waits {
        return Err(Refusal::Depends);
    }
    let leaves = &graph.table(below[0]).segments;
    let limit = target.fusion.unit_rows.max(leaves.total_rows() / target.fusion.unit_share.max(1));
    let chain: SmallVec<[&Segments; 4]> = below.iter().chain(&above).map(|table| &graph.table(*table).segments).collect();
    let unit = largest_unit(&chain);
    if unit > limit {
        return Err(Refusal::UnitTooLong { unit, limit });
    }
    Ok(unit)
}

/// The most leaf rows beneath one block of rows that the topmost table folds.
fn largest_unit(chain: &[&Segments]) -> u64 {
    let [lowest, partitions @ .., top] = chain else { return BLOCK_ROWS_U64 };
    // The leaf rows before a row of the lowest stage's result: its offsets, or a running sum where it has none.
    let running: Vec<u64> = match lowest.offsets() {
        Some(_) => Vec::new(),
        None => std::iter::once(0)
            .chain(lowest.ranges().scan(0, |sum, range| {
                *sum += range.end - range.start;
                Some(*sum)
            }))
            .collect(),
    };
    let leaves_before = lowest.offsets().unwrap_or(&running);
    let leaves_before = |row: u64| {
        let pick = |offsets: &[u64], row: u64| offsets[usize::try_from(row).unwrap_or(usize::MAX)];
        let row = partitions.iter().rev().filter_map(|table| table.offsets()).fold(row, |row, offsets| pick(offsets, row));
        pick(leaves_before, row)
    };
    let mut largest = 0;
    for segment in top.ranges() {
        let mut start = segment.start;
        let mut before = leaves_before(start);
        while start < segment.end {
            let end = segment.end.min(start + BLOCK_ROWS_U64);
            let after = leaves_before(end);
            largest = largest.max(after - before);
            (start, before) = (end, after);
        }
    }
    largest
}

fn decide(graph: &LevelGraph, lower: NodeId, upper: NodeId, port: u32, unit: u64) -> Decision {
    let between = Value { node: lower, port };
    let (mut read_bytes, mut written_bytes) = (0, 0);
    if let ValueType::Rows { rows, features, dtype } = *graph.value_type(between) {
        read_bytes = rows * features * dtype.size_u64();
        let kept = graph.outputs().iter().any(|output| output.value == between);
        let others = graph.uses(lower).iter().filter(|used| used.port == port).count() > 1;
        written_bytes = if kept || others { 0 } else { read_bytes };
    }
    Decision::FusedLevels { lower: Names::of(graph, lower), upper: Names::of(graph, upper), read_bytes, written_bytes, unit }
}

fn fuse(graph: &mut LevelGraph, lower: NodeId, upper: NodeId, feed: u32) -> Result<NodeId> {
    let (Op::Fold { load, stages: below }, Op::Fold { stages: above, .. }) = (graph.op(lower).clone(), graph.op(upper).clone()) else {
        return Ok(lower);
    };
    let mut operands = graph.operands(lower);
    operands.extend(graph.operands(upper)[1..].iter().copied());
    let lower_ports = graph.types(lower).len();
    let upper_ports = graph.types(upper).len();
    let mut stages = below;
    let joint = stages.len();
    stages.extend(above);
    stages[joint].feed = feed;
    let origins = graph.merged_origins(&[lower, upper]);
    let level = graph.node(upper).level;
    let fold = graph.add(Op::Fold { load, stages }, &operands, level, origins)?;
    let port = |port: usize| u32::try_from(port).unwrap_or(u32::MAX);
    for index in 0..upper_ports {
        graph.replace(Value { node: upper, port: port(index) }, Value { node: fold, port: port(lower_ports + index) });
    }
    graph.remove(upper);
    for index in 0..lower_ports {
        graph.replace(Value { node: lower, port: port(index) }, Value { node: fold, port: port(index) });
    }
    graph.remove(lower);
    Ok(fold)
}

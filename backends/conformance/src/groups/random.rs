//! Hierarchies and graphs from seeds: what nobody thought of.

use super::{FLOATS, IDS, lengths, ranges};
use crate::case::Case;
use crate::random::Random;
use crate::tensor::{Arrangement, Fill};
use levelfold::graph::{GraphBuilder, Reduce, Value, ValueType};
use levelfold::{DType, Hierarchy, Leaves, Level, OnEmpty, Reducer, Result, Segments};

const HIERARCHIES: u64 = 400;
const GRAPHS: u64 = 400;

/// Segments over `rows` rows: a partition or not, with lengths around blocks, with empty ones.
fn segments(random: &mut Random, rows: u64) -> Segments {
    let length = |random: &mut Random| match random.below(12) {
        0 => 0,
        1 => 31 + random.below(4),
        2 => 60 + random.below(10),
        3 => random.below(rows + 1),
        _ => 1 + random.below(7),
    };
    if random.chance(5) {
        let count = random.below(12);
        let one = |random: &mut Random| {
            let start = random.below(rows + 1);
            (start, start + length(random).min(rows - start))
        };
        let picked: Vec<(u64, u64)> = (0..count).map(|_| one(random)).collect();
        return ranges(&picked, rows);
    }
    let (mut each, mut left) = (Vec::new(), rows);
    while left > 0 {
        let next = length(random).min(left);
        each.push(next);
        left -= next;
    }
    if random.chance(4) {
        each.push(0);
    }
    lengths(&each)
}

fn on_empty(random: &mut Random) -> OnEmpty {
    *random.pick(&[OnEmpty::Zero, OnEmpty::NaN, OnEmpty::Fill(1.5), OnEmpty::Fill(-0.0)])
}

fn features(random: &mut Random) -> u64 {
    *random.pick(&[0, 1, 1, 2, 3, 4, 7, 8, 9, 16, 17, 33])
}

fn fill(random: &mut Random) -> Fill {
    *random.pick(&[Fill::Plain, Fill::Plain, Fill::Factors, Fill::Integers, Fill::Specials, Fill::Zeros, Fill::Subnormal])
}

/// A plain reducer more often than one with a state; none whose results cannot be folded further.
fn reducer(random: &mut Random) -> Reducer {
    if !random.chance(3) {
        return random.pick(&Reducer::PLAIN).clone();
    }
    let others: Vec<Reducer> = Reducer::ALL
        .into_iter()
        .chain(super::reducers::custom())
        .filter(|reducer| !reducer.gives_positions() && !reducer.needs_weights() && !Reducer::PLAIN.contains(reducer))
        .collect();
    random.pick(&others).clone()
}

/// Float types that can weigh values of a type.
fn weights_for(random: &mut Random, values: DType) -> DType {
    let fit: Vec<DType> = FLOATS.into_iter().filter(|weights| weights.widens_to(values.accumulator())).collect();
    *random.pick(&fit)
}

pub(super) fn hierarchies() -> Vec<Case> {
    (0..HIERARCHIES).map(hierarchy).collect()
}

fn hierarchy(seed: u64) -> Case {
    let mut random = Random::new(seed);
    let mut dtype = *random.pick(&FLOATS);
    let mut rows = random.below(260);
    let features = features(&mut random);
    let mut leaves = if random.chance(3) {
        Leaves::lookup("leaf", *random.pick(&IDS), dtype, 1 + random.below(250), features)
    } else {
        Leaves::values("leaf", dtype, features)
    };
    leaves.keep = random.chance(6);
    let mut hierarchy = Hierarchy::new(leaves);
    for depth in 0..1 + random.below(5) {
        let table = if random.chance(6) { Segments::whole(rows) } else { segments(&mut random, rows) };
        rows = table.len();
        let mut level = Level::new(&format!("level{depth}"), table).on_empty(on_empty(&mut random));
        level.keep = random.chance(3);
        level.reduce = (0..if random.chance(4) { 2 } else { 1 }).map(|_| reducer(&mut random)).collect();
        if level.reduce.iter().all(|reducer| reducer.takes_weights()) && random.chance(3) {
            level = level.weights(&format!("weights{depth}"), weights_for(&mut random, dtype));
        }
        if random.chance(4) {
            dtype = *random.pick(&FLOATS);
            level = level.dtype(dtype);
        }
        hierarchy = hierarchy.level(level);
    }
    let arrangement = *random.pick(&Arrangement::INPUTS);
    Case::of(format!("random-hierarchy/{seed}"), hierarchy).seed(seed).arrange_all(arrangement).values(fill(&mut random))
}

pub(super) fn graphs() -> Vec<Case> {
    (0..GRAPHS).map(graph).collect()
}

fn graph(seed: u64) -> Case {
    let mut random = Random::new(seed ^ 0xabcd_ef01);
    let case = Case::build(format!("random-graph/{seed}"), |builder| grow(builder, &mut random));
    let arrangement = *random.pick(&Arrangement::INPUTS);
    case.seed(seed).arrange_all(arrangement).values(fill(&mut random))
}

/// Inputs, then operations on whatever is there, then outputs of some of it, and of the last.
fn grow(graph: &mut GraphBuilder, random: &mut Random) -> Result<()> {
    let mut values: Vec<Value> = Vec::new();
    let rows = random.below(150);
    for index in 0..1 + random.below(3) {
        let (dtype, features) = (*random.pick(&FLOATS), features(random));
        let rows = if random.chance(4) { random.below(60) } else { rows };
        values.push(graph.input(&format!("x{index}"), dtype, rows, features)?);
    }
    if random.chance(3) {
        let ids = graph.ids("ids", *random.pick(&IDS), rows)?;
        let table = graph.param("lookup", *random.pick(&FLOATS), 1 + random.below(100), features(random))?;
        values.push(graph.gather(ids, table)?);
    }
    for step in 0..2 + random.below(7) {
        // The newest values more often than the others, so that chains come about.
        let value = if random.chance(2) { values[values.len() - 1] } else { *random.pick(&values) };
        let ValueType::Rows { rows, dtype, .. } = graph.value_type(value) else { continue };
        if random.chance(5) {
            let same =
                |other: &Value| matches!(graph.value_type(*other), ValueType::Rows { rows: r, dtype: d, .. } if r == rows && d == dtype);
            let parts: Vec<Value> = values.iter().copied().filter(same).take(3).collect();
            values.push(graph.concat(&parts)?);
            continue;
        }
        let table = graph.table(&format!("t{step}"), &segments(random, rows))?;
        for _ in 0..if random.chance(3) { 3 } else { 1 } {
            let reducer = reducer(random);
            let mut how = Reduce::new(reducer.clone()).on_empty(on_empty(random));
            if random.chance(4) {
                how = how.dtype(*random.pick(&FLOATS));
            }
            if reducer.takes_weights() && random.chance(4) {
                let name = format!("w{step}.{}", values.len());
                how = how.weights(graph.weights(&name, weights_for(random, dtype), rows)?);
            }
            values.push(reduce(graph, random, value, table, how)?);
        }
    }
    for (index, value) in values.iter().enumerate() {
        if index + 1 == values.len() || random.chance(3) {
            graph.output(&format!("y{index}"), *value)?;
        }
    }
    Ok(())
}

/// The literal chain of one level, or another one that means the same.
fn reduce(graph: &mut GraphBuilder, random: &mut Random, rows: Value, table: levelfold::ids::TableId, how: Reduce) -> Result<Value> {
    if !random.chance(3) {
        return graph.fold(rows, table, how);
    }
    let mut ragged = graph.slice(rows, table)?;
    for _ in 0..random.below(4) {
        ragged = if random.chance(2) { graph.transpose(ragged)? } else { graph.contiguous(ragged)? };
    }
    let pieces = graph.reduce(ragged, how)?;
    let stacked = graph.stack(pieces)?;
    graph.squeeze(stacked)
}

//! What the suite's cases hold, by what is in them and not by their names: every reducer and every encoder meets segments without rows, of one
//! row and of many, ties, NaN and infinities of both signs in what it reads, and the oracle, which has twice the digits of f64, promises numbers
//! for it.

use levelfold::encoder::{Activation, Kernel, RowOp};
use levelfold::graph::{LevelGraph, Op, Value, ValueType};
use levelfold::ids::{NodeId, TableId};
use levelfold::{Reducer, Segments};
use levelfold_conformance::Group;
use levelfold_conformance::case::Case;
use levelfold_conformance::oracle::evaluate;
use levelfold_conformance::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// What a case may have for one reducer or encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Meets {
    /// A segment without rows, or no rows at all.
    Empty,
    /// A segment of one row, or one row in all.
    OneRow,
    /// A segment of more blocks than two, or as many rows.
    Long,
    /// Two rows of a segment, or of all, that are equal in a feature.
    Ties,
    Infinity,
    MinusInfinity,
    NaN,
    /// The oracle promises more than half of its results.
    Oracle,
}

const ALL: [Meets; 8] =
    [Meets::Empty, Meets::OneRow, Meets::Long, Meets::Ties, Meets::Infinity, Meets::MinusInfinity, Meets::NaN, Meets::Oracle];

/// More than two blocks.
const LONG: u64 = 65;

/// An operand of an operation.
fn operand(graph: &LevelGraph, node: NodeId, index: usize) -> Option<Value> {
    graph.operands(node).get(index).copied()
}

/// The input that an operation reads through views, where it is one.
fn input<'a>(graph: &LevelGraph, mut value: Value, inputs: &'a BTreeMap<String, Tensor>) -> Option<&'a Tensor> {
    loop {
        match graph.op(value.node()) {
            Op::Input { name, .. } => return inputs.get(&**name),
            Op::Slice { .. } | Op::Transpose | Op::Contiguous | Op::Rename => value = operand(graph, value.node(), 0)?,
            // Looked-up rows are those of the table.
            Op::Gather => value = operand(graph, value.node(), 1)?,
            Op::Reduce(_) | Op::Stack | Op::Squeeze | Op::Concat { .. } | Op::Fold { .. } | Op::Spread { .. } | Op::Encode(_) => {
                return None;
            }
        }
    }
}

/// The table whose segments a literal reduce folds.
fn table_of(graph: &LevelGraph, reduce: NodeId) -> Option<TableId> {
    let mut node = operand(graph, reduce, 0)?.node();
    loop {
        match graph.op(node) {
            Op::Slice { table } => return Some(*table),
            _ => node = operand(graph, node, 0)?.node(),
        }
    }
}

fn lengths_met(segments: &Segments, met: &mut BTreeSet<Meets>) {
    for range in segments.ranges() {
        met.extend(match range.end - range.start {
            0 => Some(Meets::Empty),
            1 => Some(Meets::OneRow),
            LONG.. => Some(Meets::Long),
            _ => None,
        });
    }
    if segments.is_empty() {
        met.insert(Meets::Empty);
    }
}

fn values_met(rows: &Tensor, segments: &Segments, met: &mut BTreeSet<Meets>) {
    let [count, features] = rows.shape();
    for feature in 0..features {
        for range in segments.ranges() {
            let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
            // A table of looked-up rows has other rows than the level.
            let numbers: Vec<f64> = (start..end.min(count)).map(|row| rows.number(row, feature)).collect();
            for (at, x) in numbers.iter().enumerate().take(100) {
                met.extend(if x.is_nan() {
                    Some(Meets::NaN)
                } else if *x == f64::INFINITY {
                    Some(Meets::Infinity)
                } else if *x == f64::NEG_INFINITY {
                    Some(Meets::MinusInfinity)
                } else {
                    numbers[..at].contains(x).then_some(Meets::Ties)
                });
            }
        }
    }
}

fn label(reducer: &Reducer) -> String {
    match reducer {
        Reducer::Custom(custom) => format!("custom {}", custom.name()),
        Reducer::Named(named) => format!("custom {}", named.name()),
        _ => reducer.to_string(),
    }
}

/// What each reducer and encoder of a case meets in it. What the oracle promises is looked at only of what is not `promised`.
fn met_in(case: &Case, promised: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<Meets>> {
    let (graph, inputs) = (&case.graph, case.inputs(0));
    let mut met: BTreeMap<String, BTreeSet<Meets>> = BTreeMap::new();
    for node in graph.nodes() {
        match graph.op(node) {
            Op::Reduce(reduction) => {
                let met = met.entry(label(&reduction.reducer)).or_default();
                let Some(table) = table_of(graph, node) else { continue };
                let segments = &graph.table(table).segments;
                lengths_met(segments, met);
                if let Some(rows) = operand(graph, node, 0).and_then(|rows| input(graph, rows, &inputs)) {
                    values_met(rows, segments, met);
                }
            }
            Op::Encode(encoding) => {
                let Some(ValueType::Rows { rows: count, .. }) = operand(graph, node, 0).map(|rows| *graph.value_type(rows)) else {
                    continue;
                };
                // A row by itself meets no other: all rows are one segment.
                let whole = Segments::whole(count);
                let mut add = |name: &str, table: Option<TableId>| {
                    let met = met.entry(name.to_owned()).or_default();
                    let segments = table.map_or(&whole, |table| &graph.table(table).segments);
                    lengths_met(segments, met);
                    if let Some(rows) = operand(graph, node, 0).and_then(|rows| input(graph, rows, &inputs)) {
                        values_met(rows, segments, met);
                    }
                };
                match &encoding.kernel {
                    Kernel::Map { .. } => {}
                    kernel @ (Kernel::MatMul { .. } | Kernel::Attend { .. } | Kernel::Convolve { .. }) => {
                        add(kernel.name(), kernel.table())
                    }
                }
                for op in &encoding.ops {
                    let table = match op {
                        RowOp::Sinusoid { table, .. } | RowOp::Learned { table, .. } | RowOp::Rotate { table, .. } => Some(*table),
                        RowOp::Activate(_)
                        | RowOp::Scale(_)
                        | RowOp::Add(_)
                        | RowOp::LayerNorm { .. }
                        | RowOp::RmsNorm { .. }
                        | RowOp::Cast(_)
                        | RowOp::Custom { .. } => None,
                    };
                    let name = if let RowOp::Custom { name, .. } = op { format!("custom {name}") } else { op.name().to_owned() };
                    add(&name, table);
                }
            }
            Op::Input { .. }
            | Op::Gather
            | Op::Slice { .. }
            | Op::Transpose
            | Op::Contiguous
            | Op::Stack
            | Op::Squeeze
            | Op::Rename
            | Op::Concat { .. }
            | Op::Fold { .. }
            | Op::Spread { .. } => {}
        }
    }
    // Of a case about one thing, the oracle's promises are about that.
    if let [(what, only)] = &mut met.iter_mut().collect::<Vec<_>>()[..]
        && !promised.contains(*what)
    {
        let evaluated = evaluate(graph, &inputs);
        let numbers = || evaluated.values().flat_map(|numbers| &numbers.values);
        if 2 * numbers().filter(|number| number.err.is_finite()).count() > numbers().count() {
            only.insert(Meets::Oracle);
        }
    }
    met
}

#[test]
fn every_reducer_and_every_encoder_meets_every_kind_of_case() {
    let (mut met, mut promised) = (BTreeMap::<String, BTreeSet<Meets>>::new(), BTreeSet::new());
    let groups = Group::ALL.into_iter().filter(|group| !matches!(group, Group::Large | Group::RandomHierarchies | Group::RandomGraphs));
    for case in groups.flat_map(Group::cases) {
        for (what, found) in met_in(&case, &promised) {
            if found.contains(&Meets::Oracle) {
                promised.insert(what.clone());
            }
            met.entry(what).or_default().extend(found);
        }
    }
    let reducers = Reducer::ALL.iter().map(label);
    let activations = Activation::ALL.iter().map(|activation| activation.name());
    let kernels = ["matmul", "attend", "convolve", "scale", "add", "layer-norm", "rms-norm", "sinusoid", "learned", "rotate", "cast"];
    let wanted: Vec<String> = reducers.chain(activations.chain(kernels).map(str::to_owned)).collect();
    let lacking = |what: &String| -> Vec<Meets> {
        let found = met.get(what).cloned().unwrap_or_default();
        // Of what users write themselves the oracle knows nothing: reference, backends and laws are held against each other.
        let asked = |meets: &Meets| *meets != Meets::Oracle || !what.starts_with("custom ");
        ALL.into_iter().filter(|meets| asked(meets) && !found.contains(meets)).collect()
    };
    let custom = met.keys().filter(|what| what.starts_with("custom "));
    let lacks: Vec<(&String, Vec<Meets>)> =
        wanted.iter().chain(custom).map(|what| (what, lacking(what))).filter(|(_, lacks)| !lacks.is_empty()).collect();
    assert!(
        lacks.is_empty(),
        "no case has these:\n{}",
        lacks.iter().map(|(what, lacks)| format!("{what}: {lacks:?}\n")).collect::<String>()
    );
    // Seven that users write as expressions, three in Rust, and two encoders.
    assert!(met.keys().filter(|what| what.starts_with("custom ")).count() >= 12, "{:?}", met.keys());
}

//! Reducers with a state of several numbers a feature: lengths around blocks, every type, special values, ties, weights, ranges, lookups, levels.

use super::{FLOATS, lengths, ranges};
use crate::case::Case;
use crate::tensor::{Arrangement, Fill};
use levelfold::graph::Reduce;
use levelfold::{DType, Hierarchy, Leaves, Level, OnEmpty, Reducer, Segments};

/// All reducers but the plain ones.
fn stateful() -> impl Iterator<Item = Reducer> {
    Reducer::ALL.into_iter().filter(|reducer| !Reducer::PLAIN.contains(reducer)).chain(custom())
}

/// Reducers written as expressions: those of the built-in ones that need no branches, and one that has every operation, in no order that could be
/// mistaken for another.
pub(super) fn custom() -> Vec<Reducer> {
    let written = [
        "custom(own_norm: s from w * (x * x) by a.s + b.s else 0; sqrt(s))",
        "custom(own_mean: s from w * x by a.s + b.s else 0; n from w by a.n + b.n else 0; s / n)",
        "custom(own_range: low from x by min(a.low, b.low) else inf; high from x by max(a.high, b.high) else -inf; high - low)",
        "custom(own_variance: n from 1 by a.n + b.n; m from x by a.m + (b.m - a.m) * (b.n / (a.n + b.n)); \
         q from 0 by a.q + b.q + (b.m - a.m) * (b.m - a.m) * (a.n * (b.n / (a.n + b.n))); q / n)",
        "custom(own_logsumexp: m from x by max(a.m, b.m); \
         s from 1 by a.s * exp(a.m - max(a.m, b.m)) + b.s * exp(b.m - max(a.m, b.m)); m + log(s))",
        "custom(own_last: s from x by b.s; s)",
        "custom(own_all: p from abs(x) - -x / 3 by a.p - 0.5 * b.p; q from exp(min(x, 1)) by max(a.q, sqrt(b.q) + a.p); p * log(q + 2))",
    ];
    written.iter().map(|text| text.parse().expect("a custom reducer")).collect()
}

/// What cases are named by: a custom reducer's own name.
fn label(reducer: &Reducer) -> String {
    match reducer {
        Reducer::Custom(custom) => custom.name().to_owned(),
        Reducer::Named(named) => named.name().to_owned(),
        _ => reducer.to_string(),
    }
}

/// What empty segments give in these cases: a whole number, so that positions can be it.
const EMPTY: OnEmpty = OnEmpty::Fill(-3.0);

fn one(dtype: DType, features: u64, segments: Segments, reducer: Reducer) -> Hierarchy {
    let level = Level::new("y", segments).reduce(reducer.clone()).on_empty(EMPTY);
    Hierarchy::new(Leaves::values("x", dtype, features)).level(scored(level, reducer, dtype))
}

/// With scores, where the reducer needs them.
fn scored(level: Level, reducer: Reducer, dtype: DType) -> Level {
    let name = format!("{}.scores", level.name);
    if reducer.needs_weights() { level.weights(&name, dtype) } else { level }
}

pub(super) fn reducers() -> Vec<Case> {
    let mut cases: Vec<Case> = stateful().flat_map(of).collect();
    cases.extend(FLOATS.map(siblings));
    cases.extend(FLOATS.into_iter().flat_map(queried));
    cases
}

/// One reducer in every way.
pub(super) fn of(reducer: Reducer) -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        let name = |what: &str| format!("reducers/{}/{dtype}/{what}", label(&reducer));
        // Around blocks and powers of two of them; and seven, which leave groups of 4, 2 and 1 to be put together in the end.
        let around = lengths(&[31, 32, 33, 1, 0, 63, 64, 65, 2, 95, 96, 97, 127, 128, 129, 3, 221, 1023, 1024, 1025]);
        cases.push(Case::of(name("lengths"), one(dtype, 3, around.clone(), reducer.clone())));
        // Rows of one size, of which no exponential is lost beside another.
        cases.push(Case::of(name("alike"), one(dtype, 6, around, reducer.clone())).values(Fill::Factors));
        for (fill_name, fill) in [
            ("ties", Fill::Integers),
            ("specials", Fill::Specials),
            ("zeros", Fill::Zeros),
            ("negative-zeros", Fill::NegativeZeros),
            ("subnormal", Fill::Subnormal),
            ("huge", Fill::Huge),
            ("nan", Fill::Constant(f64::NAN)),
            ("infinity", Fill::Constant(f64::INFINITY)),
            ("minus-infinity", Fill::Constant(f64::NEG_INFINITY)),
            ("tenths", Fill::Constant(0.1)),
        ] {
            let hierarchy = one(dtype, 9, lengths(&[1, 1, 2, 3, 5, 32, 33, 70, 1, 0]), reducer.clone());
            cases.push(Case::of(name(fill_name), hierarchy).values(fill));
        }
        for features in [0, 1, 2, 31, 32, 33, 64, 100] {
            cases.push(Case::of(
                name(&format!("features-{features}")),
                one(dtype, features, lengths(&[1, 2, 33, 0, 5, 70]), reducer.clone()),
            ));
        }
        let overlaps = ranges(&[(0, 40), (10, 75), (30, 100), (0, 100), (7, 7), (99, 100), (80, 90)], 100);
        cases.push(Case::of(name("ranges"), one(dtype, 3, overlaps, reducer.clone())));
        for arrangement in Arrangement::INPUTS {
            let hierarchy = one(dtype, 5, lengths(&[40, 3, 70]), reducer.clone());
            cases.push(Case::of(name(&format!("layout/{arrangement:?}")), hierarchy).arrange_all(arrangement));
        }
        let looked_up = Hierarchy::new(Leaves::lookup("x", DType::U16, dtype, 50, 3)).level(scored(
            Level::new("y", lengths(&[1, 0, 40, 2, 70])).reduce(reducer.clone()).on_empty(EMPTY),
            reducer.clone(),
            dtype,
        ));
        cases.push(Case::of(name("lookup"), looked_up));
    }
    let no_rows = one(DType::F32, 3, lengths(&[0, 0, 0]), reducer.clone());
    cases.push(Case::of(format!("reducers/{}/no-rows", label(&reducer)), no_rows));
    cases.push(Case::of(format!("reducers/{}/no-segments", label(&reducer)), one(DType::F32, 3, lengths(&[]), reducer.clone())));
    // Long enough to be cut for threads: between segments, and inside one.
    for (name, table) in [("one-long", vec![40_000]), ("long-and-short", vec![3, 20_000, 1, 16_385, 3_000])] {
        for dtype in [DType::F32, DType::F64] {
            let hierarchy = one(dtype, 2, lengths(&table), reducer.clone());
            cases.push(Case::of(format!("reducers/{}/{dtype}/{name}", label(&reducer)), hierarchy).values(Fill::Factors));
        }
    }
    if !reducer.gives_positions() {
        levels(reducer.clone(), &mut cases);
    }
    // Of one in Rust only the registry knows.
    let weighted = match &reducer {
        Reducer::Named(named) => crate::registry().find_reducer(named).is_ok_and(|bound| bound.takes_weights()),
        _ => reducer.takes_weights(),
    };
    if weighted {
        weights(reducer, &mut cases);
    }
    cases
}

/// Softmax by the scores of learned queries.
fn queried(dtype: DType) -> Vec<Case> {
    let mut cases = Vec::new();
    let mixed = || lengths(&[1, 2, 0, 33, 32, 5, 70, 1]);
    let one = |features, queries: &[&str]| {
        Hierarchy::new(Leaves::values("x", dtype, features)).level(Level::new("y", mixed()).pool_by(queries).on_empty(OnEmpty::Fill(1.5)))
    };
    for (name, fill) in [
        ("plain", Fill::Plain),
        ("factors", Fill::Factors),
        ("ties", Fill::Constant(0.5)),
        ("specials", Fill::Specials),
        ("nan", Fill::Constant(f64::NAN)),
        ("minus-infinity", Fill::Constant(f64::NEG_INFINITY)),
    ] {
        cases.push(Case::of(format!("reducers/queried/{dtype}/{name}"), one(9, &["q"])).values(fill).fill("q", Fill::Factors));
    }
    for features in [0, 1, 33] {
        cases.push(Case::of(format!("reducers/queried/{dtype}/features-{features}"), one(features, &["q"])).values(Fill::Factors));
    }
    // A query of zeros finds all rows alike; the other one does not.
    let zeros = one(6, &["q", "zero"]);
    cases.push(Case::of(format!("reducers/queried/{dtype}/heads"), zeros).values(Fill::Factors).fill("zero", Fill::Zeros));
    let windows = ranges(&[(0, 40), (10, 75), (7, 7), (30, 100)], 100);
    let windows = Hierarchy::new(Leaves::values("x", dtype, 5)).level(Level::new("y", windows).pool_by(&["q"]).on_empty(OnEmpty::Zero));
    cases.push(Case::of(format!("reducers/queried/{dtype}/windows"), windows).values(Fill::Factors));
    let long = Hierarchy::new(Leaves::values("x", dtype, 3)).level(Level::new("y", lengths(&[3, 5_000])).pool_by(&["q"]));
    cases.push(Case::of(format!("reducers/queried/{dtype}/long"), long).values(Fill::Factors));
    let levels = Hierarchy::new(Leaves::lookup("x", DType::U8, dtype, 50, 4))
        .level(Level::new("y", mixed()).pool_by(&["q"]).on_empty(OnEmpty::Zero).keep())
        .level(Level::new("z", lengths(&[3, 5])).pool_by(&["q", "r"]))
        .level(Level::new("all", lengths(&[2])).reduce(Reducer::Mean));
    cases.push(Case::of(format!("reducers/queried/{dtype}/levels"), levels).values(Fill::Factors));
    cases
}

/// Levels above, below and of the reducer, kept and not, and other types.
fn levels(reducer: Reducer, cases: &mut Vec<Case>) {
    let below = lengths(&[3, 40, 0, 1, 65, 2, 36, 32, 33, 5]);
    for (name, lower, upper) in [
        ("above-mean", Reducer::Mean, reducer.clone()),
        ("below-sum", reducer.clone(), Reducer::Sum),
        ("below-max", reducer.clone(), Reducer::Max),
        ("twice", reducer.clone(), reducer.clone()),
    ] {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for keep in [false, true] {
                let mut word = Level::new("word", below.clone()).reduce(lower.clone()).on_empty(OnEmpty::Fill(0.25));
                word.keep = keep;
                let hierarchy = Hierarchy::new(Leaves::values("x", dtype, 3))
                    .level(scored(word, lower.clone(), dtype))
                    .level(scored(Level::new("sentence", lengths(&[7, 3])).reduce(upper.clone()), upper.clone(), dtype))
                    .level(Level::new("text", lengths(&[2])).reduce(Reducer::Mean));
                cases.push(Case::of(format!("reducers/{}/levels/{name}/{dtype}/kept-{keep}", label(&reducer)), hierarchy));
            }
        }
    }
    for to in FLOATS {
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 4))
            .level(scored(
                Level::new("a", lengths(&[1, 2, 40, 32, 65])).reduce(reducer.clone()).dtype(to).keep(),
                reducer.clone(),
                DType::F32,
            ))
            .level(Level::new("b", lengths(&[2, 3])).reduce(Reducer::Max));
        cases.push(Case::of(format!("reducers/{}/as-{to}", label(&reducer)), hierarchy));
    }
}

fn weights(reducer: Reducer, cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for of_weights in FLOATS.into_iter().filter(|weights| weights.widens_to(dtype.accumulator())) {
            let hierarchy = Hierarchy::new(Leaves::values("x", dtype, 6))
                .level(Level::new("y", lengths(&[2, 3, 35, 100, 0, 2])).reduce(reducer.clone()).weights("w", of_weights).on_empty(EMPTY));
            let name = |what: &str| format!("reducers/{}/weights/{dtype}-by-{of_weights}/{what}", label(&reducer));
            cases.push(Case::of(name("plain"), hierarchy.clone()));
            cases.push(Case::of(name("some-zero"), hierarchy.clone()).fill("w", Fill::SomeZero));
            cases.push(Case::of(name("equal"), hierarchy.clone()).fill("w", Fill::Constant(0.1)));
            cases.push(Case::of(name("values-special"), hierarchy.clone()).values(Fill::Specials));
            if !reducer.divides_by_weights() {
                cases.push(Case::of(name("weights-special"), hierarchy).fill("w", Fill::Specials));
            }
        }
    }
    let long = Hierarchy::new(Leaves::values("x", DType::F32, 2))
        .level(Level::new("y", lengths(&[30_000, 5, 9_995])).reduce(reducer.clone()).weights("w", DType::F32));
    cases.push(Case::of(format!("reducers/{}/weights/long", label(&reducer)), long).values(Fill::Factors).fill("w", Fill::Positive));
}

/// Every reducer in one read, weighted or not.
fn siblings(dtype: DType) -> Case {
    Case::build(format!("reducers/siblings/{dtype}"), |graph| {
        let x = graph.input("x", dtype, 147, 4)?;
        let w = graph.weights("w", dtype, 147)?;
        let word = graph.table("word", &lengths(&[3, 40, 1, 65, 2, 36]))?;
        for reducer in Reducer::ALL.into_iter().chain(custom()) {
            if !reducer.needs_weights() {
                let folded = graph.fold(x, word, Reduce::new(reducer.clone()))?;
                graph.output(&label(&reducer), folded)?;
            }
            if reducer.takes_weights() {
                let folded = graph.fold(x, word, Reduce::new(reducer.clone()).weights(w))?;
                graph.output(&format!("weighted-{}", label(&reducer)), folded)?;
            }
        }
        Ok(())
    })
    .values(Fill::Factors)
}

//! What inputs hold and how they lie: strides, special values, weights, ids.

use super::{FLOATS, IDS, lengths};
use crate::case::Case;
use crate::tensor::{Arrangement, Fill};
use levelfold::graph::Reduce;
use levelfold::{DType, Hierarchy, Leaves, Level, OnEmpty, Reducer, Segments};

/// A table with short, empty, one-block and several-block segments.
fn mixed() -> Segments {
    lengths(&[3, 0, 40, 1, 65, 2, 0, 33])
}

pub(super) fn layouts() -> Vec<Case> {
    let mut cases = Vec::new();
    for arrangement in Arrangement::INPUTS {
        for (index, dtype) in FLOATS.into_iter().enumerate() {
            for features in [1, 5, 33] {
                let reducer = [Reducer::Sum, Reducer::Mean, Reducer::Max, Reducer::Min][(index + usize::from(features == 5)) % 4].clone();
                let hierarchy = Hierarchy::new(Leaves::values("x", dtype, features))
                    .level(Level::new("y", mixed()).reduce(reducer.clone()).on_empty(OnEmpty::Zero).keep())
                    .level(Level::new("z", lengths(&[5, 3])).reduce(Reducer::Sum));
                cases.push(Case::of(format!("layouts/{arrangement:?}/{dtype}/{features}/{reducer}"), hierarchy).arrange("x", arrangement));
            }
        }
        let kept = Hierarchy::new(Leaves::values("x", DType::F32, 6).keep())
            .level(Level::new("y", mixed()).reduce_all(&[Reducer::Max, Reducer::Sum]).on_empty(OnEmpty::Zero));
        cases.push(Case::of(format!("layouts/{arrangement:?}/kept"), kept).arrange("x", arrangement));
        let weighted = Hierarchy::new(Leaves::values("x", DType::F32, 6))
            .level(Level::new("y", mixed()).reduce(Reducer::Mean).weights("w", DType::F32).on_empty(OnEmpty::NaN));
        cases.push(Case::of(format!("layouts/{arrangement:?}/weights"), weighted.clone()).arrange("w", arrangement));
        cases.push(Case::of(format!("layouts/{arrangement:?}/weights-and-values"), weighted).arrange_all(arrangement));
        let ranges = Hierarchy::new(Leaves::values("x", DType::F16, 7))
            .level(Level::new("y", super::ranges(&[(40, 90), (0, 50), (10, 11)], 100)).reduce(Reducer::Sum));
        cases.push(Case::of(format!("layouts/{arrangement:?}/ranges"), ranges).arrange_all(arrangement));
        let looked_up = Hierarchy::new(Leaves::lookup("x", DType::U32, DType::F32, 9, 6))
            .level(Level::new("y", mixed()).reduce(Reducer::Mean).on_empty(OnEmpty::NaN));
        cases.push(Case::of(format!("layouts/{arrangement:?}/lookup"), looked_up.clone()).arrange_all(arrangement));
        cases.push(Case::of(format!("layouts/{arrangement:?}/lookup-table"), looked_up).arrange("x.table", arrangement));
    }
    cases
}

pub(super) fn special_values() -> Vec<Case> {
    let fills = [
        ("specials", Fill::Specials),
        ("zeros", Fill::Zeros),
        ("negative-zeros", Fill::NegativeZeros),
        ("subnormal", Fill::Subnormal),
        ("huge", Fill::Huge),
        ("integers", Fill::Integers),
        ("nan", Fill::Constant(f64::NAN)),
        ("infinity", Fill::Constant(f64::INFINITY)),
        ("tenths", Fill::Constant(0.1)),
    ];
    let mut cases = Vec::new();
    for (name, fill) in fills {
        for dtype in FLOATS {
            for reducer in Reducer::PLAIN {
                let hierarchy = Hierarchy::new(Leaves::values("x", dtype, 9))
                    .level(Level::new("y", lengths(&[1, 1, 2, 3, 5, 32, 33, 70, 1])).reduce(reducer.clone()).keep());
                let hierarchy = hierarchy.level(Level::new("z", lengths(&[4, 5])).reduce(reducer.clone()));
                cases.push(Case::of(format!("special/{name}/{dtype}/{reducer}"), hierarchy).values(fill));
            }
        }
    }
    for dtype in FLOATS {
        // Copies keep the bits of a NaN; folds do not.
        let kept = Hierarchy::new(Leaves::values("x", dtype, 5).keep()).level(Level::new("y", lengths(&[1; 60])).reduce(Reducer::Max));
        cases.push(Case::of(format!("special/kept/{dtype}"), kept).values(Fill::Specials));
        let looked_up = Hierarchy::new(Leaves::lookup("x", DType::I64, dtype, 50, 5).keep()).level(Level::new("y", lengths(&[60])));
        cases.push(Case::of(format!("special/looked-up/{dtype}"), looked_up).values(Fill::Specials));
        for to in FLOATS {
            for (name, fill) in [("specials", Fill::Specials), ("huge", Fill::Huge), ("subnormal", Fill::Subnormal)] {
                let hierarchy = Hierarchy::new(Leaves::values("x", dtype, 7))
                    .level(Level::new("y", lengths(&[1, 2, 40, 32, 65])).reduce(Reducer::Mean).dtype(to).keep())
                    .level(Level::new("z", lengths(&[2, 3])).reduce(Reducer::Max));
                cases.push(Case::of(format!("special/{name}/{dtype}-to-{to}"), hierarchy).values(fill));
            }
        }
    }
    cases
}

pub(super) fn weights() -> Vec<Case> {
    let mut cases = Vec::new();
    let pairs = FLOATS.into_iter().flat_map(|values| FLOATS.map(|weights| (values, weights)));
    for (dtype, of_weights) in pairs.filter(|(values, weights)| weights.widens_to(values.accumulator())) {
        for reducer in [Reducer::Sum, Reducer::Mean] {
            let hierarchy = Hierarchy::new(Leaves::values("x", dtype, 6))
                .level(Level::new("y", mixed()).reduce(reducer.clone()).weights("w", of_weights).on_empty(OnEmpty::Zero).keep())
                .level(Level::new("z", lengths(&[5, 3])).reduce(reducer.clone()).weights("v", of_weights));
            let name = format!("weights/{dtype}-by-{of_weights}/{reducer}");
            cases.push(Case::of(name.clone(), hierarchy));
            let one = Hierarchy::new(Leaves::values("x", dtype, 6))
                .level(Level::new("y", lengths(&[2, 3, 35, 100, 2])).reduce(reducer.clone()).weights("w", of_weights));
            cases.push(Case::of(format!("{name}/one"), one.clone()));
            cases.push(Case::of(format!("{name}/some-zero"), one.clone()).fill("w", Fill::SomeZero));
            cases.push(Case::of(format!("{name}/values-special"), one.clone()).values(Fill::Specials));
            if reducer == Reducer::Sum {
                for (fill_name, fill) in
                    [("special", Fill::Specials), ("zero", Fill::Zeros), ("huge", Fill::Huge), ("subnormal", Fill::Subnormal)]
                {
                    cases.push(Case::of(format!("{name}/weights-{fill_name}"), one.clone()).fill("w", fill));
                }
            } else {
                cases.push(Case::of(format!("{name}/weights-infinite"), one.clone()).fill("w", Fill::Constant(f64::INFINITY)));
                cases.push(Case::of(format!("{name}/weights-equal"), one).fill("w", Fill::Constant(0.1)));
            }
        }
    }
    for features in [1, 4, 8, 16, 17, 64, 65] {
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, features))
            .level(Level::new("y", lengths(&[1, 31, 32, 33, 64, 65, 130, 1025])).reduce(Reducer::Mean).weights("w", DType::F32));
        cases.push(Case::of(format!("weights/features/{features}"), hierarchy));
    }
    let overlapping = Hierarchy::new(Leaves::values("x", DType::F32, 3))
        .level(Level::new("y", super::ranges(&[(0, 50), (25, 75), (3, 4)], 80)).reduce(Reducer::Mean).weights("w", DType::F16));
    cases.push(Case::of("weights/overlapping", overlapping));
    let looked_up = Hierarchy::new(Leaves::lookup("x", DType::U8, DType::F16, 200, 10))
        .level(Level::new("y", mixed()).reduce(Reducer::Mean).weights("w", DType::F32).on_empty(OnEmpty::Zero));
    cases.push(Case::of("weights/looked-up", looked_up));
    // Weights that are computed, which a sum may have: one number a row of the level that is folded.
    cases.push(Case::build("weights/computed", |graph| {
        let x = graph.input("x", DType::F32, 147, 4)?;
        let scores = graph.input("scores", DType::F32, 147, 1)?;
        let (words, all) = (graph.table("word", &lengths(&[3, 40, 1, 65, 2, 36]))?, graph.table("all", &lengths(&[6]))?);
        let word = graph.fold(x, words, Reduce::new(Reducer::Mean))?;
        let weights = graph.fold(scores, words, Reduce::new(Reducer::Max))?;
        let top = graph.fold(word, all, Reduce::new(Reducer::Sum).weights(weights))?;
        graph.output("top", top)
    }));
    // One list of weights for several reductions, beside an unweighted one.
    cases.push(Case::build("weights/shared", |graph| {
        let x = graph.input("x", DType::F32, 147, 4)?;
        let w = graph.weights("w", DType::F32, 147)?;
        let words = graph.table("word", &lengths(&[3, 40, 1, 65, 2, 36]))?;
        let sum = graph.fold(x, words, Reduce::new(Reducer::Sum).weights(w))?;
        let mean = graph.fold(x, words, Reduce::new(Reducer::Mean).weights(w))?;
        let plain = graph.fold(x, words, Reduce::new(Reducer::Mean))?;
        let all = graph.concat(&[sum, mean, plain])?;
        graph.output("all", all)
    }));
    cases
}

pub(super) fn lookups() -> Vec<Case> {
    let mut cases = counted();
    for ids in IDS {
        for table in FLOATS {
            for (rows, features) in [(1, 3), (200, 8), (256, 17)] {
                let hierarchy = |reducer| {
                    Hierarchy::new(Leaves::lookup("x", ids, table, rows, features))
                        .level(Level::new("y", mixed()).reduce(reducer).on_empty(OnEmpty::Fill(2.0)))
                };
                for reducer in [Reducer::Sum, Reducer::Mean, Reducer::Max] {
                    cases.push(Case::of(format!("lookups/{ids}/{table}/{rows}x{features}/{reducer}"), hierarchy(reducer)));
                }
            }
        }
        let deep = Hierarchy::new(Leaves::lookup("x", ids, DType::F32, 100, 12))
            .level(Level::new("y", mixed()).reduce(Reducer::Mean).on_empty(OnEmpty::Zero).keep())
            .level(Level::new("z", lengths(&[2, 0, 6])).reduce(Reducer::Max).on_empty(OnEmpty::NaN))
            .level(Level::new("top", lengths(&[3])).reduce(Reducer::Sum));
        cases.push(Case::of(format!("lookups/{ids}/deep"), deep.clone()));
        let mut kept = deep;
        kept.leaves.keep = true;
        cases.push(Case::of(format!("lookups/{ids}/kept"), kept));
        let siblings = Hierarchy::new(Leaves::lookup("x", ids, DType::BF16, 77, 5))
            .level(Level::new("y", mixed()).reduce_all(&[Reducer::Mean, Reducer::Max, Reducer::Min]).on_empty(OnEmpty::Zero));
        cases.push(Case::of(format!("lookups/{ids}/siblings"), siblings));
    }
    let wide = Hierarchy::new(Leaves::lookup("x", DType::U32, DType::F32, 70_000, 1)).level(Level::new("y", lengths(&[500, 500])));
    cases.push(Case::of("lookups/a-large-table", wide));
    // One list of ids into two tables, and two lists into one.
    cases.push(Case::build("lookups/crossed", |graph| {
        let (a, b) = (graph.ids("a", DType::U8, 50)?, graph.ids("b", DType::I32, 50)?);
        let (t, u) = (graph.param("t", DType::F32, 20, 4)?, graph.param("u", DType::F32, 20, 6)?);
        let words = graph.table("word", &lengths(&[10, 40]))?;
        let pairs = [(a, t), (a, u), (b, t), (a, t)];
        for (index, (ids, table)) in pairs.into_iter().enumerate() {
            let rows = graph.gather(ids, table)?;
            let word = graph.fold(rows, words, Reduce::new(Reducer::Mean))?;
            graph.output(&format!("word{index}"), word)?;
        }
        Ok(())
    }));
    // Rows that are looked up and folded by two tables, one of them not a partition.
    cases.push(Case::build("lookups/two-tables-of-segments", |graph| {
        let ids = graph.ids("ids", DType::U16, 50)?;
        let table = graph.param("table", DType::F16, 20, 4)?;
        let rows = graph.gather(ids, table)?;
        let words = graph.table("word", &lengths(&[10, 40]))?;
        let windows = graph.table("window", &super::ranges(&[(5, 45), (0, 20), (20, 20), (1, 50)], 50))?;
        let word = graph.fold(rows, words, Reduce::new(Reducer::Mean))?;
        let window = graph.fold(rows, windows, Reduce::new(Reducer::Sum))?;
        graph.output("word", word)?;
        graph.output("window", window)
    }));
    cases
}

/// Few rows that are looked up often: at `-O2` they are counted.
fn counted() -> Vec<Case> {
    let mut cases = Vec::new();
    let all = [Reducer::Sum, Reducer::Mean, Reducer::Max, Reducer::Min];
    let looked_up = |ids, table, rows, features| Hierarchy::new(Leaves::lookup("x", ids, table, rows, features));
    for ids in IDS {
        let level = Level::new("y", lengths(&[150, 0, 1, 45])).reduce_all(&all).on_empty(OnEmpty::Fill(2.0));
        cases.push(Case::of(format!("lookups/counted/{ids}"), looked_up(ids, DType::F32, 5, 20).level(level)));
    }
    for table in FLOATS {
        // More rows than a block has, some of which do not occur; NaNs and infinities among them.
        for (name, fill) in [("plain", Fill::Plain), ("specials", Fill::Specials), ("zeros", Fill::NegativeZeros)] {
            let level = Level::new("y", lengths(&[700, 20, 40])).reduce_all(&all);
            let case = Case::of(format!("lookups/counted/{table}/{name}"), looked_up(DType::U8, table, 40, 36).level(level));
            cases.push(case.fill("x.table", fill));
        }
        let level = Level::new("y", lengths(&[300, 10])).reduce(Reducer::Mean).dtype(DType::F64);
        cases.push(Case::of(format!("lookups/counted/{table}/as-f64"), looked_up(DType::I64, table, 6, 20).level(level)));
    }
    for arrangement in Arrangement::INPUTS {
        let level = Level::new("y", lengths(&[40, 260])).reduce_all(&all);
        let case = Case::of(format!("lookups/counted/{arrangement:?}"), looked_up(DType::U16, DType::F32, 7, 20).level(level));
        cases.push(case.arrange_all(arrangement));
    }
    let windows = Level::new("y", super::ranges(&[(5, 300), (0, 200), (20, 20), (1, 299)], 300)).reduce_all(&all).on_empty(OnEmpty::NaN);
    cases.push(Case::of("lookups/counted/windows", looked_up(DType::U8, DType::F32, 7, 20).level(windows)));
    let levels = |keep: bool| {
        let word = Level::new("word", lengths(&[3; 200])).reduce(Reducer::Sum);
        looked_up(DType::U8, DType::F32, 7, 20)
            .level(if keep { word.keep() } else { word })
            .level(Level::new("page", lengths(&[150, 50])).reduce(Reducer::Sum).keep())
            .level(Level::new("all", lengths(&[2])).reduce(Reducer::Mean))
    };
    cases.push(Case::of("lookups/counted/levels", levels(false)));
    cases.push(Case::of("lookups/counted/levels-kept", levels(true)));
    cases
}

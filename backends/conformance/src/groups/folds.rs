//! One level: lengths, widths, ranges, empty segments, degenerate shapes.

use super::{FLOATS, lengths as partition, ranges as any_ranges};
use crate::case::Case;
use crate::tensor::Fill;
use levelfold::{DType, Hierarchy, Leaves, Level, OnEmpty, Reducer, Segments};

/// One level over leaves `x`.
fn one(dtype: DType, features: u64, segments: Segments, reducer: Reducer) -> Hierarchy {
    Hierarchy::new(Leaves::values("x", dtype, features)).level(Level::new("y", segments).reduce(reducer).on_empty(OnEmpty::Fill(-3.5)))
}

/// What keeps a product in range, and plain numbers else.
fn fill_for(reducer: Reducer) -> Fill {
    if reducer == Reducer::Prod { Fill::Factors } else { Fill::Plain }
}

/// Around blocks of 32 rows, and around 2, 4, …, 128 blocks; and seven, which leave three groups of 4, 2 and 1 to be put together in the end.
pub(super) fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        for reducer in Reducer::PLAIN {
            let around = [31, 32, 33, 1, 63, 64, 65, 2, 95, 96, 97, 127, 128, 129, 3, 221, 1023, 1024, 1025, 4097];
            let hierarchy = one(dtype, 3, partition(&around), reducer.clone());
            cases.push(Case::of(format!("lengths/{dtype}/{reducer}"), hierarchy).values(fill_for(reducer)));
        }
        // Every length up to four blocks and a bit.
        let all: Vec<u64> = (1..=135).collect();
        cases.push(Case::of(format!("lengths/{dtype}/every"), one(dtype, 1, partition(&all), Reducer::Sum)));
        for length in [1u64, 31, 32, 33, 64, 65, 1024, 1025, 4097] {
            let hierarchy = one(dtype, 2, partition(&[length]), Reducer::Mean);
            cases.push(Case::of(format!("lengths/{dtype}/only/{length}"), hierarchy));
        }
    }
    cases
}

pub(super) fn features() -> Vec<Case> {
    let mut cases = Vec::new();
    let widths = (1..=35).chain([47, 48, 49, 63, 64, 65, 96, 100, 127, 128, 129, 255, 256, 257, 300, 1000]);
    for features in widths {
        for (dtype, reducer) in
            [(DType::F32, Reducer::Sum), (DType::F16, Reducer::Mean), (DType::F64, Reducer::Max), (DType::BF16, Reducer::Min)]
        {
            let hierarchy = one(dtype, features, partition(&[1, 2, 33, 0, 5, 40]), reducer.clone());
            cases.push(Case::of(format!("features/{dtype}/{reducer}/{features}"), hierarchy));
        }
    }
    // Every type and reducer where rows fill registers, and where they are wider than all registers: by every number of rows that is left
    // where several are taken at a time.
    for features in [16, 64, 275, 517] {
        for (dtype, reducer) in FLOATS.into_iter().flat_map(|dtype| Reducer::PLAIN.map(|reducer| (dtype, reducer))) {
            let hierarchy = one(dtype, features, partition(&[3, 8, 0, 6, 7, 1, 5, 35, 4, 66]), reducer.clone());
            cases.push(Case::of(format!("features/{dtype}/{reducer}/{features}/rows"), hierarchy).values(fill_for(reducer)));
        }
    }
    cases
}

pub(super) fn ranges() -> Vec<Case> {
    let tables: [(&str, Segments); 12] = [
        ("gaps", any_ranges(&[(1, 4), (6, 50), (90, 99)], 100)),
        ("overlaps", any_ranges(&[(0, 40), (10, 70), (30, 100), (0, 100)], 100)),
        ("backwards", any_ranges(&[(80, 100), (33, 80), (1, 33), (0, 1)], 100)),
        ("repeats", any_ranges(&[(5, 45), (5, 45), (5, 45), (0, 100), (0, 100)], 100)),
        ("empty-at-both-ends", any_ranges(&[(0, 0), (0, 35), (35, 35), (100, 100), (50, 50)], 100)),
        ("nested", any_ranges(&[(0, 100), (1, 99), (2, 98), (34, 66), (50, 51)], 100)),
        ("windows", any_ranges(&(0..60).map(|start| (start, start + 40)).collect::<Vec<_>>(), 100)),
        ("one-row-each-backwards", any_ranges(&(0..50).rev().map(|row| (row, row + 1)).collect::<Vec<_>>(), 50)),
        ("only-the-last-row", any_ranges(&[(99, 100)], 100)),
        ("nothing-of-all-rows", any_ranges(&[(7, 7), (0, 0)], 100)),
        ("almost-a-partition", any_ranges(&[(0, 30), (30, 60), (60, 99)], 100)),
        ("partial-offsets", Segments::from_offsets_partial(&[0i64, 10, 10, 64], 100).expect("offsets of a case")),
    ];
    let mut cases = Vec::new();
    for (name, segments) in tables {
        for (dtype, reducer) in [
            (DType::F32, Reducer::Sum),
            (DType::F64, Reducer::Mean),
            (DType::F16, Reducer::Max),
            (DType::BF16, Reducer::Min),
            (DType::F32, Reducer::Prod),
        ] {
            let hierarchy = one(dtype, 5, segments.clone(), reducer.clone());
            cases.push(Case::of(format!("ranges/{name}/{dtype}/{reducer}"), hierarchy).values(fill_for(reducer)));
        }
        let upper = partition(&[segments.len() - 1, 1]);
        let hierarchy = one(DType::F32, 3, segments.clone(), Reducer::Mean).level(Level::new("z", upper).reduce(Reducer::Sum));
        cases.push(Case::of(format!("ranges/{name}/with-a-level-above"), hierarchy));
        let below = partition(&vec![3; usize::try_from(segments.rows()).expect("small")]);
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 3))
            .level(Level::new("w", below).reduce(Reducer::Mean))
            .level(Level::new("y", segments).reduce(Reducer::Sum));
        cases.push(Case::of(format!("ranges/{name}/with-a-level-below"), hierarchy));
    }
    cases
}

pub(super) fn empty_segments() -> Vec<Case> {
    let tables: [(&str, &[u64]); 7] = [
        ("leading", &[0, 0, 0, 5, 40]),
        ("trailing", &[5, 40, 0, 0, 0]),
        ("between", &[5, 0, 40, 0, 0, 1]),
        ("both-ends", &[0, 33, 0]),
        ("all", &[0, 0, 0, 0]),
        ("only", &[0]),
        ("many", &[0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 64, 0, 0, 65, 0]),
    ];
    let answers =
        [OnEmpty::Zero, OnEmpty::NaN, OnEmpty::Fill(0.1), OnEmpty::Fill(f64::NEG_INFINITY), OnEmpty::Fill(-0.0), OnEmpty::Fill(1e300)];
    let mut cases = Vec::new();
    for (name, table) in tables {
        for (index, on_empty) in answers.into_iter().enumerate() {
            let dtype = FLOATS[index % FLOATS.len()];
            let reducer = Reducer::PLAIN[(index + table.len()) % Reducer::PLAIN.len()].clone();
            let level = |name: &str, segments| Level::new(name, segments).reduce(reducer.clone()).on_empty(on_empty);
            let hierarchy = Hierarchy::new(Leaves::values("x", dtype, 4)).level(level("y", partition(table)));
            cases.push(Case::of(format!("empty/{name}/{dtype}/{reducer}/{on_empty}"), hierarchy.clone()).values(fill_for(reducer.clone())));
            // What an empty segment gives is a row like any other to the level above, which has empty segments of its own.
            let n = u64::try_from(table.len()).expect("small");
            let above = hierarchy.level(level("z", partition(&[0, n, 0]))).level(level("top", partition(&[1, 0, 2])));
            cases.push(Case::of(format!("empty/{name}/{dtype}/{reducer}/{on_empty}/above"), above).values(fill_for(reducer)));
        }
        // The reducers' own answers.
        for reducer in [Reducer::Sum, Reducer::Prod] {
            let hierarchy =
                Hierarchy::new(Leaves::values("x", DType::F32, 2)).level(Level::new("y", partition(table)).reduce(reducer.clone()));
            cases.push(Case::of(format!("empty/{name}/default/{reducer}"), hierarchy).values(fill_for(reducer)));
        }
    }
    cases
}

pub(super) fn shapes() -> Vec<Case> {
    let mut cases = Vec::new();
    let tables: [(&str, Segments); 7] = [
        ("no-segments-of-no-rows", partition(&[])),
        ("no-segments-of-some-rows", any_ranges(&[], 7)),
        ("one-segment-of-no-rows", partition(&[0])),
        ("segments-of-no-rows", partition(&[0, 0, 0])),
        ("one-row", partition(&[1])),
        ("one-row-each", partition(&[1; 70])),
        ("one-segment", partition(&[70])),
    ];
    for (name, segments) in tables {
        for features in [0, 1, 9] {
            for (dtype, reducer) in
                [(DType::F32, Reducer::Sum), (DType::F16, Reducer::Mean), (DType::F64, Reducer::Max), (DType::BF16, Reducer::Prod)]
            {
                let hierarchy = one(dtype, features, segments.clone(), reducer.clone());
                cases.push(
                    Case::of(format!("shapes/{name}/{features}/{dtype}/{reducer}"), hierarchy.clone()).values(fill_for(reducer.clone())),
                );
                // A whole chain over it, down to one row, everything kept.
                let mut chain = hierarchy;
                chain.leaves.keep = true;
                chain.levels[0].keep = true;
                let chain = chain
                    .level(Level::new("z", partition(&[segments.len()])).reduce(reducer.clone()).on_empty(OnEmpty::Zero).keep())
                    .level(Level::new("top", partition(&[1])).reduce(reducer.clone()));
                cases.push(Case::of(format!("shapes/{name}/{features}/{dtype}/{reducer}/chain"), chain).values(fill_for(reducer)));
            }
            let looked_up = Leaves::lookup("x", DType::U16, DType::F32, 5, features);
            let hierarchy = Hierarchy::new(looked_up).level(Level::new("y", segments.clone()).reduce(Reducer::Mean).on_empty(OnEmpty::NaN));
            cases.push(Case::of(format!("shapes/{name}/{features}/lookup"), hierarchy));
            let both = Hierarchy::new(Leaves::values("x", DType::F32, features))
                .level(Level::new("y", segments.clone()).reduce_all(&[Reducer::Sum, Reducer::Max]).on_empty(OnEmpty::Zero));
            cases.push(Case::of(format!("shapes/{name}/{features}/side-by-side"), both));
        }
    }
    cases
}

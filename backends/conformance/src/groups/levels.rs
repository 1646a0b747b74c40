//! Several levels: what is kept, how deep, how wide, how long.

use super::{FLOATS, lengths, ranges};
use crate::case::Case;
use crate::random::Random;
use crate::tensor::Fill;
use levelfold::{DType, Hierarchy, Leaves, Level, OnEmpty, Reducer, Segments};

/// Lengths that add up to `rows`, from a seed: mostly short, some long, some empty.
fn ragged(rows: u64, seed: u64) -> Segments {
    let mut random = Random::new(seed);
    let (mut left, mut each) = (rows, Vec::new());
    while left > 0 {
        let length = match random.below(20) {
            0 => 0,
            1 => 30 + random.below(70),
            _ => 1 + random.below(6),
        };
        each.push(length.min(left));
        left -= length.min(left);
    }
    lengths(&each)
}

/// Like `ragged`, without empty segments.
fn filled(rows: u64, seed: u64) -> Segments {
    let each: Vec<u64> = ragged(rows, seed).ranges().map(|range| range.end - range.start).filter(|&length| length > 0).collect();
    lengths(&each)
}

pub(super) fn levels() -> Vec<Case> {
    let mut cases = Vec::new();
    // Text-like hierarchies of every depth, each of their levels kept or not.
    for dtype in FLOATS {
        for depth in 1..=5u32 {
            for keep in 0..(1u32 << (depth - 1)) {
                if depth == 5 && dtype != DType::F32 || depth >= 4 && keep % 3 == 1 {
                    continue;
                }
                let mut hierarchy = Hierarchy::new(Leaves::values("x", dtype, 5));
                let mut rows = 600;
                for level in 0..depth {
                    let segments = if level + 1 == depth { Segments::whole(rows) } else { ragged(rows, u64::from(7 * depth + level)) };
                    rows = segments.len();
                    let reducer = [Reducer::Mean, Reducer::Sum, Reducer::Max, Reducer::Min]
                        [usize::try_from((level + depth) % 4).expect("small")]
                    .clone();
                    let mut next = Level::new(&format!("level{}", level + 1), segments).reduce(reducer).on_empty(OnEmpty::Fill(0.5));
                    next.keep = keep >> level & 1 == 1;
                    hierarchy = hierarchy.level(next);
                }
                cases.push(Case::of(format!("levels/{dtype}/{depth}/kept-{keep:b}"), hierarchy));
            }
        }
    }
    // One reducer on two levels: those that may become one fold, and those that may not.
    for reducer in Reducer::PLAIN {
        for dtype in [DType::F32, DType::F16] {
            let build = |lower: Segments, upper: Segments, keep: bool| {
                let mut word = Level::new("word", lower).reduce(reducer.clone()).on_empty(OnEmpty::Fill(-100.0));
                word.keep = keep;
                Hierarchy::new(Leaves::values("x", dtype, 3))
                    .level(word)
                    .level(Level::new("sentence", upper).reduce(reducer.clone()).on_empty(OnEmpty::Fill(7.0)))
            };
            let fill = if reducer == Reducer::Prod { Fill::Factors } else { Fill::Plain };
            let lower = filled(300, 5);
            let n = lower.len();
            let tables = [
                ("partition", lower.clone(), ragged(n, 6)),
                ("ranges-above", lower.clone(), ranges(&[(3, n), (0, n / 2), (n / 2, n / 2), (0, 1)], n)),
                ("ranges-below", ranges(&[(10, 300), (0, 20), (5, 6), (250, 300)], 300), lengths(&[1, 3])),
                ("empty-below", ragged(300, 5), Segments::whole(ragged(300, 5).len())),
                ("one-row-each", lengths(&[1; 100]), lengths(&[40, 60])),
                ("one-segment-each", lengths(&[50, 50]), lengths(&[1, 1])),
            ];
            for (name, below, above) in tables {
                cases.push(
                    Case::of(format!("levels/twice/{reducer}/{dtype}/{name}"), build(below.clone(), above.clone(), false)).values(fill),
                );
                cases.push(
                    Case::of(format!("levels/twice/{reducer}/{dtype}/{name}/special"), build(below.clone(), above.clone(), false))
                        .values(Fill::Specials),
                );
                cases.push(Case::of(format!("levels/twice/{reducer}/{dtype}/{name}/kept"), build(below, above, true)).values(fill));
            }
        }
        let thrice = Hierarchy::new(Leaves::values("x", DType::F64, 2))
            .level(Level::new("a", filled(500, 8)).reduce(reducer.clone()))
            .level(Level::new("b", filled(filled(500, 8).len(), 9)).reduce(reducer.clone()))
            .level(Level::new("c", Segments::whole(filled(filled(500, 8).len(), 9).len())).reduce(reducer.clone()));
        cases.push(Case::of(format!("levels/thrice/{reducer}"), thrice).values(Fill::Factors));
    }
    // Types that change on the way.
    for from in FLOATS {
        for to in FLOATS {
            let hierarchy = Hierarchy::new(Leaves::values("x", from, 4))
                .level(Level::new("a", filled(300, 11)).reduce(Reducer::Mean).dtype(to))
                .level(Level::new("b", filled(filled(300, 11).len(), 12)).reduce(Reducer::Sum).dtype(from).keep())
                .level(Level::new("c", Segments::whole(filled(filled(300, 11).len(), 12).len())).reduce(Reducer::Max).dtype(to));
            cases.push(Case::of(format!("levels/types/{from}-{to}"), hierarchy));
            let same = Hierarchy::new(Leaves::values("x", from, 4))
                .level(Level::new("a", filled(300, 11)).reduce(Reducer::Max).dtype(to))
                .level(Level::new("b", Segments::whole(filled(300, 11).len())).reduce(Reducer::Max));
            cases.push(Case::of(format!("levels/types/{from}-{to}/max"), same));
        }
    }
    // Blocks of 32 on every level at once, and long segments above short ones and the other way round.
    let shapes: [(&str, Vec<u64>, Vec<u64>); 6] = [
        ("blocks", vec![32; 64], vec![32, 32]),
        ("blocks-and-one", vec![33; 66], vec![33, 33]),
        ("short-below-long", vec![1; 2000], vec![1000, 999, 1]),
        ("long-below-short", vec![1000, 1, 999], vec![1, 1, 1]),
        ("long-and-short", vec![1, 1500, 1, 1, 1, 700, 2], vec![3, 4]),
        ("unit-too-long", vec![300; 40], vec![40]),
    ];
    for (name, below, above) in shapes {
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 3))
            .level(Level::new("a", lengths(&below)).reduce(Reducer::Mean))
            .level(Level::new("b", lengths(&above)).reduce(Reducer::Sum).keep())
            .level(Level::new("c", Segments::whole(u64::try_from(above.len()).expect("small"))).reduce(Reducer::Mean));
        cases.push(Case::of(format!("levels/shape/{name}"), hierarchy));
    }
    // A level whose weights are bound, between levels without.
    let weighted = Hierarchy::new(Leaves::values("x", DType::F32, 6))
        .level(Level::new("a", filled(400, 20)).reduce(Reducer::Mean))
        .level(Level::new("b", filled(filled(400, 20).len(), 21)).reduce(Reducer::Mean).weights("w", DType::F16))
        .level(Level::new("c", Segments::whole(filled(filled(400, 20).len(), 21).len())).reduce(Reducer::Sum).weights("v", DType::F32));
    cases.push(Case::of("levels/weighted", weighted));
    // Several reducers on every level: twice, four and eight times the features.
    let wide = Hierarchy::new(Leaves::values("x", DType::F32, 3))
        .level(Level::new("a", filled(300, 30)).reduce_all(&[Reducer::Mean, Reducer::Max]))
        .level(Level::new("b", filled(filled(300, 30).len(), 31)).reduce_all(&[Reducer::Min, Reducer::Sum]).keep())
        .level(Level::new("c", Segments::whole(filled(filled(300, 30).len(), 31).len())).reduce_all(&[Reducer::Mean, Reducer::Sum]));
    cases.push(Case::of("levels/wide", wide));
    cases
}

pub(super) fn large() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [(&str, Vec<u64>); 4] = [
        ("one-long", vec![40_000]),
        ("few-long", vec![3, 20_000, 1, 16_385, 3_000]),
        ("many-short", (0..13_000u64).map(|index| index % 6).collect()),
        ("long-between-short", (0..600u64).map(|index| if index % 150 == 75 { 7_777 } else { index % 5 }).collect()),
    ];
    for (name, table) in shapes {
        for (dtype, reducer, features) in
            [(DType::F32, Reducer::Sum, 4), (DType::F32, Reducer::Mean, 1), (DType::F16, Reducer::Mean, 3), (DType::F64, Reducer::Max, 2)]
        {
            let hierarchy = Hierarchy::new(Leaves::values("x", dtype, features))
                .level(Level::new("y", lengths(&table)).reduce(reducer.clone()).on_empty(OnEmpty::Zero));
            cases.push(Case::of(format!("large/{name}/{dtype}/{reducer}"), hierarchy));
        }
    }
    let looked_up = Hierarchy::new(Leaves::lookup("char", DType::U8, DType::F32, 256, 4))
        .level(Level::new("word", ragged(40_000, 1)).reduce(Reducer::Mean).on_empty(OnEmpty::Zero).keep())
        .level(Level::new("sentence", ragged(ragged(40_000, 1).len(), 2)).reduce(Reducer::Mean).on_empty(OnEmpty::Zero))
        .level(Level::new("text", Segments::whole(ragged(ragged(40_000, 1).len(), 2).len())).reduce(Reducer::Mean));
    cases.push(Case::of("large/text", looked_up));
    let weighted = Hierarchy::new(Leaves::values("x", DType::F32, 3))
        .level(Level::new("y", lengths(&[30_000, 5, 9_995])).reduce(Reducer::Mean).weights("w", DType::F32));
    cases.push(Case::of("large/weighted", weighted));
    let siblings = Hierarchy::new(Leaves::values("x", DType::F32, 3)).level(Level::new("y", lengths(&[30_000, 5, 9_995])).reduce_all(&[
        Reducer::Mean,
        Reducer::Max,
        Reducer::Sum,
    ]));
    cases.push(Case::of("large/siblings", siblings));
    cases
}

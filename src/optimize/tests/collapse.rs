//! Two levels of one reducer become one.

use super::*;

#[test]
fn levels_of_max_keep_bits() {
    let graph = two_levels(Reducer::Max, Reducer::Max, lengths(&[2, 1]), lengths(&[2]));
    insta::assert_snapshot!(folded(CollapseLevels { exactness: Exactness::BitExact }, graph), @"
    table t0 word offsets 2 of 3 rows
    table t1 sentence offsets 1 of 2 rows
    table t2 sentence offsets 1 of 3 rows = t1 over t0
    n0 = input char : f32[3x2]
    n7 = fold n0 | max by t2 : f32[1x2]
    output sentence = n7
    collapse-levels       done  word and sentence are one level: 2 rows never made
    ");
}

#[test]
fn levels_of_sums_wait_for_leave() {
    let graph = || two_levels(Reducer::Sum, Reducer::Sum, lengths(&[2, 1]), lengths(&[2]));
    insta::assert_snapshot!(folded(CollapseLevels { exactness: Exactness::BitExact }, graph()), @"
    table t0 word offsets 2 of 3 rows
    table t1 sentence offsets 1 of 2 rows
    n0 = input char : f32[3x2]
    n13 = fold n0 | sum by t0 : f32[2x2]
    n1 = fold n13 | sum by t1 : f32[1x2]
    output sentence = n1
    collapse-levels       kept  word and sentence stay two levels: it would change how sums are bracketed (allowed at -O2)
    ");
    insta::assert_snapshot!(folded(CollapseLevels { exactness: Exactness::Reassociates }, graph()), @"
    table t0 word offsets 2 of 3 rows
    table t1 sentence offsets 1 of 2 rows
    table t2 sentence offsets 1 of 3 rows = t1 over t0
    n0 = input char : f32[3x2]
    n7 = fold n0 | sum by t2 : f32[1x2]
    output sentence = n7
    collapse-levels       done  word and sentence are one level: 2 rows never made
    ");
}

#[test]
fn refuses_empty_segments() {
    let graph = two_levels(Reducer::Sum, Reducer::Sum, lengths(&[2, 0, 1]), lengths(&[3]));
    insta::assert_snapshot!(folded(CollapseLevels { exactness: Exactness::Reassociates }, graph), @"
    table t0 word offsets 3 of 3 rows
    table t1 sentence offsets 1 of 3 rows
    n0 = input char : f32[3x2]
    n13 = fold n0 | sum by t0 : f32[3x2]
    n1 = fold n13 | sum by t1 : f32[1x2]
    output sentence = n1
    collapse-levels       kept  word and sentence stay two levels: the lower level has empty segments
    ");
}

/// Two levels of a reducer over rows of a type, the levels of another.
fn of_types(reducer: Reducer, rows: DType, levels: DType) -> LevelGraph {
    Hierarchy::new(Leaves::values("char", rows, 2))
        .level(Level::new("word", lengths(&[2, 1])).reduce(reducer.clone()).dtype(levels))
        .level(Level::new("sentence", lengths(&[2])).reduce(reducer).dtype(levels))
        .graph()
        .unwrap()
}

#[test]
fn sums_stay_apart_where_more_than_brackets_would_change() {
    use DType::{BF16, F16, F32, F64};
    let decided = |reducer: Reducer, rows, levels| {
        let shown = folded(CollapseLevels { exactness: Exactness::Reassociates }, of_types(reducer, rows, levels));
        shown.lines().last().unwrap().to_owned()
    };
    let done = "collapse-levels       done  word and sentence are one level: 2 rows never made";
    let kept = |level, made_in| {
        format!(
            "collapse-levels       kept  word and sentence stay two levels: the level between is {level}, and made in {made_in}: more than brackets would change"
        )
    };
    for reducer in [Reducer::Sum, Reducer::Prod] {
        for (rows, levels) in [(F32, F32), (F64, F64), (F16, F32), (BF16, F32)] {
            assert_eq!(decided(reducer.clone(), rows, levels), done, "{reducer} of {rows} as {levels}");
        }
        // Each sum of the level between is rounded to fewer digits than it is made with, or the level above it is made with more.
        for (rows, levels) in [(F16, F16), (BF16, BF16), (F32, BF16), (F64, F32), (F64, F16), (F32, F64), (BF16, F64)] {
            assert_eq!(decided(reducer.clone(), rows, levels), kept(levels, rows.accumulator()), "{reducer} of {rows} as {levels}");
        }
    }
    // A maximum rounds nothing, or rounds one number as it would have in between.
    for (rows, levels) in [(F16, F16), (F32, BF16), (F64, F32), (F32, F64)] {
        assert_eq!(decided(Reducer::Max, rows, levels), done, "max of {rows} as {levels}");
    }
}

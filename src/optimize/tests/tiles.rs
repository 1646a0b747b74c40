//! Which encoders run window by window, and up to where.

use super::*;
use crate::backend::TileLimits;
use crate::graph::Value;

/// Rows with attention along words of 3, 2 and 4 characters.
struct Attended {
    b: GraphBuilder,
    rows: Value,
    table: crate::ids::TableId,
}

fn attended() -> Attended {
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 9, 4).unwrap();
    let table = b.table("word", &lengths(&[3, 2, 4])).unwrap();
    let weight = b.param("w", DType::F32, 12, 4).unwrap();
    let y = b.linear(x, weight, None).unwrap();
    let y = b.attend(y, table, 2, false).unwrap();
    let rows = b.map(y, &RowOp::Add(x)).unwrap();
    Attended { b, rows, table }
}

fn limits(bytes: u64, rows: u64, share: u64) -> Target {
    Target { tiles: Some(TileLimits { bytes, rows, share }), ..Target::new("test") }
}

fn tiled(graph: LevelGraph, target: &Target) -> String {
    after_with(vec![Box::new(EliminateIdentity), Box::new(FuseTransposeReduce), Box::new(FuseRowwise)], TileEncoders, graph, target)
}

fn decisions(graph: LevelGraph, target: &Target) -> String {
    tiled(graph, target).lines().filter(|line| line.starts_with("tile-encoders")).collect::<Vec<_>>().join("\n")
}

#[test]
fn encoders_and_the_fold_of_what_they_make() {
    let Attended { mut b, rows, table } = attended();
    let y = b.fold(rows, table, Reduce::new(Reducer::Mean)).unwrap();
    b.output("word", y).unwrap();
    let graph = b.finish().unwrap();
    insta::assert_snapshot!(tiled(graph.clone(), &Target::new("test")), @"
    table t0 word offsets 3 of 9 rows
    n0 = input char : f32[9x4]
    n1 = param w : f32[12x4]
    n2 = matmul n0, n1 : f32[9x12]
    n5 = attend n2 by t0 heads=2 | add n0 : f32[9x4]
    n9 = fold n5 | mean by t0 : f32[3x4]
    tile n2 n5 n9 by t0 up to 9 rows
    output word = n9
    tile-encoders         done  char is encoded and folded in windows of up to 9 rows: 576 B not written, 576 B not read
    ");
    // A row takes 64 bytes: 12 numbers, and 4 while they are attended to. So 6 rows fit, and 4 have to.
    insta::assert_snapshot!(decisions(graph.clone(), &limits(400, 1, 1)), @"tile-encoders         done  char is encoded and folded in windows of up to 6 rows: 576 B not written, 576 B not read");
    insta::assert_snapshot!(decisions(graph.clone(), &limits(1, 1, 2)), @"tile-encoders         done  char is encoded and folded in windows of up to 4 rows: 576 B not written, 576 B not read");
    insta::assert_snapshot!(decisions(graph.clone(), &limits(1, 2, 3)), @"tile-encoders         kept  char is written in whole: its longest segment has 4 rows, more than the 3 of a window");
    assert_eq!(decisions(graph, &Target { tiles: None, ..Target::new("test") }), "");
}

#[test]
fn what_is_kept_is_written_in_whole_and_its_fold_reads_it() {
    let Attended { mut b, rows, table } = attended();
    let y = b.fold(rows, table, Reduce::new(Reducer::Mean)).unwrap();
    b.output("word", y).unwrap();
    b.output("char", rows).unwrap();
    insta::assert_snapshot!(tiled(b.finish().unwrap(), &Target::new("test")), @"
    table t0 word offsets 3 of 9 rows
    n0 = input char : f32[9x4]
    n1 = param w : f32[12x4]
    n2 = matmul n0, n1 : f32[9x12]
    n5 = attend n2 by t0 heads=2 | add n0 : f32[9x4]
    n9 = fold n5 | mean by t0 : f32[3x4]
    tile n2 n5 by t0 up to 9 rows
    output word = n9
    output char = n5
    tile-encoders         done  char is encoded in windows of up to 9 rows: 432 B not written, 432 B not read
    ");
}

#[test]
fn scores_and_several_folds_are_in_one_tile() {
    let Attended { mut b, rows, table } = attended();
    let query = b.param("q", DType::F32, 1, 4).unwrap();
    let scores = b.linear(rows, query, None).unwrap();
    let pooled = b.fold(rows, table, Reduce::new(Reducer::SoftMax).weights(scores)).unwrap();
    let median = b.fold(rows, table, Reduce::new(Reducer::Quantile(crate::reducer::Quantile::MEDIAN))).unwrap();
    let both = b.concat(&[pooled, median]).unwrap();
    b.output("word", both).unwrap();
    insta::assert_snapshot!(tiled(b.finish().unwrap(), &Target::new("test")), @"
    table t0 word offsets 3 of 9 rows
    n0 = input char : f32[9x4]
    n1 = param w : f32[12x4]
    n2 = matmul n0, n1 : f32[9x12]
    n5 = param q : f32[1x4]
    n13 = attend n2 by t0 heads=2 | add n0 : f32[9x4]
    n6 = matmul n13, n5 : f32[9x1]
    n7 = fold n13 | median by t0 : f32[3x4]
    n17 = fold n13, n6 | weighted-softmax by t0 : f32[3x4]
    n19 = concat n17, n7 : f32[3x8]
    tile n2 n6 n7 n13 n17 by t0 up to 9 rows
    output word = n19
    tile-encoders         done  char is encoded and folded in windows of up to 9 rows: 612 B not written, 900 B not read
    ");
}

#[test]
fn a_fold_by_other_segments_reads_what_is_written() {
    let Attended { mut b, rows, table } = attended();
    let y = b.fold(rows, table, Reduce::new(Reducer::Mean)).unwrap();
    let other = b.table("line", &lengths(&[4, 5])).unwrap();
    let z = b.fold(rows, other, Reduce::new(Reducer::Mean)).unwrap();
    b.output("word", y).unwrap();
    b.output("line", z).unwrap();
    insta::assert_snapshot!(tiled(b.finish().unwrap(), &Target::new("test")), @"
    table t0 word offsets 3 of 9 rows
    table t1 line offsets 2 of 9 rows
    n0 = input char : f32[9x4]
    n1 = param w : f32[12x4]
    n2 = matmul n0, n1 : f32[9x12]
    n11 = attend n2 by t0 heads=2 | add n0 : f32[9x4]
    n5 = fold n11 | mean by t1 : f32[2x4]
    n15 = fold n11 | mean by t0 : f32[3x4]
    tile n2 n11 by t0 up to 9 rows
    output word = n15
    output line = n5
    tile-encoders         done  char is encoded in windows of up to 9 rows: 432 B not written, 432 B not read
    ");
}

#[test]
fn spread_rows_are_made_window_by_window_and_a_fold_of_windows_is_not_tiled() {
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 5, 2).unwrap();
    let windows = b.table("window", &Segments::from_ranges(&[(0, 3), (2, 5)], 5).unwrap()).unwrap();
    let each = b.table("window.occurrences", &lengths(&[3, 3])).unwrap();
    let rows = b.spread(x, windows).unwrap();
    let rows = b.map(rows, &RowOp::Sinusoid { table: each, base: Number(1e4) }).unwrap();
    let y = b.fold(rows, each, Reduce::new(Reducer::Mean)).unwrap();
    b.output("window", y).unwrap();
    insta::assert_snapshot!(tiled(b.finish().unwrap(), &Target::new("test")), @"
    table t0 window ranges 2 of 5 rows
    table t1 window.occurrences offsets 2 of 6 rows
    n0 = input char : f32[5x2]
    n1 = spread n0 by t0 : f32[6x2]
    n2 = map n1 | sinusoid by t1 base=10000.0 : f32[6x2]
    n7 = fold n2 | mean by t1 : f32[2x2]
    tile n1 n2 n7 by t1 up to 6 rows
    output window = n7
    tile-encoders         done  char is encoded and folded in windows of up to 6 rows: 96 B not written, 96 B not read
    ");
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 5, 2).unwrap();
    let rows = b.map(x, &RowOp::RmsNorm { weight: x, eps: Number(1.0) });
    assert!(rows.is_err(), "a norm has one row of weights");
    let weight = b.param("w", DType::F32, 1, 2).unwrap();
    let rows = b.map(x, &RowOp::RmsNorm { weight, eps: Number(1.0) }).unwrap();
    let windows = b.table("window", &Segments::from_ranges(&[(0, 3), (2, 5)], 5).unwrap()).unwrap();
    let y = b.fold(rows, windows, Reduce::new(Reducer::Mean)).unwrap();
    b.output("window", y).unwrap();
    insta::assert_snapshot!(decisions(b.finish().unwrap(), &Target::new("test")), @"tile-encoders         kept  char is written in whole: the upper segments do not partition their rows in order");
}

#[test]
fn what_waits_for_the_whole_level_comes_after_it() {
    // The weight of the second product is made of what the words fold to: the rows that both take are written, and there are two tiles.
    let Attended { mut b, rows, table } = attended();
    let y = b.fold(rows, table, Reduce::new(Reducer::Mean)).unwrap();
    let all = b.table("all", &lengths(&[2, 1])).unwrap();
    let weight = b.fold(y, all, Reduce::new(Reducer::Mean)).unwrap();
    let again = b.linear(rows, weight, None).unwrap();
    let y = b.fold(again, table, Reduce::new(Reducer::Max)).unwrap();
    b.output("word", y).unwrap();
    insta::assert_snapshot!(tiled(b.finish().unwrap(), &Target::new("test")), @"
    table t0 word offsets 3 of 9 rows
    table t1 all offsets 2 of 3 rows
    n0 = input char : f32[9x4]
    n1 = param w : f32[12x4]
    n2 = matmul n0, n1 : f32[9x12]
    n18 = attend n2 by t0 heads=2 | add n0 : f32[9x4]
    n22 = fold n18 | mean by t0 : f32[3x4]
    n5 = fold n22 | mean by t1 : f32[2x4]
    n17 = matmul n18, n5 : f32[9x2]
    n11 = fold n17 | max by t0 : f32[3x2]
    tile n2 n18 by t0 up to 9 rows
    tile n11 n17 by t0 up to 9 rows
    output word = n11
    tile-encoders         done  char is encoded in windows of up to 9 rows: 432 B not written, 432 B not read
    tile-encoders         done  char is encoded and folded in windows of up to 9 rows: 72 B not written, 72 B not read
    ");
}

#[test]
fn a_tile_does_not_wait_for_itself() {
    // The scores of the fold are made of rows that are folded one by one, outside.
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 3, 3).unwrap();
    let table = b.table("word", &lengths(&[1, 2])).unwrap();
    let ones = b.table("ones", &lengths(&[1, 1, 1])).unwrap();
    let qkv = b.map(x, &RowOp::Activate(Activation::Relu)).unwrap();
    let rows = b.attend(qkv, table, 1, false).unwrap();
    let each = b.fold(qkv, ones, Reduce::new(Reducer::Max)).unwrap();
    let query = b.param("q", DType::F32, 1, 3).unwrap();
    let scores = b.linear(each, query, None).unwrap();
    let y = b.fold(rows, table, Reduce::new(Reducer::SoftMax).weights(scores)).unwrap();
    b.output("word", y).unwrap();
    insta::assert_snapshot!(decisions(b.finish().unwrap(), &Target::new("test")), @"tile-encoders         kept  char is written in whole: one needs what the other makes");
}

#[test]
fn a_fold_of_a_tile_takes_in_no_level_above() {
    let Attended { mut b, rows, table } = attended();
    let y = b.fold(rows, table, Reduce::new(Reducer::Mean)).unwrap();
    let all = b.table("all", &lengths(&[3])).unwrap();
    let y = b.fold(y, all, Reduce::new(Reducer::Mean)).unwrap();
    b.output("all", y).unwrap();
    let graph = b.finish().unwrap();
    let fused = |target| {
        after_with(vec![Box::new(FuseTransposeReduce)], FuseLevels, graph.clone(), &target).lines().last().unwrap_or_default().to_owned()
    };
    insta::assert_snapshot!(fused(Target::new("test")), @"fuse-levels           kept  word and all stay two steps: the lower one folds encoded rows window by window");
    insta::assert_snapshot!(fused(Target { tiles: None, ..Target::new("test") }), @"fuse-levels           done  word feeds all from registers: 48 B not read, 48 B not written; units of up to 9 leaf rows");
}

/// Characters with attention along words, and words with positions in lines.
fn levels(lines: &[u64], limits: TileLimits) -> String {
    let Attended { mut b, rows, table } = attended();
    let word = b.fold(rows, table, Reduce::new(Reducer::Mean)).unwrap();
    let line = b.table("line", &lengths(lines)).unwrap();
    let seen = b.map(word, &RowOp::Sinusoid { table: line, base: Number(1e4) }).unwrap();
    let y = b.fold(seen, line, Reduce::new(Reducer::Max)).unwrap();
    b.output("line", y).unwrap();
    tiled(b.finish().unwrap(), &Target { tiles: Some(limits), ..Target::new("test") })
}

#[test]
fn a_level_is_folded_from_windows_as_its_own_need_it() {
    let limits = TileLimits { bytes: 1, rows: 2, share: 2 };
    insta::assert_snapshot!(levels(&[2, 1], limits), @"
    table t0 word offsets 3 of 9 rows
    table t1 line offsets 2 of 3 rows
    n0 = input char : f32[9x4]
    n1 = param w : f32[12x4]
    n2 = matmul n0, n1 : f32[9x12]
    n12 = attend n2 by t0 heads=2 | add n0 : f32[9x4]
    n16 = fold n12 | mean by t0 : f32[3x4]
    n11 = map n16 | sinusoid by t1 base=10000.0 : f32[3x4]
    n5 = fold n11 | max by t1 : f32[2x4]
    tile n2 n12 n16 by t0 up to 4 rows inside tile 1
    tile n5 n11 by t1 up to 2 rows
    output line = n5
    tile-encoders         done  char is encoded and folded in windows of up to 4 rows: 576 B not written, 576 B not read
    tile-encoders         done  word is encoded and folded in windows of up to 2 rows: 48 B not written, 48 B not read
    tile-encoders         done  word is folded from windows of up to 4 rows as its own windows need it: 48 B not written, 48 B not read
    ");
    // One window of lines is one task.
    let told = levels(&[3], TileLimits { rows: 4, ..limits });
    insta::assert_snapshot!(told.lines().last().unwrap_or_default(), @"tile-encoders         kept  word is written in whole: too few windows to share among threads: 1 of at least 2");
}

#[test]
fn rows_that_only_number_alike_do_not_nest() {
    // As many words as characters: what a window of lines takes of the characters is not what its words are made of.
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 3, 4).unwrap();
    let word = b.table("word", &lengths(&[2, 0, 1])).unwrap();
    let line = b.table("line", &lengths(&[1, 2])).unwrap();
    let rows = b.map(x, &RowOp::Sinusoid { table: word, base: Number(1e4) }).unwrap();
    let y = b.fold(rows, word, Reduce::new(Reducer::Sum)).unwrap();
    let y = b.map(y, &RowOp::Sinusoid { table: line, base: Number(1e4) }).unwrap();
    let y = b.map(y, &RowOp::Add(rows)).unwrap();
    let y = b.fold(y, line, Reduce::new(Reducer::Sum)).unwrap();
    b.output("line", y).unwrap();
    let told = tiled(b.finish().unwrap(), &limits(1, 2, 2));
    insta::assert_snapshot!(told.lines().filter(|line| line.starts_with("tile")).collect::<Vec<_>>().join("\n"), @"
    tile n2 n10 by t1 up to 2 rows
    tile-encoders         done  word is encoded and folded in windows of up to 2 rows: 48 B not written, 48 B not read
    ");
}

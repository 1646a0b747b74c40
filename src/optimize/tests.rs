//! Tests of the passes: each pass alone, on the smallest graph that shows it, as inline snapshots. A graph is prepared by other passes only
//! where the pass could not do anything otherwise.

mod collapse;
mod elements;
mod histogram;
mod limits;
mod tiles;

use super::*;
use crate::backend::FusionLimits;
use crate::dtype::DType;
use crate::encoder::{Activation, ElementOp, Number, RowOp};
use crate::graph::{GraphBuilder, Reduce};
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;
use crate::spec::{Hierarchy, Leaves, Level};

fn lengths(lengths: &[u64]) -> Segments {
    Segments::from_lengths(lengths).unwrap()
}

/// The graph after `prepare` and then `pass`, with what `pass` decided.
fn after_with(prepare: Vec<Box<dyn Pass>>, pass: impl Pass, graph: LevelGraph, target: &Target) -> String {
    let mut graph = graph;
    Pipeline::of(prepare).run(&mut graph, target, &mut NoObserver).unwrap();
    let decisions = pass.run(&mut graph, target).unwrap();
    graph.verify().unwrap();
    let lines: Vec<String> = decisions.iter().map(ToString::to_string).collect();
    format!("{graph}{}", lines.join("\n"))
}

fn after(pass: impl Pass, graph: LevelGraph) -> String {
    after_with(Vec::new(), pass, graph, &Target::new("test"))
}

fn folded(pass: impl Pass, graph: LevelGraph) -> String {
    after_with(vec![Box::new(FuseTransposeReduce)], pass, graph, &Target::new("test"))
}

fn two_levels(lower: Reducer, upper: Reducer, words: Segments, sentences: Segments) -> LevelGraph {
    Hierarchy::new(Leaves::values("char", DType::F32, 2))
        .level(Level::new("word", words).reduce(lower))
        .level(Level::new("sentence", sentences).reduce(upper))
        .graph()
        .unwrap()
}

#[test]
fn share_tables() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 3, 2).unwrap();
    let first = b.table("first", &lengths(&[2, 1])).unwrap();
    let second = b.table("second", &Segments::from_offsets(&[0, 2, 3], 3).unwrap()).unwrap();
    let y = b.slice(x, first).unwrap();
    let y = b.reduce(y, Reduce::new(Reducer::Sum)).unwrap();
    let y = b.stack(y).unwrap();
    let y = b.squeeze(y).unwrap();
    let z = b.fold(x, second, Reduce::new(Reducer::Max)).unwrap();
    b.output("y", y).unwrap();
    b.output("z", z).unwrap();
    insta::assert_snapshot!(after(ShareTables, b.finish().unwrap()), @"
    table t0 first offsets 2 of 3 rows
    n0 = input x : f32[3x2]
    n1 = slice n0 by t0 : ragged f32[t0x2] row-major view
    n2 = reduce.sum n1 : pieces f32[2x2]
    n3 = stack n2 : stacked f32[2x2x1]
    n4 = squeeze n3 : f32[2x2]
    n5 = slice n0 by t0 : ragged f32[t0x2] row-major view
    n6 = transpose n5 : ragged f32[t0x2] feature-major view
    n7 = contiguous n6 : ragged f32[t0x2] feature-major packed
    n8 = reduce.max n7 : pieces f32[2x2]
    n9 = stack n8 : stacked f32[2x2x1]
    n10 = squeeze n9 : f32[2x2]
    output y = n4
    output z = n10
    share-tables          done  second has the segments of first
    ");
}

#[test]
fn eliminate_identity() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 3, 2).unwrap();
    let t = b.table("word", &lengths(&[2, 1])).unwrap();
    let r = b.slice(x, t).unwrap();
    // Rows of an ordered partition are dense blocks already.
    let r = b.contiguous(r).unwrap();
    let r = b.transpose(r).unwrap();
    let r = b.transpose(r).unwrap();
    let r = b.transpose(r).unwrap();
    let r = b.contiguous(r).unwrap();
    let r = b.contiguous(r).unwrap();
    let y = b.reduce(r, Reduce::new(Reducer::Sum)).unwrap();
    let y = b.stack(y).unwrap();
    let y = b.squeeze(y).unwrap();
    b.output("word", y).unwrap();
    insta::assert_snapshot!(after(EliminateIdentity, b.finish().unwrap()), @"
    table t0 word offsets 2 of 3 rows
    n0 = input x : f32[3x2]
    n1 = slice n0 by t0 : ragged f32[t0x2] row-major view
    n5 = transpose n1 : ragged f32[t0x2] feature-major view
    n6 = contiguous n5 : ragged f32[t0x2] feature-major packed
    n8 = reduce.sum n6 : pieces f32[2x2]
    n7 = rename n8 : f32[2x2]
    output word = n7
    eliminate-identity    done  word.contiguous changes nothing: 24 B not copied
    eliminate-identity    done  word.transpose changes nothing: 0 B not copied
    eliminate-identity    done  word.contiguous changes nothing: 24 B not copied
    eliminate-identity    done  word.stack+squeeze changes nothing: 16 B not copied
    ");
}

#[test]
fn eliminate_identity_keeps_copies_that_do_something() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 3, 2).unwrap();
    // Out of order: the blocks are not the rows.
    let t = b.table("word", &Segments::from_ranges(&[(2, 3), (0, 2)], 3).unwrap()).unwrap();
    let r = b.slice(x, t).unwrap();
    let r = b.contiguous(r).unwrap();
    let y = b.reduce(r, Reduce::new(Reducer::Sum)).unwrap();
    let y = b.stack(y).unwrap();
    let y = b.squeeze(y).unwrap();
    b.output("word", y).unwrap();
    insta::assert_snapshot!(after(EliminateIdentity, b.finish().unwrap()), @"
    table t0 word ranges 2 of 3 rows
    n0 = input x : f32[3x2]
    n1 = slice n0 by t0 : ragged f32[t0x2] row-major view
    n2 = contiguous n1 : ragged f32[t0x2] row-major packed
    n3 = reduce.sum n2 : pieces f32[2x2]
    n6 = rename n3 : f32[2x2]
    output word = n6
    eliminate-identity    done  word.stack+squeeze changes nothing: 16 B not copied
    ");
}

#[test]
fn fuse_transpose_reduce() {
    let graph = Hierarchy::new(Leaves::values("char", DType::BF16, 4))
        .level(Level::new("word", Segments::from_ranges(&[(1, 3), (0, 2)], 3).unwrap()).reduce(Reducer::Mean).weights("w", DType::F32))
        .graph()
        .unwrap();
    insta::assert_snapshot!(after(FuseTransposeReduce, graph), @"
    table t0 word ranges 2 of 3 rows
    n0 = input char : bf16[3x4]
    n1 = input w : f32[3x1]
    n8 = fold n0, n1 | weighted-mean by t0 : bf16[2x4]
    output word = n8
    fuse-transpose-reduce done  word is one fold over a view: 48 B not copied
    ");
}

#[test]
fn fuse_transpose_reduce_leaves_a_copy_that_others_use() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 3, 2).unwrap();
    let t = b.table("word", &lengths(&[2, 1])).unwrap();
    let r = b.slice(x, t).unwrap();
    let r = b.transpose(r).unwrap();
    let r = b.contiguous(r).unwrap();
    let sum = b.reduce(r, Reduce::new(Reducer::Sum)).unwrap();
    let first = b.stack(sum).unwrap();
    let first = b.squeeze(first).unwrap();
    // The pieces are stacked twice: this reduce stays.
    let second = b.stack(sum).unwrap();
    let second = b.squeeze(second).unwrap();
    let max = b.reduce(r, Reduce::new(Reducer::Max)).unwrap();
    let max = b.stack(max).unwrap();
    let max = b.squeeze(max).unwrap();
    for (name, value) in [("first", first), ("second", second), ("max", max)] {
        b.output(name, value).unwrap();
    }
    insta::assert_snapshot!(after(FuseTransposeReduce, b.finish().unwrap()), @"
    table t0 word offsets 2 of 3 rows
    n0 = input x : f32[3x2]
    n1 = slice n0 by t0 : ragged f32[t0x2] row-major view
    n2 = transpose n1 : ragged f32[t0x2] feature-major view
    n3 = contiguous n2 : ragged f32[t0x2] feature-major packed
    n4 = reduce.sum n3 : pieces f32[2x2]
    n5 = stack n4 : stacked f32[2x2x1]
    n6 = squeeze n5 : f32[2x2]
    n7 = stack n4 : stacked f32[2x2x1]
    n8 = squeeze n7 : f32[2x2]
    n12 = fold n0 | max by t0 : f32[2x2]
    output first = n6
    output second = n8
    output max = n12
    fuse-transpose-reduce kept  word.reduce stays: its result is used elsewhere too
    fuse-transpose-reduce done  word is one fold over a view: 16 B not copied
    ");
}

fn lookup(keep: bool) -> LevelGraph {
    let leaves = Leaves::lookup("char", DType::U8, DType::F32, 256, 4);
    let leaves = if keep { leaves.keep() } else { leaves };
    Hierarchy::new(leaves).level(Level::new("word", lengths(&[2, 1])).reduce(Reducer::Mean)).graph().unwrap()
}

#[test]
fn fuse_gather() {
    insta::assert_snapshot!(folded(FuseGather, lookup(false)), @"
    table t0 word offsets 2 of 3 rows
    n0 = input char.ids : u8[3x1]
    n1 = param char.table : f32[256x4]
    n3 = fold gather n0, n1 | mean by t0 : f32[2x4]
    output word = n3
    fuse-gather           done  char.ids.gather is looked up by 1 fold(s): 48 B not written out
    ");
}

#[test]
fn fuse_gather_refuses_rows_that_are_kept() {
    insta::assert_snapshot!(folded(FuseGather, lookup(true)), @"
    table t0 word offsets 2 of 3 rows
    n0 = input char.ids : u8[3x1]
    n1 = param char.table : f32[256x4]
    n2 = gather n0, n1 : f32[3x4]
    n9 = fold n2 | mean by t0 : f32[2x4]
    output char = n2
    output word = n9
    fuse-gather           kept  char.ids.gather is written out: its result is kept, so it is written anyway
    ");
}

#[test]
fn fuse_siblings() {
    let graph = Hierarchy::new(Leaves::values("char", DType::F32, 4))
        .level(Level::new("word", lengths(&[2, 0, 1])).reduce_all(&[Reducer::Mean, Reducer::Max, Reducer::Mean]).on_empty(OnEmpty::NaN))
        .graph()
        .unwrap();
    insta::assert_snapshot!(folded(FuseSiblings, graph), @"
    table t0 word offsets 3 of 3 rows
    n0 = input char : f32[3x4]
    n7 = fold n0 | max empty=nan+mean empty=nan by t0 : f32[3x4], f32[3x4]
    n19 = concat n7.1, n7.0, n7.1 : f32[3x12]
    output word = n19
    fuse-siblings         done  word and word share one read: 48 B not read again
    fuse-siblings         done  word and word share one read: 48 B not read again
    ");
}

#[test]
fn fuse_siblings_refuses_what_waits_for_the_other() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 2, 1).unwrap();
    let t = b.table("row", &lengths(&[1, 1])).unwrap();
    let weights = b.fold(x, t, Reduce::new(Reducer::Max)).unwrap();
    let y = b.fold(x, t, Reduce::new(Reducer::Sum).weights(weights)).unwrap();
    b.output("y", y).unwrap();
    insta::assert_snapshot!(folded(FuseSiblings, b.finish().unwrap()), @"
    table t0 row offsets 2 of 2 rows
    n0 = input x : f32[2x1]
    n13 = fold n0 | max by t0 : f32[2x1]
    n1 = fold n0, n13 | weighted-sum by t0 : f32[2x1]
    output y = n1
    fuse-siblings         kept  row and row read apart: one needs what the other makes
    ");
}

#[test]
fn fuse_levels() {
    let graph = Hierarchy::new(Leaves::values("char", DType::F32, 4))
        .level(Level::new("word", Segments::from_ranges(&[(1, 3), (0, 2)], 3).unwrap()).reduce(Reducer::Mean))
        .level(Level::new("sentence", lengths(&[1, 1])).reduce(Reducer::Mean).keep())
        .level(Level::new("corpus", lengths(&[2])).reduce(Reducer::Max))
        .graph()
        .unwrap();
    insta::assert_snapshot!(folded(FuseLevels, graph), @"
    table t0 word ranges 2 of 3 rows
    table t1 sentence offsets 2 of 2 rows
    table t2 corpus offsets 1 of 2 rows
    n0 = input char : f32[3x4]
    n19 = fold n0 | mean by t0 | mean by t1 | max by t2 : f32[2x4], f32[2x4], f32[1x4]
    output sentence = n19.1
    output corpus = n19.2
    fuse-levels           done  word feeds sentence from registers: 32 B not read, 32 B not written; units of up to 2 leaf rows
    fuse-levels           done  word sentence feeds corpus from registers: 32 B not read, 0 B not written; units of up to 4 leaf rows
    ");
}

#[test]
fn fuse_levels_refuses_a_table_out_of_order() {
    let graph = two_levels(Reducer::Mean, Reducer::Mean, lengths(&[2, 1]), Segments::from_ranges(&[(1, 2), (0, 1)], 2).unwrap());
    insta::assert_snapshot!(folded(FuseLevels, graph), @"
    table t0 word offsets 2 of 3 rows
    table t1 sentence ranges 2 of 2 rows
    n0 = input char : f32[3x2]
    n13 = fold n0 | mean by t0 : f32[2x2]
    n1 = fold n13 | mean by t1 : f32[2x2]
    output sentence = n1
    fuse-levels           kept  word and sentence stay two steps: the upper segments do not partition their rows in order
    ");
}

#[test]
fn fuse_levels_refuses_units_that_do_not_balance() {
    let target = Target { fusion: FusionLimits { unit_rows: 9, unit_share: 2, ..FusionLimits::default() }, ..Target::new("test") };
    let graph = two_levels(Reducer::Mean, Reducer::Mean, lengths(&[8, 2, 3]), lengths(&[2, 1]));
    insta::assert_snapshot!(after_with(vec![Box::new(FuseTransposeReduce)], FuseLevels, graph, &target), @"
    table t0 word offsets 3 of 13 rows
    table t1 sentence offsets 2 of 3 rows
    n0 = input char : f32[13x2]
    n13 = fold n0 | mean by t0 : f32[3x2]
    n1 = fold n13 | mean by t1 : f32[2x2]
    output sentence = n1
    fuse-levels           kept  word and sentence stay two steps: one unit of work would have 10 leaf rows, more than the 9 that balance over threads
    ");
}

#[test]
fn fuse_levels_gives_a_level_to_one_of_its_takers() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 4, 2).unwrap();
    let t = b.table("word", &lengths(&[2, 2])).unwrap();
    let words = b.fold(x, t, Reduce::new(Reducer::Sum)).unwrap();
    let t = b.table("line", &lengths(&[1, 1])).unwrap();
    let lines = b.fold(words, t, Reduce::new(Reducer::Sum)).unwrap();
    let t = b.table("page", &lengths(&[2])).unwrap();
    let pages = b.fold(words, t, Reduce::new(Reducer::Sum)).unwrap();
    b.output("line", lines).unwrap();
    b.output("page", pages).unwrap();
    insta::assert_snapshot!(folded(FuseLevels, b.finish().unwrap()), @"
    table t0 word offsets 2 of 4 rows
    table t1 line offsets 2 of 2 rows
    table t2 page offsets 1 of 2 rows
    n0 = input x : f32[4x2]
    n13 = fold n0 | sum by t0 | sum by t1 : f32[2x2], f32[2x2]
    n7 = fold n13.0 | sum by t2 : f32[1x2]
    output line = n13.1
    output page = n7
    fuse-levels           done  word feeds line from registers: 16 B not read, 0 B not written; units of up to 2 leaf rows
    fuse-levels           kept  word line and page stay two steps: the level feeds another fold already
    ");
}

#[test]
fn place_concat() {
    let graph = Hierarchy::new(Leaves::values("char", DType::F32, 4))
        .level(Level::new("word", lengths(&[2, 1])).reduce_all(&[Reducer::Mean, Reducer::Max]))
        .graph()
        .unwrap();
    insta::assert_snapshot!(folded(PlaceConcat, graph), @"
    table t0 word offsets 2 of 3 rows
    n0 = input char : f32[3x4]
    n1 = fold n0 | max by t0 : f32[2x4]
    n14 = fold n0 | mean by t0 : f32[2x4]
    n13 = concat.placed n14, n1 : f32[2x8]
    output word = n13
    place-concat          done  word.concat is written in place: 64 B not copied
    ");
}

#[test]
fn place_concat_refuses_a_part_with_another_place() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 3, 2).unwrap();
    let t = b.table("word", &lengths(&[2, 1])).unwrap();
    let sum = b.fold(x, t, Reduce::new(Reducer::Sum)).unwrap();
    let twice = b.concat(&[sum, sum]).unwrap();
    let max = b.fold(x, t, Reduce::new(Reducer::Max)).unwrap();
    let both = b.concat(&[sum, max]).unwrap();
    b.output("twice", twice).unwrap();
    b.output("both", both).unwrap();
    b.output("max", max).unwrap();
    insta::assert_snapshot!(folded(PlaceConcat, b.finish().unwrap()), @"
    table t0 word offsets 2 of 3 rows
    n0 = input x : f32[3x2]
    n1 = fold n0 | max by t0 : f32[2x2]
    n15 = fold n0 | sum by t0 : f32[2x2]
    n7 = concat n15, n15 : f32[2x4]
    n14 = concat n15, n1 : f32[2x4]
    output twice = n7
    output both = n14
    output max = n1
    place-concat          kept  word.concat is copied together: a part stands in several places
    place-concat          kept  word.concat is copied together: a part is an output of its own
    ");
}

#[test]
fn drop_unused() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 3, 2).unwrap();
    let t = b.table("word", &lengths(&[2, 1])).unwrap();
    let sum = b.fold(x, t, Reduce::new(Reducer::Sum)).unwrap();
    b.fold(x, t, Reduce::new(Reducer::Min)).unwrap();
    let max = b.fold(x, t, Reduce::new(Reducer::Max)).unwrap();
    let t = b.table("page", &lengths(&[2])).unwrap();
    let page = b.fold(max, t, Reduce::new(Reducer::Max)).unwrap();
    let t = b.table("book", &lengths(&[1])).unwrap();
    b.fold(page, t, Reduce::new(Reducer::Max)).unwrap();
    b.output("word", sum).unwrap();
    let graph = b.finish().unwrap();
    insta::assert_snapshot!(folded(DropUnused, graph.clone()), @"
    table t0 word offsets 2 of 3 rows
    table t1 page offsets 1 of 2 rows
    table t2 book offsets 1 of 1 rows
    n0 = input x : f32[3x2]
    n31 = fold n0 | sum by t0 : f32[2x2]
    output word = n31
    drop-unused           done  book reaches no output
    drop-unused           done  page reaches no output
    drop-unused           done  word reaches no output
    drop-unused           done  word reaches no output
    ");
    // After fusing, what is not needed sits inside a fold: a sibling, and stages at the top.
    let prepare: Vec<Box<dyn Pass>> = vec![Box::new(FuseTransposeReduce), Box::new(FuseSiblings), Box::new(FuseLevels)];
    insta::assert_snapshot!(after_with(prepare, DropUnused, graph, &Target::new("test")), @"
    table t0 word offsets 2 of 3 rows
    table t1 page offsets 1 of 2 rows
    table t2 book offsets 1 of 1 rows
    n0 = input x : f32[3x2]
    n31 = fold n0 | sum by t0 : f32[2x2]
    output word = n31
    drop-unused           done  word page book: nobody takes 4 of its results
    ");
}

#[test]
fn hoist_linear() {
    let build_of = |dtype: DType, reducer: Reducer, bias: bool, words: &[u64]| {
        let mut b = GraphBuilder::new();
        let x = b.input("x", dtype, 3, 4).unwrap();
        let word = b.table("word", &lengths(words)).unwrap();
        let weight = b.param("w", dtype, 2, 4).unwrap();
        let bias = if bias { Some(b.param("b", dtype, 1, 2).unwrap()) } else { None };
        let y = b.linear(x, weight, bias).unwrap();
        let y = b.fold(y, word, Reduce::new(reducer).on_empty(OnEmpty::Zero)).unwrap();
        b.output("word", y).unwrap();
        b.finish().unwrap()
    };
    let build = |reducer, bias, words: &[u64]| build_of(DType::F32, reducer, bias, words);
    let may = HoistLinear { exactness: Exactness::Reassociates };
    insta::assert_snapshot!(folded(may, build(Reducer::Mean, true, &[2, 1])), @"
    table t0 word offsets 2 of 3 rows
    n0 = input x : f32[3x4]
    n1 = param w : f32[2x4]
    n2 = param b : f32[1x2]
    n4 = fold n0 | mean empty=zero by t0 : f32[2x4]
    n5 = matmul n4, n1, n2 : f32[2x2]
    output word = n5
    hoist-linear          done  x.linear is taken of word: of 2 rows, not of 3
    ");
    let decided = |pass: HoistLinear, graph| folded(pass, graph).lines().last().unwrap().to_owned();
    let exact = HoistLinear { exactness: Exactness::BitExact };
    let told = [
        decided(may, build(Reducer::Sum, false, &[2, 1])),
        decided(may, build(Reducer::Sum, true, &[2, 1])),
        decided(may, build(Reducer::Mean, true, &[2, 0, 1])),
        decided(exact, build(Reducer::Mean, true, &[2, 1])),
        decided(may, build_of(DType::F16, Reducer::Mean, true, &[2, 1])),
        decided(may, build(Reducer::Max, false, &[2, 1])),
    ];
    insta::assert_snapshot!(told.join("\n"), @"
    hoist-linear          done  x.linear is taken of word: of 2 rows, not of 3
    hoist-linear          kept  x.linear stays below word: the sum adds its bias once for each row
    hoist-linear          kept  x.linear stays below word: the lower level has empty segments
    hoist-linear          kept  x.linear stays below word: it would change how sums are bracketed (allowed at -O2)
    hoist-linear          kept  x.linear stays below word: the sum would be rounded to f16 before the product
    output word = n9
    ");
}

#[test]
fn fuse_rowwise() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 3, 4).unwrap();
    let each = b.table("word", &lengths(&[2, 1])).unwrap();
    let (weight, scale) = (b.param("w", DType::F32, 4, 4).unwrap(), b.param("n", DType::F32, 1, 4).unwrap());
    let y = b.linear(x, weight, None).unwrap();
    let y = b.map(y, &RowOp::Activate(Activation::Gelu)).unwrap();
    let y = b.map(y, &RowOp::Add(x)).unwrap();
    // Kept, and taken twice: what follows stays apart.
    let z = b.map(y, &RowOp::RmsNorm { weight: scale, eps: Number(1e-6) }).unwrap();
    let z = b.map(z, &RowOp::Sinusoid { table: each, base: Number(1e4) }).unwrap();
    let kept = b.map(y, &RowOp::Scale(Number(2.0))).unwrap();
    let last = b.map(kept, &RowOp::Activate(Activation::Relu)).unwrap();
    b.output("z", z).unwrap();
    b.output("kept", kept).unwrap();
    b.output("last", last).unwrap();
    insta::assert_snapshot!(after(FuseRowwise, b.finish().unwrap()), @"
    table t0 word offsets 2 of 3 rows
    n0 = input x : f32[3x4]
    n1 = param w : f32[4x4]
    n2 = param n : f32[1x4]
    n3 = matmul n0, n1 | gelu | add n0 : f32[3x4]
    n8 = map n3 | scale 2.0 : f32[3x4]
    n9 = map n8 | relu : f32[3x4]
    n10 = map n3 | rms-norm n2 eps=1e-6 | sinusoid by t0 base=10000.0 : f32[3x4]
    output z = n10
    output kept = n8
    output last = n9
    fuse-rowwise          done  x.gelu follows x.linear row by row: 48 B not written, and not read again
    fuse-rowwise          done  x.add follows x.linear+gelu row by row: 48 B not written, and not read again
    fuse-rowwise          kept  x.rms-norm stays a step behind x.linear+gelu+add: its result is used elsewhere too
    fuse-rowwise          done  x.sinusoid follows x.rms-norm row by row: 48 B not written, and not read again
    fuse-rowwise          kept  x.scale stays a step behind x.linear+gelu+add: its result is used elsewhere too
    fuse-rowwise          kept  x.relu stays a step behind x.scale: its result is kept, so it is written anyway
    ");
}

#[test]
fn the_default_plan_of_text_is_one_step_without_a_copy() {
    let text = || {
        Hierarchy::new(Leaves::values("char", DType::F32, 8))
            .level(Level::new("word", lengths(&[2, 3, 1, 4])).reduce(Reducer::Mean))
            .level(Level::new("sentence", lengths(&[3, 1])).reduce(Reducer::Mean).keep())
            .level(Level::new("corpus", lengths(&[2])).reduce(Reducer::Max))
            .graph()
            .unwrap()
    };
    let literal = Planner::new(Target::new("cpu")).opt(OptLevel::O0).plan(text()).unwrap();
    let default = Planner::new(Target::new("cpu")).plan(text()).unwrap();
    assert_eq!((literal.plan.totals.steps, default.plan.totals.steps), (9, 1));
    assert_eq!((literal.plan.totals.copied_bytes, default.plan.totals.copied_bytes), (736, 0));
    assert_eq!(default.plan.literal, literal.plan.totals);
}

#[test]
fn passes_have_the_names_of_their_files_and_can_be_left_out() {
    insta::assert_snapshot!(Pipeline::new(OptLevel::O2).names().join(" "), @"share-tables eliminate-identity fuse-transpose-reduce fuse-siblings collapse-levels hoist-linear fuse-rowwise fuse-gather histogram-gather fuse-levels place-concat drop-unused tile-encoders");
    let without = Pipeline::new(OptLevel::O1).without("fuse-levels").unwrap();
    assert!(!without.names().contains(&"fuse-levels"));
    insta::assert_snapshot!(Pipeline::new(OptLevel::O1).without("fuse-level").err().unwrap(), @"there is no pass `fuse-level`; did you mean `fuse-levels`? [unknown-name]");
    let exact = |opt| Pipeline::new(opt).passes.iter().all(|pass| pass.exactness() == Exactness::BitExact);
    assert!(exact(OptLevel::O1) && !exact(OptLevel::O2));
}

#[test]
fn a_quantile_shares_its_step_with_nothing() {
    let median = Reducer::Quantile(crate::reducer::Quantile::MEDIAN);
    let words = Segments::from_lengths(&[2, 3]).unwrap();
    let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 2))
        .level(Level::new("word", words).reduce_all(&[Reducer::Mean, median.clone()]))
        .level(Level::new("text", Segments::from_lengths(&[1, 1]).unwrap()).reduce(median))
        .level(Level::new("all", Segments::from_lengths(&[2]).unwrap()).reduce(Reducer::Sum));
    let planned = Planner::new(Target::new("cpu")).plan(hierarchy.graph().unwrap()).unwrap();
    planned.plan.verify().unwrap();
    assert_eq!(planned.plan.steps.len(), 4, "{}", planned.plan);
    assert_eq!(planned.plan.totals.copied_bytes, 0);
    let told: Vec<String> = planned.decisions.iter().map(ToString::to_string).filter(|told| told.contains("quantile")).collect();
    assert_eq!(told.len(), 2, "the siblings, and the sum above: {told:?}");
}

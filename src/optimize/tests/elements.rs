//! Operations on single elements join folds.

use super::*;

/// gelu · 0.5 before a fold, relu behind it, and a level above.
fn graph(raw: Option<&str>) -> LevelGraph {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F16, 3, 2).unwrap();
    let (word, all) = (b.table("word", &lengths(&[2, 1])).unwrap(), b.table("all", &lengths(&[2])).unwrap());
    let rows = b.map(x, &RowOp::Activate(Activation::Gelu)).unwrap();
    let rows = b.map(rows, &RowOp::Scale(Number(0.5))).unwrap();
    let rows = b.map(rows, &RowOp::Cast(DType::F32)).unwrap();
    let sum = b.fold(rows, word, Reduce::new(Reducer::Sum)).unwrap();
    let done = b.map(sum, &RowOp::Activate(Activation::Relu)).unwrap();
    let top = b.fold(done, all, Reduce::new(Reducer::Max)).unwrap();
    match raw {
        Some("sum") => b.output("sum", sum).unwrap(),
        Some("rows") => b.output("rows", rows).unwrap(),
        Some(_) | None => {}
    }
    b.output("top", top).unwrap();
    b.finish().unwrap()
}

fn shown(graph: LevelGraph, target: &Target) -> String {
    after_with(vec![Box::new(FuseTransposeReduce)], FuseRowwise, graph, target)
}

#[test]
fn elements_before_and_behind_a_fold_join_it() {
    insta::assert_snapshot!(shown(graph(None), &Target::new("test")), @"
    table t0 word offsets 2 of 3 rows
    table t1 all offsets 1 of 2 rows
    n0 = input x : f16[3x2]
    n17 = fold n0 | gelu | scale 0.5 | cast f32 | sum then relu by t0 : f32[2x2]
    n4 = fold n17 | max by t1 : f32[1x2]
    output top = n4
    fuse-rowwise          done  x.scale follows x.gelu row by row: 12 B not written, and not read again
    fuse-rowwise          done  x.cast follows x.gelu+scale row by row: 12 B not written, and not read again
    fuse-rowwise          done  word.relu is done as word writes: 16 B not written, and not read again
    fuse-rowwise          done  x.gelu+scale+cast is done as word.slice+transpose+contiguous+reduce+stack+squeeze+relu reads: 24 B not written, and not read again
    ");
}

#[test]
fn what_is_kept_as_it_was_is_done_by_the_fold_above() {
    insta::assert_snapshot!(shown(graph(Some("sum")), &Target::new("test")), @"
    table t0 word offsets 2 of 3 rows
    table t1 all offsets 1 of 2 rows
    n0 = input x : f16[3x2]
    n11 = fold n0 | gelu | scale 0.5 | cast f32 | sum by t0 : f32[2x2]
    n1 = fold n11 | relu | max by t1 : f32[1x2]
    output sum = n11
    output top = n1
    fuse-rowwise          done  x.scale follows x.gelu row by row: 12 B not written, and not read again
    fuse-rowwise          done  x.cast follows x.gelu+scale row by row: 12 B not written, and not read again
    fuse-rowwise          done  x.gelu+scale+cast is done as word reads: 24 B not written, and not read again
    fuse-rowwise          done  word.relu is done as all reads: 16 B not written, and not read again
    ");
}

#[test]
fn rows_that_are_kept_are_written_anyway() {
    insta::assert_snapshot!(shown(graph(Some("rows")), &Target::new("test")), @"
    table t0 word offsets 2 of 3 rows
    table t1 all offsets 1 of 2 rows
    n0 = input x : f16[3x2]
    n1 = map n0 | gelu | scale 0.5 | cast f32 : f32[3x2]
    n11 = fold n1 | sum then relu by t0 : f32[2x2]
    n4 = fold n11 | max by t1 : f32[1x2]
    output rows = n1
    output top = n4
    fuse-rowwise          done  x.scale follows x.gelu row by row: 12 B not written, and not read again
    fuse-rowwise          done  x.cast follows x.gelu+scale row by row: 12 B not written, and not read again
    fuse-rowwise          done  word.relu is done as word writes: 16 B not written, and not read again
    fuse-rowwise          kept  x.gelu+scale+cast stays a step beside word.slice+transpose+contiguous+reduce+stack+squeeze+relu: its result is kept, so it is written anyway
    ");
}

#[test]
fn a_target_may_not_have_an_operation_inside_folds() {
    let target = Target { element_op: |op| op != ElementOp::Activate(Activation::Relu), ..Target::new("test") };
    let told = shown(graph(None), &target);
    insta::assert_snapshot!(told.lines().filter(|line| line.contains("kept")).collect::<Vec<_>>().join("\n"), @"fuse-rowwise          kept  word.relu stays a step beside word: the target does not do `relu` inside a fold");
}

/// gelu before a fold by these ranges of ten rows.
fn windows(ranges: &[(u64, u64)]) -> String {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 10, 2).unwrap();
    let table = b.table("win", &Segments::from_ranges(ranges, 10).unwrap()).unwrap();
    let rows = b.map(x, &RowOp::Activate(Activation::Gelu)).unwrap();
    let mean = b.fold(rows, table, Reduce::new(Reducer::Mean)).unwrap();
    b.output("win", mean).unwrap();
    let told = shown(b.finish().unwrap(), &Target::new("test"));
    told.lines().filter(|line| line.starts_with("fuse-rowwise")).collect::<Vec<_>>().join("\n")
}

#[test]
fn rows_that_segments_share_are_not_worked_on_each_time() {
    insta::assert_snapshot!(windows(&[(0, 10), (0, 10)]), @"fuse-rowwise          done  x.gelu is done as win reads: 80 B not written, and not read again");
    insta::assert_snapshot!(windows(&[(0, 10), (0, 10), (3, 4)]), @"fuse-rowwise          kept  x.gelu stays a step beside win: the segments overlap, and it would be done to 21 rows instead of 10");
}

#[test]
fn a_chain_with_operations_between_is_one_step() {
    let planned = Planner::new(Target::new("cpu")).plan(graph(Some("sum"))).unwrap();
    let text = planned.plan.to_string();
    let step: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("step")).take_while(|line| !line.is_empty()).collect();
    insta::assert_snapshot!(step.join("\n"), @"
    step    s0 _  = map.gelu   b0
               _  = then.scale _ 0.5
               _  = then.cast  _ f32
               b1 = fold.sum   _ by t0
               _  = then.relu  b1
               b2 = then.max   _ by t1
               ; read 52  written 24  copied 0  flops 32
               ; from x:    gelu + scale + cast
               ;      word: slice + transpose + contiguous + reduce + stack + squeeze + relu
               ;      all:  slice + transpose + contiguous + reduce + stack + squeeze
    ");
    let json = planned.plan.to_json();
    assert_eq!(crate::plan::Plan::from_json(&json).unwrap(), planned.plan);
    assert!(json.contains(r#""ops": [{"activate": "gelu"}, {"scale": 0.5}, {"cast": "f32"}]"#), "{json}");
    let dot = planned.plan.to_dot();
    assert!(dot.contains("gelu, scale, cast, sum by t0 word\\nrelu, max by t1 all"), "{dot}");
    // Two rows of three are read as f16, and written as f32.
    assert_eq!((planned.plan.totals.steps, planned.plan.totals.copied_bytes), (1, 0));
}

//! What a target does not take in one step is not fused into one.

use super::*;

#[test]
fn fuse_levels_refuses_more_stages_and_reductions_than_the_target_takes() {
    let graph = two_levels(Reducer::Mean, Reducer::Mean, lengths(&[2, 1]), lengths(&[2]));
    let kept = |fusion| {
        let target = Target { fusion, ..Target::new("test") };
        let shown = after_with(vec![Box::new(FuseTransposeReduce)], FuseLevels, graph.clone(), &target);
        shown.lines().last().unwrap_or_default().to_owned()
    };
    insta::assert_snapshot!(kept(FusionLimits { stages: 1, ..FusionLimits::default() }), @"fuse-levels           kept  word and sentence stay two steps: one step would fold 2 levels, more than the 1 that the target takes");
    insta::assert_snapshot!(kept(FusionLimits { reductions: 1, ..FusionLimits::default() }), @"fuse-levels           kept  word and sentence stay two steps: one step would make 2 reductions, more than the 1 that the target takes");
}

#[test]
fn fuse_levels_refuses_more_levels_that_go_over_their_blocks_twice_than_the_target_holds() {
    let target = |again| Target { fusion: FusionLimits { again, ..FusionLimits::default() }, ..Target::new("test") };
    let of = |lower, upper, again| {
        let graph = two_levels(lower, upper, lengths(&[2, 1]), lengths(&[2]));
        let shown = after_with(vec![Box::new(FuseTransposeReduce)], FuseLevels, graph, &target(again));
        shown.lines().last().unwrap_or_default().to_owned()
    };
    let var = Reducer::Var { ddof: 0 };
    insta::assert_snapshot!(of(var.clone(), Reducer::LogSumExp, 1), @"fuse-levels           kept  word and sentence stay two steps: one step would go over the blocks of 2 levels twice, more than the 1 whose rows the target holds");
    insta::assert_snapshot!(of(var.clone(), Reducer::LogSumExp, 2), @"fuse-levels           done  word feeds sentence from registers: 16 B not read, 16 B not written; units of up to 3 leaf rows");
    insta::assert_snapshot!(of(var, Reducer::ArgMax, 1), @"fuse-levels           done  word feeds sentence from registers: 16 B not read, 16 B not written; units of up to 3 leaf rows");
}

#[test]
fn fuse_siblings_refuses_more_reductions_than_the_target_takes() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 4, 2).unwrap();
    let t = b.table("word", &lengths(&[2, 2])).unwrap();
    for (name, reducer) in [("sum", Reducer::Sum), ("max", Reducer::Max), ("min", Reducer::Min), ("again", Reducer::Sum)] {
        let fold = b.fold(x, t, Reduce::new(reducer).on_empty(OnEmpty::Zero)).unwrap();
        b.output(name, fold).unwrap();
    }
    let target = Target { fusion: FusionLimits { reductions: 2, ..FusionLimits::default() }, ..Target::new("test") };
    // Two and two: what is equal to one that is there makes no more of them.
    insta::assert_snapshot!(after_with(vec![Box::new(FuseTransposeReduce)], FuseSiblings, b.finish().unwrap(), &target), @"
    table t0 word offsets 2 of 4 rows
    n0 = input x : f32[4x2]
    n7 = fold n0 | sum by t0 : f32[2x2]
    n19 = fold n0 | max empty=zero+min empty=zero by t0 : f32[2x2], f32[2x2]
    output sum = n7
    output max = n19.0
    output min = n19.1
    output again = n7
    fuse-siblings         done  word and word share one read: 32 B not read again
    fuse-siblings         kept  word and word read apart: one step would make 3 reductions, more than the 2 that the target takes
    fuse-siblings         kept  word and word read apart: one step would make 3 reductions, more than the 2 that the target takes
    fuse-siblings         done  word and word share one read: 32 B not read again
    ");
}

#[test]
fn fuse_levels_says_why_a_level_of_several_reducers_does_not_feed_the_next() {
    let graph = Hierarchy::new(Leaves::values("char", DType::F32, 2))
        .level(Level::new("word", lengths(&[2, 1])).reduce_all(&[Reducer::Mean, Reducer::Max]))
        .level(Level::new("sentence", lengths(&[2])).reduce(Reducer::Sum))
        .graph()
        .unwrap();
    let prepare: Vec<Box<dyn Pass>> = vec![Box::new(FuseTransposeReduce), Box::new(FuseSiblings)];
    let after = after_with(prepare, FuseLevels, graph, &Target::new("test"));
    assert!(after.ends_with("word and sentence stay two steps: the rows between them are the results of several reducers side by side, and a fold is fed by one"), "{after}");
}

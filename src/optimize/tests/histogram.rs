//! histogram-gather, and why it leaves folds alone.

use super::*;
use crate::plan;

#[test]
fn histogram_gather() {
    let build = |reducers: &[Reducer], rows: u64, weighted: bool| {
        let mut b = GraphBuilder::new();
        let ids = b.ids("x", DType::U8, rows).unwrap();
        let lut = b.param("lut", DType::F32, 5, 16).unwrap();
        let all = b.table("all", &lengths(&[rows])).unwrap();
        let weights = b.input("w", DType::F32, rows, 1).unwrap();
        let x = b.gather(ids, lut).unwrap();
        for reducer in reducers {
            let reduce = Reduce::new(reducer.clone());
            let y = b.fold(x, all, if weighted { reduce.weights(weights) } else { reduce }).unwrap();
            b.output(&reducer.to_string(), y).unwrap();
        }
        b.finish().unwrap()
    };
    let passes = |exactness| {
        Pipeline::of(vec![
            Box::new(FuseTransposeReduce),
            Box::new(FuseSiblings),
            Box::new(FuseGather),
            Box::new(HistogramGather { exactness }),
        ])
    };
    let run = |exactness, mut graph: LevelGraph, target: &Target| {
        let decisions = passes(exactness).run(&mut graph, target, &mut NoObserver).unwrap();
        graph.verify().unwrap();
        let last = decisions.last().unwrap().to_string();
        (graph, last)
    };
    let (may, exact, cpu) = (Exactness::Reassociates, Exactness::BitExact, Target::new("cpu"));
    let (graph, told) = run(may, build(&[Reducer::Sum, Reducer::Max], 100, false), &cpu);
    insta::assert_snapshot!(format!("{graph}{told}"), @"
    table t0 all offsets 1 of 100 rows
    n0 = input x : u8[100x1]
    n1 = param lut : f32[5x16]
    n2 = input w : f32[100x1]
    n16 = fold histogram n0, n1 | max+sum by t0 : f32[1x16], f32[1x16]
    output sum = n16.1
    output max = n16.0
    histogram-gather      done  x.gather all counts 100 ids, and folds the 5 rows of their table by counts for each of 1 segment(s): 560 operations, not 1600
    ");
    let decided = |exactness, graph, target: &Target| run(exactness, graph, target).1;
    let no_counts = Target {
        supports: |step| match step {
            plan::StepKind::Fold(plan::Fold { load: plan::Load::Histogram { .. }, .. }) => Err("it cannot count".into()),
            _ => Ok(()),
        },
        ..Target::new("other")
    };
    let told = [
        decided(exact, build(&[Reducer::Mean], 100, false), &cpu),
        decided(exact, build(&[Reducer::Max, Reducer::Min], 100, false), &cpu),
        decided(may, build(&[Reducer::Mean], 30, false), &cpu),
        decided(may, build(&[Reducer::Sum], 100, true), &cpu),
        decided(may, build(&[Reducer::Sum, Reducer::L1], 100, false), &cpu),
        decided(may, build(&[Reducer::Sum], 100, false), &no_counts),
    ];
    insta::assert_snapshot!(told.join("\n"), @"
    histogram-gather      kept  x.gather all folds looked-up rows: it would change how sums are bracketed (allowed at -O2)
    histogram-gather      done  x.gather all counts 100 ids, and folds the 5 rows of their table by counts for each of 1 segment(s): 560 operations, not 1600
    histogram-gather      kept  x.gather all folds looked-up rows: counting would take 280 operations, more than half of the 480 of folding
    histogram-gather      kept  x.gather all folds looked-up rows: weights stand in between
    histogram-gather      kept  x.gather all folds looked-up rows: l1 does not follow from how often each row occurs
    histogram-gather      kept  x.gather all folds looked-up rows: it cannot count
    ");
}

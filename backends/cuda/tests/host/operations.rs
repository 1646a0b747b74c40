//! Operations on single elements beside folds: done by the folds themselves, to what they read and to what they make, long and empty segments too; and in steps of
//! their own, where passes are off.

use super::Fake;
use levelfold::encoder::{Activation, ElementOp, Number, RowOp};
use levelfold::graph::{GraphBuilder, LevelGraph, Reduce};
use levelfold::optimize::{EliminateIdentity, FuseLevels, FuseRowwise, FuseTransposeReduce, Pass, Pipeline, Planner};
use levelfold::plan::{Fold, Plan, StepKind};
use levelfold::{Bindings, DType, Engine, OnEmpty, Prepared, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_reference::ReferenceBackend;

const ROWS: u64 = 5_300;
const FEATURES: u64 = 6;

/// Rows scaled and cut off below 0; means of words, of which one is long and some are empty; those through gelu, in f32; and maxima of all of them, through a sigmoid.
fn graph(dtype: DType) -> LevelGraph {
    let mut lengths = vec![3u64; 100];
    (lengths[7], lengths[20]) = (0, 4_706);
    lengths.extend([0, 300]);
    assert_eq!(lengths.iter().sum::<u64>(), ROWS);
    let mut b = GraphBuilder::new();
    let x = b.input("x", dtype, ROWS, FEATURES).expect("an input");
    let x = b.map(x, &RowOp::Scale(Number(1.0 / 3.0))).expect("a scale");
    let x = b.map(x, &RowOp::Activate(Activation::Relu)).expect("an activation");
    let word = b.table("word", &Segments::from_lengths(&lengths).expect("lengths")).expect("a table");
    let mean = Reduce::new(Reducer::Mean).on_empty(OnEmpty::Fill(-0.75));
    let words = b.fold(x, word, mean).expect("a fold");
    let words = b.map(words, &RowOp::Activate(Activation::Gelu)).expect("an activation");
    let words = b.map(words, &RowOp::Cast(DType::F32)).expect("a cast");
    let text = b.table("text", &Segments::from_lengths(&[60u64, 0, 42]).expect("lengths")).expect("a table");
    let most = Reduce::new(Reducer::Max).on_empty(OnEmpty::Fill(2.0));
    let most = b.fold(words, text, most).expect("a fold");
    let most = b.map(most, &RowOp::Activate(Activation::Sigmoid)).expect("an activation");
    b.output("word", words).expect("an output");
    b.output("text", most).expect("an output");
    b.finish().expect("a graph")
}

fn run(prepared: &Prepared, x: TensorView<'_>) -> (Vec<f32>, Vec<f32>) {
    let (mut words, mut texts) = (vec![-1.0f32; 102 * 6], vec![-1.0f32; 3 * 6]);
    let bindings = Bindings::new()
        .input("x", x)
        .output("word", TensorViewMut::from_slice(&mut words, [102, 6]).expect("a view"))
        .output("text", TensorViewMut::from_slice(&mut texts, [3, 6]).expect("a view"));
    prepared.run(bindings).expect("a run");
    (words, texts)
}

fn folds(plan: &Plan) -> Vec<&Fold> {
    let folds = plan.steps.iter().map(|step| match &step.kind {
        StepKind::Fold(fold) => fold,
        other => panic!("a step of its own: {other:?}"),
    });
    folds.collect()
}

#[test]
fn folds_do_what_stands_beside_them() {
    let Some(fake) = Fake::take() else { return };
    let rows = usize::try_from(ROWS).expect("few");
    let values: Vec<f32> = (0..rows * 6).map(|at| f32::from(u16::try_from(at * 37 % 4001).expect("small")) / 700.0 - 2.5).collect();
    let halves: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f32(x)).collect();
    for (dtype, x) in [(DType::F32, TensorView::from_slice(&values, [rows, 6])), (DType::BF16, TensorView::from_slice(&halves, [rows, 6]))]
    {
        let x = x.expect("a view");
        let reference = Engine::new(ReferenceBackend::new()).prepare_graph(graph(dtype)).expect("a plan");
        let wanted = run(&reference, x);
        let prepared = Engine::new(fake.backend()).prepare_graph(graph(dtype)).expect("a plan");
        let all: Vec<ElementOp> = folds(prepared.plan())
            .into_iter()
            .flat_map(|fold| &fold.stages)
            .flat_map(|stage| stage.ops.iter().chain(stage.reductions.iter().flat_map(|made| &made.ops)).copied())
            .collect();
        assert!(all.len() >= 4, "{all:?}");
        for _ in 0..3 {
            let found = run(&prepared, x);
            let bits = |(words, texts): &(Vec<f32>, Vec<f32>)| words.iter().chain(texts).map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&found), bits(&wanted), "{dtype}");
        }
    }
}

/// What passes do changes where operations run, in folds or in steps of their own, and no bit.
#[test]
fn every_subset_of_passes_gives_the_bits_of_the_literal_program() {
    let Some(fake) = Fake::take() else { return };
    let rows = usize::try_from(ROWS).expect("few");
    let halves: Vec<half::bf16> =
        (0..rows * 6).map(|at| half::bf16::from_f32(f32::from(u16::try_from(at * 37 % 4001).expect("small")) / 700.0 - 2.5)).collect();
    let x = TensorView::from_slice(&halves, [rows, 6]).expect("a view");
    let graph = graph(DType::BF16);
    let tables: Vec<Segments> = graph.tables().iter().map(|table| table.segments.clone()).collect();
    let bits = |(words, texts): (Vec<f32>, Vec<f32>)| words.iter().chain(&texts).map(|x| x.to_bits()).collect::<Vec<u32>>();
    let reference = Engine::new(ReferenceBackend::new());
    let wanted = bits(run(&reference.prepare_graph(graph.clone()).expect("a plan"), x));
    let engine = Engine::new(fake.backend());
    let (mut steps, mut plans) = (0, Vec::new());
    for mask in 0..16u32 {
        let all: [Box<dyn Pass>; 4] =
            [Box::new(EliminateIdentity), Box::new(FuseTransposeReduce), Box::new(FuseRowwise), Box::new(FuseLevels)];
        let some = all.into_iter().enumerate().filter(|(index, _)| mask >> index & 1 == 1).map(|(_, pass)| pass).collect();
        let planner = Planner::new(levelfold_cuda::target()).pipeline(Pipeline::of(some));
        let plan = planner.plan(graph.clone()).expect("a plan").plan;
        if plans.contains(&plan) {
            continue;
        }
        plans.push(plan.clone());
        steps += plan.steps.iter().filter(|step| matches!(step.kind, StepKind::Encode(_))).count();
        let prepared = engine.prepare_plan(plan, tables.clone()).expect("it is loaded");
        assert_eq!(bits(run(&prepared, x)), wanted, "passes {mask:#b}");
    }
    assert!(plans.len() >= 6 && steps > 12, "{} plans, {steps} steps of operations", plans.len());
}

//! Whole plans, as snapshots: a dozen hierarchies, literal and by default, for the CPU, for CUDA, and for a made-up target that aligns more and fuses
//! less. `cargo insta review` shows what a change moved; the commit says why.

use levelfold::backend::{FusionLimits, Target, TileLimits};
use levelfold::check;
use levelfold::encoder::{Activation, Number, RowOp};
use levelfold::graph::{GraphBuilder, LevelGraph, Reduce};
use levelfold::optimize::Planner;
use levelfold::{DType, ErrorCode, Hierarchy, Leaves, Level, OnEmpty, OptLevel, Plan, Reducer, Segments};

fn lengths(lengths: &[u64]) -> Segments {
    Segments::from_lengths(lengths).unwrap()
}

fn words() -> Level {
    Level::new("word", lengths(&[5, 3, 4, 7, 2, 6, 1, 4]))
}

fn sentences() -> Level {
    Level::new("sentence", lengths(&[3, 5]))
}

fn corpus() -> Level {
    Level::new("corpus", lengths(&[2]))
}

fn values() -> Leaves {
    Leaves::values("char", DType::F32, 64)
}

fn of(hierarchy: Hierarchy) -> LevelGraph {
    hierarchy.graph().unwrap()
}

/// One input, two towers over it, and a level that both share.
fn two_towers() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let rows = b.input("event", DType::F32, 12, 16).unwrap();
    let session = b.table("session", &lengths(&[4, 2, 6])).unwrap();
    let sum = b.fold(rows, session, Reduce::new(Reducer::Sum)).unwrap();
    let max = b.fold(rows, session, Reduce::new(Reducer::Max)).unwrap();
    let user = b.table("user", &lengths(&[1, 2])).unwrap();
    let users = b.fold(sum, user, Reduce::new(Reducer::Mean)).unwrap();
    let region = b.table("region", &Segments::from_ranges(&[(1, 3), (0, 2)], 3).unwrap()).unwrap();
    let regions = b.fold(max, region, Reduce::new(Reducer::Max)).unwrap();
    let both = b.concat(&[users, regions]).unwrap();
    b.output("user", users).unwrap();
    b.output("both", both).unwrap();
    b.output("again", users).unwrap();
    b.finish().unwrap()
}

/// Operations on single elements around two folds, the lower of which is kept; and on rows that are kept before them, to which they are added.
fn elements() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let rows = b.input("char", DType::BF16, 10, 64).unwrap();
    let rows = b.map(rows, &RowOp::Scale(Number(0.125))).unwrap();
    let rows = b.map(rows, &RowOp::Activate(Activation::Relu)).unwrap();
    let word = b.table("word", &lengths(&[3, 0, 5, 2])).unwrap();
    let raw = b.fold(rows, word, Reduce::new(Reducer::Mean).on_empty(OnEmpty::Fill(1.0))).unwrap();
    let words = b.map(raw, &RowOp::Activate(Activation::Gelu)).unwrap();
    let words = b.map(words, &RowOp::Add(raw)).unwrap();
    let words = b.map(words, &RowOp::Cast(DType::F32)).unwrap();
    let text = b.table("text", &lengths(&[3, 1])).unwrap();
    let texts = b.fold(words, text, Reduce::new(Reducer::Max)).unwrap();
    let texts = b.map(texts, &RowOp::Activate(Activation::Sigmoid)).unwrap();
    b.output("raw", raw).unwrap();
    b.output("word", words).unwrap();
    b.output("text", texts).unwrap();
    b.finish().unwrap()
}

/// A reducer of the user's own beside one of ours, under another of the user's own.
fn custom() -> Hierarchy {
    let range: Reducer = "custom(range: low from x by min(a.low, b.low); high from x by max(a.high, b.high); high - low)".parse().unwrap();
    let geometric = "custom(geometric_mean: s from log(x) by a.s + b.s; n from 1 by a.n + b.n; exp(s / n))".parse().unwrap();
    Hierarchy::new(values()).level(words().reduce_all(&[range, Reducer::Var { ddof: 0 }])).level(sentences().reduce(geometric))
}

fn graphs() -> Vec<(&'static str, LevelGraph)> {
    let mean = Reducer::Mean;
    let all = [Reducer::Mean, Reducer::Max, Reducer::Min];
    vec![
        ("one-level", of(Hierarchy::new(values()).level(words()))),
        (
            "text",
            of(Hierarchy::new(values())
                .level(words().reduce(mean.clone()))
                .level(sentences().reduce(mean.clone()).keep())
                .level(corpus().reduce(mean.clone()))),
        ),
        ("text-all-kept", of(Hierarchy::new(values().keep()).level(words().keep()).level(sentences().keep()).level(corpus().keep()))),
        (
            "lookup",
            of(Hierarchy::new(Leaves::lookup("char", DType::U8, DType::F32, 256, 64))
                .level(words().reduce(mean.clone()))
                .level(sentences().reduce(mean.clone()).keep())
                .level(corpus().reduce(mean.clone()))),
        ),
        ("siblings", of(Hierarchy::new(values()).level(words().reduce_all(&all)).level(sentences().reduce_all(&all)))),
        (
            "weighted",
            of(Hierarchy::new(values())
                .level(words().reduce(mean.clone()).weights("attention", DType::F32))
                .level(sentences().weights("importance", DType::F16))),
        ),
        (
            "empty-segments",
            of(Hierarchy::new(values())
                .level(Level::new("word", lengths(&[0, 30, 0, 2, 0])).reduce(mean.clone()).on_empty(OnEmpty::NaN))
                .level(Level::new("sentence", lengths(&[0, 5])).reduce(Reducer::Max).on_empty(OnEmpty::Fill(-1.5)))),
        ),
        (
            "ranges",
            of(Hierarchy::new(values().rows(32))
                .level(Level::new("window", Segments::from_ranges(&[(0, 8), (4, 12), (20, 20), (16, 32), (4, 12)], 32).unwrap()))
                .level(Level::new("top", Segments::from_ranges(&[(3, 5), (0, 2)], 5).unwrap()).reduce(Reducer::Max))),
        ),
        ("max-of-max", of(Hierarchy::new(values()).level(words().reduce(Reducer::Max)).level(sentences().reduce(Reducer::Max)))),
        (
            "mixed-types",
            of(Hierarchy::new(Leaves::values("char", DType::BF16, 64))
                .level(words().reduce(mean.clone()).dtype(DType::F32).keep())
                .level(sentences().reduce(mean.clone()).dtype(DType::F64))),
        ),
        ("long-units", {
            let long = lengths(&[40_000, 2, 3, 40_000]);
            of(Hierarchy::new(values())
                .level(Level::new("protein", long).reduce(mean.clone()))
                .level(Level::new("family", lengths(&[4])).reduce(mean)))
        }),
        (
            "states",
            of(Hierarchy::new(values())
                .level(words().reduce(Reducer::LogSumExp))
                .level(sentences().reduce(Reducer::SoftMax).weights("scores", DType::F32).keep())
                .level(corpus().reduce(Reducer::Var { ddof: 0 }))),
        ),
        ("two-towers", two_towers()),
        ("elements", elements()),
        ("custom", of(custom())),
        ("transformer", of(Hierarchy::from_json(include_str!("../docs/examples/transformer.json")).unwrap())),
    ]
}

fn made_up() -> Target {
    let fusion = FusionLimits { unit_rows: 20, unit_share: 1000, ..FusionLimits::default() };
    let tiles = Some(TileLimits { bytes: 12 << 10, rows: 2, share: 1 });
    Target { align: 256, fusion, tiles, ..Target::new("made-up") }
}

#[test]
fn plans_are_as_they_were() {
    for (name, graph) in graphs() {
        for target in [Target::new("cpu"), made_up(), levelfold_cuda::target()] {
            let mut text = String::new();
            for opt in [OptLevel::O0, OptLevel::O1] {
                let planned = match Planner::new(target.clone()).opt(opt).plan(graph.clone()) {
                    Ok(planned) => planned,
                    Err(error) if error.code() == ErrorCode::Unsupported => {
                        text.push_str(&format!("-{opt}\n\n{error}\n\n"));
                        continue;
                    }
                    Err(error) => panic!("{name} for {}: {error}", target.name),
                };
                check::replay(&planned.plan, &graph).unwrap();
                let read = Plan::from_json(&planned.plan.to_json()).unwrap();
                assert_eq!(read, planned.plan, "{name}: JSON reads back");
                assert_eq!(planned.plan.to_dot(), read.to_dot(), "{name}: DOT is deterministic");
                text.push_str(&format!("-{opt}\n\n{}\n", planned.plan));
                for decision in &planned.decisions {
                    text.push_str(&format!("; {decision}\n"));
                }
                text.push('\n');
            }
            insta::assert_snapshot!(format!("{name}@{}", target.name), text);
        }
    }
}

#[test]
fn the_default_plan_of_text_copies_nothing_and_reads_the_leaves_once() {
    let (_, graph) = graphs().swap_remove(1);
    let plan = |opt| Planner::new(Target::new("cpu")).opt(opt).plan(graph.clone()).unwrap().plan;
    let (literal, default) = (plan(OptLevel::O0), plan(OptLevel::O1));
    assert_eq!(default.totals.copied_bytes, 0);
    assert!(literal.totals.copied_bytes > 0);
    let leaves = default.inputs().next().unwrap().0;
    let reads = default.steps.iter().flat_map(|step| step.reads()).filter(|view| default.view(*view).buffer == leaves).count();
    assert_eq!(reads, 1);
}

/// A step stands for many operations: what is named is the one that the target refuses, fused or not.
#[test]
fn what_a_target_refuses_is_named_by_level_and_operation() {
    let named = |graph: &LevelGraph, opt| {
        let error = Planner::new(levelfold_cuda::target()).opt(opt).plan(graph.clone()).expect_err("refused");
        assert_eq!(error.code(), ErrorCode::Unsupported);
        error.to_string()
    };
    let median = of(Hierarchy::new(values()).level(words()).level(sentences().reduce_all(&[Reducer::Max, "median".parse().unwrap()])));
    let rust = Reducer::named("geometric-mean", 1, &[]).unwrap();
    let in_rust = of(Hierarchy::new(values()).level(words()).level(sentences().reduce(rust)).level(corpus()));
    let normed = {
        let mut b = GraphBuilder::new();
        let rows = b.input("char", DType::F32, 12, 16).unwrap();
        let rows = b.map(rows, &RowOp::Activate(Activation::Relu)).unwrap();
        let weight = b.param("weight", DType::F32, 1, 16).unwrap();
        let rows = b.map(rows, &RowOp::RmsNorm { weight, eps: Number(1e-5) }).unwrap();
        b.output("rows", rows).unwrap();
        b.finish().unwrap()
    };
    for opt in OptLevel::ALL {
        for (graph, start) in [
            (&median, "target `cuda` does not run sentence.reduce: `median` has no kernel on the CUDA backend"),
            (&in_rust, "target `cuda` does not run sentence.reduce: `custom(geometric-mean version=1)` has no kernel on the CUDA backend"),
            (&normed, "target `cuda` does not run char.rms-norm: encoders (rms-norm) have no kernels on the CUDA backend"),
        ] {
            let error = named(graph, opt);
            assert!(error.starts_with(start), "-{opt}: {error}");
        }
    }
}

//! Faults while plans are compiled and run: one clear error each, and the executable runs on.

use super::{Fake, data, fold, hierarchy, wanted};
use levelfold::backend::{Backend, Target};
use levelfold::encoder::{Number, RowOp};
use levelfold::graph::GraphBuilder;
use levelfold::optimize::Planner;
use levelfold::{Bindings, DType, Engine, ErrorCode, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments, TensorView, TensorViewMut};
use std::sync::Arc;

/// Lets the n-th event of a kind fail, for n = 1, 2, … until nothing fails any more, while a plan is compiled and run three times (launched, recorded,
/// replayed). Returns how many failed.
fn each_in_turn(fake: &Fake, fault: &str, code: ErrorCode) -> u32 {
    let wanted = wanted(1);
    for n in 1..200 {
        let engine = Engine::new(fake.backend());
        let prepared = match engine.prepare(&hierarchy()) {
            Ok(prepared) => prepared,
            Err(error) => panic!("before any fault: {error}"),
        };
        fake.set(fault, n);
        let mut failed = 0;
        for _ in 0..3 {
            match fold(&prepared, &data(1)) {
                Ok(folded) => assert_eq!(folded, wanted, "{fault} {n}"),
                Err(error) => {
                    assert_eq!(error.code(), code, "{fault} {n}: {error}");
                    failed += 1;
                }
            }
        }
        fake.set(fault, 0);
        for run in 0..3 {
            assert_eq!(fold(&prepared, &data(1)).expect("it runs on"), wanted, "{fault} {n}, run {run} after it");
        }
        assert!(failed <= 1, "{fault} {n}: one fault, {failed} errors");
        if failed == 0 {
            return u32::try_from(n).expect("few") - 1;
        }
    }
    panic!("{fault} never ends");
}

#[test]
fn every_allocation_of_device_memory_may_fail() {
    let Some(fake) = Fake::take() else { return };
    let failed = each_in_turn(&fake, "oom", ErrorCode::MemoryLimit);
    println!("{failed} allocations failed, each in its turn");
    // Two tables at least, constants, scratch, arena, an input and two outputs.
    assert!(failed >= 8, "{failed}");
}

#[test]
fn every_allocation_of_pinned_memory_may_fail() {
    let Some(fake) = Fake::take() else { return };
    assert!(each_in_turn(&fake, "pinned", ErrorCode::MemoryLimit) >= 2);
}

#[test]
fn every_launch_may_be_refused() {
    let Some(fake) = Fake::take() else { return };
    let failed = each_in_turn(&fake, "launch", ErrorCode::Device);
    println!("{failed} launches were refused, each in its turn");
    // Launched one by one, and recorded.
    assert!(failed >= 8, "{failed}");
}

#[test]
fn every_kernel_may_fail_while_it_runs() {
    let Some(fake) = Fake::take() else { return };
    assert!(each_in_turn(&fake, "crash", ErrorCode::Device) >= 12);
}

/// As a real device has it: the context is lost, and with it all that the process does there. Nothing hangs, panics, or waits for ever.
#[test]
fn a_kernel_that_breaks_the_context_is_told_by_every_run_from_then_on() {
    let Some(fake) = Fake::take() else { return };
    let mut broken = 0;
    // Launched, recorded or replayed: the first launch and others.
    for n in [1, 2, 5, 9, 14] {
        let engine = Engine::new(fake.backend());
        let prepared = engine.prepare(&hierarchy()).expect("a plan");
        fake.set("broken", n);
        let runs: Vec<_> = (0..6).map(|_| fold(&prepared, &data(1))).collect();
        let first = runs.iter().position(Result::is_err).expect("it breaks");
        for run in &runs[first..] {
            let error = run.as_ref().expect_err("nothing works any more");
            assert_eq!(error.code(), ErrorCode::Device, "{error}");
            assert!(error.to_string().contains("the device takes no more work of this process: start it again"), "{error}");
            broken += 1;
        }
        drop(prepared);
        let error = engine.prepare(&hierarchy()).err().expect("nothing works any more");
        assert_eq!(error.code(), ErrorCode::Device, "{error}");
        drop(engine);
        // A real process ends here. What it could not give back is left behind.
        fake.set("broken", 0);
    }
    assert!(broken >= 5 * 2, "{broken}");
}

#[test]
fn memory_that_does_not_suffice_is_refused_before_any_is_taken() {
    let Some(fake) = Fake::take() else { return };
    let before = fake.get("allocations");
    let engine = Engine::new(fake.builder().memory_limit(20_000).build().expect("the fake device"));
    let prepared = engine.prepare(&hierarchy()).expect("tables and arena fit");
    let error = fold(&prepared, &data(1)).expect_err("too little");
    assert_eq!(error.code(), ErrorCode::MemoryLimit, "{error}");
    assert!(error.message().contains("the limit is 20000"), "{error}");
    let engine = Engine::new(fake.builder().memory_limit(1000).build().expect("the fake device"));
    assert_eq!(engine.prepare(&hierarchy()).err().expect("too little").code(), ErrorCode::MemoryLimit);
    fake.set("memory", 30_000);
    let engine = Engine::new(fake.backend());
    let prepared = engine.prepare(&hierarchy()).expect("tables and arena fit");
    let error = fold(&prepared, &data(1)).expect_err("too little");
    assert_eq!(error.code(), ErrorCode::MemoryLimit, "{error}");
    assert!(error.message().contains("has 30000 free of 30000"), "{error}");
    assert_eq!(fake.get("allocations"), before, "nothing was taken");
    fake.set("memory", 8 << 30);
    assert_eq!(fold(&prepared, &data(1)).expect("it runs on"), wanted(1));
}

#[test]
fn nothing_is_taken_after_the_first_run_and_all_of_it_is_handed_on() {
    let Some(fake) = Fake::take() else { return };
    let none = fake.get("allocations");
    let engine = Engine::new(fake.backend());
    let prepared = engine.prepare(&hierarchy()).expect("a plan");
    fold(&prepared, &data(1)).expect("a run");
    let (count, bytes) = (fake.get("allocations"), fake.get("bytes"));
    for seed in 1..4 {
        assert_eq!(fold(&prepared, &data(seed)).expect("a run"), wanted(seed));
    }
    drop(prepared);
    let prepared = engine.prepare(&hierarchy()).expect("a plan");
    fold(&prepared, &data(1)).expect("a run");
    assert_eq!((fake.get("allocations"), fake.get("bytes")), (count, bytes));
    drop(prepared);
    drop(engine);
    assert_eq!(fake.get("allocations"), none, "all of it is given back");
}

#[test]
fn plans_for_others_and_encoders_are_refused() {
    let Some(fake) = Fake::take() else { return };
    let engine = Engine::new(levelfold_reference::ReferenceBackend::new());
    let plan = Arc::clone(engine.prepare(&hierarchy()).expect("a plan").plan());
    assert_eq!(fake.backend().compile(&plan).err().expect("another target").code(), ErrorCode::WrongTarget);
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 4, 2).expect("an input");
    let weight = b.param("weight", DType::F32, 1, 2).expect("a param");
    let y = b.map(x, &RowOp::RmsNorm { weight, eps: Number(1e-5) }).expect("a norm");
    b.output("y", y).expect("an output");
    let error = Engine::new(fake.backend()).prepare_graph(b.finish().expect("a graph")).err().expect("no encoders");
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.to_string().contains("encoders (rms-norm) have no kernels on the CUDA backend"), "{error}");
    // More sums than one step adds: each by itself runs.
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 4, 2).expect("an input");
    let y = (0..17).fold(x, |y, _| b.map(y, &RowOp::Add(x)).expect("a sum"));
    b.output("y", y).expect("an output");
    let graph = b.finish().expect("a graph");
    let plan = |opt| Planner::new(levelfold_cuda::target()).opt(opt).plan(graph.clone());
    let error = plan(OptLevel::O1).expect_err("too many").to_string();
    assert!(
        error.contains("it does 17 operations in one step, 17 of them sums; CUDA kernels do up to 64, and add up to 16 other rows"),
        "{error}"
    );
    assert!(plan(OptLevel::O0).is_ok());
}

/// By name, when planning: what selects, what encodes the scores of a pool, and what one step cannot hold.
#[test]
fn what_has_no_kernel_is_refused_by_name() {
    let plan = |level: Level| {
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 4)).level(level);
        Planner::new(levelfold_cuda::target()).plan(hierarchy.graph().expect("a graph"))
    };
    let table = || Segments::from_lengths(&[3u64, 2]).expect("lengths");
    let refused = |level: Level| {
        let error = plan(level).expect_err("refused");
        assert_eq!(error.code(), ErrorCode::Unsupported, "{error}");
        error.to_string()
    };
    for (reducer, name) in [("median", "`median` has no kernel on the CUDA backend"), ("quantile(0.25)", "`quantile(0.25)` has no kernel")]
    {
        let error = refused(Level::new("y", table()).reduce(reducer.parse().expect("a reducer")));
        assert!(error.contains(name), "{error}");
    }
    let error = refused(Level::new("y", table()).pool_by(&["q"]));
    assert!(error.contains("have no kernels on the CUDA backend"), "{error}");
    for reducer in Reducer::ALL.into_iter().filter(|reducer| !matches!(reducer, Reducer::Quantile(_))) {
        let level = Level::new("y", table()).reduce(reducer.clone());
        let level = if reducer.needs_weights() { level.weights("scores", DType::F32) } else { level };
        assert!(plan(level).is_ok(), "{reducer}");
    }
    // In a plan that nobody made for this target: three stages that go over their blocks twice.
    let var =
        |name: &str, lengths: &[u64]| Level::new(name, Segments::from_lengths(lengths).expect("lengths")).reduce(Reducer::Var { ddof: 0 });
    let levels = Hierarchy::new(Leaves::values("x", DType::F32, 4)).level(var("y", &[2, 1])).level(var("z", &[1, 1]));
    let hierarchy = levels.level(var("top", &[2]));
    let graph = hierarchy.graph().expect("a graph");
    let others = Planner::new(Target::new("cuda")).plan(graph.clone()).expect("a plan").plan;
    assert_eq!(others.steps.len(), 1, "{others}");
    let error = (levelfold_cuda::target().supports)(&others.steps[0].kind).expect_err("refused");
    assert!(error.contains("goes over the blocks of 3 levels twice"), "{error}");
    assert_eq!(Planner::new(levelfold_cuda::target()).plan(graph).expect("a plan").plan.steps.len(), 2);
}

#[test]
fn more_features_than_a_launch_takes_are_refused() {
    let Some(fake) = Fake::take() else { return };
    let features = 1u64 << 32;
    let none = Segments::from_lengths::<u64>(&[]).expect("no segments");
    let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, features)).level(Level::new("y", none).reduce(Reducer::Sum));
    let prepared = Engine::new(fake.backend()).prepare(&hierarchy).expect("a plan");
    let shape = [0, usize::try_from(features).expect("64 bits")];
    let x = TensorView::from_slice::<f32>(&[], shape).expect("a view");
    let y = TensorViewMut::from_slice::<f32>(&mut [], shape).expect("a view");
    let error = prepared.run(Bindings::new().input("x", x).output("y", y)).expect_err("refused");
    assert_eq!(error.code(), ErrorCode::Unsupported, "{error}");
    assert!(error.message().contains("4294967296 features are more than one launch takes"), "{error}");
}

//! Every bit-exact pass keeps every bit: every subset of the passes, on random graphs, gives what the literal program gives, on the
//! reference and on the CPU backend.

mod common;

use common::encoders::random_encoders;
use common::{Case, Rng, random_case};
use levelfold::backend::{Backend, Target, TileLimits};
use levelfold::check;
use levelfold::optimize::{
    CollapseLevels, Decision, DropUnused, EliminateIdentity, Exactness, FuseGather, FuseLevels, FuseRowwise, FuseSiblings,
    FuseTransposeReduce, NoObserver, OptLevel, Pass, Pipeline, PlaceConcat, Planner, ShareTables, TileEncoders,
};
use levelfold_cpu::{CpuBackend, Isa, SMALL_BYTES};
use levelfold_reference::ReferenceBackend;

fn passes() -> Vec<Box<dyn Pass>> {
    vec![
        Box::new(ShareTables),
        Box::new(EliminateIdentity),
        Box::new(FuseTransposeReduce),
        Box::new(FuseSiblings),
        Box::new(CollapseLevels { exactness: Exactness::BitExact }),
        Box::new(FuseRowwise),
        Box::new(FuseGather),
        Box::new(FuseLevels),
        Box::new(PlaceConcat),
        Box::new(DropUnused),
        Box::new(TileEncoders),
    ]
}

fn subset(mask: u32) -> Pipeline {
    Pipeline::of(passes().into_iter().enumerate().filter(|(index, _)| mask >> index & 1 == 1).map(|(_, pass)| pass).collect())
}

fn run(case: &Case, backend: &dyn Backend, pipeline: Pipeline) -> Vec<(String, Vec<u8>)> {
    let planner = Planner::new(backend.target().clone()).pipeline(pipeline);
    let planned = planner.plan_observed(case.graph.clone(), &mut NoObserver).unwrap_or_else(|error| panic!("{case}: {error}"));
    check::replay(&planned.plan, &case.graph).unwrap_or_else(|error| panic!("{case}: {error}"));
    case.run(backend, planned.plan)
}

/// Fails with the first byte that differs.
fn assert_equal(got: &[(String, Vec<u8>)], want: &[(String, Vec<u8>)], context: impl Fn() -> String) {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        if let Some(at) = (0..want.len()).find(|&at| got.get(at) != Some(&want[at])) {
            let (from, to) = (at & !7, (at | 7).min(want.len() - 1) + 1);
            panic!("{}: output {name}, byte {at} of {}: {:02x?}, wanted {:02x?}", context(), want.len(), &got[from..to], &want[from..to]);
        }
    }
    assert_eq!(got.len(), want.len(), "{}", context());
}

#[test]
fn every_subset_of_passes_keeps_every_bit() {
    let reference = ReferenceBackend::new();
    let cpu = CpuBackend::builder().threads(2).small_bytes(0).poison(0xa5).build().unwrap();
    let all = (1u32 << passes().len()) - 1;
    let (mut compared, mut into_folds) = (0, 0);
    for seed in 0..24 {
        let case = random_case(seed);
        let literal = run(&case, &reference, subset(0));
        // A small graph through all 2048 subsets, and more graphs through some of them.
        let mut rng = Rng::new(seed);
        let masks: Vec<u32> = if seed < 1 {
            (0..=all).collect()
        } else {
            [all].into_iter().chain((0..24).map(|_| rng.below(u64::from(all)) as u32)).collect()
        };
        for mask in masks {
            let on_reference = run(&case, &reference, subset(mask));
            assert_equal(&on_reference, &literal, || format!("{case}: passes {mask:#b} on the reference"));
            let on_cpu = run(&case, &cpu, subset(mask));
            assert_equal(&on_cpu, &literal, || format!("{case}: passes {mask:#b} on the cpu"));
            compared += 2;
        }
        let planned = Planner::new(cpu.target().clone()).plan(case.graph.clone()).unwrap();
        let is_into = |decision: &&Decision| matches!(decision, Decision::FusedPrologue { .. } | Decision::FusedEpilogue { .. });
        into_folds += planned.decisions.iter().filter(is_into).count();
    }
    assert!(into_folds > 20, "{into_folds} fusions into folds only");
    println!("{compared} runs compared with the literal program");
}

#[test]
fn every_subset_of_passes_keeps_every_bit_of_encoders() {
    let reference = ReferenceBackend::new().with_poison(0xa5);
    let cpu = CpuBackend::builder().threads(2).small_bytes(0).poison(0xa5).build().unwrap();
    let one_thread = CpuBackend::builder().threads(1).poison(0xa5).build().unwrap();
    let all = (1u32 << passes().len()) - 1;
    let (mut fused, mut compared, mut tiles, mut windows, mut nested) = (0, 0, 0, 0, 0);
    for seed in 1000..1060 {
        let case = random_encoders(seed);
        // Windows of a few rows, so that small graphs have several.
        let limits = TileLimits { bytes: 0, rows: 1 + seed % 9, share: 1 };
        let small = |target: &Target| Target { tiles: Some(limits), ..target.clone() };
        let literal = run(&case, &reference, subset(0));
        let mut rng = Rng::new(seed);
        for mask in [all].into_iter().chain((0..4).map(|_| rng.below(u64::from(all)) as u32)) {
            let on_reference = run(&case, &reference, subset(mask));
            assert_equal(&on_reference, &literal, || format!("{case}: passes {mask:#b} on the reference"));
            compared += 1;
            for (backend, target) in [
                (&reference as &dyn Backend, small(reference.target())),
                (&cpu, small(cpu.target())),
                (&cpu, cpu.target().clone()),
                (&one_thread, small(cpu.target())),
            ] {
                let planner = Planner::new(target).pipeline(subset(mask));
                let plan = planner.plan(case.graph.clone()).unwrap_or_else(|error| panic!("{case}: {error}")).plan;
                check::replay(&plan, &case.graph).unwrap_or_else(|error| panic!("{case}: {error}\n{plan}"));
                tiles += plan.tiles.len();
                windows += plan.tiles.iter().filter(|tile| plan.table(tile.table).rows > tile.rows).count();
                nested += plan.tiles.iter().filter(|tile| tile.inside).count();
                let context = format!("{case}: passes {mask:#b} on {}, {limits:?}\n{plan}", plan.target);
                assert_equal(&case.run(backend, plan), &literal, || context.clone());
                compared += 1;
            }
        }
        let planned = Planner::new(reference.target().clone()).plan(case.graph.clone()).unwrap();
        fused += planned.decisions.iter().filter(|decision| decision.pass() == "fuse-rowwise" && !decision.is_refusal()).count();
    }
    assert!(fused > 60, "{fused} fusions only");
    assert!(tiles > 400 && windows > 200, "{tiles} tiles only, {windows} of several windows");
    assert!(nested > 100, "{nested} tiles inside others only");
    println!("{compared} runs compared with the literal program");
}

#[test]
fn every_thread_count_gives_the_same_bits() {
    let reference = ReferenceBackend::new();
    for seed in 100..160 {
        let case = random_case(seed);
        let literal = run(&case, &reference, subset(0));
        for (threads, small_bytes) in [(1, 0), (2, SMALL_BYTES), (2, 0), (3, 0), (7, 0)] {
            let cpu = CpuBackend::builder().threads(threads).small_bytes(small_bytes).build().unwrap();
            for mask in [0, (1 << passes().len()) - 1] {
                assert_equal(&run(&case, &cpu, subset(mask)), &literal, || format!("{case}: {threads} threads, passes {mask:#b}"));
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let reference = ReferenceBackend::new();
    let available: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        println!("skipped: this machine has no {isa}");
    }
    for seed in 200..260 {
        let case = random_case(seed);
        let literal = run(&case, &reference, subset(0));
        for &isa in &available {
            let cpu = CpuBackend::builder().threads(2).small_bytes(0).isa(isa).build().unwrap();
            let all = (1 << passes().len()) - 1;
            assert_equal(&run(&case, &cpu, subset(all)), &literal, || format!("{case}: {isa}"));
        }
    }
}

#[test]
fn plans_that_reassociate_hold_against_the_original_graph() {
    for case in (300..500).map(random_case).chain((2000..2100).map(random_encoders)) {
        let planned = Planner::new(Target::new("test")).opt(OptLevel::O2).plan(case.graph.clone()).unwrap();
        check::replay(&planned.plan, &case.graph).unwrap_or_else(|error| panic!("{case}: {error}"));
    }
}

//! Devices whose blocks have less shared memory: what is planned for them fits, and what was planned for others is refused before anything is loaded.

use super::Fake;
use levelfold::backend::Backend;
use levelfold::dtype::Element;
use levelfold::optimize::Planner;
use levelfold::plan::{Plan, StepKind};
use levelfold::{Bindings, DType, Engine, ErrorCode, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_reference::ReferenceBackend;
use std::sync::Arc;

/// Variances of variances of so many features.
fn variances(dtype: DType, features: u64) -> Hierarchy {
    let lengths = |lengths: &[u64]| Segments::from_lengths(lengths).expect("lengths");
    let var = Reducer::Var { ddof: 0 };
    Hierarchy::new(Leaves::values("char", dtype, features))
        .level(Level::new("word", lengths(&[40, 3, 70, 1, 33])).reduce(var.clone()))
        .level(Level::new("text", lengths(&[2, 3])).reduce(var))
}

const ROWS: usize = 147;

fn run<T: Element + Default>(backend: impl Backend + 'static, hierarchy: &Hierarchy, rows: &[T]) -> (Vec<T>, Arc<Plan>) {
    let features = rows.len() / ROWS;
    let prepared = Engine::new(backend).prepare(hierarchy).expect("a plan");
    let mut text = vec![T::default(); 2 * features];
    let bindings = Bindings::new()
        .input("char", TensorView::from_slice(rows, [ROWS, features]).expect("a view"))
        .output("text", TensorViewMut::from_slice(&mut text, [2, features]).expect("a view"));
    prepared.run(bindings).expect("a run");
    (text, Arc::clone(prepared.plan()))
}

fn stages(plan: &Plan) -> Vec<usize> {
    let of = |kind: &StepKind| if let StepKind::Fold(fold) = kind { fold.stages.len() } else { 0 };
    plan.steps.iter().map(|step| of(&step.kind)).collect()
}

#[test]
fn levels_that_hold_their_blocks_are_fused_as_far_as_the_device_has_room() {
    let Some(fake) = Fake::take() else { return };
    // Narrow rows come in tiles, which take more than single elements do.
    for features in [3usize, 64] {
        let numbers = (0..ROWS * features).map(|at| f64::from(u16::try_from(at * 37 % 4001).expect("small")) / 700.0 - 2.5);
        let wide: Vec<f64> = numbers.collect();
        let narrow: Vec<f32> = wide.iter().map(|&x| x as f32).collect();
        let (f64s, f32s) = (variances(DType::F64, features as u64), variances(DType::F32, features as u64));
        let (wanted_wide, _) = run(ReferenceBackend::new(), &f64s, &wide);
        let (wanted_narrow, _) = run(ReferenceBackend::new(), &f32s, &narrow);
        for (capability, fused) in [(90, vec![2]), (86, vec![2]), (75, vec![1, 1])] {
            fake.set("capability", capability);
            let (found, plan) = run(fake.backend(), &f64s, &wide);
            assert_eq!(found.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), wanted_wide.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            assert_eq!(stages(&plan), fused, "{capability}");
        }
        // Of f32, which needs half of that, both fit where rows are read by less.
        let (found, _) = run(fake.backend(), &f32s, &narrow);
        assert_eq!(found.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), wanted_narrow.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    }
}

#[test]
fn a_plan_of_a_larger_device_runs_where_it_fits_and_is_refused_by_name_where_it_does_not() {
    let Some(fake) = Fake::take() else { return };
    let plan = |dtype| {
        let planner = Planner::new(levelfold_cuda::target()).opt(OptLevel::O1);
        Arc::new(planner.plan(variances(dtype, 64).graph().expect("a graph")).expect("a plan").plan)
    };
    fake.set("capability", 75);
    let backend = fake.backend();
    let Err(error) = backend.compile(&plan(DType::F64)) else { panic!("two levels of f64 have no room") };
    assert_eq!(error.code(), ErrorCode::Unsupported);
    let said = error.to_string();
    assert!(said.contains("step s0 (word.") && said.contains("98304 bytes of shared memory") && said.contains("7.5 has 65536"), "{said}");
    assert!(backend.kernels().is_empty(), "nothing was loaded");
    assert!(backend.compile(&plan(DType::F32)).is_ok());
}

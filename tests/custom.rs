//! Encoders and reducers of a user's own in Rust: found by name and version, and the same bits fused or not.

mod common;

use levelfold::backend::Backend;
use levelfold::custom::{Planes, PlanesMut, Real, Registry, RowEncoder, RowReducer};
use levelfold::encoder::Activation;
use levelfold::numerics::elementary::sqrt;
use levelfold::spec::Encoder;
use levelfold::{Bindings, DType, Engine, EngineOptions, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments, TensorView, TensorViewMut};
use levelfold::{Error, ErrorCode};
use levelfold_cpu::CpuBackend;
use levelfold_reference::ReferenceBackend;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Each row minus its largest number.
struct BelowLargest {
    version: u32,
}

macro_rules! below_largest {
    ($row:ident, $float:ident) => {{
        let largest = $row.iter().copied().fold($float::NEG_INFINITY, $float::max);
        $row.iter_mut().for_each(|x| *x -= largest);
    }};
}

impl RowEncoder for BelowLargest {
    fn name(&self) -> &str {
        "below-largest"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn encode_f32(&self, row: &mut [f32]) {
        below_largest!(row, f32);
    }

    fn encode_f64(&self, row: &mut [f64]) {
        below_largest!(row, f64);
    }
}

fn hierarchy(version: u32, dtype: DType) -> Hierarchy {
    let custom = Encoder::Custom { name: "below-largest".into(), version };
    let leaves =
        Leaves::values("x", dtype, 3).encode(Encoder::Scale(2.0)).encode(custom).encode(Encoder::Activate(Activation::Tanh)).keep();
    Hierarchy::new(leaves).level(Level::new("y", Segments::from_lengths(&[2, 1]).unwrap()).reduce(Reducer::Max))
}

fn backend(versions: &[u32]) -> ReferenceBackend {
    let registry = versions.iter().fold(Registry::new(), |registry, &version| registry.encoder(BelowLargest { version }));
    ReferenceBackend::new().with_registry(registry)
}

fn run<T: levelfold::numerics::Value>(opt: OptLevel) -> Vec<f64> {
    run_on::<T>(Box::new(backend(&[1, 7])), opt)
}

fn run_on<T: levelfold::numerics::Value>(backend: Box<dyn Backend>, opt: OptLevel) -> Vec<f64> {
    let engine = Engine::with_options(backend, EngineOptions { opt, ..EngineOptions::default() });
    let prepared = engine.prepare(&hierarchy(7, T::DTYPE)).unwrap();
    let input: Vec<T> = [1.0, 2.0, 0.5, f64::NAN, 1.0, 1.0, -3.0, -3.25, 8.0].map(T::from_f64).to_vec();
    let (mut x, mut y) = (vec![T::from_f64(9.0); 9], vec![T::from_f64(9.0); 6]);
    let bindings = Bindings::new()
        .input("x", TensorView::from_slice(&input, [3, 3]).unwrap())
        .output("x", TensorViewMut::from_slice(&mut x, [3, 3]).unwrap())
        .output("y", TensorViewMut::from_slice(&mut y, [2, 3]).unwrap());
    prepared.run(bindings).unwrap();
    x.into_iter().map(levelfold::numerics::Value::to_f64).collect()
}

#[test]
fn a_row_encoder_of_ones_own_runs_in_every_type_fused_or_not() {
    let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
    let exact = run::<f64>(OptLevel::O0);
    assert_eq!(exact[1], 0.0);
    assert!((exact[0] - (-2.0f64).tanh()).abs() < 1e-15 && (exact[6] - (-22.0f64).tanh()).abs() < 1e-15);
    // The NaN is skipped by this encoder's maximum, and stays where it is, canonical.
    assert!(exact[3].is_nan() && exact[4] == 0.0);
    for opt in OptLevel::ALL {
        assert_eq!(bits(run::<f64>(opt)), bits(run::<f64>(OptLevel::O0)), "{opt}");
        assert_eq!(bits(run::<f32>(opt)), bits(run::<f32>(OptLevel::O0)), "{opt}");
        assert_eq!(bits(run::<half::bf16>(opt)), bits(run::<half::bf16>(OptLevel::O0)), "{opt}");
        let cpu = || -> Box<dyn Backend> {
            let registry = Registry::new().encoder(BelowLargest { version: 7 });
            Box::new(CpuBackend::builder().threads(2).small_bytes(0).registry(registry).build().unwrap())
        };
        assert_eq!(bits(run_on::<f64>(cpu(), opt)), bits(exact.clone()), "{opt} on the cpu");
        assert_eq!(bits(run_on::<f32>(cpu(), opt)), bits(run::<f32>(opt)), "{opt} on the cpu");
        assert_eq!(bits(run_on::<half::bf16>(cpu(), opt)), bits(run::<half::bf16>(opt)), "{opt} on the cpu");
    }
}

/// Adds one, in two halves that run in parallel.
struct InParallel;

impl RowEncoder for InParallel {
    fn name(&self) -> &str {
        "in-parallel"
    }

    fn version(&self) -> u32 {
        1
    }

    fn encode_f32(&self, row: &mut [f32]) {
        let (left, right) = row.split_at_mut(row.len() / 2);
        let add = |half: &mut [f32], micros| {
            std::thread::sleep(std::time::Duration::from_micros(micros));
            half.iter_mut().for_each(|x| *x += 1.0);
        };
        // Whoever waits for the slower half may run other rows of the same step meanwhile.
        rayon::join(|| add(left, 10), || add(right, 100));
    }

    fn encode_f64(&self, row: &mut [f64]) {
        row.iter_mut().for_each(|x| *x += 1.0);
    }
}

#[test]
fn a_row_encoder_may_itself_run_in_parallel() {
    const ROWS: usize = 600;
    const FEATURES: usize = 64;
    let leaves = Leaves::values("x", DType::F32, 64).encode(Encoder::Custom { name: "in-parallel".into(), version: 1 }).keep();
    let hierarchy = Hierarchy::new(leaves).level(Level::new("y", Segments::whole(ROWS as u64)));
    let registry = Registry::new().encoder(InParallel);
    let backend = CpuBackend::builder().threads(4).small_bytes(0).registry(registry).build().unwrap();
    let prepared = Engine::new(backend).prepare(&hierarchy).unwrap();
    let input: Vec<f32> = (0..ROWS * FEATURES).map(|index| (index / FEATURES) as f32).collect();
    let wanted: Vec<f32> = input.iter().map(|x| x + 1.0).collect();
    for _ in 0..3 {
        let (mut x, mut y) = (vec![0.0f32; ROWS * FEATURES], vec![0.0f32; FEATURES]);
        let bindings = Bindings::new()
            .input("x", TensorView::from_slice(&input, [ROWS, FEATURES]).unwrap())
            .output("x", TensorViewMut::from_slice(&mut x, [ROWS, FEATURES]).unwrap())
            .output("y", TensorViewMut::from_slice(&mut y, [1, FEATURES]).unwrap());
        prepared.run(bindings).unwrap();
        assert!(x == wanted, "{} wrong numbers", x.iter().zip(&wanted).filter(|(x, wanted)| x != wanted).count());
    }
}

#[test]
fn what_a_backend_does_not_know_is_an_error_when_it_compiles() {
    let told = |versions: &[u32]| Engine::new(backend(versions)).prepare(&hierarchy(7, DType::F32)).err().unwrap().to_string();
    assert_eq!(
        told(&[]),
        "s0: the backend knows no encoder `below-largest` of version 7; give the backend a registry that holds it [unknown-name]"
    );
    assert_eq!(
        told(&[1, 2]),
        "s0: the backend knows no encoder `below-largest` of version 7; the backend has version 1, 2: plan again, or bring the version that was planned for [unknown-name]"
    );
}

#[path = "../examples/custom_reducer.rs"]
#[allow(dead_code, reason = "the example, run here")]
mod custom_reducer;

#[test]
fn the_example_runs_and_is_the_one_that_is_shown() {
    custom_reducer::main().unwrap();
    let page = include_str!("../docs/reducers.md");
    let example = include_str!("../examples/custom_reducer.rs");
    let (_, reducer) = example.split_once("/// The n-th root").unwrap();
    let (reducer, _) = reducer.split_once("\n/// The same as").unwrap();
    assert!(page.contains(&format!("```rust\n/// The n-th root{}\n```", reducer.trim_end())), "docs/reducers.md and the example differ");
}

/// The sample variance by Chan's rule, with weights, to a power; and, told to, a panic.
#[derive(Clone)]
struct Spread {
    power: f64,
    falls: Arc<AtomicBool>,
}

impl RowReducer for Spread {
    fn name(&self) -> &str {
        "spread"
    }

    fn version(&self) -> u32 {
        2
    }

    fn with(&self, arguments: &[f64]) -> levelfold::Result<Self> {
        match arguments {
            [] => Ok(self.clone()),
            [power] => Ok(Spread { power: *power, ..self.clone() }),
            _ => Err(Error::new(ErrorCode::Option, "it takes one power at most").help("leave the others out")),
        }
    }

    fn planes(&self) -> usize {
        3
    }

    fn takes_weights(&self) -> bool {
        true
    }

    fn lift<A: Real>(&self, row: &[A], weight: A, mut state: PlanesMut<'_, A>) {
        assert!(!self.falls.load(Ordering::Relaxed), "told to fall");
        let [count, mean, squares] = state.split();
        count.fill(weight);
        mean.copy_from_slice(row);
        squares.fill(A::of_f64(0.0));
    }

    fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
        let ([count, mean, squares], [more, other, others]) = (older.split(), newer.split());
        for feature in 0..count.len() {
            let all = count[feature] + more[feature];
            let (apart, share) = (other[feature] - mean[feature], more[feature] / all);
            squares[feature] = squares[feature] + others[feature] + apart * apart * (count[feature] * share);
            mean[feature] += apart * share;
            count[feature] = all;
        }
    }

    fn finish<A: Real>(&self, state: Planes<'_, A>, _rows: A, out: &mut [A]) {
        let [count, _, squares] = state.split();
        for (feature, out) in out.iter_mut().enumerate() {
            let variance = squares[feature] / count[feature];
            *out = if self.power == 0.5 { sqrt(variance) } else { variance };
        }
    }
}

fn spread() -> Spread {
    Spread { power: 1.0, falls: Arc::default() }
}

const TEXT: &str = "custom(own_variance: n from w by a.n + b.n; m from x by a.m + (b.m - a.m) * (b.n / (a.n + b.n)); \
                    q from 0 by a.q + b.q + (b.m - a.m) * (b.m - a.m) * (a.n * (b.n / (a.n + b.n))); q / n)";

/// Rows of 5 features in segments of many lengths, by a reducer, and then its results by the maximum.
fn over(reducer: Reducer, dtype: DType, weighted: bool) -> Hierarchy {
    let mut level = Level::new("y", Segments::from_lengths(&[1, 2, 31, 32, 33, 700, 3, 4_200, 64]).unwrap()).reduce(reducer).keep();
    if weighted {
        level = level.weights("w", DType::F32);
    }
    Hierarchy::new(Leaves::values("x", dtype, 5))
        .level(level)
        .level(Level::new("z", Segments::from_lengths(&[4, 5]).unwrap()).reduce(Reducer::Max))
}

fn results<T: levelfold::numerics::Value>(backend: Box<dyn Backend>, hierarchy: &Hierarchy, weighted: bool, opt: OptLevel) -> Vec<u64> {
    const ROWS: usize = 1 + 2 + 31 + 32 + 33 + 700 + 3 + 4_200 + 64;
    let engine = Engine::with_options(backend, EngineOptions { opt, ..EngineOptions::default() });
    let prepared = engine.prepare(hierarchy).unwrap();
    let mut rng = common::Rng::new(11);
    let mut numbers = |count: usize| -> Vec<f64> { (0..count).map(|_| rng.below(1 << 16) as f64 / 65536.0 + 0.25).collect() };
    let input: Vec<T> = numbers(ROWS * 5).into_iter().map(T::from_f64).collect();
    let weights: Vec<f32> = numbers(ROWS).into_iter().map(|x| x as f32).collect();
    let (mut y, mut z) = (vec![T::from_f64(0.0); 45], vec![T::from_f64(0.0); 10]);
    let mut bindings = Bindings::new()
        .input("x", TensorView::from_slice(&input, [ROWS, 5]).unwrap())
        .output("y", TensorViewMut::from_slice(&mut y, [9, 5]).unwrap())
        .output("z", TensorViewMut::from_slice(&mut z, [2, 5]).unwrap());
    if weighted {
        bindings = bindings.input("w", TensorView::from_slice(&weights, [ROWS, 1]).unwrap());
    }
    prepared.run(bindings).unwrap();
    y.into_iter().chain(z).map(|x| x.to_f64().to_bits()).collect()
}

fn reference() -> Box<dyn Backend> {
    Box::new(ReferenceBackend::new().with_registry(Registry::new().reducer(spread())))
}

fn cpu(threads: usize) -> Box<dyn Backend> {
    let registry = Registry::new().reducer(spread());
    Box::new(CpuBackend::builder().threads(threads).small_bytes(0).registry(registry).build().unwrap())
}

#[test]
fn a_reducer_in_rust_has_the_bits_of_its_expressions_on_any_backend_and_thread_count() {
    fn hold<T: levelfold::numerics::Value>() {
        for weighted in [false, true] {
            let rust = over(Reducer::named("spread", 2, &[]).unwrap(), T::DTYPE, weighted);
            let wanted = results::<T>(reference(), &over(TEXT.parse().unwrap(), T::DTYPE, weighted), weighted, OptLevel::O0);
            assert_eq!(results::<T>(reference(), &rust, weighted, OptLevel::O0), wanted, "reference, weighted {weighted}");
            for threads in [1, 2, 5] {
                for opt in [OptLevel::O0, OptLevel::O1] {
                    assert_eq!(results::<T>(cpu(threads), &rust, weighted, opt), wanted, "{threads} threads, weighted {weighted}, {opt}");
                }
            }
        }
    }
    hold::<f32>();
    hold::<f64>();
    hold::<half::f16>();
    hold::<half::bf16>();
    levelfold::custom::Laws::new(5).tolerance(1e-12).check(&spread()).unwrap();
}

#[test]
fn arguments_reach_it_and_what_does_not_fit_is_refused_by_name() {
    let roots = results::<f64>(cpu(2), &over(Reducer::named("spread", 2, &[0.5]).unwrap(), DType::F64, false), false, OptLevel::O1);
    let squares = results::<f64>(cpu(2), &over(Reducer::named("spread", 2, &[]).unwrap(), DType::F64, false), false, OptLevel::O1);
    assert!(roots.iter().zip(&squares).all(|(root, square)| f64::from_bits(*square).sqrt().to_bits() == *root));
    let told = |backend: Box<dyn Backend>, reducer: Reducer, weighted: bool| {
        Engine::new(backend).prepare(&over(reducer, DType::F32, weighted)).err().unwrap().to_string()
    };
    let named = |name: &str, version: u32, arguments: &[f64]| Reducer::named(name, version, arguments).unwrap();
    let without_weights = || {
        let registry = Registry::new().reducer(custom_reducer::GeometricMean);
        [
            Box::new(ReferenceBackend::new().with_registry(registry.clone())) as Box<dyn Backend>,
            Box::new(CpuBackend::builder().threads(1).registry(registry).build().unwrap()),
        ]
    };
    for (reference, cpu) in [
        (told(reference(), named("spred", 2, &[]), false), told(cpu(1), named("spred", 2, &[]), false)),
        (told(reference(), named("spread", 1, &[]), false), told(cpu(1), named("spread", 1, &[]), false)),
        (told(reference(), named("spread", 2, &[1.0, 2.0]), false), told(cpu(1), named("spread", 2, &[1.0, 2.0]), false)),
    ] {
        assert_eq!(reference, cpu);
    }
    let [on_reference, on_cpu] = without_weights().map(|backend| told(backend, named("geometric-mean", 1, &[]), true));
    assert_eq!(on_reference, on_cpu);
    insta::assert_snapshot!([
        told(cpu(1), named("spred", 2, &[]), false),
        told(cpu(1), named("spread", 1, &[]), false),
        told(cpu(1), named("spread", 2, &[1.0, 2.0]), false),
        on_cpu,
        Engine::new(levelfold_reference::ReferenceBackend::new()).prepare(&over(named("spread", 2, &[]), DType::F32, false)).err().unwrap().to_string(),
        // Only its Rust code could say what comes of no rows.
        Engine::new(cpu(1)).prepare(&Hierarchy::new(Leaves::values("x", DType::F32, 2)).level(Level::new("y", Segments::from_lengths(&[2, 0]).unwrap()).reduce(named("spread", 2, &[])))).err().unwrap().to_string(),
    ].join("\n"), @r"
    s0: the backend knows no reducer `spred` of version 2; did you mean `spread`? [unknown-name]
    s0: the backend knows no reducer `spread` of version 1; the backend has version 2: plan again, or bring the version that was planned for [unknown-name]
    s0: the reducer `spread` refuses the arguments of `custom(spread version=2, 1, 2)`: it takes one power at most; leave the others out [option]
    s0: the reducer `geometric-mean` has no weighted form; leave the weights out, or write one that takes them [weights]
    s0: the backend knows no reducer `spread` of version 2; give the backend a registry that holds it [unknown-name]
    y: segment 1 is empty (1 of 2 are), and custom(spread version=2) has no value for it; say what an empty segment gives: zero, nan, or a fill value [empty-segment]
    ");
}

#[test]
fn a_plan_names_it_and_reads_back() {
    let hierarchy = over(Reducer::named("spread", 2, &[0.5, -3.0]).unwrap(), DType::F32, true);
    let plan = levelfold::optimize::Planner::new(levelfold::backend::Target::new("cpu")).plan(hierarchy.graph().unwrap()).unwrap().plan;
    let text = plan.to_string();
    assert!(text.contains("fold.custom(spread version=2, 0.5, -3) b0 by t0 weights b1"), "{text}");
    let json = plan.to_json();
    assert!(json.contains(r#""reducer": "custom(spread version=2, 0.5, -3)""#), "{json}");
    assert_eq!(levelfold::Plan::from_json(&json).unwrap(), plan);
    levelfold::check::replay(&plan, &hierarchy.graph().unwrap()).unwrap();
    let other = over(Reducer::named("spread", 3, &[0.5, -3.0]).unwrap(), DType::F32, true);
    assert!(levelfold::check::replay(&plan, &other.graph().unwrap()).is_err());
}

#[test]
fn a_panic_in_it_is_the_runs_and_the_plan_runs_again() {
    for threads in [1, 3] {
        let (falls, registry) = (Arc::new(AtomicBool::new(false)), Registry::new());
        let registry = registry.reducer(Spread { power: 1.0, falls: Arc::clone(&falls) });
        let backend = CpuBackend::builder().threads(threads).small_bytes(0).registry(registry).build().unwrap();
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 64))
            .level(Level::new("y", Segments::from_lengths(&[500; 40]).unwrap()).reduce(Reducer::named("spread", 2, &[]).unwrap()));
        let prepared = Engine::new(backend).prepare(&hierarchy).unwrap();
        let input = vec![1.5f32; 20_000 * 64];
        let mut y = vec![7.0f32; 40 * 64];
        let mut run = || {
            let bindings = Bindings::new()
                .input("x", TensorView::from_slice(&input, [20_000, 64]).unwrap())
                .output("y", TensorViewMut::from_slice(&mut y, [40, 64]).unwrap());
            prepared.run(bindings).map(|_| ())
        };
        run().unwrap();
        falls.store(true, Ordering::Relaxed);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut run)).is_err());
        falls.store(false, Ordering::Relaxed);
        run().unwrap();
        assert!(y.iter().all(|x| *x == 0.0));
    }
}

//! Encoders of a user's own: found by name and version, and the same bits fused or not.

use levelfold::backend::Backend;
use levelfold::custom::{Registry, RowEncoder};
use levelfold::encoder::Activation;
use levelfold::spec::Encoder;
use levelfold::{Bindings, DType, Engine, EngineOptions, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;
use levelfold_reference::ReferenceBackend;

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

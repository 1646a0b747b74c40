//! The engine as an embedding program uses it: ten lines from slices to vectors, batch after batch, side by side, and the numbers promised.

mod common;

use half::{bf16, f16};
use levelfold::graph::{GraphBuilder, Reduce};
use levelfold::numerics::{error_bound, exponent_error_bound, unit_roundoff};
use levelfold::plan::{Plan, Table, TableForm};
use levelfold::spec::Encoder;
use levelfold::{
    Bindings, DType, Engine, EngineOptions, ErrorCode, Hierarchy, Layout, Leaves, Level, OnEmpty, OptLevel, Reducer, Segments, TensorView,
    TensorViewMut,
};
use levelfold_cpu::CpuBackend;
use levelfold_reference::ReferenceBackend;

fn cpu(threads: usize) -> CpuBackend {
    CpuBackend::builder().threads(threads).build().unwrap()
}

fn engine(threads: usize) -> Engine {
    Engine::new(cpu(threads))
}

#[test]
fn ten_lines_from_slices_to_vectors() {
    let engine = engine(2);
    let hierarchy = Hierarchy::new(Leaves::values("char", DType::F32, 2))
        .level(Level::new("word", Segments::from_lengths(&[2, 3, 1]).unwrap()).reduce(Reducer::Mean))
        .level(Level::new("sentence", Segments::from_lengths(&[2, 1]).unwrap()).reduce(Reducer::Max).keep())
        .level(Level::new("corpus", Segments::from_lengths(&[2]).unwrap()).reduce(Reducer::Sum));
    let prepared = engine.prepare(&hierarchy).unwrap();
    let chars = [1.0f32, 2.0, 3.0, 4.0, 0.0, 0.0, 3.0, 3.0, 6.0, 9.0, 5.0, -1.0];
    let (mut sentence, mut corpus) = ([0f32; 4], [0f32; 2]);
    let bindings = Bindings::new()
        .input("char", TensorView::from_slice(&chars, [6, 2]).unwrap())
        .output("sentence", TensorViewMut::from_slice(&mut sentence, [2, 2]).unwrap())
        .output("corpus", TensorViewMut::from_slice(&mut corpus, [1, 2]).unwrap());
    let report = prepared.run(bindings).unwrap();
    assert_eq!(sentence, [3.0, 4.0, 5.0, -1.0]);
    assert_eq!(corpus, [8.0, 3.0]);
    let plan = prepared.plan();
    assert_eq!((plan.totals.copied_bytes, plan.steps.len(), report.steps.len()), (0, 1, 1));
    assert_eq!(report.steps[0].read, plan.totals.read_bytes);
}

/// Sum or mean of `rows` equal rows, one segment, as f64.
fn constant<T: levelfold::numerics::Value>(
    backend: impl levelfold::backend::Backend + 'static,
    value: T,
    rows: usize,
    features: usize,
    reducer: Reducer,
) -> Vec<f64> {
    fold_constant(backend, value, rows, features, reducer).into_iter().map(levelfold::numerics::Value::to_f64).collect()
}

fn fold_constant<T: levelfold::numerics::Value>(
    backend: impl levelfold::backend::Backend + 'static,
    value: T,
    rows: usize,
    features: usize,
    reducer: Reducer,
) -> Vec<T> {
    let hierarchy =
        Hierarchy::new(Leaves::values("x", T::DTYPE, features as u64)).level(Level::new("y", Segments::whole(rows as u64)).reduce(reducer));
    let prepared = Engine::new(backend).prepare(&hierarchy).unwrap();
    // One row, broadcast: strides may be zero.
    let row = vec![value; features];
    let layout = Layout { offset: 0, shape: [rows, features], strides: [0, 1] };
    let mut y = vec![T::NAN; features];
    let bindings = Bindings::new()
        .input("x", TensorView::strided(&row, layout).unwrap())
        .output("y", TensorViewMut::from_slice(&mut y, [1, features]).unwrap());
    prepared.run(bindings).unwrap();
    y
}

#[test]
fn a_million_tenths_stay_inside_the_printed_bound() {
    let rows = 1_000_000;
    let exact = f64::from(0.1f32);
    for threads in [1, 2] {
        for (reducer, exact) in [(Reducer::Sum, exact * rows as f64), (Reducer::Mean, exact)] {
            let bound = error_bound(&reducer, rows as u64, DType::F32, DType::F32, false);
            for y in constant(cpu(threads), 0.1f32, rows, 64, reducer.clone()) {
                let error = (y - exact).abs() / exact;
                assert!(error <= bound, "{reducer}, {threads} threads: error {error:e}, bound {bound:e}");
                assert!(error < 1e-6, "{reducer}: {error:e} is no better than a plain loop");
            }
        }
    }
}

#[test]
fn the_mean_of_many_ones_is_one_in_half_precision() {
    for reducer in [Reducer::Mean, Reducer::Max] {
        assert_eq!(constant(cpu(2), f16::ONE, 100_000, 3, reducer.clone()), [1.0; 3]);
        assert_eq!(constant(cpu(2), bf16::ONE, 100_000, 3, reducer.clone()), [1.0; 3]);
        assert_eq!(constant(ReferenceBackend::new(), f16::ONE, 100_000, 3, reducer.clone()), [1.0; 3]);
        assert_eq!(constant(ReferenceBackend::new(), bf16::ONE, 100_000, 3, reducer), [1.0; 3]);
    }
    // 4096 ones are 4096, which both types hold.
    assert_eq!(constant(cpu(2), bf16::ONE, 4096, 1, Reducer::Sum), [4096.0]);
    assert_eq!(constant(cpu(2), f16::ONE, 4096, 1, Reducer::Sum), [4096.0]);
}

#[test]
fn one_prepared_plan_runs_side_by_side() {
    let hierarchy = Hierarchy::new(Leaves::values("x", DType::F64, 4))
        .level(Level::new("y", Segments::from_lengths(&[40u64, 2000, 1]).unwrap()).reduce(Reducer::Sum));
    let prepared = engine(2).prepare(&hierarchy).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4u32 {
            let prepared = &prepared;
            scope.spawn(move || {
                for round in 0..20u32 {
                    let value = f64::from(worker * 100 + round);
                    let x = vec![value; 2041 * 4];
                    let mut y = vec![0.0; 3 * 4];
                    let bindings = Bindings::new()
                        .input("x", TensorView::from_slice(&x, [2041, 4]).unwrap())
                        .output("y", TensorViewMut::from_slice(&mut y, [3, 4]).unwrap());
                    prepared.run(bindings).unwrap();
                    assert_eq!(y, [[value * 40.0; 4], [value * 2000.0; 4], [value; 4]].concat());
                }
            });
        }
    });
}

#[test]
fn an_engine_is_reused_batch_after_batch() {
    let engine = engine(2);
    for batch in 1..50u64 {
        let lengths: Vec<u64> = (0..batch).map(|index| 1 + index % 7).collect();
        let words = Segments::from_lengths(&lengths).unwrap();
        let rows = words.rows() as usize;
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 3))
            .level(Level::new("word", words).reduce(Reducer::Sum))
            .level(Level::new("all", Segments::whole(batch)).reduce(Reducer::Sum));
        let prepared = engine.prepare(&hierarchy).unwrap();
        let x = vec![1.0f32; rows * 3];
        let mut all = [0f32; 3];
        let bindings = Bindings::new()
            .input("x", TensorView::from_slice(&x, [rows, 3]).unwrap())
            .output("all", TensorViewMut::from_slice(&mut all, [1, 3]).unwrap());
        prepared.run(bindings).unwrap();
        assert_eq!(all, [rows as f32; 3]);
    }
}

#[test]
fn the_memory_limit_refuses_before_it_allocates_and_says_how_much() {
    let options = EngineOptions { memory_limit: Some(1000), ..EngineOptions::default() };
    let engine = Engine::with_options(Box::new(cpu(1)), options);
    // An exabyte of leaves: nothing of it may be touched.
    let rows = 1u64 << 50;
    let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 256)).level(Level::new("y", Segments::whole(rows)));
    let error = engine.prepare(&hierarchy).err().unwrap();
    assert_eq!(error.code(), ErrorCode::MemoryLimit);
    assert!(error.to_string().contains(&((rows * 1024) + 16 + 1024).to_string()), "{error}");
}

#[test]
fn a_plan_from_a_file_is_verified_and_needs_its_segments() {
    let words = Segments::from_lengths(&[2u64, 1]).unwrap();
    let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 1)).level(Level::new("y", words.clone()));
    let engine = engine(1);
    let plan = engine.planner().unwrap().plan(hierarchy.graph().unwrap()).unwrap().plan;
    let prepared = engine.prepare_plan(plan.clone(), vec![words.clone()]).unwrap();
    let mut y = [0f32; 2];
    let bindings = || Bindings::new().input("x", TensorView::from_column(&[1.0f32, 2.0, 3.0]));
    prepared.run(bindings().output("y", TensorViewMut::from_slice(&mut y, [2, 1]).unwrap())).unwrap();
    assert_eq!(y, [3.0, 3.0]);
    let other = Segments::from_lengths(&[1u64, 2]).unwrap();
    assert_eq!(engine.prepare_plan(plan.clone(), vec![other]).err().unwrap().code(), ErrorCode::NotBound);
    let mut broken = plan.clone();
    broken.steps.clear();
    assert_eq!(engine.prepare_plan(broken, vec![words.clone()]).err().unwrap().code(), ErrorCode::PlanInvalid);
    let reference = Engine::new(ReferenceBackend::new());
    assert_eq!(reference.prepare_plan(plan, vec![words]).err().unwrap().code(), ErrorCode::WrongTarget);
}

/// Steps are compiled, and their scratch is sized, for what a plan says of its segments: what it says wrongly is found before anything runs.
#[test]
fn a_plan_that_lies_about_its_segments_does_not_run() {
    let lengths = Segments::from_lengths(&[&[1u64; 303][..], &[200, 0]].concat()).unwrap();
    let ranges: Vec<(u64, u64)> = lengths.ranges().map(|range| (range.start, range.end)).collect();
    let ranges = Segments::from_ranges(&ranges, 503).unwrap();
    let lies: [fn(&mut Table); 4] = [
        |table| table.longest = 100,
        |table| table.empty = 0,
        |table| table.longest = 300,
        |table| table.form = if table.form == TableForm::Offsets { TableForm::Ranges } else { TableForm::Offsets },
    ];
    for (segments, reducer) in [(&lengths, "median"), (&ranges, "sum"), (&lengths, "var")] {
        let level = Level::new("y", segments.clone()).reduce(reducer.parse::<Reducer>().unwrap()).on_empty(OnEmpty::Zero);
        let graph = Hierarchy::new(Leaves::values("x", DType::F32, 1)).level(level).graph().unwrap();
        for backend in [true, false] {
            let engine = if backend { engine(1) } else { Engine::new(ReferenceBackend::new()) };
            let plan = engine.planner().unwrap().plan(graph.clone()).unwrap().plan;
            let x = vec![1.0f32; 503];
            let mut y = [9.0f32; 305];
            let mut told = |plan: Plan| {
                let prepared = engine.prepare_plan(plan, vec![segments.clone()])?;
                let y = TensorViewMut::from_slice(&mut y, [305, 1]).unwrap();
                prepared.run(Bindings::new().input("x", TensorView::from_column(&x)).output("y", y)).map(|_| ())
            };
            told(plan.clone()).unwrap();
            for lie in lies {
                let mut lied = plan.clone();
                lie(&mut lied.tables[0]);
                let error = told(lied).err().unwrap();
                assert_eq!(error.code(), ErrorCode::PlanInvalid, "{error}");
            }
        }
    }
}

#[test]
fn shapes_without_elements_are_fine() {
    for backend in [true, false] {
        for (rows, features) in [(0u64, 1u64 << 31), (0, 0), (3, 0), (0, 5)] {
            for segments in [Segments::from_lengths::<u64>(&[]).unwrap(), Segments::from_lengths(&[0u64; 2]).unwrap()] {
                let segments = if rows > 0 { Segments::whole(rows) } else { segments };
                if segments.len() * features > 1 << 20 {
                    continue;
                }
                let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, features)).level(Level::new("y", segments.clone()));
                for opt in OptLevel::ALL {
                    let options = EngineOptions { opt, ..EngineOptions::default() };
                    let backend: Box<dyn levelfold::backend::Backend> =
                        if backend { Box::new(cpu(2)) } else { Box::new(ReferenceBackend::new()) };
                    let prepared = Engine::with_options(backend, options).prepare(&hierarchy).unwrap();
                    let x = vec![0f32; (rows * features) as usize];
                    let mut y = vec![1f32; (segments.len() * features) as usize];
                    let shape = [segments.len() as usize, features as usize];
                    let bindings = Bindings::new()
                        .input("x", TensorView::from_slice(&x, [rows as usize, features as usize]).unwrap())
                        .output("y", TensorViewMut::from_slice(&mut y, shape).unwrap());
                    prepared.run(bindings).unwrap();
                    assert!(y.iter().all(|value| value.to_bits() == 0), "{opt} {rows}x{features}: {y:?}");
                }
            }
        }
    }
}

#[test]
fn a_hosts_float_mode_changes_no_bits_and_is_put_back() {
    #[cfg(target_arch = "x86_64")]
    {
        let tiny = f32::from_bits(1);
        let run = || fold_constant(cpu(1), tiny, 64, 1, Reducer::Sum);
        let plain = run();
        assert_eq!(plain[0].to_bits(), 64);
        let (mut before, flushing, mut after) = (0u32, 0x9fc0u32, 0u32);
        // SAFETY: reads and writes this thread's MXCSR, and puts it back below.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &mut before);
            std::arch::asm!("ldmxcsr [{}]", in(reg) &flushing);
        }
        let flushed = run();
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &mut after);
            std::arch::asm!("ldmxcsr [{}]", in(reg) &before);
        }
        // The comparison happens in the host's own mode again.
        assert_eq!(flushed[0].to_bits(), plain[0].to_bits());
        assert_eq!(after & 0xffc0, flushing, "the host's mode is put back");
    }
}

#[test]
fn a_table_shared_by_two_levels_is_bound_once() {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 2, 1).unwrap();
    let segments = Segments::from_lengths(&[1u64, 1]).unwrap();
    let first = b.table("first", &segments).unwrap();
    let y = b.fold(x, first, Reduce::new(Reducer::Sum)).unwrap();
    let second = b.table("second", &segments).unwrap();
    let z = b.fold(y, second, Reduce::new(Reducer::Sum)).unwrap();
    b.output("z", z).unwrap();
    let prepared = engine(1).prepare_graph(b.finish().unwrap()).unwrap();
    let mut z = [0f32; 2];
    let bindings =
        Bindings::new().input("x", TensorView::from_column(&[1.0f32, 2.0])).output("z", TensorViewMut::from_slice(&mut z, [2, 1]).unwrap());
    prepared.run(bindings).unwrap();
    assert_eq!(z, [1.0, 2.0]);
}

#[test]
fn a_backend_given_a_broken_plan_directly_refuses_it() {
    let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 4)).level(Level::new("y", Segments::whole(3)));
    let mut plan = engine(1).planner().unwrap().plan(hierarchy.graph().unwrap()).unwrap().plan;
    // A view that reaches past its buffer: kernels would follow it.
    plan.views[0].features = 4000;
    let refused = levelfold::backend::Backend::compile(&cpu(1), &std::sync::Arc::new(plan)).err().unwrap();
    assert_eq!(refused.code(), ErrorCode::PlanInvalid);
}

/// Squares of f32 rows overflow from 1.8e19 on, and lose digits below 1e-19; cast to f64 first, inside the fold, they do neither.
#[test]
fn norms_and_variances_of_huge_and_tiny_rows_are_right_once_they_are_cast() {
    let run = |reducer: &Reducer, cast: bool, input: [f32; 2]| {
        let mut leaves = Leaves::values("x", DType::F32, 1);
        if cast {
            leaves = leaves.encode(Encoder::Cast(DType::F64));
        }
        let level = Level::new("y", Segments::from_lengths(&[2]).unwrap()).reduce(reducer.clone()).dtype(DType::F32);
        let prepared = engine(1).prepare(&Hierarchy::new(leaves).level(level)).unwrap();
        assert_eq!((prepared.plan().steps.len(), prepared.plan().totals.read_bytes), (1, 8 + 16), "cast inside the fold");
        let mut y = [0.0f32];
        let bindings = Bindings::new()
            .input("x", TensorView::from_slice(&input, [2, 1]).unwrap())
            .output("y", TensorViewMut::from_slice(&mut y, [1, 1]).unwrap());
        prepared.run(bindings).unwrap();
        y[0]
    };
    let std = Reducer::Std { ddof: 0 };
    assert_eq!((run(&Reducer::L2, false, [3e19, 4e19]), run(&Reducer::L2, true, [3e19, 4e19])), (f32::INFINITY, 5e19));
    assert_ne!(run(&Reducer::L2, false, [3e-23, 4e-23]), 5e-23);
    assert_eq!(run(&Reducer::L2, true, [3e-23, 4e-23]), 5e-23);
    assert_eq!(run(&std, false, [-3e19, 3e19]), f32::INFINITY);
    assert_eq!((run(&std, true, [-3e19, 3e19]), run(&std, true, [2f32.powi(-76), 3.0 * 2f32.powi(-76)])), (3e19, 2f32.powi(-76)));
    assert_eq!(run(&Reducer::L2, false, [1.3e19, 1.3e19]), 1.3e19f32 * 2f32.sqrt());
}

/// Random segments, heads and types, against f64, inside what the scores and the exponentials may be off by.
#[test]
fn pooling_by_learned_queries_is_what_f64_says() {
    fn pool<T: levelfold::numerics::Value>(seed: u64) {
        let mut rng = common::Rng::new(seed);
        let (heads, features) = (1 + rng.below(3) as usize, 1 + rng.below(20) as usize);
        let lengths: Vec<u64> = (0..1 + rng.below(12)).map(|_| 1 + if rng.chance(4) { rng.below(300) } else { rng.below(40) }).collect();
        let rows = lengths.iter().sum::<u64>() as usize;
        let mut numbers = |count: usize, size: f64| -> Vec<T> {
            (0..count).map(|_| T::from_f64((rng.below(1 << 16) as f64 / 32768.0 - 1.0) * size)).collect()
        };
        let x = numbers(rows * features, 2.0);
        let queries: Vec<Vec<T>> = (0..heads).map(|_| numbers(features, 3.0)).collect();
        let names: Vec<String> = (0..heads).map(|head| format!("q{head}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let hierarchy = Hierarchy::new(Leaves::values("x", T::DTYPE, features as u64))
            .level(Level::new("y", Segments::from_lengths(&lengths).unwrap()).pool_by(&names));
        let prepared = engine(2).prepare(&hierarchy).unwrap();
        let mut y = vec![T::from_f64(0.0); lengths.len() * heads * features];
        let mut bindings = Bindings::new()
            .input("x", TensorView::from_slice(&x, [rows, features]).unwrap())
            .output("y", TensorViewMut::from_slice(&mut y, [lengths.len(), heads * features]).unwrap());
        for (name, query) in names.iter().zip(&queries) {
            bindings = bindings.input(name, TensorView::from_slice(query, [1, features]).unwrap());
        }
        prepared.run(bindings).unwrap();
        let (u, r) = (unit_roundoff(T::DTYPE.accumulator()), unit_roundoff(T::DTYPE));
        let mut first = 0;
        for (segment, &length) in lengths.iter().enumerate() {
            let rows: Vec<Vec<f64>> = (first..first + length as usize)
                .map(|row| x[row * features..(row + 1) * features].iter().map(|x| x.to_f64()).collect())
                .collect();
            first += length as usize;
            for (head, query) in queries.iter().enumerate() {
                let dot = |row: &[f64], of: fn(f64) -> f64| -> f64 {
                    row.iter().zip(query).map(|(x, q)| of(x * q.to_f64())).sum::<f64>() / (features as f64).sqrt()
                };
                let scores: Vec<f64> = rows.iter().map(|row| dot(row, |x| x)).collect();
                let size = rows.iter().map(|row| dot(row, f64::abs)).fold(0.0, f64::max);
                let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let furthest = scores.iter().map(|score| best - score).fold(0.0, f64::max);
                let parts: Vec<f64> = scores.iter().map(|score| (score - best).exp()).collect();
                let sum: f64 = parts.iter().sum();
                // A score is a chain of products, scaled, each result rounded to the level's type; a part is off by twice that, relative to itself.
                let score = (features as f64 + 3.0) * u * size + 2.0 * r * size;
                let relative = 2.0 * (2.0 * score).exp_m1() + 2.0 * exponent_error_bound(length, T::DTYPE, furthest);
                for feature in 0..features {
                    let pooled = |of: fn(f64) -> f64| rows.iter().zip(&parts).map(|(row, part)| part * of(row[feature])).sum::<f64>() / sum;
                    let (exact, magnitude) = (pooled(|x| x), pooled(f64::abs));
                    let got = y[(segment * heads + head) * features + feature].to_f64();
                    let allowed =
                        relative * magnitude + r * exact.abs() + 1e-14 * magnitude + 6e-8 * f64::from(u8::from(T::DTYPE == DType::F16));
                    assert!(
                        (got - exact).abs() <= allowed,
                        "seed {seed}, {}: segment {segment} of {length} rows, head {head}, feature {feature} is {got}, exact {exact}, allowed {allowed:e}",
                        T::DTYPE
                    );
                }
            }
        }
    }
    for seed in 0..24 {
        pool::<f32>(seed);
        pool::<f64>(seed);
        pool::<f16>(seed);
        pool::<bf16>(seed);
    }
}

//! How fast a linear encoder multiplies, beside the `gemm` crate in the same run.
//!
//! `cargo bench --bench matmul [-- [THREADS] [CASE…]]`, where each CASE is a part of the names to run. Each case is one product of rows and a weight as
//! they stand in transformers: rows × k by k × n, the weight lying as PyTorch has it, [n, k]. Ours is the whole step, the packing of its weight included.
//! Rounds take turns; for each side the median, GFLOP/s, the spread of the middle half and GFLOP/s of the fastest round, and then the median and the middle half of what gemm took beside what we
//! took in the same round. Both results are held to the error bound of a sum of k products against f64, and ours
//! to giving a row the same bits whatever the number of rows.

use gemm::Parallelism;
use levelfold::graph::GraphBuilder;
use levelfold::numerics::Value;
use levelfold::{Bindings, Engine, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;
use std::time::Instant;

/// What one measurement takes at least, so that a clock can see it.
const LEAST_SECONDS: f64 = 5e-4;
/// Rounds of a case: as many as take this long, but no fewer and no more than these.
const CASE_SECONDS: f64 = 1.2;
const ROUNDS: std::ops::RangeInclusive<usize> = 5..=301;
/// Rows whose results are compared.
const COMPARED: usize = 64;

const ROWS: [usize; 3] = [64, 1 << 10, 16 << 10];
/// k and n: projections and feed-forward layers of 64, 256 and 768 features.
const SHAPES: [(usize, usize); 8] = [(64, 192), (64, 64), (64, 256), (256, 64), (256, 768), (256, 1024), (1024, 256), (768, 3072)];

/// The lower quartile, the median and the upper quartile.
fn quartiles(times: &mut [f64]) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| times[(times.len() - 1) * quarter / 4])
}

fn numbers<T: Value>(count: usize, seed: u64) -> Vec<T> {
    let mut state = 88172645463325252u64 ^ seed;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            T::from_f64((state >> 40) as f64 / (1u64 << 23) as f64 - 1.0)
        })
        .collect()
}

/// One side's measurements, each of as many runs as a clock can see.
struct Side {
    times: Vec<f64>,
    repeats: usize,
}

impl Side {
    fn new(mut run: impl FnMut() -> f64) -> Self {
        run();
        let seconds = run();
        Side { times: Vec::new(), repeats: (LEAST_SECONDS / seconds.max(1e-9)).ceil().max(1.0) as usize }
    }

    fn measure(&mut self, mut run: impl FnMut() -> f64) {
        let seconds: f64 = (0..self.repeats).map(|_| run()).sum();
        self.times.push(seconds / self.repeats as f64);
    }
}

/// Holds the first rows of a result to the bound of a chain of k products in any order.
fn check<T: Value>(side: &str, x: &[T], weight: &[T], y: &[T], (k, n): (usize, usize)) {
    let unit = if T::DTYPE.size() == 8 { f64::EPSILON / 2.0 } else { f64::from(f32::EPSILON) / 2.0 };
    let bound = k as f64 * unit / (1.0 - k as f64 * unit);
    for row in 0..COMPARED.min(y.len() / n) {
        for column in 0..n {
            let products = || x[row * k..][..k].iter().zip(&weight[column * k..][..k]).map(|(x, w)| x.to_f64() * w.to_f64());
            let (wanted, sizes) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let got = y[row * n + column].to_f64();
            assert!((got - wanted).abs() <= 2.0 * bound * sizes, "{side}: row {row}, column {column} is {got}, not {wanted}");
        }
    }
}

struct Setting<'a> {
    engine: &'a Engine,
    pool: &'a rayon::ThreadPool,
    only: &'a [String],
}

/// Every number of rows for one shape.
fn shape<T: Value + Default>(setting: &Setting<'_>, (k, n): (usize, usize), one: T) {
    let mut first: Vec<T> = Vec::new();
    for rows in ROWS {
        let name = format!("{} {rows} x {k} x {n}", T::DTYPE);
        if !setting.only.is_empty() && !setting.only.iter().any(|part| name.contains(part)) {
            continue;
        }
        let mut graph = GraphBuilder::new();
        let mut build = || {
            let x = graph.input("x", T::DTYPE, rows as u64, k as u64)?;
            let weight = graph.param("weight", T::DTYPE, n as u64, k as u64)?;
            let y = graph.linear(x, weight, None)?;
            graph.output("y", y)
        };
        build().expect("a graph");
        let prepared = setting.engine.prepare_graph(graph.finish().expect("a graph")).expect("a plan");
        let (x, weight) = (numbers::<T>(rows * k, 1), numbers::<T>(n * k, 2));
        let (mut ours, mut theirs) = (vec![T::default(); rows * n], vec![T::default(); rows * n]);
        let mut levelfold = || {
            let bindings = Bindings::new()
                .input("x", TensorView::from_slice(&x, [rows, k])?)
                .input("weight", TensorView::from_slice(&weight, [n, k])?)
                .output("y", TensorViewMut::from_slice(&mut ours, [rows, n])?);
            prepared.run_with(bindings, |report| report.steps[0].time.as_secs_f64())
        };
        let mut levelfold = || levelfold().expect("a run");
        let mut gemm = || {
            let (lhs, rhs, dst) = (x.as_ptr(), weight.as_ptr(), theirs.as_mut_ptr());
            let start = Instant::now();
            // SAFETY: slices are as large as their shapes.
            unsafe {
                let (lhs_stride, dst_stride) = (k as isize, n as isize);
                let threads = if setting.pool.current_num_threads() == 1 { Parallelism::None } else { Parallelism::Rayon(0) };
                gemm::gemm(
                    rows, n, k, dst, 1, dst_stride, false, lhs, 1, lhs_stride, rhs, lhs_stride, 1, one, one, false, false, false, threads,
                );
            }
            start.elapsed().as_secs_f64()
        };
        setting.pool.install(|| {
            let (mut us, mut them) = (Side::new(&mut levelfold), Side::new(&mut gemm));
            let start = Instant::now();
            while us.times.len() < *ROUNDS.start() || us.times.len() < *ROUNDS.end() && start.elapsed().as_secs_f64() < CASE_SECONDS {
                us.measure(&mut levelfold);
                them.measure(&mut gemm);
            }
            let flops = 2.0 * (rows * k * n) as f64;
            let mut ratios: Vec<f64> = us.times.iter().zip(&them.times).map(|(ours, theirs)| 100.0 * theirs / ours).collect();
            print!("{name:<24}");
            for times in [&mut us.times, &mut them.times] {
                let [low, time, high] = quartiles(times);
                print!(
                    " {:>9.4} {:>7.1} {:>5.0}% {:>6.1}",
                    time * 1e3,
                    flops / time * 1e-9,
                    50.0 * (high - low) / time,
                    flops / times[0] * 1e-9
                );
            }
            let [low, ratio, high] = quartiles(&mut ratios);
            println!(" {ratio:>7.0}% {low:>4.0}–{high:.0}%");
        });
        check("levelfold", &x, &weight, &ours, (k, n));
        check("gemm", &x, &weight, &theirs, (k, n));
        let same = COMPARED.min(rows) * n;
        if first.is_empty() {
            first = ours[..same].to_vec();
        }
        assert!(
            bytemuck::cast_slice::<T, u8>(&first) == bytemuck::cast_slice::<T, u8>(&ours[..same]),
            "{name}: other bits than with fewer rows"
        );
    }
}

fn main() {
    let threads = std::env::args().skip(1).find_map(|argument| argument.parse::<usize>().ok()).unwrap_or(1);
    let only: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument.parse::<usize>().is_err() && !argument.starts_with('-')).collect();
    let engine = Engine::new(CpuBackend::builder().threads(threads).build().expect("a backend"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let setting = Setting { engine: &engine, pool: &pool, only: &only };
    println!("{threads} threads; of each side: ms, GFLOP/s, spread, GFLOP/s at best; and how fast levelfold is beside gemm");
    println!("{:<24} {:>31} {:>31}", "rows x k x n", "levelfold", "gemm");
    for (k, n) in SHAPES {
        shape::<f32>(&setting, (k, n), 1.0);
    }
    shape::<f64>(&setting, (256, 768), 1.0);
}

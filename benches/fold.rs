//! How fast the CPU backend folds, against the memory bandwidth measured in the same run.
//!
//! `cargo bench --bench fold [-- [THREADS [MEGABYTES]] [CASE]]`, where CASE is a part of the names to run. For each case: the median time over interleaved rounds, the bytes that had to move (each needed input byte
//! once, each output byte once), GB/s, and time as a share of the floor: bytes in ÷ read bandwidth + bytes out ÷ write bandwidth.

use levelfold::engine::Prepared;
use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;
use rayon::prelude::*;
use std::time::Instant;

struct Case {
    name: String,
    prepared: Prepared,
    inputs: Vec<(String, DType, [usize; 2], Vec<u64>)>,
    outputs: Vec<(String, DType, [usize; 2], Vec<u64>)>,
    times: Vec<f64>,
}

fn rng(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Lengths from 1 to `longest`, skewed to the short ones, that add up to `rows`.
fn lengths(rows: u64, longest: u64, seed: u64) -> Segments {
    let mut state = seed | 1;
    let (mut lengths, mut left) = (Vec::new(), rows);
    while left > 0 {
        let length = (1 + (rng(&mut state) % longest).min(rng(&mut state) % longest)).min(left);
        lengths.push(length);
        left -= length;
    }
    Segments::from_lengths(&lengths).expect("lengths")
}

fn text(leaves: Leaves, rows: u64, keep: bool) -> Hierarchy {
    let keep_if = |level: Level| if keep { level.keep() } else { level };
    let words = lengths(rows, 15, 1);
    let sentences = lengths(words.len(), 50, 2);
    let paragraphs = lengths(sentences.len(), 12, 3);
    let corpus = Segments::whole(paragraphs.len());
    Hierarchy::new(leaves)
        .level(keep_if(Level::new("word", words).reduce(Reducer::Mean)))
        .level(Level::new("sentence", sentences).reduce(Reducer::Mean).keep())
        .level(Level::new("paragraph", paragraphs).reduce(Reducer::Mean).keep())
        .level(Level::new("corpus", corpus).reduce(Reducer::Mean))
}

struct Cases<'a> {
    only: String,
    engine: &'a Engine,
    list: Vec<Case>,
}

impl Cases<'_> {
    fn add(&mut self, name: String, hierarchy: impl FnOnce() -> Hierarchy) {
        if name.contains(&self.only) {
            self.list.push(case(name, self.engine, &hierarchy()));
        }
    }
}

fn case(name: String, engine: &Engine, hierarchy: &Hierarchy) -> Case {
    let prepared = engine.prepare(hierarchy).expect("a plan");
    let plan = prepared.plan();
    let buffer = |buffer: &levelfold::plan::Buffer| {
        let shape = [buffer.rows as usize, buffer.features as usize];
        let mut state = 88172645463325252u64;
        let words: Vec<u64> = (0..buffer.bytes().div_ceil(8))
            .map(|_| match buffer.dtype {
                // Small positive numbers in any float type; any byte is an id of the table.
                DType::F32 => 0x3f00_0000_3f00_0000 | (rng(&mut state) & 0x007f_ffff_007f_ffff),
                DType::BF16 => 0x3f00_3f00_3f00_3f00 | (rng(&mut state) & 0x007f_007f_007f_007f),
                _ => rng(&mut state),
            })
            .collect();
        (buffer.name.to_string(), buffer.dtype, shape, words)
    };
    let inputs = plan.inputs().map(|(_, b)| buffer(b)).collect();
    let outputs = plan.outputs().map(|(_, b)| buffer(b)).collect();
    Case { name, prepared, inputs, outputs, times: Vec::new() }
}

impl Case {
    fn run(&mut self) -> f64 {
        let mut bindings = Bindings::new();
        for (name, dtype, shape, words) in &self.inputs {
            let bytes = &bytemuck::cast_slice::<u64, u8>(words)[..shape[0] * shape[1] * dtype.size()];
            bindings.bind_input(name, TensorView::from_bytes(bytes, *dtype, levelfold::Layout::row_major(*shape)).expect("a view"));
        }
        for (name, dtype, shape, words) in &mut self.outputs {
            let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(words)[..shape[0] * shape[1] * dtype.size()];
            bindings.bind_output(name, TensorViewMut::from_bytes(bytes, *dtype, *shape).expect("a view"));
        }
        let start = Instant::now();
        self.prepared.run_with(bindings, |_| ()).expect("a run");
        start.elapsed().as_secs_f64()
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument.parse::<usize>().is_ok());
    let threads = arguments.next().map_or(2, |threads| threads.parse().expect("a number"));
    let megabytes: u64 = arguments.next().map_or(512, |megabytes| megabytes.parse().expect("a number"));
    let engine = Engine::new(CpuBackend::builder().threads(threads).build().expect("a backend"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let bytes = megabytes << 20;
    let only = std::env::args().skip(1).find(|argument| argument.parse::<usize>().is_err() && !argument.starts_with('-'));
    let mut cases = Cases { only: only.unwrap_or_default(), engine: &engine, list: Vec::new() };
    for features in [64u64, 256, 768, 1024] {
        let rows = bytes / 4 / features;
        let one =
            || Hierarchy::new(Leaves::values("x", DType::F32, features)).level(Level::new("y", lengths(rows, 15, 1)).reduce(Reducer::Mean));
        cases.add(format!("words f32 x{features}"), one);
    }
    let rows = bytes / 4 / 256;
    for (name, segments) in
        [("flat", Segments::whole(rows)), ("ones", Segments::from_lengths(&vec![1u64; rows as usize]).expect("lengths"))]
    {
        let one = || Hierarchy::new(Leaves::values("x", DType::F32, 256)).level(Level::new("y", segments).reduce(Reducer::Sum));
        cases.add(format!("{name} f32 x256"), one);
    }
    let words =
        |dtype, rows, reducer| Hierarchy::new(Leaves::values("x", dtype, 256)).level(Level::new("y", lengths(rows, 15, 1)).reduce(reducer));
    cases.add("words max f32 x256".into(), || words(DType::F32, rows, Reducer::Max));
    cases.add("words bf16 x256".into(), || words(DType::BF16, 2 * rows, Reducer::Mean));
    for keep in [true, false] {
        let name = if keep { "chain, words kept" } else { "chain, words not kept" };
        cases.add(format!("{name} x256"), || text(Leaves::values("char", DType::F32, 256), rows, keep));
        let name = if keep { "lookup chain, words kept" } else { "lookup chain, words not kept" };
        cases.add(format!("{name} x256"), || text(Leaves::lookup("char", DType::U8, DType::F32, 256, 256), rows, keep));
    }
    for (rows, features) in [(20_000u64, 64u64), (2_000, 64)] {
        let one =
            || Hierarchy::new(Leaves::values("x", DType::F32, features)).level(Level::new("y", lengths(rows, 15, 1)).reduce(Reducer::Mean));
        cases.add(format!("small {rows}x{features}"), one);
    }
    let big = vec![1u64; (bytes / 8) as usize];
    let mut out = vec![0u64; (bytes / 8) as usize];
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for round in 0..9 {
        let start = Instant::now();
        let sum: u64 = pool.install(|| big.par_chunks(1 << 17).map(|chunk| chunk.iter().fold(0u64, |a, b| a.wrapping_add(*b))).sum());
        reads.push(start.elapsed().as_secs_f64() / bytes as f64);
        let start = Instant::now();
        pool.install(|| out.par_chunks_mut(1 << 17).for_each(|chunk| chunk.fill(sum + round)));
        writes.push(start.elapsed().as_secs_f64() / bytes as f64);
        for case in &mut cases.list {
            let repeat = if case.name.starts_with("small") { 100 } else { 1 };
            for _ in 0..repeat {
                let time = case.run();
                if round > 0 {
                    case.times.push(time);
                }
            }
        }
    }
    let (read, write) = (median(&mut reads), median(&mut writes));
    println!("{threads} threads, read {:.1} GB/s, write {:.1} GB/s", 1e-9 / read, 1e-9 / write);
    println!("{:<36} {:>10} {:>9} {:>9} {:>9}", "case", "ms", "MB", "GB/s", "of floor");
    for case in &mut cases.list {
        let floor = case.prepared.plan().floor();
        let time = median(&mut case.times);
        let least = floor.read as f64 * read + floor.written as f64 * write;
        let moved = (floor.read + floor.written) as f64;
        println!("{:<36} {:>10.3} {:>9.1} {:>9.1} {:>8.0}%", case.name, time * 1e3, moved / 1e6, moved / time / 1e9, 100.0 * least / time);
    }
}

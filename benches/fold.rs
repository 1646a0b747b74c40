//! How fast the CPU backend folds, against the memory bandwidth measured in the same run.
//!
//! `cargo bench --bench fold [-- [--isa=NAME] [THREADS [MEGABYTES]] [CASE…]]`, where each CASE is a part of the names to run, and the instruction set is the widest there
//! is or the one that is named. For each case: the median
//! time over interleaved rounds and the spread of the middle half of them, the bytes that had to move (each needed input byte once, each output
//! byte once), GB/s, and the floor as a share of the time. The floor is bytes in ÷ read bandwidth + bytes out ÷ write bandwidth, of whichever kind
//! of write (through the cache, or past it) was faster. Inputs and outputs are ordinary memory, used again in every round.

use levelfold::engine::Prepared;
use levelfold::{Bindings, DType, Engine, Hierarchy, Layout, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::{CpuBackend, Isa};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::time::Instant;

/// Runs of a small case in a round.
const REPEATS: usize = 100;
const ROUNDS: usize = 11;

struct Case {
    name: String,
    prepared: Prepared,
    /// Whether the leaves are bound feature by feature.
    turned: bool,
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

fn words(leaves: Leaves, rows: u64, reducer: Reducer) -> Hierarchy {
    Hierarchy::new(leaves).level(Level::new("y", lengths(rows, 15, 1)).reduce(reducer))
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

/// Eight levels of groups of up to seven rows, and whatever is left.
fn deep(leaves: Leaves, rows: u64) -> Hierarchy {
    let (mut hierarchy, mut rows) = (Hierarchy::new(leaves), rows);
    for level in 1..8 {
        let segments = lengths(rows, 7, level);
        rows = segments.len();
        hierarchy = hierarchy.level(Level::new(&format!("l{level}"), segments).reduce(Reducer::Mean));
    }
    hierarchy.level(Level::new("top", Segments::whole(rows)).reduce(Reducer::Mean))
}

struct Cases<'a> {
    only: Vec<String>,
    engine: &'a Engine,
    /// As `engine`, but that outputs of any size go through the cache.
    through: &'a Engine,
    list: Vec<Case>,
}

impl Cases<'_> {
    fn add(&mut self, name: impl Into<String>, hierarchy: impl FnOnce() -> Hierarchy) {
        let name = name.into();
        if self.only.is_empty() || self.only.iter().any(|part| name.contains(part)) {
            let engine = if name.ends_with("through") { self.through } else { self.engine };
            let prepared = engine.prepare(&hierarchy()).expect("a plan");
            self.list.push(Case { turned: name.starts_with("feature-major"), name, prepared, times: Vec::new() });
        }
    }

    fn add_all(&mut self, bytes: u64) {
        let values = |dtype, features| Leaves::values("x", dtype, features);
        for features in [1u64, 2, 3, 4, 7, 16, 64, 256, 768, 1024] {
            self.add(format!("words f32 x{features}"), || words(values(DType::F32, features), bytes / 4 / features, Reducer::Mean));
        }
        for features in [64u64, 256] {
            let rows = bytes / 4 / features;
            self.add(format!("words max f32 x{features}"), || words(values(DType::F32, features), rows, Reducer::Max));
            self.add(format!("words bf16 x{features}"), || words(values(DType::BF16, features), 2 * rows, Reducer::Mean));
            self.add(format!("words f16 x{features}"), || words(values(DType::F16, features), 2 * rows, Reducer::Mean));
            self.add(format!("words f32 as f16 x{features}"), || {
                Hierarchy::new(values(DType::F32, features))
                    .level(Level::new("y", lengths(rows, 15, 1)).reduce(Reducer::Mean).dtype(DType::F16))
            });
            self.add(format!("words weighted f32 x{features}"), || {
                Hierarchy::new(values(DType::F32, features))
                    .level(Level::new("y", lengths(rows, 15, 1)).reduce(Reducer::Mean).weights("w", DType::F32))
            });
            self.add(format!("words mean, max, min f32 x{features}"), || {
                let level = Level::new("y", lengths(rows, 15, 1)).reduce_all(&[Reducer::Mean, Reducer::Max, Reducer::Min]);
                Hierarchy::new(values(DType::F32, features)).level(level)
            });
            self.add(format!("feature-major words f32 x{features}"), || words(values(DType::F32, features), rows, Reducer::Mean));
            self.add(format!("deep f32 x{features}"), || deep(values(DType::F32, features), rows));
        }
        self.add_states(bytes);
        for features in [1u64, 2, 3, 4, 64, 256] {
            let flat = || Hierarchy::new(values(DType::F32, features)).level(Level::new("y", Segments::whole(bytes / 4 / features)));
            self.add(format!("flat f32 x{features}"), flat);
        }
        for features in [1u64, 3] {
            let rows = bytes / 4 / features;
            self.add(format!("narrow ones f32 x{features}"), || {
                let segments = Segments::from_lengths(&vec![1u64; rows as usize]).expect("lengths");
                Hierarchy::new(values(DType::F32, features)).level(Level::new("y", segments))
            });
            self.add(format!("narrow skewed f32 x{features}"), || {
                let lengths: Vec<u64> = std::iter::once(rows / 2).chain((0..rows / 2).map(|_| 1)).collect();
                Hierarchy::new(values(DType::F32, features)).level(Level::new("y", Segments::from_lengths(&lengths).expect("lengths")))
            });
            self.add(format!("narrow words f64 x{features}"), || words(values(DType::F64, features), rows / 2, Reducer::Mean));
            self.add(format!("narrow words bf16 x{features}"), || words(values(DType::BF16, features), 2 * rows, Reducer::Mean));
            self.add(format!("narrow words max f32 x{features}"), || words(values(DType::F32, features), rows, Reducer::Max));
        }
        let rows = bytes / 4 / 256;
        self.add("ones f32 x256", || {
            let segments = Segments::from_lengths(&vec![1u64; rows as usize]).expect("lengths");
            Hierarchy::new(values(DType::F32, 256)).level(Level::new("y", segments))
        });
        self.add("skewed f32 x64", || {
            let rows = bytes / 4 / 64;
            let lengths: Vec<u64> = std::iter::once(rows / 2).chain((0..rows / 2).map(|_| 1)).collect();
            Hierarchy::new(values(DType::F32, 64)).level(Level::new("y", Segments::from_lengths(&lengths).expect("lengths")))
        });
        for features in [64u64, 256, 768] {
            let table = |ids| Leaves::lookup("char", ids, DType::F32, 256, features);
            // As many rows as would be as many bytes, were they stored.
            let rows = bytes / 4 / features;
            for (name, keep) in [("chain kept", true), ("chain not kept", false)] {
                self.add(format!("{name} f32 x{features}"), || text(values(DType::F32, features), rows, keep));
                self.add(format!("lookup {name} u8 x{features}"), || text(table(DType::U8), rows, keep));
            }
            for past in ["", " through"] {
                self.add(format!("lookup words u8 x{features}{past}"), || words(table(DType::U8), rows, Reducer::Mean));
                self.add(format!("lookup words u16 x{features}{past}"), || {
                    words(Leaves::lookup("char", DType::U16, DType::F32, 1 << 16, features), rows, Reducer::Mean)
                });
            }
        }
        for (rows, features) in [(20_000u64, 64u64), (2_000, 64), (200, 64)] {
            self.add(format!("small {rows}x{features}"), || words(values(DType::F32, features), rows, Reducer::Mean));
            self.add(format!("small lookup {rows}x{features}"), || {
                words(Leaves::lookup("char", DType::U8, DType::F32, 256, features), rows, Reducer::Mean)
            });
            self.add(format!("small chain {rows}x{features}"), || text(values(DType::F32, features), rows, true));
        }
        self.add("small 4x4", || words(values(DType::F32, 4), 4, Reducer::Mean));
    }

    /// Reducers whose state is more than one number, and those of the user's own beside the built-in ones.
    fn add_states(&mut self, bytes: u64) {
        let own = |text: &str| text.parse::<Reducer>().expect("a reducer");
        let reducers = [
            ("l1", Reducer::L1),
            ("l2", Reducer::L2),
            ("first", Reducer::First),
            ("last", Reducer::Last),
            ("count", Reducer::Count),
            ("argmax", Reducer::ArgMax),
            ("var", Reducer::Var { ddof: 0 }),
            ("std", Reducer::Std { ddof: 0 }),
            ("logsumexp", Reducer::LogSumExp),
            ("own l2", own("custom(own: s from x * x by a.s + b.s else 0; sqrt(s))")),
            (
                "own logsumexp",
                own(
                    "custom(own_lse: m from x by max(a.m, b.m); s from 1 by a.s * exp(a.m - max(a.m, b.m)) + b.s * exp(b.m - max(a.m, b.m)); m + log(s))",
                ),
            ),
        ];
        for features in [64u64, 256] {
            let (values, rows) = (|| Leaves::values("x", DType::F32, features), bytes / 4 / features);
            for (name, reducer) in &reducers {
                self.add(format!("states words {name} f32 x{features}"), || words(values(), rows, reducer.clone()));
                self.add(format!("states longer {name} f32 x{features}"), || {
                    Hierarchy::new(values()).level(Level::new("y", lengths(rows, 200, 1)).reduce(reducer.clone()))
                });
            }
            for (name, segments) in [("words", lengths(rows, 15, 1)), ("longer", lengths(rows, 200, 1))] {
                self.add(format!("states {name} softmax f32 x{features}"), || {
                    Hierarchy::new(values()).level(Level::new("y", segments).reduce(Reducer::SoftMax).weights("w", DType::F32))
                });
            }
        }
    }
}

/// Numbers of every type, for as many bytes as any case reads.
fn numbers(cases: &[Case]) -> BTreeMap<&'static str, Vec<u64>> {
    let mut numbers = BTreeMap::new();
    for case in cases {
        for (_, buffer) in case.prepared.plan().inputs() {
            let words = numbers.entry(buffer.dtype.name()).or_insert_with(Vec::new);
            let mut state = 88172645463325252u64 ^ words.len() as u64;
            words.resize_with(words.len().max(buffer.bytes().div_ceil(8) as usize), || match buffer.dtype {
                // Small positive numbers in any float type; any bytes are ids of a table.
                DType::F32 => 0x3f00_0000_3f00_0000 | (rng(&mut state) & 0x007f_ffff_007f_ffff),
                DType::BF16 => 0x3f00_3f00_3f00_3f00 | (rng(&mut state) & 0x007f_007f_007f_007f),
                DType::F64 => 0x3fe0_0000_0000_0000 | (rng(&mut state) & 0x000f_ffff_ffff_ffff),
                DType::F16 => 0x3800_3800_3800_3800 | (rng(&mut state) & 0x03ff_03ff_03ff_03ff),
                _ => rng(&mut state),
            });
        }
    }
    numbers
}

impl Case {
    fn run(&self, numbers: &BTreeMap<&str, Vec<u64>>, mut out: &mut [u64]) -> f64 {
        let mut bindings = Bindings::new();
        let plan = self.prepared.plan();
        for (_, buffer) in plan.inputs() {
            let shape = [buffer.rows as usize, buffer.features as usize];
            let bytes = &bytemuck::cast_slice::<u64, u8>(&numbers[buffer.dtype.name()])[..buffer.bytes() as usize];
            let layout = if self.turned { Layout::feature_major(shape) } else { Layout::row_major(shape) };
            bindings.bind_input(&buffer.name, TensorView::from_bytes(bytes, buffer.dtype, layout).expect("a view"));
        }
        for (_, buffer) in plan.outputs() {
            let (this, rest) = out.split_at_mut(buffer.bytes().div_ceil(64) as usize * 8);
            out = rest;
            let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(this)[..buffer.bytes() as usize];
            let shape = [buffer.rows as usize, buffer.features as usize];
            bindings.bind_output(&buffer.name, TensorViewMut::from_bytes(bytes, buffer.dtype, shape).expect("a view"));
        }
        let start = Instant::now();
        self.prepared.run_with(bindings, |_| ()).expect("a run");
        start.elapsed().as_secs_f64()
    }

    fn is_small(&self) -> bool {
        self.name.starts_with("small")
    }
}

/// The lower quartile, the median and the upper quartile.
fn quartiles(times: &mut [f64]) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| times[(times.len() - 1) * quarter / 4])
}

/// Fills memory past the cache, where the machine can.
fn fill_past_cache(chunk: &mut [u64], value: u64) {
    #[cfg(target_arch = "x86_64")]
    for word in chunk {
        // SAFETY: every x86-64 has the instruction, and the word is ours.
        unsafe { std::arch::x86_64::_mm_stream_si64(std::ptr::from_mut(word).cast(), value as i64) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    chunk.fill(value);
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument.parse::<usize>().is_ok());
    let threads = arguments.next().map_or(2, |threads| threads.parse().expect("a number"));
    let megabytes: u64 = arguments.next().map_or(512, |megabytes| megabytes.parse().expect("a number"));
    let isa = std::env::args().find_map(|argument| {
        let name = argument.strip_prefix("--isa=")?.to_owned();
        Some(Isa::ALL.into_iter().find(|isa| isa.to_string() == name).expect("an instruction set: baseline, avx2 or avx512"))
    });
    let builder = || CpuBackend::builder().isa(isa.unwrap_or_else(Isa::widest)).threads(threads);
    let engine = Engine::new(builder().build().expect("a backend"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let bytes = megabytes << 20;
    let only = std::env::args().skip(1).filter(|argument| argument.parse::<usize>().is_err() && !argument.starts_with('-')).collect();
    let through = Engine::new(builder().stream_bytes(u64::MAX).build().expect("a backend"));
    let mut cases = Cases { only, engine: &engine, through: &through, list: Vec::new() };
    cases.add_all(bytes);
    let mut cases = cases.list;
    let numbers = numbers(&cases);
    let written = |case: &Case| case.prepared.plan().outputs().map(|(_, buffer)| buffer.bytes().div_ceil(64) as usize * 8).sum::<usize>();
    let big: Vec<u64> = (0..bytes / 8).collect();
    let mut out = vec![1u64; cases.iter().map(written).max().unwrap_or(0).max(big.len())];
    let (mut reads, mut writes) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..ROUNDS {
        let start = Instant::now();
        let sum: u64 = pool.install(|| big.par_chunks(1 << 17).map(|chunk| chunk.iter().fold(0u64, |a, b| a.wrapping_add(*b))).sum());
        reads.push(start.elapsed().as_secs_f64() / bytes as f64);
        for (fill, writes) in [<[u64]>::fill as fn(&mut [u64], u64), fill_past_cache].into_iter().zip(&mut writes) {
            let start = Instant::now();
            pool.install(|| out[..big.len()].par_chunks_mut(1 << 17).for_each(|chunk| fill(chunk, sum + round as u64)));
            writes.push(start.elapsed().as_secs_f64() / bytes as f64);
        }
        for case in &mut cases {
            for _ in 0..if case.is_small() { REPEATS } else { 1 } {
                let time = case.run(&numbers, &mut out);
                if round > 0 {
                    case.times.push(time);
                }
            }
        }
    }
    let read = quartiles(&mut reads)[1];
    let writes = writes.map(|mut times| quartiles(&mut times)[1]);
    let write = writes[0].min(writes[1]);
    println!(
        "{threads} threads, read {:.1} GB/s, write {:.1} GB/s through the cache, {:.1} GB/s past it",
        1e-9 / read,
        1e-9 / writes[0],
        1e-9 / writes[1]
    );
    println!("{:<36} {:>10} {:>8} {:>9} {:>9} {:>9}", "case", "ms", "spread", "MB", "GB/s", "of floor");
    for case in &mut cases {
        let floor = case.prepared.plan().floor();
        let [low, time, high] = quartiles(&mut case.times);
        let least = floor.read as f64 * read + floor.written as f64 * write;
        let moved = (floor.read + floor.written) as f64;
        println!(
            "{:<36} {:>10.4} {:>7.0}% {:>9.1} {:>9.1} {:>8.0}%",
            case.name,
            time * 1e3,
            50.0 * (high - low) / time,
            moved / 1e6,
            moved / time / 1e9,
            100.0 * least / time
        );
    }
}

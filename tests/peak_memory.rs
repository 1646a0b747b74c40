//! A process that runs a plan needs its inputs, tables and outputs, the plan's `peak_bytes`, and 16 MiB: for itself, its threads and their scratch.
//!
//! Each case runs in a process of its own, which reads its peak from the system; so this test has no harness, and calls itself.

use levelfold::engine::{EngineOptions, Prepared};
use levelfold::plan::Place;
use levelfold::spec::{Encoder, Transformer};
use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;

/// What a process may need beside the bytes of its plan.
const BESIDE: u64 = 16 << 20;

/// Four levels over leaves that are stored, or looked up.
fn text(leaves: Leaves, rows: u64) -> Hierarchy {
    let words: Vec<u64> = (0..rows.div_ceil(5)).map(|word| 5.min(rows - 5 * word)).collect();
    let words = Segments::from_lengths(&words).unwrap();
    let sentences: Vec<u64> = (0..words.len().div_ceil(18)).map(|sentence| 18.min(words.len() - 18 * sentence)).collect();
    let sentences = Segments::from_lengths(&sentences).unwrap();
    let document = Segments::whole(sentences.len());
    Hierarchy::new(leaves)
        .level(Level::new("word", words).reduce(Reducer::Mean).keep())
        .level(Level::new("sentence", sentences).reduce_all(&[Reducer::Mean, Reducer::Max]).keep())
        .level(Level::new("document", document).reduce(Reducer::Mean))
}

/// Names, and hierarchies over so many bytes of f32 leaves (as many as they would be, where they are looked up).
fn hierarchy(name: &str, bytes: u64) -> Hierarchy {
    let values = |features| Leaves::values("x", DType::F32, features);
    match name {
        "flat" => Hierarchy::new(values(256)).level(Level::new("y", Segments::whole(bytes / 1024)).reduce(Reducer::Mean)),
        "ones" => {
            let ones = vec![1u64; (bytes / 1024) as usize];
            Hierarchy::new(values(256)).level(Level::new("y", Segments::from_lengths(&ones).unwrap()))
        }
        // More bytes of tables than of rows.
        "narrow" => {
            let ones = vec![1u64; (bytes / 4) as usize];
            Hierarchy::new(values(1)).level(Level::new("y", Segments::from_lengths(&ones).unwrap()))
        }
        // Scratch for the longest segment, in f64 and for each thread.
        "median" => {
            let median = Reducer::Quantile(levelfold::reducer::Quantile::MEDIAN);
            Hierarchy::new(values(1)).level(Level::new("y", Segments::whole(bytes / 4)).reduce(median))
        }
        "text" => text(values(64), bytes / 256),
        "lookup" => text(Leaves::lookup("x", DType::U8, DType::F32, 256, 64), bytes / 256),
        "encoder" => {
            let lengths = vec![24u64; (bytes / 256 / 24) as usize];
            let transformer = Encoder::transformer("x", Transformer::new(4));
            Hierarchy::new(values(64).encode(transformer))
                .level(Level::new("y", Segments::from_lengths(&lengths).unwrap()).reduce(Reducer::Mean))
        }
        // Two levels of encoders: neither is written in whole, nor anything that is made on the way.
        "encoders" => {
            let words = vec![8u64; (bytes / 256 / 8) as usize];
            let sentences = vec![16u64; words.len() / 16];
            let transformer = |level| Encoder::transformer(level, Transformer::new(4));
            Hierarchy::new(values(64).encode(transformer("x")))
                .level(Level::new("word", Segments::from_lengths(&words).unwrap()).reduce(Reducer::Mean).encode(transformer("word")))
                .level(Level::new("sentence", Segments::from_lengths(&sentences).unwrap()).reduce(Reducer::Mean))
        }
        _ => unreachable!("a name from the list"),
    }
}

const CASES: [(&str, OptLevel, u64); 18] = [
    ("flat", OptLevel::O1, 8 << 20),
    ("flat", OptLevel::O1, 96 << 20),
    ("flat", OptLevel::O0, 96 << 20),
    ("ones", OptLevel::O1, 64 << 20),
    ("ones", OptLevel::O0, 64 << 20),
    ("narrow", OptLevel::O0, 12 << 20),
    ("median", OptLevel::O1, 64 << 20),
    ("batches", OptLevel::O1, 48 << 20),
    ("text", OptLevel::O1, 1 << 20),
    ("text", OptLevel::O1, 24 << 20),
    ("text", OptLevel::O1, 128 << 20),
    ("text", OptLevel::O0, 24 << 20),
    ("text", OptLevel::O0, 64 << 20),
    ("lookup", OptLevel::O1, 96 << 20),
    ("lookup", OptLevel::O0, 48 << 20),
    ("encoder", OptLevel::O1, 2 << 20),
    ("encoder", OptLevel::O0, 2 << 20),
    ("encoders", OptLevel::O1, 8 << 20),
];

/// The most memory that this process has had.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system says what a process needs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("kilobytes") << 10
}

/// Runs a plan three times, over memory of its own.
fn run_all(prepared: &Prepared) {
    let plan = prepared.plan();
    let memory = |buffer: &levelfold::plan::Buffer| vec![0x3c3c_3c3c_3c3c_3c3cu64; buffer.bytes().div_ceil(8) as usize];
    let inputs: Vec<_> =
        plan.buffers.iter().filter(|buffer| matches!(buffer.place, Place::Input | Place::Param)).map(|it| (it, memory(it))).collect();
    let mut outputs: Vec<_> = plan.outputs().map(|(_, it)| (it, memory(it))).collect();
    for _ in 0..3 {
        let mut bindings = Bindings::new();
        for (buffer, memory) in &inputs {
            let shape = [buffer.rows as usize, buffer.features as usize];
            let bytes = &bytemuck::cast_slice(memory)[..buffer.bytes() as usize];
            bindings.bind_input(&buffer.name, TensorView::from_bytes(bytes, buffer.dtype, levelfold::Layout::row_major(shape)).unwrap());
        }
        for (buffer, memory) in &mut outputs {
            let shape = [buffer.rows as usize, buffer.features as usize];
            let bytes = &mut bytemuck::cast_slice_mut(memory)[..buffer.bytes() as usize];
            bindings.bind_output(&buffer.name, TensorViewMut::from_bytes(bytes, buffer.dtype, shape).unwrap());
        }
        prepared.run_with(bindings, |_| ()).unwrap();
    }
}

/// Runs one case three times, and prints what the process needed beside what its plan says.
fn run((name, opt, bytes): (&str, OptLevel, u64)) {
    let backend = CpuBackend::builder().threads(2).build().unwrap();
    if name == "batches" {
        // One batch needs scratch, and the next one has rows: what the first leaves behind makes room for them.
        let memory_limit = Some(4 * bytes);
        let engine = Engine::with_options(Box::new(backend), EngineOptions { opt, memory_limit, ..EngineOptions::default() });
        for (name, bytes) in [("median", bytes / 2), ("flat", 2 * bytes)] {
            run_all(&engine.prepare(&hierarchy(name, bytes)).unwrap());
        }
        return println!("{} {}", peak(), 4 * bytes);
    }
    let refused = name == "median";
    let memory_limit = refused.then_some(2 * bytes);
    let engine = Engine::with_options(Box::new(backend), EngineOptions { opt, memory_limit, ..EngineOptions::default() });
    if refused {
        // Its scratch would be six times its rows. What is refused takes nothing first.
        let error = engine.prepare(&hierarchy(name, bytes)).err().expect("more than the limit");
        assert_eq!(error.code(), levelfold::ErrorCode::MemoryLimit, "{error}");
        return println!("{} 0", peak());
    }
    let prepared = engine.prepare(&hierarchy(name, bytes)).unwrap();
    let plan = prepared.plan();
    if name == "encoders" {
        // What words fold to, an eighth of the leaves, and what sentences do.
        assert!(plan.totals.peak_bytes <= bytes / 8 + bytes / 64, "{plan}");
    }
    run_all(&prepared);
    let bound: u64 = plan.inputs().chain(plan.outputs()).map(|(_, buffer)| buffer.bytes()).sum::<u64>()
        + prepared.tables().iter().map(Segments::bytes).sum::<u64>()
        + plan.totals.peak_bytes;
    println!("{} {bound}", peak());
}

fn main() {
    if !cfg!(target_os = "linux") {
        println!("skipped: only Linux says in a file how much memory a process had");
        return;
    }
    if let Some(case) = std::env::var_os("LEVELFOLD_PEAK_CASE") {
        return run(CASES[case.to_str().and_then(|case| case.parse::<usize>().ok()).expect("a number")]);
    }
    let mut failed = false;
    for (index, (name, opt, bytes)) in CASES.into_iter().enumerate() {
        let this = std::env::current_exe().expect("this test");
        let output = std::process::Command::new(this).env("LEVELFOLD_PEAK_CASE", index.to_string()).output().expect("a process");
        let text = String::from_utf8_lossy(&output.stdout);
        let case = format!("{name} {opt:?}, {} MiB of leaves", bytes >> 20);
        assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&output.stderr));
        let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        let [peak, bound] = numbers[..] else { panic!("{case}: {text}") };
        let over = peak.saturating_sub(bound);
        println!("{case}: peak {:.1} MiB, planned {:.1} MiB", peak as f64 / 1048576.0, bound as f64 / 1048576.0);
        failed |= over > BESIDE;
    }
    assert!(!failed, "a process needed more than 16 MiB beside what its plan says");
}

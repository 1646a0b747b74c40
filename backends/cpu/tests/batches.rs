//! Where batches of short segments begin and end, and where work is cut, no bit changes: random levels whose lengths lie around blocks and batches, with
//! segments without rows among them, results past the cache and through it, to memory of every alignment, on every instruction set.

use levelfold::engine::Prepared;
use levelfold::plan::Buffer;
use levelfold::{Bindings, DType, Engine, Hierarchy, Layout, Leaves, Level, OnEmpty, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::{CpuBackend, Isa};
use levelfold_reference::ReferenceBackend;

/// SplitMix64 (G. Steele, D. Lea and C. Flood, 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[(self.next() % items.len() as u64) as usize]
    }
}

/// Lengths of one kind after the other, so that segments without rows, short ones and long ones stand at every place of a batch.
fn lengths(rng: &mut Rng, segments: u64) -> Segments {
    let mut lengths: Vec<u64> = Vec::new();
    while (lengths.len() as u64) < segments {
        let kinds: &[u64] = rng.pick(&[&[0], &[1], &[1, 2, 3, 5, 0], &[16], &[31, 32], &[32], &[33], &[255, 256, 257], &[64, 0, 1]]);
        for _ in 0..1 + rng.next() % 40 {
            lengths.push(rng.pick(kinds));
        }
    }
    lengths.truncate(segments as usize);
    Segments::from_lengths(&lengths).unwrap()
}

/// From one to three levels, the lowest over so many segments.
fn hierarchy(rng: &mut Rng) -> Hierarchy {
    let features = rng.pick(&[16u64, 32, 48, 64, 64, 100, 256, 320]);
    let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
    let leaves = match rng.next() % 3 {
        0 => Leaves::lookup("x", DType::U8, dtype, 256, features),
        _ => Leaves::values("x", dtype, features),
    };
    let mut hierarchy = Hierarchy::new(leaves);
    let mut rows = None;
    let depth = 1 + rng.next() % 3;
    for index in 0..depth {
        let segments = match rows {
            None => {
                let count = 40 + rng.next() % 300;
                lengths(rng, count)
            }
            // The tables above take all rows below, in whatever groups.
            Some(mut left) => {
                let mut lengths = Vec::new();
                while left > 0 {
                    let length = rng.pick(&[0u64, 1, 2, 7, 32, 40, 200]).min(left);
                    lengths.push(length);
                    left -= length;
                }
                lengths.push(0);
                Segments::from_lengths(&lengths).unwrap()
            }
        };
        rows = Some(segments.len());
        let mut level = Level::new(&format!("l{index}"), segments).on_empty(rng.pick(&[OnEmpty::Zero, OnEmpty::Fill(-2.5), OnEmpty::NaN]));
        level = match rng.next() % 8 {
            0 => level.reduce_all(&[Reducer::Mean, Reducer::Max, Reducer::Min]),
            1 => level.reduce(Reducer::Max),
            2 => level.reduce(Reducer::Sum).weights(&format!("w{index}"), dtype),
            3 => level.reduce(Reducer::L2),
            4 => level.reduce(Reducer::Mean).dtype(DType::F32),
            5 => level.reduce(Reducer::Var { ddof: 0 }),
            6 => level.reduce("custom(squares: s from w * x * x by a.s + b.s else 0; sqrt(s))".parse().unwrap()),
            _ => level.reduce(Reducer::Mean),
        };
        hierarchy = hierarchy.level(if !rng.next().is_multiple_of(3) { level.keep() } else { level });
    }
    hierarchy
}

/// Whatever numbers, of every size and sign, or ids. Values of some seeds are now and then none, or infinite, or a zero.
fn data(rng: &mut Rng, buffer: &Buffer, specials: bool) -> Vec<u8> {
    let size = buffer.dtype.size() as u64;
    let is_weight = buffer.name.contains('w');
    let number = |rng: &mut Rng| {
        if specials && !is_weight && rng.next().is_multiple_of(100) {
            return rng.pick(&[f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 0.0, -0.0]);
        }
        (rng.next() % 4001) as f64 / 64.0 - if is_weight { 0.0 } else { 31.0 }
    };
    (0..buffer.bytes() / size)
        .flat_map(|_| match buffer.dtype {
            DType::F32 => (number(rng) as f32).to_ne_bytes().to_vec(),
            DType::F64 => number(rng).to_ne_bytes().to_vec(),
            DType::F16 => half::f16::from_f64(number(rng)).to_ne_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f64(number(rng)).to_ne_bytes().to_vec(),
            _ => rng.next().to_ne_bytes()[..size as usize].to_vec(),
        })
        .collect()
}

/// The bytes of every output, each bound `offset` bytes behind a multiple of 64; what lies before and behind it has to stay.
fn run(prepared: &Prepared, data: &[Vec<u8>], offset: usize) -> Vec<Vec<u8>> {
    let plan = prepared.plan();
    let aligned = |bytes: usize| vec![0x5a5a_5a5a_5a5a_5a5au64; bytes / 8 + 32];
    let start = |memory: &[u64], offset: usize| memory.as_ptr().align_offset(64) * 8 + offset;
    let inputs: Vec<(&Buffer, Vec<u64>)> = plan
        .inputs()
        .zip(data)
        .map(|((_, buffer), bytes)| {
            let mut memory = aligned(bytes.len());
            let start = start(&memory, 0);
            bytemuck::cast_slice_mut(&mut memory)[start..start + bytes.len()].copy_from_slice(bytes);
            (buffer, memory)
        })
        .collect();
    let mut outputs: Vec<(&Buffer, Vec<u64>)> = plan.outputs().map(|(_, buffer)| (buffer, aligned(buffer.bytes() as usize))).collect();
    let mut bindings = Bindings::new();
    let shape = |buffer: &Buffer| [buffer.rows as usize, buffer.features as usize];
    for (buffer, memory) in &inputs {
        let bytes = &bytemuck::cast_slice(memory)[start(memory, 0)..][..buffer.bytes() as usize];
        bindings.bind_input(&buffer.name, TensorView::from_bytes(bytes, buffer.dtype, Layout::row_major(shape(buffer))).unwrap());
    }
    for (buffer, memory) in &mut outputs {
        let start = start(memory, offset);
        let bytes = &mut bytemuck::cast_slice_mut(memory)[start..][..buffer.bytes() as usize];
        bindings.bind_output(&buffer.name, TensorViewMut::from_bytes(bytes, buffer.dtype, shape(buffer)).unwrap());
    }
    prepared.run_with(bindings, |_| ()).unwrap();
    outputs
        .iter()
        .map(|(buffer, memory)| {
            let (start, bytes): (usize, &[u8]) = (start(memory, offset), bytemuck::cast_slice(memory));
            let (before, rest) = bytes.split_at(start);
            let (own, behind) = rest.split_at(buffer.bytes() as usize);
            assert!(before.iter().chain(behind).all(|byte| *byte == 0x5a), "`{}` was written outside", buffer.name);
            own.to_vec()
        })
        .collect()
}

#[test]
fn no_edge_of_a_batch_or_a_task_changes_a_bit() {
    let reference = Engine::new(ReferenceBackend::new());
    let mut cpus = Vec::new();
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (small, stream) in [(0, 0), (u64::MAX, 0), (0, u64::MAX)] {
            let backend = CpuBackend::builder().isa(isa).threads(3).small_bytes(small).stream_bytes(stream).build().unwrap();
            cpus.push((format!("{isa}, small {small}, stream {stream}"), Engine::new(backend)));
        }
    }
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let hierarchy = hierarchy(&mut rng);
        let literal = reference.prepare(&hierarchy).unwrap();
        let data: Vec<Vec<u8>> = literal.plan().inputs().map(|(_, buffer)| data(&mut rng, buffer, seed % 2 == 1)).collect();
        let wanted = run(&literal, &data, 0);
        for (name, cpu) in &cpus {
            let prepared = cpu.prepare(&hierarchy).unwrap();
            // Elements have at most 8 bytes; past the cache, 16 and 64 matter.
            for offset in [0, 16, 32, 48, 8] {
                assert!(
                    run(&prepared, &data, offset) == wanted,
                    "seed {seed}, {name}, outputs {offset} bytes behind a line: {hierarchy:?}"
                );
            }
        }
    }
}

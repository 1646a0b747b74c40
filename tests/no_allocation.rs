//! Nothing is allocated after the first run of an executable: counted by the global allocator of this test, which therefore has a file of its
//! own.

use levelfold::plan::Place;
use levelfold::spec::{Encoder, Transformer};
use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of each of some runs after the first, over text of four levels with a table lookup.
fn allocations_of_runs(backend: CpuBackend, runs: usize) -> Vec<u64> {
    let words = vec![5u64; 4000];
    let hierarchy = Hierarchy::new(Leaves::lookup("char", DType::U8, DType::F32, 256, 64))
        .level(Level::new("word", Segments::from_lengths(&words).unwrap()).reduce(Reducer::Mean))
        .level(Level::new("sentence", Segments::from_lengths(&[2000u64, 2000]).unwrap()).reduce_all(&[Reducer::Mean, Reducer::Max]).keep())
        .level(Level::new("corpus", Segments::from_lengths(&[2u64]).unwrap()).reduce(Reducer::Sum));
    let prepared = Engine::new(backend).prepare(&hierarchy).unwrap();
    let ids = vec![7u8; 20_000];
    let table = vec![0.5f32; 256 * 64];
    let (mut sentences, mut corpus) = (vec![0f32; 2 * 128], vec![0f32; 128]);
    (0..=runs)
        .map(|_| {
            let bindings = Bindings::new()
                .input("char.ids", TensorView::from_column(&ids))
                .input("char.table", TensorView::from_slice(&table, [256, 64]).unwrap())
                .output("sentence", TensorViewMut::from_slice(&mut sentences, [2, 128]).unwrap())
                .output("corpus", TensorViewMut::from_slice(&mut corpus, [1, 128]).unwrap());
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            prepared.run_with(bindings, |_| ()).unwrap();
            ALLOCATIONS.load(Ordering::Relaxed) - before
        })
        .skip(1)
        .collect()
}

/// The same over transformers at two levels, with whatever parameters.
fn allocations_of_encoders(backend: CpuBackend, runs: usize) -> Vec<u64> {
    let hierarchy = Hierarchy::new(Leaves::values("char", DType::F32, 32).encode(Encoder::transformer("char", Transformer::new(4))))
        .level(
            Level::new("word", Segments::from_lengths(&vec![5u64; 400]).unwrap())
                .encode(Encoder::transformer("word", Transformer::new(2)))
                .reduce(Reducer::Mean),
        )
        .level(Level::new("text", Segments::from_lengths(&[300u64, 100]).unwrap()).reduce(Reducer::Mean));
    let prepared = Engine::new(backend).prepare(&hierarchy).unwrap();
    let inputs: Vec<_> = prepared
        .plan()
        .buffers
        .iter()
        .filter(|buffer| matches!(buffer.place, Place::Input | Place::Param))
        .map(|buffer| {
            let shape = [buffer.rows as usize, buffer.features as usize];
            (buffer.name.to_string(), shape, vec![0.01f32; shape[0] * shape[1]])
        })
        .collect();
    let mut text = [0f32; 64];
    (0..=runs)
        .map(|_| {
            let mut bindings = Bindings::new().output("text", TensorViewMut::from_slice(&mut text, [2, 32]).unwrap());
            for (name, shape, values) in &inputs {
                bindings = bindings.input(name, TensorView::from_slice(values, *shape).unwrap());
            }
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            prepared.run_with(bindings, |_| ()).unwrap();
            ALLOCATIONS.load(Ordering::Relaxed) - before
        })
        .skip(1)
        .collect()
}

/// A pool of two threads that have both begun: what a thread allocates for itself when it first looks for work is its own.
fn pool_at_work() -> Arc<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for _ in 0..2 {
        pool.broadcast(|_| std::thread::sleep(std::time::Duration::from_millis(1)));
    }
    Arc::new(pool)
}

/// One test, and without the harness, whose own thread allocates beside the first runs.
fn main() {
    let alone = allocations_of_runs(CpuBackend::builder().threads(1).build().unwrap(), 100);
    assert_eq!(alone.iter().sum::<u64>(), 0, "one thread: {alone:?}");
    let encoders = allocations_of_encoders(CpuBackend::builder().threads(1).build().unwrap(), 20);
    // The check of bindings lists the names of more than eight inputs: that one list, and nothing in the backend.
    assert!(encoders.iter().all(|&allocations| allocations <= 1), "encoders, one thread: {encoders:?}");
    // On several threads nothing of ours is allocated either. rayon's queue takes a new block for every 63 jobs that are handed over from outside
    // its pool: that much is allowed, and no more.
    let spread = allocations_of_runs(CpuBackend::builder().pool(pool_at_work()).small_bytes(0).build().unwrap(), 126);
    let handed_over = 4 * 126;
    assert!(spread.iter().sum::<u64>() <= handed_over / 63 + 1, "two threads: {spread:?}");
    assert!(spread.iter().all(|&allocations| allocations <= 1), "two threads: {spread:?}");
    // Three threads, a helper among them, allocate when they begin, which may be during any run: a handful each, and nothing else.
    let helped = allocations_of_runs(CpuBackend::builder().threads(2).small_bytes(0).build().unwrap(), 126);
    assert!(helped.iter().sum::<u64>() <= 16, "a helper: {helped:?}");
}

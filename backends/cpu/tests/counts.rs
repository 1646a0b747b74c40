//! Segments that are cut: what their pieces leave takes no more memory than was promised, and changes no bit.

use half::f16;
use levelfold::{Bindings, DType, Engine, EngineOptions, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;

/// The sums of looked-up rows by counts, and the scratch that was promised and that there was.
fn sums(threads: usize, lengths: &[u64]) -> (Vec<f32>, [u64; 2]) {
    const ROWS: usize = 2000;
    let backend = CpuBackend::builder().threads(threads).small_bytes(0).build().unwrap();
    let engine = Engine::with_options(Box::new(backend), EngineOptions { opt: OptLevel::O2, ..EngineOptions::default() });
    let leaves = Leaves::lookup("c", DType::U16, DType::F32, ROWS as u64, 16);
    let level = Level::new("y", Segments::from_lengths(lengths).unwrap()).reduce(Reducer::Sum);
    let prepared = engine.prepare(&Hierarchy::new(leaves).level(level)).unwrap();
    assert!(prepared.plan().to_string().contains("by counts"), "{}", prepared.plan());
    let promised = prepared.scratch_bytes();
    let count: u64 = lengths.iter().sum();
    let ids: Vec<u16> = (0..count).map(|row| (row * row % ROWS as u64) as u16).collect();
    let table: Vec<f32> = (0..ROWS * 16).map(|index| 1.0 / (1 + index) as f32).collect();
    let mut out = vec![0f32; lengths.len() * 16];
    let bindings = Bindings::new()
        .input("c.ids", TensorView::from_slice(&ids, [ids.len(), 1]).unwrap())
        .input("c.table", TensorView::from_slice(&table, [ROWS, 16]).unwrap())
        .output("y", TensorViewMut::from_slice(&mut out, [lengths.len(), 16]).unwrap());
    prepared.run(bindings).unwrap();
    (out, [promised, prepared.scratch_bytes()])
}

#[test]
fn counts_of_pieces_are_in_the_scratch_that_is_promised() {
    for lengths in [&[150_000][..], &[70_000, 1, 90_000], &[9000, 9000, 50_000, 40_000]] {
        let (wanted, _) = sums(1, lengths);
        for threads in [2, 3, 16] {
            let (found, [promised, taken]) = sums(threads, lengths);
            assert_eq!(found, wanted, "{threads} threads, {lengths:?}");
            assert!(taken <= promised, "{taken} bytes of scratch where {promised} were promised: {threads} threads, {lengths:?}");
        }
    }
    // Where nobody works beside it, nothing is cut.
    let (_, [promised, taken]) = sums(1, &[150_000]);
    assert_eq!(promised, taken);
}

/// The results of a reducer over rows of f16, and the scratch that was promised and that there was.
fn folded(threads: usize, lengths: &[u64], features: usize, reducer: &Reducer) -> (Vec<f16>, [u64; 2]) {
    let engine = Engine::new(CpuBackend::builder().threads(threads).small_bytes(0).build().unwrap());
    let level = Level::new("y", Segments::from_lengths(lengths).unwrap()).reduce(reducer.clone());
    let prepared = engine.prepare(&Hierarchy::new(Leaves::values("x", DType::F16, features as u64)).level(level)).unwrap();
    let promised = prepared.scratch_bytes();
    let rows = lengths.iter().sum::<u64>() as usize;
    let x: Vec<f16> = (0..rows * features).map(|index| f16::from_f32((index % 37) as f32 - 18.0)).collect();
    let mut out = vec![f16::ZERO; lengths.len() * features];
    let bindings = Bindings::new()
        .input("x", TensorView::from_slice(&x, [rows, features]).unwrap())
        .output("y", TensorViewMut::from_slice(&mut out, [lengths.len(), features]).unwrap());
    prepared.run(bindings).unwrap();
    (out, [promised, prepared.scratch_bytes()])
}

#[test]
fn partials_of_pieces_are_in_the_scratch_that_is_promised() {
    for reducer in [Reducer::Sum, Reducer::Var { ddof: 0 }] {
        for (lengths, features) in [(&[4000][..], 300), (&[700, 1, 900], 300), (&[33, 40_000, 64], 7)] {
            let (wanted, _) = folded(1, lengths, features, &reducer);
            for threads in [2, 3, 16] {
                let (found, [promised, taken]) = folded(threads, lengths, features, &reducer);
                assert_eq!(found, wanted, "{reducer}, {threads} threads, {lengths:?}");
                assert!(taken <= promised, "{taken} bytes of scratch, {promised} promised: {reducer}, {threads} threads, {lengths:?}");
            }
        }
    }
}

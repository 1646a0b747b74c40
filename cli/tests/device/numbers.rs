//! The conversions that are left to the device's own instructions, which no shim can stand for: every f16, and f32 around every midpoint of f16 and bf16.

use super::device;
use half::{bf16, f16};
use levelfold::backend::Backend;
use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_reference::ReferenceBackend;

/// Folds segments of one row each: what comes out is the row, converted to the accumulator's type and from there to `to`.
fn converted(backend: Box<dyn Backend>, from: TensorView<'_>, to: DType) -> Vec<u8> {
    let [rows, features] = from.shape();
    let segments = Segments::from_lengths(&vec![1u64; rows]).expect("lengths");
    let hierarchy = Hierarchy::new(Leaves::values("x", from.dtype(), u64::try_from(features).expect("few")))
        .level(Level::new("y", segments).reduce(Reducer::Sum).dtype(to));
    let mut bytes = vec![0u8; rows * features * to.size()];
    let out = TensorViewMut::from_bytes(&mut bytes, to, [rows, features]).expect("a view");
    Engine::new(backend).prepare(&hierarchy).expect("a plan").run(Bindings::new().input("x", from).output("y", out)).expect("a run");
    bytes
}

fn same(backend: &levelfold_cuda::CudaBackend, what: &str, from: TensorView<'_>, to: DType) {
    let found = converted(Box::new(backend.clone()), from, to);
    let wanted = converted(Box::new(ReferenceBackend::new()), from, to);
    let size = to.size();
    let different = found.chunks_exact(size).zip(wanted.chunks_exact(size)).position(|(found, wanted)| found != wanted);
    assert_eq!(different, None, "{what}: the first element that differs: {:?}", different.map(|at| &found[at * size..][..size]));
    println!("{what}: {} numbers, equal bits", found.len() / size);
}

#[test]
fn every_half_widens_and_every_midpoint_rounds_as_it_should() {
    let Some(backend) = device() else { return };
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    let shape = [4096, 16];
    same(&backend, "f16 to f32", TensorView::from_slice(&halves, shape).expect("a view"), DType::F32);
    same(&backend, "bf16 to f32", TensorView::from_slice(&brains, shape).expect("a view"), DType::F32);
    // A 16-bit number, what lies half-way to the next one, and the neighbours of that in f32.
    let mut around = Vec::new();
    for bits in 0..=u16::MAX {
        let half = f16::from_bits(bits);
        let (low, high) = (half.to_f32(), f16::from_bits(bits.wrapping_add(1)).to_f32());
        let middle = if half.is_nan() { low } else { f32::midpoint(low, high) };
        around.extend([middle, f32::from_bits(middle.to_bits().wrapping_sub(1)), f32::from_bits(middle.to_bits().wrapping_add(1))]);
        let middle = u32::from(bits) << 16 | 0x8000;
        around.extend([middle - 1, middle, middle + 1].map(f32::from_bits));
    }
    let shape = [around.len() / 32, 32];
    for to in [DType::F16, DType::BF16] {
        same(&backend, &format!("f32 to {to}"), TensorView::from_slice(&around, shape).expect("a view"), to);
    }
}

//! The CUDA source of the elementary functions gives the bits of the Rust one: compiled for this machine by g++, over millions of numbers.

use levelfold::numerics::elementary::{self, Elementary};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const HARNESS: &str = r"
#include <cstdio>
#include <vector>
#define ALL(F) { \
    std::vector<F> x(count), y(count); \
    if (fread(x.data(), sizeof(F), count, stdin) != count) return 1; \
    F (*functions[])(F) = { lf_exp<F>, lf_log<F>, lf_tanh<F>, lf_sigmoid<F>, lf_erf<F>, lf_gelu<F>, lf_gelu_tanh<F>, lf_silu<F>, lf_sin<F>, lf_cos<F> }; \
    for (auto function : functions) { \
        for (size_t i = 0; i < count; i++) y[i] = function(x[i]); \
        if (fwrite(y.data(), sizeof(F), count, stdout) != count) return 1; \
    } }
int main() {
    unsigned long long count;
    if (fread(&count, 8, 1, stdin) != 1) return 1;
    ALL(float)
    ALL(double)
    return 0;
}
";

const NAMES: [&str; 10] = ["exp", "log", "tanh", "sigmoid", "erf", "gelu", "gelu_tanh", "silu", "sin", "cos"];

fn functions<A: Elementary>() -> [fn(A) -> A; 10] {
    [
        elementary::exp,
        elementary::log,
        elementary::tanh,
        elementary::sigmoid,
        elementary::erf,
        elementary::gelu,
        elementary::gelu_tanh,
        elementary::silu,
        elementary::sin,
        elementary::cos,
    ]
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Any bits, numbers where functions are not flat, and edges.
fn inputs(count: usize) -> (Vec<f32>, Vec<f64>) {
    let mut state = 11;
    let mut singles =
        vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1.0, 2147483648.0];
    let mut doubles =
        vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, f64::MAX, f64::MIN_POSITIVE, 1.0, 2147483648.0];
    while singles.len() < count {
        let bits = splitmix(&mut state);
        let spread = (splitmix(&mut state) >> 11) as f64 * 2f64.powi(-52) - 1.0;
        let scale = [1.0, 8.0, 110.0, 800.0][singles.len() / 2 % 4];
        singles.extend([f32::from_bits((bits >> 32) as u32), (spread * scale) as f32]);
        doubles.extend([f64::from_bits(bits), spread * scale]);
    }
    singles.truncate(count);
    doubles.truncate(count);
    (singles, doubles)
}

fn compare<A: Elementary>(inputs: &[A], output: &mut impl Iterator<Item = A>) {
    for (name, function) in NAMES.iter().zip(functions::<A>()) {
        for x in inputs {
            let (wanted, got) = (function(*x), output.next().expect("a result for each input"));
            let (wanted, got) = (bits_of(wanted), bits_of(got));
            assert!(wanted == got, "{} {name}({x:?}): {got:#x} in CUDA source, {wanted:#x} in Rust", A::DTYPE);
        }
    }
}

fn bits_of<A: Elementary>(x: A) -> u64 {
    bytemuck::bytes_of(&x).iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

#[test]
fn cuda_source_gives_the_same_bits() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("backends/cuda/kernels/elementary.cu");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join("elementary_cuda");
    let harness = folder.join("elementary_cuda.cpp");
    std::fs::write(&harness, format!("#include {source:?}\n{HARNESS}")).expect("written");
    let compiled = Command::new("g++")
        .args(["-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-o"])
        .arg(&program)
        .arg(&harness)
        .output()
        .expect("g++ is installed");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let count = 1 << 20;
    let (singles, doubles) = inputs(count);
    let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = [&(count as u64).to_le_bytes()[..], bytemuck::cast_slice(&singles), bytemuck::cast_slice(&doubles)].concat();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("ended");
    writer.join().expect("joined").expect("all was read");
    assert!(output.status.success());
    let (first, second) = output.stdout.split_at(count * 4 * NAMES.len());
    compare(&singles, &mut first.chunks_exact(4).map(bytemuck::pod_read_unaligned));
    compare(&doubles, &mut second.chunks_exact(8).map(bytemuck::pod_read_unaligned));
}

//! Every kernel is compiled for real devices by the real NVRTC, which needs none. What each takes of a device is a snapshot: no register is ever
//! spilled to memory.

use crate::specs;
use levelfold_cuda::spec::{COMPILE_OPTIONS, KernelSpec};
use levelfold_cuda_shim::{NVRTC_VERSION, Nvrtc, nvrtc_wheel, skip};
use std::fmt::Write;

const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

#[test]
fn kernels_compile_for_devices_and_spill_nothing() {
    let nvrtc = match nvrtc_wheel().and_then(|folder| Nvrtc::open(&folder)) {
        Ok(nvrtc) => nvrtc,
        Err(reason) => return skip("compiling for devices", &reason),
    };
    let mut table = format!(
        "NVRTC {NVRTC_VERSION}. Dynamic shared memory; then for each of {}: registers, static shared memory, local memory.\n\n",
        ARCHITECTURES.join(", ")
    );
    let folds = specs::all().into_iter().map(|named| (named.name, KernelSpec::Fold(named.spec)));
    let (mut kernels, mut spilled) = (0, Vec::new());
    for (name, spec) in folds.chain([("moves", KernelSpec::Moves)]) {
        let mut options: Vec<String> = COMPILE_OPTIONS.iter().map(|&option| option.to_owned()).collect();
        options.extend(spec.defines());
        let mut of_kernels: Vec<(String, Vec<String>)> = Vec::new();
        for architecture in ARCHITECTURES {
            let resources =
                nvrtc.resources(spec.source(), &options, architecture).unwrap_or_else(|log| panic!("{name} for {architecture}: {log}"));
            for one in resources {
                kernels += 1;
                if one.spill_stores + one.spill_loads > 0 {
                    spilled.push(format!("{name}: {} for {architecture}: {} + {} bytes", one.kernel, one.spill_stores, one.spill_loads));
                }
                let shown = format!("{:>3} {:>5} {:>5}", one.registers, one.shared, one.stack);
                match of_kernels.iter_mut().find(|(kernel, _)| *kernel == one.kernel) {
                    Some((_, shown_before)) => shown_before.push(shown),
                    None => of_kernels.push((one.kernel, vec![shown])),
                }
            }
        }
        of_kernels.sort();
        for (kernel, shown) in of_kernels {
            let name = if kernel == "lf_fold" { name.to_owned() } else { kernel };
            let dynamic = match &spec {
                KernelSpec::Fold(fold) => fold.shared_bytes(),
                KernelSpec::Moves => 0,
            };
            writeln!(table, "{name:<46} {dynamic:>6}  |{}", shown.join("  |")).expect("a string");
        }
    }
    assert!(spilled.is_empty(), "registers are spilled:\n{}", spilled.join("\n"));
    insta::assert_snapshot!("resources", table);
    println!("{kernels} kernels compiled for {} architectures, none spills", ARCHITECTURES.len());
}

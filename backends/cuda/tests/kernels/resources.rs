//! Every kernel is compiled for real devices by the real NVRTC, which needs none. What each takes of a device is a snapshot: no register is ever
//! spilled to memory.

use crate::specs;
use levelfold::Reducer;
use levelfold_cuda::spec::{COMPILE_OPTIONS, KernelSpec};
use levelfold_cuda_shim::{NVRTC_VERSION, Nvrtc, Resources, nvrtc_wheel, skip};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_100"];

/// What each kernel takes of each architecture: compiled on several threads.
fn compiled(nvrtc: &Nvrtc, all: &[(String, KernelSpec)]) -> Vec<Vec<Vec<Resources>>> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![Vec::new(); all.len()]));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(all.len()) {
            scope.spawn(|| {
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some((name, spec)) = all.get(index)
                {
                    let mut options: Vec<String> = COMPILE_OPTIONS.iter().map(|&option| option.to_owned()).collect();
                    options.extend(spec.defines());
                    let of = |architecture: &str| {
                        let resources = nvrtc.resources(&spec.source(), &options, architecture);
                        resources.unwrap_or_else(|log| panic!("{name} for {architecture}: {log}"))
                    };
                    let made = ARCHITECTURES.map(of).to_vec();
                    found.lock().unwrap_or_else(PoisonError::into_inner)[index] = made;
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

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
    let folds = specs::all().into_iter().map(|named| (named.name.to_owned(), KernelSpec::Fold(named.spec)));
    // One of each form: the others differ in an operation.
    let finishes = specs::all_finishing().into_iter().filter_map(|spec| match &spec {
        KernelSpec::FinishStates(Reducer::Custom(custom)) if custom.components().len() > 2 => {
            Some((format!("{} of long segments", custom.name()), spec))
        }
        KernelSpec::FinishStates(
            reducer @ (Reducer::Var { .. } | Reducer::L2 | Reducer::Count | Reducer::ArgMax | Reducer::LogSumExp | Reducer::SoftMax),
        ) => Some((format!("{reducer} of long segments"), spec)),
        KernelSpec::FinishOperated { reducer, dtype, ops } if ops.len() > 1 => {
            let ops: Vec<String> = ops.iter().map(ToString::to_string).collect();
            Some((format!("{reducer} to {dtype}, {}, of long segments", ops.join(", ")), spec))
        }
        KernelSpec::FinishStates(_) | KernelSpec::FinishOperated { .. } | KernelSpec::Fold(_) | KernelSpec::Moves | KernelSpec::Maps => {
            None
        }
    });
    let all: Vec<(String, KernelSpec)> =
        folds.chain(finishes).chain([("moves".to_owned(), KernelSpec::Moves), ("maps".to_owned(), KernelSpec::Maps)]).collect();
    let compiled = compiled(&nvrtc, &all);
    let (mut kernels, mut spilled) = (0, Vec::new());
    for ((name, spec), resources) in all.iter().zip(compiled) {
        let mut of_kernels: Vec<(String, Vec<String>)> = Vec::new();
        for (architecture, resources) in ARCHITECTURES.iter().zip(resources) {
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
            let name = if matches!(spec, KernelSpec::Moves | KernelSpec::Maps) { kernel } else { name.clone() };
            let dynamic = match spec {
                KernelSpec::Fold(fold) => fold.shared_bytes(),
                KernelSpec::FinishStates(_) | KernelSpec::FinishOperated { .. } | KernelSpec::Moves | KernelSpec::Maps => 0,
            };
            writeln!(table, "{name:<46} {dynamic:>6}  |{}", shown.join("  |")).expect("a string");
        }
    }
    assert!(spilled.is_empty(), "registers are spilled:\n{}", spilled.join("\n"));
    insta::assert_snapshot!("resources", table);
    report!("{kernels} kernels compiled for {} architectures, none spills", ARCHITECTURES.len());
}

/// What the driver compiles for devices that NVRTC does not know: every product and sum says how it is rounded, so the driver cannot fuse them.
#[test]
fn the_text_for_later_devices_says_how_each_operation_rounds() {
    let nvrtc = match nvrtc_wheel().and_then(|folder| Nvrtc::open(&folder)) {
        Ok(nvrtc) => nvrtc,
        Err(reason) => return skip("compiling to PTX", &reason),
    };
    let all = specs::all();
    let spec = KernelSpec::Fold(all.iter().find(|named| named.name == "f32 weighted mean, by 8").expect("the kernel").spec.clone());
    let mut options: Vec<String> = COMPILE_OPTIONS.iter().map(|&option| option.to_owned()).collect();
    options.extend(spec.defines());
    let operations = |options: &[String]| -> Vec<String> {
        let ptx = nvrtc.ptx(&spec.source(), options, "compute_90").unwrap_or_else(|log| panic!("{log}"));
        assert!(ptx.contains(".target sm_90") && ptx.contains("lf_fold"), "{ptx}");
        let words = ptx.lines().filter_map(|line| line.split_whitespace().next());
        words
            .filter(|word| (word.ends_with(".f32") || word.ends_with(".f64")) && ["add", "sub", "mul", "fma"].contains(&&word[..3]))
            .map(str::to_owned)
            .collect()
    };
    let found = operations(&options);
    let rounded = |word: &String| word.contains(".rn.") && !word.starts_with("fma");
    assert!(!found.is_empty() && found.iter().all(rounded), "{found:?}");
    // Without the option, they are not.
    options.retain(|option| option != "--fmad=false");
    assert!(!operations(&options).iter().all(rounded));
}

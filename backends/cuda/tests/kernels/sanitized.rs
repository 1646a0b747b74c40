//! Kernels under AddressSanitizer and UndefinedBehaviorSanitizer: in a process of their own, which has the sanitizer's library under it, as memory is taken by
//! this side and touched by theirs.

use crate::faults::{FAULTS_OF_MEMORY, caught};
use crate::{check, compile, compile_fold, each_kernel, maps, moves, seeds, shim, unchanged};
use levelfold_cuda::spec::KernelSpec;
use levelfold_cuda_shim::{Flavour, Libraries, libraries, skip};
use std::path::Path;
use std::process::{Command, Output};

/// What the child does: `all`, or the number of a fault.
const ROLE: &str = "LEVELFOLD_SANITIZED_KERNELS";

/// Runs this test again, under the sanitizer.
fn child(test: &str, role: &str, sanitizer: &Path) -> Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env("LD_PRELOAD", sanitizer)
        .env("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=0:exitcode=99")
        .env("UBSAN_OPTIONS", "print_stacktrace=0")
        .output()
        .expect("it runs again")
}

fn sanitizer() -> Result<std::path::PathBuf, String> {
    libraries(Flavour::Sanitized)?;
    Libraries::sanitizer()
}

#[test]
fn kernels_are_clean_under_sanitizers() {
    if std::env::var_os(ROLE).is_some() {
        return clean();
    }
    let sanitizer = match sanitizer() {
        Ok(sanitizer) => sanitizer,
        Err(reason) => return skip("sanitizers", &reason),
    };
    let output = child("sanitized::kernels_are_clean_under_sanitizers", "all", &sanitizer);
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    let counts = said.lines().find_map(|line| line.split_once("sanitized: ")).expect("the child counts").1;
    report!("{counts}");
}

fn clean() {
    let shim = shim(Flavour::Sanitized).expect("built before");
    let moves = compile(&shim, &KernelSpec::Moves, &KernelSpec::Moves.source()).expect("the moves compile");
    let copies = moves::copies(&moves, 0xc0b1_0000..0xc0b1_0014).unwrap_or_else(|error| panic!("{error}"));
    let module = compile(&shim, &KernelSpec::Maps, &KernelSpec::Maps.source()).expect("the maps compile");
    let (mapped, _) = maps::maps(&module, maps::SEEDS..maps::SEEDS + 60).unwrap_or_else(|error| panic!("{error}"));
    let (kernels, cases, _) = each_kernel(|index, named| {
        let compiled = compile_fold(&shim, named, unchanged)?;
        check(named, &compiled, &moves, seeds(index, 8))
    });
    println!(
        "sanitized: {kernels} fold kernels, the moves and the maps, 3 schedules, {} cases under AddressSanitizer and UndefinedBehaviorSanitizer, nothing to report",
        cases + copies + mapped
    );
}

#[test]
fn planted_faults_of_memory_are_caught() {
    if let Some(role) = std::env::var_os(ROLE) {
        let number: usize = role.to_string_lossy().parse().expect("the number of a fault");
        let shim = shim(Flavour::Sanitized).expect("built before");
        let error = caught(&shim, &FAULTS_OF_MEMORY[number], crate::CASES);
        return println!("the sanitizer let it pass: {error:?}");
    }
    let sanitizer = match sanitizer() {
        Ok(sanitizer) => sanitizer,
        Err(reason) => return skip("planted faults of memory", &reason),
    };
    for (number, fault) in FAULTS_OF_MEMORY.iter().enumerate() {
        let output = child("sanitized::planted_faults_of_memory_are_caught", &number.to_string(), &sanitizer);
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && errors.contains(fault.says), "{}: not caught\n{said}\n{errors}", fault.name);
        let line = errors.lines().find(|line| line.contains(fault.says)).unwrap_or_default();
        println!("{}: caught by {}", fault.name, line.trim());
    }
}

//! The kernels, each for itself and without a GPU: run on the CPU by the shim under several schedules and held against an oracle, bit by bit.

mod case;
mod faults;
mod memory;
mod moves;
mod oracle;
mod random;
mod resources;
mod run;
mod sanitized;
mod specs;

use case::Case;
use levelfold_cuda::spec::{COMPILE_OPTIONS, KernelSpec};
use levelfold_cuda_shim::{Flavour, Module, Schedule, Shim, libraries, skip};
use random::Random;
use run::{Count, Kernels};

fn shim(flavour: Flavour) -> Result<Shim, String> {
    Shim::open(&libraries(flavour)?)
}

/// Compiles a kernel as the backend does, from a source that may have been changed.
fn compile(shim: &Shim, spec: &KernelSpec, source: &str) -> Result<Module, String> {
    let mut options: Vec<String> = COMPILE_OPTIONS.iter().map(|&option| option.to_owned()).collect();
    options.extend(spec.defines());
    shim.compile(source, &options)
}

/// The three orders in which threads go.
fn schedules(seed: u64) -> [Schedule; 3] {
    [Schedule::Forward, Schedule::Reverse, Schedule::Random(seed)]
}

/// Runs cases of one spec under all schedules.
fn check(named: &specs::Named, fold: &Module, moves: &Module, seeds: std::ops::Range<u64>) -> Result<(Count, u64), String> {
    let (mut total, mut cases) = (Count::default(), 0);
    for seed in seeds {
        let mut random = Random(seed);
        let mut case = Case::random(&named.spec, &mut random);
        let kernels = Kernels { fold, moves, radix: random.pick(&[2, 8, 256]) };
        for schedule in schedules(seed) {
            let count = run::run(&named.spec, &mut case, &kernels, schedule)
                .map_err(|error| format!("{}, seed {seed:#x}, {schedule:?}: {error}", named.name))?;
            total.launches += count.launches;
            total.values += count.values;
        }
        cases += 1;
    }
    Ok((total, cases))
}

/// Cases of a kernel.
const CASES: u64 = 24;

/// Seeds of a spec: its own, so that no two specs have the same cases.
fn seeds(index: usize, count: u64) -> std::ops::Range<u64> {
    let first = 0x5eed_0000 + 1000 * index as u64;
    first..first + count
}

#[test]
fn every_kernel_gives_the_wanted_bits_under_every_schedule() {
    let shim = match shim(Flavour::Plain) {
        Ok(shim) => shim,
        Err(reason) => return skip("kernels on the CPU", &reason),
    };
    let moves = compile(&shim, &KernelSpec::Moves, KernelSpec::Moves.source()).expect("the moves compile");
    let (mut kernels, mut cases, mut total) = (0, 0, Count::default());
    for (index, named) in specs::all().iter().enumerate() {
        let spec = KernelSpec::Fold(named.spec.clone());
        let fold = compile(&shim, &spec, spec.source()).unwrap_or_else(|log| panic!("{}: {log}", named.name));
        let (count, done) = check(named, &fold, &moves, seeds(index, CASES)).unwrap_or_else(|error| panic!("{error}"));
        kernels += 1;
        cases += done;
        total.launches += count.launches;
        total.values += count.values;
    }
    println!(
        "{kernels} fold kernels, 3 schedules, {cases} cases, {} launches, {} values: all bits as wanted",
        total.launches, total.values
    );
}

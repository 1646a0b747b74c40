//! The kernels, each for itself and without a GPU: run on the CPU by the shim under several schedules and held against an oracle, bit by bit.

/// Says what ran, also where tests pass: a test's own output is shown only where it fails.
macro_rules! report {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod case;
mod faults;
mod maps;
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

/// What a fold runs: its kernel, and the second passes of what its topmost stage makes.
struct Compiled {
    fold: Module,
    finish: Vec<(KernelSpec, Module)>,
}

/// Compiles a fold, from sources that `change` may change.
fn compile_fold(shim: &Shim, named: &specs::Named, change: impl Fn(&KernelSpec) -> String) -> Result<Compiled, String> {
    let compile = |spec: &KernelSpec| compile(shim, spec, &change(spec)).map_err(|log| format!("{}: {log}", named.name));
    let fold = compile(&KernelSpec::Fold(named.spec.clone()))?;
    let finish = specs::finishing(&named.spec).into_iter().map(|spec| compile(&spec).map(|module| (spec, module)));
    Ok(Compiled { fold, finish: finish.collect::<Result<Vec<_>, String>>()? })
}

/// A source as it is.
fn unchanged(spec: &KernelSpec) -> String {
    spec.source().into_owned()
}

/// The three orders in which threads go.
fn schedules(seed: u64) -> [Schedule; 3] {
    [Schedule::Forward, Schedule::Reverse, Schedule::Random(seed)]
}

/// Runs cases of one spec under all schedules.
fn check(named: &specs::Named, compiled: &Compiled, moves: &Module, seeds: std::ops::Range<u64>) -> Result<(Count, u64), String> {
    let (mut total, mut cases) = (Count::default(), 0);
    for seed in seeds {
        let mut random = Random(seed);
        let mut case = Case::random(&named.spec, &mut random);
        let kernels = Kernels { fold: &compiled.fold, moves, finish: &compiled.finish, radix: random.pick(&[2, 8, 256]) };
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

/// Does something with every kernel, on several threads: most of the time compilers run.
fn each_kernel(f: impl Fn(usize, &specs::Named) -> Result<(Count, u64), String> + Sync) -> (usize, u64, Count) {
    let (all, next) = (specs::all(), std::sync::atomic::AtomicUsize::new(0));
    let sum = std::sync::Mutex::new((0, 0, Count::default()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(all.len()) {
            scope.spawn(|| {
                while let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                    && let Some(named) = all.get(index)
                {
                    let (count, cases) = f(index, named).unwrap_or_else(|error| panic!("{error}"));
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.0 += 1;
                    sum.1 += cases;
                    sum.2.launches += count.launches;
                    sum.2.values += count.values;
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
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
    let moves = compile(&shim, &KernelSpec::Moves, &KernelSpec::Moves.source()).expect("the moves compile");
    let (kernels, cases, total) = each_kernel(|index, named| {
        let compiled = compile_fold(&shim, named, unchanged)?;
        check(named, &compiled, &moves, seeds(index, CASES))
    });
    report!("{kernels} fold kernels, 3 schedules, {cases} cases, {} launches, {} values: all bits as wanted", total.launches, total.values);
}

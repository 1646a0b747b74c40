//! The CPU backend passes what every backend must, with any number of threads.

use levelfold_conformance::{Config, registry};
use levelfold_cpu::CpuBackend;

/// However small, every step is cut and spread once there are several threads: the sizes at which that pays are for benchmarks.
fn cpu(config: &Config) -> levelfold::Result<CpuBackend> {
    let mut cpu = CpuBackend::builder().registry(registry());
    if let Some(threads) = config.threads {
        cpu = cpu.threads(threads).small_bytes(0);
    }
    if let Some(byte) = config.poison {
        cpu = cpu.poison(byte);
    }
    cpu.build()
}

levelfold_conformance::conformance_tests!(try cpu, threads: [1, 2, 3, 7]);

//! Every instruction set passes what every backend must: the widest that the machine has is what `conformance.rs` runs on.

use levelfold_conformance::{Config, registry};
use levelfold_cpu::{CpuBackend, Isa};

/// With the threads of the configuration, or two, everything cut and spread, and every output written past the cache.
fn cpu(isa: Isa, config: &Config) -> levelfold::Result<CpuBackend> {
    let mut cpu = CpuBackend::builder().registry(registry()).isa(isa).threads(config.threads.unwrap_or(2)).small_bytes(0).stream_bytes(0);
    if let Some(byte) = config.poison {
        cpu = cpu.poison(byte);
    }
    cpu.build()
}

mod baseline {
    use super::*;
    levelfold_conformance::conformance_tests!(try |config: &Config| cpu(Isa::Baseline, config));
}

mod avx2 {
    use super::*;
    levelfold_conformance::conformance_tests!(try |config: &Config| cpu(Isa::Avx2, config));
}

mod avx512 {
    use super::*;
    levelfold_conformance::conformance_tests!(try |config: &Config| cpu(Isa::Avx512, config));
}

//! What the machine has: memory to use, and memory used.

use std::fs;

/// Where the system does not say how much memory is free.
const UNKNOWN: u64 = 2 << 30;

/// Half of the memory that is free now.
pub(crate) fn default_memory_limit() -> u64 {
    let machine = field("/proc/meminfo", "MemAvailable:");
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    // A container's own limit, where there is one.
    let container = match (number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current")) {
        (Some(most), Some(used)) => Some(most.saturating_sub(used)),
        (_, _) => None,
    };
    [machine, container].into_iter().flatten().min().unwrap_or(UNKNOWN) / 2
}

/// The most memory that this process has held, where the system says so.
pub(crate) fn peak_memory() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// A field in kB.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

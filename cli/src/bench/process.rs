//! How much memory this process holds, where the system says so (Linux does).

/// High-water marks of the process's memory.
#[derive(Debug, Default)]
pub(super) struct HighWater {
    /// The largest mark that was left behind when a new one was begun.
    largest: Option<u64>,
}

impl HighWater {
    /// Begins a new mark; gives what the process holds now.
    pub(super) fn restart(&mut self) -> Option<u64> {
        self.largest = self.peak();
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
        status_bytes("VmRSS:")
    }

    /// The most that it held since the last [`restart`](Self::restart).
    pub(super) fn since_restart(&self) -> Option<u64> {
        status_bytes("VmHWM:")
    }

    /// The most that it ever held.
    pub(super) fn peak(&self) -> Option<u64> {
        self.largest.max(status_bytes("VmHWM:"))
    }
}

fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

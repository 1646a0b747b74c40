//! The float mode that results are defined in: round to nearest, subnormals kept, nothing trapped.
//!
//! A host may have set flush-to-zero for its own ends; that would change bits. Each piece of work sets the mode and puts the host's back.

/// Sets the mode while it lives.
pub(crate) struct FloatMode {
    #[cfg(target_arch = "x86_64")]
    host: u32,
    #[cfg(target_arch = "aarch64")]
    host: u64,
}

impl FloatMode {
    /// Sets the mode of this thread.
    pub(crate) fn set() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let mut host = 0u32;
            let ours: u32 = 0x1f80; // all exceptions masked, to nearest, no flush-to-zero, no denormals-are-zero
            // SAFETY: reads and writes the thread's MXCSR; every x86-64 has it, and 0x1f80 is the value that processes start with.
            unsafe {
                std::arch::asm!("stmxcsr [{}]", in(reg) &mut host, options(nostack, preserves_flags));
                std::arch::asm!("ldmxcsr [{}]", in(reg) &ours, options(nostack, preserves_flags, readonly));
            }
            FloatMode { host }
        }
        #[cfg(target_arch = "aarch64")]
        {
            let host: u64;
            // SAFETY: reads and writes the thread's FPCR; 0 is the value that processes start with.
            unsafe {
                std::arch::asm!("mrs {}, fpcr", out(reg) host, options(nomem, nostack, preserves_flags));
                std::arch::asm!("msr fpcr, {}", in(reg) 0u64, options(nomem, nostack, preserves_flags));
            }
            FloatMode { host }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            FloatMode {}
        }
    }
}

impl Drop for FloatMode {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: puts back the value that was read when it was made.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &self.host, options(nostack, preserves_flags, readonly));
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: puts back the value that was read when it was made.
        unsafe {
            std::arch::asm!("msr fpcr, {}", in(reg) self.host, options(nomem, nostack, preserves_flags));
        }
    }
}

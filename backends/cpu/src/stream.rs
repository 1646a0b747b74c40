//! Writing past the cache: what is large and not read again soon would only push out what is.

/// Copies bytes to memory, whole cache lines of it past the cache where the machine can.
///
/// # Safety
/// Both are valid for `bytes` bytes and do not overlap. A [`fence`] comes before anyone else reads the target.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; the parts together are the whole.
    unsafe {
        let head = to.align_offset(64).min(bytes);
        let lines = (bytes - head) / 64;
        std::ptr::copy_nonoverlapping(from, to, head);
        copy_lines(from.add(head), to.add(head), lines);
        let done = head + lines * 64;
        std::ptr::copy_nonoverlapping(from.add(done), to.add(done), bytes - done);
    }
}

/// Makes what was copied visible in order with all later writes.
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Copies cache lines; `to` is aligned to one.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_lines(from: *const u8, to: *mut u8, lines: usize) {
    use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
    for line in 0..lines {
        for quarter in 0..4 {
            let at = line * 64 + quarter * 16;
            // SAFETY: every x86-64 has these; the target is aligned, and both have this line.
            unsafe { _mm_stream_ps(to.add(at).cast(), _mm_loadu_ps(from.add(at).cast())) };
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_lines(from: *const u8, to: *mut u8, lines: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, lines * 64) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_copied_and_no_other() {
        let from: Vec<u8> = (0..=255).cycle().take(1024).collect();
        for offset in 0..70 {
            for bytes in [0, 1, 63, 64, 65, 127, 128, 200, 400] {
                let mut to = vec![0xa5u8; 1024];
                // SAFETY: both have these bytes.
                unsafe { copy(from.as_ptr().add(3), to.as_mut_ptr().add(offset), bytes) };
                fence();
                let mut wanted = vec![0xa5u8; 1024];
                wanted[offset..offset + bytes].copy_from_slice(&from[3..3 + bytes]);
                assert_eq!(to, wanted, "offset {offset}, {bytes} bytes");
            }
        }
    }
}

//! The first few of sixteen 16-bit lanes, stored.

use std::arch::x86_64::{__m256i, _mm256_mask_storeu_epi16, _mm256_storeu_si256};

/// Stores the first `count` lanes, at most 16.
///
/// # Safety
/// `to` has room for `count` numbers; the caller is compiled for AVX-512.
#[inline(always)]
pub(crate) unsafe fn store_first(to: *mut u16, count: usize, bits: __m256i) {
    // SAFETY: the caller's promise; other lanes are masked, and the array has all of them.
    unsafe {
        if count == 1 {
            // LLVM, as in Rust 1.95, makes a scalar store of a masked one of one known lane, and stores 32 bits where the lanes were just narrowed from that.
            let mut lanes = [0; 16];
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), bits);
            to.write_unaligned(lanes[0]);
        } else {
            _mm256_mask_storeu_epi16(to.cast(), ((1u32 << count) - 1) as u16, bits);
        }
    }
}

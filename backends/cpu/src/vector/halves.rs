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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::vector::on;
    use std::arch::x86_64::{_mm512_cvtepi32_epi16, _mm512_loadu_si512, _mm512_srli_epi32};

    /// Narrowed lanes, as those of bf16 are, so many of them that the compiler knows the number.
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
    unsafe fn narrowed<const COUNT: usize>(from: &[u32; 16], to: &mut [u16; 24]) {
        // SAFETY: both arrays have room.
        unsafe {
            store_first(to.as_mut_ptr(), COUNT, _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_loadu_si512(from.as_ptr().cast()))))
        };
    }

    type Store = unsafe fn(&[u32; 16], &mut [u16; 24]);

    #[test]
    fn nothing_is_written_behind_a_known_number_of_lanes() {
        let numbers: [u32; 16] = std::array::from_fn(|lane| 0x3f80_0000 + ((lane as u32) << 16));
        on(Isa::Avx512, || {
            let stored: [(usize, Store); 5] =
                [(0, narrowed::<0>), (1, narrowed::<1>), (2, narrowed::<2>), (9, narrowed::<9>), (16, narrowed::<16>)];
            for (count, store) in stored {
                let mut to = [0xa5a5; 24];
                // SAFETY: the machine has the instruction set.
                unsafe { store(&numbers, &mut to) };
                let wanted: [u16; 24] = std::array::from_fn(|lane| if lane < count { 0x3f80 + lane as u16 } else { 0xa5a5 });
                assert_eq!(to, wanted, "{count} lanes");
            }
        });
    }
}

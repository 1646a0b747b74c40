//! Vectors past the cache: and whole lines of it from vectors of 512 bits that begin inside one.
//!
//! Memory that a program is given begins 16 bytes behind a line as often as not. A vector that is written past the cache in four parts, with a line's end between them, takes
//! up to half as long again as one that is a line: so each line is put together from two neighbouring vectors, and only the ends of a row are written in parts.

use std::arch::x86_64::*;

/// 64 bytes past the cache, to a multiple of 16 bytes: in one piece where it is a whole line.
#[inline(always)]
pub(super) unsafe fn stream_f32x16(to: *mut f32, lanes: __m512) {
    // SAFETY: the caller gives the elements and is compiled for AVX-512.
    unsafe {
        if to.addr().is_multiple_of(64) {
            _mm512_stream_ps(to, lanes);
        } else {
            stream_f32x8(to, _mm512_castps512_ps256(lanes));
            stream_f32x8(to.add(8), _mm512_extractf32x8_ps::<1>(lanes));
        }
    }
}

/// As above, 32 bytes.
#[inline(always)]
pub(super) unsafe fn stream_f32x8(to: *mut f32, lanes: __m256) {
    // SAFETY: the caller gives the elements and is compiled for AVX2.
    unsafe {
        _mm_stream_ps(to, _mm256_castps256_ps128(lanes));
        _mm_stream_ps(to.add(4), _mm256_extractf128_ps::<1>(lanes));
    }
}

#[inline(always)]
pub(super) unsafe fn stream_f64x8(to: *mut f64, lanes: __m512d) {
    // SAFETY: the same bytes.
    unsafe { stream_f32x16(to.cast(), _mm512_castpd_ps(lanes)) }
}

#[inline(always)]
pub(super) unsafe fn stream_f64x4(to: *mut f64, lanes: __m256d) {
    // SAFETY: the same bytes.
    unsafe { stream_f32x8(to.cast(), _mm256_castpd_ps(lanes)) }
}

/// A vector of 512 bits, whatever is in it.
pub(super) trait Line: Copy {
    fn bits(self) -> __m512i;
}

impl Line for __m512 {
    #[inline(always)]
    fn bits(self) -> __m512i {
        // SAFETY: bits stay what they are; whoever has such a vector is compiled for it.
        unsafe { _mm512_castps_si512(self) }
    }
}

impl Line for __m512d {
    #[inline(always)]
    fn bits(self) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_castpd_si512(self) }
    }
}

/// How many quarters of a line lie before an address, which is a multiple of 16.
#[inline(always)]
fn quarters_before(to: *mut u8) -> usize {
    to.addr() % 64 / 16
}

macro_rules! quarters {
    ($to:expr, $bits:expr, $($quarter:literal)*) => {{
        $(_mm_stream_si128($to.add($quarter * 16).cast(), _mm512_extracti32x4_epi32::<$quarter>($bits));)*
    }};
}

/// Up to where a line ends.
///
/// # Safety
/// The address, a multiple of 16, has room for a vector; the caller is compiled for AVX-512.
#[inline(always)]
pub(super) unsafe fn first(to: *mut u8, bits: __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        match quarters_before(to) {
            0 => _mm512_stream_si512(to.cast(), bits),
            1 => quarters!(to, bits, 0 1 2),
            2 => quarters!(to, bits, 0 1),
            _ => quarters!(to, bits, 0),
        }
    }
}

/// The line that begins in the vector before this one, or with this one.
///
/// # Safety
/// As for [`first`]; there is room for the vector before as well.
#[inline(always)]
pub(super) unsafe fn next(to: *mut u8, before: __m512i, bits: __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        match quarters_before(to) {
            0 => _mm512_stream_si512(to.cast(), bits),
            1 => _mm512_stream_si512(to.sub(16).cast(), _mm512_alignr_epi32::<12>(bits, before)),
            2 => _mm512_stream_si512(to.sub(32).cast(), _mm512_alignr_epi32::<8>(bits, before)),
            _ => _mm512_stream_si512(to.sub(48).cast(), _mm512_alignr_epi32::<4>(bits, before)),
        }
    }
}

/// What is behind the last line's end.
///
/// # Safety
/// As for [`first`].
#[inline(always)]
pub(super) unsafe fn rest(to: *mut u8, bits: __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        match quarters_before(to) {
            0 => {}
            1 => quarters!(to, bits, 3),
            2 => quarters!(to, bits, 2 3),
            _ => quarters!(to, bits, 1 2 3),
        }
    }
}

/// The methods of [`Lanes`](super::Lanes) that do so.
macro_rules! whole_lines {
    ($float:ty) => {
        #[inline(always)]
        unsafe fn stream_first(self, to: *mut $float) {
            // SAFETY: the caller's promise.
            unsafe { super::lines::first(to.cast(), self.0.bits()) }
        }

        #[inline(always)]
        unsafe fn stream_next(self, before: Self, to: *mut $float) {
            // SAFETY: the caller's promise.
            unsafe { super::lines::next(to.cast(), before.0.bits(), self.0.bits()) }
        }

        #[inline(always)]
        unsafe fn stream_rest(self, to: *mut $float) {
            // SAFETY: the caller's promise.
            unsafe { super::lines::rest(to.cast(), self.0.bits()) }
        }
    };
}
pub(super) use whole_lines;

#[cfg(test)]
mod tests {
    use crate::Isa;
    use crate::vector::x86::F32x16;
    use crate::vector::{Lanes, Vector, on};

    /// Numbers from 0 on, streamed to `to`.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    unsafe fn stream(to: *mut f32, vectors: usize) {
        // SAFETY: the caller has room for so many vectors at a multiple of 16 bytes.
        unsafe {
            let vector = |index: usize| {
                let numbers: [f32; 16] = std::array::from_fn(|lane| (index * 16 + lane) as f32);
                F32x16::load(numbers.as_ptr())
            };
            vector(0).stream_first(to);
            for index in 1..vectors {
                vector(index).stream_next(vector(index - 1), to.add(index * 16));
            }
            vector(vectors - 1).stream_rest(to.add((vectors - 1) * 16));
        }
    }

    #[test]
    fn every_number_is_written_and_nothing_else_wherever_a_row_begins() {
        on(Isa::Avx512, || {
            for offset in [0, 4, 8, 12, 16, 20] {
                for vectors in [1, 2, 5] {
                    let mut to = vec![-1.0f32; 16 * 8 + 64];
                    let line = to.as_ptr().align_offset(64);
                    // SAFETY: there is room behind the offset, a multiple of four numbers behind a line; the machine has the instruction set.
                    unsafe { stream(to.as_mut_ptr().add(line + offset), vectors) };
                    crate::stream::fence();
                    for (index, number) in to.iter().enumerate() {
                        let place = index.checked_sub(line + offset).filter(|place| *place < vectors * 16);
                        assert_eq!(
                            *number,
                            place.map_or(-1.0, |place| place as f32),
                            "{vectors} vectors, {offset} behind a line, number {index}"
                        );
                    }
                }
            }
        });
    }
}

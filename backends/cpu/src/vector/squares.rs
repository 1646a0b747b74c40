//! Squares of vectors, on their sides: what turns rows into lanes and back.
//!
//! A [`Square`] is a vector that is cut into `P` parts, of one or more lanes each. `P` such vectors are a square of parts, and turned, part i of
//! vector j is part j of vector i.

use super::Vector;
use super::x86::{F32x8, F32x16, F64x4, F64x8};
use std::arch::x86_64::*;

/// Vectors whose squares are turned in registers.
///
/// # Safety
/// As for [`Vector`].
pub(crate) trait Square: Vector {
    /// Where each lane comes from.
    type Lanes: Copy;

    /// Turns a square of `P` parts: 2, 4, 8 or 16, and no more than there are lanes.
    unsafe fn turn<const P: usize>(square: [Self; P]) -> [Self; P];
    /// What [`load_or`](Square::load_or) takes for its first `count` lanes, all of them at most.
    fn code(count: u32) -> u32;
    /// The codes of what is left of `P` counts, 8 or 16, without the first `done` and up to `most`, and whether more than those is left of any. There are 16 counts
    /// to read.
    unsafe fn codes<const P: usize>(counts: *const u32, done: u32, most: u32) -> ([u32; 16], bool);
    /// The first lanes, as many as the code says; the others are those of `fill`.
    unsafe fn load_or(from: *const Self::Acc, code: u32, fill: Self) -> Self;
    /// Itself where a flag is set, all bits of it, and `other` where none is.
    unsafe fn kept(self, other: Self, flag: u32) -> Self;
    /// Lanes by number, below how many there are.
    unsafe fn lanes(from: [u8; 16]) -> Self::Lanes;
    /// Each lane from where it comes from.
    unsafe fn pick(self, lanes: Self::Lanes) -> Self;
}

/// A square of 16, on its side.
#[inline(always)]
pub(crate) unsafe fn square16(r: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: the caller is compiled for AVX-512.
    unsafe {
        // Squares of 4 inside the quarters of vectors, and then quarters.
        let mut t = r;
        for k in (0..16).step_by(4) {
            let low = [_mm512_castps_pd(_mm512_unpacklo_ps(r[k], r[k + 1])), _mm512_castps_pd(_mm512_unpacklo_ps(r[k + 2], r[k + 3]))];
            let high = [_mm512_castps_pd(_mm512_unpackhi_ps(r[k], r[k + 1])), _mm512_castps_pd(_mm512_unpackhi_ps(r[k + 2], r[k + 3]))];
            t[k] = _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1]));
            t[k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1]));
            t[k + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1]));
            t[k + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1]));
        }
        let mut out = r;
        for j in 0..4 {
            let x = _mm512_shuffle_f32x4::<0x44>(t[j], t[4 + j]);
            let y = _mm512_shuffle_f32x4::<0x44>(t[8 + j], t[12 + j]);
            let z = _mm512_shuffle_f32x4::<0xee>(t[j], t[4 + j]);
            let w = _mm512_shuffle_f32x4::<0xee>(t[8 + j], t[12 + j]);
            out[j] = _mm512_shuffle_f32x4::<0x88>(x, y);
            out[4 + j] = _mm512_shuffle_f32x4::<0xdd>(x, y);
            out[8 + j] = _mm512_shuffle_f32x4::<0x88>(z, w);
            out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(z, w);
        }
        out
    }
}

/// A square of 8 of double width.
#[inline(always)]
pub(crate) unsafe fn wide_square8(r: [__m512d; 8]) -> [__m512d; 8] {
    // SAFETY: the caller is compiled for AVX-512.
    unsafe {
        let mut out = r;
        for j in 0..2 {
            let mut t = [r[0]; 4];
            for (k, t) in t.iter_mut().enumerate() {
                *t = if j == 0 { _mm512_unpacklo_pd(r[2 * k], r[2 * k + 1]) } else { _mm512_unpackhi_pd(r[2 * k], r[2 * k + 1]) };
            }
            let x = _mm512_shuffle_f64x2::<0x44>(t[0], t[1]);
            let y = _mm512_shuffle_f64x2::<0x44>(t[2], t[3]);
            let z = _mm512_shuffle_f64x2::<0xee>(t[0], t[1]);
            let w = _mm512_shuffle_f64x2::<0xee>(t[2], t[3]);
            out[j] = _mm512_shuffle_f64x2::<0x88>(x, y);
            out[2 + j] = _mm512_shuffle_f64x2::<0xdd>(x, y);
            out[4 + j] = _mm512_shuffle_f64x2::<0x88>(z, w);
            out[6 + j] = _mm512_shuffle_f64x2::<0xdd>(z, w);
        }
        out
    }
}

/// A square of 8.
#[inline(always)]
pub(crate) unsafe fn square8(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller is compiled for AVX2.
    unsafe {
        let mut t = r;
        for k in (0..8).step_by(4) {
            let low = [_mm256_castps_pd(_mm256_unpacklo_ps(r[k], r[k + 1])), _mm256_castps_pd(_mm256_unpacklo_ps(r[k + 2], r[k + 3]))];
            let high = [_mm256_castps_pd(_mm256_unpackhi_ps(r[k], r[k + 1])), _mm256_castps_pd(_mm256_unpackhi_ps(r[k + 2], r[k + 3]))];
            t[k] = _mm256_castpd_ps(_mm256_unpacklo_pd(low[0], low[1]));
            t[k + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low[0], low[1]));
            t[k + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high[0], high[1]));
            t[k + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high[0], high[1]));
        }
        let mut out = r;
        for j in 0..4 {
            out[j] = _mm256_permute2f128_ps::<0x20>(t[j], t[4 + j]);
            out[4 + j] = _mm256_permute2f128_ps::<0x31>(t[j], t[4 + j]);
        }
        out
    }
}

/// A square of 4 of double width.
#[inline(always)]
pub(crate) unsafe fn square4(r: [__m256d; 4]) -> [__m256d; 4] {
    // SAFETY: the caller is compiled for AVX2.
    unsafe {
        let even = [_mm256_unpacklo_pd(r[0], r[1]), _mm256_unpacklo_pd(r[2], r[3])];
        let odd = [_mm256_unpackhi_pd(r[0], r[1]), _mm256_unpackhi_pd(r[2], r[3])];
        [
            _mm256_permute2f128_pd::<0x20>(even[0], even[1]),
            _mm256_permute2f128_pd::<0x20>(odd[0], odd[1]),
            _mm256_permute2f128_pd::<0x31>(even[0], even[1]),
            _mm256_permute2f128_pd::<0x31>(odd[0], odd[1]),
        ]
    }
}

/// A square of quarters of 512 bits.
#[inline(always)]
unsafe fn quarters(r: [__m512; 4]) -> [__m512; 4] {
    // SAFETY: the caller is compiled for AVX-512.
    unsafe {
        let x = _mm512_shuffle_f32x4::<0x44>(r[0], r[1]);
        let y = _mm512_shuffle_f32x4::<0x44>(r[2], r[3]);
        let z = _mm512_shuffle_f32x4::<0xee>(r[0], r[1]);
        let w = _mm512_shuffle_f32x4::<0xee>(r[2], r[3]);
        [
            _mm512_shuffle_f32x4::<0x88>(x, y),
            _mm512_shuffle_f32x4::<0xdd>(x, y),
            _mm512_shuffle_f32x4::<0x88>(z, w),
            _mm512_shuffle_f32x4::<0xdd>(z, w),
        ]
    }
}

/// A square of halves of 512 bits.
#[inline(always)]
unsafe fn wide_halves(r: [__m512; 2]) -> [__m512; 2] {
    // SAFETY: the caller is compiled for AVX-512.
    unsafe { [_mm512_shuffle_f32x4::<0x44>(r[0], r[1]), _mm512_shuffle_f32x4::<0xee>(r[0], r[1])] }
}

/// A square of halves of 256 bits.
#[inline(always)]
unsafe fn halves(r: [__m256; 2]) -> [__m256; 2] {
    // SAFETY: the caller is compiled for AVX2.
    unsafe { [_mm256_permute2f128_ps::<0x20>(r[0], r[1]), _mm256_permute2f128_ps::<0x31>(r[0], r[1])] }
}

/// Chooses by the count of parts, which the compiler knows.
macro_rules! turn {
    ($square:ident, $of:ident, $($parts:literal => $turn:ident, $from:ident, $to:ident;)*) => {{
        let mut out = $square;
        match P {
            $($parts => {
                let mut rows = [$from($square[0].0); $parts];
                for (row, part) in rows.iter_mut().zip(&$square) {
                    *row = $from(part.0);
                }
                for (out, row) in out.iter_mut().zip($turn(rows)) {
                    *out = $of($to(row));
                }
            })*
            _ => unreachable!("parts of a square"),
        }
        out
    }};
}

/// Bits as they are.
#[inline(always)]
fn same<T>(lanes: T) -> T {
    lanes
}

/// AVX-512: masks are registers of their own.
macro_rules! wide {
    ($vector:ident, $mask:ty, $mask_load:ident, $mask_mov:ident, $index:ident, $permute:ident, $($parts:literal => $turn:ident, $from:ident, $to:ident;)*) => {
        impl Square for $vector {
            type Lanes = __m512i;

            #[inline(always)]
            unsafe fn turn<const P: usize>(square: [Self; P]) -> [Self; P] {
                // SAFETY: the caller is compiled for this instruction set.
                unsafe { turn!(square, $vector, $($parts => $turn, $from, $to;)*) }
            }

            #[inline(always)]
            fn code(count: u32) -> u32 {
                (1 << count) - 1
            }

            #[inline(always)]
            unsafe fn codes<const P: usize>(counts: *const u32, done: u32, most: u32) -> ([u32; 16], bool) {
                let mut codes = [0; 16];
                // SAFETY: the caller is compiled for this instruction set, and has 16 counts; so has the array.
                let more = unsafe {
                    let (counts, done, most) = (_mm512_loadu_si512(counts.cast()), _mm512_set1_epi32(done as i32), _mm512_set1_epi32(most as i32));
                    let left = _mm512_sub_epi32(_mm512_max_epu32(counts, done), done);
                    let one = _mm512_set1_epi32(1);
                    let masks = _mm512_sub_epi32(_mm512_sllv_epi32(one, _mm512_min_epu32(left, most)), one);
                    _mm512_storeu_si512(codes.as_mut_ptr().cast(), masks);
                    _mm512_cmpgt_epu32_mask(left, most)
                };
                (codes, u32::from(more) & ((1 << P) - 1) != 0)
            }

            #[inline(always)]
            unsafe fn load_or(from: *const Self::Acc, code: u32, fill: Self) -> Self {
                // SAFETY: the caller gives this many elements; others are masked.
                Self(unsafe { $mask_load(fill.0, code as $mask, from) })
            }

            #[inline(always)]
            unsafe fn kept(self, other: Self, flag: u32) -> Self {
                // SAFETY: the caller is compiled for this instruction set.
                Self(unsafe { $mask_mov(other.0, flag as $mask, self.0) })
            }

            #[inline(always)]
            unsafe fn lanes(from: [u8; 16]) -> __m512i {
                // SAFETY: as above; 16 bytes of an array.
                unsafe { $index(_mm_loadu_si128(from.as_ptr().cast())) }
            }

            #[inline(always)]
            unsafe fn pick(self, lanes: __m512i) -> Self {
                // SAFETY: as above.
                Self(unsafe { $permute(lanes, self.0) })
            }
        }
    };
}

wide!(F32x16, __mmask16, _mm512_mask_loadu_ps, _mm512_mask_mov_ps, _mm512_cvtepu8_epi32, _mm512_permutexvar_ps,
    16 => square16, same, same;
    8 => wide_square8, _mm512_castps_pd, _mm512_castpd_ps;
    4 => quarters, same, same;
    2 => wide_halves, same, same;
);
wide!(F64x8, __mmask8, _mm512_mask_loadu_pd, _mm512_mask_mov_pd, _mm512_cvtepu8_epi64, _mm512_permutexvar_pd,
    8 => wide_square8, same, same;
    4 => quarters, _mm512_castpd_ps, _mm512_castps_pd;
    2 => wide_halves, _mm512_castpd_ps, _mm512_castps_pd;
);

/// The first `count` lanes of 4 bytes, at most eight.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    const LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the caller is compiled for AVX2; the array has eight from each of its first nine on.
    unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - count).cast()) }
}

/// For AVX2, a code is the count.
#[inline(always)]
unsafe fn counts_left<const P: usize>(counts: *const u32, done: u32, most: u32) -> ([u32; 16], bool) {
    let mut codes = [0; 16];
    // SAFETY: the caller is compiled for AVX2, and has 16 counts; so has the array.
    let more = unsafe {
        let (counts, done, most) = (_mm256_loadu_si256(counts.cast()), _mm256_set1_epi32(done as i32), _mm256_set1_epi32(most as i32));
        let left = _mm256_sub_epi32(_mm256_max_epu32(counts, done), done);
        _mm256_storeu_si256(codes.as_mut_ptr().cast(), _mm256_min_epu32(left, most));
        _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(left, most)))
    };
    (codes, more & ((1 << P) - 1) != 0)
}

impl Square for F32x8 {
    type Lanes = __m256i;

    #[inline(always)]
    fn code(count: u32) -> u32 {
        count
    }

    #[inline(always)]
    unsafe fn codes<const P: usize>(counts: *const u32, done: u32, most: u32) -> ([u32; 16], bool) {
        // SAFETY: the caller's promise.
        unsafe { counts_left::<P>(counts, done, most) }
    }

    #[inline(always)]
    unsafe fn turn<const P: usize>(square: [Self; P]) -> [Self; P] {
        // SAFETY: the caller is compiled for this instruction set.
        unsafe {
            turn!(square, F32x8,
                8 => square8, same, same;
                4 => square4, _mm256_castps_pd, _mm256_castpd_ps;
                2 => halves, same, same;
            )
        }
    }

    #[inline(always)]
    unsafe fn load_or(from: *const f32, code: u32, fill: Self) -> Self {
        // SAFETY: the caller gives this many elements; others are masked.
        unsafe {
            let mask = first(code as usize);
            Self(_mm256_blendv_ps(fill.0, _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask)))
        }
    }

    #[inline(always)]
    unsafe fn kept(self, other: Self, flag: u32) -> Self {
        // SAFETY: the caller is compiled for this instruction set.
        Self(unsafe { _mm256_blendv_ps(other.0, self.0, _mm256_set1_ps(f32::from_bits(flag))) })
    }

    #[inline(always)]
    unsafe fn lanes(from: [u8; 16]) -> __m256i {
        // SAFETY: as above; 16 bytes of an array.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn pick(self, lanes: __m256i) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_permutevar8x32_ps(self.0, lanes) })
    }
}

impl Square for F64x4 {
    type Lanes = __m256i;

    #[inline(always)]
    fn code(count: u32) -> u32 {
        count
    }

    #[inline(always)]
    unsafe fn codes<const P: usize>(counts: *const u32, done: u32, most: u32) -> ([u32; 16], bool) {
        // SAFETY: the caller's promise.
        unsafe { counts_left::<P>(counts, done, most) }
    }

    #[inline(always)]
    unsafe fn turn<const P: usize>(square: [Self; P]) -> [Self; P] {
        // SAFETY: the caller is compiled for this instruction set.
        unsafe {
            turn!(square, F64x4,
                4 => square4, same, same;
                2 => halves, _mm256_castpd_ps, _mm256_castps_pd;
            )
        }
    }

    #[inline(always)]
    unsafe fn load_or(from: *const f64, code: u32, fill: Self) -> Self {
        // SAFETY: the caller gives this many elements; others are masked.
        unsafe {
            let mask = first(2 * code as usize);
            Self(_mm256_blendv_pd(fill.0, _mm256_maskload_pd(from, mask), _mm256_castsi256_pd(mask)))
        }
    }

    #[inline(always)]
    unsafe fn kept(self, other: Self, flag: u32) -> Self {
        // SAFETY: the caller is compiled for this instruction set.
        Self(unsafe { _mm256_blendv_pd(other.0, self.0, _mm256_castps_pd(_mm256_set1_ps(f32::from_bits(flag)))) })
    }

    /// Each lane is two of 4 bytes.
    #[inline(always)]
    unsafe fn lanes(from: [u8; 16]) -> __m256i {
        let mut halves = [0i32; 8];
        for (lane, halves) in halves.chunks_exact_mut(2).enumerate() {
            halves[0] = 2 * i32::from(from[lane]);
            halves[1] = halves[0] + 1;
        }
        // SAFETY: as above; 32 bytes of an array.
        unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn pick(self, lanes: __m256i) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(self.0), lanes)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::vector::on;
    use std::array::from_fn;

    /// Turns a square of numbers, and holds parts, fills, flags and picks against loops.
    macro_rules! check {
        ($name:ident, $feature:literal, $vector:ident, $acc:ty, [$($parts:literal),*]) => {
            #[target_feature(enable = $feature)]
            fn $name() {
                const LANES: usize = $vector::LANES;
                let read = |lanes: $vector| {
                    let mut out = [0 as $acc; LANES];
                    // SAFETY: compiled for this vector; the array has its lanes.
                    unsafe { lanes.store(out.as_mut_ptr()) };
                    out
                };
                let numbers: Vec<$acc> = (0..256u16).map(|number| <$acc>::from(number)).collect();
                // SAFETY: as above.
                unsafe {
                    $({
                        let square: [$vector; $parts] = from_fn(|row| $vector::load(numbers[row * LANES..].as_ptr()));
                        let turned = $vector::turn::<$parts>(square).map(read);
                        let width = LANES / $parts;
                        for (row, turned) in turned.iter().enumerate() {
                            for (lane, value) in turned.iter().enumerate() {
                                assert_eq!(*value, numbers[lane / width * LANES + row * width + lane % width], "{} parts", $parts);
                            }
                        }
                    })*
                    let fill = $vector::splat(-1.0);
                    for count in 0..=LANES {
                        let loaded = read($vector::load_or(numbers.as_ptr(), $vector::code(count as u32), fill));
                        let wanted: [$acc; LANES] = from_fn(|lane| if lane < count { numbers[lane] } else { -1.0 });
                        assert_eq!(loaded, wanted);
                    }
                    let counts: [u32; 16] = from_fn(|item| [0, 1, 7, 8, 15, 16, 32, 3][item % 8]);
                    for (done, most) in [(0, 4), (0, 8), (8, 8), (16, 8), (4, 4)] {
                        let (codes, more) = $vector::codes::<8>(counts.as_ptr(), done, most);
                        let left = counts.map(|count| u32::saturating_sub(count, done));
                        assert_eq!(codes[..8], left.map(|left| $vector::code(left.min(most)))[..8]);
                        assert_eq!(more, left[..8].iter().any(|left| *left > most));
                    }
                    let row = $vector::load(numbers.as_ptr());
                    assert_eq!(read(row.kept(fill, 0)), [-1.0; LANES]);
                    assert_eq!(read(row.kept(fill, u32::MAX)), read(row));
                    let from: [u8; 16] = from_fn(|lane| (lane * 7 % LANES) as u8);
                    let wanted: [$acc; LANES] = from_fn(|lane| numbers[usize::from(from[lane])]);
                    assert_eq!(read(row.pick($vector::lanes(from))), wanted);
                }
            }
        };
    }

    check!(check_f32x8, "avx2", F32x8, f32, [2, 4, 8]);
    check!(check_f64x4, "avx2", F64x4, f64, [2, 4]);
    check!(check_f32x16, "avx512f,avx512dq", F32x16, f32, [2, 4, 8, 16]);
    check!(check_f64x8, "avx512f,avx512dq", F64x8, f64, [2, 4, 8]);

    #[test]
    fn squares_of_every_vector_are_turned() {
        on(Isa::Avx2, || {
            // SAFETY: the machine has the instruction set.
            unsafe {
                check_f32x8();
                check_f64x4();
            }
        });
        on(Isa::Avx512, || {
            // SAFETY: as above.
            unsafe {
                check_f32x16();
                check_f64x8();
            }
        });
    }
}

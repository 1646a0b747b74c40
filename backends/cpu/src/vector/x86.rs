//! AVX2 and AVX-512 vectors.

use super::lines::{Line, stream_f32x8, stream_f32x16, stream_f64x4, stream_f64x8, whole_lines};
use super::{Lanes, Vector, own_lanes};
use half::{bf16, f16};
use levelfold::DType;
use levelfold::numerics::Value;
use std::arch::x86_64::*;

/// Eight f32 in an AVX2 register.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(pub(crate) __m256);
/// Four f64 in an AVX2 register.
#[derive(Clone, Copy)]
pub(crate) struct F64x4(pub(crate) __m256d);
/// Sixteen f32 in an AVX-512 register.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(pub(crate) __m512);
/// Eight f64 in an AVX-512 register.
#[derive(Clone, Copy)]
pub(crate) struct F64x8(pub(crate) __m512d);

/// What AVX2 and AVX-512 vectors have in common: operations by name.
macro_rules! arithmetic {
    ($add:ident, $mul:ident, $div:ident) => {
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller is compiled for this instruction set.
            Self(unsafe { $add(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { $mul(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { $div(self.0, other.0) })
        }
    };
}

macro_rules! memory {
    ($float:ty, $splat:ident, $load:ident, $store:ident) => {
        #[inline(always)]
        unsafe fn splat(value: $float) -> Self {
            // SAFETY: the caller is compiled for this instruction set.
            Self(unsafe { $splat(value) })
        }

        #[inline(always)]
        unsafe fn load(from: *const $float) -> Self {
            // SAFETY: the caller gives this many elements.
            Self(unsafe { $load(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut $float) {
            // SAFETY: the caller gives this many elements.
            unsafe { $store(to, self.0) }
        }
    };
}

/// Of single precision, the 16-bit types have instructions; other roundings are done lane by lane.
macro_rules! round_f32 {
    () => {
        #[inline(always)]
        unsafe fn round_as<O: Value>(self, to: *mut O, count: usize) {
            // SAFETY: the caller gives `count` elements of the type that the pointer is cast to.
            unsafe {
                match (O::DTYPE, count == Self::LANES) {
                    (DType::F32, true) => Lanes::<f32>::round(self, to.cast()),
                    (DType::F32, false) => Lanes::<f32>::round_part(self, to.cast(), count),
                    (DType::F16, true) => Lanes::<f16>::round(self, to.cast()),
                    (DType::F16, false) => Lanes::<f16>::round_part(self, to.cast(), count),
                    (DType::BF16, true) => Lanes::<bf16>::round(self, to.cast()),
                    (DType::BF16, false) => Lanes::<bf16>::round_part(self, to.cast(), count),
                    _ => {
                        let mut lanes = [0f32; Self::LANES];
                        self.store(lanes.as_mut_ptr());
                        for (index, lane) in lanes.iter().enumerate().take(count) {
                            to.add(index).write(O::from_f32(*lane));
                        }
                    }
                }
            }
        }
    };
}

/// As above, of double precision: nothing narrower is rounded to by vectors, since all but f32 would be rounded twice.
macro_rules! round_f64 {
    () => {
        #[inline(always)]
        unsafe fn round_as<O: Value>(self, to: *mut O, count: usize) {
            let mut lanes = [0f64; Self::LANES];
            // SAFETY: the caller gives `count` elements.
            unsafe {
                self.store(lanes.as_mut_ptr());
                for (index, lane) in lanes.iter().enumerate().take(count) {
                    to.add(index).write(O::from_f64(*lane));
                }
            }
        }
    };
}

/// AVX2.
///
/// `max` and `min` of the machine give the second operand where either is a NaN or both are equal. Taken both ways round, equal operands (of which
/// only the two zeros differ) meet in their common bits (all bits that either has, for a minimum), and a comparison that is all ones where
/// either is a NaN makes one of whatever came out.
macro_rules! avx2 {
    ($vector:ident, $float:ident, $lanes:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $mul:ident, $div:ident,
     $max:ident, $min:ident, $and:ident, $or:ident, $cmp:ident, $blend:ident, $mask_load:ident, $mask_store:ident, $int:ty, $round:ident, $stream:ident) => {
        impl $vector {
            #[inline(always)]
            unsafe fn first(count: usize) -> __m256i {
                let mut lanes: [$int; $lanes] = [0; $lanes];
                for (index, lane) in lanes.iter_mut().enumerate() {
                    *lane = if index < count { -1 } else { 0 };
                }
                // SAFETY: 32 bytes of an array.
                unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
            }
        }

        impl Vector for $vector {
            type Acc = $float;
            const LANES: usize = $lanes;
            const TILE: usize = 8;

            memory!($float, $splat, $load, $store);
            arithmetic!($add, $mul, $div);
            $round!();

            #[inline(always)]
            unsafe fn load_part(from: *const $float, count: usize) -> Self {
                // SAFETY: the caller gives this many elements; others are masked.
                Self(unsafe { $mask_load(from, Self::first(count)) })
            }

            #[inline(always)]
            unsafe fn store_part(self, to: *mut $float, count: usize) {
                // SAFETY: as above.
                unsafe { $mask_store(to, Self::first(count), self.0) }
            }

            #[inline(always)]
            unsafe fn maximum(self, other: Self) -> Self {
                // SAFETY: the caller is compiled for this instruction set.
                unsafe {
                    let larger = $and($max(self.0, other.0), $max(other.0, self.0));
                    Self($or(larger, $cmp::<_CMP_UNORD_Q>(self.0, other.0)))
                }
            }

            #[inline(always)]
            unsafe fn minimum(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe {
                    let smaller = $or($min(self.0, other.0), $min(other.0, self.0));
                    Self($or(smaller, $cmp::<_CMP_UNORD_Q>(self.0, other.0)))
                }
            }

            #[inline(always)]
            unsafe fn canonical(self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $blend(self.0, $splat(<$float as Value>::NAN), $cmp::<_CMP_UNORD_Q>(self.0, self.0)) })
            }
        }

        own_lanes!($float, $vector, [], $stream);
    };
}

avx2!(
    F32x8,
    f32,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_mul_ps,
    _mm256_div_ps,
    _mm256_max_ps,
    _mm256_min_ps,
    _mm256_and_ps,
    _mm256_or_ps,
    _mm256_cmp_ps,
    _mm256_blendv_ps,
    _mm256_maskload_ps,
    _mm256_maskstore_ps,
    i32,
    round_f32,
    stream_f32x8
);
avx2!(
    F64x4,
    f64,
    4,
    _mm256_set1_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_add_pd,
    _mm256_mul_pd,
    _mm256_div_pd,
    _mm256_max_pd,
    _mm256_min_pd,
    _mm256_and_pd,
    _mm256_or_pd,
    _mm256_cmp_pd,
    _mm256_blendv_pd,
    _mm256_maskload_pd,
    _mm256_maskstore_pd,
    i64,
    round_f64,
    stream_f64x4
);

/// The larger (of two zeros, the positive one), with the sign that it has.
const LARGER: i32 = 0b0101;
/// The smaller (of two zeros, the negative one), with the sign that it has.
const SMALLER: i32 = 0b0100;

/// AVX-512. Of a number and a NaN, `range` gives the number; where either is a NaN, their sum is one.
macro_rules! avx512 {
    ($vector:ident, $float:ident, $lanes:literal, $mask:ty, $splat:ident, $load:ident, $store:ident, $add:ident, $mul:ident, $div:ident,
     $range:ident, $mask_add:ident, $cmp:ident, $mask_mov:ident, $mask_load:ident, $mask_store:ident, $round:ident, $stream:ident) => {
        impl $vector {
            #[inline(always)]
            fn first(count: usize) -> $mask {
                // Fewer than 16 lanes, so the shift stays inside.
                ((1u32 << count) - 1) as $mask
            }
        }

        impl Vector for $vector {
            type Acc = $float;
            const LANES: usize = $lanes;
            const TILE: usize = 16;

            memory!($float, $splat, $load, $store);
            arithmetic!($add, $mul, $div);
            $round!();

            #[inline(always)]
            unsafe fn load_part(from: *const $float, count: usize) -> Self {
                // SAFETY: the caller gives this many elements; others are masked.
                Self(unsafe { $mask_load(Self::first(count), from) })
            }

            #[inline(always)]
            unsafe fn store_part(self, to: *mut $float, count: usize) {
                // SAFETY: as above.
                unsafe { $mask_store(to, Self::first(count), self.0) }
            }

            #[inline(always)]
            unsafe fn maximum(self, other: Self) -> Self {
                // SAFETY: the caller is compiled for this instruction set.
                unsafe {
                    let larger = $range::<LARGER>(self.0, other.0);
                    Self($mask_add(larger, $cmp::<_CMP_UNORD_Q>(self.0, other.0), self.0, other.0))
                }
            }

            #[inline(always)]
            unsafe fn minimum(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe {
                    let smaller = $range::<SMALLER>(self.0, other.0);
                    Self($mask_add(smaller, $cmp::<_CMP_UNORD_Q>(self.0, other.0), self.0, other.0))
                }
            }

            #[inline(always)]
            unsafe fn canonical(self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $mask_mov(self.0, $cmp::<_CMP_UNORD_Q>(self.0, self.0), $splat(<$float as Value>::NAN)) })
            }
        }

        own_lanes!($float, $vector, [], $stream, whole_lines);
    };
}

avx512!(
    F32x16,
    f32,
    16,
    __mmask16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_mul_ps,
    _mm512_div_ps,
    _mm512_range_ps,
    _mm512_mask_add_ps,
    _mm512_cmp_ps_mask,
    _mm512_mask_mov_ps,
    _mm512_maskz_loadu_ps,
    _mm512_mask_storeu_ps,
    round_f32,
    stream_f32x16
);
avx512!(
    F64x8,
    f64,
    8,
    __mmask8,
    _mm512_set1_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_add_pd,
    _mm512_mul_pd,
    _mm512_div_pd,
    _mm512_range_pd,
    _mm512_mask_add_pd,
    _mm512_cmp_pd_mask,
    _mm512_mask_mov_pd,
    _mm512_maskz_loadu_pd,
    _mm512_mask_storeu_pd,
    round_f64,
    stream_f64x8
);

/// 16-bit floats, as the integers that registers move.
trait Half {
    unsafe fn widen8(bits: __m128i) -> __m256;
    unsafe fn round8(lanes: __m256) -> __m128i;
    unsafe fn widen16(bits: __m256i) -> __m512;
    unsafe fn round16(lanes: __m512) -> __m256i;
}

impl Half for f16 {
    #[inline(always)]
    unsafe fn widen8(bits: __m128i) -> __m256 {
        // SAFETY: the caller is compiled for AVX2 and F16C.
        unsafe { _mm256_cvtph_ps(bits) }
    }

    #[inline(always)]
    unsafe fn round8(lanes: __m256) -> __m128i {
        // SAFETY: as above.
        unsafe { _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(lanes) }
    }

    #[inline(always)]
    unsafe fn widen16(bits: __m256i) -> __m512 {
        // SAFETY: the caller is compiled for AVX-512.
        unsafe { _mm512_cvtph_ps(bits) }
    }

    #[inline(always)]
    unsafe fn round16(lanes: __m512) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(lanes) }
    }
}

impl Half for bf16 {
    #[inline(always)]
    unsafe fn widen8(bits: __m128i) -> __m256 {
        // SAFETY: the caller is compiled for AVX2.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits))) }
    }

    #[inline(always)]
    unsafe fn round8(lanes: __m256) -> __m128i {
        // Half a unit less one, plus the last bit that stays: to nearest, ties to even. A canonical NaN stays one.
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_castps_si256(lanes);
            let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff))));
            _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded))
        }
    }

    #[inline(always)]
    unsafe fn widen16(bits: __m256i) -> __m512 {
        // SAFETY: the caller is compiled for AVX-512.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits))) }
    }

    #[inline(always)]
    unsafe fn round16(lanes: __m512) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_castps_si512(lanes);
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff))));
            _mm512_cvtepi32_epi16(rounded)
        }
    }
}

macro_rules! half_lanes {
    ($($half:ident),*) => {$(
        impl Lanes<$half> for F32x8 {
            #[inline(always)]
            unsafe fn stream(self, to: *mut $half) {
                // SAFETY: the caller gives eight elements, at a multiple of 16 bytes.
                unsafe { _mm_stream_si128(to.cast(), $half::round8(self.0)) }
            }

            #[inline(always)]
            unsafe fn widen(from: *const $half) -> Self {
                // SAFETY: the caller gives eight elements.
                Self(unsafe { $half::widen8(_mm_loadu_si128(from.cast())) })
            }

            #[inline(always)]
            unsafe fn widen_part(from: *const $half, count: usize) -> Self {
                let mut bits = [0u16; 8];
                // SAFETY: the caller gives `count` elements, fewer than eight.
                unsafe {
                    std::ptr::copy_nonoverlapping(from.cast(), bits.as_mut_ptr(), count);
                    Self($half::widen8(_mm_loadu_si128(bits.as_ptr().cast())))
                }
            }

            #[inline(always)]
            unsafe fn round(self, to: *mut $half) {
                // SAFETY: the caller gives eight elements.
                unsafe { _mm_storeu_si128(to.cast(), $half::round8(self.0)) }
            }

            #[inline(always)]
            unsafe fn round_part(self, to: *mut $half, count: usize) {
                let mut bits = [0u16; 8];
                // SAFETY: the caller gives `count` elements, fewer than eight.
                unsafe {
                    _mm_storeu_si128(bits.as_mut_ptr().cast(), $half::round8(self.0));
                    std::ptr::copy_nonoverlapping(bits.as_ptr(), to.cast(), count);
                }
            }
        }

        impl Lanes<$half> for F32x16 {
            #[inline(always)]
            unsafe fn stream(self, to: *mut $half) {
                // SAFETY: the caller gives sixteen elements, at a multiple of 16 bytes.
                unsafe { stream_f32x8(to.cast(), _mm256_castsi256_ps($half::round16(self.0))) }
            }

            #[inline(always)]
            unsafe fn widen(from: *const $half) -> Self {
                // SAFETY: the caller gives sixteen elements.
                Self(unsafe { $half::widen16(_mm256_loadu_si256(from.cast())) })
            }

            #[inline(always)]
            unsafe fn widen_part(from: *const $half, count: usize) -> Self {
                // SAFETY: the caller gives `count` elements; others are masked.
                Self(unsafe { $half::widen16(_mm256_maskz_loadu_epi16(Self::first(count), from.cast())) })
            }

            #[inline(always)]
            unsafe fn round(self, to: *mut $half) {
                // SAFETY: the caller gives sixteen elements.
                unsafe { _mm256_storeu_si256(to.cast(), $half::round16(self.0)) }
            }

            #[inline(always)]
            unsafe fn round_part(self, to: *mut $half, count: usize) {
                // SAFETY: the caller gives `count` elements, fewer than sixteen.
                unsafe { super::halves::store_first(to.cast(), count, $half::round16(self.0)) }
            }
        }
    )*};
}

half_lanes!(f16, bf16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::vector::on;
    use levelfold::numerics::Accumulator;

    const NUMBERS: [f32; 12] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1e-45,
        -1e-45,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::from_bits(0xffa0_0001), // a signalling NaN with its sign set
    ];

    /// Holds every pair of numbers in every lane against the scalar rules; any NaN is as good as another.
    macro_rules! compare {
        ($name:ident, $feature:literal, $vector:ident) => {
            #[target_feature(enable = $feature)]
            fn $name() {
                type Acc = <$vector as Vector>::Acc;
                for (a, b) in NUMBERS.iter().flat_map(|a| NUMBERS.map(|b| (*a as Acc, b as Acc))) {
                    let (mut larger, mut smaller, mut canonical) = ([0.0; $vector::LANES], [0.0; $vector::LANES], [0.0; $vector::LANES]);
                    // SAFETY: compiled for this vector; arrays have its lanes.
                    unsafe {
                        let (x, y) = ($vector::splat(a), $vector::splat(b));
                        x.maximum(y).store(larger.as_mut_ptr());
                        x.minimum(y).store(smaller.as_mut_ptr());
                        x.canonical().store(canonical.as_mut_ptr());
                    }
                    let equal = |got: Acc, wanted: Acc| got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan();
                    for lane in 0..$vector::LANES {
                        let wanted = (Accumulator::maximum(a, b), Accumulator::minimum(a, b));
                        assert!(equal(larger[lane], wanted.0), "maximum of {a:?} and {b:?} is {:?}", larger[lane]);
                        assert!(equal(smaller[lane], wanted.1), "minimum of {a:?} and {b:?} is {:?}", smaller[lane]);
                        assert_eq!(canonical[lane].to_bits(), if a.is_nan() { Acc::NAN } else { a }.to_bits(), "canonical {a:?}");
                    }
                }
            }
        };
    }

    compare!(compare_f32x8, "avx2", F32x8);
    compare!(compare_f64x4, "avx2", F64x4);
    compare!(compare_f32x16, "avx512f,avx512dq", F32x16);
    compare!(compare_f64x8, "avx512f,avx512dq", F64x8);

    #[test]
    fn maximum_and_minimum_are_those_of_the_scalar_rules() {
        on(Isa::Avx2, || {
            // SAFETY: the machine has the instruction set.
            unsafe {
                compare_f32x8();
                compare_f64x4();
            }
        });
        on(Isa::Avx512, || {
            // SAFETY: as above.
            unsafe {
                compare_f32x16();
                compare_f64x8();
            }
        });
    }
}

//! Vectors as [`Packed`] numbers: what reducers with a state compute in.
//!
//! All of it is inlined into functions that are compiled for the vector's instruction set; such a vector exists nowhere else.

use super::Portable;
#[cfg(target_arch = "x86_64")]
use super::x86::{F32x8, F32x16, F64x4, F64x8};
use levelfold::numerics::Packed;
use levelfold::numerics::elementary::Elementary;
use std::ops::{Add, Div, Mul, Sub};

impl<A, const N: usize> Portable<A, N> {
    #[inline(always)]
    fn zip<B, C>(self, other: Portable<B, N>, each: impl Fn(A, B) -> C) -> Portable<C, N>
    where
        A: Copy,
        B: Copy,
    {
        Portable(std::array::from_fn(|lane| each(self.0[lane], other.0[lane])))
    }
}

macro_rules! portable_operators {
    ($($trait:ident $method:ident),*) => {$(
        impl<A: Elementary + Packed<Number = A>, const N: usize> $trait for Portable<A, N> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.zip(other, |a, b| <A as $trait>::$method(a, b))
            }
        }
    )*};
}

portable_operators!(Add add, Sub sub, Mul mul, Div div);

impl<A: Elementary + Packed<Number = A>, const N: usize> Packed for Portable<A, N> {
    type Number = A;
    type Mask = Portable<A::Mask, N>;

    #[inline(always)]
    fn splat(number: A) -> Self {
        Portable([number; N])
    }

    #[inline(always)]
    fn absolute(self) -> Self {
        self.zip(self, |a, _| a.absolute())
    }

    #[inline(always)]
    fn root(self) -> Self {
        self.zip(self, |a, _| a.root())
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.zip(other, A::larger)
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        self.zip(other, A::smaller)
    }

    #[inline(always)]
    fn at_most(self, most: Self) -> Self {
        self.zip(most, A::at_most)
    }

    #[inline(always)]
    fn at_least(self, least: Self) -> Self {
        self.zip(least, A::at_least)
    }

    #[inline(always)]
    fn equals(self, other: Self) -> Self::Mask {
        self.zip(other, A::equals)
    }

    #[inline(always)]
    fn exceeds(self, other: Self) -> Self::Mask {
        self.zip(other, A::exceeds)
    }

    #[inline(always)]
    fn is_not_a_number(self) -> Self::Mask {
        self.zip(self, |a, _| a.is_not_a_number())
    }

    #[inline(always)]
    fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        a.zip(b, A::both)
    }

    #[inline(always)]
    fn either(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        a.zip(b, A::either)
    }

    #[inline(always)]
    fn pick(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Portable(std::array::from_fn(|lane| A::pick(mask.0[lane], yes.0[lane], no.0[lane])))
    }

    #[inline(always)]
    fn of_bits(bits: u64) -> Self {
        Self::splat(A::of_bits(bits))
    }

    #[inline(always)]
    fn plus_bits(self, other: Self) -> Self {
        self.zip(other, A::plus_bits)
    }

    #[inline(always)]
    fn minus_bits(self, other: Self) -> Self {
        self.zip(other, A::minus_bits)
    }

    #[inline(always)]
    fn and_bits(self, other: Self) -> Self {
        self.zip(other, A::and_bits)
    }

    #[inline(always)]
    fn left(self, by: u32) -> Self {
        self.zip(self, |a, _| a.left(by))
    }

    #[inline(always)]
    fn right(self, by: u32) -> Self {
        self.zip(self, |a, _| a.right(by))
    }
}

/// The operators of a vector, each an instruction.
#[cfg(target_arch = "x86_64")]
macro_rules! operators {
    ($vector:ident: $($trait:ident $method:ident $instruction:ident),*) => {$(
        impl $trait for $vector {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the vector exists only where its instruction set is.
                Self(unsafe { $instruction(self.0, other.0) })
            }
        }
    )*};
}

/// A vector of an instruction set. `$mask` is its kind of mask, with how to compare, to pick and to join; the functions on bits take the register as
/// integers.
#[cfg(target_arch = "x86_64")]
macro_rules! packed {
    ($vector:ident of $float:ident as $bits:ident, mask $mask:ty;
     $add:ident $sub:ident $mul:ident $div:ident, root $root:ident, $min:ident $max:ident, splat $splat:ident,
     compare $compare:ident, and |$a:ident, $b:ident| $and:expr, or $or:expr, pick |$m:ident, $yes:ident, $no:ident| $pick:expr,
     bits $to_bits:ident $from_bits:ident, splat $splat_bits:ident as $int:ident, $add_bits:ident $sub_bits:ident $and_bits:ident $left:ident $right:ident
     $(, power $scale:ident)?) => {
        operators!($vector: Add add $add, Sub sub $sub, Mul mul $mul, Div div $div);

        impl Packed for $vector {
            type Number = $float;
            type Mask = $mask;

            #[inline(always)]
            fn splat(number: $float) -> Self {
                // SAFETY: inlined into what is compiled for the instruction set.
                Self(unsafe { $splat(number) })
            }

            #[inline(always)]
            fn absolute(self) -> Self {
                self.and_bits(Self::of_bits(!(1 << ($bits::BITS - 1)) & u64::from($bits::MAX)))
            }

            #[inline(always)]
            fn root(self) -> Self {
                // SAFETY: as above.
                unsafe { super::Vector::canonical(Self($root(self.0))) }
            }

            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { super::Vector::maximum(self, other) }
            }

            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { super::Vector::minimum(self, other) }
            }

            // Of a NaN and a number, these instructions give the second.
            #[inline(always)]
            fn at_most(self, most: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $min(most.0, self.0) })
            }

            #[inline(always)]
            fn at_least(self, least: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $max(least.0, self.0) })
            }

            #[inline(always)]
            fn equals(self, other: Self) -> $mask {
                // SAFETY: as above.
                unsafe { $compare::<_CMP_EQ_OQ>(self.0, other.0) }
            }

            #[inline(always)]
            fn exceeds(self, other: Self) -> $mask {
                // SAFETY: as above.
                unsafe { $compare::<_CMP_GT_OQ>(self.0, other.0) }
            }

            #[inline(always)]
            fn is_not_a_number(self) -> $mask {
                // SAFETY: as above.
                unsafe { $compare::<_CMP_UNORD_Q>(self.0, self.0) }
            }

            #[inline(always)]
            fn both($a: $mask, $b: $mask) -> $mask {
                // SAFETY: as above.
                #[allow(unused_unsafe, reason = "masks of some vectors are integers")]
                unsafe {
                    $and
                }
            }

            #[inline(always)]
            fn either($a: $mask, $b: $mask) -> $mask {
                // SAFETY: as above.
                #[allow(unused_unsafe, reason = "masks of some vectors are integers")]
                unsafe {
                    $or
                }
            }

            #[inline(always)]
            fn pick($m: $mask, $yes: Self, $no: Self) -> Self {
                let ($yes, $no) = ($yes.0, $no.0);
                // SAFETY: as above.
                Self(unsafe { $pick })
            }

            #[inline(always)]
            fn of_bits(bits: u64) -> Self {
                // SAFETY: as above. The low bits are meant.
                Self(unsafe { $from_bits($splat_bits(bits as $int)) })
            }

            #[inline(always)]
            fn plus_bits(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $from_bits($add_bits($to_bits(self.0), $to_bits(other.0))) })
            }

            #[inline(always)]
            fn minus_bits(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $from_bits($sub_bits($to_bits(self.0), $to_bits(other.0))) })
            }

            #[inline(always)]
            fn and_bits(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $from_bits($and_bits($to_bits(self.0), $to_bits(other.0))) })
            }

            #[inline(always)]
            fn left(self, by: u32) -> Self {
                // SAFETY: as above; the count is a constant wherever this is inlined.
                Self(unsafe { $from_bits($left($to_bits(self.0), _mm_cvtsi32_si128(by as i32))) })
            }

            #[inline(always)]
            fn right(self, by: u32) -> Self {
                // SAFETY: as above.
                Self(unsafe { $from_bits($right($to_bits(self.0), _mm_cvtsi32_si128(by as i32))) })
            }

            $(
                #[inline(always)]
                fn times_power_of_two(self, n: Self, _halves: impl FnOnce() -> (Self, Self)) -> Self {
                    // SAFETY: as above.
                    Self(unsafe { $scale(self.0, n.0) })
                }
            )?
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
packed!(F32x8 of f32 as u32, mask __m256;
    _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_div_ps, root _mm256_sqrt_ps, _mm256_min_ps _mm256_max_ps, splat _mm256_set1_ps,
    compare _mm256_cmp_ps, and |a, b| _mm256_and_ps(a, b), or _mm256_or_ps(a, b), pick |mask, yes, no| _mm256_blendv_ps(no, yes, mask),
    bits _mm256_castps_si256 _mm256_castsi256_ps, splat _mm256_set1_epi32 as i32,
    _mm256_add_epi32 _mm256_sub_epi32 _mm256_and_si256 _mm256_sll_epi32 _mm256_srl_epi32);

#[cfg(target_arch = "x86_64")]
packed!(F64x4 of f64 as u64, mask __m256d;
    _mm256_add_pd _mm256_sub_pd _mm256_mul_pd _mm256_div_pd, root _mm256_sqrt_pd, _mm256_min_pd _mm256_max_pd, splat _mm256_set1_pd,
    compare _mm256_cmp_pd, and |a, b| _mm256_and_pd(a, b), or _mm256_or_pd(a, b), pick |mask, yes, no| _mm256_blendv_pd(no, yes, mask),
    bits _mm256_castpd_si256 _mm256_castsi256_pd, splat _mm256_set1_epi64x as i64,
    _mm256_add_epi64 _mm256_sub_epi64 _mm256_and_si256 _mm256_sll_epi64 _mm256_srl_epi64);

#[cfg(target_arch = "x86_64")]
packed!(F32x16 of f32 as u32, mask __mmask16;
    _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_div_ps, root _mm512_sqrt_ps, _mm512_min_ps _mm512_max_ps, splat _mm512_set1_ps,
    compare _mm512_cmp_ps_mask, and |a, b| a & b, or a | b, pick |mask, yes, no| _mm512_mask_mov_ps(no, mask, yes),
    bits _mm512_castps_si512 _mm512_castsi512_ps, splat _mm512_set1_epi32 as i32,
    _mm512_add_epi32 _mm512_sub_epi32 _mm512_and_si512 _mm512_sll_epi32 _mm512_srl_epi32, power _mm512_scalef_ps);

#[cfg(target_arch = "x86_64")]
packed!(F64x8 of f64 as u64, mask __mmask8;
    _mm512_add_pd _mm512_sub_pd _mm512_mul_pd _mm512_div_pd, root _mm512_sqrt_pd, _mm512_min_pd _mm512_max_pd, splat _mm512_set1_pd,
    compare _mm512_cmp_pd_mask, and |a, b| a & b, or a | b, pick |mask, yes, no| _mm512_mask_mov_pd(no, mask, yes),
    bits _mm512_castpd_si512 _mm512_castsi512_pd, splat _mm512_set1_epi64 as i64,
    _mm512_add_epi64 _mm512_sub_epi64 _mm512_and_si512 _mm512_sll_epi64 _mm512_srl_epi64, power _mm512_scalef_pd);

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::vector::Vector;
    use crate::vector::on;
    use levelfold::numerics::elementary::{exp_of, log_of};

    /// Numbers of all sizes and signs, and what is special.
    fn numbers() -> Vec<f64> {
        let special = [
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            1.0,
            88.8,
            -103.9,
            -104.1,
            709.9,
            -745.2,
            1e-40,
            -1e-40,
            1e-310,
            2.5,
            -2.5,
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let drawn = std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let fraction = (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
            fraction * 2f64.powi((state % 40) as i32 - 20)
        });
        special.into_iter().chain(drawn.take(4096 - special.len())).collect()
    }

    /// Holds every operation in every lane against that of a number.
    macro_rules! compare {
        ($name:ident, $feature:literal, $vector:ident) => {
            #[target_feature(enable = $feature)]
            fn $name() {
                type Number = <$vector as Packed>::Number;
                const LANES: usize = <$vector as Vector>::LANES;
                let numbers: Vec<Number> = numbers().into_iter().map(|number| number as Number).collect();
                for (chunk, shifted) in numbers.chunks_exact(LANES).zip(numbers[LANES - 3..].chunks_exact(LANES)) {
                    // SAFETY: compiled for this vector; chunks have its lanes.
                    let (a, b) = unsafe { (<$vector as Vector>::load(chunk.as_ptr()), <$vector as Vector>::load(shifted.as_ptr())) };
                    macro_rules! lanes {
                        ($what:literal, |$x:ident, $y:ident| $made:expr) => {{
                            let made = {
                                let ($x, $y) = (a, b);
                                $made
                            };
                            let mut got = [0 as Number; LANES];
                            // SAFETY: as above.
                            unsafe { Vector::store(made, got.as_mut_ptr()) };
                            for lane in 0..LANES {
                                let ($x, $y) = (chunk[lane], shifted[lane]);
                                let (wanted, got) = ($made, got[lane]);
                                let equal = got.to_bits() == wanted.to_bits() || got.is_nan() && wanted.is_nan();
                                assert!(equal, "{} of {} and {}: {got:?}, not {wanted:?}", $what, $x, $y);
                            }
                        }};
                    }
                    lanes!("sum", |x, y| x + y);
                    lanes!("difference", |x, y| x - y);
                    lanes!("product", |x, y| x * y);
                    lanes!("quotient", |x, y| x / y);
                    lanes!("size", |x, _y| Packed::absolute(x));
                    lanes!("root", |x, _y| Packed::root(x));
                    lanes!("exp", |x, _y| exp_of(x));
                    lanes!("log", |x, _y| log_of(x));
                    lanes!("larger", |x, y| Packed::larger(x, y));
                    lanes!("smaller", |x, y| Packed::smaller(x, y));
                    lanes!("at most", |x, y| Packed::at_most(x, y));
                    lanes!("at least", |x, y| Packed::at_least(x, y));
                    lanes!("equals", |x, y| pick(x.equals(Packed::absolute(x)), x, y));
                    lanes!("exceeds", |x, y| pick(x.exceeds(y), x, y));
                    lanes!("no number", |x, y| pick(x.is_not_a_number(), y, x));
                    lanes!("both", |x, y| pick(both(x, x.exceeds(y), y.equals(y)), x, y));
                    lanes!("either", |x, y| pick(either(x, x.exceeds(y), x.is_not_a_number()), x, y));
                }
            }
        };
    }

    #[inline(always)]
    fn pick<X: Packed>(mask: X::Mask, yes: X, no: X) -> X {
        X::pick(mask, yes, no)
    }

    #[inline(always)]
    fn both<X: Packed>(_of: X, a: X::Mask, b: X::Mask) -> X::Mask {
        X::both(a, b)
    }

    #[inline(always)]
    fn either<X: Packed>(_of: X, a: X::Mask, b: X::Mask) -> X::Mask {
        X::either(a, b)
    }

    compare!(compare_f32x8, "avx2", F32x8);
    compare!(compare_f64x4, "avx2", F64x4);
    compare!(compare_f32x16, "avx512f,avx512dq", F32x16);
    compare!(compare_f64x8, "avx512f,avx512dq", F64x8);

    #[test]
    fn vectors_compute_what_numbers_do() {
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

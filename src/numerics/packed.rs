//! One number, or several side by side: what reducers with a state and the functions that they need are written in.
//!
//! Every operation is the IEEE operation of the scalar rules in every lane, so one definition gives the same bits for a number and for vectors of any
//! width. Here are f32 and f64; the vectors of an instruction set belong to the backend that has them.

use super::Accumulator;
use super::elementary::{Elementary, sqrt};
use std::ops::{Add, Div, Mul, Sub};

/// A number, or a vector of them. Comparisons give a mask with an answer a lane; a NaN is neither equal nor larger.
pub trait Packed: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> {
    /// One lane.
    type Number: Elementary;
    /// An answer a lane.
    type Mask: Copy;

    /// The same number in every lane.
    fn splat(number: Self::Number) -> Self;
    /// The number nearest to an f64, in every lane.
    #[inline(always)]
    fn of(number: f64) -> Self {
        Self::splat(Self::Number::of_f64(number))
    }
    /// |a|.
    fn absolute(self) -> Self;
    /// √a, correctly rounded; the canonical NaN of what is negative.
    fn root(self) -> Self;
    /// IEEE 754-2019 maximum, but for the payload of a NaN.
    fn larger(self, other: Self) -> Self;
    /// IEEE 754-2019 minimum, but for the payload of a NaN.
    fn smaller(self, other: Self) -> Self;
    /// `most` where a is more, else a, which may be a NaN.
    fn at_most(self, most: Self) -> Self;
    /// `least` where a is less, else a, which may be a NaN.
    fn at_least(self, least: Self) -> Self;
    /// a = b.
    fn equals(self, other: Self) -> Self::Mask;
    /// a > b.
    fn exceeds(self, other: Self) -> Self::Mask;
    /// a is a NaN.
    fn is_not_a_number(self) -> Self::Mask;
    /// Both.
    fn both(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    /// One of them, or both.
    fn either(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    /// `yes` where the mask says so, else `no`: bits are only moved.
    fn pick(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// The same bits in every lane: the low ones of these, where a lane has fewer.
    fn of_bits(bits: u64) -> Self;
    /// The sum of bits as whole numbers, without what does not fit.
    fn plus_bits(self, other: Self) -> Self;
    /// The difference of bits as whole numbers.
    fn minus_bits(self, other: Self) -> Self;
    /// The bits that both have.
    fn and_bits(self, other: Self) -> Self;
    /// Bits moved to the left; zeros come in.
    fn left(self, by: u32) -> Self;
    /// Bits moved to the right; zeros come in.
    fn right(self, by: u32) -> Self;
    /// a · 2ⁿ, rounded once, of an a near 1 or smaller, with n as a number and, in `halves`, 2 to the power of two numbers that add up to n: each a
    /// normal number, so that the first product is exact.
    #[inline(always)]
    fn times_power_of_two(self, _n: Self, halves: impl FnOnce() -> (Self, Self)) -> Self {
        let (first, second) = halves();
        (self * first) * second
    }
}

macro_rules! packed {
    ($float:ident, $uint:ident) => {
        impl Packed for $float {
            type Number = $float;
            type Mask = bool;

            #[inline(always)]
            fn splat(number: $float) -> Self {
                number
            }

            #[inline(always)]
            fn absolute(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn root(self) -> Self {
                sqrt(self)
            }

            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                Accumulator::maximum(self, other)
            }

            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                Accumulator::minimum(self, other)
            }

            #[inline(always)]
            fn at_most(self, most: Self) -> Self {
                if self > most { most } else { self }
            }

            #[inline(always)]
            fn at_least(self, least: Self) -> Self {
                if self < least { least } else { self }
            }

            #[inline(always)]
            fn equals(self, other: Self) -> bool {
                self == other
            }

            #[inline(always)]
            fn exceeds(self, other: Self) -> bool {
                self > other
            }

            #[inline(always)]
            #[allow(clippy::eq_op, reason = "only a NaN differs from itself, and this form becomes vector code")]
            fn is_not_a_number(self) -> bool {
                self != self
            }

            #[inline(always)]
            fn both(a: bool, b: bool) -> bool {
                a & b
            }

            #[inline(always)]
            fn either(a: bool, b: bool) -> bool {
                a | b
            }

            #[inline(always)]
            fn pick(mask: bool, yes: Self, no: Self) -> Self {
                if mask { yes } else { no }
            }

            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, reason = "the low bits are meant")]
            fn of_bits(bits: u64) -> Self {
                <$float>::from_bits(bits as $uint)
            }

            #[inline(always)]
            fn plus_bits(self, other: Self) -> Self {
                <$float>::from_bits(self.to_bits().wrapping_add(other.to_bits()))
            }

            #[inline(always)]
            fn minus_bits(self, other: Self) -> Self {
                <$float>::from_bits(self.to_bits().wrapping_sub(other.to_bits()))
            }

            #[inline(always)]
            fn and_bits(self, other: Self) -> Self {
                <$float>::from_bits(self.to_bits() & other.to_bits())
            }

            #[inline(always)]
            fn left(self, by: u32) -> Self {
                <$float>::from_bits(self.to_bits() << by)
            }

            #[inline(always)]
            fn right(self, by: u32) -> Self {
                <$float>::from_bits(self.to_bits() >> by)
            }
        }
    };
}

packed!(f32, u32);
packed!(f64, u64);

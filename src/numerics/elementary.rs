//! Elementary functions as fixed sequences of IEEE operations: the same bits on every machine, and vector code in a loop.
//!
//! Nothing here calls a mathematical library, which differs from machine to machine. Each function is a sequence of +, −, ×, ÷, selects and integer
//! operations on the bits, written without branches; multiplications and additions are rounded apart (no FMA). So a loop over a slice becomes
//! vector code of any instruction set, in the same bits. `backends/cuda/kernels/elementary.cu` is the same sequence for CUDA, and
//! `tests/elementary_cuda.rs` holds the two together.
//!
//! | function | method | error in ulp, at most |
//! |---|---|---|
//! | [`exp`] | x = n·ln 2 + r, a polynomial for (eʳ − 1 − r)/r², times 2ⁿ in two factors | 0.9 |
//! | [`log`] | x = 2ᵏ·m, s = (m − 1)/(m + 1), a polynomial for (2 artanh s)/s − 2 in s² | 0.9 |
//! | [`tanh`] | below 0.625 an odd polynomial, above 1 − 2/(e²ˣ + 1) | 1.35 |
//! | [`sigmoid`] | 1/(1 + e⁻ˣ), or eˣ/(1 + eˣ) below 0, corrected by what its exponential and its sum were rounded by | 1.4 |
//! | [`erf`] | below 1 an odd polynomial, above 1 − e^(−x²)·q(u), u = (x − a)/(x + a), q for e^(x²)·erfc x | 1.51 |
//! | [`sin`], [`cos`] | x = n·π/2 + r with π/2 in three parts, polynomials in r²; those of f32 are those of f64, rounded | 0.51 (f32), 0.9 (f64) |
//! | [`silu`] | x·sigmoid(x) | 2.5, from x = −87 on |
//! | [`gelu`], [`gelu_tanh`] | by their formulas | 2 of x |
//!
//! Tests hold samples to these numbers, against evaluations with twice the digits. Over all f32 inputs the largest errors are 0.88 (exp), 0.84 (log), 1.31
//! (tanh), 1.37 (sigmoid), 1.51 (erf), 0.51 (sin, cos) and 1.47 units of x (gelu); below −87.3 sigmoids are subnormal, and silu has as few digits as they.
//!
//! Overflow gives an infinity, underflow subnormals and then 0, a NaN the canonical NaN; odd functions keep the sign of zero.
//!
//! **Angles.** `sin` and `cos` take |x| ≤ 2³¹ ([`LARGEST_ANGLE`]); beyond, and for infinities, they give NaN rather than digits that mean nothing. Up to
//! there the reduced angle is off by at most 2⁻⁶⁵. That decides only beside the zeros of an f64 function, where a result of less than 2⁻¹² has that
//! absolute error instead of the relative one.
//!
//! **Coefficients** are this project's own: for each polynomial, the least largest weighted error on its interval by Remez's exchange in 60 digits,
//! rounded to the type. The weights make what is minimised the relative error of the function. The reductions are textbook ones: W. Cody and W. Waite,
//! *Software Manual for the Elementary Functions*, 1980 (splitting constants); P. Tang, ACM TOMS 16 (1990) (the logarithm by artanh);
//! J.-M. Muller, *Elementary Functions*, 3rd ed., 2016.

use super::{Accumulator, Packed, Value};

#[cfg(test)]
mod tests;

/// The largest angle whose sine and cosine are defined here.
pub const LARGEST_ANGLE: f64 = 2147483648.0;

/// eˣ. Infinite from 88.73 (f32) and 709.79 (f64) on; 0 below −103.97 and −745.13.
#[inline(always)]
pub fn exp<A: Elementary>(x: A) -> A {
    x.fixed_exp()
}

/// The natural logarithm: −∞ of ±0, NaN of what is negative.
#[inline(always)]
pub fn log<A: Elementary>(x: A) -> A {
    x.fixed_log()
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh<A: Elementary>(x: A) -> A {
    x.fixed_tanh()
}

/// 1 ÷ (1 + e⁻ˣ), without losing small results.
#[inline(always)]
pub fn sigmoid<A: Elementary>(x: A) -> A {
    x.fixed_sigmoid()
}

/// The error function, 2/√π · ∫₀ˣ e^(−t²) dt.
#[inline(always)]
pub fn erf<A: Elementary>(x: A) -> A {
    x.fixed_erf()
}

/// The sine of an angle up to [`LARGEST_ANGLE`]; NaN beyond.
#[inline(always)]
pub fn sin<A: Elementary>(x: A) -> A {
    A::of_f64(sine_and_cosine(x.as_f64()).0).canonical()
}

/// The cosine of an angle up to [`LARGEST_ANGLE`]; NaN beyond.
#[inline(always)]
pub fn cos<A: Elementary>(x: A) -> A {
    A::of_f64(sine_and_cosine(x.as_f64()).1).canonical()
}

/// √x, correctly rounded as IEEE 754 asks; the canonical NaN of what is negative.
///
/// Not the same as the method of that name followed by a test for NaN: the compiler knows when a root is a NaN, and drops the
/// test together with the canonical NaN that it would give.
#[inline(always)]
pub fn sqrt<A: Elementary>(x: A) -> A {
    x.fixed_sqrt()
}

/// ½·x·(1 + erf(x·√½)): off by at most 2 units in the last place of x. NaN at −∞.
///
/// D. Hendrycks and K. Gimpel, *Gaussian Error Linear Units*, arXiv:1606.08415.
#[inline(always)]
pub fn gelu<A: Elementary>(x: A) -> A {
    x.fixed_gelu()
}

/// ½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))): the approximation of [`gelu`] from the same paper. NaN at −∞.
#[inline(always)]
pub fn gelu_tanh<A: Elementary>(x: A) -> A {
    x.fixed_gelu_tanh()
}

/// x·sigmoid(x). NaN at −∞.
#[inline(always)]
pub fn silu<A: Elementary>(x: A) -> A {
    x.fixed_silu()
}

/// [`exp`] of a number, or of each lane of a vector.
#[inline(always)]
pub fn exp_of<X: Packed>(x: X) -> X {
    X::Number::packed_exp(x)
}

/// [`log`] of a number, or of each lane of a vector.
#[inline(always)]
pub fn log_of<X: Packed>(x: X) -> X {
    X::Number::packed_log(x)
}

/// An accumulator's type, with the sequences for its width. Call the functions of this module: f32 and f64 have methods of
/// the plain names, which are the machine's own library.
pub trait Elementary: Accumulator {
    /// [`exp_of`], and what its last rounding took off, for functions that go on from it.
    fn packed_exp_with_rest<X: Packed<Number = Self>>(x: X) -> (X, X);
    /// [`exp_of`].
    fn packed_exp<X: Packed<Number = Self>>(x: X) -> X;
    /// [`log_of`].
    fn packed_log<X: Packed<Number = Self>>(x: X) -> X;
    /// [`exp`].
    fn fixed_exp(self) -> Self;
    /// [`log`].
    fn fixed_log(self) -> Self;
    /// [`tanh`].
    fn fixed_tanh(self) -> Self;
    /// [`sigmoid`].
    fn fixed_sigmoid(self) -> Self;
    /// [`erf`].
    fn fixed_erf(self) -> Self;
    /// [`gelu`].
    fn fixed_gelu(self) -> Self;
    /// [`gelu_tanh`].
    fn fixed_gelu_tanh(self) -> Self;
    /// [`silu`].
    fn fixed_silu(self) -> Self;
    /// [`sqrt`].
    fn fixed_sqrt(self) -> Self;
    /// a · b + c, rounded once: a step of a dot product's chain.
    fn fused(self, b: Self, c: Self) -> Self;
    /// A NaN becomes the canonical one.
    fn canonical(self) -> Self;
}

macro_rules! elementary {
    ($float:ident, $uint:ident, $int:ident, exponent $bias:literal << $fraction:literal, round $magic:literal, ln2 $ln2_hi:literal + $ln2_lo:literal,
     exp $least:literal..$most:literal $exp:expr, log $log:expr, tanh $tanh:expr, erf $erf:expr, erfcx $center:literal..$top:literal $erfcx:expr,
     gelu $gelu:literal) => {
        impl Elementary for $float {
            #[inline(always)]
            fn packed_exp<X: Packed<Number = Self>>(of: X) -> X {
                Self::packed_exp_with_rest(of).0
            }

            #[inline(always)]
            fn packed_exp_with_rest<X: Packed<Number = Self>>(of: X) -> (X, X) {
                // What keeps integers positive, so that they may be halved by moving their bits.
                const EVEN: u64 = 1 << 12;
                const BIAS: u64 = u64::wrapping_sub($bias, EVEN >> 1);
                let number = X::splat;
                let x = of.at_most(number($most)).at_least(number($least));
                // Added to 1.5 · 2^fraction, a number loses what is behind its point, and its integer stands in the low bits.
                let shifted = x * number(std::$float::consts::LOG2_E) + number($magic);
                let n = shifted - number($magic);
                let k = shifted.minus_bits(X::of_bits((<$float>::to_bits($magic) as u64).wrapping_sub(EVEN)));
                // The first product is exact, and so is the first difference.
                let (high, low) = (x - n * number($ln2_hi), n * number($ln2_lo));
                let r = high - low;
                let less = (low - (r * r) * polynomial(r, $exp)) - high;
                let y = number(1.0) - less;
                // Exact: y is 1 and something smaller.
                let rest = (number(1.0) - y) - less;
                let halves = || {
                    let half = k.right(1);
                    (power_of_two(half), power_of_two(k.minus_bits(half)))
                };
                let y = y.times_power_of_two(n, halves);
                return (X::pick(of.is_not_a_number(), number(<$float as Value>::NAN), y), rest.times_power_of_two(n, halves));

                #[inline(always)]
                fn power_of_two<X: Packed>(k: X) -> X {
                    k.plus_bits(X::of_bits(BIAS)).left($fraction)
                }
            }

            #[inline(always)]
            fn packed_log<X: Packed<Number = Self>>(of: X) -> X {
                const ONE: u64 = <$float>::to_bits(1.0) as u64;
                const ROOT: u64 = <$float>::to_bits(std::$float::consts::FRAC_1_SQRT_2) as u64;
                const WHOLE: $float = <$float>::from_bits(($bias + $fraction) << $fraction);
                const SUBNORMAL: $float = <$float>::from_bits(($bias + $fraction + 1) << $fraction);
                let number = X::splat;
                let is_subnormal = number(<$float>::MIN_POSITIVE).exceeds(of);
                let x = X::pick(is_subnormal, of * number(SUBNORMAL), of);
                let bits = x.plus_bits(X::of_bits(ONE - ROOT));
                let scale = X::pick(is_subnormal, X::of_bits($fraction + 1), X::of_bits(0));
                // k + a bias that keeps it positive, as the low bits of 2^fraction: minus 2^fraction, it is a number.
                let biased = bits.right($fraction).plus_bits(X::of_bits(3 * $bias)).minus_bits(scale);
                let k = number(WHOLE).plus_bits(biased) - number(WHOLE + 4.0 * $bias as $float);
                let m = bits.and_bits(X::of_bits((1 << $fraction) - 1)).plus_bits(X::of_bits(ROOT));
                let f = m - number(1.0);
                let s = f / (number(2.0) + f);
                let z = s * s;
                let r = z * polynomial(z, $log);
                let half = number(0.5) * f * f;
                let y = k * number($ln2_hi) - ((half - (s * (half + r) + k * number($ln2_lo))) - f);
                let y = X::pick(of.equals(number(<$float>::INFINITY)), of, y);
                let y = X::pick(of.equals(number(0.0)), number(<$float>::NEG_INFINITY), y);
                let is_defined = X::either(of.exceeds(number(0.0)), of.equals(number(0.0)));
                X::pick(is_defined, y, number(<$float as Value>::NAN))
            }

            #[inline(always)]
            fn fixed_exp(self) -> Self {
                Self::packed_exp(self)
            }

            #[inline(always)]
            fn fixed_log(self) -> Self {
                Self::packed_log(self)
            }

            #[inline(always)]
            fn fixed_tanh(self) -> Self {
                let a = self.abs();
                let z = a * a;
                let small = a + a * (z * polynomial(z, $tanh));
                let large = 1.0 - 2.0 / ((a + a).fixed_exp() + 1.0);
                (if a < 0.625 { small } else { large }).copysign(self).canonical()
            }

            #[inline(always)]
            fn fixed_sigmoid(self) -> Self {
                let (e, rest) = Self::packed_exp_with_rest(-self.abs());
                let below = self < 0.0;
                let (above, above_rest) = if below { (e, rest) } else { (1.0, 0.0) };
                let sum = 1.0 + e;
                let sum_rest = (e - (sum - 1.0)) + rest;
                let y = above / sum;
                // What was rounded off above and below the line, divided by the sum; 1 ÷ sum is 1 − y below 0.
                let inverse = if below { 1.0 - y } else { y };
                (y + (above_rest - y * sum_rest) * inverse).canonical()
            }

            #[inline(always)]
            fn fixed_erf(self) -> Self {
                let a = self.abs();
                let small = a + a * polynomial(a * a, $erf);
                let b = if a > $top { $top } else { a };
                let u = (b - $center) / (b + $center);
                let large = 1.0 - (-(b * b)).fixed_exp() * polynomial(u, $erfcx);
                (if a < 1.0 { small } else { large }).copysign(self).canonical()
            }

            #[inline(always)]
            fn fixed_gelu(self) -> Self {
                let phi = 1.0 + (self * std::$float::consts::FRAC_1_SQRT_2).fixed_erf();
                ((0.5 * self) * phi).canonical()
            }

            #[inline(always)]
            fn fixed_gelu_tanh(self) -> Self {
                let cube = (self * self) * self;
                let phi = 1.0 + ($gelu * (self + 0.044715 * cube)).fixed_tanh();
                ((0.5 * self) * phi).canonical()
            }

            #[inline(always)]
            fn fixed_silu(self) -> Self {
                (self * self.fixed_sigmoid()).canonical()
            }

            #[inline(always)]
            fn fixed_sqrt(self) -> Self {
                let root = self.sqrt();
                // By its bits, so that the canonical NaN stays.
                if root.to_bits() << 1 > <$float>::INFINITY.to_bits() << 1 { <$float as Value>::NAN } else { root }
            }

            #[inline(always)]
            fn fused(self, b: Self, c: Self) -> Self {
                self.mul_add(b, c)
            }

            #[inline(always)]
            fn canonical(self) -> Self {
                if is_nan(self) { <$float as Value>::NAN } else { self }
            }
        }
    };
}

elementary! {
    f32, u32, i32, exponent 127 << 23, round 12582912.0, ln2 0.693_145_75 + 1.428_606_8e-6,
    exp -104.0..89.0 [5.0e-1, 1.6666666e-1, 4.1666295e-2, 8.333498e-3, 1.3944744e-3, 1.9790255e-4],
    log [6.666666e-1, 4.0000334e-1, 2.8537276e-1, 2.3582825e-1],
    tanh [-3.333328e-1, 1.3331442e-1, -5.373972e-2, 2.0639103e-2, -5.7050027e-3],
    erf [1.2837917e-1, -3.7612626e-1, 1.12836e-1, -2.6854444e-2, 5.189535e-3, -8.0208416e-4, 7.889119e-5],
    erfcx 2.0..4.0 [2.5539568e-1, -4.2718586e-1, 2.4165727e-1, -7.8986906e-2, 3.7297371e-3, 7.212548e-3],
    gelu 0.797_884_6
}

elementary! {
    f64, u64, i64, exponent 1023 << 52, round 6755399441055744.0, ln2 0.6931471803691238 + 1.9082149292705877e-10,
    exp -746.0..710.0 [
        0.5000000000000011, 0.1666666666666641, 0.04166666666652934, 0.008333333333495455, 0.001388888894387806,
        0.00019841269505020196, 2.480149281385729e-5, 2.755758721612244e-6, 2.763035888627195e-7, 2.4999972868509646e-8
    ],
    log [
        0.6666666666666735, 0.39999999999413116, 0.2857142874278245, 0.2222219852841373, 0.1818356685466481,
        0.15313981051427175, 0.1479669050705381
    ],
    tanh [
        -0.33333333333333315, 0.13333333333329744, -0.05396825396605915, 0.02186948846872077, -0.00886323431264796,
        0.003592114000454293, -0.00145572595129941, 0.0005894518111972006, -0.00023701176118557076, 9.15584620302961e-5,
        -3.0187267526898906e-5, 6.042487650774061e-6
    ],
    erf [
        0.12837916709551256, -0.3761263890318355, 0.11283791670945252, -0.026866170643276066, 0.005223977607422444,
        -0.0008548325989657964, 0.00012055295319610948, -1.492474465104607e-5, 1.6447517576386865e-6,
        -1.6209175465694306e-7, 1.3722975567005645e-8, -7.801189538989915e-10
    ],
    erfcx 3.0..6.0 [
        0.17900115118139, -0.3262335600431626, 0.24560380170781032, -0.15011593654566557, 0.07166583744041927,
        -0.024392489969432395, 0.004269232724714197, 0.0007083055417633226, -0.0005950000910232623, 5.02185459321715e-5,
        7.162401286762224e-5, -6.440968142693669e-6, -6.579407413289298e-6
    ],
    gelu 0.7978845608028654
}

/// c₀ + c₁x + c₂x² + …, by Horner's rule.
#[inline(always)]
fn polynomial<X: Packed, const N: usize>(x: X, coefficients: [X::Number; N]) -> X {
    let mut value = X::splat(coefficients[N - 1]);
    for index in (0..N - 1).rev() {
        value = value * x + X::splat(coefficients[index]);
    }
    value
}

#[inline(always)]
#[allow(clippy::eq_op, reason = "only a NaN differs from itself, and this form becomes vector code")]
fn is_nan<A: Accumulator>(x: A) -> bool {
    x != x
}

/// (sin r/r − 1)/r² in r².
const SIN: [f64; 6] = [
    -0.16666666666666632,
    0.008333333333322415,
    -0.00019841269829808052,
    2.7557313691985703e-6,
    -2.5050758124194802e-8,
    1.5896796103049239e-10,
];

/// (cos r − 1 + r²/2)/r⁴ in r².
const COS: [f64; 6] = [
    0.0416666666666666,
    -0.0013888888888874125,
    2.480158728948283e-5,
    -2.755731435248203e-7,
    2.0875723289620876e-9,
    -1.1359648494099235e-11,
];

/// Sine and cosine together.
#[inline(always)]
fn sine_and_cosine(x: f64) -> (f64, f64) {
    const MAGIC: f64 = 6755399441055744.0;
    // π/2 in three parts; n has at most 31 bits, and each of the first two parts 22, so their products are exact.
    const FIRST: f64 = 1.570796012878418;
    const SECOND: f64 = 3.139164164167596e-7;
    const THIRD: f64 = 6.223372171896613e-14;
    let a = x.abs();
    let shifted = a * std::f64::consts::FRAC_2_PI + MAGIC;
    let n = shifted - MAGIC;
    let quadrant = shifted.to_bits();
    let rest = (a - n * FIRST) - n * SECOND;
    let third = n * THIRD;
    let r = rest - third;
    let low = (rest - r) - third;
    let z = r * r;
    let half = 0.5 * z;
    let s = r + ((r * z) * polynomial(z, SIN) + low * (1.0 - half));
    let one_less = 1.0 - half;
    let c = one_less + (((1.0 - one_less) - half) + ((z * z) * polynomial(z, COS) - r * low));
    let is_odd = quadrant & 1 == 1;
    let (sine, cosine) = if is_odd { (c, s) } else { (s, c) };
    let flip_sine = (quadrant & 2) << 62;
    let flip_cosine = (quadrant.wrapping_add(1) & 2) << 62;
    let sine = f64::from_bits(sine.to_bits() ^ flip_sine ^ (x.to_bits() & (1 << 63)));
    let cosine = f64::from_bits(cosine.to_bits() ^ flip_cosine);
    let nan = <f64 as Value>::NAN;
    if a <= LARGEST_ANGLE { (sine, cosine) } else { (nan, nan) }
}

//! Held against evaluations with twice the digits, by series and reductions other than those that are tested.

use super::*;
use std::f64::consts::{LN_2, PI};

/// A number as the unevaluated sum of two: about 32 digits. Sums and products as in T. Dekker, Numer. Math. 18 (1971).
#[derive(Clone, Copy)]
struct Twice(f64, f64);

const LN_2_LOW: f64 = 2.3190468138462996e-17;
const PI_LOW: f64 = 1.2246467991473532e-16;
const PI_LOWER: f64 = -2.9947698097183397e-33;

impl Twice {
    fn of(x: f64) -> Self {
        Twice(x, 0.0)
    }

    fn sum(a: f64, b: f64) -> Self {
        let s = a + b;
        let t = s - a;
        Twice(s, (a - (s - t)) + (b - t))
    }

    fn product(a: f64, b: f64) -> Self {
        let p = a * b;
        Twice(p, a.mul_add(b, -p))
    }

    fn plus(self, other: Self) -> Self {
        let (high, low) = (Self::sum(self.0, other.0), Self::sum(self.1, other.1));
        let middle = Self::sum(high.0, high.1 + low.0);
        Self::sum(middle.0, middle.1 + low.1)
    }

    fn minus(self, other: Self) -> Self {
        self.plus(Twice(-other.0, -other.1))
    }

    fn times(self, other: Self) -> Self {
        let p = Self::product(self.0, other.0);
        Self::sum(p.0, p.1 + (self.0 * other.1 + self.1 * other.0))
    }

    fn over(self, other: Self) -> Self {
        let first = self.0 / other.0;
        let rest = self.minus(other.times(Self::of(first)));
        let second = rest.0 / other.0;
        let rest = rest.minus(other.times(Self::of(second)));
        Self::sum(first, second).plus(Self::of(rest.0 / other.0))
    }

    fn scaled(self, by: f64) -> Self {
        Twice(self.0 * by, self.1 * by)
    }

    /// Taylor's series over a 256th of what is left of ln 2, squared back; without the last power of two, which is given beside it.
    fn exp(self) -> (Self, i32) {
        let n = (self.0 / LN_2).round();
        let r = self.minus(Self::product(n, LN_2)).minus(Self::product(n, LN_2_LOW)).scaled(1.0 / 256.0);
        let (mut term, mut value) = (r, r);
        for k in 2..12 {
            term = term.times(r).over(Self::of(f64::from(k)));
            value = value.plus(term);
        }
        // (1 + v)² − 1 = v² + 2v keeps the digits of what is small.
        for _ in 0..8 {
            value = value.times(value).plus(value.scaled(2.0));
        }
        (value.plus(Self::of(1.0)), n as i32)
    }

    /// Newton's step on e^y = x from the library's logarithm, twice.
    fn log(self) -> Self {
        let mut y = Self::of(self.0.ln());
        for _ in 0..2 {
            let (e, k) = Twice(-y.0, -y.1).exp();
            // x·e^−y − 1, in halves so that no power of two overflows.
            let product = self.scaled(2f64.powi(k / 2)).times(e).scaled(2f64.powi(k - k / 2));
            y = y.plus(product.minus(Self::of(1.0)));
        }
        y
    }

    /// Taylor's series of sine or cosine after taking off multiples of π/2 in three parts.
    fn sine(self, shift: u64) -> Self {
        let n = (self.0 / (PI / 2.0)).round();
        let part = |part: f64| Self::product(n, part / 2.0);
        let r = self.minus(part(PI)).minus(part(PI_LOW)).minus(part(PI_LOWER));
        let quadrant = (n as i64 as u64).wrapping_add(shift) & 3;
        let z = r.times(r);
        let (mut term, first) = if quadrant & 1 == 0 { (r, 1) } else { (Self::of(1.0), 0) };
        let mut value = term;
        for k in 0..14 {
            let next = f64::from(2 * k + first + 1);
            term = term.times(z).over(Self::of(-next * (next + 1.0)));
            value = value.plus(term);
        }
        if quadrant & 2 == 2 { Twice(-value.0, -value.1) } else { value }
    }

    /// 2/√π · e^(−x²) · Σ 2ᵏ x^(2k+1) / (2k+1)!!, whose terms are all of one sign.
    fn erf(self) -> Self {
        let z = self.times(self).scaled(2.0);
        let (mut term, mut value, mut k) = (self, self, 1.0);
        while term.0.abs() > value.0.abs() * 1e-34 {
            term = term.times(z).over(Self::of(k + 2.0));
            value = value.plus(term);
            k += 2.0;
        }
        let (e, n) = self.times(Twice(-self.0, -self.1)).exp();
        let root = Self::of(1.0).over(Twice(1.772453850905516, -7.666586499825798e-17));
        value.times(root).scaled(2.0).times(e.scaled(2f64.powi(n)))
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers of all magnitudes up to the largest, of both signs, and as many evenly spread.
fn sample(count: u64, smallest: f64, largest: f64) -> Vec<f64> {
    let mut state = 5;
    let mut unit = move || (splitmix(&mut state) >> 11) as f64 * 2f64.powi(-53);
    let span = largest.log2() - smallest.log2();
    let mut numbers = Vec::new();
    for index in 0..count {
        let magnitude = if index % 2 == 0 { 2f64.powf(smallest.log2() + unit() * span) } else { largest * unit() };
        numbers.extend([magnitude, -magnitude]);
    }
    numbers
}

/// The distance between numbers of this type beside a result.
fn unit_of<A: Elementary>(value: f64) -> f64 {
    match A::DTYPE {
        crate::DType::F32 => 2f64.powi((value.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor() as i32).min(127) - 23),
        _ => {
            let value = value.abs().clamp(f64::MIN_POSITIVE, f64::MAX);
            f64::from_bits((value.to_bits() & (0x7ff << 52)).max(53 << 52)) * 2f64.powi(-52)
        }
    }
}

/// The largest error over a sample, in units in the last place.
fn worst<A: Elementary>(numbers: &[f64], computed: impl Fn(A) -> A, exact: impl Fn(f64) -> Twice) -> (f64, f64) {
    let mut worst = (0.0, 0.0);
    for number in numbers {
        let x = A::of_f64(*number);
        let wanted = exact(x.as_f64());
        let got = computed(x).as_f64();
        let error = ((got - wanted.0) - wanted.1).abs() / unit_of::<A>(wanted.0);
        assert!(!error.is_nan(), "{x:?}: {got:e}, not {:e}", wanted.0);
        if error > worst.0 {
            worst = (error, x.as_f64());
        }
    }
    worst
}

fn hold<A: Elementary>(count: u64, bounds: [f64; 9]) {
    let single = A::DTYPE == crate::DType::F32;
    let (tiny, top) = if single { (1e-37, 87.0) } else { (1e-300, 708.0) };
    let exp = |x: f64| {
        let (value, n) = Twice::of(x).exp();
        value.scaled(2f64.powi(n))
    };
    let one = Twice::of(1.0);
    let tanh = |x: f64| {
        let (value, n) = Twice::of(2.0 * x.abs()).exp();
        let value = value.scaled(2f64.powi(n));
        let value = if x.abs() < 1e-5 {
            // x − x³/3 + 2x⁵/15: the rest is below 2^-100 of it.
            let z = Twice::product(x, x);
            let series = one.minus(z.over(Twice::of(3.0))).plus(z.times(z).scaled(2.0).over(Twice::of(15.0)));
            series.times(Twice::of(x.abs()))
        } else {
            value.minus(one).over(value.plus(one))
        };
        value.scaled(x.signum())
    };
    let sigmoid = |x: f64| {
        let e = exp(-x.abs());
        (if x < 0.0 { e } else { one }).over(one.plus(e))
    };
    let erf = |x: f64| if x.abs() > 6.0 { Twice::of(x.signum()) } else { Twice::of(x).erf() };
    let root = Twice(std::f64::consts::FRAC_1_SQRT_2, -4.833646656726457e-17);
    let positive: Vec<f64> = sample(count, tiny, if single { 3e38 } else { 1e300 }).into_iter().filter(|x| *x > 0.0).collect();
    let around_one = sample(count, 1e-8, 0.5).into_iter().map(|x| 1.0 + x).collect::<Vec<_>>();
    let angles = sample(count, tiny, if single { LARGEST_ANGLE } else { 1e5 });
    let found = [
        ("exp", worst::<A>(&sample(count, tiny, top), |x| exp_of(x), exp)),
        ("log", worst::<A>(&[positive, around_one].concat(), |x| log(x), |x| Twice::of(x).log())),
        ("tanh", worst::<A>(&sample(count, tiny, 20.0), |x| super::tanh(x), tanh)),
        ("sigmoid", worst::<A>(&sample(count, tiny, top), |x| super::sigmoid(x), sigmoid)),
        ("erf", worst::<A>(&sample(count, tiny, 7.0), |x| super::erf(x), erf)),
        ("sin", worst::<A>(&angles, |x| sin(x), |x| Twice::of(x).sine(0))),
        ("cos", worst::<A>(&angles, |x| cos(x), |x| Twice::of(x).sine(1))),
        ("silu", worst::<A>(&sample(count, tiny * 1e10, 80.0), |x| silu(x), |x| sigmoid(x).times(Twice::of(x)))),
        (
            "gelu",
            // Relative to x, which is what its definition keeps.
            worst::<A>(
                &sample(count, tiny * 1e10, 8.0),
                |x| A::of_f64(1.0).add(gelu(x).div(x.mul(A::of_f64(0.5)))),
                |x| {
                    let scaled = Twice::of(x).times(root);
                    let phi = if x.abs() > 8.4 { Twice::of(x.signum()) } else { scaled.erf() };
                    one.plus(one.plus(phi))
                },
            ),
        ),
    ];
    for ((name, (error, at)), bound) in found.into_iter().zip(bounds) {
        println!("{} {name}: {error:.3} ulp at {at:e}", A::DTYPE);
        assert!(error <= bound, "{} {name}: {error} ulp at {at:e}, more than {bound}", A::DTYPE);
    }
}

fn exp_of<A: Elementary>(x: A) -> A {
    super::exp(x)
}

#[test]
fn f32_is_accurate() {
    hold::<f32>(20_000, [0.9, 0.9, 1.35, 1.4, 1.51, 0.51, 0.51, 2.5, 2.0]);
}

#[test]
fn f64_is_accurate() {
    hold::<f64>(10_000, [0.9, 0.9, 1.35, 1.4, 1.51, 0.9, 0.9, 2.5, 2.0]);
}

#[test]
fn f64_angles_keep_their_absolute_error_up_to_the_largest() {
    for x in sample(20_000, 1e5, LARGEST_ANGLE) {
        for (got, wanted) in [(sin(x), Twice::of(x).sine(0)), (cos(x), Twice::of(x).sine(1))] {
            let error = ((got - wanted.0) - wanted.1).abs();
            assert!(error <= unit_of::<f64>(wanted.0) + 2f64.powi(-64), "{x:e}: {got:e} is off by {error:e}");
        }
    }
}

fn edges<A: Elementary>(nan: A, infinity: A, smallest: A, largest: A) {
    let bits = |x: A| x.as_f64().to_bits();
    let zero = A::of_f64(0.0);
    let negative = |x: A| A::of_f64(-x.as_f64());
    let one = A::of_f64(1.0);
    let check = |name: &str, got: A, wanted: A| {
        assert_eq!(bits(got), bits(wanted), "{} {name}: {got:?}, not {wanted:?}", A::DTYPE);
    };
    let half = A::of_f64(0.5);
    type Odd<A> = (&'static str, fn(A) -> A, A);
    let odd: [Odd<A>; 3] = [("tanh", super::tanh, one), ("erf", super::erf, one), ("sin", super::sin, nan)];
    for (name, function, at_infinity) in odd {
        check(name, function(zero), zero);
        check(name, function(negative(zero)), negative(zero));
        check(name, function(smallest), smallest);
        check(name, function(negative(smallest)), negative(smallest));
        check(name, function(infinity), at_infinity);
        if name != "sin" {
            check(name, function(largest), one);
            check(name, function(negative(infinity)), negative(one));
        }
    }
    check("exp 0", super::exp(zero), one);
    check("exp −0", super::exp(negative(zero)), one);
    check("exp small", super::exp(smallest), one);
    check("exp ∞", super::exp(infinity), infinity);
    check("exp −∞", super::exp(negative(infinity)), zero);
    check("exp largest", super::exp(largest), infinity);
    check("log 1", super::log(one), zero);
    check("log 0", super::log(zero), negative(infinity));
    check("log −0", super::log(negative(zero)), negative(infinity));
    check("log ∞", super::log(infinity), infinity);
    check("log −1", super::log(negative(one)), nan);
    check("log −small", super::log(negative(smallest)), nan);
    check("log −∞", super::log(negative(infinity)), nan);
    check("sigmoid 0", super::sigmoid(zero), half);
    check("sigmoid ∞", super::sigmoid(infinity), one);
    check("sigmoid −∞", super::sigmoid(negative(infinity)), zero);
    check("cos 0", super::cos(zero), one);
    check("cos ∞", super::cos(infinity), nan);
    check("gelu ∞", super::gelu(infinity), infinity);
    check("gelu −∞", super::gelu(negative(infinity)), nan);
    check("silu −0", super::silu(negative(zero)), negative(zero));
    check("sqrt −1", super::sqrt(negative(one)), nan);
    let all: [fn(A) -> A; 11] = [
        super::exp,
        super::log,
        super::tanh,
        super::sigmoid,
        super::erf,
        super::sin,
        super::cos,
        super::sqrt,
        super::gelu,
        super::gelu_tanh,
        super::silu,
    ];
    for (index, function) in all.into_iter().enumerate() {
        check(&format!("function {index} of NaN"), function(negative(nan)), nan);
    }
}

#[test]
fn edges_are_what_they_should_be() {
    edges::<f32>(<f32 as Value>::NAN, f32::INFINITY, f32::from_bits(1), f32::MAX);
    edges::<f64>(<f64 as Value>::NAN, f64::INFINITY, f64::from_bits(1), f64::MAX);
}

#[test]
fn overflow_and_underflow_come_where_they_should() {
    // The largest arguments with a finite result, and the next; the smallest with one that is not 0, and the next.
    assert!(exp(88.722_83f32).is_finite() && exp(88.722_84f32).is_infinite());
    assert!(exp(709.782_712_893_383_9f64).is_finite() && exp(709.782_712_893_384_1f64).is_infinite());
    assert!(exp(-103.972_07f32) == f32::from_bits(1) && exp(-103.972_09f32) == 0.0);
    assert!(exp(-745.133_219_101_941_1f64) == f64::from_bits(1) && exp(-745.133_219_101_941_3f64) == 0.0);
    assert_eq!(log(f32::from_bits(1)), -103.278_93);
    assert_eq!(log(f64::from_bits(1)), -744.440_071_921_381_2);
    assert!(sin(LARGEST_ANGLE).is_finite() && sin(LARGEST_ANGLE + 1.0).is_nan());
}

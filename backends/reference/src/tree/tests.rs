//! The tree against exact sums, inside the bound that is printed for it.

mod states;

use super::*;
use half::{bf16, f16};
use levelfold::DType;
use levelfold::numerics::{PairTree, Value, error_bound};

/// SplitMix64 (G. Steele, D. Lea, C. Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [2^-8, 2^6), either sign, all 53 bits in use: far from where f16 underflows.
    fn number(&mut self) -> f64 {
        let mantissa = (self.next() >> 12) | 1 << 52;
        let number = mantissa as f64 * 2f64.powi(-60 + i32::try_from(self.next() % 14).unwrap());
        if self.next() & 1 == 1 { -number } else { number }
    }

    /// A weight in (0, 4), in multiples of 2^-8: exact in every float type.
    fn weight(&mut self) -> f64 {
        f64::from(u8::try_from(self.next() % 255 + 1).unwrap()) * 2f64.powi(-6)
    }
}

/// Everything below is exact in multiples of 2^-80: numbers of at most 2^6 in multiples of 2^-60, times weights in multiples of 2^-8.
fn steps(number: f64) -> i128 {
    let scaled = number * 2f64.powi(80);
    assert!(scaled.abs() < 2f64.powi(120) && scaled.fract() == 0.0, "{number} is a multiple of 2^-80");
    scaled as i128
}

/// value · scale − exact, in units of 2^-80: `value` and `scale` any numbers of f64, taken exactly.
fn difference(value: f64, scale: i128, exact: i128) -> f64 {
    let (mantissa, exponent) = split(value);
    let product = mantissa * scale;
    let shift = exponent + 80;
    if shift >= 0 {
        ((product << shift) - exact) as f64
    } else {
        // The digits of `value` end below those of `exact`: compare in the finer units.
        assert!(shift >= -20, "{value} has no digits below 2^-100");
        (product - (exact << -shift)) as f64 * 2f64.powi(shift)
    }
}

/// A number as mantissa · 2^exponent, the mantissa odd or 0.
fn split(value: f64) -> (i128, i32) {
    let bits = value.to_bits();
    let exponent = i32::try_from(bits >> 52 & 0x7ff).unwrap();
    assert!(exponent != 0 || value == 0.0, "{value} is normal");
    if value == 0.0 {
        return (0, 0);
    }
    let mantissa = i128::from(bits & ((1 << 52) - 1) | 1 << 52);
    let zeros = mantissa.trailing_zeros();
    let mantissa = mantissa >> zeros;
    (if value < 0.0 { -mantissa } else { mantissa }, exponent - 1075 + zeros.cast_signed())
}

const LENGTHS: [usize; 17] = [1, 2, 3, 31, 32, 33, 63, 64, 65, 96, 100, 1023, 1024, 1025, 4096, 4097, 20_000];

/// Reduces numbers rounded to `T` and holds the result, rounded to `T`, against the exact one.
fn stays_inside_the_bound<T: Value<Acc: Packed<Number = T::Acc>>>(reducer: Reducer, weighted: bool, seed: u64) {
    let mut random = Random(seed);
    let mut worst = 0f64;
    for n in LENGTHS {
        let values: Vec<T> = (0..n).map(|_| T::from_f64(random.number())).collect();
        let weights: Vec<T> = (0..n).map(|_| T::from_f64(random.weight())).collect();
        let wide: Vec<T::Acc> = values.iter().map(|x| x.widen()).collect();
        let wide_weights: Vec<T::Acc> = weights.iter().map(|w| w.widen()).collect();
        let reduced = reduce(&reducer, &wide, weighted.then_some(&wide_weights));
        let result = T::from_f64(reduced).to_f64();

        // Σwx and Σ|wx| in units of 2^-80; Σw, or n, in units of 2^-6.
        let one = |i: usize| if weighted { (weights[i].to_f64() * 64.0) as i128 } else { 64 };
        let term = |i: usize| steps(values[i].to_f64() / 64.0) * one(i);
        let exact: i128 = (0..n).map(term).sum();
        let size: i128 = (0..n).map(|i| term(i).abs()).sum();
        let divisor: i128 = if reducer == Reducer::Mean { (0..n).map(one).sum() } else { 64 };
        // |result − exact ÷ divisor| ≤ bound · size ÷ divisor, both sides times the divisor.
        let error = difference(result / 64.0, divisor, exact).abs();
        let bound = error_bound(&reducer, n as u64, T::DTYPE, T::DTYPE, weighted) * size as f64;
        assert!(error <= bound, "seed {seed}: {reducer} of {n} {}, weighted {weighted}: error {error:e}, bound {bound:e}", T::DTYPE);
        worst = worst.max(if bound > 0.0 { error / bound } else { 0.0 });
    }
    println!("seed {seed}: {reducer} of {}, weighted {weighted}: at most {worst:.3} of the bound", T::DTYPE);
}

#[test]
fn sums_and_means_stay_inside_the_bound() {
    for seed in 1..=20 {
        for reducer in [Reducer::Sum, Reducer::Mean] {
            for weighted in [false, true] {
                stays_inside_the_bound::<f32>(reducer.clone(), weighted, seed);
                stays_inside_the_bound::<f64>(reducer.clone(), weighted, seed);
                stays_inside_the_bound::<f16>(reducer.clone(), weighted, seed);
                stays_inside_the_bound::<bf16>(reducer.clone(), weighted, seed);
            }
        }
    }
}

#[test]
fn a_million_tenths() {
    let n = 1_000_000u64;
    let values = vec![0.1f32; n as usize];
    let exact = f64::from(0.1f32) * n as f64; // 24 bits times 20 bits: exact
    let sum = f64::from(f32::from_f64(reduce(&Reducer::Sum, &values, None)));
    let bound = error_bound(&Reducer::Sum, n, DType::F32, DType::F32, false);
    assert!((sum - exact).abs() <= bound * exact, "{sum} for {exact}");
    let mean = f64::from(f32::from_f64(reduce(&Reducer::Mean, &values, None)));
    let bound = error_bound(&Reducer::Mean, n, DType::F32, DType::F32, false);
    assert!((mean - f64::from(0.1f32)).abs() <= bound * f64::from(0.1f32), "{mean}");
    // What a plain loop gives is four digits worse, and outside.
    let plain = values.iter().fold(0f32, |sum, x| sum + x);
    assert!((f64::from(plain) - exact).abs() > 100.0 * bound * exact, "{plain} for {exact}");
}

#[test]
fn many_ones_have_the_mean_one_and_their_sum() {
    let ones = vec![1f32; 100_000];
    assert_eq!(f16::from_f64(reduce(&Reducer::Mean, &ones, None)), f16::ONE);
    assert_eq!(bf16::from_f64(reduce(&Reducer::Mean, &ones, None)), bf16::ONE);
    assert_eq!(reduce(&Reducer::Mean, &ones, Some(&ones)), 1.0);
    assert_eq!(bf16::from_f64(reduce(&Reducer::Sum, &ones[..4096], None)).to_f64(), 4096.0);
    assert_eq!(f16::from_f64(reduce(&Reducer::Sum, &ones, None)), f16::INFINITY);
}

#[test]
fn integers_sum_exactly_in_any_length() {
    // Partial sums stay below 2^24, so nothing is ever rounded and the result is the integer.
    let mut random = Random(3);
    for n in LENGTHS {
        let values: Vec<i64> = (0..n).map(|_| i64::try_from(random.next() % 401).unwrap() - 200).collect();
        let floats: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        assert_eq!(reduce(&Reducer::Sum, &floats, None), values.iter().sum::<i64>() as f64, "{n}");
        assert_eq!(reduce(&Reducer::Max, &floats, None), *values.iter().max().unwrap() as f64, "{n}");
        assert_eq!(reduce(&Reducer::Min, &floats, None), *values.iter().min().unwrap() as f64, "{n}");
    }
}

#[test]
fn products_stay_inside_the_bound() {
    // Factors 2^a · 3^b / 2^c, so that the exact product is known: signs, and 3 to a power, times a power of two.
    let mut random = Random(4);
    for n in LENGTHS {
        let (mut threes, mut twos, mut negative) = (0i32, 0i32, false);
        let values: Vec<f32> = (0..n)
            .map(|_| {
                let (up, down) =
                    if threes < 30 && random.next().is_multiple_of(4) { (1, 2) } else { (0, i32::from(twos > 0) - i32::from(twos < 0)) };
                let sign = random.next() & 1 == 1;
                threes += up;
                twos -= down;
                negative ^= sign;
                3f32.powi(up) * 2f32.powi(-down) * if sign { -1.0 } else { 1.0 }
            })
            .collect();
        let exact = 3f64.powi(threes) * 2f64.powi(twos) * if negative { -1.0 } else { 1.0 };
        let product = f64::from(f32::from_f64(reduce(&Reducer::Prod, &values, None)));
        let bound = error_bound(&Reducer::Prod, n as u64, DType::F32, DType::F32, false);
        assert!((product - exact).abs() <= bound * exact.abs(), "{n}: {product:e} for {exact:e}");
    }
}

#[test]
fn the_counter_gives_the_same_bits() {
    let mut random = Random(5);
    for n in (1..=700).map(|blocks| blocks * BLOCK_ROWS - 5).chain(LENGTHS) {
        let values: Vec<f32> = (0..n).map(|_| random.number() as f32).collect();
        let mut tree = PairTree::with_capacity(1, 40);
        for rows in values.chunks(BLOCK_ROWS) {
            tree.push::<AddOp>(1, [f64::from(rows.iter().fold(-0.0f32, |acc, x| acc + x))]);
        }
        assert_eq!(reduce(&Reducer::Sum, &values, None).to_bits(), tree.fold::<AddOp>()[0].to_bits(), "{n} rows");
    }
}

#[test]
fn special_values_go_where_ieee_754_sends_them() {
    let sum = |values: &[f32]| reduce(&Reducer::Sum, values, None);
    assert_eq!(sum(&[-0.0, -0.0]).to_bits(), (-0.0f64).to_bits());
    assert_eq!(sum(&[-0.0; 40]).to_bits(), (-0.0f64).to_bits());
    assert_eq!(sum(&[-0.0, 0.0]).to_bits(), 0.0f64.to_bits());
    assert!(sum(&[f32::INFINITY, f32::NEG_INFINITY]).is_nan());
    assert_eq!(reduce(&Reducer::Max, &[-0.0f32, 0.0, -0.0], None).to_bits(), 0.0f64.to_bits());
    assert_eq!(reduce(&Reducer::Min, &[0.0f32, -0.0, 0.0], None).to_bits(), (-0.0f64).to_bits());
    for at in [0, 31, 32, 99] {
        let mut values = [1.0f32; 100];
        values[at] = f32::NAN;
        for reducer in Reducer::PLAIN.into_iter().chain([Reducer::Var { ddof: 1 }, Reducer::Std { ddof: 0 }, Reducer::L1, Reducer::L2]) {
            assert!(reduce(&reducer, &values, None).is_nan(), "{reducer} with a nan at {at}");
        }
    }
}

//! The scalar rules, held against definitions of their own.

use super::*;

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

    /// In [−2, 2), with many exponents.
    fn number(&mut self) -> f64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (unit * 4.0 - 2.0) * 2f64.powi(-((self.next() % 20) as i32))
    }
}

/// The number that a pattern of a 16-bit float stands for, from the definition of the format.
fn decode(pattern: u16, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = i32::from(pattern >> fraction_bits & ((1 << exponent_bits) - 1));
    let fraction = f64::from(pattern & ((1 << fraction_bits) - 1)) / 2f64.powi(fraction_bits as i32);
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
    };
    if pattern >> 15 == 1 { -magnitude } else { magnitude }
}

/// Rounds every number, every midpoint between neighbours, and what lies next to the midpoints, both signs.
fn rounds_once(exponent_bits: u32, fraction_bits: u32, round: fn(f64) -> u16) {
    let infinity = ((1u16 << exponent_bits) - 1) << fraction_bits;
    let sign = 1u16 << 15;
    for below in 0..infinity {
        let above = below + 1;
        // The number after the largest is what it would be without a limit: from its half on, everything is infinite.
        let (low, high) = (decode(below, exponent_bits, fraction_bits), decode(above, exponent_bits, fraction_bits));
        let middle = low + (high - low) / 2.0;
        let even = if below & 1 == 0 { below } else { above };
        let cases = [(low, below), (middle.next_down(), below), (middle, even), (middle.next_up(), above)];
        for (number, wanted) in cases {
            assert_eq!(round(number), wanted, "{number:e} between {below:#06x} and {above:#06x}");
            assert_eq!(round(-number), wanted | sign, "-{number:e} between {below:#06x} and {above:#06x}");
        }
        if above < infinity {
            assert_eq!(round(high.next_down()), above, "just under {above:#06x}");
        }
    }
    for huge in [2f64.powi(200), f64::MAX, f64::INFINITY] {
        assert_eq!((round(huge), round(-huge)), (infinity, infinity | sign), "{huge:e}");
    }
    for tiny in [0.0, f64::from_bits(1), f64::MIN_POSITIVE, 2f64.powi(-200)] {
        assert_eq!((round(tiny), round(-tiny)), (0, sign), "{tiny:e}");
    }
}

#[test]
fn f16_is_rounded_once_around_every_midpoint() {
    rounds_once(5, 10, |number| <f16 as Value>::from_f64(number).to_bits());
}

#[test]
fn bf16_is_rounded_once_around_every_midpoint() {
    rounds_once(8, 7, |number| <bf16 as Value>::from_f64(number).to_bits());
}

#[test]
fn from_f32_and_from_f64_agree_where_both_are_exact() {
    let mut random = Random(1);
    let patterns = (0..=u16::MAX).map(|pattern| u32::from(pattern) << 16);
    let any = std::iter::repeat_with(|| random.next() as u32).take(200_000);
    for bits in patterns.chain(any) {
        let number = f32::from_bits(bits);
        assert_eq!(<f16 as Value>::from_f32(number).to_bits(), <f16 as Value>::from_f64(f64::from(number)).to_bits(), "{bits:#010x}");
        assert_eq!(<bf16 as Value>::from_f32(number).to_bits(), <bf16 as Value>::from_f64(f64::from(number)).to_bits(), "{bits:#010x}");
        assert_eq!(<f32 as Value>::from_f32(number).to_bits(), <f32 as Value>::from_f64(f64::from(number)).to_bits(), "{bits:#010x}");
    }
}

#[test]
fn every_16_bit_value_widens_and_comes_back() {
    for pattern in 0..=u16::MAX {
        let (half, brain) = (f16::from_bits(pattern), bf16::from_bits(pattern));
        let wanted = |nan: bool, canonical: u16| if nan { canonical } else { pattern };
        assert_eq!(f16::from_acc(half.widen()).to_bits(), wanted(half.is_nan(), f16::NAN.to_bits()), "{pattern:#06x}");
        assert_eq!(bf16::from_acc(brain.widen()).to_bits(), wanted(brain.is_nan(), <bf16 as Value>::NAN.to_bits()), "{pattern:#06x}");
        if !half.is_nan() && half.is_finite() {
            assert_eq!(half.to_f64(), decode(pattern, 5, 10), "{pattern:#06x}");
        }
        if !brain.is_nan() && brain.is_finite() {
            assert_eq!(brain.to_f64(), decode(pattern, 8, 7), "{pattern:#06x}");
        }
    }
}

#[test]
fn every_nan_that_leaves_is_the_canonical_one() {
    let nans = [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001), f64::from_bits(0xffff_ffff_ffff_ffff)];
    for nan in nans {
        assert_eq!(<f32 as Value>::from_f64(nan).to_bits(), 0x7fc0_0000);
        assert_eq!(<f32 as Value>::from_f32(nan as f32).to_bits(), 0x7fc0_0000);
        assert_eq!(<f64 as Value>::from_f64(nan).to_bits(), 0x7ff8_0000_0000_0000);
        assert_eq!(<f16 as Value>::from_f64(nan).to_bits(), 0x7e00);
        assert_eq!(<bf16 as Value>::from_f64(nan).to_bits(), 0x7fc0);
    }
}

/// IEEE 754-2019 maximum and minimum by their definition.
fn chosen(a: f64, b: f64, want: fn(&f64, &f64) -> bool) -> f64 {
    if a.is_nan() || b.is_nan() {
        return f64::NAN;
    }
    if a == b {
        if want(&f64::from(u8::from(a.is_sign_positive())), &f64::from(u8::from(b.is_sign_positive()))) { a } else { b }
    } else if want(&a, &b) {
        a
    } else {
        b
    }
}

#[test]
fn maximum_and_minimum_are_those_of_ieee_754_2019() {
    let numbers = [0.0, -0.0, 1.0, -1.0, f64::MIN_POSITIVE, -f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN];
    for a in numbers {
        for b in numbers {
            let same = |got: f64, wanted: f64| (got.is_nan() && wanted.is_nan()) || got.to_bits() == wanted.to_bits();
            assert!(
                same(Accumulator::maximum(a, b), chosen(a, b, |a, b| a > b)),
                "max of {a:?} and {b:?}: {:?}",
                Accumulator::maximum(a, b)
            );
            assert!(
                same(Accumulator::minimum(a, b), chosen(a, b, |a, b| a < b)),
                "min of {a:?} and {b:?}: {:?}",
                Accumulator::minimum(a, b)
            );
            let (a, b) = (a as f32, b as f32);
            let narrow = |got: f32, wanted: f64| same(f64::from(got), wanted);
            assert!(narrow(Accumulator::maximum(a, b), chosen(a.into(), b.into(), |a, b| a > b)), "max of {a:?} and {b:?}");
            assert!(narrow(Accumulator::minimum(a, b), chosen(a.into(), b.into(), |a, b| a < b)), "min of {a:?} and {b:?}");
        }
    }
}

#[test]
fn starting_from_the_identity_is_starting_with_the_first_row() {
    for first in [0.0f32, -0.0, 1.5, -2.5, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE / 2.0] {
        assert_eq!(AddOp::push(AddOp::identity(), first).to_bits(), first.to_bits(), "{first:?}");
        assert_eq!(MulOp::push(MulOp::identity(), first).to_bits(), first.to_bits(), "{first:?}");
        assert_eq!(MaxOp::push(MaxOp::identity(), first).to_bits(), first.to_bits(), "{first:?}");
        assert_eq!(MinOp::push(MinOp::identity(), first).to_bits(), first.to_bits(), "{first:?}");
    }
}

/// Neighbours in pairs, level by level; an odd last one moves up: the definition.
fn level_by_level<R: ReduceOp>(values: &[f64]) -> f64 {
    match values {
        [only] => *only,
        _ => {
            let pair = |pair: &[f64]| if let [older, newer] = *pair { R::combine(older, newer) } else { pair[0] };
            level_by_level::<R>(&values.chunks(2).map(pair).collect::<Vec<f64>>())
        }
    }
}

fn the_tree_is_the_definition<R: ReduceOp>(seed: u64) {
    let mut random = Random(seed);
    for n in 1..=600usize {
        // Two columns of different numbers show that rows of a tree do not mix.
        let columns: [Vec<f64>; 2] = std::array::from_fn(|_| std::iter::repeat_with(|| random.number()).take(n).collect());
        let wanted = columns.each_ref().map(|column| level_by_level::<R>(column).to_bits());
        let mut tree = PairTree::with_capacity(2, 40);
        for (a, b) in columns[0].iter().zip(&columns[1]) {
            tree.push::<R>(1, [*a, *b]);
        }
        let got: Vec<u64> = tree.fold::<R>().iter().map(|value| value.to_bits()).collect();
        assert_eq!(got, wanted, "seed {seed}, {n} blocks one by one");
        for k in 1..=7u32 {
            tree.clear();
            assert!(tree.is_empty());
            for start in (0..n).step_by(1 << k) {
                let end = n.min(start + (1 << k));
                let value = columns.each_ref().map(|column| level_by_level::<R>(&column[start..end]));
                tree.push::<R>(1 << k, value);
            }
            let got: Vec<u64> = tree.fold::<R>().iter().map(|value| value.to_bits()).collect();
            assert_eq!(got, wanted, "seed {seed}, {n} blocks in groups of {}", 1 << k);
        }
        // Groups of different sizes: the largest that is aligned and fits, then what is left.
        tree.clear();
        let mut start = 0;
        while start < n {
            let aligned = if start == 0 { usize::MAX } else { 1 << start.trailing_zeros() };
            let size = (1usize << (n - start).ilog2()).min(aligned);
            let size = size.min(1 << (random.next() % 10));
            tree.push::<R>(size as u64, columns.each_ref().map(|column| level_by_level::<R>(&column[start..start + size])));
            start += size;
        }
        let got: Vec<u64> = tree.fold::<R>().iter().map(|value| value.to_bits()).collect();
        assert_eq!(got, wanted, "seed {seed}, {n} blocks in groups of several sizes");
    }
}

#[test]
fn the_pair_tree_is_the_definition_for_sums() {
    the_tree_is_the_definition::<AddOp>(11);
}

#[test]
fn the_pair_tree_is_the_definition_for_products() {
    the_tree_is_the_definition::<MulOp>(12);
}

#[test]
fn the_pair_tree_is_the_definition_for_max_and_min() {
    the_tree_is_the_definition::<MaxOp>(13);
    the_tree_is_the_definition::<MinOp>(14);
}

#[test]
fn the_bound_grows_with_the_block_and_then_hardly_at_all() {
    let u = unit_roundoff(DType::F32);
    // One block: n − 1 additions. Several: 31 and the last rounding, and f64 beyond.
    assert_eq!(sum_error_bound(0, DType::F32), 0.0);
    assert_eq!(sum_error_bound(1, DType::F32), 0.0);
    assert!((sum_error_bound(32, DType::F32) / (31.0 * u) - 1.0).abs() < 1e-5);
    assert!((sum_error_bound(1 << 20, DType::F32) / (32.0 * u) - 1.0).abs() < 1e-5);
    assert_eq!(error_bound(&Reducer::Max, 1000, DType::F32, DType::F32, false), 0.0);
    assert!(error_bound(&Reducer::Mean, 32, DType::F32, DType::F32, false) > sum_error_bound(32, DType::F32));
}

#[test]
fn the_bound_covers_one_rounding_of_the_widest_type_and_never_turns_negative() {
    // Two doubles and one addition, whose rounding 1 + 2^-53 would hide.
    let u = unit_roundoff(DType::F64);
    assert!(error_bound(&Reducer::Sum, 2, DType::F64, DType::F64, false) >= u);
    assert!(error_bound(&Reducer::Mean, 2, DType::F64, DType::F64, false) >= 2.0 * u);
    let (a, b) = (1.0, u * 1.5);
    assert!((a + b - a - b).abs() / (a + b) > 0.0, "the addition does round");
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for reducer in Reducer::ALL {
            for n in (0..=48).map(|k| 1u64 << k) {
                for weighted in [false, reducer.takes_weights()] {
                    let bound = error_bound(&reducer, n, dtype, dtype, weighted);
                    assert!(bound >= 0.0, "{reducer} of {n} {dtype}: {bound:e}");
                }
            }
        }
    }
    assert_eq!(error_bound(&Reducer::Prod, 1 << 24, DType::F32, DType::F32, false), f64::INFINITY);
}

//! Reducers with a state, against their definitions in f64 over numbers of f32, inside the printed bounds.

use super::super::reduce;
use super::Random;
use levelfold::numerics::{error_bound, mean_shift, variance_error_bound};
use levelfold::{DType, Reducer};

const LENGTHS: [usize; 12] = [1, 2, 3, 31, 32, 33, 64, 65, 100, 1025, 4097, 20_000];

/// Σw(x − mean)² ÷ (Σw − ddof) and Σwx² ÷ (Σw − ddof), in f64 and in two passes.
fn variance(values: &[f32], weights: &[f32], ddof: u32) -> (f64, f64) {
    let rows = || values.iter().zip(weights).map(|(&x, &w)| (f64::from(x), f64::from(w)));
    let weight: f64 = rows().map(|(_, w)| w).sum();
    let mean = rows().map(|(x, w)| w * x).sum::<f64>() / weight;
    let lost: f64 = rows().map(|(x, w)| w * (x - mean)).sum();
    let squares = rows().map(|(x, w)| w * (x - mean) * (x - mean)).sum::<f64>() - lost * lost / weight;
    let divisor = weight - f64::from(ddof);
    (squares / divisor, rows().map(|(x, w)| w * x * x).sum::<f64>() / divisor)
}

#[test]
fn a_variance_stays_inside_its_bound_whatever_the_rows_have_in_common() {
    let mut worst = 0f64;
    for seed in 1..=8 {
        let mut random = Random(seed);
        for offset in [0.0, 1.0, 1e3, 1e5, 1e7] {
            for n in LENGTHS {
                let values: Vec<f32> = (0..n).map(|_| (offset + random.weight()) as f32).collect();
                for (weighted, ddof) in [(false, 0), (false, 1), (true, 0)] {
                    let weights: Vec<f32> = (0..n).map(|_| if weighted { random.weight() as f32 + 0.25 } else { 1.0 }).collect();
                    let found = reduce(&Reducer::Var { ddof }, &values, weighted.then_some(&weights));
                    let (exact, raw) = variance(&values, &weights, ddof);
                    if n == 1 && ddof == 1 {
                        assert!(found.is_nan());
                        continue;
                    }
                    let (most, least) = weights.iter().fold((0f32, f32::INFINITY), |(most, least), &w| (most.max(w), least.min(w)));
                    let spread = n.min(32) as f64 * f64::from(most / least);
                    let e = variance_error_bound(n as u64, DType::F32, DType::F64, spread);
                    // What the definition in f64 is off itself stands in the same form.
                    let shifted = exact.sqrt() + 4.0 * mean_shift(n as u64) * raw.sqrt();
                    let bound = (1.0 + e) * shifted * shifted - exact + 1e-12 * exact;
                    let error = (found - exact).abs();
                    assert!(
                        error <= bound,
                        "seed {seed}: {n} rows at {offset}, ddof {ddof}, weighted {weighted}: {found:e} for {exact:e}, bound {bound:e}"
                    );
                    worst = worst.max(if bound > 0.0 { error / bound } else { 0.0 });
                    let root = reduce(&Reducer::Std { ddof }, &values, weighted.then_some(&weights));
                    assert!((root * root - found).abs() <= 1e-6 * found, "{root} is the root of {found}");
                }
            }
        }
    }
    println!("variances: at most {worst:.3} of the bound");
    assert!(worst > 0.001, "the bound says something: {worst}");
}

#[test]
fn norms_stay_inside_their_bound() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        for n in LENGTHS {
            let values: Vec<f32> = (0..n).map(|_| random.number() as f32).collect();
            let weights: Vec<f32> = (0..n).map(|_| random.weight() as f32).collect();
            for weighted in [false, true] {
                let w = |i: usize| if weighted { f64::from(weights[i]) } else { 1.0 };
                let l1: f64 = (0..n).map(|i| w(i) * f64::from(values[i]).abs()).sum();
                let l2 = (0..n).map(|i| w(i) * f64::from(values[i]) * f64::from(values[i])).sum::<f64>().sqrt();
                for (reducer, exact) in [(Reducer::L1, l1), (Reducer::L2, l2)] {
                    let found = reduce(&reducer, &values, weighted.then_some(&weights));
                    let bound = error_bound(&reducer, n as u64, DType::F32, DType::F64, weighted) + 1e-12;
                    let error = (found - exact).abs();
                    assert!(error <= bound * exact, "seed {seed}: {reducer} of {n}, weighted {weighted}: {found:e} for {exact:e}");
                }
            }
        }
    }
}

/// Ten million rows around 1000: a sum of squares in f32 has no digit left of their variance.
#[test]
fn ten_million_rows_keep_their_variance() {
    let n = 10_000_000u32;
    let values: Vec<f32> = (0..n).map(|row| 1000.0 + (row % 5) as f32 / 64.0).collect();
    // Of 0, 1, 2, 3, 4 sixty-fourths, each as often as the others.
    let exact = 2.0 / 4096.0;
    let found = reduce(&Reducer::Var { ddof: 0 }, &values, None);
    assert!((found - exact).abs() <= 1e-6 * exact, "{found:e} for {exact:e}");
    assert_eq!(reduce(&Reducer::ArgMax, &values, None), 4.0);
    assert_eq!(reduce(&Reducer::Count, &values, None), f64::from(n));
}

#[test]
fn positions_are_those_of_the_first_nan_or_the_first_best() {
    let mut values: Vec<f32> = (0..100).map(|row| (row % 40) as f32).collect();
    assert_eq!(reduce(&Reducer::ArgMax, &values, None), 39.0);
    assert_eq!(reduce(&Reducer::ArgMin, &values, None), 0.0);
    values[70] = f32::NAN;
    values[90] = f32::NAN;
    assert_eq!((reduce(&Reducer::ArgMax, &values, None), reduce(&Reducer::ArgMin, &values, None)), (70.0, 70.0));
    assert_eq!(reduce(&Reducer::ArgMax, &[f32::NEG_INFINITY; 70], None), 0.0);
    assert_eq!(reduce(&Reducer::ArgMin, &[f32::INFINITY; 70], None), 0.0);
    assert_eq!((reduce(&Reducer::First, &values, None), reduce(&Reducer::Last, &values, None)), (0.0, 19.0));
}

#[test]
fn exponents_are_shifted_and_stay_inside_their_bound() {
    for seed in 1..=8 {
        let mut random = Random(seed);
        for offset in [-1e4, 0.0, 80.0, 1e4] {
            for n in LENGTHS {
                let values: Vec<f32> = (0..n).map(|_| (offset + random.weight()) as f32).collect();
                let largest = values.iter().fold(f32::NEG_INFINITY, |largest, &x| largest.max(x));
                let terms: Vec<f64> = values.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).collect();
                let exact = f64::from(largest) + terms.iter().sum::<f64>().ln();
                let found = reduce(&Reducer::LogSumExp, &values, None);
                let e = error_bound(&Reducer::LogSumExp, n as u64, DType::F32, DType::F32, false);
                // The logarithm and the sum round, in f32 where there is one block.
                let bound = e / (1.0 - e) + 2f64.powi(-23) * (exact.abs() + (exact - f64::from(largest)).abs());
                assert!((found - exact).abs() <= bound, "seed {seed}: {n} rows at {offset}: {found} for {exact}, bound {bound:e}");
                // Scores that are all alike weigh as a mean does; one that is far ahead chooses its row.
                let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
                let pooled = reduce(&Reducer::SoftMax, &values, Some(&vec![offset as f32; n]));
                assert!((pooled - mean).abs() <= 1e-5 * mean.abs().max(1.0), "{pooled} for {mean}");
                let mut scores = vec![f32::NEG_INFINITY; n];
                scores[n / 2] = offset as f32;
                assert_eq!(reduce(&Reducer::SoftMax, &values, Some(&scores)), f64::from(values[n / 2]), "seed {seed}, {n} rows");
            }
        }
    }
}

/// Ten million equal exponents that would each overflow.
#[test]
fn ten_million_exponents_do_not_overflow() {
    let values = vec![1000f32; 10_000_000];
    let found = reduce(&Reducer::LogSumExp, &values, None);
    assert!((found - (1000.0 + 1e7f64.ln())).abs() < 1e-6, "{found}");
}

#[test]
fn quantiles_are_those_of_definition_seven() {
    let quantile = |values: &[f32], q: f64| reduce(&Reducer::Quantile(levelfold::Quantile::new(q).unwrap()), values, None);
    assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
    assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.25), 1.75);
    assert_eq!((quantile(&[7.0, 5.0], 0.0), quantile(&[7.0, 5.0], 1.0)), (5.0, 7.0));
    assert_eq!(quantile(&[f32::NEG_INFINITY, 0.0, f32::INFINITY], 0.5), 0.0);
    // Between an infinity and a number lies that infinity, wherever; between both infinities nothing.
    let (inf, low) = (f32::INFINITY, f32::NEG_INFINITY);
    for q in [0.25, 0.5, 0.75] {
        assert_eq!((quantile(&[low, 5.0], q), quantile(&[7.0, inf], q)), (f64::NEG_INFINITY, f64::INFINITY), "{q}");
        assert!(quantile(&[low, inf], q).is_nan(), "{q}");
    }
    assert_eq!((quantile(&[low, 5.0], 1.0), quantile(&[7.0, inf], 0.0)), (5.0, 7.0));
    assert_eq!(quantile(&[low, low], 0.5), f64::NEG_INFINITY);
    assert!(quantile(&[1.0, f32::NAN, 2.0], 0.0).is_nan());
    let values: Vec<f32> = (0..1001).map(|row| ((row * 617) % 1001) as f32).collect();
    for q in [0.0, 0.1, 0.5, 0.999, 1.0] {
        assert!((quantile(&values, q) - 1000.0 * q).abs() < 1e-9, "{q}");
    }
}

/// Built-in reducers as expressions: where the arithmetic is the same, so are the bits.
#[test]
fn built_in_reducers_can_be_written_as_expressions() {
    let mut random = 0x0dd_ba11u64;
    println!("seed {random}");
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    for rows in [1, 2, 31, 32, 33, 64, 65, 1000, 4097] {
        let values: Vec<f32> = (0..rows).map(|_| 10.0 * next()).collect();
        let weights: Vec<f32> = (0..rows).map(|_| next() + 1.5).collect();
        let of = |text: &str, weights: Option<&[f32]>| reduce(&text.parse::<Reducer>().unwrap(), &values, weights);
        for (built_in, written) in [
            ("sum", "custom(t: s from x by a.s + b.s; s)"),
            ("prod", "custom(t: s from x by a.s * b.s; s)"),
            ("max", "custom(t: s from x by max(a.s, b.s); s)"),
            ("min", "custom(t: s from x by min(a.s, b.s); s)"),
            ("mean", "custom(t: s from x by a.s + b.s; n from 1 by a.n + b.n; s / n)"),
            ("l1", "custom(t: s from abs(x) by a.s + b.s; s)"),
            ("l2", "custom(t: s from x * x by a.s + b.s; sqrt(s))"),
            ("first", "custom(t: s from x by a.s; s)"),
            ("last", "custom(t: s from x by b.s; s)"),
            ("count", "custom(t: s from 1 by a.s + b.s; s)"),
        ] {
            assert_eq!(of(built_in, None).to_bits(), of(written, None).to_bits(), "{built_in} of {rows} rows");
        }
        for (built_in, written) in [
            ("sum", "custom(t: s from w * x by a.s + b.s; s)"),
            ("mean", "custom(t: s from w * x by a.s + b.s; n from w by a.n + b.n; s / n)"),
            ("l1", "custom(t: s from w * abs(x) by a.s + b.s; s)"),
            ("l2", "custom(t: s from w * (x * x) by a.s + b.s; sqrt(s))"),
        ] {
            assert_eq!(of(built_in, Some(&weights)).to_bits(), of(written, Some(&weights)).to_bits(), "weighted {built_in} of {rows} rows");
        }
        // These go over a block twice, which an expression cannot: Chan's rule row by row, and shifts that change on the way.
        for (built_in, written) in [
            (
                "var",
                "custom(t: n from 1 by a.n + b.n; m from x by a.m + (b.m - a.m) * (b.n / (a.n + b.n)); \
                 q from 0 by a.q + b.q + (b.m - a.m) * (b.m - a.m) * (a.n * (b.n / (a.n + b.n))); q / n)",
            ),
            (
                "logsumexp",
                "custom(t: m from x by max(a.m, b.m); \
                 s from 1 by a.s * exp(a.m - max(a.m, b.m)) + b.s * exp(b.m - max(a.m, b.m)); m + log(s))",
            ),
        ] {
            let (a, b) = (of(built_in, None), of(written, None));
            // A few roundings of f32 for each of 32 rows.
            assert!((a - b).abs() <= 64.0 * f64::from(f32::EPSILON) * (1.0 + a.abs()), "{built_in} of {rows} rows: {a} and {b}");
        }
    }
}

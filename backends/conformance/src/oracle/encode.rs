//! Encoders in f64, and how far a computed result may be from the exact one.
//!
//! With u the unit roundoff of the accumulator plus that of f64 (in which the oracle itself computes), γ(k) = ku ÷ (1 − ku), and e the bound
//! of what comes in, a result may differ by:
//!
//! | operation | by what comes in | by its own rounding |
//! |---|---|---|
//! | matrix product, convolution | Σ(|w| · eₓ + |x| · e_w + eₓ · e_w) | γ(K) · Σ|w · x| over K terms, the bias among them |
//! | activation | L · e, L the largest slope (relu, tanh 1; gelu 1.13; silu 1.1; sigmoid ¼) | c · u · |x| for gelu (4) and gelu-tanh (6), c · u · |y| for silu (7), tanh (3), sigmoid (6) |
//! | norms | through mean, differences, squares, mean and root, one after the other | the same |
//! | attention | scores as a product; a weight by e^(2δ) − 1, δ the most that a score is away | a few u a step |
//! | positions | e | u · (|x| + 1), and the angle's own rounding |
//!
//! and by one rounding to the type of the rows, where that is narrower. A NaN stays one; where an infinity takes part, anything goes (the
//! bits are still compared with the reference).

use super::{Number, Numbers, in_range};
use crate::tensor::{largest, smallest};
use levelfold::encoder::{Activation, Encoding, Kernel, RowOp};
use levelfold::graph::Operand;
use levelfold::ids::TableId;
use levelfold::numerics::{BLOCK_ROWS, unit_roundoff};
use levelfold::{DType, Segments};
use std::ops::Range;
use std::rc::Rc;

const V: f64 = 1.2e-16;

/// What an encoding makes: `[rows, features]`.
pub(super) fn encode<'g>(
    encoding: &Encoding<Operand>,
    operands: &[Rc<Numbers>],
    [rows, features]: [usize; 2],
    segments: impl Fn(TableId) -> &'g Segments,
) -> Numbers {
    let of = |operand: &Operand| Rc::clone(&operands[usize::try_from(*operand).expect("few operands")]);
    let ranges = |table: TableId| -> Vec<Range<usize>> {
        let small = |row: u64| usize::try_from(row).expect("small");
        segments(table).ranges().map(|range| small(range.start)..small(range.end)).collect()
    };
    let mut made = match &encoding.kernel {
        Kernel::Map { rows } => (*of(rows)).clone(),
        Kernel::MatMul { rows: x, weight, bias } => matmul(&of(x), &of(weight), bias.as_ref().map(of).as_deref(), [rows, features]),
        Kernel::Attend { qkv, table, heads, causal, .. } => {
            attend(&of(qkv), &ranges(*table), usize::try_from(*heads).expect("few heads"), *causal)
        }
        Kernel::Convolve { rows, weight, bias, table, causal } => {
            convolve(&of(rows), &of(weight), bias.as_ref().map(of).as_deref(), &ranges(*table), *causal)
        }
    };
    for op in &encoding.ops {
        made = apply(op, &made, of, ranges);
    }
    made
}

fn gamma(k: usize, u: f64) -> f64 {
    let ku = k as f64 * u;
    if ku < 1.0 { ku / (1.0 - ku) } else { f64::INFINITY }
}

/// The unit roundoff of what is computed in, and of the oracle.
fn roundoff(dtype: DType) -> f64 {
    unit_roundoff(dtype.accumulator()) + V
}

/// A number that is now rounded to its type.
fn rounded(hi: f64, err: f64, dtype: DType) -> Number {
    let narrower = if dtype.accumulator() == dtype { 0.0 } else { unit_roundoff(dtype) };
    let err = err + narrower * (hi.abs() + err) + 2.0 * smallest(dtype);
    if err.is_nan() {
        return Number::anything();
    }
    in_range(Number { hi, lo: 0.0, err }, dtype)
}

/// A sum of products, with what its factors may be away.
#[derive(Default)]
struct Products {
    sum: f64,
    size: f64,
    away: f64,
    terms: usize,
    is_nan: bool,
    is_infinite: bool,
}

impl Products {
    fn add(&mut self, a: Number, b: Number) {
        self.is_nan |= a.hi.is_nan() || b.hi.is_nan();
        self.is_infinite |= !(a.err + b.err + a.hi + b.hi).is_finite();
        self.sum += a.hi * b.hi;
        self.size += a.size() * b.size();
        self.away += a.hi.abs() * b.err + b.hi.abs() * a.err + a.err * b.err;
        self.terms += 1;
    }

    fn number(&self, dtype: DType) -> Number {
        if self.is_nan {
            return Number::exact(f64::NAN);
        }
        // No partial sum, in whatever order, may overflow.
        if self.is_infinite || self.size >= 0.99 * largest(dtype.accumulator()) {
            return Number::anything();
        }
        let own = gamma(self.terms, roundoff(dtype)) * self.size + self.terms as f64 * smallest(dtype.accumulator());
        rounded(self.sum, self.away + own, dtype)
    }
}

fn with_bias(bias: Option<&Numbers>, column: usize) -> Products {
    let mut products = Products::default();
    if let Some(bias) = bias {
        products.add(bias.at(0, column), Number::exact(1.0));
    }
    products
}

fn matmul(x: &Numbers, weight: &Numbers, bias: Option<&Numbers>, [rows, out]: [usize; 2]) -> Numbers {
    let at = |row: usize, column: usize| {
        let mut products = with_bias(bias, column);
        (0..x.features).for_each(|k| products.add(x.at(row, k), weight.at(column, k)));
        products.number(x.dtype)
    };
    let values = (0..rows).flat_map(|row| (0..out).map(move |column| (row, column))).map(|(row, column)| at(row, column)).collect();
    Numbers { features: out, values, dtype: x.dtype }
}

fn convolve(x: &Numbers, weight: &Numbers, bias: Option<&Numbers>, segments: &[Range<usize>], causal: bool) -> Numbers {
    let taps = weight.features;
    let before = if causal { taps - 1 } else { (taps - 1) / 2 };
    let mut values = Vec::new();
    for segment in segments {
        for row in segment.clone() {
            for column in 0..x.features {
                let mut products = with_bias(bias, column);
                for tap in 0..taps {
                    if let Some(at) = (row + tap).checked_sub(before).filter(|at| segment.contains(at)) {
                        products.add(x.at(at, column), weight.at(column, tap));
                    }
                }
                values.push(products.number(x.dtype));
            }
        }
    }
    Numbers { features: x.features, values, dtype: x.dtype }
}

fn attend(qkv: &Numbers, segments: &[Range<usize>], heads: usize, causal: bool) -> Numbers {
    let (features, u) = (qkv.features / 3, roundoff(qkv.dtype));
    let width = features / heads;
    let scale = 1.0 / (width as f64).sqrt();
    let mut values = Vec::new();
    for segment in segments {
        for row in segment.clone() {
            for head in 0..heads {
                let column = |part: usize, k: usize| part * features + head * width + k;
                let keys = segment.start..if causal { row + 1 } else { segment.end };
                // A score, and how far it may be away: the product, its scale, and the maximum that is taken off.
                let scores: Vec<(f64, f64)> = keys
                    .clone()
                    .map(|key| {
                        let mut products = Products::default();
                        (0..width).for_each(|k| products.add(qkv.at(row, column(0, k)), qkv.at(key, column(1, k))));
                        let own = gamma(products.terms + 4, u) * products.size;
                        let is_wild = products.is_nan || products.is_infinite;
                        (products.sum * scale, if is_wild { f64::INFINITY } else { (products.away + own) * scale })
                    })
                    .collect();
                let largest = scores.iter().fold(f64::NEG_INFINITY, |largest, (score, _)| largest.max(*score));
                let away = scores.iter().fold(0.0, |away: f64, (score, err)| away.max(err + 2.0 * u * (score.abs() + largest.abs())));
                let weights: Vec<f64> = scores.iter().map(|(score, _)| (score - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let levels = keys.len().div_ceil(BLOCK_ROWS).next_power_of_two().trailing_zeros();
                let relative =
                    (2.0 * away).exp_m1() + gamma(keys.len().min(BLOCK_ROWS) + 4, u) + (keys.len() as f64 + f64::from(levels) * 12.0) * V;
                for k in 0..width {
                    let column = column(2, k);
                    let seen = || keys.clone().map(|key| qkv.at(key, column));
                    if relative.is_nan() || relative > 0.25 || seen().any(|value| !(value.hi + value.err).is_finite()) {
                        values.push(Number::anything());
                        continue;
                    }
                    let over =
                        |of: &dyn Fn(Number) -> f64| seen().zip(&weights).map(|(value, weight)| of(value) * weight).sum::<f64>() / sum;
                    let (exact, size, err) = (over(&|value| value.hi), over(&|value| value.size()), over(&|value| value.err));
                    // Weights that vanish in the accumulator's type are away by its smallest number.
                    let vanished =
                        keys.len() as f64 * smallest(qkv.dtype.accumulator()) * seen().fold(1.0, |most: f64, value| most.max(value.size()));
                    values.push(rounded(exact, err + 2.5 * relative * size + u * size + vanished, qkv.dtype));
                }
            }
        }
    }
    Numbers { features, values, dtype: qkv.dtype }
}

fn apply(op: &RowOp<Operand>, x: &Numbers, of: impl Fn(&Operand) -> Rc<Numbers>, ranges: impl Fn(TableId) -> Vec<Range<usize>>) -> Numbers {
    let (features, u) = (x.features, roundoff(x.dtype));
    let rows = x.values.len().checked_div(features).unwrap_or(0);
    let each = |at: &dyn Fn(usize, usize, Number) -> Number| {
        let values = x.values.iter().enumerate().map(|(index, number)| at(index / features, index % features, *number)).collect();
        Numbers { features, values, dtype: x.dtype }
    };
    let positions = |table: TableId| -> Vec<usize> { ranges(table).into_iter().flat_map(|range| 0..range.len()).collect() };
    let known = |number: Number, value: &dyn Fn(Number) -> Number| match number.hi {
        nan if nan.is_nan() => Number::exact(f64::NAN),
        hi if !(hi + number.err).is_finite() => Number::anything(),
        _ => value(number),
    };
    match op {
        RowOp::Activate(activation) => each(&|_, _, number| {
            known(number, &|Number { hi, err, .. }| {
                let (y, own, slope) = activated(*activation, hi, u, smallest(x.dtype.accumulator()));
                rounded(y, slope * err + own, x.dtype)
            })
        }),
        RowOp::Scale(by) => each(&|_, _, number| {
            known(number, &|number| {
                let y = number.hi * by.0;
                rounded(y, by.0.abs() * number.err + 2.0 * u * by.0.abs() * number.size(), x.dtype)
            })
        }),
        // What a user's own function gives, only the reference can say.
        RowOp::Custom { .. } => each(&|_, _, _| Number::anything()),
        RowOp::Cast(dtype) => {
            let cast =
                |number: &Number| known(*number, &|number| rounded(number.hi, number.err + unit_roundoff(*dtype) * number.size(), *dtype));
            Numbers { features, values: x.values.iter().map(cast).collect(), dtype: *dtype }
        }
        RowOp::Add(other) => {
            let other = of(other);
            each(&|row, column, number| plus(number, other.at(row, column), 0.0, u, x.dtype))
        }
        RowOp::Sinusoid { table, base } => {
            let positions = positions(*table);
            each(&|row, column, number| {
                let angle = angle(positions[row], column / 2, features, base.0);
                let wave = if column % 2 == 0 { angle.sin() } else { angle.cos() };
                plus(number, Number::exact(wave), 2.0 * u + angle_error(angle), u, x.dtype)
            })
        }
        RowOp::Learned { positions: learned, table } => {
            let (positions, learned) = (positions(*table), of(learned));
            each(&|row, column, number| plus(number, learned.at(positions[row], column), 0.0, u, x.dtype))
        }
        RowOp::Rotate { table, base, columns, width } => {
            let positions = positions(*table);
            let small = |count: u64| usize::try_from(count).expect("few columns");
            each(&|row, column, number| {
                if column >= small(*columns) {
                    return number;
                }
                let angle = angle(positions[row], column % small(*width) / 2, small(*width), base.0);
                let (even, other) = (column % 2 == 0, x.at(row, column ^ 1));
                let y = number.hi * angle.cos() + other.hi * if even { -angle.sin() } else { angle.sin() };
                if (number.hi + other.hi).is_nan() || !(number.err + other.err + number.hi + other.hi).is_finite() {
                    return Number::anything();
                }
                let (size, err) = (number.size() + other.size(), number.err + other.err);
                rounded(y, err + size * (4.0 * u + angle_error(angle)), x.dtype)
            })
        }
        RowOp::LayerNorm { weight, bias, eps } => {
            let (weight, bias) = (of(weight), bias.as_ref().map(&of));
            normed(x, rows, true, eps.0, |column| (weight.at(0, column), bias.as_ref().map(|bias| bias.at(0, column))))
        }
        RowOp::RmsNorm { weight, eps } => {
            let weight = of(weight);
            normed(x, rows, false, eps.0, |column| (weight.at(0, column), None))
        }
    }
}

/// a + b, of which b may be this much further away.
fn plus(a: Number, b: Number, more: f64, u: f64, dtype: DType) -> Number {
    if a.hi.is_nan() || b.hi.is_nan() {
        return Number::exact(f64::NAN);
    }
    if !(a.err + b.err + a.hi + b.hi).is_finite() {
        return Number::anything();
    }
    rounded(a.hi + b.hi, a.err + b.err + more + u * (a.size() + b.size()), dtype)
}

fn angle(position: usize, pair: usize, width: usize, base: f64) -> f64 {
    position as f64 * base.powf(-((2 * pair) as f64) / width as f64)
}

/// What rounding an angle and its frequency may change of a sine.
fn angle_error(angle: f64) -> f64 {
    (angle.abs() * 16.0 + 4.0) * V
}

/// The value, its own rounding, and the largest slope.
fn activated(activation: Activation, x: f64, u: f64, tiny: f64) -> (f64, f64, f64) {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    let u = u + 4.0 * V;
    match activation {
        Activation::Relu => (x.max(0.0), 0.0, 1.0),
        Activation::Gelu => (0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)), 4.0 * u * x.abs(), 1.13),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            (0.5 * x * (1.0 + inner.tanh()), 6.0 * u * x.abs(), 1.13)
        }
        // Where the sigmoid is subnormal it is away by the smallest number.
        Activation::Silu => (x * sigmoid, 7.0 * u * (x * sigmoid).abs() + tiny * x.abs(), 1.1),
        Activation::Tanh => (x.tanh(), 3.0 * u * x.tanh().abs(), 1.0),
        Activation::Sigmoid => (sigmoid, 6.0 * u * sigmoid, 0.25),
    }
}

/// The error function by its series of positive terms: 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) ÷ (2n + 1)!!.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return 1.0f64.copysign(x);
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-18 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

/// Layer norm, or RMS norm where nothing is centred.
fn normed(x: &Numbers, rows: usize, centred: bool, eps: f64, with: impl Fn(usize) -> (Number, Option<Number>)) -> Numbers {
    let (features, u) = (x.features, roundoff(x.dtype));
    let n = features as f64;
    // Blocks of 32 in the accumulator's type, pairs in f64, a division, and the oracle's own sums.
    let tiny = smallest(x.dtype.accumulator());
    let sums = gamma(features.min(BLOCK_ROWS) + 2, u) + (n + 8.0) * V;
    let mut values = Vec::new();
    for row in 0..rows {
        let numbers: Vec<Number> = (0..features).map(|column| x.at(row, column)).collect();
        if numbers.iter().any(|number| !(number.hi + number.err).is_finite()) {
            let is_nan = numbers.iter().any(|number| number.hi.is_nan());
            values.extend((0..features).map(|_| if is_nan { Number::exact(f64::NAN) } else { Number::anything() }));
            continue;
        }
        // The squares of all must not overflow, nor their differences from the mean (at most twice as large).
        let most = numbers.iter().fold(0.0, |most: f64, x| most.max(x.size()));
        if 4.0 * n * most * most >= 0.99 * largest(x.dtype.accumulator()) {
            values.extend((0..features).map(|_| Number::anything()));
            continue;
        }
        let over = |of: &dyn Fn(&Number) -> f64| numbers.iter().map(of).sum::<f64>() / n;
        let (mean, mean_err) = if centred { (over(&|x| x.hi), over(&|x| x.err) + (sums + u) * over(&|x| x.size())) } else { (0.0, 0.0) };
        let away: Vec<(f64, f64)> = numbers
            .iter()
            .map(|x| {
                let d = x.hi - mean;
                (d, x.err + mean_err + u * (d.abs() + x.err + mean_err) + tiny)
            })
            .collect();
        let square = away.iter().map(|(d, _)| d * d).sum::<f64>() / n;
        let square_err = away.iter().map(|(d, e)| 2.0 * d.abs() * e + e * e + (u + sums) * (d.abs() + e).powi(2)).sum::<f64>() / n;
        let square_err = square_err + 2.0 * tiny;
        let least = square - square_err + eps;
        let inverse = 1.0 / (square + eps).sqrt();
        let inverse_err = 0.5 * square_err / least.powf(1.5) + 3.0 * u * inverse;
        for (column, (d, e)) in away.into_iter().enumerate() {
            let (weight, bias) = with(column);
            let bias = bias.unwrap_or(Number::exact(0.0));
            let y = d * inverse * weight.hi + bias.hi;
            if !(y + weight.err + bias.err).is_finite() || least <= 0.0 {
                values.push(if y.is_nan() && least > 0.0 { Number::exact(f64::NAN) } else { Number::anything() });
                continue;
            }
            let scaled = (d.abs() + e) * (inverse + inverse_err);
            let scaled_err = e * inverse + (d.abs() + e) * inverse_err + u * scaled;
            let err = scaled_err * weight.hi.abs() + scaled * weight.err + 2.0 * u * (scaled * weight.size() + bias.size()) + bias.err;
            // d · r may be subnormal before the weight makes it larger.
            let err = err + tiny * (weight.size() + 2.0);
            if scaled * weight.size() >= 0.99 * largest(x.dtype.accumulator()) {
                values.push(Number::anything());
                continue;
            }
            values.push(rounded(y, err, x.dtype));
        }
    }
    Numbers { features, values, dtype: x.dtype }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_that_of_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, wanted) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - wanted).abs() < 1e-10, "{x}");
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(7.0), 1.0);
    }

    #[test]
    fn a_bound_is_tight_enough_to_see_a_wrong_order_of_operands() {
        let row = |values: &[f64]| Numbers {
            features: values.len(),
            values: values.iter().map(|x| Number::exact(*x)).collect(),
            dtype: DType::F32,
        };
        let product = matmul(&row(&[1.0, 2.0]), &row(&[3.0, 5.0]), None, [1, 1]);
        assert!(product.at(0, 0).allows(13.0) && !product.at(0, 0).allows(13.000_01) && product.at(0, 0).err < 1e-5);
    }
}

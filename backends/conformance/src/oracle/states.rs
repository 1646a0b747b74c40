//! The oracle of reducers with a state: from their definitions, with no blocks, to twice the digits of f64.

use super::{Exact, Number, add_up, choose, in_range};
use crate::tensor::{largest, smallest};
use levelfold::numerics::{
    between_rows, error_bound, exponent_error_bound, mean_shift, quantile_place, unit_roundoff, variance_error_bound,
};
use levelfold::{DType, Reducer};

/// One feature of one segment that has rows.
pub(super) struct Column<'a> {
    pub(super) input: DType,
    pub(super) output: DType,
    pub(super) rows: &'a [Number],
    pub(super) weights: Option<&'a [Number]>,
}

impl Column<'_> {
    fn n(&self) -> u64 {
        u64::try_from(self.rows.len()).expect("small")
    }

    fn weight(&self, row: usize) -> f64 {
        self.weights.map_or(1.0, |weights| weights[row].hi)
    }

    fn plain_sum(&self, of: impl Fn(f64) -> f64) -> f64 {
        self.rows.iter().enumerate().fold(-0.0, |sum, (row, x)| sum + self.weight(row) * of(x.hi))
    }

    fn all_finite(&self) -> bool {
        self.rows.iter().chain(self.weights.unwrap_or(&[])).all(|x| x.hi.is_finite())
    }

    fn acc(&self) -> DType {
        self.input.accumulator()
    }

    /// The roundoff of whatever finishes.
    fn last(&self) -> f64 {
        unit_roundoff(if self.rows.len() <= 32 { self.acc() } else { DType::F64 })
    }

    /// One more rounding to the output's type.
    fn rounded(&self, number: Number, roundings: f64) -> Number {
        let away = roundings * self.last() + unit_roundoff(self.output);
        Number { err: number.err + away * number.size() + smallest(self.output) + smallest(self.acc()), ..number }
    }

    pub(super) fn absolute(&self) -> Number {
        let rows: Vec<Number> =
            self.rows.iter().map(|x| if x.hi.is_sign_negative() { Number { hi: -x.hi, lo: -x.lo, ..*x } } else { *x }).collect();
        let bound = error_bound(&Reducer::L1, self.n(), self.input, self.output, self.weights.is_some());
        add_up(Reducer::Sum, self.input, self.output, &rows, self.weights, bound)
    }

    pub(super) fn norm(&self) -> Number {
        let plain = self.plain_sum(|x| x * x);
        let (mut sum, mut size, mut away, mut widest) = (Exact::default(), 0.0, 0.0, 1.0f64);
        for (row, x) in self.rows.iter().enumerate().filter(|(_, x)| x.hi.is_finite()) {
            let w = self.weight(row);
            if !w.is_finite() {
                continue;
            }
            let mut square = Exact { hi: 1.0, lo: 0.0 };
            square.multiply(*x);
            square.multiply(*x);
            sum.add_product(Number::exact(w), Number { hi: square.hi, lo: square.lo, err: 0.0 });
            size += w.abs() * x.size() * x.size();
            away += w.abs() * (2.0 * x.hi.abs() + x.err) * x.err;
            widest = widest.max(w.abs()).max(x.size() * x.size());
        }
        if size >= largest(self.acc()) * 0.99 || widest >= largest(self.acc()) * 0.99 {
            return Number::anything();
        }
        if !plain.is_finite() {
            return Number::exact(plain.sqrt());
        }
        // Two products and the additions of a sum; each product may underflow.
        let bound = error_bound(&Reducer::Sum, self.n(), self.input, DType::F64, true) + 2.0 * unit_roundoff(self.acc());
        away += bound * size + (self.rows.len() as f64 + 1.0) * smallest(self.acc()) * widest;
        sum.settle();
        let negative = self.weights.is_some_and(|weights| weights.iter().any(|w| w.hi < 0.0));
        if negative && sum.hi - away <= 0.0 {
            return if sum.hi + away < 0.0 { Number::exact(f64::NAN) } else { Number::anything() };
        }
        let root = sum.root();
        let err = ((sum.hi + away).sqrt() - root.hi).abs().max(root.hi - (sum.hi - away).max(0.0).sqrt());
        self.rounded(Number { hi: root.hi, lo: root.lo, err: err * 1.000_001 + 4.0 * unit_roundoff(DType::F64) * root.hi }, 1.0)
    }

    pub(super) fn variance(&self, ddof: u32, root: bool) -> Number {
        let (mut weight, mut sum) = (Exact::default(), Exact::default());
        let (mut largest_weight, mut smallest_weight) = (0.0f64, f64::INFINITY);
        for (row, x) in self.rows.iter().enumerate() {
            let w = self.weight(row);
            weight.add(w);
            weight.settle();
            if w > 0.0 {
                (largest_weight, smallest_weight) = (largest_weight.max(w), smallest_weight.min(w));
            }
            if w.is_finite() && x.hi.is_finite() {
                sum.add_product(Number::exact(w), *x);
            }
        }
        if self.rows.iter().any(|x| !x.hi.is_finite()) {
            return Number::exact(f64::NAN);
        }
        if !self.all_finite() {
            return Number::anything();
        }
        let mut divisor = weight;
        divisor.add(-f64::from(ddof));
        divisor.settle();
        let (weights_err, acc) = (64.0 * unit_roundoff(self.acc()) * weight.hi, self.acc());
        if self.weights.is_some() && ddof > 0 && divisor.hi.abs() <= weights_err {
            return Number::anything();
        }
        if divisor.hi <= 0.0 {
            return Number::exact(f64::NAN);
        }
        let mean = sum.divided_by(weight);
        let (mut squares, mut raw, mut inputs, mut widest) = (Exact::default(), 0.0, 0.0, 0.0f64);
        for (row, x) in self.rows.iter().enumerate() {
            let w = self.weight(row);
            let mut apart = Exact { hi: x.hi, lo: x.lo };
            apart.add(-mean.hi);
            apart.add(-mean.lo);
            apart.settle();
            let away = Number { hi: apart.hi, lo: apart.lo, err: 0.0 };
            let mut square = Exact { hi: 1.0, lo: 0.0 };
            square.multiply(away);
            square.multiply(away);
            squares.add_product(Number::exact(w), Number { hi: square.hi, lo: square.lo, err: 0.0 });
            raw += w * x.size() * x.size();
            inputs += w * x.err * x.err;
            widest = widest.max(x.size());
        }
        // Differences are squared, and at most twice as large as the rows.
        let room = largest(acc) * 0.99;
        if 2.0 * widest >= room || 4.0 * widest * widest * largest_weight.max(1.0) >= room || 4.0 * raw >= room || weight.hi >= room {
            return Number::anything();
        }
        let variance = squares.divided_by(divisor);
        // Weights that almost cancel against ddof pass their own error on, enlarged.
        let enlarged = if self.weights.is_some() { weight.hi / divisor.hi } else { 1.0 };
        let block = (self.rows.len().min(32)) as f64;
        let spread = if self.weights.is_some() { block * largest_weight / smallest_weight } else { block };
        let tiny = (self.rows.len() as f64 + 2.0) * smallest(acc);
        let underflow = tiny * (1.0 / smallest_weight + 1.0) * (weight.hi / divisor.hi).sqrt();
        let exact_root = variance.hi.max(0.0).sqrt();
        let shifted = exact_root + mean_shift(self.n()) * (raw / divisor.hi).sqrt() + (inputs / divisor.hi).sqrt() + underflow;
        let lost = tiny * largest_weight.max(1.0) * 4.0 / divisor.hi;
        if root {
            let e = variance_error_bound(self.n(), self.input, DType::F64, spread) * enlarged;
            let value = variance.root();
            let err = (shifted - exact_root) + e * shifted + lost.sqrt() + 4.0 * unit_roundoff(DType::F64) * exact_root;
            return self.rounded(Number { hi: value.hi, lo: value.lo, err }, 2.0);
        }
        let e = variance_error_bound(self.n(), self.input, self.output, spread) * enlarged;
        let err = e * shifted * shifted + (shifted - exact_root) * (shifted + exact_root) + lost;
        self.rounded(Number { hi: variance.hi, lo: variance.lo, err }, 1.0)
    }

    pub(super) fn log_sum_exp(&self) -> Number {
        let counts = |row: usize| self.weight(row) != 0.0;
        if self.rows.iter().any(|x| x.hi.is_nan()) {
            return Number::exact(f64::NAN);
        }
        if self.weights.unwrap_or(&[]).iter().any(|w| !w.hi.is_finite() || w.err > 0.0) {
            return Number::anything();
        }
        let counted = || self.rows.iter().enumerate().filter(|(row, _)| counts(*row));
        let largest_row = counted().fold(f64::NEG_INFINITY, |largest, (_, x)| largest.max(x.hi));
        let shift = if largest_row.is_finite() { largest_row } else { 0.0 };
        let term = |row: usize, x: &Number| self.weight(row) * ((x.hi - shift) + x.lo).exp();
        let plain: f64 = counted().map(|(row, x)| term(row, x)).sum();
        if !largest_row.is_finite() {
            return Number::exact(plain.ln());
        }
        let (mut sum, mut size, mut spread, mut inputs) = (Exact::default(), 0.0, 0.0, 0.0f64);
        for (row, x) in counted() {
            let t = term(row, x);
            sum.add(t);
            size += t.abs();
            let apart = shift - x.hi;
            spread += if t == 0.0 { 0.0 } else { t.abs() * apart };
            inputs = inputs.max(x.err);
        }
        sum.settle();
        let negative = counted().any(|(row, _)| self.weight(row) < 0.0);
        let widest = counted().fold(1.0f64, |widest, (row, _)| widest.max(self.weight(row).abs()));
        if size >= largest(self.acc()) * 0.99 || widest >= largest(self.acc()) * 0.99 || (negative && inputs > 0.0) {
            return Number::anything();
        }
        // The oracle's own exponentials are those of f64.
        let own = 8.0 * unit_roundoff(DType::F64) * (size + spread);
        let e = exponent_error_bound(self.n(), self.input, if size > 0.0 { spread / size } else { 0.0 });
        let away = e * size + own + (self.rows.len() as f64 + 1.0) * smallest(self.acc()) * widest;
        if sum.hi - away <= 0.0 {
            return if sum.hi + away < 0.0 { Number::exact(f64::NAN) } else { Number::anything() };
        }
        let log = sum.hi.ln();
        let err = inputs + (away / (sum.hi - away)).ln_1p() + (2.0 * self.last() + 4.0 * unit_roundoff(DType::F64)) * log.abs();
        let mut value = Exact { hi: shift, lo: 0.0 };
        value.add(log);
        value.settle();
        self.rounded(Number { hi: value.hi, lo: value.lo, err }, 1.0)
    }

    pub(super) fn softmax(&self) -> Number {
        let scores = self.weights.expect("softmax has scores");
        if self.rows.iter().chain(scores).any(|x| x.hi.is_nan()) {
            return Number::exact(f64::NAN);
        }
        let best = scores.iter().fold(f64::NEG_INFINITY, |best, s| best.max(s.hi));
        if !best.is_finite() {
            return Number::exact(f64::NAN);
        }
        // What computed scores may be away from the exact ones.
        let away = scores.iter().map(|s| if s.hi.is_finite() { s.err + s.lo.abs() } else { 0.0 }).fold(0.0, f64::max);
        if self.rows.iter().any(|x| !x.hi.is_finite()) || scores.iter().any(|s| !s.hi.is_finite() && s.err > 0.0) || away > 0.25 {
            return Number::anything();
        }
        let (mut sum, mut weighted, mut size, mut spread, mut inputs, mut widest) =
            (Exact::default(), Exact::default(), 0.0, 0.0, 0.0f64, 1.0f64);
        for (x, s) in self.rows.iter().zip(scores) {
            let t = (s.hi - best).exp();
            sum.add(t);
            sum.settle();
            weighted.add_product(Number::exact(t), *x);
            size += t * x.size();
            spread += if t == 0.0 { 0.0 } else { t * (best - s.hi) };
            inputs = inputs.max(x.err);
            widest = widest.max(x.size());
        }
        if widest * self.rows.len() as f64 >= largest(self.acc()) * 0.99 {
            return Number::anything();
        }
        // How far an exponent is off counts for its own row, so the furthest that still has a part decides, relative to the sum of all parts.
        let furthest = scores.iter().map(|s| best - s.hi).filter(|apart| apart.is_finite() && *apart < 800.0).fold(0.0, f64::max);
        let e = exponent_error_bound(self.n(), self.input, furthest.max(spread / sum.hi))
            + 8.0 * unit_roundoff(DType::F64) * (1.0 + furthest)
            + away.exp_m1();
        let value = weighted.divided_by(sum);
        let tiny = (self.rows.len() as f64 + 2.0) * smallest(self.acc()) * widest * 4.0;
        let err = inputs + 2.0 * e * (1.0 + e) * size / sum.hi / (1.0 - e).max(0.1) + tiny;
        self.rounded(Number { hi: value.hi, lo: value.lo, err }, 2.0)
    }

    pub(super) fn quantile(&self, q: f64) -> Number {
        if self.rows.iter().any(|x| x.hi.is_nan()) {
            return Number::exact(f64::NAN);
        }
        let mut sorted: Vec<f64> = self.rows.iter().map(|x| x.hi + x.lo).collect();
        sorted.sort_by(f64::total_cmp);
        let (place, fraction) = quantile_place(self.n(), q);
        let place = usize::try_from(place).expect("small");
        let (below, above) = (sorted[place], sorted[(place + 1).min(sorted.len() - 1)]);
        let hi = between_rows(below, above, fraction);
        if !hi.is_finite() {
            return Number::exact(hi);
        }
        // No quantile moves further than the row that moves furthest.
        let inputs = self.rows.iter().filter(|x| x.hi.is_finite()).fold(0.0, |worst: f64, x| worst.max(x.err));
        let exact = inputs == 0.0 && fraction == 0.0 && self.input.widens_to(self.output);
        let err = if exact { 0.0 } else { inputs + 4.0 * unit_roundoff(DType::F64) * (below.abs() + above.abs()) };
        let number = Number { hi, lo: 0.0, err };
        if exact { number } else { Number { err: err + unit_roundoff(self.output) * number.size() + smallest(self.output), ..number } }
    }

    /// A row as it is, rounded where the output's type is narrower.
    pub(super) fn row(&self, at: usize) -> Number {
        let bound = error_bound(&Reducer::First, self.n(), self.input, self.output, false);
        choose(&self.rows[at..at + 1], bound, self.output, |_, _| false)
    }

    pub(super) fn count(&self) -> Number {
        let n = self.rows.len() as f64;
        in_range(Number { hi: n, lo: 0.0, err: unit_roundoff(self.output) * n }, self.output)
    }

    /// Where the best stands, if that is certain.
    pub(super) fn position(&self, sign: f64) -> Number {
        if let Some(first) = self.rows.iter().position(|x| x.hi.is_nan()) {
            return Number::exact(first as f64);
        }
        let value = |x: &Number| (sign * x.hi, sign * x.lo);
        let mut best = 0;
        for (at, x) in self.rows.iter().enumerate() {
            if value(x) > value(&self.rows[best]) {
                best = at;
            }
        }
        let chosen = &self.rows[best];
        let certain = self.rows.iter().enumerate().all(|(at, x)| {
            let apart = (value(chosen).0 - value(x).0) + (value(chosen).1 - value(x).1);
            at == best || (x.err == 0.0 && chosen.err == 0.0) || apart > x.err + chosen.err
        });
        if certain { Number::exact(best as f64) } else { Number::anything() }
    }
}

//! What the suite's cases bring in Rust: encoders and reducers that a backend is given in its [`Registry`].
//!
//! Their arithmetic rounds nearly everywhere, and is the same for no two orders of rows, so that a backend that combines in another order, from
//! another start, or in another type shows.

use levelfold::custom::{Planes, PlanesMut, Real, Registry, RowEncoder, RowReducer};
use levelfold::numerics::Accumulator;
use levelfold::numerics::elementary::{Elementary, exp, log};
use levelfold::{Error, ErrorCode, Reducer, Result};

/// What a backend has to be given to run the cases of [`Group::Registered`](crate::Group::Registered).
pub fn registry() -> Registry {
    Registry::new().encoder(BelowMean).encoder(Softsign).reducer(Moments).reducer(Heaviest).reducer(PowerMean { power: 1.0 })
}

/// The reducers of the registry, as levels name them.
pub(crate) fn reducers() -> Vec<Reducer> {
    let named = |name: &str, arguments: &[f64]| Reducer::named(name, 1, arguments).expect("a reducer");
    vec![named("suite-moments", &[]), named("suite-heaviest", &[]), named("suite-power-mean", &[3.0])]
}

/// Each row minus its mean.
struct BelowMean;

/// x ÷ (1 + |x|).
struct Softsign;

fn below_mean<A: Elementary>(row: &mut [A]) {
    let n = A::of_f64(row.len() as f64);
    let mean = row.iter().fold(A::of_f64(-0.0), |sum, x| sum.add(*x)).div(n);
    row.iter_mut().for_each(|x| *x = Accumulator::sub(*x, mean));
}

fn softsign<A: Elementary>(row: &mut [A]) {
    row.iter_mut().for_each(|x| *x = x.div(A::of_f64(1.0).add(x.abs())));
}

impl RowEncoder for BelowMean {
    fn name(&self) -> &str {
        "suite-below-mean"
    }
    fn version(&self) -> u32 {
        1
    }
    fn encode_f32(&self, row: &mut [f32]) {
        below_mean(row);
    }
    fn encode_f64(&self, row: &mut [f64]) {
        below_mean(row);
    }
}

impl RowEncoder for Softsign {
    fn name(&self) -> &str {
        "suite-softsign"
    }
    fn version(&self) -> u32 {
        4
    }
    fn encode_f32(&self, row: &mut [f32]) {
        softsign(row);
    }
    fn encode_f64(&self, row: &mut [f64]) {
        softsign(row);
    }
}

/// The weighted variance by Chan's rule, which takes weights and has a push of its own.
#[derive(Clone)]
struct Moments;

impl Moments {
    fn add<A: Real>([count, mean, squares]: [&mut A; 3], [more, other, others]: [A; 3]) {
        let all = *count + more;
        let (apart, share) = (other - *mean, more / all);
        *squares = *squares + others + apart * apart * (*count * share);
        *mean += apart * share;
        *count = all;
    }
}

impl RowReducer for Moments {
    fn name(&self) -> &str {
        "suite-moments"
    }
    fn version(&self) -> u32 {
        1
    }
    fn planes(&self) -> usize {
        3
    }
    fn takes_weights(&self) -> bool {
        true
    }
    fn lift<A: Real>(&self, row: &[A], weight: A, mut state: PlanesMut<'_, A>) {
        let [count, mean, squares] = state.split();
        count.fill(weight);
        mean.copy_from_slice(row);
        squares.fill(A::of_f64(0.0));
    }
    fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
        let ([count, mean, squares], [more, other, others]) = (older.split(), newer.split());
        for at in 0..count.len() {
            Moments::add([&mut count[at], &mut mean[at], &mut squares[at]], [more[at], other[at], others[at]]);
        }
    }
    fn push<A: Real>(&self, mut state: PlanesMut<'_, A>, row: &[A], weight: A, _lifted: PlanesMut<'_, A>) {
        let [count, mean, squares] = state.split();
        for (at, &x) in row.iter().enumerate() {
            Moments::add([&mut count[at], &mut mean[at], &mut squares[at]], [weight, x, A::of_f64(0.0)]);
        }
    }
    fn finish<A: Real>(&self, state: Planes<'_, A>, rows: A, out: &mut [A]) {
        let [count, mean, squares] = state.split();
        for (at, out) in out.iter_mut().enumerate() {
            *out = squares[at] / count[at] + mean[at] / rows;
        }
    }
}

/// The row with the largest sum of magnitudes, of equal ones the first: features depend on each other.
#[derive(Clone)]
struct Heaviest;

impl RowReducer for Heaviest {
    fn name(&self) -> &str {
        "suite-heaviest"
    }
    fn version(&self) -> u32 {
        1
    }
    fn planes(&self) -> usize {
        2
    }
    fn lift<A: Real>(&self, row: &[A], _weight: A, mut state: PlanesMut<'_, A>) {
        let [held, mass] = state.split();
        held.copy_from_slice(row);
        mass.fill(row.iter().fold(A::of_f64(0.0), |sum, x| sum + x.abs()));
    }
    fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
        let ([held, mass], [other, others]) = (older.split(), newer.split());
        if mass.first() < others.first() {
            held.copy_from_slice(other);
            mass.copy_from_slice(others);
        }
    }
    fn finish<A: Real>(&self, state: Planes<'_, A>, rows: A, out: &mut [A]) {
        let [held, mass] = state.split();
        for (at, out) in out.iter_mut().enumerate() {
            *out = held[at] + mass[at] / rows;
        }
    }
}

/// (Σ|x|ᵖ ÷ n)^(1 ÷ p), with an argument.
#[derive(Clone)]
struct PowerMean {
    power: f64,
}

impl RowReducer for PowerMean {
    fn name(&self) -> &str {
        "suite-power-mean"
    }
    fn version(&self) -> u32 {
        1
    }
    fn with(&self, arguments: &[f64]) -> Result<Self> {
        match arguments {
            [power] if *power != 0.0 => Ok(PowerMean { power: *power }),
            _ => Err(Error::new(ErrorCode::Option, "it takes a power, which is not 0").help("write for instance 3")),
        }
    }
    fn planes(&self) -> usize {
        1
    }
    fn lift<A: Real>(&self, row: &[A], _weight: A, mut state: PlanesMut<'_, A>) {
        for (sum, x) in state.plane(0).iter_mut().zip(row) {
            *sum = exp(log(x.abs()) * A::of_f64(self.power));
        }
    }
    fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
        older.plane(0).iter_mut().zip(newer.plane(0)).for_each(|(a, &b)| *a += b);
    }
    fn finish<A: Real>(&self, state: Planes<'_, A>, rows: A, out: &mut [A]) {
        for (out, &sum) in out.iter_mut().zip(state.plane(0)) {
            *out = exp(log(sum / rows) / A::of_f64(self.power));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levelfold::custom::Laws;

    #[test]
    fn its_reducers_keep_the_laws() {
        Laws::new(1).check(&Moments).unwrap();
        Laws::new(1).check(&Heaviest).unwrap();
        Laws::new(1).arguments(&[3.0]).check(&PowerMean { power: 1.0 }).unwrap();
    }
}

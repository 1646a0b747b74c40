//! Whether a reducer of a user's own keeps the laws of one: tried on rows drawn from a seed.

use super::reducer::sealed::AnyReducer;
use super::{BoundReducer, Real, RowReducer};
use crate::error::{Error, ErrorCode, Result};
use crate::numerics::{count_to_f64, narrow_to_f32};
use std::ops::Range;

/// Tries the laws of a [`RowReducer`] on rows drawn from a seed. It cannot prove them.
///
/// - Four neighbours give one result however they are bracketed: two results a and b may be apart by
///   [tolerance](Self::tolerance) · (1 + max(|a|, |b|)), in f64 and, with a tolerance of its own, in f32.
/// - A block that is f32 and then goes on in f64 gives what f64 gives from the start, within the tolerance of f32; so does a single row.
/// - `push` gives the bits of `combine` with the lifted row.
/// - `lift`, `combine` and `finish` give the same bits again, whatever their room held before.
///
/// Call it from a test:
///
/// ```
/// # use levelfold::custom::{Laws, Planes, PlanesMut, Real, RowReducer};
/// # #[derive(Clone)]
/// # struct Total;
/// # impl RowReducer for Total {
/// #     fn name(&self) -> &str { "total" }
/// #     fn version(&self) -> u32 { 1 }
/// #     fn planes(&self) -> usize { 1 }
/// #     fn lift<A: Real>(&self, row: &[A], _weight: A, mut state: PlanesMut<'_, A>) { state.plane(0).copy_from_slice(row); }
/// #     fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
/// #         older.plane(0).iter_mut().zip(newer.plane(0)).for_each(|(a, &b)| *a += b);
/// #     }
/// #     fn finish<A: Real>(&self, state: Planes<'_, A>, _rows: A, out: &mut [A]) { out.copy_from_slice(state.plane(0)); }
/// # }
/// # fn main() -> levelfold::Result<()> {
/// Laws::new(1).rows(0.5..2.0).check(&Total)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Laws {
    seed: u64,
    features: usize,
    rows: Range<f64>,
    arguments: Vec<f64>,
    tolerance: f64,
    tolerance_f32: f64,
    special: bool,
}

/// How often rows are drawn.
const ROUNDS: usize = 128;

impl Laws {
    /// Rows of seven numbers from −1 to 1, and tolerances of 1e-9 (f64) and 1e-4 (f32).
    pub fn new(seed: u64) -> Self {
        Laws { seed, features: 7, rows: -1.0..1.0, arguments: Vec::new(), tolerance: 1e-9, tolerance_f32: 1e-4, special: false }
    }

    /// Rows of so many numbers.
    #[must_use]
    pub fn features(mut self, features: usize) -> Self {
        self.features = features;
        self
    }

    /// Numbers from this range, which the reducer is defined for.
    #[must_use]
    pub fn rows(mut self, rows: Range<f64>) -> Self {
        self.rows = rows;
        self
    }

    /// With these arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[f64]) -> Self {
        self.arguments = arguments.to_vec();
        self
    }

    /// How far results may be apart in f64, relative to 1 + the larger one.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// How far results may be apart where f32 is computed in.
    #[must_use]
    pub fn tolerance_f32(mut self, tolerance: f64) -> Self {
        self.tolerance_f32 = tolerance;
        self
    }

    /// With a NaN, an infinity or a zero of either sign among the rows, now and then: for reducers that say what comes of them. Results then
    /// have to be NaN together, the same infinity together, or close.
    #[must_use]
    pub fn special_rows(mut self) -> Self {
        self.special = true;
        self
    }

    /// Tries them.
    ///
    /// # Errors
    /// `reducer-law`, with the rows and what came out, also where no result was a number, so that nothing was tried; `option` for a state of no
    /// planes or too many, and whatever [`with`](RowReducer::with) says of the arguments.
    pub fn check<R: RowReducer>(&self, reducer: &R) -> Result<()> {
        let bound = BoundReducer::new(AnyReducer::bound(reducer, &self.arguments)?)?;
        let with = reducer.with(&self.arguments)?;
        let mut draw = Draw(self.seed);
        let mut any = false;
        for round in 0..ROUNDS {
            let rows: [Vec<f64>; 4] = std::array::from_fn(|_| (0..self.features).map(|_| draw.between(&self.rows)).collect());
            let mut rows = rows.map(|row| row.into_iter().map(|x| f64::from(narrow_to_f32(x))).collect::<Vec<f64>>());
            if self.special {
                let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0];
                for _ in 0..round % 4 {
                    let (row, feature) = (draw.below(4), draw.below(self.features.max(1)));
                    if let Some(x) = rows[row].get_mut(feature) {
                        *x = special[draw.below(special.len())];
                    }
                }
            }
            let weights: [f64; 4] =
                std::array::from_fn(|_| if bound.takes_weights() { f64::from(narrow_to_f32(draw.between(&(0.25..1.25)))) } else { 1.0 });
            let trial = Trial { reducer: &with, bound: &bound, rows: &rows, weights: &weights };
            let broken = |message: String| {
                Error::new(
                    ErrorCode::ReducerLaw,
                    format!("the reducer `{}`: {message}; rows {rows:?}, weights {weights:?}, seed {}", reducer.name(), self.seed),
                )
                .help("results would depend on how rows fall into blocks, or on what memory held before: mend the reducer")
            };
            let double = trial.run::<f64>(self.tolerance).map_err(broken)?;
            let single = trial.run::<f32>(self.tolerance_f32).map_err(broken)?;
            for (what, single, double) in [("four rows", single.all, &double.all), ("a row", single.one, &double.one)] {
                if let Some(feature) = apart(&single, double, self.tolerance_f32) {
                    let (a, b) = (single[feature], double[feature]);
                    return Err(broken(format!(
                        "{what} in f32, widened and finished in f64, give {a} for feature {feature}, and {b} in f64"
                    )));
                }
            }
            any |= double.all.iter().any(|x| x.is_finite());
        }
        if any || self.features == 0 {
            return Ok(());
        }
        let message = format!("the reducer `{}`: no result was a finite number, so that nothing was tried", reducer.name());
        Err(Error::new(ErrorCode::ReducerLaw, message).help("draw rows from a range that it is defined for"))
    }
}

/// Four rows on their way through a reducer.
struct Trial<'a, R> {
    reducer: &'a R,
    bound: &'a BoundReducer,
    rows: &'a [Vec<f64>; 4],
    weights: &'a [f64; 4],
}

/// What came out of all rows, and of the first one, finished in f64.
struct Results {
    all: Vec<f64>,
    one: Vec<f64>,
}

impl<R: RowReducer> Trial<'_, R> {
    fn run<A: Real>(&self, tolerance: f64) -> Result<Results, String> {
        let rows: Vec<Vec<A>> = self.rows.iter().map(|row| row.iter().map(|&x| A::of_f64(x)).collect()).collect();
        let weights: Vec<A> = self.weights.iter().map(|&w| A::of_f64(w)).collect();
        let states = (rows.iter().zip(&weights)).map(|(row, &weight)| self.lifted(row, weight)).collect::<Result<Vec<_>, String>>()?;
        let [a, b, c, d] = &states[..] else { return Err("four rows make four states".into()) };
        let both = |older: &[A], newer: &[A]| self.combined(older, newer);
        // From the left, as a block does it.
        let left = both(&both(&both(a, b)?, c)?, d)?;
        let n = A::of_f64(4.0);
        let finished = self.finished(&left, n)?;
        for (bracketed, other) in [
            ("(a b) (c d)", both(&both(a, b)?, &both(c, d)?)?),
            ("a (b (c d))", both(a, &both(b, &both(c, d)?)?)?),
            ("(a (b c)) d", both(&both(a, &both(b, c)?)?, d)?),
            ("a ((b c) d)", both(a, &both(&both(b, c)?, d)?)?),
        ] {
            let other = self.finished(&other, n)?;
            if let Some(feature) = apart(&finished, &other, tolerance) {
                let (one, other) = (finished[feature], other[feature]);
                return Err(format!(
                    "in {} ((a b) c) d gives {one} for feature {feature}, and {bracketed} gives {other}: combine is not associative",
                    A::DTYPE
                ));
            }
        }
        let slices: Vec<&[A]> = rows.iter().map(Vec::as_slice).collect();
        let (mut state, mut room) = (poison::<A>(a.len(), 0), poison::<A>(a.len(), 1));
        self.bound.block(&slices, Some(&weights), &mut state, &mut room);
        if !same(&state, &left) {
            return Err(format!("in {} push gives other bits than combine with the lifted row", A::DTYPE));
        }
        let in_f64 = |state: &[A], rows: f64| {
            let wide: Vec<f64> = state.iter().map(|x| x.as_f64()).collect();
            let mut out = vec![0.0; self.rows[0].len()];
            self.bound.finish(&wide, rows, &mut out);
            out
        };
        Ok(Results { all: in_f64(&left, 4.0), one: in_f64(a, 1.0) })
    }

    fn lifted<A: Real>(&self, row: &[A], weight: A) -> Result<Vec<A>, String> {
        let made = |which| {
            let mut state = poison::<A>(self.bound.planes() * row.len(), which);
            self.bound.lift(row, weight, &mut state);
            state
        };
        twice(made, "lift")
    }

    fn combined<A: Real>(&self, older: &[A], newer: &[A]) -> Result<Vec<A>, String> {
        let made = |_| {
            let mut state = older.to_vec();
            self.bound.combine(&mut state, newer);
            state
        };
        twice(made, "combine")
    }

    fn finished<A: Real>(&self, state: &[A], rows: A) -> Result<Vec<f64>, String> {
        let made = |which| {
            let mut out = poison::<A>(state.len() / RowReducer::planes(self.reducer), which);
            self.bound.finish(state, rows, &mut out);
            out
        };
        Ok(twice(made, "finish")?.into_iter().map(|x: A| x.as_f64()).collect())
    }
}

/// What was in memory before: never the same.
fn poison<A: Real>(length: usize, which: usize) -> Vec<A> {
    vec![A::of_f64([f64::NAN, -7.5][which % 2]); length]
}

fn twice<A: Real>(made: impl Fn(usize) -> Vec<A>, what: &str) -> Result<Vec<A>, String> {
    let (one, other) = (made(0), made(1));
    if same(&one, &other) {
        return Ok(one);
    }
    Err(format!("in {} {what} gives other bits the second time, into memory that held something else", A::DTYPE))
}

/// Whether numbers have the same bits, but for which NaN a NaN is.
fn same<A: Real>(a: &[A], b: &[A]) -> bool {
    let bits = |x: A| if x.as_f64().is_nan() { f64::NAN.to_bits() } else { x.as_f64().to_bits() };
    a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| bits(a) == bits(b))
}

/// The first feature in which results are not the same but for rounding.
fn apart(a: &[f64], b: &[f64], tolerance: f64) -> Option<usize> {
    let near = |a: f64, b: f64| a.is_finite() && b.is_finite() && (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()));
    let close = |a: f64, b: f64| (a.is_nan() && b.is_nan()) || a == b || near(a, b);
    a.iter().zip(b).position(|(&a, &b)| !close(a, b))
}

/// Numbers from a seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, range: &Range<f64>) -> f64 {
        let unit = count_to_f64(self.next() >> 12) / count_to_f64(1 << 52);
        range.start + unit * (range.end - range.start)
    }

    fn below(&mut self, count: usize) -> usize {
        crate::narrow(self.next() % crate::widen_u64(count)).unwrap_or(0)
    }
}

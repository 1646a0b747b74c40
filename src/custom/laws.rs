//! Whether a reducer of a user's own keeps the laws of one: tried on rows drawn from a seed.

use super::reducer::sealed::AnyReducer;
use super::{BoundReducer, Real, RowReducer};
use crate::error::{Error, ErrorCode, Result};
use crate::numerics::{count_to_f64, narrow_to_f32};
use crate::reducer::NamedReducer;
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

    /// Tries them, and tells of each law that does not hold, with the first rows that showed it.
    ///
    /// # Errors
    /// `reducer-law`, with the rows and what came out, also where no result was a number, so that nothing was tried; several broken laws are its
    /// [causes](Error::causes). `option` for a state of no planes or too many, what [`Reducer::named`](crate::Reducer::named) says of its name, and
    /// whatever [`with`](RowReducer::with) says of the arguments.
    pub fn check<R: RowReducer>(&self, reducer: &R) -> Result<()> {
        NamedReducer::new(reducer.name(), reducer.version(), &self.arguments)?;
        let bound = BoundReducer::new(AnyReducer::bound(reducer, &self.arguments)?)?;
        let with = reducer.with(&self.arguments)?;
        let mut draw = Draw(self.seed);
        let mut broken = BrokenLaws::of(reducer.name());
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
            let mut tell = |law: &'static str, message: String| {
                broken.add(law, || format!("{message}; rows {rows:?}, weights {weights:?}, seed {}", self.seed));
            };
            let double = trial.run::<f64>(self.tolerance, &mut tell);
            let single = trial.run::<f32>(self.tolerance_f32, &mut tell);
            for (what, single, double) in [("four rows", single.all, &double.all), ("a row", single.one, &double.one)] {
                if let Some(feature) = apart(&single, double, self.tolerance_f32) {
                    let (a, b) = (single[feature], double[feature]);
                    tell("widening", format!("{what} in f32, widened and finished in f64, give {a} for feature {feature}, and {b} in f64"));
                }
            }
            any |= double.all.iter().any(|x| x.is_finite());
        }
        broken.told("results would depend on how rows fall into blocks, or on what memory held before: mend the reducer")?;
        if any || self.features == 0 {
            return Ok(());
        }
        let message = format!("the reducer `{}`: no result was a finite number, so that nothing was tried", reducer.name());
        Err(Error::new(ErrorCode::ReducerLaw, message).help("draw rows from a range that it is defined for"))
    }
}

/// Laws of a reducer that do not hold, each with the first rows that showed it.
pub(crate) struct BrokenLaws<'a> {
    reducer: &'a str,
    found: Vec<(&'static str, String)>,
}

impl<'a> BrokenLaws<'a> {
    pub(crate) fn of(reducer: &'a str) -> Self {
        BrokenLaws { reducer, found: Vec::new() }
    }

    /// One more, unless the law is known to be broken.
    pub(crate) fn add(&mut self, law: &'static str, message: impl FnOnce() -> String) {
        if !self.found.iter().any(|(known, _)| *known == law) {
            self.found.push((law, message()));
        }
    }

    /// # Errors
    /// `reducer-law` where there are any: one as it is, several as causes of one.
    pub(crate) fn told(self, help: &str) -> Result<()> {
        let reducer = self.reducer;
        let error = |(_, message): (&str, String)| Error::new(ErrorCode::ReducerLaw, format!("the reducer `{reducer}`: {message}"));
        let mut errors: Vec<Error> = self.found.into_iter().map(error).collect();
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0).help(help)),
            count => {
                Err(Error::collected(ErrorCode::ReducerLaw, format!("the reducer `{reducer}` breaks {count} laws"), errors).help(help))
            }
        }
    }
}

/// Four rows on their way through a reducer.
struct Trial<'a, R> {
    reducer: &'a R,
    bound: &'a BoundReducer,
    rows: &'a [Vec<f64>; 4],
    weights: &'a [f64; 4],
}

/// What is told of a law that does not hold: which, and how that showed.
type Tell<'a> = dyn FnMut(&'static str, String) + 'a;

/// What came out of all rows, and of the first one, finished in f64.
struct Results {
    all: Vec<f64>,
    one: Vec<f64>,
}

impl<R: RowReducer> Trial<'_, R> {
    fn run<A: Real>(&self, tolerance: f64, tell: &mut Tell<'_>) -> Results {
        let rows: [Vec<A>; 4] = std::array::from_fn(|row| self.rows[row].iter().map(|&x| A::of_f64(x)).collect());
        let weights: [A; 4] = self.weights.map(A::of_f64);
        let [a, b, c, d] = std::array::from_fn(|row| self.lifted(&rows[row], weights[row], tell));
        let both = |older: &[A], newer: &[A], tell: &mut Tell<'_>| self.combined(older, newer, tell);
        let (ab, bc, cd) = (both(&a, &b, tell), both(&b, &c, tell), both(&c, &d, tell));
        // From the left, as a block does it.
        let left = both(&both(&ab, &c, tell), &d, tell);
        let n = A::of_f64(4.0);
        let finished = self.finished(&left, n, tell);
        for (bracketed, other) in [
            ("(a b) (c d)", both(&ab, &cd, tell)),
            ("a (b (c d))", both(&a, &both(&b, &cd, tell), tell)),
            ("(a (b c)) d", both(&both(&a, &bc, tell), &d, tell)),
            ("a ((b c) d)", both(&a, &both(&bc, &d, tell), tell)),
        ] {
            let other = self.finished(&other, n, tell);
            if let Some(feature) = apart(&finished, &other, tolerance) {
                let (one, other) = (finished[feature], other[feature]);
                let dtype = A::DTYPE;
                tell(
                    "brackets",
                    format!(
                        "in {dtype} ((a b) c) d gives {one} for feature {feature}, and {bracketed} gives {other}: combine is not associative"
                    ),
                );
            }
        }
        let slices: Vec<&[A]> = rows.iter().map(Vec::as_slice).collect();
        let (mut state, mut room) = (poison::<A>(a.len(), 0), poison::<A>(a.len(), 1));
        self.bound.block(&slices, Some(&weights), &mut state, &mut room);
        if !same(&state, &left) {
            tell("push", format!("in {} push gives other bits than combine with the lifted row", A::DTYPE));
        }
        let in_f64 = |state: &[A], rows: f64| {
            let wide: Vec<f64> = state.iter().map(|x| x.as_f64()).collect();
            let mut out = vec![0.0; self.rows[0].len()];
            self.bound.finish(&wide, rows, &mut out);
            out
        };
        Results { all: in_f64(&left, 4.0), one: in_f64(&a, 1.0) }
    }

    fn lifted<A: Real>(&self, row: &[A], weight: A, tell: &mut Tell<'_>) -> Vec<A> {
        let made = |which| {
            let mut state = poison::<A>(self.bound.planes() * row.len(), which);
            self.bound.lift(row, weight, &mut state);
            state
        };
        twice(made, "lift", tell)
    }

    fn combined<A: Real>(&self, older: &[A], newer: &[A], tell: &mut Tell<'_>) -> Vec<A> {
        let made = |_| {
            let mut state = older.to_vec();
            self.bound.combine(&mut state, newer);
            state
        };
        twice(made, "combine", tell)
    }

    fn finished<A: Real>(&self, state: &[A], rows: A, tell: &mut Tell<'_>) -> Vec<f64> {
        let made = |which| {
            let mut out = poison::<A>(state.len() / RowReducer::planes(self.reducer), which);
            self.bound.finish(state, rows, &mut out);
            out
        };
        twice(made, "finish", tell).into_iter().map(|x: A| x.as_f64()).collect()
    }
}

/// What was in memory before: never the same.
fn poison<A: Real>(length: usize, which: usize) -> Vec<A> {
    vec![A::of_f64([f64::NAN, -7.5][which % 2]); length]
}

fn twice<A: Real>(made: impl Fn(usize) -> Vec<A>, what: &'static str, tell: &mut Tell<'_>) -> Vec<A> {
    let (one, other) = (made(0), made(1));
    if !same(&one, &other) {
        tell(what, format!("in {} {what} gives other bits the second time, into memory that held something else", A::DTYPE));
    }
    one
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

//! Reducers of a user's own, in Rust.

use crate::error::{Error, ErrorCode, Result};
use crate::numerics::elementary::Elementary;
use std::fmt;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};
use std::sync::Arc;

/// The most planes that a state has.
pub const MAX_PLANES: usize = 16;

/// f32 or f64: what a state is made of.
///
/// Operators round each result by itself, as the contract wants it; so do the functions of [`elementary`](crate::numerics::elementary), which
/// give the same bits on every machine. Methods of `f32` and `f64` such as `ln` do not.
pub trait Real:
    Elementary
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + sealed::Folded
{
}

impl Real for f32 {}
impl Real for f64 {}

/// The planes of a state: a number a feature in each.
#[derive(Clone, Copy, Debug)]
pub struct Planes<'a, A> {
    values: &'a [A],
    features: usize,
}

/// The planes of a state, to be written.
#[derive(Debug)]
pub struct PlanesMut<'a, A> {
    values: &'a mut [A],
    features: usize,
}

impl<'a, A> Planes<'a, A> {
    /// The planes, one slice each.
    ///
    /// # Panics
    /// Where N is not what [`RowReducer::planes`] says.
    #[inline(always)]
    pub fn split<const N: usize>(self) -> [&'a [A]; N] {
        assert!(self.values.len() == N * self.features, "a state has other than {N} planes");
        std::array::from_fn(|plane| &self.values[plane * self.features..(plane + 1) * self.features])
    }

    /// One plane.
    ///
    /// # Panics
    /// Where there is no such plane.
    #[inline(always)]
    pub fn plane(self, plane: usize) -> &'a [A] {
        &self.values[plane * self.features..(plane + 1) * self.features]
    }
}

impl<A> PlanesMut<'_, A> {
    /// The planes, one slice each.
    ///
    /// # Panics
    /// Where N is not what [`RowReducer::planes`] says.
    #[inline(always)]
    pub fn split<const N: usize>(&mut self) -> [&mut [A]; N] {
        assert!(self.values.len() == N * self.features, "a state has other than {N} planes");
        let (mut rest, features) = (&mut *self.values, self.features);
        std::array::from_fn(|_| {
            let (plane, behind) = std::mem::take(&mut rest).split_at_mut(features);
            rest = behind;
            plane
        })
    }

    /// One plane.
    ///
    /// # Panics
    /// Where there is no such plane.
    #[inline(always)]
    pub fn plane(&mut self, plane: usize) -> &mut [A] {
        &mut self.values[plane * self.features..(plane + 1) * self.features]
    }

    /// The same planes, to be read.
    #[inline(always)]
    pub fn shared(&self) -> Planes<'_, A> {
        Planes { values: self.values, features: self.features }
    }

    /// The same planes, for a callee.
    #[inline(always)]
    pub fn reborrow(&mut self) -> PlanesMut<'_, A> {
        PlanesMut { values: self.values, features: self.features }
    }
}

/// A reducer of a user's own: how a row becomes a state, how the states of two neighbours become one, and what comes out in the end.
///
/// Where the expressions of a [`CustomReducer`](crate::reducer::CustomReducer) do not reach, because features depend on each other or a loop is
/// wanted, this does. A level names it as `custom(NAME version=N)` ([`Reducer::named`](crate::Reducer::named)); the backend finds it in its
/// [`Registry`](super::Registry) when it compiles the plan.
///
/// It is called over whole rows: `row` has one number a feature, and a state [`planes`](Self::planes) slices of as many. In blocks that is f32 (f64
/// for f64 rows), in the tree above them f64; see [`numerics`](crate::numerics). Rows of a block are combined from the left, the first row's
/// state being where a block begins. So it has the same bits for any number of threads as long as its methods give the same bits for the same
/// numbers, keep nothing from call to call, and write all of what they are given to write: what `state` and `out` held before means nothing.
/// [`Laws`](super::Laws) tries that, and that `combine` is associative but for rounding.
///
/// A panic in one of its methods is a panic of the run that calls it. Outputs of that run hold anything; the plan can be run again.
///
/// ```
/// use levelfold::custom::{Laws, Planes, PlanesMut, Real, RowReducer};
/// use levelfold::numerics::elementary::sqrt;
///
/// /// Of each segment the row with the largest norm.
/// #[derive(Clone)]
/// struct Longest;
///
/// impl RowReducer for Longest {
///     fn name(&self) -> &str {
///         "longest"
///     }
///     fn version(&self) -> u32 {
///         1
///     }
///     fn planes(&self) -> usize {
///         2
///     }
///     fn lift<A: Real>(&self, row: &[A], _weight: A, mut state: PlanesMut<'_, A>) {
///         let [held, norm] = state.split();
///         held.copy_from_slice(row);
///         norm.fill(row.iter().fold(A::of_f64(0.0), |sum, &x| sum + x * x));
///     }
///     fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
///         let ([row, norm], [newer, newer_norm]) = (older.split(), newer.split());
///         if norm.first() < newer_norm.first() {
///             row.copy_from_slice(newer);
///             norm.copy_from_slice(newer_norm);
///         }
///     }
///     fn finish<A: Real>(&self, state: Planes<'_, A>, _rows: A, out: &mut [A]) {
///         let [row, norm] = state.split();
///         for ((out, &x), &norm) in out.iter_mut().zip(row).zip(norm) {
///             *out = x / sqrt(norm);
///         }
///     }
/// }
///
/// # fn main() -> levelfold::Result<()> {
/// Laws::new(1).check(&Longest)?;
/// # Ok(())
/// # }
/// ```
pub trait RowReducer: Clone + Send + Sync + 'static {
    /// Its name in specs and plans: a letter, then letters, digits, `_` and `-`.
    fn name(&self) -> &str;
    /// Its version: another one wherever its results change, so that a saved plan is not run by something else.
    fn version(&self) -> u32;
    /// The same reducer with the numbers that a spec gives it: `custom(NAME version=1, 3.0)`. Takes none unless it says otherwise.
    ///
    /// # Errors
    /// Whatever it says of the numbers.
    fn with(&self, arguments: &[f64]) -> Result<Self> {
        if arguments.is_empty() {
            return Ok(self.clone());
        }
        Err(Error::new(ErrorCode::Option, "it takes no arguments").help("leave them out"))
    }
    /// How many numbers of state a feature has, from 1 to [`MAX_PLANES`].
    fn planes(&self) -> usize;
    /// Whether rows may have weights.
    fn takes_weights(&self) -> bool {
        false
    }
    /// The state of one row; its weight is 1 where there are none.
    fn lift<A: Real>(&self, row: &[A], weight: A, state: PlanesMut<'_, A>);
    /// older = older and newer together. Associative but for rounding.
    fn combine<A: Real>(&self, older: PlanesMut<'_, A>, newer: Planes<'_, A>);
    /// The state with one more row: to the bit what combining it with the lifted row gives, which is what it does unless it is written anew
    /// to be faster. `lifted` is room for a state.
    #[inline(always)]
    fn push<A: Real>(&self, state: PlanesMut<'_, A>, row: &[A], weight: A, mut lifted: PlanesMut<'_, A>) {
        self.lift(row, weight, lifted.reborrow());
        self.combine(state, lifted.shared());
    }
    /// The result of a segment of so many rows, from the state of all of them.
    fn finish<A: Real>(&self, state: Planes<'_, A>, rows: A, out: &mut [A]);
}

/// A [`RowReducer`] as backends call it: with its arguments, and whatever its type.
///
/// All states are `planes` slices of `features` numbers, one after the other.
#[derive(Clone)]
pub struct BoundReducer {
    of: Arc<dyn sealed::AnyReducer>,
    planes: usize,
}

impl BoundReducer {
    pub(super) fn new(of: Arc<dyn sealed::AnyReducer>) -> Result<Self> {
        let planes = of.planes();
        if planes == 0 || planes > MAX_PLANES {
            return Err(Error::new(ErrorCode::Option, format!("the state of the reducer `{}` has {planes} planes", of.name()))
                .help(format!("a state has from 1 to {MAX_PLANES}")));
        }
        Ok(BoundReducer { of, planes })
    }

    /// How many planes a state has.
    pub fn planes(&self) -> usize {
        self.planes
    }

    /// Whether rows may have weights.
    pub fn takes_weights(&self) -> bool {
        self.of.takes_weights()
    }

    /// The same, for rows that have weights.
    ///
    /// # Errors
    /// `weights` where it takes none.
    pub fn with_weights(self) -> Result<Self> {
        if self.takes_weights() {
            return Ok(self);
        }
        Err(Error::new(ErrorCode::Weights, format!("the reducer `{}` has no weighted form", self.of.name()))
            .help("leave the weights out, or write one that takes them"))
    }

    /// The state of a row.
    pub fn lift<A: Real>(&self, row: &[A], weight: A, state: &mut [A]) {
        A::of(&*self.of).lift(row, weight, PlanesMut { values: state, features: row.len() });
    }

    /// The state of a block of rows, at least one. `lifted` is room for another state.
    pub fn block<A: Real>(&self, rows: &[&[A]], weights: Option<&[A]>, state: &mut [A], lifted: &mut [A]) {
        A::of(&*self.of).block(rows, weights, state, lifted);
    }

    /// older = older and newer together.
    pub fn combine<A: Real>(&self, older: &mut [A], newer: &[A]) {
        let features = older.len() / self.planes;
        A::of(&*self.of).combine(PlanesMut { values: older, features }, Planes { values: newer, features });
    }

    /// The result of a segment of so many rows.
    pub fn finish<A: Real>(&self, state: &[A], rows: A, out: &mut [A]) {
        A::of(&*self.of).finish(Planes { values: state, features: out.len() }, rows, out);
    }
}

impl fmt::Debug for BoundReducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.of.name(), self.of.version())
    }
}

pub(super) mod sealed {
    use super::{Arc, Planes, PlanesMut, Real, Result, RowReducer};

    /// A reducer over states of one type, as an object: its loops over a block are compiled with it.
    pub trait OverBlocks<A> {
        fn lift(&self, row: &[A], weight: A, state: PlanesMut<'_, A>);
        fn block(&self, rows: &[&[A]], weights: Option<&[A]>, state: &mut [A], lifted: &mut [A]);
        fn combine(&self, older: PlanesMut<'_, A>, newer: Planes<'_, A>);
        fn finish(&self, state: Planes<'_, A>, rows: A, out: &mut [A]);
    }

    /// A reducer over both types.
    pub trait AnyReducer: OverBlocks<f32> + OverBlocks<f64> + Send + Sync {
        fn name(&self) -> &str;
        fn version(&self) -> u32;
        fn planes(&self) -> usize;
        fn takes_weights(&self) -> bool;
        fn bound(&self, arguments: &[f64]) -> Result<Arc<dyn AnyReducer>>;
    }

    /// What a type is folded by.
    pub trait Folded: Sized {
        fn of(reducer: &dyn AnyReducer) -> &dyn OverBlocks<Self>;
    }

    impl Folded for f32 {
        fn of(reducer: &dyn AnyReducer) -> &dyn OverBlocks<f32> {
            reducer
        }
    }

    impl Folded for f64 {
        fn of(reducer: &dyn AnyReducer) -> &dyn OverBlocks<f64> {
            reducer
        }
    }

    impl<A: Real, R: RowReducer> OverBlocks<A> for R {
        fn lift(&self, row: &[A], weight: A, state: PlanesMut<'_, A>) {
            RowReducer::lift(self, row, weight, state);
        }

        fn block(&self, rows: &[&[A]], weights: Option<&[A]>, state: &mut [A], lifted: &mut [A]) {
            let Some((first, rest)) = rows.split_first() else { return };
            let features = first.len();
            let weight = |row: usize| weights.map_or(A::of_f64(1.0), |weights| weights[row]);
            RowReducer::lift(self, first, weight(0), PlanesMut { values: state, features });
            for (index, row) in rest.iter().enumerate() {
                let (state, lifted) = (PlanesMut { values: state, features }, PlanesMut { values: lifted, features });
                self.push(state, row, weight(index + 1), lifted);
            }
        }

        fn combine(&self, older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
            RowReducer::combine(self, older, newer);
        }

        fn finish(&self, state: Planes<'_, A>, rows: A, out: &mut [A]) {
            RowReducer::finish(self, state, rows, out);
        }
    }

    impl<R: RowReducer> AnyReducer for R {
        fn name(&self) -> &str {
            RowReducer::name(self)
        }

        fn version(&self) -> u32 {
            RowReducer::version(self)
        }

        fn planes(&self) -> usize {
            RowReducer::planes(self)
        }

        fn takes_weights(&self) -> bool {
            RowReducer::takes_weights(self)
        }

        fn bound(&self, arguments: &[f64]) -> Result<Arc<dyn AnyReducer>> {
            Ok(Arc::new(self.with(arguments)?))
        }
    }
}

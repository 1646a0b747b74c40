//! The same fold in f64 with compensated sums, and how far a result may be from it.
//!
//! A result y of the hierarchy satisfies |y − exact| ≤ bound · magnitude, where `magnitude` folds |x| in the place of x, and `bound` follows
//! from [`error_bound`] of every level. It holds for the levels as they stand, and also where sums of sums were made one sum over all
//! the leaf rows, which is what `-O2` may do; so it says nothing about single bits, and only plans that reassociate are held to it.

use crate::execute::Input;
use crate::memory::Tensor;
use half::{bf16, f16};
use levelfold::dtype::{Element, IdElement};
use levelfold::numerics::{Value, error_bound, unit_roundoff};
use levelfold::reducer::ReducerClass;
use levelfold::spec::{LeafSource, SegmentSource};
use levelfold::{DType, Error, ErrorCode, Hierarchy, Level, Reducer, Segments, TensorView};
use std::ops::Range;

/// What an output should be.
pub(super) struct Expected {
    /// The output.
    pub(super) name: String,
    /// Row by row.
    pub(super) exact: Vec<f64>,
    /// The same fold of |x|.
    pub(super) magnitude: Vec<f64>,
    /// How far a result may be off, relative to the magnitude.
    pub(super) bound: f64,
}

/// How far a result is off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deviation {
    /// The largest |y − exact| ÷ magnitude.
    pub(super) error: f64,
    /// Whether every element keeps the bound, and is finite where the exact one is.
    pub(super) holds: bool,
}

/// A level, in f64.
struct Folded {
    features: usize,
    exact: Vec<f64>,
    magnitude: Vec<f64>,
    dtype: DType,
    bound: f64,
    /// The most leaf rows under one row.
    leaves: u64,
}

/// Folds the hierarchy over these inputs.
///
/// # Errors
/// `not-bound` where an input is missing; `unsupported` for encoders, which it does not compute.
pub(super) fn expect(hierarchy: &Hierarchy, inputs: &[Input<'_>]) -> Result<Vec<Expected>, Error> {
    let encoded = hierarchy.levels.iter().find(|level| !level.encode.is_empty()).map(|level| &level.name);
    if let Some(level) = encoded.or((!hierarchy.leaves.encode.is_empty()).then_some(&hierarchy.leaves.name)) {
        return Err(Error::new(ErrorCode::Unsupported, "bench checks every result in exact arithmetic, and does not compute encoders")
            .at_level(&**level)
            .help("time the plan with `levelfold explain --analyze`, and compare backends with `levelfold run --hash`"));
    }
    let mut outputs = Vec::new();
    let mut below: Option<Folded> = None;
    for (index, level) in hierarchy.levels.iter().enumerate() {
        let folded = match &below {
            None => {
                let leaves = Leaves::of(hierarchy, inputs)?;
                let source = Source { features: leaves.values.shape()[1], dtype: leaves.values.dtype(), bound: 0.0, leaves: 1 };
                level_of(level, &source, inputs, |row, exact, magnitude| {
                    leaves.read(row, exact);
                    for (magnitude, exact) in magnitude.iter_mut().zip(exact) {
                        *magnitude = exact.abs();
                    }
                })?
            }
            Some(below) => {
                let source = Source { features: below.features, dtype: below.dtype, bound: below.bound, leaves: below.leaves };
                level_of(level, &source, inputs, |row, exact, magnitude| {
                    let at = row * below.features..(row + 1) * below.features;
                    exact.copy_from_slice(&below.exact[at.clone()]);
                    magnitude.copy_from_slice(&below.magnitude[at]);
                })?
            }
        };
        if level.keep || index + 1 == hierarchy.levels.len() {
            outputs.push(Expected {
                name: level.name.to_string(),
                exact: folded.exact.clone(),
                magnitude: folded.magnitude.clone(),
                bound: folded.bound,
            });
        }
        below = Some(folded);
    }
    Ok(outputs)
}

/// Holds an output against what it should be.
pub(super) fn deviation(expected: &Expected, output: &Tensor) -> Result<Deviation, Error> {
    let view = output.view()?;
    let features = output.shape[1];
    let mut found = vec![0.0; features];
    // Near 0 the errors of a type are absolute.
    let tiny = underflow(output.dtype);
    let mut deviation = Deviation { error: 0.0, holds: true };
    for row in 0..output.shape[0] {
        read_row(view, row, &mut found);
        for (feature, &found) in found.iter().enumerate() {
            let (exact, magnitude) = (expected.exact[row * features + feature], expected.magnitude[row * features + feature]);
            if !exact.is_finite() {
                deviation.holds &= found == exact || (found.is_nan() && exact.is_nan());
                continue;
            }
            let off = (found - exact).abs();
            if magnitude > 0.0 {
                deviation.error = deviation.error.max(off / magnitude);
            }
            // A NaN is not within any bound.
            deviation.holds &= off <= expected.bound * magnitude + tiny;
        }
    }
    Ok(deviation)
}

/// The largest difference of two results, relative to the magnitude.
pub(super) fn distance(expected: &Expected, output: &Tensor, other: &Tensor) -> Result<f64, Error> {
    let (view, other_view) = (output.view()?, other.view()?);
    let features = output.shape[1];
    let (mut found, mut wanted) = (vec![0.0; features], vec![0.0; features]);
    let mut largest = 0.0f64;
    for row in 0..output.shape[0] {
        read_row(view, row, &mut found);
        read_row(other_view, row, &mut wanted);
        for (feature, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let (off, magnitude) = ((found - wanted).abs(), expected.magnitude[row * features + feature]);
            // Where both are NaN, or the same infinity, `off` is NaN and does not count.
            if off > 0.0 {
                largest = largest.max(off / magnitude);
            }
        }
    }
    Ok(largest)
}

/// The rows of level 0.
struct Leaves<'a> {
    ids: Option<TensorView<'a>>,
    values: TensorView<'a>,
}

impl<'a> Leaves<'a> {
    fn of(hierarchy: &Hierarchy, inputs: &[Input<'a>]) -> Result<Self, Error> {
        Ok(match &hierarchy.leaves.source {
            LeafSource::Values { .. } => Leaves { ids: None, values: find(inputs, &hierarchy.leaves.name)? },
            LeafSource::Lookup { ids, table } => Leaves { ids: Some(find(inputs, &ids.name)?), values: find(inputs, &table.name)? },
        })
    }

    fn read(&self, row: usize, into: &mut [f64]) {
        let row = match self.ids {
            None => row,
            Some(ids) => id_of(ids, row),
        };
        read_row(self.values, row, into);
    }
}

/// What a level is folded from.
struct Source {
    features: usize,
    dtype: DType,
    bound: f64,
    leaves: u64,
}

fn find<'a>(inputs: &[Input<'a>], name: &str) -> Result<TensorView<'a>, Error> {
    let found = inputs.iter().find(|(bound, _)| *bound == name).map(|(_, view)| *view);
    found.ok_or_else(|| Error::new(ErrorCode::NotBound, format!("input `{name}` is not bound")).at_level(name))
}

fn level_of(level: &Level, source: &Source, inputs: &[Input<'_>], read: impl Fn(usize, &mut [f64], &mut [f64])) -> Result<Folded, Error> {
    let SegmentSource::Inline(segments) = &level.segments else {
        return Err(Error::new(ErrorCode::NotBound, "its segments are not bound").at_level(&*level.name));
    };
    if let Some(other) = level.reduce.iter().find(|reducer| reducer.class() != ReducerClass::Plain) {
        return Err(Error::new(ErrorCode::Unsupported, format!("bench cannot check {other}"))
            .at_level(&*level.name)
            .help("it measures sum, mean, max, min and prod"));
    }
    let weights = level.weights.as_ref().map(|weights| find(inputs, &weights.name)).transpose()?;
    let width = source.features;
    let features = width * level.reduce.len();
    let rows = usize::try_from(segments.len()).unwrap_or(usize::MAX);
    let mut folded = Folded {
        features,
        exact: vec![0.0; rows * features],
        magnitude: vec![0.0; rows * features],
        dtype: level.dtype.unwrap_or(source.dtype),
        bound: 0.0,
        leaves: source.leaves.saturating_mul(segments.longest()),
    };
    let mut folds: Vec<FoldOf> = level.reduce.iter().map(|reducer| FoldOf::new(reducer.clone(), width)).collect();
    let (mut exact, mut magnitude, mut weight) = (vec![0.0; width], vec![0.0; width], [1.0]);
    for (segment, range) in segments.ranges().enumerate() {
        folds.iter_mut().for_each(FoldOf::start);
        for row in rows_of(&range) {
            read(row, &mut exact, &mut magnitude);
            if let Some(weights) = weights {
                read_row(weights, row, &mut weight);
            }
            folds.iter_mut().for_each(|fold| fold.push(&exact, &magnitude, weight[0]));
        }
        for (index, fold) in folds.iter().enumerate() {
            let at = segment * features + index * width;
            let empty = level.on_empty.unwrap_or(fold.reducer.default_on_empty()).value().filter(|_| range.is_empty());
            fold.finish(range.end - range.start, empty, &mut folded.exact[at..at + width], &mut folded.magnitude[at..at + width]);
        }
    }
    let widest =
        level.reduce.iter().map(|reducer| bound_of(reducer, segments, source, &folded, level.weights.is_some())).fold(0.0, f64::max);
    folded.bound = widest;
    Ok(folded)
}

/// The bound of a level over results that have one already.
fn bound_of(reducer: &Reducer, segments: &Segments, source: &Source, folded: &Folded, weighted: bool) -> f64 {
    let here = error_bound(reducer, segments.longest(), source.dtype, folded.dtype, weighted);
    let flat = error_bound(reducer, folded.leaves, source.dtype, folded.dtype, weighted);
    // What this module itself rounds.
    let own = 8.0 * unit_roundoff(DType::F64);
    let below = match reducer {
        // Every factor carries its error.
        Reducer::Prod => (levelfold::numerics::count_to_f64(segments.longest()) * source.bound.ln_1p()).exp_m1(),
        _ => source.bound,
    };
    (1.0 + here) * (1.0 + flat) * (1.0 + below) * (1.0 + own) - 1.0
}

/// One reducer over one segment.
struct FoldOf {
    reducer: Reducer,
    exact: Vec<Compensated>,
    magnitude: Vec<f64>,
    weight: Compensated,
}

/// A sum with its running error (Neumaier's form), or any other accumulator in `sum`.
#[derive(Clone, Copy, Default)]
struct Compensated {
    sum: f64,
    error: f64,
}

impl Compensated {
    fn add(&mut self, x: f64) {
        let sum = self.sum + x;
        self.error += if self.sum.abs() >= x.abs() { (self.sum - sum) + x } else { (x - sum) + self.sum };
        self.sum = sum;
    }

    fn value(self) -> f64 {
        // Past infinity the error is NaN, and means nothing.
        if self.sum.is_finite() { self.sum + self.error } else { self.sum }
    }
}

impl FoldOf {
    fn new(reducer: Reducer, width: usize) -> Self {
        FoldOf { reducer, exact: vec![Compensated::default(); width], magnitude: vec![0.0; width], weight: Compensated::default() }
    }

    fn start(&mut self) {
        let (exact, magnitude) = match &self.reducer {
            Reducer::Sum | Reducer::Mean => (0.0, 0.0),
            Reducer::Prod => (1.0, 1.0),
            Reducer::Max => (f64::NEG_INFINITY, 0.0),
            Reducer::Min => (f64::INFINITY, 0.0),
            other => unreachable!("{other} was refused"),
        };
        self.exact.fill(Compensated { sum: exact, error: 0.0 });
        self.magnitude.fill(magnitude);
        self.weight = Compensated::default();
    }

    fn push(&mut self, exact: &[f64], magnitude: &[f64], weight: f64) {
        self.weight.add(weight);
        let rows = exact.iter().zip(magnitude).zip(self.exact.iter_mut().zip(&mut self.magnitude));
        match &self.reducer {
            Reducer::Sum | Reducer::Mean => rows.for_each(|((x, m), (sum, size))| {
                sum.add(weight * x);
                *size += (weight * m).abs();
            }),
            Reducer::Prod => rows.for_each(|((x, m), (product, size))| {
                product.sum *= x;
                *size *= m;
            }),
            // A NaN wins.
            Reducer::Max => rows.for_each(|((&x, &m), (best, size))| {
                best.sum = if x.is_nan() || x > best.sum { x } else { best.sum };
                *size = size.max(m);
            }),
            Reducer::Min => rows.for_each(|((&x, &m), (best, size))| {
                best.sum = if x.is_nan() || x < best.sum { x } else { best.sum };
                *size = size.max(m);
            }),
            other => unreachable!("{other} was refused"),
        }
    }

    fn finish(&self, rows: u64, empty: Option<f64>, exact: &mut [f64], magnitude: &mut [f64]) {
        if rows == 0 {
            let value = empty.unwrap_or(f64::NAN);
            exact.fill(value);
            magnitude.fill(value.abs());
            return;
        }
        let divisor = if self.reducer == Reducer::Mean { self.weight.value() } else { 1.0 };
        for (into, sum) in exact.iter_mut().zip(&self.exact) {
            *into = sum.value() / divisor;
        }
        for (into, size) in magnitude.iter_mut().zip(&self.magnitude) {
            *into = size / divisor;
        }
    }
}

fn rows_of(range: &Range<u64>) -> Range<usize> {
    let narrow = |row: u64| usize::try_from(row).unwrap_or(usize::MAX);
    narrow(range.start)..narrow(range.end)
}

fn read_row(view: TensorView<'_>, row: usize, into: &mut [f64]) {
    fn read<T: Value>(view: TensorView<'_>, row: usize, into: &mut [f64]) {
        let layout = view.layout();
        let elements = view.elements::<T>().unwrap_or(&[]);
        for (feature, into) in into.iter_mut().enumerate() {
            *into = elements[layout.position(row, feature)].to_f64();
        }
    }
    match view.dtype() {
        DType::F32 => read::<f32>(view, row, into),
        DType::F64 => read::<f64>(view, row, into),
        DType::F16 => read::<f16>(view, row, into),
        DType::BF16 => read::<bf16>(view, row, into),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => into.fill(f64::NAN),
    }
}

fn id_of(view: TensorView<'_>, row: usize) -> usize {
    fn id<T: Element + IdElement>(view: TensorView<'_>, row: usize) -> usize {
        // The run has checked every id.
        view.get::<T>(row, 0).row().unwrap_or(0)
    }
    match view.dtype() {
        DType::U8 => id::<u8>(view, row),
        DType::U16 => id::<u16>(view, row),
        DType::U32 => id::<u32>(view, row),
        DType::I32 => id::<i32>(view, row),
        DType::I64 => id::<i64>(view, row),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => 0,
    }
}

/// A few steps of the smallest subnormal numbers of a type.
fn underflow(dtype: DType) -> f64 {
    64.0 * match dtype {
        DType::F32 => 2f64.powi(-149),
        DType::BF16 => 2f64.powi(-133),
        DType::F16 => 2f64.powi(-24),
        DType::F64 => f64::from_bits(1),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levelfold::{Leaves as LeavesOf, OnEmpty};

    fn output(values: &[f32], shape: [usize; 2]) -> Tensor {
        let mut tensor = Tensor::zeroed("top", DType::F32, shape[0] as u64, shape[1] as u64).unwrap();
        tensor.bytes.as_mut().copy_from_slice(bytemuck::cast_slice(values));
        tensor
    }

    fn hierarchy() -> Hierarchy {
        Hierarchy::new(LeavesOf::values("x", DType::F32, 1))
            .level(Level::new("pair", Segments::from_lengths(&[2, 0, 1]).unwrap()).reduce(Reducer::Mean).on_empty(OnEmpty::Fill(2.0)))
            .level(Level::new("top", Segments::from_lengths(&[3]).unwrap()).reduce_all(&[
                Reducer::Sum,
                Reducer::Max,
                Reducer::Min,
                Reducer::Prod,
            ]))
    }

    #[test]
    fn it_computes_what_paper_does() {
        let x = [1.0f32, 4.0, -3.0];
        let expected = &expect(&hierarchy(), &[("x", TensorView::from_slice(&x, [3, 1]).unwrap())]).unwrap()[0];
        assert_eq!((expected.name.as_str(), expected.exact.as_slice()), ("top", &[1.5, 2.5, -3.0, -15.0][..]));
        assert_eq!(expected.magnitude, [7.5, 3.0, 3.0, 15.0]);
    }

    #[test]
    fn a_wrong_result_does_not_hold() {
        let x = [1.0f32, 4.0, -3.0];
        let expected = &expect(&hierarchy(), &[("x", TensorView::from_slice(&x, [3, 1]).unwrap())]).unwrap()[0];
        let holds = |values: [f32; 4]| deviation(expected, &output(&values, [1, 4])).unwrap().holds;
        assert!(holds([1.5, 2.5, -3.0, -15.0]) && holds([1.5000002, 2.5, -3.0, -15.0]));
        assert!(!holds([1.5001, 2.5, -3.0, -15.0]) && !holds([f32::NAN, 2.5, -3.0, -15.0]) && !holds([1.5, 2.5, -3.0, 15.0]));
    }

    #[test]
    fn encoders_are_refused() {
        let encoded = hierarchy().level(Level::new("top", Segments::whole(1)).encode(levelfold::spec::Encoder::Scale(2.0)));
        let error = expect(&encoded, &[]).err().unwrap();
        assert!(error.code() == ErrorCode::Unsupported && error.to_string().starts_with("top: bench checks"), "{error}");
    }
}

//! An oracle that shares nothing with any backend: the exact result of a level graph, to twice the digits of f64, and how far a backend
//! may be from it.
//!
//! It walks the graph, not a plan, and knows no blocks: it adds from the first row to the last with the rounding errors carried along
//! (T. Dekker's and D. Knuth's error-free transformations). What a backend may differ by is [`error_bound`] on each level, with what the
//! levels below may differ by carried through. Where a result may overflow or underflow the bound does not hold, and anything goes:
//! [`Number::err`] is infinite there. (Those results are still compared with the reference, bit for bit.)

mod encode;
mod states;

use crate::tensor::{Tensor, largest, number, smallest};
use levelfold::graph::{FoldLoad, LevelGraph, Op, Reduction, Value, ValueType};
use levelfold::ids::NodeId;
use levelfold::numerics::{error_bound, unit_roundoff};
use levelfold::{DType, Reducer, Segments};
use states::Column;
use std::collections::BTreeMap;
use std::rc::Rc;

/// An exact number as hi + lo, and how far the computed one may be from it.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    /// The number in f64; NaN and infinities as they must come out.
    pub hi: f64,
    /// What `hi` lacks.
    pub lo: f64,
    /// How far a computed result may be away; infinite where anything goes.
    pub err: f64,
}

impl Number {
    fn exact(hi: f64) -> Self {
        Number { hi, lo: 0.0, err: 0.0 }
    }

    fn anything() -> Self {
        Number { hi: 0.0, lo: 0.0, err: f64::INFINITY }
    }

    /// The largest magnitude that a computed one may have.
    fn size(&self) -> f64 {
        self.hi.abs() + self.lo.abs() + self.err
    }

    /// Whether a computed number is inside the bound. A NaN is a NaN, an infinity itself.
    pub fn allows(&self, computed: f64) -> bool {
        if self.err.is_infinite() {
            return true;
        }
        if !self.hi.is_finite() {
            return computed.to_bits() == self.hi.to_bits() || (computed.is_nan() && self.hi.is_nan());
        }
        // The difference of neighbours is exact in f64.
        computed.is_finite() && ((computed - self.hi) - self.lo).abs() <= self.err
    }
}

/// `[rows, features]` of numbers, and their type.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// Features of a row.
    pub features: usize,
    /// Rows one after the other.
    pub values: Vec<Number>,
    /// The type that they are computed in.
    pub dtype: DType,
}

impl Numbers {
    fn of_tensor(tensor: &Tensor) -> Self {
        let [rows, features] = tensor.shape();
        let at = |row: usize| (0..features).map(move |feature| Number::exact(number(tensor.dtype(), tensor.bits(row, feature))));
        Numbers { features, values: (0..rows).flat_map(at).collect(), dtype: tensor.dtype() }
    }

    /// One number.
    pub fn at(&self, row: usize, feature: usize) -> Number {
        self.values[row * self.features + feature]
    }
}

/// The results of a graph, by the name of the output.
///
/// Reads any graph, before or after any pass, so that a pass that changes the meaning is seen too.
pub fn evaluate(graph: &LevelGraph, inputs: &BTreeMap<String, Tensor>) -> BTreeMap<String, Rc<Numbers>> {
    let mut results: BTreeMap<NodeId, Vec<Rc<Numbers>>> = BTreeMap::new();
    for node in graph.topological() {
        let operands: Vec<Rc<Numbers>> =
            graph.operands(node).iter().map(|value| Rc::clone(&results[&value.node()][value.port()])).collect();
        let made = match graph.op(node) {
            Op::Input { name, .. } => vec![Rc::new(Numbers::of_tensor(&inputs[&**name]))],
            Op::Gather => vec![Rc::new(gather(&operands[0], &operands[1]))],
            // Where the elements of a ragged value lie, and in which order, is nothing to a number; its table stands in its type.
            Op::Slice { .. } | Op::Transpose | Op::Contiguous | Op::Stack | Op::Squeeze | Op::Rename => vec![Rc::clone(&operands[0])],
            Op::Reduce(reduction) => {
                let ValueType::Ragged { table, .. } = *graph.value_type(graph.operands(node)[0]) else {
                    panic!("a reduce takes ragged values");
                };
                let weights = operands.get(1).map(|weights| &**weights);
                vec![Rc::new(reduce(&operands[0], &graph.table(table).segments, reduction, weights))]
            }
            Op::Concat { .. } => vec![Rc::new(concat(&operands))],
            Op::Spread { table } => vec![Rc::new(spread(&operands[0], &graph.table(*table).segments))],
            Op::Encode(encoding) => {
                let ValueType::Rows { rows, features, .. } = graph.types(node)[0] else { panic!("encoders make rows") };
                let shape = [rows, features].map(|count| usize::try_from(count).expect("small"));
                vec![Rc::new(encode::encode(encoding, &operands, shape, |table| &graph.table(table).segments))]
            }
            Op::Fold { load, stages } => {
                let (mut rows, mut weights) = match load {
                    FoldLoad::Rows => (Rc::clone(&operands[0]), operands[1..].iter()),
                    FoldLoad::Gather | FoldLoad::Histogram => (Rc::new(gather(&operands[0], &operands[1])), operands[2..].iter()),
                };
                let mut made: Vec<Rc<Numbers>> = Vec::new();
                for (index, stage) in stages.iter().enumerate() {
                    let segments = &graph.table(stage.table).segments;
                    if index > 0 {
                        let before = stages[index - 1].reductions.len();
                        rows = Rc::clone(&made[made.len() - before + usize::try_from(stage.feed).expect("few reductions")]);
                    }
                    for reduction in &stage.reductions {
                        let mut weights = if reduction.weighted { weights.next().map(|weights| &**weights) } else { None };
                        // Counted rows are weighted ones: a rounding more.
                        let ones = Numbers {
                            features: 1,
                            values: vec![Number::exact(1.0); rows.values.len() / rows.features.max(1)],
                            dtype: DType::F64,
                        };
                        if *load == FoldLoad::Histogram && reduction.reducer.takes_weights() {
                            weights = Some(&ones);
                        }
                        made.push(Rc::new(reduce(&rows, segments, reduction, weights)));
                    }
                }
                made
            }
        };
        for (value, port) in made.iter().zip(0..) {
            debug_assert_eq!(value.dtype, graph.types(node)[port].dtype());
        }
        results.insert(node, made);
    }
    let result = |value: Value| Rc::clone(&results[&value.node()][value.port()]);
    graph.outputs().iter().map(|output| (output.name.to_string(), result(output.value))).collect()
}

fn gather(ids: &Numbers, table: &Numbers) -> Numbers {
    let row = |id: &Number| {
        let at = table.features * (id.hi as usize);
        &table.values[at..at + table.features]
    };
    Numbers { features: table.features, values: ids.values.iter().flat_map(row).copied().collect(), dtype: table.dtype }
}

fn spread(rows: &Numbers, segments: &Segments) -> Numbers {
    let row = |row: u64| {
        let at = rows.features * usize::try_from(row).expect("small");
        &rows.values[at..at + rows.features]
    };
    let values = segments.ranges().flatten().flat_map(row).copied().collect();
    Numbers { features: rows.features, values, dtype: rows.dtype }
}

fn concat(parts: &[Rc<Numbers>]) -> Numbers {
    let features: usize = parts.iter().map(|part| part.features).sum();
    let rows = parts.iter().find(|part| part.features > 0).map_or(0, |part| part.values.len() / part.features);
    let row = |row: usize| parts.iter().flat_map(move |part| (0..part.features).map(move |feature| part.at(row, feature)));
    Numbers { features, values: (0..rows).flat_map(row).collect(), dtype: parts[0].dtype }
}

fn reduce(rows: &Numbers, segments: &Segments, reduction: &Reduction, weights: Option<&Numbers>) -> Numbers {
    let mut values = Vec::new();
    for range in segments.ranges() {
        let range = usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small");
        let weights: Option<Vec<Number>> = weights.map(|weights| range.clone().map(|row| weights.at(row, 0)).collect());
        for feature in 0..rows.features {
            let column: Vec<Number> = range.clone().map(|row| rows.at(row, feature)).collect();
            values.push(reduce_column(reduction, rows.dtype, &column, weights.as_deref()));
        }
    }
    Numbers { features: rows.features, values, dtype: reduction.dtype }
}

/// One feature of one segment.
fn reduce_column(reduction: &Reduction, input: DType, column: &[Number], weights: Option<&[Number]>) -> Number {
    let output = reduction.dtype;
    if column.is_empty() {
        let value = reduction.on_empty.value().expect("a graph with an empty segment says what it gives");
        if reduction.reducer.gives_positions() {
            return Number::exact(value);
        }
        let err = unit_roundoff(output) * value.abs() + smallest(output);
        return in_range(Number { hi: value, lo: 0.0, err: if value.is_finite() { err } else { 0.0 } }, output);
    }
    if column.iter().chain(weights.unwrap_or(&[])).any(|number| number.err.is_infinite()) {
        return Number::anything();
    }
    let n = u64::try_from(column.len()).expect("small");
    let bound = error_bound(&reduction.reducer, n, input, output, weights.is_some());
    let of = Column { input, output, rows: column, weights };
    let number = match reduction.reducer {
        Reducer::Sum | Reducer::Mean => add_up(reduction.reducer.clone(), input, output, column, weights, bound),
        Reducer::Max => choose(column, bound, output, |a, b| a.0 > b.0 || (a.0 == b.0 && a.1 > b.1)),
        Reducer::Min => choose(column, bound, output, |a, b| a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)),
        Reducer::Prod => multiply(input, output, column, bound),
        Reducer::L1 => of.absolute(),
        Reducer::L2 => of.norm(),
        Reducer::Var { ddof } => of.variance(ddof, false),
        Reducer::Std { ddof } => of.variance(ddof, true),
        Reducer::LogSumExp => of.log_sum_exp(),
        Reducer::SoftMax => of.softmax(),
        Reducer::Quantile(q) => of.quantile(q.value()),
        Reducer::First => of.row(0),
        Reducer::Last => of.row(column.len() - 1),
        Reducer::Count => of.count(),
        Reducer::ArgMax => return of.position(1.0),
        Reducer::ArgMin => return of.position(-1.0),
        // Held to the reference backend's bits, and its examples to built-in reducers.
        Reducer::Custom(_) | Reducer::Named(_) => return Number::anything(),
    };
    in_range(number, output)
}

/// Anything goes where a type's range may be left.
fn in_range(number: Number, output: DType) -> Number {
    if number.hi.is_finite() && number.size() >= largest(output) { Number::anything() } else { number }
}

fn add_up(reducer: Reducer, input: DType, output: DType, column: &[Number], weights: Option<&[Number]>, bound: f64) -> Number {
    let acc = input.accumulator();
    let weight = |row: usize| weights.map_or(Number::exact(1.0), |weights| weights[row]);
    let (mut sum, mut divisor) = (Exact::default(), Exact::default());
    // Σ|wx| as large as it may be computed, and what the terms may be away from the exact ones.
    let (mut size, mut away, mut plain, mut plain_weights) = (0.0, 0.0, -0.0, -0.0);
    for (row, x) in column.iter().enumerate() {
        let w = weight(row);
        plain += w.hi * x.hi;
        plain_weights += w.hi;
        if w.hi.is_finite() && x.hi.is_finite() {
            sum.add_product(w, *x);
            divisor.add(w.hi);
            divisor.add(w.lo);
            size += w.size() * x.size();
            away += w.size() * x.err + x.size() * w.err;
        }
    }
    if size >= largest(acc) * 0.99 || plain_weights.abs() >= largest(acc) * 0.99 && plain_weights.is_finite() {
        return Number::anything();
    }
    let (is_mean, is_weighted) = (reducer == Reducer::Mean, weights.is_some());
    if !plain.is_finite() || !plain_weights.is_finite() {
        return Number::exact(if is_mean { plain / plain_weights } else { plain });
    }
    if is_weighted {
        // Products may underflow, each by this much at most.
        away += (column.len() as f64 + 1.0) * smallest(acc);
    }
    let away = away + bound * size;
    let mut number = if is_mean {
        let Exact { hi, lo } = sum.divided_by(divisor);
        Number { hi, lo, err: away / divisor.hi + smallest(acc) }
    } else {
        Number { hi: sum.hi, lo: sum.lo, err: away }
    };
    if is_mean || is_weighted || !input.widens_to(output) {
        number.err += smallest(output);
    }
    number
}

fn choose(column: &[Number], bound: f64, output: DType, better: fn((f64, f64), (f64, f64)) -> bool) -> Number {
    if column.iter().any(|x| x.hi.is_nan()) {
        return Number::exact(f64::NAN);
    }
    let mut chosen = column[0];
    for x in column {
        if better((x.hi, x.lo), (chosen.hi, chosen.lo)) {
            chosen = *x;
        }
    }
    // The largest of numbers that are each a little away is no further away than the worst of them.
    let away = column.iter().fold(0.0, |worst: f64, x| worst.max(x.err));
    let rounding = if bound > 0.0 { bound * (chosen.hi.abs() + away) + smallest(output) } else { 0.0 };
    if chosen.hi.is_finite() { Number { err: away + rounding, ..chosen } } else { Number::exact(chosen.hi) }
}

fn multiply(input: DType, output: DType, column: &[Number], bound: f64) -> Number {
    let acc = input.accumulator();
    let plain = column.iter().fold(1.0, |product, x| product * x.hi);
    let (mut product, mut up, mut down, mut relative) = (Exact { hi: 1.0, lo: 0.0 }, 1.0, 1.0, 0.0);
    for x in column {
        if x.hi == 0.0 && x.err > 0.0 {
            return Number::anything();
        }
        if x.hi.is_finite() {
            up *= x.size().max(1.0);
            down *= if x.hi == 0.0 { 1.0 } else { x.hi.abs().min(1.0) };
            relative += (x.err / if x.hi == 0.0 { 1.0 } else { x.hi.abs() }).ln_1p();
            product.multiply(*x);
        }
    }
    // No partial product, in whatever order, may overflow or lose digits.
    if up >= largest(acc) * 0.99 || down <= smallest(acc) * 2f64.powi(60) {
        return Number::anything();
    }
    if !plain.is_finite() {
        return Number::exact(plain);
    }
    let away = relative.exp_m1() * 1.000_001;
    let exact = column.len() == 1 && input.widens_to(output);
    let tiny = if exact { 0.0 } else { smallest(output) };
    Number { hi: product.hi, lo: product.lo, err: product.hi.abs() * (away + bound * (1.0 + away)) + tiny }
}

/// An unevaluated sum of two numbers: about 106 digits.
#[derive(Clone, Copy, Debug)]
struct Exact {
    hi: f64,
    lo: f64,
}

impl Default for Exact {
    fn default() -> Self {
        Exact { hi: -0.0, lo: 0.0 }
    }
}

impl Exact {
    /// D. Knuth's two-sum; what is lost is kept in `lo`.
    fn add(&mut self, x: f64) {
        let sum = self.hi + x;
        let back = sum - self.hi;
        self.lo += (self.hi - (sum - back)) + (x - back);
        self.hi = sum;
    }

    /// Adds w · x, both of them hi + lo.
    fn add_product(&mut self, w: Number, x: Number) {
        let product = w.hi * x.hi;
        let lost = w.hi.mul_add(x.hi, -product);
        self.add(product);
        self.lo += lost + (w.hi * x.lo + w.lo * x.hi);
        self.settle();
    }

    fn multiply(&mut self, x: Number) {
        let product = self.hi * x.hi;
        let lost = self.hi.mul_add(x.hi, -product);
        self.lo = lost + (self.hi * x.lo + self.lo * x.hi);
        self.hi = product;
        self.settle();
    }

    fn divided_by(mut self, mut divisor: Exact) -> Exact {
        self.settle();
        divisor.settle();
        let hi = self.hi / divisor.hi;
        let rest = (-hi).mul_add(divisor.hi, self.hi) + (self.lo - hi * divisor.lo);
        Exact { hi, lo: rest / divisor.hi }
    }

    /// Of a number that is not negative.
    fn root(mut self) -> Exact {
        self.settle();
        let hi = self.hi.max(0.0).sqrt();
        if hi == 0.0 {
            return Exact { hi, lo: 0.0 };
        }
        Exact { hi, lo: ((-hi).mul_add(hi, self.hi) + self.lo) / (2.0 * hi) }
    }

    /// Makes `hi` the number nearest to the sum.
    fn settle(&mut self) {
        let sum = self.hi + self.lo;
        self.lo -= sum - self.hi;
        self.hi = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levelfold::OnEmpty;

    fn reduced(reducer: Reducer, dtype: DType, column: &[f64]) -> Number {
        let reduction = Reduction { reducer, weighted: false, on_empty: OnEmpty::Zero, dtype, ops: Default::default() };
        let column: Vec<Number> = column.iter().map(|&x| Number::exact(x)).collect();
        reduce_column(&reduction, dtype, &column, None)
    }

    #[test]
    fn what_cancels_is_kept() {
        let sum = reduced(Reducer::Sum, DType::F64, &[1e16, 1.0, -1e16, 1e-16]);
        assert_eq!((sum.hi, sum.lo), (1.0, 1e-16));
        let mean = reduced(Reducer::Mean, DType::F64, &[1.0, 0.0, 0.0]);
        assert_eq!(mean.hi, 1.0 / 3.0);
        assert!((mean.lo - 1.850_371_707_708_594e-17).abs() < 1e-30, "{:e}", mean.lo);
        let product = reduced(Reducer::Prod, DType::F64, &[1.0 + f64::EPSILON, 1.0 - f64::EPSILON]);
        assert_eq!((product.hi, product.lo), (1.0, -f64::EPSILON * f64::EPSILON));
    }

    #[test]
    fn one_row_is_exact_and_more_are_not() {
        let one = reduced(Reducer::Sum, DType::F32, &[0.1f32.into()]);
        assert!(one.allows(0.1f32.into()) && !one.allows(f64::from(0.1f32).next_up()));
        let two = reduced(Reducer::Sum, DType::F32, &[1.0, 2f64.powi(-24)]);
        assert!(two.allows(1.0) && two.allows(1.0 + 2f64.powi(-23)) && !two.allows(1.0 + 2f64.powi(-22)));
    }

    #[test]
    fn the_range_of_a_type_ends_what_is_promised() {
        assert!(reduced(Reducer::Sum, DType::F16, &[65504.0, 65504.0]).err.is_infinite());
        assert!(reduced(Reducer::Prod, DType::F32, &[1e-30, 1e-30]).err.is_infinite());
        assert!(reduced(Reducer::Max, DType::F32, &[f64::NAN, 1.0]).hi.is_nan());
        assert_eq!(reduced(Reducer::Sum, DType::F32, &[f64::INFINITY, 1.0]).hi, f64::INFINITY);
        assert!(reduced(Reducer::Sum, DType::F32, &[f64::INFINITY, f64::NEG_INFINITY]).hi.is_nan());
        assert!(!reduced(Reducer::Sum, DType::F32, &[f64::INFINITY, 1.0]).allows(1.0));
    }
}

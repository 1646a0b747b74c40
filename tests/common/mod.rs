//! Random graphs with data, from a seed that is printed when something fails.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, missing_docs, reason = "shared between test files")]

pub mod encoders;

use half::{bf16, f16};
use levelfold::backend::{Backend, Bindings};
use levelfold::dtype::Element;
use levelfold::encoder::{Activation, Number, RowOp};
use levelfold::graph::{GraphBuilder, LevelGraph, Reduce, Value, ValueType};
use levelfold::{DType, Layout, OnEmpty, Plan, Reducer, Result, Segments, TensorView, TensorViewMut};
use std::sync::Arc;

/// SplitMix64 (G. Steele, D. Lea and C. Flood, 2014).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }

    /// Mostly ordinary numbers of very different sizes, with zeros of both signs, infinities and NaN among them.
    pub fn value(&mut self) -> f64 {
        match self.below(40) {
            0 => -0.0,
            1 => 0.0,
            2 if self.chance(4) => f64::NAN,
            3 if self.chance(4) => f64::INFINITY,
            4 if self.chance(4) => f64::NEG_INFINITY,
            _ => {
                let fraction = self.below(1 << 20) as f64 / f64::from(1 << 19) - 1.0;
                fraction * 2f64.powi(self.below(24) as i32 - 12)
            }
        }
    }
}

/// Data of one input: dense rows, or the transposed form.
pub struct Data {
    name: String,
    bytes: Vec<u64>,
    len: usize,
    dtype: DType,
    layout: Layout,
}

/// The bytes of every output, by name.
pub type Outputs = Vec<(String, Vec<u8>)>;

pub struct Case {
    pub seed: u64,
    pub graph: LevelGraph,
    pub segments: Vec<Segments>,
    pub inputs: Vec<Data>,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}\n{}", self.seed, self.graph)
    }
}

impl Case {
    /// Runs a plan twice on one executable, and returns the bytes of every output, by name.
    pub fn run(&self, backend: &dyn Backend, plan: Plan) -> Outputs {
        self.try_run(backend, plan).unwrap_or_else(|error| panic!("{self}\n{error}"))
    }

    /// [`run`](Self::run), for plans that a backend may refuse.
    pub fn try_run(&self, backend: &dyn Backend, plan: Plan) -> Result<Outputs> {
        let plan = Arc::new(plan);
        let mut executable = backend.compile(&plan)?;
        let mut results = Vec::new();
        for round in 0..2u8 {
            let mut outputs: Vec<(String, DType, [usize; 2], Vec<u64>)> = plan
                .outputs()
                .map(|(_, buffer)| {
                    let words = buffer.bytes().div_ceil(8) as usize;
                    let shape = [buffer.rows as usize, buffer.features as usize];
                    (buffer.name.to_string(), buffer.dtype, shape, vec![0xa5a5_a5a5_a5a5_a5a5 ^ u64::from(round); words])
                })
                .collect();
            let mut bindings = Bindings::new();
            for segments in &self.segments {
                bindings.bind_table(segments);
            }
            for input in &self.inputs {
                let bytes = &bytemuck::cast_slice::<u64, u8>(&input.bytes)[..input.len];
                bindings.bind_input(&input.name, TensorView::from_bytes(bytes, input.dtype, input.layout).unwrap());
            }
            for (name, dtype, shape, words) in &mut outputs {
                let len = shape[0] * shape[1] * dtype.size();
                let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(words)[..len];
                bindings.bind_output(name, TensorViewMut::from_bytes(bytes, *dtype, *shape).unwrap());
            }
            let report = executable.run(&mut bindings)?;
            for (step, counted) in plan.steps.iter().zip(&report.steps) {
                assert_eq!((step.cost.read, step.cost.written), (counted.read, counted.written), "{self}: bytes of {:?}", step.origin);
            }
            drop(bindings);
            let mut round: Vec<(String, Vec<u8>)> = outputs
                .into_iter()
                .map(|(name, dtype, shape, words)| {
                    (name, bytemuck::cast_slice::<u64, u8>(&words)[..shape[0] * shape[1] * dtype.size()].to_vec())
                })
                .collect();
            round.sort();
            results.push(round);
        }
        let second = results.pop().unwrap();
        assert!(Some(&second) == results.last(), "{self}: the second run differs from the first");
        Ok(second)
    }
}

fn push<T: Element>(values: impl Iterator<Item = T>) -> (Vec<u64>, usize) {
    let values: Vec<T> = values.collect();
    let bytes: &[u8] = bytemuck::cast_slice(&values);
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    (words, bytes.len())
}

fn random_floats(rng: &mut Rng, dtype: DType, count: usize, of: impl Fn(&mut Rng) -> f64) -> (Vec<u64>, usize) {
    match dtype {
        DType::F64 => push((0..count).map(|_| of(rng))),
        DType::F16 => push((0..count).map(|_| f16::from_f64(of(rng)))),
        DType::BF16 => push((0..count).map(|_| <bf16 as levelfold::numerics::Value>::from_f64(of(rng)))),
        _ => push((0..count).map(|_| of(rng) as f32)),
    }
}

/// Segments over `rows` rows; a partition where asked for.
fn random_segments(rng: &mut Rng, rows: u64, partition: bool) -> Segments {
    let count = if rng.chance(6) { 1 + rng.below(2) } else { 1 + rng.below((rows / 3).max(2)) };
    if partition || !rng.chance(4) {
        let mut cuts: Vec<u64> = (1..count).map(|_| rng.below(rows + 1)).collect();
        cuts.sort_unstable();
        return Segments::from_boundaries(&cuts, rows).unwrap();
    }
    let ranges: Vec<(u64, u64)> = (0..count)
        .map(|_| {
            let start = rng.below(rows + 1);
            (start, start + rng.below((rows - start).min(90) + 1))
        })
        .collect();
    Segments::from_ranges(&ranges, rows).unwrap()
}

pub fn random_case(seed: u64) -> Case {
    let rng = &mut Rng::new(seed);
    let mut b = GraphBuilder::new();
    let mut inputs = Vec::new();
    let mut tables: Vec<Segments> = Vec::new();
    let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
    let features = if rng.chance(12) { 0 } else { rng.pick(&[1u64, 2, 3, 5, 8, 17, 64, 70]) };
    let rows = rng.pick(&[0u64, 1, 7, 40, 200, 700, 3000]);
    let leaves = if rng.chance(3) {
        let ids_dtype = rng.pick(&[DType::U8, DType::U16, DType::U32, DType::I32, DType::I64]);
        let vocabulary = 1 + rng.below(90);
        let ids = b.ids("ids", ids_dtype, rows).unwrap();
        let table = b.param("table", dtype, vocabulary, features).unwrap();
        let raw: Vec<u64> = (0..rows).map(|_| rng.below(vocabulary)).collect();
        let (bytes, len) = match ids_dtype {
            DType::U8 => push(raw.iter().map(|id| *id as u8)),
            DType::U16 => push(raw.iter().map(|id| *id as u16)),
            DType::I32 => push(raw.iter().map(|id| *id as i32)),
            DType::I64 => push(raw.iter().map(|id| *id as i64)),
            _ => push(raw.iter().map(|id| *id as u32)),
        };
        let layout = Layout { offset: 0, shape: [rows as usize, 1], strides: [1, 1] };
        inputs.push(Data { name: "ids".into(), bytes, len, dtype: ids_dtype, layout });
        let (bytes, len) = random_floats(rng, dtype, (vocabulary * features) as usize, Rng::value);
        let layout = random_layout(rng, [vocabulary as usize, features as usize]);
        inputs.push(Data { name: "table".into(), bytes, len, dtype, layout });
        b.gather(ids, table).unwrap()
    } else {
        let x = b.input("x", dtype, rows, features).unwrap();
        let (bytes, len) = random_floats(rng, dtype, (rows * features) as usize, Rng::value);
        let layout = random_layout(rng, [rows as usize, features as usize]);
        inputs.push(Data { name: "x".into(), bytes, len, dtype, layout });
        x
    };
    let mut below = vec![leaves];
    let mut names = 0;
    for depth in 0..1 + rng.below(4) {
        let mut here: Vec<Value> = Vec::new();
        for _ in 0..1 + rng.below(2) {
            let source = rng.pick(&below);
            let ValueType::Rows { rows, .. } = b.value_type(source) else { unreachable!("rows") };
            let segments = match tables.iter().find(|table| table.rows() == rows) {
                // Now and then the same table again, so that siblings and shared tables come up.
                Some(table) if rng.chance(2) => table.clone(),
                _ => {
                    let partition = depth > 0 && !rng.chance(5);
                    random_segments(rng, rows, partition)
                }
            };
            names += 1;
            let table = b.table(&format!("level{names}"), &segments).unwrap();
            tables.push(segments.clone());
            let mut parts: Vec<Value> = Vec::new();
            for _ in 0..if rng.chance(3) { 2 + rng.below(2) } else { 1 } {
                let before = random_elements(rng, &mut b, source);
                let made = random_fold(rng, &mut b, &mut inputs, before, table, &segments);
                parts.push(random_elements(rng, &mut b, made));
            }
            let same = parts.iter().all(|part| b.value_type(*part).dtype() == b.value_type(parts[0]).dtype());
            let joined = if parts.len() > 1 && same && rng.chance(2) { vec![b.concat(&parts).unwrap()] } else { parts };
            for value in joined {
                if rng.chance(3) {
                    names += 1;
                    b.output(&format!("out{names}"), value).unwrap();
                }
                here.push(value);
            }
        }
        below = here;
    }
    if rng.chance(8) {
        b.output("leaves", leaves).unwrap();
    }
    b.output("top", below[0]).unwrap();
    Case { seed, graph: b.finish().unwrap(), segments: tables, inputs }
}

/// Now and then, something that is done to each element: kept now and then.
fn random_elements(rng: &mut Rng, b: &mut GraphBuilder, mut value: Value) -> Value {
    for _ in 0..rng.below(6).saturating_sub(3) {
        let op = match rng.below(4) {
            0 => RowOp::Scale(Number(rng.pick(&[-1.5, 0.1, 3.0]))),
            1 => RowOp::Cast(rng.pick(&[DType::F32, DType::F64, DType::F16, DType::BF16])),
            _ => RowOp::Activate(rng.pick(&Activation::ALL)),
        };
        value = b.map(value, &op).unwrap();
        if rng.chance(8) {
            let number = b.value_type(value);
            b.output(&format!("kept {value:?} {number}"), value).unwrap();
        }
    }
    value
}

fn random_layout(rng: &mut Rng, shape: [usize; 2]) -> Layout {
    match rng.below(4) {
        0 => Layout::feature_major(shape),
        // Backwards, where there is a last row to start from.
        1 if shape[0] > 0 => Layout { offset: (shape[0] - 1) * shape[1], shape, strides: [-(shape[1] as isize), 1] },
        _ => Layout::row_major(shape),
    }
}

fn random_fold(
    rng: &mut Rng,
    b: &mut GraphBuilder,
    inputs: &mut Vec<Data>,
    source: Value,
    table: levelfold::ids::TableId,
    segments: &Segments,
) -> Value {
    let dtype = b.value_type(source).dtype();
    let reducer = rng.pick(&[Reducer::Sum, Reducer::Mean, Reducer::Max, Reducer::Max, Reducer::Min, Reducer::Prod]);
    let on_empty = rng.pick(&[OnEmpty::Zero, OnEmpty::NaN, OnEmpty::Fill(0.1), OnEmpty::Fill(f64::NEG_INFINITY)]);
    let mut how = Reduce::new(reducer.clone());
    if reducer.default_on_empty() == OnEmpty::Error || rng.chance(3) {
        how = how.on_empty(on_empty);
    }
    if rng.chance(5) {
        how = how.dtype(rng.pick(&[DType::F32, DType::F64, DType::F16, DType::BF16]));
    }
    if reducer.takes_weights() && rng.chance(3) {
        let weight = if dtype == DType::F64 { rng.pick(&[DType::F64, DType::F32]) } else { rng.pick(&[DType::F32, DType::BF16]) };
        let name = format!("w{}", inputs.len());
        let weights = b.weights(&name, weight, segments.rows()).unwrap();
        let count = segments.rows() as usize;
        let (bytes, len) = random_floats(rng, weight, count, |rng| 1.0 / (1 + rng.below(7)) as f64);
        let layout = Layout { offset: 0, shape: [count, 1], strides: [1, 1] };
        inputs.push(Data { name, bytes, len, dtype: weight, layout });
        how = how.weights(weights);
    }
    match rng.below(5) {
        // Not always the whole literal chain.
        0 => {
            let ragged = b.slice(source, table).unwrap();
            let pieces = b.reduce(ragged, how).unwrap();
            let stacked = b.stack(pieces).unwrap();
            b.squeeze(stacked).unwrap()
        }
        1 => {
            let ragged = b.slice(source, table).unwrap();
            let ragged = b.contiguous(ragged).unwrap();
            let ragged = b.transpose(ragged).unwrap();
            let ragged = if rng.chance(2) { b.contiguous(ragged).unwrap() } else { ragged };
            let pieces = b.reduce(ragged, how).unwrap();
            let stacked = b.stack(pieces).unwrap();
            b.squeeze(stacked).unwrap()
        }
        _ => b.fold(source, table, how).unwrap(),
    }
}

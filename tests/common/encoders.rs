//! Random graphs of encoders between levels.

use super::{Case, Data, Rng, random_floats, random_layout, random_segments};
use levelfold::DType;
use levelfold::encoder::{Activation, Number, RowOp};
use levelfold::graph::{GraphBuilder, Reduce, Value, ValueType};
use levelfold::ids::TableId;
use levelfold::reducer::Quantile;
use levelfold::{OnEmpty, Reducer, Segments};

struct Making {
    rng: Rng,
    b: GraphBuilder,
    inputs: Vec<Data>,
    dtype: DType,
}

impl Making {
    fn data(&mut self, name: &str, dtype: DType, [rows, features]: [u64; 2]) {
        let shape = [rows as usize, features as usize];
        let (bytes, len) = random_floats(&mut self.rng, dtype, shape[0] * shape[1], Rng::value);
        let layout = random_layout(&mut self.rng, shape);
        self.inputs.push(Data { name: name.into(), bytes, len, dtype, layout });
    }

    /// A param, now and then one that is there already.
    fn param(&mut self, rows: u64, features: u64) -> Value {
        let dtype = if self.rng.chance(4) && self.dtype != DType::F64 { DType::F16 } else { self.dtype };
        let name = format!("param.{dtype}.{rows}x{features}.{}", self.rng.below(2));
        if !self.inputs.iter().any(|input| input.name == name) {
            self.data(&name, dtype, [rows, features]);
        }
        self.b.shared_param(&name, dtype, rows, features).unwrap()
    }

    fn features(&self, value: Value) -> u64 {
        let ValueType::Rows { features, .. } = self.b.value_type(value) else { unreachable!("rows") };
        features
    }

    fn row_op(&mut self, x: Value, residual: Value, table: TableId, longest: u64) -> RowOp<Value> {
        let features = self.features(x);
        match self.rng.below(9) {
            0 => RowOp::Activate(self.rng.pick(&Activation::ALL)),
            1 => RowOp::Scale(Number(self.rng.pick(&[-1.5, 0.1, 3.0]))),
            2 if self.b.value_type(residual) == self.b.value_type(x) => RowOp::Add(residual),
            3 => RowOp::LayerNorm { weight: self.param(1, features), bias: Some(self.param(1, features)), eps: Number(1e-5) },
            4 => RowOp::RmsNorm { weight: self.param(1, features), eps: Number(1e-6) },
            5 => RowOp::Sinusoid { table, base: Number(1e4) },
            6 if features >= 2 => RowOp::Rotate { table, base: Number(1e4), columns: features / 2 * 2, width: 2 },
            7 => RowOp::Learned { positions: self.param(longest + 1, features), table },
            _ => RowOp::Activate(Activation::Relu),
        }
    }

    /// A few encoders in a row.
    fn encode(&mut self, mut x: Value, table: TableId, longest: u64) -> Value {
        let start = x;
        for _ in 0..2 + self.rng.below(5) {
            let features = self.features(x);
            x = match self.rng.below(7) {
                0 => {
                    let out = self.rng.pick(&[features, features, 4, 9]);
                    let weight = self.param(out, features);
                    let bias = self.rng.chance(2).then(|| self.param(1, out));
                    self.b.linear(x, weight, bias).unwrap()
                }
                1 => {
                    let heads = if features.is_multiple_of(2) { 2 } else { 1 };
                    let into = self.param(3 * features, features);
                    let qkv = self.b.linear(x, into, None).unwrap();
                    let causal = self.rng.chance(2);
                    self.b.attend(qkv, table, heads, causal).unwrap()
                }
                6 if features <= 40 => {
                    let gated = self.b.map(x, &RowOp::Activate(Activation::Sigmoid)).unwrap();
                    self.b.concat(&[gated, x]).unwrap()
                }
                2 => {
                    let taps = 1 + self.rng.below(5);
                    let weight = self.param(features, taps);
                    let causal = self.rng.chance(2);
                    self.b.convolve(x, weight, None, table, causal).unwrap()
                }
                _ => {
                    let op = self.row_op(x, start, table, longest);
                    self.b.map(x, &op).unwrap()
                }
            };
        }
        x
    }
}

/// Two or three levels with encoders on each, some of them kept, over windows now and then.
pub fn random_encoders(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
    let (features, rows) = (rng.pick(&[1u64, 2, 4, 6, 33]), rng.pick(&[0u64, 1, 7, 40, 90]));
    let mut make = Making { rng, b: GraphBuilder::new(), inputs: Vec::new(), dtype };
    let mut x = make.b.input("x", dtype, rows, features).unwrap();
    make.data("x", dtype, [rows, features]);
    let mut tables: Vec<Segments> = Vec::new();
    let mut below = rows;
    for depth in 0..2 + make.rng.below(2) {
        let partition = !make.rng.chance(4);
        let segments = random_segments(&mut make.rng, below, partition);
        let mut table = make.b.table(&format!("level{depth}"), &segments).unwrap();
        tables.push(segments.clone());
        if !segments.is_partition() {
            x = make.b.spread(x, table).unwrap();
            let each: Vec<u64> = segments.ranges().map(|range| range.end - range.start).collect();
            let each = Segments::from_lengths(&each).unwrap();
            table = make.b.table(&format!("level{depth}.rows"), &each).unwrap();
            tables.push(each);
        }
        x = make.encode(x, table, segments.longest());
        if make.rng.chance(3) {
            make.b.output(&format!("kept{depth}"), x).unwrap();
        }
        let reducer = make.rng.pick(&[Reducer::Mean, Reducer::Max, Reducer::Sum, Reducer::Quantile(Quantile::MEDIAN)]);
        let mut reduce = Reduce::new(reducer).on_empty(OnEmpty::Zero);
        if make.rng.chance(4) {
            // Scores of one column, made of the rows themselves.
            let query = make.param(1, make.features(x));
            let scores = make.b.linear(x, query, None).unwrap();
            reduce = Reduce::new(Reducer::SoftMax).on_empty(OnEmpty::Zero).weights(scores);
        }
        x = make.b.fold(x, table, reduce).unwrap();
        below = segments.len();
    }
    let whole = Segments::whole(below);
    let table = make.b.table("all", &whole).unwrap();
    tables.push(whole);
    x = make.encode(x, table, below);
    make.b.output("top", x).unwrap();
    Case { seed, graph: make.b.finish().unwrap(), segments: tables, inputs: make.inputs }
}

//! Encoders: each operation in each type, along segments of every kind, alone and between levels.

use super::{FLOATS, lengths, ranges};
use crate::case::Case;
use crate::tensor::{Arrangement, Fill};
use levelfold::encoder::{Activation, Number, RowOp};
use levelfold::graph::{GraphBuilder, Reduce, Value};
use levelfold::ids::TableId;
use levelfold::{DType, Reducer, Result, Segments};

/// 117 rows: empty segments, one row, around a block, around two.
fn some_segments() -> Segments {
    lengths(&[0, 1, 3, 31, 0, 32, 33, 17, 0])
}

const ROWS: u64 = 117;

fn row(graph: &mut GraphBuilder, name: &str, dtype: DType, features: u64) -> Result<Value> {
    graph.shared_param(name, dtype, 1, features)
}

/// The params of a type that is exact in the accumulator, though it is not that of the rows.
fn other_type(dtype: DType) -> DType {
    match dtype {
        DType::F32 => DType::BF16,
        DType::F64 | DType::F16 => DType::F32,
        _ => DType::F16,
    }
}

/// Of `[rows, features]`.
type Build = fn(&mut GraphBuilder, DType, [u64; 2], TableId) -> Result<RowOp<Value>>;

const OPS: [(&str, Build); 9] = [
    ("scale", |_, _, _, _| Ok(RowOp::Scale(Number(-0.3)))),
    ("layer-norm", |graph, dtype, [_, features], _| {
        let (weight, bias) = (row(graph, "weight", dtype, features)?, row(graph, "bias", dtype, features)?);
        Ok(RowOp::LayerNorm { weight, bias: Some(bias), eps: Number(1e-5) })
    }),
    ("layer-norm-without-bias", |graph, dtype, [_, features], _| {
        Ok(RowOp::LayerNorm { weight: row(graph, "weight", other_type(dtype), features)?, bias: None, eps: Number(1e-3) })
    }),
    ("rms-norm", |graph, dtype, [_, features], _| Ok(RowOp::RmsNorm { weight: row(graph, "weight", dtype, features)?, eps: Number(1e-6) })),
    ("add", |graph, dtype, [rows, features], _| Ok(RowOp::Add(graph.input("other", dtype, rows, features)?))),
    ("sinusoid", |_, _, _, table| Ok(RowOp::Sinusoid { table, base: Number(10_000.0) })),
    ("learned", |graph, dtype, [_, features], table| {
        Ok(RowOp::Learned { positions: graph.param("positions", dtype, 140, features)?, table })
    }),
    ("rotate", |_, _, [_, features], table| {
        let width = features & !1;
        Ok(RowOp::Rotate { table, base: Number(10_000.0), columns: width, width: width.max(2) })
    }),
    ("rotate-heads", |_, _, [_, features], table| Ok(RowOp::Rotate { table, base: Number(50.0), columns: features / 4 * 4, width: 4 })),
];

fn activations() -> [(&'static str, Build); 6] {
    let build = |activation: Activation| -> (&'static str, Build) {
        let build: Build = match activation {
            Activation::Relu => |_, _, _, _| Ok(RowOp::Activate(Activation::Relu)),
            Activation::Gelu => |_, _, _, _| Ok(RowOp::Activate(Activation::Gelu)),
            Activation::GeluTanh => |_, _, _, _| Ok(RowOp::Activate(Activation::GeluTanh)),
            Activation::Silu => |_, _, _, _| Ok(RowOp::Activate(Activation::Silu)),
            Activation::Tanh => |_, _, _, _| Ok(RowOp::Activate(Activation::Tanh)),
            Activation::Sigmoid => |_, _, _, _| Ok(RowOp::Activate(Activation::Sigmoid)),
        };
        (activation.name(), build)
    };
    Activation::ALL.map(build)
}

fn casts() -> [(&'static str, Build); 4] {
    [
        ("cast-f32", |_, _, _, _| Ok(RowOp::Cast(DType::F32))),
        ("cast-f64", |_, _, _, _| Ok(RowOp::Cast(DType::F64))),
        ("cast-f16", |_, _, _, _| Ok(RowOp::Cast(DType::F16))),
        ("cast-bf16", |_, _, _, _| Ok(RowOp::Cast(DType::BF16))),
    ]
}

pub(super) fn row_ops() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        for features in [1, 2, 6, 32, 33, 70] {
            for (name, build) in OPS {
                cases.push(one(&format!("{name}/{dtype}/{features}"), dtype, features, build).values(Fill::Factors));
            }
        }
        for activation in Activation::ALL {
            let name = format!("row-ops/{}/{dtype}", activation.name());
            let case = |name: String| {
                Case::build(name, |graph| {
                    let x = graph.input("x", dtype, 40, 5)?;
                    let y = graph.map(x, &RowOp::Activate(activation))?;
                    graph.output("y", y)
                })
            };
            cases.extend([case(format!("{name}/plain")).values(Fill::Plain), case(format!("{name}/specials")).values(Fill::Specials)]);
            cases.push(case(format!("{name}/small")).values(Fill::Subnormal).arrange_all(Arrangement::Backwards));
        }
        for (name, build) in OPS {
            cases.push(one(&format!("{name}/{dtype}/specials"), dtype, 6, build).values(Fill::Specials));
            cases.push(one(&format!("{name}/{dtype}/strided"), dtype, 9, build).values(Fill::Factors).arrange_all(Arrangement::Strided));
        }
        // No row, one by itself, and many: in all, and in a segment.
        for (what, segments) in [("no-rows", lengths(&[])), ("one-row", lengths(&[1])), ("long", lengths(&[3, 130, 0, 1]))] {
            for (name, build) in OPS.into_iter().chain(activations()).chain(casts()) {
                cases.push(over(&format!("{name}/{dtype}/{what}"), dtype, &segments, 6, build).values(Fill::Factors));
            }
        }
        for (name, build) in casts() {
            for fill in [Fill::Plain, Fill::Specials, Fill::Subnormal, Fill::Huge] {
                cases.push(one(&format!("{name}/{dtype}/{fill:?}"), dtype, 5, build).values(fill));
            }
        }
        for to in FLOATS {
            cases.push(Case::build(format!("row-ops/cast/{dtype}/{to}"), |graph| {
                let x = graph.input("x", dtype, 30, 7)?;
                let y = graph.map(x, &RowOp::Cast(to))?;
                let z = graph.map(y, &RowOp::Activate(Activation::Tanh))?;
                graph.output("y", y)?;
                graph.output("z", z)
            }));
        }
        // A chain, which fuses, and its middle, which is kept.
        cases.push(
            Case::build(format!("row-ops/chain/{dtype}"), |graph| {
                let table = graph.table("t", &some_segments())?;
                let x = graph.input("x", dtype, ROWS, 8)?;
                let mut rows = x;
                for (name, build) in OPS {
                    let op = build(graph, if name == "learned" || name == "add" { dtype } else { DType::F16 }, [ROWS, 8], table);
                    // Names are shared between some of the operations; their types are not.
                    let Ok(op) = op else { continue };
                    rows = graph.map(rows, &op)?;
                    if name == "rms-norm" {
                        graph.output("middle", rows)?;
                    }
                }
                let rows = graph.map(rows, &RowOp::Add(x))?;
                graph.output("y", rows)
            })
            .values(Fill::Factors),
        );
    }
    cases.push(Case::build("row-ops/no-rows", |graph| {
        let x = graph.input("x", DType::F32, 0, 4)?;
        let y = graph.map(x, &RowOp::Activate(Activation::Gelu))?;
        graph.output("y", y)
    }));
    cases
}

fn one(name: &str, dtype: DType, features: u64, build: Build) -> Case {
    over(name, dtype, &some_segments(), features, build)
}

fn over(name: &str, dtype: DType, segments: &Segments, features: u64, build: Build) -> Case {
    Case::build(format!("row-ops/{name}"), |graph| {
        let table = graph.table("t", segments)?;
        let x = graph.input("x", dtype, segments.rows(), features)?;
        let op = build(graph, dtype, [segments.rows(), features], table)?;
        let y = graph.map(x, &op)?;
        graph.output("y", y)
    })
}

pub(super) fn products() -> Vec<Case> {
    let mut cases = Vec::new();
    let product = |name: String, dtype: DType, [rows, from, to]: [u64; 3], bias: bool| {
        Case::build(format!("products/{name}"), |graph| {
            let x = graph.input("x", dtype, rows, from)?;
            let weight = graph.param("weight", dtype, to, from)?;
            let bias = if bias { Some(row(graph, "bias", other_type(dtype), to)?) } else { None };
            let y = graph.linear(x, weight, bias)?;
            graph.output("y", y)
        })
        .values(Fill::Factors)
    };
    for dtype in FLOATS {
        for shape in [[1, 1, 1], [5, 3, 7], [33, 64, 17], [64, 17, 64], [70, 65, 33], [3, 130, 129], [0, 4, 4], [4, 0, 3], [4, 3, 0]] {
            for bias in [false, true] {
                cases.push(product(format!("matmul/{dtype}/{shape:?}/{bias}"), dtype, shape, bias));
            }
        }
        cases.push(product(format!("matmul/{dtype}/specials"), dtype, [20, 6, 5], true).values(Fill::Specials));
        cases.push(product(format!("matmul/{dtype}/zeros"), dtype, [20, 6, 5], false).values(Fill::NegativeZeros));
        for arrangement in [Arrangement::FeatureMajor, Arrangement::Backwards, Arrangement::Strided] {
            cases.push(product(format!("matmul/{dtype}/{arrangement:?}"), dtype, [19, 12, 10], true).arrange_all(arrangement));
        }
        // What follows a product: fused, or in steps of its own.
        cases.push(
            Case::build(format!("products/feed-forward/{dtype}"), |graph| {
                let x = graph.input("x", dtype, 45, 12)?;
                let (up, up_bias) = (graph.param("up", dtype, 40, 12)?, row(graph, "up.bias", dtype, 40)?);
                let (down, down_bias) = (graph.param("down", dtype, 12, 40)?, row(graph, "down.bias", dtype, 12)?);
                let weight = row(graph, "norm", dtype, 12)?;
                let hidden = graph.linear(x, up, Some(up_bias))?;
                let hidden = graph.map(hidden, &RowOp::Activate(Activation::Gelu))?;
                let y = graph.linear(hidden, down, Some(down_bias))?;
                let y = graph.map(y, &RowOp::Add(x))?;
                let y = graph.map(y, &RowOp::LayerNorm { weight, bias: Some(down_bias), eps: Number(1e-5) })?;
                graph.output("y", y)
            })
            .values(Fill::Factors),
        );
        for (taps, causal, bias) in
            [(1, false, true), (2, false, false), (3, false, true), (3, true, true), (40, true, false), (5, false, false)]
        {
            let case = |fill: Fill| {
                Case::build(format!("products/convolve/{dtype}/{taps}/{causal}/{bias}/{fill:?}"), |graph| {
                    let table = graph.table("t", &some_segments())?;
                    let x = graph.input("x", dtype, ROWS, 5)?;
                    let weight = graph.param("weight", dtype, 5, taps)?;
                    let bias = if bias { Some(row(graph, "bias", dtype, 5)?) } else { None };
                    let y = graph.convolve(x, weight, bias, table, causal)?;
                    graph.output("y", y)
                })
                .values(fill)
            };
            cases.extend([case(Fill::Factors), case(Fill::Specials)]);
        }
        for causal in [false, true] {
            cases.push(
                Case::build(format!("products/convolve/{dtype}/long/{causal}"), |graph| {
                    let table = graph.table("t", &lengths(&[2, 130, 0, 1]))?;
                    let x = graph.input("x", dtype, 133, 3)?;
                    let weight = graph.param("weight", dtype, 3, 7)?;
                    let y = graph.convolve(x, weight, None, table, causal)?;
                    graph.output("y", y)
                })
                .values(Fill::Factors),
            );
        }
    }
    cases
}

pub(super) fn attention() -> Vec<Case> {
    let mut cases = Vec::new();
    let attend = |name: String, dtype: DType, segments: &Segments, [features, heads]: [u64; 2], causal: bool| {
        Case::build(format!("attention/{name}"), |graph| {
            let table = graph.table("t", segments)?;
            let qkv = graph.input("qkv", dtype, segments.rows(), 3 * features)?;
            let y = graph.attend(qkv, table, u32::try_from(heads).expect("few"), causal)?;
            graph.output("y", y)
        })
        .values(Fill::Factors)
    };
    let around_blocks = lengths(&[0, 1, 2, 31, 32, 33, 0, 63, 64, 65, 96, 97]);
    for dtype in FLOATS {
        for causal in [false, true] {
            for shape in [[1, 1], [4, 1], [4, 4], [6, 2], [16, 2], [20, 4]] {
                cases.push(attend(format!("{dtype}/{causal}/{shape:?}"), dtype, &around_blocks, shape, causal));
            }
            cases.push(attend(format!("{dtype}/{causal}/specials"), dtype, &some_segments(), [6, 2], causal).values(Fill::Specials));
            cases.push(attend(format!("{dtype}/{causal}/huge"), dtype, &some_segments(), [6, 2], causal).values(Fill::Huge));
            cases.push(attend(format!("{dtype}/{causal}/plain"), dtype, &some_segments(), [6, 3], causal).values(Fill::Plain));
            cases.push(attend(format!("{dtype}/{causal}/zeros"), dtype, &some_segments(), [6, 1], causal).values(Fill::NegativeZeros));
        }
        cases.push(attend(format!("{dtype}/strided"), dtype, &some_segments(), [8, 2], false).arrange_all(Arrangement::FeatureMajor));
        cases.push(attend(format!("{dtype}/no-features"), dtype, &some_segments(), [0, 2], false));
    }
    // Neighbours that a backend may take together, up to a vector of rows and one more.
    let short = lengths(&[1, 2, 3, 5, 0, 16, 15, 1, 0, 17, 4, 4, 4, 4, 33, 8, 9, 7, 1, 1, 1, 64, 2]);
    for causal in [false, true] {
        for shape in [[64, 4], [24, 3], [17, 1]] {
            cases.push(attend(format!("f32/{causal}/short/{shape:?}"), DType::F32, &short, shape, causal));
        }
        for dtype in FLOATS {
            cases.push(attend(format!("{dtype}/{causal}/short/specials"), dtype, &short, [32, 2], causal).values(Fill::Specials));
        }
    }
    cases.push(attend("f32/long".into(), DType::F32, &lengths(&[3, 700, 0, 1]), [8, 2], false));
    cases.push(attend("f32/long-causal".into(), DType::F32, &lengths(&[3, 500, 0, 1]), [8, 2], true));
    cases.push(attend("f32/no-rows".into(), DType::F32, &lengths(&[0, 0]), [8, 2], true));
    cases.push(attend("f32/no-segments".into(), DType::F32, &lengths(&[]), [8, 2], true));
    cases
}

/// A block by hand: attention and a feed-forward part, each with its norm and its sum.
fn block(graph: &mut GraphBuilder, x: Value, table: TableId, dtype: DType, [features, heads]: [u64; 2], prefix: &str) -> Result<Value> {
    let name = |part: &str| format!("{prefix}.{part}");
    let param = |graph: &mut GraphBuilder, part: &str, rows, features| graph.shared_param(&name(part), dtype, rows, features);
    let (q, q_bias) = (param(graph, "in", 3 * features, features)?, param(graph, "in.bias", 1, 3 * features)?);
    let (out, up) = (param(graph, "out", features, features)?, param(graph, "up", 2 * features, features)?);
    let down = param(graph, "down", features, 2 * features)?;
    let norm = RowOp::LayerNorm {
        weight: param(graph, "norm", 1, features)?,
        bias: Some(param(graph, "norm.bias", 1, features)?),
        eps: Number(1e-5),
    };
    let normed = graph.map(x, &norm)?;
    let qkv = graph.linear(normed, q, Some(q_bias))?;
    let qkv = graph.map(qkv, &RowOp::Rotate { table, base: Number(10_000.0), columns: 2 * features, width: features / heads })?;
    let seen = graph.attend(qkv, table, u32::try_from(heads).expect("few"), false)?;
    let seen = graph.linear(seen, out, None)?;
    let x = graph.map(seen, &RowOp::Add(x))?;
    let hidden = graph.linear(x, up, None)?;
    let hidden = graph.map(hidden, &RowOp::Activate(Activation::Silu))?;
    let y = graph.linear(hidden, down, None)?;
    graph.map(y, &RowOp::Add(x))
}

pub(super) fn levels() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        for share in [false, true] {
            cases.push(
                Case::build(format!("encoded-levels/{dtype}/share={share}"), |graph| {
                    let x = graph.input("x", dtype, ROWS, 8)?;
                    let (word, page) = (graph.table("word", &some_segments())?, graph.table("page", &lengths(&[4, 0, 5]))?);
                    let x = block(graph, x, word, dtype, [8, 2], "a")?;
                    let words = graph.fold(x, word, Reduce::new(Reducer::Mean).on_empty(levelfold::OnEmpty::Zero))?;
                    let words = graph.map(words, &RowOp::Sinusoid { table: page, base: Number(100.0) })?;
                    let words = block(graph, words, page, dtype, [8, 2], if share { "a" } else { "b" })?;
                    let pages = graph.fold(words, page, Reduce::new(Reducer::Max).on_empty(levelfold::OnEmpty::Zero))?;
                    graph.output("words", words)?;
                    graph.output("pages", pages)
                })
                .values(Fill::Factors),
            );
        }
        cases.push(
            Case::build(format!("encoded-levels/overlap/{dtype}"), |graph| {
                let x = graph.input("x", dtype, 40, 6)?;
                // Overlaps, gaps, an empty one, and one twice.
                let windows = ranges(&[(0, 10), (5, 15), (5, 5), (30, 40), (0, 10)], 40);
                let table = graph.table("window", &windows)?;
                let spread = graph.spread(x, table)?;
                let each: Vec<u64> = windows.ranges().map(|range| range.end - range.start).collect();
                let occurrences = graph.table("window.occurrences", &lengths(&each))?;
                let rows = graph.map(spread, &RowOp::Sinusoid { table: occurrences, base: Number(10.0) })?;
                let rows = graph.attend_self(rows, occurrences)?;
                let y = graph.fold(rows, occurrences, Reduce::new(Reducer::Sum))?;
                graph.output("rows", rows)?;
                graph.output("y", y)
            })
            .values(Fill::Factors),
        );
        cases.push(
            Case::build(format!("encoded-levels/product-then-fold/{dtype}"), |graph| {
                let x = graph.input("x", dtype, 73, 5)?;
                let table = graph.table("t", &lengths(&[1, 32, 40]))?;
                let weights = graph.weights("heavy", dtype, 73)?;
                for (name, reducer, weighted) in [
                    ("mean", Reducer::Mean, false),
                    ("sum", Reducer::Sum, false),
                    ("weighted", Reducer::Mean, true),
                    ("max", Reducer::Max, false),
                ] {
                    let weight = graph.param(&format!("{name}.w"), dtype, 3, 5)?;
                    let bias = if name == "mean" { Some(row(graph, "bias", dtype, 3)?) } else { None };
                    let y = graph.linear(x, weight, bias)?;
                    let how = if weighted { Reduce::new(reducer).weights(weights) } else { Reduce::new(reducer) };
                    let y = graph.fold(y, table, how)?;
                    graph.output(name, y)?;
                }
                Ok(())
            })
            .values(Fill::Factors)
            .fill("heavy", Fill::Positive),
        );
        cases.push(
            Case::build(format!("encoded-levels/side-by-side/{dtype}"), |graph| {
                let x = graph.input("x", dtype, 21, 5)?;
                let (a, b) = (graph.param("a", dtype, 3, 5)?, graph.param("b", dtype, 4, 5)?);
                let (left, right) = (graph.linear(x, a, None)?, graph.linear(x, b, None)?);
                let right = graph.map(right, &RowOp::Activate(Activation::Relu))?;
                let both = graph.concat(&[left, right])?;
                graph.output("both", both)
            })
            .values(Fill::Factors),
        );
    }
    // A product of rows without features is its bias.
    cases.push(Case::build("encoded-levels/product-of-nothing", |graph| {
        let x = graph.input("x", DType::F32, 40, 0)?;
        let table = graph.table("t", &lengths(&[3, 37]))?;
        let (weight, bias) = (graph.param("w", DType::F32, 2, 0)?, row(graph, "bias", DType::F32, 2)?);
        let y = graph.linear(x, weight, Some(bias))?;
        let y = graph.fold(y, table, Reduce::new(Reducer::Mean))?;
        graph.output("y", y)
    }));
    // A spread of what is a partition already is no copy.
    cases.push(Case::build("encoded-levels/spread-in-order", |graph| {
        let x = graph.input("x", DType::F32, 6, 3)?;
        let table = graph.table("t", &lengths(&[2, 4]))?;
        let rows = graph.spread(x, table)?;
        let y = graph.fold(rows, table, Reduce::new(Reducer::Sum))?;
        graph.output("y", y)
    }));
    cases
}

trait AttendSelf {
    fn attend_self(&mut self, rows: Value, table: TableId) -> Result<Value>;
}

impl AttendSelf for GraphBuilder {
    /// Rows as their own queries, keys and values.
    fn attend_self(&mut self, rows: Value, table: TableId) -> Result<Value> {
        let qkv = self.concat(&[rows, rows, rows])?;
        self.attend(qkv, table, 2, false)
    }
}

//! The rules of encoders (34–38), one corruption each at least.

use crate::backend::Target;
use crate::dtype::DType;
use crate::encoder::{Encoding, Kernel, Number, RowOp};
use crate::graph::{GraphBuilder, Reduce};
use crate::ids::ViewId;
use crate::optimize::{OptLevel, Planner};
use crate::plan::{Copy, CopyKind, Order, Place, Plan, StepKind, ViewLayout};
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;

/// Windows that overlap, each with positions, attention, a convolution, norms and a sum, and their mean.
fn plan() -> Plan {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, 8, 4).unwrap();
    let windows = b.table("window", &Segments::from_ranges(&[(0, 5), (3, 8), (2, 2)], 8).unwrap()).unwrap();
    let rows = b.spread(x, windows).unwrap();
    let each = b.table("window.rows", &Segments::from_lengths(&[5, 5, 0]).unwrap()).unwrap();
    let positions = b.param("positions", DType::F32, 6, 4).unwrap();
    let rows = b.map(rows, &RowOp::Learned { positions, table: each }).unwrap();
    let (into, bias) = (b.param("in", DType::F16, 12, 4).unwrap(), b.param("in.bias", DType::F32, 1, 12).unwrap());
    let qkv = b.linear(rows, into, Some(bias)).unwrap();
    let qkv = b.map(qkv, &RowOp::Rotate { table: each, base: Number(1e4), columns: 8, width: 2 }).unwrap();
    let seen = b.attend(qkv, each, 2, true).unwrap();
    let seen = b.map(seen, &RowOp::Add(rows)).unwrap();
    let taps = b.param("taps", DType::F32, 4, 3).unwrap();
    let seen = b.convolve(seen, taps, None, each, false).unwrap();
    let (weight, bias) = (b.param("norm", DType::F32, 1, 4).unwrap(), b.param("norm.bias", DType::F32, 1, 4).unwrap());
    let seen = b.map(seen, &RowOp::LayerNorm { weight, bias: Some(bias), eps: Number(1e-5) }).unwrap();
    let seen = b.map(seen, &RowOp::Scale(Number(0.5))).unwrap();
    let y = b.fold(seen, each, Reduce::new(Reducer::Mean).on_empty(OnEmpty::Zero)).unwrap();
    b.output("y", y).unwrap();
    Planner::new(Target::new("test")).opt(OptLevel::O0).plan(b.finish().unwrap()).unwrap().plan
}

fn spread(plan: &mut Plan) -> &mut Copy {
    let mut copies = plan.steps.iter_mut().filter_map(|step| match &mut step.kind {
        StepKind::Copy(copy) => Some(copy),
        StepKind::Fold(_) | StepKind::Encode(_) => None,
    });
    copies.find(|copy| matches!(copy.what, CopyKind::Spread { .. })).expect("a spread")
}

fn encodings(plan: &mut Plan) -> impl Iterator<Item = &mut Encoding<ViewId>> {
    plan.steps.iter_mut().filter_map(|step| match &mut step.kind {
        StepKind::Encode(encode) => Some(&mut encode.encoding),
        StepKind::Fold(_) | StepKind::Copy(_) => None,
    })
}

fn kernel(plan: &mut Plan, name: &str) -> Kernel<ViewId> {
    encodings(plan).find(|encoding| encoding.kernel.name() == name).expect("such a kernel").kernel.clone()
}

fn change_kernel(plan: &mut Plan, name: &str, change: impl FnOnce(&mut Kernel<ViewId>)) {
    change(&mut encodings(plan).find(|encoding| encoding.kernel.name() == name).expect("such a kernel").kernel);
}

fn change_op(plan: &mut Plan, name: &str, change: impl FnOnce(&mut RowOp<ViewId>)) {
    change(encodings(plan).flat_map(|encoding| &mut encoding.ops).find(|op| op.name() == name).expect("such an operation"));
}

type Break = (u32, fn(&mut Plan));

const BREAKS: &[Break] = &[
    (34, |plan| {
        let other = plan.tables.iter().position(|table| &*table.name == "window.rows").expect("the table");
        spread(plan).what = CopyKind::Spread { table: crate::ids::TableId::new(other) };
    }),
    (34, |plan| {
        let read = spread(plan).read[0];
        spread(plan).read.push(read);
    }),
    (35, |plan| {
        let (written, table) = (spread(plan).write, crate::ids::TableId(1));
        plan.views[written.index()].layout = ViewLayout::Packed { table, order: Order::FeatureMajor };
    }),
    (35, |plan| {
        let rows = *kernel(plan, "convolve").rows();
        change_op(plan, "add", |op| *op = RowOp::Cast(DType::F64));
        let _ = rows;
    }),
    (35, |plan| change_op(plan, "scale", |op| *op = RowOp::Cast(DType::U8))),
    (35, |plan| {
        let qkv = *kernel(plan, "attend").rows();
        change_op(plan, "add", |op| *op = RowOp::Add(qkv));
    }),
    (36, |plan| {
        let taps = *kernel(plan, "convolve").operands()[1];
        change_kernel(plan, "matmul", |kernel| {
            if let Kernel::MatMul { weight, .. } = kernel {
                *weight = taps;
            }
        });
    }),
    (36, |plan| {
        for buffer in plan.buffers.iter_mut().filter(|buffer| buffer.place == Place::Param && &*buffer.name == "norm") {
            buffer.dtype = DType::F64;
        }
    }),
    (37, |plan| {
        change_kernel(plan, "convolve", |kernel| {
            if let Kernel::Convolve { table, .. } = kernel {
                *table = crate::ids::TableId(0);
            }
        });
    }),
    (37, |plan| {
        for buffer in plan.buffers.iter_mut().filter(|buffer| &*buffer.name == "positions") {
            buffer.rows = 4;
        }
    }),
    (38, |plan| change_op(plan, "scale", |op| *op = RowOp::Scale(Number(f64::INFINITY)))),
    (38, |plan| {
        change_op(plan, "layer-norm", |op| {
            if let RowOp::LayerNorm { eps, .. } = op {
                *eps = Number(0.0);
            }
        });
    }),
    (38, |plan| {
        change_kernel(plan, "attend", |kernel| {
            if let Kernel::Attend { heads, .. } = kernel {
                *heads = 3;
            }
        });
    }),
    (38, |plan| {
        change_kernel(plan, "attend", |kernel| {
            if let Kernel::Attend { pairs, .. } = kernel {
                *pairs = 51;
            }
        });
    }),
    (38, |plan| {
        change_op(plan, "rotate", |op| {
            if let RowOp::Rotate { width, .. } = op {
                *width = 3;
            }
        });
    }),
];

#[test]
fn each_rule_of_encoders_is_held() {
    plan().verify().unwrap();
    let mut told = String::new();
    for (rule, corrupt) in BREAKS {
        let mut broken = plan();
        corrupt(&mut broken);
        assert_ne!(broken, plan(), "rule {rule}: nothing was broken");
        let error = broken.verify().expect_err(&format!("rule {rule} is not held"));
        let first = error.causes().first().unwrap_or(&error);
        told.push_str(&format!("{rule:>2} {first}\n"));
        // Printing a broken plan is no reason to fall over.
        let _ = (broken.to_string(), broken.to_dot(), broken.to_json());
    }
    assert!((34..=38).all(|rule| BREAKS.iter().any(|(other, _)| *other == rule)));
    insta::assert_snapshot!(told, @"
    34 s0: spreads 8 rows into 10 by t1, which has 10 of 10 rows [plan-invalid]
    34 s0: a copy.spread reads 1 views, not 2 [plan-invalid]
    35 s0: spreads what is packed [plan-invalid]
    35 s5: makes f64[10x4], but v9 sees f32[10x4] [plan-invalid]
    35 s8: values cannot be u8 [plan-invalid]
    35 s5: add takes rows of one shape and type, not f32[10x4] and f32[10x12] [plan-invalid]
    36 s2: the weight of matmul is f32[4x3], wanted is [4x4] [plan-invalid]
    36 s7: the weight of layer-norm is f64, which is not exact in f32, in which f32 is computed [plan-invalid]
    37 s6: convolve looks along 10 rows by t0, which has 8 [plan-invalid]
    37 s1: there are 4 learned positions, but a segment has 5 rows [plan-invalid]
    38 s8: the constant of scale is inf [plan-invalid]
    38 s7: the `eps` of layer-norm is 0.0 [plan-invalid]
    38 s4: attend takes queries, keys and values, each a whole number of features for 3 heads, not f32[10x12] [plan-invalid]
    38 s4: attend says 51 pairs of 10 rows in segments of up to 5 [plan-invalid]
    38 s3: rotate turns pairs inside heads of 3 of 8 columns of f32[10x12] [plan-invalid]
    ");
}

#[test]
fn encoders_print_in_every_form_and_read_back() {
    let plan = plan();
    assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
    assert!(plan.to_dot().contains("matmul") && plan.to_dot().contains("map, layer-norm"));
    insta::assert_snapshot!(plan.to_string(), @"
    plan v1 target=test align=64

    table   t0 window       3 of  8 rows  ranges total 10  longest 5  empty 1  bound  20805c5fe9da3b5dea07404c7b5b84b4
    table   t1 window.rows  3 of 10 rows  offsets          longest 5  empty 1  bound  3ef9987cc9a4652187a4c7ea8cff50dd

    buffer  b0  x                       f32[8x4]   128 B  input
    buffer  b1  x.spread                f32[10x4]  160 B  arena@0     live s0..s1
    buffer  b2  positions               f32[6x4]    96 B  param
    buffer  b3  x.learned               f32[10x4]  160 B  arena@1024  live s1..s5
    buffer  b4  in                      f16[12x4]   96 B  param
    buffer  b5  in.bias                 f32[1x12]   48 B  param
    buffer  b6  x.matmul                f32[10x12] 480 B  arena@0     live s2..s3
    buffer  b7  x.rotate                f32[10x12] 480 B  arena@512   live s3..s4
    buffer  b8  x.attend                f32[10x4]  160 B  arena@0     live s4..s5
    buffer  b9  x.add                   f32[10x4]  160 B  arena@192   live s5..s6
    buffer  b10 taps                    f32[4x3]    48 B  param
    buffer  b11 x.convolve              f32[10x4]  160 B  arena@0     live s6..s7
    buffer  b12 norm                    f32[1x4]    16 B  param
    buffer  b13 norm.bias               f32[1x4]    16 B  param
    buffer  b14 x.layer-norm            f32[10x4]  160 B  arena@192   live s7..s8
    buffer  b15 x.scale                 f32[10x4]  160 B  arena@0     live s8..s9
    buffer  b16 window.rows.contiguous  f32[10x4]  160 B  arena@192   live s9..s10
    buffer  b17 window.rows.reduce      f32[3x4]    48 B  arena@0     live s10..s11
    buffer  b18 y                       f32[3x4]    48 B  output

    step    s0  b1                    = copy.spread     b0 by t0
                ; read 208  written 160  copied 160  flops 0
                ; from x: spread
    step    s1  b3                    = map.learned     b1, b2 by t1
                ; read 288  written 160  copied   0  flops 80
                ; from x: learned
    step    s2  b6                    = matmul          b3, b4, b5
                ; read 304  written 480  copied   0  flops 960
                ; from x: linear
    step    s3  b7                    = map.rotate      b6 by t1 base=10000.0 columns=8 width=2
                ; read 512  written 480  copied   0  flops 240
                ; from x: rotate
    step    s4  b8                    = attend          b7 by t1 heads=2 causal
                ; read 512  written 160  copied   0  flops 760
                ; from x: attend
    step    s5  b9                    = map.add         b8, b3
                ; read 320  written 160  copied   0  flops 40
                ; from x: add
    step    s6  b11                   = convolve        b9, b10 by t1
                ; read 240  written 160  copied   0  flops 240
                ; from x: convolve
    step    s7  b14                   = map.layer-norm  b11, b12, b13 eps=1e-5
                ; read 192  written 160  copied   0  flops 280
                ; from x: layer-norm
    step    s8  b15                   = map.scale       b14 0.5
                ; read 160  written 160  copied   0  flops 40
                ; from x: scale
    step    s9  b16{t1 feature-major} = copy.contiguous b15 by t1
                ; read 192  written 160  copied 160  flops 0
                ; from window.rows: contiguous
    step    s10 b17                   = fold.mean       b16{t1 feature-major} by t1 empty=zero
                ; read 192  written  48  copied   0  flops 52
                ; from window.rows: reduce
    step    s11 b18                   = copy.stack      b17
                ; read  48  written  48  copied  48  flops 0
                ; from window.rows: stack

    total   steps 12  arena 1184  peak 1120  copied 368  read 3168  written 2336  flops 2692
    literal steps 12  arena 1184  peak 1120  copied 368  read 3168  written 2336  flops 2692
    moved   5504 B, 1.00 times less than literal (5504), 9.55 times the floor (576)
    ");
}

//! One corruption a rule, at least: what each is told stands in the snapshot, under the number of its rule.

use crate::backend::Target;
use crate::dtype::DType;
use crate::encoder::{ElementOp, Number};
use crate::graph::{GraphBuilder, LevelGraph, Reduce};
use crate::ids::{BufferId, StepId, TableId, ViewId};
use crate::optimize::{OptLevel, Planner};
use crate::plan::{Copy, CopyKind, Fold, Load, Order, Place, Plan, Reduction, StepKind, TableForm, TableSource, View, ViewLayout};
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;

fn lengths(lengths: &[u64]) -> Segments {
    Segments::from_lengths(lengths).unwrap()
}

/// A lookup, weights, siblings, an empty segment, a concat, and two levels above.
fn graph() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let ids = b.ids("ids", DType::U8, 6).unwrap();
    let table = b.param("table", DType::F32, 16, 4).unwrap();
    let rows = b.gather(ids, table).unwrap();
    let word = b.table("word", &lengths(&[2, 0, 1, 3])).unwrap();
    let heavy = b.weights("heavy", DType::F32, 6).unwrap();
    let mean = b.fold(rows, word, Reduce::new(Reducer::Mean).weights(heavy).on_empty(OnEmpty::Zero)).unwrap();
    let max = b.fold(rows, word, Reduce::new(Reducer::Max).on_empty(OnEmpty::Fill(-1.0))).unwrap();
    let both = b.concat(&[mean, max]).unwrap();
    let page = b.table("page", &lengths(&[2, 2])).unwrap();
    let pages = b.fold(both, page, Reduce::new(Reducer::Sum)).unwrap();
    let book = b.table("book", &lengths(&[2])).unwrap();
    let books = b.fold(pages, book, Reduce::new(Reducer::Sum)).unwrap();
    b.output("word", both).unwrap();
    b.output("book", books).unwrap();
    b.finish().unwrap()
}

/// By level: literal, fused, and with a composed table.
fn plan(opt: OptLevel) -> Plan {
    Planner::new(Target::new("cpu")).opt(opt).plan(graph()).unwrap().plan
}

fn fold(plan: &mut Plan, step: usize) -> &mut Fold {
    match &mut plan.steps[step].kind {
        StepKind::Fold(fold) => fold,
        StepKind::Copy(_) | StepKind::Encode(_) => panic!("step {step} is no fold"),
    }
}

fn reduction(plan: &mut Plan, reducer: Reducer) -> &mut Reduction {
    plan.steps
        .iter_mut()
        .flat_map(|step| match &mut step.kind {
            StepKind::Fold(fold) => fold.stages.iter_mut().flat_map(|stage| stage.reductions.iter_mut()).collect(),
            StepKind::Copy(_) | StepKind::Encode(_) => Vec::new(),
        })
        .find(|reduction| reduction.reducer == reducer)
        .expect("such a reduction")
}

fn copy(plan: &mut Plan, what: impl Fn(CopyKind) -> bool) -> &mut Copy {
    let mut copies = plan.steps.iter_mut().filter_map(|step| match &mut step.kind {
        StepKind::Copy(copy) => Some(copy),
        StepKind::Fold(_) | StepKind::Encode(_) => None,
    });
    copies.find(|copy| what(copy.what)).expect("such a copy")
}

fn arena(plan: &mut Plan) -> impl Iterator<Item = (&mut u64, &mut StepId, &mut StepId)> {
    plan.buffers.iter_mut().filter_map(|buffer| match &mut buffer.place {
        Place::Arena { offset, first, last } => Some((offset, first, last)),
        Place::Tile { .. } | Place::Input | Place::Param | Place::Output => None,
    })
}

fn is_segments(what: CopyKind) -> bool {
    matches!(what, CopyKind::Segments { .. })
}

type Break = (u32, OptLevel, fn(&mut Plan));

const BREAKS: &[Break] = &[
    (1, OptLevel::O1, |plan| plan.version = 2),
    (2, OptLevel::O1, |plan| plan.align = 48),
    (3, OptLevel::O1, |plan| plan.views[0].buffer = BufferId(99)),
    (3, OptLevel::O1, |plan| fold(plan, 0).stages[0].table = TableId(99)),
    (4, OptLevel::O1, |plan| plan.buffers[1].name = plan.buffers[0].name.clone()),
    (4, OptLevel::O1, |plan| plan.tables[0].name = "".into()),
    (5, OptLevel::O1, |plan| plan.tables[0].longest = 99),
    (6, OptLevel::O1, |plan| plan.tables[0].total_rows += 1),
    (7, OptLevel::O2, |plan| {
        let composed = plan.tables.iter_mut().find(|table| table.source != TableSource::Bound).expect("a composed table");
        composed.source = TableSource::Compose { lower: TableId(9), upper: TableId(0) };
    }),
    (7, OptLevel::O2, |plan| {
        let composed = plan.tables.iter_mut().find(|table| table.source != TableSource::Bound).expect("a composed table");
        composed.form = TableForm::Ranges;
    }),
    (8, OptLevel::O1, |plan| plan.tables[0].segments = 1 << 62),
    (9, OptLevel::O1, |plan| plan.buffers[0].rows = 1 << 63),
    (10, OptLevel::O0, |plan| *arena(plan).next().expect("an arena buffer").0 = 8),
    (10, OptLevel::O0, |plan| *arena(plan).next().expect("an arena buffer").2 = StepId(999)),
    (11, OptLevel::O0, |plan| arena(plan).for_each(|(offset, ..)| *offset = 0)),
    (12, OptLevel::O1, |plan| plan.views[0].features = 9),
    (13, OptLevel::O0, |plan| {
        let view = plan.views.iter_mut().find(|view| view.layout != ViewLayout::Rows).expect("a packed view");
        view.features -= 1;
    }),
    (14, OptLevel::O1, |plan| fold(plan, 0).stages[0].reductions.clear()),
    (15, OptLevel::O0, |plan| fold(plan, 2).stages[0].table = TableId(1)),
    (16, OptLevel::O1, |plan| {
        let stages = &mut fold(plan, 1).stages;
        let (lower, upper) = (stages[0].table, stages[1].table);
        (stages[0].table, stages[1].table) = (upper, lower);
    }),
    (17, OptLevel::O1, |plan| fold(plan, 1).stages[1].feed = 7),
    (17, OptLevel::O1, |plan| fold(plan, 0).stages[0].feed = 1),
    (18, OptLevel::O1, |plan| {
        let Load::Gather { ids, table } = fold(plan, 0).load else { panic!("a lookup") };
        fold(plan, 0).load = Load::Gather { ids: table, table: ids };
    }),
    (19, OptLevel::O1, |plan| {
        let weights = reduction(plan, Reducer::Mean).weights;
        reduction(plan, Reducer::Max).weights = weights;
    }),
    (19, OptLevel::O1, |plan| reduction(plan, Reducer::Mean).weights = Some(ViewId(0))),
    (20, OptLevel::O1, |plan| reduction(plan, Reducer::Max).on_empty = OnEmpty::Error),
    (21, OptLevel::O1, |plan| reduction(plan, Reducer::Max).dtype = DType::F64),
    (21, OptLevel::O1, |plan| reduction(plan, Reducer::Max).dtype = DType::U8),
    (40, OptLevel::O1, |plan| fold(plan, 0).stages[0].ops.push(ElementOp::Scale(Number(f64::NAN)))),
    (40, OptLevel::O1, |plan| reduction(plan, Reducer::Max).ops.push(ElementOp::Cast(DType::I64))),
    (22, OptLevel::O0, |plan| copy(plan, is_segments).what = CopyKind::Segments { table: TableId(1) }),
    (23, OptLevel::O0, |plan| copy(plan, |what| what == CopyKind::Rows).read.push(ViewId(0))),
    (24, OptLevel::O0, |plan| copy(plan, |what| what == CopyKind::Gather).read.reverse()),
    (25, OptLevel::O0, |plan| copy(plan, |what| what == CopyKind::Columns).read.clear()),
    (25, OptLevel::O0, |plan| copy(plan, |what| what == CopyKind::Columns).read.truncate(1)),
    (26, OptLevel::O0, |plan| {
        let written = copy(plan, |what| what == CopyKind::Rows).write;
        plan.buffers[plan.views[written.index()].buffer.index()].dtype = DType::F16;
    }),
    (27, OptLevel::O1, |plan| {
        let written = reduction(plan, Reducer::Max).write.expect("written");
        let buffer = plan.views[written.index()].buffer;
        plan.buffers[buffer.index()].place = Place::Input;
    }),
    (28, OptLevel::O0, |plan| {
        let rows = copy(plan, |what| what == CopyKind::Rows);
        rows.read[0] = rows.write;
    }),
    (29, OptLevel::O0, |plan| plan.steps.reverse()),
    (30, OptLevel::O1, |plan| {
        let first = reduction(plan, Reducer::Mean).write.expect("written");
        reduction(plan, Reducer::Max).write = Some(first);
    }),
    (31, OptLevel::O1, |plan| plan.steps.clear()),
    (32, OptLevel::O0, |plan| {
        let last = plan.steps.len() - 1;
        *arena(plan).next().expect("an arena buffer").2 = StepId::new(last);
    }),
    (33, OptLevel::O1, |plan| plan.steps[0].cost.read += 1),
    (33, OptLevel::O1, |plan| plan.totals.arena_bytes += 64),
    (39, OptLevel::O1, |plan| {
        let Load::Gather { ids, table } = fold(plan, 0).load else { panic!("a lookup") };
        fold(plan, 0).load = Load::Histogram { ids, table };
    }),
];

#[test]
fn good_plans_pass() {
    for opt in OptLevel::ALL {
        plan(opt).verify().unwrap();
    }
}

#[test]
fn each_rule_is_held() {
    let mut told = String::new();
    for (rule, opt, corrupt) in BREAKS {
        let mut plan = plan(*opt);
        let good = plan.clone();
        corrupt(&mut plan);
        assert_ne!(plan, good, "rule {rule}: nothing was broken");
        let error = plan.verify().expect_err(&format!("rule {rule} is not held"));
        let first = error.causes().first().unwrap_or(&error);
        told.push_str(&format!("{rule:>2} {first}\n"));
    }
    insta::assert_snapshot!(told, @"
     1 the plan has version 2, and this build reads version 1; plan again from the spec: plans are made for one version of the format [plan-version]
     2 plan: the alignment is 48, not a power of two from 8 to 2097152 [plan-invalid]
     3 v0: sees b99, but there are 5 buffers [plan-invalid]
     3 s0: uses t99, but there are 3 tables [plan-invalid]
     4 b1 ids: has the name of b0, another input [plan-invalid]
     4 t0: has no name [plan-invalid]
     5 t0 word: its longest segment has 99 of 6 rows [plan-invalid]
     6 t0 word: its offsets hold 7 rows, but partition 6 [plan-invalid]
     7 t3: is made of t9, but there are 4 tables [plan-invalid]
     7 t3 book: is ranges, but t2 over t1 makes offsets [plan-invalid]
     8 t0 word: 4611686018427387903 segments of up to 3 rows do not hold 6 in total [plan-invalid]
     9 b0 ids: u8[9223372036854775808x1] needs more bytes than 63 bits count [plan-invalid]
    10 b2 ids.gather: lies at 8, which is not a multiple of 64 [plan-invalid]
    10 b2: is alive at s999, but there are 14 steps [plan-invalid]
    11 b4 word.contiguous: shares bytes 0..96 of the arena with b2 while both are alive, at s1 [plan-invalid]
    12 v0: sees 9 columns from 0 of b0, which has 1 [plan-invalid]
    13 v4: is packed, but sees 3 of 4 columns of b4 [plan-invalid]
    14 s0: stage 0 has no reduction [plan-invalid]
    15 s2: folds a view that is packed by t0, but by t1 [plan-invalid]
    16 s1: folds 4 rows by t2, which has 2 [plan-invalid]
    17 s1: stage 0, reduction 0 (sum) is neither written nor folded further [plan-invalid]
    17 s0: stage 0 is fed by reduction 1, but nothing comes before it [plan-invalid]
    18 s0: looks up v1, which is 4 columns of f32, and not a column of ids [plan-invalid]
    19 s0: stage 0: max takes no weights [plan-invalid]
    19 s0: stage 0 (mean): u8 weights do not widen to f32, in which f32 is accumulated [plan-invalid]
    20 s0: stage 0 (max): t0 has 1 empty segments, which are an error [plan-invalid]
    21 s0: stage 0 (max) makes f64[4x4], but v4 sees f32[4x4] [plan-invalid]
    21 s0: stage 0 (max) makes u8, not floats [plan-invalid]
    40 s0: stage 0: the constant of scale is NaN, not a finite number [plan-invalid]
    40 s0: stage 0: values cannot be cast to i64 [plan-invalid]
    22 s1: cuts 6 rows by t1, which has 4 [plan-invalid]
    23 s3: a copy.stack reads 1 views, not 2 [plan-invalid]
    24 s0: looks up v1, which is 4 columns of f32, and not a column of ids [plan-invalid]
    25 s7: a copy.concat reads at least 1 views, not 0 [plan-invalid]
    25 s7: copies 4 columns into 8 [plan-invalid]
    26 s3: copies f32 (v5) into f16 [plan-invalid]
    27 s0: writes b3, which the caller binds to be read [plan-invalid]
    28 s3: reads and writes b6 [plan-invalid]
    29 s0: reads b15 before it is written [plan-invalid]
    30 s0: writes column 0 of b3, which is written already [plan-invalid]
    31 b3 word: is an output, but no step writes it [plan-invalid]
    32 b8 word.reduce: shares bytes 0..64 of the arena with b2 while both are alive, at s5 [plan-invalid]
    33 s0: says that it costs Cost { read: 167, written: 128, copied: 0, flops: 94 }, but costs Cost { read: 166, written: 128, copied: 0, flops: 94 } [plan-invalid]
    33 plan: says that it costs Totals { steps: 2, arena_bytes: 64, peak_bytes: 0, copied_bytes: 0, read_bytes: 334, written_bytes: 160, flops: 142 }, but costs Totals { steps: 2, arena_bytes: 0, peak_bytes: 0, copied_bytes: 0, read_bytes: 334, written_bytes: 160, flops: 142 } [plan-invalid]
    39 s0: a weighted mean does not follow from counts [plan-invalid]
    ");
}

#[test]
fn every_rule_has_a_break() {
    let missing: Vec<u32> = (1..=33).chain([39, 40]).filter(|rule| !BREAKS.iter().any(|(other, ..)| other == rule)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn all_broken_rules_are_told_up_to_a_number() {
    let mut plan = plan(OptLevel::O1);
    plan.align = 3;
    plan.tables[0].longest = 99;
    plan.views.push(View { buffer: BufferId(0), first_column: 0, features: 77, layout: ViewLayout::Rows });
    let error = plan.verify().unwrap_err();
    assert!(error.causes().len() >= 3, "{error}");
    let mut hopeless = plan;
    hopeless.views = vec![View { buffer: BufferId(0), first_column: 9, features: 9, layout: ViewLayout::Rows }; 1000];
    assert!(hopeless.verify().unwrap_err().causes().len() < 100);
}

#[test]
fn absurd_numbers_do_not_overflow() {
    for number in [u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 32] {
        let changes: [fn(&mut Plan, u64); 8] = [
            |plan, number| plan.tables[0].rows = number,
            |plan, number| plan.tables[0].total_rows = number,
            |plan, number| plan.tables[0].segments = number,
            |plan, number| plan.buffers[0].rows = number,
            |plan, number| plan.buffers[2].features = number,
            |plan, number| plan.views[0].first_column = number,
            |plan, number| plan.views[0].features = number,
            |plan, number| arena(plan).for_each(|(offset, ..)| *offset = number),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut plan = plan(OptLevel::O0);
            change(&mut plan, number);
            assert!(plan.verify().is_err(), "change {index} to {number}");
            // Printing a broken plan is no reason to fall over either.
            let _ = (plan.to_string(), plan.to_dot(), plan.to_json());
        }
    }
}

#[test]
fn an_order_that_is_not_the_written_one_is_left_to_the_replay() {
    let mut plan = plan(OptLevel::O0);
    let view = copy(&mut plan, is_segments).write;
    if let ViewLayout::Packed { order, .. } = &mut plan.views[view.index()].layout {
        *order = match order {
            Order::RowMajor => Order::FeatureMajor,
            Order::FeatureMajor => Order::RowMajor,
        };
    }
    // Writer and reader see the same view: it is another plan, but a sound one.
    plan.verify().unwrap();
}

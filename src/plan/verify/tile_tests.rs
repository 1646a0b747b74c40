//! The rules of tiles (41–44), one corruption each at least.

use crate::backend::{Target, TileLimits};
use crate::dtype::DType;
use crate::encoder::{Encoding, Kernel, Number, RowOp};
use crate::graph::{GraphBuilder, Reduce};
use crate::ids::{BufferId, StepId, TableId, ViewId};
use crate::optimize::Planner;
use crate::plan::{Place, Plan, StepKind, cost, fixtures};
use crate::reducer::Reducer;
use crate::segments::Segments;

/// Looked-up rows with attention, a sum, a product and a norm, folded, and the same for what they fold to, down to one row: three tiles inside one another,
/// in windows of a few rows.
fn plan() -> Plan {
    let mut b = GraphBuilder::new();
    let ids = b.input("ids", DType::U8, 8, 1).unwrap();
    let vectors = b.param("vectors", DType::F32, 9, 4).unwrap();
    let mut x = b.gather(ids, vectors).unwrap();
    for (level, lengths) in [("word", &[3u64, 1, 4][..]), ("line", &[3]), ("all", &[1])] {
        let table = b.table(level, &Segments::from_lengths(lengths).unwrap()).unwrap();
        let weight = b.shared_param("w", DType::F32, 12, 4).unwrap();
        let qkv = b.linear(x, weight, None).unwrap();
        let seen = b.attend(qkv, table, 2, false).unwrap();
        let seen = b.map(seen, &RowOp::Add(x)).unwrap();
        let square = b.shared_param("square", DType::F32, 4, 4).unwrap();
        let seen = b.linear(seen, square, None).unwrap();
        let weight = b.shared_param("norm", DType::F32, 1, 4).unwrap();
        let seen = b.map(seen, &RowOp::RmsNorm { weight, eps: Number(1e-5) }).unwrap();
        x = b.fold(seen, table, Reduce::new(Reducer::Mean)).unwrap();
    }
    b.output("all", x).unwrap();
    let target = Target { tiles: Some(TileLimits { bytes: 0, rows: 4, share: 1 }), ..Target::new("test") };
    Planner::new(target).plan(b.finish().unwrap()).unwrap().plan
}

fn in_tiles(plan: &mut Plan) -> impl Iterator<Item = &mut Place> {
    plan.buffers.iter_mut().map(|buffer| &mut buffer.place).filter(|place| matches!(place, Place::Tile { .. }))
}

/// What a tile inside another folds its rows to.
fn fed(plan: &Plan, tile: usize) -> BufferId {
    let writes = plan.steps[plan.tiles[tile].last.index()].writes();
    plan.view(writes[0]).buffer
}

/// The last encoding of the plan: of the one row of the level on top.
fn last(plan: &mut Plan) -> &mut Encoding<ViewId> {
    let encodings = plan.steps.iter_mut().filter_map(|step| match &mut step.kind {
        StepKind::Encode(encode) => Some(&mut encode.encoding),
        StepKind::Fold(_) | StepKind::Copy(_) => None,
    });
    encodings.last().expect("an encoding")
}

type Break = (u32, fn(&mut Plan));

const BREAKS: &[Break] = &[
    (3, |plan| plan.tiles[0].last = StepId(99)),
    (3, |plan| plan.tiles[0].table = TableId(99)),
    (41, |plan| plan.tiles[0].first = StepId(8)),
    (41, |plan| plan.tiles[1].first = plan.tiles[0].last),
    (41, |plan| plan.tiles.reverse()),
    (41, |plan| plan.tiles[0].rows = 3),
    (41, |plan| plan.tiles[0].rows = 9),
    (41, |plan| plan.tiles[0].bytes += 64),
    (42, |plan| {
        let Some(Place::Tile { offset, .. }) = in_tiles(plan).next() else { panic!("a buffer of a tile") };
        *offset += 8;
    }),
    (42, |plan| {
        let last = plan.tiles[1].last;
        let Some(Place::Tile { last: end, .. }) = in_tiles(plan).next() else { panic!("a buffer of a tile") };
        *end = last;
    }),
    (42, |plan| {
        in_tiles(plan).for_each(|place| {
            if let Place::Tile { offset, .. } = place {
                *offset = 0;
            }
        });
    }),
    (43, |plan| plan.tiles[2].table = TableId(1)),
    (43, |plan| {
        // The rows of a tile in the arena: the fold would read rows that other windows may not have made.
        let made = plan.buffers.iter_mut().rfind(|buffer| matches!(buffer.place, Place::Tile { .. })).expect("a buffer of a tile");
        made.place = Place::Arena { offset: 1 << 20, first: plan.tiles[1].first, last: plan.tiles[1].last };
    }),
    (43, |plan| {
        // Tiles that reach over the fold of a level.
        let third = plan.tiles.remove(2);
        plan.tiles[1].last = third.last;
    }),
    (44, |plan| {
        // The one row that the step before made, as the weight of a norm.
        let Kernel::MatMul { rows, .. } = last(plan).kernel else { panic!("a product") };
        let Some(RowOp::RmsNorm { weight, .. }) = last(plan).ops.last_mut() else { panic!("a norm") };
        *weight = rows;
    }),
    (41, |plan| plan.tiles[2].inside = true),
    (42, |plan| plan.tiles[0].inside = false),
    (43, |plan| {
        // Two levels further up, a window of words is not there any more: it stands for lines by their number.
        let words = ViewId::new(plan.views.iter().position(|view| view.buffer == fed(plan, 0)).expect("a view"));
        let Some(RowOp::RmsNorm { .. }) = last(plan).ops.pop() else { panic!("a norm") };
        last(plan).ops.push(RowOp::Add(words));
    }),
    (44, |plan| {
        // What the fold of words wrote, by a step of a tile that reaches over it.
        let second = plan.tiles.remove(1);
        plan.tiles[0].last = second.last;
    }),
];

#[test]
fn each_rule_of_tiles_is_held() {
    plan().verify().unwrap();
    let mut told = String::new();
    for (rule, corrupt) in BREAKS {
        let mut broken = plan();
        corrupt(&mut broken);
        assert_ne!(broken, plan(), "rule {rule}: nothing was broken");
        if crate::plan::verify::ids_in_range(&broken) {
            // Costs follow what was changed, so that nothing else is wrong.
            fixtures::recount(&mut broken);
        }
        let error = broken.verify().expect_err(&format!("rule {rule} is not held"));
        for cause in error.causes() {
            told.push_str(&format!("{rule:>2} {cause}\n"));
        }
        let _ = (broken.to_string(), broken.to_dot(), broken.to_json());
    }
    assert!((41..=44).all(|rule| BREAKS.iter().any(|(other, _)| *other == rule)));
    insta::assert_snapshot!(told, @"
     3 tile 0: has s99, but there are 13 steps [plan-invalid]
     3 tile 0: is of segments of t99, but there are 3 tables [plan-invalid]
    41 b6 ids.matmul: shares bytes 192..320 of its tile with b5 while both are alive, at s1 [plan-invalid]
    41 b7 ids.add: shares bytes 256..320 of its tile with b5 while both are alive, at s2 [plan-invalid]
    41 tile 0: has steps s8..s4, which are in no order, or another tile's too [plan-invalid]
    41 tile 1: has steps s4..s8, which are in no order, or another tile's too [plan-invalid]
    41 b6 ids.matmul: shares bytes 192..320 of its tile with b5 while both are alive, at s1 [plan-invalid]
    41 b7 ids.add: shares bytes 256..320 of its tile with b5 while both are alive, at s2 [plan-invalid]
    41 tile 1: has steps s5..s8, which are in no order, or another tile's too [plan-invalid]
    41 tile 2: has steps s0..s4, which are in no order, or another tile's too [plan-invalid]
    41 tile 0: has windows of 3 rows, but the longest of 8 rows of t0 has 4 [plan-invalid]
    41 tile 0: says that it takes 320 bytes, but its buffers end at 304 [plan-invalid]
    41 b6 ids.matmul: shares bytes 320..368 of its tile with b9 while both are alive, at s1 [plan-invalid]
    41 b7 ids.add: shares bytes 320..368 of its tile with b9 while both are alive, at s2 [plan-invalid]
    41 tile 0: says that it takes 384 bytes, but its buffers end at 320 [plan-invalid]
    42 b5 ids.gather: lies at 200, which is not a multiple of 64 [plan-invalid]
    42 b7 ids.add: shares bytes 256..264 of its tile with b5 while both are alive, at s2 [plan-invalid]
    42 b11 word.add: shares bytes 192..240 of its tile with b5 while both are alive, at s6 [plan-invalid]
    42 b5 ids.gather: says that it is alive s0..s8, but is written first at s0 and used last at s2 [plan-invalid]
    42 b9 word: shares bytes 0..48 of its tile with b5 while both are alive, at s0 [plan-invalid]
    42 b13 line: shares bytes 0..16 of its tile with b5 while both are alive, at s0 [plan-invalid]
    42 b6 ids.matmul: shares bytes 0..64 of its tile with b5 while both are alive, at s1 [plan-invalid]
    42 b7 ids.add: shares bytes 0..64 of its tile with b5 while both are alive, at s2 [plan-invalid]
    42 b11 word.add: shares bytes 0..48 of its tile with b10 while both are alive, at s6 [plan-invalid]
    42 b15 line.add: shares bytes 0..16 of its tile with b14 while both are alive, at s10 [plan-invalid]
    43 b13 line: has 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 b14 line.matmul: has 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 b15 line.add: has 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 b16 line.rms-norm: has 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 tile 1: is inside the next, but t1 has 1 segments, and t1 of that has 3 rows [plan-invalid]
    43 tile 2: has windows of 1 rows, but the longest of 3 rows of t1 has 3 [plan-invalid]
    43 s9: makes 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 s10: makes 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 s10: looks along t2, whose segments are not those of t1 [plan-invalid]
    43 s11: makes 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 s12: looks along t2, whose segments are not those of t1 [plan-invalid]
    43 b16 line.rms-norm: says that it is alive s5..s8, but is written first at s11 and used last at s12 [plan-invalid]
    43 b13 line: has 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 b14 line.matmul: has 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 b15 line.add: has 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 b16 line.rms-norm: has 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 tile 1: says that it takes 368 bytes, but its buffers end at 400 [plan-invalid]
    43 tile 1: is inside the next, but none comes right after it [plan-invalid]
    43 s8: writes b13, which holds rows of a tile [plan-invalid]
    43 s9: makes 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 s9: reads b13, which a fold of its tile writes [plan-invalid]
    43 s10: makes 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 s10: looks along t2, whose segments are not those of t1 [plan-invalid]
    43 s10: reads b13, which a fold of its tile writes [plan-invalid]
    43 s11: makes 1 rows, but t1 of its tile has 3 [plan-invalid]
    43 s12: looks along t2, whose segments are not those of t1 [plan-invalid]
    44 s11: reads b15 in whole, which its tile makes window by window [plan-invalid]
    41 tile 2: is inside the next, but none comes right after it [plan-invalid]
    42 b9 word: is alive s4..s6, which is not inside one tile [plan-invalid]
    42 tile 1: says that it takes 368 bytes, but its buffers end at 240 [plan-invalid]
    43 s11: add takes rows of one shape and type, not f32[1x4] and f32[3x4] [plan-invalid]
    43 b9 word: says that it is alive s4..s6, but is written first at s4 and used last at s11 [plan-invalid]
    44 b9 word: has 3 rows, but t0 of its tile has 8 [plan-invalid]
    44 b10 word.matmul: has 3 rows, but t0 of its tile has 8 [plan-invalid]
    44 b11 word.add: has 3 rows, but t0 of its tile has 8 [plan-invalid]
    44 b12 word.rms-norm: has 3 rows, but t0 of its tile has 8 [plan-invalid]
    44 tile 0: says that it takes 320 bytes, but its buffers end at 368 [plan-invalid]
    44 tile 0: is inside the next, but t0 has 3 segments, and t2 of that has 1 rows [plan-invalid]
    44 s4: writes b9, which holds rows of a tile [plan-invalid]
    44 s5: makes 3 rows, but t0 of its tile has 8 [plan-invalid]
    44 s5: reads b9, which a fold of its tile writes [plan-invalid]
    44 s6: makes 3 rows, but t0 of its tile has 8 [plan-invalid]
    44 s6: looks along t1, whose segments are not those of t0 [plan-invalid]
    44 s6: reads b9, which a fold of its tile writes [plan-invalid]
    44 s7: makes 3 rows, but t0 of its tile has 8 [plan-invalid]
    44 s8: looks along t1, whose segments are not those of t0 [plan-invalid]
    ");
}

#[test]
fn tiles_print_in_every_form_and_read_back() {
    let plan = plan();
    assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
    assert!(plan.to_json().contains("\"tiles\": [\n    {\"first\": 0, \"last\": 4, \"table\": 0,"), "{}", plan.to_json());
    assert!(plan.to_dot().contains("tile s0..s4 by t0") && plan.to_dot().contains("dashed"), "{}", plan.to_dot());
    insta::assert_snapshot!(plan.to_string(), @"
    plan v1 target=test align=64

    table   t0 word  3 of 8 rows  offsets  longest 4  empty 0  bound  caf018d102b0d39fb55fc7f1450d4da4
    table   t1 line  1 of 3 rows  offsets  longest 3  empty 0  bound  db57076d5fcca020eda21f47fac9bab8
    table   t2 all   1 of 1 rows  offsets  longest 1  empty 0  bound  942b46f009e51e1df9127dec3401e716

    buffer  b0  ids            u8[8x1]     8 B  input
    buffer  b1  vectors        f32[9x4]  144 B  param
    buffer  b2  w              f32[12x4] 192 B  param
    buffer  b3  square         f32[4x4]   64 B  param
    buffer  b4  norm           f32[1x4]   16 B  param
    buffer  b5  ids.gather     f32[8x4]   64 B  tile@192  live s0..s2
    buffer  b6  ids.matmul     f32[8x12] 192 B  tile@0    live s1..s2
    buffer  b7  ids.add        f32[8x4]   64 B  tile@256  live s2..s3
    buffer  b8  ids.rms-norm   f32[8x4]   64 B  tile@0    live s3..s4
    buffer  b9  word           f32[3x4]   48 B  tile@320  live s4..s6
    buffer  b10 word.matmul    f32[3x12] 144 B  tile@0    live s5..s6
    buffer  b11 word.add       f32[3x4]   48 B  tile@192  live s6..s7
    buffer  b12 word.rms-norm  f32[3x4]   48 B  tile@0    live s7..s8
    buffer  b13 line           f32[1x4]   16 B  tile@384  live s8..s10
    buffer  b14 line.matmul    f32[1x12]  48 B  tile@0    live s9..s10
    buffer  b15 line.add       f32[1x4]   16 B  tile@64   live s10..s11
    buffer  b16 line.rms-norm  f32[1x4]   16 B  tile@0    live s11..s12
    buffer  b17 all            f32[1x4]   16 B  output

    tile    s0..s4  by t0  windows of up to 4 rows  scratch 320 B a worker  inside the next
    tile    s5..s8  by t1  windows of up to 3 rows  scratch 368 B a worker  inside the next
    tile    s9..s12 by t2  windows of up to 1 rows  scratch 400 B a worker

    step    s0  b5  = copy.gather   b1 at b0
                ; read 136  written  0  copied 0  flops 0
                ; from ids: gather
    step    s1  b6  = matmul        b5, b2
                ; read 192  written  0  copied 0  flops 768
                ; from ids: linear
    step    s2  _   = attend        b6 by t0 heads=2
                b7  = then.add      _, b5
                ; read  32  written  0  copied 0  flops 688
                ; from ids: attend + add
    step    s3  _   = matmul        b7, b3
                b8  = then.rms-norm _, b4 eps=1e-5
                ; read  80  written  0  copied 0  flops 384
                ; from ids: linear + rms-norm
    step    s4  b9  = fold.mean     b8 by t0
                ; read  32  written  0  copied 0  flops 44
                ; from word: slice + transpose + contiguous + reduce + stack + squeeze
    step    s5  b10 = matmul        b9, b2
                ; read 192  written  0  copied 0  flops 288
                ; from word: linear
    step    s6  _   = attend        b10 by t1 heads=2
                b11 = then.add      _, b9
                ; read  16  written  0  copied 0  flops 240
                ; from word: attend + add
    step    s7  _   = matmul        b11, b3
                b12 = then.rms-norm _, b4 eps=1e-5
                ; read  80  written  0  copied 0  flops 144
                ; from word: linear + rms-norm
    step    s8  b13 = fold.mean     b12 by t1
                ; read  16  written  0  copied 0  flops 16
                ; from line: slice + transpose + contiguous + reduce + stack + squeeze
    step    s9  b14 = matmul        b13, b2
                ; read 192  written  0  copied 0  flops 96
                ; from line: linear
    step    s10 _   = attend        b14 by t2 heads=2
                b15 = then.add      _, b13
                ; read  16  written  0  copied 0  flops 32
                ; from line: attend + add
    step    s11 _   = matmul        b15, b3
                b16 = then.rms-norm _, b4 eps=1e-5
                ; read  80  written  0  copied 0  flops 48
                ; from line: linear + rms-norm
    step    s12 b17 = fold.mean     b16 by t2
                ; read  16  written 16  copied 0  flops 8
                ; from all: slice + transpose + contiguous + reduce + stack + squeeze

    total   steps 13  arena   0  peak   0  copied   0  read 1080  written   16  flops 2756
    literal steps 25  arena 640  peak 640  copied 400  read 3144  written 1824  flops 2756
    moved   1096 B, 4.53 times less than literal (4968), 2.24 times the floor (488)
    ");
}

#[test]
fn what_stays_in_a_tile_costs_no_memory() {
    let plan = plan();
    // 8 ids, and as many rows of 4 f32 of a table.
    assert_eq!((plan.steps[0].cost.read, plan.steps[0].cost.written, plan.steps[0].cost.copied), (8 + 8 * 16, 0, 0));
    // The weight, and nothing else.
    assert_eq!((plan.steps[1].cost.read, plan.steps[1].cost.written), (12 * 4 * 4, 0));
    let fold = plan.tiles[0].last.index();
    // Four offsets; three rows of 4 f32, which the tile around it holds.
    assert_eq!((plan.steps[fold].cost.read, plan.steps[fold].cost.written), (4 * 8, 0));
    assert_eq!(cost::totals(&plan).peak_bytes, 0);
    let bound = 8 + (9 + 12 + 4 + 1 + 1) * 16 + (4 + 2 + 2) * 8;
    assert_eq!(plan.memory_bytes(), Some(bound + plan.totals.arena_bytes));
}

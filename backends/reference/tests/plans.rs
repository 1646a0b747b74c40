//! Plans built by hand: what each kind of step means, where it reads and writes, and that its accesses are counted.

use half::{bf16, f16};
use levelfold::backend::{Backend, Bindings, Executable, RunReport};
use levelfold::encoder::ElementOps;
use levelfold::ids::{BufferId, StepId, TableId, ViewId};
use levelfold::plan::{
    Buffer, Copy, CopyKind, Fold, Hash, Load, Order, PLAN_VERSION, Place, Plan, Reduction, Stage, Step, StepKind, Table, TableForm,
    TableSource, Totals, View, ViewLayout,
    cost::{step_cost, totals},
};
use levelfold::tensor::{Layout, TensorView, TensorViewMut};
use levelfold::{DType, ErrorCode, OnEmpty, Reducer, Segments};
use levelfold_reference::ReferenceBackend;
use std::sync::Arc;

/// A plan in the making: literal arena placement, one buffer after the other.
struct Draft {
    plan: Plan,
    arena: u64,
}

impl Draft {
    fn new() -> Self {
        let plan = Plan {
            version: PLAN_VERSION,
            target: "reference".into(),
            align: 64,
            tables: Vec::new(),
            buffers: Vec::new(),
            views: Vec::new(),
            tiles: Vec::new(),
            steps: Vec::new(),
            totals: Totals::default(),
            literal: Totals::default(),
        };
        Draft { plan, arena: 0 }
    }

    fn table(&mut self, segments: &Segments) -> TableId {
        self.plan.tables.push(Table {
            name: format!("level{}", self.plan.tables.len()).into(),
            form: if segments.is_partition() { TableForm::Offsets } else { TableForm::Ranges },
            segments: segments.len(),
            rows: segments.rows(),
            total_rows: segments.total_rows(),
            longest: segments.longest(),
            empty: segments.empty_count(),
            hash: Hash(segments.hash()),
            source: TableSource::Bound,
        });
        TableId::new(self.plan.tables.len() - 1)
    }

    /// A buffer and a view of all of it.
    fn buffer(&mut self, name: &str, dtype: DType, shape: [u64; 2], place: Place) -> ViewId {
        self.plan.buffers.push(Buffer { name: name.into(), dtype, rows: shape[0], features: shape[1], place });
        self.view(BufferId::new(self.plan.buffers.len() - 1), 0, shape[1], ViewLayout::Rows)
    }

    /// An arena buffer behind the last one, alive throughout.
    fn arena(&mut self, name: &str, dtype: DType, shape: [u64; 2]) -> ViewId {
        let place = Place::Arena { offset: self.arena, first: StepId(0), last: StepId(100) };
        let view = self.buffer(name, dtype, shape, place);
        self.arena = (self.arena + self.plan.buffer_of(view).bytes()).next_multiple_of(64);
        view
    }

    fn view(&mut self, buffer: BufferId, first_column: u64, features: u64, layout: ViewLayout) -> ViewId {
        self.plan.views.push(View { buffer, first_column, features, layout });
        ViewId::new(self.plan.views.len() - 1)
    }

    fn columns(&mut self, of: ViewId, first_column: u64, features: u64) -> ViewId {
        self.view(self.plan.view(of).buffer, first_column, features, ViewLayout::Rows)
    }

    fn packed(&mut self, of: ViewId, table: TableId, order: Order) -> ViewId {
        let View { buffer, features, .. } = *self.plan.view(of);
        self.view(buffer, 0, features, ViewLayout::Packed { table, order })
    }

    fn step(&mut self, kind: StepKind) {
        let cost = step_cost(&self.plan, &kind);
        self.plan.steps.push(Step { kind, origin: Vec::new(), cost });
    }

    fn copy(&mut self, what: CopyKind, read: &[ViewId], write: ViewId) {
        self.step(StepKind::Copy(Copy { what, read: read.into(), write }));
    }

    fn fold(&mut self, load: Load, stages: Vec<Stage>) {
        self.step(StepKind::Fold(Fold { load, stages }));
    }

    fn finish(mut self) -> Arc<Plan> {
        let last = StepId::new(self.plan.steps.len().saturating_sub(1));
        for buffer in &mut self.plan.buffers {
            if let Place::Arena { last: end, .. } = &mut buffer.place {
                *end = last.min(*end);
            }
        }
        self.plan.totals = totals(&self.plan);
        Arc::new(self.plan)
    }
}

fn reduction(reducer: Reducer, dtype: DType, write: Option<ViewId>) -> Reduction {
    Reduction { reducer, weights: None, on_empty: OnEmpty::Zero, dtype, ops: ElementOps::new(), write }
}

fn stage(table: TableId, reductions: &[Reduction]) -> Stage {
    Stage { table, feed: 0, ops: ElementOps::new(), reductions: reductions.into() }
}

fn load(values: ViewId) -> Load {
    Load::View { values }
}

fn compile(plan: &Arc<Plan>) -> Box<dyn Executable> {
    ReferenceBackend::new().with_poison(0xa5).compile(plan).expect("a plan of the reference")
}

/// Runs a plan, and holds what the report measured against what the plan says.
fn run(plan: &Arc<Plan>, bindings: &mut Bindings<'_>) {
    let mut executable = compile(plan);
    let report = executable.run(bindings).expect("good bindings");
    assert_measured(plan, report);
}

fn assert_measured(plan: &Plan, report: &RunReport) {
    for (index, (step, measured)) in plan.steps.iter().zip(&report.steps).enumerate() {
        assert_eq!((measured.read, measured.written), (step.cost.read, step.cost.written), "step {index}: {:?}", step.kind);
        assert_eq!(measured.flops, Some(step.cost.flops), "operations of step {index}: {:?}", step.kind);
    }
}

#[test]
fn a_fold_reads_rows_of_any_strides_and_writes_any_strides() {
    let segments = Segments::from_lengths(&[2, 0, 1]).unwrap();
    let mut draft = Draft::new();
    let x = draft.buffer("x", DType::F32, [3, 2], Place::Input);
    let y = draft.buffer("y", DType::F32, [3, 2], Place::Output);
    let table = draft.table(&segments);
    draft.fold(load(x), vec![stage(table, &[reduction(Reducer::Sum, DType::F32, Some(y))])]);
    let plan = draft.finish();
    // 3 rows of 2 floats and 4 offsets; 3 rows of 2 floats.
    assert_eq!((plan.steps[0].cost.read, plan.steps[0].cost.written), (24 + 32, 24));

    let data = [1.0f32, 2.0, 3.0, 10.0, 20.0, 30.0];
    let layouts = [
        ("feature-major", Layout::feature_major([3, 2]), [[3.0f32, 30.0], [0.0, 0.0], [3.0, 30.0]]),
        ("backwards", Layout { offset: 5, shape: [3, 2], strides: [-1, -3] }, [[50.0, 5.0], [0.0, 0.0], [10.0, 1.0]]),
        ("broadcast", Layout { offset: 1, shape: [3, 2], strides: [0, 3] }, [[4.0, 40.0], [0.0, 0.0], [2.0, 20.0]]),
    ];
    for (name, layout, wanted) in layouts {
        let mut out = [f32::NAN; 12];
        let odd = Layout { offset: 10, shape: [3, 2], strides: [-4, -1] };
        run(
            &plan,
            &mut Bindings::new()
                .table(&segments)
                .input("x", TensorView::strided(&data, layout).unwrap())
                .output("y", TensorViewMut::strided(&mut out, odd).unwrap()),
        );
        let got: Vec<[f32; 2]> = (0..3).map(|row| [out[odd.position(row, 0)], out[odd.position(row, 1)]]).collect();
        assert_eq!(got, wanted, "{name}");
        assert_eq!(out.iter().filter(|value| value.is_nan()).count(), 6, "{name}: what lies between the elements is left alone");
    }
}

#[test]
fn the_literal_chain_packs_segments_and_folds_them() {
    // Overlapping, out of order, with a gap: rows 1..4, 0..2, nothing.
    let segments = Segments::from_ranges(&[(1, 4), (0, 2), (3, 3)], 5).unwrap();
    for order in [Order::RowMajor, Order::FeatureMajor] {
        let mut draft = Draft::new();
        let x = draft.buffer("x", DType::F64, [5, 2], Place::Input);
        let y = draft.buffer("y", DType::F64, [3, 2], Place::Output);
        let table = draft.table(&segments);
        let first = draft.arena("first", DType::F64, [5, 2]);
        let second = draft.arena("second", DType::F64, [5, 2]);
        let first = draft.packed(first, table, order);
        let second = draft.packed(second, table, order.transposed());
        draft.copy(CopyKind::Segments { table }, &[x], first);
        draft.copy(CopyKind::Segments { table }, &[first], second);
        draft.fold(load(second), vec![stage(table, &[reduction(Reducer::Max, DType::F64, Some(y))])]);
        let plan = draft.finish();
        let data: Vec<f64> = (0..5).flat_map(|row| [f64::from(row), -f64::from(row)]).collect();
        let mut out = [f64::NAN; 6];
        run(
            &plan,
            &mut Bindings::new()
                .table(&segments)
                .input("x", TensorView::from_slice(&data, [5, 2]).unwrap())
                .output("y", TensorViewMut::from_slice(&mut out, [3, 2]).unwrap()),
        );
        assert_eq!(out, [3.0, -1.0, 1.0, 0.0, 0.0, 0.0], "{order:?}");
    }
}

#[test]
fn packed_blocks_lie_where_the_plan_says() {
    // The packed buffer is an output here, so that its elements can be seen.
    let segments = Segments::from_lengths(&[1, 2]).unwrap();
    for (order, wanted) in
        [(Order::RowMajor, [0.0f32, 1.0, 10.0, 11.0, 20.0, 21.0]), (Order::FeatureMajor, [0.0, 1.0, 10.0, 20.0, 11.0, 21.0])]
    {
        let mut draft = Draft::new();
        let x = draft.buffer("x", DType::F32, [3, 2], Place::Input);
        let y = draft.buffer("y", DType::F32, [3, 2], Place::Output);
        let table = draft.table(&segments);
        let y = draft.packed(y, table, order);
        draft.copy(CopyKind::Segments { table }, &[x], y);
        let plan = draft.finish();
        let data = [0.0f32, 1.0, 10.0, 11.0, 20.0, 21.0];
        let mut out = [f32::NAN; 6];
        run(
            &plan,
            &mut Bindings::new()
                .table(&segments)
                .input("x", TensorView::from_slice(&data, [3, 2]).unwrap())
                .output("y", TensorViewMut::from_slice(&mut out, [3, 2]).unwrap()),
        );
        assert_eq!(out, wanted, "{order:?}");
    }
}

#[test]
fn stages_feed_on_any_reduction_and_outputs_are_read_again() {
    let (words, sentences) = (Segments::from_lengths(&[2, 1, 1]).unwrap(), Segments::from_lengths(&[2, 1]).unwrap());
    let mut draft = Draft::new();
    let ids = draft.buffer("ids", DType::I64, [4, 1], Place::Input);
    let lut = draft.buffer("lut", DType::F16, [3, 2], Place::Param);
    let w = draft.buffer("w", DType::BF16, [3, 1], Place::Input);
    let both = draft.buffer("word", DType::F16, [3, 4], Place::Output);
    let top = draft.buffer("sentence", DType::F32, [2, 2], Place::Output);
    let copied = draft.buffer("copied", DType::F16, [3, 2], Place::Output);
    let (word, sentence) = (draft.table(&words), draft.table(&sentences));
    let (left, right) = (draft.columns(both, 0, 2), draft.columns(both, 2, 2));
    let of_words = [reduction(Reducer::Min, DType::F16, Some(left)), reduction(Reducer::Sum, DType::F16, Some(right))];
    let weighted = Reduction { weights: Some(w), ..reduction(Reducer::Sum, DType::F32, Some(top)) };
    draft.fold(Load::Gather { ids, table: lut }, vec![stage(word, &of_words), Stage { feed: 1, ..stage(sentence, &[weighted]) }]);
    draft.copy(CopyKind::Rows, &[right], copied);
    let plan = draft.finish();
    // 4 ids of 8 bytes, 4 rows of 2 halves, offsets of both tables, 3 weights; min and sum of words, sums of sentences.
    assert_eq!((plan.steps[0].cost.read, plan.steps[0].cost.written), (32 + 16 + 32 + 24 + 6, 24 + 16));

    let lookup = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].map(f16::from_f32);
    let weights = [1.0, 2.0, -1.0].map(bf16::from_f32);
    let (mut out_word, mut out_top, mut out_copied) = ([f16::NAN; 12], [f32::NAN; 4], [f16::NAN; 6]);
    run(
        &plan,
        &mut Bindings::new()
            .table(&sentences)
            .table(&words)
            .input("ids", TensorView::from_column(&[2i64, 0, 1, 1]))
            .input("lut", TensorView::from_slice(&lookup, [3, 2]).unwrap())
            .input("w", TensorView::from_column(&weights))
            .output("word", TensorViewMut::from_slice(&mut out_word, [3, 4]).unwrap())
            .output("sentence", TensorViewMut::from_slice(&mut out_top, [2, 2]).unwrap())
            .output("copied", TensorViewMut::from_slice(&mut out_copied, [3, 2]).unwrap()),
    );
    assert_eq!(out_word.map(f32::from), [1.0, 2.0, 6.0, 8.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0]);
    assert_eq!(out_top, [6.0 + 6.0, 8.0 + 8.0, -3.0, -4.0]);
    assert_eq!(out_copied.map(f32::from), [6.0, 8.0, 3.0, 4.0, 3.0, 4.0]);
}

#[test]
fn a_stage_reads_what_the_one_before_was_rounded_to() {
    let (lower, upper) = (Segments::from_lengths(&[2, 1]).unwrap(), Segments::from_lengths(&[2]).unwrap());
    let mut draft = Draft::new();
    let x = draft.buffer("x", DType::F32, [3, 1], Place::Input);
    let y = draft.buffer("y", DType::F32, [1, 1], Place::Output);
    let (a, b) = (draft.table(&lower), draft.table(&upper));
    draft.fold(
        load(x),
        vec![stage(a, &[reduction(Reducer::Sum, DType::BF16, None)]), stage(b, &[reduction(Reducer::Sum, DType::F32, Some(y))])],
    );
    let plan = draft.finish();
    let mut out = [f32::NAN];
    run(
        &plan,
        &mut Bindings::new()
            .table(&lower)
            .table(&upper)
            .input("x", TensorView::from_column(&[256.0f32, 1.0, 0.5]))
            .output("y", TensorViewMut::from_slice(&mut out, [1, 1]).unwrap()),
    );
    // 257 lies halfway between 256 and 258 in bf16, and goes to the even one.
    assert_eq!(out, [256.5]);
}

#[test]
fn copies_move_bits_as_they_are() {
    let payload = f32::from_bits(0xffa1_2345);
    let mut draft = Draft::new();
    let a = draft.buffer("a", DType::F32, [2, 1], Place::Input);
    let b = draft.buffer("b", DType::F32, [2, 2], Place::Input);
    let ids = draft.buffer("ids", DType::U8, [2, 1], Place::Input);
    let y = draft.buffer("y", DType::F32, [2, 3], Place::Output);
    let z = draft.buffer("z", DType::F32, [2, 2], Place::Output);
    draft.copy(CopyKind::Columns, &[b, a], y);
    draft.copy(CopyKind::Gather, &[ids, b], z);
    let plan = draft.finish();
    let (mut out, mut looked_up) = ([0f32; 6], [0f32; 4]);
    run(
        &plan,
        &mut Bindings::new()
            .input("a", TensorView::from_column(&[payload, -0.0]))
            .input("b", TensorView::from_slice(&[1.0f32, payload, 3.0, f32::from_bits(1)], [2, 2]).unwrap())
            .input("ids", TensorView::from_column(&[1u8, 0]))
            .output("y", TensorViewMut::from_slice(&mut out, [2, 3]).unwrap())
            .output("z", TensorViewMut::from_slice(&mut looked_up, [2, 2]).unwrap()),
    );
    assert_eq!(out.map(f32::to_bits), [1.0, payload, payload, 3.0, f32::from_bits(1), -0.0].map(f32::to_bits));
    assert_eq!(looked_up.map(f32::to_bits), [3.0, f32::from_bits(1), 1.0, payload].map(f32::to_bits));
}

#[test]
fn buffers_share_the_arena_as_the_plan_places_them() {
    // Two buffers at one place, both alive: the second overwrites the first, and the result shows it.
    let segments = Segments::whole(2);
    let build = |apart: u64| {
        let mut draft = Draft::new();
        let (a, b) = (draft.buffer("a", DType::F32, [2, 1], Place::Input), draft.buffer("b", DType::F32, [2, 1], Place::Input));
        let y = draft.buffer("y", DType::F32, [1, 1], Place::Output);
        let table = draft.table(&segments);
        let place = |offset, first| Place::Arena { offset, first: StepId(first), last: StepId(2) };
        let first = draft.buffer("first", DType::F32, [2, 1], place(0, 0));
        let second = draft.buffer("second", DType::F32, [2, 1], place(apart, 1));
        draft.copy(CopyKind::Rows, &[a], first);
        draft.copy(CopyKind::Rows, &[b], second);
        draft.fold(load(first), vec![stage(table, &[reduction(Reducer::Sum, DType::F32, Some(y))])]);
        draft.finish()
    };
    for (apart, wanted) in [(64, 3.0), (0, 300.0), (4, 101.0)] {
        let mut out = [f32::NAN];
        run(
            &build(apart),
            &mut Bindings::new()
                .table(&segments)
                .input("a", TensorView::from_column(&[1.0f32, 2.0]))
                .input("b", TensorView::from_column(&[100.0f32, 200.0]))
                .output("y", TensorViewMut::from_slice(&mut out, [1, 1]).unwrap()),
        );
        assert_eq!(out, [wanted], "{apart} bytes apart");
    }
}

#[test]
fn poison_shows_what_nothing_wrote_and_what_is_dead() {
    let segments = Segments::whole(2);
    let build = |last: u32, writes: bool| {
        let mut draft = Draft::new();
        let a = draft.buffer("a", DType::F32, [2, 1], Place::Input);
        let y = draft.buffer("y", DType::F32, [1, 1], Place::Output);
        let z = draft.buffer("z", DType::F32, [2, 1], Place::Output);
        let table = draft.table(&segments);
        let kept = draft.buffer("kept", DType::F32, [2, 1], Place::Arena { offset: 0, first: StepId(0), last: StepId(last) });
        draft.copy(CopyKind::Rows, &[a], if writes { kept } else { z });
        draft.fold(load(kept), vec![stage(table, &[reduction(Reducer::Sum, DType::F32, Some(y))])]);
        draft.finish()
    };
    let poison = f32::from_bits(0xa5a5_a5a5);
    for (last, writes, wanted) in [(1, true, 3.0), (0, true, poison + poison), (1, false, poison + poison)] {
        let (mut out, mut rest) = ([f32::NAN], [f32::NAN; 2]);
        run(
            &build(last, writes),
            &mut Bindings::new()
                .table(&segments)
                .input("a", TensorView::from_column(&[1.0f32, 2.0]))
                .output("y", TensorViewMut::from_slice(&mut out, [1, 1]).unwrap())
                .output("z", TensorViewMut::from_slice(&mut rest, [2, 1]).unwrap()),
        );
        assert_eq!(out, [wanted], "last {last}, written {writes}");
    }
}

#[test]
fn empty_segments_give_what_the_plan_says() {
    let segments = Segments::from_lengths(&[0, 1]).unwrap();
    let cases = [
        (OnEmpty::Zero, DType::F32, 0u64),
        (OnEmpty::NaN, DType::F32, 0x7fc0_0000),
        (OnEmpty::Fill(-0.0), DType::F32, 0x8000_0000),
        (OnEmpty::Fill(0.1), DType::F16, 0x2e66),
        (OnEmpty::Fill(0.1), DType::F64, 0.1f64.to_bits()),
        (OnEmpty::Fill(f64::NEG_INFINITY), DType::BF16, 0xff80),
    ];
    for (on_empty, dtype, wanted) in cases {
        let mut draft = Draft::new();
        let x = draft.buffer("x", DType::F32, [1, 1], Place::Input);
        let y = draft.buffer("y", dtype, [2, 1], Place::Output);
        let table = draft.table(&segments);
        let mean = Reduction { on_empty, ..reduction(Reducer::Mean, dtype, Some(y)) };
        draft.fold(load(x), vec![stage(table, &[mean])]);
        let plan = draft.finish();
        let mut out = [0u64; 2];
        let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut out)[..2 * dtype.size()];
        run(
            &plan,
            &mut Bindings::new()
                .table(&segments)
                .input("x", TensorView::from_column(&[1.0f32]))
                .output("y", TensorViewMut::from_bytes(bytes, dtype, [2, 1]).unwrap()),
        );
        let mut first = [0u8; 8];
        first[..dtype.size()].copy_from_slice(&bytemuck::cast_slice::<u64, u8>(&out)[..dtype.size()]);
        assert_eq!(u64::from_le_bytes(first), wanted, "{on_empty} as {dtype}");
    }
}

#[test]
fn a_plan_for_another_target_or_version_is_refused() {
    let mut draft = Draft::new();
    let (a, z) = (draft.buffer("a", DType::F32, [2, 1], Place::Input), draft.buffer("z", DType::F32, [2, 1], Place::Output));
    draft.copy(CopyKind::Rows, &[a], z);
    let plan = draft.finish();
    let other = |change: fn(&mut Plan)| {
        let mut plan = (*plan).clone();
        change(&mut plan);
        ReferenceBackend::new().compile(&Arc::new(plan)).err().map(|error| error.code())
    };
    assert_eq!(other(|_| ()), None);
    assert_eq!(other(|plan| plan.target = "cpu".into()), Some(ErrorCode::WrongTarget));
    assert_eq!(other(|plan| plan.version = 2), Some(ErrorCode::PlanVersion));
}

#[test]
fn a_run_after_an_error_is_right() {
    let (lower, upper) = (Segments::from_lengths(&[1, 1]).unwrap(), Segments::whole(2));
    let mut draft = Draft::new();
    let x = draft.buffer("x", DType::F32, [2, 1], Place::Input);
    let y = draft.buffer("y", DType::F32, [1, 1], Place::Output);
    let (a, b) = (draft.table(&lower), draft.table(&upper));
    draft.fold(
        load(x),
        vec![stage(a, &[reduction(Reducer::Sum, DType::F32, None)]), stage(b, &[reduction(Reducer::Sum, DType::F32, Some(y))])],
    );
    let plan = draft.finish();
    let mut executable = compile(&plan);
    let data = [1.0f32, 2.0];
    let mut out = [f32::NAN];
    // The lower table is found, the upper one is not: nothing of that may stay behind.
    let error = executable
        .run(
            &mut Bindings::new()
                .table(&lower)
                .input("x", TensorView::from_column(&data))
                .output("y", TensorViewMut::from_slice(&mut out, [1, 1]).unwrap()),
        )
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotBound);
    executable
        .run(
            &mut Bindings::new()
                .table(&upper)
                .table(&lower)
                .input("x", TensorView::from_column(&data))
                .output("y", TensorViewMut::from_slice(&mut out, [1, 1]).unwrap()),
        )
        .unwrap();
    assert_eq!(out, [3.0]);
}

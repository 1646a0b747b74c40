//! Valid plans to print, save and break, made by hand: tests of this module must not need the lowering.

use super::{
    Buffer, Copy, CopyKind, Cost, Fold, Hash, Load, Order, PLAN_VERSION, Place, Plan, Reduction, Stage, Step, StepKind, Table, TableForm,
    TableSource, Totals, View, ViewLayout, cost,
};
use crate::dtype::DType;
use crate::encoder::ElementOps;
use crate::ids::{BufferId, StepId, TableId, ViewId};
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;
use smallvec::smallvec;

/// A plan in the making.
pub(crate) struct Maker {
    plan: Plan,
}

impl Maker {
    pub(crate) fn new() -> Self {
        Maker {
            plan: Plan {
                version: PLAN_VERSION,
                target: "cpu".into(),
                align: 64,
                tables: Vec::new(),
                buffers: Vec::new(),
                views: Vec::new(),
                tiles: Vec::new(),
                steps: Vec::new(),
                totals: Totals::default(),
                literal: Totals::default(),
            },
        }
    }

    pub(crate) fn table(&mut self, name: &str, segments: &Segments) -> TableId {
        self.described(name, segments, TableSource::Bound)
    }

    pub(crate) fn composed(&mut self, name: &str, segments: &Segments, lower: TableId, upper: TableId) -> TableId {
        self.described(name, segments, TableSource::Compose { lower, upper })
    }

    fn described(&mut self, name: &str, segments: &Segments, source: TableSource) -> TableId {
        self.plan.tables.push(Table {
            name: name.into(),
            form: if segments.is_partition() { TableForm::Offsets } else { TableForm::Ranges },
            segments: segments.len(),
            rows: segments.rows(),
            total_rows: segments.total_rows(),
            longest: segments.longest(),
            empty: segments.empty_count(),
            hash: Hash(segments.hash()),
            source,
        });
        TableId::new(self.plan.tables.len() - 1)
    }

    /// A buffer, and the view of all of it.
    pub(crate) fn buffer(&mut self, name: &str, dtype: DType, rows: u64, features: u64, place: Place) -> ViewId {
        self.plan.buffers.push(Buffer { name: name.into(), dtype, rows, features, place });
        let buffer = BufferId::new(self.plan.buffers.len() - 1);
        self.view(View { buffer, first_column: 0, features, layout: ViewLayout::Rows })
    }

    /// An arena buffer: `finish` places it.
    pub(crate) fn arena(&mut self, name: &str, dtype: DType, rows: u64, features: u64) -> ViewId {
        self.buffer(name, dtype, rows, features, Place::Arena { offset: 0, first: StepId(0), last: StepId(0) })
    }

    pub(crate) fn view(&mut self, view: View) -> ViewId {
        self.plan.views.push(view);
        ViewId::new(self.plan.views.len() - 1)
    }

    pub(crate) fn columns(&mut self, of: ViewId, first_column: u64, features: u64) -> ViewId {
        let view = View { first_column, features, ..*self.plan.view(of) };
        self.view(view)
    }

    pub(crate) fn packed(&mut self, of: ViewId, table: TableId, order: Order) -> ViewId {
        let view = View { layout: ViewLayout::Packed { table, order }, ..*self.plan.view(of) };
        self.view(view)
    }

    pub(crate) fn fold(&mut self, load: Load, stages: Vec<Stage>, origin: &[&str]) {
        self.step(StepKind::Fold(Fold { load, stages }), origin);
    }

    pub(crate) fn copy(&mut self, what: CopyKind, read: &[ViewId], write: ViewId, origin: &[&str]) {
        self.step(StepKind::Copy(Copy { what, read: read.into(), write }), origin);
    }

    fn step(&mut self, kind: StepKind, origin: &[&str]) {
        let origin = origin.iter().map(|&op| op.into()).collect();
        self.plan.steps.push(Step { kind, origin, cost: Cost::default() });
    }

    /// Places the arena without any reuse, counts costs, and checks the result.
    pub(crate) fn finish(self) -> Plan {
        let mut plan = self.plan;
        let mut end = 0;
        for index in 0..plan.buffers.len() {
            let touched: Vec<usize> =
                (0..plan.steps.len()).filter(|&step| touches(&plan, &plan.steps[step], BufferId::new(index))).collect();
            let buffer = &mut plan.buffers[index];
            let bytes = buffer.bytes();
            if let Place::Arena { offset, first, last } = &mut buffer.place {
                *offset = end;
                *first = StepId::new(touched[0]);
                *last = StepId::new(touched[touched.len() - 1]);
                end = (end + bytes).next_multiple_of(plan.align);
            }
        }
        recount(&mut plan);
        plan.literal = Totals { steps: 9, copied_bytes: 6000, read_bytes: 21000, written_bytes: 9000, ..plan.totals };
        plan.verify().unwrap();
        plan
    }
}

/// Counts costs and totals again, as after a change that the costs should follow.
pub(crate) fn recount(plan: &mut Plan) {
    for step in 0..plan.steps.len() {
        plan.steps[step].cost = cost::step_cost(plan, &plan.steps[step].kind);
    }
    plan.totals = cost::totals(plan);
}

fn touches(plan: &Plan, step: &Step, buffer: BufferId) -> bool {
    step.reads().iter().chain(&step.writes()).any(|&view| plan.view(view).buffer == buffer)
}

/// A reduction with the reducer's own answer to empty segments.
pub(crate) fn reduction(reducer: Reducer, write: Option<ViewId>) -> Reduction {
    Reduction { on_empty: reducer.default_on_empty(), reducer, weights: None, dtype: DType::F32, ops: ElementOps::new(), write }
}

/// A stage of one reduction.
pub(crate) fn stage(table: TableId, reduction: Reduction) -> Stage {
    Stage { table, feed: 0, ops: ElementOps::new(), reductions: smallvec![reduction] }
}

/// The tables of a small text: 12 characters, 4 words, 2 sentences, 1 document.
pub(crate) fn text_tables() -> [Segments; 3] {
    [&[3u64, 4, 2, 3][..], &[3, 1], &[2]].map(|lengths| Segments::from_lengths(lengths).unwrap())
}

/// What the published program does, copies and all: three levels over `f32[12x4]`.
pub(crate) fn literal_chain() -> Plan {
    let mut make = Maker::new();
    let mut values = make.buffer("char", DType::F32, 12, 4, Place::Input);
    for (name, segments) in ["word", "sentence", "document"].into_iter().zip(text_tables()) {
        let table = make.table(name, &segments);
        let dense = make.arena(&format!("{name}.contiguous"), DType::F32, segments.total_rows(), 4);
        let packed = make.packed(dense, table, Order::FeatureMajor);
        let ops = ["slice", "transpose", "contiguous", "reduce", "stack", "squeeze"].map(|op| format!("{name}.{op}"));
        make.copy(CopyKind::Segments { table }, &[values], packed, &[&ops[0], &ops[1], &ops[2]]);
        let reduced = make.arena(&format!("{name}.reduce"), DType::F32, segments.len(), 4);
        make.fold(Load::View { values: packed }, vec![stage(table, reduction(Reducer::Mean, Some(reduced)))], &[&ops[3]]);
        let place = Place::Arena { offset: 0, first: StepId(0), last: StepId(0) };
        let stacked = make.buffer(name, DType::F32, segments.len(), 4, if name == "document" { Place::Output } else { place });
        make.copy(CopyKind::Rows, &[reduced], stacked, &[&ops[4], &ops[5]]);
        values = stacked;
    }
    make.finish()
}

/// The same text, looked up by id and fused into one step; the sentences are kept, the words are not.
pub(crate) fn fused_text() -> Plan {
    let mut make = Maker::new();
    let ids = make.buffer("char", DType::U8, 12, 1, Place::Input);
    let table = make.buffer("char.table", DType::F32, 256, 4, Place::Param);
    let [word, sentence, document] = text_tables();
    let tables = [make.table("word", &word), make.table("sentence", &sentence), make.table("document", &document)];
    let sentences = make.buffer("sentence", DType::F32, 2, 4, Place::Output);
    let documents = make.buffer("document", DType::F32, 1, 4, Place::Output);
    let stages = vec![
        stage(tables[0], reduction(Reducer::Mean, None)),
        stage(tables[1], reduction(Reducer::Mean, Some(sentences))),
        stage(tables[2], reduction(Reducer::Sum, Some(documents))),
    ];
    let mut origin = vec!["char.gather".to_owned()];
    for name in ["word", "sentence", "document"] {
        origin.extend(["slice", "transpose", "contiguous", "reduce", "stack", "squeeze"].map(|op| format!("{name}.{op}")));
    }
    let origin: Vec<&str> = origin.iter().map(String::as_str).collect();
    make.fold(Load::Gather { ids, table }, stages, &origin);
    make.finish()
}

/// Everything else that a plan can say: siblings into the columns of one output, weights, ranges with an empty segment, a composed
/// table, a feed that is not the first, a change of dtype, a gather and a concat that are copies.
pub(crate) fn wide() -> Plan {
    let mut make = Maker::new();
    let ids = make.buffer("ids", DType::I64, 6, 1, Place::Input);
    let table = make.buffer("vectors", DType::F32, 9, 2, Place::Param);
    let weights = make.buffer("weights", DType::F16, 6, 1, Place::Input);
    let [low, high] = [&[2u64, 0, 4][..], &[1, 2]].map(|lengths| Segments::from_lengths(lengths).unwrap());
    let pairs = Segments::from_ranges(&[(0u64, 4), (2, 6), (5, 5)], 6).unwrap();
    let t0 = make.table("session", &low);
    let t1 = make.table("user", &high);
    let t2 = make.composed("user", &low.compose(&high).unwrap(), t0, t1);
    let t3 = make.table("window", &pairs);
    let events = make.arena("event", DType::F32, 6, 2);
    make.copy(CopyKind::Gather, &[ids, table], events, &["event.gather"]);

    let session = make.buffer("session", DType::F32, 3, 4, Place::Output);
    let (left, right) = (make.columns(session, 0, 2), make.columns(session, 2, 2));
    let users = make.buffer("user", DType::F64, 2, 2, Place::Output);
    let siblings = Stage {
        table: t0,
        feed: 0,
        ops: ElementOps::new(),
        reductions: smallvec![
            Reduction { weights: Some(weights), on_empty: OnEmpty::NaN, ..reduction(Reducer::Mean, Some(left)) },
            Reduction { on_empty: OnEmpty::Fill(-1.5), ..reduction(Reducer::Max, Some(right)) },
        ],
    };
    let above = Stage { feed: 1, ..stage(t1, Reduction { dtype: DType::F64, ..reduction(Reducer::Min, Some(users)) }) };
    make.fold(Load::View { values: events }, vec![siblings, above], &["session.reduce", "session.max", "user.reduce"]);

    let sums = make.arena("user.sum", DType::F32, 2, 2);
    make.fold(Load::View { values: events }, vec![stage(t2, reduction(Reducer::Sum, Some(sums)))], &["user.sum"]);
    let prods = make.arena("user.prod", DType::F32, 2, 2);
    make.fold(Load::View { values: events }, vec![stage(t2, reduction(Reducer::Prod, Some(prods)))], &["user.prod"]);
    let both = make.buffer("both", DType::F32, 2, 4, Place::Output);
    make.copy(CopyKind::Columns, &[sums, prods], both, &["both.concat"]);

    let dense = make.arena("window.contiguous", DType::F32, 8, 2);
    let packed = make.packed(dense, t3, Order::RowMajor);
    make.copy(CopyKind::Segments { table: t3 }, &[events], packed, &["window.contiguous"]);
    let turned = make.arena("window.turned", DType::F32, 8, 2);
    let turned = make.packed(turned, t3, Order::FeatureMajor);
    make.copy(CopyKind::Segments { table: t3 }, &[packed], turned, &["window.transpose", "window.contiguous"]);
    let windows = make.buffer("window", DType::F32, 3, 2, Place::Output);
    make.fold(Load::View { values: turned }, vec![stage(t3, reduction(Reducer::Sum, Some(windows)))], &["window.reduce"]);
    make.finish()
}

//! The checker: good plans hold, and every corruption of one is refused, by the rules of a plan or by the replay.

use levelfold::backend::Target;
use levelfold::check;
use levelfold::graph::{GraphBuilder, LevelGraph, Reduce};
use levelfold::ids::{StepId, TableId, ViewId};
use levelfold::optimize::Planner;
use levelfold::plan::{Copy, CopyKind, Fold, Load, Order, Place, Reduction, StepKind, TableSource, ViewLayout};
use levelfold::{DType, OnEmpty, OptLevel, Plan, Reducer, Segments};

/// Two weighted levels, siblings, a concat and a lookup: every kind of step at -O0.
fn graph() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let ids = b.ids("ids", DType::U8, 6).unwrap();
    let table = b.param("table", DType::F32, 16, 4).unwrap();
    let rows = b.gather(ids, table).unwrap();
    let word = b.table("word", &Segments::from_lengths(&[2u64, 0, 1, 3]).unwrap()).unwrap();
    let heavy = b.weights("heavy", DType::F32, 6).unwrap();
    let light = b.weights("light", DType::F32, 6).unwrap();
    let mean = b.fold(rows, word, Reduce::new(Reducer::Mean).weights(heavy).on_empty(OnEmpty::Zero)).unwrap();
    let sum = b.fold(rows, word, Reduce::new(Reducer::Sum).weights(light)).unwrap();
    let max = b.fold(rows, word, Reduce::new(Reducer::Max).on_empty(OnEmpty::Fill(-1.0))).unwrap();
    let all = b.concat(&[mean, sum, max]).unwrap();
    let page = b.table("page", &Segments::from_lengths(&[2u64, 2]).unwrap()).unwrap();
    let pages = b.fold(max, page, Reduce::new(Reducer::Sum)).unwrap();
    let book = b.table("book", &Segments::from_lengths(&[2u64]).unwrap()).unwrap();
    let books = b.fold(pages, book, Reduce::new(Reducer::Sum)).unwrap();
    b.output("word", all).unwrap();
    b.output("page", pages).unwrap();
    b.output("book", books).unwrap();
    b.finish().unwrap()
}

/// Two levels of sums, which become one where sums may be bracketed anew.
fn collapsing() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let rows = b.input("rows", DType::F32, 4, 2).unwrap();
    let leaf = b.table("leaf", &Segments::from_lengths(&[2u64, 2]).unwrap()).unwrap();
    let leaves = b.fold(rows, leaf, Reduce::new(Reducer::Sum)).unwrap();
    let tree = b.table("tree", &Segments::from_lengths(&[2u64]).unwrap()).unwrap();
    let trees = b.fold(leaves, tree, Reduce::new(Reducer::Sum)).unwrap();
    b.output("tree", trees).unwrap();
    b.finish().unwrap()
}

/// The graph that a corruption starts from.
fn graph_for(opt: OptLevel) -> LevelGraph {
    match opt {
        OptLevel::O0 | OptLevel::O1 => graph(),
        OptLevel::O2 => collapsing(),
    }
}

fn plan(opt: OptLevel) -> Plan {
    Planner::new(Target::new("test")).opt(opt).plan(graph_for(opt)).unwrap().plan
}

fn fold_mut(plan: &mut Plan, step: usize) -> &mut Fold {
    match &mut plan.steps[step].kind {
        StepKind::Fold(fold) => fold,
        StepKind::Copy(_) | StepKind::Encode(_) => panic!("step {step} is no fold"),
    }
}

/// The reduction of the lowest level by this reducer.
fn word(plan: &mut Plan, reducer: Reducer) -> &mut Reduction {
    let reductions = &mut fold_mut(plan, 0).stages[0].reductions;
    reductions.iter_mut().find(|reduction| reduction.reducer == reducer).expect("such a reduction")
}

fn copy_mut(plan: &mut Plan, which: impl Fn(&Copy) -> bool) -> &mut Copy {
    let mut copies = plan.steps.iter_mut().filter_map(|step| match &mut step.kind {
        StepKind::Copy(copy) => Some(copy),
        StepKind::Fold(_) | StepKind::Encode(_) => None,
    });
    copies.find(|copy| which(copy)).expect("such a copy")
}

#[test]
fn good_plans_hold() {
    for opt in OptLevel::ALL {
        check::replay(&plan(opt), &graph_for(opt)).unwrap();
    }
}

type Corruption = (&'static str, OptLevel, fn(&mut Plan));

const CORRUPTIONS: &[Corruption] = &[
    ("another reducer", OptLevel::O1, |plan| word(plan, Reducer::Mean).reducer = Reducer::Sum),
    ("weights exchanged", OptLevel::O1, |plan| {
        let (mean, sum) = (word(plan, Reducer::Mean).weights, word(plan, Reducer::Sum).weights);
        (word(plan, Reducer::Mean).weights, word(plan, Reducer::Sum).weights) = (sum, mean);
    }),
    ("no weights", OptLevel::O1, |plan| word(plan, Reducer::Sum).weights = None),
    ("another value for empty segments", OptLevel::O1, |plan| word(plan, Reducer::Max).on_empty = OnEmpty::Zero),
    ("another feed", OptLevel::O1, |plan| {
        let feed = &mut fold_mut(plan, 0).stages[1].feed;
        *feed = (*feed + 1) % 3;
    }),
    ("a feed that is not there", OptLevel::O1, |plan| fold_mut(plan, 0).stages[1].feed = 9),
    ("another table", OptLevel::O1, |plan| fold_mut(plan, 0).stages[1].table = TableId(2)),
    ("another type", OptLevel::O1, |plan| word(plan, Reducer::Max).dtype = DType::F64),
    ("results exchanged", OptLevel::O1, |plan| {
        let (mean, sum) = (word(plan, Reducer::Mean).write, word(plan, Reducer::Sum).write);
        (word(plan, Reducer::Mean).write, word(plan, Reducer::Sum).write) = (sum, mean);
    }),
    ("a result not written", OptLevel::O1, |plan| word(plan, Reducer::Sum).write = None),
    ("another column", OptLevel::O1, |plan| {
        let view = word(plan, Reducer::Sum).write.expect("written");
        plan.views[view.index()].first_column = 0;
    }),
    ("a stage less", OptLevel::O1, |plan| drop(fold_mut(plan, 0).stages.pop())),
    ("no steps", OptLevel::O1, |plan| plan.steps.clear()),
    ("ids and table exchanged", OptLevel::O1, |plan| {
        let fold = fold_mut(plan, 0);
        let Load::Gather { ids, table } = fold.load else { panic!("a lookup") };
        fold.load = Load::Gather { ids: table, table: ids };
    }),
    ("another name for an output", OptLevel::O1, |plan| {
        let buffer = plan.buffers.iter_mut().find(|buffer| buffer.place == Place::Output).expect("an output");
        buffer.name = "wrod".into();
    }),
    ("another longest segment", OptLevel::O1, |plan| plan.tables[0].longest -= 1),
    ("another number of empty segments", OptLevel::O1, |plan| plan.tables[0].empty += 1),
    ("another hash", OptLevel::O1, |plan| plan.tables[0].hash.0 ^= 1),
    ("another alignment", OptLevel::O1, |plan| plan.align = 48),
    ("another cost", OptLevel::O1, |plan| plan.steps[0].cost.read += 1),
    ("other totals", OptLevel::O1, |plan| plan.totals.copied_bytes += 1),
    ("another version", OptLevel::O1, |plan| plan.version += 1),
    ("steps in another order", OptLevel::O0, |plan| plan.steps.reverse()),
    ("a step left out", OptLevel::O0, |plan| drop(plan.steps.remove(1))),
    ("lives cut short, bytes shared", OptLevel::O0, |plan| {
        for buffer in &mut plan.buffers {
            if let Place::Arena { offset, last, .. } = &mut buffer.place {
                *offset = 0;
                *last = StepId(0);
            }
        }
    }),
    ("all bytes shared", OptLevel::O0, |plan| {
        for buffer in &mut plan.buffers {
            if let Place::Arena { offset, .. } = &mut buffer.place {
                *offset = 0;
            }
        }
    }),
    ("segments packed the other way", OptLevel::O0, |plan| {
        let view = copy_mut(plan, |copy| matches!(copy.what, CopyKind::Segments { .. })).write;
        if let ViewLayout::Packed { order, .. } = &mut plan.views[view.index()].layout {
            *order = Order::transposed(*order);
        }
        // The fold that reads them sees another view of the same buffer, in the old order.
        let read = ViewId::new(plan.views.len());
        let mut old = plan.views[view.index()];
        if let ViewLayout::Packed { order, .. } = &mut old.layout {
            *order = Order::transposed(*order);
        }
        plan.views.push(old);
        for step in &mut plan.steps {
            if let StepKind::Fold(Fold { load: Load::View { values }, .. }) = &mut step.kind
                && *values == view
            {
                *values = read;
            }
        }
    }),
    ("segments of another table", OptLevel::O0, |plan| {
        copy_mut(plan, |copy| matches!(copy.what, CopyKind::Segments { table: TableId(1) })).what =
            CopyKind::Segments { table: TableId(0) };
    }),
    ("columns in another order", OptLevel::O0, |plan| copy_mut(plan, |copy| copy.what == CopyKind::Columns).read.reverse()),
    ("rows of another buffer", OptLevel::O0, |plan| {
        let reads: Vec<ViewId> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.kind {
                StepKind::Copy(copy) if copy.what == CopyKind::Rows => Some(copy.read[0]),
                StepKind::Copy(_) | StepKind::Fold(_) | StepKind::Encode(_) => None,
            })
            .collect();
        copy_mut(plan, |copy| copy.what == CopyKind::Rows).read[0] = reads[1];
    }),
    ("a composed table of other parts", OptLevel::O2, |plan| {
        for table in &mut plan.tables {
            if let TableSource::Compose { lower, upper } = &mut table.source {
                std::mem::swap(lower, upper);
            }
        }
    }),
    ("a composed table that stands alone", OptLevel::O2, |plan| {
        for table in &mut plan.tables {
            table.source = TableSource::Bound;
        }
    }),
];

#[test]
fn every_corruption_is_refused() {
    let mut accepted = Vec::new();
    for (name, opt, corrupt) in CORRUPTIONS {
        let mut plan = plan(*opt);
        let good = plan.clone();
        corrupt(&mut plan);
        assert_ne!(plan, good, "{name}: nothing was corrupted");
        match check::replay(&plan, &graph_for(*opt)) {
            Ok(()) => accepted.push(name),
            Err(error) => println!("{name}: {error}"),
        }
    }
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
}

/// A composed table counts as two folds only where nothing but brackets changes by it.
#[test]
fn plans_that_lose_the_rounding_between_two_sums_are_refused() {
    use DType::{BF16, F16, F32, F64};
    let graph = |reducer: Reducer, rows: DType, levels: DType| {
        let mut b = GraphBuilder::new();
        let rows = b.input("rows", rows, 4, 2).unwrap();
        let leaf = b.table("leaf", &Segments::from_lengths(&[2u64, 2]).unwrap()).unwrap();
        let leaves = b.fold(rows, leaf, Reduce::new(reducer.clone()).dtype(levels)).unwrap();
        let tree = b.table("tree", &Segments::from_lengths(&[2u64]).unwrap()).unwrap();
        let trees = b.fold(leaves, tree, Reduce::new(reducer).dtype(levels)).unwrap();
        b.output("tree", trees).unwrap();
        b.finish().unwrap()
    };
    for (rows, levels, holds) in
        [(F32, F32, true), (BF16, F32, true), (F64, F64, true), (F16, F16, false), (F64, F32, false), (F32, F64, false)]
    {
        // The plan of maxima is one fold by a composed table; the same plan with sums in it is what the pass refuses to make.
        let mut plan = Planner::new(Target::new("test")).opt(OptLevel::O2).plan(graph(Reducer::Max, rows, levels)).unwrap().plan;
        assert_eq!(plan.tables.len(), 3, "{plan}");
        check::replay(&plan, &graph(Reducer::Max, rows, levels)).unwrap();
        for reduction in &mut fold_mut(&mut plan, 0).stages[0].reductions {
            reduction.reducer = Reducer::Sum;
            reduction.on_empty = OnEmpty::Zero;
        }
        let replayed = check::replay(&plan, &graph(Reducer::Sum, rows, levels));
        assert_eq!(replayed.is_ok(), holds, "{rows} as {levels}: {replayed:?}");
    }
}

/// Parts without a single feature are parts like any other, also where passes write them in place.
#[test]
fn concats_of_nothing_hold() {
    for widths in [[0u64, 2], [2, 0], [0, 0]] {
        let mut b = GraphBuilder::new();
        let table = b.table("leaf", &Segments::from_lengths(&[2u64, 2]).unwrap()).unwrap();
        let parts = [("left", widths[0]), ("right", widths[1])].map(|(name, features)| {
            let rows = b.input(name, DType::F32, 4, features).unwrap();
            b.fold(rows, table, Reduce::new(Reducer::Sum)).unwrap()
        });
        let all = b.concat(&parts).unwrap();
        b.output("all", all).unwrap();
        let graph = b.finish().unwrap();
        for opt in OptLevel::ALL {
            let plan = Planner::new(Target::new("test")).opt(opt).plan(graph.clone()).unwrap().plan;
            check::replay(&plan, &graph).unwrap_or_else(|error| panic!("{widths:?} at {opt:?}: {error}\n{plan}"));
        }
    }
}

//! The suite is tested by backends that are wrong in one small way each: every one has to be caught, by the group that is there for it.

#[path = "catches/brackets.rs"]
mod brackets;

use levelfold::backend::{Backend, Bindings, Executable, RunReport, Target};
use levelfold::ids::ViewId;
use levelfold::plan::{CopyKind, Fold, Place, Plan, Reduction, StepKind, View, ViewLayout};
use levelfold::tensor::TensorViewMut;
use levelfold::{DType, Error, ErrorCode, OnEmpty, Reducer, Result};
use levelfold_conformance::oracle::evaluate;
use levelfold_conformance::{Group, always};
use levelfold_reference::ReferenceBackend;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What a backend does wrong.
#[derive(Clone)]
enum Fault {
    /// Nothing: the control.
    None,
    /// Runs another plan.
    Plan(fn(&mut Plan)),
    /// Spoils an output that was right.
    Output(fn(&mut TensorViewMut<'_>)),
    /// Reports something else.
    Report(fn(&mut RunReport)),
    /// Gives another error than it should.
    Error(fn(Error) -> Error),
    /// Panics instead of an error.
    Panics,
    /// Remembers the first results, and gives them again.
    Stale,
    /// Cannot be run again after an error.
    Sulks,
    /// Gives up where two of its executables run at once.
    Alone(Arc<AtomicUsize>),
}

struct Wrong {
    right: ReferenceBackend,
    fault: Fault,
}

impl Backend for Wrong {
    fn target(&self) -> &Target {
        self.right.target()
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        let mut plan = Plan::clone(plan);
        if let Fault::Plan(change) = self.fault {
            change(&mut plan);
        }
        let right = self.right.compile(&Arc::new(plan))?;
        Ok(Box::new(WrongExecutable { right, fault: self.fault.clone(), report: RunReport::default(), runs: 0, failed: false }))
    }
}

struct WrongExecutable {
    right: Box<dyn Executable>,
    fault: Fault,
    report: RunReport,
    runs: usize,
    failed: bool,
}

impl Executable for WrongExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        self.runs += 1;
        match &self.fault {
            Fault::Stale if self.runs > 1 => return Ok(&self.report),
            Fault::Sulks if self.failed => return Err(Error::new(ErrorCode::Internal, "not again")),
            Fault::Alone(running) => {
                if running.fetch_add(1, Ordering::SeqCst) > 0 {
                    return Err(Error::new(ErrorCode::Internal, "two at once"));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Fault::None
            | Fault::Plan(_)
            | Fault::Output(_)
            | Fault::Report(_)
            | Fault::Error(_)
            | Fault::Panics
            | Fault::Stale
            | Fault::Sulks => {}
        }
        let result = self.right.run(bindings).cloned();
        if let Fault::Alone(running) = &self.fault {
            running.fetch_sub(1, Ordering::SeqCst);
        }
        self.report = match (result, &self.fault) {
            (Err(error), Fault::Panics) => panic!("{error}"),
            (Err(error), Fault::Error(change)) => return Err(change(error)),
            (Err(error), _) => {
                self.failed = true;
                return Err(error);
            }
            (Ok(report), _) => report,
        };
        if let Fault::Output(spoil) = self.fault {
            bindings.outputs_mut().for_each(|(_, output)| spoil(output));
        }
        if let Fault::Report(change) = self.fault {
            change(&mut self.report);
        }
        Ok(&self.report)
    }

    fn scratch_bytes(&self) -> u64 {
        0
    }
}

fn passes(group: Group, fault: &Fault) -> bool {
    let make = always(|_| Wrong { right: ReferenceBackend::new().with_registry(levelfold_conformance::registry()), fault: fault.clone() });
    catch_unwind(AssertUnwindSafe(|| group.run(&make, &[]))).is_ok()
}

fn caught(group: Group, what: &str, fault: Fault) {
    assert!(!passes(group, &fault), "{group:?} does not catch a backend that {what}");
}

fn reductions(plan: &mut Plan, change: impl Fn(&mut Reduction)) {
    for fold in folds(plan) {
        fold.stages.iter_mut().flat_map(|stage| &mut stage.reductions).for_each(&change);
    }
}

fn folds(plan: &mut Plan) -> impl Iterator<Item = &mut Fold> {
    plan.steps.iter_mut().filter_map(|step| match &mut step.kind {
        StepKind::Fold(fold) => Some(fold),
        StepKind::Copy(_) | StepKind::Encode(_) => None,
    })
}

#[test]
fn a_right_backend_passes() {
    for group in [Group::EmptySegments, Group::Registered, Group::Siblings, Group::BadBindings, Group::SideBySide] {
        assert!(passes(group, &Fault::None), "{group:?}");
    }
}

#[test]
fn wrong_folds_are_caught() {
    caught(
        Group::EmptySegments,
        "gives zero for every empty segment",
        Fault::Plan(|plan| reductions(plan, |r| r.on_empty = OnEmpty::Zero)),
    );
    caught(Group::Weights, "forgets weights", Fault::Plan(|plan| reductions(plan, |r| r.weights = None)));
    let sums_means = |plan: &mut Plan| {
        reductions(plan, |r| {
            if r.reducer == Reducer::Mean {
                r.reducer = Reducer::Sum;
            }
        });
    };
    caught(Group::Lengths, "sums for a mean", Fault::Plan(sums_means));
    caught(
        Group::Siblings,
        "feeds every stage from the first reduction",
        Fault::Plan(|plan| {
            folds(plan).flat_map(|fold| &mut fold.stages).for_each(|stage| stage.feed = 0);
        }),
    );
    caught(
        Group::Siblings,
        "exchanges the results of siblings",
        Fault::Plan(|plan| {
            for stage in folds(plan).flat_map(|fold| &mut fold.stages) {
                let mut writes: Vec<Option<ViewId>> = stage.reductions.iter().map(|r| r.write).collect();
                let types: Vec<DType> = stage.reductions.iter().map(|r| r.dtype).collect();
                if types.iter().all(|dtype| *dtype == types[0]) && writes.iter().all(Option::is_some) {
                    writes.reverse();
                    stage.reductions.iter_mut().zip(writes).for_each(|(r, write)| r.write = write);
                }
            }
        }),
    );
}

#[test]
fn wrong_memory_is_caught() {
    let first_columns = |plan: &mut Plan| {
        for index in 0..plan.views.len() {
            let View { first_column, .. } = &mut plan.views[index];
            *first_column = 0;
        }
    };
    caught(Group::Siblings, "writes every part of a concat to the first columns", Fault::Plan(first_columns));
    let one_order = |plan: &mut Plan| {
        let packed_reads: Vec<ViewId> =
            plan.steps.iter().filter(|step| matches!(step.kind, StepKind::Fold(_))).flat_map(|step| step.reads()).collect();
        for view in packed_reads {
            let mut turned = plan.views[view.index()];
            if let ViewLayout::Packed { order, .. } = &mut turned.layout {
                *order = order.transposed();
                plan.views.push(turned);
                let turned = ViewId::new(plan.views.len() - 1);
                for fold in folds(plan) {
                    if let levelfold::plan::Load::View { values } = &mut fold.load
                        && *values == view
                    {
                        *values = turned;
                    }
                }
            }
        }
    };
    caught(Group::Literal, "reads packed segments in the other order", Fault::Plan(one_order));
    caught(
        Group::Levels,
        "puts every arena buffer at the start",
        Fault::Plan(|plan| {
            for buffer in &mut plan.buffers {
                if let Place::Arena { offset, .. } = &mut buffer.place {
                    *offset = 0;
                }
            }
        }),
    );
    let last_copy = |plan: &mut Plan| {
        let is_rows = |kind: &StepKind| matches!(kind, StepKind::Copy(copy) if copy.what == CopyKind::Rows);
        if plan.steps.last().is_some_and(|step| is_rows(&step.kind)) {
            plan.steps.pop();
        }
    };
    caught(Group::Literal, "leaves the last copy out", Fault::Plan(last_copy));
    caught(Group::Lengths, "gives the first results again", Fault::Stale);
}

/// Changes the first element of an f32 output.
fn first_element(output: &mut TensorViewMut<'_>, change: impl Fn(&mut f32)) {
    let layout = output.layout();
    if layout.shape.contains(&0) {
        return;
    }
    if let Some(elements) = output.elements_mut::<f32>() {
        change(&mut elements[layout.position(0, 0)]);
    }
}

#[test]
fn one_wrong_bit_is_caught() {
    caught(Group::Lengths, "is one bit off", Fault::Output(|output| first_element(output, |x| *x = f32::from_bits(x.to_bits() ^ 1))));
    caught(Group::SpecialValues, "loses the sign of zero", Fault::Output(|output| first_element(output, |x| *x += 0.0)));
    caught(
        Group::SpecialValues,
        "gives another NaN",
        Fault::Output(|output| {
            first_element(output, |x| *x = if x.is_nan() { f32::from_bits(0xffc0_0000) } else { *x });
        }),
    );
    caught(
        Group::SpecialValues,
        "flushes subnormal numbers",
        Fault::Output(|output| {
            first_element(output, |x| *x = if x.is_subnormal() { 0.0 } else { *x });
        }),
    );
    caught(
        Group::Layouts,
        "writes between the elements",
        Fault::Output(|output| {
            let layout = output.layout();
            if let Some(elements) = output.elements_mut::<f32>()
                && layout.shape == [2, 5]
                && layout.strides[1] == 2
            {
                elements[layout.position(0, 0) + 1] = 0.0;
            }
        }),
    );
}

#[test]
fn wrong_reports_and_errors_are_caught() {
    caught(Group::EmptySegments, "counts a byte too many", Fault::Report(|report| report.steps.iter_mut().for_each(|step| step.read += 1)));
    let one_more = Fault::Report(|report| report.steps.iter_mut().for_each(|step| step.flops = step.flops.map(|flops| flops + 1)));
    caught(Group::EmptySegments, "counts an operation too many", one_more);
    caught(Group::EmptySegments, "reports a step too few", Fault::Report(|report| report.steps.truncate(1)));
    caught(
        Group::BadBindings,
        "gives the same code for everything",
        Fault::Error(|error| Error::new(ErrorCode::NotBound, error.to_string())),
    );
    caught(
        Group::BadValues,
        "gives the same code for everything",
        Fault::Error(|error| Error::new(ErrorCode::NotBound, error.to_string())),
    );
    caught(Group::BadBindings, "panics", Fault::Panics);
    caught(Group::BadValues, "cannot be run again after an error", Fault::Sulks);
    caught(Group::SideBySide, "runs one executable at a time only", Fault::Alone(Arc::default()));
}

/// Adds up f32 columns in its own way, and takes nothing else.
struct Adds {
    target: Target,
    add: fn(&[f32]) -> f32,
}

impl Adds {
    fn new(add: fn(&[f32]) -> f32) -> Self {
        let supports = |kind: &StepKind| match kind {
            StepKind::Fold(fold) if matches!((fold.load, &fold.stages[..]), (levelfold::plan::Load::View { .. }, [stage]) if stage.reductions.len() == 1 && stage.reductions[0].reducer == Reducer::Sum && stage.reductions[0].weights.is_none() && stage.reductions[0].dtype == DType::F32) => {
                Ok(())
            }
            StepKind::Fold(_) | StepKind::Copy(_) | StepKind::Encode(_) => Err("it only adds".to_string()),
        };
        Adds { target: Target { supports, ..Target::new("adds") }, add }
    }
}

impl Backend for Adds {
    fn target(&self) -> &Target {
        &self.target
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        Ok(Box::new(AddsExecutable {
            plan: Arc::clone(plan),
            tables: levelfold::backend::TableSet::new(),
            report: RunReport::for_plan(plan),
            add: self.add,
        }))
    }
}

struct AddsExecutable {
    plan: Arc<Plan>,
    tables: levelfold::backend::TableSet,
    report: RunReport,
    add: fn(&[f32]) -> f32,
}

impl Executable for AddsExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        self.tables.check(&self.plan, bindings)?;
        let StepKind::Fold(fold) = &self.plan.steps[0].kind else { return Ok(&self.report) };
        let x = bindings.find_input("x").expect("checked");
        let y = bindings.find_output("y").expect("checked");
        let layout = y.layout();
        for (segment, range) in self.tables.get(fold.stages[0].table).ranges().enumerate() {
            for feature in 0..x.shape()[1] {
                let rows = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                let column: Vec<f32> = rows.map(|row| x.get(row, feature)).collect();
                y.elements_mut::<f32>().expect("checked")[layout.position(segment, feature)] = (self.add)(&column);
            }
        }
        Ok(&self.report)
    }

    fn scratch_bytes(&self) -> u64 {
        0
    }
}

fn adds(add: fn(&[f32]) -> f32) -> bool {
    catch_unwind(AssertUnwindSafe(|| Group::Lengths.run(&always(|_| Adds::new(add)), &[]))).is_ok()
}

/// Blocks of `BLOCK` rows in f32, then pairs in f64.
fn tree<const BLOCK: usize>(column: &[f32]) -> f32 {
    let mut level: Vec<f64> = column.chunks(BLOCK).map(|rows| f64::from(rows.iter().fold(-0.0f32, |sum, x| sum + x))).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| pair.iter().fold(-0.0, |sum, x| sum + x)).collect();
    }
    level[0] as f32
}

#[test]
fn another_bracketing_is_caught() {
    assert!(adds(tree::<32>), "the contract's own tree");
    assert!(!adds(tree::<16>), "blocks of 16");
    assert!(!adds(tree::<64>), "blocks of 64");
    assert!(!adds(|column| column.iter().fold(-0.0, |sum, x| sum + x)), "left to right");
    assert!(!adds(|column| column.iter().map(|&x| f64::from(x)).sum::<f64>() as f32), "left to right in f64");
    let f32_pairs = |column: &[f32]| {
        let mut level: Vec<f32> = column.chunks(32).map(|rows| rows.iter().fold(-0.0f32, |sum, x| sum + x)).collect();
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| pair.iter().fold(-0.0, |sum, x| sum + x)).collect();
        }
        level[0]
    };
    assert!(!adds(f32_pairs), "pairs in f32");
}

#[test]
fn the_oracle_promises_something_nearly_everywhere() {
    let (mut all, mut anything, mut exact) = (0usize, 0usize, 0usize);
    for group in Group::ALL.into_iter().filter(|group| !matches!(group, Group::Large | Group::SpecialValues | Group::Registered)) {
        // Of custom reducers it promises nothing: they are held to the reference's bits.
        for case in group.cases().into_iter().filter(|case| !case.graph.to_string().contains("custom(")) {
            for numbers in evaluate(&case.graph, &case.inputs(0)).values() {
                all += numbers.values.len();
                anything += numbers.values.iter().filter(|number| number.err.is_infinite()).count();
                exact += numbers.values.iter().filter(|number| number.err == 0.0).count();
            }
        }
    }
    println!("{all} numbers: {exact} exact, anything goes for {anything}");
    assert!(all > 100_000, "{all}");
    assert!(anything * 20 < all, "{anything} of {all} numbers may be anything");
}

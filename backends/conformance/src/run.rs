//! Runs a case on a backend, and holds every bit against the reference and every number against the oracle.
//!
//! What the literal program gives on the reference, poisoned, is what is wanted. It is held against the [oracle](crate::oracle) first. Then the
//! backend runs the case unfused and at each level of optimization, three times each with one executable: data, other data, the first
//! data again, into outputs that lie differently each time. Each result must have the same bits, leave what lies between its elements
//! alone, and report the bytes that the plan counts, if it reports bytes at all. A plan of `-O2` that brackets sums differently is wanted to
//! give what the reference gives for that same plan, inside the bound that the oracle finds for its graph.

use crate::Config;
use crate::case::Case;
use crate::oracle::{Numbers, evaluate};
use crate::tensor::{Arrangement, Tensor, shown};
use levelfold::backend::{Backend, Bindings, Executable, RunReport};
use levelfold::graph::{LevelGraph, ValueType};
use levelfold::optimize::{Decision, Observer, Planner};
use levelfold::plan::Plan;
use levelfold::{ErrorCode, OptLevel, Result, Segments};
use levelfold_reference::ReferenceBackend;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Inputs or outputs, by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The byte that the arena is filled with: as f32, f16 and bf16 small negative numbers, and no small id.
pub const POISON: u8 = 0xa5;

/// A case, and what is wanted of it.
pub struct Wanted<'c> {
    case: &'c Case,
    /// For each set of data: the inputs, and what the literal program makes of them.
    data: [(Tensors, Tensors); 2],
}

impl<'c> Wanted<'c> {
    /// What the reference gives for a case, once it was held against the oracle and against the costs of its plan.
    ///
    /// # Errors
    /// What differs, in words.
    pub fn of(case: &'c Case) -> Result<Self, String> {
        let reference = ReferenceBackend::new().with_poison(POISON).with_registry(crate::registry());
        let planned = plan(case, &reference, OptLevel::O0).map_err(|error| case.failed("reference", &error.to_string()))?;
        let run = |which: u64| {
            let inputs = case.inputs(which);
            let outputs = run_once(&reference, &planned, case, &inputs).map_err(|error| case.failed("reference -O0", &error))?;
            let bounds = evaluate(&case.graph, &inputs);
            inside(&bounds, &outputs).map_err(|error| case.failed("reference -O0, against the oracle", &error))?;
            Ok::<_, String>((inputs, outputs))
        };
        Ok(Wanted { case, data: [run(0)?, run(1)?] })
    }

    /// Runs the case on a backend in every way. `Ok(false)` where the backend says that it does not run such steps.
    ///
    /// # Errors
    /// What differs, in words.
    pub fn hold_against(&self, backend: &dyn Backend, config: &Config) -> Result<bool, String> {
        let mut seen: Vec<Plan> = Vec::new();
        let mut any = false;
        for opt in OptLevel::ALL {
            let at = format!("{config} -{opt}");
            let planned = match plan(self.case, backend, opt) {
                Ok(planned) => planned,
                Err(error) if error.code() == ErrorCode::Unsupported => continue,
                Err(error) => return Err(self.case.failed(&at, &error.to_string())),
            };
            any = true;
            if seen.contains(&planned.plan) {
                continue;
            }
            self.run(backend, &planned, opt).map_err(|error| self.case.failed(&at, &error))?;
            seen.push(planned.plan);
        }
        Ok(any)
    }

    fn run(&self, backend: &dyn Backend, planned: &Planned, opt: OptLevel) -> Result<(), String> {
        let reassociated = match opt {
            OptLevel::O0 | OptLevel::O1 => None,
            OptLevel::O2 => Some(self.of_plan(planned)?),
        };
        let plan = Arc::new(planned.plan.clone());
        let mut executable = backend.compile(&plan).map_err(|error| format!("compile: {error}"))?;
        for (round, which) in [0, 1, 0].into_iter().enumerate() {
            let (inputs, literal) = &self.data[which];
            let wanted = reassociated.as_ref().map_or(literal, |outputs| &outputs[which]);
            let mut outputs = blank_outputs(&self.case.graph, round);
            let report = run(&mut *executable, &planned.tables, inputs, &mut outputs).map_err(|error| format!("run {round}: {error}"))?;
            same_bits(wanted, &outputs).map_err(|error| format!("run {round}: {error}"))?;
            as_planned(&plan, &report).map_err(|error| format!("run {round}: {error}"))?;
        }
        Ok(())
    }

    /// What the reference gives for a plan, inside the bound of the graph that the plan was made from.
    fn of_plan(&self, planned: &Planned) -> Result<[Tensors; 2], String> {
        let reference = ReferenceBackend::new().with_poison(POISON).with_registry(crate::registry());
        let plan = Plan { target: reference.target().name.clone(), ..planned.plan.clone() };
        let planned = Planned { plan, graph: planned.graph.clone(), tables: planned.tables.clone() };
        let run = |which: usize| {
            let outputs = run_once(&reference, &planned, self.case, &self.data[which].0)?;
            inside(&evaluate(&planned.graph, &self.data[which].0), &outputs)?;
            Ok::<_, String>(outputs)
        };
        Ok([run(0).map_err(|error| format!("on the reference: {error}"))?, run(1).map_err(|error| format!("on the reference: {error}"))?])
    }
}

/// A plan, the graph that it was lowered from, and the segments to bind.
pub struct Planned {
    /// The plan, verified and replayed.
    pub plan: Plan,
    /// The graph after the last pass.
    pub graph: LevelGraph,
    /// Every table of the literal graph.
    pub tables: Vec<Segments>,
}

/// Keeps the graph after the last pass.
struct Last(LevelGraph);

impl Observer for Last {
    fn after(&mut self, _pass: &'static str, graph: &LevelGraph, _decisions: &[Decision]) {
        self.0 = graph.clone();
    }
}

/// Plans a case for a backend, verifies the plan, and replays it against the literal graph.
///
/// # Errors
/// Those of the planner, and of [`replay`](levelfold::check::replay).
pub fn plan(case: &Case, backend: &dyn Backend, opt: OptLevel) -> Result<Planned> {
    let mut last = Last(case.graph.clone());
    let plan = Planner::new(backend.target().clone()).opt(opt).plan_observed(case.graph.clone(), &mut last)?.plan;
    levelfold::check::replay(&plan, &case.graph)?;
    Ok(Planned { plan, graph: last.0, tables: case.graph.tables().iter().map(|table| table.segments.clone()).collect() })
}

/// The outputs of a graph, blank, each round differently arranged.
pub fn blank_outputs(graph: &LevelGraph, round: usize) -> Tensors {
    let blank = |(index, output): (usize, &levelfold::graph::Output)| {
        let ValueType::Rows { rows, features, dtype } = *graph.value_type(output.value) else { panic!("an output is rows") };
        let size = |count: u64| usize::try_from(count).expect("a small case");
        let arrangements = Arrangement::OUTPUTS;
        let arrangement = if round == 0 { Arrangement::RowMajor } else { arrangements[(index + 2 * round) % arrangements.len()] };
        (output.name.to_string(), Tensor::blank(dtype, [size(rows), size(features)], arrangement))
    };
    graph.outputs().iter().enumerate().map(blank).collect()
}

/// Binds everything and runs.
///
/// # Errors
/// Those of the backend.
pub fn run(executable: &mut dyn Executable, tables: &[Segments], inputs: &Tensors, outputs: &mut Tensors) -> Result<RunReport> {
    let mut bindings = Bindings::new();
    for (name, tensor) in inputs {
        bindings.bind_input(name, tensor.view());
    }
    for (name, tensor) in outputs {
        bindings.bind_output(name, tensor.view_mut());
    }
    for table in tables {
        bindings.bind_table(table);
    }
    executable.run(&mut bindings).cloned()
}

/// One run with a fresh executable of the reference.
fn run_once(reference: &ReferenceBackend, planned: &Planned, case: &Case, inputs: &Tensors) -> Result<Tensors, String> {
    let plan = Arc::new(planned.plan.clone());
    let mut executable = reference.compile(&plan).map_err(|error| error.to_string())?;
    let mut outputs = blank_outputs(&case.graph, 0);
    let report = run(&mut *executable, &planned.tables, inputs, &mut outputs).map_err(|error| error.to_string())?;
    let reported = report.steps.iter().any(|step| step.read > 0 || step.written > 0);
    let costs = plan.steps.iter().any(|step| step.cost.read > 0 || step.cost.written > 0);
    if costs && !reported {
        return Err("the reference counted nothing".into());
    }
    as_planned(&plan, &report)?;
    Ok(outputs)
}

/// Whether two sets of outputs have the same bits, and nothing was written between them.
///
/// # Errors
/// The first element that differs.
pub fn same_bits(wanted: &Tensors, got: &Tensors) -> Result<(), String> {
    for (name, wanted) in wanted {
        let Some(got) = got.get(name) else { return Err(format!("there is no output `{name}`")) };
        let mut differ = 0;
        let mut first = None;
        let [rows, features] = wanted.shape();
        for (row, feature) in (0..rows).flat_map(|row| (0..features).map(move |feature| (row, feature))) {
            if wanted.bits(row, feature) != got.bits(row, feature) {
                differ += 1;
                first.get_or_insert((row, feature));
            }
        }
        if let Some((row, feature)) = first {
            let (dtype, of) = (wanted.dtype(), rows * features);
            let (wanted, got) = (shown(dtype, wanted.bits(row, feature)), shown(dtype, got.bits(row, feature)));
            return Err(format!("`{name}`[{row}, {feature}] is {got}, wanted is {wanted}; {differ} of {of} {dtype} differ"));
        }
        if !got.gaps_are_intact() {
            return Err(format!("something was written between the elements of `{name}`"));
        }
    }
    Ok(())
}

/// Whether outputs are inside the bounds of the oracle.
fn inside(bounds: &BTreeMap<String, Rc<Numbers>>, outputs: &Tensors) -> Result<(), String> {
    for (name, tensor) in outputs {
        let bounds = &bounds[name];
        let [rows, features] = tensor.shape();
        for (row, feature) in (0..rows).flat_map(|row| (0..features).map(move |feature| (row, feature))) {
            let (bound, got) = (bounds.at(row, feature), tensor.number(row, feature));
            if !bound.allows(got) {
                let got = shown(tensor.dtype(), tensor.bits(row, feature));
                return Err(format!(
                    "`{name}`[{row}, {feature}] is {got}, exact is {:?} + {:e}, allowed {:e}",
                    bound.hi, bound.lo, bound.err
                ));
            }
        }
    }
    Ok(())
}

/// Whether a report counts the bytes, and the operations, that the plan does. A backend need not count; one that counts anything counts right.
///
/// # Errors
/// The first step that differs.
pub fn as_planned(plan: &Plan, report: &RunReport) -> Result<(), String> {
    if report.steps.len() != plan.steps.len() {
        return Err(format!("the report has {} steps, the plan {}", report.steps.len(), plan.steps.len()));
    }
    if report.steps.iter().all(|step| step.read == 0 && step.written == 0) {
        return Ok(());
    }
    for (index, (step, counted)) in plan.steps.iter().zip(&report.steps).enumerate() {
        let (planned, measured) = ((step.cost.read, step.cost.written), (counted.read, counted.written));
        if planned != measured {
            return Err(format!("step {index} read and wrote {measured:?} bytes, planned were {planned:?}: {:?}", step.kind));
        }
        if let Some(flops) = counted.flops.filter(|flops| *flops != step.cost.flops) {
            return Err(format!("step {index} did {flops} operations, planned were {}: {:?}", step.cost.flops, step.kind));
        }
    }
    Ok(())
}

impl Case {
    /// A failure, in words that lead back to it.
    pub fn failed(&self, at: &str, message: &str) -> String {
        format!("case `{}`, seed {:#x}, {at}: {message}", self.name, self.seed)
    }
}

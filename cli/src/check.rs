//! `levelfold check`: is this spec, or this plan, in order?

use crate::backends::BackendName;
use crate::columns::Columns;
use crate::execute::{Input, bind};
use crate::failure::{CliResult, Failure};
use crate::input::{BIND_HELP, Bind};
use crate::memory::output_tensors;
use crate::spec_file::{Document, Loaded, read_document, read_spec};
use crate::ui::Ui;
use levelfold::backend::TableSet;
use levelfold::graph::LevelGraph;
use levelfold::optimize::Planner;
use levelfold::spec::{SPEC_SCHEMA, SegmentSource};
use levelfold::{Error, ErrorCode, Hierarchy, Level, OptLevel, Plan, Reducer, Segments};
use std::path::PathBuf;

/// Checks a spec or a plan without running it, and reports everything that is wrong
///
/// A spec is read, its bindings are opened and held against it, and its plans are made and replayed. A plan is held against its own rules,
/// and with --spec replayed against what the spec asks for: whoever wrote it, a plan that passes computes that, and nothing else.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold check docs/examples/text.json
  levelfold check docs/examples/bound.json --bind word:lengths=words.npy --bind char=chars.npy
  levelfold check text.plan.json --spec docs/examples/text.json
  levelfold check --schema > levelfold.schema.json")]
pub(crate) struct CheckArgs {
    /// A spec or a plan (JSON; `-` is stdin)
    #[arg(value_name = "FILE", required_unless_present = "schema")]
    file: Option<PathBuf>,

    /// The spec that a plan must compute
    #[arg(long, value_name = "SPEC.json")]
    spec: Option<PathBuf>,

    #[arg(long, value_name = "NAME[:FORM]=FILE[:TENSOR]", help = BIND_HELP)]
    bind: Vec<Bind>,

    /// Prints the JSON Schema of specs, and checks nothing
    #[arg(long, conflicts_with_all = ["file", "spec", "bind"])]
    schema: bool,
}

pub(crate) fn run(args: CheckArgs, ui: &Ui) -> CliResult {
    let Some(file) = args.file.as_deref().filter(|_| !args.schema) else {
        return ui.print(SPEC_SCHEMA);
    };
    match (read_document(file)?, args.spec) {
        (Document::Spec(_), Some(_)) => Err(Failure::Usage(format!("--spec goes with a plan, and {} is a spec", file.display()))),
        (Document::Spec(hierarchy), None) => check_spec(hierarchy, &args.bind, ui),
        (Document::Plan(plan), None) if args.bind.is_empty() => {
            plan.verify()?;
            ui.print(format_args!("the plan keeps its rules; with --spec it is replayed too\n{}", plan.summary()))
        }
        (Document::Plan(_), None) => Err(Failure::Usage("--bind goes with a spec, or with a plan and --spec".into())),
        (Document::Plan(plan), Some(spec)) => {
            let loaded = Loaded::new(read_spec(&spec)?, &args.bind)?;
            levelfold::check::replay(&plan, &loaded.hierarchy.graph()?)?;
            check_inputs(&plan, &loaded)?;
            ui.print(format_args!("the plan computes what the spec asks for\n{}", plan.summary()))
        }
    }
}

/// The rows that laws of custom reducers are tried on.
const LAW_SEED: u64 = 1;

fn check_spec(hierarchy: Hierarchy, binds: &[Bind], ui: &Ui) -> CliResult {
    let mut broken = Vec::new();
    for level in &hierarchy.levels {
        for reducer in &level.reduce {
            if let Reducer::Custom(custom) = reducer {
                match custom.check_laws(LAW_SEED) {
                    Err(error) => broken.push(error.at_level(&*level.name)),
                    Ok(()) => {
                        if let Err(error) = custom.check_special_rows(LAW_SEED) {
                            ui.warn(format_args!(
                                "{}: {}; rows of NaN or infinity give what depends on where blocks end",
                                level.name,
                                error.message()
                            ));
                        }
                    }
                }
            }
        }
    }
    match broken.len() {
        0 => {}
        1 => return Err(broken.remove(0).into()),
        count => return Err(Error::collected(ErrorCode::ReducerLaw, format!("{count} reducers break laws"), broken).into()),
    }
    let loaded = Loaded::new(hierarchy, binds)?;
    let unbound: Vec<&str> = loaded.hierarchy.unbound().collect();
    if !unbound.is_empty() {
        return ui.print(format_args!(
            "the spec is well formed; bind the segments of {} to check the rest\n{}",
            unbound.join(", "),
            describe(&loaded.hierarchy)
        ));
    }
    let graph = loaded.hierarchy.graph()?;
    let mut plans = String::new();
    for opt in OptLevel::ALL {
        let plan = plan_of(graph.clone(), opt)?;
        levelfold::check::replay(&plan, &graph)?;
        plans += &format!("-{opt}  {}\n", plan.summary());
    }
    check_inputs(&plan_of(graph, OptLevel::O0)?, &loaded)?;
    ui.print(format_args!("the spec is in order\n{}\n{plans}", describe(&loaded.hierarchy)))
}

fn plan_of(graph: LevelGraph, opt: OptLevel) -> Result<Plan, Error> {
    Ok(Planner::new(BackendName::Cpu.target()?).opt(opt).plan(graph)?.plan)
}

/// Holds bound files against the inputs of a plan: types and shapes of each, and where all are there, ids and weights too.
fn check_inputs(plan: &Plan, loaded: &Loaded) -> Result<(), Error> {
    let mut errors = Vec::new();
    let mut views: Vec<Input<'_>> = Vec::new();
    for (name, file) in &loaded.inputs {
        let view = match file.view() {
            Ok(view) => view,
            Err(error) => {
                errors.push(error.at_level(name));
                continue;
            }
        };
        views.push((name, view));
        let Some((_, buffer)) = plan.inputs().find(|(_, buffer)| *buffer.name == **name) else { continue };
        let path = file.path().display();
        if view.dtype() != buffer.dtype {
            errors.push(
                Error::new(ErrorCode::DType, format!("{path} holds {}, but the spec says {}", view.dtype(), buffer.dtype)).at_level(name),
            );
        }
        let found = view.shape().map(|axis| u64::try_from(axis).unwrap_or(u64::MAX));
        if found != [buffer.rows, buffer.features] {
            let wanted = [buffer.rows, buffer.features];
            errors.push(Error::new(ErrorCode::Shape, format!("{path} has shape {found:?}, but the spec needs {wanted:?}")).at_level(name));
        }
    }
    match errors.len() {
        0 => {}
        1 => return Err(errors.remove(0)),
        count => return Err(Error::collected(ErrorCode::Shape, format!("{count} bound files do not fit the spec"), errors)),
    }
    if plan.inputs().any(|(_, buffer)| !views.iter().any(|(name, _)| **name == *buffer.name)) {
        return Ok(());
    }
    // Never touched, so no memory is taken for them.
    let mut outputs = output_tensors(plan)?;
    let mut bindings = bind(&views, &mut outputs)?;
    for level in &loaded.hierarchy.levels {
        if let SegmentSource::Inline(segments) = &level.segments {
            bindings.bind_table(segments);
        }
    }
    TableSet::new().check(plan, &bindings)
}

/// A reducer's name; a custom one's own.
fn shown(reducer: &Reducer) -> &str {
    match reducer {
        Reducer::Custom(custom) => custom.name(),
        _ => reducer.name(),
    }
}

/// The levels, lowest first.
fn describe(hierarchy: &Hierarchy) -> String {
    let mut columns = Columns::new(&["level", "rows", "segments", "reduce", "kept"]);
    let leaves = &hierarchy.leaves;
    let rows = |rows: Option<u64>| rows.map_or_else(|| "?".to_owned(), |rows| rows.to_string());
    let kept = |kept: bool| if kept { "kept" } else { "" }.to_owned();
    let first = hierarchy.levels.first().and_then(|level| level_segments(level)).map(|segments| segments.rows());
    columns.row([leaves.name.to_string(), rows(leaves.rows.or(first)), "-".into(), "-".into(), kept(leaves.keep)]);
    for (index, level) in hierarchy.levels.iter().enumerate() {
        let reduce: Vec<&str> = level.reduce.iter().map(shown).collect();
        let segments = match level_segments(level) {
            Some(segments) if segments.is_partition() => {
                format!("offsets, longest {}, {} empty", segments.longest(), segments.empty_count())
            }
            Some(segments) => format!("ranges, longest {}, {} empty", segments.longest(), segments.empty_count()),
            None => "not bound".into(),
        };
        let top = index + 1 == hierarchy.levels.len();
        columns.row([
            level.name.to_string(),
            rows(level_segments(level).map(Segments::len)),
            segments,
            reduce.join(" "),
            kept(level.keep || top),
        ]);
    }
    columns.to_string()
}

fn level_segments(level: &Level) -> Option<&Segments> {
    match &level.segments {
        SegmentSource::Inline(segments) => Some(segments),
        SegmentSource::Binding(_) => None,
    }
}

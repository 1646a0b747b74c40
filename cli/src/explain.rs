//! `levelfold explain`: what will run, and why.

mod analyze;

use crate::backends::BackendName;
use crate::cuda::CudaOptions;
use crate::failure::{CliResult, Failure};
use crate::input::{BIND_HELP, Bind};
use crate::options::{ByteSize, PlanOptions};
use crate::spec_file::{Document, Loaded, read_document};
use crate::ui::Ui;
use layout::backends::svg::SVGWriter;
use layout::gv::{DotParser, GraphBuilder};
use levelfold::error::suggestion;
use levelfold::graph::LevelGraph;
use levelfold::optimize::{Decision, Observer, Pipeline, Planned, Planner};
use levelfold::{Error, ErrorCode, Plan};
use std::fmt::Write;
use std::path::PathBuf;

/// Prints the plan of a spec: what runs, what it moves, and why
///
/// Nothing is run, unless --analyze asks for it. With -O0 it is the plan of the literal program, with every copy of it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold explain docs/examples/text.json
  levelfold explain docs/examples/text.json -O0
  levelfold explain docs/examples/text.json --why --print-after changed
  levelfold explain docs/examples/text.json --format json > text.plan.json
  levelfold explain docs/examples/text.json --analyze --threads 1
  levelfold explain docs/examples/bound.json --bind word:lengths=words.npy")]
pub(crate) struct ExplainArgs {
    /// A spec, or a plan as `--format json` writes it (JSON; `-` is stdin)
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    plan: PlanOptions,

    /// For which backend [default: cpu]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "NAME")]
    target: Option<BackendName>,

    /// How to print the plan
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,

    /// Lists every fusion that was made or refused, with its reason
    #[arg(long)]
    why: bool,

    /// Prints the graph after this pass, after every pass (`all`), or after each that changed it (`changed`)
    #[arg(long, value_name = "all|changed|PASS")]
    print_after: Option<String>,

    #[arg(long, value_name = "NAME[:FORM]=FILE[:TENSOR]", help = BIND_HELP)]
    bind: Vec<Bind>,

    /// Runs the plan, over what is bound and seeded random data for the rest, and prints what every step took
    #[arg(long)]
    analyze: bool,

    /// Prints what --analyze found as JSON
    #[arg(long, requires = "analyze")]
    json: bool,

    /// Runs that --analyze takes the median of
    #[arg(long, requires = "analyze", default_value_t = 11, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,

    /// Where the random data of --analyze comes from
    #[arg(long, requires = "analyze", default_value_t = 1, value_name = "N")]
    seed: u64,

    /// Threads of the cpu backend with --analyze, and of the bandwidth measurement; all cores without it
    #[arg(long, requires = "analyze", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,

    #[command(flatten)]
    cuda: CudaOptions,

    /// The buffer that --analyze measures memory's bandwidth over [default: four times the last cache, within 512M and 1G]
    #[arg(long, requires = "analyze", value_name = "BYTES")]
    stream_bytes: Option<ByteSize>,
}

impl ExplainArgs {
    fn target(&self) -> BackendName {
        self.target.unwrap_or(BackendName::Cpu)
    }
}

/// How to print a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// As `explain`, `check` and `diff` read it back
    Json,
    /// For Graphviz
    Dot,
    /// Drawn
    Svg,
}

pub(crate) fn run(args: ExplainArgs, ui: &Ui) -> CliResult {
    if args.format != Format::Text && (args.why || args.print_after.is_some()) {
        return Err(Failure::Usage("--why and --print-after go with --format text".into()));
    }
    if args.analyze && (args.format != Format::Text || args.why || args.print_after.is_some()) {
        return Err(Failure::Usage("--analyze prints a table of its own: --format, --why and --print-after do not go with it".into()));
    }
    match read_document(&args.file)? {
        Document::Plan(plan) => {
            if args.why || args.print_after.is_some() || !args.bind.is_empty() {
                return Err(Failure::Usage("a plan does not say how it came about: --why, --print-after and --bind need its spec".into()));
            }
            if args.analyze {
                return Err(Failure::Usage("a plan does not hold the segments that it runs over: --analyze needs its spec".into()));
            }
            if args.plan.are_given() || args.target.is_some() {
                return Err(Failure::Usage("a plan is made already: -O, --disable-pass and --target need its spec".into()));
            }
            print_plan(&plan, args.format, ui)
        }
        Document::Spec(hierarchy) if args.analyze => analyze::run(hierarchy, &args, ui),
        Document::Spec(hierarchy) => {
            let loaded = Loaded::new(hierarchy, &args.bind)?;
            let graph = loaded.hierarchy.graph()?;
            let mut printer = Printer::new(args.print_after.as_deref(), &graph)?;
            let planned = planner(args.target(), &args.plan)?.plan_observed(graph, &mut printer)?;
            if !printer.text.is_empty() {
                ui.print(&printer.text)?;
            }
            print_plan(&planned.plan, args.format, ui)?;
            if args.why { ui.print(why(&planned)) } else { Ok(()) }
        }
    }
}

/// A planner of these options.
///
/// # Errors
/// `backend-unavailable`; `unknown-name` for a pass.
pub(crate) fn planner(target: BackendName, options: &PlanOptions) -> Result<Planner, Error> {
    let mut pipeline = Pipeline::new(options.opt_level());
    for pass in &options.disable_pass {
        pipeline = pipeline.without(pass)?;
    }
    Ok(Planner::new(target.target()?).pipeline(pipeline))
}

fn print_plan(plan: &Plan, format: Format, ui: &Ui) -> CliResult {
    match format {
        Format::Text => ui.print(plan),
        Format::Json => ui.print(plan.to_json()),
        Format::Dot => ui.print(plan.to_dot()),
        Format::Svg => ui.print(draw(&plan.to_dot())?),
    }
}

/// Lays a graph out, top down.
fn draw(dot: &str) -> Result<String, Error> {
    let graph = DotParser::new(dot)
        .process()
        .map_err(|cause| Error::new(ErrorCode::Internal, format!("the plan cannot be drawn: {cause}")).help("use --format dot"))?;
    let mut builder = GraphBuilder::new();
    builder.visit_graph(&graph);
    let mut drawing = builder.get();
    let mut svg = SVGWriter::new();
    let (debugging, disable_optimizations, disable_layout) = (false, false, false);
    drawing.do_it(debugging, disable_optimizations, disable_layout, &mut svg);
    Ok(svg.finalize())
}

fn why(planned: &Planned) -> String {
    let mut text = String::from("\nwhy\n");
    if planned.decisions.is_empty() {
        text += "  no pass ran, or none had anything to decide\n";
    }
    for decision in &planned.decisions {
        let _ = writeln!(text, "  {decision}");
    }
    text
}

/// Which graphs to print.
enum When<'a> {
    Never,
    Always,
    Changed,
    After(&'a str),
}

/// Collects the graphs that were asked for.
struct Printer<'a> {
    when: When<'a>,
    before: String,
    text: String,
}

impl<'a> Printer<'a> {
    fn new(when: Option<&'a str>, graph: &LevelGraph) -> Result<Self, Error> {
        let when = match when {
            None => When::Never,
            Some("all") => When::Always,
            Some("changed") => When::Changed,
            Some(pass) => {
                let mut known = Pipeline::new(levelfold::OptLevel::O2).names();
                if !known.contains(&pass) {
                    known.extend(["all", "changed"]);
                    return Err(Error::new(ErrorCode::UnknownName, format!("there is no pass `{pass}`")).help(suggestion(pass, &known)));
                }
                When::After(pass)
            }
        };
        let mut printer = Printer { when, before: String::new(), text: String::new() };
        if let When::Always | When::Changed = printer.when {
            printer.before = graph.to_string();
            let _ = writeln!(printer.text, "graph before any pass\n{}", printer.before);
        }
        Ok(printer)
    }
}

impl Observer for Printer<'_> {
    fn after(&mut self, pass: &'static str, graph: &LevelGraph, _decisions: &[Decision]) {
        let wanted = match self.when {
            When::Never => return,
            When::Always => true,
            When::Changed => true,
            When::After(name) => name == pass,
        };
        if !wanted {
            return;
        }
        let now = graph.to_string();
        let changed = now != self.before;
        if changed || matches!(self.when, When::After(_)) {
            let _ = writeln!(self.text, "graph after {pass}\n{now}");
        } else if let When::Always = self.when {
            let _ = writeln!(self.text, "graph after {pass}: as before\n");
        }
        self.before = now;
    }
}

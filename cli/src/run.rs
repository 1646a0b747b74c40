//! `levelfold run`: folds files.

use crate::columns::{Columns, bytes, seconds, three_digits};
use crate::execute::{Input, execute, hash};
use crate::failure::CliResult;
use crate::input::{BIND_HELP, Bind};
use crate::memory::{Tensor, output_tensors};
use crate::options::{ChosenEngine, PlanOptions, RunOptions};
use crate::output::{Entry, write_file};
use crate::params::Params;
use crate::spec_file::{Loaded, read_plan, read_spec};
use crate::ui::Ui;
use levelfold::backend::RunReport;
use levelfold::numerics::count_to_f64;
use levelfold::{Error, Prepared};
use serde::Serialize;
use std::borrow::Cow;
use std::path::PathBuf;

/// Folds arrays in files as a spec says, and writes what is kept
///
/// Inputs are mapped and read where they lie, in C or Fortran order. Over the memory limit nothing is allocated. The output file appears
/// whole or not at all.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold run docs/examples/text.json --bind char=chars.npy --out folded.safetensors
  levelfold run docs/examples/bound.json --bind char=chars.safetensors --bind word:lengths=words.npy --out folded.safetensors
  levelfold run docs/examples/transformer.json --bind char.ids=ids.npy --bind char.table=table.npy --params model.safetensors \
    --backend reference --out folded.safetensors
  levelfold run docs/examples/text.json --bind char=chars.npy --backend reference -O0 --json")]
pub(crate) struct RunArgs {
    /// What to fold (JSON; `-` is stdin)
    #[arg(value_name = "SPEC.json")]
    spec: PathBuf,

    #[arg(long, value_name = "NAME[:FORM]=FILE[:TENSOR]", help = BIND_HELP)]
    bind: Vec<Bind>,

    /// The parameters of encoders and queries that nothing else is bound to, by their names, as .safetensors
    #[arg(long, value_name = "FILE")]
    params: Option<PathBuf>,

    /// Where the kept levels go, as .safetensors; without it they are computed and thrown away
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Runs this plan instead of making one; it is verified, and replayed against the spec, first
    #[arg(long, value_name = "PLAN.json", conflicts_with_all = ["opt_level", "disable_pass"])]
    plan: Option<PathBuf>,

    #[command(flatten)]
    how: RunOptions,

    #[command(flatten)]
    planning: PlanOptions,

    /// Reports a hash of the outputs: names, types, shapes and bits
    #[arg(long)]
    hash: bool,

    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Serialize)]
struct Report {
    backend: String,
    plan: String,
    outputs: Vec<OutputFacts>,
    seconds: f64,
    moved_bytes: u64,
    bytes_per_second: f64,
    /// Bytes that the plan's copies wrote.
    copied_bytes: u64,
    /// Bytes of input files that had to be copied, because they were not aligned.
    realigned_bytes: usize,
    arena_bytes: u64,
    scratch_bytes: u64,
    /// Inputs, tables, outputs, arena and scratch together: what the memory limit counts.
    needed_bytes: u64,
    steps: Vec<StepFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct OutputFacts {
    name: String,
    dtype: String,
    shape: [usize; 2],
}

#[derive(Serialize)]
struct StepFacts {
    origin: String,
    seconds: f64,
    read_bytes: u64,
    written_bytes: u64,
}

pub(crate) fn run(args: RunArgs, ui: &Ui) -> CliResult {
    let loaded = Loaded::new(read_spec(&args.spec)?, &args.bind)?;
    let mut engine = args.how.engine(&args.planning, args.how.memory_limit.map(|limit| limit.0), ui)?;
    let prepared = prepare(&mut engine, &loaded, args.plan.as_deref())?;
    let mut inputs: Vec<Input<'_>> = Vec::new();
    for (name, file) in &loaded.inputs {
        inputs.push((name, file.view()?));
    }
    let how = "bind it with --bind NAME=FILE, or give a file that holds every parameter with --params FILE.safetensors";
    let params = Params::open(args.params.as_deref(), prepared.plan(), how, |name| loaded.inputs.iter().any(|(bound, _)| bound == name))?;
    if let Some(path) = args.params.as_deref().filter(|_| params.is_empty()) {
        ui.warn(format_args!("nothing of {} is used: the plan has no parameters that are not bound", path.display()));
    }
    inputs.extend(params.views()?);
    let mut outputs = output_tensors(prepared.plan())?;
    ui.check_interrupt()?;
    let done = execute(&prepared, &inputs, &mut outputs, RunReport::clone)?;
    ui.check_interrupt()?;
    if let Some(out) = &args.out {
        let entries: Vec<(Entry, Cow<'_, [u8]>)> = outputs.iter().map(entry).collect();
        write_file(out, &[("levelfold.plan", prepared.plan().summary())], &entries)?;
    }
    let realigned = loaded.inputs.iter().map(|(_, file)| file.copied_bytes()).sum::<usize>() + params.copied_bytes();
    if realigned > 0 {
        ui.warn(format_args!("{realigned} bytes of input were copied, because they are not aligned in their files"));
    }
    let report = Report::new(&args, &prepared, &done, &outputs, realigned);
    if args.json { ui.print_json(&report) } else { ui.print(report.text()) }
}

fn prepare(engine: &mut ChosenEngine<'_>, loaded: &Loaded, plan: Option<&std::path::Path>) -> Result<Prepared, Error> {
    let graph = loaded.hierarchy.graph()?;
    let Some(path) = plan else { return engine.prepare(graph) };
    let plan = read_plan(path)?;
    levelfold::check::replay(&plan, &graph)?;
    engine.prepare_plan(plan, &graph)
}

/// The backends compute in the machine's byte order; files are little-endian.
fn entry(tensor: &Tensor) -> (Entry, Cow<'_, [u8]>) {
    let shape = tensor.shape.iter().map(|&axis| u64::try_from(axis).unwrap_or(u64::MAX)).collect();
    let mut data = Cow::Borrowed(tensor.bytes.as_ref());
    if cfg!(target_endian = "big") {
        data.to_mut().chunks_exact_mut(tensor.dtype.size()).for_each(<[u8]>::reverse);
    }
    (Entry { name: tensor.name.to_string(), dtype: tensor.dtype, shape }, data)
}

impl Report {
    fn new(args: &RunArgs, prepared: &Prepared, done: &RunReport, outputs: &[Tensor], realigned_bytes: usize) -> Self {
        let plan = prepared.plan();
        let seconds = done.time.as_secs_f64();
        let scratch_bytes = prepared.scratch_bytes();
        Report {
            backend: plan.target.to_string(),
            plan: plan.summary(),
            outputs: outputs
                .iter()
                .map(|output| OutputFacts { name: output.name.to_string(), dtype: output.dtype.to_string(), shape: output.shape })
                .collect(),
            seconds,
            moved_bytes: plan.totals.moved_bytes(),
            bytes_per_second: if seconds > 0.0 { count_to_f64(plan.totals.moved_bytes()) / seconds } else { 0.0 },
            copied_bytes: plan.totals.copied_bytes,
            realigned_bytes,
            arena_bytes: plan.totals.arena_bytes,
            scratch_bytes,
            // It was checked to fit when the plan was prepared.
            needed_bytes: plan.memory_bytes().unwrap_or(u64::MAX).saturating_add(scratch_bytes),
            steps: plan
                .steps
                .iter()
                .zip(&done.steps)
                .map(|(step, done)| StepFacts {
                    origin: step.origin.join(" "),
                    seconds: done.time.as_secs_f64(),
                    read_bytes: done.read,
                    written_bytes: done.written,
                })
                .collect(),
            hash: args.hash.then(|| format!("{:016x}", hash(outputs))),
            out: args.out.clone(),
        }
    }

    fn text(&self) -> String {
        let mut columns = Columns::new(&["output", "dtype", "rows", "features"]);
        for OutputFacts { name, dtype, shape: [rows, features] } in &self.outputs {
            columns.row([name.clone(), dtype.clone(), rows.to_string(), features.to_string()]);
        }
        let mut text = format!(
            "{columns}\nplan   {}\ntime   {}, {} GB/s\ncopied {}\nmemory {} (arena {}, scratch {}; inputs, tables and outputs included)\n",
            self.plan,
            seconds(self.seconds),
            three_digits(self.bytes_per_second / 1e9),
            bytes(self.copied_bytes),
            bytes(self.needed_bytes),
            bytes(self.arena_bytes),
            bytes(self.scratch_bytes),
        );
        if let Some(hash) = &self.hash {
            text += &format!("hash   {hash}\n");
        }
        if let Some(out) = &self.out {
            text += &format!("wrote  {}\n", out.display());
        }
        text
    }
}

//! `levelfold bench`: backends and optimization levels, side by side in one run.
//!
//! Every result is checked before it is timed, and again after: against the reference backend's bits, or, where a plan reassociates, against
//! f64 within the printed bound. Rounds go through all contenders in an order that varies, and memory's bandwidth is measured again between
//! rounds, so that a machine that slows down slows all of them.

mod bandwidth;
mod contender;
mod oracle;
mod random;
mod report;
mod stats;
mod workload;

use crate::backends::BackendName;
use crate::execute::{Input, execute};
use crate::failure::{CliResult, Failure};
use crate::input::{BIND_HELP, Bind};
use crate::memory::{Tensor, output_tensors};
use crate::options::ByteSize;
use crate::spec_file::{Loaded, read_spec};
use crate::ui::Ui;
use bandwidth::Stream;
use contender::{Config, Contender, Verdict};
use levelfold::optimize::Planner;
use levelfold::{DType, Engine, EngineOptions, Error, ErrorCode, Hierarchy, OptLevel, Reducer};
use report::{Report, RowFacts};
use stats::Samples;
use std::path::PathBuf;
use std::time::Instant;
use workload::{Size, Workload};

/// Measures backends and optimization levels against each other, and checks every result
///
/// Without a spec it measures a workload made from a seed. A result that is not the reference backend's, bit for bit, fails the command;
/// where a plan reassociates (-O2) and bits differ, every element must keep the error bound against f64 instead. The column `check` says
/// which of the two was done.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold bench --workload text
  levelfold bench --workload skewed --backends cpu,reference --opt 0,1
  levelfold bench --workload text --dtype bf16 --reduce mean,max --rounds 31 --json > bench.json
  levelfold bench docs/examples/text.json --threads 1")]
pub(crate) struct BenchArgs {
    /// A spec to measure; inputs that are not bound are filled from the seed
    #[arg(value_name = "SPEC.json", conflicts_with_all = ["workload", "rows", "features", "dtype", "reduce"])]
    spec: Option<PathBuf>,

    #[arg(long, value_name = "NAME[:FORM]=FILE[:TENSOR]", help = BIND_HELP, requires = "spec")]
    bind: Vec<Bind>,

    /// What to measure
    #[arg(long, value_enum, default_value_t = Workload::Text, value_name = "NAME")]
    workload: Workload,

    /// Leaf rows of the workload [default: 1048576; wide: 65536, tiny: 2048]
    #[arg(long, alias = "size", value_name = "N")]
    rows: Option<u64>,

    /// Features of the workload [default: 64; wide: 1024]
    #[arg(long, value_name = "N")]
    features: Option<u64>,

    /// The type of the workload's values
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    dtype: DType,

    /// The reducers of the workload's levels, separated by commas: several are read side by side
    #[arg(long, default_value = "mean", value_delimiter = ',', value_name = "NAME")]
    reduce: Vec<Reducer>,

    /// Where lengths and values come from: the same number, the same data
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// Which backends, separated by commas
    #[arg(long, value_enum, default_value = "cpu", value_delimiter = ',', hide_possible_values = true, value_name = "NAME")]
    backends: Vec<BackendName>,

    /// Which optimization levels, separated by commas
    #[arg(long, default_value = "0,1,2", value_delimiter = ',', value_name = "LEVEL")]
    opt: Vec<OptLevel>,

    /// Leaves a pass out; may be given several times
    #[arg(long, value_name = "PASS")]
    disable_pass: Vec<String>,

    /// Threads of the cpu backend, and of the bandwidth measurement; all cores without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,

    /// The most memory for one contender's inputs, tables, outputs, arena and scratch
    #[arg(long, value_name = "BYTES")]
    memory_limit: Option<ByteSize>,

    /// Rounds: samples of each contender (the reference backend gets every fourth)
    #[arg(long, default_value_t = 11, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,

    /// Goes on with rounds until so many seconds are over
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    seconds: f64,

    /// The buffer that memory's bandwidth is measured over [default: four times the last cache, within 256M and 1G]
    #[arg(long, value_name = "BYTES")]
    stream_bytes: Option<ByteSize>,

    /// Prints JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,

    /// Prints a table in Markdown
    #[arg(long)]
    markdown: bool,
}

/// The reference backend is timed in one of so many rounds.
const REFERENCE_EVERY: u64 = 4;

pub(crate) fn run(args: BenchArgs, ui: &Ui) -> CliResult {
    if !args.seconds.is_finite() || args.seconds < 0.0 {
        return Err(Failure::Usage("--seconds takes a number of 0 or more".into()));
    }
    if args.rounds < 10 {
        ui.warn(format_args!("{} rounds are few: take 10 or more for numbers to publish", args.rounds));
    }
    let loaded = match &args.spec {
        Some(path) => Loaded::new(read_spec(path)?, &args.bind)?,
        None => Loaded { hierarchy: args.workload.hierarchy(&args.size()?)?, inputs: Vec::new() },
    };
    let hierarchy = &loaded.hierarchy;
    // Inputs are the same for every target, so any plan names them.
    let plan = Planner::new(BackendName::Reference.target()?).opt(OptLevel::O0).plan(hierarchy.graph()?)?.plan;
    let given: Vec<&str> = loaded.inputs.iter().map(|(name, _)| name.as_str()).collect();
    let tensors = workload::data(hierarchy, &plan, &given, args.seed)?;
    let mut inputs: Vec<Input<'_>> = Vec::new();
    for (name, file) in &loaded.inputs {
        inputs.push((name, file.view()?));
    }
    for tensor in &tensors {
        inputs.push((&tensor.name, tensor.view()?));
    }
    let mut contenders = prepare(&args, hierarchy, &inputs, ui)?;
    let wrong: Vec<Error> = contenders.iter().filter(|contender| !contender.verdict.is_right()).map(wrong_result).collect();
    if !wrong.is_empty() {
        return Err(Error::collected(ErrorCode::Internal, "results are wrong, so nothing was timed", wrong).into());
    }
    let (streams, rounds) = measure(&args, &mut contenders, &inputs, ui)?;
    for contender in &contenders {
        contender.check_unchanged()?;
    }
    print(&args, &contenders, &streams, rounds, ui)
}

impl BenchArgs {
    fn size(&self) -> Result<Size, Error> {
        if !self.dtype.is_float() {
            return Err(Error::new(ErrorCode::DType, format!("values cannot be {}", self.dtype)).help("values are f32, f64, f16 or bf16"));
        }
        Ok(Size { rows: self.rows, features: self.features, dtype: self.dtype, reduce: self.reduce.clone(), seed: self.seed })
    }

    fn options(&self) -> EngineOptions {
        EngineOptions { opt: OptLevel::O0, without: self.disable_pass.clone(), memory_limit: self.memory_limit.map(|limit| limit.0) }
    }

    fn threads(&self) -> usize {
        let said = self.threads.and_then(|threads| usize::try_from(threads).ok());
        said.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |threads| threads.get()))
    }

    /// What is compared, each once.
    fn configs(&self) -> Vec<Config> {
        let mut configs = Vec::new();
        for &backend in &self.backends {
            for &opt in &self.opt {
                let config = Config { backend, opt };
                if !configs.contains(&config) {
                    configs.push(config);
                }
            }
        }
        configs
    }
}

/// Prepares all contenders, warm and judged.
fn prepare(args: &BenchArgs, hierarchy: &Hierarchy, inputs: &[Input<'_>], ui: &Ui) -> CliResult<Vec<Contender>> {
    let configs = args.configs();
    let bar = ui.progress(u64::try_from(configs.len() + 2).unwrap_or(0), "checking");
    let reference = reference_outputs(hierarchy, inputs)?;
    bar.inc(1);
    ui.check_interrupt()?;
    let expected = oracle::expect(hierarchy, inputs)?;
    bar.inc(1);
    let mut contenders = Vec::with_capacity(configs.len());
    for config in configs {
        ui.check_interrupt()?;
        let name = format!("{} -{}", config.backend.name(), config.opt);
        let mut contender =
            Contender::new(config, args.options(), args.threads, hierarchy, inputs).map_err(|error| error.at_level(name))?;
        contender.judge(&reference, &expected)?;
        contenders.push(contender);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(contenders)
}

/// What the reference backend makes of the literal program.
fn reference_outputs(hierarchy: &Hierarchy, inputs: &[Input<'_>]) -> Result<Vec<Tensor>, Error> {
    let options = EngineOptions { opt: OptLevel::O0, ..EngineOptions::default() };
    let prepared = Engine::with_options(BackendName::Reference.open(None)?, options).prepare(hierarchy)?;
    let mut outputs = output_tensors(prepared.plan())?;
    execute(&prepared, inputs, &mut outputs, |_| ())?;
    Ok(outputs)
}

fn wrong_result(contender: &Contender) -> Error {
    let Config { backend, opt } = contender.config;
    let message = match contender.verdict {
        Verdict::WrongBits { elements } => {
            format!("{elements} element(s) differ from the reference backend's, and this plan keeps every bit")
        }
        Verdict::OutOfBound | Verdict::SameBits | Verdict::WithinBound => {
            format!("an element is further from f64 than the bound allows; the largest relative error is {:e}", contender.error)
        }
    };
    Error::new(ErrorCode::Internal, message)
        .at_level(format!("{} -{opt}", backend.name()))
        .help("please report it, with the spec and the seed")
}

/// Bandwidths, and how many rounds there were.
fn measure(args: &BenchArgs, contenders: &mut [Contender], inputs: &[Input<'_>], ui: &Ui) -> CliResult<(Streams, u32)> {
    let mut stream = Stream::new(args.threads(), args.stream_bytes.map(|size| size.0));
    stream.measure();
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    let bar = ui.progress(args.rounds.into(), "measuring");
    let start = Instant::now();
    let mut round = 0;
    while round < args.rounds || start.elapsed().as_secs_f64() < args.seconds {
        let measured = stream.measure();
        reads.push(measured.read);
        writes.push(measured.write);
        for index in shuffled(contenders.len(), args.seed, round.into()) {
            ui.check_interrupt()?;
            let contender = &mut contenders[index];
            if contender.config.backend != BackendName::Reference || u64::from(round) % REFERENCE_EVERY == 0 {
                contender.sample(inputs)?;
            }
        }
        round += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let streams = Streams { read: Samples::new(reads), write: Samples::new(writes), bytes: stream.bytes(), threads: args.threads() };
    Ok((streams, round))
}

/// Bandwidths of memory, in bytes a second.
struct Streams {
    read: Samples,
    write: Samples,
    bytes: usize,
    threads: usize,
}

/// The numbers below `count` in an order that follows from the seed and the round.
fn shuffled(count: usize, seed: u64, round: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for index in (1..count).rev() {
        let bound = u64::try_from(index + 1).unwrap_or(1);
        let other = random::below(random::at(seed, 50 + round, bound), bound);
        order.swap(index, usize::try_from(other).unwrap_or(0));
    }
    order
}

fn print(args: &BenchArgs, contenders: &[Contender], streams: &Streams, rounds: u32, ui: &Ui) -> CliResult {
    let workload = match &args.spec {
        Some(path) => path.display().to_string(),
        None => args.workload.name().to_owned(),
    };
    let rows: Vec<RowFacts> = contenders.iter().map(|contender| RowFacts::of(contender, contenders, streams)).collect();
    let report = Report::new(workload, args.seed, rounds, contenders.first().map(|contender| &**contender.prepared.plan()), streams, rows);
    if args.json {
        ui.print_json(&report)
    } else if args.markdown {
        ui.print(report.markdown())
    } else {
        ui.print(report.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_vary_and_leave_nobody_out() {
        let orders: Vec<Vec<usize>> = (0..20).map(|round| shuffled(5, 1, round)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
        }
        let first: std::collections::BTreeSet<usize> = orders.iter().map(|order| order[0]).collect();
        assert!(first.len() > 2, "{orders:?}");
    }
}

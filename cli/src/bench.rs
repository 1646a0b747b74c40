//! `levelfold bench`: backends and optimization levels, side by side in one run.
//!
//! Every result is checked before it is timed, and after every sample ([`yardstick`]). Rounds go through all contenders in an order that
//! varies, and memory's bandwidth is measured again before every sample: a machine that slows down slows all of them, and none finds its
//! data in caches that the one before has warmed.

mod bandwidth;
mod contender;
mod oracle;
mod process;
mod random;
mod report;
mod stats;
mod workload;
mod yardstick;

use crate::backends::BackendName;
use crate::execute::Input;
use crate::failure::{CliResult, Failure};
use crate::input::{BIND_HELP, Bind};
use crate::memory::Tensor;
use crate::options::ByteSize;
use crate::spec_file::{Loaded, read_spec};
use crate::ui::Ui;
use bandwidth::{Bandwidth, Stream};
use contender::{Config, Contender};
use levelfold::backend::Backend;
use levelfold::optimize::Planner;
use levelfold::{DType, Engine, EngineOptions, Error, ErrorCode, Hierarchy, OptLevel, Reducer};
use process::HighWater;
use report::{Report, RowFacts};
use stats::Samples;
use std::path::PathBuf;
use workload::{Size, Workload};
use yardstick::{Verdict, Yardstick, different_elements};

/// Measures backends and optimization levels against each other, and checks every result
///
/// Without a spec it measures a workload made from a seed. A result that is not the reference backend's, bit for bit, fails the command:
/// at -O0 and -O1 that of the literal program, at -O2 that of the same plan, whose elements must then keep the error bound against f64 as
/// well. The reference backend is slow; a workload that it would take too long over is checked on a smaller copy, and the output says so.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold bench --workload text --threads 2
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

    /// Leaf rows of the workload [default: 1048576; wide: 65536, tiny: 2000]
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

    /// Rounds: samples of each contender
    #[arg(long, default_value_t = 15, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,

    /// The most time for samples, shared equally: a contender that has used its share gets no more, but 3 at least
    #[arg(long, default_value_t = 15.0, value_name = "SECONDS")]
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

/// Samples that every contender gets, however slow it is.
const LEAST_SAMPLES: usize = 3;

/// Fewer samples than this are remarked upon.
const FEW_SAMPLES: u32 = 10;

/// Up to so many leaf elements, times the reducers, a workload is checked as it is: the reference backend takes seconds over them.
const MOST_CHECKED: u64 = 1 << 27;

pub(crate) fn run(args: BenchArgs, ui: &Ui) -> CliResult {
    let threads = args.threads;
    let report = Bench { open: &|backend| backend.open(threads), most_checked: MOST_CHECKED, ui, args: &args }.run()?;
    if args.json {
        ui.print_json(&report)
    } else if args.markdown {
        ui.print(report.markdown())
    } else {
        ui.print(report.text())
    }
}

/// One benchmark.
struct Bench<'a> {
    args: &'a BenchArgs,
    ui: &'a Ui,
    /// Opens a backend by its name.
    open: &'a dyn Fn(BackendName) -> Result<Box<dyn Backend>, Error>,
    /// [`MOST_CHECKED`], unless a test says otherwise.
    most_checked: u64,
}

/// A hierarchy and all of its data.
struct Case {
    loaded: Loaded,
    made: Vec<Tensor>,
}

impl Case {
    /// Inputs that nobody gave are made from the seed.
    fn new(loaded: Loaded, seed: u64) -> Result<Self, Error> {
        // Inputs are the same for every target, so any plan names them.
        let plan = Planner::new(BackendName::Reference.target()?).opt(OptLevel::O0).plan(loaded.hierarchy.graph()?)?.plan;
        let given: Vec<&str> = loaded.inputs.iter().map(|(name, _)| name.as_str()).collect();
        let made = workload::data(&loaded.hierarchy, &plan, &given, seed)?;
        Ok(Case { loaded, made })
    }

    fn of_workload(workload: Workload, size: &Size) -> Result<Self, Error> {
        Case::new(Loaded { hierarchy: workload.hierarchy(size)?, inputs: Vec::new() }, size.seed)
    }

    fn hierarchy(&self) -> &Hierarchy {
        &self.loaded.hierarchy
    }

    fn inputs(&self) -> Result<Vec<Input<'_>>, Error> {
        let mut inputs: Vec<Input<'_>> = Vec::new();
        for (name, file) in &self.loaded.inputs {
            inputs.push((name, file.view()?));
        }
        for tensor in &self.made {
            inputs.push((&tensor.name, tensor.view()?));
        }
        Ok(inputs)
    }
}

impl BenchArgs {
    fn size(&self) -> Result<Size, Error> {
        if !self.dtype.is_float() {
            return Err(Error::new(ErrorCode::DType, format!("values cannot be {}", self.dtype)).help("values are f32, f64, f16 or bf16"));
        }
        Ok(Size {
            rows: self.rows.unwrap_or(self.workload.rows()),
            features: self.features.unwrap_or(self.workload.features()),
            dtype: self.dtype,
            reduce: self.reduce.clone(),
            seed: self.seed,
        })
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

impl Bench<'_> {
    fn run(&self) -> CliResult<Report> {
        let args = self.args;
        if !args.seconds.is_finite() || args.seconds < 0.0 {
            return Err(Failure::Usage("--seconds takes a number of 0 or more".into()));
        }
        if args.rounds < FEW_SAMPLES {
            self.ui.warn(format_args!("{} rounds are few: take {FEW_SAMPLES} or more for numbers to publish", args.rounds));
        }
        let (case, small) = self.cases()?;
        let inputs = case.inputs()?;
        let mut memory = HighWater::default();
        let (mut contenders, checked_rows) = match small {
            None => (self.checked(&case, &inputs, &mut memory)?, None),
            Some((small, rows)) => (self.checked_on_copy(&small, &case, &inputs, &mut memory)?, Some(rows)),
        };
        let peak = memory.peak();
        let streams = self.measure(&mut contenders, &inputs)?;
        for contender in &mut contenders {
            contender.check_once_more(&inputs)?;
        }
        let workload = match &args.spec {
            Some(path) => path.display().to_string(),
            None => args.workload.name().to_owned(),
        };
        let rows = contenders.iter().map(|contender| RowFacts::of(contender, &contenders, &streams)).collect();
        let plan = contenders.first().map(|contender| &**contender.prepared.plan());
        Ok(Report::new(workload, args.seed, plan, &streams, rows).checked_on(checked_rows).peak_memory(peak))
    }

    /// What is timed, and, where checking that would take too long, a copy of fewer rows to check instead.
    fn cases(&self) -> Result<(Case, Option<(Case, u64)>), Error> {
        let args = self.args;
        if let Some(path) = &args.spec {
            return Ok((Case::new(Loaded::new(read_spec(path)?, &args.bind)?, args.seed)?, None));
        }
        let size = args.size()?;
        let case = Case::of_workload(args.workload, &size)?;
        let wide = size.features.saturating_mul(u64::try_from(size.reduce.len()).unwrap_or(u64::MAX)).max(1);
        if size.rows <= self.most_checked / wide {
            return Ok((case, None));
        }
        let rows = (self.most_checked / wide).max(1);
        let small = Case::of_workload(args.workload, &Size { rows, ..size })?;
        Ok((case, Some((small, rows))))
    }

    /// All contenders, warm and judged by the reference over the same data.
    fn checked(&self, case: &Case, inputs: &[Input<'_>], memory: &mut HighWater) -> CliResult<Vec<Contender>> {
        let configs = self.args.configs();
        let bar = self.ui.progress(u64::try_from(configs.len() + 1).unwrap_or(0), "checking");
        let yardstick = Yardstick::new(case.hierarchy(), inputs)?;
        bar.inc(1);
        let mut contenders = Vec::with_capacity(configs.len());
        for config in configs {
            self.ui.check_interrupt()?;
            let mut contender = self.contender(config, case.hierarchy(), inputs, memory)?;
            contender.judgement = yardstick.judge(config.opt, &contender.prepared, &contender.outputs)?;
            contenders.push(contender);
            bar.inc(1);
        }
        bar.finish_and_clear();
        refuse_wrong(&contenders)?;
        Ok(contenders)
    }

    /// All contenders, warm and judged by the reference over a smaller copy, and by each other over all of the data.
    fn checked_on_copy(&self, small: &Case, case: &Case, inputs: &[Input<'_>], memory: &mut HighWater) -> CliResult<Vec<Contender>> {
        let small_inputs = small.inputs()?;
        let judged = self.checked(small, &small_inputs, memory)?;
        let mut contenders: Vec<Contender> = Vec::with_capacity(judged.len());
        for judged in judged {
            self.ui.check_interrupt()?;
            let mut contender = self.contender(judged.config, case.hierarchy(), inputs, memory)?;
            contender.judgement = judged.judgement;
            let bit_exact = |contender: &Contender| contender.config.opt != OptLevel::O2;
            if bit_exact(&contender)
                && let Some(first) = contenders.iter().find(|other| bit_exact(other))
            {
                let elements = different_elements(&contender.outputs, &first.outputs);
                if elements > 0 {
                    contender.judgement.verdict = Verdict::WrongBits { elements };
                }
            }
            contenders.push(contender);
        }
        refuse_wrong(&contenders)?;
        Ok(contenders)
    }

    fn contender(&self, config: Config, hierarchy: &Hierarchy, inputs: &[Input<'_>], memory: &mut HighWater) -> Result<Contender, Error> {
        let options = EngineOptions {
            opt: config.opt,
            without: self.args.disable_pass.clone(),
            memory_limit: self.args.memory_limit.map(|limit| limit.0),
        };
        let prepare = || Contender::new(config, &Engine::with_options((self.open)(config.backend)?, options), hierarchy, inputs, memory);
        prepare().map_err(|error| error.at_level(config.to_string()))
    }

    fn measure(&self, contenders: &mut [Contender], inputs: &[Input<'_>]) -> CliResult<Streams> {
        let args = self.args;
        let mut stream = Stream::new(args.threads(), args.stream_bytes.map(|size| size.0));
        stream.measure();
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        let share = args.seconds / contenders.len().max(1) as f64;
        let bar = self.ui.progress(args.rounds.into(), "measuring");
        for round in 0..args.rounds {
            for index in shuffled(contenders.len(), args.seed, round.into()) {
                self.ui.check_interrupt()?;
                let contender = &mut contenders[index];
                if contender.spent < share || contender.sampled() < LEAST_SAMPLES {
                    let Bandwidth { read, write } = stream.measure();
                    reads.push(read);
                    writes.push(write);
                    contender.sample(inputs)?;
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Streams { read: Samples::new(reads), write: Samples::new(writes), bytes: stream.bytes(), threads: args.threads() })
    }
}

/// An error that names every contender whose result is not right.
fn refuse_wrong(contenders: &[Contender]) -> Result<(), Error> {
    let wrong: Vec<Error> = contenders.iter().filter_map(wrong_result).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Error::collected(ErrorCode::Internal, "results are wrong, so nothing was timed", wrong)) }
}

fn wrong_result(contender: &Contender) -> Option<Error> {
    let message = match contender.judgement.verdict {
        Verdict::SameBits | Verdict::SamePlanBits => return None,
        Verdict::Unseen => "the result was not checked".to_owned(),
        Verdict::WrongBits { elements } => {
            let against = match contender.config.opt {
                OptLevel::O0 | OptLevel::O1 => "of the literal program",
                OptLevel::O2 => "of the same plan",
            };
            format!("{elements} element(s) differ from the reference backend's {against}")
        }
        Verdict::OutOfBound => {
            let error = contender.judgement.from_exact;
            format!("an element is further from f64 than the bound allows; the largest relative error is {error:e}")
        }
    };
    let error = Error::new(ErrorCode::Internal, message).at_level(contender.config.to_string());
    Some(error.help("please report it, with the spec and the seed"))
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

#[cfg(test)]
mod tests;

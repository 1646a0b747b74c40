//! `levelfold bench`: backends and optimization levels, side by side in one run.
//!
//! Every result is checked before it is timed, and after every sample ([`yardstick`]). Rounds go through all contenders in an order that
//! varies, and memory's bandwidth is measured again before every sample: a machine that slows down slows all of them, and none finds its
//! data in caches that the one before has warmed.

pub(crate) mod bandwidth;
pub(crate) mod case;
mod chart;
mod compare;
mod contender;
mod export;
mod oracle;
mod paced;
mod process;
mod random;
mod report;
pub(crate) mod stats;
mod trial;
pub(crate) mod workload;
mod yardstick;

use crate::backends::BackendName;
use crate::cuda::CudaOptions;
use crate::failure::{CliResult, Failure, file_error};
use crate::input::{BIND_HELP, Bind};
use crate::options::ByteSize;
use crate::ui::Ui;
use bandwidth::Stream;
use case::{Case, Order};
use contender::Config;
use levelfold::backend::Backend;
use levelfold::{DType, Error, ErrorCode, OptLevel, Reducer};
use report::{Bench, Machine, Report, Subject};
use std::path::{Path, PathBuf};
use trial::{Material, Trial};
use workload::{Keep, Size, Workload};

/// Measures backends and optimization levels against each other, and checks every result
///
/// Without a spec it measures workloads made from a seed. A result that is not the reference backend's, bit for bit, fails the command:
/// at -O0 and -O1 that of the literal program, at -O2 that of the same plan, whose elements must then keep the error bound against f64 as
/// well. The reference backend is slow; a workload that it would take too long over is checked on a smaller copy, and the output says so.
///
/// The floor of a row is the least time for its result: needed input bytes at the read bandwidth, output bytes at the write bandwidth that
/// memory gave in the same run.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold bench --workload text --threads 2
  levelfold bench --workload skewed,flat,ones --backends cpu,reference --opt 0,1 --svg chart.svg
  levelfold bench --workload text --dtype bf16 --reduce mean,max --rounds 31 --json > bench.json
  levelfold bench --workload text --dtype bf16 --reduce mean,max --rounds 31 --compare bench.json
  levelfold bench --workload text --levels 1 --features 256 --export words && levelfold bench --data words
  levelfold bench docs/examples/text.json --threads 1")]
pub(crate) struct BenchArgs {
    /// A spec to measure; inputs that are not bound are filled from the seed
    #[arg(value_name = "SPEC.json", conflicts_with_all = ["workload", "rows", "features", "dtype", "reduce", "levels", "keep", "layout", "data", "export"])]
    spec: Option<PathBuf>,

    #[arg(long, value_name = "NAME[:FORM]=FILE[:TENSOR]", help = BIND_HELP, requires = "spec")]
    bind: Vec<Bind>,

    /// A folder that --export wrote, to measure what is in it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["workload", "rows", "features", "dtype", "reduce", "levels", "keep", "layout", "export"])]
    data: Option<PathBuf>,

    /// What to measure; several are separated by commas
    #[arg(long, value_enum, default_value = "text", value_delimiter = ',', value_name = "NAME")]
    workload: Vec<Workload>,

    /// Leaf rows of the workload [default: 1048576; wide: 65536, tiny: 2000]
    #[arg(long, alias = "size", value_name = "N")]
    rows: Option<u64>,

    /// Features of the workload [default: 64; wide: 1024]
    #[arg(long, value_name = "N")]
    features: Option<u64>,

    /// The type of the workload's values
    #[arg(long, default_value = "f32", value_name = "DTYPE")]
    dtype: DType,

    /// The reducers of the workload's levels, separated by commas: several are read side by side [default: mean; lookup-coarse: sum]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    reduce: Vec<Reducer>,

    /// Only the lowest levels of the workload
    #[arg(long, value_name = "N")]
    levels: Option<usize>,

    /// Which levels of the workload are kept: default, all, top, or names separated by commas; the top one always is
    #[arg(long, default_value = "default", value_delimiter = ',', value_name = "LEVELS")]
    keep: Vec<String>,

    /// How the workload's values lie in memory
    #[arg(long, value_enum, default_value_t = Order::RowMajor, value_name = "ORDER")]
    layout: Order,

    /// Where lengths and values come from: the same number, the same data
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// Writes the workload into a folder, for other programs and for --data, and measures nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["json", "markdown", "svg", "compare", "paced"])]
    export: Option<PathBuf>,

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

    #[command(flatten)]
    cuda: CudaOptions,

    /// The most memory for one contender's inputs, tables, outputs, arena and scratch
    #[arg(long, value_name = "BYTES")]
    memory_limit: Option<ByteSize>,

    /// Rounds: samples of each contender
    #[arg(long, default_value_t = 15, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,

    /// The most time for a workload's samples, shared equally: a contender that has used its share gets no more, but 3 at least
    #[arg(long, default_value_t = 15.0, value_name = "SECONDS")]
    seconds: f64,

    /// The buffer that memory's bandwidth is measured over [default: four times the last cache, within 512M and 1G]
    #[arg(long, value_name = "BYTES")]
    stream_bytes: Option<ByteSize>,

    /// Waits for a line on stdin before every round, and prints a JSON line for it: so another program interleaves its own rounds
    #[arg(long, conflicts_with_all = ["json", "markdown", "svg", "compare"])]
    paced: bool,

    /// Prints JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,

    /// Prints tables in Markdown
    #[arg(long)]
    markdown: bool,

    /// Draws the shares of the floor into this file as well
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Compares with what --json printed earlier, and exits 1 where a row became slower by more than both vary
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
}

/// Fewer samples than this are remarked upon.
const FEW_SAMPLES: u32 = 10;

/// Up to so many leaf elements, times the reducers, a workload is checked as it is: the reference backend takes seconds over them.
const MOST_CHECKED: u64 = 1 << 27;

pub(crate) fn run(mut args: BenchArgs, ui: &Ui) -> CliResult {
    for backend in &mut args.backends {
        *backend = backend.settled(&args.cuda, ui);
    }
    let threads = args.threads;
    let session = Session { open: &|backend| backend.open(threads, &args.cuda), most_checked: MOST_CHECKED, ui, args: &args };
    if let Some(folder) = &args.export {
        return session.export(folder);
    }
    if args.paced {
        return session.paced();
    }
    // What cannot be compared is refused before minutes are spent on measuring.
    let old = args.compare.as_deref().map(|path| session.older(path)).transpose()?;
    let mut report = session.run()?;
    if let (Some(old), Some(path)) = (&old, &args.compare) {
        report.comparison = Some(compare::compare(old, &report, path)?);
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, chart::draw(&report)).map_err(|cause| file_error("write", path, cause))?;
    }
    if args.json {
        ui.print_json(&report)?;
    } else if args.markdown {
        ui.print(report.markdown())?;
    } else {
        ui.print(report.text())?;
    }
    if report.comparison.is_some_and(|comparison| comparison.has_regressed()) { Err(Failure::Verdict) } else { Ok(()) }
}

/// One call of the command.
struct Session<'a> {
    args: &'a BenchArgs,
    ui: &'a Ui,
    /// Opens a backend by its name.
    open: &'a dyn Fn(BackendName) -> Result<Box<dyn Backend>, Error>,
    /// [`MOST_CHECKED`], unless a test says otherwise.
    most_checked: u64,
}

impl BenchArgs {
    fn size(&self, workload: Workload) -> Result<Size, Error> {
        if !self.dtype.is_float() {
            return Err(Error::new(ErrorCode::DType, format!("values cannot be {}", self.dtype)).help("values are f32, f64, f16 or bf16"));
        }
        Ok(Size {
            rows: self.rows.unwrap_or(workload.rows()),
            features: self.features.unwrap_or(workload.features()),
            dtype: self.dtype,
            reduce: if self.reduce.is_empty() { vec![workload.reduce()] } else { self.reduce.clone() },
            levels: self.levels,
            keep: Keep::of(&self.keep)?,
            order: self.layout,
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

    fn stream(&self) -> Result<Stream, Error> {
        Stream::new(self.threads(), self.stream_bytes.map(|size| size.0))
    }
}

/// Where a case comes from.
enum Source {
    Spec(PathBuf),
    Folder(PathBuf),
    Workload(Workload),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::Spec(path) | Source::Folder(path) => path.display().to_string(),
            Source::Workload(workload) => workload.name().to_owned(),
        }
    }
}

impl Session<'_> {
    fn run(&self) -> CliResult<Report> {
        let args = self.args;
        if args.rounds < FEW_SAMPLES {
            self.ui.warn(format_args!("{} rounds are few: take {FEW_SAMPLES} or more for numbers to publish", args.rounds));
        }
        let trial = self.trial()?;
        let mut stream = args.stream()?;
        let mut benches = Vec::new();
        for source in self.sources() {
            let material = self.material(&source)?;
            let inputs = material.case.inputs()?;
            let mut judged = trial.judge(&material, &inputs)?;
            let streams = trial.measure(&mut judged.contenders, &inputs, &mut stream)?;
            benches.push(self.bench(&source, &judged, &streams, stream.bytes())?);
        }
        Ok(Report::new(Machine::here(args.threads()), benches))
    }

    fn bench(&self, source: &Source, judged: &trial::Judged, streams: &trial::Streams, buffer_bytes: usize) -> Result<Bench, Error> {
        let first = judged.contenders.first().ok_or_else(|| Error::new(ErrorCode::Option, "there is no backend to measure"))?;
        let subject = Subject {
            workload: &source.name(),
            seed: self.args.seed,
            layout: match self.args.layout {
                Order::RowMajor => "row-major",
                Order::FeatureMajor => "feature-major",
            },
            plan: first.prepared.plan(),
        };
        let bench = Bench::new(&subject, &judged.contenders, streams, buffer_bytes);
        Ok(Bench { checked_rows: judged.checked_rows, peak_memory_bytes: judged.peak_bytes, ..bench })
    }

    fn trial(&self) -> CliResult<Trial<'_>> {
        let args = self.args;
        if !args.seconds.is_finite() || args.seconds < 0.0 {
            return Err(Failure::Usage("--seconds takes a number of 0 or more".into()));
        }
        Ok(Trial {
            ui: self.ui,
            open: self.open,
            configs: args.configs(),
            disable_pass: &args.disable_pass,
            memory_limit: args.memory_limit.map(|limit| limit.0),
            rounds: args.rounds,
            seconds: args.seconds,
            seed: args.seed,
        })
    }

    fn sources(&self) -> Vec<Source> {
        let args = self.args;
        match (&args.spec, &args.data) {
            (Some(spec), _) => vec![Source::Spec(spec.clone())],
            (None, Some(folder)) => vec![Source::Folder(folder.clone())],
            (None, None) => {
                let mut workloads: Vec<Workload> = Vec::new();
                for &workload in &args.workload {
                    if !workloads.contains(&workload) {
                        workloads.push(workload);
                    }
                }
                workloads.into_iter().map(Source::Workload).collect()
            }
        }
    }

    /// What is timed, and, where checking that would take too long, a copy of fewer rows to check instead.
    fn material(&self, source: &Source) -> Result<Material, Error> {
        let args = self.args;
        let whole = |case| Ok(Material { case, small: None });
        let workload = match source {
            Source::Spec(path) => return whole(Case::of_spec(path, &args.bind, args.seed)?),
            Source::Folder(folder) => return whole(export::load(folder, args.seed)?),
            Source::Workload(workload) => *workload,
        };
        let size = args.size(workload)?;
        let case = Case::of_workload(workload, &size)?;
        let wide = size.features.saturating_mul(u64::try_from(size.reduce.len()).unwrap_or(u64::MAX)).max(1);
        if size.rows <= self.most_checked / wide {
            return whole(case);
        }
        let rows = (self.most_checked / wide).max(1);
        let small = Case::of_workload(workload, &Size { rows, ..size })?;
        Ok(Material { case, small: Some((small, rows)) })
    }

    fn export(&self, folder: &Path) -> CliResult {
        let [workload] = *self.args.workload.as_slice() else {
            return Err(Failure::Usage("--export writes one workload: name one".into()));
        };
        export::export(&Case::of_workload(workload, &self.args.size(workload)?)?, folder)?;
        self.ui.note(format_args!("wrote {}", folder.display()));
        Ok(())
    }

    fn paced(&self) -> CliResult {
        let [source] = &self.sources()[..] else {
            return Err(Failure::Usage("--paced measures one workload: name one".into()));
        };
        let (trial, material) = (self.trial()?, self.material(source)?);
        let inputs = material.case.inputs()?;
        let mut judged = trial.judge(&material, &inputs)?;
        let mut stream = self.args.stream()?;
        let streams = paced::measure(&trial, &mut judged.contenders, &inputs, &mut stream)?;
        let bench = self.bench(source, &judged, &streams, stream.bytes())?;
        paced::finish(self.ui, &Report::new(Machine::here(self.args.threads()), vec![bench]))
    }

    /// An older report, of this machine.
    fn older(&self, path: &Path) -> Result<Report, Error> {
        let old = compare::read(path)?;
        compare::same_machine(&old, &Machine::here(self.args.threads()))?;
        Ok(old)
    }
}

#[cfg(test)]
mod tests;

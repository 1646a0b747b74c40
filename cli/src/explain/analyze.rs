//! `levelfold explain --analyze`: a plan, run, and what every step of it took.
//!
//! Bytes are counted by the backend, and a count that differs from the plan is an error: a table of costs that did not happen is worth
//! nothing.

use super::ExplainArgs;
use crate::bench::bandwidth::{Bandwidth, Stream};
use crate::bench::case::Case;
use crate::bench::stats::Samples;
use crate::columns::{Columns, bytes, seconds, three_digits};
use crate::diff::step_name;
use crate::execute::execute;
use crate::failure::CliResult;
use crate::memory::output_tensors;
use crate::ui::Ui;
use levelfold::backend::RunReport;
use levelfold::numerics::count_to_f64;
use levelfold::plan::{Load, Step, StepKind};
use levelfold::{Engine, EngineOptions, Error, ErrorCode, Hierarchy, Plan};
use serde::Serialize;
use std::time::Duration;

/// What was found.
#[derive(Serialize)]
struct Analysis {
    plan: String,
    backend: &'static str,
    threads: Option<u32>,
    /// Inputs that were made from the seed, because no file was bound.
    made_inputs: Vec<String>,
    seed: u64,
    runs: u32,
    read_bytes_per_second: f64,
    write_bytes_per_second: f64,
    steps: Vec<StepFacts>,
    /// The whole run: binding, checking and transfers included.
    seconds: f64,
    kernel_seconds: f64,
    transfer_seconds: f64,
    uploaded_bytes: u64,
    downloaded_bytes: u64,
    /// Of the plan: every needed input read once, every output written once.
    floor_seconds: f64,
    share_of_floor: f64,
}

#[derive(Serialize)]
struct StepFacts {
    step: usize,
    does: String,
    /// The median. Nothing where the device measures only the whole.
    seconds: Option<f64>,
    p10_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    /// As planned, and as counted while it ran.
    read_bytes: u64,
    written_bytes: u64,
    bytes_per_second: Option<f64>,
    /// As planned.
    flops: u64,
    flops_per_second: Option<f64>,
    /// The least time for the bytes of this step: what it reads at the read bandwidth of memory, each looked-up row once, and what it
    /// writes at the write bandwidth.
    floor_seconds: f64,
    time_over_floor: Option<f64>,
    share_of_floor: Option<f64>,
}

pub(super) fn run(hierarchy: Hierarchy, args: &ExplainArgs, ui: &Ui) -> CliResult {
    let case = Case::of_hierarchy(hierarchy, &args.bind, args.seed)?;
    let inputs = case.inputs()?;
    let options = EngineOptions { opt: args.plan.opt_level(), without: args.plan.disable_pass.clone(), memory_limit: None };
    let backend = args.target().open_measuring(args.threads, &args.cuda)?;
    let prepared = Engine::with_options(backend, options).prepare(case.hierarchy())?;
    let plan = prepared.plan();
    let mut outputs = output_tensors(plan)?;
    // Pages are touched, and arenas taken, before anything is timed.
    outputs.iter_mut().for_each(|output| output.bytes.as_mut().fill(0xff));
    check_bytes(plan, &execute(&prepared, &inputs, &mut outputs, RunReport::clone)?)?;
    let mut stream = Stream::new(threads(args), args.stream_bytes.map(|size| size.0))?;
    let (mut reports, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        ui.check_interrupt()?;
        streams.push(stream.measure());
        // What fits the caches is measured out of the caches, as it will be met again: the run before this one is not counted.
        execute(&prepared, &inputs, &mut outputs, |_| ())?;
        let report = execute(&prepared, &inputs, &mut outputs, RunReport::clone)?;
        check_bytes(plan, &report)?;
        reports.push(report);
    }
    let of = |number: fn(&Bandwidth) -> f64| Samples::new(streams.iter().map(number).collect()).median();
    let typical = Bandwidth { read: of(|stream| stream.read), write: of(|stream| stream.write), copy: of(|stream| stream.copy) };
    let analysis = Analysis::new(args, plan, &case, &reports, &typical);
    if args.json { ui.print_json(&analysis) } else { ui.print(format_args!("{plan}\n{}", analysis.text())) }
}

fn threads(args: &ExplainArgs) -> usize {
    let said = args.threads.and_then(|threads| usize::try_from(threads).ok());
    said.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |threads| threads.get()))
}

/// Every step moved what the plan says.
fn check_bytes(plan: &Plan, report: &RunReport) -> Result<(), Error> {
    let mut wrong = Vec::new();
    for (index, (step, done)) in plan.steps.iter().zip(&report.steps).enumerate() {
        if (step.cost.read, step.cost.written) != (done.read, done.written) {
            let message = format!(
                "the plan says {} read and {} written, but {} and {} were counted",
                step.cost.read, step.cost.written, done.read, done.written
            );
            wrong.push(Error::new(ErrorCode::Internal, message).at_level(format!("s{index}")));
        }
    }
    if plan.steps.len() != report.steps.len() {
        let message = format!("the plan has {} steps, and {} were reported", plan.steps.len(), report.steps.len());
        wrong.push(Error::new(ErrorCode::Internal, message));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::collected(ErrorCode::Internal, "steps moved other bytes than planned", wrong)) }
}

impl Analysis {
    fn new(args: &ExplainArgs, plan: &Plan, case: &Case, reports: &[RunReport], typical: &Bandwidth) -> Self {
        let samples = |of: &dyn Fn(&RunReport) -> Duration| Samples::new(reports.iter().map(|report| of(report).as_secs_f64()).collect());
        let floor = plan.floor();
        let floor_seconds = typical.floor(count_to_f64(floor.read), count_to_f64(floor.written));
        let seconds = samples(&|report| report.time).median();
        let moved = reports.first().map(|report| report.transfers).unwrap_or_default();
        // A device that replays all steps as one measures only the whole.
        let apart = reports.iter().any(|report| report.steps.iter().any(|step| step.time > Duration::ZERO));
        let steps = plan.steps.iter().enumerate().map(|(index, step)| {
            let times = apart.then(|| samples(&|report| report.steps[index].time));
            StepFacts::new(plan, index, step, times.as_ref(), typical)
        });
        Analysis {
            plan: plan.summary(),
            backend: args.target().name(),
            threads: args.threads,
            made_inputs: case.made().map(str::to_owned).collect(),
            seed: args.seed,
            runs: args.runs,
            read_bytes_per_second: typical.read,
            write_bytes_per_second: typical.write,
            steps: steps.collect(),
            seconds,
            kernel_seconds: samples(&|report| report.device_time.unwrap_or_else(|| report.steps.iter().map(|step| step.time).sum()))
                .median(),
            transfer_seconds: samples(&|report| report.transfers.time).median(),
            uploaded_bytes: moved.uploaded,
            downloaded_bytes: moved.downloaded,
            floor_seconds,
            share_of_floor: if seconds > 0.0 { floor_seconds / seconds } else { 0.0 },
        }
    }

    fn text(&self) -> String {
        let mut columns = Columns::new(&[
            "step",
            "median",
            "p10-p90",
            "read",
            "written",
            "GB/s",
            "GFLOP/s",
            "floor",
            "time/floor",
            "share of floor",
            "does",
        ]);
        let or_dash = |value: Option<f64>, show: &dyn Fn(f64) -> String| value.map_or_else(|| "-".to_owned(), show);
        for step in &self.steps {
            columns.row([
                format!("s{}", step.step),
                or_dash(step.seconds, &seconds),
                step.p10_seconds
                    .zip(step.p90_seconds)
                    .map_or_else(|| "-".into(), |(low, high)| format!("{} - {}", seconds(low), seconds(high))),
                bytes(step.read_bytes),
                bytes(step.written_bytes),
                or_dash(step.bytes_per_second, &|rate| three_digits(rate / 1e9)),
                or_dash(step.flops_per_second, &|rate| three_digits(rate / 1e9)),
                seconds(step.floor_seconds),
                or_dash(step.time_over_floor, &|times| format!("{}x", three_digits(times))),
                or_dash(step.share_of_floor, &|share| format!("{:.0}%", 100.0 * share)),
                step.does.clone(),
            ]);
        }
        let data = match &self.made_inputs[..] {
            [] => "the bound files".to_owned(),
            made => format!("seeded random data (seed {}) for {}", self.seed, made.join(", ")),
        };
        let mut text = format!(
            "analyzed on {}, {} runs over {data}; memory read {} GB/s, write {} GB/s\n\n{columns}\nwhole run {}, of it in steps {}; floor {}, share of floor {:.0}%\n",
            self.backend,
            self.runs,
            three_digits(self.read_bytes_per_second / 1e9),
            three_digits(self.write_bytes_per_second / 1e9),
            seconds(self.seconds),
            seconds(self.kernel_seconds),
            seconds(self.floor_seconds),
            100.0 * self.share_of_floor,
        );
        if self.uploaded_bytes > 0 || self.downloaded_bytes > 0 {
            text += &format!(
                "transfers {}: {} brought to the device, {} brought back\n",
                seconds(self.transfer_seconds),
                bytes(self.uploaded_bytes),
                bytes(self.downloaded_bytes)
            );
        }
        if self.steps.iter().any(|step| step.seconds.is_none()) {
            text += "the device replays all steps as one, so that only the whole is measured\n";
        }
        text + "bytes: as planned, and counted so in every run. floor: the least time for a step's bytes at the bandwidth of memory, a looked-up\n\
                table read once; share of floor: 100% is as fast as memory allows, and data in a cache may go beyond it.\n"
    }
}

impl StepFacts {
    fn new(plan: &Plan, index: usize, step: &Step, times: Option<&Samples>, typical: &Bandwidth) -> Self {
        let median = times.map(Samples::median);
        let floor_seconds = typical.floor(count_to_f64(needed(plan, step)), count_to_f64(step.cost.written));
        let moved = count_to_f64(step.cost.read.saturating_add(step.cost.written));
        let positive = |seconds: &f64| *seconds > 0.0;
        StepFacts {
            step: index,
            does: step_name(step),
            seconds: median,
            p10_seconds: times.map(|times| times.quantile(0.1)),
            p90_seconds: times.map(|times| times.quantile(0.9)),
            read_bytes: step.cost.read,
            written_bytes: step.cost.written,
            bytes_per_second: median.filter(positive).map(|seconds| moved / seconds),
            flops: step.cost.flops,
            flops_per_second: median
                .filter(positive)
                .filter(|_| step.cost.flops > 0)
                .map(|seconds| count_to_f64(step.cost.flops) / seconds),
            floor_seconds,
            time_over_floor: median.filter(|_| floor_seconds > 0.0).map(|seconds| seconds / floor_seconds),
            share_of_floor: median.filter(positive).map(|seconds| floor_seconds / seconds),
        }
    }
}

/// What a step has to read: everything once, however often a row is looked up or shared by segments.
fn needed(plan: &Plan, step: &Step) -> u64 {
    let StepKind::Fold(fold) = &step.kind else { return step.cost.read };
    let values = match fold.load {
        Load::View { values } => values,
        Load::Gather { table, .. } => table,
        // Its table is counted once already.
        Load::Histogram { .. } => return step.cost.read,
    };
    let buffer = plan.buffer_of(values);
    let row = plan.view(values).features.saturating_mul(buffer.dtype.size_u64());
    let rows = fold.stages.first().map_or(0, |stage| plan.table(stage.table).total_rows);
    step.cost.read.saturating_sub(rows.saturating_sub(buffer.rows).saturating_mul(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use levelfold::backend::{StepReport, Target};
    use levelfold::optimize::Planner;
    use levelfold::{DType, Leaves, Level, Reducer, Segments};

    fn plan(leaves: Leaves) -> Plan {
        let hierarchy = Hierarchy::new(leaves).level(Level::new("all", Segments::whole(1000)).reduce(Reducer::Sum));
        Planner::new(Target::new("cpu")).plan(hierarchy.graph().unwrap()).unwrap().plan
    }

    #[test]
    fn a_table_is_needed_once() {
        // 1000 rows of 2 f32, 2 offsets; or 1000 ids, 256 rows of 2 f32, 2 offsets.
        let (rows, lookup) = (plan(Leaves::values("x", DType::F32, 2)), plan(Leaves::lookup("x", DType::U8, DType::F32, 256, 2)));
        assert_eq!(needed(&rows, &rows.steps[0]), 8000 + 16);
        assert_eq!((needed(&lookup, &lookup.steps[0]), lookup.steps[0].cost.read), (1000 + 2048 + 16, 1000 + 8000 + 16));
    }

    #[test]
    fn bytes_that_were_not_planned_are_an_error() {
        let plan = plan(Leaves::values("x", DType::F32, 2));
        let cost = plan.steps[0].cost;
        let report =
            |read| RunReport { steps: vec![StepReport { read, written: cost.written, ..StepReport::default() }], ..RunReport::default() };
        assert_eq!(check_bytes(&plan, &report(cost.read)), Ok(()));
        let message = check_bytes(&plan, &report(1)).unwrap_err().to_string();
        assert!(message.contains("the plan says 8016 read and 8 written, but 1 and 8 were counted"), "{message}");
        assert!(check_bytes(&plan, &RunReport::default()).is_err());
    }
}

use super::trial::shuffled;
use super::*;
use crate::cuda::CudaOptions;
use crate::failure::exit_code;
use crate::ui::ColorChoice;
use clap::Parser;
use levelfold::backend::{Bindings, Executable, RunReport, Target};
use levelfold::{Plan, Result};
use levelfold_cpu::CpuBackend;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Parser)]
#[command(args_override_self = true)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

/// The CPU backend, until one bit goes wrong: that of the first element of the first output, from the run with this number on.
struct OffByOneBit {
    cpu: CpuBackend,
    from_run: u32,
}

struct OffByOneBitExecutable {
    cpu: Box<dyn Executable>,
    runs_left: u32,
}

impl Backend for OffByOneBit {
    fn target(&self) -> &Target {
        self.cpu.target()
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        Ok(Box::new(OffByOneBitExecutable { cpu: self.cpu.compile(plan)?, runs_left: self.from_run }))
    }
}

impl Executable for OffByOneBitExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        let report = self.cpu.run(bindings)?;
        if self.runs_left == 0 {
            for (_, view) in bindings.outputs_mut().take(1) {
                let elements: &mut [f32] = view.elements_mut().expect("an output of f32");
                elements[0] = f32::from_bits(elements[0].to_bits() ^ 1);
            }
        }
        self.runs_left = self.runs_left.saturating_sub(1);
        Ok(report)
    }

    fn scratch_bytes(&self) -> u64 {
        self.cpu.scratch_bytes()
    }
}

/// A benchmark whose CPU backend goes wrong in a run, if it does.
fn bench(arguments: &[&str], wrong_from: Option<u32>, most_checked: u64) -> CliResult<Report> {
    let small = ["bench", "--rows", "400", "--features", "3", "--rounds", "3", "--stream-bytes", "64K", "--threads", "1"];
    let args = Line::parse_from([&small[..], arguments].concat()).bench;
    let open = |name: BackendName| match wrong_from {
        Some(from_run) if name == BackendName::Cpu => {
            Ok(Box::new(OffByOneBit { cpu: CpuBackend::builder().threads(1).build()?, from_run }) as Box<dyn Backend>)
        }
        Some(_) | None => name.open(Some(1), &CudaOptions::default()),
    };
    Session { args: &args, ui: &quiet(), open: &open, most_checked }.run()
}

fn quiet() -> Ui {
    Ui::new(ColorChoice::Never, true)
}

fn error_of(result: CliResult<Report>) -> String {
    match result {
        Err(Failure::Error(error)) => error.to_string(),
        Err(failure) => panic!("{failure:?}"),
        Ok(report) => panic!("a wrong backend has won:\n{}", report.text()),
    }
}

#[test]
fn a_backend_that_is_wrong_by_one_bit_cannot_win() {
    for opt in ["0", "1", "2"] {
        let message = error_of(bench(&["--opt", opt], Some(0), MOST_CHECKED));
        assert!(message.contains(&format!("cpu -O{opt}: 1 element(s) differ from the reference backend's")), "{message}");
        // The same on a copy, where the reference takes too long over all rows.
        let message = error_of(bench(&["--opt", opt], Some(0), 300));
        assert!(message.contains(&format!("cpu -O{opt}: 1 element(s) differ")), "{message}");
    }
    let result = bench(&[], Some(0), MOST_CHECKED).map(|_| ());
    assert_eq!(format!("{:?}", exit_code(result, &quiet())), format!("{:?}", ExitCode::from(1)));
}

#[test]
fn a_backend_that_goes_wrong_later_cannot_win_either() {
    // The run that is judged, one to warm up, three samples of many runs, the last look: wrong in any of them.
    for from_run in [1, 2, 5] {
        let message = error_of(bench(&["--opt", "1"], Some(from_run), MOST_CHECKED));
        assert!(message.contains("cpu -O1: a later run gave other bits than the first"), "{from_run}: {message}");
    }
}

#[test]
fn a_right_backend_is_measured() {
    let report = bench(&["--backends", "cpu,reference"], None, MOST_CHECKED).expect("a report");
    let json = &serde_json::to_value(&report).expect("JSON")["benches"][0];
    assert_eq!((&json["checked_rows"], json["rows"].as_array().map(Vec::len)), (&serde_json::Value::Null, Some(6)));
    assert!(!report.text().contains("Checked on a copy"));
}

#[test]
fn what_takes_the_reference_too_long_is_checked_on_a_copy() {
    let report = bench(&["--opt", "0,1,2", "--reduce", "mean,max"], None, 600).expect("a report");
    let json = &serde_json::to_value(&report).expect("JSON")["benches"][0];
    assert_eq!(json["checked_rows"], 100);
    assert!(json["inputs"][0].as_str().is_some_and(|input| input.contains("[400, 3]")), "{json}");
    assert!(report.text().contains("Checked on a copy of 100 rows"), "{}", report.text());
}

#[test]
fn the_time_limit_leaves_three_samples() {
    let report = bench(&["--rounds", "50", "--seconds", "0", "--opt", "1"], None, MOST_CHECKED).expect("a report");
    assert_eq!(serde_json::to_value(&report).expect("JSON")["benches"][0]["rows"][0]["samples"], 3);
}

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

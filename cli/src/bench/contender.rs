//! One backend at one optimization level: prepared, warm, and timed.

use super::bandwidth::Bandwidth;
use super::process::HighWater;
use super::stats::Samples;
use super::yardstick::Judgement;
use crate::backends::BackendName;
use crate::execute::{Input, execute, hash};
use crate::memory::{Tensor, output_tensors};
use levelfold::{Engine, Error, ErrorCode, Hierarchy, OptLevel, Prepared};
use std::fmt;
use std::time::{Duration, Instant};

/// What is compared: a backend at an optimization level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) backend: BackendName,
    pub(super) opt: OptLevel,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -{}", self.backend.name(), self.opt)
    }
}

/// A prepared plan, its outputs and its times.
pub(super) struct Contender {
    pub(super) config: Config,
    pub(super) prepared: Prepared,
    pub(super) outputs: Vec<Tensor>,
    pub(super) hash: u64,
    pub(super) judgement: Judgement,
    /// By how much the memory of the process grew at most while it was prepared and first ran, where the system says so.
    pub(super) grown: Option<u64>,
    /// Runs a sample: so many that the clock is fine enough.
    runs: u32,
    samples: Vec<Sample>,
    /// Bytes that a run brings to a device, and back.
    pub(super) transferred: [u64; 2],
    /// Seconds that its samples took.
    pub(super) spent: f64,
}

/// One timing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Seconds a run.
    pub(super) seconds: f64,
    /// Of them, seconds inside the steps of the plan, by the clock of the device where there is one.
    pub(super) in_steps: f64,
    /// Of them, seconds in which data moved to a device and back.
    pub(super) in_transfers: f64,
    /// What memory gave just before.
    pub(super) bandwidth: Bandwidth,
}

/// The shortest sample that the clock and the scheduler leave meaningful, in seconds.
const SHORTEST_SAMPLE: f64 = 5e-3;

impl Contender {
    /// Prepares, and runs until it is warm. Nobody has judged it yet.
    ///
    /// # Errors
    /// What planning, compiling or running says; `internal` where the second run gives other bits than the first.
    pub(super) fn new(
        config: Config,
        engine: &Engine,
        hierarchy: &Hierarchy,
        inputs: &[Input<'_>],
        memory: &mut HighWater,
    ) -> Result<Self, Error> {
        let before = memory.restart();
        let prepared = engine.prepare(hierarchy)?;
        let mut outputs = output_tensors(prepared.plan())?;
        // Pages of outputs are touched here, so that no backend pays for them.
        poison(&mut outputs);
        execute(&prepared, inputs, &mut outputs, |_| ())?;
        let grown = before.and_then(|before| Some(memory.since_restart()?.saturating_sub(before)));
        let hash = hash(&outputs);
        let mut contender = Contender {
            config,
            prepared,
            outputs,
            hash,
            judgement: Judgement::default(),
            grown,
            runs: 1,
            samples: Vec::new(),
            transferred: [0; 2],
            spent: 0.0,
        };
        let (warm, ..) = contender.time(inputs)?;
        contender.check_unchanged()?;
        if warm < SHORTEST_SAMPLE {
            // Between 1 and 50 000, so the conversion is exact enough.
            contender.runs = (SHORTEST_SAMPLE / warm.max(1e-7)).ceil() as u32;
        }
        Ok(contender)
    }

    /// One more sample, after memory gave this.
    ///
    /// # Errors
    /// What running says; `internal` where it gives other bits than the first run did.
    pub(super) fn sample(&mut self, inputs: &[Input<'_>], bandwidth: Bandwidth) -> Result<Sample, Error> {
        if self.runs > 1 {
            // What fits the caches is measured out of the caches, and not by how it gets there.
            execute(&self.prepared, inputs, &mut self.outputs, |_| ())?;
        }
        let (seconds, in_steps, in_transfers) = self.time(inputs)?;
        let sample = Sample { seconds, in_steps, in_transfers, bandwidth };
        self.samples.push(sample);
        self.spent += seconds * f64::from(self.runs);
        self.check_unchanged()?;
        Ok(sample)
    }

    /// Runs once more, over outputs that hold something else: an element that is no longer written shows.
    ///
    /// # Errors
    /// What running says; `internal` where the bits are not those of the first run.
    pub(super) fn check_once_more(&mut self, inputs: &[Input<'_>]) -> Result<(), Error> {
        poison(&mut self.outputs);
        execute(&self.prepared, inputs, &mut self.outputs, |_| ())?;
        self.check_unchanged()
    }

    /// How many samples there are.
    pub(super) fn sampled(&self) -> usize {
        self.samples.len()
    }

    /// A number of every sample.
    pub(super) fn samples(&self, number: impl FnMut(&Sample) -> f64) -> Samples {
        Samples::new(self.samples.iter().map(number).collect())
    }

    /// Seconds a run; of them inside the steps, and in transfers.
    fn time(&mut self, inputs: &[Input<'_>]) -> Result<(f64, f64, f64), Error> {
        let (mut in_steps, mut in_transfers) = (Duration::ZERO, Duration::ZERO);
        let start = Instant::now();
        for _ in 0..self.runs {
            execute(&self.prepared, inputs, &mut self.outputs, |report| {
                in_steps += report.device_time.unwrap_or_else(|| report.steps.iter().map(|step| step.time).sum());
                in_transfers += report.transfers.time;
                self.transferred = [report.transfers.uploaded, report.transfers.downloaded];
            })?;
        }
        let runs = f64::from(self.runs);
        Ok((start.elapsed().as_secs_f64() / runs, in_steps.as_secs_f64() / runs, in_transfers.as_secs_f64() / runs))
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        if hash(&self.outputs) == self.hash {
            return Ok(());
        }
        Err(Error::new(ErrorCode::Internal, "a later run gave other bits than the first").at_level(self.config.to_string()))
    }
}

/// What no fold gives.
fn poison(outputs: &mut [Tensor]) {
    outputs.iter_mut().for_each(|output| output.bytes.as_mut().fill(0xff));
}

//! One backend at one optimization level: prepared, checked, and timed.

use super::oracle::{self, Expected};
use super::stats::Samples;
use crate::backends::BackendName;
use crate::execute::{Input, execute, hash};
use crate::memory::{Tensor, output_tensors};
use levelfold::{Engine, EngineOptions, Error, ErrorCode, Hierarchy, OptLevel, Prepared};
use std::time::Instant;

/// What is compared: a backend at an optimization level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) backend: BackendName,
    pub(super) opt: OptLevel,
}

/// How a result was held against the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every bit is the reference's.
    SameBits,
    /// The plan reassociates, some bits differ, and every element keeps the bound against f64.
    WithinBound,
    /// The plan keeps bits, or should, and these differ.
    WrongBits {
        /// How many elements differ.
        elements: usize,
    },
    /// The plan reassociates, and an element is further from f64 than the bound allows.
    OutOfBound,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Verdict::SameBits => "bits",
            Verdict::WithinBound => "bound",
            Verdict::WrongBits { .. } => "WRONG BITS",
            Verdict::OutOfBound => "OUT OF BOUND",
        }
    }

    pub(super) fn is_right(self) -> bool {
        match self {
            Verdict::SameBits | Verdict::WithinBound => true,
            Verdict::WrongBits { .. } | Verdict::OutOfBound => false,
        }
    }
}

/// A prepared plan, its outputs and its times.
pub(super) struct Contender {
    pub(super) config: Config,
    pub(super) prepared: Prepared,
    pub(super) outputs: Vec<Tensor>,
    pub(super) hash: u64,
    pub(super) verdict: Verdict,
    /// The largest |y − exact| ÷ magnitude of any output.
    pub(super) error: f64,
    /// By how much the memory of the process grew at most while it was prepared and first ran, where the system says so.
    pub(super) grown: Option<u64>,
    /// Runs a sample: so many that the clock is fine enough.
    runs: u32,
    samples: Vec<f64>,
}

/// The shortest sample that the clock and the scheduler leave meaningful, in seconds.
const SHORTEST_SAMPLE: f64 = 1e-3;

impl Contender {
    /// Prepares, and runs until it is warm.
    ///
    /// # Errors
    /// What planning, compiling or running says.
    pub(super) fn new(
        config: Config,
        options: EngineOptions,
        threads: Option<u32>,
        hierarchy: &Hierarchy,
        inputs: &[Input<'_>],
    ) -> Result<Self, Error> {
        let engine = Engine::with_options(config.backend.open(threads)?, EngineOptions { opt: config.opt, ..options });
        let before = reset_high_water();
        let prepared = engine.prepare(hierarchy)?;
        let mut outputs = output_tensors(prepared.plan())?;
        // Pages of outputs are touched here, so that no backend pays for them.
        outputs.iter_mut().for_each(|output| output.bytes.as_mut().fill(0xff));
        execute(&prepared, inputs, &mut outputs, |_| ())?;
        let grown = before.and_then(|before| Some(status_bytes("VmHWM:")?.saturating_sub(before)));
        let mut contender =
            Contender { config, prepared, outputs, hash: 0, verdict: Verdict::SameBits, error: 0.0, grown, runs: 1, samples: Vec::new() };
        let warm = contender.time(inputs)?;
        if warm < SHORTEST_SAMPLE {
            // Between 1 and 10 000, so the conversion is exact enough.
            contender.runs = (SHORTEST_SAMPLE / warm.max(1e-7)).ceil() as u32;
            contender.time(inputs)?;
        }
        contender.hash = hash(&contender.outputs);
        Ok(contender)
    }

    /// Holds the outputs against the reference's, bit for bit, and against f64.
    ///
    /// # Errors
    /// None that prepared outputs can meet.
    pub(super) fn judge(&mut self, reference: &[Tensor], expected: &[Expected]) -> Result<(), Error> {
        let mut holds = true;
        for (output, expected) in
            self.outputs.iter().filter_map(|output| Some((output, expected.iter().find(|expected| *expected.name == *output.name)?)))
        {
            let deviation = oracle::deviation(expected, output)?;
            self.error = self.error.max(deviation.error);
            holds &= deviation.holds;
        }
        self.verdict = match (different_elements(&self.outputs, reference), self.config.opt) {
            (0, _) => Verdict::SameBits,
            (elements, OptLevel::O0 | OptLevel::O1) => Verdict::WrongBits { elements },
            (_, OptLevel::O2) if holds => Verdict::WithinBound,
            (_, OptLevel::O2) => Verdict::OutOfBound,
        };
        Ok(())
    }

    /// One more sample.
    ///
    /// # Errors
    /// What running says; `internal` where a run gives other bits than the first did.
    pub(super) fn sample(&mut self, inputs: &[Input<'_>]) -> Result<(), Error> {
        let time = self.time(inputs)?;
        self.samples.push(time);
        Ok(())
    }

    /// Whether the outputs still have the bits that were judged.
    ///
    /// # Errors
    /// `internal` where they have not.
    pub(super) fn check_unchanged(&self) -> Result<(), Error> {
        if hash(&self.outputs) == self.hash {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Internal,
            format!("{} at {} gave other bits in a later run", self.config.backend.name(), self.config.opt),
        ))
    }

    /// Seconds a run.
    pub(super) fn samples(&self) -> Samples {
        Samples::new(self.samples.clone())
    }

    fn time(&mut self, inputs: &[Input<'_>]) -> Result<f64, Error> {
        let start = Instant::now();
        for _ in 0..self.runs {
            execute(&self.prepared, inputs, &mut self.outputs, |_| ())?;
        }
        Ok(start.elapsed().as_secs_f64() / f64::from(self.runs))
    }
}

/// How many elements differ in their bits.
fn different_elements(found: &[Tensor], wanted: &[Tensor]) -> usize {
    let mut different = 0;
    for output in found {
        match wanted.iter().find(|wanted| wanted.name == output.name && wanted.shape == output.shape && wanted.dtype == output.dtype) {
            Some(wanted) => {
                let size = output.dtype.size();
                let pairs = output.bytes.as_ref().chunks_exact(size).zip(wanted.bytes.as_ref().chunks_exact(size));
                different += pairs.filter(|(found, wanted)| found != wanted).count();
            }
            None => different += (output.shape[0] * output.shape[1]).max(1),
        }
    }
    different
}

/// Begins a new high-water mark of the process's memory; gives what it holds now. Only Linux tells.
fn reset_high_water() -> Option<u64> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    status_bytes("VmRSS:")
}

fn status_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::{Size, Workload, data};
    use levelfold::{DType, Reducer};

    /// A contender over a small text, the reference's outputs, and f64's.
    fn judged(opt: OptLevel, spoil: impl Fn(&mut [Tensor])) -> Verdict {
        let size = Size { rows: Some(500), features: Some(3), dtype: DType::F32, reduce: vec![Reducer::Sum], seed: 1 };
        let hierarchy = Workload::Text.hierarchy(&size).unwrap();
        let new = |backend, opt, inputs: &[Input<'_>]| {
            Contender::new(Config { backend, opt }, EngineOptions::default(), Some(1), &hierarchy, inputs).unwrap()
        };
        let plan = levelfold::optimize::Planner::new(levelfold_cpu::target()).plan(hierarchy.graph().unwrap()).unwrap().plan;
        let tensors = data(&hierarchy, &plan, &[], 1).unwrap();
        let inputs: Vec<Input<'_>> = tensors.iter().map(|tensor| (&*tensor.name, tensor.view().unwrap())).collect();
        let reference = new(BackendName::Reference, OptLevel::O0, &inputs);
        let mut contender = new(BackendName::Cpu, opt, &inputs);
        spoil(&mut contender.outputs);
        contender.judge(&reference.outputs, &oracle::expect(&hierarchy, &inputs).unwrap()).unwrap();
        contender.verdict
    }

    #[test]
    fn a_right_backend_is_right() {
        assert_eq!(judged(OptLevel::O0, |_| ()), Verdict::SameBits);
        assert_eq!(judged(OptLevel::O1, |_| ()), Verdict::SameBits);
        assert!(judged(OptLevel::O2, |_| ()).is_right());
    }

    #[test]
    fn a_wrong_backend_cannot_win() {
        // The lowest bit of one number.
        let one_bit = |outputs: &mut [Tensor]| outputs[0].bytes.as_mut()[0] ^= 1;
        assert_eq!(judged(OptLevel::O1, one_bit), Verdict::WrongBits { elements: 1 });
        // A plan that reassociates may differ by rounding, but by no more.
        assert_eq!(judged(OptLevel::O2, one_bit), Verdict::WithinBound);
        let far_off = |outputs: &mut [Tensor]| outputs[0].bytes.as_mut()[3] ^= 0x40;
        assert_eq!(judged(OptLevel::O2, far_off), Verdict::OutOfBound);
        let forgotten = |outputs: &mut [Tensor]| outputs[0].bytes.as_mut().fill(0xff);
        assert_eq!(judged(OptLevel::O2, forgotten), Verdict::OutOfBound);
    }
}

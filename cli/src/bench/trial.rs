//! One case, by every contender: checked, then timed in rounds of varying order, memory's bandwidth measured before every sample.

use super::bandwidth::{Bandwidth, Stream};
use super::case::Case;
use super::contender::{Config, Contender};
use super::process::HighWater;
use super::random;
use super::stats::Samples;
use super::yardstick::{Verdict, Yardstick, different_elements};
use crate::backends::BackendName;
use crate::execute::Input;
use crate::failure::CliResult;
use crate::ui::Ui;
use levelfold::backend::Backend;
use levelfold::{Engine, EngineOptions, Error, ErrorCode, Hierarchy, OptLevel};

/// What is compared, and how long.
pub(super) struct Trial<'a> {
    pub(super) ui: &'a Ui,
    /// Opens a backend by its name.
    pub(super) open: &'a dyn Fn(BackendName) -> Result<Box<dyn Backend>, Error>,
    pub(super) configs: Vec<Config>,
    pub(super) disable_pass: &'a [String],
    pub(super) memory_limit: Option<u64>,
    pub(super) rounds: u32,
    /// For all samples together.
    pub(super) seconds: f64,
    pub(super) seed: u64,
}

/// A case, and where checking all of it would take too long, a copy of fewer rows to check instead.
pub(super) struct Material {
    pub(super) case: Case,
    pub(super) small: Option<(Case, u64)>,
}

/// Samples that every contender gets, however slow it is.
const LEAST_SAMPLES: usize = 3;

/// Contenders that have been judged, and what checking took.
pub(super) struct Judged {
    pub(super) contenders: Vec<Contender>,
    pub(super) checked_rows: Option<u64>,
    pub(super) peak_bytes: Option<u64>,
}

impl Trial<'_> {
    /// All contenders, warm and right.
    ///
    /// # Errors
    /// What preparing or running says; `internal` with every contender whose result is wrong.
    pub(super) fn judge(&self, material: &Material, inputs: &[Input<'_>]) -> CliResult<Judged> {
        let mut memory = HighWater::default();
        let (contenders, checked_rows) = match &material.small {
            None => (self.checked(&material.case, inputs, &mut memory)?, None),
            Some((small, rows)) => (self.checked_on_copy(small, &material.case, inputs, &mut memory)?, Some(*rows)),
        };
        Ok(Judged { contenders, checked_rows, peak_bytes: memory.peak() })
    }

    /// All contenders, judged by the reference over the same data.
    fn checked(&self, case: &Case, inputs: &[Input<'_>], memory: &mut HighWater) -> CliResult<Vec<Contender>> {
        let bar = self.ui.progress(u64::try_from(self.configs.len() + 1).unwrap_or(0), "checking");
        let yardstick = Yardstick::new(case.hierarchy(), inputs)?;
        bar.inc(1);
        let mut contenders = Vec::with_capacity(self.configs.len());
        for &config in &self.configs {
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

    /// All contenders, judged by the reference over a smaller copy, and by each other over all of the data.
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
        let options = EngineOptions { opt: config.opt, without: self.disable_pass.to_vec(), memory_limit: self.memory_limit };
        let prepare = || Contender::new(config, &Engine::with_options((self.open)(config.backend)?, options), hierarchy, inputs, memory);
        prepare().map_err(|error| error.at_level(config.to_string()))
    }

    /// All rounds, and a last look at the results.
    ///
    /// # Errors
    /// `internal` where a later run gives other bits than the first.
    pub(super) fn measure(&self, contenders: &mut [Contender], inputs: &[Input<'_>], stream: &mut Stream) -> CliResult<Streams> {
        let mut streams = Streams::default();
        stream.measure();
        let bar = self.ui.progress(self.rounds.into(), "measuring");
        for round in 0..self.rounds {
            self.round(round, contenders, inputs, stream, &mut streams)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        for contender in contenders {
            contender.check_once_more(inputs)?;
        }
        Ok(streams)
    }

    /// One sample of every contender that has time left, in an order of its own; gives what each took, in their order.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub(super) fn round(
        &self,
        round: u32,
        contenders: &mut [Contender],
        inputs: &[Input<'_>],
        stream: &mut Stream,
        streams: &mut Streams,
    ) -> CliResult<Vec<Option<f64>>> {
        let share = self.seconds / contenders.len().max(1) as f64;
        let mut seconds = vec![None; contenders.len()];
        for index in shuffled(contenders.len(), self.seed, round.into()) {
            self.ui.check_interrupt()?;
            let contender = &mut contenders[index];
            if contender.spent < share || contender.sampled() < LEAST_SAMPLES {
                let bandwidth = stream.measure();
                streams.0.push(bandwidth);
                seconds[index] = Some(contender.sample(inputs, bandwidth)?.seconds);
            }
        }
        Ok(seconds)
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

/// What memory gave, before every sample.
#[derive(Default)]
pub(super) struct Streams(Vec<Bandwidth>);

impl Streams {
    pub(super) fn last(&self) -> Option<&Bandwidth> {
        self.0.last()
    }

    pub(super) fn samples(&self, of: impl FnMut(&Bandwidth) -> f64) -> Samples {
        Samples::new(self.0.iter().map(of).collect())
    }
}

/// The numbers below `count` in an order that follows from the seed and the round.
pub(super) fn shuffled(count: usize, seed: u64, round: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for index in (1..count).rev() {
        let bound = u64::try_from(index + 1).unwrap_or(1);
        let other = random::below(random::at(seed, 50 + round, bound), bound);
        order.swap(index, usize::try_from(other).unwrap_or(0));
    }
    order
}

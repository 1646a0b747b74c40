//! What results are held against, so that a wrong backend cannot win.
//!
//! A plan that keeps every bit (`-O0`, `-O1`) must give what the reference backend makes of the literal program. A plan that may reassociate
//! (`-O2`) must give what the reference backend makes of that same plan, bit for bit, and where those are not the literal program's bits
//! every element must keep the error bound against f64 as well.

use super::oracle::{self, Expected};
use crate::execute::{Input, execute};
use crate::memory::{Tensor, output_tensors};
use levelfold::backend::Backend;
use levelfold::{Engine, EngineOptions, Error, Hierarchy, OptLevel, Plan, Prepared};
use levelfold_reference::ReferenceBackend;

/// The right results of one hierarchy over one set of inputs.
pub(super) struct Yardstick<'a> {
    inputs: &'a [Input<'a>],
    literal: Vec<Tensor>,
    expected: Vec<Expected>,
}

/// How a result was held against the reference, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    /// The largest |y − reference| ÷ magnitude of any output, against the reference backend at `-O0`.
    pub(super) from_reference: f64,
    /// The largest |y − exact| ÷ magnitude of any output.
    pub(super) from_exact: f64,
}

/// The outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody looked.
    #[default]
    Unseen,
    /// Every bit is the literal program's on the reference backend.
    SameBits,
    /// The plan reassociates: every bit is the same plan's on the reference backend, and every element keeps the bound against f64.
    SamePlanBits,
    /// Bits differ from those that they should be.
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
            Verdict::Unseen => "UNSEEN",
            Verdict::SameBits => "bits",
            Verdict::SamePlanBits => "plan bits",
            Verdict::WrongBits { .. } => "WRONG BITS",
            Verdict::OutOfBound => "OUT OF BOUND",
        }
    }
}

impl<'a> Yardstick<'a> {
    /// Runs the literal program on the reference backend, and folds in f64.
    ///
    /// # Errors
    /// What is wrong with the hierarchy, or missing among the inputs.
    pub(super) fn new(hierarchy: &Hierarchy, inputs: &'a [Input<'a>]) -> Result<Self, Error> {
        let options = EngineOptions { opt: OptLevel::O0, ..EngineOptions::default() };
        let literal = outputs_of(&Engine::with_options(Box::new(ReferenceBackend::new()), options).prepare(hierarchy)?, inputs)?;
        Ok(Yardstick { inputs, literal, expected: oracle::expect(hierarchy, inputs)? })
    }

    /// Judges what `prepared` gave for the inputs.
    ///
    /// # Errors
    /// What the reference backend says about the plan.
    pub(super) fn judge(&self, opt: OptLevel, prepared: &Prepared, outputs: &[Tensor]) -> Result<Judgement, Error> {
        let mut judgement = Judgement::default();
        let mut holds = true;
        for expected in &self.expected {
            let named = |tensors: &'_ [Tensor]| tensors.iter().position(|tensor| *tensor.name == *expected.name);
            let (Some(output), Some(literal)) = (named(outputs), named(&self.literal)) else { continue };
            let deviation = oracle::deviation(expected, &outputs[output])?;
            judgement.from_exact = judgement.from_exact.max(deviation.error);
            judgement.from_reference = judgement.from_reference.max(oracle::distance(expected, &outputs[output], &self.literal[literal])?);
            holds &= deviation.holds;
        }
        let from_literal = different_elements(outputs, &self.literal);
        judgement.verdict = match opt {
            OptLevel::O0 | OptLevel::O1 if from_literal == 0 => Verdict::SameBits,
            OptLevel::O0 | OptLevel::O1 => Verdict::WrongBits { elements: from_literal },
            OptLevel::O2 => match (different_elements(outputs, &self.same_plan(prepared)?), from_literal) {
                (0, 0) => Verdict::SameBits,
                (0, _) if holds => Verdict::SamePlanBits,
                (0, _) => Verdict::OutOfBound,
                (elements, _) => Verdict::WrongBits { elements },
            },
        };
        Ok(judgement)
    }

    /// What the reference backend makes of this very plan.
    fn same_plan(&self, prepared: &Prepared) -> Result<Vec<Tensor>, Error> {
        let reference = ReferenceBackend::new();
        let plan = Plan { target: reference.target().name.clone(), ..Plan::clone(prepared.plan()) };
        outputs_of(&Engine::new(reference).prepare_plan(plan, prepared.tables().to_vec())?, self.inputs)
    }
}

fn outputs_of(prepared: &Prepared, inputs: &[Input<'_>]) -> Result<Vec<Tensor>, Error> {
    let mut outputs = output_tensors(prepared.plan())?;
    execute(prepared, inputs, &mut outputs, |_| ())?;
    Ok(outputs)
}

/// How many elements differ in their bits.
pub(super) fn different_elements(found: &[Tensor], wanted: &[Tensor]) -> usize {
    // An output that is missing has no elements to compare.
    let mut different = wanted.len().saturating_sub(found.len());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::{Size, Workload, data};
    use levelfold::Reducer;
    use levelfold_cpu::CpuBackend;

    /// A small text of sums, by the CPU backend, spoilt, and judged.
    fn judged(opt: OptLevel, spoil: impl Fn(&mut [Tensor])) -> Verdict {
        let size = Size { rows: 500, features: 3, reduce: vec![Reducer::Sum], ..Size::default() };
        let hierarchy = Workload::Text.hierarchy(&size).unwrap();
        let engine = Engine::with_options(Box::new(CpuBackend::new().unwrap()), EngineOptions { opt, ..EngineOptions::default() });
        let prepared = engine.prepare(&hierarchy).unwrap();
        let tensors = data(&hierarchy, prepared.plan(), &[], 1).unwrap();
        let inputs: Vec<Input<'_>> = tensors.iter().map(|tensor| (&*tensor.name, tensor.view().unwrap())).collect();
        let mut outputs = outputs_of(&prepared, &inputs).unwrap();
        spoil(&mut outputs);
        Yardstick::new(&hierarchy, &inputs).unwrap().judge(opt, &prepared, &outputs).unwrap().verdict
    }

    #[test]
    fn a_right_backend_is_right() {
        assert_eq!(judged(OptLevel::O0, |_| ()), Verdict::SameBits);
        assert_eq!(judged(OptLevel::O1, |_| ()), Verdict::SameBits);
        assert_eq!(judged(OptLevel::O2, |_| ()), Verdict::SamePlanBits);
    }

    #[test]
    fn one_bit_is_enough_to_be_wrong() {
        for opt in [OptLevel::O0, OptLevel::O1, OptLevel::O2] {
            let wrong = judged(opt, |outputs| outputs[0].bytes.as_mut()[0] ^= 1);
            assert_eq!(wrong, Verdict::WrongBits { elements: 1 }, "{opt}");
            let forgotten = judged(opt, |outputs| outputs[0].bytes.as_mut().fill(0xff));
            assert!(matches!(forgotten, Verdict::WrongBits { elements: 3.. }), "{opt}: {forgotten:?}");
        }
    }
}

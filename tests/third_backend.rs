//! A third backend, as a stranger would write one: a target, two traits, and one line of conformance.
//!
//! It knows no arithmetic of its own and lets the reference do the steps, so what is tested here is the seam: its plans are its own (pages
//! of 4096 bytes, and no levels fused beyond a block), it is named in them, and the suite needs nothing of it but the two traits.

use levelfold::backend::{Backend, Bindings, Executable, FusionLimits, RunReport, StepReport, Target};
use levelfold::{Error, ErrorCode, Plan, Result};
use levelfold_reference::ReferenceBackend;
use std::sync::Arc;

struct Third {
    target: Target,
    steps: ReferenceBackend,
}

impl Third {
    fn new() -> Self {
        let fusion = FusionLimits { unit_rows: 32, unit_share: u64::MAX };
        Third { target: Target { align: 4096, fusion, ..Target::new("third") }, steps: ReferenceBackend::new().with_poison(0x7f) }
    }
}

impl Backend for Third {
    fn target(&self) -> &Target {
        &self.target
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        if plan.target != self.target.name {
            return Err(Error::new(ErrorCode::WrongTarget, format!("the plan was made for `{}`", plan.target)));
        }
        let own = Plan { target: self.steps.target().name.clone(), ..Plan::clone(plan) };
        Ok(Box::new(Loaded { steps: self.steps.compile(&Arc::new(own))?, report: RunReport::for_plan(plan) }))
    }
}

struct Loaded {
    steps: Box<dyn Executable>,
    report: RunReport,
}

impl Executable for Loaded {
    /// Times are told, bytes are not: a backend need not count.
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        let ran = self.steps.run(bindings)?;
        self.report.time = ran.time;
        for (step, ran) in self.report.steps.iter_mut().zip(&ran.steps) {
            *step = StepReport { time: ran.time, ..StepReport::default() };
        }
        Ok(&self.report)
    }

    fn scratch_bytes(&self) -> u64 {
        self.steps.scratch_bytes()
    }
}

levelfold_conformance::conformance_tests!(|_| Third::new());

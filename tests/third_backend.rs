//! A third backend, as a stranger would write one: two traits, and one line of conformance.
//!
//! It writes down how often each kind of step ran, and lets the reference do the arithmetic.

use levelfold::Result;
use levelfold::backend::{Backend, Bindings, Executable, RunReport, TableSet, Target};
use levelfold::plan::{Plan, StepKind};
use levelfold_reference::ReferenceBackend;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static FOLDS: AtomicU64 = AtomicU64::new(0);
static COPIES: AtomicU64 = AtomicU64::new(0);

struct Noting {
    target: Target,
    inner: ReferenceBackend,
}

struct Noted {
    plan: Arc<Plan>,
    tables: TableSet,
    inner: Box<dyn Executable>,
}

fn noting() -> Noting {
    // A target of its own: other alignment, so other plans.
    Noting {
        target: Target { align: 128, ..Target::new("noting") },
        inner: ReferenceBackend::new().with_registry(levelfold_conformance::registry()),
    }
}

impl Backend for Noting {
    fn target(&self) -> &Target {
        &self.target
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        // The same plan, under the name that the reference answers to.
        let renamed = Plan { target: self.inner.target().name.clone(), ..Plan::clone(plan) };
        let inner = self.inner.compile(&Arc::new(renamed))?;
        Ok(Box::new(Noted { plan: Arc::clone(plan), tables: TableSet::new(), inner }))
    }
}

impl Executable for Noted {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        self.tables.check(&self.plan, bindings)?;
        for step in &self.plan.steps {
            match step.kind {
                StepKind::Fold(_) => FOLDS.fetch_add(1, Ordering::Relaxed),
                StepKind::Copy(_) | StepKind::Encode(_) => COPIES.fetch_add(1, Ordering::Relaxed),
            };
        }
        self.inner.run(bindings)
    }

    fn scratch_bytes(&self) -> u64 {
        self.inner.scratch_bytes()
    }
}

levelfold_conformance::conformance_tests!(|_| noting());

#[test]
fn it_sees_the_steps_go_by() {
    levelfold_conformance::Group::Lengths.run(&levelfold_conformance::always(|_| noting()), &[]);
    // Literal plans have copies, all plans have folds.
    assert!(FOLDS.load(Ordering::Relaxed) > 0 && COPIES.load(Ordering::Relaxed) > 0);
}

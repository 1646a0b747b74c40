//! Which of the user's operations a step is refused for. A step stands for many: the one to name is that which the target refuses by itself.

use crate::encoder::{Encoding, Kernel};
use crate::ids::ViewId;
use crate::plan::{Encode, Fold, Plan, Stage, Step, StepKind};
use std::sync::Arc;

/// Why a target refuses a step, or not.
type Supports = fn(&StepKind) -> Result<(), String>;

/// The operation that a step is refused for with this reason; where no part is by itself, those from the first to the last that it could be for.
pub(super) fn blamed(plan: &Plan, step: &Step, supports: Supports, reason: &str) -> String {
    let refused = |kind: StepKind| supports(&kind).is_err_and(|why| why == reason);
    match &step.kind {
        StepKind::Fold(fold) => {
            let reductions = named(step, ".reduce");
            match refused_stage(fold, refused) {
                Some(number) => {
                    let level = format!("{}.reduce", plan.table(fold.stages[number].table).name);
                    let origin = reductions.iter().find(|origin| ***origin == *level);
                    origin.or(reductions.get(number)).map_or(level, ToString::to_string)
                }
                None => between(&reductions, step),
            }
        }
        StepKind::Encode(encode) => {
            let refused = refused_part(encode, refused).map(|name| named(step, &format!(".{name}")));
            refused.and_then(|origins| origins.first().map(ToString::to_string)).unwrap_or_else(|| between(&[], step))
        }
        StepKind::Copy(_) => between(&[], step),
    }
}

/// The user's operations of a step with this end of a name.
fn named(step: &Step, end: &str) -> Vec<Arc<str>> {
    step.origin.iter().filter(|origin| origin.ends_with(end)).cloned().collect()
}

fn between(origins: &[Arc<str>], step: &Step) -> String {
    let origins = if origins.is_empty() { &step.origin } else { origins };
    match origins {
        [] => "a step".to_owned(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first} to {last}"),
    }
}

/// The first stage of which a reduction is refused alone.
fn refused_stage(fold: &Fold, refused: impl Fn(StepKind) -> bool) -> Option<usize> {
    fold.stages.iter().position(|stage| {
        stage.reductions.iter().any(|reduction| {
            let reductions = std::iter::once(reduction.clone()).collect();
            let alone = Stage { feed: 0, reductions, ..stage.clone() };
            refused(StepKind::Fold(Fold { load: fold.load, stages: vec![alone] }))
        })
    })
}

/// The name of the kernel, or of the first operation, that is refused alone.
fn refused_part(encode: &Encode, refused: impl Fn(StepKind) -> bool) -> Option<&'static str> {
    let Encoding { kernel, ops } = &encode.encoding;
    let is_refused = |encoding: Encoding<ViewId>| refused(StepKind::Encode(Encode { encoding, write: encode.write }));
    if is_refused(Encoding::of(kernel.clone())) {
        return Some(kernel.name());
    }
    let rows = *kernel.rows();
    ops.iter().find(|op| is_refused(Encoding { kernel: Kernel::Map { rows }, ops: vec![(*op).clone()] })).map(|op| op.name())
}

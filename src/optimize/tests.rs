//! Tests of the passes: each pass alone, on the smallest graph that shows it.

use super::*;
use crate::dtype::DType;
use crate::reducer::Reducer;
use crate::segments::Segments;
use crate::spec::{Hierarchy, Leaves, Level};

fn text() -> Hierarchy {
    Hierarchy::new(Leaves::values("char", DType::F32, 8))
        .level(Level::new("word", Segments::from_lengths(&[2, 3, 1, 4]).unwrap()).reduce(Reducer::Mean))
        .level(Level::new("sentence", Segments::from_lengths(&[3, 1]).unwrap()).reduce(Reducer::Mean).keep())
        .level(Level::new("corpus", Segments::from_lengths(&[2]).unwrap()).reduce(Reducer::Max))
}

#[test]
fn the_default_plan_of_text_is_one_step_without_a_copy() {
    let literal = Planner::new(Target::new("cpu")).opt(OptLevel::O0).plan(text().graph().unwrap()).unwrap();
    let default = Planner::new(Target::new("cpu")).plan(text().graph().unwrap()).unwrap();
    assert_eq!((literal.plan.totals.steps, default.plan.totals.steps), (9, 1));
    assert_eq!((literal.plan.totals.copied_bytes, default.plan.totals.copied_bytes), (736, 0));
    assert_eq!(default.plan.literal, literal.plan.totals);
}

//! The README shows the real example and the real plans.

use levelfold::backend::Target;
use levelfold::optimize::Planner;
use levelfold::{DType, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments};

const README: &str = include_str!("../README.md");

#[test]
fn the_example_is_the_one_that_is_compiled() {
    let example = include_str!("../examples/pooling.rs");
    let code = example.split_once("\n\n").expect("a module doc, then code").1.trim_end();
    assert!(README.contains(&format!("```rust\n{code}\n```")), "README.md and examples/pooling.rs differ");
}

#[test]
fn the_plans_are_the_ones_that_are_printed() {
    let hierarchy = Hierarchy::new(Leaves::values("char", DType::F32, 2))
        .level(Level::new("word", Segments::from_lengths(&[2, 3, 1]).unwrap()).reduce(Reducer::Mean))
        .level(Level::new("sentence", Segments::from_lengths(&[2, 1]).unwrap()).reduce(Reducer::Max));
    for opt in [OptLevel::O0, OptLevel::O1] {
        let plan = Planner::new(Target::new("cpu")).opt(opt).plan(hierarchy.graph().unwrap()).unwrap().plan;
        let text = plan.to_string();
        assert!(README.contains(&format!("```text\n{}\n```", text.trim_end())), "README.md does not show the plan of -{opt}:\n{text}");
    }
}

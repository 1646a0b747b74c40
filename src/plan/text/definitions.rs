//! Reducers written as expressions: what they compute is said once, and steps name them.

use crate::plan::{Plan, StepKind};
use crate::reducer::{CustomReducer, Reducer};

/// Each of them once, in the order in which steps name them, as the name that it has in this plan and what it computes. Of several with one name
/// the later ones have a number.
pub(in crate::plan) fn definitions(plan: &Plan) -> Vec<(String, &CustomReducer)> {
    let mut found: Vec<(String, &CustomReducer)> = Vec::new();
    let folds = plan.steps.iter().filter_map(|step| match &step.kind {
        StepKind::Fold(fold) => Some(fold),
        StepKind::Copy(_) | StepKind::Encode(_) => None,
    });
    for reduction in folds.flat_map(|fold| &fold.stages).flat_map(|stage| &stage.reductions) {
        let Reducer::Custom(custom) = &reduction.reducer else { continue };
        if found.iter().any(|(_, known)| *known == &**custom) {
            continue;
        }
        let alike = found.iter().filter(|(_, known)| known.name() == custom.name()).count();
        let number = if alike == 0 { String::new() } else { format!("#{}", alike + 1) };
        found.push((format!("custom({}{number})", custom.name()), custom));
    }
    found
}

/// A reducer, as steps name it.
pub(in crate::plan) fn shown(plan: &Plan, reducer: &Reducer) -> String {
    let Reducer::Custom(custom) = reducer else { return reducer.to_string() };
    let known = definitions(plan).into_iter().find(|(_, known)| *known == &**custom);
    known.map_or_else(|| reducer.to_string(), |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use crate::backend::Target;
    use crate::optimize::Planner;
    use crate::{DType, Hierarchy, Leaves, Level, Plan, Reducer, Segments};

    #[test]
    fn what_a_reducer_computes_is_said_once_and_named_on_its_lines() {
        let read = |text: &str| text.parse::<Reducer>().unwrap();
        let (rms, other) = (
            read("custom(rms: s from x * x by a.s + b.s; n from 1 by a.n + b.n; sqrt(s / n))"),
            read("custom(rms: s from x by a.s + b.s; s)"),
        );
        let named = Reducer::named("rms", 1, &[2.0]).unwrap();
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 2))
            .level(Level::new("y", Segments::from_lengths(&[2, 1]).unwrap()).reduce_all(&[rms.clone(), other, named, Reducer::Mean]))
            .level(Level::new("z", Segments::from_lengths(&[2]).unwrap()).reduce(rms));
        let plan = Planner::new(Target::new("test")).plan(hierarchy.graph().unwrap()).unwrap().plan;
        let text = plan.to_string();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("custom(")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        reducer custom(rms)   s from x by a.s + b.s; s
        reducer custom(rms#2) s from x * x by a.s + b.s; n from 1 by a.n + b.n; sqrt(s / n)
        step    s0 b1[2..4] = fold.custom(rms)              b0 by t0
                   b1[4..6] = with.custom(rms version=1, 2) b0 by t0
                   b1[0..2] = with.custom(rms#2)            b0 by t0
        step    s1 b2       = fold.custom(rms#2)            b1 by t1
        ");
        let dot = plan.to_dot();
        assert!(dot.contains(r#"[label="custom(rms)\ns from x by a.s + b.s; s", shape="box"]"#), "{dot}");
        let step = dot.lines().find(|line| line.contains("s0 fold")).unwrap_or_default();
        for name in ["custom(rms)", "custom(rms#2)", "custom(rms version=1, 2)", "mean"] {
            assert!(step.contains(name), "{name}: {step}");
        }
        // JSON says it where it is used.
        assert_eq!(plan.to_json().matches("s from x * x").count(), 2);
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
    }
}

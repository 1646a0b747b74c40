//! Plans from files are trusted with nothing. Each plan of some random graphs is changed in one place or a few, thousands of times over,
//! and read back:
//!
//! - reading refuses it, or gives a plan that keeps its rules; printing that never fails;
//! - a plan that keeps its rules runs, or is refused by its backend, and never harms (the CPU backend poisons its arena);
//! - a plan that also passes the replay gives the same bytes as the one that it was made from. That is what the replay is for.

mod common;

use common::{Rng, random_case};
use levelfold::backend::Backend;
use levelfold::optimize::{OptLevel, Planner};
use levelfold::{Plan, check};
use levelfold_cpu::CpuBackend;
use levelfold_reference::ReferenceBackend;
use serde_json::Value;

/// Plans that would need more than this are read, but not run.
const MOST_BYTES: u64 = 1 << 26;

/// Every place of a document that can be changed, as JSON pointers, in order.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                places(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Changes one place: a number to one near it or far from it, a word to another of the same plan, a list by one of its items.
fn change(plan: &mut Value, rng: &mut Rng) {
    let mut all = Vec::new();
    places(plan, "", &mut all);
    let at = &all[rng.below(all.len() as u64) as usize];
    let other = plan.pointer(&all[rng.below(all.len() as u64) as usize]).expect("a place").clone();
    let place = plan.pointer_mut(at).expect("a place");
    match place {
        Value::Number(number) => {
            let number = number.as_u64().unwrap_or(0);
            let near = [number.wrapping_add(1), number.wrapping_sub(1), number / 2, number.wrapping_mul(2), 0, 1, 2, 3];
            let far = [64, 1 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
            *place = if rng.chance(6) { rng.pick(&far) } else { rng.pick(&near) }.into();
        }
        Value::String(word) => {
            let words = [
                "sum",
                "mean",
                "max",
                "min",
                "prod",
                "f32",
                "f64",
                "f16",
                "bf16",
                "u8",
                "i64",
                "rows",
                "columns",
                "gather",
                "zero",
                "nan",
                "error",
                "offsets",
                "ranges",
                "bound",
                "input",
                "param",
                "output",
                "row-major",
                "feature-major",
                "",
            ];
            *word = rng.pick(&words).to_owned();
        }
        Value::Array(items) if !items.is_empty() => {
            let count = items.len() as u64;
            let (one, two) = (rng.below(count) as usize, rng.below(count) as usize);
            match rng.below(3) {
                0 => items.swap(one, two),
                1 => drop(items.remove(one)),
                _ => items.insert(two, items[one].clone()),
            }
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => *place = other,
    }
}

#[test]
fn a_changed_plan_is_refused_or_gives_the_same_bytes() {
    let backends: [Box<dyn Backend>; 2] =
        [Box::new(ReferenceBackend::new()), Box::new(CpuBackend::builder().threads(2).small_bytes(0).poison(0xa5).build().expect("a cpu"))];
    let (mut refused, mut ruled, mut held) = (0, 0, 0);
    for seed in 600..608 {
        let case = random_case(seed);
        for opt in OptLevel::ALL {
            for backend in &backends {
                let planned = Planner::new(backend.target().clone()).opt(opt).plan(case.graph.clone()).expect("a plan");
                let want = case.run(&**backend, planned.plan.clone());
                let good: Value = serde_json::from_str(&planned.plan.to_json()).expect("JSON");
                let rng = &mut Rng::new(seed);
                for round in 0..250 {
                    let mut changed = good.clone();
                    for _ in 0..1 + rng.below(2) {
                        change(&mut changed, rng);
                    }
                    let text = changed.to_string();
                    let Ok(plan) = Plan::from_json(&text) else {
                        refused += 1;
                        continue;
                    };
                    let _ = (plan.to_string(), plan.to_dot(), plan.summary());
                    assert_eq!(Plan::from_json(&plan.to_json()).as_ref(), Ok(&plan), "seed {seed}, {opt:?}, round {round}");
                    let holds = check::replay(&plan, &case.graph);
                    if plan.memory_bytes().is_none_or(|bytes| bytes > MOST_BYTES) {
                        assert!(holds.is_err(), "seed {seed}, {opt:?}, round {round}: the memory grew, and the replay has no objection");
                        continue;
                    }
                    let got = case.try_run(&**backend, plan);
                    match holds {
                        Err(_) => ruled += 1,
                        Ok(()) => {
                            held += 1;
                            // What the replay passes may still name another target, or be refused for what it was bound to.
                            if let Ok(got) = got {
                                assert!(got == want, "seed {seed}, {opt:?}, round {round}: other bytes from\n{text}");
                            }
                        }
                    }
                }
            }
        }
    }
    println!("{refused} refused when read, {ruled} by the replay, {held} gave the same bytes");
    assert!(refused > 1000 && ruled > 10 && held > 100, "{refused}, {ruled}, {held}: nothing was tried");
}

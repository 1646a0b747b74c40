//! Plans as JSON: what is saved, sent and diffed.
//!
//! Guaranteed:
//! - The same plan gives the same text, everywhere: the order of fields is that of the types. A table, buffer, view, stage or cost is one
//!   line, so that a diff shows what moved.
//! - What is read back equals what was written. Numbers are exact; hashes and non-finite fills are strings.
//! - A plan from a file is trusted with nothing: its version is checked first, unknown and missing fields are refused, and it is
//!   [verified](Plan::verify) before the caller sees it. Reading takes memory in proportion to the text.

use super::{Fold, PLAN_VERSION, Plan, Step, StepKind};
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

impl Plan {
    /// The plan as JSON, with a line feed at its end.
    pub fn to_json(&self) -> String {
        // By name, so that a new field of a plan is not forgotten here.
        let Plan { version, target, align, tables, buffers, views, tiles, steps, totals, literal } = self;
        let mut out = String::from("{\n");
        for (field, value) in [("version", one_line(version)), ("target", one_line(target)), ("align", one_line(align))] {
            out.push_str(&format!("  \"{field}\": {value},\n"));
        }
        push_list(&mut out, "tables", tables.iter().map(one_line));
        push_list(&mut out, "buffers", buffers.iter().map(one_line));
        push_list(&mut out, "views", views.iter().map(one_line));
        if !tiles.is_empty() {
            push_list(&mut out, "tiles", tiles.iter().map(one_line));
        }
        push_list(&mut out, "steps", steps.iter().map(step));
        out.push_str(&format!("  \"totals\": {},\n  \"literal\": {}\n}}\n", one_line(totals), one_line(literal)));
        out
    }

    /// Reads a plan, and verifies it.
    ///
    /// # Errors
    /// `plan-version` for another version of the format; `plan-invalid`, with line and column, for what is not JSON, is cut off, has
    /// unknown fields, lacks some, or has values out of their range; `plan-invalid`, with all causes, for a plan that breaks the rules
    /// of [`verify`](Plan::verify).
    pub fn from_json(text: &str) -> Result<Plan> {
        let Head { version } = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        if version != u64::from(PLAN_VERSION) {
            return Err(other_version(version));
        }
        // It is JSON, or the version would not have been read: a syntax error is now one of a value, such as null for a name.
        let plan: Plan = serde_json::from_str(text).map_err(|error| unreadable_as(&error, Category::Data))?;
        plan.verify()?;
        Ok(plan)
    }
}

/// What every version of the format has: the rest of it may be anything.
#[derive(Deserialize)]
struct Head {
    version: u64,
}

/// The error for a plan of another version of the format.
pub(super) fn other_version(version: u64) -> Error {
    Error::new(ErrorCode::PlanVersion, format!("the plan has version {version}, and this build reads version {PLAN_VERSION}"))
        .help("plan again from the spec: plans are made for one version of the format")
}

fn unreadable(error: &serde_json::Error) -> Error {
    unreadable_as(error, error.classify())
}

fn unreadable_as(error: &serde_json::Error, category: Category) -> Error {
    let position = format!(" at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    let message = message.strip_suffix(&position).unwrap_or(&message);
    let help = match category {
        Category::Eof => "the file is cut off: write it again",
        Category::Syntax => "this is not JSON: is it the right file?",
        Category::Data | Category::Io => "plans are written by the planner: plan again from the spec",
    };
    Error::new(ErrorCode::PlanInvalid, format!("the plan cannot be read: line {}, column {}: {message}", error.line(), error.column()))
        .help(help)
}

/// A value on one line, with a blank behind each comma and colon that is not part of a string.
fn one_line<T: Serialize + ?Sized>(value: &T) -> String {
    let dense = serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data has a JSON form: {error}"));
    let mut out = String::with_capacity(dense.len() * 9 / 8);
    let (mut in_string, mut escaped) = (false, false);
    for c in dense.chars() {
        out.push(c);
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            ',' | ':' if !in_string => out.push(' '),
            _ => {}
        }
    }
    out
}

fn push_list(out: &mut String, field: &str, items: impl Iterator<Item = String>) {
    out.push_str(&format!("  \"{field}\": ["));
    let mut separator = "\n";
    for item in items {
        out.push_str(separator);
        out.push_str("    ");
        out.push_str(&item);
        separator = ",\n";
    }
    out.push_str(if separator == "\n" { "],\n" } else { "\n  ],\n" });
}

fn step(step: &Step) -> String {
    let Step { kind, origin, cost } = step;
    let kind = match kind {
        StepKind::Copy(_) | StepKind::Encode(_) => one_line(kind),
        StepKind::Fold(Fold { load, stages }) => {
            let stages: Vec<String> = stages.iter().map(one_line).collect();
            let indent = "\n        ";
            format!("{{\"fold\": {{\"load\": {}, \"stages\": [{indent}{}\n      ]}}}}", one_line(load), stages.join(&format!(",{indent}")))
        }
    };
    format!("{{\n      \"kind\": {kind},\n      \"origin\": {},\n      \"cost\": {}\n    }}", one_line(origin), one_line(cost))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use crate::plan::Place;
    use crate::reducer::OnEmpty;

    #[test]
    fn what_is_read_equals_what_was_written() {
        for plan in [fixtures::literal_chain(), fixtures::fused_text(), fixtures::wide()] {
            let text = plan.to_json();
            let back = Plan::from_json(&text).unwrap();
            assert_eq!(back, plan);
            assert_eq!(back.to_json(), text);
        }
    }

    #[test]
    fn names_and_numbers_survive_whatever_they_are() {
        let mut plan = fixtures::wide();
        let name = "a \"quoted\\\", {b: [1,2]}\u{1}\u{2028}\n\t";
        plan.buffers[3].name = name.into();
        plan.steps[0].origin = vec![name.into(), "".into()];
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.1, 5e-324, f64::MAX] {
            let StepKind::Fold(fold) = &mut plan.steps[1].kind else { panic!("step 1 is a fold") };
            fold.stages[0].reductions[1].on_empty = OnEmpty::Fill(value);
            assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan, "{value}");
        }
    }

    #[test]
    fn the_form_of_the_file() {
        insta::assert_snapshot!(fixtures::fused_text().to_json(), @r#"
        {
          "version": 1,
          "target": "cpu",
          "align": 64,
          "tables": [
            {"name": "word", "form": "offsets", "segments": 4, "rows": 12, "total_rows": 12, "longest": 4, "empty": 0, "hash": "25f6677f5d713523d9f48f8dc12ff89f", "source": "bound"},
            {"name": "sentence", "form": "offsets", "segments": 2, "rows": 4, "total_rows": 4, "longest": 3, "empty": 0, "hash": "e8869cc4fa5c6058c32926108911df16", "source": "bound"},
            {"name": "document", "form": "offsets", "segments": 1, "rows": 2, "total_rows": 2, "longest": 2, "empty": 0, "hash": "92ae791ab14bbe8852195722c3216843", "source": "bound"}
          ],
          "buffers": [
            {"name": "char", "dtype": "u8", "rows": 12, "features": 1, "place": "input"},
            {"name": "char.table", "dtype": "f32", "rows": 256, "features": 4, "place": "param"},
            {"name": "sentence", "dtype": "f32", "rows": 2, "features": 4, "place": "output"},
            {"name": "document", "dtype": "f32", "rows": 1, "features": 4, "place": "output"}
          ],
          "views": [
            {"buffer": 0, "first_column": 0, "features": 1, "layout": "rows"},
            {"buffer": 1, "first_column": 0, "features": 4, "layout": "rows"},
            {"buffer": 2, "first_column": 0, "features": 4, "layout": "rows"},
            {"buffer": 3, "first_column": 0, "features": 4, "layout": "rows"}
          ],
          "steps": [
            {
              "kind": {"fold": {"load": {"gather": {"ids": 0, "table": 1}}, "stages": [
                {"table": 0, "feed": 0, "reductions": [{"reducer": "mean", "weights": null, "on_empty": "error", "dtype": "f32", "write": null}]},
                {"table": 1, "feed": 0, "reductions": [{"reducer": "mean", "weights": null, "on_empty": "error", "dtype": "f32", "write": 2}]},
                {"table": 2, "feed": 0, "reductions": [{"reducer": "sum", "weights": null, "on_empty": "zero", "dtype": "f32", "write": 3}]}
              ]}},
              "origin": ["char.gather", "word.slice", "word.transpose", "word.contiguous", "word.reduce", "word.stack", "word.squeeze", "sentence.slice", "sentence.transpose", "sentence.contiguous", "sentence.reduce", "sentence.stack", "sentence.squeeze", "document.slice", "document.transpose", "document.contiguous", "document.reduce", "document.stack", "document.squeeze"],
              "cost": {"read": 284, "written": 48, "copied": 0, "flops": 96}
            }
          ],
          "totals": {"steps": 1, "arena_bytes": 0, "peak_bytes": 0, "copied_bytes": 0, "read_bytes": 284, "written_bytes": 48, "flops": 96},
          "literal": {"steps": 9, "arena_bytes": 0, "peak_bytes": 0, "copied_bytes": 6000, "read_bytes": 21000, "written_bytes": 9000, "flops": 96}
        }
        "#);
    }

    #[test]
    fn another_version_is_named_before_anything_else_is_looked_at() {
        let error = Plan::from_json(r#"{"steps": 7, "version": 2, "colour": "blue"}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the plan has version 2, and this build reads version 1; plan again from the spec: plans are made for one version of the \
             format [plan-version]"
        );
        assert_eq!(Plan::from_json(r#"{"version": 18446744073709551615}"#).unwrap_err().code(), ErrorCode::PlanVersion);
        for text in [r#"{"version": "1"}"#, r#"{"version": 1.5}"#, r#"{"version": -1}"#, "{}", r#"{"version": 1, "version": 1}"#] {
            assert_eq!(Plan::from_json(text).unwrap_err().code(), ErrorCode::PlanInvalid, "{text}");
        }
    }

    #[test]
    fn a_cut_off_plan_says_where() {
        let text = fixtures::wide().to_json();
        for end in (0..text.trim_end().len()).filter(|&end| text.is_char_boundary(end)) {
            let error = Plan::from_json(&text[..end]).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PlanInvalid);
            assert!(error.message().starts_with("the plan cannot be read: line ") && error.message().contains(", column "), "{error}");
        }
        let error = Plan::from_json(&text[..text.len() / 2]).unwrap_err();
        assert!(error.to_string().contains("the file is cut off"), "{error}");
    }

    #[test]
    fn unknown_missing_and_odd_fields_are_refused() {
        let text = fixtures::fused_text().to_json();
        let cases = [
            ("\"align\"", "\"aline\"", "unknown field `aline`"),
            ("\"align\": 64,", "", "missing field `align`"),
            ("\"feed\": 0,", "\"feed\": 0, \"speed\": 9,", "unknown field `speed`"),
            ("\"align\": 64,", "\"align\": 64, \"align\": 64,", "duplicate field `align`"),
            ("\"align\": 64", "\"align\": -64", "invalid value"),
            ("\"align\": 64", "\"align\": 6.5", "invalid type"),
            ("\"sum\"", "\"sun\"", "unknown reducer `sun`; did you mean `sum`?"),
            ("\"f32\"", "\"f31\"", "unknown variant `f31`"),
            ("\"input\"", "\"imput\"", "unknown variant `imput`"),
            ("\"hash\": \"2", "\"hash\": \"+", "a hash is 32 hexadecimal digits"),
            ("\"hash\": \"2", "\"hash\": \"", "a hash is 32 hexadecimal digits"),
            ("\"dtype\": \"u8\"", "\"dtype\": null", "expected value"),
            ("\n}\n", "\n}\n{}", "trailing characters"),
        ];
        for (from, to, message) in cases {
            assert!(text.contains(from), "{from}");
            let error = Plan::from_json(&text.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PlanInvalid);
            assert!(error.to_string().contains(message), "{from} -> {to}: {error}");
        }
        for garbage in ["", " ", "null", "[]", "7", "\u{feff}{}", "not a plan", &"[".repeat(100_000), &"{\"version\":".repeat(10_000)] {
            assert_eq!(Plan::from_json(garbage).unwrap_err().code(), ErrorCode::PlanInvalid);
        }
    }

    #[test]
    fn what_can_be_read_is_verified() {
        let mut plan = fixtures::literal_chain();
        let Place::Arena { offset, .. } = &mut plan.buffers[2].place else { panic!("buffer 2 is in the arena") };
        *offset = 0;
        let error = Plan::from_json(&plan.to_json()).unwrap_err();
        assert!(error.to_string().contains("b1"), "{error}");
    }
}

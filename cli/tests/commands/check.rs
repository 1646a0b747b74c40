//! `levelfold check`.

use crate::files::*;
use crate::*;

#[test]
fn every_example_is_in_order() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let done = run(&["check", path.to_str().unwrap()]);
            count += 1;
            let text = done.ok();
            assert!(text.starts_with("the spec is in order\n") || text.starts_with("the spec is well formed; bind"), "{text}");
        }
    }
    assert!(count >= 4);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let folder = Folder::new();
    let spec = folder.write(
        "spec.json",
        r#"{
          "leaves": { "name": "char", "dtype": "f23", "features": 4 },
          "levels": [
            { "name": "word", "segments": { "lengths": [2, -1] }, "reduce": "maen" },
            { "name": "word", "segments": { "lengths": [2] }, "reduce": "sum", "keeps": true }
          ]
        }"#,
    );
    let error = run(&["check", &spec]).error();
    for part in [
        "spec.json is refused [spec-invalid]",
        "the spec has 5 errors",
        "char: leaves.dtype: unknown dtype `f23`; did you mean `f32`? [unknown-word]",
        "word: levels[0].segments.lengths: lengths[1] = -1 is negative",
        "word: levels[0].reduce: unknown reducer `maen`; did you mean `mean`? [unknown-word]",
        "word: levels[1]: unknown field `keeps`; did you mean `keep`? [unknown-name]",
        "word: levels[1].name: the name `word` is taken by levels[0]; give each level a name of its own [duplicate-name]",
    ] {
        assert_contains(&error, part);
    }
}

#[test]
fn specs_that_cannot_be_folded_are_refused() {
    let folder = Folder::new();
    let refused = |levels: &str| {
        let spec = format!(r#"{{"leaves": {{"name": "char", "dtype": "f32", "features": 4}}, "levels": [{levels}]}}"#);
        run(&["check", &folder.write("spec.json", spec)]).error()
    };
    let empty = refused(r#"{"name": "word", "segments": {"lengths": [2, 0]}, "reduce": "mean"}"#);
    assert_contains(&empty, "[empty-segment]");
    assert_contains(&empty, "word: ");
    let rows = refused(
        r#"{"name": "a", "segments": {"lengths": [2, 1]}, "reduce": "sum"}, {"name": "b", "segments": {"lengths": [3]}, "reduce": "sum"}"#,
    );
    assert_contains(&rows, "b: levels[1].segments.lengths: its segments are for 3 rows, but the level below has 2 [rows-mismatch]");
    assert_contains(&refused(r#"{"name": "word", "segments": {"lengths": [2]}, "reduce": "max", "weights": "w"}"#), "[weights]");
    assert_contains(&refused(""), "there is no level above the leaves");
    assert_contains(&run(&["check", &folder.write("cut.json", r#"{"leaves": {"name": "#)]).error(), "the spec is not valid JSON: EOF");
    assert_contains(&run(&["check", &folder.write("bytes.json", [0xff, 0xfe])]).error(), "cannot read");
    assert_contains(&run(&["check", &folder.at("none.json")]).error(), "No such file");
}

#[test]
fn what_is_too_long_for_a_spec_or_a_plan_is_not_read() {
    let folder = Folder::new();
    let long = folder.at("long.json");
    // All of it a hole: it takes no room.
    std::fs::File::create(&long).unwrap().set_len((256 << 20) + 1).unwrap();
    let told = "it is longer than 268435456 bytes, the most that a spec or a plan may have; keep long segments in files of their own";
    for command in [
        &["check", &long][..],
        &["explain", &long],
        &["run", &long],
        &["diff", &long, &long],
        &["run", &example("text.json"), "--plan", &long],
    ] {
        assert_contains(&run(command).error(), told);
    }
}

#[test]
fn names_with_colons_are_bound_by_an_escape() {
    let folder = Folder::new();
    let spec = folder.write(
        "spec.json",
        r#"{"leaves": {"name": "a:b", "dtype": "f32", "features": 1}, "levels": [{"name": "w=x", "segments": "w=x", "reduce": "sum"}]}"#,
    );
    let values = folder.write("values.npy", npy("<f4", false, "(3,)", &f32s([1.0, 2.0, 3.0])));
    let lengths = folder.write("lengths.npy", npy("|u1", false, "(2,)", &[1, 2]));
    let bound = run(&["check", &spec, "--bind", &format!(r"a\:b={values}"), "--bind", &format!(r"w\=x:lengths={lengths}")]);
    assert_contains(&bound.ok(), "the spec is in order");
    let told = run(&["check", &spec, "--bind", &format!("a:b={values}")]).usage();
    assert_contains(
        &told,
        r"unknown form of segments `b`; known: offsets, partial-offsets, lengths, ranges, ids, boundaries (a colon that belongs to the name is written `\:`)",
    );
}

#[test]
fn plans_are_verified_and_replayed() {
    let folder = Folder::new();
    let json = run(&["explain", &example("text.json"), "--format", "json"]).ok();
    let plan = folder.write("plan.json", &json);
    assert_contains(&run(&["check", &plan]).ok(), "the plan keeps its rules");
    assert_contains(&run(&["check", &plan, "--spec", &example("text.json")]).ok(), "the plan computes what the spec asks for");
    // Well formed, but another reducer than the spec asks for.
    let other = folder.write("other.json", json.replacen("\"mean\"", "\"sum\"", 1));
    let verdict = run(&["check", &other, "--spec", &example("text.json")]).error();
    assert!(verdict.contains("[plan-wrong]") || verdict.contains("[plan-invalid]"), "{verdict}");
    assert_contains(&run(&["check", &plan, "--spec", &example("protein.json")]).error(), "[plan-wrong]");
    assert_contains(&run(&["check", &folder.write("cut.json", &json[..json.len() - 40])]).error(), "cut.json is refused");
    let version = run(&["check", &folder.write("v.json", json.replace("\"version\": 1", "\"version\": 99"))]).error();
    assert_contains(&version, "[plan-version]");
    run(&["check", &example("text.json"), "--spec", &example("text.json")]).usage();
}

#[test]
fn bound_files_are_held_against_the_spec() {
    let folder = Folder::new();
    let check = |binds: &[String]| {
        let mut arguments = vec!["check".to_owned(), example("lookup.json")];
        binds.iter().for_each(|bind| arguments.extend(["--bind".to_owned(), bind.clone()]));
        run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let ids = |count: usize| npy("|u1", false, &format!("({count},)"), &vec![7; count]);
    let table = |rows: usize| safetensors(&[("byte.table", "BF16", &[rows, 32], vec![0; rows * 64])]);
    let good_ids = format!("byte.ids={}", folder.write("ids.npy", ids(22)));
    let good_table = format!("byte.table={}", folder.write("t.safetensors", table(256)));
    assert_contains(&check(&[good_ids.clone(), good_table.clone()]).ok(), "the spec is in order");
    let error = check(&[good_ids, format!("byte.table={}", folder.write("f.safetensors", table(255)))]).error();
    assert_contains(&error, "byte.table: ");
    assert_contains(&error, "has shape [255, 32], but the spec needs [256, 32] [shape]");
    let floats = npy("<f4", false, "(22,)", &f32s([0.0; 22]));
    let error = check(&[format!("byte.ids={}", folder.write("floats.npy", floats)), good_table]).error();
    assert_contains(&error, "holds f32, but the spec says u8 [dtype]");
}

#[test]
fn the_schema_is_json() {
    let schema = run(&["check", "--schema"]).json();
    assert_eq!(schema["required"], serde_json::json!(["leaves", "levels"]));
}

#[test]
fn custom_reducers_are_tried_and_explained() {
    let folder = Folder::new();
    let told = run(&["check", &example("custom.json")]).ok();
    assert_contains(&told, "rms");
    assert_contains(
        &run(&["explain", &example("custom.json")]).ok(),
        "reducer custom(rms) s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n)",
    );
    let spec = std::fs::read_to_string(example("custom.json")).unwrap();
    let changed = |from: &str, to: &str| run(&["check", &folder.write("c.json", spec.replacen(from, to, 1))]).error();
    assert_contains(&changed("a.s + b.s", "a.s - b.s"), "beat: the reducer `rms` breaks 2 laws");
    assert_contains(&changed("a.s + b.s", "a.s - b.s"), "combine is not associative");
    assert_contains(
        &changed("a.s + b.s", "a.s + b.t"),
        "levels[0].reduce: combine of `s`: at character 7 of `a.s + b.t`: `b.t` is not known here",
    );
    // The CUDA backend plans it too.
    let plan = run(&["explain", &example("custom.json"), "--format", "json"]).ok();
    let plan = folder.write("plan.json", &plan);
    assert_contains(&run(&["check", &plan, "--spec", &example("custom.json")]).ok(), "the plan computes what the spec asks for");
    assert_contains(&run(&["explain", &example("custom.json"), "--target", "cuda"]).ok(), "custom(rms");
}

#[test]
fn every_broken_law_of_every_reducer_is_reported() {
    let folder = Folder::new();
    let spec = folder.write(
        "broken.json",
        r#"{"leaves": {"name": "x", "dtype": "f32", "features": 1}, "levels": [
            {"name": "y", "segments": {"lengths": [2, 1]}, "reduce": ["custom(halves: s from x by (a.s + b.s) / 2 else 1; s)", "sum"]},
            {"name": "z", "segments": {"lengths": [2]}, "reduce": ["custom(apart: s from x by a.s - b.s; s)", "custom(shifted: s from x by a.s + b.s else 1; s)"]}]}"#,
    );
    let error = run(&["check", &spec]).error();
    for part in [
        "3 reducers break laws [reducer-law]",
        "  - y: the reducer `halves` breaks 2 laws; results would depend on how rows fall into blocks",
        "the reducer `halves`: for the rows",
        "the reducer `halves`: the rows",
        "  - z: the reducer `apart`: for the rows",
        "  - z: the reducer `shifted`: the rows",
    ] {
        assert_contains(&error, part);
    }
}

#[test]
fn reducers_of_ones_own_have_names_of_their_own() {
    let folder = Folder::new();
    let told = |reduce: &str| {
        let spec = format!(
            r#"{{"leaves": {{"name": "x", "dtype": "f32", "features": 1}}, "levels": [{{"name": "y", "segments": {{"lengths": [2]}}, "reduce": {reduce}}}]}}"#
        );
        run(&["check", &folder.write("c.json", spec)]).error()
    };
    let state = r#""state": [{"name": "s", "lift": "x", "combine": "a.s + b.s"}], "finish": "s""#;
    for name in ["sum", "Sum", "quantile"] {
        let taken = format!("y: levels[0].reduce: a reducer of your own cannot be named `{name}`: that is");
        let help = format!("; give it a name of its own, such as `my_{name}` [duplicate-name]");
        for reduce in [
            format!(r#"{{"custom": {{"name": "{name}", {state}}}}}"#),
            format!(r#"{{"custom": {{"name": "{name}", "version": 1}}}}"#),
            format!(r#""custom({name}: s from x by a.s + b.s; s)""#),
            format!(r#""custom({name} version=2)""#),
        ] {
            let told = told(&reduce);
            assert_contains(&told, &taken);
            assert_contains(&told, &help);
        }
    }
    assert_contains(&told(&format!(r#"{{"custom": {{"name": "average", {state}}}}}"#)), "that is the built-in `mean`");
    assert_contains(&told(r#""average""#), "unknown reducer `average`; it is `mean` here");
}

#[test]
fn reducers_in_rust_are_planned_and_refused_where_they_would_run() {
    let folder = Folder::new();
    let spec = folder.write(
        "mine.json",
        r#"{"leaves": {"name": "x", "dtype": "f32", "features": 1},
            "levels": [{"name": "y", "segments": {"lengths": [2]}, "reduce": {"custom": {"name": "mine", "version": 3, "arguments": [2]}}}]}"#,
    );
    run(&["check", &spec]).ok();
    assert_contains(&run(&["explain", &spec]).ok(), "fold.custom(mine version=3, 2)");
    assert_contains(
        &run(&["explain", &spec, "--analyze"]).error(),
        "the backend knows no reducer `mine` of version 3; give the backend a registry that holds it",
    );
    assert_contains(&run(&["explain", &spec, "--target", "cuda"]).error(), "custom(mine version=3, 2)");
}

#[test]
fn what_special_rows_do_to_a_custom_reducer_is_a_warning() {
    let folder = Folder::new();
    let spec = folder.write(
        "c.json",
        r#"{"leaves": {"name": "x", "dtype": "f32", "features": 1}, "levels": [{"name": "y", "segments": {"lengths": [2]},
            "reduce": "custom(own_lse: m from x by max(a.m, b.m); s from 1 by a.s * exp(a.m - max(a.m, b.m)) + b.s * exp(b.m - max(a.m, b.m)); m + log(s))"}]}"#,
    );
    let checked = run(&["check", &spec]).code(0);
    assert_contains(&checked.stderr, "warning: y: the reducer `own_lse`: for the rows [");
    assert_contains(&checked.stderr, "inf");
}

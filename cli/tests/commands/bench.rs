//! `levelfold bench`.

use crate::*;

const SMALL: [&str; 9] = ["bench", "--rows", "3000", "--features", "5", "--rounds", "10", "--stream-bytes", "4M"];

fn bench(arguments: &[&str]) -> Done {
    run(&[&SMALL[..], arguments].concat())
}

#[test]
fn every_row_is_checked_and_complete() {
    let report = bench(&["--backends", "cpu,reference", "--json", "--reduce", "sum,max"]).json();
    assert_eq!((&report["format"], &report["version"]), (&"levelfold bench".into(), &1.into()));
    let of = &report["benches"][0];
    let rows = of["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert!(row["check"] == "bits" || (row["opt"] == "O2" && row["check"] == "plan bits"), "{row}");
        assert!(row["error_to_f64"].as_f64().unwrap() < 1e-6, "{row}");
        assert_eq!(row["error"].as_f64().unwrap() == 0.0, row["check"] == "bits", "{row}");
        for positive in ["moved_bytes", "bytes_per_second", "of_bandwidth", "floor_seconds", "share_of_floor", "over_literal", "samples"] {
            assert!(row[positive].as_f64().unwrap() > 0.0, "{positive} of {row}");
        }
        for spread in ["seconds", "kernel_seconds", "time_over_floor"] {
            let [p10, median, p90] = ["p10", "median", "p90"].map(|name| row[spread][name].as_f64().unwrap());
            assert!(0.0 < p10 && p10 <= median && median <= p90, "{spread} of {row}");
        }
        // The two ways to say it are one number.
        let floor = |bytes: &str, rate: &str| row[bytes].as_f64().unwrap() / of["bandwidth"][rate]["median"].as_f64().unwrap();
        let floor = floor("floor_read_bytes", "read_bytes_per_second") + floor("floor_written_bytes", "write_bytes_per_second");
        let share = floor / row["seconds"]["median"].as_f64().unwrap();
        assert!((share / row["share_of_floor"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{row}");
        assert_eq!((row["uploaded_bytes"].as_u64(), row["transfer_seconds"]["median"].as_f64()), (Some(0), Some(0.0)));
        assert_eq!(row["copied_bytes"].as_u64().unwrap() > 0, row["opt"] == "O0", "{row}");
    }
    // The same plan's bits have the same hash on every backend, whatever the level of those that keep bits.
    let hashes: Vec<&serde_json::Value> = rows.iter().filter(|row| row["opt"] != "O2").map(|row| &row["hash"]).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert!(rows.iter().all(|row| row["samples"] == 10));
    // What reassociates has bits of its own, and they too are the same on every backend.
    let other: Vec<&serde_json::Value> = rows.iter().filter(|row| row["opt"] == "O2").map(|row| &row["hash"]).collect();
    assert!(other.iter().all(|hash| *hash == other[0]), "{other:?}");
    assert!(report["machine"]["threads"].as_u64().unwrap() > 0 && of["checked_rows"].is_null());
    assert!(of["bandwidth"]["copy_bytes_per_second"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn every_workload_and_dtype_runs() {
    let all = ["text", "lookup", "lookup-coarse", "skewed", "tiny", "deep", "wide", "flat", "ones"];
    let text = bench(&["--workload", &all.join(","), "--opt", "0,1"]).ok();
    for workload in all {
        assert_contains(&text, &format!("workload {workload} (seed 1)"));
    }
    assert_eq!(text.matches("  bits  ").count(), 2 * all.len(), "{text}");
    for dtype in ["f64", "f16", "bf16"] {
        assert_contains(&bench(&["--dtype", dtype, "--opt", "1", "--reduce", "prod"]).ok(), &format!("char {dtype}["));
    }
    assert_contains(&bench(&["--dtype", "u8"]).error(), "values cannot be u8");
    assert_contains(&bench(&["--reduce", "maen"]).usage(), "did you mean `mean`?");
}

#[test]
fn the_same_seed_is_the_same_data() {
    let hash = |seed: &str| bench(&["--opt", "1", "--json", "--seed", seed]).json()["benches"][0]["rows"][0]["hash"].clone();
    assert_eq!(hash("4"), hash("4"));
    assert_ne!(hash("4"), hash("5"));
}

#[test]
fn a_spec_is_measured_over_made_up_data() {
    for name in ["text.json", "lookup.json", "protein.json"] {
        let report = run(&["bench", &example(name), "--rounds", "10", "--json", "--stream-bytes", "4M"]).json();
        assert!(
            report["benches"][0]["rows"].as_array().unwrap().iter().all(|row| row["check"] == "bits" || row["opt"] == "O2"),
            "{name}: {report}"
        );
    }
    assert_contains(&run(&["bench", &example("bound.json")]).error(), "[not-bound]");
    run(&["bench", &example("text.json"), "--rows", "5"]).usage();
    let encoded = run(&["bench", &example("transformer.json"), "--backends", "reference", "--stream-bytes", "4M"]).error();
    assert_contains(&encoded, "bench checks every result in exact arithmetic, and does not compute encoders");
}

#[test]
fn the_table_is_aligned() {
    let text = bench(&["--opt", "0,1"]).ok();
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("backend")).take_while(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    let ends: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
    assert!(lines[1].starts_with("cpu      O0 ") && lines[2].starts_with("cpu      O1 ") && ends[1] == ends[2], "{text}");
    for column in [
        "samples",
        "median",
        "p10-p90",
        "kernels",
        "transfers",
        "moved",
        "copied",
        "GB/s",
        "floor",
        "time/floor",
        "share of floor",
        "vs -O0",
        "arena+scratch",
        "check",
        "error",
        "hash",
    ] {
        assert_contains(lines[0], column);
    }
    let few = run(&["bench", "--workload", "tiny", "--opt", "1", "--rounds", "3", "--stream-bytes", "4M"]).code(0);
    assert_contains(&few.stderr, "3 rounds are few");
}

#[test]
fn markdown_is_a_table() {
    let text = bench(&["--markdown", "--opt", "1"]).ok();
    assert_contains(&text, "| backend | opt | samples | median |");
    assert_contains(&text, "| cpu | O1 |");
}

#[test]
fn the_memory_limit_holds_for_benchmarks_too() {
    let error = bench(&["--memory-limit", "1K"]).error();
    assert_contains(&error, "cpu -O0: a run needs ");
    assert_contains(&error, "[memory-limit]");
    let cuda = run_without_driver(&[&SMALL[..], &["--backends", "cuda"]].concat());
    assert_contains(&cuda.error(), "cuda -O0: this machine has no CUDA driver");
    bench(&["--seconds", "-1"]).usage();
    assert_contains(
        &run(&["bench", "--workload", "nothing"]).usage(),
        "[possible values: text, lookup, lookup-coarse, skewed, tiny, deep, wide, flat, ones]",
    );
}

#[test]
fn levels_layouts_and_what_is_kept_are_chosen() {
    let of = |arguments: &[&str]| bench(&[&["--opt", "0,1", "--json"], arguments].concat()).json()["benches"][0].clone();
    let hash = |of: &serde_json::Value| of["rows"][0]["hash"].clone();
    let words = of(&["--levels", "1"]);
    assert_eq!((words["levels"].as_array().unwrap().len(), words["outputs"].as_array().unwrap().len()), (1, 1));
    let all = of(&["--keep", "all"]);
    assert_eq!(all["outputs"].as_array().unwrap().len(), 4);
    assert_eq!(of(&["--keep", "word,sentence"])["outputs"].as_array().unwrap().len(), 3);
    // The same values in another order of memory: the same bits.
    let turned = of(&["--levels", "1", "--layout", "feature-major"]);
    assert_eq!((hash(&turned), &turned["layout"]), (hash(&words), &"feature-major".into()));
    assert_contains(&bench(&["--levels", "9"]).error(), "text has 4 level(s), not 9");
    assert_contains(&bench(&["--keep", "wrd"]).error(), "did you mean `word`?");
}

#[test]
fn what_is_exported_is_what_is_measured() {
    let folder = Folder::new();
    for (case, arguments) in [
        ("text", &["--workload", "text", "--keep", "all"][..]),
        ("turned", &["--workload", "flat", "--layout", "feature-major"]),
        ("lookup", &["--workload", "lookup"]),
        ("bf16", &["--workload", "skewed", "--dtype", "bf16"]),
    ] {
        let at = folder.at(case);
        let exported = bench(&[arguments, &["--export", &at, "--quiet"]].concat()).ok();
        assert_eq!(exported, "");
        let rows = |report: serde_json::Value| report["benches"][0]["rows"][0]["hash"].clone();
        let made = rows(bench(&[arguments, &["--json", "--opt", "1"]].concat()).json());
        let read = rows(run(&["bench", "--data", &at, "--json", "--opt", "1", "--rounds", "10", "--stream-bytes", "4M"]).json());
        assert_eq!(made, read, "{case}");
    }
    std::fs::remove_file(folder.path("text").join("char.npy")).unwrap();
    let error = run(&["bench", "--data", &folder.at("text"), "--stream-bytes", "4M"]).error();
    assert_contains(&error, "has neither char.npy nor char.safetensors");
    std::fs::remove_file(folder.path("lookup").join("word.offsets.npy")).unwrap();
    assert_contains(&run(&["bench", "--data", &folder.at("lookup"), "--stream-bytes", "4M"]).error(), "word.offsets.npy");
    bench(&["--workload", "text,flat", "--export", &folder.at("two")]).usage();
    run(&["bench", "--data", &folder.at("text"), "--rows", "5"]).usage();
}

#[test]
fn another_program_sets_the_pace() {
    use std::io::Write;
    let mut command = levelfold(&[&SMALL[..], &["--opt", "0,1", "--paced"]].concat());
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\n\n\n").unwrap();
    let done = Done::of(child.wait_with_output().unwrap()).code(0);
    let events: Vec<serde_json::Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["ready", "round", "round", "round", "report"]);
    assert_eq!(events[0]["contenders"], serde_json::json!(["cpu -O0", "cpu -O1"]));
    for round in &events[1..4] {
        assert_eq!(round["seconds"].as_array().unwrap().len(), 2);
        assert!(round["seconds"][1].as_f64().unwrap() > 0.0 && round["write_bytes_per_second"].as_f64().unwrap() > 0.0, "{round}");
    }
    assert_eq!(events[4]["report"]["benches"][0]["rows"][1]["samples"], 3);
    bench(&["--paced", "--json"]).usage();
    bench(&["--paced", "--workload", "text,flat"]).usage();
}

#[test]
fn shares_are_drawn() {
    let folder = Folder::new();
    bench(&["--workload", "text,flat", "--opt", "0,1", "--svg", &folder.at("chart.svg")]).ok();
    let svg = std::fs::read_to_string(folder.path("chart.svg")).unwrap();
    assert_eq!((svg.matches("<rect").count(), svg.matches("cpu -O1").count()), (1 + 4, 2), "{svg}");
    for part in ["<svg xmlns=", ">100%<", "text: char f32[3000, 5]", "flat: row f32[3000, 5]", "</svg>"] {
        assert_contains(&svg, part);
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert_contains(&bench(&["--opt", "1", "--svg", &folder.at("no/such/place.svg")]).error(), "cannot write");
}

/// A report of this machine, and the same with every time of its rows multiplied.
fn reports(folder: &Folder, times: f64) -> (String, String) {
    let report = bench(&["--opt", "0,1", "--json"]).json();
    let then = folder.write("then.json", report.to_string());
    let mut other = report;
    for row in other["benches"][0]["rows"].as_array_mut().unwrap() {
        for spread in ["seconds", "time_over_floor"] {
            for number in ["p10", "median", "p90"] {
                row[spread][number] = (row[spread][number].as_f64().unwrap() * times).into();
            }
        }
    }
    (then, folder.write("other.json", other.to_string()))
}

#[test]
fn a_regression_beyond_the_spread_is_exit_1() {
    let folder = Folder::new();
    // Then everything took a thousandth, or a thousand times as long: no noise is that large.
    let (_, fast) = reports(&folder, 1e-3);
    let done = bench(&["--opt", "0,1", "--compare", &fast]).code(1);
    assert_eq!((done.stdout.matches("SLOWER").count(), done.stderr.as_str()), (2, ""));
    assert_contains(&done.stdout, "2 rows became slower");
    let (_, slow) = reports(&folder, 1e3);
    let text = bench(&["--opt", "0,1", "--compare", &slow]).ok();
    assert_eq!(text.matches("  faster").count(), 2, "{text}");
    let report = bench(&["--opt", "1,2", "--compare", &slow, "--json"]).json();
    let changes: Vec<_> = report["comparison"]["rows"].as_array().unwrap().iter().map(|row| row["change"].clone()).collect();
    assert_eq!(changes, ["faster", "new", "gone"]);
}

#[test]
fn an_older_report_that_says_nothing_about_this_one_is_refused() {
    let folder = Folder::new();
    let (then, _) = reports(&folder, 1.0);
    let text = std::fs::read_to_string(&then).unwrap();
    let against = |name: &str, content: &str| bench(&["--opt", "0,1", "--compare", &folder.write(name, content)]).error();
    assert_contains(&against("cut.json", &text[..text.len() / 2]), "cut.json: it ends too early");
    assert_contains(&against("words.json", "then"), "words.json: it is not JSON");
    assert_contains(&against("plan.json", "{}"), "it is no report of a benchmark");
    let newer = text.replace("\"version\":1", "\"version\":7");
    assert_contains(&against("newer.json", &newer), "it has version 7, and this command reads version 1");
    let field = text.replace("\"samples\"", "\"smaples\"");
    assert_contains(&against("field.json", &field), "it is no whole report: unknown field `smaples`");
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["machine"]["cpu"] = "Z80".into();
    assert_contains(&against("elsewhere.json", &value.to_string()), "processor: Some(\"Z80\") then");
    assert_contains(&bench(&["--compare", &then, "--threads", "77"]).error(), "threads: ");
    // Other data, and nothing in common.
    let error = bench(&["--opt", "0,1", "--seed", "2", "--dtype", "f64", "--compare", &then]).error();
    for part in ["text: seed: 1 then, 2 now", "text: inputs: char f32[3000, 5] then, char f64[3000, 5] now"] {
        assert_contains(&error, part);
    }
    assert_contains(&bench(&["--workload", "flat", "--compare", &then]).error(), "the two reports have no row in common");
    assert_contains(&bench(&["--compare", &folder.at("missing.json")]).error(), "cannot read");
}

#[test]
fn what_no_memory_holds_is_an_error() {
    let bench = |more: &[&str]| run(&[&["bench", "--workload", "ones"], more].concat()).error();
    assert_contains(
        &bench(&["--rows", "100000000000000"]),
        "the system has no memory for the segments of 100000000000000 rows; take fewer with --rows",
    );
    assert_contains(&bench(&["--rows", "10", "--stream-bytes", "16777215T"]), "[memory-limit]");
}

//! `levelfold bench`.

use crate::*;

const SMALL: [&str; 9] = ["bench", "--rows", "3000", "--features", "5", "--rounds", "10", "--stream-bytes", "4M"];

fn bench(arguments: &[&str]) -> Done {
    run(&[&SMALL[..], arguments].concat())
}

#[test]
fn every_row_is_checked_and_complete() {
    let report = bench(&["--backends", "cpu,reference", "--json", "--reduce", "sum,max"]).json();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert!(row["check"] == "bits" || (row["opt"] == "O2" && row["check"] == "plan bits"), "{row}");
        assert!(row["error_to_f64"].as_f64().unwrap() < 1e-6, "{row}");
        assert_eq!(row["error"].as_f64().unwrap() == 0.0, row["check"] == "bits", "{row}");
        for positive in ["moved_bytes", "bytes_per_second", "of_bandwidth", "floor_seconds", "of_floor", "over_literal", "samples"] {
            assert!(row[positive].as_f64().unwrap() > 0.0, "{positive} of {row}");
        }
        let seconds = |name: &str| row["seconds"][name].as_f64().unwrap();
        assert!(0.0 < seconds("p10") && seconds("p10") <= seconds("median") && seconds("median") <= seconds("p90"), "{row}");
        assert_eq!(row["copied_bytes"].as_u64().unwrap() > 0, row["opt"] == "O0", "{row}");
    }
    // The same plan's bits have the same hash on every backend, whatever the level of those that keep bits.
    let hashes: Vec<&serde_json::Value> = rows.iter().filter(|row| row["opt"] != "O2").map(|row| &row["hash"]).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert!(rows.iter().all(|row| row["samples"] == 10));
    // What reassociates has bits of its own, and they too are the same on every backend.
    let other: Vec<&serde_json::Value> = rows.iter().filter(|row| row["opt"] == "O2").map(|row| &row["hash"]).collect();
    assert!(other.iter().all(|hash| *hash == other[0]), "{other:?}");
    assert!(report["machine"]["threads"].as_u64().unwrap() > 0 && report["checked_rows"].is_null());
    assert!(report["bandwidth"]["read_bytes_per_second"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn every_workload_and_dtype_runs() {
    for workload in ["text", "lookup", "skewed", "tiny", "deep", "wide", "flat", "ones"] {
        let text = bench(&["--workload", workload, "--opt", "0,1"]).ok();
        assert_contains(&text, &format!("workload {workload} (seed 1)"));
        assert_eq!(text.matches("  bits  ").count(), 2, "{text}");
    }
    for dtype in ["f64", "f16", "bf16"] {
        assert_contains(&bench(&["--dtype", dtype, "--opt", "1", "--reduce", "prod"]).ok(), &format!("char {dtype}["));
    }
    assert_contains(&bench(&["--dtype", "u8"]).error(), "values cannot be u8");
    assert_contains(&bench(&["--reduce", "maen"]).usage(), "did you mean `mean`?");
}

#[test]
fn the_same_seed_is_the_same_data() {
    let hash = |seed: &str| bench(&["--opt", "1", "--json", "--seed", seed]).json()["rows"][0]["hash"].clone();
    assert_eq!(hash("4"), hash("4"));
    assert_ne!(hash("4"), hash("5"));
}

#[test]
fn a_spec_is_measured_over_made_up_data() {
    for name in ["text.json", "lookup.json", "protein.json"] {
        let report = run(&["bench", &example(name), "--rounds", "10", "--json", "--stream-bytes", "4M"]).json();
        assert!(report["rows"].as_array().unwrap().iter().all(|row| row["check"] == "bits" || row["opt"] == "O2"), "{name}: {report}");
    }
    assert_contains(&run(&["bench", &example("bound.json")]).error(), "[not-bound]");
    run(&["bench", &example("text.json"), "--rows", "5"]).usage();
}

#[test]
fn the_table_is_aligned() {
    let text = bench(&["--opt", "0,1"]).ok();
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("backend")).take_while(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    let ends: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
    assert!(lines[1].starts_with("cpu      O0 ") && lines[2].starts_with("cpu      O1 ") && ends[1] == ends[2], "{text}");
    for column in ["samples", "median", "p10-p90", "moved", "copied", "GB/s", "floor", "vs -O0", "arena+scratch", "check", "error", "hash"]
    {
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
    assert_contains(&bench(&["--backends", "cuda"]).error(), "cuda -O0: this version has no CUDA backend");
    bench(&["--seconds", "-1"]).usage();
    assert_contains(
        &run(&["bench", "--workload", "nothing"]).usage(),
        "[possible values: text, lookup, skewed, tiny, deep, wide, flat, ones]",
    );
}

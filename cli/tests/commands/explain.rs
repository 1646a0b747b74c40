//! `levelfold explain`.

use crate::files::*;
use crate::*;

#[test]
fn four_levels_are_one_step() {
    insta::assert_snapshot!(run(&["explain", &example("text.json")]).ok(), @r"
    plan v1 target=cpu align=64

    table   t0 word       14 of 62 rows  offsets  longest 9  empty 0  bound  59876b5ad138f232e2a923248cf59151
    table   t1 sentence    4 of 14 rows  offsets  longest 5  empty 0  bound  35c0fa9ae84cbcbceb30ac61cbbe2105
    table   t2 paragraph   2 of  4 rows  offsets  longest 3  empty 0  bound  e8869cc4fa5c6058c32926108911df16
    table   t3 document    1 of  2 rows  offsets  longest 2  empty 0  bound  92ae791ab14bbe8852195722c3216843

    buffer  b0 char       f32[62x64] 15872 B  input
    buffer  b1 sentence   f32[4x64]   1024 B  output
    buffer  b2 paragraph  f32[2x64]    512 B  output
    buffer  b3 document   f32[1x64]    256 B  output

    step    s0 _  = fold.mean b0 by t0
               b1 = then.mean _ by t1
               b2 = then.mean b1 by t2
               b3 = then.mean b2 by t3
               ; read 16072  written 1792  copied 0  flops 6592
               ; from word:      slice + transpose + contiguous + reduce + stack + squeeze
               ;      sentence:  slice + transpose + contiguous + reduce + stack + squeeze
               ;      paragraph: slice + transpose + contiguous + reduce + stack + squeeze
               ;      document:  slice + transpose + contiguous + reduce + stack + squeeze

    total   steps  1  arena     0  peak     0  copied     0  read 16072  written  1792  flops 6592
    literal steps 12  arena 19456  peak 19456  copied 26368  read 47760  written 31744  flops 6592
    moved   17864 B, 4.45 times less than literal (79504), 1.00 times the floor (17864)
    ");
}

#[test]
fn why_names_every_fusion_and_refusal() {
    insta::assert_snapshot!(run(&["explain", &example("lookup.json"), "--why", "--format", "text"]).ok().split_once("why\n").unwrap().1, @r"
      eliminate-identity    done  word.stack+squeeze changes nothing: 640 B not copied
      eliminate-identity    done  word.stack+squeeze changes nothing: 640 B not copied
      eliminate-identity    done  document.stack+squeeze changes nothing: 512 B not copied
      fuse-transpose-reduce done  word is one fold over a view: 1408 B not copied
      fuse-transpose-reduce done  word is one fold over a view: 1408 B not copied
      fuse-transpose-reduce done  document is one fold over a view: 1280 B not copied
      fuse-siblings         done  word and word share one read: 1408 B not read again
      fuse-gather           done  byte.ids.gather is looked up by 1 fold(s): 1408 B not written out
      histogram-gather      kept  byte.ids.gather word folds looked-up rows: counting would take 82008 operations, more than half of the 704 of folding
      fuse-levels           kept  byte.ids.gather word and document stay two steps: the rows between them are the results of several reducers side by side, and a fold is fed by one
      place-concat          done  word.concat is written in place: 1280 B not copied
    ");
}

#[test]
fn the_literal_program_has_every_copy() {
    let text = run(&["explain", &example("text.json"), "-O0"]).ok();
    assert_eq!(text.matches("copy.contiguous").count(), 4, "{text}");
    assert_eq!(text.matches("copy.stack").count(), 4, "{text}");
    let none = run(&["explain", &example("text.json"), "-O0", "--why"]).ok();
    assert!(none.ends_with("why\n  no pass ran, or none had anything to decide\n"), "{none}");
}

#[test]
fn a_pass_can_be_left_out_and_a_wrong_name_is_answered() {
    let text = run(&["explain", &example("text.json"), "--disable-pass", "fuse-levels"]).ok();
    assert_eq!(text.matches("fold.mean").count(), 4, "{text}");
    let error = run(&["explain", &example("text.json"), "--disable-pass", "fuse-level"]).error();
    assert_contains(&error, "there is no pass `fuse-level`; did you mean `fuse-levels`? [unknown-name]");
}

#[test]
fn graphs_are_printed_after_the_passes_that_were_asked_for() {
    let after = |when: &str| run(&["explain", &example("text.json"), "--print-after", when]).ok();
    let headers = |text: &str| text.lines().filter(|line| line.starts_with("graph ")).map(str::to_owned).collect::<Vec<_>>();
    let changed = headers(&after("changed"));
    assert_eq!(changed[0], "graph before any pass");
    assert!(changed.contains(&"graph after fuse-levels".to_owned()), "{changed:?}");
    let all = headers(&after("all"));
    assert!(all.len() > changed.len() && all.contains(&"graph after share-tables: as before".to_owned()), "{all:?}");
    assert_eq!(headers(&after("fuse-gather")), ["graph after fuse-gather"]);
    let error = run(&["explain", &example("text.json"), "--print-after", "fuse-gahter"]).error();
    assert_contains(&error, "did you mean `fuse-gather`?");
}

#[test]
fn formats_are_read_back_or_drawn() {
    let folder = Folder::new();
    let text = run(&["explain", &example("text.json")]).ok();
    let json = folder.write("plan.json", run(&["explain", &example("text.json"), "--format", "json"]).ok());
    assert_eq!(run(&["explain", &json]).ok(), text);
    let dot = run(&["explain", &example("text.json"), "--format", "dot"]).ok();
    assert!(dot.starts_with("digraph"), "{dot}");
    assert_eq!(run(&["explain", &json, "--format", "dot"]).ok(), dot);
    let svg = run(&["explain", &json, "--format", "svg"]).ok();
    for part in ["<svg", ">char<", ">mean by t3 document<", "</svg>"] {
        assert_contains(&svg, part);
    }
    run(&["explain", &example("text.json"), "--format", "json", "--why"]).usage();
    run(&["explain", &json, "--why"]).usage();
    // A plan is what it is.
    for made_already in [&["-O0"][..], &["--target", "cpu"], &["--disable-pass", "fuse-levels"]] {
        assert_contains(&run(&[&["explain", &json], made_already].concat()).usage(), "a plan is made already");
    }
    assert_contains(&run(&["explain", &json, "--analyze"]).usage(), "--analyze needs its spec");
}

#[test]
fn a_spec_comes_from_stdin_too() {
    let file = std::fs::File::open(example("text.json")).unwrap();
    let done = Done::of(levelfold(&["explain", "-"]).stdin(file).output().unwrap());
    assert_eq!(done.ok(), run(&["explain", &example("text.json")]).ok());
}

#[test]
fn targets_are_named_in_plans() {
    assert_contains(&run(&["explain", &example("text.json"), "--target", "reference"]).ok(), "plan v1 target=reference");
    assert_contains(&run(&["explain", &example("text.json"), "--target", "cuda"]).ok(), "plan v1 target=cuda align=256");
    assert_contains(&run(&["explain", &example("text.json"), "--target", "auto"]).error(), "`auto` is not one backend");
}

#[test]
fn bound_segments_are_needed_and_used() {
    let folder = Folder::new();
    let error = run(&["explain", &example("bound.json")]).error();
    assert_contains(&error, "word: its segments are to be bound as `word`, and nothing is");
    let word = format!("word:lengths={}", folder.write("word.npy", npy("<i8", false, "(3,)", &i64s(&[2, 0, 3]))));
    let sentence = format!("sentence={}", folder.write("s.npy", npy("<i8", false, "(3,)", &i64s(&[0, 2, 3]))));
    let text = run(&["explain", &example("bound.json"), "--bind", &word, "--bind", &sentence]).ok();
    assert_contains(&text, "f32[5x8]");
}

#[test]
fn analyze_runs_every_step_and_counts_its_bytes() {
    let analyze = |name: &str, arguments: &[&str]| {
        let always = ["explain", &example(name), "--analyze", "--stream-bytes", "4M", "--runs", "5"];
        run(&[&always[..], arguments].concat())
    };
    for (name, made) in [("text.json", vec!["char"]), ("lookup.json", vec!["byte.ids", "byte.table"]), ("protein.json", vec!["residue"])] {
        for opt in ["-O0", "-O1", "-O2"] {
            let plan = run(&["explain", &example(name), opt, "--format", "json"]).json();
            let found = analyze(name, &[opt, "--json"]).json();
            let (steps, planned) = (found["steps"].as_array().unwrap(), plan["steps"].as_array().unwrap());
            assert_eq!(steps.len(), planned.len(), "{name} {opt}");
            for (step, planned) in steps.iter().zip(planned) {
                assert_eq!((&step["read_bytes"], &step["written_bytes"]), (&planned["cost"]["read"], &planned["cost"]["written"]));
                let [low, median, high] = ["p10_seconds", "seconds", "p90_seconds"].map(|name| step[name].as_f64().unwrap());
                assert!(0.0 < low && low <= median && median <= high, "{step}");
                assert_eq!(step["flops"], planned["cost"]["flops"]);
                if let Some(flops) = step["flops"].as_u64().filter(|flops| *flops > 0) {
                    let rate = step["flops_per_second"].as_f64().unwrap();
                    assert!((rate * median / flops as f64 - 1.0).abs() < 1e-9, "{step}");
                }
                let share = step["floor_seconds"].as_f64().unwrap() / median;
                assert!((share / step["share_of_floor"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{step}");
            }
            let names: Vec<&str> = found["made_inputs"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            assert!(made.iter().all(|name| names.contains(name)), "{names:?}");
            assert_eq!(found["uploaded_bytes"], 0);
        }
    }
    let text = analyze("text.json", &["-O0", "--threads", "1", "--seed", "9"]).ok();
    for part in [
        "plan v1 target=cpu",
        "analyzed on cpu, 5 runs over seeded random data (seed 9) for char; memory read ",
        "GFLOP/s",
        "time/floor  share of floor",
        "fold mean: document.reduce",
        "whole run ",
    ] {
        assert_contains(&text, part);
    }
    assert_contains(&analyze("text.json", &["--target", "reference"]).ok(), "analyzed on reference");
    for usage in [&["--why"][..], &["--format", "json"], &["--print-after", "all"]] {
        analyze("text.json", usage).usage();
    }
    run(&["explain", &example("text.json"), "--runs", "5"]).usage();
}

#[test]
fn analyze_runs_over_the_files_that_are_bound() {
    let folder = Folder::new();
    let word = format!("word:lengths={}", folder.write("word.npy", npy("<i8", false, "(3,)", &i64s(&[2, 0, 3]))));
    let sentence = format!("sentence={}", folder.write("s.npy", npy("<i8", false, "(3,)", &i64s(&[0, 2, 3]))));
    let char = format!("char={}", folder.write("char.npy", npy("<f4", false, "(5, 8)", &f32s((0..40u8).map(f32::from)))));
    let segments = ["explain", &example("bound.json"), "--analyze", "--stream-bytes", "4M", "--bind", &word, "--bind", &sentence];
    let text = run(&[&segments[..], &["--bind", &char]].concat()).ok();
    assert_contains(&text, "11 runs over the bound files; memory");
    assert_contains(&run(&segments).ok(), "over seeded random data (seed 1) for char; memory");
    let error = run(&["explain", &example("bound.json"), "--analyze"]).error();
    assert_contains(&error, "word: its segments are to be bound as `word`, and nothing is");
}

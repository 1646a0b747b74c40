//! `levelfold run`.

use crate::files::*;
use crate::*;

/// Six rows of two features: row r is (r, 10 r).
fn rows() -> Vec<u8> {
    f32s((0..6u8).flat_map(|row| [f32::from(row), 10.0 * f32::from(row)]))
}

const SPEC: &str = r#"{
  "leaves": { "name": "char", "dtype": "f32", "features": 2 },
  "levels": [
    { "name": "word", "segments": "word", "reduce": "mean", "keep": true },
    { "name": "text", "segments": { "lengths": [3] }, "reduce": ["sum", "max"] }
  ]
}"#;

/// A folder with the spec, its values and its offsets.
struct Case {
    folder: Folder,
    spec: String,
    char: String,
    word: String,
}

impl Case {
    fn new() -> Case {
        let folder = Folder::new();
        let spec = folder.write("spec.json", SPEC);
        let char = format!("char={}", folder.write("char.npy", npy("<f4", false, "(6, 2)", &rows())));
        let word = format!("word={}", folder.write("word.npy", npy("<i8", false, "(4,)", &i64s(&[0, 1, 4, 6]))));
        Case { folder, spec, char, word }
    }

    fn run(&self, char: &str, word: &str, more: &[&str]) -> Done {
        run(&[&["run", &self.spec, "--bind", char, "--bind", word][..], more].concat())
    }

    /// The hash of the outputs.
    fn hash(&self, char: &str, word: &str, more: &[&str]) -> String {
        let report = self.run(char, word, &[more, &["--json", "--hash"]].concat()).json();
        report["hash"].as_str().unwrap().to_owned()
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn what_is_kept_is_written() {
    let case = Case::new();
    let out = case.folder.at("out.safetensors");
    let text = case.run(&case.char, &case.word, &["--out", &out]).ok();
    for part in ["word    f32       3         2", "text    f32       1         4", "copied 0 B", "wrote  "] {
        assert_contains(&text, part);
    }
    let file = std::fs::read(&out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(floats(tensors.tensor("word").unwrap().data()), [0.0, 0.0, 2.0, 20.0, 4.5, 45.0]);
    assert_eq!(floats(tensors.tensor("text").unwrap().data()), [6.5, 65.0, 4.5, 45.0]);
    assert_eq!(tensors.tensor("text").unwrap().shape(), [1, 4]);
    assert_eq!(case.folder.names(), ["char.npy", "out.safetensors", "spec.json", "word.npy"]);
}

#[test]
fn every_way_to_say_it_gives_the_same_bits() {
    let case = Case::new();
    let wanted = case.hash(&case.char, &case.word, &[]);
    for more in [
        &["-O0"][..],
        &["-O2"],
        &["--threads", "1"],
        &["--threads", "3"],
        &["--backend", "reference"],
        &["--backend", "reference", "-O0"],
        &["--disable-pass", "fuse-levels", "--disable-pass", "fuse-siblings"],
        &["--memory-limit", "1M"],
    ] {
        assert_eq!(case.hash(&case.char, &case.word, more), wanted, "{more:?}");
    }
    let columns = (0..2u8).flat_map(|feature| (0..6u8).map(move |row| f32::from(row) * [1.0, 10.0][usize::from(feature)]));
    let folder = &case.folder;
    let fortran = format!("char={}", folder.write("f.npy", npy("<f4", true, "(6, 2)", &f32s(columns))));
    assert_eq!(case.hash(&fortran, &case.word, &[]), wanted);
    let two = safetensors(&[("char", "F32", &[6, 2], rows()), ("other", "F32", &[6, 2], vec![0; 48])]);
    let two = folder.write("two.safetensors", two);
    assert_eq!(case.hash(&format!("char={two}"), &case.word, &[]), wanted);
    assert_eq!(case.hash(&format!("char={two}:char"), &case.word, &[]), wanted);
    assert_ne!(case.hash(&format!("char={two}:other"), &case.word, &[]), wanted);
    for (form, file) in [
        ("word:lengths", npy("<i4", false, "(3,)", &[1i32, 3, 2].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())),
        ("word:offsets", npy("|u1", false, "(4,)", &[0, 1, 4, 6])),
        ("word:ranges", npy("<i8", false, "(3, 2)", &i64s(&[0, 1, 1, 4, 4, 6]))),
        ("word:ids:3", npy("<i8", false, "(6,)", &i64s(&[0, 1, 1, 1, 2, 2]))),
        ("word:boundaries", npy("<i8", false, "(2,)", &i64s(&[1, 4]))),
    ] {
        let word = format!("{form}={}", folder.write("form.npy", file));
        assert_eq!(case.hash(&case.char, &word, &[]), wanted, "{form}");
    }
}

#[test]
fn misaligned_tensors_are_copied_and_said_so() {
    let case = Case::new();
    // One byte in front moves the values off their alignment.
    let file = safetensors(&[("a", "U8", &[1], vec![0]), ("char", "F32", &[6, 2], rows())]);
    let char = format!("char={}:char", case.folder.write("odd.safetensors", file));
    let done = case.run(&char, &case.word, &["--json"]).code(0);
    assert_contains(&done.stderr, "warning: 48 bytes of input were copied, because they are not aligned in their files");
    assert_contains(&done.stdout, "\"realigned_bytes\": 48");
}

#[test]
fn the_memory_limit_is_kept_before_anything_is_allocated() {
    let case = Case::new();
    let out = case.folder.at("out.safetensors");
    let error = case.run(&case.char, &case.word, &["--memory-limit", "64", "--out", &out]).error();
    assert_contains(&error, "a run needs ");
    assert_contains(&error, "the limit is 64");
    assert_contains(&error, "[memory-limit]");
    assert!(!case.folder.names().contains(&"out.safetensors".to_owned()));
    // A terabyte of features in the spec is refused by counting.
    let spec = SPEC.replace("\"features\": 2", "\"features\": 100000000000");
    let spec = case.folder.write("large.json", spec);
    let error = run(&["run", &spec, "--bind", &case.word, "--bind", &case.char, "--memory-limit", "1G"]).error();
    assert_contains(&error, "[memory-limit]");
}

#[test]
fn bindings_that_do_not_fit_are_refused() {
    let case = Case::new();
    let folder = &case.folder;
    let refused = |char: &str, word: &str| case.run(char, word, &["--out", &folder.at("out")]).error();
    let char = |name: &str, content: Vec<u8>| refused(&format!("char={}", folder.write(name, content)), &case.word);
    assert_contains(&char("f8.npy", npy("<f8", false, "(6, 2)", &[0; 96])), "`char` is f64, planned was f32");
    assert_contains(&char("wide.npy", npy("<f4", false, "(6, 3)", &[0; 72])), "[shape]");
    assert_contains(&char("rank.npy", npy("<f4", false, "(1, 6, 2)", &rows())), "it has 3 axes, shape [1, 6, 2]");
    assert_contains(&char("big.npy", npy(">f4", false, "(6, 2)", &rows())), "big-endian; convert it");
    assert_contains(&char("cut.npy", npy("<f4", false, "(6, 2)", &rows()[..40])), "the file was cut short [file]");
    assert_contains(&char("huge.npy", npy("<f4", false, "(4000000000, 2)", &rows())), "takes 32000000000 bytes, but 48 bytes follow it");
    assert_contains(&char("text.npy", b"hello".to_vec()), "does not begin as an .npy file does");
    assert_contains(&char("text.safetensors", b"hello hello".to_vec()), "neither an .npy nor a valid .safetensors file");
    assert_contains(&char("empty.npy", Vec::new()), "it is empty");
    let rows7 = npy("<f4", false, "(7, 2)", &[0; 56]);
    assert_contains(&char("seven.npy", rows7), "word: ");
    let word = |name: &str, content: Vec<u8>| refused(&case.char, &format!("word={}", folder.write(name, content)));
    assert_contains(&word("short.npy", npy("<i8", false, "(3,)", &i64s(&[0, 1, 4]))), "2 would be dropped");
    assert_contains(&word("down.npy", npy("<i8", false, "(4,)", &i64s(&[0, 4, 1, 6]))), "offsets[2] = 1 is less than offsets[1] = 4");
    assert_contains(&word("start.npy", npy("<i8", false, "(2,)", &i64s(&[1, 6]))), "offsets[0] = 1");
    assert_contains(&word("none.npy", npy("<i8", false, "(0,)", &[])), "[offsets-empty]");
    assert_contains(&word("float.npy", npy("<f4", false, "(4,)", &[0; 16])), "segments are integers [dtype]");
    assert_contains(&word("rank2.npy", npy("<i8", false, "(2, 2)", &i64s(&[0, 1, 4, 6]))), "offsets have shape [n]");
    let segments = npy("<i8", false, "(3,)", &i64s(&[0, 1, 6]));
    assert_contains(&word("two.npy", segments), "[rows-mismatch]");
    assert!(!folder.names().contains(&"out".to_owned()));
}

#[test]
fn names_are_answered() {
    let case = Case::new();
    assert_contains(&case.run(&case.char.replacen("char", "cahr", 1), &case.word, &[]).error(), "no binding `cahr`; did you mean `char`?");
    assert_contains(&case.run(&case.char, &case.char, &[]).error(), "`char` is bound twice");
    assert_contains(&run(&["run", &case.spec, "--bind", &case.word]).error(), "[not-bound]");
    assert_contains(&case.run(&case.char.replacen("char=", "char:lengths=", 1), &case.word, &[]).error(), "it has no form `lengths`");
    let text = format!("text={}", case.folder.at("word.npy"));
    assert_contains(&case.run(&case.char, &text, &[]).error(), "that level has its segments in the spec");
    let two = safetensors(&[("a", "F32", &[6, 2], rows()), ("b", "F32", &[6, 2], rows())]);
    let two = case.folder.write("two.safetensors", two);
    assert_contains(&case.run(&format!("char={two}"), &case.word, &[]).error(), "say which one with FILE:TENSOR; it has a, b");
    assert_contains(&case.run(&format!("char={two}:c"), &case.word, &[]).error(), "holds no tensor `c`");
    assert_contains(&case.run(&case.char.replace("char.npy", "none.npy"), &case.word, &[]).error(), "none.npy: No such file");
}

#[test]
fn ids_and_weights_are_checked_before_anything_runs() {
    let folder = Folder::new();
    let spec = folder.write(
        "spec.json",
        r#"{"leaves": {"name": "c", "ids": {"dtype": "i32"}, "table": {"dtype": "f32", "rows": 3, "features": 1}},
            "levels": [{"name": "w", "segments": {"lengths": [2, 1]}, "reduce": "mean", "weights": "weight"}]}"#,
    );
    let table = format!("c.table={}", folder.write("t.npy", npy("<f4", false, "(3, 1)", &f32s([1.0, 2.0, 4.0]))));
    let done = |ids: [i32; 3], weights: [f32; 3]| {
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let ids = format!("c.ids={}", folder.write("i.npy", npy("<i4", false, "(3,)", &ids)));
        let weights = format!("weight={}", folder.write("w.npy", npy("<f4", false, "(3,)", &f32s(weights))));
        let out = folder.at("out.safetensors");
        run(&["run", &spec, "--bind", &ids, "--bind", &weights, "--bind", &table, "--out", &out])
    };
    done([0, 2, 1], [1.0, 3.0, 1.0]).ok();
    let file = std::fs::read(folder.at("out.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(floats(tensors.tensor("w").unwrap().data()), [3.25, 2.0]);
    assert_contains(&done([0, 3, 1], [1.0; 3]).error(), "`c.ids`[1] = 3, but `c.table` has 3 rows");
    assert_contains(&done([0, -1, 1], [1.0; 3]).error(), "`c.ids`[1] = -1");
    assert_contains(&done([0, 1, 1], [1.0, -2.0, 1.0]).error(), "[weights]");
    assert_contains(&done([0, 1, 1], [0.0, 0.0, 1.0]).error(), "the weights of segment 0 are all 0");
}

#[test]
fn plan_files_are_replayed_before_they_run() {
    let case = Case::new();
    let json = run(&["explain", &case.spec, "--bind", &case.char, "--bind", &case.word, "--format", "json"]).ok();
    let plan = case.folder.write("plan.json", &json);
    assert_eq!(case.hash(&case.char, &case.word, &["--plan", &plan]), case.hash(&case.char, &case.word, &[]));
    let refused = |content: &str, more: &[&str]| {
        let plan = case.folder.write("bad.json", content);
        case.run(&case.char, &case.word, &[&["--plan", &plan], more].concat()).error()
    };
    assert_contains(&refused(&json[..json.len() / 3], &[]), "bad.json is refused [plan-invalid]");
    assert_contains(&refused(&json.replace("\"version\": 1", "\"version\": 7"), &[]), "[plan-version]");
    assert_contains(&refused(&json, &["--backend", "reference"]), "the plan is for target `cpu`, the backend is `reference`");
    let other = refused(&json.replacen("\"max\"", "\"min\"", 1), &[]);
    assert!(other.contains("[plan-wrong]") || other.contains("[plan-invalid]"), "{other}");
    // Other segments than the plan was made with.
    let word = format!("word:lengths={}", case.folder.write("o.npy", npy("<i8", false, "(3,)", &i64s(&[2, 2, 2]))));
    let error = case.run(&case.char, &word, &["--plan", &plan]).error();
    assert!(error.contains("[plan-wrong]") || error.contains("[not-bound]"), "{error}");
}

#[test]
fn places_that_cannot_be_written_are_errors() {
    let case = Case::new();
    let to = |out: &str| case.run(&case.char, &case.word, &["--out", out]).error();
    assert_contains(&to(&case.folder.at("no/such/folder/out")), "No such file or directory");
    assert_contains(&to(case.folder.path("").to_str().unwrap()), "it is a directory");
    if cfg!(target_os = "linux") {
        assert_contains(&to("/dev/full"), "No space left on device");
    }
}

#[test]
fn a_file_of_parameters_that_nothing_asks_for_is_opened_and_remarked_upon() {
    let case = Case::new();
    assert_contains(
        &case.run(&case.char, &case.word, &["--params", &case.folder.at("none.safetensors")]).error(),
        "No such file or directory",
    );
    let file = case.folder.write("p.safetensors", [&2u64.to_le_bytes()[..], b"{}"].concat());
    let done = case.run(&case.char, &case.word, &["--params", &file]).code(0);
    assert_contains(&done.stderr, "p.safetensors is used: the plan has no parameters that are not bound");
}

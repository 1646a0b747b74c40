//! `levelfold embed`, run as users run it, on real files, and held against computations of its own.

use levelfold::numerics::error_bound;
use levelfold::{DType, Reducer};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const README: &str = "# Levelfold\n\nFolds hierarchies, e.g. text. It's quick! (Is it?)\nYes: 3.14 times.\n\n\n- one\r\n- two\r\n\r\nEnd";

/// A folder of its own, and the command run in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn with(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_levelfold"));
        command.arg("embed").args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn embed(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs, expects success, and reads the file.
    fn file(&self, args: &[&str]) -> File {
        let output = self.embed(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        File::read(&self.path("corpus.safetensors"))
    }

    /// Runs, expects exit 1 and nothing new in the folder, and gives what was said.
    fn error(&self, args: &[&str]) -> String {
        self.fails(args, 1)
    }

    fn fails(&self, args: &[&str], code: i32) -> String {
        let before = self.names();
        let output = self.embed(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert_eq!(self.names(), before, "{args:?} leaves nothing behind");
        assert!(output.stdout.is_empty());
        stderr(&output)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn stderr(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a file holds.
struct File {
    bytes: Vec<u8>,
    values: BTreeMap<String, (usize, Vec<f64>)>,
    integers: BTreeMap<String, Vec<usize>>,
    metadata: BTreeMap<String, Value>,
}

impl File {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (mut values, mut integers) = (BTreeMap::new(), BTreeMap::new());
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in tensors.tensors() {
            let shape = view.shape().to_vec();
            match view.dtype() {
                Dtype::F32 => {
                    let data = view.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
                    values.insert(name, (shape[1], data));
                }
                Dtype::F64 => {
                    let data = view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
                    values.insert(name, (shape[1], data));
                }
                Dtype::I64 => {
                    let data = view.data().chunks_exact(8).map(|b| usize::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap());
                    integers.insert(name, data.collect());
                }
                other => panic!("{name} is {other:?}"),
            }
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        let metadata = metadata.into_iter().map(|(key, value)| (key, serde_json::from_str(&value).unwrap())).collect();
        File { bytes, values, integers, metadata }
    }

    fn names(&self) -> Vec<&str> {
        self.values.keys().chain(self.integers.keys()).map(String::as_str).collect()
    }

    fn rows(&self, level: &str) -> Vec<&[f64]> {
        let (features, data) = &self.values[level];
        data.chunks(*features).collect()
    }

    /// The pieces of a level, as the spans cut them out of the documents.
    fn pieces<'t>(&self, level: &str, documents: &[&'t [u8]]) -> Vec<&'t [u8]> {
        let spans = self.integers[&format!("{level}.spans")].chunks(2);
        let homes: Vec<usize> = match self.integers.get(&format!("{level}.document")) {
            Some(homes) => homes.clone(),
            None => (0..documents.len()).collect(),
        };
        assert_eq!(spans.len(), homes.len());
        spans.zip(homes).map(|(span, home)| &documents[home][span[0]..span[1]]).collect()
    }
}

/// The table that `docs/embed.md` describes, written down once more.
fn seeded_row(seed: u64, key: u64, features: u32) -> Vec<f64> {
    const G: u64 = 0x9e37_79b9_7f4a_7c15;
    fn mix(z: u64) -> u64 {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    let state = mix(mix(seed.wrapping_add(G)).wrapping_add(G.wrapping_mul(key + 1)));
    let scale = f64::from((3.0 / f64::from(features)).sqrt() as f32);
    let value = |n: u64| f64::from((((2 * n + 1) as f64 - 16_777_216.0) / 16_777_216.0 * scale) as f32);
    (1..=u64::from(features)).map(|feature| value(mix(state.wrapping_add(G.wrapping_mul(feature))) >> 40)).collect()
}

/// Folds in f64, plainly, and holds what the file says against it.
fn assert_folds(file: &File, level: &str, below: &[&[f64]], reducer: Reducer) {
    let offsets = &file.integers[&format!("{level}.offsets")];
    let rows = file.rows(level);
    assert_eq!((offsets.len(), offsets[0], *offsets.last().unwrap()), (rows.len() + 1, 0, below.len()), "{level}");
    for (row, range) in rows.iter().zip(offsets.windows(2)) {
        let members = &below[range[0]..range[1]];
        let n = u64::try_from(members.len()).unwrap();
        for (feature, &found) in row.iter().enumerate() {
            let column = members.iter().map(|row| row[feature]);
            let (exact, magnitude) = match reducer {
                _ if members.is_empty() => (0.0, 0.0),
                Reducer::Mean => (column.clone().sum::<f64>() / n as f64, column.map(f64::abs).sum::<f64>() / n as f64),
                Reducer::Sum => (column.clone().sum(), column.map(f64::abs).sum()),
                Reducer::Max => (column.fold(f64::NEG_INFINITY, f64::max), 0.0),
                Reducer::Min => (column.fold(f64::INFINITY, f64::min), 0.0),
                other => panic!("{other} is not used here"),
            };
            let bound = error_bound(&reducer, n, DType::F32, DType::F32, false) * magnitude;
            assert!((found - exact).abs() <= bound + 1e-15, "{level}: {found} for {exact}, bound {bound}");
        }
    }
}

fn assert_partition(file: &File, levels: &[&str], documents: &[&[u8]]) {
    for level in levels {
        let pieces = file.pieces(level, documents);
        assert!(*level == "document" || pieces.iter().all(|piece| !piece.is_empty()), "{level}: an empty piece");
        assert_eq!(pieces.concat(), documents.concat(), "{level}: bytes were lost, repeated or moved");
    }
}

const ALL: &str = "word,sentence,paragraph,document,corpus";

#[test]
fn every_level_is_what_plain_arithmetic_gives() {
    let texts = [README, "Second: naïve café 👩‍👩‍👧! 中文。字", ""];
    let place = Place::new().with("a.md", texts[0]).with("b.txt", texts[1]).with("c", texts[2]);
    let documents = texts.map(str::as_bytes);
    for (reduce, reducers) in [
        ("mean", [const { Reducer::Mean }; 5]),
        ("word=mean,sentence=max,paragraph=min,sum", [Reducer::Mean, Reducer::Max, Reducer::Min, Reducer::Sum, Reducer::Sum]),
    ] {
        let keep = format!("char,{ALL}");
        let file = place.file(&["a.md", "b.txt", "c", "--keep", &keep, "--reduce", reduce, "--features", "9", "--seed", "5"]);
        let chars: Vec<Vec<f64>> = texts.concat().chars().map(|c| seeded_row(5, u64::from(u32::from(c)), 9)).collect();
        let chars: Vec<&[f64]> = chars.iter().map(Vec::as_slice).collect();
        assert_eq!(file.rows("char"), chars);
        let mut below = chars;
        for (level, reducer) in ALL.split(',').zip(reducers) {
            assert_folds(&file, level, &below, reducer);
            below = file.rows(level);
        }
        assert_partition(&file, &["char", "word", "sentence", "paragraph", "document"], &documents);
        assert_eq!(file.rows("document")[2], [0.0; 9], "an empty document is a row of zeros");
        assert_eq!(file.metadata["files"], serde_json::json!(["a.md", "b.txt", "c"]));
    }
}

#[test]
fn files_name_reducers_with_all_that_they_were_told() {
    let place = Place::new().with("a.md", README);
    let told = "word=quantile(0.2),sentence=std(ddof=1),corpus=custom(t: s from x by max(a.s, b.s); s)";
    let file = place.file(&["a.md", "--reduce", told]);
    let named = serde_json::json!({
        "word": "quantile(0.2)", "sentence": "std(ddof=1)", "paragraph": "mean", "document": "mean",
        "corpus": "custom(t: s from x by max(a.s, b.s); s)",
    });
    assert_eq!(file.metadata["reduce"], named);
}

#[test]
fn text_is_cut_as_documented() {
    let place = Place::new().with("a.md", README);
    let file = place.file(&["a.md", "--keep", ALL]);
    let pieces = |level: &str| -> Vec<String> {
        file.pieces(level, &[README.as_bytes()]).into_iter().map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect()
    };
    assert_eq!(
        pieces("paragraph"),
        ["# Levelfold\n\n", "Folds hierarchies, e.g. text. It's quick! (Is it?)\nYes: 3.14 times.\n\n\n", "- one\r\n- two\r\n\r\n", "End"]
    );
    assert_eq!(pieces("sentence")[1..5], ["Folds hierarchies, e.g. text. ", "It's quick! ", "(Is it?)\n", "Yes: 3.14 times.\n\n\n"]);
    assert_eq!(pieces("word")[..9], ["# ", "Levelfold\n\n", "Folds ", "hierarchies", ", ", "e.g", ". ", "text", ". "]);
    let joined = place.file(&["a.md", "--line-breaks", "space", "--keep", "sentence"]);
    assert_eq!(joined.pieces("sentence", &[README.as_bytes()])[3], b"(Is it?)\n");
    assert_eq!(joined.pieces("sentence", &[README.as_bytes()])[5], b"- one\r\n- two\r\n\r\n");
}

#[test]
fn units_are_chars_bytes_or_graphemes() {
    let text = "e\u{301}é\r\n👩‍👩‍👧a";
    let place = Place::new().with("t", text);
    let rows = |unit: &str| {
        let file = place.file(&["t", "--unit", unit, "--keep", &format!("{unit},{ALL}"), "--features", "4"]);
        assert_folds(&file, "word", &file.rows(unit), Reducer::Mean);
        assert_partition(&file, &[unit, "word", "document"], &[text.as_bytes()]);
        assert_eq!(file.metadata["unit"], unit);
        file.rows(unit).iter().map(|row| row.to_vec()).collect::<Vec<_>>()
    };
    let row = |key: u64| seeded_row(0, key, 4);
    assert_eq!(rows("byte"), text.bytes().map(|byte| row(byte.into())).collect::<Vec<_>>());
    assert_eq!(rows("char"), text.chars().map(|c| row(u32::from(c).into())).collect::<Vec<_>>());
    let graphemes = rows("grapheme");
    assert_eq!(graphemes.len(), 5);
    assert_eq!((&graphemes[1], &graphemes[4]), (&row(0xe9), &row(0x61)));
    // FNV-1a of the UTF-8 bytes, with the top bit set.
    let fnv = "e\u{301}".bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    assert_eq!(graphemes[0], row(fnv | 1 << 63));
}

#[test]
fn sentences_and_above_are_kept_unless_told() {
    let place = Place::new().with("a.md", README);
    let file = place.file(&["a.md"]);
    let names = [
        "corpus",
        "document",
        "paragraph",
        "sentence",
        "corpus.offsets",
        "document.offsets",
        "document.spans",
        "paragraph.document",
        "paragraph.offsets",
        "paragraph.spans",
        "sentence.document",
        "sentence.offsets",
        "sentence.spans",
    ];
    assert_eq!(file.names(), names);
    assert_eq!(file.values["corpus"].0, 64);
    assert_eq!(place.file(&["a.md", "--keep", "document"]).names(), ["document", "document.offsets", "document.spans"]);
    assert_eq!(place.file(&["a.md", "--keep", "corpus"]).names(), ["corpus", "corpus.offsets"]);
}

/// Text of many documents, some of them empty, with words that are rare.
fn corpus(place: Place) -> Place {
    (0..60u32).fold(place, |place, index| {
        let mark = char::from_u32(0x4e00 + index).unwrap();
        let text =
            format!("Document {index}{mark} says something. And again!\n\nIt ends with {index}.").repeat(usize::try_from(index).unwrap());
        place.with(&format!("docs/{index:02}.txt"), text)
    })
}

#[test]
fn batches_threads_passes_and_backends_make_no_difference_to_a_bit() {
    let place = corpus(Place::new());
    let run = |more: &[&str]| {
        let output = place.embed(&[&["docs", "--keep", ALL, "--json", "--reduce", "mean,paragraph=sum"], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        (fs::read(place.path("corpus.safetensors")).unwrap(), report["batches"].as_u64().unwrap())
    };
    let (whole, batches) = run(&[]);
    assert_eq!(batches, 1);
    let (parts, batches) = run(&["--memory-limit", "700K"]);
    assert!(batches > 4, "{batches}");
    assert!(parts == whole, "batches change bits");
    for more in [&["--threads", "1"][..], &["--threads", "3"], &["-O0"], &["--backend", "reference"]] {
        assert!(run(more).0 == whole, "{more:?} changes bits");
    }
}

#[test]
fn the_memory_limit_is_kept_or_refused() {
    let place = corpus(Place::new());
    let said = place.error(&["docs", "--memory-limit", "40K"]);
    assert!(said.contains(".txt: the document needs ") && said.contains("the limit is 40960") && said.contains("[memory-limit]"), "{said}");
    let said = place.error(&["docs/59.txt", "--memory-limit", "100"]);
    assert!(said.contains(".txt: the document has ") && said.contains("[memory-limit]"), "{said}");
}

#[test]
fn standard_input_and_files_give_the_same() {
    let place = Place::new().with("a.md", README);
    let by_name = place.file(&["a.md"]);
    let mut child = place.command(&["-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(README.as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    let by_stream = File::read(&place.path("corpus.safetensors"));
    assert_eq!(by_stream.metadata["files"], serde_json::json!(["-"]));
    assert_eq!((by_stream.values, by_stream.integers), (by_name.values, by_name.integers));
    assert!(place.fails(&["-", "-"], 2).contains("only once"));
}

#[test]
fn directories_are_walked_by_name_without_hidden_files() {
    let place =
        Place::new().with("d/b/2.md", "two").with("d/a.md", "one").with("d/.git/x", b"\xff").with("d/.hidden", b"\xff").with("d/c", "");
    let file = place.file(&["d"]);
    assert_eq!(file.metadata["files"], serde_json::json!(["d/a.md", "d/b/2.md", "d/c"]));
    // What an earlier run left in a walked directory is not text.
    for _ in 0..2 {
        let output = place.embed(&["d", "--out", "d/out.safetensors"]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(File::read(&place.path("d/out.safetensors")).bytes.len(), file.bytes.len());
    fs::create_dir(place.path("empty")).unwrap();
    assert!(place.error(&["empty"]).contains("there is no file in empty"));
    assert!(place.error(&["missing.txt"]).contains("cannot read missing.txt"));
}

#[test]
fn invalid_utf8_is_named_or_replaced() {
    let source = b"ok. \xff\xfe!\n\nEnd \xe4\xb8 here";
    let place = Place::new().with("a", "fine").with("bad.txt", source);
    assert_eq!(
        place.error(&["a", "bad.txt"]),
        "error: bad.txt: byte 4 (0xff) is not UTF-8; convert it to UTF-8, or replace such bytes with --invalid-utf8 replace [utf8]\n"
    );
    let output = place.embed(&["a", "bad.txt", "--invalid-utf8", "replace", "--keep", ALL]);
    assert!(output.status.success());
    assert!(stderr(&output).contains("3 stretches of invalid UTF-8 were replaced"), "{}", stderr(&output));
    let file = File::read(&place.path("corpus.safetensors"));
    assert_partition(&file, &["word", "sentence", "paragraph", "document"], &[b"fine", source]);
    let last = seeded_row(0, 0xfffd, 64);
    let at = file.pieces("word", &[b"fine", source]).iter().position(|word| *word == b"\xe4\xb8 ").unwrap();
    let space = seeded_row(0, 0x20, 64);
    for feature in 0..64 {
        assert!((file.rows("word")[at][feature] - (last[feature] + space[feature]) / 2.0).abs() < 1e-7);
    }
}

/// A table whose row r holds r in every feature.
fn table(dtype: safetensors::Dtype, rows: u16, features: usize) -> Vec<u8> {
    let values = (0..rows).flat_map(|row| std::iter::repeat_n(row, features));
    let data: Vec<u8> = match dtype {
        Dtype::F64 => values.flat_map(|value| f64::from(value).to_le_bytes()).collect(),
        Dtype::F16 => values.flat_map(|value| half::f16::from_f32(value.into()).to_le_bytes()).collect(),
        _ => values.flat_map(|value| f32::from(value).to_le_bytes()).collect(),
    };
    let view = safetensors::tensor::TensorView::new(dtype, vec![rows.into(), features], &data).unwrap();
    safetensors::serialize([("emb", view)], None).unwrap()
}

#[test]
fn a_table_of_one_s_own_is_indexed_by_code_point_or_byte() {
    for dtype in [Dtype::F32, Dtype::F64, Dtype::F16] {
        let place = Place::new().with("t.safetensors", table(dtype, 300, 3)).with("a", "aé b");
        let chars = place.file(&["a", "--table", "t.safetensors:emb", "--keep", "char,word"]);
        assert_eq!(chars.rows("char"), [[97.0; 3], [233.0; 3], [32.0; 3], [98.0; 3]]);
        let mean = if dtype == Dtype::F64 { 362.0 / 3.0 } else { f64::from(362f32 / 3.0) };
        assert_eq!(chars.rows("word"), [[mean; 3], [98.0; 3]]);
        let bytes = place.file(&["a", "--table", "t.safetensors", "--unit", "byte", "--keep", "byte"]);
        assert_eq!(bytes.rows("byte"), [[97.0; 3], [195.0; 3], [169.0; 3], [32.0; 3], [98.0; 3]]);
    }
}

#[test]
fn a_unit_without_a_row_is_named() {
    let place = Place::new().with("t.safetensors", table(Dtype::F32, 200, 2)).with("a", "ok").with("b", "all ok, né");
    let said = place.error(&["a", "b", "--table", "t.safetensors"]);
    assert_eq!(
        said,
        "error: b: code point U+00E9 ('é') at byte 9 has no row in the table, which has 200; give a table with more rows [id-too-large]\n"
    );
    // Its bytes all have one.
    place.file(&["a", "b", "--table", "t.safetensors", "--unit", "byte", "--features", "2"]);
    let place = place.with("t.safetensors", table(Dtype::F32, 180, 2));
    let said = place.error(&["b", "--table", "t.safetensors", "--unit", "byte"]);
    assert!(said.contains("b: byte 0xc3 at byte 9 has no row"), "{said}");
    // Bytes that all have a row look up a table that ends early.
    assert_eq!(place.file(&["a", "--table", "t.safetensors", "--unit", "byte", "--keep", "byte"]).rows("byte")[1], [107.0; 2]);
    assert!(place.fails(&["a", "--table", "t.safetensors", "--unit", "grapheme"], 2).contains("--unit char or --unit byte"));
    assert!(place.fails(&["a", "--table", "t.safetensors", "--features", "3"], 2).contains("contradicts"));
    assert!(place.fails(&["a", "--table", "t.safetensors", "--seed", "3"], 2).contains("cannot be used with"));
    assert!(place.error(&["a", "--table", "a"]).contains("[file]"));
}

#[test]
fn usage_errors_suggest_what_was_meant() {
    let place = Place::new().with("a", "x");
    for (args, wanted) in [
        (&["a", "--keep", "sentense"][..], "did you mean `sentence`?"),
        (&["a", "--keep", "byte"], "unknown level `byte`"),
        (&["a", "--reduce", "meen"], "did you mean `mean`?"),
        (&["a", "--reduce", "words=sum"], "did you mean `word`?"),
        (&["a", "--unit", "chars"], "char"),
        (&["a", "--features", "0"], "1..="),
        (&["a", "--out", "-"], "has to be a file"),
        (&["a", "--memory-limit", "lots"], "not a number of bytes"),
        (&[], "required"),
    ] {
        let said = place.fails(args, 2);
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
}

#[test]
fn documents_without_content_lose_nothing() {
    let place = Place::new().with("empty", "").with("blank", "\n \r\n\t\n");
    let output = place.embed(&["empty", "blank", "--keep", ALL]);
    assert!(stderr(&output).contains("1 documents are empty"), "{}", stderr(&output));
    let file = File::read(&place.path("corpus.safetensors"));
    assert_partition(&file, &["word", "sentence", "paragraph", "document"], &[b"", b"\n \r\n\t\n"]);
    assert_eq!(file.integers["document.offsets"], [0, 0, 1]);
    let nothing = place.file(&["empty", "--keep", &format!("char,{ALL}")]);
    assert_eq!((nothing.rows("word").len(), nothing.rows("corpus")), (0, vec![&[0.0; 64][..]]));
    let nothing = place.file(&["empty", "--unit", "grapheme", "--keep", "sentence"]);
    assert_eq!((nothing.rows("sentence").len(), &nothing.integers["sentence.offsets"]), (0, &vec![0]));
}

#[test]
fn outputs_that_cannot_be_written_fail_before_the_work() {
    let place = Place::new().with("a", "x");
    assert!(place.error(&["a", "--out", "no/such/dir/x"]).contains("cannot write no/such/dir/x"));
    fs::create_dir(place.path("d")).unwrap();
    assert!(place.error(&["a", "--out", "d"]).contains("it is a directory"));
    if cfg!(target_os = "linux") {
        assert!(place.error(&["a", "--out", "/dev/full"]).contains("No space left on device"));
    }
}

#[test]
fn a_text_is_not_overwritten_by_its_vectors() {
    let place = Place::new().with("a", "precious").with("d/b", "x");
    assert!(place.fails(&["d", "a", "--out", "./d/../a"], 2).contains("a is to be read and to be written"));
    assert_eq!(fs::read(place.path("a")).unwrap(), b"precious");
}

#[test]
fn an_error_leaves_the_old_output_alone() {
    let place = Place::new().with("a", "x").with("bad", b"\xff").with("corpus.safetensors", "old");
    place.error(&["a", "bad"]);
    assert_eq!(fs::read(place.path("corpus.safetensors")).unwrap(), b"old");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::new().with("a", README);
    let mut child = place.command(&["a"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(place.path("corpus.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_behind() {
    let place = Place::new();
    let mut child = place.command(&["-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"some text").unwrap();
    // The output is opened before anything is read.
    for _ in 0..500 {
        if !place.names().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(place.names().len(), 1, "a temporary file");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    // To wait for it ends its standard input, so it is given time to hear the signal before.
    for _ in 0..100 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn the_report_is_a_table_or_json() {
    let place = Place::new().with("a.md", README);
    let output = place.embed(&["a.md"]);
    let table = stdout(&output);
    for word in ["level", "rows", "features", "mean rows", "sentence", "corpus", "0 B copied", "GB/s", "peak", "corpus.safetensors"] {
        assert!(table.contains(word), "{word} in\n{table}");
    }
    assert_eq!(stderr(&output), "");
    let output = place.embed(&["a.md", "--json", "--quiet"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["copied_bytes"], 0);
    assert_eq!(report["text_bytes"], README.len());
    let size = fs::metadata(place.path("corpus.safetensors")).unwrap().len();
    assert_eq!(report["out_bytes"], size);
    let sentence = report["levels"].as_array().unwrap().iter().find(|level| level["level"] == "sentence").unwrap();
    let file = File::read(&place.path("corpus.safetensors"));
    assert_eq!(sentence["rows"], file.rows("sentence").len());
    assert_eq!(sentence["kept"], true);
}

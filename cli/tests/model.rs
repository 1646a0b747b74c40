//! `levelfold embed --model` and `levelfold run --params`: encoders with parameters from a file.

use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const FEATURES: usize = 8;

/// Four levels of text, a transformer layer on each.
const MODEL: &str = r#"{
  "leaves": {
    "name": "char", "ids": { "dtype": "u8" }, "table": { "dtype": "f32", "rows": 256, "features": 8 },
    "encode": ["sinusoidal", { "transformer": { "params": "char", "heads": 2, "feed_forward": 16 } }]
  },
  "levels": [
    { "name": "word", "segments": "word", "reduce": "mean", "encode": { "transformer": { "params": "word", "heads": 2, "feed_forward": 16, "norm": "pre" } } },
    { "name": "sentence", "segments": "sentence", "reduce": "max", "encode": { "transformer": { "params": "word", "heads": 2, "feed_forward": 16, "rotary": true } } },
    { "name": "document", "segments": "document", "reduce": "mean", "encode": [{ "transformer": { "params": "document", "heads": 4, "feed_forward": 16, "layers": 1, "final_norm": true } }] }
  ]
}"#;

/// Deterministic numbers around 0.
fn numbers(name: &str, count: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(0x9e37_79b9u32, |state, byte| state.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 65_536.0 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// A state dict as PyTorch writes it: vectors have one axis.
fn params(changed: Option<(&str, Vec<usize>)>) -> Vec<u8> {
    let (f, hidden) = (FEATURES, 16);
    let mut shapes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for prefix in ["char", "word", "document.layers.0"] {
        for (name, shape) in [
            ("self_attn.in_proj_weight", vec![3 * f, f]),
            ("self_attn.in_proj_bias", vec![3 * f]),
            ("self_attn.out_proj.weight", vec![f, f]),
            ("self_attn.out_proj.bias", vec![f]),
            ("linear1.weight", vec![hidden, f]),
            ("linear1.bias", vec![hidden]),
            ("linear2.weight", vec![f, hidden]),
            ("linear2.bias", vec![f]),
            ("norm1.weight", vec![f]),
            ("norm1.bias", vec![f]),
            ("norm2.weight", vec![f]),
            ("norm2.bias", vec![f]),
        ] {
            shapes.insert(format!("{prefix}.{name}"), shape);
        }
    }
    shapes.insert("document.norm.weight".into(), vec![f]);
    shapes.insert("document.norm.bias".into(), vec![f]);
    shapes.insert("of.something.else".into(), vec![2, 2]);
    if let Some((name, shape)) = changed {
        if shape.is_empty() {
            shapes.remove(name);
        } else {
            shapes.insert(name.into(), shape);
        }
    }
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape) in shapes {
        let start = data.len();
        let bytes = numbers(&name, shape.iter().product()).into_iter().flat_map(f32::to_le_bytes);
        data.extend(bytes);
        header.insert(name, serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let mut text = serde_json::Value::Object(header).to_string();
    text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
    let mut file = u64::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    file.extend(text.into_bytes());
    file.extend(data);
    file
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("model.json", MODEL.as_bytes());
        place.write("params.safetensors", &params(None));
        place.write("a.txt", b"The cat sat. It purred, and slept.\n\nThen it woke.");
        place.write("b.txt", b"Another one entirely: with longer words. And more.");
        place.write("c.txt", b"");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn command(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_levelfold"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// A tensor of what embedding these files gives.
    fn embed(&self, files: &[&str], tensor: &str, more: &[&str]) -> (Vec<usize>, Vec<u8>) {
        let args =
            [&["embed"], files, &["--model", "model.json", "--params", "params.safetensors", "--backend", "reference"], more].concat();
        let output = self.command(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let file = fs::read(self.path("corpus.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let tensor = tensors.tensor(tensor).unwrap();
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    fn error(&self, args: &[&str]) -> String {
        let output = self.command(args);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains("panicked"), "{text}");
        text
    }
}

#[test]
fn a_document_has_the_same_row_whatever_it_is_embedded_with() {
    let place = Place::new();
    let (shape, all) = place.embed(&["a.txt", "b.txt", "c.txt"], "document", &[]);
    assert_eq!(shape, [3, FEATURES]);
    let row = FEATURES * 4;
    for (index, name) in ["a.txt", "b.txt"].into_iter().enumerate() {
        let (_, alone) = place.embed(&[name], "document", &[]);
        assert_eq!(alone, all[index * row..(index + 1) * row], "{name}");
    }
    // Also from the literal program, and in as many batches as there are documents.
    assert_eq!(place.embed(&["a.txt", "b.txt", "c.txt"], "document", &["-O0"]).1, all);
    let limited = place.command(&[
        "embed",
        "a.txt",
        "b.txt",
        "c.txt",
        "--model",
        "model.json",
        "--params",
        "params.safetensors",
        "--backend",
        "reference",
        "--json",
        "--memory-limit",
        "60000",
    ]);
    assert!(limited.status.success(), "{}", String::from_utf8_lossy(&limited.stderr));
    let report: serde_json::Value = serde_json::from_slice(&limited.stdout).unwrap();
    assert!(report["batches"].as_u64().unwrap() > 1, "{report}");
    let levels: Vec<&str> = report["levels"].as_array().unwrap().iter().map(|level| level["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["char", "word", "sentence", "document", "corpus"]);
    let file = fs::read(place.path("corpus.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("document").unwrap().data(), all);
    assert!(tensors.tensor("paragraph").is_err() && tensors.tensor("sentence").is_ok());
}

#[test]
fn mistakes_of_models_and_parameters_are_told() {
    let place = Place::new();
    let embed = |more: &[&str]| place.error(&[&["embed", "a.txt", "--backend", "reference"], more].concat());
    let contains = |text: String, part: &str| assert!(text.contains(part), "`{part}` is not in:\n{text}");
    contains(embed(&["--model", "model.json"]), "the parameter `char.self_attn.in_proj_weight` is not bound");
    place.write("lacking.safetensors", &params(Some(("word.linear2.bias", Vec::new()))));
    contains(embed(&["--model", "model.json", "--params", "lacking.safetensors"]), "it holds no tensor `word.linear2.bias`; did you mean");
    place.write("other.safetensors", &params(Some(("char.norm1.weight", vec![9]))));
    let told = embed(&["--model", "model.json", "--params", "other.safetensors"]);
    contains(told, "`char.norm1.weight` has shape [9], wanted is [1, 8]");
    contains(
        embed(&["--model", "model.json", "--params", "params.safetensors", "--keep", "paragraph"]),
        "the model has no level `paragraph`",
    );
    contains(embed(&["--model", "model.json", "--unit", "byte"]), "the leaves of the model are `char`, those of the text are `byte`");
    place.write(
        "model.json",
        MODEL.replace("\"name\": \"sentence\", \"segments\": \"sentence\"", "\"name\": \"verse\", \"segments\": \"verse\"").as_bytes(),
    );
    contains(embed(&["--model", "model.json"]), "the model has no such level of text");
    place.write("model.json", MODEL.replace("\"segments\": \"word\"", "\"segments\": {\"lengths\": [3]}").as_bytes());
    contains(embed(&["--model", "model.json"]), "the level has segments of its own");
    place.write(
        "model.json",
        MODEL
            .replace(
                "\"final_norm\": true } }]",
                "\"final_norm\": true } }, {\"linear\": {\"features\": 5, \"params\": \"word.self_attn.out_proj\"}}]",
            )
            .as_bytes(),
    );
    contains(embed(&["--model", "model.json", "--params", "params.safetensors"]), "document");
}

#[test]
fn run_binds_parameters_by_their_names() {
    let place = Place::new();
    let spec = r#"{
      "leaves": { "name": "x", "dtype": "f32", "features": 3, "encode": [{ "linear": { "features": 2, "params": "l" } }, { "convolution": { "width": 2, "params": "c", "causal": true } }] },
      "levels": [{ "name": "y", "segments": { "lengths": [2, 1] }, "reduce": "sum" }]
    }"#;
    place.write("spec.json", spec.as_bytes());
    // Tensors of one, two and three axes, as PyTorch has them.
    let tensors = [
        ("x", vec![3, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        ("l.weight", vec![2, 3], vec![1.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
        ("l.bias", vec![2], vec![0.5, -1.0]),
        ("c.weight", vec![2, 1, 2], vec![10.0, 1.0, 0.0, 2.0]),
        ("c.bias", vec![2], vec![0.0, 100.0]),
    ];
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.into_iter().flat_map(f32::to_le_bytes));
        header.insert(name.into(), serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let mut text = serde_json::Value::Object(header).to_string();
    text += &" ".repeat(text.len().next_multiple_of(8) - text.len());
    let mut file = u64::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    file.extend(text.into_bytes());
    file.extend(data);
    place.write("all.safetensors", &file);
    let args = [
        "run",
        "spec.json",
        "--bind",
        "x=all.safetensors",
        "--params",
        "all.safetensors",
        "--backend",
        "reference",
        "--out",
        "out.safetensors",
    ];
    let output = place.command(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = fs::read(place.path("out.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&out).unwrap();
    let y: Vec<f32> = tensors.tensor("y").unwrap().data().chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
    // Linear: (1.5, 4), (4.5, 10), (7.5, 16). Convolved: (1.5, 108), (19.5, 120), and the last by itself: (7.5, 132).
    assert_eq!(y, [21.0, 228.0, 7.5, 132.0]);
    let with = |more: &[&'static str]| -> Vec<&str> {
        args[..4].iter().copied().chain(["--backend", "reference"]).chain(more.iter().copied()).collect()
    };
    let told = place.error(&with(&[]));
    let wanted = "l.weight: the parameter `l.weight` is not bound; it is f32[2, 3]: bind it with --bind NAME=FILE, or give a file that holds every parameter with --params FILE.safetensors [not-bound]";
    assert!(told.contains(wanted), "{told}");

    // One by one, or some of them.
    for params in [&["c.weight=all.safetensors", "c.bias=all.safetensors"][..], &[]] {
        let mut args =
            with(&["--bind", "l.weight=all.safetensors:l.weight", "--bind", "l.bias=all.safetensors", "--out", "again.safetensors"]);
        params.iter().for_each(|bind| args.extend(["--bind", bind]));
        if params.is_empty() {
            args.extend(["--params", "all.safetensors"]);
        }
        let output = place.command(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read(place.path("again.safetensors")).unwrap(), out);
    }
    let told = place.error(&with(&["--bind", "l.wieght=all.safetensors"]));
    assert!(told.contains("the spec asks for no binding `l.wieght`; did you mean `l.weight`? [unknown-name]"), "{told}");
    let told = place.error(&with(&["--bind", "l.weight=all.safetensors:l.bias"]));
    assert!(told.contains("l.weight: ") && told.contains("`l.bias` has shape [2], wanted is [2, 3]"), "{told}");
}

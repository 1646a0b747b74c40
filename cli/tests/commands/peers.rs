//! `benches/peers`: what of it runs without a single peer installed.

use crate::*;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/peers").join(name)
}

fn python(arguments: &[&str]) -> Done {
    // No compiled files in the sources.
    let mut command = Command::new("python3");
    command.args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    Done::of(command.output().expect("python3 starts"))
}

fn peers(arguments: &[&str]) -> Done {
    python(&[&[script("run.py").to_str().expect("UTF-8")], arguments].concat())
}

#[test]
fn every_script_is_python() {
    for name in ["run.py", "worker.py", "contenders.py"] {
        let path = script(name);
        let parse = "import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])";
        python(&["-c", parse, path.to_str().expect("UTF-8")]).ok();
    }
    let pinned = std::fs::read_to_string(script("requirements.txt")).unwrap();
    assert!(pinned.lines().all(|line| line.split_once("==").is_some_and(|(_, version)| !version.is_empty())), "{pinned}");
}

#[test]
fn cases_and_contenders_are_listed_without_them() {
    let text = peers(&["--list"]).ok();
    for part in ["words-768 ", "lookup-coarse-256 ", "small-2k ", "  published\n", "  embedding-bag-thp\n", "  numba\n"] {
        assert_contains(&text, part);
    }
    assert_eq!(peers(&["list"]).ok(), text);
    peers(&[]).code(2);
    assert_contains(&peers(&["time", "wrods-64"]).error(), "there is no case wrods-64");
    assert_contains(&peers(&["time", "small-2k", "--contenders", "levelfold,pandas"]).error(), "there is no contender pandas");
    let folder = Folder::new();
    assert_contains(&peers(&["time", "small-2k", "--venv", &folder.at("venv")]).error(), "run `setup` first");
}

#[test]
fn levelfold_is_exported_checked_and_timed_alone() {
    let folder = Folder::new();
    let (out, data) = (folder.at("out"), folder.at("data"));
    let options = ["--contenders", "levelfold", "--levelfold", env!("CARGO_BIN_EXE_levelfold"), "--rounds", "3", "--threads", "1"];
    let places = ["--out", &out, "--data", &data, "--mib", "1", "--stream-bytes", "4M"];
    let cases = ["time", "small-chain-20k", "lookup-coarse-256"];
    let text = peers(&[&cases[..], &options, &places].concat()).ok();
    assert_contains(&text, "small-chain-20k, 1 thread(s): floor ");
    for (case, names) in [("small-chain-20k", vec!["levelfold"]), ("lookup-coarse-256", vec!["levelfold", "levelfold -O2"])] {
        let found = std::fs::read_to_string(folder.path("out").join(format!("{case}.t1.json"))).unwrap();
        let found: serde_json::Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["contenders"].as_object().unwrap().keys().collect::<Vec<_>>(), names, "{case}");
        assert!(found["floor_seconds"].as_f64().unwrap() > 0.0 && found["roof_bytes_per_second"]["copy"]["median"].as_f64().unwrap() > 0.0);
        for name in names {
            let facts = &found["contenders"][name];
            let check = facts["check"].as_str().unwrap();
            assert!(check == "bits" || (name == "levelfold -O2" && check == "plan bits"), "{facts}");
            assert!(facts["error"].as_f64().unwrap() < 1e-5 && facts["seconds"]["median"].as_f64().unwrap() > 0.0, "{facts}");
            assert_eq!(facts["samples"], 3);
        }
    }
    let merged = folder.at("merged.json");
    let table = peers(&["table", "--out", &out, "--merge", &merged]).ok();
    assert_contains(&table, "### 1 thread\n");
    assert_contains(&table, "| small-chain-20k | ");
    assert_eq!(peers(&["table", &merged]).ok(), table);
    assert_contains(&peers(&["table", &folder.write("other.json", "{}")]).error(), "is no result of version 1");
    assert_contains(&peers(&["table", &folder.write("cut.json", "[{")]).error(), "cut.json");
}

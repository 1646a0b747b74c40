//! What a tidy house needs, held by reading the sources: who imports whom, how long files are, and that nothing was left lying about.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder with this ending, as (path from the root, text).
fn files(below: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.to_string_lossy().ends_with(ending) {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "nothing below {below}");
    found
}

fn sources() -> Vec<(String, String)> {
    ["src", "backends", "cli", "tests", "benches", "examples"].iter().flat_map(|below| files(below, ".rs")).collect()
}

/// The modules of the core crate that a file's `use` lines name.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        // Tests inside a file may use what they like; they stand at its end.
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        let line = line.strip_prefix("pub ").unwrap_or(line);
        if let Some(rest) = line.strip_prefix("use crate::") {
            let names = rest.trim_end_matches(';').trim_start_matches('{').trim_end_matches('}').split(", ");
            let whole = if rest.starts_with('{') { usize::MAX } else { 1 };
            let first = |name: &str| name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.extend(names.take(whole).map(first));
        }
    }
    found
}

#[test]
fn imports_run_downward_only() {
    let ground =
        ["error", "ids", "dtype", "tensor", "segments", "reducer", "encoder", "custom", "numerics", "widen", "widen_u64", "narrow"];
    let rules: &[(&str, &[&str])] = &[
        ("error", &[]),
        ("ids", &[]),
        ("dtype", &[]),
        ("tensor", &[]),
        ("segments", &[]),
        ("reducer", &[]),
        ("encoder", &[]),
        ("custom", &[]),
        ("numerics", &[]),
        ("plan", &["plan"]),
        ("backend", &["plan", "backend"]),
        ("graph", &["plan", "graph"]),
        ("spec", &["graph", "spec"]),
        ("lower", &["plan", "graph", "backend", "lower"]),
        ("optimize", &["plan", "graph", "backend", "lower", "optimize"]),
        ("check", &["plan", "graph", "check"]),
        ("engine", &["plan", "graph", "backend", "optimize", "spec", "check"]),
    ];
    let mut broken = Vec::new();
    for (name, text) in files("src", ".rs") {
        if name == "src/lib.rs" || name.ends_with("tests.rs") || name.contains("/tests/") {
            continue;
        }
        let module = name.trim_start_matches("src/").split(['/', '.']).next().expect("a module");
        let Some((_, allowed)) = rules.iter().find(|(rule, _)| *rule == module) else {
            broken.push(format!("{name}: no rule for module `{module}`"));
            continue;
        };
        for import in imports(&text) {
            if !ground.contains(&import.as_str()) && !allowed.contains(&import.as_str()) {
                broken.push(format!("{name}: imports `{import}`"));
            }
        }
        if text.contains("petgraph::") && module != "graph" {
            broken.push(format!("{name}: petgraph stays behind graph.rs"));
        }
    }
    for backend in ["backends/reference/src", "backends/cpu/src", "backends/cuda/src"] {
        for (name, text) in files(backend, ".rs") {
            for above in ["levelfold::graph", "levelfold::optimize", "levelfold::lower", "levelfold::engine", "levelfold::spec", "petgraph"]
            {
                if !name.contains("tests") && text.contains(above) {
                    broken.push(format!("{name}: imports `{above}`"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_planner_does_no_input_and_output() {
    let mut broken = Vec::new();
    for (name, text) in files("src", ".rs") {
        if name.ends_with("tests.rs") {
            continue;
        }
        for word in
            ["std::fs", "std::env", "std::net", "std::thread", "std::process", "Instant::now", "SystemTime", "println!", "eprintln!"]
        {
            let used = text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| line.contains(word));
            if used {
                broken.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Files that may be longer, each with its reason.
const LONG: &[(&str, &str)] = &[("backends/cpu/src/fold.rs", "the walk: load, fold and emit share one thread's scratch")];

#[test]
fn files_are_of_a_length_to_be_read() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > 600 && !LONG.iter().any(|(long, _)| *long == name) {
            broken.push(format!("{name}: {lines} lines: cut it, or give a reason"));
        }
    }
    for (name, _) in LONG {
        assert!(root().join(name).exists(), "{name} is gone");
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn nothing_is_left_lying_about() {
    let mut broken = Vec::new();
    // Spelled apart, so that this file does not name them.
    let words = [concat!("todo", "!("), concat!("unimpl", "emented!("), concat!("dbg", "!("), concat!("#[ig", "nore")];
    for (name, text) in sources() {
        for word in words {
            if text.contains(word) {
                broken.push(format!("{name}: {word}"));
            }
        }
        for (number, line) in text.lines().enumerate() {
            let unsafe_block = (line.contains("unsafe {") && !line.contains('"')) || line.trim_start().starts_with("unsafe impl");
            let above: Vec<&str> = text.lines().take(number).collect();
            let explained = line.contains("// SAFETY") || above.iter().rev().take(8).any(|line| line.contains("// SAFETY:"));
            if unsafe_block && !explained {
                broken.push(format!("{name}:{}: unsafe without a word of why it is sound", number + 1));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut pages = files("docs", ".md");
    pages.push(("README.md".into(), fs::read_to_string(root().join("README.md")).expect("a README")));
    let mut broken = Vec::new();
    for (name, text) in pages {
        let folder = Path::new(&name).parent().expect("a folder").to_path_buf();
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().expect("a target");
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            if !root().join(&folder).join(target).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

//! What the documentation shows is what the code does: graphs, plans and numbers in `docs` are made again here, JSON is read, and links find
//! their headings.

use levelfold::backend::Target;
use levelfold::encoder::{Activation, RowOp};
use levelfold::graph::{GraphBuilder, LevelGraph, Reduce};
use levelfold::numerics::error_bound;
use levelfold::optimize::{
    CollapseLevels, Decision, DropUnused, EliminateIdentity, Exactness, FuseGather, FuseLevels, FuseRowwise, FuseSiblings,
    FuseTransposeReduce, HistogramGather, HoistLinear, NoObserver, Pass, Pipeline, PlaceConcat, Planner, ShareTables, TileEncoders,
};
use levelfold::{DType, Hierarchy, Leaves, Level, Plan, Reducer, Segments};
use std::path::{Path, PathBuf};

fn lengths(lengths: &[u64]) -> Segments {
    Segments::from_lengths(lengths).unwrap()
}

/// The README and every page of `docs`, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    paths.sort();
    paths.insert(0, root.join("README.md"));
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// The code blocks of a page that are of one kind.
fn blocks(text: &str, kind: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(opened) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if opened == kind {
            found.push(block.join("\n"));
        }
    }
    found
}

/// A pass at work, as `docs/passes.md` shows it: the graph before, a blank line, the graph after, and what was decided.
fn shown(prepare: Vec<Box<dyn Pass>>, pass: &dyn Pass, mut graph: LevelGraph) -> String {
    let target = Target::new("docs");
    Pipeline::of(prepare).run(&mut graph, &target, &mut NoObserver).unwrap();
    let before = graph.to_string();
    let decisions = pass.run(&mut graph, &target).unwrap();
    graph.verify().unwrap();
    let decisions: Vec<String> = decisions.iter().map(Decision::to_string).collect();
    format!("{before}\n{graph}{}", decisions.join("\n"))
}

fn folds() -> Vec<Box<dyn Pass>> {
    vec![Box::new(FuseTransposeReduce)]
}

fn text(levels: &[(&str, &[u64], &[Reducer])]) -> LevelGraph {
    let chars = Hierarchy::new(Leaves::values("char", DType::F32, 4));
    let add = |hierarchy: Hierarchy, (name, of, reducers): &(&str, &[u64], &[Reducer])| {
        hierarchy.level(Level::new(name, lengths(of)).reduce_all(reducers))
    };
    levels.iter().fold(chars, add).graph().unwrap()
}

fn two_tables() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 3, 4).unwrap();
    for (name, reducer) in [("word", Reducer::Mean), ("token", Reducer::Max)] {
        let table = b.table(name, &lengths(&[2, 1])).unwrap();
        let y = b.fold(x, table, Reduce::new(reducer)).unwrap();
        b.output(name, y).unwrap();
    }
    b.finish().unwrap()
}

fn identities() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 3, 4).unwrap();
    let table = b.table("word", &lengths(&[2, 1])).unwrap();
    let r = b.slice(x, table).unwrap();
    let r = b.transpose(r).unwrap();
    let r = b.transpose(r).unwrap();
    let r = b.contiguous(r).unwrap();
    let y = b.reduce(r, Reduce::new(Reducer::Mean)).unwrap();
    let y = b.stack(y).unwrap();
    let y = b.squeeze(y).unwrap();
    b.output("word", y).unwrap();
    b.finish().unwrap()
}

fn one_of_two() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 3, 4).unwrap();
    let table = b.table("word", &lengths(&[2, 1])).unwrap();
    let mean = b.fold(x, table, Reduce::new(Reducer::Mean)).unwrap();
    b.fold(x, table, Reduce::new(Reducer::Max)).unwrap();
    b.output("word", mean).unwrap();
    b.finish().unwrap()
}

fn projected() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 3, 4).unwrap();
    let table = b.table("word", &lengths(&[2, 1])).unwrap();
    let weight = b.param("w", DType::F32, 2, 4).unwrap();
    let y = b.linear(x, weight, None).unwrap();
    let y = b.fold(y, table, Reduce::new(Reducer::Mean)).unwrap();
    b.output("word", y).unwrap();
    b.finish().unwrap()
}

fn attended() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 3, 4).unwrap();
    let table = b.table("word", &lengths(&[2, 1])).unwrap();
    let weight = b.param("w", DType::F32, 12, 4).unwrap();
    let y = b.linear(x, weight, None).unwrap();
    let y = b.attend(y, table, 2, false).unwrap();
    let y = b.map(y, &RowOp::Add(x)).unwrap();
    let y = b.fold(y, table, Reduce::new(Reducer::Mean)).unwrap();
    b.output("word", y).unwrap();
    b.finish().unwrap()
}

fn feed_forward() -> LevelGraph {
    let mut b = GraphBuilder::new();
    let x = b.input("char", DType::F32, 3, 4).unwrap();
    let weight = b.param("w", DType::F32, 4, 4).unwrap();
    let y = b.linear(x, weight, None).unwrap();
    let y = b.map(y, &RowOp::Activate(Activation::Gelu)).unwrap();
    let y = b.map(y, &RowOp::Add(x)).unwrap();
    b.output("char.encoded", y).unwrap();
    let table = b.table("word", &lengths(&[2, 1])).unwrap();
    let z = b.map(y, &RowOp::Activate(Activation::Relu)).unwrap();
    let z = b.slice(z, table).unwrap();
    let z = b.reduce(z, Reduce::new(Reducer::Mean)).unwrap();
    let z = b.stack(z).unwrap();
    let z = b.squeeze(z).unwrap();
    let z = b.map(z, &RowOp::Activate(Activation::Tanh)).unwrap();
    b.output("word", z).unwrap();
    b.finish().unwrap()
}

#[test]
fn passes_do_what_their_page_shows() {
    let word: (&str, &[u64], &[Reducer]) = ("word", &[2, 1], &[Reducer::Mean]);
    let both: (&str, &[u64], &[Reducer]) = ("word", &[2, 1], &[Reducer::Mean, Reducer::Max]);
    let max = |name, of| -> (&str, &[u64], &[Reducer]) { (name, of, &[Reducer::Max]) };
    let lookup = Hierarchy::new(Leaves::lookup("char", DType::U8, DType::F32, 256, 4)).level(Level::new("word", lengths(&[2, 1])));
    let counted = Hierarchy::new(Leaves::lookup("char", DType::U8, DType::F32, 4, 16))
        .level(Level::new("text", lengths(&[100])).reduce(Reducer::Mean));
    let gathered: Vec<Box<dyn Pass>> = vec![Box::new(FuseTransposeReduce), Box::new(FuseGather)];
    let encoded = || -> Vec<Box<dyn Pass>> { vec![Box::new(FuseTransposeReduce), Box::new(FuseRowwise)] };
    let siblings = || -> Vec<Box<dyn Pass>> { vec![Box::new(FuseTransposeReduce), Box::new(FuseSiblings)] };
    let collapse = CollapseLevels { exactness: Exactness::BitExact };
    let examples = [
        shown(folds(), &ShareTables, two_tables()),
        shown(Vec::new(), &EliminateIdentity, identities()),
        shown(Vec::new(), &FuseTransposeReduce, text(&[word])),
        shown(folds(), &FuseSiblings, text(&[both])),
        shown(folds(), &collapse, text(&[max("word", &[2, 1]), max("sentence", &[2])])),
        shown(folds(), &HoistLinear { exactness: Exactness::Reassociates }, projected()),
        shown(folds(), &FuseRowwise, feed_forward()),
        shown(folds(), &FuseGather, lookup.graph().unwrap()),
        shown(gathered, &HistogramGather { exactness: Exactness::Reassociates }, counted.graph().unwrap()),
        shown(folds(), &FuseLevels, text(&[word, ("sentence", &[2], &[Reducer::Mean])])),
        shown(siblings(), &PlaceConcat, text(&[both])),
        shown(siblings(), &DropUnused, one_of_two()),
        shown(encoded(), &TileEncoders, attended()),
    ];
    let page = page("passes.md");
    let blocks = blocks(&page, "text");
    let mut missing = String::new();
    for (example, pass) in examples.iter().zip(Pipeline::new(levelfold::OptLevel::O2).names()) {
        if !page.contains(&format!("\n## {pass}\n")) || !blocks.contains(example) {
            missing.push_str(&format!("## {pass}\n\n```text\n{example}\n```\n\n"));
        }
    }
    assert!(missing.is_empty(), "docs/passes.md lacks:\n\n{missing}");
}

fn plan_of_example(name: &str) -> Plan {
    let spec = page(&format!("examples/{name}"));
    Planner::new(Target::new("cpu")).plan(Hierarchy::from_json(&spec).unwrap().graph().unwrap()).unwrap().plan
}

#[test]
fn the_plan_format_is_shown_by_a_real_plan() {
    let text = page("plan-format.md");
    let plan = plan_of_example("lookup.json");
    assert!(blocks(&text, "text").contains(&plan.to_string().trim_end().to_owned()), "docs/plan-format.md does not show:\n{plan}");
    let plan = plan_of_example("pooling.json");
    let json = plan.to_json();
    assert!(blocks(&text, "json").contains(&json.trim_end().to_owned()), "docs/plan-format.md does not show:\n{json}");
    assert_eq!(Plan::from_json(&json).unwrap(), plan);
}

#[test]
fn the_bounds_are_the_printed_ones() {
    let text = page("numerics.md");
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let bounds = [32, 1000, 1_000_000, 1_000_000_000].map(|n| format!("{:.2e}", error_bound(&Reducer::Sum, n, dtype, dtype, false)));
        let row = format!("| {dtype} | {} |", bounds.join(" | "));
        assert!(text.contains(&row), "docs/numerics.md does not show\n{row}");
    }
}

#[test]
fn json_is_json_and_specs_are_specs() {
    for (path, text) in pages() {
        for block in blocks(&text, "json") {
            if let Err(error) = serde_json::from_str::<serde_json::Value>(&block) {
                panic!("{}: {error}\n{block}", path.display());
            }
        }
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let hierarchy = Hierarchy::from_json(&std::fs::read_to_string(&path).unwrap());
        let hierarchy = hierarchy.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if hierarchy.unbound().next().is_none() {
            hierarchy.graph().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        count += 1;
    }
    assert!(count > 0, "docs/examples holds specs");
}

/// The targets of the links of a page, code left out.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            code = !code;
        }
        if code || line.starts_with("    ") {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned());
        found.extend(targets);
    }
    found
}

/// A heading as the anchor that links name: lower case, blanks as hyphens, without other signs.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_to_headings_lead_to_headings() {
    let mut broken = Vec::new();
    for (path, text) in pages() {
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            let Some((file, heading)) = link.split_once('#') else { continue };
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let text = std::fs::read_to_string(&target).unwrap_or_default();
            if !text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line.trim_start_matches('#')) == heading) {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

//! `levelfold diff`.

use crate::*;

/// The plan of an example at a level, as a file.
fn plan(folder: &Folder, example_name: &str, level: &str) -> String {
    let json = run(&["explain", &example(example_name), "--format", "json", level]).ok();
    folder.write(&format!("{example_name}{level}.plan.json"), json)
}

#[test]
fn a_better_plan_passes_and_a_worse_one_does_not() {
    let folder = Folder::new();
    let (literal, fused) = (plan(&folder, "text.json", "-O0"), plan(&folder, "text.json", "-O1"));
    let better = run(&["diff", &literal, &fused]).code(0);
    assert_contains(&better.stdout, "the second plan is not worse");
    assert_contains(&better.stdout, "-26368");
    let worse = run(&["diff", &fused, &literal]).code(1);
    assert_contains(&worse.stdout, "the second plan is worse");
    assert_eq!(worse.stderr, "");
    let same = run(&["diff", &fused, &fused, "--json"]).json();
    assert_eq!((&same["worse"], same["steps"].as_array().unwrap().len()), (&serde_json::json!(false), 1));
    assert_eq!(same["steps"][0]["before"], same["steps"][0]["after"]);
    let json = run(&["diff", &fused, &literal, "--json"]).code(1);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let copied = json["totals"].as_array().unwrap().iter().find(|total| total["name"] == "copied bytes").unwrap();
    assert_eq!((&copied["before"], &copied["after"], &copied["worse"]), (&0.into(), &26368.into(), &true.into()));
}

#[test]
fn steps_are_matched_by_what_they_stand_for() {
    let folder = Folder::new();
    let (literal, apart) = (
        plan(&folder, "text.json", "-O0"),
        run(&["explain", &example("text.json"), "--format", "json", "--disable-pass", "fuse-levels"]).ok(),
    );
    let apart = folder.write("apart.json", apart);
    let fused = plan(&folder, "text.json", "-O1");
    let lines = run(&["diff", &fused, &apart]).code(1).stdout;
    assert_eq!(lines.lines().filter(|line| line.starts_with("+ ")).count(), 4, "{lines}");
    assert_eq!(lines.lines().filter(|line| line.starts_with("- ")).count(), 1, "{lines}");
    let same = run(&["diff", &literal, &literal]).ok();
    assert_eq!(same.lines().filter(|line| line.starts_with("= ")).count(), 12, "{same}");
}

#[test]
fn plan_files_that_are_none_are_refused() {
    let folder = Folder::new();
    let good = plan(&folder, "text.json", "-O1");
    let text = std::fs::read_to_string(&good).unwrap();
    let refused = |name: &str, content: &str| run(&["diff", &good, &folder.write(name, content)]).error();
    assert_contains(&refused("cut.json", &text[..text.len() / 2]), "cut.json is refused [plan-invalid]");
    assert_contains(&refused("old.json", &text.replace("\"version\": 1", "\"version\": 2")), "[plan-version]");
    assert_contains(&refused("field.json", &text.replacen("\"align\"", "\"colour\": 1, \"align\"", 1)), "colour");
    assert_contains(&refused("wrong.json", &text.replacen("\"rows\": 62", "\"rows\": 61", 1)), "[plan-invalid]");
    assert_contains(&refused("spec.json", &std::fs::read_to_string(example("text.json")).unwrap()), "spec.json is refused");
    assert_contains(&run(&["diff", &good, &folder.at("none.json")]).error(), "none.json: No such file or directory");
}

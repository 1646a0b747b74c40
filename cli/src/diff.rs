//! `levelfold diff`: two plans, side by side.

use crate::columns::Columns;
use crate::failure::{CliResult, Failure};
use crate::spec_file::read_plan;

use crate::ui::Ui;
use levelfold::Plan;
use levelfold::plan::{Cost, Step, StepKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Compares two plans; exit 1 where the second is worse
///
/// Worse is a plan that takes more steps, copies more, moves more (bytes read and written), has a larger arena, or a higher peak of live
/// arena bytes than the other: one of them is enough, whatever the others gained. Steps are matched by what they do and which of the
/// user's operations they stand for.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold explain spec.json -O0 --format json > before.json
  levelfold explain spec.json -O1 --format json > after.json
  levelfold diff before.json after.json")]
pub(crate) struct DiffArgs {
    /// The plan to compare with
    before: PathBuf,

    /// The plan that must not be worse
    after: PathBuf,

    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// One quantity of both plans.
#[derive(Serialize)]
struct Quantity {
    name: &'static str,
    before: u64,
    after: u64,
    worse: bool,
}

/// One step, in both plans or in one.
#[derive(Serialize)]
struct StepPair {
    step: String,
    before: Option<Cost>,
    after: Option<Cost>,
}

#[derive(Serialize)]
struct Difference {
    worse: bool,
    targets: [String; 2],
    totals: Vec<Quantity>,
    steps: Vec<StepPair>,
}

pub(crate) fn run(args: DiffArgs, ui: &Ui) -> CliResult {
    let (before, after) = (read_plan(&args.before)?, read_plan(&args.after)?);
    let difference = compare(&before, &after);
    if args.json {
        ui.print_json(&difference)?
    } else {
        ui.print(render(&difference))?
    }
    if difference.worse { Err(Failure::Verdict) } else { Ok(()) }
}

fn compare(before: &Plan, after: &Plan) -> Difference {
    let quantity = |name, of: fn(&Plan) -> u64| {
        let (before, after) = (of(before), of(after));
        Quantity { name, before, after, worse: after > before }
    };
    let totals = vec![
        quantity("steps", |plan| plan.totals.steps),
        quantity("copied bytes", |plan| plan.totals.copied_bytes),
        quantity("moved bytes", |plan| plan.totals.moved_bytes()),
        quantity("arena bytes", |plan| plan.totals.arena_bytes),
        quantity("peak bytes", |plan| plan.totals.peak_bytes),
    ];
    Difference {
        worse: totals.iter().any(|quantity| quantity.worse),
        targets: [before.target.to_string(), after.target.to_string()],
        totals,
        steps: pair_steps(before, after),
    }
}

/// Steps by name, those of `before` first, in their order; equal names pair in order.
fn pair_steps(before: &Plan, after: &Plan) -> Vec<StepPair> {
    let mut waiting: BTreeMap<String, Vec<Cost>> = BTreeMap::new();
    for step in after.steps.iter().rev() {
        waiting.entry(step_name(step)).or_default().push(step.cost);
    }
    let mut pairs: Vec<StepPair> = before
        .steps
        .iter()
        .map(|step| {
            let name = step_name(step);
            let partner = waiting.get_mut(&name).and_then(Vec::pop);
            StepPair { step: name, before: Some(step.cost), after: partner }
        })
        .collect();
    for step in &after.steps {
        let name = step_name(step);
        if let Some(cost) = waiting.get_mut(&name).and_then(Vec::pop) {
            pairs.push(StepPair { step: name, before: None, after: Some(cost) });
        }
    }
    pairs
}

/// What a step does and stands for, without ids, which differ from plan to plan.
pub(crate) fn step_name(step: &Step) -> String {
    let kind = match &step.kind {
        StepKind::Fold(fold) => {
            let stages: Vec<String> = fold
                .stages
                .iter()
                .map(|stage| stage.reductions.iter().map(|reduction| reduction.reducer.to_string()).collect::<Vec<_>>().join("+"))
                .collect();
            format!("fold {}", stages.join(" then "))
        }
        StepKind::Copy(copy) => format!("copy {}", copy.what.name()),
        StepKind::Encode(encode) => {
            let ops = encode.encoding.ops.iter().map(levelfold::encoder::RowOp::name);
            let names: Vec<&str> = [encode.encoding.kernel.name()].into_iter().chain(ops).collect();
            names.join("+")
        }
    };
    format!("{kind}: {}", step.origin.join(" "))
}

fn render(difference: &Difference) -> String {
    let mut totals = Columns::new(&["", "before", "after", "change", ""]);
    for quantity in &difference.totals {
        totals.row([
            quantity.name.to_owned(),
            quantity.before.to_string(),
            quantity.after.to_string(),
            change(quantity.before, quantity.after),
            if quantity.worse { "worse".into() } else { String::new() },
        ]);
    }
    let mut steps = Columns::new(&["", "moved before", "moved after", "step"]);
    let moved = |cost: Option<Cost>| cost.map_or_else(|| "-".to_owned(), |cost| (cost.read + cost.written).to_string());
    for pair in &difference.steps {
        let mark = match (pair.before, pair.after) {
            (Some(before), Some(after)) if before == after => "=",
            (Some(_), Some(_)) => "~",
            (Some(_), None) => "-",
            (None, _) => "+",
        };
        steps.row([mark.to_owned(), moved(pair.before), moved(pair.after), pair.step.clone()]);
    }
    let verdict = if difference.worse { "worse" } else { "not worse" };
    let [before, after] = &difference.targets;
    let targets = if before == after { String::new() } else { format!("the plans are for {before} and {after}\n\n") };
    format!("{targets}{totals}\n{steps}\nthe second plan is {verdict}\n")
}

fn change(before: u64, after: u64) -> String {
    if after >= before { format!("+{}", after - before) } else { format!("-{}", before - after) }
}

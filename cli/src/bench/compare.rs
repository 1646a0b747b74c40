//! A report held against an older one: what became slower, by more than either varies.
//!
//! A row has become slower where even its fast samples (the tenth percentile) take longer than the slow ones (the ninetieth) of the older
//! row did, as seconds and also as a multiple of the floor. The second of them keeps a day on which memory is slower from looking like a
//! regression. Reports of other machines, thread counts or data are refused: they would say nothing.

use super::report::{Bench, FORMAT, Machine, Report, Row, VERSION};
use crate::columns::{Columns, seconds};
use crate::failure::file_error;
use levelfold::{Error, ErrorCode};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::path::Path;

/// Rows of both reports, side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Comparison {
    pub(super) with: String,
    pub(super) rows: Vec<Compared>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Compared {
    workload: String,
    backend: String,
    opt: String,
    old_seconds: Option<f64>,
    new_seconds: Option<f64>,
    old_share_of_floor: Option<f64>,
    new_share_of_floor: Option<f64>,
    change: Change,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    /// Slower beyond the spread of both.
    Slower,
    /// Faster beyond the spread of both.
    Faster,
    /// Neither.
    Same,
    /// The older report does not have it.
    New,
    /// This report does not have it.
    Gone,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Change::Slower => "SLOWER",
            Change::Faster => "faster",
            Change::Same => "same",
            Change::New => "new",
            Change::Gone => "gone",
        }
    }
}

/// Reads a report that `levelfold bench --json` wrote.
///
/// # Errors
/// `file` with what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Report, Error> {
    let text = std::fs::read_to_string(path).map_err(|cause| file_error("read", path, cause))?;
    let refused = |what: String, help: &str| Err(Error::new(ErrorCode::File, format!("{}: {what}", path.display())).help(help));
    let value: serde_json::Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(cause) if cause.is_eof() => return refused(format!("it ends too early ({cause})"), "the file was cut short: measure again"),
        Err(cause) => return refused(format!("it is not JSON ({cause})"), "give a file that `levelfold bench --json` wrote"),
    };
    if value.get("format").and_then(|format| format.as_str()) != Some(FORMAT) {
        return refused("it is no report of a benchmark".into(), "give a file that `levelfold bench --json` wrote");
    }
    match value.get("version") {
        Some(version) if *version == VERSION => {}
        Some(version) => return refused(format!("it has version {version}, and this command reads version {VERSION}"), "measure again"),
        None => return refused("it does not say its version".into(), "measure again"),
    }
    let report: Report = match serde_json::from_value(value) {
        Ok(report) => report,
        Err(cause) => return refused(format!("it is no whole report: {cause}"), "measure again"),
    };
    if report.benches.iter().all(|bench| bench.rows.is_empty()) {
        return refused("there are no rows in it".into(), "measure again");
    }
    Ok(report)
}

/// Refuses what cannot be compared, before anything is measured again: `machine` is this one.
///
/// # Errors
/// `option`, with every fact that differs.
pub(super) fn same_machine(old: &Report, machine: &Machine) -> Result<(), Error> {
    let mut causes = Vec::new();
    let mut hold = |what: &str, old: &dyn Debug, new: &dyn Debug| {
        if format!("{old:?}") != format!("{new:?}") {
            causes.push(Error::new(ErrorCode::Option, format!("{what}: {old:?} then, {new:?} now")));
        }
    };
    hold("processor", &old.machine.cpu, &machine.cpu);
    hold("system", &(&old.machine.os, &old.machine.arch), &(&machine.os, &machine.arch));
    hold("cores", &old.machine.cores, &machine.cores);
    hold("threads", &old.machine.threads, &machine.threads);
    refuse("the older report was measured elsewhere, or otherwise", causes)
}

/// Holds `new` against `old`.
///
/// # Errors
/// `option` where a workload of both has other data in one than in the other, or none is in both.
pub(super) fn compare(old: &Report, new: &Report, with: &Path) -> Result<Comparison, Error> {
    let mut causes = Vec::new();
    let mut rows = Vec::new();
    for bench in &new.benches {
        match old.benches.iter().find(|old| old.workload == bench.workload) {
            None => rows.extend(bench.rows.iter().map(|row| compared(bench, None, Some(row)))),
            Some(old) => {
                causes.extend(same_data(old, bench));
                pair(old, bench, &mut rows);
            }
        }
    }
    refuse("the older report has other data", causes)?;
    for bench in &old.benches {
        if !new.benches.iter().any(|new| new.workload == bench.workload) {
            rows.extend(bench.rows.iter().map(|row| compared(bench, Some(row), None)));
        }
    }
    if rows.iter().all(|row| matches!(row.change, Change::New | Change::Gone)) {
        return Err(Error::new(ErrorCode::Option, "the two reports have no row in common")
            .help("compare the same workloads, backends and optimization levels"));
    }
    Ok(Comparison { with: with.display().to_string(), rows })
}

fn refuse(message: &str, causes: Vec<Error>) -> Result<(), Error> {
    if causes.is_empty() {
        Ok(())
    } else {
        Err(Error::collected(ErrorCode::Option, format!("{message}: there is nothing to compare"), causes))
    }
}

/// What differs in the data of two benches of one workload.
fn same_data(old: &Bench, new: &Bench) -> Vec<Error> {
    let mut causes = Vec::new();
    let workload = &new.workload;
    let mut hold = |what: &str, old: String, new: String| {
        if old != new {
            causes.push(Error::new(ErrorCode::Option, format!("{what}: {old} then, {new} now")).at_level(workload));
        }
    };
    hold("seed", old.seed.to_string(), new.seed.to_string());
    hold("layout", old.layout.clone(), new.layout.clone());
    hold("inputs", old.inputs.join(", "), new.inputs.join(", "));
    hold("segments", old.levels.join(", "), new.levels.join(", "));
    hold("results", old.outputs.join(", "), new.outputs.join(", "));
    causes
}

fn pair(old: &Bench, new: &Bench, rows: &mut Vec<Compared>) {
    let same = |one: &Row, other: &Row| one.backend == other.backend && one.opt == other.opt;
    for row in &new.rows {
        rows.push(compared(new, old.rows.iter().find(|old| same(old, row)), Some(row)));
    }
    for row in &old.rows {
        if !new.rows.iter().any(|new| same(new, row)) {
            rows.push(compared(new, Some(row), None));
        }
    }
}

fn compared(bench: &Bench, old: Option<&Row>, new: Option<&Row>) -> Compared {
    let name = |of: fn(&Row) -> &String| old.or(new).map_or(String::new(), |row| of(row).clone());
    Compared {
        workload: bench.workload.clone(),
        backend: name(|row| &row.backend),
        opt: name(|row| &row.opt),
        old_seconds: old.map(|row| row.seconds.median),
        new_seconds: new.map(|row| row.seconds.median),
        old_share_of_floor: old.map(|row| row.share_of_floor),
        new_share_of_floor: new.map(|row| row.share_of_floor),
        change: match (old, new) {
            (Some(old), Some(new)) if slower(old, new) => Change::Slower,
            (Some(old), Some(new)) if slower(new, old) => Change::Faster,
            (Some(_), Some(_)) => Change::Same,
            (None, _) => Change::New,
            (Some(_), None) => Change::Gone,
        },
    }
}

/// Whether the second row is slower than the first, beyond the spread of both.
fn slower(first: &Row, second: &Row) -> bool {
    second.seconds.p10 > first.seconds.p90 && second.time_over_floor.p10 > first.time_over_floor.p90
}

impl Comparison {
    /// Whether a row has become slower.
    pub(super) fn has_regressed(&self) -> bool {
        self.rows.iter().any(|row| row.change == Change::Slower)
    }

    pub(super) fn text(&self) -> String {
        format!("compared with {}\n\n{}\n{}\n", self.with, self.columns(), self.verdict())
    }

    pub(super) fn markdown(&self) -> String {
        format!("compared with {}\n\n{}\n{}", self.with, self.columns().markdown(), self.verdict())
    }

    fn verdict(&self) -> String {
        let slower = self.rows.iter().filter(|row| row.change == Change::Slower).count();
        let what = match slower {
            0 => "nothing became slower".to_owned(),
            1 => "one row became slower".to_owned(),
            count => format!("{count} rows became slower"),
        };
        format!("{what} (slower: p10 now above p90 then, as time and as time/floor)")
    }

    fn columns(&self) -> Columns {
        let mut columns = Columns::new(&["workload", "backend", "opt", "then", "now", "change", "share then", "share now", ""]);
        let time = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), seconds);
        let share = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", 100.0 * share));
        for row in &self.rows {
            let change = row
                .old_seconds
                .zip(row.new_seconds)
                .map_or_else(|| "-".to_owned(), |(old, new)| format!("{:+.1}%", 100.0 * (new / old - 1.0)));
            columns.row([
                row.workload.clone(),
                row.backend.clone(),
                row.opt.clone(),
                time(row.old_seconds),
                time(row.new_seconds),
                change,
                share(row.old_share_of_floor),
                share(row.new_share_of_floor),
                row.change.name().to_owned(),
            ]);
        }
        columns
    }
}

//! What the command says at the end: for people, or as JSON.

use super::fold::FoldTotals;
use crate::columns::{Columns, bytes, seconds};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Everything that is worth knowing about a run.
#[derive(Serialize)]
pub(crate) struct Report {
    /// The file that was written.
    pub(crate) out: String,
    /// Its size.
    pub(crate) out_bytes: u64,
    /// Files read.
    pub(crate) documents: u64,
    /// Bytes read.
    pub(crate) text_bytes: u64,
    /// Documents without a single byte, whose rows are zeros.
    pub(crate) empty_documents: u64,
    /// Stretches of invalid UTF-8 that were replaced.
    pub(crate) replaced: u64,
    /// In how many pieces the work was done.
    pub(crate) batches: u64,
    /// The backend, as it was named.
    pub(crate) backend: String,
    /// Every level, lowest first.
    pub(crate) levels: Vec<LevelReport>,
    /// What was planned and run.
    pub(crate) plan: PlanReport,
    /// How long it took.
    pub(crate) seconds: Seconds,
    /// Bytes that the plans moved, in 10⁹ a second of running.
    pub(crate) gb_per_s: f64,
    /// Text, in 10⁶ bytes a second of everything.
    pub(crate) text_mb_per_s: f64,
    /// Bytes written by copies.
    pub(crate) copied_bytes: u64,
    /// The most memory that the process held; null where the system does not say.
    pub(crate) peak_memory_bytes: Option<u64>,
}

/// One level.
#[derive(Serialize)]
pub(crate) struct LevelReport {
    pub(crate) level: &'static str,
    pub(crate) rows: u64,
    pub(crate) features: u64,
    /// Rows of the level below in each of its rows; null for the units.
    pub(crate) mean_rows: Option<f64>,
    /// The reducer; null for the units.
    pub(crate) reduce: Option<String>,
    /// Whether the file holds it.
    pub(crate) kept: bool,
}

/// What was planned: sums over all batches, but for steps and arena, which are those of the largest.
#[derive(Serialize)]
pub(crate) struct PlanReport {
    summary: String,
    steps: u64,
    literal_steps: u64,
    moved_bytes: u64,
    literal_moved_bytes: u64,
    literal_copied_bytes: u64,
    arena_bytes: u64,
}

/// Where the time went.
#[derive(Serialize)]
pub(crate) struct Seconds {
    pub(crate) read: f64,
    pub(crate) cut: f64,
    pub(crate) plan: f64,
    pub(crate) run: f64,
    pub(crate) write: f64,
    pub(crate) total: f64,
}

impl PlanReport {
    pub(crate) fn new(totals: &FoldTotals) -> Self {
        let FoldTotals { steps, literal_steps, moved_bytes, literal_moved_bytes, copied_bytes, literal_copied_bytes, arena_bytes, .. } =
            *totals;
        let summary = format!(
            "{steps} step{} where the literal program has {literal_steps}; moves {} of its {}, copies {} of its {}, arena {}",
            if steps == 1 { "" } else { "s" },
            bytes(moved_bytes),
            bytes(literal_moved_bytes),
            bytes(copied_bytes),
            bytes(literal_copied_bytes),
            bytes(arena_bytes),
        );
        PlanReport { summary, steps, literal_steps, moved_bytes, literal_moved_bytes, literal_copied_bytes, arena_bytes }
    }
}

/// How much in how long; 0 where no time passed.
pub(crate) fn rate(amount: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { levelfold::numerics::count_to_f64(amount) / seconds } else { 0.0 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Columns::new(&["level", "rows", "features", "mean rows", "reduce", "kept"]);
        for level in &self.levels {
            table.row([
                level.level.to_owned(),
                level.rows.to_string(),
                level.features.to_string(),
                level.mean_rows.map_or("-".to_owned(), |mean| format!("{mean:.2}")),
                level.reduce.clone().unwrap_or_else(|| "-".to_owned()),
                if level.kept { "yes" } else { "-" }.to_owned(),
            ]);
        }
        write!(f, "{table}")?;
        let Seconds { read, cut, plan, run, write, total } = self.seconds;
        let documents = if self.documents == 1 { "document" } else { "documents" };
        let batches = if self.batches == 1 { "batch" } else { "batches" };
        writeln!(f, "text    {} in {} {documents}, {} {batches}", bytes(self.text_bytes), self.documents, self.batches)?;
        writeln!(f, "plan    {}", self.plan.summary)?;
        writeln!(
            f,
            "time    {} (read {}, cut {}, plan {}, run {}, write {})",
            seconds(total),
            seconds(read),
            seconds(cut),
            seconds(plan),
            seconds(run),
            seconds(write),
        )?;
        writeln!(f, "speed   {:.2} GB/s on {}, {:.1} MB/s of text", self.gb_per_s, self.backend, self.text_mb_per_s)?;
        let peak = self.peak_memory_bytes.map_or("unknown".to_owned(), bytes);
        writeln!(f, "memory  {} B copied, peak {peak}", self.copied_bytes)?;
        writeln!(f, "wrote   {} ({})", self.out, bytes(self.out_bytes))
    }
}

//! The rules of a plan. A plan that keeps them can be run without looking at anything twice: no step leaves a buffer, reads what nobody
//! wrote, or overwrites what is still needed. Whether it computes what was asked is another question: see [`check`](crate::check).
//!
//! The plan as a whole
//!  1. The version is [`PLAN_VERSION`].
//!  2. The alignment is a power of two, from 8 (the largest element) to 2 MiB (a large page).
//!  3. Every id leads to something.
//!  4. The target, tables, inputs, params and outputs have names. No two inputs or params share one, and no two outputs.
//!
//! Tables
//!  5. The counts of a table agree: its rows lie in the segments that are not empty, one each at least and `longest` each at most; no
//!     segment is longer than the level has rows.
//!  6. Offsets cover each row once: their total is the row count.
//!  7. A composed table refers to tables before it. The lower one is offsets; the upper one is over the lower one's segments; it has the
//!     upper one's segments and the lower one's rows, and is offsets where both are.
//!  8. A table's bytes fit 63 bits.
//!
//! Buffers
//!  9. A buffer's bytes fit 63 bits.
//! 10. An arena buffer is aligned, ends within 63 bits, and is alive from a step of the plan to the same or a later one.
//! 11. Arena buffers that are alive during the same step share no byte.
//!
//! Views
//! 12. A view's columns lie inside its buffer.
//! 13. A packed view sees all columns of an arena buffer that has one row for each row of the table's segments.
//!
//! Folds
//! 14. A fold has a stage, each stage has a reduction, and what a reduction makes is written or folded by the next stage.
//! 15. Stage 0 folds as many rows as are loaded; a packed view belongs to its table.
//! 16. A stage above 0 has offsets over the segments of the stage before.
//! 17. `feed` is 0 at stage 0, and a reduction of the stage before above it.
//! 18. Values are floats. A gather's table is rows of floats; its ids are one column of ids, bound by the caller (bindings are checked,
//!     what steps compute is not).
//! 19. A quantile stands alone in its step. Weights stand at reducers that take them, and scores at softmax: one column of floats, a row for each row that the stage folds, of a type that widens to
//!     the one that these are accumulated in.
//! 20. Where a table has an empty segment, `on_empty` is not `error`.
//! 21. Results are floats (i64 where they are positions, which no stage folds), and are written as rows: one for each segment, of the reduction's
//!     type, as wide as what is folded. What an empty segment gives is an element of that type.
//! 39. What folds by counts has one stage, and all of its reducers are sums, means, maxima and minima without weights; nothing is
//!     done to elements.
//!
//! Copies
//! 22. A contiguous copy reads one view, of the rows of its table or packed by it, and writes a view that is packed by it.
//! 23. A stack reads one view; both are rows, as many on each side.
//! 24. A gather reads ids and a table, as in rule 18, and writes a row for each id.
//! 25. A concat reads at least one view; all are rows, as many as are written; their columns add up to those written.
//! 26. What a copy writes has the width (but for a concat) and type of what it reads.
//!
//! Memory
//! 27. Inputs and params are never written.
//! 28. No step reads a buffer that it writes.
//! 29. Every column is written before it is read.
//! 30. No column is written twice.
//! 31. Every column of an output is written.
//! 32. An arena buffer is alive from its first write to its last use.
//!
//! Costs
//! 33. The cost of each step, and the totals, are what [`cost`](super::cost) counts.
//!
//! Encoders
//! 34. A spread reads one view of the rows of its table, and writes as many rows as its segments have in total.
//! 35. An encoder reads and writes rows of floats, none of them packed, and writes what [`Encoding::shape`](crate::encoder::Encoding::shape)
//!     says: as many rows as it reads.
//! 36. Parameters have the shape that their operation asks for, and a type that is exact in the one that it computes in.
//! 37. The segments that it looks along are offsets over its rows, and there is a learned position for each row of the longest.
//! 38. Constants are finite, those of norms and positions above 0; heads divide features, and the pairs of attention fit the segments.
//!
//! Operations on the elements of a fold
//! 40. Their constants are finite, what is cast is cast to floats, and positions have none.
//!
//! Tiles
//! 41. Tiles come in order, and no two share a step. The table of each is offsets, a window has room for its longest segment and no more rows than there
//!     are, and the scratch ends with the last of its buffers. One that is inside the next stands right before it, and has as many segments as that has rows.
//! 42. A buffer of a tile is aligned, holds rows of its table in order, and is alive from its first write to its last use, both in one tile, or
//!     the first in the one right inside. Those that are alive during the same step share no byte; what a tile inside fills is alive from the first step inside on.
//! 43. The steps of a tile are encoders along its segments and gathers, stacks and concats, which make rows of its table, spreads into its segments, and folds
//!     by them of one stage, whose rows lie in the tile and whose results do not.
//! 44. No step of a tile takes what another step of it makes but row by row: not as a parameter, a looked-up table or rows to spread, and not what a fold makes.
//!     Of what tiles inside make it takes only what the one right inside folds to, row by row.
//!
//! All broken rules are reported, up to a number that the report names; where an id leads nowhere, only that is, as nothing else can be
//! asked. Rule 33 is asked of plans that keep all others. The work is that of sorting the plan, whatever it says.

#[cfg(test)]
mod encode_tests;
mod memory;
mod steps;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tile_tests;
mod tiles;

use super::{
    Buffer, Order, PLAN_VERSION, Place, Plan, Step, StepKind, Table, TableForm, TableSource, Tile, View, ViewLayout, cost, json, text,
};
use crate::dtype::DType;
use crate::error::{Error, ErrorCode, Result};
use crate::ids::{BufferId, StepId, TableId, ViewId};
use std::fmt;

/// So many broken rules are told one by one; the others are counted.
const MOST_REPORTED: usize = 64;

/// Sizes are below 2^63, so that two of them add up in 64 bits.
const MOST_BYTES: u64 = u64::MAX >> 1;

/// Element sizes go up to 8; pages up to 2 MiB.
const ALIGNMENTS: std::ops::RangeInclusive<u64> = 8..=2 << 20;

impl Plan {
    /// Holds the plan against the rules above.
    ///
    /// # Errors
    /// `plan-version`, or `plan-invalid` with one [cause](Error::causes) a broken rule, each naming the step, buffer, view or table.
    pub fn verify(&self) -> Result<()> {
        if self.version != PLAN_VERSION {
            return Err(json::other_version(u64::from(self.version)));
        }
        let mut report = Report { errors: Vec::new(), unlisted: 0 };
        check_ids(self, &mut report);
        if report.errors.is_empty() {
            check_names(self, &mut report);
            check_tables(self, &mut report);
            check_buffers(self, &mut report);
            check_views(self, &mut report);
            steps::check(self, &mut report);
            memory::check(self, &mut report);
            tiles::check(self, &mut report);
        }
        if report.errors.is_empty() {
            check_costs(self, &mut report);
        }
        report.into_result()
    }
}

/// Whether every id leads to something.
pub(super) fn ids_in_range(plan: &Plan) -> bool {
    let mut report = Report { errors: Vec::new(), unlisted: 0 };
    check_ids(plan, &mut report);
    report.errors.is_empty()
}

/// The broken rules.
struct Report {
    errors: Vec<Error>,
    unlisted: usize,
}

impl Report {
    fn add(&mut self, place: impl fmt::Display, message: impl Into<String>) {
        if self.errors.len() == MOST_REPORTED {
            self.unlisted += 1;
        } else {
            self.errors.push(Error::new(ErrorCode::PlanInvalid, message).at_level(place.to_string()));
        }
    }

    fn into_result(self) -> Result<()> {
        let message = match (self.errors.len(), self.unlisted) {
            (0, _) => return Ok(()),
            (1, _) => "the plan breaks a rule".to_owned(),
            (listed, 0) => format!("the plan breaks {listed} rules"),
            (listed, more) => format!("the plan breaks {} rules; the first {listed} are", listed + more),
        };
        Err(Error::collected(ErrorCode::PlanInvalid, message, self.errors))
    }
}

/// A buffer, as errors name it.
fn buffer_name(plan: &Plan, id: BufferId) -> String {
    format!("{id} {}", text::name(&plan.buffer(id).name))
}

/// A table, as errors name it.
fn table_name(plan: &Plan, id: TableId) -> String {
    format!("{id} {}", text::name(&plan.table(id).name))
}

/// What a step sees through a view.
#[derive(Clone, Copy)]
struct Seen {
    rows: u64,
    features: u64,
    dtype: DType,
    layout: ViewLayout,
    place: Place,
}

fn seen(plan: &Plan, view: ViewId) -> Seen {
    let buffer = plan.buffer_of(view);
    let view = plan.view(view);
    Seen { rows: buffer.rows, features: view.features, dtype: buffer.dtype, layout: view.layout, place: buffer.place }
}

fn check_ids(plan: &Plan, report: &mut Report) {
    let tables = plan.tables.len();
    for (index, table) in plan.tables.iter().enumerate() {
        match table.source {
            TableSource::Bound => {}
            TableSource::Compose { lower, upper } => {
                for id in [lower, upper].into_iter().filter(|id| id.index() >= tables) {
                    report.add(TableId::new(index), format!("is made of {id}, but there are {tables} tables"));
                }
            }
        }
    }
    let steps = plan.steps.len();
    for (index, buffer) in plan.buffers.iter().enumerate() {
        match buffer.place {
            Place::Input | Place::Param | Place::Output => {}
            Place::Arena { first, last, .. } | Place::Tile { first, last, .. } => {
                for id in [first, last].into_iter().filter(|id| id.index() >= steps) {
                    report.add(BufferId::new(index), format!("is alive at {id}, but there are {steps} steps"));
                }
            }
        }
    }
    for (index, Tile { first, last, table, .. }) in plan.tiles.iter().enumerate() {
        for id in [first, last].into_iter().filter(|id| id.index() >= steps) {
            report.add(tiles::name(index), format!("has {id}, but there are {steps} steps"));
        }
        if table.index() >= tables {
            report.add(tiles::name(index), format!("is of segments of {table}, but there are {tables} tables"));
        }
    }
    let buffers = plan.buffers.len();
    for (index, view) in plan.views.iter().enumerate() {
        if view.buffer.index() >= buffers {
            report.add(ViewId::new(index), format!("sees {}, but there are {buffers} buffers", view.buffer));
        }
        match view.layout {
            ViewLayout::Rows => {}
            ViewLayout::Packed { table, .. } => {
                if table.index() >= tables {
                    report.add(ViewId::new(index), format!("is packed by {table}, but there are {tables} tables"));
                }
            }
        }
    }
    let views = plan.views.len();
    for (index, step) in plan.steps.iter().enumerate() {
        for id in step.reads().into_iter().chain(step.writes()).filter(|id| id.index() >= views) {
            report.add(StepId::new(index), format!("uses {id}, but there are {views} views"));
        }
        for id in step.tables().into_iter().filter(|id| id.index() >= tables) {
            report.add(StepId::new(index), format!("uses {id}, but there are {tables} tables"));
        }
    }
}

fn check_names(plan: &Plan, report: &mut Report) {
    if !plan.align.is_power_of_two() || !ALIGNMENTS.contains(&plan.align) {
        let message = format!("the alignment is {}, not a power of two from {} to {}", plan.align, ALIGNMENTS.start(), ALIGNMENTS.end());
        report.add("plan", message);
    }
    if plan.target.is_empty() {
        report.add("plan", "the target has no name");
    }
    for (index, _) in plan.tables.iter().enumerate().filter(|(_, table)| table.name.is_empty()) {
        report.add(TableId::new(index), "has no name");
    }
    for (index, buffer) in plan.buffers.iter().enumerate() {
        let bound = match buffer.place {
            Place::Input | Place::Param | Place::Output => true,
            Place::Arena { .. } | Place::Tile { .. } => false,
        };
        if bound && buffer.name.is_empty() {
            report.add(BufferId::new(index), "is bound by the caller, but has no name");
        }
    }
    check_unique(plan, plan.inputs(), "input", report);
    check_unique(plan, plan.outputs(), "output", report);
}

fn check_unique<'a>(plan: &Plan, buffers: impl Iterator<Item = (BufferId, &'a Buffer)>, what: &str, report: &mut Report) {
    let mut names: Vec<(&str, BufferId)> = buffers.map(|(id, buffer)| (&*buffer.name, id)).collect();
    names.sort_unstable();
    for pair in names.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        report.add(buffer_name(plan, pair[1].1), format!("has the name of {}, another {what}", pair[0].1));
    }
}

fn check_tables(plan: &Plan, report: &mut Report) {
    for (index, table) in plan.tables.iter().enumerate() {
        let id = TableId::new(index);
        for message in counts_of(table).into_iter().flatten() {
            report.add(table_name(plan, id), message);
        }
        match table.source {
            TableSource::Bound => {}
            TableSource::Compose { lower, upper } => check_composed(plan, id, lower, upper, report),
        }
    }
}

/// What is wrong with a table's counts, each for itself.
fn counts_of(table: &Table) -> [Option<String>; 5] {
    let Table { segments, rows, total_rows, longest, empty, .. } = *table;
    let filled = segments.saturating_sub(empty);
    // The fewest rows: one a segment, `longest` in one of them.
    let fewest = if filled == 0 { 0 } else { (filled - 1).saturating_add(longest.max(1)) };
    let most = filled.saturating_mul(longest);
    [
        (empty > segments).then(|| format!("{empty} of its {segments} segments are empty")),
        (longest > rows).then(|| format!("its longest segment has {longest} of {rows} rows")),
        (empty <= segments && !(fewest..=most).contains(&total_rows))
            .then(|| format!("{filled} segments of up to {longest} rows do not hold {total_rows} in total")),
        (table.form == TableForm::Offsets && total_rows != rows)
            .then(|| format!("its offsets hold {total_rows} rows, but partition {rows}")),
        (table.bytes() > MOST_BYTES).then(|| format!("{segments} segments need more bytes than 63 bits count")),
    ]
}

fn check_composed(plan: &Plan, id: TableId, lower: TableId, upper: TableId, report: &mut Report) {
    let place = || table_name(plan, id);
    if lower >= id || upper >= id {
        return report.add(place(), format!("is made of {upper} over {lower}, which do not come before it"));
    }
    let (table, below, above) = (plan.table(id), plan.table(lower), plan.table(upper));
    if below.form != TableForm::Offsets {
        report.add(place(), format!("is made over {lower}, which is not an ordered partition"));
    }
    if above.rows != below.segments {
        report.add(place(), format!("is made of {upper} over {} rows, but {lower} has {} segments", above.rows, below.segments));
    }
    if table.segments != above.segments || table.rows != below.rows {
        let message = format!(
            "has {} segments of {} rows, but {upper} over {lower} makes {} of {}",
            table.segments, table.rows, above.segments, below.rows
        );
        report.add(place(), message);
    }
    if above.form == TableForm::Offsets && table.form != TableForm::Offsets {
        report.add(place(), format!("is ranges, but {upper} over {lower} makes offsets"));
    }
}

fn check_buffers(plan: &Plan, report: &mut Report) {
    for (index, buffer) in plan.buffers.iter().enumerate() {
        let place = || buffer_name(plan, BufferId::new(index));
        if buffer.bytes() > MOST_BYTES {
            report.add(place(), format!("{}[{}x{}] needs more bytes than 63 bits count", buffer.dtype, buffer.rows, buffer.features));
        }
        match buffer.place {
            Place::Input | Place::Param | Place::Output => {}
            Place::Arena { offset, first, last } | Place::Tile { offset, first, last } => {
                if plan.align != 0 && !offset.is_multiple_of(plan.align) {
                    report.add(place(), format!("lies at {offset}, which is not a multiple of {}", plan.align));
                }
                if offset.saturating_add(plan.held_bytes(BufferId::new(index))) > MOST_BYTES {
                    report.add(place(), format!("lies at {offset}, and ends beyond what 63 bits count"));
                }
                if first > last {
                    report.add(place(), format!("is alive from {first} to {last}, which comes before"));
                }
            }
        }
    }
    memory::check_overlaps(plan, report);
}

fn check_views(plan: &Plan, report: &mut Report) {
    for (index, view) in plan.views.iter().enumerate() {
        let id = ViewId::new(index);
        let buffer = plan.buffer(view.buffer);
        if view.first_column.checked_add(view.features).is_none_or(|end| end > buffer.features) {
            let message =
                format!("sees {} columns from {} of {}, which has {}", view.features, view.first_column, view.buffer, buffer.features);
            report.add(id, message);
        }
        match view.layout {
            ViewLayout::Rows => {}
            ViewLayout::Packed { table, order: Order::RowMajor | Order::FeatureMajor } => check_packed(plan, id, view, table, report),
        }
    }
}

fn check_packed(plan: &Plan, id: ViewId, view: &View, table: TableId, report: &mut Report) {
    let buffer = plan.buffer(view.buffer);
    if !matches!(buffer.place, Place::Arena { .. }) {
        report.add(id, format!("is packed, but {} is not in the arena", view.buffer));
    }
    if view.features != buffer.features {
        report.add(id, format!("is packed, but sees {} of {} columns of {}", view.features, buffer.features, view.buffer));
    }
    let total = plan.table(table).total_rows;
    if buffer.rows != total {
        report.add(id, format!("is packed by {table}, which has {total} rows in total, but {} has {}", view.buffer, buffer.rows));
    }
}

fn check_costs(plan: &Plan, report: &mut Report) {
    for (index, Step { kind, cost: said, .. }) in plan.steps.iter().enumerate() {
        let counted = cost::step_cost(plan, kind);
        if *said != counted {
            report.add(StepId::new(index), format!("says that it costs {said:?}, but costs {counted:?}"));
        }
    }
    let counted = cost::totals(plan);
    if plan.totals != counted {
        report.add("plan", format!("says that it costs {:?}, but costs {counted:?}", plan.totals));
    }
}

//! What a plan costs, counted from the plan alone: the one home of these rules.
//!
//! With n the rows that a stage folds ([`Table::total_rows`]), S its segments, F the features, and sizes in bytes:
//!
//! | step | read | written | copied | flops |
//! |---|---|---|---|---|
//! | fold of a view | n₀ · F · size, weights, tables | S · F · size a written reduction | 0 | below |
//! | fold of a gather | n₀ · (id size + F · size), weights, tables | the same | 0 | below |
//! | fold by counts | n₀ · id size, the looked-up table once, in whole, its table | the same | 0 | below |
//! | copy.contiguous | n · F · size, the table | n · F · size | = written | 0 |
//! | copy.spread | the same | the same | = written | 0 |
//! | copy.stack | rows · F · size | the same | = written | 0 |
//! | copy.gather | rows · (id size + F · size) | rows · F · size | = written | 0 |
//! | copy.concat | rows · F · size of each view | the sum of them | = written | 0 |
//! | encode | each operand once, in whole; its tables, each once | rows · F · size | 0 | below |
//!
//! - What a step reads or writes of a [tile](super::Tile) stays in cache, and counts nothing; a copy to it copies nothing.
//! - Weights are n · size a weighted reduction. A table is 8 bytes an offset or 16 a range ([`Table::bytes`]), once a stage. What a stage
//!   hands to the next one is not read from memory and costs nothing.
//! - A reduction takes so many operations on each of its n · F elements, one more with weights (two for `var` and `std`), and so many on each of
//!   its S · F results. A mean adds n weights where it has them.
//!
//! | reducer | an element | a result |
//! |---|---|---|
//! | `sum`, `max`, `min`, `prod`, `argmax`, `argmin` | 1 | 0 |
//! | `mean` | 1 | 1 |
//! | `l1` | 2 | 0 |
//! | `l2` | 2 | 1 |
//! | `var` | 6 | 2 |
//! | `std` | 6 | 3 |
//! | `logsumexp` | 4 | 2 |
//! | `softmax` | 6, its scores included | 1 |
//! | `median`, `quantile` | 1: what selecting takes depends on the rows | 3 |
//! | `first`, `last`, `count` | 0 | 0 |
//! | `custom(…)` | the operations of combining with one more row | those of its finish |
//! | `custom(NAME version=1)` | 1: what it computes is not known | 1 |
//!
//! - An operation on single elements of a fold takes one for each element: n · F before a stage, S · F behind a reduction.
//! - A fold by counts takes an operation on each id, and for each segment, as if it held every row of the looked-up table, two operations on each
//!   element of that table (one for `max` and `min`), and on its results what the reducer takes.
//! - An encoder reads what it takes once, however often its kernel comes back to it from cache. With R rows of F features:
//!   a matrix product to N features takes 2 · R · F · N; attention with P pairs, H heads and F features (of one of queries, keys, values)
//!   P · (4 · F + 4 · H) + R · F; a convolution of T taps 2 · R · F · T (taps outside a segment included). Of what follows, an
//!   activation, a scale, an add, a cast or an operation of one's own takes R · F, positions that are added 2 · R · F, rotated ones 3 · R · columns, a layer norm 7 · R · F
//!   (6 · R · F without a bias) and an RMS norm 4 · R · F.
//!
//! Counts that do not fit 64 bits stay at the largest number; [`Plan::verify`] refuses the shapes that lead there. Nothing is allocated
//! for plans of up to 32 arena buffers, so planning can afford it for every batch.

mod encode;

use super::{Buffer, Copy, CopyKind, Cost, Fold, Load, Place, Plan, Reduction, Stage, StepKind, Table, Totals};
use crate::encoder::ElementOp;
use crate::ids::ViewId;
use crate::reducer::Reducer;
use crate::widen_u64;
use smallvec::SmallVec;

/// What one step of `plan` costs. The steps of the plan themselves are not looked at, so it can still be in the making.
///
/// # Panics
/// If the step names a view, buffer or table that `plan` does not have.
pub fn step_cost(plan: &Plan, kind: &StepKind) -> Cost {
    match kind {
        StepKind::Fold(fold) => fold_cost(plan, fold),
        StepKind::Copy(copy) => copy_cost(plan, copy),
        StepKind::Encode(encode) => encode::cost(plan, encode),
    }
}

/// What all steps cost together, by the [`cost`](super::Step::cost) that each of them carries, and what the arena needs.
pub fn totals(plan: &Plan) -> Totals {
    let mut totals = Totals { steps: widen_u64(plan.steps.len()), ..Totals::default() };
    for step in &plan.steps {
        totals.read_bytes = totals.read_bytes.saturating_add(step.cost.read);
        totals.written_bytes = totals.written_bytes.saturating_add(step.cost.written);
        totals.copied_bytes = totals.copied_bytes.saturating_add(step.cost.copied);
        totals.flops = totals.flops.saturating_add(step.cost.flops);
    }
    (totals.arena_bytes, totals.peak_bytes) = arena(plan);
    totals
}

/// The end of the last arena buffer, and the most bytes of arena buffers that are alive during one step.
fn arena(plan: &Plan) -> (u64, u64) {
    let mut end = 0u64;
    // A buffer begins at its first step (1) and is gone before the step after its last (0): at one step, what ends goes first.
    let mut events: SmallVec<[(u64, u8, u64); 64]> = SmallVec::new();
    for buffer in &plan.buffers {
        match buffer.place {
            Place::Input | Place::Param | Place::Output | Place::Tile { .. } => {}
            Place::Arena { offset, first, last } => {
                end = end.max(offset.saturating_add(buffer.bytes()));
                events.push((u64::from(first.0), 1, buffer.bytes()));
                events.push((u64::from(last.0) + 1, 0, buffer.bytes()));
            }
        }
    }
    events.sort_unstable();
    let (mut live, mut peak) = (0u64, 0u64);
    for (_, begins, bytes) in events {
        live = if begins == 1 { live.saturating_add(bytes) } else { live.saturating_sub(bytes) };
        peak = peak.max(live);
    }
    (end, peak)
}

fn fold_cost(plan: &Plan, fold: &Fold) -> Cost {
    let (a_row, once) = match fold.load {
        Load::View { values } => (per_row(plan, values), 0),
        Load::Gather { ids, table } => (per_row(plan, ids).saturating_add(per_row(plan, table)), 0),
        Load::Histogram { ids, table } => (per_row(plan, ids), plan.buffer_of(table).rows.saturating_mul(per_row(plan, table))),
    };
    let rows = fold.stages.first().map_or(0, |stage| plan.table(stage.table).total_rows);
    let mut total = Cost { read: rows.saturating_mul(a_row).saturating_add(once), ..Cost::default() };
    if let Load::Histogram { .. } = fold.load {
        total.flops = rows;
    }
    for stage in &fold.stages {
        add_stage(plan, fold.load, stage, &mut total);
    }
    total
}

fn add_stage(plan: &Plan, load: Load, stage: &Stage, total: &mut Cost) {
    let features = plan.view(load.values()).features;
    let table = plan.table(stage.table);
    total.read = total.read.saturating_add(table.bytes());
    let operations = |rows: u64, ops: &[ElementOp]| rows.saturating_mul(features).saturating_mul(widen_u64(ops.len()));
    total.flops = total.flops.saturating_add(operations(table.total_rows, &stage.ops));
    for reduction in &stage.reductions {
        if let Some(weights) = reduction.weights {
            total.read = total.read.saturating_add(table.total_rows.saturating_mul(per_row(plan, weights)));
        }
        if let Some(write) = reduction.write {
            let row = per_row(plan, write);
            total.written = total.written.saturating_add(table.segments.saturating_mul(row));
        }
        let flops = match load {
            Load::View { .. } | Load::Gather { .. } => reduction_flops(reduction, table, features),
            Load::Histogram { table: rows, .. } => histogram_flops(reduction, table, plan.buffer_of(rows).rows, features),
        };
        total.flops = total.flops.saturating_add(flops);
        total.flops = total.flops.saturating_add(operations(table.segments, &reduction.ops));
    }
}

fn reduction_flops(reduction: &Reduction, table: &Table, features: u64) -> u64 {
    let (an_element, a_result) = operations(&reduction.reducer, reduction.weights.is_some());
    let rows = table.total_rows.saturating_mul(features).saturating_mul(an_element);
    let results = table.segments.saturating_mul(features).saturating_mul(a_result);
    let divisors = if reduction.reducer == Reducer::Mean && reduction.weights.is_some() { table.total_rows } else { 0 };
    rows.saturating_add(results).saturating_add(divisors)
}

/// As if each segment held every row of the table that is looked up.
fn histogram_flops(reduction: &Reduction, table: &Table, rows: u64, features: u64) -> u64 {
    // Multiplied by the count, but for what only chooses.
    let weighted = !matches!(reduction.reducer, Reducer::Max | Reducer::Min);
    let (an_element, a_result) = operations(&reduction.reducer, weighted);
    let of_a_segment = rows.saturating_mul(an_element).saturating_add(a_result).saturating_mul(features);
    table.segments.saturating_mul(of_a_segment)
}

/// Operations on each element that is folded, and on each result.
fn operations(reducer: &Reducer, weighted: bool) -> (u64, u64) {
    let weight = u64::from(weighted);
    match reducer {
        Reducer::Sum | Reducer::Max | Reducer::Min | Reducer::Prod => (1 + weight, 0),
        Reducer::Mean => (1 + weight, 1),
        Reducer::L1 => (2 + weight, 0),
        Reducer::L2 => (2 + weight, 1),
        // Shifted and added up; shifted, centred, squared and added up.
        Reducer::Var { .. } => (6 + 2 * weight, 2),
        Reducer::Std { .. } => (6 + 2 * weight, 3),
        // Compared, shifted, its exponential, added up.
        Reducer::LogSumExp => (4 + weight, 2),
        Reducer::SoftMax => (6, 1),
        // Gathered; what selecting takes depends on the rows.
        Reducer::Quantile(_) => (1, 3),
        Reducer::First | Reducer::Last | Reducer::Count => (0, 0),
        Reducer::ArgMax | Reducer::ArgMin => (1, 0),
        // Each row is combined with what is there already.
        Reducer::Custom(custom) => custom.operations(),
        // What it computes is not known.
        Reducer::Named(_) => (1 + weight, 1),
    }
}

fn copy_cost(plan: &Plan, copy: &Copy) -> Cost {
    let Buffer { rows, .. } = *plan.buffer_of(copy.write);
    let written = rows.saturating_mul(per_row(plan, copy.write));
    let row = copy.read.iter().fold(0u64, |row, &view| row.saturating_add(per_row(plan, view)));
    let (rows, table) = match copy.what {
        CopyKind::Segments { table } | CopyKind::Spread { table } => (plan.table(table).total_rows, plan.table(table).bytes()),
        CopyKind::Rows | CopyKind::Gather | CopyKind::Columns => (rows, 0),
    };
    Cost { read: rows.saturating_mul(row).saturating_add(table), written, copied: written, flops: 0 }
}

/// The bytes of memory of one row of a view: none, where it stays in a tile.
fn per_row(plan: &Plan, view: ViewId) -> u64 {
    let buffer = plan.buffer_of(view);
    match buffer.place {
        Place::Tile { .. } => 0,
        Place::Input | Place::Param | Place::Output | Place::Arena { .. } => {
            plan.view(view).features.saturating_mul(buffer.dtype.size_u64())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use crate::ids::StepId;
    use crate::plan::{Hash, TableForm, TableSource};

    #[test]
    fn costs_are_those_counted_by_hand() {
        let plan = fixtures::wide();
        let of = |step: usize| step_cost(&plan, &plan.steps[step].kind);
        // 6 ids of 8 bytes, and 6 rows of 2 f32.
        assert_eq!(of(0), Cost { read: 6 * 8 + 6 * 8, written: 6 * 8, copied: 6 * 8, flops: 0 });
        // 6 rows, 6 f16 weights, tables of 3 and 2 segments; two f32 results of 3 rows, one f64 result of 2 rows. The mean: 12 products and
        // sums, 6 divisions, 6 weights added; the max: 12 comparisons; the min above: 3 rows of 2.
        let flops = (2 * 12 + 6 + 6) + 12 + 6;
        assert_eq!(of(1), Cost { read: 48 + 12 + 8 * 4 + 8 * 3, written: 24 + 24 + 32, copied: 0, flops });
        // Two buffers of 2 rows side by side.
        assert_eq!(of(4), Cost { read: 32, written: 32, copied: 32, flops: 0 });
        // Ranges that overlap: 8 rows in total, and 16 bytes a range.
        assert_eq!(of(5), Cost { read: 8 * 8 + 3 * 16, written: 8 * 8, copied: 8 * 8, flops: 0 });
        assert_eq!(totals(&plan), plan.totals);
    }

    #[test]
    fn the_arena_ends_with_its_last_byte_and_peaks_where_most_is_alive() {
        let mut plan = fixtures::literal_chain();
        let arena = |offset, first, last| Place::Arena { offset, first: StepId(first), last: StepId(last) };
        plan.buffers.truncate(5);
        // 192 bytes at step 0 to 1, 64 at 1 to 2, 64 at 2, 64 at 3 to 4, in the place of the first one.
        for (index, place) in [arena(0, 0, 1), arena(192, 1, 2), arena(0, 2, 2), arena(64, 3, 4)].into_iter().enumerate() {
            plan.buffers[index + 1].place = place;
        }
        let totals = totals(&plan);
        assert_eq!((totals.arena_bytes, totals.peak_bytes), (192 + 64, 192 + 64));
        plan.buffers[4].place = arena(1000, 2, 4);
        let later = super::totals(&plan);
        assert_eq!((later.arena_bytes, later.peak_bytes), (1064, 192 + 64));
        plan.buffers[2].place = arena(192, 2, 2);
        assert_eq!(super::totals(&plan).peak_bytes, 192);
    }

    #[test]
    fn what_does_not_fit_stays_at_the_largest_number() {
        let mut plan = fixtures::wide();
        for buffer in &mut plan.buffers {
            (buffer.rows, buffer.features) = (u64::MAX, u64::MAX);
        }
        plan.tables.fill(Table {
            name: "endless".into(),
            form: TableForm::Offsets,
            segments: u64::MAX,
            rows: u64::MAX,
            total_rows: u64::MAX,
            longest: u64::MAX,
            empty: 0,
            hash: Hash(0),
            source: TableSource::Bound,
        });
        fixtures::recount(&mut plan);
        assert!(plan.steps.iter().all(|step| step.cost.read == u64::MAX && step.cost.written == u64::MAX));
        assert_eq!((plan.totals.arena_bytes, plan.totals.peak_bytes, plan.totals.moved_bytes()), (u64::MAX, u64::MAX, u64::MAX));
        assert_eq!(plan.memory_bytes(), None);
        assert_eq!(plan.floor().read, u64::MAX);
    }
}

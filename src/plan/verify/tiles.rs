//! The rules of tiles (41–44): that their steps can run window by window, whatever the windows are.

use super::super::{CopyKind, Load, StepKind};
use super::*;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// A tile, as errors name it.
pub(super) fn name(index: usize) -> String {
    format!("tile {index}")
}

/// Holds every tile against its rules.
pub(super) fn check(plan: &Plan, report: &mut Report) {
    let mut free = 0;
    for (index, tile) in plan.tiles.iter().enumerate() {
        if tile.first > tile.last || tile.first.index() < free {
            report.add(name(index), format!("has steps {}..{}, which are in no order, or another tile's too", tile.first, tile.last));
        }
        free = tile.last.index() + 1;
    }
    if !report.errors.is_empty() {
        return;
    }
    let mut ends = vec![0; plan.tiles.len()];
    for (index, buffer) in plan.buffers.iter().enumerate() {
        let Place::Tile { offset, first, last } = buffer.place else { continue };
        let id = BufferId::new(index);
        let of = plan.tiles.partition_point(|tile| tile.last < last);
        // A tile inside writes with its folds: what else it writes has its own rows, which are counted below.
        let begins = |tile: &Tile| tile.has(first) || of > 0 && plan.tiles[of - 1].inside && plan.tiles[of - 1].has(first);
        let Some(tile) = plan.tiles.get(of).filter(|tile| tile.has(last) && begins(tile)) else {
            report.add(buffer_name(plan, id), format!("is alive {first}..{last}, which is not inside one tile"));
            continue;
        };
        let rows = plan.table(tile.table).rows;
        if buffer.rows != rows {
            report.add(buffer_name(plan, id), format!("has {} rows, but {} of its tile has {rows}", buffer.rows, tile.table));
        }
        ends[of] = ends[of].max(offset.saturating_add(plan.held_bytes(id)));
    }
    for (index, (tile, end)) in plan.tiles.iter().zip(ends).enumerate() {
        let table = plan.table(tile.table);
        if table.form != TableForm::Offsets {
            report.add(name(index), format!("is of segments of {}, which is not an ordered partition", tile.table));
        }
        if !(table.longest..=table.rows).contains(&tile.rows) {
            let message = format!(
                "has windows of {} rows, but the longest of {} rows of {} has {}",
                tile.rows, table.rows, tile.table, table.longest
            );
            report.add(name(index), message);
        }
        if tile.bytes != end {
            report.add(name(index), format!("says that it takes {} bytes, but its buffers end at {end}", tile.bytes));
        }
        if tile.inside {
            match plan.tiles.get(index + 1).filter(|next| next.first.index() == tile.last.index() + 1) {
                None => report.add(name(index), "is inside the next, but none comes right after it"),
                Some(next) if plan.table(next.table).rows != table.segments => {
                    let message = format!(
                        "is inside the next, but {} has {} segments, and {} of that has {} rows",
                        tile.table,
                        table.segments,
                        next.table,
                        plan.table(next.table).rows
                    );
                    report.add(name(index), message);
                }
                Some(_) => {}
            }
        }
        Steps { plan, index, tile, report }.check();
    }
}

struct Steps<'a> {
    plan: &'a Plan,
    index: usize,
    tile: &'a Tile,
    report: &'a mut Report,
}

impl Steps<'_> {
    fn check(&mut self) {
        let (mut rows, mut folded) = (BTreeSet::new(), BTreeSet::new());
        let of_tile = |step: &StepId| (step.index(), &self.plan.steps[step.index()]);
        let steps: Vec<(usize, &Step)> =
            (self.tile.first.index()..=self.tile.last.index()).map(|step| of_tile(&StepId::new(step))).collect();
        for (_, step) in &steps {
            let made = if let StepKind::Fold(_) = step.kind { &mut folded } else { &mut rows };
            made.extend(step.writes().into_iter().map(|view| self.plan.view(view).buffer));
        }
        let (inner, further) = self.made_inside();
        for (index, step) in steps {
            let id = StepId::new(index);
            self.step(id, step);
            let (by_row, whole) = operands(&step.kind);
            for view in by_row.iter().chain(&whole) {
                let buffer = self.plan.view(*view).buffer;
                if further.contains(&buffer) || inner.contains(&buffer) && whole.contains(view) {
                    let message = format!("reads {}, of which a tile inside has made no more than a window", text::view(self.plan, *view));
                    self.report.add(id, message);
                }
            }
            for view in by_row {
                if folded.contains(&self.plan.view(view).buffer) {
                    self.report.add(id, format!("reads {}, which a fold of its tile writes", text::view(self.plan, view)));
                }
            }
            for view in whole {
                let buffer = self.plan.view(view).buffer;
                if rows.contains(&buffer) || folded.contains(&buffer) || matches!(self.plan.buffer(buffer).place, Place::Tile { .. }) {
                    self.report.add(id, format!("reads {} in whole, which its tile makes window by window", text::view(self.plan, view)));
                }
            }
        }
    }

    /// What the tile right inside folds to, which there is a window of, and what else tiles inside make.
    fn made_inside(&self) -> (BTreeSet<BufferId>, BTreeSet<BufferId>) {
        let (mut inner, mut further) = (BTreeSet::new(), BTreeSet::new());
        for (distance, tile) in self.plan.tiles[..self.index].iter().rev().take_while(|tile| tile.inside).enumerate() {
            for step in &self.plan.steps[tile.first.index()..=tile.last.index()] {
                let folds = distance == 0 && matches!(step.kind, StepKind::Fold(_));
                let made = if folds { &mut inner } else { &mut further };
                made.extend(step.writes().into_iter().map(|view| self.plan.view(view).buffer));
            }
        }
        (inner, further)
    }

    fn step(&mut self, id: StepId, step: &Step) {
        let rows = self.plan.table(self.tile.table).rows;
        let makes_rows = match &step.kind {
            StepKind::Encode(_) => true,
            StepKind::Copy(copy) => match copy.what {
                CopyKind::Gather | CopyKind::Rows | CopyKind::Columns => true,
                CopyKind::Spread { table } => {
                    let (of, into) = (self.plan.table(table), self.plan.table(self.tile.table));
                    if (of.segments, of.total_rows) != (into.segments, into.rows) {
                        self.report.add(id, format!("spreads rows by {table}, whose segments are not those of {}", self.tile.table));
                    }
                    true
                }
                CopyKind::Segments { .. } => {
                    self.report.add(id, "packs segments, inside a tile");
                    false
                }
            },
            StepKind::Fold(fold) => {
                let in_tile = match fold.load {
                    Load::View { values } => matches!(self.plan.buffer_of(values).place, Place::Tile { .. }),
                    Load::Gather { .. } | Load::Histogram { .. } => false,
                };
                if fold.stages.len() != 1 || !in_tile {
                    self.report.add(id, "folds several levels, or rows that do not lie in its tile");
                }
                false
            }
        };
        for view in step.writes() {
            let buffer = self.plan.buffer_of(view);
            if makes_rows && buffer.rows != rows {
                self.report.add(id, format!("makes {} rows, but {} of its tile has {rows}", buffer.rows, self.tile.table));
            }
            let own = matches!(buffer.place, Place::Tile { last, .. } if self.tile.has(last));
            if !makes_rows && own {
                self.report.add(id, format!("writes {}, which holds rows of a tile", text::view(self.plan, view)));
            }
        }
        let spread = matches!(&step.kind, StepKind::Copy(copy) if matches!(copy.what, CopyKind::Spread { .. }));
        let hash = self.plan.table(self.tile.table).hash;
        for table in step.tables().into_iter().filter(|table| !spread && self.plan.table(*table).hash != hash) {
            self.report.add(id, format!("looks along {table}, whose segments are not those of {}", self.tile.table));
        }
    }
}

type Views = SmallVec<[ViewId; 4]>;

/// What a step takes row by row, and what it may take any part of at any time.
fn operands(kind: &StepKind) -> (Views, Views) {
    match kind {
        StepKind::Encode(encode) => {
            let operands = || encode.encoding.operands().into_iter().copied().zip(encode.encoding.takes_rows());
            (
                operands().filter(|(_, row)| *row).map(|(view, _)| view).collect(),
                operands().filter(|(_, row)| !row).map(|(view, _)| view).collect(),
            )
        }
        StepKind::Copy(copy) => match copy.what {
            CopyKind::Gather => (copy.read.iter().copied().take(1).collect(), copy.read.iter().copied().skip(1).collect()),
            CopyKind::Spread { .. } | CopyKind::Segments { .. } => (Views::new(), copy.read.iter().copied().collect()),
            CopyKind::Rows | CopyKind::Columns => (copy.read.iter().copied().collect(), Views::new()),
        },
        StepKind::Fold(fold) => {
            let weights = fold.stages.iter().flat_map(|stage| stage.reductions.iter().filter_map(|reduction| reduction.weights));
            match fold.load {
                Load::View { values } => ([values].into_iter().chain(weights).collect(), Views::new()),
                Load::Gather { ids, table } | Load::Histogram { ids, table } => {
                    ([ids].into_iter().chain(weights).collect(), [table].into_iter().collect())
                }
            }
        }
    }
}

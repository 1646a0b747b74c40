//! The rules of memory: who writes what, before whom, and where (11, 27–32, and of 42 how long).

use super::*;
use std::collections::BTreeMap;

/// Arena buffers that are alive together share no byte, and neither do those of a tile.
///
/// Buffers come in the order in which they begin to live, into a map of disjoint places. One that lived before gives its place up; one
/// that still lives is the error. So each buffer is looked at twice at most, however many there are.
pub(super) fn check_overlaps(plan: &Plan, report: &mut Report) {
    let (mut arena, mut tiles) = (Vec::new(), Vec::new());
    for (index, buffer) in plan.buffers.iter().enumerate().filter(|(_, buffer)| buffer.bytes() > 0) {
        match buffer.place {
            Place::Input | Place::Param | Place::Output => {}
            Place::Arena { offset, first, last } => arena.push((first, BufferId::new(index), offset, last)),
            Place::Tile { offset, first, last } => tiles.push((plan.taken_from(first, last), BufferId::new(index), offset, last)),
        }
    }
    check_overlaps_in(plan, "the arena", arena, report);
    check_overlaps_in(plan, "its tile", tiles, report);
}

fn check_overlaps_in(plan: &Plan, memory: &str, mut placed: Vec<(StepId, BufferId, u64, StepId)>, report: &mut Report) {
    placed.sort_unstable();
    let mut places: BTreeMap<u64, (u64, StepId, BufferId)> = BTreeMap::new();
    for (first, id, offset, last) in placed {
        let end = offset.saturating_add(plan.held_bytes(id));
        let mut free = true;
        while let Some((&start, &(other_end, other_last, other))) = places.range(..end).next_back()
            && other_end > offset
        {
            if other_last >= first {
                let message = format!(
                    "shares bytes {}..{} of {memory} with {other} while both are alive, at {first}",
                    start.max(offset),
                    other_end.min(end)
                );
                report.add(buffer_name(plan, id), message);
                free = false;
                break;
            }
            places.remove(&start);
        }
        if free {
            places.insert(offset, (end, last, id));
        }
    }
}

/// The columns of a buffer that were written, and when it was used.
#[derive(Clone, Default)]
struct State {
    /// Start → end, disjoint and not touching.
    written: BTreeMap<u64, u64>,
    first_write: Option<StepId>,
    last_write: Option<StepId>,
    last_use: Option<StepId>,
}

impl State {
    fn covers(&self, start: u64, end: u64) -> bool {
        start == end || self.written.range(..=start).next_back().is_some_and(|(_, &written)| written >= end)
    }

    /// The first of `features` columns that is not written.
    fn missing(&self, features: u64) -> Option<u64> {
        let column = self.written.get(&0).copied().unwrap_or(0);
        (column < features).then_some(column)
    }

    /// Adds columns, or gives back the first of them that is there already.
    fn add(&mut self, mut start: u64, mut end: u64) -> std::result::Result<(), u64> {
        if start == end {
            return Ok(());
        }
        if let Some((&other, &other_end)) = self.written.range(..end).next_back() {
            if other_end > start {
                // Disjoint and in order: the last one that begins before the end is not the only one, but it is one.
                return Err(other.max(start));
            }
            if other_end == start {
                start = other;
                self.written.remove(&other);
            }
        }
        if let Some(&other_end) = self.written.get(&end) {
            self.written.remove(&end);
            end = other_end;
        }
        self.written.insert(start, end);
        Ok(())
    }
}

/// Walks the steps in order, and holds what they read and write against what was written before.
pub(super) fn check(plan: &Plan, report: &mut Report) {
    let mut states = vec![State::default(); plan.buffers.len()];
    for (index, step) in plan.steps.iter().enumerate() {
        let id = StepId::new(index);
        let writes = step.writes();
        for &view in &writes {
            states[plan.view(view).buffer.index()].last_write = Some(id);
        }
        for view in step.reads() {
            read(plan, id, view, &mut states, report);
        }
        for view in writes {
            write(plan, id, view, &mut states, report);
        }
    }
    for (index, (buffer, state)) in plan.buffers.iter().zip(&states).enumerate() {
        let name = || buffer_name(plan, BufferId::new(index));
        match buffer.place {
            Place::Input | Place::Param => {}
            Place::Output => match (state.first_write, state.missing(buffer.features)) {
                (None, _) => report.add(name(), "is an output, but no step writes it"),
                (Some(_), Some(column)) => report.add(name(), format!("is an output, but no step writes its column {column}")),
                (Some(_), None) => {}
            },
            Place::Arena { first, last, .. } | Place::Tile { first, last, .. } => match (state.first_write, state.last_use) {
                (Some(wrote), Some(used)) => {
                    // All windows of a tile use what any of its steps uses.
                    let whole = matches!(buffer.place, Place::Arena { .. });
                    let alive = if whole { (plan.together(wrote).0, plan.together(used).1) } else { (wrote, used) };
                    if alive != (first, last) {
                        let message =
                            format!("says that it is alive {first}..{last}, but is written first at {wrote} and used last at {used}");
                        report.add(name(), message);
                    }
                }
                (None, _) | (_, None) => report.add(name(), "lies in the arena or a tile, but no step writes it"),
            },
        }
    }
}

fn read(plan: &Plan, step: StepId, id: ViewId, states: &mut [State], report: &mut Report) {
    let view = plan.view(id);
    let state = &mut states[view.buffer.index()];
    state.last_use = Some(step);
    if state.last_write == Some(step) {
        report.add(step, format!("reads and writes {}", view.buffer));
    }
    match plan.buffer(view.buffer).place {
        Place::Input | Place::Param => {}
        Place::Output | Place::Arena { .. } | Place::Tile { .. } => {
            if state.first_write.is_none() || !state.covers(view.first_column, view.first_column.saturating_add(view.features)) {
                report.add(step, format!("reads {} before it is written", text::view(plan, id)));
            }
        }
    }
}

fn write(plan: &Plan, step: StepId, id: ViewId, states: &mut [State], report: &mut Report) {
    let view = plan.view(id);
    let state = &mut states[view.buffer.index()];
    state.last_use = Some(step);
    state.first_write.get_or_insert(step);
    match plan.buffer(view.buffer).place {
        Place::Input | Place::Param => report.add(step, format!("writes {}, which the caller binds to be read", view.buffer)),
        Place::Output | Place::Arena { .. } | Place::Tile { .. } => {
            if let Err(column) = state.add(view.first_column, view.first_column.saturating_add(view.features)) {
                report.add(step, format!("writes column {column} of {}, which is written already", view.buffer));
            }
        }
    }
}

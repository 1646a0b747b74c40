//! Tiles: steps that run together, a few segments at a time, over rows that never leave the cache.

use super::{Buffer, Place, Plan};
use crate::ids::{BufferId, StepId, TableId};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Steps that run window by window: all of them over some whole segments of a table, then all of them over the next.
///
/// What one of its steps makes and only its other steps read is a [`Place::Tile`] buffer: of it there is never more than a window, in scratch that each
/// worker has for itself. So is what a tile [inside](Self::inside) folds its rows to. Windows may be done in any order and at once; how they are cut changes no bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// The first of its steps.
    pub first: StepId,
    /// The last of its steps.
    pub last: StepId,
    /// Whose segments: each is in one window, in whole.
    pub table: TableId,
    /// A window has at most so many rows.
    pub rows: u64,
    /// The bytes of scratch that hold a window of all its buffers.
    pub bytes: u64,
    /// Whether it runs inside the next tile, whose rows it folds to: for each window of that, over the windows of the segments that become its rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inside: bool,
}

impl Tile {
    /// Whether a step is one of it.
    pub fn has(&self, step: StepId) -> bool {
        (self.first..=self.last).contains(&step)
    }

    /// Cuts segments, in order, into windows of up to `rows` rows, but of one segment at least: ranges of segments.
    ///
    /// `offsets` are where each segment begins, and where the last one ends.
    pub fn windows(offsets: &[u64], rows: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let count = offsets.len().saturating_sub(1);
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = next;
            let start = *offsets[..count].get(first)?;
            // The first segment that does not fit any more: one at least is taken.
            let fitting = offsets[first + 1..].partition_point(|&end| end - start <= rows);
            next = first + fitting.max(1);
            Some(crate::widen_u64(first)..crate::widen_u64(next))
        })
    }
}

impl Plan {
    /// The tile that a step belongs to.
    pub fn tile_of(&self, step: StepId) -> Option<&Tile> {
        let after = self.tiles.partition_point(|tile| tile.last < step);
        self.tiles.get(after).filter(|tile| tile.has(step))
    }

    /// The tiles that run inside one another with that of a step, the innermost first; none, where it belongs to no tile.
    pub fn nest_of(&self, step: StepId) -> &[Tile] {
        let own = self.tiles.partition_point(|tile| tile.last < step);
        if self.tiles.get(own).is_none_or(|tile| !tile.has(step)) {
            return &[];
        }
        let before = self.tiles[..own].iter().rev().take_while(|tile| tile.inside).count();
        let after = self.tiles[own..].iter().take_while(|tile| tile.inside).count();
        &self.tiles[own - before..(own + after + 1).min(self.tiles.len())]
    }

    /// The steps that have to be done before one of them can be said to be: all tiles that run inside one another, or one step.
    pub fn together(&self, step: StepId) -> (StepId, StepId) {
        match self.nest_of(step) {
            [] => (step, step),
            [only] => (only.first, only.last),
            [first, .., last] => (first.first, last.last),
        }
    }

    /// From when on a [`Place::Tile`] buffer may not be written by others: where a tile inside fills it, all steps inside run again until it is full.
    pub fn taken_from(&self, first: StepId, last: StepId) -> StepId {
        let same = self.tile_of(first).is_some_and(|tile| tile.has(last));
        if same { first } else { self.together(first).0.min(first) }
    }

    /// The bytes that a buffer takes where it lies: of one in a tile, those of a window.
    pub fn held_bytes(&self, buffer: BufferId) -> u64 {
        let buffer = self.buffer(buffer);
        match buffer.place {
            Place::Input | Place::Param | Place::Output | Place::Arena { .. } => buffer.bytes(),
            Place::Tile { last, .. } => {
                // It holds a window of the tile of its last step; one inside that may fill it.
                let rows = self.tile_of(last).map_or(buffer.rows, |tile| tile.rows.min(buffer.rows));
                Buffer { rows, ..buffer.clone() }.bytes()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tile;

    #[test]
    fn windows_are_whole_segments_in_order() {
        let windows = |offsets: &[u64], rows| Tile::windows(offsets, rows).map(|window| (window.start, window.end)).collect::<Vec<_>>();
        assert_eq!(windows(&[0, 3, 7, 9, 12], 7), [(0, 2), (2, 4)]);
        // One that is too long is a window of its own.
        assert_eq!(windows(&[0, 0, 9, 9, 10, 12], 3), [(0, 1), (1, 2), (2, 5)]);
        assert_eq!(windows(&[0, 9], 3), [(0, 1)]);
        assert_eq!(windows(&[0, 0, 0], 3), [(0, 2)]);
        assert_eq!(windows(&[0], 3), []);
        assert_eq!(windows(&[], 3), []);
    }
}

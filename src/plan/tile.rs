//! Tiles: steps that run together, a few segments at a time, over rows that never leave the cache.

use super::{Buffer, Place, Plan};
use crate::ids::{BufferId, StepId, TableId};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Steps that run window by window: all of them over some whole segments of a table, then all of them over the next.
///
/// What one of its steps makes and only its other steps read is a [`Place::Tile`] buffer: of it there is never more than a window, in scratch that each
/// worker has for itself. Windows may be done in any order and at once; how they are cut changes no bit.
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

    /// The steps that have to be done before one of them can be said to be: a tile, or one step.
    pub fn together(&self, step: StepId) -> (StepId, StepId) {
        self.tile_of(step).map_or((step, step), |tile| (tile.first, tile.last))
    }

    /// The bytes that a buffer takes where it lies: of one in a tile, those of a window.
    pub fn held_bytes(&self, buffer: BufferId) -> u64 {
        let buffer = self.buffer(buffer);
        match buffer.place {
            Place::Input | Place::Param | Place::Output | Place::Arena { .. } => buffer.bytes(),
            Place::Tile { first, .. } => {
                let rows = self.tile_of(first).map_or(buffer.rows, |tile| tile.rows.min(buffer.rows));
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

//! How the work of one step is cut into tasks.
//!
//! Work is counted in leaf rows. Segments are grouped into tasks of about equal work; a segment that is longer than a task is cut into pieces of 32 · 2^q rows
//! of what its stage folds, counted from its own start: each piece is an aligned group of blocks, so its value may stand for it in the tree
//! of pairs, and where the cuts lie changes no bit.

use levelfold::numerics::{BLOCK_ROWS, BLOCK_ROWS_U64};
use levelfold::segments::Segments;

/// One piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Whole segments, from the first up to the last, which is left out.
    Segments { first: u64, last: u64 },
    /// Rows of one segment, from its own start: a partial result.
    Piece { segment: u64, first_row: u64, last_row: u64, partial: usize },
}

/// A segment that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) segment: u64,
    pub(crate) first_partial: usize,
    pub(crate) partials: usize,
}

/// The tasks of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cuts {
    pub(crate) tasks: Vec<Task>,
    pub(crate) splits: Vec<Split>,
    pub(crate) partials: usize,
}

/// Leaf rows below the rows that a stage folds.
struct LeavesBefore<'a> {
    partitions: Vec<&'a [u64]>,
    lowest: Option<Vec<u64>>,
}

impl<'a> LeavesBefore<'a> {
    /// For the topmost table of a chain, lowest first.
    fn new(chain: &[&'a Segments]) -> Self {
        let below = &chain[..chain.len() - 1];
        let mut partitions: Vec<&[u64]> = below.iter().skip(1).filter_map(|table| table.offsets()).collect();
        let mut lowest = None;
        if let Some(first) = below.first() {
            match first.offsets() {
                Some(offsets) => partitions.insert(0, offsets),
                None => lowest = Some(running_starts(first)),
            }
        }
        LeavesBefore { partitions, lowest }
    }

    fn at(&self, row: u64) -> u64 {
        let row = self.partitions.iter().rev().fold(row, |row, offsets| offsets[row as usize]);
        self.lowest.as_ref().map_or(row, |starts| starts[row as usize])
    }
}

/// The rows in all segments before each, and in all of them.
pub(crate) fn running_starts(segments: &Segments) -> Vec<u64> {
    let mut sum = 0;
    let mut starts = Vec::with_capacity(segments.len() as usize + 1);
    starts.push(0);
    for range in segments.ranges() {
        sum += range.end - range.start;
        starts.push(sum);
    }
    starts
}

/// Everything in one task.
pub(crate) fn uncut(top: &Segments) -> Cuts {
    Cuts { tasks: vec![Task::Segments { first: 0, last: top.len() }], splits: Vec::new(), partials: 0 }
}

/// Groups segments into tasks of about `target` rows, and cuts none of them.
pub(crate) fn whole(top: &Segments, target: u64) -> Cuts {
    let (mut tasks, mut first, mut rows) = (Vec::new(), 0, 0);
    for (segment, range) in (0..).zip(top.ranges()) {
        rows += range.end - range.start + 1;
        if rows >= target {
            tasks.push(Task::Segments { first, last: segment + 1 });
            (first, rows) = (segment + 1, 0);
        }
    }
    if first < top.len() {
        tasks.push(Task::Segments { first, last: top.len() });
    }
    Cuts { tasks, splits: Vec::new(), partials: 0 }
}

/// Cuts the work of the topmost table of `chain` (lowest first) into tasks of about `target` leaf rows.
pub(crate) fn cut(chain: &[&Segments], target: u64) -> Cuts {
    let Some((top, below)) = chain.split_last() else { return Cuts::default() };
    let before = LeavesBefore::new(chain);
    let target = target.max(BLOCK_ROWS_U64);
    let mut cuts = Cuts::default();
    let (mut first, mut work) = (0, 0);
    for (segment, range) in top.ranges().enumerate() {
        let segment = segment as u64;
        let rows = range.end - range.start;
        // A segment costs something of its own, and so does each row that is made for it.
        let own = if below.is_empty() { rows + 1 } else { before.at(range.end) - before.at(range.start) + rows + 1 };
        if own > target && rows > BLOCK_ROWS_U64 {
            cuts.group(first, segment);
            cuts.split(segment, rows, own, target);
            (first, work) = (segment + 1, 0);
            continue;
        }
        work += own;
        if work >= target {
            cuts.group(first, segment + 1);
            (first, work) = (segment + 1, 0);
        }
    }
    cuts.group(first, top.len());
    cuts
}

/// The most pieces that [`cut`] makes of segments of `top_rows` rows in all, whatever they are, where so much work is cut into tasks of about `target`.
///
/// A segment with more work w than the target t is cut into fewer than 2 · w ÷ t + 1 pieces, and a little for its blocks not being equal, as rows of pieces are
/// rounded down to a power of two; so all of them into fewer than 4 · w ÷ t. And it has more than a block of rows, so there are at most two pieces for each whole block.
pub(crate) fn most_pieces(work: u64, target: u64, top_rows: u64) -> u64 {
    (work.saturating_mul(4) / target.max(BLOCK_ROWS_U64)).min(top_rows / BLOCK_ROWS_U64 * 2)
}

impl Cuts {
    fn group(&mut self, first: u64, last: u64) {
        if first < last {
            self.tasks.push(Task::Segments { first, last });
        }
    }

    fn split(&mut self, segment: u64, rows: u64, work: u64, target: u64) {
        let per_block = work.div_ceil(rows.div_ceil(BLOCK_ROWS_U64)).max(1);
        let blocks = (target / per_block).max(1);
        // Down to a power of two: the largest that is not above.
        let blocks = 1u64 << blocks.ilog2();
        let piece = blocks * BLOCK_ROWS as u64;
        let first_partial = self.partials;
        let mut start = 0;
        while start < rows {
            let end = rows.min(start + piece);
            self.tasks.push(Task::Piece { segment, first_row: start, last_row: end, partial: self.partials });
            self.partials += 1;
            start = end;
        }
        if self.partials - first_partial == 1 {
            // One piece is the whole segment after all.
            self.tasks.pop();
            self.partials = first_partial;
            self.group(segment, segment + 1);
            return;
        }
        self.splits.push(Split { segment, first_partial, partials: self.partials - first_partial });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_task_and_pieces_are_aligned() {
        let lengths = [3u64, 5000, 0, 1, 33, 700, 0];
        let segments = Segments::from_lengths(&lengths).unwrap();
        for target in [1, 32, 100, 640, 1 << 20] {
            let cuts = cut(&[&segments], target);
            let mut seen = vec![0u64; lengths.len()];
            for task in &cuts.tasks {
                match *task {
                    Task::Segments { first, last } => (first..last).for_each(|s| seen[s as usize] += lengths[s as usize].max(1)),
                    Task::Piece { segment, first_row, last_row, .. } => {
                        assert_eq!(first_row % BLOCK_ROWS_U64, 0, "target {target}");
                        seen[segment as usize] += last_row - first_row;
                    }
                }
            }
            let wanted: Vec<u64> = lengths.iter().map(|length| (*length).max(1)).collect();
            assert_eq!(seen, wanted, "target {target}");
        }
    }

    #[test]
    fn there_are_never_more_pieces_than_was_said() {
        let mut state = 1u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut closest = 0.0f64;
        for case in 0..2000 {
            let most = [40, 100, 1100, 5000][case % 4];
            let lengths: Vec<u64> = (0..1 + draw(8)).map(|_| draw(most)).collect();
            let top = Segments::from_lengths(&lengths).unwrap();
            let below = Segments::from_lengths(&(0..top.rows()).map(|_| draw(9)).collect::<Vec<_>>()).unwrap();
            for chain in [&[&top][..], &[&below, &top]] {
                let work: u64 = chain.iter().map(|table| table.total_rows() + table.len()).sum();
                let target = work / (1 + draw(60)) + draw(3);
                let (pieces, said) = (cut(chain, target).partials as u64, most_pieces(work, target, top.total_rows()));
                assert!(pieces <= said, "{pieces} pieces, {said} said: {lengths:?}, target {target}");
                closest = closest.max(pieces as f64 / said.max(1) as f64);
            }
        }
        assert!(closest > 0.5, "what is said is far from what is: {closest}");
    }

    #[test]
    fn a_chain_is_cut_by_its_leaves() {
        let words = Segments::from_lengths(&vec![1000u64; 64]).unwrap();
        let page = Segments::from_lengths(&[64u64]).unwrap();
        let cuts = cut(&[&words, &page], 40_000);
        assert_eq!(cuts.splits, [Split { segment: 0, first_partial: 0, partials: 2 }]);
        assert_eq!(cuts.tasks[1], Task::Piece { segment: 0, first_row: 32, last_row: 64, partial: 1 });
    }
}

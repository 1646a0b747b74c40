//! How the work of a fold is cut into runs, on the host, once for a plan and its tables. [`spec`](crate::spec) says what runs are.
//!
//! Work is counted in rows and segments. A run ends at the start of a segment, or inside a long one at a multiple of 32 · Q rows after its start: an aligned group of
//! blocks, so where the cuts lie changes no bit.

use crate::args::FinishGroup;
use crate::spec::FINISH_RADIX;
use levelfold::numerics::BLOCK_ROWS_U64;
use levelfold::segments::Segments;

/// The blocks of a piece of a long segment, where there is work enough: a power of two.
const MOST_PIECE_BLOCKS: u64 = 8;
/// Bytes of a run that a group of lanes reads, where there is work enough.
const RUN_BYTES: u64 = 48 << 10;
/// Bytes of a row that one group of lanes reads at most.
const SLAB_BYTES: u64 = 512;
/// Runs a multiprocessor and lane group, so that the slowest does not hold up the others for long.
const RUNS_A_GROUP: u64 = 8;
/// Threads a multiprocessor.
const THREADS: u64 = 1024;

/// How large runs and pieces are: a choice that changes no bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grain {
    /// Rows and segments of a run.
    pub(crate) run: u64,
    /// Q: blocks of a piece of a long segment; a power of two.
    pub(crate) piece_blocks: u64,
}

impl Grain {
    /// For `work` rows and segments, of which the topmost stage folds `top_rows`; rows have `row_bytes` bytes.
    pub(crate) fn choose(work: u64, top_rows: u64, row_bytes: u64, multiprocessors: u32) -> Grain {
        let slab = row_bytes.clamp(1, SLAB_BYTES);
        // A lane reads 16 bytes of a row.
        let groups = u64::from(multiprocessors) * THREADS / slab.div_ceil(16).max(1);
        let slabs = row_bytes.div_ceil(SLAB_BYTES).max(1);
        let wanted = (groups * RUNS_A_GROUP).div_ceil(slabs).max(1);
        let run = (RUN_BYTES / slab).min(work.div_ceil(wanted)).max(BLOCK_ROWS_U64);
        // Rows and segments beneath one row of the topmost stage, on average.
        let beneath = work.div_ceil(top_rows.max(1)).max(1);
        let blocks = (run / BLOCK_ROWS_U64 / beneath).clamp(1, MOST_PIECE_BLOCKS);
        Grain { run, piece_blocks: 1 << blocks.ilog2() }
    }

    /// Rows of the topmost stage that a segment may have without being long.
    pub(crate) fn piece_rows(self) -> u64 {
        self.piece_blocks * BLOCK_ROWS_U64
    }

    /// The most pieces that segments of `rows` rows altogether, the longest of `longest`, can be cut into.
    pub(crate) fn most_pieces(self, rows: u64, longest: u64) -> u64 {
        if longest <= self.piece_rows() { 0 } else { (rows / self.piece_rows()).saturating_mul(2) }
    }
}

/// The work of a fold, cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cuts {
    /// `2 + stages` numbers a record, `runs + 1` records; empty where nothing runs.
    pub(crate) records: Vec<u64>,
    /// How many runs.
    pub(crate) runs: u64,
    /// Rows of all segments of stage 0.
    pub(crate) positions: u64,
    /// Pieces of long segments.
    pub(crate) pieces: u64,
    /// The passes that finish long segments.
    pub(crate) passes: Vec<Pass>,
    /// The topmost stage's empty segments.
    pub(crate) empty: Vec<u64>,
}

/// One pass over partials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// What each block folds.
    pub(crate) groups: Vec<FinishGroup>,
    /// Rows that go on to the next pass.
    pub(crate) rows: u64,
}

/// Where the rows of each segment begin among the rows of all: its offsets, or a running sum.
pub(crate) fn positions(segments: &Segments) -> std::borrow::Cow<'_, [u64]> {
    match segments.offsets() {
        Some(offsets) => offsets.into(),
        None => {
            let sums = segments.ranges().scan(0, |sum, range| {
                *sum += range.end - range.start;
                Some(*sum)
            });
            std::iter::once(0).chain(sums).collect::<Vec<u64>>().into()
        }
    }
}

/// What is added to a position to get its row, for each segment, wrapping around: `None` where that is 0.
pub(crate) fn shifts(segments: &Segments) -> Option<Vec<u64>> {
    if segments.is_partition() {
        return None;
    }
    let starts = positions(segments);
    Some(segments.ranges().zip(starts.iter()).map(|(range, start)| range.start.wrapping_sub(*start)).collect())
}

/// Cuts the work of a chain of tables, the lowest first.
pub(crate) fn cut(chain: &[&Segments], grain: Grain) -> Cuts {
    let starts: Vec<std::borrow::Cow<'_, [u64]>> = chain.iter().map(|table| positions(table)).collect();
    let Some((top, below)) = starts.split_last() else { return Cuts::default() };
    let at = |list: &[u64], index: u64| list[usize::try_from(index).unwrap_or(usize::MAX)];
    // The position and the segment of each lower stage, from the highest down, where a row of the topmost stage begins.
    let beneath = |row: u64| {
        let mut row = row;
        let mut segments = vec![0; below.len()];
        for (stage, starts) in below.iter().enumerate().rev() {
            segments[stage] = row;
            row = at(starts, row);
        }
        (row, segments)
    };
    let mut cuts = Cuts { positions: starts[0].last().copied().unwrap_or(0), ..Cuts::default() };
    let begin = |cuts: &mut Cuts, row: u64, segment: u64| {
        let (position, segments) = beneath(row);
        cuts.records.extend([position, cuts.pieces]);
        cuts.records.extend(segments);
        cuts.records.push(segment);
        cuts.runs += 1;
    };
    // Rows and segments up to a row of the topmost stage.
    let work_before = |row: u64| {
        let (mut row, mut work) = (row, row);
        for starts in below.iter().rev() {
            row = at(starts, row);
            work += row;
        }
        work
    };
    let mut groups: Vec<(u64, u64, u64)> = Vec::new();
    let mut begun: Option<u64> = None;
    for (segment, pair) in (0u64..).zip(top.windows(2)) {
        let (first, end) = (pair[0], pair[1]);
        let rows = end - first;
        if rows == 0 {
            cuts.empty.push(segment);
            continue;
        }
        let is_full = |from: Option<u64>, row: u64| from.is_none_or(|from| work_before(row) + segment - from >= grain.run);
        if is_full(begun, first) {
            begin(&mut cuts, first, segment);
            begun = Some(work_before(first) + segment);
        }
        if rows <= grain.piece_rows() {
            continue;
        }
        let pieces = rows.div_ceil(grain.piece_rows());
        groups.push((segment, rows, pieces));
        for piece in 0..pieces {
            let row = first + piece * grain.piece_rows();
            if piece > 0 && is_full(begun, row) {
                begin(&mut cuts, row, segment);
                begun = Some(work_before(row) + segment);
            }
            cuts.pieces += 1;
        }
    }
    if cuts.runs > 0 {
        cuts.records.extend([cuts.positions, cuts.pieces]);
        cuts.records.extend(chain.iter().map(|table| table.len()));
    }
    cuts.passes = passes(&groups);
    cuts
}

/// The passes over segments of (number, rows, pieces), whose pieces follow each other.
fn passes(segments: &[(u64, u64, u64)]) -> Vec<Pass> {
    let mut passes = Vec::new();
    let mut left: Vec<(u64, u64, u64)> = segments.to_vec();
    while !left.is_empty() {
        let mut pass = Pass::default();
        let mut next = Vec::new();
        let mut first = 0;
        for &(segment, rows, count) in &left {
            if count <= FINISH_RADIX {
                pass.groups.push(FinishGroup { first, to: segment, rows, count: narrow(count), last: 1 });
            } else {
                for group in 0..count.div_ceil(FINISH_RADIX) {
                    let size = (count - group * FINISH_RADIX).min(FINISH_RADIX);
                    pass.groups.push(FinishGroup {
                        first: first + group * FINISH_RADIX,
                        to: pass.rows,
                        rows,
                        count: narrow(size),
                        last: 0,
                    });
                    pass.rows += 1;
                }
                next.push((segment, rows, count.div_ceil(FINISH_RADIX)));
            }
            first += count;
        }
        passes.push(pass);
        left = next;
    }
    passes
}

fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_lengths(lengths: &[u64], run: u64, piece_blocks: u64) -> Cuts {
        cut(&[&Segments::from_lengths(lengths).expect("lengths")], Grain { run, piece_blocks })
    }

    #[test]
    fn runs_begin_at_segments_and_at_pieces_of_long_ones() {
        let cuts = cut_lengths(&[0, 3, 100, 0, 5], 40, 1);
        // Position, piece, segment. The long segment is cut after 64 of its rows: 3 + 64 rows and a segment are more than 40.
        assert_eq!(cuts.records, [0, 0, 1, 67, 2, 2, 108, 4, 5]);
        assert_eq!((cuts.runs, cuts.positions, cuts.pieces), (2, 108, 4));
        assert_eq!(cuts.empty, [0, 3]);
        assert_eq!(cuts.passes, [Pass { groups: vec![FinishGroup { first: 0, to: 2, rows: 100, count: 4, last: 1 }], rows: 0 }]);
    }

    #[test]
    fn records_name_the_lower_stages_too() {
        let words = Segments::from_lengths(&[2u64, 0, 3, 1]).expect("lengths");
        let sentences = Segments::from_lengths(&[2u64, 0, 2]).expect("lengths");
        let cuts = cut(&[&words, &sentences], Grain { run: 1, piece_blocks: 1 });
        assert_eq!(cuts.records, [0, 0, 0, 0, 2, 0, 2, 2, 6, 0, 4, 3]);
        assert_eq!(cuts.empty, [1]);
    }

    #[test]
    fn nothing_runs_where_every_segment_is_empty() {
        let cuts = cut_lengths(&[0, 0], 32, 1);
        assert_eq!((cuts.runs, cuts.records.len(), cuts.empty.as_slice()), (0, 0, &[0, 1][..]));
        assert_eq!(cut_lengths(&[], 32, 1), Cuts::default());
    }

    #[test]
    fn ranges_have_positions_of_their_own() {
        let ranges = Segments::from_ranges(&[(5u64, 8), (0, 2), (5, 8)], 8).expect("ranges");
        assert_eq!(positions(&ranges).as_ref(), [0, 3, 5, 8]);
        assert_eq!(shifts(&ranges), Some(vec![5, 3u64.wrapping_neg(), 0]));
        assert_eq!(cut(&[&ranges], Grain { run: 1, piece_blocks: 1 }).records, [0, 0, 0, 3, 0, 1, 5, 0, 2, 8, 0, 3]);
    }

    #[test]
    fn a_segment_of_many_pieces_takes_several_passes() {
        let rows = 32 * (FINISH_RADIX * FINISH_RADIX + 1);
        let cuts = cut_lengths(&[7, rows], 1 << 40, 1);
        assert_eq!(cuts.pieces, FINISH_RADIX * FINISH_RADIX + 1);
        let groups: Vec<usize> = cuts.passes.iter().map(|pass| pass.groups.len()).collect();
        assert_eq!(groups, [257, 2, 1]);
        assert_eq!(cuts.passes[0].groups[256], FinishGroup { first: 65_536, to: 256, rows, count: 1, last: 0 });
        assert_eq!(cuts.passes[2].groups, [FinishGroup { first: 0, to: 1, rows, count: 2, last: 1 }]);
        assert_eq!(cuts.runs, 1);
    }

    /// Every run begins where it may, every piece is counted before it, and no bound is exceeded.
    #[test]
    fn cuts_of_random_lengths_keep_the_rules() {
        for seed in 0..200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |bound: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % bound
            };
            let lengths: Vec<u64> = (0..next(40)).map(|_| if next(3) == 0 { next(2000) } else { next(6) }).collect();
            let segments = Segments::from_lengths(&lengths).expect("lengths");
            let grain = Grain { run: 1 + next(300), piece_blocks: 1 << next(4) };
            let cuts = cut(&[&segments], grain);
            let offsets = segments.offsets().expect("a partition");
            let (mut piece, mut pieces) = (0, Vec::new());
            for (segment, &rows) in lengths.iter().enumerate() {
                for index in 0..rows.div_ceil(grain.piece_rows()) {
                    let start = offsets[segment] + index * grain.piece_rows();
                    pieces.push((start, segment as u64, piece));
                    piece += u64::from(rows > grain.piece_rows());
                }
            }
            assert_eq!(cuts.pieces, piece, "seed {seed}");
            assert!(cuts.pieces <= grain.most_pieces(segments.total_rows(), segments.longest()), "seed {seed}");
            let records: Vec<&[u64]> = cuts.records.chunks(3).collect();
            for record in records.iter().take(usize::try_from(cuts.runs).expect("few")) {
                assert!(pieces.contains(&(record[0], record[2], record[1])), "seed {seed}: {record:?}");
            }
            assert!(records.windows(2).all(|pair| pair[0][0] < pair[1][0]), "seed {seed}");
            if let Some(last) = records.last() {
                assert_eq!(*last, [segments.total_rows(), piece, segments.len()], "seed {seed}");
            }
        }
    }
}

//! Which rows of a level become one row of the next.
//!
//! A [`Segments`] is validated when it is made and never changes, so everything behind it may trust it. It is cheap to clone (shared) and
//! carries a hash of its content, by which plans name it.
//!
//! Five forms are taken, and two are kept: offsets where the segments partition all rows in order, ranges otherwise.

use crate::error::{Error, ErrorCode, Result};
use crate::{narrow, widen_u64};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// An integer that users hold offsets and ids in.
pub trait Integer: Copy + fmt::Display + sealed::Sealed {
    /// The value, or `None` where it is negative.
    fn to_u64(self) -> Option<u64>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl sealed::Sealed for $int {}
        impl Integer for $int {
            #[inline(always)]
            fn to_u64(self) -> Option<u64> {
                u64::try_from(self).ok()
            }
        }
    )*};
}

integers!(i32, i64, u8, u16, u32, u64, usize);

/// All segments of one level: segment s covers [`range(s)`](Segments::range) of the rows below and becomes row s above.
///
/// Other names in use for this: row splits, `ptr`, `indptr`, cumulative sequence lengths, bags.
#[doc(alias = "row_splits")]
#[doc(alias = "indptr")]
#[doc(alias = "cu_seqlens")]
#[doc(alias = "bags")]
#[derive(Clone)]
pub struct Segments {
    inner: Arc<Inner>,
}

struct Inner {
    form: Form,
    rows: u64,
    stats: Stats,
    hash: u128,
}

/// The two forms that are kept.
enum Form {
    /// Segment s is `[offsets[s], offsets[s + 1])`; starts at 0, ends at the row count.
    Offsets(Box<[u64]>),
    /// Segment s is the half-open `[start, end)`: gaps, overlaps, any order, repeats.
    Ranges(Box<[[u64; 2]]>),
}

#[derive(Clone, Copy, Default)]
struct Stats {
    total: u64,
    longest: u64,
    empty: u64,
    first_empty: Option<u64>,
}

impl Stats {
    fn add(&mut self, segment: usize, len: u64) -> Result<()> {
        self.total = self
            .total
            .checked_add(len)
            .ok_or_else(|| Error::new(ErrorCode::Overflow, format!("the lengths of {} segments do not fit 64 bits", segment + 1)))?;
        self.longest = self.longest.max(len);
        if len == 0 {
            self.first_empty.get_or_insert(widen_u64(segment));
            self.empty += 1;
        }
        Ok(())
    }
}

impl Segments {
    /// From n + 1 offsets that start at 0, never decrease and end at the row count of the level below.
    ///
    /// # Errors
    /// `offsets-empty`, `negative`, `offsets-start`, `offsets-decrease`; `rows-not-covered` or `past-rows` where the last offset is
    /// not `rows`: no row is ever dropped silently. [`from_offsets_partial`](Self::from_offsets_partial) leaves rows out on purpose.
    #[doc(alias = "from_row_splits")]
    #[doc(alias = "from_indptr")]
    pub fn from_offsets<T: Integer>(offsets: &[T], rows: u64) -> Result<Self> {
        let segments = Self::checked_offsets(offsets, rows)?;
        let last = segments.last().copied().unwrap_or(0);
        if last < rows {
            return Err(Error::new(
                ErrorCode::RowsNotCovered,
                format!("the last offset is {last}, but there are {rows} rows: {} would be dropped", rows - last),
            )
            .at_index(widen_u64(segments.len() - 1))
            .help("end the offsets at the row count, or ask for it with the partial form"));
        }
        Self::of_offsets(segments, rows)
    }

    /// Like [`from_offsets`](Self::from_offsets), but rows after the last offset may be left out.
    ///
    /// # Errors
    /// As for `from_offsets`, without `rows-not-covered`.
    pub fn from_offsets_partial<T: Integer>(offsets: &[T], rows: u64) -> Result<Self> {
        let offsets = Self::checked_offsets(offsets, rows)?;
        if offsets.last() == Some(&rows) {
            return Self::of_offsets(offsets, rows);
        }
        Self::of_ranges(offsets.windows(2).map(|pair| [pair[0], pair[1]]).collect(), rows)
    }

    /// From the length of every segment, in order; the rows are their sum.
    ///
    /// # Errors
    /// `negative`, or `overflow` where the sum does not fit 64 bits.
    pub fn from_lengths<T: Integer>(lengths: &[T]) -> Result<Self> {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        let mut end = 0u64;
        offsets.push(0);
        for (index, &length) in lengths.iter().enumerate() {
            let length = non_negative("lengths", index, length)?;
            end = end.checked_add(length).ok_or_else(|| {
                Error::new(ErrorCode::Overflow, format!("the first {} lengths add up to more than 64 bits hold", index + 1))
                    .at_index(widen_u64(index))
            })?;
            offsets.push(end);
        }
        Self::of_offsets(offsets, end)
    }

    /// From half-open ranges over `rows` rows: gaps, overlaps, any order and repeats are all allowed.
    ///
    /// # Errors
    /// `negative`, `range-reversed`, `past-rows`, `overflow`.
    #[doc(alias = "slices")]
    pub fn from_ranges<T: Integer>(ranges: &[(T, T)], rows: u64) -> Result<Self> {
        let mut checked = Vec::with_capacity(ranges.len());
        let mut partition_end = Some(0u64);
        for (index, &(start, end)) in ranges.iter().enumerate() {
            let start = non_negative("starts", index, start)?;
            let end = non_negative("ends", index, end)?;
            if start > end {
                return Err(Error::new(ErrorCode::RangeReversed, format!("range {index} starts at {start} and ends at {end}"))
                    .at_index(widen_u64(index))
                    .help("ranges are half-open, start ≤ end"));
            }
            if end > rows {
                return Err(past_rows(&format!("range {index} ends at"), index, end, rows));
            }
            partition_end = partition_end.filter(|&at| at == start).map(|_| end);
            checked.push([start, end]);
        }
        if partition_end == Some(rows) {
            let offsets = std::iter::once(0).chain(checked.iter().map(|range| range[1])).collect();
            return Self::of_offsets(offsets, rows);
        }
        Self::of_ranges(checked, rows)
    }

    /// From one segment id per row, non-decreasing, with the count of segments; ids that no row has are empty segments.
    ///
    /// # Errors
    /// `negative`, `ids-decrease`, `id-too-large`, `overflow`.
    pub fn from_segment_ids<T: Integer>(ids: &[T], count: u64) -> Result<Self> {
        // The count is a number that somebody wrote: there may be no memory for so many.
        let mut offsets = Vec::new();
        offsets.try_reserve_exact(narrow(count.saturating_add(1))?).map_err(|_| {
            Error::new(ErrorCode::Overflow, format!("there is no memory for the offsets of {count} segments"))
                .help("give the count of segments that there are: the last id and 1 more, or a few more where the last ones are empty")
        })?;
        let mut before = 0u64;
        offsets.push(0);
        for (row, &id) in ids.iter().enumerate() {
            let id = non_negative("segment_ids", row, id)?;
            if id >= count {
                return Err(Error::new(ErrorCode::IdTooLarge, format!("segment_ids[{row}] = {id}, but there are {count} segments"))
                    .at_index(widen_u64(row))
                    .help("ids are below the count"));
            }
            if id < before {
                return Err(Error::new(
                    ErrorCode::IdsDecrease,
                    format!("segment_ids[{row}] = {id} is less than segment_ids[{}] = {before}", row - 1),
                )
                .at_index(widen_u64(row))
                .help("sort the rows by segment first"));
            }
            let open = narrow(id + 1)?;
            while offsets.len() < open {
                offsets.push(widen_u64(row));
            }
            before = id;
        }
        let rows = widen_u64(ids.len());
        offsets.resize(narrow(count + 1)?, rows);
        Self::of_offsets(offsets, rows)
    }

    /// From the interior cut rows and the row count: k cuts give k + 1 segments; a repeated cut, or one at 0 or at the end, gives an
    /// empty segment.
    ///
    /// # Errors
    /// `negative`, `boundaries-decrease`, `past-rows`.
    pub fn from_boundaries<T: Integer>(cuts: &[T], rows: u64) -> Result<Self> {
        let mut offsets = Vec::with_capacity(cuts.len() + 2);
        let mut before = 0u64;
        offsets.push(0);
        for (index, &cut) in cuts.iter().enumerate() {
            let cut = non_negative("boundaries", index, cut)?;
            if cut < before {
                return Err(Error::new(
                    ErrorCode::BoundariesDecrease,
                    format!("boundaries[{index}] = {cut} is less than boundaries[{}] = {before}", index - 1),
                )
                .at_index(widen_u64(index))
                .help("boundaries never decrease"));
            }
            if cut > rows {
                return Err(past_rows(&format!("boundaries[{index}] ="), index, cut, rows));
            }
            offsets.push(cut);
            before = cut;
        }
        offsets.push(rows);
        Self::of_offsets(offsets, rows)
    }

    /// One segment that holds every row.
    pub fn whole(rows: u64) -> Self {
        Self::of_offsets(vec![0, rows], rows).unwrap_or_else(|_| unreachable!("one segment's length fits"))
    }

    fn checked_offsets<T: Integer>(offsets: &[T], rows: u64) -> Result<Vec<u64>> {
        if offsets.is_empty() {
            return Err(Error::new(ErrorCode::OffsetsEmpty, "the offsets are empty")
                .help("n segments have n + 1 offsets; no segments at all are the one offset 0"));
        }
        let mut checked = Vec::with_capacity(offsets.len());
        let mut before = 0;
        for (index, &offset) in offsets.iter().enumerate() {
            let offset = non_negative("offsets", index, offset)?;
            if index == 0 && offset != 0 {
                return Err(Error::new(ErrorCode::OffsetsStart, format!("offsets[0] = {offset}")).at_index(0).help("offsets start at 0"));
            }
            if offset < before {
                return Err(Error::new(
                    ErrorCode::OffsetsDecrease,
                    format!("offsets[{index}] = {offset} is less than offsets[{}] = {before}", index - 1),
                )
                .at_index(widen_u64(index))
                .help("offsets never decrease"));
            }
            if offset > rows {
                return Err(past_rows(&format!("offsets[{index}] ="), index, offset, rows));
            }
            checked.push(offset);
            before = offset;
        }
        Ok(checked)
    }

    /// Offsets that were checked: from 0 to `rows`, not decreasing.
    fn of_offsets(offsets: Vec<u64>, rows: u64) -> Result<Self> {
        let mut stats = Stats::default();
        for (segment, pair) in offsets.windows(2).enumerate() {
            stats.add(segment, pair[1] - pair[0])?;
        }
        let hash = hash_of(rows, &[&offsets]);
        Ok(Segments { inner: Arc::new(Inner { form: Form::Offsets(offsets.into()), rows, stats, hash }) })
    }

    /// Ranges that were checked: start ≤ end ≤ rows.
    fn of_ranges(ranges: Vec<[u64; 2]>, rows: u64) -> Result<Self> {
        let mut stats = Stats::default();
        for (segment, [start, end]) in ranges.iter().enumerate() {
            stats.add(segment, end - start)?;
        }
        let hash = hash_of(rows, &[&[RANGES, rows], bytemuck::must_cast_slice(&ranges)]);
        Ok(Segments { inner: Arc::new(Inner { form: Form::Ranges(ranges.into()), rows, stats, hash }) })
    }

    /// How many segments there are: the row count of the level above.
    pub fn len(&self) -> u64 {
        widen_u64(match &self.inner.form {
            Form::Offsets(offsets) => offsets.len() - 1,
            Form::Ranges(ranges) => ranges.len(),
        })
    }

    /// Whether there is no segment at all (a segment without rows is another thing: see [`empty_count`](Self::empty_count)).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row count of the level below.
    pub fn rows(&self) -> u64 {
        self.inner.rows
    }

    /// The rows of segment `s`.
    ///
    /// # Panics
    /// If `s` is not below [`len`](Self::len).
    #[inline(always)]
    pub fn range(&self, s: u64) -> Range<u64> {
        let s = usize::try_from(s).expect("a segment index is below the count");
        match &self.inner.form {
            Form::Offsets(offsets) => offsets[s]..offsets[s + 1],
            Form::Ranges(ranges) => ranges[s][0]..ranges[s][1],
        }
    }

    /// The rows of every segment, in order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        let len = usize::try_from(self.len()).unwrap_or(usize::MAX);
        (0..len).map(move |s| self.range(widen_u64(s)))
    }

    /// The n + 1 offsets, where the segments partition all rows in order.
    pub fn offsets(&self) -> Option<&[u64]> {
        match &self.inner.form {
            Form::Offsets(offsets) => Some(offsets),
            Form::Ranges(_) => None,
        }
    }

    /// The `[start, end)` pairs, where the segments are not an ordered partition.
    pub fn pairs(&self) -> Option<&[[u64; 2]]> {
        match &self.inner.form {
            Form::Offsets(_) => None,
            Form::Ranges(ranges) => Some(ranges),
        }
    }

    /// Whether the segments cover every row once, in order.
    pub fn is_partition(&self) -> bool {
        self.offsets().is_some()
    }

    /// The sum of all lengths: how many rows a fold reads (more than [`rows`](Self::rows) where segments overlap).
    pub fn total_rows(&self) -> u64 {
        self.inner.stats.total
    }

    /// The length of the longest segment.
    pub fn longest(&self) -> u64 {
        self.inner.stats.longest
    }

    /// How many segments are empty.
    pub fn empty_count(&self) -> u64 {
        self.inner.stats.empty
    }

    /// The first empty segment.
    pub fn first_empty(&self) -> Option<u64> {
        self.inner.stats.first_empty
    }

    /// A hash of the content: equal tables have equal hashes, on every machine.
    pub fn hash(&self) -> u128 {
        self.inner.hash
    }

    /// The bytes that a fold reads of this table: 8 an offset, 16 a range.
    pub fn bytes(&self) -> u64 {
        match &self.inner.form {
            Form::Offsets(offsets) => 8 * widen_u64(offsets.len()),
            Form::Ranges(ranges) => 16 * widen_u64(ranges.len()),
        }
    }

    /// The segments of two levels as one: segment s of the result is what segment s of `upper` covers of the rows below `self`.
    ///
    /// # Errors
    /// `rows-mismatch` where `upper` was made for another count than `self` has segments; `graph-invalid` where `self` is not an
    /// ordered partition (then the rows of a group need not lie together).
    pub fn compose(&self, upper: &Segments) -> Result<Segments> {
        if upper.rows() != self.len() {
            return Err(Error::new(
                ErrorCode::RowsMismatch,
                format!("segments over {} rows cannot follow {} segments", upper.rows(), self.len()),
            ));
        }
        let Some(lower) = self.offsets() else {
            return Err(Error::new(ErrorCode::GraphInvalid, "only an ordered partition can be composed with the level above"));
        };
        let at = |segment: u64| lower[usize::try_from(segment).unwrap_or(usize::MAX)];
        match &upper.inner.form {
            Form::Offsets(offsets) => Self::of_offsets(offsets.iter().map(|&s| at(s)).collect(), self.rows()),
            Form::Ranges(ranges) => {
                let ranges: Vec<(u64, u64)> = ranges.iter().map(|&[start, end]| (at(start), at(end))).collect();
                Self::from_ranges(&ranges, self.rows())
            }
        }
    }
}

/// By content.
impl PartialEq for Segments {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
            || (self.hash() == other.hash()
                && self.rows() == other.rows()
                && self.offsets() == other.offsets()
                && self.pairs() == other.pairs())
    }
}

impl Eq for Segments {}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_partition() { "offsets" } else { "ranges" };
        write!(f, "Segments({kind}, {} of {} rows)", self.len(), self.rows())
    }
}

/// Begins what is hashed of ranges. A seed is not enough to tell two forms apart: in short inputs xxh3 combines it with the numbers, so that a seed and
/// a number that both differ by one may cancel out.
const RANGES: u64 = 0x6c65_7665_6c66_6f6c;

/// xxh3-128 over numbers in little-endian order, seeded by the row count: the offsets, or [`RANGES`], the row count and the ranges.
fn hash_of(rows: u64, parts: &[&[u64]]) -> u128 {
    let seed = rows.rotate_left(1);
    if let (true, [numbers]) = (cfg!(target_endian = "little"), parts) {
        return xxhash_rust::xxh3::xxh3_128_with_seed(bytemuck::must_cast_slice(numbers), seed);
    }
    let mut state = xxhash_rust::xxh3::Xxh3::with_seed(seed);
    for part in parts {
        if cfg!(target_endian = "little") {
            state.update(bytemuck::must_cast_slice(part));
        } else {
            part.iter().for_each(|number| state.update(&number.to_le_bytes()));
        }
    }
    state.digest128()
}

#[inline(always)]
fn non_negative<T: Integer>(list: &str, index: usize, value: T) -> Result<u64> {
    match value.to_u64() {
        Some(value) => Ok(value),
        None => Err(negative(list, index, &value)),
    }
}

#[cold]
fn negative(list: &str, index: usize, value: &dyn fmt::Display) -> Error {
    Error::new(ErrorCode::Negative, format!("{list}[{index}] = {value} is negative")).at_index(widen_u64(index))
}

#[cold]
fn past_rows(what: &str, index: usize, value: u64, rows: u64) -> Error {
    Error::new(ErrorCode::PastRows, format!("{what} {value}, but there are {rows} rows")).at_index(widen_u64(index))
}

#[cfg(test)]
mod tests;

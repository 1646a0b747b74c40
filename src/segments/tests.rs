//! Every form, every bad input with its words, and what a table says of itself.

use super::*;

fn refused<T: fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn five_forms_of_the_same_segments_are_equal() {
    let offsets = Segments::from_offsets(&[0i64, 2, 2, 5], 5).unwrap();
    let same = [
        Segments::from_lengths(&[2u32, 0, 3]).unwrap(),
        Segments::from_ranges(&[(0usize, 2usize), (2, 2), (2, 5)], 5).unwrap(),
        Segments::from_segment_ids(&[0i32, 0, 2, 2, 2], 3).unwrap(),
        Segments::from_boundaries(&[2u64, 2], 5).unwrap(),
        Segments::from_offsets_partial(&[0u8, 2, 2, 5], 5).unwrap(),
    ];
    for other in same {
        assert_eq!(other, offsets);
        assert_eq!(other.hash(), offsets.hash());
    }
    assert_eq!((offsets.len(), offsets.rows(), offsets.total_rows()), (3, 5, 5));
    assert_eq!((offsets.longest(), offsets.empty_count(), offsets.first_empty()), (3, 1, Some(1)));
    assert_eq!(offsets.ranges().collect::<Vec<_>>(), [0..2, 2..2, 2..5]);
    assert!(offsets.is_partition() && offsets.pairs().is_none());
    assert_eq!(offsets.bytes(), 32);
}

#[test]
fn the_hash_is_the_same_everywhere() {
    assert_eq!(format!("{:032x}", Segments::from_lengths(&[2u64, 3, 1]).unwrap().hash()), "16c42df3b6336d6e896bdc7d1449c22e");
    let ranges = Segments::from_ranges(&[(1u64, 3u64)], 4).unwrap();
    assert_ne!(ranges.hash(), Segments::from_ranges(&[(1u64, 3u64)], 5).unwrap().hash(), "the rows count");
    assert_ne!(ranges.hash(), Segments::from_ranges(&[(1u64, 4u64)], 4).unwrap().hash());
}

#[test]
fn ranges_may_leave_gaps_overlap_and_come_in_any_order() {
    let segments = Segments::from_ranges(&[(4u64, 6u64), (0, 5), (2, 2), (4, 6)], 10).unwrap();
    assert!(!segments.is_partition());
    assert_eq!((segments.len(), segments.rows(), segments.total_rows(), segments.longest()), (4, 10, 9, 5));
    assert_eq!((segments.empty_count(), segments.first_empty(), segments.bytes()), (1, Some(2), 64));
    assert_eq!(segments.range(3), 4..6);
    let partial = Segments::from_offsets_partial(&[0u64, 2, 3], 5).unwrap();
    assert_eq!(partial, Segments::from_ranges(&[(0u64, 2u64), (2, 3)], 5).unwrap());
}

#[test]
fn no_rows_and_no_segments_are_fine() {
    for segments in [
        Segments::from_offsets(&[0u64], 0).unwrap(),
        Segments::from_lengths::<u64>(&[]).unwrap(),
        Segments::from_ranges::<u64>(&[], 0).unwrap(),
        Segments::from_segment_ids::<u64>(&[], 0).unwrap(),
    ] {
        assert_eq!((segments.len(), segments.rows(), segments.longest()), (0, 0, 0));
        assert!(segments.is_empty());
    }
    assert_eq!(Segments::from_boundaries::<u64>(&[], 0).unwrap().len(), 1);
    assert_eq!(Segments::from_segment_ids::<u64>(&[], 3).unwrap().empty_count(), 3);
    assert_eq!(Segments::whole(7).range(0), 0..7);
    // No segment over some rows: nothing is covered, which only ranges may say.
    assert_eq!(Segments::from_ranges::<u64>(&[], 4).unwrap().len(), 0);
}

#[test]
fn bad_offsets_are_told_with_index_and_value() {
    let of = |offsets: &[i64], rows| refused(Segments::from_offsets(offsets, rows));
    insta::assert_snapshot!(of(&[], 3), @"the offsets are empty; n segments have n + 1 offsets; no segments at all are the one offset 0 [offsets-empty]");
    insta::assert_snapshot!(of(&[1, 3], 3), @"offsets[0] = 1; offsets start at 0 [offsets-start]");
    insta::assert_snapshot!(of(&[0, 3, 2], 3), @"offsets[2] = 2 is less than offsets[1] = 3; offsets never decrease [offsets-decrease]");
    insta::assert_snapshot!(of(&[0, 9_999_999, 4], 4), @"offsets[1] = 9999999, but there are 4 rows [past-rows]");
    insta::assert_snapshot!(of(&[0, 2], 4), @"the last offset is 2, but there are 4 rows: 2 would be dropped; end the offsets at the row count, or ask for it with the partial form [rows-not-covered]");
    insta::assert_snapshot!(of(&[0, -1, 4], 4), @"offsets[1] = -1 is negative [negative]");
    insta::assert_snapshot!(refused(Segments::from_offsets_partial(&[0i64, 5], 4)), @"offsets[1] = 5, but there are 4 rows [past-rows]");
}

#[test]
fn bad_lengths_ranges_ids_and_boundaries_are_told() {
    insta::assert_snapshot!(refused(Segments::from_lengths(&[3i64, -2])), @"lengths[1] = -2 is negative [negative]");
    insta::assert_snapshot!(refused(Segments::from_lengths(&[u64::MAX, 1])), @"the first 2 lengths add up to more than 64 bits hold [overflow]");
    insta::assert_snapshot!(refused(Segments::from_ranges(&[(0i64, 1), (3, 2)], 4)), @"range 1 starts at 3 and ends at 2; ranges are half-open, start ≤ end [range-reversed]");
    insta::assert_snapshot!(refused(Segments::from_ranges(&[(0i64, 1), (-3, 2)], 4)), @"starts[1] = -3 is negative [negative]");
    insta::assert_snapshot!(refused(Segments::from_ranges(&[(0i64, 5)], 4)), @"range 0 ends at 5, but there are 4 rows [past-rows]");
    insta::assert_snapshot!(refused(Segments::from_ranges(&[(0u64, u64::MAX), (0, u64::MAX)], u64::MAX)), @"the lengths of 2 segments do not fit 64 bits [overflow]");
    insta::assert_snapshot!(refused(Segments::from_segment_ids(&[0i64, 2, 1], 3)), @"segment_ids[2] = 1 is less than segment_ids[1] = 2; sort the rows by segment first [ids-decrease]");
    insta::assert_snapshot!(refused(Segments::from_segment_ids(&[0i64, 3], 3)), @"segment_ids[1] = 3, but there are 3 segments; ids are below the count [id-too-large]");
    insta::assert_snapshot!(refused(Segments::from_segment_ids(&[0i64, 3], 1 << 60)), @"there is no memory for the offsets of 1152921504606846976 segments; give the count of segments that there are: the last id and 1 more, or a few more where the last ones are empty [overflow]");
    assert_eq!(Segments::from_segment_ids(&[0i64, 3], u64::MAX).unwrap_err().code(), ErrorCode::Overflow);
    assert_eq!(Segments::from_segment_ids(&[0i64, 3], 1 << 46).unwrap_err().code(), ErrorCode::Overflow);
    insta::assert_snapshot!(refused(Segments::from_segment_ids(&[-1i64], 3)), @"segment_ids[0] = -1 is negative [negative]");
    insta::assert_snapshot!(refused(Segments::from_boundaries(&[3i64, 2], 4)), @"boundaries[1] = 2 is less than boundaries[0] = 3; boundaries never decrease [boundaries-decrease]");
    insta::assert_snapshot!(refused(Segments::from_boundaries(&[5i64], 4)), @"boundaries[0] = 5, but there are 4 rows [past-rows]");
    insta::assert_snapshot!(refused(Segments::from_boundaries(&[-5i64], 4)), @"boundaries[0] = -5 is negative [negative]");
}

#[test]
fn composing_takes_the_upper_segments_through_the_lower() {
    let words = Segments::from_lengths(&[2u64, 0, 3, 1]).unwrap();
    let sentences = Segments::from_lengths(&[3u64, 1]).unwrap();
    assert_eq!(words.compose(&sentences).unwrap(), Segments::from_lengths(&[5u64, 1]).unwrap());
    let reordered = Segments::from_ranges(&[(2u64, 4u64), (0, 1)], 4).unwrap();
    assert_eq!(words.compose(&reordered).unwrap(), Segments::from_ranges(&[(2u64, 6u64), (0, 2)], 6).unwrap());
    insta::assert_snapshot!(refused(words.compose(&words)), @"segments over 6 rows cannot follow 4 segments [rows-mismatch]");
    insta::assert_snapshot!(refused(reordered.compose(&Segments::whole(2))), @"only an ordered partition can be composed with the level above [graph-invalid]");
}

/// Tables are found by their hashes, so two that differ must not share one: least of all short ones, which differ in a number or two.
#[test]
fn short_tables_have_hashes_of_their_own() {
    let mut seen = std::collections::HashMap::new();
    let mut meet = |segments: Segments| {
        if let Some(other) = seen.insert(segments.hash(), segments.clone()) {
            assert_eq!(
                other,
                segments,
                "{:?} and {:?} share a hash",
                (other.offsets(), other.pairs()),
                (segments.offsets(), segments.pairs())
            );
        }
    };
    for rows in 0..40u64 {
        for first in 0..=rows {
            meet(Segments::from_offsets(&[0, rows], rows).unwrap());
            meet(Segments::from_offsets(&[0, first, rows], rows).unwrap());
            for second in first..=rows {
                meet(Segments::from_offsets(&[0, first, second, rows], rows).unwrap());
                meet(Segments::from_ranges(&[(first, second)], rows).unwrap());
                meet(Segments::from_ranges(&[(0, first), (first, second)], rows).unwrap());
                meet(Segments::from_ranges(&[(first, second), (0, rows)], rows).unwrap());
            }
        }
    }
    for rows in 0..20_000u64 {
        meet(Segments::whole(rows));
        meet(Segments::from_ranges(&[(0, 0)], rows).unwrap());
        meet(Segments::from_ranges(&[(rows, rows)], rows).unwrap());
        meet(Segments::from_offsets(&[0, rows / 2, rows], rows).unwrap());
    }
    assert!(seen.len() > 80_000, "{}", seen.len());
}

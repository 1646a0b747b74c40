//! Narrow rows and rows that lie column by column, around the edges of groups, blocks, windows and tasks: the reference's bits, on every instruction set.

use levelfold::{DType, Hierarchy, Leaves, Level, OnEmpty, Reducer, Segments};
use levelfold_conformance::Config;
use levelfold_conformance::case::Case;
use levelfold_conformance::random::Random;
use levelfold_conformance::run::Wanted;
use levelfold_conformance::tensor::{Arrangement, Fill};
use levelfold_cpu::{CpuBackend, Isa};

/// Runs of segments of one kind: without rows, of one row, short, of about a block, of several, and of more blocks than a group has.
fn segments(random: &mut Random) -> Segments {
    let mut lengths = Vec::new();
    while lengths.len() < 40 || random.chance(3) {
        const KINDS: [&[u64]; 7] = [&[1], &[0, 1], &[0], &[1, 2, 3, 5, 7, 15, 16, 17], &[31, 32, 33], &[63, 64, 65, 200], &[0, 4, 32]];
        let kinds = *random.pick(&KINDS);
        for _ in 0..1 + random.below(80) {
            lengths.push(*random.pick(kinds));
        }
        if random.chance(3) {
            lengths.push(2000 + random.below(4000));
        }
    }
    if random.chance(5) {
        // Not a partition.
        let mut start = 0;
        let ranges: Vec<(u64, u64)> = lengths
            .iter()
            .map(|length| {
                start += 1;
                (start - 1, start - 1 + length)
            })
            .collect();
        let rows = ranges.iter().map(|range| range.1).max().unwrap_or(0);
        return Segments::from_ranges(&ranges, rows).unwrap();
    }
    Segments::from_lengths(&lengths).unwrap()
}

fn hierarchy(random: &mut Random, dtype: DType, features: u64) -> Hierarchy {
    let segments = segments(random);
    let count = segments.len();
    let empty = *random.pick(&[OnEmpty::Zero, OnEmpty::NaN, OnEmpty::Fill(-1.5)]);
    let level = Level::new("a", segments).on_empty(empty);
    let level = match random.below(7) {
        0 => level.reduce(Reducer::Sum),
        1 => level.reduce(Reducer::Max),
        2 => level.reduce(Reducer::Min),
        3 => level.reduce(Reducer::Prod),
        4 => level.reduce_all(&[Reducer::Mean, Reducer::Max, Reducer::Sum]),
        5 => level.reduce(Reducer::Mean).dtype(*random.pick(&[DType::F32, DType::F64, DType::F16])),
        _ => level.reduce(Reducer::Mean),
    };
    let hierarchy = Hierarchy::new(Leaves::values("x", dtype, features)).level(level.keep());
    if random.chance(2) {
        return hierarchy;
    }
    let mut lengths = vec![count / 3, 0, 1];
    lengths.push(count - lengths.iter().sum::<u64>());
    hierarchy.level(Level::new("b", Segments::from_lengths(&lengths).unwrap()).reduce(Reducer::Sum).on_empty(OnEmpty::Zero))
}

fn check(seed: u64, arrangement: Arrangement, features: &[u64]) {
    let mut random = Random::new(seed);
    let dtype = *random.pick(&[DType::F32, DType::F64, DType::F16, DType::BF16]);
    let features = *random.pick(features);
    let hierarchy = hierarchy(&mut random, dtype, features);
    let fill = *random.pick(&[Fill::Plain, Fill::Specials, Fill::Factors, Fill::NegativeZeros]);
    let case = Case::of(format!("seed {seed}: {features} x {dtype}, {arrangement:?}, {fill:?}: {hierarchy:?}"), hierarchy);
    let case = case.seed(seed).arrange("x", arrangement).fill("x", fill);
    let wanted = Wanted::of(&case).unwrap_or_else(|error| panic!("{error}"));
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (threads, stream) in [(1, u64::MAX), (3, 0)] {
            let backend = CpuBackend::builder().isa(isa).threads(threads).small_bytes(0).stream_bytes(stream).build().unwrap();
            let config = Config { threads: Some(threads), poison: None };
            let ran = wanted.hold_against(&backend, &config).unwrap_or_else(|error| panic!("{isa}: {error}"));
            assert!(ran, "{isa} refuses it");
        }
    }
}

#[test]
fn narrow_rows_keep_every_bit() {
    for seed in 0..64 {
        check(seed, Arrangement::RowMajor, &[1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9]);
    }
}

#[test]
fn rows_that_are_folded_as_they_are_turned_keep_every_bit() {
    for seed in 0..48 {
        check(seed, Arrangement::FeatureMajor, &[2, 3, 8, 15, 16, 17, 40, 100]);
    }
}

//! Inputs that are turned, window by window: rows around the ends of windows and of squares, in every instruction set and layout.

use levelfold::{DType, Hierarchy, Leaves, Level, Reducer, Segments};
use levelfold_conformance::Config;
use levelfold_conformance::case::Case;
use levelfold_conformance::random::Random;
use levelfold_conformance::run::Wanted;
use levelfold_conformance::tensor::Arrangement;
use levelfold_cpu::{CpuBackend, Isa};

/// Short segments, now and then a long one or an empty one.
fn lengths(random: &mut Random, rows: u64) -> Vec<u64> {
    let (mut lengths, mut left) = (Vec::new(), rows);
    while left > 0 {
        let length = if random.chance(40) { 1 + random.below(200) } else { random.below(34) }.min(left);
        lengths.push(length);
        left -= length;
    }
    lengths
}

#[test]
fn windows_of_turned_rows_end_anywhere() {
    const CASES: u64 = 24;
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let dtype = *random.pick(&[DType::F32, DType::F64, DType::F16, DType::BF16]);
        // A window has 1024 rows where they are narrow, and 32 where they are widest.
        let (features, window) = *random.pick(&[(2u64, 1024u64), (5, 1024), (9, 1024), (17, 1024), (2049, 32)]);
        let rows = (1 + random.below(2)) * window + random.below(70) - 35;
        let values = Leaves::values("x", dtype, features);
        let reducer = random.pick(&[Reducer::Mean, Reducer::Max, Reducer::Sum]).clone();
        let on_empty = levelfold::OnEmpty::Zero;
        let segments = Segments::from_lengths(&lengths(&mut random, rows)).unwrap();
        let count = segments.len();
        let mut hierarchy = Hierarchy::new(values).level(Level::new("a", segments).reduce(reducer).on_empty(on_empty).keep());
        if random.chance(2) {
            hierarchy = hierarchy.level(Level::new("b", Segments::whole(count)).reduce(Reducer::Sum));
        }
        let arrangement =
            *random.pick(&[Arrangement::FeatureMajor, Arrangement::FeatureMajor, Arrangement::Strided, Arrangement::Backwards]);
        let name = format!("seed {seed}: {rows} x {features} {dtype}, {arrangement:?}");
        let case = Case::of(name, hierarchy).seed(seed).arrange("x", arrangement);
        let wanted = Wanted::of(&case).unwrap_or_else(|error| panic!("{error}"));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 2] {
                let backend = CpuBackend::builder().isa(isa).threads(threads).small_bytes(0).build().unwrap();
                let config = Config { threads: Some(threads), poison: None };
                let ran = wanted.hold_against(&backend, &config).unwrap_or_else(|error| panic!("{isa}: {error}"));
                assert!(ran, "{isa} refuses it");
            }
        }
    }
}

//! Attention over segments of all lengths side by side, in every instruction set: short ones are taken together, long ones block by block.

use levelfold::{DType, Segments};
use levelfold_conformance::Config;
use levelfold_conformance::case::Case;
use levelfold_conformance::random::Random;
use levelfold_conformance::run::Wanted;
use levelfold_conformance::tensor::{Arrangement, Fill};
use levelfold_cpu::{CpuBackend, Isa};

#[test]
fn segments_of_all_lengths_have_the_bits_of_the_reference() {
    const CASES: u64 = 24;
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let dtype = *random.pick(&[DType::F32, DType::F32, DType::F64, DType::BF16]);
        let longest = *random.pick(&[4, 9, 20, 40, 100]);
        let lengths: Vec<u64> = (0..1 + random.below(20)).map(|_| random.below(longest)).collect();
        let (heads, width) = (1 + random.below(4), *random.pick(&[1, 3, 8, 15, 16, 17, 32, 65]));
        let (causal, special) = (random.chance(2), random.chance(3));
        let segments = Segments::from_lengths(&lengths).unwrap();
        let arrangement = *random.pick(&[Arrangement::RowMajor, Arrangement::RowMajor, Arrangement::Strided, Arrangement::Backwards]);
        let name = format!("seed {seed}: {lengths:?} of {heads} x {width} {dtype}, {arrangement:?}, causal {causal}, special {special}");
        let case = Case::build(name, |graph| {
            let table = graph.table("t", &segments)?;
            let qkv = graph.input("qkv", dtype, segments.rows(), 3 * heads * width)?;
            let y = graph.attend(qkv, table, u32::try_from(heads).expect("few"), causal)?;
            graph.output("y", y)
        });
        let case = case.values(if special { Fill::Specials } else { Fill::Factors }).seed(seed).arrange("qkv", arrangement);
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

//! The kernels that are tested: one of each kind, of every type, and of every way to read.

use levelfold::DType::{self, BF16, F16, F32, F64};
use levelfold::Reducer::{self, Max, Mean, Min, Prod, Sum};
use levelfold_cuda::spec::{Access, FoldSpec, Index, ReductionSpec, Source, StageSpec};

/// A kernel, by name.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) spec: FoldSpec,
}

/// What kernels reduce by.
pub(crate) const REDUCERS: [Reducer; 5] = [Sum, Mean, Max, Min, Prod];

const LANES_16: Access = Access::Lanes { bytes: 16 };
const LANES_8: Access = Access::Lanes { bytes: 8 };
const LANES_4: Access = Access::Lanes { bytes: 4 };
const LANES_2: Access = Access::Lanes { bytes: 2 };

fn made(reducer: Reducer, dtype: DType) -> ReductionSpec {
    ReductionSpec { reducer, weighted: false, dtype }
}

fn weighted(reducer: Reducer, dtype: DType) -> ReductionSpec {
    ReductionSpec { reducer, weighted: true, dtype }
}

fn stage(feed: u32, depth: u32, reductions: &[ReductionSpec]) -> StageSpec {
    StageSpec { feed, depth, reductions: reductions.to_vec() }
}

fn one(name: &'static str, values: DType, source: Source, access: Access, reductions: &[ReductionSpec]) -> Named {
    let stages = vec![stage(0, 3, reductions)];
    Named { name, spec: FoldSpec { values, source, access, index: Index::Narrow, stages } }
}

fn chain(name: &'static str, values: DType, source: Source, access: Access, stages: &[StageSpec]) -> Named {
    Named { name, spec: FoldSpec { values, source, access, index: Index::Narrow, stages: stages.to_vec() } }
}

fn wide(mut named: Named) -> Named {
    named.spec.index = Index::Wide;
    named
}

/// All of them.
pub(crate) fn all() -> Vec<Named> {
    use Source::{Gather, Packed, Rows};
    vec![
        one("f32 sum", F32, Rows, LANES_16, &[made(Sum, F32)]),
        one("f32 mean+max+min", F32, Rows, LANES_16, &[made(Mean, F32), made(Max, F32), made(Min, F32)]),
        one("f32 weighted mean, by 8", F32, Rows, LANES_8, &[weighted(Mean, F32)]),
        one("f32 prod, by 4", F32, Rows, LANES_4, &[made(Prod, F32)]),
        one("f32 mean to bf16", F32, Rows, LANES_16, &[made(Mean, BF16)]),
        one("bf16 mean", BF16, Rows, LANES_16, &[made(Mean, BF16)]),
        one("bf16 weighted sum to f32, by 4", BF16, Rows, LANES_4, &[weighted(Sum, F32)]),
        one("bf16 max, by 2", BF16, Rows, LANES_2, &[made(Max, BF16)]),
        one("f16 mean+min", F16, Rows, LANES_16, &[made(Mean, F16), made(Min, F16)]),
        one("f16 weighted mean, by 8", F16, Rows, LANES_8, &[weighted(Mean, F16)]),
        one("f64 sum", F64, Rows, LANES_16, &[made(Sum, F64)]),
        one("f64 weighted mean to f16, by 8", F64, Rows, LANES_8, &[weighted(Mean, F16)]),
        one("f32 mean, tiles", F32, Rows, Access::Tile, &[made(Mean, F32)]),
        one("f32 weighted mean, tiles", F32, Rows, Access::Tile, &[weighted(Mean, F32)]),
        one("bf16 sum, tiles", BF16, Rows, Access::Tile, &[made(Sum, BF16)]),
        one("f64 max, tiles", F64, Rows, Access::Tile, &[made(Max, F64)]),
        one("f32 mean, looked up", F32, Gather, LANES_16, &[made(Mean, F32)]),
        one("bf16 mean+max, looked up", BF16, Gather, LANES_16, &[made(Mean, BF16), made(Max, BF16)]),
        one("f16 sum, looked up by 2", F16, Gather, LANES_2, &[made(Sum, F32)]),
        one("f32 sum, packed", F32, Packed, LANES_4, &[made(Sum, F32)]),
        one("bf16 mean, packed", BF16, Packed, LANES_2, &[made(Mean, BF16)]),
        chain("f32 mean of means", F32, Rows, LANES_16, &[stage(0, 5, &[made(Mean, F32)]), stage(0, 3, &[made(Mean, F32)])]),
        chain(
            "bf16 mean, mean+max, sum",
            BF16,
            Rows,
            LANES_16,
            &[stage(0, 5, &[made(Mean, BF16)]), stage(0, 3, &[made(Mean, BF16), made(Max, BF16)]), stage(1, 3, &[made(Sum, BF16)])],
        ),
        chain(
            "f32 max+mean, weighted mean, tiles",
            F32,
            Rows,
            Access::Tile,
            &[stage(0, 5, &[made(Max, F32), made(Mean, F32)]), stage(1, 3, &[weighted(Mean, F64)])],
        ),
        chain(
            "f32 weighted mean to f64, sum+prod, looked up",
            F32,
            Gather,
            LANES_16,
            &[stage(0, 3, &[weighted(Mean, F64)]), stage(0, 3, &[made(Sum, F32), made(Prod, F64)])],
        ),
        wide(one("f32 mean, tiles, 64 bits", F32, Rows, Access::Tile, &[made(Mean, F32)])),
        wide(chain(
            "bf16 max+sum, weighted mean, tiles, 64 bits",
            BF16,
            Rows,
            Access::Tile,
            &[stage(0, 5, &[made(Max, BF16), made(Sum, F32)]), stage(1, 3, &[weighted(Mean, F32)])],
        )),
        wide(one("f32 sum to f64, 64 bits", F32, Rows, LANES_16, &[made(Sum, F64)])),
        wide(chain(
            "f16 mean of means, looked up, 64 bits",
            F16,
            Gather,
            LANES_8,
            &[stage(0, 5, &[made(Mean, F16)]), stage(0, 3, &[made(Mean, F16)])],
        )),
    ]
}

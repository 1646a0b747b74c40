//! The kernels that are tested: one of each kind, of every type, and of every way to read.

use levelfold::DType::{self, BF16, F16, F32, F64, I64};
use levelfold::Reducer::{self, ArgMax, ArgMin, Count, First, L1, L2, Last, LogSumExp, Max, Mean, Min, Prod, SoftMax, Std, Sum, Var};
use levelfold::encoder::{Activation, ElementOp, Number};
use levelfold_cuda::spec::{Access, FoldSpec, Index, KernelSpec, ReductionSpec, Source, StageSpec};

/// A kernel, by name.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) spec: FoldSpec,
}

/// What kernels without states reduce by.
pub(crate) const REDUCERS: [Reducer; 5] = [Sum, Mean, Max, Min, Prod];

const LANES_16: Access = Access::Lanes { bytes: 16 };
const LANES_8: Access = Access::Lanes { bytes: 8 };
const LANES_4: Access = Access::Lanes { bytes: 4 };
const LANES_2: Access = Access::Lanes { bytes: 2 };

fn made(reducer: Reducer, dtype: DType) -> ReductionSpec {
    ReductionSpec { reducer, weighted: false, dtype, ops: Vec::new() }
}

fn weighted(reducer: Reducer, dtype: DType) -> ReductionSpec {
    ReductionSpec { reducer, weighted: true, dtype, ops: Vec::new() }
}

fn stage(feed: u32, depth: u32, reductions: &[ReductionSpec]) -> StageSpec {
    StageSpec { feed, ops: Vec::new(), depth, reductions: reductions.to_vec() }
}

/// The same reduction with operations on its results.
fn then(mut made: ReductionSpec, ops: &[ElementOp]) -> ReductionSpec {
    made.ops = ops.to_vec();
    made
}

/// The same stage with operations on what it folds.
fn first(ops: &[ElementOp], mut stage: StageSpec) -> StageSpec {
    stage.ops = ops.to_vec();
    stage
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

fn custom(text: &str) -> Reducer {
    text.parse().expect("a custom reducer")
}

/// The kernels of the second passes that a fold needs beside the common ones.
pub(crate) fn finishing(spec: &FoldSpec) -> Vec<KernelSpec> {
    let mut found = Vec::new();
    for reduction in spec.stages.last().iter().flat_map(|top| &top.reductions) {
        let (finish, _) = reduction.finishing();
        if finish != KernelSpec::Moves && !found.contains(&finish) {
            found.push(finish);
        }
    }
    found
}

/// Those of all folds.
pub(crate) fn all_finishing() -> Vec<KernelSpec> {
    let mut found = Vec::new();
    for finish in all().iter().flat_map(|named| finishing(&named.spec)) {
        if !found.contains(&finish) {
            found.push(finish);
        }
    }
    found
}

/// All of them.
pub(crate) fn all() -> Vec<Named> {
    plain().into_iter().chain(states()).chain(operated()).collect()
}

/// Operations on single elements, before and after.
fn operated() -> Vec<Named> {
    use Activation::{Gelu, GeluTanh, Relu, Sigmoid, Silu, Tanh};
    use ElementOp::{Activate, Cast, Scale};
    use Source::{Gather, Packed, Rows};
    let third = Scale(Number(1.0 / 3.0));
    vec![
        chain("f32 gelu, then sum", F32, Rows, LANES_16, &[first(&[Activate(Gelu)], stage(0, 3, &[made(Sum, F32)]))]),
        chain(
            "bf16 scale+relu, then mean+max, silu, cast to f32",
            BF16,
            Rows,
            LANES_16,
            &[first(
                &[third, Activate(Relu)],
                stage(0, 3, &[then(made(Mean, BF16), &[Activate(Silu), Cast(F32)]), then(made(Max, F16), &[Cast(F64), third])]),
            )],
        ),
        chain(
            "f16 sum, tanh; sigmoid, then weighted mean, scale, looked up",
            F16,
            Gather,
            LANES_8,
            &[
                stage(0, 5, &[then(made(Sum, F32), &[Activate(Tanh)])]),
                first(&[Cast(BF16), Activate(Sigmoid)], stage(0, 3, &[then(weighted(Mean, BF16), &[third, third])])),
            ],
        ),
        chain(
            "f64 gelu-tanh, then std, scale, tiles",
            F64,
            Rows,
            Access::Tile,
            &[first(&[Activate(GeluTanh)], stage(0, 3, &[then(made(Std { ddof: 0 }, F64), &[third, Cast(F16)])]))],
        ),
        chain(
            "f32 cast to f16, then prod, relu, packed",
            F32,
            Packed,
            LANES_4,
            &[first(&[Cast(F16)], stage(0, 3, &[then(made(Prod, F16), &[Activate(Relu)])]))],
        ),
    ]
}

/// Reducers with a state, and custom ones.
fn states() -> Vec<Named> {
    use Source::{Gather, Packed, Rows};
    let (var, sample) = (Var { ddof: 0 }, Std { ddof: 1 });
    let positions =
        [made(L1, F32), made(L2, F16), made(First, F32), made(Last, BF16), made(Count, F64), made(ArgMax, I64), made(ArgMin, I64)];
    let range = custom("custom(range: low from x by min(a.low, b.low); high from x by max(a.high, b.high); high - low)");
    let moments = custom(
        "custom(moments: n from w by a.n + b.n; m from x by a.m + (b.m - a.m) * (b.n / (a.n + b.n)); \
         q from 0 by a.q + b.q + (b.m - a.m) * (b.m - a.m) * (a.n * b.n / (a.n + b.n)); q / n)",
    );
    let odd = custom(
        "custom(odd: p from abs(x) - -x / 3 by a.p - 0.5 * b.p; q from exp(min(x, 1)) by max(a.q, sqrt(b.q) + a.p); p * log(q + 2))",
    );
    vec![
        one("f32 var, by 8", F32, Rows, LANES_8, &[made(var.clone(), F32)]),
        one("bf16 weighted std to f32, by 4", BF16, Rows, LANES_4, &[weighted(sample.clone(), F32)]),
        one("f64 var, tiles", F64, Rows, Access::Tile, &[made(var.clone(), F64)]),
        one("f32 logsumexp+softmax, looked up by 8", F32, Gather, LANES_8, &[made(LogSumExp, F32), weighted(SoftMax, F32)]),
        one("f16 weighted logsumexp, by 4", F16, Rows, LANES_4, &[weighted(LogSumExp, F16)]),
        one("f32 norms and positions, by 8", F32, Rows, LANES_8, &positions),
        one("f64 weighted l2+argmax, packed", F64, Packed, LANES_8, &[weighted(L2, F64), made(ArgMax, I64)]),
        one("f32 range+moments", F32, Rows, LANES_16, &[made(range, F32), weighted(moments, F32)]),
        one("bf16 odd, packed", BF16, Packed, LANES_2, &[made(odd, F32)]),
        chain(
            "f32 mean+logsumexp, std+max+count, tiles",
            F32,
            Rows,
            Access::Tile,
            &[stage(0, 5, &[made(Mean, F32), made(LogSumExp, F64)]), stage(1, 3, &[made(sample, F32), made(Max, F64), made(Count, F32)])],
        ),
        wide(chain(
            "bf16 argmin+max, weighted softmax, l2, looked up by 4, 64 bits",
            BF16,
            Gather,
            LANES_4,
            &[stage(0, 5, &[made(ArgMin, I64), made(Max, BF16)]), stage(1, 5, &[weighted(SoftMax, F32)]), stage(0, 3, &[made(L2, F32)])],
        )),
    ]
}

/// Reducers of one number a column.
fn plain() -> Vec<Named> {
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

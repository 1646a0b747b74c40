//! Runs one case on the shim: the fold, the passes over partials, the fills; and holds every byte of the results against what is wanted.

use crate::case::{Case, Target};
use crate::memory::{Block, POISON};
use crate::oracle;
use levelfold::Reducer;
use levelfold::numerics::encoders::operated;
use levelfold_cuda::args::{
    FillArgs, FinishArgs, FinishGroup, FoldArgs, MOST_REDUCTIONS, MOST_STAGES, ReductionArgs, StageArgs, move_blocks, vector_store,
};
use levelfold_cuda::spec::{
    FINISH_COLUMNS, FINISH_RADIX, FINISH_THREADS, FOLD_THREADS, FoldSpec, Index, KernelSpec, MOVE_THREADS, ReductionSpec, ddof, dtype_code,
    planes, reducer_code,
};
use levelfold_cuda_shim::{Module, Schedule};

/// The kernels that a case needs.
pub(crate) struct Kernels<'a> {
    pub(crate) fold: &'a Module,
    pub(crate) moves: &'a Module,
    /// The second passes that are not among the moves.
    pub(crate) finish: &'a [(KernelSpec, Module)],
    /// The most partials that are folded at once: fewer than a block takes make several passes of small cases.
    pub(crate) radix: u64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) launches: u64,
    pub(crate) values: u64,
}

/// Runs a case.
///
/// # Errors
/// The first thing that is wrong, in words.
pub(crate) fn run(spec: &FoldSpec, case: &mut Case, kernels: &Kernels<'_>, schedule: Schedule) -> Result<Count, String> {
    let mut count = Count::default();
    let wanted = case.wanted(spec);
    for target in case.made.iter_mut().filter_map(|made| made.target.as_mut()) {
        target.memory.bytes_mut().fill(POISON);
    }
    let indices = |numbers: &[u64]| match spec.index {
        Index::Narrow => Block::of(&numbers.iter().map(|&n| (n & 0xffff_ffff) as u32).collect::<Vec<u32>>()),
        Index::Wide => Block::of(numbers),
    };
    let offsets: Vec<Block> = case.tables.iter().map(|table| indices(&table.offsets)).collect();
    let shifts = case.tables[0].starts.as_ref().map(|starts| {
        indices(&starts.iter().zip(&case.tables[0].offsets).map(|(start, offset)| start.wrapping_sub(*offset)).collect::<Vec<_>>())
    });
    let runs = indices(&case.runs.concat());
    let top = spec.stages.len() - 1;
    let first_of_top = case.made.len() - spec.stages[top].reductions.len();
    let pieces: u64 = case.long.iter().map(|(_, _, pieces)| pieces).sum();
    let features = case.features as u64;
    let trees: Vec<u64> =
        spec.stages.iter().flat_map(|stage| &stage.reductions).map(|reduction| u64::from(planes(&reduction.reducer).tree)).collect();
    let partials: Vec<Block> = trees.iter().map(|tree| Block::poisoned(small(pieces * tree * features * 8))).collect();
    let weights: Vec<Block> = (0..case.made.len()).map(|_| Block::poisoned(small(pieces * 8))).collect();
    let run_count = case.runs.len() as u64 - 1;
    if let (1.., Some(geometry)) = (run_count, spec.geometry(features, run_count)) {
        let none = ReductionArgs {
            weights: 0,
            weight_stride: 0,
            out: 0,
            out_row_stride: 0,
            out_column_stride: 0,
            partials: 0,
            weight_partials: 0,
            fill: 0.0,
            weight_type: 0,
            vector_store: 0,
            ddof: 0,
            reserved: 0,
        };
        let mut args = FoldArgs {
            values: case.values.address() + case.first as u64,
            row_stride: case.row_stride,
            column_stride: case.column_stride,
            ids: case.ids.as_ref().map_or(0, |(_, memory, _)| memory.address()),
            id_stride: case.ids.as_ref().map_or(0, |(_, _, bytes)| i64::from(*bytes)),
            runs: runs.address(),
            shifts: shifts.as_ref().map_or(0, Block::address),
            run_count: u32::try_from(run_count).expect("few"),
            id_bytes: case.ids.as_ref().map_or(0, |(_, _, bytes)| *bytes),
            features: u32::try_from(features).expect("few"),
            lanes: geometry.lanes,
            slabs: geometry.slabs,
            piece_blocks: u32::try_from(case.piece_blocks).expect("few"),
            stages: [StageArgs { offsets: 0 }; MOST_STAGES],
            reductions: [none; MOST_REDUCTIONS],
        };
        for (stage, offsets) in offsets.iter().enumerate() {
            args.stages[stage].offsets = offsets.address();
        }
        let reductions = spec.stages.iter().flat_map(|stage| &stage.reductions);
        for (index, (made, reduction)) in case.made.iter().zip(reductions).enumerate() {
            let to = &mut args.reductions[index];
            if let Some(column) = &made.weights {
                (to.weights, to.weight_stride, to.weight_type) = (column.memory.address(), column.stride as i64, dtype_code(column.dtype));
            }
            if let Some(target) = &made.target {
                to.out = target.memory.address() + target.first as u64;
                (to.out_row_stride, to.out_column_stride) = (target.row_stride as i64, target.column_stride as i64);
                let size = u32::try_from(reduction.made().size()).expect("small");
                let whole = vector_store(to.out, to.out_row_stride, to.out_column_stride, size, spec.vector());
                to.vector_store = u32::from(whole);
            }
            if index >= first_of_top && pieces > 0 {
                to.partials = partials[index].address();
                to.weight_partials = weights[index].address();
            }
            to.fill = made.fill;
            to.ddof = ddof(&reduction.reducer);
        }
        // SAFETY: every address is a block of this function or of the case, of the sizes that the interface asks for.
        unsafe { kernels.fold.kernel("lf_fold")?.launch(geometry.blocks, FOLD_THREADS, spec.shared_bytes(), &args, schedule) }?;
        count.launches += 1;
    }
    for (index, reduction) in spec.stages[top].reductions.iter().enumerate() {
        let made = &case.made[first_of_top + index];
        let Some(target) = &made.target else { continue };
        let weighted = reduction.weighted && reduction.reducer == Reducer::Mean;
        let (partials, weights) = (&partials[first_of_top + index], weighted.then_some(&weights[first_of_top + index]));
        let base = FinishArgs {
            source: 0,
            weight_source: 0,
            target: 0,
            weight_target: 0,
            groups: 0,
            out: target.memory.address() + target.first as u64,
            out_row_stride: target.row_stride as i64,
            out_column_stride: target.column_stride as i64,
            features: u32::try_from(features).expect("few"),
            reducer: reducer_code(&reduction.reducer),
            out_type: dtype_code(reduction.made()),
            ddof: ddof(&reduction.reducer),
        };
        let tree = trees[first_of_top + index];
        count.launches += finish(case, top, base, reduction, tree, partials, weights, kernels, schedule)?;
        let empty: Vec<u64> = (0..case.tables[top].len()).filter(|&s| case.tables[top].range(s).is_empty()).map(|s| s as u64).collect();
        if !empty.is_empty() {
            let rows = Block::of(&empty);
            let args = FillArgs {
                rows: rows.address(),
                count: empty.len() as u64,
                out: base.out,
                out_row_stride: base.out_row_stride,
                out_column_stride: base.out_column_stride,
                fill: match reduction.ops.is_empty() {
                    true => made.fill,
                    false => {
                        let rounded = oracle::number(reduction.dtype, oracle::nearest(reduction.dtype, made.fill));
                        operated(&reduction.ops, reduction.dtype, rounded)
                    }
                },
                features: base.features,
                out_type: base.out_type,
            };
            let blocks = move_blocks(args.count, features);
            // SAFETY: as above.
            unsafe { kernels.moves.kernel("lf_fill")?.launch(blocks, MOVE_THREADS, 0, &args, schedule) }?;
            count.launches += 1;
        }
    }
    let reductions = spec.stages.iter().flat_map(|stage| &stage.reductions);
    for (index, (made, reduction)) in case.made.iter().zip(reductions).enumerate() {
        let Some(target) = &made.target else { continue };
        compare(target, reduction.made(), &wanted[index]).map_err(|error| format!("reduction {index} ({}): {error}", reduction.reducer))?;
        count.values += wanted[index].iter().map(|row| row.len() as u64).sum::<u64>();
    }
    Ok(count)
}

/// The passes over the partials of one reduction.
#[allow(clippy::too_many_arguments, reason = "a second pass is told all of it")]
fn finish(
    case: &Case,
    top: usize,
    mut args: FinishArgs,
    reduction: &ReductionSpec,
    tree: u64,
    partials: &Block,
    weights: Option<&Block>,
    kernels: &Kernels<'_>,
    schedule: Schedule,
) -> Result<u64, String> {
    let features = case.features as u64;
    let mut left = case.long.clone();
    let mut kept: Vec<(Block, Block)> = Vec::new();
    (args.source, args.weight_source) = (partials.address(), weights.map_or(0, Block::address));
    let mut launches = 0;
    while !left.is_empty() {
        let (mut groups, mut next, mut made) = (Vec::new(), Vec::new(), 0);
        for &(segment, first, count) in &left {
            let range = case.tables[top].range(usize::try_from(segment).expect("an index"));
            let rows = range.end - range.start;
            if count <= kernels.radix {
                groups.push(FinishGroup { first, to: segment, rows, count: u32::try_from(count).expect("few"), last: 1 });
                continue;
            }
            next.push((segment, made, count.div_ceil(kernels.radix)));
            let mut at = 0;
            while at < count {
                let taken = (count - at).min(kernels.radix);
                groups.push(FinishGroup { first: first + at, to: made, rows, count: u32::try_from(taken).expect("few"), last: 0 });
                made += 1;
                at += taken;
            }
        }
        let (target, weight_target) = (Block::poisoned(small(made * tree * features * 8)), Block::poisoned(small(made * 8)));
        let list = Block::of(&groups);
        args.groups = list.address();
        (args.target, args.weight_target) = (target.address(), weight_target.address());
        let blocks = u32::try_from(groups.len() as u64 * features.div_ceil(FINISH_COLUMNS)).expect("few");
        let (of, entry) = reduction.finishing();
        let kernel = kernels.finish.iter().find(|(finish, _)| *finish == of).map_or(kernels.moves, |(_, finish)| finish).kernel(entry)?;
        // SAFETY: every address is a block of the sizes that the interface asks for.
        unsafe { kernel.launch(blocks, FINISH_THREADS, 0, &args, schedule) }?;
        launches += 1;
        args.source = target.address();
        args.weight_source = if weights.is_some() { weight_target.address() } else { 0 };
        kept.push((target, weight_target));
        left = next;
    }
    assert!(kernels.radix <= FINISH_RADIX, "a block takes no more");
    Ok(launches)
}

/// Every element, and every byte between them.
fn compare(target: &Target, dtype: levelfold::DType, wanted: &[Vec<u64>]) -> Result<(), String> {
    let size = dtype.size();
    let mut bytes = vec![POISON; target.memory.bytes().len()];
    for (segment, row) in wanted.iter().enumerate() {
        for (feature, &bits) in row.iter().enumerate() {
            let at = target.first + segment * target.row_stride + feature * target.column_stride;
            let found = target.memory.get(at, size);
            if found != bits {
                let (found, wanted) = (oracle::number(dtype, found), oracle::number(dtype, bits));
                return Err(format!("segment {segment}, feature {feature} is {found:?}, and not {wanted:?} ({bits:#x})"));
            }
            bytes[at..at + size].copy_from_slice(&bits.to_le_bytes()[..size]);
        }
    }
    if bytes != target.memory.bytes() {
        return Err("bytes between the results were written".to_owned());
    }
    Ok(())
}

fn small(bytes: u64) -> usize {
    usize::try_from(bytes).expect("small")
}

//! What plans for this backend may contain. Known without a device, so that plans are made and read anywhere.

use crate::args::{MOST_MAP_OPS, MOST_MAP_OTHERS, MOST_REDUCTIONS, MOST_STAGES};
use levelfold::backend::{FusionLimits, Target};
use levelfold::encoder::{ElementOp, Encoding, Kernel, RowOp};
use levelfold::ids::ViewId;
use levelfold::plan::{CopyKind, Encode, Fold, Load, StepKind};
use levelfold::reducer::ReducerClass;
use levelfold::{DType, Reducer};

/// Arena buffers begin where a whole row of a warp's reads does.
const ALIGN: u64 = 256;

/// The most stages of a fold that go over their blocks twice: each holds 32 KiB of rows.
const MOST_AGAIN: usize = 2;

/// What such a stage holds at most, and what arrives of the rows that are read by single elements.
const HELD_BYTES: u32 = 32 << 10;

/// What the planner knows of this backend. The same for every device of compute capability 8.0 or later, so plans are too.
///
/// A unit of a fused fold is folded by one group of lanes, and a device runs thousands of those at once: so levels are fused while the largest unit is a few hundred
/// rows, or a quarter of what a warp of a large device (132 multiprocessors of 24 warps) gets of all rows.
pub fn target() -> Target {
    let fusion =
        FusionLimits { unit_rows: 512, unit_share: 4 * 132 * 24, stages: MOST_STAGES, reductions: MOST_REDUCTIONS, again: MOST_AGAIN };
    Target { align: ALIGN, fusion, tiles: None, element_op: |_| true, supports, ..Target::new(crate::NAME) }
}

/// The same for a device whose blocks have so many bytes of shared memory: levels that hold their blocks are fused as far as they fit.
pub(crate) fn target_of(shared_bytes: u32) -> Target {
    let target = target();
    let held = usize::try_from((shared_bytes / HELD_BYTES).saturating_sub(1)).unwrap_or(MOST_AGAIN);
    Target { fusion: FusionLimits { again: target.fusion.again.min(held), ..target.fusion }, ..target }
}

fn supports(step: &StepKind) -> Result<(), String> {
    match step {
        StepKind::Fold(fold) => supports_fold(fold),
        StepKind::Copy(copy) => match copy.what {
            CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Rows | CopyKind::Gather | CopyKind::Columns => Ok(()),
        },
        StepKind::Encode(encode) => supports_encode(encode),
    }
}

/// Operations on single elements and sums of rows run where no fold takes them.
fn supports_encode(encode: &Encode) -> Result<(), String> {
    let Encoding { kernel, ops } = &encode.encoding;
    match kernel {
        Kernel::Map { .. } => {}
        Kernel::MatMul { .. } | Kernel::Attend { .. } | Kernel::Convolve { .. } => {
            return Err(format!("encoders ({}) have no kernels on the CUDA backend", kernel.name()));
        }
    }
    let unknown = |op: &&RowOp<ViewId>| !matches!(op, RowOp::Add(_)) && ElementOp::of(op).is_none();
    if let Some(op) = ops.iter().find(unknown) {
        return Err(format!("encoders ({}) have no kernels on the CUDA backend", op.name()));
    }
    let others = ops.iter().filter(|op| matches!(op, RowOp::Add(_))).count();
    if ops.len() > MOST_MAP_OPS || others > MOST_MAP_OTHERS {
        let limits = format!("CUDA kernels do up to {MOST_MAP_OPS}, and add up to {MOST_MAP_OTHERS} other rows");
        return Err(format!("it does {} operations in one step, {others} of them sums; {limits}", ops.len()));
    }
    Ok(())
}

fn supports_fold(fold: &Fold) -> Result<(), String> {
    if let Load::Histogram { .. } = fold.load {
        return Err("counting ids has no kernel on the CUDA backend".to_owned());
    }
    if fold.stages.len() > MOST_STAGES {
        return Err(format!("it folds {} levels in one step; CUDA kernels take up to {MOST_STAGES}", fold.stages.len()));
    }
    let reductions: Vec<_> = fold.stages.iter().flat_map(|stage| &stage.reductions).collect();
    if reductions.len() > MOST_REDUCTIONS {
        return Err(format!("it makes {} reductions in one step; CUDA kernels take up to {MOST_REDUCTIONS}", reductions.len()));
    }
    for reduction in reductions {
        // What is written in Rust runs where Rust runs.
        if let Reducer::Named(_) = reduction.reducer {
            return Err(format!("`{}` has no kernel on the CUDA backend", reduction.reducer));
        }
        if let Some(op) = reduction.ops.first().filter(|_| !reduction.dtype.is_float()) {
            return Err(format!("`{op}` of what is no number of a row has no kernel on the CUDA backend"));
        }
        match reduction.reducer.class() {
            ReducerClass::Plain | ReducerClass::State => {}
            ReducerClass::Select => return Err(format!("`{}` has no kernel on the CUDA backend", reduction.reducer)),
        }
        match reduction.dtype {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {}
            DType::I64 if reduction.reducer.gives_positions() => {}
            DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => {
                return Err(format!("a level of {} holds no values", reduction.dtype));
            }
        }
    }
    let again = fold.stages.iter().filter(|stage| stage.reductions.iter().any(|reduction| reduction.reducer.passes() > 1)).count();
    if again > MOST_AGAIN {
        return Err(format!("it goes over the blocks of {again} levels twice in one step; CUDA kernels hold those of up to {MOST_AGAIN}"));
    }
    Ok(())
}

//! What a plan's steps need on the device beside its buffers, once its tables are known: tables, cuts, scratch. Nothing here depends on what is bound.

use crate::args::FinishGroup;
use crate::cuts::{self, Cuts, Grain};
use crate::device::{Device, Stream};
use crate::pool::{Pool, Taken};
use crate::spec::{Access, FINISH_COLUMNS, FoldSpec, Index, ReductionSpec, Source, StageSpec, depth, planes, specialised};
use crate::staging::Staging;
use crate::tables::{DeviceTables, Part, bytes_of};
use levelfold::backend::TableSet;
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::plan::{CopyKind, Fold, Load, Order, Plan, Reduction, StepKind, ViewLayout};
use levelfold::segments::Segments;
use std::sync::Arc;

/// Every allocation and every list on the device begins at a multiple of this.
pub(crate) const ALIGN: u64 = 256;

/// A step, with its tables.
pub(crate) enum StepWork {
    Fold(Box<FoldWork>),
    Copy(CopyWork),
    /// Operations on rows, which need nothing.
    Map,
}

/// A fold, with its tables.
pub(crate) struct FoldWork {
    pub(crate) index: Index,
    pub(crate) grain: Grain,
    /// Of each stage: where segments begin.
    pub(crate) starts: Vec<Arc<Taken>>,
    /// Of stage 0.
    pub(crate) shifts: Option<Arc<Taken>>,
    /// Where stage 0's starts and shifts lie as 64-bit numbers, where weights have to be put in order first.
    pub(crate) wide: Option<(Arc<Taken>, Arc<Taken>)>,
    pub(crate) runs: u64,
    pub(crate) positions: u64,
    /// Offsets into the constants.
    pub(crate) records: u64,
    pub(crate) empty: u64,
    pub(crate) empty_count: u64,
    pub(crate) passes: Vec<PassWork>,
    /// Rows of the topmost stage that the second pass writes.
    pub(crate) long: u64,
    /// Scratch, one entry a reduction of the topmost stage.
    pub(crate) scratch: Vec<ReductionScratch>,
    /// Scratch: weights of stage 0 by position, one entry a reduction, where they need that.
    pub(crate) ordered_weights: Vec<Option<u64>>,
}

/// A pass over partials: offsets into the constants, and counts.
pub(crate) struct PassWork {
    pub(crate) groups: u64,
    pub(crate) count: u64,
    /// Segments that it finishes.
    pub(crate) finishes: u64,
}

/// Offsets into the scratch.
pub(crate) struct ReductionScratch {
    /// Partials, and then what each pass but the last makes: values and Σw.
    pub(crate) rows: Vec<(u64, u64)>,
}

/// A copy, with its table.
pub(crate) struct CopyWork {
    pub(crate) starts: Option<Arc<Taken>>,
    pub(crate) shifts: Option<Arc<Taken>>,
}

/// All steps, and what they share.
pub(crate) struct Work {
    pub(crate) steps: Vec<StepWork>,
    /// Runs, groups and lists of empty segments, one after the other.
    pub(crate) constants: Vec<u8>,
    /// Bytes of the scratch that steps use one after the other.
    pub(crate) scratch_bytes: u64,
}

/// What brings tables to the device.
pub(crate) struct Bringing<'a> {
    pub(crate) device: &'a Device,
    pub(crate) tables: &'a DeviceTables,
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) stream: &'a Stream,
    pub(crate) staging: &'a mut Staging,
}

impl Bringing<'_> {
    fn part(&mut self, segments: &Segments, part: Part, index: Index) -> Result<Option<Arc<Taken>>> {
        self.tables.get(segments, part, index, self.pool, self.stream, self.staging)
    }

    fn starts(&mut self, segments: &Segments, index: Index) -> Result<Arc<Taken>> {
        let starts = self.part(segments, Part::Starts, index)?;
        starts.ok_or_else(|| Error::new(ErrorCode::Internal, "a table has no starts"))
    }
}

/// The steps of a plan, with its tables.
///
/// # Errors
/// `unsupported` for more columns than a launch takes; what the device says.
pub(crate) fn prepare(plan: &Plan, tables: &TableSet, bringing: &mut Bringing<'_>) -> Result<Work> {
    let mut work = Work { steps: Vec::with_capacity(plan.steps.len()), constants: Vec::new(), scratch_bytes: 0 };
    for step in &plan.steps {
        let made = match &step.kind {
            StepKind::Fold(fold) => StepWork::Fold(Box::new(fold_work(plan, fold, tables, bringing, &mut work)?)),
            StepKind::Copy(copy) => StepWork::Copy(match copy.what {
                CopyKind::Segments { table } | CopyKind::Spread { table } => {
                    let table = tables.get(table);
                    CopyWork {
                        starts: Some(bringing.starts(table, Index::Wide)?),
                        shifts: bringing.part(table, Part::Shifts, Index::Wide)?,
                    }
                }
                CopyKind::Rows | CopyKind::Gather | CopyKind::Columns => CopyWork { starts: None, shifts: None },
            }),
            StepKind::Encode(_) => StepWork::Map,
        };
        work.steps.push(made);
    }
    Ok(work)
}

impl Work {
    /// The offset of more constants.
    fn constant(&mut self, bytes: &[u8]) -> u64 {
        let start = self.constants.len().next_multiple_of(usize::try_from(ALIGN).unwrap_or(256));
        self.constants.resize(start, 0);
        self.constants.extend_from_slice(bytes);
        crate::wide(start)
    }
}

/// The bytes of a row of what a fold reads, and its columns.
fn row_of(plan: &Plan, fold: &Fold) -> (u64, u64) {
    let view = fold.load.values();
    let features = plan.view(view).features;
    (features.saturating_mul(plan.buffer_of(view).dtype.size_u64()), features)
}

/// How a fold is cut: by facts of the plan and the device.
pub(crate) fn grain(plan: &Plan, fold: &Fold, multiprocessors: u32) -> Grain {
    let mut stages = fold.stages.iter().map(|stage| plan.table(stage.table));
    let work = stages.clone().fold(0u64, |work, table| work.saturating_add(table.total_rows).saturating_add(table.segments));
    let top_rows = stages.next_back().map_or(0, |table| table.total_rows);
    Grain::choose(work, top_rows, row_of(plan, fold).0, multiprocessors)
}

/// The bytes of scratch that a plan's folds need at most: known before its tables are.
pub(crate) fn most_scratch(plan: &Plan, multiprocessors: u32) -> u64 {
    let of_fold = |fold: &Fold| {
        let Some(top) = fold.stages.last() else { return 0 };
        let trees = top.reductions.iter().map(|reduction| u64::from(planes(&reduction.reducer).tree));
        let table = plan.table(top.table);
        let pieces = grain(plan, fold, multiprocessors).most_pieces(table.total_rows, table.longest);
        let rows = pieces.saturating_add(pieces / 128);
        let (_, features) = row_of(plan, fold);
        let numbers = trees.map(|tree| features.saturating_mul(tree).saturating_add(1)).fold(0, u64::saturating_add);
        rows.saturating_mul(numbers).saturating_mul(8)
    };
    let steps = plan.steps.iter().map(|step| match &step.kind {
        StepKind::Fold(fold) => of_fold(fold),
        StepKind::Copy(_) | StepKind::Encode(_) => 0,
    });
    steps.max().unwrap_or(0)
}

/// What a fold is specialised by. `access` chooses how rows are read, from the most bytes that a lane should read of one.
pub(crate) fn spec_of(
    plan: &Plan,
    fold: &Fold,
    grain: Grain,
    index: Index,
    source: Source,
    access: impl FnOnce(u32) -> Access,
) -> FoldSpec {
    let values = fold.load.values();
    let last = fold.stages.len().saturating_sub(1);
    let stages = fold.stages.iter().enumerate().map(|(number, stage)| StageSpec {
        feed: stage.feed,
        ops: stage.ops.to_vec(),
        depth: depth(if number == last { grain.piece_rows() } else { plan.table(stage.table).longest }),
        reductions: stage.reductions.iter().map(reduction_spec).collect(),
    });
    let (values, stages) = (plan.buffer_of(values).dtype, stages.collect::<Vec<_>>());
    FoldSpec { values, source, access: access(FoldSpec::most_bytes(values, &stages)), index, stages }
}

/// A fold that reads its rows by single elements: what takes the most threads, and the least shared memory.
pub(crate) fn narrowest_spec(plan: &Plan, fold: &Fold, grain: Grain) -> FoldSpec {
    let size = plan.buffer_of(fold.load.values()).dtype.size();
    let narrowest = Access::Lanes { bytes: u32::try_from(size).unwrap_or(8) };
    spec_of(plan, fold, grain, index_of(plan, fold), source_of(plan, fold).0, |_| narrowest)
}

/// What a reduction is specialised by.
pub(crate) fn reduction_spec(reduction: &Reduction) -> ReductionSpec {
    ReductionSpec {
        reducer: specialised(&reduction.reducer),
        weighted: reduction.weights.is_some(),
        dtype: reduction.dtype,
        ops: reduction.ops.to_vec(),
    }
}

/// How wide positions, rows and segments of a fold are.
pub(crate) fn index_of(plan: &Plan, fold: &Fold) -> Index {
    let narrow = |count: u64| count <= u64::from(u32::MAX);
    let fits = fold.stages.iter().map(|stage| plan.table(stage.table));
    if fits.into_iter().all(|table| narrow(table.rows) && narrow(table.total_rows) && narrow(table.segments)) {
        Index::Narrow
    } else {
        Index::Wide
    }
}

/// The kind of source of a fold, and whether its rows are positions.
pub(crate) fn source_of(plan: &Plan, fold: &Fold) -> (Source, bool) {
    match fold.load {
        // A histogram is refused when a plan is compiled.
        Load::Gather { .. } | Load::Histogram { .. } => (Source::Gather, false),
        Load::View { values } => match plan.view(values).layout {
            ViewLayout::Packed { order: Order::FeatureMajor, .. } => (Source::Packed, false),
            ViewLayout::Packed { order: Order::RowMajor, .. } => (Source::Rows, true),
            ViewLayout::Rows => {
                let partition =
                    fold.stages.first().is_some_and(|stage| plan.table(stage.table).form == levelfold::plan::TableForm::Offsets);
                (Source::Rows, partition)
            }
        },
    }
}

fn fold_work(plan: &Plan, fold: &Fold, tables: &TableSet, bringing: &mut Bringing<'_>, work: &mut Work) -> Result<FoldWork> {
    let chain: Vec<&Segments> = fold.stages.iter().map(|stage| tables.get(stage.table)).collect();
    let index = index_of(plan, fold);
    let (_, features) = row_of(plan, fold);
    let mut grain = grain(plan, fold, bringing.device.multiprocessors);
    let mut cut = cuts::cut(&chain, grain);
    // With the narrowest reads there are the most threads, so what fits then always fits.
    let spec = narrowest_spec(plan, fold, grain);
    while features > 0 && cut.runs > 0 && spec.geometry(features, cut.runs).is_none() {
        if cut.runs == 1 {
            return Err(too_wide(features));
        }
        grain.run = grain.run.saturating_mul(4);
        cut = cuts::cut(&chain, grain);
    }
    let slabs = features.div_ceil(FINISH_COLUMNS);
    if cut.passes.iter().any(|pass| crate::wide(pass.groups.len()).saturating_mul(slabs) > u64::from(u32::MAX >> 1)) {
        return Err(too_wide(features));
    }
    let packed_rows = match fold.load {
        Load::View { values } => matches!(plan.view(values).layout, ViewLayout::Packed { order: Order::RowMajor, .. }),
        Load::Gather { .. } | Load::Histogram { .. } => false,
    };
    let first = chain.first().ok_or_else(|| Error::new(ErrorCode::PlanInvalid, "a fold has no stage"))?;
    let mut starts = Vec::with_capacity(chain.len());
    for table in &chain {
        starts.push(bringing.starts(table, index)?);
    }
    // Packed rows are read by position, whatever their table; their weights stand by row, so they are put in order.
    let shifts = if packed_rows { None } else { bringing.part(first, Part::Shifts, index)? };
    let reorder = packed_rows && !first.is_partition() && fold.stages[0].reductions.iter().any(|reduction| reduction.weights.is_some());
    let wide = if reorder {
        let shifts = bringing.part(first, Part::Shifts, Index::Wide)?;
        shifts.map(|shifts| Ok::<_, Error>((bringing.starts(first, Index::Wide)?, shifts))).transpose()?
    } else {
        None
    };
    let mut made = FoldWork {
        index,
        grain,
        starts,
        shifts,
        wide,
        runs: cut.runs,
        positions: cut.positions,
        records: work.constant(&bytes_of(&cut.records, index)),
        empty: work.constant(&bytes_of(&cut.empty, Index::Wide)),
        empty_count: crate::wide(cut.empty.len()),
        passes: Vec::with_capacity(cut.passes.len()),
        long: 0,
        scratch: Vec::new(),
        ordered_weights: Vec::new(),
    };
    for pass in &cut.passes {
        let finishes = crate::wide(pass.groups.iter().filter(|group| group.last == 1).count());
        let bytes: Vec<u8> = pass.groups.iter().flat_map(bytes_of_group).collect();
        made.passes.push(PassWork { groups: work.constant(&bytes), count: crate::wide(pass.groups.len()), finishes });
        made.long += finishes;
    }
    work.scratch_bytes = work.scratch_bytes.max(scratch(plan, fold, &cut, features, &mut made)?);
    Ok(made)
}

/// Lays out the scratch of a fold, and tells how much it is.
fn scratch(plan: &Plan, fold: &Fold, cut: &Cuts, features: u64, made: &mut FoldWork) -> Result<u64> {
    let mut end = 0u64;
    let mut take = |count: u64, size: u64| {
        let start = end;
        end = count
            .checked_mul(size)
            .and_then(|bytes| start.checked_add(bytes))
            .and_then(|end| end.checked_next_multiple_of(ALIGN))
            .ok_or_else(|| Error::new(ErrorCode::Overflow, "the scratch of a fold cannot be addressed"))?;
        Ok::<u64, Error>(start)
    };
    if cut.pieces > 0 {
        for reduction in &fold.stages[fold.stages.len() - 1].reductions {
            let numbers = features.saturating_mul(u64::from(planes(&reduction.reducer).tree));
            let mut rows = vec![(take(cut.pieces.saturating_mul(numbers), 8)?, take(cut.pieces, 8)?)];
            for pass in cut.passes.iter().filter(|pass| pass.rows > 0) {
                rows.push((take(pass.rows.saturating_mul(numbers), 8)?, take(pass.rows, 8)?));
            }
            made.scratch.push(ReductionScratch { rows });
        }
    }
    for reduction in &fold.stages[0].reductions {
        made.ordered_weights.push(match (&made.wide, reduction.weights) {
            (Some(_), Some(weights)) => Some(take(cut.positions, plan.buffer_of(weights).dtype.size_u64())?),
            (None, _) | (_, None) => None,
        });
    }
    Ok(end)
}

fn bytes_of_group(group: &FinishGroup) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&group.first.to_ne_bytes());
    bytes[8..16].copy_from_slice(&group.to.to_ne_bytes());
    bytes[16..24].copy_from_slice(&group.rows.to_ne_bytes());
    bytes[24..28].copy_from_slice(&group.count.to_ne_bytes());
    bytes[28..].copy_from_slice(&group.last.to_ne_bytes());
    bytes
}

fn too_wide(features: u64) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{features} features are more than one launch takes")).help("fold the columns in parts")
}

//! The launches of a plan over places: which kernel, how many blocks, with which arguments. Made anew when something is bound elsewhere.

use crate::args::{
    CopyArgs, FillArgs, FinishArgs, FoldArgs, MOST_REDUCTIONS, MOST_STAGES, MapArgs, ReductionArgs, StageArgs, move_blocks, vector_store,
};
use crate::device::Stream;
use crate::modules::{Function, Kernels};
use crate::places::Place;
use crate::pool::Taken;
use crate::spec::{
    Access, FINISH_COLUMNS, FINISH_THREADS, FOLD_THREADS, Geometry, KernelSpec, MOVE_THREADS, ddof, dtype_code, reducer_code,
};
use crate::work::{CopyWork, FoldWork, StepWork, Work, reduction_spec, source_of, spec_of};
use levelfold::backend::TableSet;
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::ids::ViewId;
use levelfold::numerics::encoders::{operated, rounded};
use levelfold::plan::{Copy, CopyKind, Cost, Fold, Order, Plan, Reduction, Stage, StepKind};
use levelfold::{DType, Reducer};

/// A launch.
pub(crate) struct Launch {
    pub(crate) function: Function,
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) shared: u32,
    pub(crate) args: Args,
}

pub(crate) enum Args {
    Fold(Box<FoldArgs>),
    Finish(FinishArgs),
    Fill(FillArgs),
    Copy(CopyArgs),
    Map(Box<MapArgs>),
}

/// The launches of one step, and the bytes that they move.
pub(crate) struct StepLaunches {
    pub(crate) launches: Vec<Launch>,
    /// Read and written bytes, by the rules of [`Cost`].
    pub(crate) read: u64,
    pub(crate) written: u64,
}

impl Launch {
    /// Puts it on a stream.
    ///
    /// # Safety
    /// Everything that its arguments point to stays until the stream has passed it.
    pub(crate) unsafe fn put(&self, stream: &Stream) -> Result<()> {
        let grid = [self.blocks, 1];
        // SAFETY: the caller's promise; each entry gets the structure that `spec` names for it.
        unsafe {
            match &self.args {
                Args::Fold(args) => self.function.launch(stream, grid, self.threads, self.shared, &**args),
                Args::Finish(args) => self.function.launch(stream, grid, self.threads, self.shared, args),
                Args::Fill(args) => self.function.launch(stream, grid, self.threads, self.shared, args),
                Args::Copy(args) => self.function.launch(stream, grid, self.threads, self.shared, args),
                Args::Map(args) => self.function.launch(stream, grid, self.threads, self.shared, &**args),
            }
        }
    }
}

/// What launches are made from.
pub(crate) struct Maker<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) tables: &'a TableSet,
    pub(crate) kernels: &'a Kernels,
    pub(crate) work: &'a Work,
    pub(crate) places: &'a [Place],
    /// The address of the constants.
    pub(crate) constants: u64,
    /// The address of the scratch.
    pub(crate) scratch: u64,
}

impl Maker<'_> {
    /// The launches of every step.
    ///
    /// # Errors
    /// What the compiler or the device says.
    pub(crate) fn make(&self) -> Result<Vec<StepLaunches>> {
        let steps = self.plan.steps.iter().zip(&self.work.steps);
        steps
            .map(|(step, work)| match (&step.kind, work) {
                (StepKind::Fold(fold), StepWork::Fold(work)) => self.fold(fold, work, step.cost),
                (StepKind::Copy(copy), StepWork::Copy(work)) => self.copy(copy, work),
                (StepKind::Encode(encode), StepWork::Map) => self.map(encode),
                (StepKind::Fold(_) | StepKind::Copy(_) | StepKind::Encode(_), _) => {
                    Err(Error::new(ErrorCode::Internal, "steps and their work do not fit together"))
                }
            })
            .collect()
    }

    pub(crate) fn place(&self, view: ViewId) -> &Place {
        &self.places[view.index()]
    }

    fn moves(&self, entry: &str, blocks: u32, args: Args) -> Result<Launch> {
        Ok(Launch { function: self.kernels.get(&KernelSpec::Moves, entry)?, blocks, threads: MOVE_THREADS, shared: 0, args })
    }

    fn fold(&self, fold: &Fold, work: &FoldWork, cost: Cost) -> Result<StepLaunches> {
        let (values, ids) = (self.place(fold.load.values()), fold.load.ids().map(|ids| self.place(ids)));
        let features = values.features;
        let mut made = StepLaunches { launches: Vec::new(), read: 0, written: 0 };
        if features == 0 {
            // Rows without columns: nothing is launched for them, and what the plan counts beside them is ids, weights and tables.
            (made.read, made.written) = (cost.read, cost.written);
            return Ok(made);
        }
        made.read = fold.stages.iter().map(|stage| self.tables.get(stage.table).bytes()).sum();
        let columns = narrow_columns(features)?;
        self.empty(fold, work, columns, &mut made)?;
        if work.runs == 0 {
            return Ok(made);
        }
        self.ordered_weights(fold, work, &mut made)?;
        let (source, by_position) = source_of(self.plan, fold);
        let strides = [values.row_stride, values.column_stride];
        let spec = spec_of(self.plan, fold, work.grain, work.index, source, |most| {
            Access::best(source, values.dtype, features, values.address, strides, by_position, most)
        })
        .within(self.kernels.most_shared());
        let geometry = spec
            .geometry(features, work.runs)
            .ok_or_else(|| Error::new(ErrorCode::Internal, "runs were cut for fewer columns than there are"))?;
        let mut args = FoldArgs {
            values: values.address,
            row_stride: values.row_stride,
            column_stride: values.column_stride,
            ids: ids.map_or(0, |ids| ids.address),
            id_stride: ids.map_or(0, |ids| ids.row_stride),
            runs: self.constants + work.records,
            shifts: work.shifts.as_deref().map_or(0, Taken::address),
            run_count: narrow(work.runs)?,
            id_bytes: ids.map_or(0, |ids| size_of(ids.dtype)),
            features: columns,
            lanes: geometry.lanes,
            slabs: geometry.slabs,
            piece_blocks: narrow(work.grain.piece_blocks)?,
            stages: [StageArgs { offsets: 0 }; MOST_STAGES],
            reductions: [NO_REDUCTION; MOST_REDUCTIONS],
        };
        let row_bytes = values.row_bytes().saturating_add(ids.map_or(0, |ids| ids.dtype.size_u64()));
        made.read = made.read.saturating_add(work.positions.saturating_mul(row_bytes));
        let mut next = 0;
        let last = fold.stages.len() - 1;
        for (number, stage) in fold.stages.iter().enumerate() {
            args.stages[number].offsets = work.starts[number].address();
            let table = self.tables.get(stage.table);
            for (index, reduction) in stage.reductions.iter().enumerate() {
                let place = reduction.write.map(|view| self.place(view));
                args.reductions[next] = self.reduction(work, number, index, reduction, spec.vector(), number == last);
                next += 1;
                if let Some(weights) = reduction.weights {
                    made.read = made.read.saturating_add(table.total_rows().saturating_mul(self.place(weights).dtype.size_u64()));
                }
                if let Some(place) = place {
                    // Of the topmost stage, empty segments and long ones are written by launches of their own.
                    let segments = if number == last { table.len() - work.empty_count - work.long } else { table.len() };
                    made.written = made.written.saturating_add(segments.saturating_mul(place.row_bytes()));
                }
            }
        }
        let Geometry { blocks, .. } = geometry;
        let shared = spec.shared_bytes();
        let function = self.kernels.get(&KernelSpec::Fold(spec), "lf_fold")?;
        made.launches.push(Launch { function, blocks, threads: FOLD_THREADS, shared, args: Args::Fold(Box::new(args)) });
        self.finish(&fold.stages[last], work, columns, &mut made)?;
        Ok(made)
    }

    fn reduction(&self, work: &FoldWork, stage: usize, index: usize, reduction: &Reduction, vector: u32, is_top: bool) -> ReductionArgs {
        let mut args = NO_REDUCTION;
        if let Some(weights) = reduction.weights {
            let place = self.place(weights);
            (args.weights, args.weight_stride, args.weight_type) = (place.address, place.row_stride, dtype_code(place.dtype));
            if stage == 0
                && let Some(offset) = work.ordered_weights[index]
            {
                (args.weights, args.weight_stride) = (self.scratch + offset, i64::from(size_of(place.dtype)));
            }
        }
        if let Some(place) = reduction.write.map(|view| self.place(view)) {
            (args.out, args.out_row_stride, args.out_column_stride) = (place.address, place.row_stride, place.column_stride);
            let side_by_side = vector_store(args.out, args.out_row_stride, args.out_column_stride, size_of(place.dtype), vector);
            args.vector_store = u32::from(side_by_side);
        }
        if is_top && let Some(scratch) = work.scratch.get(index) {
            args.partials = self.scratch + scratch.rows[0].0;
            if has_divisor(reduction) {
                args.weight_partials = self.scratch + scratch.rows[0].1;
            }
        }
        args.fill = reduction.on_empty.value().unwrap_or(0.0);
        args.ddof = ddof(&reduction.reducer);
        args
    }

    /// Empty segments of the topmost stage.
    fn empty(&self, fold: &Fold, work: &FoldWork, columns: u32, made: &mut StepLaunches) -> Result<()> {
        let Some(stage) = fold.stages.last() else { return Ok(()) };
        let blocks = move_blocks(work.empty_count, u64::from(columns));
        if blocks == 0 {
            return Ok(());
        }
        for reduction in &stage.reductions {
            let Some(view) = reduction.write else { continue };
            let place = self.place(view);
            let args = FillArgs {
                rows: self.constants + work.empty,
                count: work.empty_count,
                out: place.address,
                out_row_stride: place.row_stride,
                out_column_stride: place.column_stride,
                fill: filled(reduction),
                features: columns,
                out_type: dtype_code(place.dtype),
            };
            made.written = made.written.saturating_add(work.empty_count.saturating_mul(place.row_bytes()));
            made.launches.push(self.moves("lf_fill", blocks, Args::Fill(args))?);
        }
        Ok(())
    }

    /// Weights of packed rows, by position.
    fn ordered_weights(&self, fold: &Fold, work: &FoldWork, made: &mut StepLaunches) -> Result<()> {
        let Some((starts, shifts)) = &work.wide else { return Ok(()) };
        for (index, reduction) in fold.stages[0].reductions.iter().enumerate() {
            let (Some(weights), Some(offset)) = (reduction.weights, work.ordered_weights[index]) else { continue };
            let place = self.place(weights);
            let size = size_of(place.dtype);
            let blocks = move_blocks(work.positions, 1);
            if blocks == 0 {
                continue;
            }
            let args = CopyArgs {
                source: place.address,
                source_row_stride: place.row_stride,
                source_column_stride: i64::from(size),
                target: self.scratch + offset,
                target_row_stride: i64::from(size),
                target_column_stride: i64::from(size),
                offsets: starts.address(),
                shifts: shifts.address(),
                segments: self.tables.get(fold.stages[0].table).len(),
                rows: work.positions,
                columns: 1,
                unit: size,
                ..NO_COPY
            };
            made.launches.push(self.moves("lf_copy", blocks, Args::Copy(args))?);
        }
        Ok(())
    }

    /// The passes that finish long segments.
    fn finish(&self, stage: &Stage, work: &FoldWork, columns: u32, made: &mut StepLaunches) -> Result<()> {
        let slabs = u64::from(columns).div_ceil(FINISH_COLUMNS);
        for (number, pass) in work.passes.iter().enumerate() {
            let blocks = narrow(pass.count.saturating_mul(slabs))?;
            for (reduction, scratch) in stage.reductions.iter().zip(&work.scratch) {
                let Some(view) = reduction.write else { continue };
                let place = self.place(view);
                let divides = has_divisor(reduction);
                let address =
                    |index: usize| scratch.rows.get(index).map_or((0, 0), |&(rows, sums)| (self.scratch + rows, self.scratch + sums));
                let ((source, weight_source), (target, weight_target)) = (address(number), address(number + 1));
                let args = FinishArgs {
                    source,
                    weight_source: if divides { weight_source } else { 0 },
                    target,
                    weight_target: if divides { weight_target } else { 0 },
                    groups: self.constants + pass.groups,
                    out: place.address,
                    out_row_stride: place.row_stride,
                    out_column_stride: place.column_stride,
                    features: columns,
                    reducer: reducer_code(&reduction.reducer),
                    out_type: dtype_code(place.dtype),
                    ddof: ddof(&reduction.reducer),
                };
                made.written = made.written.saturating_add(pass.finishes.saturating_mul(place.row_bytes()));
                let (kernel, entry) = reduction_spec(reduction).finishing();
                let function = self.kernels.get(&kernel, entry)?;
                made.launches.push(Launch { function, blocks, threads: FINISH_THREADS, shared: 0, args: Args::Finish(args) });
            }
        }
        Ok(())
    }

    fn copy(&self, copy: &Copy, work: &CopyWork) -> Result<StepLaunches> {
        let mut made = StepLaunches { launches: Vec::new(), read: 0, written: 0 };
        let to = *self.place(copy.write);
        let rows = self.plan.buffer_of(copy.write).rows;
        match (copy.what, copy.read.as_slice()) {
            (CopyKind::Segments { table } | CopyKind::Spread { table }, &[from]) => {
                let table = self.tables.get(table);
                made.read = table.bytes();
                let from = self.place(from);
                let is_packed = from.packed.is_some();
                let args = CopyArgs {
                    offsets: work.starts.as_deref().map_or(0, Taken::address),
                    shifts: if is_packed { 0 } else { work.shifts.as_deref().map_or(0, Taken::address) },
                    segments: table.len(),
                    source_feature_major: feature_major(from),
                    target_feature_major: feature_major(&to),
                    ..NO_COPY
                };
                self.copy_rows(from, &to, table.total_rows(), args, &mut made)?;
            }
            (CopyKind::Rows, &[from]) => self.copy_rows(self.place(from), &to, rows, NO_COPY, &mut made)?,
            (CopyKind::Gather, &[ids, table]) => {
                let ids = self.place(ids);
                let args = CopyArgs { ids: ids.address, id_stride: ids.row_stride, id_bytes: size_of(ids.dtype), ..NO_COPY };
                made.read = rows.saturating_mul(ids.dtype.size_u64());
                self.copy_rows(self.place(table), &to, rows, args, &mut made)?;
            }
            (CopyKind::Columns, parts) => {
                let mut column = to;
                for part in parts {
                    let from = self.place(*part);
                    column.features = from.features;
                    self.copy_rows(from, &column, rows, NO_COPY, &mut made)?;
                    let width = crate::signed_u64(from.features).wrapping_mul(column.column_stride);
                    column.address = column.address.wrapping_add_signed(width);
                }
            }
            (CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Rows | CopyKind::Gather, _) => {
                return Err(Error::new(ErrorCode::PlanInvalid, "a copy has the wrong number of operands"));
            }
        }
        Ok(made)
    }

    /// Copies `rows` rows; `args` says how they are found.
    fn copy_rows(&self, from: &Place, to: &Place, rows: u64, args: CopyArgs, made: &mut StepLaunches) -> Result<()> {
        let bytes = rows.saturating_mul(to.row_bytes());
        made.read = made.read.saturating_add(bytes);
        made.written = made.written.saturating_add(bytes);
        let size = u64::from(size_of(to.dtype));
        // Whole rows at once, as far as both sides allow.
        let whole = args.source_feature_major == 0 && args.target_feature_major == 0 && from.is_dense() && to.is_dense();
        let width = to.row_bytes();
        let fits = |unit: u64| {
            [from.address, to.address, from.row_stride.unsigned_abs(), to.row_stride.unsigned_abs(), width]
                .iter()
                .all(|number| number.is_multiple_of(unit))
        };
        let unit = if whole { [16, 8, 4, 2].into_iter().find(|&unit| unit > size && fits(unit)).unwrap_or(size) } else { size };
        let columns = width / unit;
        let blocks = move_blocks(rows, columns);
        if blocks == 0 {
            return Ok(());
        }
        let by_unit = |stride: i64| if unit > size { crate::signed_u64(unit) } else { stride };
        let args = CopyArgs {
            source: from.address,
            source_row_stride: from.row_stride,
            source_column_stride: by_unit(from.column_stride),
            target: to.address,
            target_row_stride: to.row_stride,
            target_column_stride: by_unit(to.column_stride),
            rows,
            columns: narrow_columns(columns)?,
            unit: narrow(unit)?,
            ..args
        };
        made.launches.push(self.moves("lf_copy", blocks, Args::Copy(args))?);
        Ok(())
    }
}

/// What an empty segment gives, after all that is done to a reduction's results, as a number of the type that they end in.
fn filled(reduction: &Reduction) -> f64 {
    let value = reduction.on_empty.value().unwrap_or(0.0);
    // What nothing is done to is rounded where it is written.
    if reduction.ops.is_empty() { value } else { operated(&reduction.ops, reduction.dtype, rounded(reduction.dtype, value)) }
}

/// Whether a reduction folds its weights beside its rows.
fn has_divisor(reduction: &Reduction) -> bool {
    reduction.reducer == Reducer::Mean && reduction.weights.is_some()
}

fn feature_major(place: &Place) -> u32 {
    u32::from(matches!(place.packed, Some((_, Order::FeatureMajor))))
}

fn size_of(dtype: DType) -> u32 {
    u32::try_from(dtype.size()).unwrap_or(8)
}

fn narrow(count: u64) -> Result<u32> {
    u32::try_from(count).map_err(|_| Error::new(ErrorCode::Overflow, format!("{count} is more than a launch takes")))
}

pub(crate) fn narrow_columns(columns: u64) -> Result<u32> {
    u32::try_from(columns).map_err(|_| {
        Error::new(ErrorCode::Unsupported, format!("{columns} features are more than one launch takes")).help("fold the columns in parts")
    })
}

const NO_REDUCTION: ReductionArgs = ReductionArgs {
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

const NO_COPY: CopyArgs = CopyArgs {
    source: 0,
    source_row_stride: 0,
    source_column_stride: 0,
    target: 0,
    target_row_stride: 0,
    target_column_stride: 0,
    ids: 0,
    id_stride: 0,
    offsets: 0,
    shifts: 0,
    segments: 0,
    rows: 0,
    columns: 0,
    unit: 0,
    id_bytes: 0,
    source_feature_major: 0,
    target_feature_major: 0,
    reserved: 0,
};

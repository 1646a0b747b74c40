//! The rules of steps, each for itself: folds (14–21), copies (22–26, 34) and encoders (35–38).

use super::super::{Copy, CopyKind, Encode, Fold, Load, Reduction, Stage};
use super::*;
use crate::encoder::{ElementOp, Shape, TableShape, dtype_after};
use crate::reducer::ReducerClass;

/// Holds every step against its rules.
pub(super) fn check(plan: &Plan, report: &mut Report) {
    for (index, step) in plan.steps.iter().enumerate() {
        let mut at = At { plan, step: StepId::new(index), report };
        match &step.kind {
            StepKind::Fold(fold) => at.fold(fold),
            StepKind::Copy(copy) => at.copy(copy),
            StepKind::Encode(encode) => at.encode(encode),
        }
    }
}

/// One step, and where its errors go.
struct At<'a> {
    plan: &'a Plan,
    step: StepId,
    report: &'a mut Report,
}

impl At<'_> {
    fn error(&mut self, message: impl Into<String>) {
        self.report.add(self.step, message);
    }

    fn fold(&mut self, fold: &Fold) {
        let values = match fold.load {
            Load::View { values } => {
                let values = seen(self.plan, values);
                self.values_are_floats(values);
                self.first_table(fold, values);
                values
            }
            Load::Gather { ids, table } | Load::Histogram { ids, table } => {
                self.gather(ids, table);
                let rows = seen(self.plan, ids).rows;
                let values = Seen { rows, layout: ViewLayout::Rows, ..seen(self.plan, table) };
                self.first_table(fold, values);
                values
            }
        };
        if fold.stages.is_empty() {
            self.error("folds nothing: it has no stage");
        }
        if let Load::Histogram { .. } = fold.load {
            self.histogram(fold);
        }
        let mut all = fold.stages.iter().flat_map(|stage| &stage.reductions);
        let selects = |reduction: &&Reduction| reduction.reducer.class() == ReducerClass::Select;
        if all.clone().count() > 1
            && let Some(select) = all.find(selects)
        {
            self.error(format!("{} does not stand alone in its step", select.reducer));
        }
        let mut inputs: &[Reduction] = &[];
        for (number, stage) in fold.stages.iter().enumerate() {
            if stage.reductions.is_empty() {
                self.error(format!("stage {number} has no reduction"));
            }
            let input = self.stage_input(number, stage, inputs, values.dtype);
            self.elements(number, &stage.ops);
            let input = dtype_after(&stage.ops, input);
            if let Some(below) = number.checked_sub(1).and_then(|below| fold.stages.get(below)) {
                self.stacked(number, stage, below);
            }
            let above = fold.stages.get(number + 1);
            for (index, reduction) in stage.reductions.iter().enumerate() {
                self.reduction(number, stage, reduction, input, values.features);
                let fed = above.is_some_and(|above| crate::widen(above.feed) == index);
                if reduction.write.is_none() && !fed {
                    self.error(format!("stage {number}, reduction {index} ({}) is neither written nor folded further", reduction.reducer));
                }
            }
            inputs = &stage.reductions;
        }
    }

    fn histogram(&mut self, fold: &Fold) {
        if fold.stages.len() > 1 {
            self.error(format!("folds {} levels by counts, which only the lowest has", fold.stages.len()));
        }
        if fold.has_ops() {
            self.error("folds by counts, and does something to elements".to_owned());
        }
        for reduction in fold.stages.iter().flat_map(|stage| &stage.reductions) {
            if !reduction.reducer.takes_counts() || reduction.weights.is_some() {
                let weighted = if reduction.weights.is_some() { "a weighted " } else { "" };
                self.error(format!("{weighted}{} does not follow from counts", reduction.reducer));
            }
        }
    }

    /// The dtype that a stage folds: of the values at stage 0, else of what feeds it.
    fn stage_input(&mut self, number: usize, stage: &Stage, inputs: &[Reduction], values: DType) -> DType {
        if number == 0 {
            if stage.feed != 0 {
                self.error(format!("stage 0 is fed by reduction {}, but nothing comes before it", stage.feed));
            }
            return values;
        }
        match inputs.get(crate::widen(stage.feed)) {
            Some(input) => {
                if !input.made().is_float() {
                    self.error(format!("stage {number} folds {}, which are positions", input.made()));
                }
                input.made()
            }
            None => {
                self.error(format!("stage {number} is fed by reduction {} of the stage before, which has {}", stage.feed, inputs.len()));
                values
            }
        }
    }

    fn elements(&mut self, number: usize, ops: &[ElementOp]) {
        for problem in ops.iter().filter_map(|op| op.problem()) {
            self.error(format!("stage {number}: {problem}"));
        }
    }

    fn first_table(&mut self, fold: &Fold, values: Seen) {
        let Some(stage) = fold.stages.first() else { return };
        match values.layout {
            ViewLayout::Rows => {
                let rows = self.plan.table(stage.table).rows;
                if rows != values.rows {
                    self.error(format!("folds {} rows by {}, which has {rows}", values.rows, stage.table));
                }
            }
            ViewLayout::Packed { table, order: Order::RowMajor | Order::FeatureMajor } => {
                if table != stage.table {
                    self.error(format!("folds a view that is packed by {table}, but by {}", stage.table));
                }
            }
        }
    }

    fn stacked(&mut self, number: usize, stage: &Stage, below: &Stage) {
        let (table, lower) = (self.plan.table(stage.table), self.plan.table(below.table));
        if table.form != TableForm::Offsets {
            self.error(format!("stage {number} folds by {}, which is not an ordered partition", stage.table));
        }
        if table.rows != lower.segments {
            self.error(format!(
                "stage {number} folds {} rows by {}, but {} makes {}",
                table.rows, stage.table, below.table, lower.segments
            ));
        }
    }

    fn reduction(&mut self, number: usize, stage: &Stage, reduction: &Reduction, input: DType, features: u64) {
        let table = self.plan.table(stage.table);
        if let Some(weights) = reduction.weights {
            self.weights(number, table, reduction, seen(self.plan, weights), input);
        }
        if reduction.reducer.needs_weights() && reduction.weights.is_none() {
            self.error(format!("stage {number}: {} has no scores", reduction.reducer));
        }
        if table.empty > 0 && reduction.on_empty.value().is_none() {
            let message =
                format!("stage {number} ({}): {} has {} empty segments, which are an error", reduction.reducer, stage.table, table.empty);
            self.error(message);
        }
        if !reduction.reducer.can_give(reduction.dtype) {
            let wanted = if reduction.reducer.gives_positions() { "i64" } else { "floats" };
            self.error(format!("stage {number} ({}) makes {}, not {wanted}", reduction.reducer, reduction.dtype));
        } else if !reduction.on_empty.fits(reduction.dtype) {
            let message =
                format!("stage {number} ({}) makes {}, which cannot be {}", reduction.reducer, reduction.dtype, reduction.on_empty);
            self.error(message);
        }
        self.elements(number, &reduction.ops);
        if reduction.reducer.gives_positions() && !reduction.ops.is_empty() {
            self.error(format!("stage {number} ({}) does something to positions", reduction.reducer));
        }
        let Some(write) = reduction.write else { return };
        let made = seen(self.plan, write);
        if made.layout != ViewLayout::Rows {
            self.error(format!("stage {number} ({}) writes {write}, which is packed", reduction.reducer));
        }
        if (made.rows, made.features, made.dtype) != (table.segments, features, reduction.made()) {
            let message = format!(
                "stage {number} ({}) makes {}[{}x{features}], but {write} sees {}[{}x{}]",
                reduction.reducer,
                reduction.made(),
                table.segments,
                made.dtype,
                made.rows,
                made.features
            );
            self.error(message);
        }
    }

    fn weights(&mut self, number: usize, table: &Table, reduction: &Reduction, weights: Seen, input: DType) {
        let reducer = &reduction.reducer;
        if !reducer.takes_weights() {
            self.error(format!("stage {number}: {reducer} takes no weights"));
        }
        if weights.features != 1 || weights.layout != ViewLayout::Rows {
            self.error(format!("stage {number} ({reducer}): weights are one column of rows, not {} columns or packed", weights.features));
        }
        if weights.rows != table.rows {
            self.error(format!("stage {number} ({reducer}): {} weights for {} rows", weights.rows, table.rows));
        }
        if !weights.dtype.is_float() || !weights.dtype.widens_to(input.accumulator()) {
            let message = format!(
                "stage {number} ({reducer}): {} weights do not widen to {}, in which {input} is accumulated",
                weights.dtype,
                input.accumulator()
            );
            self.error(message);
        }
    }

    fn values_are_floats(&mut self, values: Seen) {
        if !values.dtype.is_float() {
            self.error(format!("folds {}, which are ids", values.dtype));
        }
    }

    fn gather(&mut self, ids: ViewId, table: ViewId) {
        let (ids_seen, values) = (seen(self.plan, ids), seen(self.plan, table));
        if !ids_seen.dtype.is_id() || ids_seen.features != 1 || ids_seen.layout != ViewLayout::Rows {
            let message = format!("looks up {ids}, which is {} columns of {}, and not a column of ids", ids_seen.features, ids_seen.dtype);
            self.error(message);
        }
        if !matches!(ids_seen.place, Place::Input | Place::Param) {
            self.error(format!("looks up {ids}, which is not bound by the caller, so nobody checks it"));
        }
        self.values_are_floats(values);
        if values.layout != ViewLayout::Rows {
            self.error(format!("looks up rows of {table}, which is packed"));
        }
    }

    fn copy(&mut self, copy: &Copy) {
        let made = seen(self.plan, copy.write);
        let name = copy.what.name();
        let wanted = match copy.what {
            CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Rows => Some(1),
            CopyKind::Gather => Some(2),
            CopyKind::Columns => None,
        };
        if copy.read.is_empty() || wanted.is_some_and(|wanted| copy.read.len() != wanted) {
            let wanted = wanted.map_or("at least 1".to_owned(), |wanted| wanted.to_string());
            return self.error(format!("a copy.{name} reads {wanted} views, not {}", copy.read.len()));
        }
        match (copy.what, copy.read.as_slice()) {
            (CopyKind::Segments { table }, reads) => self.contiguous(table, seen(self.plan, reads[0]), made),
            (CopyKind::Spread { table }, reads) => self.spread(table, seen(self.plan, reads[0]), made),
            (CopyKind::Rows, _) => self.rows_alike(copy, made),
            (CopyKind::Gather, reads) => {
                self.gather(reads[0], reads[1]);
                let ids = seen(self.plan, reads[0]);
                if made.layout != ViewLayout::Rows || made.rows != ids.rows {
                    self.error(format!("writes {} rows (or packed ones) for {} ids", made.rows, ids.rows));
                }
            }
            (CopyKind::Columns, _) => self.rows_alike(copy, made),
        }
        // Of a gather, the ids are not what is copied.
        let values = if copy.what == CopyKind::Gather { &copy.read[1..] } else { &copy.read[..] };
        let features = values.iter().fold(0u64, |sum, &view| sum.saturating_add(self.plan.view(view).features));
        if features != made.features {
            self.error(format!("copies {features} columns into {}", made.features));
        }
        for &view in values {
            let dtype = seen(self.plan, view).dtype;
            if dtype != made.dtype {
                self.error(format!("copies {dtype} ({view}) into {}", made.dtype));
            }
        }
    }

    fn contiguous(&mut self, table: TableId, read: Seen, made: Seen) {
        match read.layout {
            ViewLayout::Rows => {
                let rows = self.plan.table(table).rows;
                if read.rows != rows {
                    self.error(format!("cuts {} rows by {table}, which has {rows}", read.rows));
                }
            }
            ViewLayout::Packed { table: packed, order: Order::RowMajor | Order::FeatureMajor } => {
                if packed != table {
                    self.error(format!("reads a view that is packed by {packed}, but copies by {table}"));
                }
            }
        }
        match made.layout {
            ViewLayout::Rows => self.error(format!("writes rows, and not segments of {table}")),
            ViewLayout::Packed { table: packed, order: Order::RowMajor | Order::FeatureMajor } => {
                if packed != table {
                    self.error(format!("writes a view that is packed by {packed}, but copies by {table}"));
                }
            }
        }
    }

    fn spread(&mut self, table: TableId, read: Seen, made: Seen) {
        let Table { rows, total_rows, .. } = *self.plan.table(table);
        if read.layout != ViewLayout::Rows || made.layout != ViewLayout::Rows {
            self.error("spreads what is packed");
        }
        if (read.rows, made.rows) != (rows, total_rows) {
            let message = format!("spreads {} rows into {} by {table}, which has {total_rows} of {rows} rows", read.rows, made.rows);
            self.error(message);
        }
    }

    fn encode(&mut self, encode: &Encode) {
        let plan = self.plan;
        for &&view in encode.encoding.operands().iter().chain([&&encode.write]) {
            if seen(plan, view).layout != ViewLayout::Rows {
                self.error(format!("encodes {view}, which is packed"));
            }
        }
        let shape = |view: &ViewId| {
            let Seen { rows, features, dtype, .. } = seen(plan, *view);
            Shape { rows, features, dtype }
        };
        let table = |id: TableId| {
            let Table { form, rows, longest, .. } = *plan.table(id);
            TableShape { rows, is_partition: form == TableForm::Offsets, longest }
        };
        match encode.encoding.shape(shape, table) {
            Err(error) => self.error(error.message()),
            Ok(made) => {
                let written = shape(&encode.write);
                if made != written {
                    self.error(format!("makes {made}, but {} sees {written}", encode.write));
                }
            }
        }
    }

    fn rows_alike(&mut self, copy: &Copy, made: Seen) {
        let name = copy.what.name();
        for view in copy.read.iter().copied().chain([copy.write]) {
            let this = seen(self.plan, view);
            if this.layout != ViewLayout::Rows {
                self.error(format!("a copy.{name} is of rows, but {view} is packed"));
            }
            if this.rows != made.rows {
                self.error(format!("copies {} rows ({view}) into {}", this.rows, made.rows));
            }
        }
    }
}

//! What the caller hands over for one run, and the check that every backend makes of it first.

use super::device::{DeviceId, DeviceMemory, DeviceView, DeviceViewMut};
use crate::dtype::{DType, IdElement};
use crate::error::{Error, ErrorCode, Result, suggestion};
use crate::ids::{TableId, ViewId};
use crate::numerics::Value;
use crate::plan::{Buffer, CopyKind, Hash, Place, Plan, StepKind, Table, TableSource};
use crate::segments::Segments;
use crate::tensor::{Layout, TensorView, TensorViewMut};
use crate::{narrow, widen_u64};
use half::{bf16, f16};
use smallvec::SmallVec;

/// The memory of one run: inputs and tables are borrowed to be read, outputs to be written; nothing is copied on the way.
#[derive(Debug, Default)]
pub struct Bindings<'a> {
    inputs: SmallVec<[(&'a str, TensorView<'a>); 8]>,
    outputs: SmallVec<[(&'a str, TensorViewMut<'a>); 8]>,
    tables: SmallVec<[&'a Segments; 8]>,
    device_inputs: SmallVec<[(&'a str, DeviceView<'a>); 2]>,
    device_outputs: SmallVec<[(&'a str, DeviceViewMut<'a>); 2]>,
}

impl<'a> Bindings<'a> {
    /// Nothing bound yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds an input or a param, by name.
    #[must_use]
    pub fn input(mut self, name: &'a str, view: impl Into<TensorView<'a>>) -> Self {
        self.bind_input(name, view.into());
        self
    }

    /// Binds an output, by name.
    #[must_use]
    pub fn output(mut self, name: &'a str, view: TensorViewMut<'a>) -> Self {
        self.bind_output(name, view);
        self
    }

    /// Binds segments: a plan finds its tables among them by their hashes.
    #[must_use]
    pub fn table(mut self, segments: &'a Segments) -> Self {
        self.bind_table(segments);
        self
    }

    /// Binds an input or a param to memory of a device: only the backend of that device takes it.
    #[must_use]
    pub fn device_input(mut self, name: &'a str, view: DeviceView<'a>) -> Self {
        self.device_inputs.push((name, view));
        self
    }

    /// Binds an output to memory of a device, where it stays: only the backend of that device takes it.
    #[must_use]
    pub fn device_output(mut self, name: &'a str, view: DeviceViewMut<'a>) -> Self {
        self.device_outputs.push((name, view));
        self
    }

    /// [`input`](Self::input), in place.
    pub fn bind_input(&mut self, name: &'a str, view: TensorView<'a>) {
        self.inputs.push((name, view));
    }

    /// [`output`](Self::output), in place.
    pub fn bind_output(&mut self, name: &'a str, view: TensorViewMut<'a>) {
        self.outputs.push((name, view));
    }

    /// [`table`](Self::table), in place.
    pub fn bind_table(&mut self, segments: &'a Segments) {
        self.tables.push(segments);
    }

    /// What is bound to an input or param.
    pub fn find_input(&self, name: &str) -> Option<TensorView<'a>> {
        self.inputs.iter().find(|(bound, _)| *bound == name).map(|(_, view)| *view)
    }

    /// What is bound to an output.
    pub fn find_output(&mut self, name: &str) -> Option<&mut TensorViewMut<'a>> {
        self.outputs.iter_mut().find(|(bound, _)| *bound == name).map(|(_, view)| view)
    }

    /// What is bound to an input or param, where that is memory of a device.
    pub fn find_device_input(&self, name: &str) -> Option<DeviceView<'a>> {
        self.device_inputs.iter().find(|(bound, _)| *bound == name).map(|(_, view)| *view)
    }

    /// What is bound to an output, where that is memory of a device.
    pub fn find_device_output(&self, name: &str) -> Option<DeviceView<'_>> {
        self.device_outputs.iter().find(|(bound, _)| *bound == name).map(|(_, view)| view.as_view())
    }

    /// Everything that is bound to memory of a device, with its name.
    fn on_devices(&self) -> impl Iterator<Item = (&'a str, DeviceView<'_>)> {
        let inputs = self.device_inputs.iter().map(|(name, view)| (*name, *view));
        inputs.chain(self.device_outputs.iter().map(|(name, view)| (*name, view.as_view())))
    }

    /// The names of all inputs, wherever they lie.
    fn input_names(&self) -> SmallVec<[&'a str; 8]> {
        self.inputs.iter().map(|(name, _)| *name).chain(self.device_inputs.iter().map(|(name, _)| *name)).collect()
    }

    /// The names of all outputs, wherever they lie.
    fn output_names(&self) -> SmallVec<[&'a str; 8]> {
        self.outputs.iter().map(|(name, _)| *name).chain(self.device_outputs.iter().map(|(name, _)| *name)).collect()
    }

    /// Every input, with its name.
    pub fn inputs(&self) -> &[(&'a str, TensorView<'a>)] {
        &self.inputs
    }

    /// Every output, with its name.
    pub fn outputs(&self) -> &[(&'a str, TensorViewMut<'a>)] {
        &self.outputs
    }

    /// Every output, with its name, to be written.
    pub fn outputs_mut(&mut self) -> impl Iterator<Item = (&'a str, &mut TensorViewMut<'a>)> {
        self.outputs.iter_mut().map(|(name, view)| (*name, view))
    }
}

/// The tables of a plan, resolved: those that were bound, and those that derive from them.
///
/// A plan names its tables by hash, so once they are resolved they stay what they are; later runs only see that the same are bound.
#[derive(Clone, Debug, Default)]
pub struct TableSet {
    tables: Vec<Segments>,
}

impl TableSet {
    /// Nothing resolved yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A table of the plan.
    ///
    /// # Panics
    /// Before a successful [`check`](Self::check).
    pub fn get(&self, id: TableId) -> &Segments {
        &self.tables[id.index()]
    }

    /// Whether [`check`](Self::check) has not resolved tables yet.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Holds bindings against a plan, completely, before anything runs: every executable begins with this.
    ///
    /// Checked are: names (all bound, none twice, none unknown), dtypes, shapes, outputs that share memory with anything, the hashes of
    /// tables, ids (not negative, below the rows of their table) and the weights of means (not negative, not NaN, not all 0 in a
    /// segment that has rows).
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&mut self, plan: &Plan, bindings: &Bindings<'_>) -> Result<()> {
        if let Some((name, view)) = bindings.on_devices().next() {
            return Err(wrong_device(name, view.device(), &format!("the {} backend reads and writes the host's memory", plan.target)));
        }
        self.check_all(plan, bindings)?;
        for step in &plan.steps {
            self.check_data(plan, bindings, &step.kind)?;
        }
        Ok(())
    }

    /// [`check`](Self::check) for a backend that takes memory of its device too. Ids and weights that lie there are fetched to be checked.
    ///
    /// # Errors
    /// The first thing that is wrong, or what the device says.
    pub fn check_on(&mut self, plan: &Plan, bindings: &Bindings<'_>, memory: &dyn DeviceMemory) -> Result<()> {
        for (name, view) in bindings.on_devices() {
            if view.device() != memory.device() {
                return Err(wrong_device(name, view.device(), &format!("this executable runs on {}", memory.device())));
            }
        }
        self.check_all(plan, bindings)?;
        let mut fetched: Vec<(&str, DeviceView<'_>, Vec<u64>)> = Vec::new();
        for name in checked_inputs(plan) {
            if let Some(view) = bindings.find_device_input(name) {
                fetched.push((name, view, memory.fetch(view)?));
            }
        }
        let mut on_host = Bindings::new();
        on_host.inputs.extend(bindings.inputs.iter().copied());
        for (name, view, data) in &fetched {
            let [rows, features] = view.shape();
            let bytes = bytemuck::must_cast_slice::<u64, u8>(data).get(..rows * features * view.dtype().size()).unwrap_or(&[]);
            on_host.bind_input(name, TensorView::from_bytes(bytes, view.dtype(), Layout::row_major(view.shape()))?);
        }
        for step in &plan.steps {
            self.check_data(plan, &on_host, &step.kind)?;
        }
        Ok(())
    }

    /// Everything but what ids and weights hold.
    fn check_all(&mut self, plan: &Plan, bindings: &Bindings<'_>) -> Result<()> {
        check_names(plan, bindings)?;
        check_shapes(plan, bindings)?;
        check_aliasing(bindings)?;
        self.resolve(plan, bindings)
    }

    /// Every bound table must be there on every run; what they are is kept from the first run that found them all.
    fn resolve(&mut self, plan: &Plan, bindings: &Bindings<'_>) -> Result<()> {
        let known = self.tables.len() == plan.tables.len();
        let mut resolved: Vec<Segments> = Vec::new();
        for (index, table) in plan.tables.iter().enumerate() {
            let segments = match table.source {
                TableSource::Bound => {
                    let bound = bindings.tables.iter().find(|segments| Hash(segments.hash()) == table.hash);
                    let Some(bound) = bound else {
                        return Err(not_bound_table(&table.name, table.hash));
                    };
                    if known {
                        continue;
                    }
                    (*bound).clone()
                }
                TableSource::Compose { .. } if known => continue,
                TableSource::Compose { lower, upper } => resolved[lower.index()].compose(&resolved[upper.index()])?,
            };
            // Steps are compiled, and their scratch is sized, for what the plan says of its segments.
            if !table.describes(&segments) {
                return Err(misdescribed(TableId::new(index), table, &segments));
            }
            resolved.push(segments);
        }
        if !known {
            self.tables = resolved;
        }
        Ok(())
    }

    fn check_data(&self, plan: &Plan, bindings: &Bindings<'_>, step: &StepKind) -> Result<()> {
        match step {
            StepKind::Fold(fold) => {
                if let Some(ids) = fold.load.ids() {
                    check_ids(plan, bindings, ids, plan.buffer_of(fold.load.values()))?;
                }
                for stage in &fold.stages {
                    for reduction in &stage.reductions {
                        if let Some(weights) = reduction.weights.filter(|_| reduction.reducer.divides_by_weights()) {
                            let table = plan.table(stage.table);
                            check_divisors(plan, bindings, weights, self.get(stage.table), &table.name)?;
                        }
                    }
                }
                Ok(())
            }
            StepKind::Encode(_) => Ok(()),
            StepKind::Copy(copy) => match (copy.what, copy.read.as_slice()) {
                (CopyKind::Gather, &[ids, table]) => check_ids(plan, bindings, ids, plan.buffer_of(table)),
                (CopyKind::Gather | CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Rows | CopyKind::Columns, _) => Ok(()),
            },
        }
    }
}

fn misdescribed(id: TableId, table: &Table, found: &Segments) -> Error {
    Error::new(
        ErrorCode::PlanInvalid,
        format!(
            "table {id} is not what the plan says: {found:?}, the longest of {} rows and {} empty; the plan has {} segments of {} rows in {:?}, \
             the longest of {} and {} empty",
            found.longest(),
            found.empty_count(),
            table.segments,
            table.rows,
            table.form,
            table.longest,
            table.empty
        ),
    )
    .at_level(&*table.name)
    .help("the plan was changed, or damaged: plan again")
}

fn not_bound_table(name: &str, hash: Hash) -> Error {
    Error::new(ErrorCode::NotBound, format!("no segments with hash {hash} are bound"))
        .at_level(name)
        .help("bind the segments that the plan was made with; other segments need a plan of their own")
}

fn wrong_device(name: &str, device: DeviceId, found: &str) -> Error {
    Error::new(ErrorCode::WrongDevice, format!("`{name}` is bound to memory of {device}, but {found}"))
        .at_level(name)
        .help("bind it where the plan runs")
}

/// The inputs whose data is checked in every run: ids and weights, each once.
fn checked_inputs(plan: &Plan) -> SmallVec<[&str; 4]> {
    let mut names: SmallVec<[&str; 4]> = SmallVec::new();
    for step in &plan.steps {
        let views: SmallVec<[ViewId; 4]> = match &step.kind {
            StepKind::Fold(fold) => {
                let ids = fold.load.ids();
                let reductions = fold.stages.iter().flat_map(|stage| &stage.reductions);
                ids.into_iter().chain(reductions.filter_map(|reduction| reduction.weights)).collect()
            }
            StepKind::Copy(copy) => match copy.what {
                CopyKind::Gather => copy.read.first().copied().into_iter().collect(),
                CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Rows | CopyKind::Columns => SmallVec::new(),
            },
            StepKind::Encode(_) => SmallVec::new(),
        };
        for buffer in views.into_iter().map(|view| plan.buffer_of(view)) {
            if matches!(buffer.place, Place::Input | Place::Param) && !names.contains(&&*buffer.name) {
                names.push(&buffer.name);
            }
        }
    }
    names
}

fn check_names(plan: &Plan, bindings: &Bindings<'_>) -> Result<()> {
    let (inputs, outputs) = (bindings.input_names(), bindings.output_names());
    for (index, name) in inputs.iter().enumerate() {
        if inputs[..index].contains(name) {
            return Err(bound_twice("input", name));
        }
        if !plan.inputs().any(|(_, buffer)| &*buffer.name == *name) {
            return Err(unknown_name("input", name, plan.inputs().map(|(_, buffer)| buffer)));
        }
    }
    for (index, name) in outputs.iter().enumerate() {
        if outputs[..index].contains(name) {
            return Err(bound_twice("output", name));
        }
        if !plan.outputs().any(|(_, buffer)| &*buffer.name == *name) {
            return Err(unknown_name("output", name, plan.outputs().map(|(_, buffer)| buffer)));
        }
    }
    for (_, buffer) in plan.inputs() {
        if !inputs.contains(&&*buffer.name) {
            return Err(not_bound("input", buffer));
        }
    }
    for (_, buffer) in plan.outputs() {
        if !outputs.contains(&&*buffer.name) {
            return Err(not_bound("output", buffer));
        }
    }
    Ok(())
}

fn bound_twice(what: &str, name: &str) -> Error {
    Error::new(ErrorCode::BoundTwice, format!("{what} `{name}` is bound twice")).at_level(name)
}

fn not_bound(what: &str, buffer: &Buffer) -> Error {
    Error::new(ErrorCode::NotBound, format!("{what} `{}` is not bound", buffer.name))
        .at_level(&*buffer.name)
        .help(format!("bind a tensor {}[{}, {}]", buffer.dtype, buffer.rows, buffer.features))
}

fn unknown_name<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a Buffer>) -> Error {
    let known: Vec<&str> = known.map(|buffer| &*buffer.name).collect();
    Error::new(ErrorCode::UnknownName, format!("the plan has no {what} `{name}`")).help(suggestion(name, &known))
}

fn check_shapes(plan: &Plan, bindings: &Bindings<'_>) -> Result<()> {
    let inputs = bindings.inputs.iter().map(|(name, view)| (*name, view.dtype(), view.shape(), true));
    let outputs = bindings.outputs.iter().map(|(name, view)| (*name, view.dtype(), view.shape(), false));
    let device_inputs = bindings.device_inputs.iter().map(|(name, view)| (*name, view.dtype(), view.shape(), true));
    let device_outputs = bindings.device_outputs.iter().map(|(name, view)| (*name, view.as_view().dtype(), view.as_view().shape(), false));
    for (name, dtype, shape, reads) in inputs.chain(outputs).chain(device_inputs).chain(device_outputs) {
        let buffer = plan.buffers.iter().find(|buffer| {
            &*buffer.name == name
                && match buffer.place {
                    Place::Input | Place::Param => reads,
                    Place::Output => !reads,
                    Place::Arena { .. } | Place::Tile { .. } => false,
                }
        });
        let Some(buffer) = buffer else { continue };
        if dtype != buffer.dtype {
            return Err(Error::new(ErrorCode::DType, format!("`{name}` is {dtype}, planned was {}", buffer.dtype))
                .at_level(name)
                .help("convert it, or plan for its type"));
        }
        if shape.map(widen_u64) != [buffer.rows, buffer.features] {
            return Err(Error::new(
                ErrorCode::Shape,
                format!("`{name}` has shape {shape:?}, planned was [{}, {}]", buffer.rows, buffer.features),
            )
            .at_level(name)
            .help("a plan holds for one shape; plan again for another"));
        }
    }
    Ok(())
}

fn check_aliasing(bindings: &Bindings<'_>) -> Result<()> {
    for (index, (name, output)) in bindings.outputs.iter().enumerate() {
        let range = output.address_range();
        let inputs = bindings.inputs.iter().map(|(other, view)| (*other, view.address_range()));
        let others = bindings.outputs[..index].iter().map(|(other, view)| (*other, view.address_range()));
        for (other, other_range) in inputs.chain(others) {
            if range.start < other_range.end && other_range.start < range.end {
                return Err(shared(name, other));
            }
        }
    }
    for (index, (name, output)) in bindings.device_outputs.iter().enumerate() {
        let range = output.as_view().address_range();
        let inputs = bindings.device_inputs.iter().map(|(other, view)| (*other, view.address_range()));
        let others = bindings.device_outputs[..index].iter().map(|(other, view)| (*other, view.as_view().address_range()));
        for (other, other_range) in inputs.chain(others) {
            if range.start < other_range.end && other_range.start < range.end {
                return Err(shared(name, other));
            }
        }
    }
    Ok(())
}

fn shared(output: &str, other: &str) -> Error {
    Error::new(ErrorCode::Aliasing, format!("output `{output}` shares memory with `{other}`"))
        .at_level(output)
        .help("bind memory of its own for every output")
}

/// The column of what is bound that a view shows; nothing where it shows what a step computes. (An arena buffer may have an input's name.)
fn bound_column<'a>(plan: &Plan, bindings: &Bindings<'a>, id: ViewId) -> Option<TensorView<'a>> {
    let (view, buffer) = (plan.view(id), plan.buffer_of(id));
    let bound = match buffer.place {
        Place::Input | Place::Param => bindings.find_input(&buffer.name)?,
        Place::Output | Place::Arena { .. } | Place::Tile { .. } => return None,
    };
    let column = usize::try_from(view.first_column).ok().filter(|&column| column < bound.shape()[1])?;
    Some(bound.columns(column..column + 1))
}

/// Ids that a step looks up must be rows of its table.
fn check_ids(plan: &Plan, bindings: &Bindings<'_>, ids: ViewId, table: &Buffer) -> Result<()> {
    let buffer = plan.buffer_of(ids);
    let Some(view) = bound_column(plan, bindings, ids) else {
        return Ok(());
    };
    match view.dtype() {
        DType::U8 if table.rows > u64::from(u8::MAX) => Ok(()),
        DType::U16 if table.rows > u64::from(u16::MAX) => Ok(()),
        DType::U8 => check_ids_of::<u8>(view, buffer, table),
        DType::U16 => check_ids_of::<u16>(view, buffer, table),
        DType::U32 => check_ids_of::<u32>(view, buffer, table),
        DType::I32 => check_ids_of::<i32>(view, buffer, table),
        DType::I64 => check_ids_of::<i64>(view, buffer, table),
        dtype @ (DType::F32 | DType::F64 | DType::F16 | DType::BF16) => {
            Err(Error::new(ErrorCode::DType, format!("ids are {dtype}, which looks nothing up")).at_level(&*buffer.name))
        }
    }
}

fn check_ids_of<T: IdElement>(view: TensorView<'_>, buffer: &Buffer, table: &Buffer) -> Result<()> {
    let rows = narrow(table.rows)?;
    let bad = |id: T| id.row().is_none_or(|row| row >= rows);
    let layout = view.layout();
    let elements = view.elements::<T>().unwrap_or(&[]);
    let dense = (layout.strides[0] == 1).then(|| elements.get(layout.offset..)?.get(..layout.shape[0])).flatten();
    // Over dense ids, a pass without an early exit is vector code; the search for the culprit runs only when there is one.
    if let Some(dense) = dense
        && !dense.iter().fold(false, |any, &id| any | bad(id))
    {
        return Ok(());
    }
    for row in 0..layout.shape[0] {
        let id: T = view.get(row, 0);
        if bad(id) {
            return Err(Error::new(
                ErrorCode::IdTooLarge,
                format!("`{}`[{row}] = {id:?}, but `{}` has {} rows", buffer.name, table.name, table.rows),
            )
            .at_level(&*buffer.name)
            .at_index(widen_u64(row))
            .help("ids are 0 or more, and below the rows of their table"));
        }
    }
    Ok(())
}

/// Weights that are divided by must not be negative or NaN, and must not all be 0 in a segment that has rows.
fn check_divisors(plan: &Plan, bindings: &Bindings<'_>, weights: ViewId, segments: &Segments, level: &str) -> Result<()> {
    let buffer = plan.buffer_of(weights);
    let Some(view) = bound_column(plan, bindings, weights) else {
        return Ok(());
    };
    match view.dtype() {
        DType::F32 => check_divisors_of::<f32>(view, buffer, segments, level),
        DType::F64 => check_divisors_of::<f64>(view, buffer, segments, level),
        DType::F16 => check_divisors_of::<f16>(view, buffer, segments, level),
        DType::BF16 => check_divisors_of::<bf16>(view, buffer, segments, level),
        dtype @ (DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64) => {
            Err(Error::new(ErrorCode::DType, format!("weights are {dtype}, not floats")).at_level(&*buffer.name))
        }
    }
}

fn check_divisors_of<T: Value>(view: TensorView<'_>, buffer: &Buffer, segments: &Segments, level: &str) -> Result<()> {
    for (s, range) in segments.ranges().enumerate() {
        let mut any = range.is_empty();
        for row in range {
            let weight = view.get::<T>(narrow(row)?, 0).to_f64();
            if weight.is_nan() || weight < 0.0 {
                return Err(Error::new(ErrorCode::Weights, format!("`{}`[{row}] = {weight}", buffer.name))
                    .at_level(level)
                    .at_index(row)
                    .help("weights that are divided by are 0 or more"));
            }
            any |= weight > 0.0;
        }
        if !any {
            return Err(Error::new(ErrorCode::Weights, format!("the weights of segment {s} are all 0: it has no mean"))
                .at_level(level)
                .at_index(widen_u64(s))
                .help("give each segment that has rows a weight above 0, or leave its rows out of it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

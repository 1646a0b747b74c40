//! A plan on a device: what is prepared once, and what happens in a run.

use crate::Shared;
use crate::device::{Event, Stream};
use crate::launches::{Maker, StepLaunches};
use crate::maps;
use crate::places::{Lying, Place, resolve};
use crate::pool::Taken;
use crate::replay::Replay;
use crate::spec::{Access, KernelSpec};
use crate::staging::{HostTensor, Staging, Travel};
use crate::tensor::Fetching;
use crate::work::{self, Bringing, Work, grain, index_of, source_of, spec_of};
use levelfold::backend::{Bindings, Executable, RunReport, TableSet};
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::plan::{Fold, Place as Kept, Plan, StepKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many sets of launches are kept: one for each way in which memory was bound.
const KEPT_PROGRAMS: usize = 4;

pub(crate) struct CudaExecutable {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    tables: TableSet,
    /// From the first run on. Dropped before the stream that it is used on.
    ready: Option<Ready>,
    stream: Arc<Stream>,
    most_scratch: u64,
    report: RunReport,
}

/// What a plan holds on the device.
struct Ready {
    work: Work,
    constants: Taken,
    scratch: Taken,
    arena: Taken,
    staging: Staging,
    /// Where inputs and outputs of the host are kept, by the number of their buffer.
    buffers: Vec<Option<Taken>>,
    /// Before the transfers, before each step, and after the last.
    events: Vec<Event>,
    programs: Vec<Program>,
}

/// The launches over one set of places.
struct Program {
    /// Dropped first: it refers to what follows.
    replay: Option<Replay>,
    key: Vec<Place>,
    steps: Vec<StepLaunches>,
    used: u64,
}

/// Something of the host that is copied to the device, or back.
struct Transfer {
    buffer: usize,
    host: HostTensor,
    travel: Travel,
}

/// Everything that one run binds.
struct Bound {
    lying: Vec<Option<Lying>>,
    inputs: Vec<Transfer>,
    outputs: Vec<Transfer>,
}

impl CudaExecutable {
    pub(crate) fn new(shared: Arc<Shared>, plan: Arc<Plan>) -> Result<Self> {
        if &*plan.target != crate::NAME {
            return Err(Error::new(ErrorCode::WrongTarget, format!("the plan is for target `{}`, not `{}`", plan.target, crate::NAME))
                .help("plan again for this backend"));
        }
        // Kernels follow addresses: whoever made this plan, it has to keep the rules that make that sound.
        plan.verify()?;
        if let Some(tile) = plan.tiles.first() {
            let message = format!("the plan runs {}..{} window by window, which this backend does not", tile.first, tile.last);
            return Err(Error::new(ErrorCode::Unsupported, message).help("plan again for this backend: its target has no tiles"));
        }
        for (index, step) in plan.steps.iter().enumerate() {
            runs(&shared, &plan, &step.kind).map_err(|reason| {
                let origin = step.origin.join(", ");
                Error::new(ErrorCode::Unsupported, format!("step s{index} ({origin}) does not run on this device: {reason}"))
                    .help("plan again for this device, or choose another backend")
            })?;
        }
        let _entered = shared.device.enter()?;
        let multiprocessors = shared.device.multiprocessors;
        let most_scratch = work::most_scratch(&plan, multiprocessors);
        // Of what a run needs this much is known: tables, arena and scratch.
        let tables = plan.tables.iter().fold(0u64, |sum, table| sum.saturating_add(table.bytes()));
        shared.pool.check_budget(tables.saturating_add(plan.totals.arena_bytes).saturating_add(most_scratch))?;
        for step in &plan.steps {
            match &step.kind {
                StepKind::Fold(fold) => load_kernels(&shared, &plan, fold)?,
                StepKind::Encode(encode) => drop(shared.kernels.get(&KernelSpec::Maps, maps::entry(&plan, encode))?),
                StepKind::Copy(_) => {}
            }
        }
        if !plan.steps.is_empty() {
            shared.kernels.get(&KernelSpec::Moves, "lf_copy")?;
        }
        let stream = shared.stream()?;
        let report = RunReport::for_plan(&plan);
        Ok(CudaExecutable { shared, plan, tables: TableSet::new(), stream, ready: None, most_scratch, report })
    }

    fn run_checked(&mut self, bindings: &mut Bindings<'_>) -> Result<()> {
        let bound = self.bind(bindings)?;
        if self.ready.is_none() {
            self.ready = Some(self.prepare()?);
        }
        let mut uploaded = 0;
        let mut downloaded = 0;
        let (plan, shared, stream) = (&self.plan, &self.shared, &self.stream);
        let Some(ready) = &mut self.ready else { return Err(Error::new(ErrorCode::Internal, "nothing was prepared")) };
        let lying = take_buffers(shared, plan, ready, &bound)?;
        ready.events[0].record(stream)?;
        for input in &bound.inputs {
            let bytes = input.travel.elements * input.host.size;
            uploaded += crate::wide(bytes);
            let to = ready.buffers[input.buffer].as_ref().map_or(0, Taken::address);
            // SAFETY: the buffer has room for all elements; the tensor is borrowed until the run ends, and only read.
            unsafe { ready.staging.upload(stream, to, bytes, |at, piece| input.host.read(&input.travel, at, piece))? };
        }
        if let Some(poison) = shared.poison
            && plan.totals.arena_bytes > 0
        {
            // SAFETY: the arena has so many bytes, and stays.
            unsafe { stream.fill(ready.arena.address(), poison, plan.totals.arena_bytes)? };
        }
        let places = resolve(plan, ready.arena.address(), &lying)?;
        let index = find_program(shared, plan, &self.tables, ready, places)?;
        let is_measured = put_program(shared, stream, ready, index)?;
        let events = &ready.events;
        events[events.len() - 1].wait()?;
        let back = Instant::now();
        for output in &bound.outputs {
            let bytes = output.travel.elements * output.host.size;
            downloaded += crate::wide(bytes);
            let from = ready.buffers[output.buffer].as_ref().map_or(0, Taken::address);
            // SAFETY: the buffer holds all elements; the tensor is borrowed exclusively until the run ends, and its elements lie apart.
            unsafe { ready.staging.download(stream, from, bytes, |at, piece| output.host.write(&output.travel, at, piece))? };
        }
        let report = &mut self.report;
        for (step, (done, launches)) in report.steps.iter_mut().zip(&ready.programs[index].steps).enumerate() {
            (done.read, done.written) = (launches.read, launches.written);
            done.time = if is_measured { events[step + 2].since(&events[step + 1])? } else { Duration::ZERO };
        }
        report.device_time = Some(events[events.len() - 1].since(&events[1])?);
        report.transfers.time = if uploaded > 0 { events[1].since(&events[0])? } else { Duration::ZERO };
        if downloaded > 0 {
            report.transfers.time += back.elapsed();
        }
        (report.transfers.uploaded, report.transfers.downloaded) = (uploaded, downloaded);
        Ok(())
    }

    /// Where everything that is bound lies, and what has to travel. Nothing is taken yet.
    fn bind(&self, bindings: &mut Bindings<'_>) -> Result<Bound> {
        let mut bound = Bound { lying: vec![None; self.plan.buffers.len()], inputs: Vec::new(), outputs: Vec::new() };
        for (index, buffer) in self.plan.buffers.iter().enumerate() {
            let missing = || Error::new(ErrorCode::NotBound, format!("`{}` is not bound", buffer.name)).at_level(&*buffer.name);
            let size = buffer.dtype.size();
            match buffer.place {
                Kept::Input | Kept::Param => {
                    if let Some(view) = bindings.find_device_input(&buffer.name) {
                        bound.lying[index] = Some(Lying { address: view.address(), layout: view.layout() });
                    } else {
                        let view = bindings.find_input(&buffer.name).ok_or_else(missing)?;
                        let host = HostTensor { base: view.as_ptr().cast_mut(), layout: view.layout(), size };
                        bound.inputs.push(Transfer { buffer: index, travel: host.travel(), host });
                    }
                }
                Kept::Output => {
                    if let Some(view) = bindings.find_device_output(&buffer.name) {
                        bound.lying[index] = Some(Lying { address: view.address(), layout: view.layout() });
                    } else {
                        let view = bindings.find_output(&buffer.name).ok_or_else(missing)?;
                        let host = HostTensor { base: view.as_raw().0, layout: view.layout(), size };
                        bound.outputs.push(Transfer { buffer: index, travel: host.travel(), host });
                    }
                }
                Kept::Arena { .. } | Kept::Tile { .. } => {}
            }
        }
        let needed = self.needed(&bound);
        if needed > 0 {
            self.shared.pool.check_budget(needed)?;
        }
        Ok(bound)
    }

    /// Bytes of device memory that this run takes and no earlier one did.
    fn needed(&self, bound: &Bound) -> u64 {
        let plan = &self.plan;
        let held = |buffer: usize| self.ready.as_ref().is_some_and(|ready| ready.buffers[buffer].is_some());
        let travelling = bound.inputs.iter().chain(&bound.outputs).filter(|transfer| !held(transfer.buffer));
        let mut needed = travelling.fold(0u64, |sum, transfer| sum.saturating_add(plan.buffers[transfer.buffer].bytes().max(1)));
        if self.ready.is_none() {
            let tables = plan.tables.iter().fold(0u64, |sum, table| sum.saturating_add(table.bytes()));
            needed = needed.saturating_add(tables).saturating_add(plan.totals.arena_bytes).saturating_add(self.most_scratch);
        }
        needed
    }

    /// Takes what runs need, and brings tables and cuts to the device.
    fn prepare(&self) -> Result<Ready> {
        let (shared, plan) = (&self.shared, &self.plan);
        let moved = plan.inputs().chain(plan.outputs()).fold(0u64, |sum, (_, buffer)| sum.saturating_add(buffer.bytes()));
        let mut staging = Staging::new(&shared.device, &shared.pool, moved)?;
        let mut bringing =
            Bringing { device: &shared.device, tables: &shared.tables, pool: &shared.pool, stream: &self.stream, staging: &mut staging };
        let work = work::prepare(plan, &self.tables, &mut bringing)?;
        let constants = shared.pool.take(crate::wide(work.constants.len()))?;
        let scratch = shared.pool.take(work.scratch_bytes)?;
        let arena = shared.pool.take(plan.totals.arena_bytes)?;
        let events = (0..plan.steps.len() + 2).map(|_| Event::new(&shared.device)).collect::<Result<Vec<Event>>>()?;
        let fill = |at: usize, piece: &mut [u8]| piece.copy_from_slice(&work.constants[at..at + piece.len()]);
        // SAFETY: the memory has room, and is kept as long as the executable, or until the stream has passed.
        let uploaded = unsafe { staging.upload(&self.stream, constants.address(), work.constants.len(), fill) };
        if uploaded.is_err() {
            let _ = self.stream.synchronize();
        }
        uploaded?;
        let buffers = plan.buffers.iter().map(|_| None).collect();
        Ok(Ready { work, constants, scratch, arena, staging, buffers, events, programs: Vec::new() })
    }
}

/// Takes memory for what comes from the host or goes there, and completes where everything lies.
fn take_buffers(shared: &Arc<Shared>, plan: &Plan, ready: &mut Ready, bound: &Bound) -> Result<Vec<Option<Lying>>> {
    let mut lying = bound.lying.clone();
    for transfer in bound.inputs.iter().chain(&bound.outputs) {
        let slot = &mut ready.buffers[transfer.buffer];
        if slot.is_none() {
            *slot = Some(shared.pool.take(plan.buffers[transfer.buffer].bytes())?);
        }
        lying[transfer.buffer] = slot.as_ref().map(|memory| Lying { address: memory.address(), layout: transfer.travel.layout });
    }
    Ok(lying)
}

/// The launches over these places: those of an earlier run, or new ones.
fn find_program(shared: &Shared, plan: &Plan, tables: &TableSet, ready: &mut Ready, places: Vec<Place>) -> Result<usize> {
    let now = ready.programs.iter().map(|program| program.used).max().unwrap_or(0) + 1;
    if let Some(index) = ready.programs.iter().position(|program| program.key == places) {
        ready.programs[index].used = now;
        return Ok(index);
    }
    let maker = Maker {
        plan,
        tables,
        kernels: &shared.kernels,
        work: &ready.work,
        places: &places,
        constants: ready.constants.address(),
        scratch: ready.scratch.address(),
    };
    let steps = maker.make()?;
    if ready.programs.len() == KEPT_PROGRAMS {
        let oldest = (0..KEPT_PROGRAMS).min_by_key(|&index| ready.programs[index].used).unwrap_or(0);
        ready.programs.swap_remove(oldest);
    }
    // Not yet used: a program that ran once is replayed from then on.
    ready.programs.push(Program { replay: None, key: places, steps, used: 0 });
    Ok(ready.programs.len() - 1)
}

/// Puts all steps on the stream, between events. `true` where an event was recorded before each step.
fn put_program(shared: &Shared, stream: &Arc<Stream>, ready: &mut Ready, index: usize) -> Result<bool> {
    let Ready { events, programs, .. } = ready;
    let now = programs.iter().map(|program| program.used).max().unwrap_or(0) + 1;
    let program = &mut programs[index];
    let last = &events[events.len() - 1];
    let ran_before = program.used > 0;
    let launches = program.steps.iter().map(|step| step.launches.len()).sum::<usize>();
    if shared.replays && stream.can_be_captured() && ran_before && launches > 0 {
        let replay = match &program.replay {
            Some(replay) => replay,
            None => {
                let steps = &program.steps;
                // SAFETY: what is recorded refers to memory that the executable holds, or that is part of the program's key.
                let put = || steps.iter().flat_map(|step| &step.launches).try_for_each(|launch| unsafe { launch.put(stream) });
                program.replay.insert(Replay::record(&shared.device, stream, put)?)
            }
        };
        events[1].record(stream)?;
        // SAFETY: everything lies where it lay when it was recorded: that is the key.
        unsafe { replay.put(stream)? };
        last.record(stream)?;
        return Ok(false);
    }
    events[1].record(stream)?;
    for (step, launches) in program.steps.iter().enumerate() {
        for launch in &launches.launches {
            // SAFETY: what the arguments point to is held by the executable or bound for this run, which waits for the stream.
            unsafe { launch.put(stream)? };
        }
        events[step + 2].record(stream)?;
    }
    if program.steps.is_empty() {
        last.record(stream)?;
    }
    program.used = now;
    Ok(true)
}

/// Whether a step runs on this device, whoever planned it.
fn runs(shared: &Shared, plan: &Plan, kind: &StepKind) -> std::result::Result<(), String> {
    (crate::target().supports)(kind)?;
    let StepKind::Fold(fold) = kind else { return Ok(()) };
    let spec = work::narrowest_spec(plan, fold, grain(plan, fold, shared.device.multiprocessors));
    let (needed, there) = (spec.shared_bytes(), shared.device.shared_bytes);
    if needed > there {
        let (major, minor) = shared.device.capability;
        return Err(format!(
            "it holds the blocks of its levels in {needed} bytes of shared memory, and a device of compute capability {major}.{minor} has {there} for a block"
        ));
    }
    Ok(())
}

/// Loads the kernels that a fold takes where rows lie as the host's do on the device.
fn load_kernels(shared: &Shared, plan: &Plan, fold: &Fold) -> Result<()> {
    let values = fold.load.values();
    let (view, buffer) = (plan.view(values), plan.buffer_of(values));
    if view.features == 0 || fold.stages.last().is_none_or(|stage| plan.table(stage.table).total_rows == 0) {
        return Ok(());
    }
    let (source, by_position) = source_of(plan, fold);
    let size = buffer.dtype.size_u64();
    let strides = [crate::signed_u64(buffer.features.saturating_mul(size)), crate::signed_u64(size)];
    let address = work::ALIGN.wrapping_add(view.first_column.saturating_mul(size));
    let grain = grain(plan, fold, shared.device.multiprocessors);
    let spec = spec_of(plan, fold, grain, index_of(plan, fold), source, |most| {
        Access::best(source, buffer.dtype, view.features, address, strides, by_position, most)
    })
    .within(shared.device.shared_bytes);
    shared.kernels.get(&KernelSpec::Fold(spec), "lf_fold")?;
    if let Some(top) = fold.stages.last()
        && plan.table(top.table).longest > grain.piece_rows()
    {
        for reduction in &top.reductions {
            let (kernel, entry) = work::reduction_spec(reduction).finishing();
            shared.kernels.get(&kernel, entry)?;
        }
    }
    Ok(())
}

impl Executable for CudaExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        let start = Instant::now();
        let shared = Arc::clone(&self.shared);
        let _entered = shared.device.enter()?;
        let _turn = shared.turn();
        let fetching = Fetching { shared: &shared, pool: &shared.pool, stream: &self.stream };
        self.tables.check_on(&self.plan, bindings, &fetching)?;
        let done = self.run_checked(bindings);
        if let Err(error) = done {
            // Whatever is still under way ends before memory is handed on.
            let _ = self.stream.synchronize();
            if let Some(ready) = &mut self.ready {
                ready.staging.reset();
                // What was launched half way is launched anew, and recorded anew.
                ready.programs.clear();
            }
            return Err(error);
        }
        self.report.time = start.elapsed();
        Ok(&self.report)
    }

    fn scratch_bytes(&self) -> u64 {
        match &self.ready {
            Some(ready) => ready.scratch.bytes() + ready.constants.bytes() + ready.staging.bytes(),
            None => self.most_scratch,
        }
    }
}

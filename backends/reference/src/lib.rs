//! The reference backend: what a plan means, step by step, on one thread.
//!
//! It is the oracle that every other backend is held against, so it is written to be obviously right and not to be fast. Guaranteed:
//!
//! - Every step of every verified plan runs, whatever was fused or left literal, over bindings of any strides.
//! - All arena buffers live in one allocation, at the offsets that the plan gives them: a wrong offset or lifetime gives wrong results.
//!   [`with_poison`](ReferenceBackend::with_poison) makes it give them for certain.
//! - [`StepReport`]s are measured: every element and table entry is counted where it is loaded or stored, and
//!   every operation on numbers where it is done.
//! - Scalar operations come from [`levelfold::numerics`], but the tree above the blocks is its own: level by level, with no counter.

mod copy;
mod encode;
mod flops;
mod fold;
mod histogram;
mod memory;
mod named;
mod scalar;
mod tree;

use levelfold::backend::{Backend, Bindings, Executable, RunReport, StepReport, TableSet, Target};
use levelfold::custom::Registry;
use levelfold::ids::StepId;
use levelfold::plan::{Buffer, PLAN_VERSION, Place, Plan, StepKind, Tile};
use levelfold::{Error, ErrorCode, Result};
use memory::{Memory, Window, size};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The name of the target that plans for this backend carry.
pub const TARGET: &str = "reference";

/// The reference backend.
#[derive(Clone, Debug)]
pub struct ReferenceBackend {
    target: Target,
    poison: Option<u8>,
    registry: Registry,
}

impl ReferenceBackend {
    /// One thread, literal.
    pub fn new() -> Self {
        ReferenceBackend { target: Target::new(TARGET), poison: None, registry: Registry::new() }
    }

    /// With what users bring: their encoders and reducers, by name and version.
    #[must_use]
    pub fn with_registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Fills the arena with this byte before each run, and each arena buffer again after the last step that uses it.
    ///
    /// A plan that reads what nothing wrote, or what is no longer alive, then gives results that are wrong on every machine.
    #[must_use]
    pub fn with_poison(mut self, byte: u8) -> Self {
        self.poison = Some(byte);
        self
    }
}

impl Default for ReferenceBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for ReferenceBackend {
    fn target(&self) -> &Target {
        &self.target
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        if plan.version != PLAN_VERSION {
            return Err(Error::new(
                ErrorCode::PlanVersion,
                format!("the plan has version {}, this is version {PLAN_VERSION}", plan.version),
            ));
        }
        if &*plan.target != TARGET {
            return Err(Error::new(ErrorCode::WrongTarget, format!("the plan was made for `{}`, this is `{TARGET}`", plan.target))
                .help("plan again for this target"));
        }
        encode::check_custom(plan, &self.registry)?;
        // Words are wide enough to align any element; offsets inside are the plan's.
        let words = size(plan.totals.arena_bytes.div_ceil(8))?;
        Ok(Box::new(ReferenceExecutable {
            arena: vec![0; words],
            tile: vec![0; size(tile_bytes(plan).div_ceil(8))?],
            poison: self.poison,
            registry: self.registry.clone(),
            tables: TableSet::new(),
            report: RunReport::for_plan(plan),
            scratch: fold::scratch_bytes(plan).max(encode::scratch_bytes(plan)).saturating_add(tile_bytes(plan)),
            dying: dying(plan)?,
            plan: Arc::clone(plan),
        }))
    }
}

struct ReferenceExecutable {
    plan: Arc<Plan>,
    arena: Vec<u64>,
    /// The scratch of tiles.
    tile: Vec<u64>,
    poison: Option<u8>,
    registry: Registry,
    tables: TableSet,
    report: RunReport,
    scratch: u64,
    /// What no later step may read, by step, as bytes of the arena.
    dying: Vec<Vec<Range<usize>>>,
}

impl Executable for ReferenceExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        let start = Instant::now();
        self.tables.check(&self.plan, bindings)?;
        let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
        if let Some(poison) = self.poison {
            arena.fill(poison);
        }
        let mut memory = Memory::new(&self.plan, arena, bytemuck::cast_slice_mut(&mut self.tile), bindings);
        self.report.steps.fill(StepReport::default());
        let run = Run { plan: &self.plan, tables: &self.tables, registry: &self.registry, poison: self.poison };
        let mut next = 0;
        while next < self.plan.steps.len() {
            let last = match self.plan.nest_of(StepId::new(next)) {
                [] => {
                    run.step(next, &mut memory, &mut self.report)?;
                    next
                }
                [inner @ .., outermost] => {
                    let mut seen = vec![false; inner.len() + 1];
                    let all = 0..size(self.plan.table(outermost.table).segments)?;
                    run.windows((inner, *outermost), all, &mut seen, (&mut memory, &mut self.report))?;
                    outermost.last.index()
                }
            };
            if let Some(poison) = self.poison {
                for bytes in self.dying[next..=last].iter().flatten() {
                    memory.arena_mut()[bytes.clone()].fill(poison);
                }
            }
            next = last + 1;
        }
        self.report.time = start.elapsed();
        Ok(&self.report)
    }

    fn scratch_bytes(&self) -> u64 {
        self.scratch
    }
}

/// What steps run with.
struct Run<'a> {
    plan: &'a Plan,
    tables: &'a TableSet,
    registry: &'a Registry,
    poison: Option<u8>,
}

impl Run<'_> {
    /// Runs a tile over some segments, window by window: in each, first the tiles inside over what become its rows. `seen` says of which of them a window
    /// was run before.
    fn windows(
        &self,
        (inner, tile): (&[Tile], Tile),
        segments: Range<usize>,
        seen: &mut [bool],
        (memory, report): (&mut Memory<'_, '_>, &mut RunReport),
    ) -> Result<()> {
        let offsets = self.tables.get(tile.table).offsets().unwrap_or(&[]);
        let at = inner.len();
        for window in Tile::windows(offsets.get(segments.start..=segments.end).unwrap_or(&[]), tile.rows) {
            let segments = segments.start + size(window.start)?..segments.start + size(window.end)?;
            let rows = size(offsets[segments.start])?..size(offsets[segments.end])?;
            memory.enter(tile, Window { first: !seen[at], segments, rows: rows.clone() }, self.poison)?;
            if let [further @ .., inner] = inner {
                self.windows((further, *inner), rows, seen, (&mut *memory, &mut *report))?;
            }
            seen[at] = true;
            for index in tile.first.index()..=tile.last.index() {
                self.step(index, memory, report)?;
            }
            memory.leave();
        }
        Ok(())
    }

    /// Runs a step over all that it sees, and adds to what is reported of it.
    fn step(&self, index: usize, memory: &mut Memory<'_, '_>, report: &mut RunReport) -> Result<()> {
        let start = Instant::now();
        let done = match &self.plan.steps[index].kind {
            StepKind::Fold(fold) => fold::run(self.plan, fold, self.tables, memory, self.registry),
            StepKind::Copy(copy) => copy::run(self.plan, copy, self.tables, memory),
            StepKind::Encode(encode) => encode::run(self.plan, encode, self.tables, memory, self.registry),
        };
        done.map_err(|error| error.at_level(StepId::new(index).to_string()))?;
        let (read, written, flops) = memory.take_counts();
        let report = &mut report.steps[index];
        report.time += start.elapsed();
        report.read += read;
        report.written += written;
        report.flops = Some(report.flops.unwrap_or(0) + flops);
        Ok(())
    }
}

/// The scratch of the largest tile.
fn tile_bytes(plan: &Plan) -> u64 {
    plan.tiles.iter().map(|tile| tile.bytes).max().unwrap_or(0)
}

/// For each step, the arena buffers that it is the last to use, unless a later step uses their memory for a buffer that is alive already.
fn dying(plan: &Plan) -> Result<Vec<Vec<Range<usize>>>> {
    let mut dying = vec![Vec::new(); plan.steps.len()];
    for (index, buffer) in plan.buffers.iter().enumerate() {
        let Place::Arena { last, .. } = buffer.place else { continue };
        let (Some(bytes), Some(dead)) = (arena_range(buffer)?, dying.get_mut(last.index())) else { continue };
        let mut others = plan.buffers.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
        let in_use = others.any(|other| match other.place {
            Place::Arena { first, last: end, .. } if first <= last && last < end => {
                matches!(arena_range(other), Ok(Some(range)) if range.start < bytes.end && bytes.start < range.end)
            }
            Place::Arena { .. } | Place::Tile { .. } | Place::Input | Place::Param | Place::Output => false,
        });
        if !in_use {
            dead.push(bytes);
        }
    }
    Ok(dying)
}

/// The bytes of an arena buffer, or `None` for one that lies elsewhere.
fn arena_range(buffer: &Buffer) -> Result<Option<Range<usize>>> {
    match buffer.place {
        Place::Arena { offset, .. } => Ok(Some(size(offset)?..size(offset.saturating_add(buffer.bytes()))?)),
        Place::Tile { .. } | Place::Input | Place::Param | Place::Output => Ok(None),
    }
}

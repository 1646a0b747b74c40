//! What a backend is: two traits, and what they speak about.
//!
//! A [`Target`] is data, so plans are made and snapshotted without the device. A [`Backend`] compiles a plan into an [`Executable`], which
//! runs it over [`Bindings`] as often as one likes. `docs/writing-a-backend.md` is the guide.

mod bindings;
mod device;

pub use bindings::{Bindings, TableSet};
pub use device::{DeviceId, DeviceMemory, DeviceView, DeviceViewMut};

use crate::encoder::ElementOp;
use crate::error::Result;
use crate::plan::{Plan, StepKind};
use std::sync::Arc;
use std::time::Duration;

/// What the planner knows of a backend.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name, as plans carry it.
    pub name: Arc<str>,
    /// The alignment of arena buffers, in bytes: a power of two.
    pub align: u64,
    /// How long a unit of a fused fold may be, and how much it may hold.
    pub fusion: FusionLimits,
    /// How large tiles may be; `None` where encoders do not run [tile by tile](crate::plan::Tile).
    pub tiles: Option<TileLimits>,
    /// Whether a fold may do an operation to the elements that it reads and makes.
    pub element_op: fn(ElementOp) -> bool,
    /// Whether it runs a step, and if not, why.
    pub supports: fn(&StepKind) -> std::result::Result<(), String>,
}

/// When folds of several levels are worth fusing into one step.
///
/// A fused step is cut for threads only between *units*: 32 rows of what its topmost stage folds, with everything beneath them. A level
/// joins a fold as long as the largest unit has at most `unit_rows` leaf rows, or at most one part in `unit_share` of all leaf rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FusionLimits {
    /// Units of up to this many leaf rows are always fine.
    pub unit_rows: u64,
    /// Units of up to one part in this many of all leaf rows are fine.
    pub unit_share: u64,
    /// A fold has at most so many stages.
    pub stages: usize,
    /// A fold has at most so many reductions, over all stages.
    pub reductions: usize,
    /// A fold has at most so many stages with a reducer that [goes over a block's rows](crate::Reducer::passes) more than once.
    pub again: usize,
}

impl Default for FusionLimits {
    fn default() -> Self {
        FusionLimits { unit_rows: 4096, unit_share: 64, stages: usize::MAX, reductions: usize::MAX, again: usize::MAX }
    }
}

/// How large the windows are in which encoders of a level run, up to its fold.
///
/// A window is whole segments, as many as fit `bytes`, or `rows` rows where that is more; a segment that is longer is a window by itself. Where the longest
/// has more rows than both that and one part in `share` of the level, the level is not tiled: its windows would not balance over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileLimits {
    /// Bytes that a worker's window should have: so that it stays in the second cache, beside the parameters of a step.
    pub bytes: u64,
    /// Rows that a window may have however wide they are: parameters are read again for each.
    pub rows: u64,
    /// Segments of up to one part in this many of all rows are fine.
    pub share: u64,
}

impl Default for TileLimits {
    fn default() -> Self {
        TileLimits { bytes: 512 << 10, rows: 192, share: 64 }
    }
}

impl Target {
    /// A target that takes every step, aligned to 64 bytes.
    pub fn new(name: &str) -> Self {
        Target {
            name: name.into(),
            align: 64,
            fusion: FusionLimits::default(),
            tiles: Some(TileLimits::default()),
            element_op: |_| true,
            supports: |_| Ok(()),
        }
    }
}

/// Something that runs plans.
pub trait Backend: Send + Sync {
    /// What it is called, and what it takes.
    fn target(&self) -> &Target;

    /// Loads a plan. The plan was verified; everything that can be prepared before the first run is prepared here.
    ///
    /// # Errors
    /// `unsupported` with the step, `wrong-target`, or what the device says.
    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>>;

    /// Of the host's memory that dropped executables left for later ones, keeps at most so many bytes. Who has a limit for what a run needs asks for that before
    /// the run; a backend that keeps nothing has nothing to do.
    fn keep_at_most(&self, _bytes: u64) {}
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn target(&self) -> &Target {
        (**self).target()
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        (**self).compile(plan)
    }

    fn keep_at_most(&self, bytes: u64) {
        (**self).keep_at_most(bytes);
    }
}

/// A plan, loaded on a backend: run it again and again with new data.
pub trait Executable: Send {
    /// Runs every step. The first call takes what memory it needs; later calls allocate nothing. Every call checks its bindings.
    ///
    /// Implementations begin with [`TableSet::check`], so that every backend refuses the same bindings with the same words.
    ///
    /// # Errors
    /// What [`TableSet::check`] finds, or what the device says. After an error the outputs hold nothing of use, and the executable can be
    /// run again.
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport>;

    /// Bytes that it holds beside the plan's arena: what threads need for themselves.
    fn scratch_bytes(&self) -> u64;
}

/// What one run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunReport {
    /// One entry a step of the plan, in order.
    pub steps: Vec<StepReport>,
    /// From the first step to the last, checks of the bindings included, and transfers where there are any.
    pub time: Duration,
    /// What moved between the host's memory and a device's. Nothing, for a backend that computes where the data lies.
    pub transfers: Transfers,
    /// From the first step to the last by a device's own clock, transfers left out. `None` where the host computes.
    pub device_time: Option<Duration>,
}

/// What moved between the host's memory and a device's in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// How long it took, of the run's time.
    pub time: Duration,
    /// Bytes brought to the device.
    pub uploaded: u64,
    /// Bytes brought back.
    pub downloaded: u64,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// How long it took; zero where a device replays all steps as one, and only the whole is measured.
    pub time: Duration,
    /// Bytes that it read, counted by the rules of [`Cost`](crate::plan::Cost).
    pub read: u64,
    /// Bytes that it wrote.
    pub written: u64,
    /// Arithmetic operations, counted by the same rules where they are done; `None` where a backend does not count them.
    pub flops: Option<u64>,
}

impl RunReport {
    /// A report with room for the steps of a plan.
    pub fn for_plan(plan: &Plan) -> Self {
        RunReport { steps: vec![StepReport::default(); plan.steps.len()], ..RunReport::default() }
    }
}

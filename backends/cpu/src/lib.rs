//! The CPU backend: rayon over pieces of rows, SIMD inside them.
//!
//! It guarantees the bits of [`levelfold::numerics`] for any number of threads and any instruction set. Work is cut by rows and not by
//! segments, at the block boundaries of the fixed bracketing; small work stays on the calling thread, and medium work is shared with threads
//! that look out for it. After the first run of an executable nothing is allocated, and arenas are handed on from one executable to the next.

mod arena;
mod batch;
mod cuts;
mod elements;
mod encode;
mod executable;
mod float_mode;
mod fold;
mod folded;
mod helpers;
mod histogram;
mod kernels;
mod load;
mod lookup;
mod memory;
mod moves;
mod named;
mod narrow;
mod programs;
mod select;
mod siblings;
mod states;
mod stream;
mod tile;
mod trees;
mod turn;
mod vector;

pub use kernels::Isa;

use arena::ArenaPool;
use helpers::Helpers;
use levelfold::backend::{Backend, Executable, Target};
use levelfold::custom::Registry;
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::plan::Plan;
use std::sync::Arc;

/// Steps that move fewer bytes than this run on the calling thread, unless the builder says otherwise: waking another one costs more.
pub const SMALL_BYTES: u64 = 1 << 20;

/// Outputs of at least this many bytes are written past the cache, unless the builder says otherwise: from there on, what is written first has mostly left
/// a cache of common size before the last is, and only pushed out the input.
pub const STREAM_BYTES: u64 = 16 << 20;

/// The CPU backend.
#[derive(Clone)]
pub struct CpuBackend {
    target: Target,
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) pool: Pool,
    /// Who helps with medium work, where the pool is our own.
    pub(crate) helpers: Option<Helpers>,
    pub(crate) isa: Isa,
    pub(crate) arenas: ArenaPool,
    pub(crate) poison: Option<u8>,
    pub(crate) registry: Registry,
    pub(crate) small_bytes: u64,
    pub(crate) stream_bytes: u64,
}

/// Where the work of larger steps runs.
pub(crate) enum Pool {
    /// On the calling thread alone.
    Caller,
    /// On these threads; the caller waits.
    Threads(Arc<rayon::ThreadPool>),
}

impl Pool {
    pub(crate) fn threads(&self) -> usize {
        match self {
            Pool::Caller => 1,
            Pool::Threads(pool) => pool.current_num_threads(),
        }
    }
}

/// How a [`CpuBackend`] is made.
#[derive(Clone, Default)]
pub struct CpuBuilder {
    threads: Option<usize>,
    pool: Option<Arc<rayon::ThreadPool>>,
    isa: Option<Isa>,
    poison: Option<u8>,
    registry: Registry,
    small_bytes: Option<u64>,
    stream_bytes: Option<u64>,
}

impl CpuBuilder {
    /// This many threads; all that the machine has where it is not said.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// A pool of the caller's, instead of one of its own.
    #[must_use]
    pub fn pool(mut self, pool: Arc<rayon::ThreadPool>) -> Self {
        self.pool = Some(pool);
        self
    }

    /// An instruction set, instead of the widest that the machine has. Results are the same.
    #[must_use]
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// Fills the arena with this byte before every run: for tests, which then see what was read before it was written.
    #[must_use]
    pub fn poison(mut self, byte: u8) -> Self {
        self.poison = Some(byte);
        self
    }

    /// Steps that move fewer bytes than this run on the calling thread ([`SMALL_BYTES`] where it is not said). With 0 every step is cut
    /// and spread, however small. Results are the same.
    #[must_use]
    pub fn small_bytes(mut self, bytes: u64) -> Self {
        self.small_bytes = Some(bytes);
        self
    }

    /// Outputs of at least this many bytes are written past the cache ([`STREAM_BYTES`] where it is not said). Results are the same.
    #[must_use]
    pub fn stream_bytes(mut self, bytes: u64) -> Self {
        self.stream_bytes = Some(bytes);
        self
    }

    /// What it knows beside what is built in.
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// The backend.
    ///
    /// # Errors
    /// `option` for zero threads; `backend-unavailable` where threads cannot be started, or the machine lacks the instruction set; what
    /// [`Registry::check`] says of the registry.
    pub fn build(self) -> Result<CpuBackend> {
        self.registry.check()?;
        let isa = self.isa.unwrap_or_else(Isa::widest);
        if !isa.is_available() {
            return Err(Error::new(ErrorCode::BackendUnavailable, format!("this machine has no {isa}"))
                .help("leave the instruction set to the backend"));
        }
        let threads_are_ours = self.pool.is_none();
        let pool = match (self.pool, self.threads) {
            (Some(pool), _) => Pool::Threads(pool),
            (None, Some(0)) => {
                return Err(Error::new(ErrorCode::Option, "the number of threads is 0").help("use 1 or more"));
            }
            (None, threads) => {
                let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
                if threads == 1 { Pool::Caller } else { Pool::Threads(Arc::new(start_pool(threads)?)) }
            }
        };
        let shared = Shared {
            helpers: if threads_are_ours { Some(Helpers::new(pool.threads())) } else { None },
            pool,
            isa,
            arenas: ArenaPool::default(),
            poison: self.poison,
            registry: self.registry,
            small_bytes: self.small_bytes.unwrap_or(SMALL_BYTES),
            stream_bytes: self.stream_bytes.unwrap_or(STREAM_BYTES),
        };
        Ok(CpuBackend { target: target(), shared: Arc::new(shared) })
    }
}

fn start_pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("levelfold-{index}"))
        .build()
        .map_err(|error| Error::new(ErrorCode::BackendUnavailable, format!("{threads} threads cannot be started: {error}")))
}

/// What the planner knows of this backend. The same on every machine, so plans are too.
pub fn target() -> Target {
    Target::new("cpu")
}

impl CpuBackend {
    /// With every thread and the widest instructions of the machine.
    ///
    /// # Errors
    /// `backend-unavailable` where threads cannot be started.
    pub fn new() -> Result<Self> {
        CpuBuilder::default().build()
    }

    /// With options.
    pub fn builder() -> CpuBuilder {
        CpuBuilder::default()
    }

    /// How many threads larger steps run on.
    pub fn threads(&self) -> usize {
        self.shared.pool.threads()
    }

    /// The instruction set that kernels use.
    pub fn isa(&self) -> Isa {
        self.shared.isa
    }
}

impl Backend for CpuBackend {
    fn target(&self) -> &Target {
        &self.target
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        Ok(Box::new(executable::CpuExecutable::new(Arc::clone(&self.shared), Arc::clone(plan))?))
    }

    fn keep_at_most(&self, bytes: u64) {
        self.shared.arenas.keep_at_most(bytes);
    }
}

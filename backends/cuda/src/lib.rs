//! The CUDA backend: the same plans, and the same bits, on an NVIDIA GPU.
//!
//! Nothing of CUDA is linked. The driver and NVRTC, which compiles the kernels for the device that is there, are looked for when a [`CudaBackend`]
//! is opened; what is missing is an error that says so. Planning needs neither: [`target`] is data.
//!
//! A run brings inputs that lie in the host's memory to the device, and outputs back, and tells the time of that apart
//! ([`RunReport::transfers`](levelfold::backend::RunReport::transfers)). Inputs and outputs may lie on the device instead: see [`DeviceTensor`], and
//! [`CudaBackend::device_id`] for memory of one's own. A run returns when it is done.
//!
//! `docs/cuda.md` says how it works and how it is tested. [`spec`] and [`args`] are the interface between this crate and its kernels.

pub mod args;
mod cache;
mod codes;
mod custom;
mod cuts;
mod device;
mod driver;
mod executable;
mod launches;
mod maps;
mod modules;
mod nvrtc;
mod places;
mod pool;
mod replay;
mod sources;
pub mod spec;
mod staging;
mod supports;
mod tables;
mod tensor;
mod work;

pub use driver::{FUNCTIONS as DRIVER_FUNCTIONS, OLDEST_DRIVER};
pub use modules::KernelFacts;
pub use nvrtc::{NvrtcSearch, wheel_folders};
pub use supports::target;
pub use tensor::DeviceTensor;

use cache::Cache;
use device::{Device, Stream};
use driver::Driver;
use levelfold::backend::{Backend, DeviceId, Executable, Target};
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::plan::Plan;
use modules::Kernels;
use nvrtc::Nvrtc;
use pool::Pool;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tables::DeviceTables;

/// The name of the target.
pub(crate) const NAME: &str = "cuda";

/// The CUDA backend, on one device.
#[derive(Clone)]
pub struct CudaBackend {
    target: Target,
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) kernels: Kernels,
    pub(crate) tables: DeviceTables,
    pub(crate) pool: Arc<Pool>,
    pub(crate) poison: Option<u8>,
    pub(crate) replays: bool,
    /// The caller's stream, where one was given.
    pub(crate) of_caller: Option<Arc<Stream>>,
    /// Held by whoever uses the caller's stream: see [`turn`](Self::turn).
    pub(crate) turns: Mutex<()>,
    pub(crate) device: Arc<Device>,
}

impl Shared {
    pub(crate) fn device_id(&self) -> DeviceId {
        DeviceId { backend: NAME, ordinal: self.device.ordinal }
    }

    /// On a stream of the caller's, whoever puts work on it takes turns: what one records, another must not add to.
    pub(crate) fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        self.of_caller.as_ref().map(|_| self.turns.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The caller's stream, or a new one.
    pub(crate) fn stream(&self) -> Result<Arc<Stream>> {
        match &self.of_caller {
            Some(stream) => Ok(Arc::clone(stream)),
            None => Ok(Arc::new(Stream::new(&self.device)?)),
        }
    }
}

/// How a [`CudaBackend`] is opened.
#[derive(Clone, Debug, Default)]
pub struct CudaBuilder {
    device: u32,
    driver: Option<PathBuf>,
    nvrtc: NvrtcSearch,
    cache: Option<PathBuf>,
    memory_limit: Option<u64>,
    poison: Option<u8>,
    measures_steps: bool,
    stream: Option<CallersStream>,
}

#[derive(Clone, Copy, Debug)]
struct CallersStream(cudarc::driver::sys::CUstream);

// SAFETY: whoever gave the stream promised that it may be used from any thread.
unsafe impl Send for CallersStream {}
// SAFETY: as above.
unsafe impl Sync for CallersStream {}

impl CudaBuilder {
    /// Which device, counted from 0; the first where it is not said.
    #[must_use]
    pub fn device(mut self, ordinal: u32) -> Self {
        self.device = ordinal;
        self
    }

    /// The driver's library, instead of the system's. A process has one driver.
    #[must_use]
    pub fn driver(mut self, file: impl Into<PathBuf>) -> Self {
        self.driver = Some(file.into());
        self
    }

    /// Where NVRTC is looked for, beside the system.
    #[must_use]
    pub fn nvrtc(mut self, search: NvrtcSearch) -> Self {
        self.nvrtc = search;
        self
    }

    /// A folder that keeps compiled kernels; it is made when there is something to keep. Without one, each process compiles anew.
    #[must_use]
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// The most bytes of device memory that the backend takes.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Fills the arena with this byte before every run: for tests, which then see what was read before it was written.
    #[must_use]
    pub fn poison(mut self, byte: u8) -> Self {
        self.poison = Some(byte);
        self
    }

    /// Measures each step in every run. Otherwise a plan that runs again is replayed as one, which is faster, and its steps' times are zero.
    #[must_use]
    pub fn measure_steps(mut self) -> Self {
        self.measures_steps = true;
        self
    }

    /// Runs everything on a stream of the caller's (a `CUstream` as a number), behind what is on it already. Runs take turns.
    ///
    /// # Safety
    /// The stream belongs to the primary context of the device, stays as long as the backend and all that comes from it, and is not being captured while
    /// something runs.
    #[must_use]
    pub unsafe fn stream(mut self, stream: usize) -> Self {
        self.stream = Some(CallersStream(std::ptr::with_exposed_provenance_mut(stream)));
        self
    }

    /// The backend.
    ///
    /// # Errors
    /// `backend-unavailable`, in one sentence: no driver, one that is too old, no device, no NVRTC that fits the driver.
    pub fn build(self) -> Result<CudaBackend> {
        let driver = Driver::open(self.driver.as_deref())?;
        let device = Device::open(driver, self.device)?;
        let nvrtc = Nvrtc::find(&self.nvrtc, driver.version(), device.capability)?;
        let kernels = Kernels::new(Arc::clone(&device), nvrtc, Cache::new(self.cache));
        let shared = Shared {
            kernels,
            tables: DeviceTables::default(),
            pool: Arc::new(Pool::new(Arc::clone(&device), self.memory_limit)),
            poison: self.poison,
            replays: !self.measures_steps,
            of_caller: self.stream.map(|stream| Arc::new(Stream::of_caller(&device, stream.0))),
            turns: Mutex::new(()),
            device,
        };
        Ok(CudaBackend { target: supports::target_of(shared.device.shared_bytes), shared: Arc::new(shared) })
    }
}

/// What a backend found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The device's name.
    pub device: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Its memory, in bytes.
    pub memory: u64,
    /// How much of it is free.
    pub free: u64,
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// The CUDA release that the driver is made for, as `12.8`.
    pub driver: String,
    /// The release of NVRTC, as `12.9`.
    pub nvrtc: String,
    /// The file that NVRTC was found at, or the name that the system knows it by.
    pub nvrtc_found: String,
    /// The folder of compiled kernels.
    pub cache: Option<PathBuf>,
}

impl CudaBackend {
    /// The first device, with what the system has. Compiled kernels are not kept.
    ///
    /// # Errors
    /// As for [`CudaBuilder::build`].
    pub fn new() -> Result<Self> {
        CudaBuilder::default().build()
    }

    /// With options.
    pub fn builder() -> CudaBuilder {
        CudaBuilder::default()
    }

    /// The device, the driver and the compiler.
    ///
    /// # Errors
    /// What the driver says.
    pub fn facts(&self) -> Result<Facts> {
        let (device, nvrtc) = (&self.shared.device, &self.shared.kernels.nvrtc);
        Ok(Facts {
            device: device.name.clone(),
            capability: device.capability,
            memory: device.total_bytes,
            free: device.free_bytes()?,
            multiprocessors: device.multiprocessors,
            driver: driver::shown_version(device.driver.version()),
            nvrtc: format!("{}.{}", nvrtc.version.0, nvrtc.version.1),
            nvrtc_found: nvrtc.found.clone(),
            cache: self.shared.kernels.cache.folder().map(PathBuf::from),
        })
    }

    /// The kernels that were loaded so far.
    pub fn kernels(&self) -> Vec<KernelFacts> {
        self.shared.kernels.facts()
    }
}

impl Backend for CudaBackend {
    fn target(&self) -> &Target {
        &self.target
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        Ok(Box::new(executable::CudaExecutable::new(Arc::clone(&self.shared), Arc::clone(plan))?))
    }
}

/// `usize` → `u64`: exact on every machine that this crate builds for.
pub(crate) fn wide(value: usize) -> u64 {
    const { assert!(usize::BITS <= 64, "addresses have at most 64 bits") };
    value as u64
}

/// `isize` → `i64`: exact on every machine that this crate builds for.
pub(crate) fn signed(value: isize) -> i64 {
    const { assert!(isize::BITS <= 64, "addresses have at most 64 bits") };
    value as i64
}

/// A size as a stride: no memory is larger than `i64::MAX` bytes.
pub(crate) fn signed_u64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// `u64` → `usize`, or an error where this machine has no such address.
pub(crate) fn narrow(value: u64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::new(ErrorCode::Overflow, format!("{value} is more than this machine can address")))
}

//! The CUDA driver: found when it is first asked for, and never a panic.
//!
//! cudarc declares the driver's functions and looks each one up at its first call; a library or a function that is missing is a panic there. So
//! [`Driver::open`] looks for the library first, and for every function that this crate calls, and says in an error what is not there.
//! Nothing else in this crate calls cudarc without a [`Driver`].

use cudarc::driver::sys;
use levelfold::error::{Error, ErrorCode, Result};
use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The oldest driver that is taken, as the driver numbers versions: 12.0.
pub const OLDEST_DRIVER: i32 = 12_000;

/// Every function of the driver that this crate calls.
pub const FUNCTIONS: [&str; 41] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// Proof that the driver is loaded, has every function, and was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    version: i32,
}

/// The library that this process was told to load. There is one driver a process.
static TOLD: Mutex<Option<PathBuf>> = Mutex::new(None);

impl Driver {
    /// Finds and starts the driver: the library at `path`, or the system's.
    ///
    /// # Errors
    /// `backend-unavailable`: there is no driver, it is too old, or it does not start.
    pub(crate) fn open(path: Option<&Path>) -> Result<Driver> {
        if let Some(path) = path {
            load(path)?;
        }
        // SAFETY: this loads and unloads libraries of the driver's names, as the first call would.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::new(ErrorCode::BackendUnavailable, "this machine has no CUDA driver (libcuda.so.1 is not found)")
                .help("install NVIDIA's driver, or use --backend cpu"));
        }
        if let Some(path) = path {
            is_taken(path)?;
        }
        for name in FUNCTIONS {
            // SAFETY: the library is there, as was just seen; the address is not called here.
            if unsafe { sys::culib().get::<*const c_void>(name.as_bytes()) }.is_err() {
                return Err(too_old(format!("the CUDA driver has no function {name}")));
            }
        }
        let mut version = 0;
        // SAFETY: the functions exist; `version` lives across the call.
        unsafe {
            start(sys::cuInit(0))?;
            start(sys::cuDriverGetVersion(&raw mut version))?;
        }
        if version < OLDEST_DRIVER {
            return Err(too_old(format!("the CUDA driver is made for CUDA {}", shown_version(version))));
        }
        Ok(Driver { version })
    }

    /// As the driver numbers versions: 1000 · major + 10 · minor.
    pub(crate) fn version(self) -> i32 {
        self.version
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn devices(self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: the functions exist; `count` lives across the call.
        start(unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }
}

/// `12.8` for 12080.
pub(crate) fn shown_version(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn too_old(found: String) -> Error {
    Error::new(ErrorCode::BackendUnavailable, format!("{found}, which is too old"))
        .help(format!("install a driver for CUDA {} or later, or use --backend cpu", shown_version(OLDEST_DRIVER)))
}

/// Loads the library at a path, under its own name, where cudarc's search then finds it.
fn load(path: &Path) -> Result<()> {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    match &*told {
        Some(before) if before == path => return Ok(()),
        Some(before) => {
            return Err(Error::new(
                ErrorCode::Option,
                format!("the driver {} is asked for, but this process has loaded {}", path.display(), before.display()),
            )
            .help("use one driver in a process"));
        }
        None => {}
    }
    // SAFETY: the user names a CUDA driver; loading a library runs its initializers, which is what is asked for.
    let library =
        unsafe { libloading::os::unix::Library::open(Some(path), libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL) };
    match library {
        Ok(library) => {
            // It stays loaded: cudarc keeps addresses of its functions.
            std::mem::forget(library);
            *told = Some(path.to_path_buf());
            Ok(())
        }
        Err(error) => Err(Error::new(ErrorCode::BackendUnavailable, format!("the driver {} cannot be loaded: {error}", path.display()))
            .help("leave the path out, and the system's driver is used")),
    }
}

/// Whether the library at a path, which was loaded, is the one that cudarc calls: it looks for `libcuda.so` first, and where the system has one under just that name,
/// takes it.
fn is_taken(path: &Path) -> Result<()> {
    // SAFETY: both are loaded already; the addresses are compared, and not called.
    let (told, taken) = unsafe {
        let told = libloading::os::unix::Library::open(Some(path), libloading::os::unix::RTLD_NOW);
        let address = told.as_ref().ok().and_then(|library| library.get::<*const c_void>(b"cuInit").ok().map(|symbol| *symbol));
        (address, sys::culib().get::<*const c_void>(b"cuInit").ok().map(|symbol| *symbol))
    };
    if told == taken {
        return Ok(());
    }
    let message = format!("the driver {} is asked for, but the system has another as libcuda.so, which comes first", path.display());
    Err(Error::new(ErrorCode::Option, message)
        .help("put the folder of the one that is asked for, with a libcuda.so in it, into LD_LIBRARY_PATH"))
}

/// A call while the driver is started.
fn start(result: sys::CUresult) -> Result<()> {
    let help = match result {
        sys::CUresult::CUDA_SUCCESS => return Ok(()),
        sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(no_device()),
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda.so that is found is a stub to link against: take its folder out of LD_LIBRARY_PATH"
        }
        sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => "the driver's library and kernel module differ: restart the machine",
        _ => "look at nvidia-smi, or use --backend cpu",
    };
    Err(Error::new(ErrorCode::BackendUnavailable, format!("the CUDA driver does not start: {}", name_of(result))).help(help))
}

pub(crate) fn no_device() -> Error {
    Error::new(ErrorCode::BackendUnavailable, "the CUDA driver finds no device")
        .help("look at nvidia-smi and at CUDA_VISIBLE_DEVICES, or use --backend cpu")
}

/// A call that opens a device. One that is full, or that another process has for itself, is as good as none.
pub(crate) fn opened(result: sys::CUresult) -> Result<()> {
    let help = match result {
        sys::CUresult::CUDA_SUCCESS => return Ok(()),
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => "its memory is full: look at nvidia-smi, or use --backend cpu",
        _ => "another process may have it for itself: look at nvidia-smi, or use --backend cpu",
    };
    Err(Error::new(ErrorCode::BackendUnavailable, format!("the CUDA device cannot be opened: {}", name_of(result))).help(help))
}

/// Holds the result of a call: what it was for, and what the driver says.
pub(crate) fn check(result: sys::CUresult, what: &str) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    if result == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Err(Error::new(ErrorCode::MemoryLimit, format!("{what}: the device has no memory left"))
            .help("keep fewer levels, fold fewer rows at once, or free memory of the device"));
    }
    let error = Error::new(ErrorCode::Device, format!("{what}: {}", name_of(result)));
    Err(match result {
        // A context that met one of these takes no more work, nor does the process get another.
        sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | sys::CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | sys::CUresult::CUDA_ERROR_ASSERT
        | sys::CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | sys::CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | sys::CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | sys::CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | sys::CUresult::CUDA_ERROR_INVALID_PC
        | sys::CUresult::CUDA_ERROR_LAUNCH_FAILED
        | sys::CUresult::CUDA_ERROR_ECC_UNCORRECTABLE => error.help("the device takes no more work of this process: start it again"),
        sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            error.help("NVRTC does not know this device, and what it makes for later ones is too new for the driver: install a later driver, or an NVRTC that knows it")
        }
        _ => error,
    })
}

/// `CUDA_ERROR_INVALID_VALUE (invalid argument)`.
fn name_of(result: sys::CUresult) -> String {
    let text = |get: unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: the functions exist (this is called with a result of the driver); `text` is written, or stays null.
        unsafe {
            let _ = get(result, &raw mut text);
            if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
        }
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("error {}", result as u32));
    match text(sys::cuGetErrorString) {
        Some(words) => format!("{name} ({words})"),
        None => name,
    }
}

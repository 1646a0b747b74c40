//! NVRTC, the compiler of kernels: found where it lies, and called through its few functions.
//!
//! cudarc looks for NVRTC under fixed names only, and its safe interface has neither the code for one device nor the log of a compilation that
//! succeeded. Releases 12 and 13 have the same functions.

use levelfold::error::{Error, ErrorCode, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// Where NVRTC is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvrtcSearch {
    /// This file and no other.
    pub file: Option<PathBuf>,
    /// Folders to look into when the system does not know it: see [`wheel_folders`].
    pub folders: Vec<PathBuf>,
}

/// Where the wheels `nvidia-cuda-nvrtc` (release 13) and `nvidia-cuda-nvrtc-cu12` put NVRTC, below a `site-packages` folder of Python.
pub fn wheel_folders(site_packages: &Path) -> [PathBuf; 2] {
    let nvidia = site_packages.join("nvidia");
    [nvidia.join("cu13").join("lib"), nvidia.join("cuda_nvrtc").join("lib")]
}

/// The names that the system's loader is asked for, the newest release first.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// The least release that is taken.
const OLDEST: (i32, i32) = (12, 0);

type Program = *mut c_void;
type Status = c_int;

/// The compiler, loaded. It is never unloaded: it starts threads and keeps state of its own.
pub(crate) struct Nvrtc {
    pub(crate) version: (i32, i32),
    /// The file, or the name that the system's loader knows it by.
    pub(crate) found: String,
    create: unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    known_count: unsafe extern "C" fn(*mut c_int) -> Status,
    known: unsafe extern "C" fn(*mut c_int) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    error: unsafe extern "C" fn(Status) -> *const c_char,
}

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Code that devices of this capability run, and later ones of the same major number: 90 for 9.0.
    Code(u32),
    /// PTX of this capability, of which the driver makes code for any later device: where the compiler is older than the device.
    Text(u32),
}

impl Architecture {
    /// As compilers name it.
    pub(crate) fn name(self) -> String {
        match self {
            Architecture::Code(number) => format!("sm_{number}"),
            Architecture::Text(number) => format!("compute_{number}"),
        }
    }

    /// The best of what a compiler knows for a device: its own; else the latest before it of the same major number; else a text of the latest before it.
    fn of(device: u32, known: &[u32]) -> Option<Architecture> {
        let before = known.iter().copied().filter(|&one| one <= device).max()?;
        Some(if before / 10 == device / 10 { Architecture::Code(before) } else { Architecture::Text(before) })
    }
}

/// What a compilation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// Code for one architecture, or a text that the driver makes code of ([`Architecture`]).
    pub(crate) code: Vec<u8>,
    /// What the compiler said; empty where it had nothing to say.
    pub(crate) log: String,
}

impl Nvrtc {
    /// Finds NVRTC: the file that was told, or else what the system's loader knows, or else what lies in the folders. A release that is newer
    /// than what the driver (`driver`, 1000 · major) runs is passed over, and so is one that makes no code for the device.
    ///
    /// # Errors
    /// `backend-unavailable`, with everything that was tried.
    pub(crate) fn find(search: &NvrtcSearch, driver: i32, capability: (i32, i32)) -> Result<Nvrtc> {
        let mut tried: Vec<Error> = Vec::new();
        let candidates = match &search.file {
            Some(file) => vec![file.clone()],
            None => candidates(&search.folders),
        };
        for candidate in candidates {
            match Self::load(&candidate) {
                Ok(nvrtc) if nvrtc.version < OLDEST => tried.push(unfit(&nvrtc, "which is too old")),
                Ok(nvrtc) if nvrtc.version.0 > driver / 1000 => {
                    let reason = format!("and the driver runs code for CUDA {} and before", crate::driver::shown_version(driver));
                    tried.push(unfit(&nvrtc, &reason));
                }
                Ok(nvrtc) => match nvrtc.architecture(capability) {
                    Ok(_) => return Ok(nvrtc),
                    Err(error) => tried.push(error),
                },
                Err(error) => tried.push(error),
            }
        }
        // Release 13 begins at 7.5.
        let wheel = if driver / 1000 >= 13 && capability >= (7, 5) { "nvidia-cuda-nvrtc" } else { "nvidia-cuda-nvrtc-cu12" };
        let help = format!("install it (pip install {wheel} has it), or say where it is with --nvrtc");
        // One sentence, where there is something to say beyond that it is nowhere.
        let unfit = tried.iter().find(|error| error.code() == ErrorCode::BackendUnavailable);
        let message = match (unfit, &search.file) {
            (Some(unfit), _) => unfit.message().to_owned(),
            (None, Some(_)) => tried.first().map_or_else(String::new, |error| error.message().to_owned()),
            (None, None) => "NVRTC, which compiles the kernels, is not found".to_owned(),
        };
        Err(Error::new(ErrorCode::BackendUnavailable, message).help(help))
    }

    /// Loads one library, by its path or by a name that the system knows.
    fn load(file: &Path) -> Result<Nvrtc> {
        let shown = file.display().to_string();
        let missing = |error: &dyn std::fmt::Display| Error::new(ErrorCode::File, format!("NVRTC cannot be loaded from {shown}: {error}"));
        // The part that holds the built-in functions is looked for by name when something is compiled, so it has to be there already.
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            for builtins in files_that_start(folder, "libnvrtc-builtins.so") {
                // SAFETY: the companion of the library that is loaded next; its initializers are NVIDIA's.
                if let Ok(library) = unsafe { Library::open(Some(&builtins), RTLD_NOW | RTLD_GLOBAL) } {
                    std::mem::forget(library);
                }
            }
        }
        // SAFETY: the file is NVRTC by its name or by the user's word.
        let library = unsafe { Library::open(Some(file), RTLD_NOW) }.map_err(|error| missing(&error))?;
        // SAFETY: each name is looked up with the type that NVRTC's documentation gives it.
        let nvrtc = unsafe {
            let version: libloading::os::unix::Symbol<unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status> =
                library.get(b"nvrtcVersion").map_err(|error| missing(&error))?;
            let (mut major, mut minor) = (0, 0);
            if version(&raw mut major, &raw mut minor) != 0 {
                return Err(missing(&"it does not tell its version"));
            }
            Nvrtc {
                version: (major, minor),
                found: shown.clone(),
                create: *library.get(b"nvrtcCreateProgram").map_err(|error| missing(&error))?,
                destroy: *library.get(b"nvrtcDestroyProgram").map_err(|error| missing(&error))?,
                compile: *library.get(b"nvrtcCompileProgram").map_err(|error| missing(&error))?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize").map_err(|error| missing(&error))?,
                cubin: *library.get(b"nvrtcGetCUBIN").map_err(|error| missing(&error))?,
                ptx_size: *library.get(b"nvrtcGetPTXSize").map_err(|error| missing(&error))?,
                ptx: *library.get(b"nvrtcGetPTX").map_err(|error| missing(&error))?,
                known_count: *library.get(b"nvrtcGetNumSupportedArchs").map_err(|error| missing(&error))?,
                known: *library.get(b"nvrtcGetSupportedArchs").map_err(|error| missing(&error))?,
                log_size: *library.get(b"nvrtcGetProgramLogSize").map_err(|error| missing(&error))?,
                log: *library.get(b"nvrtcGetProgramLog").map_err(|error| missing(&error))?,
                error: *library.get(b"nvrtcGetErrorString").map_err(|error| missing(&error))?,
            }
        };
        std::mem::forget(library);
        Ok(nvrtc)
    }

    /// What kernels are compiled for, where a device has this compute capability.
    ///
    /// # Errors
    /// `backend-unavailable` where this release makes code for later devices only.
    pub(crate) fn architecture(&self, (major, minor): (i32, i32)) -> Result<Architecture> {
        let mut count = 0;
        // SAFETY: `count` lives across the call.
        self.ok(unsafe { (self.known_count)(&raw mut count) }, "the architectures that it knows")?;
        let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the list has as many places as were told.
        self.ok(unsafe { (self.known)(known.as_mut_ptr()) }, "the architectures that it knows")?;
        let known: Vec<u32> = known.into_iter().filter_map(|one| u32::try_from(one).ok()).collect();
        Architecture::of(u32::try_from(major * 10 + minor).unwrap_or(0), &known).ok_or_else(|| {
            let (release, of) = self.version;
            let message = format!("NVRTC {release}.{of} makes no code for devices of compute capability {major}.{minor}");
            Error::new(ErrorCode::BackendUnavailable, message)
        })
    }

    /// Compiles a source for an architecture.
    ///
    /// # Errors
    /// `device` with the first lines of the log: a kernel of ours that does not compile.
    pub(crate) fn compile(&self, name: &str, source: &str, options: &[String], architecture: Architecture) -> Result<Compiled> {
        let text = |text: &str| CString::new(text).map_err(|_| Error::new(ErrorCode::Internal, "a kernel's source has a zero byte"));
        let (source, file) = (text(source)?, text(name)?);
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<CString>>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: all strings end with a zero byte and live across the calls; the program is destroyed by `Destroy` on every way out;
        // the buffers have the sizes that were told.
        unsafe {
            self.ok((self.create)(&raw mut program, source.as_ptr(), file.as_ptr(), 0, std::ptr::null(), std::ptr::null()), name)?;
            let program = Destroy { nvrtc: self, program };
            let status = (self.compile)(program.program, count, pointers.as_ptr());
            let log = self.read_log(program.program);
            if status != 0 {
                let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).take(6).collect();
                let error = Error::new(
                    ErrorCode::Device,
                    format!(
                        "NVRTC {}.{} does not compile {name}: {}: {}",
                        self.version.0,
                        self.version.1,
                        self.told(status),
                        lines.join(" / ")
                    ),
                );
                return Err(error);
            }
            let mut size = 0;
            let (size_of, get) = match architecture {
                Architecture::Code(_) => (self.cubin_size, self.cubin),
                // A zero byte ends it, which the driver needs.
                Architecture::Text(_) => (self.ptx_size, self.ptx),
            };
            self.ok(size_of(program.program, &raw mut size), name)?;
            let mut code = vec![0u8; size];
            self.ok(get(program.program, code.as_mut_ptr().cast()), name)?;
            Ok(Compiled { code, log })
        }
    }

    /// The log of a program.
    ///
    /// # Safety
    /// The program exists.
    unsafe fn read_log(&self, program: Program) -> String {
        let mut size = 0;
        // SAFETY: the caller's promise; the buffer has the size that was told.
        unsafe {
            if (self.log_size)(program, &raw mut size) != 0 || size == 0 {
                return String::new();
            }
            let mut log = vec![0u8; size];
            if (self.log)(program, log.as_mut_ptr().cast()) != 0 {
                return String::new();
            }
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(size);
            String::from_utf8_lossy(&log[..end]).trim().to_owned()
        }
    }

    fn ok(&self, status: Status, name: &str) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(Error::new(ErrorCode::Device, format!("NVRTC over {name}: {}", self.told(status)))) }
    }

    fn told(&self, status: Status) -> String {
        // SAFETY: NVRTC gives a constant string for every number.
        let text = unsafe { (self.error)(status) };
        if text.is_null() {
            return format!("error {status}");
        }
        // SAFETY: as above.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

struct Destroy<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Drop for Destroy<'_> {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        unsafe { (self.nvrtc.destroy)(&raw mut self.program) };
    }
}

fn unfit(nvrtc: &Nvrtc, reason: &str) -> Error {
    let (major, minor) = nvrtc.version;
    Error::new(ErrorCode::BackendUnavailable, format!("NVRTC at {} is release {major}.{minor}, {reason}", nvrtc.found))
}

/// The system's names, then the files of the folders, the newest release of each folder first.
fn candidates(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = NAMES.iter().map(PathBuf::from).collect();
    for folder in folders {
        let mut files = files_that_start(folder, "libnvrtc.so");
        files.reverse();
        found.extend(files);
    }
    found
}

/// The files of a folder whose names start so, in order. None where it cannot be read.
fn files_that_start(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_told_with_what_to_do() {
        let search = NvrtcSearch { file: Some("/nowhere/libnvrtc.so.12".into()), folders: Vec::new() };
        let error = Nvrtc::find(&search, 12_080, (9, 0)).err().expect("no such file");
        assert_eq!(error.code(), ErrorCode::BackendUnavailable);
        assert!(error.message().contains("/nowhere/libnvrtc.so.12"), "{error}");
        assert!(error.to_string().contains("pip install nvidia-cuda-nvrtc-cu12"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_library_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("libnvrtc.so.12");
        std::fs::write(&file, b"no library").expect("written");
        let error = Nvrtc::load(&file).err().expect("no library");
        assert!(error.to_string().contains("libnvrtc.so.12"), "{error}");
    }

    #[test]
    fn a_device_has_its_own_code_or_that_of_its_family_or_a_text() {
        let known = [75, 80, 86, 90, 100, 103];
        for (device, wanted) in [
            (90, Some(Architecture::Code(90))),
            (89, Some(Architecture::Code(86))),
            (101, Some(Architecture::Code(100))),
            (120, Some(Architecture::Text(103))),
            (70, None),
        ] {
            assert_eq!(Architecture::of(device, &known), wanted, "{device}");
        }
        assert_eq!(Architecture::of(90, &[]), None);
        assert_eq!((Architecture::Code(90).name(), Architecture::Text(103).name()), ("sm_90".to_owned(), "compute_103".to_owned()));
    }

    #[test]
    fn folders_come_after_the_system_and_the_newest_release_first() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "other.so"] {
            std::fs::write(folder.path().join(name), b"").expect("written");
        }
        let names: Vec<String> = candidates(&[folder.path().to_path_buf(), "/nowhere".into()])
            .iter()
            .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]);
    }
}

//! NVRTC, the compiler of kernels: found where it lies, and called through its nine functions.
//!
//! cudarc looks for NVRTC under fixed names only, and its safe interface has neither the code for one device nor the log of a compilation that
//! succeeded. Releases 12 and 13 have the same nine functions.

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
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    error: unsafe extern "C" fn(Status) -> *const c_char,
}

/// What a compilation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// Code for one architecture.
    pub(crate) cubin: Vec<u8>,
    /// What the compiler said; empty where it had nothing to say.
    pub(crate) log: String,
}

impl Nvrtc {
    /// Finds NVRTC: the file that was told, or else what the system's loader knows, or else what lies in the folders. A release that is newer
    /// than what the driver (`driver`, 1000 · major) runs is passed over.
    ///
    /// # Errors
    /// `backend-unavailable`, with everything that was tried.
    pub(crate) fn find(search: &NvrtcSearch, driver: i32) -> Result<Nvrtc> {
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
                Ok(nvrtc) => return Ok(nvrtc),
                Err(error) => tried.push(error),
            }
        }
        let wheel = if driver / 1000 >= 13 { "nvidia-cuda-nvrtc" } else { "nvidia-cuda-nvrtc-cu12" };
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
                log_size: *library.get(b"nvrtcGetProgramLogSize").map_err(|error| missing(&error))?,
                log: *library.get(b"nvrtcGetProgramLog").map_err(|error| missing(&error))?,
                error: *library.get(b"nvrtcGetErrorString").map_err(|error| missing(&error))?,
            }
        };
        std::mem::forget(library);
        Ok(nvrtc)
    }

    /// Compiles a source to code for one architecture.
    ///
    /// # Errors
    /// `device` with the first lines of the log: a kernel of ours that does not compile, or an architecture that this release does not know.
    pub(crate) fn compile(&self, name: &str, source: &str, options: &[String]) -> Result<Compiled> {
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
                // 5: an option is not known, which the architecture is when the device is newer than the compiler.
                return Err(if status == 5 { error.help("the device may be newer than this NVRTC: install a later one") } else { error });
            }
            let mut size = 0;
            self.ok((self.cubin_size)(program.program, &raw mut size), name)?;
            let mut cubin = vec![0u8; size];
            self.ok((self.cubin)(program.program, cubin.as_mut_ptr().cast()), name)?;
            Ok(Compiled { cubin, log })
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
        let error = Nvrtc::find(&search, 12_080).err().expect("no such file");
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

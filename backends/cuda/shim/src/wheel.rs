//! The real NVRTC, from its wheel: it compiles for GPUs and needs none.

use crate::build::{folder, lock};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that is fetched.
pub const NVRTC_VERSION: &str = "13.0.88";

/// What the file that is fetched must be (x86-64).
const SHA256: &str = "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575";

/// The folder with NVRTC's libraries, fetched by pip into the target folder where they are not there yet.
///
/// # Errors
/// There is no Python with pip, or it cannot fetch.
pub fn nvrtc_wheel() -> Result<PathBuf, String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("the wheel that is pinned is for Linux on x86-64".to_owned());
    }
    let root = folder()?;
    let _lock = lock(&root, "wheel.lock")?;
    let unpacked = root.join(format!("nvrtc-{NVRTC_VERSION}"));
    let libraries = unpacked.join("nvidia").join("cu13").join("lib");
    if libraries.join("libnvrtc.so.13").exists() {
        return Ok(libraries);
    }
    let wheels = root.join("wheels");
    fs::create_dir_all(&wheels).map_err(|error| format!("{}: {error}", wheels.display()))?;
    let wanted = wheels.join("requirements.txt");
    fs::write(&wanted, format!("nvidia-cuda-nvrtc=={NVRTC_VERSION} --hash=sha256:{SHA256}\n")).map_err(|error| error.to_string())?;
    let pip =
        ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--require-hashes"];
    python(Command::new("python3").args(pip).arg("-d").arg(&wheels).arg("-r").arg(&wanted))?;
    let name = format!("nvidia_cuda_nvrtc-{NVRTC_VERSION}-");
    let wheel = fs::read_dir(&wheels)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name)))
        .ok_or("pip fetched nothing")?;
    let unfinished = root.join("nvrtc.unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    python(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unfinished))?;
    fs::rename(&unfinished, &unpacked).map_err(|error| format!("{}: {error}", unpacked.display()))?;
    fs::remove_file(&wheel).map_err(|error| error.to_string())?;
    Ok(libraries)
}

fn python(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("python3 cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("NVRTC's wheel cannot be fetched: {}", said.lines().last().unwrap_or("python3 failed")))
}

/// What a kernel takes of a device, as the assembler says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The kernel.
    pub kernel: String,
    /// Registers a thread.
    pub registers: u32,
    /// Static shared memory a block.
    pub shared: u32,
    /// Bytes of local memory a thread.
    pub stack: u32,
    /// Bytes stored because registers ran out.
    pub spill_stores: u32,
    /// Bytes loaded again.
    pub spill_loads: u32,
}

/// NVRTC, loaded.
pub struct Nvrtc {
    library: Library,
}

impl Nvrtc {
    /// Loads it from the folder of [`nvrtc_wheel`].
    ///
    /// # Errors
    /// What the system's loader says.
    pub fn open(folder: &Path) -> Result<Nvrtc, String> {
        // SAFETY: NVIDIA's libraries, as their wheel has them. The built-in functions are looked for by name later, so they come first, and stay.
        unsafe {
            let builtins =
                Library::open(Some(folder.join("libnvrtc-builtins.so.13.0")), RTLD_NOW | RTLD_GLOBAL).map_err(|error| error.to_string())?;
            std::mem::forget(builtins);
            let library = Library::open(Some(folder.join("libnvrtc.so.13")), RTLD_NOW).map_err(|error| error.to_string())?;
            Ok(Nvrtc { library })
        }
    }

    /// Compiles for one architecture, and says what each kernel takes. What was compiled once is known the next time: the log lies in the target folder, by a
    /// hash of all that it follows from.
    ///
    /// # Errors
    /// The compiler's log.
    pub fn resources(&self, source: &str, options: &[String], architecture: &str) -> Result<Vec<Resources>, String> {
        let mut hasher = DefaultHasher::new();
        (NVRTC_VERSION, source, options, architecture).hash(&mut hasher);
        let logs = folder()?.join(format!("logs-{NVRTC_VERSION}"));
        let known = logs.join(format!("{:016x}", hasher.finish()));
        if let Ok(log) = fs::read_to_string(&known) {
            return parse(&log);
        }
        let log = self.compile(source, options, architecture)?.0;
        let found = parse(&log)?;
        let unfinished = known.with_extension(format!("{}", std::process::id()));
        let kept = fs::create_dir_all(&logs).and_then(|()| fs::write(&unfinished, &log)).and_then(|()| fs::rename(&unfinished, &known));
        kept.map_err(|error| format!("{}: {error}", known.display()))?;
        Ok(found)
    }

    /// The PTX of a source for an architecture (`compute_90`).
    ///
    /// # Errors
    /// The compiler's log.
    pub fn ptx(&self, source: &str, options: &[String], architecture: &str) -> Result<String, String> {
        Ok(self.compile(source, options, architecture)?.1)
    }

    /// The log and the PTX.
    fn compile(&self, source: &str, options: &[String], architecture: &str) -> Result<(String, String), String> {
        let text = |text: &str| CString::new(text).map_err(|_| "a zero byte".to_owned());
        let source = text(source)?;
        let mut options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        options.push(text(&format!("--gpu-architecture={architecture}"))?);
        options.push(text("--ptxas-options=-v")?);
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|error| error.to_string())?;
        type Create = unsafe extern "C" fn(*mut *mut c_void, *const c_char, *const c_char, c_int, *const c_void, *const c_void) -> c_int;
        type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
        type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
        // SAFETY: signatures as NVRTC documents them; strings live across the calls, and the buffer is as long as was told.
        let (status, log, ptx) = unsafe {
            let mut program: *mut c_void = std::ptr::null_mut();
            let missing = |error: libloading::Error| error.to_string();
            let create = self.library.get::<Create>(b"nvrtcCreateProgram").map_err(missing)?;
            create(&raw mut program, source.as_ptr(), c"kernel.cu".as_ptr(), 0, std::ptr::null(), std::ptr::null());
            let status = self.library.get::<Compile>(b"nvrtcCompileProgram").map_err(missing)?(program, count, pointers.as_ptr());
            let mut size = 0usize;
            self.library.get::<Size>(b"nvrtcGetProgramLogSize").map_err(missing)?(program, &raw mut size);
            let mut bytes = vec![0u8; size + 1];
            self.library.get::<Get>(b"nvrtcGetProgramLog").map_err(missing)?(program, bytes.as_mut_ptr().cast());
            let log = CStr::from_ptr(bytes.as_ptr().cast()).to_string_lossy().into_owned();
            self.library.get::<Size>(b"nvrtcGetPTXSize").map_err(missing)?(program, &raw mut size);
            let mut bytes = vec![0u8; size + 1];
            self.library.get::<Get>(b"nvrtcGetPTX").map_err(missing)?(program, bytes.as_mut_ptr().cast());
            let ptx = CStr::from_ptr(bytes.as_ptr().cast()).to_string_lossy().into_owned();
            self.library.get::<Destroy>(b"nvrtcDestroyProgram").map_err(missing)?(&raw mut program);
            (status, log, ptx)
        };
        if status == 0 { Ok((log, ptx)) } else { Err(log) }
    }
}

/// Reads the assembler's log.
fn parse(log: &str) -> Result<Vec<Resources>, String> {
    let mut found: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            found.push(Resources { kernel, registers: 0, shared: 0, stack: 0, spill_stores: 0, spill_loads: 0 });
        }
        let Some(last) = found.last_mut() else { continue };
        let before = |word: &str| {
            let (front, _) = line.split_once(word)?;
            front.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
        };
        if line.contains("spill stores") {
            last.stack = before("bytes stack frame").ok_or("no stack frame in the log")?;
            last.spill_stores = before("bytes spill stores").ok_or("no spills in the log")?;
            last.spill_loads = before("bytes spill loads").ok_or("no spills in the log")?;
        }
        if line.contains("Used ") {
            last.registers = before("registers").ok_or("no registers in the log")?;
            last.shared = before("bytes smem").unwrap_or(0);
        }
    }
    if found.is_empty() || found.iter().any(|one| one.registers == 0) {
        return Err(format!("the log does not say what kernels take:\n{log}"));
    }
    Ok(found)
}

//! Compiles and runs single kernels, without a driver.

use crate::build::Libraries;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;

/// Who goes on next, threads and blocks alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// In order.
    Forward,
    /// In the opposite order.
    Reverse,
    /// In an order that the seed gives, anew at each turn.
    Random(u64),
}

/// The runtime and the compiler.
#[derive(Clone)]
pub struct Shim {
    runtime: Arc<Library>,
    compiler: Arc<Library>,
}

/// A compiled source.
pub struct Module {
    shim: Shim,
    library: Library,
}

/// One kernel of a module.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    module: &'a Module,
    entry: *const Entry,
}

/// As `abi.h` has it.
#[repr(C)]
struct Entry {
    name: *const c_char,
    threads: u32,
    argument_bytes: u32,
    body: *const c_void,
}

/// As `abi.h` has it.
#[repr(C)]
struct Launch {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    argument: *const c_void,
}

type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;

impl Shim {
    /// Loads what [`libraries`](crate::libraries) built.
    ///
    /// # Errors
    /// What the system's loader says.
    pub fn open(libraries: &Libraries) -> Result<Shim, String> {
        // SAFETY: the libraries are our own; loading them runs nothing but the C++ runtime's initializers.
        let open = |path| unsafe { Library::new(path) }.map_err(|error| error.to_string());
        Ok(Shim { runtime: Arc::new(open(&libraries.driver)?), compiler: Arc::new(open(&libraries.nvrtc)?) })
    }

    /// Compiles a source, or finds it compiled.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn compile(&self, source: &str, options: &[String]) -> Result<Module, String> {
        let text = |text: &str| CString::new(text).map_err(|_| "a zero byte".to_owned());
        let source = text(source)?;
        let mut options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        options.push(text("--gpu-architecture=sm_90")?);
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|error| error.to_string())?;
        // SAFETY: the functions have the signatures of NVRTC, which nvrtc.cpp follows; all strings live across the calls, and the buffer is as long
        // as was told.
        let (status, answer) = unsafe {
            let mut program: *mut c_void = std::ptr::null_mut();
            type Create =
                unsafe extern "C" fn(*mut *mut c_void, *const c_char, *const c_char, c_int, *const c_void, *const c_void) -> c_int;
            let create = self.compiler.get::<Create>(b"nvrtcCreateProgram").map_err(|error| error.to_string())?;
            create(&raw mut program, source.as_ptr(), c"kernel.cu".as_ptr(), 0, std::ptr::null(), std::ptr::null());
            let compile = self.compiler.get::<Compile>(b"nvrtcCompileProgram").map_err(|error| error.to_string())?;
            let status = compile(program, count, pointers.as_ptr());
            let names: [&[u8]; 2] =
                if status == 0 { [b"nvrtcGetCUBINSize", b"nvrtcGetCUBIN"] } else { [b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog"] };
            type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
            type Get = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;
            let mut size = 0usize;
            self.compiler.get::<Size>(names[0]).map_err(|error| error.to_string())?(program, &raw mut size);
            let mut bytes = vec![0u8; size + 1];
            self.compiler.get::<Get>(names[1]).map_err(|error| error.to_string())?(program, bytes.as_mut_ptr().cast());
            type Destroy = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
            self.compiler.get::<Destroy>(b"nvrtcDestroyProgram").map_err(|error| error.to_string())?(&raw mut program);
            (status, CStr::from_ptr(bytes.as_ptr().cast()).to_string_lossy().into_owned())
        };
        if status != 0 {
            return Err(answer);
        }
        let path = answer.trim_end().splitn(4, ' ').nth(3).ok_or("the compiler gave no path")?;
        // SAFETY: a library of kernels has no initializers; `bind` is given the table that it was compiled against.
        unsafe {
            let library = Library::new(path).map_err(|error| error.to_string())?;
            let api = self.runtime.get::<unsafe extern "C" fn() -> *const c_void>(b"lf_shim_api").map_err(|error| error.to_string())?;
            let bind = library.get::<unsafe extern "C" fn(*const c_void)>(b"lf_shim_bind").map_err(|error| error.to_string())?;
            bind(api());
            Ok(Module { shim: self.clone(), library })
        }
    }
}

impl Module {
    /// A kernel of it.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn kernel(&self, name: &str) -> Result<Kernel<'_>, String> {
        let symbol = format!("{name}_entry");
        // SAFETY: the symbol is an `Entry`, which lives as long as the library.
        let entry = unsafe { self.library.get::<*const Entry>(symbol.as_bytes()).map_err(|error| error.to_string())? };
        Ok(Kernel { module: self, entry: *entry })
    }
}

impl Kernel<'_> {
    /// Runs `blocks` blocks, on this thread.
    ///
    /// # Errors
    /// What the kernel did wrong: a thread that waits for what does not come, bytes out of place, an argument of another size.
    ///
    /// # Safety
    /// The addresses in the argument are memory as the kernel expects it.
    pub unsafe fn launch<A: Copy>(
        &self,
        blocks: u32,
        threads: u32,
        shared_bytes: u32,
        argument: &A,
        schedule: Schedule,
    ) -> Result<(), String> {
        // SAFETY: the entry lives as long as the module.
        let expected = unsafe { (*self.entry).argument_bytes };
        if u32::try_from(size_of::<A>()) != Ok(expected) {
            return Err(format!("the kernel takes {expected} bytes, not {}", size_of::<A>()));
        }
        let (kind, seed) = match schedule {
            Schedule::Forward => (0, 0),
            Schedule::Reverse => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        let launch = Launch { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes, argument: std::ptr::from_ref(argument).cast() };
        let runtime = &self.module.shim.runtime;
        // SAFETY: signatures as in shim.cpp; the argument lives across the launch; what it points to is the caller's to vouch for.
        unsafe {
            let set = runtime.get::<unsafe extern "C" fn(u32, u64)>(b"lf_shim_schedule").map_err(|error| error.to_string())?;
            set(kind, seed);
            let run = runtime
                .get::<unsafe extern "C" fn(*const Entry, *const Launch) -> c_int>(b"lf_shim_run")
                .map_err(|error| error.to_string())?;
            if run(self.entry, &raw const launch) == 0 {
                return Ok(());
            }
            let error = runtime.get::<unsafe extern "C" fn() -> *const c_char>(b"lf_shim_error").map_err(|error| error.to_string())?;
            Err(CStr::from_ptr(error()).to_string_lossy().into_owned())
        }
    }
}

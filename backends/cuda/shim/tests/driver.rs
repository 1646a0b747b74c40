//! The fake driver refuses what a real one does, and sees what a real one would only suffer from.

use levelfold_cuda_shim::{Flavour, Libraries, libraries, skip};
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

const INVALID_VALUE: c_int = 1;
const INVALID_CONTEXT: c_int = 201;
const INVALID_HANDLE: c_int = 400;
const NOT_READY: c_int = 600;
const ILLEGAL_ADDRESS: c_int = 700;
const CONTEXT_IS_DESTROYED: c_int = 709;
const MISALIGNED: c_int = 716;
const CAPTURE_UNSUPPORTED: c_int = 900;
const CAPTURE_INVALIDATED: c_int = 901;
const CAPTURE_IMPLICIT: c_int = 906;
const CAPTURED_EVENT: c_int = 907;

static TURN: Mutex<()> = Mutex::new(());

/// The fake driver, loaded, started, and with the context of its device current; the other tests wait.
struct Driver {
    library: Library,
    built: Libraries,
    context: *mut c_void,
    _turn: MutexGuard<'static, ()>,
}

/// A call of the driver, by name, with arguments that are passed as they are.
macro_rules! call {
    ($driver:expr, $name:literal $(, $argument:expr => $type:ty)*) => {{
        // SAFETY: the types are those of the driver's interface, and pointers are to locals that live across the call.
        unsafe {
            let function = $driver.library.get::<unsafe extern "C" fn($($type),*) -> c_int>($name.as_bytes()).expect($name);
            function($($argument),*)
        }
    }};
}

impl Driver {
    /// `None`, with the reason printed, where it cannot be built.
    fn take() -> Option<Driver> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let built = libraries(Flavour::Plain).inspect_err(|reason| skip("the fake driver", reason)).ok()?;
        // SAFETY: the fake driver is ours; its initializers do nothing.
        let library = unsafe { Library::new(&built.driver) }.expect("the fake driver");
        let mut driver = Driver { library, built, context: null_mut(), _turn: turn };
        assert_eq!(call!(driver, "cuInit", 0 => c_uint), 0);
        let mut context = null_mut();
        assert_eq!(call!(driver, "cuDevicePrimaryCtxRetain", &raw mut context => *mut *mut c_void, 0 => c_int), 0);
        driver.context = context;
        assert_eq!(driver.enter(context), 0);
        Some(driver)
    }

    fn enter(&self, context: *mut c_void) -> c_int {
        call!(self, "cuCtxSetCurrent", context => *mut c_void)
    }

    fn stream(&self, flags: c_uint) -> *mut c_void {
        let mut stream = null_mut();
        assert_eq!(call!(self, "cuStreamCreate", &raw mut stream => *mut *mut c_void, flags => c_uint), 0);
        stream
    }

    fn event(&self) -> *mut c_void {
        let mut event = null_mut();
        assert_eq!(call!(self, "cuEventCreate", &raw mut event => *mut *mut c_void, 0 => c_uint), 0);
        event
    }

    fn alloc(&self, bytes: usize) -> Result<u64, c_int> {
        let mut at = 0;
        match call!(self, "cuMemAlloc_v2", &raw mut at => *mut u64, bytes => usize) {
            0 => Ok(at),
            code => Err(code),
        }
    }

    fn free(&self, at: u64) -> c_int {
        call!(self, "cuMemFree_v2", at => u64)
    }

    fn wait(&self, stream: *mut c_void) -> c_int {
        call!(self, "cuStreamSynchronize", stream => *mut c_void)
    }

    fn fill(&self, at: u64, bytes: usize, stream: *mut c_void) -> c_int {
        call!(self, "cuMemsetD8Async", at => u64, 7 => u8, bytes => usize, stream => *mut c_void)
    }

    fn record(&self, event: *mut c_void, stream: *mut c_void) -> c_int {
        call!(self, "cuEventRecord", event => *mut c_void, stream => *mut c_void)
    }

    fn elapsed(&self, from: *mut c_void, to: *mut c_void) -> c_int {
        let mut time = 0.0f32;
        call!(self, "cuEventElapsedTime", &raw mut time => *mut f32, from => *mut c_void, to => *mut c_void)
    }

    fn begin(&self, stream: *mut c_void, mode: c_uint) -> c_int {
        call!(self, "cuStreamBeginCapture_v2", stream => *mut c_void, mode => c_uint)
    }

    fn end(&self, stream: *mut c_void) -> (c_int, *mut c_void) {
        let mut graph = null_mut();
        (call!(self, "cuStreamEndCapture", stream => *mut c_void, &raw mut graph => *mut *mut c_void), graph)
    }

    fn count(&self, name: &str) -> i64 {
        let name = CString::new(name).expect("a name");
        // SAFETY: the function has this type.
        unsafe { self.library.get::<unsafe extern "C" fn(*const c_char) -> i64>(b"lf_fake_get").expect("lf_fake_get")(name.as_ptr()) }
    }

    /// A module of one kernel, and the kernel: it writes `value` to `out + at`, as a number of `u32`.
    fn kernel(&self) -> (*mut c_void, *mut c_void) {
        let source = "struct Args { unsigned char* out; unsigned long long at; };
            LF_KERNEL(test, Args, 64) { if (threadIdx.x == 0) *(unsigned*)(args.out + args.at) = 5; }";
        let image = self.compile(source);
        let (mut module, mut function) = (null_mut(), null_mut());
        assert_eq!(call!(self, "cuModuleLoadData", &raw mut module => *mut *mut c_void, image.as_ptr() => *const c_char), 0);
        let name = c"test".as_ptr();
        assert_eq!(
            call!(self, "cuModuleGetFunction", &raw mut function => *mut *mut c_void, module => *mut c_void, name => *const c_char),
            0
        );
        (module, function)
    }

    fn compile(&self, source: &str) -> CString {
        // SAFETY: as above; NVRTC's own signatures, and buffers of the sizes that were told.
        unsafe {
            let library = Library::new(&self.built.nvrtc).expect("the fake compiler");
            let source = CString::new(source).expect("no zero");
            let mut program = null_mut::<c_void>();
            type Create =
                unsafe extern "C" fn(*mut *mut c_void, *const c_char, *const c_char, c_int, *const c_void, *const c_void) -> c_int;
            let create = library.get::<Create>(b"nvrtcCreateProgram").expect("create");
            create(&raw mut program, source.as_ptr(), c"test.cu".as_ptr(), 0, std::ptr::null(), std::ptr::null());
            let options = [c"--fmad=false".as_ptr(), c"--gpu-architecture=sm_90".as_ptr()];
            type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
            assert_eq!(library.get::<Compile>(b"nvrtcCompileProgram").expect("compile")(program, 2, options.as_ptr()), 0);
            let mut size = 0usize;
            type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
            library.get::<Size>(b"nvrtcGetCUBINSize").expect("a size")(program, &raw mut size);
            let mut code = vec![0u8; size];
            type Get = unsafe extern "C" fn(*mut c_void, *mut u8) -> c_int;
            library.get::<Get>(b"nvrtcGetCUBIN").expect("the code")(program, code.as_mut_ptr());
            library.get::<unsafe extern "C" fn(*mut *mut c_void) -> c_int>(b"nvrtcDestroyProgram").expect("destroy")(&raw mut program);
            CString::from_vec_with_nul(code).expect("it ends with a zero")
        }
    }

    fn launch(&self, function: *mut c_void, grid: [c_uint; 3], shared: c_uint, stream: *mut c_void, out: u64, at: u64) -> c_int {
        let argument = [out, at];
        let mut arguments = [(&raw const argument).cast::<c_void>()];
        call!(self, "cuLaunchKernel", function => *mut c_void, grid[0] => c_uint, grid[1] => c_uint, grid[2] => c_uint,
            64 => c_uint, 1 => c_uint, 1 => c_uint, shared => c_uint, stream => *mut c_void,
            arguments.as_mut_ptr() => *mut *const c_void, null_mut() => *mut *mut c_void)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Whatever a test left goes with the context.
        self.enter(self.context);
        call!(self, "cuDevicePrimaryCtxRelease_v2", 0 => c_int);
    }
}

#[test]
fn a_context_has_to_be_current_and_everything_belongs_to_one() {
    let Some(driver) = Driver::take() else { return };
    let (stream, at) = (driver.stream(1), driver.alloc(64).expect("memory"));
    let (_, function) = driver.kernel();
    assert_eq!(driver.enter(null_mut()), 0);
    assert_eq!(driver.alloc(64), Err(INVALID_CONTEXT));
    assert_eq!(driver.wait(stream), INVALID_CONTEXT);
    assert_eq!(driver.launch(function, [1; 3], 0, stream, at, 0), INVALID_CONTEXT);
    assert_eq!(driver.enter((&raw const at).cast_mut().cast()), INVALID_CONTEXT, "that is no context");
    // Another device's.
    let set = CString::new("devices").expect("a name");
    call!(driver, "lf_fake_set", set.as_ptr() => *const c_char, 2 => i64);
    let mut other = null_mut();
    assert_eq!(call!(driver, "cuDevicePrimaryCtxRetain", &raw mut other => *mut *mut c_void, 1 => c_int), 0);
    assert_eq!(driver.enter(other), 0);
    assert_eq!(driver.wait(stream), INVALID_HANDLE);
    assert_eq!(driver.launch(function, [1; 3], 0, null_mut(), at, 0), INVALID_HANDLE);
    assert_eq!(driver.free(at), INVALID_VALUE);
    // One that nobody retains is gone.
    assert_eq!(call!(driver, "cuDevicePrimaryCtxRelease_v2", 1 => c_int), 0);
    assert_eq!(driver.alloc(64), Err(CONTEXT_IS_DESTROYED));
    assert_eq!(driver.enter(other), CONTEXT_IS_DESTROYED);
    call!(driver, "lf_fake_set", set.as_ptr() => *const c_char, 1 => i64);
}

#[test]
fn what_was_destroyed_is_no_handle_any_more() {
    let Some(driver) = Driver::take() else { return };
    let (stream, event, at) = (driver.stream(1), driver.event(), driver.alloc(64).expect("memory"));
    let (module, function) = driver.kernel();
    assert_eq!(driver.launch(function, [1; 3], 0, stream, at, 0), 0);
    assert_eq!(call!(driver, "cuModuleUnload", module => *mut c_void), 0);
    assert_eq!(driver.launch(function, [1; 3], 0, stream, at, 0), INVALID_HANDLE);
    assert_eq!(driver.wait(stream), ILLEGAL_ADDRESS, "the module went before its kernel ran");
    assert_eq!(call!(driver, "cuEventDestroy_v2", event => *mut c_void), 0);
    assert_eq!(driver.record(event, stream), INVALID_HANDLE);
    assert_eq!(call!(driver, "cuStreamDestroy_v2", stream => *mut c_void), 0);
    assert_eq!(driver.wait(stream), INVALID_HANDLE);
    assert_eq!((driver.free(at), driver.free(at)), (0, INVALID_VALUE));
    assert_eq!(driver.fill(at, 64, null_mut()), INVALID_VALUE);
}

#[test]
fn launches_keep_to_the_limits_of_a_device() {
    let Some(driver) = Driver::take() else { return };
    let at = driver.alloc(64).expect("memory");
    let (_, function) = driver.kernel();
    let launch = |grid, shared| driver.launch(function, grid, shared, null_mut(), at, 0);
    assert_eq!(launch([1; 3], 48 << 10), 0);
    // More shared memory has to be asked for, and there is an end to it.
    assert_eq!(launch([1; 3], (48 << 10) + 1), INVALID_VALUE);
    let ask = |bytes| call!(driver, "cuFuncSetAttribute", function => *mut c_void, 8 => c_int, bytes => c_int);
    assert_eq!((ask(228 << 10), ask(100 << 10)), (INVALID_VALUE, 0));
    assert_eq!(launch([1; 3], 100 << 10), 0);
    for grid in [[0, 1, 1], [1, 65536, 1], [1, 1, 65536], [1 << 31, 1, 1]] {
        assert_eq!(launch(grid, 0), INVALID_VALUE, "{grid:?}");
    }
    assert_eq!(driver.wait(null_mut()), 0);
}

#[test]
fn memory_is_touched_where_it_is_aligned_and_inside_of_what_was_taken() {
    let Some(driver) = Driver::take() else { return };
    let (stream, at, freed) = (driver.stream(1), driver.alloc(64).expect("memory"), driver.alloc(64).expect("memory"));
    let (_, function) = driver.kernel();
    let write = |out: u64, to: u64| {
        assert_eq!(driver.launch(function, [1; 3], 0, stream, out, to), 0);
        driver.wait(stream)
    };
    assert_eq!(write(at, 60), 0);
    assert_eq!(write(at, 30), MISALIGNED);
    let before = driver.count("damaged");
    assert_eq!(write(at, 64), ILLEGAL_ADDRESS);
    assert_eq!(driver.free(freed), 0);
    assert_eq!(write(freed, 0), ILLEGAL_ADDRESS);
    assert_eq!(driver.count("damaged"), before + 2);
    assert_eq!(driver.fill(at, 65, stream), INVALID_VALUE);
    // Pinned memory that goes while a copy from it waits.
    let mut pinned = null_mut();
    assert_eq!(call!(driver, "cuMemHostAlloc", &raw mut pinned => *mut *mut c_void, 64 => usize, 0 => c_uint), 0);
    let copy = call!(driver, "cuMemcpyHtoDAsync_v2", at => u64, pinned => *const c_void, 64 => usize, stream => *mut c_void);
    assert_eq!((copy, call!(driver, "cuMemFreeHost", pinned => *mut c_void)), (0, 0));
    assert_eq!(driver.wait(stream), ILLEGAL_ADDRESS);
}

#[test]
fn a_copy_to_the_host_is_poison_until_somebody_waits() {
    let Some(driver) = Driver::take() else { return };
    let (stream, at, event) = (driver.stream(1), driver.alloc(4).expect("memory"), driver.event());
    let mut host = [0u8; 4];
    assert_eq!(driver.fill(at, 4, stream), 0);
    assert_eq!(call!(driver, "cuMemcpyDtoHAsync_v2", host.as_mut_ptr() => *mut u8, at => u64, 4 => usize, stream => *mut c_void), 0);
    assert_eq!(host, [0xcb; 4]);
    assert_eq!(driver.record(event, stream), 0);
    // What comes behind the event is not waited for.
    let mut later = [0u8; 4];
    assert_eq!(call!(driver, "cuMemcpyDtoHAsync_v2", later.as_mut_ptr() => *mut u8, at => u64, 4 => usize, stream => *mut c_void), 0);
    assert_eq!(call!(driver, "cuEventSynchronize", event => *mut c_void), 0);
    assert_eq!((host, later), ([7; 4], [0xcb; 4]));
    assert_eq!((driver.wait(stream), later), (0, [7; 4]));
}

#[test]
fn times_are_told_between_events_that_passed() {
    let Some(driver) = Driver::take() else { return };
    let (stream, first, last) = (driver.stream(1), driver.event(), driver.event());
    assert_eq!(driver.record(first, stream), 0);
    assert_eq!(driver.elapsed(first, last), INVALID_HANDLE, "one was never recorded");
    assert_eq!(driver.record(last, stream), 0);
    assert_eq!(driver.elapsed(first, last), NOT_READY);
    assert_eq!((driver.wait(stream), driver.elapsed(first, last)), (0, 0));
}

#[test]
fn a_capture_ends_where_it_forbids_something() {
    let Some(driver) = Driver::take() else { return };
    let (stream, event, at) = (driver.stream(1), driver.event(), driver.alloc(64).expect("memory"));
    assert_eq!(driver.begin(null_mut(), 1), CAPTURE_UNSUPPORTED, "the default stream");
    // Of its own thread, a capture forbids what may wait; other threads go on.
    for forbidden in 0..4 {
        assert_eq!(driver.begin(stream, 1), 0);
        assert_eq!(driver.fill(at, 64, stream), 0);
        let code = match forbidden {
            0 => driver.alloc(64).expect_err("forbidden"),
            1 => driver.free(at),
            2 => driver.wait(stream),
            _ => call!(driver, "cuEventSynchronize", event => *mut c_void),
        };
        assert_eq!((forbidden, code), (forbidden, CAPTURE_UNSUPPORTED));
        assert_eq!(driver.fill(at, 64, stream), CAPTURE_INVALIDATED);
        assert_eq!(driver.end(stream), (CAPTURE_INVALIDATED, null_mut()));
    }
    assert_eq!(driver.begin(stream, 1), 0);
    let context = driver.context.expose_provenance();
    let of_another = std::thread::scope(|scope| {
        let library = &driver.library;
        let other = scope.spawn(move || {
            // SAFETY: as in `call!`; the context lives.
            unsafe {
                let enter = library.get::<unsafe extern "C" fn(*mut c_void) -> c_int>(b"cuCtxSetCurrent").expect("it is there");
                enter(std::ptr::with_exposed_provenance_mut(context));
                let mut at = 0u64;
                library.get::<unsafe extern "C" fn(*mut u64, usize) -> c_int>(b"cuMemAlloc_v2").expect("it is there")(&raw mut at, 64)
            }
        });
        other.join().expect("it ends")
    });
    assert_eq!(of_another, 0);
    assert_eq!(driver.record(event, stream), 0);
    let (code, graph) = driver.end(stream);
    assert!(code == 0 && !graph.is_null());
    assert_eq!(driver.elapsed(event, event), CAPTURED_EVENT);
    // A stream that waits for the default one, and is captured, cannot wait for it.
    let blocking = driver.stream(0);
    assert_eq!(driver.begin(blocking, 1), 0);
    assert_eq!(driver.fill(at, 64, null_mut()), CAPTURE_IMPLICIT);
    assert_eq!(driver.end(blocking).0, CAPTURE_INVALIDATED);
}

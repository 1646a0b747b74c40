//! Kernels, compiled and loaded: each once for a backend, and once on a disk.

use crate::cache::{Cache, CacheKey};
use crate::device::Device;
use crate::driver::check;
use crate::nvrtc::{Compiled, Nvrtc};
use crate::spec::{COMPILE_OPTIONS, KernelSpec};
use cudarc::driver::sys;
use levelfold::error::{Error, ErrorCode, Result};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// A kernel that was loaded, for whoever wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// The entry.
    pub entry: &'static str,
    /// What it was specialised by.
    pub options: Vec<String>,
    /// Whether its code was found in the cache.
    pub cached: bool,
    /// What the compiler said.
    pub log: String,
    /// Registers a thread, as the driver tells.
    pub registers: i32,
    /// Bytes of local memory a thread: spilled registers, among others.
    pub local_bytes: i32,
}

/// One entry of a loaded module.
#[derive(Clone)]
pub(crate) struct Function {
    raw: sys::CUfunction,
    /// Kept as long as its functions.
    _module: Arc<Module>,
}

// SAFETY: a function belongs to its module, which is kept alive; both may be used from any thread while their context is current.
unsafe impl Send for Function {}
// SAFETY: and from several at once.
unsafe impl Sync for Function {}

struct Module {
    device: Arc<Device>,
    raw: sys::CUmodule,
}

// SAFETY: modules may be used from any thread while their context is current.
unsafe impl Send for Module {}
// SAFETY: and from several at once.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter() {
            // SAFETY: loaded once, unloaded once; functions keep their module.
            let _ = unsafe { sys::cuModuleUnload(self.raw) };
        }
    }
}

impl Function {
    /// Launches it with one argument.
    ///
    /// # Safety
    /// `T` is what the entry takes, and every address in it holds what the entry reads and writes, until the stream has passed this point.
    pub(crate) unsafe fn launch<T>(&self, stream: &crate::device::Stream, grid: [u32; 2], block: u32, shared: u32, args: &T) -> Result<()> {
        debug_assert!(grid[0] > 0 && grid[1] > 0, "launches without blocks are left out");
        let mut parameters = [std::ptr::from_ref(args).cast_mut().cast::<c_void>()];
        // SAFETY: the caller's promise; the driver copies the argument before it returns.
        let result = unsafe {
            sys::cuLaunchKernel(
                self.raw,
                grid[0],
                grid[1],
                1,
                block,
                1,
                1,
                shared,
                stream.raw(),
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        check(result, "launching a kernel")
    }

    fn attribute(&self, attribute: sys::CUfunction_attribute) -> Result<i32> {
        let mut value = 0;
        // SAFETY: the function is loaded; `value` lives across the call.
        check(unsafe { sys::cuFuncGetAttribute(&raw mut value, attribute, self.raw) }, "a kernel's attribute")?;
        Ok(value)
    }
}

/// Every kernel of a backend.
pub(crate) struct Kernels {
    device: Arc<Device>,
    pub(crate) nvrtc: Nvrtc,
    pub(crate) cache: Cache,
    loaded: Mutex<HashMap<KernelSpec, Arc<Loaded>>>,
}

struct Loaded {
    functions: Vec<(&'static str, Function)>,
    facts: Vec<KernelFacts>,
}

/// More dynamic shared memory than this has to be asked for.
const PLAIN_SHARED: u32 = 48 << 10;

impl Kernels {
    pub(crate) fn new(device: Arc<Device>, nvrtc: Nvrtc, cache: Cache) -> Self {
        Kernels { device, nvrtc, cache, loaded: Mutex::new(HashMap::new()) }
    }

    /// Bytes of shared memory that a block may have on the device.
    pub(crate) fn most_shared(&self) -> u32 {
        self.device.shared_bytes
    }

    /// An entry of a kernel: loaded already, in the cache, or compiled now.
    ///
    /// # Errors
    /// What the compiler or the driver says.
    pub(crate) fn get(&self, spec: &KernelSpec, entry: &str) -> Result<Function> {
        // One compiles while others wait: they most often want the same.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match loaded.get(spec) {
            Some(found) => Arc::clone(found),
            None => {
                let made = Arc::new(self.load(spec)?);
                loaded.insert(spec.clone(), Arc::clone(&made));
                made
            }
        };
        let function = found.functions.iter().find(|(name, _)| *name == entry);
        function
            .map(|(_, function)| function.clone())
            .ok_or_else(|| Error::new(ErrorCode::Internal, format!("the kernels have no entry {entry}")))
    }

    /// What was loaded so far, in no order that means something.
    pub(crate) fn facts(&self) -> Vec<KernelFacts> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut facts: Vec<KernelFacts> = loaded.values().flat_map(|loaded| loaded.facts.iter().cloned()).collect();
        facts.sort_by(|a, b| (a.entry, &a.options).cmp(&(b.entry, &b.options)));
        facts
    }

    fn load(&self, spec: &KernelSpec) -> Result<Loaded> {
        let name = match spec {
            KernelSpec::Fold(_) => "fold.cu",
            KernelSpec::FinishStates(_) | KernelSpec::FinishOperated { .. } => "finish.cu",
            KernelSpec::Moves => "moves.cu",
            KernelSpec::Maps => "map.cu",
        };
        let source = spec.source();
        let architecture = self.nvrtc.architecture(self.device.capability)?;
        let arch = architecture.name();
        let mut options = vec![format!("--gpu-architecture={arch}")];
        options.extend(COMPILE_OPTIONS.map(str::to_owned));
        options.extend(spec.defines());
        let key = CacheKey::of(&source, &options, &arch, self.nvrtc.version);
        if let Some(compiled) = self.cache.get(key) {
            // Code that the driver refuses, although it is what was written, is compiled again like code that was damaged.
            if let Ok(loaded) = self.load_module(spec, &options, &compiled, true) {
                return Ok(loaded);
            }
        }
        let compiled = self.nvrtc.compile(name, &source, &options, architecture)?;
        // Without a place to keep it, the next process compiles again: nothing to stop for.
        let _ = self.cache.put(key, &compiled);
        self.load_module(spec, &options, &compiled, false)
    }

    fn load_module(&self, spec: &KernelSpec, options: &[String], compiled: &Compiled, cached: bool) -> Result<Loaded> {
        let _entered = self.device.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the code is what NVRTC made, whole, as the checksum says where it comes from a file; it lives across the call.
        check(unsafe { sys::cuModuleLoadData(&raw mut raw, compiled.code.as_ptr().cast()) }, "loading kernels")?;
        let module = Arc::new(Module { device: Arc::clone(&self.device), raw });
        let mut loaded = Loaded { functions: Vec::new(), facts: Vec::new() };
        for &entry in spec.entries() {
            let name = CString::new(entry).map_err(|_| Error::new(ErrorCode::Internal, "an entry's name has a zero byte"))?;
            let mut raw = std::ptr::null_mut();
            // SAFETY: the module is loaded; `raw` and `name` live across the call.
            check(unsafe { sys::cuModuleGetFunction(&raw mut raw, module.raw, name.as_ptr()) }, &format!("finding the kernel {entry}"))?;
            let function = Function { raw, _module: Arc::clone(&module) };
            if let KernelSpec::Fold(fold) = spec
                && fold.shared_bytes() > PLAIN_SHARED
            {
                let bytes = i32::try_from(fold.shared_bytes()).unwrap_or(i32::MAX);
                let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // SAFETY: the function is loaded.
                check(unsafe { sys::cuFuncSetAttribute(raw, attribute, bytes) }, &format!("{bytes} bytes of shared memory"))?;
            }
            loaded.facts.push(KernelFacts {
                entry,
                options: options.to_vec(),
                cached,
                log: compiled.log.clone(),
                registers: function.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
                local_bytes: function.attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            });
            loaded.functions.push((entry, function));
        }
        Ok(loaded)
    }
}

//! A device, its memory, its streams and events: the driver's objects, each freed when it is dropped.

use crate::driver::{Driver, check, no_device};
use cudarc::driver::sys;
use levelfold::error::{Error, ErrorCode, Result};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

/// A device, with its primary context.
pub(crate) struct Device {
    pub(crate) driver: Driver,
    pub(crate) ordinal: u32,
    pub(crate) name: String,
    /// Compute capability, major and minor.
    pub(crate) capability: (i32, i32),
    pub(crate) multiprocessors: u32,
    pub(crate) total_bytes: u64,
    /// Bytes of shared memory that a block may have.
    pub(crate) shared_bytes: u32,
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context may be used from any thread that makes it current, which `enter` does.
unsafe impl Send for Device {}
// SAFETY: the driver's functions may be called from several threads at once.
unsafe impl Sync for Device {}

/// While this lives, the device's context is the calling thread's current one; then it is what it was.
pub(crate) struct Entered {
    before: sys::CUcontext,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // SAFETY: the context was current on this thread before.
        let _ = unsafe { sys::cuCtxSetCurrent(self.before) };
    }
}

impl Device {
    /// Opens a device by its number.
    ///
    /// # Errors
    /// `backend-unavailable` where there is no such device; what the driver says.
    pub(crate) fn open(driver: Driver, ordinal: u32) -> Result<Arc<Device>> {
        let count = driver.devices()?;
        if count == 0 {
            return Err(no_device());
        }
        if ordinal >= count {
            return Err(Error::new(ErrorCode::BackendUnavailable, format!("there is no CUDA device {ordinal}: there are {count}"))
                .help("devices are counted from 0"));
        }
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let (mut device, mut name, mut total, mut context) = (0, [0 as std::ffi::c_char; 256], 0usize, std::ptr::null_mut());
        // SAFETY: `driver` proves that the functions exist; every pointer is to a local that lives across the call, and `name` has the
        // length that is told.
        unsafe {
            check(sys::cuDeviceGet(&raw mut device, number), "opening the device")?;
            check(sys::cuDeviceGetName(name.as_mut_ptr(), 255, device), "the device's name")?;
            check(sys::cuDeviceTotalMem_v2(&raw mut total, device), "the device's memory")?;
        }
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: as above.
            check(unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) }, "a device attribute")?;
            Ok::<i32, Error>(value)
        };
        use sys::CUdevice_attribute as A;
        let capability =
            (attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?, attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?);
        let multiprocessors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // SAFETY: as above; the context is released when the device is dropped.
        crate::driver::opened(unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) })?;
        // SAFETY: a C string that the driver ended within 255 bytes, or that the last byte of the buffer, 0, ends.
        let name = unsafe { std::ffi::CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        Ok(Arc::new(Device {
            driver,
            ordinal,
            name,
            capability,
            multiprocessors: u32::try_from(multiprocessors).unwrap_or(1).max(1),
            total_bytes: crate::wide(total),
            shared_bytes: u32::try_from(shared).unwrap_or(0),
            device,
            context,
        }))
    }

    /// Makes the context current for this thread.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn enter(&self) -> Result<Entered> {
        let mut before = std::ptr::null_mut();
        // SAFETY: the functions exist, since the device does; the context lives as long as it.
        unsafe {
            check(sys::cuCtxGetCurrent(&raw mut before), "the current context")?;
            check(sys::cuCtxSetCurrent(self.context), "entering the device's context")?;
        }
        Ok(Entered { before })
    }

    /// Bytes of memory that are free at the moment.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        let _entered = self.enter()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: both live across the call.
        check(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) }, "the device's free memory")?;
        Ok(crate::wide(free))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: retained once when it was opened.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Memory of a device.
pub(crate) struct DeviceMemory {
    device: Arc<Device>,
    address: u64,
    bytes: u64,
}

impl DeviceMemory {
    /// Takes memory; at least one byte.
    ///
    /// # Errors
    /// `memory-limit` where the device has not so much left.
    pub(crate) fn new(device: &Arc<Device>, bytes: u64) -> Result<Self> {
        let _entered = device.enter()?;
        let bytes = bytes.max(1);
        let mut address = 0;
        // SAFETY: the context is current, and `address` lives across the call.
        let result = unsafe { sys::cuMemAlloc_v2(&raw mut address, crate::narrow(bytes)?) };
        check(result, &format!("taking {bytes} bytes of device memory"))?;
        Ok(DeviceMemory { device: Arc::clone(device), address, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter() {
            // SAFETY: taken from this context, and freed once. Freeing waits for what uses it.
            let _ = unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

/// Memory of the host that the device copies from and to by itself.
pub(crate) struct Pinned {
    device: Arc<Device>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: pinned memory is plain memory of the process, which any thread may use and free.
unsafe impl Send for Pinned {}
// SAFETY: a shared `Pinned` gives nothing but its address.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self> {
        let _entered = device.enter()?;
        let mut start = std::ptr::null_mut();
        // SAFETY: the context is current, and `start` lives across the call.
        check(unsafe { sys::cuMemHostAlloc(&raw mut start, bytes, 0) }, &format!("taking {bytes} bytes of pinned memory"))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| Error::new(ErrorCode::Device, "the driver gave no pinned memory"))?;
        Ok(Pinned { device: Arc::clone(device), start, bytes })
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter() {
            // SAFETY: taken from this context, and freed once.
            let _ = unsafe { sys::cuMemFreeHost(self.start.as_ptr().cast()) };
        }
    }
}

/// A stream: of our own, or the caller's.
pub(crate) struct Stream {
    device: Arc<Device>,
    raw: sys::CUstream,
    owner: Owner,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Us,
    Caller,
}

// SAFETY: streams may be used from any thread while their context is current.
unsafe impl Send for Stream {}
// SAFETY: and from several at once.
unsafe impl Sync for Stream {}

impl Stream {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self> {
        let _entered = device.enter()?;
        let mut raw = std::ptr::null_mut();
        // 1: it does not wait for the default stream.
        // SAFETY: the context is current, and `raw` lives across the call.
        check(unsafe { sys::cuStreamCreate(&raw mut raw, 1) }, "making a stream")?;
        Ok(Stream { device: Arc::clone(device), raw, owner: Owner::Us })
    }

    /// A stream of the caller's, who keeps it.
    pub(crate) fn of_caller(device: &Arc<Device>, raw: sys::CUstream) -> Self {
        Stream { device: Arc::clone(device), raw, owner: Owner::Caller }
    }

    pub(crate) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Whether what is launched on it can be recorded: not on the default stream, nor on that of each thread, which is another one for who runs next. They
    /// are the numbers 0, 1 and 2.
    pub(crate) fn can_be_captured(&self) -> bool {
        self.raw.addr() > 2
    }

    /// Waits for everything on it.
    pub(crate) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives; its context is current wherever this is called.
        check(unsafe { sys::cuStreamSynchronize(self.raw) }, "waiting for the device")
    }

    /// Copies bytes of pinned memory to the device, in order with the rest of the stream.
    ///
    /// # Safety
    /// Both places have these bytes until the stream has passed this point.
    pub(crate) unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        check(unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast::<c_void>(), bytes, self.raw) }, "copying to the device")
    }

    /// Copies bytes of the device to pinned memory.
    ///
    /// # Safety
    /// As for `upload`.
    pub(crate) unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        check(unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast::<c_void>(), from, bytes, self.raw) }, "copying from the device")
    }

    /// Fills memory of the device.
    ///
    /// # Safety
    /// The memory has these bytes until the stream has passed this point.
    pub(crate) unsafe fn fill(&self, at: u64, byte: u8, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        check(unsafe { sys::cuMemsetD8Async(at, byte, crate::narrow(bytes)?, self.raw) }, "filling memory of the device")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owner == Owner::Us
            && let Ok(_entered) = self.device.enter()
        {
            // SAFETY: made by us, and destroyed once.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A point of a stream, with the time at which it was passed.
pub(crate) struct Event {
    device: Arc<Device>,
    raw: sys::CUevent,
}

// SAFETY: events may be used from any thread while their context is current.
unsafe impl Send for Event {}

impl Event {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self> {
        let _entered = device.enter()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current, and `raw` lives across the call.
        check(unsafe { sys::cuEventCreate(&raw mut raw, 0) }, "making an event")?;
        Ok(Event { device: Arc::clone(device), raw })
    }

    pub(crate) fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both live; their context is current wherever this is called.
        check(unsafe { sys::cuEventRecord(self.raw, stream.raw) }, "recording an event")
    }

    pub(crate) fn wait(&self) -> Result<()> {
        // SAFETY: as above.
        check(unsafe { sys::cuEventSynchronize(self.raw) }, "waiting for the device")
    }

    /// From an earlier event to this one, both passed.
    pub(crate) fn since(&self, earlier: &Event) -> Result<std::time::Duration> {
        let mut milliseconds = 0.0;
        // SAFETY: as above; `milliseconds` lives across the call.
        check(unsafe { sys::cuEventElapsedTime(&raw mut milliseconds, earlier.raw, self.raw) }, "the time between two events")?;
        Ok(std::time::Duration::try_from_secs_f64(f64::from(milliseconds) / 1e3).unwrap_or_default())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter() {
            // SAFETY: made by us, and destroyed once.
            let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}

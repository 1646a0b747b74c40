//! Tensors in the memory of a device, for programs that keep their data there.

use crate::device::Stream;
use crate::pool::{Pool, Taken};
use crate::staging::{HostTensor, Staging};
use crate::{CudaBackend, Shared};
use levelfold::DType;
use levelfold::backend::{DeviceId, DeviceMemory, DeviceView, DeviceViewMut};
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::tensor::{Layout, TensorView, TensorViewMut};
use std::sync::Arc;

/// A dense row-major tensor that lies on a device. Its memory goes back to the backend when it is dropped.
pub struct DeviceTensor {
    device: DeviceId,
    memory: Taken,
    dtype: DType,
    shape: [usize; 2],
}

impl DeviceTensor {
    /// `[rows, features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The address of the first element, on the device.
    pub fn address(&self) -> u64 {
        self.memory.address()
    }

    /// To be read: what [`Bindings::device_input`](levelfold::Bindings::device_input) takes.
    ///
    /// # Errors
    /// None that a tensor which exists can meet.
    pub fn view(&self) -> Result<DeviceView<'_>> {
        // SAFETY: the memory is ours, holds all elements (zeros at first), and is borrowed for reading as long as the view lives.
        unsafe { DeviceView::from_raw(self.device, self.memory.address(), self.elements(), self.dtype, Layout::row_major(self.shape)) }
    }

    /// To be written: what [`Bindings::device_output`](levelfold::Bindings::device_output) takes.
    ///
    /// # Errors
    /// None that a tensor which exists can meet.
    pub fn view_mut(&mut self) -> Result<DeviceViewMut<'_>> {
        // SAFETY: as for `view`, borrowed exclusively.
        unsafe { DeviceViewMut::from_raw(self.device, self.memory.address(), self.elements(), self.dtype, Layout::row_major(self.shape)) }
    }

    fn elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }
}

impl CudaBackend {
    /// The device that memory has to be on to be bound.
    pub fn device_id(&self) -> DeviceId {
        self.shared.device_id()
    }

    /// A tensor of zeros on the device.
    ///
    /// # Errors
    /// `memory-limit`, before anything is taken; `overflow`; what the device says.
    pub fn tensor(&self, dtype: DType, shape: [usize; 2]) -> Result<DeviceTensor> {
        let shared = &self.shared;
        let bytes = bytes_of(dtype, shape)?;
        let _turn = shared.turn();
        let _entered = shared.device.enter()?;
        shared.pool.check_budget(bytes)?;
        let memory = shared.pool.take(bytes)?;
        let stream = shared.stream()?;
        if bytes > 0 {
            // SAFETY: the memory has so many bytes, and is kept until the stream has passed.
            unsafe { stream.fill(memory.address(), 0, bytes)? };
            stream.synchronize()?;
        }
        Ok(DeviceTensor { device: shared.device_id(), memory, dtype, shape })
    }

    /// A copy of a tensor of the host, on the device.
    ///
    /// # Errors
    /// As for [`tensor`](Self::tensor).
    pub fn upload(&self, from: TensorView<'_>) -> Result<DeviceTensor> {
        let shared = &self.shared;
        let bytes = bytes_of(from.dtype(), from.shape())?;
        let _turn = shared.turn();
        let _entered = shared.device.enter()?;
        shared.pool.check_budget(bytes)?;
        let memory = shared.pool.take(bytes)?;
        let stream = shared.stream()?;
        let mut staging = Staging::new(&shared.device, &shared.pool, bytes)?;
        let host = HostTensor { base: from.as_ptr().cast_mut(), layout: from.layout(), size: from.dtype().size() };
        let travel = host.row_by_row();
        // SAFETY: the memory has room, and is kept until the stream has passed; the tensor is borrowed, and only read.
        let uploaded =
            unsafe { staging.upload(&stream, memory.address(), crate::narrow(bytes)?, |at, piece| host.read(&travel, at, piece)) };
        let passed = stream.synchronize();
        uploaded.and(passed)?;
        Ok(DeviceTensor { device: shared.device_id(), memory, dtype: from.dtype(), shape: from.shape() })
    }

    /// Copies a tensor of the device to one of the host.
    ///
    /// # Errors
    /// `dtype` and `shape` where they differ; what the device says.
    pub fn download(&self, from: &DeviceTensor, into: &mut TensorViewMut<'_>) -> Result<()> {
        let shared = &self.shared;
        if from.dtype != into.dtype() {
            return Err(Error::new(ErrorCode::DType, format!("a tensor of {} is copied to one of {}", from.dtype, into.dtype())));
        }
        if from.shape != into.shape() {
            return Err(Error::new(ErrorCode::Shape, format!("a tensor of shape {:?} is copied to one of {:?}", from.shape, into.shape())));
        }
        let _turn = shared.turn();
        let _entered = shared.device.enter()?;
        let bytes = bytes_of(from.dtype, from.shape)?;
        let stream = shared.stream()?;
        let mut staging = Staging::new(&shared.device, &shared.pool, bytes)?;
        let host = HostTensor { base: into.as_raw().0, layout: into.layout(), size: from.dtype.size() };
        let travel = host.row_by_row();
        // SAFETY: the memory has these bytes, and is borrowed until they are here; the tensor of the host is borrowed exclusively.
        let downloaded =
            unsafe { staging.download(&stream, from.memory.address(), crate::narrow(bytes)?, |at, piece| host.write(&travel, at, piece)) };
        let passed = stream.synchronize();
        downloaded.and(passed)
    }
}

fn bytes_of(dtype: DType, shape: [usize; 2]) -> Result<u64> {
    let bytes = shape[0].checked_mul(shape[1]).and_then(|elements| elements.checked_mul(dtype.size()));
    bytes
        .map(crate::wide)
        .ok_or_else(|| Error::new(ErrorCode::Overflow, format!("shape {shape:?} has more bytes than memory has addresses")))
}

/// Fetches what a device holds, so that ids and weights can be checked.
pub(crate) struct Fetching<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) stream: &'a Stream,
}

impl DeviceMemory for Fetching<'_> {
    fn device(&self) -> DeviceId {
        self.shared.device_id()
    }

    fn fetch(&self, view: DeviceView<'_>) -> Result<Vec<u64>> {
        let (range, size) = (view.address_range(), view.dtype().size());
        let bytes = crate::narrow(range.end - range.start)?;
        let mut raw = vec![0u8; bytes];
        let mut staging = Staging::new(&self.shared.device, self.pool, range.end - range.start)?;
        // SAFETY: whoever made the view promised that the device has these bytes as long as it lives.
        let fetched =
            unsafe { staging.download(self.stream, range.start, bytes, |at, piece| raw[at..at + piece.len()].copy_from_slice(piece)) };
        let passed = self.stream.synchronize();
        fetched.and(passed)?;
        // The first byte that was fetched is that of the lowest element.
        let skipped = crate::narrow(range.start - view.address())? / size;
        let layout = Layout { offset: view.layout().offset - skipped, ..view.layout() };
        let host = HostTensor { base: raw.as_mut_ptr(), layout, size };
        let travel = host.row_by_row();
        let packed = bytes_of(view.dtype(), view.shape())?;
        let mut words = vec![0u64; crate::narrow(packed.div_ceil(8))?];
        let mut dense = vec![0u8; crate::narrow(packed)?];
        // SAFETY: every element of the layout lies in `raw`.
        unsafe { host.read(&travel, 0, &mut dense) };
        for (word, part) in words.iter_mut().zip(dense.chunks(8)) {
            let mut bytes = [0u8; 8];
            bytes[..part.len()].copy_from_slice(part);
            *word = u64::from_ne_bytes(bytes);
        }
        Ok(words)
    }
}

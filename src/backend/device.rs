//! Memory of a device, bound like any other: addresses that only the device's own backend can follow.
//!
//! A backend for a device makes these views from memory that it allocated, or that the caller did (`levelfold-cuda` has both). Every other
//! backend refuses them, by name, in [`TableSet::check`](super::TableSet::check).

use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// Which device memory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// The name of the backend's target.
    pub backend: &'static str,
    /// Which of its devices.
    pub ordinal: u32,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.backend, self.ordinal)
    }
}

/// A tensor in the memory of a device, to be read.
#[derive(Clone, Copy)]
pub struct DeviceView<'a> {
    device: DeviceId,
    address: u64,
    dtype: DType,
    layout: Layout,
    borrow: PhantomData<&'a ()>,
}

/// A tensor in the memory of a device, to be written: its elements never share memory.
pub struct DeviceViewMut<'a> {
    view: DeviceView<'a>,
    borrow: PhantomData<&'a mut ()>,
}

impl<'a> DeviceView<'a> {
    /// A view of `elements` elements from `address` on.
    ///
    /// # Safety
    /// As long as the view lives, the device has these elements there, initialized, and nobody writes them.
    ///
    /// # Errors
    /// `strides-leave-buffer`.
    pub unsafe fn from_raw(device: DeviceId, address: u64, elements: usize, dtype: DType, layout: Layout) -> Result<Self> {
        layout.check(elements)?;
        Ok(DeviceView { device, address, dtype, layout, borrow: PhantomData })
    }

    /// Whose memory it is.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The address of the buffer, on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `[rows, features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.layout.shape
    }

    /// Offset, shape and strides, in elements.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The bytes that elements lie in, as addresses of the device.
    pub fn address_range(&self) -> Range<u64> {
        let bytes = |elements: usize| crate::widen_u64(elements).saturating_mul(self.dtype.size_u64());
        match self.layout.extent() {
            Ok(Some((first, last))) => self.address.saturating_add(bytes(first))..self.address.saturating_add(bytes(last + 1)),
            Ok(None) | Err(_) => self.address..self.address,
        }
    }
}

impl<'a> DeviceViewMut<'a> {
    /// A view of `elements` elements from `address` on.
    ///
    /// # Safety
    /// As long as the view lives, the device has room for these elements there, and nobody else reads or writes them.
    ///
    /// # Errors
    /// `strides-leave-buffer`, `strides-overlap`.
    pub unsafe fn from_raw(device: DeviceId, address: u64, elements: usize, dtype: DType, layout: Layout) -> Result<Self> {
        layout.check(elements)?;
        layout.check_apart()?;
        let view = DeviceView { device, address, dtype, layout, borrow: PhantomData };
        Ok(DeviceViewMut { view, borrow: PhantomData })
    }

    /// The same memory, read.
    pub fn as_view(&self) -> DeviceView<'_> {
        self.view
    }
}

impl fmt::Debug for DeviceView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?} on {}", self.dtype, self.layout.shape, self.device)
    }
}

impl fmt::Debug for DeviceViewMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mut {:?}", self.view)
    }
}

/// What [`TableSet::check_on`](super::TableSet::check_on) asks of a backend whose device's memory may be bound.
pub trait DeviceMemory {
    /// Which device.
    fn device(&self) -> DeviceId;

    /// The elements of a view, row by row, so that ids and weights can be checked: eight bytes at a time, the last ones filled up.
    ///
    /// # Errors
    /// What the device says.
    fn fetch(&self, view: DeviceView<'_>) -> Result<Vec<u64>>;
}

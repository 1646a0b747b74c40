//! Borrowed two-dimensional tensors: `[rows, features]` over the caller's memory, any strides.
//!
//! Nothing is copied to make one. A list of ids or weights is a tensor with one feature. Strides count elements, may be zero (a broadcast)
//! or negative (backwards), and every element they reach must lie inside the buffer; an output's elements must not share memory.

use crate::dtype::{DType, Element};
use crate::error::{Error, ErrorCode, Result};
use std::marker::PhantomData;
use std::ops::Range;

/// Where the elements of a tensor lie in its buffer: element (r, f) is at `offset + r · strides[0] + f · strides[1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The position of element (0, 0), in elements.
    pub offset: usize,
    /// Rows and features.
    pub shape: [usize; 2],
    /// Elements from one row to the next, and from one feature to the next.
    pub strides: [isize; 2],
}

impl Layout {
    /// Rows one after the other.
    pub fn row_major(shape: [usize; 2]) -> Self {
        Layout { offset: 0, shape, strides: [as_stride(shape[1]), 1] }
    }

    /// Features one after the other: the transposed form.
    pub fn feature_major(shape: [usize; 2]) -> Self {
        Layout { offset: 0, shape, strides: [1, as_stride(shape[0])] }
    }

    /// The position of element (row, feature). The caller keeps both below the shape.
    #[inline(always)]
    pub fn position(&self, row: usize, feature: usize) -> usize {
        let from_rows = (as_stride(row)).wrapping_mul(self.strides[0]);
        let from_features = (as_stride(feature)).wrapping_mul(self.strides[1]);
        self.offset.wrapping_add_signed(from_rows).wrapping_add_signed(from_features)
    }

    /// Whether the features of a row lie one after the other.
    pub fn features_are_dense(&self) -> bool {
        self.strides[1] == 1 || self.shape[1] <= 1
    }

    /// The layout of some of the columns.
    #[must_use]
    pub fn columns(&self, columns: Range<usize>) -> Self {
        Layout {
            offset: self.offset.wrapping_add_signed(as_stride(columns.start).wrapping_mul(self.strides[1])),
            shape: [self.shape[0], columns.len()],
            strides: self.strides,
        }
    }

    /// The first and last position of any element, or `None` where there is no element; an error where a position is negative or
    /// does not fit.
    pub(crate) fn extent(&self) -> Result<Option<(usize, usize)>> {
        if self.shape.contains(&0) {
            return Ok(None);
        }
        let overflow = || {
            Error::new(
                ErrorCode::StridesLeaveBuffer,
                format!("shape {:?} with strides {:?} reaches past any address", self.shape, self.strides),
            )
        };
        let (mut low, mut high) = (i128::try_from(self.offset).map_err(|_| overflow())?, 0i128);
        high += low;
        for axis in 0..2 {
            let steps = i128::try_from(self.shape[axis] - 1).map_err(|_| overflow())?;
            let reach = steps * i128::try_from(self.strides[axis]).map_err(|_| overflow())?;
            if reach < 0 { low += reach } else { high += reach }
        }
        if low < 0 {
            return Err(Error::new(
                ErrorCode::StridesLeaveBuffer,
                format!(
                    "shape {:?} with strides {:?} from offset {} starts {} elements before the buffer",
                    self.shape, self.strides, self.offset, -low
                ),
            ));
        }
        Ok(Some((usize::try_from(low).map_err(|_| overflow())?, usize::try_from(high).map_err(|_| overflow())?)))
    }

    pub(crate) fn check(&self, elements: usize) -> Result<()> {
        if let Some((_, last)) = self.extent()?
            && last >= elements
        {
            return Err(Error::new(
                ErrorCode::StridesLeaveBuffer,
                format!(
                    "shape {:?} with strides {:?} from offset {} reaches element {last}, but the buffer has {elements}",
                    self.shape, self.strides, self.offset
                ),
            )
            .help("check the row count and the strides, which count elements"));
        }
        Ok(())
    }

    /// That no two elements share memory.
    pub(crate) fn check_apart(&self) -> Result<()> {
        if !self.overlaps_itself() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::StridesOverlap,
            format!("shape {:?} with strides {:?} writes an element twice", self.shape, self.strides),
        )
        .help("outputs need a place of their own for every element"))
    }

    /// Whether two different elements can share a position. Exact for up to 2 axes: a collision needs steps (a, b) ≠ 0 inside the shape
    /// with a·s₀ + b·s₁ = 0.
    fn overlaps_itself(&self) -> bool {
        let [rows, features] = self.shape.map(|n| n as u128);
        let [s0, s1] = self.strides.map(|s| s.unsigned_abs() as u128);
        if rows == 0 || features == 0 {
            return false;
        }
        if (s0 == 0 && rows > 1) || (s1 == 0 && features > 1) {
            return true;
        }
        if rows == 1 || features == 1 {
            return false;
        }
        let divisor = gcd(s0, s1);
        // The smallest steps that meet: s1/g rows against s0/g features.
        s1 / divisor < rows && s0 / divisor < features
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A size as a stride. No allocation is larger than `isize::MAX` bytes, so this is exact for anything that was checked.
#[inline(always)]
fn as_stride(size: usize) -> isize {
    size as isize
}

/// A borrowed tensor that is read.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    bytes: &'a [u8],
    dtype: DType,
    layout: Layout,
}

impl<'a> TensorView<'a> {
    /// Rows one after the other: `data` holds exactly `shape[0] · shape[1]` elements.
    ///
    /// # Errors
    /// `shape`, `overflow`.
    pub fn from_slice<T: Element>(data: &'a [T], shape: [usize; 2]) -> Result<Self> {
        check_count(data.len(), shape)?;
        Ok(TensorView { bytes: bytemuck::must_cast_slice(data), dtype: T::DTYPE, layout: Layout::row_major(shape) })
    }

    /// Features one after the other (the transposed form): `data` holds exactly `shape[0] · shape[1]` elements.
    ///
    /// # Errors
    /// `shape`, `overflow`.
    pub fn from_feature_major<T: Element>(data: &'a [T], shape: [usize; 2]) -> Result<Self> {
        check_count(data.len(), shape)?;
        Ok(TensorView { bytes: bytemuck::must_cast_slice(data), dtype: T::DTYPE, layout: Layout::feature_major(shape) })
    }

    /// One number a row: ids or weights.
    pub fn from_column<T: Element>(data: &'a [T]) -> Self {
        TensorView {
            bytes: bytemuck::must_cast_slice(data),
            dtype: T::DTYPE,
            layout: Layout { offset: 0, shape: [data.len(), 1], strides: [1, 1] },
        }
    }

    /// Any strides, in elements: broadcast (0) and backwards (negative) too, as long as every element lies inside `data`.
    ///
    /// # Errors
    /// `strides-leave-buffer`.
    pub fn strided<T: Element>(data: &'a [T], layout: Layout) -> Result<Self> {
        layout.check(data.len())?;
        Ok(TensorView { bytes: bytemuck::must_cast_slice(data), dtype: T::DTYPE, layout })
    }

    /// Rows one after the other in raw bytes, as a memory-mapped file has them.
    ///
    /// # Errors
    /// `alignment` where the bytes are not aligned for `dtype`; `shape` where their number differs.
    pub fn from_bytes(bytes: &'a [u8], dtype: DType, layout: Layout) -> Result<Self> {
        if !bytes.is_empty() && bytes.as_ptr().align_offset(dtype.size()) != 0 {
            return Err(
                Error::new(ErrorCode::Alignment, format!("bytes are not aligned for {dtype}")).help("copy them into aligned memory first")
            );
        }
        if !bytes.len().is_multiple_of(dtype.size()) {
            return Err(Error::new(ErrorCode::Shape, format!("{} bytes are not a whole number of {dtype} elements", bytes.len())));
        }
        layout.check(bytes.len() / dtype.size())?;
        Ok(TensorView { bytes, dtype, layout })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `[rows, features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.layout.shape
    }

    /// Offset, shape and strides, all in elements of [`elements`](Self::elements).
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The start of the buffer, for an executable that reads through addresses.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    /// Some of the columns, all of the rows.
    ///
    /// # Panics
    /// If they are not inside the shape.
    #[must_use]
    pub fn columns(&self, columns: Range<usize>) -> TensorView<'a> {
        assert!(columns.start <= columns.end && columns.end <= self.layout.shape[1], "columns {columns:?} of {:?}", self.layout.shape);
        TensorView { layout: self.layout.columns(columns), ..*self }
    }

    /// The whole buffer as typed elements, or `None` where `T` is not the element type.
    pub fn elements<T: Element>(&self) -> Option<&'a [T]> {
        (T::DTYPE == self.dtype).then(|| bytemuck::cast_slice(self.bytes))
    }

    /// One element.
    ///
    /// # Panics
    /// If `T` is not the element type, or (row, feature) is not inside the shape.
    pub fn get<T: Element>(&self, row: usize, feature: usize) -> T {
        assert!(row < self.layout.shape[0] && feature < self.layout.shape[1], "({row}, {feature}) in {:?}", self.layout.shape);
        self.elements::<T>().expect("the element type")[self.layout.position(row, feature)]
    }

    /// The bytes of the buffer that elements lie in, as addresses.
    pub fn address_range(&self) -> Range<usize> {
        address_range(self.bytes.as_ptr(), self.dtype, &self.layout)
    }
}

impl std::fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.layout.shape)
    }
}

impl<'a, T: Element> From<ndarray::ArrayView2<'a, T>> for TensorView<'a> {
    /// Borrows an ndarray, strides and all.
    fn from(array: ndarray::ArrayView2<'a, T>) -> Self {
        let shape = [array.nrows(), array.ncols()];
        let strides = [array.strides()[0], array.strides()[1]];
        if shape.contains(&0) {
            return TensorView { bytes: &[], dtype: T::DTYPE, layout: Layout { offset: 0, shape, strides } };
        }
        // ndarray's pointer is element (0, 0); the buffer begins where the negative strides lead.
        let back: isize = (0..2).filter(|&axis| strides[axis] < 0).map(|axis| (shape[axis] as isize - 1) * strides[axis]).sum();
        let ahead: isize = (0..2).filter(|&axis| strides[axis] > 0).map(|axis| (shape[axis] as isize - 1) * strides[axis]).sum();
        // SAFETY: ndarray guarantees that every element of a view, from the lowest to the highest address, lies in one live allocation
        // that is borrowed for 'a; `back..=ahead` are exactly the offsets of those two, in elements.
        let data = unsafe { std::slice::from_raw_parts(array.as_ptr().offset(back), (ahead - back) as usize + 1) };
        TensorView {
            bytes: bytemuck::must_cast_slice(data),
            dtype: T::DTYPE,
            layout: Layout { offset: back.unsigned_abs(), shape, strides },
        }
    }
}

/// A borrowed tensor that is written: its elements never share memory.
pub struct TensorViewMut<'a> {
    bytes: *mut u8,
    len: usize,
    dtype: DType,
    layout: Layout,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: a `TensorViewMut` is an exclusive borrow of plain bytes, which may be used from another thread.
unsafe impl Send for TensorViewMut<'_> {}
// SAFETY: a shared `TensorViewMut` only hands out its address and layout; writing goes through `&mut`, or an executable's own proof.
unsafe impl Sync for TensorViewMut<'_> {}

impl<'a> TensorViewMut<'a> {
    /// Rows one after the other: `data` holds exactly `shape[0] · shape[1]` elements.
    ///
    /// # Errors
    /// `shape`, `overflow`.
    pub fn from_slice<T: Element>(data: &'a mut [T], shape: [usize; 2]) -> Result<Self> {
        check_count(data.len(), shape)?;
        Self::strided(data, Layout::row_major(shape))
    }

    /// Any strides, in elements, as long as every element lies inside `data` and no two share memory.
    ///
    /// # Errors
    /// `strides-leave-buffer`, `strides-overlap`.
    pub fn strided<T: Element>(data: &'a mut [T], layout: Layout) -> Result<Self> {
        layout.check(data.len())?;
        layout.check_apart()?;
        let bytes: &mut [u8] = bytemuck::must_cast_slice_mut(data);
        Ok(TensorViewMut { bytes: bytes.as_mut_ptr(), len: bytes.len(), dtype: T::DTYPE, layout, borrow: PhantomData })
    }

    /// A whole ndarray, in either memory order.
    ///
    /// # Errors
    /// `strides-overlap` for an array whose axes were turned round (negative strides): write into a plain one.
    pub fn from_array<T: Element>(array: &'a mut ndarray::Array2<T>) -> Result<Self> {
        let shape = [array.nrows(), array.ncols()];
        let strides = [array.strides()[0], array.strides()[1]];
        match array.as_slice_memory_order_mut() {
            Some(data) if strides.iter().all(|&stride| stride >= 0) => Self::strided(data, Layout { offset: 0, shape, strides }),
            Some(_) | None => {
                Err(Error::new(ErrorCode::StridesOverlap, format!("an output array with strides {strides:?} is not plain memory"))
                    .help("bind an array in row-major or column-major order"))
            }
        }
    }

    /// Rows one after the other in raw bytes.
    ///
    /// # Errors
    /// `alignment`, `shape`.
    pub fn from_bytes(bytes: &'a mut [u8], dtype: DType, shape: [usize; 2]) -> Result<Self> {
        let layout = Layout::row_major(shape);
        TensorView::from_bytes(bytes, dtype, layout)?;
        check_count(bytes.len() / dtype.size(), shape)?;
        Ok(TensorViewMut { bytes: bytes.as_mut_ptr(), len: bytes.len(), dtype, layout, borrow: PhantomData })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `[rows, features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.layout.shape
    }

    /// Offset, shape and strides, all in elements of the buffer.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The whole buffer as typed elements, or `None` where `T` is not the element type.
    pub fn elements_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        if T::DTYPE != self.dtype {
            return None;
        }
        // SAFETY: `bytes` and `len` come from an exclusive borrow that lives as long as `self`.
        Some(bytemuck::cast_slice_mut(unsafe { std::slice::from_raw_parts_mut(self.bytes, self.len) }))
    }

    /// The same memory, read.
    pub fn as_view(&self) -> TensorView<'_> {
        // SAFETY: `bytes` and `len` come from an exclusive borrow; while the shared one lives nothing is written through `self`.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes, self.len) };
        TensorView { bytes, dtype: self.dtype, layout: self.layout }
    }

    /// The start of the buffer and its bytes, for an executable that writes from several threads and proves that they write apart.
    pub fn as_raw(&mut self) -> (*mut u8, usize) {
        (self.bytes, self.len)
    }

    /// A shorter borrow of the same tensor.
    pub fn reborrow(&mut self) -> TensorViewMut<'_> {
        TensorViewMut { bytes: self.bytes, len: self.len, dtype: self.dtype, layout: self.layout, borrow: PhantomData }
    }

    /// The bytes of the buffer that elements lie in, as addresses.
    pub fn address_range(&self) -> Range<usize> {
        address_range(self.bytes, self.dtype, &self.layout)
    }
}

impl std::fmt::Debug for TensorViewMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mut {}{:?}", self.dtype, self.layout.shape)
    }
}

fn check_count(elements: usize, shape: [usize; 2]) -> Result<()> {
    let wanted = shape[0]
        .checked_mul(shape[1])
        .ok_or_else(|| Error::new(ErrorCode::Overflow, format!("shape {shape:?} has more elements than memory has addresses")))?;
    if wanted != elements {
        return Err(Error::new(ErrorCode::Shape, format!("{elements} elements do not fill shape {shape:?}, which has {wanted}")));
    }
    Ok(())
}

fn address_range(base: *const u8, dtype: DType, layout: &Layout) -> Range<usize> {
    match layout.extent() {
        Ok(Some((first, last))) => base.addr() + first * dtype.size()..base.addr() + (last + 1) * dtype.size(),
        Ok(None) | Err(_) => base.addr()..base.addr(),
    }
}

#[cfg(test)]
mod tests;

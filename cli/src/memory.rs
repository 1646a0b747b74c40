//! Memory for tensors: aligned for every element type.

use levelfold::plan::Buffer;
use levelfold::{DType, Error, ErrorCode, Layout, Plan, TensorView};
use std::sync::Arc;

/// Bytes that begin where any element may.
pub(crate) struct AlignedBytes {
    words: Vec<u64>,
    len: usize,
}

impl AlignedBytes {
    /// Zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        AlignedBytes { words: vec![0; len.div_ceil(8)], len }
    }

    /// A copy of these bytes.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = AlignedBytes::zeroed(bytes.len());
        copy.as_mut().copy_from_slice(bytes);
        copy
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

/// A tensor of one's own, rows one after the other.
pub(crate) struct Tensor {
    /// What it is bound as.
    pub(crate) name: Arc<str>,
    /// The element type.
    pub(crate) dtype: DType,
    /// Rows and features.
    pub(crate) shape: [usize; 2],
    /// Its elements.
    pub(crate) bytes: AlignedBytes,
}

impl Tensor {
    /// Zeros.
    ///
    /// # Errors
    /// `overflow` where no memory holds that many.
    pub(crate) fn zeroed(name: &str, dtype: DType, rows: u64, features: u64) -> Result<Tensor, Error> {
        let narrow = |count: u64| usize::try_from(count).ok();
        let shape = narrow(rows).zip(narrow(features)).map(|(rows, features)| [rows, features]);
        let len = shape.and_then(|[rows, features]| rows.checked_mul(features)?.checked_mul(dtype.size()));
        // No allocation is larger than half of the address space.
        let (Some(shape), Some(len)) = (shape, len.filter(|&len| isize::try_from(len).is_ok())) else {
            return Err(Error::new(ErrorCode::Overflow, format!("no memory holds {dtype}[{rows}, {features}]")).at_level(name));
        };
        Ok(Tensor { name: name.into(), dtype, shape, bytes: AlignedBytes::zeroed(len) })
    }

    /// Borrowed to be read.
    ///
    /// # Errors
    /// None that a tensor made by [`zeroed`](Self::zeroed) can meet.
    pub(crate) fn view(&self) -> Result<TensorView<'_>, Error> {
        TensorView::from_bytes(self.bytes.as_ref(), self.dtype, Layout::row_major(self.shape))
    }
}

/// A tensor for every output of a plan.
///
/// # Errors
/// `overflow`.
pub(crate) fn output_tensors(plan: &Plan) -> Result<Vec<Tensor>, Error> {
    plan.outputs().map(|(_, Buffer { name, dtype, rows, features, .. })| Tensor::zeroed(name, *dtype, *rows, *features)).collect()
}

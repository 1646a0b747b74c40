//! Memory for tensors: aligned for every element type, large ones on huge pages where the system has them.

use levelfold::plan::Buffer;
use levelfold::{DType, Error, ErrorCode, Layout, Plan, TensorView};
use memmap2::MmapMut;
use std::sync::Arc;

/// Bytes that begin where any element may.
pub(crate) struct AlignedBytes {
    store: Store,
    len: usize,
}

enum Store {
    Words(Vec<u64>),
    /// Pages of their own. With pages of 4 KiB a third of the bandwidth of memory may go into looking them up.
    Pages(MmapMut),
}

/// From here on, memory has pages of its own.
const LARGE: usize = 4 << 20;

impl AlignedBytes {
    /// Zeros.
    ///
    /// # Errors
    /// `memory-limit` where the system does not give so many bytes.
    pub(crate) fn zeroed(len: usize) -> Result<Self, Error> {
        let store = match large_pages(len) {
            Some(pages) => Store::Pages(pages),
            None => {
                let mut words = Vec::new();
                words
                    .try_reserve_exact(len.div_ceil(8))
                    .map_err(|_| Error::new(ErrorCode::MemoryLimit, format!("the system has no {len} bytes")).help("take less at once"))?;
                words.resize(len.div_ceil(8), 0);
                Store::Words(words)
            }
        };
        Ok(AlignedBytes { store, len })
    }

    /// A copy of these bytes.
    ///
    /// # Errors
    /// As for [`zeroed`](Self::zeroed).
    pub(crate) fn copy_of(bytes: &[u8]) -> Result<Self, Error> {
        let mut copy = AlignedBytes::zeroed(bytes.len())?;
        copy.as_mut().copy_from_slice(bytes);
        Ok(copy)
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        match &self.store {
            Store::Words(words) => &bytemuck::cast_slice(words)[..self.len],
            Store::Pages(pages) => &pages[..self.len],
        }
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        match &mut self.store {
            Store::Words(words) => &mut bytemuck::cast_slice_mut(words)[..self.len],
            Store::Pages(pages) => &mut pages[..self.len],
        }
    }
}

/// Fresh pages for `len` bytes, huge ones where the system gives them; `None` where so few bytes do not need them, or there are none.
fn large_pages(len: usize) -> Option<MmapMut> {
    let pages = MmapMut::map_anon(Some(len).filter(|&len| len >= LARGE)?).ok()?;
    // What the system cannot do it may leave.
    #[cfg(target_os = "linux")]
    let _ = pages.advise(memmap2::Advice::HugePage);
    Some(pages)
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
    /// `overflow` where no memory holds that many; `memory-limit` where this one does not.
    pub(crate) fn zeroed(name: &str, dtype: DType, rows: u64, features: u64) -> Result<Tensor, Error> {
        let narrow = |count: u64| usize::try_from(count).ok();
        let shape = narrow(rows).zip(narrow(features)).map(|(rows, features)| [rows, features]);
        let len = shape.and_then(|[rows, features]| rows.checked_mul(features)?.checked_mul(dtype.size()));
        // No allocation is larger than half of the address space.
        let (Some(shape), Some(len)) = (shape, len.filter(|&len| isize::try_from(len).is_ok())) else {
            return Err(Error::new(ErrorCode::Overflow, format!("no memory holds {dtype}[{rows}, {features}]")).at_level(name));
        };
        let bytes = AlignedBytes::zeroed(len).map_err(|error| error.at_level(name))?;
        Ok(Tensor { name: name.into(), dtype, shape, bytes })
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
/// `overflow`, `memory-limit`.
pub(crate) fn output_tensors(plan: &Plan) -> Result<Vec<Tensor>, Error> {
    plan.outputs().map(|(_, Buffer { name, dtype, rows, features, .. })| Tensor::zeroed(name, *dtype, *rows, *features)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_does_not_have_is_an_error() {
        assert_eq!(AlignedBytes::zeroed(isize::MAX as usize - 7).err().unwrap().code(), ErrorCode::MemoryLimit);
    }

    #[test]
    fn small_and_large_memory_begins_as_zeros_and_holds_what_is_written() {
        for len in [0, 1, 7, 8, LARGE - 1, LARGE, LARGE + 3] {
            let mut bytes = AlignedBytes::zeroed(len).unwrap();
            assert_eq!((bytes.len(), bytes.as_ref().len()), (len, len));
            assert!(bytes.as_ref().iter().all(|&byte| byte == 0));
            assert_eq!(bytes.as_ref().as_ptr().align_offset(8), 0);
            bytes.as_mut().fill(7);
            assert_eq!(AlignedBytes::copy_of(bytes.as_ref()).unwrap().as_ref(), vec![7u8; len]);
        }
    }
}

//! Where the elements of a plan's views lie in one run.

use levelfold::DType;
use levelfold::backend::Bindings;
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::ids::{TableId, ViewId};
use levelfold::plan::{Order, Place, Plan, ViewLayout};
use levelfold::tensor::Layout;

/// The bytes of a line of the cache.
pub(crate) const LINE: usize = 64;

/// A view's memory: element (row, feature) at `start + row · row_stride + feature · feature_stride`, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) start: *mut u8,
    pub(crate) row_stride: isize,
    pub(crate) feature_stride: isize,
    pub(crate) features: usize,
    pub(crate) dtype: DType,
    pub(crate) packed: Option<(TableId, Order)>,
}

// SAFETY: the address of memory that is borrowed for a run; who writes where is the business of the steps.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Whether the features of a row lie one after the other.
    pub(crate) fn is_dense(&self) -> bool {
        self.packed.is_none() && (self.features <= 1 || self.feature_stride.unsigned_abs() == self.dtype.size() && self.feature_stride > 0)
    }

    /// The address of a row's first element.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> *mut u8 {
        self.start.wrapping_offset((row as isize).wrapping_mul(self.row_stride))
    }

    /// The address of an element.
    #[inline(always)]
    pub(crate) fn element(&self, row: usize, feature: usize) -> *mut u8 {
        self.row(row).wrapping_offset((feature as isize).wrapping_mul(self.feature_stride))
    }
}

/// Finds the memory of every view of a plan; `into` is reused from run to run.
pub(crate) fn resolve(plan: &Plan, bindings: &mut Bindings<'_>, arena: *mut u8, into: &mut Vec<Memory>) -> Result<()> {
    into.clear();
    for (index, view) in plan.views.iter().enumerate() {
        let buffer = plan.buffer(view.buffer);
        let missing = || Error::new(ErrorCode::NotBound, format!("`{}` is not bound", buffer.name)).at_level(&*buffer.name);
        let (base, layout) = match buffer.place {
            Place::Input | Place::Param => {
                let input = bindings.find_input(&buffer.name).ok_or_else(missing)?;
                (input.as_ptr().cast_mut(), input.layout())
            }
            Place::Output => {
                let output = bindings.find_output(&buffer.name).ok_or_else(missing)?;
                (output.as_raw().0, output.layout())
            }
            Place::Arena { offset, .. } => {
                let shape = [narrow(buffer.rows)?, narrow(buffer.features)?];
                (arena.wrapping_add(narrow(offset)?), Layout::row_major(shape))
            }
            // From the start of the scratch: each worker has its own, and each window begins at another row.
            Place::Tile { offset, .. } => {
                let shape = [narrow(buffer.rows)?, narrow(buffer.features)?];
                (std::ptr::without_provenance_mut(narrow(offset)?), Layout::row_major(shape))
            }
        };
        let size = buffer.dtype.size() as isize;
        let first = narrow(view.first_column)?;
        let offset = (layout.offset as isize).wrapping_add((first as isize).wrapping_mul(layout.strides[1]));
        into.push(Memory {
            start: base.wrapping_offset(offset.wrapping_mul(size)),
            row_stride: layout.strides[0].wrapping_mul(size),
            feature_stride: layout.strides[1].wrapping_mul(size),
            features: narrow(view.features)?,
            dtype: buffer.dtype,
            packed: match view.layout {
                ViewLayout::Rows => None,
                ViewLayout::Packed { table, order } => Some((table, order)),
            },
        });
        debug_assert_eq!(into.len(), ViewId::new(index).index() + 1);
    }
    Ok(())
}

pub(crate) fn narrow(value: u64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::new(ErrorCode::Overflow, format!("{value} is more than this machine can address")))
}

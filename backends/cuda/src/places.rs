//! Where the views of a plan lie on the device in one run.

use levelfold::DType;
use levelfold::error::Result;
use levelfold::ids::{TableId, ViewId};
use levelfold::plan::{Order, Place as Kept, Plan, ViewLayout};
use levelfold::tensor::Layout;

/// A view: the address of its first element, and how to go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: u64,
    /// Bytes from row to row.
    pub(crate) row_stride: i64,
    /// Bytes from column to column.
    pub(crate) column_stride: i64,
    pub(crate) features: u64,
    pub(crate) dtype: DType,
    /// The table and order, where the segments of a table are packed.
    pub(crate) packed: Option<(TableId, Order)>,
}

/// Where a buffer lies: the address of what its layout counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lying {
    pub(crate) address: u64,
    pub(crate) layout: Layout,
}

impl Place {
    /// Bytes of a row's elements.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.features.saturating_mul(self.dtype.size_u64())
    }

    /// Whether the columns of a row lie side by side.
    pub(crate) fn is_dense(&self) -> bool {
        self.features <= 1 || u64::try_from(self.column_stride) == Ok(self.dtype.size_u64())
    }
}

/// The place of every view. `bound` tells where inputs and outputs lie, by the number of their buffer.
///
/// # Errors
/// `overflow`, `not-bound`; `internal` for a tile, which is refused when compiling.
pub(crate) fn resolve(plan: &Plan, arena: u64, bound: &[Option<Lying>]) -> Result<Vec<Place>> {
    let mut places = Vec::with_capacity(plan.views.len());
    for view in &plan.views {
        let buffer = plan.buffer(view.buffer);
        let size = i64::try_from(buffer.dtype.size()).unwrap_or(8);
        let lying = match buffer.place {
            Kept::Input | Kept::Param | Kept::Output => bound.get(view.buffer.index()).copied().flatten().ok_or_else(|| {
                levelfold::Error::new(levelfold::ErrorCode::NotBound, format!("`{}` is not bound", buffer.name)).at_level(&*buffer.name)
            })?,
            Kept::Arena { offset, .. } => {
                let shape = [crate::narrow(buffer.rows)?, crate::narrow(buffer.features)?];
                Lying { address: arena.wrapping_add(offset), layout: Layout::row_major(shape) }
            }
            Kept::Tile { .. } => {
                let message = format!("`{}` lies in a tile, which compiling refused", buffer.name);
                return Err(levelfold::Error::new(levelfold::ErrorCode::Internal, message));
            }
        };
        let [row_stride, column_stride] = lying.layout.strides.map(|stride| crate::signed(stride).wrapping_mul(size));
        let first = crate::signed_u64(view.first_column).wrapping_mul(column_stride);
        let offset = crate::wide(lying.layout.offset).wrapping_mul(buffer.dtype.size_u64());
        places.push(Place {
            address: lying.address.wrapping_add(offset).wrapping_add_signed(first),
            row_stride,
            column_stride,
            features: view.features,
            dtype: buffer.dtype,
            packed: match view.layout {
                ViewLayout::Rows => None,
                ViewLayout::Packed { table, order } => Some((table, order)),
            },
        });
        debug_assert_eq!(places.len(), ViewId::new(places.len() - 1).index() + 1);
    }
    Ok(places)
}

//! Products of rows and a matrix, in registers: each number is one chain of fused multiply-adds over k, ascending.
//!
//! A micro tile of a few rows and a few vectors of columns stays in registers while k runs from 0 to its end, so no sum is ever cut: a row
//! has the same bits whatever rows stand beside it, whatever the tile and the instruction set. Linear encoders use it over packed
//! weights, attention over keys and values.

use crate::vector::{Portable, Vector};
use levelfold::numerics::Accumulator;
use levelfold::numerics::elementary::Elementary;

/// a · b + c, rounded once.
///
/// # Safety
/// As for [`Vector`]; where the instruction set has it, the caller is compiled for FMA.
pub(crate) trait Fused: Vector {
    /// Rows and vectors of columns of the largest micro tile.
    const ROWS: usize;
    const VECTORS: usize;
    unsafe fn fused(self, b: Self, c: Self) -> Self;
}

impl<A: Elementary, const N: usize> Fused for Portable<A, N> {
    const ROWS: usize = 4;
    const VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn fused(self, b: Self, c: Self) -> Self {
        Portable(std::array::from_fn(|lane| self.0[lane].fused(b.0[lane], c.0[lane])))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Fused;
    use crate::vector::x86::{F32x8, F32x16, F64x4, F64x8};
    use std::arch::x86_64::*;

    macro_rules! fused {
        ($($vector:ident, $rows:literal, $vectors:literal, $fused:ident;)*) => {$(
            impl Fused for $vector {
                const ROWS: usize = $rows;
                const VECTORS: usize = $vectors;

                #[inline(always)]
                unsafe fn fused(self, b: Self, c: Self) -> Self {
                    // SAFETY: the caller is compiled for this instruction set.
                    Self(unsafe { $fused(self.0, b.0, c.0) })
                }
            }
        )*};
    }

    // 12 accumulators of 16 registers, and 24 of 32.
    fused! {
        F32x8, 6, 2, _mm256_fmadd_ps;
        F64x4, 6, 2, _mm256_fmadd_pd;
        F32x16, 6, 4, _mm512_fmadd_ps;
        F64x8, 6, 4, _mm512_fmadd_pd;
    }
}

/// Columns of a panel.
pub(crate) const fn panel_columns<V: Fused>() -> usize {
    V::VECTORS * V::LANES
}

/// out[r][c] = chain over k of x[r][k] and b[k][c], from first[c] or −0.
pub(crate) struct Product<A> {
    /// Row r begins at `x + r · x_stride`, in elements.
    pub(crate) x: *const A,
    pub(crate) x_stride: isize,
    /// From a k to the next one, in elements.
    pub(crate) x_step: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// b[k] begins at `b + k · b_stride`; whole vectors of columns can be read.
    pub(crate) b: *const A,
    pub(crate) b_stride: usize,
    /// As many as columns, up to whole vectors, or null.
    pub(crate) first: *const A,
    pub(crate) out: *mut A,
    pub(crate) out_stride: isize,
    /// At most [`panel_columns`].
    pub(crate) columns: usize,
    /// Whether no more than `columns` of a row of `out` may be written; else whole vectors are.
    pub(crate) exact: bool,
}

impl<A> Product<A> {
    /// The same addresses, of elements of another name.
    #[inline(always)]
    pub(crate) fn cast<B>(&self) -> Product<B> {
        Product {
            x: self.x.cast(),
            x_stride: self.x_stride,
            x_step: self.x_step,
            rows: self.rows,
            depth: self.depth,
            b: self.b.cast(),
            b_stride: self.b_stride,
            first: self.first.cast(),
            out: self.out.cast(),
            out_stride: self.out_stride,
            columns: self.columns,
            exact: self.exact,
        }
    }
}

/// Computes a product, and makes NaNs canonical.
///
/// # Safety
/// Addresses are as [`Product`] says; compiled for the vector's instruction set.
#[inline(always)]
pub(crate) unsafe fn product<V: Fused>(p: &Product<V::Acc>) {
    // SAFETY: the caller's promise.
    unsafe {
        match p.columns.div_ceil(V::LANES) {
            0 => {}
            1 => columns::<V, 1>(p),
            2 => columns::<V, 2>(p),
            3 => columns::<V, 3>(p),
            _ => columns::<V, 4>(p),
        }
    }
}

#[inline(always)]
unsafe fn columns<V: Fused, const VECTORS: usize>(p: &Product<V::Acc>) {
    let mut row = 0;
    // SAFETY: the caller's promise; rows are below `rows`.
    unsafe {
        if V::ROWS == 6 {
            while row + 6 <= p.rows {
                micro::<V, 6, VECTORS>(p, row);
                row += 6;
            }
        }
        while row + 4 <= p.rows {
            micro::<V, 4, VECTORS>(p, row);
            row += 4;
        }
        match p.rows - row {
            0 => {}
            1 => micro::<V, 1, VECTORS>(p, row),
            2 => micro::<V, 2, VECTORS>(p, row),
            _ => micro::<V, 3, VECTORS>(p, row),
        }
    }
}

#[inline(always)]
unsafe fn micro<V: Fused, const ROWS: usize, const VECTORS: usize>(p: &Product<V::Acc>, row: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = V::splat(V::Acc::of_f64(-0.0));
        let mut acc = [[zero; VECTORS]; ROWS];
        if !p.first.is_null() {
            for vector in 0..VECTORS {
                let first = V::load(p.first.add(vector * V::LANES));
                for row in &mut acc {
                    row[vector] = first;
                }
            }
        }
        let rows: [*const V::Acc; ROWS] = std::array::from_fn(|index| p.x.offset((row + index) as isize * p.x_stride));
        let (mut b, mut at) = (p.b, 0);
        for _ in 0..p.depth {
            let columns: [V; VECTORS] = std::array::from_fn(|vector| V::load(b.add(vector * V::LANES)));
            for (acc, x) in acc.iter_mut().zip(rows) {
                let x = V::splat(*x.add(at));
                for (acc, column) in acc.iter_mut().zip(columns) {
                    *acc = x.fused(column, *acc);
                }
            }
            b = b.add(p.b_stride);
            at += p.x_step;
        }
        for (index, acc) in acc.into_iter().enumerate() {
            let out = p.out.offset((row + index) as isize * p.out_stride);
            for (vector, acc) in acc.into_iter().enumerate() {
                let (acc, first) = (acc.canonical(), vector * V::LANES);
                if p.exact && first + V::LANES > p.columns {
                    acc.store_part(out.add(first), p.columns - first);
                } else {
                    acc.store(out.add(first));
                }
            }
        }
    }
}

/// Where the element of a packed weight stands: panels of columns one after the other, each k by k.
pub(crate) fn packed_at(column: usize, k: usize, depth: usize, panel: usize) -> usize {
    (column / panel * depth + k) * panel + column % panel
}

/// The elements of a packed weight, the columns of its last panel that do not exist included.
pub(crate) fn packed_len(columns: usize, depth: usize, panel: usize) -> Option<usize> {
    columns.div_ceil(panel).checked_mul(panel)?.checked_mul(depth)
}

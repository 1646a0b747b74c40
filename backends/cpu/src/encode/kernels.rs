//! The kernels of encoders for each type and instruction set, chosen once when a plan is compiled.

use super::attend::{self, Queries, Shape};
use super::matmul::{self, Product};
use super::rows::{self, Norm, Taps};
use crate::Isa;
use crate::memory::Memory;
use crate::vector::{Cell, Vector};
use half::{bf16, f16};
use levelfold::DType;
use levelfold::encoder::Activation;
use levelfold::numerics::Value;

/// What is done to rows of one type. Tiles are of the accumulator's type, aligned, and as long as whole vectors of 16.
///
/// # Safety
/// Of all: addresses have as many numbers as they are said to have; the machine has the instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// Columns of a panel of packed weights.
    pub(crate) panel: usize,
    /// Bytes of a number of the accumulator.
    pub(crate) size: usize,
    pub(crate) load: unsafe fn(&Memory, usize, usize, *mut u8, usize),
    pub(crate) store: unsafe fn(*const u8, usize, &Memory, usize, usize),
    pub(crate) round: unsafe fn(*mut u8, usize),
    pub(crate) product: unsafe fn(&Product<u8>),
    pub(crate) attend: unsafe fn(&Shape, &Queries<'_>),
    pub(crate) convolve: unsafe fn(&[*const u8], &Taps<'_, u8>),
    pub(crate) activate: unsafe fn(Activation, *mut u8, usize),
    pub(crate) scale: unsafe fn(f64, *mut u8, usize),
    pub(crate) add: unsafe fn(*mut u8, *const u8, usize),
    pub(crate) norm: unsafe fn(*mut u8, usize, usize, usize, &Norm, *mut u8),
    pub(crate) rotate: unsafe fn(*mut u8, usize, usize, usize, *const u8),
    /// To f32, f64, f16 and bf16.
    pub(crate) cast: [unsafe fn(*const u8, *mut u8, usize); 4],
}

impl Kernels {
    /// The rounding of a tile to another type, into another tile.
    pub(crate) fn cast_to(&self, dtype: DType) -> unsafe fn(*const u8, *mut u8, usize) {
        match dtype {
            DType::F64 => self.cast[1],
            DType::F16 => self.cast[2],
            DType::BF16 => self.cast[3],
            DType::F32 | DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => self.cast[0],
        }
    }
}

macro_rules! compiled_for {
    ($module:ident, $vectors:ident $(, #[$feature:meta])?) => {
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn load<T: Cell>(from: &Memory, first: usize, count: usize, to: *mut u8, stride: usize) {
                // SAFETY: the caller's promise is passed on.
                unsafe { rows::load::<T, T::$vectors>(from, first, count, from.features, to.cast(), stride) }
            }

            $(#[$feature])?
            unsafe fn store<T: Cell>(from: *const u8, stride: usize, to: &Memory, first: usize, count: usize) {
                // SAFETY: as above.
                unsafe { rows::store::<T, T::$vectors>(from.cast(), stride, to, first, count) }
            }

            $(#[$feature])?
            unsafe fn round<T: Cell>(tile: *mut u8, count: usize) {
                // SAFETY: as above.
                unsafe { rows::round::<T, T::$vectors>(tile.cast(), count) }
            }

            $(#[$feature])?
            unsafe fn product<T: Cell>(p: &Product<u8>) {
                // SAFETY: as above.
                unsafe {
                    matmul::product::<T::$vectors>(&p.cast());
                }
            }

            $(#[$feature])?
            unsafe fn attend<T: Cell>(shape: &Shape, queries: &Queries<'_>) {
                // SAFETY: as above.
                unsafe { attend::attend::<T, T::$vectors, <f64 as Cell>::$vectors>(shape, queries, product::<T::Wide>) }
            }

            $(#[$feature])?
            unsafe fn convolve<T: Cell>(from: &[*const u8], taps: &Taps<'_, u8>) {
                // SAFETY: as above; pointers of all types are alike.
                unsafe {
                    rows::convolve::<T::$vectors>(&Taps {
                        rows: std::slice::from_raw_parts(from.as_ptr().cast::<*const T::Acc>(), from.len()),
                        weight: taps.weight.cast(),
                        bias: taps.bias.cast(),
                        stride: taps.stride,
                        out: taps.out.cast(),
                        features: taps.features,
                    });
                }
            }

            $(#[$feature])?
            unsafe fn activate<T: Cell>(activation: Activation, tile: *mut u8, count: usize) {
                // SAFETY: as above.
                rows::activate_all(activation, unsafe { std::slice::from_raw_parts_mut(tile.cast::<T::Acc>(), count) });
            }

            $(#[$feature])?
            unsafe fn scale<T: Cell>(by: f64, tile: *mut u8, count: usize) {
                // SAFETY: as above.
                rows::scale(by, unsafe { std::slice::from_raw_parts_mut(tile.cast::<T::Acc>(), count) });
            }

            $(#[$feature])?
            unsafe fn add<T: Cell>(tile: *mut u8, other: *const u8, count: usize) {
                // SAFETY: as above; they do not overlap.
                unsafe {
                    let other = std::slice::from_raw_parts(other.cast::<T::Acc>(), count);
                    rows::add(std::slice::from_raw_parts_mut(tile.cast::<T::Acc>(), count), other);
                }
            }

            $(#[$feature])?
            unsafe fn norm<T: Cell>(tile: *mut u8, count: usize, stride: usize, features: usize, norm: &Norm, sums: *mut u8) {
                // SAFETY: as above.
                unsafe {
                    let tile = std::slice::from_raw_parts_mut(tile.cast::<T::Acc>(), count);
                    let sums = std::slice::from_raw_parts_mut(sums.cast(), rows::norm_sums(features) / 8);
                    rows::norm(tile, stride, features, norm, sums);
                }
            }

            $(#[$feature])?
            unsafe fn rotate<T: Cell>(row: *mut u8, stride: usize, columns: usize, width: usize, turns: *const u8) {
                // SAFETY: as above.
                unsafe {
                    let turns = std::slice::from_raw_parts(turns.cast::<T::Acc>(), width);
                    rows::rotate(std::slice::from_raw_parts_mut(row.cast::<T::Acc>(), stride), columns, width, turns);
                }
            }

            $(#[$feature])?
            unsafe fn cast<T: Cell, O: Value>(from: *const u8, to: *mut u8, count: usize) {
                // SAFETY: as above.
                unsafe { rows::cast::<T::Acc, O>(from.cast(), to.cast(), count) }
            }

            pub(super) fn kernels<T: Cell>() -> Kernels {
                Kernels {
                    panel: matmul::panel_columns::<T::$vectors>(),
                    size: size_of::<<T::$vectors as Vector>::Acc>(),
                    load: load::<T>,
                    store: store::<T>,
                    round: round::<T>,
                    product: product::<T::Wide>,
                    attend: attend::<T>,
                    convolve: convolve::<T::Wide>,
                    activate: activate::<T::Wide>,
                    scale: scale::<T::Wide>,
                    add: add::<T::Wide>,
                    norm: norm::<T::Wide>,
                    rotate: rotate::<T::Wide>,
                    cast: [cast::<T::Wide, f32>, cast::<T::Wide, f64>, cast::<T::Wide, f16>, cast::<T::Wide, bf16>],
                }
            }
        }
    };
}

compiled_for!(baseline, Portable);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, Avx512, #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]);

/// The kernels for rows of a type; `None` where it is not one of values.
pub(crate) fn select(isa: Isa, dtype: DType) -> Option<Kernels> {
    match dtype {
        DType::F32 => Some(select_isa::<f32>(isa)),
        DType::F64 => Some(select_isa::<f64>(isa)),
        DType::F16 => Some(select_isa::<f16>(isa)),
        DType::BF16 => Some(select_isa::<bf16>(isa)),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => None,
    }
}

fn select_isa<T: Cell>(isa: Isa) -> Kernels {
    match isa {
        Isa::Baseline => baseline::kernels::<T>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::kernels::<T>(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::kernels::<T>(),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => baseline::kernels::<T>(),
    }
}

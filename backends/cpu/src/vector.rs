//! Vectors of accumulators: what kernels are written in.
//!
//! A [`Vector`] has the few operations of a fold, each of them the IEEE operation of the scalar rules in every lane, so that a kernel gives the
//! same bits at every width. [`Lanes`] says how elements of a type are widened into it and rounded out of it. The portable form is plain arrays; on
//! x86-64 there are AVX2 and AVX-512.
//!
//! Everything is inlined into functions that are compiled for one instruction set.

#[cfg(target_arch = "x86_64")]
pub(crate) mod halves;
#[cfg(target_arch = "x86_64")]
mod lines;
mod packed;
#[cfg(target_arch = "x86_64")]
pub(crate) mod squares;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use crate::encode::Fused;
use half::{bf16, f16};
use levelfold::numerics::elementary::Elementary;
use levelfold::numerics::{Accumulator, AddOp, MaxOp, MinOp, MulOp, Packed, ReduceOp, Value};

/// So many accumulators at once.
///
/// # Safety
/// All methods that load or store take addresses of as many elements as they say, at any alignment. All methods need the instruction set that the
/// vector belongs to: they are called from functions compiled for it.
pub(crate) trait Vector: Copy {
    /// One lane.
    type Acc: Elementary;
    /// How many.
    const LANES: usize;
    /// How many vectors of accumulators stay in registers beside what a row needs.
    const TILE: usize;

    unsafe fn splat(value: Self::Acc) -> Self;
    unsafe fn load(from: *const Self::Acc) -> Self;
    unsafe fn store(self, to: *mut Self::Acc);
    /// The first `count` lanes; the others are 0.
    unsafe fn load_part(from: *const Self::Acc, count: usize) -> Self;
    /// The first `count` lanes.
    unsafe fn store_part(self, to: *mut Self::Acc, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// IEEE 754-2019 maximum, but for the payload of a NaN.
    unsafe fn maximum(self, other: Self) -> Self;
    /// IEEE 754-2019 minimum, but for the payload of a NaN.
    unsafe fn minimum(self, other: Self) -> Self;
    /// NaNs become the canonical one.
    unsafe fn canonical(self) -> Self;
    /// Rounds the first `count` lanes, once, to a type of any size. NaNs are canonical before.
    #[inline(always)]
    unsafe fn round_as<O: Value>(self, to: *mut O, count: usize) {
        // No vector has more lanes.
        let mut lanes = [Self::Acc::default(); 16];
        // SAFETY: the caller's promise; the array has all lanes.
        unsafe {
            self.store(lanes.as_mut_ptr());
            for (index, lane) in lanes.iter().enumerate().take(count) {
                to.add(index).write(O::from_acc(*lane));
            }
        }
    }
}

/// Elements of a type, as a vector of their accumulators.
///
/// # Safety
/// As for [`Vector`].
pub(crate) trait Lanes<T: Value>: Vector<Acc = T::Acc> + Fused {
    unsafe fn widen(from: *const T) -> Self;
    unsafe fn widen_part(from: *const T, count: usize) -> Self;
    /// Rounds each lane once, to nearest, ties to even. NaNs are canonical before.
    unsafe fn round(self, to: *mut T);
    unsafe fn round_part(self, to: *mut T, count: usize);
    /// As [`round`](Lanes::round), past the cache where the machine can: to an address of a multiple of 16 bytes, with a [fence](crate::stream::fence)
    /// behind.
    #[inline(always)]
    unsafe fn stream(self, to: *mut T) {
        // SAFETY: the caller's promise.
        unsafe { self.round(to) }
    }
    /// As [`stream`](Lanes::stream), the first of vectors that follow each other: those that begin inside a line are put together to whole ones, since lines that
    /// are written in parts take longer.
    #[inline(always)]
    unsafe fn stream_first(self, to: *mut T) {
        // SAFETY: the caller's promise.
        unsafe { self.stream(to) }
    }
    /// One of the others, behind this one.
    #[inline(always)]
    unsafe fn stream_next(self, _before: Self, to: *mut T) {
        // SAFETY: the caller's promise.
        unsafe { self.stream(to) }
    }
    /// What is left of the last one, which was streamed to this address.
    #[inline(always)]
    unsafe fn stream_rest(self, _to: *mut T) {}
}

/// Asks for a cache line that is about to be read. Any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, which reads nothing and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// A type of values, and the vectors that it is accumulated in.
pub(crate) trait Cell: Value {
    /// The cell of the same accumulators that are elements themselves: what works on accumulators alone is compiled once for it.
    type Wide: Cell;
    type Portable: Lanes<Self> + Packed<Number = Self::Acc>;
    #[cfg(target_arch = "x86_64")]
    type Avx2: Lanes<Self> + Packed<Number = Self::Acc>;
    #[cfg(target_arch = "x86_64")]
    type Avx512: Lanes<Self> + Packed<Number = Self::Acc>;
}

macro_rules! cells {
    ($($cell:ty => $wide:ty, $portable:ty, $avx2:ident, $avx512:ident;)*) => {$(
        impl Cell for $cell {
            type Wide = $wide;
            type Portable = $portable;
            #[cfg(target_arch = "x86_64")]
            type Avx2 = x86::$avx2;
            #[cfg(target_arch = "x86_64")]
            type Avx512 = x86::$avx512;
        }
    )*};
}

cells! {
    f32 => f32, Portable<f32, 4>, F32x8, F32x16;
    f16 => f32, Portable<f32, 4>, F32x8, F32x16;
    bf16 => f32, Portable<f32, 4>, F32x8, F32x16;
    f64 => f64, Portable<f64, 2>, F64x4, F64x8;
}

/// The operation of a reducer on vectors.
pub(crate) trait VectorOp: ReduceOp {
    /// Whether runs of short segments get a form of their own, in registers: a large part of what there is to compile.
    const COMMON: bool;
    /// One more row.
    ///
    /// # Safety
    /// As for [`Vector`].
    unsafe fn push_vector<X: Vector>(acc: X, x: X) -> X;
}

macro_rules! vector_op {
    ($($op:ident => $method:ident, $common:literal;)*) => {$(
        impl VectorOp for $op {
            const COMMON: bool = $common;

            #[inline(always)]
            unsafe fn push_vector<X: Vector>(acc: X, x: X) -> X {
                // SAFETY: the caller's promise.
                unsafe { acc.$method(x) }
            }
        }
    )*};
}

vector_op! {
    AddOp => add, true;
    MulOp => mul, false;
    MaxOp => maximum, true;
    MinOp => minimum, true;
}

/// Lanes as an array, which the compiler turns into whatever vectors the architecture has.
#[derive(Clone, Copy)]
pub(crate) struct Portable<A, const N: usize>(pub(crate) [A; N]);

impl<A: Accumulator, const N: usize> Portable<A, N> {
    #[inline(always)]
    fn map(self, other: Self, each: impl Fn(A, A) -> A) -> Self {
        Portable(std::array::from_fn(|lane| each(self.0[lane], other.0[lane])))
    }
}

impl<A: Elementary, const N: usize> Vector for Portable<A, N> {
    type Acc = A;
    const LANES: usize = N;
    const TILE: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: A) -> Self {
        Portable([value; N])
    }

    #[inline(always)]
    unsafe fn load(from: *const A) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { from.cast::<[A; N]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut A) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[A; N]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const A, count: usize) -> Self {
        let mut lanes = [A::default(); N];
        for (index, lane) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: the caller's promise.
            *lane = unsafe { from.add(index).read() };
        }
        Portable(lanes)
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut A, count: usize) {
        for (index, lane) in self.0.iter().enumerate().take(count) {
            // SAFETY: the caller's promise.
            unsafe { to.add(index).write(*lane) }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.map(other, A::add)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.map(other, A::mul)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.map(other, A::div)
    }

    #[inline(always)]
    unsafe fn maximum(self, other: Self) -> Self {
        self.map(other, A::maximum)
    }

    #[inline(always)]
    unsafe fn minimum(self, other: Self) -> Self {
        self.map(other, A::minimum)
    }

    #[inline(always)]
    #[allow(clippy::eq_op, reason = "only a NaN differs from itself")]
    unsafe fn canonical(self) -> Self {
        // The accumulator's NaN of an f64 NaN is the canonical one of its type.
        let nan = A::of_f64(<f64 as Value>::NAN);
        self.map(self, |lane, _| if lane != lane { nan } else { lane })
    }
}

/// Elements that are their own accumulators.
macro_rules! own_lanes {
    ($float:ty, $vector:ty, [$($width:ident)?] $(, $stream:ident $(, $lines:ident)?)?) => {
        impl$(<const $width: usize>)? Lanes<$float> for $vector {
            $(
                #[inline(always)]
                unsafe fn stream(self, to: *mut $float) {
                    // SAFETY: the caller's promise.
                    unsafe { $stream(to, self.0) }
                }

                $($lines!($float);)?
            )?

            #[inline(always)]
            unsafe fn widen(from: *const $float) -> Self {
                // SAFETY: the caller's promise.
                unsafe { Self::load(from) }
            }

            #[inline(always)]
            unsafe fn widen_part(from: *const $float, count: usize) -> Self {
                // SAFETY: the caller's promise.
                unsafe { Self::load_part(from, count) }
            }

            #[inline(always)]
            unsafe fn round(self, to: *mut $float) {
                // SAFETY: the caller's promise.
                unsafe { self.store(to) }
            }

            #[inline(always)]
            unsafe fn round_part(self, to: *mut $float, count: usize) {
                // SAFETY: the caller's promise.
                unsafe { self.store_part(to, count) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
use own_lanes;

own_lanes!(f32, Portable<f32, N>, [N]);
own_lanes!(f64, Portable<f64, N>, [N]);

/// Elements that are widened one by one.
macro_rules! narrow_lanes {
    ($float:ident, $widen:ident) => {
        impl<const N: usize> Lanes<$float> for Portable<f32, N> {
            #[inline(always)]
            unsafe fn widen(from: *const $float) -> Self {
                // SAFETY: the caller's promise.
                unsafe { Self::widen_part(from, N) }
            }

            #[inline(always)]
            unsafe fn widen_part(from: *const $float, count: usize) -> Self {
                let mut lanes = [0.0; N];
                for (index, lane) in lanes.iter_mut().enumerate().take(count) {
                    // SAFETY: the caller's promise.
                    *lane = $widen(unsafe { from.add(index).read() });
                }
                Portable(lanes)
            }

            #[inline(always)]
            unsafe fn round(self, to: *mut $float) {
                // SAFETY: the caller's promise.
                unsafe { self.round_part(to, N) }
            }

            #[inline(always)]
            unsafe fn round_part(self, to: *mut $float, count: usize) {
                for (index, lane) in self.0.iter().enumerate().take(count) {
                    // SAFETY: the caller's promise.
                    unsafe { to.add(index).write(<$float as Value>::from_f32(*lane)) }
                }
            }
        }
    };
}

narrow_lanes!(f16, widen_f16);
narrow_lanes!(bf16, widen_bf16);

#[inline(always)]
fn widen_bf16(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

#[inline(always)]
fn widen_f16(value: f16) -> f32 {
    let bits = u32::from(value.to_bits());
    // Exponent and fraction moved into place are the number times 2^-112, subnormals included; the product is exact.
    let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
}

/// Runs a test of an instruction set where the machine has it, and says so where not.
#[cfg(all(test, target_arch = "x86_64"))]
fn on(isa: crate::Isa, test: impl FnOnce()) {
    if isa.is_available() {
        test();
    } else {
        println!("skipped: this machine has no {isa}");
    }
}

//! Levelfold.
pub mod backend;
pub mod dtype;
pub mod engine;
pub mod error;
pub mod graph;
pub mod ids;
pub mod lower;
pub mod numerics;
pub mod optimize;
pub mod plan;
pub mod reducer;
pub mod segments;
pub mod spec;
pub mod tensor;

pub use backend::Bindings;
pub use dtype::DType;
pub use engine::{Engine, EngineOptions, Prepared};
pub use error::{Error, ErrorCode, Result};
pub use optimize::OptLevel;
pub use plan::Plan;
pub use reducer::{OnEmpty, Reducer};
pub use segments::Segments;
pub use spec::{Hierarchy, Leaves, Level};
pub use tensor::{Layout, TensorView, TensorViewMut};

/// `u32` → `usize`: exact on every machine that this crate builds for.
#[inline(always)]
pub(crate) fn widen(value: u32) -> usize {
    const { assert!(usize::BITS >= 32, "addresses have at least 32 bits") };
    value as usize
}

/// `usize` → `u64`: exact on every machine that this crate builds for.
#[inline(always)]
pub(crate) fn widen_u64(value: usize) -> u64 {
    const { assert!(usize::BITS <= 64, "addresses have at most 64 bits") };
    value as u64
}

/// `u64` → `usize`, or an error where this machine has no such address.
#[inline(always)]
pub(crate) fn narrow(value: u64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::new(ErrorCode::Overflow, format!("{value} is more than this machine can address")))
}

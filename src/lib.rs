//! Levelfold plans and runs *hierarchy reduction*: ragged groups of vectors are folded level by level (characters, words, sentences, a document)
//! until one vector is left. Nothing is padded, nothing is copied to be contiguous, and results have the same bits for any number of threads.
//!
//! # Should I use this?
//!
//! Yes, if you pool rows into groups of any length (an embedding bag, a segment reduction, mean pooling over words and then sentences), want
//! several levels at once, need the same bits every time, or want to see what a reduction costs before it runs. For one dense axis of a rectangular array, an
//! array library will do. There are no gradients yet.
//!
//! # A tour
//!
//! 1. [`Segments`] says which rows make a group; [`Hierarchy`] puts levels on top of each other; [`graph::GraphBuilder`] takes any other shape.
//! 2. Either gives a [`graph::LevelGraph`]: literally the program that was asked for, copies and all.
//! 3. [`optimize::Planner`] rewrites it and lowers it to a [`Plan`]: plain data that prints, compares, and reads back. What was fused, or was not and
//!    why, comes with it as [`optimize::Decision`]s.
//! 4. [`Plan::verify`] holds a plan against its rules, and [`check::replay`] against what was asked.
//! 5. [`backend`] is what a backend implements; the crates `levelfold-cpu` and `levelfold-reference` do.
//! 6. [`Engine`] does all of this: [`Engine::prepare`], then [`Prepared::run`] over [`Bindings`] that borrow your memory
//!    ([`TensorView`], [`TensorViewMut`]). It shows the whole way from slices to vectors.
//!
//! [`numerics`] is the arithmetic that every backend follows, and [`error`] what goes wrong. Planning takes only this crate, and no backend:
//!
//! ```
//! use levelfold::backend::Target;
//! use levelfold::optimize::Planner;
//! use levelfold::{DType, Hierarchy, Leaves, Level, Reducer, Segments};
//!
//! # fn main() -> levelfold::Result<()> {
//! let hierarchy = Hierarchy::new(Leaves::values("char", DType::F32, 64))
//!     .level(Level::new("word", Segments::from_lengths(&[5, 3, 4, 7])?).reduce(Reducer::Mean))
//!     .level(Level::new("sentence", Segments::from_lengths(&[3, 1])?).reduce(Reducer::Mean));
//! let planned = Planner::new(Target::new("cpu")).plan(hierarchy.graph()?)?;
//! assert_eq!(planned.plan.totals.copied_bytes, 0);
//! assert!(planned.plan.literal.copied_bytes > 0);
//! println!("{}", planned.plan); // every step, every byte
//! # Ok(())
//! # }
//! ```
//!
//! # Further reading
//!
//! In the folder `docs` of the repository: `architecture.md` (modules and invariants), `plan-format.md` (how to read a plan), `passes.md` (what each
//! does and refuses), `numerics.md` (order, rounding, error bound), `encoders.md`, `writing-a-backend.md`, `testing.md` and `design.md` (what was decided, and why).
pub mod backend;
pub mod check;
pub mod custom;
pub mod dtype;
pub mod encoder;
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
pub use reducer::{OnEmpty, Quantile, Reducer};
pub use segments::Segments;
pub use spec::{Hierarchy, Leaves, Level};
pub use tensor::{Layout, TensorView, TensorViewMut};

/// The README's example, run as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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

//! The CUDA backend: under construction. It opens nothing yet, and the command refuses it by name.

pub mod args;
pub mod spec;

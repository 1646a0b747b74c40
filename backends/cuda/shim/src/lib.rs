//! CUDA without a GPU, for tests: kernels run on the CPU, under a driver and a compiler that the backend takes for real ones.
//!
//! - `lf_shim.h` and `shim.cpp` run a kernel's own source, one fiber a CUDA thread, under a [`Schedule`].
//! - `driver/` is a libcuda over host memory, with faults to order ([`Libraries::driver`]).
//! - `nvrtc.cpp` is a libnvrtc that compiles with g++ ([`Libraries::nvrtc`]).
//!
//! [`libraries`] builds the two with g++ into the target folder, once; [`Shim`] runs single kernels without a driver. [`nvrtc_wheel`] fetches the
//! real NVRTC, which compiles for a GPU and needs none.
//!
//! What is missing on a machine is an `Err` that says so, and a test passes it to [`skip`], which prints it. `LEVELFOLD_REQUIRE_CUDA_CHECKS=1` makes it a
//! failure: `.ci/run` sets it.

mod build;
mod kernels;
mod wheel;

pub use build::{Flavour, Libraries, libraries};
pub use kernels::{Kernel, Module, Schedule, Shim};
pub use wheel::{NVRTC_VERSION, Nvrtc, Resources, nvrtc_wheel};

/// Says why a test does nothing on this machine.
///
/// # Panics
/// Where `LEVELFOLD_REQUIRE_CUDA_CHECKS` is set: there, nothing may be missing.
pub fn skip(what: &str, reason: &str) {
    assert!(std::env::var_os("LEVELFOLD_REQUIRE_CUDA_CHECKS").is_none(), "{what} has to run here, but {reason}");
    println!("skipped: {what}: {reason}");
}

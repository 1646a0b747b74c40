//! What runs on this machine's own CUDA device, where it has one; elsewhere each test says why it does nothing.
//!
//! `backends/cuda/gpu` takes this very program to machines with a GPU. So nothing here needs the sources, cargo, or a compiler, but for
//! [`script`], which tests that tool over the fake driver and stays at home. What may be set:
//!
//! | variable | |
//! |---|---|
//! | `LEVELFOLD_NVRTC` | NVRTC's file, where the system does not know it |
//! | `LEVELFOLD_REQUIRE_DEVICE` | a missing device fails |
//! | `LEVELFOLD_EACH_CASE` | only every so-manieth case of the conformance suite: for tools under which everything is slow |

mod numbers;
mod replay;
mod script;

use levelfold::{Error, ErrorCode, Result};
use levelfold_conformance::{Config, Group, perhaps};
use levelfold_cuda::{CudaBackend, CudaBuilder, NvrtcSearch, wheel_folders};
use std::path::PathBuf;

/// The system's driver, and NVRTC as it is told or found.
fn builder() -> CudaBuilder {
    let file = std::env::var_os("LEVELFOLD_NVRTC").map(PathBuf::from);
    let lib = std::env::var_os("VIRTUAL_ENV").map(|prefix| PathBuf::from(prefix).join("lib"));
    let pythons = lib.and_then(|lib| std::fs::read_dir(lib).ok()).into_iter().flatten().flatten();
    let folders = pythons.flat_map(|python| wheel_folders(&python.path().join("site-packages"))).collect();
    CudaBackend::builder().nvrtc(NvrtcSearch { file, folders })
}

/// What could not be opened fails where a device has to be there.
fn required(opened: Result<CudaBackend>) -> Result<CudaBackend> {
    opened.inspect_err(|error| assert!(std::env::var_os("LEVELFOLD_REQUIRE_DEVICE").is_none(), "a device has to be here, but: {error}"))
}

fn open(config: &Config) -> Result<CudaBackend> {
    let builder = builder();
    required(
        match config.poison {
            Some(byte) => builder.poison(byte),
            None => builder,
        }
        .build(),
    )
}

/// The device; `None`, with the reason printed, where there is none.
fn device() -> Option<CudaBackend> {
    match required(builder().build()) {
        Ok(backend) => Some(backend),
        Err(error) if error.code() == ErrorCode::BackendUnavailable => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("the device cannot be opened: {}", Error::to_string(&error)),
    }
}

/// One test a group.
macro_rules! groups {
    ($($name:ident $group:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                let each = std::env::var("LEVELFOLD_EACH_CASE").map_or(1, |each| each.parse().expect("LEVELFOLD_EACH_CASE is a number"));
                Group::$group.run_each(&perhaps(open), &[], each);
            }
        )*

        #[test]
        fn no_group_is_left_out() {
            assert_eq!([$(Group::$group),*].as_slice(), Group::ALL.as_slice());
        }
    };
}

groups! {
    lengths Lengths, features Features, layouts Layouts, ranges Ranges, empty_segments EmptySegments, shapes Shapes, special_values SpecialValues,
    reducers Reducers, registered Registered, weights Weights, siblings Siblings, levels Levels, lookups Lookups, literal Literal, row_ops RowOps, products Products,
    attention Attention, encoded_levels EncodedLevels, large Large, random_hierarchies RandomHierarchies, random_graphs RandomGraphs,
    bad_bindings BadBindings, bad_values BadValues, side_by_side SideBySide,
}

//! The whole backend, as it is, over a driver and a compiler of our own that run its kernels on the CPU: the conformance suite.
//!
//! Every case of every group runs, but of the groups that come from seeds, and of those of reducers with a state and of operations beside folds, whose cases differ in types, reducers and shapes
//! only, some: each new kind of step is a kernel to be compiled by g++, for a quarter of a second or so. What is left out is printed, and runs with `LEVELFOLD_ALL_CUDA_CASES=1`.

use levelfold::{Error, ErrorCode, Result};
use levelfold_conformance::{Config, Group, perhaps};
use levelfold_cuda::{CudaBackend, NvrtcSearch};
use levelfold_cuda_shim::{Flavour, libraries, skip};

fn open(config: &Config) -> Result<CudaBackend> {
    let built = libraries(Flavour::Plain).map_err(|reason| {
        skip("the conformance suite over the fake driver", &reason);
        Error::new(ErrorCode::BackendUnavailable, reason)
    })?;
    let mut builder = CudaBackend::builder().driver(&built.driver).nvrtc(NvrtcSearch { file: Some(built.nvrtc), folders: Vec::new() });
    if let Some(byte) = config.poison {
        builder = builder.poison(byte);
    }
    builder.build()
}

/// One test a group, with every so-manieth of its cases.
macro_rules! groups {
    ($($name:ident $group:ident $nth:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                let nth = if std::env::var_os("LEVELFOLD_ALL_CUDA_CASES").is_some() { 1 } else { $nth };
                Group::$group.run_each(&perhaps(open), &[], nth);
            }
        )*

        #[test]
        fn no_group_is_left_out() {
            assert_eq!([$(Group::$group),*].as_slice(), Group::ALL.as_slice());
        }
    };
}

groups! {
    lengths Lengths 1, features Features 1, layouts Layouts 1, ranges Ranges 1, empty_segments EmptySegments 1, shapes Shapes 1,
    special_values SpecialValues 1, reducers Reducers 53, registered Registered 1, weights Weights 1, siblings Siblings 1, levels Levels 1, lookups Lookups 1, literal Literal 1,
    row_ops RowOps 1, products Products 1, attention Attention 1, encoded_levels EncodedLevels 3, large Large 1,
    random_hierarchies RandomHierarchies 8, random_graphs RandomGraphs 8, bad_bindings BadBindings 1, bad_values BadValues 1,
    side_by_side SideBySide 1,
}

//! What every backend must pass, ours or a stranger's.
//!
//! ```
//! # use levelfold_reference::ReferenceBackend as MyBackend;
//! levelfold_conformance::conformance_tests!(|_| MyBackend::new());
//! ```
//!
//! in a file of its own under `tests/` is all that a backend needs: it becomes one `#[test]` for each [`Group`] of cases. The closure makes a
//! backend for a [`Config`]; one that has no threads or no arena of its own to poison takes no notice of it. To be run with several thread
//! counts, a backend says with which; one that may be missing on a machine returns a `Result`, and with `backend-unavailable` its tests say
//! that they are skipped, and why:
//!
//! ```
//! # use levelfold_reference::ReferenceBackend as Gpu;
//! # use levelfold_conformance::Config;
//! # fn cpu(config: &Config) -> Gpu { Gpu::new() }
//! # mod one { use super::*;
//! levelfold_conformance::conformance_tests!(cpu, threads: [1, 2, 3, 7]);
//! # }
//! # mod two { use super::*;
//! levelfold_conformance::conformance_tests!(try |_| Ok(Gpu::new()));
//! # }
//! # fn main() {}
//! ```
//!
//! A backend that runs encoders and reducers of a user's own is given those of the suite, by [`registry`]; one that refuses such steps skips their group.
//!
//! What a case is held to stands in [`run`]: the bits of the reference, the bounds of an independent oracle, the bytes of the plan.
//! Nothing here is random but by a seed, and failures print it.

pub mod case;
pub mod groups;
pub mod oracle;
pub mod random;
mod registry;
pub mod run;
pub mod tensor;

use levelfold::backend::Backend;
use levelfold::{Error, ErrorCode, Result};
use std::fmt;

pub use groups::Group;
pub use registry::registry;

/// What the suite asks of the backend that it has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How many threads it shall use; `None` leaves it to the backend.
    pub threads: Option<usize>,
    /// A byte that it shall fill its arena with before each run, so that reading what was not written shows.
    pub poison: Option<u8>,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.threads {
            Some(threads) => write!(f, "{threads} threads")?,
            None => f.write_str("default threads")?,
        }
        if self.poison.is_some() { f.write_str(", poisoned") } else { Ok(()) }
    }
}

/// Makes backends: what [`conformance_tests!`] makes of its closure.
pub type MakeBackend<'a> = dyn Fn(&Config) -> Result<Box<dyn Backend>> + 'a;

/// A closure that makes a backend, as [`MakeBackend`].
pub fn always<B: Backend + 'static>(make: impl Fn(&Config) -> B) -> impl Fn(&Config) -> Result<Box<dyn Backend>> {
    move |config| Ok(Box::new(make(config)))
}

/// A closure that makes a backend where it can be used, as [`MakeBackend`].
pub fn perhaps<B: Backend + 'static>(make: impl Fn(&Config) -> Result<B>) -> impl Fn(&Config) -> Result<Box<dyn Backend>> {
    move |config| Ok(Box::new(make(config)?))
}

/// Whether the backend can be used on this machine; where not, the reason is printed.
///
/// # Panics
/// Where it cannot be made for another reason.
pub(crate) fn made(make: &MakeBackend<'_>, config: &Config) -> Option<Box<dyn Backend>> {
    match make(config) {
        Ok(backend) => Some(backend),
        Err(error) if error.code() == ErrorCode::BackendUnavailable => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("the backend cannot be made: {}", Error::to_string(&error)),
    }
}

/// One `#[test]` for each [`Group`] of cases, for the backend that the closure makes. See the [crate](crate).
#[macro_export]
macro_rules! conformance_tests {
    (try $make:expr) => { $crate::conformance_tests!(try $make, threads: []); };
    (try $make:expr, threads: [$($threads:expr),* $(,)?]) => {
        $crate::conformance_tests!(@all $crate::perhaps($make), &[$($threads),*]);
    };
    ($make:expr) => { $crate::conformance_tests!($make, threads: []); };
    ($make:expr, threads: [$($threads:expr),* $(,)?]) => {
        $crate::conformance_tests!(@all $crate::always($make), &[$($threads),*]);
    };
    (@all $make:expr, $threads:expr) => {
        $crate::conformance_tests!(@each $make, $threads;
            lengths Lengths, features Features, layouts Layouts, ranges Ranges, empty_segments EmptySegments, shapes Shapes,
            special_values SpecialValues, reducers Reducers, registered Registered, weights Weights, siblings Siblings, levels Levels, lookups Lookups, literal Literal,
            row_ops RowOps, products Products, attention Attention, encoded_levels EncodedLevels, large Large, random_hierarchies RandomHierarchies, random_graphs RandomGraphs, bad_bindings BadBindings,
            bad_values BadValues, side_by_side SideBySide);
    };
    (@each $make:expr, $threads:expr; $($name:ident $group:ident),*) => {$(
        #[test]
        fn $name() {
            $crate::Group::$group.run(&$make, $threads);
        }
    )*};
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_names_every_group() {
        let source = include_str!("lib.rs");
        let (_, rules) = source.split_once("macro_rules!").expect("the macro");
        let (rules, _) = rules.split_once("#[cfg(test)]").expect("the end of the macro");
        for group in crate::Group::ALL {
            assert!(rules.contains(&format!(" {group:?}")), "conformance_tests! leaves out {group:?}");
        }
    }
}

//! Typed indices, so that a step is never mistaken for a buffer.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in the list that this id points into.
            pub fn index(self) -> usize {
                crate::widen(self.0)
            }

            /// The id of a position.
            ///
            /// # Panics
            /// With more than `u32::MAX` items, which no plan of a hierarchy comes near.
            pub fn new(index: usize) -> Self {
                $name(u32::try_from(index).expect("fewer than 2^32 items in a plan"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

ids! {
    /// A table of segments, in a graph or in a plan.
    TableId = "t",
    /// A node of a level graph.
    NodeId = "n",
    /// A buffer of a plan.
    BufferId = "b",
    /// A view of a buffer, in a plan.
    ViewId = "v",
    /// A step of a plan.
    StepId = "s",
}

//! A fold, as a plan has it.

use crate::dtype::DType;
use crate::encoder::{ElementOps, dtype_after};
use crate::ids::{TableId, ViewId};
use crate::reducer::{OnEmpty, Reducer};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A fold of one or several levels.
///
/// Stage 0 folds what `load` gives; stage k + 1 folds reduction [`feed`](Stage::feed) of stage k, rounded to that reduction's dtype,
/// whether it is written or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fold {
    /// Where the rows of stage 0 come from.
    pub load: Load,
    /// The levels, lowest first; never empty.
    pub stages: Vec<Stage>,
}

/// Where the rows of a fold come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Load {
    /// Rows of a view. A packed view belongs to the table of stage 0.
    View {
        /// The rows.
        values: ViewId,
    },
    /// Row r is `table[ids[r]]`.
    Gather {
        /// One id a row.
        ids: ViewId,
        /// The rows that ids look up.
        table: ViewId,
    },
    /// As `Gather`, but the ids of each segment are counted, and the rows of the table are folded, each weighted by how often it occurs.
    Histogram {
        /// One id a row.
        ids: ViewId,
        /// The rows that are counted and folded.
        table: ViewId,
    },
}

impl Load {
    /// The view of the rows that are folded: what it sees, or the table that ids look up.
    pub fn values(self) -> ViewId {
        match self {
            Load::View { values } => values,
            Load::Gather { table, .. } | Load::Histogram { table, .. } => table,
        }
    }

    /// The ids, where rows are looked up.
    pub fn ids(self) -> Option<ViewId> {
        match self {
            Load::View { .. } => None,
            Load::Gather { ids, .. } | Load::Histogram { ids, .. } => Some(ids),
        }
    }
}

/// One level of a fold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Whose segments. Above stage 0: an ordered partition.
    pub table: TableId,
    /// Which reduction of the stage before is folded (0 at stage 0).
    pub feed: u32,
    /// What is done to each element before it is folded: its result is rounded as an encoder's would be.
    #[serde(default, skip_serializing_if = "ElementOps::is_empty")]
    pub ops: ElementOps,
    /// What is made of each segment, all in one read; never empty.
    pub reductions: SmallVec<[Reduction; 1]>,
}

/// One reducer over the segments of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reduction {
    /// Which reducer.
    pub reducer: Reducer,
    /// One weight a row of what the stage folds: a view of one column.
    pub weights: Option<ViewId>,
    /// What an empty segment gives; never `Error` where the table has an empty segment.
    pub on_empty: OnEmpty,
    /// The type that results are rounded to.
    pub dtype: DType,
    /// What is done to each element of a result before it is written or handed on.
    #[serde(default, skip_serializing_if = "ElementOps::is_empty")]
    pub ops: ElementOps,
    /// Where results go, or `None` where only the next stage reads them.
    pub write: Option<ViewId>,
}

impl Fold {
    /// Whether anything is done to single elements, on the way in or out.
    pub fn has_ops(&self) -> bool {
        self.stages.iter().any(|stage| !stage.ops.is_empty() || stage.reductions.iter().any(|reduction| !reduction.ops.is_empty()))
    }
}

impl Reduction {
    /// The type of what it gives in the end.
    pub fn made(&self) -> DType {
        dtype_after(&self.ops, self.dtype)
    }
}

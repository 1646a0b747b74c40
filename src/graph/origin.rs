//! Which of the user's operations a node stands for: what decisions and plans name.

use super::Op;
use smallvec::SmallVec;

/// The kind of a user's operation, for origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names of the operations")]
pub enum OpName {
    Input,
    Gather,
    Slice,
    Transpose,
    Contiguous,
    Reduce,
    Stack,
    Squeeze,
    Concat,
    Spread,
    /// An operation of an encoder: which of the level's, and what it is called.
    Encode(u16, &'static str),
}

impl OpName {
    pub(super) fn of(op: &Op) -> OpName {
        match op {
            Op::Input { .. } => OpName::Input,
            Op::Gather => OpName::Gather,
            Op::Slice { .. } => OpName::Slice,
            Op::Transpose => OpName::Transpose,
            Op::Contiguous => OpName::Contiguous,
            Op::Reduce(_) | Op::Fold { .. } => OpName::Reduce,
            Op::Stack => OpName::Stack,
            Op::Squeeze | Op::Rename => OpName::Squeeze,
            Op::Concat { .. } => OpName::Concat,
            Op::Spread { .. } => OpName::Spread,
            Op::Encode(encoding) => OpName::Encode(0, encoding.kernel.name()),
        }
    }

    /// The name as it is printed.
    pub fn name(self) -> &'static str {
        match self {
            OpName::Input => "input",
            OpName::Gather => "gather",
            OpName::Slice => "slice",
            OpName::Transpose => "transpose",
            OpName::Contiguous => "contiguous",
            OpName::Reduce => "reduce",
            OpName::Stack => "stack",
            OpName::Squeeze => "squeeze",
            OpName::Concat => "concat",
            OpName::Spread => "spread",
            OpName::Encode(_, name) => name,
        }
    }
}

/// One of the user's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The level, as an index into the graph's level names.
    pub(super) level: u32,
    pub(super) op: OpName,
}

/// The origins of a node, in the order of the user's operations.
pub type Origins = SmallVec<[Origin; 6]>;

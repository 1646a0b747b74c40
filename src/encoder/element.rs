//! Operations on single elements: those that a fold does to what it reads and to what it makes.

use super::{Activation, Number, RowOp};
use crate::dtype::DType;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;

/// An operation on single elements, which needs nothing else of the row and no operand.
///
/// It is the [`RowOp`] of the same name, with the same arithmetic: its result is rounded to the type of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ElementOp {
    /// A function of each number.
    Activate(Activation),
    /// Each number times a constant.
    Scale(Number),
    /// Rounds to another type.
    Cast(DType),
}

/// Operations on single elements, in order.
pub type ElementOps = SmallVec<[ElementOp; 1]>;

impl ElementOp {
    /// The operation on rows that does the same.
    pub fn row_op<V>(self) -> RowOp<V> {
        match self {
            ElementOp::Activate(activation) => RowOp::Activate(activation),
            ElementOp::Scale(by) => RowOp::Scale(by),
            ElementOp::Cast(dtype) => RowOp::Cast(dtype),
        }
    }

    /// The same operation, where one on rows is one on single elements and has no operand.
    pub fn of<V>(op: &RowOp<V>) -> Option<Self> {
        match op {
            RowOp::Activate(activation) => Some(ElementOp::Activate(*activation)),
            RowOp::Scale(by) => Some(ElementOp::Scale(*by)),
            RowOp::Cast(dtype) => Some(ElementOp::Cast(*dtype)),
            RowOp::Add(_)
            | RowOp::LayerNorm { .. }
            | RowOp::RmsNorm { .. }
            | RowOp::Sinusoid { .. }
            | RowOp::Learned { .. }
            | RowOp::Rotate { .. }
            | RowOp::Custom { .. } => None,
        }
    }

    /// The name used in dumps and decisions.
    pub fn name(self) -> &'static str {
        self.row_op::<()>().name()
    }

    /// What dumps say of it beside its operand.
    pub(crate) fn details(self) -> String {
        self.row_op::<()>().details()
    }

    /// What does not fit: a constant that is not finite, a type that holds no values.
    pub(crate) fn problem(self) -> Option<String> {
        match self {
            ElementOp::Activate(_) => None,
            ElementOp::Scale(by) => (!by.0.is_finite()).then(|| format!("the constant of scale is {by}, not a finite number")),
            ElementOp::Cast(dtype) => (!dtype.is_float()).then(|| format!("values cannot be cast to {dtype}")),
        }
    }
}

impl fmt::Display for ElementOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name(), self.details())
    }
}

/// The type of rows of `dtype` after operations.
pub fn dtype_after(ops: &[ElementOp], dtype: DType) -> DType {
    ops.iter().fold(dtype, |dtype, op| match op {
        ElementOp::Cast(to) => *to,
        ElementOp::Activate(_) | ElementOp::Scale(_) => dtype,
    })
}

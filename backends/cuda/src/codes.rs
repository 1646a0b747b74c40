//! Types and reducers as kernels number them, the numbers that a reducer keeps, and what of it a kernel is specialised by.

use levelfold::encoder::{Activation, ElementOp};
use levelfold::numerics::{Monoid, MonoidVisitor};
use levelfold::{DType, Reducer};

/// A type of elements, as kernels number them.
pub fn dtype_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F64 => 1,
        DType::F16 => 2,
        DType::BF16 => 3,
        DType::U8 => 4,
        DType::U16 => 5,
        DType::U32 => 6,
        DType::I32 => 7,
        DType::I64 => 8,
    }
}

/// A reducer, as kernels number them; the first of the custom ones.
pub fn reducer_code(reducer: &Reducer) -> u32 {
    match reducer {
        Reducer::Sum => 0,
        Reducer::Mean => 1,
        Reducer::Max => 2,
        Reducer::Min => 3,
        Reducer::Prod => 4,
        Reducer::Var { .. } => 5,
        Reducer::Std { .. } => 6,
        Reducer::L1 => 7,
        Reducer::L2 => 8,
        Reducer::LogSumExp => 9,
        Reducer::SoftMax => 10,
        Reducer::First => 11,
        Reducer::Last => 12,
        Reducer::Count => 13,
        Reducer::ArgMax => 14,
        Reducer::ArgMin => 15,
        Reducer::Custom(_) => 16,
        // These have no kernel: a step with one is refused before.
        Reducer::Quantile(_) | Reducer::Named(_) => u32::MAX,
    }
}

/// An operation on single elements, as kernels number them, and the constant that it has.
pub fn element_code(op: ElementOp) -> (u32, f64) {
    match op {
        ElementOp::Activate(Activation::Relu) => (0, 0.0),
        ElementOp::Activate(Activation::Gelu) => (1, 0.0),
        ElementOp::Activate(Activation::GeluTanh) => (2, 0.0),
        ElementOp::Activate(Activation::Silu) => (3, 0.0),
        ElementOp::Activate(Activation::Tanh) => (4, 0.0),
        ElementOp::Activate(Activation::Sigmoid) => (5, 0.0),
        ElementOp::Scale(by) => (6, by.0),
        ElementOp::Cast(_) => (7, 0.0),
    }
}

/// Adding other rows, beside the operations on single elements.
pub const ADD_CODE: u32 = 8;

/// What `var` and `std` take from the number of rows: an argument, so that their kernels are one.
pub fn ddof(reducer: &Reducer) -> u32 {
    match reducer {
        Reducer::Var { ddof } | Reducer::Std { ddof } => *ddof,
        _ => 0,
    }
}

/// The reducer that kernels are specialised by: what is an [argument](ddof) is not told apart.
pub fn specialised(reducer: &Reducer) -> Reducer {
    match reducer {
        Reducer::Var { .. } => Reducer::Var { ddof: 0 },
        Reducer::Std { .. } => Reducer::Std { ddof: 0 },
        other => other.clone(),
    }
}

/// Numbers a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Of a block of rows.
    pub block: u32,
    /// Of a group of blocks: rows of f64 in a partial.
    pub tree: u32,
}

/// The numbers that a reducer has for each column.
pub fn planes(reducer: &Reducer) -> Planes {
    struct Of;
    impl MonoidVisitor for Of {
        type Out = Planes;
        fn visit<M: Monoid>(self, _: M) -> Planes {
            Planes { block: few(M::BLOCK), tree: few(M::TREE) }
        }
    }
    match reducer {
        Reducer::Custom(custom) => Planes { block: few(custom.components().len()), tree: few(custom.components().len()) },
        reducer => reducer.visit_monoid(Of).unwrap_or(Planes { block: 1, tree: 1 }),
    }
}

pub(crate) fn few(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

//! What runs on the rows of a level before they are folded: kernels, and operations on single rows behind them.
//!
//! An [`Encoding`] is one kernel (rows as they are, a matrix product, attention, a convolution) and the row-wise operations that follow it.
//! It is generic over what stands for an operand: the number of an operand in a graph, a view in a plan. Each result, that of the kernel and
//! that of each operation behind it, is rounded to the type of its rows, whether it is written or not: fusing changes no bit.
//! `docs/numerics.md` has the formula and the order of each.

mod element;
mod shape;

pub use element::{ElementOp, ElementOps, dtype_after};
pub use shape::{Shape, TableShape};

use crate::dtype::DType;
use crate::error::{Error, ErrorCode, Result, suggestion};
use crate::ids::TableId;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// A constant of an operation, compared by its bits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Number(pub f64);

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Number {}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x · Φ(x), by erf.
    Gelu,
    /// The approximation of gelu by tanh.
    GeluTanh,
    /// x · sigmoid(x).
    #[doc(alias = "swish")]
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// 1 ÷ (1 + e⁻ˣ).
    Sigmoid,
}

impl Activation {
    /// Every one.
    pub const ALL: [Activation; 6] =
        [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Tanh, Activation::Sigmoid];

    /// The name used in specs and plans.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu-tanh",
            Activation::Silu => "silu",
            Activation::Tanh => "tanh",
            Activation::Sigmoid => "sigmoid",
        }
    }
}

impl FromStr for Activation {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        Activation::ALL.into_iter().find(|activation| activation.name() == word).ok_or_else(|| {
            let known: Vec<&str> = Activation::ALL.iter().map(|activation| activation.name()).collect();
            Error::new(ErrorCode::UnknownWord, format!("unknown activation `{word}`")).help(suggestion(word, &known))
        })
    }
}

/// What an encoding begins with: the part that is more than one row at a time, or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Kernel<V> {
    /// The rows, as they are.
    Map {
        /// The rows.
        rows: V,
    },
    /// Each row times a matrix: y = x Wᵀ + b.
    #[doc(alias = "linear")]
    MatMul {
        /// The rows, of `in` features.
        rows: V,
        /// `[out, in]`.
        weight: V,
        /// `[1, out]`.
        bias: Option<V>,
    },
    /// Softmax attention along the rows of each segment, with several heads.
    Attend {
        /// Queries, keys and values side by side, of equally many features each.
        qkv: V,
        /// Whose segments: an ordered partition of the rows.
        table: TableId,
        /// How many heads the features are divided into.
        heads: u32,
        /// Whether a row sees only itself and those before it.
        causal: bool,
        /// How many (query, key) pairs there are, over all segments: for one head.
        pairs: u64,
    },
    /// Depth-wise convolution along the rows of each segment; what lies outside the segment does not count.
    #[doc(alias = "conv1d")]
    Convolve {
        /// The rows.
        rows: V,
        /// `[features, width]`: the taps of each feature, the earliest row first.
        weight: V,
        /// `[1, features]`.
        bias: Option<V>,
        /// Whose segments: an ordered partition of the rows.
        table: TableId,
        /// Whether the last tap is the row itself; else the middle one is (of an even number, the one before the middle).
        causal: bool,
    },
}

/// An operation on single rows, which keeps their width. Positions are the index of a row in its segment, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RowOp<V> {
    /// A function of each number.
    Activate(Activation),
    /// Each number times a constant.
    Scale(Number),
    /// Plus other rows.
    Add(V),
    /// (x − mean) ÷ √(variance + eps), times a weight, plus a bias.
    LayerNorm {
        /// `[1, features]`.
        weight: V,
        /// `[1, features]`.
        bias: Option<V>,
        /// Added to the variance.
        eps: Number,
    },
    /// x ÷ √(mean of squares + eps), times a weight.
    RmsNorm {
        /// `[1, features]`.
        weight: V,
        /// Added to the mean of squares.
        eps: Number,
    },
    /// Plus sines and cosines of the position.
    Sinusoid {
        /// Whose segments.
        table: TableId,
        /// The wavelengths go from 2π to base · 2π.
        base: Number,
    },
    /// Plus the row of a table at the position.
    Learned {
        /// `[positions, features]`, at least as many as the longest segment has rows.
        positions: V,
        /// Whose segments.
        table: TableId,
    },
    /// Rotates neighbouring features by angles that grow with the position.
    #[doc(alias = "rope")]
    Rotate {
        /// Whose segments.
        table: TableId,
        /// The wavelengths go from 2π to base · 2π.
        base: Number,
        /// So many of the first columns are rotated.
        columns: u64,
        /// The columns of one head, within which angles begin anew: even.
        width: u64,
    },
    /// Rounds to another type.
    Cast(DType),
    /// A [`RowEncoder`](crate::custom::RowEncoder) of a user's own, found by the backend that compiles the plan.
    Custom {
        /// Its name.
        name: Arc<str>,
        /// Its version.
        version: u32,
    },
}

/// A kernel, and what follows it row by row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoding<V> {
    /// What comes first.
    pub kernel: Kernel<V>,
    /// What follows it, in order.
    pub ops: Vec<RowOp<V>>,
}

impl<V> Kernel<V> {
    /// The name used in dumps.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Map { .. } => "map",
            Kernel::MatMul { .. } => "matmul",
            Kernel::Attend { .. } => "attend",
            Kernel::Convolve { .. } => "convolve",
        }
    }

    /// The rows that it takes.
    pub fn rows(&self) -> &V {
        match self {
            Kernel::Map { rows } | Kernel::MatMul { rows, .. } | Kernel::Attend { qkv: rows, .. } | Kernel::Convolve { rows, .. } => rows,
        }
    }

    /// What it takes, in a fixed order, the rows first.
    pub fn operands(&self) -> SmallVec<[&V; 3]> {
        match self {
            Kernel::Map { rows } | Kernel::Attend { qkv: rows, .. } => smallvec::smallvec![rows],
            Kernel::MatMul { rows, weight, bias } | Kernel::Convolve { rows, weight, bias, .. } => {
                [rows, weight].into_iter().chain(bias).collect()
            }
        }
    }

    /// What dumps say of it beside its operands.
    pub(crate) fn details(&self) -> String {
        let causal = |causal: bool| if causal { " causal" } else { "" };
        match self {
            Kernel::Map { .. } | Kernel::MatMul { .. } => String::new(),
            Kernel::Attend { table, heads, causal: ahead, .. } => format!(" by {table} heads={heads}{}", causal(*ahead)),
            Kernel::Convolve { table, causal: ahead, .. } => format!(" by {table}{}", causal(*ahead)),
        }
    }

    /// The table whose segments it looks along.
    pub fn table(&self) -> Option<TableId> {
        match self {
            Kernel::Map { .. } | Kernel::MatMul { .. } => None,
            Kernel::Attend { table, .. } | Kernel::Convolve { table, .. } => Some(*table),
        }
    }

    fn try_map<W, E>(
        &self,
        operand: &mut impl FnMut(&V) -> Result<W, E>,
        to: &mut impl FnMut(TableId) -> Result<TableId, E>,
    ) -> Result<Kernel<W>, E> {
        Ok(match self {
            Kernel::Map { rows } => Kernel::Map { rows: operand(rows)? },
            Kernel::MatMul { rows, weight, bias } => {
                Kernel::MatMul { rows: operand(rows)?, weight: operand(weight)?, bias: bias.as_ref().map(operand).transpose()? }
            }
            Kernel::Attend { qkv, table, heads, causal, pairs } => {
                Kernel::Attend { qkv: operand(qkv)?, table: to(*table)?, heads: *heads, causal: *causal, pairs: *pairs }
            }
            Kernel::Convolve { rows, weight, bias, table, causal } => Kernel::Convolve {
                rows: operand(rows)?,
                weight: operand(weight)?,
                bias: bias.as_ref().map(operand).transpose()?,
                table: to(*table)?,
                causal: *causal,
            },
        })
    }
}

impl<V> RowOp<V> {
    /// The name used in dumps and decisions.
    pub fn name(&self) -> &'static str {
        match self {
            RowOp::Activate(activation) => activation.name(),
            RowOp::Scale(_) => "scale",
            RowOp::Add(_) => "add",
            RowOp::LayerNorm { .. } => "layer-norm",
            RowOp::RmsNorm { .. } => "rms-norm",
            RowOp::Sinusoid { .. } => "sinusoid",
            RowOp::Learned { .. } => "learned",
            RowOp::Rotate { .. } => "rotate",
            RowOp::Cast(_) => "cast",
            RowOp::Custom { .. } => "custom",
        }
    }

    /// What it takes beside the row itself, in a fixed order.
    pub fn operands(&self) -> SmallVec<[&V; 2]> {
        match self {
            RowOp::Activate(_)
            | RowOp::Scale(_)
            | RowOp::Sinusoid { .. }
            | RowOp::Rotate { .. }
            | RowOp::Cast(_)
            | RowOp::Custom { .. } => SmallVec::new(),
            RowOp::Add(other) => smallvec::smallvec![other],
            RowOp::LayerNorm { weight, bias, .. } => [weight].into_iter().chain(bias).collect(),
            RowOp::RmsNorm { weight, .. } => smallvec::smallvec![weight],
            RowOp::Learned { positions, .. } => smallvec::smallvec![positions],
        }
    }

    /// What dumps say of it beside its operands.
    pub(crate) fn details(&self) -> String {
        match self {
            RowOp::Activate(_) | RowOp::Add(_) => String::new(),
            RowOp::Scale(by) => format!(" {by}"),
            RowOp::LayerNorm { eps, .. } | RowOp::RmsNorm { eps, .. } => format!(" eps={eps}"),
            RowOp::Sinusoid { table, base } => format!(" by {table} base={base}"),
            RowOp::Learned { table, .. } => format!(" by {table}"),
            RowOp::Rotate { table, base, columns, width } => format!(" by {table} base={base} columns={columns} width={width}"),
            RowOp::Cast(dtype) => format!(" {dtype}"),
            RowOp::Custom { name, version } => format!(" {name:?} version={version}"),
        }
    }

    /// The table whose segments give the positions.
    pub fn table(&self) -> Option<TableId> {
        match self {
            RowOp::Sinusoid { table, .. } | RowOp::Learned { table, .. } | RowOp::Rotate { table, .. } => Some(*table),
            RowOp::Activate(_)
            | RowOp::Scale(_)
            | RowOp::Add(_)
            | RowOp::LayerNorm { .. }
            | RowOp::RmsNorm { .. }
            | RowOp::Cast(_)
            | RowOp::Custom { .. } => None,
        }
    }

    fn try_map<W, E>(
        &self,
        operand: &mut impl FnMut(&V) -> Result<W, E>,
        to: &mut impl FnMut(TableId) -> Result<TableId, E>,
    ) -> Result<RowOp<W>, E> {
        Ok(match self {
            RowOp::Activate(activation) => RowOp::Activate(*activation),
            RowOp::Scale(by) => RowOp::Scale(*by),
            RowOp::Add(other) => RowOp::Add(operand(other)?),
            RowOp::LayerNorm { weight, bias, eps } => {
                RowOp::LayerNorm { weight: operand(weight)?, bias: bias.as_ref().map(operand).transpose()?, eps: *eps }
            }
            RowOp::RmsNorm { weight, eps } => RowOp::RmsNorm { weight: operand(weight)?, eps: *eps },
            RowOp::Sinusoid { table, base } => RowOp::Sinusoid { table: to(*table)?, base: *base },
            RowOp::Learned { positions, table } => RowOp::Learned { positions: operand(positions)?, table: to(*table)? },
            RowOp::Rotate { table, base, columns, width } => {
                RowOp::Rotate { table: to(*table)?, base: *base, columns: *columns, width: *width }
            }
            RowOp::Cast(dtype) => RowOp::Cast(*dtype),
            RowOp::Custom { name, version } => RowOp::Custom { name: Arc::clone(name), version: *version },
        })
    }
}

impl<V> Encoding<V> {
    /// A kernel with nothing behind it.
    pub fn of(kernel: Kernel<V>) -> Self {
        Encoding { kernel, ops: Vec::new() }
    }

    /// Everything that it takes, in a fixed order: the kernel's operands, then those of each operation.
    pub fn operands(&self) -> SmallVec<[&V; 8]> {
        let ops = self.ops.iter().flat_map(RowOp::operands);
        self.kernel.operands().into_iter().chain(ops).collect()
    }

    /// Of each operand, in order, whether it is taken row by row; the others are parameters, of which each row takes all.
    pub fn takes_rows(&self) -> SmallVec<[bool; 8]> {
        let kernel = (0..self.kernel.operands().len()).map(|operand| operand == 0);
        kernel.chain(self.ops.iter().flat_map(|op| op.operands().into_iter().map(|_| matches!(op, RowOp::Add(_))))).collect()
    }

    /// The tables that it looks at, each once, in the order in which they are met.
    pub fn tables(&self) -> SmallVec<[TableId; 2]> {
        let mut tables: SmallVec<[TableId; 2]> = SmallVec::new();
        for table in self.kernel.table().into_iter().chain(self.ops.iter().filter_map(RowOp::table)) {
            if !tables.contains(&table) {
                tables.push(table);
            }
        }
        tables
    }

    /// The same over other operands and other numbers of tables.
    ///
    /// # Errors
    /// The first that either of the two gives.
    pub fn try_map<W, E>(
        &self,
        mut operand: impl FnMut(&V) -> Result<W, E>,
        mut table: impl FnMut(TableId) -> Result<TableId, E>,
    ) -> Result<Encoding<W>, E> {
        let kernel = self.kernel.try_map(&mut operand, &mut table)?;
        let ops: Result<Vec<RowOp<W>>, E> = self.ops.iter().map(|op| op.try_map(&mut operand, &mut table)).collect();
        Ok(Encoding { kernel, ops: ops? })
    }
}

/// The (query, key) pairs that attention over segments of these lengths scores.
pub fn attended_pairs(lengths: impl Iterator<Item = u64>, causal: bool) -> u64 {
    lengths.fold(0u64, |pairs, length| {
        let square = u128::from(length) * u128::from(if causal { length + 1 } else { length });
        let seen = if causal { square / 2 } else { square };
        pairs.saturating_add(u64::try_from(seen).unwrap_or(u64::MAX))
    })
}

//! What an encoding makes of its operands, and what of them does not fit: the same for graphs and plans.

use super::{Encoding, Kernel, Number, RowOp};
use crate::dtype::DType;
use crate::error::{Error, ErrorCode, Result};
use crate::ids::TableId;
use std::fmt;

/// Rows and their type, as far as encodings ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub rows: u64,
    /// Features.
    pub features: u64,
    /// The element type.
    pub dtype: DType,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}x{}]", self.dtype, self.rows, self.features)
    }
}

/// A table of segments, as far as encodings ask.
#[derive(Clone, Copy, Debug)]
pub struct TableShape {
    /// The rows that are cut into segments.
    pub rows: u64,
    /// Whether they are an ordered partition of all rows.
    pub is_partition: bool,
    /// The longest segment.
    pub longest: u64,
}

impl<V> Encoding<V> {
    /// What the encoding makes of its operands.
    ///
    /// # Errors
    /// What does not fit, naming the operation, what it asks for and what is there.
    pub fn shape(&self, seen: impl Fn(&V) -> Shape, table: impl Fn(TableId) -> TableShape) -> Result<Shape> {
        let rows = seen(self.kernel.rows());
        if !rows.dtype.is_float() {
            return Err(Error::new(ErrorCode::DType, format!("{} takes floats, not {rows}", self.kernel.name()))
                .help("ids look rows up in a table first"));
        }
        let check = Check { rows: rows.rows, seen, table };
        let mut made = check.kernel(&self.kernel, rows)?;
        for op in &self.ops {
            check.op(op, made)?;
            if let RowOp::Cast(dtype) = op {
                made.dtype = *dtype;
            }
        }
        Ok(made)
    }
}

struct Check<S, T> {
    rows: u64,
    seen: S,
    table: T,
}

impl<S, T: Fn(TableId) -> TableShape> Check<S, T> {
    fn kernel<V>(&self, kernel: &Kernel<V>, rows: Shape) -> Result<Shape>
    where
        S: Fn(&V) -> Shape,
    {
        let name = kernel.name();
        match kernel {
            Kernel::Map { .. } => Ok(rows),
            Kernel::MatMul { weight, bias, .. } => {
                let features = (self.seen)(weight).rows;
                self.param(name, "weight", weight, [features, rows.features], rows.dtype)?;
                self.optional(name, bias.as_ref(), [1, features], rows.dtype)?;
                Ok(Shape { features, ..rows })
            }
            Kernel::Attend { table, heads, pairs, .. } => {
                self.segments(name, *table)?;
                let each = rows.features / 3;
                if !rows.features.is_multiple_of(3) || *heads == 0 || !each.is_multiple_of(u64::from(*heads)) {
                    return Err(Error::new(
                        ErrorCode::Shape,
                        format!("attend takes queries, keys and values, each a whole number of features for {heads} heads, not {rows}"),
                    )
                    .help("the features of the level must be a multiple of the heads"));
                }
                let longest = (self.table)(*table).longest;
                if *pairs < rows.rows || *pairs > rows.rows.saturating_mul(longest) {
                    return Err(Error::new(
                        ErrorCode::Shape,
                        format!("attend says {pairs} pairs of {} rows in segments of up to {longest}", rows.rows),
                    ));
                }
                Ok(Shape { features: each, ..rows })
            }
            Kernel::Convolve { weight, bias, table, .. } => {
                self.segments(name, *table)?;
                let width = (self.seen)(weight).features;
                if width == 0 {
                    return Err(Error::new(ErrorCode::Shape, "the width of a convolution is 0")
                        .help("use the number of rows that it sees, 1 or more"));
                }
                self.param(name, "weight", weight, [rows.features, width], rows.dtype)?;
                self.optional(name, bias.as_ref(), [1, rows.features], rows.dtype)?;
                Ok(rows)
            }
        }
    }

    fn op<V>(&self, op: &RowOp<V>, row: Shape) -> Result<()>
    where
        S: Fn(&V) -> Shape,
    {
        let name = op.name();
        match op {
            RowOp::Activate(_) => Ok(()),
            RowOp::Scale(by) => finite(name, *by),
            RowOp::Add(other) => {
                let other = (self.seen)(other);
                if other == row {
                    return Ok(());
                }
                Err(Error::new(ErrorCode::Shape, format!("add takes rows of one shape and type, not {row} and {other}"))
                    .help("what is added must have as many features as what it is added to"))
            }
            RowOp::LayerNorm { weight, bias, eps } => {
                positive(name, "eps", *eps)?;
                self.param(name, "weight", weight, [1, row.features], row.dtype)?;
                self.optional(name, bias.as_ref(), [1, row.features], row.dtype)
            }
            RowOp::RmsNorm { weight, eps } => {
                positive(name, "eps", *eps)?;
                self.param(name, "weight", weight, [1, row.features], row.dtype)
            }
            RowOp::Sinusoid { table, base } => {
                positive(name, "base", *base)?;
                self.segments(name, *table)
            }
            RowOp::Learned { positions, table } => {
                self.segments(name, *table)?;
                let (there, longest) = ((self.seen)(positions).rows, (self.table)(*table).longest);
                if there < longest {
                    return Err(Error::new(
                        ErrorCode::Shape,
                        format!("there are {there} learned positions, but a segment has {longest} rows"),
                    )
                    .help("use sinusoidal or rotary positions, or a table with a row for each position"));
                }
                self.param(name, "positions", positions, [there, row.features], row.dtype)
            }
            RowOp::Rotate { table, base, columns, width } => {
                positive(name, "base", *base)?;
                self.segments(name, *table)?;
                if *width == 0 || !width.is_multiple_of(2) || !columns.is_multiple_of(*width) || *columns > row.features {
                    return Err(Error::new(
                        ErrorCode::Shape,
                        format!("rotate turns pairs inside heads of {width} of {columns} columns of {row}"),
                    )
                    .help("rotary positions need an even number of features a head"));
                }
                Ok(())
            }
            RowOp::Custom { name, .. } if name.is_empty() => {
                Err(Error::new(ErrorCode::UnknownName, "an encoder of one's own needs a name"))
            }
            RowOp::Custom { .. } => Ok(()),
            RowOp::Cast(dtype) if dtype.is_float() => Ok(()),
            RowOp::Cast(dtype) => Err(Error::new(ErrorCode::DType, format!("values cannot be {dtype}")).help("f32, f64, f16 or bf16")),
        }
    }

    fn optional<V>(&self, op: &str, bias: Option<&V>, shape: [u64; 2], rows: DType) -> Result<()>
    where
        S: Fn(&V) -> Shape,
    {
        bias.map_or(Ok(()), |bias| self.param(op, "bias", bias, shape, rows))
    }

    fn param<V>(&self, op: &str, what: &str, param: &V, shape: [u64; 2], rows: DType) -> Result<()>
    where
        S: Fn(&V) -> Shape,
    {
        let found = (self.seen)(param);
        if [found.rows, found.features] != shape {
            return Err(Error::new(ErrorCode::Shape, format!("the {what} of {op} is {found}, wanted is [{}x{}]", shape[0], shape[1])));
        }
        if !found.dtype.is_float() || !found.dtype.widens_to(rows.accumulator()) {
            return Err(Error::new(
                ErrorCode::DType,
                format!("the {what} of {op} is {}, which is not exact in {}, in which {rows} is computed", found.dtype, rows.accumulator()),
            ));
        }
        Ok(())
    }

    fn segments(&self, op: &str, table: TableId) -> Result<()> {
        let found = (self.table)(table);
        if found.rows != self.rows {
            return Err(Error::new(
                ErrorCode::RowsMismatch,
                format!("{op} looks along {} rows by {table}, which has {}", self.rows, found.rows),
            ));
        }
        if !found.is_partition {
            return Err(Error::new(ErrorCode::Shape, format!("{op} looks along segments of {table}, which is not an ordered partition"))
                .help("spread the rows first, so that each occurrence has its own"));
        }
        Ok(())
    }
}

fn finite(op: &str, number: Number) -> Result<()> {
    if number.0.is_finite() {
        return Ok(());
    }
    Err(Error::new(ErrorCode::Option, format!("the constant of {op} is {number}")).help("use a finite number"))
}

fn positive(op: &str, what: &str, number: Number) -> Result<()> {
    if number.0.is_finite() && number.0 > 0.0 {
        return Ok(());
    }
    Err(Error::new(ErrorCode::Option, format!("the `{what}` of {op} is {number}")).help("use a number above 0"))
}

//! Encoders in a graph: what they make of their operands, how they are built, and how they print.

use super::print::types;
use super::{GraphBuilder, LevelGraph, Op, OpName, Operand, Origin, Role, Value, ValueType};
use crate::dtype::DType;
use crate::encoder::{Encoding, Kernel, RowOp, Shape, TableShape, attended_pairs};
use crate::error::{Error, ErrorCode, Result};
use crate::ids::TableId;
use crate::segments::Segments;
use smallvec::{SmallVec, smallvec};

pub(super) fn infer_spread(graph: &LevelGraph, table: TableId, rows: u64, features: u64, dtype: DType) -> Result<ValueType> {
    let segments = &graph.table(table).segments;
    if segments.rows() != rows {
        return Err(Error::new(
            ErrorCode::RowsMismatch,
            format!("the segments are made for {} rows, but {rows} are spread over them", segments.rows()),
        ));
    }
    Ok(ValueType::Rows { rows: segments.total_rows(), features, dtype })
}

pub(super) fn infer(graph: &LevelGraph, encoding: &Encoding<Operand>, operands: &[ValueType]) -> Result<ValueType> {
    let mut shapes: SmallVec<[Shape; 8]> = SmallVec::new();
    for operand in operands {
        let ValueType::Rows { rows, features, dtype } = *operand else {
            return Err(Error::new(ErrorCode::GraphInvalid, format!("{} does not take ({})", encoding.kernel.name(), types(operands))));
        };
        shapes.push(Shape { rows, features, dtype });
    }
    let named = encoding.operands();
    if named.iter().any(|operand| crate::widen(**operand) >= shapes.len())
        || (0..operands.len()).any(|at| !named.iter().any(|operand| crate::widen(**operand) == at))
    {
        return Err(Error::new(
            ErrorCode::GraphInvalid,
            format!("{} names other operands than the {} that it has", encoding.kernel.name(), operands.len()),
        ));
    }
    let table = |id: TableId| {
        let segments = &graph.table(id).segments;
        TableShape { rows: segments.rows(), is_partition: segments.is_partition(), longest: segments.longest() }
    };
    let Shape { rows, features, dtype } = encoding.shape(|operand| shapes[crate::widen(*operand)], table)?;
    if let Kernel::Attend { table, causal, pairs, .. } = encoding.kernel {
        let counted = pairs_of(&graph.table(table).segments, causal);
        if counted != pairs {
            return Err(Error::new(ErrorCode::GraphInvalid, format!("attend says {pairs} pairs, but its segments have {counted}")));
        }
    }
    Ok(ValueType::Rows { rows, features, dtype })
}

fn pairs_of(segments: &Segments, causal: bool) -> u64 {
    attended_pairs(segments.ranges().map(|range| range.end - range.start), causal)
}

/// The same encoding over operands and tables of other numbers.
pub(crate) fn renumbered(
    encoding: &Encoding<Operand>,
    operand: impl Fn(Operand) -> Operand,
    table: impl Fn(TableId) -> TableId,
) -> Encoding<Operand> {
    let renumbered: Result<_, std::convert::Infallible> = encoding.try_map(|number| Ok(operand(*number)), |id| Ok(table(id)));
    match renumbered {
        Ok(encoding) => encoding,
        Err(never) => match never {},
    }
}

/// `matmul n3, n1, n2 | gelu | add n0`.
pub(super) fn printed(encoding: &Encoding<Operand>, operands: &[String]) -> String {
    let name = |operand: &Operand| operands.get(crate::widen(*operand)).map_or("?", String::as_str);
    let list = |of: &[&Operand]| of.iter().map(|operand| format!(" {}", name(operand))).collect::<Vec<_>>().join(",");
    let kernel = &encoding.kernel;
    let mut text = format!("{}{}{}", kernel.name(), list(&kernel.operands()), kernel.details());
    for op in &encoding.ops {
        text.push_str(&format!(" | {}{}{}", op.name(), list(&op.operands()), op.details()));
    }
    text
}

/// How a row-wise operation, a matrix product, attention and so on are built: each is an encoding of its own, and the optimizer fuses them.
impl GraphBuilder {
    /// Rows that several users may share: the same name gives the same value.
    ///
    /// # Errors
    /// `duplicate-name` where an input has the name; `shape` where a param of the name has another shape or type; as for
    /// [`param`](Self::param).
    pub fn shared_param(&mut self, name: &str, dtype: DType, rows: u64, features: u64) -> Result<Value> {
        let wanted = ValueType::Rows { rows, features, dtype };
        let known = self.bound.get(name).copied();
        let known = known.filter(|node| matches!(self.graph.op(*node), Op::Input { role: Role::Param, .. }));
        let Some(node) = known else { return self.param(name, dtype, rows, features) };
        let value = Value { node, port: 0 };
        let found = *self.graph.value_type(value);
        if found != wanted {
            return Err(Error::new(ErrorCode::Shape, format!("the parameter `{name}` is {found} elsewhere, and {wanted} here"))
                .help("parameters that share a name share their shape and type; give one of them another name"));
        }
        Ok(value)
    }

    /// A row for each occurrence of a row in a segment: a copy, and an identity where the segments partition the rows in order.
    ///
    /// # Errors
    /// `rows-mismatch`.
    pub fn spread(&mut self, rows: Value, table: TableId) -> Result<Value> {
        let level = self.encoded.unwrap_or_else(|| self.graph.node(rows.node).level);
        self.op(Op::Spread { table }, &[rows], level)
    }

    /// Each row times a matrix `[out, in]`, plus a bias `[1, out]`: y = x Wᵀ + b.
    ///
    /// # Errors
    /// `shape`, `dtype`.
    pub fn linear(&mut self, rows: Value, weight: Value, bias: Option<Value>) -> Result<Value> {
        let kernel = Kernel::MatMul { rows: 0, weight: 1, bias: bias.map(|_| 2) };
        let operands: SmallVec<[Value; 3]> = [rows, weight].into_iter().chain(bias).collect();
        self.encode(Encoding::of(kernel), &operands, "linear")
    }

    /// Softmax attention inside each segment. The rows are queries, keys and values side by side, of equally many features.
    ///
    /// # Errors
    /// `shape` where the features are no multiple of 3 · heads, or the segments no ordered partition; `rows-mismatch`.
    pub fn attend(&mut self, qkv: Value, table: TableId, heads: u32, causal: bool) -> Result<Value> {
        let pairs = pairs_of(&self.graph.table(table).segments, causal);
        let kernel = Kernel::Attend { qkv: 0, table, heads, causal, pairs };
        self.encode(Encoding::of(kernel), &[qkv], "attend")
    }

    /// Depth-wise convolution inside each segment, by taps `[features, width]` and a bias `[1, features]`.
    ///
    /// # Errors
    /// `shape`, `dtype`, `rows-mismatch`.
    pub fn convolve(&mut self, rows: Value, weight: Value, bias: Option<Value>, table: TableId, causal: bool) -> Result<Value> {
        let kernel = Kernel::Convolve { rows: 0, weight: 1, bias: bias.map(|_| 2), table, causal };
        let operands: SmallVec<[Value; 3]> = [rows, weight].into_iter().chain(bias).collect();
        self.encode(Encoding::of(kernel), &operands, "convolve")
    }

    /// An operation on single rows; its operands are numbers of nothing here, they come in order beside it.
    ///
    /// # Errors
    /// `shape`, `dtype`, `option`, `rows-mismatch`.
    pub fn map(&mut self, rows: Value, op: &RowOp<Value>) -> Result<Value> {
        let mut operands: SmallVec<[Value; 3]> = smallvec![rows];
        operands.extend(op.operands().into_iter().copied());
        let mut next: Operand = 0;
        let mut number = |_: &Value| -> Result<Operand> {
            next += 1;
            Ok(next)
        };
        let single = Encoding { kernel: Kernel::Map { rows }, ops: vec![op.clone()] };
        let mut first = true;
        let encoding = single.try_map(|value| if std::mem::take(&mut first) { Ok(0) } else { number(value) }, Ok::<TableId, Error>)?;
        self.encode(encoding, &operands, op.name())
    }

    /// Any encoding, over operands by number.
    ///
    /// # Errors
    /// As for the others, and `graph-invalid` where operands are missing or not named.
    pub fn encode(&mut self, encoding: Encoding<Operand>, operands: &[Value], name: &'static str) -> Result<Value> {
        let Some(rows) = operands.first() else {
            return Err(Error::new(ErrorCode::GraphInvalid, "an encoding of nothing has no shape"));
        };
        let level = self.encoded.unwrap_or_else(|| self.graph.node(rows.node).level);
        let index = self
            .graph
            .nodes()
            .filter(|node| matches!(self.graph.op(*node), Op::Encode(_)) && self.graph.node(*node).level == level)
            .count();
        let op = OpName::Encode(u16::try_from(index).unwrap_or(u16::MAX), name);
        let node = self.graph.add(Op::Encode(encoding), operands, level, smallvec![Origin { level, op }])?;
        Ok(Value { node, port: 0 })
    }

    /// Where segments are no ordered partition: the table that cuts a row for each occurrence into the same segments.
    pub(crate) fn occurrences(&mut self, table: TableId) -> Result<Option<TableId>> {
        let of = self.graph.table(table).clone();
        if of.segments.is_partition() {
            return Ok(None);
        }
        let lengths: Vec<u64> = of.segments.ranges().map(|range| range.end - range.start).collect();
        self.table(&format!("{}.occurrences", of.name), &Segments::from_lengths(&lengths)?).map(Some)
    }

    /// Whose level the encoders that follow belong to; that of their rows where nothing is said.
    pub(crate) fn encode_level(&mut self, name: Option<&str>) {
        self.encoded = name.map(|name| self.level(name));
    }
}

//! Building a graph by hand: any DAG of levels.

use super::{ConcatHow, GraphTable, LevelGraph, Node, Op, OpName, Origin, Reduction, Role, Value, ValueType};
use crate::dtype::DType;
use crate::encoder::ElementOps;
use crate::error::{Error, ErrorCode, Result};
use crate::ids::{NodeId, TableId};
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;
use smallvec::smallvec;
use std::collections::HashMap;
use std::sync::Arc;

/// How a level is reduced.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    reducer: Reducer,
    weights: Option<Value>,
    on_empty: Option<OnEmpty>,
    dtype: Option<DType>,
}

impl Reduce {
    /// By this reducer, unweighted, with its own answer to empty segments, in the type of what is reduced.
    pub fn new(reducer: Reducer) -> Self {
        Reduce { reducer, weights: None, on_empty: None, dtype: None }
    }

    /// With one weight a row of what is reduced.
    #[must_use]
    pub fn weights(mut self, weights: Value) -> Self {
        self.weights = Some(weights);
        self
    }

    /// What an empty segment gives.
    #[must_use]
    pub fn on_empty(mut self, on_empty: OnEmpty) -> Self {
        self.on_empty = Some(on_empty);
        self
    }

    /// The type that results are rounded to.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    fn reduction(&self, dtype: DType) -> Reduction {
        Reduction {
            reducer: self.reducer.clone(),
            weighted: self.weights.is_some(),
            on_empty: self.on_empty.unwrap_or_else(|| self.reducer.default_on_empty()),
            dtype: self.dtype.unwrap_or_else(|| self.reducer.result_dtype(dtype)),
            ops: ElementOps::new(),
        }
    }
}

/// Builds a [`LevelGraph`]: inputs and tables first, then operations, then outputs.
///
/// ```
/// use levelfold::{DType, Reducer, Segments};
/// use levelfold::graph::{GraphBuilder, Reduce};
///
/// # fn main() -> levelfold::Result<()> {
/// let mut graph = GraphBuilder::new();
/// let residues = graph.input("residue", DType::F32, 6, 16)?;
/// let proteins = graph.table("protein", &Segments::from_lengths(&[4, 2])?)?;
/// let mean = graph.fold(residues, proteins, Reduce::new(Reducer::Mean))?;
/// let max = graph.fold(residues, proteins, Reduce::new(Reducer::Max))?;
/// let both = graph.concat(&[mean, max])?;
/// graph.output("protein", both)?;
/// let graph = graph.finish()?;
/// assert_eq!(graph.outputs().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct GraphBuilder {
    pub(super) graph: LevelGraph,
    /// Whose level encoders belong to, where it is not that of their rows.
    pub(super) encoded: Option<u32>,
    /// The inputs and params so far, by their names.
    pub(super) bound: HashMap<Arc<str>, NodeId>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows that the caller binds: `rows × features` floats.
    ///
    /// # Errors
    /// `duplicate-name`, `dtype`, `overflow`.
    pub fn input(&mut self, name: &str, dtype: DType, rows: u64, features: u64) -> Result<Value> {
        self.bound(name, Role::Input, ValueType::Rows { rows, features, dtype })
    }

    /// Ids that the caller binds, one a row.
    ///
    /// # Errors
    /// `duplicate-name`; `dtype` where it is not a type of ids.
    pub fn ids(&mut self, name: &str, dtype: DType, rows: u64) -> Result<Value> {
        if !dtype.is_id() {
            return Err(Error::new(ErrorCode::DType, format!("ids cannot be {dtype}"))
                .at_level(name)
                .help("ids are u8, u16, u32, i32 or i64"));
        }
        self.bound(name, Role::Input, ValueType::Rows { rows, features: 1, dtype })
    }

    /// Rows that the caller binds and that stay the same from run to run, such as a lookup table.
    ///
    /// # Errors
    /// `duplicate-name`, `dtype`, `overflow`.
    pub fn param(&mut self, name: &str, dtype: DType, rows: u64, features: u64) -> Result<Value> {
        self.bound(name, Role::Param, ValueType::Rows { rows, features, dtype })
    }

    /// One weight a row, for weighted reductions.
    ///
    /// # Errors
    /// `duplicate-name`, `dtype`.
    pub fn weights(&mut self, name: &str, dtype: DType, rows: u64) -> Result<Value> {
        self.input(name, dtype, rows, 1)
    }

    fn bound(&mut self, name: &str, role: Role, ty: ValueType) -> Result<Value> {
        if name.is_empty() {
            return Err(Error::new(ErrorCode::UnknownName, "an input needs a name"));
        }
        if self.bound.contains_key(name) {
            return Err(Error::new(ErrorCode::DuplicateName, format!("two inputs are named `{name}`"))
                .at_level(name)
                .help("give each a name of its own; only encoders share parameters"));
        }
        let ValueType::Rows { rows, features, dtype } = ty else {
            return Err(Error::new(ErrorCode::Internal, "inputs are rows").at_level(name));
        };
        if rows.checked_mul(features.max(1)).and_then(|count| count.checked_mul(dtype.size_u64())).is_none() {
            return Err(Error::new(ErrorCode::Overflow, format!("{rows} rows of {features} features do not fit 64 bits")).at_level(name));
        }
        let level = self.level(name);
        let name = self.graph.levels[crate::widen(level)].clone();
        let op = Op::Input { name: name.clone(), role };
        let origins = smallvec![Origin { level, op: OpName::Input }];
        let node = super::id_of(self.graph.graph.add_node(Node { op, types: smallvec![ty], origins, level }));
        self.bound.insert(name, node);
        Ok(Value { node, port: 0 })
    }

    /// The segments that make one level from the one below. The name is the level's.
    ///
    /// # Errors
    /// `duplicate-name`.
    pub fn table(&mut self, name: &str, segments: &Segments) -> Result<TableId> {
        if self.graph.tables.iter().any(|table| *table.name == *name) {
            return Err(Error::new(ErrorCode::DuplicateName, format!("two levels are named `{name}`")).at_level(name));
        }
        let level = self.level(name);
        let name = self.graph.levels[crate::widen(level)].clone();
        Ok(self.graph.add_table(GraphTable { name, segments: segments.clone(), composed: None }))
    }

    /// The rows of a table that ids look up: written out, in the literal program.
    ///
    /// # Errors
    /// `dtype`, where the first are not ids or the second not floats.
    pub fn gather(&mut self, ids: Value, table: Value) -> Result<Value> {
        let level = self.graph.node(ids.node).level;
        self.op(Op::Gather, &[ids, table], level)
    }

    /// Rows in groups, a view.
    ///
    /// # Errors
    /// `rows-mismatch` where the table was made for another number of rows.
    pub fn slice(&mut self, rows: Value, table: TableId) -> Result<Value> {
        let name = self.graph.table(table).name.clone();
        let level = self.level(&name);
        self.op(Op::Slice { table }, &[rows], level)
    }

    /// Exchanges the axes of each group, a view.
    ///
    /// # Errors
    /// `graph-invalid` where the operand is not ragged.
    pub fn transpose(&mut self, ragged: Value) -> Result<Value> {
        self.same_level(Op::Transpose, &[ragged])
    }

    /// Writes each group anew, dense.
    ///
    /// # Errors
    /// `graph-invalid` where the operand is not ragged.
    pub fn contiguous(&mut self, ragged: Value) -> Result<Value> {
        self.same_level(Op::Contiguous, &[ragged])
    }

    /// One row a group, in pieces, whichever axis order the groups have.
    ///
    /// # Errors
    /// `empty-segment`, `weights`, `dtype`, `graph-invalid`.
    pub fn reduce(&mut self, ragged: Value, how: Reduce) -> Result<Value> {
        let reduction = how.reduction(self.graph.value_type(ragged).dtype());
        match how.weights {
            Some(weights) => {
                self.check_divisors(&reduction.reducer, weights)?;
                self.same_level(Op::Reduce(reduction), &[ragged, weights])
            }
            None => self.same_level(Op::Reduce(reduction), &[ragged]),
        }
    }

    /// Pieces as one tensor, with an axis too many: a copy.
    ///
    /// # Errors
    /// `graph-invalid` where the operand is not in pieces.
    pub fn stack(&mut self, pieces: Value) -> Result<Value> {
        self.same_level(Op::Stack, &[pieces])
    }

    /// Drops the axis that stacking added.
    ///
    /// # Errors
    /// `graph-invalid` where the operand was not stacked.
    pub fn squeeze(&mut self, stacked: Value) -> Result<Value> {
        self.same_level(Op::Squeeze, &[stacked])
    }

    /// One level, literally: slice, transpose, contiguous, reduce, stack, squeeze.
    ///
    /// # Errors
    /// As for [`slice`](Self::slice) and [`reduce`](Self::reduce).
    pub fn fold(&mut self, rows: Value, table: TableId, how: Reduce) -> Result<Value> {
        let ragged = self.slice(rows, table)?;
        let transposed = self.transpose(ragged)?;
        let dense = self.contiguous(transposed)?;
        let pieces = self.reduce(dense, how)?;
        let stacked = self.stack(pieces)?;
        self.squeeze(stacked)
    }

    /// The columns of several values side by side: a copy, unless the optimizer places them there in the first place.
    ///
    /// # Errors
    /// `shape` where row counts or types differ.
    pub fn concat(&mut self, parts: &[Value]) -> Result<Value> {
        let Some(first) = parts.first() else {
            return Err(Error::new(ErrorCode::Shape, "a concat of nothing has no shape"));
        };
        let level = self.graph.node(first.node).level;
        self.op(Op::Concat { how: ConcatHow::Copied }, parts, level)
    }

    /// Names a result: the caller binds memory for it.
    ///
    /// # Errors
    /// `duplicate-name`; `graph-invalid` where the value is not rows.
    pub fn output(&mut self, name: &str, value: Value) -> Result<()> {
        if self.graph.outputs.iter().any(|output| *output.name == *name) {
            return Err(Error::new(ErrorCode::DuplicateName, format!("two outputs are named `{name}`")).at_level(name));
        }
        let ValueType::Rows { .. } = self.graph.value_type(value) else {
            return Err(Error::new(
                ErrorCode::GraphInvalid,
                format!("output `{name}` is {}, not rows", super::print::types(&[*self.graph.value_type(value)])),
            )
            .at_level(name)
            .help("stack and squeeze pieces first"));
        };
        let name = self.graph.levels.iter().find(|level| ***level == *name).cloned().unwrap_or_else(|| Arc::from(name));
        self.graph.outputs.push(super::Output { name, value });
        Ok(())
    }

    /// The graph, verified.
    ///
    /// # Errors
    /// `graph-invalid` where there is no output.
    pub fn finish(self) -> Result<LevelGraph> {
        if self.graph.outputs.is_empty() {
            return Err(Error::new(ErrorCode::GraphInvalid, "the graph has no output").help("name at least one result as an output"));
        }
        if cfg!(debug_assertions) {
            self.graph.verify()?;
        }
        Ok(self.graph)
    }

    /// The type of a value that was built.
    pub fn value_type(&self, value: Value) -> ValueType {
        *self.graph.value_type(value)
    }

    fn check_divisors(&self, reducer: &Reducer, weights: Value) -> Result<()> {
        if !reducer.divides_by_weights() || matches!(self.graph.op(weights.node), Op::Input { .. }) {
            return Ok(());
        }
        Err(Error::new(ErrorCode::Weights, format!("the weights of a {reducer} must be an input"))
            .help("they are checked when they are bound: negative ones have no mean"))
    }

    pub(super) fn same_level(&mut self, op: Op, operands: &[Value]) -> Result<Value> {
        let level = self.graph.node(operands[0].node).level;
        self.op(op, operands, level)
    }

    pub(super) fn op(&mut self, op: Op, operands: &[Value], level: u32) -> Result<Value> {
        let origins = smallvec![Origin { level, op: OpName::of(&op) }];
        Ok(Value { node: self.graph.add(op, operands, level, origins)?, port: 0 })
    }

    pub(super) fn level(&mut self, name: &str) -> u32 {
        let index = self.graph.levels.iter().position(|level| **level == *name).unwrap_or_else(|| {
            self.graph.levels.push(name.into());
            self.graph.levels.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }
}

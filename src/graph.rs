//! What was asked for: a directed acyclic graph of operations on levels.
//!
//! The [builder](GraphBuilder) makes the *literal* graph (§ the published program: slice, transpose, contiguous, reduce, stack,
//! squeeze); [passes](crate::optimize) rewrite it; [lowering](crate::lower) turns it into a plan.
//!
//! *Invariant:* each node carries the types of its results, which type inference computes again from its operands; [`LevelGraph::verify`]
//! holds them against each other. *Invariant:* the order of operands is the weight of an edge, never the order of neighbours.
//! *Invariant:* a node's origins name the user's operations that it stands for, so decisions and plans can name them after node ids
//! were reused.

mod build;
mod encode;
mod infer;
mod origin;
mod print;
mod tile;
mod verify;

pub use build::{GraphBuilder, Reduce};
pub(crate) use encode::renumbered;
pub(crate) use infer::infer;
pub use origin::{OpName, Origin, Origins};
pub use tile::GraphTile;

use crate::dtype::DType;
use crate::encoder::{ElementOps, Encoding, dtype_after};
use crate::error::Result;
use crate::ids::{NodeId, TableId};
use crate::plan::Order;
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;
use std::sync::Arc;

/// One result of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    pub(crate) node: NodeId,
    pub(crate) port: u32,
}

impl Value {
    /// The node that makes it.
    pub fn node(self) -> NodeId {
        self.node
    }

    /// Which of the node's results it is: an index into [`LevelGraph::types`].
    pub fn port(self) -> usize {
        crate::widen(self.port)
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// A level's values `[rows, features]`; ids and weights are rows with one feature.
    Rows {
        /// Rows.
        rows: u64,
        /// Features.
        features: u64,
        /// The element type.
        dtype: DType,
    },
    /// A level's rows in groups: one block a segment.
    Ragged {
        /// Whose segments.
        table: TableId,
        /// Features.
        features: u64,
        /// The element type.
        dtype: DType,
        /// Which axis of a block comes first.
        order: Order,
        /// Where its elements lie.
        memory: RaggedMemory,
    },
    /// One row a segment, still in pieces: what a literal reduce gives.
    Pieces {
        /// Segments.
        segments: u64,
        /// Features.
        features: u64,
        /// The element type.
        dtype: DType,
    },
    /// Pieces stacked into one tensor, with the axis of length 1 that a squeeze takes away.
    Stacked {
        /// Rows.
        rows: u64,
        /// Features.
        features: u64,
        /// The element type.
        dtype: DType,
    },
}

/// Where the elements of a ragged value lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaggedMemory {
    /// In the rows that it was sliced from.
    Rows,
    /// In blocks of their own, dense, in this order.
    Packed(Order),
}

impl ValueType {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match *self {
            ValueType::Rows { dtype, .. }
            | ValueType::Ragged { dtype, .. }
            | ValueType::Pieces { dtype, .. }
            | ValueType::Stacked { dtype, .. } => dtype,
        }
    }

    /// The features of a row.
    pub fn features(&self) -> u64 {
        match *self {
            ValueType::Rows { features, .. }
            | ValueType::Ragged { features, .. }
            | ValueType::Pieces { features, .. }
            | ValueType::Stacked { features, .. } => features,
        }
    }
}

/// Whether an input changes from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Data: another one each run.
    Input,
    /// The same from run to run: a lookup table, say.
    Param,
}

/// One reducer over the segments of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduction {
    /// Which reducer.
    pub reducer: Reducer,
    /// Whether an operand gives the weights.
    pub weighted: bool,
    /// What an empty segment gives.
    pub on_empty: OnEmpty,
    /// The type that results are rounded to.
    pub dtype: DType,
    /// What is done to each element of a result, before anyone takes it.
    pub ops: ElementOps,
}

impl Reduction {
    /// The type of what it gives in the end.
    pub fn made(&self) -> DType {
        dtype_after(&self.ops, self.dtype)
    }
}

/// One level of a fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Whose segments.
    pub table: TableId,
    /// Which reduction of the stage before is folded (0 at stage 0).
    pub feed: u32,
    /// What is done to each element before it is folded.
    pub ops: ElementOps,
    /// What is made of each segment.
    pub reductions: SmallVec<[Reduction; 1]>,
}

/// Where the rows of a fold come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldLoad {
    /// Operand 0 are the rows.
    Rows,
    /// Operand 0 are ids, operand 1 the table that they look up.
    Gather,
    /// The same; ids are counted, and the rows of the table are folded by their counts.
    Histogram,
}

impl FoldLoad {
    /// How many operands stand before the weights.
    pub fn operands(self) -> usize {
        match self {
            FoldLoad::Rows => 1,
            FoldLoad::Gather | FoldLoad::Histogram => 2,
        }
    }
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// What the caller binds. No operands.
    Input {
        /// The name of the binding.
        name: Arc<str>,
        /// Data or param.
        role: Role,
    },
    /// (ids, table) → the row of the table for each id.
    Gather,
    /// (rows) → ragged: the rows of each segment, a view.
    Slice {
        /// Whose segments.
        table: TableId,
    },
    /// (ragged) → the same with the axes of each block exchanged, a view.
    Transpose,
    /// (ragged) → the same, each block dense in its order: a copy.
    Contiguous,
    /// (ragged [, weights]) → one row a segment, in pieces.
    Reduce(Reduction),
    /// (pieces) → stacked: a copy.
    Stack,
    /// (stacked) → rows: a renaming.
    Squeeze,
    /// (pieces) → rows: a renaming. What stack and squeeze come to when nothing need be copied.
    Rename,
    /// (rows, …) → rows with the columns of all, side by side.
    Concat {
        /// Copied together, or written there in the first place.
        how: ConcatHow,
    },
    /// (load operands, then the weights of each weighted reduction, stage by stage) → rows of each reduction, stage by stage.
    Fold {
        /// Where rows come from.
        load: FoldLoad,
        /// The levels, lowest first.
        stages: SmallVec<[Stage; 1]>,
    },
    /// (rows) → rows, one for each row of each segment: a copy that gives each occurrence of a row its own.
    Spread {
        /// Whose segments.
        table: TableId,
    },
    /// (rows, then what the kernel and the operations behind it take) → rows.
    Encode(Encoding<Operand>),
}

/// An operand of an encoding, by its number.
pub type Operand = u32;

/// How a concat comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcatHow {
    /// Each operand is copied to its columns.
    Copied,
    /// Each operand is written to its columns by the step that makes it.
    Placed,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) types: SmallVec<[ValueType; 1]>,
    pub(crate) origins: Origins,
    /// The level that it belongs to, as an index into the graph's level names.
    pub(crate) level: u32,
}

/// Operand `operand` of the target is result `port` of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    operand: u32,
    port: u32,
}

/// A use of a value: as an operand of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) user: NodeId,
    pub(crate) operand: u32,
    pub(crate) port: u32,
}

/// A named result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The name of the binding.
    pub name: Arc<str>,
    /// What is written there.
    pub value: Value,
}

/// A table of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphTable {
    /// The level that it makes.
    pub name: Arc<str>,
    /// The segments.
    pub segments: Segments,
    /// Set where a pass composed it from two others.
    pub composed: Option<(TableId, TableId)>,
}

/// What was asked for, and what the passes have made of it so far.
#[derive(Clone, Debug, Default)]
pub struct LevelGraph {
    graph: StableDiGraph<Node, Edge>,
    tables: Vec<GraphTable>,
    levels: Vec<Arc<str>>,
    outputs: Vec<Output>,
    tiles: Vec<GraphTile>,
}

fn index_of(node: NodeId) -> NodeIndex {
    NodeIndex::new(node.index())
}

fn id_of(index: NodeIndex) -> NodeId {
    NodeId::new(index.index())
}

impl LevelGraph {
    /// The tables, by id.
    pub fn tables(&self) -> &[GraphTable] {
        &self.tables
    }

    /// A table.
    pub fn table(&self, id: TableId) -> &GraphTable {
        &self.tables[id.index()]
    }

    /// The outputs, in the order in which they were named.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The type of a value.
    pub fn value_type(&self, value: Value) -> &ValueType {
        &self.node(value.node).types[crate::widen(value.port)]
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.graph.node_count()
    }

    /// The operation of a node.
    pub fn op(&self, node: NodeId) -> &Op {
        &self.node(node).op
    }

    /// The types of a node's results.
    pub fn types(&self, node: NodeId) -> &[ValueType] {
        &self.node(node).types
    }

    /// Every node, by id.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.graph.node_indices().map(id_of)
    }

    /// The operands of a node, in order.
    pub fn operands(&self, node: NodeId) -> SmallVec<[Value; 4]> {
        let mut edges: SmallVec<[(u32, Value); 4]> = self
            .graph
            .edges_directed(index_of(node), Direction::Incoming)
            .map(|edge| (edge.weight().operand, Value { node: id_of(edge.source()), port: edge.weight().port }))
            .collect();
        edges.sort_unstable_by_key(|(operand, _)| *operand);
        edges.into_iter().map(|(_, value)| value).collect()
    }

    /// The user's operations that a node stands for, as `level.op`.
    pub fn origin_names(&self, node: NodeId) -> Vec<Arc<str>> {
        self.node(node)
            .origins
            .iter()
            .map(|origin| format!("{}.{}", self.levels[crate::widen(origin.level)], origin.op.name()).into())
            .collect()
    }

    pub(crate) fn origin_parts(&self, origin: Origin) -> (Arc<str>, &'static str) {
        (self.levels[crate::widen(origin.level)].clone(), origin.op.name())
    }

    /// The level that a node belongs to.
    pub fn level_name(&self, node: NodeId) -> &Arc<str> {
        &self.levels[crate::widen(self.node(node).level)]
    }

    /// The nodes in an order in which operands come first; among those that could be next, the smallest id.
    ///
    /// Nodes on a cycle are left out: [`verify`](Self::verify) reports them.
    pub fn topological(&self) -> Vec<NodeId> {
        let bound = self.graph.node_indices().next_back().map_or(0, |last| last.index() + 1);
        let mut waiting = vec![0u32; bound];
        let mut ready = std::collections::BinaryHeap::new();
        for index in self.graph.node_indices() {
            let operands = self.graph.edges_directed(index, Direction::Incoming).count();
            waiting[index.index()] = u32::try_from(operands).unwrap_or(u32::MAX);
            if operands == 0 {
                ready.push(std::cmp::Reverse(index.index()));
            }
        }
        let mut order = Vec::with_capacity(self.graph.node_count());
        while let Some(std::cmp::Reverse(next)) = ready.pop() {
            order.push(NodeId::new(next));
            for edge in self.graph.edges_directed(NodeIndex::new(next), Direction::Outgoing) {
                let target = edge.target().index();
                waiting[target] -= 1;
                if waiting[target] == 0 {
                    ready.push(std::cmp::Reverse(target));
                }
            }
        }
        order
    }

    pub(crate) fn node(&self, node: NodeId) -> &Node {
        &self.graph[index_of(node)]
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.graph.contains_node(index_of(node))
    }

    pub(crate) fn op_mut(&mut self, node: NodeId) -> &mut Op {
        &mut self.graph[index_of(node)].op
    }

    /// One operand.
    pub(crate) fn operand(&self, node: NodeId, operand: u32) -> Option<Value> {
        self.graph
            .edges_directed(index_of(node), Direction::Incoming)
            .find(|edge| edge.weight().operand == operand)
            .map(|edge| Value { node: id_of(edge.source()), port: edge.weight().port })
    }

    /// Every use of a node's results as an operand, by (user, operand).
    pub(crate) fn uses(&self, node: NodeId) -> SmallVec<[Use; 4]> {
        let mut uses: SmallVec<[Use; 4]> = self
            .graph
            .edges_directed(index_of(node), Direction::Outgoing)
            .map(|edge| Use { user: id_of(edge.target()), operand: edge.weight().operand, port: edge.weight().port })
            .collect();
        uses.sort_unstable_by_key(|used| (used.user, used.operand));
        uses
    }

    /// The one use of a node's only result, where it has exactly one and is no output.
    pub(crate) fn only_use(&self, node: NodeId) -> Option<Use> {
        let mut edges = self.graph.edges_directed(index_of(node), Direction::Outgoing);
        let edge = edges.next()?;
        (edges.next().is_none() && !self.is_output(node)).then(|| Use {
            user: id_of(edge.target()),
            operand: edge.weight().operand,
            port: edge.weight().port,
        })
    }

    /// Whether an output takes any result of a node.
    pub(crate) fn is_output(&self, node: NodeId) -> bool {
        self.outputs.iter().any(|output| output.value.node == node)
    }

    /// Whether `to` depends on `from`.
    pub(crate) fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        petgraph::algo::has_path_connecting(&self.graph, index_of(from), index_of(to), None)
    }

    /// Adds a node; its types are inferred.
    pub(crate) fn add(&mut self, op: Op, operands: &[Value], level: u32, origins: Origins) -> Result<NodeId> {
        let operand_types: SmallVec<[ValueType; 4]> = operands.iter().map(|value| *self.value_type(*value)).collect();
        let types = infer(self, &op, &operand_types).map_err(|error| error.at_level(&*self.levels[crate::widen(level)]))?;
        let index = self.graph.add_node(Node { op, types, origins, level });
        for (operand, value) in operands.iter().enumerate() {
            let operand = u32::try_from(operand).unwrap_or(u32::MAX);
            self.graph.add_edge(index_of(value.node), index, Edge { operand, port: value.port });
        }
        Ok(id_of(index))
    }

    /// Makes every use of one value a use of another, outputs included.
    pub(crate) fn replace(&mut self, old: Value, new: Value) {
        let edges: SmallVec<[_; 4]> = self
            .graph
            .edges_directed(index_of(old.node), Direction::Outgoing)
            .filter(|edge| edge.weight().port == old.port)
            .map(|edge| (edge.id(), edge.target(), edge.weight().operand))
            .collect();
        for (edge, target, operand) in edges {
            self.graph.remove_edge(edge);
            self.graph.add_edge(index_of(new.node), target, Edge { operand, port: new.port });
        }
        for output in self.outputs.iter_mut().filter(|output| output.value == old) {
            output.value = new;
        }
    }

    /// Removes a node with its edges. Nothing may use it any more.
    pub(crate) fn remove(&mut self, node: NodeId) {
        debug_assert!(self.uses(node).is_empty() && !self.is_output(node), "{node} is still used");
        self.graph.remove_node(index_of(node));
    }

    /// Removes a node and then what only it used, as far as that goes; inputs stay.
    pub(crate) fn remove_unused_from(&mut self, node: NodeId) {
        let mut unused: SmallVec<[NodeId; 8]> = smallvec::smallvec![node];
        while let Some(node) = unused.pop() {
            if !self.contains(node) || matches!(self.op(node), Op::Input { .. }) {
                continue;
            }
            if !self.uses(node).is_empty() || self.is_output(node) {
                continue;
            }
            unused.extend(self.operands(node).iter().map(|value| value.node));
            self.remove(node);
        }
    }

    /// Infers every type again, in order: after operands were exchanged for others of another memory.
    pub(crate) fn reinfer(&mut self) -> Result<()> {
        for node in self.topological() {
            if matches!(self.op(node), Op::Input { .. }) {
                continue;
            }
            let operands: SmallVec<[ValueType; 4]> = self.operands(node).iter().map(|value| *self.value_type(*value)).collect();
            let types = infer(self, self.op(node), &operands)?;
            self.graph[index_of(node)].types = types;
        }
        Ok(())
    }

    pub(crate) fn add_table(&mut self, table: GraphTable) -> TableId {
        self.tables.push(table);
        TableId::new(self.tables.len() - 1)
    }

    pub(crate) fn remap_tables(&mut self, tables: Vec<GraphTable>, to: &[TableId]) {
        self.tables = tables;
        for tile in &mut self.tiles {
            tile.table = to[tile.table.index()];
        }
        for table in &mut self.tables {
            table.composed = table.composed.map(|(lower, upper)| (to[lower.index()], to[upper.index()]));
        }
        for node in self.graph.node_weights_mut() {
            match &mut node.op {
                Op::Slice { table } | Op::Spread { table } => *table = to[table.index()],
                Op::Encode(encoding) => *encoding = encode::renumbered(encoding, |operand| operand, |table| to[table.index()]),
                Op::Fold { stages, .. } => stages.iter_mut().for_each(|stage| stage.table = to[stage.table.index()]),
                Op::Input { .. }
                | Op::Gather
                | Op::Transpose
                | Op::Contiguous
                | Op::Reduce(_)
                | Op::Stack
                | Op::Squeeze
                | Op::Rename
                | Op::Concat { .. } => {}
            }
            for ty in &mut node.types {
                if let ValueType::Ragged { table, .. } = ty {
                    *table = to[table.index()];
                }
            }
        }
    }

    /// The origins of several nodes as one list: sorted by level, in the order of the user's operations, each once.
    pub(crate) fn merged_origins(&self, nodes: &[NodeId]) -> Origins {
        let mut origins: Origins = nodes.iter().flat_map(|node| self.node(*node).origins.iter().copied()).collect();
        origins.sort_unstable();
        origins.dedup();
        origins
    }
}

/// The port of a fold's reduction.
pub(crate) fn port_of(stages: &[Stage], stage: usize, reduction: usize) -> u32 {
    let before: usize = stages[..stage].iter().map(|stage| stage.reductions.len()).sum();
    u32::try_from(before + reduction).unwrap_or(u32::MAX)
}

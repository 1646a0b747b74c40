//! Which buffer each value lives in, and through which view steps see it.

use super::{Detail, internal};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{ConcatHow, LevelGraph, Op, RaggedMemory, Role, Value, ValueType};
use crate::ids::{BufferId, NodeId, StepId, TableId, ViewId};
use crate::plan::{Buffer, Place, Plan, View, ViewLayout};
use smallvec::SmallVec;
use std::sync::Arc;

/// Where values live.
pub(super) struct Storage {
    /// The view of each value that is lowered so far, by node and port.
    views: Vec<SmallVec<[Option<ViewId>; 1]>>,
    /// The output that a value is written to directly, by value.
    direct: SmallVec<[(Value, usize); 8]>,
    /// The concat, the first column and the features of each value that is written as part of one.
    placed: SmallVec<[(Value, Value, u64); 4]>,
    detail: Detail,
}

impl Storage {
    pub(super) fn new(graph: &LevelGraph, order: &[NodeId], detail: Detail) -> Self {
        let bound = graph.nodes().last().map_or(0, |last| last.index() + 1);
        let mut storage = Storage { views: vec![SmallVec::new(); bound], direct: SmallVec::new(), placed: SmallVec::new(), detail };
        for &node in order {
            storage.views[node.index()].resize(graph.types(node).len(), None);
            if let Op::Concat { how: ConcatHow::Placed } = graph.op(node) {
                let mut column = 0;
                for part in graph.operands(node) {
                    storage.placed.push((part, Value { node, port: 0 }, column));
                    column += graph.value_type(part).features();
                }
            }
        }
        for (index, output) in graph.outputs().iter().enumerate() {
            let root = root(graph, output.value);
            let taken = storage.direct.iter().any(|(value, _)| *value == root);
            if !taken && !matches!(graph.op(root.node), Op::Input { .. }) {
                storage.direct.push((root, index));
            }
        }
        storage
    }

    /// The outputs that are not written directly.
    pub(super) fn copied_outputs(&self, graph: &LevelGraph) -> SmallVec<[usize; 2]> {
        (0..graph.outputs().len()).filter(|index| !self.direct.iter().any(|(_, direct)| direct == index)).collect()
    }

    pub(super) fn get(&self, value: Value) -> Option<ViewId> {
        self.views[value.node.index()][crate::widen(value.port)]
    }

    pub(super) fn set(&mut self, value: Value, view: ViewId) {
        self.views[value.node.index()][crate::widen(value.port)] = Some(view);
    }

    /// Whether anything but the next stage of its own fold takes a value.
    pub(super) fn is_used(&self, graph: &LevelGraph, value: Value) -> bool {
        graph.outputs().iter().any(|output| output.value == value) || graph.uses(value.node).iter().any(|used| used.port == value.port)
    }

    /// The buffer and view of an input.
    pub(super) fn input(&mut self, plan: &mut Plan, value: Value, name: &Arc<str>, role: Role, ty: &ValueType) -> Result<()> {
        let place = match role {
            Role::Input => Place::Input,
            Role::Param => Place::Param,
        };
        let ValueType::Rows { rows, features, dtype } = *ty else {
            return Err(internal("an input is rows"));
        };
        let buffer = push_buffer(plan, Buffer { name: name.clone(), dtype, rows, features, place })?;
        self.set(value, push_view(plan, View { buffer, first_column: 0, features, layout: ViewLayout::Rows }));
        Ok(())
    }

    /// The view through which a fold writes one of its results.
    pub(super) fn fold_result(
        &mut self,
        plan: &mut Plan,
        graph: &LevelGraph,
        value: Value,
        tables: &[Option<TableId>],
        table: TableId,
        suffix: &str,
    ) -> Result<ViewId> {
        let name = &graph.table(table).name;
        self.result(plan, graph, value, tables, (name, suffix))
    }

    /// The view through which an encoder writes its result.
    pub(super) fn encoded(
        &mut self,
        plan: &mut Plan,
        graph: &LevelGraph,
        value: Value,
        tables: &[Option<TableId>],
        suffix: &str,
    ) -> Result<ViewId> {
        self.result(plan, graph, value, tables, (graph.level_name(value.node), suffix))
    }

    /// The columns of the concat that a value is part of, or a buffer of its own.
    fn result(
        &mut self,
        plan: &mut Plan,
        graph: &LevelGraph,
        value: Value,
        tables: &[Option<TableId>],
        (level, suffix): (&Arc<str>, &str),
    ) -> Result<ViewId> {
        let part = self.placed.iter().find(|(part, ..)| *part == value).copied();
        let Some((_, concat, first_column)) = part else {
            let name = self.name(level, suffix);
            return self.new_buffer(plan, graph, value, tables, name);
        };
        let whole = self.whole(plan, graph, concat, tables, "")?;
        let features = graph.value_type(value).features();
        let view = push_view(plan, View { first_column, features, ..*plan.view(whole) });
        self.set(value, view);
        Ok(view)
    }

    /// The view of the whole buffer of a value, made where there is none yet.
    pub(super) fn whole(
        &mut self,
        plan: &mut Plan,
        graph: &LevelGraph,
        value: Value,
        tables: &[Option<TableId>],
        suffix: &str,
    ) -> Result<ViewId> {
        if let Some(view) = self.get(value) {
            return Ok(view);
        }
        let level = graph.level_name(value.node);
        let name = self.name(level, suffix);
        self.new_buffer(plan, graph, value, tables, name)
    }

    fn name(&self, level: &Arc<str>, suffix: &str) -> Arc<str> {
        match self.detail {
            Detail::Full if !suffix.is_empty() => format!("{level}{suffix}").into(),
            Detail::Full | Detail::CostOnly => level.clone(),
        }
    }

    fn new_buffer(
        &mut self,
        plan: &mut Plan,
        graph: &LevelGraph,
        value: Value,
        tables: &[Option<TableId>],
        name: Arc<str>,
    ) -> Result<ViewId> {
        let ty = graph.value_type(value);
        let view = match self.direct.iter().find(|(direct, _)| *direct == value) {
            Some(&(_, output)) => output_buffer(plan, &graph.outputs()[output].name, ty)?,
            None => {
                // Lifetime and offset follow once all steps are known.
                let place = Place::Arena { offset: 0, first: StepId(0), last: StepId(0) };
                let (rows, features, dtype, layout) = match *ty {
                    ValueType::Rows { rows, features, dtype }
                    | ValueType::Stacked { rows, features, dtype }
                    | ValueType::Pieces { segments: rows, features, dtype } => (rows, features, dtype, ViewLayout::Rows),
                    ValueType::Ragged { table, features, dtype, memory: RaggedMemory::Packed(order), .. } => {
                        let rows = graph.table(table).segments.total_rows();
                        let table = tables[table.index()].ok_or_else(|| internal("a table that is used was not described"))?;
                        (rows, features, dtype, ViewLayout::Packed { table, order })
                    }
                    ValueType::Ragged { memory: RaggedMemory::Rows, .. } => return Err(internal("a view has no buffer of its own")),
                };
                let buffer = push_buffer(plan, Buffer { name, dtype, rows, features, place })?;
                push_view(plan, View { buffer, first_column: 0, features, layout })
            }
        };
        self.set(value, view);
        Ok(view)
    }
}

/// The value whose buffer a value lies in: squeezes and renames are views.
fn root(graph: &LevelGraph, value: Value) -> Value {
    match graph.op(value.node) {
        Op::Squeeze | Op::Rename => graph.operand(value.node, 0).map_or(value, |operand| root(graph, operand)),
        Op::Input { .. }
        | Op::Gather
        | Op::Slice { .. }
        | Op::Transpose
        | Op::Contiguous
        | Op::Reduce(_)
        | Op::Stack
        | Op::Concat { .. }
        | Op::Spread { .. }
        | Op::Encode(_)
        | Op::Fold { .. } => value,
    }
}

/// The buffer and view of an output.
pub(super) fn output_buffer(plan: &mut Plan, name: &Arc<str>, ty: &ValueType) -> Result<ViewId> {
    let (rows, features, dtype) = match *ty {
        ValueType::Rows { rows, features, dtype }
        | ValueType::Stacked { rows, features, dtype }
        | ValueType::Pieces { segments: rows, features, dtype } => (rows, features, dtype),
        ValueType::Ragged { .. } => return Err(internal("an output is rows")),
    };
    let buffer = push_buffer(plan, Buffer { name: name.clone(), dtype, rows, features, place: Place::Output })?;
    Ok(push_view(plan, View { buffer, first_column: 0, features, layout: ViewLayout::Rows }))
}

fn push_buffer(plan: &mut Plan, buffer: Buffer) -> Result<BufferId> {
    let bytes = buffer.rows.checked_mul(buffer.features).and_then(|elements| elements.checked_mul(buffer.dtype.size_u64()));
    if bytes.is_none() {
        return Err(Error::new(
            ErrorCode::Overflow,
            format!("{} rows of {} features of {} do not fit 64 bits", buffer.rows, buffer.features, buffer.dtype),
        )
        .at_level(&*buffer.name));
    }
    plan.buffers.push(buffer);
    Ok(BufferId::new(plan.buffers.len() - 1))
}

fn push_view(plan: &mut Plan, view: View) -> ViewId {
    plan.views.push(view);
    ViewId::new(plan.views.len() - 1)
}

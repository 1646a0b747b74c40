//! Graph → plan: in which order, through which views, at which bytes.
//!
//! 1. *schedule*: operands first, then the smallest node id; the nodes of a tile one after the other.
//! 2. *assign views*: slices, transposes, squeezes and renames are views; what is left writes a buffer: an output's own memory where an
//!    output names the value, its columns where a concat was placed, the arena else.
//! 3. *place the arena*: lifetimes first, then offsets, the largest buffer first; what lives in one tile alone is placed in its scratch.
//! 4. *count the cost*: see [`Cost`].

mod arena;
mod blame;
mod views;

use crate::backend::Target;
use crate::encoder::{ElementOps, Encoding, RowOp};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{ConcatHow, FoldLoad, LevelGraph, Op, Operand, Value, ValueType};
use crate::ids::{NodeId, StepId, TableId, ViewId};
use crate::plan::{Copy, CopyKind, Cost, Encode, Fold, Hash, Load, PLAN_VERSION, Plan, Reduction, Stage, Step, StepKind, Table, Tile};
use crate::plan::{TableForm, TableSource, Totals, cost};
use smallvec::{SmallVec, smallvec};
use views::Storage;

/// Lowers a graph for a target. `literal` are the totals of the literal program; `None` says that this graph is the literal program.
///
/// # Errors
/// `unsupported` where the target does not take a step, with its reason; `overflow` where bytes do not fit 64 bits.
pub fn lower(graph: &LevelGraph, target: &Target, literal: Option<Totals>) -> Result<Plan> {
    lower_in(graph, target, literal, Detail::Full)
}

/// What the literal program of a graph costs: the totals of its plan, without the names that make a plan readable.
///
/// # Errors
/// `overflow` where bytes do not fit 64 bits.
pub(crate) fn literal_totals(graph: &LevelGraph, target: &Target) -> Result<Totals> {
    let anything = Target { supports: |_| Ok(()), ..target.clone() };
    lower_in(graph, &anything, None, Detail::CostOnly).map(|plan| plan.totals)
}

/// How much of a plan is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Full,
    /// Steps and buffers without origins and names of their own, which take longer to make than all the rest.
    CostOnly,
}

fn lower_in(graph: &LevelGraph, target: &Target, literal: Option<Totals>, detail: Detail) -> Result<Plan> {
    let mut plan = Plan {
        version: PLAN_VERSION,
        target: target.name.clone(),
        align: target.align,
        tables: Vec::new(),
        buffers: Vec::new(),
        views: Vec::new(),
        tiles: Vec::new(),
        steps: Vec::new(),
        totals: Totals::default(),
        literal: Totals::default(),
    };
    let order = graph.schedule();
    let tables = describe_tables(graph, &order, &mut plan);
    let mut lowering = Lowering { graph, tables, storage: Storage::new(graph, &order, detail), plan, detail, nodes: Vec::new() };
    for &node in &order {
        lowering.node(node)?;
    }
    lowering.copy_further_outputs()?;
    lowering.tiles()?;
    let mut plan = lowering.plan;
    for step in &plan.steps {
        (target.supports)(&step.kind).map_err(|reason| {
            let what = blame::blamed(&plan, step, target.supports, &reason);
            Error::new(ErrorCode::Unsupported, format!("target `{}` does not run {what}: {reason}", target.name))
                .help("choose another backend, or another form of this step")
        })?;
    }
    arena::place(&mut plan)?;
    for index in 0..plan.steps.len() {
        plan.steps[index].cost = cost::step_cost(&plan, &plan.steps[index].kind);
    }
    plan.totals = cost::totals(&plan);
    plan.literal = literal.unwrap_or(plan.totals);
    Ok(plan)
}

/// Describes the tables that nodes use, and those that they are composed of; returns where each graph table went.
fn describe_tables(graph: &LevelGraph, order: &[NodeId], plan: &mut Plan) -> SmallVec<[Option<TableId>; 8]> {
    let mut used: SmallVec<[bool; 8]> = smallvec![false; graph.tables().len()];
    for &node in order {
        match graph.op(node) {
            Op::Slice { table } | Op::Spread { table } => used[table.index()] = true,
            Op::Encode(encoding) => encoding.tables().iter().for_each(|table| used[table.index()] = true),
            Op::Fold { stages, .. } => stages.iter().for_each(|stage| used[stage.table.index()] = true),
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
    }
    // Parts come before what is composed of them, so one pass from the end finds them all.
    for index in (0..used.len()).rev() {
        if let (true, Some((lower, upper))) = (used[index], graph.tables()[index].composed) {
            (used[lower.index()], used[upper.index()]) = (true, true);
        }
    }
    let mut to: SmallVec<[Option<TableId>; 8]> = smallvec![None; used.len()];
    for (index, table) in graph.tables().iter().enumerate().filter(|(index, _)| used[*index]) {
        to[index] = Some(TableId::new(plan.tables.len()));
        let part = |id: TableId| to[id.index()].unwrap_or(id);
        let segments = &table.segments;
        plan.tables.push(Table {
            name: table.name.clone(),
            form: if segments.is_partition() { TableForm::Offsets } else { TableForm::Ranges },
            segments: segments.len(),
            rows: segments.rows(),
            total_rows: segments.total_rows(),
            longest: segments.longest(),
            empty: segments.empty_count(),
            hash: Hash(segments.hash()),
            source: match table.composed {
                None => TableSource::Bound,
                Some((lower, upper)) => TableSource::Compose { lower: part(lower), upper: part(upper) },
            },
        });
    }
    to
}

struct Lowering<'a> {
    graph: &'a LevelGraph,
    tables: SmallVec<[Option<TableId>; 8]>,
    storage: Storage,
    plan: Plan,
    detail: Detail,
    /// The node of each step but those at the end.
    nodes: Vec<NodeId>,
}

impl Lowering<'_> {
    fn node(&mut self, node: NodeId) -> Result<()> {
        let graph = self.graph;
        let operands = graph.operands(node);
        let value = Value { node, port: 0 };
        match graph.op(node) {
            Op::Input { name, role } => self.storage.input(&mut self.plan, value, name, *role, graph.value_type(value)),
            Op::Slice { .. } | Op::Transpose | Op::Squeeze | Op::Rename => {
                let view = self.view(operands[0])?;
                self.storage.set(value, view);
                Ok(())
            }
            Op::Contiguous => {
                let ValueType::Ragged { table, .. } = *graph.value_type(value) else {
                    return Err(internal("contiguous gives ragged values"));
                };
                let what = CopyKind::Segments { table: self.table(table)? };
                self.copy(node, what, &operands, ".contiguous")
            }
            Op::Stack => self.copy(node, CopyKind::Rows, &operands, ".stack"),
            Op::Gather => self.copy(node, CopyKind::Gather, &operands, ".gather"),
            Op::Spread { table } => self.copy(node, CopyKind::Spread { table: self.table(*table)? }, &operands, ".spread"),
            Op::Encode(encoding) => self.encode(node, encoding, &operands),
            Op::Concat { how: ConcatHow::Copied } => self.copy(node, CopyKind::Columns, &operands, ".concat"),
            // Its parts were written to its columns.
            Op::Concat { how: ConcatHow::Placed } => self.storage.whole(&mut self.plan, graph, value, &self.tables, "").map(drop),
            Op::Reduce(reduction) => {
                let ValueType::Ragged { table, .. } = *graph.value_type(operands[0]) else {
                    return Err(internal("reduce takes ragged values"));
                };
                let load = Load::View { values: self.view(operands[0])? };
                let weights = operands.get(1).map(|weights| self.view(*weights)).transpose()?;
                let write = self.storage.whole(&mut self.plan, graph, value, &self.tables, ".reduce")?;
                let reduction = Reduction {
                    reducer: reduction.reducer.clone(),
                    weights,
                    on_empty: reduction.on_empty,
                    dtype: reduction.dtype,
                    ops: reduction.ops.clone(),
                    write: Some(write),
                };
                let stage = Stage { table: self.table(table)?, feed: 0, ops: ElementOps::new(), reductions: smallvec![reduction] };
                self.step(node, StepKind::Fold(Fold { load, stages: vec![stage] }));
                Ok(())
            }
            Op::Fold { load, stages } => {
                let (load, mut weights) = match load {
                    FoldLoad::Rows => (Load::View { values: self.view(operands[0])? }, operands[1..].iter()),
                    FoldLoad::Gather => {
                        (Load::Gather { ids: self.view(operands[0])?, table: self.view(operands[1])? }, operands[2..].iter())
                    }
                    FoldLoad::Histogram => {
                        (Load::Histogram { ids: self.view(operands[0])?, table: self.view(operands[1])? }, operands[2..].iter())
                    }
                };
                let mut lowered = Vec::with_capacity(stages.len());
                let mut port = 0;
                for (index, stage) in stages.iter().enumerate() {
                    let feeds = stages.get(index + 1).map(|next| crate::widen(next.feed));
                    let mut reductions = SmallVec::new();
                    for (which, reduction) in stage.reductions.iter().enumerate() {
                        let value = Value { node, port };
                        port += 1;
                        let weights = match reduction.weighted {
                            true => weights.next().map(|weights| self.view(*weights)).transpose()?,
                            false => None,
                        };
                        let write = if feeds == Some(which) && !self.storage.is_used(graph, value) {
                            None
                        } else {
                            let sibling = if stage.reductions.len() > 1 { format!(".{}", reduction.reducer) } else { String::new() };
                            Some(self.storage.fold_result(&mut self.plan, graph, value, &self.tables, stage.table, &sibling)?)
                        };
                        reductions.push(Reduction {
                            reducer: reduction.reducer.clone(),
                            weights,
                            on_empty: reduction.on_empty,
                            dtype: reduction.dtype,
                            ops: reduction.ops.clone(),
                            write,
                        });
                    }
                    lowered.push(Stage { table: self.table(stage.table)?, feed: stage.feed, ops: stage.ops.clone(), reductions });
                }
                self.step(node, StepKind::Fold(Fold { load, stages: lowered }));
                Ok(())
            }
        }
    }

    fn encode(&mut self, node: NodeId, encoding: &Encoding<Operand>, operands: &[Value]) -> Result<()> {
        let view = |operand: &Operand| {
            let value = operands.get(crate::widen(*operand)).ok_or_else(|| internal("an encoding has all its operands"))?;
            self.view(*value)
        };
        let encoding = encoding.try_map(view, |table| self.table(table))?;
        let suffix = format!(".{}", encoding.ops.last().map_or(encoding.kernel.name(), RowOp::name));
        let write = self.storage.encoded(&mut self.plan, self.graph, Value { node, port: 0 }, &self.tables, &suffix)?;
        self.step(node, StepKind::Encode(Encode { encoding, write }));
        Ok(())
    }

    fn copy(&mut self, node: NodeId, what: CopyKind, operands: &[Value], suffix: &str) -> Result<()> {
        let mut read: SmallVec<[ViewId; 2]> = SmallVec::new();
        for operand in operands {
            read.push(self.view(*operand)?);
        }
        let write = self.storage.whole(&mut self.plan, self.graph, Value { node, port: 0 }, &self.tables, suffix)?;
        self.step(node, StepKind::Copy(Copy { what, read, write }));
        Ok(())
    }

    fn step(&mut self, node: NodeId, kind: StepKind) {
        let origin = match self.detail {
            Detail::Full => self.graph.origin_names(node),
            Detail::CostOnly => Vec::new(),
        };
        self.plan.steps.push(Step { kind, origin, cost: Cost::default() });
        self.nodes.push(node);
    }

    /// Outputs whose value already has a place of its own (an input, or another output) are copied there.
    fn copy_further_outputs(&mut self) -> Result<()> {
        for index in self.storage.copied_outputs(self.graph) {
            let output = &self.graph.outputs()[index];
            let read = self.view(output.value)?;
            let write = views::output_buffer(&mut self.plan, &output.name, self.graph.value_type(output.value))?;
            let origin = vec![format!("{}.output", output.name).into()];
            let kind = StepKind::Copy(Copy { what: CopyKind::Rows, read: smallvec![read], write });
            self.plan.steps.push(Step { kind, origin, cost: Cost::default() });
        }
        Ok(())
    }

    /// The steps of each tile, which stand one after the other.
    fn tiles(&mut self) -> Result<()> {
        for tile in self.graph.tiles() {
            let inside = tile.inside.is_some();
            let steps = || self.nodes.iter().enumerate().filter(|(_, node)| tile.nodes.contains(node)).map(|(step, _)| StepId::new(step));
            let (Some(first), Some(last)) = (steps().next(), steps().next_back()) else { continue };
            let table = self.table(tile.table)?;
            self.plan.tiles.push(Tile { first, last, table, rows: tile.rows, bytes: 0, inside });
        }
        self.plan.tiles.sort_by_key(|tile| tile.first);
        Ok(())
    }

    fn view(&self, value: Value) -> Result<ViewId> {
        self.storage.get(value).ok_or_else(|| internal("an operand was scheduled after its user"))
    }

    fn table(&self, table: TableId) -> Result<TableId> {
        self.tables[table.index()].ok_or_else(|| internal("a table that is used was not described"))
    }
}

fn internal(message: &str) -> Error {
    Error::new(ErrorCode::Internal, message).help("this is a bug of levelfold: please report the spec")
}

//! The text form of a graph: deterministic, one node a line, operands first.

use super::{ConcatHow, FoldLoad, LevelGraph, Op, RaggedMemory, Reduction, Role, Value, ValueType};
use crate::ids::NodeId;
use std::fmt;

pub(super) fn types(types: &[ValueType]) -> String {
    types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueType::Rows { rows, features, dtype } => write!(f, "{dtype}[{rows}x{features}]"),
            ValueType::Ragged { table, features, dtype, order, memory } => {
                let memory = match memory {
                    RaggedMemory::Rows => "view".to_string(),
                    RaggedMemory::Packed(packed) if packed == order => "packed".to_string(),
                    RaggedMemory::Packed(packed) => format!("packed {}", packed.name()),
                };
                write!(f, "ragged {dtype}[{table}x{features}] {} {memory}", order.name())
            }
            ValueType::Pieces { segments, features, dtype } => write!(f, "pieces {dtype}[{segments}x{features}]"),
            ValueType::Stacked { rows, features, dtype } => write!(f, "stacked {dtype}[{rows}x{features}x1]"),
        }
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weighted = if self.weighted { "weighted-" } else { "" };
        write!(f, "{weighted}{}", self.reducer)?;
        if self.on_empty != self.reducer.default_on_empty() {
            write!(f, " empty={}", self.on_empty)?;
        }
        self.ops.iter().try_for_each(|op| write!(f, " then {op}"))
    }
}

impl fmt::Display for LevelGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, table) in self.tables().iter().enumerate() {
            let form = if table.segments.is_partition() { "offsets" } else { "ranges" };
            write!(f, "table t{index} {} {form} {} of {} rows", table.name, table.segments.len(), table.segments.rows())?;
            if let Some((lower, upper)) = table.composed {
                write!(f, " = {upper} over {lower}")?;
            }
            writeln!(f)?;
        }
        for node in self.topological() {
            writeln!(f, "{}", Line { graph: self, node })?;
        }
        for tile in self.tiles() {
            let nodes: Vec<String> = tile.nodes.iter().map(ToString::to_string).collect();
            let inside = tile.inside.map_or_else(String::new, |tile| format!(" inside tile {tile}"));
            writeln!(f, "tile {} by {} up to {} rows{inside}", nodes.join(" "), tile.table, tile.rows)?;
        }
        for output in self.outputs() {
            writeln!(f, "output {} = {}", output.name, value(self, output.value))?;
        }
        Ok(())
    }
}

fn value(graph: &LevelGraph, value: Value) -> String {
    if graph.types(value.node).len() == 1 { value.node.to_string() } else { format!("{}.{}", value.node, value.port) }
}

struct Line<'a> {
    graph: &'a LevelGraph,
    node: NodeId,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { graph, node } = *self;
        let operands: Vec<String> = graph.operands(node).iter().map(|operand| value(graph, *operand)).collect();
        write!(f, "{node} = ")?;
        match graph.op(node) {
            Op::Input { name, role: Role::Input } => write!(f, "input {name}")?,
            Op::Input { name, role: Role::Param } => write!(f, "param {name}")?,
            Op::Gather => write!(f, "gather {}", operands.join(", "))?,
            Op::Slice { table } => write!(f, "slice {} by {table}", operands.join(", "))?,
            Op::Transpose => write!(f, "transpose {}", operands.join(", "))?,
            Op::Contiguous => write!(f, "contiguous {}", operands.join(", "))?,
            Op::Reduce(reduction) => write!(f, "reduce.{reduction} {}", operands.join(", "))?,
            Op::Stack => write!(f, "stack {}", operands.join(", "))?,
            Op::Squeeze => write!(f, "squeeze {}", operands.join(", "))?,
            Op::Rename => write!(f, "rename {}", operands.join(", "))?,
            Op::Concat { how: ConcatHow::Copied } => write!(f, "concat {}", operands.join(", "))?,
            Op::Concat { how: ConcatHow::Placed } => write!(f, "concat.placed {}", operands.join(", "))?,
            Op::Fold { load, stages } => {
                let load = match load {
                    FoldLoad::Rows => "",
                    FoldLoad::Gather => "gather ",
                    FoldLoad::Histogram => "histogram ",
                };
                write!(f, "fold {load}{}", operands.join(", "))?;
                for (index, stage) in stages.iter().enumerate() {
                    stage.ops.iter().try_for_each(|op| write!(f, " | {op}"))?;
                    let reductions: Vec<String> = stage.reductions.iter().map(ToString::to_string).collect();
                    let feed = if index > 0 && stage.feed > 0 { format!(" of .{}", stage.feed) } else { String::new() };
                    write!(f, " | {} by {}{feed}", reductions.join("+"), stage.table)?;
                }
            }
            Op::Spread { table } => write!(f, "spread {} by {table}", operands.join(", "))?,
            Op::Encode(encoding) => f.write_str(&super::encode::printed(encoding, &operands))?,
        }
        write!(f, " : {}", types(graph.types(node)))
    }
}

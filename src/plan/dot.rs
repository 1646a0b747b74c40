//! A plan as a graph in the DOT language: buffers are boxes, steps are ellipses, edges point from what is read to what is written. A box without
//! edges says what a reducer written as expressions computes.
//!
//! Deterministic, and plain enough for small renderers: nodes and edges with `label`, `shape`, `style` and nothing else. Any name is safe
//! in it: quotes and backslashes are escaped, control characters are spelled out.

use super::{Buffer, CopyKind, Load, Place, Plan, Step, StepKind, text};
use crate::ids::{BufferId, StepId};

impl Plan {
    /// The plan in the DOT language, for Graphviz and its like.
    pub fn to_dot(&self) -> String {
        let mut out = String::from("digraph plan {\n");
        for (index, buffer) in self.buffers.iter().enumerate() {
            let id = BufferId::new(index);
            push_node(&mut out, &id.to_string(), &buffer_label(self, id, buffer), shape_of(buffer));
        }
        for (index, (name, custom)) in text::definitions::definitions(self).into_iter().enumerate() {
            push_node(&mut out, &format!("r{index}"), &[name, custom.definition().to_owned()], "shape=\"box\"");
        }
        for (index, step) in self.steps.iter().enumerate() {
            let id = StepId::new(index);
            push_node(&mut out, &id.to_string(), &step_label(self, id, step), "shape=\"ellipse\"");
        }
        for (index, step) in self.steps.iter().enumerate() {
            push_edges(&mut out, self, &StepId::new(index).to_string(), step);
        }
        out.push_str("}\n");
        out
    }
}

fn push_node(out: &mut String, id: &str, label: &[String], attributes: &str) {
    // Each line is escaped for itself: `\n` between them is the language's own line break.
    let label = label.iter().map(|line| escape(line)).collect::<Vec<_>>().join("\\n");
    out.push_str(&format!("  {id} [label=\"{label}\", {attributes}];\n"));
}

fn push_edges(out: &mut String, plan: &Plan, id: &str, step: &Step) {
    let weights_from = match &step.kind {
        StepKind::Copy(copy) => copy.read.len(),
        StepKind::Encode(encode) => encode.encoding.operands().len(),
        StepKind::Fold(fold) => match fold.load {
            Load::View { .. } => 1,
            Load::Gather { .. } | Load::Histogram { .. } => 2,
        },
    };
    for (position, view) in step.reads().into_iter().enumerate() {
        let role = match (&step.kind, position) {
            (_, position) if position >= weights_from => "weights",
            (StepKind::Fold(fold), position) => match (fold.load, position) {
                (Load::Gather { .. } | Load::Histogram { .. }, 0) => "ids",
                (Load::Gather { .. } | Load::Histogram { .. } | Load::View { .. }, _) => "",
            },
            (StepKind::Encode(_), _) => "",
            (StepKind::Copy(copy), position) => match (copy.what, position) {
                (CopyKind::Gather, 0) => "ids",
                (CopyKind::Gather | CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Rows | CopyKind::Columns, _) => "",
            },
        };
        if let Some(buffer) = plan.views.get(view.index()).map(|view| view.buffer) {
            push_edge(out, &buffer.to_string(), id, &edge_label(plan, view, role));
        }
    }
    for view in step.writes() {
        if let Some(buffer) = plan.views.get(view.index()).map(|view| view.buffer) {
            push_edge(out, id, &buffer.to_string(), &edge_label(plan, view, ""));
        }
    }
}

fn push_edge(out: &mut String, from: &str, to: &str, label: &str) {
    out.push_str(&match label {
        "" => format!("  {from} -> {to};\n"),
        label => format!("  {from} -> {to} [label=\"{}\"];\n", escape(label)),
    });
}

/// The role of what is read, and what is seen of the buffer where that is not the whole.
fn edge_label(plan: &Plan, view: crate::ids::ViewId, role: &str) -> String {
    let seen = text::view(plan, view);
    let part = seen.find(['[', '{']).map_or("", |at| &seen[at..]);
    format!("{role} {part}").trim().to_owned()
}

fn shape_of(buffer: &Buffer) -> &'static str {
    match buffer.place {
        Place::Input | Place::Param => "shape=\"box\", style=\"filled\", fillcolor=\"lightblue\"",
        Place::Output => "shape=\"box\", style=\"filled\", fillcolor=\"lightgreen\"",
        Place::Arena { .. } => "shape=\"box\"",
        Place::Tile { .. } => "shape=\"box\", style=\"dashed\"",
    }
}

fn buffer_label(plan: &Plan, id: BufferId, buffer: &Buffer) -> Vec<String> {
    let place = match buffer.place {
        Place::Input => "input".to_owned(),
        Place::Param => "param".to_owned(),
        Place::Output => "output".to_owned(),
        Place::Arena { offset, .. } => format!("arena@{offset}"),
        Place::Tile { offset, .. } => format!("tile@{offset}"),
    };
    vec![
        text::name(&buffer.name),
        format!("{}[{}x{}]", buffer.dtype, buffer.rows, buffer.features),
        format!("{} B, {place}", plan.held_bytes(id)),
    ]
}

fn step_label(plan: &Plan, id: StepId, step: &Step) -> Vec<String> {
    let mut lines = vec![match &step.kind {
        StepKind::Copy(copy) => format!("{id} copy.{}", copy.what.name()),
        StepKind::Fold(_) => format!("{id} fold"),
        StepKind::Encode(encode) => {
            let names = encode.encoding.ops.iter().map(crate::encoder::RowOp::name);
            let names: Vec<&str> = [encode.encoding.kernel.name()].into_iter().chain(names).collect();
            format!("{id} {}", names.join(", "))
        }
    }];
    if let StepKind::Fold(fold) = &step.kind {
        for stage in &fold.stages {
            let name = |reduction: &super::Reduction| {
                let ops = reduction.ops.iter().map(|op| format!(" then {}", op.name())).collect::<String>();
                format!("{}{ops}", text::definitions::shown(plan, &reduction.reducer))
            };
            let reducers: Vec<String> = stage.reductions.iter().map(name).collect();
            let level = plan.tables.get(stage.table.index()).map_or_else(|| "?".to_owned(), |table| text::name(&table.name));
            let before = stage.ops.iter().map(|op| format!("{}, ", op.name())).collect::<String>();
            lines.push(format!("{before}{} by {} {level}", reducers.join(", "), stage.table));
        }
    }
    if let Some(tile) = plan.tile_of(id) {
        let inside = if tile.inside { ", inside the next" } else { "" };
        lines.push(format!("tile {}..{} by {}{inside}", tile.first, tile.last, tile.table));
    }
    lines.push(format!("read {} B, written {} B", step.cost.read, step.cost.written));
    lines
}

/// A text inside quotes of the DOT language.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(c.escape_unicode().flat_map(|c| if c == '\\' { vec!['\\', '\\'] } else { vec![c] })),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;

    #[test]
    fn a_fused_text() {
        insta::assert_snapshot!(fixtures::fused_text().to_dot(), @r#"
        digraph plan {
          b0 [label="char\nu8[12x1]\n12 B, input", shape="box", style="filled", fillcolor="lightblue"];
          b1 [label="char.table\nf32[256x4]\n4096 B, param", shape="box", style="filled", fillcolor="lightblue"];
          b2 [label="sentence\nf32[2x4]\n32 B, output", shape="box", style="filled", fillcolor="lightgreen"];
          b3 [label="document\nf32[1x4]\n16 B, output", shape="box", style="filled", fillcolor="lightgreen"];
          s0 [label="s0 fold\nmean by t0 word\nmean by t1 sentence\nsum by t2 document\nread 284 B, written 48 B", shape="ellipse"];
          b0 -> s0 [label="ids"];
          b1 -> s0;
          s0 -> b2;
          s0 -> b3;
        }
        "#);
    }

    #[test]
    fn roles_columns_and_packed_views_are_labelled() {
        let dot = fixtures::wide().to_dot();
        for line in [
            "  b0 -> s0 [label=\"ids\"];",
            "  b2 -> s1 [label=\"weights\"];",
            "  s1 -> b4 [label=\"[2..4]\"];",
            "  b9 -> s6 [label=\"{t3 row-major}\"];",
        ] {
            assert!(dot.lines().any(|found| found == line), "{line}\n{dot}");
        }
        assert_eq!(dot, fixtures::wide().to_dot());
    }

    #[test]
    fn no_name_leaves_its_quotes() {
        let mut plan = fixtures::fused_text();
        plan.buffers[0].name = "a\"];\n\\ b0 -> \u{0}b1".into();
        let dot = plan.to_dot();
        assert!(dot.lines().any(|line| line.starts_with(r#"  b0 [label="\"a\\\"];\\n\\\\ b0 -> \\0b1\"\nu8[12x1]\n"#)), "{dot}");
    }
}

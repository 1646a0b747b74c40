//! Encoder steps as text: the kernel on the first line, what follows it one a line.

use super::{Line, view};
use crate::ids::ViewId;
use crate::plan::{Encode, Plan};

pub(super) fn lines(plan: &Plan, encode: &Encode) -> Vec<Line> {
    let target = view(plan, encode.write);
    let kernel = &encode.encoding.kernel;
    let list = |views: &[&ViewId]| views.iter().map(|&&id| view(plan, id)).collect::<Vec<_>>().join(", ");
    let ops = &encode.encoding.ops;
    let handed_on = || "_".to_owned();
    let mut lines = vec![Line {
        target: if ops.is_empty() { target.clone() } else { handed_on() },
        op: kernel.name().to_owned(),
        operands: format!("{}{}", list(&kernel.operands()), kernel.details()),
    }];
    // Rows as they are need no line of their own where something follows.
    let rows = if lines[0].op == "map" && !ops.is_empty() { lines.pop().map(|line| line.operands) } else { None };
    for (index, op) in ops.iter().enumerate() {
        let source = match (&rows, index) {
            (Some(rows), 0) => rows.clone(),
            (Some(_) | None, _) => handed_on(),
        };
        let word = if lines.is_empty() { "map" } else { "then" };
        let others = op.operands();
        let others = if others.is_empty() { String::new() } else { format!(", {}", list(&others)) };
        lines.push(Line {
            target: if index + 1 == ops.len() { target.clone() } else { handed_on() },
            op: format!("{word}.{}", op.name()),
            operands: format!("{source}{others}{}", op.details()),
        });
    }
    lines
}

//! The stages of a fold as text: a reduction a line, and what is done to single elements before it and behind it.

use super::definitions::shown;
use super::{Line, view};
use crate::dtype::DType;
use crate::encoder::dtype_after;
use crate::plan::{Plan, Reduction, Stage};
use crate::reducer::OnEmpty;

pub(super) fn stage_lines(
    plan: &Plan,
    number: usize,
    stage: &Stage,
    source: &str,
    dtype: Option<DType>,
    lines: &mut Vec<Line>,
) -> Vec<(String, Option<DType>)> {
    let mut made = Vec::new();
    let mut source = source.to_owned();
    for (index, op) in stage.ops.iter().enumerate() {
        let word = if number == 0 && index == 0 { "map" } else { "then" };
        lines.push(Line { target: "_".to_owned(), op: format!("{word}.{}", op.name()), operands: format!("{source}{}", op.details()) });
        source = "_".to_owned();
    }
    let dtype = dtype.map(|dtype| dtype_after(&stage.ops, dtype));
    for (index, reduction) in stage.reductions.iter().enumerate() {
        let target = match reduction.write {
            Some(write) => view(plan, write),
            None if stage.reductions.len() == 1 => "_".to_owned(),
            None => format!("_{index}"),
        };
        let word = match (number, index) {
            (0, 0) => "fold",
            (_, 0) => "then",
            (_, _) => "with",
        };
        let mut operands = format!("{source} by {}", stage.table);
        add_details(plan, stage, reduction, dtype, &mut operands);
        made.push((target.clone(), Some(reduction.made())));
        let target_of = |last: bool| if last { target.clone() } else { "_".to_owned() };
        lines.push(Line {
            target: target_of(reduction.ops.is_empty()),
            op: format!("{word}.{}", shown(plan, &reduction.reducer)),
            operands,
        });
        for (index, op) in reduction.ops.iter().enumerate() {
            let target = target_of(index + 1 == reduction.ops.len());
            lines.push(Line { target, op: format!("then.{}", op.name()), operands: format!("_{}", op.details()) });
        }
    }
    made
}

fn add_details(plan: &Plan, stage: &Stage, reduction: &Reduction, input: Option<DType>, operands: &mut String) {
    if let Some(weights) = reduction.weights {
        operands.push_str(" weights ");
        operands.push_str(&view(plan, weights));
    }
    if input != Some(reduction.dtype) {
        operands.push_str(" as ");
        operands.push_str(reduction.dtype.name());
    }
    let any_empty = plan.tables.get(stage.table.index()).is_none_or(|table| table.empty > 0);
    if any_empty || reduction.on_empty != reduction.reducer.default_on_empty() {
        operands.push_str(" empty=");
        match reduction.on_empty {
            OnEmpty::Fill(value) => operands.push_str(&format!("{value:?}")),
            OnEmpty::Zero | OnEmpty::NaN | OnEmpty::Error => operands.push_str(&reduction.on_empty.to_string()),
        }
    }
}

//! The cost of an encoder step.

use super::per_row;
use crate::encoder::{Kernel, RowOp};
use crate::plan::{Cost, Encode, Plan};

pub(super) fn cost(plan: &Plan, encode: &Encode) -> Cost {
    let encoding = &encode.encoding;
    let operands = encoding.operands().into_iter().map(|&view| plan.buffer_of(view).rows.saturating_mul(per_row(plan, view)));
    let tables = encoding.tables().into_iter().map(|table| plan.table(table).bytes());
    let rows = plan.buffer_of(encode.write).rows;
    let elements = rows.saturating_mul(plan.view(encode.write).features);
    let ops = encoding.ops.iter().map(|op| match op {
        RowOp::Activate(_) | RowOp::Scale(_) | RowOp::Add(_) | RowOp::Cast(_) | RowOp::Custom { .. } => elements,
        RowOp::LayerNorm { bias: Some(_), .. } => elements.saturating_mul(7),
        RowOp::LayerNorm { bias: None, .. } => elements.saturating_mul(6),
        RowOp::RmsNorm { .. } => elements.saturating_mul(4),
        RowOp::Sinusoid { .. } | RowOp::Learned { .. } => elements.saturating_mul(2),
        RowOp::Rotate { columns, .. } => rows.saturating_mul(*columns).saturating_mul(3),
    });
    let kernel = match &encoding.kernel {
        Kernel::Map { .. } => 0,
        Kernel::MatMul { rows, .. } => elements.saturating_mul(plan.view(*rows).features).saturating_mul(2),
        Kernel::Attend { heads, pairs, .. } => {
            let features = plan.view(encode.write).features;
            let a_pair = features.saturating_add(u64::from(*heads)).saturating_mul(4);
            pairs.saturating_mul(a_pair).saturating_add(elements)
        }
        Kernel::Convolve { weight, .. } => elements.saturating_mul(plan.view(*weight).features).saturating_mul(2),
    };
    Cost {
        read: operands.chain(tables).fold(0, u64::saturating_add),
        written: rows.saturating_mul(per_row(plan, encode.write)),
        copied: 0,
        flops: ops.fold(kernel, u64::saturating_add),
    }
}

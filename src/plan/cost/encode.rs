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

#[cfg(test)]
mod tests {
    use crate::backend::Target;
    use crate::dtype::DType;
    use crate::encoder::{Activation, Number, RowOp};
    use crate::graph::GraphBuilder;
    use crate::optimize::{OptLevel, Planner};
    use crate::plan::Cost;
    use crate::segments::Segments;

    #[test]
    fn costs_of_encoders_are_those_counted_by_hand() {
        let mut b = GraphBuilder::new();
        // Two segments of 2 and 3 rows, 4 features.
        let x = b.input("x", DType::F32, 5, 4).unwrap();
        let t = b.table("t", &Segments::from_lengths(&[2, 3]).unwrap()).unwrap();
        let (w, bias) = (b.param("w", DType::F16, 12, 4).unwrap(), b.param("b", DType::F32, 1, 12).unwrap());
        let qkv = b.linear(x, w, Some(bias)).unwrap();
        let qkv = b.map(qkv, &RowOp::Rotate { table: t, base: Number(10.0), columns: 8, width: 2 }).unwrap();
        let y = b.attend(qkv, t, 2, true).unwrap();
        let taps = b.param("taps", DType::F32, 4, 3).unwrap();
        let y = b.convolve(y, taps, None, t, false).unwrap();
        let (g, h) = (b.param("g", DType::F32, 1, 4).unwrap(), b.param("h", DType::F32, 1, 4).unwrap());
        let y = b.map(y, &RowOp::LayerNorm { weight: g, bias: Some(h), eps: Number(1.0) }).unwrap();
        let y = b.map(y, &RowOp::LayerNorm { weight: g, bias: None, eps: Number(1.0) }).unwrap();
        let y = b.map(y, &RowOp::RmsNorm { weight: g, eps: Number(1.0) }).unwrap();
        let y = b.map(y, &RowOp::Sinusoid { table: t, base: Number(10.0) }).unwrap();
        let positions = b.param("p", DType::F32, 9, 4).unwrap();
        let y = b.map(y, &RowOp::Learned { positions, table: t }).unwrap();
        let y = b.map(y, &RowOp::Add(x)).unwrap();
        let y = b.map(y, &RowOp::Activate(Activation::Gelu)).unwrap();
        let y = b.map(y, &RowOp::Cast(DType::F64)).unwrap();
        b.output("y", y).unwrap();
        let graph = b.finish().unwrap();
        let whole = Target { tiles: None, ..Target::new("test") };
        let plan = |opt| Planner::new(whole.clone()).opt(opt).plan(graph.clone()).unwrap().plan;
        let cost = |read, written, flops| Cost { read, written, copied: 0, flops };
        // Rows of 4 f32 take 80 bytes, and the offsets of t 24. Causal attention scores 3 + 6 pairs: in 2 heads of 2 features each takes a product
        // and a sum a feature for its score and for its value, and 4 operations a head around the exponential; then 20 divisions.
        let wanted = [
            cost(80 + 96 + 48, 240, 2 * 5 * 4 * 12),
            cost(240 + 24, 240, 3 * 5 * 8),
            cost(240 + 24, 80, 9 * (4 * 4 + 4 * 2) + 20),
            cost(80 + 48 + 24, 80, 2 * 20 * 3),
            cost(80 + 32, 80, 7 * 20),
            cost(80 + 16, 80, 6 * 20),
            cost(80 + 16, 80, 4 * 20),
            cost(80 + 24, 80, 2 * 20),
            cost(80 + 144 + 24, 80, 2 * 20),
            cost(80 + 80, 80, 20),
            cost(80, 80, 20),
            cost(80, 160, 20),
        ];
        let literal = plan(OptLevel::O0);
        assert_eq!(literal.steps.iter().map(|step| step.cost).collect::<Vec<_>>(), wanted);
        // Fused, the arithmetic is the same, and each row between is neither written nor read; a param counts once a use, the table once a step.
        let fused = plan(OptLevel::O1);
        assert_eq!(fused.steps.len(), 3);
        assert_eq!(fused.totals.flops, literal.totals.flops);
        assert_eq!(fused.steps[2].cost.read, 80 + 48 + 24 + 16 + 16 + 16 + 16 + 144 + 80);
    }
}

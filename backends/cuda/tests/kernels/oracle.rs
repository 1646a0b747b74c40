//! What a fold has to give, written once more and as plainly as can be: see docs/numerics.md. The scalar operations are `levelfold::numerics`', the
//! tree is this page's own.

use half::{bf16, f16};
use levelfold::numerics::{Accumulator, AddOp, MaxOp, MinOp, MulOp, ReduceOp, Value, finish_block, finish_tree};
use levelfold::{DType, Reducer};

/// The number that the bits of a float stand for.
pub(crate) fn number(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_bits(low32(bits))),
        DType::F64 => f64::from_bits(bits),
        DType::F16 => f64::from(f16::from_bits(low16(bits)).to_f32()),
        DType::BF16 => f64::from(bf16::from_bits(low16(bits)).to_f32()),
        other => panic!("{other} is no float"),
    }
}

/// The bits of the nearest float of a type.
pub(crate) fn nearest(dtype: DType, number: f64) -> u64 {
    match dtype {
        DType::F32 => u64::from(<f32 as Value>::from_f64(number).to_bits()),
        DType::F64 => <f64 as Value>::from_f64(number).to_bits(),
        DType::F16 => u64::from(<f16 as Value>::from_f64(number).to_bits()),
        DType::BF16 => u64::from(<bf16 as Value>::from_f64(number).to_bits()),
        other => panic!("{other} is no float"),
    }
}

fn low32(bits: u64) -> u32 {
    u32::try_from(bits).expect("32 bits")
}

fn low16(bits: u64) -> u16 {
    u16::try_from(bits).expect("16 bits")
}

/// One feature of one segment that has rows, not yet rounded to a result's type.
pub(crate) fn reduce(reducer: Reducer, input: DType, rows: &[f64], weights: Option<&[f64]>) -> f64 {
    match (reducer.clone(), input.accumulator()) {
        (Reducer::Sum | Reducer::Mean, DType::F64) => reduce_by::<AddOp, f64>(reducer, rows, weights),
        (Reducer::Sum | Reducer::Mean, _) => reduce_by::<AddOp, f32>(reducer, rows, weights),
        (Reducer::Max, DType::F64) => reduce_by::<MaxOp, f64>(reducer, rows, weights),
        (Reducer::Max, _) => reduce_by::<MaxOp, f32>(reducer, rows, weights),
        (Reducer::Min, DType::F64) => reduce_by::<MinOp, f64>(reducer, rows, weights),
        (Reducer::Min, _) => reduce_by::<MinOp, f32>(reducer, rows, weights),
        (Reducer::Prod, DType::F64) => reduce_by::<MulOp, f64>(reducer, rows, weights),
        (Reducer::Prod, _) => reduce_by::<MulOp, f32>(reducer, rows, weights),
        (other, _) => panic!("no kernel has {other}"),
    }
}

fn reduce_by<R: ReduceOp, A: Accumulator>(reducer: Reducer, rows: &[f64], weights: Option<&[f64]>) -> f64 {
    let n = rows.len() as u64;
    let rows: Vec<A> = rows.iter().map(|&x| A::of_f64(x)).collect();
    let weights: Option<Vec<A>> = weights.map(|weights| weights.iter().map(|&w| A::of_f64(w)).collect());
    let lifted: Vec<A> = match &weights {
        Some(weights) => rows.iter().zip(weights).map(|(&x, &w)| w.mul(x)).collect(),
        None => rows,
    };
    let blocks = blocks_of::<R, A>(&lifted);
    let weight_blocks = weights.map(|weights| blocks_of::<AddOp, A>(&weights));
    if let [only] = blocks[..] {
        return finish_block(&reducer, only, n, weight_blocks.map(|blocks| blocks[0])).as_f64();
    }
    let wide = |blocks: Vec<A>| blocks.into_iter().map(Accumulator::as_f64).collect::<Vec<f64>>();
    finish_tree(&reducer, pairs::<R>(wide(blocks)), n, weight_blocks.map(|blocks| pairs::<AddOp>(wide(blocks))))
}

fn blocks_of<R: ReduceOp, A: Accumulator>(rows: &[A]) -> Vec<A> {
    rows.chunks(32).map(|block| block.iter().fold(R::identity(), |acc, &x| R::push(acc, x))).collect()
}

fn pairs<R: ReduceOp>(mut level: Vec<f64>) -> f64 {
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| if let [a, b] = *pair { R::combine(a, b) } else { pair[0] }).collect();
    }
    level[0]
}

/// Numbers in pairs, level by level, by the operation of a reducer.
pub(crate) fn paired(reducer: Reducer, numbers: Vec<f64>) -> f64 {
    match reducer {
        Reducer::Sum | Reducer::Mean => pairs::<AddOp>(numbers),
        Reducer::Max => pairs::<MaxOp>(numbers),
        Reducer::Min => pairs::<MinOp>(numbers),
        Reducer::Prod => pairs::<MulOp>(numbers),
        other => panic!("no kernel has {other}"),
    }
}

//! What a fold has to give, written once more and as plainly as can be: see docs/numerics.md. The scalar operations are `levelfold::numerics`', the
//! tree is this page's own.

use half::{bf16, f16};
use levelfold::numerics::elementary::Elementary;
use levelfold::numerics::{
    Accumulator, AddOp, MaxOp, MinOp, Monoid, MonoidVisitor, MulOp, Packed, ReduceOp, Row, Start, State, Value, Weighing, finish_block,
    finish_tree,
};
use levelfold::reducer::{CustomReducer, ReducerClass};
use levelfold::{DType, Reducer};
use std::marker::PhantomData;

/// The number that the bits of a float stand for.
pub(crate) fn number(dtype: DType, bits: u64) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::from_bits(low32(bits))),
        DType::F64 => f64::from_bits(bits),
        DType::F16 => f64::from(f16::from_bits(low16(bits)).to_f32()),
        DType::BF16 => f64::from(bf16::from_bits(low16(bits)).to_f32()),
        DType::I64 => bits.cast_signed() as f64,
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
        DType::I64 => (number as i64).cast_unsigned(),
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
    if reducer.class() == ReducerClass::State {
        return match input.accumulator() {
            DType::F64 => reduce_states::<f64>(&reducer, rows, weights),
            _ => reduce_states::<f32>(&reducer, rows, weights),
        };
    }
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

fn reduce_states<A: Elementary + Packed<Number = A>>(reducer: &Reducer, rows: &[f64], weights: Option<&[f64]>) -> f64 {
    let weights = |index: usize| weights.map_or(1.0, |weights| weights[index]);
    let rows: Vec<(A, A)> = rows.iter().enumerate().map(|(index, &x)| (A::of_f64(x), A::of_f64(weights(index)))).collect();
    match reducer {
        Reducer::Custom(custom) => reduce_custom(custom, &rows),
        reducer => reducer.visit_monoid(Rows::<A>(&rows, PhantomData)).expect("a reducer with a state"),
    }
}

struct Rows<'a, A>(&'a [(A, A)], PhantomData<A>);

impl<A: Elementary + Packed<Number = A>> MonoidVisitor for Rows<'_, A> {
    type Out = f64;

    fn visit<M: Monoid>(self, monoid: M) -> f64 {
        let n = self.0.len();
        let of_block = |block: &[(A, A)]| {
            let scores: Vec<A> = block.iter().map(|&(_, w)| w).collect();
            let scale = monoid.scale(&scores);
            let weights: Vec<A> = match M::WEIGHING {
                Weighing::Never | Weighing::Either => scores,
                Weighing::Scores => scores.iter().map(|&score| monoid.weigh(score, scale)).collect(),
            };
            let total = weights.iter().fold(A::of_f64(0.0), |total, &w| Accumulator::add(total, w));
            let mut state: State<A> = monoid.start(Start { first: block[0].0, n: None, scale, total });
            for pass in 0..M::PASSES {
                for (index, &(x, _)) in block.iter().enumerate() {
                    state = monoid.push(pass, state, Row { x, w: Some(weights[index]), index: A::of_f64(index as f64) });
                }
                state = monoid.close(pass, state);
            }
            state
        };
        let blocks: Vec<State<A>> = self.0.chunks(32).map(of_block).collect();
        if let [only] = blocks[..] {
            return monoid.finish_block(only, A::of_f64(n as f64)).as_f64();
        }
        let wide = blocks.iter().enumerate().map(|(block, state)| monoid.widen(*state, 32.0 * block as f64)).collect();
        monoid.finish_tree(pairs_by(wide, |a, b| monoid.combine(*a, *b)), n as f64)
    }
}

fn reduce_custom<A: Elementary>(custom: &CustomReducer, rows: &[(A, A)]) -> f64 {
    let of_block = |block: &[(A, A)]| {
        let lifted = block.iter().map(|&(x, w)| custom.lifted(x, w));
        lifted.reduce(|state, row| custom.combined(&state, &row)).expect("rows")
    };
    let blocks: Vec<Vec<A>> = rows.chunks(32).map(of_block).collect();
    if let [only] = &blocks[..] {
        return custom.finished(only).as_f64();
    }
    let wide = blocks.into_iter().map(|state| state.into_iter().map(Accumulator::as_f64).collect()).collect();
    custom.finished(&pairs_by(wide, |a: &Vec<f64>, b| custom.combined(a, b)))
}

fn pairs_by<T: Clone>(mut level: Vec<T>, combine: impl Fn(&T, &T) -> T) -> T {
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| if let [a, b] = pair { combine(a, b) } else { pair[0].clone() }).collect();
    }
    level.remove(0)
}

/// States of groups of blocks in pairs, level by level; and the result of all, where that is wanted of so many rows.
pub(crate) fn paired_states(reducer: &Reducer, states: Vec<State<f64>>, rows: f64) -> (State<f64>, f64) {
    struct Pairs(Vec<State<f64>>, f64);
    impl MonoidVisitor for Pairs {
        type Out = (State<f64>, f64);

        fn visit<M: Monoid>(self, monoid: M) -> Self::Out {
            let paired = pairs_by(self.0, |a, b| monoid.combine(*a, *b));
            (paired, monoid.finish_tree(paired, self.1))
        }
    }
    match reducer {
        Reducer::Custom(custom) => {
            let paired = pairs_by(states, |a, b| state_of(&custom.combined(a, b)));
            (paired, custom.finished(&paired))
        }
        reducer => reducer.visit_monoid(Pairs(states, rows)).expect("a reducer with a state"),
    }
}

fn state_of(components: &[f64]) -> State<f64> {
    std::array::from_fn(|index| components.get(index).copied().unwrap_or_default())
}

//! Narrow rows: fewer features than a vector has lanes, which come from several items at once.
//!
//! An item is up to a block of rows, one after the other: a short segment, or a block of a long one. So many items as fit a vector beside each other are taken
//! as the rows of a square: each loads some of its rows, those that it does not have are the identity of the operation, and the square, turned, has a row of every
//! item in each vector. Rows of three, five, six or seven features are spread to as many lanes as the next power of two.

use super::Isa;
#[cfg(target_arch = "x86_64")]
use crate::vector::{Cell, Vector, VectorOp, squares::Square};
#[cfg(target_arch = "x86_64")]
use levelfold::numerics::BLOCK_ROWS;
use levelfold::numerics::{Accumulator, AddOp, MaxOp, MinOp, MulOp, ReduceOp};
use levelfold::{DType, Reducer};

/// What is done to rows, of the reducers without a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Add,
    Mul,
    Max,
    Min,
}

impl Op {
    /// `None` for reducers with a state.
    pub(crate) fn of(reducer: &Reducer) -> Option<Self> {
        match reducer {
            Reducer::Sum | Reducer::Mean => Some(Op::Add),
            Reducer::Max => Some(Op::Max),
            Reducer::Min => Some(Op::Min),
            Reducer::Prod => Some(Op::Mul),
            Reducer::Var { .. }
            | Reducer::Std { .. }
            | Reducer::LogSumExp
            | Reducer::SoftMax
            | Reducer::Quantile(_)
            | Reducer::L1
            | Reducer::L2
            | Reducer::First
            | Reducer::Last
            | Reducer::Count
            | Reducer::ArgMax
            | Reducer::ArgMin
            | Reducer::Custom(_)
            | Reducer::Named(_) => None,
        }
    }
}

/// Runs something for the type of an operation.
macro_rules! with_op {
    ($op:expr, $name:ident => $body:expr) => {
        match $op {
            Op::Add => {
                type $name = AddOp;
                $body
            }
            Op::Mul => {
                type $name = MulOp;
                $body
            }
            Op::Max => {
                type $name = MaxOp;
                $body
            }
            Op::Min => {
                type $name = MinOp;
                $body
            }
        }
    };
}
pub(super) use with_op;

/// Items, and where what comes of them is written: `features` accumulators each, one item after the other.
pub(crate) struct Items<'a> {
    /// Row 0 of the table, of accumulators, one row right after the other.
    pub(crate) rows: *const u8,
    pub(crate) features: usize,
    /// The first row of each item, and the one behind its last, at most a block away.
    pub(crate) starts: &'a [u64],
    pub(crate) ends: &'a [u64],
    /// Whether each of them is a whole block.
    pub(crate) are_whole: bool,
    pub(crate) acc: *mut u8,
    pub(crate) op: Op,
    /// Whether results are divided by how many rows they have; those of none are not a number then.
    pub(crate) divides: bool,
}

/// The most items of one call.
pub(crate) const ITEMS: usize = 256;
/// The most that are made one by [`pair`].
pub(crate) const PAIRED: usize = 64;

/// What the lengths of consecutive segments are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Whether one of them has more than a block of rows.
    pub(crate) any_long: bool,
    /// Whether one has no rows.
    pub(crate) any_empty: bool,
    /// Whether one has more than one row.
    pub(crate) any_several: bool,
}

/// What folds narrow rows.
#[derive(Clone, Copy)]
pub(crate) struct ItemKernels {
    pub(crate) fold: unsafe fn(&Items<'_>),
    /// How many items it takes at once.
    pub(crate) at_once: usize,
    /// Looks at the lengths between offsets.
    pub(crate) scan: unsafe fn(&[u64]) -> Lengths,
}

/// One module an instruction set: the same bodies, compiled for it.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($module:ident, $vectors:ident, #[$feature:meta]) => {
        mod $module {
            use super::*;

            #[$feature]
            unsafe fn fold<C: Cell<$vectors: Square>>(items: &Items<'_>) {
                // SAFETY: the caller's promise is passed on.
                unsafe { super::fold::<C::$vectors>(items) }
            }

            #[$feature]
            unsafe fn scan(offsets: &[u64]) -> Lengths {
                super::scan(offsets)
            }

            pub(super) fn kernels<C: Cell<$vectors: Square>>(features: usize) -> Option<ItemKernels> {
                (features * 2 <= C::$vectors::LANES).then_some(ItemKernels {
                    fold: fold::<C>,
                    at_once: C::$vectors::LANES / features.next_power_of_two(),
                    scan,
                })
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, Avx2, #[target_feature(enable = "avx2")]);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, Avx512, #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]);

/// What folds items of rows of an accumulator's type: `None` where lanes along features do as well, or where the instruction set has nothing.
#[cfg(target_arch = "x86_64")]
pub(crate) fn select(isa: Isa, accumulator: DType, features: usize) -> Option<ItemKernels> {
    match (isa, accumulator, features) {
        (Isa::Baseline, _, _) | (_, _, 0) => None,
        (Isa::Avx2, DType::F32, _) => avx2::kernels::<f32>(features),
        (Isa::Avx2, DType::F64, _) => avx2::kernels::<f64>(features),
        (Isa::Avx512, DType::F32, _) => avx512::kernels::<f32>(features),
        (Isa::Avx512, DType::F64, _) => avx512::kernels::<f64>(features),
        (Isa::Avx2 | Isa::Avx512, _, _) => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn select(_isa: Isa, _accumulator: DType, _features: usize) -> Option<ItemKernels> {
    None
}

/// Without branches, so that vectors do it: of lengths from 0 to 32 the sum with 31 is below 64, and 0 alone is negative less 1.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn scan(offsets: &[u64]) -> Lengths {
    const { assert!(BLOCK_ROWS == 32, "a block is what the sums below are about") };
    let (mut long, mut empty, mut several) = (0, 0, 0);
    for (start, end) in offsets.iter().zip(&offsets[1..]) {
        let length = end - start;
        long |= (length + 31) >> 6;
        empty |= length.wrapping_sub(1) >> 63;
        several |= length >> 1;
    }
    Lengths { any_long: long != 0, any_empty: empty != 0, any_several: several != 0 }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn fold<X: Square>(items: &Items<'_>) {
    // SAFETY: the caller's items, of at most half a vector.
    unsafe {
        match X::LANES / items.features.next_power_of_two() {
            2 => groups::<X, 2>(items),
            4 => groups::<X, 4>(items),
            8 if X::LANES >= 8 => groups::<X, 8>(items),
            _ if X::LANES >= 16 => groups::<X, 16>(items),
            _ => {}
        }
    }
}

/// Does something for every part below a number that the compiler knows.
#[cfg(target_arch = "x86_64")]
macro_rules! each_part {
    ($parts:expr, |$part:ident| $body:block) => {
        each_part!($parts, $part, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($parts:expr, $part:ident, $body:block, $($index:literal)*) => {
        $(if $index < $parts {
            let $part = $index;
            $body
        })*
    };
}

/// Folds `P` items at once.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn groups<X: Square, const P: usize>(items: &Items<'_>) {
    if P > X::LANES {
        return;
    }
    let Items { features, starts, ends, op, divides, are_whole, .. } = *items;
    let count = starts.len();
    let width = X::LANES / P;
    // Of each item, how many elements it has; none of those behind the last.
    let mut elements = [0u32; ITEMS + 16];
    for (elements, (start, end)) in elements.iter_mut().zip(starts.iter().zip(ends)) {
        *elements = (end - start) as u32 * features as u32;
    }
    let mut divisors = [X::Acc::default(); ITEMS + 16];
    if divides {
        for (divisor, (start, end)) in divisors.iter_mut().zip(starts.iter().zip(ends)) {
            *divisor = X::Acc::of_f64(f64::from((end - start) as i32));
        }
    }
    // Which lanes an item's are, where rows lie spread and where they lie together, and which divisor is each lane's.
    let (mut spread, mut together, mut own) = ([0u8; 16], [0u8; 16], [0u8; 16]);
    for lane in 0..X::LANES {
        let (part, feature) = (lane / width, lane % width);
        own[lane] = part as u8;
        if feature < features {
            spread[lane] = (part * features + feature) as u8;
            together[part * features + feature] = lane as u8;
        }
    }
    let rows = items.rows.cast::<X::Acc>();
    let acc = items.acc.cast::<X::Acc>();
    // SAFETY: the caller's items and accumulators; loads take the rows that items have.
    unsafe {
        let (spread, together, own) = (X::lanes(spread), X::lanes(together), X::lanes(own));
        let identity = X::splat(with_op!(op, R => R::identity()));
        let most = (P * features) as u32;
        // Where no row is missing and none is spread, nothing is masked.
        let is_whole = are_whole && features == width && count.is_multiple_of(P);
        let mut item = 0;
        while item < count {
            let has = P.min(count - item);
            let mut last = [0u64; P];
            let first: *const u64 = if has == P {
                starts.as_ptr().add(item)
            } else {
                last[..has].copy_from_slice(&starts[item..]);
                last.as_ptr()
            };
            let counts = elements.as_ptr().add(item);
            let mut folded = identity;
            let mut done = 0;
            loop {
                let mut square = [identity; P];
                let from = |part: usize| rows.wrapping_add(first.add(part).read() as usize * features + done as usize);
                let more = if is_whole {
                    each_part!(P, |part| { square[part] = X::load(from(part)) });
                    done + most < (BLOCK_ROWS * features) as u32
                } else {
                    let (codes, more) = if P >= 8 {
                        X::codes::<P>(counts, done, most)
                    } else {
                        let (mut codes, mut more) = ([0; 16], false);
                        for (part, code) in codes.iter_mut().enumerate().take(P) {
                            let left = counts.add(part).read().saturating_sub(done);
                            *code = X::code(left.min(most));
                            more |= left > most;
                        }
                        (codes, more)
                    };
                    // One by one, or the compiler keeps a loop, and the square in memory.
                    each_part!(P, |part| {
                        square[part] = X::load_or(from(part), codes[part], identity);
                        if features < width {
                            square[part] = square[part].pick(spread);
                        }
                    });
                    more
                };
                let turned = X::turn::<P>(square);
                with_op!(op, R => {
                    for row in turned {
                        folded = R::push_vector(folded, row);
                    }
                });
                done += most;
                if !more {
                    break;
                }
            }
            if divides {
                folded = folded.div(X::load(divisors.as_ptr().add(item)).pick(own));
            }
            if features < width {
                folded = folded.pick(together);
            }
            let to = acc.add(item * features);
            if has * features == X::LANES {
                folded.store(to)
            } else {
                folded.store_part(to, has * features)
            }
            item += P;
        }
    }
}

/// The pairs of 2^n neighbouring items, and of their pairs, up to one value for each feature: what the tree makes of so many blocks that begin at a multiple of as many.
///
/// # Safety
/// `acc` has `items` rows of `features` accumulators, that of item i in place `at(i)`, and `out` has a row.
pub(crate) unsafe fn pair<A: Accumulator>(
    op: Op,
    acc: *const u8,
    items: usize,
    features: usize,
    at: impl Fn(usize) -> usize,
    out: *mut f64,
) {
    let acc = acc.cast::<A>();
    let mut values = [0f64; PAIRED];
    for feature in 0..features {
        for (item, value) in values[..items].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *value = unsafe { acc.add(at(item) * features + feature).read() }.as_f64();
        }
        let mut left = items;
        while left > 1 {
            left /= 2;
            with_op!(op, R => {
                for pair in 0..left {
                    values[pair] = R::combine(values[2 * pair], values[2 * pair + 1]);
                }
            });
        }
        // SAFETY: as above.
        unsafe { out.add(feature).write(values[0]) };
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_looked_at() {
        let of = |lengths: &[u64]| {
            let mut offsets = vec![5u64];
            offsets.extend(lengths.iter().scan(5, |end, length| {
                *end += length;
                Some(*end)
            }));
            let Lengths { any_long, any_empty, any_several } = scan(&offsets);
            (any_long, any_empty, any_several)
        };
        assert_eq!(of(&[]), (false, false, false));
        assert_eq!(of(&[1, 1, 1]), (false, false, false));
        assert_eq!(of(&[1, 0, 1]), (false, true, false));
        assert_eq!(of(&[32, 1]), (false, false, true));
        assert_eq!(of(&[2, 33, 0]), (true, true, true));
        assert_eq!(of(&[1 << 40]), (true, false, true));
    }
}

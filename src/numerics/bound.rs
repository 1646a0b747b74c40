//! How far a fold may be from the exact result.

use super::{BLOCK_ROWS_U64, count_to_f64};
use crate::dtype::DType;
use crate::reducer::Reducer;

/// Unit roundoff of a float type: half the distance from 1 to the next number.
pub fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2f64.powi(-24),
        DType::F64 => 2f64.powi(-53),
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => 0.0,
    }
}

/// γ(k, u) = ku ÷ (1 − ku): what k roundings come to; infinite where ku reaches 1.
fn gamma(k: f64, u: f64) -> f64 {
    if k * u < 1.0 { k * u / (1.0 - k * u) } else { f64::INFINITY }
}

/// (1 + a)(1 + b) − 1, without the 1 in which a small a would be lost.
fn both(a: f64, b: f64) -> f64 {
    a + b + a * b
}

/// What a relative error of e becomes under a square root: 1 − √(1 − e).
fn root(e: f64) -> f64 {
    if e < 1.0 { e / (1.0 + (1.0 - e).sqrt()) } else { f64::INFINITY }
}

/// The numbers that every bound is made of.
struct Terms {
    /// Unit roundoff of the accumulator.
    u: f64,
    /// That of f64.
    v: f64,
    /// That of whatever finishes: the accumulator of one block, else f64.
    last: f64,
    /// Rows of the longest block.
    rows: f64,
    /// Levels of pairs.
    pairs: f64,
    /// The conversion to the level's type.
    rounding: f64,
}

impl Terms {
    fn new(n: u64, input: DType, output: DType) -> Self {
        let blocks = n.div_ceil(BLOCK_ROWS_U64);
        let (u, v) = (unit_roundoff(input.accumulator()), unit_roundoff(DType::F64));
        let exact = blocks == 1 && input.accumulator().widens_to(output);
        Terms {
            u,
            v,
            last: if blocks == 1 { u } else { v },
            rows: count_to_f64(n.min(BLOCK_ROWS_U64)),
            pairs: f64::from(blocks.next_power_of_two().trailing_zeros()),
            rounding: if exact { 0.0 } else { unit_roundoff(output) },
        }
    }
}

/// The error bound of a fold of n rows, relative to what the table says, as long as nothing overflows or underflows.
///
/// | reducer | relative to |
/// |---|---|
/// | `sum`, `l1` | Σ\|wx\| |
/// | `mean` | Σ\|wx\| ÷ Σw, no weight being negative |
/// | `max`, `min`, `first`, `last` | the result: 0, or the conversion to a narrower type |
/// | `prod`, `count` | the result |
/// | `l2` | the result, no weight being negative |
/// | `var`, `std` | see [`variance_error_bound`], of which this is the unweighted case |
/// | `logsumexp` | absolute: [`exponent_error_bound`] without weights, beside the roundings of a logarithm and a sum |
/// | `softmax` | Σe^s\|x\| ÷ Σe^s for scores that are all alike; see [`exponent_error_bound`] |
/// | `quantile` | \|a\| + \|b\| of the two rows that it lies between |
/// | `argmax`, `argmin` | 0: positions are exact |
/// | `custom` | infinite: nothing is known of its expressions |
///
/// With u the accumulator's unit roundoff, v that of f64, b = min(n, 32) and h = ⌈log₂⌈n/32⌉⌉ levels of pairs:
/// the block costs b − 1 additions (b with weights, one more for the product), the pairs h additions in f64, the division of a mean
/// one rounding, the conversion to the level's type one more. The factors multiply: Π(1 + δᵢ) − 1, with γ(k) = ku ÷ (1 − ku). Infinite
/// where ku reaches 1: a product over that many rows has no bound of this kind.
pub fn error_bound(reducer: &Reducer, n: u64, input: DType, output: DType, weighted: bool) -> f64 {
    if n == 0 {
        return 0.0;
    }
    let Terms { u, v, last, rows, pairs, rounding } = Terms::new(n, input, output);
    let in_block = rows - 1.0 + if weighted { 1.0 } else { 0.0 };
    let sum = both(gamma(in_block, u), gamma(pairs, v));
    let chosen = if input.widens_to(output) { 0.0 } else { unit_roundoff(output) };
    match reducer {
        Reducer::Sum | Reducer::L1 => both(sum, rounding),
        Reducer::Mean => {
            let mean = both(both(sum, last), rounding);
            if !weighted {
                return mean;
            }
            // Σw carries the error of its own additions, and divides.
            let weights = both(gamma(rows - 1.0, u), gamma(pairs, v));
            both(mean, weights / (1.0 - weights))
        }
        // Exact, but for the conversion of what is chosen.
        Reducer::Max | Reducer::Min | Reducer::First | Reducer::Last => chosen,
        // Relative to the product itself; each block beyond the first adds a multiplication.
        Reducer::Prod => both(both(sum, rounding), gamma(count_to_f64(n), u)),
        // A product more than a sum, and the root.
        Reducer::L2 => both(both(root(both(gamma(in_block + 1.0, u), gamma(pairs, v))), last), rounding),
        Reducer::Var { .. } => variance_error_bound(n, input, output, rows),
        Reducer::Std { .. } => both(both(root(variance_error_bound(n, input, DType::F64, rows)), last), unit_roundoff(output)),
        Reducer::LogSumExp => exponent_error_bound(n, input, count_to_f64(n).ln()),
        Reducer::SoftMax => both(2.0 * exponent_error_bound(n, input, count_to_f64(n).ln()), both(gamma(2.0, last), rounding)),
        // An interpolation, and the conversion.
        Reducer::Quantile(_) => both(gamma(4.0, v), unit_roundoff(output)),
        Reducer::Count => both(last, unit_roundoff(output)),
        Reducer::ArgMax | Reducer::ArgMin => 0.0,
        // What its expressions do to rounding errors is not known.
        Reducer::Custom(_) | Reducer::Named(_) => f64::INFINITY,
    }
}

/// The error bound of a variance, e.
///
/// With σ² the exact variance and σ' = σ + [`mean_shift`] · √(Σwx² ÷ (Σw − ddof)),
/// |computed − σ²| ≤ (1 + e) · σ'² − σ². So what the rows have in common costs a few roundings of f64 and none of the accumulator.
///
/// `spread` is what a block's weights come to, over the smallest of them that is not 0: the rows of a block, at most 32, where there
/// are no weights.
///
/// Inside a block each row is shifted by the first, k: d = x − k. The d − m that are squared differ from the exact ones by a vector whose norm
/// is at most γ(b + 3, u)·‖d‖, and ‖d‖² ≤ spread · Σw(x − mean)², since (k − mean)² cannot exceed that sum over k's own weight. Norms add up, hence the
/// square. The sum of squares is one of b terms that are not negative, each with four roundings, and every level of pairs adds six in f64.
pub fn variance_error_bound(n: u64, input: DType, output: DType, spread: f64) -> f64 {
    if n == 0 {
        return 0.0;
    }
    let Terms { u, v, last, rows, pairs, rounding } = Terms::new(n, input, output);
    let away = spread.sqrt() * gamma(rows + 3.0, u);
    let squares = both(both(2.0 * away + away * away, gamma(rows + 4.0, u)), gamma(6.0 * pairs, v));
    // Σw has the roundings of its additions, and divides.
    let weights = both(gamma(rows, u), gamma(pairs, v));
    both(both(squares, weights / (1.0 - weights)), both(gamma(2.0, last), rounding))
}

/// How far Σw·e^(x − largest x) may be from the exact sum, relative to Σ|w|·e^(x − largest x).
///
/// `spread` is the mean of |x − largest x|, weighted by those terms: at most ln n without weights. An exponent's own rounding is relative to it, so it
/// costs that much; the exponential, the weight and the additions of a block cost b + 6 roundings of the accumulator, and a level of the tree eight of
/// f64.
pub fn exponent_error_bound(n: u64, input: DType, spread: f64) -> f64 {
    if n == 0 {
        return 0.0;
    }
    let Terms { u, v, rows, pairs, .. } = Terms::new(n, input, input);
    both(both(gamma(rows + 6.0, u), gamma(8.0 * pairs, v)), spread * (2.0 * u + 2.0 * pairs * v))
}

/// What the tree's means are away from the exact ones, relative to the size of the rows: f64 roundings, a few a level.
pub fn mean_shift(n: u64) -> f64 {
    let Terms { v, pairs, .. } = Terms::new(n.max(1), DType::F64, DType::F64);
    gamma(4.0 * (pairs + 1.0), v)
}

/// [`error_bound`] of an unweighted sum or mean that keeps its type.
pub fn sum_error_bound(n: u64, dtype: DType) -> f64 {
    error_bound(&Reducer::Sum, n, dtype, dtype, false)
}

//! Quantiles: which of the sorted rows of a segment, and what lies between two of them.
//!
//! The quantile q of n rows is at position (n − 1)·q of the sorted rows, counted from 0 and computed in f64; between two rows it is interpolated linearly,
//! in f64: definition 7 of R. Hyndman and Y. Fan, *Sample Quantiles in Statistical Packages*, The American Statistician 50 (1996), which is NumPy's default.
//! Rows are sorted by number, −0 before +0. A segment with a NaN has the quantile NaN.

use super::count_to_f64;

/// The quantile's place among n sorted rows: the row before it, and how far it is from there to the next.
#[inline]
pub fn quantile_place(n: u64, q: f64) -> (u64, f64) {
    let place = count_to_f64(n.saturating_sub(1)) * q;
    let below = place.floor();
    // q is at most 1, so the place is at most n − 1, but for the rounding of a count above 2^53.
    ((below as u64).min(n.saturating_sub(1)), place - below)
}

/// What lies this far from a row to the next one: an infinity beside a number is that infinity, −∞ beside +∞ is NaN. A difference that
/// overflows is taken in halves.
#[inline]
pub fn between_rows(below: f64, above: f64, fraction: f64) -> f64 {
    if fraction == 0.0 || below == above {
        return below;
    }
    if below == f64::NEG_INFINITY && above < f64::INFINITY {
        return below;
    }
    let apart = above - below;
    if apart.is_infinite() && below.is_finite() && above.is_finite() {
        return below * (1.0 - fraction) + above * fraction;
    }
    below + apart * fraction
}

/// The quantile of rows that are numbers of f64, in any order; they are sorted as far as is needed. NaN where there is none, or one of them is.
pub fn quantile_of(rows: &mut [f64], q: f64) -> f64 {
    if rows.is_empty() || rows.iter().any(|x| x.is_nan()) {
        return f64::NAN;
    }
    let (place, fraction) = quantile_place(crate::widen_u64(rows.len()), q);
    let place = usize::try_from(place).unwrap_or(usize::MAX).min(rows.len() - 1);
    let (_, below, rest) = rows.select_nth_unstable_by(place, f64::total_cmp);
    let above = rest.iter().copied().min_by(f64::total_cmp).unwrap_or(*below);
    between_rows(*below, above, fraction)
}

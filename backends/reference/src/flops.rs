//! What an operation counts for, by the rules of [`levelfold::plan::cost`]: written down again, so that a mistake there is seen.

use levelfold::Reducer;
use std::cell::Cell;

/// Operations done so far.
#[derive(Default)]
pub(crate) struct Flops(Cell<u64>);

impl Flops {
    pub(crate) fn add(&self, count: u64) {
        self.0.set(self.0.get() + count);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.get()
    }
}

/// A number of things, as a count of operations.
pub(crate) fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}

/// What a reducer does to each row of a feature, and to each result.
pub(crate) fn of_reducer(reducer: &Reducer, weighted: bool) -> (u64, u64) {
    // A product with the weight.
    let product = u64::from(weighted);
    match reducer {
        Reducer::Sum | Reducer::Prod | Reducer::Max | Reducer::Min => (product + 1, 0),
        Reducer::Mean => (product + 1, 1),
        Reducer::L1 => (product + 2, 0),
        Reducer::L2 => (product + 2, 1),
        // Two passes, and a weight in each.
        Reducer::Var { .. } => (2 * product + 6, 2),
        Reducer::Std { .. } => (2 * product + 6, 3),
        Reducer::LogSumExp => (product + 4, 2),
        Reducer::SoftMax => (6, 1),
        Reducer::Quantile(_) => (1, 3),
        Reducer::ArgMax | Reducer::ArgMin => (1, 0),
        Reducer::First | Reducer::Last | Reducer::Count => (0, 0),
        Reducer::Named(_) => (product + 1, 1),
        Reducer::Custom(custom) => (count(custom.push().code.len()), count(custom.finishing().code.len())),
    }
}

//! The groups of cases: one `#[test]` each.

mod elements;
mod encoders;
mod errors;
mod folds;
mod graphs;
mod inputs;
mod levels;
mod random;
mod reducers;
mod registered;

use crate::case::Case;
use crate::run::{POISON, Wanted};
use crate::{Config, MakeBackend, made};
use levelfold::backend::Backend;
use levelfold::{DType, Segments};

/// A group of cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Segments of every length around a block of rows and around powers of two of them.
    Lengths,
    /// Rows of every number of features around the widths of vector registers.
    Features,
    /// Inputs of any strides: sliced, backwards, broadcast, overlapping.
    Layouts,
    /// Segments that overlap, leave gaps, come in any order, or come again.
    Ranges,
    /// Segments without rows: first, last, all of them, and on every level.
    EmptySegments,
    /// No rows, no features, no segments, one of each.
    Shapes,
    /// NaNs, infinities, zeros of both signs, subnormal and huge numbers.
    SpecialValues,
    /// Reducers with a state: everything above, for each of them.
    Reducers,
    /// Row encoders and reducers that users bring in Rust.
    Registered,
    /// Weighted sums and means.
    Weights,
    /// Several reductions of the same rows, and their results side by side.
    Siblings,
    /// Hierarchies of several levels, kept or not.
    Levels,
    /// Leaves that ids look up.
    Lookups,
    /// The operations of the literal program, in every order that makes sense.
    Literal,
    /// Operations on single rows: activations, norms, sums, scales, casts, positions.
    RowOps,
    /// Matrix products and convolutions.
    Products,
    /// Attention inside segments.
    Attention,
    /// Encoders between levels: blocks, shared parameters, rows that occur twice.
    EncodedLevels,
    /// Enough rows to be worth several threads.
    Large,
    /// Hierarchies from seeds.
    RandomHierarchies,
    /// Graphs from seeds.
    RandomGraphs,
    /// Bindings that do not fit the plan.
    BadBindings,
    /// Ids and weights that no result can be made of.
    BadValues,
    /// Several executables of one plan at once.
    SideBySide,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 24] = [
        Group::Lengths,
        Group::Features,
        Group::Layouts,
        Group::Ranges,
        Group::EmptySegments,
        Group::Shapes,
        Group::SpecialValues,
        Group::Reducers,
        Group::Registered,
        Group::Weights,
        Group::Siblings,
        Group::Levels,
        Group::Lookups,
        Group::Literal,
        Group::RowOps,
        Group::Products,
        Group::Attention,
        Group::EncodedLevels,
        Group::Large,
        Group::RandomHierarchies,
        Group::RandomGraphs,
        Group::BadBindings,
        Group::BadValues,
        Group::SideBySide,
    ];

    /// The cases of a group that are run like any other; none for the groups that do something else.
    pub fn cases(self) -> Vec<Case> {
        match self {
            Group::Lengths => folds::lengths(),
            Group::Features => folds::features(),
            Group::Ranges => folds::ranges(),
            Group::EmptySegments => folds::empty_segments(),
            Group::Shapes => folds::shapes(),
            Group::Layouts => inputs::layouts(),
            Group::SpecialValues => inputs::special_values(),
            Group::Reducers => reducers::reducers(),
            Group::Registered => registered::registered(),
            Group::Weights => inputs::weights(),
            Group::Lookups => inputs::lookups(),
            Group::Levels => levels::levels(),
            Group::Large => levels::large(),
            Group::Siblings => graphs::siblings(),
            Group::Literal => graphs::literal(),
            Group::RowOps => encoders::row_ops(),
            Group::Products => encoders::products(),
            Group::Attention => encoders::attention(),
            Group::EncodedLevels => encoders::levels().into_iter().chain(elements::elements()).collect(),
            Group::RandomHierarchies => random::hierarchies(),
            Group::RandomGraphs => random::graphs(),
            Group::BadBindings | Group::BadValues | Group::SideBySide => Vec::new(),
        }
    }

    /// Runs a group on the backends that `make` makes: as it comes, poisoned, and with each of these thread counts.
    ///
    /// # Panics
    /// Where anything differs from what is wanted, with the case, the seed and the first element.
    pub fn run(self, make: &MakeBackend<'_>, threads: &[usize]) {
        self.run_each(make, threads, 1);
    }

    /// [`run`](Self::run) with the first case and every `nth` one behind it: for backends that take long over each. Says how many that are.
    ///
    /// # Panics
    /// As for `run`.
    pub fn run_each(self, make: &MakeBackend<'_>, threads: &[usize], nth: usize) {
        let poisoned = |threads: Option<usize>| Config { threads, poison: Some(POISON) };
        let mut configs = vec![Config::default()];
        match threads {
            [] => configs.push(poisoned(None)),
            threads => configs.extend(threads.iter().map(|&threads| poisoned(Some(threads)))),
        }
        let mut backends: Vec<(Config, Box<dyn Backend>)> = Vec::new();
        for config in configs {
            let Some(backend) = made(make, &config) else { return };
            backends.push((config, backend));
        }
        let failures = match self {
            Group::BadBindings => errors::bad_bindings(&backends),
            Group::BadValues => errors::bad_values(&backends),
            Group::SideBySide => errors::side_by_side(&backends),
            Group::Lengths
            | Group::Features
            | Group::Layouts
            | Group::Ranges
            | Group::EmptySegments
            | Group::Shapes
            | Group::SpecialValues
            | Group::Reducers
            | Group::Registered
            | Group::Weights
            | Group::Siblings
            | Group::Levels
            | Group::Lookups
            | Group::Literal
            | Group::RowOps
            | Group::Products
            | Group::Attention
            | Group::EncodedLevels
            | Group::Large
            | Group::RandomHierarchies
            | Group::RandomGraphs => {
                let all = self.cases();
                let cases: Vec<Case> = all.iter().step_by(nth.max(1)).cloned().collect();
                if cases.len() < all.len() {
                    println!("sampled: {} of {} cases of {self:?}", cases.len(), all.len());
                }
                run_cases(&cases, &backends)
            }
        };
        if let Some(first) = failures.first() {
            let shown = failures.iter().take(8).map(String::as_str).collect::<Vec<_>>().join("\n  ");
            panic!("{} failures in {self:?}, the first of them: {first}\n\nup to 8 of them:\n  {shown}", failures.len());
        }
    }
}

/// What differs, over all cases and backends.
fn run_cases(cases: &[Case], backends: &[(Config, Box<dyn Backend>)]) -> Vec<String> {
    assert!(!cases.is_empty(), "a group without cases tests nothing");
    let mut failures = Vec::new();
    for case in cases {
        let wanted = match Wanted::of(case) {
            Ok(wanted) => wanted,
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        for (config, backend) in backends {
            match wanted.hold_against(&**backend, config) {
                Ok(true) => {}
                Ok(false) => println!("skipped: case `{}` on `{}`, which does not run its steps", case.name, backend.target().name),
                Err(failure) => failures.push(failure),
            }
        }
    }
    failures
}

/// The types of values.
const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// The types of ids.
const IDS: [DType; 5] = [DType::U8, DType::U16, DType::U32, DType::I32, DType::I64];

/// An ordered partition.
fn lengths(lengths: &[u64]) -> Segments {
    Segments::from_lengths(lengths).expect("lengths of a case")
}

/// Any ranges.
fn ranges(ranges: &[(u64, u64)], rows: u64) -> Segments {
    Segments::from_ranges(ranges, rows).expect("ranges of a case")
}

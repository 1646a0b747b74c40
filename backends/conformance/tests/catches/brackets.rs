//! Reducers with a state, built in, written as expressions, and in Rust, bracketed in another way than the contract says.

use levelfold::backend::{Backend, Bindings, Executable, RunReport, TableSet, Target};
use levelfold::custom::BoundReducer;
use levelfold::numerics::{Monoid, MonoidVisitor, Row, Start, State};
use levelfold::plan::{Load, Plan, StepKind};
use levelfold::reducer::{CustomReducer, ReducerClass};
use levelfold::{DType, OnEmpty, Reducer, Result};
use levelfold_conformance::run::Wanted;
use levelfold_conformance::{Config, Group, registry};
use std::ops::Range;
use std::sync::Arc;

/// How blocks are cut and put together.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Brackets {
    /// As the contract says.
    Right,
    /// Blocks of another size.
    Blocks(usize),
}

/// The columns of a segment, as a monoid: states are all features of a component, one component after the other.
trait Algebra {
    /// The result of one block.
    fn only(&self, rows: Range<usize>) -> Vec<f64>;
    /// A block as a leaf.
    fn leaf(&self, rows: Range<usize>) -> Vec<f64>;
    fn both(&self, older: &[f64], newer: &[f64]) -> Vec<f64>;
    fn finish(&self, state: &[f64], rows: usize) -> Vec<f64>;
}

fn bracketed(of: &dyn Algebra, n: usize, how: Brackets) -> Vec<f64> {
    let size = if let Brackets::Blocks(size) = how { size } else { 32 };
    if n <= size {
        return of.only(0..n);
    }
    let mut level: Vec<Vec<f64>> = (0..n).step_by(size).map(|first| of.leaf(first..n.min(first + size))).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| if let [older, newer] = pair { of.both(older, newer) } else { pair[0].clone() }).collect();
    }
    of.finish(&level[0], n)
}

/// Written as expressions.
struct Written<'a>(&'a CustomReducer);

/// Written in Rust.
struct InRust(BoundReducer);

/// One column a feature.
struct Columns<'a, M> {
    of: M,
    rows: &'a [Vec<f32>],
}

impl<M> Columns<'_, M> {
    fn features(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    /// Each feature of some states, by component, as all features of each component.
    fn packed(&self, components: usize, each: impl Fn(usize) -> Vec<f64>) -> Vec<f64> {
        let columns: Vec<Vec<f64>> = (0..self.features()).map(each).collect();
        (0..components).flat_map(|component| columns.iter().map(move |column| column[component]).collect::<Vec<_>>()).collect()
    }

    fn unpacked(&self, state: &[f64], feature: usize) -> Vec<f64> {
        state.chunks(self.features()).map(|plane| plane[feature]).collect()
    }
}

impl<M: Monoid> Columns<'_, M> {
    fn block(&self, rows: Range<usize>, feature: usize) -> State<f32> {
        let first = self.rows[rows.start][feature];
        let mut state = self.of.start(Start { first, n: None, scale: 0.0, total: rows.len() as f32 });
        for pass in 0..M::PASSES {
            for (index, at) in rows.clone().enumerate() {
                state = self.of.push(pass, state, Row { x: self.rows[at][feature], w: Some(1.0), index: index as f32 });
            }
            state = self.of.close(pass, state);
        }
        state
    }

    fn state(&self, state: &[f64], feature: usize) -> State<f64> {
        let column = self.unpacked(state, feature);
        std::array::from_fn(|component| column.get(component).copied().unwrap_or(0.0))
    }
}

impl<M: Monoid> Algebra for Columns<'_, M> {
    fn only(&self, rows: Range<usize>) -> Vec<f64> {
        let n = rows.len() as f32;
        (0..self.features()).map(|feature| f64::from(self.of.finish_block(self.block(rows.clone(), feature), n))).collect()
    }

    fn leaf(&self, rows: Range<usize>) -> Vec<f64> {
        self.packed(4, |feature| self.of.widen(self.block(rows.clone(), feature), rows.start as f64).to_vec())
    }

    fn both(&self, older: &[f64], newer: &[f64]) -> Vec<f64> {
        self.packed(4, |feature| self.of.combine(self.state(older, feature), self.state(newer, feature)).to_vec())
    }

    fn finish(&self, state: &[f64], rows: usize) -> Vec<f64> {
        (0..self.features()).map(|feature| self.of.finish_tree(self.state(state, feature), rows as f64)).collect()
    }
}

impl Columns<'_, Written<'_>> {
    fn block(&self, rows: Range<usize>, feature: usize) -> Vec<f32> {
        let mut lifted = rows.map(|at| self.of.0.lifted(self.rows[at][feature], 1.0));
        let first = lifted.next().expect("a row");
        lifted.fold(first, |state, row| self.of.0.combined(&state, &row))
    }
}

impl Algebra for Columns<'_, Written<'_>> {
    fn only(&self, rows: Range<usize>) -> Vec<f64> {
        (0..self.features()).map(|feature| f64::from(self.of.0.finished(&self.block(rows.clone(), feature)))).collect()
    }

    fn leaf(&self, rows: Range<usize>) -> Vec<f64> {
        let wide = |feature| self.block(rows.clone(), feature).into_iter().map(f64::from).collect();
        self.packed(self.of.0.components().len(), wide)
    }

    fn both(&self, older: &[f64], newer: &[f64]) -> Vec<f64> {
        let both = |feature| self.of.0.combined(&self.unpacked(older, feature), &self.unpacked(newer, feature));
        self.packed(self.of.0.components().len(), both)
    }

    fn finish(&self, state: &[f64], _rows: usize) -> Vec<f64> {
        (0..self.features()).map(|feature| self.of.0.finished(&self.unpacked(state, feature))).collect()
    }
}

impl Columns<'_, InRust> {
    fn block(&self, rows: Range<usize>) -> Vec<f32> {
        let rows: Vec<&[f32]> = self.rows[rows].iter().map(Vec::as_slice).collect();
        let room = || vec![0.0; self.of.0.planes() * self.features()];
        let (mut state, mut lifted) = (room(), room());
        self.of.0.block(&rows, None, &mut state, &mut lifted);
        state
    }
}

impl Algebra for Columns<'_, InRust> {
    fn only(&self, rows: Range<usize>) -> Vec<f64> {
        let mut out = vec![0.0f32; self.features()];
        self.of.0.finish(&self.block(rows.clone()), rows.len() as f32, &mut out);
        out.into_iter().map(f64::from).collect()
    }

    fn leaf(&self, rows: Range<usize>) -> Vec<f64> {
        self.block(rows).into_iter().map(f64::from).collect()
    }

    fn both(&self, older: &[f64], newer: &[f64]) -> Vec<f64> {
        let mut state = older.to_vec();
        self.of.0.combine(&mut state, newer);
        state
    }

    fn finish(&self, state: &[f64], rows: usize) -> Vec<f64> {
        let mut out = vec![0.0; self.features()];
        self.of.0.finish(state, rows as f64, &mut out);
        out
    }
}

struct Visit<'a>(&'a [Vec<f32>], Brackets);

impl MonoidVisitor for Visit<'_> {
    type Out = Vec<f64>;

    fn visit<M: Monoid>(self, monoid: M) -> Vec<f64> {
        bracketed(&Columns { of: monoid, rows: self.0 }, self.0.len(), self.1)
    }
}

fn folded(reducer: &Reducer, rows: &[Vec<f32>], how: Brackets) -> Vec<f64> {
    match reducer {
        Reducer::Custom(custom) => bracketed(&Columns { of: Written(custom), rows }, rows.len(), how),
        Reducer::Named(named) => bracketed(&Columns { of: InRust(registry().find_reducer(named).expect("known")), rows }, rows.len(), how),
        _ => reducer.visit_monoid(Visit(rows, how)).expect("a monoid"),
    }
}

/// Folds f32 rows by one reducer with a state, and takes nothing else.
struct Folds {
    target: Target,
    how: Brackets,
}

impl Folds {
    fn new(how: Brackets) -> Self {
        let supports = |kind: &StepKind| {
            let StepKind::Fold(fold) = kind else { return Err("it only folds".to_string()) };
            match (fold.load, &fold.stages[..]) {
                (Load::View { .. }, [stage]) if stage.reductions.len() == 1 && !fold.has_ops() => {
                    let reduction = &stage.reductions[0];
                    let is_state = reduction.reducer.class() == ReducerClass::State;
                    if is_state && reduction.weights.is_none() && reduction.dtype == DType::F32 {
                        Ok(())
                    } else {
                        Err("not this one".to_string())
                    }
                }
                _ => Err("one reducer, over rows as they lie".to_string()),
            }
        };
        Folds { target: Target { supports, ..Target::new("folds") }, how }
    }
}

impl Backend for Folds {
    fn target(&self) -> &Target {
        &self.target
    }

    fn compile(&self, plan: &Arc<Plan>) -> Result<Box<dyn Executable>> {
        let report = RunReport::for_plan(plan);
        Ok(Box::new(FoldsExecutable { plan: Arc::clone(plan), tables: TableSet::new(), report, how: self.how }))
    }
}

struct FoldsExecutable {
    plan: Arc<Plan>,
    tables: TableSet,
    report: RunReport,
    how: Brackets,
}

impl Executable for FoldsExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        self.tables.check(&self.plan, bindings)?;
        let StepKind::Fold(fold) = &self.plan.steps[0].kind else { return Ok(&self.report) };
        let reduction = &fold.stages[0].reductions[0];
        let x = bindings.find_input("x").expect("checked");
        let y = bindings.find_output("y").expect("checked");
        let layout = y.layout();
        let empty = if let OnEmpty::Fill(value) = reduction.on_empty { value } else { 0.0 };
        for (segment, range) in self.tables.get(fold.stages[0].table).ranges().enumerate() {
            let rows = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let rows: Vec<Vec<f32>> = rows.map(|row| (0..x.shape()[1]).map(|feature| x.get(row, feature)).collect()).collect();
            let made = if rows.is_empty() { vec![empty; x.shape()[1]] } else { folded(&reduction.reducer, &rows, self.how) };
            for (feature, value) in made.into_iter().enumerate() {
                y.elements_mut::<f32>().expect("checked")[layout.position(segment, feature)] = value as f32;
            }
        }
        Ok(&self.report)
    }

    fn scratch_bytes(&self) -> u64 {
        0
    }
}

/// Which of the reducers are caught, by the cases of their group that have segments of every length, or ties.
fn caught(how: Brackets) -> Vec<String> {
    let mut caught: Vec<String> = Vec::new();
    for case in Group::Reducers.cases().into_iter().chain(Group::Registered.cases()) {
        let Some(name) = case.name.strip_prefix("reducers/") else { continue };
        let Some(reducer) = name.strip_suffix("/f32/lengths").or(name.strip_suffix("/f32/ties")) else { continue };
        if caught.last().is_some_and(|last| last == reducer) {
            continue;
        }
        let wanted = Wanted::of(&case).unwrap_or_else(|failure| panic!("{failure}"));
        match wanted.hold_against(&Folds::new(how), &Config::default()) {
            Ok(true) => {}
            // Softmax has scores, and learned queries a matrix product.
            Ok(false) => {
                assert!(
                    ["softmax", "queried", "median", "quantile(0.3)"].contains(&reducer) || reducer.starts_with("arg"),
                    "{reducer} was skipped"
                )
            }
            Err(_) => caught.push(reducer.to_owned()),
        }
    }
    caught
}

/// Reducers that round when a row is added, so that it shows in f32. (Of a logsumexp written as expressions it does not, in these cases.)
const ROUNDING: [&str; 13] = [
    "var",
    "var(ddof=1)",
    "std",
    "std(ddof=1)",
    "logsumexp",
    "l1",
    "l2",
    "own_norm",
    "own_mean",
    "own_variance",
    "own_all",
    "suite-moments",
    "suite-power-mean",
];

#[test]
fn other_brackets_of_states_are_caught_for_every_kind_of_reducer() {
    assert_eq!(caught(Brackets::Right), Vec::<String>::new());
    let caught = caught(Brackets::Blocks(16));
    for reducer in ROUNDING {
        assert!(caught.iter().any(|caught| caught == reducer), "blocks of 16 of {reducer} are not caught, only {caught:?}");
    }
}

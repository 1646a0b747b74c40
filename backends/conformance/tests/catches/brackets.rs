//! Reducers with a state, built in, written as expressions, and in Rust, bracketed in another way than the contract says: in blocks, and in the
//! tree above them.

use levelfold::backend::{Backend, Bindings, Executable, RunReport, TableSet, Target};
use levelfold::custom::{BoundReducer, Real};
use levelfold::numerics::{Accumulator, Monoid, MonoidVisitor, Packed, Row, Start, State, Weighing};
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
    /// One block after the other, with no tree.
    LeftToRight,
    /// Neighbours are paired from the end, so that an odd first one moves up.
    OddFirst,
    /// What is left of a counter in the end is put together from the oldest on.
    OldestFirst,
    /// The newer of two neighbours is taken for the older one.
    Swapped,
    /// States above blocks are kept in f32.
    Narrow,
    /// Each block takes itself for the first of its segment.
    LostPlace,
}

/// The type that blocks are computed in.
trait Computes: Real + Packed<Number = Self> {}

impl Computes for f32 {}
impl Computes for f64 {}

/// The columns of a segment, as a monoid: states are all features of a component, one component after the other.
trait Algebra {
    /// The result of one block.
    fn only(&self, rows: Range<usize>) -> Vec<f64>;
    /// A block as a leaf, which believes that it begins at this row of its segment.
    fn leaf(&self, rows: Range<usize>, first: usize) -> Vec<f64>;
    fn both(&self, older: &[f64], newer: &[f64]) -> Vec<f64>;
    fn finish(&self, state: &[f64], rows: usize) -> Vec<f64>;
}

fn bracketed(of: &dyn Algebra, n: usize, how: Brackets) -> Vec<f64> {
    let size = if let Brackets::Blocks(size) = how { size } else { 32 };
    if n <= size {
        return of.only(0..n);
    }
    let both = |older: &Vec<f64>, newer: &Vec<f64>| match how {
        Brackets::Swapped => of.both(newer, older),
        Brackets::Narrow => of.both(older, newer).into_iter().map(|x| f64::from(x as f32)).collect(),
        Brackets::Right
        | Brackets::Blocks(_)
        | Brackets::LeftToRight
        | Brackets::OddFirst
        | Brackets::OldestFirst
        | Brackets::LostPlace => of.both(older, newer),
    };
    let pair = |pair: &[Vec<f64>]| if let [older, newer] = pair { both(older, newer) } else { pair[0].clone() };
    let place = |first: usize| if how == Brackets::LostPlace { 0 } else { first };
    let mut level: Vec<Vec<f64>> = (0..n).step_by(size).map(|first| of.leaf(first..n.min(first + size), place(first))).collect();
    match how {
        Brackets::Right | Brackets::Blocks(_) | Brackets::Swapped | Brackets::Narrow | Brackets::LostPlace => {
            while level.len() > 1 {
                level = level.chunks(2).map(pair).collect();
            }
        }
        Brackets::LeftToRight => level = vec![level[1..].iter().fold(level[0].clone(), |older, newer| both(&older, newer))],
        Brackets::OddFirst => {
            while level.len() > 1 {
                level = level.rchunks(2).map(pair).collect();
                level.reverse();
            }
        }
        Brackets::OldestFirst => {
            let mut counter: Vec<(usize, Vec<f64>)> = Vec::new();
            for leaf in level {
                let mut top = (1, leaf);
                while let Some((blocks, older)) = counter.pop_if(|(blocks, _)| *blocks == top.0) {
                    top = (2 * blocks, both(&older, &top.1));
                }
                counter.push(top);
            }
            level = counter.into_iter().map(|(_, state)| state).reduce(|older, newer| both(&older, &newer)).into_iter().collect();
        }
    }
    of.finish(&level[0], n)
}

/// Written as expressions.
struct Written<'a>(&'a CustomReducer);

/// Written in Rust.
struct InRust(BoundReducer);

/// One column a feature, and one weight a row.
struct Columns<'a, M, A> {
    of: M,
    rows: &'a [Vec<A>],
    weights: Option<&'a [A]>,
}

impl<M, A: Computes> Columns<'_, M, A> {
    fn features(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    fn weight(&self, row: usize) -> A {
        self.weights.map_or(A::of_f64(1.0), |weights| weights[row])
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

impl<M: Monoid, A: Computes> Columns<'_, M, A> {
    fn block(&self, rows: Range<usize>, feature: usize) -> State<A> {
        let given: Vec<A> = rows.clone().map(|row| self.weight(row)).collect();
        let scale = if self.weights.is_some() { self.of.scale(&given) } else { A::of_f64(0.0) };
        let weights: Vec<A> = match M::WEIGHING {
            Weighing::Never | Weighing::Either => given,
            Weighing::Scores => given.into_iter().map(|score| self.of.weigh(score, scale)).collect(),
        };
        let total = weights.iter().fold(A::of_f64(0.0), |total, weight| Accumulator::add(total, *weight));
        let mut state = self.of.start(Start { first: self.rows[rows.start][feature], n: None, scale, total });
        for pass in 0..M::PASSES {
            for (index, at) in rows.clone().enumerate() {
                let row = Row { x: self.rows[at][feature], w: Some(weights[index]), index: A::of_f64(index as f64) };
                state = self.of.push(pass, state, row);
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

impl<M: Monoid, A: Computes> Algebra for Columns<'_, M, A> {
    fn only(&self, rows: Range<usize>) -> Vec<f64> {
        let n = A::of_f64(rows.len() as f64);
        (0..self.features()).map(|feature| self.of.finish_block(self.block(rows.clone(), feature), n).as_f64()).collect()
    }

    fn leaf(&self, rows: Range<usize>, first: usize) -> Vec<f64> {
        self.packed(4, |feature| self.of.widen(self.block(rows.clone(), feature), first as f64).to_vec())
    }

    fn both(&self, older: &[f64], newer: &[f64]) -> Vec<f64> {
        self.packed(4, |feature| self.of.combine(self.state(older, feature), self.state(newer, feature)).to_vec())
    }

    fn finish(&self, state: &[f64], rows: usize) -> Vec<f64> {
        (0..self.features()).map(|feature| self.of.finish_tree(self.state(state, feature), rows as f64)).collect()
    }
}

impl<A: Computes> Columns<'_, Written<'_>, A> {
    fn block(&self, rows: Range<usize>, feature: usize) -> Vec<A> {
        let mut lifted = rows.map(|at| self.of.0.lifted(self.rows[at][feature], self.weight(at)));
        let first = lifted.next().expect("a row");
        lifted.fold(first, |state, row| self.of.0.combined(&state, &row))
    }
}

impl<A: Computes> Algebra for Columns<'_, Written<'_>, A> {
    fn only(&self, rows: Range<usize>) -> Vec<f64> {
        (0..self.features()).map(|feature| self.of.0.finished(&self.block(rows.clone(), feature)).as_f64()).collect()
    }

    fn leaf(&self, rows: Range<usize>, _first: usize) -> Vec<f64> {
        let wide = |feature| self.block(rows.clone(), feature).into_iter().map(Accumulator::as_f64).collect();
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

impl<A: Computes> Columns<'_, InRust, A> {
    fn block(&self, rows: Range<usize>) -> Vec<A> {
        let weights = self.weights.map(|weights| &weights[rows.clone()]);
        let rows: Vec<&[A]> = self.rows[rows].iter().map(Vec::as_slice).collect();
        let room = || vec![A::of_f64(0.0); self.of.0.planes() * self.features()];
        let (mut state, mut lifted) = (room(), room());
        self.of.0.block(&rows, weights, &mut state, &mut lifted);
        state
    }
}

impl<A: Computes> Algebra for Columns<'_, InRust, A> {
    fn only(&self, rows: Range<usize>) -> Vec<f64> {
        let mut out = vec![A::of_f64(0.0); self.features()];
        self.of.0.finish(&self.block(rows.clone()), A::of_f64(rows.len() as f64), &mut out);
        out.into_iter().map(Accumulator::as_f64).collect()
    }

    fn leaf(&self, rows: Range<usize>, _first: usize) -> Vec<f64> {
        self.block(rows).into_iter().map(Accumulator::as_f64).collect()
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

/// The rows of a segment and their weights.
struct Segment<'a, A> {
    rows: &'a [Vec<A>],
    weights: Option<&'a [A]>,
    how: Brackets,
}

impl<A: Computes> MonoidVisitor for &Segment<'_, A> {
    type Out = Vec<f64>;

    fn visit<M: Monoid>(self, monoid: M) -> Vec<f64> {
        self.folded(monoid)
    }
}

impl<A: Computes> Segment<'_, A> {
    fn folded<M>(&self, of: M) -> Vec<f64>
    where
        for<'a> Columns<'a, M, A>: Algebra,
    {
        bracketed(&Columns { of, rows: self.rows, weights: self.weights }, self.rows.len(), self.how)
    }

    fn by(&self, reducer: &Reducer) -> Vec<f64> {
        match reducer {
            Reducer::Custom(custom) => self.folded(Written(custom)),
            Reducer::Named(named) => self.folded(InRust(registry().find_reducer(named).expect("known"))),
            _ => reducer.visit_monoid(self).expect("a monoid"),
        }
    }
}

/// Folds f32 and f64 rows by one reducer with a state, and takes nothing else.
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
                    if reduction.reducer.class() == ReducerClass::State { Ok(()) } else { Err("not this one".to_string()) }
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

impl FoldsExecutable {
    fn fold<A: Computes + levelfold::numerics::Value>(&self, bindings: &mut Bindings<'_>) {
        let StepKind::Fold(fold) = &self.plan.steps[0].kind else { return };
        let reduction = &fold.stages[0].reductions[0];
        let x = bindings.find_input("x").expect("checked");
        let weights = reduction.weights.map(|view| {
            let name = &self.plan.buffer_of(view).name;
            let weights = bindings.find_input(name).expect("checked");
            (0..weights.shape()[0]).map(|row| weights.get::<A>(row, 0)).collect::<Vec<A>>()
        });
        let y = bindings.find_output("y").expect("checked");
        let layout = y.layout();
        let empty = if let OnEmpty::Fill(value) = reduction.on_empty { value } else { 0.0 };
        for (segment, range) in self.tables.get(fold.stages[0].table).ranges().enumerate() {
            let rows = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let weights = weights.as_ref().map(|weights| &weights[rows.clone()]);
            let rows: Vec<Vec<A>> = rows.map(|row| (0..x.shape()[1]).map(|feature| x.get(row, feature)).collect()).collect();
            let segment_rows = Segment { rows: &rows, weights, how: self.how };
            let made = if rows.is_empty() { vec![empty; x.shape()[1]] } else { segment_rows.by(&reduction.reducer) };
            for (feature, value) in made.into_iter().enumerate() {
                let at = layout.position(segment, feature);
                match reduction.dtype {
                    // Positions are whole numbers.
                    DType::I64 => y.elements_mut::<i64>().expect("checked")[at] = value as i64,
                    _ => y.elements_mut::<A>().expect("checked")[at] = A::of_f64(value),
                }
            }
        }
    }
}

impl Executable for FoldsExecutable {
    fn run(&mut self, bindings: &mut Bindings<'_>) -> Result<&RunReport> {
        self.tables.check(&self.plan, bindings)?;
        match bindings.find_input("x").expect("checked").dtype() {
            DType::F32 => self.fold::<f32>(bindings),
            _ => self.fold::<f64>(bindings),
        }
        Ok(&self.report)
    }

    fn scratch_bytes(&self) -> u64 {
        0
    }
}

/// Which reducers are caught over rows of a type, for each way to bracket them, by the cases of their group that have segments of every length, or
/// ties.
fn caught<const N: usize>(ways: [Brackets; N], dtype: DType) -> [Vec<String>; N] {
    let mut caught: [Vec<String>; N] = std::array::from_fn(|_| Vec::new());
    for case in Group::Reducers.cases().into_iter().chain(Group::Registered.cases()) {
        let Some(name) = case.name.strip_prefix("reducers/") else { continue };
        let of_kind = |kind: &str| name.strip_suffix(&format!("/{dtype}/{kind}"));
        let Some(reducer) = of_kind("lengths").or(of_kind("alike")).or(of_kind("ties")) else { continue };
        let wanted = Wanted::of(&case).unwrap_or_else(|failure| panic!("{failure}"));
        for (way, caught) in ways.into_iter().zip(&mut caught) {
            if caught.last().is_some_and(|last| last == reducer) {
                continue;
            }
            match wanted.hold_against(&Folds::new(way), &Config::default()) {
                Ok(true) => {}
                // Two see a whole segment at once, and learned queries make a matrix product.
                Ok(false) => assert!(["queried", "median", "quantile(0.3)"].contains(&reducer), "{reducer} was skipped"),
                Err(_) => caught.push(reducer.to_owned()),
            }
        }
    }
    caught
}

/// Holds what is caught against lists of reducers, blanks between them: all of these have to be caught, and none where the bracketing is right.
fn hold<const N: usize>(dtype: DType, ways: [(Brackets, &str); N]) {
    let found = caught(ways.map(|(way, _)| way), dtype);
    for ((way, wanted), found) in ways.into_iter().zip(found) {
        let missed: Vec<&str> = wanted.split_whitespace().filter(|reducer| !found.iter().any(|found| found == reducer)).collect();
        assert!(missed.is_empty(), "{way:?} of {dtype} rows is not caught for {missed:?}, only for {found:?}");
        assert!(way != Brackets::Right || found.is_empty(), "{dtype} rows, bracketed as the contract says, differ for {found:?}");
    }
}

/// Reducers that round when a row is added, or when two neighbours are put together.
const ROUNDING: &str = "var var(ddof=1) std std(ddof=1) logsumexp softmax l1 l2 own_norm own_mean own_variance own_logsumexp own_all suite-moments \
                        suite-power-mean";

#[test]
fn other_blocks_of_states_are_caught_for_every_kind_of_reducer() {
    hold(
        DType::F32,
        [(Brackets::Right, ""), (Brackets::Blocks(16), ROUNDING), (Brackets::LostPlace, "argmax argmin"), (Brackets::Narrow, ROUNDING)],
    );
}

/// Over f64 rows, since the last rounding to f32 would hide what the order of a few sums in f64 changes.
#[test]
fn other_trees_above_blocks_of_states_are_caught_for_every_kind_of_reducer() {
    hold(
        DType::F64,
        [
            (Brackets::Right, ""),
            (Brackets::Blocks(16), ROUNDING),
            (Brackets::LeftToRight, ROUNDING),
            (Brackets::OddFirst, ROUNDING),
            (Brackets::OldestFirst, ROUNDING),
            // Sums and maxima do not care which neighbour is the older one; ends, positions and Chan's rule do.
            (
                Brackets::Swapped,
                "var var(ddof=1) std(ddof=1) first last argmax argmin own_variance own_last own_all suite-moments suite-heaviest",
            ),
            (Brackets::LostPlace, "argmax argmin"),
        ],
    );
}

//! Bindings that do not fit a plan, data that no result can be made of, and several runs at once.
//!
//! Wanted is always the same: the stated code, no panic, and a right result from the same executable with good bindings afterwards.

use super::{IDS, lengths};
use crate::Config;
use crate::case::Case;
use crate::run::{Planned, Tensors, as_planned, blank_outputs, plan, run, same_bits};
use crate::tensor::{Arrangement, Fill, Tensor, bits_of};
use levelfold::backend::{Backend, Bindings, Executable};
use levelfold::graph::Reduce;
use levelfold::tensor::{TensorView, TensorViewMut};
use levelfold::{DType, Error, ErrorCode, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments};
use levelfold_reference::ReferenceBackend;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

type Backends = [(Config, Box<dyn Backend>)];

/// A case with every kind of binding: values, ids with their table, weights, two tables of segments, three outputs.
fn subject() -> Case {
    Case::build("bad-bindings", |graph| {
        let x = graph.input("x", DType::F32, 12, 3)?;
        let ids = graph.ids("ids", DType::U16, 12)?;
        let lookup = graph.param("lookup", DType::F32, 5, 3)?;
        let weights = graph.weights("weights", DType::F32, 12)?;
        let (word, sentence) = (graph.table("word", &lengths(&[3, 4, 5]))?, graph.table("sentence", &lengths(&[2, 1]))?);
        let rows = graph.gather(ids, lookup)?;
        let looked_up = graph.fold(rows, word, Reduce::new(Reducer::Sum))?;
        let words = graph.fold(x, word, Reduce::new(Reducer::Mean).weights(weights))?;
        let sentences = graph.fold(words, sentence, Reduce::new(Reducer::Sum))?;
        graph.output("looked-up", looked_up)?;
        graph.output("word", words)?;
        graph.output("sentence", sentences)
    })
}

/// What is bound in one run: lists, because a mistake may bind a name twice.
#[derive(Clone)]
struct Bound {
    inputs: Vec<(String, Tensor)>,
    outputs: Vec<(String, Tensor)>,
    tables: Vec<Segments>,
}

impl Bound {
    fn good(case: &Case, planned: &Planned) -> Self {
        let (inputs, outputs) = (case.inputs(0), blank_outputs(&case.graph, 0));
        Bound { inputs: inputs.into_iter().collect(), outputs: outputs.into_iter().collect(), tables: planned.tables.clone() }
    }

    fn input(&mut self, name: &str) -> &mut Tensor {
        let found = self.inputs.iter_mut().find(|(bound, _)| bound == name);
        &mut found.expect("an input of the case").1
    }

    fn output(&mut self, name: &str) -> &mut Tensor {
        let found = self.outputs.iter_mut().find(|(bound, _)| bound == name);
        &mut found.expect("an output of the case").1
    }

    fn run(&mut self, executable: &mut dyn Executable) -> Result<(), Error> {
        let mut bindings = Bindings::new();
        for (name, tensor) in &self.inputs {
            bindings.bind_input(name, tensor.view());
        }
        for (name, tensor) in &mut self.outputs {
            bindings.bind_output(name, tensor.view_mut());
        }
        for table in &self.tables {
            bindings.bind_table(table);
        }
        executable.run(&mut bindings).map(|_| ())
    }
}

/// One thing that is wrong.
struct Mistake {
    name: String,
    code: ErrorCode,
    make: Box<dyn Fn(&mut Bound)>,
}

fn mistake(name: &str, code: ErrorCode, make: impl Fn(&mut Bound) + 'static) -> Mistake {
    Mistake { name: name.into(), code, make: Box::new(make) }
}

fn blank(dtype: DType, shape: [usize; 2]) -> Tensor {
    Tensor::blank(dtype, shape, Arrangement::RowMajor)
}

fn mistakes() -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for name in ["x", "ids", "lookup", "weights"] {
        mistakes.push(mistake(&format!("{name} is not bound"), ErrorCode::NotBound, move |bound| {
            bound.inputs.retain(|(bound, _)| bound != name)
        }));
        mistakes.push(mistake(&format!("{name} is bound twice"), ErrorCode::BoundTwice, move |bound| {
            let again = bound.input(name).clone();
            bound.inputs.push((name.into(), again));
        }));
        mistakes.push(mistake(&format!("{name} has a row too many"), ErrorCode::Shape, move |bound| {
            let tensor = bound.input(name);
            let [rows, features] = tensor.shape();
            *tensor = blank(tensor.dtype(), [rows + 1, features]);
        }));
        mistakes.push(mistake(&format!("{name} lacks a row"), ErrorCode::Shape, move |bound| {
            let tensor = bound.input(name);
            let [rows, features] = tensor.shape();
            *tensor = blank(tensor.dtype(), [rows - 1, features]);
        }));
        mistakes.push(mistake(&format!("{name} has a feature too many"), ErrorCode::Shape, move |bound| {
            let tensor = bound.input(name);
            let [rows, features] = tensor.shape();
            *tensor = blank(tensor.dtype(), [rows, features + 1]);
        }));
        for other in DType::ALL {
            mistakes.push(mistake(&format!("{name} is {other}"), ErrorCode::DType, move |bound| {
                let tensor = bound.input(name);
                // Its own type would be no mistake; the next one of its size is.
                let wrong = if tensor.dtype() == other { if other.is_float() { DType::I32 } else { DType::BF16 } } else { other };
                *tensor = blank(wrong, tensor.shape());
            }));
        }
    }
    for name in ["looked-up", "word", "sentence"] {
        mistakes.push(mistake(&format!("{name} is not bound"), ErrorCode::NotBound, move |bound| {
            bound.outputs.retain(|(bound, _)| bound != name)
        }));
        mistakes.push(mistake(&format!("{name} is bound twice"), ErrorCode::BoundTwice, move |bound| {
            let again = bound.output(name).clone();
            bound.outputs.push((name.into(), again));
        }));
        mistakes.push(mistake(&format!("{name} is turned round"), ErrorCode::Shape, move |bound| {
            let tensor = bound.output(name);
            let [rows, features] = tensor.shape();
            *tensor = blank(tensor.dtype(), [features, rows + 1]);
        }));
        mistakes.push(mistake(&format!("{name} is empty"), ErrorCode::Shape, move |bound| *bound.output(name) = blank(DType::F32, [0, 0])));
        mistakes.push(mistake(&format!("{name} is f64"), ErrorCode::DType, move |bound| {
            let tensor = bound.output(name);
            *tensor = blank(DType::F64, tensor.shape());
        }));
    }
    mistakes.push(mistake("an input that nobody knows", ErrorCode::UnknownName, |bound| {
        bound.inputs.push(("y".into(), blank(DType::F32, [1, 1])))
    }));
    mistakes.push(mistake("an output that nobody knows", ErrorCode::UnknownName, |bound| {
        bound.outputs.push(("words".into(), blank(DType::F32, [1, 1])));
    }));
    mistakes.push(mistake("an input bound as an output", ErrorCode::UnknownName, |bound| {
        bound.outputs.push(("x".into(), blank(DType::F32, [12, 3])))
    }));
    mistakes.push(mistake("no segments", ErrorCode::NotBound, |bound| bound.tables.clear()));
    mistakes.push(mistake("only the lower segments", ErrorCode::NotBound, |bound| bound.tables.truncate(1)));
    mistakes.push(mistake("only the upper segments", ErrorCode::NotBound, |bound| {
        bound.tables.remove(0);
    }));
    mistakes.push(mistake("other segments of the same rows", ErrorCode::NotBound, |bound| bound.tables[0] = lengths(&[4, 3, 5])));
    mistakes.push(mistake("nothing at all", ErrorCode::NotBound, |bound| {
        bound.inputs.clear();
        bound.outputs.clear();
        bound.tables.clear();
    }));
    mistakes
}

/// Binds what does not fit, each time to an executable that ran, and to one that never did.
pub(super) fn bad_bindings(backends: &Backends) -> Vec<String> {
    let case = subject();
    let mut failures = Vec::new();
    for_each_plan(&case, backends, &mut failures, |at, planned, backend| {
        let wanted = literally(&case, &case.inputs(0))?;
        let mut executable = compile(planned, backend)?;
        for mistake in mistakes() {
            let mut fresh = compile(planned, backend)?;
            for executable in [&mut *executable, &mut *fresh] {
                let mut bound = Bound::good(&case, planned);
                (mistake.make)(&mut bound);
                refused(&format!("{at}: {}", mistake.name), mistake.code, || bound.run(executable))?;
                still_right(&case, planned, &wanted, executable).map_err(|error| format!("after `{}`: {error}", mistake.name))?;
            }
        }
        aliasing(&case, planned, &mut *executable)?;
        still_right(&case, planned, &wanted, &mut *executable).map_err(|error| format!("after shared memory: {error}"))
    });
    failures
}

/// Outputs that share memory with an input or with each other.
fn aliasing(case: &Case, planned: &Planned, executable: &mut dyn Executable) -> Result<(), String> {
    for (name, first) in [("the same memory as x", 0), ("the last element of x", 35), ("the same memory as another output", usize::MAX)] {
        let mut bound = Bound::good(case, planned);
        let mut memory = vec![0.0f32; 36 + 9];
        let base: *mut f32 = memory.as_mut_ptr();
        let mut x: Option<TensorView<'_>> = None;
        let word = first.min(36);
        // SAFETY: `memory` has 45 elements and outlives the views. They overlap, which is what is tested: the check of the bindings only looks
        // at addresses, and refuses them before anything is read or written.
        let (shared, output, other) = unsafe {
            (
                std::slice::from_raw_parts(base, 36),
                std::slice::from_raw_parts_mut(base.add(word), 9),
                std::slice::from_raw_parts_mut(base.add(word), 9),
            )
        };
        if first < 36 {
            x = Some(TensorView::from_slice(shared, [12, 3]).map_err(|error| error.to_string())?);
        }
        let view = |memory| TensorViewMut::from_slice(memory, [3, 3]).map_err(|error| error.to_string());
        let (word, other) = (view(output)?, view(other)?);
        let mut bindings = Bindings::new().output("word", word);
        for (name, tensor) in &bound.inputs {
            bindings.bind_input(name, x.filter(|_| name == "x").unwrap_or_else(|| tensor.view()));
        }
        let mut other = Some(other).filter(|_| first == usize::MAX);
        for (name, tensor) in bound.outputs.iter_mut().filter(|(name, _)| name != "word") {
            let alias = if name == "looked-up" { other.take() } else { None };
            bindings.bind_output(name, alias.unwrap_or_else(|| tensor.view_mut()));
        }
        for table in &bound.tables {
            bindings.bind_table(table);
        }
        refused(&format!("word has {name}"), ErrorCode::Aliasing, || executable.run(&mut bindings).map(|_| ()))?;
    }
    Ok(())
}

/// Ids that look nothing up, and weights that give no mean.
pub(super) fn bad_values(backends: &Backends) -> Vec<String> {
    let mut failures = Vec::new();
    for ids in IDS {
        for arrangement in [Arrangement::RowMajor, Arrangement::Strided, Arrangement::RowsBackwards] {
            let hierarchy = Hierarchy::new(Leaves::lookup("x", ids, DType::F32, 50, 4))
                .level(Level::new("y", lengths(&[40, 1, 59])).reduce(Reducer::Mean))
                .level(Level::new("z", lengths(&[3])));
            let case = Case::of(format!("bad-ids/{ids}/{arrangement:?}"), hierarchy).arrange("x.ids", arrangement);
            let mut bad = vec![50.0, 255.0];
            if matches!(ids, DType::I32 | DType::I64) {
                bad.extend([-1.0, -2147483648.0]);
            }
            let bad: Vec<(usize, f64)> = bad.into_iter().flat_map(|id| [0, 1, 40, 63, 99].map(|row| (row, id))).collect();
            bad_column(&case, "x.ids", ErrorCode::IdTooLarge, &bad, backends, &mut failures);
        }
    }
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 2))
            .level(Level::new("y", lengths(&[40, 1, 59])).reduce(Reducer::Mean).weights("w", dtype));
        let case = Case::of(format!("bad-weights/{dtype}"), hierarchy);
        let bad = [0, 31, 40, 99].into_iter().flat_map(|row| [-1.0, f64::NAN, f64::NEG_INFINITY].map(|weight| (row, weight)));
        // The segment of one row has no other weight.
        let bad: Vec<(usize, f64)> = bad.chain([(40, 0.0), (40, -0.0)]).collect();
        bad_column(&case, "w", ErrorCode::Weights, &bad, backends, &mut failures);
        let above = Hierarchy::new(Leaves::values("x", DType::F32, 2))
            .level(Level::new("y", lengths(&[40, 1, 59])).reduce(Reducer::Mean))
            .level(Level::new("z", lengths(&[2, 1])).reduce(Reducer::Mean).weights("w", dtype));
        let case = Case::of(format!("bad-weights/{dtype}/above"), above);
        bad_column(&case, "w", ErrorCode::Weights, &[(0, -0.5), (1, f64::NAN), (2, 0.0)], backends, &mut failures);
        let all_zero = case.fill("w", Fill::Constant(0.0));
        for_each_plan(&all_zero, backends, &mut failures, |at, planned, backend| {
            let mut executable = compile(planned, backend)?;
            refused(at, ErrorCode::Weights, || Bound::good(&all_zero, planned).run(&mut *executable))
        });
    }
    failures
}

/// Runs a case with one element of a column replaced, for each of these rows and numbers.
fn bad_column(case: &Case, input: &'static str, code: ErrorCode, bad: &[(usize, f64)], backends: &Backends, failures: &mut Vec<String>) {
    for_each_plan(case, backends, failures, |_, planned, backend| {
        let wanted = literally(case, &case.inputs(0))?;
        let mut executable = compile(planned, backend)?;
        for &(row, number) in bad {
            let mut bound = Bound::good(case, planned);
            let tensor = bound.input(input);
            let bits = bits_of(tensor.dtype(), number);
            tensor.set_bits(row, 0, bits);
            let what = format!("`{input}`[{row}] = {number}");
            refused(&what, code, || bound.run(&mut *executable))?;
            still_right(case, planned, &wanted, &mut *executable).map_err(|error| format!("after {what}: {error}"))?;
        }
        Ok(())
    });
}

/// Several executables of one plan, each in a thread of its own, each with its own data, again and again.
pub(super) fn side_by_side(backends: &Backends) -> Vec<String> {
    let deep = Hierarchy::new(Leaves::lookup("char", DType::U8, DType::F32, 256, 8))
        .level(Level::new("word", lengths(&vec![5; 600])).reduce(Reducer::Mean))
        .level(Level::new("sentence", lengths(&[100, 1, 499])).reduce(Reducer::Max).keep())
        .level(Level::new("text", Segments::whole(3)).reduce(Reducer::Sum));
    let case = Case::of("side-by-side", deep);
    let mut failures = Vec::new();
    for_each_plan(&case, backends, &mut failures, |_, planned, backend| {
        let one = |thread: u64| {
            let mut executable = compile(planned, backend)?;
            for round in 0..4 {
                let inputs = case.inputs(10 * thread + round);
                let wanted = literally(&case, &inputs)?;
                let mut outputs = blank_outputs(&case.graph, usize::try_from(round).expect("small"));
                let report = run(&mut *executable, &planned.tables, &inputs, &mut outputs).map_err(|error| error.to_string())?;
                same_bits(&wanted, &outputs).map_err(|error| format!("thread {thread}, round {round}: {error}"))?;
                as_planned(&planned.plan, &report)?;
            }
            Ok::<(), String>(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || one(thread))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
        })
    });
    failures
}

/// Calls `check` for the plan of every level of optimization on every backend.
fn for_each_plan(
    case: &Case,
    backends: &Backends,
    failures: &mut Vec<String>,
    check: impl Fn(&str, &Planned, &dyn Backend) -> Result<(), String>,
) {
    for (config, backend) in backends {
        for opt in OptLevel::ALL {
            let at = format!("{config} -{opt}");
            let result = match plan(case, &**backend, opt) {
                Ok(planned) => check(&at, &planned, &**backend),
                Err(error) if error.code() == ErrorCode::Unsupported => {
                    println!("skipped: case `{}` on `{}`: {error}", case.name, backend.target().name);
                    continue;
                }
                Err(error) => Err(error.to_string()),
            };
            failures.extend(result.err().map(|error| case.failed(&at, &error)));
        }
    }
}

fn compile(planned: &Planned, backend: &dyn Backend) -> Result<Box<dyn Executable>, String> {
    backend.compile(&Arc::new(planned.plan.clone())).map_err(|error| format!("compile: {error}"))
}

/// What good bindings give, by the reference and the literal plan.
fn literally(case: &Case, inputs: &Tensors) -> Result<Tensors, String> {
    let reference = ReferenceBackend::new();
    let planned = plan(case, &reference, OptLevel::O0).map_err(|error| error.to_string())?;
    let mut outputs = blank_outputs(&case.graph, 0);
    run(&mut *compile(&planned, &reference)?, &planned.tables, inputs, &mut outputs).map_err(|error| error.to_string())?;
    Ok(outputs)
}

/// Whether a run gives this error, and not another one, or a panic.
fn refused(what: &str, code: ErrorCode, run: impl FnOnce() -> Result<(), Error>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Err(error)) if error.code() == code => Ok(()),
        Ok(Err(error)) => Err(format!("{what}: the error is {error}, wanted is one with code {code}")),
        Ok(Ok(())) => Err(format!("{what}: it ran, wanted is an error with code {code}")),
        Err(_) => Err(format!("{what}: it panicked, wanted is an error with code {code}")),
    }
}

/// Whether good bindings still give the right bits.
fn still_right(case: &Case, planned: &Planned, wanted: &Tensors, executable: &mut dyn Executable) -> Result<(), String> {
    let mut outputs = blank_outputs(&case.graph, 0);
    run(executable, &planned.tables, &case.inputs(0), &mut outputs).map_err(|error| format!("good bindings: {error}"))?;
    same_bits(wanted, &outputs)
}

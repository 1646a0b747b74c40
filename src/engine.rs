//! Spec → plan → executable → run: what an embedding program holds.
//!
//! An [`Engine`] owns a backend. [`prepare`](Engine::prepare) plans and compiles; a [`Prepared`] runs as often as one likes, from several
//! threads at once: it keeps a small pool of executables, one for each run that is under way. Plans are cheap (microseconds for a few levels, plus a linear pass
//! over the segments), so each batch gets its own; what outlives a plan are the backend's kernels and arenas.

use crate::backend::{Backend, Bindings, Executable, RunReport};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::LevelGraph;
use crate::optimize::{Decision, OptLevel, Pipeline, Planner};
use crate::plan::{Plan, TableSource};
use crate::segments::Segments;
use crate::spec::Hierarchy;
use std::sync::{Arc, Mutex, PoisonError};

/// A backend, and how to plan for it.
///
/// ```no_run
/// # fn example(backend: impl levelfold::backend::Backend + 'static) -> levelfold::Result<()> {
/// use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
///
/// let engine = Engine::new(backend);
/// let hierarchy = Hierarchy::new(Leaves::values("event", DType::F32, 2))
///     .level(Level::new("session", Segments::from_lengths(&[2, 1])?).reduce(Reducer::Mean))
///     .level(Level::new("user", Segments::from_lengths(&[2])?).reduce(Reducer::Max));
/// let prepared = engine.prepare(&hierarchy)?;
/// let events = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let mut user = [0.0f32; 2];
/// prepared.run(
///     Bindings::new()
///         .input("event", TensorView::from_slice(&events, [3, 2])?)
///         .output("user", TensorViewMut::from_slice(&mut user, [1, 2])?),
/// )?;
/// assert_eq!(user, [5.0, 6.0]);
/// # Ok(())
/// # }
/// ```
pub struct Engine {
    backend: Arc<dyn Backend>,
    options: EngineOptions,
}

/// How an engine plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// How far graphs are optimized.
    pub opt: OptLevel,
    /// Passes to leave out, by name.
    pub without: Vec<String>,
    /// The most bytes that a run may need: inputs, tables, outputs, arena and scratch together.
    pub memory_limit: Option<u64>,
}

impl Engine {
    /// With the default options.
    pub fn new(backend: impl Backend + 'static) -> Self {
        Self::with_options(Box::new(backend), EngineOptions::default())
    }

    /// With options.
    pub fn with_options(backend: Box<dyn Backend>, options: EngineOptions) -> Self {
        Engine { backend: Arc::from(backend), options }
    }

    /// The backend.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The options.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The planner that this engine uses.
    ///
    /// # Errors
    /// `unknown-name` where a pass that is to be left out does not exist.
    pub fn planner(&self) -> Result<Planner> {
        let mut pipeline = Pipeline::new(self.options.opt);
        for pass in &self.options.without {
            pipeline = pipeline.without(pass)?;
        }
        Ok(Planner::new(self.backend.target().clone()).pipeline(pipeline))
    }

    /// Plans and compiles a hierarchy.
    ///
    /// # Errors
    /// What is wrong with the hierarchy (see [`Hierarchy::graph`]); `unsupported`; `memory-limit`, with the bytes that would be needed, before
    /// anything is allocated.
    pub fn prepare(&self, hierarchy: &Hierarchy) -> Result<Prepared> {
        self.prepare_graph(hierarchy.graph()?)
    }

    /// Plans and compiles any graph.
    ///
    /// # Errors
    /// As for [`prepare`](Self::prepare).
    pub fn prepare_graph(&self, graph: LevelGraph) -> Result<Prepared> {
        let tables: Vec<Segments> = graph.tables().iter().map(|table| table.segments.clone()).collect();
        let planned = self.planner()?.plan(graph)?;
        let mut prepared = self.prepare_plan(planned.plan, tables)?;
        prepared.decisions = planned.decisions;
        Ok(prepared)
    }

    /// Compiles a plan, from a file say, with the segments that it asks for (found by their hashes).
    ///
    /// # Errors
    /// `plan-invalid` where the plan breaks its rules; `wrong-target`; `not-bound` where segments are missing; `memory-limit`.
    pub fn prepare_plan(&self, plan: Plan, tables: Vec<Segments>) -> Result<Prepared> {
        plan.verify()?;
        let target = self.backend.target();
        if plan.target != target.name {
            return Err(Error::new(
                ErrorCode::WrongTarget,
                format!("the plan is for target `{}`, the backend is `{}`", plan.target, target.name),
            )
            .help("plan again for this backend"));
        }
        let mut bound: Vec<Segments> = Vec::with_capacity(plan.tables.len());
        for table in &plan.tables {
            if !matches!(table.source, TableSource::Bound) || bound.iter().any(|segments| segments.hash() == table.hash.0) {
                continue;
            }
            let Some(segments) = tables.iter().find(|segments| segments.hash() == table.hash.0) else {
                return Err(Error::new(ErrorCode::NotBound, format!("no segments with hash {} are given", table.hash))
                    .at_level(&*table.name)
                    .help("give the segments that the plan was made with"));
            };
            bound.push(segments.clone());
        }
        self.check_memory(&plan, 0)?;
        let plan = Arc::new(plan);
        let first = self.backend.compile(&plan)?;
        self.check_memory(&plan, first.scratch_bytes())?;
        Ok(Prepared { backend: Arc::clone(&self.backend), plan, tables: bound, decisions: Vec::new(), idle: Mutex::new(vec![first]) })
    }

    fn check_memory(&self, plan: &Plan, scratch: u64) -> Result<()> {
        let needed = plan.memory_bytes().and_then(|bytes| bytes.checked_add(scratch));
        match (needed, self.options.memory_limit) {
            (None, _) => Err(Error::new(ErrorCode::Overflow, "the memory that this plan needs does not fit 64 bits")),
            (Some(needed), Some(limit)) if needed > limit => Err(Error::new(
                ErrorCode::MemoryLimit,
                format!("a run needs {needed} bytes (inputs, tables, outputs, arena and scratch), the limit is {limit}"),
            )
            .help("raise the limit, keep fewer levels, or fold fewer rows at once")),
            (Some(needed), Some(limit)) => {
                self.backend.keep_at_most(limit - needed);
                Ok(())
            }
            (Some(_), None) => Ok(()),
        }
    }
}

/// A plan, compiled and ready to run again and again.
pub struct Prepared {
    backend: Arc<dyn Backend>,
    plan: Arc<Plan>,
    tables: Vec<Segments>,
    decisions: Vec<Decision>,
    idle: Mutex<Vec<Box<dyn Executable>>>,
}

impl Prepared {
    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What was fused, and what was not and why.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// The segments that are bound in every run.
    pub fn tables(&self) -> &[Segments] {
        &self.tables
    }

    /// Runs the plan over these bindings; its tables are bound already. Safe to call from several threads at once.
    ///
    /// # Errors
    /// What is wrong with the bindings (see [`TableSet::check`](crate::backend::TableSet::check)), or what the device says.
    pub fn run<'a>(&'a self, bindings: Bindings<'a>) -> Result<RunReport> {
        self.run_with(bindings, RunReport::clone)
    }

    /// [`run`](Self::run), handing the report to `look` where it lies: nothing is allocated for it.
    ///
    /// # Errors
    /// As for `run`.
    pub fn run_with<'a, T>(&'a self, mut bindings: Bindings<'a>, look: impl FnOnce(&RunReport) -> T) -> Result<T> {
        for segments in &self.tables {
            bindings.bind_table(segments);
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut executable = match idle {
            Some(executable) => executable,
            None => self.backend.compile(&self.plan)?,
        };
        let result = executable.run(&mut bindings).map(look);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(executable);
        result
    }

    /// Bytes that its executables hold beside the plan's arena.
    pub fn scratch_bytes(&self) -> u64 {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.iter().map(|executable| executable.scratch_bytes()).max().unwrap_or(0)
    }
}

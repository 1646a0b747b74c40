//! Passes that rewrite a level graph, and the pipeline that runs them.
//!
//! A [`Pass`] changes the graph and says what it did, or why not, as [`Decision`]s; it formats nothing and prints nothing. An
//! [`Observer`] sees the graph after each pass. Every pass is either bit-exact, or says that it [reassociates](Exactness); the pipeline of
//! `-O1` holds only the former, so its plans give the bits of the literal program.

mod collapse_levels;
mod decision;
mod drop_unused;
mod eliminate_identity;
mod fuse_gather;
mod fuse_levels;
mod fuse_rowwise;
mod fuse_siblings;
mod fuse_transpose_reduce;
mod histogram_gather;
mod hoist_linear;
mod place_concat;
mod share_tables;
#[cfg(test)]
mod tests;
mod tile_encoders;

pub use collapse_levels::CollapseLevels;
pub use decision::{Decision, Names, Refusal};
pub use drop_unused::DropUnused;
pub use eliminate_identity::EliminateIdentity;
pub use fuse_gather::FuseGather;
pub use fuse_levels::FuseLevels;
pub use fuse_rowwise::FuseRowwise;
pub use fuse_siblings::FuseSiblings;
pub use fuse_transpose_reduce::FuseTransposeReduce;
pub use histogram_gather::HistogramGather;
pub use hoist_linear::HoistLinear;
pub use place_concat::PlaceConcat;
pub use share_tables::ShareTables;
pub use tile_encoders::TileEncoders;

use crate::backend::Target;
use crate::error::{Error, ErrorCode, Result, suggestion};
use crate::graph::LevelGraph;
use crate::lower::{literal_totals, lower};
use crate::plan::Plan;
use std::fmt;
use std::str::FromStr;

/// What a pass may do to bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exactness {
    /// Results keep every bit.
    BitExact,
    /// Sums are bracketed differently: results differ by rounding.
    Reassociates,
}

/// One rewriting of a level graph.
pub trait Pass: Send + Sync {
    /// Its name, in kebab case: that of its file.
    fn name(&self) -> &'static str;

    /// What it may do to bits.
    fn exactness(&self) -> Exactness;

    /// Rewrites the graph, and says what it did or refused to do.
    ///
    /// # Errors
    /// Only where the graph it was given breaks its invariants.
    fn run(&self, graph: &mut LevelGraph, target: &Target) -> Result<Vec<Decision>>;
}

/// Sees the graph after each pass.
pub trait Observer {
    /// Called after each pass, with what it decided.
    fn after(&mut self, pass: &'static str, graph: &LevelGraph, decisions: &[Decision]);
}

/// Looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn after(&mut self, _pass: &'static str, _graph: &LevelGraph, _decisions: &[Decision]) {}
}

/// How far a graph is optimized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OptLevel {
    /// The literal program.
    O0,
    /// Every bit-exact pass.
    #[default]
    O1,
    /// The passes that reassociate sums too.
    O2,
}

impl OptLevel {
    /// Every level.
    pub const ALL: [OptLevel; 3] = [OptLevel::O0, OptLevel::O1, OptLevel::O2];
}

impl fmt::Display for OptLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OptLevel::O0 => "O0",
            OptLevel::O1 => "O1",
            OptLevel::O2 => "O2",
        })
    }
}

impl FromStr for OptLevel {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "0" | "O0" => Ok(OptLevel::O0),
            "1" | "O1" => Ok(OptLevel::O1),
            "2" | "O2" => Ok(OptLevel::O2),
            _ => Err(Error::new(ErrorCode::UnknownWord, format!("unknown optimization level `{word}`")).help("known: 0, 1, 2")),
        }
    }
}

/// The passes of one optimization level, in order.
pub struct Pipeline {
    passes: Vec<Box<dyn Pass>>,
}

impl Pipeline {
    /// The passes of a level.
    pub fn new(opt: OptLevel) -> Self {
        let mut passes: Vec<Box<dyn Pass>> = Vec::new();
        if opt >= OptLevel::O1 {
            let exactness = if opt >= OptLevel::O2 { Exactness::Reassociates } else { Exactness::BitExact };
            passes.push(Box::new(ShareTables));
            passes.push(Box::new(EliminateIdentity));
            passes.push(Box::new(FuseTransposeReduce));
            passes.push(Box::new(FuseSiblings));
            passes.push(Box::new(CollapseLevels { exactness }));
            passes.push(Box::new(HoistLinear { exactness }));
            passes.push(Box::new(FuseRowwise));
            passes.push(Box::new(FuseGather));
            passes.push(Box::new(HistogramGather { exactness }));
            passes.push(Box::new(FuseLevels));
            passes.push(Box::new(PlaceConcat));
            passes.push(Box::new(DropUnused));
            passes.push(Box::new(TileEncoders));
        }
        Pipeline { passes }
    }

    /// Only these passes, in this order.
    pub fn of(passes: Vec<Box<dyn Pass>>) -> Self {
        Pipeline { passes }
    }

    /// The names of the passes, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.passes.iter().map(|pass| pass.name()).collect()
    }

    /// The same without one pass.
    ///
    /// # Errors
    /// `unknown-name` where no optimization level has such a pass. Leaving out a pass that this level does not have is fine.
    pub fn without(mut self, name: &str) -> Result<Self> {
        let known = Pipeline::new(OptLevel::O2).names();
        if !known.contains(&name) {
            return Err(Error::new(ErrorCode::UnknownName, format!("there is no pass `{name}`")).help(suggestion(name, &known)));
        }
        self.passes.retain(|pass| pass.name() != name);
        Ok(self)
    }

    /// Runs the passes. In debug builds the graph is verified after each of them, in release builds once at the end.
    ///
    /// # Errors
    /// `graph-invalid`, naming the pass that broke the graph.
    pub fn run(&self, graph: &mut LevelGraph, target: &Target, observer: &mut dyn Observer) -> Result<Vec<Decision>> {
        let mut all = Vec::new();
        for (index, pass) in self.passes.iter().enumerate() {
            let decisions = pass.run(graph, target).map_err(|error| error.at_level(pass.name()))?;
            if cfg!(debug_assertions) || index + 1 == self.passes.len() {
                graph.verify().map_err(|error| error.at_level(pass.name()))?;
            }
            observer.after(pass.name(), graph, &decisions);
            all.extend(decisions);
        }
        Ok(all)
    }
}

/// A plan, and how it came about.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What will run.
    pub plan: Plan,
    /// What was fused, and what was not and why, in the order of the passes.
    pub decisions: Vec<Decision>,
}

/// Graph → optimized plan, for one target.
pub struct Planner {
    target: Target,
    pipeline: Pipeline,
}

impl Planner {
    /// Plans for a target at the default level, `-O1`.
    pub fn new(target: Target) -> Self {
        Planner { target, pipeline: Pipeline::new(OptLevel::default()) }
    }

    /// At another level.
    #[must_use]
    pub fn opt(mut self, opt: OptLevel) -> Self {
        self.pipeline = Pipeline::new(opt);
        self
    }

    /// With other passes.
    #[must_use]
    pub fn pipeline(mut self, pipeline: Pipeline) -> Self {
        self.pipeline = pipeline;
        self
    }

    /// Without one of the passes.
    ///
    /// # Errors
    /// `unknown-name`.
    pub fn without(mut self, pass: &str) -> Result<Self> {
        self.pipeline = self.pipeline.without(pass)?;
        Ok(self)
    }

    /// What it plans for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Optimizes and lowers a graph.
    ///
    /// # Errors
    /// `unsupported`, `overflow`; `graph-invalid` is a bug of a pass.
    pub fn plan(&self, graph: LevelGraph) -> Result<Planned> {
        self.plan_observed(graph, &mut NoObserver)
    }

    /// [`plan`](Self::plan), with someone watching.
    ///
    /// # Errors
    /// As for `plan`.
    pub fn plan_observed(&self, mut graph: LevelGraph, observer: &mut dyn Observer) -> Result<Planned> {
        if self.pipeline.passes.is_empty() {
            return Ok(Planned { plan: lower(&graph, &self.target, None)?, decisions: Vec::new() });
        }
        let literal = literal_totals(&graph, &self.target)?;
        let decisions = self.pipeline.run(&mut graph, &self.target, observer)?;
        let plan = lower(&graph, &self.target, Some(literal))?;
        if cfg!(debug_assertions) {
            plan.verify()?;
        }
        Ok(Planned { plan, decisions })
    }
}

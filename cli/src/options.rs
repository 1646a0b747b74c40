//! Options that several commands share.

use crate::backends::BackendName;
use crate::cuda::CudaOptions;
use crate::ui::Ui;
use levelfold::backend::Backend;
use levelfold::graph::LevelGraph;
use levelfold::{Engine, EngineOptions, Error, ErrorCode, OptLevel, Plan, Prepared};
use std::str::FromStr;

/// Where and how plans run.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct RunOptions {
    /// The backend that runs the plan (see `levelfold backends`)
    #[arg(long, value_enum, default_value_t = BackendName::Cpu, hide_possible_values = true, value_name = "NAME")]
    pub(crate) backend: BackendName,

    /// Threads of the cpu backend; all cores without it. Results have the same bits for any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) threads: Option<u32>,

    /// The most memory for inputs, tables, outputs, arena and scratch together: bytes, or with K, M, G, T (powers of 1024)
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory_limit: Option<ByteSize>,

    #[command(flatten)]
    pub(crate) cuda: CudaOptions,
}

/// How plans are made.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct PlanOptions {
    /// Optimization: 0 runs the literal program, 1 removes copies and keeps every bit, 2 may reassociate [default: 1]
    #[arg(short = 'O', long = "opt-level", value_name = "LEVEL")]
    pub(crate) opt_level: Option<OptLevel>,

    /// Leaves a pass out; may be given several times
    #[arg(long, value_name = "PASS")]
    pub(crate) disable_pass: Vec<String>,
}

impl PlanOptions {
    /// What was said, or the default.
    pub(crate) fn opt_level(&self) -> OptLevel {
        self.opt_level.unwrap_or_default()
    }

    /// Whether the command line says anything about how plans are made.
    pub(crate) fn are_given(&self) -> bool {
        self.opt_level.is_some() || !self.disable_pass.is_empty()
    }
}

impl RunOptions {
    /// The engine of these options; where the backend is for the program to choose, it says which.
    ///
    /// # Errors
    /// `backend-unavailable`.
    pub(crate) fn engine<'a>(&self, plan: &PlanOptions, memory_limit: Option<u64>, ui: &'a Ui) -> Result<ChosenEngine<'a>, Error> {
        let engine = |backend: Box<dyn Backend>| {
            Engine::with_options(backend, EngineOptions { opt: plan.opt_level(), without: plan.disable_pass.clone(), memory_limit })
        };
        let settled = self.backend.settled(&self.cuda, ui);
        let instead = match (self.backend, settled) {
            (BackendName::Auto, BackendName::Cuda) => Some(engine(BackendName::Cpu.open(self.threads, &self.cuda)?)),
            _ => None,
        };
        Ok(ChosenEngine { engine: engine(settled.open(self.threads, &self.cuda)?), instead, ui })
    }
}

/// An engine, and where it was chosen by the program the one that takes its place when it cannot run what it is given.
pub(crate) struct ChosenEngine<'a> {
    engine: Engine,
    instead: Option<Engine>,
    ui: &'a Ui,
}

impl ChosenEngine<'_> {
    /// The name of the backend.
    pub(crate) fn backend(&self) -> String {
        self.engine.backend().target().name.to_string()
    }

    /// Frees what dropped executables left for later ones, but for so many bytes.
    pub(crate) fn keep_at_most(&self, bytes: u64) {
        self.engine.backend().keep_at_most(bytes);
    }

    /// Plans and compiles a graph. A backend that the program chose may turn out not to run it: the other one does then, for good, and it is said.
    ///
    /// # Errors
    /// As for [`Engine::prepare_graph`].
    pub(crate) fn prepare(&mut self, graph: LevelGraph) -> Result<Prepared, Error> {
        let Some(instead) = self.instead.take() else { return self.engine.prepare_graph(graph) };
        match self.engine.prepare_graph(graph.clone()) {
            Err(error) if error.code() == ErrorCode::Unsupported => {
                self.ui.note(format_args!("backend: cpu after all ({})", error.message()));
                self.engine = instead;
                self.engine.prepare_graph(graph)
            }
            prepared => {
                self.instead = Some(instead);
                prepared
            }
        }
    }

    /// Compiles a plan that was made for a graph.
    ///
    /// # Errors
    /// As for [`Engine::prepare_plan`].
    pub(crate) fn prepare_plan(&mut self, plan: Plan, graph: &LevelGraph) -> Result<Prepared, Error> {
        if let Some(instead) = self.instead.take_if(|instead| instead.backend().target().name == plan.target) {
            self.ui.note("backend: cpu after all (the plan is for it)");
            self.engine = instead;
        }
        self.engine.prepare_plan(plan, graph.tables().iter().map(|table| table.segments.clone()).collect())
    }
}

/// A number of bytes, written as `4096`, `64K`, `512M`, `2G` or `1T`: suffixes are powers of 1024, and `KiB`, `KB` and `k` mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, unit) = text.split_at(digits);
        let bad = || {
            Error::new(ErrorCode::Option, format!("`{text}` is not a number of bytes"))
                .help("write for instance 4096, 64K, 512M or 2G; the suffixes are powers of 1024")
        };
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) || (shift == 0 && number.contains('.')) {
            return Err(bad());
        }
        let too_large = || Error::new(ErrorCode::Overflow, format!("{text} is more than 64 bits hold"));
        let unit = 1u128 << shift;
        let mut bytes = whole.parse::<u128>().map_err(|_| too_large())?.checked_mul(unit).ok_or_else(too_large)?;
        if !fraction.is_empty() {
            let scale = 10u128.checked_pow(u32::try_from(fraction.len()).unwrap_or(u32::MAX)).ok_or_else(bad)?;
            bytes += fraction.parse::<u128>().map_err(|_| bad())?.checked_mul(unit).ok_or_else(bad)? / scale;
        }
        u64::try_from(bytes).map(ByteSize).map_err(|_| too_large())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_are_powers_of_1024() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64K", 65536), ("1.5k", 1536), ("512MiB", 536_870_912), ("2gb", 2_147_483_648), ("1T", 1 << 40)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1x", "1.5", "1..5K", ".5K", "1 G", "99999999999T", "340282366920938463463374607431768211456"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}

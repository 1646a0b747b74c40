//! The backends that this build knows: an explicit list, and the command that prints it.

use crate::failure::CliResult;
use crate::ui::Ui;
use levelfold::backend::{Backend, Target};
use levelfold::{Error, ErrorCode};
use levelfold_cpu::CpuBackend;
use levelfold_reference::ReferenceBackend;
use serde::Serialize;

/// Lists the backends, and why one cannot be used
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold backends
  levelfold backends --json")]
pub(crate) struct BackendsArgs {
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A backend that this command knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BackendName {
    /// Every core, vector code
    Cpu,
    /// One thread, literal and slow: what the others are held against
    Reference,
    /// Not in this version
    Cuda,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    available: bool,
    about: &'static str,
}

const NO_CUDA: &str = "this version has no CUDA backend";

impl BackendName {
    /// Every backend, in the order in which they are listed.
    pub(crate) const ALL: [BackendName; 3] = [BackendName::Cpu, BackendName::Reference, BackendName::Cuda];

    /// As it is given on the command line and stands in plans.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BackendName::Cpu => "cpu",
            BackendName::Reference => "reference",
            BackendName::Cuda => "cuda",
        }
    }

    /// A backend to run plans on: `threads` of them where it has several, all cores where nothing is said.
    ///
    /// # Errors
    /// `backend-unavailable`, with the reason. Another backend is never taken instead.
    pub(crate) fn open(self, threads: Option<u32>) -> Result<Box<dyn Backend>, Error> {
        match self {
            BackendName::Cpu => {
                let builder = CpuBackend::builder();
                let threads = threads.and_then(|threads| usize::try_from(threads).ok());
                Ok(Box::new(threads.map_or(builder.clone(), |threads| builder.threads(threads)).build()?))
            }
            BackendName::Reference => Ok(Box::new(ReferenceBackend::new())),
            BackendName::Cuda => Err(Error::new(ErrorCode::BackendUnavailable, NO_CUDA).help("use --backend cpu")),
        }
    }

    /// What to plan for.
    ///
    /// # Errors
    /// `backend-unavailable`, where not even plans can be made.
    pub(crate) fn target(self) -> Result<Target, Error> {
        match self {
            BackendName::Cpu => Ok(levelfold_cpu::target()),
            BackendName::Reference | BackendName::Cuda => Ok(self.open(None)?.target().clone()),
        }
    }

    fn row(self) -> Row {
        let (available, about) = match self {
            BackendName::Cpu => (true, "every core, vector code; the default"),
            BackendName::Reference => (true, "one thread, literal and slow: what the others are held against"),
            BackendName::Cuda => (false, NO_CUDA),
        };
        Row { name: self.name(), available, about }
    }
}

pub(crate) fn run(args: BackendsArgs, ui: &Ui) -> CliResult {
    let rows = BackendName::ALL.map(BackendName::row);
    if args.json {
        return ui.print_json(&rows);
    }
    let mut text = String::new();
    for row in rows {
        let state = if row.available { "available" } else { "unavailable" };
        text += &format!("{:<10} {state:<12} {}\n", row.name, row.about);
    }
    ui.print(text)
}

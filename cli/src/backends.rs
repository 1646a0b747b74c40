//! The backends that this build knows: an explicit list, and the command that prints it.

use crate::failure::CliResult;
use crate::ui::Ui;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendName {
    /// Threads and vector code.
    Cpu,
    /// One thread, literal: the oracle.
    Reference,
    /// Not in this version.
    Cuda,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    available: bool,
    about: &'static str,
}

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

    fn row(self) -> Row {
        let (available, about) = match self {
            BackendName::Cpu => (true, "every core, vector code; the default"),
            BackendName::Reference => (true, "one thread, literal and slow: what the others are held against"),
            BackendName::Cuda => (false, "this version has no CUDA backend"),
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

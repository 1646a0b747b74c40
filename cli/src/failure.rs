//! How a command ends: its exit code, and what is said about it.

use crate::ui::Ui;
use levelfold::{Error, ErrorCode};
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

/// What a command gives back.
pub(crate) type CliResult<T = ()> = Result<T, Failure>;

/// Why a command did not come to a good end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong: printed, exit 1.
    Error(Error),
    /// The command ran, and its answer is no; the command said why. Exit 1.
    Verdict,
    /// Options that make no sense together, which clap could not see: printed, exit 2.
    Usage(String),
    /// Whoever read stdout has seen enough: nothing is printed, exit 0.
    ClosedPipe,
    /// Ctrl-C: exit 130.
    Interrupted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// An error of the `file` kind: what could not be done with which file, and what the system says.
pub(crate) fn file_error(doing: &str, path: &Path, cause: impl Display) -> Error {
    Error::new(ErrorCode::File, format!("cannot {doing} {}: {cause}", path.display()))
}

/// Prints what there is to print, and gives the exit code.
pub(crate) fn exit_code(result: CliResult, ui: &Ui) -> ExitCode {
    match result {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Error(error)) => {
            ui.error(&error);
            ExitCode::from(1)
        }
        Err(Failure::Verdict) => ExitCode::from(1),
        Err(Failure::Usage(message)) => {
            ui.error(&message);
            ExitCode::from(2)
        }
        Err(Failure::Interrupted) => {
            ui.error(&"interrupted");
            ExitCode::from(130)
        }
    }
}

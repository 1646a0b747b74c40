//! What the command says, and where: data to stdout, errors, remarks and progress to stderr.
//!
//! Progress is drawn only on a terminal. A closed stdout ends the command quietly ([`Failure::ClosedPipe`]); any other failure to write is
//! an error. Ctrl-C ends the process at once, unless there are temporary files ([`Held`]): then it sets a flag that long work asks for
//! ([`Ui::check_interrupt`]), so that they are removed on the way out; a second Ctrl-C does not wait for that.

use crate::failure::{CliResult, Failure};
use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use levelfold::{Error, ErrorCode};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// When to color.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Something that has to be removed before the process ends: while there is one, Ctrl-C waits for the work to hear of it.
pub(crate) struct Held(());

impl Held {
    pub(crate) fn new() -> Self {
        HELD.fetch_add(1, Ordering::SeqCst);
        Held(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The streams of the command.
#[derive(Clone)]
pub(crate) struct Ui {
    color: bool,
    quiet: bool,
    interrupted: Arc<AtomicBool>,
}

impl Ui {
    /// Streams for these options. NO_COLOR counts when it is set and not empty.
    pub(crate) fn new(color: ColorChoice, quiet: bool) -> Self {
        let color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        Ui { color, quiet, interrupted: Arc::new(AtomicBool::new(false)) }
    }

    /// From here on Ctrl-C (and a request to terminate) ends the process with 130, or is answered by
    /// [`check_interrupt`](Self::check_interrupt) where there is something to remove first.
    pub(crate) fn watch_for_interrupts(&self) -> CliResult {
        let ui = self.clone();
        let handler = move || {
            let again = ui.interrupted.swap(true, Ordering::SeqCst);
            if again || HELD.load(Ordering::SeqCst) == 0 {
                if !again {
                    ui.error(&"interrupted");
                }
                std::process::exit(130);
            }
        };
        ctrlc::set_handler(handler).map_err(|cause| Error::new(ErrorCode::Internal, format!("cannot listen for Ctrl-C: {cause}")).into())
    }

    /// An error once Ctrl-C was pressed. Long work asks between its pieces.
    pub(crate) fn check_interrupt(&self) -> CliResult {
        if self.interrupted.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
    }

    /// Writes data to stdout.
    pub(crate) fn write(&self, bytes: &[u8]) -> CliResult {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|cause| match cause.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Error::new(ErrorCode::File, format!("cannot write to stdout: {cause}")).into(),
        })
    }

    /// Writes text to stdout, ending in exactly one line break.
    pub(crate) fn print(&self, text: impl Display) -> CliResult {
        let mut text = text.to_string();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.write(text.as_bytes())
    }

    /// Writes a value to stdout as JSON, over several lines.
    pub(crate) fn print_json(&self, value: &impl serde::Serialize) -> CliResult {
        let text = serde_json::to_string_pretty(value)
            .map_err(|cause| Error::new(ErrorCode::Internal, format!("a result cannot be written as JSON: {cause}")))?;
        self.print(text)
    }

    /// A remark on stderr, unless `--quiet`.
    pub(crate) fn note(&self, text: impl Display) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// Something to look at, on stderr, unless `--quiet`.
    pub(crate) fn warn(&self, text: impl Display) {
        if !self.quiet {
            self.say(format_args!("{} {text}", self.styled("warning:", AnsiColor::Yellow)));
        }
    }

    /// An error, on stderr.
    pub(crate) fn error(&self, error: &dyn Display) {
        self.say(format_args!("{} {error}", self.styled("error:", AnsiColor::Red)));
    }

    /// A progress bar over `total` units of work; drawn only on a terminal, and not with `--quiet`.
    pub(crate) fn progress(&self, total: u64, what: &str) -> ProgressBar {
        let target = if self.quiet || !io::stderr().is_terminal() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target).with_message(what.to_owned());
        match ProgressStyle::with_template("{msg} [{bar:30}] {percent}% {eta}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    fn styled(&self, word: &str, color: AnsiColor) -> String {
        if !self.color {
            return word.to_owned();
        }
        let style = Style::new().bold().fg_color(Some(color.into()));
        format!("{style}{word}{style:#}")
    }

    /// A stderr that cannot be written to leaves nobody to tell.
    fn say(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

//! The `levelfold` command.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 it worked, 1 it failed (bad files included), 2 the command line makes no
//! sense, 130 interrupted.

mod backends;
mod bench;
mod check;
mod columns;
mod cuda;
mod diff;
mod embed;
mod execute;
mod explain;
mod failure;
mod input;
mod memory;
mod options;
mod output;
mod params;
mod run;
mod spec_file;
mod table;
mod text;
mod ui;

use clap::{CommandFactory, Parser, Subcommand};
use failure::CliResult;
use std::process::ExitCode;
use ui::{ColorChoice, Ui};

/// Folds hierarchies of vectors, level by level: plans, runs, explains and measures.
#[derive(Parser)]
#[command(name = "levelfold", version, propagate_version = true, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "\
Examples:
  levelfold explain docs/examples/text.json             what will run, and why
  levelfold run docs/examples/text.json --bind char=chars.npy --out folded.safetensors
  levelfold bench --workload text                       backends and optimization levels, side by side

Exit codes: 0 it worked, 1 it failed, 2 the command line makes no sense, 130 interrupted.")]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// When to color what goes to stderr
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    color: ColorChoice,

    /// Neither progress nor remarks on stderr; errors still
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Embed(embed::EmbedArgs),
    Run(run::RunArgs),
    Explain(explain::ExplainArgs),
    Check(check::CheckArgs),
    Diff(diff::DiffArgs),
    Bench(bench::BenchArgs),
    Backends(backends::BackendsArgs),
    Completions(CompletionsArgs),
}

/// Prints a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  levelfold completions bash > ~/.local/share/bash-completion/completions/levelfold")]
struct CompletionsArgs {
    /// For which shell
    shell: clap_complete::Shell,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new(cli.color, cli.quiet);
    let result = ui.watch_for_interrupts().and_then(|()| dispatch(cli.command, &ui));
    failure::exit_code(result, &ui)
}

fn dispatch(command: Command, ui: &Ui) -> CliResult {
    match command {
        Command::Embed(args) => embed::run(args, ui),
        Command::Run(args) => run::run(args, ui),
        Command::Explain(args) => explain::run(args, ui),
        Command::Check(args) => check::run(args, ui),
        Command::Diff(args) => diff::run(args, ui),
        Command::Bench(args) => bench::run(args, ui),
        Command::Backends(args) => backends::run(args, ui),
        Command::Completions(args) => completions(args, ui),
    }
}

fn completions(args: CompletionsArgs, ui: &Ui) -> CliResult {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "levelfold", &mut script);
    ui.write(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

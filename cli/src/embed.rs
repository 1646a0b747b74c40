//! `levelfold embed`: from text to vectors. Its own branch fills this file.

use crate::failure::CliResult;
use crate::ui::Ui;
use levelfold::{Error, ErrorCode};

/// Embeds text, level by level
#[derive(clap::Args)]
pub(crate) struct EmbedArgs {}

pub(crate) fn run(_args: EmbedArgs, _ui: &Ui) -> CliResult {
    Err(Error::new(ErrorCode::Unsupported, "this build has no `embed`").into())
}

//! Rounds at the pace of another program, so that its own measurements stand between them.
//!
//! Stdout is one JSON object a line: `ready` once results are checked and everything is warm, then a `round` for each line that came in on stdin,
//! and at the end of stdin the whole `report`.

use super::bandwidth::Stream;
use super::contender::Contender;
use super::report::Report;
use super::trial::{Streams, Trial};
use crate::execute::Input;
use crate::failure::CliResult;
use crate::ui::Ui;
use levelfold::{Error, ErrorCode};
use serde_json::{Value, json};
use std::io::BufRead;

/// As many rounds as there are lines on stdin, and a last look at the results.
pub(super) fn measure(trial: &Trial<'_>, contenders: &mut [Contender], inputs: &[Input<'_>], stream: &mut Stream) -> CliResult<Streams> {
    let mut streams = Streams::default();
    stream.measure();
    let names: Vec<String> = contenders.iter().map(|contender| contender.config.to_string()).collect();
    say(trial.ui, &json!({ "event": "ready", "contenders": names }))?;
    for (round, line) in (0..).zip(std::io::stdin().lock().lines()) {
        line.map_err(|cause| Error::new(ErrorCode::File, format!("cannot read stdin: {cause}")))?;
        let seconds = trial.round(round, contenders, inputs, stream, &mut streams)?;
        let last = |of: fn(&super::bandwidth::Bandwidth) -> f64| streams.last().map(of);
        let event = json!({
            "event": "round",
            "seconds": seconds,
            "read_bytes_per_second": last(|stream| stream.read),
            "write_bytes_per_second": last(|stream| stream.write),
            "copy_bytes_per_second": last(|stream| stream.copy),
        });
        say(trial.ui, &event)?;
    }
    for contender in contenders {
        contender.check_once_more(inputs)?;
    }
    Ok(streams)
}

/// The last line.
pub(super) fn finish(ui: &Ui, report: &Report) -> CliResult {
    say(ui, &json!({ "event": "report", "report": report }))
}

fn say(ui: &Ui, value: &Value) -> CliResult {
    ui.print(value)
}

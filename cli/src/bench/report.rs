//! What a benchmark found, as a table and as JSON.

use super::Streams;
use super::bandwidth::last_cache_bytes;
use super::contender::Contender;
use crate::columns::{Columns, bytes, seconds, three_digits};
use levelfold::numerics::count_to_f64;
use levelfold::{OptLevel, Plan};
use serde::Serialize;

/// Everything that was measured.
#[derive(Serialize)]
pub(super) struct Report {
    workload: String,
    seed: u64,
    inputs: Vec<String>,
    levels: Vec<String>,
    machine: Machine,
    bandwidth: BandwidthFacts,
    /// Rows of the copy that was checked instead, where checking all of them takes too long.
    checked_rows: Option<u64>,
    /// The most that the process held while it prepared and checked; the buffer of the bandwidth measurement comes on top.
    peak_memory_bytes: Option<u64>,
    rows: Vec<RowFacts>,
}

#[derive(Serialize)]
struct Machine {
    os: &'static str,
    arch: &'static str,
    cpu: Option<String>,
    threads: usize,
    last_cache_bytes: Option<u64>,
}

#[derive(Serialize)]
struct BandwidthFacts {
    buffer_bytes: usize,
    read_bytes_per_second: Spread,
    write_bytes_per_second: Spread,
}

#[derive(Serialize)]
struct Spread {
    p10: f64,
    median: f64,
    p90: f64,
}

/// One contender.
#[derive(Serialize)]
pub(super) struct RowFacts {
    backend: &'static str,
    opt: String,
    samples: usize,
    seconds: Spread,
    /// Bytes read and written by all steps of the plan.
    moved_bytes: u64,
    copied_bytes: u64,
    bytes_per_second: f64,
    /// Moved bytes a second, of the read bandwidth of memory.
    of_bandwidth: f64,
    /// The least time that memory allows for this result: needed input bytes at read bandwidth, output bytes at write bandwidth.
    floor_seconds: f64,
    /// The median, of the floor: 1 is as fast as memory allows, more is slower.
    of_floor: f64,
    /// How much faster than the same backend at -O0.
    over_literal: Option<f64>,
    arena_bytes: u64,
    scratch_bytes: u64,
    /// Growth of the process up to its first run, outputs included.
    grown_bytes: Option<u64>,
    hash: String,
    check: &'static str,
    /// The largest difference from the reference backend at -O0, relative to the same fold of the magnitudes.
    error: f64,
    /// The same from a fold in f64.
    error_to_f64: f64,
}

impl RowFacts {
    pub(super) fn of(contender: &Contender, all: &[Contender], streams: &Streams) -> Self {
        let samples = contender.samples();
        let plan = contender.prepared.plan();
        let floor = plan.floor();
        let read = streams.read.median();
        let floor_seconds = count_to_f64(floor.read) / read + count_to_f64(floor.written) / streams.write.median();
        let bytes_per_second = count_to_f64(plan.totals.moved_bytes()) / samples.median();
        let literal = all.iter().find(|other| other.config.backend == contender.config.backend && other.config.opt == OptLevel::O0);
        RowFacts {
            backend: contender.config.backend.name(),
            opt: contender.config.opt.to_string(),
            samples: samples.len(),
            seconds: Spread { p10: samples.quantile(0.1), median: samples.median(), p90: samples.quantile(0.9) },
            moved_bytes: plan.totals.moved_bytes(),
            copied_bytes: plan.totals.copied_bytes,
            bytes_per_second,
            of_bandwidth: bytes_per_second / read,
            floor_seconds,
            of_floor: samples.median() / floor_seconds,
            over_literal: literal.map(|literal| literal.samples().median() / samples.median()),
            arena_bytes: plan.totals.arena_bytes,
            scratch_bytes: contender.prepared.scratch_bytes(),
            grown_bytes: contender.grown,
            hash: format!("{:016x}", contender.hash),
            check: contender.judgement.verdict.name(),
            error: contender.judgement.from_reference,
            error_to_f64: contender.judgement.from_exact,
        }
    }
}

impl Report {
    pub(super) fn new(workload: String, seed: u64, plan: Option<&Plan>, streams: &Streams, rows: Vec<RowFacts>) -> Self {
        let spread = |samples: &super::Samples| Spread { p10: samples.quantile(0.1), median: samples.median(), p90: samples.quantile(0.9) };
        Report {
            workload,
            seed,
            inputs: plan.map_or(Vec::new(), |plan| {
                plan.inputs().map(|(_, buffer)| format!("{} {}[{}, {}]", buffer.name, buffer.dtype, buffer.rows, buffer.features)).collect()
            }),
            levels: plan.map_or(Vec::new(), |plan| {
                plan.tables.iter().map(|table| format!("{} {} (longest {})", table.name, table.segments, table.longest)).collect()
            }),
            machine: Machine {
                os: std::env::consts::OS,
                arch: std::env::consts::ARCH,
                cpu: cpu_name(),
                threads: streams.threads,
                last_cache_bytes: last_cache_bytes(),
            },
            bandwidth: BandwidthFacts {
                buffer_bytes: streams.bytes,
                read_bytes_per_second: spread(&streams.read),
                write_bytes_per_second: spread(&streams.write),
            },
            checked_rows: None,
            peak_memory_bytes: None,
            rows,
        }
    }

    /// Only so many rows were checked.
    pub(super) fn checked_on(self, rows: Option<u64>) -> Self {
        Report { checked_rows: rows, ..self }
    }

    /// The most memory that the process held.
    pub(super) fn peak_memory(self, bytes: Option<u64>) -> Self {
        Report { peak_memory_bytes: bytes, ..self }
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        format!("{}\n\n{}\n{}", self.head(), self.columns(), self.notes().join("\n"))
    }

    /// For a document.
    pub(super) fn markdown(&self) -> String {
        format!("{}\n\n{}\n{}", self.head().replace('\n', "  \n"), self.columns().markdown(), self.notes().join("  \n"))
    }

    fn head(&self) -> String {
        let Spread { p10, median, p90 } = &self.bandwidth.read_bytes_per_second;
        let write = &self.bandwidth.write_bytes_per_second;
        let gigabytes = |rate: f64| three_digits(rate / 1e9);
        format!(
            "workload {} (seed {}): {}; segments: {}\nmachine  {}, {} {}, {} thread(s)\nmemory   read {} GB/s (p10-p90 {}-{}), write {} GB/s (p10-p90 {}-{}), over {}, before every sample",
            self.workload,
            self.seed,
            self.inputs.join(", "),
            self.levels.join(", "),
            self.machine.cpu.as_deref().unwrap_or("unknown processor"),
            self.machine.arch,
            self.machine.os,
            self.machine.threads,
            gigabytes(*median),
            gigabytes(*p10),
            gigabytes(*p90),
            gigabytes(write.median),
            gigabytes(write.p10),
            gigabytes(write.p90),
            bytes(u64::try_from(self.bandwidth.buffer_bytes).unwrap_or(u64::MAX)),
        )
    }

    fn columns(&self) -> Columns {
        let mut columns = Columns::new(&[
            "backend",
            "opt",
            "samples",
            "median",
            "p10-p90",
            "moved",
            "copied",
            "GB/s",
            "floor",
            "of floor",
            "vs -O0",
            "arena+scratch",
            "grown",
            "check",
            "error",
            "from f64",
            "hash",
        ]);
        for row in &self.rows {
            columns.row([
                row.backend.to_owned(),
                row.opt.clone(),
                row.samples.to_string(),
                seconds(row.seconds.median),
                format!("{} - {}", seconds(row.seconds.p10), seconds(row.seconds.p90)),
                bytes(row.moved_bytes),
                bytes(row.copied_bytes),
                three_digits(row.bytes_per_second / 1e9),
                seconds(row.floor_seconds),
                format!("{:.0}%", 100.0 * row.of_floor),
                row.over_literal.map_or_else(|| "-".into(), |times| format!("{}x", three_digits(times))),
                bytes(row.arena_bytes.saturating_add(row.scratch_bytes)),
                row.grown_bytes.map_or_else(|| "-".into(), bytes),
                row.check.to_owned(),
                relative(row.error),
                relative(row.error_to_f64),
                row.hash[..8].to_owned(),
            ]);
        }
        columns
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = [
            "p10-p90: the tenth and the ninetieth percentile of the samples, which were taken in rounds of varying order.",
            "moved: bytes that the plan's steps read and write, a looked-up row each time it is looked up; GB/s: of these.",
            "floor: the least time for this result, needed inputs and segments at read, outputs at write bandwidth; of floor: the median, 100% is ideal.",
            "grown: the peak of the process up to the end of the first run, outputs included; freed memory that is used again does not count.",
            "check: bits = every bit of the reference backend's literal program; plan bits = reassociated, every bit of the reference backend's run of",
            "the same plan, within the bound against f64. error, from f64: the largest difference from the reference backend at -O0, and from f64,",
            "relative to the same fold of the magnitudes.",
        ]
        .map(str::to_owned)
        .into();
        if let Some(rows) = self.checked_rows {
            notes.push(format!(
                "Checked on a copy of {rows} rows with the same seed, because the reference backend takes too long over all; over all rows only the bits of -O0 and -O1 were compared, with each other."
            ));
        }
        if let Some(peak) = self.peak_memory_bytes {
            notes.push(format!("The process held {} at most, inputs and the reference backend's results included.", bytes(peak)));
        }
        let least = self.rows.iter().map(|row| row.moved_bytes).min().unwrap_or(0);
        if let Some(cache) = self.machine.last_cache_bytes.filter(|cache| least < cache.saturating_mul(2)) {
            notes.push(format!("The last cache holds {}: part of the data may come from there, and not from memory.", bytes(cache)));
        }
        notes
    }
}

/// A relative error: exactly zero is `0`.
fn relative(error: f64) -> String {
    if error == 0.0 { "0".into() } else { format!("{error:.1e}") }
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

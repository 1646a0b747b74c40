//! What a benchmark found: as JSON, and as tables.

use super::bandwidth::{Bandwidth, last_cache_bytes};
use super::compare::Comparison;
use super::contender::Contender;
use super::stats::Samples;
use super::trial::Streams;
use crate::columns::{Columns, bytes, seconds, three_digits};
use levelfold::numerics::count_to_f64;
use levelfold::plan::Buffer;
use levelfold::{OptLevel, Plan};
use serde::{Deserialize, Serialize};

/// What a report calls itself.
pub(super) const FORMAT: &str = "levelfold bench";

/// Of the JSON form: raised whenever a field changes its meaning.
pub(super) const VERSION: u32 = 1;

/// Everything that was measured in one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    /// [`FORMAT`].
    pub(super) format: String,
    /// [`VERSION`].
    pub(super) version: u32,
    pub(super) machine: Machine,
    pub(super) benches: Vec<Bench>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) comparison: Option<Comparison>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Machine {
    pub(super) os: String,
    pub(super) arch: String,
    pub(super) cpu: Option<String>,
    /// Of the CPU backend, and of the bandwidth measurement.
    pub(super) threads: usize,
    /// That the process may run on.
    pub(super) cores: usize,
    pub(super) memory_bytes: Option<u64>,
    pub(super) last_cache_bytes: Option<u64>,
}

/// One workload, by every contender.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bench {
    pub(super) workload: String,
    pub(super) seed: u64,
    pub(super) layout: String,
    pub(super) inputs: Vec<String>,
    pub(super) levels: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) bandwidth: BandwidthFacts,
    /// Rows of the copy that was checked instead, where checking all of them takes too long.
    pub(super) checked_rows: Option<u64>,
    /// The most that the process held while it prepared and checked; the buffer of the bandwidth measurement comes on top.
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) rows: Vec<Row>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BandwidthFacts {
    pub(super) buffer_bytes: usize,
    pub(super) read_bytes_per_second: Spread,
    pub(super) write_bytes_per_second: Spread,
    /// Bytes read and bytes written together.
    pub(super) copy_bytes_per_second: Spread,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spread {
    pub(super) p10: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
}

/// One contender.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    pub(super) backend: String,
    pub(super) opt: String,
    pub(super) samples: usize,
    pub(super) seconds: Spread,
    /// Seconds inside the steps of the plan, by the clock of a device where there is one.
    pub(super) kernel_seconds: Spread,
    /// Seconds in which data moved to a device and back. What is left of `seconds` is binding and checking.
    pub(super) transfer_seconds: Spread,
    pub(super) uploaded_bytes: u64,
    pub(super) downloaded_bytes: u64,
    /// Bytes read and written by all steps of the plan.
    pub(super) moved_bytes: u64,
    pub(super) copied_bytes: u64,
    pub(super) bytes_per_second: f64,
    /// Moved bytes a second, of the read bandwidth of memory.
    pub(super) of_bandwidth: f64,
    /// What has to be read for this result: every needed input and table once.
    pub(super) floor_read_bytes: u64,
    /// What has to be written: every output once.
    pub(super) floor_written_bytes: u64,
    /// The least time that memory allows for this result: the one at read bandwidth, the other at write bandwidth.
    pub(super) floor_seconds: f64,
    /// Of every sample, with the bandwidth that was measured before it: 1 is as fast as memory allows, more is slower.
    pub(super) time_over_floor: Spread,
    /// The floor divided by the median: 1 is as fast as memory allows, less is slower.
    pub(super) share_of_floor: f64,
    /// How much faster than the same backend at -O0.
    pub(super) over_literal: Option<f64>,
    pub(super) arena_bytes: u64,
    pub(super) scratch_bytes: u64,
    /// Growth of the process up to its first run, outputs included.
    pub(super) grown_bytes: Option<u64>,
    pub(super) hash: String,
    pub(super) check: String,
    /// The largest difference from the reference backend at -O0, relative to the same fold of the magnitudes.
    pub(super) error: f64,
    /// The same from a fold in f64.
    pub(super) error_to_f64: f64,
}

impl Spread {
    pub(super) fn of(samples: &Samples) -> Self {
        Spread { p10: samples.quantile(0.1), median: samples.median(), p90: samples.quantile(0.9) }
    }
}

impl Machine {
    /// This one.
    pub(super) fn here(threads: usize) -> Self {
        let info = |file: &str, field: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(field))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kilobytes = info("/proc/meminfo", "MemTotal").and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok());
        Machine {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpu: info("/proc/cpuinfo", "model name"),
            threads,
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            memory_bytes: kilobytes.and_then(|kilobytes| kilobytes.checked_mul(1024)),
            last_cache_bytes: last_cache_bytes(),
        }
    }

    pub(super) fn name(&self) -> String {
        format!(
            "{}, {} {}, {} core(s), {} thread(s)",
            self.cpu.as_deref().unwrap_or("unknown processor"),
            self.arch,
            self.os,
            self.cores,
            self.threads
        )
    }
}

impl Row {
    pub(super) fn of(contender: &Contender, all: &[Contender], streams: &Streams) -> Self {
        let times = contender.samples(|sample| sample.seconds);
        let plan = contender.prepared.plan();
        let floor = plan.floor();
        let (needed, wanted) = (count_to_f64(floor.read), count_to_f64(floor.written));
        let typical = Bandwidth {
            read: streams.samples(|stream| stream.read).median(),
            write: streams.samples(|stream| stream.write).median(),
            copy: streams.samples(|stream| stream.copy).median(),
        };
        let floor_seconds = typical.floor(needed, wanted);
        let bytes_per_second = count_to_f64(plan.totals.moved_bytes()) / times.median();
        let literal = all.iter().find(|other| other.config.backend == contender.config.backend && other.config.opt == OptLevel::O0);
        Row {
            backend: contender.config.backend.name().to_owned(),
            opt: contender.config.opt.to_string(),
            samples: times.len(),
            seconds: Spread::of(&times),
            kernel_seconds: Spread::of(&contender.samples(|sample| sample.in_steps)),
            transfer_seconds: Spread::of(&contender.samples(|sample| sample.in_transfers)),
            uploaded_bytes: contender.transferred[0],
            downloaded_bytes: contender.transferred[1],
            moved_bytes: plan.totals.moved_bytes(),
            copied_bytes: plan.totals.copied_bytes,
            bytes_per_second,
            of_bandwidth: bytes_per_second / typical.read,
            floor_read_bytes: floor.read,
            floor_written_bytes: floor.written,
            floor_seconds,
            time_over_floor: Spread::of(&contender.samples(|sample| finite(sample.seconds / sample.bandwidth.floor(needed, wanted)))),
            share_of_floor: finite(floor_seconds / times.median()),
            over_literal: literal.map(|literal| literal.samples(|sample| sample.seconds).median() / times.median()),
            arena_bytes: plan.totals.arena_bytes,
            scratch_bytes: contender.prepared.scratch_bytes(),
            grown_bytes: contender.grown,
            hash: format!("{:016x}", contender.hash),
            check: contender.judgement.verdict.name().to_owned(),
            error: finite(contender.judgement.from_reference),
            error_to_f64: finite(contender.judgement.from_exact),
        }
    }
}

/// What a bench was about: its name, its data, and how that lay in memory.
pub(super) struct Subject<'a> {
    pub(super) workload: &'a str,
    pub(super) seed: u64,
    pub(super) layout: &'a str,
    pub(super) plan: &'a Plan,
}

impl Bench {
    pub(super) fn new(subject: &Subject<'_>, contenders: &[Contender], streams: &Streams, buffer_bytes: usize) -> Self {
        let shape = |buffer: &Buffer| format!("{} {}[{}, {}]", buffer.name, buffer.dtype, buffer.rows, buffer.features);
        let plan = subject.plan;
        Bench {
            workload: subject.workload.to_owned(),
            seed: subject.seed,
            layout: subject.layout.to_owned(),
            inputs: plan.inputs().map(|(_, buffer)| shape(buffer)).collect(),
            levels: plan.tables.iter().map(|table| format!("{} {} (longest {})", table.name, table.segments, table.longest)).collect(),
            outputs: plan.outputs().map(|(_, buffer)| shape(buffer)).collect(),
            bandwidth: BandwidthFacts {
                buffer_bytes,
                read_bytes_per_second: Spread::of(&streams.samples(|stream| stream.read)),
                write_bytes_per_second: Spread::of(&streams.samples(|stream| stream.write)),
                copy_bytes_per_second: Spread::of(&streams.samples(|stream| stream.copy)),
            },
            checked_rows: None,
            peak_memory_bytes: None,
            rows: contenders.iter().map(|contender| Row::of(contender, contenders, streams)).collect(),
        }
    }

    fn head(&self) -> String {
        let gigabytes = |Spread { p10, median, p90 }: &Spread| {
            format!("{} GB/s ({}-{})", three_digits(median / 1e9), three_digits(p10 / 1e9), three_digits(p90 / 1e9))
        };
        let layout = if self.layout == "row-major" { String::new() } else { format!(", {}", self.layout) };
        format!(
            "workload {} (seed {}{layout}): {}; segments: {}\nresults  {}\nmemory   read {}, write {}, copy {}, over {}, before every sample",
            self.workload,
            self.seed,
            self.inputs.join(", "),
            self.levels.join(", "),
            self.outputs.join(", "),
            gigabytes(&self.bandwidth.read_bytes_per_second),
            gigabytes(&self.bandwidth.write_bytes_per_second),
            gigabytes(&self.bandwidth.copy_bytes_per_second),
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
            "kernels",
            "transfers",
            "moved",
            "copied",
            "GB/s",
            "floor",
            "time/floor",
            "share of floor",
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
                row.backend.clone(),
                row.opt.clone(),
                row.samples.to_string(),
                seconds(row.seconds.median),
                format!("{} - {}", seconds(row.seconds.p10), seconds(row.seconds.p90)),
                seconds(row.kernel_seconds.median),
                transfers(row),
                bytes(row.moved_bytes),
                bytes(row.copied_bytes),
                three_digits(row.bytes_per_second / 1e9),
                seconds(row.floor_seconds),
                format!("{}x", three_digits(row.seconds.median / row.floor_seconds)),
                format!("{:.0}%", 100.0 * row.share_of_floor),
                row.over_literal.map_or_else(|| "-".into(), |times| format!("{}x", three_digits(times))),
                bytes(row.arena_bytes.saturating_add(row.scratch_bytes)),
                row.grown_bytes.map_or_else(|| "-".into(), bytes),
                row.check.clone(),
                relative(row.error),
                relative(row.error_to_f64),
                row.hash.get(..8).unwrap_or(&row.hash).to_owned(),
            ]);
        }
        columns
    }

    fn notes(&self, machine: &Machine) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(rows) = self.checked_rows {
            notes.push(format!(
                "Checked on a copy of {rows} rows with the same seed, because the reference backend takes too long over all; over all rows only the bits of -O0 and -O1 were compared, with each other."
            ));
        }
        if let Some(peak) = self.peak_memory_bytes {
            notes.push(format!("The process held {} at most, inputs and the reference backend's results included.", bytes(peak)));
        }
        let least = self.rows.iter().map(|row| row.moved_bytes).min().unwrap_or(0);
        if let Some(cache) = machine.last_cache_bytes.filter(|cache| least < cache.saturating_mul(2)) {
            notes.push(format!("The last cache holds {}: part of the data may come from there, and not from memory.", bytes(cache)));
        }
        notes
    }
}

impl Report {
    pub(super) fn new(machine: Machine, benches: Vec<Bench>) -> Self {
        Report { format: FORMAT.to_owned(), version: VERSION, machine, benches, comparison: None }
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let benches = self.benches.iter().map(|bench| {
            let notes: String = bench.notes(&self.machine).iter().map(|note| format!("{note}\n")).collect();
            format!("{}\n\n{}\n{notes}", bench.head(), bench.columns())
        });
        let comparison = self.comparison.as_ref().map_or(String::new(), |comparison| format!("\n{}", comparison.text()));
        format!("machine  {}\n{}\n{}\n{comparison}", self.machine.name(), benches.collect::<Vec<_>>().join("\n"), LEGEND.join("\n"))
    }

    /// For a document.
    pub(super) fn markdown(&self) -> String {
        let benches = self.benches.iter().map(|bench| {
            let head = bench.head().replace('\n', "  \n");
            format!("{head}\n\n{}\n{}", bench.columns().markdown(), bench.notes(&self.machine).join("  \n"))
        });
        let comparison = self.comparison.as_ref().map_or(String::new(), |comparison| format!("\n\n{}", comparison.markdown()));
        format!("machine {}\n\n{}\n\n{}{comparison}", self.machine.name(), benches.collect::<Vec<_>>().join("\n"), LEGEND.join("  \n"))
    }
}

const LEGEND: [&str; 8] = [
    "p10-p90: the tenth and the ninetieth percentile of the samples, which were taken in rounds of varying order; GB/s in brackets: the same of memory.",
    "kernels: of the median, what the steps of the plan took; transfers: data on its way to a device and back. The rest is binding and checking.",
    "moved: bytes that the plan's steps read and write, a looked-up row each time it is looked up; GB/s: of these.",
    "floor: the least time for this result, needed inputs and segments at read, outputs at write bandwidth. time/floor: the median, 1.00x is as fast",
    "as memory allows. share of floor: the same the other way round, 100% is as fast as memory allows. Data in a cache may go beyond both.",
    "grown: the peak of the process up to the end of the first run, outputs included; freed memory that is used again does not count.",
    "check: bits = every bit of the reference backend's literal program; plan bits = reassociated, every bit of the reference backend's run of the",
    "same plan, and within the bound against f64. error, from f64: the largest difference from the reference at -O0, and from f64, of the magnitudes.",
];

/// JSON has neither infinities nor NaN: the largest number, where nothing had to be moved, or something has no magnitude.
fn finite(ratio: f64) -> f64 {
    if ratio.is_nan() { f64::MAX } else { ratio.clamp(f64::MIN, f64::MAX) }
}

/// Time and bytes, where there are any.
fn transfers(row: &Row) -> String {
    let moved = row.uploaded_bytes.saturating_add(row.downloaded_bytes);
    if moved == 0 { "-".into() } else { format!("{} ({})", seconds(row.transfer_seconds.median), bytes(moved)) }
}

/// A relative error: exactly zero is `0`.
fn relative(error: f64) -> String {
    if error == 0.0 { "0".into() } else { format!("{error:.1e}") }
}

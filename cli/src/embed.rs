//! `levelfold embed`: from text to a vector for every sentence, paragraph and document, and one for the whole corpus.
//!
//! `docs/embed.md` describes what it does and the file that it writes. The flow: [`source`] reads documents in batches that fit the memory
//! limit, [`text`](crate::text) cuts them, [`fold`] plans and runs each batch, [`store`] gathers the rows, and [`output`](crate::output)
//! writes the file.

mod fold;
mod machine;
mod model;
mod report;
mod request;
mod source;
mod store;

use crate::failure::{CliResult, Failure};
use crate::input::FileArray;
use crate::options::{PlanOptions, RunOptions};
use crate::output::{Header, Output};
use crate::table::{FileTable, Seeded, TablePath, UnitTable};
use crate::text::{Cut, CutOptions, InvalidUtf8, LineBreaks, Unit, cut};
use crate::ui::Ui;
use fold::{FoldTotals, Folded, Folder, Rows};
use indicatif::ProgressBar;
use levelfold::numerics::Value;
use levelfold::{DType, Error, ErrorCode, Reducer};
use model::Model;
use report::{LevelReport, PlanReport, Report, Seconds, rate};
use request::{Kept, ReduceList, Request, TextLevel};
use serde_json::json;
use source::{Batch, Document, Reader, Source, list};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use store::Store;

/// Embeds text: a vector for every sentence, paragraph and document, and one for the corpus
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold embed README.md docs/*.md
  levelfold embed docs --keep word,sentence --reduce word=mean,sentence=max --out docs.safetensors
  cat notes.txt | levelfold embed - --unit grapheme --json
  levelfold embed docs --model model.json --params model.safetensors --backend reference

The rows of characters come from a seed unless --table gives others: they tell characters apart, and mean nothing.
Levels, lowest first: char (or byte, grapheme), word, sentence, paragraph, document, corpus.")]
pub(crate) struct EmbedArgs {
    /// Text files, directories (walked; names that begin with a dot are left out), or - for standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// What the lowest level is made of
    #[arg(long, value_enum, default_value_t = Unit::Char)]
    unit: Unit,

    /// The levels to write, separated by commas; sentences and above without it
    #[arg(long, value_delimiter = ',', value_name = "LEVEL,…")]
    keep: Vec<String>,

    /// Features of a vector: 64, or what --table has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    features: Option<u32>,

    /// How rows are folded: one reducer for all levels, or LEVEL=REDUCER,… (mean, sum, max, var(ddof=1), median, …)
    #[arg(long, default_value = "mean", value_name = "REDUCER")]
    reduce: ReduceList,

    /// A table of rows of one's own (.safetensors or .npy), indexed by byte or code point; FILE.safetensors:NAME where it holds several
    #[arg(long, value_name = "FILE")]
    table: Option<TablePath>,

    /// A spec of text levels with encoders, instead of --reduce: its parameters come from --params
    #[arg(long, value_name = "SPEC.json", conflicts_with_all = ["reduce", "features"])]
    model: Option<PathBuf>,

    /// The parameters of the model's encoders, by their names, as .safetensors; the table too, where it holds one
    #[arg(long, value_name = "FILE", requires = "model")]
    params: Option<PathBuf>,

    /// Which table, where it is not one's own
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "table")]
    seed: u64,

    /// What a line break inside a paragraph means
    #[arg(long, value_enum, default_value_t = LineBreaks::End)]
    line_breaks: LineBreaks,

    /// What to do about bytes that are not UTF-8
    #[arg(long, value_enum, default_value_t = InvalidUtf8::Error)]
    invalid_utf8: InvalidUtf8,

    /// The file to write
    #[arg(long, short, default_value = "corpus.safetensors", value_name = "FILE")]
    out: PathBuf,

    /// Prints the report as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    run: RunOptions,

    #[command(flatten)]
    plan: PlanOptions,
}

/// Runs the command.
pub(crate) fn run(args: EmbedArgs, ui: &Ui) -> CliResult {
    let model = args.model.as_deref().map(|path| Model::open(path, args.unit)).transpose()?;
    let table = open_table(&args, model.as_ref())?;
    let usage = |error: Error| Failure::Usage(error.to_string());
    let kept = Kept::of(&args.keep, args.unit).map_err(usage)?;
    let (kept, reducers) = match &model {
        Some(model) => {
            (kept.in_model(model, !args.keep.is_empty(), args.unit).map_err(usage)?, model.reducers([const { Reducer::Mean }; 6]))
        }
        None => (kept, args.reduce.resolve(args.unit).map_err(usage)?),
    };
    let request = Request {
        unit: args.unit,
        kept,
        reducers,
        model: model.as_ref(),
        features: table.features(),
        memory_limit: args.run.memory_limit.map_or_else(machine::default_memory_limit, |limit| limit.0),
    };
    if args.out.as_os_str() == "-" {
        return Err(Failure::Usage("the output has to be a file: a table is printed to stdout".to_owned()));
    }
    let levels = match &table {
        UnitTable::Seeded(_) => DType::F32,
        UnitTable::File(table) => table.level_dtype(),
    };
    let report = match levels {
        DType::F64 => embed::<f64>(&args, &request, &table, ui),
        DType::F32 | DType::F16 | DType::BF16 | DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => {
            embed::<f32>(&args, &request, &table, ui)
        }
    }?;
    if report.replaced > 0 {
        ui.warn(format_args!("{} stretches of invalid UTF-8 were replaced by U+FFFD", report.replaced));
    }
    if report.empty_documents > 0 {
        let encoded = if model.as_ref().is_some_and(Model::encodes_documents) { ", before they are encoded" } else { "" };
        ui.warn(format_args!("{} documents are empty; their rows are zeros{encoded}", report.empty_documents));
    }
    if args.json { ui.print_json(&report) } else { ui.print(&report) }
}

fn open_table(args: &EmbedArgs, model: Option<&Model>) -> CliResult<UnitTable> {
    let said = args.features.and_then(|features| usize::try_from(features).ok());
    let features = model.map_or(said, |model| usize::try_from(model.features()).ok());
    // The table of a model may lie among its parameters.
    let with_params = match (model, &args.params, &args.table) {
        (Some(model), Some(params), None) => {
            let tensor = model.table_name();
            let is_there = FileArray::holds(params, tensor)?;
            is_there.then(|| TablePath { path: params.clone(), tensor: Some(tensor.to_owned()) })
        }
        (Some(_) | None, _, _) => None,
    };
    let Some(path) = args.table.as_ref().or(with_params.as_ref()) else {
        return Ok(UnitTable::Seeded(Seeded { seed: args.seed, features: features.unwrap_or(64) }));
    };
    if args.unit == Unit::Grapheme {
        return Err(Failure::Usage("a table is indexed by byte or code point: --table needs --unit char or --unit byte".to_owned()));
    }
    let table = UnitTable::File(FileTable::open(path)?);
    if let Some(features) = features.filter(|&features| features != table.features()) {
        let what = if model.is_some() { "the model's" } else { "--features" };
        let message = format!("{what} {features} contradicts the table, whose rows have {}", table.features());
        return Err(Failure::Usage(message));
    }
    Ok(table)
}

/// The text of a batch, unless a run under the memory limit asks for less.
const BATCH_BYTES: u64 = 32 << 20;

/// The work on one corpus.
struct Job<'a, T> {
    sources: &'a [Source],
    table: &'a UnitTable,
    folder: Folder<'a>,
    request: &'a Request<'a>,
    cut_options: CutOptions,
    threads: rayon::ThreadPool,
    store: Store,
    rows: Rows<T>,
    /// The rows of all documents, where the corpus is folded from them.
    documents: Vec<T>,
    batches: u64,
    /// The text of the next batch.
    target: u64,
    cut_time: Duration,
    write_time: Duration,
    bar: ProgressBar,
    ui: &'a Ui,
}

fn embed<T: Value>(args: &EmbedArgs, request: &Request<'_>, table: &UnitTable, ui: &Ui) -> CliResult<Report> {
    let began = Instant::now();
    let limit = request.memory_limit;
    let output = Output::create(&args.out)?;
    let sources = list(&args.paths, output.place(), ui)?;
    let metadata = metadata(args, request, &sources);
    // More names of files than a header takes are better refused now than after the work.
    Header::new(&metadata, Vec::new())?;
    let engine = args.run.engine(&args.plan, None, ui)?;
    let threads = args.run.threads.and_then(|threads| usize::try_from(threads).ok()).unwrap_or(0);
    let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let mut job = Job::<T> {
        sources: &sources,
        table,
        folder: Folder { engine, request, table, params: args.params.as_deref(), totals: FoldTotals::default() },
        request,
        cut_options: CutOptions {
            unit: args.unit,
            line_breaks: args.line_breaks,
            unit_sizes: request.kept.has(TextLevel::Unit),
            word_sizes: request.kept.has(TextLevel::Word),
        },
        threads: threads.map_err(|cause| Error::new(ErrorCode::BackendUnavailable, format!("cannot start threads: {cause}")))?,
        store: Store::new(request, output.spool_directory()),
        rows: Rows::new(),
        documents: Vec::new(),
        batches: 0,
        target: BATCH_BYTES.min(limit / 32),
        cut_time: Duration::ZERO,
        write_time: Duration::ZERO,
        bar: ui.progress(sources.iter().filter_map(Source::size).sum(), "embedding"),
        ui,
    };
    let mut reader = Reader::new(&sources, args.invalid_utf8, limit, ui);
    let mut read_time = Duration::ZERO;
    let mut counts = Counts::default();
    loop {
        let reading = Instant::now();
        let batch = reader.next_batch(job.target)?;
        read_time += reading.elapsed();
        let Some(batch) = batch else { break };
        counts.add(&batch);
        let streamed = batch.documents.iter().filter(|document| sources[document.source].size().is_none());
        job.bar.inc_length(streamed.map(|document| document.source_bytes).sum());
        job.batch(&batch)?;
        // What was cut twice, or repaired, was counted otherwise.
        job.bar.set_position(counts.bytes);
    }
    job.corpus()?;
    job.bar.set_message("writing");
    let writing = Instant::now();
    let rows = job.store.rows;
    let out = args.out.display().to_string();
    let out_bytes = job.store.finish::<T>(output, request, &metadata, ui)?;
    job.bar.finish_and_clear();
    let total = began.elapsed();
    let totals = job.folder.totals;
    let write_time = job.write_time + writing.elapsed();
    Ok(Report {
        out,
        out_bytes,
        documents: counts.documents,
        text_bytes: counts.bytes,
        empty_documents: counts.empty,
        replaced: counts.replaced,
        batches: job.batches,
        backend: job.folder.engine.backend(),
        levels: level_reports(request, rows),
        plan: PlanReport::new(&totals),
        seconds: Seconds {
            read: read_time.as_secs_f64(),
            cut: job.cut_time.as_secs_f64(),
            plan: totals.plan_time.as_secs_f64(),
            run: totals.run_time.as_secs_f64(),
            write: write_time.as_secs_f64(),
            total: total.as_secs_f64(),
        },
        gb_per_s: rate(totals.moved_bytes, totals.run_time) / 1e9,
        text_mb_per_s: rate(counts.bytes, total) / 1e6,
        copied_bytes: totals.copied_bytes,
        peak_memory_bytes: machine::peak_memory(),
    })
}

#[derive(Default)]
struct Counts {
    documents: u64,
    bytes: u64,
    empty: u64,
    replaced: u64,
}

impl Counts {
    fn add(&mut self, batch: &Batch) {
        for document in &batch.documents {
            self.documents += 1;
            self.bytes += document.source_bytes;
            self.empty += u64::from(document.source_bytes == 0);
            self.replaced += u64::try_from(document.repairs.len()).unwrap_or(u64::MAX);
        }
    }
}

impl<T: Value> Job<'_, T> {
    /// Cuts and folds documents: all at once where the memory limit allows, else in halves.
    fn batch(&mut self, batch: &Batch) -> CliResult {
        let whole = 0..batch.documents.len();
        let mut open = Vec::from([whole]);
        while let Some(part) = open.pop() {
            let documents = &batch.documents[part.clone()];
            let text = span(documents);
            if let Folded::TooLarge { needed } = self.part(batch, documents)? {
                if let [only] = documents {
                    return Err(self.too_large(only, needed));
                }
                self.target = (self.target / 2).max(1);
                let half = text.start + text.len() / 2;
                let middle = documents.iter().take_while(|document| document.text.end <= half).count().clamp(1, documents.len() - 1);
                open.push(part.start + middle..part.end);
                open.push(part.start..part.start + middle);
            }
        }
        Ok(())
    }

    fn part(&mut self, batch: &Batch, documents: &[Document]) -> CliResult<Folded> {
        self.ui.check_interrupt()?;
        let span = span(documents);
        let text = &batch.text[span.clone()];
        let ranges: Vec<Range<usize>> =
            documents.iter().map(|document| document.text.start - span.start..document.text.end - span.start).collect();
        let cutting = Instant::now();
        let (ui, options) = (self.ui, self.cut_options);
        let bar = &self.bar;
        let done = |bytes: u64| {
            bar.inc(bytes);
            ui.check_interrupt()
        };
        let cut = self.threads.install(|| cut(text, &ranges, options, &done))?;
        self.cut_time += cutting.elapsed();
        self.check_units(&cut, text, documents)?;
        let held = wide(batch.text.len()) + cut.bytes() + wide(size_of_val(&self.documents[..])) + self.store.memory_bytes();
        let folded = self.folder.fold(text, &cut, held, &mut self.rows)?;
        if let Folded::Done { needed } = folded {
            let writing = Instant::now();
            self.batches += 1;
            self.store.append(&cut, documents, &self.rows)?;
            if self.request.kept.has(TextLevel::Corpus) {
                self.documents.extend_from_slice(self.rows.of(TextLevel::Document));
            }
            self.write_time += writing.elapsed();
            // So much text that half of the limit would do.
            let text = u128::from(wide(text.len()).max(1));
            let fitting = u128::from(self.request.memory_limit / 2) * text / u128::from(needed.max(1));
            self.target = u64::try_from(fitting).unwrap_or(u64::MAX).clamp(1, BATCH_BYTES);
        }
        Ok(folded)
    }

    fn corpus(&mut self) -> CliResult {
        self.ui.check_interrupt()?;
        if self.request.kept.has(TextLevel::Corpus) {
            let count = self.store.rows[TextLevel::Document.index()];
            let row = self.folder.fold_corpus(&self.documents, count)?;
            self.store.append_corpus(&row)?;
        }
        Ok(())
    }

    /// Refuses units that a table of one's own has no row for.
    fn check_units(&self, cut: &Cut, text: &str, documents: &[Document]) -> Result<(), Error> {
        let Some(rows) = self.table.rows() else { return Ok(()) };
        if cut.vocabulary.0.last().is_none_or(|&last| last < rows) {
            return Ok(());
        }
        let found = match self.request.unit {
            Unit::Byte => {
                text.bytes().position(|byte| u64::from(byte) >= rows).map(|at| (at, format!("byte 0x{:02x}", text.as_bytes()[at])))
            }
            Unit::Char | Unit::Grapheme => text
                .char_indices()
                .find(|(_, c)| u64::from(u32::from(*c)) >= rows)
                .map(|(at, c)| (at, format!("code point U+{:04X} ({c:?})", u32::from(c)))),
        };
        let Some((at, unit)) = found else { return Ok(()) };
        let first = span(documents).start;
        let Some(document) = documents.iter().find(|document| document.text.end - first > at) else { return Ok(()) };
        let in_document = document.repairs.source(wide(at + first - document.text.start));
        Err(Error::new(ErrorCode::IdTooLarge, format!("{unit} at byte {in_document} has no row in the table, which has {rows}"))
            .at_level(&*self.sources[document.source].name)
            .at_index(in_document)
            .help("give a table with more rows"))
    }

    fn too_large(&self, document: &Document, needed: u64) -> Failure {
        let limit = self.request.memory_limit;
        Error::new(ErrorCode::MemoryLimit, format!("the document needs {needed} bytes, the limit is {limit}"))
            .at_level(&*self.sources[document.source].name)
            .help("a document is folded as a whole: raise --memory-limit, keep fewer levels, or split the file")
            .into()
    }
}

/// The text of neighbouring documents, in their batch.
fn span(documents: &[Document]) -> Range<usize> {
    match documents {
        [] => 0..0,
        [first, ..] => first.text.start..documents[documents.len() - 1].text.end,
    }
}

fn level_reports(request: &Request<'_>, rows: [u64; 6]) -> Vec<LevelReport> {
    let there = |level: &TextLevel| request.model.is_none_or(|model| model.has(*level) || *level == TextLevel::Corpus);
    let reports = TextLevel::ALL.into_iter().filter(there).map(|level| {
        let count = |level: TextLevel| if level == TextLevel::Corpus { 1 } else { rows[level.index()] };
        let below = TextLevel::ALL.into_iter().rfind(|below| *below < level && there(below));
        let per_row = |below: u64| levelfold::numerics::count_to_f64(below) / levelfold::numerics::count_to_f64(count(level).max(1));
        LevelReport {
            level: level.name(request.unit),
            rows: count(level),
            features: wide(request.features),
            mean_rows: below.map(|below| per_row(count(below))),
            reduce: below.map(|_| request.reducers[level.index()].to_string()),
            kept: request.kept.has(level),
        }
    });
    reports.collect()
}

/// What the file says about itself. Nothing in it depends on the machine, the threads or the batches.
fn metadata(args: &EmbedArgs, request: &Request<'_>, sources: &[Source]) -> Vec<(&'static str, String)> {
    let levels: Vec<&str> = TextLevel::ALL.into_iter().map(|level| level.name(request.unit)).collect();
    let reducers: serde_json::Map<String, serde_json::Value> = TextLevel::ALL[1..]
        .iter()
        .map(|level| (level.name(request.unit).to_owned(), json!(request.reducers[level.index()].to_string())))
        .collect();
    let files: Vec<&str> = sources.iter().map(|source| &*source.name).collect();
    let table = match &args.table {
        None => json!({ "seed": args.seed }),
        Some(TablePath { path, tensor }) => json!({ "file": path.display().to_string(), "tensor": tensor }),
    };
    let model = match (&args.model, request.model) {
        (Some(path), Some(model)) => json!({ "file": path.display().to_string(), "encoders": model.encoders() }),
        (Some(_) | None, _) => serde_json::Value::Null,
    };
    let line_breaks = match args.line_breaks {
        LineBreaks::End => "end",
        LineBreaks::Space => "space",
    };
    vec![
        ("format", json!("levelfold-embed/1").to_string()),
        ("levelfold", json!(env!("CARGO_PKG_VERSION")).to_string()),
        ("unit", json!(request.unit.name()).to_string()),
        ("levels", json!(levels).to_string()),
        ("features", json!(request.features).to_string()),
        ("reduce", serde_json::Value::Object(reducers).to_string()),
        ("table", table.to_string()),
        ("model", model.to_string()),
        ("line_breaks", json!(line_breaks).to_string()),
        ("files", json!(files).to_string()),
    ]
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

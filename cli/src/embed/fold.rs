//! Planning and running: one batch of documents, and the corpus at the end.
//!
//! Every batch has a plan of its own, from units to documents. Its rows depend on its documents alone, and the corpus is always folded from
//! the rows of all documents in one plan, so that the batches make no difference to a single bit.

use super::request::{Request, TextLevel};
use crate::options::ChosenEngine;
use crate::params::Params;
use crate::table::UnitTable;
use crate::text::{Cut, Ids};
use levelfold::numerics::Value;
use levelfold::{
    Bindings, DType, Error, ErrorCode, Hierarchy, Leaves, Level, OnEmpty, Plan, Prepared, Segments, TensorView, TensorViewMut,
};
use std::path::Path;
use std::time::{Duration, Instant};

/// Plans and runs, and counts what it did.
pub(crate) struct Folder<'a> {
    pub(crate) engine: ChosenEngine<'a>,
    pub(crate) request: &'a Request<'a>,
    pub(crate) table: &'a UnitTable,
    /// The file of the model's parameters.
    pub(crate) params: Option<&'a Path>,
    pub(crate) totals: FoldTotals,
}

/// What all plans did together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FoldTotals {
    /// Steps of the longest plan.
    pub(crate) steps: u64,
    /// Steps of the literal program of that plan.
    pub(crate) literal_steps: u64,
    /// Bytes read and written.
    pub(crate) moved_bytes: u64,
    /// Bytes that the literal programs would have read and written.
    pub(crate) literal_moved_bytes: u64,
    /// Bytes written by copies.
    pub(crate) copied_bytes: u64,
    /// Bytes that the literal programs would have copied.
    pub(crate) literal_copied_bytes: u64,
    /// The largest arena.
    pub(crate) arena_bytes: u64,
    /// Planning and compiling.
    pub(crate) plan_time: Duration,
    /// Running.
    pub(crate) run_time: Duration,
}

/// The rows of a batch, by [`TextLevel::index`]; the memory is used again for the next.
pub(crate) struct Rows<T>([Vec<T>; 5]);

impl<T> Rows<T> {
    /// None yet.
    pub(crate) fn new() -> Self {
        Rows(std::array::from_fn(|_| Vec::new()))
    }

    /// The rows of a level below the corpus that is kept.
    pub(crate) fn of(&self, level: TextLevel) -> &[T] {
        self.0.get(level.index()).map_or(&[], |rows| rows)
    }
}

/// How a batch came out.
pub(crate) enum Folded {
    /// The rows are there; so many bytes were needed.
    Done { needed: u64 },
    /// Nothing was run: so many bytes would be needed.
    TooLarge { needed: u64 },
}

impl Folder<'_> {
    /// Folds a batch. `held` are the bytes that are taken beside it, its own text and cut included.
    ///
    /// # Errors
    /// What planning and running say; `overflow`.
    pub(crate) fn fold<T: Value>(&mut self, text: &str, cut: &Cut, held: u64, rows: &mut Rows<T>) -> Result<Folded, Error> {
        let Request { unit, kept, features, model, .. } = *self.request;
        let top = if model.is_some() { TextLevel::Document } else { kept.top_of_batch() };
        let keys = self.keys(cut);
        let table: Vec<T> = self.table.gather(keys)?;
        let began = Instant::now();
        let prepared = self.engine.prepare(self.hierarchy::<T>(cut, keys.len(), top)?.graph()?)?;
        self.check_outputs(&prepared, T::DTYPE)?;
        self.totals.plan_time += began.elapsed();
        // Ids that are the text itself are there already.
        let shared = if cut.ids == Ids::Text { wide(text.len()) } else { 0 };
        let needed = needed(&prepared, held)?.saturating_sub(shared);
        if needed > self.request.memory_limit {
            return Ok(Folded::TooLarge { needed });
        }
        self.engine.keep_at_most(self.request.memory_limit - needed);
        let names = self.names();
        let params = Params::open(self.params, prepared.plan(), "give the file that holds it with --params FILE.safetensors", |name| {
            name == names[1]
        })?;
        let ids = match &cut.ids {
            Ids::Text => TensorView::from_column(text.as_bytes()),
            Ids::U8(ids) => TensorView::from_column(ids),
            Ids::U16(ids) => TensorView::from_column(ids),
            Ids::U32(ids) => TensorView::from_column(ids),
        };
        let mut bindings = Bindings::new();
        bindings.bind_input(&names[0], ids);
        bindings.bind_input(&names[1], TensorView::from_slice(&table, [keys.len(), features])?);
        for (level, rows) in TextLevel::ALL.into_iter().zip(&mut rows.0) {
            if kept.has(level) || level == top {
                let count = narrow(cut.rows(level))?;
                rows.resize(product(count, features)?, T::from_f32(0.0));
                bindings.bind_output(level.name(unit), TensorViewMut::from_slice(rows, [count, features])?);
            }
        }
        for (name, view) in params.views()? {
            bindings.bind_input(name, view);
        }
        self.run(&prepared, bindings)?;
        Ok(Folded::Done { needed })
    }

    /// Folds the rows of all documents into one.
    ///
    /// # Errors
    /// As for [`fold`](Self::fold), and `memory-limit`.
    pub(crate) fn fold_corpus<T: Value>(&mut self, documents: &[T], count: u64) -> Result<Vec<T>, Error> {
        let Request { unit, ref reducers, features, memory_limit, .. } = *self.request;
        let [below, name] = [TextLevel::Document, TextLevel::Corpus].map(|level| level.name(unit));
        let corpus = Level::new(name, Segments::whole(count)).reduce(reducers[TextLevel::Corpus.index()].clone());
        let hierarchy = Hierarchy::new(Leaves::values(below, T::DTYPE, wide(features))).level(corpus);
        let began = Instant::now();
        let prepared = self.engine.prepare(hierarchy.graph()?)?;
        self.check_outputs(&prepared, T::DTYPE)?;
        self.totals.plan_time += began.elapsed();
        let needed = needed(&prepared, 0)?;
        if needed > memory_limit {
            return Err(Error::new(
                ErrorCode::MemoryLimit,
                format!("folding {count} documents needs {needed} bytes, the limit is {memory_limit}"),
            )
            .at_level(name)
            .help("raise --memory-limit, or leave the corpus out with --keep"));
        }
        self.engine.keep_at_most(memory_limit - needed);
        let mut row = vec![T::from_f32(0.0); features];
        let bindings = Bindings::new()
            .input(below, TensorView::from_slice(documents, [narrow(count)?, features])?)
            .output(name, TensorViewMut::from_slice(&mut row, [1, features])?);
        self.run(&prepared, bindings)?;
        Ok(row)
    }

    /// The keys of the rows that are looked up: of a table that ends before the last byte, as many as it has.
    fn keys<'c>(&self, cut: &'c Cut) -> &'c [u64] {
        let keys = &cut.vocabulary.0[..];
        match self.table.rows() {
            Some(rows) => &keys[..keys.partition_point(|&key| key < rows)],
            None if keys.is_empty() => &[0],
            None => keys,
        }
    }

    fn hierarchy<T: Value>(&self, cut: &Cut, keys: usize, top: TextLevel) -> Result<Hierarchy, Error> {
        let Request { unit, kept, ref reducers, features, model, .. } = *self.request;
        let ids = match &cut.ids {
            Ids::Text | Ids::U8(_) => DType::U8,
            Ids::U16(_) => DType::U16,
            Ids::U32(_) => DType::U32,
        };
        if let Some(model) = model {
            let [ids_name, table_name] = &self.names();
            return model.hierarchy(cut, [ids_name, table_name], (ids, T::DTYPE), wide(keys), |level| kept.has(level));
        }
        let leaves = Leaves::lookup(unit.name(), ids, T::DTYPE, wide(keys), wide(features)).rows(cut.units);
        let leaves = if kept.has(TextLevel::Unit) { leaves.keep() } else { leaves };
        let mut hierarchy = Hierarchy::new(leaves);
        for level in TextLevel::ALL.into_iter().filter(|level| (TextLevel::Word..=top).contains(level)) {
            let segments = match level {
                TextLevel::Unit | TextLevel::Corpus => continue,
                TextLevel::Word => Segments::from_lengths(&cut.word_units),
                TextLevel::Sentence => Segments::from_lengths(&cut.sentence_words),
                TextLevel::Paragraph => Segments::from_lengths(&cut.paragraph_sentences),
                TextLevel::Document => Segments::from_lengths(&cut.document_paragraphs),
            }?;
            let built = Level::new(level.name(unit), segments).reduce(reducers[level.index()].clone());
            // Only a document can be empty.
            let built = if level == TextLevel::Document { built.on_empty(OnEmpty::Zero) } else { built };
            hierarchy = hierarchy.level(if kept.has(level) { built.keep() } else { built });
        }
        Ok(hierarchy)
    }

    /// What ids and table are bound as.
    fn names(&self) -> [String; 2] {
        let unit = self.request.unit.name();
        [format!("{unit}.ids"), format!("{unit}.table")]
    }

    /// The file that is written has one type and as many features at each level.
    fn check_outputs(&self, prepared: &Prepared, dtype: DType) -> Result<(), Error> {
        if let Some((_, buffer)) = prepared.plan().outputs().find(|(_, buffer)| buffer.dtype != dtype) {
            return Err(Error::new(ErrorCode::DType, format!("the level is {}, and the file is written in {dtype}", buffer.dtype))
                .at_level(&*buffer.name)
                .help("levels that are kept, and documents, have the type of the table: reduce them otherwise, or cast them back"));
        }
        let features = wide(self.request.features);
        match prepared.plan().outputs().find(|(_, buffer)| buffer.features != features) {
            None => Ok(()),
            Some((_, buffer)) => Err(Error::new(
                ErrorCode::Shape,
                format!("the model gives {} features, and the table has {features}", buffer.features),
            )
            .at_level(&*buffer.name)
            .help("levels that are kept, and documents, have as many features as the table: end their encoders with a linear map to that many")),
        }
    }

    fn run<'a>(&mut self, prepared: &'a Prepared, bindings: Bindings<'a>) -> Result<(), Error> {
        self.totals.run_time += prepared.run(bindings)?.time;
        self.totals.add(prepared.plan());
        Ok(())
    }
}

impl FoldTotals {
    fn add(&mut self, plan: &Plan) {
        if plan.totals.steps > self.steps {
            self.steps = plan.totals.steps;
            self.literal_steps = plan.literal.steps;
        }
        self.moved_bytes += plan.totals.moved_bytes();
        self.literal_moved_bytes += plan.literal.moved_bytes();
        self.copied_bytes += plan.totals.copied_bytes;
        self.literal_copied_bytes += plan.literal.copied_bytes;
        self.arena_bytes = self.arena_bytes.max(plan.totals.arena_bytes);
    }
}

/// The bytes of a run, and of what is held beside it.
fn needed(prepared: &Prepared, held: u64) -> Result<u64, Error> {
    let plan = prepared.plan().memory_bytes();
    plan.and_then(|bytes| bytes.checked_add(prepared.scratch_bytes())?.checked_add(held))
        .ok_or_else(|| Error::new(ErrorCode::Overflow, "the memory that a batch needs does not fit 64 bits"))
}

fn product(rows: usize, features: usize) -> Result<usize, Error> {
    rows.checked_mul(features).ok_or_else(|| Error::new(ErrorCode::Overflow, format!("{rows} rows of {features} features do not fit")))
}

fn narrow(count: u64) -> Result<usize, Error> {
    usize::try_from(count).map_err(|_| Error::new(ErrorCode::Overflow, format!("{count} rows do not fit this machine's memory")))
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

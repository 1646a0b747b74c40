//! What the output will hold, gathered batch by batch.
//!
//! Each tensor grows in memory up to a bound, then in an unnamed file beside the output, which the system removes whatever becomes of the
//! process. The output itself is put together from these at the end, when all shapes are known.

use super::fold::Rows;
use super::request::{Request, TextLevel};
use super::source::Document;
use crate::failure::{CliResult, file_error};
use crate::output::{Entry, Header, Output, le_bytes};
use crate::text::Cut;
use crate::ui::Ui;
use levelfold::numerics::Value;
use levelfold::{DType, Error};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::{SpooledData, SpooledTempFile, spooled_tempfile_in};

/// The tensors of every kept level.
pub(crate) struct Store {
    levels: Vec<LevelStore>,
    /// Rows of every level, kept or not, by [`TextLevel::index`].
    pub(crate) rows: [u64; 6],
    directory: PathBuf,
}

struct LevelStore {
    level: TextLevel,
    values: Spool,
    /// Where each row's own rows end, in the level below.
    offsets: Column,
    /// The bytes of each row in its document.
    spans: Column,
    /// The document of each row.
    documents: Column,
}

impl Store {
    /// Nothing yet. What does not fit the memory that tensors may wait in goes to files in `directory`.
    pub(crate) fn new(request: &Request<'_>, directory: PathBuf) -> Self {
        let part = |share: u64, most: usize| usize::try_from(request.memory_limit / share).unwrap_or(usize::MAX).min(most);
        let column = |pending| Column { spool: Spool::new(&directory, part(512, 4 << 20)), pending };
        let levels = request.kept.levels().map(|level| LevelStore {
            level,
            values: Spool::new(&directory, part(64, 64 << 20)),
            // Offsets start at 0.
            offsets: column(vec![0]),
            spans: column(Vec::new()),
            documents: column(Vec::new()),
        });
        Store { levels: levels.collect(), rows: [0; 6], directory }
    }

    /// The bytes that wait in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let spools = self.levels.iter().flat_map(|store| [&store.values, &store.offsets.spool, &store.spans.spool, &store.documents.spool]);
        spools.map(Spool::memory_bytes).sum()
    }

    /// Takes the rows of a batch.
    ///
    /// # Errors
    /// `file`, where there is no space.
    pub(crate) fn append<T: Value>(&mut self, cut: &Cut, documents: &[Document], rows: &Rows<T>) -> Result<(), Error> {
        for store in &mut self.levels {
            let level = store.level;
            if level == TextLevel::Corpus {
                continue;
            }
            let written = store.append(cut, documents, rows.of(level), self.rows[level.index().saturating_sub(1)]);
            written.map_err(|cause| file_error("write", &self.directory, cause))?;
        }
        for level in [TextLevel::Unit, TextLevel::Word, TextLevel::Sentence, TextLevel::Paragraph, TextLevel::Document] {
            self.rows[level.index()] += cut.rows(level);
        }
        Ok(())
    }

    /// Takes the row of the corpus.
    ///
    /// # Errors
    /// `file`.
    pub(crate) fn append_corpus<T: Value>(&mut self, row: &[T]) -> Result<(), Error> {
        let documents = self.rows[TextLevel::Document.index()];
        let Some(store) = self.levels.iter_mut().find(|store| store.level == TextLevel::Corpus) else {
            return Ok(());
        };
        let mut write = || {
            store.values.write(&le_bytes(row))?;
            store.offsets.push(documents)
        };
        write().map_err(|cause| file_error("write", &self.directory, cause))?;
        self.rows[TextLevel::Corpus.index()] = 1;
        Ok(())
    }

    /// Puts the file together.
    ///
    /// # Errors
    /// `file`; what [`Header::new`] says.
    pub(crate) fn finish<T: Value>(
        self,
        mut output: Output,
        request: &Request<'_>,
        metadata: &[(&str, String)],
        ui: &Ui,
    ) -> CliResult<u64> {
        let features = u64::try_from(request.features).unwrap_or(u64::MAX);
        let mut tensors: Vec<(Entry, SpooledData)> = Vec::new();
        for store in self.levels {
            let name = store.level.name(request.unit);
            let rows = self.rows[store.level.index()];
            let columns = [
                (name.to_owned(), T::DTYPE, vec![rows, features], Ok(store.values)),
                (format!("{name}.offsets"), DType::I64, vec![rows + 1], store.offsets.finish()),
                (format!("{name}.spans"), DType::I64, vec![rows, 2], store.spans.finish()),
                (format!("{name}.document"), DType::I64, vec![rows], store.documents.finish()),
            ];
            for (index, (name, dtype, shape, spool)) in columns.into_iter().enumerate() {
                let spool = spool.map_err(|cause| file_error("write", &self.directory, cause))?;
                if store.level.has_column(index) {
                    tensors.push((Entry { name, dtype, shape }, spool.file.into_inner()));
                }
            }
        }
        let header = Header::new(metadata, tensors.iter().map(|(entry, _)| entry.clone()).collect())?;
        output.begin(&header)?;
        for entry in header.entries() {
            ui.check_interrupt()?;
            // Taken out, so that its space is free again once it is copied.
            let Some(at) = tensors.iter().position(|(other, _)| other.name == entry.name) else { continue };
            match tensors.swap_remove(at).1 {
                SpooledData::InMemory(data) => output.write(data.get_ref())?,
                SpooledData::OnDisk(mut file) => output.append(&mut file)?,
            }
        }
        ui.check_interrupt()?;
        output.finish()?;
        Ok(header.file_bytes())
    }
}

impl TextLevel {
    /// Whether a level has values, offsets, spans, documents: units have no rows below, a corpus lies in no document, and a document needs
    /// not be told which one it is.
    fn has_column(self, column: usize) -> bool {
        match (self, column) {
            (TextLevel::Unit, 1) | (TextLevel::Corpus, 2 | 3) | (TextLevel::Document, 3) => false,
            (_, _) => true,
        }
    }
}

impl LevelStore {
    fn append<T: Value>(&mut self, cut: &Cut, documents: &[Document], rows: &[T], rows_below: u64) -> std::io::Result<()> {
        self.values.write(&le_bytes(rows))?;
        let mut end = rows_below;
        for count in cut.counts(self.level) {
            end += count;
            self.offsets.push(end)?;
        }
        let mut sizes = cut.sizes(self.level);
        for (document, pieces) in documents.iter().zip(cut.pieces_of_documents(self.level)) {
            if self.level == TextLevel::Document {
                self.spans.push(0)?;
                self.spans.push(document.source_bytes)?;
                continue;
            }
            let mut start = 0;
            for size in sizes.by_ref().take(usize::try_from(pieces).unwrap_or(usize::MAX)) {
                let end = start + size;
                self.spans.push(document.repairs.source(start))?;
                self.spans.push(document.repairs.source(end))?;
                self.documents.push(u64::try_from(document.source).unwrap_or(u64::MAX))?;
                start = end;
            }
        }
        Ok(())
    }
}

impl Cut {
    /// The rows of a level of the batch.
    pub(crate) fn rows(&self, level: TextLevel) -> u64 {
        let rows = match level {
            TextLevel::Unit => return self.units,
            TextLevel::Word => self.word_units.len(),
            TextLevel::Sentence => self.sentence_words.len(),
            TextLevel::Paragraph => self.paragraph_sentences.len(),
            TextLevel::Document => self.document_paragraphs.len(),
            TextLevel::Corpus => 0,
        };
        u64::try_from(rows).unwrap_or(u64::MAX)
    }

    /// How many rows of the level below each row has.
    fn counts(&self, level: TextLevel) -> Box<dyn Iterator<Item = u64> + '_> {
        match level {
            TextLevel::Unit | TextLevel::Corpus => Box::new(std::iter::empty()),
            TextLevel::Word => Box::new(self.word_units.iter().map(|&units| u64::from(units))),
            TextLevel::Sentence => Box::new(self.sentence_words.iter().copied()),
            TextLevel::Paragraph => Box::new(self.paragraph_sentences.iter().copied()),
            TextLevel::Document => Box::new(self.document_paragraphs.iter().copied()),
        }
    }

    /// The bytes of each row of a level below the documents.
    fn sizes(&self, level: TextLevel) -> Box<dyn Iterator<Item = u64> + '_> {
        match level {
            TextLevel::Unit => Box::new(self.unit_bytes.iter().map(|&bytes| u64::from(bytes))),
            TextLevel::Word => Box::new(self.word_bytes.iter().map(|&bytes| u64::from(bytes))),
            TextLevel::Sentence => Box::new(self.sentence_bytes.iter().copied()),
            TextLevel::Paragraph => Box::new(self.paragraph_bytes.iter().copied()),
            TextLevel::Document | TextLevel::Corpus => Box::new(std::iter::empty()),
        }
    }

    /// How many rows of a level each document has.
    fn pieces_of_documents(&self, level: TextLevel) -> Vec<u64> {
        let mut pieces = vec![1; self.document_paragraphs.len()];
        for below in [TextLevel::Document, TextLevel::Paragraph, TextLevel::Sentence, TextLevel::Word] {
            if below > level {
                let mut counts = self.counts(below);
                for piece in &mut pieces {
                    *piece = counts.by_ref().take(usize::try_from(*piece).unwrap_or(usize::MAX)).sum();
                }
            }
        }
        pieces
    }

    /// The bytes that the cut itself occupies.
    pub(crate) fn bytes(&self) -> u64 {
        let narrow = self.unit_bytes.len() + self.word_units.len() + self.word_bytes.len();
        let wide = self.sentence_words.len() + self.sentence_bytes.len() + self.paragraph_sentences.len() + self.paragraph_bytes.len();
        u64::try_from(4 * narrow + 8 * (wide + self.document_paragraphs.len() + self.vocabulary.0.len())).unwrap_or(u64::MAX)
    }
}

/// A tensor that grows.
struct Spool {
    file: SpooledTempFile,
    bytes: u64,
}

impl Spool {
    fn new(directory: &Path, bound: usize) -> Self {
        Spool { file: spooled_tempfile_in(bound, directory), bytes: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.file.write_all(bytes)
    }

    fn memory_bytes(&self) -> u64 {
        if self.file.is_rolled() { 0 } else { self.bytes }
    }
}

/// A tensor of i64 that grows one number at a time.
struct Column {
    spool: Spool,
    pending: Vec<i64>,
}

impl Column {
    #[inline]
    fn push(&mut self, value: u64) -> std::io::Result<()> {
        // Positions and counts of things in memory or in files, which are below 2^63.
        self.pending.push(i64::try_from(value).unwrap_or(i64::MAX));
        if self.pending.len() < 1 << 13 { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.spool.write(&le_bytes(&self.pending))?;
        self.pending.clear();
        Ok(())
    }

    fn finish(mut self) -> std::io::Result<Spool> {
        self.flush()?;
        Ok(self.spool)
    }
}

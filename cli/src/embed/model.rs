//! A model of one's own: which text levels there are, how each is folded, and which encoders run on it.
//!
//! It is a spec whose levels are text levels, in order, each leaving its segments to be bound; what the text says is put in for each batch.

use super::request::TextLevel;
use crate::spec_file::read_spec;
use crate::text::{Cut, Unit};
use levelfold::spec::{Encoder, Ids, LeafSource, LookupTable, SegmentSource};
use levelfold::{DType, Error, ErrorCode, Hierarchy, OnEmpty, Reducer, Segments};
use std::path::Path;

/// A spec of text levels.
pub(crate) struct Model {
    hierarchy: Hierarchy,
    /// The text level of each of its levels.
    levels: Vec<TextLevel>,
}

impl Model {
    /// Reads a spec.
    ///
    /// # Errors
    /// What is wrong with the spec; `spec-invalid` where it is no model of text.
    pub(crate) fn open(path: &Path, unit: Unit) -> Result<Model, Error> {
        Model::of(read_spec(path)?, unit)
    }

    fn of(hierarchy: Hierarchy, unit: Unit) -> Result<Model, Error> {
        let wrong = |message: String, level: &str, help: &str| Err(Error::new(ErrorCode::SpecInvalid, message).at_level(level).help(help));
        let leaves = &hierarchy.leaves;
        if *leaves.name != *unit.name() {
            let message = format!("the leaves of the model are `{}`, those of the text are `{}`", leaves.name, unit.name());
            return wrong(message, &leaves.name, "name them char, byte or grapheme, and say the same with --unit");
        }
        let LeafSource::Lookup { .. } = leaves.source else {
            return wrong(
                "the leaves of the model are values".into(),
                &leaves.name,
                "text looks rows up: give the leaves `ids` and `table`",
            );
        };
        let mut levels: Vec<TextLevel> = Vec::new();
        for level in &hierarchy.levels {
            let text = TextLevel::ALL[1..5].iter().copied().find(|text| text.name(unit) == &*level.name);
            let Some(text) = text.filter(|text| levels.last().is_none_or(|below| below < text)) else {
                let message = "the model has no such level of text, or has it out of order".to_owned();
                return wrong(
                    message,
                    &level.name,
                    "levels are word, sentence, paragraph and document, in this order; some may be left out",
                );
            };
            let SegmentSource::Binding(_) = level.segments else {
                let message = "the level has segments of its own".to_owned();
                return wrong(message, &level.name, "text says them: write the name of the level, \"segments\": \"word\"");
            };
            if let ([_], None) = (&level.reduce[..], &level.weights) {
                levels.push(text);
                continue;
            }
            return wrong(
                "the level has several reducers, or weights".into(),
                &level.name,
                "embed folds each level by one reducer, unweighted",
            );
        }
        if levels.last() != Some(&TextLevel::Document) {
            return wrong("the model does not end with documents".into(), "document", "add a level `document` on top");
        }
        Ok(Model { hierarchy, levels })
    }

    /// Whether it has a level.
    pub(crate) fn has(&self, level: TextLevel) -> bool {
        level == TextLevel::Unit || self.levels.contains(&level)
    }

    /// The features of a row that is looked up.
    pub(crate) fn features(&self) -> u64 {
        match &self.hierarchy.leaves.source {
            LeafSource::Lookup { table, .. } => table.features,
            LeafSource::Values { features, .. } => *features,
        }
    }

    /// The table's name, under which a file of parameters may hold it.
    pub(crate) fn table_name(&self) -> &str {
        match &self.hierarchy.leaves.source {
            LeafSource::Lookup { table, .. } => &table.name,
            LeafSource::Values { .. } => &self.hierarchy.leaves.name,
        }
    }

    /// The reducer of each level, by [`TextLevel::index`]; that of `otherwise` for levels that it does not have.
    pub(crate) fn reducers(&self, otherwise: [Reducer; 6]) -> [Reducer; 6] {
        let mut reducers = otherwise;
        for (level, text) in self.hierarchy.levels.iter().zip(&self.levels) {
            reducers[text.index()] = level.reduce[0].clone();
        }
        reducers
    }

    /// The hierarchy of a batch: its segments, how many rows are looked up, and which levels are outputs. Each document is encoded by itself,
    /// whatever other documents its batch has.
    ///
    /// # Errors
    /// What is wrong with segments.
    pub(crate) fn hierarchy(
        &self,
        cut: &Cut,
        names: [&str; 2],
        (ids, dtype): (DType, DType),
        keys: u64,
        kept: impl Fn(TextLevel) -> bool,
    ) -> Result<Hierarchy, Error> {
        let mut hierarchy = self.hierarchy.clone();
        let [ids_name, table_name] = names;
        hierarchy.leaves.source = LeafSource::Lookup {
            ids: Ids { name: ids_name.into(), dtype: ids },
            table: LookupTable { name: table_name.into(), dtype, rows: keys, features: self.features() },
        };
        hierarchy.leaves.rows = Some(cut.units);
        hierarchy.leaves.keep = kept(TextLevel::Unit);
        let mut below = TextLevel::Unit;
        for (level, &text) in hierarchy.levels.iter_mut().zip(&self.levels) {
            level.segments = SegmentSource::Inline(segments_over(cut, below, text)?);
            level.keep = kept(text);
            // Only a document can be empty.
            if text == TextLevel::Document && level.on_empty.is_none() {
                level.on_empty = Some(OnEmpty::Zero);
            }
            below = text;
        }
        let documents = usize::try_from(cut.rows(TextLevel::Document)).unwrap_or(usize::MAX);
        hierarchy.top = Some(Segments::from_lengths(&vec![1u64; documents])?);
        Ok(hierarchy)
    }

    /// Whether what documents fold to is encoded.
    pub(crate) fn encodes_documents(&self) -> bool {
        self.hierarchy.levels.iter().zip(&self.levels).any(|(level, text)| *text == TextLevel::Document && !level.encode.is_empty())
    }

    /// How many encoders it has, over all levels.
    pub(crate) fn encoders(&self) -> usize {
        let levels = self.hierarchy.levels.iter().map(|level| &level.encode);
        levels.chain([&self.hierarchy.leaves.encode]).map(Vec::<Encoder>::len).sum()
    }
}

/// The segments of a text level over the rows of any below it.
fn segments_over(cut: &Cut, below: TextLevel, level: TextLevel) -> Result<Segments, Error> {
    let mut made: Option<Segments> = None;
    for step in TextLevel::ALL.into_iter().filter(|step| below < *step && *step <= level) {
        let segments = match step {
            TextLevel::Unit | TextLevel::Corpus => continue,
            TextLevel::Word => Segments::from_lengths(&cut.word_units),
            TextLevel::Sentence => Segments::from_lengths(&cut.sentence_words),
            TextLevel::Paragraph => Segments::from_lengths(&cut.paragraph_sentences),
            TextLevel::Document => Segments::from_lengths(&cut.document_paragraphs),
        }?;
        made = Some(match made {
            Some(lower) => lower.compose(&segments)?,
            None => segments,
        });
    }
    made.ok_or_else(|| Error::new(ErrorCode::Internal, "a level of text lies over another"))
}

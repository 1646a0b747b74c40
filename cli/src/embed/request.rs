//! What was asked for, once the command line is understood.

use super::model::Model;
use crate::text::Unit;
use levelfold::error::suggestion;
use levelfold::{Error, ErrorCode, Reducer};
use std::str::FromStr;

/// A level of text, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TextLevel {
    /// Characters, bytes or grapheme clusters.
    Unit,
    /// Words.
    Word,
    /// Sentences.
    Sentence,
    /// Paragraphs.
    Paragraph,
    /// Documents.
    Document,
    /// Everything.
    Corpus,
}

impl TextLevel {
    /// All of them, lowest first.
    pub(crate) const ALL: [TextLevel; 6] =
        [TextLevel::Unit, TextLevel::Word, TextLevel::Sentence, TextLevel::Paragraph, TextLevel::Document, TextLevel::Corpus];

    /// Its name on the command line and in files.
    pub(crate) fn name(self, unit: Unit) -> &'static str {
        match self {
            TextLevel::Unit => unit.name(),
            TextLevel::Word => "word",
            TextLevel::Sentence => "sentence",
            TextLevel::Paragraph => "paragraph",
            TextLevel::Document => "document",
            TextLevel::Corpus => "corpus",
        }
    }

    /// Its place among all levels.
    pub(crate) fn index(self) -> usize {
        TextLevel::ALL.iter().take_while(|other| **other < self).count()
    }

    fn parse(word: &str, levels: &[TextLevel], unit: Unit) -> Result<TextLevel, Error> {
        levels.iter().copied().find(|level| level.name(unit) == word).ok_or_else(|| {
            let known: Vec<&str> = levels.iter().map(|level| level.name(unit)).collect();
            Error::new(ErrorCode::UnknownWord, format!("unknown level `{word}`")).help(suggestion(word, &known))
        })
    }
}

/// `--reduce`: one reducer for all levels, or some of them by name, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReduceList {
    all: Option<Reducer>,
    named: Vec<(String, Reducer)>,
}

impl FromStr for ReduceList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut list = ReduceList { all: None, named: Vec::new() };
        for part in outside_brackets(text) {
            // What stands in brackets is the reducer's own: `var(ddof=1)`.
            let named = part.split_once('=').filter(|(level, _)| !level.contains('('));
            let (level, reducer) = match named {
                Some((level, reducer)) => (Some(level.trim()), reducer.trim().parse()?),
                None => (None, part.trim().parse()?),
            };
            let twice = match level {
                Some(level) => list.named.iter().any(|(other, _)| other == level),
                None => list.all.is_some(),
            };
            if twice {
                let what = level.map_or("all levels".to_owned(), |level| format!("`{level}`"));
                return Err(Error::new(ErrorCode::DuplicateName, format!("two reducers for {what}")));
            }
            match level {
                Some(level) => list.named.push((level.to_owned(), reducer)),
                None => list.all = Some(reducer),
            }
        }
        Ok(list)
    }
}

/// What commas separate, but for those in brackets.
fn outside_brackets(text: &str) -> Vec<&str> {
    let mut depth = 0i64;
    let split = |sign: char| {
        depth += i64::from(sign == '(') - i64::from(sign == ')');
        sign == ',' && depth <= 0
    };
    text.split(split).collect()
}

impl ReduceList {
    /// The reducer of every level above the units, by [`TextLevel::index`]; the units' own is not used. Mean where nothing is said.
    ///
    /// # Errors
    /// `unknown-word` for a level that does not exist.
    pub(crate) fn resolve(&self, unit: Unit) -> Result<[Reducer; 6], Error> {
        let mut reducers = std::array::from_fn(|_| self.all.clone().unwrap_or(Reducer::Mean));
        for (level, reducer) in &self.named {
            reducers[TextLevel::parse(level, &TextLevel::ALL[1..], unit)?.index()] = reducer.clone();
        }
        Ok(reducers)
    }
}

/// Which levels are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept([bool; 6]);

impl Kept {
    /// From the names that `--keep` gave: sentences and above where it gave none.
    ///
    /// # Errors
    /// `unknown-word`.
    pub(crate) fn of(names: &[String], unit: Unit) -> Result<Self, Error> {
        if names.is_empty() {
            return Ok(Kept(TextLevel::ALL.map(|level| level >= TextLevel::Sentence)));
        }
        let mut kept = [false; 6];
        for name in names {
            kept[TextLevel::parse(name.trim(), &TextLevel::ALL, unit)?.index()] = true;
        }
        Ok(Kept(kept))
    }

    /// Those that a model has; one that it lacks is an error where it was asked for by name.
    ///
    /// # Errors
    /// `unknown-name`.
    pub(crate) fn in_model(self, model: &Model, by_name: bool, unit: Unit) -> Result<Self, Error> {
        let mut kept = self;
        for level in self.levels().filter(|level| *level != TextLevel::Corpus && !model.has(*level)) {
            if by_name {
                return Err(Error::new(ErrorCode::UnknownName, format!("the model has no level `{}`", level.name(unit)))
                    .help("keep levels that the model has, or the corpus"));
            }
            kept.0[level.index()] = false;
        }
        Ok(kept)
    }

    /// Whether this level is kept.
    pub(crate) fn has(self, level: TextLevel) -> bool {
        self.0[level.index()]
    }

    /// The kept levels, lowest first.
    pub(crate) fn levels(self) -> impl Iterator<Item = TextLevel> {
        TextLevel::ALL.into_iter().filter(move |level| self.has(*level))
    }

    /// The highest level that a batch of documents has to be folded to: the corpus is folded from the documents of all batches.
    pub(crate) fn top_of_batch(self) -> TextLevel {
        match self.levels().last() {
            Some(top) => top.clamp(TextLevel::Word, TextLevel::Document),
            None => TextLevel::Word,
        }
    }
}

/// What is to be done with the text.
#[derive(Clone)]
pub(crate) struct Request<'m> {
    /// What the leaves are.
    pub(crate) unit: Unit,
    /// Which levels the file will hold.
    pub(crate) kept: Kept,
    /// The reducer of each level, by [`TextLevel::index`].
    pub(crate) reducers: [Reducer; 6],
    /// Features of a row.
    pub(crate) features: usize,
    /// What runs, where it is not a plain fold of every level.
    pub(crate) model: Option<&'m Model>,
    /// The most bytes to hold at once.
    pub(crate) memory_limit: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reducers_are_for_all_levels_or_by_name() {
        let resolve = |text: &str| text.parse::<ReduceList>().unwrap().resolve(Unit::Char).map(|reducers| reducers[1..].to_vec());
        use Reducer::{Max, Mean, Sum};
        assert_eq!(resolve("sum").unwrap(), [const { Sum }; 5]);
        assert_eq!(resolve("word=sum, corpus=max").unwrap(), [Sum, Mean, Mean, Mean, Max]);
        assert_eq!(resolve("max,sentence=mean").unwrap(), [Max, Mean, Max, Max, Max]);
        let var: Reducer = "var(ddof=1)".parse().unwrap();
        let own: Reducer = "custom(t: s from x by max(a.s, b.s); s)".parse().unwrap();
        assert_eq!(resolve("var(ddof=1)").unwrap(), std::array::from_fn::<_, 5, _>(|_| var.clone()));
        assert_eq!(resolve(&format!("word={own},{var},corpus={var}")).unwrap()[..2], [own, var]);
        let error = |text: &str| match text.parse::<ReduceList>() {
            Ok(list) => list.resolve(Unit::Char).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(error("maen"), "unknown reducer `maen`; did you mean `mean`? [unknown-word]");
        assert_eq!(error("wrod=mean"), "unknown level `wrod`; did you mean `word`? [unknown-word]");
        assert_eq!(error("sum,max"), "two reducers for all levels [duplicate-name]");
        assert_eq!(error("word=sum,word=max"), "two reducers for `word` [duplicate-name]");
        assert!(error("char=mean").contains("unknown level `char`"), "units are not reduced from anything");
    }

    #[test]
    fn sentences_and_above_are_kept_unless_told() {
        let kept = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            Kept::of(&names, Unit::Byte)
        };
        assert_eq!(kept(&[]).unwrap().levels().collect::<Vec<_>>(), TextLevel::ALL[2..]);
        assert_eq!(kept(&["corpus", "byte"]).unwrap().levels().collect::<Vec<_>>(), [TextLevel::Unit, TextLevel::Corpus]);
        assert!(kept(&["char"]).is_err(), "the units are bytes");
        for (names, top) in [(&["byte"][..], TextLevel::Word), (&["sentence"], TextLevel::Sentence), (&["corpus"], TextLevel::Document)] {
            assert_eq!(kept(names).unwrap().top_of_batch(), top);
        }
    }
}

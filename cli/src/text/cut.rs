//! Cutting a batch of documents, by all threads.
//!
//! Paragraphs are found first, document by document. They can be cut apart from each other, and so can the lines of a very long one: where
//! a line break ends a sentence anyway, and what follows is not blank, no boundary depends on what lies before.

use super::units::{Collector, Part, number};
use super::{Ids, LineBreaks, Unit, Vocabulary, is_blank_char};
use super::{paragraph::paragraphs, sentence::sentences, word::words};
use crate::failure::CliResult;
use levelfold::{Error, ErrorCode};
use memchr::memchr_iter;
use rayon::prelude::*;
use std::ops::Range;

/// How to cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutOptions {
    /// What the leaves are.
    pub(crate) unit: Unit,
    /// What a line break means.
    pub(crate) line_breaks: LineBreaks,
    /// Whether the bytes of each unit are asked for.
    pub(crate) unit_sizes: bool,
    /// Whether the bytes of each word are asked for.
    pub(crate) word_sizes: bool,
}

/// The pieces of a batch of documents: for each piece how many of the level below it has, and its bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct Cut {
    /// How many units there are.
    pub(crate) units: u64,
    /// The bytes of each unit, where asked for.
    pub(crate) unit_bytes: Vec<u32>,
    /// The units of each word.
    pub(crate) word_units: Vec<u32>,
    /// The bytes of each word, where asked for.
    pub(crate) word_bytes: Vec<u32>,
    /// The words of each sentence.
    pub(crate) sentence_words: Vec<u64>,
    /// The bytes of each sentence.
    pub(crate) sentence_bytes: Vec<u64>,
    /// The sentences of each paragraph.
    pub(crate) paragraph_sentences: Vec<u64>,
    /// The bytes of each paragraph.
    pub(crate) paragraph_bytes: Vec<u64>,
    /// The paragraphs of each document.
    pub(crate) document_paragraphs: Vec<u64>,
    /// What each unit looks up.
    pub(crate) ids: Ids,
    /// What ids point into.
    pub(crate) vocabulary: Vocabulary,
}

/// What a thread takes at a time.
const TASK_BYTES: usize = 128 << 10;

/// A paragraph, or some lines of a long one.
struct Piece {
    bytes: Range<usize>,
    opens_paragraph: bool,
}

/// Cuts documents that lie one after the other in `text`. `done` is told after every task how many bytes it cut, and may end the work.
///
/// # Errors
/// What `done` says; `overflow` for a word of more than 4 GiB.
pub(crate) fn cut(text: &str, documents: &[Range<usize>], options: CutOptions, done: &(dyn Fn(u64) -> CliResult + Sync)) -> CliResult<Cut> {
    let found: Vec<(u64, Vec<Piece>)> = documents.par_iter().map(|bytes| pieces(text, bytes.clone(), options.line_breaks)).collect();
    let document_paragraphs = found.iter().map(|(paragraphs, _)| *paragraphs).collect();
    let pieces: Vec<Piece> = found.into_iter().flat_map(|(_, pieces)| pieces).collect();
    let tasks: Vec<TaskCut<'_>> = tasks(&pieces)
        .into_par_iter()
        .map(|task| {
            let cut = TaskCut::new(text, task, options)?;
            done(wide(cut.part.text.len()))?;
            Ok(cut)
        })
        .collect::<CliResult<_>>()?;
    Ok(assemble(tasks, document_paragraphs, options.unit))
}

/// How many paragraphs a document has, and the pieces in which they are cut.
fn pieces(text: &str, document: Range<usize>, line_breaks: LineBreaks) -> (u64, Vec<Piece>) {
    let mut count = 0;
    let mut found = Vec::new();
    let mut start = document.start;
    paragraphs(&text[document.clone()], |end| {
        count += 1;
        let paragraph = start..document.start + end;
        start = paragraph.end;
        match line_breaks {
            LineBreaks::End if paragraph.len() > 2 * TASK_BYTES => split_lines(text, paragraph, &mut found),
            LineBreaks::End | LineBreaks::Space => found.push(Piece { bytes: paragraph, opens_paragraph: true }),
        }
    });
    (count, found)
}

/// Splits a long paragraph where a line begins with something that is not blank.
fn split_lines(text: &str, paragraph: Range<usize>, found: &mut Vec<Piece>) {
    let mut start = paragraph.start;
    for line_end in memchr_iter(b'\n', &text.as_bytes()[paragraph.clone()]) {
        let at = paragraph.start + line_end + 1;
        if at - start >= TASK_BYTES && text[at..paragraph.end].chars().next().is_some_and(|c| !is_blank_char(c)) {
            found.push(Piece { bytes: start..at, opens_paragraph: start == paragraph.start });
            start = at;
        }
    }
    found.push(Piece { bytes: start..paragraph.end, opens_paragraph: start == paragraph.start });
}

/// Neighbouring pieces, grouped so that a thread has enough to do.
fn tasks(pieces: &[Piece]) -> Vec<&[Piece]> {
    let mut tasks = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (index, piece) in pieces.iter().enumerate() {
        bytes += piece.bytes.len();
        if bytes >= TASK_BYTES || index + 1 == pieces.len() {
            tasks.push(&pieces[first..=index]);
            (first, bytes) = (index + 1, 0);
        }
    }
    tasks
}

/// What one task found.
struct TaskCut<'t> {
    part: Part<'t>,
    unit_bytes: Vec<u32>,
    word_units: Vec<u32>,
    word_bytes: Vec<u32>,
    sentence_words: Vec<u64>,
    sentence_bytes: Vec<u64>,
    /// For each piece: its sentences, its bytes, and whether it opens a paragraph.
    pieces: Vec<(u64, u64, bool)>,
}

impl<'t> TaskCut<'t> {
    fn new(text: &'t str, task: &[Piece], options: CutOptions) -> CliResult<Self> {
        let bytes = match task {
            [] => 0..0,
            [first, ..] => first.bytes.start..task[task.len() - 1].bytes.end,
        };
        let mut found = TaskCut {
            part: Part { text: &text[bytes], units: 0, collector: Collector::new(options.unit) },
            unit_bytes: Vec::new(),
            word_units: Vec::new(),
            word_bytes: Vec::new(),
            sentence_words: Vec::new(),
            sentence_bytes: Vec::new(),
            pieces: Vec::with_capacity(task.len()),
        };
        let mut longest_word = 0;
        for piece in task {
            let text = &text[piece.bytes.clone()];
            let sentences_before = found.sentence_words.len();
            let mut start = 0;
            sentences(text, options.line_breaks, |end| {
                longest_word = longest_word.max(found.sentence(&text[start..end], options));
                start = end;
            });
            let sentences = found.sentence_words.len() - sentences_before;
            found.pieces.push((wide(sentences), wide(text.len()), piece.opens_paragraph));
        }
        match u32::try_from(longest_word) {
            Ok(_) => Ok(found),
            Err(_) => Err(Error::new(ErrorCode::Overflow, format!("a word has {longest_word} bytes"))
                .at_level("word")
                .help("words may have up to 4 GiB: is this text?")
                .into()),
        }
    }

    /// Takes the next sentence, and gives the bytes of its longest word.
    fn sentence(&mut self, sentence: &str, options: CutOptions) -> usize {
        let mut longest = 0;
        let mut count = 0;
        let mut start = 0;
        words(sentence, |end| {
            let word = &sentence[start..end];
            start = end;
            count += 1;
            longest = longest.max(word.len());
            let units = self.part.collector.word(word, options.unit_sizes.then_some(&mut self.unit_bytes));
            self.part.units += units;
            // Longer ones are refused by the caller.
            self.word_units.push(u32::try_from(units).unwrap_or(u32::MAX));
            if options.word_sizes {
                self.word_bytes.push(u32::try_from(word.len()).unwrap_or(u32::MAX));
            }
        });
        self.sentence_words.push(count);
        self.sentence_bytes.push(wide(sentence.len()));
        longest
    }
}

fn assemble(tasks: Vec<TaskCut<'_>>, document_paragraphs: Vec<u64>, unit: Unit) -> Cut {
    let mut paragraph_sentences: Vec<u64> = Vec::new();
    let mut paragraph_bytes: Vec<u64> = Vec::new();
    for &(sentences, bytes, opens_paragraph) in tasks.iter().flat_map(|task| &task.pieces) {
        match (paragraph_sentences.last_mut(), paragraph_bytes.last_mut()) {
            (Some(last_sentences), Some(last_bytes)) if !opens_paragraph => {
                *last_sentences += sentences;
                *last_bytes += bytes;
            }
            (_, _) => {
                paragraph_sentences.push(sentences);
                paragraph_bytes.push(bytes);
            }
        }
    }
    let sentence_words = joined(&tasks, |task| &task.sentence_words);
    let sentence_bytes = joined(&tasks, |task| &task.sentence_bytes);
    let word_units = joined(&tasks, |task| &task.word_units);
    let word_bytes = joined(&tasks, |task| &task.word_bytes);
    let unit_bytes = joined(&tasks, |task| &task.unit_bytes);
    let units = wide(tasks.iter().map(|task| task.part.units).sum());
    let (ids, vocabulary) = number(unit, tasks.into_iter().map(|task| task.part).collect());
    Cut {
        units,
        unit_bytes,
        word_units,
        word_bytes,
        sentence_words,
        sentence_bytes,
        paragraph_sentences,
        paragraph_bytes,
        document_paragraphs,
        ids,
        vocabulary,
    }
}

fn joined<'a, T: Copy + 'a>(tasks: &'a [TaskCut<'_>], list: impl Fn(&'a TaskCut<'_>) -> &'a Vec<T>) -> Vec<T> {
    let mut all = Vec::with_capacity(tasks.iter().map(|task| list(task).len()).sum());
    tasks.iter().for_each(|task| all.extend_from_slice(list(task)));
    all
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use proptest::prelude::*;

    fn options(unit: Unit, line_breaks: LineBreaks) -> CutOptions {
        CutOptions { unit, line_breaks, unit_sizes: true, word_sizes: true }
    }

    fn cut_all(texts: &[String], options: CutOptions) -> Cut {
        let text = texts.concat();
        let mut end = 0;
        let documents: Vec<Range<usize>> = texts
            .iter()
            .map(|text| {
                end += text.len();
                end - text.len()..end
            })
            .collect();
        cut(&text, &documents, options, &|_| Ok(())).unwrap()
    }

    /// Sizes of groups as sums of the sizes of their members.
    fn sums(counts: impl IntoIterator<Item = u64>, sizes: &[u64]) -> Vec<u64> {
        let mut rest = sizes;
        let sums = counts.into_iter().map(|count| {
            let (group, behind) = rest.split_at(usize::try_from(count).unwrap());
            rest = behind;
            group.iter().sum()
        });
        let sums = sums.collect();
        assert_eq!(rest, [0u64; 0], "every member lies in a group");
        sums
    }

    fn widened(list: &[u32]) -> Vec<u64> {
        list.iter().copied().map(u64::from).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_level_partitions_the_bytes(
            texts in proptest::collection::vec(samples::text(), 0..6),
            unit in proptest::sample::select(vec![Unit::Byte, Unit::Char, Unit::Grapheme]),
            line_breaks in proptest::sample::select(vec![LineBreaks::End, LineBreaks::Space]),
        ) {
            let cut = cut_all(&texts, options(unit, line_breaks));
            let units = widened(&cut.unit_bytes);
            prop_assert_eq!(units.len(), usize::try_from(cut.units).unwrap());
            let words = sums(widened(&cut.word_units), &units);
            prop_assert_eq!(&words, &widened(&cut.word_bytes));
            let sentences = sums(cut.sentence_words.clone(), &words);
            prop_assert_eq!(&sentences, &cut.sentence_bytes);
            let paragraphs = sums(cut.paragraph_sentences.clone(), &sentences);
            prop_assert_eq!(&paragraphs, &cut.paragraph_bytes);
            let documents = sums(cut.document_paragraphs.clone(), &paragraphs);
            prop_assert_eq!(documents, texts.iter().map(|text| wide(text.len())).collect::<Vec<_>>());
            for sizes in [&units, &words, &sentences, &paragraphs] {
                prop_assert!(!sizes.contains(&0), "no piece is empty");
            }
            // And no piece ends inside a character.
            let text = texts.concat();
            if unit != Unit::Byte {
                let mut end = 0;
                for size in units {
                    end += usize::try_from(size).unwrap();
                    prop_assert!(text.is_char_boundary(end));
                }
            }
        }
    }

    #[test]
    fn lines_of_a_long_paragraph_are_cut_alike_apart() {
        let lines = "One line. With two sentences, é?\n  indented: \u{301}x\n\u{2028}y\n\u{feff}mark\nplain ascii line (so. it is)\r\n";
        let text = lines.repeat(8000);
        let found = cut_all(std::slice::from_ref(&text), options(Unit::Char, LineBreaks::End));
        let mut whole = Vec::new();
        let mut start = 0;
        sentences(&text, LineBreaks::End, |end| {
            whole.push(wide(end - start));
            start = end;
        });
        assert!(text.len() > 4 * TASK_BYTES);
        assert_eq!(found.sentence_bytes, whole);
        assert_eq!(found.paragraph_bytes, [wide(text.len())]);
    }

    #[test]
    fn empty_documents_have_no_pieces() {
        let texts = ["", "a b\n\n\nc", "", "\n\n"].map(str::to_owned);
        let cut = cut_all(&texts, options(Unit::Char, LineBreaks::End));
        assert_eq!(cut.document_paragraphs, [0, 2, 0, 1]);
        assert_eq!(cut.paragraph_bytes, [6, 1, 2]);
        assert_eq!(cut.word_bytes, [2, 4, 1, 2]);
        let nothing = cut_all(&[], options(Unit::Grapheme, LineBreaks::End));
        assert_eq!((nothing.units, nothing.document_paragraphs.len()), (0, 0));
    }

    #[test]
    fn an_interrupt_ends_it() {
        let stop = |_| Err(crate::failure::Failure::Interrupted);
        assert!(cut("text", std::slice::from_ref(&(0..4)), options(Unit::Byte, LineBreaks::End), &stop).is_err());
    }
}

//! Cutting text: documents, paragraphs, sentences, words and units, each level a partition of its parent.
//!
//! What is guaranteed: the pieces of a level, laid end to end, are the document, byte for byte; no piece is empty; and every piece lies in
//! one piece of the level above. Only an empty document has no pieces.
//!
//! - A *document* is one file.
//! - A *paragraph* ends where a line that is not blank follows a blank one (lines end with LF, CRLF or CR).
//! - A *sentence* is what lies between the sentence boundaries of UAX #29 inside its paragraph. By these rules a line break ends a sentence;
//!   [`LineBreaks::Space`] reads line breaks as spaces instead, for text that was wrapped.
//! - A *word* is what lies between the word boundaries of UAX #29 inside its sentence. Punctuation is a word of its own: `Hello, world!` has
//!   the words `Hello`, `, `, `world` and `!`.
//! - A *unit* is a byte, a code point, or an extended grapheme cluster of UAX #29 inside its word.
//!
//! Separators are never pieces of their own: what is blank (white space, or a byte order mark) joins the piece before it, and at the start
//! of its parent the piece after it. A parent that is nothing but blanks is one piece.

mod cut;
mod paragraph;
mod sentence;
mod units;
mod utf8;
mod word;

pub(crate) use cut::{Cut, CutOptions, cut};
pub(crate) use units::{Ids, Vocabulary};
pub(crate) use utf8::{InvalidUtf8, Repairs, decode};

/// What the leaves are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Unit {
    /// Code points
    Char,
    /// Bytes of UTF-8
    Byte,
    /// Extended grapheme clusters: what a reader calls a character
    Grapheme,
}

impl Unit {
    /// The name of the lowest level.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Char => "char",
            Unit::Byte => "byte",
            Unit::Grapheme => "grapheme",
        }
    }
}

/// What a line break inside a paragraph means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LineBreaks {
    /// It ends the sentence, as UAX #29 has it
    End,
    /// It is a space, as in text that was wrapped
    Space,
}

/// Whether a character separates: white space, or a byte order mark.
fn is_blank_char(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

/// Whether there is nothing but separators.
fn is_blank(text: &str) -> bool {
    match text.as_bytes().first() {
        Some(0x21..=0x7e) => false,
        Some(_) | None => text.chars().all(is_blank_char),
    }
}

/// Takes the ends of segments that partition a text, and gives the ends of its pieces: blank segments join the piece before, leading ones
/// the piece after.
struct Joiner<'t, F> {
    text: &'t str,
    last: usize,
    content: bool,
    emit: F,
}

impl<'t, F: FnMut(usize)> Joiner<'t, F> {
    fn new(text: &'t str, emit: F) -> Self {
        Joiner { text, last: 0, content: false, emit }
    }

    #[inline(always)]
    fn push(&mut self, end: usize) {
        if !is_blank(&self.text[self.last..end]) {
            if self.content {
                (self.emit)(self.last);
            }
            self.content = true;
        }
        self.last = end;
    }

    fn finish(mut self) {
        if self.last > 0 {
            (self.emit)(self.last);
        }
    }
}

/// Text that finds mistakes: what cutters stumble over, mixed at random.
#[cfg(test)]
mod samples {
    use proptest::prelude::*;

    /// Pieces that matter to UAX #29, to blank lines, and to UTF-8.
    const PARTS: &[&str] = &[
        "a",
        "b",
        "Z",
        "Q",
        "0",
        "7",
        ".",
        "!",
        "?",
        ",",
        ":",
        ";",
        "'",
        "\"",
        "(",
        ")",
        "[",
        "}",
        "_",
        "-",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        "\r\n\r\n",
        "\n \n",
        "\u{b}",
        "\u{c}",
        "\u{85}",
        "\u{2028}",
        "\u{2029}",
        "\u{a0}",
        "\u{3000}",
        "\u{feff}",
        "\u{ad}",
        "\u{301}",
        "\u{200d}",
        "é",
        "ß",
        "Ω",
        "я",
        "中",
        "文",
        "。",
        "か",
        "カ",
        "ー",
        "각",
        "א",
        "\"",
        "״",
        "👩‍👩‍👧",
        "🇩🇪",
        "🇫",
        "👍🏽",
        "…",
        "«",
        "»",
        "“",
        "”",
        "hello",
        "World",
        "e.g.",
        "3.14",
        "can't",
        "U.S.A.",
        "etc.) and",
        "\0",
        "\u{7f}",
        "\u{10ffff}",
    ];

    /// Any text, most of it made of parts that matter.
    pub(super) fn text() -> impl Strategy<Value = String> {
        let part = prop_oneof![9 => proptest::sample::select(PARTS).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    /// Any ASCII text.
    pub(super) fn ascii() -> impl Strategy<Value = String> {
        let parts: Vec<&str> = PARTS.iter().copied().filter(|part| part.is_ascii()).collect();
        let part = prop_oneof![
            9 => proptest::sample::select(parts).prop_map(str::to_owned),
            1 => (0u8..128).prop_map(|byte| char::from(byte).to_string())
        ];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `parts` of "ab", " ", … joined, as strings.
    fn joined(parts: &[&str]) -> Vec<String> {
        let text = parts.concat();
        let mut ends = Vec::new();
        let mut joiner = Joiner::new(&text, |end| ends.push(end));
        let mut end = 0;
        for part in parts {
            end += part.len();
            joiner.push(end);
        }
        joiner.finish();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends.iter()).map(|(start, &end)| text[start..end].to_owned()).collect()
    }

    #[test]
    fn blanks_join_what_is_before_them() {
        assert_eq!(joined(&["a", " ", "b", "\u{3000}", "\n"]), ["a ", "b\u{3000}\n"]);
        assert_eq!(joined(&["\u{feff}", " ", "a", "b"]), ["\u{feff} a", "b"]);
        assert_eq!(joined(&[" ", "\t"]), [" \t"]);
        assert_eq!(joined(&[]), [""; 0]);
    }
}

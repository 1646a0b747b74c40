//! Sentences: the boundaries of UAX #29.
//!
//! ASCII text takes a path of its own, several times as fast and linear in its length; tests hold it against `unicode-segmentation`, which
//! cuts everything else. There, the look-ahead of rule SB8 starts anew at each closing mark and space that follows a full stop, so long
//! runs of those are shortened before, which moves no boundary.

use super::{Joiner, LineBreaks};
use memchr::memchr;
use unicode_segmentation::UnicodeSegmentation;

/// Gives the end of every sentence of a paragraph, or of some of its lines.
pub(super) fn sentences(text: &str, line_breaks: LineBreaks, emit: impl FnMut(usize)) {
    let mut joiner = Joiner::new(text, emit);
    match line_breaks {
        LineBreaks::End => {
            // A line break is a boundary whatever surrounds it, so each line can be cut alone.
            let mut start = 0;
            while start < text.len() {
                let end = memchr(b'\n', &text.as_bytes()[start..]).map_or(text.len(), |found| start + found + 1);
                boundaries(&text[start..end], |at| joiner.push(start + at));
                start = end;
            }
        }
        LineBreaks::Space if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_some() => {
            // Bytes for bytes, so that positions stay what they are.
            let unwrapped = text.replace(['\n', '\r'], " ");
            boundaries(&unwrapped, |at| joiner.push(at));
        }
        LineBreaks::Space => boundaries(text, |at| joiner.push(at)),
    }
    joiner.finish();
}

fn boundaries(text: &str, mut emit: impl FnMut(usize)) {
    if text.is_ascii() {
        return ascii_boundaries(text.as_bytes(), emit);
    }
    let Some(short) = Shortened::new(text) else {
        return text.split_sentence_bound_indices().for_each(|(at, sentence)| emit(at + sentence.len()));
    };
    let mut dropped = short.dropped.iter().peekable();
    let mut moved = 0;
    for (at, sentence) in short.text.split_sentence_bound_indices() {
        let end = at + sentence.len();
        while let Some(drop) = dropped.next_if(|drop| drop.at <= end) {
            moved += drop.bytes;
        }
        emit(end + moved);
    }
}

/// A text whose long runs were shortened.
struct Shortened {
    text: String,
    dropped: Vec<Dropped>,
}

/// Bytes left out of a run, after its part that was kept.
struct Dropped {
    at: usize,
    bytes: usize,
}

/// How many characters of a run are kept. The rules tell one space (or closing mark) from none, and not one from two.
const KEPT: usize = 16;

impl Shortened {
    /// `None` where there is no long run.
    fn new(text: &str) -> Option<Self> {
        let mut short = Shortened { text: String::new(), dropped: Vec::new() };
        let mut copied = 0;
        let mut run = (Run::None, 0usize);
        for (at, c) in text.char_indices() {
            let kind = Run::of(c);
            run = if kind != Run::None && kind == run.0 { (kind, run.1 + 1) } else { (kind, 1) };
            if run.1 <= KEPT || kind == Run::None {
                continue;
            }
            if run.1 == KEPT + 1 {
                short.text.push_str(&text[copied..at]);
                short.dropped.push(Dropped { at: short.text.len(), bytes: 0 });
            }
            copied = at + c.len_utf8();
            if let Some(last) = short.dropped.last_mut() {
                last.bytes += c.len_utf8();
            }
        }
        short.text.push_str(&text[copied..]);
        (!short.dropped.is_empty()).then_some(short)
    }
}

/// Runs inside which UAX #29 has no sentence boundary, and whose length makes no difference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    None,
    /// Spaces that do not end a line.
    Space,
    /// One mark, again and again.
    Mark(char),
}

impl Run {
    fn of(c: char) -> Self {
        match c {
            '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => Run::None,
            c if c.is_whitespace() => Run::Space,
            // The ASCII closing marks are one kind, so that they can follow each other in any order.
            '"' | '\'' | '(' | ')' | '[' | ']' | '{' | '}' => Run::Mark('"'),
            c if c.is_alphanumeric() => Run::None,
            c => Run::Mark(c),
        }
    }
}

/// What a byte is to the sentence rules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Upper,
    Lower,
    Digit,
    FullStop,
    Stop,
    Close,
    Space,
    Continue,
    LineEnd,
}

const CLASSES: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut byte = 0u8;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'A'..=b'Z' => Class::Upper,
            b'a'..=b'z' => Class::Lower,
            b'0'..=b'9' => Class::Digit,
            b'.' => Class::FullStop,
            b'!' | b'?' => Class::Stop,
            b'"' | b'\'' | b'(' | b')' | b'[' | b']' | b'{' | b'}' => Class::Close,
            b'\t' | 0x0b | 0x0c | b' ' => Class::Space,
            b',' | b'-' | b':' | b';' => Class::Continue,
            b'\n' | b'\r' => Class::LineEnd,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

#[inline(always)]
fn class(byte: u8) -> Class {
    CLASSES[usize::from(byte & 0x7f)]
}

/// The sentence boundaries of ASCII text, by the numbers of UAX #29.
fn ascii_boundaries(text: &[u8], mut emit: impl FnMut(usize)) {
    let mut at = 0;
    while at < text.len() {
        match class(text[at]) {
            Class::LineEnd => {
                at = after_line_end(text, at);
                emit(at);
                if at == text.len() {
                    return;
                }
            }
            Class::FullStop | Class::Stop => {
                let next = after_stop(text, at);
                at = match next {
                    Next::Boundary(end) => {
                        emit(end);
                        if end == text.len() {
                            return;
                        }
                        end
                    }
                    Next::Within(next) => next,
                };
            }
            Class::Other | Class::Upper | Class::Lower | Class::Digit | Class::Close | Class::Space | Class::Continue => at += 1,
        }
    }
    if !text.is_empty() {
        emit(text.len());
    }
}

enum Next {
    Boundary(usize),
    Within(usize),
}

/// What follows the full stop, exclamation or question mark at `stop`.
fn after_stop(text: &[u8], stop: usize) -> Next {
    let full_stop = class(text[stop]) == Class::FullStop;
    let following = text.get(stop + 1).map(|&byte| class(byte));
    if full_stop && following == Some(Class::Digit) {
        return Next::Within(stop + 1); // SB6
    }
    let after_letter = stop > 0 && matches!(class(text[stop - 1]), Class::Upper | Class::Lower);
    if full_stop && after_letter && following == Some(Class::Upper) {
        return Next::Within(stop + 1); // SB7
    }
    let skip = |from: usize, skipped: Class| text[from..].iter().position(|&byte| class(byte) != skipped).map_or(text.len(), |n| from + n);
    let at = skip(skip(stop + 1, Class::Close), Class::Space); // SB9, SB10
    let Some(&byte) = text.get(at) else {
        return Next::Boundary(text.len());
    };
    if full_stop && a_lower_letter_is_next(&text[at..]) {
        return Next::Within(at); // SB8
    }
    match class(byte) {
        Class::Continue | Class::FullStop | Class::Stop => Next::Within(at), // SB8a
        Class::LineEnd => Next::Boundary(after_line_end(text, at)),          // SB9, SB10, then SB4
        Class::Other | Class::Upper | Class::Lower | Class::Digit | Class::Close | Class::Space => Next::Boundary(at), // SB11
    }
}

/// Whether a lower-case letter comes before any other letter, line end or stop.
fn a_lower_letter_is_next(text: &[u8]) -> bool {
    for &byte in text {
        match class(byte) {
            Class::Lower => return true,
            Class::Upper | Class::LineEnd | Class::FullStop | Class::Stop => return false,
            Class::Other | Class::Digit | Class::Close | Class::Space | Class::Continue => {}
        }
    }
    false
}

/// After a CR, LF or CRLF.
fn after_line_end(text: &[u8], at: usize) -> usize {
    if text[at] == b'\r' && text.get(at + 1) == Some(&b'\n') { at + 2 } else { at + 1 }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use proptest::prelude::*;

    fn by_the_crate(text: &str) -> Vec<usize> {
        text.split_sentence_bound_indices().map(|(at, sentence)| at + sentence.len()).collect()
    }

    fn raw(text: &str) -> Vec<usize> {
        let mut ends = Vec::new();
        boundaries(text, |end| ends.push(end));
        ends
    }

    fn cut(text: &str, line_breaks: LineBreaks) -> Vec<&str> {
        let mut start = 0;
        let mut pieces = Vec::new();
        sentences(text, line_breaks, |end| {
            pieces.push(&text[start..end]);
            start = end;
        });
        pieces
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn ascii_boundaries_are_those_of_uax_29(text in samples::ascii()) {
            prop_assert_eq!(raw(&text), by_the_crate(&text), "{:?}", text);
        }

        #[test]
        fn lines_can_be_cut_alone(text in samples::text()) {
            let mut joined = Vec::new();
            let mut joiner = Joiner::new(&text, |end| joined.push(end));
            by_the_crate(&text).into_iter().for_each(|end| joiner.push(end));
            joiner.finish();
            let mut ends = Vec::new();
            sentences(&text, LineBreaks::End, |end| ends.push(end));
            prop_assert_eq!(ends, joined, "{:?}", text);
        }

        #[test]
        fn shortening_moves_no_boundary(text in samples::text(), mark in "[ \u{3000}\")»…*\u{301}]", count in 17usize..60, again in 0usize..3) {
            let mut text = text;
            for _ in 0..=again {
                let at = text.char_indices().map(|(at, _)| at).nth(text.chars().count() / 2).unwrap_or(0);
                text.insert_str(at, &mark.repeat(count));
                text.insert(at, '.');
            }
            prop_assert_eq!(raw(&text), by_the_crate(&text), "{:?}", text);
        }
    }

    #[test]
    fn separators_join_the_sentence_before() {
        assert_eq!(cut("One.  Two! (Three?) four.\n", LineBreaks::End), ["One.  ", "Two! ", "(Three?) ", "four.\n"]);
        assert_eq!(cut("\n\n One. \n\n\n", LineBreaks::End), ["\n\n One. \n\n\n"]);
        assert_eq!(cut("3.14 e.g. this. U.S. law. It", LineBreaks::End), ["3.14 e.g. this. ", "U.S. law. ", "It"]);
        assert_eq!(cut("これは。文です。", LineBreaks::End), ["これは。", "文です。"]);
    }

    #[test]
    fn a_line_break_ends_a_sentence_or_is_a_space() {
        let text = "This was wrapped\r\nby hand. And\nso on.\n";
        assert_eq!(cut(text, LineBreaks::End), ["This was wrapped\r\n", "by hand. ", "And\n", "so on.\n"]);
        assert_eq!(cut(text, LineBreaks::Space), ["This was wrapped\r\nby hand. ", "And\nso on.\n"]);
    }

    #[test]
    fn long_runs_take_linear_time() {
        // Quadratic, each of these would take minutes.
        for run in [" ", "\"", "\u{3000}", ")]", "»", ". ", "\u{301}", "1 ", "\u{a0}"] {
            for head in ["é. ", "e. "] {
                let text = format!("{head}{}", run.repeat(200_000));
                assert_eq!(raw(&text).last(), Some(&text.len()), "{run:?}");
            }
        }
    }
}

//! Words: the boundaries of UAX #29.
//!
//! ASCII text takes a path of its own; tests hold it against `unicode-segmentation`, which cuts everything else.

use super::Joiner;
use memchr::memchr_iter;
use unicode_segmentation::UnicodeSegmentation;

/// Gives the end of every word of a sentence.
pub(super) fn words(sentence: &str, emit: impl FnMut(usize)) {
    let mut joiner = Joiner::new(sentence, emit);
    if sentence.is_ascii() {
        ascii_boundaries(sentence.as_bytes(), |end| joiner.push(end));
    } else {
        boundaries(sentence, |end| joiner.push(end));
    }
    joiner.finish();
}

/// Between a space and an ASCII mark or letter there is always a boundary, across which no rule looks: what lies between two of those is
/// cut alone, mostly on the fast path.
fn boundaries(text: &str, mut emit: impl FnMut(usize)) {
    let bytes = text.as_bytes();
    let mut start = 0;
    let mut cut = |start: usize, end: usize| {
        let part = &text[start..end];
        if part.is_ascii() {
            ascii_boundaries(part.as_bytes(), |at| emit(start + at));
        } else {
            part.split_word_bound_indices().for_each(|(at, word)| emit(start + at + word.len()));
        }
    };
    for space in memchr_iter(b' ', bytes) {
        if bytes.get(space + 1).is_some_and(u8::is_ascii_graphic) {
            cut(start, space + 1);
            start = space + 1;
        }
    }
    if start < text.len() {
        cut(start, text.len());
    }
}

/// What a byte is to the word rules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Letter,
    Digit,
    Underscore,
    /// `.` and `'`: inside words and inside numbers.
    MidBoth,
    /// `:` inside words.
    MidWord,
    /// `,` and `;` inside numbers.
    MidNumber,
    Space,
    Return,
}

const CLASSES: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut byte = 0u8;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'A'..=b'Z' | b'a'..=b'z' => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'_' => Class::Underscore,
            b'.' | b'\'' => Class::MidBoth,
            b':' => Class::MidWord,
            b',' | b';' => Class::MidNumber,
            b' ' => Class::Space,
            b'\r' => Class::Return,
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

/// The word boundaries of ASCII text, by the numbers of UAX #29.
fn ascii_boundaries(text: &[u8], mut emit: impl FnMut(usize)) {
    let mut at = 0;
    while at < text.len() {
        at = match class(text[at]) {
            Class::Letter | Class::Digit | Class::Underscore => after_word(text, at),
            Class::Space => at + text[at..].iter().take_while(|&&byte| byte == b' ').count(), // WB3d
            Class::Return if text.get(at + 1) == Some(&b'\n') => at + 2,                      // WB3
            Class::Return | Class::Other | Class::MidBoth | Class::MidWord | Class::MidNumber => at + 1,
        };
        emit(at);
    }
}

/// Where the word that starts at `at` ends: WB5 to WB13b.
#[inline(always)]
fn after_word(text: &[u8], mut at: usize) -> usize {
    loop {
        let before = class(text[at]);
        at += 1;
        let Some(&byte) = text.get(at) else { return at };
        let joins = match class(byte) {
            Class::Letter | Class::Digit | Class::Underscore => continue,
            Class::MidBoth => [Class::Letter, Class::Digit].as_slice(),
            Class::MidWord => &[Class::Letter],
            Class::MidNumber => &[Class::Digit],
            Class::Space | Class::Return | Class::Other => return at,
        };
        let after = text.get(at + 1).map(|&byte| class(byte));
        if after != Some(before) || !joins.contains(&before) {
            return at;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str) -> Vec<&str> {
        let mut start = 0;
        let mut pieces = Vec::new();
        words(text, |end| {
            pieces.push(&text[start..end]);
            start = end;
        });
        pieces
    }

    fn by_the_crate(text: &str) -> Vec<usize> {
        text.split_word_bound_indices().map(|(at, word)| at + word.len()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn ascii_boundaries_are_those_of_uax_29(text in samples::ascii()) {
            let mut ends = Vec::new();
            ascii_boundaries(text.as_bytes(), |end| ends.push(end));
            prop_assert_eq!(ends, by_the_crate(&text), "{:?}", text);
        }

        #[test]
        fn boundaries_are_those_of_uax_29(text in samples::text()) {
            let mut ends = Vec::new();
            boundaries(&text, |end| ends.push(end));
            prop_assert_eq!(ends, by_the_crate(&text), "{:?}", text);
        }
    }

    #[test]
    fn punctuation_is_a_word_and_space_joins_the_word_before() {
        assert_eq!(cut("Hello, world!"), ["Hello", ", ", "world", "!"]);
        assert_eq!(cut("  It can't cost 3,141.5 €.\r\n"), ["  It ", "can't ", "cost ", "3,141.5 ", "€", ".\r\n"]);
        assert_eq!(cut("snake_case x2 e.g. a::b"), ["snake_case ", "x2 ", "e.g", ". ", "a", ":", ":", "b"]);
        assert_eq!(cut("中文 字"), ["中", "文 ", "字"]);
        assert_eq!(cut("👩‍👩‍👧 e\u{301}t\u{e9} 🇩🇪🇫🇷"), ["👩‍👩‍👧 ", "e\u{301}t\u{e9} ", "🇩🇪", "🇫🇷"]);
        assert_eq!(cut(" \t"), [" \t"]);
    }

    #[test]
    fn long_runs_take_linear_time() {
        for run in ["a", " ", "a'", "1,", "🇩", "\u{301}", "\u{200d}", "é:", "\"", "א\""] {
            let text = format!("é{}", run.repeat(200_000));
            assert_eq!(cut(&text).concat(), text);
        }
    }
}

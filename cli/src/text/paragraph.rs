//! Paragraphs: what blank lines separate.

use super::is_blank;
use memchr::memchr2;

/// Gives the end of every paragraph of a document, in order; an empty document has none.
pub(super) fn paragraphs(text: &str, mut emit: impl FnMut(usize)) {
    let mut content = false;
    let mut after_blank = false;
    let mut start = 0;
    while start < text.len() {
        let end = line_end(text.as_bytes(), start);
        if is_blank(&text[start..end]) {
            after_blank = true;
        } else {
            if content && after_blank {
                emit(start);
            }
            content = true;
            after_blank = false;
        }
        start = end;
    }
    if !text.is_empty() {
        emit(text.len());
    }
}

/// Where the line that starts at `start` ends, its LF, CRLF or CR included.
fn line_end(bytes: &[u8], start: usize) -> usize {
    let Some(found) = memchr2(b'\n', b'\r', &bytes[start..]) else {
        return bytes.len();
    };
    let at = start + found;
    if bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n') { at + 2 } else { at + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        let mut start = 0;
        let mut pieces = Vec::new();
        paragraphs(text, |end| {
            pieces.push(&text[start..end]);
            start = end;
        });
        pieces
    }

    #[test]
    fn blank_lines_separate_and_join_what_is_before_them() {
        assert_eq!(cut("a\nb\n\nc\n"), ["a\nb\n\n", "c\n"]);
        assert_eq!(cut("a\r\n\r\nb"), ["a\r\n\r\n", "b"]);
        assert_eq!(cut("a\r\rb"), ["a\r\r", "b"]);
        assert_eq!(cut("a\n \t\n\n\u{3000}\n b\n\n"), ["a\n \t\n\n\u{3000}\n", " b\n\n"]);
        assert_eq!(cut("\n\n  \na\n\nb"), ["\n\n  \na\n\n", "b"]);
        assert_eq!(cut("\n \n\n"), ["\n \n\n"]);
        assert_eq!(cut("one line"), ["one line"]);
        assert_eq!(cut(""), [""; 0]);
    }
}

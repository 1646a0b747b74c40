//! From bytes to text, and from positions in repaired text back to the bytes of the file.

use levelfold::{Error, ErrorCode};

/// What to do about bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum InvalidUtf8 {
    /// Name the file and the byte, and stop
    Error,
    /// Put U+FFFD in their place
    Replace,
}

/// Where a text differs from the bytes that it was read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repairs(Vec<Repair>);

#[derive(Clone, Copy, Debug)]
struct Repair {
    /// The position behind the replacement, in the text.
    text: u64,
    /// The position behind the replaced bytes, in the file.
    source: u64,
}

impl Repairs {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The position in the file of a position in the text (one between two characters).
    pub(crate) fn source(&self, text: u64) -> u64 {
        match self.0[..self.0.partition_point(|repair| repair.text <= text)] {
            [] => text,
            [.., before] => before.source + (text - before.text),
        }
    }
}

const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Makes `buffer[start..]`, the bytes of file `name`, valid UTF-8.
///
/// # Errors
/// `utf8` with the file and the byte, unless they are to be replaced.
pub(crate) fn decode(buffer: &mut Vec<u8>, start: usize, policy: InvalidUtf8, name: &str) -> Result<Repairs, Error> {
    let Err(found) = std::str::from_utf8(&buffer[start..]) else {
        return Ok(Repairs::default());
    };
    match policy {
        InvalidUtf8::Error => Err(invalid(&buffer[start..], found.valid_up_to(), name)),
        InvalidUtf8::Replace => {
            let source = buffer.split_off(start);
            let mut repairs = Vec::new();
            let mut at = 0;
            for chunk in source.utf8_chunks() {
                buffer.extend_from_slice(chunk.valid().as_bytes());
                at += chunk.valid().len();
                if !chunk.invalid().is_empty() {
                    buffer.extend_from_slice(REPLACEMENT);
                    at += chunk.invalid().len();
                    repairs.push(Repair { text: position(buffer.len() - start), source: position(at) });
                }
            }
            Ok(Repairs(repairs))
        }
    }
}

fn position(at: usize) -> u64 {
    u64::try_from(at).unwrap_or(u64::MAX)
}

#[cold]
fn invalid(bytes: &[u8], at: usize, name: &str) -> Error {
    let help = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the file looks like UTF-16: convert it to UTF-8",
        _ => "convert it to UTF-8, or replace such bytes with --invalid-utf8 replace",
    };
    Error::new(ErrorCode::Utf8, format!("byte {at} (0x{:02x}) is not UTF-8", bytes[at])).at_level(name).at_index(position(at)).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_error_names_file_and_byte() {
        let mut buffer = b"other file\xffab\xc3(".to_vec();
        let error = decode(&mut buffer, 11, InvalidUtf8::Error, "notes.txt").unwrap_err();
        assert_eq!(
            error.to_string(),
            "notes.txt: byte 2 (0xc3) is not UTF-8; convert it to UTF-8, or replace such bytes with --invalid-utf8 replace [utf8]"
        );
        let error = decode(&mut b"\xff\xfeh\0i\0".to_vec(), 0, InvalidUtf8::Error, "a").unwrap_err();
        assert!(error.to_string().contains("UTF-16"), "{error}");
    }

    proptest! {
        #[test]
        fn replaces_as_the_standard_library_does_and_finds_the_way_back(
            parts in proptest::collection::vec(prop_oneof![
                any::<char>().prop_map(|c| c.to_string().into_bytes()),
                proptest::collection::vec(any::<u8>(), 1..4),
            ], 0..20)
        ) {
            let bytes = parts.concat();
            let mut buffer = b"before".to_vec();
            buffer.extend_from_slice(&bytes);
            let repairs = decode(&mut buffer, 6, InvalidUtf8::Replace, "f").unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            prop_assert_eq!(&buffer[6..], text.as_bytes());
            prop_assert_eq!(repairs.source(position(text.len())), position(bytes.len()));
            let mut last = 0;
            for (at, c) in text.char_indices() {
                let from = usize::try_from(repairs.source(position(at))).unwrap();
                prop_assert!(from >= last);
                last = from;
                if c != '\u{fffd}' {
                    let bytes_of_c = c.to_string().into_bytes();
                    prop_assert_eq!(&bytes[from..from + c.len_utf8()], &bytes_of_c[..]);
                }
            }
        }
    }
}

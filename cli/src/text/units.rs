//! Units and their ids: which row of a table each unit looks up.
//!
//! Ids are compact. A vocabulary lists the keys that occur, ids point into it, and they are as narrow as its length allows. Bytes, and code
//! points of ASCII text, need no ids at all: the text itself is them.

use super::Unit;
use rayon::prelude::*;
use std::collections::HashMap;
use unicode_segmentation::UnicodeSegmentation;

/// One id for each unit, in order.
#[derive(Debug, PartialEq)]
pub(crate) enum Ids {
    /// The bytes of the text.
    Text,
    /// Up to 256 keys.
    U8(Vec<u8>),
    /// Up to 65536 keys.
    U16(Vec<u16>),
    /// More.
    U32(Vec<u32>),
}

/// What ids point into: the key of every row. See [`key_of_grapheme`] for what a key is.
#[derive(Debug, PartialEq)]
pub(crate) struct Vocabulary(pub(crate) Vec<u64>);

/// The key of a grapheme cluster: its code point where it is one, else the 64-bit FNV-1a hash of its UTF-8 bytes with the top bit set.
/// The key of a code point or byte is its value.
pub(crate) fn key_of_grapheme(grapheme: &str) -> u64 {
    let mut chars = grapheme.chars();
    match (chars.next(), chars.next()) {
        (Some(only), None) => u64::from(u32::from(only)),
        (_, _) => {
            let hash = grapheme.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
            hash | 1 << 63
        }
    }
}

/// Gathers what one part of a text has of units.
pub(super) enum Collector {
    Byte,
    Char(CodePoints),
    Grapheme(Graphemes),
}

impl Collector {
    pub(super) fn new(unit: Unit) -> Self {
        match unit {
            Unit::Byte => Collector::Byte,
            Unit::Char => Collector::Char(CodePoints::new()),
            Unit::Grapheme => Collector::Grapheme(Graphemes::default()),
        }
    }

    /// Takes the next word, and gives its number of units. `sizes` takes the bytes of each.
    pub(super) fn word(&mut self, word: &str, sizes: Option<&mut Vec<u32>>) -> usize {
        match self {
            Collector::Byte => {
                if let Some(sizes) = sizes {
                    sizes.extend(word.bytes().map(|_| 1));
                }
                word.len()
            }
            Collector::Char(seen) => {
                if let Some(sizes) = sizes {
                    sizes.extend(word.chars().map(|c| narrow(c.len_utf8())));
                }
                seen.insert_all(word)
            }
            Collector::Grapheme(seen) => {
                let before = seen.ids.len();
                for grapheme in word.graphemes(true) {
                    seen.push(key_of_grapheme(grapheme));
                }
                if let Some(sizes) = sizes {
                    sizes.extend(word.graphemes(true).map(|grapheme| narrow(grapheme.len())));
                }
                seen.ids.len() - before
            }
        }
    }
}

/// A unit's bytes. A grapheme cluster of more than 4 GiB would lie in a word of more than 4 GiB, which is refused.
fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A set of code points.
pub(super) struct CodePoints {
    ascii: [bool; 128],
    /// One bit for each code point, once there is one beyond ASCII.
    all: Vec<u64>,
}

impl CodePoints {
    fn new() -> Self {
        CodePoints { ascii: [false; 128], all: Vec::new() }
    }

    fn insert_all(&mut self, word: &str) -> usize {
        if word.is_ascii() {
            for byte in word.bytes() {
                self.ascii[usize::from(byte & 0x7f)] = true;
            }
            return word.len();
        }
        if self.all.is_empty() {
            self.all = vec![0; 0x11_0000 / 64];
        }
        let mut count = 0;
        for c in word.chars() {
            let (word, bit) = slot(c);
            self.all[word] |= 1 << bit;
            count += 1;
        }
        count
    }

    fn merge(mut self, other: &CodePoints) -> Self {
        self.ascii.iter_mut().zip(other.ascii).for_each(|(mine, theirs)| *mine |= theirs);
        if self.all.is_empty() {
            self.all.clone_from(&other.all);
        } else {
            self.all.iter_mut().zip(&other.all).for_each(|(mine, theirs)| *mine |= theirs);
        }
        self
    }

    /// In ascending order.
    fn list(&self) -> Vec<u32> {
        // What is ASCII is in the first of both, or in the second where it stands in a word with others.
        let in_first = |code: u32| usize::try_from(code).is_ok_and(|code| self.ascii.get(code) == Some(&true));
        let in_second = |code: u32| self.all.get(usize::try_from(code / 64).unwrap_or(0)).is_some_and(|word| word >> (code % 64) & 1 == 1);
        let last = if self.all.is_empty() { 128 } else { 0x11_0000 };
        (0..last).filter(|&code| in_first(code) || in_second(code)).collect()
    }
}

fn slot(c: char) -> (usize, u32) {
    let code = u32::from(c);
    (usize::try_from(code / 64).unwrap_or(0), code % 64)
}

/// Ids into a list of keys of its own.
#[derive(Default)]
pub(super) struct Graphemes {
    ids: Vec<u32>,
    keys: Vec<u64>,
    index: HashMap<u64, u32>,
    /// The id + 1 of each key below 128.
    ascii: Vec<u32>,
}

impl Graphemes {
    fn push(&mut self, key: u64) {
        if self.ascii.is_empty() {
            self.ascii = vec![0; 128];
        }
        let known = usize::try_from(key).ok().and_then(|key| self.ascii.get_mut(key));
        let id = match known {
            Some(id) if *id > 0 => *id - 1,
            Some(id) => {
                let new = narrow(self.keys.len());
                *id = new + 1;
                self.keys.push(key);
                new
            }
            None => *self.index.entry(key).or_insert_with(|| {
                self.keys.push(key);
                narrow(self.keys.len() - 1)
            }),
        };
        self.ids.push(id);
    }
}

/// One part of a text: its bytes, its number of units, and what was gathered of it.
pub(super) struct Part<'t> {
    pub(super) text: &'t str,
    pub(super) units: usize,
    pub(super) collector: Collector,
}

/// The ids and the vocabulary of a text that was gathered in parts.
pub(super) fn number(unit: Unit, parts: Vec<Part<'_>>) -> (Ids, Vocabulary) {
    match unit {
        Unit::Byte => (Ids::Text, Vocabulary((0..256).collect())),
        Unit::Char => number_chars(parts),
        Unit::Grapheme => number_graphemes(parts),
    }
}

fn number_chars(parts: Vec<Part<'_>>) -> (Ids, Vocabulary) {
    let seen = parts.iter().fold(CodePoints::new(), |seen, part| match &part.collector {
        Collector::Char(other) => seen.merge(other),
        Collector::Byte | Collector::Grapheme(_) => seen,
    });
    let list = seen.list();
    let last = list.last().copied().unwrap_or(0);
    if last < 128 {
        return (Ids::Text, Vocabulary((0..=u64::from(last)).collect()));
    }
    let mut rows = vec![0u32; usize::try_from(last).unwrap_or(0) + 1];
    for (row, &code) in list.iter().enumerate() {
        rows[usize::try_from(code).unwrap_or(0)] = narrow(row);
    }
    let ids = fill(&parts, list.len(), |part, put| {
        part.text.chars().for_each(|c| put(rows[usize::try_from(u32::from(c)).unwrap_or(0)]));
    });
    (ids, Vocabulary(list.into_iter().map(u64::from).collect()))
}

fn number_graphemes(parts: Vec<Part<'_>>) -> (Ids, Vocabulary) {
    let mut keys: Vec<u64> = parts.iter().flat_map(|part| graphemes(part).map_or(&[][..], |seen| &seen.keys)).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let ids = fill(&parts, keys.len(), |part, put| {
        let Some(seen) = graphemes(part) else { return };
        let rows: Vec<u32> = seen.keys.iter().map(|key| narrow(keys.partition_point(|other| other < key))).collect();
        seen.ids.iter().for_each(|&id| put(rows[usize::try_from(id).unwrap_or(0)]));
    });
    (ids, Vocabulary(keys))
}

fn graphemes<'p>(part: &'p Part<'_>) -> Option<&'p Graphemes> {
    match &part.collector {
        Collector::Grapheme(seen) => Some(seen),
        Collector::Byte | Collector::Char(_) => None,
    }
}

/// Ids of the narrowest type for this many keys, each part written by a thread.
fn fill(parts: &[Part<'_>], keys: usize, write: impl Fn(&Part<'_>, &mut dyn FnMut(u32)) + Sync) -> Ids {
    fn of<T: Copy + Default + Send>(
        parts: &[Part<'_>],
        write: impl Fn(&Part<'_>, &mut dyn FnMut(u32)) + Sync,
        narrow: impl Fn(u32) -> T + Sync,
    ) -> Vec<T> {
        let mut ids = vec![T::default(); parts.iter().map(|part| part.units).sum()];
        let mut rest = &mut ids[..];
        let mut places = Vec::with_capacity(parts.len());
        for part in parts {
            let (place, behind) = std::mem::take(&mut rest).split_at_mut(part.units);
            places.push((part, place));
            rest = behind;
        }
        places.into_par_iter().for_each(|(part, place)| {
            let mut place = place.iter_mut();
            write(part, &mut |row| {
                if let Some(id) = place.next() {
                    *id = narrow(row);
                }
            });
        });
        ids
    }
    match keys {
        0..=0x100 => Ids::U8(of(parts, write, |row| u8::try_from(row).unwrap_or(u8::MAX))),
        0x101..=0x1_0000 => Ids::U16(of(parts, write, |row| u16::try_from(row).unwrap_or(u16::MAX))),
        _ => Ids::U32(of(parts, write, |row| row)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(unit: Unit, texts: &[&str]) -> (Ids, Vec<u64>) {
        let parts = texts.iter().map(|text| {
            let mut collector = Collector::new(unit);
            let units = collector.word(text, None);
            Part { text, units, collector }
        });
        let (ids, Vocabulary(keys)) = number(unit, parts.collect());
        (ids, keys)
    }

    #[test]
    fn ids_are_as_narrow_as_the_vocabulary() {
        assert_eq!(numbered(Unit::Byte, &["aé"]), (Ids::Text, (0..256).collect()));
        assert_eq!(numbered(Unit::Char, &["cab"]), (Ids::Text, (0..=99).collect()));
        assert_eq!(numbered(Unit::Char, &["bé", "", "ab"]), (Ids::U8(vec![1, 2, 0, 1]), vec![97, 98, 233]));
        let many: String = (0x4e00..0x4e00 + 300).filter_map(char::from_u32).collect();
        let (ids, keys) = numbered(Unit::Char, &[&many, "\u{4e05}"]);
        assert_eq!((ids, keys.len()), (Ids::U16((0..300).chain([5]).collect()), 300));
        let more: String = (0x1_0000..0x2_0001).filter_map(char::from_u32).collect();
        let (ids, keys) = numbered(Unit::Char, &[&more]);
        assert_eq!((ids, keys.len()), (Ids::U32((0..0x1_0001).collect()), 0x1_0001));
    }

    #[test]
    fn graphemes_of_one_code_point_have_its_key() {
        let (ids, keys) = numbered(Unit::Grapheme, &["e\r\n", "ée\u{301}e"]);
        assert_eq!(ids, Ids::U8(vec![0, 2, 1, 3, 0]));
        assert_eq!(keys[..2], [101, 233]);
        assert_eq!(keys[2..], [key_of_grapheme("\r\n"), key_of_grapheme("e\u{301}")]);
        // FNV-1a of "\r\n", worked out apart.
        assert_eq!(key_of_grapheme("\r\n"), 0x8000_0000_0000_0000 | fnv(&[13, 10]));
    }

    fn fnv(bytes: &[u8]) -> u64 {
        let mut hash = 14_695_981_039_346_656_037u128;
        for byte in bytes {
            hash = ((hash ^ u128::from(*byte)) * 1_099_511_628_211) % (1 << 64);
        }
        u64::try_from(hash).unwrap()
    }
}

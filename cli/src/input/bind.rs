//! `--bind NAME[:FORM]=FILE[:TENSOR]`. A `:`, `=` or `\` that belongs to a name has a `\` in front of it.

use crate::input::FileArray;
use levelfold::error::suggestion;
use levelfold::{Error, ErrorCode};
use std::path::PathBuf;
use std::str::FromStr;

/// What `--help` says about bindings.
pub(crate) const BIND_HELP: &str = "\
Binds a file to a name of the spec: values, ids, tables, weights, or the segments of a level. \
FILE is an .npy file, or a .safetensors file, of which TENSOR is taken (the only one, or the one called NAME, without it). \
Segments are n + 1 offsets, unless FORM says otherwise: offsets, partial-offsets (rows after the last may be left out), lengths, \
ranges (an [n, 2] array), ids:COUNT (one segment id per row), boundaries (interior cuts). \
A colon, an equals sign or a backslash that belongs to NAME has a backslash in front of it";

/// One `--bind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    /// A name of the spec.
    pub(crate) name: String,
    /// How the file says segments, where it was said.
    pub(crate) form: Option<SegmentForm>,
    /// The file.
    pub(crate) path: PathBuf,
    /// Which tensor of it.
    pub(crate) tensor: Option<String>,
}

/// How an array of integers says segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentForm {
    /// n + 1 of them, up to the row count.
    Offsets,
    /// n + 1 of them; rows after the last are left out.
    PartialOffsets,
    /// n of them.
    Lengths,
    /// n pairs.
    Ranges,
    /// One a row.
    Ids {
        /// How many segments there are.
        count: u64,
    },
    /// n − 1 interior cuts.
    Boundaries,
}

impl SegmentForm {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SegmentForm::Offsets => "offsets",
            SegmentForm::PartialOffsets => "partial-offsets",
            SegmentForm::Lengths => "lengths",
            SegmentForm::Ranges => "ranges",
            SegmentForm::Ids { .. } => "ids",
            SegmentForm::Boundaries => "boundaries",
        }
    }
}

impl Bind {
    /// Opens the file.
    ///
    /// # Errors
    /// As [`FileArray::open`].
    pub(crate) fn open(&self) -> Result<FileArray, Error> {
        FileArray::open(&self.path, self.tensor.as_deref(), &self.name).map_err(|error| error.at_level(&*self.name))
    }

    /// Opens the file as a parameter of this shape.
    ///
    /// # Errors
    /// As [`FileArray::open_param`].
    pub(crate) fn open_param(&self, wanted: [u64; 2]) -> Result<FileArray, Error> {
        FileArray::open_param(&self.path, self.tensor.as_deref(), &self.name, wanted).map_err(|error| error.at_level(&*self.name))
    }
}

impl FromStr for Bind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, rest) = split_name(text);
        let Some((form, file)) = rest.split_once('=') else {
            return Err(Error::new(ErrorCode::Option, format!("`{text}` has no `=`")).help("write NAME=FILE, for instance word=word.npy"));
        };
        let form = match form.strip_prefix(':') {
            None => None,
            Some(form) => Some(parse_form(form)?),
        };
        if name.is_empty() || file.is_empty() {
            return Err(Error::new(ErrorCode::Option, format!("`{text}` lacks a name or a file")).help("write NAME=FILE"));
        }
        const EXTENSION: &str = ".safetensors:";
        let (path, tensor) = match file.rfind(EXTENSION) {
            Some(at) => (&file[..at + EXTENSION.len() - 1], Some(file[at + EXTENSION.len()..].to_owned())),
            None => (file, None),
        };
        Ok(Bind { name, form, path: path.into(), tensor })
    }
}

/// The name that stands in front, and what follows it from the first `:` or `=` on that has no `\` before it.
fn split_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut signs = text.char_indices().peekable();
    while let Some((at, sign)) = signs.next() {
        match sign {
            ':' | '=' => return (name, &text[at..]),
            // Before anything else, a backslash is one.
            '\\' => name.push(signs.next_if(|(_, next)| matches!(next, ':' | '=' | '\\')).map_or(sign, |(_, next)| next)),
            sign => name.push(sign),
        }
    }
    (name, "")
}

fn parse_form(text: &str) -> Result<SegmentForm, Error> {
    let (word, count) = match text.split_once(':') {
        Some((word, count)) => (word, Some(count)),
        None => (text, None),
    };
    match (word, count) {
        ("offsets", None) => Ok(SegmentForm::Offsets),
        ("partial-offsets", None) => Ok(SegmentForm::PartialOffsets),
        ("lengths", None) => Ok(SegmentForm::Lengths),
        ("ranges", None) => Ok(SegmentForm::Ranges),
        ("boundaries", None) => Ok(SegmentForm::Boundaries),
        ("ids", Some(count)) => count
            .parse()
            .map(|count| SegmentForm::Ids { count })
            .map_err(|_| Error::new(ErrorCode::Option, format!("`{count}` is no count of segments"))),
        ("ids", None) => Err(Error::new(ErrorCode::Option, "segment ids do not say how many segments there are")
            .help("write NAME:ids:COUNT=FILE; trailing empty segments would be lost otherwise")),
        (word, _) => {
            let known = ["offsets", "partial-offsets", "lengths", "ranges", "ids", "boundaries"];
            let help = format!("{} (a colon that belongs to the name is written `\\:`)", suggestion(word, &known));
            Err(Error::new(ErrorCode::UnknownWord, format!("unknown form of segments `{text}`")).help(help))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_documents() {
        let parse = |text: &str| text.parse::<Bind>().unwrap();
        let plain = Bind { name: "word".into(), form: None, path: "a/b.npy".into(), tensor: None };
        assert_eq!(parse("word=a/b.npy"), plain);
        assert_eq!(parse("word:lengths=a/b.npy"), Bind { form: Some(SegmentForm::Lengths), ..plain.clone() });
        assert_eq!(parse("word:ids:7=a/b.npy"), Bind { form: Some(SegmentForm::Ids { count: 7 }), ..plain.clone() });
        let tensor = Bind { path: "x=y.safetensors".into(), tensor: Some("a:b".into()), ..plain };
        assert_eq!(parse("word=x=y.safetensors:a:b"), tensor);
        for (text, name, form) in [
            (r"a\:b=f.npy", "a:b", None),
            (r"a\:b:lengths=f.npy", "a:b", Some(SegmentForm::Lengths)),
            (r"a\=b\\=f.npy", r"a=b\", None),
            (r"a\b\é=f.npy", r"a\b\é", None),
            (r"\:=f.npy", ":", None),
        ] {
            assert_eq!(parse(text), Bind { name: name.into(), form, path: "f.npy".into(), tensor: None }, "{text}");
        }
        for (text, wanted) in [
            ("word", "`word` has no `=`; write NAME=FILE, for instance word=word.npy [option]"),
            (
                "word:lenghts=a",
                "unknown form of segments `lenghts`; did you mean `lengths`? (a colon that belongs to the name is written `\\:`) [unknown-word]",
            ),
            ("=a", "`=a` lacks a name or a file; write NAME=FILE [option]"),
        ] {
            assert_eq!(text.parse::<Bind>().unwrap_err().to_string(), wanted);
        }
        assert!("word:ids=a".parse::<Bind>().unwrap_err().to_string().contains("NAME:ids:COUNT=FILE"));
        assert!("word:ids:x=a".parse::<Bind>().is_err());
    }
}

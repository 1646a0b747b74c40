//! Reducers of the user's own, written in Rust: what a plan says of them.

use super::expression::shown_number;
use crate::error::{Error, ErrorCode, Result};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A [`RowReducer`](crate::custom::RowReducer) by its name and version, and the numbers that it is given.
///
/// As text: `custom(power-mean version=1, 3)`. The backend has to know it: see [`Registry`](crate::custom::Registry).
#[derive(Clone, Debug)]
pub struct NamedReducer {
    name: String,
    version: u32,
    arguments: Vec<f64>,
    /// What it is compared by.
    text: String,
}

/// The longest name.
const LONGEST_NAME: usize = 40;
/// The most arguments.
const MOST_ARGUMENTS: usize = 16;

impl NamedReducer {
    /// A reducer of this name and version, with these numbers.
    ///
    /// # Errors
    /// `spec-invalid` for a name that is none, for more than 16 arguments, and for one that is not finite; `duplicate-name` for the name of a built-in
    /// reducer, or what that is called elsewhere (`sum`, `average`).
    pub fn new(name: &str, version: u32, arguments: &[f64]) -> Result<Self> {
        let wrong = |message: String, help: &str| Err(Error::new(ErrorCode::SpecInvalid, message).help(help));
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.len() > LONGEST_NAME || !name.starts_with(|sign: char| sign.is_ascii_alphabetic()) || !name.bytes().all(is_part) {
            let help = format!("a name is a letter, then letters, digits, `_` and `-`, {LONGEST_NAME} at most");
            return wrong(format!("`{name}` is no name for a reducer"), &help);
        }
        super::not_built_in(name)?;
        if arguments.len() > MOST_ARGUMENTS {
            let message = format!("the reducer `{name}` is given {} arguments", arguments.len());
            return wrong(message, &format!("{MOST_ARGUMENTS} are the most"));
        }
        if let Some(argument) = arguments.iter().find(|argument| !argument.is_finite()) {
            return wrong(format!("the reducer `{name}` is given {argument}"), "arguments are finite numbers");
        }
        let mut text = format!("custom({name} version={version}");
        for argument in arguments {
            text.push_str(", ");
            text.push_str(&shown_number(*argument));
        }
        text.push(')');
        Ok(NamedReducer { name: name.to_owned(), version, arguments: arguments.to_vec(), text })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The numbers that it is given.
    pub fn arguments(&self) -> &[f64] {
        &self.arguments
    }

    /// Reads what stands between the brackets of `custom(…)`; `None` where it is not of this form.
    pub(super) fn read(inner: &str) -> Option<Result<Self>> {
        let (name, rest) = inner.split_once(char::is_whitespace)?;
        let mut parts = rest.split(',');
        let version = parts.next()?.trim().strip_prefix("version")?.trim_start().strip_prefix('=')?.trim();
        let wrong = |what: &str| {
            Error::new(ErrorCode::SpecInvalid, format!("{what} of the reducer `{name}`"))
                .help("write for instance `custom(power-mean version=1, 3)`")
        };
        let Ok(version) = version.parse() else { return Some(Err(wrong(&format!("`{version}` is no version")))) };
        let arguments: Result<Vec<f64>> =
            parts.map(|part| part.trim().parse().map_err(|_| wrong(&format!("`{}` is no number for an argument", part.trim())))).collect();
        Some(arguments.and_then(|arguments| NamedReducer::new(name, version, &arguments)))
    }
}

impl fmt::Display for NamedReducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl PartialEq for NamedReducer {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for NamedReducer {}

impl PartialOrd for NamedReducer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NamedReducer {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for NamedReducer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

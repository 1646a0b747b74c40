//! The words of built-in reducers, ours and those of elsewhere.

use super::Reducer;
use crate::error::{Error, ErrorCode, Result, did_you_mean};

/// What built-in reducers are called elsewhere, and what they are called here.
const ELSEWHERE: [(&str, &str); 18] = [
    ("average", "mean"),
    ("avg", "mean"),
    ("amax", "max"),
    ("maximum", "max"),
    ("amin", "min"),
    ("minimum", "min"),
    ("product", "prod"),
    ("variance", "var"),
    ("stddev", "std"),
    ("lse", "logsumexp"),
    ("log-sum-exp", "logsumexp"),
    ("log_sum_exp", "logsumexp"),
    ("percentile", "quantile"),
    ("manhattan", "l1"),
    ("euclidean", "l2"),
    ("len", "count"),
    ("idxmax", "argmax"),
    ("idxmin", "argmin"),
];

/// What a built-in reducer of this name, or of one that it has elsewhere, is called here.
fn built_in(word: &str) -> Option<&'static str> {
    let ours = Reducer::ALL.iter().map(Reducer::name).find(|name| name.eq_ignore_ascii_case(word));
    ours.or_else(|| ELSEWHERE.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, ours)| *ours))
}

/// Refuses names under which a reducer of a user's own would be taken for a built-in one, in plans and by their readers.
///
/// # Errors
/// `duplicate-name`.
pub(crate) fn not_built_in(name: &str) -> Result<()> {
    let message = match built_in(name) {
        Some(ours) if ours == name => format!("a reducer of your own cannot be named `{name}`: that is a built-in one"),
        Some(ours) => format!("a reducer of your own cannot be named `{name}`: that is the built-in `{ours}`"),
        None if name.eq_ignore_ascii_case("custom") => {
            "a reducer of your own cannot be named `custom`: all of them are called that".to_owned()
        }
        None => return Ok(()),
    };
    Err(Error::new(ErrorCode::DuplicateName, message).help(format!("give it a name of its own, such as `my_{name}`")))
}

/// The error for a word that names no reducer.
pub(super) fn unknown(word: &str) -> Error {
    let mut known: Vec<&str> = Reducer::ALL.iter().map(Reducer::name).collect();
    known.dedup();
    let help = match (built_in(word), did_you_mean(word, known.iter().copied())) {
        (Some(ours), _) => format!("it is `{ours}` here"),
        (None, Some(near)) => format!("did you mean `{near}`?"),
        (None, None) => format!("known: {}; one of your own is `custom(NAME: …)`", known.join(", ")),
    };
    Error::new(ErrorCode::UnknownWord, format!("unknown reducer `{word}`")).help(help)
}

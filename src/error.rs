//! One error type for the whole engine.
//!
//! An [`Error`] has a stable [`ErrorCode`], says where it happened (level, index), what was found there, and what to do about it.
//! Verifiers collect: an error can hold [`causes`](Error::causes), one for each broken rule.

use std::fmt;

/// What this crate's fallible functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// The stable name of a kind of error. Codes are part of the interface: they do not change between versions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode { $($(#[$doc])* $name),* }

        impl ErrorCode {
            /// The code as it is printed, for instance `offsets-decrease`.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text),* }
            }
        }
    };
}

codes! {
    /// An offsets list without a single entry (n segments have n + 1 offsets).
    OffsetsEmpty = "offsets-empty",
    /// The first offset is not 0.
    OffsetsStart = "offsets-start",
    /// An offset is smaller than the one before it.
    OffsetsDecrease = "offsets-decrease",
    /// An offset, a range or a cut lies past the rows.
    PastRows = "past-rows",
    /// The segments leave rows out where all rows must be covered.
    RowsNotCovered = "rows-not-covered",
    /// A public integer is negative.
    Negative = "negative",
    /// A range whose start is larger than its end.
    RangeReversed = "range-reversed",
    /// Segment ids that decrease.
    IdsDecrease = "ids-decrease",
    /// A segment id or a lookup id that is not below its count.
    IdTooLarge = "id-too-large",
    /// Boundaries that decrease.
    BoundariesDecrease = "boundaries-decrease",
    /// Counts whose sum or product does not fit.
    Overflow = "overflow",
    /// Segments made for another number of rows than the level below has.
    RowsMismatch = "rows-mismatch",
    /// An empty segment where the reducer has no value for it.
    EmptySegment = "empty-segment",
    /// Data with the wrong number of axes.
    Rank = "rank",
    /// A shape that differs from the planned one.
    Shape = "shape",
    /// An element type that differs from the planned one, or that an operation does not take.
    DType = "dtype",
    /// Strides that leave the buffer.
    StridesLeaveBuffer = "strides-leave-buffer",
    /// Strides under which two elements of an output share memory.
    StridesOverlap = "strides-overlap",
    /// Bytes that are not aligned for their element type.
    Alignment = "alignment",
    /// Two bindings that share memory where one of them is written.
    Aliasing = "aliasing",
    /// An input, output or table that the plan needs and nobody bound.
    NotBound = "not-bound",
    /// A name bound twice.
    BoundTwice = "bound-twice",
    /// A name that nothing in the plan or spec has.
    UnknownName = "unknown-name",
    /// A name used twice.
    DuplicateName = "duplicate-name",
    /// Weights that an operation refuses: negative, NaN, or summing to 0.
    Weights = "weights",
    /// An unknown word where one of a fixed set is expected.
    UnknownWord = "unknown-word",
    /// A custom reducer whose results would depend on how rows are grouped.
    ReducerLaw = "reducer-law",
    /// A spec that cannot be read.
    SpecInvalid = "spec-invalid",
    /// A graph that breaks an invariant.
    GraphInvalid = "graph-invalid",
    /// A plan that breaks an invariant.
    PlanInvalid = "plan-invalid",
    /// A plan that does not compute what its graph asks for.
    PlanWrong = "plan-wrong",
    /// A plan of another version of the format.
    PlanVersion = "plan-version",
    /// A step that the target's backend does not run.
    Unsupported = "unsupported",
    /// A plan made for another target.
    WrongTarget = "wrong-target",
    /// More memory would be needed than the limit allows.
    MemoryLimit = "memory-limit",
    /// A backend that cannot be used on this machine.
    BackendUnavailable = "backend-unavailable",
    /// Memory of a device bound to a plan that runs elsewhere.
    WrongDevice = "wrong-device",
    /// What a device or its driver reported while it was used.
    Device = "device",
    /// A file that cannot be read or written, or does not hold what it says.
    File = "file",
    /// Text that is not valid UTF-8.
    Utf8 = "utf8",
    /// An option whose value makes no sense.
    Option = "option",
    /// Something this crate promises did not hold: a bug of ours.
    Internal = "internal",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, where, and what to do about it.
#[derive(Clone, PartialEq)]
pub struct Error(Box<Inner>);

#[derive(Clone, PartialEq)]
struct Inner {
    code: ErrorCode,
    level: Option<String>,
    index: Option<u64>,
    message: String,
    help: Option<String>,
    causes: Vec<Error>,
}

impl Error {
    /// An error with its code and its message: lower case, no full stop, naming the value that was found.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { code, level: None, index: None, message: message.into(), help: None, causes: Vec::new() }))
    }

    /// An error that stands for several, each of them kept.
    pub fn collected(code: ErrorCode, message: impl Into<String>, causes: Vec<Error>) -> Self {
        let mut error = Error::new(code, message);
        error.0.causes = causes;
        error
    }

    /// Names the level (or input, output, step) that the error is about, unless a name stands there already.
    #[must_use]
    pub fn at_level(mut self, level: impl Into<String>) -> Self {
        self.0.level.get_or_insert_with(|| level.into());
        self
    }

    /// Names the index (segment, row, entry) that the error is about.
    #[must_use]
    pub fn at_index(mut self, index: u64) -> Self {
        self.0.index = Some(index);
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The level, input, output or step that the error is about, where it is about one.
    pub fn level(&self) -> Option<&str> {
        self.0.level.as_deref()
    }

    /// The segment, row or entry that the error is about, where it is about one.
    pub fn index(&self) -> Option<u64> {
        self.0.index
    }

    /// What was found, without the level and the help.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, where that can be said.
    pub fn help_text(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// The errors that this one stands for.
    pub fn causes(&self) -> &[Error] {
        &self.0.causes
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(level) = &self.0.level {
            write!(f, "{level}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(help) = &self.0.help {
            write!(f, "; {help}")?;
        }
        write!(f, " [{}]", self.0.code)?;
        for cause in &self.0.causes {
            write!(f, "\n  - {cause}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// The word of `known` nearest to `word`, where one is near enough to be what was meant.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean `sum`?" where a word is near, else the list of what is known.
pub fn suggestion(word: &str, known: &[&str]) -> String {
    match did_you_mean(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_level_message_help_and_code() {
        let error = Error::new(ErrorCode::OffsetsDecrease, "offsets[3] = 7 is less than offsets[2] = 9")
            .help("offsets never decrease")
            .at_index(3)
            .at_level("word")
            .at_level("not this one");
        assert_eq!(error.to_string(), "word: offsets[3] = 7 is less than offsets[2] = 9; offsets never decrease [offsets-decrease]");
        assert_eq!((error.index(), error.level()), (Some(3), Some("word")));
    }

    #[test]
    fn suggests_only_what_is_near() {
        assert_eq!(did_you_mean("maen", ["sum", "mean", "max"]), Some("mean"));
        assert_eq!(did_you_mean("quantile", ["sum", "mean", "max"]), None);
        assert_eq!(suggestion("smu", &["sum", "mean"]), "did you mean `sum`?");
        assert_eq!(suggestion("entropy", &["sum", "mean"]), "known: sum, mean");
    }
}

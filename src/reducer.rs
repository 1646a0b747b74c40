//! What folds the rows of a segment into one row.

mod custom;
mod expression;
mod named;
mod program;
mod words;

pub use custom::{Component, ComponentText, CustomReducer};
pub use expression::{Binary, Expression, Scope, Unary, Variable};
pub use named::NamedReducer;
pub use program::{Instruction, Program, REGISTERS};
pub(crate) use words::not_built_in;

use crate::dtype::DType;
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How the rows of a segment become one row, feature by feature.
///
/// With x the rows of a segment, n their number and w their weights (1 where there are none):
///
/// | reducer | result | weighted | empty segment |
/// |---|---|---|---|
/// | `sum` | Σwx | yes | +0 |
/// | `mean` | Σwx ÷ Σw | yes | error |
/// | `max`, `min` | IEEE 754-2019 `maximum`, `minimum`: NaN wins, −0 < +0 | no | error |
/// | `prod` | Πx | no | 1 |
/// | `var`, `var(ddof=1)` | Σw(x − mean)² ÷ (Σw − ddof); NaN where that is not above 0 | yes | error |
/// | `std`, `std(ddof=1)` | the square root of it | yes | error |
/// | `l1` | Σw·abs(x) | yes | +0 |
/// | `l2` | √Σwx² | yes | +0 |
/// | `logsumexp` | log Σw·eˣ | yes | error |
/// | `softmax` | Σeˢx ÷ Σeˢ, with a score s for each row where weights stand | always | error |
/// | `median`, `quantile(0.25)` | the sorted rows at (n − 1)·q, linear between two | no | error |
/// | `first`, `last` | the first, the last row | no | error |
/// | `count` | n, whatever the rows hold | no | +0 |
/// | `argmax`, `argmin` | where in its segment the largest, the smallest value stands, as i64: the first of equal ones, the first NaN before all | no | error |
/// | `custom(…)` | what its expressions say: see [`CustomReducer`] | where they name `w` | the finished identity, else an error |
/// | `custom(NAME version=1)` | what its Rust code does: see [`RowReducer`](crate::custom::RowReducer) | where it takes them | error |
///
/// In which order, and in which arithmetic, is fixed: see [`numerics`](crate::numerics).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reducer {
    /// Σx, or Σwx.
    Sum,
    /// Σx ÷ n, or Σwx ÷ Σw.
    #[doc(alias = "average")]
    Mean,
    /// The largest value; NaN wins.
    #[doc(alias = "amax")]
    Max,
    /// The smallest value; NaN wins.
    #[doc(alias = "amin")]
    Min,
    /// Πx.
    Prod,
    /// The mean square of what the rows are away from their mean.
    #[doc(alias = "variance")]
    Var {
        /// Taken from the number of rows before it divides: 0 for a population, 1 for a sample.
        ddof: u32,
    },
    /// The square root of [`Var`](Reducer::Var).
    #[doc(alias = "standard deviation")]
    Std {
        /// As for `Var`.
        ddof: u32,
    },
    /// log Σeˣ, without overflow.
    #[doc(alias = "lse")]
    LogSumExp,
    /// The mean of the rows, weighted by the softmax of their scores.
    #[doc(alias = "attention pooling")]
    SoftMax,
    /// A quantile: [`median`](Quantile::MEDIAN), and others.
    #[doc(alias = "percentile")]
    Quantile(Quantile),
    /// Σ|x|.
    #[doc(alias = "manhattan")]
    L1,
    /// √Σx².
    #[doc(alias = "euclidean")]
    L2,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// How many rows there are.
    #[doc(alias = "len")]
    Count,
    /// Where the largest value stands.
    ArgMax,
    /// Where the smallest value stands.
    ArgMin,
    /// One of the user's own, written as expressions.
    #[doc(alias = "monoid")]
    Custom(Arc<CustomReducer>),
    /// One of the user's own, written in Rust: the backend has to know it.
    Named(Arc<NamedReducer>),
}

/// How much of a segment a reducer has to see at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReducerClass {
    /// One number a feature, and one operation for rows and blocks alike.
    Plain,
    /// A [`Monoid`](crate::numerics::Monoid): several numbers a feature.
    State,
    /// All rows of a segment at once: it is a step of its own, and never fused with another fold.
    Select,
}

/// Which quantile: a number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantile(u64);

impl Quantile {
    /// One half: the median.
    pub const MEDIAN: Quantile = Quantile(0.5f64.to_bits());

    /// The quantile q.
    ///
    /// # Errors
    /// `option` where q is not a number from 0 to 1.
    pub fn new(q: f64) -> Result<Self> {
        if (0.0..=1.0).contains(&q) {
            // −0 is 0.
            return Ok(Quantile((q + 0.0).to_bits()));
        }
        Err(Error::new(ErrorCode::Option, format!("there is no quantile {q}")).help("a quantile is a number from 0 to 1: quantile(0.25)"))
    }

    /// The number.
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl Reducer {
    /// A [`RowReducer`](crate::custom::RowReducer) of a user's own, by its name and version, with the numbers that it takes.
    ///
    /// # Errors
    /// `spec-invalid` where this is no name, or an argument is not finite.
    pub fn named(name: &str, version: u32, arguments: &[f64]) -> Result<Self> {
        Ok(Reducer::Named(Arc::new(NamedReducer::new(name, version, arguments)?)))
    }

    /// Every reducer, those with parameters at their defaults and at one other setting.
    pub const ALL: [Reducer; 20] = [
        Reducer::Sum,
        Reducer::Mean,
        Reducer::Max,
        Reducer::Min,
        Reducer::Prod,
        Reducer::Var { ddof: 0 },
        Reducer::Var { ddof: 1 },
        Reducer::Std { ddof: 0 },
        Reducer::Std { ddof: 1 },
        Reducer::LogSumExp,
        Reducer::SoftMax,
        Reducer::Quantile(Quantile::MEDIAN),
        Reducer::Quantile(Quantile(0.3f64.to_bits())),
        Reducer::L1,
        Reducer::L2,
        Reducer::First,
        Reducer::Last,
        Reducer::Count,
        Reducer::ArgMax,
        Reducer::ArgMin,
    ];

    /// The reducers of one number a feature, which every backend has.
    pub const PLAIN: [Reducer; 5] = [Reducer::Sum, Reducer::Mean, Reducer::Max, Reducer::Min, Reducer::Prod];

    /// The name, without parameters.
    pub fn name(&self) -> &'static str {
        match self {
            Reducer::Sum => "sum",
            Reducer::Mean => "mean",
            Reducer::Max => "max",
            Reducer::Min => "min",
            Reducer::Prod => "prod",
            Reducer::Var { .. } => "var",
            Reducer::Std { .. } => "std",
            Reducer::LogSumExp => "logsumexp",
            Reducer::SoftMax => "softmax",
            Reducer::Quantile(Quantile::MEDIAN) => "median",
            Reducer::Quantile(_) => "quantile",
            Reducer::L1 => "l1",
            Reducer::L2 => "l2",
            Reducer::First => "first",
            Reducer::Last => "last",
            Reducer::Count => "count",
            Reducer::ArgMax => "argmax",
            Reducer::ArgMin => "argmin",
            Reducer::Custom(_) | Reducer::Named(_) => "custom",
        }
    }

    /// How much of a segment it has to see at once.
    pub fn class(&self) -> ReducerClass {
        match self {
            Reducer::Sum | Reducer::Mean | Reducer::Max | Reducer::Min | Reducer::Prod => ReducerClass::Plain,
            Reducer::Var { .. }
            | Reducer::Std { .. }
            | Reducer::LogSumExp
            | Reducer::SoftMax
            | Reducer::L1
            | Reducer::L2
            | Reducer::First
            | Reducer::Last
            | Reducer::Count
            | Reducer::ArgMax
            | Reducer::ArgMin
            | Reducer::Custom(_)
            | Reducer::Named(_) => ReducerClass::State,
            Reducer::Quantile(_) => ReducerClass::Select,
        }
    }

    /// Whether a weighted form exists. Of one written in Rust only the backend knows, which refuses it when it compiles the plan.
    pub fn takes_weights(&self) -> bool {
        match self {
            Reducer::Sum
            | Reducer::Mean
            | Reducer::Var { .. }
            | Reducer::Std { .. }
            | Reducer::LogSumExp
            | Reducer::SoftMax
            | Reducer::L1
            | Reducer::L2
            | Reducer::Named(_) => true,
            Reducer::Custom(custom) => custom.takes_weights(),
            Reducer::Quantile(_)
            | Reducer::Max
            | Reducer::Min
            | Reducer::Prod
            | Reducer::First
            | Reducer::Last
            | Reducer::Count
            | Reducer::ArgMax
            | Reducer::ArgMin => false,
        }
    }

    /// Whether it has to have them: they are its scores.
    pub fn needs_weights(&self) -> bool {
        *self == Reducer::SoftMax
    }

    /// Whether it divides by its weights, so that they must not be negative, NaN, or 0 in all rows of a segment.
    pub fn divides_by_weights(&self) -> bool {
        match self {
            Reducer::Mean | Reducer::Var { .. } | Reducer::Std { .. } => true,
            Reducer::Sum
            | Reducer::Max
            | Reducer::Min
            | Reducer::Prod
            | Reducer::LogSumExp
            | Reducer::SoftMax
            | Reducer::Quantile(_)
            | Reducer::L1
            | Reducer::L2
            | Reducer::First
            | Reducer::Last
            | Reducer::Count
            | Reducer::ArgMax
            | Reducer::ArgMin
            | Reducer::Custom(_)
            | Reducer::Named(_) => false,
        }
    }

    /// Whether its results are positions (i64), and not numbers of the level's type.
    pub fn gives_positions(&self) -> bool {
        match self {
            Reducer::ArgMax | Reducer::ArgMin => true,
            Reducer::Sum
            | Reducer::Mean
            | Reducer::Max
            | Reducer::Min
            | Reducer::Prod
            | Reducer::Var { .. }
            | Reducer::Std { .. }
            | Reducer::LogSumExp
            | Reducer::SoftMax
            | Reducer::Quantile(_)
            | Reducer::L1
            | Reducer::L2
            | Reducer::First
            | Reducer::Last
            | Reducer::Count
            | Reducer::Custom(_)
            | Reducer::Named(_) => false,
        }
    }

    /// Whether its result follows from which rows occur how often, so that ids may be counted and the rows of their table folded.
    pub fn takes_counts(&self) -> bool {
        matches!(self, Reducer::Sum | Reducer::Mean | Reducer::Max | Reducer::Min)
    }

    /// Whether results can have this type: positions are i64, everything else is a float.
    pub fn can_give(&self, dtype: DType) -> bool {
        if self.gives_positions() { dtype == DType::I64 } else { dtype.is_float() }
    }

    /// The type of its results unless the user says otherwise, over rows of a type.
    pub fn result_dtype(&self, rows: DType) -> DType {
        if self.gives_positions() { DType::I64 } else { rows }
    }

    /// What an empty segment gives unless the user says otherwise: the identity where it is finite, else an error.
    pub fn default_on_empty(&self) -> OnEmpty {
        match self {
            Reducer::Sum | Reducer::L1 | Reducer::L2 | Reducer::Count => OnEmpty::Zero,
            Reducer::Prod => OnEmpty::Fill(1.0),
            Reducer::Custom(custom) => custom.default_on_empty(),
            Reducer::Mean
            | Reducer::Max
            | Reducer::Min
            | Reducer::Var { .. }
            | Reducer::Std { .. }
            | Reducer::LogSumExp
            | Reducer::SoftMax
            | Reducer::Quantile(_)
            | Reducer::First
            | Reducer::Last
            | Reducer::ArgMax
            | Reducer::ArgMin
            | Reducer::Named(_) => OnEmpty::Error,
        }
    }
}

/// The text that [`FromStr`] reads: the name, and parameters where they are not the default.
impl fmt::Display for Reducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reducer::Var { ddof } | Reducer::Std { ddof } if *ddof > 0 => f.pad(&format!("{}(ddof={ddof})", self.name())),
            Reducer::Quantile(q) if *q != Quantile::MEDIAN => f.pad(&format!("quantile({:?})", q.value())),
            Reducer::Custom(custom) => custom.fmt(f),
            Reducer::Named(named) => named.fmt(f),
            _ => f.pad(self.name()),
        }
    }
}

impl Serialize for Reducer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reducer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| {
            let help = error.help_text().map_or(String::new(), |help| format!("; {help}"));
            serde::de::Error::custom(format!("{}{help}", error.message()))
        })
    }
}

impl FromStr for Reducer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (word, parameters) = match text.split_once('(') {
            None => (text, None),
            Some((word, rest)) => {
                let Some(inner) = rest.strip_suffix(')') else {
                    return Err(Error::new(ErrorCode::UnknownWord, format!("`{text}` lacks the bracket that closes it")));
                };
                (word, Some(inner.trim()))
            }
        };
        if let ("custom", Some(inner)) = (word, parameters) {
            if let Some(named) = NamedReducer::read(inner) {
                return Ok(Reducer::Named(Arc::new(named?)));
            }
            return Ok(Reducer::Custom(Arc::new(CustomReducer::read(inner)?)));
        }
        let found = Reducer::ALL.into_iter().find(|reducer| reducer.name() == word).ok_or_else(|| words::unknown(word))?;
        match (found, parameters) {
            (Reducer::Quantile(_), parameters) if word == "quantile" => {
                let number = parameters.and_then(|text| text.parse().ok());
                let number = number.ok_or_else(|| {
                    Error::new(ErrorCode::UnknownWord, "quantile takes a number").help("write `quantile(0.25)`, or `median`")
                })?;
                Ok(Reducer::Quantile(Quantile::new(number)?))
            }
            (found, None) => Ok(found),
            (Reducer::Var { .. }, Some(text)) => Ok(Reducer::Var { ddof: parse_ddof("var", text)? }),
            (Reducer::Std { .. }, Some(text)) => Ok(Reducer::Std { ddof: parse_ddof("std", text)? }),
            (found, Some(text)) => Err(Error::new(ErrorCode::UnknownWord, format!("{found} takes no parameters, but was given `{text}`"))
                .help(format!("write `{found}`"))),
        }
    }
}

fn parse_ddof(name: &str, text: &str) -> Result<u32> {
    let number = text.strip_prefix("ddof").and_then(|rest| rest.trim_start().strip_prefix('=')).map(str::trim);
    number.and_then(|number| number.parse().ok()).ok_or_else(|| {
        Error::new(ErrorCode::UnknownWord, format!("{name} takes `ddof=` and a whole number, not `{text}`"))
            .help(format!("write `{name}(ddof=1)` for a sample"))
    })
}

/// What an empty segment gives. Every output row exists, whatever the segment holds.
///
/// In JSON: `"zero"`, `"nan"`, `"error"`, or `{"fill": 1.5}`, where a non-finite fill is a string (`"inf"`, `"-inf"`, `"nan"`).
#[derive(Clone, Copy, Debug)]
pub enum OnEmpty {
    /// +0 in every feature.
    Zero,
    /// The canonical NaN in every feature.
    NaN,
    /// This value, converted to the level's type.
    Fill(f64),
    /// An error when planning, naming the first empty segment and how many there are.
    Error,
}

impl OnEmpty {
    /// Whether elements of a type can be this: i64 takes whole numbers only.
    pub fn fits(self, dtype: DType) -> bool {
        let whole = |value: f64| value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0;
        dtype.is_float() || self.value().is_none_or(whole)
    }

    /// The value of every feature of an empty segment's row, or `None` where an empty segment is an error.
    pub fn value(self) -> Option<f64> {
        match self {
            OnEmpty::Zero => Some(0.0),
            OnEmpty::NaN => Some(f64::NAN),
            OnEmpty::Fill(value) => Some(value),
            OnEmpty::Error => None,
        }
    }
}

/// By bits, so that two NaN fills are equal and −0 differs from +0. `Fill(0.0)` and `Zero` differ in name only, but differ.
impl PartialEq for OnEmpty {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (OnEmpty::Fill(a), OnEmpty::Fill(b)) => a.to_bits() == b.to_bits(),
            (OnEmpty::Zero, OnEmpty::Zero) | (OnEmpty::NaN, OnEmpty::NaN) | (OnEmpty::Error, OnEmpty::Error) => true,
            (OnEmpty::Zero | OnEmpty::NaN | OnEmpty::Fill(_) | OnEmpty::Error, _) => false,
        }
    }
}

impl Eq for OnEmpty {}

impl fmt::Display for OnEmpty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnEmpty::Zero => f.write_str("zero"),
            OnEmpty::NaN => f.write_str("nan"),
            OnEmpty::Fill(value) => write!(f, "fill({value:?})"),
            OnEmpty::Error => f.write_str("error"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnEmptyForm {
    Zero,
    Nan,
    Error,
    Fill(FillForm),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum FillForm {
    Finite(f64),
    Named(String),
}

impl Serialize for OnEmpty {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            OnEmpty::Zero => OnEmptyForm::Zero,
            OnEmpty::NaN => OnEmptyForm::Nan,
            OnEmpty::Error => OnEmptyForm::Error,
            OnEmpty::Fill(value) if value.is_finite() => OnEmptyForm::Fill(FillForm::Finite(*value)),
            OnEmpty::Fill(value) if value.is_nan() => OnEmptyForm::Fill(FillForm::Named("nan".into())),
            OnEmpty::Fill(value) => OnEmptyForm::Fill(FillForm::Named(if *value > 0.0 { "inf" } else { "-inf" }.into())),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for OnEmpty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match OnEmptyForm::deserialize(deserializer)? {
            OnEmptyForm::Zero => OnEmpty::Zero,
            OnEmptyForm::Nan => OnEmpty::NaN,
            OnEmptyForm::Error => OnEmpty::Error,
            OnEmptyForm::Fill(FillForm::Finite(value)) => OnEmpty::Fill(value),
            OnEmptyForm::Fill(FillForm::Named(name)) => OnEmpty::Fill(match name.as_str() {
                "nan" => f64::NAN,
                "inf" => f64::INFINITY,
                "-inf" => f64::NEG_INFINITY,
                other => {
                    return Err(serde::de::Error::custom(format!("fill is a number, `nan`, `inf` or `-inf`, not `{other}`")));
                }
            }),
        })
    }
}

#[cfg(test)]
mod custom_tests;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_empty_round_trips_every_value() {
        for value in [0.0, -0.0, 1.5, 0.1, f64::MAX, f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let text = serde_json::to_string(&OnEmpty::Fill(value)).unwrap();
            assert_eq!(serde_json::from_str::<OnEmpty>(&text).unwrap(), OnEmpty::Fill(value), "{text}");
        }
        for word in [OnEmpty::Zero, OnEmpty::NaN, OnEmpty::Error] {
            let text = serde_json::to_string(&word).unwrap();
            assert_eq!(serde_json::from_str::<OnEmpty>(&text).unwrap(), word, "{text}");
        }
        assert!(serde_json::from_str::<OnEmpty>(r#"{"fill":"infinity"}"#).is_err());
    }

    #[test]
    fn a_typo_is_answered() {
        let error = |text: &str| text.parse::<Reducer>().unwrap_err().to_string();
        assert_eq!(error("maen"), "unknown reducer `maen`; did you mean `mean`? [unknown-word]");
        assert_eq!(error("vra(ddof=1)"), "unknown reducer `vra`; did you mean `var`? [unknown-word]");
        assert_eq!(error("var(ddof=1"), "`var(ddof=1` lacks the bracket that closes it [unknown-word]");
        let help = "write `std(ddof=1)` for a sample [unknown-word]";
        assert_eq!(error("std(ddof=-1)"), format!("std takes `ddof=` and a whole number, not `ddof=-1`; {help}"));
        assert_eq!(error("max(1)"), "max takes no parameters, but was given `1`; write `max` [unknown-word]");
    }

    #[test]
    fn every_reducer_reads_back() {
        for reducer in Reducer::ALL {
            assert_eq!(reducer.to_string().parse::<Reducer>().unwrap(), reducer);
            let json = serde_json::to_string(&reducer).unwrap();
            assert_eq!(serde_json::from_str::<Reducer>(&json).unwrap(), reducer, "{json}");
        }
        assert_eq!("var( ddof = 2 )".parse::<Reducer>().unwrap(), Reducer::Var { ddof: 2 });
        assert_eq!(Reducer::Var { ddof: 0 }.to_string(), "var");
    }

    #[test]
    fn the_default_for_empty_segments_is_the_identity_where_it_is_finite() {
        for reducer in Reducer::ALL {
            match reducer.default_on_empty() {
                OnEmpty::Zero | OnEmpty::Fill(_) => assert!(!reducer.divides_by_weights() && !reducer.gives_positions(), "{reducer}"),
                OnEmpty::Error => {}
                OnEmpty::NaN => panic!("{reducer}"),
            }
        }
    }
}

//! What folds the rows of a segment into one row.

use crate::error::{Error, ErrorCode, Result, suggestion};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// How the rows of a segment become one row, feature by feature.
///
/// With x the rows of a segment, n their number and w their weights:
///
/// | reducer | unweighted | weighted |
/// |---|---|---|
/// | `Sum` | Σx | Σwx |
/// | `Mean` | Σx ÷ n | Σwx ÷ Σw |
/// | `Max` | IEEE 754-2019 `maximum`: NaN wins, −0 < +0 | – |
/// | `Min` | IEEE 754-2019 `minimum`: NaN wins, −0 < +0 | – |
/// | `Prod` | Πx | – |
///
/// In which order, and in which arithmetic, is fixed: see [`numerics`](crate::numerics).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
}

impl Reducer {
    /// Every reducer.
    pub const ALL: [Reducer; 5] = [Reducer::Sum, Reducer::Mean, Reducer::Max, Reducer::Min, Reducer::Prod];

    /// The name used in specs and plans.
    pub fn name(self) -> &'static str {
        match self {
            Reducer::Sum => "sum",
            Reducer::Mean => "mean",
            Reducer::Max => "max",
            Reducer::Min => "min",
            Reducer::Prod => "prod",
        }
    }

    /// Whether a weighted form exists.
    pub fn takes_weights(self) -> bool {
        match self {
            Reducer::Sum | Reducer::Mean => true,
            Reducer::Max | Reducer::Min | Reducer::Prod => false,
        }
    }

    /// What an empty segment gives unless the user says otherwise: the identity where it is finite, else an error.
    pub fn default_on_empty(self) -> OnEmpty {
        match self {
            Reducer::Sum => OnEmpty::Zero,
            Reducer::Prod => OnEmpty::Fill(1.0),
            Reducer::Mean | Reducer::Max | Reducer::Min => OnEmpty::Error,
        }
    }
}

impl fmt::Display for Reducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Reducer {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        Reducer::ALL.into_iter().find(|reducer| reducer.name() == word).ok_or_else(|| {
            let known: Vec<&str> = Reducer::ALL.iter().map(|reducer| reducer.name()).collect();
            Error::new(ErrorCode::UnknownWord, format!("unknown reducer `{word}`")).help(suggestion(word, &known))
        })
    }
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
        assert_eq!("maen".parse::<Reducer>().unwrap_err().to_string(), "unknown reducer `maen`; did you mean `mean`? [unknown-word]");
    }
}

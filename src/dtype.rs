//! Element types.
//!
//! Values are `f32`, `f64`, `f16` or `bf16`; ids that look rows up in a table are `u8`, `u16`, `u32`, `i32` or `i64`.

use crate::error::{Error, ErrorCode, Result, suggestion};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The type of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of a single.
    BF16,
    /// 8-bit ids.
    U8,
    /// 16-bit ids.
    U16,
    /// 32-bit ids.
    U32,
    /// 32-bit signed ids.
    I32,
    /// 64-bit signed ids.
    I64,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 9] =
        [DType::F32, DType::F64, DType::F16, DType::BF16, DType::U8, DType::U16, DType::U32, DType::I32, DType::I64];

    /// The name used in specs, plans and files: `f32`, `bf16`, `u8`, ….
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::I32 => "i32",
            DType::I64 => "i64",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::F16 | DType::BF16 | DType::U16 => 2,
            DType::F32 | DType::U32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
        }
    }

    /// Bytes per element, as the public 64-bit integer.
    pub fn size_u64(self) -> u64 {
        crate::widen_u64(self.size())
    }

    /// Whether elements are values (rather than ids).
    pub fn is_float(self) -> bool {
        match self {
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => true,
            DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => false,
        }
    }

    /// Whether elements are ids (rather than values).
    pub fn is_id(self) -> bool {
        !self.is_float()
    }

    /// The type in which the rows of one block are accumulated: `f64` for `f64`, else `f32`.
    pub fn accumulator(self) -> DType {
        match self {
            DType::F64 => DType::F64,
            DType::F32 | DType::F16 | DType::BF16 => DType::F32,
            DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => self,
        }
    }

    /// Whether every value of this type is a value of `wider` too.
    pub fn widens_to(self, wider: DType) -> bool {
        self == wider
            || match wider {
                DType::F64 => self.is_float(),
                DType::F32 => matches!(self, DType::F16 | DType::BF16),
                DType::F16 | DType::BF16 | DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => false,
            }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What types are called elsewhere, and here.
const ELSEWHERE: [(&str, DType); 15] = [
    ("float", DType::F32),
    ("float32", DType::F32),
    ("single", DType::F32),
    ("double", DType::F64),
    ("float64", DType::F64),
    ("half", DType::F16),
    ("float16", DType::F16),
    ("bfloat16", DType::BF16),
    ("byte", DType::U8),
    ("uint8", DType::U8),
    ("uint16", DType::U16),
    ("uint32", DType::U32),
    ("int32", DType::I32),
    ("int64", DType::I64),
    ("long", DType::I64),
];

impl FromStr for DType {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        DType::ALL.into_iter().find(|dtype| dtype.name() == word).ok_or_else(|| {
            let known: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
            let help = match ELSEWHERE.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
                Some((_, ours)) => format!("it is `{ours}` here"),
                None => suggestion(word, &known),
            };
            Error::new(ErrorCode::UnknownWord, format!("unknown dtype `{word}`")).help(help)
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is an element type of the engine.
pub trait Element: bytemuck::Pod + PartialEq + fmt::Debug + Send + Sync + sealed::Sealed {
    /// Which one.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

elements! { f32 => F32, f64 => F64, f16 => F16, bf16 => BF16, u8 => U8, u16 => U16, u32 => U32, i32 => I32, i64 => I64 }

/// An element that looks up a row of a table.
pub trait IdElement: Element {
    /// The row, or `None` where the id is negative.
    fn row(self) -> Option<usize>;
}

impl IdElement for u8 {
    fn row(self) -> Option<usize> {
        Some(usize::from(self))
    }
}

impl IdElement for u16 {
    fn row(self) -> Option<usize> {
        Some(usize::from(self))
    }
}

impl IdElement for u32 {
    fn row(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

impl IdElement for i32 {
    fn row(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

impl IdElement for i64 {
    fn row(self) -> Option<usize> {
        usize::try_from(self).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_and_typos_are_answered() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
        }
        assert_eq!("f23".parse::<DType>().unwrap_err().to_string(), "unknown dtype `f23`; did you mean `f32`? [unknown-word]");
    }

    #[test]
    fn widening_is_exact_only() {
        assert!(DType::BF16.widens_to(DType::F32) && DType::F32.widens_to(DType::F64));
        assert!(!DType::F64.widens_to(DType::F32) && !DType::F16.widens_to(DType::BF16));
    }
}

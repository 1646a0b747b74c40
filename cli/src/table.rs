//! The rows that units look up: seeded ones, or a table of one's own.
//!
//! A seeded row is a pure function of (seed, key, features), where the key of a byte or code point is its value (see
//! [`Vocabulary`](crate::text::Vocabulary)), so it is the same in every corpus and on every machine. It is noise: rows of different units
//! are nearly orthogonal, and folds of them carry which units occur where, not what they mean.
//!
//! With `mix` the output function of SplitMix64 and `G` = 0x9e3779b97f4a7c15, all in wrapping 64-bit arithmetic:
//!
//! ```text
//! state    = mix(mix(seed + G) + G · (key + 1))
//! n(f)     = mix(state + G · (f + 1)) >> 40                   24 bits, for feature f = 0, 1, …
//! row[f]   = ((2 n(f) + 1 − 2^24) · 2^-24) · scale            the first factor is exact in f32, the product rounds once
//! scale    = sqrt(3 / features)                               in f64, then rounded to f32: the expected squared norm of a row is 1
//! ```

use crate::input::FileArray;
use half::{bf16, f16};
use levelfold::numerics::Value;
use levelfold::{DType, Error, ErrorCode};
use std::path::PathBuf;
use std::str::FromStr;

/// Where rows come from.
pub(crate) enum UnitTable {
    /// From a seed.
    Seeded(Seeded),
    /// From a file.
    File(FileTable),
}

impl UnitTable {
    /// Features of a row.
    pub(crate) fn features(&self) -> usize {
        match self {
            UnitTable::Seeded(seeded) => seeded.features,
            UnitTable::File(table) => table.features,
        }
    }

    /// How many rows there are, where there is an end to them.
    pub(crate) fn rows(&self) -> Option<u64> {
        match self {
            UnitTable::Seeded(_) => None,
            UnitTable::File(table) => Some(table.array.rows()),
        }
    }

    /// The rows of these keys, one after the other. Keys beyond the last row are the caller's to refuse.
    pub(crate) fn gather<T: Value>(&self, keys: &[u64]) -> Result<Vec<T>, Error> {
        match self {
            UnitTable::Seeded(seeded) => Ok(keys.iter().flat_map(|&key| seeded.row(key).map(T::from_f32)).collect()),
            UnitTable::File(table) => table.gather(keys),
        }
    }
}

/// Seeded rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeded {
    /// Which rows.
    pub(crate) seed: u64,
    /// Features of a row.
    pub(crate) features: usize,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Seeded {
    /// The row of a key.
    pub(crate) fn row(&self, key: u64) -> impl Iterator<Item = f32> + use<> {
        let state = mix(mix(self.seed.wrapping_add(GOLDEN)).wrapping_add(GOLDEN.wrapping_mul(key.wrapping_add(1))));
        let scale = rounded((3.0 / self.features as f64).sqrt());
        let features = self.features as u64;
        (0..features).map(move |feature| {
            let bits = mix(state.wrapping_add(GOLDEN.wrapping_mul(feature + 1))) >> 40;
            // An odd number between −2^24 and 2^24: exact in f32, and so is its product with a power of two.
            let odd = (2 * bits + 1).wrapping_sub(1 << 24).cast_signed() as f32;
            odd * (1.0 / 16_777_216.0) * scale
        })
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The nearest f32.
fn rounded(value: f64) -> f32 {
    value as f32
}

/// `--table FILE[:NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TablePath {
    /// The file.
    pub(crate) path: PathBuf,
    /// Which tensor of it.
    pub(crate) tensor: Option<String>,
}

impl FromStr for TablePath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        const EXTENSION: &str = ".safetensors:";
        Ok(match text.rfind(EXTENSION) {
            Some(at) => TablePath { path: text[..at + EXTENSION.len() - 1].into(), tensor: Some(text[at + EXTENSION.len()..].to_owned()) },
            None => TablePath { path: text.into(), tensor: None },
        })
    }
}

/// A table of one's own, in a file that stays mapped.
pub(crate) struct FileTable {
    array: FileArray,
    features: usize,
    dtype: DType,
}

impl FileTable {
    /// Opens it.
    ///
    /// # Errors
    /// `file`, `rank`, `unknown-name`; `dtype` where it does not hold floats; `shape` where a row has no features.
    pub(crate) fn open(path: &TablePath) -> Result<Self, Error> {
        let array = FileArray::open(&path.path, path.tensor.as_deref(), "table")?;
        let view = array.view()?;
        let (dtype, [rows, features]) = (view.dtype(), view.shape());
        let name = path.path.display();
        if !dtype.is_float() {
            return Err(Error::new(ErrorCode::DType, format!("{name}: the table holds {dtype}")).help("a table is f32, f64, f16 or bf16"));
        }
        if features == 0 || rows == 0 {
            return Err(Error::new(ErrorCode::Shape, format!("{name}: the table has shape [{rows}, {features}]"))
                .help("a table has a row for each byte or code point that occurs, and at least one feature"));
        }
        Ok(FileTable { features, dtype, array })
    }

    /// What its levels are computed in: f64 for f64, else f32, which is exact.
    pub(crate) fn level_dtype(&self) -> DType {
        self.dtype.accumulator()
    }

    fn gather<T: Value>(&self, keys: &[u64]) -> Result<Vec<T>, Error> {
        match self.dtype {
            DType::F32 => self.gather_of::<f32, T>(keys),
            DType::F64 => self.gather_of::<f64, T>(keys),
            DType::F16 => self.gather_of::<f16, T>(keys),
            DType::BF16 => self.gather_of::<bf16, T>(keys),
            dtype @ (DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64) => {
                Err(Error::new(ErrorCode::Internal, format!("a table of {dtype} was opened")))
            }
        }
    }

    fn gather_of<S: Value, T: Value>(&self, keys: &[u64]) -> Result<Vec<T>, Error> {
        let view = self.array.view()?;
        let layout = view.layout();
        let elements: &[S] = view.elements().unwrap_or(&[]);
        let mut rows = Vec::with_capacity(keys.len() * self.features);
        for &key in keys {
            let row = usize::try_from(key).ok().filter(|&row| row < layout.shape[0]);
            let row = row.ok_or_else(|| {
                Error::new(ErrorCode::IdTooLarge, format!("row {key} of a table of {} rows is looked up", layout.shape[0]))
            })?;
            rows.extend((0..self.features).map(|feature| T::from_f64(elements[layout.position(row, feature)].to_f64())));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_splitmix64() {
        // The first outputs of SplitMix64 from state 1234567, as its reference program prints them.
        let outputs: Vec<u64> = (1..=3u64).map(|n| mix(1_234_567u64.wrapping_add(GOLDEN.wrapping_mul(n)))).collect();
        assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_row_is_what_the_documentation_says() {
        for (seed, key, features) in [(7u64, 0x41u64, 3u32), (0, 0, 64), (u64::MAX, 0x10_ffff, 64), (1 << 63, u64::MAX, 1)] {
            let state = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(GOLDEN.wrapping_mul(key.wrapping_add(1))));
            let expected: Vec<f32> = (0..u64::from(features))
                .map(|feature| {
                    let n = mix(state.wrapping_add(GOLDEN.wrapping_mul(feature + 1))) >> 40;
                    let unit = (2.0 * n as f64 + 1.0 - 2f64.powi(24)) / 2f64.powi(24);
                    assert_eq!(f64::from(unit as f32), unit, "exact");
                    (unit * f64::from((3.0 / f64::from(features)).sqrt() as f32)) as f32
                })
                .collect();
            let row: Vec<f32> = Seeded { seed, features: usize::try_from(features).unwrap() }.row(key).collect();
            // The product of two f32 is exact in f64, so both round once.
            assert_eq!(row, expected);
        }
    }

    #[test]
    fn rows_are_fixed_for_all_time() {
        let bits = |seed, key| Seeded { seed, features: 64 }.row(key).map(f32::to_bits).collect::<Vec<_>>();
        let hash = |bits: Vec<u32>| bits.iter().fold(0u64, |hash, &bits| mix(hash ^ u64::from(bits)));
        assert_eq!((hash(bits(0, 0)), hash(bits(0, 0x10_ffff)), hash(bits(u64::MAX, u64::MAX))), FIXED);
    }

    #[test]
    fn rows_are_centred_near_unit_norm_and_nearly_orthogonal() {
        let rows: Vec<Vec<f64>> = (0..200).map(|key| Seeded { seed: 1, features: 256 }.row(key).map(f64::from).collect()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for (index, row) in rows.iter().enumerate() {
            assert!((dot(row, row) - 1.0).abs() < 0.3, "norm² of row {index}: {}", dot(row, row));
            for other in &rows[..index] {
                assert!(dot(row, other).abs() < 0.35, "{}", dot(row, other));
            }
        }
        let mean = rows.concat().iter().sum::<f64>() / (200.0 * 256.0);
        assert!(mean.abs() < 0.002, "{mean}");
    }

    #[test]
    fn table_paths_may_name_a_tensor() {
        let parse = |text: &str| text.parse::<TablePath>().unwrap();
        assert_eq!(parse("a:b.npy"), TablePath { path: "a:b.npy".into(), tensor: None });
        assert_eq!(parse("a.safetensors:emb:w"), TablePath { path: "a.safetensors".into(), tensor: Some("emb:w".into()) });
    }

    /// Worked out by another program from the module's documentation.
    const FIXED: (u64, u64, u64) = (7_562_703_730_838_088_984, 11_566_596_808_044_064_107, 11_120_723_261_799_112_676);
}

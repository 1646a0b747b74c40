//! Tensors that cases run on: owned memory, any strides, filled from a seed.

use crate::random::Random;
use half::{bf16, f16};
use levelfold::DType;
use levelfold::numerics::Value;
use levelfold::tensor::{Layout, TensorView, TensorViewMut};

/// How a tensor lies in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Rows one after the other.
    RowMajor,
    /// Features one after the other.
    FeatureMajor,
    /// A window of a larger row-major matrix.
    Sliced,
    /// Every other column of every third row.
    Strided,
    /// Row-major, the last row first.
    RowsBackwards,
    /// Row-major, the last feature first.
    FeaturesBackwards,
    /// Feature-major and backwards on both axes, with gaps.
    Backwards,
    /// Every row is the same memory. Inputs only.
    RowsBroadcast,
    /// Every feature of a row is the same memory. Inputs only.
    FeaturesBroadcast,
    /// Row r + 1 is row r shifted by one element: a sliding window. Inputs only.
    Windows,
}

impl Arrangement {
    /// Every arrangement that an input may have.
    pub const INPUTS: [Arrangement; 10] = [
        Arrangement::RowMajor,
        Arrangement::FeatureMajor,
        Arrangement::Sliced,
        Arrangement::Strided,
        Arrangement::RowsBackwards,
        Arrangement::FeaturesBackwards,
        Arrangement::Backwards,
        Arrangement::RowsBroadcast,
        Arrangement::FeaturesBroadcast,
        Arrangement::Windows,
    ];

    /// Every arrangement that an output may have: those in which each element has a place of its own.
    pub const OUTPUTS: [Arrangement; 7] = [
        Arrangement::RowMajor,
        Arrangement::FeatureMajor,
        Arrangement::Sliced,
        Arrangement::Strided,
        Arrangement::RowsBackwards,
        Arrangement::FeaturesBackwards,
        Arrangement::Backwards,
    ];

    /// The layout of a shape, and how many elements its memory has: more than it needs, so that stray writes are seen.
    fn layout(self, shape: [usize; 2]) -> (Layout, usize) {
        let [rows, features] = shape;
        let (last_row, last_feature) = (rows.saturating_sub(1), features.saturating_sub(1));
        let s = |steps: usize| isize::try_from(steps).expect("a small shape");
        let (offset, strides) = match self {
            Arrangement::RowMajor => (0, [s(features), 1]),
            Arrangement::FeatureMajor => (0, [1, s(rows)]),
            Arrangement::Sliced => (features + 5, [s(features + 3), 1]),
            Arrangement::Strided => (1, [3 * s(2 * features + 1), 2]),
            Arrangement::RowsBackwards => (last_row * features, [-s(features), 1]),
            Arrangement::FeaturesBackwards => (last_feature, [s(features), -1]),
            Arrangement::Backwards => (last_row * 2 + last_feature * (2 * rows + 3) + 4, [-2, -s(2 * rows + 3)]),
            Arrangement::RowsBroadcast => (2, [0, 1]),
            Arrangement::FeaturesBroadcast => (0, [1, 0]),
            Arrangement::Windows => (3, [1, 1]),
        };
        let layout = Layout { offset, shape, strides };
        let reach = |row: usize, feature: usize| layout.position(row, feature);
        let corners = [reach(0, 0), reach(last_row, 0), reach(0, last_feature), reach(last_row, last_feature)];
        let elements = corners.into_iter().max().unwrap_or(0) + 4;
        (layout, elements)
    }
}

/// What stands in a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Both signs, sixteen binary orders of magnitude, all digits in use.
    Plain,
    /// In ±[½, 2): products neither overflow nor vanish quickly.
    Factors,
    /// In [1/16, 4): the weights of a mean.
    Positive,
    /// As `Positive`, but every third row, from the second on, is 0.
    SomeZero,
    /// Integers from −100 to 100: sums are exact.
    Integers,
    /// Among plain numbers: NaNs with payloads and signs, infinities, zeros of both signs, the largest and the smallest numbers.
    Specials,
    /// Zeros of both signs.
    Zeros,
    /// −0 everywhere.
    NegativeZeros,
    /// Subnormal numbers.
    Subnormal,
    /// Near the largest number.
    Huge,
    /// One number everywhere.
    Constant(f64),
    /// Ids below a count, the first and last among them.
    Ids(u64),
}

/// An owned tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    layout: Layout,
    elements: usize,
    words: Vec<u64>,
}

/// What memory holds where no element of a tensor lies: NaNs, and ids that are rows of no table.
const GAP: u8 = 0xff;

macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::F64 => {
                type $T = f64;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            DType::BF16 => {
                type $T = bf16;
                $body
            }
            DType::U8 => {
                type $T = u8;
                $body
            }
            DType::U16 => {
                type $T = u16;
                $body
            }
            DType::U32 => {
                type $T = u32;
                $body
            }
            DType::I32 => {
                type $T = i32;
                $body
            }
            DType::I64 => {
                type $T = i64;
                $body
            }
        }
    };
}

impl Tensor {
    /// A tensor without elements set: all its memory is gaps.
    pub fn blank(dtype: DType, shape: [usize; 2], arrangement: Arrangement) -> Self {
        let (layout, elements) = arrangement.layout(shape);
        let words = (elements * dtype.size()).div_ceil(8);
        Tensor { dtype, layout, elements, words: vec![u64::from_ne_bytes([GAP; 8]); words] }
    }

    /// A tensor filled from a seed.
    pub fn filled(dtype: DType, shape: [usize; 2], arrangement: Arrangement, fill: Fill, random: &mut Random) -> Self {
        let mut tensor = Tensor::blank(dtype, shape, arrangement);
        for row in 0..shape[0] {
            for feature in 0..shape[1] {
                let bits = fill_bits(dtype, fill, row, shape[0], random);
                tensor.set_bits(row, feature, bits);
            }
        }
        tensor
    }

    /// `[rows, features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.layout.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The bits of an element, in the low end.
    pub fn bits(&self, row: usize, feature: usize) -> u64 {
        let (at, size) = (self.layout.position(row, feature) * self.dtype.size(), self.dtype.size());
        let mut word = [0u8; 8];
        word[..size].copy_from_slice(&bytemuck::cast_slice::<u64, u8>(&self.words)[at..at + size]);
        u64::from_le_bytes(if cfg!(target_endian = "big") { shifted(word, size) } else { word })
    }

    /// Sets the bits of an element.
    pub fn set_bits(&mut self, row: usize, feature: usize, bits: u64) {
        let (at, size) = (self.layout.position(row, feature) * self.dtype.size(), self.dtype.size());
        let bytes = if cfg!(target_endian = "big") { shifted(bits.to_le_bytes(), size) } else { bits.to_le_bytes() };
        bytemuck::cast_slice_mut::<u64, u8>(&mut self.words)[at..at + size].copy_from_slice(&bytes[..size]);
    }

    /// The number that an element is.
    pub fn number(&self, row: usize, feature: usize) -> f64 {
        number(self.dtype, self.bits(row, feature))
    }

    /// The tensor, to be read.
    pub fn view(&self) -> TensorView<'_> {
        let bytes = &bytemuck::cast_slice::<u64, u8>(&self.words)[..self.elements * self.dtype.size()];
        TensorView::from_bytes(bytes, self.dtype, self.layout).expect("a layout inside its memory")
    }

    /// The tensor, to be written.
    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        let (elements, layout) = (self.elements, self.layout);
        with_element!(self.dtype, T => {
            let elements = &mut bytemuck::cast_slice_mut::<u64, T>(&mut self.words)[..elements];
            TensorViewMut::strided(elements, layout).expect("an arrangement for outputs")
        })
    }

    /// Whether anything but elements was written since [`blank`](Self::blank).
    pub fn gaps_are_intact(&self) -> bool {
        let size = self.dtype.size();
        let mut gap = vec![true; self.words.len() * 8];
        for row in 0..self.layout.shape[0] {
            for feature in 0..self.layout.shape[1] {
                let at = self.layout.position(row, feature) * size;
                gap[at..at + size].fill(false);
            }
        }
        bytemuck::cast_slice::<u64, u8>(&self.words).iter().zip(gap).all(|(byte, gap)| !gap || *byte == GAP)
    }
}

/// Little-endian bytes of a word as a big-endian machine keeps an element of `size` bytes, and back.
fn shifted(mut word: [u8; 8], size: usize) -> [u8; 8] {
    word[..size].reverse();
    word
}

/// The number that bits of a value or an id stand for.
pub fn number(dtype: DType, bits: u64) -> f64 {
    let low32 = u32::try_from(bits & 0xffff_ffff).expect("32 bits");
    let low16 = u16::try_from(bits & 0xffff).expect("16 bits");
    match dtype {
        DType::F32 => f64::from(f32::from_bits(low32)),
        DType::F64 => f64::from_bits(bits),
        DType::F16 => f16::from_bits(low16).to_f64(),
        DType::BF16 => bf16::from_bits(low16).to_f64(),
        DType::U8 | DType::U16 | DType::U32 => f64::from(low32),
        DType::I32 => f64::from(low32.cast_signed()),
        DType::I64 => bits.cast_signed() as f64,
    }
}

/// The bits of the value nearest to a number, or of an id.
pub fn bits_of(dtype: DType, number: f64) -> u64 {
    match dtype {
        DType::F32 => u64::from(<f32 as Value>::from_f64(number).to_bits()),
        DType::F64 => <f64 as Value>::from_f64(number).to_bits(),
        DType::F16 => u64::from(<f16 as Value>::from_f64(number).to_bits()),
        DType::BF16 => u64::from(<bf16 as Value>::from_f64(number).to_bits()),
        // Ids as two's complement: small, and possibly negative on purpose.
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => (number as i64).cast_unsigned(),
    }
}

fn fill_bits(dtype: DType, fill: Fill, row: usize, rows: usize, random: &mut Random) -> u64 {
    match fill {
        Fill::Plain => bits_of(dtype, plain(random)),
        Fill::Factors => {
            let factor = (0.5 + 0.5 * random.unit()) * if random.chance(2) { 2.0 } else { 1.0 };
            bits_of(dtype, random.signed(factor))
        }
        Fill::Positive => bits_of(dtype, 0.0625 + 3.9375 * random.unit()),
        Fill::SomeZero => bits_of(dtype, if row % 3 == 1 { 0.0 } else { 0.0625 + 3.9375 * random.unit() }),
        Fill::Integers => bits_of(dtype, (random.below(201) as f64) - 100.0),
        Fill::Specials => special(dtype, random),
        Fill::Zeros => bits_of(dtype, random.signed(0.0)),
        Fill::NegativeZeros => bits_of(dtype, -0.0),
        Fill::Subnormal => subnormal(dtype, random),
        Fill::Huge => {
            let share = 0.5 + 0.5 * random.unit();
            bits_of(dtype, random.signed(largest(dtype) * share))
        }
        Fill::Constant(number) => bits_of(dtype, number),
        Fill::Ids(count) => match row {
            0 => count.saturating_sub(1),
            last if last + 1 == rows => 0,
            _ => random.below(count),
        },
    }
}

fn plain(random: &mut Random) -> f64 {
    let exponent = i32::try_from(random.below(16)).expect("small") - 8;
    let magnitude = (1.0 + random.unit()) * 2f64.powi(exponent);
    random.signed(magnitude)
}

/// Sign and exponent width, fraction width, of a float type.
fn fields(dtype: DType) -> (u32, u32) {
    match dtype {
        DType::F32 => (8, 23),
        DType::F64 => (11, 52),
        DType::F16 => (5, 10),
        DType::BF16 => (8, 7),
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => panic!("{dtype} is no float"),
    }
}

fn special(dtype: DType, random: &mut Random) -> u64 {
    let (exponent, fraction) = fields(dtype);
    let sign = random.below(2) << (exponent + fraction);
    let infinity = ((1 << exponent) - 1) << fraction;
    match random.below(24) {
        // A NaN with a payload, quiet or signalling.
        0 => sign | infinity | (1 + random.below((1 << fraction) - 1)),
        1 => sign | infinity,
        2 | 3 => sign,
        4 => sign | (infinity - 1),
        5 => sign | (1 + random.below((1 << fraction) - 1)),
        _ => bits_of(dtype, plain(random)),
    }
}

fn subnormal(dtype: DType, random: &mut Random) -> u64 {
    let (exponent, fraction) = fields(dtype);
    random.below(2) << (exponent + fraction) | random.below(1 << fraction)
}

/// The largest finite number of a float type.
pub fn largest(dtype: DType) -> f64 {
    let (exponent, fraction) = fields(dtype);
    number(dtype, (((1u64 << exponent) - 1) << fraction) - 1)
}

/// The smallest number above 0 of a float type.
pub fn smallest(dtype: DType) -> f64 {
    number(dtype, 1)
}

/// How an element is printed in a failure: its number and its bits.
pub fn shown(dtype: DType, bits: u64) -> String {
    format!("{:?} ({bits:#0width$x})", number(dtype, bits), width = 2 + 2 * dtype.size())
}

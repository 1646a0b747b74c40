//! The header of an `.npy` file, format versions 1 to 3.
//!
//! The header is a Python dictionary of three known entries; exactly those are read, without recursion, so that no header can exhaust the
//! stack. Source of the format: NumPy's documentation of `numpy.lib.format`.

use super::{Header, Order, Scalar};
use levelfold::{DType, Error, ErrorCode};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads the header of a file that begins with [`MAGIC`].
pub(super) fn read_header(file: &[u8]) -> Result<Header, Error> {
    let cut = || Error::new(ErrorCode::File, "it ends inside its header").help("the file was cut short");
    let &[major, minor] = file.get(6..8).ok_or_else(cut)? else { return Err(cut()) };
    let (start, claimed) = match major {
        1 => (10, u64::from(u16::from_le_bytes(field(file, 8).ok_or_else(cut)?))),
        2 | 3 => (12, u64::from(u32::from_le_bytes(field(file, 8).ok_or_else(cut)?))),
        _ => return Err(Error::new(ErrorCode::File, format!("it has .npy version {major}.{minor}")).help("versions 1 to 3 are read")),
    };
    let end = usize::try_from(claimed).ok().and_then(|claimed| claimed.checked_add(start)).filter(|&end| end <= file.len());
    let Some(end) = end else {
        return Err(Error::new(ErrorCode::File, format!("its header claims {claimed} bytes, but the file has {}", file.len()))
            .help("the file was cut short"));
    };
    let text = std::str::from_utf8(&file[start..end]).map_err(|_| Error::new(ErrorCode::File, "its header is not text"))?;
    let entries = Entries::parse(text)?;
    Ok(Header { scalar: scalar(&entries.descr)?, shape: entries.shape, order: entries.order, data: end..file.len() })
}

fn field<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at + N)?.try_into().ok()
}

/// `<f4` and the like.
fn scalar(descr: &str) -> Result<Scalar, Error> {
    let Some((order, kind)) = descr.split_at_checked(1) else {
        return Err(Error::new(ErrorCode::DType, "its element type is empty"));
    };
    let scalar = match kind {
        "f4" => Scalar::Of(DType::F32),
        "f8" => Scalar::Of(DType::F64),
        "f2" => Scalar::Of(DType::F16),
        "u1" => Scalar::Of(DType::U8),
        "u2" => Scalar::Of(DType::U16),
        "u4" => Scalar::Of(DType::U32),
        "i4" => Scalar::Of(DType::I32),
        "i8" => Scalar::Of(DType::I64),
        "i1" => Scalar::I8,
        "i2" => Scalar::I16,
        "u8" => Scalar::U64,
        _ => {
            return Err(Error::new(ErrorCode::DType, format!("its elements are `{descr}`"))
                .help("read are f2, f4, f8, i1 to i8 and u1 to u8; bf16 has a place in .safetensors files only"));
        }
    };
    match order {
        "<" => Ok(scalar),
        "|" if scalar.size() == 1 => Ok(scalar),
        ">" => Err(Error::new(ErrorCode::DType, format!("its elements are `{descr}`: big-endian"))
            .help(format!("convert it, for instance with array.astype('<{kind}')"))),
        _ => Err(Error::new(ErrorCode::DType, format!("its elements are `{descr}`, of unknown byte order"))),
    }
}

struct Entries {
    descr: String,
    order: Order,
    shape: Vec<u64>,
}

/// What is left of the header's text.
struct Cursor<'a>(&'a str);

impl Entries {
    fn parse(text: &str) -> Result<Entries, Error> {
        Entries::read(&mut Cursor(text)).ok_or_else(|| {
            let shown: String = text.trim_end().chars().take(120).collect();
            Error::new(ErrorCode::File, format!("its header is not one of a plain array: {shown:?}"))
                .help("arrays of records and of objects are not read")
        })
    }

    fn read(cursor: &mut Cursor<'_>) -> Option<Entries> {
        let (mut descr, mut order, mut shape) = (None, None, None);
        cursor.take("{")?;
        while cursor.take("}").is_none() {
            let key = cursor.string()?;
            cursor.take(":")?;
            let fresh = match key {
                "descr" => descr.replace(cursor.string()?.to_owned()).is_none(),
                "fortran_order" => {
                    let read = cursor.take("True").map(|()| Order::Fortran).or_else(|| cursor.take("False").map(|()| Order::C))?;
                    order.replace(read).is_none()
                }
                "shape" => shape.replace(cursor.tuple()?).is_none(),
                _ => return None,
            };
            if !fresh {
                return None;
            }
            if cursor.take(",").is_none() {
                cursor.take("}")?;
                break;
            }
        }
        cursor.0.trim().is_empty().then_some(())?;
        Some(Entries { descr: descr?, order: order?, shape: shape? })
    }
}

impl<'a> Cursor<'a> {
    fn take(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
        let (inside, rest) = text[1..].split_once(quote)?;
        self.0 = rest;
        Some(inside)
    }

    fn number(&mut self) -> Option<u64> {
        let text = self.0.trim_start();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number = text[..digits].parse().ok()?;
        // NumPy under Python 2 wrote `3L`.
        self.0 = text[digits..].strip_prefix('L').unwrap_or(&text[digits..]);
        Some(number)
    }

    fn tuple(&mut self) -> Option<Vec<u64>> {
        let mut numbers = Vec::new();
        self.take("(")?;
        while self.take(")").is_none() {
            numbers.push(self.number()?);
            if self.take(",").is_none() {
                self.take(")")?;
                break;
            }
        }
        Some(numbers)
    }
}

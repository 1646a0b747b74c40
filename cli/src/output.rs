//! Writing `.safetensors` files whole or not at all.
//!
//! A file is written under a temporary name beside its place, its space reserved first where the system can; then it is flushed to the disk
//! and renamed, so whoever opens the place sees the old file or the whole new one. What fails or is interrupted leaves nothing behind.
//! A place that is no regular file (a device, a pipe) is written to as it is.

use crate::failure::file_error;
use crate::ui::Held;
use levelfold::{DType, Error, ErrorCode};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: String,
    /// Its element type.
    pub(crate) dtype: DType,
    /// Its axes.
    pub(crate) shape: Vec<u64>,
}

impl Entry {
    /// Its bytes.
    ///
    /// # Errors
    /// `overflow`.
    pub(crate) fn bytes(&self) -> Result<u64, Error> {
        self.shape
            .iter()
            .try_fold(self.dtype.size_u64(), |bytes, &axis| bytes.checked_mul(axis))
            .ok_or_else(|| Error::new(ErrorCode::Overflow, format!("tensor `{}` of shape {:?} is too large", self.name, self.shape)))
    }
}

/// The longest header that readers of the format take.
const LONGEST_HEADER: usize = 100_000_000;

/// What a file begins with.
#[derive(Debug)]
pub(crate) struct Header {
    entries: Vec<Entry>,
    /// Length and JSON.
    bytes: Vec<u8>,
    /// The bytes of all tensors.
    data: u64,
}

impl Header {
    /// A header. Tensors stand in the file in the order of their element sizes, largest first, so that each is aligned for its type.
    ///
    /// # Errors
    /// `duplicate-name`, `overflow`; `file` where the header is longer than readers take.
    pub(crate) fn new(metadata: &[(&str, String)], mut entries: Vec<Entry>) -> Result<Self, Error> {
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.dtype.size()));
        let mut json = Map::new();
        let metadata: Map<String, Value> = metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        json.insert("__metadata__".to_owned(), Value::Object(metadata));
        let mut end = 0u64;
        for entry in &entries {
            let start = end;
            end = end
                .checked_add(entry.bytes()?)
                .ok_or_else(|| Error::new(ErrorCode::Overflow, "the tensors of the file do not fit 64 bits together"))?;
            let described = json!({ "dtype": entry.dtype.name().to_uppercase(), "shape": entry.shape, "data_offsets": [start, end] });
            if json.insert(entry.name.clone(), described).is_some() {
                return Err(Error::new(ErrorCode::DuplicateName, format!("two tensors of the file are called `{}`", entry.name)));
            }
        }
        let mut text = Value::Object(json).to_string().into_bytes();
        // Spaces, which JSON ignores, align what follows.
        text.resize(text.len().next_multiple_of(8), b' ');
        if text.len() > LONGEST_HEADER {
            return Err(Error::new(
                ErrorCode::File,
                format!("the header of the file would have {} bytes, and readers take {LONGEST_HEADER}", text.len()),
            )
            .help("fewer or shorter file names fit"));
        }
        let mut bytes = u64::try_from(text.len()).unwrap_or(0).to_le_bytes().to_vec();
        bytes.append(&mut text);
        Ok(Header { entries, bytes, data: end })
    }

    /// The tensors, in the order in which their data is to be written.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.data.saturating_add(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX))
    }
}

/// A file that is being made.
pub(crate) struct Output {
    place: PathBuf,
    target: Target,
    /// How many bytes of data are still to come.
    missing: u64,
    /// The temporary file is removed before the process ends.
    _held: Option<Held>,
}

enum Target {
    Renamed(NamedTempFile),
    Direct(File),
}

impl Output {
    /// Opens a place for writing: nothing there changes before [`finish`](Self::finish).
    ///
    /// # Errors
    /// `file` where it cannot be written.
    pub(crate) fn create(place: &Path) -> Result<Self, Error> {
        let cannot = |cause: &dyn std::fmt::Display| file_error("write", place, cause);
        let existing = match fs::metadata(place) {
            Ok(metadata) => Some(metadata),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(cannot(&cause)),
        };
        if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(cannot(&"it is a directory").help("name a file in it"));
        }
        if existing.as_ref().is_some_and(|metadata| !metadata.is_file()) {
            let file = OpenOptions::new().write(true).open(place).map_err(|cause| cannot(&cause))?;
            return Ok(Output { place: place.to_owned(), target: Target::Direct(file), missing: 0, _held: None });
        }
        if existing.as_ref().is_some_and(|metadata| metadata.permissions().readonly()) {
            return Err(cannot(&"it is read-only"));
        }
        // Behind a link the file that it points to is replaced, not the link.
        let place = if existing.is_some() { fs::canonicalize(place).map_err(|cause| cannot(&cause))? } else { place.to_owned() };
        let held = Held::new();
        let mut builder = tempfile::Builder::new();
        builder.prefix(".levelfold-").suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // What the umask leaves of it, as for any new file.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(directory(&place)).map_err(|cause| file_error("write", &place, cause))?;
        if let Some(existing) = existing {
            // Best effort: on some file systems permissions cannot be set.
            let _ = file.as_file().set_permissions(existing.permissions());
        }
        Ok(Output { place, target: Target::Renamed(file), missing: 0, _held: Some(held) })
    }

    /// Where the file will be.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Where files that go with it may be put meanwhile.
    pub(crate) fn spool_directory(&self) -> PathBuf {
        match &self.target {
            Target::Renamed(_) => directory(&self.place).to_owned(),
            Target::Direct(_) => std::env::temp_dir(),
        }
    }

    /// Reserves the space of the whole file, and writes its header. The data of every tensor follows, in the order of the header.
    ///
    /// # Errors
    /// `file`, where there is no space.
    pub(crate) fn begin(&mut self, header: &Header) -> Result<(), Error> {
        self.missing = header.data;
        if let Target::Renamed(file) = &self.target {
            reserve(file.as_file(), header.file_bytes()).map_err(|cause| self.cannot(&cause))?;
        }
        self.write_all(&header.bytes)
    }

    /// Writes the next data.
    ///
    /// # Errors
    /// `file`.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.count(u64::try_from(data.len()).unwrap_or(u64::MAX))?;
        self.write_all(data)
    }

    /// Writes everything that a file holds.
    ///
    /// # Errors
    /// `file`.
    pub(crate) fn append(&mut self, file: &mut (impl Read + Seek)) -> Result<(), Error> {
        file.rewind().map_err(|cause| self.cannot(&cause))?;
        let target = match &mut self.target {
            Target::Renamed(target) => target.as_file_mut(),
            Target::Direct(target) => target,
        };
        let copied = io::copy(file, target).map_err(|cause| self.cannot(&cause))?;
        self.count(copied)
    }

    /// Flushes the file to the disk and puts it in its place.
    ///
    /// # Errors
    /// `file`; `internal` where data is missing.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.missing > 0 {
            return Err(Error::new(ErrorCode::Internal, format!("{} bytes of the file were never written", self.missing)));
        }
        let place = self.place;
        let cannot = |cause: io::Error| file_error("write", &place, cause);
        match self.target {
            Target::Direct(mut file) => file.flush().map_err(cannot),
            Target::Renamed(file) => {
                file.as_file().sync_all().map_err(cannot)?;
                file.persist(&place).map_err(|failed| cannot(failed.error))?;
                // The file is in its place; a directory that cannot be flushed is no reason to say otherwise.
                let _ = File::open(directory(&place)).and_then(|directory| directory.sync_all());
                Ok(())
            }
        }
    }

    fn count(&mut self, bytes: u64) -> Result<(), Error> {
        self.missing = self
            .missing
            .checked_sub(bytes)
            .ok_or_else(|| Error::new(ErrorCode::Internal, "more data is written than the header of the file says"))?;
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = match &mut self.target {
            Target::Renamed(file) => file.as_file_mut().write_all(bytes),
            Target::Direct(file) => file.write_all(bytes),
        };
        written.map_err(|cause| self.cannot(&cause))
    }

    fn cannot(&self, cause: &io::Error) -> Error {
        file_error("write", &self.place, cause)
    }
}

/// Writes a file in one go: tensors with their data, little-endian and in row-major order.
///
/// # Errors
/// `file`, and what [`Header::new`] says.
pub(crate) fn write_file(place: &Path, metadata: &[(&str, String)], tensors: &[(Entry, Cow<'_, [u8]>)]) -> Result<u64, Error> {
    let header = Header::new(metadata, tensors.iter().map(|(entry, _)| entry.clone()).collect())?;
    let mut output = Output::create(place)?;
    output.begin(&header)?;
    for entry in header.entries() {
        if let Some((_, data)) = tensors.iter().find(|(other, _)| other.name == entry.name) {
            output.write(data)?;
        }
    }
    output.finish()?;
    Ok(header.file_bytes())
}

/// The bytes of elements as files have them: little-endian.
pub(crate) fn le_bytes<T: bytemuck::NoUninit>(elements: &[T]) -> Cow<'_, [u8]> {
    let bytes: &[u8] = bytemuck::cast_slice(elements);
    if cfg!(target_endian = "little") || size_of::<T>() < 2 {
        return Cow::Borrowed(bytes);
    }
    Cow::Owned(bytes.chunks_exact(size_of::<T>()).flat_map(|element| element.iter().rev().copied()).collect())
}

fn directory(place: &Path) -> &Path {
    match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // A file system that cannot reserve says so when it runs out.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _bytes: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    fn entry(name: &str, dtype: DType, shape: &[u64]) -> Entry {
        Entry { name: name.to_owned(), dtype, shape: shape.to_vec() }
    }

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn writes_what_the_format_s_own_library_reads() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("a.safetensors");
        let tensors = [
            (entry("ids", DType::U8, &[3]), le_bytes(&[1u8, 2, 3])),
            (entry("rows", DType::F32, &[2, 1]), le_bytes(&[1.5f32, -0.0])),
            (entry("offsets", DType::I64, &[2]), le_bytes(&[0i64, 2])),
            (entry("nothing", DType::F16, &[0, 7]), Cow::Borrowed(&[][..])),
        ];
        let bytes = write_file(&place, &[("unit", "char \"é\"".to_owned())], &tensors).unwrap();
        let file = fs::read(&place).unwrap();
        assert_eq!(bytes, u64::try_from(file.len()).unwrap());
        let read = SafeTensors::deserialize(&file).unwrap();
        for (entry, data) in &tensors {
            let view = read.tensor(&entry.name).unwrap();
            assert_eq!(view.data(), &data[..], "{}", entry.name);
            let shape: Vec<u64> = view.shape().iter().map(|&axis| u64::try_from(axis).unwrap()).collect();
            assert_eq!(shape, entry.shape);
            assert_eq!((view.data().as_ptr().addr() - file.as_ptr().addr()) % entry.dtype.size(), 0, "{} is aligned", entry.name);
        }
        let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["unit"], "char \"é\"");
        assert_eq!(names(directory.path()), ["a.safetensors"]);
    }

    #[test]
    fn what_is_not_finished_leaves_the_old_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("a");
        fs::write(&place, "old").unwrap();
        let header = Header::new(&[], vec![entry("x", DType::U8, &[2])]).unwrap();
        let mut output = Output::create(&place).unwrap();
        output.begin(&header).unwrap();
        output.write(b"1").unwrap();
        assert!(output.write(b"23").unwrap_err().to_string().contains("more data"));
        assert_eq!(output.finish().unwrap_err().code(), ErrorCode::Internal);
        assert_eq!((fs::read(&place).unwrap(), names(directory.path())), (b"old".to_vec(), vec!["a".to_owned()]));
    }

    #[test]
    fn places_that_cannot_be_written_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = Output::create(&directory.path().join("no/such/file")).err().unwrap().to_string();
        assert!(error.contains("no/such/file") && error.ends_with("[file]"), "{error}");
        let error = Output::create(directory.path()).err().unwrap().to_string();
        assert!(error.contains("it is a directory"), "{error}");
        let huge = Header::new(&[], vec![entry("x", DType::F64, &[1 << 58])]).unwrap();
        let mut output = Output::create(&directory.path().join("a")).unwrap();
        assert_eq!(output.begin(&huge).unwrap_err().code(), ErrorCode::File);
        drop(output);
        assert!(names(directory.path()).is_empty());
        let twice = vec![entry("x", DType::U8, &[2]), entry("x", DType::U8, &[2])];
        assert_eq!(Header::new(&[], twice).unwrap_err().code(), ErrorCode::DuplicateName);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&real, &link).unwrap();
        write_file(&link, &[], &[(entry("x", DType::U8, &[1]), Cow::Borrowed(&[7][..]))]).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(SafeTensors::deserialize(&fs::read(&real).unwrap()).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_an_error_and_stays_a_device() {
        use std::os::unix::fs::FileTypeExt;
        let place = Path::new("/dev/full");
        let error = write_file(place, &[], &[(entry("x", DType::U8, &[1]), Cow::Borrowed(&[7][..]))]).unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
        assert!(fs::metadata(place).unwrap().file_type().is_char_device());
    }
}

//! Compiled kernels on disk, by a hash of all that made them.
//!
//! An entry appears whole or not at all, under a temporary name first. It carries a checksum, so one that was damaged is as good as none: the kernel is compiled
//! again, and takes its place. A folder that cannot be written costs compilations and nothing else.

use crate::nvrtc::Compiled;
use std::io::Write;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

/// What an entry begins with.
const MAGIC: &[u8; 8] = b"LFCUBIN1";
/// Magic, key, checksum, and the length of the code.
const HEADER: usize = 8 + 16 + 16 + 8;

/// What makes a kernel: equal keys, equal code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey(u128);

impl CacheKey {
    /// Of a source, its options, the architecture, and the release of the compiler.
    pub(crate) fn of(source: &str, options: &[String], arch: &str, compiler: (i32, i32)) -> Self {
        let mut bytes = Vec::with_capacity(source.len() + 256);
        let release = format!("{}.{}", compiler.0, compiler.1);
        for part in [source, arch, &release].into_iter().chain(options.iter().map(String::as_str)) {
            // Lengths stand before parts, so that no two lists of parts are one text.
            bytes.extend_from_slice(&crate::wide(part.len()).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        CacheKey(xxh3_128(&bytes))
    }
}

/// The folder, where there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Cache { folder }
    }

    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    fn path(&self, key: CacheKey) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{:032x}.cubin", key.0)))
    }

    /// An entry, where there is a sound one.
    pub(crate) fn get(&self, key: CacheKey) -> Option<Compiled> {
        parse(key, &std::fs::read(self.path(key)?).ok()?)
    }

    /// Keeps an entry, if that can be done.
    ///
    /// # Errors
    /// Of the file system; the caller may go on without.
    pub(crate) fn put(&self, key: CacheKey, compiled: &Compiled) -> std::io::Result<()> {
        let (Some(folder), Some(path)) = (&self.folder, self.path(key)) else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new().prefix(".cubin-").tempfile_in(folder)?;
        file.write_all(&render(key, compiled))?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

fn render(key: CacheKey, compiled: &Compiled) -> Vec<u8> {
    let mut body = Vec::with_capacity(compiled.code.len() + compiled.log.len());
    body.extend_from_slice(&compiled.code);
    body.extend_from_slice(compiled.log.as_bytes());
    let length = crate::wide(compiled.code.len()).to_le_bytes();
    let mut entry = Vec::with_capacity(HEADER + body.len());
    entry.extend_from_slice(MAGIC);
    entry.extend_from_slice(&key.0.to_le_bytes());
    entry.extend_from_slice(&xxh3_128(&[&length[..], &body].concat()).to_le_bytes());
    entry.extend_from_slice(&length);
    entry.extend_from_slice(&body);
    entry
}

fn parse(key: CacheKey, entry: &[u8]) -> Option<Compiled> {
    let (magic, rest) = entry.split_first_chunk::<8>()?;
    let (found, rest) = rest.split_first_chunk::<16>()?;
    let (checksum, rest) = rest.split_first_chunk::<16>()?;
    if magic != MAGIC || u128::from_le_bytes(*found) != key.0 || u128::from_le_bytes(*checksum) != xxh3_128(rest) {
        return None;
    }
    let (length, body) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let log = std::str::from_utf8(body.get(length..)?).ok()?;
    Some(Compiled { code: body.get(..length)?.to_vec(), log: log.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> CacheKey {
        CacheKey::of("source", &["-DA".into(), "-DB=1".into()], "sm_90", (12, 9))
    }

    fn compiled() -> Compiled {
        Compiled { code: (0..=255).collect(), log: "used 32 registers".into() }
    }

    #[test]
    fn whatever_makes_a_kernel_changes_its_key() {
        let options = |options: &[&str]| options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>();
        let others = [
            CacheKey::of("source ", &options(&["-DA", "-DB=1"]), "sm_90", (12, 9)),
            CacheKey::of("source", &options(&["-DA", "-DB=2"]), "sm_90", (12, 9)),
            CacheKey::of("source", &options(&["-DA-DB=1"]), "sm_90", (12, 9)),
            CacheKey::of("source", &options(&["-DA", "-DB=1"]), "sm_80", (12, 9)),
            CacheKey::of("source", &options(&["-DA", "-DB=1"]), "sm_90", (13, 0)),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(*other, key(), "{index}");
            assert!(!others[..index].contains(other), "{index}");
        }
        assert_eq!(CacheKey::of("source", &options(&["-DA", "-DB=1"]), "sm_90", (12, 9)), key());
    }

    #[test]
    fn an_entry_comes_back_and_a_damaged_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(Some(folder.path().join("below/it")));
        assert_eq!(cache.get(key()), None);
        cache.put(key(), &compiled()).expect("written");
        assert_eq!(cache.get(key()), Some(compiled()));
        let path = cache.path(key()).expect("a path");
        let sound = std::fs::read(&path).expect("read");
        // Every single byte counts, and so does every length.
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).expect("written");
            assert_eq!(cache.get(key()), None, "byte {at}");
            std::fs::write(&path, &sound[..at]).expect("written");
            assert_eq!(cache.get(key()), None, "the first {at} bytes");
        }
        cache.put(key(), &compiled()).expect("written");
        assert_eq!(cache.get(key()), Some(compiled()));
        // Nothing temporary is left.
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("read").count(), 1);
        // Under another key it is another kernel's.
        let other = CacheKey(7);
        std::fs::rename(&path, cache.path(other).expect("a path")).expect("renamed");
        assert_eq!(cache.get(other), None);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_that_can_be_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, b"").expect("written");
        let cache = Cache::new(Some(file.join("below")));
        assert!(cache.put(key(), &compiled()).is_err());
        assert_eq!(cache.get(key()), None);
        let none = Cache::new(None);
        assert!(none.put(key(), &compiled()).is_ok());
        assert_eq!(none.get(key()), None);
    }
}

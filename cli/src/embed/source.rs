//! Reading text: files, directories and standard input, in batches of whole documents.

use crate::failure::{CliResult, Failure, file_error};
use crate::text::{InvalidUtf8, Repairs, decode};
use crate::ui::Ui;
use levelfold::{Error, ErrorCode};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Something that holds one document.
#[derive(Debug)]
pub(crate) struct Source {
    /// What it is called in errors and in the output.
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Standard input.
    Stdin,
    /// A file of this many bytes.
    File(PathBuf, u64),
    /// A pipe or a device: its size shows when it ends.
    Stream(PathBuf),
}

impl Source {
    /// Its bytes, where they are known.
    pub(crate) fn size(&self) -> Option<u64> {
        match &self.kind {
            Kind::File(_, size) => Some(*size),
            Kind::Stdin | Kind::Stream(_) => None,
        }
    }
}

/// What paths stand for, in order. Directories are walked by name; what begins with a dot is left out of them, and so is `output`.
///
/// # Errors
/// `file` where a path cannot be read, or where nothing is found; a usage error for two standard inputs, and for the output among the files.
pub(crate) fn list(paths: &[PathBuf], output: &Path, ui: &Ui) -> CliResult<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            if sources.iter().any(|source| matches!(source.kind, Kind::Stdin)) {
                return Err(Failure::Usage("standard input (-) can be read only once".to_owned()));
            }
            sources.push(Source { name: "-".to_owned(), kind: Kind::Stdin });
            continue;
        }
        let metadata = fs::metadata(path).map_err(|cause| file_error("read", path, cause))?;
        if metadata.is_dir() {
            walk(path, output, &mut sources, ui)?;
        } else if metadata.is_file() {
            if fs::canonicalize(path).is_ok_and(|real| real == output) {
                let message = format!("{} is to be read and to be written: name another file with --out", path.display());
                return Err(Failure::Usage(message));
            }
            sources.push(file(path.clone(), metadata.len()));
        } else {
            sources.push(Source { name: path.display().to_string(), kind: Kind::Stream(path.clone()) });
        }
    }
    if sources.is_empty() {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::new(ErrorCode::File, format!("there is no file in {}", paths.join(", "))).into());
    }
    Ok(sources)
}

fn file(path: PathBuf, size: u64) -> Source {
    Source { name: path.display().to_string(), kind: Kind::File(path, size) }
}

fn walk(top: &Path, output: &Path, sources: &mut Vec<Source>, ui: &Ui) -> CliResult {
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        ui.check_interrupt()?;
        // Links to files are read; links to directories are not followed, so that no walk goes in circles.
        let link = path != top && fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
        let metadata = fs::metadata(&path).map_err(|cause| file_error("read", &path, cause))?;
        if metadata.is_file() {
            if fs::canonicalize(&path).is_ok_and(|real| real == output) {
                ui.note(format_args!("note: {} is the output, and is left out", path.display()));
            } else {
                sources.push(file(path, metadata.len()));
            }
        } else if !metadata.is_dir() || link {
            ui.note(format_args!("note: {} is no regular file, and is left out", path.display()));
        } else {
            let cannot = |cause: io::Error| file_error("read", &path, cause);
            let mut names: Vec<OsString> = Vec::new();
            for entry in fs::read_dir(&path).map_err(cannot)? {
                let name = entry.map_err(cannot)?.file_name();
                if !name.as_encoded_bytes().starts_with(b".") {
                    names.push(name);
                }
            }
            // The last one pushed is visited first.
            names.sort_unstable_by(|a, b| b.cmp(a));
            open.extend(names.into_iter().map(|name| path.join(name)));
        }
    }
    Ok(())
}

/// Documents whose text lies one after the other.
pub(crate) struct Batch {
    /// The text of all.
    pub(crate) text: String,
    /// Where each lies in it.
    pub(crate) documents: Vec<Document>,
}

/// One document of a batch.
pub(crate) struct Document {
    /// Its index among all sources.
    pub(crate) source: usize,
    /// Its bytes in the text of the batch.
    pub(crate) text: Range<usize>,
    /// Its bytes in the file.
    pub(crate) source_bytes: u64,
    /// Where the two differ.
    pub(crate) repairs: Repairs,
}

/// Reads sources one after the other.
pub(crate) struct Reader<'a> {
    sources: &'a [Source],
    next: usize,
    invalid: InvalidUtf8,
    limit: u64,
    ui: &'a Ui,
}

/// How much is read between two looks at whether to go on.
const STEP: usize = 8 << 20;

impl<'a> Reader<'a> {
    /// No document may have more than `limit` bytes.
    pub(crate) fn new(sources: &'a [Source], invalid: InvalidUtf8, limit: u64, ui: &'a Ui) -> Self {
        Reader { sources, next: 0, invalid, limit, ui }
    }

    /// The next documents: about `target` bytes of them, and at least one; none at the end.
    ///
    /// # Errors
    /// `file`, `utf8`; `memory-limit` for a document that is too large.
    pub(crate) fn next_batch(&mut self, target: u64) -> CliResult<Option<Batch>> {
        let mut text = Vec::new();
        let mut documents = Vec::new();
        while let Some(source) = self.sources.get(self.next) {
            let read = wide(text.len());
            // A stream may be of any size, so it begins a batch.
            let fits = source.size().is_some_and(|size| read.saturating_add(size) <= target);
            if !documents.is_empty() && !fits {
                break;
            }
            self.ui.check_interrupt()?;
            let start = text.len();
            self.read(source, &mut text)?;
            let source_bytes = wide(text.len() - start);
            let repairs = decode(&mut text, start, self.invalid, &source.name)?;
            documents.push(Document { source: self.next, text: start..text.len(), source_bytes, repairs });
            self.next += 1;
        }
        if documents.is_empty() {
            return Ok(None);
        }
        let text = String::from_utf8(text)
            .map_err(|_| Error::new(ErrorCode::Internal, "documents that are UTF-8 one by one are not so together"))?;
        Ok(Some(Batch { text, documents }))
    }

    fn read(&self, source: &Source, text: &mut Vec<u8>) -> CliResult {
        match &source.kind {
            Kind::Stdin => self.read_stream(source, text, || Ok(Box::new(io::stdin()))),
            Kind::Stream(path) => {
                let path = path.clone();
                self.read_stream(source, text, move || Ok(Box::new(File::open(path)?)))
            }
            Kind::File(path, size) => {
                self.check_size(source, *size)?;
                let cannot = |cause: io::Error| file_error("read", path, cause);
                let mut file = File::open(path).map_err(cannot)?;
                let room = usize::try_from(*size).ok().and_then(|size| text.try_reserve(size.saturating_add(1)).ok());
                room.ok_or_else(|| file_error("read", path, format_args!("there is no memory for its {size} bytes")))?;
                let start = text.len();
                // The file may have grown meanwhile: what counts is what is read.
                while file.by_ref().take(wide(STEP)).read_to_end(text).map_err(cannot)? > 0 {
                    self.ui.check_interrupt()?;
                    self.check_size(source, wide(text.len() - start))?;
                }
                Ok(())
            }
        }
    }

    /// Reads what may keep one waiting on a thread of its own, so that Ctrl-C is heard.
    fn read_stream(
        &self,
        source: &Source,
        text: &mut Vec<u8>,
        open: impl FnOnce() -> io::Result<Box<dyn Read>> + Send + 'static,
    ) -> CliResult {
        let (send, receive) = sync_channel::<io::Result<Vec<u8>>>(16);
        std::thread::spawn(move || {
            let mut stream = match open() {
                Ok(stream) => stream,
                Err(cause) => return drop(send.send(Err(cause))),
            };
            loop {
                let mut part = Vec::new();
                let read = stream.by_ref().take(1 << 18).read_to_end(&mut part);
                // Nobody listens any more once the command is interrupted.
                if !matches!(read, Ok(1..)) || send.send(Ok(std::mem::take(&mut part))).is_err() {
                    return if let Err(cause) = read {
                        drop(send.send(Err(cause)))
                    };
                }
            }
        });
        let start = text.len();
        loop {
            match receive.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(part)) => {
                    text.extend_from_slice(&part);
                    self.check_size(source, wide(text.len() - start))?;
                }
                Ok(Err(cause)) => return Err(file_error("read", Path::new(&source.name), cause).into()),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.ui.check_interrupt()?;
        }
    }

    fn check_size(&self, source: &Source, size: u64) -> Result<(), Error> {
        if size <= self.limit {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::MemoryLimit,
            format!("the document has {size} bytes or more, and needs several times as many; the limit is {}", self.limit),
        )
        .at_level(&*source.name)
        .help("a document is cut and folded as a whole: raise --memory-limit, or split the file"))
    }
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

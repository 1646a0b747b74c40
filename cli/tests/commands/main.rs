//! The command as its users meet it: the real binary, its streams, its files and its exit codes.

mod bench;
mod check;
#[cfg(target_os = "linux")]
mod cuda;
mod diff;
mod explain;
mod files;
mod peers;
mod run;
mod streams;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The command, with nothing of the environment that changes what it prints.
fn levelfold(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_levelfold"));
    command.args(arguments).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

/// What a command printed, and its exit code.
struct Done {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

impl Done {
    fn of(output: Output) -> Done {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the command prints UTF-8");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(!stderr.contains("panicked"), "a panic is our bug: {stderr}");
        Done { stdout, stderr, code: output.status.code() }
    }

    #[track_caller]
    fn code(self, code: i32) -> Done {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// What it printed, where it ended well.
    #[track_caller]
    fn ok(self) -> String {
        let done = self.code(0);
        assert_eq!(done.stderr, "");
        done.stdout
    }

    /// What it complained about, with exit 1 and nothing on stdout.
    #[track_caller]
    fn error(self) -> String {
        let done = self.code(1);
        assert_eq!(done.stdout, "");
        assert!(done.stderr.starts_with("error: "), "{}", done.stderr);
        done.stderr
    }

    /// What it complained about, with exit 2.
    #[track_caller]
    fn usage(self) -> String {
        self.code(2).stderr
    }

    #[track_caller]
    fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).expect("JSON on stdout")
    }
}

fn run(arguments: &[&str]) -> Done {
    Done::of(levelfold(arguments).output().expect("the command starts"))
}

/// The command on a machine without a CUDA driver: what stands in its place is no library, so that one which this machine has is not found.
fn run_without_driver(arguments: &[&str]) -> Done {
    let folder = Folder::new();
    without_driver(&folder);
    Done::of(levelfold(arguments).env("LD_LIBRARY_PATH", folder.path("")).output().expect("the command starts"))
}

/// Puts into a folder, for the path of libraries, what ends the search for a driver there.
fn without_driver(folder: &Folder) {
    for name in ["libcuda.so", "libcuda.so.1"] {
        folder.write(name, "no library");
    }
}

/// A file of `docs/examples`.
fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(name);
    path.to_str().expect("a path of UTF-8").to_owned()
}

/// A folder of one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path as an argument.
    fn at(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path of UTF-8").to_owned()
    }

    /// Writes a file; gives its path as an argument.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).expect("a file is written");
        self.at(name)
    }

    /// The names in it, sorted.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the folder is there");
        let mut names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }
}

#[track_caller]
fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in\n{text}");
}

//! `backends/cuda/gpu/gpu.py`, from packing to the report, over the fake driver: what runs on a machine with a GPU has run here, but for the GPU.

use levelfold_cuda_shim::{Flavour, libraries, skip};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A bundle that was packed from this program and the command, and unpacked.
struct Bundle {
    folder: tempfile::TempDir,
    libraries: PathBuf,
}

impl Bundle {
    /// `None`, with the reason printed, where something is missing.
    fn unpacked() -> Option<Bundle> {
        let python = Command::new("python3").arg("--version").output().map_err(|error| format!("python3 cannot be run: {error}"));
        let built =
            python.and_then(|_| libraries(Flavour::Plain)).inspect_err(|reason| skip("the GPU script over the fake driver", reason));
        let libraries = built.ok()?.driver.parent().expect("a folder").to_path_buf();
        let folder = tempfile::tempdir().expect("a folder");
        let packed = Command::new("python3")
            .arg(script())
            .args(["pack", "--built", &format!("levelfold={}", env!("CARGO_BIN_EXE_levelfold"))])
            .args(["--built", &format!("device={}", std::env::current_exe().expect("this program").display())])
            .arg("--out")
            .arg(folder.path().join("bundle.tar.gz"))
            .output()
            .expect("python3");
        assert!(packed.status.success(), "{}", text(&packed.stderr));
        assert!(text(&packed.stdout).contains("bundle.tar.gz: "), "{}", text(&packed.stdout));
        let tar = Command::new("tar").current_dir(folder.path()).args(["xf", "bundle.tar.gz"]).status().expect("tar");
        assert!(tar.success());
        Some(Bundle { folder, libraries })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The bundle's `run`, which fetches nothing, and has a Python without packages for the peers.
    fn command(&self, arguments: &[&str]) -> Command {
        let python = self.program("python", "exec python3 -I -S \"$@\"");
        let mut command = Command::new("python3");
        command.current_dir(self.folder.path()).env("LD_LIBRARY_PATH", &self.libraries).env("XDG_CACHE_HOME", self.path("cache"));
        command.env_remove("LF_FAKE").arg("levelfold-gpu/gpu.py").args([
            "run",
            "--no-install",
            "--bytes",
            "64K",
            "--rounds",
            "2",
            "--python",
        ]);
        command.arg(python).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A shell script.
    fn program(&self, name: &str, lines: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("may be run");
        path
    }

    fn report(&self) -> (Value, String) {
        let read = |name: &str| std::fs::read_to_string(self.path("report").join(name)).expect("a report");
        (serde_json::from_str(&read("report.json")).expect("JSON"), read("report.md"))
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../backends/cuda/gpu/gpu.py")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(!text(&output.stderr).contains("Traceback"), "{}", text(&output.stderr));
}

/// The stage of this name.
#[track_caller]
fn stage<'a>(report: &'a Value, name: &str) -> &'a Value {
    let stages = report["stages"].as_array().expect("stages");
    stages.iter().find(|stage| stage["name"] == name).unwrap_or_else(|| panic!("no stage {name} in {stages:?}"))
}

#[track_caller]
fn is(report: &Value, name: &str, state: &str, why: &str) {
    let found = stage(report, name);
    assert!(found["state"] == state && found["why"].as_str().expect("text").contains(why), "{found}");
}

#[test]
fn a_bundle_runs_without_sources_and_reports() {
    let Some(bundle) = Bundle::unpacked() else { return };
    let empty = bundle.path("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let only =
        "^(device|nvrtc|backends|copy|conformance|memcheck|racecheck|initcheck|replay|bench:text-256-f32|bench:chain-256-f32|peers.*)$";
    let run = bundle.command(&["--only", only, "--tests", "lengths", "--sanitizer", "empty"]).output().expect("python3");
    code(&run, 0);
    let (report, page) = bundle.report();
    for name in ["device", "nvrtc", "backends", "copy", "conformance", "replay", "bench:text-256-f32", "bench:chain-256-f32"] {
        is(&report, name, "passed", "");
    }
    for tool in ["memcheck", "racecheck", "initcheck"] {
        is(&report, tool, "skipped", &format!("there is no compute-sanitizer in {}", empty.display()));
    }
    is(&report, "peers", "skipped", "has no torch");
    assert_eq!(stage(&report, "conformance")["facts"]["passed"], 1);
    assert_eq!(stage(&report, "replay")["facts"]["measured"].as_array().expect("sizes").len(), 2);
    assert_eq!(stage(&report, "bench:text-256-f32")["facts"]["same_bits"], true);
    let device = report["device"]["device"].as_str().expect("a name");
    assert_eq!((report["device"]["cuda_of_driver"].as_str(), report["nvrtc"]["release"].as_str()), (Some("13.0"), Some("13.0")));
    let date = report["date"].as_str().expect("a date");
    for part in [
        format!("# Levelfold on {device}\n").as_str(),
        &format!("| date | {date} |"),
        "| command | `gpu.py run --no-install --bytes 64K ",
        &format!("| device | {device}, compute capability 9.0, 8.0 GiB |"),
        ", for CUDA 13.0 |",
        "| NVRTC | 13.0, on this machine: `libnvrtc.so.13` |",
        "| copy inside of the device, read and written | ",
        "8 passed, 0 failed, 4 skipped.",
        "| memcheck | skipped |",
        "1 tests passed",
        "| text-256-f32 | 64 |",
        "## A small plan, replayed over memory of the device",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    // What is printed is the page.
    assert!(text(&run.stdout).trim_end() == page.trim_end());

    // A file that changed on its way is not run.
    std::fs::write(bundle.path("levelfold-gpu/gpu_peers.py"), "").expect("written");
    let run = bundle.command(&[]).output().expect("python3");
    code(&run, 1);
    assert!(text(&run.stderr).contains("error: gpu_peers.py of the bundle is damaged or missing"), "{}", text(&run.stderr));
}

#[test]
fn what_fails_is_reported_and_stops_nothing_else() {
    let Some(bundle) = Bundle::unpacked() else { return };
    // It goes by what follows `--tool`.
    let sanitizer = "case $2 in memcheck) echo '========= ERROR SUMMARY: 3 errors'; exit 77;; racecheck) exec sleep 600;; esac
shift 6; echo '========= ERROR SUMMARY: 0 errors'; exec \"$@\"";
    bundle.program("tools/compute-sanitizer", sanitizer);
    let only = "check$|bench:ones-256-f32|backends";
    let arguments = ["--sanitizer", "tools", "--sanitized", "lengths", "--each-case", "8"];
    let run = bundle.command(&[&["--only", "^(memcheck|initcheck|backends)$"][..], &arguments].concat()).output().expect("python3");
    code(&run, 1);
    let (report, page) = bundle.report();
    is(&report, "memcheck", "failed", "the sanitizer has something to report: ERROR SUMMARY: 3 errors");
    is(&report, "initcheck", "passed", "");
    is(&report, "backends", "passed", "");
    for part in ["| memcheck | failed |", "### memcheck failed", "========= ERROR SUMMARY: 3 errors", "4 passed, 1 failed, 0 skipped."] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    assert!(text(&run.stderr).contains("error: 1 stages failed: memcheck"), "{}", text(&run.stderr));

    // One that does not end is ended.
    let run = bundle.command(&[&["--only", "^racecheck$", "--limit", "3"][..], &arguments].concat()).output().expect("python3");
    code(&run, 1);
    is(&bundle.report().0, "racecheck", "failed", "it ran past its limit of 3 s, and was ended");

    // A bench that fails, because the device has too little memory.
    let run = bundle.command(&["--only", "bench:ones-256-f32"]).env("LF_FAKE", "memory=4096").output().expect("python3");
    code(&run, 1);
    is(&bundle.report().0, "bench:ones-256-f32", "failed", "error");

    // No device: one stage fails, and the others say why they do not run.
    let run = bundle.command(&["--only", only]).env("LF_FAKE", "devices=0").output().expect("python3");
    code(&run, 1);
    let report = bundle.report().0;
    is(&report, "device", "failed", "the CUDA driver finds no device");
    is(&report, "bench:ones-256-f32", "skipped", "there is no device");
    is(&report, "memcheck", "skipped", "there is no device");
}

#[test]
fn it_can_be_interrupted() {
    let Some(bundle) = Bundle::unpacked() else { return };
    let begun = bundle.path("begun");
    bundle.program("tools/compute-sanitizer", &format!("touch {}; exec sleep 600", begun.display()));
    let mut run: Child = bundle.command(&["--only", "^memcheck$", "--sanitizer", "tools"]).spawn().expect("python3");
    let start = Instant::now();
    while !begun.exists() {
        assert!(start.elapsed() < Duration::from_secs(120) && run.try_wait().expect("a state").is_none(), "the stage does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    let sent = Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let run = run.wait_with_output().expect("it ends");
    code(&run, 130);
    is(&bundle.report().0, "memcheck", "failed", "it was interrupted");
}

#[test]
fn wrong_usage_is_told() {
    let run = |arguments: &[&str]| Command::new("python3").arg(script()).args(arguments).stdin(Stdio::null()).output();
    let Ok(listed) = run(&["list"]) else { return skip("the GPU script", "python3 cannot be run") };
    code(&listed, 0);
    for name in ["device", "conformance", "memcheck", "replay", "bench:skewed-64-f32", "bench:text-128-bf16", "peers:ones-256-f32"] {
        assert!(text(&listed.stdout).lines().any(|line| line == name), "{name}");
    }
    for (arguments, words) in [
        (&["run"][..], "error: this is no bundle"),
        (&["run", "--bytes", "many"], "'many' is no size"),
        (&["pack", "--built", "other=/file"], "NAME=FILE with a name of device, levelfold is needed"),
        (&["other"], "invalid choice: 'other'"),
        (&[], "required"),
    ] {
        let told = run(arguments).expect("python3");
        code(&told, 2);
        assert!(text(&told.stderr).contains(words), "{}", text(&told.stderr));
    }
    let told = run(&["pack", "--built", "device=/nowhere/device", "--built", "levelfold=/nowhere/levelfold"]).expect("python3");
    code(&told, 1);
    assert!(text(&told.stderr).contains("error: there is no executable device and none levelfold"), "{}", text(&told.stderr));
}

//! `--backend cuda` and `auto`, over the fake driver: the command as it is, with a device that is none.

use crate::files::*;
use crate::*;
use levelfold_cuda_shim::{Flavour, libraries, skip};

/// A folder of the test, and a machine with a CUDA device.
struct Machine {
    folder: Folder,
    libraries: PathBuf,
}

impl Machine {
    /// `None`, with the reason printed, where the fake driver cannot be built.
    fn new() -> Option<Machine> {
        let built = libraries(Flavour::Plain).inspect_err(|reason| skip("the command over the fake driver", reason)).ok()?;
        Some(Machine { folder: Folder::new(), libraries: built.driver.parent().expect("a folder").to_path_buf() })
    }

    fn command(&self, arguments: &[&str], fault: &str) -> Command {
        let mut command = levelfold(arguments);
        command.env("LD_LIBRARY_PATH", &self.libraries).env("XDG_CACHE_HOME", self.folder.path("cache")).env("LF_FAKE", fault);
        command.env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX").current_dir(self.folder.path(""));
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.with("", arguments)
    }

    /// With a fault of the driver's.
    fn with(&self, fault: &str, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments, fault).output().expect("the command starts"))
    }

    /// `run` of a spec with this reducer of its top level over six rows; the hash of the outputs, and what was said.
    fn hash(&self, fault: &str, reducer: &str, more: &[&str]) -> (String, String) {
        let spec = format!(
            r#"{{ "leaves": {{ "name": "char", "dtype": "f32", "features": 2 }}, "levels": [
            {{ "name": "word", "segments": {{ "lengths": [1, 3, 2] }}, "reduce": "mean", "keep": true }},
            {{ "name": "text", "segments": {{ "lengths": [2, 1] }}, "reduce": ["sum", "{reducer}"] }} ] }}"#
        );
        let spec = self.folder.write("spec.json", spec);
        let rows = f32s((0..6u8).flat_map(|row| [f32::from(row) / 3.0, -7.0 * f32::from(row)]));
        let char = format!("char={}", self.folder.write("char.npy", npy("<f4", false, "(6, 2)", &rows)));
        let done = self.with(fault, &[&["run", &spec, "--bind", &char, "--json", "--hash"], more].concat()).code(0);
        let report: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
        (report["hash"].as_str().expect("a hash").to_owned(), done.stderr)
    }
}

#[test]
fn cuda_and_auto_run_with_the_bits_of_the_cpu_and_auto_says_what_it_took() {
    let Some(machine) = Machine::new() else { return };
    let hash = |fault: &str, reducer: &str, backend: &str| machine.hash(fault, reducer, &["--backend", backend]);
    let (wanted, said) = hash("", "max", "cpu");
    assert_eq!(said, "");
    assert_eq!(hash("", "max", "cuda"), (wanted.clone(), String::new()));
    let (found, said) = hash("", "max", "auto");
    assert_eq!(found, wanted);
    assert!(said.contains("backend: cuda (") && said.lines().count() == 1, "{said}");
    // A reducer with a state, and one of the user's own.
    for reducer in ["std(ddof=1)", "custom(rms: s from x * x by a.s + b.s; n from 1 by a.n + b.n; sqrt(s / n))"] {
        let (wanted, _) = hash("", reducer, "cpu");
        assert_eq!(hash("", reducer, "cuda"), (wanted, String::new()), "{reducer}");
    }
    // What CUDA has no kernels for runs on the CPU, which is said; asked for by name, it is refused.
    let (wanted, _) = hash("", "median", "cpu");
    let (found, said) = hash("", "median", "auto");
    assert_eq!(found, wanted);
    assert_contains(&said, "backend: cpu after all (");
    let spec = machine.folder.at("spec.json");
    let char = format!("char={}", machine.folder.at("char.npy"));
    let error = machine.run(&["run", &spec, "--bind", &char, "--backend", "cuda"]).error();
    assert_contains(&error, "[unsupported]");
    // No device.
    let (found, said) = hash("devices=0", "max", "auto");
    assert_eq!(found, hash("", "max", "cpu").0);
    assert_contains(&said, "backend: cpu (the CUDA driver finds no device)");
}

#[test]
fn embed_writes_what_the_cpu_writes() {
    let Some(machine) = Machine::new() else { return };
    machine.folder.write("corpus.txt", "One two. Three!\n\nIt's four? Yes: five.\n".repeat(9));
    let embed = |backend: &str, out: &str| {
        let done = machine.run(&["embed", "corpus.txt", "--backend", backend, "--features", "8", "--out", out]).code(0);
        (std::fs::read(machine.folder.path(out)).expect("a file"), done.stderr)
    };
    let tensors = |bytes: &[u8]| {
        let tensors = safetensors::SafeTensors::deserialize(bytes).expect("a file of tensors");
        let mut all: Vec<(String, Vec<u8>)> = tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
        all.sort();
        all
    };
    let (cpu, _) = embed("cpu", "cpu.safetensors");
    let (cuda, _) = embed("cuda", "cuda.safetensors");
    assert!(tensors(&cpu).len() > 2 && tensors(&cpu) == tensors(&cuda));
    let (auto, said) = embed("auto", "auto.safetensors");
    assert!(tensors(&auto) == tensors(&cpu));
    assert_contains(&said, "backend: cuda (");
}

#[test]
fn bench_puts_both_side_by_side() {
    let Some(machine) = Machine::new() else { return };
    let small = ["--rows", "500", "--features", "5", "--rounds", "3", "--stream-bytes", "4M", "--opt", "1", "--json", "--quiet"];
    let done = machine.run(&[&["bench", "--backends", "cpu,cuda"][..], &small].concat()).code(0);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    let rows = report["benches"][0]["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|row| row["backend"].as_str().expect("a name")).collect::<Vec<_>>(), ["cpu", "cuda"]);
    assert!(rows.iter().all(|row| row["check"] == "bits") && rows[0]["hash"] == rows[1]["hash"], "{rows:?}");
    assert!(rows[1]["kernel_seconds"]["median"].is_number() && rows[1]["transfer_seconds"]["median"].is_number(), "{rows:?}");
}

#[test]
fn backends_tell_the_device_and_nvrtc_is_taken_from_where_it_is_told() {
    let Some(machine) = Machine::new() else { return };
    let cuda = |arguments: &[&str]| machine.run(&[&["backends", "--json"][..], arguments].concat()).json()[2].clone();
    let row = cuda(&[]);
    assert_eq!(row["available"], true, "{row}");
    let facts = &row["cuda"];
    assert_eq!((&facts["compute_capability"], &facts["driver"], &facts["nvrtc"]), (&"9.0".into(), &"13.0".into(), &"13.0".into()));
    assert_eq!(facts["memory_bytes"], 8u64 << 30);
    assert_contains(&machine.run(&["backends"]).ok(), "cuda       available    ");
    let nvrtc = machine.libraries.join("libnvrtc.so.13");
    let nvrtc = nvrtc.to_str().expect("UTF-8");
    assert_eq!(cuda(&["--nvrtc", nvrtc])["cuda"]["nvrtc_found"], nvrtc);
    let row = cuda(&["--nvrtc", "/nowhere/libnvrtc.so"]);
    assert_eq!(row["available"], false);
    assert_contains(row["about"].as_str().expect("text"), "NVRTC cannot be loaded from /nowhere/libnvrtc.so");
}

#[test]
fn what_is_missing_is_one_sentence() {
    let Some(machine) = Machine::new() else { return };
    machine.hash("", "max", &[]);
    let (spec, char) = (machine.folder.at("spec.json"), format!("char={}", machine.folder.at("char.npy")));
    let run = ["run", &spec, "--bind", &char, "--backend", "cuda"];
    let embed = ["embed", "-", "--backend", "cuda"];
    for (fault, more, words, code) in [
        ("devices=0", &[][..], "the CUDA driver finds no device", "backend-unavailable"),
        ("driver=11040", &[], "the CUDA driver is made for CUDA 11.4, which is too old", "backend-unavailable"),
        ("driver=12040", &[], "is release 13.0, and the driver runs code for CUDA 12.4 and before", "backend-unavailable"),
        ("init=803", &[], "the CUDA driver does not start", "backend-unavailable"),
        ("retain=46", &[], "the CUDA device cannot be opened: CUDA_ERROR_DEVICE_UNAVAILABLE", "backend-unavailable"),
        ("retain=2", &[], "its memory is full", "backend-unavailable"),
        ("capability=70", &[], "NVRTC 13.0 makes no code for devices of compute capability 7.0", "backend-unavailable"),
        ("broken=1", &[], "the device takes no more work of this process", "device"),
        ("", &["--cuda-device", "3"], "there is no CUDA device 3: there are 1", "backend-unavailable"),
        ("", &["--nvrtc", "/nowhere/libnvrtc.so"], "NVRTC cannot be loaded from /nowhere/libnvrtc.so", "backend-unavailable"),
        ("memory=100", &[], "bytes of device memory are needed", "memory-limit"),
    ] {
        let error = machine.with(fault, &[&run[..], more].concat()).error();
        assert_contains(&error, words);
        assert!(error.contains(code) && error.trim_end().lines().count() == 1, "{error}");
        if code == "backend-unavailable" {
            assert_contains(&machine.with(fault, &[&embed[..], more].concat()).error(), words);
        }
    }
    // A driver without the functions that are needed.
    let old = machine.folder.path("old");
    std::fs::create_dir(&old).expect("a folder");
    let source = machine.folder.write("old.cpp", "extern \"C\" int cuInit(unsigned) { return 0; }\n");
    let library = old.join("libcuda.so.1");
    let compiled = Command::new("g++").args(["-shared", "-fPIC", &source, "-o"]).arg(library).status().expect("g++");
    assert!(compiled.success());
    let error = Done::of(machine.command(&run, "").env("LD_LIBRARY_PATH", &old).output().expect("the command starts")).error();
    assert_contains(&error, "error: the CUDA driver has no function cu");
    assert!(error.contains(", which is too old") && error.trim_end().lines().count() == 1, "{error}");
    // No driver at all: what stands before ours ends the search for it.
    let nothing = Folder::new();
    without_driver(&nothing);
    let path = std::env::join_paths([nothing.path(""), machine.libraries.clone()]).expect("folders without a colon");
    let error = Done::of(machine.command(&run, "").env("LD_LIBRARY_PATH", path).output().expect("the command starts")).error();
    assert_contains(&error, "this machine has no CUDA driver");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
}

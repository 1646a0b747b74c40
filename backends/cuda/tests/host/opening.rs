//! What is missing or too old is told in one sentence, with what to do.

use super::Fake;
use levelfold::ErrorCode;
use levelfold_cuda::{CudaBackend, NvrtcSearch};

#[track_caller]
fn refused(opened: levelfold::Result<CudaBackend>, words: &str) {
    let error = opened.err().expect("it is not there");
    assert_eq!(error.code(), ErrorCode::BackendUnavailable, "{error}");
    assert!(error.message().contains(words), "{error}");
    assert!(error.help_text().is_some() && !error.to_string().contains('\n'), "{error}");
}

#[test]
fn no_device_and_drivers_that_do_not_fit_are_told() {
    let Some(fake) = Fake::take() else { return };
    fake.set("devices", 0);
    refused(fake.builder().build(), "the CUDA driver finds no device");
    fake.set("devices", 1);
    refused(fake.builder().device(1).build(), "there is no CUDA device 1: there are 1");
    fake.set("driver", 11_040);
    refused(fake.builder().build(), "the CUDA driver is made for CUDA 11.4, which is too old");
    fake.set("driver", 12_040);
    refused(fake.builder().build(), "is release 13.0, and the driver runs code for CUDA 12.4 and before");
    fake.set("driver", 13_000);
    fake.set("init", 100);
    refused(fake.builder().build(), "the CUDA driver finds no device");
    fake.set("init", 803);
    refused(fake.builder().build(), "the CUDA driver does not start");
    fake.set("init", 0);
    assert!(fake.builder().build().is_ok());
}

#[test]
fn a_missing_compiler_is_told() {
    let Some(fake) = Fake::take() else { return };
    let nowhere = NvrtcSearch { file: Some("/nowhere/libnvrtc.so.13".into()), folders: Vec::new() };
    refused(fake.builder().nvrtc(nowhere).build(), "NVRTC cannot be loaded from /nowhere/libnvrtc.so.13");
    // In a folder it is found, as it is in a wheel's.
    let folder = fake.built.nvrtc.parent().expect("a folder").to_path_buf();
    let search = NvrtcSearch { file: None, folders: vec![folder] };
    assert!(fake.builder().nvrtc(search).build().is_ok());
}

/// A device that is newer than the compiler takes what the compiler has for its family, or a text that the driver compiles; one that is older than all that
/// the compiler knows is told.
#[test]
fn devices_that_the_compiler_does_not_know_have_code_all_the_same() {
    let Some(fake) = Fake::take() else { return };
    for (capability, option, texts) in [(90, "sm_90", false), (125, "sm_121", false), (139, "compute_121", true), (70, "", false)] {
        fake.set("capability", capability);
        if option.is_empty() {
            refused(fake.builder().build(), "NVRTC 13.0 makes no code for devices of compute capability 7.0");
            continue;
        }
        let before = fake.get("jitted");
        let backend = fake.backend();
        let prepared = levelfold::Engine::new(backend.clone()).prepare(&super::hierarchy()).expect("a plan");
        assert_eq!(super::fold(&prepared, &super::data(1)).expect("a run"), super::wanted(1), "{capability}");
        let wanted = format!("--gpu-architecture={option}");
        assert!(backend.kernels().iter().all(|kernel| kernel.options.contains(&wanted)), "{:?}", backend.kernels());
        assert_eq!(fake.get("jitted") > before, texts, "{capability}");
    }
}

#[test]
fn a_device_that_is_full_or_taken_is_told() {
    let Some(fake) = Fake::take() else { return };
    for (code, words) in [(46, "CUDA_ERROR_DEVICE_UNAVAILABLE"), (2, "CUDA_ERROR_OUT_OF_MEMORY")] {
        fake.set("retain", code);
        refused(fake.builder().build(), &format!("the CUDA device cannot be opened: {words}"));
    }
}

/// A machine with a driver has it as `libcuda.so`, perhaps, which is looked for first. The one that is asked for is taken, or it is said that it is not.
#[test]
fn the_driver_that_is_asked_for_is_taken_or_it_is_said() {
    const ROLE: &str = "LEVELFOLD_ASKED_DRIVER";
    if let Some(driver) = std::env::var_os(ROLE) {
        let opened = CudaBackend::builder().driver(&driver).build();
        return println!("found: {}", opened.err().map_or_else(|| "opened".to_owned(), |error| error.to_string()));
    }
    let Some(fake) = Fake::take() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("other.cpp");
    std::fs::write(&source, "extern \"C\" int cuInit(unsigned) { return 100; }\n").expect("written");
    for name in ["system/libcuda.so", "asked/libcuda.so.1"] {
        let library = folder.path().join(name);
        std::fs::create_dir_all(library.parent().expect("a folder")).expect("a folder");
        let soname = "-Wl,-soname,libcuda.so.1";
        let compiled = std::process::Command::new("g++").args(["-shared", "-fPIC", soname, "-o"]).arg(&library).arg(&source).status();
        assert!(compiled.expect("g++").success());
    }
    let found = |driver: &std::path::Path| {
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "opening::the_driver_that_is_asked_for_is_taken_or_it_is_said", "--nocapture"])
            .env(ROLE, driver)
            .env("LD_LIBRARY_PATH", folder.path().join("system"))
            .output()
            .expect("it runs again");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().find_map(|line| Some(line.split_once("found: ")?.1.to_owned())).unwrap_or(said)
    };
    // Ours has the name that is looked for first. It opens, or says that there is no compiler on this machine.
    let ours = found(&fake.built.driver);
    assert!(ours == "opened" || ours.contains("NVRTC"), "{ours}");
    let other = found(&folder.path().join("asked/libcuda.so.1"));
    assert!(other.contains("is asked for, but the system has another as libcuda.so, which comes first"), "{other}");
}

#[test]
fn a_process_has_one_driver() {
    let Some(fake) = Fake::take() else { return };
    let _ = fake.backend();
    let error = fake.builder().driver("/nowhere/libcuda.so.1").build().err().expect("another driver");
    assert_eq!(error.code(), ErrorCode::Option, "{error}");
}

#[test]
fn what_was_found_is_told() {
    let Some(fake) = Fake::take() else { return };
    let facts = fake.backend().facts().expect("facts");
    assert_eq!((facts.capability, facts.driver.as_str(), facts.nvrtc.as_str(), facts.memory), ((9, 0), "13.0", "13.0", 8 << 30));
    assert_eq!(facts.nvrtc_found, fake.built.nvrtc.display().to_string());
}

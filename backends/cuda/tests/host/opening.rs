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

//! The folder of compiled kernels.

use super::{Fake, data, fold, hierarchy, wanted};
use levelfold::Engine;
use levelfold_cuda::CudaBackend;
use std::path::Path;

/// Folds, and tells how many kernels came from the cache, of how many.
fn run(backend: &CudaBackend) -> (usize, usize) {
    let prepared = Engine::new(backend.clone()).prepare(&hierarchy()).expect("a plan");
    assert_eq!(fold(&prepared, &data(1)).expect("a run"), wanted(1));
    let kernels = backend.kernels();
    (kernels.iter().filter(|kernel| kernel.cached).count(), kernels.len())
}

fn entries(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut entries: Vec<_> = files.map(|path| (path.clone(), std::fs::read(&path).expect("read"))).collect();
    entries.sort();
    entries
}

#[test]
fn kernels_are_compiled_once_and_a_damaged_entry_again() {
    let Some(fake) = Fake::take() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let open = || fake.builder().cache(folder.path().join("kernels")).build().expect("the fake device");
    let (cached, all) = run(&open());
    assert!(cached == 0 && all > 0, "{cached} of {all}");
    assert_eq!(run(&open()), (all, all));
    let sound = entries(&folder.path().join("kernels"));
    for (damage, change) in [("cut", 0usize), ("empty", 1), ("one bit", 2)] {
        for (path, bytes) in &sound {
            let mut bytes = bytes.clone();
            match change {
                0 => bytes.truncate(bytes.len() / 2),
                1 => bytes.clear(),
                _ => *bytes.last_mut().expect("bytes") ^= 1,
            }
            std::fs::write(path, bytes).expect("written");
        }
        assert_eq!(run(&open()), (0, all), "{damage}");
        assert_eq!(entries(&folder.path().join("kernels")), sound, "{damage}: entries are whole again");
    }
    // Another architecture is another kernel.
    fake.set("capability", 80);
    assert_eq!(run(&open()).0, 0);
}

#[test]
fn an_entry_that_the_driver_refuses_is_compiled_again() {
    let Some(fake) = Fake::take() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let open = || fake.builder().cache(folder.path().to_path_buf()).build().expect("the fake device");
    let (_, all) = run(&open());
    // Each load in its turn, until none is refused: what one load brings is compiled again, and nothing else.
    let mut again = 0;
    for refused in 1..20 {
        fake.set("module", refused);
        let (cached, found) = run(&open());
        assert_eq!(found, all, "load {refused}");
        again += all - cached;
        if cached == all {
            break;
        }
    }
    fake.set("module", 0);
    assert_eq!((again, run(&open())), (all, (all, all)));
    // What was compiled just now and is refused all the same is an error, and no reason to try for ever.
    let nowhere = fake.builder().build().expect("the fake device");
    fake.set("module", 1);
    let error = Engine::new(nowhere.clone()).prepare(&hierarchy()).err().expect("it is refused");
    assert!(error.message().contains("loading kernels"), "{error}");
    assert!(run(&nowhere).1 > 0, "and goes, once the driver takes it");
}

#[test]
fn a_folder_that_cannot_be_written_costs_compilations_and_nothing_else() {
    let Some(fake) = Fake::take() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("file"), b"").expect("written");
    let open = || fake.builder().cache(folder.path().join("file").join("below")).build().expect("the fake device");
    assert_eq!(run(&open()).0, 0);
    assert_eq!(run(&open()).0, 0);
}

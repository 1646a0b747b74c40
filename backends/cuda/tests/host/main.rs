//! The backend, as it is, over the fake driver: faults that end in one clear error and an executable that runs on, memory of the device, replays, the
//! cache of kernels. The fake driver belongs to the process, so tests take turns.

mod cache;
mod device;
mod faults;
mod opening;
mod operations;
mod small;

use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, Prepared, Reducer, Result, Segments, TensorView, TensorViewMut};
use levelfold_cuda::{CudaBackend, CudaBuilder, NvrtcSearch};
use levelfold_cuda_shim::{Flavour, Libraries, libraries, skip};
use levelfold_reference::ReferenceBackend;
use std::ffi::CString;
use std::os::raw::{c_char, c_longlong};
use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// The fake driver, and the turn to use it. Faults are gone when it is dropped.
struct Fake {
    built: Libraries,
    library: libloading::Library,
    _turn: MutexGuard<'static, ()>,
}

impl Fake {
    /// `None`, with the reason printed, where it cannot be built.
    fn take() -> Option<Fake> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let built = match libraries(Flavour::Plain) {
            Ok(built) => built,
            Err(reason) => {
                skip("the backend over the fake driver", &reason);
                return None;
            }
        };
        // SAFETY: the fake driver is ours; its initializers do nothing.
        let library = unsafe { libloading::Library::new(&built.driver) }.expect("the fake driver");
        let fake = Fake { built, library, _turn: turn };
        fake.clear();
        Some(fake)
    }

    fn set(&self, name: &str, value: i64) {
        let name = CString::new(name).expect("a name");
        // SAFETY: the function has this type.
        unsafe {
            let set = self.library.get::<unsafe extern "C" fn(*const c_char, c_longlong)>(b"lf_fake_set").expect("lf_fake_set");
            set(name.as_ptr(), value);
        }
    }

    fn get(&self, name: &str) -> i64 {
        let name = CString::new(name).expect("a name");
        // SAFETY: the function has this type.
        unsafe {
            let get = self.library.get::<unsafe extern "C" fn(*const c_char) -> c_longlong>(b"lf_fake_get").expect("lf_fake_get");
            get(name.as_ptr())
        }
    }

    fn clear(&self) {
        for (name, value) in [("devices", 1), ("driver", 13_000), ("init", 0), ("memory", 8 << 30), ("capability", 90)] {
            self.set(name, value);
        }
        for fault in ["oom", "pinned", "launch", "crash", "broken", "module", "retain"] {
            self.set(fault, 0);
        }
    }

    fn builder(&self) -> CudaBuilder {
        let nvrtc = NvrtcSearch { file: Some(self.built.nvrtc.clone()), folders: Vec::new() };
        CudaBackend::builder().driver(&self.built.driver).nvrtc(nvrtc)
    }

    fn backend(&self) -> CudaBackend {
        self.builder().build().expect("the fake device")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.clear();
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.get("damaged"), 0, "a kernel wrote outside of its memory");
        assert_eq!(self.get("leaked"), 0, "something was left when the last of the device went");
    }
}

/// Words of one to seven rows and one of 3000, sentences, documents: two steps at least, a long segment, and a level that is kept.
fn hierarchy() -> Hierarchy {
    let mut words: Vec<u64> = (0..300).map(|word| 1 + word % 7).collect();
    words[100] = 3000;
    let sentences = Segments::from_lengths(&[100u64, 0, 150, 50]).expect("lengths");
    Hierarchy::new(Leaves::values("char", DType::F32, 6))
        .level(Level::new("word", Segments::from_lengths(&words).expect("lengths")).reduce(Reducer::Mean).keep())
        .level(Level::new("sentence", sentences).reduce(Reducer::Max).on_empty(levelfold::OnEmpty::Fill(0.5)))
}

const ROWS: usize = 4194;
const FEATURES: usize = 6;

/// Data, different for each seed.
fn data(seed: u32) -> Vec<f32> {
    (0..u32::try_from(ROWS * FEATURES).expect("few"))
        .map(|at| f32::from(u16::try_from((at * 37 + seed * 1009) % 4001).expect("small")) / 7.0 - 200.0)
        .collect()
}

/// What was folded: words, then sentences.
#[derive(Clone, Debug, PartialEq)]
struct Folded {
    words: Vec<f32>,
    sentences: Vec<f32>,
}

fn fold(prepared: &Prepared, chars: &[f32]) -> Result<Folded> {
    let mut folded = Folded { words: vec![-1.0; 300 * FEATURES], sentences: vec![-1.0; 4 * FEATURES] };
    prepared.run(
        Bindings::new()
            .input("char", TensorView::from_slice(chars, [ROWS, FEATURES])?)
            .output("word", TensorViewMut::from_slice(&mut folded.words, [300, FEATURES])?)
            .output("sentence", TensorViewMut::from_slice(&mut folded.sentences, [4, FEATURES])?),
    )?;
    Ok(folded)
}

/// What the reference gives.
fn wanted(seed: u32) -> Folded {
    let prepared = Engine::new(ReferenceBackend::new()).prepare(&hierarchy()).expect("a plan");
    fold(&prepared, &data(seed)).expect("a run")
}

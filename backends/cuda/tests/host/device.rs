//! Memory of the device, streams of the caller's, and replays.

use super::{FEATURES, Fake, ROWS, data, fold, hierarchy, wanted};
use cudarc::driver::sys;
use levelfold::tensor::Layout;
use levelfold::{Bindings, DType, Engine, ErrorCode, Hierarchy, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_reference::ReferenceBackend;

#[test]
fn a_plan_that_runs_again_is_replayed_with_other_data_and_other_memory() {
    let Some(fake) = Fake::take() else { return };
    let backend = fake.backend();
    let prepared = Engine::new(backend.clone()).prepare(&hierarchy()).expect("a plan");
    let graphs = || fake.get("graphs");
    let before = graphs();
    assert_eq!(fold(&prepared, &data(1)).expect("a run"), wanted(1));
    assert_eq!(graphs(), before, "the first run is launched");
    for seed in 2..6 {
        assert_eq!(fold(&prepared, &data(seed)).expect("a run"), wanted(seed), "seed {seed}");
    }
    assert_eq!(graphs(), before + 4, "the others are replayed");
    // An input on the device is other memory: launched first, then replayed; and so on with more ways to bind than are kept.
    for round in 0..3 {
        for seed in 1..7 {
            let chars = backend.upload(TensorView::from_slice(&data(seed), [ROWS, FEATURES]).expect("a view")).expect("on the device");
            let mut words = vec![0.0f32; 300 * FEATURES];
            let mut sentences = vec![0.0f32; 4 * FEATURES];
            let report = prepared
                .run(
                    Bindings::new()
                        .device_input("char", chars.view().expect("a view"))
                        .output("word", TensorViewMut::from_slice(&mut words, [300, FEATURES]).expect("a view"))
                        .output("sentence", TensorViewMut::from_slice(&mut sentences, [4, FEATURES]).expect("a view")),
                )
                .expect("a run");
            assert_eq!((words, sentences), (wanted(seed).words, wanted(seed).sentences), "round {round} seed {seed}");
            assert_eq!(report.transfers.uploaded, 0);
            assert_eq!(report.transfers.downloaded, 4 * 304 * 6);
            // From the host in between.
            assert_eq!(fold(&prepared, &data(seed)).expect("a run"), wanted(seed), "round {round} seed {seed}");
        }
    }
}

#[test]
fn feature_major_and_strided_inputs_do_not_replay_the_dense_one() {
    let Some(fake) = Fake::take() else { return };
    let prepared = Engine::new(fake.backend()).prepare(&hierarchy()).expect("a plan");
    let dense = data(3);
    let mut turned = vec![0.0f32; ROWS * FEATURES];
    let mut apart = vec![0.0f32; ROWS * 11];
    for row in 0..ROWS {
        for feature in 0..FEATURES {
            turned[feature * ROWS + row] = dense[row * FEATURES + feature];
            apart[row * 11 + 2 + feature] = dense[row * FEATURES + feature];
        }
    }
    for _ in 0..3 {
        for which in 0..3 {
            let chars = match which {
                0 => TensorView::from_slice(&dense, [ROWS, FEATURES]),
                1 => TensorView::from_feature_major(&turned, [ROWS, FEATURES]),
                _ => TensorView::strided(&apart, Layout { offset: 2, shape: [ROWS, FEATURES], strides: [11, 1] }),
            };
            let (mut words, mut sentences) = (vec![0.0f32; 300 * FEATURES], vec![0.0f32; 4 * FEATURES]);
            prepared
                .run(
                    Bindings::new()
                        .input("char", chars.expect("a view"))
                        .output("word", TensorViewMut::from_slice(&mut words, [300, FEATURES]).expect("a view"))
                        .output("sentence", TensorViewMut::from_slice(&mut sentences, [4, FEATURES]).expect("a view")),
                )
                .expect("a run");
            assert_eq!((words, sentences), (wanted(3).words, wanted(3).sentences), "{which}");
        }
    }
}

#[test]
fn outputs_stay_on_the_device_until_they_are_fetched() {
    let Some(fake) = Fake::take() else { return };
    let backend = fake.backend();
    let prepared = Engine::new(backend.clone()).prepare(&hierarchy()).expect("a plan");
    let chars = backend.upload(TensorView::from_slice(&data(2), [ROWS, FEATURES]).expect("a view")).expect("on the device");
    let mut words = backend.tensor(DType::F32, [300, FEATURES]).expect("on the device");
    let mut sentences = backend.tensor(DType::F32, [4, FEATURES]).expect("on the device");
    for run in 0..3 {
        let report = prepared
            .run(
                Bindings::new()
                    .device_input("char", chars.view().expect("a view"))
                    .device_output("word", words.view_mut().expect("a view"))
                    .device_output("sentence", sentences.view_mut().expect("a view")),
            )
            .expect("a run");
        assert_eq!(report.transfers, levelfold::backend::Transfers::default(), "run {run}: nothing moves");
        assert!(report.device_time.is_some());
    }
    let mut host = vec![0.0f32; 300 * FEATURES];
    backend.download(&words, &mut TensorViewMut::from_slice(&mut host, [300, FEATURES]).expect("a view")).expect("back");
    assert_eq!(host, wanted(2).words);
    let error = backend.download(&words, &mut TensorViewMut::from_slice(&mut host, [FEATURES, 300]).expect("a view"));
    assert_eq!(error.expect_err("another shape").code(), ErrorCode::Shape);
}

#[test]
fn ids_and_weights_on_the_device_are_checked_like_others() {
    let Some(fake) = Fake::take() else { return };
    let hierarchy = Hierarchy::new(Leaves::lookup("char", DType::I32, DType::F32, 4, 2))
        .level(Level::new("word", Segments::from_lengths(&[2u64, 3]).expect("lengths")).reduce(Reducer::Mean).weights("w", DType::F32));
    let backend = fake.backend();
    let prepared = Engine::new(backend.clone()).prepare(&hierarchy).expect("a plan");
    let table = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let run = |ids: [i32; 5], weights: [f32; 5]| {
        let ids = backend.upload(TensorView::from_column(&ids)).expect("on the device");
        let weights = backend.upload(TensorView::from_column(&weights)).expect("on the device");
        let mut words = [0.0f32; 4];
        let done = prepared.run(
            Bindings::new()
                .device_input("char.ids", ids.view().expect("a view"))
                .device_input("w", weights.view().expect("a view"))
                .input("char.table", TensorView::from_slice(&table, [4, 2]).expect("a view"))
                .output("word", TensorViewMut::from_slice(&mut words, [2, 2]).expect("a view")),
        );
        done.map(|_| words).map_err(|error| error.code())
    };
    let good = ([0, 3, 1, 2, 1], [1.0, 3.0, 0.5, 0.0, 2.0]);
    let reference = Engine::new(ReferenceBackend::new()).prepare(&hierarchy).expect("a plan");
    let mut wanted = [0.0f32; 4];
    reference
        .run(
            Bindings::new()
                .input("char.ids", TensorView::from_column(&good.0))
                .input("w", TensorView::from_column(&good.1))
                .input("char.table", TensorView::from_slice(&table, [4, 2]).expect("a view"))
                .output("word", TensorViewMut::from_slice(&mut wanted, [2, 2]).expect("a view")),
        )
        .expect("a run");
    assert_eq!(run(good.0, good.1), Ok(wanted));
    assert_eq!(run([0, 3, 4, 2, 1], good.1), Err(ErrorCode::IdTooLarge));
    assert_eq!(run([0, 3, -1, 2, 1], good.1), Err(ErrorCode::IdTooLarge));
    assert_eq!(run(good.0, [1.0, -3.0, 0.5, 0.0, 2.0]), Err(ErrorCode::Weights));
    assert_eq!(run(good.0, good.1), Ok(wanted));
}

#[test]
fn a_stream_of_the_callers_is_used_and_left() {
    let Some(fake) = Fake::take() else { return };
    // Opens the driver, and the device's primary context.
    let other = fake.backend();
    let (mut context, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the driver is loaded; the context is retained until the end of the test, and current while the stream is made.
    unsafe {
        assert_eq!(sys::cuDevicePrimaryCtxRetain(&raw mut context, 0), sys::CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuCtxSetCurrent(context), sys::CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuStreamCreate(&raw mut stream, 1), sys::CUresult::CUDA_SUCCESS);
    }
    for raw in [stream.expose_provenance(), 0] {
        // SAFETY: the stream (and the default one) stay until the backend is gone.
        let backend = unsafe { fake.builder().stream(raw) }.build().expect("the fake device");
        let prepared = Engine::new(backend).prepare(&hierarchy()).expect("a plan");
        std::thread::scope(|scope| {
            for seed in 1..4 {
                let prepared = &prepared;
                scope.spawn(move || {
                    for run in 0..3 {
                        assert_eq!(fold(prepared, &data(seed)).expect("a run"), wanted(seed), "seed {seed} run {run}");
                    }
                });
            }
        });
    }
    drop(other);
    // SAFETY: the stream is still there: it is ours.
    unsafe {
        assert_eq!(sys::cuStreamSynchronize(stream), sys::CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuStreamDestroy_v2(stream), sys::CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuCtxSetCurrent(std::ptr::null_mut()), sys::CUresult::CUDA_SUCCESS);
    }
}

#[test]
fn steps_are_measured_where_that_is_asked_for() {
    let Some(fake) = Fake::take() else { return };
    let backend = fake.builder().measure_steps().build().expect("the fake device");
    let prepared = Engine::new(backend).prepare(&hierarchy()).expect("a plan");
    let before = fake.get("graphs");
    for seed in 1..4 {
        assert_eq!(fold(&prepared, &data(seed)).expect("a run"), wanted(seed));
    }
    assert_eq!(fake.get("graphs"), before, "nothing is replayed");
}

#[test]
fn what_lies_idle_counts_towards_the_limit() {
    const LIMIT: i64 = 10 << 20;
    let Some(fake) = Fake::take() else { return };
    let backend = fake.builder().memory_limit(10 << 20).build().expect("the fake device");
    let before = fake.get("bytes");
    // Each is larger than the ones before it, so none of those can be used again.
    for index in 0..12 {
        drop(backend.tensor(DType::F32, [(1 << 20) + index * 100_000, 1]).expect("it fits"));
        let held = fake.get("bytes") - before;
        assert!(held <= LIMIT, "{held} bytes are held after tensor {index}, the limit is {LIMIT}");
    }
    let kept = backend.tensor(DType::F32, [1 << 20, 1]).expect("it fits");
    let error = backend.tensor(DType::F32, [2 << 20, 1]).err().expect("it does not fit beside the other");
    assert_eq!(error.code(), ErrorCode::MemoryLimit);
    drop(kept);
}

/// Copies of tensors and runs share the caller's stream: none of them may end up in what the other records.
#[test]
fn tensors_and_runs_take_turns_on_the_callers_stream() {
    let Some(fake) = Fake::take() else { return };
    // The process loads the driver with the first backend.
    let _first = fake.backend();
    let (mut context, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: plain calls of the driver that this process loaded; the pointers live across them.
    unsafe {
        assert_eq!(sys::cuDevicePrimaryCtxRetain(&raw mut context, 0), sys::CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuCtxSetCurrent(context), sys::CUresult::CUDA_SUCCESS);
        assert_eq!(sys::cuStreamCreate(&raw mut stream, 1), sys::CUresult::CUDA_SUCCESS);
    }
    // SAFETY: the stream is of the primary context, stays, and is captured by nobody else.
    let backend = unsafe { fake.builder().stream(stream.expose_provenance()) }.build().expect("the fake device");
    let engine = Engine::new(backend.clone());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let copies = scope.spawn(|| {
            // Bounded, for when a run fails and nobody says that it is done.
            for count in 0..1_000_000usize {
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let host: Vec<f32> = (0..64).map(|index| (index + count % 1000) as f32).collect();
                let tensor = backend.upload(TensorView::from_slice(&host, [64, 1]).expect("a view")).expect("uploaded");
                let mut back = vec![0.0f32; 64];
                backend.download(&tensor, &mut TensorViewMut::from_slice(&mut back, [64, 1]).expect("a view")).expect("downloaded");
                assert_eq!(back, host);
            }
        });
        for _ in 0..20 {
            let prepared = engine.prepare(&hierarchy()).expect("a plan");
            for _ in 0..4 {
                assert_eq!(fold(&prepared, &data(1)).expect("a run"), wanted(1));
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        copies.join().expect("every copy was right");
    });
}

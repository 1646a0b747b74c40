//! A small plan over memory of the device: what a run of it costs when it is replayed.

use super::device;
use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_reference::ReferenceBackend;
use std::time::{Duration, Instant};

const FEATURES: usize = 64;

/// Words of 1 to 9 rows, sentences of 1 to 30 words.
fn hierarchy(words: usize) -> (Hierarchy, [usize; 3]) {
    let lengths: Vec<u64> = (0..words).map(|word| 1 + u64::try_from(word * 7 % 9).expect("small")).collect();
    let rows = usize::try_from(lengths.iter().sum::<u64>()).expect("small");
    let mut sentences = Vec::new();
    let mut left = words;
    while left > 0 {
        let length = (1 + sentences.len() * 11 % 30).min(left);
        sentences.push(u64::try_from(length).expect("small"));
        left -= length;
    }
    let shape = [rows, words, sentences.len()];
    let hierarchy = Hierarchy::new(Leaves::values("char", DType::F32, 64))
        .level(Level::new("word", Segments::from_lengths(&lengths).expect("lengths")).reduce(Reducer::Mean).keep())
        .level(Level::new("sentence", Segments::from_lengths(&sentences).expect("lengths")).reduce(Reducer::Max));
    (hierarchy, shape)
}

/// The quantile of times, in microseconds.
fn quantile(times: &mut [Duration], q: f64) -> f64 {
    times.sort();
    let at = (q * (times.len() - 1) as f64).round() as usize;
    times[at].as_secs_f64() * 1e6
}

/// Prints a line that begins with `measured ` for each size, in JSON: microseconds of a whole run as the caller sees it, and of the kernels as the device does.
#[test]
fn a_small_plan_is_replayed_over_memory_of_the_device() {
    let Some(backend) = device() else { return };
    let runs = if cfg!(debug_assertions) { 20 } else { 2000 };
    for words in [400, 4000] {
        let (hierarchy, [rows, words, sentences]) = hierarchy(words);
        let data: Vec<f32> =
            (0..rows * FEATURES).map(|at| f32::from(u16::try_from(at * 37 % 4001).expect("small")) / 7.0 - 200.0).collect();
        let view = || TensorView::from_slice(&data, [rows, FEATURES]).expect("a view");
        let chars = backend.upload(view()).expect("on the device");
        let mut of_words = backend.tensor(DType::F32, [words, FEATURES]).expect("on the device");
        let mut of_sentences = backend.tensor(DType::F32, [sentences, FEATURES]).expect("on the device");
        let prepared = Engine::new(backend.clone()).prepare(&hierarchy).expect("a plan");
        let (mut whole, mut kernels) = (Vec::new(), Vec::new());
        for _ in 0..runs + 10 {
            let bindings = Bindings::new()
                .device_input("char", chars.view().expect("a view"))
                .device_output("word", of_words.view_mut().expect("a view"))
                .device_output("sentence", of_sentences.view_mut().expect("a view"));
            let start = Instant::now();
            let device_time = prepared.run_with(bindings, |report| report.device_time).expect("a run");
            whole.push(start.elapsed());
            kernels.push(device_time.expect("a device has a clock"));
        }
        // The first ones compile, launch and record.
        let (whole, kernels) = (&mut whole[10..], &mut kernels[10..]);
        println!(
            "measured {{\"rows\": {rows}, \"features\": {FEATURES}, \"runs\": {runs}, \"whole_us\": {:.2}, \"whole_p90_us\": {:.2}, \"kernels_us\": {:.2}}}",
            quantile(whole, 0.5),
            quantile(whole, 0.9),
            quantile(kernels, 0.5)
        );
        let mut found = vec![0.0f32; sentences * FEATURES];
        backend.download(&of_sentences, &mut TensorViewMut::from_slice(&mut found, [sentences, FEATURES]).expect("a view")).expect("back");
        let (mut all_words, mut wanted) = (vec![0.0f32; words * FEATURES], vec![0.0f32; sentences * FEATURES]);
        let prepared = Engine::new(ReferenceBackend::new()).prepare(&hierarchy).expect("a plan");
        let bindings = Bindings::new()
            .input("char", view())
            .output("word", TensorViewMut::from_slice(&mut all_words, [words, FEATURES]).expect("a view"))
            .output("sentence", TensorViewMut::from_slice(&mut wanted, [sentences, FEATURES]).expect("a view"));
        prepared.run(bindings).expect("a run");
        assert_eq!(found, wanted, "{rows} rows");
    }
}

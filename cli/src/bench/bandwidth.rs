//! What this machine's memory gives, measured in the same run: a plain read, and a plain fill, by as many threads as the backends use.

use std::hint::black_box;
use std::time::Instant;

/// A buffer that is streamed over. Larger than the caches, so that they do not answer instead of memory.
pub(crate) struct Stream {
    words: Vec<u64>,
    threads: usize,
}

/// One measurement, in bytes a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bandwidth {
    /// Of reading.
    pub(crate) read: f64,
    /// Of writing.
    pub(crate) write: f64,
}

const LEAST_BYTES: u64 = 256 << 20;
const MOST_BYTES: u64 = 1 << 30;

impl Stream {
    /// A buffer of so many bytes, or of four times the last cache, within 256 MiB and 1 GiB; every page of it is touched.
    pub(crate) fn new(threads: usize, bytes: Option<u64>) -> Self {
        let bytes = bytes.unwrap_or_else(|| last_cache_bytes().unwrap_or(0).saturating_mul(4).clamp(LEAST_BYTES, MOST_BYTES)).max(8);
        let words = usize::try_from(bytes / 8).unwrap_or(1 << 20);
        let mut stream = Stream { words: vec![0; words], threads: threads.max(1) };
        stream.fill(1);
        stream
    }

    /// The size of the buffer.
    pub(crate) fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Reads and fills the buffer once each.
    pub(crate) fn measure(&mut self) -> Bandwidth {
        let bytes = self.bytes() as f64;
        let start = Instant::now();
        black_box(self.read());
        let read = bytes / start.elapsed().as_secs_f64();
        let start = Instant::now();
        self.fill(black_box(2));
        let write = bytes / start.elapsed().as_secs_f64();
        Bandwidth { read, write }
    }

    fn read(&self) -> u64 {
        let piece = self.words.len().div_ceil(self.threads).max(1);
        std::thread::scope(|scope| {
            // Several sums side by side, so that additions do not wait for each other.
            let sum = |words: &[u64]| {
                let mut sums = [0u64; 32];
                for chunk in words.chunks_exact(32) {
                    for (sum, &word) in sums.iter_mut().zip(chunk) {
                        *sum = sum.wrapping_add(word);
                    }
                }
                sums.iter().fold(0u64, |all, &sum| all.wrapping_add(sum))
            };
            let workers: Vec<_> = self.words.chunks(piece).map(|words| scope.spawn(move || sum(words))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(0)).fold(0, u64::wrapping_add)
        })
    }

    fn fill(&mut self, value: u64) {
        let piece = self.words.len().div_ceil(self.threads).max(1);
        std::thread::scope(|scope| {
            for words in self.words.chunks_mut(piece) {
                scope.spawn(move || words.fill(value));
            }
        });
    }
}

/// The size of the largest cache that the system reports.
pub(crate) fn last_cache_bytes() -> Option<u64> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let sizes = caches.filter_map(|entry| {
        let text = std::fs::read_to_string(entry.ok()?.path().join("size")).ok()?;
        text.trim().parse::<crate::options::ByteSize>().ok().map(|size| size.0)
    });
    sizes.max()
}

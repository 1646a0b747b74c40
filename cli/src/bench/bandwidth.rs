//! What this machine's memory gives, measured in the same run: a plain read, and a plain fill, by as many threads as the backends use.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

/// A buffer that is streamed over, a quarter at a time, so that no quarter is met again before the others have driven it from the caches.
pub(crate) struct Stream {
    words: Vec<u64>,
    threads: usize,
    turn: usize,
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
const QUARTERS: usize = 4;

impl Stream {
    /// A buffer of so many bytes, or of four times the last cache, within 256 MiB and 1 GiB; every page of it is touched.
    pub(crate) fn new(threads: usize, bytes: Option<u64>) -> Self {
        let bytes = bytes.unwrap_or_else(|| last_cache_bytes().unwrap_or(0).saturating_mul(4).clamp(LEAST_BYTES, MOST_BYTES)).max(64);
        let words = usize::try_from(bytes / 8).unwrap_or(1 << 20);
        let mut stream = Stream { words: vec![0; words], threads: threads.max(1), turn: 0 };
        (0..QUARTERS).for_each(|quarter| stream.fill(quarter, 1));
        stream
    }

    /// The size of the buffer.
    pub(crate) fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Reads one quarter of the buffer and fills another. What was in the caches before is not any more, as far as a quarter drives it out.
    pub(crate) fn measure(&mut self) -> Bandwidth {
        let (from, to) = (self.turn % QUARTERS, (self.turn + QUARTERS / 2) % QUARTERS);
        self.turn += 1;
        let start = Instant::now();
        black_box(self.read(from));
        let read = self.quarter_bytes(from) / start.elapsed().as_secs_f64();
        let start = Instant::now();
        self.fill(to, black_box(2));
        let write = self.quarter_bytes(to) / start.elapsed().as_secs_f64();
        Bandwidth { read, write }
    }

    fn quarter(&self, quarter: usize) -> Range<usize> {
        let words = self.words.len() / QUARTERS;
        quarter * words..(quarter + 1) * words
    }

    fn quarter_bytes(&self, quarter: usize) -> f64 {
        (self.quarter(quarter).len() * 8) as f64
    }

    fn read(&self, quarter: usize) -> u64 {
        let words = &self.words[self.quarter(quarter)];
        let piece = words.len().div_ceil(self.threads).max(1);
        std::thread::scope(|scope| {
            // Several sums side by side, so that additions do not wait for each other; few enough for the registers of any machine.
            let sum = |words: &[u64]| {
                let mut sums = [0u64; 16];
                let (chunks, rest) = words.as_chunks::<16>();
                for chunk in chunks {
                    for (sum, &word) in sums.iter_mut().zip(chunk) {
                        *sum = sum.wrapping_add(word);
                    }
                }
                sums.iter().chain(rest).fold(0u64, |all, &sum| all.wrapping_add(sum))
            };
            let workers: Vec<_> = words.chunks(piece).map(|words| scope.spawn(move || sum(words))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(0)).fold(0, u64::wrapping_add)
        })
    }

    fn fill(&mut self, quarter: usize, value: u8) {
        let range = self.quarter(quarter);
        let words = &mut self.words[range];
        let piece = words.len().div_ceil(self.threads).max(1);
        std::thread::scope(|scope| {
            for words in words.chunks_mut(piece) {
                // Of bytes, because that is the system's own fill: it writes past the caches where the machine can.
                scope.spawn(move || bytemuck::cast_slice_mut::<u64, u8>(words).fill(value));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_and_filled() {
        for threads in [1, 3] {
            let mut stream = Stream::new(threads, Some(1 << 12));
            assert_eq!(stream.bytes(), 1 << 12);
            // A word of eight bytes 1.
            assert_eq!(stream.read(0), 128u64.wrapping_mul(0x0101_0101_0101_0101));
            for _ in 0..QUARTERS {
                let measured = stream.measure();
                assert!(measured.read > 0.0 && measured.write > 0.0, "{measured:?}");
            }
            assert!(stream.words.iter().all(|&word| word == 0x0202_0202_0202_0202));
        }
    }
}

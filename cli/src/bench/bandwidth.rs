//! What this machine's memory gives, measured in the same run: a plain read, a plain fill and a plain copy, by as many threads as the
//! backends use, over huge pages where the system has them.

use crate::memory::AlignedBytes;
use levelfold::{Error, ErrorCode};
use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

/// A buffer that is streamed over, a quarter at a time, so that no quarter is met again before the others have driven it from the caches.
pub(crate) struct Stream {
    bytes: AlignedBytes,
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
    /// Of copying: bytes read and bytes written together.
    pub(crate) copy: f64,
}

impl Bandwidth {
    /// The least time for reading and writing so many bytes, in seconds.
    pub(crate) fn floor(&self, read_bytes: f64, written_bytes: f64) -> f64 {
        read_bytes / self.read + written_bytes / self.write
    }
}

/// Shorter streams than a quarter of this would measure how threads start.
const LEAST_BYTES: u64 = 512 << 20;
const MOST_BYTES: u64 = 1 << 30;
const QUARTERS: usize = 4;

impl Stream {
    /// A buffer of so many bytes, or of four times the last cache, within 512 MiB and 1 GiB; every page of it is touched.
    ///
    /// # Errors
    /// `memory-limit` where the system has no such buffer.
    pub(crate) fn new(threads: usize, bytes: Option<u64>) -> Result<Self, Error> {
        let bytes = bytes.unwrap_or_else(|| last_cache_bytes().unwrap_or(0).saturating_mul(4).clamp(LEAST_BYTES, MOST_BYTES));
        // Whole words in every quarter.
        let bytes = usize::try_from(bytes).ok().and_then(|bytes| bytes.max(512).checked_next_multiple_of(256));
        let bytes = bytes.ok_or_else(|| Error::new(ErrorCode::Overflow, "no memory holds the buffer that measures bandwidth"))?;
        let mut stream = Stream { bytes: AlignedBytes::zeroed(bytes)?, threads: threads.max(1), turn: 0 };
        (0..QUARTERS).for_each(|quarter| stream.fill(quarter, 1));
        Ok(stream)
    }

    /// The size of the buffer.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Reads one quarter of the buffer, fills another, and copies the one to the other. What was in the caches before is not any more, as
    /// far as two quarters drive it out.
    pub(crate) fn measure(&mut self) -> Bandwidth {
        let (from, to) = (self.turn % QUARTERS, (self.turn + QUARTERS / 2) % QUARTERS);
        self.turn += 1;
        let bytes = self.quarter(from).len() as f64;
        let read = timed(|| {
            black_box(self.read(from));
        });
        let write = timed(|| self.fill(to, black_box(2)));
        let copy = timed(|| self.copy(from, to));
        // What was copied is what a fill leaves, so that every quarter stays known.
        self.fill(to, 2);
        Bandwidth { read: bytes / read, write: bytes / write, copy: 2.0 * bytes / copy }
    }

    fn quarter(&self, quarter: usize) -> Range<usize> {
        let bytes = self.bytes.len() / QUARTERS;
        quarter * bytes..(quarter + 1) * bytes
    }

    /// Bytes for each thread: whole words.
    fn piece(&self) -> usize {
        (self.bytes.len() / QUARTERS).div_ceil(self.threads).next_multiple_of(64)
    }

    fn read(&self, quarter: usize) -> u64 {
        // Several sums side by side, so that additions do not wait for each other; few enough for the registers of any machine.
        let sum = |bytes: &[u8]| {
            let words: &[u64] = bytemuck::cast_slice(bytes);
            let mut sums = [0u64; 16];
            let (chunks, rest) = words.as_chunks::<16>();
            for chunk in chunks {
                for (sum, &word) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(word);
                }
            }
            sums.iter().chain(rest).fold(0u64, |all, &sum| all.wrapping_add(sum))
        };
        let mut pieces = self.bytes.as_ref()[self.quarter(quarter)].chunks(self.piece());
        let first = pieces.next().unwrap_or(&[]);
        std::thread::scope(|scope| {
            let workers: Vec<_> = pieces.map(|bytes| scope.spawn(move || sum(bytes))).collect();
            let own = sum(first);
            workers.into_iter().map(|worker| worker.join().unwrap_or(0)).fold(own, u64::wrapping_add)
        })
    }

    fn fill(&mut self, quarter: usize, value: u8) {
        let (range, piece) = (self.quarter(quarter), self.piece());
        let mut pieces = self.bytes.as_mut()[range].chunks_mut(piece);
        let first = pieces.next().unwrap_or(&mut []);
        std::thread::scope(|scope| {
            for bytes in pieces {
                scope.spawn(move || bytes.fill(value));
            }
            // Of bytes, because that is the system's own fill: it writes without reading first where the machine can.
            first.fill(value);
        });
    }

    fn copy(&mut self, from: usize, to: usize) {
        let (piece, from, to) = (self.piece(), self.quarter(from), self.quarter(to));
        let (low, high) = self.bytes.as_mut().split_at_mut(from.start.max(to.start));
        let length = from.len();
        let (source, into) = if from.start < to.start { (&low[from], &mut high[..length]) } else { (&high[..length], &mut low[to]) };
        let mut pieces = source.chunks(piece).zip(into.chunks_mut(piece));
        let (first, first_into) = pieces.next().unwrap_or((&[], &mut []));
        std::thread::scope(|scope| {
            for (bytes, into) in pieces {
                scope.spawn(move || into.copy_from_slice(bytes));
            }
            first_into.copy_from_slice(first);
        });
    }
}

/// Seconds.
fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64().max(1e-9)
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
    fn every_word_is_read_filled_and_copied() {
        for (threads, bytes) in [(1, 1 << 12), (3, 1 << 12), (7, 1000)] {
            let mut stream = Stream::new(threads, Some(bytes)).unwrap();
            let words = u64::try_from(stream.bytes() / QUARTERS / 8).unwrap();
            // Words of eight bytes 1.
            assert_eq!(stream.read(0), words.wrapping_mul(0x0101_0101_0101_0101));
            stream.fill(1, 9);
            for (from, to) in [(1, 3), (3, 0)] {
                stream.copy(from, to);
                assert_eq!(stream.read(to), words.wrapping_mul(0x0909_0909_0909_0909));
            }
            for _ in 0..QUARTERS {
                let Bandwidth { read, write, copy } = stream.measure();
                assert!(read > 0.0 && write > 0.0 && copy > 0.0);
            }
            assert!(stream.bytes.as_ref().iter().all(|&byte| byte == 2));
        }
    }

    #[test]
    fn the_floor_is_both_ways_together() {
        let bandwidth = Bandwidth { read: 4.0, write: 2.0, copy: 3.0 };
        assert_eq!(bandwidth.floor(8.0, 4.0), 4.0);
    }
}

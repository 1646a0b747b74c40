//! Aligned memory for arenas: on huge pages where the system has them, and handed on between executables.

use levelfold::error::{Error, ErrorCode, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Arenas from this size on ask for huge pages.
const HUGE: usize = 4 << 20;
/// The size of a huge page, to which such arenas are aligned.
const HUGE_PAGE: usize = 2 << 20;
/// How many arenas a pool keeps for later.
const KEPT: usize = 8;

/// Zeroed memory of one size, aligned to at least 64 bytes.
pub(crate) struct Arena {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an arena owns its memory, which any thread may use and free.
unsafe impl Send for Arena {}
// SAFETY: a shared arena hands out nothing but its address.
unsafe impl Sync for Arena {}

impl Arena {
    pub(crate) fn new(bytes: usize, align: usize) -> Result<Self> {
        let align = if bytes >= HUGE { align.max(HUGE_PAGE) } else { align.max(64) };
        let layout = Layout::from_size_align(bytes.max(1), align)
            .map_err(|_| Error::new(ErrorCode::Overflow, format!("{bytes} bytes aligned to {align} cannot be addressed")))?;
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(|| {
            Error::new(ErrorCode::MemoryLimit, format!("the system has no {bytes} bytes for an arena, or the scratch of threads"))
                .help("keep fewer levels, or fold fewer rows at once")
        })?;
        let arena = Arena { start, layout };
        arena.advise_huge();
        Ok(arena)
    }

    #[cfg(target_os = "linux")]
    fn advise_huge(&self) {
        if self.layout.size() >= HUGE {
            // SAFETY: the range is ours and aligned to a page; the call changes how it is backed, not what it holds. Where the system
            // has no huge pages it fails, and nothing is lost.
            unsafe { libc::madvise(self.start.as_ptr().cast(), self.layout.size(), libc::MADV_HUGEPAGE) };
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn advise_huge(&self) {}

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Fills it with one byte.
    pub(crate) fn fill(&mut self, byte: u8) {
        // SAFETY: the whole range is ours, and borrowed exclusively.
        unsafe { self.start.as_ptr().write_bytes(byte, self.layout.size()) };
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and never freed before.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Arenas that nobody uses at the moment.
#[derive(Default)]
pub(crate) struct ArenaPool {
    idle: Mutex<Vec<Arena>>,
}

impl ArenaPool {
    /// An arena of at least this size: the smallest idle one that is not far too large, or a new one.
    pub(crate) fn take(&self, bytes: usize, align: usize) -> Result<Arena> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |arena: &Arena| arena.layout.size() >= bytes && arena.layout.align() >= align && arena.layout.size() / 4 <= bytes.max(HUGE);
        let best = (0..idle.len()).filter(|&index| fits(&idle[index])).min_by_key(|&index| idle[index].layout.size());
        match best {
            Some(index) => Ok(idle.swap_remove(index)),
            None => {
                // It grows: the largest one that was too small goes, or the arenas of ever larger batches would all be kept.
                let outgrown =
                    (0..idle.len()).filter(|&index| idle[index].layout.size() < bytes).max_by_key(|&index| idle[index].layout.size());
                if let Some(index) = outgrown {
                    drop(idle.swap_remove(index));
                }
                Arena::new(bytes, align)
            }
        }
    }

    /// Frees idle arenas, the largest first, until they have at most so many bytes.
    pub(crate) fn keep_at_most(&self, bytes: u64) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.sort_by_key(|arena| arena.layout.size());
        let mut kept: u64 = idle.iter().map(|arena| arena.layout.size() as u64).sum();
        while kept > bytes
            && let Some(arena) = idle.pop()
        {
            kept -= arena.layout.size() as u64;
        }
    }

    /// Keeps an arena for the next executable.
    pub(crate) fn give(&self, arena: Arena) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(arena);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_that_grows_replaces_the_one_that_was_too_small() {
        let pool = ArenaPool::default();
        for size in 1..=6 {
            let arena = pool.take(size << 23, 64).unwrap();
            assert_eq!(pool.idle.lock().unwrap().len(), 0);
            pool.give(arena);
        }
        let kept: Vec<usize> = pool.idle.lock().unwrap().iter().map(|arena| arena.layout.size()).collect();
        assert_eq!(kept, [6 << 23]);
    }

    #[test]
    fn what_idles_is_freed_to_make_room() {
        let pool = ArenaPool::default();
        let arenas = [1 << 12, 3 << 12, 2 << 12].map(|bytes| pool.take(bytes, 64).unwrap());
        arenas.into_iter().for_each(|arena| pool.give(arena));
        for (most, kept) in [(6 << 12, 3), ((6 << 12) - 1, 2), (1 << 12, 1), (0, 0)] {
            pool.keep_at_most(most);
            assert_eq!(pool.idle.lock().unwrap().len(), kept, "at most {most} bytes");
        }
    }
}

//! Memory as a kernel sees it: blocks of exactly the size that was asked for, so that a sanitizer sees every byte beyond, and poisoned.

use std::alloc::{Layout, alloc, dealloc};

/// A block of memory.
pub(crate) struct Block {
    start: *mut u8,
    layout: Layout,
}

/// What nobody wrote.
pub(crate) const POISON: u8 = 0xcb;

impl Block {
    /// So many poisoned bytes, aligned as a device's allocations are.
    pub(crate) fn poisoned(bytes: usize) -> Block {
        let layout = Layout::from_size_align(bytes.max(1), 256).expect("a layout");
        // SAFETY: the size is not 0; the bytes are written before anybody reads them.
        let start = unsafe {
            let start = alloc(layout);
            assert!(!start.is_null(), "out of memory");
            start.write_bytes(POISON, layout.size());
            start
        };
        Block { start, layout }
    }

    /// The elements of a slice.
    pub(crate) fn of<T: Copy>(elements: &[T]) -> Block {
        let mut block = Block::poisoned(size_of_val(elements));
        let bytes = size_of_val(elements);
        // SAFETY: the slice is so many bytes, and none of its elements has padding (they are numbers).
        let from = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), bytes) };
        block.bytes_mut()[..bytes].copy_from_slice(from);
        block
    }

    /// Its address.
    pub(crate) fn address(&self) -> u64 {
        self.start.addr() as u64
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the block is alive, and all of it was written when it was made.
        unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }
    }

    /// Its bytes, to be written.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
    }

    /// Puts the low `size` bytes of an element at a place.
    pub(crate) fn put(&mut self, at: usize, size: usize, bits: u64) {
        self.bytes_mut()[at..at + size].copy_from_slice(&bits.to_le_bytes()[..size]);
    }

    /// The element of `size` bytes at a place.
    pub(crate) fn get(&self, at: usize, size: usize) -> u64 {
        let mut bits = [0; 8];
        bits[..size].copy_from_slice(&self.bytes()[at..at + size]);
        u64::from_le_bytes(bits)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.start, self.layout) }
    }
}

//! Tables on the device: uploaded once, found again by their hashes, and shared by every executable that needs them.

use crate::cuts::{positions, shifts};
use crate::device::Stream;
use crate::pool::{Pool, Taken};
use crate::spec::Index;
use crate::staging::Staging;
use levelfold::error::Result;
use levelfold::segments::Segments;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Where the rows of each segment begin among those of all, and where the last ends.
    Starts,
    /// What is added to a position to get its row.
    Shifts,
}

/// Every table that some executable holds.
#[derive(Default)]
pub(crate) struct DeviceTables {
    known: Mutex<HashMap<(u128, Part, Index), Weak<Taken>>>,
}

impl DeviceTables {
    /// A part of a table, uploaded now where nobody holds it. `None` for the shifts of a partition.
    ///
    /// # Errors
    /// What the device says.
    pub(crate) fn get(
        &self,
        segments: &Segments,
        part: Part,
        index: Index,
        pool: &Arc<Pool>,
        stream: &Stream,
        staging: &mut Staging,
    ) -> Result<Option<Arc<Taken>>> {
        if part == Part::Shifts && segments.is_partition() {
            return Ok(None);
        }
        let key = (segments.hash(), part, index);
        // Held while it is brought there: whoever finds an entry finds all of it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, table| table.strong_count() > 0);
        if let Some(table) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(Some(table));
        }
        let numbers = match part {
            Part::Starts => positions(segments),
            Part::Shifts => shifts(segments).unwrap_or_default().into(),
        };
        let bytes = bytes_of(&numbers, index);
        let memory = pool.take(crate::wide(bytes.len()))?;
        let fill = |at: usize, piece: &mut [u8]| piece.copy_from_slice(&bytes[at..at + piece.len()]);
        // SAFETY: the memory has room, and is kept until the stream has passed.
        let uploaded = unsafe { staging.upload(stream, memory.address(), bytes.len(), fill) };
        let passed = stream.synchronize();
        uploaded.and(passed)?;
        let memory = Arc::new(memory);
        known.insert(key, Arc::downgrade(&memory));
        Ok(Some(memory))
    }
}

/// Numbers in an index type. What is narrow wraps around, as positions and shifts do.
pub(crate) fn bytes_of(numbers: &[u64], index: Index) -> Vec<u8> {
    match index {
        Index::Narrow => numbers.iter().flat_map(|number| low_half(*number).to_ne_bytes()).collect(),
        Index::Wide => numbers.iter().flat_map(|number| number.to_ne_bytes()).collect(),
    }
}

/// The lower 32 bits.
fn low_half(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

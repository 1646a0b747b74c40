//! Data on its way between the host and the device: piece by piece through two buffers of pinned memory, so that the host fills one while the device
//! copies from the other.

use crate::device::{Device, Event, Stream};
use crate::pool::{Pool, TakenPinned};
use levelfold::error::Result;
use levelfold::tensor::Layout;
use std::sync::Arc;

/// Bytes of a buffer, where there is so much to move.
const LARGE: usize = 8 << 20;
/// Bytes of a buffer for small plans.
const SMALL: usize = 64 << 10;

/// Two buffers, and how far the device has come with each.
pub(crate) struct Staging {
    slots: [Slot; 2],
    next: usize,
}

struct Slot {
    memory: TakenPinned,
    passed: Event,
    busy: bool,
}

impl Staging {
    /// Buffers for runs that move so many bytes.
    pub(crate) fn new(device: &Arc<Device>, pool: &Arc<Pool>, bytes: u64) -> Result<Self> {
        let size = if bytes > crate::wide(SMALL) { LARGE } else { SMALL };
        let slot = || Ok(Slot { memory: pool.take_pinned(size)?, passed: Event::new(device)?, busy: false });
        Ok(Staging { slots: [slot()?, slot()?], next: 0 })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| crate::wide(slot.memory.len())).sum()
    }

    /// Forgets what is under way: after an error, once the stream is idle.
    pub(crate) fn reset(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.busy = false);
    }

    /// Brings `bytes` bytes to the device; `fill` writes each piece, given where it begins. They are under way when this returns.
    ///
    /// # Safety
    /// The device has room for them at `to`, until the stream has passed this point.
    pub(crate) unsafe fn upload(&mut self, stream: &Stream, to: u64, bytes: usize, mut fill: impl FnMut(usize, &mut [u8])) -> Result<()> {
        let mut done = 0;
        while done < bytes {
            let slot = &mut self.slots[self.next];
            if slot.busy {
                slot.passed.wait()?;
                slot.busy = false;
            }
            let count = (bytes - done).min(slot.memory.len());
            // SAFETY: the buffer has at least `count` bytes, the device has passed its last copy from it, and nobody else has it.
            let piece = unsafe { std::slice::from_raw_parts_mut(slot.memory.start(), count) };
            fill(done, piece);
            // SAFETY: the buffer stays until the event was passed; the caller's promise for the rest.
            unsafe { stream.upload(to + crate::wide(done), slot.memory.start(), count)? };
            slot.passed.record(stream)?;
            slot.busy = true;
            self.next ^= 1;
            done += count;
        }
        Ok(())
    }

    /// Brings `bytes` bytes back; `take` gets each piece, given where it begins. All of them are there when this returns.
    ///
    /// # Safety
    /// The device has them at `from`, until the stream has passed this point.
    pub(crate) unsafe fn download(&mut self, stream: &Stream, from: u64, bytes: usize, mut take: impl FnMut(usize, &[u8])) -> Result<()> {
        let mut under_way: Option<(usize, usize, usize)> = None;
        let mut done = 0;
        loop {
            let mut started = None;
            if done < bytes {
                let index = self.next;
                let slot = &mut self.slots[index];
                if slot.busy {
                    slot.passed.wait()?;
                    slot.busy = false;
                }
                let count = (bytes - done).min(slot.memory.len());
                // SAFETY: the buffer is free, and stays until the event was passed; the caller's promise for the rest.
                unsafe { stream.download(slot.memory.start(), from + crate::wide(done), count)? };
                slot.passed.record(stream)?;
                slot.busy = true;
                self.next ^= 1;
                started = Some((index, done, count));
                done += count;
            }
            // While the device brings that piece, the one before it is taken.
            if let Some((index, at, count)) = under_way {
                let slot = &mut self.slots[index];
                slot.passed.wait()?;
                slot.busy = false;
                // SAFETY: the device has written these bytes, and does not touch them any more.
                take(at, unsafe { std::slice::from_raw_parts(slot.memory.start(), count) });
            }
            if started.is_none() {
                return Ok(());
            }
            under_way = started;
        }
    }
}

/// A tensor of the host, as addresses, and the order in which its elements travel.
#[derive(Clone, Copy)]
pub(crate) struct HostTensor {
    /// The start of the buffer.
    pub(crate) base: *mut u8,
    pub(crate) layout: Layout,
    pub(crate) size: usize,
}

/// How a tensor of the host lies on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Travel {
    /// Elements on the device.
    pub(crate) elements: usize,
    /// Where they lie there.
    pub(crate) layout: Layout,
    /// How they get there.
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As they lie on the host, from this element of its buffer on.
    AsTheyLie { first: usize },
    /// Row by row.
    Packed,
}

impl HostTensor {
    /// How elements travel: as they lie, where the buffer holds no more than them (broadcasts and transposed tensors too), else row by row.
    pub(crate) fn travel(&self) -> Travel {
        let packed = self.row_by_row();
        let count = packed.elements;
        if count == 0 {
            return packed;
        }
        // Positions from the lowest to the highest; they were checked to lie inside the buffer.
        let back: usize = (0..2).filter(|&axis| self.layout.strides[axis] < 0).map(|axis| self.reach(axis)).sum();
        let ahead: usize = (0..2).filter(|&axis| self.layout.strides[axis] > 0).map(|axis| self.reach(axis)).sum();
        if back + ahead + 1 > count {
            return packed;
        }
        let first = self.layout.offset - back;
        let layout = Layout { offset: back, ..self.layout };
        Travel { elements: back + ahead + 1, layout, way: Way::AsTheyLie { first } }
    }

    /// Elements travel row by row, dense on the device.
    pub(crate) fn row_by_row(&self) -> Travel {
        let [rows, features] = self.layout.shape;
        Travel { elements: rows * features, layout: Layout::row_major([rows, features]), way: Way::Packed }
    }

    /// Elements from the first to the last along an axis.
    fn reach(&self, axis: usize) -> usize {
        (self.layout.shape[axis] - 1) * self.layout.strides[axis].unsigned_abs()
    }

    /// Writes the bytes from `at` on, in the order in which they travel.
    ///
    /// # Safety
    /// The tensor can be read, and `travel` is its own.
    pub(crate) unsafe fn read(&self, travel: &Travel, at: usize, into: &mut [u8]) {
        match travel.way {
            // SAFETY: the caller's promise; the bytes are those of elements inside the buffer.
            Way::AsTheyLie { first } => unsafe {
                std::ptr::copy_nonoverlapping(self.base.add(first * self.size + at), into.as_mut_ptr(), into.len());
            },
            Way::Packed => self.each_run(at, into.len(), |host, offset, count| {
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(host, into.as_mut_ptr().add(offset), count) };
            }),
        }
    }

    /// Takes the bytes from `at` on, in the order in which they travel. What lies between elements is not touched.
    ///
    /// # Safety
    /// The tensor can be written, no two of its elements share memory, and `travel` is its own.
    pub(crate) unsafe fn write(&self, travel: &Travel, at: usize, from: &[u8]) {
        match travel.way {
            // SAFETY: the caller's promise. Elements that share nothing and fill their buffer leave no gaps in it.
            Way::AsTheyLie { first } => unsafe {
                std::ptr::copy_nonoverlapping(from.as_ptr(), self.base.add(first * self.size + at), from.len());
            },
            Way::Packed => self.each_run(at, from.len(), |host, offset, count| {
                // SAFETY: as above.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().add(offset), host, count) };
            }),
        }
    }

    /// The bytes `at .. at + bytes` of all elements row by row: where each run of them lies on the host, where it begins in the piece, and how long it is.
    fn each_run(&self, at: usize, bytes: usize, mut run: impl FnMut(*mut u8, usize, usize)) {
        let [_, features] = self.layout.shape;
        let (row_bytes, size) = (features * self.size, self.size);
        let mut done = 0;
        while done < bytes {
            let (row, inside) = ((at + done) / row_bytes, (at + done) % row_bytes);
            let count = (row_bytes - inside).min(bytes - done);
            let element = |feature: usize| {
                let position = self.layout.position(row, feature);
                self.base.wrapping_add(position * size)
            };
            if self.layout.features_are_dense() {
                run(element(0).wrapping_add(inside), done, count);
            } else {
                // Pieces begin and end at whole elements: their size is a multiple of every element's.
                for index in 0..count / size {
                    run(element(inside / size + index), done + index * size, size);
                }
            }
            done += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(buffer: &mut [u32], layout: Layout) -> HostTensor {
        HostTensor { base: buffer.as_mut_ptr().cast(), layout, size: 4 }
    }

    /// What the device would see of a tensor that travelled in pieces of so many bytes.
    fn seen(tensor: &HostTensor, piece: usize) -> Vec<u32> {
        let travel = tensor.travel();
        let mut bytes = vec![0u8; travel.elements * 4];
        for (index, part) in bytes.chunks_mut(piece).enumerate() {
            // SAFETY: the tests' buffers hold every element.
            unsafe { tensor.read(&travel, index * piece, part) };
        }
        let element = |position: usize| u32::from_le_bytes(bytes[position * 4..position * 4 + 4].try_into().expect("4 bytes"));
        let [rows, features] = travel.layout.shape;
        (0..rows)
            .flat_map(|row| (0..features).map(move |feature| (row, feature)))
            .map(|(row, feature)| element(travel.layout.position(row, feature)))
            .collect()
    }

    fn layouts() -> Vec<Layout> {
        vec![
            Layout::row_major([3, 4]),
            Layout::feature_major([3, 4]),
            Layout { offset: 8, shape: [3, 4], strides: [-4, 1] },
            Layout { offset: 5, shape: [3, 4], strides: [0, 1] },
            Layout { offset: 2, shape: [3, 4], strides: [7, 1] },
            Layout { offset: 1, shape: [3, 4], strides: [9, 2] },
            Layout { offset: 30, shape: [3, 4], strides: [-9, 3] },
            Layout { offset: 0, shape: [3, 1], strides: [5, 1] },
        ]
    }

    #[test]
    fn any_strides_travel_in_pieces_of_any_size() {
        for layout in layouts() {
            let mut buffer: Vec<u32> = (0..40).collect();
            let wanted: Vec<u32> = (0..layout.shape[0])
                .flat_map(|row| (0..layout.shape[1]).map(move |feature| (row, feature)))
                .map(|(row, feature)| u32::try_from(layout.position(row, feature)).expect("small"))
                .collect();
            let tensor = tensor(&mut buffer, layout);
            assert!(tensor.travel().elements <= layout.shape[0] * layout.shape[1], "{layout:?}");
            for piece in [4, 8, 12, 20, 1000] {
                assert_eq!(seen(&tensor, piece), wanted, "{layout:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_lies_between_outputs_is_left_alone() {
        // Outputs: no two elements share memory.
        for layout in layouts().into_iter().filter(|layout| layout.strides[0] != 0) {
            let mut buffer = vec![7u32; 40];
            let tensor = tensor(&mut buffer, layout);
            let travel = tensor.travel();
            let bytes: Vec<u8> = (0..travel.elements).flat_map(|_| 9u32.to_le_bytes()).collect();
            for (index, part) in bytes.chunks(12).enumerate() {
                // SAFETY: the buffer holds every element.
                unsafe { tensor.write(&travel, index * 12, part) };
            }
            let mut wanted = vec![7u32; 40];
            for row in 0..layout.shape[0] {
                for feature in 0..layout.shape[1] {
                    wanted[layout.position(row, feature)] = 9;
                }
            }
            assert_eq!(buffer, wanted, "{layout:?}");
        }
    }
}

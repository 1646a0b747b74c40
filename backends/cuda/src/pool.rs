//! Device memory that is handed on from one executable to the next, and the budget that is held before any of it is taken.

use crate::device::{Device, DeviceMemory, Pinned};
use levelfold::error::{Error, ErrorCode, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// How many pieces of memory are kept for later, of each kind.
const KEPT: usize = 24;
/// Up to this size memory is used for whatever is smaller.
const SMALL: u64 = 4 << 20;

/// The memory of one backend.
pub(crate) struct Pool {
    device: Arc<Device>,
    /// The most bytes that the backend takes, idle ones included.
    limit: Option<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<DeviceMemory>,
    pinned: Vec<Pinned>,
    /// Bytes that executables and tensors hold.
    held: u64,
}

impl State {
    fn idle_bytes(&self) -> u64 {
        self.idle.iter().map(DeviceMemory::bytes).sum()
    }
}

impl Pool {
    pub(crate) fn new(device: Arc<Device>, limit: Option<u64>) -> Self {
        Pool { device, limit, state: Mutex::new(State::default()) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many more bytes fit the limit and the device. Nothing is taken.
    ///
    /// # Errors
    /// `memory-limit`, with what is needed and what there is.
    pub(crate) fn check_budget(&self, needed: u64) -> Result<()> {
        let (held, idle) = {
            let state = self.state();
            (state.held, state.idle_bytes())
        };
        if let Some(limit) = self.limit
            && held.saturating_add(needed) > limit
        {
            return Err(Error::new(
                ErrorCode::MemoryLimit,
                format!("{needed} bytes of device memory are needed, the limit is {limit} and {held} of it are in use"),
            )
            .help("raise the limit, keep fewer levels, or fold fewer rows at once"));
        }
        let free = self.device.free_bytes()?;
        if needed > free.saturating_add(idle) {
            return Err(Error::new(
                ErrorCode::MemoryLimit,
                format!("{needed} bytes of device memory are needed, {} has {free} free of {}", self.device.name, self.device.total_bytes),
            )
            .help("keep fewer levels, fold fewer rows at once, or free memory of the device"));
        }
        Ok(())
    }

    /// At least so many bytes: the smallest idle piece that is not far too large, or a new one.
    ///
    /// # Errors
    /// `memory-limit`.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Result<Taken> {
        let bytes = bytes.max(1);
        let idle = {
            let mut state = self.state();
            let room = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(state.held));
            let fits = |memory: &DeviceMemory| memory.bytes() >= bytes && memory.bytes() / 4 <= bytes.max(SMALL);
            let best = (0..state.idle.len()).filter(|&index| fits(&state.idle[index])).min_by_key(|&index| state.idle[index].bytes());
            let idle = best.map(|index| state.idle.swap_remove(index));
            if idle.is_none() {
                // What lies idle makes room for it, the largest first.
                state.idle.sort_by_key(DeviceMemory::bytes);
                while state.idle_bytes().saturating_add(bytes) > room && state.idle.pop().is_some() {}
            }
            // Counted before it is taken: what others take meanwhile has to fit beside it.
            state.held += idle.as_ref().map_or(bytes, DeviceMemory::bytes);
            idle
        };
        let memory = match idle {
            Some(memory) => memory,
            None => self.take_new(bytes).inspect_err(|_| self.state().held -= bytes)?,
        };
        Ok(Taken { memory: Some(memory), pool: Arc::clone(self) })
    }

    fn take_new(&self, bytes: u64) -> Result<DeviceMemory> {
        match DeviceMemory::new(&self.device, bytes) {
            Err(error) if error.code() == ErrorCode::MemoryLimit => {
                // What lies idle may be what is missing.
                let idle = std::mem::take(&mut self.state().idle);
                if idle.is_empty() {
                    return Err(error);
                }
                drop(idle);
                DeviceMemory::new(&self.device, bytes)
            }
            taken => taken,
        }
    }

    /// Pinned memory of exactly this size.
    ///
    /// # Errors
    /// `memory-limit`, or what the driver says.
    pub(crate) fn take_pinned(self: &Arc<Self>, bytes: usize) -> Result<TakenPinned> {
        let idle = {
            let mut state = self.state();
            let found = state.pinned.iter().position(|pinned| pinned.len() == bytes);
            found.map(|index| state.pinned.swap_remove(index))
        };
        let memory = match idle {
            Some(pinned) => pinned,
            None => Pinned::new(&self.device, bytes)?,
        };
        Ok(TakenPinned { memory: Some(memory), pool: Arc::clone(self) })
    }
}

/// Device memory in use; given back when it is dropped.
pub(crate) struct Taken {
    memory: Option<DeviceMemory>,
    pool: Arc<Pool>,
}

impl Taken {
    pub(crate) fn address(&self) -> u64 {
        self.memory.as_ref().map_or(0, DeviceMemory::address)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.memory.as_ref().map_or(0, DeviceMemory::bytes)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let mut state = self.pool.state();
            state.held = state.held.saturating_sub(memory.bytes());
            if state.idle.len() < KEPT {
                state.idle.push(memory);
            }
        }
    }
}

/// Pinned memory in use; given back when it is dropped.
pub(crate) struct TakenPinned {
    memory: Option<Pinned>,
    pool: Arc<Pool>,
}

impl TakenPinned {
    pub(crate) fn start(&self) -> *mut u8 {
        self.memory.as_ref().map_or(std::ptr::null_mut(), Pinned::start)
    }

    pub(crate) fn len(&self) -> usize {
        self.memory.as_ref().map_or(0, Pinned::len)
    }
}

impl Drop for TakenPinned {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let mut state = self.pool.state();
            if state.pinned.len() < KEPT {
                state.pinned.push(memory);
            }
        }
    }
}

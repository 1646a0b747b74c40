//! CUDA graphs: the launches of a run, recorded once and replayed as one.

use crate::device::{Device, Stream};
use crate::driver::check;
use cudarc::driver::sys;
use levelfold::error::{Error, ErrorCode, Result};
use std::sync::Arc;

/// Launches that were recorded.
pub(crate) struct Replay {
    device: Arc<Device>,
    raw: sys::CUgraphExec,
}

// SAFETY: an executable graph may be launched and destroyed from any thread while its context is current, one at a time.
unsafe impl Send for Replay {}

impl Replay {
    /// Records what `put` puts on the stream; nothing of it runs.
    ///
    /// # Errors
    /// What `put` or the driver says. The stream is as it was.
    pub(crate) fn record(device: &Arc<Device>, stream: &Stream, put: impl FnOnce() -> Result<()>) -> Result<Replay> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives, and its context is current.
        check(unsafe { sys::cuStreamBeginCapture_v2(stream.raw(), mode) }, "recording a graph")?;
        let put = put();
        let mut graph = std::ptr::null_mut();
        // SAFETY: as above; ended in every case, so that the stream runs again what is put on it.
        let ended = check(unsafe { sys::cuStreamEndCapture(stream.raw(), &raw mut graph) }, "recording a graph");
        let graph = Graph(graph);
        put?;
        ended?;
        if graph.0.is_null() {
            return Err(Error::new(ErrorCode::Device, "the driver recorded no graph"));
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: the graph was just recorded; `raw` lives across the call.
        check(unsafe { sys::cuGraphInstantiateWithFlags(&raw mut raw, graph.0, 0) }, "preparing a graph")?;
        Ok(Replay { device: Arc::clone(device), raw })
    }

    /// Puts all of it on a stream.
    ///
    /// # Safety
    /// Everything that the recorded launches point to is still there, and stays until the stream has passed.
    pub(crate) unsafe fn put(&self, stream: &Stream) -> Result<()> {
        // SAFETY: the caller's promise.
        check(unsafe { sys::cuGraphLaunch(self.raw, stream.raw()) }, "launching a graph")
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if let Ok(_entered) = self.device.enter() {
            // SAFETY: made once, destroyed once.
            let _ = unsafe { sys::cuGraphExecDestroy(self.raw) };
        }
    }
}

/// A graph as it was recorded; only needed until it is prepared.
struct Graph(sys::CUgraph);

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: recorded once, destroyed once; the context is current wherever this is dropped.
            let _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}

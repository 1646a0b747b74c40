//! The memory of one run, and the count of every access to it.

use crate::scalar::{self, Bits};
use levelfold::backend::Bindings;
use levelfold::dtype::DType;
use levelfold::ids::{BufferId, ViewId};
use levelfold::plan::{Buffer, Order, Place, Plan, Tile, ViewLayout};
use levelfold::segments::Segments;
use levelfold::tensor::{TensorView, TensorViewMut};
use levelfold::{Error, ErrorCode, Result};
use std::ops::Range;

/// Every buffer of a plan, by number.
pub(crate) struct Memory<'r, 'a> {
    plan: &'r Plan,
    arena: &'r mut [u8],
    /// The scratch of tiles.
    tile: &'r mut [u8],
    /// What the steps of a tile see of its rows at the moment, behind those of the tiles around it.
    windows: Vec<(Tile, Window)>,
    inputs: Vec<Option<TensorView<'a>>>,
    outputs: Vec<Option<&'r mut TensorViewMut<'a>>>,
    read: u64,
    written: u64,
    flops: u64,
}

/// A window of a tile.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) segments: Range<usize>,
    pub(crate) rows: Range<usize>,
    /// Whether it is the first: what every window reads again is counted there.
    pub(crate) first: bool,
}

/// One segment of a table: which rows it covers, and which rows it is where all segments lie packed one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) rows: Range<usize>,
    pub(crate) packed: Range<usize>,
}

impl Segment {
    /// All rows of a view that is not packed.
    pub(crate) fn whole(rows: usize) -> Self {
        Segment { rows: 0..rows, packed: 0..rows }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}

impl<'r, 'a> Memory<'r, 'a> {
    /// The bindings of a run, which were checked, beside the arena.
    pub(crate) fn new(plan: &'r Plan, arena: &'r mut [u8], tile: &'r mut [u8], bindings: &'r mut Bindings<'a>) -> Self {
        let mut inputs = vec![None; plan.buffers.len()];
        let mut outputs: Vec<Option<&'r mut TensorViewMut<'a>>> = plan.buffers.iter().map(|_| None).collect();
        for (id, buffer) in plan.inputs() {
            inputs[id.index()] = bindings.find_input(&buffer.name);
        }
        for (name, view) in bindings.outputs_mut() {
            if let Some((id, _)) = plan.outputs().find(|(_, buffer)| *buffer.name == *name) {
                outputs[id.index()] = Some(view);
            }
        }
        Memory { plan, arena, tile, windows: Vec::new(), inputs, outputs, read: 0, written: 0, flops: 0 }
    }

    /// Shows steps a window of a tile, whose buffers are filled with a byte first, if one is given.
    pub(crate) fn enter(&mut self, tile: Tile, window: Window, poison: Option<u8>) -> Result<()> {
        self.windows.push((tile, window));
        let Some(poison) = poison else { return Ok(()) };
        for (index, buffer) in self.plan.buffers.iter().enumerate() {
            if let Place::Tile { offset, last, .. } = buffer.place
                && tile.has(last)
            {
                let bytes = size(offset)?..size(offset.saturating_add(self.plan.held_bytes(BufferId::new(index))))?;
                self.tile.get_mut(bytes).ok_or_else(|| outside(buffer))?.fill(poison);
            }
        }
        Ok(())
    }

    /// Shows what was seen before.
    pub(crate) fn leave(&mut self) {
        self.windows.pop();
    }

    /// The window that steps see.
    fn window(&self) -> Option<&Window> {
        self.windows.last().map(|(_, window)| window)
    }

    /// The rows of a view that steps see: in a tile, those of the window.
    pub(crate) fn rows(&self, view: ViewId) -> Result<Segment> {
        match self.window() {
            Some(window) => Ok(Segment { rows: window.rows.clone(), packed: window.rows.clone() }),
            None => Ok(Segment::whole(size(self.plan.buffer_of(view).rows)?)),
        }
    }

    /// The first row that steps see, and the first segment.
    pub(crate) fn start(&self) -> (usize, usize) {
        self.window().map_or((0, 0), |window| (window.rows.start, window.segments.start))
    }

    /// Forgets what was read since some count, where every window of a tile reads it again.
    pub(crate) fn count_once(&mut self, before: u64) {
        if self.window().is_some_and(|window| !window.first) {
            self.read = before;
        }
    }

    /// The bytes read so far.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// The bytes read and written, and the operations done, since the last call.
    pub(crate) fn take_counts(&mut self) -> (u64, u64, u64) {
        (std::mem::take(&mut self.read), std::mem::take(&mut self.written), std::mem::take(&mut self.flops))
    }

    /// The whole arena.
    pub(crate) fn arena_mut(&mut self) -> &mut [u8] {
        self.arena
    }

    /// The element type of a view.
    pub(crate) fn dtype(&self, view: ViewId) -> DType {
        self.plan.buffer_of(view).dtype
    }

    /// The columns of a view.
    pub(crate) fn features(&self, view: ViewId) -> Result<usize> {
        size(self.plan.view(view).features)
    }

    /// Operations were done.
    pub(crate) fn count_flops(&mut self, flops: u64) {
        self.flops += flops;
    }

    /// Reads a table from its first entry to its last: 8 bytes an offset, 16 a range. Of a tile, gives the segments of the window.
    pub(crate) fn walk(&mut self, segments: &Segments) -> Result<Vec<Segment>> {
        let counted = self.read;
        let (first, each) = if segments.is_partition() { (8, 8) } else { (0, 16) };
        self.read += first;
        let mut walked = Vec::new();
        let mut before = 0;
        for range in segments.ranges() {
            self.read += each;
            let rows = size(range.start)?..size(range.end)?;
            let packed = before..before + rows.len();
            before = packed.end;
            walked.push(Segment { rows, packed });
        }
        if let Some(window) = self.window() {
            walked = walked.get(window.segments.clone()).map(<[Segment]>::to_vec).ok_or_else(|| {
                Error::new(ErrorCode::PlanInvalid, format!("a table of {} segments has no {:?}", segments.len(), window.segments))
            })?;
        }
        self.count_once(counted);
        Ok(walked)
    }

    /// Reads feature `feature` of row `index` of a segment of a view.
    pub(crate) fn load(&mut self, view: ViewId, segment: &Segment, index: usize, feature: usize) -> Result<Bits> {
        let id = self.plan.view(view).buffer.index();
        let (row, column) = self.element(view, segment, index, feature)?;
        let buffer = &self.plan.buffers[id];
        if !matches!(buffer.place, Place::Tile { .. }) {
            self.read += buffer.dtype.size_u64();
        }
        match buffer.place {
            Place::Input | Place::Param => match &self.inputs[id] {
                Some(view) => Ok(scalar::load(view, row, column)),
                None => Err(unbound(buffer)),
            },
            Place::Output => match &self.outputs[id] {
                Some(view) => Ok(scalar::load(&view.as_view(), row, column)),
                None => Err(unbound(buffer)),
            },
            Place::Arena { offset, .. } => {
                let at = arena_element(buffer, offset, row, column)?;
                self.arena.get(at).map(scalar::from_bytes).ok_or_else(|| outside(buffer))
            }
            Place::Tile { offset, .. } => {
                let at = self.tile_element(buffer, offset, row, column)?;
                self.tile.get(at).map(scalar::from_bytes).ok_or_else(|| outside(buffer))
            }
        }
    }

    /// Writes feature `feature` of row `index` of a segment of a view.
    pub(crate) fn store(&mut self, view: ViewId, segment: &Segment, index: usize, feature: usize, bits: Bits) -> Result<()> {
        let id = self.plan.view(view).buffer.index();
        let (row, column) = self.element(view, segment, index, feature)?;
        let buffer = &self.plan.buffers[id];
        if !matches!(buffer.place, Place::Tile { .. }) {
            self.written += buffer.dtype.size_u64();
        }
        match buffer.place {
            Place::Input | Place::Param => {
                Err(Error::new(ErrorCode::PlanInvalid, format!("the plan writes input `{}`", buffer.name)).at_level(&*buffer.name))
            }
            Place::Output => match &mut self.outputs[id] {
                Some(view) => {
                    scalar::store(view, row, column, bits);
                    Ok(())
                }
                None => Err(unbound(buffer)),
            },
            Place::Arena { offset, .. } => {
                let at = arena_element(buffer, offset, row, column)?;
                scalar::to_bytes(bits, self.arena.get_mut(at).ok_or_else(|| outside(buffer))?);
                Ok(())
            }
            Place::Tile { offset, .. } => {
                let at = self.tile_element(buffer, offset, row, column)?;
                scalar::to_bytes(bits, self.tile.get_mut(at).ok_or_else(|| outside(buffer))?);
                Ok(())
            }
        }
    }

    /// Where an element of a tile's buffer lies: only rows of its window are there.
    fn tile_element(&self, buffer: &Buffer, offset: u64, row: usize, column: usize) -> Result<Range<usize>> {
        let Place::Tile { last, .. } = buffer.place else { return Err(outside(buffer)) };
        match self.windows.iter().find(|(tile, _)| tile.has(last)).map(|(_, window)| window) {
            Some(window) if window.rows.contains(&row) => arena_element(buffer, offset, row - window.rows.start, column),
            Some(_) | None => Err(outside(buffer)),
        }
    }

    /// The row and column of a view's buffer that an element lies in.
    fn element(&self, view: ViewId, segment: &Segment, index: usize, feature: usize) -> Result<(usize, usize)> {
        let view = self.plan.view(view);
        let buffer = self.plan.buffer(view.buffer);
        let width = size(buffer.features)?;
        let column = size(view.first_column)? + feature;
        let (row, column) = match view.layout {
            ViewLayout::Rows => (segment.rows.start + index, column),
            ViewLayout::Packed { order, .. } => {
                let in_block = match order {
                    Order::RowMajor => index * width + column,
                    Order::FeatureMajor => column * segment.len() + index,
                };
                let element = segment.packed.start * width + in_block;
                (element / width.max(1), element % width.max(1))
            }
        };
        if row >= size(buffer.rows)? || column >= width {
            return Err(outside(buffer));
        }
        Ok((row, column))
    }
}

fn arena_element(buffer: &Buffer, offset: u64, row: usize, column: usize) -> Result<Range<usize>> {
    let start = size(offset)? + (row * size(buffer.features)? + column) * buffer.dtype.size();
    Ok(start..start + buffer.dtype.size())
}

#[cold]
fn outside(buffer: &Buffer) -> Error {
    Error::new(ErrorCode::PlanInvalid, format!("a step leaves buffer `{}` or its arena", buffer.name)).at_level(&*buffer.name)
}

#[cold]
fn unbound(buffer: &Buffer) -> Error {
    Error::new(ErrorCode::Internal, format!("`{}` is not bound, and the check let it through", buffer.name)).at_level(&*buffer.name)
}

/// A count as an index on this machine.
pub(crate) fn size(count: u64) -> Result<usize> {
    usize::try_from(count).map_err(|_| Error::new(ErrorCode::Overflow, format!("{count} is more than this machine can address")))
}

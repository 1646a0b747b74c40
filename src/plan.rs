//! What will run, with every byte placed.
//!
//! A [`Plan`] is plain data: it holds no pointers, paths, times or thread counts, prints the same on every machine, and can be written to
//! JSON and read back. It *describes* its tables (kind, counts, hash) and does not contain them; everything else is concrete, so that
//! every byte is known before anything runs.
//!
//! [`verify`](Plan::verify) holds the rules of a plan on its own; [`check`](crate::check) replays it against the graph that it came from.

pub mod cost;
mod dot;
#[cfg(test)]
pub(crate) mod fixtures;
mod fold;
mod json;
mod text;
mod tile;
mod verify;

pub use fold::{Fold, Load, Reduction, Stage};
pub use tile::Tile;

use crate::dtype::DType;
use crate::encoder::Encoding;
use crate::ids::{BufferId, StepId, TableId, ViewId};
use crate::segments::Segments;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// The version of the plan format that this crate writes and reads.
pub const PLAN_VERSION: u32 = 1;

/// What will run on one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The name of the target that it was planned for.
    pub target: Arc<str>,
    /// The alignment of every arena buffer, in bytes.
    pub align: u64,
    /// The segments of each fold, described.
    pub tables: Vec<Table>,
    /// Every piece of memory that steps read or write.
    pub buffers: Vec<Buffer>,
    /// How steps see the buffers.
    pub views: Vec<View>,
    /// Which steps run together, a few segments at a time; in order.
    #[serde(default)]
    pub tiles: Vec<Tile>,
    /// What runs, in order.
    pub steps: Vec<Step>,
    /// What it costs.
    pub totals: Totals,
    /// What the literal program (no pass at all) of the same graph costs.
    pub literal: Totals,
}

/// A 128-bit hash, printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub u128);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(&text, 16) {
            Ok(hash) if digits => Ok(Hash(hash)),
            Ok(_) | Err(_) => Err(serde::de::Error::custom(format!("a hash is 32 hexadecimal digits, not `{text}`"))),
        }
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A table of segments, described: the segments themselves are bound when the plan runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The level that it makes.
    pub name: Arc<str>,
    /// Offsets or ranges.
    pub form: TableForm,
    /// How many segments it has: the rows of the level that it makes.
    pub segments: u64,
    /// The rows of the level that it folds.
    pub rows: u64,
    /// The sum of all lengths.
    pub total_rows: u64,
    /// The longest segment.
    pub longest: u64,
    /// How many segments are empty.
    pub empty: u64,
    /// The hash of its content.
    pub hash: Hash,
    /// Where it comes from.
    pub source: TableSource,
}

impl Table {
    /// The bytes that a step reads of this table: 8 an offset, 16 a range; the largest number where that does not fit.
    pub fn bytes(&self) -> u64 {
        match self.form {
            TableForm::Offsets => self.segments.saturating_add(1).saturating_mul(8),
            TableForm::Ranges => self.segments.saturating_mul(16),
        }
    }

    /// Whether all that it says of its segments is so: steps are sized by it.
    pub fn describes(&self, segments: &Segments) -> bool {
        let form = if segments.is_partition() { TableForm::Offsets } else { TableForm::Ranges };
        self.hash.0 == segments.hash()
            && (self.form, self.segments, self.rows) == (form, segments.len(), segments.rows())
            && (self.total_rows, self.longest, self.empty) == (segments.total_rows(), segments.longest(), segments.empty_count())
    }
}

/// The form of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableForm {
    /// An ordered partition of all rows: n + 1 offsets.
    Offsets,
    /// n half-open ranges.
    Ranges,
}

/// Where a table comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum TableSource {
    /// The caller binds segments of this hash.
    Bound,
    /// Built when the others are bound: each segment of `upper` taken through `lower`.
    Compose {
        /// The table of the lower level: an ordered partition.
        lower: TableId,
        /// The table of the level above.
        upper: TableId,
    },
}

/// A piece of memory: rows × features elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    /// The input's or output's name, or the name of what an arena buffer holds.
    pub name: Arc<str>,
    /// The element type.
    pub dtype: DType,
    /// Rows.
    pub rows: u64,
    /// Features.
    pub features: u64,
    /// Where it lies.
    pub place: Place,
}

impl Buffer {
    /// Its size in bytes; the largest number where that does not fit, which [`Plan::verify`] refuses.
    pub fn bytes(&self) -> u64 {
        self.rows.saturating_mul(self.features).saturating_mul(self.dtype.size_u64())
    }
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Place {
    /// Bound by the caller, of any strides, and read only.
    Input,
    /// Like an input; the same from run to run (a lookup table, weights of an encoder).
    Param,
    /// Bound by the caller, of any strides, and written. Later steps may read it.
    Output,
    /// In the plan's arena: rows one after the other, or packed segments.
    Arena {
        /// Bytes from the start of the arena.
        offset: u64,
        /// The step that writes it first; where that is one of a [`Tile`], the first of the tile.
        first: StepId,
        /// The last step that reads or writes it; where that is one of a tile, the last of the tile.
        last: StepId,
    },
    /// A window of its rows, one after the other, in the scratch that each worker has for a [`Tile`].
    Tile {
        /// Bytes from the start of the tile's scratch.
        offset: u64,
        /// The step that writes it first: of the tile, or the fold of one inside.
        first: StepId,
        /// The last step of the tile that reads or writes it.
        last: StepId,
    },
}

/// How a step sees a buffer: some of its columns, all of its rows.
///
/// Strides are not part of a view: an input's and an output's belong to what is bound, an arena buffer's are those of its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Of which buffer.
    pub buffer: BufferId,
    /// The first column that it sees.
    pub first_column: u64,
    /// How many columns it sees.
    pub features: u64,
    /// How rows lie in it.
    pub layout: ViewLayout,
}

/// How the rows of a view lie in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ViewLayout {
    /// Row by row.
    Rows,
    /// The segments of a table one after the other, each of them dense: what a literal `contiguous` makes of ragged data.
    /// Segment s starts at (the sum of the lengths before it) · features.
    Packed {
        /// Whose segments.
        table: TableId,
        /// How a segment's block is laid out.
        order: Order,
    },
}

/// The order of elements inside one segment's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// `[len, features]`: element (i, f) at i · features + f.
    RowMajor,
    /// `[features, len]`, the transposed form: element (i, f) at f · len + i.
    FeatureMajor,
}

impl Order {
    /// The other one.
    #[must_use]
    pub fn transposed(self) -> Order {
        match self {
            Order::RowMajor => Order::FeatureMajor,
            Order::FeatureMajor => Order::RowMajor,
        }
    }

    /// The name used in dumps.
    pub fn name(self) -> &'static str {
        match self {
            Order::RowMajor => "row-major",
            Order::FeatureMajor => "feature-major",
        }
    }
}

/// One thing that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it does.
    pub kind: StepKind,
    /// The user's ops that it stands for, as `level.op`.
    pub origin: Vec<Arc<str>>,
    /// What it costs.
    pub cost: Cost,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum StepKind {
    /// Folds rows into segments, one level after the other, each row read once.
    Fold(Fold),
    /// Writes what another buffer holds to a new place.
    Copy(Copy),
    /// Encodes rows: a kernel, and operations on single rows behind it.
    Encode(Encode),
}

/// A kernel over rows, and what follows it row by row.
///
/// The result of the kernel and of each operation is rounded to the type of its rows before the next one takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encode {
    /// What it does, to which views.
    pub encoding: Encoding<ViewId>,
    /// Where the rows go.
    pub write: ViewId,
}

/// A copy: what the optimizer is there to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// What is copied.
    pub what: CopyKind,
    /// What is read.
    pub read: SmallVec<[ViewId; 2]>,
    /// What is written.
    pub write: ViewId,
}

/// What a copy step copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum CopyKind {
    /// The segments of a table, each block dense, in the layout of the written (packed) view. Reads rows, or another packed view of the
    /// same table.
    Segments {
        /// Whose segments.
        table: TableId,
    },
    /// The rows of each segment of a table, one segment after the other: a row that occurs twice is there twice.
    Spread {
        /// Whose segments.
        table: TableId,
    },
    /// All rows, as they are.
    Rows,
    /// Row r is `read[1][read[0][r]]`: a table lookup, written out.
    Gather,
    /// The columns of several views, side by side.
    Columns,
}

/// What a step costs: counts that follow from the plan alone, and that the reference backend counts again while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Bytes read: every element that is loaded, ids, looked-up rows, weights and tables included.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Of the bytes written, those of a copy.
    pub copied: u64,
    /// Additions, multiplications, comparisons and divisions on elements.
    pub flops: u64,
}

/// What a whole plan costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// How many steps.
    pub steps: u64,
    /// The size of the arena.
    pub arena_bytes: u64,
    /// The most bytes of arena buffers alive at once: no arena can be smaller.
    pub peak_bytes: u64,
    /// Bytes written by copies.
    pub copied_bytes: u64,
    /// Bytes read by all steps.
    pub read_bytes: u64,
    /// Bytes written by all steps.
    pub written_bytes: u64,
    /// Arithmetic of all steps.
    pub flops: u64,
}

impl Totals {
    /// Bytes read and written.
    pub fn moved_bytes(&self) -> u64 {
        self.read_bytes.saturating_add(self.written_bytes)
    }
}

/// The least that any program must move for what a plan computes: each input byte that is needed once, each output byte once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Bytes of inputs, params and tables.
    pub read: u64,
    /// Bytes of outputs.
    pub written: u64,
}

impl Step {
    /// The views that it reads, in a fixed order.
    pub fn reads(&self) -> SmallVec<[ViewId; 4]> {
        match &self.kind {
            StepKind::Copy(copy) => copy.read.iter().copied().collect(),
            StepKind::Encode(encode) => encode.encoding.operands().into_iter().copied().collect(),
            StepKind::Fold(fold) => {
                let mut views: SmallVec<[ViewId; 4]> = fold.load.ids().into_iter().chain([fold.load.values()]).collect();
                views.extend(fold.stages.iter().flat_map(|stage| stage.reductions.iter().filter_map(|reduction| reduction.weights)));
                views
            }
        }
    }

    /// The views that it writes, in a fixed order.
    pub fn writes(&self) -> SmallVec<[ViewId; 4]> {
        match &self.kind {
            StepKind::Copy(copy) => smallvec::smallvec![copy.write],
            StepKind::Encode(encode) => smallvec::smallvec![encode.write],
            StepKind::Fold(fold) => {
                fold.stages.iter().flat_map(|stage| stage.reductions.iter().filter_map(|reduction| reduction.write)).collect()
            }
        }
    }

    /// The tables that it reads, in a fixed order.
    pub fn tables(&self) -> SmallVec<[TableId; 4]> {
        match &self.kind {
            StepKind::Copy(Copy { what: CopyKind::Segments { table } | CopyKind::Spread { table }, .. }) => smallvec::smallvec![*table],
            StepKind::Encode(encode) => encode.encoding.tables().into_iter().collect(),
            StepKind::Copy(_) => SmallVec::new(),
            StepKind::Fold(fold) => fold.stages.iter().map(|stage| stage.table).collect(),
        }
    }
}

impl Plan {
    /// A table.
    pub fn table(&self, id: TableId) -> &Table {
        &self.tables[id.index()]
    }

    /// A buffer.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id.index()]
    }

    /// A view.
    pub fn view(&self, id: ViewId) -> &View {
        &self.views[id.index()]
    }

    /// The buffer of a view.
    pub fn buffer_of(&self, view: ViewId) -> &Buffer {
        self.buffer(self.view(view).buffer)
    }

    /// The buffers that the caller binds to be read: inputs and params.
    pub fn inputs(&self) -> impl Iterator<Item = (BufferId, &Buffer)> {
        self.numbered_buffers().filter(|(_, buffer)| matches!(buffer.place, Place::Input | Place::Param))
    }

    /// The buffers that the caller binds to be written.
    pub fn outputs(&self) -> impl Iterator<Item = (BufferId, &Buffer)> {
        self.numbered_buffers().filter(|(_, buffer)| buffer.place == Place::Output)
    }

    fn numbered_buffers(&self) -> impl Iterator<Item = (BufferId, &Buffer)> {
        self.buffers.iter().enumerate().map(|(index, buffer)| (BufferId::new(index), buffer))
    }

    /// The bytes of everything that the caller binds (inputs, params, outputs and tables) and of the arena: what a run needs, but for an
    /// executable's own [scratch](crate::backend::Executable::scratch_bytes). `None` where that does not fit 64 bits.
    pub fn memory_bytes(&self) -> Option<u64> {
        let bound =
            self.buffers.iter().filter(|buffer| !matches!(buffer.place, Place::Arena { .. } | Place::Tile { .. })).map(Buffer::bytes);
        bound.chain(self.tables.iter().map(Table::bytes)).try_fold(self.totals.arena_bytes, u64::checked_add)
    }

    /// The least that any program must move for this result: each needed byte of the inputs and tables once, each output byte once.
    ///
    /// Of an input that segments cover only in part, or that ids look up in part, as many rows are counted as are read at most.
    pub fn floor(&self) -> Floor {
        let mut needed = vec![0u64; self.buffers.len()];
        let mut tables = vec![false; self.tables.len()];
        for step in &self.steps {
            for table in step.tables() {
                tables[table.index()] = true;
            }
            let mut need = |view: ViewId, rows: u64| {
                let view = self.view(view);
                let buffer = self.buffer(view.buffer);
                let bytes = rows.min(buffer.rows).saturating_mul(view.features).saturating_mul(buffer.dtype.size_u64());
                let needed = &mut needed[view.buffer.index()];
                *needed = needed.saturating_add(bytes).min(buffer.bytes());
            };
            match &step.kind {
                StepKind::Fold(fold) => {
                    let first = fold.stages.first().map_or(0, |stage| self.table(stage.table).total_rows);
                    fold.load.ids().into_iter().for_each(|ids| need(ids, first));
                    let counts = matches!(fold.load, Load::Histogram { .. });
                    need(fold.load.values(), if counts { u64::MAX } else { first });
                    for stage in &fold.stages {
                        for weights in stage.reductions.iter().filter_map(|reduction| reduction.weights) {
                            need(weights, self.table(stage.table).total_rows);
                        }
                    }
                }
                StepKind::Copy(copy) => {
                    let rows = match copy.what {
                        CopyKind::Segments { table } | CopyKind::Spread { table } => self.table(table).total_rows,
                        CopyKind::Rows | CopyKind::Gather | CopyKind::Columns => self.buffer_of(copy.write).rows,
                    };
                    for &view in &copy.read {
                        need(view, rows);
                    }
                }
                StepKind::Encode(encode) => {
                    for &view in encode.encoding.operands() {
                        need(view, u64::MAX);
                    }
                }
            }
        }
        let inputs = self.inputs().map(|(id, _)| needed[id.index()]);
        let tables = self.tables.iter().zip(tables).filter(|(_, used)| *used).map(|(table, _)| table.bytes());
        Floor {
            read: inputs.chain(tables).fold(0, u64::saturating_add),
            written: self.outputs().map(|(_, buffer)| buffer.bytes()).fold(0, u64::saturating_add),
        }
    }
}

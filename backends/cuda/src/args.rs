//! What kernels are handed: one structure an entry, by value. `kernels` has the same structures, field by field.
//!
//! Offsets and sizes are held three times: constants below fail the build, the kernels' `static_assert`s fail their compilation (the sizes
//! come as `-D` options), and `lf_layout` reports the kernels' offsets to a test. Addresses are device addresses; strides are bytes, and
//! may be 0 or negative for what is read.

use std::mem::{offset_of, size_of};

/// The most stages of a fold.
pub const MOST_STAGES: usize = 8;
/// The most reductions of all stages of a fold together.
pub const MOST_REDUCTIONS: usize = 16;
/// The most operations on rows that one step does.
pub const MOST_MAP_OPS: usize = 64;
/// The most other rows that one step adds.
pub const MOST_MAP_OTHERS: usize = 16;

/// An address on the device; 0 where there is nothing.
pub type Address = u64;

/// The arguments of `lf_fold`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FoldArgs {
    /// The rows, or the table that ids look up, or the packed view: the first element.
    pub values: Address,
    /// Bytes from row to row.
    pub row_stride: i64,
    /// Bytes from column to column.
    pub column_stride: i64,
    /// The ids of a gather: the first one.
    pub ids: Address,
    /// Bytes from id to id.
    pub id_stride: i64,
    /// Run records, in the index type.
    pub runs: Address,
    /// `shifts[segment]` of stage 0 in the index type, or 0 where row = position.
    pub shifts: Address,
    /// How many runs.
    pub run_count: u32,
    /// Bytes of an id: 1, 2, 4, 8.
    pub id_bytes: u32,
    /// Columns.
    pub features: u32,
    /// Of the [geometry](crate::spec::Geometry).
    pub lanes: u32,
    /// Of the geometry.
    pub slabs: u32,
    /// Q: blocks of a piece of a long segment.
    pub piece_blocks: u32,
    /// The stages, lowest first.
    pub stages: [StageArgs; MOST_STAGES],
    /// The reductions of all stages, one stage after the other.
    pub reductions: [ReductionArgs; MOST_REDUCTIONS],
}

/// A stage of a fold.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StageArgs {
    /// segments + 1 offsets in the index type: of positions at stage 0, else of the segments of the stage below.
    pub offsets: Address,
}

/// A reduction of a fold.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ReductionArgs {
    /// One weight a row of what the stage folds; 0 where unweighted.
    pub weights: Address,
    /// Bytes from weight to weight.
    pub weight_stride: i64,
    /// Where results go: the first element; 0 where nobody keeps them.
    pub out: Address,
    /// Bytes from result row to result row.
    pub out_row_stride: i64,
    /// Bytes from result column to result column.
    pub out_column_stride: i64,
    /// Of the topmost stage: pieces × numbers of the reducer's state × features f64; 0 where no segment is long.
    pub partials: Address,
    /// Of the topmost stage's weighted means: pieces f64, Σw of each piece.
    pub weight_partials: Address,
    /// What an empty segment of a lower stage gives.
    pub fill: f64,
    /// The code of the weights' type.
    pub weight_type: u32,
    /// Whether results lie side by side, and each lane's are aligned to their size or to 16 bytes: 1 or 0. See [`vector_store`].
    pub vector_store: u32,
    /// What `var` and `std` take from the number of rows before they divide.
    pub ddof: u32,
    /// Zero.
    pub reserved: u32,
}

/// The arguments of `lf_finish` and `lf_finish_states`: one pass over the partials of one reduction.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FinishArgs {
    /// Partials, `features` f64 a row; of a reducer with a state so many rows for each as it has numbers.
    pub source: Address,
    /// Σw of each piece, where a weighted mean; else 0.
    pub weight_source: Address,
    /// Where a pass that is not the last puts its rows.
    pub target: Address,
    /// And their Σw.
    pub weight_target: Address,
    /// [`FinishGroup`]s. Each has ⌈features ÷ [`FINISH_COLUMNS`](crate::spec::FINISH_COLUMNS)⌉ blocks, one after the other.
    pub groups: Address,
    /// Where results go.
    pub out: Address,
    /// Bytes from result row to result row.
    pub out_row_stride: i64,
    /// Bytes from result column to result column.
    pub out_column_stride: i64,
    /// Columns.
    pub features: u32,
    /// The code of the reducer.
    pub reducer: u32,
    /// The code of the results' type.
    pub out_type: u32,
    /// As in a fold's [`ReductionArgs`].
    pub ddof: u32,
}

/// Up to [`FINISH_RADIX`](crate::spec::FINISH_RADIX) neighbouring partials of one segment. A segment of more has several groups, each whole but the
/// last, and another pass over what they make.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishGroup {
    /// The first of them.
    pub first: u64,
    /// The row that is written: of the results where `last`, else of the target.
    pub to: u64,
    /// The rows of the segment: what an unweighted mean divides by.
    pub rows: u64,
    /// How many.
    pub count: u32,
    /// Whether these are all of the segment: 1 or 0.
    pub last: u32,
}

/// The arguments of `lf_fill`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FillArgs {
    /// u64 row numbers; 0 where rows 0 to `count` are filled.
    pub rows: Address,
    /// How many.
    pub count: u64,
    /// Where results go.
    pub out: Address,
    /// Bytes from result row to result row.
    pub out_row_stride: i64,
    /// Bytes from result column to result column.
    pub out_column_stride: i64,
    /// The value, before it is rounded to the results' type.
    pub fill: f64,
    /// Columns.
    pub features: u32,
    /// The code of the results' type.
    pub out_type: u32,
}

/// The arguments of `lf_copy`: bits as they are, `rows` × `columns` units.
///
/// A side is rows (`feature_major` 0), or packed feature-major (1): then its strides do not count, and unit (i, f) of a segment that begins at
/// position a is at a · columns + f · length + i. Packed row-major is rows by position. Source rows go through `ids` where they are given,
/// else through `shifts` where they are given.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CopyArgs {
    /// What is read: the first unit.
    pub source: Address,
    /// Bytes from row to row.
    pub source_row_stride: i64,
    /// Bytes from column to column.
    pub source_column_stride: i64,
    /// What is written.
    pub target: Address,
    /// Bytes from row to row.
    pub target_row_stride: i64,
    /// Bytes from column to column.
    pub target_column_stride: i64,
    /// Ids, or 0.
    pub ids: Address,
    /// Bytes from id to id.
    pub id_stride: i64,
    /// segments + 1 u64 offsets of positions; needed for shifts and for packed feature-major sides, else 0.
    pub offsets: Address,
    /// `shifts[segment]` as u64, or 0.
    pub shifts: Address,
    /// How many segments.
    pub segments: u64,
    /// Rows that are written (positions).
    pub rows: u64,
    /// Units a row.
    pub columns: u32,
    /// Bytes of a unit: 1, 2, 4, 8, 16. Dense sides may be copied in units of several elements.
    pub unit: u32,
    /// Bytes of an id: 1, 2, 4, 8.
    pub id_bytes: u32,
    /// Whether what is read is packed feature-major.
    pub source_feature_major: u32,
    /// Whether what is written is.
    pub target_feature_major: u32,
    /// Zero.
    pub reserved: u32,
}

/// Rows that `lf_map` reads or writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MapRows {
    /// The first element.
    pub address: Address,
    /// Bytes from row to row.
    pub row_stride: i64,
    /// Bytes from column to column.
    pub column_stride: i64,
}

/// An operation of `lf_map`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MapOp {
    /// The bits of a scale's constant, as f64; of an addition, which of the other rows.
    pub number: u64,
    /// The [code](crate::spec::element_code), or [`ADD_CODE`](crate::spec::ADD_CODE).
    pub kind: u32,
    /// The code of the type that the result is rounded to.
    pub dtype: u32,
}

/// The arguments of `lf_map`, and, where a type among them is f64, of `lf_map_wide`: operations on every element of some rows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MapArgs {
    /// What is read.
    pub source: MapRows,
    /// What is written. It may be what is read, or added.
    pub target: MapRows,
    /// How many rows.
    pub rows: u64,
    /// Units of a row: features ÷ elements.
    pub units: u32,
    /// Elements of a unit: 1, or [`map_elements`] where all sides have them side by side and aligned.
    pub elements: u32,
    /// The code of the type of what is read.
    pub source_type: u32,
    /// How many operations.
    pub op_count: u32,
    /// The operations, in order.
    pub ops: [MapOp; MOST_MAP_OPS],
    /// What they add.
    pub others: [MapRows; MOST_MAP_OTHERS],
}

/// Elements of a unit of `lf_map`, or of `lf_map_wide`: 16 bytes of the widest type.
pub const fn map_elements(wide: bool) -> u32 {
    if wide { 2 } else { 4 }
}

/// The arguments of `lf_layout`, which is for tests.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LayoutArgs {
    /// Room for [`layout`]'s numbers, as u32.
    pub out: Address,
}

/// Blocks of `lf_copy` (units) and `lf_fill` (elements) over so many rows and columns: each takes whole rows, about 4096 units. 0 where there is
/// nothing to do; at most 2^31 − 1, each block then takes several chunks.
pub fn move_blocks(rows: u64, columns: u64) -> u32 {
    if columns == 0 {
        return 0;
    }
    let chunk_rows = (4096 / columns).max(1);
    u32::try_from(rows.div_ceil(chunk_rows)).unwrap_or(u32::MAX).min(i32::MAX.cast_unsigned())
}

/// Whether the results of a lane can be stored at once: `vector` elements of `size` bytes, side by side and aligned.
pub fn vector_store(out: Address, row_stride: i64, column_stride: i64, size: u32, vector: u32) -> bool {
    let bytes = u64::from(size * vector).min(16);
    i64::from(size) == column_stride && out.is_multiple_of(bytes) && row_stride.unsigned_abs().is_multiple_of(bytes)
}

/// The sizes of the structures, as kernels are told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArgsSizes {
    pub(crate) fold: usize,
    pub(crate) finish: usize,
    pub(crate) fill: usize,
    pub(crate) copy: usize,
    pub(crate) map: usize,
}

impl ArgsSizes {
    pub(crate) const OF_THIS_HOST: ArgsSizes = ArgsSizes {
        fold: size_of::<FoldArgs>(),
        finish: size_of::<FinishArgs>(),
        fill: size_of::<FillArgs>(),
        copy: size_of::<CopyArgs>(),
        map: size_of::<MapArgs>(),
    };
}

macro_rules! offsets {
    ($($type:ident { $($field:ident),* $(,)? })*) => {
        /// The size of each structure, then the offset of each of its fields, in this order: what `lf_layout` writes.
        pub fn layout() -> Vec<u32> {
            let numbers = [$(size_of::<$type>(), $(offset_of!($type, $field)),*),*];
            numbers.into_iter().map(|number| u32::try_from(number).unwrap_or(u32::MAX)).collect()
        }

        /// The same as expressions of the kernels' language.
        pub(crate) fn layout_expressions() -> String {
            let numbers = [$(
                concat!("sizeof(", stringify!($type), ")"),
                $(concat!("LF_AT(", stringify!($type), ",", stringify!($field), ")")),*
            ),*];
            numbers.join(",")
        }
    };
}

offsets! {
    FoldArgs { values, row_stride, column_stride, ids, id_stride, runs, shifts, run_count, id_bytes, features, lanes, slabs, piece_blocks, stages, reductions }
    StageArgs { offsets }
    ReductionArgs { weights, weight_stride, out, out_row_stride, out_column_stride, partials, weight_partials, fill, weight_type, vector_store, ddof }
    FinishArgs { source, weight_source, target, weight_target, groups, out, out_row_stride, out_column_stride, features, reducer, out_type, ddof }
    FinishGroup { first, to, rows, count, last }
    FillArgs { rows, count, out, out_row_stride, out_column_stride, fill, features, out_type }
    CopyArgs { source, source_row_stride, source_column_stride, target, target_row_stride, target_column_stride, ids, id_stride, offsets, shifts, segments, rows, columns, unit, id_bytes, source_feature_major, target_feature_major }
    MapRows { address, row_stride, column_stride }
    MapOp { number, kind, dtype }
    MapArgs { source, target, rows, units, elements, source_type, op_count, ops, others }
}

// Nothing in them is padding: what is hashed or compared is what was meant.
const _: () = assert!(size_of::<ReductionArgs>() == 80 && size_of::<FinishGroup>() == 32 && size_of::<StageArgs>() == 8);
const _: () = assert!(offset_of!(FoldArgs, stages) == 80 && size_of::<FoldArgs>() == 80 + 8 * MOST_STAGES + 80 * MOST_REDUCTIONS);
const _: () = assert!(size_of::<FinishArgs>() == 80 && size_of::<FillArgs>() == 56 && size_of::<CopyArgs>() == 120);
const _: () = assert!(size_of::<MapArgs>() == 72 + 16 * MOST_MAP_OPS + 24 * MOST_MAP_OTHERS);

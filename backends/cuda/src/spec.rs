//! Which kernel: plain data that says how `kernels/fold` is specialised, and how it is launched.
//!
//! This page and [`args`](crate::args) are the one description of the interface between the host and the kernels.
//!
//! A [`KernelSpec`] renders to a source and to `-D` options; it is compiled once for each architecture. Whatever costs no speed is an argument
//! and not part of a spec: strides, id types, weight types, the form of a table, fills, alignment of results, the piece of a long segment.
//! So there are few specs: the type of the values, how lanes read them, and what is made of them.
//!
//! | spec | entry | argument | block, shared memory |
//! |---|---|---|---|
//! | [`KernelSpec::Fold`] | `lf_fold` | [`FoldArgs`](crate::args::FoldArgs) | [`FOLD_THREADS`], [`FoldSpec::shared_bytes`] |
//! | [`KernelSpec::FinishStates`] | `lf_finish_states` | [`FinishArgs`](crate::args::FinishArgs) | [`FINISH_THREADS`], none |
//! | [`KernelSpec::FinishOperated`] | `lf_finish` or `lf_finish_states` | [`FinishArgs`](crate::args::FinishArgs) | [`FINISH_THREADS`], none |
//! | [`KernelSpec::Moves`] | `lf_finish` | [`FinishArgs`](crate::args::FinishArgs) | [`FINISH_THREADS`], none |
//! | | `lf_fill` | [`FillArgs`](crate::args::FillArgs) | [`MOVE_THREADS`], none; [`move_blocks`](crate::args::move_blocks) |
//! | | `lf_copy` | [`CopyArgs`](crate::args::CopyArgs) | [`MOVE_THREADS`], none; [`move_blocks`](crate::args::move_blocks) |
//! | | `lf_layout` | [`LayoutArgs`](crate::args::LayoutArgs) | one thread, none; for tests |
//! | [`KernelSpec::Maps`] | `lf_map`, `lf_map_wide` | [`MapArgs`](crate::args::MapArgs) | [`MOVE_THREADS`], none; [`move_blocks`](crate::args::move_blocks) |
//!
//! Every entry takes one structure, by value. A launch without blocks is left out by the host.
//!
//! # A fold
//!
//! *Positions* number the rows of all segments of stage 0, one segment after the other; `offsets` (segments + 1, of the index type) are where
//! segments begin. For an ordered partition, position and row are the same. For ranges, row = position + `shifts[segment]`, wrapping around.
//!
//! Work is cut into *runs* ([`RunRecords`]): records of `2 + stages` indices, `runs + 1` of them, each
//! `[row, piece, segment of stage 0, …, segment of the topmost stage]`. With T the topmost stage, and a *long* segment one of T with more than 32 · Q
//! rows, Q being `piece_blocks`, a power of two up to `2^depth` of T:
//!
//! - A run ends where the next record begins. The last record is the end: all positions, all pieces, all segments of each stage.
//! - A run begins at the start of a segment of T that is not empty, or, in a long one, a multiple of 32 · Q rows after its start (rows of what T folds:
//!   positions where T is stage 0, else segments of stage T − 1).
//! - `row` is its first position. `segment` of T is the segment that it begins in, and of a lower stage its first segment (empty ones
//!   included: every segment of a lower stage belongs to exactly one run).
//! - Each piece of Q blocks of a long segment, also a last, shorter one, is one *piece*: one row of f64 partials for each reduction of
//!   T, in order; of a reducer with a state one row for each of its numbers. `piece` counts those before the run. `lf_finish` and `lf_finish_states` fold them,
//!   [`FINISH_RADIX`] at a time.
//! - A segment that is not long is finished where it is read. An empty one of T is not touched: `lf_fill` writes it. Empty ones of lower stages are
//!   filled (and written, where results go somewhere) by the fold itself.
//!
//! A unit of work is a run × a slab of `lanes · vector` columns; see [`FoldSpec::geometry`].

use crate::args::{ArgsSizes, MOST_REDUCTIONS, MOST_STAGES, layout_expressions};
use crate::codes::few;
pub use crate::codes::{ADD_CODE, Planes, ddof, dtype_code, element_code, planes, reducer_code, specialised};
use crate::sources::{FINISH_STATES, FOLD, MAPS, STATES, WHOLE_FINISH, WHOLE_FINISH_PLAIN, WHOLE_FOLD, WHOLE_MOVES};
use levelfold::encoder::{ElementOp, dtype_after};
use levelfold::reducer::{CustomReducer, ReducerClass};
use levelfold::{DType, Reducer};
use std::borrow::Cow;

/// Threads a block of `lf_fold`.
pub const FOLD_THREADS: u32 = 128;
/// Threads a block of `lf_finish`: 8 groups of 32 columns.
pub const FINISH_THREADS: u32 = 256;
/// Threads a block of `lf_fill` and `lf_copy`.
pub const MOVE_THREADS: u32 = 256;
/// The most partials that one block of `lf_finish` folds.
pub const FINISH_RADIX: u64 = 256;
/// Columns that one block of `lf_finish` folds.
pub const FINISH_COLUMNS: u64 = 32;

/// What is compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KernelSpec {
    /// A fold of one or several stages.
    Fold(FoldSpec),
    /// Finishing long segments of a reducer with a state.
    FinishStates(Reducer),
    /// Finishing long segments of a reduction whose results are operated on. Plain reducers, which one kernel tells apart, are all `sum` here.
    FinishOperated {
        /// The reducer.
        reducer: Reducer,
        /// What results are rounded to before the operations.
        dtype: DType,
        /// What is done to results.
        ops: Vec<ElementOp>,
    },
    /// Finishing other long segments, filling empty ones, copies: one for all plans.
    Moves,
    /// Operations on whole rows that no fold takes: one for all plans.
    Maps,
}

/// A specialised fold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FoldSpec {
    /// The type of the rows that stage 0 folds.
    pub values: DType,
    /// Where they come from.
    pub source: Source,
    /// How lanes read them.
    pub access: Access,
    /// The width of positions and segments.
    pub index: Index,
    /// From the lowest to the topmost.
    pub stages: Vec<StageSpec>,
}

/// Where rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Rows of any strides. A packed row-major view is rows by position: bind no shifts.
    Rows,
    /// Rows of a table, looked up by ids; ids stand at rows (position + shift).
    Gather,
    /// A packed feature-major view: element (i, f) of a segment that begins at position a is at a · features + f · length + i.
    Packed,
}

/// How lanes read rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Each lane reads so many bytes (16, 8, 4, 2) of each row by itself. More than one element only where columns lie side by side, and address,
    /// row stride and width are multiples of it.
    Lanes {
        /// Bytes a lane and row.
        bytes: u32,
    },
    /// A warp brings tiles of rows into shared memory, along whichever dimension is dense: narrow or transposed rows. [`Source::Rows`] of an ordered
    /// partition only (or packed row-major: positions are rows).
    Tile,
}

/// The width of positions, rows of stages and segments inside a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Index {
    /// 32 bits: everything counted is below 2^32.
    Narrow,
    /// 64 bits.
    Wide,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StageSpec {
    /// Which reduction of the stage before is folded; 0 at stage 0.
    pub feed: u32,
    /// What is done to each element before it is folded.
    pub ops: Vec<ElementOp>,
    /// log₂ of how many blocks of a segment are paired where it is read: see [`depth`].
    pub depth: u32,
    /// What is made of each segment.
    pub reductions: Vec<ReductionSpec>,
}

/// One reduction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReductionSpec {
    /// Which reducer.
    pub reducer: Reducer,
    /// Whether rows have weights.
    pub weighted: bool,
    /// What results are rounded to.
    pub dtype: DType,
    /// What is done to each result then.
    pub ops: Vec<ElementOp>,
}

/// How a fold is launched over some runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Lanes that share a row: goes into the arguments.
    pub lanes: u32,
    /// Slabs of columns: goes into the arguments.
    pub slabs: u32,
    /// Blocks of [`FOLD_THREADS`].
    pub blocks: u32,
}

/// The depth of a stage below the topmost whose longest segment has so many rows, or of a topmost stage (`longest` = 32 · Q): in classes, so
/// that specs stay few.
pub fn depth(longest: u64) -> u32 {
    let blocks = longest.div_ceil(32).max(1);
    let exact = blocks.next_power_of_two().trailing_zeros();
    [3, 5, 8, 16, 32].into_iter().find(|&class| exact <= class).unwrap_or(59)
}

/// Records of runs, in the index type of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunRecords {
    /// For [`Index::Narrow`].
    Narrow(Vec<u32>),
    /// For [`Index::Wide`].
    Wide(Vec<u64>),
}

impl Access {
    /// The best way to read rows of `features` elements at an address, with strides in bytes, and at most so many bytes a lane. `by_position` says that rows
    /// are positions: an ordered partition, or a packed row-major view.
    pub fn best(source: Source, values: DType, features: u64, address: u64, strides: [i64; 2], by_position: bool, most: u32) -> Access {
        let size = values.size_u64();
        let element = Access::Lanes { bytes: low(size) };
        let tiles = source == Source::Rows && by_position;
        let [row, column] = strides.map(i128::from);
        if source == Source::Packed {
            return element;
        }
        if features > 1 && column != i128::from(size) {
            return if tiles && row == i128::from(size) { Access::Tile } else { element };
        }
        let width = features.saturating_mul(size);
        if tiles && width < NARROW_BYTES && row == i128::from(width) {
            return Access::Tile;
        }
        let pitch = strides[0].unsigned_abs();
        let fits = |bytes: u64| {
            bytes >= size
                && bytes <= u64::from(most).max(size)
                && address.is_multiple_of(bytes)
                && pitch.is_multiple_of(bytes)
                && width.is_multiple_of(bytes)
        };
        match [16, 8, 4].into_iter().find(|&bytes| fits(bytes)) {
            Some(bytes) => Access::Lanes { bytes: low(bytes) },
            None if tiles => Access::Tile,
            None => element,
        }
    }
}

impl KernelSpec {
    /// The CUDA C++ source: no includes, the same for all folds without custom reducers.
    pub fn source(&self) -> Cow<'static, str> {
        let of_states = |reducers: &[&Reducer], rest: &'static str| {
            let numbered = (0..).zip(customs(reducers.iter().copied()));
            let written: Vec<String> = numbered.map(|(number, custom)| crate::custom::source(number, custom)).collect();
            if written.is_empty() { None } else { Some([STATES, &written.concat(), rest].concat()) }
        };
        match self {
            KernelSpec::Fold(fold) => {
                let reducers: Vec<&Reducer> = fold.reducers().collect();
                of_states(&reducers, FOLD).map_or(Cow::Borrowed(WHOLE_FOLD), Cow::Owned)
            }
            KernelSpec::FinishStates(reducer) => of_states(&[reducer], FINISH_STATES).map_or(Cow::Borrowed(WHOLE_FINISH), Cow::Owned),
            KernelSpec::FinishOperated { reducer, .. } => match reducer.class() {
                ReducerClass::Plain | ReducerClass::Select => Cow::Borrowed(WHOLE_FINISH_PLAIN),
                ReducerClass::State => of_states(&[reducer], FINISH_STATES).map_or(Cow::Borrowed(WHOLE_FINISH), Cow::Owned),
            },
            KernelSpec::Moves => Cow::Borrowed(WHOLE_MOVES),
            KernelSpec::Maps => Cow::Borrowed(MAPS),
        }
    }

    /// The `-D` options, each in one word, beside the compiler's own ([`COMPILE_OPTIONS`]).
    pub fn defines(&self) -> Vec<String> {
        let sizes = ArgsSizes::OF_THIS_HOST;
        match self {
            KernelSpec::Moves => vec![
                format!("-DLF_FINISH_BYTES={}", sizes.finish),
                format!("-DLF_FILL_BYTES={}", sizes.fill),
                format!("-DLF_COPY_BYTES={}", sizes.copy),
                format!("-DLF_MAP_BYTES={}", sizes.map),
                format!("-DLF_LAYOUT={}", layout_expressions()),
            ],
            KernelSpec::Maps => vec![format!("-DLF_MAP_BYTES={}", sizes.map)],
            KernelSpec::FinishStates(reducer) => {
                vec![format!("-DLF_FINISH_BYTES={}", sizes.finish), format!("-DLF_REDUCER={}", reducer_code(reducer))]
            }
            KernelSpec::FinishOperated { reducer, dtype, ops } => {
                let mut defines = KernelSpec::FinishStates(reducer.clone()).defines();
                defines.push(format!("-DLF_FINISH_TYPE={}", dtype_code(*dtype)));
                defines.push(format!("-DLF_FINISH_OPS={}", render_ops(ops, *dtype)));
                defines
            }
            KernelSpec::Fold(fold) => {
                let known = customs(fold.reducers());
                let stages: Vec<String> = fold.fed().map(|(stage, fed)| stage.render(&known, fed)).collect();
                let of_stage =
                    |stage: &StageSpec| stage.reductions.iter().map(|made| made.ops.len()).max().unwrap_or(0).max(stage.ops.len());
                let most_ops = fold.stages.iter().map(of_stage).max().unwrap_or(0);
                let most_ops = (most_ops > 1).then(|| format!("-DLF_MOST_OPS={most_ops}"));
                let mut defines = vec![
                    format!("-DLF_FOLD_BYTES={}", sizes.fold),
                    format!("-DLF_VALUE={}", dtype_code(fold.values)),
                    format!("-DLF_SOURCE={}", fold.source.code()),
                    format!("-DLF_TILE={}", u8::from(fold.access == Access::Tile)),
                    format!("-DLF_BYTES={}", fold.bytes()),
                    format!("-DLF_SHARED_BYTES={}", fold.shared_bytes()),
                    format!("-DLF_INDEX={}", fold.index.bits()),
                    format!("-DLF_STAGES={}", fold.stages.len()),
                    format!("-DLF_STAGE_LIST={}", stages.join(",")),
                ];
                defines.extend(most_ops);
                defines
            }
        }
    }

    /// The entries of the compiled module.
    pub fn entries(&self) -> &'static [&'static str] {
        match self {
            KernelSpec::Fold(_) => &["lf_fold"],
            KernelSpec::FinishStates(_) => &["lf_finish_states"],
            KernelSpec::FinishOperated { reducer, .. } => match reducer.class() {
                ReducerClass::Plain | ReducerClass::Select => &["lf_finish"],
                ReducerClass::State => &["lf_finish_states"],
            },
            KernelSpec::Moves => &["lf_finish", "lf_fill", "lf_copy", "lf_layout"],
            KernelSpec::Maps => &["lf_map", "lf_map_wide"],
        }
    }
}

/// The custom reducers among some, each once: a kernel numbers them in this order.
fn customs<'a>(reducers: impl Iterator<Item = &'a Reducer>) -> Vec<&'a CustomReducer> {
    let mut found: Vec<&CustomReducer> = Vec::new();
    for reducer in reducers {
        if let Reducer::Custom(custom) = reducer
            && !found.contains(&&**custom)
        {
            found.push(custom);
        }
    }
    found
}

/// What every compilation needs beside the architecture: products are never fused into sums.
pub const COMPILE_OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "--device-as-default-execution-space"];

impl FoldSpec {
    /// Bytes a lane reads of a row.
    pub fn bytes(&self) -> u32 {
        match self.access {
            Access::Lanes { bytes } => bytes,
            Access::Tile => low(self.values.size_u64()),
        }
    }

    /// Elements a lane reads of a row.
    pub fn vector(&self) -> u32 {
        self.bytes() / low(self.values.size_u64()).max(1)
    }

    /// Dynamic shared memory of a block: what arrives, and the rows of the blocks that are gone over twice. `kernels/fold` lays it out.
    pub fn shared_bytes(&self) -> u32 {
        let arriving = match self.access {
            Access::Lanes { bytes } => lane_rows(bytes) * bytes * FOLD_THREADS,
            Access::Tile => {
                let size = low(self.values.size_u64());
                FOLD_THREADS / 32 * 2 * tile_rows(size) * TILE_PITCH * size
            }
        };
        let again = self.inputs().filter(|(stage, _)| stage.goes_again());
        arriving + again.map(|(_, input)| 32 * FOLD_THREADS * self.vector() * accumulator_size(input)).sum::<u32>()
    }

    /// The same fold, with rows read by fewer bytes at a time where a block would have more shared memory than there is; where nothing is left to read less of,
    /// it still has.
    pub fn within(mut self, shared: u32) -> FoldSpec {
        let size = low(self.values.size_u64());
        while self.shared_bytes() > shared {
            self.access = match self.access {
                Access::Lanes { bytes } if bytes > size => Access::Lanes { bytes: bytes / 2 },
                Access::Lanes { .. } => break,
                Access::Tile => Access::Lanes { bytes: size },
            };
        }
        self
    }

    /// The most bytes that a lane should read of a row, by what is made of it: as many as keep its accumulators in registers, and its part of the rows
    /// that are held for a second pass within eight bytes.
    pub fn most_bytes(values: DType, stages: &[StageSpec]) -> u32 {
        let mut columns = 16;
        for (stage, input) in inputs(values, stages) {
            let states = stage.reductions.iter().filter(|reduction| reduction.reducer.class() != ReducerClass::Plain);
            let numbers = states.map(|reduction| planes(&reduction.reducer).block).sum::<u32>();
            if numbers > 0 {
                columns = columns.min(MOST_NUMBERS / (numbers * accumulator_size(input) / 4));
            }
            if stage.goes_again() {
                columns = columns.min(8 / accumulator_size(input));
            }
        }
        (columns.max(1) * low(values.size_u64())).min(16)
    }

    /// The stages, each with the type that comes to it.
    fn fed(&self) -> impl Iterator<Item = (&StageSpec, DType)> {
        fed(self.values, &self.stages)
    }

    /// The stages, each with the type that it folds.
    fn inputs(&self) -> impl Iterator<Item = (&StageSpec, DType)> {
        inputs(self.values, &self.stages)
    }

    /// Every reduction's reducer, lowest stage first.
    fn reducers(&self) -> impl Iterator<Item = &Reducer> {
        self.stages.iter().flat_map(|stage| &stage.reductions).map(|reduction| &reduction.reducer)
    }

    /// How `runs` runs over `features` columns are spread: `None` where that is more than one launch takes (cut into fewer runs), or nothing.
    pub fn geometry(&self, features: u64, runs: u64) -> Option<Geometry> {
        let columns = features.div_ceil(u64::from(self.vector().max(1)));
        let slabs = columns.div_ceil(32);
        let lanes = columns.div_ceil(slabs.max(1));
        let units = runs.checked_mul(slabs)?;
        let threads = match self.access {
            Access::Lanes { .. } => units.checked_mul(lanes)?,
            Access::Tile => units.div_ceil(32 / lanes.clamp(1, 32)).checked_mul(32)?,
        };
        if threads == 0 || threads > u64::from(u32::MAX) - u64::from(FOLD_THREADS) {
            return None;
        }
        Some(Geometry { lanes: low(lanes), slabs: low(slabs), blocks: low(threads.div_ceil(u64::from(FOLD_THREADS))) })
    }

    /// Why the kernel cannot be specialised so, if it cannot.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn check(&self) -> Result<(), String> {
        let reductions: usize = self.stages.iter().map(|stage| stage.reductions.len()).sum();
        if self.stages.len() > MOST_STAGES {
            return Err(format!("folds {} levels in one step; CUDA kernels take up to {MOST_STAGES}", self.stages.len()));
        }
        if reductions > MOST_REDUCTIONS {
            return Err(format!("makes {reductions} reductions in one step; CUDA kernels take up to {MOST_REDUCTIONS}"));
        }
        if let Some(unknown) = self.reducers().find(|reducer| reducer.class() == ReducerClass::Select) {
            return Err(format!("reduces by {unknown}, for which there is no CUDA kernel"));
        }
        Ok(())
    }
}

/// The stages, each with the type that comes to it.
fn fed(values: DType, stages: &[StageSpec]) -> impl Iterator<Item = (&StageSpec, DType)> {
    let fed = stages.windows(2).map(move |pair| {
        let made = usize::try_from(pair[1].feed).ok().and_then(|feed| pair[0].reductions.get(feed));
        made.map_or(values, ReductionSpec::made)
    });
    stages.iter().zip(std::iter::once(values).chain(fed))
}

/// The stages, each with the type that it folds.
fn inputs(values: DType, stages: &[StageSpec]) -> impl Iterator<Item = (&StageSpec, DType)> {
    fed(values, stages).map(|(stage, fed)| (stage, dtype_after(&stage.ops, fed)))
}

/// Initialisers of the kernels' `OpSpec`s: what is done to elements of a type.
fn render_ops(ops: &[ElementOp], from: DType) -> String {
    let rendered = ops.iter().enumerate().map(|(index, op)| {
        let (kind, number) = element_code(*op);
        format!("{{{kind},{},{:#x}ull}}", dtype_code(dtype_after(&ops[..=index], from)), f64::to_bits(number))
    });
    rendered.collect::<Vec<String>>().join(",")
}

fn accumulator_size(input: DType) -> u32 {
    low(input.accumulator().size_u64())
}

/// Numbers of 32 bits that a lane keeps of states.
const MOST_NUMBERS: u32 = 32;

/// Rows narrower than this come in tiles: two sectors.
const NARROW_BYTES: u64 = 64;

/// Elements from one row of a tile to the next: odd, so that a column meets every bank.
const TILE_PITCH: u32 = 33;

/// Rows in flight a lane: 16 at 16 bytes, and more where they are smaller.
const fn lane_rows(bytes: u32) -> u32 {
    match bytes {
        16 => 16,
        8 | 4 => 32,
        _ => 8,
    }
}

/// Rows a tile.
const fn tile_rows(size: u32) -> u32 {
    if size == 8 { 16 } else { 32 }
}

impl StageSpec {
    /// An initialiser of the kernel's `StageSpec`.
    fn render(&self, known: &[&CustomReducer], fed: DType) -> String {
        let reductions: Vec<String> = self.reductions.iter().map(|reduction| reduction.render(known)).collect();
        let ops = some_ops(&self.ops, fed);
        format!("{{{},{},{},{{{}}}{ops}}}", self.feed, self.depth, self.reductions.len(), reductions.join(","))
    }

    /// Whether it goes over the rows of a block twice.
    fn goes_again(&self) -> bool {
        self.reductions.iter().any(|reduction| reduction.reducer.passes() > 1)
    }
}

impl ReductionSpec {
    fn render(&self, known: &[&CustomReducer]) -> String {
        let number = match &self.reducer {
            Reducer::Custom(custom) => known.iter().position(|other| *other == &**custom).map_or(0, few),
            _ => 0,
        };
        let ops = some_ops(&self.ops, self.dtype);
        format!("{{{},{},{}{ops}}}", reducer_code(&self.reducer) + number, u8::from(self.weighted), dtype_code(self.dtype))
    }

    /// The type of what it gives in the end.
    pub fn made(&self) -> DType {
        dtype_after(&self.ops, self.dtype)
    }

    /// What finishes its long segments, and the entry.
    pub fn finishing(&self) -> (KernelSpec, &'static str) {
        let is_state = self.reducer.class() == ReducerClass::State;
        let kernel = if self.ops.is_empty() {
            if is_state { KernelSpec::FinishStates(specialised(&self.reducer)) } else { KernelSpec::Moves }
        } else {
            let reducer = if is_state { specialised(&self.reducer) } else { Reducer::Sum };
            KernelSpec::FinishOperated { reducer, dtype: self.dtype, ops: self.ops.clone() }
        };
        (kernel, if is_state { "lf_finish_states" } else { "lf_finish" })
    }
}

/// The end of an initialiser: how many operations there are, and which; nothing where there are none.
fn some_ops(ops: &[ElementOp], from: DType) -> String {
    if ops.is_empty() { String::new() } else { format!(",{},{{{}}}", ops.len(), render_ops(ops, from)) }
}

impl Source {
    fn code(self) -> u32 {
        match self {
            Source::Rows => 0,
            Source::Gather => 1,
            Source::Packed => 2,
        }
    }
}

impl Index {
    /// Its width.
    pub fn bits(self) -> u32 {
        match self {
            Index::Narrow => 32,
            Index::Wide => 64,
        }
    }
}

/// Sizes, lanes and blocks are far below 2^32; what is not was refused before.
fn low(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

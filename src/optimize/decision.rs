//! What passes decided, as data. `Display` renders one line for people.

use crate::dtype::DType;
use crate::encoder::ElementOp;
use crate::graph::{LevelGraph, Origins};
use crate::ids::NodeId;
use crate::reducer::Reducer;
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// The user's operations that something stands for, as (level, operation) names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names(SmallVec<[(Arc<str>, &'static str); 4]>);

impl Names {
    pub(crate) fn of(graph: &LevelGraph, node: NodeId) -> Names {
        Names::of_origins(graph, &graph.node(node).origins)
    }

    pub(crate) fn of_origins(graph: &LevelGraph, origins: &Origins) -> Names {
        Names(origins.iter().map(|origin| graph.origin_parts(*origin)).collect())
    }

    /// The (level, operation) pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(level, op)| (&**level, *op))
    }
}

/// The operations of one level as the literal program has them.
const LITERAL: [&str; 6] = ["slice", "transpose", "contiguous", "reduce", "stack", "squeeze"];

impl fmt::Display for Names {
    /// `word.slice+transpose+reduce`: operations of one level are joined. All six of a literal level are just `word`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, level) in self.0.chunk_by(|a, b| a.0 == b.0).enumerate() {
            let space = if index > 0 { " " } else { "" };
            let ops: SmallVec<[&str; 6]> = level.iter().map(|(_, op)| *op).collect();
            if ops[..] == LITERAL {
                write!(f, "{space}{}", level[0].0)?;
            } else {
                write!(f, "{space}{}.{}", level[0].0, ops.join("+"))?;
            }
        }
        Ok(())
    }
}

/// Why a rewriting was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Something else takes the result too.
    UsedElsewhere,
    /// The result is an output, so it has to be written anyway.
    IsOutput,
    /// The level feeds another fold already, from registers.
    FeedsAnother,
    /// The lower level has several reducers: its rows are all of their results, and a fold is fed by one.
    SideBySide,
    /// The table of the upper level is not an ordered partition: its rows are not done in order.
    NotPartition,
    /// Fusing would make one piece of work too long to balance over threads.
    UnitTooLong {
        /// The leaf rows of the largest unit.
        unit: u64,
        /// The most that the target allows here.
        limit: u64,
    },
    /// The step would fold more levels than the target takes in one.
    TooManyStages {
        /// How many it would fold.
        stages: usize,
        /// The most that the target takes.
        limit: usize,
    },
    /// The step would make more reductions than the target takes in one.
    TooManyReductions {
        /// How many it would make.
        reductions: usize,
        /// The most that the target takes.
        limit: usize,
    },
    /// More levels of the step would go over their blocks twice than the target takes.
    TooManyAgain {
        /// How many would.
        again: usize,
        /// The most that the target takes.
        limit: usize,
    },
    /// One of the two needs what the other makes.
    Depends,
    /// What is read is not rows in memory.
    NotRows,
    /// Some segment of the lower level is empty: its row would be missed.
    EmptySegments,
    /// Bits would change; the level of optimization forbids it.
    WouldReassociate,
    /// The two reducers do not combine.
    ReducersDiffer,
    /// One of the two selects among all rows of a segment.
    Selects,
    /// A type in between rounds.
    RoundsBetween,
    /// What would be made first would be rounded to this type, narrower than what it is summed in.
    WouldRound(DType),
    /// The level between is of another type than its rows are added up in, so that more than brackets would change.
    OtherArithmetic {
        /// What the rows of the lower level are added up, or multiplied, in.
        made_in: DType,
        /// The type of the level between.
        level: DType,
    },
    /// Something is done to the elements in between.
    OperationsBetween,
    /// The fold does something to what it reads or makes.
    WorksOnElements,
    /// The target does not do this operation inside a fold.
    NotInFolds(ElementOp),
    /// The segments overlap, and the fold would do it to a row each time that it reads it.
    RowsRepeat {
        /// How many rows there are.
        rows: u64,
        /// How many the fold reads.
        read: u64,
    },
    /// Weights stand in between.
    Weighted,
    /// A sum would add the bias once for each row.
    AddsBias,
    /// The lower fold counts ids, and makes few rows.
    FoldsCounts,
    /// A reducer that does not follow from counts.
    NotCounted(Reducer),
    /// Counting and folding the table for each segment would not take much less work.
    TooFewRows {
        /// Operations on elements where looked-up rows are folded.
        folded: u64,
        /// The same where ids are counted.
        counted: u64,
    },
    /// The target has no such step.
    NotSupported(String),
    /// A part of a concat cannot be written in place.
    CannotBePlaced(&'static str),
    /// The rows are encoded: they are folded as they are made, window by window, and the level above reads what is written.
    FoldsTiles,
    /// A segment has more rows than a window may have.
    SegmentTooLong {
        /// Rows of the longest segment.
        rows: u64,
        /// The most that the target allows here.
        limit: u64,
    },
    /// Tiles inside one another share the windows of the outermost, which are too few for many threads.
    TooFewWindows {
        /// How many there are.
        windows: u64,
        /// How many there have to be.
        least: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::UsedElsewhere => f.write_str("its result is used elsewhere too"),
            Refusal::IsOutput => f.write_str("its result is kept, so it is written anyway"),
            Refusal::FeedsAnother => f.write_str("the level feeds another fold already"),
            Refusal::SideBySide => {
                f.write_str("the rows between them are the results of several reducers side by side, and a fold is fed by one")
            }
            Refusal::NotPartition => f.write_str("the upper segments do not partition their rows in order"),
            Refusal::UnitTooLong { unit, limit } => {
                write!(f, "one unit of work would have {unit} leaf rows, more than the {limit} that balance over threads")
            }
            Refusal::TooManyStages { stages, limit } => {
                write!(f, "one step would fold {stages} levels, more than the {limit} that the target takes")
            }
            Refusal::TooManyReductions { reductions, limit } => {
                write!(f, "one step would make {reductions} reductions, more than the {limit} that the target takes")
            }
            Refusal::TooManyAgain { again, limit } => {
                write!(f, "one step would go over the blocks of {again} levels twice, more than the {limit} whose rows the target holds")
            }
            Refusal::Depends => f.write_str("one needs what the other makes"),
            Refusal::NotRows => f.write_str("what it reads is not rows in memory"),
            Refusal::EmptySegments => f.write_str("the lower level has empty segments"),
            Refusal::WouldReassociate => f.write_str("it would change how sums are bracketed (allowed at -O2)"),
            Refusal::Selects => f.write_str("a quantile selects among all rows of a segment, and shares its step with nothing"),
            Refusal::ReducersDiffer => f.write_str("the reducers of the two levels do not combine"),
            Refusal::RoundsBetween => f.write_str("the level between is rounded to a type of its own"),
            Refusal::OtherArithmetic { made_in, level } => {
                write!(f, "the level between is {level}, and made in {made_in}: more than brackets would change")
            }
            Refusal::WouldRound(dtype) => write!(f, "the sum would be rounded to {dtype} before the product"),
            Refusal::OperationsBetween => f.write_str("something is done to the elements in between"),
            Refusal::WorksOnElements => f.write_str("it does something to the elements that it reads or makes"),
            Refusal::NotInFolds(op) => write!(f, "the target does not do `{op}` inside a fold"),
            Refusal::RowsRepeat { rows, read } => {
                write!(f, "the segments overlap, and it would be done to {read} rows instead of {rows}")
            }
            Refusal::Weighted => f.write_str("weights stand in between"),
            Refusal::AddsBias => f.write_str("the sum adds its bias once for each row"),
            Refusal::FoldsCounts => f.write_str("the lower level counts ids, and makes few rows"),
            Refusal::NotCounted(reducer) => write!(f, "{reducer} does not follow from how often each row occurs"),
            Refusal::TooFewRows { folded, counted } => {
                write!(f, "counting would take {counted} operations, more than half of the {folded} of folding")
            }
            Refusal::NotSupported(reason) => f.write_str(reason),
            Refusal::CannotBePlaced(reason) => f.write_str(reason),
            Refusal::FoldsTiles => f.write_str("the lower one folds encoded rows window by window"),
            Refusal::TooFewWindows { windows, least } => {
                write!(f, "too few windows to share among threads: {windows} of at least {least}")
            }
            Refusal::SegmentTooLong { rows, limit } => {
                write!(f, "its longest segment has {rows} rows, more than the {limit} of a window")
            }
        }
    }
}

/// What a pass did, or did not do and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// share-tables: two levels have equal segments.
    SharedTable {
        /// The table that stays.
        kept: Arc<str>,
        /// The table that is gone.
        dropped: Arc<str>,
    },
    /// eliminate-identity: operations that changed nothing are gone.
    RemovedIdentity {
        /// Which.
        ops: Names,
        /// Bytes that are no longer copied.
        copied_bytes: u64,
    },
    /// fuse-transpose-reduce: a literal chain became one fold over a view.
    FusedReduce {
        /// The chain.
        ops: Names,
        /// Bytes that are no longer copied.
        copied_bytes: u64,
    },
    /// fuse-transpose-reduce: a reduce stays as it is.
    RefusedReduce {
        /// The reduce.
        ops: Names,
        /// Why.
        reason: Refusal,
    },
    /// fuse-gather: a fold looks its rows up.
    FusedGather {
        /// The lookup.
        gather: Names,
        /// The folds that look up now.
        folds: u32,
        /// Bytes of looked-up rows that are no longer written.
        copied_bytes: u64,
    },
    /// fuse-gather: a lookup is written out.
    RefusedGather {
        /// The lookup.
        gather: Names,
        /// Why.
        reason: Refusal,
    },
    /// histogram-gather: ids are counted, and the rows of their table folded by the counts.
    Counted {
        /// The fold.
        fold: Names,
        /// Rows that are looked up no more.
        rows: u64,
        /// Rows of the table, of which each segment folds those that it has.
        table_rows: u64,
        /// The segments.
        segments: u64,
        /// Operations on elements where looked-up rows are folded.
        folded: u64,
        /// The same where ids are counted.
        counted: u64,
    },
    /// histogram-gather: a fold looks its rows up one by one.
    RefusedCount {
        /// The fold.
        fold: Names,
        /// Why.
        reason: Refusal,
    },
    /// fuse-siblings: two folds over one input and table read it once.
    FusedSiblings {
        /// The fold that takes the other in.
        first: Names,
        /// The other.
        second: Names,
        /// Bytes that are no longer read.
        read_bytes: u64,
    },
    /// fuse-siblings: two folds over one input and table stay apart.
    RefusedSiblings {
        /// One fold.
        first: Names,
        /// The other.
        second: Names,
        /// Why.
        reason: Refusal,
    },
    /// fuse-levels: a fold feeds the next from registers.
    FusedLevels {
        /// The lower fold.
        lower: Names,
        /// The upper fold.
        upper: Names,
        /// Bytes that are no longer read.
        read_bytes: u64,
        /// Bytes that are no longer written.
        written_bytes: u64,
        /// The leaf rows of the largest unit of work.
        unit: u64,
    },
    /// fuse-levels: two levels stay apart.
    RefusedLevels {
        /// The lower fold.
        lower: Names,
        /// The upper fold.
        upper: Names,
        /// Why.
        reason: Refusal,
    },
    /// collapse-levels: two levels became one by composed segments.
    Collapsed {
        /// The lower fold, gone.
        lower: Names,
        /// The upper fold.
        upper: Names,
        /// Rows of the level between that are never made.
        rows: u64,
    },
    /// collapse-levels: two levels stay two.
    RefusedCollapse {
        /// The lower fold.
        lower: Names,
        /// The upper fold.
        upper: Names,
        /// Why.
        reason: Refusal,
    },
    /// hoist-linear: a matrix product is taken of what a fold makes, and not of what it reads.
    Hoisted {
        /// The product.
        product: Names,
        /// The fold.
        fold: Names,
        /// Rows that it was taken of.
        rows: u64,
        /// Rows that it is taken of now.
        segments: u64,
    },
    /// hoist-linear: a matrix product stays below its fold.
    RefusedHoist {
        /// The product.
        product: Names,
        /// The fold.
        fold: Names,
        /// Why.
        reason: Refusal,
    },
    /// fuse-rowwise: operations on single rows join the encoder before them.
    FusedRowwise {
        /// The operations.
        ops: Names,
        /// The encoder that takes them in.
        into: Names,
        /// Bytes that are no longer written, and no longer read.
        bytes: u64,
    },
    /// fuse-rowwise: operations on single rows stay a step of their own.
    RefusedRowwise {
        /// The operations.
        ops: Names,
        /// The encoder before them.
        into: Names,
        /// Why.
        reason: Refusal,
    },
    /// fuse-rowwise: operations on single elements are done by a fold to what it reads.
    FusedPrologue {
        /// The operations.
        ops: Names,
        /// The fold that takes them in.
        fold: Names,
        /// Bytes that are no longer written, and no longer read.
        bytes: u64,
    },
    /// fuse-rowwise: operations on single elements are done by a fold to what it makes.
    FusedEpilogue {
        /// The operations.
        ops: Names,
        /// The fold that takes them in.
        fold: Names,
        /// Bytes that are no longer written, and no longer read.
        bytes: u64,
    },
    /// fuse-rowwise: operations on single elements stay a step of their own beside a fold.
    RefusedElements {
        /// The operations.
        ops: Names,
        /// The fold.
        fold: Names,
        /// Why.
        reason: Refusal,
    },
    /// place-concat: the parts of a concat are written where they belong.
    PlacedConcat {
        /// The concat.
        concat: Names,
        /// Bytes that are no longer copied.
        copied_bytes: u64,
    },
    /// place-concat: a concat is copied together.
    RefusedConcat {
        /// The concat.
        concat: Names,
        /// Why.
        reason: Refusal,
    },
    /// tile-encoders: the rows of a level are encoded, and folded, window by window.
    Tiled {
        /// The level.
        level: Arc<str>,
        /// How many folds take the rows of a window.
        folds: u32,
        /// The most rows of a window.
        rows: u64,
        /// Bytes that are no longer written.
        written_bytes: u64,
        /// Bytes that are no longer read.
        read_bytes: u64,
    },
    /// tile-encoders: the windows of the level below are encoded and folded inside those of a level.
    Nested {
        /// The level, whose rows are made a window at a time.
        level: Arc<str>,
        /// The most rows of a window of the level below.
        rows: u64,
        /// Bytes that are no longer written.
        written_bytes: u64,
        /// Bytes that are no longer read.
        read_bytes: u64,
    },
    /// tile-encoders: the rows of a level are written in whole.
    RefusedTile {
        /// The level.
        level: Arc<str>,
        /// Why.
        reason: Refusal,
    },
    /// drop-unused: a fold makes only what somebody takes.
    TrimmedFold {
        /// The fold.
        ops: Names,
        /// How many of its reductions are gone.
        reductions: u32,
    },
    /// drop-unused: what no output needs is gone.
    DroppedUnused {
        /// Which operations.
        ops: Names,
    },
}

impl Decision {
    /// Whether something was left as it was.
    pub fn is_refusal(&self) -> bool {
        match self {
            Decision::RefusedReduce { .. }
            | Decision::RefusedGather { .. }
            | Decision::RefusedSiblings { .. }
            | Decision::RefusedLevels { .. }
            | Decision::RefusedCollapse { .. }
            | Decision::RefusedHoist { .. }
            | Decision::RefusedCount { .. }
            | Decision::RefusedRowwise { .. }
            | Decision::RefusedElements { .. }
            | Decision::RefusedTile { .. }
            | Decision::RefusedConcat { .. } => true,
            Decision::SharedTable { .. }
            | Decision::RemovedIdentity { .. }
            | Decision::FusedReduce { .. }
            | Decision::FusedGather { .. }
            | Decision::FusedSiblings { .. }
            | Decision::FusedLevels { .. }
            | Decision::Collapsed { .. }
            | Decision::Hoisted { .. }
            | Decision::Counted { .. }
            | Decision::FusedRowwise { .. }
            | Decision::FusedPrologue { .. }
            | Decision::FusedEpilogue { .. }
            | Decision::PlacedConcat { .. }
            | Decision::Tiled { .. }
            | Decision::Nested { .. }
            | Decision::TrimmedFold { .. }
            | Decision::DroppedUnused { .. } => false,
        }
    }

    /// The pass that decided.
    pub fn pass(&self) -> &'static str {
        match self {
            Decision::SharedTable { .. } => "share-tables",
            Decision::RemovedIdentity { .. } => "eliminate-identity",
            Decision::FusedReduce { .. } | Decision::RefusedReduce { .. } => "fuse-transpose-reduce",
            Decision::FusedGather { .. } | Decision::RefusedGather { .. } => "fuse-gather",
            Decision::FusedSiblings { .. } | Decision::RefusedSiblings { .. } => "fuse-siblings",
            Decision::FusedLevels { .. } | Decision::RefusedLevels { .. } => "fuse-levels",
            Decision::Collapsed { .. } | Decision::RefusedCollapse { .. } => "collapse-levels",
            Decision::Hoisted { .. } | Decision::RefusedHoist { .. } => "hoist-linear",
            Decision::Counted { .. } | Decision::RefusedCount { .. } => "histogram-gather",
            Decision::FusedRowwise { .. }
            | Decision::RefusedRowwise { .. }
            | Decision::FusedPrologue { .. }
            | Decision::FusedEpilogue { .. }
            | Decision::RefusedElements { .. } => "fuse-rowwise",
            Decision::PlacedConcat { .. } | Decision::RefusedConcat { .. } => "place-concat",
            Decision::Tiled { .. } | Decision::Nested { .. } | Decision::RefusedTile { .. } => "tile-encoders",
            Decision::TrimmedFold { .. } | Decision::DroppedUnused { .. } => "drop-unused",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_refusal() { "kept" } else { "done" };
        write!(f, "{:<21} {verb}  ", self.pass())?;
        match self {
            Decision::SharedTable { kept, dropped } => write!(f, "{dropped} has the segments of {kept}"),
            Decision::RemovedIdentity { ops, copied_bytes } => write!(f, "{ops} changes nothing: {copied_bytes} B not copied"),
            Decision::FusedReduce { ops, copied_bytes } => write!(f, "{ops} is one fold over a view: {copied_bytes} B not copied"),
            Decision::RefusedReduce { ops, reason } => write!(f, "{ops} stays: {reason}"),
            Decision::FusedGather { gather, folds, copied_bytes } => {
                write!(f, "{gather} is looked up by {folds} fold(s): {copied_bytes} B not written out")
            }
            Decision::RefusedGather { gather, reason } => write!(f, "{gather} is written out: {reason}"),
            Decision::FusedSiblings { first, second, read_bytes } => {
                write!(f, "{first} and {second} share one read: {read_bytes} B not read again")
            }
            Decision::RefusedSiblings { first, second, reason } => write!(f, "{first} and {second} read apart: {reason}"),
            Decision::FusedLevels { lower, upper, read_bytes, written_bytes, unit } => write!(
                f,
                "{lower} feeds {upper} from registers: {read_bytes} B not read, {written_bytes} B not written; units of up to {unit} leaf rows"
            ),
            Decision::RefusedLevels { lower, upper, reason } => write!(f, "{lower} and {upper} stay two steps: {reason}"),
            Decision::Collapsed { lower, upper, rows } => write!(f, "{lower} and {upper} are one level: {rows} rows never made"),
            Decision::RefusedCollapse { lower, upper, reason } => write!(f, "{lower} and {upper} stay two levels: {reason}"),
            Decision::Hoisted { product, fold, rows, segments } => {
                write!(f, "{product} is taken of {fold}: of {segments} rows, not of {rows}")
            }
            Decision::RefusedHoist { product, fold, reason } => write!(f, "{product} stays below {fold}: {reason}"),
            Decision::Counted { fold, rows, table_rows, segments, folded, counted } => write!(
                f,
                "{fold} counts {rows} ids, and folds the {table_rows} rows of their table by counts for each of {segments} segment(s): {counted} operations, not {folded}"
            ),
            Decision::RefusedCount { fold, reason } => write!(f, "{fold} folds looked-up rows: {reason}"),
            Decision::FusedRowwise { ops, into, bytes } => {
                write!(f, "{ops} follows {into} row by row: {bytes} B not written, and not read again")
            }
            Decision::RefusedRowwise { ops, into, reason } => write!(f, "{ops} stays a step behind {into}: {reason}"),
            Decision::FusedPrologue { ops, fold, bytes } => {
                write!(f, "{ops} is done as {fold} reads: {bytes} B not written, and not read again")
            }
            Decision::FusedEpilogue { ops, fold, bytes } => {
                write!(f, "{ops} is done as {fold} writes: {bytes} B not written, and not read again")
            }
            Decision::RefusedElements { ops, fold, reason } => write!(f, "{ops} stays a step beside {fold}: {reason}"),
            Decision::PlacedConcat { concat, copied_bytes } => write!(f, "{concat} is written in place: {copied_bytes} B not copied"),
            Decision::RefusedConcat { concat, reason } => write!(f, "{concat} is copied together: {reason}"),
            Decision::Tiled { level, folds, rows, written_bytes, read_bytes } => {
                let folded = if *folds > 0 { " and folded" } else { "" };
                write!(
                    f,
                    "{level} is encoded{folded} in windows of up to {rows} rows: {written_bytes} B not written, {read_bytes} B not read"
                )
            }
            Decision::Nested { level, rows, written_bytes, read_bytes } => write!(
                f,
                "{level} is folded from windows of up to {rows} rows as its own windows need it: {written_bytes} B not written, {read_bytes} B not read"
            ),
            Decision::RefusedTile { level, reason } => write!(f, "{level} is written in whole: {reason}"),
            Decision::TrimmedFold { ops, reductions } => write!(f, "{ops}: nobody takes {reductions} of its results"),
            Decision::DroppedUnused { ops } => write!(f, "{ops} reaches no output"),
        }
    }
}

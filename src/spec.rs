//! What a user says: leaves, and the levels above them in order.
//!
//! A [`Hierarchy`] is the builder form. It lowers each level to the literal operations of the published program, nothing cleverer: making
//! it fast is the optimizer's work.

mod encoder;
mod json;
mod node;

pub use encoder::{Attention, Encoder, NORM_EPS, Norm, POSITION_BASE, Transformer};
pub use json::SPEC_SCHEMA;

use crate::dtype::DType;
use crate::encoder::{Number, RowOp};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{GraphBuilder, LevelGraph, Reduce, Value, ValueType};
use crate::ids::TableId;
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;
use std::sync::Arc;

/// Leaves and levels: what to fold, and how.
///
/// ```
/// use levelfold::{DType, Hierarchy, Leaves, Level, Reducer, Segments};
///
/// # fn main() -> levelfold::Result<()> {
/// let hierarchy = Hierarchy::new(Leaves::values("residue", DType::F32, 16))
///     .level(Level::new("domain", Segments::from_lengths(&[3, 1, 2])?).reduce(Reducer::Max).keep())
///     .level(Level::new("protein", Segments::from_lengths(&[2, 1])?).reduce(Reducer::Mean));
/// let graph = hierarchy.graph()?;
/// assert_eq!(graph.outputs().len(), 2); // what is kept, and the top
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Hierarchy {
    /// Level 0.
    pub leaves: Leaves,
    /// The levels above, lowest first. The top one is always an output.
    pub levels: Vec<Level>,
    /// Along which segments the rows of the topmost level are encoded; one segment of all rows where it is not said. Not part of the JSON form.
    pub top: Option<Segments>,
}

/// Level 0: the rows that everything is folded from.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaves {
    /// The name of the level.
    pub name: Arc<str>,
    /// Where its rows come from.
    pub source: LeafSource,
    /// How many rows it has; follows from the segments of the first level where it is not said.
    pub rows: Option<u64>,
    /// What runs on its rows before they are folded, along the segments of the first level.
    pub encode: Vec<Encoder>,
    /// Whether its rows, encoded, are an output too.
    pub keep: bool,
}

/// Where the rows of the leaves come from.
#[derive(Clone, Debug, PartialEq)]
pub enum LeafSource {
    /// The caller binds them, under the name of the level.
    Values {
        /// The element type.
        dtype: DType,
        /// Features of a row.
        features: u64,
    },
    /// The caller binds ids and a table that they look up.
    Lookup {
        /// One id a row.
        ids: Ids,
        /// The rows that ids look up.
        table: LookupTable,
    },
}

/// Ids that look up rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Ids {
    /// The name of the binding.
    pub name: Arc<str>,
    /// A type of ids.
    pub dtype: DType,
}

/// A table of rows that ids look up.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupTable {
    /// The name of the binding.
    pub name: Arc<str>,
    /// A float type.
    pub dtype: DType,
    /// Rows: ids are below it.
    pub rows: u64,
    /// Features of a row.
    pub features: u64,
}

/// One level above the leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// The name of the level, and of its output where it is kept.
    pub name: Arc<str>,
    /// Which rows of the level below make each of its rows.
    pub segments: SegmentSource,
    /// How. Several reducers read the level below once; their results stand side by side, in this order.
    pub reduce: Vec<Reducer>,
    /// One weight for each row of the level below.
    pub weights: Option<Weights>,
    /// The parameters by which `softmax` scores the rows of the level below, in place of weights: one query `[1, features]` a head. Each head
    /// pools whole rows by the softmax of row · query ÷ √features, and the heads stand side by side.
    pub queries: Vec<Arc<str>>,
    /// What an empty segment gives; the reducer's own answer where it is not said.
    pub on_empty: Option<OnEmpty>,
    /// The type of its rows; that of the level below where it is not said.
    pub dtype: Option<DType>,
    /// What runs on its rows before they are folded, along the segments of the level above; at the top, along all rows.
    pub encode: Vec<Encoder>,
    /// Whether its rows, encoded, are an output.
    pub keep: bool,
}

/// The segments of a level.
#[derive(Clone, Debug, PartialEq)]
pub enum SegmentSource {
    /// These.
    Inline(Segments),
    /// Those that [`Hierarchy::bind`] gives under this name.
    Binding(Arc<str>),
}

impl From<Segments> for SegmentSource {
    fn from(segments: Segments) -> Self {
        SegmentSource::Inline(segments)
    }
}

impl From<&str> for SegmentSource {
    fn from(name: &str) -> Self {
        SegmentSource::Binding(name.into())
    }
}

/// The weights of a level.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// The name of the binding.
    pub name: Arc<str>,
    /// A float type that is exact in the accumulator of what is reduced.
    pub dtype: DType,
}

impl Leaves {
    /// Rows that the caller binds under the name of the level.
    pub fn values(name: &str, dtype: DType, features: u64) -> Self {
        Leaves { name: name.into(), source: LeafSource::Values { dtype, features }, rows: None, encode: Vec::new(), keep: false }
    }

    /// Ids (bound as `<name>.ids`) that look up rows of a table (bound as `<name>.table`) of `table_rows × features`.
    pub fn lookup(name: &str, ids: DType, table: DType, table_rows: u64, features: u64) -> Self {
        let source = LeafSource::Lookup {
            ids: Ids { name: format!("{name}.ids").into(), dtype: ids },
            table: LookupTable { name: format!("{name}.table").into(), dtype: table, rows: table_rows, features },
        };
        Leaves { name: name.into(), source, rows: None, encode: Vec::new(), keep: false }
    }

    /// Says how many rows there are.
    #[must_use]
    pub fn rows(mut self, rows: u64) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Encodes its rows, after the encoders that are already said.
    #[must_use]
    pub fn encode(mut self, encoder: Encoder) -> Self {
        self.encode.push(encoder);
        self
    }

    /// Makes the rows an output.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }
}

impl Level {
    /// A level of these segments (or of those bound under a name), reduced by `sum`, as the published program does, and not kept.
    pub fn new(name: &str, segments: impl Into<SegmentSource>) -> Self {
        Level {
            name: name.into(),
            segments: segments.into(),
            reduce: vec![Reducer::Sum],
            weights: None,
            queries: Vec::new(),
            on_empty: None,
            dtype: None,
            encode: Vec::new(),
            keep: false,
        }
    }

    /// By this reducer.
    #[must_use]
    pub fn reduce(mut self, reducer: Reducer) -> Self {
        self.reduce = vec![reducer];
        self
    }

    /// By several reducers at once, their results side by side.
    #[must_use]
    pub fn reduce_all(mut self, reducers: &[Reducer]) -> Self {
        self.reduce = reducers.to_vec();
        self
    }

    /// With one weight for each row of the level below, bound under this name.
    #[must_use]
    pub fn weights(mut self, name: &str, dtype: DType) -> Self {
        self.weights = Some(Weights { name: name.into(), dtype });
        self
    }

    /// By softmax, with the scores of learned queries: attention pooling, one head for each of these parameters.
    #[must_use]
    pub fn pool_by(mut self, queries: &[&str]) -> Self {
        self.reduce = vec![Reducer::SoftMax];
        self.queries = queries.iter().map(|query| (*query).into()).collect();
        self
    }

    /// What an empty segment gives.
    #[must_use]
    pub fn on_empty(mut self, on_empty: OnEmpty) -> Self {
        self.on_empty = Some(on_empty);
        self
    }

    /// The type of its rows.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Encodes its rows, after the encoders that are already said.
    #[must_use]
    pub fn encode(mut self, encoder: Encoder) -> Self {
        self.encode.push(encoder);
        self
    }

    /// Makes its rows an output.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }
}

impl Hierarchy {
    /// Leaves without a level above them yet.
    pub fn new(leaves: Leaves) -> Self {
        Hierarchy { leaves, levels: Vec::new(), top: None }
    }

    /// One more level on top.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.levels.push(level);
        self
    }

    /// Gives the segments of every level that asks for this binding.
    ///
    /// # Errors
    /// `unknown-name` where no level does.
    pub fn bind(&mut self, name: &str, segments: &Segments) -> Result<()> {
        let mut known = Vec::new();
        let mut found = false;
        for level in &mut self.levels {
            if let SegmentSource::Binding(wanted) = &level.segments {
                if **wanted == *name {
                    level.segments = SegmentSource::Inline(segments.clone());
                    found = true;
                } else {
                    known.push(wanted.to_string());
                }
            }
        }
        if found {
            return Ok(());
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        Err(Error::new(ErrorCode::UnknownName, format!("no level takes its segments from `{name}`"))
            .help(crate::error::suggestion(name, &known)))
    }

    /// The names under which levels expect segments that are not bound yet.
    pub fn unbound(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter_map(|level| match &level.segments {
            SegmentSource::Binding(name) => Some(&**name),
            SegmentSource::Inline(_) => None,
        })
    }

    /// The literal graph.
    ///
    /// # Errors
    /// `not-bound` for segments, `rows-mismatch`, `empty-segment`, `duplicate-name`, `weights`, `dtype`, `spec-invalid`; each names its level.
    pub fn graph(&self) -> Result<LevelGraph> {
        let mut graph = GraphBuilder::new();
        if self.levels.is_empty() {
            return Err(Error::new(ErrorCode::SpecInvalid, "there is no level above the leaves")
                .at_level(&*self.leaves.name)
                .help("add at least one level"));
        }
        let rows = match (self.leaves.rows, &self.levels[0].segments) {
            (Some(rows), _) => rows,
            (None, SegmentSource::Inline(segments)) => segments.rows(),
            (None, SegmentSource::Binding(name)) => return Err(not_bound(&self.levels[0].name, name)),
        };
        let mut below = self.build_leaves(&mut graph, rows)?;
        let mut here = (&self.leaves.name, &self.leaves.encode, self.leaves.keep);
        // The rows of a level are encoded along the segments of the one above, then kept, then folded.
        let finish =
            |graph: &mut GraphBuilder, below: Value, above: Option<TableId>, (name, encoders, keep): (&Arc<str>, &Vec<Encoder>, bool)| {
                let encoded = encoder::encode_level(graph, name, below, (above, self.top.as_ref()), encoders);
                let (rows, table) = encoded.map_err(|error| error.at_level(&**name))?;
                if keep || above.is_none() {
                    graph.output(name, rows)?;
                }
                Ok::<_, Error>((rows, table))
            };
        for level in &self.levels {
            let table = level.table(&mut graph).map_err(|error| error.at_level(&*level.name))?;
            let (rows, table) = finish(&mut graph, below, Some(table), here)?;
            let table = table.ok_or_else(|| Error::new(ErrorCode::Internal, "a level below the top has segments above it"))?;
            below = level.fold(&mut graph, rows, table).map_err(|error| error.at_level(&*level.name))?;
            here = (&level.name, &level.encode, level.keep);
        }
        finish(&mut graph, below, None, here)?;
        graph.finish()
    }

    fn build_leaves(&self, graph: &mut GraphBuilder, rows: u64) -> Result<Value> {
        match &self.leaves.source {
            LeafSource::Values { dtype, features } => {
                if !dtype.is_float() {
                    return Err(Error::new(ErrorCode::DType, format!("leaves cannot be {dtype}"))
                        .at_level(&*self.leaves.name)
                        .help("values are f32, f64, f16 or bf16; ids need a table"));
                }
                graph.input(&self.leaves.name, *dtype, rows, *features)
            }
            LeafSource::Lookup { ids, table } => {
                let ids = graph.ids(&ids.name, ids.dtype, rows)?;
                let table = graph.param(&table.name, table.dtype, table.rows, table.features)?;
                graph.gather(ids, table)
            }
        }
    }
}

impl Level {
    fn table(&self, graph: &mut GraphBuilder) -> Result<TableId> {
        match &self.segments {
            SegmentSource::Inline(segments) => graph.table(&self.name, segments),
            SegmentSource::Binding(name) => Err(not_bound(&self.name, name)),
        }
    }

    fn fold(&self, graph: &mut GraphBuilder, below: Value, table: TableId) -> Result<Value> {
        if !self.queries.is_empty() {
            return self.pool(graph, below, table);
        }
        let weights = match (&self.weights, graph.value_type(below)) {
            (Some(weights), ValueType::Rows { rows, .. }) => Some(graph.weights(&weights.name, weights.dtype, rows)?),
            (Some(_) | None, _) => None,
        };
        let mut parts = Vec::with_capacity(self.reduce.len());
        let positions = self.reduce.iter().find(|reducer| reducer.gives_positions());
        let numbers = self.reduce.iter().find(|reducer| !reducer.gives_positions());
        if let (Some(positions), Some(numbers)) = (positions, numbers) {
            let message = format!("{positions} gives positions (i64) and {numbers} numbers, which do not stand side by side in one row");
            return Err(Error::new(ErrorCode::DType, message)
                .help(format!("keep them apart: a hierarchy of its own for {positions}, over the same segments")));
        }
        for reducer in &self.reduce {
            let how = self.how(reducer, weights);
            parts.push(graph.fold(below, table, how)?);
        }
        match parts[..] {
            [] => Err(Error::new(ErrorCode::SpecInvalid, "the level has no reducer").help("name one, such as sum or mean")),
            [only] => Ok(only),
            [..] => graph.concat(&parts),
        }
    }

    fn how(&self, reducer: &Reducer, weights: Option<Value>) -> Reduce {
        let mut how = Reduce::new(reducer.clone());
        if let Some(weights) = weights {
            how = how.weights(weights);
        }
        if let Some(on_empty) = self.on_empty {
            how = how.on_empty(on_empty);
        }
        if let Some(dtype) = self.dtype {
            how = how.dtype(dtype);
        }
        how
    }

    /// Softmax pooling by learned queries: a matrix product gives the scores.
    fn pool(&self, graph: &mut GraphBuilder, below: Value, table: TableId) -> Result<Value> {
        let wrong = |message: &str, help: &str| Err(Error::new(ErrorCode::SpecInvalid, message).help(help));
        if self.reduce != [Reducer::SoftMax] {
            return wrong("only softmax has queries", "reduce by softmax alone, or leave the queries out");
        }
        if self.weights.is_some() {
            return wrong("its scores are given twice, by weights and by queries", "leave one of them out");
        }
        let ValueType::Rows { features, dtype, .. } = graph.value_type(below) else {
            return Err(Error::new(ErrorCode::Internal, "a level is rows"));
        };
        let scale = Number(1.0 / crate::numerics::count_to_f64(features.max(1)).sqrt());
        let mut heads = Vec::with_capacity(self.queries.len());
        for query in &self.queries {
            let query = graph.shared_param(query, dtype, 1, features)?;
            let scores = graph.linear(below, query, None)?;
            let scores = graph.map(scores, &RowOp::Scale(scale))?;
            heads.push(graph.fold(below, table, self.how(&Reducer::SoftMax, Some(scores)))?);
        }
        match heads[..] {
            [only] => Ok(only),
            [..] => graph.concat(&heads),
        }
    }
}

fn not_bound(level: &str, name: &str) -> Error {
    Error::new(ErrorCode::NotBound, format!("its segments are to be bound as `{name}`, and nothing is"))
        .at_level(level)
        .help("bind segments under that name before planning")
}

//! The JSON form of a hierarchy.
//!
//! ```json
//! {
//!   "leaves": { "name": "char", "dtype": "f32", "features": 64 },
//!   "levels": [
//!     { "name": "word", "segments": { "lengths": [3, 1, 4] }, "reduce": ["mean", "max"], "keep": true },
//!     { "name": "sentence", "segments": "sentence", "reduce": "sum", "on_empty": "zero" }
//!   ]
//! }
//! ```
//!
//! | field | what |
//! |---|---|
//! | `leaves.name` | the level's name, under which its values are bound |
//! | `leaves.dtype`, `leaves.features` | of its values |
//! | `leaves.ids`, `leaves.table` | instead of these two: `{"name"?, "dtype"}` and `{"name"?, "dtype", "rows", "features"}`; bound as `<leaves>.ids` and `<leaves>.table` unless named |
//! | `leaves.rows`, `leaves.keep` | the row count, where it does not follow from the segments; whether the leaves are an output too |
//! | `segments` | a name to bind segments under, or one of `{"lengths"}`, `{"offsets", "rows"?, "partial"?}`, `{"ranges", "rows"?}`, `{"ids", "count"}`, `{"boundaries", "rows"?}`; `rows` may be left out where the level below says it |
//! | `reduce` | a reducer ([`Reducer`]: `"mean"`, `"var(ddof=1)"`, or [one of your own](crate::reducer::CustomReducer): `{"custom": {"name": …, "state": [{"name": …, "lift": …, "combine": …, "identity": …}], "finish": …}}`, or written in Rust: `{"custom": {"name": …, "version": 1, "arguments": [3]}}`), or a list of them whose results stand side by side |
//! | `weights` | a name to bind one weight per row of the level below under, or `{"name", "dtype"}` |
//! | `query` | a name, or a list of names (heads), of parameters `[1, features]` that `softmax` takes its scores from, in place of `weights` |
//! | `on_empty` | `"zero"`, `"nan"`, `"error"` or `{"fill": x}` |
//! | `dtype` | of the level's rows; that of the level below without it |
//! | `encode` | what runs on the level's rows before they are folded (of leaves too): an encoder or a list of them, see `docs/encoders.md` |
//! | `keep` | whether the level is an output; the top one always is |
//!
//! Anything else is refused. Every error of a spec is reported, each with its level and its JSON path. A `$schema` field is allowed on top.

mod custom;
mod encoders;
mod write;

use super::node::Node;
use super::{Hierarchy, Ids, LeafSource, Leaves, Level, LookupTable, SegmentSource, Weights};
use crate::dtype::DType;
use crate::error::{Error, ErrorCode, Result, suggestion};
use crate::reducer::{OnEmpty, Reducer};
use crate::segments::Segments;
use std::str::FromStr;
use std::sync::Arc;

/// The JSON Schema of a spec.
pub const SPEC_SCHEMA: &str = include_str!("schema.json");

impl Hierarchy {
    /// Reads the JSON form.
    ///
    /// # Errors
    /// `spec-invalid`, `unknown-name`, `unknown-word`, `duplicate-name`, and what the constructors of [`Segments`] say. Several errors come
    /// as one `spec-invalid` with its [causes](Error::causes).
    pub fn from_json(text: &str) -> Result<Hierarchy> {
        let root = Node::parse(text)?;
        let mut reader = Reader { errors: Vec::new() };
        let hierarchy = reader.hierarchy(&root);
        match (hierarchy, reader.errors.len()) {
            (Some(hierarchy), 0) => Ok(hierarchy),
            (_, 1) => Err(reader.errors.remove(0)),
            (_, count) => Err(Error::collected(ErrorCode::SpecInvalid, format!("the spec has {count} errors"), reader.errors)),
        }
    }
}

/// Walks the tree and collects what is wrong with it; each method gives `None` where it reported an error.
struct Reader {
    errors: Vec<Error>,
}

/// Where in the document something stands, and in which level.
#[derive(Clone)]
struct Place {
    path: String,
    level: Option<String>,
}

impl Place {
    fn root() -> Self {
        Place { path: String::new(), level: None }
    }

    fn field(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Place { path, level: self.level.clone() }
    }

    fn item(&self, index: usize) -> Self {
        Place { path: format!("{}[{index}]", self.path), level: self.level.clone() }
    }
}

/// The fields of an object that has no others than the known ones.
struct Fields<'a> {
    entries: &'a [(String, Node)],
    place: Place,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn at(&self, name: &str) -> Place {
        self.place.field(name)
    }
}

const SEGMENT_FORMS: [&str; 5] = ["lengths", "offsets", "ranges", "ids", "boundaries"];

impl Reader {
    fn hierarchy(&mut self, root: &Node) -> Option<Hierarchy> {
        let fields = self.object(root, Place::root(), &["leaves", "levels", "$schema"])?;
        let leaves = self.required(&fields, "leaves").and_then(|node| self.leaves(node, fields.at("leaves")));
        let levels = self.required(&fields, "levels").and_then(|node| self.list(node, &fields.at("levels")))?;
        if levels.is_empty() {
            self.report(ErrorCode::SpecInvalid, "there is no level above the leaves", &fields.at("levels"), Some("add at least one level"));
        }
        let mut names = vec![leaves.as_ref().map(|leaves| leaves.name.to_string())];
        let mut below = Below {
            rows: leaves.as_ref().and_then(|leaves| leaves.rows),
            dtype: leaves.as_ref().map(|leaves| match &leaves.source {
                LeafSource::Values { dtype, .. } => *dtype,
                LeafSource::Lookup { table, .. } => table.dtype,
            }),
        };
        let mut done = Vec::with_capacity(levels.len());
        for (index, node) in levels.iter().enumerate() {
            let place = fields.at("levels").item(index);
            let level = self.level(node, place.clone(), &mut below);
            // Also of a level with errors of its own.
            let name = name_of(node);
            if let Some(name) = &name
                && let Some(first) = names.iter().position(|known| known.as_ref() == Some(name))
            {
                let first = if first == 0 { "the leaves".to_owned() } else { format!("levels[{}]", first - 1) };
                let place = Place { level: Some(name.clone()), ..place.field("name") };
                let help = Some("give each level a name of its own");
                self.report(ErrorCode::DuplicateName, &format!("the name `{name}` is taken by {first}"), &place, help);
            }
            names.push(name);
            done.extend(level);
        }
        Some(Hierarchy { leaves: leaves?, levels: done, top: None })
    }

    fn leaves(&mut self, node: &Node, mut place: Place) -> Option<Leaves> {
        place.level = name_of(node);
        let fields = self.object(node, place, &["name", "dtype", "features", "ids", "table", "rows", "encode", "keep"])?;
        let name = self.name(&fields);
        let rows = self.optional_count(&fields, "rows");
        let keep = self.flag(&fields, "keep");
        let source = match (fields.has("ids") || fields.has("table"), fields.has("dtype") || fields.has("features")) {
            (true, true) => {
                let place = fields.place.clone();
                self.report(
                    ErrorCode::SpecInvalid,
                    "leaves are either values (`dtype`, `features`) or looked up (`ids`, `table`), not both",
                    &place,
                    None,
                );
                return None;
            }
            (true, false) => {
                let ids = self.required(&fields, "ids").and_then(|node| self.ids(node, fields.at("ids"), name.as_deref()));
                let table = self.required(&fields, "table").and_then(|node| self.table(node, fields.at("table"), name.as_deref()));
                LeafSource::Lookup { ids: ids?, table: table? }
            }
            (false, _) => {
                let dtype = self.required(&fields, "dtype").and_then(|node| self.float(node, &fields.at("dtype")));
                let features = self.required(&fields, "features").and_then(|node| self.count(node, &fields.at("features")));
                LeafSource::Values { dtype: dtype?, features: features? }
            }
        };
        let encode = self.encoders(&fields);
        Some(Leaves { name: name?.into(), source, rows: rows?, encode: encode?, keep: keep? })
    }

    fn ids(&mut self, node: &Node, place: Place, leaves: Option<&str>) -> Option<Ids> {
        let fields = self.object(node, place, &["name", "dtype"])?;
        let name = self.name_or(&fields, leaves, "ids");
        let dtype = self.required(&fields, "dtype").and_then(|node| self.word::<DType>(node, &fields.at("dtype")))?;
        if !dtype.is_id() {
            let help = "ids are u8, u16, u32, i32 or i64";
            self.report(ErrorCode::DType, &format!("ids cannot be {dtype}"), &fields.at("dtype"), Some(help));
            return None;
        }
        Some(Ids { name: name?, dtype })
    }

    fn table(&mut self, node: &Node, place: Place, leaves: Option<&str>) -> Option<LookupTable> {
        let fields = self.object(node, place, &["name", "dtype", "rows", "features"])?;
        let name = self.name_or(&fields, leaves, "table");
        let dtype = self.required(&fields, "dtype").and_then(|node| self.float(node, &fields.at("dtype")));
        let rows = self.required(&fields, "rows").and_then(|node| self.count(node, &fields.at("rows")));
        let features = self.required(&fields, "features").and_then(|node| self.count(node, &fields.at("features")));
        Some(LookupTable { name: name?, dtype: dtype?, rows: rows?, features: features? })
    }

    fn level(&mut self, node: &Node, mut place: Place, below: &mut Below) -> Option<Level> {
        place.level = name_of(node);
        let rows_below = below.rows.take();
        let fields =
            self.object(node, place, &["name", "segments", "reduce", "weights", "query", "on_empty", "dtype", "encode", "keep"])?;
        let name = self.name(&fields);
        let segments = self.required(&fields, "segments").and_then(|node| self.segments(node, fields.at("segments"), rows_below));
        if let Some(SegmentSource::Inline(segments)) = &segments {
            below.rows = Some(segments.len());
        }
        let reduce = self.required(&fields, "reduce").and_then(|node| self.reducers(node, &fields.at("reduce")));
        let dtype_below = below.dtype;
        let weights = self.optional(&fields, "weights", |reader, node, place| reader.weights(node, place, dtype_below));
        let queries = self.optional(&fields, "query", Self::queries);
        let on_empty = self.optional(&fields, "on_empty", Self::on_empty);
        let dtype = self.optional(&fields, "dtype", |reader, node, place| reader.float(node, &place));
        if let Some(Some(dtype)) = dtype {
            below.dtype = Some(dtype);
        }
        let encode = self.encoders(&fields);
        let keep = self.flag(&fields, "keep");
        Some(Level {
            name: name?.into(),
            segments: segments?,
            reduce: reduce?,
            weights: weights?,
            queries: queries?.unwrap_or_default(),
            on_empty: on_empty?,
            dtype: dtype?,
            encode: encode?,
            keep: keep?,
        })
    }

    fn segments(&mut self, node: &Node, place: Place, below: Option<u64>) -> Option<SegmentSource> {
        if let Node::Text(_) = node {
            return self.text(node, &place).map(|name| SegmentSource::Binding(name.into()));
        }
        let mut known = SEGMENT_FORMS.to_vec();
        known.extend(["rows", "count", "partial"]);
        let fields = self.object(node, place.clone(), &known)?;
        let forms: Vec<&str> = SEGMENT_FORMS.into_iter().filter(|form| fields.has(form)).collect();
        let [form] = forms[..] else {
            let found = if forms.is_empty() { "none".to_owned() } else { forms.join(" and ") };
            let message = format!("segments take exactly one of {}; found {found}", SEGMENT_FORMS.join(", "));
            self.report(ErrorCode::SpecInvalid, &message, &place, None);
            return None;
        };
        // Which of the other fields go with which form.
        for (field, with) in [("rows", &["offsets", "ranges", "boundaries"][..]), ("count", &["ids"]), ("partial", &["offsets"])] {
            if fields.has(field) && !with.contains(&form) {
                let help = format!("it goes with {}", with.join(", "));
                self.report(ErrorCode::SpecInvalid, &format!("`{field}` means nothing beside `{form}`"), &fields.at(field), Some(&help));
                return None;
            }
        }
        let at = fields.at(form);
        let said = self.optional_count(&fields, "rows")?;
        let partial = self.flag(&fields, "partial")?;
        let list = fields.get(form)?;
        let made = match form {
            "lengths" => Segments::from_lengths(self.integers(list, &at)?),
            "offsets" => {
                let offsets = self.integers(list, &at)?;
                let rows = said.or(below).unwrap_or_else(|| offsets.last().and_then(|&last| u64::try_from(last).ok()).unwrap_or(0));
                if partial { Segments::from_offsets_partial(offsets, rows) } else { Segments::from_offsets(offsets, rows) }
            }
            "ids" => {
                let count = self.required(&fields, "count").and_then(|node| self.count(node, &fields.at("count")))?;
                Segments::from_segment_ids(self.integers(list, &at)?, count)
            }
            _ => {
                let Some(rows) = said.or(below) else {
                    // After an error below, the row count is missing because of that error.
                    if self.errors.is_empty() {
                        let help = Some("add `rows`, or give the level below its row count");
                        self.report(ErrorCode::SpecInvalid, &format!("{form} do not say how many rows there are"), &place, help);
                    }
                    return None;
                };
                if form == "ranges" {
                    Segments::from_ranges(&self.ranges(list, &at)?, rows)
                } else {
                    Segments::from_boundaries(self.integers(list, &at)?, rows)
                }
            }
        };
        let made = made.and_then(|segments| match said.or(below) {
            Some(rows) if rows != segments.rows() => Err(Error::new(
                ErrorCode::RowsMismatch,
                format!("its segments are for {} rows, but the level below has {rows}", segments.rows()),
            )),
            Some(_) | None => Ok(segments),
        });
        match made {
            Ok(segments) => Some(SegmentSource::Inline(segments)),
            Err(error) => {
                self.keep(error, &at);
                None
            }
        }
    }

    fn ranges(&mut self, node: &Node, place: &Place) -> Option<Vec<(i64, i64)>> {
        let items = match node {
            Node::List(items) => items.as_slice(),
            Node::Integers(integers) if integers.is_empty() => &[],
            other => return self.wrong_type(other, "a list of [start, end] pairs", place),
        };
        let mut ranges = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item {
                Node::Integers(pair) if pair.len() == 2 => ranges.push((pair[0], pair[1])),
                other => return self.wrong_type(other, "a [start, end] pair", &place.item(index)),
            }
        }
        Some(ranges)
    }

    fn reducers(&mut self, node: &Node, place: &Place) -> Option<Vec<Reducer>> {
        let Node::List(items) = node else {
            if let Node::Integers(integers) = node
                && integers.is_empty()
            {
                self.report(ErrorCode::SpecInvalid, "the level has no reducer", place, Some("name one, such as sum or mean"));
                return None;
            }
            return self.reducer(node, place).map(|reducer| vec![reducer]);
        };
        // All of them are read, so that each mistake is reported.
        let reducers: Vec<Option<Reducer>> = items.iter().enumerate().map(|(index, item)| self.reducer(item, &place.item(index))).collect();
        reducers.into_iter().collect()
    }

    fn weights(&mut self, node: &Node, place: Place, below: Option<DType>) -> Option<Weights> {
        if let Node::Text(_) = node {
            // Without a type of the level below there was an error already.
            return Some(Weights { name: self.text(node, &place)?.into(), dtype: below? });
        }
        let fields = self.object(node, place, &["name", "dtype"])?;
        let name = self.name(&fields);
        let dtype = self.required(&fields, "dtype").and_then(|node| self.float(node, &fields.at("dtype")));
        Some(Weights { name: name?.into(), dtype: dtype? })
    }

    fn queries(&mut self, node: &Node, place: Place) -> Option<Vec<Arc<str>>> {
        match node {
            Node::List(items) if !items.is_empty() => {
                let names: Vec<_> = items.iter().enumerate().map(|(index, item)| self.text(item, &place.item(index))).collect();
                names.into_iter().map(|name| name.map(Arc::from)).collect()
            }
            Node::Text(_) => self.text(node, &place).map(|name| vec![name.into()]),
            other => self.wrong_type(other, "a name, or a list of names", &place),
        }
    }

    fn on_empty(&mut self, node: &Node, place: Place) -> Option<OnEmpty> {
        const EXPECTED: &str = "\"zero\", \"nan\", \"error\" or {\"fill\": number}";
        match node {
            Node::Text(word) => match word.as_str() {
                "zero" => Some(OnEmpty::Zero),
                "nan" => Some(OnEmpty::NaN),
                "error" => Some(OnEmpty::Error),
                other => {
                    let help = suggestion(other, &["zero", "nan", "error", "fill"]);
                    self.report(ErrorCode::UnknownWord, &format!("unknown answer to empty segments `{other}`"), &place, Some(&help));
                    None
                }
            },
            Node::Object(_) => {
                let fields = self.object(node, place, &["fill"])?;
                let at = fields.at("fill");
                match self.required(&fields, "fill")? {
                    // A whole number in JSON is the same number as a float, up to 2^53, and the nearest one above.
                    Node::Integer(value) => Some(OnEmpty::Fill(*value as f64)),
                    Node::Number(value) => Some(OnEmpty::Fill(*value)),
                    Node::Text(word) if word == "nan" => Some(OnEmpty::Fill(f64::NAN)),
                    Node::Text(word) if word == "inf" => Some(OnEmpty::Fill(f64::INFINITY)),
                    Node::Text(word) if word == "-inf" => Some(OnEmpty::Fill(f64::NEG_INFINITY)),
                    other => self.wrong_type(other, "a number, \"nan\", \"inf\" or \"-inf\"", &at),
                }
            }
            other => self.wrong_type(other, EXPECTED, &place),
        }
    }

    fn object<'a>(&mut self, node: &'a Node, place: Place, known: &[&str]) -> Option<Fields<'a>> {
        let Node::Object(entries) = node else {
            return self.wrong_type(node, "an object", &place);
        };
        for (key, _) in entries {
            if !known.contains(&key.as_str()) {
                let help = suggestion(key, known);
                self.report(ErrorCode::UnknownName, &format!("unknown field `{key}`"), &place, Some(&help));
            }
        }
        Some(Fields { entries, place })
    }

    fn list<'a>(&mut self, node: &'a Node, place: &Place) -> Option<&'a [Node]> {
        match node {
            Node::List(items) => Some(items),
            Node::Integers(items) if items.is_empty() => Some(&[]),
            other => self.wrong_type(other, "a list of objects", place),
        }
    }

    fn integers<'a>(&mut self, node: &'a Node, place: &Place) -> Option<&'a [i64]> {
        match node {
            Node::Integers(integers) => Some(integers),
            Node::List(items) => {
                let (index, culprit) = items.iter().enumerate().find(|(_, item)| !matches!(item, Node::Integer(_)))?;
                self.wrong_type(culprit, "a whole number", &place.item(index))
            }
            other => self.wrong_type(other, "a list of whole numbers", place),
        }
    }

    /// A name: of a level, a binding, a parameter.
    fn text(&mut self, node: &Node, place: &Place) -> Option<String> {
        let text = self.string(node, place)?;
        if text.is_empty() {
            self.report(ErrorCode::SpecInvalid, "the name is empty", place, Some("give it a name"));
            return None;
        }
        if let Some(sign) = text.chars().find(|sign| sign.is_control()) {
            let help = Some("names stand in plans, on one line: use other signs");
            self.report(ErrorCode::SpecInvalid, &format!("the name {text:?} has the control character {sign:?}"), place, help);
            return None;
        }
        Some(text)
    }

    fn string(&mut self, node: &Node, place: &Place) -> Option<String> {
        match node {
            Node::Text(text) => Some(text.clone()),
            other => self.wrong_type(other, "a string", place),
        }
    }

    fn name(&mut self, fields: &Fields<'_>) -> Option<String> {
        self.required(fields, "name").and_then(|node| self.text(node, &fields.at("name")))
    }

    /// A name that may be left out where the leaves have one.
    fn name_or(&mut self, fields: &Fields<'_>, leaves: Option<&str>, suffix: &str) -> Option<Arc<str>> {
        match fields.get("name") {
            Some(node) => self.text(node, &fields.at("name")).map(Arc::from),
            None => leaves.map(|leaves| format!("{leaves}.{suffix}").into()),
        }
    }

    fn word<T: FromStr<Err = Error>>(&mut self, node: &Node, place: &Place) -> Option<T> {
        let Node::Text(word) = node else {
            return self.wrong_type(node, "a string", place);
        };
        match word.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.keep(error, place);
                None
            }
        }
    }

    fn float(&mut self, node: &Node, place: &Place) -> Option<DType> {
        let dtype: DType = self.word(node, place)?;
        if !dtype.is_float() {
            self.report(ErrorCode::DType, &format!("values cannot be {dtype}"), place, Some("values are f32, f64, f16 or bf16"));
            return None;
        }
        Some(dtype)
    }

    fn count(&mut self, node: &Node, place: &Place) -> Option<u64> {
        match node {
            Node::Integer(value) => match u64::try_from(*value) {
                Ok(value) => Some(value),
                Err(_) => {
                    self.report(ErrorCode::Negative, &format!("{value} is negative"), place, Some("counts are 0 or more"));
                    None
                }
            },
            other => self.wrong_type(other, "a whole number", place),
        }
    }

    fn required<'a>(&mut self, fields: &Fields<'a>, name: &str) -> Option<&'a Node> {
        let found = fields.get(name);
        if found.is_none() {
            self.report(ErrorCode::SpecInvalid, &format!("the field `{name}` is missing"), &fields.place, None);
        }
        found
    }

    /// `Some(None)` where the field is not there, `None` where it is wrong.
    fn optional<'a, T>(
        &mut self,
        fields: &Fields<'a>,
        name: &str,
        read: impl FnOnce(&mut Self, &'a Node, Place) -> Option<T>,
    ) -> Option<Option<T>> {
        match fields.get(name) {
            None | Some(Node::Null) => Some(None),
            Some(node) => read(self, node, fields.at(name)).map(Some),
        }
    }

    fn optional_count(&mut self, fields: &Fields<'_>, name: &str) -> Option<Option<u64>> {
        self.optional(fields, name, |reader, node, place| reader.count(node, &place))
    }

    fn flag(&mut self, fields: &Fields<'_>, name: &str) -> Option<bool> {
        match fields.get(name) {
            None => Some(false),
            Some(Node::Bool(value)) => Some(*value),
            Some(other) => self.wrong_type(other, "true or false", &fields.at(name)),
        }
    }

    fn wrong_type<T>(&mut self, found: &Node, wanted: &str, place: &Place) -> Option<T> {
        self.report(ErrorCode::SpecInvalid, &format!("expected {wanted}, found {}", found.kind()), place, None);
        None
    }

    fn report(&mut self, code: ErrorCode, message: &str, place: &Place, help: Option<&str>) {
        let error = Error::new(code, message);
        self.keep(help.into_iter().fold(error, |error, help| error.help(help)), place);
    }

    /// Adds an error, with its path and level.
    fn keep(&mut self, error: Error, place: &Place) {
        let message = if place.path.is_empty() { error.message().to_owned() } else { format!("{}: {}", place.path, error.message()) };
        let mut placed = Error::new(error.code(), message);
        if let Some(help) = error.help_text() {
            placed = placed.help(help);
        }
        if let Some(index) = error.index() {
            placed = placed.at_index(index);
        }
        if let Some(level) = &place.level {
            placed = placed.at_level(level.as_str());
        }
        self.errors.push(placed);
    }
}

/// What a level sees of the one below, as far as the spec says it.
struct Below {
    rows: Option<u64>,
    dtype: Option<DType>,
}

fn name_of(node: &Node) -> Option<String> {
    let Node::Object(entries) = node else {
        return None;
    };
    entries.iter().find_map(|(key, value)| match value {
        Node::Text(name) if key == "name" && !name.is_empty() && !name.contains(char::is_control) => Some(name.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod mistakes_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;

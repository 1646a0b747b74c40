//! Writing the JSON form.

use super::super::{Hierarchy, LeafSource, Leaves, Level, LookupTable, SegmentSource};
use super::encoders;
use serde_json::json;

impl Hierarchy {
    /// The JSON form, over several lines.
    pub fn to_json(&self) -> String {
        let levels: Vec<_> = self.levels.iter().map(level_to_json).collect();
        let value = json!({ "leaves": leaves_to_json(&self.leaves), "levels": levels });
        let mut text = format!("{value:#}");
        text.push('\n');
        text
    }
}

type Map = serde_json::Map<String, serde_json::Value>;

fn leaves_to_json(leaves: &Leaves) -> Map {
    let mut map = Map::new();
    map.insert("name".into(), json!(leaves.name));
    match &leaves.source {
        LeafSource::Values { dtype, features } => {
            map.insert("dtype".into(), json!(dtype));
            map.insert("features".into(), json!(features));
        }
        LeafSource::Lookup { ids, table } => {
            map.insert("ids".into(), json!({ "name": ids.name, "dtype": ids.dtype }));
            let LookupTable { name, dtype, rows, features } = table;
            map.insert("table".into(), json!({ "name": name, "dtype": dtype, "rows": rows, "features": features }));
        }
    }
    if let Some(rows) = leaves.rows {
        map.insert("rows".into(), json!(rows));
    }
    if !leaves.encode.is_empty() {
        map.insert("encode".into(), encoders::to_json(&leaves.encode));
    }
    if leaves.keep {
        map.insert("keep".into(), json!(true));
    }
    map
}

fn level_to_json(level: &Level) -> Map {
    let mut map = Map::new();
    map.insert("name".into(), json!(level.name));
    let segments = match &level.segments {
        SegmentSource::Binding(name) => json!(name),
        SegmentSource::Inline(segments) => match segments.offsets() {
            Some(offsets) => json!({ "offsets": offsets }),
            None => {
                let ranges: Vec<[u64; 2]> = segments.ranges().map(|range| [range.start, range.end]).collect();
                json!({ "ranges": ranges, "rows": segments.rows() })
            }
        },
    };
    map.insert("segments".into(), segments);
    map.insert("reduce".into(), if let [only] = &level.reduce[..] { json!(only) } else { json!(level.reduce) });
    if let Some(weights) = &level.weights {
        map.insert("weights".into(), json!({ "name": weights.name, "dtype": weights.dtype }));
    }
    if let [only] = &level.queries[..] {
        map.insert("query".into(), json!(only));
    } else if !level.queries.is_empty() {
        map.insert("query".into(), json!(level.queries));
    }
    if let Some(on_empty) = level.on_empty {
        map.insert("on_empty".into(), json!(on_empty));
    }
    if let Some(dtype) = level.dtype {
        map.insert("dtype".into(), json!(dtype));
    }
    if !level.encode.is_empty() {
        map.insert("encode".into(), encoders::to_json(&level.encode));
    }
    if level.keep {
        map.insert("keep".into(), json!(true));
    }
    map
}

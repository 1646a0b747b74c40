//! A spec file and what is bound to it.

use crate::failure::file_error;
use crate::input::{Bind, FileArray};
use levelfold::error::suggestion;
use levelfold::graph::{Op, Role, ValueType};
use levelfold::spec::{LeafSource, SegmentSource};
use levelfold::{Error, ErrorCode, Hierarchy, Plan, Segments};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// A hierarchy with every binding of the command line in it.
pub(crate) struct Loaded {
    /// What to fold; levels whose segments nobody bound still ask for them.
    pub(crate) hierarchy: Hierarchy,
    /// Values, ids, tables and weights, by name.
    pub(crate) inputs: Vec<(String, FileArray)>,
}

/// What a JSON file holds.
pub(crate) enum Document {
    /// What to fold.
    Spec(Hierarchy),
    /// What will run.
    Plan(Plan),
}

/// The most bytes of a spec or a plan. A plan of a thousand steps has one; what makes specs long are segments, which may be files of their own.
const MOST_BYTES: u64 = 256 << 20;

/// Reads a file, or stdin for `-`, up to [`MOST_BYTES`].
///
/// # Errors
/// `file`.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    if path.as_os_str() == "-" {
        return read_at_most(std::io::stdin().lock(), MOST_BYTES, &|what| {
            Error::new(ErrorCode::File, format!("cannot read stdin: {what}"))
        });
    }
    let refused = |what: &str| file_error("read", path, what);
    let file = File::open(path).map_err(|cause| file_error("read", path, cause))?;
    // Before anything of it is read, where the system says how long it is.
    if file.metadata().is_ok_and(|metadata| metadata.len() > MOST_BYTES) {
        return Err(too_long(MOST_BYTES, &refused));
    }
    read_at_most(file, MOST_BYTES, &refused)
}

/// Reads what may have any length, and stops where it is too long.
fn read_at_most(from: impl Read, most: u64, refused: &dyn Fn(&str) -> Error) -> Result<String, Error> {
    let mut bytes = Vec::new();
    // One byte more than what is taken, so that it shows.
    from.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|cause| refused(&cause.to_string()))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > most {
        return Err(too_long(most, refused));
    }
    String::from_utf8(bytes).map_err(|cause| refused(&format!("it is not UTF-8: {}", cause.utf8_error())))
}

fn too_long(most: u64, refused: &dyn Fn(&str) -> Error) -> Error {
    refused(&format!("it is longer than {most} bytes, the most that a spec or a plan may have"))
        .help("keep long segments in files of their own: say \"segments\": NAME in the spec, and --bind NAME=FILE")
}

/// Reads a spec.
///
/// # Errors
/// `file`, and as [`Hierarchy::from_json`].
pub(crate) fn read_spec(path: &Path) -> Result<Hierarchy, Error> {
    Hierarchy::from_json(&read_text(path)?).map_err(|error| in_document(error, path))
}

/// Reads a plan.
///
/// # Errors
/// `file`, and as [`Plan::from_json`].
pub(crate) fn read_plan(path: &Path) -> Result<Plan, Error> {
    Plan::from_json(&read_text(path)?).map_err(|error| in_document(error, path))
}

/// Reads a spec or a plan. A plan is what has a field `version` or `steps`; a spec has neither, and has `leaves` or `levels`.
///
/// # Errors
/// `file`, and as [`Hierarchy::from_json`] or [`Plan::from_json`].
pub(crate) fn read_document(path: &Path) -> Result<Document, Error> {
    let text = read_text(path)?;
    // By the words, so that a file that was cut short is still told apart, and gets the errors of what it was.
    let has = |field: &str| {
        let key = format!("\"{field}\"");
        text.split(&key).skip(1).any(|rest| rest.trim_start().starts_with(':'))
    };
    let is_plan = (has("version") || has("steps")) && !has("leaves") && !has("levels");
    let document = if is_plan { Plan::from_json(&text).map(Document::Plan) } else { Hierarchy::from_json(&text).map(Document::Spec) };
    document.map_err(|error| in_document(error, path))
}

fn in_document(error: Error, path: &Path) -> Error {
    Error::collected(error.code(), format!("{} is refused", path.display()), vec![error])
}

impl Loaded {
    /// Opens every bound file, takes row counts from the leaves' file, and puts bound segments into the hierarchy, lowest level first.
    ///
    /// # Errors
    /// `unknown-name`, `bound-twice`, `option`; what is wrong with a file, or with the segments in it.
    pub(crate) fn new(mut hierarchy: Hierarchy, binds: &[Bind]) -> Result<Loaded, Error> {
        let params = check_names(&hierarchy, binds)?;
        let mut inputs = Vec::new();
        let mut segments = Vec::new();
        for bind in binds {
            let file = match params.iter().find(|(name, _)| **name == *bind.name) {
                Some((_, shape)) => bind.open_param(*shape)?,
                None => bind.open()?,
            };
            if hierarchy.unbound().any(|name| name == bind.name) {
                segments.push((bind, file));
            } else if let Some(form) = bind.form {
                return Err(Error::new(
                    ErrorCode::Option,
                    format!("`{}` is no level's segments, so it has no form `{}`", bind.name, form.name()),
                )
                .at_level(&*bind.name)
                .help("write NAME=FILE"));
            } else {
                inputs.push((bind.name.clone(), file));
            }
        }
        let leaf_binding = leaf_rows_binding(&hierarchy).to_owned();
        if let Some((_, file)) = inputs.iter().find(|(name, _)| *name == leaf_binding) {
            let rows = file.rows();
            if let Some(said) = hierarchy.leaves.rows.filter(|&said| said != rows) {
                let path = file.path().display();
                return Err(Error::new(ErrorCode::Shape, format!("{path} has {rows} rows, but the spec says {said}"))
                    .at_level(leaf_binding)
                    .help("bind the file that the spec was made for, or leave `rows` out"));
            }
            hierarchy.leaves.rows = Some(rows);
        }
        let mut rows = hierarchy.leaves.rows;
        for index in 0..hierarchy.levels.len() {
            if let SegmentSource::Binding(name) = &hierarchy.levels[index].segments
                && let Some((bind, file)) = segments.iter().find(|(bind, _)| *bind.name == **name)
            {
                let form = bind.form.unwrap_or(crate::input::SegmentForm::Offsets);
                let level = hierarchy.levels[index].name.clone();
                let made = file.segments(form, rows).map_err(|error| error.at_level(&*level))?;
                hierarchy.levels[index].segments = SegmentSource::Inline(made);
            }
            rows = match &hierarchy.levels[index].segments {
                SegmentSource::Inline(segments) => Some(segments.len()),
                SegmentSource::Binding(_) => None,
            };
        }
        Ok(Loaded { hierarchy, inputs })
    }
}

/// The name of the binding whose rows are the leaves.
fn leaf_rows_binding(hierarchy: &Hierarchy) -> &str {
    match &hierarchy.leaves.source {
        LeafSource::Values { .. } => &hierarchy.leaves.name,
        LeafSource::Lookup { ids, .. } => &ids.name,
    }
}

/// The name of a parameter, and its shape.
type Parameter = (Arc<str>, [u64; 2]);

/// The parameters of encoders and queries: those of the same hierarchy without a single row.
///
/// # Errors
/// What is wrong with the encoders.
fn parameters(hierarchy: &Hierarchy) -> Result<Vec<Parameter>, Error> {
    let mut bare = hierarchy.clone();
    (bare.leaves.rows, bare.top) = (Some(0), None);
    for level in &mut bare.levels {
        level.segments = SegmentSource::Inline(Segments::from_lengths(&[0u64; 0])?);
    }
    let graph = bare.graph()?;
    let mut found = Vec::new();
    for node in graph.nodes() {
        if let (Op::Input { name, role: Role::Param }, [ValueType::Rows { rows, features, .. }, ..]) = (graph.op(node), graph.types(node)) {
            found.push((Arc::clone(name), [*rows, *features]));
        }
    }
    Ok(found)
}

/// The parameters among what is bound.
fn check_names(hierarchy: &Hierarchy, binds: &[Bind]) -> Result<Vec<Parameter>, Error> {
    let mut known = vec![leaf_rows_binding(hierarchy)];
    if let LeafSource::Lookup { table, .. } = &hierarchy.leaves.source {
        known.push(&table.name);
    }
    known.extend(hierarchy.levels.iter().filter_map(|level| level.weights.as_ref()).map(|weights| &*weights.name));
    known.extend(hierarchy.unbound());
    // Only asked for where it matters: a graph is built to know them.
    let others = binds.iter().any(|bind| !known.contains(&bind.name.as_str()));
    let mut params = if others { parameters(hierarchy)? } else { Vec::new() };
    params.retain(|(name, _)| !known.contains(&&**name));
    known.extend(params.iter().map(|(name, _)| &**name));
    for (index, bind) in binds.iter().enumerate() {
        if binds[..index].iter().any(|other| other.name == bind.name) {
            return Err(Error::new(ErrorCode::BoundTwice, format!("`{}` is bound twice", bind.name)).help("give each --bind once"));
        }
        if !known.contains(&bind.name.as_str()) {
            let inline = hierarchy.levels.iter().any(|level| *level.name == *bind.name);
            let why = if inline { ": that level has its segments in the spec" } else { "" };
            return Err(Error::new(ErrorCode::UnknownName, format!("the spec asks for no binding `{}`{why}", bind.name))
                .help(suggestion(&bind.name, &known)));
        }
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_not_read_to_its_end() {
        let refused = |what: &str| Error::new(ErrorCode::File, format!("cannot read it: {what}"));
        let read = |text: &[u8], most: u64| read_at_most(text, most, &refused).map_err(|error| error.to_string());
        assert_eq!(read(b"{}", 2), Ok("{}".to_owned()));
        let told = read(b"{} ", 2).unwrap_err();
        assert!(
            told.starts_with("cannot read it: it is longer than 2 bytes, the most that a spec or a plan may have; keep long segments"),
            "{told}"
        );
        // An endless stream.
        let told = read_at_most(std::io::repeat(b' '), 1 << 16, &refused).unwrap_err();
        assert!(told.message().contains("it is longer than 65536 bytes"), "{told}");
        let told = read(&[0xff, 0xfe], 10).unwrap_err();
        assert!(told.contains("cannot read it: it is not UTF-8"), "{told}");
        // A character that the limit cuts is no reason to speak of UTF-8.
        assert!(read("aé".as_bytes(), 1).unwrap_err().contains("longer than 1 bytes"));
    }
}

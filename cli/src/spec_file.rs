//! A spec file and what is bound to it.

use crate::failure::file_error;
use crate::input::{Bind, FileArray};
use levelfold::error::suggestion;
use levelfold::spec::{LeafSource, SegmentSource};
use levelfold::{Error, ErrorCode, Hierarchy, Plan};
use std::io::Read;
use std::path::Path;

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

/// Reads a file, or stdin for `-`.
///
/// # Errors
/// `file`.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        return match std::io::stdin().lock().read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(cause) => Err(Error::new(ErrorCode::File, format!("cannot read stdin: {cause}"))),
        };
    }
    std::fs::read_to_string(path).map_err(|cause| file_error("read", path, cause))
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
        check_names(&hierarchy, binds)?;
        let mut inputs = Vec::new();
        let mut segments = Vec::new();
        for bind in binds {
            let file = bind.open()?;
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

fn check_names(hierarchy: &Hierarchy, binds: &[Bind]) -> Result<(), Error> {
    let mut known = vec![leaf_rows_binding(hierarchy)];
    if let LeafSource::Lookup { table, .. } = &hierarchy.leaves.source {
        known.push(&table.name);
    }
    known.extend(hierarchy.levels.iter().filter_map(|level| level.weights.as_ref()).map(|weights| &*weights.name));
    known.extend(hierarchy.unbound());
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
    Ok(())
}

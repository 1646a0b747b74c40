//! Reducers of the user's own in specs.

use super::{Place, Reader};
use crate::error::ErrorCode;
use crate::reducer::{ComponentText, CustomReducer, Reducer};
use crate::spec::node::Node;
use std::sync::Arc;

impl Reader {
    /// A word, or `{"custom": …}`.
    pub(super) fn reducer(&mut self, node: &Node, place: &Place) -> Option<Reducer> {
        match node {
            Node::Object(_) => {}
            Node::Text(_) => return self.word(node, place),
            other => return self.wrong_type(other, "the name of a reducer, or an object with `custom`", place),
        }
        let fields = self.object(node, place.clone(), &["custom"])?;
        let custom = self.required(&fields, "custom")?;
        // What has a version is written in Rust, and has no expressions here.
        if matches!(custom, Node::Object(entries) if entries.iter().any(|(name, _)| name == "version")) {
            return self.named_reducer(custom, fields.at("custom"), place);
        }
        let fields = self.object(custom, fields.at("custom"), &["name", "state", "finish"])?;
        let name = self.name(&fields);
        let finish = self.required(&fields, "finish").and_then(|node| self.string(node, &fields.at("finish")));
        let state = fields.at("state");
        let items = self.required(&fields, "state").and_then(|node| self.list(node, &state))?;
        let mut components = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let fields = self.object(item, state.item(index), &["name", "lift", "combine", "identity"])?;
            let name = self.name(&fields);
            let lift = self.required(&fields, "lift").and_then(|node| self.string(node, &fields.at("lift")));
            let combine = self.required(&fields, "combine").and_then(|node| self.string(node, &fields.at("combine")));
            let identity = self.optional(&fields, "identity", |reader, node, place| match node {
                // A whole number in JSON is the same number as a float, up to 2^53, and the nearest one above.
                Node::Integer(value) => Some(*value as f64),
                Node::Number(value) => Some(*value),
                Node::Text(word) if word == "inf" => Some(f64::INFINITY),
                Node::Text(word) if word == "-inf" => Some(f64::NEG_INFINITY),
                other => reader.wrong_type(other, "a number, \"inf\" or \"-inf\"", &place),
            });
            components.push((name?, lift?, combine?, identity?));
        }
        let texts: Vec<ComponentText<'_>> =
            components.iter().map(|(name, lift, combine, identity)| ComponentText { name, lift, combine, identity: *identity }).collect();
        match CustomReducer::new(&name?, &texts, &finish?) {
            Ok(custom) => Some(Reducer::Custom(Arc::new(custom))),
            Err(error) => {
                self.keep(error, place);
                None
            }
        }
    }

    /// `{"name": …, "version": …, "arguments": …}`.
    fn named_reducer(&mut self, node: &Node, at: Place, place: &Place) -> Option<Reducer> {
        let fields = self.object(node, at, &["name", "version", "arguments"])?;
        let name = self.name(&fields);
        let version = self.required(&fields, "version").and_then(|node| self.count(node, &fields.at("version")))?;
        let version = u32::try_from(version).ok().or_else(|| {
            self.report(ErrorCode::Overflow, "the version does not fit 32 bits", &fields.at("version"), None);
            None
        });
        let arguments = self.optional(&fields, "arguments", |reader, node, place| match node {
            Node::Integers(items) => Some(items.iter().map(|item| *item as f64).collect()),
            Node::List(items) => items.iter().enumerate().map(|(index, item)| reader.number(item, &place.item(index))).collect(),
            other => reader.wrong_type(other, "a list of numbers", &place),
        });
        match Reducer::named(&name?, version?, &arguments?.unwrap_or_else(Vec::new)) {
            Ok(reducer) => Some(reducer),
            Err(error) => {
                self.keep(error, place);
                None
            }
        }
    }
}

//! A JSON text as a tree, kept small: lists of integers, which make up nearly all of a spec, take eight bytes an entry.
//!
//! Unlike a map of values it refuses a key that stands twice in one object.

use crate::error::{Error, ErrorCode, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// One JSON value.
#[derive(Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    /// A list of integers only, the empty one too.
    Integers(Vec<i64>),
    /// Any other list.
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Reads a JSON text. Nesting is limited, so hostile input cannot exhaust the stack.
    ///
    /// # Errors
    /// `spec-invalid`, with line and column.
    pub(super) fn parse(text: &str) -> Result<Node> {
        serde_json::from_str(text).map_err(|cause| Error::new(ErrorCode::SpecInvalid, format!("the spec is not valid JSON: {cause}")))
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> String {
        match self {
            Node::Null => "null".into(),
            Node::Bool(value) => value.to_string(),
            Node::Integer(value) => value.to_string(),
            Node::Number(value) => format!("{value:?}"),
            Node::Text(text) => format!("the string {text:?}"),
            Node::Integers(list) if list.is_empty() => "an empty list".into(),
            Node::Integers(_) => "a list of whole numbers".into(),
            Node::List(_) => "a list".into(),
            Node::Object(_) => "an object".into(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        i64::try_from(value).map(Node::Integer).map_err(|_| E::custom(format!("{value} is larger than any row index")))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut integers = Vec::new();
        while let Some(item) = items.next_element()? {
            match item {
                Node::Integer(value) => integers.push(value),
                other => {
                    let mut list: Vec<Node> = integers.into_iter().map(Node::Integer).collect();
                    list.push(other);
                    while let Some(item) = items.next_element()? {
                        list.push(item);
                    }
                    return Ok(Node::List(list));
                }
            }
        }
        Ok(Node::Integers(integers))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut object: Vec<(String, Node)> = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Node>()? {
            if object.iter().any(|(known, _)| *known == key) {
                return Err(serde::de::Error::custom(format!("the field `{key}` stands twice in one object")));
            }
            object.push((key, value));
        }
        Ok(Node::Object(object))
    }
}

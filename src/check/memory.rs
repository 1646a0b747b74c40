//! Memory that holds terms instead of numbers.

use super::term::{TermId, Terms};
use crate::error::{Error, ErrorCode, Result};
use crate::ids::{BufferId, TableId, ViewId};
use crate::plan::{Hash, Order, Place, Plan, ViewLayout};
use std::ops::Range;

/// What a buffer holds.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// Columns that were written, in order, each with what it holds.
    Columns(Vec<(Range<u64>, TermId)>),
    /// The segments of a table, packed.
    Packed { term: TermId, table: Hash, order: Order },
    /// Bytes of another buffer, by now.
    Spoiled { by: BufferId },
}

pub(super) struct Memory<'a> {
    plan: &'a Plan,
    content: Vec<Content>,
}

impl<'a> Memory<'a> {
    /// Inputs hold themselves, everything else nothing.
    pub(super) fn new(plan: &'a Plan, terms: &mut Terms) -> Self {
        let content = plan
            .buffers
            .iter()
            .map(|buffer| match buffer.place {
                Place::Input | Place::Param => Content::Columns(vec![(0..buffer.features, terms.input(&buffer.name, buffer.features))]),
                Place::Output | Place::Arena { .. } | Place::Tile { .. } => Content::Columns(Vec::new()),
            })
            .collect();
        Memory { plan, content }
    }

    /// What a view of rows shows.
    pub(super) fn read(&self, view: ViewId, terms: &mut Terms) -> Result<TermId> {
        let seen = self.plan.view(view);
        match seen.layout {
            ViewLayout::Rows => self.read_columns(seen.buffer, seen.first_column..seen.first_column + seen.features, terms),
            ViewLayout::Packed { .. } => Err(wrong(format!("{view} reads packed segments as rows"))),
        }
    }

    /// What a view shows to something that takes it by the segments of a table.
    pub(super) fn read_segments(&self, view: ViewId, table: TableId, terms: &mut Terms) -> Result<TermId> {
        let seen = self.plan.view(view);
        let ViewLayout::Packed { table: packed, order } = seen.layout else {
            return self.read(view, terms);
        };
        let hash = self.plan.table(table).hash;
        if self.plan.table(packed).hash != hash {
            return Err(wrong(format!("{view} is packed by {packed}, but is read by {table}")));
        }
        match &self.content[seen.buffer.index()] {
            Content::Packed { term, table, order: written } if *table == hash && *written == order => Ok(*term),
            Content::Packed { table, order: written, .. } => Err(wrong(format!(
                "{} holds segments {table} {}, but {view} reads {hash} {}",
                self.name(seen.buffer),
                written.name(),
                order.name()
            ))),
            Content::Columns(_) | Content::Spoiled { .. } => {
                Err(wrong(format!("{} does not hold packed segments", self.name(seen.buffer))))
            }
        }
    }

    /// What a whole buffer holds.
    pub(super) fn read_buffer(&self, buffer: BufferId, terms: &mut Terms) -> Result<TermId> {
        self.read_columns(buffer, 0..self.plan.buffer(buffer).features, terms)
    }

    fn read_columns(&self, buffer: BufferId, columns: Range<u64>, terms: &mut Terms) -> Result<TermId> {
        if columns.is_empty() {
            return Ok(terms.nothing());
        }
        match &self.content[buffer.index()] {
            Content::Spoiled { by } => Err(wrong(format!("{} was overwritten by {}", self.name(buffer), self.name(*by)))),
            Content::Packed { .. } => Err(wrong(format!("{} holds packed segments, not rows", self.name(buffer)))),
            Content::Columns(written) => {
                let inside: Vec<_> = written.iter().filter(|(at, _)| at.start < columns.end && columns.start < at.end).collect();
                let mut at = columns.start;
                for (part, _) in &inside {
                    if part.start != at {
                        return Err(wrong(format!("columns {columns:?} of {} are not written in whole", self.name(buffer))));
                    }
                    at = part.end;
                }
                if at != columns.end || inside.is_empty() {
                    return Err(wrong(format!("columns {columns:?} of {} are not written", self.name(buffer))));
                }
                let parts: Vec<TermId> = inside.iter().map(|(_, term)| *term).collect();
                Ok(terms.concat(&parts))
            }
        }
    }

    /// Writes through a view; other buffers of the arena, or of the scratch of tiles, that share bytes are spoiled.
    pub(super) fn write(&mut self, view: ViewId, term: TermId) {
        let seen = *self.plan.view(view);
        let index = seen.buffer.index();
        self.content[index] = match seen.layout {
            ViewLayout::Packed { table, order } => Content::Packed { term, table: self.plan.table(table).hash, order },
            ViewLayout::Rows => {
                let columns = seen.first_column..seen.first_column + seen.features;
                let mut written = match &self.content[index] {
                    Content::Columns(written) => written.clone(),
                    Content::Packed { .. } | Content::Spoiled { .. } => Vec::new(),
                };
                if !columns.is_empty() {
                    written.retain(|(at, _)| at.end <= columns.start || columns.end <= at.start);
                    written.push((columns, term));
                    written.sort_by_key(|(at, _)| at.start);
                }
                Content::Columns(written)
            }
        };
        let Some((arena, bytes)) = self.bytes(seen.buffer) else { return };
        for other in (0..self.plan.buffers.len()).filter(|other| *other != index) {
            let id = BufferId::new(other);
            if self.bytes(id).is_some_and(|(of, other)| of == arena && other.start < bytes.end && bytes.start < other.end) {
                self.content[other] = Content::Spoiled { by: seen.buffer };
            }
        }
    }

    /// The bytes of the arena, or else of the scratch of tiles, that a buffer takes.
    fn bytes(&self, buffer: BufferId) -> Option<(bool, Range<u64>)> {
        let held = self.plan.held_bytes(buffer);
        match self.plan.buffer(buffer).place {
            Place::Input | Place::Param | Place::Output => None,
            Place::Arena { offset, .. } => Some((true, offset..offset + held)),
            Place::Tile { offset, .. } => Some((false, offset..offset + held)),
        }
    }

    fn name(&self, buffer: BufferId) -> String {
        format!("{buffer} `{}`", self.plan.buffer(buffer).name)
    }
}

fn wrong(message: String) -> Error {
    Error::new(ErrorCode::PlanWrong, message)
}

//! share-tables: levels with equal segments share one table, so that later passes see that they are the same.
//!
//! Equal means equal content. Tables that an earlier pass composed stay as they are.

use super::{Decision, Exactness, Pass};
use crate::backend::Target;
use crate::error::Result;
use crate::graph::{GraphTable, LevelGraph};
use crate::ids::TableId;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShareTables;

impl Pass for ShareTables {
    fn name(&self) -> &'static str {
        "share-tables"
    }

    fn exactness(&self) -> Exactness {
        Exactness::BitExact
    }

    fn run(&self, graph: &mut LevelGraph, _target: &Target) -> Result<Vec<Decision>> {
        let mut decisions = Vec::new();
        let mut kept: Vec<GraphTable> = Vec::with_capacity(graph.tables().len());
        let mut to: Vec<TableId> = Vec::with_capacity(graph.tables().len());
        for table in graph.tables() {
            let equal =
                kept.iter().position(|other| other.composed.is_none() && table.composed.is_none() && other.segments == table.segments);
            match equal {
                Some(equal) => {
                    to.push(TableId::new(equal));
                    decisions.push(Decision::SharedTable { kept: kept[equal].name.clone(), dropped: table.name.clone() });
                }
                None => {
                    to.push(TableId::new(kept.len()));
                    kept.push(table.clone());
                }
            }
        }
        if !decisions.is_empty() {
            graph.remap_tables(kept, &to);
        }
        Ok(decisions)
    }
}

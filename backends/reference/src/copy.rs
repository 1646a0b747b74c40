//! Copies: bits are moved as they are.

use crate::memory::{Memory, Segment, size};
use crate::scalar;
use levelfold::backend::TableSet;
use levelfold::ids::ViewId;
use levelfold::plan::{Copy, CopyKind, Plan};
use levelfold::{Error, ErrorCode, Result};

/// Runs one copy step.
pub(crate) fn run(plan: &Plan, copy: &Copy, tables: &TableSet, memory: &mut Memory<'_, '_>) -> Result<()> {
    let whole = memory.rows(copy.write)?;
    match (copy.what, copy.read.as_slice()) {
        (CopyKind::Segments { table }, &[read]) => {
            for segment in memory.walk(tables.get(table))? {
                copy_segment(memory, read, copy.write, &segment, 0)?;
            }
        }
        (CopyKind::Spread { table }, &[read]) => {
            for segment in memory.walk(tables.get(table))? {
                let packed = Segment { rows: segment.packed.clone(), packed: segment.packed.clone() };
                for index in 0..segment.len() {
                    for feature in 0..memory.features(read)? {
                        let bits = memory.load(read, &segment, index, feature)?;
                        memory.store(copy.write, &packed, index, feature, bits)?;
                    }
                }
            }
        }
        (CopyKind::Rows, &[read]) => copy_segment(memory, read, copy.write, &whole, 0)?,
        (CopyKind::Columns, reads) => {
            let mut first = 0;
            for &read in reads {
                copy_segment(memory, read, copy.write, &whole, first)?;
                first += memory.features(read)?;
            }
        }
        (CopyKind::Gather, &[ids, table]) => {
            let looked_up = Segment::whole(size(plan.buffer_of(table).rows)?);
            for index in 0..whole.len() {
                let row = look_up(memory, ids, &whole, index)?;
                for feature in 0..memory.features(table)? {
                    let bits = memory.load(table, &looked_up, row, feature)?;
                    memory.store(copy.write, &whole, index, feature, bits)?;
                }
            }
        }
        (CopyKind::Segments { .. } | CopyKind::Spread { .. } | CopyKind::Rows | CopyKind::Gather, reads) => {
            return Err(Error::new(ErrorCode::PlanInvalid, format!("a copy of this kind does not read {} views", reads.len())));
        }
    }
    Ok(())
}

/// Every element of a segment of `read`, in the columns of `write` from `first` on.
fn copy_segment(memory: &mut Memory<'_, '_>, read: ViewId, write: ViewId, segment: &Segment, first: usize) -> Result<()> {
    for index in 0..segment.len() {
        for feature in 0..memory.features(read)? {
            let bits = memory.load(read, segment, index, feature)?;
            memory.store(write, segment, index, first + feature, bits)?;
        }
    }
    Ok(())
}

/// The row of the table that id `index` of a segment of `ids` stands for.
pub(crate) fn look_up(memory: &mut Memory<'_, '_>, ids: ViewId, segment: &Segment, index: usize) -> Result<usize> {
    let bits = memory.load(ids, segment, index, 0)?;
    scalar::row(memory.dtype(ids), bits)?.ok_or_else(|| Error::new(ErrorCode::IdTooLarge, format!("id {index} is not a row")))
}

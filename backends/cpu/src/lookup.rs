//! Small tables that ids look up, where their rows begin inside lines of the cache.
//!
//! Memory that a program is given begins 16 bytes behind a line as often as not. Each vector of a row then takes two lines; those of memory come in order, and cost nothing more, but a table
//! is read again and again from the second cache: up to half as long again. So each task of
//! many rows takes a copy, in which rows begin where lines do.

use crate::fold::Walker;
use crate::memory::{LINE, Memory};
use levelfold::ids::ViewId;
use levelfold::plan::{Fold, Place, Plan};

/// Larger tables are not copied: they would leave no room in the second cache.
const MOST_BYTES: u64 = 512 << 10;
/// How many times as many rows a task looks up as a table has, where it is copied for it. A row is copied in the time that six uses of it save.
const USES: u64 = 24;

/// The rows of a copy of a table, and its bytes; `None` where it is not worth one.
pub(crate) fn copied(plan: &Plan, table: ViewId, fold: &Fold) -> Option<(usize, usize)> {
    let (view, buffer) = (plan.view(table), plan.buffer_of(table));
    let looked_up = fold.stages.first().map_or(0, |stage| plan.table(stage.table).total_rows);
    let row_bytes = view.features.checked_mul(buffer.dtype.size_u64())?;
    let bytes = buffer.rows.checked_mul(row_bytes)?;
    let is_bound = matches!(buffer.place, Place::Input | Place::Param);
    let is_worth_it = bytes <= MOST_BYTES && row_bytes.is_multiple_of(LINE as u64) && looked_up / USES >= buffer.rows;
    if is_bound && is_worth_it { Some((usize::try_from(buffer.rows).ok()?, usize::try_from(bytes).ok()?)) } else { None }
}

impl Walker<'_> {
    /// The table that ids look up, or this task's copy of it, whose rows from one on are asked for.
    ///
    /// # Safety
    /// As for [`Walker::run`].
    pub(crate) unsafe fn looked_up(&mut self, table: ViewId, first: usize) -> Memory {
        if let Some(found) = self.looked_up {
            return found;
        }
        let memory = self.memory[table.index()];
        let found = match self.step.table_copy {
            Some((place, rows))
                if memory.is_dense() && begins_inside_lines(memory) && self.until.saturating_sub(first as u64) / USES >= rows as u64 =>
            {
                let row_bytes = memory.features * memory.dtype.size();
                let start = self.scratch.wrapping_add(place);
                for row in 0..rows {
                    // SAFETY: the table has these rows, and the room was taken for them.
                    unsafe { std::ptr::copy_nonoverlapping(memory.row(row), start.add(row * row_bytes), row_bytes) };
                }
                Memory { start, row_stride: row_bytes as isize, ..memory }
            }
            Some(_) | None => memory,
        };
        self.looked_up = Some(found);
        found
    }
}

/// Whether vectors of rows lie across the ends of lines.
fn begins_inside_lines(memory: Memory) -> bool {
    !memory.start.addr().is_multiple_of(LINE) || !memory.row_stride.unsigned_abs().is_multiple_of(LINE)
}

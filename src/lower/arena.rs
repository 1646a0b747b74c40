//! Lifetimes, and a place in the arena for each buffer that lives there.

use crate::error::{Error, ErrorCode, Result};
use crate::ids::{BufferId, StepId};
use crate::plan::{Place, Plan};
use smallvec::{SmallVec, smallvec};

#[derive(Clone, Copy)]
struct Block {
    buffer: usize,
    bytes: u64,
    first: StepId,
    last: StepId,
    offset: u64,
}

/// Gives every arena buffer its lifetime and its offset.
///
/// Greedy: the largest first (ties by id), each at the lowest aligned offset where it meets no buffer that lives at the same time. Two
/// buffers meet in time where one step uses both, so a step never writes over what it reads.
pub(super) fn place(plan: &mut Plan) -> Result<()> {
    let mut blocks = lifetimes(plan);
    blocks.sort_by_key(|block| (std::cmp::Reverse(block.bytes), block.buffer));
    for index in 0..blocks.len() {
        let (placed, rest) = blocks.split_at_mut(index);
        let block = &mut rest[0];
        block.offset = lowest_offset(placed, block, plan.align)
            .ok_or_else(|| Error::new(ErrorCode::Overflow, "the arena does not fit 64 bits").at_level(&*plan.buffers[block.buffer].name))?;
    }
    for block in blocks {
        plan.buffers[block.buffer].place = Place::Arena { offset: block.offset, first: block.first, last: block.last };
    }
    Ok(())
}

fn lifetimes(plan: &Plan) -> SmallVec<[Block; 16]> {
    let mut spans: SmallVec<[Option<(StepId, StepId)>; 16]> = smallvec![None; plan.buffers.len()];
    for (index, step) in plan.steps.iter().enumerate() {
        let step_id = StepId::new(index);
        for view in step.reads().into_iter().chain(step.writes()) {
            let span = &mut spans[plan.view(view).buffer.index()];
            *span = Some((span.map_or(step_id, |(first, _)| first), step_id));
        }
    }
    let in_arena = |index: &usize| matches!(plan.buffer(BufferId::new(*index)).place, Place::Arena { .. });
    (0..plan.buffers.len())
        .filter(in_arena)
        .map(|buffer| {
            let (first, last) = spans[buffer].unwrap_or((StepId(0), StepId(0)));
            Block { buffer, bytes: plan.buffers[buffer].bytes(), first, last, offset: 0 }
        })
        .collect()
}

fn lowest_offset(placed: &[Block], block: &Block, align: u64) -> Option<u64> {
    let mut neighbours: SmallVec<[(u64, u64); 16]> = placed
        .iter()
        .filter(|other| other.bytes > 0 && other.first <= block.last && block.first <= other.last)
        .map(|other| (other.offset, other.offset + other.bytes))
        .collect();
    neighbours.sort_unstable();
    let mut offset = 0u64;
    for (start, end) in neighbours {
        if offset.checked_add(block.bytes)? <= start {
            break;
        }
        offset = offset.max(end.checked_next_multiple_of(align)?);
    }
    offset.checked_add(block.bytes).map(|_| offset)
}

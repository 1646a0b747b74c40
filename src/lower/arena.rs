//! Lifetimes, and a place for each buffer that no caller binds: in the scratch of a tile where it is of use in one tile alone, else in the arena.

use crate::error::{Error, ErrorCode, Result};
use crate::ids::{BufferId, StepId};
use crate::plan::{Place, Plan, StepKind, ViewLayout};
use smallvec::{SmallVec, smallvec};

#[derive(Clone, Copy)]
struct Block {
    buffer: usize,
    bytes: u64,
    first: StepId,
    last: StepId,
    offset: u64,
}

/// Gives every arena buffer its lifetime and its offset, in the arena or in a tile.
///
/// Greedy: the largest first (ties by id), each at the lowest aligned offset where it meets no buffer that lives at the same time. Two
/// buffers meet in time where one step uses both, so a step never writes over what it reads.
pub(super) fn place(plan: &mut Plan) -> Result<()> {
    let spans = spans(plan);
    move_to_tiles(plan, &spans);
    let (mut arena, mut tiles): (SmallVec<[Block; 16]>, SmallVec<[Block; 16]>) = (SmallVec::new(), SmallVec::new());
    for (buffer, span) in spans.iter().enumerate() {
        let (first, last) = span.unwrap_or((StepId(0), StepId(0)));
        let block = Block { buffer, bytes: plan.held_bytes(BufferId::new(buffer)), first, last, offset: 0 };
        match plan.buffers[buffer].place {
            Place::Input | Place::Param | Place::Output => {}
            // Every window of a tile uses what any of its steps uses.
            Place::Arena { .. } => arena.push(Block { first: plan.together(first).0, last: plan.together(last).1, ..block }),
            Place::Tile { .. } => tiles.push(Block { first: plan.taken_from(first, last), ..block }),
        }
    }
    place_blocks(plan, &mut arena)?;
    place_blocks(plan, &mut tiles)?;
    for Block { buffer, first, last, offset, .. } in arena {
        plan.buffers[buffer].place = Place::Arena { offset, first, last };
    }
    for Block { buffer, bytes, last, offset, .. } in tiles {
        if let Place::Tile { offset: at, .. } = &mut plan.buffers[buffer].place {
            *at = offset;
        }
        if let Some(tile) = plan.tiles.iter_mut().find(|tile| tile.has(last)) {
            tile.bytes = tile.bytes.max(offset + bytes);
        }
    }
    Ok(())
}

/// The first and the last step that use each buffer.
fn spans(plan: &Plan) -> SmallVec<[Option<(StepId, StepId)>; 16]> {
    let mut spans: SmallVec<[Option<(StepId, StepId)>; 16]> = smallvec![None; plan.buffers.len()];
    for (index, step) in plan.steps.iter().enumerate() {
        let step_id = StepId::new(index);
        for view in step.reads().into_iter().chain(step.writes()) {
            let span = &mut spans[plan.view(view).buffer.index()];
            *span = Some((span.map_or(step_id, |(first, _)| first), step_id));
        }
    }
    spans
}

/// Rows that one tile makes, or one inside it folds to, and nobody else takes, never leave it.
fn move_to_tiles(plan: &mut Plan, spans: &[Option<(StepId, StepId)>]) {
    let tiles = plan.tiles.clone();
    for (index, tile) in tiles.iter().enumerate() {
        for step in tile.first.index()..=tile.last.index() {
            let home = match plan.steps[step].kind {
                StepKind::Encode(_) | StepKind::Copy(_) => Some(tile),
                StepKind::Fold(_) => tiles.get(index + 1).filter(|_| tile.inside),
            };
            let Some(home) = home else { continue };
            for view in plan.steps[step].writes() {
                let view = *plan.view(view);
                let buffer = &mut plan.buffers[view.buffer.index()];
                if let (Place::Arena { .. }, Some((first, last)), ViewLayout::Rows) =
                    (buffer.place, spans[view.buffer.index()], view.layout)
                    && tile.has(first)
                    && home.has(last)
                {
                    buffer.place = Place::Tile { offset: 0, first, last };
                }
            }
        }
    }
}

fn place_blocks(plan: &Plan, blocks: &mut [Block]) -> Result<()> {
    blocks.sort_by_key(|block| (std::cmp::Reverse(block.bytes), block.buffer));
    for index in 0..blocks.len() {
        let (placed, rest) = blocks.split_at_mut(index);
        let block = &mut rest[0];
        block.offset = lowest_offset(placed, block, plan.align)
            .ok_or_else(|| Error::new(ErrorCode::Overflow, "the arena does not fit 64 bits").at_level(&*plan.buffers[block.buffer].name))?;
    }
    Ok(())
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

//! Blocks to accumulators, and accumulators to trees.

use crate::batch::ask_for;
use crate::fold::{ReductionRun, Walker};
use crate::kernels::{Block, Run};
use crate::load::load_weights;
use crate::memory::Memory;
use crate::states::To;
use levelfold::DType;
use levelfold::numerics::{Accumulator, BLOCK_ROWS};
use std::ops::Range;

/// All of these work on this thread's scratch, for reduction `index` of stage `k`.
///
/// # Safety
/// As for [`Walker::run`].
impl Walker<'_> {
    /// Adds one block of rows to the accumulator of a reduction, which starts anew; with weights, their sum stands behind the features.
    pub(crate) unsafe fn accumulate(&self, k: usize, index: usize, first_row: usize, rows: &[*const u8]) {
        let stage = &self.step.stages[k];
        let reduction = &stage.reductions[index];
        let tiled = k > 0 || self.step.tiled || stage.elements.is_some();
        if let Some(siblings) = &stage.siblings {
            if index == 0 {
                // SAFETY: rows of the stage; all its reductions take what they made.
                unsafe { siblings.accumulate(self.scratch, rows, self.step.features, tiled) };
            }
            return;
        }
        // SAFETY: accumulators and weights lie in this thread's scratch; rows are dense and have `features` elements.
        unsafe {
            let acc = self.scratch.add(reduction.acc);
            let mut weights = [0u64; BLOCK_ROWS];
            let weighted = reduction.weights.map(|view| self.memory[view.index()]);
            if let Some(memory) = weighted {
                let weights = &mut weights[..rows.len()];
                match stage.input.accumulator() {
                    DType::F64 => weigh::<f64>(memory, first_row, weights, acc, self.step.features),
                    _ => weigh::<f32>(memory, first_row, weights, acc, self.step.features),
                }
            }
            let block = Block {
                acc,
                rows: rows.as_ptr(),
                count: rows.len(),
                features: self.step.features,
                weights: if weighted.is_some() { weights.as_ptr().cast() } else { std::ptr::null() },
                tiled,
            };
            match &reduction.states {
                None => (reduction.kernels.accumulate)(&block),
                Some(states) => states.accumulate(&block, self.step.features),
            }
        }
    }

    /// The values of a tree's row: the features, and the sum of weights where there is one.
    fn tree_width(&self, k: usize, index: usize) -> usize {
        self.step.features + usize::from(self.step.stages[k].reductions[index].weights.is_some())
    }

    /// older = combine(older, newer), both rows of a tree.
    pub(crate) unsafe fn combine(&self, k: usize, index: usize, older: *mut f64, newer: *const f64) {
        let reduction = &self.step.stages[k].reductions[index];
        // SAFETY: the caller's promise: two rows of the tree's width.
        unsafe {
            match &reduction.states {
                None => (reduction.kernels.combine)(older, newer, self.tree_width(k, index)),
                Some(states) => states.combine(older, newer, self.step.features),
            }
        }
    }

    /// Pushes the accumulator to the tree: a binary counter. `sizes[0]` is its depth, and the blocks of each entry follow from it: they are
    /// the binary digits of how many blocks were pushed, which stands in `sizes[1]`.
    pub(crate) unsafe fn push_tree(&self, k: usize, index: usize, first_row: u64) {
        let stage = &self.step.stages[k];
        let reduction = &stage.reductions[index];
        let (width, stride) = (self.tree_width(k, index), reduction.width);
        // SAFETY: the tree has room for `depth` rows, and a counter of so many digits never has more entries.
        unsafe {
            let blocks = self.scratch.add(reduction.sizes).cast::<u64>();
            let tree = self.scratch.add(reduction.tree).cast::<f64>();
            let acc = self.scratch.add(reduction.acc);
            let pushed = blocks.read();
            // Entries before this push: one for each 1 in the binary form; each trailing 1 is combined with the new block.
            let mut entries = pushed.count_ones() as usize;
            debug_assert!(entries < stage.depth, "the counter outgrew its tree");
            let mut carries = pushed.trailing_ones();
            match &reduction.states {
                Some(states) => {
                    states.widen(tree.add(entries * stride), acc, self.step.features, first_row as f64);
                    entries += 1;
                }
                None if carries == 0 => (reduction.kernels.store)(tree.add(entries * stride), acc, width),
                None => {
                    (reduction.kernels.combine_block)(tree.add((entries - 1) * stride), acc, width);
                    carries -= 1;
                }
            }
            for _ in 0..carries {
                entries -= 1;
                self.combine(k, index, tree.add((entries - 1) * stride), tree.add(entries * stride));
            }
            blocks.write(pushed + 1);
        }
    }

    /// Pushes the value of 2^`level` blocks at once, where as many or a multiple of it were pushed before: reducers without a state, and no weights.
    pub(crate) unsafe fn push_group(&self, k: usize, index: usize, level: u32, value: *const f64) {
        let stage = &self.step.stages[k];
        let reduction = &stage.reductions[index];
        // SAFETY: as for `push_tree`.
        unsafe {
            let blocks = self.scratch.add(reduction.sizes).cast::<u64>();
            let tree = self.scratch.add(reduction.tree).cast::<f64>();
            let pushed = blocks.read();
            debug_assert!(pushed.trailing_zeros() >= level, "a group begins at a multiple of its blocks");
            let mut entries = pushed.count_ones() as usize;
            debug_assert!(entries < stage.depth, "the counter outgrew its tree");
            std::ptr::copy_nonoverlapping(value, tree.add(entries * reduction.width), self.step.features);
            for _ in 0..(pushed >> level).trailing_ones() {
                self.combine(k, index, tree.add((entries - 1) * reduction.width), tree.add(entries * reduction.width));
                entries -= 1;
            }
            blocks.write(pushed + (1 << level));
        }
    }

    /// The value of a tree: what is left is combined from the newest to the oldest.
    pub(crate) unsafe fn fold_tree(&self, k: usize, index: usize) -> *const f64 {
        let reduction = &self.step.stages[k].reductions[index];
        let stride = reduction.width;
        // SAFETY: as for `push_tree`.
        unsafe {
            let tree = self.scratch.add(reduction.tree).cast::<f64>();
            let mut entries = self.scratch.add(reduction.sizes).cast::<u64>().read().count_ones() as usize;
            while entries > 1 {
                entries -= 1;
                self.combine(k, index, tree.add((entries - 1) * stride), tree.add(entries * stride));
            }
            tree
        }
    }

    /// Rounds the results of a reducer with a state into a dense row.
    pub(crate) unsafe fn round(&self, reduction: &ReductionRun, result: *const f64, out: *mut u8) {
        let features = self.step.features;
        // SAFETY: the caller gives `features` values, and as many elements to write.
        unsafe {
            match reduction.dtype {
                DType::I64 => positions::<f64>(result, out, features),
                DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::U8 | DType::U16 | DType::U32 | DType::I32 => {
                    (reduction.kernels.finish_tree)(result, out, features, None)
                }
            }
        }
    }

    /// What [`fold_run`](crate::kernels::Kernels::fold_run) does, for a reducer with a state.
    pub(crate) unsafe fn run_states(&self, k: usize, index: usize, run: &Run<'_>, segments: Range<u64>, rows_read: &mut u64) -> u64 {
        let stage = &self.step.stages[k];
        let reduction = &stage.reductions[index];
        let Some(states) = &reduction.states else { return segments.start };
        let accumulator = stage.input.accumulator();
        let (acc, result) = (self.scratch.wrapping_add(reduction.acc), self.scratch.wrapping_add(reduction.result));
        let (mut pointers, mut weights) = ([std::ptr::null::<u8>(); BLOCK_ROWS], [0u64; BLOCK_ROWS]);
        let mut at = 0;
        for segment in segments.clone() {
            let range = run.segments.range(segment);
            let (start, count) = (range.start as usize, (range.end - range.start) as usize);
            if count > BLOCK_ROWS {
                *rows_read += at as u64;
                return segment;
            }
            let (out, also) = (run.row(segment), run.also_row(segment));
            // SAFETY: the caller's rows and results; accumulators and results lie in this thread's scratch.
            unsafe {
                if count == 0 {
                    run.fill(segment);
                    continue;
                }
                let rows = run.source.rows(at, start, &mut pointers[..count]);
                at += count;
                if let Some((_, ahead)) = states.asks_for(count) {
                    ask_for(run, segment + ahead, |count| states.asks_for(count).map_or(0..0, |(rows, _)| rows));
                }
                if let Some(memory) = run.weights {
                    match accumulator {
                        DType::F64 => weigh::<f64>(memory, start, &mut weights[..count], acc, run.features),
                        _ => weigh::<f32>(memory, start, &mut weights[..count], acc, run.features),
                    }
                }
                let weights = if run.weights.is_some() { weights.as_ptr().cast() } else { std::ptr::null() };
                states.accumulate(&Block { acc, rows, count, features: run.features, weights, tiled: run.tiled }, run.features);
                if reduction.dtype == accumulator {
                    states.finish_block(acc, count as f64, To { row: out, streams: run.streams, also }, run.features);
                    continue;
                }
                let numbers = To { row: result, streams: false, also: std::ptr::null_mut() };
                states.finish_block(acc, count as f64, numbers, run.features);
                match (reduction.dtype, accumulator) {
                    (DType::I64, DType::F64) => positions::<f64>(result.cast(), out, run.features),
                    (DType::I64, _) => positions::<f32>(result.cast(), out, run.features),
                    _ => (run.finish_block)(result, out, run.features, std::ptr::null()),
                }
            }
        }
        *rows_read += at as u64;
        segments.end
    }
}

/// Writes places, which are whole numbers below 2^53.
unsafe fn positions<A: Accumulator>(places: *const A, out: *mut u8, features: usize) {
    for feature in 0..features {
        // SAFETY: the caller gives `features` of each.
        unsafe { out.cast::<i64>().add(feature).write_unaligned(places.add(feature).read().as_f64() as i64) };
    }
}

/// Widens the weights of a block, and writes their sum behind the accumulators.
unsafe fn weigh<A: Accumulator>(memory: Memory, first: usize, into: &mut [u64], acc: *mut u8, features: usize) {
    // SAFETY: one weight a row; an accumulator is no larger than 8 bytes, and there is one more of them than features.
    unsafe {
        let sum = load_weights(memory, first, std::slice::from_raw_parts_mut(into.as_mut_ptr().cast::<A>(), into.len()));
        acc.cast::<A>().add(features).write(sum);
    }
}

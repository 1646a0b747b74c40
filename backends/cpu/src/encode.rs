//! Encoder steps: a kernel makes a tile of rows in the accumulator's type, and what follows runs on it while it is in cache.
//!
//! Every result is rounded to the type of its rows before the next operation takes it, so that tiles, tasks and fusions change no bit.
//! Parameters are widened, and weights packed, at the start of every run: they may have changed since the last one.
//!
//! *Invariant:* a task writes its own rows and no others, and rows of a segment that another task writes are only read as input.

mod attend;
pub(crate) mod kernels;
mod matmul;
mod params;
mod rows;

pub(crate) use matmul::Fused;
pub(crate) use params::Piece;

use crate::memory::{Memory, narrow};
use crate::{Isa, fold};
use kernels::Kernels;
use levelfold::DType;
use levelfold::backend::TableSet;
use levelfold::custom::{Registry, RowEncoder};
use levelfold::encoder::{Activation, Kernel, RowOp};
use levelfold::error::{Error, ErrorCode, Result};
use levelfold::ids::{TableId, ViewId};
use levelfold::numerics::BLOCK_ROWS;
use levelfold::numerics::encoders::score_scale;
use levelfold::plan::{Encode, Plan};
use params::{Param, Params, Shape, Wave};
use std::ops::Range;
use std::sync::Arc;

/// The most rows of a tile: a multiple of the rows of a micro tile.
const TILE_ROWS: usize = 96;
/// Bytes that a tile should not be larger than, so that it stays in the second cache.
const TILE_BYTES: usize = 512 << 10;

/// An encoder, compiled.
pub(crate) struct EncodeStep {
    isa: Isa,
    kernel: KernelRun,
    kernels: Kernels,
    ops: Vec<OpRun>,
    /// The kernels of the type that is written.
    last: Kernels,
    write: ViewId,
    rows: usize,
    features: usize,
    /// Numbers of a row of the tile.
    stride: usize,
    tile_rows: usize,
    /// What is prepared at the start of each run, or once.
    pub(crate) params: Params,
    /// Row ranges, one a task.
    pub(crate) tasks: Vec<Range<usize>>,
    pub(crate) read: u64,
    pub(crate) written: u64,
    /// Offsets in a thread's memory.
    tile: usize,
    other: usize,
    input: usize,
    numbers: usize,
    states: usize,
    pub(crate) scratch_bytes: usize,
}

enum KernelRun {
    Map { rows: ViewId },
    MatMul { rows: ViewId, depth: usize, weight: Param, bias: Option<Param>, own: bool },
    Attend { qkv: ViewId, table: TableId, shape: attend::Shape },
    Convolve { rows: ViewId, table: TableId, taps: usize, before: usize, weight: Param, bias: Option<Param>, own: bool },
}

enum OpRun {
    Activate(Kernels, Activation),
    Scale(Kernels, f64),
    Add(Kernels, ViewId),
    Norm {
        kernels: Kernels,
        weight: Param,
        bias: Option<Param>,
        eps: f64,
        centered: bool,
    },
    Positions {
        kernels: Kernels,
        table: TableId,
        wave: Wave,
    },
    Learned {
        kernels: Kernels,
        table: TableId,
        positions: Param,
    },
    Rotate {
        kernels: Kernels,
        table: TableId,
        wave: Wave,
        columns: usize,
        width: usize,
    },
    /// From the first type to the second.
    Cast(Kernels, Kernels, DType),
    /// A user's own.
    Custom(Kernels, Arc<dyn RowEncoder>),
}

impl EncodeStep {
    pub(crate) fn compile(plan: &Plan, encode: &Encode, isa: Isa, registry: &Registry) -> Result<Self> {
        let select = |dtype: DType| {
            kernels::select(isa, dtype).ok_or_else(|| Error::new(ErrorCode::Unsupported, format!("encoders of {dtype} have no kernels")))
        };
        let encoding = &encode.encoding;
        let shape = |view: ViewId| Ok::<_, Error>((narrow(plan.buffer_of(view).rows)?, narrow(plan.view(view).features)?));
        let mut dtype = plan.buffer_of(*encoding.kernel.rows()).dtype;
        let kernels = select(dtype)?;
        let (rows, features) = shape(encode.write)?;
        let stride = features.checked_next_multiple_of(16).ok_or_else(too_large)?;
        let mut params = Params::new(isa);
        let mut input_stride = stride;
        let mut extra_rows = 0;
        let mut attention = attend::Shape::default();
        let own = dtype.accumulator() == dtype;
        let kernel = match &encoding.kernel {
            Kernel::Map { rows } => KernelRun::Map { rows: *rows },
            Kernel::MatMul { rows, weight, bias } => {
                let depth = shape(*rows)?.1;
                input_stride = stride.max(depth.checked_next_multiple_of(16).ok_or_else(too_large)?);
                KernelRun::MatMul {
                    rows: *rows,
                    depth,
                    weight: params.take(*weight, Shape::Packed { columns: features, depth, panel: kernels.panel }, dtype)?,
                    bias: bias.map(|bias| params.take(bias, Shape::row(features), dtype)).transpose()?,
                    own,
                }
            }
            Kernel::Attend { qkv, table, heads, causal, .. } => {
                let heads = narrow(u64::from(*heads))?;
                let width = (features / heads.max(1)) as u64;
                let scale = if dtype == DType::F64 { score_scale::<f64>(width) } else { f64::from(score_scale::<f32>(width)) };
                attention = attend::Shape::new(features, heads.max(1), *causal, scale, plan.table(*table).longest);
                KernelRun::Attend { qkv: *qkv, table: *table, shape: attention }
            }
            Kernel::Convolve { rows, weight, bias, table, causal } => {
                let taps = shape(*weight)?.1;
                extra_rows = taps;
                KernelRun::Convolve {
                    rows: *rows,
                    table: *table,
                    taps,
                    before: if *causal { taps - 1 } else { (taps - 1) / 2 },
                    weight: params.take(*weight, Shape::Turned { rows: features, columns: taps }, dtype)?,
                    bias: bias.map(|bias| params.take(bias, Shape::row(features), dtype)).transpose()?,
                    own,
                }
            }
        };
        let mut ops = Vec::with_capacity(encoding.ops.len());
        let mut largest = dtype.accumulator().size();
        for op in &encoding.ops {
            let kernels = select(dtype)?;
            let row = Shape::row(features);
            ops.push(match op {
                RowOp::Activate(activation) => OpRun::Activate(kernels, *activation),
                RowOp::Scale(by) => OpRun::Scale(kernels, by.0),
                RowOp::Add(other) => OpRun::Add(kernels, *other),
                RowOp::LayerNorm { weight, bias, eps } => OpRun::Norm {
                    kernels,
                    weight: params.take(*weight, row, dtype)?,
                    bias: bias.map(|bias| params.take(bias, row, dtype)).transpose()?,
                    eps: eps.0,
                    centered: true,
                },
                RowOp::RmsNorm { weight, eps } => {
                    OpRun::Norm { kernels, weight: params.take(*weight, row, dtype)?, bias: None, eps: eps.0, centered: false }
                }
                RowOp::Sinusoid { table, base } => {
                    let wave = params.wave(features, false, base.0, plan.table(*table).longest, dtype)?;
                    OpRun::Positions { kernels, table: *table, wave }
                }
                RowOp::Learned { positions, table } => {
                    let rows = narrow(plan.table(*table).longest)?;
                    let positions = params.take(*positions, Shape::Rows { rows, columns: features }, dtype)?;
                    OpRun::Learned { kernels, table: *table, positions }
                }
                RowOp::Rotate { table, base, columns, width } => {
                    let wave = params.wave(narrow(*width)?, true, base.0, plan.table(*table).longest, dtype)?;
                    OpRun::Rotate { kernels, table: *table, wave, columns: narrow(*columns)?, width: narrow(*width)? }
                }
                RowOp::Cast(to) => {
                    dtype = *to;
                    largest = largest.max(dtype.accumulator().size());
                    OpRun::Cast(kernels, select(dtype)?, dtype)
                }
                RowOp::Custom { name, version } => OpRun::Custom(kernels, registry.find_encoder(name, *version)?),
            });
        }
        let row_bytes = stride.checked_mul(largest).ok_or_else(too_large)?;
        let tile_rows = if ops.is_empty() { TILE_ROWS } else { (TILE_BYTES / row_bytes.max(1) / 12 * 12).clamp(12, TILE_ROWS) };
        let mut scratch = fold::Scratchpad::default();
        let tile_len = stride.checked_mul(tile_rows).ok_or_else(too_large)?;
        let input_len = tile_rows.checked_add(extra_rows).and_then(|rows| rows.checked_mul(input_stride)).ok_or_else(too_large)?;
        let tile = scratch.take(tile_len, largest)?;
        let other = scratch.take(tile_len, largest)?;
        let input = scratch.take(input_len, largest)?;
        let wave = params.widest_wave();
        let taps = extra_rows.checked_mul(size_of::<usize>() / 4).ok_or_else(too_large)?;
        let numbers = scratch.take(attention.numbers.max(rows::norm_sums(features)).max(wave).max(taps), 8)?;
        let states = scratch.take(attention.states(), 8)?;
        let cost = levelfold::plan::cost::step_cost(plan, &levelfold::plan::StepKind::Encode(encode.clone()));
        Ok(EncodeStep {
            isa,
            kernel,
            kernels,
            ops,
            last: select(dtype)?,
            write: encode.write,
            rows,
            features,
            stride,
            tile_rows,
            params,
            tasks: Vec::new(),
            read: cost.read,
            written: cost.written,
            tile,
            other,
            input,
            numbers,
            states,
            scratch_bytes: scratch.bytes(),
        })
    }

    /// Cuts the rows into tasks of whole tiles.
    pub(crate) fn cut(&mut self, tasks: usize) {
        let each = self.rows.div_ceil(tasks.max(1)).next_multiple_of(self.tile_rows.min(BLOCK_ROWS)).max(1);
        let count = if self.features == 0 { 0 } else { self.rows.div_ceil(each) };
        self.tasks = (0..count).map(|task| task * each..self.rows.min((task + 1) * each)).collect();
    }

    /// Runs one task.
    ///
    /// # Safety
    /// The memory of every view is valid for the shapes of the plan; `scratch` is this thread's own; params are prepared; no other task has
    /// these rows.
    pub(crate) unsafe fn run(&self, task: Range<usize>, memory: &[Memory], tables: &TableSet, params: *const u8, scratch: *mut u8) {
        let run = Run { step: self, memory, tables, params, scratch };
        let mut row = task.start;
        while row < task.end {
            let end = run.tile_end(row, task.end);
            // SAFETY: the caller's promise; tiles are inside the task.
            unsafe { run.tile(row, end - row) };
            row = end;
        }
    }
}

pub(super) fn too_large() -> Error {
    Error::new(ErrorCode::Overflow, "the scratch of an encoder cannot be addressed")
}

/// One thread at work on an encoder.
struct Run<'a> {
    step: &'a EncodeStep,
    memory: &'a [Memory],
    tables: &'a TableSet,
    params: *const u8,
    scratch: *mut u8,
}

impl Run<'_> {
    fn param(&self, param: &Option<Param>) -> *const u8 {
        param.as_ref().map_or(std::ptr::null(), |param| self.params.wrapping_add(param.offset))
    }

    fn offsets(&self, table: TableId) -> &[u64] {
        self.tables.get(table).offsets().unwrap_or(&[])
    }

    /// Where the tile that begins at `row` ends: of attention, where a block of its segment does.
    fn tile_end(&self, row: usize, last: usize) -> usize {
        let end = last.min(row + self.step.tile_rows);
        let KernelRun::Attend { table, .. } = &self.step.kernel else { return end };
        if end == self.step.rows {
            return end;
        }
        let segment = segment_of(self.offsets(*table), end);
        let aligned = segment.start + (end - segment.start) / BLOCK_ROWS * BLOCK_ROWS;
        if aligned > row { aligned } else { end }
    }

    unsafe fn tile(&self, row: usize, rows: usize) {
        let step = self.step;
        let (mut tile, mut other) = (self.scratch.wrapping_add(step.tile), self.scratch.wrapping_add(step.other));
        let input = self.scratch.wrapping_add(step.input);
        let numbers = self.scratch.wrapping_add(step.numbers);
        let count = rows * step.stride;
        let write = self.memory[step.write.index()];
        // SAFETY: the caller's promise; scratch is as large as was asked for.
        unsafe {
            if self.kernel(row, rows, tile, write) {
                return;
            }
            (step.kernels.round)(tile, count);
            for op in &step.ops {
                let rounds = match op {
                    OpRun::Activate(kernels, activation) => {
                        (kernels.activate)(*activation, tile, count);
                        kernels
                    }
                    OpRun::Scale(kernels, by) => {
                        (kernels.scale)(*by, tile, count);
                        kernels
                    }
                    OpRun::Add(kernels, view) => {
                        (kernels.load)(&self.memory[view.index()], row, rows, input, step.stride);
                        (kernels.add)(tile, input, count);
                        kernels
                    }
                    OpRun::Norm { kernels, weight, bias, eps, centered } => {
                        let weight = self.params.wrapping_add(weight.offset);
                        let norm = rows::Norm { weight, bias: self.param(bias), eps: *eps, centered: *centered };
                        (kernels.norm)(tile, count, step.stride, step.features, &norm, numbers);
                        kernels
                    }
                    OpRun::Positions { kernels, table, wave } => {
                        each_position(self.offsets(*table), row, rows, |index, position| {
                            let from = wave.row(self.params, position, numbers);
                            (kernels.add)(tile.wrapping_add(index * step.stride * kernels.size), from, step.stride);
                        });
                        kernels
                    }
                    OpRun::Learned { kernels, table, positions } => {
                        each_position(self.offsets(*table), row, rows, |index, position| {
                            let from = self.params.wrapping_add(positions.offset + position * step.stride * kernels.size);
                            (kernels.add)(tile.wrapping_add(index * step.stride * kernels.size), from, step.stride);
                        });
                        kernels
                    }
                    OpRun::Rotate { kernels, table, wave, columns, width } => {
                        each_position(self.offsets(*table), row, rows, |index, position| {
                            let turns = wave.row(self.params, position, numbers);
                            let to = tile.wrapping_add(index * step.stride * kernels.size);
                            (kernels.rotate)(to, step.stride, *columns, *width, turns);
                        });
                        kernels
                    }
                    OpRun::Cast(from, to, dtype) => {
                        from.cast_to(*dtype)(tile, other, count);
                        std::mem::swap(&mut tile, &mut other);
                        to
                    }
                    OpRun::Custom(kernels, encoder) => {
                        for index in 0..rows {
                            let row = tile.wrapping_add(index * step.stride * kernels.size);
                            if kernels.size == 8 {
                                encoder.encode_f64(std::slice::from_raw_parts_mut(row.cast(), step.features));
                            } else {
                                encoder.encode_f32(std::slice::from_raw_parts_mut(row.cast(), step.features));
                            }
                        }
                        kernels
                    }
                };
                (rounds.round)(tile, count);
            }
            (step.last.store)(tile, step.stride, &write, row, rows);
        }
    }

    /// Makes the rows of a tile; or, where nothing follows, those of the result, and says so.
    unsafe fn kernel(&self, row: usize, rows: usize, tile: *mut u8, write: Memory) -> bool {
        let step = self.step;
        let (kernels, size) = (&step.kernels, step.kernels.size);
        let input = self.scratch.wrapping_add(step.input);
        let numbers = self.scratch.wrapping_add(step.numbers);
        // SAFETY: the caller's promise.
        unsafe {
            match &step.kernel {
                KernelRun::Map { rows: from } => (kernels.load)(&self.memory[from.index()], row, rows, tile, step.stride),
                KernelRun::MatMul { rows: from, depth, weight, bias, own } => {
                    let from = &self.memory[from.index()];
                    let (x, x_stride) = if *own && from.is_dense() {
                        (from.row(row).cast_const(), from.row_stride / size as isize)
                    } else {
                        (kernels.load)(from, row, rows, input, *depth);
                        (input.cast_const(), *depth as isize)
                    };
                    let direct = *own && step.ops.is_empty() && write.is_dense();
                    let (out, out_stride) =
                        if direct { (write.row(row), write.row_stride / size as isize) } else { (tile, step.stride as isize) };
                    let bias = self.param(bias);
                    let mut column = 0;
                    while column < step.features {
                        let columns = kernels.panel.min(step.features - column);
                        (kernels.product)(&matmul::Product {
                            x,
                            x_stride,
                            x_step: 1,
                            rows,
                            depth: *depth,
                            b: self.params.wrapping_add(weight.offset + column * depth * size),
                            b_stride: kernels.panel,
                            first: if bias.is_null() { bias } else { bias.wrapping_add(column * size) },
                            out: out.wrapping_add(column * size),
                            out_stride,
                            columns,
                            exact: direct,
                        });
                        column += columns;
                    }
                    return direct;
                }
                KernelRun::Attend { qkv, table, shape } => {
                    let (mut at, end) = (row, row + rows);
                    let offsets = self.offsets(*table);
                    let mut index = index_of(offsets, row);
                    while at < end {
                        let segment = segment_at(offsets, index);
                        let segments = if at == segment.start { attend::together(&offsets[index..], end) } else { 1 };
                        let next = if segments > 1 {
                            offsets[index + segments] as usize
                        } else {
                            let block_end = segment.start + ((at - segment.start) / BLOCK_ROWS + 1) * BLOCK_ROWS;
                            end.min(segment.end).min(block_end)
                        };
                        (kernels.attend)(
                            shape,
                            &attend::Queries {
                                isa: step.isa,
                                qkv: self.memory[qkv.index()],
                                offsets: &offsets[index..=index + segments],
                                row: at,
                                rows: next - at,
                                out: tile.wrapping_add((at - row) * step.stride * size),
                                stride: step.stride,
                                numbers,
                                states: self.scratch.wrapping_add(step.states).cast(),
                            },
                        );
                        at = next;
                        while at < end && offsets[index + 1] as usize <= at {
                            index += 1;
                        }
                    }
                }
                KernelRun::Convolve { rows: from, table, taps, before, weight, bias, own } => {
                    let from = &self.memory[from.index()];
                    let offsets = self.offsets(*table);
                    // Rows of other segments are not looked at, and may not be there.
                    let first = row.saturating_sub(*before).max(segment_of(offsets, row).start);
                    let last = (row + rows + taps - 1 - before).min(segment_of(offsets, row + rows - 1).end);
                    let own = *own && from.is_dense();
                    if !own {
                        (kernels.load)(from, first, last - first, input, step.stride);
                    }
                    let looked = std::slice::from_raw_parts_mut(numbers.cast::<*const u8>(), *taps);
                    let mut index = index_of(offsets, row);
                    for at in row..row + rows {
                        while offsets[index + 1] as usize <= at {
                            index += 1;
                        }
                        let segment = segment_at(offsets, index);
                        for (tap, looked) in looked.iter_mut().enumerate() {
                            let there = (at + tap).checked_sub(*before).filter(|there| segment.contains(there));
                            *looked = there.map_or(std::ptr::null(), |there| {
                                if own { from.row(there) } else { input.wrapping_add((there - first) * step.stride * size) }
                            });
                        }
                        let taps = rows::Taps {
                            rows: &[],
                            weight: self.params.wrapping_add(weight.offset),
                            bias: self.param(bias),
                            stride: step.stride,
                            out: tile.wrapping_add((at - row) * step.stride * size),
                            features: step.features,
                        };
                        (kernels.convolve)(looked, &taps);
                    }
                }
            }
        }
        false
    }
}

/// The segment that a row is in, by its number.
fn index_of(offsets: &[u64], row: usize) -> usize {
    offsets.partition_point(|offset| *offset as usize <= row) - 1
}

fn segment_at(offsets: &[u64], index: usize) -> Range<usize> {
    offsets[index] as usize..offsets[index + 1] as usize
}

fn segment_of(offsets: &[u64], row: usize) -> Range<usize> {
    segment_at(offsets, index_of(offsets, row))
}

/// Calls with each row's number in the tile and its position in its segment.
fn each_position(offsets: &[u64], row: usize, rows: usize, mut each: impl FnMut(usize, usize)) {
    let mut index = index_of(offsets, row);
    for at in row..row + rows {
        while offsets[index + 1] as usize <= at {
            index += 1;
        }
        each(at - row, at - offsets[index] as usize);
    }
}

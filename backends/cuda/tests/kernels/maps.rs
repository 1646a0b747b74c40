//! Operations on whole rows: lists of them over rows that lie anyhow, against the operations themselves.

use crate::memory::{Block, POISON};
use crate::random::Random;
use crate::{compile, oracle, schedules};
use levelfold::DType;
use levelfold::encoder::{Activation, ElementOp, Number};
use levelfold::numerics::encoders::{operated, rounded};
use levelfold_cuda::args::{MOST_MAP_OPS, MOST_MAP_OTHERS, MapArgs, MapOp, MapRows, map_elements, move_blocks};
use levelfold_cuda::spec::{ADD_CODE, KernelSpec, MOVE_THREADS, dtype_code, element_code};
use levelfold_cuda_shim::{Flavour, Module, skip};

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// Rows in memory of exactly their size: the first element is `start` bytes behind its beginning.
struct Rows {
    memory: Block,
    start: usize,
    row_stride: isize,
    column_stride: isize,
    dtype: DType,
}

/// What is done to rows.
enum Op {
    Element(ElementOp),
    /// Adds some of the other rows.
    Add(usize),
}

impl Rows {
    /// Some rows that lie in one way of many, or of those that are read several elements at once. What is read may be there once for all rows.
    fn blank(random: &mut Random, dtype: DType, [rows, columns]: [usize; 2], at_once: bool, is_read: bool) -> Rows {
        let size = dtype.size();
        let (row, column, backwards) = match random.in_range(if at_once { 2 } else { 0 }, if is_read { 6 } else { 5 }) {
            0 => (size, size * (rows + 1), false),
            1 => (size * (columns + 3), size, false),
            2 if at_once => (size * (columns + 4), size, false),
            2 => (size * 2 * columns, size * 2, false),
            3 => (size * columns, size, true),
            4 => (size * columns, size, false),
            _ => (0, size, false),
        };
        let start = if backwards { (rows - 1) * row } else { 0 };
        let memory = Block::poisoned((rows - 1) * row + (columns - 1) * column + size);
        let signed = |stride: usize| isize::try_from(stride).expect("small");
        let row_stride = if backwards { -signed(row) } else { signed(row) };
        Rows { memory, start, row_stride, column_stride: signed(column), dtype }
    }

    /// Rows of numbers, NaN and infinities among them.
    fn random(random: &mut Random, dtype: DType, shape: [usize; 2], at_once: bool) -> Rows {
        let mut made = Rows::blank(random, dtype, shape, at_once, true);
        for row in 0..shape[0] {
            for column in 0..shape[1] {
                let x = match random.below(40) {
                    0 => random.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, -3e-7, 60_000.0]),
                    _ => random.unit() * 6.0,
                };
                let (at, bits) = (made.at(row, column), oracle::nearest(dtype, x));
                made.memory.put(at, dtype.size(), bits);
            }
        }
        made
    }

    fn at(&self, row: usize, column: usize) -> usize {
        let signed = |index: usize| isize::try_from(index).expect("small");
        self.start.checked_add_signed(signed(row) * self.row_stride + signed(column) * self.column_stride).expect("inside")
    }

    fn number(&self, row: usize, column: usize) -> f64 {
        oracle::number(self.dtype, self.memory.get(self.at(row, column), self.dtype.size()))
    }

    fn args(&self) -> MapRows {
        MapRows {
            address: self.memory.address() + self.start as u64,
            row_stride: self.row_stride as i64,
            column_stride: self.column_stride as i64,
        }
    }

    fn has_units(&self, columns: usize, elements: u32) -> bool {
        let bytes = u64::from(elements) * self.dtype.size() as u64;
        let MapRows { address, row_stride, column_stride } = self.args();
        column_stride.unsigned_abs() == self.dtype.size() as u64
            && columns.is_multiple_of(elements as usize)
            && address.is_multiple_of(bytes)
            && row_stride.unsigned_abs().is_multiple_of(bytes)
    }
}

fn some_op(random: &mut Random, others: &mut Vec<DType>, dtype: DType) -> Op {
    match random.below(10) {
        0..=4 => Op::Element(ElementOp::Activate(random.pick(&Activation::ALL))),
        5 | 6 => Op::Element(ElementOp::Scale(Number(random.pick(&[1.0 / 3.0, -0.0, 1e30, -7.25])))),
        7 => Op::Element(ElementOp::Cast(random.pick(&FLOATS))),
        _ if others.len() == MOST_MAP_OTHERS => Op::Element(ElementOp::Scale(Number(2.0))),
        _ => {
            others.push(dtype);
            Op::Add(others.len() - 1)
        }
    }
}

/// One number after an operation.
fn done(op: &Op, dtype: &mut DType, x: f64, others: &[Rows], row: usize, column: usize) -> f64 {
    match op {
        Op::Element(op) => {
            let made = operated(&[*op], *dtype, x);
            *dtype = levelfold::encoder::dtype_after(&[*op], *dtype);
            made
        }
        Op::Add(other) => {
            let y = others[*other].number(row, column);
            let sum = if *dtype == DType::F64 { x + y } else { f64::from(x as f32 + y as f32) };
            rounded(*dtype, sum)
        }
    }
}

/// Runs lists of operations over random rows; how many, and how many of them went over several elements at once.
///
/// # Errors
/// The first number that is not what is wanted.
pub(crate) fn maps(maps: &Module, seeds: std::ops::Range<u64>) -> Result<(u64, u64), String> {
    let (mut done_cases, mut at_once_cases) = (0, 0);
    for seed in seeds {
        let mut random = Random(seed);
        let source_type = random.pick(&FLOATS);
        let rows = usize::try_from(random.pick(&[1, 2, 5, 33, 300])).expect("small");
        let columns = usize::try_from(random.pick(&[1, 2, 3, 4, 7, 8, 16, 33, 64, 5000])).expect("small");
        let (rows, columns) = if columns == 5000 { (rows.min(3), columns) } else { (rows, columns) };
        let together = random.one_in(2);
        let columns = if together { columns.next_multiple_of(4) } else { columns };
        let mut dtype = source_type;
        let (mut ops, mut other_types) = (Vec::new(), Vec::new());
        let count = if random.one_in(20) { MOST_MAP_OPS as u64 } else { random.below(6) };
        for _ in 0..count {
            let op = some_op(&mut random, &mut other_types, dtype);
            if let Op::Element(ElementOp::Cast(to)) = op {
                dtype = to;
            }
            ops.push((op, dtype));
        }
        let source = Rows::random(&mut random, source_type, [rows, columns], together);
        let others: Vec<Rows> = other_types.iter().map(|&dtype| Rows::random(&mut random, dtype, [rows, columns], together)).collect();
        let mut target = Rows::blank(&mut random, dtype, [rows, columns], together, false);
        let wide = source_type == DType::F64 || ops.iter().any(|&(_, dtype)| dtype == DType::F64);
        let at_once = [&source, &target].into_iter().chain(&others).all(|side| side.has_units(columns, map_elements(wide)));
        let elements = if at_once { map_elements(wide) } else { 1 };
        let mut args = MapArgs {
            source: source.args(),
            target: target.args(),
            rows: rows as u64,
            units: u32::try_from(columns).expect("few") / elements,
            elements,
            source_type: dtype_code(source_type),
            op_count: u32::try_from(ops.len()).expect("few"),
            ops: [MapOp::default(); MOST_MAP_OPS],
            others: [MapRows::default(); MOST_MAP_OTHERS],
        };
        for (to, (op, dtype)) in args.ops.iter_mut().zip(&ops) {
            let (kind, number) = match op {
                Op::Element(op) => (element_code(*op).0, element_code(*op).1.to_bits()),
                Op::Add(other) => (ADD_CODE, *other as u64),
            };
            *to = MapOp { number, kind, dtype: dtype_code(*dtype) };
        }
        for (to, other) in args.others.iter_mut().zip(&others) {
            *to = other.args();
        }
        let mut wanted = vec![POISON; target.memory.bytes().len()];
        for row in 0..rows {
            for column in 0..columns {
                let mut dtype = source_type;
                let x = rounded(dtype, source.number(row, column));
                let made = ops.iter().fold(x, |x, (op, _)| done(op, &mut dtype, x, &others, row, column));
                let (at, size) = (target.at(row, column), dtype.size());
                wanted[at..at + size].copy_from_slice(&oracle::nearest(dtype, made).to_le_bytes()[..size]);
            }
        }
        // Fewer blocks than chunks: each then takes several.
        let blocks = move_blocks(args.rows, u64::from(args.units));
        let blocks = if random.one_in(2) { blocks.div_ceil(3) } else { blocks };
        let entry = if wide { "lf_map_wide" } else { "lf_map" };
        for schedule in schedules(seed) {
            target.memory.bytes_mut().fill(POISON);
            // SAFETY: every address is a block of the sizes that the interface asks for.
            unsafe { maps.kernel(entry)?.launch(blocks, MOVE_THREADS, 0, &args, schedule) }
                .map_err(|error| format!("map, seed {seed:#x}, {schedule:?}: {error}"))?;
            if let Some(at) = (0..wanted.len()).find(|&at| target.memory.bytes()[at] != wanted[at]) {
                return Err(format!(
                    "map, seed {seed:#x}, {schedule:?}: byte {at} is {}, and not {}",
                    target.memory.bytes()[at],
                    wanted[at]
                ));
            }
        }
        done_cases += 1;
        at_once_cases += u64::from(at_once);
    }
    Ok((done_cases, at_once_cases))
}

pub(crate) const SEEDS: u64 = 0x3a9_0000;

#[test]
fn operations_on_rows_give_the_wanted_bits_under_every_schedule() {
    let shim = match crate::shim(Flavour::Plain) {
        Ok(shim) => shim,
        Err(reason) => return skip("operations on rows", &reason),
    };
    let module = compile(&shim, &KernelSpec::Maps, &KernelSpec::Maps.source()).expect("the maps compile");
    let (cases, at_once) = maps(&module, SEEDS..SEEDS + 400).unwrap_or_else(|error| panic!("{error}"));
    assert!(at_once > cases / 3, "{at_once} of {cases}");
    report!("2 kernels, 3 schedules, {cases} lists of operations on rows, {at_once} over several elements at once: all bits as wanted");
}

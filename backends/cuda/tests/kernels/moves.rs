//! What surrounds the folds: layouts, copies, fills, roundings.

use crate::memory::{Block, POISON};
use crate::random::Random;
use crate::{compile, oracle, schedules, specs};
use levelfold::{DType, Reducer};
use levelfold_cuda::args::{CopyArgs, FillArgs, FinishArgs, FinishGroup, LayoutArgs, layout, move_blocks};
use levelfold_cuda::spec::{FINISH_COLUMNS, FINISH_THREADS, KernelSpec, MOVE_THREADS, ddof, dtype_code, planes, reducer_code};
use levelfold_cuda_shim::{Flavour, Module, Schedule, skip};

fn moves(what: &str) -> Option<Module> {
    match crate::shim(Flavour::Plain) {
        Ok(shim) => Some(compile(&shim, &KernelSpec::Moves, &KernelSpec::Moves.source()).expect("the moves compile")),
        Err(reason) => {
            skip(what, &reason);
            None
        }
    }
}

#[test]
fn host_and_kernels_lay_out_their_structures_alike() {
    let Some(moves) = moves("layouts") else { return };
    let wanted = layout();
    let out = Block::poisoned(4 * wanted.len());
    let args = LayoutArgs { out: out.address() };
    // SAFETY: the kernel writes as many numbers as the host has.
    unsafe { moves.kernel("lf_layout").expect("a kernel").launch(1, 1, 0, &args, Schedule::Forward) }.expect("a launch");
    let found: Vec<u32> = out.bytes().chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect();
    assert_eq!(found, wanted);
    println!("{} sizes and offsets are the same", wanted.len());
}

/// One side of a copy.
enum Side {
    Rows { row_stride: usize, column_stride: usize },
    FeatureMajor,
}

/// Runs copies of random shapes.
///
/// # Errors
/// The first unit that is not where it should be.
pub(crate) fn copies(moves: &Module, seeds: std::ops::Range<u64>) -> Result<u64, String> {
    let mut done = 0;
    for seed in seeds {
        let mut random = Random(seed);
        let unit = usize::try_from(random.pick(&[1u32, 2, 4, 8, 16])).expect("small");
        let columns = usize::try_from(random.pick(&[1, 2, 3, 7, 16, 33, 100, 5000])).expect("small");
        let mut lengths: Vec<u64> = (0..random.in_range(1, 60)).map(|_| random.below(12) * random.below(3)).collect();
        if columns < 10 && random.one_in(3) {
            lengths.push(3000);
        }
        let mut offsets = vec![0u64];
        for length in &lengths {
            offsets.push(offsets.last().expect("one") + length);
        }
        let rows = usize::try_from(*offsets.last().expect("one")).expect("small");
        if rows == 0 {
            continue;
        }
        let total = rows as u64;
        let starts: Option<Vec<u64>> = random.one_in(3).then(|| lengths.iter().map(|len| random.below(total + 5 - len)).collect());
        let ids: Option<Vec<u64>> = (starts.is_none() && random.one_in(3)).then(|| (0..rows).map(|_| random.below(20)).collect());
        let source_rows = if ids.is_some() { 20 } else { rows + 5 };
        let side = |random: &mut Random, rows: usize, packed: bool| match random.below(4) {
            0 if packed => Side::FeatureMajor,
            1 => Side::Rows { row_stride: unit, column_stride: unit * (rows + 1) },
            2 => Side::Rows { row_stride: unit * (columns + 2), column_stride: unit },
            _ => Side::Rows { row_stride: unit * columns, column_stride: unit },
        };
        let from = side(&mut random, source_rows, ids.is_none() && starts.is_none());
        let to = side(&mut random, rows, true);
        let length = |side: &Side, rows: usize| match side {
            Side::FeatureMajor => rows * columns * unit,
            Side::Rows { row_stride, column_stride } => (rows - 1) * row_stride + (columns - 1) * column_stride + unit,
        };
        let mut source = Block::poisoned(length(&from, if matches!(from, Side::FeatureMajor) { rows } else { source_rows }));
        source.bytes_mut().iter_mut().for_each(|byte| *byte = (random.bits() & 0xff) as u8);
        let target = Block::poisoned(length(&to, rows));
        let mut wanted = vec![POISON; target.bytes().len()];
        let place = |side: &Side, segment: usize, position: usize, row: usize, column: usize| match side {
            Side::FeatureMajor => {
                let start = usize::try_from(offsets[segment]).expect("small");
                (start * columns + column * usize::try_from(lengths[segment]).expect("small") + (position - start)) * unit
            }
            Side::Rows { row_stride, column_stride } => row * row_stride + column * column_stride,
        };
        let segments = (0..lengths.len()).flat_map(|s| (offsets[s]..offsets[s + 1]).map(move |p| (s, p)));
        for (segment, position) in segments {
            let row = match (&ids, &starts) {
                (Some(ids), _) => ids[usize::try_from(position).expect("small")],
                (None, Some(starts)) => starts[segment] + position - offsets[segment],
                (None, None) => position,
            };
            let (position, row) = (usize::try_from(position).expect("small"), usize::try_from(row).expect("small"));
            for column in 0..columns {
                let read = place(&from, segment, position, row, column);
                let write = place(&to, segment, position, position, column);
                wanted[write..write + unit].copy_from_slice(&source.bytes()[read..read + unit]);
            }
        }
        let id_bytes = random.pick(&[1usize, 2, 4, 8]);
        let mut id_memory = Block::poisoned(rows * id_bytes);
        for (row, &id) in ids.iter().flatten().enumerate() {
            id_memory.put(row * id_bytes, id_bytes, id);
        }
        let table = Block::of(&offsets);
        let shifts =
            starts.as_ref().map(|starts| Block::of(&starts.iter().zip(&offsets).map(|(s, o)| s.wrapping_sub(*o)).collect::<Vec<_>>()));
        let strides = |side: &Side| match side {
            Side::FeatureMajor => (0, 0),
            Side::Rows { row_stride, column_stride } => (*row_stride as i64, *column_stride as i64),
        };
        let packed = |side: &Side| u32::from(matches!(side, Side::FeatureMajor));
        let args = CopyArgs {
            source: source.address(),
            source_row_stride: strides(&from).0,
            source_column_stride: strides(&from).1,
            target: target.address(),
            target_row_stride: strides(&to).0,
            target_column_stride: strides(&to).1,
            ids: if ids.is_some() { id_memory.address() } else { 0 },
            id_stride: id_bytes as i64,
            offsets: if shifts.is_some() || packed(&from) + packed(&to) > 0 { table.address() } else { 0 },
            shifts: shifts.as_ref().map_or(0, Block::address),
            segments: lengths.len() as u64,
            rows: total,
            columns: u32::try_from(columns).expect("few"),
            unit: u32::try_from(unit).expect("small"),
            id_bytes: u32::try_from(id_bytes).expect("small"),
            source_feature_major: packed(&from),
            target_feature_major: packed(&to),
            reserved: 0,
        };
        // Fewer blocks than chunks: each then takes several.
        let blocks = move_blocks(total, columns as u64);
        let blocks = if random.one_in(2) { blocks.div_ceil(3) } else { blocks };
        for schedule in schedules(seed) {
            // SAFETY: every address is a block of the sizes that the interface asks for.
            unsafe { moves.kernel("lf_copy")?.launch(blocks, MOVE_THREADS, 0, &args, schedule) }
                .map_err(|error| format!("copy, seed {seed:#x}, {schedule:?}: {error}"))?;
            if target.bytes() != wanted {
                return Err(format!("copy, seed {seed:#x}, {schedule:?}: other bytes than wanted"));
            }
        }
        done += 1;
    }
    Ok(done)
}

#[test]
fn copies_move_every_unit_to_its_place() {
    let Some(moves) = moves("copies") else { return };
    let cases = copies(&moves, 0xc0b1_0000..0xc0b1_0078).unwrap_or_else(|error| panic!("{error}"));
    report!("1 kernel, 3 schedules, {cases} copies: all bytes as wanted");
}

/// Runs second passes over random partials: as many as a block takes, of several segments, and with weights.
///
/// # Errors
/// The first result that has other bits than wanted.
pub(crate) fn finishes(moves: &Module, seeds: std::ops::Range<u64>) -> Result<u64, String> {
    let mut done = 0;
    for seed in seeds {
        let mut random = Random(seed);
        let reducer = if random.one_in(3) { Reducer::Mean } else { random.pick(&specs::REDUCERS) };
        let weighted = reducer == Reducer::Mean && random.one_in(2);
        let features = usize::try_from(random.pick(&[1, 5, 31, 32, 33, 70])).expect("small");
        let counts: Vec<u64> = (0..random.in_range(1, 4)).map(|_| random.pick(&[1, 2, 31, 32, 33, 97, 200, 255, 256])).collect();
        let pieces = usize::try_from(counts.iter().sum::<u64>()).expect("small");
        let mut number =
            || (random.unit() * 0.5 + 1.0) * if reducer == Reducer::Prod { 1.0 } else { 2f64.powi((random.bits() % 30) as i32) };
        let values: Vec<f64> = (0..pieces * features).map(|_| number()).collect();
        let weights: Vec<f64> = (0..pieces).map(|_| number()).collect();
        let last = random.one_in(2);
        let (mut groups, mut first) = (Vec::new(), 0);
        for (to, &count) in (0u64..).zip(&counts) {
            groups.push(FinishGroup { first, to, rows: count * 32, count: u32::try_from(count).expect("few"), last: u32::from(last) });
            first += count;
        }
        let (source, weight_source, list) = (Block::of(&values), Block::of(&weights), Block::of(&groups));
        let bytes = groups.len() * 8;
        let (target, weight_target, out) = (Block::poisoned(bytes * features), Block::poisoned(bytes), Block::poisoned(bytes * features));
        let args = FinishArgs {
            source: source.address(),
            weight_source: if weighted { weight_source.address() } else { 0 },
            target: target.address(),
            weight_target: weight_target.address(),
            groups: list.address(),
            out: out.address(),
            out_row_stride: 8 * features as i64,
            out_column_stride: 8,
            features: u32::try_from(features).expect("few"),
            reducer: reducer_code(&reducer),
            out_type: dtype_code(DType::F64),
            ddof: 0,
        };
        let blocks = u32::try_from(groups.len() as u64 * (features as u64).div_ceil(FINISH_COLUMNS)).expect("few");
        for schedule in schedules(seed) {
            // SAFETY: every address is a block of the sizes that the interface asks for.
            unsafe { moves.kernel("lf_finish")?.launch(blocks, FINISH_THREADS, 0, &args, schedule) }
                .map_err(|error| format!("finish, seed {seed:#x}, {schedule:?}: {error}"))?;
            for group in &groups {
                let rows = group.first..group.first + u64::from(group.count);
                let index = |piece: u64| usize::try_from(piece).expect("small");
                let weight = oracle::paired(Reducer::Sum, rows.clone().map(|piece| weights[index(piece)]).collect());
                for feature in 0..features {
                    let paired =
                        oracle::paired(reducer.clone(), rows.clone().map(|piece| values[index(piece) * features + feature]).collect());
                    let wanted = match (last, reducer.clone()) {
                        (true, Reducer::Mean) => paired / if weighted { weight } else { group.rows as f64 },
                        _ => paired,
                    };
                    let at = (index(group.to) * features + feature) * 8;
                    let found = f64::from_bits(if last { &out } else { &target }.get(at, 8));
                    if found.to_bits() != wanted.to_bits() {
                        return Err(format!("finish, seed {seed:#x}, {schedule:?}: {reducer} is {found:?}, and not {wanted:?}"));
                    }
                }
                let found = f64::from_bits(weight_target.get(index(group.to) * 8, 8));
                if weighted && !last && found.to_bits() != weight.to_bits() {
                    return Err(format!("finish, seed {seed:#x}, {schedule:?}: weights are {found:?}, and not {weight:?}"));
                }
            }
        }
        done += 1;
    }
    Ok(done)
}

#[test]
fn second_passes_pair_partials_as_they_must() {
    let Some(moves) = moves("second passes") else { return };
    let cases = finishes(&moves, 0xf101_0000..0xf101_0050).unwrap_or_else(|error| panic!("{error}"));
    report!("1 kernel, 3 schedules, {cases} second passes: all bits as wanted");
}

/// The same of a reducer with a state.
///
/// # Errors
/// As above.
pub(crate) fn finishes_of_states(reducer: &Reducer, finish: &Module, seeds: std::ops::Range<u64>) -> Result<u64, String> {
    let tree = usize::try_from(planes(reducer).tree).expect("few");
    let mut done = 0;
    for seed in seeds {
        let mut random = Random(seed);
        let features = usize::try_from(random.pick(&[1, 5, 31, 32, 33, 70])).expect("small");
        let counts: Vec<u64> = (0..random.in_range(1, 4)).map(|_| random.pick(&[1, 2, 31, 32, 33, 97, 200, 255, 256])).collect();
        let pieces = usize::try_from(counts.iter().sum::<u64>()).expect("small");
        let values: Vec<f64> = (0..pieces * tree * features).map(|_| random.unit().abs() * 20.0).collect();
        let last = random.one_in(2);
        let (mut groups, mut first) = (Vec::new(), 0);
        for (to, &count) in (0u64..).zip(&counts) {
            groups.push(FinishGroup { first, to, rows: count * 64, count: u32::try_from(count).expect("few"), last: u32::from(last) });
            first += count;
        }
        let (source, list) = (Block::of(&values), Block::of(&groups));
        let (target, out) = (Block::poisoned(groups.len() * tree * features * 8), Block::poisoned(groups.len() * features * 8));
        let dtype = if reducer.gives_positions() { DType::I64 } else { DType::F64 };
        let args = FinishArgs {
            source: source.address(),
            weight_source: 0,
            target: target.address(),
            weight_target: 0,
            groups: list.address(),
            out: out.address(),
            out_row_stride: 8 * features as i64,
            out_column_stride: 8,
            features: u32::try_from(features).expect("few"),
            reducer: reducer_code(reducer),
            out_type: dtype_code(dtype),
            ddof: ddof(reducer),
        };
        let blocks = u32::try_from(groups.len() as u64 * (features as u64).div_ceil(FINISH_COLUMNS)).expect("few");
        for schedule in schedules(seed) {
            // SAFETY: every address is a block of the sizes that the interface asks for.
            unsafe { finish.kernel("lf_finish_states")?.launch(blocks, FINISH_THREADS, 0, &args, schedule) }
                .map_err(|error| format!("finish of {reducer}, seed {seed:#x}, {schedule:?}: {error}"))?;
            for group in &groups {
                for feature in 0..features {
                    let number =
                        |piece: u64, plane: usize| values[(usize::try_from(piece).expect("small") * tree + plane) * features + feature];
                    let state = |piece| std::array::from_fn(|plane| if plane < tree { number(piece, plane) } else { 0.0 });
                    let states = (group.first..group.first + u64::from(group.count)).map(state).collect();
                    let (paired, result) = oracle::paired_states(reducer, states, group.rows as f64);
                    let row = usize::try_from(group.to).expect("small");
                    let wrong = |found: f64, wanted: f64| {
                        Err(format!("finish of {reducer}, seed {seed:#x}, {schedule:?}: {found:?}, and not {wanted:?}"))
                    };
                    if last {
                        let found = out.get((row * features + feature) * 8, 8);
                        if found != oracle::nearest(dtype, result) {
                            return wrong(oracle::number(dtype, found), result);
                        }
                        continue;
                    }
                    for (plane, &wanted) in paired.iter().enumerate().take(tree) {
                        let found = f64::from_bits(target.get(((row * tree + plane) * features + feature) * 8, 8));
                        if found.to_bits() != wanted.to_bits() {
                            return wrong(found, wanted);
                        }
                    }
                }
            }
        }
        done += 1;
    }
    Ok(done)
}

#[test]
fn second_passes_pair_states_as_they_must() {
    let shim = match crate::shim(Flavour::Plain) {
        Ok(shim) => shim,
        Err(reason) => return skip("second passes of states", &reason),
    };
    let (mut kernels, mut cases) = (0, 0);
    for spec in specs::all_finishing() {
        let KernelSpec::FinishStates(reducer) = &spec else { continue };
        let finish = compile(&shim, &spec, &spec.source()).unwrap_or_else(|log| panic!("{reducer}: {log}"));
        cases += finishes_of_states(reducer, &finish, 0xf15_7000..0xf15_7010).unwrap_or_else(|error| panic!("{error}"));
        kernels += 1;
    }
    report!("{kernels} kernels, 3 schedules, {cases} second passes of states: all bits as wanted");
}

/// Numbers at which a rounding to 16 bits can go wrong: every value, every midpoint, and their neighbours.
pub(crate) fn midpoints(dtype: DType) -> Vec<f64> {
    let mut numbers = vec![f64::NAN, -f64::NAN, f64::INFINITY, 1e300, -1e300, 5e-324, f64::MIN_POSITIVE, -0.0];
    let of = |bits: u64| oracle::number(dtype, bits);
    for bits in 0..0x7fffu64 {
        let (low, high) = (of(bits), of(bits + 1));
        if !low.is_finite() {
            break;
        }
        let next = if high.is_finite() { high } else { low + (low - of(bits - 1)) };
        let middle = low + (next - low) / 2.0;
        numbers.extend([low, middle, middle.next_up(), -middle.next_down(), -middle, middle + (next - middle) * 1e-9]);
    }
    numbers
}

/// Rounds numbers by the second pass over one partial each.
///
/// # Errors
/// The first that is rounded to something else than wanted.
pub(crate) fn roundings(moves: &Module, dtype: DType, numbers: &[f64]) -> Result<(), String> {
    let source = Block::of(numbers);
    let out = Block::poisoned(numbers.len() * dtype.size());
    let groups = Block::of(&[FinishGroup { first: 0, to: 0, rows: 33, count: 1, last: 1 }]);
    let args = FinishArgs {
        source: source.address(),
        weight_source: 0,
        target: 0,
        weight_target: 0,
        groups: groups.address(),
        out: out.address(),
        out_row_stride: 0,
        out_column_stride: dtype.size() as i64,
        features: u32::try_from(numbers.len()).expect("few"),
        reducer: reducer_code(&Reducer::Sum),
        out_type: dtype_code(dtype),
        ddof: 0,
    };
    let blocks = u32::try_from((numbers.len() as u64).div_ceil(FINISH_COLUMNS)).expect("few");
    // SAFETY: every address is a block of the sizes that the interface asks for.
    unsafe { moves.kernel("lf_finish")?.launch(blocks, FINISH_THREADS, 0, &args, Schedule::Forward) }?;
    for (index, &x) in numbers.iter().enumerate() {
        let (found, wanted) = (out.get(index * dtype.size(), dtype.size()), oracle::nearest(dtype, x));
        if found != wanted {
            return Err(format!("{x:?} is rounded to {found:#x} in {dtype}, and not to {wanted:#x}"));
        }
    }
    Ok(())
}

#[test]
fn numbers_are_rounded_once() {
    let Some(moves) = moves("roundings") else { return };
    let mut count = 0;
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let numbers = midpoints(if dtype.size() == 2 { dtype } else { DType::BF16 });
        roundings(&moves, dtype, &numbers).unwrap_or_else(|error| panic!("{error}"));
        count += numbers.len();
    }
    report!("{count} roundings as wanted");
}

#[test]
fn fills_reach_what_they_name_and_nothing_else() {
    let Some(moves) = moves("fills") else { return };
    for (seed, dtype) in (0xf111u64..).zip([DType::F32, DType::F64, DType::F16, DType::BF16]) {
        let mut random = Random(seed);
        let (rows, columns, size) = (200, usize::try_from(random.in_range(1, 70)).expect("small"), dtype.size());
        let named: Vec<u64> = (0..rows as u64).filter(|_| random.one_in(3)).collect();
        let list = Block::of(&named);
        let pitch = size * (columns + 3);
        let out = Block::poisoned(pitch * rows);
        let args = FillArgs {
            rows: list.address(),
            count: named.len() as u64,
            out: out.address(),
            out_row_stride: pitch as i64,
            out_column_stride: size as i64,
            fill: 0.1,
            features: u32::try_from(columns).expect("few"),
            out_type: dtype_code(dtype),
        };
        let mut wanted = vec![POISON; out.bytes().len()];
        for &row in &named {
            for column in 0..columns {
                let at = usize::try_from(row).expect("small") * pitch + column * size;
                wanted[at..at + size].copy_from_slice(&oracle::nearest(dtype, 0.1).to_le_bytes()[..size]);
            }
        }
        let blocks = move_blocks(args.count, columns as u64);
        // SAFETY: every address is a block of the sizes that the interface asks for.
        unsafe { moves.kernel("lf_fill").expect("a kernel").launch(blocks, MOVE_THREADS, 0, &args, Schedule::Reverse) }.expect("a launch");
        assert!(out.bytes() == wanted, "{dtype}");
    }
}

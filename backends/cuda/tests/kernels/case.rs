//! One random fold: what is read, by which tables, cut into which runs, and where results go.

use crate::memory::Block;
use crate::oracle;
use crate::random::Random;
use levelfold::DType;
use levelfold::Reducer;
use levelfold::encoder::dtype_after;
use levelfold::numerics::encoders::operated;
use levelfold_cuda::spec::{Access, FoldSpec, Source};

/// The segments of a stage, by position; at stage 0 perhaps with the row at which each begins.
pub(crate) struct Table {
    pub(crate) offsets: Vec<u64>,
    pub(crate) starts: Option<Vec<u64>>,
}

impl Table {
    /// How many segments.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Positions of a segment.
    pub(crate) fn range(&self, segment: usize) -> std::ops::Range<u64> {
        self.offsets[segment]..self.offsets[segment + 1]
    }

    /// The row of a position of a segment.
    pub(crate) fn row(&self, segment: usize, position: u64) -> u64 {
        match &self.starts {
            Some(starts) => starts[segment] + (position - self.offsets[segment]),
            None => position,
        }
    }
}

/// A column of numbers in memory.
pub(crate) struct Column {
    pub(crate) dtype: DType,
    pub(crate) values: Vec<f64>,
    pub(crate) memory: Block,
    pub(crate) stride: usize,
}

/// Where a reduction's results go.
pub(crate) struct Target {
    pub(crate) memory: Block,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
    /// The first element's place: there may be bytes before it.
    pub(crate) first: usize,
}

/// One reduction of a case.
pub(crate) struct Made {
    pub(crate) weights: Option<Column>,
    pub(crate) fill: f64,
    /// `None` where only the next stage reads it.
    pub(crate) target: Option<Target>,
}

/// A case.
pub(crate) struct Case {
    pub(crate) features: usize,
    pub(crate) tables: Vec<Table>,
    pub(crate) piece_blocks: u64,
    /// Rows (or table rows of a gather), as numbers.
    pub(crate) rows: Vec<Vec<f64>>,
    pub(crate) values: Block,
    pub(crate) first: usize,
    pub(crate) row_stride: i64,
    pub(crate) column_stride: i64,
    pub(crate) ids: Option<(Vec<u64>, Block, u32)>,
    /// In the order of the spec's reductions.
    pub(crate) made: Vec<Made>,
    /// `[row, piece, segments…]`.
    pub(crate) runs: Vec<Vec<u64>>,
    /// (top segment, its first piece, how many).
    pub(crate) long: Vec<(u64, u64, u64)>,
}

impl Case {
    /// A case for a spec.
    pub(crate) fn random(spec: &FoldSpec, random: &mut Random) -> Case {
        let vector = u64::from(spec.vector());
        let features = match random.below(6) {
            0 => 1,
            1 | 2 => random.in_range(1, 8),
            3 | 4 => random.in_range(1, 20),
            _ => random.in_range(20, 45),
        };
        let mut features = usize::try_from(features * vector).expect("small");
        if vector == 8 && features > 160 {
            features = 264;
        }
        let depth = |stage: usize| spec.stages[stage].depth;
        let top = spec.stages.len() - 1;
        let piece_blocks = 1 << random.below(4).min(u64::from(depth(top)));
        let tables = tables(spec, random);
        let positions = *tables[0].offsets.last().expect("offsets");
        let rows_of_input = match &tables[0].starts {
            Some(starts) => (0..tables[0].len()).map(|s| starts[s] + (tables[0].offsets[s + 1] - tables[0].offsets[s])).max().unwrap_or(0),
            None => positions,
        };
        let size = spec.values.size();
        let input_rows = if spec.source == Source::Gather { random.in_range(1, 60) } else { rows_of_input.max(1) };
        let special = random.one_in(3);
        let any = |wanted: fn(&Reducer) -> bool| spec.stages.iter().any(|stage| stage.reductions.iter().any(|made| wanted(&made.reducer)));
        let size_of_values = if any(|reducer| *reducer == Reducer::Prod) {
            Size::One
        } else if any(|reducer| matches!(reducer, Reducer::LogSumExp | Reducer::SoftMax | Reducer::Custom(_))) {
            Size::Exponents
        } else {
            Size::Many
        };
        let rows: Vec<Vec<f64>> =
            (0..input_rows).map(|_| (0..features).map(|_| value(spec.values, special, size_of_values, random)).collect()).collect();
        // Where they lie.
        let bytes = usize::try_from(spec.bytes()).expect("small");
        let pad = bytes * usize::try_from(random.below(3)).expect("small");
        let count = rows.len();
        let (row_stride, column_stride, first, length) = if spec.source == Source::Packed {
            (0, 0, 0, count * features * size)
        } else if bytes == size && random.one_in(2) && !(spec.access == Access::Tile && random.one_in(3)) {
            // Columns apart: transposed, and sometimes with a gap.
            let gap = if spec.access == Access::Tile { size } else { size * usize::try_from(random.in_range(1, 3)).expect("small") };
            let column = gap * count + size * usize::try_from(random.below(3)).expect("small");
            (signed(gap), signed(column), 0, column * features)
        } else {
            let pitch = features * size + if spec.access == Access::Tile && random.one_in(2) { 0 } else { pad };
            let length = pitch * (count - 1) + features * size;
            match random.below(4) {
                0 => (-signed(pitch), signed(size), pitch * (count - 1), length),
                1 if bytes == size => (signed(pitch), -signed(size), (features - 1) * size, length),
                _ => (signed(pitch), signed(size), 0, length),
            }
        };
        let mut values = Block::poisoned(length);
        if spec.source == Source::Packed {
            for segment in 0..tables[0].len() {
                let range = tables[0].range(segment);
                let (from, len) = (usize::try_from(range.start).expect("small"), usize::try_from(range.end - range.start).expect("small"));
                for i in 0..len {
                    for (f, &x) in rows[from + i].iter().enumerate() {
                        values.put((from * features + f * len + i) * size, size, oracle::nearest(spec.values, x));
                    }
                }
            }
        } else {
            for (r, row) in rows.iter().enumerate() {
                for (f, &x) in row.iter().enumerate() {
                    let at = signed(first) + signed(r) * row_stride + signed(f) * column_stride;
                    values.put(usize::try_from(at).expect("inside"), size, bits_of(spec.values, x, random));
                }
            }
        }
        let ids = (spec.source == Source::Gather).then(|| {
            let bytes = random.pick(&[1u32, 2, 4, 8]);
            let ids: Vec<u64> = (0..rows_of_input).map(|_| random.below(input_rows)).collect();
            let size = usize::try_from(bytes).expect("small");
            let mut memory = Block::poisoned(ids.len() * size);
            for (r, &id) in ids.iter().enumerate() {
                memory.put(r * size, size, id);
            }
            (ids, memory, bytes)
        });
        let mut made = Vec::new();
        let mut input = spec.values;
        for (number, stage) in spec.stages.iter().enumerate() {
            let segments = tables[number].len();
            let taken = if number == 0 { rows_of_input } else { tables[number - 1].len() as u64 };
            for (index, reduction) in stage.reductions.iter().enumerate() {
                let fed = spec.stages.get(number + 1).is_some_and(|above| usize::try_from(above.feed) == Ok(index));
                let weights = reduction.weighted.then(|| column(dtype_after(&stage.ops, input), taken, &reduction.reducer, random));
                let kept = !fed || random.one_in(2);
                let target = kept.then(|| target(segments, features, reduction.made(), random));
                let fill = match reduction.dtype {
                    DType::I64 => random.pick(&[0.0, -1.0, 7.0]),
                    _ => random.pick(&[0.0, -0.0, 1.0, -3.5, 0.1, f64::NAN, f64::INFINITY, 1e300]),
                };
                made.push(Made { weights, fill, target });
            }
            if let Some(above) = spec.stages.get(number + 1) {
                input = stage.reductions[usize::try_from(above.feed).expect("small")].made();
            }
        }
        let (runs, long) = cut(&tables, piece_blocks, random);
        Case { features, tables, piece_blocks, rows, values, first, row_stride, column_stride, ids, made, runs, long }
    }

    /// What each reduction has to give: `[segment][feature]`, as bits.
    pub(crate) fn wanted(&self, spec: &FoldSpec) -> Vec<Vec<Vec<u64>>> {
        let mut all: Vec<Vec<Vec<u64>>> = Vec::new();
        let mut below: Option<(Vec<Vec<f64>>, DType)> = None;
        for (number, stage) in spec.stages.iter().enumerate() {
            let table = &self.tables[number];
            let fed = below.as_ref().map_or(spec.values, |(_, dtype)| *dtype);
            let input = dtype_after(&stage.ops, fed);
            let first = all.len();
            for (index, reduction) in stage.reductions.iter().enumerate() {
                let made = &self.made[first + index];
                let result = (0..table.len()).map(|segment| {
                    let range = table.range(segment);
                    let taken: Vec<u64> = range.clone().map(|position| table.row(segment, position)).collect();
                    let weights = made.weights.as_ref().map(|of| taken.iter().map(|&row| of.values[index_of(row)]).collect::<Vec<f64>>());
                    (0..self.features)
                        .map(|feature| {
                            let finished = |x: f64| {
                                let x = oracle::number(reduction.dtype, oracle::nearest(reduction.dtype, x));
                                let x = if reduction.ops.is_empty() { x } else { operated(&reduction.ops, reduction.dtype, x) };
                                oracle::nearest(reduction.made(), x)
                            };
                            if range.is_empty() {
                                return finished(made.fill);
                            }
                            let rows: Vec<f64> = match &below {
                                Some((rows, _)) => taken.iter().map(|&row| rows[index_of(row)][feature]).collect(),
                                None if spec.source == Source::Packed => range.clone().map(|p| self.rows[index_of(p)][feature]).collect(),
                                None => taken.iter().map(|&row| self.rows[self.looked_up(row)][feature]).collect(),
                            };
                            let rows: Vec<f64> = rows.into_iter().map(|x| operated(&stage.ops, fed, x)).collect();
                            finished(oracle::reduce(reduction.reducer.clone(), input, &rows, weights.as_deref()))
                        })
                        .collect()
                });
                all.push(result.collect());
            }
            if let Some(above) = spec.stages.get(number + 1) {
                let fed = first + usize::try_from(above.feed).expect("small");
                let dtype = stage.reductions[usize::try_from(above.feed).expect("small")].made();
                let rows = all[fed].iter().map(|row| row.iter().map(|&bits| oracle::number(dtype, bits)).collect()).collect();
                below = Some((rows, dtype));
            }
        }
        all
    }

    fn looked_up(&self, row: u64) -> usize {
        match &self.ids {
            Some((ids, ..)) => index_of(ids[index_of(row)]),
            None => index_of(row),
        }
    }
}

fn index_of(row: u64) -> usize {
    usize::try_from(row).expect("an index")
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).expect("small")
}

/// Bits of a number: a NaN gets a payload and a sign.
fn bits_of(dtype: DType, x: f64, random: &mut Random) -> u64 {
    let bits = oracle::nearest(dtype, x);
    if x.is_nan() { bits | (random.bits() & 1) | (random.bits() & 1) << (8 * dtype.size() - 1) } else { bits }
}

/// How large numbers are.
#[derive(Clone, Copy)]
enum Size {
    Many,
    /// About 1: products of them stay finite.
    One,
    /// So that their exponentials tell rows apart.
    Exponents,
}

/// A number of a type: of many sizes, with zeros of both signs; NaN, infinities and subnormals too where they are `special`.
fn value(dtype: DType, special: bool, size: Size, random: &mut Random) -> f64 {
    let scale = match (size, dtype) {
        (Size::One, _) => 1.0,
        (Size::Exponents, _) => 2f64.powi(i32::try_from(random.below(9)).expect("small") - 3),
        (Size::Many, DType::F16) => 2f64.powi(i32::try_from(random.below(12)).expect("small") - 6),
        (Size::Many, _) => 2f64.powi(i32::try_from(random.below(40)).expect("small") - 20),
    };
    let x = match random.below(if special { 40 } else { 20 }) {
        0 => -0.0,
        1 => 0.0,
        21 => f64::NAN,
        22 => f64::INFINITY,
        23 => f64::NEG_INFINITY,
        24..28 => random.unit() * 2f64.powi(-136),
        28 => 65504.0,
        29 => 3.3e38,
        _ => random.unit() * scale,
    };
    oracle::number(dtype, oracle::nearest(dtype, x))
}

/// Weights for what is accumulated of a type: not negative, and not 0, as those of a mean; what other reducers take besides.
fn column(input: DType, rows: u64, reducer: &Reducer, random: &mut Random) -> Column {
    let dtypes: &[DType] = match input.accumulator() {
        DType::F64 => &[DType::F32, DType::F64, DType::F16, DType::BF16],
        _ => &[DType::F32, DType::F16, DType::BF16],
    };
    let dtype = random.pick(dtypes);
    let size = dtype.size();
    let stride = size * usize::try_from(random.in_range(1, 4)).expect("small");
    let weight = |random: &mut Random| match reducer {
        Reducer::Sum | Reducer::Mean => random.unit().abs() + 0.01,
        // Scores.
        Reducer::SoftMax if random.one_in(20) => random.pick(&[f64::NEG_INFINITY, 80.0]),
        Reducer::SoftMax => random.unit() * 9.0,
        _ if random.one_in(4) => 0.0,
        _ => random.unit().abs() * 3.0,
    };
    let values: Vec<f64> = (0..rows).map(|_| oracle::number(dtype, oracle::nearest(dtype, weight(random)))).collect();
    let mut memory = Block::poisoned((values.len().max(1) - 1) * stride + size);
    for (r, &w) in values.iter().enumerate() {
        memory.put(r * stride, size, oracle::nearest(dtype, w));
    }
    Column { dtype, values, memory, stride }
}

/// Dense rows, rows with gaps, or columns.
fn target(rows: usize, columns: usize, dtype: DType, random: &mut Random) -> Target {
    let size = dtype.size();
    let gap = size * usize::try_from(random.below(4)).expect("small");
    let first = size * usize::try_from(random.below(2) * random.below(9)).expect("small");
    let (row_stride, column_stride) = match random.below(4) {
        0 => (size, size * rows + gap),
        1 => (columns * size + gap, size),
        2 => ((columns * size).next_multiple_of(16), size),
        _ => (columns * size, size),
    };
    let length = if rows == 0 { 0 } else { (rows - 1) * row_stride + (columns - 1) * column_stride + size };
    Target { memory: Block::poisoned(first + length), row_stride, column_stride, first }
}

/// Lengths of segments: like words, all the same, mostly one, many empty, one that has nearly all, around blocks.
fn lengths(kind: u64, rows: u64, longest: u64, random: &mut Random) -> Vec<u64> {
    let mut lengths = Vec::new();
    let mut sum = 0;
    while sum < rows {
        let length = match kind {
            0 => random.in_range(1, 10),
            1 => 1,
            2 => random.below(4) * random.below(3),
            3 if lengths.len() == 2 => rows,
            3 => random.below(40),
            4 => random.pick(&[31, 32, 33, 63, 64, 65, 96, 97, 127, 128, 129, 0, 1]),
            5 => 64,
            _ => {
                let most = random.below(9);
                random.below(1 << most)
            }
        };
        let length = length.min(longest);
        lengths.push(length);
        sum += length;
        if lengths.len() > 3000 {
            break;
        }
    }
    lengths.extend(std::iter::repeat_n(0, usize::try_from(random.below(4)).expect("small")));
    if random.one_in(4) {
        lengths.insert(0, 0);
    }
    lengths
}

fn tables(spec: &FoldSpec, random: &mut Random) -> Vec<Table> {
    let top = spec.stages.len() - 1;
    let longest = |stage: usize| if stage == top { u64::MAX } else { 32 << spec.stages[stage].depth };
    let rows = match random.below(8) {
        0 => 2600,
        1 => 0,
        _ => random.in_range(1, 500),
    };
    let kind = random.below(7);
    let mut tables = vec![table(&lengths(kind, rows, longest(0), random))];
    let ranges_fit = spec.access != Access::Tile && spec.source != Source::Packed;
    if ranges_fit && random.one_in(3) {
        // The same lengths, anywhere.
        let positions = *tables[0].offsets.last().expect("offsets");
        let starts = (0..tables[0].len()).map(|s| random.below(positions + 20 - (tables[0].offsets[s + 1] - tables[0].offsets[s])));
        tables[0].starts = Some(starts.collect());
    }
    for stage in 1..=top {
        let below = tables[stage - 1].len() as u64;
        let kind = random.below(7);
        let mut lengths = lengths(kind, below, longest(stage), random);
        // They partition what is below.
        let mut sum = 0;
        for length in &mut lengths {
            *length = (*length).min(below - sum);
            sum += *length;
        }
        if sum < below && below - sum <= longest(stage) {
            lengths.push(below - sum);
            sum = below;
        }
        assert_eq!(sum, below, "the segments of a stage are all folded");
        tables.push(table(&lengths));
    }
    tables
}

fn table(lengths: &[u64]) -> Table {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets.last().expect("one") + length);
    }
    Table { offsets, starts: None }
}

type Runs = (Vec<Vec<u64>>, Vec<(u64, u64, u64)>);

/// Cuts into runs, at random ones of the places where cuts may be.
fn cut(tables: &[Table], piece_blocks: u64, random: &mut Random) -> Runs {
    let top = tables.len() - 1;
    let piece_rows = 32 * piece_blocks;
    let keep = random.in_range(1, 12);
    let (mut runs, mut long, mut pieces) = (Vec::new(), Vec::new(), 0);
    for segment in 0..tables[top].len() {
        let range = tables[top].range(segment);
        let is_long = range.end - range.start > piece_rows;
        if is_long {
            long.push((segment as u64, pieces, (range.end - range.start).div_ceil(piece_rows)));
        }
        let step = if is_long { piece_rows } else { (range.end - range.start).max(1) };
        let mut at = range.start;
        while at < range.end {
            if runs.is_empty() || random.one_in(keep) {
                runs.push(record(tables, at, pieces, segment as u64));
            }
            pieces += u64::from(is_long);
            at += step;
        }
    }
    let end = record(tables, *tables[top].offsets.last().expect("offsets"), pieces, tables[top].len() as u64);
    runs.push(end);
    (runs, long)
}

/// The record of a run that begins at a row of the topmost stage.
fn record(tables: &[Table], at: u64, piece: u64, segment: u64) -> Vec<u64> {
    let top = tables.len() - 1;
    let mut segments = vec![0; tables.len()];
    segments[top] = segment;
    let mut row = at;
    for stage in (0..top).rev() {
        segments[stage] = row;
        row = tables[stage].offsets[index_of(row)];
    }
    let mut record = vec![row, piece];
    record.extend(segments);
    record
}

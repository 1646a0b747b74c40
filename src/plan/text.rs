//! The text form of a plan: what people read, and what snapshots and diffs compare.
//!
//! It is deterministic (no hash order, pointers, times or thread counts), one thing a line, each line led by what it is. Columns line up.
//! The inputs, what runs, and what it costs can be read without knowing the code:
//!
//! ```text
//! plan v1 target=cpu align=64
//!
//! table   t0 word  4 of 12 rows  offsets  longest 4  empty 0  bound  25f6677f5d713523d9f48f8dc12ff89f
//!
//! buffer  b0 char  f32[12x4]  192 B  input
//! buffer  b1 word  f32[4x4]    64 B  arena@0  live s0..s1
//!
//! step    s0 b1 = fold.mean b0 by t0
//!            ; read 232  written 64  copied 0  flops 64
//!            ; from word: slice + transpose + contiguous + reduce + stack + squeeze
//! ```
//!
//! How to read a step:
//!
//! | words | meaning |
//! |---|---|
//! | `b1 = fold.mean b0 by t0` | each segment of t0 over the rows of b0 becomes its mean |
//! | `b2 = with.max b0` | another reducer of the stage above it: the same rows, read once |
//! | `b3 = then.sum b1 by t1` | the next stage: folds what the stage above it made, rounded, without reading it from memory |
//! | `_ = map.gelu b0`, `b3 = then.relu _` | an operation on single elements, on what a fold reads or makes |
//! | `fold.custom(rms)` | a reducer written as expressions, which a line `reducer` gives |
//! | `_`, `_1` | a result (of a stage with several, which) that is handed on and written nowhere |
//! | `b1 at b0` | row r is row b0\[r\] of b1: a table lookup |
//! | `b1[0..4]` | of each row, these columns, half-open |
//! | `b1{t0 feature-major}` | packed: the segments of t0 one after the other, each laid out so |
//! | `as f64` | results are rounded to another type than the rows have |
//! | `empty=nan` | what empty segments give: shown where there are any, or where it is not the reducer's own answer |
//! | `live s0..s2` | from the start of step 0 to the end of step 2 |
//! | `tile s0..s4` | these steps run together, window by window of whole segments; a buffer `tile@0` is there a window at a time, in scratch |
//!
//! The last number of a table is its hash; one that is not bound shows what it is made of: `t1 over t0`. Ratios are rounded down. `floor` is
//! [`Plan::floor`]: what any program must move.
//!
//! Printing never fails, also for plans that [`verify`](Plan::verify) refuses: what an id misses is shown as `?`.

pub(super) mod definitions;
mod encode;
mod fold;

use super::{Copy, CopyKind, Cost, Load, Place, Plan, Step, StepKind, Table, TableForm, TableSource, Tile, Totals, ViewLayout, verify};
use crate::dtype::DType;
use crate::ids::{BufferId, StepId, TableId, ViewId};
use std::fmt::{self, Write};

/// Lines of origins are broken after this many characters.
const LINE: usize = 120;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan v{} target={} align={}", self.version, name(&self.target), self.align)?;
        for (lead, rows) in
            [("table", table_rows(self)), ("buffer", buffer_rows(self)), ("tile", tile_rows(self)), ("reducer", reducer_rows(self))]
        {
            if !rows.is_empty() {
                writeln!(f)?;
                write_columns(f, lead, &rows)?;
            }
        }
        if !self.steps.is_empty() {
            writeln!(f)?;
            write_steps(self, f)?;
        }
        writeln!(f)?;
        write_totals(self, f)
    }
}

impl Plan {
    /// One line: the target, how many steps, and what they move, next to the literal program.
    pub fn summary(&self) -> String {
        let steps = self.totals.steps;
        let literal = self.literal.moved_bytes();
        format!(
            "{}: {steps} {}, moves {} (literal {}{}), copies {}, arena {}",
            name(&self.target),
            if steps == 1 { "step" } else { "steps" },
            Bytes(self.totals.moved_bytes()),
            Bytes(literal),
            ratio(literal, self.totals.moved_bytes()).map_or(String::new(), |ratio| format!(", {ratio}x")),
            Bytes(self.totals.copied_bytes),
            Bytes(self.totals.arena_bytes),
        )
    }
}

/// A cell of a line: words that line up on the left, or numbers that line up on the right.
enum Cell {
    Left(String),
    Right(String),
}

/// Writes rows so that each column is as wide as its widest cell, without trailing blanks.
fn write_columns(f: &mut fmt::Formatter<'_>, lead: &str, rows: &[Vec<Cell>]) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for row in rows {
        for (width, Cell::Left(text) | Cell::Right(text)) in widths.iter_mut().zip(row) {
            *width = text.chars().count().max(*width);
        }
    }
    for row in rows {
        let mut line = format!("{lead:<7}");
        for (width, cell) in widths.iter().zip(row) {
            match cell {
                Cell::Left(text) => write!(line, " {text:<width$}")?,
                Cell::Right(text) => write!(line, " {text:>width$}")?,
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

fn left(text: impl Into<String>) -> Cell {
    Cell::Left(text.into())
}

fn right(text: impl ToString) -> Cell {
    Cell::Right(text.to_string())
}

fn table_rows(plan: &Plan) -> Vec<Vec<Cell>> {
    let row = |(index, table): (usize, &Table)| {
        let form = match table.form {
            TableForm::Offsets => "offsets",
            TableForm::Ranges => "ranges",
        };
        let source = match table.source {
            TableSource::Bound => " bound ".to_owned(),
            TableSource::Compose { lower, upper } => format!(" {upper} over {lower} "),
        };
        // An ordered partition reads each row once; ranges read as many as they say.
        let total = if table.total_rows == table.rows { String::new() } else { format!(" total {}", table.total_rows) };
        vec![
            left(TableId::new(index).to_string()),
            left(format!("{} ", name(&table.name))),
            right(table.segments),
            left("of"),
            right(table.rows),
            left("rows "),
            left(format!("{form}{total} ")),
            left("longest"),
            right(table.longest),
            left(" empty"),
            right(table.empty),
            left(source),
            left(table.hash.to_string()),
        ]
    };
    plan.tables.iter().enumerate().map(row).collect()
}

fn buffer_rows(plan: &Plan) -> Vec<Vec<Cell>> {
    let row = |(index, buffer): (usize, &super::Buffer)| {
        let (place, live) = match buffer.place {
            Place::Input => (" input".to_owned(), String::new()),
            Place::Param => (" param".to_owned(), String::new()),
            Place::Output => (" output".to_owned(), String::new()),
            Place::Arena { offset, first, last } => (format!(" arena@{offset}"), format!(" live {first}..{last}")),
            Place::Tile { offset, first, last } => (format!(" tile@{offset}"), format!(" live {first}..{last}")),
        };
        vec![
            left(BufferId::new(index).to_string()),
            left(name(&buffer.name)),
            left(format!(" {}[{}x{}]", buffer.dtype, buffer.rows, buffer.features)),
            right(plan.held_bytes(BufferId::new(index))),
            left("B"),
            left(place),
            left(live),
        ]
    };
    plan.buffers.iter().enumerate().map(row).collect()
}

fn tile_rows(plan: &Plan) -> Vec<Vec<Cell>> {
    let row = |tile: &Tile| {
        vec![
            left(format!("{}..{}", tile.first, tile.last)),
            left("by"),
            left(format!("{} ", tile.table)),
            left("windows of up to"),
            right(tile.rows),
            left("rows "),
            left("scratch"),
            right(tile.bytes),
            left(if tile.inside { "B a worker  inside the next" } else { "B a worker" }),
        ]
    };
    plan.tiles.iter().map(row).collect()
}

/// What reducers written as expressions compute.
fn reducer_rows(plan: &Plan) -> Vec<Vec<Cell>> {
    definitions::definitions(plan).into_iter().map(|(name, custom)| vec![left(name), left(custom.definition())]).collect()
}

/// One line of a step: `targets = op sources`.
struct Line {
    target: String,
    op: String,
    operands: String,
}

fn write_steps(plan: &Plan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let steps: Vec<Vec<Line>> = plan.steps.iter().map(|step| lines_of(plan, &step.kind)).collect();
    let lines = || steps.iter().flatten();
    let target = lines().map(|line| line.target.chars().count()).max().unwrap_or(0);
    let op = lines().map(|line| line.op.chars().count()).max().unwrap_or(0);
    let id = StepId::new(steps.len().saturating_sub(1)).to_string().len();
    let costs = CostWidths::of(plan.steps.iter().map(|step| step.cost));
    for (index, (step, lines)) in plan.steps.iter().zip(&steps).enumerate() {
        for (number, line) in lines.iter().enumerate() {
            let (lead, id_text) = if number == 0 { ("step", StepId::new(index).to_string()) } else { ("", String::new()) };
            let text = format!("{lead:<7} {id_text:<id$} {:<target$} = {:<op$} {}", line.target, line.op, line.operands);
            writeln!(f, "{}", text.trim_end())?;
        }
        let indent = " ".repeat(7 + 1 + id + 1);
        writeln!(f, "{indent}; {}", costs.line(step.cost))?;
        write_origin(f, &indent, step)?;
    }
    Ok(())
}

/// What the stage before made, by the names that its lines have.
fn lines_of(plan: &Plan, kind: &StepKind) -> Vec<Line> {
    match kind {
        StepKind::Copy(copy) => vec![copy_line(plan, copy)],
        StepKind::Encode(encode) => encode::lines(plan, encode),
        StepKind::Fold(fold) => {
            let mut lines = Vec::new();
            let (load, dtype) = match fold.load {
                Load::View { values } => (view(plan, values), dtype_of(plan, values)),
                Load::Gather { ids, table } => (format!("{} at {}", view(plan, table), view(plan, ids)), dtype_of(plan, table)),
                Load::Histogram { ids, table } => {
                    (format!("{} by counts of {}", view(plan, table), view(plan, ids)), dtype_of(plan, table))
                }
            };
            let mut made: Vec<(String, Option<DType>)> = vec![(load, dtype)];
            for (number, stage) in fold.stages.iter().enumerate() {
                let (source, dtype) = made.get(crate::widen(stage.feed)).cloned().unwrap_or(("?".to_owned(), None));
                made = fold::stage_lines(plan, number, stage, &source, dtype, &mut lines);
            }
            lines
        }
    }
}

fn copy_line(plan: &Plan, copy: &Copy) -> Line {
    let reads: Vec<String> = copy.read.iter().map(|&read| view(plan, read)).collect();
    let operands = match (copy.what, reads.as_slice()) {
        (CopyKind::Gather, [ids, table]) => format!("{table} at {ids}"),
        (CopyKind::Segments { table } | CopyKind::Spread { table }, reads) => format!("{} by {table}", reads.join(", ")),
        (CopyKind::Rows | CopyKind::Gather | CopyKind::Columns, reads) => reads.join(", "),
    };
    Line { target: view(plan, copy.write), op: format!("copy.{}", copy.what.name()), operands }
}

impl CopyKind {
    /// The name used in dumps: that of the op which asks for such a copy.
    pub fn name(self) -> &'static str {
        match self {
            CopyKind::Segments { .. } => "contiguous",
            CopyKind::Spread { .. } => "spread",
            CopyKind::Rows => "stack",
            CopyKind::Gather => "gather",
            CopyKind::Columns => "concat",
        }
    }
}

/// A view by its buffer, with what is not the whole of it.
pub(super) fn view(plan: &Plan, id: ViewId) -> String {
    let Some(view) = plan.views.get(id.index()) else { return format!("?{id}") };
    let mut text = view.buffer.to_string();
    let whole = plan.buffers.get(view.buffer.index()).is_some_and(|buffer| buffer.features == view.features && view.first_column == 0);
    if !whole {
        text.push_str(&format!("[{}..{}]", view.first_column, view.first_column.saturating_add(view.features)));
    }
    match view.layout {
        ViewLayout::Rows => {}
        ViewLayout::Packed { table, order } => text.push_str(&format!("{{{table} {}}}", order.name())),
    }
    text
}

fn dtype_of(plan: &Plan, id: ViewId) -> Option<DType> {
    let view = plan.views.get(id.index())?;
    plan.buffers.get(view.buffer.index()).map(|buffer| buffer.dtype)
}

/// How wide the numbers of cost lines are, so that they line up from step to step.
struct CostWidths {
    read: usize,
    written: usize,
    copied: usize,
}

impl CostWidths {
    fn of(costs: impl Iterator<Item = Cost>) -> Self {
        let digits = |number: u64| number.to_string().len();
        costs.fold(CostWidths { read: 1, written: 1, copied: 1 }, |widths, cost| CostWidths {
            read: widths.read.max(digits(cost.read)),
            written: widths.written.max(digits(cost.written)),
            copied: widths.copied.max(digits(cost.copied)),
        })
    }

    fn line(&self, cost: Cost) -> String {
        format!(
            "read {:>read$}  written {:>written$}  copied {:>copied$}  flops {}",
            cost.read,
            cost.written,
            cost.copied,
            cost.flops,
            read = self.read,
            written = self.written,
            copied = self.copied
        )
    }
}

/// The ops that a step stands for, those of one level together.
fn write_origin(f: &mut fmt::Formatter<'_>, indent: &str, step: &Step) -> fmt::Result {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for op in &step.origin {
        let (level, op) = op.rsplit_once('.').unwrap_or(("", op));
        match groups.last_mut() {
            Some((last, ops)) if *last == level => ops.push(op),
            Some(_) | None => groups.push((level, vec![op])),
        }
    }
    let level_width = groups.iter().map(|(level, _)| name(level).chars().count()).max().unwrap_or(0);
    for (number, (level, ops)) in groups.iter().enumerate() {
        let from = if number == 0 { "from" } else { "" };
        let level = if level.is_empty() { String::new() } else { format!("{}:", name(level)) };
        let lead = format!("{indent}; {from:<4} {level:<width$} ", width = level_width + 1);
        let mut line = lead.clone();
        for (index, op) in ops.iter().enumerate() {
            let op = name(op);
            if index > 0 {
                line.push_str(" +");
                if line.chars().count() + 1 + op.chars().count() > LINE {
                    writeln!(f, "{line}")?;
                    line = format!("{indent};{}", " ".repeat(lead.chars().count() - indent.len() - 2));
                }
                line.push(' ');
            }
            line.push_str(&op);
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

fn write_totals(plan: &Plan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let row = |totals: &Totals| {
        vec![
            left("steps"),
            right(totals.steps),
            left(" arena"),
            right(totals.arena_bytes),
            left(" peak"),
            right(totals.peak_bytes),
            left(" copied"),
            right(totals.copied_bytes),
            left(" read"),
            right(totals.read_bytes),
            left(" written"),
            right(totals.written_bytes),
            left(" flops"),
            right(totals.flops),
        ]
    };
    let mut rows = [("total", row(&plan.totals)), ("literal", row(&plan.literal))];
    pad_alike(&mut rows);
    for (lead, row) in rows {
        write_columns(f, lead, &[row])?;
    }
    let (moved, literal) = (plan.totals.moved_bytes(), plan.literal.moved_bytes());
    write!(f, "moved   {moved} B")?;
    if let Some(ratio) = ratio(literal, moved) {
        write!(f, ", {ratio} times less than literal ({literal})")?;
    }
    // The floor follows ids, so it can only be counted where they lead somewhere.
    let least = verify::ids_in_range(plan).then(|| plan.floor().read.saturating_add(plan.floor().written));
    if let Some((ratio, least)) = least.and_then(|least| ratio(moved, least).zip(Some(least))) {
        write!(f, ", {ratio} times the floor ({least})")?;
    }
    writeln!(f)
}

/// Widens the cells of two rows to the same widths, so that they line up under different leads.
fn pad_alike(rows: &mut [(&str, Vec<Cell>); 2]) {
    let [(_, above), (_, below)] = rows;
    for (Cell::Left(a) | Cell::Right(a), Cell::Left(b) | Cell::Right(b)) in above.iter_mut().zip(below) {
        let width = a.len().max(b.len());
        *a = format!("{a:>width$}");
        *b = format!("{b:>width$}");
    }
}

/// a ÷ b with two decimals, rounded down; nothing where b is 0.
fn ratio(a: u64, b: u64) -> Option<String> {
    let hundredths = (u128::from(a) * 100).checked_div(u128::from(b))?;
    Some(format!("{}.{:02}", hundredths / 100, hundredths % 100))
}

/// A number of bytes for people: one decimal, in powers of 1024.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let Some(unit) = (1..=units.len()).rev().find(|&unit| self.0 >> (10 * unit) > 0) else {
            return write!(f, "{} B", self.0);
        };
        let tenths = (u128::from(self.0) * 10) >> (10 * unit);
        write!(f, "{}.{} {}", tenths / 10, tenths % 10, units[unit - 1])
    }
}

/// A name as it can stand in a line: quoted and escaped where it holds anything that could be mistaken for the form itself.
pub(super) fn name(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-/+:#@".contains(c);
    if !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { format!("{name:?}") }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;

    #[test]
    fn a_literal_chain() {
        insta::assert_snapshot!(fixtures::literal_chain(), @r"
        plan v1 target=cpu align=64

        table   t0 word      4 of 12 rows  offsets  longest 4  empty 0  bound  25f6677f5d713523d9f48f8dc12ff89f
        table   t1 sentence  2 of  4 rows  offsets  longest 3  empty 0  bound  e8869cc4fa5c6058c32926108911df16
        table   t2 document  1 of  2 rows  offsets  longest 2  empty 0  bound  92ae791ab14bbe8852195722c3216843

        buffer  b0 char                 f32[12x4] 192 B  input
        buffer  b1 word.contiguous      f32[12x4] 192 B  arena@0    live s0..s1
        buffer  b2 word.reduce          f32[4x4]   64 B  arena@192  live s1..s2
        buffer  b3 word                 f32[4x4]   64 B  arena@256  live s2..s3
        buffer  b4 sentence.contiguous  f32[4x4]   64 B  arena@320  live s3..s4
        buffer  b5 sentence.reduce      f32[2x4]   32 B  arena@384  live s4..s5
        buffer  b6 sentence             f32[2x4]   32 B  arena@448  live s5..s6
        buffer  b7 document.contiguous  f32[2x4]   32 B  arena@512  live s6..s7
        buffer  b8 document.reduce      f32[1x4]   16 B  arena@576  live s7..s8
        buffer  b9 document             f32[1x4]   16 B  output

        step    s0 b1{t0 feature-major} = copy.contiguous b0 by t0
                   ; read 232  written 192  copied 192  flops 0
                   ; from word: slice + transpose + contiguous
        step    s1 b2                   = fold.mean       b1{t0 feature-major} by t0
                   ; read 232  written  64  copied   0  flops 64
                   ; from word: reduce
        step    s2 b3                   = copy.stack      b2
                   ; read  64  written  64  copied  64  flops 0
                   ; from word: stack + squeeze
        step    s3 b4{t1 feature-major} = copy.contiguous b3 by t1
                   ; read  88  written  64  copied  64  flops 0
                   ; from sentence: slice + transpose + contiguous
        step    s4 b5                   = fold.mean       b4{t1 feature-major} by t1
                   ; read  88  written  32  copied   0  flops 24
                   ; from sentence: reduce
        step    s5 b6                   = copy.stack      b5
                   ; read  32  written  32  copied  32  flops 0
                   ; from sentence: stack + squeeze
        step    s6 b7{t2 feature-major} = copy.contiguous b6 by t2
                   ; read  48  written  32  copied  32  flops 0
                   ; from document: slice + transpose + contiguous
        step    s7 b8                   = fold.mean       b7{t2 feature-major} by t2
                   ; read  48  written  16  copied   0  flops 12
                   ; from document: reduce
        step    s8 b9                   = copy.stack      b8
                   ; read  16  written  16  copied  16  flops 0
                   ; from document: stack + squeeze

        total   steps 9  arena 592  peak 256  copied  400  read   848  written  512  flops 100
        literal steps 9  arena 592  peak 256  copied 6000  read 21000  written 9000  flops 100
        moved   1360 B, 22.05 times less than literal (30000), 4.72 times the floor (288)
        ");
    }

    #[test]
    fn a_fused_text() {
        insta::assert_snapshot!(fixtures::fused_text(), @r"
        plan v1 target=cpu align=64

        table   t0 word      4 of 12 rows  offsets  longest 4  empty 0  bound  25f6677f5d713523d9f48f8dc12ff89f
        table   t1 sentence  2 of  4 rows  offsets  longest 3  empty 0  bound  e8869cc4fa5c6058c32926108911df16
        table   t2 document  1 of  2 rows  offsets  longest 2  empty 0  bound  92ae791ab14bbe8852195722c3216843

        buffer  b0 char        u8[12x1]     12 B  input
        buffer  b1 char.table  f32[256x4] 4096 B  param
        buffer  b2 sentence    f32[2x4]     32 B  output
        buffer  b3 document    f32[1x4]     16 B  output

        step    s0 _  = fold.mean b1 at b0 by t0
                   b2 = then.mean _ by t1
                   b3 = then.sum  b2 by t2
                   ; read 284  written 48  copied 0  flops 96
                   ; from char:     gather
                   ;      word:     slice + transpose + contiguous + reduce + stack + squeeze
                   ;      sentence: slice + transpose + contiguous + reduce + stack + squeeze
                   ;      document: slice + transpose + contiguous + reduce + stack + squeeze

        total   steps 1  arena 0  peak 0  copied    0  read   284  written   48  flops 96
        literal steps 9  arena 0  peak 0  copied 6000  read 21000  written 9000  flops 96
        moved   332 B, 90.36 times less than literal (30000), 1.00 times the floor (332)
        ");
    }

    #[test]
    fn everything_else() {
        insta::assert_snapshot!(fixtures::wide(), @r"
        plan v1 target=cpu align=64

        table   t0 session  3 of 6 rows  offsets         longest 4  empty 1  bound       6377a1950f57fe0d1b57a0d5efd01c08
        table   t1 user     2 of 3 rows  offsets         longest 2  empty 0  bound       56897d2569ada851cca8106cccfa3d4b
        table   t2 user     2 of 6 rows  offsets         longest 4  empty 0  t1 over t0  b8e4f672462623e9b3c556e50a135705
        table   t3 window   3 of 6 rows  ranges total 8  longest 4  empty 1  bound       c5ae7abc5cfa9e2df970afa0cd553916

        buffer  b0  ids                i64[6x1] 48 B  input
        buffer  b1  vectors            f32[9x2] 72 B  param
        buffer  b2  weights            f16[6x1] 12 B  input
        buffer  b3  event              f32[6x2] 48 B  arena@0    live s0..s5
        buffer  b4  session            f32[3x4] 48 B  output
        buffer  b5  user               f64[2x2] 32 B  output
        buffer  b6  user.sum           f32[2x2] 16 B  arena@64   live s2..s4
        buffer  b7  user.prod          f32[2x2] 16 B  arena@128  live s3..s4
        buffer  b8  both               f32[2x4] 32 B  output
        buffer  b9  window.contiguous  f32[8x2] 64 B  arena@192  live s5..s6
        buffer  b10 window.turned      f32[8x2] 64 B  arena@256  live s6..s7
        buffer  b11 window             f32[3x2] 24 B  output

        step    s0 b3                    = copy.gather     b1 at b0
                   ; read  96  written 48  copied 48  flops 0
                   ; from event: gather
        step    s1 b4[0..2]              = fold.mean       b3 by t0 weights b2 empty=nan
                   b4[2..4]              = with.max        b3 by t0 empty=-1.5
                   b5                    = then.min        b4[2..4] by t1 as f64
                   ; read 116  written 80  copied  0  flops 54
                   ; from session: reduce + max
                   ;      user:    reduce
        step    s2 b6                    = fold.sum        b3 by t2
                   ; read  72  written 16  copied  0  flops 12
                   ; from user: sum
        step    s3 b7                    = fold.prod       b3 by t2
                   ; read  72  written 16  copied  0  flops 12
                   ; from user: prod
        step    s4 b8                    = copy.concat     b6, b7
                   ; read  32  written 32  copied 32  flops 0
                   ; from both: concat
        step    s5 b9{t3 row-major}      = copy.contiguous b3 by t3
                   ; read 112  written 64  copied 64  flops 0
                   ; from window: contiguous
        step    s6 b10{t3 feature-major} = copy.contiguous b9{t3 row-major} by t3
                   ; read 112  written 64  copied 64  flops 0
                   ; from window: transpose + contiguous
        step    s7 b11                   = fold.sum        b10{t3 feature-major} by t3 empty=zero
                   ; read 112  written 24  copied  0  flops 16
                   ; from window: reduce

        total   steps 8  arena 320  peak 128  copied  208  read   724  written  344  flops 94
        literal steps 9  arena 320  peak 128  copied 6000  read 21000  written 9000  flops 94
        moved   1068 B, 28.08 times less than literal (30000), 2.87 times the floor (372)
        ");
    }
}

//! Text in columns, for people: words to the left, numbers to the right.

use std::fmt;

/// Rows of cells under a header.
pub(crate) struct Columns {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// Columns of these names. Where all are empty, no header is printed.
    pub(crate) fn new(header: &[&str]) -> Self {
        Columns { header: header.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }

    /// One more row; cells that are missing are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As a table in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> =
                (0..self.header.len()).map(|column| cells.get(column).map_or(String::new(), |cell| cell.replace('|', "\\|"))).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rules: Vec<String> =
            (0..self.header.len()).map(|column| if self.is_numeric(column) { "---:".into() } else { "---".into() }).collect();
        let mut text = line(&self.header) + &line(&rules);
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }

    /// Whether the cells of a column are aligned to the right: they all begin as numbers do.
    fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty() && *cell != "-").peekable();
        cells.peek().is_some() && cells.all(|cell| cell.starts_with(|first: char| first.is_ascii_digit() || "+-−<".contains(first)))
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header.iter().any(|name| !name.is_empty()).then_some(&self.header);
        let count = self.rows.iter().map(Vec::len).chain([self.header.len()]).max().unwrap_or(0);
        let mut widths = vec![0; count];
        for row in self.rows.iter().chain(header) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let numeric: Vec<bool> = (0..count).map(|column| self.is_numeric(column)).collect();
        for row in header.into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), &numeric) in row.iter().zip(&widths).zip(&numeric) {
                line += &if numeric { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Bytes for people: three digits and a unit, powers of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = levelfold::numerics::count_to_f64(count);
    let mut unit = "B";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{count} B") } else { format!("{} {unit}", three_digits(value)) }
}

/// A duration for people, in seconds.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        value if value >= 1.0 => format!("{} s", three_digits(value)),
        value if value >= 1e-3 => format!("{} ms", three_digits(value * 1e3)),
        value => format!("{} µs", three_digits(value * 1e6)),
    }
}

/// `1.23`, `12.3`, `123`.
pub(crate) fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_line_up_on_the_right() {
        let mut columns = Columns::new(&["name", "bytes"]);
        columns.row(["word".into(), "12".into()]);
        columns.row(["a|b".into(), "1234".into()]);
        assert_eq!(columns.to_string(), "name  bytes\nword     12\na|b    1234\n");
        assert_eq!(columns.markdown(), "| name | bytes |\n| --- | ---: |\n| word | 12 |\n| a\\|b | 1234 |\n");
    }

    #[test]
    fn people_read_three_digits() {
        assert_eq!(
            (bytes(0), bytes(999), bytes(1000), bytes(1 << 30)),
            ("0 B".into(), "999 B".into(), "0.98 KiB".into(), "1.00 GiB".into())
        );
        assert_eq!((seconds(1.5), seconds(0.0123), seconds(2e-7)), ("1.50 s".into(), "12.3 ms".into(), "0.20 µs".into()));
    }
}

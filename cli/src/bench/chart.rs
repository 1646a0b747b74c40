//! A report as a picture: a bar for every row, as long as its share of the floor.

use super::report::{Bench, Report, Row};
use crate::columns::{seconds, three_digits};
use std::fmt::Write;

const WIDTH: f64 = 980.0;
const MARGIN: f64 = 24.0;
/// Where the bars begin, and how long one of 100 % may at most be.
const BARS: f64 = 210.0;
const BAR_SPACE: f64 = 500.0;
const ROW: f64 = 26.0;
const BAR: f64 = 16.0;
const HEAD: f64 = 92.0;
const BENCH_HEAD: f64 = 40.0;

/// Shares beyond this are cut off, and say so.
const MOST: f64 = 2.0;

const INK: &str = "#1f2933";
const FAINT: &str = "#66727f";
const GRID: &str = "#d5dbe1";

/// An SVG picture.
pub(super) fn draw(report: &Report) -> String {
    let rows: usize = report.benches.iter().map(|bench| bench.rows.len()).sum();
    let height = HEAD + BENCH_HEAD * report.benches.len() as f64 + ROW * rows as f64 + 64.0;
    let most = report.benches.iter().flat_map(|bench| &bench.rows).map(|row| quickest(row).max(row.share_of_floor)).fold(1.0, f64::max);
    let axis = Axis { most: ((most.min(MOST) * 5.0).ceil() / 5.0).max(1.0) };
    let mut svg = Picture(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    ));
    svg.text(MARGIN, 34.0, "font-size=\"19\" font-weight=\"bold\"", INK, "levelfold bench: share of the floor");
    svg.text(
        MARGIN,
        54.0,
        "",
        FAINT,
        "100% is as fast as the bandwidth of memory, measured in the same run, allows; the line on a bar spans p10 to p90 of the samples",
    );
    svg.text(MARGIN, 72.0, "", FAINT, &report.machine.name());
    let bottom = height - 46.0;
    axis.draw(&mut svg, HEAD, bottom);
    let mut y = HEAD;
    for bench in &report.benches {
        y += BENCH_HEAD;
        svg.text(MARGIN, y - 10.0, "font-weight=\"bold\"", INK, &title(bench));
        for row in &bench.rows {
            axis.bar(&mut svg, y, row);
            y += ROW;
        }
    }
    axis.line_of_the_floor(&mut svg, HEAD, bottom);
    svg.0 += "</svg>\n";
    svg.0
}

fn title(bench: &Bench) -> String {
    let layout = if bench.layout == "row-major" { String::new() } else { format!(", {}", bench.layout) };
    let median = |rate: f64| three_digits(rate / 1e9);
    format!(
        "{}: {}{layout}; memory read {}, write {} GB/s",
        bench.workload,
        bench.inputs.join(", "),
        median(bench.bandwidth.read_bytes_per_second.median),
        median(bench.bandwidth.write_bytes_per_second.median)
    )
}

/// The share of the quickest tenth of the samples.
fn quickest(row: &Row) -> f64 {
    1.0 / row.time_over_floor.p10
}

/// From shares to places.
struct Axis {
    /// The share at its end.
    most: f64,
}

impl Axis {
    fn x(&self, share: f64) -> f64 {
        BARS + BAR_SPACE * (share.clamp(0.0, self.most) / self.most)
    }

    fn draw(&self, svg: &mut Picture, top: f64, bottom: f64) {
        let step = if self.most > 1.2 { 0.5 } else { 0.25 };
        let mut share = 0.0;
        while share <= self.most + 1e-9 {
            let x = self.x(share);
            svg.line([x, top + 8.0, x, bottom], GRID, 1.0);
            svg.text(x, bottom + 18.0, "text-anchor=\"middle\"", FAINT, &format!("{:.0}%", 100.0 * share));
            share += step;
        }
    }

    fn line_of_the_floor(&self, svg: &mut Picture, top: f64, bottom: f64) {
        let x = self.x(1.0);
        let _ = writeln!(
            svg.0,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{INK}\" stroke-width=\"1.2\" stroke-dasharray=\"4 3\"/>",
            top + 8.0
        );
    }

    fn bar(&self, svg: &mut Picture, y: f64, row: &Row) {
        let middle = y + BAR / 2.0;
        svg.text(BARS - 10.0, middle + 4.5, "text-anchor=\"end\"", INK, &format!("{} -{}", row.backend, row.opt));
        let length = (self.x(row.share_of_floor) - BARS).max(1.0);
        let _ = writeln!(
            svg.0,
            "<rect x=\"{BARS}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{}\"/>",
            color(&row.opt)
        );
        let (slow, quick) = (self.x(1.0 / row.time_over_floor.p90), self.x(quickest(row)));
        svg.line([slow, middle, quick, middle], INK, 1.6);
        for x in [slow, quick] {
            svg.line([x, middle - 4.0, x, middle + 4.0], INK, 1.6);
        }
        let end = self.x(self.most) + 12.0;
        let more = if row.share_of_floor > self.most { " (longer than the axis)" } else { "" };
        svg.text(end, middle + 4.5, "", INK, &format!("{:.0}%   {}{more}", 100.0 * row.share_of_floor, seconds(row.seconds.median)));
    }
}

/// One hue, darker the more was optimized.
fn color(opt: &str) -> &'static str {
    match opt {
        "O0" => "#b9c7d6",
        "O1" => "#3f7cac",
        _ => "#7fb08a",
    }
}

struct Picture(String);

impl Picture {
    fn text(&mut self, x: f64, y: f64, attributes: &str, fill: &str, content: &str) {
        let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(self.0, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{fill}\" {attributes}>{content}</text>");
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], stroke: &str, width: f64) {
        let _ = writeln!(
            self.0,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\" stroke-width=\"{width}\"/>"
        );
    }
}

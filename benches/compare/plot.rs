//! A drawing of the costs: bars relative to nginx, which read on a light and on a dark page.

use std::{fmt::Write, fs, path::Path};

use crate::{
    Fallible,
    figures::{Case, Comparison, Row},
    gates::Program,
    table::brief,
};

/// Pixels.
const WIDTH: f64 = 820.0;
/// Where bars begin, and the longest one ends.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 650.0;
const TOP: f64 = 62.0;
const BAR: f64 = 13.0;
const BETWEEN_GROUPS: f64 = 10.0;
/// Bars beyond so many times the reference are cut, and say so by their figure.
const LONGEST: f64 = 2.5;

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #24292f; } .title { font-size: 15px; font-weight: 600; } \
.quiet { fill: #57606a; } \
.b0 { fill: #1f6feb; } .b1 { fill: #7d8590; } .b2 { fill: #c69026; } .b3 { fill: #8957e5; } .b4 { fill: #2da44e; } \
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .quiet { fill: #9198a1; } .b0 { fill: #4493f8; } }";

/// Writes it to a file.
pub(crate) fn write(comparison: &Comparison, file: &Path) -> Fallible<()> {
    fs::write(file, draw(comparison)).map_err(|error| format!("{}: {error}", file.display()).into())
}

fn draw(comparison: &Comparison) -> String {
    let Some(reference) = comparison.references().first().copied() else { return String::new() };
    let mut groups = String::new();
    let mut y = TOP;
    for case in comparison.cases() {
        y = draw_group(&mut groups, comparison, case, reference, y);
    }
    let height = y + 26.0;
    let mut drawing = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>Cost relative to {name}</title>\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"16\" y=\"24\">Processor time and memory relative to {name}; shorter is better</text>\n",
        name = escape(&reference.name),
    );
    drawing.push_str(&legend(comparison));
    drawing.push_str(&groups);
    let about: Vec<String> = comparison
        .about
        .iter()
        .take(programs(comparison).len())
        .map(|(_, version)| escape(version))
        .collect();
    let _ = writeln!(
        drawing,
        "<text class=\"quiet\" x=\"16\" y=\"{}\">{}</text>\n</svg>",
        height - 8.0,
        about.join(" · ")
    );
    drawing
}

/// Draws the bars of one case from `y` on, and returns where the next one begins.
fn draw_group(out: &mut String, comparison: &Comparison, case: Case, reference: &Program, mut y: f64) -> f64 {
    let rows: Vec<&Row> = comparison.rows_of(case).collect();
    let name = escape(&case.name());
    let _ = writeln!(out, "<text x=\"16\" y=\"{}\">{name}</text>", y + 11.0);
    for (place, row) in rows.iter().enumerate() {
        let Some(ratio) = comparison.ratio(row, reference) else { continue };
        let end = x_of(ratio.clamp(0.0, LONGEST));
        let unit = if case.scenario.is_idle() { "B" } else { "µs" };
        let cost = brief(row.cost().median);
        let figure = format!("{ratio:.2} · {cost} {unit} per {}", case.scenario.unit());
        let _ = writeln!(
            out,
            "<rect class=\"{}\" x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\"><title>{}: {figure}</title></rect>\
             <text class=\"quiet\" x=\"{:.1}\" y=\"{}\">{}</text>",
            class(place),
            end - LEFT,
            BAR - 2.0,
            escape(&row.program.name),
            end + 5.0,
            y + 10.0,
            if place == 0 { figure.clone() } else { format!("{ratio:.2} · {cost} {unit}") },
        );
        y += BAR;
    }
    y + BETWEEN_GROUPS
}

fn legend(comparison: &Comparison) -> String {
    let mut text = String::new();
    let mut x = 16.0;
    for (place, program) in programs(comparison).into_iter().enumerate() {
        let name = escape(&program.name);
        let _ = writeln!(
            text,
            "<rect class=\"{}\" x=\"{x}\" y=\"36\" width=\"11\" height=\"11\"/><text x=\"{}\" y=\"46\">{name}</text>",
            class(place),
            x + 16.0
        );
        x += 46.0 + 8.0 * f64::from(u32::try_from(program.name.chars().count()).unwrap_or(0));
    }
    text
}

fn programs(comparison: &Comparison) -> Vec<&Program> {
    let Some(first) = comparison.cases().first().copied() else { return Vec::new() };
    comparison.rows_of(first).map(|row| &row.program).collect()
}

/// The colour by the place among the gates.
fn class(place: usize) -> String {
    format!("b{}", place % 5)
}

fn x_of(ratio: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * ratio / LONGEST
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

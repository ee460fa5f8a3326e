//! The table, which is Markdown and reads well as it is.

use std::fmt::Write;

use crate::figures::{Case, Comparison, Load, Row};

/// The header and all rows.
pub(crate) fn print(comparison: &Comparison) -> String {
    let mut text = String::new();
    for (name, value) in &comparison.about {
        let _ = writeln!(text, "- {name}: {value}");
    }
    let cases = comparison.cases();
    let is_idle = |case: &Case| case.scenario.is_idle();
    let (idle, busy): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(is_idle);
    for (cases, columns) in [(busy, busy_columns(comparison)), (idle, idle_columns(comparison))] {
        if !cases.is_empty() {
            text.push('\n');
            text.push_str(&align(&lines(comparison, &cases, &columns)));
        }
    }
    text
}

type Cell<'a> = Box<dyn Fn(&Row) -> String + 'a>;

struct Column<'a> {
    title: String,
    cell: Cell<'a>,
}

impl<'a> Column<'a> {
    fn new(title: impl Into<String>, cell: impl Fn(&Row) -> String + 'a) -> Self {
        Self { title: title.into(), cell: Box::new(cell) }
    }

    /// The median of a figure of the rounds.
    fn of_load(title: &str, figure: fn(&Load) -> Option<f64>, form: fn(f64) -> String) -> Self {
        Self::new(title, move |row| row.median(figure).map(form).unwrap_or_default())
    }
}

fn busy_columns(comparison: &Comparison) -> Vec<Column<'_>> {
    let mut columns = common_columns(comparison, "CPU, µs");
    columns.extend([
        Column::of_load("per second", |load| Some(load.rate), brief),
        Column::of_load("p50, µs", |load| load.said.p50_us, brief),
        Column::of_load("p99", |load| load.said.p99_us, brief),
        Column::of_load("p99.9", |load| load.said.p999_us, brief),
        Column::of_load("gate's core", |load| Some(load.gate), percent),
        Column::of_load("client", |load| Some(load.client), percent),
        Column::of_load("backend", |load| Some(load.backend), percent),
        Column::new("target", |row| remarks(comparison, row)),
    ]);
    columns
}

fn idle_columns(comparison: &Comparison) -> Vec<Column<'_>> {
    let mut columns = common_columns(comparison, "bytes");
    columns.push(Column::new("given back", |row| row.given_back().map(percent).unwrap_or_default()));
    columns.push(Column::new("target", |row| remarks(comparison, row)));
    columns
}

/// What every table begins with: the cost, and how it compares.
fn common_columns<'a>(comparison: &'a Comparison, cost: &str) -> Vec<Column<'a>> {
    let mut columns = vec![
        Column::new("scenario", |row| row.case.name()),
        Column::new("per", |row| row.case.scenario.unit().to_owned()),
        Column::new("gate", |row| row.program.name.clone()),
        Column::new(cost, |row| brief(row.cost().median)),
        Column::new("least..most", |row| format!("{}..{}", brief(row.cost().min), brief(row.cost().max))),
    ];
    columns.extend(comparison.references().into_iter().map(|reference| {
        Column::new(format!("÷ {}", reference.name), move |row| {
            comparison.ratio(row, reference).map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
        })
    }));
    columns
}

fn remarks(comparison: &Comparison, row: &Row) -> String {
    let mut remarks: Vec<String> = Vec::new();
    for verdict in comparison.verdicts(row) {
        remarks.push(format!("{}: {}", verdict.wanted, if verdict.is_met { "met" } else { "**missed**" }));
    }
    remarks.extend(row.resumed().map(|share| format!("resumed {}", percent(share))));
    if row.cost().is_noisy {
        remarks.push("noisy".to_owned());
    }
    remarks.join("; ")
}

/// The cells of the table, its title first, without the columns that say nothing.
fn lines(comparison: &Comparison, cases: &[Case], columns: &[Column<'_>]) -> Vec<Vec<String>> {
    let rows: Vec<&Row> = cases.iter().flat_map(|&case| comparison.rows_of(case)).collect();
    let says = |column: &&Column<'_>| rows.iter().any(|row| !(column.cell)(row).is_empty());
    let columns: Vec<&Column<'_>> = columns.iter().filter(says).collect();
    let title = columns.iter().map(|column| column.title.clone()).collect();
    let cells = |row: &&Row| columns.iter().map(|column| (column.cell)(row)).collect();
    std::iter::once(title).chain(rows.iter().map(cells)).collect()
}

/// Figures to the right, words to the left.
fn align(lines: &[Vec<String>]) -> String {
    let Some((title, rows)) = lines.split_first() else { return String::new() };
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let is_figure = |column: usize| {
        let begins_so = |cell: &str| cell.starts_with(|first: char| first.is_ascii_digit() || first == '-');
        rows.iter().all(|row| row[column].is_empty() || begins_so(&row[column]))
    };
    let columns: Vec<(usize, bool)> =
        (0..title.len()).map(|column| (width(column).max(3), is_figure(column))).collect();
    let print = |line: &Vec<String>| {
        let cells = line.iter().zip(&columns).map(|(cell, &(width, is_figure))| {
            if is_figure { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") }
        });
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule = columns.iter().map(|&(width, is_figure)| {
        let dashes = "-".repeat(width);
        if is_figure { format!(" {dashes}:") } else { format!(" {dashes} ") }
    });
    let rule = format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
    [print(title), rule].into_iter().chain(rows.iter().map(print)).collect()
}

/// Three digits that count, or all before the point.
pub(crate) fn brief(value: f64) -> String {
    let digits = match value.abs() {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if digits > 0 { text } else { thousands(&text) }
}

/// With a comma before every third digit from the end.
fn thousands(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        let left = digits.len() - place;
        if place > 0 && left.is_multiple_of(3) && text != "-" {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

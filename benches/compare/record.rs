//! All figures of all rounds, as JSON.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    Fallible,
    figures::{Comparison, Detail, Row, Sample},
};

/// Writes them to a file.
pub(crate) fn write(comparison: &Comparison, file: &Path) -> Fallible<()> {
    let about: Map<String, Value> =
        comparison.about.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let rows: Vec<Value> = comparison.rows.iter().map(|row| of_row(comparison, row)).collect();
    let text = serde_json::to_string_pretty(&json!({ "about": about, "rows": rows }))?;
    fs::write(file, text + "\n").map_err(|error| format!("{}: {error}", file.display()).into())
}

fn of_row(comparison: &Comparison, row: &Row) -> Value {
    let cost = row.cost();
    let ratios: Map<String, Value> = comparison
        .references()
        .into_iter()
        .filter_map(|reference| Some((reference.name.clone(), comparison.ratio(row, reference)?.into())))
        .collect();
    let targets: Vec<Value> = comparison
        .verdicts(row)
        .into_iter()
        .map(|verdict| json!({ "wanted": verdict.wanted, "met": verdict.is_met }))
        .collect();
    json!({
        "scenario": row.case.scenario.name(),
        "connections": row.case.connections,
        "workers": row.case.workers,
        "gate": row.program.name,
        "kind": row.program.kind.name(),
        "cost": cost.median,
        "cost_unit": if row.case.scenario.is_idle() { "bytes" } else { "µs" },
        "per": row.case.scenario.unit(),
        "least": cost.min,
        "most": cost.max,
        "noisy": cost.is_noisy,
        "ratios": ratios,
        "targets": targets,
        "rounds": row.samples.iter().map(of_sample).collect::<Vec<_>>(),
    })
}

fn of_sample(sample: &Sample) -> Value {
    match &sample.detail {
        Detail::Load(load) => json!({
            "cost": sample.cost,
            "per_second": load.rate,
            "gate_share_of_a_core": load.gate,
            "client_share_of_a_core": load.client,
            "backend_share_of_a_core": load.backend,
            "p50_us": load.said.p50_us,
            "p99_us": load.said.p99_us,
            "p999_us": load.said.p999_us,
            "resumed": load.said.resumed,
        }),
        Detail::Idle { given_back } => json!({ "cost": sample.cost, "given_back": given_back }),
    }
}

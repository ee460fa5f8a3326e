//! docs/metrics.md, the dashboard and the alerts name what a running gate exposes, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::harness::{Backend, Gate, Metrics, frames, get, offer_with, pki::Pki, soon};

/// A metric's type and labels, by its name as it is asked for: counters end in `_total`.
type Named = BTreeMap<String, (String, BTreeSet<String>)>;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The values of labels, by the metric's name and the label's.
type Values = BTreeMap<(String, String), BTreeSet<String>>;

/// A gate that has something of everything, with a tunnel open.
async fn exposed() -> (Named, Values) {
    let pki = Pki::new();
    let leaf = pki.leaf("localhost");
    let backend = Backend::listen().await;
    let toml = format!(
        "[server]\nworkers = 1\ndrain_spread = \"0s\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ cert = \"{}\", key = \"{}\" }}\n\
         [upstream.main]\nservers = [{{ address = \"{}\", max_connections = 9 }}]\n\
         [[route]]\nname = \"main\"\nkind = \"websocket\"\nupstream = \"main\"\nlimits.max_tunnels = 5\n\
         [[route]]\nrespond = {{ status = 200, body = \"\" }}\n",
        leaf.cert.display(),
        leaf.key.display(),
        backend.address()
    );
    let gate = Gate::start(&toml, Some(pki));
    let refused = offer_with("").replace("Version: 13", "Version: 8");
    let mut client = gate.ask(refused).await;
    assert_eq!(client.read_response().await.status(), 426);
    let (mut client, mut server) = gate.tunnel(&backend).await;
    client.send(frames::client_close(1000, "")).await;
    server.expect(frames::client_close(1000, "")).await;
    drop((client, server));
    let mut client = gate.ask(get("/", "")).await;
    assert_eq!(client.read_response().await.status(), 200);
    let open = gate.tunnel(&backend).await;
    let metrics = soon("a tunnel that has ended and an open one", async {
        loop {
            let metrics = gate.metrics();
            let has = |name| metrics.sum(name, &[]) > 0.5;
            if has("wsgate_tunnel_close_codes_total") && has("wsgate_tunnels_open") {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    });
    let metrics = metrics.await;
    drop(open);
    assert_eq!(metrics.types.keys().collect::<BTreeSet<_>>(), metrics.helped.iter().collect());
    named(&metrics)
}

fn named(metrics: &Metrics) -> (Named, Values) {
    let (mut named, mut values) = (Named::new(), Values::new());
    for sample in &metrics.samples {
        let metric = metrics.metric_of(&sample.name);
        let kind = metrics.types[&metric].clone();
        let name = if kind == "counter" { format!("{metric}_total") } else { metric };
        for (label, value) in &sample.labels {
            values.entry((name.clone(), label.clone())).or_default().insert(value.clone());
        }
        let labels = &mut named.entry(name).or_insert((kind, BTreeSet::new())).1;
        labels.extend(sample.labels.keys().filter(|label| *label != "le").cloned());
    }
    (named, values)
}

/// The words in backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A row of the document's tables of metrics.
#[derive(Debug, Clone)]
struct Row {
    name: String,
    kind: String,
    labels: BTreeSet<String>,
    /// What stands in backticks in its last column.
    words: BTreeSet<String>,
}

fn rows() -> Vec<Row> {
    let text = read("docs/metrics.md");
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let [name, kind @ ("counter" | "gauge" | "histogram"), labels, meaning, ""] = cells[..] else {
            return None;
        };
        assert!(!meaning.is_empty(), "{line}");
        let name = name.trim_matches('`').to_owned();
        Some(Row { name, kind: kind.to_owned(), labels: quoted(labels), words: quoted(meaning) })
    });
    rows.collect()
}

fn documented() -> Named {
    let all = rows();
    let named: Named = all.iter().cloned().map(|row| (row.name, (row.kind, row.labels))).collect();
    assert_eq!(named.len(), all.len(), "a metric stands there twice");
    named
}

/// The first column of the table of the README under this line; a test of the endings holds these tables to the source.
fn endings(header: &str, column: usize) -> BTreeSet<String> {
    let text = read("README.md");
    let lines = text.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    let labels: BTreeSet<_> =
        rows.map(|row| row.split('|').nth(column).unwrap().trim().trim_matches('`').to_owned()).collect();
    assert!(labels.len() > 5, "{header}: {labels:?}");
    labels
}

/// The labels whose values are not from a fixed set.
const FREE: [&str; 9] =
    ["instance", "job", "listener", "route", "upstream", "endpoint", "name", "version", "status"];

/// The values that a label of a metric can have: the endings for `ending`, else what the document says of that metric, or of
/// another one with that label.
fn possible(metric: &str, label: &str) -> BTreeSet<String> {
    let refusals = || {
        let mut all = endings("| status | label |", 2);
        all.extend(["upgrade_refused".to_owned()]);
        all
    };
    let tls = || endings("| label | when |", 1);
    match (metric, label) {
        ("wsgate_handshakes_refused_total", "ending") => refusals(),
        (_, "ending") => {
            let tunnels = endings("| label | Close to the client |", 1);
            refusals().into_iter().chain(tls()).chain(tunnels).collect()
        }
        (_, "phase") => {
            ["tls", "head", "route", "connect", "response", "exchange", "tunnel"].map(str::to_owned).into()
        }
        ("wsgate_tls_handshakes_total", "result") => tls().into_iter().chain(["ok".to_owned()]).collect(),
        (_, "resumed") => ["true", "false"].map(str::to_owned).into(),
        (_, "result") => {
            rows().into_iter().filter(|row| row.name == metric).flat_map(|row| row.words).collect()
        }
        _ => rows().into_iter().filter(|row| row.labels.contains(label)).flat_map(|row| row.words).collect(),
    }
}

/// A selector's labels, each with the values that it is compared with.
type Matchers = BTreeMap<String, Vec<String>>;

fn matchers(selector: &str) -> Matchers {
    let one = |matcher: &str| {
        let (label, value) = matcher.split_once('=')?;
        let value = value.trim_start_matches('~').trim().trim_matches('"');
        let values = value.split('|').filter(|value| !value.is_empty() && !value.starts_with('$'));
        Some((label.trim_end_matches('!').trim().to_owned(), values.map(str::to_owned).collect()))
    };
    selector.split(',').filter_map(one).collect()
}

/// The metrics that stand in a text, each with what stands in the braces behind it.
fn mentioned(text: &str) -> Vec<(String, Matchers)> {
    let is_of_name = |next: char| next.is_ascii_alphanumeric() || next == '_';
    let mut found = Vec::new();
    for prefix in ["wsgate_", "process_"] {
        for (place, _) in text.match_indices(prefix) {
            if text[..place].ends_with(is_of_name) {
                continue;
            }
            let rest = &text[place..];
            let end = rest.find(|next| !is_of_name(next)).unwrap_or(rest.len());
            let selector = rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
            found.push((rest[..end].to_owned(), matchers(selector.map_or("", |(inner, _)| inner))));
        }
    }
    found
}

/// What a text names must be there, with the labels that it selects by and values that these can have. A name of a histogram has
/// a suffix in an expression. Returns the names.
fn expect_exposed(what: &str, text: &str, exposed: &Named, is_expression: bool) -> BTreeSet<String> {
    // Prometheus adds them.
    let added = ["instance", "job", "namespace", "pod"];
    let mut names = BTreeSet::new();
    for (name, matchers) in mentioned(text) {
        let suffixes = ["_bucket", "_sum", "_count"];
        let of_histogram = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
        let metric = of_histogram.unwrap_or(&name);
        let (kind, own) = exposed.get(metric).unwrap_or_else(|| panic!("{what}: {name} is not exposed"));
        let is_right = of_histogram.is_some() == (kind == "histogram");
        assert!(is_right || !is_expression, "{what}: {name} is a {kind}");
        for (label, values) in matchers {
            assert!(own.contains(&label) || added.contains(&&*label), "{what}: {name} has no {label}");
            if !FREE.contains(&&*label) && !values.is_empty() {
                let possible = possible(metric, &label);
                let never: Vec<_> = values.iter().filter(|value| !possible.contains(*value)).collect();
                assert!(never.is_empty(), "{what}: {label} of {name} is never {never:?}");
            }
        }
        names.insert(metric.to_owned());
    }
    names
}

/// The documents that may speak of metrics.
fn prose() -> Vec<String> {
    let first =
        ["README.md", "SECURITY.md", "ARCHITECTURE.md", "CHANGELOG.md", "examples/kubernetes/wsgate.yaml"];
    let docs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_str().unwrap()));
    first.into_iter().map(str::to_owned).chain(docs).collect()
}

/// The labels in `by (...)` and `on (...)` of expressions.
fn grouped_by(text: &str) -> BTreeSet<String> {
    let lists = ["by (", "on ("].into_iter().flat_map(|word| text.split(word).skip(1));
    lists
        .filter_map(|rest| rest.split(')').next())
        .flat_map(|list| list.split(',').map(|label| label.trim().to_owned()))
        .collect()
}

#[tokio::test]
async fn documents_dashboard_and_alerts_name_what_is_exposed() {
    let (exposed, values) = exposed().await;
    assert_eq!(documented(), exposed, "docs/metrics.md and a running gate");
    for ((metric, label), values) in &values {
        // A number of a Close code, and a bound of a bucket.
        if !FREE.contains(&&**label) && !["code", "le"].contains(&&**label) {
            let unknown: Vec<_> = values.difference(&possible(metric, label)).cloned().collect();
            assert!(unknown.is_empty(), "nothing is said of {unknown:?} as {label} of {metric}");
        }
    }
    assert!(exposed.values().any(|(kind, _)| kind == "histogram") && exposed.len() > 60, "{}", exposed.len());
    let dashboard = read("examples/grafana/wsgate.json").replace("\\\"", "\"");
    let alerts = read("examples/prometheus/alerts.yml");
    let mut labels: BTreeSet<_> = exposed.values().flat_map(|(_, labels)| labels.iter().cloned()).collect();
    labels.extend(["instance".to_owned(), "le".to_owned()]);
    let mut shown = BTreeSet::new();
    for (what, text) in [("the dashboard", &dashboard), ("the alerts", &alerts)] {
        let names = expect_exposed(what, text, &exposed, true);
        assert!(names.len() > 15, "{what}: {names:?}");
        shown.extend(names);
        let unknown: Vec<_> = grouped_by(text).difference(&labels).cloned().collect();
        assert!(unknown.is_empty(), "{what} groups by {unknown:?}");
        for filled in text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
            let label = filled.trim().trim_start_matches("$labels.");
            let is_value = label.starts_with("$value");
            assert!(is_value || labels.contains(label), "{what} shows {label}");
        }
    }
    for document in prose() {
        expect_exposed(&document, &read(&document), &exposed, false);
    }
    let scaling = "examples/kubernetes/scaling.yaml";
    assert_eq!(
        expect_exposed(scaling, &read(scaling), &exposed, true),
        ["wsgate_tunnels_open".to_owned()].into()
    );
    let is_own = |name: &&String| name.starts_with("wsgate_");
    let unseen: Vec<_> = exposed.keys().filter(is_own).filter(|name| !shown.contains(*name)).collect();
    assert!(unseen.is_empty(), "the dashboard shows nothing of {unseen:?}");
}

#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("examples/grafana/wsgate.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for y in place("y")..place("y") + place("h") {
            for x in place("x")..place("x") + place("w") {
                assert!(taken.insert((x, y)), "{title} covers another");
            }
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            let targets = panel["targets"].as_array().unwrap();
            assert!(targets.iter().all(|target| balanced(target["expr"].as_str().unwrap())), "{title}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["type"] == "datasource"));
}

#[test]
fn prometheus_shows_the_token_that_the_pods_want() {
    let manifest = read("examples/kubernetes/wsgate.yaml");
    assert!(manifest.contains("metrics_token = ") && manifest.contains("metrics-token"));
    assert!(!manifest.contains("prometheus.io/"), "who goes by these shows no token");
    let job = read("examples/prometheus/kubernetes.yml");
    assert!(job.contains(
        "    authorization:\n      credentials_file: /etc/prometheus/wsgate-admin/metrics-token\n"
    ));
    assert!(job.contains("job_name: wsgate\n"), "the alerts name it");
    assert!(job.contains("app.kubernetes.io/name=wsgate }") && job.contains("port_name], regex: admin, "));
    assert!(manifest.contains("labels: { app.kubernetes.io/name: wsgate }\n    spec:"));
    assert!(manifest.contains("- { name: admin, containerPort: 9900 }"));
    let scaling = read("examples/kubernetes/scaling.yaml");
    for label in ["namespace", "pod"] {
        assert!(job.contains(&format!("target_label: {label} }}")), "{label}");
        assert!(scaling.contains(&format!("{label}: {{ resource: {label} }}")), "{label}");
    }
}

/// Whether brackets close as they open.
fn balanced(expression: &str) -> bool {
    let mut open = Vec::new();
    expression.chars().all(|next| match next {
        '(' | '[' | '{' => {
            open.push(next);
            true
        }
        ')' => open.pop() == Some('('),
        ']' => open.pop() == Some('['),
        '}' => open.pop() == Some('{'),
        _ => true,
    }) && open.is_empty()
}

#[test]
fn every_alert_says_how_long_how_bad_and_what() {
    let alerts = read("examples/prometheus/alerts.yml");
    let rules: Vec<_> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() > 12, "{}", rules.len());
    let mut names = BTreeSet::new();
    for rule in rules {
        let name = rule.lines().next().unwrap();
        assert!(names.insert(name) && name.starts_with("Wsgate"), "{name}");
        for key in ["expr: ", "for: ", "severity: ", "summary: ", "description: "] {
            assert_eq!(rule.matches(key).count(), 1, "{name}: {key}");
        }
        assert!(
            ["severity: warning", "severity: critical"].iter().any(|level| rule.contains(level)),
            "{name}"
        );
    }
}

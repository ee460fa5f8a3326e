//! docs/logs.md names the fields that there are, and no others.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde_json::Value;
use wsgate::{
    ending::{Phase, Side},
    telemetry::{AccessRecord, ClosedBy, Direction, Kind, Pings, TlsFields},
};

use super::trace;

const README: &str = include_str!("../../../README.md");

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logs.md")).unwrap()
}

/// The rows of the table whose first line begins so, as cells.
pub(super) fn table(header: &str) -> Vec<Vec<String>> {
    let text = document();
    let lines = text.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split(" |").map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// What stands in backticks.
pub(super) fn codes(cell: &str) -> Vec<&str> {
    if let Some(code) = cell.strip_prefix("``") {
        return vec![code.trim_end_matches('`')];
    }
    cell.split('`').skip(1).step_by(2).collect()
}

fn first_column(header: &str) -> BTreeSet<String> {
    let rows = table(header);
    assert!(!rows.is_empty(), "no table {header}");
    rows.iter().map(|row| codes(&row[0])[0].to_owned()).collect()
}

/// A record with everything that there can be.
fn whole() -> AccessRecord {
    let mut record = AccessRecord::new(Kind::TunnelEnd, "127.0.0.1:443".into(), "192.0.2.1:5".into());
    let pings = Pings {
        sent: 1,
        lost: 0,
        round_trip: Some(Duration::from_millis(1)),
        longest_round_trip: Some(Duration::from_millis(1)),
    };
    record.peer = Some("unix".into());
    record.request_id = "id".into();
    record.trace_id = Some(trace().id());
    record.method = "GET".into();
    record.host = "a.example".into();
    record.target = "/".into();
    record.user = Some("ali".into());
    record.route = Some("main".into());
    record.endpoint = Some("127.0.0.1:9000".into());
    record.status = Some(101);
    record.sent = Some(1);
    record.received = Some(1);
    record.duration = Some(Duration::from_secs(1));
    record.ending = Some("closed");
    record.ended_by = Some("gate");
    record.phase = Some("tunnel");
    record.error = Some("why".into());
    record.subprotocol = Some("chat".into());
    record.from_client = Some(Direction::default());
    record.from_backend = Some(Direction::default());
    record.client_pings = Some(pings);
    record.backend_pings = Some(pings);
    record.close = Some(ClosedBy { side: "gate", code: Some(1000), reason: "bye".into() });
    record.truncated = true;
    record.tls = Some(TlsFields {
        version: "TLSv1.3",
        cipher: "x",
        sni: Some("a.example".into()),
        resumed: true,
        client: Some("CN=ali".into()),
    });
    record
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn the_fields_of_records_are_those_of_the_document() {
    let json = serde_json::to_value(whole()).unwrap();
    assert_eq!(keys(&json), first_column("| field | in text |"));
    for (field, header) in [
        ("from_client", "| in a direction |"),
        ("from_backend", "| in a direction |"),
        ("client_pings", "| of Pings |"),
        ("backend_pings", "| of Pings |"),
        ("close", "| of a Close |"),
        ("tls", "| of TLS |"),
    ] {
        assert_eq!(keys(&json[field]), first_column(header), "{field}");
    }
    for row in table("| field | in text |") {
        let (value, said) = (&json[codes(&row[0])[0]], &*row[2]);
        let is_so = match said {
            "string" => value.is_string(),
            "integer" => value.is_u64(),
            "number" => value.is_number(),
            "object" => value.is_object(),
            "`true`" => *value == Value::Bool(true),
            other => panic!("{other} is no type"),
        };
        assert!(is_so, "{row:?}: {value}");
    }
}

#[test]
fn what_is_always_there_is_what_the_document_says() {
    let nothing = AccessRecord::new(Kind::TlsFailure, "a".into(), "b".into());
    let always = table("| field | in text |").into_iter().filter(|row| row[3] == "always");
    let always: BTreeSet<_> = always.map(|row| codes(&row[0])[0].to_owned()).collect();
    assert_eq!(keys(&serde_json::to_value(nothing).unwrap()), always);
}

#[test]
fn the_names_in_text_are_those_of_the_document_in_their_order() {
    let mut text = String::new();
    whole().write_text(&mut text);
    let names: Vec<_> =
        text.split(' ').filter_map(|word| word.split_once('=')).map(|(name, _)| name.to_owned()).collect();
    let rows = table("| field | in text |");
    let documented = rows.iter().filter_map(|row| codes(&row[1]).first().copied());
    assert_eq!(names, documented.collect::<Vec<_>>());
}

#[test]
fn the_values_of_enumerations_are_those_of_the_document() {
    let row = |field: &str| {
        let rows = table("| field | in text |");
        let row = rows.into_iter().find(|row| codes(&row[0])[0] == field).expect("a row");
        codes(&row[4]).into_iter().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let kinds = [Kind::Exchange, Kind::TunnelOpen, Kind::TunnelEnd, Kind::TlsFailure];
    let kinds = kinds.map(|kind| serde_json::to_value(kind).unwrap().as_str().unwrap().to_owned());
    assert_eq!(row("event"), BTreeSet::from(kinds));
    let sides = [Side::Downstream, Side::Upstream, Side::Gate].map(|side| side.label().to_owned());
    assert_eq!(row("ended_by"), BTreeSet::from(sides));
    let phases = std::iter::successors(Some(Phase::Tls), |phase| next(*phase));
    assert_eq!(row("phase"), phases.map(|phase| phase.label().to_owned()).collect());
}

/// The phase after this one: a new one does not compile until it stands here.
fn next(phase: Phase) -> Option<Phase> {
    Some(match phase {
        Phase::Tls => Phase::Head,
        Phase::Head => Phase::Route,
        Phase::Route => Phase::Connect,
        Phase::Connect => Phase::Response,
        Phase::Response => Phase::Exchange,
        Phase::Exchange => Phase::Tunnel,
        Phase::Tunnel => return None,
    })
}

/// Which fields of a record are there, whatever it is of.
fn of_every_request(column: usize) -> BTreeSet<String> {
    let rows = table("| field | in text |").into_iter();
    let rows = rows.filter(|row| ["always", "of a request", "of requests and tunnels"].contains(&&*row[3]));
    rows.filter_map(|row| codes(&row[column]).first().map(|name| (*name).to_owned())).collect()
}

#[test]
fn the_record_in_text_of_the_readme_is_one_of_today() {
    let sample = README.lines().find(|line| line.starts_with("20") && line.contains(" tunnel_end "));
    let words = sample.expect("a sample").split(' ').filter_map(|word| word.split_once('='));
    // The query of the target has the sign, too.
    let names: Vec<_> = words.map(|(name, _)| name).filter(|name| !name.contains('?')).collect();
    let rows = table("| field | in text |");
    let mut order = rows.iter().filter_map(|row| codes(&row[1]).first().copied());
    for name in &names {
        assert!(order.any(|known| known == *name), "{name} is no field, or not in its place: {names:?}");
    }
    let expected = of_every_request(1);
    assert!(expected.len() > 3 && expected.iter().all(|name| names.contains(&&**name)), "{names:?}");
}

#[test]
fn the_record_as_json_of_the_readme_is_one_of_today() {
    let sample = README.lines().find(|line| line.starts_with("{\"time\"")).expect("a sample");
    let sample: Value = serde_json::from_str(sample).unwrap();
    let (whole, shown) = (serde_json::to_value(whole()).unwrap(), keys(&sample));
    let unknown: Vec<_> = shown.difference(&keys(&whole)).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let missing: Vec<_> = of_every_request(0).difference(&shown).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(keys(&sample["tls"]).is_subset(&keys(&whole["tls"])), "{sample}");
    let same_type =
        |field: &String| std::mem::discriminant(&sample[field]) == std::mem::discriminant(&whole[field]);
    assert!(shown.iter().all(same_type), "{sample}");
}

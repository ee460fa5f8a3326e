//! What docs/admin.md names is what there is, and the other way round.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Room, TOKEN};

const PAGE: &str = include_str!("../../../docs/admin.md");

type Rows = Vec<Vec<&'static str>>;

/// Tables of a section, by the head of their first column.
#[derive(Debug, Default)]
struct Section {
    tables: BTreeMap<&'static str, Rows>,
}

impl Section {
    /// The names in the first column of this table.
    fn names(&self, table: &str) -> BTreeSet<String> {
        let rows = self.tables.get(table).into_iter().flatten();
        rows.map(|row| unquoted(row[0]).to_owned()).collect()
    }
}

fn unquoted(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// The sections whose headings have this mark.
fn sections(mark: &str) -> BTreeMap<&'static str, Section> {
    let mut sections: BTreeMap<&str, Section> = BTreeMap::new();
    let (mut heading, mut table) = (None, "");
    for line in PAGE.lines() {
        if line.starts_with('#') {
            heading =
                line.strip_prefix(mark).filter(|rest| rest.starts_with(' ')).map(str::trim).map(unquoted);
            if let Some(heading) = heading {
                assert!(sections.insert(heading, Section::default()).is_none(), "{heading} stands twice");
            }
        }
        let Some(section) = heading.and_then(|heading| sections.get_mut(heading)) else { continue };
        let Some(cells) = line.strip_prefix('|') else {
            table = "";
            continue;
        };
        let cells: Vec<_> = cells.trim_end_matches('|').split(" |").map(str::trim).collect();
        if table.is_empty() {
            table = cells[0];
            section.tables.entry(table).or_default();
        } else if !cells[0].starts_with('-') {
            section.tables.entry(table).or_default().push(cells);
        }
    }
    sections
}

/// All fields that this section's table has, with those of the objects in them: `tunnels[].from_client.bytes`.
fn fields(section: &Section, objects: &BTreeMap<&'static str, Section>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for row in section.tables.get("field").into_iter().flatten() {
        let (name, kind) = (unquoted(row[0]), row[1]);
        let place = if kind.starts_with("list of") { format!("{name}[]") } else { name.to_owned() };
        let of = unquoted(kind.trim_start_matches("list of "));
        if kind.contains('`') {
            let object = objects.get(of).unwrap_or_else(|| panic!("{name}: `{of}` is not described"));
            found.extend(fields(object, objects).into_iter().map(|field| format!("{place}.{field}")));
        } else {
            found.insert(place);
        }
    }
    found
}

/// All fields that stand in this JSON.
fn leaves(json: &Value, place: &str, found: &mut BTreeSet<String>) {
    match json {
        // The configuration has what its file has.
        Value::Object(_) if place == "config" => drop(found.insert(place.to_owned())),
        Value::Object(entries) => {
            for (key, value) in entries {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                leaves(value, &place, found);
            }
        }
        Value::Array(elements) => {
            assert!(!elements.is_empty(), "{place} has no element to look at");
            for element in elements {
                leaves(element, &format!("{place}[]"), found);
            }
        }
        _ => drop(found.insert(place.to_owned())),
    }
}

/// A request that is answered, for each endpoint with JSON.
const ASKED: [(&str, &str, &str); 15] = [
    ("GET /api", "/api", ""),
    ("GET /api/status", "/api/status", ""),
    ("GET /api/config", "/api/config", ""),
    ("GET /api/listeners", "/api/listeners", ""),
    ("GET /api/upstreams", "/api/upstreams", ""),
    ("GET /api/upstreams/{name}", "/api/upstreams/chat", ""),
    (
        "POST /api/upstreams/{name}/endpoints/{endpoint}/drain",
        "/api/upstreams/chat/endpoints/unix:%2Frun%2Fchat.sock/drain",
        "{\"tunnels\":\"keep\"}",
    ),
    (
        "POST /api/upstreams/{name}/endpoints/{endpoint}/restore",
        "/api/upstreams/chat/endpoints/unix:%2Frun%2Fchat.sock/restore",
        "",
    ),
    ("GET /api/tunnels", "/api/tunnels", ""),
    ("GET /api/tunnels/{id}", "/api/tunnels/42", ""),
    ("POST /api/tunnels/{id}/close", "/api/tunnels/42/close", "{}"),
    ("POST /api/tunnels/close", "/api/tunnels/close", "{\"all\":true}"),
    ("GET /api/log", "/api/log", ""),
    ("PUT /api/log", "/api/log", "{\"level\":\"debug\"}"),
    ("POST /api/reload", "/api/reload", ""),
];

/// Endpoints that answer with an object that has a table of its own.
fn answered_by(endpoint: &str) -> Option<&'static str> {
    match endpoint {
        "GET /api/tunnels/{id}" => Some("tunnel"),
        "GET /api/upstreams/{name}"
        | "POST /api/upstreams/{name}/endpoints/{endpoint}/drain"
        | "POST /api/upstreams/{name}/endpoints/{endpoint}/restore" => Some("upstream"),
        _ => None,
    }
}

#[test]
fn every_endpoint_is_documented_and_there() {
    let room = Room::open(Some(TOKEN));
    let told = room.get("/api").json();
    let there: BTreeSet<_> =
        told["endpoints"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let documented: BTreeSet<_> = sections("###").into_keys().map(str::to_owned).collect();
    assert_eq!(documented, there);
}

#[test]
fn every_field_of_an_answer_is_documented_and_there() {
    let room = Room::open(Some(TOKEN));
    let (endpoints, objects) = (sections("###"), sections("####"));
    let with_json = endpoints.keys().filter(|name| name.contains(" /api")).count();
    assert_eq!(with_json, ASKED.len());
    for (name, path, body) in ASKED {
        let method = name.split(' ').next().unwrap();
        let answer = room.order(&format!("{method} {path}"), body);
        assert_eq!(answer.status(), 200, "{name}");
        let mut there = BTreeSet::new();
        leaves(&answer.json(), "", &mut there);
        let documented = answered_by(name).map_or(&endpoints[name], |object| &objects[object]);
        assert_eq!(fields(documented, &objects), there, "{name}");
    }
}

/// The names in backticks behind `after` in a message.
fn named(message: &str, after: &str) -> BTreeSet<String> {
    let rest = message.split(after).nth(1).unwrap_or_else(|| panic!("{message}"));
    rest.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_field_of_a_body_is_documented_and_there() {
    let room = Room::open(Some(TOKEN));
    let endpoints = sections("###");
    let mut with_body = 0;
    for (name, path, _) in ASKED.into_iter().filter(|(name, ..)| !name.starts_with("GET")) {
        let method = name.split(' ').next().unwrap();
        let (status, error) = room.order(&format!("{method} {path}"), "{\"unknown\":1}").error();
        assert_eq!(status, 422, "{name}");
        let documented = endpoints[name].names("body");
        if error.contains("there are no fields") {
            assert!(documented.is_empty(), "{name}");
            continue;
        }
        assert_eq!(documented, named(&error, "expected "), "{name}");
        with_body += 1;
    }
    assert_eq!(with_body, 4);
}

#[test]
fn every_parameter_is_documented_and_there() {
    let room = Room::open(Some(TOKEN));
    let (status, error) = room.get("/api/tunnels?unknown=1").error();
    let known = error.split("known are ").nth(1).unwrap().split(", ").map(str::to_owned).collect();
    assert_eq!((status, sections("###")["GET /api/tunnels"].names("parameter")), (400, known));
}

#[test]
fn every_status_is_documented() {
    let section = PAGE.split("| status | when |").nth(1).unwrap();
    let rows = section.lines().skip(2).take_while(|line| line.starts_with('|'));
    let documented: BTreeSet<_> =
        rows.map(|row| row[1..].split('|').next().unwrap().trim().parse::<u16>().unwrap()).collect();
    let given: BTreeSet<u16> = [400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422].into();
    assert_eq!(documented, given);
}

//! Keys of a route that do nothing there.

use std::{borrow::Cow, ops::Range};

use super::shadow::Selection;
use crate::{
    config::{
        Action, Route,
        file::{Table, Value},
        report::shown,
    },
    proto::forward::alike,
    route::RouteKind,
};

/// The keys of `[route.websocket]` that judge a handshake, whoever answers it.
const ADMISSION: [&str; 2] = ["origins", "require_origin"];

/// Plain HTTP offers no subprotocol.
pub(super) fn warn_of_no_offers(table: &Table<'_>, selection: &Selection) {
    let (Some(value), Some(kind)) = (table.value("subprotocol"), table.value("kind")) else { return };
    if selection.subprotocol.is_some() && selection.kind == RouteKind::Http {
        let finding = value
            .finding("this route never gets a request")
            .label("WebSocket handshakes alone offer a subprotocol")
            .context(kind.span(), "and this leaves them out");
        table.reader.record(finding.warning());
    }
}

/// Warns of what the route has no use for, by its action or its kind.
pub(super) fn warn(table: &Table<'_>, route: &Route) {
    if matches!(route.action, Action::Upstream(_)) {
        warn_of_edited_copies(table);
    } else {
        warn_without_upstream(table);
    }
    if let Some(kind) = table.value("kind").filter(|_| route.kind == RouteKind::Http) {
        warn_without_tunnels(table, kind, &route.action);
    }
}

/// Keys that shape what goes to an upstream do nothing on a route that has none.
fn warn_without_upstream(table: &Table<'_>) {
    let websocket = table.values_of("websocket");
    let copied = table.values_of("auth").filter(|value| value.key == "copy_headers");
    let own = ["strip_prefix", "host_header", "via", "request_headers", "limits"];
    let own = own.into_iter().filter_map(|key| table.value(key));
    for value in own.chain(websocket.filter(|value| !ADMISSION.contains(&value.key))).chain(copied) {
        let finding = value
            .finding(format!("`{}` has no effect here", value.key))
            .label("this route answers by itself and sends nothing to an upstream");
        table.reader.record(finding.warning());
    }
}

/// Keys about handshakes and tunnels, of which a route for plain HTTP has none.
fn warn_without_tunnels(table: &Table<'_>, kind: Value<'_>, action: &Action) {
    let max_tunnels = table.values_of("limits").filter(|value| value.key == "max_tunnels");
    let websocket = table.values_of("websocket");
    // Of the rest it was said already that nothing goes to an upstream.
    let is_new = |value: &Value<'_>| matches!(action, Action::Upstream(_)) || ADMISSION.contains(&value.key);
    for value in max_tunnels.chain(websocket).filter(is_new) {
        let finding = value
            .finding(format!("`{}` has no effect here", value.key))
            .label("no WebSocket handshake comes to this route")
            .context(kind.span(), "because of this");
        table.reader.record(finding.warning());
    }
}

/// Copies of an auth server's headers that the route's own edits, which come after them, undo or meet.
fn warn_of_edited_copies(table: &Table<'_>) {
    let edits = edits(table);
    let lists = table.values_of("auth").filter(|value| value.key == "copy_headers");
    for copy in lists.filter_map(|list| list.elements().ok()).flatten() {
        let Ok(name) = copy.text() else { continue };
        let Some(edit) = edits.iter().find(|edit| alike(&edit.name, name.as_bytes())) else { continue };
        let finding = if edit.name.eq_ignore_ascii_case(&name) {
            copy.finding(format!("the copy of `{}` never arrives", shown(&name)))
                .label("the edits of `request_headers` come after it")
        } else {
            copy.finding(format!(
                "`{}` and `{}` are one header to many servers",
                shown(&name),
                shown(&edit.name)
            ))
            .label("it is copied under this name")
        };
        table.reader.record(finding.context(edit.span.clone(), edit.done).warning());
    }
}

/// A header of requests that a route sets or removes.
struct Edit<'r> {
    name: Cow<'r, str>,
    span: Range<usize>,
    done: &'static str,
}

fn edits<'r>(table: &Table<'r>) -> Vec<Edit<'r>> {
    let mut edits = Vec::new();
    for value in table.values_of("request_headers") {
        if value.key == "set" {
            let entries = value.entries().unwrap_or_default().into_iter();
            edits.extend(entries.map(|entry| Edit {
                name: entry.name.into(),
                span: entry.name_span,
                done: "set here",
            }));
        } else {
            let names = value.elements().unwrap_or_default().into_iter();
            edits.extend(names.filter_map(|name| {
                Some(Edit { name: name.text().ok()?, span: name.span(), done: "removed here" })
            }));
        }
    }
    edits
}

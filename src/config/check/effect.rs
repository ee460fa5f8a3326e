//! Keys of a route that do nothing there.

use super::shadow::Selection;
use crate::{
    config::{
        Action, Route,
        file::{Table, Value},
    },
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
    if !matches!(route.action, Action::Upstream(_)) {
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

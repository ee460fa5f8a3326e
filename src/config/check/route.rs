//! `[[route]]`.

use std::{collections::HashMap, num::NonZeroUsize, str::FromStr};

use super::{
    access, auth, effect,
    shadow::{self, Selection},
    upstream::{self, Pools},
    websocket,
};
use crate::{
    config::{
        Action, Auth, Route, Written, address,
        file::{Table, Value},
        headers, keys,
        report::{Finding, nearest, shown},
        values,
    },
    proto::{forward::HostHeader, head::is_token},
    route::{HostPattern, NormalPath, PathPattern, RouteKind},
};

/// Reads the routes. `None` only where an error was recorded.
pub(super) fn routes(tables: &[Table<'_>], pools: &Pools<'_>) -> Option<Vec<Route>> {
    let drafts: Vec<_> = tables.iter().map(|table| Draft::read(table, pools)).collect();
    let Some(first) = tables.first() else { return Some(Vec::new()) };
    let names = names(&drafts, first, pools);
    for (table, shadowed) in tables.iter().zip(shadow::shadowed(drafts.iter().map(|draft| &draft.selection)))
    {
        if let Some(by) = shadowed {
            let finding = Finding::new(table.span.clone(), "this route never gets a request")
                .label("what it matches goes to earlier routes")
                .context(tables[by].span.clone(), "such as this one")
                .help("the first route that matches wins: put the narrower one first");
            table.reader.record(finding.warning());
        }
    }
    let leads_to = |index| drafts.iter().any(|draft| draft.leads_to(index));
    pools.warn_unused(|finding| first.reader.record(finding), leads_to);
    // Every route is finished, for its problems, before one that failed makes the whole fail.
    let routes: Vec<_> = drafts.into_iter().zip(names).map(|(draft, name)| draft.finish(name)).collect();
    routes.into_iter().collect()
}

/// A route of which the name is not settled, and perhaps not the action.
struct Draft<'r> {
    table: &'r Table<'r>,
    name: Option<String>,
    selection: Selection,
    action: Option<Action>,
    auth: Option<Auth>,
}

impl<'r> Draft<'r> {
    fn read(table: &'r Table<'r>, pools: &Pools<'_>) -> Self {
        const KINDS: [(&str, RouteKind); 3] =
            [("any", RouteKind::Any), ("websocket", RouteKind::Websocket), ("http", RouteKind::Http)];
        let selection = Selection {
            hosts: table.get("host", vec![HostPattern::Any], |value| value.one_or_list(pattern)),
            paths: table
                .get("path", vec![PathPattern::Prefix(String::new())], |value| value.one_or_list(pattern)),
            subprotocol: table.optional("subprotocol", subprotocol).flatten(),
            kind: table.get("kind", RouteKind::Any, values::choice(&KINDS)),
        };
        effect::warn_of_no_offers(table, &selection);
        let auth = |value: Value<'r>| {
            let table = value.table(&keys::ROUTE_AUTH);
            let table =
                table.map_err(|finding| finding.help("for example `auth = { basic = \"htpasswd\" }`"))?;
            Ok(auth::auth(&table, pools))
        };
        Self {
            table,
            name: table.optional("name", name).flatten(),
            selection,
            action: action(table, pools),
            auth: table.optional("auth", auth).flatten(),
        }
    }

    /// Whether requests go to this upstream, or are asked about there.
    fn leads_to(&self, upstream: usize) -> bool {
        let asks = self.auth.as_ref().and_then(|auth| auth.forward.as_ref());
        self.action == Some(Action::Upstream(upstream)) || asks.is_some_and(|asks| asks.upstream == upstream)
    }

    /// The default of a name that the file does not give.
    fn default_name<'p>(&self, pools: &Pools<'p>) -> &'p str {
        match &self.action {
            Some(Action::Upstream(index)) => pools.name(*index),
            Some(Action::Redirect { .. }) => "redirect",
            Some(Action::Respond { .. }) | None => "respond",
        }
    }

    fn finish(self, name: String) -> Option<Route> {
        let table = self.table;
        let limits = table.table("limits", &keys::ROUTE_LIMITS);
        let websocket = table.table("websocket", &keys::ROUTE_WEBSOCKET);
        let (allow, deny) = access::clients(table);
        let route = Route {
            table: Written::default(),
            name,
            allow,
            deny,
            strip_prefix: table
                .optional("strip_prefix", |value| strip_prefix(value, &self.selection.paths))
                .flatten(),
            host_header: table.get("host_header", HostHeader::Client, host_header),
            via: table.optional("via", via).flatten(),
            request_headers: headers::edits(&table.table("request_headers", &keys::REQUEST_HEADERS)),
            response_headers: headers::edits(&table.table("response_headers", &keys::RESPONSE_HEADERS)),
            request_body: limits.get("request_body", None, values::size_or_off),
            max_tunnels: limits
                .get("max_tunnels", None, values::count_or_off(1..=10_000_000))
                .and_then(NonZeroUsize::new),
            // Authentication that could not be read is authentication nevertheless.
            origins: access::origins(&websocket, table.value("auth").is_some()),
            websocket: websocket::websocket(&websocket),
            auth: self.auth,
            hosts: self.selection.hosts,
            paths: self.selection.paths,
            subprotocol: self.selection.subprotocol,
            kind: self.selection.kind,
            action: self.action?,
        };
        effect::warn(table, &route);
        Some(route)
    }
}

/// The name of each route: its own, or that of its upstream with #2, #3 ... where it is taken.
fn names(drafts: &[Draft<'_>], first: &Table<'_>, pools: &Pools<'_>) -> Vec<String> {
    let mut taken: HashMap<&str, &Table<'_>> = HashMap::new();
    for draft in drafts {
        let Some(name) = &draft.name else { continue };
        if let Some(earlier) = taken.insert(name, draft.table) {
            let place =
                |table: &Table<'_>| table.value("name").map_or(table.span.clone(), |value| value.span());
            let finding = Finding::new(place(draft.table), format!("the name `{name}` is taken"))
                .label("each route has a name of its own")
                .context(place(earlier), "first here");
            first.reader.record(finding);
        }
    }
    let mut used: HashMap<&str, usize> = taken.keys().map(|name| (*name, 1)).collect();
    let mut name = |draft: &Draft<'_>| {
        let base = draft.default_name(pools);
        let count = used.entry(base).or_default();
        *count += 1;
        if *count == 1 { base.to_owned() } else { format!("{base}#{count}") }
    };
    drafts.iter().map(|draft| draft.name.clone().unwrap_or_else(|| name(draft))).collect()
}

/// `""` is the default name.
fn name(value: Value<'_>) -> Result<Option<String>, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    upstream::name(&text, value.span())?;
    Ok(Some(text.into_owned()))
}

/// A token, as a list of them is what a handshake offers (RFC 6455 §4.1); `""` is none.
fn subprotocol(value: Value<'_>) -> Result<Option<String>, Finding> {
    let text = value.text()?;
    if text.is_empty() || is_token(text.as_bytes()) {
        return Ok(Some(text.into_owned()).filter(|text| !text.is_empty()));
    }
    Err(value.finding(format!("`{}` is not a subprotocol", shown(&text))).label(
        "expected one name without spaces, commas or other separators, such as \"graphql-transport-ws\"",
    ))
}

/// A host's or path's pattern.
fn pattern<P: FromStr<Err: ToString>>(value: Value<'_>) -> Result<P, Finding> {
    let text = value.text()?;
    text.parse().map_err(|reason: P::Err| {
        value.finding(format!("`{}` is not a {}", shown(&text), value.key)).label(reason.to_string())
    })
}

/// Exactly one of upstream, redirect and respond. `None` only where an error was recorded.
fn action(table: &Table<'_>, pools: &Pools<'_>) -> Option<Action> {
    let given: Vec<_> =
        ["upstream", "redirect", "respond"].into_iter().filter_map(|key| table.value(key)).collect();
    if let [first, second, ..] = &given[..] {
        let finding = second
            .finding(format!("`{}` beside `{}`", second.key, first.key))
            .label("a route does one thing")
            .context(first.span(), "given already");
        table.reader.record(finding);
        return None;
    }
    let value = given.first();
    match value.map(|value| value.key) {
        Some("upstream") => pools.find(*value?).map(Action::Upstream),
        Some("redirect") => redirect(&table.reader.recorded(value?.table(&keys::REDIRECT))?),
        Some(_) => respond(&table.reader.recorded(value?.table(&keys::RESPOND))?),
        None => {
            let finding = Finding::new(table.span.clone(), "a route that leads nowhere")
                .label("expected `upstream`, `redirect` or `respond`")
                .help("for example `upstream = \"websocket\"`, where there is an `[upstream.websocket]`")
                .absent();
            table.reader.record(finding);
            None
        }
    }
}

fn redirect(table: &Table<'_>) -> Option<Action> {
    let to = table.required("to", "\"https://example.com{path}\"", location);
    let status = table.get("status", 308, |value| match values::count(300..=399)(value)? {
        status @ (301 | 302 | 303 | 307 | 308) => Ok(status),
        _ => Err(value.finding("this status redirects nobody").label("expected 301, 302, 303, 307 or 308")),
    });
    Some(Action::Redirect { to: to?, status })
}

/// A Location: an absolute URL or path, in which `{path}` and `{host}` are replaced.
fn location(value: Value<'_>) -> Result<String, Finding> {
    let text = value.text()?;
    let error = |label: &str| {
        Err(value.finding(format!("`{}` is not a place to redirect to", shown(&text))).label(label))
    };
    let without_placeholders = text.replace("{path}", "").replace("{host}", "");
    if without_placeholders.contains(['{', '}']) {
        return error("the only placeholders are {path} and {host}");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return error("a URL has neither spaces nor control characters, and others are percent-encoded");
    }
    let authority = text.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    match authority {
        Some((scheme, rest)) if matches!(&*scheme, "http" | "https") && !rest.starts_with('/') => {
            if rest.is_empty() { error("the host is missing") } else { Ok(text.into_owned()) }
        }
        Some(_) => error("expected a URL that begins with `https://` or `http://`"),
        None if text.starts_with('/') || text.starts_with("{path}") => Ok(text.into_owned()),
        None => error("expected a URL like \"https://example.com{path}\", or a path that begins with `/`"),
    }
}

fn respond(table: &Table<'_>) -> Option<Action> {
    let status = table.required("status", "404", values::count(200..=599))?;
    let body = table.get("body", String::new(), |value| value.text().map(String::from));
    if let Some(value) = table.value("body").filter(|_| matches!(status, 204 | 205 | 304) && !body.is_empty())
    {
        table.reader.record(value.finding(format!("an answer with status {status} has no body")));
    }
    Some(Action::Respond { status, body })
}

/// A path that is taken off; `""` is none.
fn strip_prefix(value: Value<'_>, paths: &[PathPattern]) -> Result<Option<String>, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let error =
        |label: &str| value.finding(format!("`{}` is not a prefix of paths", shown(&text))).label(label);
    if text.ends_with('*') {
        let prefix = text.trim_end_matches('*').trim_end_matches('/');
        return Err(error("it stands without a `*`").help(format!("write \"{}\"", shown(prefix))));
    }
    match text.parse::<PathPattern>() {
        Err(reason) => return Err(error(&reason.to_string())),
        Ok(_) if text.trim_matches('/').is_empty() => {
            return Err(error("this takes off nothing").help("leave the key out"));
        }
        Ok(_) => {}
    }
    let Ok(normal) = NormalPath::parse(text.trim_end_matches('/')) else { return Err(error("malformed")) };
    let begins = |path: &str| {
        path.strip_prefix(normal.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let stays = paths.iter().any(|path| match path {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => !begins(path),
    });
    if stays {
        let finding = value
            .finding("`strip_prefix` is not the beginning of every `path`")
            .label("requests with another path go upstream as they are")
            .help(format!("for this prefix alone: `path = \"{}/*\"`", shown(text.trim_end_matches('/'))));
        value.reader.record(finding.warning());
    }
    Ok(Some(text.into_owned()))
}

/// "client", "upstream", or a host with or without its port.
fn host_header(value: Value<'_>) -> Result<HostHeader, Finding> {
    const WORDS: [&str; 2] = ["client", "upstream"];
    let text = value.text()?;
    match &*text {
        "client" => return Ok(HostHeader::Client),
        "upstream" => return Ok(HostHeader::Upstream),
        _ => {}
    }
    if !text.contains(['.', ':']) && nearest(&text, WORDS).is_some() {
        return Err(values::unknown_word(value, &text, WORDS.into_iter()));
    }
    if address::is_host(&text) {
        return Ok(HostHeader::Literal(text.into_owned()));
    }
    Err(value.finding(format!("`{}` is not a Host", shown(&text))).label(
        "expected \"client\", \"upstream\", or a host such as \"example.com\" or \"example.com:8080\"",
    ))
}

/// A pseudonym is a token (RFC 9110 §7.6.3); `""` is none.
fn via(value: Value<'_>) -> Result<Option<String>, Finding> {
    let text = value.text()?;
    if text.is_empty() || is_token(text.as_bytes()) {
        return Ok(Some(text.into_owned()).filter(|text| !text.is_empty()));
    }
    Err(value
        .finding(format!("`{}` is not a pseudonym for Via", shown(&text)))
        .label("expected letters, digits, `-`, `_` or `.`"))
}

//! How a server is picked: `balance`, `hash_key`, `sticky_cookie` and `sticky_same_site`.

use crate::{
    config::{
        Balance, HashKey, SameSite, Sticky,
        check::listener::Addresses,
        file::{Table, Value},
        report::{Finding, shown},
        values,
    },
    proto::head::is_token,
};

/// The words of `sticky_same_site`.
pub(in crate::config) const SAME_SITES: [(&str, SameSite); 3] =
    [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
/// What other proxies call the ways to balance; case, `-` and `_` don't count.
const OTHER_WORDS: [(&str, &str); 20] = [
    ("leastconn", "least_connections"),
    ("leastrequest", "least_connections"),
    ("leasttime", "least_connections"),
    ("lc", "least_connections"),
    ("rr", "round_robin"),
    ("wrr", "round_robin"),
    ("weightedroundrobin", "round_robin"),
    ("random", "random_two"),
    ("randomchoose", "random_two"),
    ("p2c", "random_two"),
    ("iphash", "consistent_hash"),
    ("clientiphash", "consistent_hash"),
    ("urihash", "consistent_hash"),
    ("ringhash", "consistent_hash"),
    ("hash", "consistent_hash"),
    ("maglev", "consistent_hash"),
    ("ketama", "consistent_hash"),
    ("source", "consistent_hash"),
    ("uri", "consistent_hash"),
    ("hdr", "consistent_hash"),
];
/// What other proxies call a key of a hash.
const OTHER_KEYS: [(&str, &str); 9] = [
    ("$remote_addr", "client_ip"),
    ("$binary_remote_addr", "client_ip"),
    ("ip", "client_ip"),
    ("source", "client_ip"),
    ("src", "client_ip"),
    ("$uri", "path"),
    ("$request_uri", "path"),
    ("uri", "path"),
    ("url", "path"),
];
/// How nginx begins its variables.
const OTHER_PREFIXES: [(&str, &str); 3] =
    [("$http_", "header:"), ("$cookie_", "cookie:"), ("$arg_", "query:")];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    LeastConnections,
    RoundRobin,
    RandomTwo,
    ConsistentHash,
}

const KINDS: [(&str, Kind); 4] = [
    ("least_connections", Kind::LeastConnections),
    ("round_robin", Kind::RoundRobin),
    ("random_two", Kind::RandomTwo),
    ("consistent_hash", Kind::ConsistentHash),
];

/// Reads `balance` and `hash_key`.
pub(super) fn balance(table: &Table<'_>) -> Balance {
    let given = table.value("balance");
    let read = table.optional("balance", kind);
    let key = table.get("hash_key", HashKey::ClientIp, hash_key);
    // Where `balance` could not be read, nobody knows whether it needs the key.
    let is_known = read.is_some() || given.is_none();
    let unused = table.value("hash_key").filter(|_| is_known && read != Some(Kind::ConsistentHash));
    if let Some(value) = unused {
        let finding = value
            .finding("`hash_key` has no effect here")
            .label("nothing is hashed but for `balance = \"consistent_hash\"`");
        let finding = match given {
            Some(balance) => finding.context(balance.span(), "servers are picked by this"),
            None => finding,
        };
        table.reader.record(finding.warning());
    }
    match read.unwrap_or(Kind::LeastConnections) {
        Kind::LeastConnections => Balance::LeastConnections,
        Kind::RoundRobin => Balance::RoundRobin,
        Kind::RandomTwo => Balance::RandomTwo,
        Kind::ConsistentHash => Balance::ConsistentHash(key),
    }
}

fn kind(value: Value<'_>) -> Result<Kind, Finding> {
    values::choice(&KINDS)(value).map_err(|finding| {
        let plain = |text: &str| text.replace(['-', '_', ' '], "").to_ascii_lowercase();
        let text = value.text().map(|text| plain(&text)).unwrap_or_default();
        let meant = OTHER_WORDS.iter().find(|(word, _)| *word == text);
        let sticky = matches!(&*text, "sticky" | "cookie");
        let help = match meant {
            Some((_, word)) => Some(format!("did you mean \"{word}\"?")),
            None if sticky => {
                Some("`sticky_cookie` keeps a client at its server, with any `balance`".to_owned())
            }
            None => None,
        };
        finding.maybe_help(help)
    })
}

fn hash_key(value: Value<'_>) -> Result<HashKey, Finding> {
    const EXPECTED: &str =
        "expected \"client_ip\", \"path\", \"header:NAME\", \"cookie:NAME\" or \"query:NAME\"";
    let text = value.text()?;
    let (kind, name) = match text.split_once(':') {
        Some((kind, name)) => (kind, Some(name)),
        None => (&*text, None),
    };
    let key: fn(String) -> HashKey = match (kind, name) {
        ("client_ip", None) => return Ok(HashKey::ClientIp),
        ("path", None) => return Ok(HashKey::Path),
        ("header", Some(_)) => HashKey::Header,
        ("cookie", Some(_)) => HashKey::Cookie,
        ("query", Some(_)) => HashKey::Query,
        _ => {
            let finding = value.finding(format!("`{}` is not a key to hash", shown(&text))).label(EXPECTED);
            return Err(finding.maybe_help(meant(&text)));
        }
    };
    let name = name.unwrap_or_default();
    let is_legal = if kind == "query" { is_parameter(name) } else { is_token(name.as_bytes()) };
    if is_legal {
        return Ok(key(name.to_owned()));
    }
    Err(match name {
        "" => value.finding(format!("the name behind `{kind}:` is missing")).label(EXPECTED),
        _ => value
            .finding(format!("`{}` is not the name of a {}", shown(name), said(kind)))
            .label("a name has neither spaces nor separators"),
    })
}

fn said(kind: &str) -> &'static str {
    match kind {
        "header" => "header",
        "cookie" => "cookie",
        _ => "query parameter",
    }
}

/// What was probably meant by something that is no key.
fn meant(text: &str) -> Option<String> {
    let prefixed = |(prefix, kind): &(&str, &str)| {
        let name = text.strip_prefix(prefix)?;
        // nginx writes the `-` of headers as `_`.
        let name = if *kind == "header:" { name.replace('_', "-") } else { name.to_owned() };
        Some(format!("did you mean \"{kind}{}\"?", shown(&name)))
    };
    if let Some((_, key)) = OTHER_KEYS.iter().find(|(word, _)| *word == text) {
        return Some(format!("did you mean \"{key}\"?"));
    }
    if matches!(text, "header" | "cookie" | "query") {
        return Some(format!("with its name, such as \"{text}:user\""));
    }
    OTHER_PREFIXES.iter().find_map(prefixed)
}

/// The name of a query parameter, decoded. One with separators or percent signs is taken for a slip.
fn is_parameter(name: &str) -> bool {
    let is_separator = |c: char| matches!(c, '&' | '=' | '#' | '+' | '%');
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || is_separator(c))
}

/// Reads `sticky_cookie` and `sticky_same_site`.
pub(super) fn sticky(table: &Table<'_>, listeners: &Addresses) -> Option<Sticky> {
    let same_site = table.get("sticky_same_site", SameSite::Lax, values::choice(&SAME_SITES));
    let cookie = table.value("sticky_cookie").filter(|value| !value.is_word(""));
    let Some(value) = cookie else {
        let unused = table.value("sticky_same_site").filter(|_| same_site != SameSite::Lax);
        if let Some(value) = unused {
            let finding = value
                .finding("`sticky_same_site` has no effect here")
                .label("no cookie is set")
                .help("`sticky_cookie` names the cookie");
            table.reader.record(finding.warning());
        }
        return None;
    };
    let sticky = Sticky { cookie: table.reader.recorded(cookie_name(value))?, same_site };
    let warnings = [needs_tls(table, &sticky, listeners), hashes_itself(table, &sticky)];
    for finding in warnings.into_iter().flatten() {
        table.reader.record(finding.warning());
    }
    Some(sticky)
}

fn cookie_name(value: Value<'_>) -> Result<String, Finding> {
    const LONGEST: usize = 128;
    if value.node.get_ref().is_bool() {
        return Err(value.wrong_type("a string").help("the name of the cookie, such as \"wsgate\""));
    }
    let text = value.text()?;
    if is_token(text.as_bytes()) && text.len() <= LONGEST {
        return Ok(text.into_owned());
    }
    Err(value
        .finding(format!("`{}` is not a name for a cookie", shown(&text)))
        .label(format!("expected up to {LONGEST} letters, digits, `-`, `_` or `.`")))
}

/// Browsers take `SameSite=None`, and names with these prefixes, together with `Secure` alone.
fn needs_tls(table: &Table<'_>, sticky: &Sticky, listeners: &Addresses) -> Option<Finding> {
    let lower = sticky.cookie.to_ascii_lowercase();
    let has_prefix = lower.starts_with("__secure-") || lower.starts_with("__host-");
    let is_none = sticky.same_site == SameSite::None;
    let key = if is_none { "sticky_same_site" } else { "sticky_cookie" };
    let (value, plain) = (table.value(key)?, listeners.plain()?);
    (is_none || has_prefix).then(|| {
        value
            .finding("browsers refuse this cookie where there is no TLS")
            .label("they take it with `Secure` alone, which needs https")
            .context(plain, "this listener has no `tls`")
            .help("give that listener `tls`, or let it redirect: `redirect_https = 443`")
    })
}

/// The cookie that wsgate sets is a key that it chose itself.
fn hashes_itself(table: &Table<'_>, sticky: &Sticky) -> Option<Finding> {
    let (value, key) = (table.value("sticky_cookie")?, table.value("hash_key")?);
    let same = matches!(hash_key(key), Ok(HashKey::Cookie(name)) if name == sticky.cookie);
    same.then(|| {
        value
            .finding("`sticky_cookie` is the cookie that is hashed")
            .label("wsgate sets it over what the application put there")
            .context(key.span(), "this one")
            .help("give it a name of its own")
    })
}

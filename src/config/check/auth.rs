//! `[route.auth]`.

use super::upstream::Pools;
use crate::{
    config::{
        Auth, ForwardAuth,
        file::{Table, Value},
        headers, htpasswd,
        report::{Finding, shown},
    },
    proto::forward::alike,
    route::NormalPath,
};

/// Reads the table. `None` where it asks nobody for anything, which is an error.
pub(super) fn auth(table: &Table<'_>, pools: &Pools<'_>) -> Option<Auth> {
    let basic = table.optional("basic", htpasswd::load).flatten();
    let forward = table.optional("forward", |value| forward(value, pools)).flatten();
    let copy_headers = table.get("copy_headers", Vec::new(), |value| value.list(headers::copied));
    warn_of_second_copies(table);
    let is_given = |key| table.value(key).is_some_and(|value| !value.is_word(""));
    if !is_given("basic") && !is_given("forward") {
        let finding = Finding::new(table.span.clone(), "`auth` that asks nobody for anything")
            .label("expected `basic` or `forward`")
            .help("for example `basic = \"htpasswd\"`; without the table, everybody is let in");
        table.reader.record(finding.absent());
    }
    if let Some(value) = table.value("copy_headers").filter(|value| !value.is_empty() && !is_given("forward"))
    {
        let finding = value
            .finding("`copy_headers` without `forward`")
            .label("they are headers of the answer that `forward` gets");
        table.reader.record(finding);
    }
    (basic.is_some() || forward.is_some()).then_some(Auth { basic, forward, copy_headers })
}

/// Names in `copy_headers` of which an earlier one stands for the same header.
fn warn_of_second_copies(table: &Table<'_>) {
    let names = table.value("copy_headers").and_then(|value| value.elements().ok()).unwrap_or_default();
    let names: Vec<_> = names.into_iter().filter_map(|value| Some((value, value.text().ok()?))).collect();
    for (index, (value, name)) in names.iter().enumerate() {
        if let Some((first, _)) = names[..index].iter().find(|(_, earlier)| alike(earlier, name.as_bytes())) {
            let finding = value
                .finding(format!("`{}` is copied twice", shown(name)))
                .label("names are the same in upper and lower case, and to many servers with `_` for `-`")
                .context(first.span(), "first here");
            table.reader.record(finding.warning());
        }
    }
}

/// An upstream's name and a path: `auth/verify`; `""` is none.
fn forward(value: Value<'_>, pools: &Pools<'_>) -> Result<Option<ForwardAuth>, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let error = |label: &str| {
        let finding = value.finding(format!("`{}` is not an upstream and a path", shown(&text)));
        Err(finding
            .label(label.to_owned())
            .help("for example `forward = \"auth/verify\"`, where there is an `[upstream.auth]`"))
    };
    if text.contains("://") {
        return error("expected the name of an upstream of this file, a `/` and the path, not a URL");
    }
    let (name, path) = match text.find('/') {
        None => return error("the path is missing: `/` alone is one"),
        Some(0) => return error("the upstream's name is missing before the path"),
        Some(slash) => text.split_at(slash),
    };
    let path_end = path.find('?').unwrap_or(path.len());
    let is_target = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !is_target || NormalPath::parse(&path[..path_end]).is_err() {
        return error("its path is malformed");
    }
    let upstream = pools.find_named(value, name, "the question goes to an upstream of this file");
    Ok(upstream.map(|upstream| ForwardAuth { upstream, path: path.to_owned() }))
}

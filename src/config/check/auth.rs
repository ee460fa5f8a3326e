//! `[route.auth]`.

use std::{collections::HashMap, fs, str::FromStr as _, sync::Arc};

use super::upstream::Pools;
use crate::{
    config::{
        Auth, ForwardAuth, Htpasswd,
        file::{Table, Value},
        headers,
        report::{Finding, shown},
    },
    route::NormalPath,
};

/// An htpasswd file larger than this is some other file.
const HTPASSWD_MAX: u64 = 16 * 1024 * 1024;

/// Reads the table. `None` where it asks nobody for anything, which is an error.
pub(super) fn auth(table: &Table<'_>, pools: &Pools<'_>) -> Option<Auth> {
    let basic = table.optional("basic", htpasswd).flatten();
    let forward = table.optional("forward", |value| forward(value, pools)).flatten();
    let copy_headers = table.get("copy_headers", Vec::new(), |value| value.list(headers::copied));
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

/// The users of a file with a line `NAME:HASH` for each, as `htpasswd -B` writes it; `""` is none.
fn htpasswd(value: Value<'_>) -> Result<Option<Htpasswd>, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let path = value.reader.path(&text);
    let error = |label: String| {
        value.finding(format!("cannot read the htpasswd file `{}`", shown(&text))).label(label)
    };
    let metadata = fs::metadata(&path).map_err(|cause| error(cause.to_string()))?;
    if !metadata.is_file() || metadata.len() > HTPASSWD_MAX {
        return Err(error("expected a regular file of a line for each user".to_owned()));
    }
    let content = fs::read_to_string(&path).map_err(|cause| error(cause.to_string()))?;
    let mut users = HashMap::new();
    for (index, line) in content.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |label: &str| {
            value
                .finding(format!("line {} of the htpasswd file cannot be used", index + 1))
                .label(label.to_owned())
                .help("`htpasswd -B FILE USER` writes such a line")
        };
        let Some((user, hash)) = line.split_once(':').filter(|(user, _)| !user.is_empty()) else {
            return Err(wrong("expected NAME:HASH"));
        };
        if !is_bcrypt(hash) {
            return Err(wrong("its hash is not one of bcrypt, which begins with `$2y$`"));
        }
        if users.insert(user.to_owned(), hash.to_owned()).is_some() {
            return Err(wrong("its user stands further up already"));
        }
    }
    if users.is_empty() {
        return Err(error("there is no user in it".to_owned()));
    }
    Ok(Some(Htpasswd { path, users: Arc::new(users) }))
}

/// `$2y$10$` and 53 characters of bcrypt's own base64. Costs below 4 don't exist, and those above 16 take minutes.
fn is_bcrypt(hash: &str) -> bool {
    let Some(rest) = ["$2y$", "$2b$", "$2a$"].into_iter().find_map(|version| hash.strip_prefix(version))
    else {
        return false;
    };
    let Some((cost, digest)) = rest.split_once('$') else { return false };
    let is_cost = cost.len() == 2 && cost.parse().is_ok_and(|cost: u32| (4..=16).contains(&cost));
    // What it can't parse, nobody could ever prove.
    is_cost && digest.len() == 53 && bcrypt::HashParts::from_str(hash).is_ok()
}

/// An upstream's name and a path: `auth/verify`; `""` is none.
fn forward(value: Value<'_>, pools: &Pools<'_>) -> Result<Option<ForwardAuth>, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let error = |label: &str| {
        value
            .finding(format!("`{}` is not an upstream and a path", shown(&text)))
            .label(label.to_owned())
            .help("for example `forward = \"auth/verify\"`, where there is an `[upstream.auth]`")
    };
    if text.contains("://") {
        return Err(error("expected the name of an upstream of this file, a `/` and the path"));
    }
    let Some(slash) = text.find('/') else {
        return Err(error("the path is missing"));
    };
    let (name, path) = text.split_at(slash);
    let path_end = path.find('?').unwrap_or(path.len());
    let is_target = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !is_target || NormalPath::parse(&path[..path_end]).is_err() {
        return Err(error("its path is malformed"));
    }
    let upstream = pools.find_named(value, name);
    Ok(upstream.map(|upstream| ForwardAuth { upstream, path: path.to_owned() }))
}

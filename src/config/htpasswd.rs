//! Users and the bcrypt hashes of their passwords, from an htpasswd file.
//!
//! No line is ever repeated in a message: what stands there is a hash, or even a password.

use std::{
    collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::Path, str::FromStr as _, sync::Arc,
};

use bcrypt::HashParts;

use super::{
    Htpasswd,
    file::Value,
    named::{self, Kind},
    report::Finding,
};

const FILE: Kind =
    Kind { name: "htpasswd", most: 16 * 1024 * 1024, made_by: "`htpasswd -c -B -C 10 FILE USER` makes it" };
/// The lines that a message names before it says how many more there are.
const LINES: usize = 8;
const TWICE: &str = "the user stands further up already";
/// Costs below don't exist, and each further one doubles the time: above it takes minutes.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;

/// The users of a file with a line `NAME:HASH` for each, as `htpasswd -B` writes it; `""` is none.
pub(super) fn load(value: Value<'_>) -> Result<Option<Htpasswd>, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    let path = value.reader.path(&text);
    let content = String::from_utf8(named::read(value, &path, &FILE)?).map_err(|_| {
        value.finding("this htpasswd file is not UTF-8 text").label("names are sent and compared in UTF-8")
    })?;
    let (users, wrong) = users(&content);
    if users.is_empty() && wrong.is_empty() {
        return Err(value
            .finding("there is no user in this htpasswd file")
            .label("nobody would be let in")
            .help("`htpasswd -B -C 10 FILE USER` adds one"));
    }
    for (reason, lines) in wrong {
        value.reader.record(unusable(value, reason, &lines));
    }
    warn_of_writers(value, &path);
    Ok(Some(Htpasswd { path, users: Arc::new(users) }))
}

/// Reasons with the lines that they speak against.
type Wrong = Vec<(&'static str, Vec<usize>)>;

fn users(content: &str) -> (HashMap<String, String>, Wrong) {
    let mut users = HashMap::new();
    let mut wrong = Wrong::new();
    let lines = content.lines().map(str::trim).enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let reason = match user(line) {
            Ok((user, hash)) if users.insert(user.to_owned(), hash.to_owned()).is_none() => continue,
            Ok(_) => TWICE,
            Err(reason) => reason,
        };
        match wrong.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, lines)) => lines.push(index + 1),
            None => wrong.push((reason, vec![index + 1])),
        }
    }
    (users, wrong)
}

/// A line's user and hash, or why it cannot be used.
fn user(line: &str) -> Result<(&str, &str), &'static str> {
    const OTHERS: [(&str, &str); 5] = [
        ("$apr1$", "hashed with MD5, which is broken"),
        ("$1$", "hashed with MD5, which is broken"),
        ("{SHA}", "hashed with SHA-1, which is broken"),
        ("$5$", "hashed with SHA-256, not with bcrypt"),
        ("$6$", "hashed with SHA-512, not with bcrypt"),
    ];
    let Some((user, hash)) = line.split_once(':') else { return Err("expected NAME:HASH") };
    if user.is_empty() {
        return Err("the name is missing");
    }
    let Some(rest) = ["$2y$", "$2b$", "$2a$"].into_iter().find_map(|version| hash.strip_prefix(version))
    else {
        let other = OTHERS.iter().find(|(start, _)| hash.starts_with(start));
        return Err(
            other.map_or("not hashed with bcrypt: such a hash begins with `$2y$`", |(_, reason)| reason)
        );
    };
    let is_number = |cost: &str| cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
    match rest.split_once('$') {
        Some((cost, digest)) if is_number(cost) && digest.len() == 53 => {
            let is_bearable = cost.parse().is_ok_and(|cost| COSTS.contains(&cost));
            if !is_bearable {
                return Err("the cost of bcrypt must be from 4 to 16");
            }
            // What bcrypt can't parse, nobody could ever prove.
            HashParts::from_str(hash).map(|_| (user, hash)).map_err(|_| "the hash is malformed")
        }
        _ => Err("the hash is malformed"),
    }
}

fn unusable(value: Value<'_>, reason: &str, lines: &[usize]) -> Finding {
    let numbers: Vec<_> = lines.iter().take(LINES).map(ToString::to_string).collect();
    let more = lines.len() - numbers.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let noun = if lines.len() == 1 { "line" } else { "lines" };
    let help = match reason {
        TWICE => "each user has one line",
        _ => "`htpasswd -B -C 10 FILE USER` writes a line with bcrypt",
    };
    value
        .finding(format!("{noun} {}{more} of the htpasswd file cannot be used", numbers.join(", ")))
        .label(reason)
        .help(help)
}

/// Others may read the hashes, as web servers' files often allow; who can write them lets himself in.
fn warn_of_writers(value: Value<'_>, path: &Path) {
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o002 != 0 {
        let finding = value
            .finding("every user of this machine can change this htpasswd file")
            .label(format!("its mode is {mode:04o}"))
            .help("`chmod o-w` takes that away");
        value.reader.record(finding.warning());
    }
}

#[cfg(test)]
mod tests {
    use super::{TWICE, user, users};

    const DIGEST: &str = "abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dba";

    #[test]
    fn a_line_has_a_name_and_a_bcrypt_hash() {
        for (version, cost) in [("2y", "04"), ("2b", "10"), ("2a", "16")] {
            let line = format!("ann:${version}${cost}${DIGEST}");
            assert_eq!(user(&line), Ok(("ann", &line[4..])));
        }
        let line = |hash: &str| user(&format!("ann:{hash}")).unwrap_err();
        for cost in ["03", "17", "99"] {
            assert_eq!(line(&format!("$2y${cost}${DIGEST}")), "the cost of bcrypt must be from 4 to 16");
        }
        for malformed in [
            format!("$2y$10${DIGEST}="),
            format!("$2y$10${}", &DIGEST[1..]),
            format!("$2y$+5${DIGEST}"),
            "$2y$10".to_owned(),
            format!("$2y$10${}!", &DIGEST[1..]),
        ] {
            assert_eq!(line(&malformed), "the hash is malformed");
        }
        assert_eq!(
            line(&format!("$2x$10${DIGEST}")),
            "not hashed with bcrypt: such a hash begins with `$2y$`"
        );
    }

    #[test]
    fn blank_lines_and_comments_are_no_users() {
        let content = format!("# people\n\n  ann:$2y$10${DIGEST}\r\nbob:$2y$10${DIGEST}\n");
        let (users, wrong) = users(&content);
        assert_eq!((users.len(), wrong), (2, vec![]));
        assert!(users["ann"].ends_with(DIGEST));
    }

    #[test]
    fn lines_are_counted_by_what_is_wrong_with_them() {
        let content =
            format!("ann:$apr1$x$y\nbob\n\ncat:$apr1$x$y\ndan:$2y$10${DIGEST}\ndan:$2y$10${DIGEST}\n");
        let md5 = "hashed with MD5, which is broken";
        let expected = vec![(md5, vec![1, 4]), ("expected NAME:HASH", vec![2]), (TWICE, vec![6])];
        assert_eq!(users(&content).1, expected);
    }
}

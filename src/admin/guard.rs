//! Who may ask what (rule S8).
//!
//! A page that an operator's browser has open can make it ask here, from the operator's machine: under its own name, if that
//! name is made to lead here (DNS rebinding), or across origins. So every request must name this listener by an address of its
//! own or by a name of `admin.hosts`, and must not come from a page of another origin. What changes anything must further
//! show the token, or come over a unix socket.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, uri::Authority};

use super::failure::Failure;
use crate::config::Admin;

/// How a request came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// Over TCP, to this address of the machine.
    Tcp(IpAddr),
    /// Over the unix socket.
    Unix,
}

/// What a request is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'r> {
    pub(super) via: Via,
    pub(super) method: &'r Method,
    pub(super) uri: &'r Uri,
    pub(super) headers: &'r HeaderMap,
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl Caller<'_> {
    /// Whether `admin` lets the request through.
    pub(super) fn judge(&self, admin: &Admin) -> Result<(), Failure> {
        let host = self.host()?;
        let is_probe = matches!(self.uri.path(), "/healthz" | "/readyz");
        if !is_probe && !is_own(&host, self.via, &admin.hosts) {
            let name = host.host();
            return Err(Failure::new(
                StatusCode::MISDIRECTED_REQUEST,
                format!("the Host `{name}` is no address of this listener: add \"{name}\" to `admin.hosts`"),
            ));
        }
        self.judge_page(&host)?;
        self.judge_token(admin)
    }

    /// The one Host; an absolute target must agree with it.
    fn host(&self) -> Result<Authority, Failure> {
        let told = only(self.headers, &header::HOST, "Host")?
            .ok_or_else(|| Failure::bad_request("a request needs a Host"))?;
        let host: Option<Authority> = told.to_str().ok().and_then(|told| told.parse().ok());
        let host = host.filter(|host| !host.as_str().contains('@') && !host.host().is_empty());
        let host = host.ok_or_else(|| Failure::bad_request("the Host is malformed"))?;
        match self.uri.authority() {
            Some(target) if *target != host => {
                Err(Failure::bad_request("the Host is not that of the request target"))
            }
            _ => Ok(host),
        }
    }

    /// Refuses what a browser sends for a page of another origin.
    fn judge_page(&self, host: &Authority) -> Result<(), Failure> {
        let origin = only(self.headers, &header::ORIGIN, "Origin")?;
        if origin.is_some_and(|origin| !origin.to_str().is_ok_and(|origin| is_same_origin(origin, host))) {
            return Err(Failure::forbidden("requests of pages of another origin are refused"));
        }
        match only(self.headers, &SEC_FETCH_SITE, "Sec-Fetch-Site")?.map(HeaderValue::as_bytes) {
            None | Some(b"same-origin" | b"none") => Ok(()),
            Some(_) => Err(Failure::forbidden(
                "requests that another site makes a browser send are refused; type the address instead of following a link",
            )),
        }
    }

    fn judge_token(&self, admin: &Admin) -> Result<(), Failure> {
        let path = self.uri.path();
        if path == "/metrics" {
            return match &admin.metrics_token {
                Some(token) => self.shows(token, "admin.metrics_token"),
                None => Ok(()),
            };
        }
        let is_api = path == "/api" || path.starts_with("/api/");
        let is_change = ![Method::GET, Method::HEAD].contains(self.method);
        match &admin.token {
            Some(token) if is_api || is_change => self.shows(token, "admin.token"),
            None if is_change && self.via != Via::Unix => Err(Failure::forbidden(
                "what changes anything needs a token here: set `admin.token` or use a unix socket",
            )),
            _ => Ok(()),
        }
    }

    /// Whether the request shows the token that stands under `key`. The comparison takes the same time for all of its length.
    fn shows(&self, token: &crate::config::Secret, key: &str) -> Result<(), Failure> {
        let unauthorized = |error: String| Err(Failure::new(StatusCode::UNAUTHORIZED, error));
        let Some(told) = only(self.headers, &header::AUTHORIZATION, "Authorization")? else {
            return unauthorized(format!("this needs `Authorization: Bearer` with the value of `{key}`"));
        };
        match told.as_bytes().split_at_checked(BEARER.len()) {
            Some((scheme, told)) if scheme.eq_ignore_ascii_case(BEARER) && token.is(told.trim_ascii()) => {
                Ok(())
            }
            _ => unauthorized(format!("this is not the value of `{key}`")),
        }
    }
}

const BEARER: &[u8] = b"Bearer ";

/// The value of a header that must not stand twice.
fn only<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    shown: &str,
) -> Result<Option<&'h HeaderValue>, Failure> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Failure::bad_request(format!("there is more than one {shown}"))),
    }
}

/// Whether this is what the listener is called. The port is not looked at: a forwarded one, as of `ssh -L`, is another, and it
/// is not ports that rebinding changes.
fn is_own(host: &Authority, via: Via, hosts: &[String]) -> bool {
    let name = host.host().to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if let Ok(ip) = literal.parse::<IpAddr>() {
        let ip = ip.to_canonical();
        let is_local = matches!(via, Via::Tcp(local) if local.to_canonical() == ip);
        return is_local || ip.is_loopback() || is_listed(literal, hosts);
    }
    name == "localhost" || is_listed(name, hosts)
}

fn is_listed(name: &str, hosts: &[String]) -> bool {
    let bare = |host: &str| host.trim_end_matches(['.', ']']).trim_start_matches('[').to_ascii_lowercase();
    hosts.iter().any(|host| bare(host) == name)
}

/// Whether a page of this Origin is the dashboard: it has the Host that it asks. By its scheme alone they can't be told apart, as a
/// proxy may speak TLS for this listener.
fn is_same_origin(origin: &str, host: &Authority) -> bool {
    let (authority, port) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, 80),
        Some(("https", authority)) => (authority, 443),
        _ => return false,
    };
    let Ok(page) = authority.parse::<Authority>() else { return false };
    let port_of = |authority: &Authority| authority.port_u16().unwrap_or(port);
    page.host().eq_ignore_ascii_case(host.host()) && port_of(&page) == port_of(host)
}

#[cfg(test)]
mod tests;

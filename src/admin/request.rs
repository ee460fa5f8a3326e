//! What a request asks for: parameters of its query, and its JSON.

use std::{error::Error, time::Duration};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, de::DeserializeOwned};

use super::failure::Failure;
use crate::{
    config::{OnRemoved, duration_of},
    connection::tunnels::TunnelFilter,
    ending::AdminClose,
};

/// Bytes of a body.
const MOST: usize = 64 * 1024;
/// How long a body may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tunnels on a page, unless `limit` says otherwise, and at most.
const USUAL_LIMIT: usize = 100;
const LARGEST_LIMIT: usize = 1000;

/// A page of tunnels that was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PageOf {
    pub(super) filter: TunnelFilter,
    pub(super) after: Option<u64>,
    pub(super) limit: usize,
}

const PARAMETERS: [&str; 9] =
    ["route", "endpoint", "client", "listener", "min_age", "max_age", "min_idle", "after", "limit"];

impl PageOf {
    /// Reads the query of `GET /api/tunnels`.
    pub(super) fn read(pairs: Vec<(String, String)>) -> Result<Self, Failure> {
        let mut criteria = Criteria::default();
        let (mut after, mut limit) = (None, None);
        for (name, value) in pairs {
            let place = match &*name {
                "route" => &mut criteria.route,
                "endpoint" => &mut criteria.endpoint,
                "client" => &mut criteria.client,
                "listener" => &mut criteria.listener,
                "min_age" => &mut criteria.min_age,
                "max_age" => &mut criteria.max_age,
                "min_idle" => &mut criteria.min_idle,
                "after" => &mut after,
                "limit" => &mut limit,
                _ => return Err(unknown_parameter(&name, &PARAMETERS)),
            };
            if place.replace(value).is_some() {
                return Err(Failure::bad_request(format!("`{name}` is given twice")));
            }
        }
        let filter = criteria.filter().map_err(Failure::bad_request)?;
        let after = after.map(|text| number(&text, "after", u64::MAX)).transpose()?;
        let most = u64::try_from(LARGEST_LIMIT).unwrap_or(u64::MAX);
        let limit = limit.map(|text| number(&text, "limit", most)).transpose()?;
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(USUAL_LIMIT);
        if limit == 0 {
            return Err(Failure::bad_request(format!("`limit` is from 1 to {LARGEST_LIMIT}")));
        }
        Ok(Self { filter, after, limit })
    }
}

fn number(text: &str, name: &str, most: u64) -> Result<u64, Failure> {
    let number = text.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| Failure::bad_request(format!("`{name}` is a number of at most {most}")))
}

/// Refuses a query where none is known.
pub(super) fn no_parameters(pairs: &[(String, String)]) -> Result<(), Failure> {
    pairs.first().map_or(Ok(()), |(name, _)| Err(unknown_parameter(name, &[])))
}

fn unknown_parameter(name: &str, known: &[&str]) -> Failure {
    let known = match known {
        [] => "this takes none".to_owned(),
        known => format!("known are {}", known.join(", ")),
    };
    Failure::bad_request(format!("unknown parameter `{}`: {known}", name.escape_debug()))
}

/// The words of a filter, as queries and bodies have them.
#[derive(Debug, Default)]
struct Criteria {
    route: Option<String>,
    endpoint: Option<String>,
    client: Option<String>,
    listener: Option<String>,
    min_age: Option<String>,
    max_age: Option<String>,
    min_idle: Option<String>,
}

impl Criteria {
    fn filter(self) -> Result<TunnelFilter, String> {
        let client = self.client.map(|text| text.parse().map_err(|error| format!("`client`: {error}")));
        Ok(TunnelFilter {
            id: None,
            route: self.route,
            endpoint: self.endpoint,
            client: client.transpose()?,
            listener: self.listener,
            min_age: duration(self.min_age, "min_age")?,
            max_age: duration(self.max_age, "max_age")?,
            min_idle: duration(self.min_idle, "min_idle")?,
        })
    }
}

fn duration(text: Option<String>, name: &str) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let found = duration_of(&text);
    found.map(Some).ok_or_else(|| format!("`{name}` is a duration such as \"30s\", \"5m\" or \"1h\""))
}

/// The body of `POST /api/tunnels/{id}/close`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CloseOne {
    code: Option<u16>,
    reason: Option<String>,
}

impl CloseOne {
    pub(super) fn close(&self) -> Result<AdminClose, Failure> {
        close(self.code, self.reason.as_deref())
    }
}

/// The body of `POST /api/tunnels/close`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CloseMany {
    route: Option<String>,
    endpoint: Option<String>,
    client: Option<String>,
    listener: Option<String>,
    min_age: Option<String>,
    max_age: Option<String>,
    min_idle: Option<String>,
    #[serde(default)]
    all: bool,
    code: Option<u16>,
    reason: Option<String>,
}

impl CloseMany {
    /// Which tunnels, and how. All of them only if that is what is said.
    pub(super) fn read(self) -> Result<(TunnelFilter, AdminClose), Failure> {
        let Self { route, endpoint, client, listener, min_age, max_age, min_idle, all, code, reason } = self;
        let criteria = Criteria { route, endpoint, client, listener, min_age, max_age, min_idle };
        let filter = criteria.filter().map_err(Failure::unprocessable)?;
        match (filter == TunnelFilter::default(), all) {
            (true, false) => Err(Failure::unprocessable("say which tunnels, or `\"all\": true`")),
            (false, true) => Err(Failure::unprocessable("`all` goes with no other criterion")),
            _ => Ok((filter, close(code, reason.as_deref())?)),
        }
    }
}

fn close(code: Option<u16>, reason: Option<&str>) -> Result<AdminClose, Failure> {
    AdminClose::new(code.unwrap_or(1012), reason.unwrap_or("closed by an administrator"))
        .map_err(|error| Failure::unprocessable(error.to_string()))
}

/// The body of `POST /api/upstreams/{name}/endpoints/{endpoint}/drain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainEndpoint {
    tunnels: Tunnels,
}

/// What becomes of an endpoint's tunnels.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tunnels {
    Keep,
    Drain,
    Close,
}

impl DrainEndpoint {
    pub(super) fn tunnels(&self) -> OnRemoved {
        match self.tunnels {
            Tunnels::Keep => OnRemoved::Keep,
            Tunnels::Drain => OnRemoved::Drain,
            Tunnels::Close => OnRemoved::Close,
        }
    }
}

/// The body of `PUT /api/log`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetLevel {
    pub(super) level: String,
}

/// A body that says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The JSON of a request's body, which may not be absent.
pub(super) async fn json<T: DeserializeOwned>(request: Request) -> Result<T, Failure> {
    let found = optional_json(request).await?;
    found.ok_or_else(|| Failure::bad_request("this needs a JSON object as its body"))
}

/// The JSON of a request's body, if it has one.
pub(super) async fn optional_json<T: DeserializeOwned>(request: Request) -> Result<Option<T>, Failure> {
    let (head, body) = request.into_parts();
    if body.size_hint().exact() == Some(0) {
        return Ok(None);
    }
    if !is_json(&head.headers) {
        let error = "a body needs `Content-Type: application/json`";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
    }
    let bytes = tokio::time::timeout(PATIENCE, read(body));
    let late = |_| Failure::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    let bytes = bytes.await.map_err(late)??;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        if error.is_data() {
            Failure::unprocessable(error.to_string())
        } else {
            Failure::bad_request(format!("the body is no JSON: {error}"))
        }
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let told = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = told.and_then(|told| told.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

async fn read(body: Body) -> Result<bytes::Bytes, Failure> {
    let collected = Limited::new(body, MOST).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if is_too_long(&*error) {
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "a body has at most 64 KiB")
        } else {
            Failure::bad_request("the body broke off")
        }
    })
}

fn is_too_long(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    std::iter::from_fn(|| {
        let this = next?;
        next = this.source();
        Some(this)
    })
    .any(<dyn Error>::is::<LengthLimitError>)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &[(&str, &str)]) -> Result<PageOf, String> {
        let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        PageOf::read(pairs).map_err(|failure| {
            assert_eq!(failure.status, StatusCode::BAD_REQUEST);
            failure.error
        })
    }

    #[test]
    fn a_query_becomes_a_filter() {
        assert_eq!(page(&[]).unwrap(), PageOf { limit: 100, ..PageOf::default() });
        let told = page(&[
            ("route", "chat"),
            ("endpoint", "10.0.0.1:80"),
            ("client", "10.0.0.0/8"),
            ("listener", "0.0.0.0:443"),
            ("min_age", "5m"),
            ("max_age", "1h"),
            ("min_idle", "500ms"),
            ("after", "7"),
            ("limit", "1000"),
        ]);
        let PageOf { filter, after, limit } = told.unwrap();
        assert_eq!((after, limit), (Some(7), 1000));
        let expected = TunnelFilter {
            id: None,
            route: Some("chat".into()),
            endpoint: Some("10.0.0.1:80".into()),
            client: Some("10.0.0.0/8".parse().unwrap()),
            listener: Some("0.0.0.0:443".into()),
            min_age: Some(Duration::from_secs(300)),
            max_age: Some(Duration::from_secs(3600)),
            min_idle: Some(Duration::from_millis(500)),
        };
        assert_eq!(filter, expected);
    }

    #[test]
    fn what_a_query_can_get_wrong_is_named() {
        for (query, error) in [
            ([("rout", "x")], "unknown parameter `rout`: known are route, endpoint, client, "),
            ([("limit", "0")], "`limit` is from 1 to 1000"),
            ([("limit", "1001")], "`limit` is a number of at most 1000"),
            ([("limit", "-1")], "`limit` is a number"),
            ([("after", "x")], "`after` is a number"),
            ([("min_age", "5")], "`min_age` is a duration such as "),
            ([("client", "localhost")], "`client`: expected an address or a network"),
            ([("client", "10.0.0.1/8")], "`client`: its address has bits beyond its prefix"),
        ] {
            let told = page(&query).unwrap_err();
            assert!(told.starts_with(error), "{told}");
        }
        assert_eq!(page(&[("route", "a"), ("route", "b")]).unwrap_err(), "`route` is given twice");
    }

    fn many(json: &str) -> Result<(TunnelFilter, AdminClose), String> {
        let order: CloseMany = serde_json::from_str(json).unwrap();
        order.read().map_err(|failure| failure.error)
    }

    #[test]
    fn all_tunnels_are_closed_only_where_that_is_said() {
        assert_eq!(many("{}").unwrap_err(), "say which tunnels, or `\"all\": true`");
        assert_eq!(
            many("{\"all\":false,\"code\":1001}").unwrap_err(),
            "say which tunnels, or `\"all\": true`"
        );
        assert_eq!(many("{\"all\":true,\"route\":\"a\"}").unwrap_err(), "`all` goes with no other criterion");
        let usual = AdminClose::new(1012, "closed by an administrator").unwrap();
        assert_eq!(many("{\"all\":true}").unwrap(), (TunnelFilter::default(), usual));
        let (filter, close) = many("{\"client\":\"::1\",\"code\":4000,\"reason\":\"bye\"}").unwrap();
        assert!(filter.client.is_some() && close == AdminClose::new(4000, "bye").unwrap());
    }

    #[test]
    fn a_close_has_a_code_that_may_be_sent_and_a_reason_that_fits() {
        let one = |json: &str| serde_json::from_str::<CloseOne>(json).unwrap().close().is_ok();
        for code in [1000, 1001, 1003, 1007, 1014, 3000, 4999] {
            assert!(one(&format!("{{\"code\":{code}}}")), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            assert!(!one(&format!("{{\"code\":{code}}}")), "{code}");
        }
        let reason = |length| format!("{{\"reason\":\"{}\"}}", "x".repeat(length));
        assert!(one(&reason(123)) && !one(&reason(124)));
    }
}

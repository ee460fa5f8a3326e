//! The endpoints.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State, rejection::PathRejection},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post, put},
};
use serde::Serialize;
use serde_json::json;

use super::{
    control::Control,
    dashboard,
    failure::Failure,
    request::{
        CloseMany, CloseOne, DrainEndpoint, Nothing, PageOf, SetLevel, json, no_parameters, optional_json,
    },
};
use crate::{
    connection::tunnels::{TunnelFilter, TunnelRow},
    ending::AdminClose,
    server::Readiness,
    upstream::PoolView,
};

/// The process that is asked.
type Process = State<Arc<dyn Control>>;
/// The parameters of a query, in their order.
type Pairs = Query<Vec<(String, String)>>;
/// What stands in the places of a path.
type Places<T> = Result<Path<T>, PathRejection>;
type Answer<T = Response> = Result<T, Failure>;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A method, a path and what answers.
type Endpoint = (Method, &'static str, MethodRouter<Arc<dyn Control>>);

/// Everything that is answered here.
fn endpoints() -> Vec<Endpoint> {
    let mut all = vec![
        (Method::GET, "/healthz", get(healthz)),
        (Method::GET, "/readyz", get(readyz)),
        (Method::GET, "/metrics", get(metrics)),
        (Method::GET, "/api", get(index)),
        (Method::GET, "/api/status", get(status)),
        (Method::GET, "/api/config", get(configuration)),
        (Method::GET, "/api/listeners", get(listeners)),
        (Method::GET, "/api/upstreams", get(upstreams)),
        (Method::GET, "/api/upstreams/{name}", get(upstream)),
        (Method::POST, "/api/upstreams/{name}/endpoints/{endpoint}/drain", post(drain_endpoint)),
        (Method::POST, "/api/upstreams/{name}/endpoints/{endpoint}/restore", post(restore_endpoint)),
        (Method::GET, "/api/tunnels", get(tunnels)),
        (Method::POST, "/api/tunnels/close", post(close_tunnels)),
        (Method::GET, "/api/tunnels/{id}", get(tunnel)),
        (Method::POST, "/api/tunnels/{id}/close", post(close_tunnel)),
        (Method::GET, "/api/log", get(log_level)),
        (Method::PUT, "/api/log", put(set_log_level)),
        (Method::POST, "/api/reload", post(reload)),
    ];
    all.extend(dashboard::files().map(|(path, file)| (Method::GET, path, get(async move || file))));
    all
}

/// All endpoints over this process. Who may ask is judged before.
pub(super) fn router(control: Arc<dyn Control>) -> Router {
    let router =
        endpoints().into_iter().fold(Router::new(), |router, (_, path, answer)| router.route(path, answer));
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(control)
}

async fn not_found() -> Failure {
    Failure::not_found("nothing is here; GET /api lists what there is")
}

async fn method_not_allowed(method: Method) -> Failure {
    let error = format!("{method} is not for this; the header Allow says what is");
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, error)
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(control): Process) -> Response {
    match control.readiness() {
        Readiness::Ready => (StatusCode::OK, "ready\n"),
        Readiness::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
    .into_response()
}

async fn metrics(State(control): Process, Query(pairs): Pairs) -> Answer {
    no_parameters(&pairs)?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], control.metrics()).into_response())
}

async fn index(Query(pairs): Pairs) -> Answer {
    no_parameters(&pairs)?;
    let endpoints = endpoints().into_iter().map(|(method, path, _)| format!("{method} {path}"));
    Ok(Json(json!({ "endpoints": endpoints.collect::<Vec<_>>() })).into_response())
}

/// What a plain GET tells.
fn told(pairs: &[(String, String)], view: impl Serialize) -> Answer {
    no_parameters(pairs)?;
    Ok(Json(view).into_response())
}

async fn status(State(control): Process, Query(pairs): Pairs) -> Answer {
    told(&pairs, control.status())
}

async fn configuration(State(control): Process, Query(pairs): Pairs) -> Answer {
    told(&pairs, control.configuration())
}

async fn listeners(State(control): Process, Query(pairs): Pairs) -> Answer {
    told(&pairs, json!({ "listeners": control.listeners() }))
}

async fn upstreams(State(control): Process, Query(pairs): Pairs) -> Answer {
    told(&pairs, json!({ "upstreams": control.upstreams() }))
}

async fn upstream(State(control): Process, places: Places<String>, Query(pairs): Pairs) -> Answer {
    let Path(name) = places?;
    told(&pairs, find_upstream(&*control, &name)?)
}

fn find_upstream(control: &dyn Control, name: &str) -> Answer<PoolView> {
    let found = control.upstreams().into_iter().find(|upstream| upstream.name == name);
    found.ok_or_else(|| Failure::not_found("there is no such upstream; GET /api/upstreams lists them"))
}

async fn drain_endpoint(
    State(control): Process,
    places: Places<(String, String)>,
    request: Request,
) -> Answer {
    let Path((name, endpoint)) = places?;
    let order: DrainEndpoint = json(request).await?;
    find_upstream(&*control, &name)?;
    if !control.drain_endpoint(&name, &endpoint, order.tunnels()) {
        return Err(no_endpoint(&name));
    }
    Ok(Json(find_upstream(&*control, &name)?).into_response())
}

async fn restore_endpoint(
    State(control): Process,
    places: Places<(String, String)>,
    request: Request,
) -> Answer {
    let Path((name, endpoint)) = places?;
    optional_json::<Nothing>(request).await?;
    find_upstream(&*control, &name)?;
    if !control.restore_endpoint(&name, &endpoint) {
        return Err(no_endpoint(&name));
    }
    Ok(Json(find_upstream(&*control, &name)?).into_response())
}

fn no_endpoint(upstream: &str) -> Failure {
    Failure::not_found(format!("there is no such endpoint; GET /api/upstreams/{upstream} lists them"))
}

async fn tunnels(State(control): Process, Query(pairs): Pairs) -> Answer {
    let PageOf { filter, after, limit } = PageOf::read(pairs)?;
    Ok(Json(control.tunnels(filter, after, limit).await).into_response())
}

async fn tunnel(State(control): Process, places: Places<String>, Query(pairs): Pairs) -> Answer {
    let Path(id) = places?;
    no_parameters(&pairs)?;
    find_tunnel(&*control, tunnel_id(&id)?).await.map(|tunnel| Json(tunnel).into_response())
}

/// Anything but a number is the id of no tunnel.
fn tunnel_id(text: &str) -> Answer<u64> {
    text.parse().map_err(|_| no_tunnel())
}

fn no_tunnel() -> Failure {
    Failure::not_found("no tunnel with this id is open; GET /api/tunnels lists those that are")
}

async fn find_tunnel(control: &dyn Control, id: u64) -> Answer<TunnelRow> {
    let filter = TunnelFilter { id: Some(id), ..TunnelFilter::default() };
    control.tunnels(filter, None, 1).await.rows.pop().ok_or_else(no_tunnel)
}

async fn close_tunnel(State(control): Process, places: Places<String>, request: Request) -> Answer {
    let Path(id) = places?;
    let id = tunnel_id(&id)?;
    let order: Option<CloseOne> = optional_json(request).await?;
    let close = order.unwrap_or_default().close()?;
    let filter = TunnelFilter { id: Some(id), ..TunnelFilter::default() };
    let closed = control.close_tunnels(filter.clone(), close.clone()).await;
    if closed == 0 {
        find_tunnel(&*control, id).await?;
        return Err(Failure::conflict("this tunnel is closing already"));
    }
    log_closed(closed, &filter, &close);
    Ok(Json(json!({ "closed": 1 })).into_response())
}

async fn close_tunnels(State(control): Process, request: Request) -> Answer {
    let (filter, close) = json::<CloseMany>(request).await?.read()?;
    let closed = control.close_tunnels(filter.clone(), close.clone()).await;
    log_closed(closed, &filter, &close);
    Ok(Json(json!({ "closed": closed })).into_response())
}

/// Says which criteria there were, and how they were closed.
fn log_closed(closed: usize, filter: &TunnelFilter, close: &AdminClose) {
    let TunnelFilter { id, route, endpoint, client, listener, min_age, max_age, min_idle } = filter;
    tracing::info!(
        closed,
        id,
        route,
        endpoint,
        client = client.as_ref().map(tracing::field::display),
        listener,
        min_age_s = min_age.map(|age| age.as_secs_f64()),
        max_age_s = max_age.map(|age| age.as_secs_f64()),
        min_idle_s = min_idle.map(|idle| idle.as_secs_f64()),
        code = close.code(),
        reason = close.reason(),
        "tunnels closed by an administrator"
    );
}

async fn log_level(State(control): Process, Query(pairs): Pairs) -> Answer {
    told(&pairs, json!({ "level": control.log_level() }))
}

async fn set_log_level(State(control): Process, request: Request) -> Answer {
    let SetLevel { level } = json(request).await?;
    control.set_log_level(&level).map_err(Failure::unprocessable)?;
    // A field of the name `level` would be an event's second one.
    tracing::info!(filter = level, "log level set by an administrator");
    Ok(Json(json!({ "level": control.log_level() })).into_response())
}

/// Reads files and may wait for look-ups, so it has a thread of its own; it goes on to its end, though the client leave.
async fn reload(State(control): Process, request: Request) -> Answer {
    optional_json::<Nothing>(request).await?;
    let done = tokio::task::spawn_blocking(move || control.reload()).await;
    let done = done.map_err(|_| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the reload failed, which is a defect")
    })?;
    match done {
        Ok(report) => Ok(Json(report).into_response()),
        Err(error) if error.is_of_configuration() => Err(Failure::unprocessable(error.to_string())),
        Err(error) => Err(Failure::conflict(error.to_string())),
    }
}

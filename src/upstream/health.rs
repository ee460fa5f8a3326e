//! Active checks: each server is asked every now and then, as a client would ask it.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Transport,
    connect::{Bounds, Dial, Fault},
    endpoint::Endpoint,
    is_own_lack,
    set::Set,
    streak::{Checking, Turn},
};
use crate::{
    buffered::Buffered,
    config::{Check, Health},
    ending::chain,
    proto::{
        frame::{self, FrameError, FrameHeader, Opcode},
        framing::{BodyFraming, response_framing},
        handshake::{AgreementError, Offer, OfferError, encode_key},
        head::{HeadError, HeadLimits, Headers, InvalidHeader, Method, RequestHead, ResponseHead},
    },
};

/// How often the servers of a pool are looked at for new ones.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What is read at once, and of a body in all.
const READ: usize = 16 * 1024;

/// Checks the servers that `servers` gives, until it gives none: then the pool is gone.
pub(super) async fn watch(health: Health, dial: Arc<Dial>, servers: impl Fn() -> Option<Arc<Set>>) {
    let health = Arc::new(health);
    let mut tasks = JoinSet::new();
    let mut watched: Vec<(Arc<Endpoint>, AbortHandle)> = Vec::new();
    let mut seen: Option<Arc<Set>> = None;
    while let Some(set) = servers() {
        if !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &set)) {
            watched.retain(|(endpoint, task)| {
                let stays = set.endpoints.iter().any(|other| Arc::ptr_eq(endpoint, other));
                if !stays {
                    task.abort();
                }
                stays
            });
            for endpoint in &set.endpoints {
                if watched.iter().all(|(other, _)| !Arc::ptr_eq(endpoint, other)) {
                    let check = keep_checking(Arc::clone(endpoint), Arc::clone(&dial), Arc::clone(&health));
                    watched.push((Arc::clone(endpoint), tasks.spawn(check)));
                }
            }
            seen = Some(set);
        }
        while tasks.try_join_next().is_some() {}
        sleep(LOOK_AGAIN).await;
    }
}

async fn keep_checking(endpoint: Arc<Endpoint>, dial: Arc<Dial>, health: Arc<Health>) {
    loop {
        let streak = endpoint.status.checks.begin().await;
        // Here and not where it was found: the endpoint that found it may have given way to this one.
        match streak.turn(health.rise, health.fall, endpoint.status.has_failed_checks()) {
            Some(Turn::Out) => endpoint.checks_failed(streak.reason.as_deref().unwrap_or_default()),
            Some(Turn::In) => endpoint.checks_passed(),
            None => {}
        }
        let next = streak.began.map(|began| began + jittered(health.interval));
        drop(streak);
        if let Some(next) = next {
            sleep_until(next).await;
        }
        let mut streak = endpoint.status.checks.begin().await;
        streak.began = Some(Instant::now());
        // A reload ends this task, and not the check: else a silent server stayed in, if reloads come before the check times out.
        drop(tokio::spawn(check_once(Arc::clone(&endpoint), Arc::clone(&dial), Arc::clone(&health), streak)));
    }
}

/// One check, with its farewell; both end within `timeout`.
async fn check_once(endpoint: Arc<Endpoint>, dial: Arc<Dial>, health: Arc<Health>, mut streak: Checking) {
    let began = Instant::now();
    let due = began + health.timeout;
    let checked = timeout_at(due, check(&endpoint, &dial, &health)).await;
    let checked = checked.unwrap_or(Err(Unfit::TimedOut));
    if let Err(Unfit::Connect(error)) = &checked
        && is_own_lack(error)
    {
        // That says nothing of the server: to take it out for it would cut tunnels that are well.
        if !std::mem::replace(&mut streak.lacks, true) {
            tracing::warn!(endpoint = %endpoint.name(), %error, "a server can't be checked");
        }
        return;
    }
    streak.lacks = false;
    if !endpoint.status.checks.are_over() {
        let reason = checked.as_ref().err().map(|unfit| chain(unfit));
        endpoint.status.note_check(reason.as_deref().map_or(Ok(()), Err), began.elapsed());
        streak.add(reason);
    }
    drop(streak);
    if let Ok(passed) = checked {
        // However a server takes a farewell, it has passed.
        let _ = timeout_at(due, passed.leave()).await;
    }
}

/// Give or take a tenth, so that many gates and servers do not fall into step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.9..=1.1))
}

/// Why a server did not pass.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("the check timed out")]
    TimedOut,
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    #[error("the connection ended before {0}")]
    Ended(&'static str),
    #[error("its answer is malformed")]
    Head(#[from] HeadError),
    #[error("its answer has status {0}")]
    Status(u16),
    #[error("the handshake failed")]
    Disagreed(#[from] AgreementError),
    #[error("its frames are malformed")]
    Frame(#[from] FrameError),
    #[error("its frames are masked")]
    Masked,
    #[error("the configured headers make no request")]
    Header(#[from] InvalidHeader),
    #[error("the configured headers make no handshake")]
    Offer(#[from] OfferError),
    #[error("the configured headers make no handshake")]
    NoOffer,
}

/// A connection to a server that passed, and how it is to be left.
struct Passed {
    stream: Buffered<Transport>,
    farewell: Farewell,
}

enum Farewell {
    /// Nothing was said.
    None,
    /// So much of an answer is still read: to cut it off would look like a failure to the server.
    Rest(usize),
    /// A Close, and its answer.
    Close,
}

/// One check. The caller bounds its time.
async fn check(endpoint: &Endpoint, dial: &Dial, health: &Health) -> Result<Passed, Unfit> {
    let connected = endpoint.dial(dial, Bounds { each: None, deadline: None }, None).await;
    let (stream, ..) = connected.map_err(|fault| match fault {
        Fault::Unresolved(error) => Unfit::Connect(io::Error::other(error)),
        Fault::Failed(error) => Unfit::Connect(error),
        Fault::Tls(error) => Unfit::Tls(error),
        Fault::TimedOut | Fault::ResolvedTooLate => Unfit::TimedOut,
    })?;
    let mut stream = Buffered::new(stream);
    let farewell = match health.check {
        Check::Tcp => Farewell::None,
        Check::Http => ask(&mut stream, health, endpoint.authority()).await?,
        Check::Websocket => shake_hands(&mut stream, health, endpoint.authority()).await?,
    };
    Ok(Passed { stream, farewell })
}

/// The request of a check, to which its kind adds `lines`, before the configured ones.
fn request(health: &Health, authority: &str, lines: &[(&str, &str)]) -> Result<RequestHead, Unfit> {
    let mut head = RequestHead::new(Method::GET, health.path.as_str());
    let host = health.host.as_deref().unwrap_or(authority);
    head.headers.append("Host", host.as_bytes())?;
    let has = |name: &str| health.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    if !has("user-agent") {
        head.headers.append("User-Agent", b"wsgate-health")?;
    }
    add(&mut head.headers, lines.iter().copied())?;
    add(&mut head.headers, health.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    Ok(head)
}

fn add<'a>(
    headers: &mut Headers,
    mut lines: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), InvalidHeader> {
    lines.try_for_each(|(name, value)| headers.append(name, value.as_bytes()))
}

async fn send(stream: &mut Buffered<Transport>, head: &RequestHead) -> Result<(), Unfit> {
    let mut bytes = Vec::new();
    head.encode(&mut bytes);
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

async fn ask(stream: &mut Buffered<Transport>, health: &Health, authority: &str) -> Result<Farewell, Unfit> {
    let head = request(health, authority, &[("Connection", "close")])?;
    send(stream, &head).await?;
    expected(&answer(stream).await?, health)
}

fn expected(answer: &ResponseHead, health: &Health) -> Result<Farewell, Unfit> {
    if !health.expect_status.contains(&answer.status) {
        return Err(Unfit::Status(answer.status));
    }
    Ok(Farewell::Rest(match response_framing(answer, &Method::GET) {
        Ok(BodyFraming::Empty) => 0,
        Ok(BodyFraming::Length(length)) => usize::try_from(length).unwrap_or(READ).min(READ),
        _ => READ,
    }))
}

/// The opening handshake, and with `ping` a Ping and its Pong. A 101 must prove itself whatever statuses are expected.
async fn shake_hands(
    stream: &mut Buffered<Transport>,
    health: &Health,
    authority: &str,
) -> Result<Farewell, Unfit> {
    let key = encode_key(rand::random());
    let lines = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", &key),
        ("Sec-WebSocket-Version", "13"),
    ];
    let mut head = request(health, authority, &lines)?;
    if let Some(subprotocol) = &health.subprotocol {
        head.headers.append("Sec-WebSocket-Protocol", subprotocol.as_bytes())?;
    }
    let offer = Offer::from_head(&head)?.ok_or(Unfit::NoOffer)?;
    send(stream, &head).await?;
    let answer = answer(stream).await?;
    if answer.status != 101 {
        return expected(&answer, health);
    }
    offer.prove(&answer, true)?;
    if health.ping {
        ping(stream).await?;
    }
    Ok(Farewell::Close)
}

/// The head of the answer. Interim ones are passed over.
async fn answer(stream: &mut Buffered<Transport>) -> Result<ResponseHead, Unfit> {
    loop {
        match ResponseHead::parse(stream.tail(), &HeadLimits::default())? {
            Some((head, length)) => {
                stream.consume(length);
                if head.status == 101 || head.status >= 200 {
                    return Ok(head);
                }
            }
            None => more(stream, "its answer").await?,
        }
    }
}

async fn more(stream: &mut Buffered<Transport>, wanted: &'static str) -> Result<(), Unfit> {
    match stream.fill(READ).await? {
        0 => Err(Unfit::Ended(wanted)),
        _ => Ok(()),
    }
}

/// A Ping, and the Pong with its payload. What comes before it is passed over, but for a Close.
async fn ping(stream: &mut Buffered<Transport>) -> Result<(), Unfit> {
    let payload: [u8; 8] = rand::random();
    let mut bytes = Vec::new();
    frame::encode_ping(&payload, Some(rand::random()), &mut bytes);
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    loop {
        match next_frame(stream, "its Pong").await? {
            (Opcode::Pong, echoed) if echoed == payload => return Ok(()),
            (Opcode::Close, _) => return Err(Unfit::Ended("its Pong")),
            _ => {}
        }
    }
}

/// The next frame; of its payload only what a control frame has.
async fn next_frame(
    stream: &mut Buffered<Transport>,
    wanted: &'static str,
) -> Result<(Opcode, Vec<u8>), Unfit> {
    let (header, length) = loop {
        match FrameHeader::parse(stream.tail())? {
            Some(found) => break found,
            None => more(stream, wanted).await?,
        }
    };
    if header.mask.is_some() {
        return Err(Unfit::Masked);
    }
    stream.consume(length);
    let (mut payload, mut left) = (Vec::new(), header.length);
    while left > 0 {
        if stream.tail().is_empty() {
            more(stream, wanted).await?;
        }
        let here = stream.tail().len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if header.opcode.is_control() {
            payload.extend_from_slice(&stream.tail()[..here]);
        }
        stream.consume(here);
        left -= here as u64;
    }
    Ok((header.opcode, payload))
}

impl Passed {
    /// Ends the connection in order. The caller bounds its time.
    async fn leave(mut self) -> Result<(), Unfit> {
        let stream = &mut self.stream;
        match self.farewell {
            Farewell::None => {}
            Farewell::Rest(mut left) => {
                while left > 0 {
                    if stream.tail().is_empty() {
                        more(stream, "its body").await?;
                    }
                    let here = stream.tail().len();
                    stream.consume(here);
                    left = left.saturating_sub(here);
                }
            }
            Farewell::Close => {
                let mut bytes = Vec::new();
                frame::encode_close(1000, "", Some(rand::random()), &mut bytes);
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                while next_frame(stream, "its Close").await?.0 != Opcode::Close {}
            }
        }
        Ok(stream.shutdown().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_varies_by_a_tenth() {
        for _ in 0..1000 {
            let millis = jittered(Duration::from_secs(1)).as_millis();
            assert!((900..=1100).contains(&millis), "{millis}");
        }
    }
}

//! `[route.websocket]`.

use std::time::Duration;

use toml::de::DeValue;

use super::upstream::ON_REMOVED;
use crate::config::{
    Frames, Ping, WebSocket,
    file::{Table, Value},
    rate,
    report::Finding,
    values::{self, days, show_duration, timeout},
};

/// The words of `frames`.
pub(in crate::config) const FRAMES: [(&str, Frames); 2] =
    [("enforce", Frames::Enforce), ("observe", Frames::Observe)];
/// The words of `ping`.
pub(in crate::config) const PINGS: [(&str, Ping); 4] =
    [("both", Ping::Both), ("clients", Ping::Clients), ("upstreams", Ping::Upstreams), ("off", Ping::Off)];
/// A `ping_interval` or `pong_timeout` below this is taken for a slip.
const HASTY: Duration = Duration::from_secs(1);
/// The longest payload of a control frame (RFC 6455 §5.5).
const CONTROL: u64 = 125;

/// Reads the table, and warns of what is hardly meant.
pub(super) fn websocket(table: &Table<'_>) -> WebSocket {
    let default = WebSocket::default();
    let websocket = WebSocket {
        frames: table.get("frames", default.frames, values::choice(&FRAMES)),
        verify_accept: table.get("verify_accept", default.verify_accept, Value::switch),
        idle_timeout: table.get("idle_timeout", default.idle_timeout, timeout),
        ping: table.get("ping", default.ping, ping),
        ping_interval: table.get("ping_interval", default.ping_interval, timeout),
        pong_timeout: table.get("pong_timeout", default.pong_timeout, values::timeout_up_to(days(1))),
        half_close_timeout: table.get("half_close_timeout", default.half_close_timeout, timeout),
        max_frame: table.get("max_frame", default.max_frame, values::size_limit),
        max_message: table.get("max_message", default.max_message, values::size_limit),
        message_rate: table.get("message_rate", default.message_rate, rate::rate_or_off),
        max_age: table.get("max_age", default.max_age, timeout),
        on_reload: table.get("on_reload", default.on_reload, values::choice(&ON_REMOVED)),
        close_timeout: table.get("close_timeout", default.close_timeout, timeout),
    };
    let verify = table.value("verify_accept").filter(|_| !websocket.verify_accept).map(unproven);
    let pings = [contradiction, asked_too_late, hasty_interval, hasty_timeout];
    let limits = [without_effect, ends_on_control_frames];
    let found = pings.into_iter().chain(limits).filter_map(|find| find(table, &websocket));
    for finding in verify.into_iter().chain(found) {
        table.reader.record(finding.warning());
    }
    websocket
}

/// One of the words; what else people write is told what it should be.
fn ping(value: Value<'_>) -> Result<Ping, Finding> {
    let help = match value.node.get_ref() {
        DeValue::String(_) => return values::choice(&PINGS)(value).map_err(|finding| meant(value, finding)),
        DeValue::Boolean(true) => "write `\"both\"`",
        DeValue::Boolean(false) => "write `\"off\"`",
        _ => "for example `ping = \"both\"` and `ping_interval = \"30s\"`",
    };
    Err(value.wrong_type("\"both\", \"clients\", \"upstreams\" or \"off\"").help(help))
}

/// What an unknown word of `ping` was probably meant to be, where no known one is near.
fn meant(value: Value<'_>, finding: Finding) -> Finding {
    if values::duration(value).is_ok() {
        return finding.help(format!("how often: `ping_interval = {}`", value.raw()));
    }
    let is_yes = ["on", "true", "yes", "all"].into_iter().any(|word| value.is_word(word));
    if is_yes { finding.help("did you mean \"both\"?") } else { finding }
}

fn unproven(value: Value<'_>) -> Finding {
    value
        .finding("`verify_accept` is off")
        .label("an answer that proves nothing opens a tunnel")
        .help("only for a server that is known to send a wrong Sec-WebSocket-Accept")
}

/// `ping` and `ping_interval`, both in the file, of which one says yes and the other no.
fn contradiction(table: &Table<'_>, websocket: &WebSocket) -> Option<Finding> {
    let (ping, interval) = (table.value("ping")?, table.value("ping_interval")?);
    let asks = websocket.ping != Ping::Off;
    let finding = match websocket.ping_interval {
        None if asks => interval
            .finding("no Ping is ever sent")
            .label("an interval that is off asks nobody")
            .context(ping.span(), "asked for here")
            .help("give an interval such as \"30s\", or write `ping = \"off\"` alone"),
        Some(_) if !asks => interval
            .finding("`ping_interval` has no effect here")
            .label("no Ping is ever sent")
            .context(ping.span(), "because of this"),
        _ => return None,
    };
    Some(finding)
}

/// Whether `ping` and `ping_interval` come to any Ping, and after what time.
fn interval(websocket: &WebSocket) -> Option<Duration> {
    websocket.ping_interval.filter(|_| websocket.ping != Ping::Off)
}

/// An idle tunnel is closed before anybody is asked, so that no answer can keep it.
fn asked_too_late(table: &Table<'_>, websocket: &WebSocket) -> Option<Finding> {
    let (interval, idle) = (interval(websocket)?, websocket.idle_timeout?);
    let mut given = ["ping_interval", "idle_timeout"].into_iter().filter_map(|key| table.value(key));
    let first = given.next().filter(|_| interval >= idle)?;
    let (interval, idle) = (show_duration(interval), show_duration(idle));
    let finding = first
        .finding("idle tunnels are closed before they are asked for a sign of life")
        .label(format!("closed after {idle} without a byte, asked after {interval}"));
    let finding = match given.next() {
        Some(second) => finding.context(second.span(), "closed after this"),
        None => finding,
    };
    Some(
        finding
            .help("a `ping_interval` well below `idle_timeout` keeps the tunnels whose peers answer")
            .help("`ping = \"off\"` says that idle tunnels are not to be kept"),
    )
}

fn hasty_interval(table: &Table<'_>, websocket: &WebSocket) -> Option<Finding> {
    let value = table.value("ping_interval")?;
    interval(websocket).filter(|interval| *interval < HASTY)?;
    Some(
        value
            .finding("`ping_interval` is below a second")
            .label("every quiet tunnel gets more than one Ping a second"),
    )
}

fn hasty_timeout(table: &Table<'_>, websocket: &WebSocket) -> Option<Finding> {
    let value = table.value("pong_timeout")?;
    websocket.pong_timeout.filter(|timeout| *timeout < HASTY)?;
    let finding = value
        .finding("`pong_timeout` is below a second")
        .label("a lost packet or a busy peer takes longer, and counts as dead");
    Some(finding)
}

/// A frame that is too large is part of a message that is. Below the size of control frames, which are part of none,
/// `max_frame` has an effect of its own.
fn without_effect(table: &Table<'_>, websocket: &WebSocket) -> Option<Finding> {
    let (frame, message) = (table.value("max_frame")?, table.value("max_message")?);
    let size = websocket.max_frame.filter(|size| *size >= CONTROL)?;
    (size > websocket.max_message?).then(|| {
        frame
            .finding("`max_frame` has no effect here")
            .label("a frame over `max_message` is too large already")
            .context(message.span(), "the smaller limit")
            .help("leave `max_frame` out, or make it the smaller one, which lets messages come in several frames")
    })
}

fn ends_on_control_frames(table: &Table<'_>, websocket: &WebSocket) -> Option<Finding> {
    let value = table.value("max_frame")?;
    websocket.max_frame.filter(|size| *size < CONTROL)?;
    let finding = value
        .finding(format!("`max_frame` is below the {CONTROL} bytes of control frames"))
        .label("a longer Ping, Pong or Close ends a tunnel too")
        .help("`max_message` bounds messages and leaves control frames alone");
    Some(finding)
}

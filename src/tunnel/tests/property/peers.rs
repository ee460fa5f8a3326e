//! Peers that keep their own time, answer Pings or don't, and meet every timer and limit of a tunnel.

use std::collections::VecDeque;

use tokio::io::DuplexStream;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// By then everybody ends.
const LAST: Duration = Duration::from_secs(3000);

/// What a peer does with Pings.
#[derive(Debug, Clone)]
enum Answers {
    All,
    None,
    /// The ones that are true, over and over.
    Some(Vec<bool>),
    /// Two at a time, the later one first.
    Late,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Eof,
    Close,
    /// Stays silent until the other ends.
    Stay,
}

/// A frame, the time before it, and perhaps a break within it.
#[derive(Debug, Clone)]
struct Line {
    wait: Duration,
    bytes: Vec<u8>,
    stall: Option<(Index, Duration)>,
}

#[derive(Debug, Clone)]
struct Part {
    lines: Vec<Line>,
    answers: Answers,
    answers_close: bool,
    end: End,
    pieces: Vec<usize>,
}

impl Part {
    fn stalls(&self) -> bool {
        self.lines.iter().any(|line| line.stall.is_some())
    }
}

#[derive(Debug, Clone)]
struct Plot {
    client: Part,
    backend: Part,
    down: Pace,
    up: Pace,
    limits: Limits,
    spread: Duration,
    drain_at: Option<Duration>,
}

fn seconds(most: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![1 => Just(Duration::ZERO), 3 => (1..most * 1000).prop_map(Duration::from_millis)]
}

fn answers() -> impl Strategy<Value = Answers> {
    prop_oneof![
        3 => Just(Answers::All),
        1 => Just(Answers::None),
        2 => vec(any::<bool>(), 1..6).prop_map(Answers::Some),
        1 => Just(Answers::Late),
    ]
}

fn short_item() -> impl Strategy<Value = Item> {
    let length = prop_oneof![6 => 0..20usize, 3 => 100..300usize, 1 => 2000..4000usize];
    prop_oneof![
        4 => vec(length, 1..4).prop_map(Item::Message),
        2 => (0..126usize).prop_map(Item::Ping),
        1 => (0..126usize).prop_map(Item::Pong),
    ]
}

fn part(role: Role) -> impl Strategy<Value = Part> {
    let stall = prop_oneof![6 => Just(None), 1 => (any::<Index>(), seconds(100)).prop_map(Some)];
    let lines =
        (vec(short_item(), 0..6), vec((seconds(60), stall), 1..20)).prop_map(move |(items, waits)| {
            let lines = frames(role, &items).into_iter().zip(waits.into_iter().cycle());
            lines.map(|(bytes, (wait, stall))| Line { wait, bytes, stall }).collect()
        });
    let end = prop_oneof![Just(End::Eof), Just(End::Close), Just(End::Stay)];
    let pieces = vec(prop_oneof![1..10usize, 1000..80_000usize], 1..5);
    (lines, answers(), prop::bool::weighted(0.8), end, pieces).prop_map(
        |(lines, answers, answers_close, end, pieces)| Part { lines, answers, answers_close, end, pieces },
    )
}

fn keepalive() -> impl Strategy<Value = Keepalive> {
    let period = || prop::option::weighted(0.8, seconds(60).prop_map(|period| period + SECOND));
    (any::<bool>(), any::<bool>(), period(), period())
        .prop_map(|(clients, backends, interval, pong)| Keepalive { clients, backends, interval, pong })
}

fn limits() -> impl Strategy<Value = Limits> {
    let some = |most: u64| prop::option::weighted(0.2, seconds(most).prop_map(|period| period + SECOND));
    let rate = (1..20u32, seconds(60)).prop_map(|(count, period)| Rate { count, period: period + SECOND });
    let sizes = (prop::option::weighted(0.2, 125..3000u64), prop::option::weighted(0.2, 125..5000u64));
    (keepalive(), some(300), some(300), sizes, prop::option::weighted(0.2, rate), any::<bool>()).prop_map(
        |(keepalive, idle, max_age, (max_frame, max_message), message_rate, observe)| Limits {
            observe,
            idle,
            close: Some(CLOSE_TIMEOUT),
            keepalive,
            max_frame,
            max_message,
            message_rate,
            max_age,
            ..Limits::OFF
        },
    )
}

fn plot() -> impl Strategy<Value = Plot> {
    let parts = (part(Role::FromClient), part(Role::FromServer));
    let drain_at = prop::option::weighted(0.3, seconds(300));
    (parts, pace(), pace(), limits(), seconds(100), drain_at).prop_map(
        |((client, backend), down, up, limits, spread, drain_at)| Plot {
            client,
            backend,
            down,
            up,
            limits,
            spread,
            drain_at,
        },
    )
}

/// What a peer has said and heard.
struct Acted {
    /// Whole frames, answers included; the last may not have been sent to their end.
    said: Vec<Vec<u8>>,
    got: Vec<u8>,
    /// When it last gave a byte to its stream.
    last_said: Duration,
}

struct Actor {
    side: Side,
    part: Part,
    lines: VecDeque<Line>,
    /// The rest of a frame that is said later.
    rest: Vec<u8>,
    queue: Vec<u8>,
    acted: Acted,
    /// So much of what it got has been looked at.
    seen: usize,
    pings: usize,
    late: Vec<Vec<u8>>,
    has_closed: bool,
    ended: bool,
    due: Instant,
}

impl Actor {
    fn new(side: Side, part: Part) -> Self {
        let lines: VecDeque<Line> = part.lines.clone().into();
        let first = lines.front().map_or(Duration::ZERO, |line| line.wait);
        let acted = Acted { said: Vec::new(), got: Vec::new(), last_said: Duration::ZERO };
        Self {
            side,
            part,
            lines,
            rest: Vec::new(),
            queue: Vec::new(),
            acted,
            seen: 0,
            pings: 0,
            late: Vec::new(),
            has_closed: false,
            ended: false,
            due: Instant::now() + first,
        }
    }

    async fn act(mut self, pipe: &mut DuplexStream) -> Acted {
        let (mut from, mut to) = split(pipe);
        let (began, mut pieces) = (Instant::now(), self.part.pieces.clone().into_iter().cycle());
        let mut piece = pieces.next().unwrap_or(1);
        loop {
            let (is_due, due) = (!self.ended && !self.has_closed, self.due);
            tokio::select! {
                biased;
                wrote = to.write(&self.queue[..piece.min(self.queue.len())]), if !self.queue.is_empty() => {
                    let Ok(count) = wrote else { break };
                    self.queue.drain(..count);
                    self.acted.last_said = began.elapsed();
                    piece = pieces.next().unwrap_or(1);
                }
                read = from.read_buf(&mut self.acted.got) => {
                    if read.expect("a pipe") == 0 {
                        break;
                    }
                    self.hear();
                }
                () = tokio::time::sleep_until(due), if is_due => self.says(began),
            }
            if self.ended && self.queue.is_empty() {
                // The gate may be gone already.
                let _ = to.shutdown().await;
            }
        }
        self.queue.append(&mut self.rest);
        let _ = to.write_all(&self.queue).await;
        let _ = to.shutdown().await;
        self.acted
    }

    /// Its next line, the rest of the last one, or its end.
    fn says(&mut self, began: Instant) {
        if !self.rest.is_empty() {
            self.queue.append(&mut self.rest);
        } else if let Some(Line { bytes, stall, .. }) = self.lines.pop_front() {
            let now = stall.map_or(bytes.len(), |(index, _)| index.index(bytes.len() + 1));
            self.queue.extend(&bytes[..now]);
            self.rest.extend(&bytes[now..]);
            self.acted.said.push(bytes);
            if let Some((_, wait)) = stall {
                self.due = Instant::now() + wait;
                return;
            }
        } else {
            match self.part.end {
                End::Eof => self.ended = true,
                End::Close => self.close(),
                End::Stay => self.ended = self.due >= began + LAST,
            }
        }
        let last = if self.part.end == End::Stay { began + LAST } else { Instant::now() };
        self.due = self.lines.front().map_or(last, |line| Instant::now() + line.wait);
    }

    fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let bytes = frame(role(self.side), true, opcode, payload);
        self.queue.extend(&bytes);
        self.acted.said.push(bytes);
    }

    fn close(&mut self) {
        self.queue.append(&mut self.rest);
        self.frame(Opcode::Close, &4000_u16.to_be_bytes());
        self.has_closed = true;
    }

    /// Looks at the frames that have come.
    fn hear(&mut self) {
        while let Some((header, length)) =
            FrameHeader::parse(&self.acted.got[self.seen..]).expect("legal frames alone")
        {
            let begin = self.seen + length;
            let end = begin + usize::try_from(header.length).expect("short frames");
            let Some(payload) = self.acted.got.get(begin..end) else { break };
            let mut payload = payload.to_vec();
            apply_mask(&mut payload, header.mask.unwrap_or_default());
            self.seen = end;
            self.answer(header.opcode, payload);
        }
    }

    fn answer(&mut self, opcode: Opcode, payload: Vec<u8>) {
        if self.has_closed || self.ended {
            return;
        }
        match opcode {
            Opcode::Close if self.part.answers_close => self.close(),
            Opcode::Ping if self.rest.is_empty() => {
                self.pings += 1;
                let answers = match &self.part.answers {
                    Answers::All => vec![payload],
                    Answers::None => Vec::new(),
                    Answers::Some(which) if which[self.pings % which.len()] => vec![payload],
                    Answers::Some(_) => Vec::new(),
                    Answers::Late => {
                        self.late.insert(0, payload);
                        if self.late.len() < 2 { Vec::new() } else { std::mem::take(&mut self.late) }
                    }
                };
                for payload in answers {
                    self.frame(Opcode::Pong, &payload);
                }
            }
            _ => {}
        }
    }
}

/// The opcode and payload of a frame.
fn open_frame(bytes: &[u8]) -> (FrameHeader, Vec<u8>) {
    let (header, length) = FrameHeader::parse(bytes).expect("legal").expect("whole");
    let mut payload = bytes[length..].to_vec();
    apply_mask(&mut payload, header.mask.unwrap_or_default());
    (header, payload)
}

fn is_own(bytes: &[u8], kind: Opcode) -> bool {
    let (header, payload) = open_frame(bytes);
    header.opcode == kind && payload.starts_with(b"wsgate-")
}

/// Judges all that `receiver` got of what `said` was. Returns how many Pings of wsgate's own are among it.
fn judge(
    receiver: Side,
    acted: &Acted,
    said: &[Vec<u8>],
    was_reset: bool,
    report: &Report,
    all: bool,
) -> usize {
    let sender = if receiver == Side::Downstream { Role::FromServer } else { Role::FromClient };
    let (mut frames, is_whole) = parse(sender, &acted.got);
    assert!(is_whole || was_reset, "an end within a frame is a reset");
    let whole: usize = frames.iter().map(Vec::len).sum();
    let rest = &acted.got[whole..];
    let close = frames.iter().position(|frame| open_frame(frame).0.opcode == Opcode::Close);
    assert!(close.is_none_or(|at| at + 1 == frames.len() && rest.is_empty()), "nothing follows a Close");
    let count = frames.len();
    frames.retain(|frame| !is_own(frame, Opcode::Ping));
    let pings = count - frames.len();
    let expected: Vec<&Vec<u8>> = said.iter().filter(|frame| !is_own(frame, Opcode::Pong)).collect();
    if let Some(own) = frames.pop_if(|last| {
        open_frame(last).0.opcode == Opcode::Close && open_frame(last).1[..2] != 4000_u16.to_be_bytes()
    }) {
        let (code, _) = report.end.close_to(receiver).expect("an end with a Close");
        assert_eq!(open_frame(&own).1[..2], code.to_be_bytes());
    }
    assert!(frames.iter().eq(expected.iter().copied().take(frames.len())), "frames as they were sent");
    let next = expected.get(frames.len()).map_or(&[][..], |frame| frame);
    assert!(next.starts_with(rest), "a part of the next one");
    if all {
        assert!(frames.len() == expected.len() && !was_reset, "all where nothing was cut");
    }
    pings
}

async fn play(plot: Plot) {
    let set_up =
        SetUp { limits: plot.limits, down: plot.down, up: plot.up, spread: plot.spread, ..SetUp::default() };
    let mut open = set_up.open();
    let (client_part, backend_part) = (plot.client.clone(), plot.backend.clone());
    let (client, backend) = {
        let Open { client, backend, drain, .. } = &mut open;
        let drains = async {
            let Some(at) = plot.drain_at else { return };
            tokio::time::sleep(at).await;
            drain.drain();
            wake_all();
            tokio::time::sleep(LAST).await;
            drain.shutdown();
            wake_all();
        };
        let acts = async {
            tokio::join!(
                Actor::new(Side::Downstream, client_part).act(&mut client.pipe),
                Actor::new(Side::Upstream, backend_part).act(&mut backend.pipe),
            )
        };
        tokio::pin!(acts);
        tokio::select! {
            biased;
            acted = &mut acts => acted,
            () = async { drains.await; std::future::pending().await } => unreachable!("it never ends"),
        }
    };
    let report = open.report().await;
    let (down_reset, up_reset) = (open.client.was_reset(), open.backend.was_reset());
    let closes = [&plot.client, &plot.backend].iter().any(|part| part.end == End::Close);
    let is_tidy = !closes || plot.client.answers_close && plot.backend.answers_close;
    let all = is_tidy && matches!(report.end, TunnelEnd::Closed | TunnelEnd::Eof(_));
    let to_client = judge(Side::Downstream, &client, &backend.said, down_reset, &report, all);
    let to_backend = judge(Side::Upstream, &backend, &client.said, up_reset, &report, all);
    judge_pings(report.client_pings, to_client, all);
    judge_pings(report.backend_pings, to_backend, all);
    judge_limits(&plot, &client, &backend);
    if let TunnelEnd::Dead(dead, _) = report.end {
        let (acted, part) =
            if dead == Side::Downstream { (&client, &plot.client) } else { (&backend, &plot.backend) };
        judge_death(&plot.limits.keepalive, acted, part, report.open);
    }
}

fn judge_pings(pings: Pings, got: usize, all: bool) {
    let sent = usize::try_from(pings.sent).expect("few");
    assert!(if all { got == sent } else { got <= sent }, "{got} of {sent}");
    assert!(pings.lost <= pings.sent && pings.round_trip <= pings.longest_round_trip);
}

fn judge_limits(plot: &Plot, client: &Acted, backend: &Acted) {
    for (acted, sender) in [(client, Role::FromServer), (backend, Role::FromClient)] {
        let mut scanner = FrameScanner::new(sender, Extensions::None);
        scanner
            .scan(&acted.got, |event| {
                if let Event::Header { header, message_length, .. } = event {
                    assert!(plot.limits.max_frame.is_none_or(|most| header.length <= most));
                    assert!(plot.limits.max_message.is_none_or(|most| message_length <= most));
                }
            })
            .expect("legal");
    }
}

/// Nobody is dead who answers, or said something in time.
fn judge_death(keepalive: &Keepalive, acted: &Acted, part: &Part, at: Duration) {
    let (interval, pong) = keepalive.interval.zip(keepalive.pong).expect("it was asked");
    assert!(at >= acted.last_said + interval + pong, "{at:?}, said {:?}", acted.last_said);
    // A Pong that nobody asked for answers by chance, if its payload is that of a Ping that was relayed.
    let has_ponged = acted.said.iter().any(|frame| open_frame(frame).0.opcode == Opcode::Pong);
    assert!(has_ponged || !matches!(part.answers, Answers::None), "it never answers");
    assert!(!matches!(part.answers, Answers::All) || part.stalls(), "it answered every Ping at once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn t5_t6_t7_t9_whatever_is_due_what_arrives_is_legal_and_was_sent(plot in plot()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
            .block_on(play(plot));
    }
}

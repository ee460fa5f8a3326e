//! Whatever two peers send, take and break, and whenever the gate's own hour comes: what arrives is what was sent, with frames of
//! wsgate's own between its frames, and the tunnel ends. Fuzz targets and property tests feed this.

mod judging;
mod owner;
mod player;

use std::{sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep, timeout},
};

pub(super) use self::owner::{Guest, Owner};
use self::player::Player;
use super::{Keepalive, Limits, Rate, Report, Terms, Totals, Tunnel, visit, wake_all};
use crate::{
    buffered::{
        Buffered,
        wire::{Pace, wire},
    },
    ending::{AdminClose, Side},
    lifecycle::{Drain, DrainHandle},
    proto::{
        frame::{FrameHeader, Opcode, Role, apply_mask},
        handshake::{Agreed, Extensions, Offer},
        head::{HeadLimits, RequestHead, ResponseHead},
        laws::choices::Choices,
    },
};

pub(super) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What peers and gate do before the peers end, at most.
const STEPS: usize = 300;
/// A tunnel whose peers have ended, and take what comes, ends within this time.
const AT_ONCE: Duration = Duration::from_millis(100);
/// What one step reads or writes, in bytes.
const PORTIONS: [usize; 6] = [usize::MAX, 1, 2, 7, 130, 5000];
const EXTENSIONS: [(&str, Extensions); 3] = [
    ("", Extensions::None),
    ("permessage-deflate", Extensions::PermessageDeflate),
    ("x-unknown", Extensions::Unknown),
];

/// A proven handshake in which these extensions were agreed.
pub(super) fn agreed(extensions: &str) -> Agreed {
    let line = if extensions.is_empty() {
        String::new()
    } else {
        format!("Sec-WebSocket-Extensions: {extensions}\r\n")
    };
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{line}\r\n"
    );
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{line}\r\n"
    );
    let (request, _) =
        RequestHead::parse(request.as_bytes(), &HeadLimits::default()).expect("legal").expect("whole");
    let (response, _) =
        ResponseHead::parse(response.as_bytes(), &HeadLimits::default()).expect("legal").expect("whole");
    let offer = Offer::from_head(&request).expect("legal").expect("an offer");
    offer.prove(&response, true).expect("the right answer")
}

/// The terms of one tunnel.
pub(super) fn terms(limits: Limits, route: Drain) -> Arc<Terms> {
    Arc::new(Terms { limits, route, totals: Arc::new(Totals::new(1)), witness: Arc::new(()) })
}

/// A frame: masked from a client, bare from a server.
pub(super) fn frame(role: Role, fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mask = match role {
        Role::FromClient => Some(KEY),
        Role::FromServer => None,
    };
    let mut bytes = Vec::new();
    FrameHeader { fin, rsv: 0, opcode, mask, length: payload.len() as u64 }.encode(&mut bytes);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut bytes[start..], mask);
    }
    bytes
}

/// Plays what `input` chooses in the time of a paused clock, and judges what came of it.
pub fn play(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let mut choices = Choices::new(input);
        let mut stage = Stage::choose(&mut choices);
        for _ in 0..STEPS {
            if choices.is_over() {
                break;
            }
            stage.step(&mut choices).await;
        }
        stage.finish().await;
    });
}

fn limits(choices: &mut Choices<'_>) -> Limits {
    let mut seconds =
        |among: &[u64]| Some(choices.pick(among)).filter(|off| *off > 0).map(Duration::from_secs);
    let (interval, pong, idle) = (seconds(&[0, 1, 10]), seconds(&[0, 1, 20]), seconds(&[0, 0, 30]));
    let (close, half_close) = (seconds(&[5, 5, 0]), seconds(&[30, 2, 0]));
    let (write, max_age) = (seconds(&[0, 0, 10]), seconds(&[0, 0, 0, 60]));
    Limits {
        observe: choices.once_in(4),
        idle,
        half_close,
        close,
        write,
        keepalive: Keepalive { clients: !choices.once_in(3), backends: !choices.once_in(3), interval, pong },
        max_frame: choices.once_in(5).then_some(300),
        max_message: choices.once_in(5).then_some(600),
        message_rate: choices.once_in(5).then_some(Rate { count: 5, period: Duration::from_secs(1) }),
        max_age,
    }
}

fn pace(choices: &mut Choices<'_>) -> Pace {
    Pace {
        pipe: choices.pick(&[1 << 17, 3, 100, 4096]),
        read: choices.pick(&[usize::MAX, 1, 7]),
        write: choices.pick(&[usize::MAX, 1, 7]),
        seals: choices.once_in(3),
    }
}

/// A tunnel with its peers, and who may end it.
struct Stage {
    limits: Limits,
    extensions: Extensions,
    client: Player,
    backend: Player,
    whole: DrainHandle,
    server: DrainHandle,
    route: DrainHandle,
    totals: Arc<Totals>,
    tunnel: JoinHandle<Report>,
    /// The gate was told to end the tunnel.
    was_told: bool,
}

impl Stage {
    fn choose(choices: &mut Choices<'_>) -> Self {
        let limits = limits(choices);
        let (header, extensions) = choices.pick(&EXTENSIONS);
        let ((down, client), (up, backend)) = (wire(pace(choices)), wire(pace(choices)));
        let mut client = Player::new(Side::Downstream, client);
        let mut backend = Player::new(Side::Upstream, backend);
        let (mut down, mut up) = (Buffered::new(down), Buffered::new(up));
        if choices.once_in(3) {
            down.put_back(&client.tail(choices));
            up.put_back(&backend.tail(choices));
        }
        let spread = Duration::from_secs(choices.pick(&[0, 20]));
        let (whole, signal) = Drain::new(spread);
        let (server, route) = (signal.part(spread), signal.part(spread));
        let terms = terms(limits, route.signal());
        let totals = Arc::clone(&terms.totals);
        let tunnel = Owner(Tunnel::new(down, up, &agreed(header), terms, server.signal()));
        Self {
            limits,
            extensions,
            client,
            backend,
            whole,
            server,
            route,
            totals,
            tunnel: tokio::spawn(tunnel),
            was_told: false,
        }
    }

    async fn step(&mut self, choices: &mut Choices<'_>) {
        let player = if choices.once_in(2) { &mut self.backend } else { &mut self.client };
        match choices.below(16) {
            0..=4 => player.think(choices),
            5 | 6 => player.write(choices.pick(&PORTIONS)).await,
            7 | 8 => player.read(choices.pick(&PORTIONS)).await,
            9 | 10 => {
                for player in [&mut self.client, &mut self.backend] {
                    player.write(usize::MAX).await;
                    player.read(usize::MAX).await;
                }
            }
            11 => player.answer(),
            12 | 13 => sleep(Duration::from_millis(choices.pick(&[1, 1000, 6000, 31_000, 100_000]))).await,
            14 if choices.once_in(3) => self.tell(choices).await,
            15 if choices.once_in(4) => player.leave(choices).await,
            _ => {}
        }
        // The tunnel sees each step by itself, most of the time.
        for _ in 0..choices.pick(&[2, 2, 2, 0]) {
            yield_now().await;
        }
    }

    async fn tell(&mut self, choices: &mut Choices<'_>) {
        self.was_told = true;
        match choices.below(7) {
            0 | 1 => self.whole.drain(),
            2 => self.server.drain(),
            3 => self.whole.shutdown(),
            4 => self.route.drain(),
            5 => self.route.drain_over(Duration::ZERO),
            _ => {
                let close = AdminClose::new(choices.pick(&[1000, 1012, 4000]), "by order");
                visit(Guest::new(close.ok())).await;
            }
        }
        wake_all();
    }

    /// Both peers say what they still have to say, end, and take what comes.
    async fn finish(mut self) {
        let began = Instant::now();
        tokio::join!(self.client.finish(), self.backend.finish());
        let report = timeout(Duration::from_secs(1_000_000), &mut self.tunnel).await;
        let report = report.expect("an end").expect("no panic");
        assert!(began.elapsed() <= AT_ONCE, "it waits for {:?}: {report:?}", began.elapsed());
        judging::judge(&self, &report);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::proto::laws::replay;

    #[test]
    fn t1_t5_t9_what_was_found_once_keeps_the_laws() {
        replay("tunnel", play);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

        #[test]
        fn t1_t5_t9_whatever_is_done_what_arrives_was_sent(input in vec(any::<u8>(), 0..600)) {
            play(&input);
        }
    }
}

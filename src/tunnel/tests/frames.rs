use tokio::io::AsyncReadExt;

use super::*;

/// An illegal frame, who sends it, and what it breaks. A message is open where `within` says so.
struct Case {
    sender: Role,
    bytes: Vec<u8>,
    error: FrameError,
    within: bool,
}

const ROLES: [Role; 2] = [Role::FromClient, Role::FromServer];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for sender in ROLES {
        let masked = if sender == Role::FromClient { 0x80 } else { 0 };
        let mut add = |bytes: &[u8], error, within| {
            cases.push(Case { sender, bytes: bytes.to_vec(), error, within });
        };
        add(&[0x83, masked], FrameError::ReservedOpcode(3), false);
        add(&[0x8b, masked], FrameError::ReservedOpcode(0xb), false);
        add(&[0x82, masked | 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::LengthTopBit, false);
        add(&[0x89, masked | 0x7e, 0, 126], FrameError::ControlTooLong, false);
        add(&[0x88, masked | 0x7f], FrameError::ControlTooLong, false);
        add(&[0x09, masked], FrameError::ControlFragmented, false);
        add(&[0x81, masked ^ 0x80], FrameError::WrongMask, false);
        add(&[0x80, masked], FrameError::ContinuationWithoutMessage, false);
        add(&[0x81, masked], FrameError::DataWithinMessage, true);
        add(&[0xc1, masked], FrameError::RsvBits, false);
        add(&[0xa1, masked], FrameError::RsvBits, false);
        add(&[0x91, masked], FrameError::RsvBits, false);
    }
    cases
}

/// What is legal before the illegal frame of a case.
fn legal_part(case: &Case) -> Vec<u8> {
    let mut legal = frame(case.sender, true, Opcode::Text, b"legal");
    if case.within {
        legal.extend(frame(case.sender, false, Opcode::Text, b"begun"));
    }
    legal
}

fn is_protocol(report: &Report, sender: Role, error: FrameError) -> bool {
    let side = if sender == Role::FromClient { Side::Downstream } else { Side::Upstream };
    matches!(&report.end, TunnelEnd::Protocol(who, what) if *who == side && *what == error)
}

#[tokio::test(start_paused = true)]
async fn t4_an_illegal_frame_ends_the_tunnel_with_1002_and_no_byte_of_it_passes() {
    for case in cases() {
        for pace in [Pace::FAST, Pace { read: 1, ..Pace::FAST }, Pace::pipe(2)] {
            let mut open = SetUp { down: pace, up: pace, ..SetUp::default() }.open();
            let legal = legal_part(&case);
            let sent = [&legal[..], &case.bytes, b"and whatever follows"].concat();
            let Open { client, backend, .. } = &mut open;
            let from_client = case.sender == Role::FromClient;
            let client_side = async {
                if from_client {
                    client.send(&sent).await;
                } else {
                    client.expect(&legal).await;
                }
                client.expect(&server_close(1002, "protocol error")).await;
                // The answer, after which its end comes.
                client.send(&client_close(1002, "")).await;
                client.expect_end(b"").await;
                client.finish().await;
            };
            let backend_side = async {
                if !from_client {
                    backend.send(&sent).await;
                }
                let got = backend.rest().await;
                backend.finish().await;
                got
            };
            let ((), got) = tokio::join!(client_side, backend_side);
            assert_closed_with(&got, if from_client { &legal } else { b"" }, 1002);
            let report = open.report().await;
            assert!(is_protocol(&report, case.sender, case.error), "{:?} {:?}", report.end, case.error);
            assert_eq!((report.ended_by, report.end.label()), (Side::Gate, "ws_protocol"));
            assert!(!open.client.was_reset() && !open.backend.was_reset());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t4_the_other_way_is_closed_at_its_next_frame_boundary() {
    // The backend is in the middle of a long frame when the client breaks a rule.
    let long = frame(Role::FromServer, true, Opcode::Binary, &noise(100_000));
    let mut open = open();
    open.backend.send(&long[..50_000]).await;
    open.client.expect(&long[..50_000]).await;
    open.client.send(&[0x83, 0x80]).await;
    let mut close = vec![0; 2 + 4 + 2 + "protocol error".len()];
    open.backend.pipe.read_exact(&mut close).await.expect("a Close");
    assert_eq!(unmask_close(&close), (1002, "protocol error".to_owned()));
    open.backend.send(&long[50_000..]).await;
    open.backend.send(&tells("too late")).await;
    open.client.expect(&long[50_000..]).await;
    open.client.expect(&server_close(1002, "protocol error")).await;
    open.backend.send(&server_close(1002, "")).await;
    open.backend.expect_end(b"").await;
    open.backend.finish().await;
    open.client.finish().await;
    open.client.expect_end(b"").await;
    open.report().await;
    assert_eq!(open.age(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn t4_a_peer_that_does_not_answer_has_the_close_timeout() {
    let mut open = open();
    open.backend.send(&[0x83, 0]).await;
    let report = open.report().await;
    assert_eq!(open.age(), CLOSE_TIMEOUT);
    open.client.expect_end(&server_close(1002, "protocol error")).await;
    assert_closed_with(&open.backend.rest().await, b"", 1002);
    assert_eq!(report.first_close, Some(Side::Gate), "no peer sent one");
    assert!(!open.client.was_reset() && !open.backend.was_reset());
}

#[tokio::test(start_paused = true)]
async fn t4_what_a_peer_sent_before_is_still_delivered() {
    // Both have sent much, and read nothing yet, when the client breaks a rule.
    let (sent, told) = (says(&"s".repeat(3000)), tells(&"t".repeat(3000)));
    let mut open = SetUp { down: Pace::pipe(4096), up: Pace::pipe(100), ..SetUp::default() }.open();
    open.backend.send(&told).await;
    open.client.send(&sent).await;
    open.client.send(&[0x80, 0x80]).await;
    assert_closed_with(&open.backend.rest().await, &sent, 1002);
    open.client.expect_end(&[told, server_close(1002, "protocol error")].concat()).await;
}

#[tokio::test(start_paused = true)]
async fn t4_observed_frames_pass_and_are_counted() {
    for case in cases() {
        // An unknown extension implies it.
        for (observe, extensions) in [(true, ""), (false, "x-unheard-of")] {
            if !observe && case.error == FrameError::RsvBits {
                continue;
            }
            let limits = Limits { observe, ..LIMITS };
            let mut open = SetUp { limits, extensions, ..SetUp::default() }.open();
            let sent = [&legal_part(&case)[..], &case.bytes, b"and whatever follows"].concat();
            let from_client = case.sender == Role::FromClient;
            let Open { client, backend, .. } = &mut open;
            let (sender, receiver) = if from_client { (client, backend) } else { (backend, client) };
            for byte in sent.chunks(1) {
                sender.send(byte).await;
            }
            sender.finish().await;
            receiver.expect_end(&sent).await;
            receiver.finish().await;
            let report = open.report().await;
            let (account, other) =
                if from_client { (report.client, report.backend) } else { (report.backend, report.client) };
            assert_eq!((account.illegal, other.illegal), (1, 0), "{:?}", case.error);
            assert!(matches!(report.end, TunnelEnd::Eof(_)));
            assert!(!open.client.was_reset() && !open.backend.was_reset());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn t4_nothing_of_ours_goes_in_after_an_observed_illegal_frame() {
    let mut open = SetUp { limits: Limits { observe: true, ..LIMITS }, ..SetUp::default() }.open();
    open.client.send(&[0x83, 0x80, 1, 2, 3]).await;
    open.backend.expect(&[0x83, 0x80, 1, 2, 3]).await;
    open.begin_drain();
    // The other direction can be followed, and is closed.
    open.client.expect_end(&server_close(1012, "service restart")).await;
    open.backend.expect_end(b"").await;
    open.client.finish().await;
    open.backend.finish().await;
    assert_eq!(open.report().await.end.label(), "drained");
}

#[tokio::test(start_paused = true)]
async fn t4_a_boundary_before_an_observed_illegal_frame_takes_our_close() {
    let mut open = SetUp { limits: Limits { observe: true, ..LIMITS }, ..SetUp::default() }.open();
    let message = tells("a message");
    open.backend.send(&message[..4]).await;
    open.client.expect(&message[..4]).await;
    open.begin_drain();
    open.backend.send(&[&message[4..], &[0x83, 0, 1, 2]].concat()).await;
    open.client.expect(&[&message[4..], &server_close(1012, "service restart")].concat()).await;
}

#[tokio::test(start_paused = true)]
async fn t4_compressed_messages_pass_where_that_was_agreed() {
    let mut open = SetUp { extensions: "permessage-deflate", ..SetUp::default() }.open();
    let messages = [0x41, 3, 1, 2, 3, 0x00, 1, 4, 0x89, 0, 0x80, 0];
    open.backend.send(&messages).await;
    open.client.expect(&messages).await;
    // RSV1 on a continuation is none of it.
    open.backend.send(&[0x41, 1, 7, 0x40, 0]).await;
    open.client.expect_end(&[&[0x41, 1, 7][..], &server_close(1002, "protocol error")].concat()).await;
    let report = open.report().await;
    assert!(is_protocol(&report, Role::FromServer, FrameError::RsvBits));
}

#[tokio::test(start_paused = true)]
async fn t4_an_illegal_frame_after_one_side_is_gone_passes_no_more() {
    let mut open = SetUp { down: Pace::pipe(4), ..SetUp::default() }.open();
    open.backend.refuse_writes(io::ErrorKind::BrokenPipe);
    open.client.send(&says("x")).await;
    open.backend.send(&[&tells("last")[..], &[0x83, 0], b"more"].concat()).await;
    open.backend.send(b"and more").await;
    open.backend.finish().await;
    open.client.expect_end(&tells("last")).await;
    assert_eq!(open.report().await.end.label(), "upstream_reset");
}

#[tokio::test(start_paused = true)]
async fn t5_control_frames_pass_between_fragments() {
    let mut open = open();
    let stream = [
        frame(Role::FromClient, false, Opcode::Text, b"one"),
        frame(Role::FromClient, true, Opcode::Ping, b"?"),
        frame(Role::FromClient, false, Opcode::Continuation, b"two"),
        frame(Role::FromClient, true, Opcode::Pong, b""),
        frame(Role::FromClient, true, Opcode::Continuation, b"three"),
    ]
    .concat();
    open.client.send(&stream).await;
    open.backend.expect(&stream).await;
    open.client.finish().await;
    open.backend.finish().await;
    let account = open.report().await.client;
    assert_eq!((account.frames.total(), account.messages, account.longest_message), (5, 1, 11));
}

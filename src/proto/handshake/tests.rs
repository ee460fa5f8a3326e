//! Rules W1, W2, W3, W4, W5, W8 and W9, and what any bytes must not do.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::head::HeadLimits;
use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn request(text: &str) -> RequestHead {
    RequestHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
}

/// An offer with `lines` in place of the lines of the same names.
fn offered(start_line: &str, lines: &[&str]) -> Result<Option<Offer>, OfferError> {
    let usual = [
        "Host: chat.example.com",
        "Upgrade: websocket",
        "Connection: Upgrade",
        &format!("Sec-WebSocket-Key: {KEY}"),
        "Sec-WebSocket-Version: 13",
    ];
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let mut text = format!("{start_line}\r\n");
    let kept = usual.into_iter().filter(|line| lines.iter().all(|other| name(other) != name(line)));
    // A bare name takes the line out.
    for line in kept.chain(lines.iter().copied().filter(|line| line.contains(':'))) {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    Offer::from_head(&request(&text))
}

fn get(lines: &[&str]) -> Result<Option<Offer>, OfferError> {
    offered("GET /chat HTTP/1.1", lines)
}

fn is_malformed(lines: &[&str]) -> bool {
    matches!(get(lines), Err(OfferError::Malformed(_)))
}

fn answer(status_line: &str, lines: &[&str]) -> ResponseHead {
    let text = format!("{status_line}\r\n{}\r\n\r\n", lines.join("\r\n"));
    ResponseHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
}

/// What the offer with `offer_lines` makes of a 101 that is right but for `lines`.
fn proved(offer_lines: &[&str], lines: &[&str]) -> Result<Extensions, AgreementError> {
    let accept = format!("Sec-WebSocket-Accept: {ACCEPT}");
    let right = ["Upgrade: websocket", "Connection: Upgrade", &accept];
    let all: Vec<&str> = right.iter().chain(lines).copied().collect();
    let offer = get(offer_lines).unwrap().unwrap();
    offer.prove(&answer("HTTP/1.1 101 Switching Protocols", &all), true).map(|agreed| agreed.extensions())
}

fn bad_upgrade(result: Result<impl fmt::Debug, AgreementError>) -> bool {
    matches!(result.err(), Some(AgreementError::BadUpgrade(_)))
}

#[test]
fn w1_upgrade_and_connection_are_lists_in_any_case_on_any_lines() {
    assert!(get(&[]).unwrap().is_some());
    assert!(get(&["Upgrade: h2c, WebSocket", "Connection: keep-alive, UPGRADE"]).unwrap().is_some());
    let lines = ["upgrade: h2c", "UPGRADE: websocket", "connection: keep-alive", "CONNECTION: upgrade"];
    assert!(get(&lines).unwrap().is_some());
}

#[test]
fn w1_either_header_alone_is_plain_http() {
    assert_eq!(get(&["Connection"]), Ok(None));
    assert_eq!(get(&["Connection: keep-alive"]), Ok(None));
    assert_eq!(get(&["Upgrade"]), Ok(None));
    assert_eq!(get(&["Upgrade: h2c"]), Ok(None));
    assert_eq!(get(&["Upgrade: websocket/13"]), Ok(None));
    assert_eq!(get(&["Connection", "Sec-WebSocket-Key: bad"]), Ok(None));
}

#[test]
fn w2_key_must_be_22_base64_characters_and_padding() {
    for key in [
        "",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25jZ===",
        "GhlIHNhbXBsZSBub25jZQ==",
        "dGhlIHNhbXBsZSBub25-ZQ==",
        "dGhlIHNhbXBsZSBub25 ZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
    ] {
        assert!(is_malformed(&[&format!("Sec-WebSocket-Key: {key}")]), "{key:?}");
    }
    let offer = get(&["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAA/=="]).unwrap().unwrap();
    assert_eq!(offer.key(), "AAAAAAAAAAAAAAAAAAAAA/==", "pad bits are not judged");
}

#[test]
fn w2_key_must_stand_once() {
    assert!(is_malformed(&["Sec-WebSocket-Key"]));
    let line = format!("Sec-WebSocket-Key: {KEY}");
    assert!(is_malformed(&[&line, &line]));
}

#[test]
fn w3_version_is_13_and_stands_once() {
    assert!(is_malformed(&["Sec-WebSocket-Version"]));
    assert!(is_malformed(&["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"]));
    for version in ["8", "0", "14", "013", "13, 8", "", "x"] {
        let line = format!("Sec-WebSocket-Version: {version}");
        assert_eq!(get(&[&line]), Err(OfferError::Version), "{version:?}");
    }
    assert_eq!(get(&["Sec-WebSocket-Version: 8", "Sec-WebSocket-Key"]), Err(OfferError::Version));
}

#[test]
fn w4_an_offer_has_no_body() {
    assert!(is_malformed(&["Content-Length: 1"]));
    assert!(is_malformed(&["Content-Length: 0", "Content-Length: 5"]));
    assert!(is_malformed(&["Transfer-Encoding: chunked"]));
    assert!(is_malformed(&["Transfer-Encoding: identity"]));
    assert!(get(&["Content-Length: 0"]).unwrap().is_some());
}

#[test]
fn w5_other_methods_and_http_1_0_are_plain_http() {
    for start_line in ["POST /chat HTTP/1.1", "HEAD / HTTP/1.1", "get / HTTP/1.1", "GET /chat HTTP/1.0"] {
        assert_eq!(offered(start_line, &[]), Ok(None), "{start_line}");
    }
}

#[test]
fn w8_the_right_answer_proves_the_offer() {
    assert_eq!(proved(&[], &[]), Ok(Extensions::None));
}

#[test]
fn w8_status_and_upgrade_are_verified() {
    let offer = get(&[]).unwrap().unwrap();
    let accept = format!("Sec-WebSocket-Accept: {ACCEPT}");
    let verdict =
        |status_line, lines: &[&str]| offer.prove(&answer(status_line, &[lines, &[&accept]].concat()), true);
    let right = ["Upgrade: WebSocket", "Connection: keep-alive, upgrade"];
    assert!(verdict("HTTP/1.1 101 Switching Protocols", &right).is_ok());
    assert!(bad_upgrade(verdict("HTTP/1.1 200 OK", &right)));
    assert!(bad_upgrade(verdict("HTTP/1.0 101 Switching Protocols", &right)));
    let wrong: [&[&str]; 6] = [
        &["Connection: Upgrade"],
        &["Upgrade: h2c", "Connection: Upgrade"],
        &["Upgrade: websocket, h2c", "Connection: Upgrade"],
        &["Upgrade: websocket", "Upgrade: websocket", "Connection: Upgrade"],
        &["Upgrade: websocket"],
        &["Upgrade: websocket", "Connection: close"],
    ];
    for lines in wrong {
        assert!(bad_upgrade(verdict("HTTP/1.1 101 Switching Protocols", lines)), "{lines:?}");
    }
}

#[test]
fn w8_accept_stands_once_and_exactly() {
    let offer = get(&[]).unwrap().unwrap();
    let right = format!("Sec-WebSocket-Accept: {ACCEPT}");
    let lower = right.to_ascii_lowercase();
    let other = format!("Sec-WebSocket-Accept: {}", accept_key("w4v7O6xFTi36lq3RNcgctw=="));
    let wrong: [&[&str]; 5] = [&[], &[&lower], &[&other], &[&right, &right], &["Sec-WebSocket-Accept:"]];
    for lines in wrong {
        let head =
            answer("HTTP/1.1 101 x", &[&["Upgrade: websocket", "Connection: Upgrade"], lines].concat());
        assert_eq!(offer.prove(&head, true), Err(AgreementError::BadAccept), "{lines:?}");
        assert!(offer.prove(&head, false).is_ok(), "{lines:?}");
    }
}

#[test]
fn w8_all_but_accept_is_verified_without_verify_accept() {
    let offer = get(&[]).unwrap().unwrap();
    assert!(bad_upgrade(offer.prove(&answer("HTTP/1.1 101 x", &["Upgrade: websocket"]), false)));
    let lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Protocol: chat"];
    assert!(bad_upgrade(offer.prove(&answer("HTTP/1.1 101 x", &lines), false)));
}

#[test]
fn w8_subprotocol_is_absent_or_one_that_was_offered() {
    let offer = ["Sec-WebSocket-Protocol: chat.v2, chat.v1", "Sec-WebSocket-Protocol: mqtt"];
    assert!(proved(&offer, &[]).is_ok());
    for chosen in ["chat.v2", "chat.v1", "mqtt"] {
        assert!(proved(&offer, &[&format!("Sec-WebSocket-Protocol: {chosen}")]).is_ok(), "{chosen}");
    }
    for chosen in ["stomp", "CHAT.V1", "chat.v2, chat.v1", ""] {
        let line = format!("Sec-WebSocket-Protocol: {chosen}");
        assert!(bad_upgrade(proved(&offer, &[&line])), "{chosen:?}");
    }
    assert!(bad_upgrade(proved(&offer, &["Sec-WebSocket-Protocol: mqtt", "Sec-WebSocket-Protocol: mqtt"])));
    assert!(bad_upgrade(proved(&[], &["Sec-WebSocket-Protocol: mqtt"])));
}

#[test]
fn w8_extensions_are_absent_or_offered() {
    let offer = [
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, permessage-deflate",
        "Sec-WebSocket-Extensions: x-camera; name=\"a, \\\"b\", x-other",
    ];
    let names: Vec<String> = get(&offer).unwrap().unwrap().extensions().map(str::to_owned).collect();
    assert_eq!(names, ["permessage-deflate", "permessage-deflate", "x-camera", "x-other"]);

    let agreed = |value: &str| proved(&offer, &[&format!("Sec-WebSocket-Extensions: {value}")]);
    assert_eq!(agreed(""), Ok(Extensions::None));
    assert_eq!(agreed("permessage-deflate"), Ok(Extensions::PermessageDeflate));
    let with_parameter = agreed("permessage-deflate;server_max_window_bits=10");
    assert_eq!(with_parameter, Ok(Extensions::PermessageDeflate));
    assert_eq!(agreed("x-camera"), Ok(Extensions::Unknown));
    assert_eq!(agreed("permessage-deflate, x-camera"), Ok(Extensions::Unknown));
    for value in ["x-missing", "permessage-deflate, x-missing", "permessage-deflate, permessage-deflate"] {
        assert!(bad_upgrade(agreed(value)), "{value}");
    }
    let line = "Sec-WebSocket-Extensions: x-camera";
    assert!(bad_upgrade(proved(&offer, &[line, line])), "on two lines");
    assert!(bad_upgrade(proved(&[], &["Sec-WebSocket-Extensions: permessage-deflate"])));
}

#[test]
fn w9_accept_vectors() {
    for (key, accept) in [
        (KEY, ACCEPT),
        ("w4v7O6xFTi36lq3RNcgctw==", "Oy4NRAQ13jhfONC7bP8dTKb4PTU="),
        ("MlRAR6bQZi07587UD4H8oA==", "iURIl3uIT+tsPMmZ0x1IVH7EL98="),
    ] {
        assert_eq!(accept_key(key), accept);
        let offer = get(&[&format!("Sec-WebSocket-Key: {key}")]).unwrap().unwrap();
        assert_eq!(offer.accept(), accept);
    }
}

#[test]
fn w9_key_of_the_bytes_1_to_16() {
    let nonce = std::array::from_fn(|index| u8::try_from(index + 1).unwrap());
    assert_eq!(encode_key(nonce), "AQIDBAUGBwgJCgsMDQ4PEA==");
}

#[test]
fn w13_odd_subprotocols_do_not_refuse_an_offer() {
    for value in ["", ",", "chat, chat", "base64url.bearer.authorization.k8s.io.a/b="] {
        assert!(get(&[&format!("Sec-WebSocket-Protocol: {value}")]).unwrap().is_some(), "{value:?}");
    }
}

#[test]
fn s7_debug_shows_no_subprotocol_and_no_key() {
    let offer = get(&["Sec-WebSocket-Protocol: token.s3cr3t"]).unwrap().unwrap();
    let shown = format!("{offer:?}");
    assert!(!shown.contains("s3cr3t") && !shown.contains(KEY), "{shown}");
}

proptest! {
    #[test]
    fn w2_every_encoded_key_is_legal(nonce: [u8; 16]) {
        let key = encode_key(nonce);
        let offer = get(&[&format!("Sec-WebSocket-Key: {key}")]).unwrap().unwrap();
        prop_assert_eq!(offer.key(), key);
    }

    #[test]
    fn any_header_values_give_a_verdict(
        lines in vec(
            (
                prop::sample::select(vec![
                    "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol",
                    "Sec-WebSocket-Extensions", "Sec-WebSocket-Accept", "Content-Length",
                ]),
                prop_oneof![
                    vec(0x20..=0xFF_u8, 0..40),
                    prop::sample::select(vec![KEY, ACCEPT, "13", "websocket", "upgrade", "a;b=\"c,\\"])
                        .prop_map(|value| value.as_bytes().to_vec()),
                ],
            ),
            0..12,
        ),
    ) {
        let mut head = request("GET / HTTP/1.1\r\n\r\n");
        let mut answer = ResponseHead::new(101);
        for (name, value) in &lines {
            // A value with DEL is no header.
            let _ = head.headers.append(name, value);
            let _ = answer.headers.append(name, value);
        }
        let _ = Offer::from_head(&head);
        let offer = get(&[]).unwrap().unwrap();
        if offer.prove(&answer, true).is_ok() {
            prop_assert_eq!(answer.headers.get("sec-websocket-accept"), Some(ACCEPT.as_bytes()));
        }
    }
}

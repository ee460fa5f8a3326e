//! The heads that go upstream and to the client.

use std::{hint::black_box, net::Ipv4Addr};

use divan::Bencher;
use wsgate::proto::{
    forward::{
        self, Copied, HeaderEdits, HostHeader, Kind, RequestContext, ResponseContext, ResponseKind, Template,
        UnderscoreHeaders, Values,
    },
    framing::BodyFraming,
    head::{RequestHead, Version},
    trace::Trace,
};

use crate::{
    ANSWER, BROWSER, OFFER,
    heads::{request, response},
};

/// So many headers that are set, half of them with a placeholder, and as many that are taken out.
fn edits(count: usize) -> HeaderEdits {
    let template = |place| {
        let mut template = Template::default();
        let text = if place % 2 == 0 { "from {client_ip} to {host}" } else { "constant" };
        template.push_written(text).expect("a template");
        template
    };
    HeaderEdits {
        set: (0..count).map(|place| (format!("X-Set-{place}"), template(place))).collect(),
        remove: (0..count).map(|place| format!("X-Removed-{place}")).collect(),
    }
}

fn values() -> Values<'static> {
    Values {
        client_ip: Some(Ipv4Addr::new(192, 0, 2, 7).into()),
        request_id: "0123456789abcdef0123456789abcdef",
        host: "chat.example.com",
        https: true,
        listener_port: Some(443),
        ..Values::default()
    }
}

fn rebuild(bencher: Bencher<'_, '_>, head: &RequestHead, kind: Kind, edits: &HeaderEdits) {
    let trace = Trace::begin(1, 2);
    let values = values();
    let cx = RequestContext {
        client_ip: values.client_ip,
        https: true,
        listener_port: values.listener_port,
        proxy: None,
        client_ip_header: None,
        upstream_authority: "10.0.0.2:8080",
        host_header: &HostHeader::Client,
        via: None,
        copied: Copied::default(),
        edits,
        underscore_headers: UnderscoreHeaders::Drop,
        request_id: values.request_id,
        trace: &trace,
        target: &head.target,
        values,
    };
    bencher.bench(|| forward::request(black_box(head), kind, &cx));
}

/// By the number of edits of each kind; with 0 it is what a route does by default.
#[divan::bench(args = [0, 10, 100])]
fn request_with_edits(bencher: Bencher<'_, '_>, count: usize) {
    let kind = Kind::Plain { framing: BodyFraming::Empty };
    rebuild(bencher, &request(BROWSER), kind, &edits(count));
}

#[divan::bench]
fn opening_handshake(bencher: Bencher<'_, '_>) {
    rebuild(bencher, &request(OFFER), Kind::Handshake, &HeaderEdits::default());
}

#[divan::bench(args = [0, 10, 100])]
fn response_with_edits(bencher: Bencher<'_, '_>, count: usize) {
    let (head, edits) = (response(ANSWER), edits(count));
    let cx = ResponseContext {
        edits: &edits,
        via: None,
        hsts: Some("max-age=31536000"),
        set_cookie: None,
        values: values(),
    };
    let kind = ResponseKind::Plain { body: BodyFraming::Length(2048), close: false, client: Version::Http11 };
    bencher.bench(|| forward::response(black_box(&head), kind, &cx));
}

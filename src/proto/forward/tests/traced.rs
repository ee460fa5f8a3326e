//! W3C Trace Context: one traceparent goes upstream, and a tracestate with its own alone.

use proptest::prelude::*;

use super::*;

const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What goes upstream of these lines, by the trace that they tell or one that begins here.
fn traced(lines: &str, edits: &HeaderEdits) -> Headers {
    let head = received(lines);
    let trace = Trace::told(&head.headers).unwrap_or_else(|| trace().clone());
    request(&head, GET, &RequestContext { trace: &trace, edits, ..context() }).unwrap().head.headers
}

fn states(headers: &Headers) -> Vec<&[u8]> {
    headers.get_all(TRACESTATE).collect()
}

#[test]
fn w13_a_valid_traceparent_and_its_state_pass_unchanged() {
    let headers =
        traced(&format!("TraceParent: {VALID}\r\ntracestate: a=1\r\nTraceState: b=2,c=3\r\n"), &NO_EDITS);
    assert_eq!(one(&headers, TRACEPARENT), VALID);
    assert_eq!(states(&headers), [&b"a=1"[..], b"b=2,c=3"]);
}

#[test]
fn h7_a_traceparent_that_says_nothing_is_replaced_and_its_state_dropped() {
    for parent in
        ["", "traceparent: 00-0-0-00\r\n", &format!("traceparent: {VALID}\r\ntraceparent: {VALID}\r\n")]
    {
        let headers = traced(&format!("{parent}tracestate: a=1\r\n"), &NO_EDITS);
        assert_eq!(one(&headers, TRACEPARENT), trace().parent(), "{parent}");
        assert!(states(&headers).is_empty(), "{parent}");
    }
}

#[test]
fn h5_connection_cannot_take_the_traceparent_out() {
    let headers = traced(&format!("Connection: traceparent\r\ntraceparent: {VALID}\r\n"), &NO_EDITS);
    assert_eq!(one(&headers, TRACEPARENT), VALID);
}

#[test]
fn h7_the_routes_edits_decide_about_the_traceparent() {
    let lines = format!("traceparent: {VALID}\r\ntracestate: a=1\r\n");
    let set = edits(&[("Traceparent", "its own")], &["tracestate"]);
    let headers = traced(&lines, &set);
    assert_eq!((one(&headers, TRACEPARENT), states(&headers).len()), ("its own", 0));
    assert!(!traced(&lines, &edits(&[], &["TRACEPARENT"])).contains(TRACEPARENT));
}

#[test]
fn h7_the_server_that_is_asked_hears_of_the_same_trace() {
    let head = received(&format!("traceparent: {VALID}\r\ntracestate: a=1\r\n"));
    let trace = Trace::told(&head.headers).unwrap();
    let asked = question(&head, "/", &RequestContext { trace: &trace, ..context() }).unwrap().headers;
    assert_eq!((one(&asked, TRACEPARENT), states(&asked)), (VALID, vec![&b"a=1"[..]]));
}

proptest! {
    #[test]
    fn h7_whatever_came_one_valid_traceparent_goes_upstream(
        values in proptest::collection::vec("(00|01|ff)-[0-9a-f]{31,33}-[0-9a-f]{16}-0[01](-x)?|[ -~]{0,60}", 0..3),
    ) {
        let lines: String = values.iter().flat_map(|value| ["traceparent: ", value, "\r\n"]).collect();
        let headers = traced(&lines, &NO_EDITS);
        let gone: Vec<_> = headers.get_all(TRACEPARENT).collect();
        prop_assert_eq!(gone.len(), 1);
        prop_assert!(crate::proto::trace::parse(gone[0]).is_some());
    }
}

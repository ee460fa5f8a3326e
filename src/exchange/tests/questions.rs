//! Requests that are not the client's own, but about one of its.

use super::*;

fn question(about: Method) -> SetUp {
    SetUp { about: Some(about), discards: true, ..SetUp::default() }
}

#[tokio::test(start_paused = true)]
async fn w11_interim_responses_to_a_question_are_not_the_clients() {
    let (over, got) = question(Method::POST)
        .run(async |mut client, mut upstream| {
            upstream.expect(REQUEST).await;
            upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
            // Long enough for whatever was to be passed on.
            tokio::time::sleep(Duration::from_secs(1)).await;
            upstream.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
            let (got, _upstream) = tokio::join!(client.rest(), async { upstream });
            got
        })
        .await;
    assert_eq!(String::from_utf8(got).unwrap(), "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    assert!(over.answered().keeps_upstream);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_question_about_head_is_passed_without_its_body() {
    for (body, told) in [("Content-Length: 2\r\n\r\nno", "Content-Length: 2\r\n"), ("\r\nno", "")] {
        let response = format!("HTTP/1.1 403 Forbidden\r\n{body}");
        let (over, got) = answer(question(Method::HEAD), response.as_bytes(), told.is_empty()).await;
        assert_eq!(got, format!("HTTP/1.1 403 Forbidden\r\n{told}\r\n"));
        let answered = over.answered();
        assert!(answered.keeps_downstream && !answered.keeps_upstream, "its body is still there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wants_is_read_for_the_connection_alone() {
    for (response, kept) in [
        ("Content-Length: 3\r\n\r\nyes", true),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nX: y\r\n\r\n", true),
        ("Connection: close\r\nContent-Length: 3\r\n\r\nyes", false),
        ("Content-Length: 3\r\n\r\nyes and more", false),
        ("Transfer-Encoding: chunked\r\n\r\nx\r\n", false),
        // More than is read, and less than was told.
        (&format!("Content-Length: 100000\r\n\r\n{}", "y".repeat(100_000)), false),
        ("Content-Length: 100000\r\n\r\nyes", false),
        ("\r\nyes", false),
    ] {
        let (over, got) =
            answer(question(Method::GET), format!("HTTP/1.1 200 OK\r\n{response}").as_bytes(), false).await;
        assert_eq!(got, "", "{response}");
        assert!(over.took <= Duration::from_secs(1), "{response}");
        let answered = over.answered();
        assert_eq!((answered.status, answered.keeps_upstream), (200, kept), "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn h1_an_answer_that_can_be_read_in_two_ways_says_nothing() {
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nyes";
    let (over, got) = answer(question(Method::GET), response, false).await;
    assert_eq!((over.label(), got.as_str()), ("bad_response", ""));
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_behind_the_head_waits_while_a_question_is_asked() {
    let set_up = SetUp { down_tail: b"its body".to_vec(), ..question(Method::POST) };
    let (over, _) = answer(set_up, b"HTTP/1.1 204 No Content\r\n\r\n", false).await;
    assert_eq!(over.down_tail, b"its body");
    assert!(over.answered().keeps_upstream);
}

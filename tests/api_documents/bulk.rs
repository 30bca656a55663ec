//! Many documents at once, as NDJSON.

use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::{Method, Response, body::Incoming};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::{Answer, TestNode, start_joining, start_node};

async fn load(node: &TestNode, body: impl Into<Body>) -> Answer {
    node.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", body).send().await
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn check_problem(line: &Value, number: u64, status: u16, slug: &str) {
    assert_eq!(line["line"], number, "{line}");
    assert_eq!(line["problem"]["type"], format!("urn:lamplight:problem:{slug}"), "{line}");
    assert_eq!(line["problem"]["status"], status, "{line}");
}

/// A body that is sent as the test goes on.
fn open_body() -> (mpsc::UnboundedSender<Bytes>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let pieces = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    (sender, Body::from_stream(pieces.map(Ok::<_, std::io::Error>)))
}

/// The next line of an answer that is still under way.
async fn next_line(response: &mut Response<Incoming>, rest: &mut Vec<u8>) -> Option<Value> {
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = serde_json::from_slice(&rest[..end]).unwrap();
            rest.drain(..=end);
            return Some(line);
        }
        rest.extend_from_slice(response.frame().await?.unwrap().data_ref().unwrap());
    }
}

#[tokio::test]
async fn every_line_is_one_op_and_is_answered_with_its_number_in_order() {
    let node = start_node().await;
    let ops = node.ops().await;
    let answer =
        load(&node, "{\"id\":\"a\",\"value\":{\"b\":1.0,\"a\":2}}\n{\"value\":[]}\n{\"id\":\"a\",\"value\":2}")
            .await
            .expect(200);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let lines = lines(&answer);
    assert_eq!(lines.len(), 3);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["line"], index + 1);
        assert_eq!(line["receipt"]["op"], format!("{}.{}", node.node.id(), ops + 1 + index as u64));
        assert_eq!(line["receipt"]["status"], "final");
    }
    let made = lines[1]["receipt"]["id"].as_str().unwrap();
    assert_eq!(uuid::Uuid::parse_str(made).unwrap().get_version_num(), 7);
    assert_eq!(node.get(&format!("/v1/docs/c/{made}")).await.text(), "[]");
    // Of two lines with one id, the later one is the later op.
    assert_eq!(node.get("/v1/docs/c/a").await.text(), "2");
    assert_eq!(node.ops().await, ops + 3);
}

#[tokio::test]
async fn a_bad_line_has_its_problem_and_the_others_go_on() {
    let node = start_node().await;
    let deep =
        |levels: usize| format!(r#"{{"id":"deep{levels}","value":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let large = format!(r#"{{"id":"large","value":"{}"}}"#, "x".repeat(1 << 20));
    let sent = [
        "nonsense",
        r#"{"value":1,"value":2}"#,
        r#"{"value":{"a":1,"a":2}}"#,
        r#"{"value":1e999}"#,
        &deep(65),
        &large,
        r#"{"id":"..","value":1}"#,
        r#"{"id":7,"value":1}"#,
        r#"{"id":"x"}"#,
        r#"{"id":"x","vlaue":1}"#,
        "[1]",
        r#"{"id":"x","value":1} {"id":"y","value":1}"#,
        &deep(64),
        r#"{"id":"good","value":null}"#,
    ];
    let ops = node.ops().await;
    let answer = load(&node, sent.join("\n") + "\n").await.expect(200);
    let expected = [
        (400, "malformed-json"),
        (400, "duplicate-key"),
        (400, "duplicate-key"),
        (400, "inexact-number"),
        (400, "too-deep"),
        (413, "too-large"),
        (400, "bad-name"),
        (400, "bad-request"),
        (400, "bad-request"),
        (400, "unknown-field"),
        (400, "bad-request"),
        (400, "malformed-json"),
    ];
    let lines = lines(&answer);
    assert_eq!(lines.len(), sent.len());
    for ((line, number), (status, slug)) in lines.iter().zip(1..).zip(expected) {
        check_problem(line, number, status, slug);
    }
    assert_eq!(lines[12]["receipt"]["id"], "deep64");
    assert_eq!(lines[13]["receipt"]["id"], "good");
    assert_eq!(node.ops().await, ops + 2, "the bad lines changed nothing");
}

#[tokio::test]
async fn empty_lines_are_skipped_but_counted_and_lines_may_end_in_crlf() {
    let node = start_node().await;
    let answer =
        load(&node, "\n\r\n{\"id\":\"a\",\"value\":1}\r\n  \n\n{\"id\":\"b\",\"value\":2}\r\n\n").await.expect(200);
    let lines = lines(&answer);
    let numbers: Vec<_> = lines.iter().map(|line| (line["line"].as_u64(), line["receipt"]["id"].as_str())).collect();
    assert_eq!(numbers, [(Some(3), Some("a")), (Some(6), Some("b"))]);
    let empty = load(&node, "").await.expect(200);
    assert_eq!((&*empty.text(), empty.header("content-type")), ("", "application/x-ndjson"));
}

#[tokio::test]
async fn a_line_is_answered_before_the_next_is_sent_and_may_come_in_pieces() {
    let node = start_node().await;
    let (body, sent) = open_body();
    body.send("{\"id\":\"a\",".into()).unwrap();
    body.send("\"value\":1}\n{\"id\"".into()).unwrap();
    let mut response = node.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", sent).stream().await;
    let mut rest = Vec::new();
    assert_eq!(next_line(&mut response, &mut rest).await.unwrap()["receipt"]["id"], "a");
    assert_eq!(node.get("/v1/docs/c/a").await.text(), "1");
    body.send(":\"b\",\"value\":2}\n".into()).unwrap();
    assert_eq!(next_line(&mut response, &mut rest).await.unwrap()["receipt"]["id"], "b");
    drop(body);
    assert_eq!(next_line(&mut response, &mut rest).await, None);
}

#[tokio::test]
async fn a_line_that_is_too_long_has_a_problem_and_ends_the_load() {
    let node = start_node().await;
    let long = format!("{{\"id\":\"long\",\"value\":\"{}\"}}", "x".repeat(5 << 20));
    for sent in [
        format!("{{\"id\":\"a\",\"value\":1}}\n{long}\n{{\"id\":\"b\",\"value\":1}}\n"),
        format!("{{\"id\":\"a\",\"value\":1}}\n{long}"),
    ] {
        let lines = lines(&load(&node, sent).await.expect(200));
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["receipt"]["id"], "a");
        check_problem(&lines[1], 2, 413, "too-large");
    }
    node.get("/v1/docs/c/b").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_load_that_breaks_off_leaves_its_whole_lines_and_nothing_of_the_last() {
    let node = start_node().await;
    let pieces = stream::iter([
        Ok(Bytes::from("{\"id\":\"a\",\"value\":1}\n{\"id\":\"b\",\"value\":1}")),
        Err(std::io::Error::other("the client gives up")),
    ]);
    let request = node.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", Body::from_stream(pieces));
    assert!(request.try_stream().await.is_err());
    // Another op of this node is after those of the load, if there were any.
    node.put("/v1/docs/c/after", "1").await.expect(201);
    node.get("/v1/docs/c/b").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_client_that_reads_late_gets_every_answer_in_order() {
    const LINES: usize = 20_000;
    let node = start_node().await;
    let sent = stream::iter((0..LINES).map(|n| Ok::<_, std::io::Error>(format!("{{\"id\":\"{n}\",\"value\":{n}}}\n"))));
    let call = node.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", Body::from_stream(sent));
    let mut response = call.stream().await;
    // Nothing of the answer is read until another client has written; the load cannot be further than its bounds.
    node.put("/v1/docs/other/x", "1").await.expect(201);
    let mut rest = Vec::new();
    for number in 1..=LINES {
        let line = next_line(&mut response, &mut rest).await.unwrap();
        assert_eq!((&line["line"], &line["receipt"]["id"]), (&json!(number), &json!((number - 1).to_string())));
    }
    assert_eq!(next_line(&mut response, &mut rest).await, None);
    assert_eq!(node.get("/v1/collections").await.json()["collections"][0]["docs"], LINES);
}

#[tokio::test]
async fn a_stopping_node_ends_a_load_with_a_problem_at_the_line_it_did_not_take() {
    let node = start_node().await;
    let (body, sent) = open_body();
    body.send("{\"id\":\"a\",\"value\":1}\n".into()).unwrap();
    let mut response = node.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", sent).stream().await;
    let mut rest = Vec::new();
    next_line(&mut response, &mut rest).await.unwrap();
    let stopped = tokio::spawn(node.stop());
    check_problem(&next_line(&mut response, &mut rest).await.unwrap(), 2, 503, "not-ready");
    drop(body);
    assert_eq!(next_line(&mut response, &mut rest).await, None);
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_node_without_a_pool_refuses_every_line() {
    let node = start_joining().await;
    let lines = lines(&load(&node, "{\"value\":1}\n{\"value\":2}\n").await.expect(200));
    check_problem(&lines[0], 1, 503, "not-ready");
    check_problem(&lines[1], 2, 503, "not-ready");
}

#[tokio::test]
async fn a_load_takes_no_idempotency_key_for_one_key_names_one_op() {
    let node = start_node().await;
    let ops = node.ops().await;
    let call = node.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", "{\"id\":\"a\",\"value\":1}");
    call.header("idempotency-key", "k").send().await.expect_problem(400, "bad-header");
    assert_eq!(node.ops().await, ops);
}

//! The clients' WebSocket: subscriptions, writes, and what it does with messages that mean nothing.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use futures_util::{
    SinkExt,
    future::{join, join_all},
};
use hyper::Method;
use lamplight::api::{Access, Limits};
use serde_json::{Value, json};
use support::{TestNode, feeds::Ws, start_joining, start_limited, start_node, start_pool};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};

/// The ids of a snapshot's documents.
fn ids(snapshot: &Value) -> Vec<&str> {
    snapshot["docs"].as_array().unwrap().iter().map(|doc| doc["id"].as_str().unwrap()).collect()
}

async fn put(node: &TestNode, path: &str, value: Value) {
    let status = node.put(&format!("/v1/docs/{path}"), &value.to_string()).await.status;
    assert!(status.is_success(), "{status}");
}

#[tokio::test]
async fn a_subscription_gives_the_documents_and_then_each_change() {
    let node = start_node().await;
    put(&node, "c/a", json!(1)).await;
    let receipt = node.put("/v1/docs/c/b", "2").await.json();
    put(&node, "d/a", json!(3)).await;
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("s1", "c").await;
    let snapshot = ws.expect("snapshot").await;
    assert_eq!((&snapshot["id"], &snapshot["more"]), (&json!("s1"), &json!(false)));
    let expected = json!({
        "collection": "c", "id": "b", "version": receipt["version"], "stamp": receipt["stamp"],
        "status": "final", "value": 2,
    });
    assert_eq!(ids(&snapshot), ["a", "b"]);
    assert_eq!(snapshot["docs"][1], expected);

    put(&node, "d/b", json!(4)).await;
    put(&node, "c/c", json!(5)).await;
    let change = ws.expect("change").await;
    assert_eq!((&change["id"], &change["doc"]["id"], &change["doc"]["value"]), (&json!("s1"), &json!("c"), &json!(5)));
    let deletion = node.delete("/v1/docs/c/c").await.json();
    let change = ws.expect("change").await;
    let expected = json!({
        "collection": "c", "id": "c", "stamp": deletion["stamp"], "status": "final", "deleted": true,
    });
    assert_eq!(change["doc"], expected);
}

#[tokio::test]
async fn subscriptions_of_one_connection_are_told_apart() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("one", "c").await;
    assert_eq!(ids(&ws.expect("snapshot").await), [""; 0]);
    ws.send(json!({ "type": "subscribe", "id": "all" })).await;
    assert_eq!(ws.expect("snapshot").await["id"], "all");
    put(&node, "c/a", json!(1)).await;
    assert_eq!(ws.expect("change").await["id"], "one");
    assert_eq!(ws.expect("change").await["id"], "all");
    ws.send(json!({ "type": "unsubscribe", "id": "one" })).await;
    assert_eq!(ws.expect("unsubscribed").await["id"], "one");
    put(&node, "c/a", json!(2)).await;
    assert_eq!(ws.expect("change").await["id"], "all");
    ws.ping().await;
    ws.subscribe("one", "c").await;
    assert_eq!(ids(&ws.expect("snapshot").await), ["a"]);
}

#[tokio::test]
async fn a_large_collection_comes_in_several_parts_each_document_once() {
    let node = start_node().await;
    for round in 0..30 {
        let put = |id| json!({ "put": { "collection": "c", "id": format!("{:04}", round * 50 + id), "value": id } });
        let puts: Vec<Value> = (0..50).map(put).collect();
        node.post("/v1/tx", &json!({ "commands": puts }).to_string()).await.expect(200);
    }
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("s", "c").await;
    let (mut seen, mut parts, mut cursor, mut next) = (Vec::new(), 0, Value::Null, 0);
    loop {
        let snapshot = ws.expect("snapshot").await;
        seen.extend(ids(&snapshot).into_iter().map(str::to_string));
        parts += 1;
        if parts == 1 {
            (cursor, next) = (snapshot["cursor"].clone(), seen.len());
        }
        if snapshot["more"] == false {
            break;
        }
    }
    let all: Vec<String> = (0..1500).map(|id| format!("{id:04}")).collect();
    assert_eq!(seen, all);
    assert!(parts > 1, "{parts}");
    // A walk that was broken off goes on where it was.
    let mut again = Ws::connect(&node).await;
    again.send(json!({ "type": "subscribe", "id": "s", "collection": "c", "since": cursor })).await;
    assert_eq!(ids(&again.expect("snapshot").await)[0], format!("{next:04}"));
}

#[tokio::test]
async fn a_document_that_leaves_the_filter_is_removed_and_one_that_was_never_in_it_is_not_told_of() {
    let node = start_node().await;
    put(&node, "c/done", json!({ "open": false })).await;
    put(&node, "c/open", json!({ "open": true })).await;
    let mut ws = Ws::connect(&node).await;
    ws.send(json!({ "type": "subscribe", "id": "s", "collection": "c", "filter": { "open": true } })).await;
    assert_eq!(ids(&ws.expect("snapshot").await), ["open"]);

    put(&node, "c/done", json!({ "open": false, "n": 1 })).await;
    node.delete("/v1/docs/c/done").await.expect(200);
    put(&node, "c/open", json!({ "open": true, "n": 1 })).await;
    assert_eq!(ws.expect("change").await["doc"]["value"]["n"], 1);
    let left = node.put("/v1/docs/c/open", r#"{"open":false}"#).await.json();
    let expected =
        json!({ "collection": "c", "id": "open", "stamp": left["stamp"], "status": "final", "removed": true });
    assert_eq!(ws.expect("change").await["doc"], expected);

    put(&node, "c/open", json!({ "open": false, "n": 2 })).await;
    node.delete("/v1/docs/c/open").await.expect(200);
    put(&node, "c/new", json!({ "open": true })).await;
    assert_eq!(ws.expect("change").await["doc"]["id"], "new");
    node.delete("/v1/docs/c/new").await.expect(200);
    assert_eq!(ws.expect("change").await["doc"]["deleted"], true);
}

#[tokio::test]
async fn a_subscription_resumes_with_its_cursor_without_loss_or_double() {
    let node = start_node().await;
    put(&node, "c/a", json!({ "in": true })).await;
    let subscribe = |cursor: &Value| json!({ "type": "subscribe", "id": "s", "collection": "c", "filter": { "in": true }, "since": cursor });
    let mut ws = Ws::connect(&node).await;
    ws.send(json!({ "type": "subscribe", "id": "s", "collection": "c", "filter": { "in": true } })).await;
    let mut cursor = ws.expect("snapshot").await["cursor"].clone();
    drop(ws);
    put(&node, "c/a", json!({ "in": false })).await;
    put(&node, "c/b", json!({ "in": true })).await;
    put(&node, "c/d", json!({ "in": true })).await;
    put(&node, "c/b", json!({ "in": true, "n": 1 })).await;
    // It left the filter before, and is told of here: who comes back in between must still be told that it left.
    put(&node, "c/a", json!({ "in": false, "n": 1 })).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut ws = Ws::connect(&node).await;
        ws.send(subscribe(&cursor)).await;
        let change = ws.expect("change").await;
        seen.push((change["doc"]["id"].as_str().unwrap().to_string(), change["doc"]["removed"] == true));
        cursor = change["cursor"].clone();
    }
    assert_eq!(seen, [("d".into(), false), ("b".into(), false), ("a".into(), true)]);
    // Behind the last there is nothing but what comes.
    let mut ws = Ws::connect(&node).await;
    ws.send(subscribe(&cursor)).await;
    ws.ping().await;
    put(&node, "c/e", json!({ "in": true })).await;
    assert_eq!(ws.expect("change").await["doc"]["id"], "e");
}

#[tokio::test]
async fn a_cursor_of_another_node_leads_to_a_resync() {
    let [node, other] = start_pool().await;
    put(&node, "c/a", json!(1)).await;
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("s", "c").await;
    let cursor = ws.expect("snapshot").await["cursor"].clone();
    let mut ws = Ws::connect(&other).await;
    ws.send(json!({ "type": "subscribe", "id": "s", "collection": "c", "since": cursor })).await;
    assert_eq!(ws.expect("resync").await["id"], "s");
    assert_eq!(ws.expect("snapshot").await["more"], false);
}

#[tokio::test]
async fn writes_are_answered_by_receipts_and_seen_by_subscribers() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("s", "c").await;
    ws.expect("snapshot").await;
    let commands = json!([{ "put": { "collection": "c", "id": "a", "value": { "n": 1 } } }]);
    ws.send(json!({ "type": "write", "id": "w1", "commands": commands, "key": "k1" })).await;
    let receipt = ws.expect("receipt").await;
    assert_eq!((&receipt["id"], &receipt["status"]), (&json!("w1"), &json!("final")));
    let doc = &receipt["docs"][0];
    assert_eq!((&doc["collection"], &doc["id"]), (&json!("c"), &json!("a")));
    let change = ws.expect("change").await;
    assert_eq!(change["doc"]["version"], doc["version"]);
    // The same key again is the same op.
    ws.send(json!({ "type": "write", "id": "w2", "commands": commands, "key": "k1" })).await;
    let again = ws.expect("receipt").await;
    assert_eq!((&again["id"], &again["op"]), (&json!("w2"), &receipt["op"]));
    let other = json!([{ "delete": { "collection": "c", "id": "a" } }]);
    ws.send(json!({ "type": "write", "id": "w3", "commands": other, "key": "k1" })).await;
    assert_eq!(ws.expect_error("key-reused").await["id"], "w3");
}

#[tokio::test]
async fn a_tentative_write_gets_a_second_receipt_when_its_verdict_is_final() {
    let [a, b] = start_pool().await;
    let cut = async |cut: bool| drop(b.post("/v1/pool/links", &json!({ "cut": cut }).to_string()).await.expect(200));
    cut(true).await;
    let mut ws = Ws::connect(&a).await;
    let claim = |id: &str, value: i32| {
        let doc = json!({ "collection": "c", "id": "name" });
        let put = json!({ "put": { "collection": "c", "id": "name", "value": value } });
        json!({ "type": "write", "id": id, "guards": [{ "absent": doc }], "commands": [put] })
    };
    let mut hurried = claim("w1", 1);
    hurried["wait"] = "final".into();
    ws.send(hurried).await;
    let first = ws.expect("receipt").await;
    assert_eq!(
        (&first["id"], &first["status"], &first["verdict"]),
        (&json!("w1"), &json!("tentative"), &json!("applied"))
    );
    let mut other = Ws::connect(&b).await;
    other.send(claim("w2", 2)).await;
    assert_eq!(other.expect("receipt").await["status"], "tentative");
    cut(false).await;
    // Both were issued at one time, so the lesser id comes first.
    let (on_a, on_b) = (ws.expect("receipt").await, other.expect("receipt").await);
    assert_eq!((&on_a["id"], &on_a["op"], &on_b["id"]), (&json!("w1"), &first["op"], &json!("w2")));
    let mut statuses = [on_a["status"].as_str().unwrap(), on_b["status"].as_str().unwrap()];
    statuses.sort_unstable();
    assert_eq!(statuses, ["final", "rejected"]);
    ws.ping().await;
}

#[tokio::test]
async fn a_write_that_is_final_at_once_gets_one_receipt_and_waits_for_nothing_else() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    let commands = json!([{ "put": { "collection": "c", "id": "a", "value": 1 } }]);
    ws.send(json!({ "type": "write", "id": "w1", "commands": commands, "wait": "final" })).await;
    assert_eq!(ws.expect("receipt").await["status"], "final");
    ws.ping().await;
    for wait in [json!("all"), json!(2), json!(0), json!(-1), json!(1.5), json!("1"), json!([1]), json!(null)] {
        ws.send(json!({ "type": "write", "id": "w2", "commands": commands, "wait": wait })).await;
        assert_eq!(ws.expect_error("bad-request").await["id"], "w2");
    }
}

#[tokio::test]
async fn a_write_that_waits_for_members_is_told_when_as_many_hold_it() {
    let [a, b, c] = start_pool().await;
    let cut = async |node: &TestNode, cut: bool| {
        node.post("/v1/pool/links", &json!({ "cut": cut }).to_string()).await.expect(200);
    };
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    cut(&c, true).await;
    let mut ws = Ws::connect(&a).await;
    let write = |id: &str, wait: u64| {
        let put = json!({ "put": { "collection": "c", "id": id, "value": 1 } });
        json!({ "type": "write", "id": id, "commands": [put], "wait": wait })
    };
    ws.send(write("w3", 3)).await;
    assert_eq!(ws.expect("receipt").await.get("held_by"), None);
    ws.send(write("w2", 2)).await;
    let at_once = ws.expect("receipt").await;
    assert_eq!((&at_once["id"], &at_once["status"]), (&json!("w2"), &json!("tentative")));
    let held = ws.expect("receipt").await;
    assert_eq!((&held["id"], &held["op"], &held["held_by"]), (&json!("w2"), &at_once["op"], &json!(2)));
    assert_eq!(held["status"], "tentative", "{held}");
    cut(&b, true).await;
    cut(&c, false).await;
    cut(&b, false).await;
    let mut later = Vec::new();
    for _ in 0..3 {
        let receipt = ws.expect("receipt").await;
        later.push(json!([
            receipt["id"],
            receipt.get("held_by").is_some(),
            receipt["held_by"] == 3 || receipt["status"] == "final"
        ]));
    }
    later.sort_by_key(Value::to_string);
    assert_eq!(later, [json!(["w2", false, true]), json!(["w3", false, true]), json!(["w3", true, true])]);
}

#[tokio::test]
async fn a_write_at_a_node_that_is_evicted_gets_its_final_receipt_as_it_is_issued_again() {
    let [a, b] = start_pool().await;
    a.put("/v1/docs/c/x?wait=final&timeout=60s", "1").await.expect(201);
    b.post("/v1/pool/links", r#"{"cut":true}"#).await.expect(200);
    let mut ws = Ws::connect(&b).await;
    let put = json!({ "put": { "collection": "c", "id": "only", "value": 1 } });
    ws.send(json!({ "type": "write", "id": "w1", "commands": [put], "wait": 2 })).await;
    let (old, first) = (b.node.id(), ws.expect("receipt").await);
    assert_eq!(first["status"], "tentative");
    a.delete(&format!("/v1/pool/members/{old}?force=true&wait=final&timeout=60s")).await.expect(200);
    b.post("/v1/pool/links", r#"{"cut":false}"#).await.expect(200);
    let later = [ws.expect("receipt").await, ws.expect("receipt").await];
    let held = later.iter().find(|receipt| receipt.get("held_by").is_some()).unwrap();
    let last = later.iter().find(|receipt| receipt.get("held_by").is_none()).unwrap();
    assert_eq!((&held["held_by"], &last["status"], &last["id"]), (&json!(2), &json!("final"), &json!("w1")));
    assert_eq!(held["op"], last["op"]);
    assert_ne!(first["op"], last["op"]);
    assert!(last["op"].as_str().unwrap().starts_with(&b.node.id().to_string()), "{last}");
}

/// The messages carry no session; one that is asked for after a receipt has seen it.
#[tokio::test]
async fn a_session_that_is_asked_for_after_a_receipt_has_seen_the_write() {
    let [a, b] = start_pool().await;
    let mut ws = Ws::connect(&a).await;
    for n in 0..20 {
        let put = json!({ "put": { "collection": "c", "id": "x", "value": n } });
        ws.send(json!({ "type": "write", "id": format!("w{n}"), "commands": [put] })).await;
        while ws.expect("receipt").await["id"] != format!("w{n}") {}
        let session = a.get("/livez").await.session().to_string();
        let read = b.call(Method::GET, "/v1/docs/c/x").header("lamplight-session", session).send().await;
        assert_eq!(read.expect(200).text(), n.to_string());
    }
}

#[tokio::test]
async fn a_write_whose_guard_fails_changes_nothing() {
    let node = start_node().await;
    put(&node, "c/a", json!(1)).await;
    let version = node.get("/v1/docs/c/a").await.header("etag").trim_matches('"').to_string();
    let mut ws = Ws::connect(&node).await;
    let write = |id: &str, guard: Value, value: i32| {
        let put = json!({ "put": { "collection": "c", "id": "a", "value": value } });
        json!({ "type": "write", "id": id, "guards": [guard], "commands": [put] })
    };
    ws.send(write("w1", json!({ "absent": { "collection": "c", "id": "a" } }), 2)).await;
    let refused = ws.expect_error("guard-failed").await;
    assert_eq!((&refused["id"], &refused["problem"]["status"]), (&json!("w1"), &json!(409)));
    ws.send(write("w2", json!({ "version": { "collection": "c", "id": "a", "version": version } }), 3)).await;
    ws.expect("receipt").await;
    ws.send(write("w3", json!({ "version": { "collection": "c", "id": "a", "version": version } }), 4)).await;
    ws.expect_error("guard-failed").await;
    assert_eq!(node.get("/v1/docs/c/a").await.text(), "3");
}

#[tokio::test]
async fn messages_that_mean_nothing_are_answered_and_the_connection_stays() {
    let node = start_node().await;
    let ops = node.ops().await;
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("used", "c").await;
    ws.expect("snapshot").await;
    for (text, slug, id) in [
        ("", "malformed-json", None),
        ("{", "malformed-json", None),
        ("[1]", "bad-request", None),
        (r#"{"type":"ping","type":"ping"}"#, "duplicate-key", None),
        (r#"{"type":"ping","id":7}"#, "bad-request", None),
        (r#"{"id":"x"}"#, "bad-request", Some("x")),
        (r#"{"type":"presence","id":"x"}"#, "bad-request", Some("x")),
        (r#"{"type":7,"id":"x"}"#, "bad-request", Some("x")),
        (r#"{"type":"ping","id":"x","more":1}"#, "unknown-field", Some("x")),
        (r#"{"type":"subscribe","collection":"c"}"#, "bad-request", None),
        (r#"{"type":"subscribe","id":"used"}"#, "bad-request", Some("used")),
        (r#"{"type":"subscribe","id":"x","collection":"-"}"#, "bad-name", Some("x")),
        (r#"{"type":"subscribe","id":"x","colection":"c"}"#, "unknown-field", Some("x")),
        (r#"{"type":"subscribe","id":"x","filter":{"$near":1}}"#, "bad-filter", Some("x")),
        (r#"{"type":"subscribe","id":"x","since":"no"}"#, "bad-cursor", Some("x")),
        (r#"{"type":"unsubscribe","id":"x"}"#, "not-found", Some("x")),
        (r#"{"type":"write","commands":[]}"#, "bad-request", None),
        (r#"{"type":"write","id":"x"}"#, "bad-request", Some("x")),
        (r#"{"type":"write","id":"x","commands":[]}"#, "bad-request", Some("x")),
        (
            r#"{"type":"write","id":"x","commands":[{"put":{"collection":"c","id":"","value":1}}]}"#,
            "bad-name",
            Some("x"),
        ),
        (
            r#"{"type":"write","id":"x","commands":[{"put":{"collection":"c","id":"a","value":1e400}}]}"#,
            "inexact-number",
            Some("x"),
        ),
        (
            r#"{"type":"write","commands":[{"put":{"collection":"c","id":"a","value":{"k":1,"k":2}}}],"id":"x"}"#,
            "duplicate-key",
            Some("x"),
        ),
        (r#"{"type":"ping","id":"x","id":"y"}"#, "duplicate-key", None),
        (r#"{"type":"ping","id":"x","a":1"#, "malformed-json", None),
        (r#"{"type":"write","id":"x","commands":[],"wait":1}"#, "bad-request", Some("x")),
    ] {
        ws.send_text(text).await;
        let answer = ws.expect_error(slug).await;
        assert_eq!(answer.get("id").and_then(Value::as_str), id, "{text}");
    }
    ws.0.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    ws.expect_error("bad-request").await;
    ws.ping().await;
    assert_eq!(node.ops().await, ops);
}

#[tokio::test]
async fn a_document_of_the_largest_depth_can_be_written() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let write = |value: String| {
        format!(r#"{{"type":"write","id":"w","commands":[{{"put":{{"collection":"c","id":"a","value":{value}}}}}]}}"#)
    };
    ws.send_text(&write(deep(64))).await;
    ws.expect("receipt").await;
    ws.send_text(&write(deep(65))).await;
    ws.expect_error("too-deep").await;
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_subscriptions() {
    let node = start_node().await;
    let mut ws = Ws::connect(&node).await;
    for id in 0..64 {
        ws.subscribe(&id.to_string(), "c").await;
        ws.expect("snapshot").await;
    }
    ws.subscribe("one more", "c").await;
    ws.expect_error("bad-request").await;
    ws.send(json!({ "type": "unsubscribe", "id": "0" })).await;
    ws.expect("unsubscribed").await;
    ws.subscribe("one more", "c").await;
    ws.expect("snapshot").await;
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_its_own_connection_only() {
    let node = start_node().await;
    let (mut ws, mut other) = (Ws::connect(&node).await, Ws::connect(&node).await);
    // The server may close before it has read all of it, so writing may fail.
    let _ = ws.0.send(Message::text("x".repeat((4 << 20) + 1))).await;
    assert!(!matches!(futures_util::StreamExt::next(&mut ws.0).await, Some(Ok(Message::Text(_)))));
    other.ping().await;
}

#[tokio::test]
async fn a_node_without_a_pool_answers_that_it_is_not_ready() {
    let node = start_joining().await;
    let mut ws = Ws::connect(&node).await;
    ws.subscribe("s", "c").await;
    assert_eq!(ws.expect_error("not-ready").await["id"], "s");
    let delete = json!({ "delete": { "collection": "c", "id": "a" } });
    ws.send(json!({ "type": "write", "id": "w", "commands": [delete] })).await;
    assert_eq!(ws.expect_error("not-ready").await["id"], "w");
    ws.ping().await;
}

#[tokio::test]
async fn only_pages_of_the_node_may_connect_from_a_browser() {
    let node = start_node().await;
    let own = node.url.clone();
    let offered = [("origin", own.as_str()), ("sec-websocket-protocol", "other, lamplight.v1")];
    let (_, response) = Ws::connect_with(&node, &offered).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "lamplight.v1");
    for origin in ["http://127.0.0.1:1", "https://example.org", "null"] {
        match Ws::connect_with(&node, &[("origin", origin)]).await.map(|_| ()) {
            Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), 403),
            other => panic!("{origin}: {other:?}"),
        }
    }
    node.get("/v1/ws").await.expect_problem(400, "bad-request");
}

#[tokio::test]
async fn connections_are_told_when_the_node_stops() {
    let node = start_node().await;
    let (mut idle, mut subscribed) = (Ws::connect(&node).await, Ws::connect(&node).await);
    subscribed.subscribe("s", "c").await;
    subscribed.expect("snapshot").await;
    idle.ping().await;
    let stopping = node.stop();
    let (codes, ()) = tokio::join!(async { (idle.closed().await, subscribed.closed().await) }, stopping);
    assert_eq!(codes, (1001, 1001));
}

/// A node that cuts nobody off who does not read for as long as these tests may take.
async fn start_patient() -> TestNode {
    let limits = Limits { write_timeout: Duration::from_secs(3_600), ..Limits::default() };
    start_limited(limits, Access::default()).await
}

/// A document of some size that tells its number.
fn large(n: usize) -> Value {
    json!({ "n": n, "filling": "x".repeat(400 << 10) })
}

#[tokio::test]
async fn a_slow_subscriber_stalls_nobody_and_gets_the_latest_state() {
    const WRITES: usize = 60;
    let node = start_patient().await;
    let (mut slow, mut quick) = (Ws::connect_narrow(&node).await, Ws::connect(&node).await);
    for ws in [&mut slow, &mut quick] {
        ws.subscribe("s", "c").await;
        ws.expect("snapshot").await;
    }
    for n in 0..WRITES {
        put(&node, "c/large", large(n)).await;
        assert_eq!(quick.expect("change").await["doc"]["value"]["n"], n);
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&(WRITES as u64 - 1)) {
        seen.push(slow.expect("change").await["doc"]["value"]["n"].as_u64().unwrap());
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.len() < WRITES, "it was not slow: {seen:?}");
    put(&node, "c/small", json!("last")).await;
    assert_eq!(slow.expect("change").await["doc"]["value"], "last");
}

#[tokio::test]
async fn a_subscriber_that_falls_behind_what_the_node_keeps_starts_over() {
    // Together more than the node keeps of what documents were before.
    const WRITES: usize = 200;
    let node = start_patient().await;
    put(&node, "c/other", json!(1)).await;
    let mut slow = Ws::connect_narrow(&node).await;
    slow.subscribe("s", "c").await;
    slow.expect("snapshot").await;
    for n in 0..WRITES {
        put(&node, "c/large", large(n)).await;
    }
    let resync = loop {
        let message = slow.next().await;
        if message["type"] != "change" {
            break message;
        }
    };
    assert_eq!((&resync["type"], &resync["id"]), (&json!("resync"), &json!("s")));
    let mut docs = Vec::new();
    loop {
        let snapshot = slow.expect("snapshot").await;
        docs.extend(snapshot["docs"].as_array().unwrap().iter().cloned());
        if snapshot["more"] == false {
            break;
        }
    }
    assert_eq!((&docs[0]["value"]["n"], &docs[1]["id"], docs.len()), (&json!(WRITES - 1), &json!("other"), 2));
    put(&node, "c/other", json!(2)).await;
    assert_eq!(slow.expect("change").await["doc"]["value"], 2);
}

/// More changes than the node keeps, in a collection.
async fn change_much(node: &TestNode, collection: &str) {
    for op in 0..70 {
        let put = |n| json!({ "put": { "collection": collection, "id": format!("{n}"), "value": op } });
        let commands: Vec<Value> = (0..1_000).map(put).collect();
        node.post("/v1/tx", &json!({ "commands": commands }).to_string()).await.expect(200);
    }
}

#[tokio::test]
async fn what_happens_elsewhere_does_not_let_an_idle_subscriber_fall_behind() {
    let node = start_node().await;
    put(&node, "c/a", json!(0)).await;
    let mut idle = Ws::connect(&node).await;
    idle.subscribe("s", "c").await;
    idle.expect("snapshot").await;
    change_much(&node, "elsewhere").await;
    // More parts of the ring than are kept in mind, each told.
    for n in 1..200 {
        put(&node, "c/a", json!(n)).await;
        assert_eq!(idle.expect("change").await["doc"]["value"], n);
        put(&node, "elsewhere/a", json!(n)).await;
    }
    change_much(&node, "elsewhere").await;
    let mut late = Ws::connect(&node).await;
    late.subscribe("s", "c").await;
    late.expect("snapshot").await;
    put(&node, "c/a", json!("last")).await;
    for ws in [&mut idle, &mut late] {
        assert_eq!(ws.expect("change").await["doc"]["value"], "last");
    }
}

/// What a reader has made of what it was told.
#[derive(Default)]
struct Copy {
    docs: BTreeMap<String, Value>,
    cursor: Option<Value>,
}

impl Copy {
    fn take(&mut self, message: &Value) {
        let mut set = |doc: &Value| self.docs.insert(doc["id"].as_str().unwrap().into(), doc["value"].clone());
        match message["type"].as_str().unwrap() {
            "snapshot" => message["docs"].as_array().unwrap().iter().for_each(|doc| drop(set(doc))),
            "change" if message["doc"].get("value").is_some() => drop(set(&message["doc"])),
            "change" => drop(self.docs.remove(message["doc"]["id"].as_str().unwrap())),
            other => panic!("{other}"),
        }
        self.cursor = Some(message["cursor"].clone());
    }
}

/// A few documents that come, go, and change in and out of the filter; so large that a part holds only some of them.
async fn stir(node: &TestNode, rng: &mut fastrand::Rng) {
    for _ in 0..rng.u32(0..8) {
        let path = format!("/v1/docs/c/{}", rng.u32(0..8));
        if rng.u32(0..4) == 0 {
            node.delete(&path).await;
        } else {
            let value = json!({ "in": rng.bool(), "n": rng.u32(..), "filling": "x".repeat(100 << 10) });
            node.put(&path, &value.to_string()).await;
        }
    }
}

/// What a copy must hold.
async fn matching(node: &TestNode) -> BTreeMap<String, Value> {
    let page = node.get("/v1/docs/c?limit=1000&filter=%7B%22in%22:true%7D").await.expect(200).json();
    let docs = page["docs"].as_array().unwrap().iter();
    docs.map(|doc| (doc["id"].as_str().unwrap().to_string(), doc["value"].clone())).collect()
}

#[tokio::test]
async fn however_a_reader_comes_and_goes_it_ends_with_what_is_there() {
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let node = start_node().await;
        let mut copy = Copy::default();
        for round in 0..30 {
            stir(&node, &mut rng).await;
            // Written once, after all else, and last by its id: who has it has all.
            let last = format!("last-{round:02}");
            put(&node, &format!("c/{last}"), json!({ "in": true })).await;
            // Every other reader may leave at any message, and sees more changes while it reads.
            let restless = round % 2 == 0;
            let mut ws = Ws::connect(&node).await;
            let mut subscribe = json!({ "type": "subscribe", "id": "s", "collection": "c", "filter": { "in": true } });
            if let Some(cursor) = &copy.cursor {
                subscribe["since"] = cursor.clone();
            }
            ws.send(subscribe).await;
            while !copy.docs.contains_key(&last) {
                copy.take(&ws.next().await);
                if restless && rng.u32(0..3) == 0 {
                    break;
                }
                if restless && rng.u32(0..3) == 0 {
                    stir(&node, &mut rng).await;
                }
            }
            assert!(restless || copy.docs == matching(&node).await, "seed {seed}, round {round}");
        }
    }
}

/// Comes and goes with its cursor while others write, or stays from the first; returns once it has the last document.
async fn follow(node: &TestNode, mut subscribe: Value, mut rng: fastrand::Rng, stays: bool) -> Copy {
    let mut copy = Copy::default();
    while !copy.docs.contains_key("last") {
        if let Some(cursor) = &copy.cursor {
            subscribe["since"] = cursor.clone();
        }
        let mut ws = Ws::connect(node).await;
        ws.send(subscribe.clone()).await;
        let mut left = if stays { u32::MAX } else { rng.u32(1..5) };
        while !copy.docs.contains_key("last") && left > 0 {
            let message = timeout(Duration::from_secs(20), ws.next()).await;
            copy.take(&message.expect("the last document comes to all"));
            left -= 1;
        }
        drop(ws);
        sleep(Duration::from_millis(rng.u64(0..20))).await;
    }
    copy
}

#[tokio::test]
async fn a_crowd_that_grows_and_shrinks_ends_with_what_is_there() {
    let node = start_node().await;
    for seed in 0..2 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut subscribe = json!({ "type": "subscribe", "id": "s", "filter": { "in": true } });
        if seed % 2 == 0 {
            subscribe["collection"] = "c".into();
        }
        // Sometimes they are few, and sometimes more than are told at once.
        let readers = (0..24).map(|n| follow(&node, subscribe.clone(), rng.fork(), n % 3 == 0));
        let readers: Vec<_> = readers.collect();
        let writer = async {
            for _ in 0..400 {
                let (path, value) = (format!("c/{}", rng.u32(0..200)), json!({ "in": rng.bool(), "n": rng.u32(..) }));
                put(&node, &path, value).await;
                // In bursts, so that there are changes of which the crowd has not been told yet.
                if rng.u32(0..8) == 0 {
                    sleep(Duration::from_millis(rng.u64(0..20))).await;
                }
            }
            put(&node, "c/last", json!({ "in": true })).await;
        };
        let (copies, ()) = join(join_all(readers), writer).await;
        for copy in copies {
            assert_eq!(copy.docs, matching(&node).await, "seed {seed}");
        }
        node.delete("/v1/docs/c/last").await.expect(200);
    }
}

//! `wait=final`: answers that come once nothing can come before the op any more.

use hyper::Method;
use lamplight::{op::NodeId, replica::Replica};
use serde_json::{Value, json};

use crate::support::{Answer, TestNode, start_node, start_pool, until};

const DOC: &str = "/v1/docs/names/ada";

async fn cut(node: &TestNode, cut: bool) {
    node.post("/v1/pool/links", &json!({ "cut": cut }).to_string()).await.expect(200);
}

async fn op(node: &TestNode, op: &Value) -> Value {
    node.get(&format!("/v1/ops/{}?wait=final&timeout=60s", op.as_str().unwrap())).await.expect(200).json()
}

fn has_issued(origin: NodeId, seq: u64) -> impl Fn(&Replica) -> bool + Clone + Send + 'static {
    move |replica| replica.log().head(origin).seq >= seq
}

#[tokio::test]
async fn a_lone_node_answers_every_write_at_once_and_it_is_final() {
    let node = start_node().await;
    let wait = "?wait=final&timeout=60s";
    let put = node.put(&format!("{DOC}{wait}"), "1").await.expect(201).json();
    let merged = node.merge(&format!("{DOC}{wait}"), "{\"n\":1}").await.expect(200).json();
    let posted = node.post(&format!("/v1/docs/names{wait}"), "1").await.expect(201);
    assert!(posted.header("location").starts_with("/v1/docs/names/"));
    let tx = r#"{"commands":[{"put":{"collection":"c","id":"x","value":1}}]}"#;
    let tx = node.post(&format!("/v1/tx{wait}"), tx).await.expect(200).json();
    let deleted = node.delete(&format!("{DOC}{wait}")).await.expect(200).json();
    for receipt in [&put, &merged, &posted.json(), &tx, &deleted] {
        assert_eq!((&receipt["status"], &receipt["verdict"]), (&json!("final"), &json!("applied")), "{receipt}");
    }
    assert_eq!(op(&node, &put["op"]).await["status"], "final");
}

#[tokio::test]
async fn three_nodes_agree_that_a_write_is_final_and_then_so_is_its_document() {
    let [a, b, c] = start_pool().await;
    let written = a.put(&format!("{DOC}?wait=final&timeout=60s"), "1").await.expect(201);
    assert_eq!(written.json()["status"], "final");
    assert_eq!(a.get(DOC).await.header("lamplight-status"), "final");
    for node in [&b, &c] {
        assert_eq!(op(node, &written.json()["op"]).await["status"], "final");
        assert_eq!(node.get(DOC).await.header("lamplight-status"), "final");
    }
}

#[tokio::test]
async fn a_write_that_waits_in_vain_answers_202_and_becomes_final_later() {
    let [a, b] = start_pool().await;
    cut(&b, true).await;
    let written = a.put(&format!("{DOC}?wait=final&timeout=50ms"), "1").await.expect(202);
    let receipt = written.json();
    assert_eq!((&receipt["status"], &receipt["verdict"]), (&json!("tentative"), &json!("applied")));
    assert_eq!(written.header("location"), format!("/v1/ops/{}", receipt["op"].as_str().unwrap()));
    assert_eq!(a.get(DOC).await.header("lamplight-status"), "tentative");
    let asked = a.get(&format!("{}?wait=final&timeout=50ms", written.header("location"))).await.expect(202);
    assert_eq!((asked.json(), asked.header("location")), (receipt.clone(), written.header("location")));
    cut(&b, false).await;
    assert_eq!(op(&a, &receipt["op"]).await["status"], "final");
}

/// Two sides of a cut pool write, each waiting for the verdict; then the cut is joined.
async fn on_both_sides([a, b]: [&TestNode; 2], write: impl AsyncFn(&TestNode) -> Answer) -> (Answer, Answer) {
    let seqs = [a, b].map(|node| node.node.id());
    let seq_of =
        async |node: &TestNode, id: NodeId| node.node.read(move |replica, _| replica.log().head(id).seq).await.unwrap();
    let (of_a, of_b) = (seq_of(a, seqs[0]).await, seq_of(b, seqs[1]).await);
    cut(a, true).await;
    let join = async {
        until(&a.node, has_issued(seqs[0], of_a + 1)).await;
        until(&b.node, has_issued(seqs[1], of_b + 1)).await;
        cut(a, false).await;
    };
    let (on_a, on_b, ()) = tokio::join!(write(a), write(b), join);
    (on_a, on_b)
}

#[tokio::test]
async fn of_two_sides_that_claim_a_name_exactly_one_has_it_on_every_node() {
    let [a, b, c] = start_pool().await;
    let claim = async |node: &TestNode| {
        let call = node.call(Method::PUT, &format!("{DOC}?wait=final&timeout=60s")).json(&json!(node.url).to_string());
        call.header("if-none-match", "*").send().await
    };
    let (on_a, on_b) = on_both_sides([&a, &b], claim).await;
    let (won, lost, winner) = if on_a.status == 201 { (on_a, on_b, &a) } else { (on_b, on_a, &b) };
    let won = won.expect(201).json();
    assert_eq!((&won["status"], &won["verdict"]), (&json!("final"), &json!("applied")));
    let detail = lost.expect_problem(412, "version-mismatch");
    assert!(detail.contains("exists already"), "{detail}");
    for node in [&a, &b, &c] {
        assert_eq!(op(node, &won["op"]).await["status"], "final");
        let refused = op(node, &lost.json()["op"]).await;
        assert_eq!((&refused["status"], &refused["verdict"]), (&json!("rejected"), &json!("rejected")));
        assert!(refused["reason"].as_str().unwrap().contains("guard 0"), "{refused}");
        assert_eq!(node.get(DOC).await.expect(200).json(), winner.url);
    }
}

#[tokio::test]
async fn a_guard_of_a_transaction_that_fails_at_its_final_place_answers_409() {
    let [a, b] = start_pool().await;
    let seats = a.put("/v1/docs/c/seats?wait=final&timeout=60s", r#"{"free":1}"#).await.expect(201);
    b.call(Method::GET, "/v1/docs/c/seats").header("lamplight-session", seats.session()).send().await.expect(200);
    let book = async |node: &TestNode| {
        let tx = json!({ "commands": [{ "patch": { "collection": "c", "id": "seats", "patch": [
            { "op": "test", "path": "/free", "value": 1 }, { "op": "increment", "path": "/free", "by": -1 },
        ] } }] });
        node.post("/v1/tx?wait=final&timeout=60s", &tx.to_string()).await
    };
    let (on_a, on_b) = on_both_sides([&a, &b], book).await;
    let (won, lost) = if on_a.status == 200 { (on_a, on_b) } else { (on_b, on_a) };
    assert_eq!(won.expect(200).json()["status"], "final");
    lost.expect_problem(409, "patch-failed");
    assert_eq!(a.get(&format!("/v1/ops/{}", lost.json()["op"].as_str().unwrap())).await.json()["status"], "rejected");
    assert_eq!(a.get("/v1/docs/c/seats").await.text(), r#"{"free":0}"#);
}

#[tokio::test]
async fn one_request_sent_to_both_sides_under_one_key_gets_one_final_receipt() {
    let [a, b] = start_pool().await;
    let write = async |node: &TestNode| {
        let call = node.call(Method::PUT, &format!("{DOC}?wait=final&timeout=60s")).json("1");
        call.header("idempotency-key", "once").send().await
    };
    let (on_a, on_b) = on_both_sides([&a, &b], write).await;
    let (on_a, on_b) = (on_a.json(), on_b.json());
    assert_eq!((&on_a["op"], &on_a["status"]), (&on_b["op"], &json!("final")));
    assert_eq!(on_b["status"], "final");
}

#[tokio::test]
async fn what_wait_and_timeout_may_say_is_told() {
    let node = start_node().await;
    for (query, words) in [
        ("wait=2", "a number of members"),
        ("wait=all", "wait is final"),
        ("wait=", "wait is final"),
        ("timeout=5s", "timeout is for wait=final"),
        ("wait=final&timeout=61s", "at most 60s"),
        ("wait=final&timeout=5", "500ms"),
        ("wait=final&timeout=-1s", "500ms"),
        ("wait=final&wait=final", "twice"),
        ("wiat=final", "wait, timeout"),
    ] {
        for answer in [
            node.put(&format!("{DOC}?{query}"), "1").await,
            node.merge(&format!("{DOC}?{query}"), "1").await,
            node.delete(&format!("{DOC}?{query}")).await,
            node.post(&format!("/v1/docs/names?{query}"), "1").await,
            node.post(&format!("/v1/tx?{query}"), "{}").await,
            node.get(&format!("/v1/ops/{}.1?{query}", node.node.id())).await,
        ] {
            let detail = answer.expect_problem(400, "bad-query");
            assert!(detail.contains(words), "{query}: {detail}");
        }
    }
    node.get(&format!("{DOC}?wait=final")).await.expect_problem(400, "bad-query");
    let bulk = node.call(Method::POST, "/v1/docs/names?wait=final").typed("application/x-ndjson", "").send().await;
    assert!(bulk.expect_problem(400, "bad-query").contains("bulk"));
    node.get("/v1/docs/names").await.expect(200);
    assert_eq!(node.ops().await, 1);
}

#[tokio::test]
async fn the_final_view_shows_a_document_as_far_as_all_is_final() {
    let [a, b] = start_pool().await;
    let put = async |path: &str, json: &str, status| a.put(&format!("/v1/docs/c/{path}"), json).await.expect(status);
    let first = put("x?wait=final&timeout=60s", r#"{"n":1}"#, 201).await;
    put("gone?wait=final&timeout=60s", "1", 201).await;
    let shown = a.get("/v1/docs/c/x?view=final").await.expect(200);
    assert_eq!((shown.header("etag"), shown.header("lamplight-status")), (first.header("etag"), "final"));
    cut(&b, true).await;
    // Twenty merges, so that there are checkpoints amidst what is tentative; then one op that replaces all.
    for n in 2..22 {
        a.merge("/v1/docs/c/x", &json!({ "n": n }).to_string()).await.expect(200);
    }
    let last = put("x", "7", 200).await;
    a.delete("/v1/docs/c/gone").await.expect(200);
    let new = put("new", "1", 201).await.json();
    let shown = a.get("/v1/docs/c/x?view=final").await.expect(200);
    assert_eq!((shown.text(), shown.header("etag")), (r#"{"n":1}"#.into(), first.header("etag")));
    assert_eq!(
        (shown.header("lamplight-status"), shown.header("lamplight-stamp")),
        ("final", first.json()["stamp"].as_str().unwrap())
    );
    assert_eq!(a.get("/v1/docs/c/x").await.text(), "7");
    assert_eq!(a.get("/v1/docs/c/gone?view=final").await.expect(200).text(), "1");
    let detail = a.get("/v1/docs/c/new?view=final").await.expect_problem(404, "not-found");
    assert!(detail.contains("tentative"), "{detail}");
    a.get("/v1/docs/c/none?view=final").await.expect_problem(404, "not-found");
    cut(&b, false).await;
    assert_eq!(op(&a, &new["op"]).await["status"], "final");
    a.get("/v1/docs/c/gone?view=final").await.expect_problem(404, "not-found");
    assert_eq!(a.get("/v1/docs/c/x?view=final").await.header("etag"), last.header("etag"));
}

#[tokio::test]
async fn views_that_are_not_there_are_refused() {
    let node = start_node().await;
    node.get("/v1/docs/c/x?view=all").await.expect_problem(400, "bad-query");
    for path in ["/v1/docs/c", "/v1/changes"] {
        node.get(&format!("{path}?view=all")).await.expect_problem(400, "bad-query");
    }
    for path in ["/v1/collections", "/v1/log", "/v1/docs/c/x/history"] {
        node.get(&format!("{path}?view=final")).await.expect_problem(400, "bad-query");
    }
}

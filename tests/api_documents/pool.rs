//! Documents on several nodes: sessions, idempotency keys and conditions across them.

use hyper::Method;
use serde_json::{Value, json};

use crate::support::{TestNode, start_node, start_pool};

/// Reads from a node once it holds what `session` has seen.
async fn get_after(node: &TestNode, path: &str, session: &str) -> crate::support::Answer {
    node.call(Method::GET, path).header("lamplight-session", session).send().await
}

#[tokio::test]
async fn a_session_sees_on_every_node_what_it_wrote_on_one() {
    let [a, b, c] = start_pool().await;
    for n in 0..50 {
        let written = a.put("/v1/docs/c/x", &n.to_string()).await;
        for other in [&b, &c] {
            assert_eq!(get_after(other, "/v1/docs/c/x", written.session()).await.expect(200).text(), n.to_string());
        }
    }
}

#[tokio::test]
async fn a_session_that_wandered_over_all_nodes_sees_all_it_wrote() {
    let [a, b, c] = start_pool().await;
    let mut session = a.get("/livez").await.session().to_string();
    for (n, node) in [&a, &b, &c, &b, &a, &c].into_iter().enumerate() {
        let put = node.call(Method::PUT, &format!("/v1/docs/c/{n}")).json("1").header("lamplight-session", &session);
        session = put.send().await.expect(201).session().to_string();
        let page = get_after(node, "/v1/docs/c", &session).await.expect(200).json();
        assert_eq!(page["docs"].as_array().unwrap().len(), n + 1);
    }
}

/// A receipt without its status, which turns as the nodes hear of each other.
fn lasting(receipt: &Value) -> Value {
    let mut lasting = receipt.clone();
    lasting.as_object_mut().unwrap().remove("status");
    lasting
}

#[tokio::test]
async fn a_receipt_is_given_by_every_node_once_it_holds_the_op() {
    let [a, b] = start_pool().await;
    let written = a.put("/v1/docs/c/x", "1").await.expect(201);
    let path = format!("/v1/ops/{}", written.json()["op"].as_str().unwrap());
    let there = get_after(&b, &path, written.session()).await.expect(200).json();
    assert_eq!(lasting(&there), lasting(&written.json()));
}

#[tokio::test]
async fn an_idempotency_key_holds_on_every_node() {
    let [a, b] = start_pool().await;
    let increment = r#"[{"op":"increment","path":"/n","by":1}]"#;
    let created = a.put("/v1/docs/c/x", r#"{"n":0}"#).await.expect(201);
    let call = async |node: &TestNode, session: &str| {
        let call = node.call(Method::PATCH, "/v1/docs/c/x").typed("application/json-patch+json", increment);
        call.header("idempotency-key", "once").header("lamplight-session", session).send().await.expect(200)
    };
    let first = call(&a, created.session()).await;
    let second = call(&b, first.session()).await;
    assert_eq!(lasting(&second.json()), lasting(&first.json()));
    assert_eq!(b.get("/v1/docs/c/x").await.text(), r#"{"n":1}"#);
    let other = b.call(Method::DELETE, "/v1/docs/c/x").header("idempotency-key", "once").send().await;
    other.expect_problem(422, "key-reused");
}

#[tokio::test]
async fn a_version_read_on_one_node_is_good_for_if_match_on_another() {
    let [a, b] = start_pool().await;
    let first = a.put("/v1/docs/c/x", "1").await.expect(201);
    let matched = b.call(Method::PUT, "/v1/docs/c/x").json("2").header("lamplight-session", first.session());
    let second = matched.header("if-match", first.header("etag")).send().await.expect(200);
    let stale = a.call(Method::PUT, "/v1/docs/c/x").json("3").header("lamplight-session", second.session());
    let refused = stale.header("if-match", first.header("etag")).send().await;
    refused.expect_problem(412, "version-mismatch");
    assert_eq!(refused.json()["current"], second.json()["version"]);
    assert_eq!(a.get("/v1/docs/c/x").await.text(), "2");
}

#[tokio::test]
async fn a_transaction_is_seen_whole_on_another_node_and_its_guards_hold_there() {
    let [a, b] = start_pool().await;
    let tx = r#"{"guards":[{"absent":{"collection":"c","id":"x"}}],"commands":[
        {"put":{"collection":"c","id":"x","value":1}},{"put":{"collection":"c","id":"y","value":1}}]}"#;
    let written = a.post("/v1/tx", tx).await.expect(200);
    let page = get_after(&b, "/v1/docs/c", written.session()).await.expect(200).json();
    assert_eq!(page["docs"].as_array().unwrap().len(), 2);
    b.post("/v1/tx", tx).await.expect_problem(409, "guard-failed");
}

#[tokio::test]
async fn a_cursor_of_one_node_goes_on_on_another() {
    let [a, b] = start_pool().await;
    let mut session = String::new();
    for n in 0..4 {
        session = a.put(&format!("/v1/docs/c/{n}"), &json!({ "n": -n }).to_string()).await.expect(201).session().into();
    }
    let first = a.get("/v1/docs/c?sort=n&limit=3").await.expect(200).json();
    let rest = format!("/v1/docs/c?sort=n&limit=3&after={}", first["next"].as_str().unwrap());
    let rest = get_after(&b, &rest, &session).await.expect(200).json();
    assert_eq!((rest["docs"].as_array().unwrap().len(), &rest["docs"][0]["id"]), (1, &json!("0")));
}

#[tokio::test]
async fn a_session_that_never_comes_here_answers_503_and_one_that_is_none_400() {
    let [a, b] = [start_node().await, start_node().await];
    let elsewhere = b.put("/v1/docs/c/x", "1").await.expect(201);
    let answer = get_after(&a, "/v1/docs/c/x", elsewhere.session()).await;
    answer.expect_problem(503, "session-not-here");
    assert_eq!(answer.header("retry-after"), "1");
    // A client that sends back the last session it got has lost nothing by the refusal.
    assert_eq!(answer.session(), elsewhere.session());
    get_after(&a, "/v1/docs/c/x", "no session").await.expect_problem(400, "bad-header");
    a.call(Method::PUT, "/v1/docs/c/x")
        .json("1")
        .header("lamplight-session", "???")
        .send()
        .await
        .expect_problem(400, "bad-header");
    a.get("/v1/docs/c/x").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn what_tells_of_the_node_itself_waits_for_no_session() {
    let [a, b] = [start_node().await, start_node().await];
    let elsewhere = b.put("/v1/docs/c/x", "1").await.expect(201);
    for session in [elsewhere.session(), "???"] {
        for path in ["/livez", "/readyz", "/v1/pool", "/"] {
            let answer = get_after(&a, path, session).await.expect(200);
            assert_eq!(answer.session() == session, session != "???", "{path}");
        }
        for cut in ["true", "false"] {
            let call = a.call(Method::POST, "/v1/pool/links").json(&format!("{{\"cut\":{cut}}}"));
            call.header("lamplight-session", session).send().await.expect(200);
        }
    }
    for path in ["/v1/collections", "/v1/docs/c", "/v1/changes", "/v1/log", "/v1/ops/1"] {
        get_after(&a, path, "???").await.expect_problem(400, "bad-header");
    }
}

//! Text documents over REST: plain text, deltas, versions, times past, beside JSON documents; good input and bad.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use support::{Answer, TestNode, start_forgetful_node, start_joining_to, start_node, start_pool, until};
use tokio::time::timeout;

const DOC: &str = "/v1/docs/notes/x";

async fn write(node: &TestNode, text: &str) -> Answer {
    node.call(Method::PUT, DOC).typed("text/plain", text.to_string()).send().await
}

async fn edit(node: &TestNode, version: &str, delta: Value) -> Answer {
    node.call(Method::PATCH, DOC).header("if-match", version).json(&delta.to_string()).send().await
}

async fn delta(node: &TestNode, path: &str) -> Value {
    node.call(Method::GET, path).header("accept", "application/json").send().await.expect(200).json()["ops"].clone()
}

fn time(answer: &Answer) -> u64 {
    answer.json()["stamp"].as_str().unwrap().split('@').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_text_is_written_read_and_edited() {
    let node = start_node().await;
    let created = write(&node, "Hello wörld 😀").await.expect(201);
    let read = node.get(DOC).await.expect(200);
    assert_eq!((read.text(), read.header("content-type")), ("Hello wörld 😀".into(), "text/plain; charset=utf-8"));
    assert_eq!(read.header("etag"), created.header("etag"));
    assert_eq!(delta(&node, DOC).await, json!([{"insert": "Hello wörld 😀"}]));
    let edited =
        edit(&node, read.header("etag"), json!({"ops": [{"retain": 6}, {"delete": 5}, {"insert": "you"}]})).await;
    edited.expect(200);
    let read = node.get(DOC).await.expect(200);
    assert_eq!(read.text(), "Hello you 😀");
    let bold = json!([{"retain": 5, "attributes": {"bold": true}}, {"retain": 5}, {"delete": 2}]);
    edit(&node, read.header("etag"), bold).await.expect(200);
    assert_eq!(
        delta(&node, DOC).await,
        json!([{"insert": "Hello", "attributes": {"bold": true}}, {"insert": " you "}])
    );
    let unchanged = node.call(Method::GET, DOC).header("if-none-match", node.get(DOC).await.header("etag"));
    unchanged.send().await.expect(304);
    node.delete(DOC).await.expect(200);
    node.get(DOC).await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn an_edit_of_a_text_that_has_changed_is_refused_with_the_text_as_it_is() {
    let node = start_node().await;
    let first = write(&node, "one").await.expect(201);
    let second = write(&node, "one two").await.expect(200);
    let refused = edit(&node, first.header("etag"), json!([{"insert": "x"}])).await.expect(412);
    assert_eq!(refused.json()["text"], "one two");
    assert_eq!(format!("\"{}\"", refused.json()["current"].as_str().unwrap()), second.header("etag"));
    let create = node.call(Method::PUT, DOC).header("if-none-match", "*").typed("text/plain", "anew");
    create.send().await.expect(412);
    let detail =
        node.call(Method::PATCH, DOC).json(r#"[{"insert":"x"}]"#).send().await.expect_problem(428, "version-needed");
    assert!(detail.contains("If-Match"), "{detail}");
    assert_eq!(node.get(DOC).await.text(), "one two");
}

#[tokio::test]
async fn a_delta_that_does_not_fit_changes_nothing() {
    let node = start_node().await;
    write(&node, "a😀b").await.expect(201);
    for (bad, word) in [
        (json!([{"retain": 5}]), "past the end"),
        (json!([{"retain": 1}, {"delete": 4}]), "past the end"),
        (json!([{"retain": 2}, {"insert": "x"}]), "within a character"),
        (json!([{"retain": 1}, {"delete": 1}]), "within a character"),
        (json!([{"retain": 0}]), "above 0"),
        (json!([{"retain": -1}]), "above 0"),
        (json!([{"retain": 1.5}]), "above 0"),
        (json!([{"insert": {"image": "x"}}]), "only text"),
        (json!([{"insert": "x", "delete": 1}]), "must be one of"),
        (json!([{}]), "must be one of"),
        (json!(["x"]), "no object"),
        (json!([{"retain": 1, "attributes": 5}]), "attributes"),
    ] {
        let detail = edit(&node, "*", bad.clone()).await.expect_problem(400, "bad-delta");
        assert!(detail.contains(word), "{bad}: {detail}");
    }
    assert_eq!(node.get(DOC).await.text(), "a😀b");
    let invalid = node.call(Method::PUT, DOC).typed("text/plain", vec![0xff_u8]).send().await;
    invalid.expect_problem(400, "bad-request");
    let keyed = node.call(Method::PUT, DOC).header("idempotency-key", "k").typed("text/plain", "x").send().await;
    keyed.expect_problem(400, "bad-header");
    write(&node, &"h".repeat((2 << 20) + 1)).await.expect_problem(413, "too-large");
    assert_eq!(node.get(DOC).await.text(), "a😀b");
}

#[tokio::test]
async fn texts_and_json_documents_lie_side_by_side() {
    let node = start_node().await;
    write(&node, "text").await.expect(201);
    node.put("/v1/docs/notes/y", r#"{"n":1}"#).await.expect(201);
    let listed = node.get("/v1/docs/notes").await.expect(200).json();
    assert_eq!((&listed["docs"][0]["value"], &listed["docs"][0]["text"]), (&Value::Null, &json!(true)));
    assert_eq!((&listed["docs"][1]["value"], &listed["docs"][1]["text"]), (&json!({"n": 1}), &Value::Null));
    let filtered = node.get("/v1/docs/notes?filter=%7B%22n%22%3A1%7D").await.expect(200).json();
    assert_eq!(filtered["docs"].as_array().unwrap().len(), 1);
    let detail = node.merge(DOC, r#"{"n":1}"#).await.expect_problem(409, "patch-failed");
    assert!(detail.contains("is a text"), "{detail}");
    // What is put in its place replaces it, both ways.
    node.put(DOC, r#"{"n":2}"#).await.expect(200);
    assert_eq!(node.get(DOC).await.text(), r#"{"n":2}"#);
    edit(&node, "*", json!([{"insert": "x"}])).await.expect(200);
    assert_eq!(node.get(DOC).await.text(), r#"[{"insert":"x"}]"#, "to a JSON document a list is a merge patch");
    write(&node, "a text again").await.expect(200);
    assert_eq!(node.get(DOC).await.text(), "a text again");
}

#[tokio::test]
async fn a_text_has_a_past() {
    let node = start_node().await;
    let first = write(&node, "one").await.expect(201);
    let second = write(&node, "one two").await.expect(200);
    let at = |time: u64| format!("{DOC}?at={time}");
    assert_eq!(node.get(&at(time(&first))).await.expect(200).text(), "one");
    assert_eq!(node.get(&at(time(&second))).await.expect(200).text(), "one two");
    node.get(&at(time(&first) - 1)).await.expect_problem(404, "not-found");
    assert_eq!(node.get(&format!("{DOC}?view=final")).await.expect(200).text(), "one two");
    let history = node.get(&format!("{DOC}/history")).await.expect(200).json();
    let commands: Vec<bool> =
        history["ops"].as_array().unwrap().iter().map(|op| op["commands"][0]["text"]["update"].is_string()).collect();
    assert_eq!(commands, [true, true]);
    let feed = node.get("/v1/changes?view=final").await.expect(200).json();
    assert_eq!(feed["changes"][1]["text"], true);
}

#[tokio::test]
async fn two_sides_of_a_partition_edit_one_text_and_both_edits_stay() {
    let [a, b] = start_pool().await;
    let created = write(&a, "[]").await.expect(201);
    let version = created.header("etag").to_string();
    until(&b.node, |replica| replica.state().get("notes", "x").is_some()).await;
    for node in [&a, &b] {
        node.post("/v1/pool/links", r#"{"cut":true}"#).await.expect(200);
    }
    edit(&a, &version, json!([{"retain": 1}, {"insert": "left"}])).await.expect(200);
    edit(&b, &version, json!([{"retain": 1}, {"insert": "right"}])).await.expect(200);
    for node in [&a, &b] {
        node.post("/v1/pool/links", r#"{"cut":false}"#).await.expect(200);
    }
    for node in [&a, &b] {
        until(&node.node, |replica| replica.state().source("notes", "x").is_some_and(|source| source.ops.len() == 3))
            .await;
    }
    let (one, other) = (a.get(DOC).await, b.get(DOC).await);
    assert_eq!((one.text(), one.header("etag")), (other.text(), other.header("etag")));
    assert!(one.text().contains("left") && one.text().contains("right") && one.text().len() == 11, "{}", one.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_whose_client_goes_away_is_an_operation_or_nothing() {
    let [a, b] = start_pool().await;
    let random = |seed| -> String {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..100_000).map(|_| rng.alphanumeric()).collect()
    };
    write(&a, &random(0)).await.expect(201);
    for seed in 1..24 {
        // It takes a while: some of these clients go while the edit is worked on.
        let patience = Duration::from_millis(2 * seed);
        drop(timeout(patience, write(&a, &random(seed))).await);
        let read = a.get(DOC).await.expect(200);
        let longer = format!("{}{seed}", read.text());
        let written = write(&a, &longer).await.expect(200);
        let elsewhere =
            b.call(Method::GET, DOC).header("lamplight-session", written.session()).send().await.expect(200);
        assert!(elsewhere.text() == longer, "round {seed}: what was acknowledged is not there on the other node");
    }
}

#[tokio::test]
async fn an_edit_of_a_text_that_the_other_side_deleted_is_rejected_and_says_so() {
    let [a, b] = start_pool().await;
    let created = write(&a, "text").await.expect(201);
    let version = created.header("etag").to_string();
    until(&b.node, |replica| replica.state().get("notes", "x").is_some()).await;
    for node in [&a, &b] {
        node.post("/v1/pool/links", r#"{"cut":true}"#).await.expect(200);
    }
    a.delete(DOC).await.expect(200);
    // Another op first, so that the edit comes behind the deletion in the order.
    b.put("/v1/docs/notes/other", "1").await.expect(201);
    let edited = edit(&b, &version, json!([{"insert": "more "}])).await.expect(200);
    for node in [&a, &b] {
        node.post("/v1/pool/links", r#"{"cut":false}"#).await.expect(200);
    }
    let op = edited.json()["op"].as_str().unwrap().to_string();
    let receipt = b.get(&format!("/v1/ops/{op}?wait=final")).await.expect(200).json();
    assert_eq!(receipt["verdict"], "rejected", "{receipt}");
    assert!(receipt["reason"].as_str().unwrap().contains("deleted"), "{receipt}");
    for node in [&a, &b] {
        node.get(DOC).await.expect_problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_newcomer_gets_the_texts_of_a_pool_that_has_forgotten_their_edits() {
    let node = start_forgetful_node().await;
    write(&node, "0").await.expect(201);
    for n in 1..200 {
        write(&node, &format!("{n} edits of this text")).await.expect(200);
    }
    node.forgotten().await;
    assert_eq!(node.get(DOC).await.expect(200).text(), "199 edits of this text");
    let newcomer = start_joining_to(&node).await;
    let (one, other) = (node.get(DOC).await.expect(200), newcomer.get(DOC).await.expect(200));
    assert_eq!((one.text(), one.header("etag")), (other.text(), other.header("etag")));
    edit(&newcomer, other.header("etag"), json!([{"insert": "still "}])).await.expect(200);
    assert_eq!(newcomer.get(DOC).await.text(), "still 199 edits of this text");
}

#[tokio::test]
async fn a_text_of_many_attributes_over_many_pieces_is_not_told_as_a_delta() {
    const ATTRIBUTES: usize = 6_000;
    let node = start_node().await;
    let created = write(&node, &"ab".repeat(ATTRIBUTES)).await.expect(201);
    let all: serde_json::Map<String, Value> = (0..ATTRIBUTES).map(|at| (format!("a{at}"), json!(1))).collect();
    let all = json!([{"retain": 2 * ATTRIBUTES, "attributes": all}]);
    let marked = edit(&node, created.header("etag"), all).await.expect(200);
    // The same on six thousand pieces takes six thousand times six thousand marks to walk over.
    let pieces: Vec<Value> =
        (0..ATTRIBUTES).flat_map(|_| [json!({"retain": 1, "attributes": {"odd": 1}}), json!({"retain": 1})]).collect();
    let detail = edit(&node, marked.header("etag"), json!(pieces)).await.expect_problem(422, "too-costly");
    assert!(detail.contains("several"), "{detail}");
    // An editor's update makes such a text all the same; here, several deltas.
    let mut version = marked.header("etag").to_string();
    for chunk in 0..4 {
        let skipped = [json!({"retain": 1_000 * chunk + 1})];
        let steps: Vec<Value> = skipped.into_iter().chain(pieces[..100].iter().cloned()).collect();
        version = edit(&node, &version, json!(steps)).await.expect(200).header("etag").to_string();
    }
    let read = node.call(Method::GET, DOC).header("accept", "application/json").send().await;
    let detail = read.expect_problem(413, "too-large");
    assert!(detail.contains("text/plain"), "{detail}");
    assert_eq!(node.get(DOC).await.expect(200).text(), "ab".repeat(ATTRIBUTES));
}

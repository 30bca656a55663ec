//! One document: PUT, PATCH, DELETE, POST, GET, with conditions and idempotency keys.

use hyper::Method;
use serde_json::json;

use crate::support::{TestNode, start_joining, start_node};

const DOC: &str = "/v1/docs/notes/a";

async fn version(node: &TestNode, path: &str) -> String {
    node.get(path).await.expect(200).header("etag").trim_matches('"').to_string()
}

#[tokio::test]
async fn put_creates_with_201_and_replaces_with_200_and_each_time_gives_a_receipt() {
    let node = start_node().await;
    let created = node.put(DOC, r#"{"b":1.0, "a":[]}"#).await.expect(201);
    let receipt = created.json();
    let version = created.header("etag").trim_matches('"');
    assert_eq!(version.len(), 32);
    let only = json!({ "collection": "notes", "id": "a", "version": version });
    assert_eq!(receipt["docs"], json!([only]));
    assert_eq!(
        (&receipt["collection"], &receipt["id"], &receipt["version"]),
        (&only["collection"], &only["id"], &only["version"])
    );
    assert_eq!((&receipt["status"], &receipt["verdict"]), (&json!("final"), &json!("applied")));
    assert_eq!(receipt["op"], format!("{}.2", node.node.id()));
    assert_eq!(receipt["stamp"], format!("2@{}", node.node.id()));
    let replaced = node.put(DOC, "7").await.expect(200);
    assert_ne!(replaced.header("etag"), created.header("etag"));
    assert_eq!(node.get(DOC).await.text(), "7");
}

#[tokio::test]
async fn get_gives_the_canonical_document_with_its_etag_stamp_and_status() {
    let node = start_node().await;
    let receipt = node.put(DOC, r#"{"b":1.0, "a":[]}"#).await.json();
    let got = node.get(DOC).await.expect(200);
    assert_eq!(got.text(), r#"{"a":[],"b":1}"#);
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.header("etag"), format!("\"{}\"", receipt["version"].as_str().unwrap()));
    assert_eq!(got.header("lamplight-stamp"), receipt["stamp"]);
    assert_eq!(got.header("lamplight-status"), "final");
}

#[tokio::test]
async fn every_answer_names_the_node_its_clock_and_a_session() {
    let node = start_node().await;
    node.put(DOC, "1").await.expect(201);
    for (path, status) in [(DOC, 200), ("/v1/docs/notes/b", 404), ("/nowhere", 404), ("/v1/collections", 200)] {
        let answer = node.get(path).await.expect(status);
        assert_eq!(answer.header("lamplight-node"), node.node.id().to_string(), "{path}");
        assert_eq!(answer.header("lamplight-clock"), "2", "{path}");
        assert!(!answer.session().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn get_with_the_version_held_answers_304_without_a_body() {
    let node = start_node().await;
    let put = node.put(DOC, "1").await;
    let etag = put.header("etag");
    for held in [etag.to_string(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".into()] {
        let answer = node.call(Method::GET, DOC).header("if-none-match", &held).send().await.expect(304);
        assert_eq!((answer.text().as_str(), answer.header("etag")), ("", etag), "{held}");
    }
    let other = node.call(Method::GET, DOC).header("if-none-match", "\"other\"").send().await;
    assert_eq!(other.expect(200).text(), "1");
}

#[tokio::test]
async fn head_gives_what_get_gives_without_the_body() {
    let node = start_node().await;
    let put = node.put(DOC, "[1]").await;
    let head = node.call(Method::HEAD, DOC).send().await.expect(200);
    assert_eq!((head.header("etag"), head.header("content-length"), &*head.text()), (put.header("etag"), "3", ""));
}

#[tokio::test]
async fn an_absent_document_answers_404_to_get_json_patch_and_delete_and_nothing_changes() {
    let node = start_node().await;
    let ops = node.ops().await;
    node.get(DOC).await.expect_problem(404, "not-found");
    node.patch(DOC, r#"[{"op":"add","path":"","value":1}]"#).await.expect_problem(404, "not-found");
    node.delete(DOC).await.expect_problem(404, "not-found");
    assert_eq!(node.ops().await, ops);
}

#[tokio::test]
async fn a_merge_patch_replaces_and_removes_members_under_either_content_type() {
    let node = start_node().await;
    node.put(DOC, r#"{"a":1,"b":{"c":2,"d":3}}"#).await.expect(201);
    let receipt = node.merge(DOC, r#"{"a":null,"b":{"c":4}}"#).await.expect(200);
    assert_eq!(node.get(DOC).await.text(), r#"{"b":{"c":4,"d":3}}"#);
    assert_eq!(receipt.json()["version"], version(&node, DOC).await);
    node.call(Method::PATCH, DOC).json(r#"{"e":5}"#).send().await.expect(200);
    assert_eq!(node.get(DOC).await.text(), r#"{"b":{"c":4,"d":3},"e":5}"#);
    let typed = node.call(Method::PATCH, DOC).typed("Application/Merge-Patch+JSON; charset=utf-8", r#"{"b":null}"#);
    typed.send().await.expect(200);
    assert_eq!(node.get(DOC).await.text(), r#"{"e":5}"#);
}

#[tokio::test]
async fn a_json_patch_takes_every_operation_of_rfc_6902_and_increment() {
    let node = start_node().await;
    node.put(DOC, r#"{"a":1,"b":[1,2],"c":{"d":"x"},"n":5}"#).await.expect(201);
    let steps = r#"[{"op":"test","path":"/a","value":1},{"op":"add","path":"/b/-","value":3},
        {"op":"remove","path":"/b/0"},{"op":"replace","path":"/a","value":"y"},{"op":"move","from":"/c/d","path":"/e"},
        {"op":"copy","from":"/e","path":"/f"},{"op":"increment","path":"/n","by":-2}]"#;
    node.patch(DOC, steps).await.expect(200);
    assert_eq!(node.get(DOC).await.text(), r#"{"a":"y","b":[2,3],"c":{},"e":"x","f":"x","n":3}"#);
}

#[tokio::test]
async fn a_json_patch_of_which_one_step_fails_answers_409_and_changes_nothing() {
    let node = start_node().await;
    node.put(DOC, r#"{"a":1,"s":"x"}"#).await.expect(201);
    let ops = node.ops().await;
    for failing in [
        r#"{"op":"test","path":"/a","value":2}"#,
        r#"{"op":"remove","path":"/none"}"#,
        r#"{"op":"replace","path":"/none/deeper","value":1}"#,
        r#"{"op":"increment","path":"/s","by":1}"#,
        r#"{"op":"move","from":"/none","path":"/a"}"#,
        r#"{"op":"remove","path":""}"#,
    ] {
        let steps = format!(r#"[{{"op":"replace","path":"/a","value":9}},{failing}]"#);
        let detail = node.patch(DOC, &steps).await.expect_problem(409, "patch-failed");
        assert!(detail.contains("step 1"), "{detail}");
    }
    assert_eq!(node.get(DOC).await.text(), r#"{"a":1,"s":"x"}"#);
    assert_eq!(node.ops().await, ops);
}

#[tokio::test]
async fn delete_removes_the_document_and_its_receipt_says_so() {
    let node = start_node().await;
    node.put(DOC, "1").await.expect(201);
    let receipt = node.delete(DOC).await.expect(200).json();
    assert_eq!(receipt["docs"], json!([{ "collection": "notes", "id": "a", "deleted": true }]));
    assert_eq!((&receipt["id"], receipt.get("version")), (&json!("a"), None));
    node.get(DOC).await.expect_problem(404, "not-found");
    node.put(DOC, "2").await.expect(201);
}

#[tokio::test]
async fn if_match_lets_a_write_through_only_on_the_version_it_names() {
    let node = start_node().await;
    let first = node.put(DOC, r#"{"n":1}"#).await.expect(201);
    let second = node.put(DOC, r#"{"n":2}"#).await.expect(200);
    let (stale, current) = (first.header("etag"), second.header("etag"));
    let ops = node.ops().await;
    for call in [
        node.call(Method::PUT, DOC).json("3"),
        node.call(Method::PATCH, DOC).json(r#"{"n":3}"#),
        node.call(Method::PATCH, DOC).typed("application/json-patch+json", r#"[{"op":"remove","path":"/n"}]"#),
        node.call(Method::DELETE, DOC),
    ] {
        let refused = call.header("if-match", stale).send().await;
        refused.expect_problem(412, "version-mismatch");
        assert_eq!(refused.json()["current"], current.trim_matches('"'));
    }
    assert_eq!(node.ops().await, ops);
    let third = node.call(Method::PUT, DOC).json(r#"{"n":3}"#).header("if-match", current).send().await.expect(200);
    let fourth = node.call(Method::PATCH, DOC).json(r#"{"n":4}"#).header("if-match", third.header("etag")).send().await;
    let fourth = fourth.expect(200);
    node.call(Method::DELETE, DOC).header("if-match", fourth.header("etag")).send().await.expect(200);
}

#[tokio::test]
async fn if_match_star_only_replaces_and_if_none_match_star_only_creates() {
    let node = start_node().await;
    let absent = node.call(Method::PUT, DOC).json("1").header("if-match", "*").send().await;
    absent.expect_problem(412, "version-mismatch");
    assert_eq!(absent.json()["current"], json!(null));
    node.get(DOC).await.expect_problem(404, "not-found");
    node.call(Method::PUT, DOC).json("1").header("if-none-match", "*").send().await.expect(201);
    let present = node.call(Method::PUT, DOC).json("2").header("if-none-match", "*").send().await;
    let detail = present.expect_problem(412, "version-mismatch");
    assert!(detail.contains("exists already") && !detail.contains("version you named"), "{detail}");
    assert_eq!(present.json()["current"], version(&node, DOC).await);
    node.call(Method::PUT, DOC).json("3").header("if-match", "*").send().await.expect(200);
    assert_eq!(node.get(DOC).await.text(), "3");
}

#[tokio::test]
async fn post_creates_under_a_new_uuidv7_and_says_where() {
    let node = start_node().await;
    let first = node.post("/v1/docs/notes", r#"{"n":1}"#).await.expect(201);
    let second = node.post("/v1/docs/notes", r#"{"n":2}"#).await.expect(201);
    let id = |answer: &crate::support::Answer| answer.json()["id"].as_str().unwrap().to_string();
    assert_eq!(first.header("location"), format!("/v1/docs/notes/{}", id(&first)));
    assert_eq!(node.get(first.header("location")).await.text(), r#"{"n":1}"#);
    assert_eq!(uuid::Uuid::parse_str(&id(&first)).unwrap().get_version_num(), 7);
    assert_ne!(id(&first), id(&second));
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_first_receipt_and_with_another_body_422() {
    let node = start_node().await;
    let put = |body: &'static str| node.call(Method::PUT, DOC).json(body).header("idempotency-key", "k-1").send();
    let first = put("1").await.expect(201).json();
    node.put(DOC, "2").await.expect(200);
    let again = put("1").await.expect(200).json();
    assert_eq!((&again["op"], &again["stamp"]), (&first["op"], &first["stamp"]));
    assert_eq!(node.get(DOC).await.text(), "2", "the repeated request is no new write");
    let ops = node.ops().await;
    let other = put("3").await;
    other.expect_problem(422, "key-reused");
    assert_eq!(other.json()["op"], first["op"]);
    let other_document = node.call(Method::PUT, "/v1/docs/notes/b").json("1").header("idempotency-key", "k-1");
    other_document.send().await.expect_problem(422, "key-reused");
    assert_eq!(node.ops().await, ops);
}

#[tokio::test]
async fn a_repeated_post_with_a_key_creates_one_document() {
    let node = start_node().await;
    let post = || node.call(Method::POST, "/v1/docs/notes").json("1").header("idempotency-key", "k").send();
    let (first, second) = (post().await.expect(201), post().await.expect(201));
    assert_eq!(first.json(), second.json());
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!(node.get("/v1/collections").await.json()["collections"], json!([{ "name": "notes", "docs": 1 }]));
}

#[tokio::test]
async fn a_repeated_delete_and_patch_with_a_key_give_their_receipt_though_the_document_is_gone() {
    let node = start_node().await;
    node.put(DOC, r#"{"n":1}"#).await.expect(201);
    let patch = || node.call(Method::PATCH, DOC).json(r#"{"n":2}"#).header("idempotency-key", "p").send();
    let delete = || node.call(Method::DELETE, DOC).header("idempotency-key", "d").send();
    let patched = patch().await.expect(200).json();
    let deleted = delete().await.expect(200).json();
    assert_eq!(delete().await.expect(200).json(), deleted);
    assert_eq!(patch().await.expect(200).json()["op"], patched["op"]);
}

#[tokio::test]
async fn ids_may_hold_any_character_but_controls_when_percent_encoded() {
    let node = start_node().await;
    for (encoded, id) in [("a%2Fb", "a/b"), ("%C3%A9%20%25", "é %"), ("...", "..."), ("%22%3F%23", "\"?#"), ("+", "+")]
    {
        let path = format!("/v1/docs/notes/{encoded}");
        assert_eq!(node.put(&path, "1").await.expect(201).json()["id"], id);
        node.get(&path).await.expect(200);
    }
    let longest = format!("/v1/docs/notes/{}", "x".repeat(256));
    node.put(&longest, "1").await.expect(201);
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_answers_405_and_names_those_it_takes() {
    let node = start_node().await;
    let refused = node.post(DOC, "1").await;
    refused.expect_problem(405, "method-not-allowed");
    for method in ["PUT", "GET", "PATCH", "DELETE"] {
        assert!(refused.header("allow").contains(method), "{method}");
    }
    node.delete("/v1/docs/notes").await.expect_problem(405, "method-not-allowed");
    node.get("/v1/tx").await.expect_problem(405, "method-not-allowed");
    node.get("/v1/docs").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_node_without_a_pool_answers_503_to_reads_and_writes() {
    let node = start_joining().await;
    for answer in [
        node.get(DOC).await,
        node.get("/v1/docs/notes").await,
        node.get("/v1/collections").await,
        node.get(&format!("/v1/ops/{}.1", node.node.id())).await,
        node.put(DOC, "1").await,
        node.delete(DOC).await,
        node.merge(DOC, "{}").await,
        node.post("/v1/docs/notes", "1").await,
        node.post("/v1/tx", r#"{"commands":[{"delete":{"collection":"notes","id":"a"}}]}"#).await,
    ] {
        answer.expect_problem(503, "not-ready");
        assert_eq!(answer.header("retry-after"), "1");
    }
}

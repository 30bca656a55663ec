//! Conditional requests (RFC 9110, section 13), also as they come back through a proxy that compresses.

use hyper::Method;
use serde_json::json;

use crate::support::{TestNode, start_node};

const DOC: &str = "/v1/docs/notes/a";
const FOREIGN: &str = "\"33a64df551425fcc55e4d42a148795d9f25f89d4\"";

/// A document in its second version: the entity tags of both.
async fn twice_written(node: &TestNode) -> (String, String) {
    let first = node.put(DOC, r#"{"n":1}"#).await.expect(201);
    let second = node.put(DOC, r#"{"n":2}"#).await.expect(200);
    (first.header("etag").to_string(), second.header("etag").to_string())
}

/// The tag as a proxy makes it when it compresses: nginx weakens it, Apache and Caddy add the coding.
fn compressed(tag: &str) -> [String; 5] {
    let version = tag.trim_matches('"');
    [
        format!("W/\"{version}\""),
        format!("\"{version}-gzip\""),
        format!("\"{version}--gzip\""),
        format!("W/\"{version}-br\""),
        format!("\"{version}-zstd\""),
    ]
}

#[tokio::test]
async fn a_tag_that_a_compressing_proxy_has_changed_names_the_same_version() {
    let node = start_node().await;
    let (stale, mut current) = twice_written(&node).await;
    for tag in compressed(&stale) {
        let put = node.call(Method::PUT, DOC).json("3").header("if-match", &tag).send().await;
        put.expect_problem(412, "version-mismatch");
        node.call(Method::GET, DOC).header("if-none-match", &tag).send().await.expect(200);
    }
    for index in 0..compressed(&current).len() {
        let tag = &compressed(&current)[index];
        node.call(Method::GET, DOC).header("if-none-match", tag).send().await.expect(304);
        let put = node.call(Method::PUT, DOC).json(&format!(r#"{{"n":{}}}"#, index + 3)).header("if-match", tag);
        current = put.send().await.expect(200).header("etag").to_string();
    }
    let weak = format!("W/{current}");
    node.call(Method::DELETE, DOC).header("if-match", weak).send().await.expect(200);
}

#[tokio::test]
async fn if_match_takes_a_list_of_versions() {
    let node = start_node().await;
    let (stale, current) = twice_written(&node).await;
    let list = format!("{FOREIGN}, {stale} ,W/{current}");
    let third = node.call(Method::PATCH, DOC).json(r#"{"n":3}"#).header("if-match", list).send().await.expect(200);
    let none = format!("{FOREIGN}, {stale}");
    let refused = node.call(Method::PUT, DOC).json("4").header("if-match", none).send().await;
    refused.expect_problem(412, "version-mismatch");
    assert_eq!(refused.json()["current"], third.header("etag").trim_matches('"'));
    // In several lines, as some libraries send lists.
    let lines =
        node.call(Method::PUT, DOC).json("4").header("if-match", stale).header("if-match", third.header("etag"));
    lines.send().await.expect(200);
}

#[tokio::test]
async fn a_tag_of_another_server_matches_nothing() {
    let node = start_node().await;
    twice_written(&node).await;
    let ops = node.ops().await;
    let refused = node.call(Method::PUT, DOC).json("3").header("if-match", FOREIGN).send().await;
    refused.expect_problem(412, "version-mismatch");
    node.call(Method::DELETE, DOC).header("if-match", FOREIGN).send().await.expect_problem(412, "version-mismatch");
    for wrong in ["abc", "\"abc", "W/abc", "\"a\" \"b\"", "", "\"a\"b", "*, \"a\""] {
        node.call(Method::PUT, DOC).json("3").header("if-match", wrong).send().await.expect_problem(400, "bad-header");
    }
    assert_eq!(node.ops().await, ops);
}

#[tokio::test]
async fn a_write_with_if_none_match_holds_unless_the_document_is_in_one_of_the_versions() {
    let node = start_node().await;
    let (stale, current) = twice_written(&node).await;
    let put = |tags: String| node.call(Method::PUT, DOC).json(r#"{"n":3}"#).header("if-none-match", tags).send();
    let refused = put(format!("{stale}, W/{current}")).await;
    let detail = refused.expect_problem(412, "version-mismatch");
    assert!(detail.contains("If-None-Match"), "{detail}");
    put(format!("{stale}, {FOREIGN}")).await.expect(200);
    node.delete(DOC).await.expect(200);
    put(format!("{stale}, {current}")).await.expect(201);
}

#[tokio::test]
async fn both_conditions_hold_for_a_text_too() {
    let node = start_node().await;
    let first = node.call(Method::PUT, DOC).typed("text/plain", "a").send().await.expect(201);
    let current = first.header("etag").to_string();
    let both = |method: Method, media: &'static str, body: &'static str, matching: &str| {
        let call = node.call(method, DOC).typed(media, body).header("if-none-match", FOREIGN);
        call.header("if-match", matching).send()
    };
    let stale = "\"00000000000000000000000000000001\"";
    both(Method::PUT, "text/plain", "b", stale).await.expect_problem(412, "version-mismatch");
    let delta = r#"[{"insert":"b"}]"#;
    both(Method::PATCH, "application/json", delta, stale).await.expect_problem(412, "version-mismatch");
    let unnamed = node.call(Method::PATCH, DOC).typed("application/json", delta).header("if-none-match", FOREIGN);
    unnamed.send().await.expect_problem(428, "version-needed");
    both(Method::PUT, "text/plain", "c", &current).await.expect(200);
    assert_eq!(node.get(DOC).await.text(), "c");
}

#[tokio::test]
async fn a_read_with_if_match_is_answered_in_that_version_only() {
    let node = start_node().await;
    let (stale, current) = twice_written(&node).await;
    let get = |name, value: String| node.call(Method::GET, DOC).header(name, value).send();
    get("if-match", stale.clone()).await.expect_problem(412, "version-mismatch");
    get("if-match", format!("{stale}, {current}")).await.expect(200);
    get("if-match", "*".into()).await.expect(200);
    // If-Match comes before If-None-Match (RFC 9110, section 13.2.2).
    let both = |first: String, second: String| {
        node.call(Method::GET, DOC).header("if-match", first).header("if-none-match", second).send()
    };
    both(stale.clone(), current.clone()).await.expect(412);
    both(current.clone(), current.clone()).await.expect(304);
    let missing = node.call(Method::GET, "/v1/docs/notes/none").header("if-match", "*").send().await;
    missing.expect_problem(404, "not-found");
    // The node has no date for a document, so it takes no notice of dates (section 13.1.4).
    let dated = node.call(Method::GET, DOC).header("if-modified-since", "Sat, 29 Oct 2094 19:43:31 GMT").send().await;
    assert_eq!(dated.expect(200).header("last-modified"), "");
    // A tag may hold a comma, also one that a list would end at.
    get("if-none-match", format!("\"a,{}\"", current.trim_matches('"'))).await.expect(200);
}

#[tokio::test]
async fn a_key_gives_the_first_receipt_whatever_became_of_the_conditions() {
    let node = start_node().await;
    let (stale, current) = twice_written(&node).await;
    let list = format!("{stale}, {current}");
    let put = || {
        let put = node.call(Method::PUT, DOC).json("3").header("if-match", &list);
        put.header("idempotency-key", "k").send()
    };
    let first = put().await.expect(200).json();
    assert_eq!(put().await.expect(200).json()["op"], first["op"]);
    let other = node.call(Method::PUT, DOC).json("4").header("if-match", &list).header("idempotency-key", "k");
    other.send().await.expect_problem(422, "key-reused");
}

#[tokio::test]
async fn a_new_document_and_a_transaction_have_no_conditions_in_headers() {
    let node = start_node().await;
    for path in ["/v1/docs/notes", "/v1/tx"] {
        for name in ["if-match", "if-none-match"] {
            let call = node.call(Method::POST, path).json(r#"{"commands":[]}"#).header(name, "*");
            call.send().await.expect_problem(400, "bad-header");
        }
    }
    assert_eq!(node.get("/v1/docs/notes").await.json()["docs"], json!([]));
}

#[tokio::test]
async fn a_merge_patch_of_an_absent_document_creates_it_by_every_way() {
    let node = start_node().await;
    let expected = r#"{"a":{"c":1}}"#;
    let merge = r#"{"a":{"b":null,"c":1}}"#;
    let created = node.merge(DOC, merge).await.expect(201);
    assert_eq!(created.json()["version"], created.header("etag").trim_matches('"'));
    let command = format!(r#"{{"commands":[{{"merge":{{"collection":"notes","id":"tx","value":{merge}}}}}]}}"#);
    node.post("/v1/tx", &command).await.expect(200);
    for path in [DOC, "/v1/docs/notes/tx"] {
        assert_eq!(node.get(path).await.text(), expected);
    }
    node.merge(DOC, r#"{"a":null}"#).await.expect(200);
    // Who wants it there says so.
    let gone = node.call(Method::PATCH, "/v1/docs/notes/none").json("{}").header("if-match", "*").send().await;
    gone.expect_problem(412, "version-mismatch");
    let delta = node.call(Method::PATCH, "/v1/docs/notes/none").json(r#"[{"insert":"x"}]"#).send().await;
    delta.expect_problem(404, "not-found");
    node.patch("/v1/docs/notes/none", r#"[{"op":"add","path":"","value":1}]"#).await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_merge_that_created_a_document_is_the_same_when_it_is_sent_again() {
    let node = start_node().await;
    let merge = |body: &'static str| node.call(Method::PATCH, DOC).json(body).header("idempotency-key", "k").send();
    let first = merge(r#"{"n":1}"#).await.expect(201).json();
    assert_eq!(merge(r#"{"n":1}"#).await.expect(200).json()["op"], first["op"]);
    merge(r#"{"n":2}"#).await.expect_problem(422, "key-reused");
}

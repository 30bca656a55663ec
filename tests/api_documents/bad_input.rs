//! Bad input gets a clear problem and changes nothing.

use hyper::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Answer, TestNode, start_node};

const DOC: &str = "/v1/docs/c/a";

/// A node with one document that nothing in these tests may change.
async fn guarded() -> TestNode {
    let node = start_node().await;
    node.put(DOC, r#"{"a":1}"#).await.expect(201);
    node
}

async fn check_unchanged(node: &TestNode) {
    assert_eq!(node.get(DOC).await.expect(200).text(), r#"{"a":1}"#);
    assert_eq!(node.get("/v1/collections").await.text(), r#"{"collections":[{"name":"c","docs":1}],"next":null}"#);
    assert_eq!(node.ops().await, 2, "the founding and the document");
}

/// Sends the body to every call that takes a JSON document or patch.
async fn everywhere(node: &TestNode, json: &str) -> Vec<Answer> {
    let tx = format!(r#"{{"commands":[{{"put":{{"collection":"c","id":"a","value":{json}}}}}]}}"#);
    vec![
        node.put(DOC, json).await,
        node.merge(DOC, json).await,
        node.patch(DOC, &format!(r#"[{{"op":"add","path":"/b","value":{json}}}]"#)).await,
        node.post("/v1/docs/c", json).await,
        node.post("/v1/tx", &tx).await,
    ]
}

#[tokio::test]
async fn json_that_cannot_be_read_or_could_be_read_in_two_ways_is_refused() {
    let node = guarded().await;
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let very_deep = "[".repeat(1 << 20);
    for (json, slug) in [
        ("{", "malformed-json"),
        ("{'a':1}", "malformed-json"),
        ("[1,]", "malformed-json"),
        ("01", "malformed-json"),
        ("NaN", "malformed-json"),
        (r#""\ud800""#, "malformed-json"),
        ("\"\u{1}\"", "malformed-json"),
        (r#"{"a":1,"a":2}"#, "duplicate-key"),
        (r#"{"x":[{"a":1,"\u0061":2}]}"#, "duplicate-key"),
        ("18446744073709551617", "inexact-number"),
        ("-9223372036854775809", "inexact-number"),
        ("0.12345678901234567890", "inexact-number"),
        ("1e999", "inexact-number"),
        ("1e-999", "inexact-number"),
        (&deep, "too-deep"),
        (&very_deep, "too-deep"),
    ] {
        for answer in everywhere(&node, json).await {
            answer.expect_problem(400, slug);
        }
    }
    // A byte-order mark is no part of a body where one begins, and no white space elsewhere (RFC 8259, section 8.1).
    for json in ["", " ", "1 2", "\u{feff}", "\u{feff}\u{feff}1", "1\u{feff}"] {
        for call in [node.put(DOC, json).await, node.post("/v1/docs/c", json).await, node.post("/v1/tx", json).await] {
            call.expect_problem(400, "malformed-json");
        }
    }
    let latin = node.call(Method::PUT, DOC).typed("application/json", b"\"\xe9\"".to_vec()).send().await;
    latin.expect_problem(400, "malformed-json");
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_malformed_json_patch_is_refused() {
    let node = guarded().await;
    for patch in [
        "{}",
        "1",
        "[1]",
        r#"[{"path":"/a"}]"#,
        r#"[{"op":"frob","path":"/a"}]"#,
        r#"[{"op":"add","path":"/a"}]"#,
        r#"[{"op":"add","path":"a","value":1}]"#,
        r#"[{"op":"add","path":"/~2","value":1}]"#,
        r#"[{"op":"move","path":"/a"}]"#,
        r#"[{"op":"move","from":"/a","path":"/a/b"}]"#,
        r#"[{"op":"increment","path":"/a","by":"1"}]"#,
    ] {
        node.patch(DOC, patch).await.expect_problem(400, "bad-patch");
        let tx = format!(r#"{{"commands":[{{"patch":{{"collection":"c","id":"a","patch":{patch}}}}}]}}"#);
        let detail = node.post("/v1/tx", &tx).await.expect_problem(400, "bad-patch");
        assert!(detail.starts_with("commands[0].patch: "), "{detail}");
    }
    let steps = vec![r#"{"op":"test","path":"/a","value":1}"#; 1001].join(",");
    node.patch(DOC, &format!("[{steps}]")).await.expect_problem(400, "bad-patch");
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_content_type_that_a_call_does_not_take_answers_415() {
    let node = guarded().await;
    for (method, path, media) in [
        (Method::PUT, DOC, "text/html"),
        (Method::PUT, DOC, "application/merge-patch+json"),
        (Method::PUT, DOC, "application/x-ndjson"),
        (Method::PATCH, DOC, "text/plain"),
        (Method::PATCH, DOC, "application/x-ndjson"),
        (Method::POST, "/v1/docs/c", "application/xml"),
        (Method::POST, "/v1/tx", "application/x-ndjson"),
        (Method::POST, "/v1/tx", "multipart/form-data; boundary=x"),
    ] {
        node.call(method, path).typed(media, "{}").send().await.expect_problem(415, "unsupported-type");
    }
    node.call(Method::PATCH, DOC).send().await.expect_problem(415, "unsupported-type");
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_transaction_with_unknown_or_missing_fields_is_refused_and_says_where() {
    let node = guarded().await;
    for (tx, slug, words) in [
        (r#"{"comands":[]}"#, "unknown-field", "\"comands\""),
        (r#"{"commands":[{"put":{"collection":"c","id":"a","value":2,"if":1}}]}"#, "unknown-field", "\"if\""),
        (r#"{"commands":[{"put":{"collection":"c","id":"a","value":2}},{"drop":{}}]}"#, "unknown-field", "commands[1]"),
        (r#"{"guards":[{"version":{"collection":"c","id":"a","etag":"x"}}],"commands":[]}"#, "unknown-field", "etag"),
        (
            r#"{"commands":[{"put":{"collection":"c","id":"a","value":2},"delete":{"collection":"c","id":"a"}}]}"#,
            "bad-request",
            "exactly one",
        ),
        (r#"{"guards":[]}"#, "bad-request", "\"commands\""),
        (r#"{"commands":[]}"#, "bad-request", "at least one command"),
        (r#"{"commands":{}}"#, "bad-request", "must be a list"),
        ("[]", "bad-request", "object"),
        (r#"{"commands":[{"put":{"collection":"c","id":"a"}}]}"#, "bad-request", "needs \"value\""),
        (r#"{"commands":[{"put":{"collection":"c/d","id":"a","value":1}}]}"#, "bad-name", "commands[0].put"),
        (r#"{"guards":[{"absent":{"collection":"c","id":""}}],"commands":[]}"#, "bad-name", "guards[0].absent"),
        (r#"{"commands":[{"delete":{"collection":"","id":"a"}}]}"#, "bad-name", "commands[0].delete"),
        (r#"{"commands":[{"delete":{"collection":"c","id":"a"}}],"key":"two words"}"#, "bad-name", "key"),
        (r#"{"commands":[{"delete":{"collection":"c","id":"a"}}],"key":""}"#, "bad-name", "key"),
        (r#"{"commands":[{"delete":{"collection":"c","id":"a"}}],"commands":[]}"#, "duplicate-key", "commands"),
    ] {
        let detail = node.post("/v1/tx", tx).await.expect_problem(400, slug);
        assert!(detail.contains(words), "{tx}: {detail}");
    }
    let delete = r#"{"delete":{"collection":"c","id":"a"}}"#;
    let many = format!(r#"{{"commands":[{}]}}"#, vec![delete; 1001].join(","));
    node.post("/v1/tx", &many).await.expect_problem(400, "bad-request");
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_body_over_its_bound_is_refused_and_the_client_sees_the_answer() {
    let node = guarded().await;
    let body = format!("\"{}\"", "x".repeat(5 << 20));
    for (method, path) in
        [(Method::PUT, DOC), (Method::PATCH, DOC), (Method::POST, "/v1/docs/c"), (Method::POST, "/v1/tx")]
    {
        node.call(method.clone(), path).json(&body).send().await.expect_problem(413, "too-large");
        // Without a length named before.
        let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>(body.clone())]);
        let streamed = node.call(method, path).typed("application/json", axum::body::Body::from_stream(pieces));
        streamed.send().await.expect_problem(413, "too-large");
    }
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_before_it_sends_a_body_that_is_too_large() {
    let node = guarded().await;
    let mut socket = TcpStream::connect(node.url.strip_prefix("http://").unwrap()).await.unwrap();
    let head =
        "PUT /v1/docs/c/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(!answer.contains("100 Continue"), "{answer}");
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_document_over_its_bound_is_refused_however_it_grows() {
    let node = guarded().await;
    let half = "x".repeat(600 << 10);
    node.put(DOC, &format!("\"{half}{half}\"")).await.expect_problem(413, "too-large");
    node.merge(DOC, &format!("{{\"b\":\"{half}{half}\"}}")).await.expect_problem(413, "too-large");
    let put = format!(r#"{{"put":{{"collection":"c","id":"b","value":{{"x":"{half}"}}}}}}"#);
    let merge = format!(r#"{{"merge":{{"collection":"c","id":"b","value":{{"y":"{half}"}}}}}}"#);
    node.post("/v1/tx", &format!(r#"{{"commands":[{put},{merge}]}}"#)).await.expect_problem(413, "too-large");
    let copy = r#"{"patch":{"collection":"c","id":"b","patch":[{"op":"copy","from":"/x","path":"/y"}]}}"#;
    node.post("/v1/tx", &format!(r#"{{"commands":[{put},{copy}]}}"#)).await.expect_problem(413, "too-large");
    let add = format!(r#"[{{"op":"add","path":"/x","value":"{half}"}},{{"op":"copy","from":"/x","path":"/y"}}]"#);
    let detail = node.patch(DOC, &add).await.expect_problem(413, "too-large");
    assert!(detail.contains("larger than it may be"), "{detail}");
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_head_over_its_bound_answers_431() {
    let node = guarded().await;
    let long = "x".repeat(100_000);
    node.call(Method::GET, DOC).header("x-long", &long).send().await.expect_problem(431, "headers-too-large");
    let query = format!("/v1/docs/c?filter={}", &long[..60_000]);
    node.call(Method::GET, &query)
        .header("x-long", &long[..10_000])
        .send()
        .await
        .expect_problem(431, "headers-too-large");
    // Past twice the bound nothing is read any more, so the answer has a status only.
    node.call(Method::GET, DOC).header("x-long", long.repeat(3)).send().await.expect(431);
    check_unchanged(&node).await;
}

#[tokio::test]
async fn names_out_of_their_bounds_are_refused() {
    let node = guarded().await;
    let (long_name, long_id) = ("c".repeat(65), "x".repeat(257));
    for collection in ["-c", ".c", "a%20b", "a%2Fb", "%C3%A9", "a%00", &long_name, "%FF"] {
        for path in [format!("/v1/docs/{collection}/a"), format!("/v1/docs/{collection}/%2E")] {
            node.put(&path, "1").await.expect_problem(400, "bad-name");
            node.get(&path).await.expect_problem(400, "bad-name");
        }
        node.get(&format!("/v1/docs/{collection}")).await.expect_problem(400, "bad-name");
        node.post(&format!("/v1/docs/{collection}"), "1").await.expect_problem(400, "bad-name");
    }
    for id in ["%2E", "%2E%2E", "a%00b", "a%0Ab", "%7F", "%C2%85", "%FF", &long_id] {
        let path = format!("/v1/docs/c/{id}");
        node.put(&path, "1").await.expect_problem(400, "bad-name");
        node.delete(&path).await.expect_problem(400, "bad-name");
    }
    for op in ["x", "1", "x.1", &format!("{}.x", node.node.id()), &format!("{}", node.node.id())] {
        node.get(&format!("/v1/ops/{op}")).await.expect_problem(400, "bad-name");
    }
    check_unchanged(&node).await;
}

#[tokio::test]
async fn headers_that_cannot_be_meant_are_refused() {
    let node = guarded().await;
    let long = "k".repeat(256);
    for (name, value) in [
        ("if-match", "7"),
        ("if-match", "W/7"),
        ("if-none-match", "0123456789abcdef0123456789abcdef"),
        ("idempotency-key", ""),
        ("idempotency-key", "two words"),
        ("idempotency-key", "\u{e9}"),
        ("idempotency-key", &long),
    ] {
        for call in [
            node.call(Method::PUT, DOC).json("2"),
            node.call(Method::PATCH, DOC).json("{}"),
            node.call(Method::DELETE, DOC),
        ] {
            call.header(name, value).send().await.expect_problem(400, "bad-header");
        }
    }
    let twice = node.call(Method::PUT, DOC).json("2").header("idempotency-key", "a").header("idempotency-key", "b");
    twice.send().await.expect_problem(400, "bad-header");
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_listing_with_a_bad_filter_sort_limit_or_parameter_is_refused() {
    let node = guarded().await;
    for (query, slug) in [
        ("filter=%7B", "bad-filter"),
        ("filter=", "bad-filter"),
        ("filter=1", "bad-filter"),
        ("filter=%7B%22a%22:1,%22a%22:2%7D", "bad-filter"),
        ("filter=%7B%22$frob%22:1%7D", "bad-filter"),
        ("filter=%7B%22a%22:%7B%22$gt%22:null%7D%7D", "bad-filter"),
        ("filter=%7B%22$or%22:%5B%5D%7D", "bad-filter"),
        ("sort=", "bad-query"),
        ("sort=-", "bad-query"),
        ("limit=0", "bad-query"),
        ("limit=1001", "bad-query"),
        ("limit=-1", "bad-query"),
        ("limit=ten", "bad-query"),
        ("limit=", "bad-query"),
        ("limit=1&limit=2", "bad-query"),
        ("filtre=%7B%7D", "bad-query"),
    ] {
        node.get(&format!("/v1/docs/c?{query}")).await.expect_problem(400, slug);
    }
    node.get("/v1/collections?sort=name").await.expect_problem(400, "bad-query");
    node.get(&format!("/v1/ops/{}.1?wait=two", node.node.id())).await.expect_problem(400, "bad-query");
}

#[tokio::test]
async fn a_cursor_of_another_collection_filter_or_sort_or_none_at_all_is_refused() {
    let node = guarded().await;
    node.put("/v1/docs/c/b", "1").await.expect(201);
    let cursor = async |query: &str| match &node.get(&format!("/v1/docs/c?limit=1{query}")).await.json()["next"] {
        Value::String(next) => next.clone(),
        other => panic!("{other}"),
    };
    let (plain, sorted, filtered) = (cursor("").await, cursor("&sort=a").await, cursor("&filter=%7B%7D").await);
    for path in [
        format!("/v1/docs/d?after={plain}"),
        format!("/v1/docs/c?sort=a&after={plain}"),
        format!("/v1/docs/c?filter=%7B%7D&after={plain}"),
        format!("/v1/docs/c?after={sorted}"),
        format!("/v1/docs/c?sort=-a&after={sorted}"),
        format!("/v1/docs/c?filter=%7B%22a%22:1%7D&after={filtered}"),
        "/v1/docs/c?after=".into(),
        "/v1/docs/c?after=nonsense".into(),
        "/v1/docs/c?after=e30".into(),
        "/v1/docs/c?after=%C3%BF".into(),
        format!("/v1/docs/c?after={}", &plain[1..]),
    ] {
        node.get(&path).await.expect_problem(400, "bad-cursor");
    }
    // White space in a filter makes no other filter, nor does a limit.
    let same = node.get(&format!("/v1/docs/c?limit=7&filter=%7B%20%7D&after={filtered}")).await.expect(200);
    assert_eq!(same.json()["docs"][0]["id"], "b");
}

#[tokio::test]
async fn a_query_that_a_call_does_not_know_is_refused_and_not_passed_over() {
    let node = guarded().await;
    for query in ["?wait=all", "?until=7", "?view=all"] {
        let path = format!("{DOC}{query}");
        node.get(&path).await.expect_problem(400, "bad-query");
        node.put(&path, "2").await.expect_problem(400, "bad-query");
        node.delete(&path).await.expect_problem(400, "bad-query");
        node.post(&format!("/v1/docs/c{query}"), "2").await.expect_problem(400, "bad-query");
    }
    check_unchanged(&node).await;
}

#[tokio::test]
async fn a_query_that_is_not_utf8_is_refused_and_not_mended() {
    let node = guarded().await;
    for query in ["?filter=%7B%22a%22%3A%22%FF%22%7D", "?after=%C3", "?%C3=%A9", "?limit=1&sort=%ED%A0%80"] {
        let detail = node.get(&format!("/v1/docs/c{query}")).await.expect_problem(400, "bad-query");
        assert!(detail.contains("UTF-8"), "{query}: {detail}");
    }
    node.get("/v1/docs/c?filter=%7B%22a%22%3A%22%C3%A9+%22%7D").await.expect(200);
    check_unchanged(&node).await;
}

//! What the headers of a body say, and names that proxies change.

use hyper::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::support::start_node;

const DOC: &str = "/v1/docs/notes/a";

fn utf16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(order).collect()
}

#[tokio::test]
async fn a_body_is_read_in_the_charset_that_it_names() {
    let node = start_node().await;
    for (media, body) in [
        ("text/plain; charset=utf-16le", utf16("Ölö €", u16::to_le_bytes)),
        ("text/plain;charset=\"UTF-16BE\"", utf16("Ölö €", u16::to_be_bytes)),
        ("text/plain; charset=utf-16", utf16("\u{feff}Ölö €", u16::to_le_bytes)),
        ("text/plain; Charset=windows-1252", b"\xd6l\xf6 \x80".to_vec()),
        ("text/plain; format=flowed; charset=utf-8", "Ölö €".into()),
        ("text/plain", "\u{feff}Ölö €".into()),
    ] {
        node.call(Method::DELETE, DOC).send().await;
        node.call(Method::PUT, DOC).typed(media, body).send().await.expect(201);
        assert_eq!(node.get(DOC).await.text(), "Ölö €", "{media}");
    }
    let json = utf16(r#"{"é":1}"#, u16::to_le_bytes);
    node.call(Method::PUT, "/v1/docs/notes/j")
        .typed("application/json; charset=utf-16le", json)
        .send()
        .await
        .expect(201);
    assert_eq!(node.get("/v1/docs/notes/j").await.text(), r#"{"é":1}"#);
}

#[tokio::test]
async fn a_body_in_a_charset_or_a_coding_that_the_node_cannot_read_is_refused_by_name() {
    let node = start_node().await;
    for media in ["text/plain; charset=utf-32", "text/plain; charset=klingon", "text/plain; charset=utf-7"] {
        let refused = node.call(Method::PUT, DOC).typed(media, "x").send().await;
        let detail = refused.expect_problem(415, "unsupported-type");
        assert!(detail.contains(media.rsplit('=').next().unwrap()), "{detail}");
    }
    let lines = node.call(Method::POST, "/v1/docs/notes").typed("application/x-ndjson; charset=utf-16le", "{}");
    assert!(lines.send().await.expect_problem(415, "unsupported-type").contains("utf-16le"));
    let odd = node.call(Method::PUT, DOC).typed("text/plain; charset=utf-16le", vec![0x61, 0, 0x62]).send().await;
    assert!(odd.expect_problem(400, "bad-request").contains("utf-16le"));
    for (method, path, media) in [
        (Method::PUT, DOC, "application/json"),
        (Method::PUT, DOC, "text/plain"),
        (Method::PATCH, DOC, "application/merge-patch+json"),
        (Method::POST, "/v1/docs/notes", "application/json"),
        (Method::POST, "/v1/docs/notes", "application/x-ndjson"),
        (Method::POST, "/v1/tx", "application/json"),
        (Method::POST, "/v1/pool/links", "application/json"),
    ] {
        let call = node.call(method, path).typed(media, "{}").header("content-encoding", "gzip");
        let refused = call.send().await;
        let detail = refused.expect_problem(415, "unsupported-type");
        assert!(detail.contains("gzip"), "{detail}");
        assert_eq!(refused.header("accept-encoding"), "identity");
    }
    let range = node.call(Method::PUT, DOC).json("1").header("content-range", "bytes 0-0/10").send().await;
    assert!(range.expect_problem(400, "bad-header").contains("Content-Range"));
    let twice = node.call(Method::PUT, DOC).json("1").header("content-type", "text/plain").send().await;
    twice.expect_problem(400, "bad-header");
    node.get(DOC).await.expect(404);
    node.call(Method::PUT, DOC).json("1").header("content-encoding", "identity").send().await.expect(201);
}

#[tokio::test]
async fn lines_of_json_go_by_all_their_names() {
    let node = start_node().await;
    for media in ["application/x-ndjson", "application/ndjson", "application/jsonl", "Application/JSONL; charset=utf-8"]
    {
        let answer =
            node.call(Method::POST, "/v1/docs/notes").typed(media, "{\"id\":\"a\",\"value\":1}\n").send().await;
        assert!(answer.expect(200).text().starts_with("{\"line\":1,\"receipt\""), "{media}");
    }
}

#[tokio::test]
async fn half_of_a_surrogate_pair_is_named_and_placed() {
    let node = start_node().await;
    for (body, escape) in [
        (r#""\ud83d""#, "\\ud83d"),
        (r#"{"a":"\\ud83d \uDE00x"}"#, "\\uDE00"),
        (r#"["\ud83d\u0041"]"#, "\\ud83d"),
        (r#"["\ud83d\ud83d\ude00"]"#, "\\ud83d"),
        (r#"{"\udfff":1}"#, "\\udfff"),
    ] {
        let detail = node.put(DOC, body).await.expect_problem(400, "malformed-json");
        assert!(detail.contains(escape) && detail.contains("surrogate"), "{body}: {detail}");
    }
    node.put(DOC, r#""\ud83d\ude00""#).await.expect(201);
}

#[tokio::test]
async fn a_location_is_written_as_a_reference_is() {
    let node = start_node().await;
    let made = node.post("/v1/docs/notes", "1").await.expect(201);
    let id = made.json()["id"].as_str().unwrap().to_string();
    assert_eq!(made.header("location"), format!("/v1/docs/notes/{id}"));
    assert_eq!(percent_decode_str(made.header("location")).decode_utf8().unwrap(), made.header("location"));
    node.get(made.header("location")).await.expect(200);
}

/// Proxies decode `%2F`, take `..` away and make one of two slashes; none of them touches a query so.
#[tokio::test]
async fn an_id_may_stand_in_the_query_where_proxies_leave_it_alone() {
    let node = start_node().await;
    for (encoded, id) in
        [("a%2Fb", "a/b"), ("%2E%2E%2Fx%2F%2Fy", "../x//y"), ("a%26b%3Dc%23%25+", "a&b=c#% "), ("_", "_")]
    {
        let path = format!("/v1/docs/notes/_?id={encoded}");
        let written = node.put(&path, r#"{"n":1}"#).await.expect(201);
        assert_eq!(written.json()["id"], id);
        node.merge(&path, r#"{"n":2}"#).await.expect(200);
        assert_eq!(node.get(&format!("{path}&view=final")).await.expect(200).json(), json!({ "n": 2 }));
        let history = node.get(&format!("/v1/docs/notes/_/history?id={encoded}&limit=1")).await.expect(200);
        assert_eq!(history.json()["ops"][0]["commands"][0]["put"]["id"], id);
        node.get(&format!("/v1/docs/notes/_/diff?from=1&id={encoded}")).await.expect(200);
        // It names a text for editors, too: only the request for a WebSocket is missing.
        node.get(&format!("/v1/yjs/notes/_?id={encoded}")).await.expect_problem(400, "bad-request");
        node.delete(&path).await.expect(200);
    }
    let all = node.get("/v1/docs/notes").await.json();
    assert_eq!(all["docs"], Value::Array(Vec::new()));
    node.put("/v1/docs/notes/a?id=b", "1").await.expect_problem(400, "bad-query");
    node.put("/v1/docs/notes/_?id=a&id=b", "1").await.expect_problem(400, "bad-query");
    node.put("/v1/docs/notes/_?id=", "1").await.expect_problem(400, "bad-name");
    node.put("/v1/docs/notes/_?id=%FF", "1").await.expect_problem(400, "bad-query");
    node.put("/v1/docs/notes/_?id=a&other=1", "1").await.expect_problem(400, "bad-query");
    node.put("/v1/docs/notes/_", "1").await.expect(201);
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_a_body() {
    let node = start_node().await;
    for (method, path, media, body) in [
        (Method::PUT, DOC, "application/json", "\u{feff}{\"a\":1}"),
        (Method::PATCH, DOC, "application/merge-patch+json", "\u{feff}{\"b\":2}"),
        (Method::POST, "/v1/docs/notes", "application/x-ndjson", "\u{feff}{\"id\":\"b\",\"value\":{\"c\":3}}\n"),
    ] {
        let answer = node.call(method, path).typed(media, body).send().await;
        assert!(answer.status.is_success(), "{media}: {answer:?}");
    }
    assert_eq!(node.get(DOC).await.text(), r#"{"a":1,"b":2}"#);
    assert_eq!(node.get("/v1/docs/notes/b").await.text(), r#"{"c":3}"#);
}

#[tokio::test]
async fn a_percent_sign_that_begins_no_escape_is_refused() {
    let node = start_node().await;
    for path in ["/v1/docs/notes/%zz", "/v1/docs/notes/50%", "/v1/docs/notes/a%2", "/v1/docs/%zz"] {
        let refused = node.get(path).await;
        assert!(refused.expect_problem(400, "bad-name").contains("%25"), "{path}");
    }
    node.call(Method::PUT, "/v1/docs/notes/50%25").typed("application/json", "1").send().await.expect(201);
}

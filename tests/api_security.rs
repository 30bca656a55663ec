//! Who may ask a node what: tokens, roles, collections, origins, hosts, TLS.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::{
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::{HeaderMap, Method};
use lamplight::api::{self, Access, Api, Limits, MemoryBudget, Site, Tls};
use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use support::{Answer, Call, TestNode, exposition::Scrape, feeds::Ws, start_guarded, start_node};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use yrs::{Doc, ReadTxn, Text, Transact, updates::decoder::Decode};

const READ: &str = "token-of-a-reader-0001";
const WRITE: &str = "token-of-a-writer-0002";
const ADMIN: &str = "token-of-an-admin-0003";
const LIMITED: &str = "token-of-limits-0004";
/// How long the node may take to notice that a file has changed; it looks once a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        let dir = std::env::temp_dir().join(format!("lamplight-security-{}", Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        Dir(dir)
    }

    /// Writes a file as operators should: beside it, and then in its place.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(self.0.join("new"), content).unwrap();
        std::fs::rename(self.0.join("new"), &path).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tokens() -> Value {
    let digest = ring::digest::digest(&ring::digest::SHA256, WRITE.as_bytes());
    // Only for its way of writing 32 bytes.
    let sha256 = blake3::Hash::from_slice(digest.as_ref()).unwrap().to_hex();
    json!({ "tokens": [
        { "name": "reader", "role": "read", "collections": ["*"], "token": READ },
        { "name": "writer", "role": "write", "collections": ["*"], "sha256": sha256.as_str() },
        { "name": "admin", "role": "admin", "blake3": blake3::hash(ADMIN.as_bytes()).to_hex().as_str() },
        { "name": "limited", "role": "write", "collections": ["notes", "notes.*"], "token": LIMITED },
    ] })
}

/// A node that asks for these tokens, and the directory of its file.
async fn start() -> (TestNode, Dir) {
    let dir = Dir::new();
    let path = dir.write("tokens.json", tokens().to_string());
    (start_guarded(Access::open(Some(path), Vec::new(), Site::default()).unwrap()).await, dir)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

trait With {
    fn with(self, token: &str) -> Self;
}

impl With for Call<'_> {
    fn with(self, token: &str) -> Self {
        self.header("authorization", bearer(token))
    }
}

async fn get(node: &TestNode, path: &str, token: &str) -> Answer {
    node.call(Method::GET, path).with(token).send().await
}

async fn put(node: &TestNode, path: &str, json: &str, token: &str) -> Answer {
    node.call(Method::PUT, path).json(json).with(token).send().await
}

fn ws_url(node: &TestNode, path: &str) -> String {
    format!("{}{path}", node.url.replace("http", "ws"))
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn socket(url: &str, headers: &[(&'static str, String)]) -> Result<Socket, u16> {
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// The code with which the node closes.
async fn closed(socket: &mut Socket) -> u16 {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("no close frame: {other:?}"),
        }
    }
}

/// Every call of the interface that is not open to all, with a body where it takes one.
const CALLS: &[(&str, &str, &str)] = &[
    ("GET", "/readyz", ""),
    ("GET", "/v1/docs/notes/a", ""),
    ("HEAD", "/v1/docs/notes/a", ""),
    ("GET", "/v1/docs/notes/a/history", ""),
    ("GET", "/v1/docs/notes/a/diff?from=0", ""),
    ("GET", "/v1/docs/notes", ""),
    ("GET", "/v1/collections", ""),
    ("GET", "/v1/ops/00000000-0000-0000-0000-000000000000.1", ""),
    ("GET", "/v1/changes", ""),
    ("GET", "/v1/changes?view=final", ""),
    ("GET", "/v1/log", ""),
    ("GET", "/v1/pool", ""),
    ("GET", "/metrics", ""),
    ("GET", "/v1/backup", ""),
    ("GET", "/v1/yjs/notes/a", ""),
    ("GET", "/nowhere", ""),
    ("PUT", "/v1/docs/notes/a", "1"),
    ("PATCH", "/v1/docs/notes/a", "{}"),
    ("DELETE", "/v1/docs/notes/a", ""),
    ("POST", "/v1/docs/notes", "1"),
    ("POST", "/v1/tx", r#"{"commands":[{"put":{"collection":"notes","id":"a","value":1}}]}"#),
    ("POST", "/v1/pool/join", r#"{"url":"http://127.0.0.1:9"}"#),
    ("POST", "/v1/pool/links", r#"{"cut":true}"#),
    ("DELETE", "/v1/pool/members/00000000-0000-0000-0000-000000000000", ""),
];

#[tokio::test]
async fn without_a_token_nothing_but_health_and_the_page_answers() {
    let (node, _dir) = start().await;
    put(&node, "/v1/docs/notes/a", "1", WRITE).await.expect(201);
    let ops = node.ops().await;
    for (method, path, body) in CALLS {
        for wrong in [None, Some("Bearer token-of-nobody-00000"), Some("Basic YTpi"), Some("Bearer")] {
            let mut call = node.call(method.parse().unwrap(), path).json(body);
            if let Some(wrong) = wrong {
                call = call.header("authorization", wrong);
            }
            let answer = call.send().await;
            assert_eq!(answer.status, 401, "{method} {path} {wrong:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer realm="), "{path}");
            if *method != "HEAD" {
                let detail = answer.expect_problem(401, "unauthorized");
                assert!(wrong.is_some() || detail.contains("LAMPLIGHT_TOKEN"), "{detail}");
            }
            let named: Vec<_> = answer.headers.keys().filter(|name| name.as_str().starts_with("lamplight-")).collect();
            assert!(named.is_empty(), "{path}: {named:?}");
        }
    }
    let large = node.call(Method::PUT, "/v1/docs/notes/a").json(&format!("\"{}\"", "x".repeat(1 << 20)));
    large.send().await.expect_problem(401, "unauthorized");
    assert_eq!(node.ops().await, ops);
    assert_eq!(node.get("/livez").await.expect(200).json(), json!({ "status": "ok" }));
    node.get("/").await.expect(200);
    node.get("/static/app.js").await.expect(200);
    for wrong in ["/v1/yjs/notes/a", "/v1/ws"] {
        let bad = [("authorization", bearer("token-of-nobody-00000"))];
        assert_eq!(socket(&ws_url(&node, wrong), &bad).await.err(), Some(401));
    }
    assert_eq!(socket(&ws_url(&node, "/v1/yjs/notes/a"), &[]).await.err(), Some(401));
    for first in
        [r#"{"type":"subscribe","id":"s"}"#, r#"{"type":"auth"}"#, r#"{"type":"auth","token":"x"}"#, "no", "[]"]
    {
        let mut ws = Ws::connect(&node).await;
        ws.send_text(first).await;
        ws.expect_error("unauthorized").await;
        assert_eq!(ws.closed().await, 4401);
    }
}

#[tokio::test]
async fn a_token_comes_by_header_by_subprotocol_or_as_the_first_message() {
    let (node, _dir) = start().await;
    get(&node, "/readyz", READ).await.expect(200);
    assert!(!get(&node, "/v1/pool", READ).await.expect(200).header("lamplight-session").is_empty());
    let offered = format!("lamplight.v1, bearer.{}", BASE64_URL_SAFE_NO_PAD.encode(WRITE));
    let (mut ws, answer) = Ws::connect_with(&node, &[("sec-websocket-protocol", &offered)]).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "lamplight.v1");
    ws.subscribe("s", "notes").await;
    ws.expect("snapshot").await;
    let (mut ws, _) = Ws::connect_with(&node, &[("authorization", &bearer(WRITE))]).await.unwrap();
    ws.ping().await;
    ws.send(json!({ "type": "auth", "token": READ })).await;
    ws.expect_error("bad-request").await;
    let mut ws = Ws::connect(&node).await;
    ws.send(json!({ "type": "auth", "token": WRITE })).await;
    ws.expect("authenticated").await;
    let commands = json!([{ "put": { "collection": "notes", "id": "a", "value": 1 } }]);
    ws.send(json!({ "type": "write", "id": "w", "commands": commands })).await;
    ws.expect("receipt").await;
    assert!(socket(&ws_url(&node, "/v1/yjs/notes/t"), &[("sec-websocket-protocol", offered)]).await.is_ok());
    // Where nobody is asked, a token does no harm.
    let open = start_node().await;
    get(&open, "/v1/pool", "whatever").await.expect(200);
    let mut ws = Ws::connect(&open).await;
    ws.send(json!({ "type": "auth", "id": "a", "token": "whatever" })).await;
    assert_eq!(ws.expect("authenticated").await["id"], "a");
}

#[tokio::test]
async fn a_token_in_an_address_is_refused() {
    let (node, _dir) = start().await;
    for path in ["/v1/pool?token=", "/v1/changes?access_token=", "/?token=", "/v1/ws?token="] {
        let detail = node.get(&format!("{path}{READ}")).await.expect_problem(400, "token-in-url");
        assert!(detail.contains("Authorization") && !detail.contains(READ), "{detail}");
    }
}

#[tokio::test]
async fn with_a_read_token_all_is_read_and_nothing_written() {
    let (node, _dir) = start().await;
    put(&node, "/v1/docs/notes/a", "1", WRITE).await.expect(201);
    node.call(Method::PUT, "/v1/docs/notes/t").typed("text/plain", "abc").with(WRITE).send().await.expect(201);
    let ops = node.ops().await;
    for (method, path, body) in CALLS.iter().filter(|(method, ..)| !matches!(*method, "GET" | "HEAD")) {
        let answer = node.call(method.parse().unwrap(), path).json(body).with(READ).send().await;
        let detail = answer.expect_problem(403, "forbidden");
        assert!(detail.contains("role read"), "{detail}");
    }
    let texts: [(Method, &str, &str, &str); 4] = [
        (Method::PUT, "/v1/docs/notes/t", "text/plain", "x"),
        (Method::PATCH, "/v1/docs/notes/t", "application/json", r#"{"ops":[{"insert":"x"}]}"#),
        (Method::POST, "/v1/docs/notes", "application/x-ndjson", "{\"value\":1}\n"),
        (Method::PATCH, "/v1/docs/notes/a", "application/json-patch+json", "[]"),
    ];
    for (method, path, kind, body) in texts {
        let answer = node.call(method, path).typed(kind, body).with(READ).send().await;
        answer.expect_problem(403, "forbidden");
    }
    get(&node, "/v1/backup", READ).await.expect_problem(403, "forbidden");
    let reads = [
        "/v1/docs/notes/a",
        "/v1/docs/notes/a/history",
        "/v1/docs/notes",
        "/v1/collections",
        "/v1/changes",
        "/v1/changes?view=final",
        "/v1/log",
        "/v1/pool",
        "/readyz",
    ];
    for path in reads {
        get(&node, path, READ).await.expect(200);
    }
    let (mut ws, _) = Ws::connect_with(&node, &[("authorization", &bearer(READ))]).await.unwrap();
    ws.subscribe("s", "notes").await;
    assert_eq!(ws.expect("snapshot").await["docs"].as_array().unwrap().len(), 2);
    let commands = json!([{ "delete": { "collection": "notes", "id": "a" } }]);
    ws.send(json!({ "type": "write", "id": "w", "commands": commands })).await;
    ws.expect_error("forbidden").await;
    let events = node.call(Method::GET, "/v1/changes").header("accept", "text/event-stream").with(READ).stream().await;
    assert_eq!(events.status(), 200);
    assert_eq!(node.ops().await, ops);
    // And with one for writing all but the pool is written.
    for (method, path, body) in CALLS.iter().filter(|(_, path, _)| path.starts_with("/v1/pool/")) {
        let answer = node.call(method.parse().unwrap(), path).json(body).with(WRITE).send().await;
        answer.expect_problem(403, "forbidden");
    }
    get(&node, "/v1/backup", WRITE).await.expect_problem(403, "forbidden");
    get(&node, "/v1/backup", ADMIN).await.expect(200);
    let links = node.call(Method::POST, "/v1/pool/links").json(r#"{"cut":false}"#).with(ADMIN).send().await;
    links.expect(200);
}

/// A message of y-websocket: of kind sync, with this step.
fn sync(step: u8, content: &[u8]) -> Message {
    assert!(content.len() < 128);
    Message::binary([&[0, step, content.len() as u8], content].concat())
}

/// What the next frame with this step says.
async fn synced(socket: &mut Socket, step: u8) -> Vec<u8> {
    loop {
        if let Message::Binary(frame) = socket.next().await.unwrap().unwrap()
            && frame[..2] == [0, step]
        {
            return frame[3..].to_vec();
        }
    }
}

#[tokio::test]
async fn a_yjs_editor_with_a_read_token_sees_all_and_is_closed_upon_an_edit() {
    let (node, _dir) = start().await;
    let text = |body| node.call(Method::PUT, "/v1/docs/notes/t").typed("text/plain", body).with(WRITE);
    text("abcd").send().await.expect(201);
    text("abd").send().await.expect(200);
    let url = ws_url(&node, "/v1/yjs/notes/t");
    let open = async || socket(&url, &[("authorization", bearer(READ))]).await.unwrap();
    let mut editor = open().await;
    synced(&mut editor, 0).await;
    editor.send(sync(0, &[0])).await.unwrap();
    let all = synced(&mut editor, 1).await;
    let doc = Doc::new();
    doc.transact_mut().apply_update(yrs::Update::decode_v1(&all).unwrap()).unwrap();
    let known = doc.transact().encode_state_as_update_v1(&yrs::StateVector::default());
    // It answers what it has: what it was given, with all deletions.
    editor.send(sync(1, &known)).await.unwrap();
    editor.send(sync(1, &[0, 0])).await.unwrap();
    text("abde").send().await.expect(200);
    let update = synced(&mut editor, 2).await;
    doc.transact_mut().apply_update(yrs::Update::decode_v1(&update).unwrap()).unwrap();
    let names: Vec<String> = doc.transact().root_refs().map(|(name, _)| name.to_string()).collect();
    let ops = node.ops().await;
    // An insertion and a deletion, each as it is typed and as an answer after work offline.
    let name = names.first().cloned().unwrap_or_else(|| "text".into());
    for (step, deletes) in [(2, false), (2, true), (1, false), (1, true)] {
        let mut editor = open().await;
        let mine = Doc::new();
        let state = doc.transact().encode_state_as_update_v1(&yrs::StateVector::default());
        mine.transact_mut().apply_update(yrs::Update::decode_v1(&state).unwrap()).unwrap();
        let before = mine.transact().state_vector();
        let root = mine.get_or_insert_text(&*name);
        if deletes {
            root.remove_range(&mut mine.transact_mut(), 0, 1);
        } else {
            root.insert(&mut mine.transact_mut(), 0, "x");
        }
        let edit = mine.transact().encode_state_as_update_v1(&before);
        editor.send(sync(step, &edit)).await.unwrap();
        assert_eq!(closed(&mut editor).await, 4403, "step {step}, deletes {deletes}");
    }
    assert_eq!(node.ops().await, ops);
    assert_eq!(get(&node, "/v1/docs/notes/t", READ).await.text(), "abde");
    // Another collection's text is not opened at all.
    let limited = [("authorization", bearer(LIMITED))];
    assert_eq!(socket(&ws_url(&node, "/v1/yjs/other/t"), &limited).await.err(), Some(403));
    assert!(socket(&url, &limited).await.is_ok());
}

/// The names in what a limited token is given: collections, ids, and what cursors hide.
fn check_nothing_secret(text: &str) {
    assert!(!text.contains("secret"), "{text}");
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    for word in words.filter(|word| word.len() > 16) {
        if let Ok(bytes) = BASE64_URL_SAFE_NO_PAD.decode(word) {
            assert!(!String::from_utf8_lossy(&bytes).contains("secret"), "{word} in {text}");
        }
    }
}

/// Some documents in the limited token's collections, and between them others.
async fn fill(node: &TestNode) {
    for collection in ["a-secret", "notes", "notes-secret", "notes.one", "o-secret", "secret"] {
        for id in ["x", "y"] {
            let id = if collection.contains("secret") { format!("secret-{id}") } else { id.into() };
            put(node, &format!("/v1/docs/{collection}/{id}"), &format!("{{\"of\":\"{collection}\"}}"), WRITE)
                .await
                .expect(201);
        }
    }
}

fn of(changes: &Value) -> Vec<(String, String)> {
    let text = |change: &Value, name: &str| change[name].as_str().unwrap().to_string();
    changes.as_array().unwrap().iter().map(|change| (text(change, "collection"), text(change, "id"))).collect()
}

#[tokio::test]
async fn a_token_for_some_collections_shows_and_writes_these_only() {
    let (node, _dir) = start().await;
    fill(&node).await;
    let mine: Vec<(String, String)> = [("notes", "x"), ("notes", "y"), ("notes.one", "x"), ("notes.one", "y")]
        .map(|(collection, id)| (collection.into(), id.into()))
        .to_vec();
    let collections = get(&node, "/v1/collections", LIMITED).await.json();
    assert_eq!(
        collections,
        json!({ "collections": [{ "name": "notes", "docs": 2 }, { "name": "notes.one", "docs": 2 }], "next": null })
    );
    for view in ["", "&view=final"] {
        let (mut seen, mut since) = (Vec::new(), String::new());
        loop {
            let page = get(&node, &format!("/v1/changes?limit=1{view}{since}"), LIMITED).await.expect(200);
            check_nothing_secret(&page.text());
            let page = page.json();
            seen.extend(of(&page["changes"]));
            since = format!("&since={}", page["next"].as_str().unwrap());
            if page["more"] == false {
                break;
            }
        }
        // The final feed tells of a document that was written twice twice.
        seen.sort();
        seen.dedup();
        assert_eq!(seen, mine, "{view}");
        put(&node, "/v1/docs/secret/secret-z", "1", WRITE).await;
        put(&node, "/v1/docs/notes/x", "2", WRITE).await.expect(200);
        let page = get(&node, &format!("/v1/changes?{}{view}", &since[1..]), LIMITED).await;
        check_nothing_secret(&page.text());
        assert_eq!(of(&page.json()["changes"]), [("notes".to_string(), "x".to_string())]);
        let other = format!("/v1/changes?collection=secret{view}");
        get(&node, &other, LIMITED).await.expect_problem(403, "forbidden");
    }
    for path in [
        "/v1/docs/secret",
        "/v1/docs/secret/secret-x",
        "/v1/docs/secret/secret-x/history",
        "/v1/docs/secret/secret-x/diff?from=0",
        "/v1/docs/%73ecret/secret-x",
        "/v1/docs/secret/none",
        "/v1/log",
        "/v1/backup",
    ] {
        get(&node, path, LIMITED).await.expect_problem(403, "forbidden");
    }
    let ops = node.ops().await;
    for (method, path, body) in [
        ("PUT", "/v1/docs/secret/a", "1"),
        ("PATCH", "/v1/docs/secret/secret-x", "{}"),
        ("DELETE", "/v1/docs/secret/secret-x", ""),
        ("POST", "/v1/docs/secret", "1"),
    ] {
        let answer = node.call(method.parse().unwrap(), path).json(body).with(LIMITED).send().await;
        answer.expect_problem(403, "forbidden");
    }
    let doc = |collection: &str| json!({ "collection": collection, "id": "secret-x" });
    let put_in = |collection: &str| json!({ "put": { "collection": collection, "id": "z", "value": 1 } });
    for refused in [
        json!({ "commands": [put_in("notes"), put_in("secret")] }),
        json!({ "guards": [{ "exists": doc("secret") }], "commands": [put_in("notes")] }),
        json!({ "guards": [{ "absent": doc("secret") }], "commands": [put_in("notes")] }),
    ] {
        let answer = node.call(Method::POST, "/v1/tx").json(&refused.to_string()).with(LIMITED).send().await;
        answer.expect_problem(403, "forbidden");
    }
    assert_eq!(node.ops().await, ops);
    let tx = json!({ "commands": [put_in("notes")] }).to_string();
    let receipt = node.call(Method::POST, "/v1/tx").json(&tx).with(LIMITED).send().await.expect(200).json();
    get(&node, &format!("/v1/ops/{}", receipt["op"].as_str().unwrap()), LIMITED).await.expect(200);
}

/// A cursor with other bytes in it; it is only base64.
fn forged(cursor: &str, forge: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
    let (mark, encoded) = cursor.strip_prefix("f.").map_or(("", cursor), |encoded| ("f.", encoded));
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).unwrap();
    format!("{mark}{}", BASE64_URL_SAFE_NO_PAD.encode(forge(bytes)))
}

#[tokio::test]
async fn a_forged_cursor_shows_no_other_collections() {
    let (node, _dir) = start().await;
    fill(&node).await;
    let page = get(&node, "/v1/changes?limit=1", LIMITED).await.expect(200).json();
    let amidst = forged(page["next"].as_str().unwrap(), |bytes| {
        let before = bytes.strip_suffix(b"\x05notes\x01\x01x").expect("it says where it is");
        [before, b"\x06secret\x00"].concat()
    });
    let page = get(&node, &format!("/v1/changes?since={amidst}"), LIMITED).await.expect(200);
    check_nothing_secret(&page.text());
    let subscribe = json!({ "type": "subscribe", "id": "s", "since": amidst });
    let mut socket = socket(&ws_url(&node, "/v1/ws"), &[("authorization", bearer(LIMITED))]).await.unwrap();
    socket.send(Message::text(subscribe.to_string())).await.unwrap();
    loop {
        let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
        check_nothing_secret(&text);
        if serde_json::from_str::<Value>(&text).unwrap()["more"] == false {
            break;
        }
    }
    // The same of the documents as they were at the time 1, behind one in a collection, and in the one without a name.
    let end =
        get(&node, "/v1/changes?view=final", LIMITED).await.expect(200).json()["next"].as_str().unwrap().to_string();
    for place in [&b"\x06secret\x00"[..], b"\x00\x01\x01x"] {
        let amidst = forged(&end, |bytes| [&bytes[..16], b"\x00\x01", place].concat());
        let path = format!("/v1/changes?view=final&since={amidst}");
        let page = timeout(Duration::from_secs(60), get(&node, &path, LIMITED)).await.expect("it comes to an end");
        check_nothing_secret(&page.expect(200).text());
    }
}

#[tokio::test]
async fn an_op_over_other_collections_too_is_not_shown_to_who_sees_some() {
    let (node, _dir) = start().await;
    let stale = json!({ "version": { "collection": "secret", "id": "s", "version": "0".repeat(32) } });
    put(&node, "/v1/docs/secret/s", "1", WRITE).await.expect(201);
    let puts = ["notes", "secret"].map(|name| json!({ "put": { "collection": name, "id": "a", "value": 1 } }));
    let tx = json!({ "commands": puts }).to_string();
    let receipt = node.call(Method::POST, "/v1/tx").json(&tx).with(WRITE).send().await.expect(200).json();
    let op = format!("/v1/ops/{}", receipt["op"].as_str().unwrap());
    get(&node, &op, LIMITED).await.expect_problem(403, "forbidden");
    get(&node, &op, READ).await.expect(200);
    let history = get(&node, "/v1/docs/notes/a/history", LIMITED).await.expect(200);
    check_nothing_secret(&history.text());
    assert_eq!(history.json()["ops"][0]["others"], 1);
    let refused = json!({ "guards": [stale], "commands": [puts[0]] }).to_string();
    node.call(Method::POST, "/v1/tx").json(&refused).with(WRITE).send().await.expect_problem(409, "guard-failed");
}

#[tokio::test]
async fn streams_of_a_token_for_some_collections_tell_of_these_only() {
    let (node, _dir) = start().await;
    fill(&node).await;
    let (mut ws, _) = Ws::connect_with(&node, &[("authorization", &bearer(LIMITED))]).await.unwrap();
    ws.subscribe("one", "secret").await;
    ws.expect_error("forbidden").await;
    ws.send(json!({ "type": "presence", "id": "r", "room": "secret/x", "state": { "name": "ada" } })).await;
    ws.expect_error("forbidden").await;
    ws.send(json!({ "type": "subscribe", "id": "all" })).await;
    let mut seen = Vec::new();
    loop {
        let snapshot = ws.expect("snapshot").await;
        check_nothing_secret(&snapshot.to_string());
        seen.extend(of(&snapshot["docs"]));
        if snapshot["more"] == false {
            break;
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    let stream = |query: &str| {
        let path = format!("/v1/changes{query}");
        node.call(Method::GET, &path).header("accept", "text/event-stream").with(LIMITED).stream()
    };
    let (feed, last) = (stream("").await, stream("?view=final").await);
    put(&node, "/v1/docs/secret/secret-z", "1", WRITE).await.expect(201);
    put(&node, "/v1/docs/notes/last", "1", WRITE).await.expect(201);
    let change = ws.expect("change").await;
    assert_eq!(change["doc"]["id"], "last");
    check_nothing_secret(&change.to_string());
    let puts = |name: &str| json!([{ "put": { "collection": name, "id": "w", "value": 1 } }]);
    ws.send(json!({ "type": "write", "id": "w", "commands": puts("secret") })).await;
    ws.expect_error("forbidden").await;
    ws.send(json!({ "type": "write", "id": "w", "commands": puts("notes.w") })).await;
    ws.expect("receipt").await;
    for stream in [feed, last] {
        let (mut body, mut text) = (stream.into_body(), String::new());
        while !text.contains("\"last\"") {
            text.push_str(std::str::from_utf8(body.frame().await.unwrap().unwrap().data_ref().unwrap()).unwrap());
        }
        check_nothing_secret(&text);
    }
}

#[tokio::test]
async fn a_page_of_another_origin_neither_writes_nor_opens_a_websocket() {
    let mut site = Site::default();
    site.add_origin("https://app.example.com").unwrap();
    let node = start_guarded(Access::open(None, Vec::new(), site).unwrap()).await;
    let own = node.url.clone();
    for origin in ["https://evil.example.com", "null", "http://localhost:1", "https://app.example.com.evil.com"] {
        for (method, path, body) in CALLS.iter().filter(|(method, ..)| !matches!(*method, "GET" | "HEAD")) {
            let call = node.call(method.parse().unwrap(), path).header("origin", origin);
            // As a form or a simple request of a page may have it.
            let detail = call.typed("text/plain", *body).send().await.expect_problem(403, "other-origin");
            assert!(detail.contains("--allow-origin"), "{detail}");
        }
        for path in ["/v1/ws", "/v1/yjs/notes/t", "/v1/gossip"] {
            let headers = [("origin", origin.to_string())];
            assert_eq!(socket(&ws_url(&node, path), &headers).await.err(), Some(403), "{path}");
        }
        let read = node.call(Method::GET, "/v1/pool").header("origin", origin).send().await.expect(200);
        assert_eq!(read.header("access-control-allow-origin"), "");
        let preflight = node.call(Method::OPTIONS, "/v1/docs/notes/a").header("origin", origin);
        preflight.header("access-control-request-method", "PUT").send().await.expect_problem(403, "other-origin");
    }
    // Peers send no origin; a page that does is no peer, whatever it is of.
    assert_eq!(socket(&ws_url(&node, "/v1/gossip"), &[("origin", own.clone())]).await.err(), Some(403));
    for origin in ["https://app.example.com", &*own] {
        let shares = if origin == own { "" } else { origin };
        let preflight = node.call(Method::OPTIONS, "/v1/docs/notes/a").header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "PUT").send().await.expect(204);
        let allowed: Vec<&str> = preflight.header("access-control-allow-headers").split(", ").collect();
        for header in ["authorization", "content-type", "if-match", "lamplight-session", "traceparent", "tracestate"] {
            assert!(allowed.contains(&header), "{header}: {allowed:?}");
        }
        assert!(!allowed.contains(&"x-forwarded-proto"), "{allowed:?}");
        assert_eq!(preflight.header("access-control-allow-origin"), shares);
        let written = node.call(Method::PUT, "/v1/docs/notes/a").header("origin", origin).json("1").send().await;
        assert_eq!((written.header("access-control-allow-origin"), written.header("vary")), (shares, "Origin"));
        assert!(written.status.is_success());
        let missing = node.call(Method::GET, "/v1/docs/notes/b").header("origin", origin).send().await.expect(404);
        assert_eq!(missing.header("access-control-allow-origin"), shares);
        assert!(socket(&ws_url(&node, "/v1/ws"), &[("origin", origin.to_string())]).await.is_ok());
    }
    node.put("/v1/docs/notes/a", "2").await.expect(200);
}

#[tokio::test]
async fn pages_of_apps_have_origins_of_their_own_schemes() {
    let mut site = Site::default();
    let origins =
        ["capacitor://localhost", "tauri://localhost", "chrome-extension://abcdefghijklmnop", "app://obsidian.md"];
    for origin in origins {
        site.add_origin(origin).unwrap();
    }
    site.add_origin("https://App.example.com:443").unwrap();
    let node = start_guarded(Access::open(None, Vec::new(), site).unwrap()).await;
    let put = |origin: &str| node.call(Method::PUT, "/v1/docs/notes/a").header("origin", origin).json("1").send();
    for origin in origins.into_iter().chain(["https://app.example.com", "HTTPS://APP.example.com:443"]) {
        let written = put(origin).await;
        assert!(written.status.is_success(), "{origin}: {}", written.text());
        assert_eq!(written.header("access-control-allow-origin"), origin);
        assert!(socket(&ws_url(&node, "/v1/ws"), &[("origin", origin.to_string())]).await.is_ok(), "{origin}");
    }
    for origin in ["ionic://localhost", "capacitor://localhost:1", "null", "file://", "https://app.example.com:444"] {
        put(origin).await.expect_problem(403, "other-origin");
    }
    // Of the same origin is also a page that names the port that its scheme has by itself.
    let own =
        node.call(Method::PUT, "/v1/docs/notes/a").header("host", "127.0.0.1").header("origin", "http://127.0.0.1:80");
    own.json("1").send().await.expect(200);
    assert!(Site::default().add_origin("null").unwrap_err().contains("sandbox"));
}

/// The headers that keep other pages from framing, embedding or sniffing what a node answers.
#[track_caller]
fn check_guarded(headers: &HeaderMap, ancestors: &str, path: &str) {
    let only = |name: &str| {
        let values: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values.len(), 1, "{path}: {name}: {values:?}");
        values[0].to_string()
    };
    let policy = only("content-security-policy");
    assert!(policy.split("; ").any(|rule| rule == format!("frame-ancestors {ancestors}")), "{path}: {policy}");
    assert!(policy.starts_with("default-src 'none'; "), "{path}: {policy}");
    assert_eq!(only("x-content-type-options"), "nosniff", "{path}");
    assert_eq!(only("cross-origin-resource-policy"), "same-origin", "{path}");
    assert_eq!(only("referrer-policy"), "no-referrer", "{path}");
}

#[tokio::test]
async fn every_answer_says_that_no_other_page_may_frame_embed_or_sniff_it() {
    let (node, _dir) = start().await;
    put(&node, "/v1/docs/notes/a", "1", WRITE).await.expect(201);
    node.call(Method::PUT, "/v1/docs/notes/t").typed("text/plain", "abc").with(WRITE).send().await.expect(201);
    let open = ["/", "/docs", "/openapi.json", "/static/app.js", "/static/nothing", "/livez", "/v1/gossip", "/nowhere"];
    let read =
        ["/v1/docs/notes/t", "/metrics", "/v1/ws", "/v1/yjs/notes/t", "/v1/docs/notes?limit=x", "/v1/docs/notes/b"];
    let calls = CALLS.iter().map(|(method, path, body)| (*method, *path, *body));
    for (method, path, body) in calls.chain(open.into_iter().chain(read).map(|path| ("GET", path, ""))) {
        for token in [None, Some(ADMIN)] {
            // It changes the pool.
            if method == "DELETE" && path.starts_with("/v1/pool") || path == "/v1/pool/links" {
                continue;
            }
            let call = node.call(method.parse().unwrap(), path).json(body);
            let call = token.map(bearer).into_iter().fold(call, |call, token| call.header("authorization", token));
            check_guarded(&call.send().await.headers, "'self'", &format!("{method} {path}"));
        }
    }
    let held = node.get("/static/app.js").await.header("etag").to_string();
    let held = node.call(Method::GET, "/static/app.js").header("if-none-match", held).send().await.expect(304);
    check_guarded(&held.headers, "'self'", "304");
    check_guarded(
        &node.call(Method::DELETE, "/v1/gossip").send().await.expect(405).headers,
        "'self'",
        "no such method",
    );
    let events = node.call(Method::GET, "/v1/changes").header("accept", "text/event-stream").with(READ).stream().await;
    check_guarded(events.headers(), "'self'", "events");
    let lines = node.call(Method::POST, "/v1/docs/notes").typed("application/x-ndjson", "{\"value\":1}\n").with(WRITE);
    check_guarded(lines.stream().await.headers(), "'self'", "lines");
    let (_, opened) = Ws::connect_with(&node, &[("authorization", &bearer(READ))]).await.unwrap();
    check_guarded(opened.headers(), "'self'", "a WebSocket");
    let elsewhere = node.call(Method::GET, "/").header("host", "evil.example.com").send().await.expect(421);
    check_guarded(&elsewhere.headers, "'self'", "another host");
    assert_eq!(elsewhere.header("strict-transport-security"), "");
}

#[tokio::test]
async fn pages_of_allowed_origins_may_show_a_node_in_a_frame() {
    let mut site = Site::default();
    site.add_origin("https://App.example.com/").unwrap();
    site.add_origin("http://127.0.0.1:7172").unwrap();
    let node = start_guarded(Access::open(None, Vec::new(), site).unwrap()).await;
    for path in ["/", "/v1/pool", "/v1/docs/notes/a", "/v1/gossip"] {
        let ancestors = "'self' https://app.example.com http://127.0.0.1:7172";
        check_guarded(&node.get(path).await.headers, ancestors, path);
    }
}

#[tokio::test]
async fn the_scheme_of_an_origin_counts() {
    let node = start_node().await;
    let host = node.url.strip_prefix("http://").unwrap();
    let put = |origin: String, proxy: Option<&str>| {
        let call = node.call(Method::PUT, "/v1/docs/notes/a").header("origin", origin).json("1");
        proxy.into_iter().fold(call, |call, scheme| call.header("x-forwarded-proto", scheme)).send()
    };
    assert!(put(format!("http://{host}"), None).await.status.is_success());
    for origin in [format!("https://{host}"), format!("ftp://{host}"), format!("://{host}"), host.to_string()] {
        let detail = put(origin.clone(), None).await.expect_problem(403, "other-origin");
        assert!(detail.contains("X-Forwarded-Proto") && detail.contains("--allow-origin"), "{detail}");
        for path in ["/v1/ws", "/v1/yjs/notes/t"] {
            let headers = [("origin", origin.clone())];
            assert_eq!(socket(&ws_url(&node, path), &headers).await.err(), Some(403), "{path} {origin}");
        }
    }
    // A proxy that ends TLS says by which scheme the browser asked; where several do, the first has heard it.
    assert!(put(format!("https://{host}"), Some("https")).await.status.is_success());
    assert!(put(format!("https://{host}"), Some("HTTPS, http")).await.status.is_success());
    put(format!("http://{host}"), Some("https")).await.expect_problem(403, "other-origin");
    put(format!("http://{host}"), Some("https, http")).await.expect_problem(403, "other-origin");
    let proxied = [("origin", format!("https://{host}")), ("x-forwarded-proto", "https".into())];
    assert!(socket(&ws_url(&node, "/v1/ws"), &proxied).await.is_ok());
}

#[tokio::test]
async fn a_page_may_ask_first_without_a_token() {
    let dir = Dir::new();
    let path = dir.write("tokens.json", tokens().to_string());
    let mut site = Site::default();
    site.add_origin("https://app.example.com").unwrap();
    let node = start_guarded(Access::open(Some(path), Vec::new(), site).unwrap()).await;
    let origin = "https://app.example.com";
    let preflight = node.call(Method::OPTIONS, "/v1/docs/notes/a").header("origin", origin);
    let preflight = preflight.header("access-control-request-method", "PUT").send().await.expect(204);
    assert_eq!(preflight.header("access-control-allow-origin"), origin);
    let refused = node.call(Method::GET, "/v1/pool").header("origin", origin).send().await;
    refused.expect_problem(401, "unauthorized");
    assert_eq!(refused.header("access-control-allow-origin"), origin);
    node.call(Method::GET, "/v1/pool").header("origin", origin).with(READ).send().await.expect(200);
}

#[tokio::test]
async fn a_name_that_is_not_this_nodes_is_not_answered() {
    let mut site = Site::default();
    site.add_host("db.example.com").unwrap();
    let node = start_guarded(Access::open(None, Vec::new(), site).unwrap()).await;
    for host in ["evil.example.com", "evil.example.com:7171", "db.example.com.evil.com", "127.0.0.1.nip.io"] {
        for path in ["/", "/livez", "/v1/pool", "/v1/docs/notes/a", "/v1/ws"] {
            let detail =
                node.call(Method::GET, path).header("host", host).send().await.expect_problem(421, "unknown-host");
            assert!(detail.contains("--allow-host"), "{detail}");
        }
        // Rebinding makes the page of the same origin, to the browser.
        let write = node.call(Method::PUT, "/v1/docs/notes/a").header("host", host).json("1");
        write.header("origin", format!("http://{host}")).send().await.expect_problem(421, "unknown-host");
        let page = [("host", host.to_string()), ("origin", format!("http://{host}"))];
        assert_eq!(socket(&ws_url(&node, "/v1/ws"), &page).await.err(), Some(421));
        assert_eq!(socket(&ws_url(&node, "/v1/gossip"), &page).await.err(), Some(403));
    }
    for host in ["localhost", "localhost:1", "db.example.com", "DB.example.com.:80", "[::1]:7171", "10.0.0.1:7171"] {
        node.call(Method::GET, "/v1/pool").header("host", host).send().await.expect(200);
    }
    // Peers know this node by what names they like.
    assert!(socket(&ws_url(&node, "/v1/gossip"), &[("host", "elsewhere:7171".into())]).await.is_ok());
}

#[tokio::test]
async fn a_token_is_answered_under_any_name() {
    let dir = Dir::new();
    let path = dir.write("tokens.json", tokens().to_string());
    let mut site = Site::default();
    site.allow_host("*.svc.cluster.local").unwrap();
    site.add_origin("https://app.example.com").unwrap();
    let node = start_guarded(Access::open(Some(path), Vec::new(), site).unwrap()).await;
    let call = |method, path, host: &'static str| node.call(method, path).header("host", host);
    let service = "lamplight.default:7171";
    call(Method::PUT, "/v1/docs/notes/a", service).json("1").with(WRITE).send().await.expect(201);
    let page = ("origin", format!("http://{service}"));
    for path in ["/v1/docs/notes/a", "/v1/pool", "/livez", "/", "/v1/ws"] {
        // Who brings none may be a page that was led here by a trick.
        let bare = call(Method::GET, path, service).header(page.0, page.1.clone()).send().await;
        let detail = bare.expect_problem(421, "unknown-host");
        assert!(detail.contains("token") && detail.contains("--allow-host"), "{detail}");
        let void = call(Method::GET, path, service).with("token-of-nobody-at-all").send().await;
        void.expect_problem(401, "unauthorized");
        assert_eq!(void.header("lamplight-node"), "");
    }
    for path in ["/v1/docs/notes/a", "/livez", "/"] {
        call(Method::GET, path, service).with(READ).send().await.expect(200);
    }
    // What the role lets do, and which pages may do it, stays as it is.
    call(Method::PUT, "/v1/docs/notes/a", service).json("2").with(READ).send().await.expect_problem(403, "forbidden");
    let foreign = call(Method::PUT, "/v1/docs/notes/a", service).json("2").with(WRITE);
    foreign.header("origin", "http://evil.example.com").send().await.expect_problem(403, "other-origin");
    call(Method::GET, "/livez?token=abc", service).with(READ).send().await.expect_problem(400, "token-in-url");
    let _events =
        call(Method::GET, "/v1/changes", service).header("accept", "text/event-stream").with(READ).stream().await;
    for (token, at) in [(None, Some(421)), (Some("token-of-nobody-at-all"), Some(401)), (Some(READ), None)] {
        let header = token.map(|token| ("authorization", bearer(token)));
        let protocol = token.map(|token| {
            let encoded = BASE64_URL_SAFE_NO_PAD.encode(token);
            ("sec-websocket-protocol", format!("lamplight.v1, bearer.{encoded}"))
        });
        for (shown, path) in [(header, "/v1/ws"), (protocol.clone(), "/v1/ws"), (protocol, "/v1/yjs/notes/t")] {
            let headers: Vec<_> = [("host", service.to_string())].into_iter().chain(shown).collect();
            assert_eq!(socket(&ws_url(&node, path), &headers).await.err(), at, "{path} {token:?}");
        }
    }
    // Peers show no tokens, and know this node by what names they like.
    assert!(socket(&ws_url(&node, "/v1/gossip"), &[("host", service.into())]).await.is_ok());
    // A page that was allowed asks first, and brings its token then.
    let asks = |origin: &'static str| {
        let preflight = call(Method::OPTIONS, "/v1/docs/notes/a", service).header("origin", origin);
        preflight.header("access-control-request-method", "PUT").send()
    };
    asks("https://app.example.com").await.expect(204);
    asks("https://other.example.com").await.expect_problem(421, "unknown-host");
    // Under a name of the pattern, clients without a token are told to bring one.
    call(Method::GET, "/livez", "a.b.svc.cluster.local:7171").send().await.expect(200);
    call(Method::GET, "/v1/pool", "a.svc.cluster.local").send().await.expect_problem(401, "unauthorized");
    call(Method::GET, "/livez", "svc.cluster.local").send().await.expect_problem(421, "unknown-host");
}

#[tokio::test]
async fn where_no_tokens_are_asked_for_none_stands_for_a_name() {
    let mut site = Site::default();
    site.allow_host("*.svc.cluster.local").unwrap();
    let node = start_guarded(Access::open(None, Vec::new(), site).unwrap()).await;
    let call = |host: &str| node.call(Method::GET, "/v1/pool").header("host", host);
    let detail = call("lamplight").with(READ).send().await.expect_problem(421, "unknown-host");
    assert!(!detail.contains("token"), "{detail}");
    call("lamplight.default.svc.cluster.local").send().await.expect(200);
}

/// Asks until the answer has this status.
async fn until_status(node: &TestNode, path: &str, token: &str, status: u16) {
    let end = Instant::now() + PATIENCE;
    while get(node, path, token).await.status != status {
        assert!(Instant::now() < end, "{path} does not come to {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn refused_files(node: &TestNode) -> f64 {
    let metrics = get(node, "/metrics", WRITE).await.expect(200).text();
    Scrape::read(&metrics).value("lamplight_access_files_refused_total", &[])
}

#[tokio::test]
async fn the_file_is_read_again_and_a_broken_one_changes_nothing() {
    let (node, dir) = start().await;
    let new = "token-of-somebody-new";
    let (mut reader, _) = Ws::connect_with(&node, &[("authorization", &bearer(READ))]).await.unwrap();
    let (mut writer, _) = Ws::connect_with(&node, &[("authorization", &bearer(WRITE))]).await.unwrap();
    let yjs = [("authorization", bearer(READ))];
    let mut editor = socket(&ws_url(&node, "/v1/yjs/notes/t"), &yjs).await.unwrap();
    let events = node.call(Method::GET, "/v1/changes").header("accept", "text/event-stream").with(READ).stream().await;
    let mut changed = tokens();
    changed["tokens"][0]["token"] = new.into();
    dir.write("tokens.json", changed.to_string());
    until_status(&node, "/v1/pool", new, 200).await;
    get(&node, "/v1/pool", READ).await.expect_problem(401, "unauthorized");
    // What was open with the old one ends; the others go on.
    assert_eq!(reader.closed().await, 4401);
    assert_eq!(closed(&mut editor).await, 4401);
    let _ = events.into_body().collect().await.unwrap();
    writer.ping().await;
    for broken in ["{\"tokens\":", "{}", "{\"tokens\":[{\"name\":\"a\",\"role\":\"read\"}]}"] {
        dir.write("tokens.json", broken);
        // Two looks later it has been seen: one may have begun before.
        let refused = refused_files(&node).await;
        while refused_files(&node).await < refused + 2.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        get(&node, "/v1/pool", new).await.expect(200);
    }
    std::fs::remove_file(dir.0.join("tokens.json")).unwrap();
    dir.write("tokens.json", tokens().to_string());
    until_status(&node, "/v1/pool", READ, 200).await;
    get(&node, "/v1/pool", new).await.expect_problem(401, "unauthorized");
    writer.ping().await;
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn jwt(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(sign(signed.as_bytes())))
}

#[tokio::test]
async fn a_jwt_is_good_under_the_nodes_keys_until_it_expires() {
    let dir = Dir::new();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let der = [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], pair.public_key().as_ref()]
        .concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(&der));
    let (eddsa, hs256) =
        (dir.write("public.pem", &pem), dir.write("secret", "a secret of more than thirty-two bytes\n"));
    let access = Access::open(None, vec![eddsa.clone(), hs256], Site::default()).unwrap();
    let node = start_guarded(access).await;
    let by_pair = |message: &[u8]| pair.sign(message).as_ref().to_vec();
    let by = |secret: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        move |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec()
    };
    let by_secret = by(b"a secret of more than thirty-two bytes");
    let claims = |exp: u64| json!({ "sub": "ada", "role": "write", "collections": ["notes"], "exp": exp });
    let (good, old) = (claims(now() + 3600), claims(now() - 3600));
    let (eddsa_header, hs256_header) = (json!({ "alg": "EdDSA", "typ": "JWT" }), json!({ "alg": "HS256" }));
    for token in [jwt(&eddsa_header, &good, by_pair), jwt(&hs256_header, &good, &by_secret)] {
        put(&node, "/v1/docs/notes/a", "1", &token).await;
        get(&node, "/v1/docs/notes/a", &token).await.expect(200);
        get(&node, "/v1/docs/other/a", &token).await.expect_problem(403, "forbidden");
        get(&node, "/v1/log", &token).await.expect_problem(403, "forbidden");
    }
    let expired = get(&node, "/v1/pool", &jwt(&eddsa_header, &old, by_pair)).await.expect_problem(401, "unauthorized");
    assert!(expired.contains("expired"), "{expired}");
    let later = json!({ "role": "admin", "exp": now() + 3600, "nbf": now() + 1800 });
    get(&node, "/v1/pool", &jwt(&eddsa_header, &later, by_pair)).await.expect_problem(401, "unauthorized");
    for forged in [
        jwt(&json!({ "alg": "none" }), &good, |_| Vec::new()),
        jwt(&json!({ "alg": "none" }), &good, by_pair),
        jwt(&hs256_header, &good, by(pem.as_bytes())),
        jwt(&hs256_header, &good, by(pem.trim_end().as_bytes())),
        jwt(&hs256_header, &good, by(&der)),
        jwt(&hs256_header, &good, by(pair.public_key().as_ref())),
        jwt(&hs256_header, &good, by(b"")),
        jwt(&eddsa_header, &good, &by_secret),
    ] {
        get(&node, "/v1/pool", &forged).await.expect_problem(401, "unauthorized");
    }
    // What is open with one ends when it expires: within the leeway of 30 s, this is in two seconds.
    let soon = jwt(&eddsa_header, &claims(now() - 28), by_pair);
    let (mut ws, _) = Ws::connect_with(&node, &[("authorization", &bearer(&soon))]).await.unwrap();
    assert_eq!(ws.closed().await, 4401);
    // Other keys end all.
    let (mut ws, _) =
        Ws::connect_with(&node, &[("authorization", &bearer(&jwt(&eddsa_header, &good, by_pair)))]).await.unwrap();
    ws.ping().await;
    dir.write("public.pem", "another secret, of thirty-two bytes and more");
    assert_eq!(ws.closed().await, 4401);
    get(&node, "/v1/pool", &jwt(&eddsa_header, &good, by_pair)).await.expect_problem(401, "unauthorized");
}

/// A write with an idempotency key, by each interface that takes one.
async fn keyed(node: &TestNode, way: &str, token: &str, key: &str, value: u32) -> Result<Value, (u16, String)> {
    let tx = json!({ "commands": [{ "put": { "collection": "notes", "id": "t", "value": value } }] });
    let put = |path: &str| node.call(Method::PUT, path).json(&value.to_string()).header("idempotency-key", key);
    let call = match way {
        "put" => put("/v1/docs/notes/p"),
        "patch" => {
            let patch = format!(r#"[{{"op":"add","path":"","value":{value}}}]"#);
            let call = node.call(Method::PATCH, "/v1/docs/notes/a").typed("application/json-patch+json", patch);
            call.header("idempotency-key", key)
        }
        "post" => node.call(Method::POST, "/v1/docs/notes").json(&value.to_string()).header("idempotency-key", key),
        "delete" => node.call(Method::DELETE, &format!("/v1/docs/notes/d{value}")).header("idempotency-key", key),
        "tx" => node.call(Method::POST, "/v1/tx").json(&tx.to_string()).header("idempotency-key", key),
        "tx, in its body" => {
            let mut tx = tx;
            tx["key"] = json!(key);
            node.call(Method::POST, "/v1/tx").json(&tx.to_string())
        }
        _ => {
            let (mut ws, _) = Ws::connect_with(node, &[("authorization", &bearer(token))]).await.unwrap();
            ws.send(json!({ "type": "write", "id": "w", "commands": tx["commands"], "key": key })).await;
            let answer = ws.next().await;
            let is_receipt = answer["type"] == "receipt";
            return if is_receipt { Ok(answer) } else { Err((422, answer.to_string())) };
        }
    };
    let answer = call.with(token).send().await;
    if answer.status.is_success() { Ok(answer.json()) } else { Err((answer.status.as_u16(), answer.text())) }
}

#[tokio::test]
async fn an_idempotency_key_is_of_its_tokens_bearer() {
    let dir = Dir::new();
    let mut list = tokens();
    let (again, other) = ("token-of-a-writer-again", "token-of-another-writer");
    for (name, token) in [("writer", again), ("ada", other)] {
        let token = json!({ "name": name, "role": "write", "collections": ["*"], "token": token });
        list["tokens"].as_array_mut().unwrap().push(token);
    }
    let files =
        (dir.write("tokens.json", list.to_string()), dir.write("secret", "a secret of more than thirty-two bytes\n"));
    let node = start_guarded(Access::open(Some(files.0), vec![files.1], Site::default()).unwrap()).await;
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret of more than thirty-two bytes");
    let issued = |claims: Value| {
        let mut all = json!({ "role": "write", "collections": ["notes"], "exp": now() + 3600 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        jwt(&json!({ "alg": "HS256" }), &all, |message| hmac::sign(&key, message).as_ref().to_vec())
    };
    // One who has the name of another's token, two of one issuer whose names begin alike, one of another issuer, one of none.
    let long = "x".repeat(70);
    let jwts = [
        json!({ "sub": "ada" }),
        json!({ "sub": format!("{long}1"), "iss": "a" }),
        json!({ "sub": format!("{long}2"), "iss": "a" }),
        json!({ "sub": format!("{long}1"), "iss": "b" }),
        json!({}),
    ];
    let bearers: Vec<String> =
        [WRITE, LIMITED, other].map(String::from).into_iter().chain(jwts.clone().map(issued)).collect();
    put(&node, "/v1/docs/notes/a", "0", WRITE).await.expect(201);
    for (n, way) in ["put", "patch", "post", "delete", "tx", "tx, in its body", "WebSocket"].into_iter().enumerate() {
        let key = format!("once-{n}");
        let mut first = Vec::new();
        for (value, token) in (0..).zip(&bearers) {
            put(&node, &format!("/v1/docs/notes/d{value}"), "1", WRITE).await;
            let receipt = keyed(&node, way, token, &key, value).await;
            first.push(receipt.unwrap_or_else(|refusal| panic!("{way}, bearer {value}: {refusal:?}")));
        }
        for (value, token) in (0..).zip(&bearers) {
            let repeated = keyed(&node, way, token, &key, value).await.unwrap();
            assert_eq!(repeated["op"], first[value as usize]["op"], "{way}");
            let (status, refusal) = keyed(&node, way, token, &key, 99).await.unwrap_err();
            assert!(status == 422 && refusal.contains("key-reused"), "{way}: {refusal}");
        }
        let ops: std::collections::BTreeSet<_> = first.iter().map(|receipt| receipt["op"].to_string()).collect();
        assert_eq!(ops.len(), bearers.len(), "{way}");
        // Another token of the same bearer, and a JWT that was issued anew.
        let renewed = issued(json!({ "sub": format!("{long}1"), "iss": "a", "exp": now() + 7200 }));
        for (value, token) in [(0, again), (4, &*renewed)] {
            let repeated = keyed(&node, way, token, &key, value).await.unwrap();
            assert_eq!(repeated["op"], first[value as usize]["op"], "{way}");
        }
    }
    for bad in ["", "two words", &"k".repeat(256)] {
        assert_eq!(keyed(&node, "put", WRITE, bad, 1).await.unwrap_err().0, 400, "{bad:?}");
        assert_eq!(keyed(&node, "tx, in its body", WRITE, bad, 1).await.unwrap_err().0, 400, "{bad:?}");
    }
    let log = get(&node, "/v1/log?limit=1000", READ).await.expect(200).text();
    assert!(!log.contains("once-") && log.contains("scoped:"), "the log shows a key");
    // Without tokens there is nobody to tell apart, and a key is kept as it is: journals that were written before go on answering.
    let open = start_node().await;
    open.call(Method::PUT, "/v1/docs/c/x").json("1").header("idempotency-key", "once").send().await.expect(201);
    assert!(open.get("/v1/log").await.text().contains(r#""key":"once""#));
}

/// A certificate for localhost and its key, in files.
fn certify(dir: &Dir) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string(), "127.0.0.1".to_string()]).unwrap();
    (dir.write("cert.pem", made.cert.pem()), dir.write("key.pem", made.signing_key.serialize_pem()))
}

/// A connection over TLS.
async fn secured(port: u16, trusted: &std::path::Path) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// The certificate that a server shows, and the protocol that it agrees to.
async fn handshake(port: u16, trusted: &std::path::Path) -> Result<(Vec<u8>, Vec<u8>), String> {
    let stream = secured(port, trusted).await.map_err(|error| error.to_string())?;
    let (_, session) = stream.get_ref();
    Ok((session.peer_certificates().unwrap()[0].to_vec(), session.alpn_protocol().unwrap_or_default().to_vec()))
}

/// Writes over TLS with the origin of the node, and with that origin in clear.
async fn origins_are_compared_with_their_scheme(port: u16, cert: &std::path::Path) {
    let ask = async |headers: &str| {
        let mut stream = secured(port, cert).await.unwrap();
        let request = format!(
            "PUT /v1/docs/notes/b HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: {}\r\nContent-Length: 1\r\n\
             Connection: close\r\n{headers}\r\n1",
            bearer(WRITE)
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let own = ask(&format!("Origin: https://localhost:{port}\r\n")).await;
    assert!(
        own.starts_with("HTTP/1.1 201") && own.contains("strict-transport-security: max-age=31536000\r\n"),
        "{own}"
    );
    for proxied in ["", "X-Forwarded-Proto: http\r\n"] {
        let other = ask(&format!("Origin: http://localhost:{port}\r\n{proxied}")).await;
        assert!(other.starts_with("HTTP/1.1 403") && other.contains("strict-transport-security"), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_speaks_tls_and_takes_up_a_new_certificate() {
    let (node, dir) = (start_node().await, Dir::new());
    let (cert, key) = certify(&dir);
    let tls = Tls::open(cert.clone(), key.clone()).unwrap();
    let stop = CancellationToken::new();
    let path = dir.write("tokens.json", tokens().to_string());
    let access = Access::open(Some(path), Vec::new(), Site::default()).unwrap();
    let router = api::router(Api::new(node.node.clone(), stop.clone()).guarded(access));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(api::serve_with(listener, router, Some(tls), Limits::default(), stop.clone()));
    let (first, protocol) = handshake(port, &cert).await.unwrap();
    assert_eq!(protocol, b"http/1.1");
    let url = format!("https://localhost:{port}");
    let run = |args: &[&str], token: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight"));
        let output = command.args(args).args(["--url", &url]).env("LAMPLIGHT_TOKEN", token).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let ca = cert.to_str().unwrap();
    let (code, _, said) = run(&["put", "notes", "a", "1", "--ca", ca], WRITE);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(run(&["get", "notes", "a", "--ca", ca], READ).1, "1\n");
    let file = dir.write("token", format!("{READ}\n"));
    let by_file = |token: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight"));
        command.args(["get", "notes", "a", "--ca", ca, "--url", &url]).env("LAMPLIGHT_TOKEN_FILE", &file);
        if !token.is_empty() {
            command.env("LAMPLIGHT_TOKEN", token);
        }
        command.output().unwrap().status.code()
    };
    assert_eq!(
        (by_file(""), by_file("token-of-nobody-00000")),
        (Some(0), Some(1)),
        "what is said counts before the file"
    );
    dir.write("token", "\n");
    assert_eq!(by_file(""), Some(2));
    let (code, _, said) = run(&["put", "notes", "a", "2", "--ca", ca], READ);
    assert!(code == Some(1) && said.contains("has the role read") && !said.contains(READ), "{said}");
    let (code, out, said) = run(&["bench", "--seconds", "1", "--connections", "2", "--ca", ca, "--url", &url], WRITE);
    assert!(code == Some(0) && out.contains("to the event on the WebSocket"), "{out} {said}");
    let (code, _, said) = run(&["watch", "notes", "--ca", ca], "token-of-nobody-00000");
    assert!(code == Some(1) && said.contains("no such token"), "{said}");
    let (code, _, said) = run(&["get", "notes", "a"], READ);
    assert!(code == Some(5) && said.contains("--ca FILE"), "{code:?} {said}");
    let (code, _, said) = run(&["get", "notes", "a", "--ca", ca], "with a\nbreak");
    assert!(code == Some(2) && !said.contains("break"), "{said}");
    origins_are_compared_with_their_scheme(port, &cert).await;
    // In clear nobody is answered.
    let mut clear = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    clear.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    // A certificate without its key is not taken; with it, it is.
    let (cert, _) = certify(&dir);
    let end = Instant::now() + PATIENCE;
    while handshake(port, &cert).await.map_or(true, |(shown, _)| shown == first) {
        assert!(Instant::now() < end, "the certificate stays as it was");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn half_a_tls_handshake_is_given_up() {
    let (node, dir) = (start_node().await, Dir::new());
    let (cert, key) = certify(&dir);
    let stop = CancellationToken::new();
    let router = api::router(Api::new(node.node.clone(), stop.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let limits = Limits { head_timeout: Duration::from_millis(300), ..Limits::default() };
    let tls = Tls::open(cert.clone(), key).unwrap();
    let serving = tokio::spawn(api::serve_with(listener, router, Some(tls), limits, stop.clone()));
    let silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut half = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // The head of a record that says it has 512 bytes, and one of them.
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    // After a whole handshake the same time begins anew, for the head of a request.
    handshake(port, &cert).await.unwrap();
    for mut stream in [silent, half] {
        // It may end with an alert (RFC 8446, section 6), or a reset.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn what_is_unread_or_here_in_part_counts_over_tls_as_well() {
    let (node, dir) = (start_node().await, Dir::new());
    let (cert, key) = certify(&dir);
    let stop = CancellationToken::new();
    let memory = MemoryBudget::new(48 << 20, 12 << 20);
    let limits = Limits { memory: memory.clone(), head_timeout: Duration::from_secs(3600), ..Limits::default() };
    let router = api::router(Api::new(node.node.clone(), stop.clone()).limited(limits.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = Tls::open(cert.clone(), key).unwrap();
    let serving = tokio::spawn(api::serve_with(listener, router, Some(tls), limits, stop.clone()));
    for id in 0..8 {
        let large = format!("\"{}\"", "x".repeat(1_000_000));
        node.call(Method::PUT, &format!("/v1/docs/c/{id}")).json(&large).send().await.expect(201);
    }
    let (mut unread, mut statuses) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut stream = secured(port, &cert).await.unwrap();
        stream.write_all(b"GET /v1/docs/c HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        statuses.push(String::from_utf8_lossy(&head[9..]).into_owned());
        unread.push(stream);
    }
    assert_eq!(statuses, ["200", "503"]);
    // Half heads: what is left of the share is taken by some of them, and the others end.
    let mut halves = Vec::new();
    for _ in 0..60 {
        let mut stream = secured(port, &cert).await.unwrap();
        let half = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}", "x".repeat(100_000));
        let _ = stream.write_all(half.as_bytes()).await;
        halves.push(stream);
    }
    while memory.refusals() < 2 {
        tokio::task::yield_now().await;
    }
    drop((unread, halves));
    while memory.taken() > 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    serving.await.unwrap();
}

/// Runs the program to its end.
fn said(args: &[&str]) -> (Option<i32>, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_lamplight")).args(args).env("LAMPLIGHT_TOKEN", READ).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn a_node_is_not_open_to_a_network_by_mistake() {
    let (code, words) = said(&["serve", "--memory", "--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{words}");
    for way in ["--tokens", "--jwt-key", "127.0.0.1", "TLS", "--insecure"] {
        assert!(words.contains(way), "{words}");
    }
    for args in [
        &["--tokens", "/nowhere"][..],
        &["--jwt-key", "/nowhere"],
        &["--tls-cert", "/nowhere", "--tls-key", "/nowhere"],
    ] {
        let (code, words) = said(&[&["serve", "--memory", "--listen", "127.0.0.1:0"], args].concat());
        assert!(code == Some(1) && words.contains("/nowhere"), "{words}");
    }
    for args in [&["--tls-cert", "x"][..], &["--allow-origin", "*"], &["--allow-host", "*"], &["--allow-host", "*.com"]]
    {
        let (code, words) = said(&[&["serve", "--memory", "--listen", "127.0.0.1:0"], args].concat());
        assert_eq!(code, Some(2), "{words}");
    }
}

#[test]
fn a_token_is_not_shown() {
    for args in [&["get", "--help"][..], &["watch", "--help"], &["get", "--nonsense"]] {
        assert!(!said(args).1.contains(READ));
    }
    let (_, words) = said(&["get", "a", "b", "--url", "http://127.0.0.1:9"]);
    assert!(!words.contains(READ), "{words}");
}

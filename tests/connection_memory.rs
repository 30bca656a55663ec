//! The memory that connections make a node hold: a client that leaves answers unread and messages unfinished takes its share, and
//! others go on (docs/limits.md).
//!
//! The budgets are small here. Each test drives one client to its share by all that clients can do, and then another client, with
//! another token on the same address, writes and reads as ever.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]
#![allow(clippy::float_cmp, reason = "counts are whole")]

mod support;

use std::time::Duration;

use futures_util::future::select_all;
use hyper::Method;
use lamplight::api::{Access, Limits, MemoryBudget, Site};
use serde_json::json;
use support::{TestNode, exposition::Scrape, start_joining_to, start_limited, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use yrs::{Doc, ReadTxn, Text, Transact};

const MIB: usize = 1 << 20;
/// The mask of a client's frames, which leaves them as they are.
const MASK: [u8; 4] = [0; 4];

fn token_of(name: &str) -> String {
    format!("a-token-of-{name}-0001")
}

/// A node at which two clients have this share of memory each, and which waits for slow readers without end.
async fn start(share: usize) -> TestNode {
    let token = |name| json!({ "name": name, "role": "admin", "collections": ["*"], "token": token_of(name) });
    let path = std::env::temp_dir().join(format!("lamplight-memory-{}", uuid::Uuid::new_v4()));
    std::fs::write(&path, json!({ "tokens": [token("greedy"), token("other")] }).to_string()).unwrap();
    let access = Access::open(Some(path), Vec::new(), Site::default()).unwrap();
    let hour = Duration::from_secs(3600);
    let memory = MemoryBudget::new(4 * share, share);
    let limits = Limits { memory, write_timeout: hour, head_timeout: hour, ping_every: hour, ..Limits::default() };
    start_limited(limits, access).await
}

/// A connection whose system takes little that is not read.
async fn dial(node: &TestNode) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(node.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap()
}

/// A connection on which a client has sent a request, and does not read.
async fn ask(node: &TestNode, name: &str, path: &str, more: &str) -> TcpStream {
    let mut socket = dial(node).await;
    let token = token_of(name);
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{more}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

/// A WebSocket of a client that has read the response to its request, and nothing since.
async fn websocket(node: &TestNode, name: &str, path: &str) -> TcpStream {
    let more = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let mut socket = ask(node, name, path, more).await;
    upgraded(&mut socket).await;
    socket
}

async fn upgraded(socket: &mut TcpStream) {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(socket.read_u8().await.unwrap());
    }
    assert!(said.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&said));
}

/// The header of a frame of a client, and the mask.
fn frame_header(opcode: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[opcode, 0xff, 0, 0, 0, 0], &length[..], &MASK].concat()
}

/// A message of Yjs with an update.
fn update_frame(update: &[u8]) -> Vec<u8> {
    let (mut content, mut length) = (vec![0, 2], update.len());
    while length >= 0x80 {
        content.push(length as u8 | 0x80);
        length >>= 7;
    }
    content.push(length as u8);
    content.extend_from_slice(update);
    let mut frame = frame_header(0x82, content.len());
    frame.extend(content);
    frame
}

/// Sends, and reads until the node closes, also where it resets.
async fn talk(socket: TcpStream, bytes: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = socket.into_split();
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut said = Vec::new();
    let _ = reader.read_to_end(&mut said).await;
    writing.abort();
    said
}

/// What was said on the first of many connections that the node ends. The others stay until the last is dropped.
async fn first_end<F: Future<Output = Vec<u8>> + 'static>(talks: impl Iterator<Item = F>) -> (Vec<u8>, impl Sized) {
    let (said, _, others) = select_all(talks.map(Box::pin)).await;
    (said, others)
}

/// The code and the reason of the close frame at the end of what was said.
fn closed(said: &[u8]) -> (u16, String) {
    let at = said.windows(2).rposition(|pair| pair[0] == 0x88 && pair[1] < 126);
    let at = at.unwrap_or_else(|| {
        panic!("no close frame in {:?}", String::from_utf8_lossy(&said[said.len().saturating_sub(300)..]))
    });
    (u16::from_be_bytes([said[at + 2], said[at + 3]]), String::from_utf8_lossy(&said[at + 4..]).into_owned())
}

async fn write(node: &TestNode, name: &str, id: usize, length: usize) -> u16 {
    let token = format!("Bearer {}", token_of(name));
    let text = format!("\"{}\"", "x".repeat(length));
    let path = format!("/v1/docs/c/{id}");
    node.call(Method::PUT, &path).json(&text).header("authorization", &token).send().await.status.as_u16()
}

/// Another client reads and writes a document that is as long as a document may be, about.
async fn others_go_on(node: &TestNode) {
    assert!(write(node, "other", 99, 1_000_000).await < 300);
    let token = format!("Bearer {}", token_of("other"));
    let read = node.call(Method::GET, "/v1/docs/c/99").header("authorization", &token).send().await.expect(200);
    assert_eq!(read.text().len(), 1_000_002);
}

/// A figure of the node's metrics.
async fn metric(node: &TestNode, name: &str) -> f64 {
    let token = format!("Bearer {}", token_of("other"));
    let answer = node.call(Method::GET, "/metrics").header("authorization", &token).send().await.expect(200);
    Scrape::read(&answer.text()).value(name, &[])
}

async fn refusals(node: &TestNode) -> f64 {
    metric(node, "lamplight_connection_memory_refused_total").await
}

/// Waits until nothing is held any more.
async fn until_given_back(node: &TestNode) {
    while metric(node, "lamplight_connection_memory_bytes").await > 0.0 {}
}

#[tokio::test]
async fn answers_that_are_not_read_take_the_share_of_their_client() {
    let node = start(32 * MIB).await;
    for id in 0..8 {
        assert_eq!(write(&node, "other", id, 1_000_000).await, 201);
    }
    let mut unread = Vec::new();
    for _ in 0..6 {
        let mut socket = ask(&node, "greedy", "/v1/docs/c", "").await;
        let mut head = [0; 12];
        socket.read_exact(&mut head).await.unwrap();
        unread.push((String::from_utf8_lossy(&head).into_owned(), socket));
    }
    let statuses: Vec<&str> = unread.iter().map(|(head, _)| &head[9..]).collect();
    assert_eq!(statuses, ["200", "200", "200", "200", "503", "503"], "each answer has 8 MB");
    let refused = String::from_utf8(rest_of(&mut unread[4].1).await).unwrap();
    assert!(refused.contains("retry-after: 1") && refused.contains("problem:overloaded"), "{refused}");
    assert!(refused.contains("one token") && refused.contains("33554432 bytes"), "{refused}");
    others_go_on(&node).await;
    drop(unread);
    until_given_back(&node).await;
    let token = format!("Bearer {}", token_of("greedy"));
    node.call(Method::GET, "/v1/docs/c").header("authorization", &token).send().await.expect(200);
    until_given_back(&node).await;
}

/// What is said until a JSON object ends.
async fn rest_of(socket: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    while !said.ends_with(b"}") {
        said.push(socket.read_u8().await.unwrap());
    }
    said
}

#[tokio::test]
async fn messages_that_are_here_in_part_take_the_share_of_their_client() {
    let node = start(8 * MIB).await;
    for path in ["/v1/ws", "/v1/yjs/c/text"] {
        let length = 2_000_000;
        let mut sockets = Vec::new();
        for _ in 0..5 {
            let mut half = frame_header(0x82, length);
            half.resize(length - 1, b' ');
            sockets.push((websocket(&node, "greedy", path).await, half));
        }
        let (said, held) = first_end(sockets.into_iter().map(|(socket, half)| talk(socket, half))).await;
        let (code, reason) = closed(&said);
        assert!(code == 1013 && reason.starts_with("overloaded"), "{path}: {code} {reason}");
        others_go_on(&node).await;
        drop(held);
        until_given_back(&node).await;
    }
}

#[tokio::test]
async fn parts_of_a_message_count_also_where_pings_come_amid_them() {
    let node = start(MIB).await;
    let mut parts = frame_header(0x01, 1000);
    parts.resize(parts.len() + 1000, b' ');
    for _ in 0..2_000 {
        parts.extend([0x89, 0x82, 0, 0, 0, 0, b'h', b'i']);
        parts.extend(frame_header(0x00, 1000));
        parts.resize(parts.len() + 1000, b' ');
    }
    let (code, _) = closed(&talk(websocket(&node, "greedy", "/v1/ws").await, parts).await);
    assert_eq!(code, 1013);
    // Pings by themselves take nothing.
    let mut socket = websocket(&node, "greedy", "/v1/ws").await;
    for _ in 0..200 {
        socket.write_all(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i'].repeat(1_000)).await.unwrap();
        socket.read_exact(&mut [0; 4]).await.unwrap();
    }
    until_given_back(&node).await;
    others_go_on(&node).await;
}

#[tokio::test]
async fn a_stranger_may_send_no_more_than_a_token() {
    let node = start(64 * MIB).await;
    let mut socket = dial(&node).await;
    let head = "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    upgraded(&mut socket).await;
    let mut half = frame_header(0x81, MIB);
    half.resize(200_000, b' ');
    assert_eq!(closed(&talk(socket, half).await).0, 4401);
    others_go_on(&node).await;
}

#[tokio::test]
async fn heads_that_are_here_in_part_take_the_share_of_their_address() {
    let node = start(MIB).await;
    let head = format!("GET /v1/collections HTTP/1.1\r\nHost: localhost\r\nX-Long: {}", "x".repeat(100_000));
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(dial(&node).await);
    }
    let (said, held) = first_end(sockets.into_iter().map(|socket| talk(socket, head.clone().into_bytes()))).await;
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    assert!(refusals(&node).await > 0.0);
    // A document of a megabyte is more than the share here.
    assert_eq!(write(&node, "other", 1, 500_000).await, 201);
    drop(held);
    until_given_back(&node).await;
}

#[tokio::test]
async fn early_updates_of_texts_take_the_share_of_their_client() {
    let node = start(8 * MIB).await;
    let doc = Doc::new();
    let text = doc.get_or_insert_text("content");
    text.push(&mut doc.transact_mut(), "what is never sent");
    let sent = doc.transact().state_vector();
    text.push(&mut doc.transact_mut(), &"x".repeat(MIB));
    let early = update_frame(&doc.transact().encode_state_as_update_v1(&sent));
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(websocket(&node, "greedy", "/v1/yjs/c/text").await);
    }
    let (said, held) = first_end(sockets.into_iter().map(|socket| talk(socket, early.clone()))).await;
    assert_eq!(closed(&said).0, 1013);
    others_go_on(&node).await;
    drop(held);
    until_given_back(&node).await;
}

#[tokio::test]
async fn subscribers_that_do_not_read_take_the_share_of_their_client() {
    let node = start(8 * MIB).await;
    for id in 0..24 {
        assert_eq!(write(&node, "other", id, 1_000_000).await, 201);
    }
    let subscribe = br#"{"type":"subscribe","id":"s","collection":"c"}"#;
    let mut stuck = Vec::new();
    for _ in 0..10 {
        let mut socket = websocket(&node, "greedy", "/v1/ws").await;
        socket.write_all(&frame_header(0x81, subscribe.len())).await.unwrap();
        socket.write_all(subscribe).await.unwrap();
        stuck.push(socket);
    }
    while refusals(&node).await == 0.0 || metric(&node, "lamplight_websocket_clients").await > 9.0 {}
    others_go_on(&node).await;
    drop(stuck);
    until_given_back(&node).await;
}

#[tokio::test]
async fn event_streams_and_backups_that_are_not_read_take_the_share_of_their_client() {
    let node = start(4 * MIB).await;
    for id in 0..24 {
        assert_eq!(write(&node, "other", id, 1_000_000).await, 201);
    }
    let events = "text/event-stream";
    for (path, accept) in [("/v1/changes", events), ("/v1/changes?view=final", events), ("/v1/backup", "*/*")] {
        let before = refusals(&node).await;
        let mut stuck = Vec::new();
        for _ in 0..10 {
            stuck.push(ask(&node, "greedy", path, &format!("Accept: {accept}\r\n")).await);
        }
        while refusals(&node).await <= before {}
        others_go_on(&node).await;
        drop(stuck);
        until_given_back(&node).await;
    }
}

#[tokio::test]
async fn what_peers_send_does_not_count() {
    let limits = Limits { memory: MemoryBudget::new(1 << 20, 1 << 18), ..Limits::default() };
    let node = start_limited(limits, Access::default()).await;
    let peer = start_joining_to(&node).await;
    for id in 0..4 {
        let text = format!("\"{}\"", "x".repeat(1_000_000));
        peer.put(&format!("/v1/docs/c/{id}"), &text).await.expect(201);
    }
    until(&node.node, |replica| replica.state().count() == 4).await;
    let scrape = Scrape::of(&node).await;
    assert_eq!(scrape.value("lamplight_links_opened_total", &[("dialled_by", "peer")]), 1.0, "the link stays");
    assert_eq!(scrape.value("lamplight_connection_memory_refused_total", &[]), 0.0);
}

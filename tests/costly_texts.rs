//! Texts that somebody made to take much work or memory: whoever makes them is refused, and nobody else notices.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use lamplight::{
    api::{Access, Limits, Site},
    node::Client,
    op::{Command, DocKey, Edit},
    replica::{Draft, Replica},
};
use serde_json::json;
use support::{TestNode, start_forgetful_node, start_limited, start_node, start_pool, until};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// More than ten times what takes the time that an edit, or a text, may take.
const CROWD: usize = 50_000;
/// The code with which an edit of too much work is refused.
const TOO_COSTLY: u16 = 4422;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn editor(node: &TestNode, path: &str, token: Option<&str>) -> Socket {
    let mut request = format!("{}/v1/yjs/{path}", node.url.replace("http", "ws")).into_client_request().unwrap();
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    connect_async(request).await.unwrap().0
}

async fn send(socket: &mut Socket, update: &[u8]) {
    let mut frame = vec![0, 2];
    number(&mut frame, update.len());
    frame.extend(update);
    socket.send(Message::binary(frame)).await.unwrap();
}

/// The code with which the connection is closed.
async fn closed(socket: &mut Socket) -> u16 {
    loop {
        if let Message::Close(Some(close)) = socket.next().await.unwrap().unwrap() {
            return close.code.into();
        }
    }
}

/// Waits until the node has told the editor of an update.
async fn told(socket: &mut Socket) {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(frame) if frame.starts_with(&[0, 2]) => return,
            Message::Close(close) => panic!("{close:?}"),
            _ => {}
        }
    }
}

fn number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A text of so many characters, by client 1.
fn run(count: usize) -> Vec<u8> {
    let mut update = vec![1, 1, 1, 0, 4, 1, 4];
    update.extend(b"text");
    number(&mut update, count);
    update.extend(std::iter::repeat_n(b'x', count));
    update.push(0);
    update
}

/// So many characters of client 2 behind the first of client 1: where the next one goes is found by a walk over all before it.
fn crowd(count: usize) -> Vec<u8> {
    let mut update = vec![1];
    [count, 2, 0].into_iter().for_each(|value| number(&mut update, value));
    for at in 0..count {
        update.extend([0xc4, 1, 0, 1]);
        number(&mut update, at + 2);
        update.extend([1, b'y']);
    }
    update.push(0);
    update
}

/// A text of so many embeds, each behind the one before: parts that take no work to speak of.
fn embeds(count: usize) -> Vec<u8> {
    let mut update = vec![1];
    [count, 3, 0].into_iter().for_each(|value| number(&mut update, value));
    update.extend([5, 1, 4]);
    update.extend(b"text\x011");
    for at in 0..count - 1 {
        update.extend([0x85, 3]);
        number(&mut update, at);
        update.extend([1, b'1']);
    }
    update.push(0);
    update
}

/// Issues an update as a member that asks nobody.
async fn issue(node: &TestNode, id: &str, creates: bool, update: Vec<u8>) {
    let edit = Edit { creates, update: update.into() };
    let commands = vec![Command::Text(DocKey::new("c", id.to_string()), edit)];
    node.node
        .submit(Client::READS, Draft { key: None, guards: vec![], commands, present: false })
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_edit_of_too_much_work_is_refused_and_changes_nothing() {
    let node = start_node().await;
    let mut other = editor(&node, "c/x", None).await;
    let mut attacker = editor(&node, "c/x", None).await;
    send(&mut attacker, &run(CROWD + 3)).await;
    told(&mut attacker).await;
    let ops = node.ops().await;
    send(&mut attacker, &crowd(CROWD)).await;
    assert_eq!(closed(&mut attacker).await, TOO_COSTLY);
    assert_eq!(node.get("/v1/docs/c/x").await.expect(200).text(), "x".repeat(CROWD + 3));
    assert_eq!(node.ops().await, ops, "nothing was written");
    // The others go on, also with edits at the same place.
    told(&mut other).await;
    send(&mut other, &crowd(10)).await;
    told(&mut other).await;
    assert_eq!(node.get("/v1/docs/c/x").await.expect(200).text().len(), CROWD + 13);
}

#[tokio::test]
async fn a_text_of_more_parts_than_may_be_is_refused() {
    let node = start_node().await;
    let mut editor = editor(&node, "c/x", None).await;
    send(&mut editor, &run(3)).await;
    told(&mut editor).await;
    send(&mut editor, &embeds(66_000)).await;
    assert_eq!(closed(&mut editor).await, 4413);
    assert_eq!(node.get("/v1/docs/c/x").await.expect(200).text(), "xxx");
}

#[tokio::test]
async fn a_text_that_a_member_made_costly_is_not_read_and_can_be_begun_again() {
    let [node, peer] = start_pool().await;
    node.call(Method::PUT, "/v1/docs/c/other").typed("text/plain", "other").send().await.expect(201);
    let mut open = editor(&node, "c/x", None).await;
    issue(&peer, "x", true, run(CROWD + 3)).await;
    told(&mut open).await;
    issue(&peer, "x", false, crowd(CROWD)).await;
    until(&node.node, |replica| replica.state().source("c", "x").is_some_and(|source| source.ops.len() == 2)).await;
    // While it is found out that it takes too long, other texts are read, and no reader waits for it.
    assert_eq!(node.get("/v1/docs/c/other").await.expect(200).text(), "other");
    let quiet = tokio::time::timeout(Duration::ZERO, closed(&mut open)).await;
    assert!(quiet.is_err(), "the other text did not wait for this one");
    assert_eq!(closed(&mut open).await, 4410);
    for node in [&node, &peer] {
        let detail = node.get("/v1/docs/c/x").await.expect_problem(500, "unreadable-text");
        assert!(detail.contains("PUT") && detail.contains("DELETE"), "{detail}");
    }
    let mut late = editor(&node, "c/x", None).await;
    assert_eq!(closed(&mut late).await, TOO_COSTLY, "a code upon which editors stay away");
    // Both hold the same, whatever it comes to.
    let mark = |replica: &Replica, _| replica.state().text("c", "x").unwrap().as_str().to_string();
    assert_eq!(node.node.read(mark).await, peer.node.read(mark).await);
    let put = node.call(Method::PUT, "/v1/docs/c/x").typed("text/plain", "again").send().await.expect(200);
    assert_eq!(node.get("/v1/docs/c/x").await.expect(200).text(), "again");
    let read = peer.call(Method::GET, "/v1/docs/c/x").header("lamplight-session", put.session());
    assert_eq!(read.send().await.expect(200).text(), "again");
}

#[tokio::test]
async fn editors_are_told_of_an_edit_that_takes_more_than_a_moment() {
    const COUNT: usize = 500;
    let node = start_node().await;
    let mut open = editor(&node, "c/x", None).await;
    send(&mut open, &run(COUNT + 3)).await;
    told(&mut open).await;
    issue(&node, "x", false, crowd(COUNT)).await;
    let told = async {
        loop {
            match open.next().await.unwrap().unwrap() {
                Message::Binary(frame) if frame.starts_with(&[0, 2]) && frame.len() > COUNT => return,
                Message::Close(close) => panic!("{close:?}"),
                _ => {}
            }
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), told).await.is_ok(), "it was not told of the edit");
}

#[tokio::test]
async fn the_edits_of_a_text_that_everybody_has_are_merged() {
    const EDITS: usize = 150;
    let node = start_forgetful_node().await;
    let mut text = String::new();
    for edit in 0..EDITS {
        text += &format!("{edit} ");
        let put = node.call(Method::PUT, "/v1/docs/c/x").typed("text/plain", text.clone()).send().await;
        assert!(put.status.is_success(), "{}", put.text());
    }
    let merged = |replica: &Replica, _| {
        let source = replica.state().source("c", "x");
        source.is_some_and(|source| source.ops.is_empty() && source.base.iter().count() < EDITS / 2)
    };
    // What is published does not tell of it, for it changes nothing.
    while !node.node.read(merged).await.unwrap() {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.get("/v1/docs/c/x").await.expect(200).text(), text);
}

#[tokio::test]
async fn texts_of_one_token_do_not_take_all_memory() {
    let path = std::env::temp_dir().join(format!("lamplight-texts-{}.json", uuid::Uuid::new_v4()));
    let token = |name: &str| json!({ "name": name, "role": "write", "collections": ["*"], "token": format!("{name}-of-the-lighthouse") });
    std::fs::write(&path, json!({ "tokens": [token("ada"), token("ben")] }).to_string()).unwrap();
    let access = Access::open(Some(path.clone()), Vec::new(), Site::default()).unwrap();
    let node = start_limited(Limits::default(), access).await;
    let (ada, ben) = ("ada-of-the-lighthouse", "ben-of-the-lighthouse");
    for id in ["one", "two"] {
        let mut editor = editor(&node, &format!("c/{id}"), Some(ada)).await;
        send(&mut editor, &embeds(39_000)).await;
        told(&mut editor).await;
    }
    // An eighth of this, and of that a quarter, is less than one of the texts is taken to be.
    node.node.bound_memory(512 << 20, || {});
    let get = |id: &str, token: &str| {
        let call = node.call(Method::GET, if id == "one" { "/v1/docs/c/one" } else { "/v1/docs/c/two" });
        call.header("authorization", format!("Bearer {token}")).send()
    };
    let mut open = editor(&node, "c/one", Some(ada)).await;
    // It is let in once the text is there.
    assert!(matches!(open.next().await.unwrap().unwrap(), Message::Binary(_)));
    let refused = get("two", ada).await;
    let detail = refused.expect_problem(503, "overloaded");
    assert!(detail.contains("close some"), "{detail}");
    assert_eq!(refused.header("retry-after"), "1");
    let mut second = editor(&node, "c/two", Some(ada)).await;
    assert_eq!(closed(&mut second).await, 1013, "a code upon which editors come back");
    // What one has open already, and what another opens.
    get("one", ada).await.expect(200);
    get("two", ben).await.expect(200);
    open.close(None).await.unwrap();
    while open.next().await.is_some() {}
    let mut answer = get("two", ada).await;
    while answer.status == 503 {
        tokio::task::yield_now().await;
        answer = get("two", ada).await;
    }
    answer.expect(200);
    std::fs::remove_file(path).unwrap();
}

//! The pool's secret: who knows it links, who does not learns nothing, and it changes while the pool runs.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/processes.rs"]
mod processes;
mod support;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use futures_util::{SinkExt, StreamExt, future::join_all};
use hyper::Method;
use lamplight::{
    node::{EARLIER_HANDSHAKE, HANDSHAKE, PoolSecret},
    op::{NodeId, PoolId, PublicKey},
    replica::{LinkId, Replica, Standing},
    wire::{self, Hello, Message},
};
use processes::{Http, Process};
use serde_json::{Value, json};
use support::{TestNode, start_as, start_knowing, start_node, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, client::IntoClientRequest},
};
use uuid::Uuid;

const OLD: &str = "the secret until now";
const NEW: &str = "the secret from now on";
/// A first message like any other: its key is the base point, of which anyone may say that it is theirs.
const SOME_MESSAGE: &str = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAATsmwGr9YpA0n63vpzxveB";
/// The challenge of protocol version 5 that a node with this key sent.
const EARLIER_CHALLENGE: &str = "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Lengths of the frames with the proofs of a dialler and of an acceptor.
const PROOF_BYTES: usize = 2 + 4 + 64;
const ANSWER_BYTES: usize = 2 + 16;
/// The close frame that says that a secret is another.
const REFUSED: [u8; 4] = [0x88, 2, 0x11, 0x31];

fn secret(lines: &[&str]) -> PoolSecret {
    PoolSecret::new(lines.join("\n").as_bytes()).unwrap()
}

/// A node that founds a pool with a secret, with a document that nobody else may see.
async fn founder(lines: &[&str]) -> TestNode {
    let node = start_knowing("founder", None, &secret(lines)).await;
    until(&node.node, |replica| replica.standing() == Standing::Member).await;
    node.put("/v1/docs/c/hidden", "\"what only members see\"").await.expect(201);
    node
}

/// Asks until the pool has a problem with a URL, and gives its words.
async fn problem_with(node: &TestNode, url: &str) -> String {
    loop {
        let pool = node.get("/v1/pool").await.expect(200).json();
        let found = pool["problems"].as_array().unwrap().iter().find(|problem| problem["url"] == url);
        if let Some(problem) = found {
            return problem["detail"].as_str().unwrap().into();
        }
    }
}

/// A node that has taken nobody in, and is well.
async fn is_alone(node: &TestNode) {
    assert_eq!(node.get("/v1/pool").await.expect(200).json()["members"].as_array().unwrap().len(), 1);
    assert_eq!(linked(node).await, BTreeSet::new());
    node.put("/v1/docs/c/after", "1").await.expect(201);
}

async fn linked(node: &TestNode) -> BTreeSet<(NodeId, LinkId)> {
    node.node.read(|replica, _| replica.linked().collect()).await.unwrap()
}

fn authority(node: &TestNode) -> &str {
    node.url.strip_prefix("http://").unwrap()
}

/// The head of a request that opens a link, with this first message.
fn request(message: Option<&str>) -> String {
    asking(&message.map(|message| format!("{HANDSHAKE}: {message}\r\n")).unwrap_or_default())
}

/// The head of a request that opens a link, with these lines.
fn asking(lines: &str) -> String {
    format!(
        "GET /v1/gossip HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n{lines}\r\n"
    )
}

/// A connection that has sent the head of a request and has been given the head of the answer.
async fn knock(node: &TestNode, head: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(authority(node)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    (stream, answer)
}

/// A head of HTTP in small letters.
async fn read_head(stream: &mut TcpStream) -> String {
    read_head_as_it_is(stream).await.to_ascii_lowercase()
}

/// A head of HTTP, byte by byte, so that nothing behind it is taken.
async fn read_head_as_it_is(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// All that comes until the end, whether that is a good one or not.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    all
}

/// Asserts that the head of an answer says nothing of the pool.
fn tells_nothing(head: &str) {
    for name in ["lamplight-node", "lamplight-clock", "lamplight-session"] {
        assert!(!head.contains(name), "{head}");
    }
}

#[tokio::test]
async fn nodes_that_know_the_same_secret_are_one_pool() {
    let a = founder(&[OLD]).await;
    // Accepted, but not the one it proves: it is for the other to dial.
    let b = start_knowing("b", Some(a.url.clone()), &secret(&[OLD, NEW])).await;
    until(&b.node, |replica| replica.standing() == Standing::Member).await;
    let written = b.put("/v1/docs/c/x", "1").await.expect(201);
    let read = a.call(Method::GET, "/v1/docs/c/x").header("lamplight-session", written.session());
    assert_eq!(read.send().await.expect(200).text(), "1");
    b.get("/v1/docs/c/hidden").await.expect(200);
}

#[tokio::test]
async fn nodes_with_other_secrets_or_only_one_with_any_do_not_link_and_say_why() {
    let a = founder(&[OLD]).await;
    let other = start_knowing("other", Some(a.url.clone()), &secret(&[NEW])).await;
    let words = problem_with(&other, &a.url).await;
    assert!(words.contains("the pool secret of") && words.contains("is another: check --pool-secret-file"), "{words}");
    let without = start_knowing("without", Some(a.url.clone()), &PoolSecret::none()).await;
    let words = problem_with(&without, &a.url).await;
    assert!(words.contains("this one has none: start this one with --pool-secret-file"), "{words}");
    let open = start_node().await;
    let with = start_knowing("with", Some(open.url.clone()), &secret(&[OLD])).await;
    let words = problem_with(&with, &open.url).await;
    assert!(words.contains("has no pool secret: start it with --pool-secret-file"), "{words}");
    for stranger in [&other, &without, &with] {
        let pool = stranger.get("/v1/pool").await.expect(200).json();
        assert_eq!((&pool["state"], &pool["pool"], &pool["members"]), (&json!("joining"), &Value::Null, &json!([])));
    }
    is_alone(&a).await;
    is_alone(&open).await;
}

#[tokio::test]
async fn whoever_dials_without_the_secret_sees_two_keys_and_nothing_else_whatever_it_sends() {
    let a = founder(&[OLD]).await;
    let id = a.node.id().to_string();
    for head in [request(None), request(Some("")), request(Some("x")), request(Some(&"A".repeat(64)))] {
        let (mut stream, answer) = knock(&a, &head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("http/1.1 4"), "{answer}");
        tells_nothing(&answer);
        let body = String::from_utf8(rest(&mut stream).await).unwrap();
        assert!(body.contains("pool-secret") && !body.contains(&id) && !body.contains("founder"), "{body}");
    }
    let hello = wire::encode(&Message::Hello(Hello::newcomer(
        NodeId(Uuid::new_v4()),
        "peer",
        Some((PoolId(Uuid::new_v4()), "lamplight".into())),
    )));
    let messages = [
        tungstenite::Message::binary(hello),
        tungstenite::Message::binary(vec![7; 32]),
        tungstenite::Message::binary(vec![7; 8 << 20]),
        tungstenite::Message::text("hello"),
        tungstenite::Message::Ping(vec![1].into()),
        tungstenite::Message::binary(Vec::new()),
        tungstenite::Message::Close(None),
    ];
    for message in messages {
        let mut asked = format!("{}/v1/gossip", a.url.replace("http", "ws")).into_client_request().unwrap();
        asked.headers_mut().insert(HANDSHAKE, SOME_MESSAGE.parse().unwrap());
        let (mut socket, answer): (WebSocketStream<MaybeTlsStream<TcpStream>>, _) = connect_async(asked).await.unwrap();
        let said: BTreeSet<&str> = answer.headers().keys().map(hyper::header::HeaderName::as_str).collect();
        let websocket = ["connection", "date", "sec-websocket-accept", "upgrade"];
        // The same in every answer of every node.
        let guards =
            ["content-security-policy", "cross-origin-resource-policy", "referrer-policy", "x-content-type-options"];
        let expected = websocket.into_iter().chain(guards).chain(["lamplight-noise"]);
        assert_eq!(said, expected.collect());
        // Two keys and their tags, in base64.
        assert_eq!(answer.headers()[HANDSHAKE].len(), 2 * SOME_MESSAGE.len());
        // It may be cut off before it has sent all.
        let _ = socket.send(message).await;
        while let Some(said) = socket.next().await {
            match said {
                Ok(tungstenite::Message::Close(frame)) => assert_eq!(frame.unwrap().reason, ""),
                Ok(said) => panic!("it was told {said:?}"),
                Err(_) => break,
            }
        }
    }
    is_alone(&a).await;
}

#[tokio::test]
async fn a_page_of_a_browser_and_a_head_that_is_too_long_are_refused() {
    let a = founder(&[OLD]).await;
    let page = request(Some(SOME_MESSAGE)).replace("host: x", "host: x\r\norigin: http://x");
    let long = request(Some(SOME_MESSAGE)).replace("host: x", &format!("host: x\r\nx: {}", "x".repeat(4 << 10)));
    for (head, status) in [(page, "403"), (long, "431"), ("GET /v1/gossip HTTP/1.1\r\nhost: x\r\n\r\n".into(), "400")] {
        let (_, answer) = knock(&a, &head).await;
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{answer}");
        tells_nothing(&answer);
    }
}

/// What went over the connections through a proxy, a pair each: from who dialled, and from who was dialled.
type Recorded = Arc<Mutex<Vec<(Vec<u8>, Vec<u8>)>>>;

/// Passes on all that is said, and keeps it.
async fn recorder(to: &TestNode) -> (String, Recorded) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (recorded, to): (Recorded, String) = (Arc::default(), authority(to).into());
    let kept = Arc::clone(&recorded);
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(&to).await.unwrap();
            let place = {
                let mut kept = kept.lock().unwrap();
                kept.push((Vec::new(), Vec::new()));
                kept.len() - 1
            };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let forth = Arc::clone(&kept);
            tokio::spawn(pass(near_in, far_out, move |bytes| forth.lock().unwrap()[place].0.extend(bytes)));
            let back = Arc::clone(&kept);
            tokio::spawn(pass(far_in, near_out, move |bytes| back.lock().unwrap()[place].1.extend(bytes)));
        }
    });
    (url, recorded)
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    keep: impl Fn(&[u8]) + Send,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        keep(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Where the head of HTTP ends, and what is behind it.
fn split_head(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    bytes.split_at(end)
}

#[tokio::test]
async fn a_handshake_that_was_recorded_opens_nothing_and_what_was_recorded_tells_nothing() {
    let a = founder(&[OLD]).await;
    let (url, recorded) = recorder(&a).await;
    let b = start_knowing("newcomer", Some(url.clone()), &secret(&[OLD])).await;
    until(&b.node, |replica| replica.standing() == Standing::Member).await;
    let written = b.put("/v1/docs/c/x", "\"what they say over the link\"").await.expect(201);
    let read = a.call(Method::GET, "/v1/docs/c/x").header("lamplight-session", written.session());
    read.send().await.expect(200);
    let (asked, answered) =
        recorded.lock().unwrap().iter().max_by_key(|(asked, answered)| asked.len() + answered.len()).unwrap().clone();
    // Who stands between the two sees ephemeral keys, and the lengths of what they say.
    let pool = a.node.read(|replica, _| replica.pool().cloned().unwrap()).await.unwrap();
    let (a_id, b_id) = (a.node.id().0, b.node.id().0);
    let hidden: [&[u8]; 8] = [
        OLD.as_bytes(),
        pool.1.as_bytes(),
        pool.0.0.as_bytes(),
        a_id.as_bytes(),
        b_id.as_bytes(),
        b"newcomer",
        b"what only members see",
        b"what they say over the link",
    ];
    assert!(asked.len() > 500 && answered.len() > 500, "they have linked");
    for said in [&asked, &answered] {
        for secret in hidden {
            assert!(!split_head(said).1.windows(secret.len()).any(|part| part == secret));
        }
    }
    let before = linked(&a).await;
    // Said again to who was dialled: its ephemeral key is another now.
    let mut stream = TcpStream::connect(authority(&a)).await.unwrap();
    let (head, said) = split_head(&asked);
    stream.write_all(head).await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    // It may end before it has read what comes behind the proof.
    let _ = stream.write_all(&said[..PROOF_BYTES]).await;
    assert_eq!(rest(&mut stream).await, REFUSED);
    assert_eq!(linked(&a).await, before);
    // Said again to who dials: it makes nothing of the second message, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(impostor(listener, move |key, _| {
        let head = String::from_utf8(split_head(&answered).0.to_vec()).unwrap();
        (with_accept(&head, key), split_head(&answered).1[..ANSWER_BYTES].to_vec())
    }));
    b.node.join(url.clone()).await.unwrap();
    let words = problem_with(&b, &url).await;
    assert!(words.contains("something else than a proof"), "{words}");
}

/// The head of an answer with another key accepted.
fn with_accept(head: &str, key: &str) -> String {
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let other = |line: &&str| !line.to_ascii_lowercase().starts_with("sec-websocket-accept") && !line.is_empty();
    let lines: Vec<&str> = head.split("\r\n").filter(other).collect();
    format!("{}\r\nsec-websocket-accept: {accept}\r\n\r\n", lines.join("\r\n"))
}

/// One who is dialled and answers each request, of this key and message 1, by a head and these bytes.
async fn impostor(listener: TcpListener, answer: impl Fn(&str, &str) -> (String, Vec<u8>)) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = read_head_as_it_is(&mut stream).await;
        let header = |name: &str| {
            let found = asked.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
            found.unwrap().split_once(": ").unwrap().1
        };
        let (head, said) = answer(header("sec-websocket-key"), header(HANDSHAKE));
        stream.write_all(head.as_bytes()).await.unwrap();
        let _ = stream.write_all(&said).await;
        assert_eq!(rest(&mut stream).await, b"", "nothing is said to who has proved nothing");
    }
}

#[tokio::test]
async fn a_message_that_is_sent_back_to_its_maker_is_refused() {
    let a = founder(&[OLD]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    // Message 2 is as long as two of message 1.
    tokio::spawn(impostor(listener, move |key, message| {
        let said = format!("\r\n{HANDSHAKE}: {message}{message}\r\n\r\n");
        (with_accept(&head.replace("\r\n\r\n", &said), key), vec![0x82, 16])
    }));
    a.node.join(url.clone()).await.unwrap();
    let words = problem_with(&a, &url).await;
    assert!(words.contains("something else than a proof"), "{words}");
    is_alone(&a).await;
}

#[tokio::test]
async fn a_node_of_an_earlier_version_is_refused_and_both_say_why() {
    let a = founder(&[OLD]).await;
    // It dials, with the handshake of version 5.
    let asked = asking(&format!("{EARLIER_HANDSHAKE}: {EARLIER_CHALLENGE}\r\nconnection: close\r\n"));
    let (mut stream, answer) = knock(&a, &asked).await;
    assert!(
        answer.starts_with("http/1.1 426")
            && answer.contains("lamplight-refusal: other-version")
            && answer.contains("upgrade: websocket"),
        "{answer}"
    );
    tells_nothing(&answer);
    let body = String::from_utf8(rest(&mut stream).await).unwrap();
    assert!(body.contains("update the older of the two"), "{body}");
    // A node without a secret has nothing to do with either handshake.
    let open = start_node().await;
    let (_, answer) = knock(&open, &asked).await;
    assert!(answer.starts_with("http/1.1 403") && answer.contains("lamplight-refusal: no-secret"), "{answer}");
    // It is dialled, and does not know the header of this handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(impostor(listener, |_, _| {
        let head = "HTTP/1.1 403 Forbidden\r\nlamplight-refusal: secret-needed\r\ncontent-length: 0\r\n\r\n";
        (head.into(), Vec::new())
    }));
    a.node.join(url.clone()).await.unwrap();
    let words = problem_with(&a, &url).await;
    assert!(words.contains("speaks another version of the handshake between nodes: update the older"), "{words}");
    is_alone(&a).await;
}

#[tokio::test]
async fn whoever_is_silent_or_slow_before_the_proof_is_shed() {
    let a = founder(&[OLD]).await;
    // Each waits for the end, which is the node's; none of them ends by itself.
    let began: [&[u8]; 4] = [&[], &[0x82], &[0x82, 0xc0, 1, 2, 3, 4], &[&[0x82, 0xc0][..], &[7; 67]].concat()];
    let all = began.map(|bytes| {
        let a = &a;
        async move {
            let (mut stream, _) = knock(a, &request(Some(SOME_MESSAGE))).await;
            stream.write_all(bytes).await.unwrap();
            assert_eq!(rest(&mut stream).await, b"");
        }
    });
    join_all(all).await;
    is_alone(&a).await;
}

#[tokio::test]
async fn a_crowd_that_proves_nothing_keeps_nobody_out() {
    let a = founder(&[OLD]).await;
    let b = start_knowing("b", Some(a.url.clone()), &secret(&[OLD])).await;
    until(&b.node, |replica| replica.standing() == Standing::Member).await;
    let before = linked(&a).await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(knock(&a, &request(Some(SOME_MESSAGE))).await.0);
    }
    let c = start_knowing("c", Some(a.url.clone()), &secret(&[OLD])).await;
    until(&c.node, |replica| replica.standing() == Standing::Member).await;
    assert!(linked(&a).await.is_superset(&before), "links that are proved are as they were");
    // The first have given way.
    assert_eq!(rest(&mut crowd[0]).await, b"");
}

#[tokio::test]
async fn handshakes_beyond_the_rate_are_refused_with_429_and_nodes_link_again_after_that() {
    let a = founder(&[OLD]).await;
    let began = std::time::Instant::now();
    let mut answers = Vec::new();
    for _ in 0..400 {
        answers.push(knock(&a, &request(Some(SOME_MESSAGE))).await.1);
    }
    let seconds = 1 + began.elapsed().as_secs() as usize;
    let refused = answers.iter().filter(|answer| answer.starts_with("http/1.1 429")).collect::<Vec<_>>();
    assert!(answers.len() - refused.len() <= 32 + 8 * seconds, "{} in {seconds} s", answers.len() - refused.len());
    for answer in refused {
        assert!(answer.contains("lamplight-refusal: too-many") && answer.contains("retry-after: 1"), "{answer}");
        tells_nothing(answer);
    }
    // A node at the same address waits for its turn.
    let b = start_knowing("b", Some(a.url.clone()), &secret(&[OLD])).await;
    until(&b.node, |replica| replica.standing() == Standing::Member).await;
}

/// The keys of all who ever were members, as a node knows them.
async fn keys(node: &TestNode) -> Vec<(NodeId, Option<PublicKey>)> {
    let keys = |replica: &Replica| replica.roster().all().keys().map(|id| (*id, replica.roster().key(*id))).collect();
    node.node.read(move |replica, _| keys(replica)).await.unwrap()
}

#[tokio::test]
async fn each_member_has_a_key_of_its_own_which_all_know_and_without_a_secret_there_is_none() {
    let a = founder(&[OLD]).await;
    let b = start_knowing("b", Some(a.url.clone()), &secret(&[OLD])).await;
    until(&b.node, |replica| replica.standing() == Standing::Member).await;
    let ids = [a.node.id(), b.node.id()];
    let known = move |replica: &Replica| ids.iter().all(|id| replica.roster().key(*id).is_some());
    until(&a.node, known).await;
    until(&b.node, known).await;
    let all = keys(&a).await;
    assert_eq!(all, keys(&b).await);
    assert!(all.len() == 2 && all[0].1 != all[1].1);
    let log = a.get("/v1/log?limit=100").await.expect(200).text();
    assert!(all.iter().all(|(_, key)| log.contains(&format!("\"key\":\"{}\"", key.unwrap()))), "{log}");
    let open = start_node().await;
    assert_eq!(keys(&open).await, [(open.node.id(), None)]);
    assert!(!open.get("/v1/log").await.expect(200).text().contains("\"key\""));
}

#[tokio::test]
async fn a_member_that_speaks_under_the_id_of_another_with_its_own_key_is_refused() {
    let a = founder(&[OLD]).await;
    let b = start_knowing("b", Some(a.url.clone()), &secret(&[OLD])).await;
    until(&b.node, |replica| replica.standing() == Standing::Member).await;
    let (a_id, b_id) = (a.node.id(), b.node.id());
    until(&a.node, move |replica| replica.roster().key(b_id).is_some()).await;
    let before = linked(&a).await;
    // It knows the secret, runs this program, and says that it is a node that it is not.
    for id in [b_id, a_id] {
        let other = start_as(id, "impostor", Some(a.url.clone()), &secret(&[OLD])).await;
        // It finds no way in under that id, and comes in under one of its own.
        until(&other.node, move |replica| replica.node() != id && replica.standing() == Standing::Member).await;
        assert_eq!((a.node.id(), b.node.id()), (a_id, b_id), "who has the key stays");
        let known = keys(&a).await;
        assert!(known.iter().all(|(_, key)| key.is_some()), "{known:?}");
    }
    assert!(linked(&a).await.is_superset(&before));
    let problems = a.get("/v1/pool").await.expect(200).json()["problems"].to_string();
    assert!(!problems.contains("two processes"), "{problems}");
}

#[tokio::test]
async fn the_secret_changes_while_the_pool_runs() {
    let secrets = [(); 3].map(|()| secret(&[OLD]));
    let a = start_knowing("a", None, &secrets[0]).await;
    let b = start_knowing("b", Some(a.url.clone()), &secrets[1]).await;
    let c = start_knowing("c", Some(a.url.clone()), &secrets[2]).await;
    let nodes = [&a, &b, &c];
    all_linked(&nodes, &BTreeSet::new()).await;
    let first = links_of(&nodes).await;
    // Node by node, as an operator would; links stay, for what they were proved with is still accepted.
    for lines in [[OLD, NEW].join("\n"), [NEW, OLD].join("\n")] {
        for secret in &secrets {
            assert_eq!(secret.replace(lines.as_bytes()), Ok(true));
            all_linked(&nodes, &BTreeSet::new()).await;
        }
        assert_eq!(links_of(&nodes).await, first);
    }
    // A link that knows only the old secret ends, and is made anew with the new one.
    for secret in &secrets {
        assert_eq!(secret.replace(NEW.as_bytes()), Ok(true));
    }
    all_linked(&nodes, &first).await;
    let newcomer = start_knowing("newcomer", Some(b.url.clone()), &secret(&[NEW])).await;
    until(&newcomer.node, |replica| replica.standing() == Standing::Member).await;
    let late = start_knowing("late", Some(b.url.clone()), &secret(&[OLD])).await;
    assert!(problem_with(&late, &b.url).await.contains("is another"));
}

async fn links_of(nodes: &[&TestNode]) -> BTreeSet<(NodeId, NodeId, LinkId)> {
    let mut all = BTreeSet::new();
    for node in nodes {
        all.extend(linked(node).await.into_iter().map(|(peer, link)| (node.node.id(), peer, link)));
    }
    all
}

/// Waits until every pair is linked by none of these links, and what one writes is read on the others.
async fn all_linked(nodes: &[&TestNode], old: &BTreeSet<(NodeId, NodeId, LinkId)>) {
    loop {
        let links = links_of(nodes).await;
        if links.is_disjoint(old) && links.len() == nodes.len() * (nodes.len() - 1) {
            break;
        }
    }
    for node in nodes {
        let written = node.put("/v1/docs/c/round", "1").await;
        for other in nodes {
            let read = other.call(Method::GET, "/v1/docs/c/round").header("lamplight-session", written.session());
            read.send().await.expect(200);
        }
    }
}

/// A directory of its own, which goes when it is dropped.
struct Dir(std::path::PathBuf);

impl Dir {
    fn new() -> Dir {
        let path = std::env::temp_dir().join(format!("lamplight-secret-{}", Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Dir(path)
    }

    /// Writes a file, in one step as a careful operator does.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
        path.to_str().unwrap().into()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_change_of_the_file_is_taken_without_a_restart_and_a_bad_one_is_named() {
    let (dir, http) = (Dir::new(), Http::new());
    let (first, second) = (dir.write("first", OLD), dir.write("second", NEW));
    let serve = |file: &str, more: &[&str]| {
        Process::serve(&[&["--memory", "--listen", "127.0.0.1:0", "--pool-secret-file", file], more].concat())
    };
    let a = serve(&first, &[]);
    http.formed(&[&a], 1).await;
    let b = serve(&second, &["--join", &a.url]);
    let another = |pool: &Value| pool["problems"].to_string().contains("is another: check --pool-secret-file");
    http.pool_until(&b, another).await;
    dir.write("first", &format!("{OLD}\n{NEW}\n"));
    http.formed(&[&a, &b], 2).await;
    // A file that is empty, too short or gone opens no door and shuts none.
    dir.write("second", "");
    while !b.said().contains("there is no secret in it") {}
    dir.write("second", "too short");
    while !b.said().contains("the secret on line 1 is shorter than 16 bytes") {}
    std::fs::remove_file(&second).unwrap();
    while !b.said().contains("No such file") {}
    http.converged(&[&a, &b]).await;
    for node in [&a, &b] {
        for path in ["/v1/pool", "/metrics", "/readyz"] {
            let (status, _, answer) = http.call(Method::GET, &format!("{}{path}", node.url), None, String::new()).await;
            let shown = String::from_utf8(answer.to_vec()).unwrap();
            assert!(status.is_success() && !shown.contains(OLD) && !shown.contains(NEW), "{path}: {shown}");
        }
    }
    for said in [a.said(), b.said()] {
        assert!(!said.contains(OLD) && !said.contains(NEW) && !said.contains("too short\n"), "{said}");
    }
}

#[test]
fn a_file_without_a_good_secret_is_named_at_the_start() {
    let dir = Dir::new();
    let path = |name: &str| dir.0.join(name).to_str().unwrap().to_string();
    let cases = [
        (path("missing"), "No such file"),
        (path(""), "not a regular file"),
        (dir.write("empty", "\n \n"), "there is no secret in it"),
        (dir.write("short", "0123456789abcde\n"), "line 1 is shorter than 16 bytes. Make one with: head -c 32"),
        (dir.write("many", &format!("{OLD}\n").repeat(9)), "more than 8 lines"),
        (dir.write("long", &"x".repeat(100_000)), "more than 65536 bytes"),
    ];
    for (file, words) in cases {
        let (code, said) = Process::refused(&["--memory", "--listen", "127.0.0.1:0", "--pool-secret-file", &file]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words) && said.contains(&file) && !said.contains("0123456789"), "{said}");
    }
}

/// The flags of a node in a directory, with the pool secret in a file.
fn in_dir<'a>(data: &'a str, secret: &'a str) -> Vec<&'a str> {
    vec!["--data", data, "--listen", "127.0.0.1:0", "--pool-secret-file", secret]
}

async fn id_of(http: &Http, node: &Process) -> String {
    http.json(&format!("{}/v1/pool", node.url)).await["node"].as_str().unwrap().to_string()
}

/// The keys that the log of a node says, with their nodes.
async fn keys_in_log(http: &Http, node: &Process) -> BTreeSet<(String, String)> {
    let log = http.json(&format!("{}/v1/log?limit=1000", node.url)).await;
    let commands = log["ops"].as_array().unwrap().iter().map(|op| &op["commands"][0]["key"]);
    let text = |value: &Value| value.as_str().unwrap().to_string();
    commands.filter(|key| key.is_object()).map(|key| (text(&key["node"]), text(&key["key"]))).collect()
}

#[tokio::test]
async fn a_restart_keeps_the_key_and_a_node_without_its_key_file_comes_back_under_a_new_id_with_all_its_data() {
    let (dir, http) = (Dir::new(), Http::new());
    let (file, data) = (dir.write("secret", OLD), dir.0.join("data"));
    let args = in_dir(data.to_str().unwrap(), &file);
    let key_file = data.join("node-key");
    let (mut id, mut keys, mut node) = (String::new(), BTreeSet::new(), None);
    for start in 0..3 {
        drop(node.take());
        let process = Process::serve(&args);
        http.formed(&[&process], 1).await;
        if start == 0 {
            (id, keys) = (id_of(&http, &process).await, keys_in_log(&http, &process).await);
            assert_eq!(http.put(&format!("{}/v1/docs/c/x", process.url), "1").await.as_u16(), 201);
        }
        assert_eq!((id_of(&http, &process).await, keys_in_log(&http, &process).await), (id.clone(), keys.clone()));
        node = Some(process);
    }
    assert_eq!((keys.len(), keys.iter().next().unwrap().0.clone()), (1, id.clone()));
    drop(node.take());
    // A damaged key is no reason to go on under another id without being told.
    let key = std::fs::read(&key_file).unwrap();
    std::fs::write(&key_file, &key[..key.len() - 3]).unwrap();
    let (code, said) = Process::refused(&args);
    assert!(code == Some(1) && said.contains("node-key is damaged") && said.contains("or remove it"), "{said}");
    std::fs::remove_file(&key_file).unwrap();
    let process = Process::serve(&args);
    http.formed(&[&process], 1).await;
    assert_ne!(id_of(&http, &process).await, id);
    assert!(process.said().contains("the file node-key was lost or replaced"), "{}", process.said());
    assert_eq!(http.json(&format!("{}/v1/docs/c/x", process.url)).await, json!(1));
}

/// Copies a directory with all that is in it.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_copy_of_a_data_directory_that_runs_beside_the_original_comes_back_as_another_also_without_its_key() {
    for with_key in [true, false] {
        let (dir, http) = (Dir::new(), Http::new());
        let file = dir.write("secret", OLD);
        let [one, two, three] = ["one", "two", "three"].map(|name| dir.0.join(name));
        let a = Process::serve(&in_dir(one.to_str().unwrap(), &file));
        http.formed(&[&a], 1).await;
        let with_join = |data: &std::path::Path| {
            let args = in_dir(data.to_str().unwrap(), &file);
            Process::serve(&[&args[..], &["--join", &a.url]].concat())
        };
        let mut b = with_join(&two);
        http.formed(&[&a, &b], 2).await;
        http.converged(&[&a, &b]).await;
        assert_eq!(b.stop(), Some(0));
        copy(&two, &three);
        if !with_key {
            std::fs::remove_file(three.join("node-key")).unwrap();
        }
        let original = with_join(&two);
        http.formed(&[&a, &original], 2).await;
        let id = id_of(&http, &original).await;
        // The two meet at once, for the copy knows where the original is.
        let args = in_dir(three.to_str().unwrap(), &file);
        let other = Process::serve(&[&args[..], &["--join", &a.url, "--join", &original.url]].concat());
        http.formed(&[&a, &original, &other], 3).await;
        let ids = [id_of(&http, &original).await, id_of(&http, &other).await];
        assert!(ids[0] != ids[1] && (with_key || ids[0] == id), "{ids:?} of {id}");
        http.converged(&[&a, &original, &other]).await;
    }
}

#[tokio::test]
async fn an_evicted_node_comes_back_with_another_key_and_its_old_one_is_refused() {
    let (dir, http) = (Dir::new(), Http::new());
    let file = dir.write("secret", OLD);
    let data: Vec<_> = ["a", "b", "c"].map(|name| dir.0.join(name)).into();
    let a = Process::serve(&in_dir(data[0].to_str().unwrap(), &file));
    http.formed(&[&a], 1).await;
    let with_join = |at: usize| {
        let args = in_dir(data[at].to_str().unwrap(), &file);
        Process::serve(&[&args[..], &["--join", &a.url]].concat())
    };
    let (b, mut c) = (with_join(1), with_join(2));
    http.formed(&[&a, &b, &c], 3).await;
    http.converged(&[&a, &b, &c]).await;
    let evicted = id_of(&http, &c).await;
    c.kill();
    let url = format!("{}/v1/pool/members/{evicted}?force=true", a.url);
    let (status, ..) = http.call(Method::DELETE, &url, None, String::new()).await;
    assert!(status.is_success(), "{status}");
    http.formed(&[&a, &b], 2).await;
    let c = with_join(2);
    http.formed(&[&a, &b, &c], 3).await;
    http.converged(&[&a, &b, &c]).await;
    let keys = keys_in_log(&http, &a).await;
    let of = |id: &str| keys.iter().find(|(node, _)| node == id).map(|(_, key)| key.clone());
    let new = of(&id_of(&http, &c).await);
    assert!(new.is_some() && of(&evicted).is_some() && new != of(&evicted), "{keys:?}");
}

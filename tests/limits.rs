//! The limits of what clients may take of a node: each is reached, and answers as docs/limits.md says.
//!
//! What is held for long is held over bare sockets, on which nothing is sent but what the test sends.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]
#![allow(clippy::float_cmp, reason = "counts are whole")]

mod support;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::{
    SinkExt, StreamExt,
    future::{join_all, select_all},
};
use hyper::Method;
use lamplight::api::{Access, Limits, MemoryBudget, Rate, Site};
use serde_json::{Value, json};
use support::{
    TestNode, exposition::Scrape, feeds::Ws, start_joining_to, start_limited, start_node, start_pool, until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use yrs::{Doc, GetString, ReadTxn, Text, Transact, updates::decoder::Decode};

/// What a test takes for a short time: nothing waits for as long, but whoever is to be cut off.
const SHORT: Duration = Duration::from_millis(200);

async fn dial(node: &TestNode) -> TcpStream {
    TcpStream::connect(node.url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// A request on a connection of its own, to the end of what comes back.
async fn ask(node: &TestNode, path: &str) -> String {
    let mut socket = dial(node).await;
    socket
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    rest(&mut socket).await
}

/// All that comes until the node closes, also where it resets.
async fn rest(socket: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let _ = socket.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

fn a_second(per_second: u32, burst: u32) -> Limits {
    let rate = Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() };
    Limits { requests: Some(rate), ..Limits::default() }
}

async fn start_rated(per_second: u32, burst: u32) -> TestNode {
    start_limited(a_second(per_second, burst), Access::default()).await
}

#[tokio::test]
async fn requests_beyond_the_rate_are_told_when_to_come_again() {
    let node = start_rated(1, 5).await;
    let answers = join_all(
        (0..60).map(|n| node.call(Method::PUT, "/v1/docs/c/a").json("1").header("x-number", n.to_string()).send()),
    )
    .await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status.is_success());
    assert!(taken.len() >= 5 && !refused.is_empty(), "{} and {}", taken.len(), refused.len());
    for answer in refused {
        let detail = answer.expect_problem(429, "too-many-requests");
        assert!(detail.contains("1 requests a second from one address") && detail.contains("POST /v1/tx"), "{detail}");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=2).contains(&wait), "{wait}");
        assert_eq!(answer.json()["retry_after"], wait);
    }
    for probe in ["/livez", "/readyz", "/metrics"] {
        for _ in 0..20 {
            node.get(probe).await.expect(200);
        }
    }
}

#[tokio::test]
async fn each_token_has_a_rate_of_its_own() {
    let path = std::env::temp_dir().join(format!("lamplight-limits-{}.json", uuid::Uuid::new_v4()));
    let token = |name: &str| json!({ "name": name, "role": "write", "collections": ["*"], "token": format!("{name}-of-the-lighthouse") });
    std::fs::write(&path, json!({ "tokens": [token("ada"), token("ben")] }).to_string()).unwrap();
    let access = Access::open(Some(path.clone()), Vec::new(), Site::default()).unwrap();
    let node = start_limited(a_second(1, 3), access).await;
    let ask = |name: &str| {
        node.call(Method::GET, "/v1/collections")
            .header("authorization", format!("Bearer {name}-of-the-lighthouse"))
            .send()
    };
    let answers = join_all((0..40).map(|_| ask("ada"))).await;
    let refused = answers.into_iter().find(|answer| answer.status == 429).unwrap();
    assert!(refused.expect_problem(429, "too-many-requests").contains("of one token"));
    ask("ben").await.expect(200);
    // Who guesses tokens has an address.
    let guesses = join_all((0..40).map(|_| ask("eve"))).await;
    assert!(guesses.iter().any(|answer| answer.status == 401) && guesses.iter().any(|answer| answer.status == 429));
    ask("ben").await.expect(200);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn messages_beyond_the_rate_are_refused_one_by_one_and_the_connection_goes_on() {
    let node = start_rated(5, 5).await;
    let mut ws = Ws::connect(&node).await;
    let write = |n: u32| json!({ "type": "write", "id": n.to_string(), "commands": [{ "put": { "collection": "c", "id": n.to_string(), "value": n } }] });
    for n in 0..60 {
        ws.send(write(n)).await;
    }
    let (mut refused, mut answered) = (0, std::collections::BTreeSet::new());
    while answered.len() < 60 {
        let message = ws.next().await;
        if message["type"] == "error" {
            assert_eq!(message["problem"]["type"], "urn:lamplight:problem:too-many-requests", "{message}");
            assert!(message["problem"]["retry_after"].as_u64().is_some_and(|wait| wait >= 1), "{message}");
            refused += 1;
        }
        answered.insert(message["id"].as_str().unwrap().to_string());
    }
    assert!(refused > 0);
    assert_eq!(node.node.read(|replica, _| replica.state().count()).await.unwrap(), 60 - refused);
    loop {
        ws.send(write(99)).await;
        let message = ws.next().await;
        if message["type"] == "receipt" && message["id"] == "99" {
            break;
        }
    }
}

#[tokio::test]
async fn lines_of_a_bulk_load_beyond_the_rate_are_slowed_down() {
    let node = start_rated(20, 5).await;
    let began = Instant::now();
    let lines: Vec<String> = (0..25).map(|n| format!("{{\"id\":\"{n}\",\"value\":{n}}}\n")).collect();
    let answer =
        node.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", lines.concat()).send().await.expect(200);
    assert_eq!(answer.text().matches("\"receipt\"").count(), 25, "{}", answer.text());
    // 5 at once, and of the other 20 and the request itself one every 50 ms.
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_editor_beyond_the_rate_is_slowed_down_and_loses_nothing() {
    let node = start_rated(20, 2).await;
    let began = Instant::now();
    let (mut socket, _) = connect_async(format!("{}/v1/yjs/c/a", node.url.replace("http", "ws"))).await.unwrap();
    let doc = Doc::new();
    let text = doc.get_or_insert_text("content");
    for n in 0..24 {
        let update = {
            let mut edit = doc.transact_mut();
            text.push(&mut edit, &format!("{n} "));
            edit.encode_update_v1()
        };
        let mut frame = vec![0, 2, update.len() as u8];
        assert!(update.len() < 128, "one byte of length");
        frame.extend(update);
        socket.send(Message::binary(frame)).await.unwrap();
        // One after the other, for what comes in a burst is one edit.
        if n < 12 {
            let (id, wanted) = (node.node.clone(), n + 1);
            until(&id, move |replica| replica.clock() > wanted).await;
        }
    }
    let whole = text.get_string(&doc.transact());
    loop {
        let answer = node.get("/v1/docs/c/a").await;
        if answer.text() == whole {
            break;
        }
        assert!(answer.status == 200 || answer.status == 429, "{}", answer.text());
        // Each question counts as well; the next message is the edit of ours that is made known, or a ping.
        tokio::time::sleep(SHORT).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_those_of_an_address_are_answered_and_closed() {
    let node = start_limited(Limits { connections_per_address: 2, ..Limits::default() }, Access::default()).await;
    let mut held = vec![dial(&node).await, dial(&node).await];
    for path in ["/v1/collections", "/", "/livez"] {
        let answer = ask(&node, path).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        for part in [
            "urn:lamplight:problem:too-many-connections",
            "takes 2 connections from one address",
            "retry-after: 1",
            "connection: close",
        ] {
            assert!(answer.contains(part), "{part} in {answer}");
        }
    }
    held.pop();
    while !ask(&node, "/livez").await.starts_with("HTTP/1.1 200 ") {}
}

#[tokio::test]
async fn connections_beyond_all_are_answered_and_closed() {
    let node = start_limited(Limits { connections: 1, ..Limits::default() }, Access::default()).await;
    let held = dial(&node).await;
    let answer = ask(&node, "/v1/collections").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("takes 1 connections, and they are taken"),
        "{answer}"
    );
    drop(held);
    while !ask(&node, "/v1/collections").await.starts_with("HTTP/1.1 200 ") {}
}

#[tokio::test]
async fn peers_come_in_from_an_address_whose_clients_have_taken_all_connections() {
    let limits = Limits { connections: 1, connections_per_address: 1, ..a_second(1, 1) };
    let node = start_limited(limits, Access::default()).await;
    let _held = dial(&node).await;
    assert!(ask(&node, "/v1/collections").await.starts_with("HTTP/1.1 503 "));
    let peers = [start_joining_to(&node).await, start_joining_to(&node).await];
    peers[0].put("/v1/docs/c/a", "1").await.expect(201);
    until(&node.node, |replica| replica.state().count() == 1).await;
}

#[tokio::test]
async fn half_a_head_is_given_up() {
    let node = start_limited(Limits { head_timeout: SHORT, ..Limits::default() }, Access::default()).await;
    let mut half = dial(&node).await;
    half.write_all(b"GET /v1/collections HTTP/1.1\r\nHost: loc").await.unwrap();
    rest(&mut half).await;
    let mut silent = dial(&node).await;
    rest(&mut silent).await;
    // A head that trickles has no more time than one that stops.
    let (mut reader, mut writer) = dial(&node).await.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"X").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let _ = reader.read_to_end(&mut Vec::new()).await;
    trickle.await.unwrap();
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up_with_an_answer() {
    let node = start_limited(Limits { body_timeout: SHORT, ..Limits::default() }, Access::default()).await;
    let (mut reader, mut writer) = dial(&node).await.into_split();
    let head = "PUT /v1/docs/c/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n1";
    writer.write_all(head.as_bytes()).await.unwrap();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("too-slow") {
        assert!(reader.read_buf(&mut said).await.unwrap() > 0, "{}", String::from_utf8_lossy(&said));
    }
    assert!(said.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&said));
    drop(reader);
    trickle.await.unwrap();
    assert_eq!(node.node.read(|replica, _| replica.state().count()).await.unwrap(), 0);
}

#[tokio::test]
async fn a_bulk_load_whose_line_does_not_come_is_ended_where_it_is() {
    let node = start_limited(Limits { body_timeout: SHORT, ..Limits::default() }, Access::default()).await;
    let mut socket = dial(&node).await;
    let head = "POST /v1/docs/c HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n";
    socket.write_all(format!("{head}{{\"id\":\"a\",\"value\":1}}\n{{\"id\":\"b\"").as_bytes()).await.unwrap();
    let said = rest(&mut socket).await;
    assert!(said.contains("\"line\":1,\"receipt\"") && said.contains("too-slow"), "{said}");
    node.get("/v1/docs/c/a").await.expect(200);
}

#[tokio::test]
async fn a_websocket_that_says_nothing_is_given_up() {
    let node = start_limited(Limits { ping_every: SHORT, ..Limits::default() }, Access::default()).await;
    for path in ["/v1/ws", "/v1/yjs/c/a"] {
        let mut socket = dial(&node).await;
        let head = "Host: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";
        socket.write_all(format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
        let said = rest(&mut socket).await;
        assert!(said.starts_with("HTTP/1.1 101 ") && said.ends_with("no answer to a ping"), "{said}");
    }
    // One that answers stays.
    let mut ws = Ws::connect(&node).await;
    for _ in 0..5 {
        assert!(matches!(ws.0.next().await.unwrap().unwrap(), Message::Ping(_)));
    }
    ws.ping().await;
}

/// Documents that no socket takes at once.
async fn fill(node: &TestNode) {
    let large = format!("\"{}\"", "x".repeat(1_000_000));
    for n in 0..24 {
        node.put(&format!("/v1/docs/c/{n}"), &large).await;
    }
}

#[tokio::test]
async fn who_does_not_read_an_answer_is_cut_off() {
    let limits = Limits { write_timeout: SHORT, connections_per_address: 1, ..Limits::default() };
    let node = start_limited(limits, Access::default()).await;
    fill(&node).await;
    // The client of the test keeps its connection, which is the only one until it is gone.
    while !ask(&node, "/livez").await.starts_with("HTTP/1.1 503 ") {}
    drop_connection_of(&node).await;
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(4 << 10).unwrap();
    let mut slow = narrow.connect(node.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    slow.write_all(b"GET /v1/docs/c HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    while !ask(&node, "/livez").await.starts_with("HTTP/1.1 200 ") {}
    assert!(rest(&mut slow).await.len() < 8_000_000, "a page has eight documents, of which the last did not come");
}

/// Has the test's client close the connection that it keeps.
async fn drop_connection_of(node: &TestNode) {
    node.call(Method::GET, "/livez").header("connection", "close").send().await.expect(200);
    while !ask(node, "/livez").await.starts_with("HTTP/1.1 200 ") {}
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_off() {
    let node = start_limited(Limits { write_timeout: SHORT, ..Limits::default() }, Access::default()).await;
    fill(&node).await;
    let mut slow = Ws::connect_narrow(&node).await;
    slow.subscribe("s", "c").await;
    let clients = |scrape: &Scrape| scrape.value("lamplight_websocket_clients", &[]);
    Scrape::until(&node, |scrape| clients(scrape) == 1.0).await;
    Scrape::until(&node, |scrape| clients(scrape) == 0.0).await;
    node.put("/v1/docs/c/later", "1").await.expect(201);
}

#[tokio::test]
async fn subscriptions_and_rooms_of_a_connection_are_bounded() {
    let limits = Limits { subscriptions: 2, rooms: 1, ..Limits::default() };
    let node = start_limited(limits, Access::default()).await;
    let mut ws = Ws::connect(&node).await;
    for id in ["a", "b"] {
        ws.subscribe(id, "c").await;
        ws.expect("snapshot").await;
    }
    ws.subscribe("d", "c").await;
    let error = ws.expect_error("bad-request").await;
    assert!(
        error["problem"]["detail"].as_str().unwrap().contains("at most 2 subscriptions: unsubscribe one"),
        "{error}"
    );
    let join = |id: &str| json!({ "type": "presence", "id": id, "room": id, "state": 1 });
    ws.send(join("r")).await;
    ws.expect("room").await;
    ws.send(join("q")).await;
    loop {
        let message = ws.next().await;
        if message["type"] == "error" {
            assert!(message["problem"]["detail"].as_str().unwrap().contains("at most 1 rooms"), "{message}");
            break;
        }
    }
}

fn token_of(name: &str) -> String {
    format!("a-token-of-{name}-0001")
}

/// A node that asks for the tokens of these, who may read and write.
async fn start_for(names: &[&str]) -> TestNode {
    start_for_within(names, Limits::default()).await
}

async fn start_for_within(names: &[&str], limits: Limits) -> TestNode {
    let token = |name: &&str| json!({ "name": name, "role": "write", "collections": ["*"], "token": token_of(name) });
    let path = std::env::temp_dir().join(format!("lamplight-limits-{}", uuid::Uuid::new_v4()));
    std::fs::write(&path, json!({ "tokens": names.iter().map(token).collect::<Vec<_>>() }).to_string()).unwrap();
    start_limited(limits, Access::open(Some(path), Vec::new(), Site::default()).unwrap()).await
}

#[tokio::test]
async fn one_token_does_not_take_all_places_in_rooms() {
    let node = start_for(&["greedy", "other"]).await;
    let connect = async |name: &str| {
        let token = format!("Bearer {}", token_of(name));
        Ws::connect_with(&node, &[("authorization", &token)]).await.unwrap().0
    };
    // All that one may have, and one more.
    let (mut greedy, mut taken) = (Vec::new(), 0);
    let refusal = 'full: loop {
        let mut ws = connect("greedy").await;
        for n in 0..64 {
            ws.send(json!({ "type": "presence", "id": n.to_string(), "room": format!("{taken}"), "state": 1 })).await;
            let answer = loop {
                let answer = ws.next().await;
                if answer["type"] != "peer" {
                    break answer;
                }
            };
            if answer["type"] == "error" {
                break 'full answer;
            }
            taken += 1;
        }
        greedy.push(ws);
    };
    assert_eq!((taken, &refusal["problem"]["status"]), (4_096, &json!(503)), "{refusal}");
    let detail = refusal["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("4096 places") && detail.contains("leave some rooms"), "{detail}");
    // Its own editors are not shown, and go on; those of another are shown.
    let mut watcher = connect("other").await;
    watcher.send(json!({ "type": "presence", "id": "r", "room": "r", "state": 1 })).await;
    watcher.expect("room").await;
    for name in ["greedy", "other"] {
        assert_eq!(edit_shown(&node, "notes/t", &token_of(name)).await, None, "the edit of {name} is taken");
    }
    drop(greedy);
    let mut again = connect("greedy").await;
    for attempt in 0.. {
        again.send(json!({ "type": "presence", "id": "r", "room": "r", "state": 1 })).await;
        if again.next().await["type"] == "room" {
            break;
        }
        assert!(attempt < 1000, "places are given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_one_token_shows_is_bounded_in_bytes() {
    let node = start_for(&["greedy", "other"]).await;
    let (state, mut shown, mut all) = (json!("x".repeat(4_000)), 0, Vec::new());
    let token = format!("Bearer {}", token_of("greedy"));
    'full: for _ in 0..64 {
        let mut ws = Ws::connect_with(&node, &[("authorization", &token)]).await.unwrap().0;
        for n in 0..64 {
            ws.send(json!({ "type": "presence", "id": n.to_string(), "room": format!("{shown}"), "state": state }))
                .await;
            if ws.next().await["type"] == "error" {
                break 'full;
            }
            shown += 1;
        }
        all.push(ws);
    }
    assert!((500..540).contains(&shown), "2 MiB are {shown} states");
}

#[tokio::test]
async fn what_the_filters_of_one_token_take_is_bounded_and_given_back() {
    let node = start_for(&["greedy", "other"]).await;
    let connect = async |name: &str| {
        let token = format!("Bearer {}", token_of(name));
        Ws::connect_with(&node, &[("authorization", &token)]).await.unwrap().0
    };
    let filter = |values: usize| json!({ "a": vec!["0123456"; values] });
    let ask = async |ws: &mut Ws, id: String, filter: Value| {
        ws.send(json!({ "type": "subscribe", "id": id, "collection": "c", "filter": filter })).await;
        ws.next().await
    };
    let mut ws = connect("greedy").await;
    let refused = ask(&mut ws, "large".into(), filter(4_096)).await;
    assert_eq!(refused["problem"]["type"], "urn:lamplight:problem:bad-filter", "{refused}");
    let mut taken = 0;
    let refusal = loop {
        let answer = ask(&mut ws, taken.to_string(), filter(4_000)).await;
        if answer["type"] == "error" {
            break answer;
        }
        taken += 1;
    };
    // Each takes some 550 KB of the 8 MiB.
    assert!((14..17).contains(&taken), "{taken} filters were taken");
    assert_eq!(refusal["problem"]["type"], "urn:lamplight:problem:overloaded", "{refusal}");
    let mut other = connect("other").await;
    assert_eq!(ask(&mut other, "o".into(), filter(4_000)).await["type"], "snapshot");
    ws.send(json!({ "type": "unsubscribe", "id": "0" })).await;
    assert_eq!(ws.next().await["type"], "unsubscribed");
    assert_eq!(ask(&mut ws, "again".into(), filter(4_000)).await["type"], "snapshot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costly_writes_of_one_token_leave_others_their_turns() {
    const MANY: usize = 24;
    let node = start_for(&["greedy", "other"]).await;
    let step = |n| match n % 2 {
        0 => json!({ "op": "add", "path": "/0", "value": 0 }),
        _ => json!({ "op": "remove", "path": "/0" }),
    };
    let steps: Vec<Value> = (0..200).map(step).collect();
    let doc = |mut command: Value| {
        command["collection"] = "c".into();
        command["id"] = "d".into();
        command
    };
    let commands = [
        json!({ "put": doc(json!({ "value": vec![0; 20_000] })) }),
        json!({ "patch": doc(json!({ "patch": steps })) }),
        json!({ "put": doc(json!({ "value": 0 })) }),
    ];
    let costly = json!({ "commands": commands }).to_string();
    let (bearer, done) = (|name: &str| format!("Bearer {}", token_of(name)), AtomicUsize::new(0));
    let write_much = async || {
        let answer =
            node.call(Method::POST, "/v1/tx").json(&costly).header("authorization", bearer("greedy")).send().await;
        answer.expect(200);
        done.fetch_add(1, Ordering::SeqCst);
    };
    let write_little = async || {
        while done.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = done.load(Ordering::SeqCst);
        node.call(Method::PUT, "/v1/docs/c/e")
            .json("1")
            .header("authorization", bearer("other"))
            .send()
            .await
            .expect(201);
        done.load(Ordering::SeqCst) - before
    };
    let (_, meanwhile) = tokio::join!(join_all((0..MANY).map(|_| write_much())), write_little());
    assert!(meanwhile < MANY / 3, "{meanwhile} of {MANY} costly writes came before the other client's");
}

#[tokio::test]
async fn unfinished_bodies_of_one_token_are_bounded_and_others_write_on() {
    const LENGTH: usize = 4 << 20;
    let limits = Limits { memory: MemoryBudget::new(256 << 20, 64 << 20), ..Limits::default() };
    let node = start_for_within(&["greedy", "other"], limits).await;
    let begin = async |n: usize| {
        let mut socket = dial(&node).await;
        let token = token_of("greedy");
        let head = format!(
            "PUT /v1/docs/c/{n} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: {LENGTH}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![b' '; LENGTH - 10]).await.unwrap();
        socket
    };
    let mut held = Vec::new();
    for n in 0..17 {
        held.push(begin(n).await);
    }
    // One too many; which of them it is depends on how fast the node reads each.
    let (_, refused, _) = select_all(held.iter().map(|socket| Box::pin(socket.readable()))).await;
    let mut one_more = held.swap_remove(refused);
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("messages that are here in part") {
        assert!(one_more.read_buf(&mut said).await.unwrap() > 0, "{}", String::from_utf8_lossy(&said));
    }
    assert!(said.starts_with(b"HTTP/1.1 503 "), "{}", String::from_utf8_lossy(&said));
    let text = format!("\"{}\"", "x".repeat(1 << 19));
    let write = async |name: &str| {
        let token = format!("Bearer {}", token_of(name));
        node.call(Method::PUT, "/v1/docs/c/other").json(&text).header("authorization", &token).send().await
    };
    write("other").await.expect(201);
    drop(held);
    for attempt in 0.. {
        if write("greedy").await.status.is_success() {
            break;
        }
        assert!(attempt < 1000, "what is given up is given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn strangers_from_one_address_leave_room_for_others() {
    let node = start_for(&["ada"]).await;
    let mut waiting = Vec::new();
    let refused = loop {
        match connect_async(format!("{}/v1/ws", node.url.replace("http", "ws"))).await {
            Ok((socket, _)) => waiting.push(socket),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => break answer,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((waiting.len(), refused.status().as_u16()), (32, 503), "of 128 places");
    let problem = String::from_utf8(refused.into_body().unwrap()).unwrap();
    assert!(problem.contains("of your address") && problem.contains("send it with the request"), "{problem}");
    // Another address of this machine.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(node.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    let url = format!("{}/v1/ws", node.url.replace("http", "ws"));
    let (mut ws, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    ws.send(Message::text(json!({ "type": "auth", "token": token_of("ada") }).to_string())).await.unwrap();
    assert!(ws.next().await.unwrap().unwrap().to_text().unwrap().contains("authenticated"));
}

#[tokio::test]
async fn above_the_ceiling_of_memory_only_writes_are_refused() {
    let [full, other] = start_pool().await;
    full.put("/v1/docs/c/a", "1").await.expect(201);
    full.put("/v1/docs/c/b", "1").await.expect(201);
    full.call(Method::PUT, "/v1/docs/c/t").typed("text/plain", "text").send().await.expect(201);
    full.node.bound_memory(1, || {});
    let detail = full.put("/v1/docs/c/a", "2").await.expect_problem(507, "memory-full");
    assert!(detail.contains("--max-memory") && detail.contains("delete"), "{detail}");
    full.merge("/v1/docs/c/a", "{}").await.expect_problem(507, "memory-full");
    let put = json!({ "put": { "collection": "c", "id": "a", "value": 2 } });
    full.post("/v1/tx", &json!({ "commands": [put.clone()] }).to_string()).await.expect_problem(507, "memory-full");
    let bulk = full.call(Method::POST, "/v1/docs/c").typed("application/x-ndjson", "{\"value\":1}\n").send().await;
    assert!(bulk.text().contains("memory-full"), "{}", bulk.text());
    let mut ws = Ws::connect(&full).await;
    ws.send(json!({ "type": "write", "id": "w", "commands": [put] })).await;
    ws.expect_error("memory-full").await;
    ws.ping().await;
    assert_eq!(edit(&full, "c/t").await, Some(1013), "a code upon which editors come back");
    // Reads, deletions, and what peers write.
    full.get("/v1/docs/c/a").await.expect(200);
    full.get("/readyz").await.expect(200);
    let delete_once = || full.call(Method::DELETE, "/v1/docs/c/b").header("idempotency-key", "once").send();
    delete_once().await.expect(200);
    delete_once().await.expect(200);
    full.delete("/v1/docs/c/b").await.expect_problem(404, "not-found");
    // A deletion of what is not there frees nothing, and its operation takes room: alone, beside another, or twice.
    let delete = |id: &str| json!({ "delete": { "collection": "c", "id": id } });
    for ids in [&["b"][..], &["a", "b"], &["a", "a"]] {
        let commands: Vec<_> = ids.iter().map(|id| delete(id)).collect();
        let both = json!({ "commands": commands }).to_string();
        full.post("/v1/tx", &both).await.expect_problem(507, "memory-full");
    }
    let written = other.put("/v1/docs/c/d", "4").await.expect(201);
    full.call(Method::GET, "/v1/docs/c/d").header("lamplight-session", written.session()).send().await.expect(200);
    let scrape = Scrape::of(&full).await;
    assert_eq!(scrape.value("lamplight_memory_full", &[]), 1.0);
    assert!(scrape.value("lamplight_ops_refused_total", &[("why", "memory-full")]) >= 6.0);
    full.node.bound_memory(u64::MAX, || {});
    full.put("/v1/docs/c/a", "2").await.expect(200);
    assert_eq!(edit(&full, "c/t").await, None);
}

/// Edits a text as an editor does; gives the code with which the connection is closed, or none once the edit is there.
async fn edit(node: &TestNode, path: &str) -> Option<u16> {
    edit_by(node, path, None).await
}

/// The same by one with a token, who shows a cursor first.
async fn edit_shown(node: &TestNode, path: &str, token: &str) -> Option<u16> {
    edit_by(node, path, Some(token)).await
}

async fn edit_by(node: &TestNode, path: &str, token: Option<&str>) -> Option<u16> {
    let mut request = format!("{}/v1/yjs/{path}", node.url.replace("http", "ws")).into_client_request().unwrap();
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let (mut socket, _) = connect_async(request).await.unwrap();
    if token.is_some() {
        // One client, 5, at its clock 1, and what it shows.
        socket.send(Message::binary(&b"\x01\x06\x01\x05\x01\x02{}"[..])).await.unwrap();
    }
    let doc = Doc::new();
    let text = doc.get_or_insert_text("content");
    text.push(&mut doc.transact_mut(), "more");
    let update = doc.transact().encode_state_as_update_v1(&yrs::StateVector::default());
    let mut frame = vec![0, 2, update.len() as u8];
    frame.extend(update);
    socket.send(Message::binary(frame)).await.unwrap();
    loop {
        match socket.next().await?.ok()? {
            Message::Close(Some(close)) => return Some(close.code.into()),
            Message::Binary(frame) if frame.starts_with(&[0, 2]) => {
                yrs::Update::decode_v1(&frame[3..]).unwrap();
                return None;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn without_limits_that_an_operator_sets_nobody_is_refused() {
    let node = start_node().await;
    let answers = join_all((0..500).map(|_| node.get("/v1/collections"))).await;
    assert!(
        answers
            .into_iter()
            .all(|answer| answer.json() == json!({ "collections": [], "next": null }) || answer.json() != Value::Null)
    );
}

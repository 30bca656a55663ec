//! What a node does over real sockets: PUT beside a bare axum handler, write to event, write to final, a newcomer's
//! catch-up.
//!
//! Client and servers share this process and its processors. Prints figures, asserts none.
//! `cargo bench --bench node [put|event|final|catchup]`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::Path, routing::put};
use futures_util::{SinkExt, StreamExt, future::join_all};
use lamplight::{
    api::{self, Api},
    node::{Client, Node, Tcp},
    op::{Command, DocKey, Eviction, NodeId},
    replica::{Config, Draft, Retention, Standing},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 64;
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;
const EVENTS: usize = 2_000;
const FINALS: usize = 2_000;
const FINALS_A_SECOND: u64 = 1_000;
const CATCH_UP_OPS: usize = 1_000_000;

#[tokio::main]
async fn main() {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("put") {
        puts().await;
    }
    if wanted("event") {
        events().await;
    }
    if wanted("final") {
        finals().await;
    }
    if wanted("catchup") {
        catch_up("by log", Retention { ops: usize::MAX, bytes: usize::MAX }).await;
        catch_up("by snapshot", Retention { ops: 0, bytes: 0 }).await;
    }
}

struct Server {
    node: Node,
    address: String,
}

async fn start(name: &str, join: Option<&Server>) -> Server {
    start_with(name, join, Retention::default()).await
}

async fn start_with(name: &str, join: Option<&Server>, retention: Retention) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let config = Config {
        name: name.into(),
        urls: vec![format!("http://{address}")],
        found: join.is_none(),
        join: join.iter().map(|server| format!("http://{}", server.address)).collect(),
        retention,
        ..Config::founder(NodeId(Uuid::new_v4()), 7)
    };
    let node = Node::start(config, Tcp);
    let stop = CancellationToken::new();
    let listener = axum::serve::ListenerExt::tap_io(listener, |io: &mut TcpStream| drop(io.set_nodelay(true)));
    tokio::spawn(api::serve(listener, api::router(Api::new(node.clone(), stop.clone())), stop));
    Server { node, address }
}

async fn ready(server: &Server) {
    let mut published = server.node.published();
    published.wait_for(|published| published.standing == Standing::Member).await.expect("it runs");
}

/// One-document PUTs over 64 connections, in turn with a bare axum handler that parses the same body.
async fn puts() {
    let server = start("a", None).await;
    ready(&server).await;
    let bare = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let bare_address = bare.local_addr().expect("bound").to_string();
    let handler = put(|Path((_, id)): Path<(String, String)>, Json(value): Json<Value>| async move {
        Json(json!({ "id": id, "keys": value.as_object().map_or(0, serde_json::Map::len) }))
    });
    let router = Router::new().route("/v1/docs/{collection}/{id}", handler);
    let bare = axum::serve::ListenerExt::tap_io(bare, |io: &mut TcpStream| drop(io.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(bare, router).await });
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let (ours, bare) = (round_of_puts(&server.address).await, round_of_puts(&bare_address).await);
        // The first round warms up.
        if round > 0 {
            println!("PUT, {CONNECTIONS} connections: {ours:.0}/s, bare axum {bare:.0}/s, ratio {:.2}", ours / bare);
            ratios.push(ours / bare);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("PUT: median ratio to bare axum {:.2}", ratios[ratios.len() / 2]);
}

async fn round_of_puts(address: &str) -> f64 {
    let end = Instant::now() + ROUND;
    let clients = (0..CONNECTIONS).map(|client| {
        let address = address.to_string();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await.expect("it listens");
            stream.set_nodelay(true).expect("a socket");
            let body = format!("{{\"client\":{client},\"text\":\"{}\"}}", "x".repeat(75));
            let mut answer = vec![0; 4096];
            let mut done = 0_u64;
            while Instant::now() < end {
                let request = format!(
                    "PUT /v1/docs/bench/{client}-{} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\n\r\n{body}",
                    done % 1000,
                    body.len()
                );
                stream.write_all(request.as_bytes()).await.expect("it reads");
                read_answer(&mut stream, &mut answer).await;
                done += 1;
            }
            done
        })
    });
    let done: u64 = join_all(clients).await.into_iter().map(|done| done.expect("it ran")).sum();
    done as f64 / ROUND.as_secs_f64()
}

/// Reads one answer, head and body, and insists on success.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.expect("it writes");
        assert!(read > 0, "the server closed the connection");
        filled += read;
        let Some(head) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head]).expect("ASCII").to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 20"), "{text}");
        let length =
            text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a length");
        if filled >= head + 4 + length.parse::<usize>().expect("a number") {
            return;
        }
    }
}

/// A write on one node until its event arrives at a WebSocket of another.
async fn events() {
    let a = start("a", None).await;
    ready(&a).await;
    let b = start("b", Some(&a)).await;
    ready(&b).await;
    let (mut socket, _) = connect_async(format!("ws://{}/v1/ws", b.address)).await.expect("it listens");
    let subscribe = json!({ "type": "subscribe", "id": "s", "collection": "bench" }).to_string();
    socket.send(Message::text(subscribe)).await.expect("it reads");
    while next(&mut socket).await["more"] != false {}
    let mut stream = TcpStream::connect(&a.address).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    let mut answer = vec![0; 4096];
    let mut times = Vec::with_capacity(EVENTS);
    for n in 0..EVENTS {
        let body = format!("{{\"n\":{n}}}");
        let request = format!(
            "PUT /v1/docs/bench/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await.expect("it reads");
        while next(&mut socket).await["doc"]["value"]["n"] != n {}
        times.push(began.elapsed());
        read_answer(&mut stream, &mut answer).await;
    }
    times.sort();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e3;
    println!("write on A to event on B's WebSocket: p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));
}

/// From a write to its final verdict, somebody waiting, on three nodes in turn: one after the other, and a thousand a
/// second.
async fn finals() {
    let founder = start("a", None).await;
    ready(&founder).await;
    let (second, third) = (start("b", Some(&founder)).await, start("c", Some(&founder)).await);
    let nodes = [founder.node.clone(), second.node.clone(), third.node.clone()];
    for node in &nodes {
        while node.read(|replica, _| replica.linked().count()).await.expect("it runs") < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let mut one_by_one = Vec::with_capacity(FINALS);
    for n in 0..FINALS {
        one_by_one.push(until_final(nodes[n % 3].clone(), n).await);
    }
    tell("one after the other", one_by_one);
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / FINALS_A_SECOND));
    let mut running = Vec::new();
    for n in 0..10 * FINALS_A_SECOND as usize {
        ticks.tick().await;
        running.push(tokio::spawn(until_final(nodes[n % 3].clone(), n)));
    }
    let steady = join_all(running).await.into_iter().map(|took| took.expect("no panic")).collect();
    tell(&format!("{FINALS_A_SECOND} writes a second"), steady);
}

async fn until_final(node: Node, n: usize) -> Duration {
    let began = Instant::now();
    let command = Command::Put(DocKey::new("bench", format!("d{}", n % 100)), format!("{n}").into());
    let draft = Draft { key: None, guards: Vec::new(), commands: vec![command], present: false };
    let receipt = node.submit(Client::READS, draft).await.expect("it runs").expect("an op");
    node.hurry(receipt.stamp.time).await.expect("it runs");
    let mut published = node.published();
    published.wait_for(|published| published.frontier >= receipt.stamp.time).await.expect("it runs");
    began.elapsed()
}

fn tell(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: usize| took[took.len() * share / 1_000].as_secs_f64() * 1e3;
    println!("write to final, {what}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms", at(500), at(990), at(999));
}

async fn next<S>(socket: &mut S) -> Value
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    let message = socket.next().await.expect("it stays open").expect("a frame");
    serde_json::from_str(message.to_text().expect("text")).expect("JSON")
}

/// A newcomer to a pool whose one node holds a million documents, and the ops that made them or none of these.
async fn catch_up(how: &str, retention: Retention) {
    let a = start_with("a", None, retention).await;
    ready(&a).await;
    let value: Arc<str> = format!("{{\"text\":\"{}\"}}", "x".repeat(85)).into();
    let began = Instant::now();
    let mut waiting = Vec::with_capacity(1_000);
    for n in 0..CATCH_UP_OPS {
        let doc = DocKey::new("bench", format!("document-{n}"));
        let commands = vec![Command::Put(doc, value.to_string().into())];
        let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
        waiting.push(a.node.hand_in(Client::READS, draft).await.expect("it runs"));
        if waiting.len() == waiting.capacity() {
            join_all(waiting.drain(..)).await.into_iter().for_each(|answer| {
                answer.expect("it runs").expect("a receipt");
            });
        }
    }
    let ops = CATCH_UP_OPS as f64;
    println!("issued on one node, without HTTP: {:.0} ops/s", ops / began.elapsed().as_secs_f64());
    let keeps = |replica: &lamplight::replica::Replica| replica.log().kept().0;
    while a.node.read(move |replica, _| keeps(replica)).await.expect("it runs") > CATCH_UP_OPS.min(retention.ops) + 1 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for round in 1..=3 {
        let began = Instant::now();
        let b = start_with("b", Some(&a), retention).await;
        ready(&b).await;
        let (took, bytes) = (began.elapsed().as_secs_f64(), value.len());
        println!("catch-up {how} with {CATCH_UP_OPS} documents of {bytes} bytes, round {round}: {took:.1} s");
        assert_eq!(b.node.read(|replica, _| replica.state().count()).await.expect("it runs"), CATCH_UP_OPS);
        let evict = Command::Evict(Eviction { node: b.node.id(), force: true });
        b.node.stop().await.expect("it is in memory only");
        let draft = Draft { key: None, guards: Vec::new(), commands: vec![evict], present: false };
        a.node.submit(Client::READS, draft).await.expect("it runs").expect("an op");
    }
    a.node.stop().await.expect("it is in memory only");
}

//! A crowd on one node, in a process of its own: idle clients with a subscription each, readers that do not read, clients that
//! never finish their request, and among them some that work.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use futures_util::{
    SinkExt, StreamExt,
    future::join_all,
    stream::{self, FuturesUnordered},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::processes::Process;

/// How large a crowd is.
#[derive(Clone, Copy)]
pub struct Size {
    pub idle: usize,
    pub slow: usize,
    pub half: usize,
    pub writers: usize,
    /// Writes of each writer in each part.
    pub writes: usize,
    /// Bytes of each document.
    pub bytes: usize,
    /// From one write of a writer to its next at the least: zero writes as fast as it goes.
    pub pace: Duration,
    /// Bytes of the machine's memory that are touched before each part that is measured. A virtual machine gets memory from its host only once it
    /// is used, and gives back what lies idle for some seconds; 2 MiB that come from the host take milliseconds.
    pub touched: usize,
}

/// What was measured.
pub struct Figures {
    pub quiet: Times,
    pub crowded: Times,
    /// Memory that one idle client takes, in bytes.
    pub idle_bytes: u64,
    /// Memory that all came to beyond the idle ones, while the slow readers were there.
    pub busy_bytes: u64,
    /// Bytes of the documents that were written meanwhile.
    pub written_bytes: u64,
}

/// From a write to its receipt, and to the change on the writer's own subscription; sorted.
#[derive(Default)]
pub struct Times {
    pub receipts: Vec<Duration>,
    pub changes: Vec<Duration>,
}

impl Times {
    pub fn at(times: &[Duration], percent: usize) -> f64 {
        times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3
    }
}

/// Takes as many file descriptors as this process may have.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

/// Has the crowd come, and measures those who work before and while it is there. Asserts that all which is acknowledged is told,
/// that slow readers are cut off and that no half request is left.
pub async fn run(size: Size) -> Figures {
    raise_descriptors();
    // Clients here answer no pings, and slow ones are to be cut off soon.
    let node = Process::serve(&[
        "--memory",
        "--listen",
        "127.0.0.1:0",
        "--ping-every",
        "60m",
        "--write-timeout",
        "10s",
        "--head-timeout",
        "3s",
    ]);
    let port: u16 = node.url.rsplit(':').next().unwrap().parse().unwrap();
    // A part that nobody measures fills the caches and the allocator's own memory.
    work(&node, size, "first").await;
    touch(size.touched);
    let quiet = work(&node, size, "quiet").await;
    let before = resident(&node);
    let idle: Vec<TcpStream> = stream::iter(0..size.idle)
        .map(|n| async move { subscriber(port, n, Some(&format!("idle-{n}"))).await })
        .buffer_unordered(64)
        .collect()
        .await;
    assert_eq!(clients(&node).await, size.idle as u64);
    let with_idle = resident(&node);
    let slow: Vec<TcpStream> = join_all((0..size.slow).map(|n| subscriber(port, 200_000 + n, None))).await;
    touch(size.touched);
    let half: Vec<TcpStream> = join_all((0..size.half).map(|n| half_request(port, n))).await;
    let crowded = work(&node, size, "crowded").await;
    let mut busy = resident(&node);
    // The slow ones go, once there is more for them than their sockets take; and the idle ones are all there.
    let mut more = 0;
    while clients(&node).await != size.idle as u64 {
        if more < 16 {
            work(&node, Size { writers: 1, writes: 1, bytes: 500_000, ..size }, &format!("more-{more}")).await;
        }
        more += 1;
        busy = busy.max(resident(&node));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut ends: FuturesUnordered<_> = half.into_iter().map(to_the_end).collect();
    while ends.next().await.is_some() {}
    drop((idle, slow));
    let written_bytes = (size.writers * size.writes * size.bytes + more.min(16) * 500_000) as u64;
    let idle_bytes = with_idle.saturating_sub(before) / size.idle as u64;
    Figures { quiet, crowded, idle_bytes, busy_bytes: busy.saturating_sub(with_idle), written_bytes }
}

/// The writers at work, each in a collection of its own to which it is subscribed.
async fn work(node: &Process, size: Size, part: &str) -> Times {
    let mut all = Times::default();
    for times in join_all((0..size.writers).map(|n| write(node, size, format!("{part}-{n}")))).await {
        all.receipts.extend(times.receipts);
        all.changes.extend(times.changes);
    }
    all.receipts.sort_unstable();
    all.changes.sort_unstable();
    all
}

fn touch(bytes: usize) {
    let mut memory = vec![0_u8; bytes];
    memory.iter_mut().step_by(4096).for_each(|page| *page = 1);
    std::hint::black_box(&memory);
}

async fn write(node: &Process, size: Size, collection: String) -> Times {
    let url = format!("{}/v1/ws", node.url.replace("http", "ws"));
    let (mut socket, _) = connect_async(url).await.unwrap();
    let subscribe = json!({ "type": "subscribe", "id": "s", "collection": collection });
    socket.send(Message::text(subscribe.to_string())).await.unwrap();
    let (mut times, mut told) = (Times::default(), BTreeSet::new());
    let value = "x".repeat(size.bytes);
    let mut paces = tokio::time::interval(size.pace.max(Duration::from_nanos(1)));
    for n in 0..size.writes {
        paces.tick().await;
        let id = n.to_string();
        let put = json!({ "put": { "collection": collection, "id": id, "value": value } });
        let write = json!({ "type": "write", "id": id, "commands": [put] }).to_string();
        let began = Instant::now();
        socket.send(Message::text(write)).await.unwrap();
        let (mut acknowledged, mut shown) = (false, false);
        while !(acknowledged && shown) {
            let message = socket.next().await.unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            match message["type"].as_str().unwrap() {
                "receipt" if message["id"] == *id && !acknowledged => {
                    times.receipts.push(began.elapsed());
                    acknowledged = true;
                }
                "change" => {
                    let changed = message["doc"]["id"].as_str().unwrap();
                    told.insert(changed.to_string());
                    if changed == id && !shown {
                        times.changes.push(began.elapsed());
                        shown = true;
                    }
                }
                "receipt" | "snapshot" => {}
                other => panic!("{other}: {message}"),
            }
        }
    }
    assert_eq!(told.len(), size.writes, "the feed is complete");
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    times
}

/// A connection from one of several addresses, for no address may have all of them.
async fn dial(port: u16, n: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let from = Ipv4Addr::new(127, 0, 1 + (n / 200_000) as u8, 1 + (n % 200_000 / 2_500) as u8);
    socket.bind(SocketAddr::new(from.into(), 0)).unwrap();
    socket.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await.unwrap()
}

/// A client with a subscription, to one collection or to all, that has its snapshot. It is written by hand: ten thousand buffers of
/// a library would be more than the node's.
async fn subscriber(port: u16, n: usize, collection: Option<&str>) -> TcpStream {
    let mut socket = dial(port, n).await;
    let head = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    let mut request = head.into_bytes();
    let mut message = json!({ "type": "subscribe", "id": "s" });
    if let Some(collection) = collection {
        message["collection"] = collection.into();
    }
    let message = message.to_string();
    assert!(message.len() < 126, "one byte of length");
    // A text frame that is masked with zeros.
    request.extend([0x81, 0x80 | message.len() as u8, 0, 0, 0, 0]);
    request.extend(message.as_bytes());
    socket.write_all(&request).await.unwrap();
    let mut said = Vec::new();
    // A slow one reads no more than that it is in.
    let wanted = if collection.is_some() { "\"more\":false" } else { "\"snapshot\"" };
    while !String::from_utf8_lossy(&said).contains(wanted) {
        let read = socket.read_buf(&mut said).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&said));
    }
    socket
}

async fn half_request(port: u16, n: usize) -> TcpStream {
    let mut socket = dial(port, 400_000 + n).await;
    socket.write_all(b"GET /v1/collections HTTP/1.1\r\nHost: ").await.unwrap();
    socket
}

async fn to_the_end(mut socket: TcpStream) {
    let _ = socket.read_to_end(&mut Vec::new()).await;
}

/// Clients of the WebSocket, as the node counts them.
async fn clients(node: &Process) -> u64 {
    let mut socket = TcpStream::connect(node.url.strip_prefix("http://").unwrap()).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).await.unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("lamplight_websocket_clients ")).unwrap();
    line.trim().parse::<f64>().unwrap() as u64
}

/// Memory that the node takes, in bytes.
fn resident(node: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

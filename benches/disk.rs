//! What the disk costs: acknowledged writes a second in each sync mode, beside Redis where it is installed, and how long a
//! node takes to come back with a million ops.
//!
//! Clients and servers share the machine's processors. Prints figures, asserts none.
//! `cargo bench --bench disk [writes|recovery]`.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use lamplight::{
    api::{self, Api},
    node::{Node, Tcp},
    op::{Body, Command, DocKey, Newcomer, NodeId, Op, OpId, PoolId},
    record::{Identity, Record},
    replica::{Config, Recovery, Retention, Standing},
    storage::{self, Store, SyncMode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUND: Duration = Duration::from_secs(3);
const WRITERS: [usize; 2] = [1, 64];
const OPS: u64 = 1_000_000;

#[tokio::main]
async fn main() {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let root = std::env::temp_dir().join(format!("lamplight-bench-{}", Uuid::new_v4()));
    std::fs::create_dir_all(&root).expect("a directory for temporary files");
    if wanted("writes") {
        writes(&root).await;
    }
    if wanted("recovery") {
        recovery(&root);
    }
    std::fs::remove_dir_all(root).expect("made above");
}

fn config(url: String) -> Config {
    let node = NodeId(Uuid::new_v4());
    Config {
        node,
        name: "bench".into(),
        urls: vec![url],
        join: Vec::new(),
        found: true,
        pool: None,
        seed: 7,
        retention: Retention::default(),
    }
}

async fn writes(root: &Path) {
    let redis = Process::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !redis {
        println!("redis-server is not installed: only Lamplight's own figures follow");
    }
    for writers in WRITERS {
        for (name, sync, redis_mode) in [
            ("always", Some(SyncMode::Always), Some("always")),
            ("interval", Some(SyncMode::Interval), Some("everysec")),
            ("never", Some(SyncMode::Never), Some("no")),
            ("memory", None, None),
        ] {
            let dir = root.join(format!("{name}-{writers}"));
            let address = serve(&dir, sync).await;
            // The first round warms up.
            put(&address, writers).await;
            let ours = put(&address, writers).await;
            let theirs = match redis_mode.filter(|_| redis) {
                Some(mode) => Redis::start(root, mode, writers).await.round(writers).await,
                None => f64::NAN,
            };
            println!(
                "{writers:>2} writers, {name:>8}: {ours:>7.0} PUT/s, Redis {theirs:>7.0} SET/s, ratio {:.2}",
                ours / theirs
            );
        }
    }
}

async fn serve(dir: &Path, sync: Option<SyncMode>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let replica = Recovery::new(config(format!("http://{address}"))).finish(None);
    let store = sync.map(|sync| Store::open(dir, sync, &mut drop).expect("a fresh directory").0);
    let node = Node::resume(replica, store, Tcp);
    let mut published = node.published();
    let stop = CancellationToken::new();
    let listener = axum::serve::ListenerExt::tap_io(listener, |io: &mut TcpStream| drop(io.set_nodelay(true)));
    tokio::spawn(api::serve(listener, api::router(Api { node, stop: stop.clone() }), stop));
    published.wait_for(|published| published.standing == Standing::Member).await.expect("it runs");
    address
}

async fn put(address: &str, writers: usize) -> f64 {
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(85));
    let request = |writer: usize, n: u64| {
        format!(
            "PUT /v1/docs/bench/{writer}-{} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n{body}",
            n % 1000,
            body.len()
        )
    };
    round(address, writers, &request, |answer| {
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 20"), "{text}");
        let length: usize = text.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
        (answer.len() >= head + 4 + length).then_some(())
    })
    .await
}

/// One request at a time from each writer; returns answers a second.
async fn round(
    address: &str,
    writers: usize,
    request: &(impl Fn(usize, u64) -> String + Sync),
    whole: impl Fn(&[u8]) -> Option<()> + Copy,
) -> f64 {
    let end = Instant::now() + ROUND;
    let clients = (0..writers).map(|writer| async move {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let (mut answer, mut done) = (Vec::with_capacity(4096), 0_u64);
        while Instant::now() < end {
            stream.write_all(request(writer, done).as_bytes()).await.expect("it reads");
            answer.clear();
            while whole(&answer).is_none() {
                assert!(stream.read_buf(&mut answer).await.expect("it writes") > 0, "the server closed the connection");
            }
            done += 1;
        }
        done
    });
    let done: u64 = join_all(clients).await.into_iter().sum();
    done as f64 / ROUND.as_secs_f64()
}

struct Redis {
    process: Child,
    address: String,
}

impl Redis {
    async fn start(root: &Path, mode: &str, writers: usize) -> Redis {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound").port();
        let dir: PathBuf = root.join(format!("redis-{mode}-{writers}"));
        std::fs::create_dir_all(&dir).expect("a fresh directory");
        let process = Process::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", ""])
            .args(["--appendfsync", mode, "--dir", dir.to_str().expect("plain text")])
            .stdout(Stdio::null())
            .spawn()
            .expect("it is installed");
        let address = format!("127.0.0.1:{port}");
        while TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Redis { process, address }
    }

    async fn round(mut self, writers: usize) -> f64 {
        let value = "x".repeat(97);
        let request = |writer: usize, n: u64| {
            let key = format!("{writer}-{}", n % 1000);
            format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len())
        };
        let whole = |answer: &[u8]| answer.ends_with(b"\r\n").then(|| assert_eq!(answer, b"+OK\r\n"));
        round(&self.address, writers, &request, whole).await;
        let rate = round(&self.address, writers, &request, whole).await;
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ran");
        rate
    }
}

/// From a journal of a million puts of 97-byte documents to a replica that can serve.
fn recovery(root: &Path) {
    let dir = root.join("recovery");
    let node = NodeId(Uuid::new_v4());
    let identity = Identity { node, pool: PoolId(Uuid::new_v4()), pool_name: "bench".into() };
    let value = format!("{{\"text\":\"{}\"}}", "x".repeat(86));
    let op = |seq: u64| {
        let command = if seq == 1 {
            Command::Add(Newcomer { node, name: "bench".into(), urls: Vec::new() }, 0)
        } else {
            Command::Put(DocKey::new("bench", format!("document-{seq}")), value.clone().into())
        };
        let body = Body { wall_ms: 0, seen: Vec::new(), key: None, guards: Vec::new(), commands: vec![command] };
        Record::Op(Op::encode(OpId { origin: node, seq }, seq, &body).expect("well formed"))
    };
    let records = std::iter::once(Record::Identity(identity)).chain((1..=OPS).map(op));
    storage::copy(&dir, records).expect("room on the disk");
    for round in 1..=3 {
        let began = Instant::now();
        let mut recovery = Recovery::new(config("http://127.0.0.1:1".into()));
        let (store, found) = Store::open(&dir, SyncMode::Always, &mut |record| recovery.take(record)).expect("sound");
        let replica = recovery.finish(None);
        let took = began.elapsed().as_secs_f64();
        assert_eq!((replica.log().len() as u64, replica.standing()), (OPS, Standing::Member), "all came back");
        println!("recovery {round}: {OPS} ops, {} MB, {took:.2} s", found.bytes / 1_000_000);
        store.close().expect("it writes");
    }
}

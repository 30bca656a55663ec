//! What the disk costs: acknowledged writes a second in each sync mode, beside Redis where it is installed, and how long a
//! node takes to come back with a million ops, from these or from a snapshot; and writes while a snapshot is written.
//!
//! Clients and servers share the machine's processors. Prints figures, asserts none.
//! `cargo bench --bench disk [writes|recovery|snapshot]`.

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
    replica::{Config, Event, Now, Recovery, Retention, Standing},
    storage::{self, Layout, Options, Store, SyncMode},
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
    if wanted("snapshot") {
        snapshot(&root).await;
    }
    std::fs::remove_dir_all(root).expect("made above");
}

fn config(url: String) -> Config {
    Config { urls: vec![url], ..Config::founder(NodeId(Uuid::new_v4()), 7) }
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
    run(listener, Node::resume(replica, store, Tcp)).await;
    address
}

/// Serves a node, and waits until it is a member.
async fn run(listener: TcpListener, node: Node) {
    let mut published = node.published();
    let stop = CancellationToken::new();
    let listener = axum::serve::ListenerExt::tap_io(listener, |io: &mut TcpStream| drop(io.set_nodelay(true)));
    tokio::spawn(api::serve(listener, api::router(Api::new(node, stop.clone())), stop));
    published.wait_for(|published| published.standing == Standing::Member).await.expect("it runs");
}

async fn put(address: &str, writers: usize) -> f64 {
    put_timed(address, writers).await.len() as f64 / ROUND.as_secs_f64()
}

async fn put_timed(address: &str, writers: usize) -> Vec<Duration> {
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(85));
    let request = |writer: usize, n: u64| {
        format!(
            "PUT /v1/docs/bench/{writer}-{} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
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

/// One request at a time from each writer; returns how long each took.
async fn round(
    address: &str,
    writers: usize,
    request: &(impl Fn(usize, u64) -> String + Sync),
    whole: impl Fn(&[u8]) -> Option<()> + Copy,
) -> Vec<Duration> {
    let end = Instant::now() + ROUND;
    let clients = (0..writers).map(|writer| async move {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let (mut answer, mut took) = (Vec::with_capacity(4096), Vec::new());
        while Instant::now() < end {
            let began = Instant::now();
            stream.write_all(request(writer, took.len() as u64).as_bytes()).await.expect("it reads");
            answer.clear();
            while whole(&answer).is_none() {
                assert!(stream.read_buf(&mut answer).await.expect("it writes") > 0, "the server closed the connection");
            }
            took.push(began.elapsed());
        }
        took
    });
    join_all(clients).await.concat()
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
        let rate = round(&self.address, writers, &request, whole).await.len() as f64 / ROUND.as_secs_f64();
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ran");
        rate
    }
}

/// From a journal of a million puts of 97-byte documents to a replica that can serve; and from a snapshot of them.
fn recovery(root: &Path) {
    let (ops, snapshot) = (root.join("recovery"), root.join("recovery-snapshot"));
    million(&ops);
    for round in 1..=3 {
        println!("recovery {round} from ops: {}", recovered(&ops));
    }
    compacted(&ops, &snapshot);
    for round in 1..=3 {
        println!("recovery {round} from a snapshot: {}", recovered(&snapshot));
    }
}

/// Comes back from a journal, and says what that took.
fn recovered(dir: &Path) -> String {
    let began = Instant::now();
    let mut recovery = Recovery::new(config("http://127.0.0.1:1".into()));
    let (store, found) = Store::open(dir, SyncMode::Always, &mut |record| recovery.take(record)).expect("sound");
    let replica = recovery.finish(None);
    let took = began.elapsed().as_secs_f64();
    assert_eq!((replica.log().len() as u64, replica.standing()), (OPS, Standing::Member), "all came back");
    store.close().expect("it writes");
    format!("{} documents, {} MB, {took:.2} s", replica.state().count(), found.bytes / 1_000_000)
}

/// Writes a journal that consists of a snapshot of all that another holds.
fn compacted(from: &Path, to: &Path) {
    let forgets = Config { retention: Retention { ops: 0, bytes: 0 }, ..config("http://127.0.0.1:1".into()) };
    let mut recovery = Recovery::new(forgets);
    storage::read(from, &mut |record| recovery.take(record)).expect("sound");
    let mut replica = recovery.finish(None);
    for tick in 1.. {
        replica.handle(Now { mono_ms: 100 * tick, wall_ms: 0 }, Event::Tick);
        if replica.log().kept().0 == 0 {
            break;
        }
    }
    let began = Instant::now();
    let mut dump = replica.dump().expect("it holds something");
    let slices = std::iter::from_fn(|| Some(replica.dump_next(&mut dump).expect("nothing is forgotten meanwhile")));
    storage::copy(to, slices.take_while(|records| !records.is_empty()).flatten()).expect("room on the disk");
    println!("a snapshot of all written in {:.2} s", began.elapsed().as_secs_f64());
}

/// Writes to a node with a million documents, while it writes a snapshot of them and while it does not.
async fn snapshot(root: &Path) {
    let (ops, dir) = (root.join("snapshot-ops"), root.join("snapshot"));
    million(&ops);
    compacted(&ops, &dir);
    for round in 1..=3 {
        for snapshots in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound").to_string();
            let forgets = Config { retention: Retention { ops: 0, bytes: 0 }, ..config(format!("http://{address}")) };
            let mut recovery = Recovery::new(forgets);
            let layout = Layout { snapshot_bytes: u64::MAX / 4, ..Layout::default() };
            let options = Options { layout, ..Options::default() };
            let opened = Store::open_with(&dir, options, &mut |record| recovery.take(record));
            let mut store = opened.expect("sound").0;
            if snapshots {
                // Then one is wanted until it is whole.
                store.lack_beginning();
            }
            let node = Node::resume(recovery.finish(None), Some(store), Tcp);
            run(listener, node.clone()).await;
            let busy = tokio::spawn(share_compacting(node.clone()));
            let mut took = put_timed(&address, 64).await;
            let busy = busy.await.expect("it ran");
            took.sort_unstable();
            let at = |share: usize| took[took.len() * share / 1_000].as_secs_f64() * 1e3;
            let (rate, p50, p99, most) = (took.len() as f64 / ROUND.as_secs_f64(), at(500), at(990), at(999));
            println!(
                "64 writers, round {round}, a snapshot under way {busy:.0} % of the time: {rate:.0} PUT/s, p50 {p50:.2} ms, \
                 p99 {p99:.2} ms, p99.9 {most:.2} ms"
            );
            node.stop().await.expect("the disk is sound");
        }
    }
}

/// In how much of a round's time a snapshot was under way, in percent.
async fn share_compacting(node: Node) -> f64 {
    let end = Instant::now() + ROUND;
    let (mut looks, mut found) = (0, 0);
    while Instant::now() < end {
        looks += 1;
        found += u32::from(node.read(|replica, _| replica.is_compacting()).await.expect("it runs"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    100.0 * f64::from(found) / f64::from(looks)
}

/// Writes a journal of a million puts of 97-byte documents.
fn million(dir: &Path) {
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
    storage::copy(dir, records).expect("room on the disk");
}

//! The real stack (axum, hyper, `WebSockets`, the node's task) on a simulated network: partitions, held connections,
//! reset connections and a restarted node, for some tens of seeds. Virtual time, one thread, the same for each run.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use std::{io, net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use lamplight::{
    api::{self, Access, Api, Site},
    node::{Credentials, Network, Node, PoolSecret, Trust},
    op::{KEY_SPAN, NodeId},
    replica::{Config, Replica},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use turmoil::net::{TcpListener, TcpStream};
use uuid::Uuid;

const PORT: u16 = 7171;
const HOSTS: [&str; 3] = ["a", "b", "c"];
const SEEDS: u64 = 30;

type Failed = Box<dyn std::error::Error>;

struct Simulated;

impl Network for Simulated {
    type Io = TcpStream;

    async fn connect(&self, authority: &str) -> io::Result<TcpStream> {
        TcpStream::connect(authority).await
    }
}

struct Listener(TcpListener);

impl axum::serve::Listener for Listener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        self.0.accept().await.expect("the simulated network accepts")
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[test]
fn the_real_stack_converges_after_partitions_held_and_reset_connections() {
    for seed in 0..SEEDS {
        run(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

fn run(seed: u64) -> turmoil::Result {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(180))
        .tick_duration(Duration::from_millis(2))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(30))
        .tcp_capacity(4096)
        .build();
    for host in HOSTS {
        // A restarted host is another node: what it held was in memory only.
        let starts = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        sim.host(host, move || {
            let start = starts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            serve(host, seed, start)
        });
    }
    sim.client("client", drive(seed));
    let (mut steps, mut bounced) = (0_u64, false);
    // Every other seed one node is restarted while the others go on.
    while !sim.step()? {
        steps += 1;
        if seed.is_multiple_of(2) && steps == 4_000 && !bounced {
            sim.bounce("c");
            bounced = true;
        }
    }
    Ok(())
}

async fn serve(host: &'static str, seed: u64, start: u64) -> turmoil::Result {
    let index = HOSTS.iter().position(|other| *other == host).expect("one of them") as u64;
    let others = HOSTS.iter().filter(|other| **other != host).map(|other| format!("http://{other}:{PORT}")).collect();
    let config = Config {
        node: NodeId(Uuid::from_u64_pair(seed + 1, (start << 8) + index + 1)),
        name: host.into(),
        urls: vec![format!("http://{host}:{PORT}")],
        join: others,
        found: true,
        found_with: 1,
        pool: None,
        seed: seed ^ index ^ start,
        retention: lamplight::replica::Retention::default(),
        evict_after_ms: None,
        key_span: KEY_SPAN,
    };
    let listener = Listener(TcpListener::bind(("0.0.0.0", PORT)).await?);
    // Every third seed proves and seals all links; the proofs are the only thing that differs from run to run.
    let secret = if seed.is_multiple_of(3) { PoolSecret::new(b"known to all three")? } else { PoolSecret::none() };
    let node =
        Node::guarded(Replica::new(config), None, Simulated, Credentials::of_process(secret, Trust::of_system()));
    let stop = CancellationToken::new();
    let mut site = Site::default();
    HOSTS.iter().try_for_each(|host| site.add_host(host))?;
    let access = Access::open(None, Vec::new(), site)?;
    api::serve(listener, api::router(Api::new(node, stop.clone()).guarded(access)), stop).await;
    Ok(())
}

/// Writes through all nodes while the network fails in the ways that this seed draws, then waits for all to agree.
async fn drive(seed: u64) -> turmoil::Result {
    let mut rng = fastrand::Rng::with_seed(seed);
    for host in HOSTS {
        ready(host).await;
    }
    let mut acknowledged = Vec::new();
    for round in 0..6_u32 {
        let (one, two) = (rng.usize(..3), rng.usize(..3));
        match rng.u8(..4) {
            0 if one != two => turmoil::partition(HOSTS[one], HOSTS[two]),
            1 if one != two => turmoil::hold(HOSTS[one], HOSTS[two]),
            2 => drop(call(HOSTS[one], Method::POST, "/v1/pool/links", Some(json!({ "cut": true }))).await),
            _ => {}
        }
        for n in 0..15 {
            // The restarted node may lose what only it held, so the others write what must not be lost.
            let host = if seed.is_multiple_of(2) { HOSTS[rng.usize(..2)] } else { HOSTS[rng.usize(..3)] };
            let path = format!("/v1/docs/notes/{}", rng.u8(..12));
            let written = call(host, Method::PUT, &path, Some(json!({ "round": round, "n": n, "by": host }))).await;
            if matches!(written, Ok((StatusCode::OK | StatusCode::CREATED, _))) {
                acknowledged.push(path);
            }
            let own = format!("/v1/docs/own/{host}-{round}-{n}");
            if call(host, Method::PUT, &own, Some(json!({ "n": n }))).await.is_ok() {
                acknowledged.push(own);
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(..200))).await;
        }
        for (first, second) in [("a", "b"), ("a", "c"), ("b", "c")] {
            turmoil::release(first, second);
            turmoil::repair(first, second);
        }
        for host in HOSTS {
            drop(call(host, Method::POST, "/v1/pool/links", Some(json!({ "cut": false }))).await);
        }
    }
    agree(&acknowledged).await
}

async fn agree(acknowledged: &[String]) -> turmoil::Result {
    assert!(acknowledged.len() > 50, "writes went through");
    loop {
        let mut views = Vec::new();
        for host in HOSTS {
            let mut view = Vec::new();
            for collection in ["notes", "own"] {
                view.push(call(host, Method::GET, &format!("/v1/docs/{collection}?limit=1000"), None).await.ok());
            }
            views.push(view);
        }
        if views
            .iter()
            .all(|view| *view == views[0] && view.iter().all(|listing| matches!(listing, Some((StatusCode::OK, _)))))
        {
            break;
        }
        // Virtual time: the simulation's end is the bound.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for path in acknowledged {
        let (status, _) = call("b", Method::GET, path, None).await?;
        assert_eq!(status, StatusCode::OK, "{path} was acknowledged");
    }
    Ok(())
}

async fn ready(host: &str) {
    while !matches!(call(host, Method::GET, "/readyz", None).await, Ok((StatusCode::OK, _))) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One request on a connection of its own, bounded in virtual time.
async fn call(host: &str, method: Method, path: &str, body: Option<Value>) -> Result<(StatusCode, Value), Failed> {
    tokio::time::timeout(Duration::from_secs(3), async {
        let stream = TcpStream::connect((host, PORT)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    })
    .await?
}

//! `bench`: what a running node does, seen from a client: writes a second, and how soon another node tells of a write.
//!
//! It measures what a user would see, over HTTP and the WebSocket. What bounds the figures is for `benches/` to find out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use uuid::Uuid;

use super::{
    Failure,
    client::{Base, Client, Target, doc_path, open_socket, refusal, root, unreachable},
    output,
    wire::{Means, Wire},
};

/// Documents that one connection writes in turn, so that the node's memory grows by its operations only.
const DOCS_EACH: u64 = 16;
/// How long an event may take before the two nodes are taken for strangers.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `bench`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight bench
  lamplight bench --url http://127.0.0.1:7171 --url http://127.0.0.1:7172 --seconds 10

It writes to a collection of its own, bench-…, and deletes the documents in the end; the operations stay in the pool."
))]
pub struct BenchArgs {
    /// Connections that write at once, each waiting for an answer before its next write.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    connections: u64,
    /// How long to measure, for each figure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes of a document.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(32..=1_000_000))]
    size: u64,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Measures, and prints what it measured and how.
pub async fn bench(args: BenchArgs) -> Result<(), Failure> {
    let people = |text: String| if args.target.json { Ok(()) } else { output::line(&text) };
    let BenchArgs { connections, seconds, size, .. } = args;
    let collection = format!("bench-{}", Uuid::new_v4());
    for base in args.target.urls.iter().take(2) {
        Client::of(vec![base.clone()], args.target.means()).ready().await?;
    }
    let first = &args.target.urls[0];
    people(format!(
        "PUT on {first}: {connections} keep-alive connections, one operation a request, {size}-byte documents, {seconds} s"
    ))?;
    let (puts, took) = puts(&args, &collection).await?;
    let rate = puts.0.len() as u128 * 1_000 / took.as_millis().max(1);
    people(format!("  {rate} writes a second; {puts}"))?;
    let mut report = json!({ "put": { "connections": connections, "seconds": took.as_secs_f64(), "size": size,
                                      "per_second": rate as u64, "latency": puts.to_json() } });
    if let Some(second) = args.target.urls.get(1) {
        people(format!(
            "\nPUT on {first} to the event on the WebSocket of {second}: one write at a time, {size}-byte documents, {seconds} s"
        ))?;
        let events = events(&args, second, &collection).await?;
        people(format!("  {events}"))?;
        report["event"] = json!({ "size": size, "latency": events.to_json() });
    }
    people("\nOn one machine this client and the nodes share the processors: a node alone does more.".into())?;
    if args.target.json { output::line(&report.to_string()) } else { Ok(()) }
}

/// Writes through all connections at once; how long each write took, and all of them.
async fn puts(args: &BenchArgs, collection: &str) -> Result<(Latencies, Duration), Failure> {
    let (mut writers, means) = (Vec::new(), args.target.means());
    for number in 0..args.connections {
        writers.push(Writer::open((&args.target.urls[0], &means), collection, number, args.size as usize).await?);
    }
    let begun = Instant::now();
    let end = begun + Duration::from_secs(args.seconds);
    let mut running = JoinSet::new();
    for mut writer in writers {
        running.spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let sent = Instant::now();
                writer.put(latencies.len() as u64).await?;
                latencies.push(sent.elapsed());
            }
            Ok::<_, Failure>((latencies, writer))
        });
    }
    let (mut latencies, mut writers) = (Vec::new(), Vec::new());
    while let Some(ended) = running.join_next().await {
        let (some, writer) = ended.map_err(|error| Failure::new(error.to_string()))??;
        latencies.extend(some);
        writers.push(writer);
    }
    let took = begun.elapsed();
    for mut writer in writers {
        writer.clean_up().await?;
    }
    Ok((Latencies::new(latencies), took))
}

/// Writes on the first node, and waits for each write's event on the second.
async fn events(args: &BenchArgs, second: &Base, collection: &str) -> Result<Latencies, Failure> {
    let (first, means) = (&args.target.urls[0], args.target.means());
    let mut writer = Writer::open((first, &means), collection, args.connections, args.size as usize).await?;
    let mut socket = open_socket(second, &means).await?;
    let subscribe = json!({ "type": "subscribe", "id": "bench", "collection": collection }).to_string();
    let sent = socket.send(Message::text(subscribe)).await;
    sent.map_err(|error| unreachable(second, &root(&error)))?;
    // Numbered on from what the throughput may have left, so that no old event is taken for a new one.
    let start = u64::from(u32::MAX);
    let mut latencies = Vec::new();
    let end = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < end {
        let number = start + latencies.len() as u64;
        let sent = Instant::now();
        let (written, told) = tokio::join!(writer.put(number), event(&mut socket, second, number));
        written?;
        latencies.push(told?.duration_since(sent));
    }
    writer.clean_up().await?;
    Ok(Latencies::new(latencies))
}

/// Waits for the event of the write with a number; when it came.
async fn event(socket: &mut WebSocketStream<Wire>, base: &Base, number: u64) -> Result<Instant, Failure> {
    let awaited = async {
        loop {
            let message = match socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(unreachable(base, &root(&error))),
                None => return Err(unreachable(base, "the connection was closed")),
            };
            let came = Instant::now();
            let mut message: Value = serde_json::from_str(&message).unwrap_or_default();
            if message["type"] == "error" {
                return Err(refusal(message["problem"].take()));
            }
            let in_snapshot =
                || message["docs"].as_array().is_some_and(|docs| docs.iter().any(|doc| doc["value"]["n"] == number));
            if message["doc"]["value"]["n"] == number || in_snapshot() {
                return Ok(came);
            }
        }
    };
    let late = || {
        let seconds = EVENT_TIMEOUT.as_secs();
        Failure::new(format!(
            "{base} did not tell of a write within {seconds} s: are the two nodes linked, in one pool?"
        ))
    };
    timeout(EVENT_TIMEOUT, awaited).await.unwrap_or_else(|_| Err(late()))
}

/// One keep-alive connection, and the documents that it writes in turn.
struct Writer {
    base: Base,
    means: Means,
    requests: http1::SendRequest<Full<Bytes>>,
    collection: String,
    number: u64,
    padding: String,
    /// Documents that are there: the first so many.
    docs: u64,
}

impl Writer {
    async fn open(
        (base, means): (&Base, &Means),
        collection: &str,
        number: u64,
        size: usize,
    ) -> Result<Writer, Failure> {
        let stream = means.dial(base).await.map_err(|error| unreachable(base, &root(&error)))?;
        let (requests, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(base, &root(&error)))?;
        // Its end shows in the next request.
        tokio::spawn(connection);
        // `{"n":…,"pad":"…"}` around them takes about so many bytes.
        let padding = "x".repeat(size.saturating_sub(20));
        let (base, means) = (base.clone(), means.clone());
        Ok(Writer { base, means, requests, collection: collection.into(), number, padding, docs: 0 })
    }

    async fn put(&mut self, n: u64) -> Result<(), Failure> {
        let doc = n % DOCS_EACH;
        self.docs = self.docs.max(doc + 1);
        self.send(Method::PUT, doc, format!("{{\"n\":{n},\"pad\":\"{}\"}}", self.padding)).await
    }

    async fn clean_up(&mut self) -> Result<(), Failure> {
        for doc in 0..std::mem::take(&mut self.docs) {
            self.send(Method::DELETE, doc, String::new()).await?;
        }
        Ok(())
    }

    async fn send(&mut self, method: Method, doc: u64, body: String) -> Result<(), Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(doc_path(&self.collection, &format!("{}-{doc}", self.number)))
            .header(header::HOST, self.base.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(|error| Failure::new(error.to_string()))?;
        request.headers_mut().extend(self.means.authorization().map(|token| (header::AUTHORIZATION, token)));
        let broken = |error: hyper::Error| unreachable(&self.base, &root(&error));
        self.requests.ready().await.map_err(broken)?;
        let (parts, body) = self.requests.send_request(request).await.map_err(broken)?.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        if parts.status.is_success() {
            return Ok(());
        }
        Err(refusal(serde_json::from_slice(&body).unwrap_or_default()))
    }
}

/// How long things took, ascending.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn new(mut all: Vec<Duration>) -> Latencies {
        all.sort_unstable();
        Latencies(all)
    }

    /// The time in milliseconds within which `percent` of them were done.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(rank).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }

    fn to_json(&self) -> Value {
        json!({ "count": self.0.len(), "p50_ms": self.percentile(50), "p99_ms": self.percentile(99) })
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms ({} writes)", self.0.len())
    }
}

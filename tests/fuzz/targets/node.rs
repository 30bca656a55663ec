//! A running node, and whoever asks it something: requests, messages over a WebSocket, cursors, tokens.

use std::{
    cell::RefCell,
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, serve::Listener};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use lamplight::{
    api::{self, Access, Api, Site},
    node::{Credentials, Network, Node, PoolSecret, Trust},
    op::NodeId,
    replica::{Config, Replica, Retention, Standing},
};
use ring::hmac;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::Runtime,
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{client_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use super::{core::halves, text::pieces};

/// After so many inputs a node has its successor: what it was given is its data, and not what is measured.
const INPUTS_MAX: u32 = 1_000;
/// How long an answer may wait for what does not come: a peer, an end of a feed.
const PATIENCE: Duration = Duration::from_millis(50);
/// An answer that has not come by then never will, on any machine.
const ENDLESS: Duration = Duration::from_secs(60);
/// Bytes that are on their way to a node or from it.
pub const WAY_BYTES: usize = 256 << 10;
const JWT_SECRET: &[u8] = b"a secret of more than thirty-two bytes";
pub const POOL_SECRET: &[u8] = b"a secret of a pool";
const TOKEN: &str = "token-of-a-writer-0001";

/// Nothing can be reached but what is put here, once.
#[derive(Clone, Default)]
struct Ways(Arc<Mutex<Option<DuplexStream>>>);

impl Network for Ways {
    type Io = DuplexStream;

    async fn connect(&self, _: &str) -> io::Result<DuplexStream> {
        self.0.lock().expect("nothing panics here").take().ok_or(io::ErrorKind::ConnectionRefused.into())
    }
}

/// Connections within this process.
struct Calls(mpsc::Receiver<DuplexStream>);

impl Listener for Calls {
    type Io = DuplexStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (DuplexStream, SocketAddr) {
        match self.0.recv().await {
            Some(io) => (io, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1)),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 2))
    }
}

/// A node on this thread.
pub struct Running {
    pub runtime: Runtime,
    pub node: Node,
    router: Router,
    ways: Ways,
    calls: mpsc::Sender<DuplexStream>,
    /// Where its files are, if it has any.
    dir: Option<PathBuf>,
    inputs: u32,
}

/// What a node asks for.
#[derive(Clone, Copy)]
pub enum Asks {
    Nothing,
    Tokens,
    Secret,
}

impl Running {
    fn start(asks: Asks) -> Running {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let dir = matches!(asks, Asks::Tokens).then(files);
        let (ways, (calls, received)) = (Ways::default(), mpsc::channel(1));
        let (node, router) = runtime.block_on(async {
            let retention = Retention { ops: 100, bytes: 1 << 20 };
            let config = Config { retention, ..Config::founder(NodeId(Uuid::from_u128(1)), 7) };
            let secret = match asks {
                Asks::Secret => PoolSecret::new(POOL_SECRET).expect("long enough"),
                _ => PoolSecret::none(),
            };
            let credentials = Credentials::of_process(secret, Trust::of_system());
            let credentials = Credentials { limits_handshakes: false, ..credentials };
            let node = Node::guarded(Replica::new(config), None, ways.clone(), credentials);
            let mut published = node.published();
            while node.read(|replica, _| replica.standing()).await != Ok(Standing::Member) {
                published.changed().await.expect("it runs");
            }
            let access = match &dir {
                Some(dir) => Access::open(Some(dir.join("tokens")), vec![dir.join("key")], Site::default()),
                None => Ok(Access::default()),
            };
            let stop = CancellationToken::new();
            let router = api::router(Api::new(node.clone(), stop.clone()).guarded(access.expect("sound files")));
            tokio::spawn(api::serve(Calls(received), router.clone(), stop));
            (node, router)
        });
        let running = Running { runtime, node, router, ways, calls, dir, inputs: 0 };
        running.prepare();
        running
    }

    /// Some documents to look for, and one request of each kind, so that all is there that is made once.
    fn prepare(&self) {
        for (path, value) in [("/v1/docs/c/a", r#"{"a":1}"#), ("/v1/docs/c/b", r#"{"a":[1,{"b":"x"}]}"#)] {
            let request = Request::put(path).header(header::CONTENT_TYPE, "application/json");
            let request = request.header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
            let (status, _) = self.ask(request.body(Body::from(value)).expect("a request"));
            assert_eq!(status, StatusCode::CREATED);
        }
    }

    /// The answer to what is answered at once.
    fn ask(&self, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let answer = async { timeout(ENDLESS, self.answer(request)).await.expect("it answers before long") };
        self.runtime.block_on(answer)
    }

    /// The answer, as far as it does not wait for something, or has no end.
    fn ask_briefly(&self, request: Request<Body>) -> Option<(StatusCode, Vec<u8>)> {
        self.runtime.block_on(async { timeout(PATIENCE, self.answer(request)).await.ok() })
    }

    async fn answer(&self, mut request: Request<Body>) -> (StatusCode, Vec<u8>) {
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, "localhost".parse().expect("a name"));
        }
        let answer = self.router.clone().oneshot(request).await.expect("it answers everything");
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        check(head.status, &head.headers, &body);
        (head.status, body)
    }

    /// A connection to it.
    fn dial(&self) -> DuplexStream {
        let (near, far) = duplex(WAY_BYTES);
        self.calls.try_send(far).expect("it has taken the one before");
        near
    }

    /// Lets it reach this when it dials next.
    pub fn reach(&self, far: DuplexStream) {
        *self.ways.0.lock().expect("nothing panics here") = Some(far);
    }

    /// Says these things over a WebSocket, and waits until the node has heard them.
    fn say(&self, path: &str, messages: Vec<Message>) {
        let near = self.dial();
        self.runtime.block_on(async {
            let (socket, _) = client_async(format!("ws://localhost{path}"), near).await.expect("it takes a WebSocket");
            let (mut out, mut back) = socket.split();
            let said = async {
                for message in messages {
                    // It may close the connection over one of them.
                    if out.send(message).await.is_err() {
                        return;
                    }
                }
                let _ = out.send(Message::Ping("end".into())).await;
            };
            let heard = async {
                while let Some(Ok(message)) = back.next().await {
                    match message {
                        Message::Pong(said) if said == "end" => return,
                        Message::Text(text) => {
                            serde_json::from_str::<Value>(&text).expect("its messages are JSON");
                        }
                        _ => {}
                    }
                }
            };
            tokio::join!(said, heard);
        });
        // What goes with the connection goes before the next input.
        self.settle();
    }

    pub fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            assert!(self.node.read(|_, _| ()).await.is_ok(), "the node's task goes on");
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// An answer is what the API promises: a problem says what it is.
fn check(status: StatusCode, headers: &HeaderMap, body: &[u8]) {
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_client_error() || status.is_server_error() {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let problem = kind.starts_with("application/problem+json");
        assert!(problem || body.is_empty(), "{status}: {}", String::from_utf8_lossy(body));
    }
}

/// Runs something on a node that stays for the next inputs.
pub fn on(asks: Asks, run: impl FnOnce(&Running) -> bool) {
    thread_local!(static NODES: RefCell<[Option<Running>; 3]> = const { RefCell::new([None, None, None]) });
    NODES.with_borrow_mut(|nodes| {
        let place = &mut nodes[asks as usize];
        // One that fails is not there for the next.
        let mut running = place.take().unwrap_or_else(|| Running::start(asks));
        running.inputs += 1;
        if run(&running) && running.inputs < INPUTS_MAX {
            *place = Some(running);
        }
    });
}

/// A request: method and path, headers each on a line, an empty line, the body.
pub fn http(input: &[u8]) {
    let (first, mut rest) = halves(input);
    let Some((method, path)) = str::from_utf8(first).ok().and_then(|first| first.split_once(' ')) else { return };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let is_change = path.starts_with("/v1/pool") && method != Method::GET;
    let mut request = Request::builder().method(method).uri(path);
    loop {
        let (line, behind) = halves(rest);
        rest = behind;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    let Ok(request) = request.body(Body::from(rest.to_vec())) else { return };
    // Where a peer hangs up, and where a node leaves its pool, is for its own tests.
    if request.uri().path() == "/v1/gossip" {
        return;
    }
    on(Asks::Nothing, |running| {
        let answered = running.ask_briefly(request).is_some();
        running.settle();
        answered && !is_change
    });
}

/// Messages of a client, each on a line.
pub fn ws(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n').take(64).filter_map(|line| str::from_utf8(line).ok());
    let messages = lines.map(Message::text).collect();
    on(Asks::Nothing, |running| {
        running.say("/v1/ws", messages);
        true
    });
}

/// Frames of a Yjs editor, each behind its length.
pub fn yjs(input: &[u8]) {
    let messages = pieces(input).into_iter().take(64).map(|piece| Message::binary(piece.to_vec())).collect();
    on(Asks::Nothing, |running| {
        running.say("/v1/yjs/texts/a", messages);
        true
    });
}

/// Bytes behind the head of a WebSocket.
pub fn websocket(input: &[u8]) {
    const HEAD: &[u8] = b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    on(Asks::Nothing, |running| {
        let near = running.dial();
        running.runtime.block_on(async {
            let (mut back, mut out) = tokio::io::split(near);
            let said = async {
                // It may hang up before all is said.
                let _ = out.write_all(HEAD).await;
                let _ = out.write_all(input).await;
                let _ = out.shutdown().await;
            };
            let heard = async {
                let mut bytes = Vec::new();
                let _ = back.read_to_end(&mut bytes).await;
                // Where all has come with the head, hyper may take the end of it for a client that has gone.
                assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 101"));
            };
            tokio::join!(said, heard);
        });
        running.settle();
        true
    });
}

/// A cursor: its first byte says of which listing, and how much of a real one it begins with; the rest goes on behind that.
pub fn cursor(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    on(Asks::Nothing, |running| {
        let (path, name, mark) = match kind % 3 {
            0 => ("/v1/docs/c?limit=1&sort=a", "after", ""),
            1 => ("/v1/changes?limit=1", "since", ""),
            _ => ("/v1/changes?view=final&limit=1", "since", "f."),
        };
        let (status, page) = running.ask(Request::get(path).body(Body::empty()).expect("a request"));
        assert_eq!(status, StatusCode::OK);
        let page: Value = serde_json::from_slice(&page).expect("a page is JSON");
        let real = page["next"].as_str().or(page["cursor"].as_str()).unwrap_or_default();
        let real = BASE64_URL_SAFE_NO_PAD.decode(real.strip_prefix(mark).unwrap_or(real)).unwrap_or_default();
        let kept = usize::from(kind / 3).min(real.len());
        let cursor = BASE64_URL_SAFE_NO_PAD.encode([&real[..kept], rest].concat());
        if let Ok(request) = Request::get(format!("{path}&{name}={mark}{cursor}")).body(Body::empty()) {
            running.ask(request);
        }
        true
    });
}

/// What a client shows of itself. Behind `0`: the claims of a JWT, which is signed; behind `1`: a JWT or token as it is;
/// behind `2`: the same as a subprotocol; behind `3`: a file of tokens.
pub fn token(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    on(Asks::Tokens, |running| {
        let mut request = Request::get("/v1/docs/c/a");
        match kind {
            b'0' => request = request.header(header::AUTHORIZATION, format!("Bearer {}", signed(rest))),
            b'1' => request = request.header(header::AUTHORIZATION, [b"Bearer ", rest].concat()),
            b'2' => {
                let protocols = format!("lamplight.v1, bearer.{}", BASE64_URL_SAFE_NO_PAD.encode(rest));
                request = request.header(header::UPGRADE, "websocket");
                request = request.header(header::SEC_WEBSOCKET_PROTOCOL, protocols);
            }
            _ => {
                read_tokens(running, rest);
                return true;
            }
        }
        let Ok(request) = request.body(Body::empty()) else { return true };
        let (status, _) = running.ask(request);
        let is_known = matches!(kind, b'1' | b'2') && rest.trim_ascii() == TOKEN.as_bytes();
        assert!(kind == &b'0' || is_known || status != StatusCode::OK, "let in with {rest:?}");
        true
    });
}

/// A JWT with these claims.
fn signed(claims: &[u8]) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(br#"{"alg":"HS256"}"#), encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, JWT_SECRET), signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

fn read_tokens(running: &Running, content: &[u8]) {
    let path = running.dir.as_ref().expect("it has files").join("others");
    fs::write(&path, content).expect("room for scratch");
    let _runs = running.runtime.enter();
    if let Ok(access) = Access::open(Some(path), Vec::new(), Site::default()) {
        assert!(access.asks());
    }
}

fn files() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("lamplight-fuzz-{}", Uuid::new_v4()));
    let tokens =
        serde_json::json!({ "tokens": [{ "name": "w", "role": "write", "collections": ["*"], "token": TOKEN }] });
    fs::create_dir(&dir)
        .and_then(|()| fs::write(dir.join("tokens"), tokens.to_string()))
        .and_then(|()| fs::write(dir.join("key"), JWT_SECRET))
        .expect("a directory for scratch");
    dir
}

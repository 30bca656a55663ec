//! Real nodes on port 0 in this process, and a real HTTP client: what tests of the outward interfaces rest on.
//!
//! Nothing here sleeps or tries again. Where a test must wait, it waits for a condition of the replica ([`until`]), or
//! lets the server wait by sending `Lamplight-Session` ([`Answer::session`]).

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod exposition;
pub mod feeds;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use lamplight::{
    api::{self, Access, Api, Limits},
    node::{Credentials, Node, PoolSecret, Tcp, Trust},
    op::NodeId,
    replica::{Config, Replica, Retention, Standing},
    storage::Store,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A node, its server, and a client of it.
pub struct TestNode {
    pub node: Node,
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    client: Client<HttpConnector, Body>,
    pub stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// Starts a node that founds a pool of its own, and waits until it serves.
pub async fn start_node() -> TestNode {
    let node = start("node-0", None).await;
    until(&node.node, |replica| replica.standing() == Standing::Member).await;
    node
}

/// Starts a node that lets in whom `access` does, and waits until it serves.
pub async fn start_guarded(access: Access) -> TestNode {
    let node = start_with("node-0", None, Retention::default(), access).await;
    until(&node.node, |replica| replica.standing() == Standing::Member).await;
    node
}

/// Starts a node within limits, and waits until it serves.
pub async fn start_limited(limits: Limits, access: Access) -> TestNode {
    let door = (access, PoolSecret::none(), limits);
    let node = start_in("node-0", None, Retention::default(), None, door).await;
    until(&node.node, |replica| replica.standing() == Standing::Member).await;
    node
}

/// Starts a node that founds a pool of its own, and forgets what is final.
pub async fn start_forgetful_node() -> TestNode {
    let node = start_with("node-0", None, Retention { ops: 0, bytes: 0 }, Access::default()).await;
    until(&node.node, |replica| replica.standing() == Standing::Member).await;
    node
}

/// Starts nodes of one pool, and waits until each is a member and knows all others. Pairs may still be linking.
pub async fn start_pool<const N: usize>() -> [TestNode; N] {
    let first = start_node().await;
    let url = first.url.clone();
    let mut nodes = vec![first];
    for index in 1..N {
        nodes.push(start(&format!("node-{index}"), Some(url.clone())).await);
    }
    for node in &nodes {
        until(&node.node, |replica| replica.standing() == Standing::Member && replica.roster().present().count() == N)
            .await;
    }
    nodes.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
}

/// Starts a node that joins through a URL that leads nowhere, so that it never becomes a member.
pub async fn start_joining() -> TestNode {
    // Nobody listens on the port of discard; a port that was free just now may be another node's soon.
    start("joining", Some("http://127.0.0.1:9".into())).await
}

/// Starts a node that joins the pool of another, and waits until it serves.
pub async fn start_joining_to(other: &TestNode) -> TestNode {
    let node = start("newcomer", Some(other.url.clone())).await;
    until(&node.node, |replica| replica.standing() == Standing::Member).await;
    node
}

async fn start(name: &str, join: Option<String>) -> TestNode {
    start_with(name, join, Retention::default(), Access::default()).await
}

/// Starts a node that founds a pool of its own and keeps its data in a new journal, and waits until it serves.
pub async fn start_on(store: Store) -> TestNode {
    let door = (Access::default(), PoolSecret::none(), Limits::default());
    let node = start_in("node-0", None, Retention::default(), Some(store), door).await;
    until(&node.node, |replica| replica.standing() == Standing::Member).await;
    node
}

async fn start_with(name: &str, join: Option<String>, retention: Retention, access: Access) -> TestNode {
    start_in(name, join, retention, None, (access, PoolSecret::none(), Limits::default())).await
}

/// Starts a node that knows a pool secret, and joins or founds. It may never become a member.
pub async fn start_knowing(name: &str, join: Option<String>, secret: &PoolSecret) -> TestNode {
    let door = (Access::default(), secret.clone(), Limits::default());
    start_in(name, join, Retention::default(), None, door).await
}

/// Starts a node that says that it has this id, and knows a pool secret.
pub async fn start_as(id: NodeId, name: &str, join: Option<String>, secret: &PoolSecret) -> TestNode {
    let door = (Access::default(), secret.clone(), Limits::default());
    start_with_id(id, name, join, Retention::default(), None, door).await
}

async fn start_in(
    name: &str,
    join: Option<String>,
    retention: Retention,
    store: Option<Store>,
    door: (Access, PoolSecret, Limits),
) -> TestNode {
    start_with_id(NodeId(Uuid::new_v4()), name, join, retention, store, door).await
}

async fn start_with_id(
    id: NodeId,
    name: &str,
    join: Option<String>,
    retention: Retention,
    store: Option<Store>,
    (access, secret, limits): (Access, PoolSecret, Limits),
) -> TestNode {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let config = Config {
        name: name.into(),
        urls: vec![url.clone()],
        found: join.is_none(),
        join: join.into_iter().collect(),
        retention,
        // The pool's id is drawn from the seed, and two pools must not have the same.
        ..Config::founder(id, fastrand::u64(..))
    };
    let node = Node::guarded(Replica::new(config), store, Tcp, Credentials::of_process(secret, Trust::of_system()));
    let stop = CancellationToken::new();
    let router = api::router(Api::new(node.clone(), stop.clone()).guarded(access).limited(limits.clone()));
    let serving = tokio::spawn(api::serve_with(listener, router, None, limits, stop.clone()));
    let client = Client::builder(TokioExecutor::new()).build_http();
    TestNode { node, url, client, stop, serving }
}

/// Waits until a condition of the replica holds. It must be one that changes with the clock, the documents or the
/// standing, for those are what a node publishes.
pub async fn until(node: &Node, condition: impl Fn(&Replica) -> bool + Clone + Send + 'static) {
    let mut published = node.published();
    loop {
        let condition = condition.clone();
        if node.read(move |replica, _| condition(replica)).await.unwrap() {
            return;
        }
        published.changed().await.unwrap();
    }
}

impl TestNode {
    /// A request to this node; give it headers and a body, then [`Call::send`] it.
    pub fn call(&self, method: Method, path: &str) -> Call<'_> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url)).body(Body::empty()).unwrap();
        Call { node: self, request }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    pub async fn put(&self, path: &str, json: &str) -> Answer {
        self.call(Method::PUT, path).json(json).send().await
    }

    pub async fn post(&self, path: &str, json: &str) -> Answer {
        self.call(Method::POST, path).json(json).send().await
    }

    /// A PATCH with a merge patch.
    pub async fn merge(&self, path: &str, json: &str) -> Answer {
        self.call(Method::PATCH, path).typed("application/merge-patch+json", json.to_string()).send().await
    }

    /// A PATCH with a JSON Patch.
    pub async fn patch(&self, path: &str, json: &str) -> Answer {
        self.call(Method::PATCH, path).typed("application/json-patch+json", json.to_string()).send().await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    /// Waits until all ops that this node has issued so far are forgotten, and gives the time up to which they are.
    pub async fn forgotten(&self) -> u64 {
        let clock = self.ops().await;
        loop {
            let horizon = self.node.read(|replica, _| replica.horizon()).await.unwrap();
            if horizon >= clock {
                return horizon;
            }
        }
    }

    /// How many ops this node holds: what tells that a refused request changed nothing.
    pub async fn ops(&self) -> u64 {
        self.node.read(|replica, _| replica.clock()).await.unwrap()
    }

    /// Stops the server and the node.
    pub async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.node.stop().await.expect("a node in memory stops");
    }
}

/// A request to be sent.
pub struct Call<'n> {
    node: &'n TestNode,
    request: Request<Body>,
}

impl Call<'_> {
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.request.headers_mut().append(name, value.as_ref().try_into().unwrap());
        self
    }

    /// A body of JSON.
    #[must_use]
    pub fn json(self, text: &str) -> Self {
        self.typed("application/json", text.to_string())
    }

    /// A body of some type.
    #[must_use]
    pub fn typed(self, media: &'static str, body: impl Into<Body>) -> Self {
        let mut call = self.header("content-type", media);
        *call.request.body_mut() = body.into();
        call
    }

    /// Sends it and takes the whole answer.
    pub async fn send(self) -> Answer {
        let (head, body) = self.stream().await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body: body.to_vec() }
    }

    /// Sends it and takes the head of the answer; the body comes as a stream.
    pub async fn stream(self) -> Response<Incoming> {
        self.try_stream().await.unwrap()
    }

    /// The same, of which the client may give up.
    pub async fn try_stream(self) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        self.node.client.request(self.request).await
    }
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, or the empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What to send as `Lamplight-Session` to see what this answer's node had seen.
    pub fn session(&self) -> &str {
        self.header("lamplight-session")
    }

    /// Asserts the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    /// Asserts that this is the problem with this status and slug, well formed, and returns its `detail`.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, slug: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:lamplight:problem:{slug}"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(!detail.is_empty(), "{problem}");
        detail.to_string()
    }
}

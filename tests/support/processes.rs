//! Real processes of the program, and a client of them.

#![allow(dead_code, missing_docs)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// How long a condition of several processes may take before the test fails; far past what it does take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node in a process of its own; killed when it is dropped.
pub struct Process {
    child: Child,
    pub url: String,
    said: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts `lamplight serve` on a free port, with its data in memory, and waits until it listens.
    pub fn start(name: &str, join: &[&str]) -> Process {
        let join: Vec<&str> = join.iter().flat_map(|url| ["--join", url]).collect();
        Process::serve(&[&["--memory", "--listen", "127.0.0.1:0", "--name", name], &*join].concat())
    }

    /// Starts `lamplight serve` and waits until it listens.
    pub fn serve(args: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight"));
        command.arg("serve").args(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&said);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map(move |line| {
            let line = line.expect("text");
            kept.lock().expect("nobody panics with it").push(line.clone());
            line
        });
        let url = lines
            .by_ref()
            .find_map(|line| {
                let start = line.find("http://127.0.0.1:")?;
                let url: String = line[start..].chars().take_while(|c| !c.is_whitespace() && *c != '"').collect();
                Some(url.trim_end_matches(|c: char| !c.is_ascii_digit()).to_string())
            })
            .expect("it says where it listens");
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Process { child, url, said }
    }

    /// Starts `lamplight serve` where it cannot, and gives its exit code and all that it says.
    pub fn refused(args: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight"));
        command.arg("serve").args(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let end = Instant::now() + PATIENCE;
        while child.try_wait().expect("it is ours").is_none() {
            if Instant::now() > end {
                child.kill().expect("it runs");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let ended = child.wait_with_output().expect("it is ours");
        (ended.status.code(), String::from_utf8(ended.stderr).expect("text"))
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").join("\n")
    }

    /// SIGTERM; its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let sent = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        self.ended()
    }

    /// Waits until it ends by itself; its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("it is ours").is_none() {
            assert!(Instant::now() < end, "{} does not stop", self.url);
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.wait().expect("it ran").code()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ran");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of all processes.
#[derive(Clone)]
pub struct Http(Client<HttpConnector, Full<Bytes>>);

impl Http {
    pub fn new() -> Http {
        Http(Client::builder(TokioExecutor::new()).build_http())
    }

    /// One request; the session is one that a node gave.
    pub async fn call(
        &self,
        method: Method,
        url: &str,
        session: Option<&str>,
        body: String,
    ) -> (StatusCode, String, Bytes) {
        let mut request = Request::builder().method(method).uri(url).header("content-type", "application/json");
        if let Some(session) = session {
            request = request.header("lamplight-session", session);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let response = self.answer(request).await.expect("an answer");
        let status = response.status();
        let header = response.headers().get("lamplight-session").expect("each answer carries a session");
        let session = header.to_str().expect("text").to_string();
        (status, session, response.into_body().collect().await.expect("a body").to_bytes())
    }

    /// The answer, or why there is none; a node that takes the request and says nothing fails the test.
    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let asked = format!("{} {}", request.method(), request.uri());
        let answer = tokio::time::timeout(PATIENCE, self.0.request(request)).await;
        answer.unwrap_or_else(|_| panic!("{asked} is not answered within {PATIENCE:?}"))
    }

    /// One request to a node that may be killed meanwhile; nothing if no whole answer came.
    pub async fn try_call(&self, method: Method, url: &str, body: String) -> Option<(StatusCode, HeaderMap, Value)> {
        let request = Request::builder().method(method).uri(url).header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let response = self.answer(request).await.ok()?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some((head.status, head.headers, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// One request as it is, and the JSON of the answer.
    pub async fn send(&self, request: Request<String>) -> (StatusCode, Value) {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, Full::new(Bytes::from(body)));
        let response = self.answer(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    pub async fn put(&self, url: &str, body: &str) -> StatusCode {
        self.call(Method::PUT, url, None, body.into()).await.0
    }

    pub async fn json(&self, url: &str) -> Value {
        let (_, _, body) = self.call(Method::GET, url, None, String::new()).await;
        serde_json::from_slice(&body).expect("JSON")
    }

    /// What an event stream begins with, up to these words.
    pub async fn stream_start(&self, url: &str, words: &str) -> String {
        let request = Request::builder().uri(url).header("accept", "text/event-stream");
        let mut body =
            self.0.request(request.body(Full::default()).expect("a request")).await.expect("an answer").into_body();
        let mut text = String::new();
        while !text.contains(words) {
            let frame = body.frame().await.expect("it goes on").expect("it goes on");
            text.push_str(std::str::from_utf8(frame.data_ref().expect("no trailers")).expect("text"));
        }
        text
    }

    pub async fn cut(&self, node: &Process, cut: bool) {
        let url = format!("{}/v1/pool/links", node.url);
        let (status, ..) = self.call(Method::POST, &url, None, format!("{{\"cut\":{cut}}}")).await;
        assert_eq!(status, StatusCode::OK);
    }

    /// All documents of a collection with their versions.
    pub async fn listing(&self, node: &Process, collection: &str) -> Vec<(String, String)> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.json(&format!("{}/v1/docs/{collection}?limit=1000{after}", node.url)).await;
            let text = |doc: &Value, name: &str| doc[name].as_str().expect("text").to_string();
            let docs = page["docs"].as_array().expect("a list");
            all.extend(docs.iter().map(|doc| (text(doc, "id"), text(doc, "version"))));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return all,
            }
        }
    }

    /// Waits until a node has so many documents in a collection.
    pub async fn has(&self, node: &Process, collection: &str, count: usize) {
        let end = Instant::now() + PATIENCE;
        let url = format!("{}/v1/collections", node.url);
        let wanted = |all: &Value| {
            let mut all = all["collections"].as_array().expect("a list").iter();
            all.any(|one| one["name"] == collection && one["docs"] == count)
        };
        loop {
            let all = self.json(&url).await;
            if wanted(&all) {
                return;
            }
            assert!(Instant::now() < end, "{} has not come to {count} documents: {all}", node.url);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until each node holds all that each other holds, by their sessions.
    pub async fn converged(&self, nodes: &[&Process]) {
        let end = Instant::now() + PATIENCE;
        let mut sessions = Vec::new();
        for node in nodes {
            sessions.push(self.call(Method::GET, &format!("{}/v1/pool", node.url), None, String::new()).await.1);
        }
        for node in nodes {
            for session in &sessions {
                let url = format!("{}/v1/collections", node.url);
                while self.call(Method::GET, &url, Some(session), String::new()).await.0 != StatusCode::OK {
                    assert!(Instant::now() < end, "{} does not get what another node holds", node.url);
                }
            }
        }
    }

    /// Waits until a node's `/v1/pool` is as wanted.
    pub async fn pool_until(&self, node: &Process, wanted: impl Fn(&Value) -> bool) {
        self.document_until(&format!("{}/v1/pool", node.url), wanted).await;
    }

    /// Waits until what is at a URL is as wanted.
    pub async fn document_until(&self, url: &str, wanted: impl Fn(&Value) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.json(url).await;
            if wanted(&found) {
                return;
            }
            assert!(Instant::now() < end, "{url}: {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until each node is a member, and knows as many.
    pub async fn formed(&self, nodes: &[&Process], members: usize) {
        for node in nodes {
            let all = |pool: &Value| pool["members"].as_array().is_some_and(|list| list.len() >= members);
            self.pool_until(node, |pool| pool["state"] == "member" && all(pool)).await;
        }
    }
}

//! A small HTTP client of a pool: it asks the nodes it was given in turn, and says in words what went wrong.
//!
//! Rests on hyper-util's pooled client and on `wire`. It follows no redirects, and knows no proxies.

use std::{
    error::Error,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    http::request::Builder,
};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, client::IntoClientRequest, protocol::WebSocketConfig},
};
use uuid::Uuid;

use super::{
    Failure, output,
    serve::LISTEN,
    wire::{Connector, Means, Roots, Token, TokenParser, Wire},
};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole answer may take. A node answers within milliseconds, or waits 5 s for a session.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer it may take where the node is asked to wait until an op is final.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Most characters that are shown of an answer which is no problem document.
const EXCERPT_CHARS_MAX: usize = 200;
/// Bytes read from a WebSocket at a time.
const SOCKET_READ_BYTES: usize = 64 << 10;

/// Who is asked when nobody is named: the node that serves in this environment, as in a container of its own.
static HERE: LazyLock<String> = LazyLock::new(|| {
    let listens = std::env::var("LAMPLIGHT_LISTEN").ok().and_then(|listen| listen.parse().ok());
    let mut address = listens.unwrap_or(LISTEN);
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{address}")
});

/// What stands for itself in a path or a query (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The header that makes a write have effect once, however often it is sent.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Which nodes a command asks, and how it speaks.
#[derive(Args, Debug)]
pub struct Target {
    /// URL of a node. Give several (again, or with commas) and the next is asked when one cannot be reached or is not
    /// ready; a write then carries an idempotency key, so that it has effect once.
    #[arg(long = "url", env = "LAMPLIGHT_URL", value_name = "URL", value_delimiter = ',')]
    #[arg(default_value = HERE.as_str(), value_parser = Base::parse)]
    pub urls: Vec<Base>,
    /// Print JSON for programs; what goes wrong comes as a problem document on standard error.
    #[arg(long)]
    pub json: bool,
    /// Token to show to nodes that ask for one. Others on this machine see what is typed here: the environment is hidden
    /// from them.
    #[arg(long, env = "LAMPLIGHT_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = TokenParser)]
    token: Option<Token>,
    /// File with the token, where none is given otherwise: a secret of a container, for its health check.
    #[arg(long, env = "LAMPLIGHT_TOKEN_FILE", value_name = "FILE", value_parser = Token::read)]
    token_file: Option<Token>,
    /// Certificates of the authority that vouches for nodes at https:// URLs, in PEM; those of the system if left out.
    #[arg(long, env = "LAMPLIGHT_CA", value_name = "FILE", value_parser = Roots::read)]
    ca: Option<Roots>,
}

impl Target {
    /// How it speaks.
    pub fn means(&self) -> Means {
        Means::new(self.token.clone().or_else(|| self.token_file.clone()), self.ca.clone())
    }
}

/// Where a node is: `http://host:port` or `https://…`, maybe with a path before `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base(String);

impl Base {
    /// Reads a URL as users write it.
    pub fn parse(text: &str) -> Result<Base, String> {
        let text = text.trim();
        let url = if text.contains("://") { text.to_string() } else { format!("http://{text}") };
        let url = url.trim_end_matches('/').to_string();
        let uri: Uri = url.parse().map_err(|_| "a URL looks like http://127.0.0.1:7171")?;
        match uri.scheme_str() {
            _ if uri.host().is_none_or(str::is_empty) || uri.query().is_some() => {
                Err("a URL looks like http://127.0.0.1:7171".into())
            }
            Some("http" | "https") => Ok(Base(url)),
            _ => Err("this program speaks http and https: a URL looks like http://127.0.0.1:7171".into()),
        }
    }

    /// The URL of a path at this node.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// The same for a WebSocket.
    pub fn ws_at(&self, path: &str) -> String {
        format!("ws{}{path}", self.0.trim_start_matches("http"))
    }

    /// Its `host:port`.
    pub fn authority(&self) -> String {
        let authority = self.named();
        let port = if self.is_secure() { 443 } else { 80 };
        if authority.len() > self.host().len() { authority.into() } else { format!("{authority}:{port}") }
    }

    /// Its host, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        let authority = self.named();
        let port = |rest: &str| rest.parse::<u16>().is_ok();
        authority.rsplit_once(':').filter(|(_, rest)| port(rest)).map_or(authority, |(host, _)| host)
    }

    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.0.starts_with("https://")
    }

    fn named(&self) -> &str {
        let rest = self.0.split_once("://").map_or(&*self.0, |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One part of a path, or one value of a query, percent-encoded.
pub fn encoded(text: &str) -> impl fmt::Display {
    utf8_percent_encode(text, ENCODED)
}

/// The path of a document.
pub fn doc_path(collection: &str, id: &str) -> String {
    format!("/v1/docs/{}/{}", encoded(collection), encoded(id))
}

/// The same path, with the id of its document in the query if the id is percent-encoded: proxies decode `%2F` in a path, and
/// leave a query alone.
fn past_proxies(path: &str) -> String {
    const DOCS: &str = "/v1/docs/";
    let (whole, query) = path.split_once('?').unwrap_or((path, ""));
    let parts = whole.strip_prefix(DOCS).map(|rest| rest.splitn(3, '/').collect::<Vec<_>>());
    let Some([collection, id, rest @ ..]) = parts.as_deref().filter(|parts| parts.len() > 1) else {
        return path.into();
    };
    if !id.contains('%') && *id != "_" {
        return path.into();
    }
    let rest = rest.first().map(|rest| format!("/{rest}")).unwrap_or_default();
    let query = if query.is_empty() { String::new() } else { format!("&{query}") };
    format!("{DOCS}{collection}/_{rest}?id={id}{query}")
}

/// The version in an entity tag. A proxy that compresses marks the tag as weak, or adds the coding behind a hyphen.
pub fn version_in(tag: &str) -> &str {
    let version = tag.trim_start_matches("W/").trim_matches('"');
    version.split('-').next().unwrap_or(version)
}

/// A body that may be a stream.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// Its body as JSON; for answers that are JSON by contract.
    pub fn json(&self) -> Result<Value, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::new(format!("the answer is not JSON ({error}): is there a Lamplight node at this URL?"))
        })
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What an answer that is no success says.
    fn failure(&self, base: &Base) -> Failure {
        let problem = serde_json::from_slice::<Value>(&self.body).ok();
        if let Some(problem) = problem.filter(|problem| problem["detail"].is_string()) {
            return refusal(problem);
        }
        let text: String = String::from_utf8_lossy(&self.body).chars().take(EXCERPT_CHARS_MAX).collect();
        let message = format!("{base} answers {}: is there a Lamplight node? {}", self.status, text.trim());
        Failure::new(message.trim_end())
    }
}

/// What a problem document says; docs/API.md has the table of problems.
pub fn refusal(problem: Value) -> Failure {
    let code = match problem["status"].as_u64() {
        Some(404) => 3,
        Some(409 | 412) => 4,
        Some(503) => 5,
        _ => 1,
    };
    Failure { message: output::text(&problem, "detail").into(), code, problem: Some(problem) }
}

/// Why there is no answer.
struct Lost {
    why: String,
    /// Whether the request left; if so, nobody knows whether it was carried out.
    sent: bool,
}

/// A client of the nodes at some URLs.
#[derive(Debug)]
pub struct Client {
    http: legacy::Client<Connector, Body>,
    means: Means,
    bases: Vec<Base>,
    timeout: Duration,
}

impl Client {
    /// A client that asks `target`'s nodes.
    pub fn new(target: &Target) -> Client {
        Client::of(target.urls.clone(), target.means())
    }

    /// A client that asks the nodes at these URLs.
    pub fn of(bases: Vec<Base>, means: Means) -> Client {
        let mut connector = HttpConnector::new();
        // What is not http is secured by `wire`.
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let connector = Connector { tcp: connector, means: means.clone() };
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Client { http, means, bases, timeout: ANSWER_TIMEOUT }
    }

    /// One that is asked to wait, if it is, waits for its answers longer.
    #[must_use]
    pub fn patient(mut self, waits: bool) -> Client {
        self.timeout = if waits { ANSWER_TIMEOUT + WAIT_MAX } else { ANSWER_TIMEOUT };
        self
    }

    /// Reads what is at a path.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Request::get(path), Bytes::new()).await
    }

    /// Sends a request to the nodes in turn, until one answers that is ready. Only a 2xx is a success.
    pub async fn send(&self, request: Builder, body: Bytes) -> Result<Answer, Failure> {
        let mut request = built(request, body)?;
        if self.bases.len() > 1 && request.method() != Method::GET {
            let key = Uuid::new_v4().to_string();
            let key = HeaderValue::from_str(&key).expect("hex digits and hyphens");
            request.headers_mut().entry(IDEMPOTENCY_KEY).or_insert(key);
        }
        let repeatable = request.method() == Method::GET || request.headers().contains_key(IDEMPOTENCY_KEY);
        self.ask_in_turn(&request, repeatable).await
    }

    /// The same for a request that has one effect however often it comes: it needs no key, and what takes none is asked so.
    pub async fn repeat(&self, request: Builder, body: Bytes) -> Result<Answer, Failure> {
        self.ask_in_turn(&built(request, body)?, true).await
    }

    async fn ask_in_turn(&self, request: &Request<Bytes>, repeatable: bool) -> Result<Answer, Failure> {
        let mut failures = Vec::new();
        for base in &self.bases {
            match self.ask(base, request).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => failures.push(answer.failure(base)),
                Ok(answer) => return Err(answer.failure(base)),
                Err(lost) if lost.sent && !repeatable => {
                    let advice = "nobody knows whether the write was done; with --key it can be repeated safely";
                    return Err(Failure::unreachable(format!("{base} gave no answer: {}; {advice}", lost.why)));
                }
                Err(lost) => failures.push(unreachable(base, &lost.why)),
            }
        }
        Err(joined(failures))
    }

    /// The first node that is ready, for requests which cannot be sent twice.
    pub async fn ready(&self) -> Result<&Base, Failure> {
        let request = Request::get("/readyz").body(Bytes::new()).expect("a constant request");
        let mut failures = Vec::new();
        for base in &self.bases {
            match self.ask(base, &request).await {
                Ok(answer) if answer.status.is_success() => return Ok(base),
                Ok(answer) => failures.push(answer.failure(base)),
                Err(lost) => failures.push(unreachable(base, &lost.why)),
            }
        }
        Err(joined(failures))
    }

    /// Sends a stream to one node, and gives its answer as it comes.
    pub async fn stream(&self, base: &Base, mut request: Request<Body>) -> Result<Incoming, Failure> {
        self.authorize(request.headers_mut());
        let no_answer =
            |error: &(dyn Error + 'static)| Failure::unreachable(format!("{base} gave no answer: {}", root(error)));
        let (parts, body) = self.http.request(request).await.map_err(|error| no_answer(&error))?.into_parts();
        if parts.status.is_success() {
            return Ok(body);
        }
        let body = body.collect().await.map_err(|error| no_answer(&error))?.to_bytes();
        Err(Answer { status: parts.status, headers: parts.headers, body }.failure(base))
    }

    async fn ask(&self, base: &Base, request: &Request<Bytes>) -> Result<Answer, Lost> {
        let (mut parts, body) = request.clone().into_parts();
        let path = past_proxies(&parts.uri.to_string());
        parts.uri = base.at(&path).parse().map_err(|_| Lost { why: "the URL is too long".into(), sent: false })?;
        self.authorize(&mut parts.headers);
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        let answered = async {
            let sent = self.http.request(Request::from_parts(parts, body)).await;
            let response = sent.map_err(|error| Lost { why: root(&error), sent: !error.is_connect() })?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| Lost { why: root(&error), sent: true })?;
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        let late = Lost { why: format!("nothing came within {} s", self.timeout.as_secs()), sent: true };
        timeout(self.timeout, answered).await.unwrap_or(Err(late))
    }
}

impl Client {
    fn authorize(&self, headers: &mut HeaderMap) {
        self.means.authorization().into_iter().for_each(|token| drop(headers.insert(header::AUTHORIZATION, token)));
    }
}

fn built(request: Builder, body: Bytes) -> Result<Request<Bytes>, Failure> {
    let built = request.body(body);
    built.map_err(|error| Failure::usage(format!("{error}: --key and --if-match take visible ASCII only")))
}

/// No connection came about, or it broke.
pub fn unreachable(base: &Base, why: &str) -> Failure {
    Failure::unreachable(format!("cannot reach {base}: {why}"))
}

/// One failure out of those of several nodes.
pub fn joined(failures: Vec<Failure>) -> Failure {
    let problem = failures.iter().find_map(|failure| failure.problem.clone());
    let messages: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
    let mut message = messages.join("; ");
    if problem.is_none() {
        message.push_str(". Is a node running there? lamplight serve starts one");
    }
    Failure { message, code: 5, problem }
}

/// Opens the clients' WebSocket of a node.
pub async fn open_socket(base: &Base, means: &Means) -> Result<WebSocketStream<Wire>, Failure> {
    let lost = |error: &(dyn Error + 'static)| unreachable(base, &root(error));
    let opened = async {
        let stream = means.dial(base).await.map_err(|error| lost(&error))?;
        let mut request = base.ws_at("/v1/ws").into_client_request().map_err(|error| lost(&error))?;
        request.headers_mut().extend(means.authorization().map(|token| (header::AUTHORIZATION, token)));
        // The default buffer is filled with zeros at every read.
        let config = WebSocketConfig::default().read_buffer_size(SOCKET_READ_BYTES);
        let opened = client_async_with_config(request, stream, Some(config)).await;
        Ok(opened.map_err(|error| refused(&error).unwrap_or_else(|| lost(&error)))?.0)
    };
    let late = || unreachable(base, &format!("no WebSocket came about within {} s", CONNECT_TIMEOUT.as_secs()));
    timeout(CONNECT_TIMEOUT, opened).await.unwrap_or_else(|_| Err(late()))
}

/// Why a node opens no WebSocket, in its own words; none if it gave none.
fn refused(error: &tungstenite::Error) -> Option<Failure> {
    let tungstenite::Error::Http(answer) = error else { return None };
    let problem = serde_json::from_slice::<Value>(answer.body().as_deref()?).ok()?;
    problem["detail"].is_string().then(|| refusal(problem))
}

/// The cause at the bottom of an error: what lies above it only names our own layers.
pub fn root(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.downcast_ref().map_or_else(|| cause.to_string(), output::words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_proxies_would_change_stands_in_the_query() {
        let check = |path, expected| assert_eq!(past_proxies(path), expected);
        check("/v1/docs/notes/a", "/v1/docs/notes/a");
        check("/v1/docs/notes/a%2Fb", "/v1/docs/notes/_?id=a%2Fb");
        check("/v1/docs/notes/a%2Fb/history?limit=1", "/v1/docs/notes/_/history?id=a%2Fb&limit=1");
        check("/v1/docs/notes/_", "/v1/docs/notes/_?id=_");
        check("/v1/docs/notes?filter=%7B%7D", "/v1/docs/notes?filter=%7B%7D");
        check("/v1/ops/a%2Fb/c", "/v1/ops/a%2Fb/c");
    }

    #[test]
    fn a_version_is_read_from_a_tag_that_a_proxy_has_changed() {
        for tag in ["\"0123\"", "W/\"0123\"", "\"0123-gzip\"", "W/\"0123--br\""] {
            assert_eq!(version_in(tag), "0123", "{tag}");
        }
    }
}

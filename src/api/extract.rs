//! What handlers take from a request, with a problem for what they cannot.

use std::time::Duration;

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{FromRequestParts, Path},
    http::{HeaderMap, Uri, request::Parts},
};
use bytes::BytesMut;
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::{
    Api, BODY_BYTES_MAX, ConnectionMemory, Problem,
    access::Pass,
    headers::{EXPECT, Field, IDEMPOTENCY_KEY},
    media::{Charset, UTF8_GROWTH_MAX},
    memory::FREE_BYTES,
};
use crate::{
    document::{check_collection, check_id},
    op::{DocKey, NodeId, OpId},
};

/// How much of a refused body is taken and thrown away, in pieces as they come from the socket and in time: enough for
/// a body some times too large, not for one without end.
const LINGER_FRAMES_MAX: usize = 4096;
const LINGER: Duration = Duration::from_secs(2);

/// The place of an id in a path whose id stands in the query.
const IN_QUERY: &str = "_";

/// A collection named in the path, which the client's token is for.
pub struct CollectionPath(pub String);

/// A document named in the path, whose collection the client's token is for.
#[derive(Clone)]
pub struct DocPath {
    /// Its collection.
    pub collection: String,
    /// Its id.
    pub id: String,
}

/// A node named in the path.
pub struct NodePath(pub NodeId);

/// An op named in the path.
pub struct OpPath(pub OpId);

impl DocPath {
    /// As ops name it.
    pub fn key(self) -> DocKey<'static> {
        DocKey::new(self.collection, self.id)
    }
}

impl FromRequestParts<Api> for CollectionPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<CollectionPath, Problem> {
        let name = parameter(parts, api).await?;
        check_collection(&name)?;
        Pass::from_request_parts(parts, api).await?.check_collection(&name)?;
        Ok(CollectionPath(name))
    }
}

impl FromRequestParts<Api> for DocPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<DocPath, Problem> {
        check_escapes(parts.uri.path())?;
        let Path((collection, in_path)): Path<(String, String)> =
            Path::from_request_parts(parts, api).await.map_err(|_| not_utf8())?;
        let id = match id_in_query(&mut parts.uri)? {
            None => in_path,
            Some(id) if in_path == IN_QUERY => id,
            Some(_) => {
                let detail =
                    format!("an id in the query stands for {IN_QUERY} in the path: /v1/docs/{{collection}}/_?id=…");
                return Err(Problem::bad("bad-query", detail));
            }
        };
        check_collection(&collection)?;
        check_id(&id)?;
        Pass::from_request_parts(parts, api).await?.check_collection(&collection)?;
        Ok(DocPath { collection, id })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NodePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<NodePath, Problem> {
        let node = parameter(parts, state).await?.parse();
        node.map(NodePath).map_err(|_| Problem::bad("bad-name", "a member is named by its id: GET /v1/pool lists them"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OpPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<OpPath, Problem> {
        let op = parameter(parts, state).await?.parse();
        op.map(OpPath).map_err(|_| Problem::bad("bad-name", "an op is named <node id>.<seq>, as receipts give it"))
    }
}

/// The only parameter of a path, percent-decoded.
async fn parameter<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    check_escapes(parts.uri.path())?;
    let found: Result<Path<String>, _> = Path::from_request_parts(parts, state).await;
    found.map(|Path(value)| value).map_err(|_| not_utf8())
}

/// Takes the parameter `id` out of a query. Proxies decode `%2F` in a path, join slashes and take `..` away: an id with such
/// characters reaches a node behind them in the query only.
fn id_in_query(uri: &mut Uri) -> Result<Option<String>, Problem> {
    let Some(query) = uri.query().filter(|query| query.contains("id=")) else { return Ok(None) };
    let is_id = |pair: &&str| pair.starts_with("id=");
    let (ids, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_id);
    let [id] = ids[..] else {
        return if ids.is_empty() { Ok(None) } else { Err(Problem::bad("bad-query", "\"id\" is there twice")) };
    };
    let spaced = id["id=".len()..].replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let id = decoded.map_err(|_| Problem::bad("bad-query", "\"id\" must be percent-encoded UTF-8"))?.into_owned();
    let rest = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    // It is a part of the URI that there was.
    *uri = format!("{}{rest}", uri.path()).parse().map_err(|_| not_utf8())?;
    Ok(Some(id))
}

/// Refuses a path with a `%` that begins no escape (RFC 3986, section 2.1): some proxies encode it, others refuse it, and the
/// document would have two names.
fn check_escapes(path: &str) -> Result<(), Problem> {
    let begins_escape = |rest: &&str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if path.split('%').skip(1).all(|rest| begins_escape(&rest)) {
        return Ok(());
    }
    let detail = "a % in a path stands before two hexadecimal digits: write %25 for the character itself";
    Err(Problem::bad("bad-name", detail))
}

fn not_utf8() -> Problem {
    Problem::bad("bad-name", "a name in the path must be percent-encoded UTF-8")
}

/// The body of a request in UTF-8, whole, within its bound, its client's share of memory and in time. It counts until the request
/// is answered.
pub async fn body(api: &Api, parts: &Parts, body: Body) -> Result<Bytes, Problem> {
    let charset = Charset::of(&parts.headers)?;
    let body = as_sent(api, parts, body).await?;
    if !charset.is_utf8() {
        // The text in UTF-8 is there beside it for a moment.
        ConnectionMemory::of_request(parts, api).hold_body(body.len() * (1 + UTF8_GROWTH_MAX))?;
    }
    charset.decode(body)
}

/// The body of a request as it was sent.
async fn as_sent(api: &Api, parts: &Parts, mut body: Body) -> Result<Bytes, Problem> {
    let asks_first = EXPECT.is_in(&parts.headers);
    if body.size_hint().lower() <= BODY_BYTES_MAX as u64 {
        let memory = ConnectionMemory::of_request(parts, api);
        let within = api.limits.body_timeout;
        match timeout(within, collect(&mut body, &memory)).await {
            Err(_) => {
                let detail = format!(
                    "the body was not here whole after {} s: send it faster, or in parts, as a bulk load",
                    within.as_secs_f64()
                );
                return Err(Problem::too_slow(detail));
            }
            Ok(Ok(whole)) => return Ok(whole),
            Ok(Err(Uncollected::TooLong)) => {}
            Ok(Err(Uncollected::OverBudget(problem))) => {
                linger(&mut body).await;
                return Err(problem);
            }
            Ok(Err(Uncollected::Broken)) => {
                return Err(Problem::bad("bad-request", "the body broke off: send it again, whole"));
            }
        }
    } else if asks_first {
        // It is told before it sends a byte, for nothing was read: that would have been "100 Continue".
        return Err(body_too_large());
    }
    linger(&mut body).await;
    Err(body_too_large())
}

/// Why a body is not whole.
enum Uncollected {
    /// It is longer than a body may be.
    TooLong,
    /// Its client, or all clients, make the node hold too much.
    OverBudget(Problem),
    /// The connection ended.
    Broken,
}

/// Reads a body, and counts what is here of it.
async fn collect(body: &mut Body, memory: &ConnectionMemory) -> Result<Bytes, Uncollected> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Uncollected::Broken)?.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > BODY_BYTES_MAX {
            return Err(Uncollected::TooLong);
        }
        if length > FREE_BYTES {
            memory.hold_body(length).map_err(Uncollected::OverBudget)?;
        }
        // Most bodies come in one piece.
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn body_too_large() -> Problem {
    Problem::too_large(format!("a body has at most {BODY_BYTES_MAX} bytes: split it"))
}

/// Takes what a client is still sending of a body that is refused, within bounds. To close on unread bytes makes the
/// kernel reset the connection (RFC 9112, section 9.6), and a client that has not read yet would not see its answer.
pub async fn linger(body: &mut (impl HttpBody + Unpin)) {
    let drained = async {
        let mut frames = 0;
        while frames < LINGER_FRAMES_MAX && matches!(body.frame().await, Some(Ok(_))) {
            frames += 1;
        }
    };
    // Whoever takes longer may see a reset.
    let _ = timeout(LINGER, drained).await;
}

/// The idempotency key.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    Ok(one(headers, &IDEMPOTENCY_KEY)?.map(str::to_string))
}

fn one<'h>(headers: &'h HeaderMap, field: &Field) -> Result<Option<&'h str>, Problem> {
    let mut values = field.all(headers);
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.map(|text| Some(text.trim()))
        .ok_or_else(|| Problem::bad_header(format!("{} must be there once, in ASCII", field.name())))
}

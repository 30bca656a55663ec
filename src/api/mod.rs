//! The outward interfaces: REST, server-sent events, the clients' WebSocket, and the door for peers' links.
//!
//! Rests on `node`. What each call takes and answers is written in docs/API.md; here is how.

mod access;
mod awareness;
mod backup;
mod bulk;
mod changes;
mod conditions;
mod counted;
mod crowd;
mod docs;
mod error;
mod exposition;
mod extract;
mod feed;
mod final_feed;
mod final_place;
mod gossip;
mod headers;
mod herald;
mod history;
mod kinds;
mod limits;
mod listing;
mod live_text;
mod log;
mod look;
mod media;
mod memory;
mod meters;
mod metrics;
mod openapi;
mod page;
mod past;
mod patience;
mod place;
mod pool;
mod process;
mod query;
mod rates;
mod receipts;
mod refusals;
mod rooms;
mod seats;
mod server;
mod shape;
mod shares;
mod steps;
mod text_docs;
mod text_news;
mod texts;
mod tls;
mod trace;
mod tx;
mod wait;
mod watched;
mod workers;
mod ws;
mod yjs;

use std::sync::Arc;

use access::Pass;
pub use access::{Access, Site};
use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, delete, get, post, put},
};
pub use error::Problem;
use headers::{EXPECT, LAMPLIGHT_SESSION};
pub use limits::{Limits, Rate};
use memory::ConnectionMemory;
pub use memory::MemoryBudget;
use meters::Meters;
use rates::{Caller, Rates};
use server::{HEAD_BYTES_MAX, Hold};
pub use server::{serve, serve_with};
use shares::{Bounds, Shares};
use texts::Texts;
pub use tls::{Tls, trust};
use tokio::{
    sync::Semaphore,
    time::{Duration, Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use workers::Workers;
// For the echo that the suite of WebSocket cases talks to, which has no other way to the settings of ours.
#[doc(hidden)]
pub use ws::bounded;

use crate::{
    node::{Node, Published, Stopped, session_seqs},
    op::NodeId,
    replica::{Now, Refused, Replica, Standing},
};

/// Longest body of a request, in bytes: an op of the largest size. A bulk load is a stream of lines, each this long at
/// the most.
pub const BODY_BYTES_MAX: usize = crate::op::OP_BYTES_MAX;
/// What follows `/v1/` in the paths that show or change data: only these wait for a session. The others tell of the node
/// itself, so they answer whatever it holds.
const DATA: [&str; 9] = ["docs", "collections", "tx", "ops", "changes", "ws", "yjs", "log", "backup"];
/// How long a node waits until it holds what a session has seen.
const SESSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Looks of those who follow the node or wait for it that are with its task at once: some hundred microseconds.
const LOOKS_MAX: usize = 32;

const NODE: HeaderName = HeaderName::from_static("lamplight-node");
const CLOCK: HeaderName = HeaderName::from_static("lamplight-clock");

/// What every handler has at hand.
#[derive(Clone)]
pub struct Api {
    /// The node.
    pub node: Node,
    /// Cancelled when streams to clients are to end.
    pub stop: CancellationToken,
    /// Who may ask it what.
    access: Access,
    /// How much of it they may take.
    limits: Arc<Limits>,
    rates: Arc<Rates>,
    texts: Arc<Texts>,
    workers: Workers,
    /// Looks at the node of those who follow it or wait for it.
    looks: Arc<Semaphore>,
    /// Memory for the filters of subscriptions.
    filters: Arc<Shares>,
    meters: Arc<Meters>,
}

impl Api {
    /// For a node; must be called within a runtime. Streams to clients end when `stop` is cancelled.
    pub fn new(node: Node, stop: CancellationToken) -> Api {
        process::start();
        let (texts, meters, access) = (Texts::new(node.clone()), Arc::default(), Access::default());
        let filters = Shares::new(ws::FILTERS_BYTES_MAX, ws::FILTERS_PER_CALLER_BYTES_MAX);
        Api {
            node,
            stop,
            access,
            limits: Arc::default(),
            rates: Arc::default(),
            texts,
            workers: Workers::default(),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            filters,
            meters,
        }
    }

    /// The same, which lets in whom `access` does.
    #[must_use]
    pub fn guarded(self, access: Access) -> Api {
        Api { access, ..self }
    }

    /// The same, within other limits.
    #[must_use]
    pub fn limited(self, limits: Limits) -> Api {
        Api { rates: Arc::new(Rates::new(limits.requests)), limits: Arc::new(limits), ..self }
    }

    /// Reads for one who follows the node or waits for something, when it is told of news. Thousands may be told at once: few of
    /// them look at a time, so that a write does not wait for all.
    pub(crate) async fn look<T, F>(&self, reading: F) -> Result<T, Stopped>
    where
        T: Send + 'static,
        F: FnOnce(&Replica, Now) -> T + Send + 'static,
    {
        let _turn = self.looks.acquire().await;
        self.node.read(reading).await
    }

    /// Reads from a node that holds the pool's data; of one that does not, a read would show a part of it.
    pub(crate) async fn read<T, F>(&self, reading: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce(&Replica) -> T + Send + 'static,
    {
        let read = self.node.read(|replica, _| check_ready(replica.standing()).map(|()| reading(replica)));
        Ok(read.await??)
    }
}

/// Whether a node holds its pool's data, and is told of what becomes of it.
fn check_ready(standing: Standing) -> Result<(), Refused> {
    match standing {
        Standing::Member => Ok(()),
        Standing::Retired => Err(Refused::Retired),
        Standing::Joining | Standing::CatchingUp => Err(Refused::NotReady),
    }
}

/// The routes of a node, each of which `openapi` describes.
fn routes(api: &Api) -> Vec<(&'static str, MethodRouter<Api>)> {
    // At its two routes only: a layer around all of them costs every request some allocations.
    let herald = Extension(herald::Herald::new(&api.node));
    let rooms = Extension(rooms::Rooms::new(&api.node));
    vec![
        ("/v1/docs/{collection}/{id}", put(docs::put).get(docs::get).patch(docs::patch).delete(docs::delete)),
        ("/v1/docs/{collection}/{id}/history", get(history::show)),
        ("/v1/docs/{collection}/{id}/diff", get(past::difference)),
        ("/v1/docs/{collection}", post(docs::post).get(listing::docs)),
        ("/v1/collections", get(listing::collections)),
        ("/v1/tx", post(tx::post)),
        ("/v1/ops/{op}", get(tx::op)),
        ("/v1/changes", get(changes::show).layer(herald.clone())),
        ("/v1/ws", get(ws::open).layer((herald, rooms.clone()))),
        ("/v1/yjs/{collection}/{id}", get(yjs::open).layer(rooms)),
        ("/v1/log", get(log::show)),
        ("/v1/backup", get(backup::show)),
        ("/v1/pool", get(pool::show)),
        ("/v1/pool/join", post(pool::join)),
        ("/v1/pool/links", post(pool::links)),
        ("/v1/pool/members/{id}", delete(pool::remove)),
        ("/livez", get(pool::live)),
        ("/readyz", get(pool::ready)),
        ("/metrics", get(metrics::show)),
        ("/openapi.json", get(openapi::show)),
        ("/docs", get(page::reference)),
        ("/", get(page::index)),
        ("/static/{file}", get(page::file)),
    ]
}

/// The way for peers' links.
const LINKS: &str = "/v1/gossip";

/// What answers the requests to a node.
pub fn router(api: Api) -> Router {
    let routes = routes(&api).into_iter();
    let guarded = middleware::from_fn_with_state(api.clone(), guard);
    routes
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), door))
        // Behind the door: peers come with other proofs than clients, and its signature would tell strangers of the pool.
        .route(LINKS, get(gossip::accept).fallback(error::no_such_method).layer(guarded))
        .with_state(api)
}

/// What every request passes: its count, the limits of connections and requests, bounds on its head, the check of its token and of where it comes from, the wait
/// for its session, and the signature of its answer. One layer, since each costs a request some allocations; and where no
/// tokens are asked for, the check costs none.
async fn door(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let call = api.meters.begin(&request);
    let span = trace::span(request.headers(), &call);
    let (reader, secure) = (api.access.site().reader(&request), is_secure(&request));
    let beyond = request.extensions().get().and_then(Hold::beyond);
    let seated = beyond.map_or(Ok(()), |beyond| Err(Problem::from(beyond)));
    let checked = seated.and_then(|()| bound_head(&request, HEAD_BYTES_MAX)).and_then(|()| api.access.check(&request));
    let (pass, mut admitted) = match checked {
        Ok(pass) => (pass, Ok(())),
        Err(problem) => (Pass::Stranger, Err(problem)),
    };
    let whence = request.extensions().get().map(Hold::whence);
    let (memory, bounds) = (ConnectionMemory::of(request.extensions()), answer_bounds(&request));
    if let Some(memory) = &memory {
        memory.belongs_to(Caller::of(&pass, whence));
    }
    if api.rates.limits() && !is_probe(request.uri().path()) {
        admitted = api.rates.admit(&Caller::of(&pass, whence)).and(admitted);
    }
    let is_stranger = matches!(pass, Pass::Stranger);
    let session = LAMPLIGHT_SESSION.first(request.headers()).cloned();
    let node = session.as_ref().map(|_| api.node.id());
    let waits = admitted.is_ok() && !is_stranger && is_data(request.uri().path());
    if waits {
        admitted = await_session(&api, session.clone()).await;
    }
    let waited = waits && admitted.is_ok();
    let mut response = match (admitted, api.access.site().preflight(&request)) {
        (Err(problem), _) => {
            // A client that asks before it sends is answered before it does.
            if !EXPECT.is_in(request.headers()) {
                extract::linger(request.body_mut()).await;
            }
            problem.into_response()
        }
        (Ok(()), Some(answer)) => answer,
        (Ok(()), None) if api.access.asks() => {
            request.extensions_mut().insert(pass.clone());
            pass.bound(next.run(request).instrument(span.clone()).await)
        }
        (Ok(()), None) => next.run(request).instrument(span.clone()).await,
    };
    if let Some(memory) = &memory {
        response = counted::answer(memory, bounds, response);
    }
    // The signature tells who the members are and how much they have written.
    if !is_stranger {
        sign(&api, response.headers_mut(), session, node.filter(|_| waited));
    }
    api.access.site().share(reader, response.headers_mut());
    api.access.site().guard(secure, response.headers_mut());
    if beyond.is_some() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    span.in_scope(|| trace::answered(call, response.status()));
    response
}

/// What guards the responses that pass beside the door.
async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let secure = is_secure(&request);
    let mut response = next.run(request).await;
    api.access.site().guard(secure, response.headers_mut());
    response
}

fn is_secure(request: &Request) -> bool {
    request.extensions().get().is_some_and(Hold::is_secure)
}

/// Whether it asks how the node is: whoever watches over it must not be refused because others ask much.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/metrics")
}

/// The bounds of memory that an answer has. A request that may change something is answered in any case, and was about as long as
/// its answer. Whoever watches over the node is answered also when others have taken all that there is.
fn answer_bounds(request: &Request) -> Bounds {
    match request.method().is_safe() {
        false => Bounds::None,
        true if is_probe(request.uri().path()) => Bounds::Own,
        true => Bounds::All,
    }
}

fn is_data(path: &str) -> bool {
    let name = path.strip_prefix("/v1/").and_then(|rest| rest.split('/').next());
    name.is_some_and(|name| DATA.contains(&name))
}

async fn await_session(api: &Api, session: Option<HeaderValue>) -> Result<(), Problem> {
    let Some(session) = session else { return Ok(()) };
    let seqs = session.to_str().ok().and_then(session_seqs).ok_or_else(|| {
        Problem::bad_header("Lamplight-Session is not one that a node gave: send back the last you got, or none")
    })?;
    let deadline = Instant::now() + SESSION_TIMEOUT;
    let (mut published, mut from) = (api.node.published(), 0);
    loop {
        // What the node says that it holds needs no question; of the rest it waits for one after the other.
        let (missing, reissued) = {
            let news = published.borrow_and_update();
            (seqs[from..].iter().position(|entry| !news.holds(*entry)), news.reissued)
        };
        let Some(missing) = missing else { return Ok(()) };
        from += missing;
        let entry = seqs[from];
        if api.node.read(move |replica, _| replica.holds(&[entry])).await? {
            from += 1;
            continue;
        }
        let may_hold = |news: &Published| news.holds(entry) || news.reissued != reissued;
        let ask_again = deadline.min(Instant::now() + wait::ASK_EVERY);
        match timeout_at(ask_again, published.wait_for(may_hold)).await {
            Ok(Err(_)) => return Err(Problem::from(Stopped)),
            Err(_) if ask_again == deadline => return Err(Problem::session_not_here()),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

/// Refuses a head that is too long.
fn bound_head(request: &Request, bytes_max: usize) -> Result<(), Problem> {
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    if path + lines.sum::<usize>() <= bytes_max {
        return Ok(());
    }
    let detail = format!("path, query and headers together have at most {bytes_max} bytes: send less in them");
    Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-large", detail))
}

/// Tells who answers, its clock, and the session that has seen what it holds; or the client's own, where it is not sure that this
/// node holds what that has seen: clients send back the last session they got. Sure is the node that `waited` for it, unless it
/// has come back as another since.
fn sign(api: &Api, headers: &mut HeaderMap, session: Option<HeaderValue>, waited: Option<NodeId>) {
    let latest = api.node.latest();
    let mut sign = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    sign(NODE, latest.node.0.hyphenated().encode_lower(&mut [0; 36]));
    sign(LAMPLIGHT_SESSION.name().clone(), &latest.session);
    headers.insert(CLOCK, latest.clock.into());
    let sure = waited == Some(latest.node);
    let sound = |session: &HeaderValue| session.to_str().ok().and_then(session_seqs).is_some();
    session
        .filter(|session| !sure && sound(session))
        .into_iter()
        .for_each(|own| drop(headers.insert(LAMPLIGHT_SESSION.name(), own)));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::{body::Body, http::Method};
    use tower::ServiceExt;

    use super::*;
    use crate::{node::Tcp, replica::Config};

    fn api() -> Api {
        let config = Config::founder(NodeId(uuid::Uuid::new_v4()), 7);
        Api::new(Node::start(config, Tcp), CancellationToken::new())
    }

    #[tokio::test]
    async fn each_route_and_method_is_described_and_each_described_is_there() {
        let api = api();
        let mut there = BTreeSet::new();
        for path in routes(&api).into_iter().map(|(path, _)| path).chain([LINKS]) {
            // What takes no such method tells which it takes.
            let brew = Method::from_bytes(b"BREW").unwrap();
            let request = Request::builder().method(brew).uri(path.replace(['{', '}'], "")).body(Body::empty());
            let response = router(api.clone()).oneshot(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            let allowed = response.headers()[header::ALLOW].to_str().unwrap();
            let allowed: BTreeSet<&str> = allowed.split(',').map(str::trim).collect();
            assert_eq!(allowed.contains("HEAD"), allowed.contains("GET"), "{path}");
            there.extend(
                allowed.into_iter().filter(|method| *method != "HEAD").map(|method| format!("{method} {path}")),
            );
        }
        let description = openapi::description();
        let described = description["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        });
        assert_eq!(there, described.collect());
    }
}

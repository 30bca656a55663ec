//! Problems: the one place where errors become statuses and JSON (RFC 9457).
//!
//! Every refusal says what to do next. What a client cannot mend goes to the log, not to the client.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::kinds;
use crate::{
    document::{Fault, Reason, cost::COST_MAX, json::JsonError, patch::PatchError},
    node::Stopped,
    op::{DRAFT_BYTES_MAX, NodeId, OP_STEPS_MAX, OpError},
    replica::{PRESENT_OF_NODE_MAX, Refused, Unfit, Unseen, Unshared},
    wire::{CLIENT_BYTES_MAX, ROOM_BYTES_MAX, STATE_BYTES_MAX},
};

/// Member, and header, that says after how many seconds to try again.
pub(super) const RETRY_AFTER: &str = "retry_after";

/// A problem document. The `type` is `urn:lamplight:problem:<slug>`; slugs are stable.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    slug: &'static str,
    status: StatusCode,
    detail: String,
    more: Map<String, Value>,
    header: Option<&'static (HeaderName, &'static str)>,
}

impl Problem {
    /// A problem of one of the [`kinds`].
    pub fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Problem {
        let is_known = kinds::find(slug).is_some_and(|kind| kind.statuses.contains(&status.as_u16()));
        debug_assert!(is_known, "{slug} with {status} is no kind of problem");
        Problem { slug, status, detail: detail.into(), more: Map::new(), header: None }
    }

    /// The same, with a further member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.more.insert(name.into(), value.into());
        self
    }

    /// The same, with a further header.
    #[must_use]
    pub fn header(mut self, header: &'static (HeaderName, &'static str)) -> Problem {
        self.header = Some(header);
        self
    }

    /// The same, with the place in the request that it is about.
    #[must_use]
    pub fn at(mut self, place: &str) -> Problem {
        self.detail = format!("{place}: {}", self.detail);
        self
    }

    /// 400, and what is wrong in `detail`.
    pub fn bad(slug: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, slug, detail)
    }

    /// 400 for a header.
    pub fn bad_header(detail: impl Into<String>) -> Problem {
        Problem::bad("bad-header", detail)
    }

    /// 404 for a document.
    pub fn no_document(collection: &str, id: &str) -> Problem {
        let detail = format!("there is no document {id:?} in {collection:?}: PUT creates it");
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// 404 for a document that is not there where all is final.
    pub fn no_final_document(collection: &str, id: &str) -> Problem {
        let detail = format!(
            "there is no document {id:?} in {collection:?} as far as all is final: without view=final you see what is \
             tentative"
        );
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// 413.
    pub fn too_large(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
    }

    /// 408 for a client that takes too long over what it sends.
    pub fn too_slow(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", detail)
    }

    /// 429: more than so many a second, `of whom`; with the seconds after which the next is taken.
    pub fn too_many_requests(per_second: u32, whom: &str, wait: Duration) -> Problem {
        let detail = format!(
            "this node takes {per_second} requests a second {whom}: wait as many seconds as \"retry_after\" says, then go \
             on slower. What belongs together may go in one request: POST /v1/tx, or a bulk load"
        );
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", detail).with(RETRY_AFTER, seconds)
    }

    /// 503 for a connection beyond a limit.
    pub fn too_many_connections(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-connections", detail)
    }

    /// 503 for a session whose writes have not come here.
    pub fn session_not_here() -> Problem {
        let detail = "this node does not hold yet what the session has seen: try again, ask another node, or leave \
                      Lamplight-Session out";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "session-not-here", detail)
    }

    /// 503 for a node that has left its pool.
    pub fn retired() -> Problem {
        let detail = "this node has retired from its pool: ask another member. Started again with --join it joins again, as \
                      another node";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "retired", detail)
    }

    /// 412, with the version that the document has now (none if it is absent).
    pub fn version_mismatch(current: Option<String>) -> Problem {
        let detail = "the document is not in the version you named: GET it, apply your change to what is there, and \
                      send the new version in If-Match";
        Problem::new(StatusCode::PRECONDITION_FAILED, "version-mismatch", detail).with("current", current)
    }

    /// 412 for a write that was to find the document in another version.
    pub fn version_excluded(current: &str) -> Problem {
        let detail = "the document is in a version that If-None-Match names, and the write is for any other: send it without, or \
                      with that version in If-Match";
        Problem::new(StatusCode::PRECONDITION_FAILED, "version-mismatch", detail).with("current", current)
    }

    /// 412 for a write that was to create the document.
    pub fn exists_already(current: Option<String>) -> Problem {
        let detail = "the document exists already, and If-None-Match: * only creates: choose another id, or send its \
                      version in If-Match to replace it";
        Problem::new(StatusCode::PRECONDITION_FAILED, "version-mismatch", detail).with("current", current)
    }

    /// Its members, as in the body of an answer or in a WebSocket error.
    pub fn to_json(&self) -> Value {
        let mut members = self.more.clone();
        members.insert("type".into(), format!("urn:lamplight:problem:{}", self.slug).into());
        members.insert("title".into(), self.slug.replace('-', " ").into());
        members.insert("status".into(), self.status.as_u16().into());
        members.insert("detail".into(), self.detail.clone().into());
        Value::Object(members)
    }

    /// Whether it is of this kind.
    pub fn is(&self, slug: &str) -> bool {
        self.slug == slug
    }

    /// What happened, and what to do next.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.to_json().to_string();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(self.header.map(|(name, value)| (name.clone(), HeaderValue::from_static(value))));
        // Who has retired stays so.
        if let Some(seconds) = self.more.get(RETRY_AFTER).and_then(Value::as_u64) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        } else if self.status == StatusCode::SERVICE_UNAVAILABLE && self.slug != "retired" {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 6750, section 3: who showed no token is told no error.
            let asks = if self.more.contains_key("error") {
                "Bearer realm=\"lamplight\", error=\"invalid_token\""
            } else {
                "Bearer realm=\"lamplight\""
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(asks));
        }
        response
    }
}

impl From<Stopped> for Problem {
    fn from(_: Stopped) -> Problem {
        let detail = "this node is stopping: ask another node of the pool";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail)
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Problem {
        let slug = match &error {
            JsonError::Malformed { .. } => "malformed-json",
            JsonError::DuplicateKey { .. } => "duplicate-key",
            JsonError::InexactNumber { .. } => "inexact-number",
            JsonError::TooDeep => "too-deep",
            JsonError::TooLarge => return Problem::too_large(error.to_string()),
        };
        Problem::bad(slug, error.to_string())
    }
}

impl From<PatchError> for Problem {
    fn from(error: PatchError) -> Problem {
        Problem::bad("bad-patch", error.to_string())
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        match fault {
            Fault::BadName(why) => Problem::bad("bad-name", why),
            Fault::TooLarge => Problem::too_large(fault.to_string()),
            Fault::BadPatch(error) => error.into(),
            Fault::BadUpdate(why) => Problem::bad("bad-update", why.to_string()),
            Fault::NotCanonical | Fault::NotAlone => Problem::bad("bad-request", fault.to_string()),
        }
    }
}

/// For an op over guards and commands; single-document writes know more of their guards and map these first.
impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        match refused {
            Refused::NotReady => {
                let detail = "this node does not hold the pool's data yet: GET /readyz says when, GET /v1/pool why";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail)
            }
            Refused::Retired => Problem::retired(),
            Refused::DiskFull => Problem::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "disk-full",
                "the disk of this node has no room for the write: make room there, or write to another node. Nothing was \
                 written; reads go on, deletions while their reserve lasts, and writes as soon as there is room",
            ),
            Refused::MemoryFull => Problem::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "memory-full",
                "this node takes as much memory as it may (--max-memory): delete what is not needed, or write to another \
                 node that has room. Nothing was written; reads and deletions of what is there go on, and writes as soon as \
                 there is room",
            ),
            Refused::Absent => Problem::new(StatusCode::NOT_FOUND, "not-found", "the document does not exist"),
            Refused::KeyReused(first) => {
                let detail = "this idempotency key was used for another request: use a new key for a new request";
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", detail).with("op", first.to_string())
            }
            Refused::Fault(fault) => fault.into(),
            Refused::Op(OpError::TooLong) => {
                Problem::too_large(format!("one op has at most {DRAFT_BYTES_MAX} bytes: split it"))
            }
            Refused::Op(_) => {
                let detail = format!("one op has at least one command, and at most {OP_STEPS_MAX} guards and commands");
                Problem::bad("bad-request", detail)
            }
            Refused::Rejected(reason) => reason.into(),
            Refused::Membership(node, unfit) => membership(node, unfit),
            Refused::Unseen(unseen) => crowded(unseen),
        }
    }
}

fn crowded(unseen: Unseen) -> Problem {
    match unseen {
        Unseen::BadRoom => Problem::bad("bad-name", format!("a room has a name of 1 to {ROOM_BYTES_MAX} bytes")),
        Unseen::BadClient => {
            Problem::bad("bad-name", format!("a client has a name of 1 to {CLIENT_BYTES_MAX} bytes in a room"))
        }
        Unseen::TooLarge => Problem::too_large(format!(
            "a state has at most {STATE_BYTES_MAX} bytes, for every node keeps it: put what is larger into a document"
        )),
        Unseen::Full => {
            let (entries, bytes) = PRESENT_OF_NODE_MAX;
            let detail = format!(
                "the clients of a node are in at most {entries} rooms together, with states of {} MiB: leave some, show less, \
                 or connect to another node",
                bytes >> 20
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
        }
    }
}

fn membership(node: NodeId, unfit: Unfit) -> Problem {
    let conflict = |slug, detail| Problem::new(StatusCode::CONFLICT, slug, detail);
    match unfit {
        Unfit::Unknown => Problem::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("no member of this pool has the id {node}: GET /v1/pool lists them"),
        ),
        Unfit::Oneself => {
            Problem::bad("bad-request", "a node does not evict itself: ask another member to, or let it retire")
        }
        Unfit::Alive => conflict(
            "member-alive",
            format!(
                "{node} was heard of a moment ago: stop it, or let it retire. With force=true it is evicted all the \
                 same, and joins again under a new id"
            ),
        ),
        Unfit::NoMajority => conflict(
            "no-majority",
            format!(
                "without {node} this node and the members that it hears are no majority: others elsewhere could decide without \
                 them. Start the silent members, or link them, and ask again (GET /v1/pool lists them). With force=true it is \
                 evicted all the same; then be sure that no other part of the pool does the like"
            ),
        ),
        Unfit::Last => conflict("last-member", "this is the last member: its pool would go with it".to_string()),
        Unfit::Unshared(Unshared { own: 0, orphans: 0, unheard: false, .. }) => {
            let detail = "this node was another member before, which it has yet to evict: it does so within about 15 seconds. Ask \
                          again then";
            conflict("not-shared", detail.to_string()).with(RETRY_AFTER, 1)
        }
        Unfit::Unshared(Unshared { own, orphans, .. }) => {
            let operations = own + orphans as u64;
            let detail = format!(
                "no other member has said that it holds all that this node has ({operations} operations are missing there), or \
                 none is linked to it: ask again once it reaches the others, and nobody writes to it. GET /v1/pool says whom \
                 it is linked to, and why not"
            );
            conflict("not-shared", detail).with("operations", operations).with(RETRY_AFTER, 1)
        }
        Unfit::Needed => conflict(
            "no-majority",
            "some members are silent, or are to be evicted, and without this node those that are heard are no majority: they could \
             not evict them. Start the silent members, or evict them and wait until that is final, then retire. GET /v1/pool \
             lists them, and who holds back what is final"
                .to_string(),
        ),
        Unfit::NotForClients => Problem::bad("bad-request", "only nodes make members"),
    }
}

impl From<Reason> for Problem {
    fn from(reason: Reason) -> Problem {
        let detail = describe(&reason);
        let conflict = |slug| Problem::new(StatusCode::CONFLICT, slug, detail.clone());
        match reason {
            Reason::Guard { index, current } => {
                let current = current.map(|version| version.to_string());
                conflict("guard-failed").with("guard", index).with("current", current)
            }
            Reason::Command { index, .. } => conflict("patch-failed").with("command", index),
            Reason::TooLarge { .. } => Problem::too_large(detail),
            Reason::TooCostly => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too-costly", detail),
            Reason::Repeated(first) => conflict("guard-failed").with("op", first.to_string()),
        }
    }
}

/// Why an op has no effect, for people.
pub fn describe(reason: &Reason) -> String {
    match reason {
        Reason::Guard { index, current: Some(version) } => {
            format!("guard {index} does not hold: the document is there in version {version}")
        }
        Reason::Guard { index, current: None } => format!("guard {index} does not hold: the document does not exist"),
        Reason::Command { index, why } => format!("command {index} cannot be carried out: {why}"),
        Reason::TooLarge { index } => {
            format!("command {index} would make the document larger than it may be: split it")
        }
        Reason::TooCostly => format!(
            "the operation costs more than {COST_MAX} units, which count what it parses, copies, moves and compares: split it \
             into several of fewer commands or steps, PUT the document, or keep large content in several documents"
        ),
        Reason::Repeated(first) => format!("op {first} with the same idempotency key comes before it"),
    }
}

/// 404 for a path.
pub async fn no_such_path(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {}: /docs lists the paths, and / is the page", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

/// 405.
pub async fn no_such_method(uri: Uri) -> Problem {
    let detail = format!("{} does not take this method: the Allow header names those it takes", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

/// A problem in the text of an event stream or a line of a bulk answer.
pub fn line(number: u64, problem: &Problem) -> Value {
    json!({ "line": number, "problem": problem.to_json() })
}

//! The pool as this node sees it, and what an operator does with its links. These calls answer in every state of the
//! node: they are how one finds out why it is not ready.

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{Api, Problem, docs::json_only, extract, query::Query, steps::Fields};
use crate::{
    document::json as strict,
    node::authority,
    op::{NodeId, PoolId},
    replica::{Counters, LinkState, MemberStatus, Now, Refused, Replica, Standing},
};

/// `GET /v1/pool`.
pub async fn show(State(api): State<Api>, uri: Uri) -> Result<Json<Value>, Problem> {
    Query::of(&uri, &[])?;
    Ok(Json(api.node.read(Sight::of).await?.to_json()))
}

/// `POST /v1/pool/join`: names a place to link to. Links come about later, so a refusal shows in `GET /v1/pool`.
pub async fn join(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let mut fields = body(request, &["url"]).await?;
    let url = match fields.take("url")? {
        Value::String(url) => url.trim_end_matches('/').to_string(),
        _ => return Err(Problem::bad("bad-request", "\"url\" must be a string")),
    };
    if authority(&url).is_none() {
        let detail = format!("{:?} is not of the form http://host:port", strict::excerpt(&url));
        return Err(Problem::bad("bad-request", detail));
    }
    api.node.join(url.clone()).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "url": url }))).into_response())
}

/// `POST /v1/pool/links`: cuts this node's links, or joins them again.
pub async fn links(State(api): State<Api>, request: Request) -> Result<Json<Value>, Problem> {
    let mut fields = body(request, &["cut"]).await?;
    let Value::Bool(cut) = fields.take("cut")? else {
        return Err(Problem::bad("bad-request", "\"cut\" must be true or false"));
    };
    api.node.cut(cut).await?;
    // Asked anew, so that the answer is given once it is so.
    Ok(Json(json!({ "cut": api.node.read(|replica, _| replica.is_cut()).await? })))
}

/// `GET /livez`: the task that owns the replica takes turns.
pub async fn live(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    api.node.read(|_, _| ()).await?;
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /readyz`: the node takes reads and writes.
pub async fn ready(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let standing = api.node.read(|replica, _| replica.standing()).await?;
    if standing == Standing::Member { Ok(Json(json!({ "status": "ok" }))) } else { Err(Refused::NotReady.into()) }
}

async fn body(request: Request, known: &[&str]) -> Result<Fields, Problem> {
    let (Parts { headers, uri, .. }, body) = request.into_parts();
    Query::of(&uri, &[])?;
    json_only(&headers)?;
    Fields::open("the body", strict::parse(&extract::body(&headers, body).await?)?, known)
}

/// What `GET /v1/pool` tells, taken out of the replica in one turn; the JSON is made outside of it.
struct Sight {
    node: NodeId,
    pool: Option<(PoolId, String)>,
    standing: Standing,
    clock: u64,
    cut: bool,
    ops: usize,
    docs: usize,
    members: Vec<MemberStatus>,
    problems: Vec<(String, String)>,
    progress: Option<(u64, u64)>,
    counters: Counters,
}

impl Sight {
    fn of(replica: &Replica, now: Now) -> Sight {
        Sight {
            node: replica.config().node,
            pool: replica.pool().cloned(),
            standing: replica.standing(),
            clock: replica.clock(),
            cut: replica.is_cut(),
            ops: replica.log().len(),
            docs: replica.state().count(),
            members: replica.member_list(now.mono_ms),
            problems: replica.link_problems(),
            progress: replica.catch_up_progress(),
            counters: replica.counters(),
        }
    }

    fn to_json(&self) -> Value {
        let problem = |(url, detail): &(String, String)| json!({ "url": url, "detail": detail });
        let mut shown = json!({
            "pool": self.pool.as_ref().map(|(id, name)| json!({ "id": id.to_string(), "name": name })),
            "node": self.node.to_string(),
            "state": match self.standing {
                Standing::Joining => "joining",
                Standing::CatchingUp => "catching-up",
                Standing::Member => "member",
                Standing::Retired => "retired",
            },
            "clock": self.clock.to_string(),
            "cut": self.cut,
            "ops": self.ops.to_string(),
            "docs": self.docs,
            "members": self.members.iter().map(member).collect::<Vec<_>>(),
            "problems": self.problems.iter().map(problem).collect::<Vec<_>>(),
        });
        let Counters { discrepancies, mended, .. } = self.counters;
        if discrepancies > 0 {
            shown["discrepancies"] = json!({ "seen": discrepancies, "mended": mended });
        }
        if let Some((held, of)) = self.progress {
            shown["progress"] = json!({ "held": held.to_string(), "of": of.to_string() });
        }
        shown
    }
}

fn member(member: &MemberStatus) -> Value {
    let link = match member.link {
        LinkState::Oneself => "self",
        LinkState::Linked => "linked",
        LinkState::Dialling => "dialling",
        LinkState::None => "none",
    };
    json!({
        "id": member.node.to_string(),
        "name": member.name,
        "urls": member.urls,
        "self": member.link == LinkState::Oneself,
        "link": link,
        "alive": member.alive,
        "clock": member.clock.to_string(),
        "head": { "seq": member.head.seq.to_string(), "hash": member.head.hash.to_string() },
        "heard_ms_ago": member.heard_ago.map(|ago| ago.as_millis() as u64),
    })
}

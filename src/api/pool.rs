//! The pool as this node sees it, and what an operator does with its links. These calls answer in every state of the
//! node: they are how one finds out why it is not ready.

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Api, Problem,
    docs::json_only,
    extract::{self, NodePath},
    log,
    query::Query,
    rates::Caller,
    shape,
    steps::Fields,
    wait::Patience,
};
use crate::{
    document::json as strict,
    node::join_url,
    op::{Command, Eviction, NodeId, Op, PoolId},
    replica::{Counters, Draft, Holdup, LinkState, MemberStatus, Now, Receipt, Refused, Replica, Standing, Unfit},
};

/// How long a node that is to retire waits until another member holds what it has.
const SHARE_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before it asks again if the others are enough without it.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// `GET /v1/pool`.
pub async fn show(State(api): State<Api>, uri: Uri) -> Result<Json<Value>, Problem> {
    Query::of(&uri, &[])?;
    Ok(Json(api.node.read(Sight::of).await?.to_json()))
}

/// `POST /v1/pool/join`: names a place to link to. Links come about later, so a refusal shows in `GET /v1/pool`.
pub async fn join(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let mut fields = body(&api, request, &["url"]).await?;
    let Value::String(url) = fields.take("url")? else {
        return Err(Problem::bad("bad-request", "\"url\" must be a string"));
    };
    let url = join_url(&url).ok_or_else(|| {
        let detail = format!("{:?} is not of the form http://host:port or https://host:port", strict::excerpt(&url));
        Problem::bad("bad-request", detail)
    })?;
    api.node.join(url.clone()).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "url": url }))).into_response())
}

/// `POST /v1/pool/links`: cuts this node's links, or joins them again.
pub async fn links(State(api): State<Api>, request: Request) -> Result<Json<Value>, Problem> {
    let mut fields = body(&api, request, &["cut"]).await?;
    let Value::Bool(cut) = fields.take("cut")? else {
        return Err(Problem::bad("bad-request", "\"cut\" must be true or false"));
    };
    api.node.cut(cut).await?;
    // Asked anew, so that the answer is given once it is so.
    Ok(Json(json!({ "cut": api.node.read(|replica, _| replica.is_cut()).await? })))
}

/// `DELETE /v1/pool/members/{id}`: evicts a member; the node's own id makes it retire.
pub async fn remove(
    State(api): State<Api>,
    NodePath(node): NodePath,
    caller: Caller,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut query = Query::of(&uri, &["force", "wait", "timeout"])?;
    let patience = Patience::take(&mut query)?;
    api.admit(patience).await?;
    let force = match query.take("force").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::bad("bad-query", "force is true, or left out")),
    };
    let (own, left) = api.read(move |replica| (replica.node() == node, has_left(replica, node))).await?;
    if left {
        let detail = format!("{node} has left this pool already: GET /v1/pool lists its members");
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", detail));
    }
    let receipt =
        if own { retire(&api, &caller).await? } else { evict(&api, &caller, Eviction { node, force }).await? };
    let waited = api.awaited(&caller, receipt, patience).await?;
    let done = waited.receipt.is_final || waited.has_reached();
    Ok(if done { shape::written(StatusCode::OK, &waited) } else { waited.accepted() })
}

async fn evict(api: &Api, caller: &Caller, eviction: Eviction) -> Result<Receipt, Problem> {
    let commands = vec![Command::Evict(eviction)];
    let answer =
        api.node.submit(caller.client(), Draft { key: None, guards: Vec::new(), commands, present: false }).await?;
    if let Err(Refused::Membership(_, Unfit::NoMajority)) = answer
        && let Some(way_on) = api.node.read(|replica, _| replica.crossed_evictions()).await?
    {
        return Err(Problem::new(StatusCode::CONFLICT, "no-majority", way_on));
    }
    Ok(answer?)
}

/// Lets the node retire, once another member holds what it has: there is a moment for that, for a node that takes writes has
/// mostly something on its way.
async fn retire(api: &Api, caller: &Caller) -> Result<Receipt, Problem> {
    let end = Instant::now() + SHARE_TIMEOUT;
    loop {
        let draft = Draft { key: None, guards: Vec::new(), commands: vec![Command::Retire], present: false };
        let answer = api.node.submit(caller.client(), draft).await?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !matches!(answer, Err(Refused::Membership(_, Unfit::Unshared(_) | Unfit::Needed))) {
            return Ok(answer?);
        }
        api.node.share(left).await?;
        if matches!(answer, Err(Refused::Membership(_, Unfit::Needed))) {
            // A sign of life of another member may have come late.
            sleep(left.min(ASK_AGAIN)).await;
        }
    }
}

/// Whether a node was a member, and is none any more.
fn has_left(replica: &Replica, node: NodeId) -> bool {
    replica.roster().is_gone(node) && !replica.assembly().pending.contains(&node)
}

/// `GET /livez`: the task that owns the replica takes turns.
pub async fn live(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    api.node.read(|_, _| ()).await?;
    Ok(Json(json!({ "status": "ok" })))
}

/// `GET /readyz`: the node takes reads and writes.
pub async fn ready(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    api.read(|_| ()).await?;
    Ok(Json(json!({ "status": "ok" })))
}

async fn body(api: &Api, request: Request, known: &[&str]) -> Result<Fields, Problem> {
    let (parts, body) = request.into_parts();
    Query::of(&parts.uri, &[])?;
    json_only(&parts.headers)?;
    Fields::open("the body", strict::parse(&extract::body(api, &parts, body).await?)?, known)
}

/// What `GET /v1/pool` tells, taken out of the replica in one turn; the JSON is made outside of it.
struct Sight {
    node: NodeId,
    pool: Option<(PoolId, String)>,
    standing: Standing,
    clock: u64,
    frontier: u64,
    held_back_by: Vec<Holder>,
    cut: bool,
    ops: usize,
    docs: usize,
    members: Vec<MemberStatus>,
    problems: Vec<(String, String)>,
    horizon: u64,
    /// How many ops the log still has, and how many bytes they have.
    kept: (usize, usize),
    /// While it catches up: how many ops, and documents of a snapshot, are here, and how many these are.
    progress: [Option<(u64, u64)>; 2],
    counters: Counters,
}

/// A member that keeps the frontier from moving.
struct Holder {
    node: NodeId,
    name: String,
    why: &'static str,
    heard_ago: Option<Duration>,
}

/// Who holds back what is not final yet.
fn held_back_by(replica: &Replica, members: &[MemberStatus]) -> Vec<Holder> {
    let newest = replica.log().before(log::LAST, None).next().map_or(0, Op::time);
    if newest <= replica.frontier() {
        return Vec::new();
    }
    let holder = |holdup| {
        let (node, why) = match holdup {
            Holdup::Silent(node) => (node, "silent"),
            Holdup::Eviction(node) => (node, "eviction"),
        };
        let name = replica.roster().all().get(&node).map(|member| member.name.clone()).unwrap_or_default();
        let heard_ago = members.iter().find(|member| member.node == node).and_then(|member| member.heard_ago);
        Holder { node, name, why, heard_ago }
    };
    replica.held_back_by(newest).into_iter().map(holder).collect()
}

impl Sight {
    fn of(replica: &Replica, now: Now) -> Sight {
        let members = replica.member_list(now.mono_ms);
        Sight {
            node: replica.config().node,
            pool: replica.pool().cloned(),
            standing: replica.standing(),
            clock: replica.clock(),
            frontier: replica.frontier(),
            held_back_by: held_back_by(replica, &members),
            cut: replica.is_cut(),
            ops: replica.log().len(),
            docs: replica.state().count(),
            members,
            problems: replica.link_problems(),
            horizon: replica.horizon(),
            kept: replica.log().kept(),
            progress: [replica.catch_up_progress(), replica.fetch_progress()],
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
            "frontier": self.frontier.to_string(),
            "final_lag": self.clock.saturating_sub(self.frontier).to_string(),
            "held_back_by": self.held_back_by.iter().map(holder).collect::<Vec<_>>(),
            "cut": self.cut,
            "ops": self.ops.to_string(),
            "docs": self.docs,
            "horizon": self.horizon.to_string(),
            "kept": { "ops": self.kept.0.to_string(), "bytes": self.kept.1.to_string() },
            "members": self.members.iter().map(member).collect::<Vec<_>>(),
            "problems": self.problems.iter().map(problem).collect::<Vec<_>>(),
        });
        let Counters { discrepancies, mended, .. } = self.counters;
        if discrepancies > 0 {
            shown["discrepancies"] = json!({ "seen": discrepancies, "mended": mended });
        }
        let [ops, docs] = self.progress;
        if let Some((held, of)) = ops {
            shown["progress"] = json!({ "held": held.to_string(), "of": of.to_string() });
        }
        if let Some((held, of)) = docs {
            shown["progress"]["docs"] = json!({ "held": held, "of": of });
        }
        shown
    }
}

fn holder(holder: &Holder) -> Value {
    json!({
        "member": holder.node.to_string(),
        "name": holder.name,
        "why": holder.why,
        "since_ms": holder.heard_ago.map(|ago| ago.as_millis() as u64),
    })
}

fn member(member: &MemberStatus) -> Value {
    let link = match member.link {
        LinkState::Oneself => "self",
        LinkState::Linked => "linked",
        LinkState::Dialling => "dialling",
        LinkState::None => "none",
    };
    let mut shown = json!({
        "id": member.node.to_string(),
        "name": member.name,
        "urls": member.urls,
        "self": member.link == LinkState::Oneself,
        "link": link,
        "alive": member.alive,
        "clock": member.clock.to_string(),
        "head": { "seq": member.head.seq.to_string(), "hash": member.head.hash.to_string() },
        "heard_ms_ago": member.heard_ago.map(|ago| ago.as_millis() as u64),
    });
    if member.evicted {
        shown["evicted"] = true.into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(progress: [Option<(u64, u64)>; 2]) -> Value {
        let sight = Sight {
            node: NodeId(uuid::Uuid::nil()),
            pool: None,
            standing: Standing::CatchingUp,
            clock: 0,
            frontier: 0,
            held_back_by: Vec::new(),
            cut: false,
            ops: 0,
            docs: 0,
            members: Vec::new(),
            problems: Vec::new(),
            horizon: 0,
            kept: (0, 0),
            progress,
            counters: Counters::default(),
        };
        sight.to_json()["progress"].clone()
    }

    #[test]
    fn progress_is_told_in_ops_and_while_a_snapshot_comes_in_documents() {
        assert_eq!(shown([None, None]), Value::Null);
        assert_eq!(shown([Some((5, 12)), None]), json!({ "held": "5", "of": "12" }));
        assert_eq!(shown([None, Some((1, 9))]), json!({ "docs": { "held": 1, "of": 9 } }));
        let both = json!({ "held": "5", "of": "12", "docs": { "held": 1, "of": 9 } });
        assert_eq!(shown([Some((5, 12)), Some((1, 9))]), both);
    }
}

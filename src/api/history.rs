//! `GET /v1/docs/{collection}/{id}/history`: the ops of a document, what each made of it, and what was lost to it.
//!
//! The node's task copies out the ops of the page, with others on either side to compare them with, and then reads the log
//! in steps for what they had seen of each other. The comparing is done on a worker thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use axum::{Json, extract::State, http::Uri};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Api, ConnectionMemory, Problem,
    access::Pass,
    error::describe,
    extract::DocPath,
    log::{ANSWER_BYTES, CommandBody, FIRST, GuardBody, LAST, command, guard, rfc3339},
    memory::Reservation,
    past,
    query::Query,
    rates::Caller,
    shape,
};
use crate::{
    document::{Replays, Text, Verdict, Writes},
    op::{Body, Command, DocKey, Guard, NodeId, Op, Stamp},
    replica::{Causality, Replica},
    version::Version,
};

/// Of how many ops of the document on either side of a page it is asked whether they are concurrent to those of the page.
const AROUND: usize = 1_000;
/// Most ops of the log that are read for that in one turn of the node's task, some hundreds of microseconds; and for one
/// answer. Where these do not tell, nor does the answer.
const READ_OPS: usize = 5_000;
/// Ops that one look copies, for the texts after them.
const LOOK_OPS: usize = 5_000;
const READ_MAX: usize = 500_000;
/// Most ops that one op is said to be concurrent with, or to have overwritten: those nearest to it.
const NAMED_MAX: usize = 100;
/// Bytes of ops that are compared with one to find what it overwrote, and pairs of their parts that are compared for one
/// answer. Where these do not tell, the answer says that there may be more.
const COMPARED_BYTES: usize = 4 << 20;
const COMPARED_PARTS: usize = 32 << 20;

/// What is asked for.
#[derive(Clone)]
struct Wanted {
    doc: DocKey<'static>,
    since: Option<Stamp>,
    newest_first: bool,
    limit: usize,
    values: bool,
}

/// A part of a document's history.
#[derive(Serialize)]
pub struct Page {
    ops: Vec<Box<RawValue>>,
    next: Option<String>,
    since: Since,
}

/// From when on the history is known.
#[derive(Serialize)]
struct Since {
    time: String,
}

/// An op of the document.
struct Member {
    op: Op,
    verdict: Verdict,
}

/// Ops of the page, and of the document on either side of them.
struct Window {
    /// In stamp order.
    members: Vec<Member>,
    /// Which of them are of the page, and whether there are more behind these.
    page: Range<usize>,
    more: bool,
    horizon: u64,
    frontier: u64,
}

/// `GET /v1/docs/{collection}/{id}/history`.
pub async fn show(
    State(api): State<Api>,
    doc: DocPath,
    (pass, memory): (Pass, ConnectionMemory),
    caller: Caller,
    uri: Uri,
) -> Result<Json<Page>, Problem> {
    let wanted = Wanted::parse(doc.key(), &uri)?;
    let asked = wanted.clone();
    let Some(mut window) = api.read(move |replica| asked.look(replica)).await?? else {
        return Err(Problem::no_document(&wanted.doc.collection, &wanted.doc.id));
    };
    let mut held = memory.nothing();
    let texts = wanted.texts(&api, &caller, &mut window, &mut held).await?;
    let causality = causality(&api, &window).await?;
    Ok(Json(api.workers.run(&caller, move || wanted.compose(&window, &texts, causality.as_ref(), &pass)).await?))
}

impl Wanted {
    /// The page, of what was copied out for it.
    fn compose(&self, window: &Window, texts: &[Option<Text>], causality: Option<&Causality>, pass: &Pass) -> Page {
        let mut kinship = causality.map(|causality| Kinship::new(window, causality, &self.doc));
        let mut ops = Vec::with_capacity(texts.len());
        for (at, text) in window.page.clone().zip(texts) {
            let (concurrent, overwrote) = match &mut kinship {
                Some(kinship) => (Some(kinship.concurrent(at)), Some(kinship.overwrote(at))),
                None => (None, None),
            };
            let shown = (window.frontier, pass.covers_op(&window.members[at].op.body()));
            ops.push(self.to_json(&window.members[at], shown, concurrent, overwrote, text.as_ref()));
        }
        let last = if self.newest_first { window.page.start } else { window.page.end.saturating_sub(1) };
        let next = window.members.get(last).filter(|_| window.more).map(|member| member.op.stamp().to_string());
        if self.newest_first {
            ops.reverse();
        }
        Page { ops, next, since: Since { time: window.horizon.to_string() } }
    }

    fn parse(doc: DocKey<'static>, uri: &Uri) -> Result<Wanted, Problem> {
        let mut query = Query::of(uri, &["since", "limit", "order", "values"])?;
        let limit = query.limit()?;
        let newest_first = query.newest_first()?;
        let values = match query.take("values").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Problem::bad("bad-query", "values is true or false (the default)")),
        };
        let since = query.take("since").map(|text| text.parse()).transpose();
        let since = since.map_err(|_| {
            Problem::bad(
                "bad-cursor",
                "since is a stamp, as <time>@<node id>: the \"next\" of a page, or that of an op",
            )
        })?;
        Ok(Wanted { doc, since, newest_first, limit, values })
    }

    /// The page's ops and those around; none if the document is not known.
    fn look(&self, replica: &Replica) -> Result<Option<Window>, Problem> {
        let (horizon, frontier, state) = (replica.horizon(), replica.frontier(), replica.state());
        // Another op of the horizon's own time may have been forgotten, too.
        if self.since.is_some_and(|since| horizon > 0 && since.time <= horizon) {
            return Err(past::forgotten(horizon));
        }
        let Some(ops) = state.ops_of(&self.doc.collection, &self.doc.id) else { return Ok(None) };
        let (range, more) = self.page(ops);
        let around = range.start.saturating_sub(AROUND)..ops.len().min(range.end + AROUND);
        let members = ops[around.clone()].iter();
        let members = members.map(|op| Member { op: op.clone(), verdict: state.verdict(op.stamp()) }).collect();
        let page = range.start - around.start..range.end - around.start;
        Ok(Some(Window { members, page, more, horizon, frontier }))
    }

    /// Which ops of a document belong to the page, and whether there are more behind them.
    fn page(&self, ops: &[Op]) -> (Range<usize>, bool) {
        let mut bytes = 0;
        let mut fits = |op: &&Op| {
            let fitted = bytes < ANSWER_BYTES;
            bytes += op.bytes().len();
            fitted
        };
        if self.newest_first {
            let since = self.since.unwrap_or(LAST);
            let end = ops.partition_point(|op| op.stamp() < since);
            let taken = ops[..end].iter().rev().take(self.limit).take_while(&mut fits).count();
            return (end - taken..end, taken < end);
        }
        let since = self.since.unwrap_or(FIRST);
        let start = ops.partition_point(|op| op.stamp() <= since);
        let taken = ops[start..].iter().take(self.limit).take_while(&mut fits).count();
        (start..start + taken, start + taken < ops.len())
    }

    /// What the document is after each op of the page, in stamp order. Where the texts pass the bound of an answer the page
    /// is cut.
    async fn texts(
        &self,
        api: &Api,
        caller: &Caller,
        window: &mut Window,
        held: &mut Reservation,
    ) -> Result<Vec<Option<Text>>, Problem> {
        let mut stamps: Vec<Stamp> =
            window.members[window.page.clone()].iter().map(|member| member.op.stamp()).collect();
        if self.newest_first {
            stamps.reverse();
        }
        let (mut texts, mut bytes) = (Vec::with_capacity(stamps.len()), 0);
        while texts.len() < stamps.len() && bytes < ANSWER_BYTES {
            let (doc, rest) = (self.doc.clone(), stamps[texts.len()..].to_vec());
            let some = api.read(move |replica| after(replica, &doc, &rest)).await??;
            let some = api.workers.replay(caller, some, ANSWER_BYTES - bytes).await?;
            bytes += some.bytes();
            held.resize(bytes)?;
            texts.extend(some.into_texts());
        }
        window.more |= texts.len() < stamps.len();
        if self.newest_first {
            texts.reverse();
            window.page.start = window.page.end - texts.len();
        } else {
            window.page.end = window.page.start + texts.len();
        }
        Ok(texts)
    }

    fn to_json(
        &self,
        member: &Member,
        (frontier, covered): (u64, bool),
        concurrent: Option<Named>,
        overwrote: Option<Named>,
        text: Option<&Text>,
    ) -> Box<RawValue> {
        let Member { op, verdict } = member;
        let body = op.body();
        let guards: Vec<&Guard<'_>> = body.guards.iter().filter(|guard| *guard.doc() == self.doc).collect();
        let commands: Vec<&Command<'_>> =
            body.commands.iter().filter(|command| command.doc() == Some(&self.doc)).collect();
        let (concurrent, overwrote) = (concurrent.unwrap_or_default(), overwrote.unwrap_or_default());
        let json = serde_json::value::to_raw_value(&OpBody {
            op: op.id().to_string(),
            stamp: op.stamp().to_string(),
            origin: op.origin().to_string(),
            wall: rfc3339(body.wall_ms),
            guards: guards.iter().map(|its| guard(its)).collect(),
            commands: commands.iter().map(|its| command(its)).collect(),
            others: body.guards.len() + body.commands.len() - guards.len() - commands.len(),
            verdict: shape::verdict(verdict),
            // It may name the version of a document that the reader's token is not for.
            reason: verdict.as_ref().err().filter(|_| covered).map(describe),
            status: shape::op_status(verdict, op.time() <= frontier),
            concurrent: concurrent.ops,
            concurrent_more: concurrent.more,
            overwrote: overwrote.ops,
            overwrote_more: overwrote.more,
            version: text.map(|text| Version::of(text.as_str()).to_string()),
            deleted: text.is_none(),
            value: text
                .filter(|_| self.values)
                .map(|text| serde_json::from_str(text.json()).expect("documents are JSON")),
        });
        json.expect("the values in an op are JSON, checked when it was taken in")
    }
}

/// What a document is after the first of these ops, as many as one look bears.
fn after(replica: &Replica, doc: &DocKey<'_>, stamps: &[Stamp]) -> Result<Replays, Problem> {
    // They were there when the page was taken.
    if stamps.iter().any(|stamp| stamp.time <= replica.horizon()) {
        return Err(past::forgotten(replica.horizon()));
    }
    // In stamp order each op is carried out once; newest first, each is found from a checkpoint.
    let mut past = replica.state().past();
    for stamp in stamps {
        if past.work() >= LOOK_OPS {
            break;
        }
        past.read(doc, *stamp);
    }
    Ok(past.into_replays())
}

/// What the ops of a window had seen of each other; none if that cannot be told in bounds.
async fn causality(api: &Api, window: &Window) -> Result<Option<Causality>, Problem> {
    let mut causality = Causality::among(window.members.iter().map(|member| &member.op));
    while !causality.is_known() && causality.looked() < READ_MAX {
        let read = move |replica: &Replica| {
            causality.read(replica.log(), READ_OPS);
            causality
        };
        causality = api.read(read).await?;
    }
    Ok(causality.is_known().then_some(causality))
}

/// Ops that are named in an answer, and whether there are others.
#[derive(Default)]
struct Named {
    ops: Option<Vec<String>>,
    more: bool,
}

/// How the ops of a window stand to each other.
struct Kinship<'w> {
    window: &'w Window,
    doc: &'w DocKey<'w>,
    /// By op, up to which seq it had seen each origin.
    seen: Vec<BTreeMap<NodeId, u64>>,
    writes: BTreeMap<usize, Writes>,
    /// Pairs of parts that were compared.
    compared: usize,
}

impl<'w> Kinship<'w> {
    fn new(window: &'w Window, causality: &Causality, doc: &'w DocKey<'w>) -> Kinship<'w> {
        let origins: BTreeSet<NodeId> = window.members.iter().map(|member| member.op.origin()).collect();
        let seen = |member: &Member| origins.iter().map(|of| (*of, causality.seen(member.op.id(), *of))).collect();
        Kinship { window, doc, seen: window.members.iter().map(seen).collect(), writes: BTreeMap::new(), compared: 0 }
    }

    fn had_seen(&self, at: usize, other: usize) -> bool {
        let other = self.window.members[other].op.id();
        self.seen[at].get(&other.origin).is_some_and(|seen| *seen >= other.seq)
    }

    /// The ops that neither had seen it, nor it them.
    fn concurrent(&self, at: usize) -> Named {
        let (earlier, later) = (0..at, at + 1..self.window.members.len());
        // What comes later in the order cannot have been seen by what comes earlier.
        let unseen = earlier.filter(|other| !self.had_seen(at, *other));
        let found: Vec<usize> = unseen.chain(later.filter(|other| !self.had_seen(*other, at))).collect();
        self.named(at, found, false)
    }

    /// The ops before it whose effect was there until it came, and is not any more, though it had not seen them.
    fn overwrote(&mut self, at: usize) -> Named {
        let earliest = (0..at).find(|other| !self.had_seen(at, *other));
        let is_applied = |member: &Member| member.verdict.is_ok();
        let Some(earliest) = earliest.filter(|_| is_applied(&self.window.members[at])) else {
            return self.named(at, Vec::new(), false);
        };
        let its = self.writes(at);
        // What the ops between have replaced was not there any more.
        let (mut between, mut found, mut bytes) = (Writes::default(), Vec::new(), 0);
        for other in (earliest..at).rev().filter(|other| is_applied(&self.window.members[*other])) {
            if bytes >= COMPARED_BYTES {
                return self.named(at, found, true);
            }
            bytes += self.window.members[other].op.bytes().len();
            let theirs = self.writes(other);
            self.compared += theirs.count() * (its.count() + between.count());
            if self.compared > COMPARED_PARTS {
                return self.named(at, found, true);
            }
            let mut left = theirs.clone();
            left.drop_replaced_by(&between);
            if !self.had_seen(at, other) && left.are_replaced_by(&its) {
                found.push(other);
            }
            if theirs.replaces_all() {
                break;
            }
            between.join(&theirs);
        }
        found.reverse();
        self.named(at, found, false)
    }

    fn writes(&mut self, at: usize) -> Writes {
        let (doc, op) = (self.doc, &self.window.members[at].op);
        let of = || {
            let body: Body<'_> = op.body();
            Writes::of(&body, doc)
        };
        self.writes.entry(at).or_insert_with(of).clone()
    }

    /// Those of `found`, in the order of the ops, that are nearest to the op at `at`.
    fn named(&self, at: usize, mut found: Vec<usize>, more: bool) -> Named {
        let more = more || found.len() > NAMED_MAX;
        found.sort_by_key(|other| other.abs_diff(at));
        found.truncate(NAMED_MAX);
        found.sort_unstable();
        let ops = found.into_iter().map(|other| self.window.members[other].op.id().to_string());
        Named { ops: Some(ops.collect()), more }
    }
}

/// An op of a document, as docs/API.md describes it.
#[derive(Serialize)]
struct OpBody<'a> {
    op: String,
    stamp: String,
    origin: String,
    wall: String,
    guards: Vec<GuardBody<'a>>,
    commands: Vec<CommandBody<'a>>,
    others: usize,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    status: &'static str,
    concurrent: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    concurrent_more: bool,
    overwrote: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    overwrote_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
}

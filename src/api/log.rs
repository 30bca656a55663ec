//! `GET /v1/log`: ops as they are held, in the pool's order.

use axum::{Json, extract::State, http::Uri};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

use super::{Api, Problem, error::describe, query::Query, shape};
use crate::{
    document::Verdict,
    op::{Command, DocKey, Guard, NodeId, Op, OpId, Stamp},
    replica::{Now, Replica},
};

/// An answer ends early once its ops have passed this: one op may have 4 MiB, and a thousand of them no client wants.
pub(super) const ANSWER_BYTES: usize = 4 << 20;

/// Which ops are asked for.
#[derive(Clone, Copy)]
struct Wanted {
    origin: Option<NodeId>,
    since: Option<Since>,
    newest_first: bool,
    limit: usize,
}

/// Where a listing goes on.
#[derive(Clone, Copy)]
enum Since {
    Stamp(Stamp),
    /// With an origin, the seq of its op.
    Seq(NodeId, u64),
}

/// A part of the log, and where it goes on.
#[derive(Serialize)]
pub struct Page {
    ops: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// `GET /v1/log`.
pub async fn show(State(api): State<Api>, uri: Uri) -> Result<Json<Page>, Problem> {
    let wanted = Wanted::parse(&uri)?;
    let look = move |replica: &Replica, _: Now| (wanted.look(replica), replica.frontier());
    let ((ops, more), frontier) = api.node.read(look).await?;
    let next = ops.last().filter(|_| more).map(|(op, _)| op.stamp().to_string());
    let ops = ops.iter().map(|(op, verdict)| to_json(op, verdict, op.time() <= frontier)).collect();
    Ok(Json(Page { ops, next }))
}

impl Wanted {
    fn parse(uri: &Uri) -> Result<Wanted, Problem> {
        let mut query = Query::of(uri, &["origin", "since", "limit", "order"])?;
        let limit = query.limit()?;
        let newest_first = query.newest_first()?;
        let origin: Option<NodeId> = match query.take("origin").map(|text| text.parse()) {
            None => None,
            Some(Ok(origin)) => Some(origin),
            Some(Err(_)) => return Err(Problem::bad("bad-query", "origin is a node id: GET /v1/pool names them")),
        };
        let since = match query.take("since") {
            None => None,
            Some(text) => {
                let stamp = text.parse().ok().map(Since::Stamp);
                let seq = origin.zip(text.parse().ok()).map(|(origin, seq)| Since::Seq(origin, seq));
                let detail = "since is a stamp, as <time>@<node id>, or with an origin a seq of it";
                Some(stamp.or(seq).ok_or_else(|| Problem::bad("bad-cursor", detail))?)
            }
        };
        Ok(Wanted { origin, since, newest_first, limit })
    }

    /// The ops, each with its verdict, and whether there are more.
    fn look(self, replica: &Replica) -> (Vec<(Op, Verdict)>, bool) {
        let log = replica.log();
        if self.newest_first {
            return self.take(replica, log.before(self.bound(replica).unwrap_or(LAST), self.origin));
        }
        self.take(replica, log.after(self.bound(replica).unwrap_or(FIRST), self.origin))
    }

    /// The stamp to go on behind; none for the beginning.
    fn bound(self, replica: &Replica) -> Option<Stamp> {
        match self.since? {
            Since::Stamp(stamp) => Some(stamp),
            // Seq 0 is before the first op of its origin, and one that is not held yet is behind the last.
            Since::Seq(_, 0) => Some(FIRST),
            Since::Seq(origin, seq) => Some(replica.log().get(OpId { origin, seq }).map_or(LAST, Op::stamp)),
        }
    }

    fn take<'a>(self, replica: &Replica, ops: impl Iterator<Item = &'a Op>) -> (Vec<(Op, Verdict)>, bool) {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for op in ops {
            if taken.len() == self.limit || bytes >= ANSWER_BYTES {
                return (taken, true);
            }
            bytes += op.bytes().len();
            taken.push((op.clone(), replica.state().verdict(op.stamp())));
        }
        (taken, false)
    }
}

/// Before and behind every op.
pub(super) const FIRST: Stamp = Stamp { time: 0, origin: NodeId(uuid::Uuid::nil()) };
pub(super) const LAST: Stamp = Stamp { time: u64::MAX, origin: NodeId(uuid::Uuid::max()) };

/// An op, as docs/API.md describes it.
#[derive(Serialize)]
struct OpBody<'a> {
    op: String,
    stamp: String,
    origin: String,
    seq: String,
    time: String,
    wall: String,
    seen: Seen<'a>,
    guards: Vec<GuardBody<'a>>,
    commands: Vec<CommandBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    status: &'static str,
}

struct Seen<'a>(&'a [(NodeId, u64)]);

impl Serialize for Seen<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(node, seq)| (node.to_string(), seq.to_string())))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum GuardBody<'a> {
    Exists(Target<'a>),
    Absent(Target<'a>),
    Version {
        #[serde(flatten)]
        doc: Target<'a>,
        version: String,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CommandBody<'a> {
    Put(Change<'a>),
    Merge(Change<'a>),
    Patch(Change<'a>),
    Delete(Target<'a>),
    Add {
        node: String,
        name: &'a str,
        urls: &'a [String],
    },
    Retire {},
    Evict {
        node: String,
        force: bool,
    },
    Fence {
        node: String,
        held: String,
    },
    Removed {
        node: String,
    },
    Key {
        node: String,
        key: String,
    },
    Text {
        #[serde(flatten)]
        doc: Target<'a>,
        update: String,
    },
}

/// The document that a guard or a command names.
#[derive(Serialize)]
pub(super) struct Target<'a> {
    collection: &'a str,
    id: &'a str,
}

/// A document, and what is to become of it.
pub(super) struct Change<'a> {
    doc: Target<'a>,
    what: &'static str,
    text: &'a str,
}

impl Serialize for Change<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("collection", self.doc.collection)?;
        map.serialize_entry("id", self.doc.id)?;
        let raw: &RawValue = serde_json::from_str(self.text).map_err(serde::ser::Error::custom)?;
        map.serialize_entry(self.what, raw)?;
        map.end()
    }
}

impl<'a> From<&'a DocKey<'_>> for Target<'a> {
    fn from(doc: &'a DocKey<'_>) -> Target<'a> {
        Target { collection: &doc.collection, id: &doc.id }
    }
}

fn to_json(op: &Op, verdict: &Verdict, is_final: bool) -> Box<RawValue> {
    let body = op.body();
    let text = serde_json::value::to_raw_value(&OpBody {
        op: op.id().to_string(),
        stamp: op.stamp().to_string(),
        origin: op.origin().to_string(),
        seq: op.id().seq.to_string(),
        time: op.time().to_string(),
        wall: rfc3339(body.wall_ms),
        seen: Seen(&body.seen),
        guards: body.guards.iter().map(guard).collect(),
        commands: body.commands.iter().map(command).collect(),
        key: body.key_text(),
        verdict: shape::verdict(verdict),
        reason: verdict.as_ref().err().map(describe),
        status: shape::op_status(verdict, is_final),
    });
    text.expect("the values in an op are JSON, checked when it was taken in")
}

pub(super) fn guard<'a>(guard: &'a Guard<'_>) -> GuardBody<'a> {
    match guard {
        Guard::Exists(doc) => GuardBody::Exists(doc.into()),
        Guard::Absent(doc) => GuardBody::Absent(doc.into()),
        Guard::Version(doc, version) => GuardBody::Version { doc: doc.into(), version: version.to_string() },
    }
}

pub(super) fn command<'a>(command: &'a Command<'_>) -> CommandBody<'a> {
    let change = |doc: &'a DocKey<'_>, what, text: &'a str| Change { doc: doc.into(), what, text };
    match command {
        Command::Put(doc, value) => CommandBody::Put(change(doc, "value", value)),
        Command::Merge(doc, value) => CommandBody::Merge(change(doc, "value", value)),
        Command::Patch(doc, patch) => CommandBody::Patch(change(doc, "patch", patch)),
        Command::Delete(doc) => CommandBody::Delete(doc.into()),
        Command::Add(newcomer, _) => {
            CommandBody::Add { node: newcomer.node.to_string(), name: &newcomer.name, urls: &newcomer.urls }
        }
        Command::Retire => CommandBody::Retire {},
        Command::Evict(eviction) => CommandBody::Evict { node: eviction.node.to_string(), force: eviction.force },
        Command::Fence(node, held) => CommandBody::Fence { node: node.to_string(), held: held.to_string() },
        Command::Removed(node) => CommandBody::Removed { node: node.to_string() },
        Command::Key(node, key) => CommandBody::Key { node: node.to_string(), key: key.to_string() },
        Command::Text(doc, edit) => CommandBody::Text { doc: doc.into(), update: BASE64_STANDARD.encode(&edit.update) },
    }
}

/// A wall-clock time in UTC as RFC 3339 writes it. A peer may send any number; what is past the year 9999, where the
/// form ends, is shown as its last moment.
pub(super) fn rfc3339(wall_ms: u64) -> String {
    const LAST_MS: u64 = 253_402_300_799_999;
    let wall_ms = wall_ms.min(LAST_MS);
    let (days, ms) = (wall_ms / 86_400_000, wall_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

/// The date a number of days after 1970-01-01. The year is counted from the first of March, so that the leap day is its
/// last; eras of 400 years have 146,097 days (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_times_are_written_as_rfc_3339() {
        let check = |wall_ms, expected: &str| assert_eq!(rfc3339(wall_ms), expected);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(951_868_799_999, "2000-02-29T23:59:59.999Z");
        check(951_868_800_000, "2000-03-01T00:00:00.000Z");
        check(1_709_251_199_000, "2024-02-29T23:59:59.000Z");
        check(1_735_689_599_123, "2024-12-31T23:59:59.123Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
        check(u64::MAX, "9999-12-31T23:59:59.999Z");
    }
}

//! `GET /metrics`: what the node, its process and its clients come to, for Prometheus. docs/operations.md says what to watch.
//!
//! It answers in every state. What only the node's task knows is looked at there without waiting for the disk; a task that
//! does not answer in time leaves those figures out, and `lamplight_node_answers` says so. No label has a value that clients
//! choose: documents, collections, rooms and members are counted, not named.

use axum::{
    extract::State,
    http::{HeaderMap, Uri, header},
    response::{IntoResponse, Response},
};
use tokio::{
    task::spawn_blocking,
    time::{Duration, timeout},
};
use uuid::Uuid;

use super::{
    Api, Problem,
    exposition::{Exposition, Kind},
    log, process,
    query::Query,
};
use crate::{
    document::Work,
    node::Meters,
    op::{NodeId, Op, Stamp},
    replica::{Counters, Holdup, LinkState, MemberStatus, Now, Replica, Standing},
};

/// How long the node's task may take to answer. It takes its turns within milliseconds; one that does not is what these
/// figures are to show.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Most collections that are counted: the node waits while they are.
const COLLECTIONS_MAX: usize = 100_000;

/// `GET /metrics`.
pub async fn show(State(api): State<Api>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    let sight = timeout(LOOK_TIMEOUT, api.node.look(Sight::of)).await.ok().and_then(Result::ok);
    let mut out = Exposition::for_request(&headers);
    out.family(Kind::Gauge, "lamplight_build_info", "The program that this is.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    let answers = u8::from(sight.is_some());
    out.gauge("lamplight_node_answers", "Whether the node's task answers; if not, much is missing here.", answers);
    if let Some(sight) = &sight {
        sight.tell_standing(&mut out);
        sight.tell_order(&mut out);
        sight.tell_members(&mut out);
        sight.tell_ops(&mut out);
        sight.tell_data(&mut out);
    }
    let meters = api.node.meters();
    tell_ops(&mut out, meters);
    tell_links(&mut out, meters);
    tell_journal(&mut out, meters);
    tell_memory(&mut out, meters);
    tell_queues(&mut out, &api);
    tell_clients(&mut out, &api);
    // It counts open files, which can be many.
    let told = spawn_blocking(move || {
        process::tell(&mut out);
        out.finish()
    });
    let (media, text) = told.await.map_err(|_| Problem::from(crate::node::Stopped))?;
    Ok(([(header::CONTENT_TYPE, media)], text).into_response())
}

/// What the replica tells, taken out of it in one turn.
struct Sight {
    node: NodeId,
    name: String,
    pool: String,
    standing: Standing,
    clock: u64,
    frontier: u64,
    horizon: u64,
    /// How long ago the first op that is not final was issued, by its node's clock.
    lag: Duration,
    held_back_by: Vec<Holdup>,
    members: Vec<MemberStatus>,
    cut: bool,
    counters: Counters,
    work: Work,
    rejected: usize,
    early: usize,
    documents: usize,
    collections: usize,
    kept: (usize, usize),
    present: (usize, usize),
}

impl Sight {
    fn of(replica: &Replica, now: Now) -> Sight {
        let (log, state, frontier) = (replica.log(), replica.state(), replica.frontier());
        let newest = log.before(log::LAST, None).next().map_or(0, Op::time);
        let behind_frontier = Stamp { time: frontier, origin: NodeId(Uuid::max()) };
        let oldest = log.after(behind_frontier, None).next().map(|op| op.body().wall_ms);
        let lag_ms = oldest.map_or(0, |wall_ms| now.wall_ms.saturating_sub(wall_ms));
        Sight {
            node: replica.node(),
            name: replica.config().name.clone(),
            pool: replica.pool().map(|(id, _)| id.to_string()).unwrap_or_default(),
            standing: replica.standing(),
            clock: replica.clock(),
            frontier,
            horizon: replica.horizon(),
            lag: Duration::from_millis(lag_ms),
            held_back_by: if newest > frontier { replica.held_back_by(newest) } else { Vec::new() },
            members: replica.member_list(now.mono_ms),
            cut: replica.is_cut(),
            counters: replica.counters(),
            work: state.work(),
            rejected: state.rejected_count(),
            early: replica.early(),
            documents: state.count(),
            collections: state.collections().take(COLLECTIONS_MAX).count(),
            kept: log.kept(),
            present: replica.presence().size(),
        }
    }

    fn tell_standing(&self, out: &mut Exposition) {
        let Sight { node, name, pool, .. } = self;
        out.family(Kind::Gauge, "lamplight_node_info", "The node, by its id, its name and its pool's id.")
            .sample(&[("node", &node.to_string()), ("name", name), ("pool", pool)], 1);
        let mut states = out.family(Kind::Gauge, "lamplight_node_state", "1 for the state that the node is in.");
        let all = [
            ("joining", Standing::Joining),
            ("catching-up", Standing::CatchingUp),
            ("member", Standing::Member),
            ("retired", Standing::Retired),
        ];
        all.iter().for_each(|(name, state)| states.sample(&[("state", name)], u8::from(*state == self.standing)));
        out.gauge("lamplight_links_cut", "Whether an operator has cut the links.", u8::from(self.cut));
        let Counters { reborn, discrepancies, mended, adopted, .. } = self.counters;
        out.counter("lamplight_rebirths_total", "Times that the node had to come back under a new id.", reborn);
        out.counter(
            "lamplight_discrepancies_total",
            "Times that a peer with the same log had other documents.",
            discrepancies,
        );
        out.counter("lamplight_mended_total", "Times that the documents here were wrong, and folded anew.", mended);
        out.counter("lamplight_snapshots_adopted_total", "Times that it began with a snapshot of a peer.", adopted);
    }

    fn tell_order(&self, out: &mut Exposition) {
        out.gauge("lamplight_clock", "Lamport clock.", self.clock);
        out.gauge("lamplight_frontier", "Lamport time up to which all ops are final.", self.frontier);
        out.gauge("lamplight_horizon", "Lamport time up to which ops are forgotten.", self.horizon);
        let lag = self.clock.saturating_sub(self.frontier);
        out.gauge("lamplight_final_lag", "Lamport times from the frontier to the clock.", lag);
        out.gauge(
            "lamplight_final_lag_seconds",
            "Age of the oldest op that is not final, by the clock of the node that issued it; 0 if all are.",
            self.lag.as_secs_f64(),
        );
        let mut holding = out.family(
            Kind::Gauge,
            "lamplight_members_holding_back",
            "Members that keep the frontier from what is not final, by why; GET /v1/pool names them.",
        );
        let silent = self.held_back_by.iter().filter(|holdup| matches!(holdup, Holdup::Silent(_))).count();
        holding.sample(&[("why", "silent")], silent);
        holding.sample(&[("why", "eviction")], self.held_back_by.len() - silent);
    }

    fn tell_members(&self, out: &mut Exposition) {
        let liveness = |member: &MemberStatus| match member {
            MemberStatus { evicted: true, .. } => "evicted",
            MemberStatus { link: LinkState::Oneself, .. } => "self",
            MemberStatus { alive: true, .. } => "alive",
            MemberStatus { .. } => "silent",
        };
        let mut members =
            out.family(Kind::Gauge, "lamplight_members", "Members, by whether they were heard of lately.");
        for name in ["self", "alive", "silent", "evicted"] {
            let count = self.members.iter().filter(|member| liveness(member) == name).count();
            members.sample(&[("liveness", name)], count);
        }
    }

    fn tell_ops(&self, out: &mut Exposition) {
        let Counters { heard, duplicates, early, late, repairs, .. } = self.counters;
        out.counter("lamplight_ops_received_total", "Ops that came in on links, also those held already.", heard);
        out.counter("lamplight_ops_duplicate_total", "Ops that came in and were held already.", duplicates);
        out.counter("lamplight_ops_early_total", "Ops that came in before what they rest on.", early);
        out.counter("lamplight_ops_late_total", "Ops that came into the log before others that were there.", late);
        out.counter("lamplight_repairs_total", "Times that missing ops were asked for again.", repairs);
        out.gauge("lamplight_ops_waiting", "Early ops that wait for what they rest on.", self.early);
        out.gauge("lamplight_ops_rejected", "Ops kept in the log that have no effect, as things stand.", self.rejected);
        let Work { rolled_back, judged, dependent, turned } = self.work;
        out.counter("lamplight_replay_ops_judged_total", "Ops judged by the fold, first or again.", judged);
        out.counter("lamplight_replay_documents_rolled_back_total", "Documents that an op came late for.", rolled_back);
        out.counter(
            "lamplight_replay_documents_dependent_total",
            "Documents replayed only because a guarded op links them to a changed one.",
            dependent,
        );
        out.counter("lamplight_verdicts_turned_total", "Verdicts that a replay turned to applied.", turned);
    }

    fn tell_data(&self, out: &mut Exposition) {
        out.gauge("lamplight_documents", "Documents.", self.documents);
        out.gauge("lamplight_collections", "Collections that hold documents.", self.collections);
        out.gauge("lamplight_log_ops", "Ops kept in the log.", self.kept.0);
        out.gauge("lamplight_log_bytes", "Bytes of the ops kept in the log.", self.kept.1);
        out.gauge("lamplight_presence_entries", "Clients shown in rooms, of all nodes.", self.present.0);
        out.gauge("lamplight_presence_bytes", "Bytes of what they show.", self.present.1);
    }
}

fn tell_ops(out: &mut Exposition, meters: &Meters) {
    let mut ops = out.family(Kind::Counter, "lamplight_ops_total", "Ops that came into the log, by where from.");
    ops.sample(&[("source", "issued")], meters.issued.read());
    ops.sample(&[("source", "heard")], meters.heard.read());
    let mut refused = out.family(Kind::Counter, "lamplight_ops_refused_total", "Ops that were not issued, by why.");
    meters.refused().for_each(|(why, count)| refused.sample(&[("why", why)], count));
}

fn tell_links(out: &mut Exposition, meters: &Meters) {
    out.gauge("lamplight_links_open", "Links that are open.", meters.links.read());
    let mut pair = |name, help, label, values: [u64; 2]| {
        let mut family = out.family(Kind::Counter, name, help);
        ["node", "peer"].into_iter().zip(values).for_each(|(by, value)| family.sample(&[(label, by)], value));
    };
    let opened = [meters.links_dialled.read(), meters.links_accepted.read()];
    pair("lamplight_links_opened_total", "Links that came about, by who dialled.", "dialled_by", opened);
    let refused = [meters.links_refused.read(), meters.links_refused_by_peer.read()];
    pair("lamplight_links_refused_total", "Links that were refused, by whom.", "refused_by", refused);
    let overrun = meters.links_overrun.read();
    out.counter("lamplight_links_overrun_total", "Links closed since the peer took no messages.", overrun);
    out.counter("lamplight_dials_failed_total", "Dials that came to nothing.", meters.dials_failed.read());
    let received = meters.received_bytes.read();
    out.counter("lamplight_links_received_bytes_total", "Bytes of frames from peers.", received);
    out.counter("lamplight_links_sent_bytes_total", "Bytes of frames to peers.", meters.sent_bytes.read());
}

/// Nothing but the names where the data is in memory only.
fn tell_journal(out: &mut Exposition, meters: &Meters) {
    let journal = meters.journal.as_ref().map(|(status, counted)| (status.borrow().clone(), counted));
    let mut gauge = |name, help, value: Option<u64>| {
        let mut family = out.family(Kind::Gauge, name, help);
        value.into_iter().for_each(|value| family.sample(&[], value));
    };
    let status = journal.as_ref().map(|(status, _)| status);
    let counted = journal.as_ref().map(|(_, counted)| counted);
    gauge("lamplight_journal_bytes", "Length of the journal.", status.map(|status| status.length));
    gauge("lamplight_journal_segments", "Files of the journal.", counted.map(|counted| counted.segments.read()));
    let has_room = status.map(|status| status.room.into());
    gauge("lamplight_journal_has_room", "Whether the disk takes one more op; if not, writes are refused.", has_room);
    let mut written =
        out.family(Kind::Counter, "lamplight_journal_written_bytes_total", "Bytes written to the journal.");
    counted.into_iter().for_each(|counted| written.sample(&[], counted.written_bytes.read()));
    let mut syncs =
        out.family(Kind::Histogram, "lamplight_journal_sync_seconds", "How long each sync of records took.");
    counted.into_iter().for_each(|counted| syncs.spread(&[], &counted.syncs.read()));
}

fn tell_memory(out: &mut Exposition, meters: &Meters) {
    let help = "Memory of the process above which writes are refused; 0 for no bound.";
    out.gauge("lamplight_memory_max_bytes", help, meters.memory_max_bytes.read());
    out.gauge("lamplight_memory_full", "Whether writes are refused since it takes more.", meters.memory_full.read());
}

fn tell_queues(out: &mut Exposition, api: &Api) {
    let queues = api.node.queues();
    let help = "What waits for the node's task (requests, heard) and for its disk (outbox).";
    let mut lengths = out.family(Kind::Gauge, "lamplight_queue_length", help);
    queues.iter().for_each(|(queue, length, _)| lengths.sample(&[("queue", queue)], length));
    let mut bounds = out.family(Kind::Gauge, "lamplight_queue_length_max", "How much may wait.");
    queues.iter().for_each(|(queue, _, max)| bounds.sample(&[("queue", queue)], max));
}

fn tell_clients(out: &mut Exposition, api: &Api) {
    let meters = &api.meters;
    let help = "Requests answered, by route, method and class of the status.";
    let mut requests = out.family(Kind::Counter, "lamplight_http_requests_total", help);
    for call in meters.told() {
        for (status, count) in call.statuses.into_iter().filter(|(_, count)| *count > 0) {
            requests.sample(&[("route", call.route), ("method", call.method), ("status", status)], count);
        }
    }
    let help = "Time until an answer began; one that waits, as wait=final and feed=longpoll do, takes as long.";
    let mut seconds = out.family(Kind::Histogram, "lamplight_http_request_duration_seconds", help);
    for call in meters.told() {
        seconds.spread(&[("route", call.route), ("method", call.method)], &call.seconds.read());
    }
    let memory = &api.limits.memory;
    let help = "Memory that the connections of clients make the node hold, beyond 16 KiB of each.";
    out.gauge("lamplight_connection_memory_bytes", help, memory.taken());
    out.gauge("lamplight_connection_memory_max_bytes", "How much that may be.", memory.max());
    let help = "Times that a connection needed more than its client may have, or all clients.";
    out.counter("lamplight_connection_memory_refused_total", help, memory.refusals());
    let in_flight = meters.in_flight.read();
    out.gauge("lamplight_http_requests_in_flight", "Requests whose answer has not begun.", in_flight);
    out.gauge("lamplight_websocket_clients", "Connections of /v1/ws.", meters.clients.read());
    out.gauge("lamplight_subscriptions", "Subscriptions of these.", meters.subscriptions.read());
    out.gauge("lamplight_yjs_editors", "Connections of /v1/yjs.", meters.editors.read());
    out.gauge("lamplight_texts_worked_out", "Texts that are kept worked out.", api.texts.count());
    let help =
        "Looks at the files of tokens and keys at which they could not be used; what they said before is in force.";
    out.counter("lamplight_access_files_refused_total", help, api.access.refused_files());
}

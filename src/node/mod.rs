//! The node: the one task that owns the [`Replica`], and the handle by which the rest of the program reaches it.
//!
//! The task waits for one input, calls the core, carries out the effects, and ticks. It decides nothing of the
//! protocol, and it never waits for a socket or a disk: what a link cannot take at once closes that link, and the repair
//! by heads makes it good; and whatever rests on records that are not stored yet waits in an outbox, receipts, frames
//! and answers to reads alike, while the next turns go on. So all that gathers while the disk is busy shares its next
//! sync. Reads come to the data: a closure runs between two events, must be short, and takes copies out.

mod admission;
mod allowance;
mod handle;
mod handshake;
mod handshake_rate;
mod journal;
mod link;
mod memory;
mod merging;
mod meters;
mod node_key;
mod noise;
mod published;
mod said;
mod secret;
mod trust;
mod turns;
mod whence;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use admission::{Admission, NotAdmitted, Offer, REFUSAL};
pub use allowance::CpuTime;
pub use handle::{ASK_EVERY, Node, Stopped};
pub use handshake::{EARLIER_HANDSHAKE, HANDSHAKE, Unproved};
pub use link::{Credentials, Network, Tcp, join_url, node_url};
pub use memory::{key_span, usual_memory_max};
pub use meters::Meters;
pub use node_key::{NodeKey, NotAKey};
pub use published::{Published, session_seqs};
pub use secret::{PoolSecret, SECRET_BYTES_MIN, SECRETS_MAX, SecretError};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::yield_now,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
pub use trust::{Trust, system_roots, tls_client};
pub use turns::Client;
pub use whence::Whence;

use self::{
    journal::Journal,
    link::{LinkInput, Links, Outgoing},
    turns::Turns,
};
use crate::{
    op::NodeId,
    replica::{Counters, Draft, Effect, Event, LinkId, Now, Outbox, Receipt, Refused, Replica, TICK_MS},
};

/// Most requests of clients that wait for the task; a full queue makes clients wait in turn.
const REQUESTS_MAX: usize = 1_024;
/// Most requests that wait for their clients' turns.
const TURNS_MAX: usize = 16_384;
/// Most messages of peers that wait for the task. They can be large, so few: a full queue stops reading from the links.
const LINK_INPUTS_MAX: usize = 64;
/// How much waits for the disk at most; then nothing more is taken in until some of it is stored.
const WAITING_MAX: usize = 16_384;
/// How many inputs are handled before the others get a turn, and how long requests are.
const TURN: usize = 64;
const TURN_TIME: Duration = Duration::from_millis(5);
/// A turn that takes longer is long.
const LONG_TURN: Duration = Duration::from_millis(1);
/// How long a node waits before it asks again for a snapshot that has not begun: as long as nothing is final that the last
/// one did not hold, there is none to write.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(1);
/// Between two looks for members that have one address, and the least between two warnings of that.
const SHARED_LOOK_EVERY: Duration = Duration::from_secs(5);
const SHARED_SAID_EVERY: Duration = Duration::from_secs(60);
/// How long a stopping node goes on sending what its peers do not hold yet.
const FAREWELL: Duration = Duration::from_secs(5);

/// Looks at the replica, and gives the answer's way out.
type Reading = Box<dyn FnOnce(&Replica, Now) -> Answer + Send>;
type Answer = Box<dyn FnOnce() + Send>;
/// Looks at what need not be stored, and answers at once.
type Look = Box<dyn FnOnce(&Replica, Now) + Send>;

enum Request {
    Submit(Draft, oneshot::Sender<Result<Receipt, Refused>>),
    Read(Reading),
    Present(Showing, oneshot::Sender<Result<(), Refused>>),
    Look(Look),
    Command(Event),
}

/// A request on its way, with its client's place if it is a write.
struct Waiting {
    request: Request,
    place: Option<OwnedSemaphorePermit>,
}

/// A client in a room, and what it shows of itself; none if it is gone.
struct Showing {
    room: String,
    client: String,
    state: Option<String>,
}

/// What waits until the records that it rests on are stored.
enum Out {
    Effect(Effect),
    Answer(Answer),
    /// A turn has ended. Its news come before its receipts, so that a client's next request finds what it has seen.
    Turn(Option<Published>),
}

struct Task<N> {
    replica: Replica,
    journal: Journal,
    outbox: Outbox<Out>,
    network: Arc<N>,
    links: Links,
    /// The id whose static key the links are made with.
    goes_by: Option<NodeId>,
    meters: Arc<Meters>,
    outgoing: BTreeMap<LinkId, mpsc::Sender<Outgoing>>,
    /// Whether this turn has led to anything that is in the outbox.
    told: bool,
    /// Answers of the turns that come out now.
    receipts: Vec<(oneshot::Sender<Result<Receipt, Refused>>, Result<Receipt, Refused>)>,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Receipt, Refused>>>,
    next_ticket: u64,
    /// What is published, or will be once it is stored.
    latest: Published,
    publisher: watch::Sender<Published>,
    presence_publisher: watch::Sender<u64>,
    /// The end of the journal behind the last slice of a snapshot.
    slice_end: u64,
    /// When members with one address were last looked for, and when that was last said.
    shared_looked: Option<Instant>,
    shared_said: Option<Instant>,
    /// When the last snapshot was asked for.
    snapshot_asked: Option<Instant>,
    started: Instant,
    stopping: CancellationToken,
}

impl<N: Network> Task<N> {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<(Client, Waiting)>,
        mut link_inputs: mpsc::Receiver<LinkInput>,
    ) -> Result<(), String> {
        let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut asked, mut heard) = (Vec::with_capacity(REQUESTS_MAX), Vec::with_capacity(TURN));
        let (mut turns, mut begun) = (Turns::default(), Instant::now());
        let mut farewell: Option<Instant> = None;
        self.follow_id();
        // The first event founds the pool, where there is nowhere to look for one.
        self.event(Event::Tick);
        while self.journal.failure().is_none() {
            self.compact();
            self.end_turn();
            if farewell.is_some_and(|end| !self.owes_anything() || Instant::now() >= end) {
                break;
            }
            if begun.elapsed() >= LONG_TURN {
                // Whoever was answered just now may be waiting for this thread.
                yield_now().await;
            }
            begun = Instant::now();
            let takes = self.outbox.len() < WAITING_MAX;
            tokio::select! {
                _ = requests.recv_many(&mut asked, REQUESTS_MAX), if takes && turns.len() < TURNS_MAX => {
                    asked.drain(..).for_each(|(client, request)| turns.push(client, request));
                    self.serve(&mut turns);
                }
                // Not before all that have asked have a place in a queue.
                () = yield_now(), if takes && turns.len() > 0 => self.serve(&mut turns),
                _ = link_inputs.recv_many(&mut heard, TURN), if takes => heard.drain(..).for_each(|input| self.on_link_input(input)),
                () = self.journal.changed() => {}
                _ = ticks.tick() => {
                    self.event(Event::Tick);
                    self.report_waits();
                    self.report_shared_addresses();
                }
                () = self.stopping.cancelled(), if farewell.is_none() => farewell = Some(Instant::now() + FAREWELL),
            }
        }
        self.end().await
    }

    /// Whether a peer lacks something, or something waits for the disk.
    fn owes_anything(&self) -> bool {
        self.replica.is_behind() || !self.outbox.is_empty()
    }

    async fn end(self) -> Result<(), String> {
        for outgoing in self.outgoing.values() {
            // A link that cannot take even this ends with the process.
            let _ = outgoing.try_send(Outgoing::Close);
        }
        self.links.drained().await;
        self.journal.close().await
    }

    /// Serves requests until the turn is over. What was served before a costly one is answered first.
    fn serve(&mut self, turns: &mut Turns<Waiting>) {
        let begun = Instant::now();
        let mut last = begun;
        for served in 0..TURN {
            if served > 0 && turns.is_next_costly() {
                return;
            }
            let Some((client, Waiting { request, place })) = turns.pop() else { return };
            drop(place);
            self.on_request(request);
            let now = Instant::now();
            if turns.charge(client, now - last) || now - begun >= TURN_TIME {
                return;
            }
            last = now;
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Submit(draft, answer) if !self.takes(&draft) => {
                self.meters.refuse(&Refused::DiskFull);
                self.receipts.push((answer, Err(Refused::DiskFull)));
            }
            Request::Submit(draft, answer)
                if self.meters.memory_full.read() != 0 && !memory::is_taken_when_full(&draft, &self.replica) =>
            {
                self.meters.refuse(&Refused::MemoryFull);
                self.receipts.push((answer, Err(Refused::MemoryFull)));
            }
            Request::Submit(draft, answer) => {
                self.next_ticket += 1;
                self.waiting.insert(self.next_ticket, answer);
                self.event(Event::Submit(self.next_ticket, draft));
            }
            Request::Read(reading) => {
                self.note_turn();
                let answer = reading(&self.replica, self.now());
                self.outbox.push(self.journal.end(), Out::Answer(answer));
            }
            Request::Present(Showing { room, client, state }, answer) => {
                let admitted = self.replica.may_show(&room, &client, state.as_deref());
                if admitted.is_ok() {
                    self.event(Event::Present { room, client, state });
                }
                // Whoever has gone away since need not know.
                let _ = answer.send(admitted);
            }
            Request::Look(look) => look(&self.replica, self.now()),
            Request::Command(event) => self.event(event),
        }
    }

    /// Whether the journal has room for an op. What only deletes goes to the reserve of a full disk.
    fn takes(&self, draft: &Draft) -> bool {
        self.journal.has_room() || self.journal.has_deletion_room() && memory::is_taken_when_full(draft, &self.replica)
    }

    fn on_link_input(&mut self, input: LinkInput) {
        match input {
            LinkInput::Opened(link, dialled, keys, outgoing) => {
                self.outgoing.insert(link, outgoing);
                self.event(Event::Opened(link, dialled, keys));
            }
            // What it cannot store it does not hear; the repair brings it again once there is room.
            LinkInput::Event(Event::Heard(_, message)) if message.is_batch() && !self.journal.has_room() => {}
            LinkInput::Event(event) => {
                if let Event::Closed(link) = event {
                    self.outgoing.remove(&link);
                }
                self.event(event);
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.handle(event);
        self.follow_id();
    }

    /// Has the links, and the replica, go on with the static key of the node's id.
    fn follow_id(&mut self) {
        let node = self.replica.node();
        if self.goes_by.replace(node) != Some(node)
            && let Some(key) = self.links.go_by(node)
        {
            self.handle(Event::Key(key));
        }
    }

    fn handle(&mut self, event: Event) {
        let before = self.replica.counters();
        self.meters.see_event(&event);
        let effects = self.replica.handle(self.now(), event);
        self.report(before);
        for effect in effects {
            self.meters.see_effect(&effect, self.replica.node());
            match effect {
                Effect::Store(record) => self.journal.append(&record),
                effect if effect.waits() => {
                    self.told = true;
                    self.outbox.push(self.journal.end(), Out::Effect(effect));
                }
                effect => self.carry_out(effect),
            }
        }
    }

    /// Says what no node should have to say.
    fn report(&self, before: Counters) {
        let now = self.replica.counters();
        if now.rejoined > before.rejoined {
            tracing::info!(node = %self.replica.node(), "it had retired: it joins its pool again, as another node with this id");
        } else if now.took_over > before.took_over {
            tracing::warn!(node = %self.replica.node(), "every member was evicted, and this node is the one to go on: it does so under this new id, and the others join it");
        } else if now.reborn > before.reborn && self.meters.said.is_news("reborn") {
            tracing::error!(node = %self.replica.node(), "the pool goes on without this node's id, or other ops were issued under it, by an old copy of its disk or a second node: it comes back under this new id");
        }
        if now.merged > before.merged && self.meters.said.is_news("merged") {
            tracing::warn!(
                "this node's pool was empty, and is given up for one that it was to look for: it joins that one under a new id"
            );
        }
        if now.mended > before.mended {
            tracing::error!(
                "the documents were not what the log makes of them: they were folded anew. Check this machine's memory"
            );
        } else if now.discrepancies > before.discrepancies {
            tracing::error!("a peer holds the same log and other documents: those here are what the log makes of them");
        }
    }

    /// Says, now and then, what keeps this node from the others.
    fn report_waits(&self) {
        for (endpoint, why) in self.replica.strangers() {
            if self.meters.said.is_news(&format!("stranger {endpoint}")) {
                tracing::warn!(%endpoint, why, "a place where this node was told to look belongs to another pool, and both hold data: they stay two. Keep one of them, or copy with lamplight export and import");
            }
        }
        if let Some(why) = self.replica.crossed_evictions()
            && self.meters.said.is_news("crossed")
        {
            tracing::warn!(why, "nothing becomes final");
        }
        if let Some(why) = self.replica.founding_wait()
            && self.meters.said.is_news("founding")
        {
            tracing::info!(why, "waiting for other nodes");
        }
    }

    /// Says, once a minute at most, that members have one address.
    fn report_shared_addresses(&mut self) {
        let within = |last: Option<Instant>, every| last.is_some_and(|last| last.elapsed() < every);
        if within(self.shared_looked, SHARED_LOOK_EVERY) || within(self.shared_said, SHARED_SAID_EVERY) {
            return;
        }
        self.shared_looked = Some(Instant::now());
        if let Some((url, why)) = self.replica.shared_address_problems().into_iter().next() {
            self.shared_said = Some(Instant::now());
            tracing::warn!(url, why, "members share an address");
        }
    }

    /// Has a snapshot take the place of a long journal: a slice of it with a turn, and the next when that one is stored. On
    /// a full disk it waits.
    fn compact(&mut self) {
        if self.stopping.is_cancelled() || self.journal.stored() < self.slice_end || !self.journal.has_snapshot_room() {
            return;
        }
        if self.replica.is_compacting() {
            self.event(Event::Stored);
        } else if self.journal.is_long() && self.snapshot_asked.is_none_or(|asked| asked.elapsed() >= SNAPSHOT_RETRY) {
            self.snapshot_asked = Some(Instant::now());
            self.event(Event::Compact);
        } else {
            return;
        }
        self.slice_end = self.journal.end();
    }

    /// Hands the turn's records to the disk, and lets out what is stored.
    fn end_turn(&mut self) {
        let presence_end = self.replica.presence().end();
        self.presence_publisher.send_if_modified(|told| std::mem::replace(told, presence_end) != presence_end);
        self.note_turn();
        self.journal.flush();
        let stored = self.journal.stored();
        while let Some(out) = self.outbox.next(stored) {
            match out {
                Out::Effect(effect) => self.carry_out(effect),
                Out::Answer(answer) => answer(),
                Out::Turn(news) => self.publish(news),
            }
        }
        self.meters.outbox.set(self.outbox.len() as u64);
    }

    /// Puts the news of this turn behind what it has led to.
    fn note_turn(&mut self) {
        let changed = !self.latest.is_of(&self.replica);
        if changed {
            self.latest = Published::of(&self.replica);
        }
        if changed || self.told || !self.receipts.is_empty() {
            self.told = false;
            self.outbox.push(self.journal.end(), Out::Turn(changed.then(|| self.latest.clone())));
        }
    }

    fn publish(&mut self, news: Option<Published>) {
        if let Some(news) = news {
            self.publisher.send_replace(news);
        }
        for (answer, receipt) in self.receipts.drain(..) {
            // A client that has gone away misses its receipt; the op stands.
            let _ = answer.send(receipt);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Store(_) => {}
            Effect::Send(link, message) => self.send(link, Outgoing::Message(message)),
            Effect::Close(link) => {
                self.send(link, Outgoing::Close);
                self.outgoing.remove(&link);
            }
            Effect::Dial(endpoint) => {
                let (links, network) = (self.links.clone(), Arc::clone(&self.network));
                tokio::spawn(async move { links.dial(&*network, endpoint).await });
            }
            Effect::Receipt(ticket, receipt) => {
                if let Some(answer) = self.waiting.remove(&ticket) {
                    self.receipts.push((answer, receipt));
                }
            }
        }
    }

    /// A link whose queue is full does not read: dropping its queue ends it.
    fn send(&mut self, link: LinkId, message: Outgoing) {
        let Some(outgoing) = self.outgoing.get(&link) else { return };
        if outgoing.try_send(message).is_err() {
            self.outgoing.remove(&link);
            self.meters.links_overrun.count();
            tracing::warn!(link = link.0, "a link that does not take its messages is closed");
        }
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as u64 }
    }
}

/// How many are in a queue, and how many may be.
fn queue<T>(sender: &mpsc::Sender<T>) -> (usize, usize) {
    (sender.max_capacity() - sender.capacity(), sender.max_capacity())
}

/// Hands out link ids.
fn next_link(counter: &AtomicU64) -> LinkId {
    LinkId(counter.fetch_add(1, Ordering::Relaxed))
}

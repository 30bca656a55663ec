//! One text that is read or edited here: what holds it, and what comes to it.
//!
//! Who locks it takes in first what the follower of the ring has told it meanwhile. A text whose history took another
//! turn (it was deleted, replaced, or an op of it lost its effect) is worked out again. Work of more than some
//! milliseconds runs on a thread for such work, which owns the lock meanwhile: should the client go away, it is brought
//! to its end.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedMutexGuard, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    Problem,
    rates::Caller,
    text_docs::unread,
    text_news::{News, NewsReader, NewsRing},
    texts::{SETTLE, SLOW, Texts},
    workers::Turn,
};
use crate::{
    document::{
        Clocks, Edited, Incarnation, Text,
        delta::Step,
        prose::{Allowance, Prose, Unfit, incarnations_in, marked, parts_of, updates_of, vector_of},
    },
    node::{Client, CpuTime, Node, Stopped},
    op::{Command, DocKey, Edit, Guard, Op},
    replica::{Draft, Receipt, Refused, Replica},
    version::Version,
};

/// Edits, and bytes of them, that wait until the text takes them in. Past that they are looked up in the ring.
const INBOX_MAX: (usize, usize) = (1_024, 4 << 20);
/// An edit of so many bytes, and of so many parts times those of the text, is done at once on a text of so many parts:
/// that takes a few milliseconds at the most. So is a read of so many bytes.
const LIGHT_BYTES: usize = 16 << 10;
const LIGHT_STEPS: usize = 1 << 15;
const LIGHT_PARTS: usize = 4_096;
/// Bytes of memory that a part of a text takes beside its content.
const PART_BYTES: usize = 512;
/// Time beyond the usual that the edits of a text may take in all. Half of what a reader has, whose machine may be slower.
const EXCESS_MAX: Duration = Duration::from_secs(2);
/// Most turns of a client that find the text locked. At the next one it waits for the lock with a thread.
const TURNS_MAX: usize = 8;
/// After so long a text that could not take in its news tries again.
const RETRY: Duration = Duration::from_millis(250);

/// One text.
pub struct Live {
    doc: DocKey<'static>,
    node: Node,
    texts: Weak<Texts>,
    held: Arc<tokio::sync::Mutex<Held>>,
    inbox: Mutex<Inbox>,
    /// Whether a task is about to take in what is in the inbox.
    wakes: AtomicBool,
    /// About how much memory it takes.
    size: AtomicUsize,
    used: Mutex<Instant>,
    settled: Notify,
    news: NewsRing,
}

/// What the follower has told and the text has not taken yet.
#[derive(Default)]
struct Inbox {
    told: Vec<(u64, Vec<Op>)>,
    bytes: usize,
    /// How often something was left out.
    gaps: u64,
}

/// What is known of a text.
#[derive(Debug)]
pub(super) struct Held {
    prose: Prose,
    /// What it is in the fold; none before its first edit.
    mark: Option<Text>,
    /// The edits in the ring from here on are not in it yet.
    place: u64,
    /// What it is to take in, each with its place.
    told: Vec<(u64, Vec<Op>)>,
    /// How many gaps of the inbox were filled from the ring.
    filled: Option<u64>,
    /// Whether it must be worked out again.
    stale: bool,
    /// The state that its editors were told before an edit that is under work. The client that asked for the edit may go away:
    /// then nobody hands it in.
    before: Option<Clocks>,
    /// How many edits made here have not come back yet.
    under_way: usize,
    /// Time that its edits took beyond the usual.
    excess: Duration,
    /// Whether that was found out by working it out, and nothing has come since.
    measured: bool,
}

type HeldGuard = OwnedMutexGuard<Held>;

/// What an edit led to: nothing, or a receipt that comes.
pub type Edition = Option<Answered>;

/// The receipt of an edit, or why it was refused.
pub type Answered = oneshot::Receiver<Result<Receipt, Refused>>;

/// Why an edit was not made.
#[derive(Debug)]
pub enum Refusal {
    /// The updates do not fit.
    Unfit(Unfit),
    /// Another version was named; this is the text now, and its version.
    Changed(Option<String>, String),
    /// The node has stopped, or does not hold the data, or the document is no text.
    Problem(Problem),
}

impl From<Unfit> for Refusal {
    fn from(unfit: Unfit) -> Refusal {
        Refusal::Unfit(unfit)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal::Problem(problem)
    }
}

impl From<Stopped> for Refusal {
    fn from(stopped: Stopped) -> Refusal {
        Refusal::Problem(stopped.into())
    }
}

impl Held {
    /// A text as it was worked out, which took so much time beyond the usual.
    pub(super) fn new(prose: Prose, mark: Option<Text>, place: u64, excess: Duration) -> Held {
        let (told, filled, stale, before, under_way, measured) = (Vec::new(), None, false, None, 0, true);
        Held { prose, mark, place, told, filled, stale, before, under_way, excess, measured }
    }

    /// Whether an edit of so many bytes and parts takes no time to speak of.
    fn takes_lightly(&self, bytes: usize, parts: usize) -> bool {
        let held = self.prose.parts();
        bytes <= LIGHT_BYTES && held <= LIGHT_PARTS && held.max(1) * parts <= LIGHT_STEPS
    }

    fn is_light(&self) -> bool {
        self.prose.bytes() <= LIGHT_BYTES && self.takes_lightly(0, 1)
    }

    /// True if work on it takes long.
    fn is_slow(&self) -> bool {
        self.excess > SLOW
    }

    fn size(&self) -> usize {
        self.prose.bytes() + self.prose.parts() * PART_BYTES
    }

    fn version(&self) -> Option<Version> {
        self.mark.as_ref().map(|mark| Version::of(mark.as_str()))
    }

    /// Takes in what came to it. If it cannot, or that takes long, it is to be worked out again.
    fn take_told(&mut self, live: &Live) {
        let (mut allowance, before) = (CpuTime::short(), self.prose.clocks().clone());
        for (place, ops) in mem::take(&mut self.told) {
            if place < self.place {
                continue;
            }
            self.place = place + 1;
            if ops.is_empty() || ops.iter().any(|op| self.take_op(op, live, &mut allowance).is_err()) {
                self.stale = true;
                // What is in it by now its editors have not been told.
                self.before.get_or_insert(before);
                return;
            }
        }
        self.note(&allowance);
    }

    /// Edits it, and notes what that took beyond the usual. It is stale until the edit is dealt with: an edit that is not handed in is
    /// no part of the text.
    fn spend<T>(&mut self, work: impl FnOnce(&mut Prose, &mut dyn Allowance) -> T) -> T {
        self.before = Some(self.prose.clocks().clone());
        self.stale = true;
        let mut allowance = CpuTime::for_edit();
        let done = work(&mut self.prose, &mut allowance);
        self.note(&allowance);
        done
    }

    fn note(&mut self, spent: &CpuTime) {
        self.excess += spent.excess();
        self.measured = false;
    }

    fn take_op(&mut self, op: &Op, live: &Live, allowance: &mut dyn Allowance) -> Result<(), Unfit> {
        self.mark = Some(marked(self.mark.as_ref(), op));
        let updates = updates_of(op, &live.doc);
        self.prose.absorb(updates.iter().map(|update| &**update), allowance)?;
        if op.origin() == live.node.id() {
            self.under_way = self.under_way.saturating_sub(1);
        }
        for update in updates {
            live.news.send(News::Update(update.into()));
        }
        Ok(())
    }
}

impl Live {
    pub(super) fn new(doc: DocKey<'static>, texts: &Arc<Texts>, held: Held) -> Live {
        Live {
            doc,
            node: texts.node().clone(),
            texts: Arc::downgrade(texts),
            size: held.size().into(),
            held: Arc::new(tokio::sync::Mutex::new(held)),
            inbox: Mutex::default(),
            wakes: AtomicBool::new(false),
            used: Mutex::new(Instant::now()),
            settled: Notify::new(),
            news: NewsRing::default(),
        }
    }

    pub(super) fn doc(&self) -> &DocKey<'static> {
        &self.doc
    }

    /// About how much memory it takes, with what its editors have yet to be told.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed) + self.news.bytes()
    }

    /// When it was used last.
    pub(super) fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its editors are told from now on.
    pub fn follow(&self) -> NewsReader {
        self.news.follow()
    }

    /// Notes what came to it, and has it taken in.
    pub(super) fn tell(self: &Arc<Self>, place: u64, ops: Vec<Op>) {
        let mut inbox = self.inbox();
        inbox.bytes += ops.iter().map(|op| op.bytes().len()).sum::<usize>();
        inbox.told.push((place, ops));
        if inbox.told.len() > INBOX_MAX.0 || inbox.bytes > INBOX_MAX.1 {
            *inbox = Inbox { gaps: inbox.gaps + 1, ..Inbox::default() };
        }
        drop(inbox);
        self.wake();
    }

    /// Notes that what came to it is not known.
    pub(super) fn miss(self: &Arc<Self>) {
        self.inbox().gaps += 1;
        self.wake();
    }

    fn wake(self: &Arc<Self>) {
        if self.wakes.swap(true, Ordering::AcqRel) {
            return;
        }
        let live = Arc::clone(self);
        tokio::spawn(async move {
            // It is not let go of while this has it: if it cannot be read, its editors have been told.
            while live.lock().await.is_err_and(|problem| problem.is("overloaded")) {
                sleep(RETRY).await;
            }
        });
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks it, once it has taken in what it was told. All who use it wait for that, so it takes no client's turn: one whose
    /// reads wait keeps nobody from the text.
    async fn lock(self: &Arc<Self>) -> Result<HeldGuard, Problem> {
        let mut held = Arc::clone(&self.held).lock_owned().await;
        let texts = self.texts.upgrade().ok_or(Stopped)?;
        let followed = texts.followed();
        self.fill(&mut held).await?;
        while held.stale || !held.told.is_empty() {
            if held.stale {
                self.renew(&mut held).await?;
            } else {
                held = self.take_in(held).await?;
            }
        }
        self.use_at(&mut held, followed);
        Ok(held)
    }

    /// Notes that it is used, with all taken in that was told up to a place.
    fn use_at(&self, held: &mut Held, followed: u64) {
        held.place = held.place.max(followed);
        self.size.store(held.size(), Ordering::Relaxed);
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Locks it for work on a thread, in the turn of a client. The turn is waited for first: so the text does not wait for a client's
    /// other reads. Nor does the thread wait for the text, unless that is locked whenever the turn has come.
    async fn lock_at_turn(self: &Arc<Self>, caller: &Caller) -> Result<(HeldGuard, Turn), Problem> {
        let texts = self.texts.upgrade().ok_or(Stopped)?;
        let mut is_slow = self.lock().await?.is_slow();
        for _ in 0..TURNS_MAX {
            let turn = texts.turns().thread(caller, is_slow).await?;
            if let Some(locked) = self.lock_now(turn, is_slow).await? {
                return Ok(locked);
            }
            is_slow = self.lock().await?.is_slow();
        }
        let turn = texts.turns().thread(caller, is_slow).await?;
        Ok((self.lock().await?, turn))
    }

    /// Locks it, if nobody else has and there is nothing to do before that takes another line.
    async fn lock_now(self: &Arc<Self>, turn: Turn, is_slow: bool) -> Result<Option<(HeldGuard, Turn)>, Problem> {
        let texts = self.texts.upgrade().ok_or(Stopped)?;
        let followed = texts.followed();
        let Ok(mut held) = Arc::clone(&self.held).try_lock_owned() else { return Ok(None) };
        self.fill(&mut held).await?;
        let live = Arc::clone(self);
        let take_told = move || {
            if !held.stale && !held.told.is_empty() {
                held.take_told(&live);
            }
            held
        };
        let (turn, mut held) = turn.run(take_told).await?;
        self.settled.notify_waiters();
        if held.stale || held.is_slow() != is_slow {
            return Ok(None);
        }
        self.use_at(&mut held, followed);
        Ok(Some((held, turn)))
    }

    /// Takes what is in the inbox, and from the ring what was left out there.
    async fn fill(&self, held: &mut Held) -> Result<(), Stopped> {
        self.wakes.store(false, Ordering::Release);
        let gaps = {
            let mut inbox = self.inbox();
            held.told.append(&mut inbox.told);
            inbox.bytes = 0;
            inbox.gaps
        };
        if held.filled == Some(gaps) {
            return Ok(());
        }
        let (doc, place) = (self.doc.clone(), held.place);
        let found = self.node.read(move |replica, _| {
            let edits = replica.state().edits();
            let of = |edited: &Edited| *edited.collection == *doc.collection && *edited.id == *doc.id;
            let since = edits.since(place)?;
            let found = (place..).zip(since).filter(|(_, edited)| of(edited));
            Some((found.map(|(place, edited)| (place, edited.ops.clone())).collect::<Vec<_>>(), edits.end()))
        });
        match found.await? {
            Some((mut found, end)) => {
                held.told.retain(|(place, _)| *place >= end);
                found.append(&mut held.told);
                held.told = found;
            }
            None => held.stale = true,
        }
        held.filled = Some(gaps);
        Ok(())
    }

    async fn take_in(self: &Arc<Self>, mut held: HeldGuard) -> Result<HeldGuard, Problem> {
        let ops = || held.told.iter().flat_map(|(_, ops)| ops);
        let bytes = ops().map(|op| op.bytes().len()).sum();
        let parts = if bytes > LIGHT_BYTES { 0 } else { ops().map(|op| parts_of(&updates_of(op, &self.doc))).sum() };
        if held.takes_lightly(bytes, parts) {
            held.take_told(self);
        } else {
            let (texts, live, is_slow) = (self.texts.upgrade().ok_or(Stopped)?, Arc::clone(self), held.is_slow());
            let work = move || {
                held.take_told(&live);
                held
            };
            let turns = texts.turns();
            held = if is_slow { turns.run_slowly(None, work).await? } else { turns.run(None, work).await? };
        }
        self.settled.notify_waiters();
        Ok(held)
    }

    /// Does work on a thread that owns the text meanwhile.
    async fn work<T: Send + 'static>(
        (mut held, turn): (HeldGuard, Turn),
        work: impl FnOnce(&mut Held) -> T + Send + 'static,
    ) -> Result<(HeldGuard, T), Problem> {
        let work = move || {
            let done = work(&mut held);
            (held, done)
        };
        Ok(turn.run(work).await?.1)
    }

    /// Refuses an editor that holds an earlier incarnation of the text: its content was deleted, and is no new edit.
    async fn check_incarnations(self: &Arc<Self>, mut held: Vec<Incarnation>) -> Result<(), Refusal> {
        // What was copied from another document is new here.
        held.retain(|one| one.is_of(&self.doc));
        if held.is_empty() || self.is_of_all(&held).await? {
            return Ok(());
        }
        let look = move |replica: &Replica, _| {
            let begun = |one: &Incarnation| replica.log().heads().any(|(origin, head)| one.is_within(origin, head.seq));
            // Of others this node has yet to hear, or never will: their editors may be the only ones that hold them.
            (held.into_iter().filter(begun).collect::<Vec<_>>(), replica.state().edits().end())
        };
        let (begun, end) = self.node.read(look).await?;
        let texts = self.texts.upgrade().ok_or(Stopped)?;
        texts.reach(end).await;
        if texts.followed() < end {
            return Err(Problem::from(Refused::NotReady).into());
        }
        if self.is_of_all(&begun).await? { Ok(()) } else { Err(Unfit::Stranger(begun).into()) }
    }

    async fn is_of_all(self: &Arc<Self>, incarnations: &[Incarnation]) -> Result<bool, Problem> {
        let held = self.lock().await?;
        let is_from_before = held.mark.is_some() && !held.prose.has_incarnation(&self.doc);
        Ok(is_from_before || incarnations.iter().all(|one| held.prose.is_of(*one)))
    }

    /// What one who has this state vector lacks; all for an empty one.
    pub async fn encode(self: &Arc<Self>, caller: &Caller, vector: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.check_incarnations(incarnations_in(vector)).await?;
        let held = self.lock().await?;
        if held.is_light() {
            return Ok(held.prose.encode(vector)?);
        }
        drop(held);
        let (at_turn, vector) = (self.lock_at_turn(caller).await?, vector.to_vec());
        let (_, encoded) = Self::work(at_turn, move |held| held.prose.encode(&vector)).await?;
        Ok(encoded?)
    }

    /// Its state vector.
    pub async fn vector(self: &Arc<Self>) -> Result<Vec<u8>, Problem> {
        Ok(self.lock().await?.prose.vector())
    }

    /// Whether an update brings nothing new.
    pub async fn holds(self: &Arc<Self>, caller: &Caller, update: &[u8]) -> Result<bool, Refusal> {
        let (at_turn, update) = (self.lock_at_turn(caller).await?, update.to_vec());
        let work = move |held: &mut Held| held.prose.has_within(&update, &mut CpuTime::for_edit());
        match Self::work(at_turn, work).await?.1 {
            Err(Unfit::Exhausted) => Err(Unfit::Exhausted.into()),
            held => Ok(held == Ok(true)),
        }
    }

    /// Reads it once the edits made here have come back; with the mark that it has there.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        caller: &Caller,
        reading: impl FnOnce(&Prose, &mut dyn Allowance) -> Result<T, Unfit> + Send + 'static,
    ) -> Result<(T, Option<Text>), Problem> {
        let held = self.settled_held().await?;
        let (read, mark) = if held.is_light() {
            (reading(&held.prose, &mut CpuTime::for_text()), held.mark.clone())
        } else {
            drop(held);
            let at_turn = self.settled_at_turn(caller).await?;
            let mark = at_turn.0.mark.clone();
            (Self::work(at_turn, move |held| reading(&held.prose, &mut CpuTime::for_text())).await?.1, mark)
        };
        Ok((read.map_err(|unfit| unread(&unfit))?, mark))
    }

    /// Makes the updates of an editor an op, as far as they bring anything.
    pub async fn take(self: &Arc<Self>, caller: &Caller, updates: &Arc<Vec<Vec<u8>>>) -> Result<Edition, Refusal> {
        match self.take_of(caller, updates, Vec::new()).await {
            Err(Refusal::Unfit(Unfit::Stranger(strangers))) => {
                self.check_incarnations(strangers.clone()).await?;
                self.take_of(caller, updates, strangers).await
            }
            taken => taken,
        }
    }

    /// The same for updates that may bring these incarnations of the text.
    async fn take_of(
        self: &Arc<Self>,
        caller: &Caller,
        updates: &Arc<Vec<Vec<u8>>>,
        admitted: Vec<Incarnation>,
    ) -> Result<Edition, Refusal> {
        let mut held = self.within_cost(self.lock().await?).await?;
        let bytes = updates.iter().map(Vec::len).sum();
        let is_light = bytes <= LIGHT_BYTES && held.takes_lightly(bytes, parts_of(updates));
        let updates = Arc::clone(updates);
        let work = move |held: &mut Held| {
            held.prose.check_updates(&updates, &admitted)?;
            held.spend(|prose, allowance| prose.take_within(&updates, allowance))
        };
        let taken = if is_light {
            work(&mut held)
        } else {
            drop(held);
            let taken;
            (held, taken) = Self::work(self.lock_at_turn(caller).await?, work).await?;
            taken
        };
        let Some(update) = self.or_renewed(&mut held, taken).await? else { return Ok(None) };
        self.hand_in(&mut held, update, Vec::new()).await.map(Some)
    }

    /// Edits it, if it is in this version or none is named.
    pub async fn edit(
        self: &Arc<Self>,
        caller: &Caller,
        guards: Vec<Guard<'static>>,
        delta: impl FnOnce(&Prose) -> Result<Vec<Step>, Unfit> + Send + 'static,
    ) -> Result<Edition, Refusal> {
        drop(self.within_cost(self.settled_held().await?).await?);
        let (held, turn) = self.settled_at_turn(caller).await?;
        let version = held.version();
        let fails = |guard: &Guard<'_>| match guard {
            Guard::Exists(_) => version.is_none(),
            Guard::Absent(_) => version.is_some(),
            Guard::Version(_, named) => version != Some(*named),
        };
        if guards.iter().any(fails) {
            let (_, text) = Self::work((held, turn), |held| held.prose.plain()).await?;
            return Err(Refusal::Changed(version.map(|version| version.to_string()), text?));
        }
        let work = |held: &mut Held| {
            let steps = delta(&held.prose)?;
            held.spend(|prose, allowance| prose.edit_within(fastrand::u32(1..), &steps, allowance))
        };
        let (mut held, edited) = Self::work((held, turn), work).await?;
        // An edit of a text that is not there creates it, even an empty one.
        let update = match self.or_renewed(&mut held, edited).await? {
            Some(update) => update,
            None if held.mark.is_none() => vec![0, 0],
            None => return Ok(None),
        };
        let creates = guards.into_iter().filter(|guard| matches!(guard, Guard::Absent(_)));
        self.hand_in(&mut held, update, creates.collect()).await.map(Some)
    }

    /// Refuses an edit while those before it have taken too much work in all. It is found out again before, for what
    /// was long ago may have been merged since.
    async fn within_cost(self: &Arc<Self>, mut held: HeldGuard) -> Result<HeldGuard, Refusal> {
        if held.excess > EXCESS_MAX && !held.measured {
            held.stale = true;
            drop(held);
            held = self.lock().await?;
        }
        if held.excess > EXCESS_MAX { Err(Unfit::Exhausted.into()) } else { Ok(held) }
    }

    /// What an edit led to. If what holds the text is spoilt by it, it is worked out again.
    async fn or_renewed<T>(&self, held: &mut HeldGuard, done: Result<T, Unfit>) -> Result<T, Refusal> {
        if let Err(Unfit::Broken | Unfit::Exhausted) = &done {
            held.stale = true;
            self.renew(held).await?;
        } else {
            (held.stale, held.before) = (false, None);
        }
        Ok(done?)
    }

    async fn hand_in(
        self: &Arc<Self>,
        held: &mut Held,
        update: Vec<u8>,
        guards: Vec<Guard<'static>>,
    ) -> Result<Answered, Refusal> {
        let edit = Edit { creates: held.mark.is_none(), update: update.into() };
        let commands = vec![Command::Text(self.doc.clone(), edit)];
        let draft = Draft { key: None, guards, commands, present: false };
        // Whoever edits it, its edits are issued in the order in which they were put in here: each builds on those before.
        // What it holds is no text of the node until it is handed in: should this be given up before, it is worked out again.
        held.stale = true;
        let answered = self.node.hand_in(Client::of(&self.doc), draft).await.map_err(Problem::from)?;
        held.stale = false;
        held.under_way += 1;
        self.size.store(held.size(), Ordering::Relaxed);
        Ok(self.watch(answered))
    }

    /// Passes a receipt on. If the edit was refused, what holds it is not the text, whether or not its client is still there.
    fn watch(self: &Arc<Self>, answered: Answered) -> Answered {
        let (live, (answer, passed_on)) = (Arc::clone(self), oneshot::channel());
        tokio::spawn(async move {
            let Ok(answered) = answered.await else { return };
            if answered.is_err() {
                live.held.lock().await.stale = true;
                // If it cannot be read, its editors have been told.
                let _ = live.lock().await;
            }
            // Its client may be gone.
            let _ = answer.send(answered);
        });
        passed_on
    }

    async fn settled_held(self: &Arc<Self>) -> Result<HeldGuard, Problem> {
        let wait = async {
            loop {
                let settled = self.settled.notified();
                let held = self.lock().await?;
                if held.under_way == 0 {
                    return Ok(held);
                }
                drop(held);
                settled.await;
            }
        };
        timeout(SETTLE, wait).await.unwrap_or_else(|_| Err(Refused::NotReady.into()))
    }

    /// The same for work on a thread.
    async fn settled_at_turn(self: &Arc<Self>, caller: &Caller) -> Result<(HeldGuard, Turn), Problem> {
        let wait = async {
            loop {
                let (held, turn) = self.lock_at_turn(caller).await?;
                if held.under_way == 0 {
                    return Ok((held, turn));
                }
                drop((held, turn));
                drop(self.settled_held().await?);
            }
        };
        timeout(SETTLE, wait).await.unwrap_or_else(|_| Err(Refused::NotReady.into()))
    }

    /// Works it out again. If that holds all that was there before, its editors go on; else what they edit is gone.
    async fn renew(&self, held: &mut Held) -> Result<(), Problem> {
        let texts = self.texts.upgrade().ok_or(Stopped)?;
        let loaded = texts.load(&self.doc, None).await;
        self.settled.notify_waiters();
        let loaded = match loaded {
            Ok(loaded) => loaded,
            // The text may be there all the same.
            Err(problem) if problem.is("overloaded") || problem.is("not-ready") => return Err(problem),
            Err(problem) => {
                held.under_way = 0;
                texts.remove(self);
                self.news.send(News::Gone);
                return Err(problem);
            }
        };
        let clocks = held.before.as_ref().unwrap_or(held.prose.clocks());
        let vector = vector_of(clocks);
        let news = move || {
            let news = loaded.prose.encode(&vector);
            (loaded, news)
        };
        let (loaded, news) = texts.turns().run(None, news).await?;
        // What is under way is not in it yet.
        let clocks = held.before.as_ref().unwrap_or(held.prose.clocks());
        let holds = held.under_way > 0 || loaded.prose.holds(clocks);
        let goes_on = holds && (loaded.mark.is_some() || held.mark.is_none());
        let told = match news {
            Ok(update) if goes_on => News::Update(update.into()),
            _ => News::Gone,
        };
        // Of what it was told, all that came before it was loaded is passed over.
        let (before, filled) = (mem::take(&mut held.told), held.filled);
        *held = Held { told: before, filled, ..loaded };
        self.news.send(told);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread::available_parallelism;

    use futures_util::FutureExt;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        api::{Api, access::Principal, texts::Opened},
        node::Tcp,
        op::NodeId,
        replica::{Config, Standing},
    };

    fn caller() -> Caller {
        Caller::Token(Principal::named("ada"))
    }

    /// A node, and a text on it.
    async fn text(content: String) -> (Api, Opened) {
        let config = Config::founder(NodeId(uuid::Uuid::new_v4()), 7);
        let api = Api::new(Node::start(config, Tcp), CancellationToken::new());
        while api.node.read(|replica, _| replica.standing()).await.unwrap() != Standing::Member {
            tokio::task::yield_now().await;
        }
        let live = api.texts.open(&DocKey::new("notes", "x"), &caller()).await.unwrap();
        let steps = vec![Step::Insert(content, None)];
        let edited = live.edit(&caller(), Vec::new(), move |_| Ok(steps)).await.unwrap();
        edited.unwrap().await.unwrap().unwrap();
        live.read(&caller(), |prose, _| prose.plain()).await.unwrap();
        (api, live)
    }

    #[tokio::test]
    async fn a_reader_whose_turn_has_yet_to_come_keeps_nobody_from_the_text() {
        let (api, live) = text("x".repeat(2 * LIGHT_BYTES)).await;
        let mut turns = Vec::new();
        for _ in 0..available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)) {
            turns.push(api.texts.turns().thread(&caller(), false).await.unwrap());
        }
        let reader = caller();
        let mut waiting = std::pin::pin!(live.encode(&reader, &[]));
        assert!(waiting.as_mut().now_or_never().is_none(), "all threads are in use");
        let vector = timeout(Duration::from_secs(30), live.vector()).await;
        assert!(vector.is_ok_and(|vector| vector.is_ok()), "another is let in");
        drop(turns);
        assert!(waiting.await.is_ok_and(|state| state.len() > 2 * LIGHT_BYTES));
    }

    #[tokio::test]
    async fn an_edit_that_is_refused_after_its_client_has_gone_keeps_nobody_waiting() {
        let (_api, live) = text("x".into()).await;
        let mut held = live.lock().await.unwrap();
        let steps = [Step::Insert("y".into(), None)];
        let edited = held.spend(|prose, allowance| prose.edit_within(9, &steps, allowance));
        let absent = vec![Guard::Absent(live.doc().clone())];
        drop(live.hand_in(&mut held, edited.unwrap().unwrap(), absent).await.unwrap());
        drop(held);
        let (read, _) = live.read(&caller(), |prose, _| prose.plain()).await.unwrap();
        assert_eq!(read, "x");
    }
}

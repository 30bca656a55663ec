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
    sync::{Notify, OwnedMutexGuard, broadcast, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    Problem,
    rates::Caller,
    text_docs::unread,
    texts::{SETTLE, SLOW, Texts},
};
use crate::{
    document::{
        Clocks, Edited, Incarnation, Text,
        delta::Step,
        prose::{Allowance, Prose, Unfit, incarnations_in, marked, parts_of, updates_of},
    },
    node::{Client, CpuTime, Node, Stopped},
    op::{Command, DocKey, Edit, Guard, Op},
    replica::{Draft, Receipt, Refused, Replica},
    version::Version,
};

/// How many edits a slow editor may be behind; past that it gets the whole text again.
const NEWS_MAX: usize = 256;
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
/// After so long a text that could not take in its news tries again.
const RETRY: Duration = Duration::from_millis(250);

/// What editors of a text are told.
#[derive(Clone, Debug)]
pub enum News {
    /// An update.
    Update(Arc<[u8]>),
    /// The text that they edit is no more.
    Gone,
}

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
    news: broadcast::Sender<News>,
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
    /// What it held before an edit that is under work. Whoever asked for the edit may go away: then nobody hands it in.
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
pub type Edition = Option<oneshot::Receiver<Result<Receipt, Refused>>>;

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

    fn size(&self) -> usize {
        self.prose.bytes() + self.prose.parts() * PART_BYTES
    }

    fn version(&self) -> Option<Version> {
        self.mark.as_ref().map(|mark| Version::of(mark.as_str()))
    }

    /// Takes in what came to it. If it cannot, or that takes long, it is to be worked out again.
    fn take_told(&mut self, live: &Live) {
        let mut allowance = CpuTime::short();
        for (place, ops) in mem::take(&mut self.told) {
            if place < self.place {
                continue;
            }
            self.place = place + 1;
            if ops.is_empty() || ops.iter().any(|op| self.take_op(op, live, &mut allowance).is_err()) {
                self.stale = true;
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
            // Nobody may be editing.
            let _ = live.news.send(News::Update(update.into()));
        }
        Ok(())
    }
}

impl Live {
    pub(super) fn new(doc: DocKey<'static>, texts: &Arc<Texts>, held: Held) -> Live {
        let (news, _) = broadcast::channel(NEWS_MAX);
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
            news,
        }
    }

    pub(super) fn doc(&self) -> &DocKey<'static> {
        &self.doc
    }

    /// About how much memory it takes.
    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// When it was used last.
    pub(super) fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its editors are told from now on.
    pub fn follow(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
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
            while live.lock(None).await.is_err_and(|problem| problem.is("overloaded")) {
                sleep(RETRY).await;
            }
        });
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks it, once it has taken in what it was told.
    async fn lock(self: &Arc<Self>, caller: Option<&Caller>) -> Result<HeldGuard, Problem> {
        let mut held = Arc::clone(&self.held).lock_owned().await;
        let texts = self.texts.upgrade().ok_or(Stopped)?;
        let followed = texts.followed();
        self.fill(&mut held).await?;
        while held.stale || !held.told.is_empty() {
            if held.stale {
                self.renew(&mut held, caller).await?;
            } else {
                held = self.take_in(held, caller).await?;
            }
        }
        // All up to there was told.
        held.place = held.place.max(followed);
        self.size.store(held.size(), Ordering::Relaxed);
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(held)
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

    async fn take_in(self: &Arc<Self>, mut held: HeldGuard, caller: Option<&Caller>) -> Result<HeldGuard, Problem> {
        let ops = || held.told.iter().flat_map(|(_, ops)| ops);
        let bytes = ops().map(|op| op.bytes().len()).sum();
        let parts = if bytes > LIGHT_BYTES { 0 } else { ops().map(|op| parts_of(&updates_of(op, &self.doc))).sum() };
        if held.takes_lightly(bytes, parts) {
            held.take_told(self);
        } else {
            let live = Arc::clone(self);
            let work = move |held: &mut Held| held.take_told(&live);
            (held, ()) = self.work(held, caller, work).await?;
        }
        self.settled.notify_waiters();
        Ok(held)
    }

    /// Does work on a thread that owns the text meanwhile.
    async fn work<T: Send + 'static>(
        &self,
        mut held: HeldGuard,
        caller: Option<&Caller>,
        work: impl FnOnce(&mut Held) -> T + Send + 'static,
    ) -> Result<(HeldGuard, T), Problem> {
        let (texts, is_slow) = (self.texts.upgrade().ok_or(Stopped)?, held.excess > SLOW);
        let work = move || {
            let done = work(&mut held);
            (held, done)
        };
        if is_slow { texts.turns().run_slowly(caller, work).await } else { texts.turns().run(caller, work).await }
    }

    /// Refuses one who holds incarnations of the text that are no more: what it holds was deleted, and is no new edit.
    async fn check_incarnations(self: &Arc<Self>, caller: &Caller, held: Vec<Incarnation>) -> Result<(), Refusal> {
        if held.is_empty() || self.is_of_all(caller, &held).await? {
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
        if self.is_of_all(caller, &begun).await? { Ok(()) } else { Err(Unfit::Stranger(begun).into()) }
    }

    async fn is_of_all(self: &Arc<Self>, caller: &Caller, incarnations: &[Incarnation]) -> Result<bool, Problem> {
        let held = self.lock(Some(caller)).await?;
        Ok(incarnations.iter().all(|one| held.prose.is_of(*one)))
    }

    /// What one who has this state vector lacks; all for an empty one.
    pub async fn encode(self: &Arc<Self>, caller: &Caller, vector: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.check_incarnations(caller, incarnations_in(vector)).await?;
        let held = self.lock(Some(caller)).await?;
        if held.is_light() {
            return Ok(held.prose.encode(vector)?);
        }
        let vector = vector.to_vec();
        let (_, encoded) = self.work(held, Some(caller), move |held| held.prose.encode(&vector)).await?;
        Ok(encoded?)
    }

    /// Its state vector.
    pub async fn vector(self: &Arc<Self>, caller: &Caller) -> Result<Vec<u8>, Problem> {
        Ok(self.lock(Some(caller)).await?.prose.vector())
    }

    /// Whether an update brings nothing new.
    pub async fn holds(self: &Arc<Self>, caller: &Caller, update: &[u8]) -> Result<bool, Refusal> {
        let (held, update) = (self.lock(Some(caller)).await?, update.to_vec());
        let work = move |held: &mut Held| held.prose.has_within(&update, &mut CpuTime::for_edit());
        match self.work(held, Some(caller), work).await?.1 {
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
        let held = self.settled_held(caller).await?;
        let mark = held.mark.clone();
        let read = if held.is_light() {
            reading(&held.prose, &mut CpuTime::for_text())
        } else {
            self.work(held, Some(caller), move |held| reading(&held.prose, &mut CpuTime::for_text())).await?.1
        };
        Ok((read.map_err(|unfit| unread(&unfit))?, mark))
    }

    /// Makes the updates of an editor an op, as far as they bring anything.
    pub async fn take(self: &Arc<Self>, caller: &Caller, updates: &Arc<Vec<Vec<u8>>>) -> Result<Edition, Refusal> {
        match self.take_of(caller, updates, Vec::new()).await {
            Err(Refusal::Unfit(Unfit::Stranger(strangers))) => {
                self.check_incarnations(caller, strangers.clone()).await?;
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
        let held = self.lock(Some(caller)).await?;
        let mut held = self.within_cost(held, caller).await?;
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
            let taken;
            (held, taken) = self.work(held, Some(caller), work).await?;
            taken
        };
        let Some(update) = self.or_renewed(&mut held, caller, taken).await? else { return Ok(None) };
        self.hand_in(&mut held, update, Vec::new()).await.map(Some)
    }

    /// Edits it, if it is in this version or none is named.
    pub async fn edit(
        self: &Arc<Self>,
        caller: &Caller,
        guards: Vec<Guard<'static>>,
        delta: impl FnOnce(&Prose) -> Result<Vec<Step>, Unfit> + Send + 'static,
    ) -> Result<Edition, Refusal> {
        let held = self.settled_held(caller).await?;
        let held = self.within_cost(held, caller).await?;
        let version = held.version();
        let fails = |guard: &Guard<'_>| match guard {
            Guard::Exists(_) => version.is_none(),
            Guard::Absent(_) => version.is_some(),
            Guard::Version(_, named) => version != Some(*named),
        };
        if guards.iter().any(fails) {
            let (_, text) = self.work(held, Some(caller), |held| held.prose.plain()).await?;
            return Err(Refusal::Changed(version.map(|version| version.to_string()), text?));
        }
        let work = |held: &mut Held| {
            let steps = delta(&held.prose)?;
            held.spend(|prose, allowance| prose.edit_within(fastrand::u32(1..), &steps, allowance))
        };
        let (mut held, edited) = self.work(held, Some(caller), work).await?;
        // An edit of a text that is not there creates it, even an empty one.
        let update = match self.or_renewed(&mut held, caller, edited).await? {
            Some(update) => update,
            None if held.mark.is_none() => vec![0, 0],
            None => return Ok(None),
        };
        let creates = guards.into_iter().filter(|guard| matches!(guard, Guard::Absent(_)));
        self.hand_in(&mut held, update, creates.collect()).await.map(Some)
    }

    /// Refuses an edit while those before it have taken too much work in all. It is found out again before, for what
    /// was long ago may have been merged since.
    async fn within_cost(self: &Arc<Self>, mut held: HeldGuard, caller: &Caller) -> Result<HeldGuard, Refusal> {
        if held.excess > EXCESS_MAX && !held.measured {
            held.stale = true;
            drop(held);
            held = self.lock(Some(caller)).await?;
        }
        if held.excess > EXCESS_MAX { Err(Unfit::Exhausted.into()) } else { Ok(held) }
    }

    /// What an edit led to. If what holds the text is spoilt by it, it is worked out again.
    async fn or_renewed<T>(&self, held: &mut HeldGuard, caller: &Caller, done: Result<T, Unfit>) -> Result<T, Refusal> {
        if let Err(Unfit::Broken | Unfit::Exhausted) = &done {
            held.stale = true;
            self.renew(held, Some(caller)).await?;
        } else {
            (held.stale, held.before) = (false, None);
        }
        Ok(done?)
    }

    async fn hand_in(
        &self,
        held: &mut Held,
        update: Vec<u8>,
        guards: Vec<Guard<'static>>,
    ) -> Result<oneshot::Receiver<Result<Receipt, Refused>>, Refusal> {
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
        Ok(answered)
    }

    /// An edit that was handed in was refused: what holds it is not the text.
    pub async fn on_refused(self: &Arc<Self>, caller: &Caller) {
        self.held.lock().await.stale = true;
        // If it cannot be read, its editors have been told.
        let _ = self.lock(Some(caller)).await;
    }

    async fn settled_held(self: &Arc<Self>, caller: &Caller) -> Result<HeldGuard, Problem> {
        let wait = async {
            loop {
                let settled = self.settled.notified();
                let held = self.lock(Some(caller)).await?;
                if held.under_way == 0 {
                    return Ok(held);
                }
                drop(held);
                settled.await;
            }
        };
        timeout(SETTLE, wait).await.unwrap_or_else(|_| Err(Refused::NotReady.into()))
    }

    /// Works it out again. If that holds all that was there before, its editors go on; else what they edit is gone.
    async fn renew(&self, held: &mut Held, caller: Option<&Caller>) -> Result<(), Problem> {
        let texts = self.texts.upgrade().ok_or(Stopped)?;
        let loaded = texts.load(&self.doc, caller).await;
        self.settled.notify_waiters();
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(problem) if problem.is("overloaded") => return Err(problem),
            Err(problem) => {
                held.under_way = 0;
                texts.remove(self);
                let _ = self.news.send(News::Gone);
                return Err(problem);
            }
        };
        let vector = held.prose.vector();
        let news = move || {
            let news = loaded.prose.encode(&vector);
            (loaded, news)
        };
        let (loaded, news) = texts.turns().run(caller, news).await?;
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
        let _ = self.news.send(told);
        Ok(())
    }
}

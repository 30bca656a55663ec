//! The texts that are read or edited here now, each worked out once for all who do.
//!
//! A text document is a set of updates in the fold; what they come to is kept here, beside the node's task, while somebody
//! asks for it. One task follows the ring of edits and hands on what came to which text; a text whose history took another
//! turn (it was deleted, replaced, or an op of it lost its effect) is looked at again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{
    sync::{MutexGuard, Notify, broadcast, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::{Api, Problem, check_ready, text_docs::unread};
use crate::{
    document::{
        Edited, Text,
        delta::Step,
        prose::{Prose, Source, Unfit, is_prose, marked, updates_of},
    },
    node::{Client, Node, Published, Stopped},
    op::{Command, DocKey, Edit, Guard, Op},
    replica::{Draft, Receipt, Refused, Replica},
    version::Version,
};

/// So many texts that nobody edits are kept, and so long: a text that is read again soon is not worked out again.
const IDLE_MAX: usize = 64;
const IDLE: Duration = Duration::from_secs(60);
/// Most edits that one look at the node takes.
const LOOK_MAX: usize = 1_000;
/// How many edits a slow editor may be behind; past that it gets the whole text again.
const NEWS_MAX: usize = 256;
/// How long a reader waits until the edits made here have come back from the log.
const SETTLE: Duration = Duration::from_secs(5);

/// What editors of a text are told.
#[derive(Clone, Debug)]
pub enum News {
    /// An update.
    Update(Arc<[u8]>),
    /// The text that they edit is no more.
    Gone,
}

/// The texts that are worked out here.
pub struct Texts {
    node: Node,
    live: Mutex<HashMap<DocKey<'static>, Arc<Live>>>,
    /// Up to where in the ring of edits they have come.
    reached: watch::Sender<u64>,
}

/// One text.
pub struct Live {
    doc: DocKey<'static>,
    node: Node,
    held: tokio::sync::Mutex<Held>,
    settled: Notify,
    news: broadcast::Sender<News>,
}

/// What is known of a text.
#[derive(Debug)]
struct Held {
    prose: Prose,
    /// What it is in the fold; none before its first edit.
    mark: Option<Text>,
    /// The edits in the ring from here on are not in it yet.
    place: u64,
    /// How many edits made here have not come back yet.
    under_way: usize,
    used: Instant,
}

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

impl Texts {
    /// For a node; must be called within a runtime.
    pub fn new(node: Node) -> Arc<Texts> {
        let texts = Arc::new(Texts { node: node.clone(), live: Mutex::default(), reached: watch::Sender::new(0) });
        tokio::spawn(follow(Arc::downgrade(&texts), node.published(), node));
        texts
    }

    /// A text, worked out; one that does not exist is empty, and begins with its first edit. 409 for a document that is none.
    pub async fn open(&self, doc: &DocKey<'static>) -> Result<Arc<Live>, Problem> {
        if let Some(live) = self.locked().get(doc) {
            return Ok(Arc::clone(live));
        }
        let held = load(&self.node, doc).await?;
        let (news, _) = broadcast::channel(NEWS_MAX);
        let (doc, node) = (doc.clone(), self.node.clone());
        let live = Live { doc, node, held: tokio::sync::Mutex::new(held), settled: Notify::new(), news };
        // What came since it was loaded the follower may have passed over: it is looked up in the ring.
        let live = Arc::clone(self.locked().entry(live.doc.clone()).or_insert(Arc::new(live)));
        self.fill(&live).await?;
        self.drop_idle();
        Ok(live)
    }

    /// How many are worked out.
    pub fn count(&self) -> usize {
        self.locked().len()
    }

    /// Waits until all texts here are as far as the node was at a place in its ring of edits.
    pub async fn reach(&self, place: u64) {
        let mut reached = self.reached.subscribe();
        // If the follower has ended, so has the node.
        let _ = timeout(SETTLE, reached.wait_for(|reached| *reached >= place)).await;
    }

    async fn fill(&self, live: &Arc<Live>) -> Result<(), Problem> {
        let place = live.held.lock().await.place;
        let doc = live.doc.clone();
        let found = self.node.read(move |replica, _| {
            let edits = replica.state().edits();
            let of = |edited: &&Edited| *edited.collection == *doc.collection && *edited.id == *doc.id;
            let found = edits.since(place).map(|since| since.filter(of).cloned().collect::<Vec<_>>());
            (found, edits.end())
        });
        let (found, end) = found.await?;
        match found {
            Some(found) => live.take_all(found.into_iter().map(|edited| edited.ops).collect(), end).await,
            None => live.look_again().await,
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<DocKey<'static>, Arc<Live>>> {
        // Nothing panics while it is held.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of texts that nobody has at hand, beyond some that were used lately.
    fn drop_idle(&self) {
        let mut live = self.locked();
        let used = |live: &Arc<Live>| live.held.try_lock().map_or_else(|_| Instant::now(), |held| held.used);
        let idle = live.iter().filter(|(_, live)| Arc::strong_count(live) == 1);
        let mut idle: Vec<(Instant, DocKey<'static>)> = idle.map(|(doc, live)| (used(live), doc.clone())).collect();
        idle.sort();
        let surplus = idle.len().saturating_sub(IDLE_MAX);
        for (at, (used, doc)) in idle.into_iter().enumerate() {
            if at < surplus || used.elapsed() >= IDLE {
                live.remove(&doc);
            }
        }
    }
}

/// Follows the ring of edits for as long as somebody has the texts.
async fn follow(texts: Weak<Texts>, mut published: watch::Receiver<Published>, node: Node) {
    let mut place = 0;
    loop {
        let end = published.borrow_and_update().edits_end;
        if end == place {
            match timeout(IDLE, published.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => match texts.upgrade() {
                    Some(texts) => texts.drop_idle(),
                    None => return,
                },
            }
            continue;
        }
        let look = move |replica: &Replica, _| {
            let edits = replica.state().edits();
            match edits.since(place) {
                Some(since) => {
                    let found: Vec<Edited> = since.take(LOOK_MAX).cloned().collect();
                    (place + found.len() as u64, Some(found))
                }
                None => (edits.end(), None),
            }
        };
        let Ok((reached, found)) = node.read(look).await else { return };
        let Some(texts) = texts.upgrade() else { return };
        let known: Vec<Arc<Live>> = texts.locked().values().cloned().collect();
        for live in known {
            let told = match &found {
                None => live.look_again().await,
                Some(found) => {
                    let of =
                        |edited: &&Edited| *edited.collection == *live.doc.collection && *edited.id == *live.doc.id;
                    let entries = found.iter().enumerate().filter(|(_, edited)| of(edited));
                    let entries: Vec<(u64, Vec<Op>)> =
                        entries.map(|(at, edited)| (place + at as u64, edited.ops.clone())).collect();
                    live.take_from(entries, reached).await
                }
            };
            if told.is_err() {
                // It cannot be read now: whoever asks next works it out anew.
                texts.locked().remove(&live.doc);
                let _ = live.news.send(News::Gone);
            }
        }
        place = reached;
        texts.reached.send_replace(reached);
    }
}

/// Works a text out.
async fn load(node: &Node, doc: &DocKey<'static>) -> Result<Held, Problem> {
    let asked = doc.clone();
    let look = node.read(move |replica, _| {
        check_ready(replica.standing())?;
        let state = replica.state();
        let found = state.text(&asked.collection, &asked.id).is_some();
        Ok::<_, Refused>((found, state.source(&asked.collection, &asked.id), state.edits().end()))
    });
    let (exists, source, place) = look.await??;
    let source = match source {
        None if exists => return Err(Problem::not_a_text(&doc.collection, &doc.id)),
        source => source,
    };
    let (prose, mark) = work_out(doc, source).await?;
    Ok(Held { prose, mark, place, under_way: 0, used: Instant::now() })
}

async fn work_out(doc: &DocKey<'static>, source: Option<Source>) -> Result<(Prose, Option<Text>), Problem> {
    let Some(source) = source else { return Ok((Prose::default(), None)) };
    let (doc, mark) = (doc.clone(), source.mark.clone());
    let worked_out = spawn_blocking(move || source.prose(&doc)).await.ok().flatten();
    worked_out.map(|prose| (prose, Some(mark))).ok_or_else(Problem::unreadable_text)
}

impl Live {
    /// What its editors are told from now on.
    pub fn follow(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// What one who has this state vector lacks; all for an empty one.
    pub async fn encode(&self, vector: &[u8]) -> Result<Vec<u8>, Unfit> {
        self.held.lock().await.prose.encode(vector)
    }

    /// Its state vector.
    pub async fn vector(&self) -> Vec<u8> {
        self.held.lock().await.prose.vector()
    }

    /// Whether an update brings nothing new.
    pub async fn holds(&self, update: &[u8]) -> bool {
        self.held.lock().await.prose.has(update)
    }

    /// Reads it once the edits made here have come back; with the mark that it has there.
    pub async fn read<T>(
        &self,
        reading: impl FnOnce(&Prose) -> Result<T, Unfit>,
    ) -> Result<(T, Option<Text>), Problem> {
        let held = self.settled_held().await?;
        let read = reading(&held.prose).map_err(|unfit| unread(&unfit))?;
        Ok((read, held.mark.clone()))
    }

    /// Makes the updates of an editor an op, as far as they bring anything.
    pub async fn take(&self, updates: &[Vec<u8>]) -> Result<Edition, Refusal> {
        let mut held = self.held.lock().await;
        if !held.prose.has_room(updates.iter().map(Vec::len).sum()) {
            return Err(Unfit::TooLarge.into());
        }
        let new = match held.prose.take(updates) {
            Ok(new) => new,
            Err(Unfit::Broken) => {
                self.renew(&mut held).await?;
                return Err(Unfit::Broken.into());
            }
            Err(unfit) => return Err(unfit.into()),
        };
        let Some(update) = new else { return Ok(None) };
        self.hand_in(&mut held, update, Vec::new()).await.map(Some)
    }

    /// Edits it, if it is in this version or none is named.
    pub async fn edit(
        &self,
        guards: Vec<Guard<'static>>,
        delta: impl FnOnce(&Prose) -> Result<Vec<Step>, Unfit>,
    ) -> Result<Edition, Refusal> {
        let mut held = self.settled_held().await?;
        let version = held.mark.as_ref().map(|mark| Version::of(mark.as_str()));
        let fails = |guard: &Guard<'_>| match guard {
            Guard::Exists(_) => version.is_none(),
            Guard::Absent(_) => version.is_some(),
            Guard::Version(_, named) => version != Some(*named),
        };
        if guards.iter().any(fails) {
            let text = held.prose.plain()?;
            return Err(Refusal::Changed(version.map(|version| version.to_string()), text));
        }
        let steps = delta(&held.prose)?;
        let written = steps.iter().map(|step| match step {
            Step::Insert(text, _) => text.len(),
            _ => 0,
        });
        if !held.prose.has_room(written.sum()) {
            return Err(Unfit::TooLarge.into());
        }
        let update = match held.prose.edit(fastrand::u32(1..), &steps) {
            Err(Unfit::Broken) => {
                self.renew(&mut held).await?;
                return Err(Unfit::Broken.into());
            }
            update => update?,
        };
        // An edit of a text that is not there creates it, even an empty one.
        let update = match update {
            Some(update) => update,
            None if held.mark.is_none() => vec![0, 0],
            None => return Ok(None),
        };
        let creates = guards.into_iter().filter(|guard| matches!(guard, Guard::Absent(_)));
        self.hand_in(&mut held, update, creates.collect()).await.map(Some)
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
        let answered = self.node.hand_in(Client::of(&self.doc), draft).await.map_err(Problem::from)?;
        held.under_way += 1;
        held.used = Instant::now();
        Ok(answered)
    }

    /// An edit that was handed in was refused: what holds it is not the text.
    pub async fn on_refused(&self) {
        if self.look_again().await.is_err() {
            let _ = self.news.send(News::Gone);
        }
    }

    async fn settled_held(&self) -> Result<MutexGuard<'_, Held>, Problem> {
        let wait = async {
            loop {
                let settled = self.settled.notified();
                let mut held = self.held.lock().await;
                held.used = Instant::now();
                if held.under_way == 0 {
                    return held;
                }
                drop(held);
                settled.await;
            }
        };
        timeout(SETTLE, wait).await.map_err(|_| Problem::from(Refused::NotReady))
    }

    async fn take_from(&self, entries: Vec<(u64, Vec<Op>)>, end: u64) -> Result<(), Problem> {
        let from = self.held.lock().await.place;
        let unseen = entries.into_iter().filter(|(place, _)| *place >= from).map(|(_, ops)| ops).collect();
        self.take_all(unseen, end).await
    }

    /// Takes what came to it, up to a place in the ring.
    async fn take_all(&self, entries: Vec<Vec<Op>>, end: u64) -> Result<(), Problem> {
        let mut held = self.held.lock().await;
        if held.place >= end {
            return Ok(());
        }
        held.place = end;
        for ops in entries {
            if ops.is_empty() {
                return self.renew(&mut held).await;
            }
            for op in ops {
                held.mark = Some(marked(held.mark.as_ref(), &op));
                let updates = updates_of(&op, &self.doc);
                if held.prose.absorb(updates.iter().map(|update| &**update)).is_none() {
                    return self.renew(&mut held).await;
                }
                if op.origin() == self.node.id() {
                    held.under_way = held.under_way.saturating_sub(1);
                }
                for update in updates {
                    // Nobody may be editing.
                    let _ = self.news.send(News::Update(update.into()));
                }
            }
        }
        drop(held);
        self.settled.notify_waiters();
        Ok(())
    }

    async fn look_again(&self) -> Result<(), Problem> {
        let mut held = self.held.lock().await;
        self.renew(&mut held).await
    }

    /// Works it out anew. If that holds all that was there before, its editors go on; else what they edit is gone.
    async fn renew(&self, held: &mut Held) -> Result<(), Problem> {
        let (before, clocks) = (held.prose.vector(), held.prose.clocks().clone());
        let (was_there, under_way) = (held.mark.is_some(), held.under_way > 0);
        let loaded = load(&self.node, &self.doc).await;
        self.settled.notify_waiters();
        match loaded {
            Ok(loaded) => *held = loaded,
            Err(problem) => {
                held.under_way = 0;
                let _ = self.news.send(News::Gone);
                return Err(problem);
            }
        }
        // What is under way is not in it yet.
        let goes_on = (under_way || held.prose.holds(&clocks)) && (held.mark.is_some() || !was_there);
        let told = match held.prose.encode(&before) {
            Ok(update) if goes_on => News::Update(update.into()),
            _ => News::Gone,
        };
        let _ = self.news.send(told);
        Ok(())
    }
}

impl Problem {
    /// 409 for a document that is JSON.
    pub fn not_a_text(collection: &str, id: &str) -> Problem {
        let detail = format!(
            "{collection}/{id} is a JSON document, not a text: delete it first, PUT it as text/plain, or choose another id"
        );
        Problem::new(StatusCode::CONFLICT, "not-a-text", detail)
    }

    /// 500 for a text whose updates the library cannot read.
    pub fn unreadable_text() -> Problem {
        let detail =
            "this text cannot be worked out from its updates: GET …/history shows them, PUT it anew as text/plain";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable-text", detail)
    }
}

/// Whether something is a text for this node, for handlers that treat both kinds.
pub async fn is_text(api: &Api, doc: &DocKey<'static>) -> Result<Option<bool>, Problem> {
    let doc = doc.clone();
    let look = api.read(move |replica| replica.state().text(&doc.collection, &doc.id).map(is_prose));
    look.await
}

impl From<Stopped> for Refusal {
    fn from(stopped: Stopped) -> Refusal {
        Refusal::Problem(stopped.into())
    }
}

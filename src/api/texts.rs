//! The texts that are read or edited here now, each worked out once for all who do.
//!
//! A text document is a set of updates in the fold; what they come to is kept here, beside the node's task, while
//! somebody asks for it. One task follows the ring of edits and hands on what came to which text; each text takes it by
//! itself, so that one of much work holds up no other. What the texts take of memory is estimated and bounded, in all
//! and for each client.

use std::{
    collections::{HashMap, HashSet},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Api, Problem, check_ready,
    error::RETRY_AFTER,
    live_text::{Held, Live},
    rates::Caller,
    refusals::Refusals,
    text_docs::unread,
    workers::{Turn, Workers},
};
use crate::{
    document::{
        Edited,
        prose::{Allowance, Prose, Source, Unfit, is_prose},
    },
    node::{CpuTime, Node, Published, Stopped},
    op::DocKey,
    replica::{Refused, Replica},
};

/// So many texts that nobody uses are kept, and so long: a text that is read again soon is not worked out again.
const IDLE_MAX: usize = 64;
const IDLE: Duration = Duration::from_secs(60);
/// Most edits that one look at the node takes.
const LOOK_MAX: usize = 1_000;
/// How long a reader waits until the edits made here have come back from the log.
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// The part of the ceiling of memory that texts may take, one in so many, and of that the part of one client.
const MEMORY_PART: usize = 8;
const CALLER_PART: usize = 4;
/// The ceiling of a node that has none.
const MEMORY_USUAL: usize = 2 << 30;
/// What takes longer beyond the usual is done in the line of slow work.
pub(super) const SLOW: Duration = Duration::from_millis(100);
/// Most texts that are known to take too much work.
const COSTLY_MAX: usize = 1_024;

/// The texts that are worked out here.
pub struct Texts {
    node: Node,
    live: Mutex<HashMap<DocKey<'static>, Slot>>,
    /// Up to where in the ring of edits they have been told.
    followed: watch::Sender<u64>,
    turns: Turns,
    /// Texts that take too much work to work out, with the marks at which they do: they are not tried again until they change.
    costly: Mutex<HashSet<(DocKey<'static>, String)>>,
    refusals: Refusals,
}

/// Threads for the work on texts: clients take turns, and what is done for all who use a text has threads of its own, for it is
/// done while that text is locked. What may take seconds waits in another line than what takes a part of one, so that nobody waits
/// long for a usual text.
#[derive(Clone)]
pub(super) struct Turns {
    usual: Workers,
    slow: Workers,
    own: Arc<Semaphore>,
    own_slow: Arc<Semaphore>,
}

struct Slot {
    live: Arc<Live>,
    /// How often each client uses it now.
    users: HashMap<Caller, usize>,
}

/// A text that a client uses.
pub struct Opened {
    texts: Arc<Texts>,
    live: Arc<Live>,
    caller: Caller,
}

impl Deref for Opened {
    type Target = Arc<Live>;

    fn deref(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.texts.leave(self);
    }
}

impl Turns {
    fn new() -> Turns {
        let one = || Arc::new(Semaphore::new(1));
        Turns { usual: Workers::default(), slow: Workers::new(1), own: one(), own_slow: one() }
    }

    /// The use of a thread by a client, for a text that takes long or not.
    pub(super) async fn thread(&self, caller: &Caller, is_slow: bool) -> Result<Turn, Problem> {
        if is_slow { self.slow.thread(caller).await } else { self.usual.thread(caller).await }
    }

    /// Does work on a thread, in the turn of a client, or in one of the node's own.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        caller: Option<&Caller>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        if let Some(caller) = caller {
            return self.usual.run(caller, work).await;
        }
        run_alone(&self.own, work).await
    }

    /// The same for work that may take seconds.
    pub(super) async fn run_slowly<T: Send + 'static>(
        &self,
        caller: Option<&Caller>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        if let Some(caller) = caller {
            return self.slow.run(caller, work).await;
        }
        run_alone(&self.own_slow, work).await
    }
}

/// Does work of the node's own, one piece after the other.
async fn run_alone<T: Send + 'static>(
    line: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let turn = Arc::clone(line).acquire_owned().await.map_err(|_| Stopped)?;
    let done = spawn_blocking(move || {
        let value = work();
        drop(turn);
        value
    });
    Ok(done.await.map_err(|_| Stopped)?)
}

impl Texts {
    /// For a node; must be called within a runtime.
    pub fn new(node: Node) -> Arc<Texts> {
        let texts = Arc::new(Texts {
            node: node.clone(),
            live: Mutex::default(),
            followed: watch::Sender::new(0),
            turns: Turns::new(),
            costly: Mutex::default(),
            refusals: Refusals::default(),
        });
        tokio::spawn(follow(Arc::downgrade(&texts), node.published(), node));
        texts
    }

    /// A text, worked out, for a client; one that does not exist is empty, and begins with its first edit. 409 for a
    /// document that is none.
    pub async fn open(self: &Arc<Self>, doc: &DocKey<'static>, caller: &Caller) -> Result<Opened, Problem> {
        if let Some(opened) = self.enter(doc, caller, None)? {
            return Ok(opened);
        }
        let held = self.load(doc, Some(caller)).await?;
        let live = Arc::new(Live::new(doc.clone(), self, held));
        // What came since it was loaded it looks up itself, for the follower may have passed it over.
        let opened = self.enter(doc, caller, Some(live))?;
        opened.ok_or_else(|| Stopped.into())
    }

    /// How many are worked out.
    pub fn count(&self) -> usize {
        self.locked().len()
    }

    /// Waits until all texts here have been told of what came up to a place in the node's ring of edits. Each takes it
    /// in before anything else is done with it.
    pub async fn reach(&self, place: u64) {
        let mut followed = self.followed.subscribe();
        // If the follower has ended, so has the node.
        let _ = timeout(SETTLE, followed.wait_for(|followed| *followed >= place)).await;
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// The editors that were refused lately.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Up to where in the ring of edits texts have been told.
    pub(super) fn followed(&self) -> u64 {
        *self.followed.borrow()
    }

    /// Lets go of a text that cannot be read now: whoever asks next works it out again.
    pub(super) fn remove(&self, live: &Live) {
        let mut all = self.locked();
        if all.get(live.doc()).is_some_and(|slot| std::ptr::eq(&raw const *slot.live, live)) {
            all.remove(live.doc());
        }
    }

    /// Uses a text that is here, or `new` if none is.
    fn enter(
        self: &Arc<Self>,
        doc: &DocKey<'static>,
        caller: &Caller,
        new: Option<Arc<Live>>,
    ) -> Result<Option<Opened>, Problem> {
        let mut all = self.locked();
        let uses_it = all.get(doc).is_some_and(|slot| slot.users.contains_key(caller));
        if !uses_it {
            self.check_memory(&all, caller)?;
        }
        let live = match (all.get_mut(doc), new) {
            (Some(slot), _) => Arc::clone(&slot.live),
            (None, Some(live)) => {
                all.insert(doc.clone(), Slot { live: Arc::clone(&live), users: HashMap::new() });
                live
            }
            (None, None) => return Ok(None),
        };
        if let Some(slot) = all.get_mut(doc) {
            *slot.users.entry(caller.clone()).or_default() += 1;
        }
        drop(all);
        self.drop_idle();
        Ok(Some(Opened { texts: Arc::clone(self), live, caller: caller.clone() }))
    }

    fn leave(&self, opened: &Opened) {
        let mut all = self.locked();
        // Another may have come in its place since, which this client uses as well.
        let slot = all.get_mut(opened.live.doc()).filter(|slot| Arc::ptr_eq(&slot.live, &opened.live));
        if let Some(slot) = slot
            && let Some(uses) = slot.users.get_mut(&opened.caller)
        {
            *uses -= 1;
            if *uses == 0 {
                slot.users.remove(&opened.caller);
            }
        }
        let surplus = all.values().map(|slot| slot.live.size()).sum::<usize>() > self.memory_max();
        drop(all);
        if surplus {
            self.drop_idle();
        }
    }

    /// Refuses one more text to a client while those in use take as much memory as they may. A client that uses none is
    /// let in up to the bound of all, so that none is too large for its share.
    fn check_memory(&self, all: &HashMap<DocKey<'static>, Slot>, caller: &Caller) -> Result<(), Problem> {
        let max = self.memory_max();
        let of = |slots: &mut dyn Iterator<Item = &Slot>| slots.map(|slot| slot.live.size()).sum::<usize>();
        let in_use = of(&mut all.values().filter(|slot| !slot.users.is_empty()));
        let by_caller = of(&mut all.values().filter(|slot| slot.users.contains_key(caller)));
        if in_use < max && by_caller < max / CALLER_PART {
            return Ok(());
        }
        let whose = if in_use < max { "that you use" } else { "that clients use" };
        let detail = format!(
            "the texts {whose} take as much memory of this node as they may: close some of them, or ask another node of the pool"
        );
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).with(RETRY_AFTER, 1))
    }

    fn memory_max(&self) -> usize {
        let ceiling = match self.node.meters().memory_max_bytes.read() {
            0 => MEMORY_USUAL,
            ceiling => usize::try_from(ceiling).unwrap_or(usize::MAX),
        };
        ceiling / MEMORY_PART
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<DocKey<'static>, Slot>> {
        // Nothing panics while it is held.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of texts that nobody uses, beyond some that were used lately, or if all together take too much memory.
    fn drop_idle(&self) {
        let max = self.memory_max();
        let mut all = self.locked();
        let mut size: usize = all.values().map(|slot| slot.live.size()).sum();
        let idle = all.iter().filter(|(_, slot)| slot.users.is_empty());
        let mut idle: Vec<_> = idle.map(|(doc, slot)| (slot.live.used(), doc.clone(), slot.live.size())).collect();
        idle.sort_by_key(|(used, ..)| *used);
        let surplus = idle.len().saturating_sub(IDLE_MAX);
        for (at, (used, doc, bytes)) in idle.into_iter().enumerate() {
            if at < surplus || size > max || used.elapsed() >= IDLE {
                all.remove(&doc);
                size -= bytes;
            }
        }
    }

    /// Hands on what was found in the ring of edits from a place on; none if some of it is gone.
    fn tell(&self, place: u64, found: Option<Vec<Edited>>) {
        let all = self.locked();
        let Some(found) = found else {
            all.values().for_each(|slot| slot.live.miss());
            return;
        };
        for (at, Edited { collection, id, ops }) in (place..).zip(found) {
            if let Some(slot) = all.get(&DocKey::new(collection.to_string(), id.to_string())) {
                slot.live.tell(at, ops);
            }
        }
    }

    /// Works a text out.
    pub(super) async fn load(&self, doc: &DocKey<'static>, caller: Option<&Caller>) -> Result<Held, Problem> {
        let asked = doc.clone();
        let look = self.node.read(move |replica, _| {
            check_ready(replica.standing())?;
            let state = replica.state();
            let found = state.text(&asked.collection, &asked.id).is_some();
            Ok::<_, Refused>((found, state.source(&asked.collection, &asked.id), state.edits().end()))
        });
        let (exists, source, place) = look.await??;
        let Some(source) = source else {
            if exists {
                return Err(Problem::not_a_text(&doc.collection, &doc.id));
            }
            return Ok(Held::new(Prose::default(), None, place, Duration::ZERO));
        };
        let mark = source.mark.clone();
        let worked_out = self.work_out(doc, source, caller).await?;
        let (prose, excess) = worked_out.map_err(|unfit| unread(&unfit))?;
        Ok(Held::new(prose, Some(mark), place, excess))
    }

    /// Works a text out. Returns it, and the time that it took beyond the usual for its parts. A text that is known to take too
    /// much is not tried.
    async fn work_out(
        &self,
        doc: &DocKey<'static>,
        source: Source,
        caller: Option<&Caller>,
    ) -> Result<Result<(Prose, Duration), Unfit>, Problem> {
        let known = (doc.clone(), source.mark.as_str().to_string());
        if self.known_costly().contains(&known) {
            return Ok(Err(Unfit::Exhausted));
        }
        let worked_out = self.try_out(doc, source, caller).await?;
        if worked_out.as_ref().is_err_and(|unfit| *unfit == Unfit::Exhausted) {
            let mut costly = self.known_costly();
            if costly.len() >= COSTLY_MAX {
                costly.clear();
            }
            costly.insert(known);
        }
        Ok(worked_out)
    }

    async fn try_out(
        &self,
        doc: &DocKey<'static>,
        source: Source,
        caller: Option<&Caller>,
    ) -> Result<Result<(Prose, Duration), Unfit>, Problem> {
        let source = Arc::new((doc.clone(), source));
        let work = |within: fn() -> CpuTime| {
            let source = Arc::clone(&source);
            move || {
                let (mut allowance, (doc, source)) = (within(), &*source);
                let prose = source.prose_within(doc, &mut allowance)?;
                Ok((prose, allowance.excess()))
            }
        };
        match self.turns.run(caller, work(CpuTime::short)).await? {
            Err(Unfit::Exhausted) => self.turns.run_slowly(caller, work(CpuTime::for_text)).await,
            worked_out => Ok(worked_out),
        }
    }

    /// Reads a text as it was, from what it was made of.
    pub async fn read_source<T: Send + 'static>(
        &self,
        (doc, source): (&DocKey<'static>, Source),
        caller: &Caller,
        reading: impl FnOnce(&Prose, &mut dyn Allowance) -> Result<T, Unfit> + Send + 'static,
    ) -> Result<T, Problem> {
        let worked_out = self.work_out(doc, source, Some(caller)).await?;
        let (prose, excess) = worked_out.map_err(|unfit| unread(&unfit))?;
        let work = move || reading(&prose, &mut CpuTime::for_text());
        let read = if excess > SLOW {
            self.turns.run_slowly(Some(caller), work).await?
        } else {
            self.turns.run(Some(caller), work).await?
        };
        read.map_err(|unfit| unread(&unfit))
    }

    fn known_costly(&self) -> MutexGuard<'_, HashSet<(DocKey<'static>, String)>> {
        self.costly.lock().unwrap_or_else(PoisonError::into_inner)
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
        texts.tell(place, found);
        place = reached;
        texts.followed.send_replace(reached);
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

    /// 500 for a text whose updates the library cannot read, or not in the time that a text has.
    pub fn unreadable_text() -> Problem {
        let detail = "this text takes too much work to read, or cannot be read: PUT it as text/plain to begin it again, or DELETE it; \
                      GET …/history shows its edits";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "unreadable-text", detail)
    }
}

/// Whether something is a text for this node, for handlers that treat both kinds.
pub async fn is_text(api: &Api, doc: &DocKey<'static>) -> Result<Option<bool>, Problem> {
    let doc = doc.clone();
    let look = api.read(move |replica| replica.state().text(&doc.collection, &doc.id).map(is_prose));
    look.await
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        document::prose::{Updates, marked},
        node::Tcp,
        op::{Body, Command, Edit, NodeId, Op, OpId},
        replica::Config,
    };

    fn number(update: &mut Vec<u8>, mut number: usize) {
        while number >= 0x80 {
            update.push(number as u8 | 0x80);
            number >>= 7;
        }
        update.push(number as u8);
    }

    /// Two updates: a run of characters of client 1, and as many of client 2 after its first. Each of these is placed by a walk over
    /// those before it.
    fn crowd(count: usize) -> [Vec<u8>; 2] {
        let (mut run, mut crowd) = (vec![1, 1, 1, 0, 4, 1, 4], vec![1]);
        run.extend(b"text");
        number(&mut run, count + 3);
        run.extend(std::iter::repeat_n(b'x', count + 3));
        run.push(0);
        [count, 2, 0].into_iter().for_each(|value| number(&mut crowd, value));
        for at in 0..count {
            crowd.extend([0xc4, 1, 0, 1]);
            number(&mut crowd, at + 2);
            crowd.extend([1, b'y']);
        }
        crowd.push(0);
        [run, crowd]
    }

    fn source(doc: &DocKey<'static>, updates: impl IntoIterator<Item = Vec<u8>>) -> Source {
        let edit = |update: Vec<u8>| Command::Text(doc.clone(), Edit { creates: true, update: update.into() });
        let commands = updates.into_iter().map(edit).collect();
        let body = Body { wall_ms: 0, seen: vec![], key: None, guards: vec![], commands };
        let id = OpId { origin: NodeId(uuid::Uuid::from_u128(1)), seq: 1 };
        let op = Op::encode(id, 1, &body).unwrap();
        Source { mark: marked(None, &op), base: Updates::default(), ops: vec![op] }
    }

    #[tokio::test]
    async fn a_text_of_a_time_past_that_takes_too_much_work_is_not_tried_again() {
        let api =
            Api::new(Node::start(Config::founder(NodeId(uuid::Uuid::new_v4()), 7), Tcp), CancellationToken::new());
        let (doc, texts) = (DocKey::new("notes", "x"), &api.texts);
        let read = |source| texts.read_source((&doc, source), &Caller::Other, |prose, _| prose.plain());
        let light = source(&doc, [crowd(3)[0].clone()]);
        assert_eq!(read(light.clone()).await.unwrap(), "xxxxxx");
        let costly = source(&doc, crowd(20_000));
        assert!(read(costly.clone()).await.is_err_and(|problem| problem.is("unreadable-text")));
        let known = (doc.clone(), costly.mark.as_str().to_string());
        assert!(texts.known_costly().contains(&known), "it is known from now on");
        // What is known is not worked out: not even what would take no work.
        texts.known_costly().insert((doc.clone(), light.mark.as_str().to_string()));
        assert!(read(light).await.is_err_and(|problem| problem.is("unreadable-text")));
    }
}

//! What the core alone can do: apply in order, merge shuffled batches, forget, and the memory of a document.
//!
//! Prints figures, asserts none. `cargo bench --bench core [apply|memory|forget]`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use lamplight::{
    document::State,
    op::{Body, Command, DocKey, Head, NodeId, Op, OpId},
    replica::{Config, Draft, Event, LinkId, Log, Now, Replica, Retention},
    wire::{Hello, Message},
};
use uuid::Uuid;

/// Counts the bytes that are allocated, as the allocator was asked for them.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only a counter is kept beside it.
#[expect(unsafe_code, reason = "an allocator cannot be written without it, and this one only counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const OPS: usize = 1_000_000;
const DOCUMENTS: usize = 10_000;
const ORIGINS: u128 = 3;

fn main() {
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let value = format!("{{\"n\":1,\"text\":\"{}\"}}", "x".repeat(80));
    if wanted("apply") {
        apply(&value);
    }
    if wanted("memory") {
        memory(&value);
    }
    if wanted("forget") {
        forgetting(&value);
    }
}

fn apply(value: &str) {
    let puts = ops(OPS, |n| Command::Put(key(n % DOCUMENTS), value.into()));
    in_order("apply in order, puts", &puts, 1);
    in_order("apply in order, puts, batches of 1000", &puts, 1000);
    shuffled("shuffled, puts, batches of 1000", &puts, 1000);
    let mixed = ops(OPS, |n| match n % 4 {
        0 => Command::Put(key(n % DOCUMENTS), value.into()),
        1 | 2 => Command::Merge(key(n % DOCUMENTS), format!("{{\"n\":{n}}}").into()),
        _ => Command::Delete(key(n % DOCUMENTS)),
    });
    in_order("apply in order, mixed", &mixed, 1);
    shuffled("shuffled, mixed, batches of 1000", &mixed, 1000);
    shuffled("shuffled, mixed, batches of 10000", &mixed, 10_000);
    let merges = ops(OPS, |n| Command::Merge(key(n % DOCUMENTS), format!("{{\"n\":{n}}}").into()));
    in_order("apply in order, merges", &merges, 1);
    shuffled("shuffled, merges, batches of 10000", &merges, 10_000);
}

/// Ops with rising times, from three origins in turn.
fn ops<'a>(count: usize, command: impl Fn(usize) -> Command<'a>) -> Vec<Op> {
    let mut seqs = [0; ORIGINS as usize];
    (0..count)
        .map(|n| {
            let origin = n % seqs.len();
            seqs[origin] += 1;
            let id = OpId { origin: NodeId(Uuid::from_u128(origin as u128 + 1)), seq: seqs[origin] };
            let body = Body { wall_ms: 0, seen: vec![], key: None, guards: vec![], commands: vec![command(n)] };
            Op::encode(id, n as u64 + 1, &body).expect("a valid op")
        })
        .collect()
}

fn key(n: usize) -> DocKey<'static> {
    DocKey::new("bench", format!("document-{n}"))
}

fn in_order(what: &str, ops: &[Op], batch: usize) {
    let mut state = State::default();
    let mut log = Log::default();
    let start = Instant::now();
    for batch in ops.chunks(batch) {
        for op in batch {
            let head: Head = log.head(op.origin()).extended(op);
            log.append(op.clone(), head);
        }
        state.insert(batch);
    }
    report(what, ops.len(), start.elapsed());
    black_box(state);
}

fn shuffled(what: &str, ops: &[Op], batch: usize) {
    let mut order = ops.to_vec();
    fastrand::Rng::with_seed(7).shuffle(&mut order);
    let mut state = State::default();
    let start = Instant::now();
    order.chunks(batch).for_each(|batch| state.insert(batch));
    report(what, ops.len(), start.elapsed());
    println!("    {:?}", state.work());
}

fn memory(value: &str) {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut state = State::default();
    let mut log = Log::default();
    for op in ops(OPS, |n| Command::Put(key(n), value.into())) {
        let head = log.head(op.origin()).extended(&op);
        state.insert(std::slice::from_ref(&op));
        log.append(op, head);
    }
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
    println!("memory a document of {} bytes, all ops in the log: {} bytes", value.len(), bytes / OPS);
    drop(black_box((state, log)));
    for (what, retention) in [("default retention", Retention::default()), ("nothing retained", NOTHING)] {
        let before = ALLOCATED.load(Ordering::Relaxed);
        let mut lone = Lone::new(retention);
        (0..OPS).for_each(|n| lone.put(n, value));
        lone.settle();
        let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
        let kept = lone.replica.log().kept().0;
        println!("memory a document, all final, {what}: {} bytes, {kept} ops in the log", bytes / OPS);
    }
    held_back(value);
}

/// A member that was stopped: nothing becomes final, so nothing is forgotten.
fn held_back(value: &str) {
    let mut lone = Lone::new(NOTHING);
    (0..DOCUMENTS).for_each(|n| lone.put(n, value));
    lone.settle();
    lone.admit();
    for (what, ops) in [("the first", OPS / 10), ("the next", OPS / 2), ("the last", OPS / 2)] {
        let (before, kept) = (ALLOCATED.load(Ordering::Relaxed), lone.replica.log().kept().0);
        (0..ops).for_each(|n| lone.put(n % DOCUMENTS, value));
        lone.settle();
        let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
        let kept = lone.replica.log().kept().0 - kept;
        println!("memory while finality is held back: {} bytes a tentative op, {what} {kept}", bytes / kept);
    }
}

/// What it costs that ops are forgotten: the same puts with all ops retained, and with none.
fn forgetting(value: &str) {
    for round in 1..=3 {
        let rate = |retention: Retention| {
            let mut lone = Lone::new(retention);
            let start = Instant::now();
            (0..OPS).for_each(|n| lone.put(n % DOCUMENTS, value));
            OPS as f64 / start.elapsed().as_secs_f64()
        };
        let (all, none) = (rate(Retention { ops: usize::MAX, bytes: usize::MAX }), rate(NOTHING));
        println!(
            "issue in order, round {round}: all ops retained {all:.0} ops/s, none {none:.0}, ratio {:.2}",
            none / all
        );
    }
}

const NOTHING: Retention = Retention { ops: 0, bytes: 0 };

/// A replica that founds a pool of its own, with a tick every so many ops.
struct Lone {
    replica: Replica,
    now: Now,
    issued: usize,
}

/// As many ops as a busy node takes between two ticks.
const OPS_A_TICK: usize = 5_000;

impl Lone {
    fn new(retention: Retention) -> Lone {
        let config = Config { retention, ..Config::founder(NodeId(Uuid::from_u128(1)), 7) };
        let mut lone = Lone { replica: Replica::new(config), now: Now::default(), issued: 0 };
        lone.tick();
        lone
    }

    fn tick(&mut self) {
        self.now.mono_ms += 100;
        black_box(self.replica.handle(self.now, Event::Tick));
    }

    fn put(&mut self, n: usize, value: &str) {
        let commands = vec![Command::Put(key(n), value.to_string().into())];
        let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
        black_box(self.replica.handle(self.now, Event::Submit(0, draft)));
        self.issued += 1;
        if self.issued.is_multiple_of(OPS_A_TICK) {
            self.tick();
        }
    }

    /// Lets it forget what it may.
    fn settle(&mut self) {
        (0..300).for_each(|_| self.tick());
    }

    /// Makes another node a member, of which nothing is heard any more.
    fn admit(&mut self) {
        let link = LinkId(1);
        let hello = Hello::newcomer(NodeId(Uuid::from_u128(2)), "stopped", self.replica.pool().cloned());
        let heads = self.replica.log().heads().collect();
        for event in [
            Event::Opened(link, None, None),
            Event::Heard(link, Message::Hello(hello)),
            Event::Heard(link, Message::Heads(heads)),
            Event::Closed(link),
        ] {
            black_box(self.replica.handle(self.now, event));
        }
        assert_eq!(self.replica.roster().present().count(), 2, "it was let in");
    }
}

fn report(what: &str, ops: usize, elapsed: Duration) {
    println!("{what}: {:.0} ops/s", ops as f64 / elapsed.as_secs_f64());
}

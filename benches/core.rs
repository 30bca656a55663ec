//! What the core alone can do: apply in order, merge shuffled batches, and the memory of a document.
//!
//! Prints figures, asserts none. `cargo bench --bench core`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use lamplight::{
    document::State,
    op::{Body, Command, DocKey, Head, NodeId, Op, OpId},
    replica::Log,
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
    let value = format!("{{\"n\":1,\"text\":\"{}\"}}", "x".repeat(80));
    let puts = ops(OPS, |n| Command::Put(key(n % DOCUMENTS), value.as_str().into()));
    in_order("apply in order, puts", &puts, 1);
    in_order("apply in order, puts, batches of 1000", &puts, 1000);
    shuffled("shuffled, puts, batches of 1000", &puts, 1000);
    let mixed = ops(OPS, |n| match n % 4 {
        0 => Command::Put(key(n % DOCUMENTS), value.as_str().into()),
        1 | 2 => Command::Merge(key(n % DOCUMENTS), format!("{{\"n\":{n}}}").into()),
        _ => Command::Delete(key(n % DOCUMENTS)),
    });
    in_order("apply in order, mixed", &mixed, 1);
    shuffled("shuffled, mixed, batches of 1000", &mixed, 1000);
    shuffled("shuffled, mixed, batches of 10000", &mixed, 10_000);
    let merges = ops(OPS, |n| Command::Merge(key(n % DOCUMENTS), format!("{{\"n\":{n}}}").into()));
    in_order("apply in order, merges", &merges, 1);
    shuffled("shuffled, merges, batches of 10000", &merges, 10_000);
    drop((puts, mixed, merges));
    memory(&value);
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
    println!("memory a document of {} bytes, log included: {} bytes", value.len(), bytes / OPS);
    black_box((state, log));
}

fn report(what: &str, ops: usize, elapsed: Duration) {
    println!("{what}: {:.0} ops/s", ops as f64 / elapsed.as_secs_f64());
}

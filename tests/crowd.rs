//! Ten thousand idle clients, two hundred readers that do not read, and clients that never finish their requests, on one
//! node while others work. What it costs those is printed, and in benches/README.md.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

#[path = "support/crowd.rs"]
mod crowd;
#[path = "support/processes.rs"]
mod processes;

use std::time::Duration;

use crowd::{Figures, Size, Times};

/// Most memory that an idle client with a subscription may take.
const IDLE_BYTES_MAX: u64 = 24 << 10;
/// Most memory that a reader who does not read may take, however much it does not read.
const SLOW_BYTES_MAX: u64 = 1 << 20;
/// What the node may need of its own for the writes, beside the documents: the ring of changes, the log, buffers.
const BESIDE_BYTES_MAX: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_costs_what_it_may_and_keeps_nobody_from_working() {
    let size = Size {
        idle: 10_000,
        slow: 200,
        half: 100,
        writers: 8,
        writes: 100,
        bytes: 16 << 10,
        pace: Duration::ZERO,
        touched: 0,
    };
    let Figures { quiet, crowded, idle_bytes, busy_bytes, written_bytes } = crowd::run(size).await;
    for (part, times) in [("quiet", &quiet), ("crowded", &crowded)] {
        let [receipts, changes] =
            [&times.receipts, &times.changes].map(|times| (Times::at(times, 50), Times::at(times, 99)));
        println!("{part}: p50 and p99 in ms, to the receipt {receipts:.2?}, to the change {changes:.2?}");
    }
    println!(
        "{idle_bytes} bytes an idle client; {busy_bytes} bytes for slow readers and {written_bytes} bytes of documents"
    );
    assert!(idle_bytes <= IDLE_BYTES_MAX, "{idle_bytes} bytes a client");
    let bound = size.slow as u64 * SLOW_BYTES_MAX + 2 * written_bytes + BESIDE_BYTES_MAX;
    assert!(busy_bytes <= bound, "{busy_bytes} of {bound} bytes");
}

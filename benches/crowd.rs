//! What ten thousand idle clients and two hundred readers that do not read cost those who write.
//!
//! `cargo bench --bench crowd` prints it; nothing is asserted of the times. With a word it runs those whose name has it.

#[path = "../tests/support/crowd.rs"]
mod crowd;
#[path = "../tests/support/processes.rs"]
mod processes;

use std::time::Duration;

use crowd::{Figures, Size, Times};

#[tokio::main]
async fn main() {
    // Eight writers at a rate that leaves the machine some air, else it is the processor that is measured; and as fast as it goes.
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let (paced, at_once) = (Duration::from_millis(20), Duration::ZERO);
    for (what, slow, bytes, writes, pace) in [
        ("idle clients only, 400 writes a second", 0, 100, 500, paced),
        ("with 200 slow readers, 400 writes a second", 200, 100, 500, paced),
        ("idle clients only, as fast as it goes", 0, 100, 2_000, at_once),
        ("with 200 slow readers, as fast as it goes", 200, 100, 2_000, at_once),
        ("idle clients only, documents of 16 KiB", 0, 16 << 10, 1_000, at_once),
        ("with 200 slow readers, documents of 16 KiB", 200, 16 << 10, 1_000, at_once),
    ] {
        if !what.contains(&only) {
            continue;
        }
        let size = Size { idle: 10_000, slow, half: 100, writers: 8, writes, bytes, pace, touched: 1 << 30 };
        let Figures { quiet, crowded, idle_bytes, busy_bytes, .. } = crowd::run(size).await;
        println!("{what}: {idle_bytes} bytes an idle client, {} MiB for the writes and slow readers", busy_bytes >> 20);
        for (to, quiet, crowded) in
            [("receipt", &quiet.receipts, &crowded.receipts), ("change", &quiet.changes, &crowded.changes)]
        {
            let [before, after] = [quiet, crowded].map(|times| [50, 99].map(|percent| Times::at(times, percent)));
            let ratio = after[1] / before[1];
            println!(
                "  write to {to}: p50 and p99 {before:.2?} ms quiet, {after:.2?} ms crowded; p99 {ratio:.1} times"
            );
        }
    }
}

//! What ten thousand idle clients and two hundred readers that do not read cost those who write.
//!
//! `cargo bench --bench crowd` prints it; nothing is asserted of the times.

#[path = "../tests/support/crowd.rs"]
mod crowd;
#[path = "../tests/support/processes.rs"]
mod processes;

use crowd::{Figures, Size, Times};

#[tokio::main]
async fn main() {
    for (what, slow, bytes) in
        [("idle clients only", 0, 100), ("with 200 slow readers", 200, 100), ("documents of 16 KiB", 200, 16 << 10)]
    {
        let size = Size { idle: 10_000, slow, half: 100, writers: 8, writes: 2_000, bytes };
        let size = if bytes > 100 { Size { writes: 200, ..size } } else { size };
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

//! What the thread that writes a journal counts.

use crate::meter::{Counter, Gauge, Histogram};

/// Bounds of the times of a sync, in microseconds: from a disk with a cache of its own to one that is about to fail.
const SYNC_BOUNDS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000];

/// What a journal has counted since it was opened.
#[derive(Debug)]
pub struct Meters {
    /// How long each sync of records took.
    pub syncs: Histogram,
    /// Bytes that were written to segments.
    pub written_bytes: Counter,
    /// Segments that hold anything.
    pub segments: Gauge,
}

impl Default for Meters {
    fn default() -> Meters {
        let syncs = Histogram::new(&SYNC_BOUNDS_US);
        Meters { syncs, written_bytes: Counter::default(), segments: Gauge::default() }
    }
}

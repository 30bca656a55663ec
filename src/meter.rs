//! What is counted while the program runs: counters, gauges, histograms and headcounts.
//!
//! To count is an atomic addition or two: no lock, no allocation, no order among the figures. Rests on nothing, and knows no
//! names: whoever shows a figure names it (`api/metrics.rs`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn count(&self) {
        self.add(1);
    }

    /// Counts so many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// What it is now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it was last.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are of something, each of which holds a [`Headcount::enter`] while it lasts, however it ends.
#[derive(Debug, Default)]
pub struct Headcount(Arc<()>);

/// One of those that a [`Headcount`] counts.
#[derive(Clone, Debug)]
pub struct Head {
    _one: Arc<()>,
}

impl Headcount {
    /// One more, until it is dropped.
    pub fn enter(&self) -> Head {
        Head { _one: Arc::clone(&self.0) }
    }

    /// How many there are.
    pub fn read(&self) -> u64 {
        Arc::strong_count(&self.0) as u64 - 1
    }
}

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    /// The greatest time of each bucket but the last, in microseconds; rising.
    bounds_us: &'static [u64],
    buckets: Box<[Counter]>,
    sum_ns: Counter,
}

/// What a histogram held at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// For each bound, in microseconds, how often it took no longer.
    pub within: Vec<(u64, u64)>,
    /// How often it was measured.
    pub count: u64,
    /// How long it took altogether.
    pub sum: Duration,
}

impl Histogram {
    /// An empty one with these bounds, which rise.
    pub fn new(bounds_us: &'static [u64]) -> Histogram {
        let buckets = (0..=bounds_us.len()).map(|_| Counter::default()).collect();
        Histogram { bounds_us, buckets, sum_ns: Counter::default() }
    }

    /// It took this long once more.
    pub fn observe(&self, took: Duration) {
        let bucket = self.bounds_us.partition_point(|bound| u128::from(*bound) * 1_000 < took.as_nanos());
        self.buckets[bucket].count();
        self.sum_ns.add(took.as_nanos() as u64);
    }

    /// What it holds. The count is the sum of the buckets, so that they agree whatever is measured meanwhile.
    pub fn read(&self) -> Spread {
        let mut count = 0;
        let mut within = Vec::with_capacity(self.bounds_us.len());
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.read();
            within.extend(self.bounds_us.get(at).map(|bound| (*bound, count)));
        }
        Spread { within, count, sum: Duration::from_nanos(self.sum_ns.read()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_the_first_bucket_that_holds_it_and_in_all_behind() {
        let histogram = Histogram::new(&[10, 100]);
        for us in [1, 10, 11, 100, 101] {
            histogram.observe(Duration::from_micros(us));
        }
        let Spread { within, count, sum } = histogram.read();
        assert_eq!((within, count, sum), (vec![(10, 2), (100, 4)], 5, Duration::from_micros(223)));
    }

    #[test]
    fn a_head_counts_until_it_is_dropped() {
        let heads = Headcount::default();
        let one = heads.enter();
        let other = one.clone();
        assert_eq!(heads.read(), 2);
        drop((one, other));
        assert_eq!(heads.read(), 0);
    }
}

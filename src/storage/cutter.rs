//! Takes away the beginning of a journal, once a snapshot behind it has made it needless.
//!
//! One segment at a time, the oldest first, and each only when the removal before it is on the disk: so whatever a crash
//! or a power cut leaves is an unbroken end of the journal, with more or less that is needless before it. What cannot be
//! removed stays until the next snapshot is whole; nothing waits for it.

use std::{collections::VecDeque, io, path::Path};

use super::{disk::Disk, format};

/// The segments that hold anything, and how many of them are needless.
#[derive(Debug)]
pub(super) struct Cutter {
    /// The number of each, and the position at which it starts; in order.
    segments: VecDeque<(u64, u64)>,
    /// Everything before this position is needless, if anything is.
    needless: Option<u64>,
}

impl Cutter {
    pub fn new(segments: VecDeque<(u64, u64)>) -> Cutter {
        Cutter { segments, needless: None }
    }

    /// The journal goes on in this segment, at this position.
    pub fn push(&mut self, number: u64, start: u64) {
        self.segments.push_back((number, start));
    }

    /// How many segments hold anything.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Where the journal begins, if it holds anything.
    pub fn start(&self) -> Option<u64> {
        self.segments.front().map(|(_, start)| *start)
    }

    /// Everything before this position is needless: what takes its place is on the disk.
    pub fn cut(&mut self, position: u64) {
        self.needless = Some(position);
    }

    /// Whether there is a segment to remove: one that ends where all before is needless. The last one never is.
    pub fn is_due(&self) -> bool {
        self.segments.get(1).is_some_and(|(_, end)| Some(*end) <= self.needless)
    }

    /// Removes one segment.
    pub fn step(&mut self, disk: &dyn Disk, dir: &Path) {
        let Some((number, _)) = self.segments.front().filter(|_| self.is_due()) else { return };
        let path = format::path(dir, *number);
        // The removal before this one is on the disk before: no crash brings an older segment back without this one.
        match disk.sync_dir(dir).and_then(|()| disk.remove(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = path.display();
                tracing::warn!(%path, %error, "a needless segment of the journal cannot be removed: it stays until after the next snapshot");
                self.needless = None;
            }
            _ => drop(self.segments.pop_front()),
        }
    }
}

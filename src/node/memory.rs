//! The ceiling of memory: above it a node takes no more writes of its clients, so that it is not killed, nor its machine
//! driven to swap, and with it all that clients could still read.
//!
//! Somewhat below it memory is short: what is kept only for those who look back is forgotten, and what is free goes back to
//! the system, before any write is refused.
//!
//! The whole process is measured, as the system counts it, four times a second. What peers have written is taken in all the
//! same: a node that does not would hold back what is final on all of them.

use std::{collections::BTreeSet, fs, time::Duration};

use rustix::param::page_size;

use super::{Meters, Node, Stopped};
use crate::{
    document::State,
    op::{Command, DocKey, KEY_SPAN},
    replica::{Draft, Replica},
};

/// How often the memory is looked at. Writes at full speed come to some ten megabytes meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Writes are refused from the first part of the ceiling on and taken again below the second, in hundredths, so that it does
/// not go to and fro with each.
const FULL: (u64, u64) = (100, 95);
/// The same of when memory is short.
const TIGHT: (u64, u64) = (90, 80);
/// What is free is given back with each so many looks while memory is short, since that takes some time.
const GIVE_BACK_EVERY: u64 = 4;
/// The part of the ceiling that idempotency keys may take, one in so many.
const KEYS_PART: u64 = 8;
/// The bytes that a remembered key takes, about, as `tests/soak.py` measures it.
const KEY_BYTES: u64 = 400;
/// A key is remembered for so many times in any case.
const KEY_SPAN_MIN: u64 = 1 << 16;
/// The part of what there is that a process may take when nothing else is said, in hundredths.
const USUAL: u64 = 80;

impl Node {
    /// Refuses writes but deletions while the process takes more than so many bytes of memory; must be called within a
    /// runtime. Where the system does not say how much it takes, nothing is refused. `give_back` has the allocator give what
    /// is free back to the system, which it does in its own time else.
    pub fn bound_memory(&self, max: u64, give_back: fn()) {
        let (node, stopping) = (self.clone(), self.stopping());
        node.meters().memory_max_bytes.set(max);
        node.meters().look_at_memory(resident());
        tokio::spawn(async move {
            tokio::select! {
                // It ends when the node has stopped.
                _ = node.watch_memory(give_back) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn watch_memory(&self, give_back: fn()) -> Result<(), Stopped> {
        let (mut looks, mut tight, mut short_for) = (tokio::time::interval(LOOK_EVERY), false, 0);
        loop {
            looks.tick().await;
            let (resident, max) = (resident(), self.meters().memory_max_bytes.read());
            self.meters().look_at_memory(resident);
            let was_tight = tight;
            tight = resident.is_some_and(|bytes| is_past(TIGHT, was_tight, bytes, max));
            if tight != was_tight {
                self.tighten(tight).await?;
                tracing::info!(tight, "memory is short, or no longer: while it is, all that is final is forgotten");
                short_for = 0;
            }
            if tight {
                short_for += 1;
                if short_for % GIVE_BACK_EVERY == 0 {
                    give_back();
                }
            }
        }
    }
}

impl Meters {
    fn look_at_memory(&self, resident: Option<u64>) {
        let (was_full, max) = (self.memory_full.read() != 0, self.memory_max_bytes.read());
        let is_full = resident.is_some_and(|resident| is_past(FULL, was_full, resident, max));
        self.memory_full.set(is_full.into());
        match (was_full, is_full) {
            (false, true) => {
                tracing::error!(
                    max,
                    "the process takes more memory than --max-memory: writes are refused, but for deletions"
                );
            }
            (true, false) => tracing::info!("memory is below --max-memory again: writes are taken"),
            _ => {}
        }
    }
}

/// Whether so many bytes are past a part of the ceiling; past the lower one, if they were before.
fn is_past((from, below): (u64, u64), was_past: bool, resident: u64, max: u64) -> bool {
    resident >= max / 100 * if was_past { below } else { from }
}

/// True if a draft is taken while memory or the disk is full. It then needs no operation, is one of an operator, or deletes documents
/// that are there, each once, with no more guards than commands. An operation takes room itself, so one that deletes nothing only
/// grows the log.
pub(super) fn is_taken_when_full(draft: &Draft, replica: &Replica) -> bool {
    replica.known_answer(draft).is_some() || makes_room(draft, replica.state())
}

fn makes_room(draft: &Draft, state: &State) -> bool {
    let is_there = |doc: &DocKey<'_>| state.text(&doc.collection, &doc.id).is_some();
    let mut deleted = BTreeSet::new();
    let fits = draft.commands.iter().all(|command| match command {
        Command::Delete(doc) => is_there(doc) && deleted.insert(doc),
        other => other.is_membership(),
    });
    fits && !draft.commands.is_empty() && draft.guards.len() <= draft.commands.len()
}

/// What the process takes.
fn resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(page_size() as u64)
}

/// The ceiling when none is given: a part of the machine's memory, or of what the control group of the process may take;
/// none where the system says neither.
pub fn usual_memory_max() -> Option<u64> {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups =
        ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].into_iter().filter_map(number);
    let machine = machine_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    groups.chain(machine).min().map(|bytes| bytes / 100 * USUAL)
}

/// The span, in Lamport times, in which a node with this ceiling of memory has the idempotency keys of its clients remembered. Keys take an
/// eighth of the ceiling at most, if each operation has one.
pub fn key_span(memory_max: Option<u64>) -> u64 {
    let bounded = |max: u64| (max / KEYS_PART / KEY_BYTES).clamp(KEY_SPAN_MIN, KEY_SPAN);
    memory_max.map_or(KEY_SPAN, bounded)
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_from_the_ceiling_on_until_well_below_it() {
        let mut full = false;
        let steps = [(999, false), (1_000, true), (999, true), (950, true), (949, false), (999, false), (2_000, true)];
        for (resident, expected) in steps {
            full = is_past(FULL, full, resident, 1_000);
            assert_eq!(full, expected, "{resident}");
        }
    }

    #[test]
    fn keys_take_an_eighth_of_the_ceiling_at_most() {
        let spans = [0, 400 << 20, 16 << 30, u64::MAX].map(|max| key_span(Some(max)));
        assert_eq!(spans, [65_536, 131_072, KEY_SPAN, KEY_SPAN]);
        assert_eq!(key_span(None), KEY_SPAN);
    }

    #[test]
    fn the_system_says_what_there_is() {
        assert_eq!(machine_bytes("MemTotal:       24684092 kB\nMemFree: 1 kB\n"), Some(24_684_092 * 1024));
        assert_eq!(machine_bytes(""), None);
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
        assert!(usual_memory_max() > resident());
    }
}

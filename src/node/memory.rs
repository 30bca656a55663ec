//! The ceiling of memory: above it a node takes no more writes of its clients, so that it is not killed, nor its machine
//! driven to swap, and with it all that clients could still read.
//!
//! The whole process is measured, as the system counts it, four times a second. What peers have written is taken in all the
//! same: a node that does not would hold back what is final on all of them.

use std::{fs, time::Duration};

use rustix::param::page_size;
use tokio_util::sync::CancellationToken;

use super::{Meters, Node};
use crate::op::Command;

/// How often the memory is looked at. Writes at full speed come to some ten megabytes meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Writes are taken again below this part of the ceiling, in hundredths, so that it does not go to and fro with each.
const AGAIN_BELOW: u64 = 95;
/// The part of what there is that a process may take when nothing else is said, in hundredths.
const USUAL: u64 = 80;

impl Node {
    /// Refuses writes but deletions while the process takes more than so many bytes of memory; must be called within a
    /// runtime. Where the system does not say how much it takes, nothing is refused.
    pub fn bound_memory(&self, max: u64) {
        let (node, stopping) = (self.clone(), self.stopping());
        node.meters().memory_max_bytes.set(max);
        node.meters().look_at_memory(resident());
        tokio::spawn(async move { node.watch_memory(stopping).await });
    }

    async fn watch_memory(self, stopping: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = looks.tick() => self.meters().look_at_memory(resident()),
                () = stopping.cancelled() => return,
            }
        }
    }
}

impl Meters {
    fn look_at_memory(&self, resident: Option<u64>) {
        let (was_full, max) = (self.memory_full.read() != 0, self.memory_max_bytes.read());
        let is_full = resident.is_some_and(|resident| is_full(was_full, resident, max));
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

fn is_full(was_full: bool, resident: u64, max: u64) -> bool {
    resident >= if was_full { max / 100 * AGAIN_BELOW } else { max }
}

/// Whether a command may make the documents larger.
pub(super) fn grows(command: &Command<'_>) -> bool {
    matches!(command, Command::Put(..) | Command::Merge(..) | Command::Patch(..) | Command::Text(..))
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
            full = is_full(full, resident, 1_000);
            assert_eq!(full, expected, "{resident}");
        }
    }

    #[test]
    fn the_system_says_what_there_is() {
        assert_eq!(machine_bytes("MemTotal:       24684092 kB\nMemFree: 1 kB\n"), Some(24_684_092 * 1024));
        assert_eq!(machine_bytes(""), None);
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
        assert!(usual_memory_max() > resident());
    }
}

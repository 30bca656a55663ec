//! How much processor time may go into a text.
//!
//! Most updates of a text take time in proportion to their parts. Some take the square of it, and the library that puts
//! them in does not say which. So the time is measured, as a database does for a statement. What a node refuses so is
//! no part of the protocol: the order of operations, and what they are, does not depend on it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::document::prose::Allowance;

/// Time for an edit, and for all edits of a text that is worked out, beside that for their parts.
const EDIT: Duration = Duration::from_millis(250);
const TEXT: Duration = Duration::from_secs(4);
/// Time for each part: several times what it takes on a usual machine. A program without optimisation takes more.
const PART: Duration = Duration::from_micros(if cfg!(debug_assertions) { 200 } else { 20 });
/// Time that is short, whatever the parts are.
const SHORT: Duration = Duration::from_millis(100);

/// Processor time of one thread, on which it is made and asked.
#[derive(Debug)]
pub struct CpuTime {
    began: Duration,
    most: Duration,
    for_each: Duration,
    parts: usize,
}

impl CpuTime {
    /// For one edit.
    pub fn for_edit() -> CpuTime {
        CpuTime::new(EDIT, PART)
    }

    /// To work a text out from its updates.
    pub fn for_text() -> CpuTime {
        CpuTime::new(TEXT, PART)
    }

    /// For what others wait for, and is done with more time in another place if this is too little.
    pub fn short() -> CpuTime {
        CpuTime::new(SHORT, Duration::ZERO)
    }

    fn new(most: Duration, for_each: Duration) -> CpuTime {
        CpuTime { began: of_thread(), most, for_each, parts: 0 }
    }

    /// The time so far beyond the usual for the parts.
    pub fn excess(&self) -> Duration {
        self.beyond(PART)
    }

    fn beyond(&self, for_each: Duration) -> Duration {
        let parts = u32::try_from(self.parts).unwrap_or(u32::MAX);
        of_thread().saturating_sub(self.began).saturating_sub(for_each.saturating_mul(parts))
    }
}

impl Allowance for CpuTime {
    fn allows(&mut self, parts: usize) -> bool {
        self.parts += parts;
        self.beyond(self.for_each) <= self.most
    }
}

/// The time that this thread has run.
fn of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_for_the_parts_does_not_count() {
        let mut none = CpuTime::new(Duration::ZERO, PART);
        let mut sum = 0_u64;
        while of_thread() == none.began {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(!none.allows(0));
        assert!(none.allows(1_000_000), "a million parts are allowed many seconds");
        assert_eq!(none.excess(), Duration::ZERO);
    }
}

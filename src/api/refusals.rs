//! Editors that come back to a text after they were refused.
//!
//! y-websocket comes back a tenth of a second after any close, whatever its code says, and sends all that it holds: a text that it
//! may not have, or an edit that cannot be kept, would be refused ten times a second for ever. So each refusal after the first is told
//! later than the one before, while the connection stays open without a word. The longest delay is shorter than the half minute of silence
//! after which y-websocket takes a connection for dead.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::extract::ws::close_code;
use tokio::time::Instant;

use super::{access::UNAUTHORIZED, rates::Caller, yjs::is_final};
use crate::op::DocKey;

/// The delay of the second refusal; of each further one it is twice as long, up to the longest.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(25);
/// The longest delay where what is wrong passes by itself.
const LONGEST_DELAY_OF_LOAD: Duration = Duration::from_secs(2);
/// Refusals within this count as one. y-websocket comes back after a tenth of a second at first.
const MOMENT: Duration = Duration::from_millis(50);
/// Time after the last refusal from which on a client counts as new.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Most clients and texts of which refusals are remembered. Past that all are forgotten.
const REFUSALS_MAX: usize = 4_096;

/// The refusals of the last time, by client and text.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<(Caller, DocKey<'static>), Refused>>);

struct Refused {
    /// Refusals so far. Of several within a moment one counts: they are of several clients behind one address.
    times: u32,
    /// When one was counted last.
    counted: Instant,
    /// When it is forgotten.
    end: Instant,
}

impl Refusals {
    /// Notes that a client of a text is refused with a close code, and says how long it is to wait for it; none if the code is
    /// no refusal.
    pub fn hold(&self, caller: &Caller, doc: &DocKey<'static>, code: u16) -> Option<Duration> {
        let longest = match code {
            // With that token it is let in no more, which is told before the connection is a WebSocket.
            UNAUTHORIZED => return None,
            close_code::AGAIN => LONGEST_DELAY_OF_LOAD,
            close_code::POLICY | close_code::SIZE => LONGEST_DELAY,
            code if is_final(code) => LONGEST_DELAY,
            _ => return None,
        };
        Some(self.note(caller, doc, Instant::now()).min(longest))
    }

    /// Notes a refusal, and returns its delay.
    fn note(&self, caller: &Caller, doc: &DocKey<'static>, now: Instant) -> Duration {
        // Nothing panics while it is held.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REFUSALS_MAX {
            all.retain(|_, refused| refused.end > now);
            if all.len() >= REFUSALS_MAX {
                all.clear();
            }
        }
        let refused = all.entry((caller.clone(), doc.clone())).or_insert(Refused { times: 0, counted: now, end: now });
        if refused.end <= now {
            refused.times = 0;
        }
        if refused.times == 0 || now >= refused.counted + MOMENT {
            (refused.times, refused.counted) = (refused.times.saturating_add(1), now);
        }
        let delay = match refused.times {
            1 => Duration::ZERO,
            times => FIRST_DELAY.saturating_mul(1_u32 << (times - 2).min(16)).min(LONGEST_DELAY),
        };
        refused.end = now + delay + REMEMBERED;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doc(id: usize) -> DocKey<'static> {
        DocKey::new("notes", id.to_string())
    }

    #[test]
    fn each_refusal_after_the_first_is_told_later_and_of_old_ones_nothing_is_remembered() {
        let (refusals, mut now) = (Refusals::default(), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..8 {
            let delay = refusals.note(&Caller::Other, &doc(1), now);
            // Others behind the same address are refused at the same moment.
            assert_eq!(refusals.note(&Caller::Other, &doc(1), now), delay);
            now += delay.max(MOMENT);
            delays.push(delay.as_secs());
        }
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 25, 25]);
        assert_eq!(refusals.note(&Caller::Other, &doc(2), now), Duration::ZERO, "another text");
        now += REMEMBERED;
        assert_eq!(refusals.note(&Caller::Other, &doc(1), now), Duration::ZERO);
    }

    #[test]
    fn what_is_remembered_of_refusals_is_bounded() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        for id in 0..3 * REFUSALS_MAX {
            refusals.note(&Caller::Other, &doc(id), now);
            assert!(refusals.0.lock().unwrap().len() <= REFUSALS_MAX);
        }
    }

    #[test]
    fn an_end_that_is_no_refusal_is_told_at_once() {
        let refusals = Refusals::default();
        let hold = |code| refusals.hold(&Caller::Other, &doc(1), code);
        for code in [close_code::NORMAL, close_code::AWAY, close_code::PROTOCOL, UNAUTHORIZED] {
            assert_eq!((hold(code), hold(code)), (None, None), "{code}");
        }
        assert_eq!((hold(4_410), hold(4_499)), (Some(Duration::ZERO), Some(Duration::ZERO)));
        for n in 1..8 {
            refusals.note(&Caller::Other, &doc(1), Instant::now() + n * MOMENT);
        }
        assert!(hold(4_410) > Some(LONGEST_DELAY_OF_LOAD));
        assert_eq!(hold(close_code::AGAIN), Some(LONGEST_DELAY_OF_LOAD));
    }
}

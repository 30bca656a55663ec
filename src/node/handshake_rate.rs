//! The rate of handshakes: for each address, and for all that have not proved the pool's secret lately.
//!
//! It is asked before any cryptography, so strangers take a bounded share of a core. An address that has proved the secret does not
//! count among all, so strangers at many addresses do not hold up the links of such nodes.
//!
//! Of each address one instant is kept, at which it may begin as many handshakes at once again as ever: the generic cell rate
//! algorithm. What lies in the past is forgotten, so no more addresses are kept than the rate of all lets in.

use std::collections::HashMap;

use tokio::time::{Duration, Instant};

use super::whence::Whence;

/// Handshakes a second of one address, and at once.
pub const EACH: Rate = Rate { per_second: 8, at_once: 32 };
/// Handshakes a second of all addresses that have not proved the secret lately, and at once.
pub const ALL: Rate = Rate { per_second: 64, at_once: 128 };
/// How long an address counts as one that has proved the secret.
const PROVED_FOR: Duration = Duration::from_secs(3_600);
/// Most such addresses.
const PROVED_MAX: usize = 1_024;

/// How often something may be done.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    per_second: u32,
    at_once: u32,
}

impl Rate {
    /// When all may be done at once again, after it was done once more; none if it may not be done now.
    fn taken(self, rested: Option<Instant>, now: Instant) -> Option<Instant> {
        let pause = Duration::from_secs(1) / self.per_second;
        let then = rested.map_or(now, |rested| rested.max(now)) + pause;
        (then <= now + pause * self.at_once).then_some(then)
    }
}

/// The handshakes that were begun lately.
#[derive(Debug)]
pub struct Handshakes {
    /// Whether there is a limit.
    limited: bool,
    each: HashMap<Whence, Instant>,
    all: Option<Instant>,
    /// When these addresses have proved the secret last.
    proved: HashMap<Whence, Instant>,
}

impl Handshakes {
    /// None yet. Without a limit all are let in.
    pub fn new(limited: bool) -> Handshakes {
        Handshakes { limited, each: HashMap::new(), all: None, proved: HashMap::new() }
    }

    /// Counts a handshake, or says that it is one too many, which then does not count.
    pub fn admit(&mut self, whence: Whence, now: Instant) -> bool {
        if !self.limited {
            return true;
        }
        let Some(each) = EACH.taken(self.each.get(&whence).copied(), now) else { return false };
        let is_proved = self.proved.get(&whence).is_some_and(|proved| now < *proved + PROVED_FOR);
        if !is_proved {
            let Some(all) = ALL.taken(self.all, now) else { return false };
            self.all = Some(all);
        }
        self.each.retain(|_, rested| now < *rested);
        self.each.insert(whence, each);
        true
    }

    /// The pool's secret was proved from this address.
    pub fn proved(&mut self, whence: Whence, now: Instant) {
        if self.proved.len() >= PROVED_MAX && !self.proved.contains_key(&whence) {
            let oldest = self.proved.iter().min_by_key(|(_, proved)| **proved).map(|(whence, _)| *whence);
            if let Some(oldest) = oldest {
                self.proved.remove(&oldest);
            }
        }
        self.proved.insert(whence, now);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn at(peer: u32) -> Whence {
        Whence::of(IpAddr::from((0x0a00_0000 + peer).to_be_bytes()))
    }

    /// How many of so many handshakes a millisecond, for so many seconds, are begun.
    fn begun(handshakes: &mut Handshakes, from: impl Fn(u32) -> Whence, seconds: u32, start: Instant) -> u32 {
        let times = (0..1_000 * seconds).map(|n| (n, start + Duration::from_millis(n.into())));
        times.filter(|(n, now)| handshakes.admit(from(*n), *now)).count() as u32
    }

    #[test]
    fn one_address_begins_no_more_than_its_rate_and_others_their_own() {
        let (mut handshakes, start) = (Handshakes::new(true), Instant::now());
        let all = begun(&mut handshakes, |_| at(1), 10, start);
        assert!((EACH.at_once + 79..=EACH.at_once + 81).contains(&all), "{all}");
        assert!(handshakes.admit(at(2), start + Duration::from_secs(10)));
    }

    #[test]
    fn many_addresses_begin_no_more_than_the_rate_of_all_and_one_that_has_proved_the_secret_is_not_held_up() {
        let (mut handshakes, start) = (Handshakes::new(true), Instant::now());
        let all = begun(&mut handshakes, at, 10, start);
        assert!((ALL.at_once + 639..=ALL.at_once + 641).contains(&all), "{all}");
        assert!(handshakes.each.len() as u32 <= ALL.at_once, "{} are kept", handshakes.each.len());
        let end = start + Duration::from_secs(10);
        while handshakes.admit(at(90_000), end) {}
        handshakes.proved(at(90_001), end);
        assert!(!handshakes.admit(at(90_002), end) && handshakes.admit(at(90_001), end));
        let rest = begun(&mut handshakes, |n| at(if n == 0 { 90_001 } else { n }), 1, end + PROVED_FOR);
        assert!(rest <= ALL.at_once + ALL.per_second + 1, "an hour later it counts among all: {rest}");
    }

    #[test]
    fn so_many_addresses_at_most_are_known_to_have_proved_the_secret() {
        let (mut handshakes, start) = (Handshakes::new(true), Instant::now());
        (0..2 * PROVED_MAX as u32).for_each(|n| handshakes.proved(at(n), start + Duration::from_millis(n.into())));
        assert_eq!(handshakes.proved.len(), PROVED_MAX);
        assert!(!handshakes.proved.contains_key(&at(0)) && handshakes.proved.contains_key(&at(PROVED_MAX as u32)));
    }
}

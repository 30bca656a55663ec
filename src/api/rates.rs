//! How often each client asks: the limit of requests a second.
//!
//! Of a client one instant is kept, the one at which it may do as much at once again as ever (the generic cell rate
//! algorithm, which is a token bucket without a timer). Once that has passed there is nothing to remember of it, so as much
//! is kept as there are clients that asked within the last seconds, and never more than [`CALLERS_MAX`].

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{
    Api, Problem,
    access::{Pass, Principal},
    limits::Rate,
    server::Hold,
};
use crate::node::{Client, Whence};

/// Clients of which something is remembered at once. Those beyond share one limit, until others can be forgotten.
const CALLERS_MAX: usize = 16_384;
/// How often it is looked which can be.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Who asks, as the limit tells clients apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The bearer of a token.
    Token(Principal),
    /// Whoever has shown none.
    Address(Whence),
    /// One of too many.
    Other,
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Caller, Problem> {
        Ok(Caller::of_request(parts, api))
    }
}

impl Caller {
    /// Who sends a request.
    pub fn of_request(parts: &Parts, api: &Api) -> Caller {
        Caller::of(&Pass::of_request(parts, api), parts.extensions.get().map(Hold::whence))
    }

    /// Whose turn it is at the node's task when it writes.
    pub fn client(&self) -> Client {
        Client::of(self)
    }

    /// Who comes with a pass, from an address.
    pub fn of(pass: &Pass, whence: Option<Whence>) -> Caller {
        match pass {
            Pass::Granted(grant) => Caller::Token(grant.principal),
            Pass::Open | Pass::Stranger => Caller::Address(whence.unwrap_or(Whence::of(IpAddr::from([0; 4])))),
        }
    }
}

/// The limit, and how far each client is from it.
#[derive(Debug, Default)]
pub struct Rates {
    rate: Option<Rate>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When each may do all at once again.
    rested: HashMap<Caller, Instant>,
    swept: Option<Instant>,
}

impl Rates {
    /// For a limit; without one everybody may ask as often as they like, and nothing is kept.
    pub fn new(rate: Option<Rate>) -> Rates {
        Rates { rate, seen: Mutex::default() }
    }

    /// Whether there is a limit.
    pub fn limits(&self) -> bool {
        self.rate.is_some()
    }

    /// Counts a request, or refuses it, which then does not count.
    pub fn admit(&self, caller: &Caller) -> Result<(), Problem> {
        self.admit_at(Instant::now(), caller).map_err(|wait| {
            let rate = self.rate.map_or(0, |rate| rate.per_second.get());
            let whom = if matches!(caller, Caller::Token(_)) { "of one token" } else { "from one address" };
            Problem::too_many_requests(rate, whom, wait)
        })
    }

    /// Counts what is done already, and says how long to wait before the next.
    pub fn charge(&self, caller: &Caller) -> Duration {
        self.charge_at(Instant::now(), caller)
    }

    fn admit_at(&self, now: Instant, caller: &Caller) -> Result<(), Duration> {
        let Some(rate) = self.rate else { return Ok(()) };
        self.rested(now, caller, |rested| {
            let then = (*rested).max(now) + rate.pause();
            let wait = then.saturating_duration_since(now + rate.span());
            if wait.is_zero() {
                *rested = then;
                return Ok(());
            }
            Err(wait)
        })
    }

    fn charge_at(&self, now: Instant, caller: &Caller) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        self.rested(now, caller, |rested| {
            *rested = (*rested).max(now) + rate.pause();
            rested.saturating_duration_since(now + rate.span())
        })
    }

    fn rested<T>(&self, now: Instant, caller: &Caller, change: impl FnOnce(&mut Instant) -> T) -> T {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rested) = seen.rested.get_mut(caller) {
            return change(rested);
        }
        if seen.rested.len() >= CALLERS_MAX && seen.swept.is_none_or(|swept| now >= swept + SWEEP_EVERY) {
            seen.swept = Some(now);
            seen.rested.retain(|_, rested| *rested > now);
        }
        let place = if seen.rested.len() < CALLERS_MAX { caller.clone() } else { Caller::Other };
        change(seen.rested.entry(place).or_insert(now))
    }
}

impl Rate {
    /// Between two requests, in the long run.
    fn pause(self) -> Duration {
        Duration::from_secs(1) / self.per_second.get()
    }

    /// What a burst takes to be made up for.
    fn span(self) -> Duration {
        self.pause() * self.burst.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_second: u32, burst: u32) -> Rates {
        Rates::new(Some(Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() }))
    }

    fn token(name: impl ToString) -> Caller {
        Caller::Token(Principal::named(&name.to_string()))
    }

    #[test]
    fn a_burst_passes_then_as_many_as_the_rate_says() {
        let (rates, ada, start) = (rates(10, 3), token("ada"), Instant::now());
        let at = |ms| rates.admit_at(start + Duration::from_millis(ms), &ada).map_err(|wait| wait.as_millis());
        assert_eq!([at(0), at(0), at(0), at(0)], [Ok(()), Ok(()), Ok(()), Err(100)]);
        assert_eq!([at(40), at(100), at(100)], [Err(60), Ok(()), Err(100)], "what is refused does not count");
        assert_eq!([at(5_000), at(5_000), at(5_000), at(5_000)], [Ok(()), Ok(()), Ok(()), Err(100)]);
        assert_eq!(rates.admit_at(start, &token("ben")), Ok(()), "others have their own");
    }

    #[test]
    fn what_is_done_already_counts_and_has_to_be_waited_for() {
        let (rates, ada, start) = (rates(10, 2), token("ada"), Instant::now());
        let waits: Vec<u128> = (0..4).map(|_| rates.charge_at(start, &ada).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
        assert_eq!(rates.admit_at(start, &ada).map_err(|wait| wait.as_millis()), Err(300));
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let rates = Rates::new(None);
        assert!((0..100).all(|_| rates.admit(&Caller::Other).is_ok()));
        assert_eq!(rates.charge(&Caller::Other), Duration::ZERO);
        assert!(rates.seen.lock().unwrap().rested.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_those_who_are_at_rest_make_room() {
        let (rates, start) = (rates(10, 1), Instant::now());
        let kept = |rates: &Rates| rates.seen.lock().unwrap().rested.len();
        let mut refused = 0;
        for number in 0..2 * CALLERS_MAX {
            refused += usize::from(rates.admit_at(start, &token(number)).is_err());
        }
        assert_eq!(kept(&rates), CALLERS_MAX + 1, "and the one that those beyond share");
        assert_eq!(refused, CALLERS_MAX - 1);
        let later = start + Duration::from_secs(2);
        assert_eq!(rates.admit_at(later, &token("new")), Ok(()));
        assert_eq!(kept(&rates), 1);
    }
}

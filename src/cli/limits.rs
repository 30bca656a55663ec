//! `serve`'s flags of how much clients may take of the node.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use clap::Args;

use super::size::Size;
use crate::{
    api::{Limits, MemoryBudget, Rate},
    node::usual_memory_max,
};

/// How much clients may take of a node; docs/limits.md has all limits, also those that no flag changes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits (docs/limits.md)")]
pub struct LimitArgs {
    /// Connections of clients at once; links of peers are not among them. One beyond is answered 503 and closed.
    #[arg(long, env = "LAMPLIGHT_MAX_CONNECTIONS", value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,
    /// Connections of clients of one address at once, or of one network (/64) of IPv6 addresses. Behind a proxy all clients
    /// have its address.
    #[arg(long, env = "LAMPLIGHT_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N", default_value_t = Limits::default().connections_per_address)]
    max_connections_per_address: usize,
    /// Subscriptions of one WebSocket at once.
    #[arg(long, env = "LAMPLIGHT_MAX_SUBSCRIPTIONS", value_name = "N", default_value_t = Limits::default().subscriptions)]
    max_subscriptions: usize,
    /// Rooms that one WebSocket is in at once.
    #[arg(long, env = "LAMPLIGHT_MAX_ROOMS", value_name = "N", default_value_t = Limits::default().rooms)]
    max_rooms: usize,
    /// Requests a second of one token, or of one address where no tokens are asked for; 0 for as many as the node can
    /// answer. Messages over a WebSocket count too, and so do edits of texts and lines of a bulk load, but these are
    /// slowed down, not refused.
    #[arg(long, env = "LAMPLIGHT_MAX_REQUESTS_PER_SECOND", value_name = "N", default_value_t = 0)]
    max_requests_per_second: u32,
    /// Requests at once, after a pause, before --max-requests-per-second holds; twice that number if left out.
    #[arg(long, env = "LAMPLIGHT_REQUEST_BURST", value_name = "N")]
    request_burst: Option<NonZeroU32>,
    /// How long a client may take for the head of a request, for the next request of a kept connection, and for agreeing
    /// upon TLS.
    #[arg(long, env = "LAMPLIGHT_HEAD_TIMEOUT", value_name = "TIME", default_value_t = Time(Limits::default().head_timeout))]
    head_timeout: Time,
    /// How long a client may take for the body of a request, or for each line of a bulk load.
    #[arg(long, env = "LAMPLIGHT_BODY_TIMEOUT", value_name = "TIME", default_value_t = Time(Limits::default().body_timeout))]
    body_timeout: Time,
    /// How long a client may take nothing of what it is sent, before it is cut off.
    #[arg(long, env = "LAMPLIGHT_WRITE_TIMEOUT", value_name = "TIME", default_value_t = Time(Limits::default().write_timeout))]
    write_timeout: Time,
    /// How long a WebSocket may be silent before it is pinged; after as long again it is taken for gone.
    #[arg(long, env = "LAMPLIGHT_PING_EVERY", value_name = "TIME", default_value_t = Time(Limits::default().ping_every))]
    ping_every: Time,
    /// Memory of the process above which writes are refused with 507, but for deletions: in bytes, or with KiB, MiB or GiB; 0
    /// for none. Reads and what peers send go on. Left out: four fifths of the machine's, or of what its control group has.
    #[arg(long, env = "LAMPLIGHT_MAX_MEMORY", value_name = "SIZE")]
    max_memory: Option<Size>,
}

impl LimitArgs {
    /// The ceiling of memory, if there is to be one.
    pub fn memory_max(&self) -> Option<u64> {
        self.max_memory.map_or_else(usual_memory_max, |size| Some(size.0)).filter(|bytes| *bytes > 0)
    }

    /// What the API holds to.
    pub fn limits(&self) -> Limits {
        let requests = NonZeroU32::new(self.max_requests_per_second).map(|per_second| {
            let burst = self.request_burst.unwrap_or_else(|| per_second.saturating_add(per_second.get()));
            Rate { per_second, burst }
        });
        Limits {
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            subscriptions: self.max_subscriptions,
            rooms: self.max_rooms,
            requests,
            head_timeout: self.head_timeout.0,
            body_timeout: self.body_timeout.0,
            write_timeout: self.write_timeout.0,
            ping_every: self.ping_every.0,
            memory: MemoryBudget::of_ceiling(self.memory_max()),
        }
    }
}

/// A time of at least a millisecond and at most a day: `500ms`, `20s` or `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Time(Duration);

impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Time, &'static str> {
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
        let found = units.iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?.parse::<u64>().ok()?, *ms)));
        let ms = found.and_then(|(number, ms)| number.checked_mul(ms)).filter(|ms| (1..=86_400_000).contains(ms));
        ms.map(|ms| Time(Duration::from_millis(ms)))
            .ok_or("a time is a whole number with ms, s or m, such as 20s, of at most a day")
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms.is_multiple_of(60_000) => write!(f, "{}m", ms / 60_000),
            ms if ms.is_multiple_of(1_000) => write!(f, "{}s", ms / 1_000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        let check = |text: &str, ms: Option<u64>, again: &str| {
            let time: Option<Time> = text.parse().ok();
            assert_eq!(time, ms.map(|ms| Time(Duration::from_millis(ms))), "{text}");
            assert_eq!(time.map(|time| time.to_string()).unwrap_or_default(), again, "{text}");
        };
        check("500ms", Some(500), "500ms");
        check("20s", Some(20_000), "20s");
        check("120s", Some(120_000), "2m");
        check("24m", Some(24 * 60_000), "24m");
        for wrong in ["", "20", "0s", "-1s", "1.5s", "2h", "99999999m", "99999999999999999999s"] {
            check(wrong, None, "");
        }
    }
}

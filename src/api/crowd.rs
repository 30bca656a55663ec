//! How many connections there are, in all and of each address.
//!
//! What a connection is for is known once its request's head is there. So one beyond a limit is not turned away at once: it
//! takes one of a few places on the side, has less time for its head, and whatever it asks is refused at the door
//! (`super::door`), with the reason, and it is closed. A peer's link passes beside that door: nodes of the pool that
//! share an address with a crowd of clients come in all the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Limits, Problem};
use crate::node::Whence;

/// Connections beyond the limits that are heard at once, in all and of one address. Further ones are closed without an
/// answer.
const ASIDE_MAX: usize = 512;
const ASIDE_PER_ADDRESS_MAX: usize = 64;

/// All connections of a listener.
#[derive(Debug)]
pub struct Crowd {
    max: usize,
    per_address_max: usize,
    hall: Mutex<Hall>,
}

#[derive(Debug, Default)]
struct Hall {
    all: Present,
    addresses: HashMap<Whence, Present>,
}

/// How many are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Present {
    within: usize,
    aside: usize,
}

/// Which limit a connection is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// That of all connections.
    All(usize),
    /// That of its address.
    Address(usize),
}

impl From<Beyond> for Problem {
    fn from(beyond: Beyond) -> Problem {
        match beyond {
            Beyond::All(max) => Problem::too_many_connections(format!(
                "this node takes {max} connections, and they are taken: try again later, or ask another node of the pool"
            )),
            Beyond::Address(max) => Problem::too_many_connections(format!(
                "this node takes {max} connections from one address, and yours are taken: close some, send several \
                 requests over one, or ask another node of the pool"
            )),
        }
    }
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    crowd: Arc<Crowd>,
    /// Where it comes from.
    pub whence: Whence,
    /// The limit that it is beyond, if it is to be refused.
    pub beyond: Option<Beyond>,
}

impl Crowd {
    /// Nobody yet.
    pub fn new(limits: &Limits) -> Arc<Crowd> {
        let (max, per_address_max) = (limits.connections, limits.connections_per_address);
        Arc::new(Crowd { max, per_address_max, hall: Mutex::default() })
    }

    /// A place for a connection; none if not even a refusal is to be spent on it.
    pub fn enter(self: &Arc<Crowd>, whence: Whence) -> Option<Seat> {
        let mut hall = self.hall();
        let here = hall.addresses.get(&whence).copied().unwrap_or_default();
        let beyond = if here.within >= self.per_address_max {
            Some(Beyond::Address(self.per_address_max))
        } else if hall.all.within >= self.max {
            Some(Beyond::All(self.max))
        } else {
            None
        };
        if beyond.is_some() && (hall.all.aside >= ASIDE_MAX || here.aside >= ASIDE_PER_ADDRESS_MAX) {
            return None;
        }
        let Hall { all, addresses } = &mut *hall;
        [all, addresses.entry(whence).or_default()].into_iter().for_each(|present| *present.count(beyond) += 1);
        Some(Seat { crowd: Arc::clone(self), whence, beyond })
    }

    fn hall(&self) -> MutexGuard<'_, Hall> {
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn count(&mut self, beyond: Option<Beyond>) -> &mut usize {
        if beyond.is_some() { &mut self.aside } else { &mut self.within }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut hall = self.crowd.hall();
        *hall.all.count(self.beyond) -= 1;
        let Some(here) = hall.addresses.get_mut(&self.whence) else { return };
        *here.count(self.beyond) -= 1;
        if *here == Present::default() {
            hall.addresses.remove(&self.whence);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn whence(text: &str) -> Whence {
        Whence::of(text.parse().unwrap())
    }

    #[test]
    fn an_address_of_ipv6_is_its_network() {
        assert_eq!(whence("2001:db8:1:2:3:4:5:6"), whence("2001:db8:1:2::9"));
        assert_ne!(whence("2001:db8:1:2::9"), whence("2001:db8:1:3::9"));
        assert_eq!(whence("::ffff:10.0.0.1"), whence("10.0.0.1"));
        assert_ne!(whence("10.0.0.2"), whence("10.0.0.1"));
    }

    #[test]
    fn connections_beyond_a_limit_wait_aside_and_leave_nothing_behind() {
        let crowd = Crowd::new(&Limits { connections: 3, connections_per_address: 2, ..Limits::default() });
        let enter = |address| crowd.enter(whence(address));
        let mut seats: Vec<Seat> =
            ["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"].into_iter().filter_map(enter).collect();
        let beyond: Vec<_> = seats.iter().map(|seat| seat.beyond).collect();
        assert_eq!(beyond, [None, None, Some(Beyond::Address(2)), None, Some(Beyond::All(3))]);
        seats.remove(0);
        assert_eq!(enter("10.0.0.3").unwrap().beyond, None, "one has left");
        while let Some(seat) = enter("10.0.0.2") {
            seats.push(seat);
        }
        assert_eq!(seats.iter().filter(|seat| seat.beyond.is_some()).count(), ASIDE_PER_ADDRESS_MAX + 1);
        seats.clear();
        assert!(crowd.hall().addresses.is_empty() && crowd.hall().all == Present::default());
    }

    #[test]
    fn places_aside_are_bounded_in_all() {
        let crowd = Crowd::new(&Limits { connections: 0, ..Limits::default() });
        let seats: Vec<Seat> =
            (0..2_000_u32).filter_map(|n| crowd.enter(Whence::of(IpAddr::from((n / 10).to_be_bytes())))).collect();
        assert_eq!(seats.len(), ASIDE_MAX);
    }
}

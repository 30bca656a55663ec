//! The memory that clients' connections make the node hold: requests and messages that are here in part, and answers and events
//! that their readers have not taken.
//!
//! Each connection adds up what it holds. The first 16 KiB are free. What is above them comes out of one budget for all
//! connections of the server, of which a client has a share. So however many connections a client opens, and whatever it leaves
//! unread or unfinished, it takes its share and no more, and others have theirs.
//!
//! Where the share does not suffice, a request gets 503 `overloaded`. What cannot be answered any more ends its connection.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::FromRequestParts,
    http::{Extensions, StatusCode, request::Parts},
};

use super::{
    Api, Problem,
    error::RETRY_AFTER,
    rates::Caller,
    server::Hold,
    shares::{Beyond, Bounds, Share, Shares},
};
use crate::meter::Counter;

/// Bytes of a connection that do not count.
pub const FREE_BYTES: usize = 16 << 10;
/// Bytes by which a connection takes more of the budget, so that it is not asked for each event.
const STEP_BYTES: usize = 16 << 10;
/// The part of the ceiling of memory that the budget is, and the part of the budget that one client has: one in so many.
const PART: usize = 4;
/// The least and the greatest budget. A client's share of the least has room for the largest answer.
const BUDGET_BYTES: (usize, usize) = (64 << 20, 1 << 30);

/// The budget of memory for all connections of a server. A clone is the same budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    shares: Arc<Shares>,
    refusals: Counter,
}

impl Default for MemoryBudget {
    fn default() -> MemoryBudget {
        MemoryBudget::of_ceiling(None)
    }
}

impl MemoryBudget {
    /// A budget for all clients together, and the share of each.
    pub fn new(bytes: usize, per_client_bytes: usize) -> MemoryBudget {
        MemoryBudget(Arc::new(Budget { shares: Shares::new(bytes, per_client_bytes), refusals: Counter::default() }))
    }

    /// The budget of a node with this ceiling of memory: a quarter of the ceiling, from 64 MiB to 1 GiB.
    pub fn of_ceiling(memory_max: Option<u64>) -> MemoryBudget {
        let (least, most) = BUDGET_BYTES;
        let part = memory_max.map_or(most, |max| usize::try_from(max).unwrap_or(usize::MAX) / PART);
        let bytes = part.clamp(least, most);
        MemoryBudget::new(bytes, bytes / PART)
    }

    /// Bytes of the budget that are taken.
    pub fn taken(&self) -> usize {
        self.0.shares.all_taken()
    }

    /// Bytes of the budget.
    pub fn max(&self) -> usize {
        self.0.shares.max()
    }

    /// How often a connection needed more than there was.
    pub fn refusals(&self) -> u64 {
        self.0.refusals.read()
    }

    fn overloaded(&self, beyond: Beyond) -> Problem {
        let taken = match beyond {
            Beyond::All => format!("all clients together have {} bytes, and they are taken", self.max()),
            Beyond::Each(max) => {
                format!(
                    "one token (or one address, where no tokens are asked for) has {max} bytes, and yours are taken"
                )
            }
        };
        let detail = format!(
            "requests and messages that are here in part, and answers and events that are not read yet, take memory of this \
             node: {taken}. Read what you are sent, send less at once, or ask another node of the pool"
        );
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).with(RETRY_AFTER, 1)
    }
}

/// The memory that one connection makes the node hold. A clone is of the same connection.
#[derive(Clone, Debug)]
pub struct ConnectionMemory(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    budget: MemoryBudget,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    client: Caller,
    /// Bytes read that belong to no whole request or message yet, and how many there may be. None once they do not count.
    incoming: usize,
    incoming_max: Option<usize>,
    /// Messages of a WebSocket that are here whole and are being dealt with.
    whole: usize,
    /// The most that such messages came to: the library keeps a buffer of that size to the end of the connection.
    longest: usize,
    /// The head of the request that is being answered, and its body.
    head: usize,
    body: usize,
    /// The sum of all reservations.
    reserved: usize,
    share: Option<Share>,
}

impl Held {
    fn bytes(&self) -> usize {
        (self.incoming + self.whole).max(self.longest) + self.head + self.body + self.reserved
    }
}

impl FromRequestParts<Api> for ConnectionMemory {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<ConnectionMemory, Problem> {
        Ok(ConnectionMemory::of_request(parts, api))
    }
}

impl ConnectionMemory {
    /// A connection of a client that holds nothing yet.
    pub fn new(budget: MemoryBudget, client: Caller) -> ConnectionMemory {
        let held = Held {
            client,
            incoming: 0,
            incoming_max: Some(usize::MAX),
            whole: 0,
            longest: 0,
            head: 0,
            body: 0,
            reserved: 0,
            share: None,
        };
        ConnectionMemory(Arc::new(Connection { budget, held: Mutex::new(held) }))
    }

    /// The connection on which a request came; none for a request that came over no socket.
    pub fn of(extensions: &Extensions) -> Option<ConnectionMemory> {
        extensions.get().map(Hold::memory)
    }

    /// The connection on which a request came. A request that came over no socket has one of its own.
    pub fn of_request(parts: &Parts, api: &Api) -> ConnectionMemory {
        ConnectionMemory::of(&parts.extensions)
            .unwrap_or_else(|| ConnectionMemory::new(api.limits.memory.clone(), Caller::of_request(parts, api)))
    }

    /// Counts the connection for another client from now on. Where that client has no room, it counts for the one before.
    pub fn belongs_to(&self, client: Caller) {
        let mut held = self.held();
        if held.client == client {
            return;
        }
        let amount = held.share.as_ref().map_or(0, Share::amount);
        if let Ok(share) = self.0.budget.0.shares.take(client.clone(), amount) {
            held.share = Some(share);
            held.client = client;
        }
    }

    /// Counts bytes that were read from the connection. An error ends it.
    pub fn read(&self, bytes: usize) -> io::Result<()> {
        let mut held = self.held();
        let Some(incoming_max) = held.incoming_max else { return Ok(()) };
        held.incoming += bytes;
        // One piece is always taken: what it belongs to may be a body, which is refused with an answer.
        let bounds = if held.incoming <= FREE_BYTES { Bounds::None } else { Bounds::All };
        let settled = if held.incoming > incoming_max { None } else { self.settle(&mut held, bounds).ok() };
        settled.ok_or_else(|| io::Error::from(io::ErrorKind::QuotaExceeded))
    }

    /// Whether what is read counts.
    pub fn counts_incoming(&self) -> bool {
        self.held().incoming_max.is_some()
    }

    /// Bounds what may be here in part.
    pub fn bound_incoming(&self, bytes_max: usize) {
        self.held().incoming_max = Some(bytes_max);
    }

    /// Counts nothing that is read from now on: a link of a peer has bounds of its own.
    pub fn becomes_link(&self) {
        self.held().incoming_max = None;
        self.answered();
        self.handed_over();
    }

    /// The head of a request is here whole. It counts until the request is answered.
    pub fn head_came(&self) {
        let mut held = self.held();
        held.head = std::mem::take(&mut held.incoming);
    }

    /// What was read has been handed over to what counts it.
    pub fn handed_over(&self) {
        let mut held = self.held();
        if held.incoming > 0 {
            held.incoming = 0;
            self.settle_less(&mut held);
        }
    }

    /// A message of a WebSocket is here whole. What is read from now on belongs to the next.
    pub fn message_came(&self) {
        let mut held = self.held();
        held.whole += std::mem::take(&mut held.incoming);
    }

    /// The messages that came have been dealt with. A buffer of their size stays.
    pub fn messages_done(&self) {
        let mut held = self.held();
        held.longest = held.longest.max(std::mem::take(&mut held.whole));
    }

    /// A control frame of a WebSocket has come, maybe amid the parts of a message, which stays counted.
    pub fn control_frame(&self, payload_bytes: usize) {
        /// Bytes of the header of a short frame, and of the mask that each frame of a client has.
        const HEADER_BYTES: usize = 2 + 4;
        let mut held = self.held();
        held.incoming = held.incoming.saturating_sub(payload_bytes + HEADER_BYTES);
    }

    /// Counts the body of the request that is being answered, as far as it is here.
    pub fn hold_body(&self, bytes: usize) -> Result<(), Problem> {
        let mut held = self.held();
        let before = std::mem::replace(&mut held.body, bytes);
        let settled = self.settle(&mut held, Bounds::All);
        if settled.is_err() {
            held.body = before;
        }
        settled.map_err(|beyond| self.0.budget.overloaded(beyond))
    }

    /// The request has been dealt with.
    pub fn answered(&self) {
        let mut held = self.held();
        (held.head, held.body) = (0, 0);
        self.settle_less(&mut held);
    }

    /// Counts an answer instead of the request.
    pub fn answer(&self, bytes: usize, bounds: Bounds) -> Result<Reservation, Problem> {
        {
            let mut held = self.held();
            (held.head, held.body) = (0, 0);
        }
        self.take(bytes, bounds)
    }

    /// A reservation of nothing, which may grow.
    pub fn nothing(&self) -> Reservation {
        Reservation { memory: self.clone(), bytes: 0 }
    }

    /// Counts bytes until the reservation is dropped.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, Problem> {
        self.take(bytes, Bounds::All)
    }

    fn take(&self, bytes: usize, bounds: Bounds) -> Result<Reservation, Problem> {
        let mut reservation = self.nothing();
        reservation.change(bytes, bounds)?;
        Ok(reservation)
    }

    /// Takes as much of the budget as the connection holds, or gives back what it does not hold any more.
    fn settle(&self, held: &mut Held, bounds: Bounds) -> Result<(), Beyond> {
        let bytes = held.bytes();
        let needed = if bytes > FREE_BYTES { bytes.next_multiple_of(STEP_BYTES) } else { 0 };
        if held.share.as_ref().map_or(0, Share::amount) == needed {
            return Ok(());
        }
        let share = match &mut held.share {
            Some(share) => share,
            none => none.insert(self.0.budget.0.shares.take(held.client.clone(), 0)?),
        };
        let settled = share.resize_within(needed, bounds);
        if settled.is_err() {
            self.0.budget.0.refusals.count();
        }
        settled
    }

    fn settle_less(&self, held: &mut Held) {
        // To give back passes no limit.
        let _ = self.settle(held, Bounds::None);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that is counted for a connection until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    memory: ConnectionMemory,
    bytes: usize,
}

impl Reservation {
    /// Counts more, or less. Where there is no room for more, it stays as it is.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Problem> {
        self.change(bytes, Bounds::All)
    }

    /// Counts at least so much.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes > self.bytes { self.change(bytes, Bounds::All) } else { Ok(()) }
    }

    /// Takes a part of it out, so that the part can be given back by itself.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation { memory: self.memory.clone(), bytes }
    }

    fn change(&mut self, bytes: usize, bounds: Bounds) -> Result<(), Problem> {
        let memory = &self.memory;
        let mut held = memory.held();
        let before = held.reserved;
        held.reserved = before - self.bytes + bytes;
        if let Err(beyond) = memory.settle(&mut held, if bytes < self.bytes { Bounds::None } else { bounds }) {
            held.reserved = before;
            memory.settle_less(&mut held);
            return Err(memory.0.budget.overloaded(beyond));
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // To give back passes no limit.
        let _ = self.change(0, Bounds::None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::access::Principal;

    const KIB: usize = 1 << 10;

    fn client(name: &str) -> Caller {
        Caller::Token(Principal::named(name))
    }

    #[test]
    fn connections_of_one_client_share_and_what_is_free_does_not_count() {
        let budget = MemoryBudget::new(256 * KIB, 64 * KIB);
        let connections = [(); 2].map(|()| ConnectionMemory::new(budget.clone(), client("ada")));
        let small = connections[0].reserve(16 * KIB).unwrap();
        assert_eq!(budget.taken(), 0);
        let mut large = connections[1].reserve(40 * KIB).unwrap();
        assert_eq!(budget.taken(), 48 * KIB);
        assert!(connections[0].reserve(17 * KIB).is_err() && large.resize(65 * KIB).is_err());
        assert_eq!((budget.taken(), budget.refusals()), (48 * KIB, 2), "what is refused takes nothing");
        let part = large.split(30 * KIB);
        drop(large);
        assert_eq!(budget.taken(), 32 * KIB);
        drop((part, small));
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn what_is_read_counts_until_it_is_dealt_with_and_the_longest_message_to_the_end() {
        let budget = MemoryBudget::new(256 * KIB, 64 * KIB);
        let connection = ConnectionMemory::new(budget.clone(), client("ada"));
        for _ in 0..3 {
            connection.read(16 * KIB).unwrap();
        }
        connection.head_came();
        assert_eq!(budget.taken(), 48 * KIB, "the head of a request");
        assert!(connection.hold_body(17 * KIB).is_err());
        connection.answered();
        assert_eq!(budget.taken(), 0);
        connection.read(33 * KIB).unwrap();
        connection.message_came();
        connection.messages_done();
        assert_eq!(budget.taken(), 48 * KIB, "the buffer of a message");
        connection.read(33 * KIB).unwrap();
        assert_eq!(budget.taken(), 48 * KIB, "the next message takes its place");
        let error = connection.read(32 * KIB).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        drop(connection);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn a_connection_counts_for_whoever_uses_it() {
        let budget = MemoryBudget::new(256 * KIB, 64 * KIB);
        let connection = ConnectionMemory::new(budget.clone(), client("ada"));
        let held = connection.reserve(64 * KIB).unwrap();
        connection.belongs_to(client("ben"));
        let other = ConnectionMemory::new(budget.clone(), client("ada"));
        let ada = other.reserve(64 * KIB).unwrap();
        connection.belongs_to(client("ada"));
        assert!(
            ConnectionMemory::new(budget.clone(), client("ben")).reserve(17 * KIB).is_err(),
            "ada has no room for it"
        );
        drop((held, ada));
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn answers_that_must_be_given_are_given_and_probes_also_where_others_have_taken_all() {
        let budget = MemoryBudget::new(64 * KIB, 64 * KIB);
        let connection = |name| ConnectionMemory::new(budget.clone(), client(name));
        let (ada, ben) = (connection("ada"), connection("ben"));
        let all = ada.reserve(64 * KIB).unwrap();
        assert!(ben.answer(20 * KIB, Bounds::All).is_err());
        let probe = ben.answer(20 * KIB, Bounds::Own).unwrap();
        assert!(connection("ada").answer(20 * KIB, Bounds::Own).is_err());
        let written = connection("ada").answer(20 * KIB, Bounds::None).unwrap();
        assert_eq!(budget.taken(), 128 * KIB);
        drop((all, probe, written));
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn the_budget_follows_from_the_ceiling_of_memory() {
        let budgets = [Some(0), Some(512 << 20), Some(u64::MAX), None].map(|max| MemoryBudget::of_ceiling(max).max());
        assert_eq!(budgets, [64 << 20, 128 << 20, 1 << 30, 1 << 30]);
    }
}

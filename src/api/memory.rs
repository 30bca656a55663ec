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
    shares::{Beyond, Share, Shares},
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
        let must = held.incoming <= FREE_BYTES;
        let settled = if held.incoming > incoming_max { None } else { self.settle(&mut held, must).ok() };
        settled.ok_or_else(|| io::Error::from(io::ErrorKind::QuotaExceeded))
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
        let settled = self.settle(&mut held, false);
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

    /// Counts an answer instead of the request. One that `must` be given, since something was done, is not refused: the request
    /// was about as long.
    pub fn answer(&self, bytes: usize, must: bool) -> Result<Reservation, Problem> {
        {
            let mut held = self.held();
            (held.head, held.body) = (0, 0);
        }
        self.take(bytes, must)
    }

    /// A reservation of nothing, which may grow.
    pub fn nothing(&self) -> Reservation {
        Reservation { memory: self.clone(), bytes: 0 }
    }

    /// Counts bytes until the reservation is dropped.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, Problem> {
        self.take(bytes, false)
    }

    fn take(&self, bytes: usize, must: bool) -> Result<Reservation, Problem> {
        let mut reservation = self.nothing();
        reservation.change(bytes, must)?;
        Ok(reservation)
    }

    /// Takes as much of the budget as the connection holds, or gives back what it does not hold any more.
    fn settle(&self, held: &mut Held, must: bool) -> Result<(), Beyond> {
        let bytes = held.bytes();
        let needed = if bytes > FREE_BYTES { bytes.next_multiple_of(STEP_BYTES) } else { 0 };
        if held.share.as_ref().map_or(0, Share::amount) == needed {
            return Ok(());
        }
        let share = match &mut held.share {
            Some(share) => share,
            none => none.insert(self.0.budget.0.shares.take(held.client.clone(), 0)?),
        };
        let settled = if must { share.force(needed) } else { share.resize(needed) };
        if settled.is_err() {
            self.0.budget.0.refusals.count();
        }
        settled
    }

    fn settle_less(&self, held: &mut Held) {
        // To give back passes no limit.
        let _ = self.settle(held, true);
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
        self.change(bytes, false)
    }

    /// Counts at least so much.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        if bytes > self.bytes { self.change(bytes, false) } else { Ok(()) }
    }

    /// Takes a part of it out, so that the part can be given back by itself.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation { memory: self.memory.clone(), bytes }
    }

    fn change(&mut self, bytes: usize, must: bool) -> Result<(), Problem> {
        let memory = &self.memory;
        let mut held = memory.held();
        let before = held.reserved;
        held.reserved = before - self.bytes + bytes;
        if let Err(beyond) = memory.settle(&mut held, must || bytes < self.bytes) {
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
        let _ = self.change(0, true);
    }
}

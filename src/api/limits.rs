//! The limits of what clients may take of a node, as far as its operator sets them. docs/limits.md has them all.
//!
//! What is part of the data model is not here: the size and the depth of a document, the bytes and steps of an op, the
//! work of a patch. Two nodes must judge an op alike, so those are constants, next to their use.

use std::{num::NonZeroU32, time::Duration};

use super::MemoryBudget;

/// How much clients may take of a node.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of clients at once. Each takes some kilobytes, and a file descriptor; links of peers are not among them.
    /// From tens to 100,000; by default 16,384.
    pub connections: usize,
    /// Connections of one address at once, so that one machine does not take all of them. Behind a proxy all clients have one
    /// address. By default 4,096.
    pub connections_per_address: usize,
    /// Subscriptions of one WebSocket at once; each is looked at when something changes. By default 64.
    pub subscriptions: usize,
    /// Rooms of one WebSocket at once; all nodes know who is in each. By default 64.
    pub rooms: usize,
    /// Requests of one token, or of one address where there are no tokens. By default as many as the node can answer.
    pub requests: Option<Rate>,
    /// How long a client may take for its request's head, for the next request on a kept connection, and for agreeing
    /// upon the keys of TLS. By default 10 s.
    pub head_timeout: Duration,
    /// How long a client may take for a body, or for the next line of a bulk load. By default 60 s.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what it is sent. By default 20 s.
    pub write_timeout: Duration,
    /// After how much silence a WebSocket is pinged; after as much again it is taken for gone. Less finds the dead sooner and
    /// keeps proxies from cutting the line. By default 30 s.
    pub ping_every: Duration,
    /// Memory that all connections may make the node hold. By default 1 GiB, of which one client has 256 MiB.
    pub memory: MemoryBudget,
}

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: NonZeroU32,
    /// At once, after a pause.
    pub burst: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 16_384,
            connections_per_address: 4_096,
            subscriptions: 64,
            rooms: 64,
            requests: None,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(20),
            ping_every: Duration::from_secs(30),
            memory: MemoryBudget::default(),
        }
    }
}

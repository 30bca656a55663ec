//! Lamplight: a leaderless live database.
//!
//! Every node of a pool holds all the data in memory, serves its local clients, and gossips operations to its peers.
//! State is the fold of all operations in Lamport order. ARCHITECTURE.md has the map and the glossary.

pub mod api;
pub mod cli;
pub mod document;
pub mod meter;
pub mod node;
pub mod op;
pub mod plant;
pub mod record;
pub mod replica;
#[cfg(feature = "sim")]
pub mod sim;
pub mod snapshot;
pub mod storage;
pub mod version;
pub mod wire;

//! The documents' REST calls as docs/API.md describes them: a real server, a real client, every row of the table.

// A test's name is its sentence; and what a test cannot do without, it may unwrap.
#![allow(missing_docs, clippy::unwrap_used)]

mod bad_input;
mod bodies;
mod bulk;
mod conditions;
mod listing;
mod numbers;
mod pool;
mod selecting;
mod single;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod tx;
mod waiting;

//! The program as users and scripts meet it: the real binary against real nodes, each in a process of its own.
//!
//! Nothing here sleeps or tries again. Where a test must wait, it waits for a line that a process prints, or lets a node
//! wait by sending `Lamplight-Session`.

#![allow(clippy::unwrap_used, reason = "in a test, and in what only tests call, a panic is the report")]

mod commands;
mod configuring;
mod documents;
mod failures;
mod logging;
mod moving;
mod past;
mod program;
mod scratch;
mod serving;
mod status_watching;
mod tls;
mod watching;

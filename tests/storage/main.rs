//! The journal: what was stored comes back, and what is not as it was written is noticed.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod check;
mod copies;
mod crash;
mod cut;
mod damage;
mod faulty;
mod full;
mod support;

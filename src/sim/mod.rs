//! The simulator: many replicas in one thread on virtual time, every fault of the network, and what must hold.
//!
//! It rests on the core alone and carries out effects as the shell does. A run is drawn from one seed: [`Plan`] says
//! how many nodes, which faults and what clients do, [`Driver`] what happens when, [`World`] applies it, one
//! [`Action`] at a time, and checks named invariants after each. Nothing in a world is left to chance, so the actions
//! of a run, written to a file, replay it.
//!
//! It does not simulate disks, nor time that passes within a step.

mod action;
mod campaign;
mod decisions;
mod driver;
mod ledger;
mod loss;
mod malice;
mod model;
mod network;
mod plan;
mod rooms;
mod scale;
mod strikes;
mod tally;
mod workload;
mod world;

use std::fmt;

pub use action::{Action, BadLine, Birth, rule};
pub use campaign::{Campaign, Failure, event_file, malicious_seeds, replay, run_seed, run_seeds, seeds_to_find};
pub use driver::{Driver, Report};
pub use malice::{Malice, malice};
pub use model::Model;
pub use plan::{Fault, Mix, Plan};
pub use scale::{Scale, scale};
pub use tally::Tally;
pub use world::{Outcome, World};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// By whom and how.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// Whether something happens that happens so many times in a thousand.
fn chance(rng: &mut fastrand::Rng, per_mille: u32) -> bool {
    rng.u32(..1_000) < per_mille
}

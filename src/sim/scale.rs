//! Pools of hundreds of nodes: how an op spreads, what that costs, and how a healed partition comes together.
//!
//! The network is sound but for one long cut in halves, and single steps are not checked: what is measured here is
//! gossip, and what must hold is checked once, at the end.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Violation,
    action::Action,
    driver::{Driver, Due},
    plan::{Mix, Plan},
};
use crate::op::NodeId;

/// Between two looks at how far an op has come.
const LOOK_MS: u64 = 2;
/// Between the ops of the measurement.
const OP_EVERY_MS: u64 = 500;
/// Writes on both sides of the cut, one in so many milliseconds.
const CUT_WRITE_MS: u64 = 2_000;
/// Longer than this nothing is waited for.
const PATIENCE_MS: u64 = 120_000;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Nodes in the pool.
    pub nodes: usize,
    /// From the first start to one pool of all.
    pub formed_ms: u64,
    /// Least, mean and most links of a node.
    pub links: (usize, f64, usize),
    /// Ops that were followed.
    pub ops: usize,
    /// From an op's issue to its coming to the last node: median and worst.
    pub spread_ms: (u64, u64),
    /// Times that a node heard an op which it held, for each op: mean over nodes and ops, and mean of the worst node.
    pub duplicates: (f64, f64),
    /// How long the halves were cut.
    pub cut_ms: u64,
    /// Ops written on both sides meanwhile.
    pub cut_ops: usize,
    /// From the end of the cut to equal logs everywhere.
    pub healed_ms: u64,
    /// From then on to everything being final everywhere, nobody waiting for it.
    pub final_ms: u64,
    /// Events of the simulation.
    pub events: u64,
}

/// Forms a pool of so many nodes with latencies of 10 to 50 ms, follows `ops` ops through it, cuts it in halves for
/// `cut_ms` while both take writes, and heals it.
pub fn scale(nodes: usize, ops: usize, cut_ms: u64, seed: u64) -> Result<Scale, Violation> {
    let mut driver = Driver::new(plan(nodes, seed), false, None);
    for machine in 0..nodes {
        let at_ms = if machine == 0 { 0 } else { driver.rng.u64(0..5_000) };
        driver.at(at_ms, Due::Start(machine, false));
    }
    let formed_ms = driver.until_converged(nodes)?;
    // Links go on changing for a while after the pool has formed.
    driver.run_to(driver.now_ms + 30_000)?;
    let links: Vec<usize> = driver.world.live().map(|(_, replica)| replica.linked().count()).collect();
    let before = driver.duplicates();
    let mut spread = Vec::with_capacity(ops);
    for _ in 0..ops {
        spread.push(driver.spread()?);
        driver.run_to(driver.now_ms + OP_EVERY_MS)?;
    }
    spread.sort_unstable();
    let of_node: Vec<u64> = driver.duplicates().iter().zip(before).map(|(after, before)| after - before).collect();
    let a_node = |count: u64| count as f64 / ops.max(1) as f64;
    let (cut_ops, healed_ms) = driver.cut_and_heal(nodes, cut_ms)?;
    let final_ms = driver.until_final()?;
    driver.act(&Action::Quiet)?;
    Ok(Scale {
        nodes,
        formed_ms,
        links: (
            links.iter().copied().min().unwrap_or(0),
            links.iter().sum::<usize>() as f64 / nodes as f64,
            links.iter().copied().max().unwrap_or(0),
        ),
        ops,
        spread_ms: (spread.get(ops / 2).copied().unwrap_or(0), spread.last().copied().unwrap_or(0)),
        duplicates: (a_node(of_node.iter().sum()) / nodes as f64, a_node(of_node.iter().copied().max().unwrap_or(0))),
        cut_ms,
        cut_ops,
        healed_ms,
        final_ms,
        events: driver.tally.steps,
    })
}

impl Driver<'_> {
    /// Waits until all nodes are one pool; returns how long that took.
    pub(super) fn until_converged(&mut self, nodes: usize) -> Result<u64, Violation> {
        let start_ms = self.now_ms;
        while self.world.live().count() < nodes || !self.world.converged() {
            if self.now_ms > start_ms + PATIENCE_MS {
                self.act(&Action::Quiet)?;
                let detail = format!("{} of {nodes} nodes live", self.world.live().count());
                return Err(Violation { invariant: "all nodes come up", detail });
            }
            self.run_to(self.now_ms + 50)?;
        }
        Ok(self.now_ms - start_ms)
    }

    /// Waits until everything is final everywhere, or patience ends; returns how long that took.
    fn until_final(&mut self) -> Result<u64, Violation> {
        let start_ms = self.now_ms;
        while !self.world.is_final() && self.now_ms <= start_ms + PATIENCE_MS {
            self.run_to(self.now_ms + 500)?;
        }
        Ok(self.now_ms - start_ms)
    }

    /// Issues an op somewhere and waits until everyone holds it; returns how long that took.
    fn spread(&mut self) -> Result<u64, Violation> {
        let start_ms = self.now_ms;
        let heads: BTreeMap<usize, u64> = self.own_seqs();
        self.submit_somewhere()?;
        let issued = self.own_seqs().into_iter().find(|(node, seq)| heads.get(node) != Some(seq));
        let Some((origin, seq)) = issued else { return self.spread() };
        let origin = NodeId(self.world.nodes()[origin].birth.id);
        while self.world.live().any(|(_, replica)| replica.log().head(origin).seq < seq) {
            if self.now_ms > start_ms + PATIENCE_MS {
                let detail = format!("op {seq} of {origin} has not after {PATIENCE_MS} ms");
                return Err(Violation { invariant: "an op reaches everyone", detail });
            }
            self.run_to(self.now_ms + LOOK_MS)?;
        }
        Ok(self.now_ms - start_ms)
    }

    fn own_seqs(&self) -> BTreeMap<usize, u64> {
        let seq =
            |(node, replica): (usize, &crate::replica::Replica)| (node, replica.log().head(replica.config().node).seq);
        self.world.live().map(seq).collect()
    }

    fn duplicates(&self) -> Vec<u64> {
        self.world.live().map(|(_, replica)| replica.counters().duplicates).collect()
    }

    fn cut_and_heal(&mut self, nodes: usize, cut_ms: u64) -> Result<(usize, u64), Violation> {
        let here = |machine: usize| machine < nodes / 2;
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        let pairs: Vec<(usize, usize)> = pairs.filter(|(from, to)| here(*from) != here(*to)).collect();
        self.network.block(&pairs);
        let (end_ms, mut written) = (self.now_ms + cut_ms, 0);
        while self.now_ms < end_ms {
            written += usize::from(self.submit_somewhere()?);
            self.run_to(end_ms.min(self.now_ms + CUT_WRITE_MS))?;
        }
        self.take(Due::Unblock(pairs))?;
        Ok((written, self.until_converged(nodes)?))
    }
}

pub(super) fn plan(nodes: usize, seed: u64) -> Plan {
    Plan {
        seed,
        machines: nodes,
        newcomers: 0,
        all_found: false,
        storm_ms: 0,
        faults: BTreeSet::new(),
        rate: 0,
        strike_ms: 1,
        latency_ms: (10, 50),
        write_ms: 1,
        writes_max: 0,
        mix: Mix {
            collections: 1,
            documents: 20,
            put: 1,
            merge: 0,
            patch: 0,
            delete: 0,
            text: 0,
            tx: 0,
            keyed: 0,
            guarded: 0,
        },
        early_max: None,
        audit_every: u64::MAX,
        all_return: false,
        durable: false,
        disks_die: false,
        disk_ms: (0, 0),
        retain: vec![usize::MAX],
        compact: 0,
        squeeze: (u64::MAX, usize::MAX),
        present_ms: 0,
        tight: 0,
        slow: 250,
        course: super::plan::Course::Storm,
        lonely: false,
        step_max: u64::MAX,
        evict_after_ms: None,
        name: None,
    }
}

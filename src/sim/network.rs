//! The simulated network: who hears whom, and what becomes of each message.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    chance,
    plan::{Fault, Plan},
};

/// The state of the network.
#[derive(Debug)]
pub struct Network {
    latency_ms: (u64, u64),
    rate: u32,
    slow: u32,
    /// Faults of single messages; empty once the storm is over.
    faults: BTreeSet<Fault>,
    /// Directed pairs of machines that do not hear each other, with how many faults say so.
    blocked: BTreeMap<(usize, usize), u32>,
    /// Link ends whose messages are held back.
    held: BTreeSet<usize>,
    /// What waits for a partition to heal or a hold to end, in its order.
    parked: Vec<Parked>,
    /// When the last message of an end arrives: a link keeps the order of what it carries.
    last_ms: BTreeMap<usize, u64>,
}

/// Something that cannot happen now.
#[derive(Clone, Copy, Debug)]
pub struct Parked {
    /// The sending end.
    pub end: usize,
    /// The message, or none for the word that a batch has left.
    pub number: Option<u64>,
    /// The machines that it goes between.
    pub between: (usize, usize),
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then; and again then.
    Arrives(u64, Option<u64>),
    /// It arrives then, cut short.
    Garbled(u64),
    /// It never arrives.
    Lost,
}

impl Network {
    /// The network of a run, sound so far.
    pub fn new(plan: &Plan) -> Network {
        Network {
            latency_ms: plan.latency_ms,
            rate: plan.rate,
            slow: plan.slow,
            faults: BTreeSet::new(),
            blocked: BTreeMap::new(),
            held: BTreeSet::new(),
            parked: Vec::new(),
            last_ms: BTreeMap::new(),
        }
    }

    /// The storm begins.
    pub fn begin(&mut self, plan: &Plan) {
        self.faults.clone_from(&plan.faults);
    }

    /// The storm is over: returns what waited.
    pub fn end(&mut self) -> Vec<Parked> {
        self.faults.clear();
        self.blocked.clear();
        self.held.clear();
        std::mem::take(&mut self.parked)
    }

    /// A latency.
    pub fn latency(&self, rng: &mut fastrand::Rng) -> u64 {
        rng.u64(self.latency_ms.0..=self.latency_ms.1)
    }

    /// How long a batch of ops takes to leave.
    pub fn transmission(&self, rng: &mut fastrand::Rng, fired: &mut BTreeMap<Fault, u64>) -> u64 {
        if self.faults.contains(&Fault::Slow) && chance(rng, self.slow) {
            *fired.entry(Fault::Slow).or_default() += 1;
            return rng.u64(50..800);
        }
        rng.u64(0..3)
    }

    /// What becomes of a message that an end sends now.
    pub fn fate(
        &mut self,
        now_ms: u64,
        end: usize,
        close: bool,
        rng: &mut fastrand::Rng,
        fired: &mut BTreeMap<Fault, u64>,
    ) -> Fate {
        let mut strikes = |fault, rng: &mut fastrand::Rng| {
            let strikes = self.faults.contains(&fault) && chance(rng, self.rate);
            *fired.entry(fault).or_default() += u64::from(strikes);
            strikes
        };
        let mut latency_ms = rng.u64(self.latency_ms.0..=self.latency_ms.1);
        if strikes(Fault::Delay, rng) {
            latency_ms += rng.u64(20..1_000);
        }
        let last_ms = self.last_ms.get(&end).copied().unwrap_or(0);
        let in_order_ms = last_ms.max(now_ms + latency_ms);
        if close {
            return Fate::Arrives(in_order_ms, None);
        }
        if strikes(Fault::Loss, rng) {
            return Fate::Lost;
        }
        if in_order_ms > now_ms && last_ms > now_ms && strikes(Fault::Reorder, rng) {
            return Fate::Arrives(rng.u64(now_ms..last_ms), None);
        }
        self.last_ms.insert(end, in_order_ms);
        if strikes(Fault::Garble, rng) {
            return Fate::Garbled(in_order_ms);
        }
        let again = strikes(Fault::Duplicate, rng).then(|| in_order_ms + rng.u64(0..300));
        Fate::Arrives(in_order_ms, again)
    }

    /// When a message about presence arrives, once or twice, if it does. These go their own way, in any order among each other
    /// and all else: what they say must not depend on it.
    pub fn presence_fate(&self, now_ms: u64, rng: &mut fastrand::Rng) -> Vec<u64> {
        let strikes = |fault, rng: &mut fastrand::Rng| self.faults.contains(&fault) && chance(rng, self.rate);
        if strikes(Fault::Loss, rng) {
            return Vec::new();
        }
        let delay_ms = if strikes(Fault::Delay, rng) { rng.u64(20..1_000) } else { 0 };
        let mut arrival_ms = vec![now_ms + self.latency(rng) + delay_ms];
        if strikes(Fault::Duplicate, rng) {
            // Much later now and then: who is gone must not come back.
            arrival_ms.push(arrival_ms[0] + rng.u64(0..3_000));
        }
        arrival_ms
    }

    /// Nothing that an end sends arrives before this.
    pub fn not_before(&mut self, end: usize, ms: u64) {
        let last = self.last_ms.entry(end).or_default();
        *last = ms.max(*last);
    }

    /// When the last of what an end sent arrives.
    pub fn arrival(&self, end: usize) -> u64 {
        self.last_ms.get(&end).copied().unwrap_or(0)
    }

    /// Whether what an end sends must wait.
    pub fn stops(&self, parked: &Parked) -> bool {
        self.held.contains(&parked.end) || self.is_blocked(parked.between)
    }

    /// Whether one machine does not hear another.
    pub fn is_blocked(&self, between: (usize, usize)) -> bool {
        self.blocked.contains_key(&between)
    }

    /// Keeps what must wait.
    pub fn park(&mut self, parked: Parked) {
        self.parked.push(parked);
    }

    /// Blocks directed pairs of machines.
    pub fn block(&mut self, pairs: &[(usize, usize)]) {
        pairs.iter().for_each(|pair| *self.blocked.entry(*pair).or_default() += 1);
    }

    /// Takes a block back; returns what waited for it.
    pub fn unblock(&mut self, pairs: &[(usize, usize)]) -> Vec<Parked> {
        for pair in pairs {
            if let Some(count) = self.blocked.get_mut(pair) {
                *count -= 1;
            }
        }
        self.blocked.retain(|_, count| *count > 0);
        self.freed()
    }

    /// Holds back what an end sends.
    pub fn hold(&mut self, end: usize) {
        self.held.insert(end);
    }

    /// Lets it go; returns what waited.
    pub fn release(&mut self, end: usize) -> Vec<Parked> {
        self.held.remove(&end);
        self.freed()
    }

    fn freed(&mut self) -> Vec<Parked> {
        let (waiting, freed) = std::mem::take(&mut self.parked).into_iter().partition(|parked| self.stops(parked));
        self.parked = waiting;
        freed
    }
}

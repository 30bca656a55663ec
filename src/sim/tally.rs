//! What really occurred in a run, summed over runs: a simulation in which nothing went wrong proves nothing.

use std::{collections::BTreeMap, fmt};

use super::{plan::Fault, world::Node};

/// Counts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Runs.
    pub seeds: u64,
    /// Events that were scheduled.
    pub events: u64,
    /// Actions that were applied.
    pub steps: u64,
    /// Ops that clients asked for.
    pub writes: u64,
    /// Faults, by kind.
    pub fired: BTreeMap<Fault, u64>,
    /// Ops that follow one of the same document which they had not seen.
    pub pairs: u64,
    /// Ops that came after later ones.
    pub late: u64,
    /// Ops that came before what they rest on.
    pub early: u64,
    /// Ops that came twice.
    pub duplicates: u64,
    /// Times that missing ops were asked for.
    pub repairs: u64,
    /// Documents rolled back.
    pub rolled_back: u64,
    /// Documents replayed because an op linked them to another.
    pub dependent: u64,
    /// Verdicts that turned.
    pub turned: u64,
    /// Ops without effect in the end.
    pub rejected: u64,
    /// Ops that were forgotten.
    pub forgotten: u64,
    /// Snapshots that nodes began with.
    pub adopted: u64,
    /// Changes of what clients show of themselves.
    pub presents: u64,
    /// Times that every member was evicted, and an operator let one node go on.
    pub let_go_on: u64,
    /// The longest that a pool took to come to rest after its storm.
    pub calm_ms: u64,
}

impl Tally {
    /// Adds what a node counted.
    pub fn count(&mut self, node: &Node) {
        let counters = node.replica.as_ref().map_or(node.counted, super::super::replica::Replica::counters);
        self.late += counters.late;
        self.early += counters.early;
        self.duplicates += counters.duplicates;
        self.repairs += counters.repairs;
        self.adopted += counters.adopted;
        if let Some(replica) = &node.replica {
            let work = replica.state().work();
            self.rolled_back += work.rolled_back;
            self.dependent += work.dependent;
            self.turned += work.turned;
            self.rejected += replica.state().rejected().count() as u64;
            self.forgotten += (replica.log().len() - replica.log().kept().0) as u64;
        }
    }

    /// Adds another run, or the sum of several.
    pub fn add(&mut self, other: &Tally) {
        self.calm_ms = self.calm_ms.max(other.calm_ms);
        self.let_go_on += other.let_go_on;
        let theirs = other.clone().fields().map(|(_, field)| *field);
        self.fields().into_iter().zip(theirs).for_each(|((_, mine), theirs)| *mine += theirs);
        for (fault, count) in &other.fired {
            *self.fired.entry(*fault).or_default() += count;
        }
    }

    /// What never occurred: a run over many seeds that lacks any of these is void.
    pub fn lacking(&self) -> Vec<String> {
        let faults = Fault::ALL.into_iter().filter(|fault| self.fired.get(fault).is_none_or(|count| *count == 0));
        let faults = faults.map(|fault| format!("{fault:?}"));
        let events = self.clone().fields().map(|(name, count)| (name, *count));
        let events = events.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name.to_string());
        faults.chain(events).collect()
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 16] {
        [
            ("seeds", &mut self.seeds),
            ("events", &mut self.events),
            ("steps", &mut self.steps),
            ("writes", &mut self.writes),
            ("concurrent pairs", &mut self.pairs),
            ("late ops", &mut self.late),
            ("early ops", &mut self.early),
            ("duplicates", &mut self.duplicates),
            ("repairs", &mut self.repairs),
            ("rollbacks", &mut self.rolled_back),
            ("dependent replays", &mut self.dependent),
            ("turned verdicts", &mut self.turned),
            ("rejected ops", &mut self.rejected),
            ("forgotten ops", &mut self.forgotten),
            ("adopted snapshots", &mut self.adopted),
            ("presents", &mut self.presents),
        ]
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.clone().fields() {
            writeln!(f, "{count:>12} {name}")?;
        }
        for (fault, count) in &self.fired {
            writeln!(f, "{count:>12} fault {fault:?}")?;
        }
        writeln!(f, "{:>12} times that an operator let a node go on after crossed evictions", self.let_go_on)?;
        write!(f, "{:>12} ms at most from the end of a storm to rest", self.calm_ms)
    }
}

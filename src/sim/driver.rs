//! One run: draws what happens when from the seed, and applies it to the world in the order of virtual time.
//!
//! A run has a storm, in which clients write and faults strike, and a calm: the network is made whole, nobody writes,
//! and after some virtual time all that must hold once quiet is checked. Then one more op must reach everyone at once.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Violation,
    action::{Action, Birth, Wrong},
    chance,
    network::{Fate, Network, Parked},
    plan::{AtFirst, Course, Fault, Plan},
    tally::Tally,
    workload::Workload,
    world::{Outcome, World},
};
use crate::{
    op::NodeId,
    plant::Rule,
    replica::{Draft, Standing, TICK_MS},
    wire::Message,
};

/// With many founders the storm begins when they have had time to agree: a cut before would make two pools of one.
const FOUNDING_MS: u64 = 6_000;
/// The name that all nodes look for each other by, where they do.
const NAME: &str = "http://pool:1";
/// So long after its addresses are published everywhere, those who looked for each other are one pool.
const UNITED_MS: u64 = 8_000;
/// The calm ends at the latest after this.
const CALM_MS: u64 = 150_000;
/// So long a pool is left to itself before an operator sees to it, the first time; each further time twice as long, for what he
/// does takes the nodes some time.
const ALONE_MS: u64 = 10_000;
/// A pool that has come to rest is looked at again after this.
const SETTLE_MS: u64 = 2_000;
/// A quiet pool spreads an op within this, well before the repair by beats would.
const SPREAD_MS: u64 = 1_200;
/// How far the wall clocks of skewed nodes differ: twenty years.
const SKEW_MS: u64 = 20 * 365 * 86_400_000;
/// When simulated time began.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What is to happen at some time.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// Takes place as it is.
    Act(Action),
    /// Takes place unless the network stops it.
    Carry(Action, Parked),
    /// A dial gets through, or does not.
    Reach(usize),
    Tick(usize),
    Write,
    /// A client writes at the node of this machine, before the storm.
    WriteEarly(usize),
    Start(usize, bool),
    Storm,
    Strike(Fault),
    /// One of many writes at once.
    Burst,
    /// A node vanishes for good.
    Die,
    /// An operator evicts who has vanished.
    Bury,
    /// An operator evicts the members on these machines.
    Oust(Vec<usize>),
    /// An operator at one machine evicts the member on another, and asks again until a time if that is refused.
    Cross(usize, usize, u64),
    /// Two of three machines are gone while the third is being evicted; the third was cut off by these pairs.
    Vanish([usize; 3], Vec<(usize, usize)>),
    /// A newcomer that a copy lets in is to turn to the node before it is a member, until a time; these pairs keep it off the node.
    TurnAway(Vec<(usize, usize)>, u64),
    /// A client writes at this machine, or sends again what it sent before.
    WriteAt(usize, Option<Draft>),
    /// The node of this machine vanishes.
    Kill(usize),
    /// The node of this machine retires, if it has come back as another just now.
    LeaveAgain(usize),
    /// A node that has retired ends.
    Gone(usize),
    Block(Vec<(usize, usize)>),
    Unblock(Vec<(usize, usize)>),
    Release(usize),
    Calm,
    Watch,
    Spread,
    /// A client shows something of itself.
    Present,
    /// Something about presence takes place, which counts as no step.
    Aside(Action),
}

/// What a run has come to.
#[derive(Debug)]
pub struct Report {
    /// What really occurred.
    pub tally: Tally,
    /// Hash over everything that happened.
    pub trace: String,
    /// What was broken, and when; nothing if all held.
    pub broken: Option<(u64, Violation)>,
}

/// Draws and applies.
#[derive(Debug)]
pub struct Driver<'e> {
    pub(super) plan: Plan,
    pub(super) world: World,
    pub(super) network: Network,
    pub(super) rng: fastrand::Rng,
    /// Of presence; so all else goes on as it would without.
    pub(super) shows: fastrand::Rng,
    /// Of nodes that come back from old copies and are cut off.
    pub(super) lonely: fastrand::Rng,
    /// Of what data directories know of the nodes before.
    pub(super) knows: fastrand::Rng,
    pub(super) tally: Tally,
    pub(super) now_ms: u64,
    pub(super) stormy: bool,
    pub(super) workload: Workload,
    queue: BTreeMap<(u64, u64), Due>,
    scheduled: u64,
    /// Killed nodes whose journals will be old copies, of so many records.
    pub(super) old_disks: BTreeMap<usize, usize>,
    /// What clients had sent when such a node was killed, where it comes back alone.
    pub(super) sent: Vec<Draft>,
    /// Until when a node is away for long.
    pub(super) away_until_ms: u64,
    /// Starts on the calendar: before these a pool is not at rest.
    starts: usize,
    pub(super) urls: Vec<String>,
    /// How often an operator has seen to the pool since.
    seen_to: u64,
    /// Until when each machine does not find all addresses of the name.
    late_ms: Vec<u64>,
    calm_ms: u64,
    /// Whether the pool was at rest when it was last looked at.
    rested: bool,
    done: bool,
    events: Option<&'e mut Vec<String>>,
}

impl<'e> Driver<'e> {
    /// A run of a plan. `events` takes the lines of its event file.
    pub fn new(plan: Plan, checks: bool, events: Option<&'e mut Vec<String>>) -> Driver<'e> {
        // Not the generator that the plan was drawn from, or runs of like plans would be alike.
        let rng = fastrand::Rng::with_seed(plan.seed ^ 0x9e37_79b9_7f4a_7c15);
        let copies = usize::from(matches!(plan.course, Course::Copies | Course::CopyFirst));
        let machines = plan.machines + plan.newcomers + copies;
        let urls = (0..machines).map(|machine| format!("http://m{machine}:1")).collect();
        Driver {
            world: World::new(checks),
            network: Network::new(&plan),
            rng,
            shows: fastrand::Rng::with_seed(plan.seed ^ 0x5851_f42d_4c95_7f2d),
            lonely: fastrand::Rng::with_seed(plan.seed ^ 0x2545_f491_4f6c_dd1d),
            knows: fastrand::Rng::with_seed(plan.seed ^ 0x006b_6e6f_7773),
            tally: Tally::default(),
            now_ms: 0,
            stormy: false,
            workload: Workload::new(plan.mix),
            queue: BTreeMap::new(),
            scheduled: 0,
            old_disks: BTreeMap::new(),
            sent: Vec::new(),
            away_until_ms: 0,
            starts: 0,
            urls,
            seen_to: 0,
            late_ms: Vec::new(),
            calm_ms: 0,
            rested: false,
            done: false,
            events,
            plan,
        }
    }

    /// Runs to the end, or to the first broken promise. `left_out` is a bug to plant.
    pub fn run(mut self, left_out: Option<Rule>) -> Report {
        let broken = self.drive(left_out).err().map(|violation| (self.now_ms, violation));
        self.tally.events = self.scheduled;
        self.tally.pairs = self.world.concurrent_pairs();
        self.world.nodes().iter().for_each(|node| self.tally.count(node));
        Report { tally: self.tally, trace: self.world.trace_hash(), broken }
    }

    fn drive(&mut self, left_out: Option<Rule>) -> Result<(), Violation> {
        self.act(&Action::LeaveOut(left_out))?;
        self.act(&Action::EarlyMax(self.plan.early_max.unwrap_or(usize::MAX)))?;
        self.act(&Action::Squeeze(self.plan.squeeze.0, self.plan.squeeze.1))?;
        if self.plan.step_max < u64::MAX {
            self.act(&Action::SqueezeStep(self.plan.step_max))?;
        }
        self.open();
        while let Some(((at_ms, _), due)) = self.queue.pop_first() {
            self.now_ms = at_ms;
            self.take(due)?;
            if self.done {
                break;
            }
        }
        Ok(())
    }

    /// Puts the course of the run on the calendar.
    fn open(&mut self) {
        let storm_ms = match self.plan.name {
            Some(name) => name.late_ms * 3 / 2 + UNITED_MS,
            None if self.plan.all_found => FOUNDING_MS,
            None => 0,
        };
        if self.plan.name.is_some() {
            self.open_by_name(storm_ms);
        }
        for machine in 0..self.plan.machines {
            let spread_ms = if self.plan.all_found { 300 } else { 1_500 };
            let at_ms = if machine == 0 { 0 } else { self.rng.u64(0..spread_ms) };
            self.at(at_ms, Due::Start(machine, false));
        }
        let newcomers = if self.plan.course == Course::CopyFirst { 0 } else { self.plan.newcomers };
        for machine in self.plan.machines..self.plan.machines + newcomers {
            let at_ms = storm_ms + self.rng.u64(0..self.plan.storm_ms);
            self.at(at_ms, Due::Start(machine, false));
        }
        self.calm_ms = storm_ms + self.plan.storm_ms;
        self.at(storm_ms, Due::Storm);
        self.at(self.calm_ms, Due::Calm);
    }

    /// What goes on while nodes look for each other by one name.
    fn open_by_name(&mut self, storm_ms: u64) {
        let Some(name) = self.plan.name else { return };
        self.late_ms = (0..self.plan.machines).map(|_| name.late_ms + self.rng.u64(..=name.late_ms / 2)).collect();
        if name.early_write {
            let machine = self.rng.usize(..self.plan.machines);
            for _ in 0..3 {
                let at_ms = self.rng.u64(..storm_ms);
                self.at(at_ms, Due::WriteEarly(machine));
            }
        }
        self.at(storm_ms, Due::Act(Action::United));
    }

    /// What a machine finds when it looks the name up.
    fn look_up(&self, machine: usize) -> Vec<String> {
        let late_ms = self.late_ms.get(machine).copied().unwrap_or(0);
        let at_first = self.plan.name.map(|name| name.at_first).filter(|_| self.now_ms < late_ms);
        let machines = 0..self.plan.machines;
        let found: Vec<usize> = match at_first {
            None => machines.collect(),
            Some(AtFirst::Nothing) => Vec::new(),
            Some(AtFirst::Oneself) => vec![machine],
            Some(AtFirst::Pairs) => machines.filter(|other| other / 2 == machine / 2).collect(),
        };
        found.into_iter().map(|machine| format!("m{machine}:1")).collect()
    }

    pub(super) fn at(&mut self, at_ms: u64, due: Due) {
        self.starts += usize::from(matches!(due, Due::Start(..)));
        self.queue.insert((at_ms, self.scheduled), due);
        self.scheduled += 1;
    }

    pub(super) fn after(&mut self, wait_ms: u64, due: Due) {
        self.at(self.now_ms + wait_ms, due);
    }

    /// Goes on until this time.
    pub(super) fn run_to(&mut self, until_ms: u64) -> Result<(), Violation> {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= until_ms
        {
            let ((at_ms, _), due) = entry.remove_entry();
            self.now_ms = at_ms;
            self.take(due)?;
        }
        self.now_ms = until_ms;
        Ok(())
    }

    pub(super) fn take(&mut self, due: Due) -> Result<(), Violation> {
        match due {
            Due::Act(action) => self.act(&action)?,
            Due::Carry(action, parked) => {
                if self.network.stops(&parked) {
                    self.network.park(parked);
                } else {
                    self.act(&action)?;
                }
            }
            Due::Reach(dial) => self.reach(dial)?,
            Due::Tick(node) => {
                if self.world.nodes()[node].replica.is_some() {
                    self.act(&Action::Tick(node))?;
                    if self.plan.durable && self.happens(self.plan.compact) {
                        self.act(&Action::Compact(node))?;
                    }
                    if self.plan.tight > 0 && self.happens(self.plan.tight) {
                        let tight = self.rng.bool();
                        self.act(&Action::Tight(node, tight))?;
                    }
                    self.after(TICK_MS, Due::Tick(node));
                }
            }
            Due::Write => self.write()?,
            Due::WriteEarly(machine) => self.write_early(machine)?,
            Due::Start(machine, again) => {
                self.starts -= 1;
                self.start(machine, again)?;
                if again {
                    self.may_leave_again(machine);
                }
            }
            Due::Storm => self.storm(),
            Due::Strike(fault) => self.strike(fault)?,
            Due::Burst if self.stormy => {
                self.tally.writes += 1;
                self.submit_somewhere()?;
            }
            Due::Burst => {}
            Due::Die => self.die()?,
            Due::Bury => self.bury()?,
            Due::Oust(machines) => self.oust(&machines)?,
            Due::Cross(by, evicted, until_ms) => self.cross((by, evicted), until_ms)?,
            Due::Vanish(order, pairs) => self.vanish(order, pairs)?,
            Due::TurnAway(pairs, until_ms) => self.turn_away(pairs, until_ms)?,
            Due::WriteAt(machine, again) => self.write_at(machine, again)?,
            Due::Kill(machine) => self.kill_at(machine)?,
            Due::LeaveAgain(machine) => self.leave_again(machine)?,
            Due::Gone(node) => self.gone(node)?,
            Due::Block(pairs) => self.network.block(&pairs),
            Due::Unblock(pairs) => {
                let freed = self.network.unblock(&pairs);
                self.free(freed);
            }
            Due::Release(end) => {
                let freed = self.network.release(end);
                self.free(freed);
            }
            Due::Calm => self.calm()?,
            Due::Watch => self.watch()?,
            Due::Present => self.present()?,
            Due::Aside(action) => self.aside(&action)?,
            Due::Spread => {
                self.act(&Action::Spread)?;
                self.done = true;
            }
        }
        Ok(())
    }

    /// Applies an action, and puts on the calendar what it set under way.
    pub(super) fn act(&mut self, action: &Action) -> Result<(), Violation> {
        self.tally.steps += 1;
        self.apply(action)?;
        if self.tally.steps.is_multiple_of(self.plan.audit_every) {
            let node = self.rng.usize(..self.world.nodes().len().max(1));
            self.act(&Action::Audit(node))?;
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, action: &Action) -> Result<(), Violation> {
        if let Some(events) = &mut self.events {
            events.push(format!("{} {action}{}", self.now_ms, self.world.describe(action)));
        }
        for outcome in self.world.apply(self.now_ms, action)? {
            match outcome {
                Outcome::Sent { end, number, ops, close } => self.sent(end, number, ops, close),
                Outcome::Showed { end, number } => self.showed(end, number),
                Outcome::Storing(node, end) => {
                    let wait_ms = self.rng.u64(self.plan.disk_ms.0..=self.plan.disk_ms.1);
                    self.after(wait_ms, Due::Act(Action::Stored(node, end)));
                }
                Outcome::Dialled(dial) => {
                    let wait_ms = self.network.latency(&mut self.rng);
                    self.after(wait_ms, Due::Reach(dial));
                }
            }
        }
        Ok(())
    }

    pub(super) fn machine(&self, node: usize) -> usize {
        self.world.nodes()[node].birth.machine
    }

    pub(super) fn between(&self, end: usize) -> (usize, usize) {
        let ends = self.world.ends();
        (self.machine(ends[end].node), self.machine(ends[ends[end].peer].node))
    }

    /// Something left an end: decides what becomes of it.
    fn sent(&mut self, end: usize, number: u64, ops: bool, close: bool) {
        let between = self.between(end);
        if ops {
            let wait_ms = self.network.transmission(&mut self.rng, &mut self.tally.fired);
            let parked = Parked { end, number: None, between };
            self.after(wait_ms, Due::Carry(Action::Flushed(end), parked));
        }
        let parked = Parked { end, number: Some(number), between };
        match self.network.fate(self.now_ms, end, close, &mut self.rng, &mut self.tally.fired) {
            Fate::Lost => self.after(0, Due::Act(Action::Lose(end, number))),
            Fate::Garbled(at_ms) => self.at(at_ms, Due::Carry(Action::Garble(end, number), parked)),
            Fate::Arrives(at_ms, None) => self.at(at_ms, Due::Carry(Action::Deliver(end, number), parked)),
            Fate::Arrives(at_ms, Some(again_ms)) => {
                self.at(at_ms, Due::Carry(Action::Copy(end, number), parked));
                self.at(again_ms, Due::Carry(Action::Deliver(end, number), parked));
            }
        }
    }

    /// Sends a frame that the node of this end would not send.
    pub(super) fn send_forged(&mut self, end: usize, message: Message) -> Result<(), Violation> {
        for outcome in self.world.forge(end, message)? {
            match outcome {
                Outcome::Sent { end, number, ops, close } => self.sent(end, number, ops, close),
                Outcome::Showed { end, number } => self.showed(end, number),
                Outcome::Storing(..) | Outcome::Dialled(_) => {}
            }
        }
        Ok(())
    }

    /// What was held back comes now, in its order.
    fn free(&mut self, freed: Vec<Parked>) {
        for parked in freed {
            let action = match parked.number {
                Some(number) => Action::Deliver(parked.end, number),
                None => Action::Flushed(parked.end),
            };
            let wait_ms = self.network.latency(&mut self.rng);
            self.network.not_before(parked.end, self.now_ms + wait_ms);
            let at_ms = self.network.arrival(parked.end);
            self.at(at_ms, Due::Carry(action, parked));
        }
    }

    /// A dial arrives where it was aimed, if the way is free and someone is there.
    fn reach(&mut self, dial: usize) -> Result<(), Violation> {
        let (node, endpoint) = self.world.dial(dial);
        let from = self.machine(node);
        if endpoint.url == NAME && endpoint.address.is_none() {
            let addresses = self.look_up(from);
            let failed = addresses.is_empty();
            return self.act(&if failed { Action::DialFailed(dial) } else { Action::Resolved(dial, addresses) });
        }
        let target = self.world.at(endpoint);
        let free = |target: &usize| {
            let to = self.machine(*target);
            !self.network.is_blocked((from, to)) && !self.network.is_blocked((to, from))
        };
        if target.as_ref().is_none_or(|x| !free(x)) {
            // Refused at once where nobody listens, else given up after a while.
            let wait_ms = if target.is_none() { 1 } else { self.rng.u64(500..2_000) };
            self.after(wait_ms, Due::Act(Action::DialFailed(dial)));
            return Ok(());
        }
        let wait_ms = self.network.latency(&mut self.rng);
        self.network.not_before(self.world.ends().len() + 1, self.now_ms + wait_ms + 1);
        self.act(&Action::Accept(dial))?;
        self.after(wait_ms, Due::Act(Action::Connected(dial)));
        Ok(())
    }

    fn start(&mut self, machine: usize, again: bool) -> Result<(), Violation> {
        if self.world.at_url(&self.urls[machine]).is_some() {
            return Ok(());
        }
        let mut join: Vec<String> = self.urls.clone();
        join.remove(machine);
        if self.plan.name.is_some() {
            join = vec![NAME.into()];
        } else if self.plan.course == Course::Moves && again {
            join.truncate(1);
        }
        let founder = machine == 0 && !self.plan.all_found && !again;
        let alone = founder && self.rng.bool();
        if alone {
            join.clear();
        } else if !self.plan.all_found && !self.plan.has(Fault::Crash) && !founder {
            // Where nobody dies one address is enough; but it must lead to someone who was there before.
            self.rng.shuffle(&mut join);
            join.retain(|url| url == &self.urls[0] || self.world.at_url(url).is_some());
            join.truncate(2);
        }
        // A machine that keeps journals goes on from its last one, unless its disk was lost too.
        let last = self.world.nodes().iter().rposition(|node| node.birth.machine == machine);
        let kept = self.plan.durable && again && !(self.plan.disks_die && self.happens(300));
        let journal = last.filter(|_| kept);
        let cut = journal.map_or(0, |node| self.cut_off(node));
        let wrong = journal.map_or(Wrong::Nothing, |node| self.wrong(node, cut));
        if matches!(wrong, Wrong::Old(_)) && self.plan.lonely && self.stormy {
            self.leave_alone(machine);
        }
        self.begin(machine, join, again, (journal, cut, wrong))
    }

    /// A node begins on a machine, from so much of a journal.
    pub(super) fn begin(
        &mut self,
        machine: usize,
        join: Vec<String>,
        again: bool,
        (journal, cut, wrong): (Option<usize>, usize, Wrong),
    ) -> Result<(), Violation> {
        let skew_ms = if self.plan.has(Fault::Skew) { self.rng.u64(..SKEW_MS) } else { 0 };
        *self.tally.fired.entry(Fault::Skew).or_default() += u64::from(skew_ms > 0);
        *self.tally.fired.entry(Fault::Restart).or_default() += u64::from(again);
        *self.tally.fired.entry(Fault::Comeback).or_default() += u64::from(journal.is_some());
        *self.tally.fired.entry(Fault::Newcomer).or_default() += u64::from(machine >= self.plan.machines && !again);
        let birth = Birth {
            machine,
            id: uuid::Builder::from_random_bytes(self.rng.u128(..).to_le_bytes()).into_uuid(),
            url: self.urls[machine].clone(),
            join,
            // A node that may found a pool must not come up behind a partition, or there are two.
            found: self.may_found(machine) && (!again || !self.world.has_pool()),
            found_with: self.plan.name.map_or(1, |name| name.found_with),
            pool: None,
            seed: self.rng.u64(..),
            wall_ms: EPOCH_MS + self.now_ms + skew_ms - if skew_ms > 0 { SKEW_MS / 2 } else { 0 },
            durable: self.plan.durable,
            journal,
            cut,
            wrong,
            retain: self.rng.choice(&self.plan.retain).copied().unwrap_or(usize::MAX),
            evict_after_ms: self.plan.evict_after_ms,
            had: if journal.is_none() { self.had_on(machine) } else { BTreeSet::new() },
        };
        let node = self.world.nodes().len();
        let is_old = matches!(birth.wrong, Wrong::Old(_));
        self.act(&Action::Start(birth))?;
        if self.plan.course == Course::OldDisks && is_old {
            let least = usize::from(self.plan.step_max < u64::MAX);
            for _ in 0..least + self.rng.usize(..3) {
                let wait_ms = self.rng.u64(..=2 * self.plan.latency_ms.1);
                self.after(wait_ms, Due::WriteAt(machine, None));
            }
        }
        let wait_ms = self.rng.u64(..TICK_MS);
        self.after(wait_ms, Due::Tick(node));
        Ok(())
    }

    /// The ids that nodes with their data in memory had on a machine, if they were kept there.
    fn had_on(&mut self, machine: usize) -> BTreeSet<NodeId> {
        let last = self.world.nodes().iter().rev().find(|node| node.birth.machine == machine);
        let kept = !self.plan.durable && self.knows.u32(..4) > 0;
        last.filter(|_| kept).map(|node| node.had.clone()).unwrap_or_default()
    }

    /// How many records of a journal are removed because a snapshot stands for them: all that can be, or fewer, if the node was
    /// killed meanwhile.
    fn cut_off(&mut self, node: usize) -> usize {
        let most = self.world.nodes()[node].disk.needless();
        if most == 0 || self.old_disks.contains_key(&node) {
            return 0;
        }
        let cut = if self.rng.bool() { most } else { self.rng.usize(..=most) };
        *self.tally.fired.entry(Fault::Shortened).or_default() += u64::from(cut > 0);
        cut
    }

    /// What has become of the journal of a node that was killed.
    fn wrong(&mut self, node: usize, cut: usize) -> Wrong {
        if let Some(len) = self.old_disks.remove(&node) {
            return Wrong::Old(len);
        }
        // Someone must be left to take it in again, and once a run is enough for that.
        let member = |(_, replica): (usize, &crate::replica::Replica)| replica.standing() == Standing::Member;
        let len = self.world.nodes()[node].disk.len() - cut;
        let strikes = self.plan.has(Fault::Damage) && !self.tally.fired.contains_key(&Fault::Damage);
        if !strikes || len == 0 || !self.world.live().any(member) || !self.happens(300) {
            return Wrong::Nothing;
        }
        self.tally.fired.insert(Fault::Damage, 1);
        Wrong::Damaged(self.rng.usize(..len))
    }

    /// Whether the node of a machine has been told to found the pool.
    fn may_found(&self, machine: usize) -> bool {
        if self.plan.all_found { machine < self.plan.machines } else { machine == 0 }
    }

    fn storm(&mut self) {
        self.stormy = true;
        self.network.begin(&self.plan);
        self.after(0, Due::Write);
        if self.plan.present_ms > 0 {
            self.after(0, Due::Present);
        }
        let faults: BTreeSet<Fault> = self.plan.faults.clone();
        for fault in faults {
            let wait_ms = self.rng.u64(..2 * self.plan.strike_ms);
            self.after(wait_ms, Due::Strike(fault));
        }
    }

    fn write(&mut self) -> Result<(), Violation> {
        if !self.stormy || self.tally.writes == self.plan.writes_max {
            return Ok(());
        }
        self.tally.writes += 1;
        self.submit_somewhere()?;
        let burst = self.rng.u32(..10) == 0;
        let wait_ms = if burst { 0 } else { self.rng.u64(..=2 * self.plan.write_ms) };
        self.after(wait_ms, Due::Write);
        Ok(())
    }

    /// A client writes at the node of a machine, if it takes writes.
    fn write_early(&mut self, machine: usize) -> Result<(), Violation> {
        let Some(node) = self.world.at_url(&self.urls[machine]) else { return Ok(()) };
        let Some(replica) = &self.world.nodes()[node].replica else { return Ok(()) };
        if replica.standing() != Standing::Member {
            return Ok(());
        }
        let draft = self.workload.draft(replica, &mut self.rng);
        self.act(&Action::Submit(node, draft))
    }

    /// A client writes at some live node; returns whether there was one that takes writes.
    pub(super) fn submit_somewhere(&mut self) -> Result<bool, Violation> {
        let ready = |(_, replica): &(usize, &crate::replica::Replica)| replica.standing() == Standing::Member;
        let nodes: Vec<usize> = self.world.live().filter(ready).map(|(node, _)| node).collect();
        let Some(node) = self.rng.choice(&nodes).copied() else { return Ok(false) };
        self.submit_at(node)?;
        Ok(true)
    }

    fn submit_at(&mut self, node: usize) -> Result<(), Violation> {
        let Some(replica) = self.world.nodes()[node].replica.as_ref() else { return Ok(()) };
        let draft = self.workload.draft(replica, &mut self.rng);
        self.act(&Action::Submit(node, draft))
    }

    /// The storm is over: the network is made whole, and who is to come back comes back.
    fn calm(&mut self) -> Result<(), Violation> {
        self.stormy = false;
        let freed = self.network.end();
        self.free(freed);
        let cut: Vec<usize> = self.world.live().filter(|(_, replica)| replica.is_cut()).map(|(node, _)| node).collect();
        cut.into_iter().try_for_each(|node| self.act(&Action::Cut(node, false)))?;
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        live.into_iter().try_for_each(|node| self.act(&Action::Full(node, false)))?;
        if self.plan.all_return {
            for machine in 0..self.plan.machines {
                let wait_ms = self.rng.u64(..1_000);
                self.after(wait_ms, Due::Start(machine, true));
            }
        }
        self.after(1_500, Due::Watch);
        Ok(())
    }

    fn watch(&mut self) -> Result<(), Violation> {
        let late = self.now_ms > self.calm_ms + CALM_MS;
        let rests = self.starts == 0
            && self.world.converged()
            && self.world.is_final()
            && self.world.is_connected()
            && self.world.rooms_agree().is_ok();
        if !rests && self.starts == 0 && self.now_ms > self.calm_ms + (ALONE_MS << self.seen_to) {
            self.seen_to += 1;
            if self.seen_to > 2 {
                self.world.successors_are_alone()?;
            }
            self.operate()?;
        }
        let settled = rests && self.rested;
        if !(late || settled) {
            // Links that have just come about need a moment to say what they hold.
            self.rested = rests;
            self.after(if rests { SETTLE_MS } else { 500 }, Due::Watch);
            return Ok(());
        }
        self.tally.calm_ms = self.now_ms - self.calm_ms;
        self.act(&Action::Quiet)?;
        let spread = self.submit_somewhere()?;
        self.after(if spread { SPREAD_MS } else { 0 }, Due::Spread);
        Ok(())
    }

    /// Whether something of the plan's rate happens.
    pub(super) fn happens(&mut self, per_mille: u32) -> bool {
        chance(&mut self.rng, per_mille)
    }
}

//! The faults that strike at some moment and last for a while, as the driver deals them out.

use std::collections::BTreeSet;

use super::{
    Violation,
    action::{Action, Wrong},
    driver::{Driver, Due},
    plan::{Course, Fault},
};
use crate::{
    op::{Command, Eviction, NodeId},
    replica::{Draft, Standing, TICK_MS},
};

/// How long after a cut operators ask for evictions that cross.
const CROSS_MS: u64 = 13_000;

impl Driver<'_> {
    /// Deals out a fault and puts the next of its kind on the calendar.
    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), Violation> {
        if !self.stormy {
            return Ok(());
        }
        match self.plan.course {
            Course::Burials => {
                if fault == Fault::Crash {
                    self.death_amid_writes();
                }
                return Ok(());
            }
            Course::Partings => {
                if fault == Fault::Halves {
                    self.parting();
                }
                return Ok(());
            }
            Course::Crossings => {
                if fault == Fault::Halves {
                    self.crossing();
                }
                return Ok(());
            }
            Course::LastMember => {
                if fault == Fault::Isolate {
                    self.last_member();
                }
                return Ok(());
            }
            Course::TwoHistories => {
                if fault == Fault::OldDisk {
                    self.two_histories();
                }
                return Ok(());
            }
            // There every crash is one of those.
            Course::OldDisks if fault == Fault::Crash => return Ok(()),
            Course::CopyFirst => return self.copy_first(),
            Course::OldDisks | Course::Copies | Course::Moves | Course::Storm => {}
        }
        let struck = match fault {
            Fault::Halves | Fault::Isolate | Fault::OneWay => self.partition(fault),
            Fault::Hold => self.hold(),
            Fault::Reset => self.reset()?,
            Fault::Crash => self.crash()?,
            Fault::Blackout => self.blackout()?,
            Fault::DiskFull => self.disk_full()?,
            Fault::DiskError => self.disk_error()?,
            Fault::OldDisk => self.old_disk()?,
            Fault::Cut => self.cut()?,
            Fault::Evict => self.evict_someone()?,
            Fault::Leave => self.leave()?,
            Fault::Absence => self.absence()?,
            Fault::Copy => self.copy()?,
            Fault::Move => self.relocate()?,
            Fault::EarlyFull => {
                let most = self.plan.early_max.unwrap_or(usize::MAX);
                self.world.live().any(|(_, replica)| replica.early() >= most)
            }
            // These befall single messages or happen at a start.
            _ => return Ok(()),
        };
        *self.tally.fired.entry(fault).or_default() += u64::from(struck);
        let wait_ms = match fault {
            Fault::EarlyFull => 20,
            // Long enough that the others hear of it.
            Fault::Move => self.rng.u64(6_000..10_000),
            _ => self.rng.u64(..=2 * self.plan.strike_ms),
        };
        self.after(wait_ms + 1, Due::Strike(fault));
        Ok(())
    }

    fn partition(&mut self, fault: Fault) -> bool {
        let machines = self.urls.len();
        let one = self.rng.usize(..machines);
        let towards = self.rng.bool();
        let aside: Vec<bool> = match fault {
            Fault::Halves => (0..machines).map(|_| self.rng.bool()).collect(),
            _ => (0..machines).map(|machine| machine == one).collect(),
        };
        let mut pairs = Vec::new();
        for from in 0..machines {
            for to in (0..machines).filter(|to| aside[from] != aside[*to]) {
                if fault != Fault::OneWay || aside[from] == towards {
                    pairs.push((from, to));
                }
            }
        }
        self.network.block(&pairs);
        // Now and then so long that links fall silent.
        let long = self.rng.u32(..4) == 0;
        let lasts_ms = match fault {
            // Long enough that a live member counts as gone.
            Fault::Halves if self.plan.has(Fault::Evict) && self.rng.bool() => self.rng.u64(9_000..16_000),
            _ if long => self.rng.u64(5_000..12_000),
            _ => self.rng.u64(100..4_000),
        };
        let struck = !pairs.is_empty();
        self.after(lasts_ms, Due::Unblock(pairs));
        struck
    }

    fn hold(&mut self) -> bool {
        let Some(end) = self.some_end() else { return false };
        self.network.hold(end);
        let lasts_ms = self.rng.u64(200..8_000);
        self.after(lasts_ms, Due::Release(end));
        true
    }

    fn reset(&mut self) -> Result<bool, Violation> {
        let Some(end) = self.some_end() else { return Ok(false) };
        let peer = self.world.ends()[end].peer;
        self.act(&Action::Reset(end))?;
        if self.happens(700) {
            let wait_ms = self.network.latency(&mut self.rng);
            self.after(wait_ms, Due::Act(Action::Reset(peer)));
        }
        Ok(true)
    }

    /// A node vanishes; never the last that is a member, for its pool would go with it.
    fn crash(&mut self) -> Result<bool, Violation> {
        let member = |node: usize| {
            let replica = self.world.nodes()[node].replica.as_ref();
            replica.is_some_and(|replica| replica.standing() == Standing::Member)
        };
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        let Some(node) = self.rng.choice(&live).copied() else { return Ok(false) };
        let goes_on = self.plan.durable && !self.plan.disks_die && self.plan.has(Fault::Restart);
        if !goes_on && !live.iter().any(|other| *other != node && member(*other)) {
            return Ok(false);
        }
        self.kill(node)?;
        Ok(true)
    }

    /// A node vanishes while everyone writes, and is evicted soon after.
    fn death_amid_writes(&mut self) {
        let while_ms = self.plan.latency_ms.1 + 50;
        for _ in 0..self.rng.usize(2..=3 * self.plan.machines) {
            let wait_ms = self.rng.u64(..=while_ms);
            self.after(wait_ms, Due::Burst);
        }
        let dies_ms = self.rng.u64(..=while_ms);
        self.after(dies_ms, Due::Die);
        for _ in 0..2 {
            let wait_ms = dies_ms + self.rng.u64(..1_000);
            self.after(wait_ms, Due::Bury);
        }
        let wait_ms = self.rng.u64(6_000..12_000);
        self.after(wait_ms, Due::Strike(Fault::Crash));
    }

    /// Two machines are cut off together, are written to, and are evicted by those who remain; one may vanish before it is heard
    /// again.
    fn parting(&mut self) {
        let machines = self.plan.machines;
        let wait_ms = self.rng.u64(18_000..26_000);
        self.after(wait_ms, Due::Strike(Fault::Halves));
        let first = self.rng.usize(..machines);
        let aside = [first, (first + 1 + self.rng.usize(..machines - 1)) % machines];
        let mut pairs = Vec::new();
        for from in aside {
            for to in (0..machines).filter(|to| !aside.contains(to)) {
                pairs.extend([(from, to), (to, from)]);
            }
        }
        self.network.block(&pairs);
        *self.tally.fired.entry(Fault::Halves).or_default() += 1;
        for _ in 0..self.rng.usize(6..20) {
            let wait_ms = self.rng.u64(..12_000);
            self.after(wait_ms, Due::Burst);
        }
        let evicts_ms = self.rng.u64(9_500..12_000);
        self.after(evicts_ms, Due::Oust(aside.to_vec()));
        if self.rng.bool() {
            let dies_ms = self.rng.u64(6_000..13_000);
            self.after(dies_ms, Due::Kill(aside[0]));
        }
        let lasts_ms = self.rng.u64(12_500..16_000);
        self.after(lasts_ms, Due::Unblock(pairs));
    }

    /// One of three is cut off, and an operator at the first evicts it.
    fn last_member(&mut self) {
        let mut order = [0, 1, 2];
        self.rng.shuffle(&mut order);
        let [operator, second, last] = order;
        let pairs = vec![(operator, last), (last, operator), (second, last), (last, second)];
        self.network.block(&pairs);
        *self.tally.fired.entry(Fault::Isolate).or_default() += 1;
        self.after(5_000, Due::Cross(operator, last, self.now_ms + CROSS_MS));
        self.after(5_000, Due::Vanish(order, pairs));
    }

    /// The second machine is gone once the first has evicted the third; the first is gone once the third knows.
    pub(super) fn vanish(&mut self, order: [usize; 3], pairs: Vec<(usize, usize)>) -> Result<(), Violation> {
        let [operator, second, last] = order.map(|machine| self.world.at_url(&self.urls[machine]));
        let (Some(operator), Some(last)) = (operator, last) else { return Ok(()) };
        let replica = |node: usize| self.world.nodes()[node].replica.as_ref();
        let Some(id) = replica(last).map(crate::replica::Replica::node) else { return Ok(()) };
        let is_leaving = |node: usize| replica(node).is_some_and(|replica| replica.assembly().pending.contains(&id));
        match (is_leaving(operator), second) {
            (false, _) => self.after(1, Due::Vanish(order, pairs)),
            (true, Some(second)) => {
                self.end(second)?;
                self.after(0, Due::Unblock(pairs.clone()));
                self.after(50, Due::Vanish(order, pairs));
            }
            (true, None) if is_leaving(last) => self.end(operator)?,
            (true, None) => self.after(50, Due::Vanish(order, pairs)),
        }
        Ok(())
    }

    /// The pool falls into parts, and an operator in each evicts members of other parts; now and then a node is started anew.
    fn crossing(&mut self) {
        let machines = self.plan.machines;
        let wait_ms = self.rng.u64(22_000..30_000);
        self.after(wait_ms, Due::Strike(Fault::Halves));
        let circle = self.rng.bool();
        let part: Vec<usize> = (0..machines).map(|it| if circle { it } else { self.rng.usize(..machines) }).collect();
        let all = (0..machines).flat_map(|from| (0..machines).map(move |to| (from, to)));
        let pairs: Vec<(usize, usize)> = all.filter(|(from, to)| part[*from] != part[*to]).collect();
        if pairs.is_empty() {
            return;
        }
        self.network.block(&pairs);
        *self.tally.fired.entry(Fault::Halves).or_default() += 1;
        let further = if circle { 0 } else { self.rng.usize(1..=machines) };
        let mut evictions: Vec<(usize, usize)> =
            (0..further).filter_map(|_| self.rng.choice(&pairs).copied()).collect();
        if circle {
            let step = self.rng.usize(1..machines);
            evictions.extend((0..machines).map(|by| (by, (by + step) % machines)));
        }
        for (by, evicted) in evictions {
            // An eviction is taken once its member is silent, while those that make a majority are heard: often for a moment only.
            let wait_ms = self.rng.u64(6_000..8_000);
            self.after(wait_ms, Due::Cross(by, evicted, self.now_ms + CROSS_MS));
        }
        if self.rng.u32(..if circle { 8 } else { 3 }) == 0 {
            let (wait_ms, machine) = (self.rng.u64(9_500..15_000), self.rng.usize(..machines));
            self.after(wait_ms, Due::Kill(machine));
        }
        let lasts_ms = self.rng.u64(13_500..17_000);
        self.after(lasts_ms, Due::Unblock(pairs));
    }

    /// An operator at the node of one machine evicts the node of another.
    pub(super) fn cross(&mut self, (by, evicted): (usize, usize), until_ms: u64) -> Result<(), Violation> {
        let running = |machine: usize| {
            let node = self.world.at_url(&self.urls[machine])?;
            Some((node, self.world.nodes()[node].replica.as_ref()?))
        };
        let (Some((node, operator)), Some((_, member))) = (running(by), running(evicted)) else { return Ok(()) };
        let (member, before) = (member.node(), operator.log().len());
        self.act(&Action::Submit(node, eviction(member, false)))?;
        let taken = self.world.nodes()[node].replica.as_ref().is_none_or(|replica| replica.log().len() > before);
        if taken {
            *self.tally.fired.entry(Fault::Evict).or_default() += 1;
        } else if self.now_ms < until_ms {
            self.after(TICK_MS, Due::Cross(by, evicted, until_ms));
        }
        Ok(())
    }

    /// An operator among the others evicts the members on these machines.
    pub(super) fn oust(&mut self, machines: &[usize]) -> Result<(), Violation> {
        let member = |(_, replica): &(usize, &crate::replica::Replica)| replica.standing() == Standing::Member;
        let is_aside = |node: &usize| machines.contains(&self.machine(*node));
        let live: Vec<(usize, NodeId)> =
            self.world.live().filter(member).map(|(node, replica)| (node, replica.node())).collect();
        let operators: Vec<usize> = live.iter().map(|(node, _)| *node).filter(|node| !is_aside(node)).collect();
        let gone: Vec<NodeId> = live.iter().filter(|(node, _)| is_aside(node)).map(|(_, id)| *id).collect();
        let Some(operator) = self.rng.choice(&operators).copied() else { return Ok(()) };
        *self.tally.fired.entry(Fault::Evict).or_default() += gone.len() as u64;
        gone.into_iter().try_for_each(|gone| self.act(&Action::Submit(operator, eviction(gone, false))))
    }

    pub(super) fn die(&mut self) -> Result<(), Violation> {
        let struck = self.stormy && self.crash()?;
        *self.tally.fired.entry(Fault::Crash).or_default() += u64::from(struck);
        Ok(())
    }

    /// An operator evicts by force who has just vanished.
    pub(super) fn bury(&mut self) -> Result<(), Violation> {
        let live: BTreeSet<NodeId> = self.world.live().map(|(_, replica)| replica.node()).collect();
        let member = |(_, replica): &(usize, &crate::replica::Replica)| replica.standing() == Standing::Member;
        let operators: Vec<usize> = self.world.live().filter(member).map(|(node, _)| node).collect();
        let Some(node) = self.rng.choice(&operators).copied() else { return Ok(()) };
        let Some(replica) = &self.world.nodes()[node].replica else { return Ok(()) };
        let gone: Vec<NodeId> =
            replica.roster().present().map(|(other, _)| *other).filter(|other| !live.contains(other)).collect();
        *self.tally.fired.entry(Fault::Evict).or_default() += gone.len() as u64;
        gone.into_iter().try_for_each(|gone| self.act(&Action::Submit(node, eviction(gone, true))))
    }

    /// Ends a node; its peers mostly learn of it, and it may come back later.
    pub(super) fn kill(&mut self, node: usize) -> Result<(), Violation> {
        self.end(node)?;
        if self.plan.has(Fault::Restart) {
            let wait_ms = self.rng.u64(10..5_000);
            self.after(wait_ms, Due::Start(self.machine(node), true));
        }
        Ok(())
    }

    /// The same, and it comes back after so long.
    fn kill_for(&mut self, node: usize, away_ms: u64) -> Result<(), Violation> {
        self.end(node)?;
        self.after(away_ms, Due::Start(self.machine(node), true));
        Ok(())
    }

    fn end(&mut self, node: usize) -> Result<(), Violation> {
        let silent = self.happens(300);
        let kept = self.rng.usize(..=self.world.nodes()[node].disk.unstored());
        let peers: Vec<usize> = self.world.open_ends(node).map(|end| self.world.ends()[end].peer).collect();
        self.act(&Action::Crash(node, silent, kept))?;
        if !silent {
            for peer in peers {
                let wait_ms = self.network.latency(&mut self.rng);
                self.after(wait_ms, Due::Act(Action::Reset(peer)));
            }
        }
        Ok(())
    }

    fn blackout(&mut self) -> Result<bool, Violation> {
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        live.iter().try_for_each(|node| self.kill(*node))?;
        Ok(live.len() > 1)
    }

    /// A disk fails while it has something to store: the node stops, for it no longer knows what the disk holds.
    fn disk_error(&mut self) -> Result<bool, Violation> {
        let failing =
            self.world.live().map(|(node, _)| node).find(|node| self.world.nodes()[*node].disk.unstored() > 0);
        // As with a crash, somebody must be left where disks die.
        let Some(node) = failing.filter(|_| !self.plan.disks_die) else { return Ok(false) };
        self.kill(node)?;
        Ok(true)
    }

    /// A node goes back to an old copy of its disk, while all others hold what it has issued since.
    fn old_disk(&mut self) -> Result<bool, Violation> {
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        if live.len() < self.plan.machines {
            return Ok(false);
        }
        let Some(node) = live.into_iter().find(|node| self.world.is_everywhere(*node)) else { return Ok(false) };
        // The copy is from after the node had become a member.
        let (mut first, len) = (self.world.nodes()[node].disk.joined(), self.world.nodes()[node].disk.len());
        // Now and then the node has issued nothing since, and only its promises are lost.
        if self.plan.course == Course::OldDisks && self.rng.bool() {
            first = first.max(self.world.nodes()[node].disk.issued());
        }
        let mut kept = self.rng.usize(first.min(len)..=len);
        // The oldest copy of a node that has issued nothing since.
        if self.plan.step_max < u64::MAX {
            kept = first.max(self.world.nodes()[node].disk.issued()).min(len);
        }
        if self.plan.lonely {
            // Once a run: of two at a time neither can be sure that the others have what it lacks.
            let own = self.world.nodes()[node].own_records();
            let own = if self.lonely.bool() { &own[own.len().saturating_sub(5)..] } else { &own[..] };
            let Some(at) = self.lonely.choice(own).copied() else { return Ok(false) };
            if self.tally.fired.contains_key(&Fault::OldDisk) {
                return Ok(false);
            }
            (kept, self.sent) = (at, self.workload.sent().to_vec());
        }
        self.old_disks.insert(node, kept);
        self.kill(node)?;
        Ok(kept < len)
    }

    /// A node comes back from an old copy: it hears of nobody, clients write there, and it vanishes once more before it does. Later
    /// clients send again what they had sent.
    pub(super) fn leave_alone(&mut self, machine: usize) {
        let others = (0..self.plan.machines + self.plan.newcomers).filter(|other| *other != machine);
        let pairs: Vec<(usize, usize)> = others.flat_map(|other| [(machine, other), (other, machine)]).collect();
        self.network.block(&pairs);
        for _ in 0..self.lonely.usize(1..=30) {
            let wait_ms = self.lonely.u64(1..800);
            self.after(wait_ms, Due::WriteAt(machine, None));
        }
        let killed_ms = self.lonely.u64(100..2_000);
        self.after(killed_ms, Due::Kill(machine));
        let lasts_ms = killed_ms + self.lonely.u64(..6_000);
        self.after(lasts_ms, Due::Unblock(pairs));
        for draft in std::mem::take(&mut self.sent) {
            for _ in 0..5 {
                let wait_ms = lasts_ms + self.lonely.u64(..15_000);
                self.after(wait_ms, Due::WriteAt(machine, Some(draft.clone())));
            }
        }
    }

    /// A node writes for all but one, goes back to what its disk was before, and writes for that one alone; then all hear each
    /// other again.
    fn two_histories(&mut self) {
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        let everywhere = live.iter().copied().find(|node| self.world.is_everywhere(*node));
        let Some(node) = everywhere.filter(|_| live.len() >= self.plan.machines) else {
            return self.after(500, Due::Strike(Fault::OldDisk));
        };
        self.after(25_000, Due::Strike(Fault::OldDisk));
        let machines = self.plan.machines;
        let writer = self.machine(node);
        let third = (writer + 1 + self.rng.usize(..machines - 1)) % machines;
        let apart = |one: usize| {
            let others = (0..machines).filter(move |other| *other != one);
            others.flat_map(move |other| [(one, other), (other, one)])
        };
        let between = [(writer, third), (third, writer)];
        let first: Vec<(usize, usize)> = apart(third).collect();
        let then: Vec<(usize, usize)> =
            apart(third).chain(apart(writer)).filter(|pair| !between.contains(pair)).collect();
        self.old_disks.insert(node, self.world.nodes()[node].disk.len());
        *self.tally.fired.entry(Fault::OldDisk).or_default() += 1;
        self.network.block(&first);
        for _ in 0..3 {
            let wait_ms = self.rng.u64(1..1_500);
            self.after(wait_ms, Due::WriteAt(writer, None));
        }
        self.after(2_000, Due::Kill(writer));
        self.after(2_000, Due::Block(then.clone()));
        self.after(2_000, Due::Unblock(first));
        for _ in 0..6 {
            let wait_ms = self.rng.u64(2_100..10_000);
            self.after(wait_ms, Due::WriteAt(writer, None));
        }
        self.after(12_000, Due::Unblock(then));
    }

    pub(super) fn write_at(&mut self, machine: usize, again: Option<Draft>) -> Result<(), Violation> {
        let Some(node) = self.world.at_url(&self.urls[machine]).filter(|_| self.stormy) else { return Ok(()) };
        let Some(replica) = &self.world.nodes()[node].replica else { return Ok(()) };
        let draft = again.unwrap_or_else(|| self.workload.draft(replica, &mut self.lonely));
        self.act(&Action::Submit(node, draft))
    }

    pub(super) fn kill_at(&mut self, machine: usize) -> Result<(), Violation> {
        let node = self.world.at_url(&self.urls[machine]).filter(|_| self.stormy);
        node.map_or(Ok(()), |node| self.kill(node))
    }

    /// An operator at one node evicts a member that is not heard of there, dead or behind a partition.
    fn evict_someone(&mut self) -> Result<bool, Violation> {
        let member = |(_, replica): &(usize, &crate::replica::Replica)| replica.standing() == Standing::Member;
        // Where more of them evict each other, only force goes on (`Course::Crossings`).
        let operator = |node: &usize| self.machine(*node) < 2;
        let live: Vec<usize> = self.world.live().filter(member).map(|(node, _)| node).filter(operator).collect();
        let Some(node) = self.rng.choice(&live).copied() else { return Ok(false) };
        let Some(replica) = &self.world.nodes()[node].replica else { return Ok(false) };
        let others = replica.roster().present().map(|(other, _)| *other).filter(|other| *other != replica.node());
        let (others, before): (Vec<NodeId>, usize) = (others.collect(), replica.log().len());
        let Some(evicted) = self.rng.choice(&others).copied() else { return Ok(false) };
        // By force only who is dead for good, and only where nobody is cut off: else it can make two pools, which is what
        // force says it risks.
        let whole = self.world.is_connected();
        let dead = whole && !self.plan.durable && self.world.live().all(|(_, replica)| replica.node() != evicted);
        let force = dead && self.happens(300);
        self.act(&Action::Submit(node, eviction(evicted, force)))?;
        Ok(self.world.nodes()[node].replica.as_ref().is_some_and(|replica| replica.log().len() > before))
    }

    /// A node retires, where enough others stay, and ends soon after.
    fn leave(&mut self) -> Result<bool, Violation> {
        let Some(node) = self.one_of_several(3) else { return Ok(false) };
        self.retire(node)
    }

    /// Schedules a retirement of a node that is started again, in plans with retirements. If the node comes back as another, it
    /// may leave before it has evicted the member that it was.
    pub(super) fn may_leave_again(&mut self, machine: usize) {
        if self.plan.faults.contains(&Fault::Leave) && self.lonely.bool() {
            let wait_ms = self.lonely.u64(1_500..8_000);
            self.after(wait_ms, Due::LeaveAgain(machine));
        }
    }

    pub(super) fn leave_again(&mut self, machine: usize) -> Result<(), Violation> {
        let Some(node) = self.world.at_url(&self.urls[machine]).filter(|_| self.stormy) else { return Ok(()) };
        let left = |replica: &crate::replica::Replica| {
            replica.roster().present().any(|(member, _)| replica.former().contains(member))
        };
        if self.world.nodes()[node].replica.as_ref().is_some_and(left) { self.retire(node).map(drop) } else { Ok(()) }
    }

    fn retire(&mut self, node: usize) -> Result<bool, Violation> {
        let draft = Draft { key: None, guards: Vec::new(), commands: vec![Command::Retire], present: false };
        self.act(&Action::Submit(node, draft))?;
        let standing = self.world.nodes()[node].replica.as_ref().map(crate::replica::Replica::standing);
        if standing != Some(Standing::Retired) {
            return Ok(false);
        }
        let wait_ms = self.rng.u64(200..3_000);
        self.after(wait_ms, Due::Gone(node));
        Ok(true)
    }

    pub(super) fn gone(&mut self, node: usize) -> Result<(), Violation> {
        if self.world.nodes()[node].replica.is_some() { self.kill(node) } else { Ok(()) }
    }

    /// A machine is dead or cut off for longer than the others wait, and comes back. One at a time: a majority stays.
    fn absence(&mut self) -> Result<bool, Violation> {
        let Some(after_ms) = self.plan.evict_after_ms else { return Ok(false) };
        let Some(node) = self.one_of_several(3).filter(|_| self.now_ms >= self.away_until_ms) else { return Ok(false) };
        let away_ms = after_ms + self.rng.u64(5_000..30_000);
        self.away_until_ms = self.now_ms + away_ms + 20_000;
        let machine = self.machine(node);
        if self.rng.bool() {
            let others = (0..self.plan.machines + self.plan.newcomers).filter(|other| *other != machine);
            let pairs: Vec<(usize, usize)> = others.flat_map(|other| [(machine, other), (other, machine)]).collect();
            self.network.block(&pairs);
            self.after(away_ms, Due::Unblock(pairs));
        } else {
            self.kill_for(node, away_ms)?;
        }
        Ok(true)
    }

    /// A member, where there are so many.
    fn one_of_several(&mut self, several: usize) -> Option<usize> {
        let member = |(_, replica): &(usize, &crate::replica::Replica)| replica.standing() == Standing::Member;
        let members: Vec<usize> = self.world.live().filter(member).map(|(node, _)| node).collect();
        if members.len() < several { None } else { self.rng.choice(&members).copied() }
    }

    /// Once the network is whole, an operator sees to what nodes cannot settle among themselves: at one node he evicts, by
    /// force, every member that will not come back or was evicted without a majority. Nodes that have evicted that one, or that
    /// have no part in its pool and say that evictions have crossed, he tells to join it. Where nobody remains, one node is to go
    /// on.
    pub(super) fn operate(&mut self) -> Result<(), Violation> {
        let live: BTreeSet<NodeId> = self.world.live().map(|(_, replica)| replica.node()).collect();
        let member = |(_, replica): &(usize, &crate::replica::Replica)| replica.standing() == Standing::Member;
        let Some((node, replica)) = self.world.live().filter(member).find(is_sound) else {
            return self.let_go_on();
        };
        let (id, url, assembly) = (replica.node(), self.urls[self.machine(node)].clone(), replica.assembly());
        let gone = |member: &NodeId| !live.contains(member) || assembly.pending.contains(member);
        let gone: Vec<NodeId> = assembly.counted.iter().copied().filter(gone).collect();
        let stuck = |replica: &crate::replica::Replica| {
            replica.crossed_evictions().is_some() && !assembly.remaining.contains(&replica.node())
        };
        let apart = |(_, replica): &(usize, &crate::replica::Replica)| replica.roster().is_gone(id) || stuck(replica);
        let apart: Vec<usize> =
            self.world.live().filter(apart).map(|(other, _)| other).filter(|other| *other != node).collect();
        gone.into_iter().try_for_each(|gone| self.act(&Action::Submit(node, eviction(gone, true))))?;
        apart.into_iter().try_for_each(|other| self.act(&Action::Join(other, url.clone())))
    }

    /// Does what a node says that an operator can do where evictions have crossed.
    fn let_go_on(&mut self) -> Result<(), Violation> {
        let Some((node, replica)) = self.world.live().find(|(_, replica)| replica.is_left_behind()) else {
            return Ok(());
        };
        let others = replica.roster().all().keys().filter(|other| **other != replica.node());
        let Some(other) = others.copied().next() else { return Ok(()) };
        self.tally.let_go_on += 1;
        self.act(&Action::Submit(node, eviction(other, true)))
    }

    /// A copy of a live member's journal is started on a machine of its own, once.
    fn copy(&mut self) -> Result<bool, Violation> {
        let member = |(_, replica): &(usize, &crate::replica::Replica)| replica.standing() == Standing::Member;
        let members: Vec<usize> = self.world.live().filter(member).map(|(node, _)| node).collect();
        let machine = self.urls.len() - 1;
        if self.tally.fired.contains_key(&Fault::Copy)
            && self.world.nodes().iter().any(|it| it.birth.machine == machine)
        {
            return Ok(false);
        }
        let Some(node) = self.rng.choice(&members).copied() else { return Ok(false) };
        let join = self.urls[..machine].to_vec();
        self.begin(machine, join, true, (Some(node), 0, Wrong::Nothing))?;
        Ok(true)
    }

    /// The copy is started behind a partition, and a newcomer meets it there. The node hears the newcomer before the copy.
    fn copy_first(&mut self) -> Result<(), Violation> {
        let [node, newcomer, copy] = [0, 1, 2];
        if !self.copy()? {
            self.after(500, Due::Strike(Fault::Copy));
            return Ok(());
        }
        *self.tally.fired.entry(Fault::Copy).or_default() += 1;
        let both = |one: usize, other: usize| vec![(one, other), (other, one)];
        let (first, last) = (both(node, newcomer), both(node, copy));
        self.network.block(&[&first[..], &last[..]].concat());
        // In most runs the node has issued more: then what the copy has promised shows that one of them must give way.
        let writes = [(node, self.rng.usize(..12)), (copy, self.rng.usize(..4))];
        for machine in writes.into_iter().flat_map(|(machine, count)| vec![machine; count]) {
            let wait_ms = self.rng.u64(100..3_000);
            self.after(wait_ms, Due::WriteAt(machine, None));
        }
        self.after(3_000, Due::Start(newcomer, false));
        let meets_ms = 3_000 + self.rng.u64(..2_000);
        match self.rng.u32(..3) {
            0 => self.after(meets_ms, Due::Unblock(first)),
            1 => self.after(3_000, Due::TurnAway(first, self.now_ms + meets_ms)),
            _ => {
                self.after(meets_ms, Due::Unblock(first));
                self.after(meets_ms, Due::Kill(copy));
                self.after(meets_ms + 3_000, Due::Start(copy, true));
            }
        }
        self.after(meets_ms + 3_000, Due::Unblock(last));
        Ok(())
    }

    /// The copy is gone for a while once the newcomer holds some of what makes it a member, and the newcomer turns to the node.
    pub(super) fn turn_away(&mut self, first: Vec<(usize, usize)>, until_ms: u64) -> Result<(), Violation> {
        let newcomer = self.world.at_url(&self.urls[1]).and_then(|node| self.world.nodes()[node].replica.as_ref());
        let catches_up =
            newcomer.is_some_and(|replica| !replica.log().is_empty() && replica.standing() != Standing::Member);
        if catches_up {
            self.kill_at(2)?;
            self.after(3_000, Due::Start(2, true));
        }
        let next =
            if catches_up || self.now_ms >= until_ms { Due::Unblock(first) } else { Due::TurnAway(first, until_ms) };
        self.after(if catches_up { 0 } else { 10 }, next);
        Ok(())
    }

    /// The next of the nodes but the first comes back at another address; once all have, the first is gone.
    fn relocate(&mut self) -> Result<bool, Violation> {
        let moved = self.tally.fired.get(&Fault::Move).copied().unwrap_or(0) as usize;
        let machine = if moved + 1 < self.plan.machines { moved + 1 } else { 0 };
        let Some(node) = self.world.at_url(&self.urls[machine]) else { return Ok(false) };
        self.kill(node)?;
        if machine > 0 {
            self.urls[machine] = format!("http://m{machine}:2");
            let wait_ms = self.rng.u64(100..2_000);
            self.after(wait_ms, Due::Start(machine, true));
        }
        Ok(machine > 0)
    }

    fn disk_full(&mut self) -> Result<bool, Violation> {
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        let Some(node) = self.rng.choice(&live).copied() else { return Ok(false) };
        self.act(&Action::Full(node, true))?;
        let lasts_ms = self.rng.u64(100..4_000);
        self.after(lasts_ms, Due::Act(Action::Full(node, false)));
        Ok(true)
    }

    fn cut(&mut self) -> Result<bool, Violation> {
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        let Some(node) = self.rng.choice(&live).copied() else { return Ok(false) };
        self.act(&Action::Cut(node, true))?;
        let lasts_ms = self.rng.u64(100..6_000);
        self.after(lasts_ms, Due::Act(Action::Cut(node, false)));
        Ok(true)
    }

    fn some_end(&mut self) -> Option<usize> {
        let live: Vec<usize> = self.world.live().map(|(node, _)| node).collect();
        let ends: Vec<usize> = live.into_iter().flat_map(|node| self.world.open_ends(node)).collect();
        self.rng.choice(&ends).copied()
    }
}

/// Whether a node is part of the pool in its own eyes.
pub(super) fn is_sound((_, replica): &(usize, &crate::replica::Replica)) -> bool {
    replica.assembly().remaining.contains(&replica.node()) && !replica.assembly().outcast
}

fn eviction(node: NodeId, force: bool) -> Draft {
    let commands = vec![Command::Evict(Eviction { node, force })];
    Draft { key: None, guards: Vec::new(), commands, present: false }
}

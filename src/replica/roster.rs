//! The roster: who is a member and who was, as the ops of the log say.
//!
//! What it is told only adds up, so two nodes with the same ops have the same roster, however the ops came. What
//! follows from it for this node, the [`Assembly`], rests also on how far the node holds the ops of those who were
//! evicted, and on its frontier. The rules, and why they are as they are, are in ARCHITECTURE.md, "Finality".

use std::collections::{BTreeMap, BTreeSet};

use super::log::Log;
use crate::{
    op::{Addresses, Command, Eviction, NodeId, Op, OpId, PublicKey, Stamp},
    plant::{Rule, left_out},
};

/// A member, as the first `Add` in the order describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The stamp of that op.
    pub added: Stamp,
    /// Its name, for people.
    pub name: String,
    /// Where it can be dialled, as it last announced it; else as that op says.
    pub urls: Vec<String>,
    /// The version of that announcement; zeros if there was none.
    pub(super) moved: (u64, u64),
    /// The greatest frontier of those who added it.
    frontier: u64,
    /// All ops that add it.
    sponsored: BTreeSet<OpId>,
}

impl Member {
    /// Whether it has announced other addresses than it was added with.
    pub fn has_moved(&self) -> bool {
        self.moved > (0, 0)
    }

    /// Whether an op of this node adds it.
    pub(super) fn is_sponsored_by(&self, node: NodeId) -> bool {
        self.sponsored.iter().any(|add| add.origin == node)
    }
}

/// How a member left, or is made to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Exit {
    retired: bool,
    /// The stamps of the ops that evict it.
    evicted: BTreeSet<Stamp>,
    forced: bool,
    /// Whether somebody has declared that it is effective.
    removed: bool,
    /// What each member answered: the seq of its first such op, and how many ops of the evicted one it held at most.
    fences: BTreeMap<NodeId, (u64, u64)>,
}

impl Exit {
    /// Behind the frontier an eviction has been effective: it would not have moved there otherwise.
    fn is_settled(&self, frontier: u64) -> bool {
        self.evicted.first().is_some_and(|stamp| stamp.time <= frontier)
    }

    /// How many ops of the evicted one somebody held when he cut it off.
    fn most_held(&self) -> u64 {
        self.fences.values().map(|(_, held)| *held).max().unwrap_or(0)
    }
}

/// All that the log says of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    members: BTreeMap<NodeId, Member>,
    /// How many of them are present.
    present: usize,
    exits: BTreeMap<NodeId, Exit>,
    /// The static keys of nodes, each with the stamp of the first op in the order that says it.
    keys: BTreeMap<NodeId, (Stamp, PublicKey)>,
    /// The ops that say all this: they are few, and outlive the log's.
    ops: BTreeMap<Stamp, Op>,
}

/// How far a node is, as far as it decides what the roster means for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach<'a> {
    pub(super) node: NodeId,
    pub(super) log: &'a Log,
    pub(super) frontier: u64,
    /// No greater time was ever announced as what it is complete up to.
    pub(super) promised: u64,
}

/// What the roster means for one node now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembly {
    /// The members that are there for good: neither retired nor evicted, and rooted.
    pub remaining: BTreeSet<NodeId>,
    /// The members whose word finality waits for.
    pub counted: BTreeSet<NodeId>,
    /// Members that are evicted, and whose eviction is not effective here yet.
    pub pending: BTreeSet<NodeId>,
    /// Whether this node is no part of the pool any more: it is evicted, or was let in by an op of an evicted one that none
    /// of those who remain held.
    pub outcast: bool,
}

impl Roster {
    /// Takes what an op says of members. Says whether it says anything.
    pub(super) fn take(&mut self, op: &Op) -> bool {
        let taken = self.note(op);
        if taken {
            self.ops.insert(op.stamp(), op.clone());
            self.present = self.present().count();
        }
        taken
    }

    /// The ops about members up to a time, in stamp order.
    pub(super) fn ops_to(&self, time: u64) -> Vec<Op> {
        self.ops.values().take_while(|op| op.time() <= time).cloned().collect()
    }

    /// All ops about members, in stamp order.
    pub(super) fn ops(&self) -> impl DoubleEndedIterator<Item = &Op> {
        self.ops.values()
    }

    fn note(&mut self, op: &Op) -> bool {
        // Such a command stands alone in its op.
        match op.body().commands.first() {
            Some(Command::Add(newcomer, frontier)) => {
                let member = self.members.entry(newcomer.node).or_insert_with(|| Member {
                    added: op.stamp(),
                    name: String::new(),
                    urls: Vec::new(),
                    moved: (0, 0),
                    frontier: 0,
                    sponsored: BTreeSet::new(),
                });
                member.sponsored.insert(op.id());
                member.frontier = member.frontier.max((*frontier).min(op.time() - 1));
                if op.stamp() <= member.added {
                    member.added = op.stamp();
                    member.name = newcomer.name.to_string();
                    if member.moved == (0, 0) {
                        member.urls.clone_from(&newcomer.urls);
                    }
                }
            }
            Some(Command::Retire) => self.exits.entry(op.origin()).or_default().retired = true,
            Some(Command::Evict(Eviction { node, force })) => {
                let exit = self.exits.entry(*node).or_default();
                exit.evicted.insert(op.stamp());
                exit.forced |= force;
            }
            Some(Command::Removed(node)) => self.exits.entry(*node).or_default().removed = true,
            Some(Command::Key(node, key)) => {
                // A sponsor's `Add` is before this op in its chain, so this is the same in whichever order ops come.
                let sponsored = self.members.get(node).is_some_and(|member| member.is_sponsored_by(op.origin()));
                let is_first = self.keys.get(node).is_none_or(|(stamp, _)| op.stamp() < *stamp);
                if is_first && (*node == op.origin() || sponsored) {
                    self.keys.insert(*node, (op.stamp(), *key));
                }
            }
            Some(Command::Fence(node, held)) => {
                let fences = &mut self.exits.entry(*node).or_default().fences;
                let (first, most) = fences.entry(op.origin()).or_insert((op.id().seq, *held));
                (*first, *most) = (op.id().seq.min(*first), (*held).max(*most));
            }
            _ => return false,
        }
        true
    }

    /// Takes a newer announcement of where a member can be dialled; returns where it could be until now. Two nodes that see the
    /// member at different places may give them one version.
    pub(super) fn relocate(&mut self, node: NodeId, to: &Addresses) -> Option<Vec<String>> {
        let is_newer = |member: &&mut Member| (member.moved, &member.urls) < (to.version, &to.urls);
        let member = self.members.get_mut(&node).filter(|_| to.version > (0, 0)).filter(is_newer)?;
        member.moved = to.version;
        Some(std::mem::replace(&mut member.urls, to.urls.clone()))
    }

    /// Whether another says the same of all, those places aside where members that have left once were.
    #[cfg(any(test, feature = "sim"))]
    pub fn agrees(&self, other: &Roster) -> bool {
        let places = |roster: &Roster| -> Vec<_> { roster.moves().collect() };
        self.ops == other.ops && places(self) == places(other)
    }

    /// The members that have announced other addresses than they were added with.
    pub(super) fn moves(&self) -> impl Iterator<Item = (NodeId, Addresses)> {
        let moved = self.present().filter(|(_, member)| member.has_moved());
        moved.map(|(node, Member { moved, urls, .. })| (*node, Addresses { version: *moved, urls: urls.clone() }))
    }

    /// Everyone who ever was a member.
    pub fn all(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// The members that have neither retired nor been evicted.
    pub fn present(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members.iter().filter(|(node, _)| !self.is_gone(**node))
    }

    /// How many these are.
    pub fn len(&self) -> usize {
        self.present
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Whether a node is or was a member.
    pub fn knows(&self, node: NodeId) -> bool {
        self.members.contains_key(&node)
    }

    /// The static key of a node, if any op says it. It stays when the node leaves.
    pub fn key(&self, node: NodeId) -> Option<PublicKey> {
        self.keys.get(&node).map(|(_, key)| *key)
    }

    /// The node that has a static key.
    pub fn holder(&self, key: PublicKey) -> Option<NodeId> {
        self.keys.iter().find(|(_, (_, held))| *held == key).map(|(node, _)| *node)
    }

    /// Whether a member has retired.
    pub fn is_retired(&self, node: NodeId) -> bool {
        self.exits.get(&node).is_some_and(|exit| exit.retired)
    }

    /// Whether an operator has evicted a member, effectively or not.
    pub fn is_evicted(&self, node: NodeId) -> bool {
        self.exits.get(&node).is_some_and(|exit| !exit.evicted.is_empty())
    }

    /// Whether an operator has evicted a member with force.
    pub(super) fn is_forced(&self, node: NodeId) -> bool {
        self.exits.get(&node).is_some_and(|exit| exit.forced)
    }

    /// Whether a member has left, or is made to.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.is_retired(node) || self.is_evicted(node)
    }

    /// Whether a newcomer that `sponsor` adds cannot have so many ops of `node`: it would begin with more of one who was evicted
    /// than all who cut that one off had, the sponsor among them.
    pub(super) fn is_past_fences(&self, sponsor: NodeId, node: NodeId, held: u64) -> bool {
        self.exits.get(&node).is_some_and(|exit| exit.fences.contains_key(&sponsor) && held > exit.most_held())
    }

    /// The same of a newcomer that has been added.
    pub(super) fn began_past_fences(&self, newcomer: NodeId, node: NodeId, held: u64) -> bool {
        self.exits.get(&node).is_some_and(|exit| self.came_after(newcomer, exit) && held > exit.most_held())
    }

    /// Up to which time all was final where `node` was let in.
    pub(super) fn joined_at(&self, node: NodeId) -> u64 {
        self.members.get(&node).map_or(0, |member| member.frontier)
    }

    /// Those whom others have evicted, and who have not retired, without a word that this is effective.
    pub(super) fn undeclared(&self) -> impl Iterator<Item = NodeId> {
        let undeclared = |exit: &Exit| !exit.evicted.is_empty() && !exit.retired && !exit.removed;
        self.exits.iter().filter(move |(_, exit)| undeclared(exit)).map(|(node, _)| *node)
    }

    /// Whether a member was added after one time and not after the other.
    pub(super) fn adds_between(&self, after: u64, to: u64) -> bool {
        self.members.values().any(|member| after < member.added.time && member.added.time <= to)
    }

    /// Those whose eviction is not final yet.
    pub(super) fn leaving(&self, frontier: u64) -> Vec<NodeId> {
        let unsettled = |exit: &Exit| !exit.evicted.is_empty() && !exit.is_settled(frontier);
        self.exits.iter().filter(|(_, exit)| unsettled(exit)).map(|(node, _)| *node).collect()
    }

    /// Whether the eviction of `node` cannot be effective before `by` has answered it, which it has not done yet.
    pub(super) fn owes_first_fence(&self, by: NodeId, node: NodeId) -> bool {
        self.exits.get(&node).is_some_and(|exit| !exit.fences.contains_key(&by) && !self.came_after(by, exit))
    }

    /// Whether `by`, which holds so many ops of the evicted `node`, owes an answer: its first, or another because it took
    /// more of them since, from one who remained then and had not answered yet, than any answer speaks of.
    pub(super) fn owes_fence(&self, by: NodeId, node: NodeId, held: u64) -> bool {
        let exit = self.exits.get(&node);
        exit.is_some_and(|exit| !exit.fences.contains_key(&by) || exit.most_held() < held)
    }

    /// Whether what the roster means can have changed since it was worked out for the frontier `before`: by what is held of
    /// one whose eviction was not final then, or by an `Add` that has become final since.
    pub(super) fn is_moving(&self, before: u64, frontier: u64) -> bool {
        let tentative = |stamp: &Stamp| stamp.time > before;
        self.exits.values().any(|exit| exit.evicted.iter().any(tentative))
            || frontier != before && self.members.values().any(|member| tentative(&member.added))
    }

    /// What the roster means for a node.
    pub(super) fn assembly(&self, reach: Reach<'_>) -> Assembly {
        let Reach { node, log, frontier, .. } = reach;
        let rooted = self.rooted(frontier);
        let remaining: BTreeSet<NodeId> = rooted.iter().copied().filter(|node| !self.is_gone(*node)).collect();
        let evicted = self.exits.iter().filter(|(_, exit)| !exit.evicted.is_empty() && !exit.retired);
        let pending: BTreeSet<NodeId> = evicted
            .filter(|(node, exit)| !self.is_effective(**node, exit, &remaining, reach))
            .map(|(node, _)| *node)
            .collect();
        let counts = |node: &NodeId| match self.exits.get(node) {
            Some(exit) if exit.retired => false,
            Some(exit) if !exit.evicted.is_empty() => pending.contains(node),
            _ => rooted.contains(node) || !pending.is_empty(),
        };
        let counted = self.members.keys().copied().filter(counts).collect();
        let parted = |(other, exit): (&NodeId, &Exit)| {
            let effective = !exit.evicted.is_empty() && !exit.retired && !pending.contains(other);
            effective && (*other == node || !remaining.contains(&node) && log.head(*other).seq > exit.most_held())
        };
        let outcast = self.exits.iter().any(parted);
        Assembly { remaining, counted, pending, outcast }
    }

    /// The members that do not hang on one whom the others have cut off before it added them.
    fn rooted(&self, frontier: u64) -> BTreeSet<NodeId> {
        let is_root = |(node, member): &(&NodeId, &Member)| {
            member.added.time <= frontier || member.sponsored.iter().any(|op| op.origin == **node)
        };
        let mut rooted: BTreeSet<NodeId> = self.members.iter().filter(is_root).map(|(node, _)| *node).collect();
        loop {
            let more = self.members.iter().filter(|(node, member)| {
                !rooted.contains(node) && member.sponsored.iter().any(|add| self.holds_on(*add, &rooted))
            });
            let more: Vec<NodeId> = more.map(|(node, _)| *node).collect();
            if more.is_empty() {
                return rooted;
            }
            rooted.extend(more);
        }
    }

    /// Whether an `Add` holds whatever became of its sponsor: somebody who remains held it when he cut the sponsor off.
    fn holds_on(&self, add: OpId, rooted: &BTreeSet<NodeId>) -> bool {
        let Some(exit) = self.exits.get(&add.origin).filter(|exit| !exit.evicted.is_empty()) else {
            return rooted.contains(&add.origin);
        };
        let witness = |(by, (_, held)): (&NodeId, &(u64, u64))| {
            *held >= add.seq && !self.is_gone(*by) && (exit.forced || rooted.contains(by))
        };
        // Before the first fence nobody has cut anything off.
        let holds = exit.fences.is_empty() || exit.fences.iter().any(witness);
        rooted.contains(&add.origin) && holds
    }

    fn is_effective(&self, node: NodeId, exit: &Exit, remaining: &BTreeSet<NodeId>, reach: Reach<'_>) -> bool {
        let Reach { log, frontier, .. } = reach;
        if exit.is_settled(frontier) || exit.removed {
            return true;
        }
        let fenced = |by: &NodeId| exit.fences.contains_key(by) || self.came_after(*by, exit);
        let majority = self.is_majority(|by| remaining.contains(by), reach) || exit.forced;
        let all = !remaining.is_empty() && (remaining.iter().all(fenced) || left_out(Rule::AllFence));
        let held = log.head(node).seq >= exit.most_held();
        all && majority && held
    }

    /// Whether these are a majority, of each member list that can be final somewhere: that which is final here, and each that
    /// comes of it with one more `Add` that this node has promised to be complete up to. Of two sides that evict each other
    /// both have a majority of the list that is final where less is; so somebody is in both, and at most one side is one.
    fn is_majority(&self, speaks: impl Fn(&NodeId) -> bool, reach: Reach<'_>) -> bool {
        self.is_majority_without(None, speaks, reach)
    }

    /// The same of the lists that there would be if a member had left.
    fn is_majority_without(&self, leaving: Option<NodeId>, speaks: impl Fn(&NodeId) -> bool, reach: Reach<'_>) -> bool {
        let left = |node: &NodeId| {
            if leaving == Some(*node) {
                return true;
            }
            self.exits.get(node).is_some_and(|exit| exit.retired || exit.removed || exit.is_settled(reach.frontier))
        };
        let mut list: Vec<(u64, bool)> = self
            .members
            .iter()
            .filter(|(node, member)| member.added.time <= reach.promised.max(reach.frontier) && !left(node))
            .map(|(node, member)| (member.added.time, speaks(node)))
            .collect();
        list.sort_unstable();
        let first = list.partition_point(|(added, _)| *added <= reach.frontier);
        let is_one = |len: usize| 2 * list[..len].iter().filter(|(_, speaks)| *speaks).count() > len;
        (first..=list.len()).all(is_one) || left_out(Rule::Majority)
    }

    /// Whether those of the present members who speak are a majority.
    pub(super) fn are_majority(&self, speaks: impl Fn(&NodeId) -> bool, reach: Reach<'_>) -> bool {
        self.is_majority(|node| !self.is_gone(*node) && speaks(node), reach)
    }

    /// True if those of the present members who speak would be a majority once this one has retired. Else the others could neither
    /// evict a silent member nor complete an eviction that is under way.
    pub(super) fn are_majority_without(
        &self,
        node: NodeId,
        speaks: impl Fn(&NodeId) -> bool,
        reach: Reach<'_>,
    ) -> bool {
        self.is_majority_without(Some(node), |other| !self.is_gone(*other) && speaks(other), reach)
    }

    /// Whether a member began with what others held behind their fences: it need not answer itself.
    fn came_after(&self, node: NodeId, exit: &Exit) -> bool {
        let behind = |add: &OpId| exit.fences.get(&add.origin).is_some_and(|(fence, _)| *fence < add.seq);
        self.members.get(&node).is_some_and(|member| member.sponsored.iter().all(behind))
    }
}

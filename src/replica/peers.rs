//! Whom to dial, and when.
//!
//! In a small pool every pair is linked. In a larger one each node dials a few random members and takes a bounded
//! number of links, which makes a random graph: it stays connected when a fifth of its nodes die, and one random
//! dial now and then joins the halves of a healed partition. Backoff is jittered and goes on for ever.

use std::collections::{BTreeMap, BTreeSet};

use super::roster::{Member, Roster};
use crate::{document::URLS_MAX, op::NodeId};

/// Up to this many members, every pair is linked.
pub const FULL_MESH_MAX: usize = 8;
/// Links that a node of a larger pool dials.
pub const DIALLED_MAX: usize = 3;
/// Links that a node of a larger pool takes in all.
pub const LINKS_MAX: usize = 9;
/// A node with links enough still dials one random member this often.
const PROBE_MS: u64 = 10_000;
/// First and longest wait before a target is dialled again.
const BACKOFF_MS: (u64, u64) = (100, 5_000);
/// The larger id of two waits this long before it dials the smaller for the first time.
const PATIENCE_MS: u64 = 300;
/// Most URLs remembered; enough for the largest pools, and a bound on what peers can make us remember.
const TARGETS_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Peers {
    targets: BTreeMap<String, Target>,
    probe_ms: u64,
}

#[derive(Debug, Default)]
struct Target {
    /// From the command line or an operator: dialled while there is no link, even if no member has this URL.
    given: bool,
    /// An operator waits for the outcome: dialled once, links or no links.
    asked: bool,
    dialling: bool,
    tried: bool,
    failures: u32,
    next_ms: u64,
    oneself: bool,
    problem: Option<String>,
}

/// What the dialler must know of the node's links.
pub(super) struct Situation<'a> {
    pub(super) now_ms: u64,
    /// This node.
    pub(super) node: NodeId,
    /// Whether it has not got into a pool yet: a link to another that has not either leads nowhere.
    pub(super) joining: bool,
    /// The members, itself among them.
    pub(super) roster: &'a Roster,
    /// The nodes it is linked to.
    pub(super) linked: BTreeSet<NodeId>,
    /// Their URLs: a node that came back under a new id is not dialled under its old one.
    pub(super) linked_urls: BTreeSet<&'a str>,
    /// How many of the links it dialled itself.
    pub(super) dialled: usize,
}

impl Peers {
    /// Adds a URL to dial while there is no link.
    pub(super) fn give(&mut self, url: &str) {
        if let Some(target) = self.target(url) {
            target.given = true;
            target.next_ms = 0;
            target.failures = 0;
        }
    }

    /// The same, and once also when there are links: an operator is to see whether it leads anywhere.
    pub(super) fn ask(&mut self, url: &str) {
        self.give(url);
        self.targets.get_mut(url).into_iter().for_each(|target| target.asked = true);
    }

    /// The URLs to dial now.
    pub(super) fn wanted(&mut self, situation: &Situation<'_>, rng: &mut fastrand::Rng) -> Vec<String> {
        let mut candidates: Vec<String> = Vec::new();
        let quota = self.quota(situation, rng);
        let mut members: Vec<(&NodeId, &Member)> = Vec::new();
        // Most of the time a large pool wants nothing, and otherwise a few random members: the rest is not looked at.
        if quota > 0 {
            members.extend(situation.roster.present().filter(|(node, _)| **node != situation.node));
            if quota < members.len() {
                rng.shuffle(&mut members);
            }
        }
        for (node, Member { urls, .. }) in members {
            if candidates.len() == quota {
                break;
            }
            let reached = urls.iter().any(|url| situation.linked_urls.contains(url.as_str()));
            // The larger id waits a little, so that two nodes seldom dial each other at once; but then it dials, for
            // the smaller one may be unable to.
            let patience_ms = if *node < situation.node { PATIENCE_MS } else { 0 };
            urls.iter().for_each(|url| self.meet(url, situation.now_ms + patience_ms));
            if !situation.linked.contains(node) && !reached {
                candidates.extend(self.due(urls, situation.now_ms, rng));
            }
        }
        let alone = situation.joining || situation.linked.is_empty();
        let wanted = self.targets.iter().filter(|(_, target)| target.asked || (alone && target.given));
        let unlinked = wanted.map(|(url, _)| url).filter(|url| !situation.linked_urls.contains(url.as_str()));
        for url in unlinked.cloned().collect::<Vec<_>>() {
            candidates.extend(self.due(&[url], situation.now_ms, rng));
        }
        candidates.sort();
        candidates.dedup();
        for url in &candidates {
            self.targets.entry(url.clone()).or_default().dialling = true;
        }
        candidates
    }

    /// How many members to dial now: in a small pool all, in a larger one as many as are lacking, and now and then one
    /// more.
    fn quota(&mut self, situation: &Situation<'_>, rng: &mut fastrand::Rng) -> usize {
        if situation.roster.len() <= FULL_MESH_MAX {
            return usize::MAX;
        }
        let room = LINKS_MAX.saturating_sub(situation.linked.len());
        let mut lacking = DIALLED_MAX.saturating_sub(situation.dialled).min(room);
        if lacking > 0 {
            let dialling = self.targets.values().filter(|target| target.dialling).count();
            lacking = lacking.saturating_sub(dialling);
        }
        if situation.now_ms < self.probe_ms {
            return lacking;
        }
        self.probe_ms = situation.now_ms + PROBE_MS / 2 + rng.u64(..PROBE_MS);
        lacking.max(1)
    }

    /// The one of a member's URLs to try now, if it is time to.
    fn due(&mut self, urls: &[String], now_ms: u64, rng: &mut fastrand::Rng) -> Option<String> {
        if urls.iter().any(|url| self.targets.get(url).is_some_and(|target| target.dialling || target.oneself)) {
            return None;
        }
        let due = |url: &&String| self.targets.get(*url).is_none_or(|target| target.next_ms <= now_ms);
        let ready: Vec<&String> = urls.iter().filter(due).collect();
        let url = rng.choice(ready)?.clone();
        self.target(&url).is_some().then_some(url)
    }

    /// A dial led to a link, or the link it led to was refused or is gone: `failed` says whether to wait longer.
    pub(super) fn dialled(&mut self, url: &str, now_ms: u64, failed: Option<String>, rng: &mut fastrand::Rng) {
        let Some(target) = self.targets.get_mut(url) else { return };
        target.dialling = false;
        target.tried = true;
        target.asked = false;
        target.failures = if failed.is_some() { target.failures.saturating_add(1) } else { 0 };
        target.problem = failed;
        let (least, most) = BACKOFF_MS;
        let wait = most.min(least << target.failures.min(16));
        target.next_ms = now_ms + wait / 2 + rng.u64(..=wait / 2);
    }

    /// A node that is reached there has linked to this one: that is as good as a dial.
    pub(super) fn reached(&mut self, urls: &[String]) {
        for url in urls {
            if let Some(target) = self.targets.get_mut(url) {
                // Whatever was wrong on the way there is so no more.
                (target.tried, target.problem) = (true, None);
            }
        }
    }

    /// A member is not reached at this URL any more: unless it is given, or another member is, it is not dialled, and nobody
    /// need know what was wrong with it.
    pub(super) fn leave(&mut self, url: &str, roster: &Roster) {
        let given = self.targets.get(url).is_some_and(|target| target.given || target.dialling);
        if !given && !roster.present().any(|(_, member)| member.urls.iter().any(|at| at == url)) {
            self.targets.remove(url);
        }
    }

    /// The URL leads back here.
    pub(super) fn is_oneself(&mut self, url: &str) {
        if let Some(target) = self.target(url) {
            target.oneself = true;
        }
    }

    /// Dial everyone without delay.
    pub(super) fn wake(&mut self) {
        self.probe_ms = 0;
        for target in self.targets.values_mut() {
            target.next_ms = 0;
            target.failures = 0;
        }
    }

    /// Whether a dial to one of these is under way.
    pub(super) fn is_dialling(&self, urls: &[String]) -> bool {
        urls.iter().any(|url| self.targets.get(url).is_some_and(|target| target.dialling))
    }

    /// Whether every given target was tried at least once.
    pub(super) fn all_given_tried(&self) -> bool {
        self.targets.values().filter(|target| target.given).all(|target| target.tried || target.oneself)
    }

    /// What is wrong with URLs, for people.
    pub(super) fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.targets.iter().filter_map(|(url, target)| Some((url.as_str(), target.problem.as_deref()?)))
    }

    fn meet(&mut self, url: &str, next_ms: u64) {
        if !self.targets.contains_key(url)
            && let Some(target) = self.target(url)
        {
            target.next_ms = next_ms;
        }
    }

    fn target(&mut self, url: &str) -> Option<&mut Target> {
        let room = self.targets.len() < TARGETS_MAX && url.len() <= URLS_MAX.1;
        if !self.targets.contains_key(url) && !room {
            return None;
        }
        Some(self.targets.entry(url.to_string()).or_default())
    }
}

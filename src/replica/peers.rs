//! Whom to dial, and when.
//!
//! In a small pool every pair is linked. In a larger one each node dials a few random members and takes a bounded
//! number of links, which makes a random graph: it stays connected when a fifth of its nodes die, and one random
//! dial now and then joins the halves of a healed partition. Backoff is jittered and goes on for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::roster::{Member, Roster};
use crate::{
    document::URLS_MAX,
    op::NodeId,
    plant::{Rule, left_out},
    wire::Why,
};

/// Up to this many members, every pair is linked.
pub const FULL_MESH_MAX: usize = 8;
/// Links that a node of a larger pool dials.
pub const DIALLED_MAX: usize = 3;
/// Links that a node of a larger pool takes in all.
pub const LINKS_MAX: usize = 9;
/// Most addresses of one name that are dialled.
pub const ADDRESSES_MAX: usize = 32;
/// A node with links enough still dials one random member this often, and one of the places where it was told to look.
const PROBE_MS: u64 = 10_000;
/// First and longest wait before a target is dialled again.
const BACKOFF_MS: (u64, u64) = (100, 5_000);
/// Longest wait before a name that was given is looked up again: names are often published late.
const LOOKUP_MS_MAX: u64 = 1_000;
/// Before a place is dialled again that led to a node to which there is another link.
const DOUBLE_MS: u64 = 60_000;
/// Before a place is dialled again that led back to this node.
const ONESELF_MS: u64 = 600_000;
/// The larger id of two waits this long before it dials the smaller for the first time.
const PATIENCE_MS: u64 = 300;
/// Failures in a row after which a hint is dropped: more than a minute.
const HINT_TRIES: u32 = 16;
/// Most URLs remembered; enough for the largest pools, and a bound on what peers can make us remember.
const TARGETS_MAX: usize = 4_096;

/// Where a link is dialled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The URL that was given, or that a member advertises.
    pub url: String,
    /// The address of the name in it. None where the URL holds an address itself, or before the name is looked up.
    pub address: Option<String>,
}

impl From<String> for Endpoint {
    fn from(url: String) -> Endpoint {
        Endpoint { url, address: None }
    }
}

impl From<&str> for Endpoint {
    fn from(url: &str) -> Endpoint {
        url.to_string().into()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => write!(f, "{} ({address})", self.url),
            None => f.write_str(&self.url),
        }
    }
}

/// What a dial, or the link that it led to, has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing is wrong with the place.
    Fine,
    /// There is another link to the node there.
    Double,
    /// No link is possible now; the text says why.
    Failed(String),
    /// The node there is of another pool, and neither gives its own up.
    OtherPool(String),
}

impl Outcome {
    /// A link has ended with a refusal, of one side or the other.
    pub(super) fn of(why: Why, detail: String) -> Outcome {
        match why {
            Why::Oneself => Outcome::Fine,
            Why::Double => Outcome::Double,
            Why::OtherPool => Outcome::OtherPool(detail),
            _ => Outcome::Failed(detail),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    targets: BTreeMap<String, Target>,
    probe_ms: u64,
    look_ms: u64,
}

#[derive(Debug, Default)]
struct Target {
    /// From the command line or an operator: dialled while there is no link, even if no member has this URL.
    given: bool,
    /// From a peer, or a member of the pool that this node was in: dialled like a given one, until it has failed too often.
    hinted: bool,
    /// An operator waits for the outcome: dialled once, links or no links.
    asked: bool,
    /// The attempts at the URL. Where it holds a name these are look-ups.
    tries: Tries,
    /// The attempts at each address of the name.
    addresses: BTreeMap<String, Tries>,
}

impl Target {
    fn tries(&mut self, address: Option<&String>) -> Option<&mut Tries> {
        match address {
            Some(address) => self.addresses.get_mut(address),
            None => Some(&mut self.tries),
        }
    }

    fn all(&self) -> impl Iterator<Item = (Option<&str>, &Tries)> {
        let addresses = self.addresses.iter().map(|(address, tries)| (Some(address.as_str()), tries));
        std::iter::once((None, &self.tries)).chain(addresses)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Tries> {
        std::iter::once(&mut self.tries).chain(self.addresses.values_mut())
    }

    fn reset(&mut self) {
        self.all_mut().for_each(|tries| (tries.next_ms, tries.failures, tries.oneself_until_ms) = (0, 0, 0));
    }

    fn is_dialling(&self) -> bool {
        self.all().any(|(_, tries)| tries.dialling)
    }

    /// Whether nodes are looked for there, whoever is a member.
    fn is_place(&self) -> bool {
        self.given || self.hinted
    }

    /// Whether it has failed and only a member would be dialled there; a node with links gives up hints, too.
    fn is_useless(&self, linked: bool) -> bool {
        let failed = self.all().any(|(_, tries)| tries.problem.is_some());
        let hopeless = !self.hinted || linked && self.tries.failures >= HINT_TRIES;
        failed && hopeless && !(self.given || self.asked || self.is_dialling())
    }

    /// Whether one of its addresses leads to another node.
    fn leads_on(&self) -> bool {
        self.all().any(|(_, tries)| tries.led_on && tries.problem.is_none())
    }
}

/// What came of the attempts at one place.
#[derive(Debug, Default)]
struct Tries {
    dialling: bool,
    tried: bool,
    /// Whether it has led to a node.
    led_on: bool,
    failures: u32,
    next_ms: u64,
    /// Up to when it counts as leading back to this node; 0 if it never did.
    oneself_until_ms: u64,
    /// Whether it led to a node to which there was another link.
    double: bool,
    /// Whether what is wrong is that the node there is of another pool.
    foreign: bool,
    problem: Option<String>,
}

impl Tries {
    fn is_due(&self, now_ms: u64) -> bool {
        !self.dialling && self.next_ms.max(self.oneself_until_ms) <= now_ms
    }

    fn wait(&mut self, now_ms: u64, most_ms: u64, rng: &mut fastrand::Rng) {
        let wait = most_ms.min(BACKOFF_MS.0 << self.failures.min(16));
        self.next_ms = now_ms + wait / 2 + rng.u64(..=wait / 2);
    }
}

/// What the dialler must know of the node's links.
pub(super) struct Situation<'a> {
    pub(super) now_ms: u64,
    /// This node.
    pub(super) node: NodeId,
    /// Whether it has not got into a pool yet: a link to another that has not either leads nowhere.
    pub(super) joining: bool,
    /// Whether it would give its pool up for another.
    pub(super) would_merge: bool,
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
            target.reset();
        }
    }

    /// Adds a URL where another node may be found.
    pub(super) fn hint(&mut self, url: &str) {
        if let Some(target) = self.target(url) {
            target.hinted = true;
            target.reset();
        }
    }

    /// The same as `give`, and once also when there are links: an operator is to see whether it leads anywhere.
    pub(super) fn ask(&mut self, url: &str) {
        self.give(url);
        self.targets.get_mut(url).into_iter().for_each(|target| target.asked = true);
    }

    /// Whether this node was told to look there.
    pub(super) fn is_given(&self, url: &str) -> bool {
        self.targets.get(url).is_some_and(|target| target.given)
    }

    /// The URLs to dial now.
    pub(super) fn wanted(&mut self, situation: &Situation<'_>, rng: &mut fastrand::Rng) -> Vec<Endpoint> {
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
        for url in self.places_to_look(situation, rng) {
            candidates.extend(self.due(&[url], situation.now_ms, rng));
        }
        candidates.sort();
        candidates.dedup();
        for url in &candidates {
            self.targets.entry(url.clone()).or_default().tries.dialling = true;
        }
        candidates.into_iter().map(Endpoint::from).collect()
    }

    /// Where to look for other nodes beside the members. A node without links, or one that would give its pool up, looks
    /// everywhere where it was told to; else it looks at one such place now and then, for a node of another pool may be there.
    fn places_to_look(&mut self, situation: &Situation<'_>, rng: &mut fastrand::Rng) -> Vec<String> {
        let alone = situation.joining || situation.linked.is_empty();
        let merging = situation.would_merge && situation.roster.len() <= FULL_MESH_MAX && !left_out(Rule::MergeEmpty);
        let probing = situation.now_ms >= self.look_ms;
        let unlinked =
            |url: &str, target: &Target| !target.addresses.is_empty() || !situation.linked_urls.contains(url);
        let looks = merging || probing;
        // Members are dialled as such.
        let members = situation.roster.present().filter(|_| looks).flat_map(|(_, member)| &member.urls);
        let members: BTreeSet<&String> = members.collect();
        let mut places = Vec::new();
        let mut strangers = Vec::new();
        let candidate = |target: &Target| target.asked || target.is_place() && (alone || looks);
        for (url, target) in self.targets.iter().filter(|(_, target)| candidate(target)) {
            if !unlinked(url, target) {
            } else if alone || target.asked {
                places.push(url.clone());
            } else if looks && !members.contains(url) {
                strangers.push(url.clone());
            }
        }
        if !merging && strangers.len() > 1 {
            rng.shuffle(&mut strangers);
            strangers.truncate(1);
        }
        if probing {
            self.look_ms = situation.now_ms + PROBE_MS / 2 + rng.u64(..PROBE_MS);
        }
        places.extend(strangers);
        places
    }

    /// The name in a URL was looked up. Returns the addresses to dial now, `most` of them.
    pub(super) fn resolved(
        &mut self,
        url: &str,
        mut addresses: Vec<String>,
        linked: &BTreeSet<String>,
        most: usize,
        now_ms: u64,
        rng: &mut fastrand::Rng,
    ) -> Vec<Endpoint> {
        let Some(target) = self.targets.get_mut(url) else { return Vec::new() };
        target.asked = false;
        rng.shuffle(&mut addresses);
        addresses.truncate(ADDRESSES_MAX);
        target.addresses.retain(|address, tries| tries.dialling || addresses.contains(address));
        target.tries = Tries { tried: true, failures: target.tries.failures.saturating_add(1), ..Tries::default() };
        let most_ms = if target.given { LOOKUP_MS_MAX } else { BACKOFF_MS.1 };
        target.tries.wait(now_ms, most_ms, rng);
        let mut wanted = Vec::new();
        for address in addresses {
            let tries = target.addresses.entry(address.clone()).or_default();
            if wanted.len() < most && tries.is_due(now_ms) && !linked.contains(&address) {
                tries.dialling = true;
                wanted.push(Endpoint { url: url.to_string(), address: Some(address) });
            }
        }
        wanted
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
            let dialling = self.targets.values().filter(|target| target.is_dialling()).count();
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
        let tries = |url: &String| self.targets.get(url).map(|target| &target.tries);
        if urls.iter().any(|url| tries(url).is_some_and(|tries| tries.dialling || now_ms < tries.oneself_until_ms)) {
            return None;
        }
        let ready: Vec<&String> =
            urls.iter().filter(|url| tries(url).is_none_or(|tries| tries.is_due(now_ms))).collect();
        let url = rng.choice(ready)?.clone();
        self.target(&url).is_some().then_some(url)
    }

    /// A dial led to a link, or to none, or that link is gone.
    pub(super) fn dialled(&mut self, endpoint: &Endpoint, now_ms: u64, outcome: Outcome, rng: &mut fastrand::Rng) {
        let Some(target) = self.targets.get_mut(&endpoint.url) else { return };
        target.asked = false;
        if matches!(outcome, Outcome::Fine) {
            // Also where it was one address of a name: the others may be tried soon.
            target.tries.failures = 0;
        }
        let Some(tries) = target.tries(endpoint.address.as_ref()) else { return };
        (tries.dialling, tries.tried, tries.foreign) = (false, true, matches!(outcome, Outcome::OtherPool(_)));
        tries.double = matches!(outcome, Outcome::Double);
        (tries.failures, tries.problem) = match outcome {
            Outcome::Fine | Outcome::Double => (0, None),
            Outcome::Failed(why) | Outcome::OtherPool(why) => (tries.failures.saturating_add(1), Some(why)),
        };
        tries.led_on |= tries.problem.is_none() && tries.oneself_until_ms <= now_ms;
        tries.wait(now_ms, BACKOFF_MS.1, rng);
        if tries.double {
            tries.next_ms = now_ms + DOUBLE_MS;
        }
    }

    /// A link is gone: places that led to where there was one already may be of use again.
    pub(super) fn link_lost(&mut self, now_ms: u64) {
        for tries in self.targets.values_mut().flat_map(Target::all_mut).filter(|tries| tries.double) {
            (tries.double, tries.next_ms) = (false, now_ms + BACKOFF_MS.0);
        }
    }

    /// A node that is reached there has linked to this one: that is as good as a dial.
    pub(super) fn reached(&mut self, urls: &[String]) {
        for url in urls {
            if let Some(target) = self.targets.get_mut(url) {
                // Whatever was wrong on the way there is so no more.
                (target.tries.tried, target.tries.problem) = (true, None);
            }
        }
    }

    /// A member is not reached at this URL any more: unless it is given, or another member is, it is not dialled, and nobody
    /// need know what was wrong with it.
    pub(super) fn leave(&mut self, url: &str, roster: &Roster) {
        let given = self.targets.get(url).is_some_and(|target| target.given || target.tries.dialling);
        if !given && !roster.present().any(|(_, member)| member.urls.iter().any(|at| at == url)) {
            self.targets.remove(url);
        }
    }

    /// Drops URLs at which no member is reached any more, so that nobody is told what is wrong with them.
    pub(super) fn forget_useless(&mut self, roster: &Roster, linked: bool) {
        if !self.targets.values().any(|target| target.is_useless(linked)) {
            return;
        }
        let members: BTreeSet<&String> = roster.present().flat_map(|(_, member)| &member.urls).collect();
        self.targets.retain(|url, target| !target.is_useless(linked) || members.contains(url));
    }

    /// This place leads back here, and is not dialled for a while. Of a name only this address: the others lead to other nodes, or
    /// will. Not for ever: the address may become another node's, and who stands between two nodes can lead a dial back.
    pub(super) fn is_oneself(&mut self, endpoint: &Endpoint, now_ms: u64) {
        let until_ms = now_ms + ONESELF_MS;
        let Some(target) = self.target(&endpoint.url) else { return };
        if left_out(Rule::OwnAddress) {
            target.tries.oneself_until_ms = until_ms;
        }
        target.tries(endpoint.address.as_ref()).into_iter().for_each(|tries| tries.oneself_until_ms = until_ms);
    }

    /// Dial everyone without delay.
    pub(super) fn wake(&mut self) {
        (self.probe_ms, self.look_ms) = (0, 0);
        self.targets.values_mut().for_each(Target::reset);
    }

    /// What came of earlier dials counts no more: this node looks for a pool anew.
    pub(super) fn begin_anew(&mut self) {
        for target in self.targets.values_mut() {
            target.all_mut().for_each(|tries| tries.tried = false);
        }
        self.wake();
    }

    /// Whether a dial to one of these is under way.
    pub(super) fn is_dialling(&self, urls: &[String]) -> bool {
        urls.iter().any(|url| self.targets.get(url).is_some_and(Target::is_dialling))
    }

    /// Whether every given target was tried at least once.
    pub(super) fn all_given_tried(&self) -> bool {
        let tried = |(_, tries): (Option<&str>, &Tries)| tries.tried || tries.oneself_until_ms > 0;
        self.targets.values().filter(|target| target.is_place()).all(|target| target.all().all(tried))
    }

    /// What is wrong with URLs, for people. That one address of a name does not answer is no problem where another does.
    pub(super) fn problems(&self) -> impl Iterator<Item = (&str, String)> {
        self.targets.iter().flat_map(|(url, target)| {
            let told = move |tries: &&Tries| tries.foreign || !target.leads_on();
            let problem = move |(address, tries): (Option<&str>, &Tries)| {
                let why = Some(tries).filter(told)?.problem.as_deref()?;
                Some((url.as_str(), address.map_or_else(|| why.to_string(), |address| format!("{address}: {why}"))))
            };
            target.all().filter_map(problem)
        })
    }

    /// The places where this node was told to look and found a node of another pool, and what was said there.
    pub(super) fn strangers(&self) -> impl Iterator<Item = (Endpoint, &str)> {
        self.targets.iter().filter(|(_, target)| target.given).flat_map(|(url, target)| {
            target.all().filter(|(_, tries)| tries.foreign).filter_map(|(address, tries)| {
                let endpoint = Endpoint { url: url.clone(), address: address.map(str::to_string) };
                Some((endpoint, tries.problem.as_deref()?))
            })
        })
    }

    fn meet(&mut self, url: &str, next_ms: u64) {
        if !self.targets.contains_key(url)
            && let Some(target) = self.target(url)
        {
            target.tries.next_ms = next_ms;
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

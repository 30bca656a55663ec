//! With whom this node links: joining a pool and founding one, the hello and what speaks against it, dialling and shedding.

use std::collections::BTreeSet;

use super::{
    DIALLED_MAX, Effect, FOUND_AFTER_MS, FULL_MESH_MAX, LINKS_MAX, Link, LinkId, LinkKeys, Replica,
    peers::{ADDRESSES_MAX, Endpoint, Outcome, Situation},
    rebirth::{Loss, Orphan},
};
use crate::{
    document::check_newcomer,
    op::{Newcomer, NodeId, PublicKey},
    plant::{Rule, left_out},
    wire::{Hello, Message, Refusal, Why, WireError},
};

/// Most links at once, identified or not, whatever the size of the pool.
pub const OPEN_MAX: usize = 64;
/// A link is kept at least this long, or two nodes could drop what the other has just opened, over and over.
const KEEP_MS: u64 = 2_000;
/// A node that gave its pool up waits this long for one of the other to be there.
const TURN_BACK_MS: u64 = 10_000;
/// A node that gave its pool up finds a member of the other again within this, or looks further.
const HOSTED_MS: u64 = 2_000;
/// Most addresses of others that a refusal names.
const TRY_INSTEAD_MAX: usize = 8;

/// What becomes of the pools of two nodes that meet.
enum Meeting {
    /// Both go on as they are.
    None,
    /// This node gives its pool up for that of the peer.
    WeJoin,
    /// The peer does.
    TheyJoin,
}

impl Replica {
    pub(super) fn on_join(&mut self, url: &str) {
        self.peers.ask(url);
        self.moving_to = Some(url.to_string());
        let linked =
            self.links.values().filter_map(|link| link.peer.as_ref()).find(|peer| peer.urls.iter().any(|at| at == url));
        if linked.is_some_and(|peer| self.gives_way_for(peer.node)) {
            let why = format!("{} gives way to those whom it had evicted", self.config.node);
            return self.be_reborn(why, Loss::CutOff);
        }
        self.dial();
    }

    /// An empty pool of its own, which nobody else is in, is given up for the one that an operator names; not before
    /// that one answers, so a wrong URL costs nothing.
    fn give_up_pool_for(&mut self, link: LinkId, hello: &Hello) {
        let elsewhere = matches!((&self.pool, &hello.pool), (Some((ours, _)), Some((theirs, _))) if ours != theirs);
        if self.would_move(link) && elsewhere {
            self.forget();
            self.clock = 0;
            (self.config.found, self.config.pool, self.moving_to) = (false, None, None);
        }
    }

    /// What becomes of this node's pool and that of the peer, where they are two.
    fn meeting(&self, link: LinkId, hello: &Hello) -> Meeting {
        let (Some((ours, our_name)), Some((theirs, their_name))) = (&self.pool, &hello.pool) else {
            return Meeting::None;
        };
        if ours == theirs || left_out(Rule::MergeEmpty) {
            return Meeting::None;
        }
        // Who holds something follows nobody, and an empty pool follows one with content only where it was told to look.
        let named = hello.empty || self.links.get(&link).is_some_and(|link| self.dialled_as_told(link));
        let fits = |wanted: &Option<String>, name: &String| wanted.as_ref().is_none_or(|wanted| wanted == name);
        let we_may = self.would_merge() && named && fits(&self.config.pool, their_name);
        let they_may = hello.empty && fits(&hello.wants, our_name);
        // A pool goes on with those who are in it, not with those who are on their way there.
        let settled = match (self.ready, hello.member) {
            (true, false) => false,
            (false, true) => !self.is_hosted() || !they_may || theirs < ours,
            _ => !they_may || theirs < ours,
        };
        match (we_may, they_may) {
            (true, _) if settled && hello.member => Meeting::WeJoin,
            (_, true) if self.ready => Meeting::TheyJoin,
            _ => Meeting::None,
        }
    }

    fn dialled_as_told(&self, link: &Link) -> bool {
        link.dialled.as_ref().is_some_and(|endpoint| self.peers.is_given(&endpoint.url))
    }

    /// Whether there is a link to a member of this node's pool, or was a moment ago.
    fn is_hosted(&self) -> bool {
        let just_now = self.now.mono_ms < self.hosted_until_ms;
        just_now
            || self
                .links
                .values()
                .filter_map(|link| link.peer.as_ref())
                .any(|peer| peer.member && peer.pool == self.pool)
    }

    /// Whether nothing is lost if this node gives its pool up for another: nobody has written anything there, or it has not got
    /// in yet.
    pub(super) fn would_merge(&self) -> bool {
        let nothing = self.log.len() == self.roster.ops().count() && self.early.len() == 0;
        let written = |peer: &Hello| peer.pool == self.pool && !peer.empty;
        let begins = self.provisional && !self.links.values().filter_map(|link| link.peer.as_ref()).any(written);
        let stays = !self.orphans.is_empty() || self.roster.is_retired(self.config.node);
        self.pool.is_some() && (self.ready || begins) && (nothing || left_out(Rule::KeepWritten)) && !stays
    }

    /// Gives up a pool in which there is nothing, to go on as a newcomer in that of the peer. Under a new id: what it said under
    /// the old one is not of that pool. A link that proves the key of the old id ends with that.
    fn give_up_empty_pool(&mut self, link: LinkId, hello: &Hello) {
        let others: Vec<LinkId> = self.links.keys().copied().filter(|other| *other != link).collect();
        others.into_iter().for_each(|other| self.drop_link(other, Outcome::Fine));
        self.forget();
        self.take_new_id();
        self.peers.begin_anew();
        self.counters.merged += 1;
        if !self.links.contains_key(&link) {
            self.go_on_to(hello);
        }
    }

    /// Enters the pool of a peer without a link to it. The peer is found again under this node's new id.
    fn go_on_to(&mut self, hello: &Hello) {
        hello.urls.iter().for_each(|url| self.peers.hint(url));
        hello.pool.clone().into_iter().for_each(|pool| self.enter(pool));
        self.provisional = true;
        self.hear_clock(hello.clock);
        self.hosted_until_ms = self.now.mono_ms + HOSTED_MS;
    }

    fn would_move(&self, link: LinkId) -> bool {
        let alone = self.roster.all().len() <= 1 && self.log.len() == self.roster.ops().count();
        self.is_told_to_join(link) && alone
    }

    /// Whether this link leads to where an operator wants this node to be.
    pub(super) fn is_told_to_join(&self, link: LinkId) -> bool {
        let dialled = self.links.get(&link).and_then(|link| link.dialled.as_ref());
        dialled.is_some_and(|endpoint| Some(&endpoint.url) == self.moving_to.as_ref())
    }

    pub(super) fn on_cut(&mut self, cut: bool) {
        self.cut = cut;
        if cut {
            let all: Vec<LinkId> = self.links.keys().copied().collect();
            all.into_iter().for_each(|link| self.refuse(link, Why::Cut, "its operator has cut its links".into()));
        } else {
            self.peers.wake();
            self.dial();
        }
    }

    pub(super) fn on_opened(&mut self, link: LinkId, dialled: Option<Endpoint>, keys: Option<LinkKeys>) {
        self.links.insert(link, Link::new(self.now.mono_ms, dialled.clone(), keys));
        if self.is_outdated(keys) {
            self.drop_link(link, Outcome::Fine);
        } else if self.cut {
            self.refuse(link, Why::Cut, "its operator has cut its links".into());
        } else if self.links.len() > OPEN_MAX {
            self.refuse(link, Why::Busy, "it has all the links it takes".into());
        } else if dialled.is_some() {
            self.say_hello(link);
        }
    }

    pub(super) fn on_closed(&mut self, link: LinkId) {
        self.forget_link(link, Outcome::Failed("the link broke".into()));
    }

    pub(super) fn on_broken(&mut self, link: LinkId, error: &WireError) {
        let why = if matches!(error, WireError::Version(..)) { Why::OtherVersion } else { Why::Broken };
        self.refuse(link, why, error.to_string());
    }

    /// The first word on a link, or news about the peer's pool.
    pub(super) fn on_hello(&mut self, link: LinkId, hello: Hello) {
        if let Some(detail) = self.key_objection(link, hello.node) {
            return self.refuse_for_key(link, detail);
        }
        if self.is_copy(&hello) {
            self.meet_copy(link, &hello);
            return self.cede(hello.node);
        }
        self.give_up_pool_for(link, &hello);
        if self.gives_way_to(link, &hello) {
            let why = format!("{} gives way to those whom it had evicted", self.config.node);
            return self.be_reborn(why, Loss::CutOff);
        }
        let Some(found) = self.links.get(&link) else { return };
        // Also where the peer has come back as another.
        let first = found.peer.as_ref().is_none_or(|peer| peer.node != hello.node);
        let accepted = found.dialled.is_none();
        let knowable = hello.node != self.config.node && self.goes_on_without(hello.node).is_none();
        match self.meeting(link, &hello) {
            Meeting::WeJoin if knowable && Self::newcomer(&hello).is_ok() => self.give_up_empty_pool(link, &hello),
            // It gives its pool up when it hears which one this is, and says hello again.
            Meeting::TheyJoin if knowable => {
                return if first && accepted {
                    self.say_hello(link);
                };
            }
            _ => {}
        }
        if !self.links.contains_key(&link) {
            return;
        }
        if let Some((why, detail)) = self.objection(link, &hello) {
            if first && accepted && matches!(why, Why::Oneself | Why::OtherPool) {
                // By this the dialler learns whom it has reached.
                self.say_hello(link);
            }
            self.refuse(link, why, detail);
            return;
        }
        self.cede(hello.node);
        self.see_address(&hello);
        let Some(found) = self.links.get_mut(&link) else { return };
        let asks = !first && hello.pool.is_none();
        let (dialled, peer_pool) = (found.dialled.clone(), hello.pool.clone());
        let clock = hello.clock;
        self.peers.reached(&hello.urls);
        found.confirmed &=
            found.peer.as_ref().is_some_and(|peer| (peer.node, peer.process) == (hello.node, hello.process));
        found.peer = Some(hello);
        // Who was dialled answers a hello with its own.
        found.shown.open |= dialled.is_some();
        if let Some(endpoint) = &dialled {
            self.peers.dialled(endpoint, self.now.mono_ms, Outcome::Fine, &mut self.rng);
        }
        if first && dialled.is_none() {
            self.say_hello(link);
        }
        if self.pool.is_none()
            && let Some(pool) = peer_pool
        {
            self.enter(pool);
            self.provisional = true;
            self.clock = self.clock.max(clock);
            self.announce();
        } else {
            self.hear_clock(clock);
        }
        if self.pool.is_some() && (first || asks) {
            if asks {
                self.say_hello(link);
            }
            self.say_heads(link);
        }
        self.pump_all();
    }

    /// Why there is to be no link with the peer that says this hello.
    fn objection(&mut self, link: LinkId, hello: &Hello) -> Option<(Why, String)> {
        if hello.node == self.config.node && (hello.process == self.process || left_out(Rule::Copies)) {
            let dialled = self.links.get(&link).and_then(|link| link.dialled.as_ref());
            dialled.into_iter().for_each(|endpoint| self.peers.is_oneself(endpoint, self.now.mono_ms));
            return Some((Why::Oneself, "it is this node itself".into()));
        }
        if let Some(objection) = self.goes_on_without(hello.node) {
            return Some(objection);
        }
        if !hello.member && !self.roster.knows(hello.node) && self.lets_nobody_in() {
            return Some((Why::Busy, "this member is being evicted itself: join at another".into()));
        }
        let name = |pool: &Option<(crate::op::PoolId, String)>| pool.as_ref().map(|(_, name)| name.clone());
        let wrong_name = |wanted: &Option<String>, offered: Option<String>| matches!((wanted, offered), (Some(wanted), Some(offered)) if *wanted != offered);
        let other = match (&self.pool, &hello.pool) {
            (Some((ours, _)), Some((theirs, _))) => ours != theirs,
            (None, theirs) => wrong_name(&self.config.pool, name(theirs)),
            (ours, None) => wrong_name(&hello.wants, name(ours)),
        };
        if other {
            let shown = |pool: &Option<(crate::op::PoolId, String)>| {
                pool.as_ref().map_or("none".into(), |(id, name)| format!("{name:?} ({id})"))
            };
            let (ours, theirs) = (shown(&self.pool), shown(&hello.pool));
            let (node, other) = (self.config.node, hello.node);
            return Some((Why::OtherPool, format!("node {node} belongs to pool {ours}, node {other} to {theirs}")));
        }
        if let Err(fault) = Self::newcomer(hello) {
            return Some((Why::Broken, fault));
        }
        if let Some(detail) = self.clock_objection(hello.clock) {
            return Some((Why::Broken, detail));
        }
        if let Some(detail) = self.gives_way(hello) {
            return Some((Why::Copy, detail));
        }
        self.double(link, hello).or_else(|| self.too_many(link))
    }

    /// The objection to a peer whose clock is ahead of the bound.
    pub(super) fn clock_objection(&self, clock: u64) -> Option<String> {
        let bound = self.now.time_bound();
        let detail = || {
            format!(
                "its Lamport clock is {clock}, and no pool can have passed {bound} by now: compare the wall clocks of both \
                 machines"
            )
        };
        (clock > bound).then(detail)
    }

    /// The peer that says this hello, as a newcomer, if it can be one.
    fn newcomer(hello: &Hello) -> Result<Newcomer<'static>, String> {
        let newcomer = Newcomer { node: hello.node, name: hello.name.clone().into(), urls: hello.urls.clone() };
        check_newcomer(&newcomer).map_err(|fault| fault.to_string())?;
        Ok(newcomer)
    }

    /// Of two links between the same two nodes both sides keep the same one: that which the smaller id dialled, or, if
    /// one side dialled both, the newer, for the older is the one that broke. So it is if the peer was started anew since.
    fn double(&mut self, link: LinkId, hello: &Hello) -> Option<(Why, String)> {
        let other = self.linked_to(hello.node).filter(|other| *other != link)?;
        let ours = |link: LinkId| self.links.get(&link).is_some_and(|link| link.dialled.is_some());
        let before = self.links.get(&other).and_then(|link| link.peer.as_ref());
        let restarted = before.is_some_and(|peer| peer.process != hello.process);
        let keep_new = restarted || ours(link) == ours(other) || ours(link) == (self.config.node < hello.node);
        let detail = "there is another link between the two".to_string();
        if keep_new {
            self.refuse(other, Why::Double, detail);
            return None;
        }
        Some((Why::Double, detail))
    }

    /// A node that has all its links takes no more, once it has a pool: those who look for one together must all know
    /// each other, or two of them found one. Its own dials are the exception: they are few, and they are what
    /// joins the halves of a healed partition, so the oldest link makes room for them.
    fn too_many(&mut self, link: LinkId) -> Option<(Why, String)> {
        let found = self.links.get(&link)?;
        let (known, dialled) = (found.peer.is_some(), found.dialled.is_some());
        let others = self.links.iter().filter(|(id, other)| **id != link && other.peer.is_some());
        // Ids of links rise: the first is the oldest.
        let others: Vec<(LinkId, u64)> = others.map(|(id, other)| (*id, other.opened_ms)).collect();
        if known || others.len() < LINKS_MAX || self.pool.is_none() {
            return None;
        }
        if let [(oldest, opened_ms), ..] = others[..]
            && dialled
            && self.now.mono_ms >= opened_ms + KEEP_MS
        {
            self.drop_link(oldest, Outcome::Fine);
            return None;
        }
        Some((Why::Busy, "it has all the links it takes".into()))
    }

    pub(super) fn on_refusal(&mut self, link: LinkId, refusal: &Refusal) {
        if refusal.why == Why::Fork && self.takes_back && !self.ready && self.believes(link) {
            // It meant to take back what an old copy of its disk lacks, but has issued other ops in their place since.
            let node = self.config.node;
            let why = format!("two nodes have issued ops as {node}: it comes back as another");
            return self.be_reborn(why, Loss::Fork);
        }
        if refusal.why == Why::OldCopy && self.believes(link) {
            let why = format!("{}; {} comes back as another", refusal.detail, self.config.node);
            return self.be_reborn(why, Loss::Fork);
        }
        // Who has retired is told the same, and stays what it is; unless it was started to join again: then whoever says that holds
        // all that it held.
        let (stays, rejoins) = (self.stays_retired(), self.rejoins);
        // Who holds nothing yet has nothing to lose by it, and knows nobody whom to believe.
        if refusal.why == Why::Evicted && !stays && (rejoins || self.log.is_empty() || self.is_cast_out_by(link)) {
            let why = format!("the pool goes on without {}, which comes back as another", self.config.node);
            return self.be_reborn(why, Loss::CutOff);
        }
        if refusal.why == Why::Copy && !stays && self.believes(link) {
            let node = self.config.node;
            let why = format!("two processes run as {node}: this one comes back as another");
            self.be_reborn(why, Loss::Fork);
            return self.cede(node);
        }
        if refusal.why == Why::OtherKey && !stays && (self.log.is_empty() || self.believes(link)) {
            let why = format!("{}; {} comes back as another", refusal.detail, self.config.node);
            return self.be_reborn(why, Loss::Fork);
        }
        refusal.try_instead.iter().take(TRY_INSTEAD_MAX).for_each(|url| self.peers.hint(url));
        self.drop_link(link, Outcome::of(refusal.why, format!("it refused: {}", refusal.detail)));
    }

    /// Makes a linked newcomer a member, once it is not far behind: from then on finality waits for it. Whatever kept it out so
    /// far: a hello that was lost, a sponsor that vanished, or that its peers were newcomers themselves when they met.
    pub(super) fn ask_or_sponsor(&mut self) {
        if self.pool.is_none() {
            let greeted: Vec<LinkId> =
                self.links.iter().filter(|(_, link)| link.is_greeted()).map(|(id, _)| *id).collect();
            greeted.into_iter().for_each(|link| self.say_hello(link));
        }
        // One who says it is a member has an `Add`, which comes, or hangs on someone who was cut off.
        let lets_in = self.ready && !self.lets_nobody_in();
        let outside = |peer: &Hello| lets_in && !peer.member && !self.roster.knows(peer.node);
        let newcomers: Vec<(Newcomer<'static>, Option<PublicKey>)> = self
            .links
            .values()
            .filter(|link| link.is_served())
            .filter_map(|link| Some((link.peer.as_ref()?, link.keys)))
            .filter(|(peer, _)| outside(peer))
            .map(|(peer, keys)| {
                let newcomer = Newcomer { node: peer.node, name: peer.name.clone().into(), urls: peer.urls.clone() };
                (newcomer, keys.map(|keys| keys.peer))
            })
            .collect();
        if !newcomers.is_empty() {
            newcomers.into_iter().for_each(|(newcomer, key)| self.add(newcomer, key));
            self.pump_all();
        }
    }

    pub(super) fn dial(&mut self) {
        if self.cut {
            return;
        }
        let node = self.config.node;
        let introduced = || self.links.values().filter_map(|link| link.peer.as_ref());
        let linked: BTreeSet<NodeId> = introduced().map(|peer| peer.node).collect();
        let linked_urls = introduced().flat_map(|peer| peer.urls.iter().map(String::as_str)).collect();
        let situation = Situation {
            now_ms: self.now.mono_ms,
            node,
            joining: !self.ready,
            would_merge: self.would_merge(),
            roster: &self.roster,
            linked,
            linked_urls,
            dialled: self.links.values().filter(|link| link.dialled.is_some()).count(),
        };
        let wanted = self.peers.wanted(&situation, &mut self.rng);
        self.effects.extend(wanted.into_iter().map(Effect::Dial));
    }

    /// The name in a URL was looked up: each of its addresses is a place to dial.
    pub(super) fn on_resolved(&mut self, url: &str, addresses: Vec<String>) {
        if addresses.is_empty() {
            let outcome = Outcome::Failed("its name has no address".into());
            return self.peers.dialled(&url.into(), self.now.mono_ms, outcome, &mut self.rng);
        }
        let dialled = self.links.values().filter_map(|link| link.dialled.as_ref());
        let linked: BTreeSet<String> =
            dialled.filter(|endpoint| endpoint.url == url).filter_map(|endpoint| endpoint.address.clone()).collect();
        // A node of a large pool needs no more than one more.
        let few = self.ready && self.roster.len() > FULL_MESH_MAX && !self.links.is_empty();
        let most = if self.cut {
            0
        } else if few {
            1
        } else {
            ADDRESSES_MAX
        };
        let wanted = self.peers.resolved(url, addresses, &linked, most, self.now.mono_ms, &mut self.rng);
        self.effects.extend(wanted.into_iter().map(Effect::Dial));
    }

    pub(super) fn on_dial_failed(&mut self, endpoint: &Endpoint, why: String) {
        self.peers.dialled(endpoint, self.now.mono_ms, Outcome::Failed(why), &mut self.rng);
    }

    /// In a large pool every probe that leads to a link makes an older one needless. So the links change slowly, halves
    /// of a healed partition find each other however many links each node has, and no node fills up with links: there
    /// is always room for one that has none.
    pub(super) fn shed(&mut self) {
        if self.roster.len() <= FULL_MESH_MAX {
            return;
        }
        let introduced = self.links.iter().filter(|(_, link)| link.peer.is_some());
        // Ids of links rise: the first is the oldest.
        let introduced: Vec<(LinkId, &Link)> = introduced.map(|(id, link)| (*id, link)).collect();
        let dialled = || introduced.iter().filter(|(_, link)| link.dialled.is_some());
        let oldest = if dialled().count() > DIALLED_MAX {
            dialled().next()
        } else {
            introduced.first().filter(|_| introduced.len() > LINKS_MAX)
        };
        let old = oldest.filter(|(_, link)| self.now.mono_ms >= link.opened_ms + KEEP_MS).map(|(id, _)| *id);
        old.into_iter().for_each(|id| self.drop_link(id, Outcome::Fine));
    }

    /// A node that gave its pool up for another whose nodes are gone before it got in looks for a pool anew.
    fn turn_back(&mut self) {
        let now_ms = self.now.mono_ms;
        if !self.provisional || self.counters.merged == 0 || !self.config.found {
            return;
        }
        if !self.links.is_empty() {
            self.started_ms = Some(now_ms);
        } else if now_ms >= self.started_ms.unwrap_or(0) + TURN_BACK_MS {
            self.forget();
            self.started_ms = Some(now_ms);
        }
    }

    /// Founds the pool if none of the join targets leads to one, and no other node that looks for one is to found it.
    pub(super) fn found_if_none(&mut self) {
        self.turn_back();
        let waited = self.now.mono_ms >= self.started_ms.unwrap_or(0) + FOUND_AFTER_MS;
        if self.ready || !self.config.found || !waited || !self.peers.all_given_tried() {
            return;
        }
        if self.pool.is_some() {
            // It came back under a new id, with the data, and nobody is there to sponsor it. Without the data, as one who
            // was reborn, it waits for those who have it.
            let alone = self.roster.all().values().all(|member| member.urls == self.config.urls);
            if self.links.is_empty() && !self.is_member() && !self.log.is_empty() && (alone || !self.spoilt) {
                // Where all members were this node itself, nobody can send what its disk has lost: what rests on that is
                // issued again.
                if alone {
                    self.orphans.extend(self.early.take_all().into_iter().map(Orphan::of));
                    self.spoilt = false;
                }
                self.add_oneself();
            }
            return;
        }
        let node = self.config.node;
        let yields =
            self.links.values().filter_map(|link| link.peer.as_ref()).any(|peer| peer.founds && peer.node < node);
        if self.may_found() && !yields && self.found_waits().is_none() {
            // Those who are linked say what they hold, now that there is a pool; then they are let in.
            self.found();
        }
    }

    /// How many nodes have greeted this one, itself among them, and how many are to have before it founds a pool; none once there
    /// are enough.
    pub(super) fn found_waits(&self) -> Option<(usize, usize)> {
        let greeted: BTreeSet<NodeId> = self.linked().map(|(node, _)| node).collect();
        let (here, wanted) = (greeted.len() + 1, self.config.found_with);
        (self.may_found() && here < wanted).then_some((here, wanted))
    }

    /// Says hello on every link: this node has found its pool, or its place in it.
    pub(super) fn announce(&mut self) {
        let greeted: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.is_greeted()).map(|(id, _)| *id).collect();
        for link in greeted {
            self.say_hello(link);
            self.say_heads(link);
        }
    }

    pub(super) fn say_hello(&mut self, link: LinkId) {
        let hello = Hello {
            node: self.config.node,
            name: self.config.name.clone(),
            urls: self.config.urls.clone(),
            // Who would move to the peer's pool comes as one who has none.
            pool: self.pool.clone().filter(|_| !self.would_move(link)),
            wants: self.config.pool.clone().filter(|_| !self.would_move(link)),
            member: self.is_member() && !self.would_move(link),
            founds: self.config.found && self.pool.is_none(),
            clock: self.clock,
            process: self.process,
            empty: self.would_merge(),
            issued: self.issued(),
        };
        self.effects.push(Effect::Send(link, Message::Hello(hello)));
    }

    /// Tells the peer why, and closes.
    pub(super) fn refuse(&mut self, link: LinkId, why: Why, detail: String) {
        let try_instead = if why == Why::Busy { self.alternatives() } else { Vec::new() };
        let refusal = Refusal { why, detail: detail.clone(), try_instead };
        self.effects.push(Effect::Send(link, Message::Refusal(refusal)));
        let told = if why == Why::Cut { Outcome::Fine } else { Outcome::of(why, format!("refused: {detail}")) };
        self.drop_link(link, told);
    }

    fn alternatives(&mut self) -> Vec<String> {
        let node = self.config.node;
        let others = self.roster.present().filter(|(id, _)| **id != node);
        let mut urls: Vec<String> = others.filter_map(|(_, member)| member.urls.first().cloned()).collect();
        self.rng.shuffle(&mut urls);
        urls.truncate(TRY_INSTEAD_MAX);
        urls
    }

    pub(super) fn drop_link(&mut self, link: LinkId, outcome: Outcome) {
        if self.links.contains_key(&link) {
            self.effects.push(Effect::Close(link));
            self.forget_link(link, outcome);
        }
    }

    fn forget_link(&mut self, link: LinkId, outcome: Outcome) {
        let Some(Link { dialled, transfer, .. }) = self.links.remove(&link) else { return };
        if let Some(pieces) = transfer {
            // Its receiver goes on where it broke off, if it comes back soon.
            self.pin(pieces.time);
        }
        if outcome != Outcome::Double {
            self.peers.link_lost(self.now.mono_ms);
        }
        let Some(endpoint) = dialled else { return };
        self.peers.dialled(&endpoint, self.now.mono_ms, outcome, &mut self.rng);
    }

    /// The introduced link to a node.
    pub(super) fn linked_to(&self, node: NodeId) -> Option<LinkId> {
        self.linked().find(|(other, _)| *other == node).map(|(_, link)| link)
    }

    /// The nodes it is linked to, each with the link.
    pub fn linked(&self) -> impl Iterator<Item = (NodeId, LinkId)> {
        self.links.iter().filter_map(|(id, link)| Some((link.peer.as_ref()?.node, *id)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::*;
    use crate::{
        op::{Command, DocKey},
        replica::{Config, Draft, Event, Now, Receipt, Standing},
    };

    /// Nodes that dial each other at addresses `a0`, `a1` …, and names for these that come and go.
    #[derive(Default)]
    struct World {
        nodes: Vec<Replica>,
        name: Option<Vec<usize>>,
        /// Nodes that find only themselves under the name.
        see_themselves: BTreeSet<usize>,
        /// The other end of each node's links: the node and its link.
        ends: BTreeMap<(usize, LinkId), (usize, LinkId)>,
        /// Whether the pool has a secret: then each id has a key, and links prove it.
        keyed: bool,
        opened: u64,
        dials: usize,
        now: Now,
    }

    const NAME: &str = "http://pool:1";

    fn key_of(node: NodeId) -> PublicKey {
        PublicKey(*blake3::hash(node.0.as_bytes()).as_bytes())
    }

    fn config(id: u128, join: &[&str]) -> Config {
        Config {
            urls: vec![format!("http://a{id}")],
            join: join.iter().map(ToString::to_string).collect(),
            ..Config::founder(NodeId(uuid::Uuid::from_u128(id)), id as u64)
        }
    }

    impl World {
        fn of(configs: impl IntoIterator<Item = Config>) -> World {
            World { nodes: configs.into_iter().map(Replica::new).collect(), ..World::default() }
        }

        fn keyed(configs: impl IntoIterator<Item = Config>) -> World {
            let mut world = World { keyed: true, ..World::of(configs) };
            for node in 0..world.nodes.len() {
                let key = key_of(world.nodes[node].node());
                world.give(node, Event::Key(key));
            }
            world
        }

        fn publish(&mut self, nodes: &[usize]) {
            (self.name, self.see_themselves) = (Some(nodes.to_vec()), BTreeSet::new());
        }

        fn dial(&mut self, from: usize, endpoint: Endpoint) -> Vec<(usize, Event)> {
            let at = |address: &str| address.strip_prefix('a').and_then(|number| number.parse::<usize>().ok());
            let target = match (&endpoint.address, endpoint.url.strip_prefix("http://")) {
                (Some(address), _) => at(address),
                (None, Some(rest)) => at(rest),
                (None, None) => None,
            };
            if endpoint.url == NAME && endpoint.address.is_none() {
                let own = self.see_themselves.contains(&from).then(|| vec![from]);
                let found = own.or_else(|| self.name.clone());
                let found = found.map(|nodes| nodes.iter().map(|node| format!("a{node}")).collect());
                let failed = || Event::DialFailed(endpoint.clone(), "no such name".into());
                return vec![(from, found.map_or_else(failed, |found| Event::Resolved(NAME.into(), found)))];
            }
            self.dials += 1;
            let Some(to) = target.filter(|to| *to < self.nodes.len()) else {
                return vec![(from, Event::DialFailed(endpoint, "nobody is there".into()))];
            };
            let [near, far] = [LinkId(self.opened + 1), LinkId(self.opened + 2)];
            self.opened += 2;
            self.ends.extend([((from, near), (to, far)), ((to, far), (from, near))]);
            let key = |node: usize| key_of(self.nodes[node].node());
            let keys = |own, peer| self.keyed.then(|| LinkKeys { own: key(own), peer: key(peer) });
            let near_event = Event::Opened(near, Some(endpoint), keys(from, to));
            vec![(to, Event::Opened(far, None, keys(to, from))), (from, near_event)]
        }

        /// Handles an event as the shell does, which follows the id with the key.
        fn handle(&mut self, node: usize, event: Event) -> Vec<Effect> {
            let replica = &mut self.nodes[node];
            let before = replica.node();
            let mut effects = replica.handle(self.now, event);
            if self.keyed && replica.node() != before {
                effects.extend(replica.handle(self.now, Event::Key(key_of(replica.node()))));
            }
            effects
        }

        fn give(&mut self, node: usize, event: Event) -> Option<Receipt> {
            let (mut coming, mut receipt) = (VecDeque::from([(node, event)]), None);
            while let Some((node, event)) = coming.pop_front() {
                for effect in self.handle(node, event) {
                    match effect {
                        Effect::Receipt(_, answer) => receipt = answer.ok(),
                        Effect::Dial(endpoint) => coming.extend(self.dial(node, endpoint)),
                        Effect::Send(link, message) => {
                            if message.is_batch() {
                                coming.push_back((node, Event::Flushed(link)));
                            }
                            let end = self.ends.get(&(node, link));
                            coming.extend(end.map(|(peer, far)| (*peer, Event::Heard(*far, message))));
                        }
                        Effect::Close(link) => {
                            if let Some((peer, far)) = self.ends.remove(&(node, link)) {
                                self.ends.remove(&(peer, far));
                                coming.push_back((peer, Event::Closed(far)));
                            }
                        }
                        Effect::Store(_) => {}
                    }
                }
            }
            receipt
        }

        fn pass(&mut self, ms: u64) {
            for _ in 0..ms / 100 {
                self.now.mono_ms += 100;
                (0..self.nodes.len()).for_each(|node| drop(self.give(node, Event::Tick)));
            }
        }

        fn put(&mut self, node: usize, id: &'static str) -> Receipt {
            let commands = vec![Command::Put(DocKey::new("c", id), "1".into())];
            let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
            self.give(node, Event::Submit(0, draft)).expect("it is a member")
        }

        fn pools(&self) -> BTreeSet<Option<String>> {
            self.nodes.iter().map(|node| node.pool().map(|(id, _)| id.to_string())).collect()
        }

        fn are_one(&self) -> bool {
            let member =
                |node: &Replica| node.standing() == Standing::Member && node.roster().len() == self.nodes.len();
            self.pools().len() == 1 && self.nodes.iter().all(member)
        }
    }

    #[test]
    fn all_behind_one_name_become_one_pool_and_nobody_goes_on_dialling_itself() {
        let mut world = World::of((0..5).map(|id| config(id, &[NAME])));
        world.publish(&[0, 1, 2, 3, 4]);
        world.pass(6_000);
        assert!(world.are_one(), "{:?}", world.pools());
        let before = world.dials;
        world.pass(60_000);
        assert!(world.dials - before <= 60, "{} dials in a minute", world.dials - before);
    }

    #[test]
    fn a_name_that_leads_only_to_oneself_at_first_is_looked_up_again() {
        let mut world = World::of((0..2).map(|id| config(id, &[NAME])));
        world.see_themselves = [0, 1].into();
        world.pass(10_000);
        assert_eq!(world.pools().len(), 2);
        world.publish(&[0, 1]);
        world.pass(4_000);
        assert!(world.are_one(), "{:?}", world.pools());
    }

    #[test]
    fn names_that_come_late_make_one_pool_of_all_that_were_founded_meanwhile() {
        for nodes in [2, 3, 5, 8] {
            let mut world = World::of((0..nodes as u128).map(|id| config(id, &[NAME])));
            world.pass(5_000);
            assert_eq!(world.pools().len(), nodes, "each has founded its own");
            world.publish(&(0..nodes).collect::<Vec<_>>());
            world.pass(4_000);
            assert!(world.are_one(), "{nodes}: {:?}", world.pools());
        }
    }

    #[test]
    fn pools_that_merge_go_on_with_new_keys_under_their_new_ids() {
        for nodes in [2, 3, 5, 8] {
            let mut world = World::keyed((0..nodes as u128).map(|id| config(id, &[NAME])));
            world.pass(5_000);
            assert_eq!(world.pools().len(), nodes, "each has founded its own");
            world.publish(&(0..nodes).collect::<Vec<_>>());
            world.pass(6_000);
            assert!(world.are_one(), "{nodes}: {:?}", world.pools());
            for node in &world.nodes {
                let bound = |(id, _): (&NodeId, _)| node.roster().key(*id) == Some(key_of(*id));
                assert!(node.roster().present().all(bound), "{nodes}");
                assert!(node.counters().reborn == 0 && node.counters().merged <= 3, "{nodes}: {:?}", node.counters());
            }
        }
    }

    #[test]
    fn pairs_that_found_each_other_first_are_one_pool_too() {
        let mut world = World::of((0..6).map(|id| config(id, &[NAME])));
        // Each pair finds only itself, one after the other.
        for pair in [[0, 1], [2, 3], [4, 5]] {
            world.publish(&pair);
            world.see_themselves = (0..6).filter(|node| !pair.contains(node)).collect();
            world.pass(4_000);
        }
        assert_eq!(world.pools().len(), 3);
        world.publish(&[0, 1, 2, 3, 4, 5]);
        world.pass(6_000);
        let pools = world.pools();
        let all_members = world.nodes.iter().all(|node| node.standing() == Standing::Member);
        assert!(pools.len() == 1 && all_members, "{pools:?}");
    }

    #[test]
    fn a_pool_in_which_somebody_has_written_is_given_up_by_nobody() {
        for writer in 0..3 {
            let mut world = World::of((0..3).map(|id| config(id, &[NAME])));
            world.pass(5_000);
            let (before, written) = (world.nodes[writer].pool().cloned(), world.put(writer, "x"));
            world.publish(&[0, 1, 2]);
            world.pass(5_000);
            assert!(world.are_one(), "{writer}: {:?}", world.pools());
            assert_eq!(world.nodes[writer].pool().cloned(), before);
            assert!(world.nodes.iter().all(|node| node.log().get(written.op).is_some()));
        }
    }

    #[test]
    fn two_pools_with_content_stay_two_and_say_so() {
        let mut world = World::of((0..2).map(|id| config(id, &[NAME])));
        world.pass(5_000);
        (0..2).for_each(|node| drop(world.put(node, "x")));
        world.publish(&[0, 1]);
        world.pass(5_000);
        assert_eq!(world.pools().len(), 2);
        for (node, other) in [(0, 1), (1, 0)] {
            let stranger = world.nodes[node].strangers().map(|(endpoint, _)| endpoint).collect::<Vec<_>>();
            let expected = Endpoint { url: NAME.into(), address: Some(format!("a{other}")) };
            assert_eq!(stranger, [expected]);
            let (url, why) = world.nodes[node].link_problems().remove(0);
            assert!(url == NAME && why.starts_with(&format!("a{other}: ")) && why.contains("belongs to pool"), "{why}");
        }
    }

    #[test]
    fn pools_of_different_names_stay_two() {
        let named = |id: u128, name: &str| Config { pool: Some(name.into()), ..config(id, &[NAME]) };
        let mut world = World::of([named(0, "one"), named(1, "two"), config(2, &[NAME])]);
        world.pass(5_000);
        world.publish(&[0, 1, 2]);
        world.pass(6_000);
        let names: Vec<&str> = world.nodes.iter().filter_map(|node| node.pool()).map(|(_, name)| &**name).collect();
        assert_eq!(names[..2], ["one", "two"]);
        assert_ne!(names[2], "lamplight", "who wants no pool of a certain name joins one of them");
    }

    #[test]
    fn no_pool_is_founded_before_enough_nodes_have_greeted_each_other() {
        let with = |id: u128| Config { found_with: 3, ..config(id, &[NAME]) };
        let mut world = World::of((0..3).map(with));
        world.publish(&[0, 1]);
        world.see_themselves = [2].into();
        world.pass(10_000);
        for node in &world.nodes {
            assert_eq!((node.standing(), node.pool()), (Standing::Joining, None));
        }
        let why = world.nodes[0].founding_wait().expect("it waits");
        assert!(why.contains("2 of 3"), "{why}");
        assert!(world.nodes[0].link_problems().contains(&("http://a0".into(), why)));
        world.publish(&[0, 1, 2]);
        world.pass(4_000);
        assert!(world.are_one(), "{:?}", world.pools());
        assert_eq!(world.nodes[0].founding_wait(), None);
    }

    #[test]
    fn a_hint_of_a_peer_that_leads_nowhere_is_dropped() {
        let mut world = World::of((0..3).map(|id| config(id, &[NAME])));
        world.publish(&[0, 1, 2]);
        world.pass(5_000);
        let (_, link) = world.nodes[0].linked().next().expect("they are one pool");
        let refusal = Refusal { why: Why::Busy, detail: "full".into(), try_instead: vec!["http://a99".into()] };
        world.give(0, Event::Heard(link, Message::Refusal(refusal)));
        let told = |world: &World| world.nodes[0].link_problems().iter().any(|(url, _)| url == "http://a99");
        world.pass(20_000);
        assert!(told(&world), "{:?}", world.nodes[0].link_problems());
        world.pass(600_000);
        assert!(!told(&world) && world.are_one(), "{:?}", world.nodes[0].link_problems());
    }

    #[test]
    fn another_process_with_this_node_id_is_not_taken_for_the_node_itself() {
        let mut node = Replica::new(config(0, &["http://x:1"]));
        let now = Now { mono_ms: 100, wall_ms: 0 };
        node.handle(now, Event::Tick);
        // It gives way to one that began before it, and stays where the other is to give way: both meet again soon.
        for (process, later_ms, dials_again) in
            [(99, 10_000, true), (u64::MAX, 10_000, true), (node.process, 70_000, false)]
        {
            let now = Now { mono_ms: node.now.mono_ms + 10_000, wall_ms: 0 };
            let dials = |effects: Vec<Effect>| effects.iter().any(|effect| matches!(effect, Effect::Dial(_)));
            dials(node.handle(now, Event::Tick));
            node.handle(now, Event::Opened(LinkId(process), Some("http://x:1".into()), None));
            let hello = Hello { founds: true, process, ..Hello::newcomer(node.node(), "copy", None) };
            node.handle(now, Event::Heard(LinkId(process), Message::Hello(hello)));
            let later = Now { mono_ms: now.mono_ms + later_ms, wall_ms: 0 };
            assert_eq!(dials(node.handle(later, Event::Tick)), dials_again, "process {process}");
            node.handle(later, Event::DialFailed("http://x:1".into(), "gone".into()));
        }
    }
}

//! With whom this node links: joining a pool and founding one, the hello and what speaks against it, dialling and shedding.

use std::collections::BTreeSet;

use super::{
    DIALLED_MAX, Effect, FOUND_AFTER_MS, FULL_MESH_MAX, LINKS_MAX, Link, LinkId, Replica,
    gossip::TIME_LEAP_MAX,
    peers::Situation,
    rebirth::{Loss, Orphan},
};
use crate::{
    document::check_newcomer,
    op::{Newcomer, NodeId, TIME_MAX},
    plant::{Rule, left_out},
    wire::{Hello, Message, Refusal, Why, WireError},
};

/// Most links at once, identified or not, whatever the size of the pool.
pub const OPEN_MAX: usize = 64;
/// A link is kept at least this long, or two nodes could drop what the other has just opened, over and over.
const KEEP_MS: u64 = 2_000;
/// Most addresses of others that a refusal names.
const TRY_INSTEAD_MAX: usize = 8;

impl Replica {
    pub(super) fn on_join(&mut self, url: &str) {
        self.peers.ask(url);
        self.moving_to = Some(url.to_string());
        let linked =
            self.links.values().filter_map(|link| link.peer.as_ref()).find(|peer| peer.urls.iter().any(|at| at == url));
        if linked.is_some_and(|peer| self.roster.is_evicted(peer.node)) {
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

    fn would_move(&self, link: LinkId) -> bool {
        self.is_told_to_join(link) && self.log.len() <= 1
    }

    /// Whether this link leads to where an operator wants this node to be.
    pub(super) fn is_told_to_join(&self, link: LinkId) -> bool {
        let dialled = self.links.get(&link).and_then(|link| link.dialled.as_ref());
        dialled.is_some() && dialled == self.moving_to.as_ref()
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

    pub(super) fn on_opened(&mut self, link: LinkId, dialled: Option<String>) {
        self.links.insert(link, Link::new(self.now.mono_ms, dialled.clone()));
        if self.cut {
            self.refuse(link, Why::Cut, "its operator has cut its links".into());
        } else if self.links.len() > OPEN_MAX {
            self.refuse(link, Why::Busy, "it has all the links it takes".into());
        } else if dialled.is_some() {
            self.say_hello(link);
        }
    }

    pub(super) fn on_closed(&mut self, link: LinkId) {
        self.forget_link(link, Some("the link broke".into()));
    }

    pub(super) fn on_broken(&mut self, link: LinkId, error: &WireError) {
        let why = if matches!(error, WireError::Version(..)) { Why::OtherVersion } else { Why::Broken };
        self.refuse(link, why, error.to_string());
    }

    /// The first word on a link, or news about the peer's pool.
    pub(super) fn on_hello(&mut self, link: LinkId, hello: Hello) {
        if self.is_copy(&hello) {
            return self.meet_copy(link, &hello);
        }
        self.give_up_pool_for(link, &hello);
        if self.gives_way_to(link, &hello) {
            let why = format!("{} gives way to those whom it had evicted", self.config.node);
            return self.be_reborn(why, Loss::CutOff);
        }
        if let Some((why, detail)) = self.objection(link, &hello) {
            self.refuse(link, why, detail);
            return;
        }
        let Some(found) = self.links.get_mut(&link) else { return };
        let first = found.peer.is_none();
        let asks = !first && hello.pool.is_none();
        let (dialled, peer_pool) = (found.dialled.clone(), hello.pool.clone());
        let clock = hello.clock;
        self.peers.reached(&hello.urls);
        found.confirmed &=
            found.peer.as_ref().is_some_and(|peer| (peer.node, peer.process) == (hello.node, hello.process));
        found.peer = Some(hello);
        // Who was dialled answers a hello with its own.
        found.shown.open |= dialled.is_some();
        if let Some(url) = &dialled {
            self.peers.dialled(url, self.now.mono_ms, None, &mut self.rng);
        }
        if first && dialled.is_none() {
            self.say_hello(link);
        }
        if self.pool.is_none()
            && let Some(pool) = peer_pool
        {
            self.enter(pool);
            self.clock = self.clock.max(clock.min(TIME_MAX - 1));
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
            if let Some(url) = self.links.get(&link).and_then(|link| link.dialled.clone()) {
                self.peers.is_oneself(&url);
            }
            return Some((Why::Oneself, "it is this node itself".into()));
        }
        if let Some(detail) = self.goes_on_without(hello.node) {
            return Some((Why::Evicted, detail));
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
            return Some((
                Why::OtherPool,
                format!("node {} belongs to pool {ours}, node {} to {theirs}", self.config.node, hello.node),
            ));
        }
        let newcomer = Newcomer { node: hello.node, name: (&*hello.name).into(), urls: hello.urls.clone() };
        if let Err(fault) = check_newcomer(&newcomer) {
            return Some((Why::Broken, fault.to_string()));
        }
        let far = hello.clock > self.clock.saturating_add(TIME_LEAP_MAX) && self.pool.is_some();
        if far || hello.clock > TIME_MAX {
            return Some((Why::Broken, format!("its clock {} is far ahead of {}", hello.clock, self.clock)));
        }
        if let Some(detail) = self.gives_way(hello) {
            return Some((Why::Copy, detail));
        }
        self.double(link, hello).or_else(|| self.too_many(link))
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
            self.drop_link(oldest, None);
            return None;
        }
        Some((Why::Busy, "it has all the links it takes".into()))
    }

    pub(super) fn on_refusal(&mut self, link: LinkId, refusal: &Refusal) {
        let benign = matches!(refusal.why, Why::Double | Why::Oneself);
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
        // Who has retired is told the same, and stays what it is.
        let stays = self.roster.is_retired(self.config.node);
        // Who holds nothing yet has nothing to lose by it, and knows nobody whom to believe.
        if refusal.why == Why::Evicted && !stays && (self.log.is_empty() || self.believes(link)) {
            let why = format!("the pool goes on without {}, which comes back as another", self.config.node);
            return self.be_reborn(why, Loss::CutOff);
        }
        if refusal.why == Why::Copy && !stays && self.believes(link) {
            let why = format!("two processes run as {}: this one comes back as another", self.config.node);
            return self.be_reborn(why, Loss::Fork);
        }
        if refusal.why == Why::Oneself
            && let Some(url) = self.links.get(&link).and_then(|link| link.dialled.clone())
        {
            // The end that was dialled notices, but only this one knows which address it was.
            self.peers.is_oneself(&url);
        }
        refusal.try_instead.iter().take(TRY_INSTEAD_MAX).for_each(|url| self.peers.give(url));
        self.drop_link(link, (!benign).then(|| format!("it refused: {}", refusal.detail)));
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
        let outside = |peer: &&Hello| self.ready && !peer.member && !self.roster.knows(peer.node);
        let newcomers: Vec<Newcomer<'static>> = self
            .links
            .values()
            .filter(|link| link.is_served())
            .filter_map(|link| link.peer.as_ref())
            .filter(outside)
            .map(|peer| Newcomer { node: peer.node, name: peer.name.clone().into(), urls: peer.urls.clone() })
            .collect();
        if !newcomers.is_empty() {
            newcomers.into_iter().for_each(|newcomer| self.add(newcomer));
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
            roster: &self.roster,
            linked,
            linked_urls,
            dialled: self.links.values().filter(|link| link.dialled.is_some()).count(),
        };
        let wanted = self.peers.wanted(&situation, &mut self.rng);
        self.effects.extend(wanted.into_iter().map(Effect::Dial));
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
        old.into_iter().for_each(|id| self.drop_link(id, None));
    }

    /// Founds the pool if none of the join targets leads to one, and no other node that looks for one is to found it.
    pub(super) fn found_if_none(&mut self) {
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
        if self.may_found() && !yields {
            // Those who are linked say what they hold, now that there is a pool; then they are let in.
            self.found();
        }
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
            empty: self.pool.is_some() && self.log.len() <= 1,
            issued: self.issued(),
        };
        self.effects.push(Effect::Send(link, Message::Hello(hello)));
    }

    /// Tells the peer why, and closes.
    pub(super) fn refuse(&mut self, link: LinkId, why: Why, detail: String) {
        let try_instead = if why == Why::Busy { self.alternatives() } else { Vec::new() };
        let refusal = Refusal { why, detail: detail.clone(), try_instead };
        self.effects.push(Effect::Send(link, Message::Refusal(refusal)));
        let benign = matches!(why, Why::Double | Why::Oneself | Why::Cut);
        self.drop_link(link, (!benign).then(|| format!("refused: {detail}")));
    }

    fn alternatives(&mut self) -> Vec<String> {
        let node = self.config.node;
        let others = self.roster.present().filter(|(id, _)| **id != node);
        let mut urls: Vec<String> = others.filter_map(|(_, member)| member.urls.first().cloned()).collect();
        self.rng.shuffle(&mut urls);
        urls.truncate(TRY_INSTEAD_MAX);
        urls
    }

    pub(super) fn drop_link(&mut self, link: LinkId, problem: Option<String>) {
        if self.links.contains_key(&link) {
            self.effects.push(Effect::Close(link));
            self.forget_link(link, problem);
        }
    }

    fn forget_link(&mut self, link: LinkId, problem: Option<String>) {
        let Some(Link { dialled, transfer, .. }) = self.links.remove(&link) else { return };
        if let Some(pieces) = transfer {
            // Its receiver goes on where it broke off, if it comes back soon.
            self.pin(pieces.time);
        }
        let Some(url) = dialled else { return };
        self.peers.dialled(&url, self.now.mono_ms, problem, &mut self.rng);
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

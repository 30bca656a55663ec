//! Where members can be dialled. An `Add` says where a member was when it was let in; one that has moved since announces where
//! it is now. Members pass the newest announcement on and keep it in their journals.

use std::collections::BTreeMap;

use super::{Effect, LinkId, Member, Replica};
use crate::{
    op::{Addresses, NodeId},
    plant::{Rule, left_out},
    record::Record,
    wire::{ADDRESSES_MAX, Hello, Message},
};

/// Announcements that are repeated with each beat, in turn: a frame may be lost.
const REPEATED: usize = 8;
/// Most URLs, and members with one of them, that a problem names.
const NAMED_MAX: usize = 8;

impl Replica {
    /// Announces this member's own URLs, if others may think that it has others.
    pub(super) fn announce_addresses(&mut self) {
        let (node, urls) = (self.config.node, self.config.urls.clone());
        let Some(member) = self.roster.all().get(&node).filter(|_| self.ready) else { return };
        // What others see of it is better than an address that leads each of them to itself.
        let local = !urls.is_empty() && urls.iter().all(|url| is_local(url));
        let hidden = local && member.urls.iter().any(|url| !is_local(url));
        if member.urls == urls || hidden || left_out(Rule::Moves) {
            return;
        }
        let (run, number) = member.moved;
        let version = if self.run > run { (self.run, 0) } else { (run, number.saturating_add(1)) };
        self.take_addresses(node, Addresses { version, urls });
    }

    /// A peer says hello. One that knows no better address than that of its own machine cannot tell that it has moved: where it
    /// is seen now, the node that sees it announces for it. One that has an address to announce corrects that.
    pub(super) fn see_address(&mut self, hello: &Hello) {
        let Some(member) = self.roster.all().get(&hello.node).filter(|_| self.ready) else { return };
        let hidden = hello.urls.is_empty() || hello.urls.iter().any(|url| is_local(url));
        if member.urls == hello.urls || hidden || self.roster.is_gone(hello.node) || left_out(Rule::Moves) {
            return;
        }
        let (run, number) = member.moved;
        let version = (run, number.saturating_add(1));
        self.take_addresses(hello.node, Addresses { version, urls: hello.urls.clone() });
    }

    /// A peer says where members can be dialled.
    pub(super) fn on_addresses(&mut self, link: LinkId, all: Vec<(NodeId, Addresses)>) {
        let member = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        if !member.is_some_and(|peer| self.roster.knows(peer)) {
            return;
        }
        for (node, addresses) in all {
            // Of others a peer could tell without end; it tells of those whose `Add` is on its way again.
            if !self.roster.knows(node) {
                continue;
            }
            if let Some(link) = self.links.get_mut(&link) {
                let known = link.addresses.entry(node).or_default();
                *known = addresses.version.max(*known);
            }
            self.take_addresses(node, addresses);
        }
    }

    fn take_addresses(&mut self, node: NodeId, addresses: Addresses) {
        let Some(before) = self.roster.relocate(node, &addresses) else { return };
        before.iter().for_each(|url| self.peers.leave(url, &self.roster));
        self.effects.push(Effect::Store(Record::Addresses(node, addresses)));
    }

    /// Tells each peer of the moves that it has not been told of, and of some again.
    pub(super) fn tell_addresses(&mut self) {
        let moved: Vec<(NodeId, Addresses)> = self.roster.moves().collect();
        if moved.is_empty() || !self.ready {
            return;
        }
        self.repeated = (self.repeated + REPEATED) % moved.len().max(1);
        let repeated: Vec<usize> = (0..REPEATED.min(moved.len())).map(|n| (self.repeated + n) % moved.len()).collect();
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.is_served()) {
            let is_due = |(at, (node, of)): &(usize, &(NodeId, Addresses))| {
                repeated.contains(at) || link.addresses.get(node).is_none_or(|known| *known < of.version)
            };
            let told: Vec<(NodeId, Addresses)> =
                moved.iter().enumerate().filter(is_due).take(ADDRESSES_MAX).map(|(_, of)| of.clone()).collect();
            link.addresses.extend(told.iter().map(|(node, of)| (*node, of.version)));
            self.effects.push(Effect::Send(*id, Message::Addresses(told)));
        }
    }

    /// URLs under which two members or more say that they are reached: at most one of them is.
    fn shared_addresses(&self) -> impl Iterator<Item = (&str, Vec<(NodeId, &Member)>)> {
        let mut by_url: BTreeMap<&str, Vec<(NodeId, &Member)>> = BTreeMap::new();
        for (node, member) in self.roster.present() {
            member.urls.iter().for_each(|url| by_url.entry(url).or_default().push((*node, member)));
        }
        by_url.into_iter().filter(|(_, members)| members.len() > 1)
    }

    /// What is wrong with such URLs, for people: `(URL, why)`.
    pub fn shared_address_problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        for (url, members) in self.shared_addresses().take(NAMED_MAX) {
            let is_silent = |node: NodeId| node != self.config.node && !self.is_heard(node, self.now.mono_ms);
            let (silent, here): (Vec<_>, Vec<_>) = members.into_iter().partition(|(node, _)| is_silent(*node));
            if here.len() > 1 {
                let names = here.iter().take(NAMED_MAX).map(|(_, member)| format!("{:?}", member.name));
                let (count, who) = (here.len(), names.collect::<Vec<_>>().join(", "));
                let advice = "give each an address of its own with --advertise";
                problems
                    .push((url.into(), format!("{count} members say that they are reached here ({who}): {advice}")));
            }
            let silent = silent.into_iter().take(NAMED_MAX).filter(|_| !here.is_empty());
            problems.extend(silent.map(|(node, member)| (url.into(), self.unproved(node, &member.name))));
        }
        problems
    }

    /// That a newcomer has the address of a member that is silent, and what an operator can do.
    fn unproved(&self, node: NodeId, name: &str) -> String {
        let force = if self.leaves_majority(node) { "" } else { " --force" };
        format!(
            "member {name:?} ({node}) is not heard, and another member has come up at its address, which is no proof that it was \
             that member: finality waits for it. Start it with the data directory that it had, or, if it is gone for good: \
             lamplight evict {node}{force}"
        )
    }
}

/// Whether a URL leads to whoever dials it.
pub fn is_local(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let named = rest.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let host = named.map_or(rest, |(host, _)| host).trim_matches(['[', ']']);
    let address = host.parse::<core::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|ip| ip.to_canonical().is_loopback() || ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::is_local;
    use crate::{
        op::{Addresses, NodeId},
        replica::{
            Config, Event, LinkId, Recovery, Replica, Retention,
            transfer::tests::{Pool, config},
        },
        wire::{ADDRESSES_MAX, Hello, Message},
    };

    /// A node comes back from its journal at another address.
    fn moved(pool: &Pool, node: usize, url: &str) -> Replica {
        let mut recovery = Recovery::new(Config { urls: vec![url.into()], ..config(90, false) });
        pool.records[node].iter().cloned().for_each(|record| recovery.take(record));
        recovery.finish(None)
    }

    fn urls(pool: &Pool, at: usize) -> Vec<String> {
        pool.nodes[at].roster().present().flat_map(|(_, member)| member.urls.clone()).collect()
    }

    #[test]
    fn members_know_where_one_is_that_has_moved_also_after_a_restart() {
        let mut pool = Pool::default();
        let a = pool.add(Replica::new(config(1, true)));
        pool.pass(100);
        let others = [2, 3].map(|id| {
            let node = pool.add(Replica::new(config(id, false)));
            pool.link(a, node);
            pool.pass(2_000);
            node
        });
        for (node, url) in others.into_iter().zip(["http://b:2", "http://c:2"]) {
            pool.part(a, node);
            pool.nodes[node] = moved(&pool, node, url);
            pool.link(a, node);
            pool.pass(3_000);
        }
        let expected = ["http://n1:1", "http://b:2", "http://c:2"];
        assert_eq!([a, others[0], others[1]].map(|node| urls(&pool, node)), [(); 3].map(|()| expected.to_vec()));
        pool.nodes[others[1]] = moved(&pool, others[1], "http://c:2");
        assert_eq!(urls(&pool, others[1]), expected);
        assert_eq!(pool.nodes[a].shared_address_problems(), []);
    }

    #[test]
    fn where_a_member_is_seen_that_cannot_tell_that_it_has_moved_all_members_hear() {
        let mut pool = Pool::default();
        let a = pool.add(Replica::new(config(1, true)));
        pool.pass(100);
        let [b, c] = [2, 3].map(|id| {
            let node = pool.add(Replica::new(config(id, false)));
            pool.link(a, node);
            pool.pass(2_000);
            node
        });
        pool.part(a, b);
        let hello = Hello {
            urls: vec!["http://10.0.0.2:1".into()],
            member: true,
            process: 9,
            ..Hello::newcomer(pool.nodes[b].node(), "n2", pool.nodes[a].pool().cloned())
        };
        let link = LinkId(1_000);
        let local = Hello { urls: vec!["http://127.0.0.1:1".into()], process: 10, ..hello.clone() };
        for (hello, link) in [(hello, link), (local, LinkId(1_001))] {
            let said = Event::Heard(link, Message::Hello(hello));
            [Event::Opened(link, None, None), said].into_iter().for_each(|event| drop(pool.give(a, event)));
        }
        pool.pass(3_000);
        let expected = ["http://n1:1", "http://10.0.0.2:1", "http://n3:1"];
        assert_eq!([a, c].map(|node| urls(&pool, node)), [(); 2].map(|()| expected.to_vec()));
    }

    #[test]
    fn of_two_announcements_of_one_version_all_take_the_same() {
        let node = NodeId(Uuid::from_u128(1));
        let places = ["http://a:1", "http://b:1"].map(|url| Addresses { version: (0, 1), urls: vec![url.into()] });
        let taken = |order: [usize; 2]| {
            let mut pool = Pool::default();
            pool.add(Replica::new(config(1, true)));
            pool.pass(3_000);
            order.iter().for_each(|at| pool.nodes[0].take_addresses(node, places[*at].clone()));
            urls(&pool, 0)
        };
        assert_eq!(taken([0, 1]), taken([1, 0]));
    }

    #[test]
    fn an_id_that_was_let_in_and_never_heard_of_goes_if_another_member_has_its_address() {
        let mut pool = Pool::default();
        // Who has forgotten nothing lets a newcomer in at its first word.
        let keeping = |config| Config { retention: Retention::default(), ..config };
        let a = pool.add(Replica::new(keeping(config(1, true))));
        pool.pass(100);
        let b = pool.add(Replica::new(keeping(config(2, false))));
        pool.link(a, b);
        pool.pass(2_000);
        // Started and killed at once before, at the same address; what it said comes late.
        let hello = Hello {
            urls: pool.nodes[b].config().urls.clone(),
            process: 9,
            ..Hello::newcomer(NodeId(Uuid::from_u128(9)), "b", pool.nodes[a].pool().cloned())
        };
        let link = LinkId(1_000);
        let said = [Message::Hello(hello), Message::Heads(Vec::new())].map(|message| Event::Heard(link, message));
        for event in [Event::Opened(link, None, None)].into_iter().chain(said).chain([Event::Closed(link)]) {
            pool.give(a, event);
        }
        assert_eq!(pool.nodes[a].roster().len(), 3);
        assert_eq!(pool.nodes[a].shared_address_problems().len(), 1);
        pool.pass(20_000);
        let present: Vec<u128> = pool.nodes[a].roster().present().map(|(node, _)| node.0.as_u128()).collect();
        assert_eq!(present, [1, 2]);
        let receipt = pool.put(b, "x", 1);
        pool.pass(2_000);
        assert!(pool.nodes[a].frontier() >= receipt.stamp.time);
    }

    #[test]
    fn of_nodes_that_are_no_members_no_address_is_kept() {
        let mut pool = Pool::default();
        let a = pool.add(Replica::new(config(1, true)));
        pool.pass(100);
        let b = pool.add(Replica::new(config(2, false)));
        pool.link(a, b);
        pool.pass(2_000);
        let link = pool.nodes[a].linked().next().expect("they are linked").1;
        let strangers = |from: u128| {
            let of = |id| (NodeId(Uuid::from_u128(id)), Addresses { version: (1, 0), urls: vec!["http://x:1".into()] });
            (from..from + ADDRESSES_MAX as u128).map(of).collect()
        };
        (0..10).for_each(|n| drop(pool.give(a, Event::Heard(link, Message::Addresses(strangers(100 + 1_000 * n))))));
        assert_eq!((pool.nodes[a].links[&link].addresses.len(), pool.nodes[a].roster().all().len()), (0, 2));
    }

    #[test]
    fn loopback_and_unspecified_addresses_lead_to_whoever_dials_them() {
        for url in [
            "http://127.0.0.1:7171",
            "https://localhost",
            "http://[::1]:7",
            "http://0.0.0.0:1",
            "http://[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_local(url), "{url}");
        }
        for url in ["http://10.0.0.1:7171", "https://a.example", "http://[fe80::1]:7", "http://localhost.example:1"] {
            assert!(!is_local(url), "{url}");
        }
    }
}

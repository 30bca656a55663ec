//! Where members can be dialled. An `Add` says where a member was when it was let in; one that has moved since announces where
//! it is now. Members pass the newest announcement on and keep it in their journals.

use super::{Effect, LinkId, Replica};
use crate::{
    op::{Addresses, NodeId},
    plant::{Rule, left_out},
    record::Record,
    wire::{ADDRESSES_MAX, Message},
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

    /// A peer says where members can be dialled.
    pub(super) fn on_addresses(&mut self, link: LinkId, all: Vec<(NodeId, Addresses)>) {
        let member = self.links.get(&link).and_then(|link| link.peer.as_ref()).map(|peer| peer.node);
        if !member.is_some_and(|peer| self.roster.knows(peer)) {
            return;
        }
        for (node, addresses) in all {
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

    /// URLs under which two members or more say that they are reached, each with their names: at most one of them is.
    fn shared_addresses(&self) -> Vec<(String, Vec<String>)> {
        let mut by_url: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
        for (_, member) in self.roster.present() {
            member.urls.iter().for_each(|url| by_url.entry(url).or_default().push(&member.name));
        }
        let shared = by_url.into_iter().filter(|(_, names)| names.len() > 1);
        shared.map(|(url, names)| (url.to_string(), names.into_iter().map(String::from).collect())).collect()
    }

    /// What is wrong with such URLs, for people: `(URL, why)`.
    pub fn shared_address_problems(&self) -> Vec<(String, String)> {
        let problem = |(url, names): (String, Vec<String>)| {
            let who = names.iter().take(NAMED_MAX).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            let detail = format!(
                "{} members say that they are reached here ({who}): give each an address of its own with --advertise",
                names.len()
            );
            (url, detail)
        };
        self.shared_addresses().into_iter().take(NAMED_MAX).map(problem).collect()
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
        op::NodeId,
        replica::{
            Config, Event, LinkId, Recovery, Replica, Retention,
            transfer::tests::{Pool, config},
        },
        wire::{Hello, Message},
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
            node: NodeId(Uuid::from_u128(9)),
            name: "b".into(),
            urls: pool.nodes[b].config().urls.clone(),
            pool: pool.nodes[a].pool().cloned(),
            wants: None,
            member: false,
            founds: false,
            clock: 0,
            process: 9,
            empty: false,
            issued: (0, 0),
        };
        let link = LinkId(1_000);
        let said = [Message::Hello(hello), Message::Heads(Vec::new())].map(|message| Event::Heard(link, message));
        for event in [Event::Opened(link, None)].into_iter().chain(said).chain([Event::Closed(link)]) {
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

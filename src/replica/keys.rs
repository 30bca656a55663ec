//! The static keys of nodes: an id is good only with its key, and a key only for its id.
//!
//! The op [`Command::Key`] says which key an id has. The sponsor of a newcomer issues it with its `Add`, and a founder with its own.
//! A member of a version without keys issues its own once a peer agrees with it on what it has issued.
//!
//! What proves a key is the shell's: it gives the keys that both ends of a link have proved with [`Event::Opened`], and this node's
//! own with [`Event::Key`]. In a pool without a secret it gives neither, and nothing here has an effect.
//!
//! [`Event::Opened`]: super::Event::Opened
//! [`Event::Key`]: super::Event::Key

use super::{Link, LinkId, Replica, peers::Outcome};
use crate::{
    op::{Command, NodeId, PublicKey},
    plant::{Rule, left_out},
    wire::Why,
};

/// The static keys that the two ends of a link have proved to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkKeys {
    /// This node's.
    pub own: PublicKey,
    /// The peer's.
    pub peer: PublicKey,
}

impl Replica {
    pub(super) fn on_key(&mut self, key: PublicKey) {
        self.key = Some(key);
        self.bind_own_key();
    }

    /// True if a link was made with the key of an id that this node has given up since.
    pub(super) fn is_outdated(&self, keys: Option<LinkKeys>) -> bool {
        keys.zip(self.key).is_some_and(|(keys, key)| keys.own != key)
    }

    /// The objection to a peer that says it is this node: the id has another key, or the key is that of another id.
    pub(super) fn key_objection(&self, link: LinkId, node: NodeId) -> Option<String> {
        let keys = self.links.get(&link)?.keys.filter(|_| !left_out(Rule::OwnKey))?;
        let other = match self.roster.key(node) {
            Some(key) if key == keys.peer => return None,
            Some(_) => format!("the peer says that it is {node}, and has another key than that node"),
            None => {
                let holder = self.roster.holder(keys.peer)?;
                format!("the peer says that it is {node}, and has the key of {holder}")
            }
        };
        Some(format!(
            "{other}. A node whose file node-key was lost or replaced comes back under a new id by itself. If no node of yours \
             does, somebody who knows the pool secret speaks under that id: change the secret"
        ))
    }

    /// The linked members that have proved another key than that of their id. None stays for longer than a beat, see
    /// [`part_from_other_keys`](Self::part_from_other_keys).
    #[cfg(feature = "sim")]
    pub fn members_with_other_keys(&self) -> impl Iterator<Item = NodeId> {
        let is_other = |(node, link): &(NodeId, LinkId)| {
            let keys = self.links.get(link).and_then(|link| link.keys);
            keys.zip(self.roster.key(*node)).is_some_and(|(keys, key)| keys.peer != key)
        };
        self.linked().filter(is_other).map(|(node, _)| node)
    }

    /// Refuses a peer for its key. One that dialled is told before who this node is, for it believes members only.
    pub(super) fn refuse_for_key(&mut self, link: LinkId, detail: String) {
        let unheard = self.links.get(&link).is_some_and(|link| link.dialled.is_none() && link.peer.is_none());
        if unheard {
            self.say_hello(link);
        }
        self.refuse(link, Why::OtherKey, detail);
    }

    /// Ends the links whose peers have another key than their ids, as far as this node knows by now.
    pub(super) fn part_from_other_keys(&mut self) {
        let objection = |(node, link)| Some((link, self.key_objection(link, node)?));
        let others: Vec<(LinkId, String)> = self.linked().filter_map(objection).collect();
        others.into_iter().for_each(|(link, detail)| self.refuse_for_key(link, detail));
    }

    /// Ends the links that were made with the key of the id that this node gives up. They are dialled again with its new key.
    pub(super) fn part_keyed(&mut self) {
        self.key = None;
        let keyed: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.keys.is_some()).map(|(id, _)| *id).collect();
        keyed.into_iter().for_each(|link| self.drop_link(link, Outcome::Fine));
    }

    /// Says which key this node has, if no op does yet. A node that comes back from its journal waits until a member holds no other
    /// history of it: its disk may be an old copy, which must issue nothing before it has heard of the others.
    pub(super) fn bind_own_key(&mut self) {
        let node = self.config.node;
        let Some(key) = self.key.filter(|_| self.roster.key(node).is_none()) else { return };
        let is_member = self.ready && self.is_member() && !self.roster.is_gone(node);
        if is_member && (!self.takes_back || self.has_agreed()) {
            self.issue_alone(Command::Key(node, key));
            self.pump_all();
        }
    }

    /// True if a linked member has said what it holds, and none holds more of this node's ops than it does.
    fn has_agreed(&self) -> bool {
        let own = self.log.head(self.config.node).seq;
        let member = |link: &&Link| link.peer.as_ref().is_some_and(|peer| self.roster.knows(peer.node));
        self.links.values().filter(member).any(Link::is_served) && self.links.values().all(|link| link.holds_own <= own)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        op::{Body, Eviction, Newcomer, Op, OpId},
        replica::{
            Config, Draft, Effect, Event, Now, Recovery, Roster, Standing,
            transfer::tests::{Pool, config},
        },
        wire::{Hello, Message, Refusal},
    };

    fn node(id: u128) -> NodeId {
        NodeId(Uuid::from_u128(id))
    }

    fn key(number: u8) -> PublicKey {
        PublicKey([number; 32])
    }

    /// A node with this id and key.
    fn add(pool: &mut Pool, id: u128, number: u8, founds: bool) -> usize {
        let at = pool.add(Replica::new(Config { urls: vec![format!("http://n{id}:1")], ..config(id, founds) }));
        pool.give(at, Event::Key(key(number)));
        at
    }

    /// A founder and so many members that joined it, with the keys of their numbers from 1 on.
    fn pool_of(members: u8) -> (Pool, Vec<usize>) {
        let mut pool = Pool::default();
        let mut nodes = Vec::new();
        for number in 1..=members {
            let newcomer = add(&mut pool, number.into(), number, number == 1);
            nodes.iter().for_each(|other| pool.link_with(*other, newcomer, Some((key(*other as u8 + 1), key(number)))));
            nodes.push(newcomer);
            pool.pass(2_000);
        }
        (pool, nodes)
    }

    fn keys(pool: &Pool, at: usize) -> Vec<Option<PublicKey>> {
        let roster = pool.nodes[at].roster();
        roster.all().keys().map(|node| roster.key(*node)).collect()
    }

    fn linked(pool: &Pool, at: usize) -> Vec<NodeId> {
        pool.nodes[at].linked().map(|(node, _)| node).collect()
    }

    /// The refusals among effects, each with whether its link is closed.
    fn refusals(effects: &[Effect]) -> Vec<Why> {
        let why = |effect: &Effect| match effect {
            Effect::Send(_, Message::Refusal(Refusal { why, .. })) => Some(*why),
            _ => None,
        };
        effects.iter().filter_map(why).collect()
    }

    #[test]
    fn founders_and_sponsors_say_which_keys_ids_have_and_a_newcomer_issues_nothing_for_it() {
        let (pool, nodes) = pool_of(3);
        for at in nodes {
            assert_eq!(keys(&pool, at), [1, 2, 3].map(|number| Some(key(number))));
        }
        assert_eq!([2, 3].map(|id| pool.nodes[0].log.head(node(id)).seq), [0, 0]);
    }

    #[test]
    fn nobody_speaks_under_the_id_of_another_with_its_own_key_and_a_key_is_good_for_one_id() {
        let (mut pool, nodes) = pool_of(3);
        // Of a member under its own key, with the id of another, with one that nobody has, and with that of the node itself.
        for (said, number) in [(2, 3), (9, 3), (1, 3), (2, 77)] {
            let link = LinkId(1_000 + said as u64 + u64::from(number));
            let keys = LinkKeys { own: key(1), peer: key(number) };
            let pool_id = pool.nodes[0].pool.clone();
            let hello =
                Hello { member: true, issued: (99, 99), process: 5, ..Hello::newcomer(node(said), "x", pool_id) };
            let now = pool.now;
            let before = (pool.nodes[0].node(), linked(&pool, 0));
            pool.nodes[0].handle(now, Event::Opened(link, None, Some(keys)));
            let effects = pool.nodes[0].handle(now, Event::Heard(link, Message::Hello(hello)));
            assert_eq!(refusals(&effects), [Why::OtherKey], "{said} with {number}");
            assert_eq!((pool.nodes[0].node(), linked(&pool, 0)), before);
        }
        // The same as an honest node that has lost its key: it comes back as another, and nobody else does.
        let lost = add(&mut pool, 3, 77, false);
        pool.nodes[lost].pool = pool.nodes[0].pool.clone();
        pool.link_with(nodes[0], lost, Some((key(1), key(77))));
        assert_ne!(pool.nodes[lost].node(), node(3));
        let ids = nodes.iter().map(|at| pool.nodes[*at].node()).collect::<Vec<_>>();
        assert_eq!(ids, [1, 2, 3].map(node));
    }

    #[test]
    fn a_link_ends_once_its_node_learns_that_the_peer_has_another_key() {
        let (mut pool, nodes) = pool_of(2);
        // It does not know of the third member yet.
        let link = LinkId(1_000);
        let pool_id = pool.nodes[nodes[0]].pool.clone();
        let now = pool.now;
        let both = LinkKeys { own: key(1), peer: key(77) };
        pool.nodes[0].handle(now, Event::Opened(link, None, Some(both)));
        let hello = Hello { member: true, ..Hello::newcomer(node(3), "x", pool_id) };
        let effects = pool.nodes[0].handle(now, Event::Heard(link, Message::Hello(hello)));
        assert_eq!(refusals(&effects), []);
        let third = add(&mut pool, 3, 3, false);
        pool.link_with(nodes[1], third, Some((key(2), key(3))));
        pool.pass(2_000);
        assert_eq!(keys(&pool, 0)[2], Some(key(3)));
        assert!(!pool.nodes[0].links.contains_key(&link));
    }

    #[test]
    fn the_key_of_an_evicted_id_is_good_for_no_other() {
        let (mut pool, nodes) = pool_of(3);
        nodes[..2].iter().for_each(|other| pool.part(*other, nodes[2]));
        pool.pass(20_000);
        let commands = vec![Command::Evict(Eviction { node: node(3), force: false })];
        pool.give(nodes[0], Event::Submit(1, Draft { key: None, guards: Vec::new(), commands, present: false }));
        pool.pass(5_000);
        let with_old = add(&mut pool, 4, 3, false);
        pool.link_with(nodes[0], with_old, Some((key(1), key(3))));
        pool.pass(2_000);
        assert_ne!(pool.nodes[with_old].standing(), Standing::Member);
        let with_new = add(&mut pool, 5, 5, false);
        pool.link_with(nodes[0], with_new, Some((key(1), key(5))));
        pool.pass(2_000);
        assert_eq!(pool.nodes[with_new].standing(), Standing::Member);
        // The node itself hears that it was evicted, and comes back as another.
        pool.link_with(nodes[0], nodes[2], Some((key(1), key(3))));
        assert_ne!(pool.nodes[nodes[2]].node(), node(3));
    }

    #[test]
    fn a_member_from_before_there_were_keys_says_its_own_once_a_member_knows_no_other_history_of_it() {
        let mut pool = Pool::default();
        let nodes: Vec<usize> = (1..=2).map(|id| pool.add(Replica::new(config(id, id == 1)))).collect();
        pool.pass(100);
        pool.link(nodes[0], nodes[1]);
        pool.pass(2_000);
        drop(pool.put(nodes[1], "x", 1));
        pool.pass(2_000);
        pool.part(nodes[0], nodes[1]);
        for at in &nodes {
            let mut recovery = Recovery::new(config(90, false));
            pool.records[*at].iter().for_each(|record| recovery.take(record.clone()));
            assert_eq!(recovery.key(), None);
            pool.nodes[*at] = recovery.finish(None);
            pool.give(*at, Event::Key(key(*at as u8 + 1)));
        }
        pool.pass(2_000);
        assert_eq!(keys(&pool, nodes[0]), [None, None], "their disks may be old copies");
        pool.link_with(nodes[0], nodes[1], Some((key(1), key(2))));
        pool.pass(3_000);
        for at in nodes {
            assert_eq!(keys(&pool, at), [Some(key(1)), Some(key(2))]);
            assert_eq!(pool.nodes[at].counters().reborn, 0);
            let mut recovery = Recovery::new(config(90, false));
            pool.records[at].iter().for_each(|record| recovery.take(record.clone()));
            assert_eq!(recovery.key(), Some((node(at as u128 + 1), key(at as u8 + 1))));
        }
    }

    #[test]
    fn a_link_that_was_made_under_an_earlier_id_is_closed_and_nothing_is_said_on_it() {
        let (mut pool, nodes) = pool_of(1);
        let keys = LinkKeys { own: key(9), peer: key(2) };
        let opened = Event::Opened(LinkId(1_000), Some("http://n2:1".into()), Some(keys));
        let now = pool.now;
        let effects = pool.nodes[nodes[0]].handle(now, opened);
        assert!(matches!(effects[..], [Effect::Close(LinkId(1_000))]), "{effects:?}");
    }

    #[test]
    fn a_node_that_gives_its_id_up_ends_the_links_that_prove_its_old_key() {
        let (mut pool, nodes) = pool_of(2);
        pool.nodes[nodes[0]].take_new_id();
        assert!(pool.nodes[nodes[0]].links.is_empty() && pool.nodes[nodes[0]].key.is_none());
        let later = Now { mono_ms: pool.now.mono_ms + 1_000, ..pool.now };
        let dials = |effects: Vec<Effect>| effects.iter().any(|effect| matches!(effect, Effect::Dial(_)));
        assert!(dials(pool.nodes[nodes[0]].handle(later, Event::Tick)));
    }

    fn op(origin: u128, seq: u64, time: u64, command: Command<'static>) -> Op {
        let body = Body { wall_ms: 0, seen: Vec::new(), key: None, guards: Vec::new(), commands: vec![command] };
        Op::encode(OpId { origin: node(origin), seq }, time, &body).expect("it is sound")
    }

    #[test]
    fn the_first_word_of_a_node_or_its_sponsor_counts_in_whichever_order_ops_come() {
        let newcomer = || Newcomer { node: node(3), name: "n".into(), urls: Vec::new() };
        let says = |number| Command::Key(node(3), key(number));
        // By origin: its sponsor, the node itself, and one that has not added it.
        let chains = [
            vec![op(1, 1, 10, says(1)), op(1, 2, 20, Command::Add(newcomer(), 0)), op(1, 3, 30, says(2))],
            vec![op(3, 1, 40, says(3))],
            vec![op(4, 1, 5, says(4))],
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
            let mut roster = Roster::default();
            order.iter().flat_map(|at| &chains[*at]).for_each(|op| assert!(roster.take(op)));
            assert_eq!((roster.key(node(3)), roster.holder(key(2))), (Some(key(2)), Some(node(3))), "{order:?}");
            assert_eq!([1, 3, 4].map(|number| roster.holder(key(number))), [None; 3]);
        }
    }
}

//! How presence comes and goes: clients of this node show themselves, and what is new goes over the links.
//!
//! News go at once where a link is idle, else gathered, each client in its latest state. They are passed on once, but not
//! where every pair of nodes is linked. What is lost all the same, or lies behind a link that does not come about, shows in
//! the sums of the beats: then each side says how far it knows the clients of each node, and is sent what it lacks.

use std::collections::BTreeMap;

use super::{
    Effect, FULL_MESH_MAX, LinkId, Refused, Replica, Standing,
    gossip::{HEADS_MAX, SILENCE_MS},
    presence::Way,
};
use crate::{
    op::NodeId,
    plant::{Rule, left_out},
    wire::{Attendance, Message, PRESENT_MAX, Present, Why},
};

/// Between two messages about presence on a link: a hand that moves is drawn twenty times a second.
const SHOW_EVERY_MS: u64 = 50;
/// A message about presence ends when it passes this, so that it holds up little else.
const SHOW_BYTES: usize = 64 << 10;
/// How long those who are gone are remembered, at least: far longer than a node is believed that nobody hears.
const GRAVE_MS: u64 = 30_000;

impl Replica {
    /// Whether a client of this node may show itself so. It may always leave.
    pub fn may_show(&self, room: &str, client: &str, state: Option<&str>) -> Result<(), Refused> {
        match self.standing() {
            _ if state.is_none() => {}
            Standing::Member => {}
            Standing::Retired => return Err(Refused::Retired),
            Standing::Joining | Standing::CatchingUp => return Err(Refused::NotReady),
        }
        self.presence.admits(self.config.node, room, client, state).map_err(Refused::Unseen)
    }

    pub(super) fn on_present(&mut self, room: &str, client: &str, state: Option<&str>) {
        if self.may_show(room, client, state).is_ok() {
            self.presence.set(self.config.node, self.run, room, client, state, self.now.mono_ms);
        }
    }

    /// Sends what is new on each link that takes it now.
    pub(super) fn show(&mut self) {
        let news = |link: &super::Link| self.presence.has_news(&link.shown);
        if !self.ready || !self.links.values().any(news) {
            return;
        }
        let (mesh, now_ms) = (self.roster.len() <= FULL_MESH_MAX, self.now.mono_ms);
        for (id, link) in &mut self.links {
            let member =
                link.peer.as_ref().is_some_and(|peer| self.roster.knows(peer.node) && !self.roster.is_gone(peer.node));
            let shown = &mut link.shown;
            if !member || !shown.open || shown.busy || now_ms < shown.next_ms || !self.presence.has_news(shown) {
                continue;
            }
            let presents = self.presence.news(*id, shown, mesh, (PRESENT_MAX, SHOW_BYTES));
            if !presents.is_empty() {
                (shown.busy, shown.next_ms) = (true, now_ms + SHOW_EVERY_MS);
                self.effects.push(Effect::Send(*id, Message::Presence(presents)));
            }
        }
    }

    pub(super) fn on_shown(&mut self, link: LinkId) {
        self.links.get_mut(&link).into_iter().for_each(|link| link.shown.busy = false);
    }

    pub(super) fn on_presence(&mut self, link: LinkId, presents: &[Present]) {
        let Some(peer) = self.member_at(link) else { return };
        let mut attends: BTreeMap<NodeId, bool> = BTreeMap::new();
        for present in presents {
            let node = present.node;
            if node == self.config.node {
                // Of its own clients a node knows best itself.
                if self.presence.is_unknown(present) {
                    self.outlive(link, present.version.0);
                }
                self.presence.refute(present, self.run, self.now.mono_ms);
            } else if *attends.entry(node).or_insert_with(|| self.attends(node, present.version.0)) {
                let way = Way { link: Some(link), direct: peer == node };
                self.presence.take(present, way, self.now.mono_ms);
            }
        }
        self.clear_graves();
    }

    /// A member remembers of a run of this node what it has not said in this life. If that run is not before this one, the node has
    /// come back from an old copy of its disk: it goes on past it, or nothing that it says would count.
    pub(super) fn outlive(&mut self, link: LinkId, run: u64) {
        // Runs are named after clocks.
        let near = run < self.now.time_bound();
        if run >= self.run && near && self.member_at(link).is_some() {
            self.run = run + 1;
            // Reserved with the clock, so that the next run comes behind this one.
            self.hear_clock(self.run);
            self.presence.go_on(self.config.node, self.run, self.now.mono_ms);
        }
    }

    /// A peer says how far it knows what clients show, since its rooms are not those of this node.
    pub(super) fn on_attendance(&mut self, link: LinkId, known: &[(NodeId, Attendance)]) {
        if known.len() > HEADS_MAX {
            return self.refuse(link, Why::Broken, "too many nodes with clients in rooms".into());
        }
        let known: BTreeMap<NodeId, Attendance> = known.iter().copied().collect();
        if let Some(link) = self.links.get_mut(&link) {
            self.presence.compare(&mut link.shown, &known);
        }
    }

    /// A peer has said the sum over its rooms. News may be under way; if the rooms differ beat by beat, it is asked why.
    pub(super) fn compare_rooms(&mut self, link: LinkId, theirs: u64) {
        let differs = theirs != self.presence.digest();
        let Some(found) = self.links.get_mut(&link) else { return };
        if std::mem::replace(&mut found.shown.differed, differs) && differs && self.ready && !left_out(Rule::Attendance)
        {
            self.effects.push(Effect::Send(link, Message::Attendance(self.presence.attendance())));
        }
    }

    /// The clients of nodes that are gone, or are not heard any more, are gone too.
    pub(super) fn part_from_absent(&mut self) {
        let (own, now_ms) = (self.config.node, self.now.mono_ms);
        for (node, run) in self.presence.owners().into_iter().filter(|_| !left_out(Rule::Absent)) {
            let stays = if node == own { !self.roster.is_retired(own) } else { self.attends(node, run) };
            if !stays {
                self.presence.drop_node(node, now_ms);
            }
        }
        self.clear_graves();
        self.presence.beat();
    }

    fn clear_graves(&mut self) {
        let patience_ms = 3 * self.pulse_every() + SILENCE_MS;
        self.presence.clear(self.now.mono_ms, GRAVE_MS + 2 * patience_ms);
    }

    /// Whether the clients of another node count, as they are in this run of it: it is a member that is heard, and has not
    /// started anew since.
    fn attends(&self, node: NodeId, run: u64) -> bool {
        let started_anew = self.pulses.get(&node).is_some_and(|(pulse, _)| pulse.count.0 > run);
        let member = self.roster.knows(node) && !self.roster.is_gone(node);
        member && !started_anew && self.is_heard(node, self.now.mono_ms)
    }

    /// The member that a link leads to.
    fn member_at(&self, link: LinkId) -> Option<NodeId> {
        let peer = self.links.get(&link)?.peer.as_ref()?.node;
        (self.roster.knows(peer) && !self.roster.is_gone(peer)).then_some(peer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::{
        record::Record,
        replica::{Config, Event, Now, TICK_MS},
        wire,
    };

    /// Replicas that are linked directly, each pair or some of them.
    struct Pool {
        replicas: Vec<Replica>,
        /// The nodes at the two ends of each link, and whether it is there.
        links: Vec<(usize, usize, bool)>,
        now_ms: u64,
        /// Messages about presence that went over links.
        sent: usize,
        /// Records that were to be stored.
        stored: Vec<Record>,
    }

    impl Pool {
        /// A pool in which these pairs are linked.
        fn of(count: usize, pairs: &[(usize, usize)]) -> Pool {
            let config = |number: usize| Config {
                found: number == 0,
                ..Config::founder(NodeId(uuid::Uuid::from_u128(1 + number as u128)), number as u64)
            };
            let replicas = (0..count).map(|number| Replica::new(config(number))).collect();
            let mut pool = Pool { replicas, links: Vec::new(), now_ms: 0, sent: 0, stored: Vec::new() };
            pool.run(TICK_MS);
            pairs.iter().for_each(|pair| pool.link(*pair));
            pool.run(5_000);
            assert!(pool.replicas.iter().all(|replica| replica.standing() == Standing::Member));
            pool.sent = 0;
            pool
        }

        fn link(&mut self, (from, to): (usize, usize)) {
            let link = LinkId(self.links.len() as u64);
            self.links.push((from, to, true));
            self.event(to, Event::Opened(link, None, None));
            self.event(from, Event::Opened(link, Some(format!("http://n{to}:1").into()), None));
        }

        fn event(&mut self, node: usize, event: Event) {
            let mut events = VecDeque::from([(node, event)]);
            while let Some((node, event)) = events.pop_front() {
                let now = Now { mono_ms: self.now_ms, wall_ms: 0 };
                for effect in self.replicas[node].handle(now, event) {
                    let (link, message) = match effect {
                        Effect::Send(link, message) => (link, message),
                        Effect::Close(link) => {
                            self.links[link.0 as usize].2 = false;
                            continue;
                        }
                        Effect::Store(record) => {
                            self.stored.push(record);
                            continue;
                        }
                        _ => continue,
                    };
                    let (from, to, open) = self.links[link.0 as usize];
                    self.sent += usize::from(matches!(message, Message::Presence(_)));
                    match message {
                        Message::Presence(_) => events.push_back((node, Event::Shown(link))),
                        _ if message.is_batch() => events.push_back((node, Event::Flushed(link))),
                        _ => {}
                    }
                    if open {
                        let heard = wire::decode(&wire::encode(&message)).expect("it was encoded");
                        events.push_back((from + to - node, Event::Heard(link, heard)));
                    }
                }
            }
        }

        fn run(&mut self, for_ms: u64) {
            let end_ms = self.now_ms + for_ms;
            while self.now_ms < end_ms {
                self.now_ms += TICK_MS;
                (0..self.replicas.len()).for_each(|node| self.event(node, Event::Tick));
            }
        }

        fn show(&mut self, node: usize, client: &str, state: Option<&str>) {
            let state = state.map(Into::into);
            self.event(node, Event::Present { room: "r".into(), client: client.into(), state });
        }

        /// What clients show at a node.
        fn there(&self, node: usize) -> Vec<String> {
            let seen = self.replicas[node].presence().room("r");
            seen.map(|seen| seen.state.expect("it is there").to_string()).collect()
        }

        fn all_see(&self, expected: &[&str]) {
            for node in 0..self.replicas.len() {
                assert_eq!(self.there(node), expected, "at node {node}");
            }
        }
    }

    const ALL: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];

    #[test]
    fn what_a_client_shows_is_everywhere_at_once_and_sent_to_each_node_once() {
        let mut pool = Pool::of(3, &ALL);
        pool.show(0, "a", Some("1"));
        pool.all_see(&["1"]);
        pool.show(2, "b", Some("2"));
        pool.all_see(&["1", "2"]);
        assert_eq!(pool.sent, 4);
    }

    #[test]
    fn what_clients_show_is_not_stored() {
        let mut pool = Pool::of(3, &ALL);
        // What a member stores anyway, as time goes by.
        let usual = |records: &[Record]| {
            records.iter().all(|record| matches!(record, Record::Ceiling(_) | Record::Frontier(_)))
        };
        pool.stored.clear();
        (0..3).for_each(|node| pool.show(node, "a", Some("\"for-no-disk\"")));
        pool.show(0, "a", None);
        assert_eq!(pool.stored, []);
        pool.run(5_000);
        pool.link((0, 1));
        pool.run(5_000);
        assert_eq!(pool.there(2).len(), 2);
        assert!(usual(&pool.stored), "{:?}", pool.stored);
    }

    #[test]
    fn what_changes_often_is_gathered() {
        let mut pool = Pool::of(2, &[(0, 1)]);
        for count in 0..100 {
            pool.now_ms += 1;
            pool.show(0, "a", Some(&count.to_string()));
        }
        pool.run(TICK_MS);
        pool.all_see(&["99"]);
        assert!((2..=4).contains(&pool.sent), "{} messages", pool.sent);
    }

    #[test]
    fn where_a_pair_is_not_linked_the_others_pass_it_on() {
        let mut pool = Pool::of(3, &[(0, 1), (1, 2)]);
        pool.show(0, "a", Some("1"));
        // So many nodes are linked pair by pair, as a rule: it takes some beats to see that these are not.
        pool.run(4_000);
        pool.all_see(&["1"]);
        pool.show(0, "a", Some("2"));
        pool.all_see(&["2"]);
        pool.run(TICK_MS);
        pool.show(0, "a", None);
        pool.all_see(&[]);
    }

    #[test]
    fn a_link_that_opens_brings_all_who_are_there() {
        let mut pool = Pool::of(3, &[(0, 1), (1, 2)]);
        pool.show(0, "a", Some("1"));
        pool.show(1, "b", Some("2"));
        assert_eq!(pool.there(2), ["2"]);
        pool.link((0, 2));
        pool.all_see(&["1", "2"]);
    }

    #[test]
    fn the_clients_of_a_node_that_falls_silent_are_gone_and_come_back_with_it() {
        let mut pool = Pool::of(3, &ALL);
        (0..3).for_each(|node| pool.show(node, "c", Some(&node.to_string())));
        pool.all_see(&["0", "1", "2"]);
        for link in [1, 2] {
            pool.links[link].2 = false;
        }
        pool.run(10_000);
        assert_eq!([pool.there(0), pool.there(1), pool.there(2)], [vec!["0", "1"], vec!["0", "1"], vec!["2"]]);
        pool.show(2, "c", Some("3"));
        pool.link((0, 2));
        pool.link((1, 2));
        pool.run(2_000);
        pool.all_see(&["0", "1", "3"]);
    }

    #[test]
    fn a_lost_message_is_made_good() {
        let mut pool = Pool::of(2, &[(0, 1)]);
        pool.show(0, "a", Some("1"));
        pool.show(0, "b", Some("1"));
        pool.run(TICK_MS);
        pool.links[0].2 = false;
        pool.show(0, "a", Some("2"));
        pool.show(0, "b", None);
        pool.now_ms += SHOW_EVERY_MS;
        pool.event(0, Event::Cut(false));
        pool.links[0].2 = true;
        assert_eq!(pool.there(1), ["1", "1"]);
        pool.run(4_000);
        pool.all_see(&["2"]);
    }

    #[test]
    fn a_node_that_is_no_member_shows_nobody() {
        let mut pool = Pool::of(1, &[]);
        let config =
            Config { node: NodeId(uuid::Uuid::from_u128(9)), found: false, ..pool.replicas[0].config().clone() };
        pool.replicas.push(Replica::new(config));
        assert_eq!(pool.replicas[1].may_show("r", "a", Some("1")), Err(Refused::NotReady));
        assert_eq!(pool.replicas[1].may_show("r", "a", None), Ok(()));
        pool.show(1, "a", Some("1"));
        assert_eq!(pool.there(1), Vec::<String>::new());
    }

    #[test]
    fn what_an_earlier_life_said_in_the_same_run_is_refuted() {
        // As if node 0 had come back twice from an old copy of its disk, and went on past the same run of itself both times.
        for shown_before in [0, 5] {
            let mut pool = Pool::of(2, &[(0, 1)]);
            let (node, run) = (pool.replicas[0].node(), pool.replicas[0].run);
            let said = |client: &str, count: u64, state: Option<&str>| Present {
                node,
                room: "r".into(),
                client: client.into(),
                version: (run, count),
                state: state.map(Into::into),
            };
            for said in [said("a", 2, None), said("b", 3, Some("ghost")), said("c", 4, Some("ghost"))] {
                pool.replicas[1].presence.take(&said, Way::default(), 0);
            }
            pool.show(0, "a", Some("1"));
            pool.show(0, "b", Some("2"));
            for count in 0..shown_before {
                pool.show(0, "d", Some(&count.to_string()));
                pool.run(TICK_MS);
            }
            pool.show(0, "d", None);
            pool.run(5_000);
            pool.all_see(&["1", "2"]);
        }
    }

    #[test]
    fn one_whose_earlier_life_was_later_goes_on_past_it() {
        let mut pool = Pool::of(2, &[(0, 1)]);
        // As if node 0 had started at the time 5 once, and its disk were a copy of before.
        let node = pool.replicas[0].node();
        let version = (5, 1);
        let ghost = |client: &str| Present {
            node,
            room: "r".into(),
            client: client.into(),
            version,
            state: Some("ghost".into()),
        };
        let (a, b) = (ghost("a"), ghost("b"));
        for ghost in [&a, &b] {
            pool.replicas[1].presence.take(ghost, Way::default(), 0);
        }
        assert_eq!(pool.there(1), ["ghost", "ghost"]);
        pool.show(0, "a", Some("1"));
        pool.run(5_000);
        pool.all_see(&["1"]);
        pool.show(0, "a", Some("2"));
        pool.all_see(&["2"]);
    }
}

//! Members that hold two histories of a third node, which went back to an old copy of its disk: replicas that hear each other on
//! links which a test opens and closes.

use std::collections::VecDeque;

use lamplight::{
    op::{Command, DocKey, Hash, NodeId, Stamp},
    record::Record,
    replica::{Config, Draft, Effect, Endpoint, Event, LinkId, Now, Receipt, Recovery, Replica, Retention, Standing},
    wire::{Announcement, Beat, Hello, Message, Pulse},
};

const ALL: Retention = Retention { ops: usize::MAX, bytes: usize::MAX };
const NONE: Retention = Retention { ops: 0, bytes: 0 };

#[derive(Default)]
struct Pool {
    nodes: Vec<Replica>,
    records: Vec<Vec<Record>>,
    /// Who is at the other end of each node's links.
    links: Vec<(usize, LinkId, usize)>,
    opened: u64,
    now: Now,
}

impl Pool {
    /// So many members, each linked with each.
    fn of(count: u128, retention: Retention) -> Pool {
        let mut pool = Pool::default();
        for id in 1..=count {
            let founds = id == 1;
            pool.nodes.push(Replica::new(Config {
                join: if founds { Vec::new() } else { vec!["http://elsewhere:1".into()] },
                urls: vec![format!("http://n{id}:1")],
                found: founds,
                retention,
                ..Config::founder(NodeId(uuid::Uuid::from_u128(id)), id as u64)
            }));
            pool.records.push(Vec::new());
            pool.pass(100);
            let node = pool.nodes.len() - 1;
            (0..node).for_each(|other| pool.link(other, node));
            pool.pass(2_000);
        }
        assert!(pool.nodes.iter().all(|node| node.standing() == Standing::Member));
        pool
    }

    fn link(&mut self, one: usize, other: usize) {
        self.opened += 1;
        let link = LinkId(self.opened);
        self.links.extend([(one, link, other), (other, link, one)]);
        self.give(one, Event::Opened(link, None, None));
        let dialled = self.nodes[one].config().urls.first().cloned().map(Endpoint::from);
        self.give(other, Event::Opened(link, dialled, None));
    }

    fn part(&mut self, one: usize, other: usize) {
        let between = |end: &(usize, LinkId, usize)| [(one, other), (other, one)].contains(&(end.0, end.2));
        for (node, link, _) in self.links.extract_if(.., |end| between(end)).collect::<Vec<_>>() {
            self.give(node, Event::Closed(link));
        }
    }

    /// Gives a node an event, and carries on what follows from it, everywhere.
    fn give(&mut self, node: usize, event: Event) -> Option<Receipt> {
        let (mut coming, mut receipt) = (VecDeque::from([(node, event)]), None);
        while let Some((node, event)) = coming.pop_front() {
            for effect in self.nodes[node].handle(self.now, event) {
                match effect {
                    Effect::Store(record) => self.records[node].push(record),
                    Effect::Receipt(_, answer) => receipt = answer.ok(),
                    Effect::Send(link, message) => {
                        let other = self.links.iter().find(|end| (end.0, end.1) == (node, link)).map(|end| end.2);
                        let Some(other) = other else { continue };
                        if message.is_batch() {
                            coming.push_back((node, Event::Flushed(link)));
                        }
                        coming.push_back((other, Event::Heard(link, message)));
                    }
                    // What was sent before goes out; then the other end learns of it.
                    Effect::Close(link) => {
                        let other = self.links.iter().find(|end| (end.0, end.1) == (node, link)).map(|end| end.2);
                        coming.extend(other.map(|other| (other, Event::Closed(link))));
                        self.links.retain(|end| (end.0, end.1) != (node, link));
                    }
                    Effect::Dial(_) => {}
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

    fn put(&mut self, node: usize, id: &str) -> Stamp {
        let commands = vec![Command::Put(DocKey::new("c", id.to_string()), "1".into())];
        let draft = Draft { key: None, guards: Vec::new(), commands, present: false };
        self.give(node, Event::Submit(0, draft)).expect("it is a member").stamp
    }

    /// Lets all hear each other for a minute and a half, and dial again where a link breaks.
    fn reunite(&mut self) {
        for _ in 0..90 {
            for (one, other) in (0..self.nodes.len()).flat_map(|other| (0..other).map(move |one| (one, other))) {
                let ends = self.links.iter().filter(|end| [(one, other), (other, one)].contains(&(end.0, end.2)));
                if ends.count() < 2 {
                    self.part(one, other);
                    self.link(one, other);
                }
            }
            self.pass(1_000);
        }
    }
}

/// The second node writes for all but the last, goes back to an old copy of its disk, writes for the last one alone, and only then
/// hears of the others.
fn with_two_histories(count: u128, retention: Retention) -> Pool {
    let mut pool = Pool::of(count, retention);
    let (writer, last) = (1, pool.nodes.len() - 1);
    pool.put(writer, "before");
    pool.pass(3_000);
    let copy = pool.records[writer].clone();
    (0..last).for_each(|other| pool.part(other, last));
    pool.put(writer, "first");
    pool.pass(2_000);
    (0..=last).for_each(|other| pool.part(other, writer));
    let mut recovery = Recovery::new(pool.nodes[writer].config().clone());
    copy.iter().cloned().for_each(|record| recovery.take(record));
    pool.nodes[writer] = recovery.finish(None);
    pool.records[writer] = copy;
    pool.put(writer, "second");
    pool.link(last, writer);
    pool.pass(1_000);
    assert!(pool.nodes[last].state().text("c", "second").is_some());
    pool
}

#[test]
fn of_two_members_with_two_histories_of_a_third_node_one_gives_way_and_nothing_is_lost() {
    for count in [3, 4, 5] {
        for retention in [ALL, NONE] {
            let mut pool = with_two_histories(count, retention);
            pool.reunite();
            let written = pool.put(0, "after");
            pool.pass(5_000);
            let digest = pool.nodes[0].log().digest();
            for node in &pool.nodes {
                let there = ["before", "first", "second", "after"].map(|id| node.state().text("c", id).is_some());
                assert_eq!((there, node.standing()), ([true; 4], Standing::Member), "{count} {retention:?}");
                assert_eq!((node.log().digest(), node.roster().len()), (digest, pool.nodes.len()));
                assert!(node.frontier() >= written.time, "{count} {retention:?}");
            }
            // Where there is a majority, the other side gives way.
            let reborn: Vec<u64> = pool.nodes.iter().map(|node| node.counters().reborn).collect();
            assert!(count == 3 || reborn[0] == 0, "{count} {retention:?}: {reborn:?}");
        }
    }
}

/// Whether all is final at a node once its only other member has said that it holds everything, with this hash over that.
fn is_final_where_the_other_holds(holding: impl Fn(&Replica) -> Hash) -> bool {
    let (node, other) = (NodeId(uuid::Uuid::from_u128(1)), NodeId(uuid::Uuid::from_u128(2)));
    let (mut node, link, now) = (Replica::new(Config::founder(node, 1)), LinkId(1), Now::default());
    drop(node.handle(now, Event::Tick));
    let hello = Hello::newcomer(other, "other", node.pool().cloned());
    drop(node.handle(now, Event::Opened(link, None, None)));
    drop(node.handle(now, Event::Heard(link, Message::Hello(hello))));
    drop(node.handle(now, Event::Heard(link, Message::Heads(Vec::new()))));
    assert!(node.roster().knows(other));
    let clock = node.clock();
    let said = Announcement { seq: 0, clock, complete: clock, holding: holding(&node), wanted: 0 };
    let pulses = vec![(other, Pulse { count: (1, 1), said })];
    let beat = Beat { clock, digest: Hash::default(), state: 0, frontier: 0, presence: 0, pulses };
    drop(node.handle(now, Event::Heard(link, Message::Beat(beat))));
    node.frontier() == clock
}

#[test]
fn what_a_member_says_that_it_holds_counts_for_those_who_hold_the_same() {
    assert!(is_final_where_the_other_holds(|node| node.log().digest()));
    assert!(!is_final_where_the_other_holds(|_| Hash::default()));
}

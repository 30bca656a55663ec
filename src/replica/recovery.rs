//! How a replica comes back from its journal.

use std::collections::BTreeSet;

use super::{Config, Replica, copies, dump, gossip::Place, rebirth::Orphan};
use crate::{
    op::{NodeId, Op, PublicKey},
    plant::{Rule, left_out},
    record::{Identity, Record},
    snapshot::{Part, Whole},
};

/// Ops are folded in batches of this many: late ones in a batch cost one replay a document.
const BATCH: usize = 4_096;

/// A replica in the making: takes the records of a journal in their order.
///
/// An op that cannot be placed, because a record before it is lost, waits like one that was heard early; what it rests
/// on is fetched from the peers. So a damaged journal costs what was damaged and nothing more. A snapshot that begins is taken
/// in beside what came before it, and takes its place once it is whole.
#[derive(Debug)]
pub struct Recovery {
    made: Making,
    next: Option<(Making, Whole)>,
    /// What came from the first documents of a snapshot on whose base was lost: it comes again behind them.
    headless: Option<Vec<Record>>,
    /// Whether a whole snapshot came.
    whole: bool,
}

#[derive(Debug)]
struct Making {
    replica: Replica,
    /// The id that no node has had.
    fresh: NodeId,
    batch: Vec<Op>,
    frontier: u64,
    /// Up to where it has announced to be complete, as far as that counts.
    promised: Option<u64>,
    /// Ids that the node had, and those of them that other processes run under.
    ids: BTreeSet<NodeId>,
    ceded: BTreeSet<NodeId>,
    /// Whether documents are still coming: until then ops are placed, but not folded.
    open: bool,
    /// About how many documents it begins with.
    documents: u64,
}

impl Recovery {
    /// Begins with a node that has no past; its id is the one in `config` unless the journal names another.
    pub fn new(config: Config) -> Recovery {
        Recovery { made: Making::new(config), next: None, headless: None, whole: false }
    }

    /// Takes the next record.
    pub fn take(&mut self, record: Record) {
        match record {
            Record::Snapshot(part) => self.take_part(part),
            Record::Forget => {
                (self.next, self.headless) = (None, None);
                self.made.take(Record::Forget);
            }
            record => {
                self.headless.iter_mut().for_each(|headless| headless.push(record.clone()));
                self.take_beside(record.clone());
                self.made.take(record);
            }
        }
    }

    /// Takes a record into the snapshot that is coming.
    fn take_beside(&mut self, record: Record) {
        if let Some((next, _)) = &mut self.next {
            next.take(record);
        }
    }

    /// Whether it has met a snapshot that is whole. A journal whose beginning was cut off must have one.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The id that the node goes by, and the static key that the pool knows it by, if it does.
    pub fn key(&self) -> Option<(NodeId, PublicKey)> {
        let (node, roster) = (self.made.replica.config.node, &self.made.replica.roster);
        roster.key(node).map(|key| (node, key))
    }

    /// How many documents of a snapshot that is not whole are missing, about.
    pub fn lacking(&self) -> u64 {
        self.next.as_ref().map_or(0, |(next, sum)| next.documents.saturating_sub(sum.documents))
    }

    /// The node, ready to go on. With `anew` it does so under a new id: where the journal may lack ops that it has
    /// issued, it would issue others in their places.
    pub fn finish(mut self, anew: Option<NodeId>) -> Replica {
        match self.next.take() {
            Some((next, _)) if left_out(Rule::WholeOnly) => next.finish(anew),
            // What is sound of a snapshot that lacks something is better than what was left of the time before it.
            Some((next, _)) if anew.is_some() && next.replica.log.len() > self.made.replica.log.len() => {
                let mut made = next;
                made.replica.spoilt = true;
                made.finish(anew)
            }
            _ => self.made.finish(anew),
        }
    }

    fn take_part(&mut self, part: Part) {
        match part {
            Part::Base(base) => {
                let mut next = Making::new(self.made.replica.config.clone());
                next.fresh = self.made.fresh;
                next.ids.clone_from(&self.made.ids);
                next.ceded.clone_from(&self.made.ceded);
                next.replica.rebase(&base);
                next.frontier = base.time;
                next.open = true;
                next.documents = base.documents;
                (self.next, self.headless) = (Some((next, Whole::default())), None);
            }
            Part::Documents(slice) => {
                if let Some((next, sum)) = &mut self.next {
                    dump::add(sum, &slice.documents);
                    slice.documents.into_iter().for_each(|document| next.replica.state.adopt(document));
                } else if slice.after.is_none() || self.headless.is_some() {
                    self.headless.get_or_insert_default().push(Record::Snapshot(Part::Documents(slice)));
                }
            }
            Part::Again(base) => {
                let Some(headless) = self.headless.take() else { return };
                self.take_part(Part::Base(base));
                // What came between the lost base and the first documents was taken for the time before. Ops among that found
                // nothing to follow.
                if let Some((next, _)) = &mut self.next {
                    next.follow(&self.made);
                }
                let before = self.made.replica.early.take_all().into_iter().map(Record::Op);
                for record in before.chain(headless) {
                    match record {
                        Record::Snapshot(part) => self.take_part(part),
                        record => self.take_beside(record),
                    }
                }
            }
            Part::Whole(whole) => {
                if self.next.as_ref().is_some_and(|(_, sum)| *sum == whole) {
                    let Some((next, _)) = self.next.take() else { return };
                    self.made = Making { open: false, ..next };
                    self.whole = true;
                }
            }
        }
    }
}

impl Making {
    fn new(config: Config) -> Making {
        let fresh = config.node;
        let mut replica = Replica::new(config);
        replica.takes_back = true;
        Making {
            replica,
            fresh,
            batch: Vec::with_capacity(BATCH),
            frontier: 0,
            promised: None,
            ids: BTreeSet::new(),
            ceded: BTreeSet::new(),
            open: false,
            documents: 0,
        }
    }

    /// Is the node that another in the making has come to be, but for what it holds.
    fn follow(&mut self, before: &Making) {
        self.replica.pool.clone_from(&before.replica.pool);
        self.replica.orphans.clone_from(&before.replica.orphans);
        self.take(Record::Ceiling(before.replica.ceiling));
        self.take(Record::Frontier(before.frontier));
        before.promised.into_iter().for_each(|time| self.take(Record::Complete(time)));
        self.take(Record::Resumed(before.replica.unconfirmed));
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Identity(identity) => self.identify(identity),
            Record::Op(op) => self.take_op(op),
            Record::Ceiling(time) => {
                self.replica.ceiling = self.replica.ceiling.max(time);
                // Ops that came after it were measured against a clock that beats had lifted, too.
                self.replica.clock = self.replica.clock.max(time);
            }
            Record::Frontier(time) => self.frontier = self.frontier.max(time),
            Record::Complete(time) => self.promised = self.promised.max(Some(time)),
            Record::Resumed(seq) => self.replica.unconfirmed = seq.filter(|_| !left_out(Rule::Resumption)),
            Record::Orphan(op) => self.replica.orphans.push(Orphan::of(op)),
            Record::Fork(op) => self.replica.orphans.push(Orphan::forked(op)),
            Record::Addresses(node, to) => drop(self.replica.roster.relocate(node, &to)),
            Record::Ceded(node) => drop(self.ceded.insert(node)),
            Record::Forget => {
                self.batch.clear();
                (self.frontier, self.promised) = (0, None);
                self.replica.forget();
                self.replica.takes_back = true;
                // Its next identity may be lost: under the old id it would issue other ops in the places of those it has forgotten.
                self.replica.config.node = self.fresh;
            }
            Record::Snapshot(_) => {}
        }
        // Whatever taking them has to say was said before the crash.
        self.replica.effects.clear();
    }

    fn finish(mut self, anew: Option<NodeId>) -> Replica {
        self.fold();
        let replica = &mut self.replica;
        // What rests on a lost record of an id that the node has given up, it issues again, unless the others hold it.
        let given_up: Vec<NodeId> =
            self.ids.into_iter().filter(|id| anew.is_some() || *id != replica.config.node).collect();
        replica.orphans.extend(replica.early.take_of(&given_up).into_iter().map(Orphan::of));
        replica.gave_up.extend(given_up.iter().filter(|id| !self.ceded.contains(id)));
        replica.former.extend(given_up);
        if replica.log.is_empty() && replica.pool.is_some() {
            // A pool of which there is no op was founded, or joined, in words only.
            replica.forget();
        }
        if let Some(node) = anew {
            // What is lost may have been final: how far it is, whoever lets it in says.
            replica.rename(node);
        } else {
            replica.ready = replica.is_member() && !replica.roster.is_retired(replica.config.node);
            if replica.is_member() {
                // As when it was let in, it holds all that its sponsor did.
                let joined = replica.roster.joined_at(replica.config.node);
                replica.finality.reach(self.frontier.max(joined));
            }
            replica.finality.recorded = self.frontier;
            // A retirement is for good, but whoever starts it with somewhere to join wants it back: as another.
            replica.rejoins = replica.roster.is_retired(replica.config.node) && !replica.config.join.is_empty();
        }
        let own = replica.log.head(replica.config.node).seq;
        // If it issued nothing since the last start, there is nothing that nobody has confirmed.
        replica.unconfirmed = replica.unconfirmed.filter(|seq| *seq < own);
        replica.resumed_at = replica.unconfirmed.unwrap_or(own);
        // A directory that names no pool is new, and no copy of anything.
        replica.takes_back &= replica.pool.is_some();
        replica.compacted = replica.log.horizon();
        replica.rewrites = anew.is_some();
        // Past all that was ever announced: so its pulses are newer than those of any run before.
        replica.clock += 1;
        replica.run = replica.clock;
        replica.process = copies::process_number(replica.config.seed, replica.run);
        // A journal that does not say what was announced may have announced anything.
        replica.finality.promised = self.promised.unwrap_or(replica.clock);
        self.replica
    }

    fn identify(&mut self, Identity { node, pool, pool_name }: Identity) {
        if self.replica.pool.as_ref().is_some_and(|(before, _)| *before != pool) {
            // Nothing of one pool belongs to another; the record that says so is lost.
            self.take(Record::Forget);
        }
        self.replica.pool = Some((pool, pool_name));
        self.ids.insert(node);
        if self.replica.config.node == node {
            return;
        }
        self.replica.config.node = node;
        self.replica.unconfirmed = None;
        self.replica.unseen = self.replica.log.heads().map(|(origin, head)| (origin, head.seq)).collect();
        self.replica.unseen.remove(&node);
    }

    fn take_op(&mut self, op: Op) {
        let mut coming = vec![op];
        while let Some(op) = coming.pop() {
            match self.replica.place(&op) {
                Place::Next => {
                    self.replica.append(&op, None, self.replica.log.head(op.origin()).extended(&op));
                    coming.extend(self.replica.early.released(op.id()));
                    self.batch.push(op);
                }
                Place::Waits(missing) => self.replica.early.keep_all(op, missing),
                Place::Held | Place::Past | Place::Wrong(_) => {}
            }
        }
        if self.batch.len() >= BATCH && !self.open {
            self.fold();
        }
    }

    fn fold(&mut self) {
        self.replica.state.insert(&self.batch);
        self.batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        op::{Command, DocKey},
        replica::{Draft, EARLY_OPS_MAX, Effect, Event, Now, Retention},
    };

    /// The records of a lone node that has forgotten its ops: a snapshot of a few documents, in slices, and ops behind it.
    fn with_snapshot(config: &Config) -> (Replica, Vec<Record>) {
        let mut node = Replica::new(config.clone());
        let mut records = Vec::new();
        let mut now = Now::default();
        let mut give = |node: &mut Replica, event| {
            now.mono_ms += 100;
            let record = |effect| if let Effect::Store(record) = effect { Some(record) } else { None };
            let stored: Vec<Record> = node.handle(now, event).into_iter().filter_map(record).collect();
            records.extend(stored);
        };
        let put = |n: u64| {
            let command = Command::Put(DocKey::new("c", n.to_string()), format!("\"{}\"", "x".repeat(100_000)).into());
            Event::Submit(n, Draft { key: None, guards: Vec::new(), commands: vec![command], present: false })
        };
        give(&mut node, Event::Tick);
        (0..9).for_each(|n| give(&mut node, put(n)));
        give(&mut node, Event::Tick);
        assert_eq!(node.horizon(), node.clock());
        give(&mut node, Event::Compact);
        (10..15).for_each(|n| give(&mut node, put(n)));
        while node.is_compacting() {
            give(&mut node, Event::Stored);
        }
        let base = records.iter().position(|record| matches!(record, Record::Snapshot(Part::Base(_))));
        (node, records.split_off(base.expect("one was written")))
    }

    #[test]
    fn one_lost_record_of_a_snapshot_costs_no_more_than_what_it_held() {
        let retention = Retention { ops: 0, bytes: 0 };
        let config = Config { retention, ..Config::founder(NodeId(Uuid::from_u128(1)), 1) };
        let (node, records) = with_snapshot(&config);
        for lost in 0..records.len() {
            let mut recovery = Recovery::new(config.clone());
            let rest = records.iter().enumerate().filter(|(at, _)| *at != lost);
            rest.for_each(|(_, record)| recovery.take(record.clone()));
            let whole = recovery.is_whole();
            let again = recovery.finish(Some(NodeId(Uuid::from_u128(2))));
            let there =
                |replica: &Replica| (0..15).filter(|n| replica.state().text("c", &n.to_string()).is_some()).count();
            let held = match &records[lost] {
                Record::Snapshot(Part::Documents(slice)) => slice.documents.len(),
                _ => 0,
            };
            let is_op = matches!(records[lost], Record::Op(_));
            let is_end = matches!(records[lost], Record::Snapshot(Part::Whole(_)));
            assert_eq!(whole, held == 0 && !is_end, "{lost}");
            // An op that is lost keeps those behind it waiting.
            assert!(is_op || there(&again) == there(&node) - held, "{lost}: {} documents", there(&again));
            assert_eq!((again.is_spoilt(), again.pool()), (!whole, node.pool()), "{lost}");
            assert!(again.clock() >= node.clock(), "{lost}");
        }
    }

    #[test]
    fn however_many_ops_come_behind_a_lost_one_they_are_there_when_it_is() {
        const OPS: usize = EARLY_OPS_MAX + 500;
        let config = Config::founder(NodeId(Uuid::from_u128(1)), 1);
        let mut node = Replica::new(config.clone());
        let command = || Command::Put(DocKey::new("c", "d"), "1".into());
        let draft = || Draft { key: None, guards: Vec::new(), commands: vec![command()], present: false };
        let events = std::iter::once(Event::Tick).chain((1..OPS as u64).map(|n| Event::Submit(n, draft())));
        let effects = events.flat_map(|event| node.handle(Now::default(), event)).collect::<Vec<_>>();
        let record = |effect| if let Effect::Store(record) = effect { Some(record) } else { None };
        let mut records: Vec<Record> = effects.into_iter().filter_map(record).collect();
        let lost = records.remove(10);
        // Fetched from a peer, it was recorded last; for its own sake alone a restart must not need peers again.
        records.push(lost);
        let mut recovery = Recovery::new(config);
        records.into_iter().for_each(|record| recovery.take(record));
        assert_eq!(recovery.finish(None).log().len(), OPS);
    }

    #[test]
    fn what_it_held_of_another_pool_is_not_taken_though_the_record_that_it_forgot_that_is_lost() {
        let records = |seed| {
            let mut node = Replica::new(Config::founder(NodeId(Uuid::from_u128(seed)), seed as u64));
            let command = Command::Put(DocKey::new("c", seed.to_string()), "1".into());
            let draft = Draft { key: None, guards: Vec::new(), commands: vec![command], present: false };
            let effects =
                [Event::Tick, Event::Submit(1, draft)].into_iter().flat_map(|it| node.handle(Now::default(), it));
            let record = |effect| if let Effect::Store(record) = effect { Some(record) } else { None };
            effects.filter_map(record).collect::<Vec<_>>()
        };
        let mut recovery = Recovery::new(config());
        records(1).into_iter().chain(records(2)).for_each(|record| recovery.take(record));
        let again = recovery.finish(None);
        let there = |id: &str| again.state().get("c", id).is_some();
        assert_eq!((again.node(), there("1"), there("2")), (NodeId(Uuid::from_u128(2)), false, true));
    }

    #[test]
    fn a_journal_that_ends_where_its_node_gave_an_id_up_does_not_bring_that_id_back() {
        let mut node = Replica::new(config());
        let record = |effect| if let Effect::Store(record) = effect { Some(record) } else { None };
        let records: Vec<Record> = node.handle(Now::default(), Event::Tick).into_iter().filter_map(record).collect();
        let fresh = NodeId(Uuid::from_u128(9));
        let come_back = |end: Option<Record>| {
            let mut recovery = Recovery::new(Config { node: fresh, ..config() });
            records.iter().cloned().chain(end).for_each(|record| recovery.take(record));
            recovery.finish(None)
        };
        assert_eq!(come_back(None).node(), node.node());
        let again = come_back(Some(Record::Forget));
        assert_eq!((again.node(), again.former().contains(&node.node()), again.log().len()), (fresh, true, 0));
    }

    /// A lone node that starts over and over, from its journal.
    struct Restarted {
        node: Replica,
        records: Vec<Record>,
    }

    impl Restarted {
        fn new() -> Restarted {
            Restarted { node: Replica::new(config()), records: Vec::new() }
        }

        fn give(&mut self, event: Event) -> Vec<Effect> {
            let (stored, rest): (Vec<_>, Vec<_>) = self
                .node
                .handle(Now::default(), event)
                .into_iter()
                .partition(|effect| matches!(effect, Effect::Store(_)));
            self.records
                .extend(stored.into_iter().filter_map(|it| if let Effect::Store(it) = it { Some(it) } else { None }));
            rest
        }

        fn put(&mut self, key: Option<&str>) -> crate::op::OpId {
            let commands = vec![Command::Put(DocKey::new("c", "d"), "1".into())];
            let draft = Draft { key: key.map(Into::into), guards: Vec::new(), commands, present: false };
            match &self.give(Event::Submit(0, draft))[..] {
                [Effect::Receipt(_, Ok(receipt))] => receipt.op,
                other => panic!("{other:?}"),
            }
        }

        fn restart(&mut self) {
            let (run, clock) = (self.node.run, self.node.clock);
            let mut recovery = Recovery::new(config());
            self.records.iter().for_each(|record| recovery.take(record.clone()));
            self.node = recovery.finish(None);
            assert!(self.node.run > run && self.node.clock > clock, "it comes back behind all that it has told");
            (0..3).for_each(|_| drop(self.give(Event::Tick)));
        }
    }

    fn config() -> Config {
        Config::founder(NodeId(Uuid::from_u128(1)), 1)
    }

    #[test]
    fn a_node_that_starts_again_and_again_uses_up_few_times() {
        let mut lone = Restarted::new();
        let first = lone.put(Some("key"));
        let before = lone.node.clock();
        (0..1_024).for_each(|_| lone.restart());
        assert!(lone.node.clock() <= before + 2 * 1_024, "from {before} to {}", lone.node.clock());
        let before = lone.node.clock();
        for _ in 0..64 {
            lone.restart();
            lone.put(None);
        }
        assert!(lone.node.clock() <= before + 70 * 64, "from {before} to {}", lone.node.clock());
        assert_eq!(lone.put(Some("key")), first, "the key is remembered");
    }

    #[test]
    fn a_busy_node_reserves_times_seldom_and_uses_none_before() {
        let mut lone = Restarted::new();
        for _ in 0..50_000 {
            lone.put(None);
            assert!(lone.node.clock() <= lone.node.ceiling);
        }
        let ceilings = lone.records.iter().filter(|record| matches!(record, Record::Ceiling(_)));
        let ceilings = ceilings.count();
        assert!((12..=25).contains(&ceilings), "{ceilings} records");
    }
}

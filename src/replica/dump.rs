//! Making a snapshot: for the node's own journal, for a backup, and for a newcomer.
//!
//! A snapshot is of one time, but it is made in slices while the node goes on: what the documents were at that time the log
//! tells as long as it reaches back to it, and a pin keeps it from being forgotten meanwhile. So a cursor is all there is
//! to keep.

use std::collections::BTreeMap;

use super::{Effect, PIN_MS, Replica, Retention, finality::Finality, log::Log, roster::Roster};
use crate::{
    document::{REPLAY_UNITS, State},
    op::{NodeId, Op, Stamp},
    plant::{Rule, left_out},
    record::{Identity, Record},
    snapshot::{Base, BaseDocument, Key, PART_BYTES, Part, Whole},
    wire::Begun,
};

/// Most ops that are forgotten with a tick, and bytes of them: some milliseconds of work.
const FORGOTTEN_MAX: (usize, usize) = (8_192, 8 << 20);
/// A busy node takes in more than that until the next tick, and writers would wait for all of it: so many ops, or bytes of
/// them, are forgotten as soon as they need not stay.
const PORTION: (usize, usize) = (256, 1 << 20);

/// How long one time can be pinned, however often somebody says so: who is slower than this begins anew.
const PINNED_MAX_MS: u64 = 600_000;
/// Most times that are pinned at once: readers name them, and may name any.
const PINS_MAX: usize = 1_024;

/// The pieces of a snapshot, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Pieces {
    /// Its time.
    pub(super) time: u64,
    next: Next,
    whole: Whole,
}

#[derive(Clone, Debug)]
enum Next {
    Base,
    Documents(Option<Key>),
    Whole,
    Nothing,
}

impl Pieces {
    /// From the beginning.
    pub(super) fn new(time: u64) -> Pieces {
        Pieces { time, next: Next::Base, whole: Whole::default() }
    }

    /// From behind a document, for one who has what comes before it.
    pub(super) fn behind(Begun { time, after, sum }: Begun) -> Pieces {
        Pieces { time, next: Next::Documents(after), whole: sum }
    }

    pub(super) fn next(&mut self, state: &State, log: &Log, roster: &Roster) -> Option<Part> {
        match &self.next {
            Next::Base => {
                self.next = Next::Documents(None);
                Some(Part::Base(self.base(state, log, roster)))
            }
            Next::Documents(after) => {
                let slice = state.slice(after.clone(), self.time);
                add(&mut self.whole, &slice.documents);
                self.next = slice.next.clone().map_or(Next::Whole, |key| Next::Documents(Some(key)));
                Some(Part::Documents(slice))
            }
            Next::Whole => {
                self.next = Next::Nothing;
                Some(Part::Whole(self.whole))
            }
            Next::Nothing => None,
        }
    }

    fn base(&self, state: &State, log: &Log, roster: &Roster) -> Base {
        let (heads, membership) = (log.heads_at(self.time), roster.ops_to(self.time));
        Base { time: self.time, heads, membership, documents: state.count() as u64 }
    }
}

/// Adds documents to what is to be told, or was, of the whole.
pub(super) fn add(whole: &mut Whole, documents: &[BaseDocument]) {
    // Where a peer says how far it has come, that is any number.
    whole.documents = whole.documents.wrapping_add(documents.len() as u64);
    whole.digest = documents.iter().map(State::mark_of).fold(whole.digest, u64::wrapping_add);
}

/// A snapshot for a journal, as it is being made: what a node needs to go on from it, the ops behind it among that.
#[derive(Clone, Debug)]
pub struct Dump {
    pieces: Pieces,
    /// The ops that were held when it was begun. Those that come later are recorded as they come.
    heads: BTreeMap<NodeId, u64>,
    /// The last of them that it has.
    last: Stamp,
    /// What ends it, once the documents are through.
    whole: Option<Part>,
}

/// The log no longer reaches back to the time of the snapshot. It is to be begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpGone;

impl Dump {
    /// Its time.
    pub fn time(&self) -> u64 {
        self.pieces.time
    }
}

impl Replica {
    /// Begins a snapshot of all that this node holds; none if that is nothing. Whoever goes on with it sends
    /// [`super::Event::Pin`] now and then.
    pub fn dump(&self) -> Option<Dump> {
        self.identity().filter(|_| !self.log.is_empty())?;
        let time = self.log.horizon();
        let heads = self.log.heads().map(|(origin, head)| (origin, head.seq)).collect();
        let last = Stamp { time, origin: NodeId(uuid::Uuid::max()) };
        Some(Dump { pieces: Pieces::new(time), heads, last, whole: None })
    }

    /// The next records of a snapshot; none at its end.
    pub fn dump_next(&self, dump: &mut Dump) -> Result<Vec<Record>, DumpGone> {
        if self.log.horizon() > dump.time() {
            return Err(DumpGone);
        }
        if dump.whole.is_none() {
            match dump.pieces.next(&self.state, &self.log, &self.roster) {
                None => return Ok(Vec::new()),
                Some(whole @ Part::Whole(_)) => dump.whole = Some(whole),
                Some(part) => {
                    let is_base = matches!(part, Part::Base(_));
                    let own = if is_base { self.own_records() } else { Vec::new() };
                    return Ok(std::iter::once(Record::Snapshot(part)).chain(own).collect());
                }
            }
        }
        let ops = self.dump_ops(dump);
        if ops.is_empty() {
            let Some(whole) = dump.whole.take() else { return Ok(Vec::new()) };
            return Ok(self.ending(dump.pieces.base(&self.state, &self.log, &self.roster), whole));
        }
        Ok(ops)
    }

    fn dump_ops(&self, dump: &mut Dump) -> Vec<Record> {
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for op in self.log.after(dump.last, None) {
            if bytes >= PART_BYTES {
                break;
            }
            dump.last = op.stamp();
            if dump.heads.get(&op.origin()).is_some_and(|seq| op.id().seq <= *seq) {
                bytes += op.bytes().len();
                ops.push(Record::Op(op.clone()));
            }
        }
        ops
    }

    /// What the journal says of this node besides its ops.
    pub(super) fn own_records(&self) -> Vec<Record> {
        // Members that it was and may have to evict, first: the last record of this kind names the node.
        let present = |id: &&NodeId| self.roster.knows(**id) && !self.roster.is_gone(**id);
        let had = self.gave_up.iter().filter(present);
        let had = had.filter_map(|id| Some(Record::Identity(Identity { node: *id, ..self.identity()? })));
        let identity = had.chain(self.identity().map(Record::Identity));
        let Finality { frontier, promised, .. } = &self.finality;
        let times = [Record::Ceiling(self.ceiling), Record::Frontier(*frontier), Record::Complete(*promised)];
        let resumed = self.unconfirmed.map(|seq| Record::Resumed(Some(seq)));
        let moves = self.roster.moves().map(|(node, to)| Record::Addresses(node, to));
        let orphans = self.orphans.iter().map(super::rebirth::Orphan::record);
        identity.chain(times).chain(resumed).chain(moves).chain(orphans).collect()
    }

    /// What ends a snapshot in a journal. What it cannot do without comes once more, so that no single bad byte costs it.
    pub(super) fn ending(&self, base: Base, whole: Part) -> Vec<Record> {
        let again = std::iter::once(Record::Snapshot(Part::Again(base)));
        again.chain(self.identity().map(Record::Identity)).chain([Record::Snapshot(whole)]).collect()
    }

    /// The journal has grown long. A snapshot helps only where ops were forgotten since the last one, or what is there was
    /// damaged; and it must not be of documents that have holes, or come between the pieces of another.
    pub(super) fn on_compact(&mut self) {
        // What may be forgotten goes first, or the snapshot would take it along.
        let settled = self.settle();
        let helps = settled && (self.log.horizon() > self.compacted || self.rewrites);
        if self.compacting.is_none() && helps && self.ready && self.fetch.is_none() {
            self.compacting = self.dump();
            self.go_on_compacting();
        }
    }

    /// Records the next slice of the snapshot that is under way.
    pub(super) fn go_on_compacting(&mut self) {
        let Some(mut dump) = self.compacting.take() else { return };
        match self.dump_next(&mut dump) {
            Ok(records) if records.is_empty() => (self.compacted, self.rewrites) = (dump.time(), false),
            Ok(records) => {
                self.effects.extend(records.into_iter().map(Effect::Store));
                self.compacting = Some(dump);
            }
            // Something else has taken its place.
            Err(DumpGone) => {}
        }
    }

    /// The log keeps what comes after this time, as far as it is there, for a while: for somebody who takes a snapshot of it.
    pub(super) fn pin(&mut self, time: u64) {
        let (now_ms, time) = (self.now.mono_ms, time.max(self.log.horizon()));
        if self.pins.len() >= PINS_MAX && !self.pins.contains_key(&time) {
            match self.pins.last_entry() {
                // The latest gives way: while the others last, they hold what it does.
                Some(latest) if *latest.key() > time => drop(latest.remove()),
                _ => return,
            }
        }
        let (first_ms, until_ms) = self.pins.entry(time).or_insert((now_ms, 0));
        *until_ms = (now_ms + PIN_MS).min(*first_ms + PINNED_MAX_MS);
    }

    /// While memory is short, final ops go, as if none were to be retained, and most of what documents were before their last
    /// changes: both are for those who look back, and a write that is refused is worse.
    pub(super) fn on_tight(&mut self, tight: bool) {
        self.tight = tight;
        self.state.tighten(tight);
        self.settle();
    }

    /// Forgets final ops that need not stay in the log; says whether that was all of them.
    pub(super) fn settle(&mut self) -> bool {
        let now_ms = self.now.mono_ms;
        self.pins.retain(|_, (_, until_ms)| *until_ms > now_ms);
        self.forget_final(FORGOTTEN_MAX)
    }

    /// The same between ticks, of what has grown to a portion.
    pub(super) fn settle_portion(&mut self) {
        let (ops, bytes) = self.beyond_retention();
        if (ops >= PORTION.0 || bytes >= PORTION.1) && self.finality.frontier > self.log.horizon() {
            self.forget_final(PORTION);
        }
    }

    /// How many ops, and how many bytes of them, the log has beyond those that it is to keep.
    fn beyond_retention(&self) -> (usize, usize) {
        let (ops, bytes) = self.log.kept();
        let retention = if self.tight { Retention { ops: 0, bytes: 0 } } else { self.config.retention };
        (ops.saturating_sub(retention.ops), bytes.saturating_sub(retention.bytes))
    }

    fn forget_final(&mut self, (ops_max, bytes_max): (usize, usize)) -> bool {
        let (ops, bytes) = self.beyond_retention();
        if (ops, bytes) == (0, 0) {
            return true;
        }
        let sending = self.links.values().filter_map(|link| link.transfer.as_ref()).map(|pieces| pieces.time);
        let pinned = self.pins.keys().copied().chain(self.compacting.as_ref().map(Dump::time)).chain(sending).min();
        let frontier = if left_out(Rule::ForgetFinal) { self.clock } else { self.finality.frontier };
        let limit = frontier.min(pinned.unwrap_or(u64::MAX)).min(self.confirmed_to());
        let (mut horizon, mut count, mut freed, mut all) = (self.log.horizon(), 0, 0, true);
        let mut units = 0;
        for op in self.log.after(Stamp { time: horizon, origin: NodeId(uuid::Uuid::max()) }, None) {
            if op.time() > limit || (count >= ops && freed >= bytes) {
                break;
            }
            if count >= ops_max || freed >= bytes_max || units >= REPLAY_UNITS {
                all = false;
                break;
            }
            units += self.state.forgetting_units(op);
            (horizon, count, freed) = (op.time(), count + 1, freed + op.bytes().len());
        }
        if count > 0 {
            let forgotten: Vec<Op> = self.log.forget(horizon);
            self.state.forget(&forgotten, horizon);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        op::{Command, DocKey},
        replica::{Config, Draft, Event, Now},
    };

    #[test]
    fn ops_that_cost_much_are_forgotten_a_few_at_a_time() {
        let config = Config::founder(NodeId(Uuid::from_u128(1)), 1);
        let mut node = Replica::new(Config { retention: Retention { ops: 0, bytes: 0 }, ..config });
        let mut now = Now::default();
        let mut give = |node: &mut Replica, event| {
            now.mono_ms += 1;
            drop(node.handle(now, event));
        };
        let shifts = vec![r#"{"op":"add","path":"/0","value":0},{"op":"remove","path":"/0"}"#; 30].join(",");
        let doc = || DocKey::new("c", "d");
        let commands = || {
            let array = format!("[{}0]", "0,".repeat(20_000));
            let commands = [Command::Put(doc(), array.into()), Command::Patch(doc(), format!("[{shifts}]").into())];
            commands.into_iter().chain([Command::Put(doc(), "0".into())]).collect()
        };
        give(&mut node, Event::Tick);
        node.pins.insert(0, (1, u64::MAX));
        for n in 0..20 {
            let draft = Draft { key: None, guards: Vec::new(), commands: commands(), present: false };
            give(&mut node, Event::Submit(n, draft));
        }
        node.pins.clear();
        let mut kept = node.log.kept().0;
        assert!(kept >= 20);
        while kept > 0 {
            give(&mut node, Event::Tick);
            let left = node.log.kept().0;
            assert!(left < kept && kept - left <= 3, "{kept}, then {left}");
            kept = left;
        }
    }

    #[test]
    fn while_memory_is_short_hardly_anything_stays_for_those_who_look_back() {
        let mut node = Replica::new(Config::founder(NodeId(Uuid::from_u128(1)), 1));
        let mut now = Now::default();
        let mut give = |node: &mut Replica, event| {
            now.mono_ms += 100;
            drop(node.handle(now, event));
        };
        let put = |n: u64| {
            let command = Command::Put(DocKey::new("c", "d"), format!("\"{n}{}\"", "x".repeat(500_000)).into());
            Event::Submit(n, Draft { key: None, guards: Vec::new(), commands: vec![command], present: false })
        };
        let kept = |node: &Replica| (node.log.kept().0, node.state.changes().end() - node.state.changes().start());
        give(&mut node, Event::Tick);
        (0..20).for_each(|n| give(&mut node, put(n)));
        // The op with which it became a member is one more.
        assert_eq!(kept(&node), (21, 20));
        give(&mut node, Event::Tight(true));
        give(&mut node, Event::Tick);
        assert_eq!(kept(&node), (0, 8), "four MiB of what the document was");
        (20..40).for_each(|n| give(&mut node, put(n)));
        give(&mut node, Event::Tick);
        assert_eq!(kept(&node), (0, 8));
        give(&mut node, Event::Tight(false));
        (40..60).for_each(|n| give(&mut node, put(n)));
        assert_eq!(kept(&node), (20, 28));
        assert!(node.state().get("c", "d").is_some_and(|view| view.text.json().starts_with("\"59x")));
    }

    #[test]
    fn what_is_issued_in_a_step_is_there_at_its_end_however_little_is_retained() {
        let retention = Retention { ops: 0, bytes: 0 };
        let mut node = Replica::new(Config { retention, ..Config::founder(NodeId(Uuid::from_u128(1)), 1) });
        drop(node.handle(Now::default(), Event::Tick));
        let mut forgotten = 0;
        for n in 1..600 {
            let command = Command::Put(DocKey::new("c", "d"), "1".into());
            let draft = Draft { key: None, guards: Vec::new(), commands: vec![command], present: false };
            drop(node.handle(Now::default(), Event::Submit(n, draft)));
            let kept = node.log.kept().0;
            assert!(kept > 0, "op {n} is forgotten already");
            forgotten += usize::from(kept == 1);
        }
        assert!(forgotten > 0, "all before it is, between ticks");
    }

    #[test]
    fn a_pin_holds_what_is_there_for_a_while_whatever_time_it_names() {
        let retention = Retention { ops: 0, bytes: 0 };
        let mut node = Replica::new(Config { retention, ..Config::founder(NodeId(Uuid::from_u128(1)), 1) });
        let mut now = Now::default();
        let mut give = |node: &mut Replica, event| {
            now.mono_ms += 100;
            drop(node.handle(now, event));
        };
        let mut written = 0;
        let mut write = |node: &mut Replica, give: &mut dyn FnMut(&mut Replica, Event)| {
            written += 1;
            let command = Command::Put(DocKey::new("c", "d"), "1".into());
            let draft = Draft { key: None, guards: Vec::new(), commands: vec![command], present: false };
            give(node, Event::Submit(written, draft));
            give(node, Event::Tick);
            node.horizon() == node.clock()
        };
        give(&mut node, Event::Tick);
        assert!(write(&mut node, &mut give), "it retains nothing");
        let there = node.horizon();
        (0..=there).for_each(|time| give(&mut node, Event::Pin(time)));
        assert!(!write(&mut node, &mut give));
        assert_eq!((node.horizon(), node.pins.len()), (there, 1), "what is forgotten cannot be held");
        (0..PIN_MS / 100).for_each(|_| give(&mut node, Event::Tick));
        assert!(write(&mut node, &mut give), "it has lapsed");
        let past = node.clock() + 1_000;
        (past..past + 2 * PINS_MAX as u64).for_each(|time| give(&mut node, Event::Pin(time)));
        assert_eq!(node.pins.len(), PINS_MAX);
        let there = node.horizon();
        give(&mut node, Event::Pin(there));
        assert_eq!(node.pins.len(), PINS_MAX);
        assert!(!write(&mut node, &mut give), "times that are far off keep no snapshot from being taken");
        assert_eq!(node.horizon(), there);
        (0..PIN_MS / 100).for_each(|_| give(&mut node, Event::Tick));
        assert!(write(&mut node, &mut give), "the pins have lapsed");
    }
}

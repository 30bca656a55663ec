//! The ops of a journal from a beginning on, judged against each other: what `replica` sees to before an op comes into the
//! log must hold for the log that is read. A chapter begins with the first op ever, or with the base of a snapshot.

use std::collections::BTreeMap;

use crate::{
    document::State,
    op::{Command, Head, NodeId, Op, OpId},
    snapshot::{Base, Slice},
};

/// Most broken rules that are named: a file that is broken throughout needs no longer list.
const BROKEN_MAX: usize = 100;
/// Documents of a collection are compared in runs of so many.
const RUN: usize = 1_000;

/// What is wrong with a journal.
#[derive(Debug, Default)]
pub struct Broken {
    /// How many rules are broken.
    pub count: u64,
    /// The first of them, in words.
    pub words: Vec<String>,
}

impl Broken {
    /// Takes one more down.
    pub fn add(&mut self, words: String) {
        self.count += 1;
        if self.words.len() < BROKEN_MAX {
            self.words.push(words);
        }
    }
}

/// The ops of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// How far they go.
    pub head: Head,
    /// The time of the last one; of one that a snapshot stands for, the snapshot's.
    pub time: u64,
    /// Some are missing, so that the head's hash says nothing.
    pub gap: bool,
}

/// Ops that follow each other.
#[derive(Debug, Default)]
pub struct Chapter {
    /// The ops of each node, in the order in which they came.
    pub origins: BTreeMap<NodeId, Origin>,
    /// Those that came behind the beginning, each with the head that it makes, in the order in which they came.
    ops: Vec<(Op, Head)>,
    /// Ops before which something is missing so far, by the first thing that is, each with its place in the order in which
    /// they came.
    waiting: BTreeMap<OpId, Vec<(usize, Op)>>,
    arrivals: usize,
    /// What is known of the beginning, but for the documents.
    heads: BTreeMap<NodeId, Head>,
    membership: Vec<Op>,
    /// The documents as the beginning has them.
    documents: State,
}

impl Chapter {
    /// One that begins with a snapshot.
    pub fn behind(base: &Base) -> Chapter {
        let origin = |head: Head| Origin { head, time: base.time, gap: false };
        Chapter {
            origins: base.heads.iter().map(|(node, head)| (*node, origin(*head))).collect(),
            heads: base.heads.iter().copied().collect(),
            membership: base.membership.clone(),
            ..Chapter::default()
        }
    }

    /// Takes documents of the snapshot.
    pub fn adopt(&mut self, slice: Slice) {
        slice.documents.into_iter().for_each(|document| self.documents.adopt(document));
    }

    /// How many ops came behind the beginning.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Takes an op. One that comes before what it rests on waits: where the journal was damaged, that may have come again
    /// later, and while a snapshot is written, new ops come before the older ones that it repeats.
    pub fn op(&mut self, op: &Op, broken: &mut Broken) {
        self.arrivals += 1;
        let mut coming = vec![(self.arrivals, op.clone())];
        while let Some((arrival, op)) = coming.pop() {
            if self.holds(op.id()) {
                continue;
            }
            if let Some(missing) = self.missing(&op) {
                self.waiting.entry(missing).or_default().push((arrival, op));
                continue;
            }
            self.take(&op, broken);
            coming.extend(self.waiting.remove(&op.id()).unwrap_or_default());
        }
    }

    /// Nothing more comes: what still waits breaks a rule.
    pub fn end(&mut self, broken: &mut Broken) {
        let mut waiting: Vec<(usize, Op)> = std::mem::take(&mut self.waiting).into_values().flatten().collect();
        waiting.sort();
        for (_, op) in waiting {
            if self.holds(op.id()) {
                continue;
            }
            if let Some(missing) = self.missing(&op) {
                broken.add(self.complaint(&op, missing));
            }
            self.take(&op, broken);
        }
    }

    fn holds(&self, id: OpId) -> bool {
        self.origins.get(&id.origin).is_some_and(|origin| id.seq <= origin.head.seq)
    }

    /// The first thing that an op rests on and that is not there.
    fn missing(&self, op: &Op) -> Option<OpId> {
        let OpId { origin, seq } = op.id();
        let before = (seq > 1).then_some(OpId { origin, seq: seq - 1 });
        let seen = op.body().seen.into_iter().map(|(origin, seq)| OpId { origin, seq });
        before.into_iter().chain(seen).find(|id| !self.holds(*id))
    }

    fn complaint(&self, op: &Op, missing: OpId) -> String {
        let held = self.origins.get(&missing.origin).map_or(0, |origin| origin.head.seq);
        let id = op.id();
        if missing.origin == id.origin {
            return format!("op {id} comes after seq {held} of its node");
        }
        format!("op {id} has seen {missing}, but only seq {held} comes before it")
    }

    fn take(&mut self, op: &Op, broken: &mut Broken) {
        let before = self.origins.get(&op.origin()).copied().unwrap_or_default();
        if op.time() <= before.time {
            broken.add(format!("op {} has time {}, and the one before it {}", op.id(), op.time(), before.time));
        }
        let gap = before.gap || op.id().seq != before.head.seq + 1;
        let head = before.head.extended(op);
        self.origins.insert(op.origin(), Origin { head, time: op.time(), gap });
        self.ops.push((op.clone(), head));
    }

    /// Folds the ops up to the time of a snapshot anew, and compares what they make with the snapshot: false if there is
    /// more in it than in these ops, as in one that came from another node, or in what is left of a journal that was cut.
    pub fn refold(mut self, base: &Base, snapshot: &Chapter, broken: &mut Broken) -> bool {
        let time = base.time;
        let behind: Vec<(Op, Head)> = self.ops.into_iter().filter(|(op, _)| op.time() <= time).collect();
        for (op, head) in &behind {
            self.heads.insert(op.origin(), *head);
        }
        let gap = self.origins.values().any(|origin| origin.gap);
        if gap || base.heads.iter().any(|(node, head)| self.heads.get(node).map_or(0, |held| held.seq) < head.seq) {
            return false;
        }
        if self.heads.iter().any(|(node, head)| snapshot.heads.get(node) != Some(head)) {
            broken.add(format!("the snapshot of time {time} has other heads than the ops before it"));
            return true;
        }
        let mut ops: Vec<Op> = behind.into_iter().map(|(op, _)| op).collect();
        ops.sort();
        let is_membership = |op: &&Op| op.body().commands.iter().all(|command| Command::doc(command).is_none());
        self.membership.extend(ops.iter().filter(is_membership).cloned());
        if self.membership != base.membership {
            broken.add(format!("the snapshot of time {time} has other members than the ops before it"));
        }
        self.documents.insert(&ops);
        compare(time, &self.documents, &snapshot.documents, broken);
        true
    }
}

/// Names the documents in which a snapshot is not what the ops make of it.
fn compare(time: u64, folded: &State, snapshot: &State, broken: &mut Broken) {
    if (folded.count(), folded.digest()) == (snapshot.count(), snapshot.digest()) {
        return;
    }
    // What is in only one of the two is met in one of the turns.
    for (one, other) in [(folded, snapshot), (snapshot, folded)] {
        for (collection, _) in one.collections() {
            let mut after = None;
            loop {
                let (views, next) = one.scan(collection, after.as_deref(), RUN);
                for view in views {
                    let there = other.text(collection, &view.id);
                    if there != Some(&view.text) && (there.is_none() || std::ptr::eq(one, folded)) {
                        let id = &view.id;
                        broken
                            .add(format!("{collection}/{id} is not in the snapshot of time {time} as the ops make it"));
                    }
                }
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
    }
}

//! `check`: whether the journal of a node that does not run is sound. It changes nothing.
//!
//! The bytes are the storage's to judge. Here the ops are judged against each other: what `replica` sees to before an op
//! comes into the log must hold for the log that is read.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, output};
use crate::{
    op::{Head, NodeId, Op},
    record::{Identity, Record},
    storage::{self, Found},
};

/// Most broken rules that are named: a file that is broken throughout needs no longer list.
const BROKEN_MAX: usize = 100;

/// Flags of `check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lamplight check --data /var/lib/lamplight
  lamplight check --data /var/lib/lamplight --json | jq .heads

The node must not be running. Nothing is changed: what is damaged is mended, and a copy of it kept, when the node
starts. An incomplete end, as a crash or a power cut leaves it, is no damage.

Exit codes: 0 sound, 1 damaged or not readable, 2 usage.")]
pub struct CheckArgs {
    /// The directory in which the node keeps its data.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print one JSON object, with the head of each node: how many of its ops there are, and the hash over them.
    #[arg(long)]
    pub(super) json: bool,
}

/// Checks a journal and says what it found.
pub fn check(args: CheckArgs) -> Result<(), Failure> {
    let mut log = Log::default();
    let found =
        storage::read(&args.data, &mut |record| log.record(&record)).map_err(|e| Failure::new(e.to_string()))?;
    log.end();
    let at = args.data.display();
    if found == Found::default() {
        return Err(Failure::new(format!("{at} holds no journal, or an empty one")));
    }
    let said = if args.json { log.to_json(&found).to_string() } else { log.described(&found) };
    output::line(&said)?;
    if found.damage.is_empty() && log.broken == 0 {
        return Ok(());
    }
    let (places, rules) = (found.damage.len(), log.broken);
    Err(Failure::new(format!("the journal in {at} is damaged: {places} damaged places, {rules} broken rules")))
}

/// What the records of a journal come to.
#[derive(Debug, Default)]
struct Log {
    identity: Option<Identity>,
    ops: u64,
    origins: BTreeMap<NodeId, Origin>,
    /// Ops before which something is missing so far.
    waiting: Vec<Op>,
    /// Ops that are to be issued again under another id.
    orphans: u64,
    /// How many ops break a rule, and the first of them in words.
    broken: u64,
    words: Vec<String>,
}

/// The ops of one node.
#[derive(Clone, Copy, Debug, Default)]
struct Origin {
    head: Head,
    time: u64,
    /// Some are missing, so that the head's hash says nothing.
    gap: bool,
}

impl Log {
    fn record(&mut self, record: &Record) {
        match record {
            Record::Identity(identity) => self.identity = Some(identity.clone()),
            Record::Op(op) => self.op(op),
            Record::Ceiling(_) | Record::Frontier(_) | Record::Snapshot(_) => {}
            Record::Orphan(_) | Record::Fork(_) => self.orphans += 1,
            Record::Forget => {
                self.end();
                (self.identity, self.ops) = (None, 0);
                self.origins.clear();
            }
        }
    }

    /// An op that comes before what it rests on waits: where the journal was damaged, that may have come again later.
    fn op(&mut self, op: &Op) {
        if self.holds(op) {
            return;
        }
        if self.objection(op).is_some() {
            self.waiting.push(op.clone());
            return;
        }
        self.take(op);
        while let Some(at) = self.waiting.iter().position(|op| self.objection(op).is_none()) {
            let op = self.waiting.remove(at);
            self.take(&op);
        }
    }

    /// Nothing more comes: what still waits breaks a rule.
    fn end(&mut self) {
        for op in std::mem::take(&mut self.waiting) {
            if let Some(words) = self.objection(&op).filter(|_| !self.holds(&op)) {
                self.breaks(words);
                self.take(&op);
            }
        }
    }

    fn holds(&self, op: &Op) -> bool {
        self.origins.get(&op.origin()).is_some_and(|origin| op.id().seq <= origin.head.seq)
    }

    fn objection(&self, op: &Op) -> Option<String> {
        let id = op.id();
        let before = self.origins.get(&id.origin).copied().unwrap_or_default();
        if id.seq != before.head.seq + 1 {
            return Some(format!("op {id} comes after seq {} of its node", before.head.seq));
        }
        if op.time() <= before.time {
            return Some(format!("op {id} has time {}, and the one before it {}", op.time(), before.time));
        }
        op.body().seen.into_iter().find_map(|(other, seq)| {
            let held = self.origins.get(&other).map_or(0, |origin| origin.head.seq);
            (held < seq).then(|| format!("op {id} has seen {other}.{seq}, but only seq {held} comes before it"))
        })
    }

    fn take(&mut self, op: &Op) {
        self.ops += 1;
        let before = self.origins.get(&op.origin()).copied().unwrap_or_default();
        let gap = before.gap || op.id().seq != before.head.seq + 1;
        self.origins.insert(op.origin(), Origin { head: before.head.extended(op), time: op.time(), gap });
    }

    fn breaks(&mut self, words: String) {
        self.broken += 1;
        if self.words.len() < BROKEN_MAX {
            self.words.push(words);
        }
    }

    /// For people.
    fn described(&self, found: &Found) -> String {
        let mut lines = Vec::new();
        if let Some(Identity { node, pool, pool_name }) = &self.identity {
            lines.push(format!("Node {node} of the pool {pool_name} ({pool})"));
        }
        let (ops, origins) = (self.ops, self.origins.len());
        lines.push(format!("{} records, {} bytes; {ops} ops of {origins} nodes", found.records, found.bytes));
        lines.extend(found.torn.iter().map(|torn| format!("Incomplete end, as a crash leaves it: {torn}")));
        lines.extend(found.damage.iter().map(|damage| format!("Damage: {damage}")));
        lines.extend(self.words.iter().map(|words| format!("Broken rule: {words}")));
        if found.damage.is_empty() && self.broken == 0 {
            lines.push("Sound: each checksum is right, and each op follows what it must follow.".into());
        }
        lines.join("\n")
    }

    /// For programs.
    fn to_json(&self, found: &Found) -> Value {
        let head = |(node, origin): (&NodeId, &Origin)| {
            let hash = (!origin.gap).then(|| origin.head.hash.to_string());
            (node.to_string(), json!({ "seq": origin.head.seq, "hash": hash, "time": origin.time }))
        };
        let torn = |torn: &storage::Torn| json!({ "file": torn.file, "offset": torn.offset, "records": torn.records });
        let damage = |damage: &storage::Damage| {
            let storage::Damage { file, offset, record, why } = damage;
            json!({ "file": file, "offset": offset, "record": record, "why": why.to_string() })
        };
        json!({
            "sound": found.damage.is_empty() && self.broken == 0,
            "node": self.identity.as_ref().map(|identity| identity.node.to_string()),
            "pool": self.identity.as_ref().map(|identity| identity.pool.to_string()),
            "pool_name": self.identity.as_ref().map(|identity| &identity.pool_name),
            "records": found.records,
            "bytes": found.bytes,
            "ops": self.ops,
            "heads": self.origins.iter().map(head).collect::<serde_json::Map<_, _>>(),
            "torn": found.torn.as_ref().map(torn),
            "damage": found.damage.iter().map(damage).collect::<Vec<_>>(),
            "broken": self.words,
        })
    }
}

//! `check`: whether the journal of a node that does not run is sound. It changes nothing.
//!
//! `storage` judges the bytes, `audit` what the records say. Here it is put into words.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{
    Failure,
    audit::{Audit, Snapshot},
    chapter::Origin,
    output,
};
use crate::{
    op::NodeId,
    record::Identity,
    storage::{self, Found},
};

/// Flags of `check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lamplight check --data /var/lib/lamplight
  lamplight check --data /var/lib/lamplight --json | jq .heads

Ops are checked against each other, each snapshot against its own end, and against the ops before it while they are still
there: folded anew, they must make its documents. That takes about the memory of the node, and of a second one meanwhile.

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
    let mut audit = Audit::default();
    let found =
        storage::read(&args.data, &mut |record| audit.record(record)).map_err(|e| Failure::new(e.to_string()))?;
    audit.end();
    let at = args.data.display();
    if found == Found::default() {
        return Err(Failure::new(format!("{at} holds no journal, or an empty one")));
    }
    let said = if args.json { audit.to_json(&found).to_string() } else { audit.described(&found) };
    output::line(&said)?;
    if audit.is_sound(&found) {
        return Ok(());
    }
    let lost = !audit.has_beginning(found.cut);
    let (places, rules) = (found.damage.len() + usize::from(lost), audit.broken.count);
    Err(Failure::new(format!("the journal in {at} is damaged: {places} damaged places, {rules} broken rules")))
}

impl Audit {
    fn is_sound(&self, found: &Found) -> bool {
        found.damage.is_empty() && self.broken.count == 0 && self.has_beginning(found.cut)
    }

    /// For people.
    fn described(&self, found: &Found) -> String {
        let mut lines = Vec::new();
        if let Some(Identity { node, pool, pool_name }) = &self.identity {
            lines.push(format!("Node {node} of the pool {pool_name} ({pool})"));
        }
        let (ops, origins) = (self.chapter.len(), self.chapter.origins.len());
        let behind = if self.snapshots.is_empty() { "" } else { " behind the last snapshot" };
        lines.push(format!("{} records, {} bytes; {ops} ops of {origins} nodes{behind}", found.records, found.bytes));
        lines.extend(self.snapshots.iter().map(Snapshot::described));
        lines.extend(self.unfinished().map(|time| {
            format!(
                "A snapshot of time {time} has begun and is not whole: it counts for nothing, and will be made again"
            )
        }));
        lines.extend(found.torn.iter().map(|torn| format!("Incomplete end, as a crash leaves it: {torn}")));
        lines.extend(found.damage.iter().map(|damage| format!("Damage: {damage}")));
        if !self.has_beginning(found.cut) {
            lines.push("Damage: the beginning is lost, and no whole snapshot stands in its place".into());
        }
        lines.extend(self.broken.words.iter().map(|words| format!("Broken rule: {words}")));
        match &found.torn {
            _ if !self.is_sound(found) => {}
            None => lines.push("Sound: each checksum is right, and each op follows what it must follow.".into()),
            Some(_) => lines.push(
                "Sound up to there. What follows was never acknowledged with --sync always, and is dropped at the next start."
                    .into(),
            ),
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
            "sound": self.is_sound(found),
            "node": self.identity.as_ref().map(|identity| identity.node.to_string()),
            "pool": self.identity.as_ref().map(|identity| identity.pool.to_string()),
            "pool_name": self.identity.as_ref().map(|identity| &identity.pool_name),
            "records": found.records,
            "bytes": found.bytes,
            "cut": found.cut,
            "beginning": self.has_beginning(found.cut),
            "snapshots": self.snapshots.iter().map(|snapshot| snapshot.to_json()).collect::<Vec<_>>(),
            "unfinished_snapshot": self.unfinished(),
            "ops": self.chapter.len(),
            "heads": self.chapter.origins.iter().map(head).collect::<serde_json::Map<_, _>>(),
            "torn": found.torn.as_ref().map(torn),
            "damage": found.damage.iter().map(damage).collect::<Vec<_>>(),
            "broken": self.broken.words,
        })
    }
}

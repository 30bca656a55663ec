//! What the simulated clients ask for: drafts that mostly fit what the node holds, and some that do not.

use serde_json::{Value, json};

use super::{chance, plan::Mix};
use crate::{
    document::delta::difference,
    op::{Command, DocKey, Edit, Guard},
    replica::{Draft, Replica},
    version::Version,
};

/// Drafts with a key that are remembered, to be sent again elsewhere.
const RETRIES: usize = 6;

/// The clients.
#[derive(Debug)]
pub struct Workload {
    mix: Mix,
    keys: u64,
    sent: Vec<Draft>,
}

impl Workload {
    /// Clients of a mix.
    pub fn new(mix: Mix) -> Workload {
        Workload { mix, keys: 0, sent: Vec::new() }
    }

    /// What some client asks this node for.
    pub fn draft(&mut self, replica: &Replica, rng: &mut fastrand::Rng) -> Draft {
        if chance(rng, self.mix.keyed / 2)
            && let Some(sent) = rng.choice(&self.sent)
        {
            let mut draft = sent.clone();
            if rng.u32(..8) == 0 {
                // The same key for another request is a client's mistake.
                draft.commands = vec![self.command(replica, rng)];
            }
            return draft;
        }
        let mut draft = if rng.u32(..self.total()) < self.mix.tx {
            self.transaction(replica, rng)
        } else {
            let command = self.command(replica, rng);
            let doc = command.doc().cloned();
            let guarded = chance(rng, self.mix.guarded);
            let guards = doc.filter(|_| guarded).map(|doc| guard(replica, &doc, rng)).into_iter().collect();
            Draft { key: None, guards, commands: vec![command], present: rng.u32(..8) == 0 }
        };
        if chance(rng, self.mix.keyed) {
            self.keys += 1;
            draft.key = Some(format!("k{}", self.keys));
            if self.sent.len() == RETRIES {
                self.sent.remove(0);
            }
            self.sent.push(draft.clone());
        }
        draft
    }

    /// The last drafts with a key.
    pub fn sent(&self) -> &[Draft] {
        &self.sent
    }

    fn total(&self) -> u32 {
        let Mix { put, merge, patch, delete, text, tx, .. } = self.mix;
        put + merge + patch + delete + text + tx
    }

    fn doc(&self, rng: &mut fastrand::Rng) -> DocKey<'static> {
        let collection = format!("c{}", rng.usize(..self.mix.collections));
        // Half of the writes go to a few documents, however many there are.
        let most = if rng.bool() { self.mix.documents.min(3) } else { self.mix.documents };
        // A few hit what others use as a text.
        let kind = if self.mix.text > 0 && rng.u32(..8) == 0 { 't' } else { 'd' };
        DocKey::new(collection, format!("{kind}{}", rng.usize(..most)))
    }

    fn command(&self, replica: &Replica, rng: &mut fastrand::Rng) -> Command<'static> {
        let doc = self.doc(rng);
        let Mix { put, merge, patch, delete, text, .. } = self.mix;
        let mut at = rng.u32(..put + merge + patch + delete + text);
        if at < text {
            return edit(replica, doc, rng);
        }
        at -= text;
        if at < put {
            return Command::Put(doc, value(rng).to_string().into());
        }
        at -= put;
        if at < merge {
            return Command::Merge(doc, merge_patch(rng).to_string().into());
        }
        if at - merge < patch {
            return json_patch(replica, doc, rng);
        }
        Command::Delete(doc)
    }

    /// Several documents at once: a transfer, a write that rests on reading another document, or puts.
    fn transaction(&self, replica: &Replica, rng: &mut fastrand::Rng) -> Draft {
        let (from, to) = (self.doc(rng), self.doc(rng));
        let (mut guards, mut commands) = (Vec::new(), Vec::new());
        match rng.u32(..6) {
            0 => {
                let by = rng.i64(1..5);
                commands.push(Command::Patch(from, increment(-by).into()));
                commands.push(Command::Patch(to, increment(by).into()));
            }
            1 => {
                guards.push(guard(replica, &from, rng));
                commands.push(Command::Put(to, value(rng).to_string().into()));
            }
            2 => {
                // Both are written, then the second may fail: nothing of the first may stay.
                commands.push(Command::Merge(from, merge_patch(rng).to_string().into()));
                commands.push(json_patch(replica, to, rng));
            }
            3 => {
                guards.push(guard(replica, &from, rng));
                guards.push(guard(replica, &to, rng));
                (0..rng.usize(1..4)).for_each(|_| commands.push(self.command(replica, rng)));
            }
            4 => {
                commands.push(Command::Put(from, value(rng).to_string().into()));
                commands.push(if rng.bool() { Command::Delete(to) } else { put(to, rng) });
            }
            _ => (0..rng.usize(2..5)).for_each(|_| commands.push(self.command(replica, rng))),
        }
        Draft { key: None, guards, commands, present: false }
    }
}

fn put(doc: DocKey<'static>, rng: &mut fastrand::Rng) -> Command<'static> {
    Command::Put(doc, value(rng).to_string().into())
}

/// A guard that mostly holds where it is made.
fn guard(replica: &Replica, doc: &DocKey<'_>, rng: &mut fastrand::Rng) -> Guard<'static> {
    let key = DocKey::new(doc.collection.to_string(), doc.id.to_string());
    match replica.state().get(&doc.collection, &doc.id) {
        _ if rng.u32(..20) == 0 => Guard::Exists(key),
        Some(view) if rng.bool() => Guard::Version(key, Version::of(view.text.as_str())),
        Some(_) => Guard::Exists(key),
        None => Guard::Absent(key),
    }
}

fn value(rng: &mut fastrand::Rng) -> Value {
    match rng.u32(..12) {
        0 => json!(rng.i32(-5..5)),
        1 => json!([1, "zwei", null, {"n": 3}]),
        _ => json!({"n": rng.u32(..10), "s": word(rng), "l": [rng.u32(..3)], "o": {"a": rng.bool()}}),
    }
}

fn merge_patch(rng: &mut fastrand::Rng) -> Value {
    match rng.u32(..8) {
        0 => json!({"s": null}),
        1 => json!({"o": {"a": null, "b": word(rng)}}),
        2 => json!({"o": {"c": {"d": rng.u32(..9)}}}),
        3 => json!({"n": rng.u32(..10)}),
        4 => json!([word(rng)]),
        _ => json!({(word(rng)): rng.u32(..100)}),
    }
}

fn json_patch(replica: &Replica, doc: DocKey<'static>, rng: &mut fastrand::Rng) -> Command<'static> {
    let held = replica.state().get(&doc.collection, &doc.id);
    let held: Value = held.and_then(|view| serde_json::from_str(view.text.as_str()).ok()).unwrap_or(Value::Null);
    let n = held.get("n").cloned().unwrap_or(json!(0));
    let steps = match rng.u32(..9) {
        0 => json!([{"op": "test", "path": "/n", "value": n}, {"op": "replace", "path": "/n", "value": rng.u32(..10)}]),
        1 => json!([{"op": "add", "path": "/l/-", "value": word(rng)}]),
        2 => json!([{"op": "remove", "path": "/l/0"}]),
        3 => json!([{"op": "move", "from": "/o", "path": "/p"}]),
        4 => json!([{"op": "copy", "from": "/s", "path": "/t"}, {"op": "increment", "path": "/n", "by": 1}]),
        5 => json!([{"op": "replace", "path": "/s", "value": word(rng)}, {"op": "test", "path": "/n", "value": n}]),
        6 => json!([{"op": "add", "path": "/o", "value": {}}]),
        _ => return Command::Patch(doc, increment(rng.i64(1..5)).into()),
    };
    Command::Patch(doc, steps.to_string().into())
}

/// An edit of a text as it is at this node; where there is none, its beginning, or an edit that comes too late.
fn edit(replica: &Replica, doc: DocKey<'static>, rng: &mut fastrand::Rng) -> Command<'static> {
    let doc = DocKey::new(doc.collection, doc.id.replace('d', "t"));
    let source = replica.state().source(&doc.collection, &doc.id);
    let creates = source.is_none() && rng.u32(..8) > 0;
    let mut prose = source.and_then(|source| source.prose(&doc)).unwrap_or_default();
    let text = prose.plain().unwrap_or_default();
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let at = rng.choice(&places).copied().unwrap_or(0);
    let rest = &text[at..];
    let gone = if rng.bool() { rest.chars().next().map_or(0, char::len_utf8) } else { 0 };
    let written = *rng.choice(&["a", "bc", "ä", "😀", "x😀y"]).unwrap_or(&"a");
    let after = format!("{}{}{}", &text[..at], written, &rest[gone..]);
    let update = prose.edit(rng.u32(1..), &difference(&text, &after)).ok().flatten();
    Command::Text(doc, Edit { creates, update: update.unwrap_or_else(|| vec![0, 0]).into() })
}

fn increment(by: i64) -> String {
    json!([{"op": "increment", "path": "/n", "by": by}]).to_string()
}

fn word(rng: &mut fastrand::Rng) -> String {
    (0..rng.usize(1..4)).map(|_| rng.lowercase()).collect()
}

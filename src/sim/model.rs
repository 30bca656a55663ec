//! The naive model: what a set of ops means, as DESIGN.md section 2 and API.md say it, and nothing clever.
//!
//! It sorts all ops by stamp and folds them from nothing into whole JSON trees. It shares no code with the fold of
//! `document::State`, only the reading of JSON and JSON Patch, which have tests of their own.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Violation;
use crate::{
    document::{
        Reason, State, Text,
        json::{self, DOCUMENT_BYTES_MAX},
        patch::Patch,
        prose::{self, Prose},
    },
    op::{Body, Command, DocKey, Guard, NodeId, Op, OpId, Stamp},
    replica::{Member, Replica},
    version::Version,
};

/// Ids that a listing is asked for at a time: few, so that its cursor is tried as well.
const PAGE: usize = 7;

type Key = (String, String);

/// What the ops make of the documents.
#[derive(Debug, Default)]
pub struct Model {
    documents: BTreeMap<Key, (Content, Stamp)>,
    rejected: BTreeMap<Stamp, Rejection>,
    members: BTreeMap<NodeId, (Stamp, String, Vec<String>)>,
    keys: BTreeMap<String, (OpId, u64)>,
}

/// What a document is.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    Json(Value),
    /// A text: its mark, and the updates it was made of.
    Text(Text, Vec<Vec<u8>>),
}

/// Why an op has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejection {
    Guard(usize, Option<Version>),
    Command(usize),
    TooLarge(usize),
    TooCostly,
    Repeated(OpId),
}

impl Model {
    /// Folds ops, in whatever order they are given.
    pub fn fold<'a>(ops: impl Iterator<Item = &'a Op>) -> Model {
        let mut ops: Vec<&Op> = ops.collect();
        ops.sort_by_key(|op| (op.time(), *op.origin().0.as_bytes()));
        let mut model = Model::default();
        for op in ops {
            if let Err(rejection) = model.take(op, &op.body()) {
                model.rejected.insert(op.stamp(), rejection);
            }
        }
        model
    }

    fn take(&mut self, op: &Op, body: &Body<'_>) -> Result<(), Rejection> {
        if let Some(key) = &body.key {
            if let Some((first, until)) = self.keys.get(&*key.text)
                && op.time() <= *until
            {
                return Err(Rejection::Repeated(*first));
            }
            self.keys.insert(key.text.to_string(), (op.id(), op.time().saturating_add(key.span)));
        }
        for (index, guard) in body.guards.iter().enumerate() {
            self.guard(guard).map_err(|current| Rejection::Guard(index, current))?;
        }
        // What the op would leave behind; nothing of it counts before all of it went well.
        let mut after: BTreeMap<Key, Option<Content>> = BTreeMap::new();
        for (index, command) in body.commands.iter().enumerate() {
            if let Some(doc) = command.doc() {
                let key = key_of(doc);
                let before = match after.get(&key) {
                    Some(value) => value.clone(),
                    None => self.documents.get(&key).map(|(content, _)| content.clone()),
                };
                after.insert(key, outcome(op, command, index, before)?);
            }
        }
        for (key, value) in after {
            match value {
                Some(value) => drop(self.documents.insert(key, (value, op.stamp()))),
                None => drop(self.documents.remove(&key)),
            }
        }
        for command in &body.commands {
            if let Command::Add(newcomer, _) = command {
                let member = (op.stamp(), newcomer.name.to_string(), newcomer.urls.clone());
                self.members.entry(newcomer.node).or_insert(member);
            }
        }
        Ok(())
    }

    fn guard(&self, guard: &Guard<'_>) -> Result<(), Option<Version>> {
        let current = self.version_of(guard.doc());
        let holds = match guard {
            Guard::Exists(_) => current.is_some(),
            Guard::Absent(_) => current.is_none(),
            Guard::Version(_, version) => current == Some(*version),
        };
        if holds { Ok(()) } else { Err(current) }
    }

    /// The version of a document, if it exists.
    pub fn version_of(&self, doc: &DocKey<'_>) -> Option<Version> {
        self.documents.get(&key_of(doc)).map(|(content, _)| version(content))
    }

    /// Compares a node with this model: every document, verdict, member and count.
    pub fn compare(&self, replica: &Replica) -> Result<(), Violation> {
        let state = replica.state();
        self.compare_documents(state)?;
        let rejected: BTreeMap<Stamp, Rejection> =
            state.rejected().map(|(stamp, reason)| (*stamp, rejection(reason))).collect();
        let known = |(stamp, _): &(&Stamp, &Rejection)| stamp.time > replica.horizon();
        if let Some((stamp, ours)) =
            self.rejected.iter().filter(known).find(|(stamp, ours)| rejected.get(stamp) != Some(ours))
        {
            let theirs = rejected.get(stamp);
            return differs(format!("op {stamp} must be rejected for {ours:?}, but the node says {theirs:?}"));
        }
        if let Some((stamp, theirs)) = rejected.iter().find(|(stamp, _)| !self.rejected.contains_key(stamp)) {
            return differs(format!("op {stamp} must apply, but the node rejects it for {theirs:?}"));
        }
        // Where a member has moved to since no op says.
        let urls = |node: &NodeId, member: &Member| match self.members.get(node) {
            Some((.., urls)) if member.has_moved() => urls.clone(),
            _ => member.urls.clone(),
        };
        let members = replica.roster().all().iter();
        let members: BTreeMap<NodeId, (Stamp, String, Vec<String>)> =
            members.map(|(node, member)| (*node, (member.added, member.name.clone(), urls(node, member)))).collect();
        if members != self.members {
            return differs(format!("the members are {members:?}, not {:?}", self.members));
        }
        Ok(())
    }

    fn compare_documents(&self, state: &State) -> Result<(), Violation> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        self.documents.keys().for_each(|(collection, _)| *counts.entry(collection.clone()).or_default() += 1);
        let theirs: BTreeMap<String, usize> =
            state.collections().map(|(name, count)| (name.to_string(), count)).collect();
        if counts != theirs {
            return differs(format!("the collections are {theirs:?}, not {counts:?}"));
        }
        let mut listed = BTreeMap::new();
        for collection in counts.keys() {
            let mut after = None;
            loop {
                let (views, next) = state.scan(collection, after.as_deref(), PAGE);
                for view in views {
                    let held = (view.text.as_str().to_string(), view.stamp);
                    listed.insert((view.collection.to_string(), view.id.to_string()), held);
                }
                match next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        for (key, (content, stamp)) in &self.documents {
            let ours = (written(content), Some(*stamp));
            compare_text(state, key, content)?;
            let theirs = listed.remove(key);
            if theirs.as_ref() != Some(&ours) {
                return differs(format!("{}/{} is {theirs:?}, not {ours:?}", key.0, key.1));
            }
        }
        listed.pop_first().map_or(Ok(()), |(key, held)| differs(format!("{}/{} is {held:?}, not absent", key.0, key.1)))
    }
}

/// A text is what all its updates come to, in stamp order; however many of them the node has merged since.
fn compare_text(state: &State, key: &Key, content: &Content) -> Result<(), Violation> {
    let Content::Text(_, updates) = content else { return Ok(()) };
    let doc = DocKey::new(&*key.0, &*key.1);
    let ours = Prose::of(updates.iter().map(|update| &**update)).and_then(|prose| prose.plain().ok());
    let theirs =
        state.source(&key.0, &key.1).and_then(|source| source.prose(&doc)).and_then(|prose| prose.plain().ok());
    if ours.is_none() || ours != theirs {
        return differs(format!("the text {}/{} is {theirs:?}, not {ours:?}", key.0, key.1));
    }
    Ok(())
}

/// What one command makes of a document.
fn outcome(
    op: &Op,
    command: &Command<'_>,
    index: usize,
    before: Option<Content>,
) -> Result<Option<Content>, Rejection> {
    let before = match (command, before) {
        (Command::Text(_, edit), None) if edit.creates => {
            return Ok(Some(Content::Text(prose::marked(None, op), vec![edit.update.to_vec()])));
        }
        (Command::Text(_, edit), Some(Content::Text(mark, mut updates))) => {
            updates.push(edit.update.to_vec());
            return Ok(Some(Content::Text(prose::marked(Some(&mark), op), updates)));
        }
        (Command::Merge(..) | Command::Patch(..), Some(Content::Text(..))) | (Command::Text(..), _) => {
            return Err(Rejection::Command(index));
        }
        (_, Some(Content::Json(value))) => Some(value),
        (_, _) => None,
    };
    Ok(json_outcome(command, index, before)?.map(Content::Json))
}

fn json_outcome(command: &Command<'_>, index: usize, before: Option<Value>) -> Result<Option<Value>, Rejection> {
    let tree = |text: &str| serde_json::from_str::<Value>(text).expect("checked before it became an op");
    match command {
        Command::Put(_, text) => Ok(Some(tree(text))),
        Command::Delete(_)
        | Command::Add(..)
        | Command::Retire
        | Command::Evict(_)
        | Command::Fence(..)
        | Command::Removed(_)
        | Command::Key(..)
        | Command::Text(..) => Ok(None),
        Command::Merge(_, text) => {
            let merged = merged(before, tree(text));
            if json::size(&merged) > DOCUMENT_BYTES_MAX { Err(Rejection::TooLarge(index)) } else { Ok(Some(merged)) }
        }
        Command::Patch(_, text) => {
            let mut value = before.ok_or(Rejection::Command(index))?;
            let patch = Patch::parse(text).expect("checked before it became an op");
            patch.apply(&mut value).map_err(|_| Rejection::Command(index))?;
            Ok(Some(value))
        }
    }
}

/// RFC 7396, section 2, word for word.
fn merged(target: Option<Value>, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut target = match target {
        Some(Value::Object(target)) => target,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            let merged = merged(target.get(&name).cloned(), value);
            target.insert(name, merged);
        }
    }
    Value::Object(target)
}

fn rejection(reason: &Reason) -> Rejection {
    match reason {
        Reason::Guard { index, current } => Rejection::Guard(*index, *current),
        Reason::Command { index, .. } => Rejection::Command(*index),
        Reason::TooLarge { index } => Rejection::TooLarge(*index),
        Reason::TooCostly => Rejection::TooCostly,
        Reason::Repeated(first) => Rejection::Repeated(*first),
    }
}

fn version(content: &Content) -> Version {
    Version::of(&written(content))
}

fn written(content: &Content) -> String {
    match content {
        Content::Json(value) => value.to_string(),
        Content::Text(mark, _) => mark.as_str().to_string(),
    }
}

fn key_of(doc: &DocKey<'_>) -> Key {
    (doc.collection.to_string(), doc.id.to_string())
}

fn differs(detail: String) -> Result<(), Violation> {
    Err(Violation { invariant: "the state equals the naive model's", detail })
}

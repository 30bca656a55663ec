//! Judging and carrying out one op on the values of the documents it touches.
//!
//! The workbench holds values only while a replay runs: a text is parsed when a merge or a patch first needs the tree
//! and written again once, at the end. Everything here is deterministic: a bound that decides a verdict is a constant
//! of the protocol, never of a node's configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use serde_json::Value;

use super::{
    Text,
    claim::{Claim, KEYS},
    cost::{COST_MAX, Cost, TooCostly},
    json::{self, DOCUMENT_BYTES_MAX, Size},
    patch::{self, Patch, Why},
    prose::{self, is_prose},
};
use crate::{
    op::{Body, Command, DocKey, Guard, Op, OpId, Stamp},
    plant::{Rule, left_out},
    version::Version,
};

/// An op of so many units is costly: it takes about a millisecond to carry it out again.
const COSTLY_UNITS: usize = 64 << 10;

/// Why an op has no effect at its place. It stays in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The guard with this index does not hold.
    Guard {
        /// Index into the op's guards.
        index: usize,
        /// The version that the document has there; none if it is absent.
        current: Option<Version>,
    },
    /// A command failed: a patch's `test`, a missing path, an absent document.
    Command {
        /// Index into the op's commands.
        index: usize,
        /// What failed, for people.
        why: String,
    },
    /// The document would pass [`DOCUMENT_BYTES_MAX`].
    TooLarge {
        /// Index into the op's commands.
        index: usize,
    },
    /// The op would cost more than [`COST_MAX`] on the documents at its place.
    TooCostly,
    /// An earlier op carries the same idempotency key.
    Repeated(OpId),
}

impl From<TooCostly> for Reason {
    fn from(_: TooCostly) -> Reason {
        Reason::TooCostly
    }
}

/// The content of a document while ops are carried out on it.
#[derive(Clone, Debug)]
enum Content {
    Absent,
    Text(Text),
    /// With its exact size.
    Tree(Value, Size),
}

/// One op while it is carried out.
#[derive(Default)]
struct Run {
    cost: Cost,
    /// The documents that the op has paid for to be trees.
    paid: BTreeSet<usize>,
    /// What the documents were before the op, as far as it has changed them and can still fail.
    undo: BTreeMap<usize, Content>,
}

/// The documents at hand, in the order of their keys.
pub(super) struct Workbench<'k> {
    keys: Vec<DocKey<'k>>,
    contents: Vec<Content>,
    /// From which stamp on each document is replayed; empty if all are from the same.
    from: Vec<Stamp>,
    trees: Trees,
    /// The ops judged here that cost much, with their units.
    costly: Vec<(Stamp, usize)>,
}

/// The documents that may be trees, and how much these are: at most so many units.
#[derive(Default)]
struct Trees {
    at: BTreeSet<usize>,
    units: usize,
}

impl<'k> Workbench<'k> {
    /// Lays out documents; `documents` must come in the order of their keys.
    pub(super) fn new(documents: impl Iterator<Item = (DocKey<'k>, Option<Text>)>) -> Workbench<'k> {
        let (keys, contents) = documents.map(|(key, text)| (key, text.map_or(Content::Absent, Content::Text))).unzip();
        Workbench { keys, contents, from: Vec::new(), trees: Trees::default(), costly: Vec::new() }
    }

    /// The documents do not start alike: an op leaves those alone that start behind it, for they hold it already.
    pub(super) fn starting(self, from: impl Iterator<Item = Stamp>) -> Workbench<'k> {
        Workbench { from: from.collect(), ..self }
    }

    /// Where `doc` lies, if it is at hand.
    pub(super) fn find(&self, doc: &DocKey<'_>) -> Option<usize> {
        if let [only] = &self.keys[..] {
            return (only == doc).then_some(0);
        }
        self.keys.binary_search_by(|key| key.cmp(doc)).ok()
    }

    /// What a document has become.
    pub(super) fn text(&mut self, index: usize) -> Option<Text> {
        let content = &mut self.contents[index];
        if let Content::Tree(value, size) = content {
            *content = Content::Text(Text::own(json::write_sized(value, *size)));
        }
        match content {
            Content::Text(text) => Some(text.clone()),
            Content::Absent | Content::Tree(..) => None,
        }
    }

    /// The ops judged here that cost much, with their units.
    pub(super) fn into_costly(self) -> Vec<(Stamp, usize)> {
        self.costly
    }

    /// Judges `op` on the documents at hand and, if it holds, carries it out on them. Documents that are not at hand
    /// are passed over: the caller lays out all that can decide the verdict.
    pub(super) fn judge(&mut self, op: &Op, body: &Body<'_>) -> Result<(), Reason> {
        let key = body.key_text().and_then(|key| self.find(&DocKey::new(KEYS, key)));
        if let Some(held) = key.and_then(|index| self.text(index)).map(|text| Claim::read(&text))
            && !held.has_ended(op.time())
            && !left_out(Rule::KeyOnce)
        {
            return Err(Reason::Repeated(held.op));
        }
        let mut run = Run::default();
        let verdict = self.check_all(&body.guards, &mut run).and_then(|()| self.carry_out(op, body, &mut run));
        if run.cost.units() >= COSTLY_UNITS {
            self.costly.push((op.stamp(), run.cost.units()));
        }
        if let Some(index) = key {
            self.contents[index] = Content::Text(Claim::of(op, body, verdict.is_ok()).text());
        }
        verdict
    }

    fn check_all(&mut self, guards: &[Guard<'_>], run: &mut Run) -> Result<(), Reason> {
        guards.iter().enumerate().try_for_each(|(index, guard)| self.check(index, guard, run))
    }

    /// Carries out the last command of an op that cannot fail on the only document at hand.
    pub(super) fn overwrite(&mut self, op: &Op, last: &Command<'_>) {
        self.command(0, op, 0, last, &mut Run::default()).expect("neither a put nor a deletion can fail");
    }

    /// Carries out an op whose verdict, *applied*, is known, on those of its documents that are at hand. Returns the units that it
    /// cost.
    pub(super) fn carry_out_again(&mut self, op: &Op, body: &Body<'_>) -> usize {
        let mut run = Run::default();
        let carried = self.carry_out(op, body, &mut run);
        debug_assert_eq!(carried, Ok(()), "what was applied once at this place is applied again");
        run.cost.units()
    }

    fn carry_out(&mut self, op: &Op, body: &Body<'_>, run: &mut Run) -> Result<(), Reason> {
        self.limit_trees();
        let done = self.carry_out_all(op, body, run);
        self.trees.units += run.cost.units();
        if done.is_err() && !left_out(Rule::Atomicity) {
            mem::take(&mut run.undo).into_iter().for_each(|(at, content)| self.contents[at] = content);
        }
        done
    }

    fn carry_out_all(&mut self, op: &Op, body: &Body<'_>, run: &mut Run) -> Result<(), Reason> {
        for (index, command) in body.commands.iter().enumerate() {
            let Some(at) = command.doc().and_then(|doc| self.find(doc)) else { continue };
            if self.from.get(at).is_some_and(|from| op.stamp() < *from) {
                continue;
            }
            self.prepare(at, body, command, run)?;
            self.command(at, op, index, command, run)?;
        }
        Ok(())
    }

    /// Charges a document that the command needs as a tree, and keeps what it was before the op where the op can fail
    /// halfway: once for each document, since trees are costly to copy.
    fn prepare(&mut self, at: usize, body: &Body<'_>, command: &Command<'_>, run: &mut Run) -> Result<(), Reason> {
        let needs_tree = matches!(command, Command::Merge(..) | Command::Patch(..)) && !self.contents[at].is_prose();
        if needs_tree && run.paid.insert(at) {
            run.cost.charge_value(self.contents[at].size())?;
            self.trees.at.insert(at);
        }
        if !needs_tree {
            // What it leaves is a text, which the next merge or patch must parse.
            run.paid.remove(&at);
        }
        if self.can_fail_halfway(at, body, command) && !run.undo.contains_key(&at) {
            let before = match command {
                Command::Put(..) | Command::Delete(_) => mem::replace(&mut self.contents[at], Content::Absent),
                // Of a tree nothing is changed.
                Command::Text(..) if matches!(self.contents[at], Content::Tree(..)) => return Ok(()),
                _ => self.contents[at].clone(),
            };
            run.undo.insert(at, before);
        }
        Ok(())
    }

    /// Writes trees that ops before have left where they have become many: a tree can take a hundred times the memory of
    /// its text.
    fn limit_trees(&mut self) {
        if self.trees.units <= COST_MAX {
            return;
        }
        let units = |at: &usize| match &self.contents[*at] {
            Content::Tree(_, size) => size.units(),
            Content::Absent | Content::Text(_) => 0,
        };
        self.trees.units = self.trees.at.iter().map(units).sum();
        if self.trees.units > COST_MAX {
            for at in mem::take(&mut self.trees).at {
                self.text(at);
            }
        }
    }

    /// Whether the content must be kept aside.
    fn can_fail_halfway(&self, at: usize, body: &Body<'_>, command: &Command<'_>) -> bool {
        match command {
            Command::Patch(..) => true,
            Command::Merge(_, merge) if self.contents[at].bytes() + merge.len() > DOCUMENT_BYTES_MAX => true,
            _ => body.commands.len() > 1 && !body.is_unconditional(),
        }
    }

    fn check(&mut self, index: usize, guard: &Guard<'_>, run: &mut Run) -> Result<(), Reason> {
        let Some(at) = self.find(guard.doc()) else { return Ok(()) };
        let exists = !matches!(self.contents[at], Content::Absent);
        if matches!(guard, Guard::Version(..)) {
            run.cost.charge_hash(self.contents[at].bytes())?;
        }
        let current = |bench: &mut Self| bench.text(at).map(|text| Version::of(text.as_str()));
        let failed = match guard {
            Guard::Exists(_) if exists => None,
            Guard::Absent(_) if !exists => None,
            Guard::Exists(_) | Guard::Absent(_) => Some(current(self)),
            Guard::Version(_, version) => Some(current(self)).filter(|current| current.as_ref() != Some(version)),
        };
        failed.map_or(Ok(()), |current| Err(Reason::Guard { index, current }))
    }

    /// Carries out one command; on an error the content is the caller's to restore.
    fn command(
        &mut self,
        at: usize,
        op: &Op,
        index: usize,
        command: &Command<'_>,
        run: &mut Run,
    ) -> Result<(), Reason> {
        let content = &mut self.contents[at];
        match command {
            Command::Put(_, value) => *content = Content::Text(Text::in_op(op, value)),
            Command::Delete(_) => *content = Content::Absent,
            Command::Merge(..) | Command::Patch(..) if content.is_prose() => {
                let why = "the document is a text: edit it with a delta, or delete it first";
                return Err(Reason::Command { index, why: why.into() });
            }
            Command::Text(_, edit) => match content {
                Content::Absent if !edit.creates && !left_out(Rule::EditHeld) => {
                    let why = "the text does not exist: it was deleted";
                    return Err(Reason::Command { index, why: why.into() });
                }
                Content::Absent => *content = Content::Text(prose::marked(None, op)),
                Content::Text(text) if is_prose(text) => *text = prose::marked(Some(text), op),
                Content::Text(_) | Content::Tree(..) => {
                    let why = "the document is JSON, not a text: delete it first, or choose another id";
                    return Err(Reason::Command { index, why: why.into() });
                }
            },
            Command::Merge(_, merge) => {
                run.cost.charge_value(Size::of_text(merge))?;
                let (value, size) = content.tree();
                patch::merge_sized(value, size, tree_of(merge));
                if size.bytes > DOCUMENT_BYTES_MAX {
                    return Err(Reason::TooLarge { index });
                }
            }
            Command::Patch(_, steps) => {
                if matches!(content, Content::Absent) {
                    return Err(Reason::Command { index, why: "the document does not exist".into() });
                }
                run.cost.charge_value(Size::of_text(steps))?;
                let steps = Patch::parse(steps).expect("checked when the op was taken in");
                let (value, size) = content.tree();
                steps.apply_within(value, size, &mut run.cost).map_err(|failure| match failure.why {
                    Why::TooLarge => Reason::TooLarge { index },
                    Why::TooCostly => Reason::TooCostly,
                    _ => Reason::Command { index, why: failure.to_string() },
                })?;
            }
            Command::Add(..)
            | Command::Retire
            | Command::Evict(_)
            | Command::Fence(..)
            | Command::Removed(_)
            | Command::Key(..) => {}
        }
        Ok(())
    }
}

impl Content {
    fn is_prose(&self) -> bool {
        matches!(self, Content::Text(text) if is_prose(text))
    }

    /// The size of the tree that [`Content::tree`] makes of it.
    fn size(&self) -> Size {
        match self {
            Content::Absent => Size::of(&Value::Null),
            Content::Text(text) => Size::of_text(text.as_str()),
            Content::Tree(_, size) => *size,
        }
    }

    /// The length of its text.
    fn bytes(&self) -> usize {
        match self {
            Content::Absent => 0,
            Content::Text(text) => text.len(),
            Content::Tree(_, size) => size.bytes,
        }
    }

    /// The content as a tree, with its size. An absent document becomes `null`, which a merge patch treats as an empty
    /// object.
    fn tree(&mut self) -> (&mut Value, &mut Size) {
        if !matches!(self, Content::Tree(..)) {
            let size = self.size();
            let value = if let Content::Text(text) = self { tree_of(text.as_str()) } else { Value::Null };
            *self = Content::Tree(value, size);
        }
        let Content::Tree(value, size) = self else { unreachable!("made a tree above") };
        (value, size)
    }
}

fn tree_of(canonical: &str) -> Value {
    // Not serde_json's own parser: with `raw_value` it gives one of the keys that a user may write a meaning of its own.
    json::read_canonical(canonical).expect("canonical text, checked when its op was taken in")
}

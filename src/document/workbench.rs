//! Judging and carrying out one op on the values of the documents it touches.
//!
//! The workbench holds values only while a replay runs: a text is parsed when a merge or a patch first needs the tree
//! and written again once, at the end. Everything here is deterministic: a bound that decides a verdict is a constant
//! of the protocol, never of a node's configuration.

use serde_json::Value;

use super::{
    Text,
    claim::{Claim, KEYS},
    json::{self, DOCUMENT_BYTES_MAX},
    patch::{self, Patch, Why},
    prose::{self, is_prose},
};
use crate::{
    op::{Body, Command, DocKey, Guard, Op, OpId, Stamp},
    plant::{Rule, left_out},
    version::Version,
};

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
    /// An earlier op carries the same idempotency key.
    Repeated(OpId),
}

/// The content of a document while ops are carried out on it.
#[derive(Clone, Debug)]
enum Content {
    Absent,
    Text(Text),
    /// With a bound on the length of its text that is cheap to keep; exact only when it is asked for.
    Tree(Value, usize),
}

/// The documents at hand, in the order of their keys.
pub(super) struct Workbench<'k> {
    keys: Vec<DocKey<'k>>,
    contents: Vec<Content>,
    /// From which stamp on each document is replayed; empty if all are from the same.
    from: Vec<Stamp>,
}

impl<'k> Workbench<'k> {
    /// Lays out documents; `documents` must come in the order of their keys.
    pub(super) fn new(documents: impl Iterator<Item = (DocKey<'k>, Option<Text>)>) -> Workbench<'k> {
        let (keys, contents) = documents.map(|(key, text)| (key, text.map_or(Content::Absent, Content::Text))).unzip();
        Workbench { keys, contents, from: Vec::new() }
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
        if let Content::Tree(value, _) = content {
            *content = Content::Text(Text::own(value.to_string()));
        }
        match content {
            Content::Text(text) => Some(text.clone()),
            Content::Absent | Content::Tree(..) => None,
        }
    }

    /// Judges `op` on the documents at hand and, if it holds, carries it out on them. Documents that are not at hand
    /// are passed over: the caller lays out all that can decide the verdict.
    pub(super) fn judge(&mut self, op: &Op, body: &Body<'_>) -> Result<(), Reason> {
        let key = body.key.as_ref().and_then(|key| self.find(&DocKey::new(KEYS, key.as_ref())));
        if let Some(held) = key.and_then(|index| self.text(index)).map(|text| Claim::read(&text))
            && !held.has_ended(op.time())
            && !left_out(Rule::KeyOnce)
        {
            return Err(Reason::Repeated(held.op));
        }
        let verdict = self.check_all(&body.guards).and_then(|()| self.carry_out(op, body));
        if let Some(index) = key {
            self.contents[index] = Content::Text(Claim::of(op, body, verdict.is_ok()).text());
        }
        verdict
    }

    fn check_all(&mut self, guards: &[Guard<'_>]) -> Result<(), Reason> {
        let mut guards = guards.iter().enumerate();
        guards.try_for_each(|(index, guard)| self.check(guard).map_err(|current| Reason::Guard { index, current }))
    }

    /// Carries out the last command of an op that cannot fail on the only document at hand.
    pub(super) fn overwrite(&mut self, op: &Op, last: &Command<'_>) {
        self.command(0, op, 0, last).expect("neither a put nor a deletion can fail");
    }

    /// Carries out an op whose verdict, *applied*, is known, on those of its documents that are at hand.
    pub(super) fn carry_out_again(&mut self, op: &Op, body: &Body<'_>) {
        let carried = self.carry_out(op, body);
        debug_assert_eq!(carried, Ok(()), "what was applied once at this place is applied again");
    }

    fn carry_out(&mut self, op: &Op, body: &Body<'_>) -> Result<(), Reason> {
        let mut undo = Vec::new();
        for (index, command) in body.commands.iter().enumerate() {
            let Some(at) = command.doc().and_then(|doc| self.find(doc)) else { continue };
            if self.from.get(at).is_some_and(|from| op.stamp() < *from) {
                continue;
            }
            if self.can_fail_halfway(at, body, command) {
                undo.push((at, self.contents[at].clone()));
            }
            if let Err(reason) = self.command(at, op, index, command) {
                if left_out(Rule::Atomicity) {
                    undo.drain(..undo.len().saturating_sub(1));
                }
                for (at, content) in undo.into_iter().rev() {
                    self.contents[at] = content;
                }
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Whether the content must be kept aside: trees are costly to copy, and most ops cannot fail.
    fn can_fail_halfway(&self, at: usize, body: &Body<'_>, command: &Command<'_>) -> bool {
        let near_bound = |merge: &str| match &self.contents[at] {
            Content::Absent => false,
            Content::Text(text) => text.len() + merge.len() > DOCUMENT_BYTES_MAX,
            Content::Tree(_, bound) => bound + merge.len() > DOCUMENT_BYTES_MAX,
        };
        match command {
            Command::Patch(..) => true,
            Command::Merge(_, merge) if near_bound(merge) => true,
            _ => body.commands.len() > 1 && !body.is_unconditional(),
        }
    }

    fn check(&mut self, guard: &Guard<'_>) -> Result<(), Option<Version>> {
        let Some(at) = self.find(guard.doc()) else { return Ok(()) };
        let holds = match guard {
            Guard::Exists(_) => !matches!(self.contents[at], Content::Absent),
            Guard::Absent(_) => matches!(self.contents[at], Content::Absent),
            Guard::Version(_, version) => self.text(at).is_some_and(|text| Version::of(text.as_str()) == *version),
        };
        if holds { Ok(()) } else { Err(self.text(at).map(|text| Version::of(text.as_str()))) }
    }

    /// Carries out one command; on an error the content is the caller's to restore.
    fn command(&mut self, at: usize, op: &Op, index: usize, command: &Command<'_>) -> Result<(), Reason> {
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
                let (value, bound) = content.tree();
                patch::merge(value, tree_of(merge));
                *bound += merge.len();
                if *bound > DOCUMENT_BYTES_MAX {
                    *bound = value.to_string().len();
                }
                if *bound > DOCUMENT_BYTES_MAX {
                    return Err(Reason::TooLarge { index });
                }
            }
            Command::Patch(_, steps) => {
                if matches!(content, Content::Absent) {
                    return Err(Reason::Command { index, why: "the document does not exist".into() });
                }
                let steps = Patch::parse(steps).expect("checked when the op was taken in");
                let (value, bound) = content.tree();
                steps.apply(value).map_err(|failure| match failure.why {
                    Why::TooLarge => Reason::TooLarge { index },
                    _ => Reason::Command { index, why: failure.to_string() },
                })?;
                // The patch kept the bound itself; how far below it ended is found out when a merge asks.
                *bound = DOCUMENT_BYTES_MAX;
            }
            Command::Add(..) | Command::Retire | Command::Evict(_) | Command::Fence(..) | Command::Removed(_) => {}
        }
        Ok(())
    }
}

impl Content {
    fn is_prose(&self) -> bool {
        matches!(self, Content::Text(text) if is_prose(text))
    }

    /// The content as a tree, with the bound on its text. An absent document becomes `null`, which a merge patch
    /// treats as an empty object.
    fn tree(&mut self) -> (&mut Value, &mut usize) {
        match self {
            Content::Absent => *self = Content::Tree(Value::Null, 0),
            Content::Text(text) => *self = Content::Tree(tree_of(text.as_str()), text.len()),
            Content::Tree(..) => {}
        }
        let Content::Tree(value, bound) = self else { unreachable!("made a tree above") };
        (value, bound)
    }
}

fn tree_of(canonical: &str) -> Value {
    // Not serde_json's own parser: with `raw_value` it gives one of the keys that a user may write a meaning of its own.
    json::parse(canonical.as_bytes()).expect("canonical text, checked when its op was taken in")
}

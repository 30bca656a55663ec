//! The text of a document: its canonical JSON, shared, not copied.
//!
//! A document that was last `put` is a slice of that op's bytes, which the log holds anyway; one that was merged or
//! patched owns its text. Texts, not trees: a 100-byte document costs 24 bytes here and nothing on the heap.

use std::sync::Arc;

use super::prose::is_prose;
use crate::op::Op;

/// A text of which an op has this share more stays in it: copying a large text takes longer than it saves.
const OP_SHARE: usize = 16;
/// A text is copied out of an op that is longer than this and so many times the text.
const DETACH_FROM: usize = 1 << 10;
const DETACH_SHARE: usize = 4;

/// A document's canonical JSON. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Text(Repr);

#[derive(Clone, Debug)]
enum Repr {
    InOp { op: Op, start: u32, len: u32 },
    Own(Arc<str>),
}

impl Text {
    /// A text of its own.
    pub fn own(text: impl Into<Arc<str>>) -> Text {
        Text(Repr::Own(text.into()))
    }

    /// The text `value`, which is part of `op`'s body; copied only if it is not.
    pub fn in_op(op: &Op, value: &str) -> Text {
        match op.range_of(value) {
            Some(range) => Text(Repr::InOp { op: op.clone(), start: range.start as u32, len: range.len() as u32 }),
            None => Text::own(value),
        }
    }

    /// The same text, to be kept without its op: copied out of it, unless there is hardly more to the op.
    pub(super) fn into_own(self) -> Text {
        match &self.0 {
            Repr::InOp { op, len, .. } if OP_SHARE * (op.bytes().len() - *len as usize) > op.bytes().len() => {
                Text::own(self.as_str())
            }
            _ => self,
        }
    }

    /// The same text, copied out of its op if it would keep much more than itself in memory.
    pub(super) fn detached(self) -> Text {
        match &self.0 {
            Repr::InOp { op, len, .. } if op.bytes().len() > DETACH_FROM + DETACH_SHARE * *len as usize => {
                Text::own(self.as_str())
            }
            _ => self,
        }
    }

    /// The bytes that it keeps in memory.
    pub(super) fn kept_bytes(&self) -> usize {
        match &self.0 {
            Repr::InOp { op, .. } => op.bytes().len(),
            Repr::Own(text) => text.len(),
        }
    }

    /// The JSON, or the mark of a text document: what is equal where the documents are.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::InOp { op, start, len } => {
                let (start, len) = (*start as usize, *len as usize);
                str::from_utf8(&op.bytes()[start..start + len]).expect("a slice that was a str when it was taken")
            }
            Repr::Own(text) => text,
        }
    }

    /// The JSON of a document; of a text document, which has none, `null`.
    pub fn json(&self) -> &str {
        if is_prose(self) { "null" } else { self.as_str() }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::InOp { len, .. } => *len as usize,
            Repr::Own(text) => text.len(),
        }
    }

    /// Never, for JSON; clippy wants it beside `len`.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

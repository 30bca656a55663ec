//! The pieces of a text in their order: strings, embeds, and the marks between them.
//!
//! The library gives a text with the attributes of each piece, and copies them for each: a text of thousands of attributes
//! over thousands of pieces takes gigabytes. Here each mark comes once, so what a delta takes is known before it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use yrs::{Any, types::Attrs};

use super::{
    delta::Step,
    prose::{Unfit, value_of},
    update::Inline,
};

/// Longest delta of a text, in bytes of JSON.
pub const DELTA_BYTES_MAX: usize = 8 << 20;
/// Most work of an edit by a delta: the structs of the text that its steps walk over. About half a second.
pub const EDIT_WORK_MAX: usize = 64 << 20;

/// A mark is walked over about as fast as this many other structs.
const MARK_WORK: usize = 8;
/// A mark is made about as fast as this many structs are walked over.
const MADE_WORK: usize = 64;
/// Bytes of a step of a delta beside its content and its attributes.
const STEP_BYTES: usize = 32;
/// Stands for what is no text and no embed: a shared type within the text.
const OBJECT: char = '\u{fffc}';

/// A piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Characters.
    Text(Arc<str>),
    /// An embed or a mark: its index.
    Inline(usize),
    /// A shared type.
    Object,
}

/// The pieces of a text.
#[derive(Debug)]
pub(super) struct Pieces {
    pub(super) order: Vec<Piece>,
    pub(super) inlines: Vec<Inline>,
    /// How many structs the text is made of, deleted ones too.
    pub(super) structs: usize,
}

impl Pieces {
    /// The text as a Quill delta: `[{"insert": …, "attributes"?: {…}}, …]`.
    pub(super) fn delta(&self) -> Result<String, Unfit> {
        let (mut written, mut marks) = (String::from("["), Marks::default());
        for piece in &self.order {
            let insert = match piece {
                Piece::Text(text) => json(&**text),
                Piece::Object => json(&OBJECT),
                Piece::Inline(at) => match self.inlines.get(*at).ok_or(Unfit::Broken)? {
                    Inline::Mark(name, value) => {
                        marks.set(name, &any(value)?);
                        continue;
                    }
                    Inline::Embed(value) => value_of(&any(value)?).to_string(),
                },
            };
            if written.len() + insert.len() + marks.bytes + STEP_BYTES > DELTA_BYTES_MAX {
                return Err(Unfit::LongDelta);
            }
            if written.len() > 1 {
                written.push(',');
            }
            written.push('{');
            marks.write(&mut written);
            written.extend(["\"insert\":", &insert, "}"]);
        }
        written.push(']');
        Ok(written)
    }

    /// The text in UTF-16 units, an embed being one of them.
    pub(super) fn units(&self) -> Vec<u16> {
        let mut units = Vec::new();
        for piece in &self.order {
            match piece {
                Piece::Text(text) => units.extend(text.encode_utf16()),
                Piece::Inline(at) if matches!(self.inlines.get(*at), Some(Inline::Mark(..))) => {}
                Piece::Inline(_) | Piece::Object => units.push(OBJECT as u16),
            }
        }
        units
    }

    /// Refuses a delta whose steps take more than [`EDIT_WORK_MAX`]. Each step that changes something walks from the begin of
    /// the text; text that is inserted with attributes makes a mark for each attribute that is there.
    pub(super) fn check_work(&self, delta: &[Step]) -> Result<(), Unfit> {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        let (mut walks, mut marks, mut marked) = (0, 0, 0);
        for step in delta {
            let attributes = match step {
                Step::Retain(_, None) => continue,
                Step::Retain(_, attributes) => attributes,
                Step::Insert(_, attributes) => {
                    marked += usize::from(attributes.is_some());
                    attributes
                }
                Step::Delete(_) => &None,
            };
            walks += 1;
            marks += attributes.as_ref().map_or(0, Attrs::len);
            names.extend(attributes.iter().flat_map(Attrs::keys).map(|name| &**name));
        }
        let is_mark = |inline: &&Inline| matches!(inline, Inline::Mark(..));
        let held = self.inlines.iter().filter(is_mark).count();
        names.extend(self.inlines.iter().filter_map(|inline| match inline {
            Inline::Mark(name, _) => Some(&**name),
            Inline::Embed(_) => None,
        }));
        let made = 2 * (marks + marked * names.len());
        let structs = self.structs + 2 * walks + MARK_WORK * (held + made);
        let work = (walks * structs).saturating_add(MADE_WORK * made);
        if work > EDIT_WORK_MAX { Err(Unfit::TooCostly) } else { Ok(()) }
    }
}

/// The attributes at a place of the text.
#[derive(Default)]
struct Marks<'p> {
    /// By name, as members of an object.
    members: BTreeMap<&'p str, String>,
    bytes: usize,
}

impl<'p> Marks<'p> {
    fn set(&mut self, name: &'p str, value: &Any) {
        let before = match value {
            Any::Null => self.members.remove(name),
            value => {
                let member = format!("{}:{}", json(name), value_of(value));
                self.bytes += member.len() + 1;
                self.members.insert(name, member)
            }
        };
        self.bytes -= before.map_or(0, |member| member.len() + 1);
    }

    fn write(&self, written: &mut String) {
        if self.members.is_empty() {
            return;
        }
        written.push_str("\"attributes\":{");
        for (at, member) in self.members.values().enumerate() {
            if at > 0 {
                written.push(',');
            }
            written.push_str(member);
        }
        written.push_str("},");
    }
}

fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("strings serialise")
}

fn any(json: &str) -> Result<Any, Unfit> {
    Any::from_json(json).map_err(|_| Unfit::Broken)
}

//! Text documents: what a set of Yjs updates comes to.
//!
//! A text document is a Yjs document (Nicolaescu et al. 2016, "Near Real-Time Peer-to-Peer Shared Editing", YATA); each
//! `text` command carries an update of it. Updates commute, so in the fold a text document is no more than the set of those
//! that were applied: its [`mark`], a sum over their ops, takes the place of the canonical text, which no JSON can
//! look like. What they come to is worked out by those who read it, outside the fold, as a [`Prose`]: in stamp order, an
//! update whose foundations are gone (its text was deleted by a concurrent op) being left out.

use std::{borrow::Cow, fmt, mem, panic::AssertUnwindSafe, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use yrs::{
    Any, Doc, GetString, OffsetKind, Options, Out, ReadTxn, StateVector, Text as _, TextRef, Transact, Update,
    any::Number, block::ClientID, types::text::YChange, updates::decoder::Decode,
};

use super::{
    Text,
    chunks::{Chunk, Chunks, STEPS_MAX, joined, write},
    delta::{Step, apply_delta, check_delta},
    incarnation::Incarnation,
    pieces::{Piece, Pieces},
    update::{Clocks, LaidOpen, Malformed, Shape},
};
use crate::op::{Command, DocKey, Op};

pub use super::pieces::DELTA_BYTES_MAX;

/// Longest state of a text document, in bytes of its Yjs encoding. Kept by the node where somebody writes; the fold does
/// not ask, so writes on several sides of a partition may pass it.
pub const TEXT_BYTES_MAX: usize = 2 << 20;
/// Most parts of a text document: structs and ranges of deletions of its Yjs encoding. Kept as [`TEXT_BYTES_MAX`] is.
/// The work of an edit and the memory of a text grow with them.
pub const TEXT_PARTS_MAX: usize = 1 << 16;
/// Most parts of a text that is worked out: members that keep no bound, or several sides of a partition, may pass the
/// one above.
const READ_PARTS_MAX: usize = 4 * TEXT_PARTS_MAX;
/// The root that is read as a document's text, if there is one of this name; else the only root there is.
pub const ROOT: &str = "text";
/// Updates that are read before they are put in, and parts that are put in with one transaction: what it tidies up at
/// its end takes some time for each.
const BATCH: usize = 64;
const TRANSACTION_PARTS: usize = 256;
/// The parts of a text are counted again after so many more, and once they are about twice as many.
const COUNT_EVERY: usize = 4_096;
/// Bytes or parts that a text that seems full grows by before it is counted again.
const RECOUNT: (usize, usize) = (16 << 10, 1_024);
/// So many updates are kept one by one at the horizon before they are merged.
const PARTS_MAX: usize = 64;
/// Most incarnations that are looked at in one update, or in one state vector: a text has one, or one for each node that began it.
const INCARNATIONS_MAX: usize = 64;
/// What begins the mark of a text document: no JSON does.
const MARK: char = '\u{1}';
/// Its length in bytes.
const MARK_BYTES: usize = 33;

/// Whether what a document is in the fold is the mark of a text document.
pub fn is_prose(text: &Text) -> bool {
    text.as_str().starts_with(MARK)
}

/// The mark of a text document after one more update.
pub fn marked(before: Option<&Text>, op: &Op) -> Text {
    Text::own(mark(before.map_or(0, sum_of).wrapping_add(weight(op))))
}

/// What stands for a document of a snapshot in the digest.
pub(super) fn mark_of(text: &str) -> &str {
    if text.starts_with(MARK) { text.get(..MARK_BYTES).unwrap_or(text) } else { text }
}

fn mark(sum: u128) -> String {
    format!("{MARK}{sum:032x}")
}

fn sum_of(text: &Text) -> u128 {
    let digits = text.as_str().get(1..33).unwrap_or_default();
    u128::from_str_radix(digits, 16).unwrap_or(0)
}

fn weight(op: &Op) -> u128 {
    let mut weight = [0; 16];
    weight.copy_from_slice(&blake3::hash(&op.bytes()[..32]).as_bytes()[..16]);
    u128::from_le_bytes(weight)
}

/// Whether `after` is `before` with the updates of `ops`, and nothing else.
pub(super) fn is_grown(before: Option<&Text>, after: &Text, ops: &[Op]) -> bool {
    let sum = ops.iter().map(weight).fold(before.map_or(0, sum_of), u128::wrapping_add);
    before.is_none_or(is_prose) && is_prose(after) && sum_of(after) == sum
}

/// The updates of an op for a document, with the incarnation that it begins.
pub fn updates_of<'o>(op: &'o Op, doc: &DocKey<'_>) -> Vec<Cow<'o, [u8]>> {
    let (mut updates, body) = (Vec::new(), op.body());
    let begun = Incarnation::begun(op, &body, doc);
    for command in body.commands.into_iter().filter(|command| command.doc() == Some(doc)) {
        match command {
            Command::Text(_, edit) => updates.push(edit.update),
            // What came before is gone with this.
            _ => updates.clear(),
        }
    }
    if !updates.is_empty() {
        updates.extend(begun.map(|begun| Cow::Owned(begun.update())));
    }
    updates
}

/// The number of parts of updates; of what is no update, none.
pub fn parts_of(updates: &[impl AsRef<[u8]>]) -> usize {
    updates.iter().map(|update| Shape::of(update.as_ref()).map_or(0, |shape| shape.parts())).sum()
}

/// The updates that a text document consists of at the horizon. A clone shares their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Updates {
    parts: Vec<Arc<[u8]>>,
    bytes: usize,
    /// How many bytes they had when they were merged last.
    merged: usize,
}

impl Updates {
    /// Each of them, in stamp order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| &**part)
    }

    /// Adds one behind the others.
    pub(super) fn push(&mut self, update: &[u8]) {
        self.parts.push(update.into());
        self.bytes += update.len();
    }

    /// Whether they are to be merged: a text that was edited for long costs little more than what it is.
    pub(super) fn want_merging(&self) -> bool {
        self.parts.len() > PARTS_MAX && self.bytes > 2 * self.merged
    }

    /// One update of all of them. It takes long, so it is made outside the task that owns the state.
    pub fn merged(&self, allowance: &mut dyn Allowance) -> Result<Vec<u8>, Unfit> {
        let mut prose = Prose::default();
        prose.absorb(self.iter(), allowance)?;
        prose.encode(&[])
    }

    /// Puts what some of them were merged to in their place, if they still come first; with nothing, they stay as they
    /// are until there are twice as many bytes.
    pub(super) fn replace(&mut self, some: &Updates, merged: Option<Vec<u8>>) {
        let same = |(one, other): (&Arc<[u8]>, &Arc<[u8]>)| Arc::ptr_eq(one, other);
        let come_first = self.parts.len() >= some.parts.len() && self.parts.iter().zip(&some.parts).all(same);
        let Some(merged) = merged.filter(|_| come_first) else {
            self.merged = self.bytes;
            return;
        };
        self.bytes = self.bytes - some.bytes + merged.len();
        self.merged = merged.len();
        self.parts.splice(..some.parts.len(), [merged.into()]);
    }

    /// The document's part of a snapshot: its mark, and these.
    pub(super) fn write(&self, mark: &Text) -> String {
        let mut bytes = Vec::with_capacity(self.bytes + 8 * self.parts.len());
        for part in &self.parts {
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        format!("{}{}", mark.as_str(), BASE64_STANDARD.encode(bytes))
    }

    /// Takes a snapshot's part of a text document apart: its mark, and the updates.
    pub(super) fn read(text: &str) -> Option<(Text, Updates)> {
        let (mark, rest) = text.strip_prefix(MARK).and_then(|rest| rest.split_at_checked(32))?;
        let sum = u128::from_str_radix(mark, 16).ok()?;
        let bytes = BASE64_STANDARD.decode(rest).ok()?;
        let (mut rest, mut updates) = (&bytes[..], Updates::default());
        while !rest.is_empty() {
            let (length, behind) = rest.split_first_chunk()?;
            let (part, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            Shape::of(part).ok()?;
            updates.bytes += part.len();
            updates.parts.push(part.into());
            rest = behind;
        }
        // One that was written before it was merged is merged soon.
        updates.merged = if updates.parts.len() > PARTS_MAX { 0 } else { updates.bytes };
        Some((Text::own(self::mark(sum)), updates))
    }
}

/// What a text document is made of: what its state at the horizon is, and the ops since.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its mark in the fold.
    pub mark: Text,
    /// The updates at the horizon.
    pub base: Updates,
    /// The ops since that have an effect, in stamp order.
    pub ops: Vec<Op>,
}

impl Source {
    /// What it comes to; none if that cannot be found out.
    pub fn prose(&self, doc: &DocKey<'_>) -> Option<Prose> {
        self.prose_within(doc, &mut Unbounded).ok()
    }

    /// The same, for so much work.
    pub fn prose_within(&self, doc: &DocKey<'_>, allowance: &mut dyn Allowance) -> Result<Prose, Unfit> {
        let mut prose = Prose::default();
        prose.absorb(self.base.iter(), allowance)?;
        let updates: Vec<_> = self.ops.iter().flat_map(|op| updates_of(op, doc)).collect();
        prose.absorb(updates.iter().map(|update| &**update), allowance)?;
        Ok(prose)
    }

    /// About how many bytes its updates have.
    pub fn bytes(&self) -> usize {
        self.base.bytes + self.ops.iter().map(|op| op.bytes().len()).sum::<usize>()
    }
}

impl Source {
    /// Its part of a snapshot.
    pub(super) fn written(mut self, doc: &DocKey<'_>) -> String {
        for op in &self.ops {
            updates_of(op, doc).iter().for_each(|update| self.base.push(update));
        }
        self.base.write(&self.mark)
    }
}

/// Says how much work may go into a text.
pub trait Allowance {
    /// Whether the work may go on. Asked between two steps of it, and at its end, with how many parts of updates were
    /// put in since it was asked last.
    fn allows(&mut self, parts: usize) -> bool;
}

/// Allows all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unbounded;

impl Allowance for Unbounded {
    fn allows(&mut self, _parts: usize) -> bool {
        true
    }
}

/// Why an update or a delta has no effect. Nothing was changed, unless it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is no update.
    Malformed(Malformed),
    /// It builds on what is not there.
    Early,
    /// It stems from these incarnations of the text, which are not this one.
    Stranger(Vec<Incarnation>),
    /// The text would pass [`TEXT_BYTES_MAX`].
    TooLarge,
    /// The text would pass [`TEXT_PARTS_MAX`].
    TooManyParts,
    /// The text as a delta would pass [`DELTA_BYTES_MAX`].
    LongDelta,
    /// An edit by a delta would take too long.
    TooCostly,
    /// The work took more than was allowed, and was broken off: what holds the text now is not to be used any more.
    Exhausted,
    /// A delta says something else than retain, insert and delete, or goes past the end, or into a character.
    Delta(String),
    /// The library gave up over it: what holds the text now is not to be used any more.
    Broken,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Malformed(why) => why.fmt(f),
            Unfit::Early => f.write_str("it builds on edits that this node does not hold: send them first"),
            Unfit::Stranger(_) => f.write_str("the text was deleted or replaced meanwhile: copy what you need, and open it anew"),
            Unfit::TooLarge => write!(f, "a text may have at most {TEXT_BYTES_MAX} bytes, with its history: split it"),
            Unfit::TooManyParts => write!(
                f,
                "a text may have at most {TEXT_PARTS_MAX} parts: split it, or GET, DELETE and PUT it to begin it again"
            ),
            Unfit::LongDelta => write!(
                f,
                "this text as a delta has more than {DELTA_BYTES_MAX} bytes, for it has many attributes: read it as text/plain, \
                 or with an editor over /v1/yjs"
            ),
            Unfit::TooCostly => f.write_str(
                "the delta takes too much work on this text: send it as several, of fewer steps or attributes",
            ),
            // A close code has room for no more than this.
            Unfit::Exhausted => f.write_str(
                "the edit takes too much work on this text: send smaller edits, or GET, DELETE and PUT it to begin it again",
            ),
            Unfit::Delta(why) => f.write_str(why),
            Unfit::Broken => f.write_str("this update cannot be put in"),
        }
    }
}

/// A text document, worked out.
pub struct Prose {
    doc: Doc,
    clocks: Clocks,
    /// About how many bytes its encoding has: what came in.
    bytes: usize,
    /// About how many parts its encoding has.
    parts: usize,
    /// Bytes and parts at the last count.
    counted: (usize, usize),
}

impl fmt::Debug for Prose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Prose { clocks, bytes, parts, .. } = self;
        f.debug_struct("Prose")
            .field("clocks", clocks)
            .field("bytes", bytes)
            .field("parts", parts)
            .finish_non_exhaustive()
    }
}

impl Default for Prose {
    fn default() -> Prose {
        // It writes nothing under this id but what `edit` gives another.
        Prose::of_client(ClientID::new(0))
    }
}

impl Prose {
    fn of_client(client: ClientID) -> Prose {
        let options = Options {
            offset_kind: OffsetKind::Utf16,
            // It walks over the whole text at the end of a transaction, which no allowance can end. Editors do it themselves.
            cleanup_formatting: false,
            ..Options::with_client_id(client)
        };
        Prose { doc: Doc::with_options(options), clocks: Clocks::new(), bytes: 0, parts: 0, counted: (0, 0) }
    }

    /// What these come to; none if the library gives up over one of them.
    pub fn of<'u>(updates: impl Iterator<Item = &'u [u8]>) -> Option<Prose> {
        let mut prose = Prose::default();
        prose.absorb(updates, &mut Unbounded).ok()?;
        Some(prose)
    }

    /// Puts updates in, in this order; those that do not fit are left out. After an error it is not to be used any more.
    pub fn absorb<'u>(
        &mut self,
        updates: impl Iterator<Item = &'u [u8]>,
        allowance: &mut dyn Allowance,
    ) -> Result<(), Unfit> {
        let (mut batch, mut parts) = (Vec::new(), 0);
        for (at, update) in updates.enumerate() {
            let mut admitted = self.admit(update);
            if admitted == Err(Unfit::Exhausted) {
                // It may have fewer parts than were counted, once all before it is in.
                self.put_in(mem::take(&mut batch), allowance, None)?;
                self.count()?;
                admitted = self.admit(update);
            }
            let chunks = match admitted {
                Err(Unfit::Exhausted) => return Err(Unfit::Exhausted),
                // It does not fit.
                chunks => chunks.unwrap_or_default(),
            };
            parts += chunks.iter().map(|chunk| chunk.parts).sum::<usize>();
            batch.extend(chunks);
            if parts >= TRANSACTION_PARTS || at % BATCH == BATCH - 1 {
                self.put_in(mem::take(&mut batch), allowance, None)?;
                parts = 0;
            }
        }
        self.put_in(batch, allowance, None)
    }

    /// Puts in what an editor sent, one update or several, and returns what is new in it as one: none if nothing is.
    pub fn take(&mut self, updates: &[Vec<u8>]) -> Result<Option<Vec<u8>>, Unfit> {
        self.take_within(updates, &mut Unbounded)
    }

    /// The same, for so much work.
    pub fn take_within(
        &mut self,
        updates: &[Vec<u8>],
        allowance: &mut dyn Allowance,
    ) -> Result<Option<Vec<u8>>, Unfit> {
        let before = (self.clocks.clone(), self.bytes, self.parts);
        // Nobody was told of what was put in of it.
        let put = self.put_all_in(updates, allowance);
        let made = put.inspect_err(|_| (self.clocks, self.bytes, self.parts) = before)?;
        if made.is_empty() {
            return Ok(None);
        }
        // What was put in must come out again: else nobody could read the text any more.
        let new = joined(&made).map_err(|_| Unfit::Broken)?;
        let shape = Shape::of(&new).map_err(|_| Unfit::Broken)?;
        Ok((!shape.is_empty()).then_some(new))
    }

    /// Puts updates in, if all of them fit, and returns what is new in each transaction.
    fn put_all_in(&mut self, updates: &[Vec<u8>], allowance: &mut dyn Allowance) -> Result<Vec<Vec<u8>>, Unfit> {
        let (mut chunks, mut made) = (Vec::new(), Vec::new());
        for update in updates {
            chunks.extend(self.admit(update)?);
        }
        self.put_in(chunks, allowance, Some(&mut made))?;
        Ok(made)
    }

    /// Reads an update that fits, as if it were in; it is to be put in before anything else is.
    fn admit(&mut self, update: &[u8]) -> Result<Vec<Chunk>, Unfit> {
        let mut chunks = Chunks::of(update).map_err(Unfit::Malformed)?;
        let shape = chunks.take_shape();
        if !shape.fits(&self.clocks) {
            return Err(Unfit::Early);
        }
        let chunks = chunks.cut(&self.clocks, self.parts + shape.parts()).map_err(Unfit::Malformed)?;
        let new: usize = chunks.iter().map(|chunk| chunk.parts).sum();
        if self.parts + new > READ_PARTS_MAX {
            return Err(Unfit::Exhausted);
        }
        let decodes = |chunk: &Chunk| guarded(|| Update::decode_v1(&chunk.update).is_ok()).unwrap_or_default();
        if !chunks.iter().all(decodes) {
            return Err(Unfit::Malformed(Malformed::Form));
        }
        shape.add_to(&mut self.clocks);
        self.bytes += update.len();
        self.parts += new;
        Ok(chunks)
    }

    /// Puts chunks in, some of them with each transaction, and gives what is new as an update of each.
    fn put_in(
        &mut self,
        chunks: Vec<Chunk>,
        allowance: &mut dyn Allowance,
        mut made: Option<&mut Vec<Vec<u8>>>,
    ) -> Result<(), Unfit> {
        let mut chunks = chunks.into_iter().peekable();
        let mut asked_after = 0;
        while chunks.peek().is_some() {
            let put = guarded(|| {
                let (mut transaction, mut parts) = (self.doc.transact_mut(), 0);
                while parts < TRANSACTION_PARTS
                    && let Some(chunk) = chunks.next()
                {
                    transaction.apply_update(Update::decode_v1(&chunk.update).ok()?).ok()?;
                    parts += chunk.parts;
                    asked_after += chunk.parts;
                    let steps = asked_after * self.parts;
                    if steps >= STEPS_MAX && !allowance.allows(mem::take(&mut asked_after)) {
                        return Some(Err(Unfit::Exhausted));
                    }
                }
                made.iter_mut().for_each(|made| made.push(transaction.encode_update_v1()));
                (!transaction.has_missing_updates()).then_some(Ok(()))
            });
            put.flatten().ok_or(Unfit::Broken)??;
        }
        if self.parts > 2 * self.counted.1 + COUNT_EVERY {
            self.count()?;
        }
        if allowance.allows(asked_after) { Ok(()) } else { Err(Unfit::Exhausted) }
    }

    /// True if enough has come in since the last count that another may find it smaller. A count encodes all of it, which must not
    /// happen for each edit of a text that is nearly full.
    fn has_grown(&self) -> bool {
        let (bytes, parts) = self.counted;
        self.bytes.saturating_sub(bytes) >= RECOUNT.0 || self.parts.saturating_sub(parts) >= RECOUNT.1
    }

    /// Counts what its encoding has: what was typed character by character has become one part.
    fn count(&mut self) -> Result<(), Unfit> {
        let state = self.encode(&[])?;
        self.bytes = state.len();
        self.parts = Shape::of(&state).map_err(|_| Unfit::Broken)?.parts();
        self.counted = (self.bytes, self.parts);
        Ok(())
    }

    /// Checks that there is room for these updates. They may bring these incarnations beside those of the text.
    pub fn check_updates(&mut self, updates: &[Vec<u8>], admitted: &[Incarnation]) -> Result<(), Unfit> {
        let strange = |one: &Incarnation| !admitted.contains(one) && !self.is_of(*one);
        let (mut parts, mut strangers) = (0, Vec::new());
        for update in updates {
            let shape = Shape::of(update).map_err(Unfit::Malformed)?;
            parts += shape.parts();
            strangers.extend(shape.incarnations().filter(strange).take(INCARNATIONS_MAX));
        }
        if strangers.is_empty() { self.check_parts(updates, parts) } else { Err(Unfit::Stranger(strangers)) }
    }

    /// Whether there is room for these updates.
    pub fn check_room(&mut self, updates: &[Vec<u8>]) -> Result<(), Unfit> {
        let mut parts = 0;
        for update in updates {
            parts += Shape::of(update).map_err(Unfit::Malformed)?.parts();
        }
        self.check_parts(updates, parts)
    }

    fn check_parts(&mut self, updates: &[Vec<u8>], parts: usize) -> Result<(), Unfit> {
        let bytes: usize = updates.iter().map(Vec::len).sum();
        let is_full = self.bytes + bytes > TEXT_BYTES_MAX || self.parts + parts > TEXT_PARTS_MAX;
        if is_full && self.has_grown() {
            self.count()?;
        }
        match (self.bytes + bytes > TEXT_BYTES_MAX, self.parts + parts > TEXT_PARTS_MAX) {
            (true, _) => Err(Unfit::TooLarge),
            (_, true) => Err(Unfit::TooManyParts),
            _ => Ok(()),
        }
    }

    /// About how many bytes its encoding has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// About how many parts its encoding has.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// What one who has this state vector lacks; an empty vector asks for all.
    pub fn encode(&self, vector: &[u8]) -> Result<Vec<u8>, Unfit> {
        let known = match vector {
            [] => Some(StateVector::default()),
            vector if is_vector(vector) => guarded(|| StateVector::decode_v1(vector).ok()).flatten(),
            _ => None,
        };
        let known = known.ok_or(Unfit::Malformed(Malformed::Form))?;
        guarded(|| self.doc.transact().encode_state_as_update_v1(&known)).ok_or(Unfit::Broken)
    }

    /// True if it is of some incarnation of this document. A text from before there were any is of none.
    pub fn has_incarnation(&self, doc: &DocKey<'_>) -> bool {
        Incarnation::among(&self.clocks).any(|one| one.is_of(doc))
    }

    /// True if it is of this incarnation.
    pub fn is_of(&self, incarnation: Incarnation) -> bool {
        incarnation.is_in(&self.clocks)
    }

    /// How much of each client's work is in it.
    pub fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    /// Whether that is in it, too.
    pub fn holds(&self, clocks: &Clocks) -> bool {
        clocks.iter().all(|(client, clock)| self.clocks.get(client).is_some_and(|held| held >= clock))
    }

    /// Whether an update brings nothing new. Found out on a copy: what it deletes the clocks do not tell.
    pub fn has(&self, update: &[u8]) -> bool {
        self.has_within(update, &mut Unbounded) == Ok(true)
    }

    /// The same, for so much work.
    pub fn has_within(&self, update: &[u8], allowance: &mut dyn Allowance) -> Result<bool, Unfit> {
        let mut copy = self.copy(Prose::default(), &self.encode(&[])?, allowance)?;
        Ok(copy.take_within(&[update.to_vec()], allowance)?.is_none())
    }

    /// Puts the whole of it, encoded, into an empty one.
    fn copy(&self, mut copy: Prose, state: &[u8], allowance: &mut dyn Allowance) -> Result<Prose, Unfit> {
        copy.absorb(std::iter::once(state), allowance)?;
        if copy.holds(&self.clocks) { Ok(copy) } else { Err(Unfit::Broken) }
    }

    /// Its state vector, encoded.
    pub fn vector(&self) -> Vec<u8> {
        vector_of(&self.clocks)
    }

    /// The text, without its marks and embeds.
    pub fn plain(&self) -> Result<String, Unfit> {
        let text = self.root();
        guarded(|| text.get_string(&self.doc.transact())).ok_or(Unfit::Broken)
    }

    /// The text as a Quill delta: `[{"insert": …, "attributes"?: {…}}, …]`, of at most [`DELTA_BYTES_MAX`].
    pub fn delta(&self) -> Result<String, Unfit> {
        self.delta_within(&mut Unbounded)
    }

    /// The same, for so much work.
    pub fn delta_within(&self, allowance: &mut dyn Allowance) -> Result<String, Unfit> {
        self.pieces(allowance)?.delta()
    }

    /// The pieces of the text, in their order. Embeds stand for its marks in a copy, for the library would give each piece
    /// with all its attributes.
    fn pieces(&self, allowance: &mut dyn Allowance) -> Result<Pieces, Unfit> {
        let LaidOpen { update, inlines, structs } = LaidOpen::of(&self.encode(&[])?).map_err(Unfit::Malformed)?;
        let copy = self.copy(Prose::default(), &update, allowance)?;
        let text = copy.root_of(self.root_name().as_deref().unwrap_or(ROOT));
        let order = guarded(|| {
            let pieces = text.diff(&copy.doc.transact(), YChange::identity).into_iter();
            pieces.map(|piece| piece_of(piece.insert)).collect()
        });
        Ok(Pieces { order: order.ok_or(Unfit::Broken)?, inlines, structs })
    }

    /// Edits the text by a delta, as the client `id`, which nobody used before, and returns the update: none if it changes
    /// nothing.
    pub fn edit(&mut self, id: u32, delta: &[Step]) -> Result<Option<Vec<u8>>, Unfit> {
        self.edit_within(id, delta, &mut Unbounded)
    }

    /// The same, for so much work.
    pub fn edit_within(
        &mut self,
        id: u32,
        delta: &[Step],
        allowance: &mut dyn Allowance,
    ) -> Result<Option<Vec<u8>>, Unfit> {
        let pieces = self.pieces(allowance)?;
        check_delta(&pieces.units(), delta)?;
        pieces.check_work(delta)?;
        // On a copy that writes under that id.
        let writer = Prose::of_client(ClientID::new(u64::from(id)));
        let copy = self.copy(writer, &self.encode(&[])?, allowance)?;
        let text = copy.root_of(self.root_name().as_deref().unwrap_or(ROOT));
        let update = guarded(|| {
            let mut transaction = copy.doc.transact_mut();
            apply_delta(&text, &mut transaction, delta);
            transaction.encode_update_v1()
        });
        let updates = [update.ok_or(Unfit::Broken)?];
        self.check_room(&updates)?;
        self.take_within(&updates, allowance)
    }

    fn root(&self) -> TextRef {
        self.root_of(self.root_name().as_deref().unwrap_or(ROOT))
    }

    fn root_of(&self, name: &str) -> TextRef {
        self.doc.get_or_insert_text(name)
    }

    /// The name of the root that is read as the text, if there is any.
    fn root_name(&self) -> Option<String> {
        let transaction = self.doc.transact();
        let mut names: Vec<String> = transaction.root_refs().map(|(name, _)| name.to_string()).collect();
        names.sort();
        names.iter().find(|name| *name == ROOT).or(names.first()).cloned()
    }
}

/// The encoded state vector of these clocks.
pub fn vector_of(clocks: &Clocks) -> Vec<u8> {
    let mut vector = Vec::new();
    write(&mut vector, clocks.len() as u64);
    clocks.iter().flat_map(|(client, clock)| [client, clock]).for_each(|number| write(&mut vector, *number));
    vector
}

/// The incarnations that one holds who has this state vector.
pub fn incarnations_in(vector: &[u8]) -> Vec<Incarnation> {
    let numbers = numbers_of(vector).unwrap_or_default();
    let pairs = numbers.get(1..).unwrap_or_default().chunks_exact(2);
    pairs.filter_map(|pair| Incarnation::at(pair[0], pair[1])).take(INCARNATIONS_MAX).collect()
}

/// True if bytes are a state vector.
fn is_vector(bytes: &[u8]) -> bool {
    numbers_of(bytes).is_some()
}

/// The numbers of a state vector: how many pairs of client and clock there are, and these; none if it is no such vector.
fn numbers_of(bytes: &[u8]) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    let mut shift = 0_u32;
    let mut number = 0_u64;
    for byte in bytes {
        if shift > 49 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if *byte < 0x80 {
            numbers.push(number);
            (number, shift) = (0, 0);
        }
    }
    let mut clocks = numbers.iter().skip(2).step_by(2);
    let is_vector = shift == 0
        && numbers.first().is_some_and(|count| (numbers.len() as u64).checked_sub(1) == count.checked_mul(2))
        && clocks.all(|clock| u32::try_from(*clock).is_ok());
    is_vector.then_some(numbers)
}

/// Runs what a library does with bytes from outside: should it panic, that ends this call and nothing else.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).ok()
}

fn piece_of(insert: Out) -> Piece {
    match insert {
        Out::Any(Any::String(text)) => Piece::Text(text),
        Out::Any(Any::Number(Number::Int(at))) => Piece::Inline(usize::try_from(at).unwrap_or(usize::MAX)),
        _ => Piece::Object,
    }
}

pub(super) fn value_of(any: &Any) -> Value {
    match any {
        Any::Null | Any::Undefined => Value::Null,
        Any::Bool(value) => json!(value),
        Any::Number(Number::Int(value)) => json!(value),
        Any::Number(Number::Float(value)) => json!(value),
        Any::String(value) => json!(&**value),
        Any::Buffer(bytes) => json!(BASE64_STANDARD.encode(bytes)),
        Any::Array(items) => items.iter().map(value_of).collect(),
        Any::Map(members) => members.iter().map(|(name, value)| (name.clone(), value_of(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::delta::difference;

    /// The updates of a text that was written word by word.
    fn updates(words: usize) -> (Vec<Vec<u8>>, String) {
        let (mut prose, mut text, mut updates) = (Prose::default(), String::new(), Vec::new());
        for word in 0..words {
            let after = format!("{text}w{word} ");
            updates.extend(prose.edit(word as u32 + 1, &difference(&text, &after)).unwrap());
            text = after;
        }
        (updates, text)
    }

    #[test]
    fn updates_are_merged_as_they_grow_and_stay_the_same_text() {
        let (all, text) = updates(500);
        let mut kept = Updates::default();
        for update in &all {
            kept.push(update);
            if kept.want_merging() {
                let merged = kept.merged(&mut Unbounded).unwrap();
                kept.replace(&kept.clone(), Some(merged));
                assert_eq!(kept.parts.len(), 1);
            }
            assert!(kept.parts.len() <= 4 * PARTS_MAX, "{}", kept.parts.len());
        }
        assert!(kept.parts.len() < all.len());
        assert_eq!(Prose::of(kept.iter()).unwrap().plain(), Ok(text));
    }

    #[test]
    fn a_part_of_a_snapshot_is_read_as_it_was_written() {
        let (all, _) = updates(5);
        let mut kept = Updates::default();
        all.iter().for_each(|update| kept.push(update));
        let written = kept.write(&Text::own(mark(7)));
        let (mark, read) = Updates::read(&written).unwrap();
        assert_eq!((sum_of(&mark), mark_of(&written)), (7, mark.as_str()));
        assert_eq!(read.parts, kept.parts);
        for cut in 0..written.len() {
            // It may end between two updates; else it is none.
            if let Some((_, read)) = Updates::read(&written[..cut]) {
                assert!(kept.parts.starts_with(&read.parts));
            }
        }
        assert!(Updates::read("{}").is_none());
    }

    #[test]
    fn what_an_editor_sends_again_brings_nothing_new() {
        let (all, text) = updates(3);
        let mut prose = Prose::default();
        assert!(prose.take(&all).unwrap().is_some());
        assert_eq!(prose.take(&all), Ok(None));
        let whole = prose.encode(&[]).unwrap();
        assert_eq!(prose.take(&[whole]), Ok(None));
        assert_eq!(prose.plain(), Ok(text));
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let (all, _) = updates(3);
        let mut prose = Prose::default();
        assert_eq!(prose.take(&all[1..]), Err(Unfit::Early));
        assert_eq!(prose.take(&[all[0].clone(), vec![9]]), Err(Unfit::Malformed(Malformed::Form)));
        assert_eq!((prose.plain(), prose.clocks().len()), (Ok(String::new()), 0));
        assert!(prose.take(&all).unwrap().is_some());
    }

    /// A text of as many characters, each a piece of its own, under as many attributes.
    fn marked_text(count: usize) -> Prose {
        let mut prose = Prose::default();
        prose.edit(1, &[Step::Insert("x".repeat(count), None)]).unwrap();
        let all = (0..count).map(|at| (format!("a{at}").into(), Any::from(true))).collect();
        prose.edit(2, &[Step::Retain(count as u32, Some(all))]).unwrap();
        let odd = [("odd".into(), Any::from(true))].into_iter().collect();
        let steps: Vec<Step> =
            (0..count).map(|at| Step::Retain(1, Some(&odd).filter(|_| at % 2 == 1).cloned())).collect();
        for (client, chunk) in (3..).zip(0..count / 50) {
            let begin = (50 * chunk) as u32;
            let skipped = (begin > 0).then_some(Step::Retain(begin, None));
            let steps: Vec<Step> =
                skipped.into_iter().chain(steps[50 * chunk..50 * (chunk + 1)].iter().cloned()).collect();
            prose.edit(client, &steps).unwrap();
        }
        prose
    }

    #[test]
    fn a_delta_is_bounded_before_it_is_written() {
        let small = marked_text(100);
        let delta: Value = serde_json::from_str(&small.delta().unwrap()).unwrap();
        assert_eq!(delta.as_array().map(Vec::len), Some(100));
        assert_eq!(delta[1]["attributes"].as_object().map(serde_json::Map::len), Some(101));
        // A million attributes of pieces, and 16 MB.
        let large = marked_text(1_000);
        assert_eq!(large.delta(), Err(Unfit::LongDelta));
        assert_eq!(large.plain().map(|text| text.len()), Ok(1_000));
    }

    #[test]
    fn an_edit_that_takes_too_much_work_is_refused_and_one_of_fewer_steps_is_not() {
        let mut prose = marked_text(1_000);
        prose.edit(4_000, &[Step::Insert("z".repeat(3_000), None)]).unwrap();
        let before = prose.vector();
        let bold: yrs::types::Attrs = [("bold".into(), Any::from(true))].into_iter().collect();
        for step in [Step::Retain(1, Some(bold.clone())), Step::Insert("y".into(), Some(bold)), Step::Delete(1)] {
            assert_eq!(prose.edit(5_000, &vec![step.clone(); 3_000]), Err(Unfit::TooCostly), "{step:?}");
        }
        assert_eq!(prose.edit(5_000, &vec![Step::Retain(1, None); 3_000]), Ok(None));
        assert_eq!(prose.vector(), before);
        assert!(prose.edit(5_000, &[Step::Retain(7, None), Step::Delete(1)]).unwrap().is_some());
    }

    #[test]
    fn marks_embeds_and_text_come_in_their_order() {
        let doc =
            Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..Options::with_client_id(ClientID::new(7)) });
        let text = doc.get_or_insert_text(ROOT);
        let mut transaction = doc.transact_mut();
        text.insert(&mut transaction, 0, "one two");
        text.insert_embed(&mut transaction, 3, Any::from_json(r#"{"image":"x.png","n":7}"#).unwrap());
        let link = [("link".into(), Any::from("a\"b")), ("bold".into(), Any::from(true))].into_iter().collect();
        text.format(&mut transaction, 2, 3, link);
        text.remove_range(&mut transaction, 0, 1);
        drop(transaction);
        let state = doc.transact().encode_state_as_update_v1(&StateVector::default());
        let prose = Prose::of(std::iter::once(&*state)).unwrap();
        let marks = r#""attributes":{"bold":true,"link":"a\"b"}"#;
        let expected = format!(
            r#"[{{"insert":"n"}},{{{marks},"insert":"e"}},{{{marks},"insert":{{"image":"x.png","n":7}}}},{{{marks},"insert":" "}},{{"insert":"two"}}]"#
        );
        assert_eq!(prose.delta(), Ok(expected));
        assert_eq!(prose.pieces(&mut Unbounded).unwrap().units().len(), 7);
    }

    /// Allows so many steps, and counts them.
    struct Steps {
        most: usize,
        asked: usize,
        parts: usize,
    }

    impl Allowance for Steps {
        fn allows(&mut self, parts: usize) -> bool {
            self.asked += 1;
            self.parts += parts;
            self.asked <= self.most
        }
    }

    fn steps(most: usize) -> Steps {
        Steps { most, asked: 0, parts: 0 }
    }

    fn number(update: &mut Vec<u8>, mut number: usize) {
        while number >= 0x80 {
            update.push(number as u8 | 0x80);
            number >>= 7;
        }
        update.push(number as u8);
    }

    /// A text of so many characters, by client 1.
    fn run(count: usize) -> Vec<u8> {
        let mut update = vec![1, 1, 1, 0, 4, 1, 4];
        update.extend(b"text");
        number(&mut update, count);
        update.extend(std::iter::repeat_n(b'x', count));
        update.push(0);
        update
    }

    /// So many characters of client 2 behind the first of client 1, each before another of its characters: where the
    /// next one goes is found by a walk over all of them.
    fn crowd(count: usize) -> Vec<u8> {
        let mut update = vec![1];
        [count, 2, 0].into_iter().for_each(|value| number(&mut update, value));
        for at in 0..count {
            update.extend([0xc4, 1, 0, 1]);
            number(&mut update, at + 2);
            update.extend([1, b'y']);
        }
        update.push(0);
        update
    }

    /// Every second character of client 1 is deleted.
    fn holes(count: usize) -> Vec<u8> {
        let mut update = vec![0, 1, 1];
        number(&mut update, count);
        for at in 0..count {
            number(&mut update, 2 * at);
            update.push(1);
        }
        update
    }

    /// So many clients set one key of a map.
    fn rivals(count: usize) -> Vec<u8> {
        let mut update = Vec::new();
        number(&mut update, count);
        for client in (10..10 + count).rev() {
            update.push(1);
            number(&mut update, client);
            update.extend([0, 0x28, 1, 1, b'm', 1, b'k', 1, 126]);
        }
        update.push(0);
        update
    }

    #[test]
    fn work_that_grows_with_the_square_of_an_update_is_broken_off() {
        const COUNT: usize = 2_000;
        for costly in [crowd(COUNT), holes(COUNT), rivals(COUNT)] {
            let mut prose = Prose::default();
            prose.take(&[run(2 * COUNT + 3)]).unwrap();
            let mut few = steps(5);
            assert_eq!(prose.take_within(std::slice::from_ref(&costly), &mut few), Err(Unfit::Exhausted));
            assert_eq!(few.asked, 6, "it is asked often, and not again after it was refused");
            assert!(few.parts < COUNT / 5, "{}", few.parts);
            let mut absorbed = Prose::default();
            let updates = [run(2 * COUNT + 3), costly];
            let absorbed = absorbed.absorb(updates.iter().map(|update| &**update), &mut steps(5));
            assert_eq!(absorbed, Err(Unfit::Exhausted));
        }
    }

    #[test]
    fn the_same_work_spread_over_many_updates_is_broken_off_as_well() {
        let mut all = vec![run(2_003)];
        let (whole, mut prose) = (crowd(2_000), Prose::default());
        let chunks = Chunks::of(&whole).unwrap().cut(&Clocks::from([(1, 2_003)]), STEPS_MAX).unwrap();
        all.extend(chunks.into_iter().map(|chunk| chunk.update));
        assert_eq!(all.len(), 2_001);
        let mut few = steps(20);
        assert_eq!(prose.absorb(all.iter().map(|update| &**update), &mut few), Err(Unfit::Exhausted));
        assert_eq!(few.asked, 21);
    }

    #[test]
    fn a_text_that_is_typed_takes_few_steps() {
        let (all, text) = updates(500);
        let (mut prose, mut few) = (Prose::default(), steps(50));
        prose.absorb(all.iter().map(|update| &**update), &mut few).unwrap();
        assert_eq!(prose.plain(), Ok(text));
        assert!(few.parts >= 500, "{}", few.parts);
    }

    #[test]
    fn an_update_in_chunks_is_what_it_is_as_a_whole() {
        for update in [crowd(700), holes(700), rivals(700)] {
            let whole = Prose::default();
            for update in [&run(1_403), &update] {
                whole.doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
            }
            let mut cut = Prose::default();
            let first = cut.take(&[run(1_403)]).unwrap().unwrap();
            let second = cut.take(&[update]).unwrap().unwrap();
            assert_eq!(cut.plain(), whole.plain());
            assert_eq!(cut.encode(&[]), whole.encode(&[]));
            // What is told of it is all of it.
            let told = Prose::of([&*first, &*second].into_iter()).unwrap();
            assert_eq!(told.encode(&[]), whole.encode(&[]));
        }
    }

    #[test]
    fn a_text_of_far_more_parts_than_may_be_is_not_worked_out() {
        let mut prose = Prose::default();
        prose.absorb([&*run(20)].into_iter(), &mut Unbounded).unwrap();
        // What was counted too high is counted again.
        prose.parts = READ_PARTS_MAX;
        prose.absorb([&*crowd(10)].into_iter(), &mut Unbounded).unwrap();
        assert_eq!(prose.plain().map(|text| text.len()), Ok(30));
        let many = [run(READ_PARTS_MAX + 3), crowd(READ_PARTS_MAX)];
        let absorbed = Prose::default().absorb(many.iter().map(|update| &**update), &mut Unbounded);
        assert_eq!(absorbed, Err(Unfit::Exhausted));
    }

    #[test]
    fn the_parts_of_a_text_are_bounded_where_it_is_written() {
        let mut prose = Prose::default();
        prose.take(&[run(TEXT_PARTS_MAX + 3)]).unwrap();
        assert_eq!(prose.check_room(&[crowd(TEXT_PARTS_MAX - 1)]), Ok(()));
        assert_eq!(prose.check_room(&[crowd(TEXT_PARTS_MAX)]), Err(Unfit::TooManyParts));
        assert_eq!(prose.check_room(&[run(TEXT_BYTES_MAX)]), Err(Unfit::TooLarge));
        // What was typed in many steps is counted as what it has become.
        prose.parts = TEXT_PARTS_MAX;
        assert_eq!(prose.check_room(&[crowd(10)]), Ok(()));
        assert_eq!(prose.parts(), 1);
    }

    #[test]
    fn a_text_that_is_nearly_full_is_not_counted_again_for_each_edit() {
        let mut prose = Prose::default();
        prose.take(&[run(TEXT_BYTES_MAX - 200)]).unwrap();
        assert_eq!(prose.check_room(&[run(1_000)]), Err(Unfit::TooLarge));
        // It is a little smaller than it seems, which is not worth the work.
        prose.bytes += 100;
        let seems = prose.bytes;
        assert_eq!((prose.check_room(&[run(100)]), prose.bytes), (Err(Unfit::TooLarge), seems));
        prose.bytes += RECOUNT.0;
        assert_eq!(prose.check_room(&[run(100)]), Ok(()), "now it is");
        assert!(prose.bytes < seems);
    }

    #[test]
    fn a_state_vector_that_is_none_is_refused() {
        let (all, _) = updates(2);
        let prose = Prose::of(all.iter().map(|update| &**update)).unwrap();
        for bad in [&[1_u8][..], &[0xff; 9], &[2, 1, 1], &[1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert!(prose.encode(bad).is_err(), "{bad:?}");
        }
        assert!(prose.encode(&prose.vector()).is_ok());
    }
}

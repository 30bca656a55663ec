//! Operations, the atoms of the log, and the words that name and order them.
//!
//! Rests on nothing but the encoding (postcard) and the hash (BLAKE3). It knows the shape of an op, not the meaning of
//! its commands: whether a value is canonical JSON or a patch is well formed is `document`'s to say.
//!
//! An op is encoded once, by its origin, and every node keeps and forwards those same bytes:
//!
//! ```text
//! 0        16      24      32              33
//! | origin | seq   | time  | unconditional | body (postcard)
//! ```
//!
//! `seq` and `time` are little-endian. The fixed head makes ordering, and passing over what a replay need not repeat,
//! cheap: the body is not decoded for it.

use std::{borrow::Cow, cmp::Ordering, fmt, ops::Range, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::plant::{Rule, left_out};

/// Longest encoding of one op, in bytes. Part of the protocol: a longer one is refused by every node.
pub const OP_BYTES_MAX: usize = 4 << 20;
/// Longest op that a client may ask for: should its node have to issue it again under another id, it gets a key, and names
/// all that is held then.
pub const DRAFT_BYTES_MAX: usize = OP_BYTES_MAX - (64 << 10);
/// Most guards and commands in one op, together. Part of the protocol.
pub const OP_STEPS_MAX: usize = 1000;
/// The longest span of an idempotency key, in Lamport times, which is about as many ops of the pool.
pub const KEY_SPAN: u64 = 1 << 22;
/// Largest Lamport time: the largest integer that every JSON reader holds exactly.
pub const TIME_MAX: u64 = (1 << 53) - 1;

const HEAD_BYTES: usize = 33;

/// A running process, for as long as it remembers its log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(#[serde(with = "uuid::serde::compact")] pub Uuid);

/// The nodes that share one data set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId(#[serde(with = "uuid::serde::compact")] pub Uuid);

/// Names one op of the pool, for ever: `<origin>.<seq>` in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId {
    /// The node that issued it.
    pub origin: NodeId,
    /// 1, 2, 3 … without gaps for each origin.
    pub seq: u64,
}

/// Place of an op in the pool's total order: `<time>@<origin>` in text (Lamport 1978, "Time, Clocks, and the Ordering
/// of Events in a Distributed System": the time, and the process to break ties).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Lamport time, `1..=TIME_MAX`.
    pub time: u64,
    /// The node that issued the op.
    pub origin: NodeId,
}

/// Running hash over the ops of one origin: the first 128 bits of BLAKE3.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash(pub [u8; 16]);

/// The public half of a node's static key for links, of X25519.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

/// How far the ops of one origin are held: the "command head".
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Seq of the last op held; 0 for none.
    pub seq: u64,
    /// Running hash up to it.
    pub hash: Hash,
}

impl Head {
    /// The head after `op`, which must be the next of its origin.
    #[must_use]
    pub fn extended(self, op: &Op) -> Head {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.hash.0);
        hasher.update(op.bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Head { seq: op.id().seq, hash: Hash(hash) }
    }
}

/// Names a document: a collection and an id in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocKey<'a> {
    /// Name of the collection.
    #[serde(borrow)]
    pub collection: Cow<'a, str>,
    /// The document's id in it.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

/// A condition that an op carries; judged at the op's place in the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard<'a> {
    /// The document exists.
    Exists(#[serde(borrow)] DocKey<'a>),
    /// The document does not exist.
    Absent(#[serde(borrow)] DocKey<'a>),
    /// The document exists in this version.
    Version(#[serde(borrow)] DocKey<'a>, crate::version::Version),
}

/// What an op does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Create or replace a document with a canonical JSON text.
    Put(#[serde(borrow)] DocKey<'a>, #[serde(borrow)] Cow<'a, str>),
    /// RFC 7396, with the canonical text of the merge patch; an absent document counts as `{}`.
    Merge(#[serde(borrow)] DocKey<'a>, #[serde(borrow)] Cow<'a, str>),
    /// RFC 6902 and `increment`, with the canonical text of the JSON Patch; fails on an absent document.
    Patch(#[serde(borrow)] DocKey<'a>, #[serde(borrow)] Cow<'a, str>),
    /// Delete a document; no effect on an absent one.
    Delete(#[serde(borrow)] DocKey<'a>),
    /// Make a node a member, and say up to which time all is final where it joins: who holds this op holds all that its
    /// sponsor held, so that it is final there too. Like the three below, `Removed` and `Key`, it stands alone in its op.
    Add(#[serde(borrow)] Newcomer<'a>, u64),
    /// The origin leaves the pool: its last op.
    Retire,
    /// An operator's word that a member is gone for good.
    Evict(Eviction),
    /// The answer of each remaining member to an eviction: how many of the evicted one's ops it holds.
    Fence(NodeId, u64),
    /// Edit a text document.
    Text(#[serde(borrow)] DocKey<'a>, #[serde(borrow)] Edit<'a>),
    /// The eviction of a member is effective where the origin is, and so it is for all who hold this op, for ever.
    Removed(NodeId),
    /// The static key of a node: whoever links under this id proves that it holds the key. It counts where the origin is that node,
    /// or has added it.
    Key(NodeId, PublicKey),
}

/// An edit of a text document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit<'a> {
    /// Whether an absent document becomes a text by it. The edits of one that is there fail where it was deleted.
    pub creates: bool,
    /// An update of a Yjs document, in version 1 of the encoding.
    #[serde(borrow, with = "octets")]
    pub update: Cow<'a, [u8]>,
}

/// Bytes as such, not as a list of numbers, and borrowed.
mod octets {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, [u8]>, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Cow::Borrowed)
    }
}

/// That a member is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// The member.
    pub node: NodeId,
    /// Whether no majority is asked for.
    pub force: bool,
}

/// Who becomes a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer<'a> {
    /// Its id.
    pub node: NodeId,
    /// Its name, for people.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Where it can be dialled: `http://host:port`.
    pub urls: Vec<String>,
}

/// Where a member can be dialled, as it last announced it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Greater ones are later. The first number rises with each start of the member's process.
    pub version: (u64, u64),
    /// The URLs.
    pub urls: Vec<String>,
}

/// What an op says, borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body<'a> {
    /// The origin's wall clock, milliseconds since 1970: information only, it decides nothing.
    pub wall_ms: u64,
    /// The seqs held of other origins when the op was issued, as the difference to the origin's previous op.
    pub seen: Vec<(NodeId, u64)>,
    /// Of all ops with one key, only the first in the order has an effect.
    #[serde(borrow, with = "encoded_key")]
    pub key: Option<IdempotencyKey<'a>>,
    /// All must hold at the op's place, or the op has no effect.
    #[serde(borrow)]
    pub guards: Vec<Guard<'a>>,
    /// Carried out in this order, wholly or not at all.
    #[serde(borrow)]
    pub commands: Vec<Command<'a>>,
}

/// Names a request, so that it takes effect once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey<'a> {
    /// 1 to 255 visible ASCII characters.
    pub text: Cow<'a, str>,
    /// The span in which it is remembered, in Lamport times, at most [`KEY_SPAN`]. The origin sets it by its memory; all nodes hold
    /// to it.
    pub span: u64,
}

impl IdempotencyKey<'_> {
    /// A key that is remembered for the longest time.
    pub fn new(text: String) -> IdempotencyKey<'static> {
        IdempotencyKey { text: text.into(), span: KEY_SPAN }
    }
}

/// Begins the keys of ops that are issued again.
pub const AGAIN: &str = "again:";

/// The op that the key of an op which was issued again names as the first, and the hash of its bytes.
pub fn first_of(key: &str) -> Option<(OpId, String)> {
    let (id, hash) = key.strip_prefix(AGAIN)?.split_once(':')?;
    Some((id.parse().ok()?, hash.to_string()))
}

/// The encoding of a key in an op. A key that is remembered for the longest time has the form that all keys had at first.
mod encoded_key {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::{IdempotencyKey, KEY_SPAN};

    #[derive(Serialize, Deserialize)]
    enum Encoded<'a> {
        None,
        #[serde(borrow)]
        Longest(Cow<'a, str>),
        Spanned(#[serde(borrow)] Cow<'a, str>, u64),
    }

    #[expect(clippy::ref_option, reason = "serde gives the field so")]
    pub fn serialize<S: Serializer>(key: &Option<IdempotencyKey<'_>>, serializer: S) -> Result<S::Ok, S::Error> {
        let encoded = match key {
            None => Encoded::None,
            Some(IdempotencyKey { text, span }) if *span >= KEY_SPAN => Encoded::Longest(Cow::Borrowed(text)),
            Some(IdempotencyKey { text, span }) => Encoded::Spanned(Cow::Borrowed(text), *span),
        };
        encoded.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IdempotencyKey<'de>>, D::Error> {
        Ok(match Encoded::deserialize(deserializer)? {
            Encoded::None => None,
            Encoded::Longest(text) => Some(IdempotencyKey { text, span: KEY_SPAN }),
            Encoded::Spanned(text, span) if span < KEY_SPAN => Some(IdempotencyKey { text, span }),
            Encoded::Spanned(..) => return Err(D::Error::custom("a key with a span past the longest")),
        })
    }
}

/// One atomic step of one node, encoded. Cheap to clone; equal bytes are equal ops.
#[derive(Clone, PartialEq, Eq)]
pub struct Op(Arc<[u8]>);

/// Why bytes are no op. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// Over [`OP_BYTES_MAX`].
    TooLong,
    /// Cut short, trailing bytes, or no body of this version.
    Malformed,
    /// Seq 0, time 0 or past [`TIME_MAX`], `seen` out of order or naming its own origin, no command or too many, or a
    /// head that says otherwise than the body.
    Invalid,
}

impl Op {
    /// Encodes an op. Fails only with [`OpError::TooLong`] or [`OpError::Invalid`].
    pub fn encode(id: OpId, time: u64, body: &Body<'_>) -> Result<Op, OpError> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(id.origin.0.as_bytes());
        bytes.extend_from_slice(&id.seq.to_le_bytes());
        bytes.extend_from_slice(&time.to_le_bytes());
        bytes.push(u8::from(body.is_unconditional()));
        let bytes = postcard::to_extend(body, bytes).map_err(|_| OpError::Malformed)?;
        let op = Op(bytes.into());
        op.check(body)?;
        Ok(op)
    }

    /// Takes bytes from outside. Everything about the op's shape is checked here, so that [`Op::body`] cannot fail.
    pub fn decode(bytes: &[u8]) -> Result<Op, OpError> {
        if bytes.len() > OP_BYTES_MAX {
            return Err(OpError::TooLong);
        }
        if bytes.len() < HEAD_BYTES {
            return Err(OpError::Malformed);
        }
        let op = Op(bytes.into());
        let body = op.try_body().ok_or(OpError::Malformed)?;
        op.check(&body)?;
        Ok(op)
    }

    /// The bytes, as its origin encoded them.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its name.
    pub fn id(&self) -> OpId {
        OpId { origin: self.origin(), seq: self.word(16) }
    }

    /// The node that issued it.
    pub fn origin(&self) -> NodeId {
        NodeId(Uuid::from_slice(&self.0[..16]).expect("sixteen bytes"))
    }

    /// Its Lamport time.
    pub fn time(&self) -> u64 {
        self.word(24)
    }

    /// Its place in the order.
    pub fn stamp(&self) -> Stamp {
        Stamp { time: self.time(), origin: self.origin() }
    }

    /// Whether its outcome is the same at every place: it neither reads anything nor can run into a bound.
    pub fn is_unconditional(&self) -> bool {
        self.0[HEAD_BYTES - 1] == 1
    }

    /// What it says.
    pub fn body(&self) -> Body<'_> {
        self.try_body().expect("checked when the op was made")
    }

    /// [`Body::seen`], without decoding what lies behind it.
    pub fn seen(&self) -> Vec<(NodeId, u64)> {
        let begun = postcard::take_from_bytes::<(u64, Vec<(NodeId, u64)>)>(&self.0[HEAD_BYTES..]);
        let ((_, seen), _) = begun.expect("a body begins so, checked when the op was made");
        seen
    }

    /// Where `part`, a text borrowed from this op's body, lies in its bytes.
    pub fn range_of(&self, part: &str) -> Option<Range<usize>> {
        let start = (part.as_ptr() as usize).checked_sub(self.0.as_ptr() as usize)?;
        let end = start.checked_add(part.len())?;
        (end <= self.0.len()).then_some(start..end)
    }

    fn try_body(&self) -> Option<Body<'_>> {
        let (body, rest) = postcard::take_from_bytes(&self.0[HEAD_BYTES..]).ok()?;
        rest.is_empty().then_some(body)
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn check(&self, body: &Body<'_>) -> Result<(), OpError> {
        if self.0.len() > OP_BYTES_MAX {
            return Err(OpError::TooLong);
        }
        let seen_ordered = body.seen.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let seen_others = body.seen.iter().all(|(origin, seq)| *origin != self.origin() && *seq > 0);
        let steps = body.guards.len() + body.commands.len();
        let valid = self.id().seq > 0
            && (1..=TIME_MAX).contains(&self.time())
            && seen_ordered
            && seen_others
            && self.0[HEAD_BYTES - 1] == u8::from(body.is_unconditional())
            && !body.commands.is_empty()
            && steps <= OP_STEPS_MAX;
        if valid { Ok(()) } else { Err(OpError::Invalid) }
    }
}

impl Body<'_> {
    /// The text of its idempotency key.
    pub fn key_text(&self) -> Option<&str> {
        self.key.as_ref().map(|key| &*key.text)
    }

    /// What [`Op::is_unconditional`] says of an op with this body.
    pub fn is_unconditional(&self) -> bool {
        self.key.is_none()
            && self.guards.is_empty()
            && self
                .commands
                .iter()
                .all(|command| !matches!(command, Command::Merge(..) | Command::Patch(..) | Command::Text(..)))
    }
}

impl<'a> Guard<'a> {
    /// The document it reads.
    pub fn doc(&self) -> &DocKey<'a> {
        match self {
            Guard::Exists(doc) | Guard::Absent(doc) | Guard::Version(doc, _) => doc,
        }
    }

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Guard<'static> {
        match self {
            Guard::Exists(doc) => Guard::Exists(doc.into_owned()),
            Guard::Absent(doc) => Guard::Absent(doc.into_owned()),
            Guard::Version(doc, version) => Guard::Version(doc.into_owned(), version),
        }
    }
}

impl<'a> Command<'a> {
    /// The document it writes; none for a change of the member list.
    pub fn doc(&self) -> Option<&DocKey<'a>> {
        match self {
            Command::Put(doc, _)
            | Command::Merge(doc, _)
            | Command::Patch(doc, _)
            | Command::Delete(doc)
            | Command::Text(doc, _) => Some(doc),
            Command::Add(..)
            | Command::Retire
            | Command::Evict(_)
            | Command::Fence(..)
            | Command::Removed(_)
            | Command::Key(..) => None,
        }
    }

    /// Whether it changes the member list.
    pub fn is_membership(&self) -> bool {
        self.doc().is_none()
    }

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> Command<'static> {
        let owned = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        match self {
            Command::Put(doc, text) => Command::Put(doc.into_owned(), owned(text)),
            Command::Merge(doc, text) => Command::Merge(doc.into_owned(), owned(text)),
            Command::Patch(doc, text) => Command::Patch(doc.into_owned(), owned(text)),
            Command::Delete(doc) => Command::Delete(doc.into_owned()),
            Command::Add(Newcomer { node, name, urls }, frontier) => {
                Command::Add(Newcomer { node, name: owned(name), urls }, frontier)
            }
            Command::Retire => Command::Retire,
            Command::Evict(eviction) => Command::Evict(eviction),
            Command::Fence(node, seq) => Command::Fence(node, seq),
            Command::Removed(node) => Command::Removed(node),
            Command::Key(node, key) => Command::Key(node, key),
            Command::Text(doc, Edit { creates, update }) => {
                Command::Text(doc.into_owned(), Edit { creates, update: Cow::Owned(update.into_owned()) })
            }
        }
    }
}

impl<'a> DocKey<'a> {
    /// A key that borrows its parts.
    pub fn new(collection: impl Into<Cow<'a, str>>, id: impl Into<Cow<'a, str>>) -> DocKey<'a> {
        DocKey { collection: collection.into(), id: id.into() }
    }

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> DocKey<'static> {
        DocKey { collection: self.collection.into_owned().into(), id: self.id.into_owned().into() }
    }
}

/// As its bytes.
impl Serialize for Op {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.bytes())
    }
}

/// From bytes that are an op's.
impl<'de> Deserialize<'de> for Op {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Op, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Op::decode(bytes).map_err(|error| serde::de::Error::custom(format_args!("{error:?}")))
    }
}

/// Ops are ordered by stamp: the order of the fold.
impl Ord for Op {
    fn cmp(&self, other: &Op) -> Ordering {
        let times = self.time().cmp(&other.time());
        if left_out(Rule::TieByOrigin) { times } else { times.then_with(|| self.0[..16].cmp(&other.0[..16])) }
    }
}

impl PartialOrd for Op {
    fn partial_cmp(&self, other: &Op) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// As hexadecimal digits.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.origin, self.seq)
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.time, self.origin)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for DocKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.collection, self.id)
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Op({} at {})", self.id(), self.stamp())
    }
}

/// A text that is no node id, op id or stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError;

impl FromStr for NodeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<NodeId, ParseError> {
        Uuid::try_parse(text).map(NodeId).map_err(|_| ParseError)
    }
}

impl FromStr for OpId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<OpId, ParseError> {
        let (origin, seq) = text.rsplit_once('.').ok_or(ParseError)?;
        Ok(OpId { origin: origin.parse()?, seq: seq.parse().map_err(|_| ParseError)? })
    }
}

impl FromStr for Stamp {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Stamp, ParseError> {
        let (time, origin) = text.split_once('@').ok_or(ParseError)?;
        Ok(Stamp { time: time.parse().map_err(|_| ParseError)?, origin: origin.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    fn sample(body: &Body<'_>) -> Result<Op, OpError> {
        Op::encode(OpId { origin: node(7), seq: 3 }, 42, body)
    }

    fn body() -> Body<'static> {
        Body {
            wall_ms: 1,
            seen: vec![(node(1), 4), (node(2), 9)],
            key: None,
            guards: vec![],
            commands: vec![Command::Put(DocKey::new("notes", "a"), "{}".into())],
        }
    }

    #[test]
    fn an_op_survives_its_bytes() {
        let op = sample(&body()).unwrap();
        let again = Op::decode(op.bytes()).unwrap();
        assert_eq!(op, again);
        assert_eq!(again.body(), body());
        assert_eq!(again.stamp().to_string(), format!("42@{}", node(7)));
        assert_eq!(again.id().to_string().parse(), Ok(again.id()));
        assert_eq!(again.stamp().to_string().parse(), Ok(again.stamp()));
    }

    #[test]
    fn every_cut_and_every_trailing_byte_is_refused() {
        let op = sample(&body()).unwrap();
        for end in 0..op.bytes().len() {
            assert!(Op::decode(&op.bytes()[..end]).is_err(), "cut at {end}");
        }
        let long = [op.bytes(), &[0]].concat();
        assert_eq!(Op::decode(&long), Err(OpError::Malformed));
    }

    #[test]
    fn a_seen_that_names_its_own_origin_or_is_unordered_is_refused() {
        let own = Body { seen: vec![(node(7), 1)], ..body() };
        assert_eq!(sample(&own), Err(OpError::Invalid));
        let unordered = Body { seen: vec![(node(2), 1), (node(1), 1)], ..body() };
        assert_eq!(sample(&unordered), Err(OpError::Invalid));
    }

    #[test]
    fn ops_order_by_time_then_origin() {
        let at =
            |time, origin| Op::encode(OpId { origin: node(origin), seq: 1 }, time, &Body { seen: vec![], ..body() });
        assert!(at(1, 9).unwrap() < at(2, 1).unwrap());
        assert!(at(2, 1).unwrap() < at(2, 3).unwrap());
    }

    #[test]
    fn a_value_is_found_in_the_bytes_of_its_op() {
        let op = sample(&body()).unwrap();
        let decoded = op.body();
        let Command::Put(_, value) = &decoded.commands[0] else { unreachable!() };
        let range = op.range_of(value).unwrap();
        assert_eq!(&op.bytes()[range], b"{}");
        assert_eq!(op.range_of("elsewhere"), None);
    }
}

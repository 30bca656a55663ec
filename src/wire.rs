//! The frames that two nodes exchange over a link.
//!
//! One binary WebSocket frame is one message: a byte that says which protocol version it is of, then the message in
//! postcard (a compact, documented encoding). Nodes of different versions can at least tell each other so: in every version
//! the hello begins with the range of versions its sender speaks, and the refusal keeps its form. What [`decode`] returns has been checked whole; it never panics and allocates no more than a small
//! multiple of the frame's length.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    document::{self, Fault},
    op::{Addresses, Hash, Head, NodeId, OP_BYTES_MAX, Op, OpError, PoolId},
    snapshot::{Key, Part, Whole},
};

/// The protocol version this node speaks. Version 1, without snapshots, was never released; version 3 has edits of texts among
/// the commands of an op, and presence; version 4 names the process in the hello; in version 5 an op has a bounded cost; version 7
/// has the keys of members among the commands.
pub const VERSION: u8 = 7;
/// Longest frame: one op of the largest size, and what goes with it.
pub const FRAME_BYTES_MAX: usize = OP_BYTES_MAX + (1 << 20);
/// A sender of ops ends its batch when it passes this, so that a frame is some milliseconds of work for its receiver.
pub const BATCH_BYTES: usize = 256 << 10;
/// Longest name of a room, in bytes: a kind, and the longest collection and id of a document.
pub const ROOM_BYTES_MAX: usize = 384;
/// Longest name of a client in a room, in bytes: some ids side by side.
pub const CLIENT_BYTES_MAX: usize = 64;
/// Longest state of a client in a room, in bytes: a name, a colour and a cursor take a few hundred. All nodes keep it in memory.
pub const STATE_BYTES_MAX: usize = 4 << 10;
/// Most clients in one message about presence; more of the shortest would be a long turn for its receiver.
pub const PRESENT_MAX: usize = 1_024;
/// Most hashes of one history in a message about a dispute.
pub const POINTS_MAX: usize = 512;
/// Most members in one message about addresses.
pub const ADDRESSES_MAX: usize = 256;
/// Most characters of a peer's words of refusal that are taken in.
pub const DETAIL_CHARS_MAX: usize = 1_024;

const HELLO: u8 = 0;
const REFUSAL: u8 = 255;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first of each side, and again when its sender has found or joined its pool.
    Hello(Hello),
    /// Why the link is not to be; the last of its sender.
    Refusal(Refusal),
    /// What the sender holds: "send me what is beyond".
    Heads(Vec<(NodeId, Head)>),
    /// Ops in stamp order, the heads of their origins at the last of each, and what members announce meanwhile.
    Ops(Vec<Op>, Vec<(NodeId, Head)>, Vec<(NodeId, Pulse)>),
    /// The sender is alive.
    Beat(Beat),
    /// Up to these heads the sender has forgotten all ops: one who lacks any of them can have a snapshot.
    Dropped(Vec<(NodeId, Head)>),
    /// "Send me a snapshot", or the rest of one, if that can be.
    Fetch(Option<Begun>),
    /// A piece of the snapshot of this time.
    Snapshot(u64, Part),
    /// "How many of my ops do you hold?"
    Ask,
    /// The sender has stored so many of the receiver's ops.
    Held(u64),
    /// What clients show of themselves in rooms: what may be new to the receiver.
    Presence(Vec<Present>),
    /// How far the sender knows what the clients of each node show: "send me what I lack".
    Attendance(Vec<(NodeId, Attendance)>),
    /// What the receiver has promised, as the sender heard it: all its ops beyond this seq come after this time.
    Promised(u64, u64),
    /// Where members can be dialled that have moved since they were added.
    Addresses(Vec<(NodeId, Addresses)>),
    /// The receiver holds another history of a third node than the sender.
    Dispute(Dispute),
}

impl Message {
    /// Whether it is large: its sender makes the next when it has left.
    pub fn is_batch(&self) -> bool {
        matches!(self, Message::Ops(..) | Message::Snapshot(..))
    }
}

/// What a client of a node shows of itself in a room, or that it is gone. It is never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// The node that the client is connected to.
    pub node: NodeId,
    /// The room.
    pub room: Arc<str>,
    /// The client, as its node names it.
    pub client: Arc<str>,
    /// Greater ones are later. The first number rises with each start of the node's process, the second with each change there.
    pub version: (u64, u64),
    /// What it shows; none if it is gone. Nodes do not look into it.
    pub state: Option<Arc<str>>,
}

impl Present {
    /// Whether it keeps the bounds.
    fn is_sound(&self) -> bool {
        (1..=ROOM_BYTES_MAX).contains(&self.room.len())
            && (1..=CLIENT_BYTES_MAX).contains(&self.client.len())
            && self.state.as_ref().is_none_or(|state| state.len() <= STATE_BYTES_MAX)
    }
}

/// How far somebody knows what the clients of a node show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attendance {
    /// The greatest version that it has heard of.
    pub version: (u64, u64),
    /// A sum over those that are there.
    pub digest: u64,
}

/// How far somebody has come with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The time of the snapshot.
    pub time: u64,
    /// The key up to which all has come.
    pub after: Option<Key>,
    /// How many documents came, and the digest over them.
    pub sum: Whole,
}

/// Two histories of a third node, as the one who found it tells the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispute {
    /// The node of which there are two histories.
    pub origin: NodeId,
    /// A place where they differ: the sender holds another op there, or takes none.
    pub at: u64,
    /// What the sender holds before that place: running hashes at some seqs.
    pub points: Vec<Head>,
    /// How firmly the sender stays with its history.
    pub stand: Stand,
}

/// How firmly a node stays with its history of another; of two nodes the one with the greater stand stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stand {
    /// It may give way.
    Open,
    /// The dispute has lasted so long that node ids decide.
    Waited,
    /// A majority holds the same history.
    Majority,
    /// The place is final there.
    Final,
    /// The place is final there, and a majority holds the same.
    FinalMajority,
}

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where it can be dialled.
    pub urls: Vec<String>,
    /// Its pool, and the pool's name; none while it looks for one.
    pub pool: Option<(PoolId, String)>,
    /// The name of the only pool that it would join.
    pub wants: Option<String>,
    /// Whether it holds its own `Add`.
    pub member: bool,
    /// Whether it founds a pool if it finds none.
    pub founds: bool,
    /// Its clock.
    pub clock: u64,
    /// A random number of its process: two processes with one node id are two copies of one data directory.
    pub process: u64,
    /// Whether its pool holds nothing but its founding, so that nothing is lost if it joins another.
    pub empty: bool,
    /// How many ops it has issued under this id, and how many of them before its process began.
    pub issued: (u64, u64),
}

impl Hello {
    /// What a newcomer says that holds nothing and cannot be dialled.
    pub fn newcomer(node: NodeId, name: &str, pool: Option<(PoolId, String)>) -> Hello {
        Hello {
            node,
            name: name.into(),
            urls: Vec::new(),
            pool,
            wants: None,
            member: false,
            founds: false,
            clock: 0,
            process: 0,
            empty: false,
            issued: (0, 0),
        }
    }
}

/// Why a node will not link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind, for the program.
    pub why: Why,
    /// The reason, for people.
    pub detail: String,
    /// Other members that might take the link.
    pub try_instead: Vec<String>,
}

/// The kinds of refusal. New kinds go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It belongs to another pool.
    OtherPool,
    /// No protocol version in common.
    OtherVersion,
    /// It has all the links it takes.
    Busy,
    /// Its operator has cut its links.
    Cut,
    /// The dialler reached itself.
    Oneself,
    /// There is a link between the two already.
    Double,
    /// The same seq with another hash: two nodes issued ops under one id.
    Fork,
    /// It sent what no node of this version sends.
    Broken,
    /// The others go on without it: it must come back under a new id.
    Evicted,
    /// It has issued an op at a time that it had promised not to: its disk is an old copy.
    OldCopy,
    /// Another process runs under its id, and stays: it must come back under a new one.
    Copy,
    /// The receiver runs under the same id, and one of the two must come back as another: they meet again if neither has yet.
    SameId,
    /// Its static key is not that of its node id: it must come back under a new one.
    OtherKey,
}

/// A heartbeat, with what its sender heard of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The sender's clock.
    pub clock: u64,
    /// Hash over the sender's heads: equal digests, equal logs.
    pub digest: Hash,
    /// The digest of its documents: with equal logs it must be equal too.
    pub state: u64,
    /// Up to where everything is final for it: with equal logs, for the receiver too.
    pub frontier: u64,
    /// A sum over all that clients show: equal sums, equal rooms.
    pub presence: u64,
    /// Signs of life of members, those that the receiver may not have.
    pub pulses: Vec<(NodeId, Pulse)>,
}

/// A member's sign of life, as it spreads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// Which: greater ones are later. The first number rises with each start of the process, the second while it lives.
    pub count: (u64, u64),
    /// What it announces.
    pub said: Announcement,
}

/// What a member promises, for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// How many ops it has issued.
    pub seq: u64,
    /// The time that all its further ops come after.
    pub clock: u64,
    /// Up to this time it holds every op of the pool.
    pub complete: u64,
    /// What it holds up to there, as one hash. It counts for those who hold the same.
    pub holding: Hash,
    /// Up to this time somebody waits for finality: until then, everyone announces at once.
    pub wanted: u64,
}

/// Why a frame is no message. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Of a protocol version that this node does not speak: the range that the sender speaks.
    Version(u8, u8),
    /// Over [`FRAME_BYTES_MAX`].
    TooLong,
    /// Cut short, trailing bytes, or an unknown message.
    Malformed,
    /// An op in it is malformed.
    Op(OpError),
    /// An op's content cannot be carried out.
    Content(Fault),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Version(low, high) => {
                write!(
                    f,
                    "the peer speaks protocol versions {low} to {high}, this node {VERSION}: update the older one"
                )
            }
            WireError::TooLong => write!(f, "a frame of more than {FRAME_BYTES_MAX} bytes"),
            WireError::Malformed => f.write_str("a frame that is cut short or no message of this version"),
            WireError::Op(error) => write!(f, "a malformed op ({error:?})"),
            WireError::Content(fault) => write!(f, "an op that no node can carry out: {fault}"),
        }
    }
}

/// A message of this version, as it is on the wire.
#[derive(Serialize, Deserialize)]
enum Wire<'a> {
    Heads(Vec<(NodeId, Head)>),
    Ops(#[serde(borrow)] Vec<Raw<'a>>, Vec<(NodeId, Head)>, Vec<(NodeId, Pulse)>),
    Beat(Beat),
    Dropped(Vec<(NodeId, Head)>),
    Fetch(Option<Begun>),
    Snapshot(u64, Part),
    Ask,
    Held(u64),
    Presence(Vec<Present>),
    Attendance(Vec<(NodeId, Attendance)>),
    Promised(u64, u64),
    Addresses(Vec<(NodeId, Addresses)>),
    Dispute(Dispute),
}

/// Bytes that are written in one piece and read without a copy.
#[derive(Deserialize)]
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// The frame of a message.
pub fn encode(message: &Message) -> Vec<u8> {
    let wire = match message {
        Message::Hello(hello) => return with(vec![HELLO, VERSION, VERSION], hello),
        Message::Refusal(refusal) => return with(vec![REFUSAL], refusal),
        Message::Heads(heads) => Wire::Heads(heads.clone()),
        Message::Ops(ops, heads, pulses) => {
            Wire::Ops(ops.iter().map(|op| Raw(op.bytes())).collect(), heads.clone(), pulses.clone())
        }
        Message::Beat(beat) => Wire::Beat(beat.clone()),
        Message::Dropped(heads) => Wire::Dropped(heads.clone()),
        Message::Fetch(begun) => Wire::Fetch(begun.clone()),
        Message::Snapshot(time, part) => Wire::Snapshot(*time, part.clone()),
        Message::Ask => Wire::Ask,
        Message::Held(seq) => Wire::Held(*seq),
        Message::Presence(presents) => Wire::Presence(presents.clone()),
        Message::Attendance(known) => Wire::Attendance(known.clone()),
        Message::Promised(seq, clock) => Wire::Promised(*seq, *clock),
        Message::Addresses(all) => Wire::Addresses(all.clone()),
        Message::Dispute(dispute) => Wire::Dispute(dispute.clone()),
    };
    with(vec![VERSION], &wire)
}

/// The message of a frame.
pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(WireError::TooLong);
    }
    match *frame {
        [HELLO, low, high, ref rest @ ..] => {
            if (low..=high).contains(&VERSION) {
                Ok(Message::Hello(whole(rest)?))
            } else {
                Err(WireError::Version(low, high))
            }
        }
        [REFUSAL, ref rest @ ..] => {
            let mut refusal: Refusal = whole(rest)?;
            // They go into the log, and into what is told of a place.
            if refusal.detail.len() > DETAIL_CHARS_MAX {
                refusal.detail = refusal.detail.chars().take(DETAIL_CHARS_MAX).collect();
            }
            Ok(Message::Refusal(refusal))
        }
        [VERSION, ref rest @ ..] => message(whole(rest)?),
        [version, ..] if version != HELLO => Err(WireError::Version(version, version)),
        _ => Err(WireError::Malformed),
    }
}

fn message(wire: Wire<'_>) -> Result<Message, WireError> {
    match wire {
        Wire::Heads(heads) => Ok(Message::Heads(heads)),
        Wire::Beat(beat) => Ok(Message::Beat(beat)),
        Wire::Dropped(heads) => Ok(Message::Dropped(heads)),
        Wire::Fetch(begun) => Ok(Message::Fetch(begun)),
        Wire::Ask => Ok(Message::Ask),
        Wire::Held(seq) => Ok(Message::Held(seq)),
        Wire::Presence(presents) if presents.len() <= PRESENT_MAX && presents.iter().all(Present::is_sound) => {
            Ok(Message::Presence(presents))
        }
        Wire::Dispute(dispute) if dispute.points.len() <= POINTS_MAX => Ok(Message::Dispute(dispute)),
        Wire::Presence(_) | Wire::Dispute(_) => Err(WireError::Malformed),
        Wire::Attendance(known) => Ok(Message::Attendance(known)),
        Wire::Promised(seq, clock) => Ok(Message::Promised(seq, clock)),
        Wire::Addresses(all) if all.len() > ADDRESSES_MAX => Err(WireError::Malformed),
        Wire::Addresses(all) => {
            all.iter().try_for_each(|(_, of)| document::check_urls(&of.urls)).map_err(WireError::Content)?;
            Ok(Message::Addresses(all))
        }
        Wire::Snapshot(time, part) => {
            if let Part::Documents(slice) = &part {
                slice.documents.iter().try_for_each(document::check_base).map_err(WireError::Content)?;
            }
            if let Part::Base(base) = &part {
                let mut ops = base.membership.iter();
                ops.try_for_each(|op| document::check(&op.body())).map_err(WireError::Content)?;
            }
            Ok(Message::Snapshot(time, part))
        }
        Wire::Ops(raws, heads, pulses) => {
            let ops = raws.iter().map(|raw| op(raw.0)).collect::<Result<_, _>>()?;
            Ok(Message::Ops(ops, heads, pulses))
        }
    }
}

fn op(bytes: &[u8]) -> Result<Op, WireError> {
    let op = Op::decode(bytes).map_err(WireError::Op)?;
    document::check(&op.body()).map_err(WireError::Content)?;
    Ok(op)
}

fn with<T: Serialize>(head: Vec<u8>, value: &T) -> Vec<u8> {
    postcard::to_extend(value, head).expect("plain data is written to memory")
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(WireError::Malformed),
    }
}

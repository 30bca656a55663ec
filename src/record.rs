//! What a node keeps on disk: the records of its journal, one for each change that must outlive the process.
//!
//! A replica that is given the records of a journal in their order is again what it was when the last was written.

use serde::{Deserialize, Serialize};

use crate::{
    op::{Addresses, NodeId, Op, OpError, PoolId, TIME_MAX},
    snapshot::Part,
};

/// One entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Who the node is from here on.
    Identity(Identity),
    /// An op, own or heard, in the order in which they came into the log.
    Op(Op),
    /// The node issues and announces no time beyond this one until a greater is recorded.
    Ceiling(u64),
    /// The node has given up what it held: all ops, and who it was, are void. Ceilings and orphans stay.
    Forget,
    /// Everything up to this time is final.
    Frontier(u64),
    /// The node is about to announce that it is complete up to this time, at which it reckons with more members than before.
    Complete(u64),
    /// An op that the node issued, or held, under an id it had to give up; it is to be issued again unless the pool holds it.
    Orphan(Op),
    /// The same of an op in whose place the pool has another: two nodes have issued ops under one id.
    Fork(Op),
    /// A member has announced where it can be dialled.
    Addresses(NodeId, Addresses),
    /// A piece of a snapshot. Once it is whole, all records before its base are void, those between count: the node's
    /// identity, ceiling, frontier and orphans, and the ops behind the base's time.
    Snapshot(Part),
    /// The node came back from its journal with so many ops of its own, and issues more: what comes since nobody is known to
    /// take for its history. With no number: a peer does now.
    Resumed(Option<u64>),
    /// An id that the node had, and that another process runs under.
    Ceded(NodeId),
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// Its pool.
    pub pool: PoolId,
    /// The pool's name.
    pub pool_name: String,
}

/// Why bytes are no record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Nothing, or a kind that this version does not know: a newer version has written it.
    Kind,
    /// Cut short, or trailing bytes, or times and seqs that no pool comes to.
    Malformed,
    /// The op in it is malformed.
    Op(OpError),
}

const IDENTITY: u8 = 1;
const OP: u8 = 2;
const CEILING: u8 = 3;
const FORGET: u8 = 4;
const ORPHAN: u8 = 5;
const FRONTIER: u8 = 6;
const FORK: u8 = 7;
const SNAPSHOT: u8 = 8;
const COMPLETE: u8 = 10;
const RESUMED: u8 = 9;
const ADDRESSES: u8 = 11;
const CEDED: u8 = 12;

/// No node reserves times up to here, for ops end at [`TIME_MAX`].
const CEILING_MAX: u64 = 2 * TIME_MAX;

impl Record {
    /// Writes the record behind `bytes`: its kind, then what it says.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Record::Identity(identity) => put(bytes, IDENTITY, identity),
            Record::Snapshot(part) => put(bytes, SNAPSHOT, part),
            Record::Addresses(node, addresses) => put(bytes, ADDRESSES, &(node, addresses)),
            Record::Ceded(node) => put(bytes, CEDED, node),
            Record::Op(op) => {
                bytes.push(OP);
                bytes.extend_from_slice(op.bytes());
            }
            Record::Ceiling(time) => {
                bytes.push(CEILING);
                bytes.extend_from_slice(&time.to_le_bytes());
            }
            Record::Frontier(time) => {
                bytes.push(FRONTIER);
                bytes.extend_from_slice(&time.to_le_bytes());
            }
            Record::Complete(time) => {
                bytes.push(COMPLETE);
                bytes.extend_from_slice(&time.to_le_bytes());
            }
            Record::Resumed(seq) => {
                bytes.push(RESUMED);
                seq.iter().for_each(|seq| bytes.extend_from_slice(&seq.to_le_bytes()));
            }
            Record::Forget => bytes.push(FORGET),
            Record::Orphan(op) => {
                bytes.push(ORPHAN);
                bytes.extend_from_slice(op.bytes());
            }
            Record::Fork(op) => {
                bytes.push(FORK);
                bytes.extend_from_slice(op.bytes());
            }
        }
    }

    /// Reads what [`Record::encode`] wrote. The bytes are whole (a journal checks their sum); an op's shape is checked
    /// here, not its content, which was checked before it was recorded.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let (kind, rest) = bytes.split_first().ok_or(RecordError::Kind)?;
        match (*kind, rest) {
            (IDENTITY, rest) => whole(rest).map(Record::Identity),
            (SNAPSHOT, rest) => match whole(rest)? {
                Part::Base(base) | Part::Again(base) if !base.is_sound() => Err(RecordError::Malformed),
                part => Ok(Record::Snapshot(part)),
            },
            (ADDRESSES, rest) => {
                let (node, addresses): (NodeId, Addresses) = whole(rest)?;
                Ok(Record::Addresses(node, addresses))
            }
            (CEDED, rest) => whole(rest).map(Record::Ceded),
            (OP, rest) => Op::decode(rest).map(Record::Op).map_err(RecordError::Op),
            (ORPHAN, rest) => Op::decode(rest).map(Record::Orphan).map_err(RecordError::Op),
            (FORK, rest) => Op::decode(rest).map(Record::Fork).map_err(RecordError::Op),
            (CEILING, rest) => match time(rest)? {
                time @ ..=CEILING_MAX => Ok(Record::Ceiling(time)),
                _ => Err(RecordError::Malformed),
            },
            (FRONTIER, rest) => time(rest).map(Record::Frontier),
            (COMPLETE, rest) => time(rest).map(Record::Complete),
            (RESUMED, []) => Ok(Record::Resumed(None)),
            (RESUMED, rest) => match time(rest)? {
                seq @ ..=TIME_MAX => Ok(Record::Resumed(Some(seq))),
                _ => Err(RecordError::Malformed),
            },
            (FORGET, []) => Ok(Record::Forget),
            (FORGET, _) => Err(RecordError::Malformed),
            _ => Err(RecordError::Kind),
        }
    }
}

fn put<T: Serialize>(bytes: &mut Vec<u8>, kind: u8, value: &T) {
    bytes.push(kind);
    *bytes = postcard::to_extend(value, std::mem::take(bytes)).expect("plain data is written to memory");
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RecordError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(RecordError::Malformed),
    }
}

fn time(bytes: &[u8]) -> Result<u64, RecordError> {
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| RecordError::Malformed)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        op::{Hash, Head},
        snapshot::Base,
    };

    fn check(record: &Record, is_sound: bool) {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        let expected = if is_sound { Ok(record.clone()) } else { Err(RecordError::Malformed) };
        assert_eq!(Record::decode(&bytes), expected);
    }

    #[test]
    fn a_time_that_no_node_comes_to_is_malformed() {
        let base = |time, seq| {
            let head = Head { seq, hash: Hash([0; 16]) };
            Base { time, heads: vec![(NodeId(Uuid::nil()), head)], membership: Vec::new(), documents: 0 }
        };
        for (time, is_sound) in [(CEILING_MAX, true), (CEILING_MAX + 1, false), (u64::MAX, false)] {
            check(&Record::Ceiling(time), is_sound);
        }
        for (seq, is_sound) in [(None, true), (Some(0), true), (Some(TIME_MAX), true), (Some(TIME_MAX + 1), false)] {
            check(&Record::Resumed(seq), is_sound);
        }
        for (time, seq, is_sound) in
            [(TIME_MAX, TIME_MAX, true), (TIME_MAX + 1, 1, false), (u64::MAX, 1, false), (5, 5, true), (5, 6, false)]
        {
            check(&Record::Snapshot(Part::Base(base(time, seq))), is_sound);
            check(&Record::Snapshot(Part::Again(base(time, seq))), is_sound);
        }
    }
}

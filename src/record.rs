//! What a node keeps on disk: the records of its journal, one for each change that must outlive the process.
//!
//! A replica that is given the records of a journal in their order is again what it was when the last was written.

use serde::{Deserialize, Serialize};

use crate::op::{NodeId, Op, OpError, PoolId};

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
    /// An op that the node issued under an id it had to give up; it is to be issued again unless the pool holds it.
    Orphan(Op),
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
    /// Cut short, or trailing bytes.
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

impl Record {
    /// Writes the record behind `bytes`: its kind, then what it says.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Record::Identity(identity) => {
                bytes.push(IDENTITY);
                let encoded = postcard::to_allocvec(identity).expect("plain data is written to memory");
                bytes.extend_from_slice(&encoded);
            }
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
            Record::Forget => bytes.push(FORGET),
            Record::Orphan(op) => {
                bytes.push(ORPHAN);
                bytes.extend_from_slice(op.bytes());
            }
        }
    }

    /// Reads what [`Record::encode`] wrote. The bytes are whole (a journal checks their sum); an op's shape is checked
    /// here, not its content, which was checked before it was recorded.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let (kind, rest) = bytes.split_first().ok_or(RecordError::Kind)?;
        match (*kind, rest) {
            (IDENTITY, rest) => match postcard::take_from_bytes(rest) {
                Ok((identity, [])) => Ok(Record::Identity(identity)),
                _ => Err(RecordError::Malformed),
            },
            (OP, rest) => Op::decode(rest).map(Record::Op).map_err(RecordError::Op),
            (ORPHAN, rest) => Op::decode(rest).map(Record::Orphan).map_err(RecordError::Op),
            (CEILING, rest) => time(rest).map(Record::Ceiling),
            (FRONTIER, rest) => time(rest).map(Record::Frontier),
            (FORGET, []) => Ok(Record::Forget),
            (FORGET, _) => Err(RecordError::Malformed),
            _ => Err(RecordError::Kind),
        }
    }
}

fn time(bytes: &[u8]) -> Result<u64, RecordError> {
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| RecordError::Malformed)
}

//! Records as a stream, as a backup goes over the network: each as its length (four bytes, little-endian) and its bytes; a
//! length of 0 ends the whole, so that a stream which broke off is not taken for one.

use bytes::{Buf, BytesMut};

use super::RECORD_BYTES_MAX;
use crate::{
    document::{check, check_base, check_urls},
    record::Record,
    snapshot::Part,
};

const LENGTH_BYTES: usize = 4;

/// What stands behind the last record.
pub const STREAM_END: [u8; LENGTH_BYTES] = [0; LENGTH_BYTES];

/// These records, as they stand in a stream.
pub fn streamed(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        record.encode(&mut bytes);
        let length = u32::try_from(bytes.len() - start - LENGTH_BYTES).expect("a record is far shorter");
        bytes[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    }
    bytes
}

/// Reads a stream of records, in whatever pieces it comes. It holds no more than the longest record and one piece.
#[derive(Debug, Default)]
pub struct RecordStream {
    buffer: BytesMut,
}

/// What comes next in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Streamed {
    /// A record.
    Record(Record),
    /// Its end. Nothing behind it counts.
    End,
    /// More of it must come first.
    More,
}

/// What came is no record of this version, or none that a node could have written; nothing that comes behind it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl RecordStream {
    /// Takes a piece.
    pub fn take(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// What stands next in what has come.
    pub fn read(&mut self) -> Result<Streamed, Unreadable> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(Streamed::More) };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 {
            return Ok(Streamed::End);
        }
        if length > RECORD_BYTES_MAX {
            return Err(Unreadable);
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(Streamed::More);
        }
        self.buffer.advance(LENGTH_BYTES);
        let record = Record::decode(&self.buffer.split_to(length)).ok().filter(is_sound);
        record.map(Streamed::Record).ok_or(Unreadable)
    }
}

/// Whether a node could have written it. What is on its own disk was looked at when it came in; this may be anybody's.
fn is_sound(record: &Record) -> bool {
    match record {
        Record::Op(op) | Record::Orphan(op) | Record::Fork(op) => check(&op.body()).is_ok(),
        Record::Addresses(_, to) => check_urls(&to.urls).is_ok(),
        Record::Snapshot(Part::Documents(slice)) => slice.documents.iter().all(|document| check_base(document).is_ok()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        op::{Body, Command, DocKey, NodeId, Op, OpId},
        snapshot::{BaseDocument, Slice},
    };

    #[test]
    fn what_no_node_could_have_written_is_not_read() {
        let origin = NodeId(Uuid::from_u128(1));
        let op = |json: &'static str| {
            let commands = vec![Command::Put(DocKey::new("c", "a"), json.into())];
            let body = Body { wall_ms: 0, seen: Vec::new(), key: None, guards: Vec::new(), commands };
            Op::encode(OpId { origin, seq: 1 }, 1, &body).unwrap()
        };
        let documents = |json: &str| {
            let stamp = op("1").stamp();
            let document = BaseDocument { collection: "c".into(), id: "a".into(), text: json.into(), stamp };
            Record::Snapshot(Part::Documents(Slice { after: None, documents: vec![document], next: None }))
        };
        let read = |record: &Record| {
            let mut stream = RecordStream::default();
            stream.take(&streamed(std::slice::from_ref(record)));
            stream.read()
        };
        for of in [|op| Record::Op(op), |op| Record::Orphan(op), |op| Record::Fork(op)] {
            assert_eq!(read(&of(op("{\"a\":1}"))), Ok(Streamed::Record(of(op("{\"a\":1}")))));
            assert_eq!(read(&of(op("{\"a\">1}"))), Err(Unreadable));
        }
        assert_eq!(read(&documents("[1]")), Ok(Streamed::Record(documents("[1]"))));
        assert_eq!(read(&documents("[1")), Err(Unreadable));
    }
}

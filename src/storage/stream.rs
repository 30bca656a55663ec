//! Records as a stream, as a backup goes over the network: each as its length (four bytes, little-endian) and its bytes; a
//! length of 0 ends the whole, so that a stream which broke off is not taken for one.

use bytes::{Buf, BytesMut};

use super::RECORD_BYTES_MAX;
use crate::record::Record;

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

/// What came is no record of this version; nothing that comes behind it is read.
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
        Record::decode(&self.buffer.split_to(length)).map(Streamed::Record).map_err(|_| Unreadable)
    }
}

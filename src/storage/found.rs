//! What a reader finds in a journal besides its records.

use std::fmt;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sound records, all of which were handed over.
    pub records: u64,
    /// Their length on the disk, in bytes.
    pub bytes: u64,
    /// An end that a crash has left incomplete. That is normal: nothing in it was said to be stored, if each sync was
    /// waited for. It is dropped when the journal is opened for writing.
    pub torn: Option<Torn>,
    /// It does not begin with the first record that was ever appended. What came before was cut off behind a snapshot, or
    /// has gone: whoever knows what the records mean can tell, by whether they make a whole beginning.
    pub cut: bool,
    /// Places where something that was stored is no longer there, in order; at most [`DAMAGE_MAX`] of them. Opening the
    /// journal for writing keeps the bad files aside and mends the journal, so that they are reported once.
    pub damage: Vec<Damage>,
}

/// Most places of damage that are named. There may be more; all are mended.
pub const DAMAGE_MAX: usize = 1000;

/// An incomplete end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Name of the file in which it starts.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Sound records behind the gap, which are dropped with it: they were written, but not yet stored.
    pub records: u64,
}

/// A place where something is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Name of the file.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many sound records come before it.
    pub record: u64,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong with a place of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Bytes that are no frame, or not the one that belongs there.
    Bytes,
    /// The frame's sum is right, but this program cannot read the record in it.
    Record,
    /// The header, or one of its two copies.
    Header,
    /// The file has the name of another segment, or belongs to another journal.
    Stranger,
    /// The file, or its end, is missing.
    Missing,
    /// The file is longer than a segment can be.
    TooLong,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Bytes => "bytes are not as they were written",
            Why::Record => "the record cannot be read, though its checksum is right",
            Why::Header => "the file's header is not as it was written",
            Why::Stranger => "the file belongs elsewhere: its header names another place or journal",
            Why::Missing => "something is missing here",
            Why::TooLong => "the file is longer than it can be",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}, after record {}: {}", self.file, self.offset, self.record, self.why)
    }
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: an incomplete end with {} readable records", self.file, self.offset, self.records)
    }
}

//! The bytes of a segment: a header, frames behind each other, then nothing but zeros.
//!
//! ```text
//! header, twice   magic 8 | version 4 | sum 4 | number 8 | start 8 | end 8 | size 8 | salt 8
//! frame           mark 4 | length 4 | behind 4 | sum 4 | payload
//! ```
//!
//! All numbers are little-endian, all sums CRC-32. A *position* counts the bytes of all frames of a journal; a segment
//! says at which one it starts. A frame's `mark` is the sum of the journal's salt, the frame's position and its `length`
//! and `behind`; its `sum` goes on over the payload. So a frame that was moved, left over or made up by a user (who does
//! not know the salt) is none, and where the next one starts can be found again after bad bytes by its mark alone.
//!
//! `behind` says how many bytes before the frame may not have been on the disk when it was written. A power cut can lose
//! any of those, in any order, and keep the frame: that is no damage.

use std::{
    iter,
    path::{Path, PathBuf},
};

/// The version of the format that this program writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// Length of both copies of a header, in bytes: where the first frame starts.
pub const HEADER_BYTES: usize = 2 * COPY_BYTES;
/// Length of what stands before a frame's payload, in bytes.
pub const HEAD_BYTES: usize = 16;
/// Longest payload, in bytes: far past the longest op, for the base of a snapshot names all who were ever members. A
/// longer one is bad.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// Longest segment, in bytes; what a file holds beyond it is bad. Bounds what a reader takes into memory at once.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Greatest position and greatest number that a sound segment has: more than any disk holds, and far from overflowing.
const POSITION_MAX: u64 = 1 << 60;
const NUMBER_MAX: u64 = 1 << 48;
const MAGIC: [u8; 8] = *b"LAMPJRNL";
const COPY_BYTES: usize = 56;
/// Length of what a frame and a header begin with, which is not zero, in bytes.
const MARK_BYTES: usize = 4;
/// What a power cut loses or keeps as a whole, in bytes: the least that disks write at once.
const SECTOR_BYTES: usize = 512;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 1, 2, 3 …, as in the file's name.
    pub number: u64,
    /// Position of the first frame.
    pub start: u64,
    /// 0, but in a mended segment, which has lost frames: the position at which the next one starts.
    pub end: u64,
    /// Length that the file had when it was begun, or was mended to, in bytes; 0 in a segment of an older program. A file
    /// that is shorter was cut, for a crash leaves the space that was made ready.
    pub size: u64,
    /// The same in all segments of a journal, and in no other journal.
    pub salt: u64,
}

/// What the first bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headed {
    /// A header; the flag says whether both copies are sound.
    Sound(Header, bool),
    /// A sound header of this newer version.
    Newer(u32),
    /// Neither.
    Bad,
}

impl Header {
    /// Both copies.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut copy = [0; COPY_BYTES];
        copy[..8].copy_from_slice(&MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        for (at, word) in [self.number, self.start, self.end, self.size, self.salt].into_iter().enumerate() {
            copy[16 + 8 * at..24 + 8 * at].copy_from_slice(&word.to_le_bytes());
        }
        let sum = header_sum(&copy);
        copy[12..16].copy_from_slice(&sum.to_le_bytes());
        let mut both = [0; HEADER_BYTES];
        both[..COPY_BYTES].copy_from_slice(&copy);
        both[COPY_BYTES..].copy_from_slice(&copy);
        both
    }

    /// Reads the header of a segment. Magic, version and sum stand where they stand in every later version too, so that
    /// a newer segment can be told from a damaged one.
    pub fn decode(segment: &[u8]) -> Headed {
        let copies = [segment.get(..COPY_BYTES), segment.get(COPY_BYTES..HEADER_BYTES)];
        let sound = |copy: &&[u8]| copy[..8] == MAGIC && header_sum(copy) == u32_at(copy, 12);
        let mut found = copies.into_iter().flatten().filter(sound);
        let Some(copy) = found.next() else { return Headed::Bad };
        let version = u32_at(copy, 8);
        if version != VERSION {
            return Headed::Newer(version);
        }
        let word = |at: usize| u64::from_le_bytes(copy[at..at + 8].try_into().expect("eight bytes"));
        let header = Header { number: word(16), start: word(24), end: word(32), size: word(40), salt: word(48) };
        if header.start.max(header.end) > POSITION_MAX {
            return Headed::Bad;
        }
        Headed::Sound(header, found.next() == Some(copy))
    }
}

fn header_sum(copy: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&copy[..12]);
    hasher.update(&copy[16..]);
    hasher.finalize()
}

/// A frame that was found sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Length of the payload, in bytes; 0 for a frame that only says that all before it is on the disk.
    pub length: usize,
    /// How many bytes before it may not have been on the disk when it was written.
    pub behind: u64,
}

/// What some bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// A sound frame.
    Sound(Frame),
    /// The head of a frame of so many bytes, whose sum is wrong: the next one starts behind it.
    Hurt(usize),
    /// No frame.
    None,
}

/// Opens a frame with an empty head behind `bytes`; the caller appends the payload, then calls [`close_frame`].
pub fn open_frame(bytes: &mut Vec<u8>) -> usize {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; HEAD_BYTES]);
    start
}

/// Writes the length of the frame that starts at `start` and ends where `bytes` end. The rest of its head is for
/// [`seal`], which knows where the frame goes.
pub fn close_frame(bytes: &mut [u8], start: usize) {
    let length = bytes.len() - start - HEAD_BYTES;
    assert!(length <= PAYLOAD_BYTES_MAX, "no record is longer");
    bytes[start + 4..start + 8].copy_from_slice(&(length as u32).to_le_bytes());
}

/// Length of the whole frame that `bytes` start with, as its head says.
pub fn frame_bytes(bytes: &[u8]) -> usize {
    HEAD_BYTES + u32_at(bytes, 4) as usize
}

/// Fills in the head of the frame that is `bytes`, which goes to `position`.
pub fn seal(bytes: &mut [u8], salt: u64, position: u64, behind: u64) {
    let behind = u32::try_from(behind).expect("less than a segment is ever behind");
    bytes[8..12].copy_from_slice(&behind.to_le_bytes());
    let mut hasher = mark(bytes, salt, position);
    let mark = hasher.clone().finalize();
    bytes[..4].copy_from_slice(&mark.to_le_bytes());
    hasher.update(&bytes[HEAD_BYTES..]);
    let sum = hasher.finalize();
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
}

/// What `bytes` start with, as the frame of that position.
pub fn frame(bytes: &[u8], salt: u64, position: u64) -> Framed {
    let Some(head) = bytes.get(..HEAD_BYTES) else { return Framed::None };
    let length = u32_at(head, 4) as usize;
    // Before any sum is made: in most bytes that are no frame, this is no length.
    if length > PAYLOAD_BYTES_MAX || length > bytes.len() - HEAD_BYTES {
        return Framed::None;
    }
    let mut hasher = mark(head, salt, position);
    if hasher.clone().finalize() != u32_at(head, 0) {
        return Framed::None;
    }
    hasher.update(&bytes[HEAD_BYTES..HEAD_BYTES + length]);
    if hasher.finalize() != u32_at(head, 12) {
        return Framed::Hurt(HEAD_BYTES + length);
    }
    Framed::Sound(Frame { length, behind: u64::from(u32_at(head, 8)) })
}

/// Whether there is nothing in `bytes`: space that was made ready, and not written to.
pub fn is_blank(bytes: &[u8]) -> bool {
    // Whole words first: the end of a segment is megabytes of zeros.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| *word == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

/// Whether a crash may have left what stands where a frame or a header of so many bytes should start: nothing; or what a power
/// cut leaves, which loses whole sectors, that then are the zeros that were made ready; or a write that was broken off, which
/// leaves zeros behind its last byte.
pub fn may_be_torn(bytes: &[u8], offset: usize, length: usize) -> bool {
    let Some(found) = bytes.get(offset..offset + length) else { return false };
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES).min(length);
    let mut sectors = iter::once(&found[..first]).chain(found[first..].chunks(SECTOR_BYTES));
    is_blank(&found[..MARK_BYTES]) || sectors.any(is_blank) || is_blank(&bytes[offset + length - 1..])
}

fn mark(head: &[u8], salt: u64, position: u64) -> crc32fast::Hasher {
    let mut place = [0; 24];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..16].copy_from_slice(&position.to_le_bytes());
    place[16..].copy_from_slice(&head[4..12]);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place);
    hasher
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Where the segment of that number is.
pub fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal-{number:08}"))
}

/// The number in the name of a segment's file; none for other files.
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("journal-")?;
    let number = digits.parse().ok().filter(|number| (1..=NUMBER_MAX).contains(number))?;
    (format!("{number:08}") == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(payload: &[u8], salt: u64, position: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let start = open_frame(&mut bytes);
        bytes.extend_from_slice(payload);
        close_frame(&mut bytes, start);
        seal(&mut bytes, salt, position, 3);
        bytes
    }

    #[test]
    fn a_frame_is_one_at_its_own_position_of_its_own_journal_only() {
        let bytes = framed(b"payload", 5, 1000);
        assert_eq!(frame(&bytes, 5, 1000), Framed::Sound(Frame { length: 7, behind: 3 }));
        assert_eq!(frame(&bytes, 5, 1001), Framed::None);
        assert_eq!(frame(&bytes, 6, 1000), Framed::None);
        assert_eq!(frame(&bytes[..bytes.len() - 1], 5, 1000), Framed::None);
    }

    #[test]
    fn every_flipped_bit_of_a_frame_shows_and_one_of_the_payload_leaves_its_length() {
        let sound = framed(b"some payload", 5, 1000);
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let hurt = if bit / 8 < 12 { Framed::None } else { Framed::Hurt(sound.len()) };
            assert_eq!(frame(&bytes, 5, 1000), hurt, "bit {bit}");
        }
    }

    #[test]
    fn a_crash_loses_whole_sectors_or_the_end_of_a_write() {
        let mut bytes = vec![0; 2048];
        bytes[..1300].fill(7);
        let check = |bytes: &[u8], offset, length, expected| {
            assert_eq!(may_be_torn(bytes, offset, length), expected, "{length} bytes at {offset}");
        };
        check(&bytes, 600, 16, false);
        check(&bytes, 600, 600, false);
        check(&bytes, 1000, 400, true);
        check(&bytes, 1300, 16, true);
        check(&bytes, 1290, 16, true);
        check(&bytes[..1310], 1300, 16, false);
        bytes[512..1024].fill(0);
        check(&bytes, 500, 16, true);
        check(&bytes, 400, 1000, true);
        check(&bytes, 400, 500, true);
        check(&bytes, 400, 100, false);
    }

    #[test]
    fn a_header_is_read_from_either_copy() {
        let header = Header { number: 3, start: 99, end: 0, size: 0, salt: 7 };
        let sound = header.encode();
        assert_eq!(Header::decode(&sound), Headed::Sound(header, true));
        for at in 0..HEADER_BYTES {
            let mut bytes = sound;
            bytes[at] ^= 2;
            assert_eq!(Header::decode(&bytes), Headed::Sound(header, false), "byte {at}");
        }
        let far = Header { start: u64::MAX, ..header };
        assert_eq!(Header::decode(&far.encode()), Headed::Bad);
        (0..COPY_BYTES).for_each(|end| assert_eq!(Header::decode(&sound[..end]), Headed::Bad));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = |number| path(Path::new(""), number).to_str().and_then(super::number);
        assert_eq!((name(1), name(99_999_999), name(123_456_789)), (Some(1), Some(99_999_999), Some(123_456_789)));
        for other in [
            "journal-1",
            "journal-00000000",
            "journal-00000001.damaged",
            "journal-+0000001",
            "journal-18446744073709551615",
            "lock",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}

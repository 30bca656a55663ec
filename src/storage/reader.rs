//! Reads a journal: all that is sound, in order, and what is wrong with the rest. Changes nothing.
//!
//! A *hole* is a place where something should be and is not. Whether it is damage or only the end of what a power cut
//! left is not known before something sound follows that was written when the place was on the disk already. Until then
//! the records behind it are held back: less than a segment of them.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::{self, Read},
    mem,
    ops::Range,
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use super::{
    StoreError,
    format::{self, Framed, HEAD_BYTES, HEADER_BYTES, Headed, Header, SEGMENT_BYTES_MAX},
    found::{DAMAGE_MAX, Damage, Found, Torn, Why},
};
use crate::{
    record::{Record, RecordError},
    snapshot::Part,
};

/// Records are handed from thread to thread in batches of so many bytes, and so many batches wait at most.
const BATCH_BYTES: usize = 256 << 10;
const BATCHES_MAX: usize = 4;

/// What a journal looks like.
pub(super) struct Survey {
    pub found: Found,
    /// Its files, in order.
    pub pieces: Vec<Piece>,
    /// Position behind the last sound record.
    pub position: u64,
    /// The journal's salt, if any header says it.
    pub salt: Option<u64>,
    /// The piece, and the place in it, from which on all is torn.
    pub torn: Option<(usize, usize)>,
    /// Where the last snapshot that came to its end lies, counted as [`Found::bytes`] is.
    pub snapshot: Option<Range<u64>>,
}

/// One file of a journal.
pub(super) struct Piece {
    pub number: u64,
    pub path: PathBuf,
    /// Position of its first frame, and of the one behind its last.
    pub start: u64,
    pub end: u64,
    /// Where its sound frames are, in the file.
    pub kept: Vec<Range<usize>>,
    /// It must be written anew to be sound.
    pub bad: bool,
    /// It was written anew once, so that it takes no more.
    pub mended: bool,
    /// Nothing was ever written to it.
    pub blank: bool,
    /// Where its frames end, in the file, and the file's length.
    pub offset: usize,
    pub size: u64,
}

/// The numbers of the segments in a directory, in order.
pub(super) fn numbers(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("read", dir))? {
        let entry = entry.map_err(StoreError::io("read", dir))?;
        numbers.extend(entry.file_name().to_str().and_then(format::number));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the journal in `dir`, and hands each sound record to `each` while the next ones are read in another thread.
pub(super) fn read(dir: &Path, each: &mut dyn FnMut(Record)) -> Result<Survey, StoreError> {
    let numbers = numbers(dir)?;
    let salt = salt(dir, &numbers)?;
    thread::scope(|scope| {
        let (batches, received) = sync_channel(BATCHES_MAX);
        let reader = scope.spawn(move || Scan::new(salt, batches).journal(dir, &numbers));
        received.into_iter().flatten().for_each(each);
        reader.join().expect("the reader does not panic")
    })
}

/// The salt that most headers have, so that a file from elsewhere does not make strangers of all others. A file of a
/// newer version is found here, before any record was handed over.
fn salt(dir: &Path, numbers: &[u64]) -> Result<Option<u64>, StoreError> {
    let mut salts = BTreeMap::new();
    let mut bytes = Vec::new();
    for number in numbers {
        let path = format::path(dir, *number);
        head_of(&path, HEADER_BYTES as u64, &mut bytes).map_err(StoreError::io("read", &path))?;
        match Header::decode(&bytes) {
            Headed::Sound(header, _) => *salts.entry(header.salt).or_insert(0_u64) += 1,
            Headed::Newer(version) => return Err(StoreError::Newer(path, version)),
            Headed::Bad => {}
        }
    }
    Ok(salts.into_iter().max_by_key(|(_, count)| *count).map(|(salt, _)| salt))
}

/// Reads at most the first `length` bytes of a file.
fn head_of(path: &Path, length: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    bytes.reserve(length as usize);
    File::open(path)?.take(length).read_to_end(bytes)?;
    Ok(())
}

/// The reading thread.
struct Scan {
    batches: SyncSender<Vec<Record>>,
    batch: Vec<Record>,
    batch_bytes: usize,
    /// Holes of which it is not known what they are, in order, each with the records behind it.
    holes: VecDeque<Hole>,
    /// The position and the piece of the last gap, which is open as long as nothing sound follows.
    gap: Option<(u64, usize)>,
    /// Sound records so far, also those held back.
    records: u64,
    /// Where the last base of a snapshot starts, counted as [`Found::bytes`] is.
    base: Option<u64>,
    survey: Survey,
}

struct Hole {
    /// Position.
    at: u64,
    piece: usize,
    damage: Damage,
    held: Vec<(Record, usize)>,
}

impl Scan {
    fn new(salt: Option<u64>, batches: SyncSender<Vec<Record>>) -> Scan {
        let found = Found::default();
        let survey = Survey { found, pieces: Vec::new(), position: 0, salt, torn: None, snapshot: None };
        Scan {
            batches,
            batch: Vec::new(),
            batch_bytes: 0,
            holes: VecDeque::new(),
            gap: None,
            records: 0,
            base: None,
            survey,
        }
    }

    fn journal(mut self, dir: &Path, numbers: &[u64]) -> Result<Survey, StoreError> {
        let mut bytes = Vec::new();
        for number in numbers {
            let path = format::path(dir, *number);
            let size = fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
            head_of(&path, size.min(SEGMENT_BYTES_MAX), &mut bytes).map_err(StoreError::io("read", &path))?;
            self.segment(*number, path, size, &bytes)?;
        }
        if let Some(hole) = self.holes.front() {
            let records = self.holes.iter().map(|hole| hole.held.len() as u64).sum();
            let Damage { file, offset, .. } = hole.damage.clone();
            self.survey.torn = Some((hole.piece, offset as usize));
            self.survey.found.torn = Some(Torn { file, offset, records });
            self.survey.position = hole.at;
        }
        self.send();
        Ok(self.survey)
    }

    fn segment(&mut self, number: u64, path: PathBuf, size: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let position = self.survey.position;
        let last = self.survey.pieces.last().map_or(0, |piece| piece.number);
        self.survey.found.cut |= last == 0 && number > 1;
        // Before another one is made ready, this one was, and the first one had its header on the disk.
        let lost = |piece: &Piece| piece.blank && (piece.number == 1 || piece.size < HEADER_BYTES as u64);
        if self.survey.pieces.last().is_some_and(lost) {
            self.damage(0, Why::Missing);
        }
        let blank = format::is_blank(bytes);
        self.survey.pieces.push(Piece {
            number,
            path,
            start: position,
            end: position,
            kept: Vec::new(),
            bad: false,
            mended: false,
            blank,
            offset: bytes.len().min(HEADER_BYTES),
            size,
        });
        if size > SEGMENT_BYTES_MAX {
            self.damage(SEGMENT_BYTES_MAX as usize, Why::TooLong);
        }
        if blank {
            // The one made ready for what comes next. One of the others has gone if its number does not follow.
            if number != last + 1 {
                self.damage(0, Why::Missing);
            }
            return Ok(());
        }
        let Some((header, salt)) = self.header(bytes) else { return Ok(()) };
        let end = self.frames(bytes, salt)?;
        if let Some(header) = header {
            self.ends(end, size, header);
        }
        self.piece().end = self.survey.position;
        Ok(())
    }

    /// The frames of a segment have ended; its header says where they had to, or how long the file was.
    fn ends(&mut self, end: usize, size: u64, header: Header) {
        if header.end == 0 {
            if size < header.size {
                self.open_gap();
                self.damage(end, Why::Missing);
            }
            return;
        }
        self.piece().mended = true;
        if end as u64 != header.size || self.survey.position > header.end {
            self.damage(end, Why::Missing);
        }
        self.survey.position = self.survey.position.max(header.end);
    }

    /// Takes the header, and the salt to read the frames with; none if they cannot be read.
    fn header(&mut self, bytes: &[u8]) -> Option<(Option<Header>, u64)> {
        let number = self.piece().number;
        let first = self.survey.pieces.len() == 1;
        match Header::decode(bytes) {
            Headed::Sound(header, both) if header.number == number && self.survey.salt == Some(header.salt) => {
                if !both {
                    self.damage(0, Why::Header);
                }
                self.start(header.start);
                Some((Some(header), header.salt))
            }
            Headed::Sound(..) | Headed::Newer(_) => {
                self.damage(0, Why::Stranger);
                None
            }
            // The first header was on the disk before anything was stored. Each other may be lost with the frames that
            // were written with it.
            Headed::Bad if first && bytes.len() > HEADER_BYTES && !format::is_blank(&bytes[HEADER_BYTES..]) => {
                self.damage(0, Why::Header);
                self.survey.salt.map(|salt| (None, salt))
            }
            Headed::Bad => {
                self.gap(bytes, 0, HEADER_BYTES, Why::Header);
                self.survey.salt.map(|salt| (None, salt))
            }
        }
    }

    /// A segment says that it starts at `start`. All files before were as they should be when that was written.
    fn start(&mut self, start: u64) {
        let position = self.survey.position;
        let open = self.gap.filter(|(at, _)| *at == position).map(|(_, piece)| piece);
        self.settle(start.saturating_add(1));
        if let Some(before) = open.filter(|_| start > position) {
            // What is missing is in the gap at the end of that piece.
            self.survey.pieces[before].end = start;
            self.piece().start = start;
        } else if self.survey.pieces.len() == 1 && self.survey.found.cut {
            self.piece().start = start;
        } else if start != position {
            // The piece is mended by moving it to where the one before it ends.
            self.damage(0, if start > position { Why::Missing } else { Why::Stranger });
        }
        self.survey.position = start;
    }

    /// Reads the frames of a segment, and returns where they end.
    fn frames(&mut self, bytes: &[u8], salt: u64) -> Result<usize, StoreError> {
        let start = self.survey.position;
        let mut offset = HEADER_BYTES;
        let mut end = offset;
        while offset < bytes.len() {
            let position = start + (offset - HEADER_BYTES) as u64;
            match format::frame(&bytes[offset..], salt, position) {
                Framed::Sound(frame) => {
                    // No more than a segment is ever behind, whatever a file says: so much is held back at most.
                    self.settle(position.saturating_sub(frame.behind.min(SEGMENT_BYTES_MAX)));
                    let payload = offset + HEAD_BYTES..offset + HEAD_BYTES + frame.length;
                    self.keep(offset..payload.end);
                    self.payload(&bytes[payload], offset)?;
                    offset += HEAD_BYTES + frame.length;
                    end = offset;
                    self.survey.position = start + (end - HEADER_BYTES) as u64;
                }
                _ if format::is_blank(&bytes[offset..]) => break,
                Framed::Hurt(length) => {
                    self.gap(bytes, offset, length, Why::Bytes);
                    offset += length;
                }
                Framed::None => {
                    self.gap(bytes, offset, HEAD_BYTES, Why::Bytes);
                    offset = next(bytes, salt, start, offset + 1);
                }
            }
        }
        self.piece().offset = end;
        Ok(end)
    }

    /// Takes what a sound frame holds.
    fn payload(&mut self, payload: &[u8], offset: usize) -> Result<(), StoreError> {
        if payload.is_empty() {
            return Ok(());
        }
        match Record::decode(payload) {
            Ok(record) => {
                self.records += 1;
                match self.holes.back_mut() {
                    Some(hole) => hole.held.push((record, payload.len())),
                    None => self.emit(record, payload.len()),
                }
            }
            // Not damage: what a newer version wrote must not be dropped by an older one.
            Err(RecordError::Kind) => return Err(StoreError::NewerRecord(self.piece().path.clone())),
            Err(_) => {
                let frame = self.piece().kept.last_mut().expect("the frame was just kept");
                frame.end = offset;
                self.damage(offset, Why::Record);
            }
        }
        Ok(())
    }

    fn keep(&mut self, frame: Range<usize>) {
        let kept = &mut self.piece().kept;
        match kept.last_mut() {
            Some(last) if last.end == frame.start => last.end = frame.end,
            _ => kept.push(frame),
        }
    }

    fn open_gap(&mut self) {
        self.gap = Some((self.survey.position, self.survey.pieces.len() - 1));
    }

    /// So many bytes are not what they should be: damage, if no crash leaves them so.
    fn gap(&mut self, bytes: &[u8], offset: usize, length: usize, why: Why) {
        self.open_gap();
        if format::may_be_torn(bytes, offset, length) { self.hole(offset, why) } else { self.damage(offset, why) }
    }

    /// Something is missing from here on, and is damage.
    fn damage(&mut self, offset: usize, why: Why) {
        self.piece().bad = true;
        let damage = self.describe(offset, why);
        self.tell(damage);
    }

    /// Something is missing from here on. What it is will turn out; it is one hole until something sound comes.
    fn hole(&mut self, offset: usize, why: Why) {
        let at = self.survey.position;
        let piece = self.survey.pieces.len() - 1;
        if self.holes.back().is_none_or(|hole| hole.at < at || hole.piece < piece) {
            let damage = self.describe(offset, why);
            self.holes.push_back(Hole { at, piece, damage, held: Vec::new() });
        }
    }

    /// All before `synced` was on the disk once: each hole there is damage.
    fn settle(&mut self, synced: u64) {
        while self.holes.front().is_some_and(|hole| hole.at < synced) {
            let Some(hole) = self.holes.pop_front() else { return };
            self.survey.pieces[hole.piece].bad = true;
            self.tell(hole.damage);
            hole.held.into_iter().for_each(|(record, length)| self.emit(record, length));
        }
    }

    fn describe(&mut self, offset: usize, why: Why) -> Damage {
        let record = self.records;
        let name = self.piece().path.file_name().unwrap_or_default();
        Damage { file: name.to_string_lossy().into_owned(), offset: offset as u64, record, why }
    }

    fn tell(&mut self, damage: Damage) {
        let told = &mut self.survey.found.damage;
        if told.len() < DAMAGE_MAX {
            told.push(damage);
        }
    }

    fn piece(&mut self) -> &mut Piece {
        self.survey.pieces.last_mut().expect("a segment is being read")
    }

    fn emit(&mut self, record: Record, length: usize) {
        let found = &mut self.survey.found;
        let start = found.bytes;
        found.records += 1;
        found.bytes += (HEAD_BYTES + length) as u64;
        match (&record, self.base) {
            (Record::Snapshot(Part::Base(_)), _) => self.base = Some(start),
            (Record::Snapshot(Part::Whole(_)), Some(base)) => self.survey.snapshot = Some(base..found.bytes),
            _ => {}
        }
        self.batch.push(record);
        self.batch_bytes += length;
        if self.batch_bytes >= BATCH_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        self.batch_bytes = 0;
        // The other side receives until this one is done.
        let _ = self.batches.send(mem::take(&mut self.batch));
    }
}

/// Where the next frame starts whose head is right, from `offset` on; else the end.
fn next(bytes: &[u8], salt: u64, start: u64, mut offset: usize) -> usize {
    while offset + HEAD_BYTES <= bytes.len() {
        // A whole head of zeros is none: runs of them are passed over quickly.
        if bytes[offset..offset + HEAD_BYTES] != [0; HEAD_BYTES]
            && format::frame(&bytes[offset..], salt, start + (offset - HEADER_BYTES) as u64) != Framed::None
        {
            return offset;
        }
        offset += 1;
    }
    bytes.len()
}

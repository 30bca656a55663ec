//! The journal: the records of a node on disk, in the order in which they were appended.
//!
//! A directory holds the file `lock`, which keeps a second process out, and segments `journal-00000001` …, whose bytes
//! `format` describes. `reader` reads them, `mender` mends what a crash or a bad disk has done to them, and `writer` is
//! the one thread that appends. A [`Store`] is what the rest of the program sees of that. What the records mean is not
//! known here, but for where a snapshot begins and ends: what lies before a whole one is removed by `cutter`.

mod cutter;
mod disk;
mod error;
mod format;
mod found;
mod mender;
mod meters;
mod reader;
mod stream;
mod writer;

use std::{
    collections::VecDeque,
    fs::{self, File, TryLockError},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::watch;
use uuid::Uuid;

use cutter::Cutter;
pub use disk::{Disk, DiskFile, RealDisk};
pub use error::StoreError;
pub use format::PAYLOAD_BYTES_MAX as RECORD_BYTES_MAX;
pub use found::{DAMAGE_MAX, Damage, Found, Torn, Why};
pub use meters::Meters;
pub use stream::{RecordStream, STREAM_END, Streamed, Unreadable, streamed};
use writer::{Cut, Marks, Pending, Segment, Shared, Writer};

use crate::{op::OP_BYTES_MAX, record::Record, snapshot::Part};

/// When appended records count as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// When they are on the disk. A power cut takes nothing that is stored. The default.
    #[default]
    Always,
    /// When the system has them, which puts them on the disk each second: a power cut takes at most about the last
    /// second, the end of the process nothing.
    Interval,
    /// When the system has them, which puts them on the disk when it likes, and at the latest when a segment is full: a
    /// power cut takes at most the last segment, the end of the process nothing.
    Never,
}

/// Sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Length of a segment, in bytes; one that must take a longer record is longer. At most 64 MiB. Default: 16 MiB.
    pub segment_bytes: u64,
    /// How much must fit beyond what is appended for there to be room, in bytes. Half of it is for what only deletes, on a
    /// full disk. Default: the longest op and 1 MiB.
    pub reserve_bytes: u64,
    /// How much the journal may grow, beyond twice its last snapshot, before a new one is wanted, in bytes. Less is a
    /// shorter journal, that is read sooner at a start; more is less to write. From 0 on, for even then snapshots take no
    /// more than all else, or twice that where documents are only added. Default: 64 MiB.
    pub snapshot_bytes: u64,
}

/// How much the next records of a snapshot may take, in bytes: a part, with the longest document on top.
const SLICE_BYTES: u64 = 2 << 20;

impl Default for Layout {
    fn default() -> Layout {
        Layout { segment_bytes: 16 << 20, reserve_bytes: OP_BYTES_MAX as u64 + (1 << 20), snapshot_bytes: 64 << 20 }
    }
}

/// How to keep a journal.
#[derive(Clone)]
pub struct Options {
    /// When appended records count as stored.
    pub sync: SyncMode,
    /// Sizes.
    pub layout: Layout,
    /// Where to.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Options {
        Options { sync: SyncMode::default(), layout: Layout::default(), disk: Arc::new(RealDisk) }
    }
}

/// How far a journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// All that was appended up to this position is stored, as the [`SyncMode`] has it.
    pub stored: u64,
    /// Whether the space that is made ready takes an op more. It comes back by itself when the disk has space again.
    pub room: bool,
    /// How long it is, in bytes: from the beginning of its first segment on. What is behind a whole snapshot is removed
    /// little by little.
    pub length: u64,
    /// Why nothing is stored any more. The journal must be closed; when it is opened again, what it holds is known.
    pub failed: Option<String>,
}

/// An open journal.
///
/// [`Store::append`] and [`Store::flush`] never wait for the disk. A record is safe once [`Status::stored`] has reached
/// [`Store::end`] as it was after the record was appended. When it is dropped, all that was flushed is written.
#[derive(Debug)]
pub struct Store {
    buffer: Vec<u8>,
    end: u64,
    layout: Layout,
    /// Where the snapshot that is being appended begins.
    base: Option<u64>,
    /// Where the last whole one lies; if there is none, nothing where the journal begins.
    snapshot: Range<u64>,
    /// A snapshot is wanted, however short the journal is.
    lacks_beginning: bool,
    marks: Marks,
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
    writer: Option<JoinHandle<Result<(), StoreError>>>,
    _lock: Lock,
}

impl Store {
    /// Opens the journal in `dir`, or makes a new one, and hands its records to `each`, in order. A torn end is cut off,
    /// and damage mended, after all was read; of an error, too, some records may have been handed over before.
    pub fn open(dir: &Path, sync: SyncMode, each: &mut dyn FnMut(Record)) -> Result<(Store, Found), StoreError> {
        Store::open_with(dir, Options { sync, ..Options::default() }, each)
    }

    /// [`Store::open`] with all options.
    pub fn open_with(dir: &Path, options: Options, each: &mut dyn FnMut(Record)) -> Result<(Store, Found), StoreError> {
        let disk = &*options.disk;
        let lock = make_lock(disk, dir)?;
        settle(disk, dir)?;
        let mut survey = reader::read(dir, each)?;
        let salt = survey.salt.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0);
        let found = survey.found.clone();
        mender::mend(disk, dir, &mut survey, salt)?;
        if !found.damage.is_empty() {
            survey = mended(dir, &found)?;
        }
        let shared = Arc::new(Shared::new());
        let (sender, status) = watch::channel(Status { stored: survey.position, ..Status::default() });
        let number = survey.pieces.last().map_or(0, |piece| piece.number) + 1;
        let segment = |piece: &reader::Piece| -> Result<Segment, StoreError> {
            let file = disk.open(&piece.path).map_err(StoreError::io("open", &piece.path))?;
            let (path, size, offset) = (piece.path.clone(), piece.size, piece.offset as u64);
            Ok(Segment { file, path, number: piece.number, size, offset })
        };
        let current = survey.pieces.iter().rfind(|piece| !piece.blank).filter(|piece| !piece.mended);
        // The space of a spare may not be its own yet, if a crash came while it was made: with no size it is made anew.
        let spare = survey.pieces.last().filter(|piece| piece.blank).map(segment).transpose()?;
        let written = survey.pieces.iter().rposition(|piece| !piece.blank).map_or(0, |last| last + 1);
        let segments: VecDeque<_> = survey.pieces[..written].iter().map(|piece| (piece.number, piece.start)).collect();
        let mut writer = Writer {
            cutter: Cutter::new(segments),
            current: current.map(segment).transpose()?,
            spare: spare.map(|spare| Segment { size: 0, ..spare }),
            disk: Arc::clone(&options.disk),
            dir: dir.to_owned(),
            mode: options.sync,
            layout: Layout {
                segment_bytes: options.layout.segment_bytes.min(format::SEGMENT_BYTES_MAX),
                ..options.layout
            },
            salt,
            position: survey.position,
            synced: survey.position,
            number,
            shared: Arc::clone(&shared),
            status: sender,
            pending: Pending::default(),
        };
        writer.prepare()?;
        let thread = thread::Builder::new().name("journal".into()).spawn(move || writer.run());
        let writer = Some(thread.map_err(StoreError::io("start the thread that writes to", dir))?);
        let end = survey.position;
        // Counted from the end, for before it something may be missing.
        let place = |bytes: u64| end.saturating_sub(survey.found.bytes - bytes);
        let snapshot = survey.snapshot.map_or(place(0)..place(0), |at| place(at.start)..place(at.end));
        let (buffer, base, marks, layout) = (Vec::new(), None, Marks::default(), options.layout);
        let lacks_beginning = false;
        let store =
            Store { buffer, end, layout, base, snapshot, lacks_beginning, marks, shared, status, writer, _lock: lock };
        Ok((store, found))
    }

    /// Appends a record, in memory. It goes to the disk with the next [`Store::flush`].
    pub fn append(&mut self, record: &Record) {
        let start = format::open_frame(&mut self.buffer);
        record.encode(&mut self.buffer);
        format::close_frame(&mut self.buffer, start);
        let place = self.end;
        self.end += (self.buffer.len() - start) as u64;
        match record {
            Record::Snapshot(Part::Base(_)) => (self.base, self.marks.base) = (Some(place), Some(place)),
            Record::Snapshot(Part::Whole(_)) => {
                if let Some(base) = self.base.take() {
                    self.marks.cut = Some(Cut { base, end: self.end });
                    self.snapshot = base..self.end;
                    self.lacks_beginning = false;
                }
            }
            Record::Forget => self.base = None,
            _ => {}
        }
    }

    /// Position behind the last appended record, in bytes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Hands all that was appended to the thread that writes.
    pub fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.shared.push(&mut self.buffer, &mut self.marks);
        }
    }

    /// Whether there is room for one more op, whatever its length, behind what is appended: [`Status::room`], to the
    /// record.
    pub fn room(&self) -> bool {
        self.takes(self.layout.reserve_bytes)
    }

    /// Whether there is room for an op that only deletes, which is short: the half of the reserve that others leave.
    pub fn deletion_room(&self) -> bool {
        self.takes(self.layout.reserve_bytes / 2)
    }

    /// Whether the next records of a snapshot leave the room that ops need.
    pub fn snapshot_room(&self) -> bool {
        self.takes(self.layout.reserve_bytes + SLICE_BYTES)
    }

    fn takes(&self, bytes: u64) -> bool {
        let limit = self.shared.limit.load(Ordering::Acquire);
        self.status.borrow().failed.is_none() && self.end + bytes <= limit
    }

    /// Whether the journal has grown so long that a snapshot should take the place of what is in it.
    pub fn is_long(&self) -> bool {
        let Range { start, end } = self.snapshot;
        self.lacks_beginning || self.end - start > 2 * (end - start) + self.layout.snapshot_bytes
    }

    /// Says that the records which were read do not make a whole beginning: a snapshot is wanted, so that the next start
    /// finds one.
    pub fn lack_beginning(&mut self) {
        self.lacks_beginning = true;
    }

    /// How far it is, as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What it has counted since it was opened.
    pub fn meters(&self) -> Arc<Meters> {
        Arc::clone(&self.shared.meters)
    }

    /// Writes all that was appended, puts it on the disk in every [`SyncMode`], and ends the thread. Waits for that.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.flush();
        self.finish()
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.shared.close();
        let ended = self.writer.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(StoreError::Failed("the journal's thread panicked".into())))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Whoever wants to know closes it.
        let _ = self.finish();
    }
}

/// The file that keeps other processes out while it is open.
#[derive(Debug)]
pub struct Lock(File);

/// Keeps other processes out of a directory, which is made if it is not there.
pub fn lock(dir: &Path) -> Result<Lock, StoreError> {
    make_lock(&RealDisk, dir)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // To close it is not enough while a child process that is just being started has it open too. What fails here
        // is done when that process starts.
        let _ = self.0.unlock();
    }
}

/// Reads the journal in `dir` without changing anything, and keeps other processes out meanwhile.
pub fn read(dir: &Path, each: &mut dyn FnMut(Record)) -> Result<Found, StoreError> {
    let path = dir.join("lock");
    let lock = match File::open(&path) {
        Ok(file) => Some(locked(file, dir)?),
        // A copy of a journal may lack it; then no process can be using it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(StoreError::io("open", &path)(error)),
    };
    let survey = reader::read(dir, each)?;
    drop(lock);
    Ok(survey.found)
}

/// Writes a new journal with these records into `dir`, which must hold none, and puts it on the disk. What a failure
/// leaves behind is to be removed.
pub fn copy(dir: &Path, records: impl IntoIterator<Item = Record>) -> Result<(), StoreError> {
    let lock = make_lock(&RealDisk, dir)?;
    if !reader::numbers(dir)?.is_empty() {
        return Err(StoreError::Exists(dir.to_owned()));
    }
    drop(lock);
    let (mut store, _) = Store::open(dir, SyncMode::Never, &mut drop)?;
    for record in records {
        store.append(&record);
        if store.buffer.len() >= COPY_BYTES {
            store.flush();
            await_stored(&store, dir)?;
        }
    }
    store.close()
}

/// Waits, in this thread, until all that was flushed is written.
fn await_stored(store: &Store, dir: &Path) -> Result<(), StoreError> {
    loop {
        let status = store.status.borrow().clone();
        match status {
            Status { failed: Some(why), .. } => return Err(StoreError::Failed(why)),
            Status { room: false, .. } => return Err(StoreError::Full(dir.to_owned())),
            Status { stored, .. } if stored >= store.end => return Ok(()),
            // A write of a megabyte takes about that long.
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// How much [`copy`] holds in memory, in bytes.
const COPY_BYTES: usize = 1 << 20;

fn make_lock(disk: &dyn Disk, dir: &Path) -> Result<Lock, StoreError> {
    if !dir.is_dir() {
        fs::create_dir_all(dir).map_err(StoreError::io("make", dir))?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        disk.sync_dir(parent).map_err(StoreError::io("sync", parent))?;
    }
    let path = dir.join("lock");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    locked(file.map_err(StoreError::io("open", &path))?, dir)
}

fn locked(file: File, dir: &Path) -> Result<Lock, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", dir)(error)),
    }
}

/// Puts on the disk what a process that ended has left in memory, and forgets the rest of it, so that what is read is
/// what the disk has. Only the last segments can be concerned: each other one was synced before.
fn settle(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    for number in reader::numbers(dir)?.into_iter().rev().take(2) {
        let path: PathBuf = format::path(dir, number);
        let file = disk.open(&path).map_err(StoreError::io("open", &path))?;
        file.sync().map_err(StoreError::io("sync", &path))?;
        file.forget();
    }
    disk.sync_dir(dir).map_err(StoreError::io("sync", dir))
}

/// Reads a journal again that was just mended: it must be sound, and hold no less.
fn mended(dir: &Path, before: &Found) -> Result<reader::Survey, StoreError> {
    let after = reader::read(dir, &mut drop)?;
    if after.found.damage.is_empty() && after.found.torn.is_none() && after.found.records == before.records {
        return Ok(after);
    }
    let dir = dir.display();
    Err(StoreError::Failed(format!(
        "the journal in {dir} is damaged and could not be mended; its files are kept aside"
    )))
}

//! The thread that writes a journal. It alone changes files while the journal is open.
//!
//! All that gathers while it writes and syncs is one write and one sync more. It makes the next segment ready before the
//! current one is full, so that a full disk shows before an op is taken. What failed for want of space is tried again
//! from the same place; what failed otherwise is not: after a failed sync, a second one succeeds with the data gone.

use std::{
    io, mem,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Layout, Status, StoreError, SyncMode,
    cutter::Cutter,
    disk::{Disk, DiskFile, is_full},
    format::{self, HEAD_BYTES, HEADER_BYTES, Header},
    meters::Meters,
};

/// How long to wait before trying again on a full disk.
const RETRY: Duration = Duration::from_secs(1);
/// How long [`SyncMode::Interval`] lets written data be unsynced.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the caller's side and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// Rung when the queue changes.
    work: Condvar,
    /// Up to this position there is space that is the journal's own.
    pub limit: AtomicU64,
    pub meters: Arc<Meters>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Frames without their heads filled in, to be written in this order.
    frames: Vec<u8>,
    marks: Marks,
    closing: bool,
    /// The thread has ended: nothing is taken any more.
    ended: bool,
}

/// What of the frames is of a snapshot, by their positions. Only the last one counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// Where one begins.
    pub base: Option<u64>,
    /// One that is whole.
    pub cut: Option<Cut>,
}

/// That all before a position is needless once all before another is on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Where the snapshot begins.
    pub base: u64,
    /// Where it ends.
    pub end: u64,
}

impl Marks {
    /// Takes newer ones, and leaves none.
    fn take_over(&mut self, newer: &mut Marks) {
        let Marks { base, cut } = mem::take(newer);
        *self = Marks { base: base.or(self.base), cut: cut.or(self.cut) };
    }
}

impl Shared {
    pub fn new() -> Shared {
        Shared { queue: Mutex::default(), work: Condvar::new(), limit: AtomicU64::new(0), meters: Arc::default() }
    }

    /// Hands frames over, and leaves an empty buffer.
    pub fn push(&self, frames: &mut Vec<u8>, marks: &mut Marks) {
        let mut queue = self.queue();
        queue.marks.take_over(marks);
        if queue.ended {
            frames.clear();
        } else if queue.frames.is_empty() {
            mem::swap(&mut queue.frames, frames);
        } else {
            queue.frames.append(frames);
        }
        self.work.notify_one();
    }

    /// Asks the thread to write all that it was handed, and to end.
    pub fn close(&self) {
        self.queue().closing = true;
        self.work.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it holds the lock; and what it guards is whole at any moment.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A segment that is written to, or will be.
pub(super) struct Segment {
    pub file: Box<dyn DiskFile>,
    pub path: PathBuf,
    pub number: u64,
    /// Length of the file, in bytes.
    pub size: u64,
    /// Where the next frame goes.
    pub offset: u64,
}

/// Why a step could not be done.
enum Trouble {
    /// There is no space.
    Full,
    /// Anything else. The sentence is for people.
    Failed(String),
}

pub(super) struct Writer {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub mode: SyncMode,
    pub layout: Layout,
    pub salt: u64,
    /// Where the next frame goes, and up to where all is on the disk: positions.
    pub position: u64,
    pub synced: u64,
    pub current: Option<Segment>,
    pub spare: Option<Segment>,
    /// Of the next segment to be made.
    pub number: u64,
    pub cutter: Cutter,
    pub shared: Arc<Shared>,
    pub status: watch::Sender<Status>,
    pub pending: Pending,
}

/// What the thread has taken on and not yet done.
#[derive(Default)]
pub(super) struct Pending {
    /// Frames, of which those before `written` are in the file.
    frames: Vec<u8>,
    written: usize,
    marks: Marks,
    /// When to try again, while there is no space.
    retry: Option<Instant>,
    /// When to sync, in [`SyncMode::Interval`].
    sync: Option<Instant>,
    /// Whether anything was written since the journal was opened.
    any: bool,
}

impl Writer {
    /// Makes space ready, as far as there is any.
    pub fn prepare(&mut self) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        if self.current.is_none() {
            // The first header is on the disk before anything else is: without it no frame could be told from chance.
            outcome = self.make_spare(0).and_then(|()| self.rotate(0)).and_then(|()| self.sync());
        }
        outcome = outcome.and_then(|()| self.make_spare(0));
        let full = matches!(outcome, Err(Trouble::Full));
        self.pending.retry = full.then(|| Instant::now() + RETRY);
        self.publish(None);
        match outcome {
            Ok(()) | Err(Trouble::Full) => Ok(()),
            Err(Trouble::Failed(why)) => Err(StoreError::Failed(why)),
        }
    }

    /// Runs until it is told to close, or fails.
    pub fn run(mut self) -> Result<(), StoreError> {
        let outcome = loop {
            let closing = self.gather();
            match self.turn(closing) {
                Ok(()) if closing => break self.finish(),
                Ok(()) => {}
                Err(Trouble::Full) if closing => break Err(Trouble::Full),
                Err(Trouble::Full) => self.pending.retry = Some(Instant::now() + RETRY),
                Err(failed) => break Err(failed),
            }
            self.publish(None);
        };
        let mut queue = self.shared.queue();
        queue.ended = true;
        queue.frames = Vec::new();
        drop(queue);
        match outcome {
            Ok(()) => {
                self.publish(None);
                Ok(())
            }
            Err(Trouble::Full) => {
                self.publish(None);
                Err(StoreError::Full(self.dir))
            }
            Err(Trouble::Failed(why)) => {
                self.publish(Some(why.clone()));
                Err(StoreError::Failed(why))
            }
        }
    }

    /// Waits for something to do, and takes it. Says whether it is the last.
    fn gather(&mut self) -> bool {
        let mut queue = self.shared.queue();
        loop {
            let ready = !queue.frames.is_empty() && self.pending.frames.is_empty();
            if queue.closing || ready || self.cutter.is_due() {
                break;
            }
            let due = [self.pending.retry, self.pending.sync].into_iter().flatten().min();
            let Some(due) = due else {
                queue = self.shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue = self.shared.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if self.pending.frames.is_empty() {
            self.pending.frames = mem::take(&mut queue.frames);
            self.pending.marks.take_over(&mut queue.marks);
        } else if queue.closing {
            self.pending.frames.append(&mut queue.frames);
            self.pending.marks.take_over(&mut queue.marks);
        }
        queue.closing
    }

    /// Writes what is pending, syncs what is due, removes a needless segment, and makes the next one ready.
    fn turn(&mut self, closing: bool) -> Result<(), Trouble> {
        let now = Instant::now();
        let before = (self.position, self.synced);
        let written = self.write();
        if let Err(Trouble::Failed(_)) = written {
            return written;
        }
        let whole = self.pending.marks.cut.filter(|cut| cut.end <= self.position);
        match self.mode {
            SyncMode::Always => self.sync()?,
            // What takes the place of what is removed must be on the disk, whatever is waited for else.
            SyncMode::Interval | SyncMode::Never if whole.is_some() => self.sync()?,
            SyncMode::Interval if self.pending.sync.is_some_and(|due| due <= now) => self.sync()?,
            SyncMode::Interval if self.position > self.synced && self.pending.sync.is_none() => {
                self.pending.sync = Some(now + INTERVAL);
            }
            SyncMode::Interval | SyncMode::Never => {}
        }
        if self.position > before.0
            && let Err(gone) = self.check_place()
        {
            (self.position, self.synced) = before;
            return Err(gone);
        }
        if let Some(cut) = whole {
            self.pending.marks.cut = None;
            self.cutter.cut(cut.base);
        }
        if self.cutter.is_due() {
            // One in a turn: it takes a sync, and others wait for what they have written. On a full disk it is what
            // makes room.
            self.publish(None);
            self.cutter.step(&*self.disk, &self.dir);
        }
        written?;
        if closing || self.pending.retry.is_some_and(|retry| now < retry) {
            return Ok(());
        }
        // What is stored is told before the next segment is made ready, which takes two syncs more.
        self.publish(None);
        self.make_spare(0)?;
        self.pending.retry = None;
        Ok(())
    }

    /// Syncs, and notes that all is on the disk: if the journal is read again, nothing in it can be called torn.
    fn finish(&mut self) -> Result<(), Trouble> {
        self.sync()?;
        while self.cutter.is_due() {
            self.cutter.step(&*self.disk, &self.dir);
        }
        let fits = self.current.as_ref().is_some_and(|segment| segment.size - segment.offset >= HEAD_BYTES as u64);
        if !self.pending.any || !fits {
            return Ok(());
        }
        let start = format::open_frame(&mut self.pending.frames);
        format::close_frame(&mut self.pending.frames, start);
        match self.write() {
            // It is not needed, so that its want is no failure.
            Err(Trouble::Full) => Ok(()),
            Err(failed) => Err(failed),
            Ok(()) => self.sync(),
        }
    }

    fn write(&mut self) -> Result<(), Trouble> {
        while self.pending.written < self.pending.frames.len() {
            self.turn_to_base()?;
            let run = self.seal_run();
            if run == 0 {
                let need = format::frame_bytes(&self.pending.frames[self.pending.written..]);
                self.rotate(need as u64)?;
                continue;
            }
            let segment = self.current.as_mut().expect("a run is of frames that fit");
            let bytes = &self.pending.frames[self.pending.written..self.pending.written + run];
            segment.file.write_at(bytes, segment.offset).map_err(trouble("write to", &segment.path))?;
            self.shared.meters.written_bytes.add(run as u64);
            segment.offset += run as u64;
            self.position += run as u64;
            self.pending.written += run;
            self.pending.any = true;
        }
        self.pending.frames = Vec::new();
        self.pending.written = 0;
        Ok(())
    }

    /// Where a snapshot begins, a new segment does, if one is ready: then all before it can go. Once, for what follows
    /// fits here too.
    fn turn_to_base(&mut self) -> Result<(), Trouble> {
        if self.pending.marks.base != Some(self.position) {
            return Ok(());
        }
        self.pending.marks.base = None;
        let ready = self.spare.as_ref().is_some_and(|spare| spare.size >= self.layout.segment_bytes);
        let begun = self.current.as_ref().is_some_and(|segment| segment.offset > HEADER_BYTES as u64);
        if ready && begun { self.rotate(0) } else { Ok(()) }
    }

    /// Fills in the heads of as many frames as the current segment takes, and returns their length in bytes.
    fn seal_run(&mut self) -> usize {
        let Some(segment) = &self.current else { return 0 };
        let room = segment.size - segment.offset;
        let frames = &mut self.pending.frames[self.pending.written..];
        let mut run = 0;
        while run < frames.len() {
            let length = format::frame_bytes(&frames[run..]);
            let position = self.position + run as u64;
            if (run + length) as u64 > room || self.pending.marks.base == Some(position) {
                break;
            }
            format::seal(&mut frames[run..run + length], self.salt, position, position - self.synced);
            run += length;
        }
        run
    }

    /// Goes on to the next segment, which takes a frame of `need` bytes. The last one is on the disk before: that bounds
    /// what a power cut can take in any mode, and how far behind a frame can be.
    fn rotate(&mut self, need: u64) -> Result<(), Trouble> {
        self.sync()?;
        self.make_spare(need)?;
        let Some(mut spare) = self.spare.take() else { return Err(Trouble::Full) };
        let header = Header { number: spare.number, start: self.position, end: 0, size: spare.size, salt: self.salt };
        let written = spare.file.write_at(&header.encode(), 0).map_err(trouble("write to", &spare.path));
        if written.is_err() {
            self.spare = Some(spare);
            return written;
        }
        spare.offset = HEADER_BYTES as u64;
        self.cutter.push(spare.number, self.position);
        self.current = Some(spare);
        Ok(())
    }

    /// What was written is in a file that the next start finds. Else the directory was deleted, or moved, and nothing more
    /// may be called stored.
    fn check_place(&self) -> Result<(), Trouble> {
        let Some(Segment { file, path, .. }) = &self.current else { return Ok(()) };
        if file.is_at(path).map_err(|error| failed("look at", path, &error))? {
            return Ok(());
        }
        Err(Trouble::Failed(format!(
            "{} is gone: the data directory was deleted or moved while the node ran, and nothing is stored from here on. If it \
             was moved, put it back and start the node again. If it is deleted, what this node had acknowledged is lost here: \
             start it with an empty directory and --join, and its peers give it what they hold",
            path.display()
        )))
    }

    fn sync(&mut self) -> Result<(), Trouble> {
        self.pending.sync = None;
        let Some(segment) = self.current.as_ref() else { return Ok(()) };
        if self.position > self.synced || segment.offset == HEADER_BYTES as u64 {
            // Want of space is no excuse here: what a failed sync has lost, the next one does not bring back.
            let began = Instant::now();
            segment.file.sync().map_err(|error| failed("sync", &segment.path, &error))?;
            self.shared.meters.syncs.observe(began.elapsed());
            self.synced = self.position;
        }
        Ok(())
    }

    /// Sees to it that the next segment is there and takes a frame of `need` bytes.
    fn make_spare(&mut self, need: u64) -> Result<(), Trouble> {
        let size = self.layout.segment_bytes.max(HEADER_BYTES as u64 + need);
        if self.spare.as_ref().is_some_and(|spare| spare.size >= size) {
            return Ok(());
        }
        let mut spare = match self.spare.take() {
            Some(spare) => spare,
            None => self.make_segment()?,
        };
        let path = spare.path.clone();
        // Nothing is lost with a segment that holds nothing: here, want of space may show in the sync too.
        if let Err(error) = spare.file.preallocate(size).and_then(|()| spare.file.sync()) {
            // What there was left goes back to those who can use it.
            drop(spare);
            self.disk.remove(&path).map_err(trouble("remove", &path))?;
            self.number -= 1;
            return Err(trouble("make space for", &path)(error));
        }
        spare.size = size;
        self.disk.sync_dir(&self.dir).map_err(|error| failed("sync", &self.dir, &error))?;
        self.spare = Some(spare);
        Ok(())
    }

    fn make_segment(&mut self) -> Result<Segment, Trouble> {
        let path = format::path(&self.dir, self.number);
        let file = self.disk.open(&path).map_err(trouble("make", &path))?;
        let segment = Segment { file, path, number: self.number, size: 0, offset: 0 };
        self.number += 1;
        Ok(segment)
    }

    /// Tells the caller's side how far things are.
    fn publish(&mut self, failed: Option<String>) {
        let here = self.current.as_ref().map_or(0, |segment| segment.size - segment.offset);
        let next = self.spare.as_ref().map_or(0, |segment| segment.size - HEADER_BYTES as u64);
        // A frame lies in one segment, so the two do not add up.
        let limit = self.position + here.max(next);
        self.shared.limit.store(limit, Ordering::Release);
        self.shared.meters.segments.set(self.cutter.segments() as u64);
        let pending = self.pending.frames.len() - self.pending.written + self.shared.queue().frames.len();
        let length = self.position - self.cutter.start().unwrap_or(self.position);
        let stored = if self.mode == SyncMode::Always { self.synced } else { self.position };
        let room = failed.is_none() && self.position + pending as u64 + self.layout.reserve_bytes <= limit;
        self.status.send_if_modified(|status| {
            let now = Status { stored, room, length, failed };
            let modified = *status != now;
            *status = now;
            modified
        });
    }
}

/// For `map_err`, where want of space is to be waited out.
fn trouble<'a>(doing: &'a str, path: &'a std::path::Path) -> impl FnOnce(io::Error) -> Trouble + 'a {
    move |error| if is_full(&error) { Trouble::Full } else { failed(doing, path, &error) }
}

fn failed(doing: &str, path: &std::path::Path, error: &io::Error) -> Trouble {
    Trouble::Failed(format!(
        "cannot {doing} {}: {error}; nothing is stored from here on. What was acknowledged is on the disk: see to the \
         disk, then start the node again, which reads what is there",
        path.display()
    ))
}

//! How far an import has come: what is written, and the note on disk from which the next run of it goes on.
//!
//! Writers are done with records in any order; what counts is the place up to which all are done. What comes behind it is
//! written once more after a kill: by id, so nothing is there twice.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Failure, output, records::Place};

/// How often the note is written anew.
const NOTE_EVERY: Duration = Duration::from_millis(500);
/// How much of a file, at its beginning and before a place in it, tells it from another.
const MARK_BYTES: u64 = 64 << 10;
/// Longest note that is read.
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// The note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The pool, and what documents are made of lines: another import has another note.
    of: String,
    place: Place,
    /// Of the file's bytes before it.
    mark: String,
    tally: Tally,
}

/// How far it has come.
#[derive(Debug)]
pub struct Headway {
    /// By its line, each record that is read and not all done before it: where it ends, and once it is done whether it
    /// was written.
    under_way: BTreeMap<u64, (Place, Option<bool>)>,
    /// Up to here all are done.
    place: Place,
    /// What is done up to there.
    before: Tally,
    /// What is done.
    tally: Tally,
    notes: Option<Notes>,
}

/// What became of records, in this run and in those that it goes on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// So many are written.
    pub written: u64,
    /// So many were refused.
    pub failed: u64,
}

impl Tally {
    fn count(&mut self, written: bool) {
        *if written { &mut self.written } else { &mut self.failed } += 1;
    }
}

/// Where the note is.
#[derive(Debug)]
struct Notes {
    path: PathBuf,
    of: String,
    file: File,
    noted: Instant,
}

impl Headway {
    /// Of an import that cannot be gone on with: its input is no file.
    pub fn unnoted() -> Headway {
        let (before, tally) = (Tally::default(), Tally::default());
        Headway { under_way: BTreeMap::new(), place: Place::default(), before, tally, notes: None }
    }

    /// Of the import of a file; `of` tells imports of it apart. It begins where the note says.
    pub fn of_file(path: &Path, file: &File, of: String) -> Result<Headway, Failure> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lamplight-import");
        let unread =
            |error: io::Error| Failure::new(format!("cannot read {}: {}", path.display(), output::words(&error)));
        let notes = Notes { path: name.into(), of, file: file.try_clone().map_err(unread)?, noted: Instant::now() };
        let mut headway = Headway::unnoted();
        if let Some(note) = notes.read() {
            if note.of == notes.of && mark(file, note.place.offset).is_ok_and(|mark| mark == note.mark) {
                (headway.place, headway.before, headway.tally) = (note.place, note.tally, note.tally);
            } else {
                let note = notes.path.display();
                eprintln!("lamplight: {note} is of another import, or the file has changed: it starts over");
            }
        }
        headway.notes = Some(notes);
        Ok(headway)
    }

    /// Up to where all is done.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What is done.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// A record was read that begins on `line`.
    pub fn begin(&mut self, line: u64, end: Place) {
        self.under_way.insert(line, (end, None));
    }

    /// The record of a line is written, or passed over.
    pub fn finish(&mut self, line: u64, written: bool) {
        self.tally.count(written);
        self.under_way.entry(line).and_modify(|(_, done)| *done = Some(written));
        while let Some(entry) = self.under_way.first_entry()
            && let (end, Some(written)) = *entry.get()
        {
            self.place = end;
            self.before.count(written);
            entry.remove();
        }
    }

    /// A record is refused, and the next run begins with it.
    pub fn refuse(&mut self) {
        self.tally.failed += 1;
    }

    /// Notes how far all is done: now and then, and when the run ends before the file does.
    pub fn note(&mut self, ends: bool) {
        let Some(notes) = self.notes.as_mut().filter(|notes| ends || notes.noted.elapsed() >= NOTE_EVERY) else {
            return;
        };
        notes.noted = Instant::now();
        if let Err(error) = notes.write(self.place, self.before) {
            let (note, why) = (notes.path.display(), output::words(&error));
            eprintln!("lamplight: cannot note in {note} how far it has come ({why}): a run after this one starts over");
            self.notes = None;
        }
    }

    /// Whether a further run goes on where this one ends.
    pub fn is_noted(&self) -> bool {
        self.notes.is_some()
    }

    /// All is done: there is nothing to go on with.
    pub fn forget(&mut self) {
        // It may never have been written.
        self.notes.take().into_iter().for_each(|notes| drop(std::fs::remove_file(notes.path)));
    }
}

impl Notes {
    fn read(&self) -> Option<Note> {
        let file = File::open(&self.path).ok()?;
        let mut text = String::new();
        file.take(NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
        // What a power cut has left half written is no note.
        serde_json::from_str(&text).ok()
    }

    /// Under another name first: a kill leaves the old note or the new one.
    fn write(&self, place: Place, tally: Tally) -> io::Result<()> {
        let note = Note { of: self.of.clone(), place, mark: mark(&self.file, place.offset)?, tally };
        let mut new = self.path.as_os_str().to_owned();
        new.push("~");
        std::fs::write(&new, serde_json::to_string(&note).map_err(io::Error::other)? + "\n")?;
        std::fs::rename(new, &self.path)
    }
}

/// A hash of what is at a file's beginning, and before a place in it.
fn mark(file: &File, offset: u64) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for from in [0, offset.saturating_sub(MARK_BYTES)] {
        let mut bytes = vec![0; offset.min(MARK_BYTES) as usize];
        file.read_exact_at(&mut bytes, from)?;
        hasher.update(&bytes);
    }
    Ok(hasher.finalize().to_string())
}

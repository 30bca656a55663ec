//! What the records of a journal come to, and whether they agree with each other.
//!
//! The bytes are the storage's to judge. A snapshot that is whole makes void what comes before it, but while that is still
//! there, the two can be held against each other.

use serde_json::{Value, json};

use super::chapter::{Broken, Chapter};
use crate::{
    document::State,
    record::{Identity, Record},
    snapshot::{Base, Key, Part, Whole},
};

/// What was read so far.
#[derive(Debug, Default)]
pub struct Audit {
    /// The node, as the last record that names it does.
    pub identity: Option<Identity>,
    /// Ops since the beginning that counts.
    pub chapter: Chapter,
    /// Snapshots that are whole.
    pub snapshots: Vec<Snapshot>,
    /// What is wrong.
    pub broken: Broken,
    /// Ops that are to be issued again under another id.
    pub orphans: u64,
    /// A snapshot that has begun.
    coming: Option<Coming>,
}

/// A snapshot that is whole.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    time: u64,
    documents: u64,
    /// Whether the ops before it were folded anew, and held against it.
    refolded: bool,
}

#[derive(Debug)]
struct Coming {
    base: Base,
    chapter: Chapter,
    orphans: u64,
    sum: Whole,
    /// The key behind which the next documents come.
    after: Option<Key>,
    /// Its documents do not follow each other.
    torn: bool,
}

impl Audit {
    /// Takes the next record.
    pub fn record(&mut self, record: Record) {
        match record {
            Record::Identity(identity) => self.identity = Some(identity),
            Record::Op(op) => {
                if let Some(coming) = &mut self.coming {
                    coming.chapter.op(&op, &mut self.broken);
                }
                self.chapter.op(&op, &mut self.broken);
            }
            Record::Ceiling(_)
            | Record::Frontier(_)
            | Record::Complete(_)
            | Record::Resumed(_)
            | Record::Ceded(_)
            | Record::Addresses(..) => {}
            Record::Orphan(_) | Record::Fork(_) => {
                self.orphans += 1;
                self.coming.iter_mut().for_each(|coming| coming.orphans += 1);
            }
            Record::Forget => {
                self.chapter.end(&mut self.broken);
                (self.identity, self.coming) = (None, None);
                self.chapter = Chapter::default();
            }
            Record::Snapshot(Part::Base(base)) => self.begin(base),
            Record::Snapshot(Part::Documents(slice)) => {
                let Some(coming) = &mut self.coming else { return };
                coming.sum.documents += slice.documents.len() as u64;
                let marks = slice.documents.iter().map(State::mark_of);
                coming.sum.digest = marks.fold(coming.sum.digest, u64::wrapping_add);
                coming.torn |= coming.after != slice.after;
                coming.after.clone_from(&slice.next);
                coming.chapter.adopt(slice);
            }
            Record::Snapshot(Part::Whole(whole)) => self.complete(whole),
            Record::Snapshot(Part::Again(base)) => {
                if self.coming.as_ref().is_some_and(|coming| !coming.base.is_same(&base)) {
                    self.broken.add(format!("the snapshot of time {} has two beginnings that differ", base.time));
                }
            }
        }
    }

    /// Nothing more comes.
    pub fn end(&mut self) {
        self.chapter.end(&mut self.broken);
    }

    /// Whether the records make a whole beginning, given whether the journal was cut.
    pub fn has_beginning(&self, cut: bool) -> bool {
        !cut || !self.snapshots.is_empty()
    }

    /// The time of a snapshot that has begun and is not whole: normal, if the node has stopped meanwhile.
    pub fn unfinished(&self) -> Option<u64> {
        self.coming.as_ref().map(|coming| coming.base.time)
    }

    fn begin(&mut self, base: Base) {
        let chapter = Chapter::behind(&base);
        let (sum, after) = (Whole::default(), None);
        self.coming = Some(Coming { base, chapter, orphans: 0, sum, after, torn: false });
    }

    fn complete(&mut self, whole: Whole) {
        let Some(Coming { base, chapter, orphans, sum, after, torn }) = self.coming.take() else { return };
        let time = base.time;
        if torn || after.is_some() || sum != whole {
            let (found, said) = (sum.documents, whole.documents);
            self.broken.add(format!(
                "the snapshot of time {time} is not whole: {found} documents, of {said}, or not those it was made of"
            ));
            return;
        }
        let before = std::mem::take(&mut self.chapter);
        let refolded = before.refold(&base, &chapter, &mut self.broken);
        (self.chapter, self.orphans) = (chapter, orphans);
        self.snapshots.push(Snapshot { time, documents: whole.documents, refolded });
    }
}

impl Snapshot {
    /// For people.
    pub fn described(&self) -> String {
        let Snapshot { time, documents, refolded } = self;
        let compared = if *refolded { "as the ops before it make it" } else { "the ops before it are not here" };
        format!("Snapshot of time {time}, whole: {documents} documents; {compared}")
    }

    /// For programs.
    pub fn to_json(self) -> Value {
        json!({ "time": self.time, "documents": self.documents, "refolded": self.refolded })
    }
}

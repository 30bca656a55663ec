//! Directories, records and short ways to use a journal.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lamplight::{
    op::{Body, Command, DocKey, Head, NodeId, Op, OpId, PoolId, Stamp},
    record::{Identity, Record},
    snapshot::{Base, BaseDocument, Part, Slice, Whole},
    storage::{Disk, Found, Layout, Options, Status, Store, SyncMode},
};
use uuid::Uuid;

use crate::faulty::FaultyDisk;

/// A directory that goes away with it.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("lamplight-storage-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        TempDir(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it hold what another directory holds.
    pub fn become_copy_of(&self, other: &Path) {
        fs::remove_dir_all(&self.0).unwrap();
        fs::create_dir_all(&self.0).unwrap();
        for name in names(other) {
            fs::copy(other.join(&name), self.0.join(&name)).unwrap();
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The names in a directory, in order.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The names of a journal's segments.
pub fn segments(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| name.starts_with("journal-") && !name.contains('.')).collect()
}

pub fn node(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

pub fn identity() -> Record {
    Record::Identity(Identity { node: node(7), pool: PoolId(Uuid::from_u128(9)), pool_name: "lamps".into() })
}

/// The `seq`th op of a node, with a text of so many bytes.
pub fn op_of(seq: u64, bytes: usize) -> Record {
    let text = format!("{{\"n\":{seq},\"t\":\"{}\"}}", "x".repeat(bytes));
    let key = DocKey::new("notes", format!("n{seq}"));
    let body =
        Body { wall_ms: 1, seen: vec![], key: None, guards: vec![], commands: vec![Command::Put(key, text.into())] };
    Record::Op(Op::encode(OpId { origin: node(7), seq }, seq, &body).unwrap())
}

pub fn op(seq: u64) -> Record {
    op_of(seq, 10)
}

/// The base of a snapshot.
pub fn base(time: u64) -> Record {
    let heads = vec![(node(7), Head { seq: time, ..Head::default() })];
    Record::Snapshot(Part::Base(Base { time, heads, membership: Vec::new(), documents: 4 }))
}

/// A part of a snapshot, with a document of so many bytes.
pub fn part(time: u64, n: u64, bytes: usize) -> Record {
    let (collection, stamp) = ("notes".into(), Stamp { time, origin: node(7) });
    let document = BaseDocument { collection, id: format!("n{n}"), text: format!("\"{}\"", "y".repeat(bytes)), stamp };
    Record::Snapshot(Part::Documents(Slice { documents: vec![document], ..Slice::default() }))
}

/// The end of a snapshot of so many documents.
pub fn whole(documents: u64) -> Record {
    Record::Snapshot(Part::Whole(Whole { documents, digest: 0 }))
}

/// Segments so small that a few records fill one.
pub const SMALL: Layout = Layout { segment_bytes: 640, reserve_bytes: 256, snapshot_bytes: 1 << 20 };

/// Small segments, on a disk that syncs nothing, for tests that open a journal very often.
pub fn quick() -> Options {
    Options { sync: SyncMode::Always, layout: SMALL, disk: Arc::new(FaultyDisk::quick()) }
}

pub fn on(disk: &Arc<FaultyDisk>, sync: SyncMode) -> Options {
    let disk: Arc<dyn Disk> = disk.clone();
    Options { sync, layout: SMALL, disk }
}

/// Opens a journal and gives its records too.
pub fn open(dir: &Path, options: Options) -> (Store, Vec<Record>, Found) {
    let mut records = Vec::new();
    let (store, found) = Store::open_with(dir, options, &mut |record| records.push(record)).unwrap();
    assert_eq!(found.records, records.len() as u64);
    (store, records, found)
}

/// What a journal holds, and what is found in it, without changing it.
pub fn read(dir: &Path) -> (Vec<Record>, Found) {
    let mut records = Vec::new();
    let found = lamplight::storage::read(dir, &mut |record| records.push(record)).unwrap();
    assert_eq!(found.records, records.len() as u64);
    (records, found)
}

/// Waits until the journal says what is expected of it.
pub fn wait(store: &Store, what: impl Fn(&Status) -> bool) -> Status {
    let start = Instant::now();
    loop {
        let status = store.status().borrow().clone();
        if what(&status) {
            return status;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the journal still says {status:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Appends records one by one, and waits until each is stored.
pub fn store_each(store: &mut Store, records: &[Record]) {
    for record in records {
        store.append(record);
        store.flush();
        let end = store.end();
        wait(store, |status| status.stored >= end);
    }
}

/// Some records over some segments, each stored for itself. Closed says whether the journal was closed, or its process
/// killed.
pub fn sample(dir: &Path, count: u64, closed: bool) -> Vec<Record> {
    let records: Vec<_> = std::iter::once(identity()).chain((1..count).map(op)).collect();
    let disk = Arc::new(FaultyDisk::quick());
    let (mut store, ..) = open(dir, on(&disk, SyncMode::Always));
    store_each(&mut store, &records);
    if closed {
        store.close().unwrap();
    } else {
        // Whatever is made ready is ready before, so that the files are always the same.
        let spare = || fs::read(dir.join(segments(dir).last().unwrap())).unwrap();
        wait(&store, |_| spare() == vec![0; SMALL.segment_bytes as usize]);
        disk.kill();
    }
    records
}

/// Whether `some` is `all` without some of it.
pub fn is_part(some: &[Record], all: &[Record]) -> bool {
    let mut rest = all.iter();
    some.iter().all(|record| rest.any(|other| other == record))
}

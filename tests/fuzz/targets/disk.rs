//! What a node reads from its disk or from a backup: records, the stream of a backup, and the segments of a journal.

use std::{cell::OnceCell, fs, path::PathBuf};

use lamplight::{
    op::{Body, Command, DocKey, NodeId, Op, OpId, PoolId},
    record::{Identity, Record},
    replica::{Config, Event, Now, Recovery},
    snapshot::{Base, BaseDocument, Part, Slice, Whole},
    storage::{self, RecordStream, STREAM_END, StoreError, Streamed, Unreadable},
};
use uuid::Uuid;

/// A record of a journal or of a backup.
pub fn record(input: &[u8]) {
    let Ok(record) = Record::decode(input) else { return };
    let mut encoded = Vec::new();
    record.encode(&mut encoded);
    assert_eq!(Record::decode(&encoded), Ok(record.clone()), "what is written is read");
    let mut again = Vec::new();
    record.encode(&mut again);
    assert_eq!(again, encoded);
}

/// The stream of a backup, behind the length of the pieces in which it comes: whatever that is, the same records come. A node
/// that is restored from them, whatever they say, is one.
pub fn backup(input: &[u8]) {
    let Some((length, stream)) = input.split_first() else { return };
    let (records, ended) = streamed(stream, usize::from(*length) + 1);
    assert_eq!(streamed(stream, stream.len() + 1), (records.clone(), ended));
    let again = [&*storage::streamed(&records), &STREAM_END].concat();
    assert_eq!(streamed(&again, again.len()), (records.clone(), Ok(Streamed::End)), "what is written is read");
    let mut recovery = Recovery::new(config());
    records.into_iter().for_each(|record| recovery.take(record));
    let mut replica = recovery.finish(Some(node(9)));
    replica.handle(Now { mono_ms: 0, wall_ms: 0 }, Event::Tick);
}

/// The records of a stream that comes in pieces of this length, and how it ends.
fn streamed(bytes: &[u8], length: usize) -> (Vec<Record>, Result<Streamed, Unreadable>) {
    let (mut stream, mut records) = (RecordStream::default(), Vec::new());
    for piece in bytes.chunks(length) {
        stream.take(piece);
        loop {
            match stream.read() {
                Ok(Streamed::Record(record)) => records.push(record),
                Ok(Streamed::More) => break,
                ended => return (records, ended),
            }
        }
    }
    (records, Ok(Streamed::More))
}

/// A sound journal, and behind it changes of its bytes: where (3 bytes), and what stands there instead (1).
pub fn journal(input: &[u8]) {
    thread_local!(static PLACE: OnceCell<Place> = const { OnceCell::new() });
    PLACE.with(|place| place.get_or_init(Place::new).read(input));
}

struct Place {
    dir: PathBuf,
    /// Where each segment is, and its bytes, without the space that is made ready behind them.
    sound: Vec<(PathBuf, Vec<u8>)>,
    records: Vec<Record>,
}

impl Place {
    fn new() -> Place {
        let dir = std::env::temp_dir().join(format!("lamplight-fuzz-{}", Uuid::new_v4()));
        fs::create_dir(&dir).expect("a directory for scratch");
        storage::copy(&dir, records()).expect("a journal is written");
        let (mut records, mut sound) = (Vec::new(), Vec::new());
        storage::read(&dir, &mut |record| records.push(record)).expect("it is sound");
        for file in fs::read_dir(&dir).expect("it is there").flatten() {
            let mut bytes = fs::read(file.path()).expect("room for it");
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 64));
            if !bytes.is_empty() {
                sound.push((file.path(), bytes));
            }
            fs::remove_file(file.path()).expect("it is there");
        }
        sound.sort();
        Place { dir, sound, records }
    }

    fn read(&self, input: &[u8]) {
        let mut segments = self.sound.clone();
        let length: usize = segments.iter().map(|(_, bytes)| bytes.len()).sum();
        for change in input.chunks_exact(4) {
            let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % length;
            let byte = segments.iter_mut().flat_map(|(_, bytes)| bytes).nth(at).expect("within them");
            *byte = change[3];
        }
        for (path, bytes) in &segments {
            fs::write(path, bytes).expect("room for scratch");
        }
        let (mut recovery, mut known) = (Recovery::new(config()), self.records.iter());
        let found = storage::read(&self.dir, &mut |record| {
            assert!(known.any(|written| *written == record), "a record that nobody wrote there, or out of its order");
            recovery.take(record);
        });
        match found {
            Ok(found) => {
                assert!(found.records <= self.records.len() as u64);
                assert!(segments != self.sound || found.records == self.records.len() as u64, "all is sound");
                drop(recovery.finish(Some(node(9))));
            }
            Err(StoreError::Newer(..)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn node(id: u128) -> NodeId {
    NodeId(Uuid::from_u128(id))
}

fn config() -> Config {
    Config::founder(node(1), 7)
}

/// An identity, a snapshot and some ops, as a node writes them.
fn records() -> Vec<Record> {
    let op = |seq: u64, command| {
        let body = Body { wall_ms: 0, seen: Vec::new(), key: None, guards: Vec::new(), commands: vec![command] };
        Op::encode(OpId { origin: node(1), seq }, seq, &body).expect("a sound op")
    };
    let put = |seq: u64| op(seq, Command::Put(DocKey::new("c", format!("d{seq}")), format!("{{\"n\":{seq}}}").into()));
    let base = Base { time: 0, heads: Vec::new(), membership: Vec::new(), documents: 0 };
    let slice = Slice { after: None, documents: Vec::<BaseDocument>::new(), next: None };
    let mut records = vec![
        Record::Identity(Identity { node: node(1), pool: PoolId(Uuid::from_u128(2)), pool_name: "p".into() }),
        Record::Ceiling(4_096),
        Record::Snapshot(Part::Base(base.clone())),
        Record::Snapshot(Part::Documents(slice)),
        Record::Snapshot(Part::Again(base)),
        Record::Snapshot(Part::Whole(Whole::default())),
    ];
    records.extend((1..=20).map(|seq| Record::Op(put(seq))));
    records.extend([Record::Frontier(5), Record::Resumed(Some(7)), Record::Resumed(None), Record::Ceded(node(3))]);
    records
}

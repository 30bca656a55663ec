//! Copies, and the format of earlier versions.

use std::path::Path;

use lamplight::{
    document::State,
    op::{Head, Stamp},
    record::Record,
    snapshot::{Base, BaseDocument, Part, Slice, Whole},
    storage::{StoreError, copy},
};

use crate::support::{TempDir, identity, node, op, open, quick, read, store_each};

#[test]
fn a_copy_holds_the_records_and_never_overwrites_a_journal() {
    let dir = TempDir::new();
    let to = dir.path().join("new");
    let all: Vec<_> = std::iter::once(identity()).chain((1..20_000).map(op)).collect();
    copy(&to, all.iter().cloned()).unwrap();
    assert!(read(&to).0 == all);
    assert!(matches!(copy(&to, all), Err(StoreError::Exists(_))));
}

/// What is in `tests/fixtures/journal-v1`: a journal in format version 1, closed.
fn fixture() -> Vec<Record> {
    let mut records = vec![identity(), Record::Ceiling(1000)];
    records.extend((1..=10).map(op));
    records
}

/// What is in `tests/fixtures/journal-v1-snapshot`: what is left of a journal that was cut, a whole snapshot with ops between
/// its records, and ops behind it; closed.
fn fixture_with_snapshot() -> Vec<Record> {
    let Record::Op(member) = op(1) else { unreachable!("an op") };
    let base = Base {
        time: 8,
        heads: vec![(node(7), Head { seq: 8, ..Head::default() })],
        membership: vec![member],
        documents: 3,
    };
    let stamp = Stamp { time: 8, origin: node(7) };
    let document =
        |id: &str| BaseDocument { collection: "notes".into(), id: id.into(), text: "{\"n\":1}".into(), stamp };
    let key = |id: &str| Some(("notes".into(), id.into()));
    let slices = [
        Slice { after: None, documents: vec![document("a"), document("b")], next: key("b") },
        Slice { after: key("b"), documents: vec![document("c")], next: None },
    ];
    let documents: Vec<&BaseDocument> = slices.iter().flat_map(|slice| &slice.documents).collect();
    let digest = documents.iter().map(|document| State::mark_of(document)).fold(0, u64::wrapping_add);
    let end = [Part::Again(base.clone()), Part::Whole(Whole { documents: 3, digest })];
    let [first, last] = slices.map(Part::Documents).map(Record::Snapshot);
    let begin = [Record::Snapshot(Part::Base(base)), identity(), Record::Ceiling(1000), Record::Frontier(9)];
    let mut records = [&begin[..], &[first, op(11), last, op(9), op(10)]].concat();
    records.extend(end.map(Record::Snapshot));
    records.extend([op(12), op(13)]);
    records
}

#[test]
fn the_format_of_version_1_stays_readable() {
    for (name, expected, cut) in
        [("journal-v1", fixture(), false), ("journal-v1-snapshot", fixture_with_snapshot(), true)]
    {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let (records, found) = read(&kept);
        assert_eq!(records, expected);
        assert_eq!((found.cut, found.torn, found.damage), (cut, None, vec![]));
        let dir = TempDir::new();
        dir.become_copy_of(&kept);
        let (mut store, ..) = open(dir.path(), quick());
        store_each(&mut store, &[op(14)]);
        store.close().unwrap();
        assert_eq!(read(dir.path()).0, [expected, vec![op(14)]].concat());
    }
}

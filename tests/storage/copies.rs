//! Copies, and the format of earlier versions.

use std::path::Path;

use lamplight::{
    record::Record,
    storage::{StoreError, copy},
};

use crate::support::{TempDir, identity, op, open, quick, read, store_each};

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

#[test]
fn the_format_of_version_1_stays_readable() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-v1");
    let (records, found) = read(&kept);
    assert_eq!(records, fixture());
    assert_eq!((found.torn, found.damage), (None, vec![]));
    let dir = TempDir::new();
    dir.become_copy_of(&kept);
    let (mut store, ..) = open(dir.path(), quick());
    store_each(&mut store, &[op(11)]);
    store.close().unwrap();
    assert_eq!(read(dir.path()).0, [fixture(), vec![op(11)]].concat());
}

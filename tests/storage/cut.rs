//! Snapshots: what lies before a whole one is removed, whatever happens meanwhile.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use lamplight::{
    record::Record,
    snapshot::Part,
    storage::{Layout, Options, Store, SyncMode, Why},
};

use crate::{
    faulty::FaultyDisk,
    support::{SMALL, TempDir, base, identity, on, op, open, part, quick, read, segments, store_each, wait, whole},
};

/// A snapshot over some segments, with live records in between.
fn snapshot(time: u64) -> Vec<Record> {
    let mut records = vec![base(time), identity(), Record::Ceiling(time + 10)];
    records.extend((0..4).flat_map(|n| [part(time, n, 200), op(time + n + 1)]));
    records.extend([op(time), whole(4)]);
    records
}

fn number_of_first(dir: &Path) -> u64 {
    segments(dir)[0]["journal-".len()..].parse().unwrap()
}

fn is_snapshot(record: &Record, what: impl Fn(&Part) -> bool) -> bool {
    matches!(record, Record::Snapshot(part) if what(part))
}

fn is_base(record: &Record) -> bool {
    is_snapshot(record, |part| matches!(part, Part::Base(_)))
}

fn is_whole(record: &Record) -> bool {
    is_snapshot(record, |part| matches!(part, Part::Whole(_)))
}

/// Waits until nothing is left to be removed.
fn wait_for_cut(store: &Store, records: &[Record]) {
    let bytes = |record: &Record| {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes.len() as u64 + 16
    };
    let length: u64 = records.iter().map(bytes).sum();
    wait(store, |status| status.length == length);
}

#[test]
fn a_whole_snapshot_begins_the_journal_anew_in_every_mode() {
    for sync in [SyncMode::Always, SyncMode::Interval, SyncMode::Never] {
        let dir = TempDir::new();
        let disk = Arc::new(FaultyDisk::quick());
        let (mut store, ..) = open(dir.path(), on(&disk, sync));
        store_each(&mut store, &(1..30).map(op).collect::<Vec<_>>());
        let snapshot = snapshot(30);
        let (last, parts) = snapshot.split_last().unwrap();
        store_each(&mut store, parts);
        assert_eq!(number_of_first(dir.path()), 1, "it is not whole yet");
        store_each(&mut store, std::slice::from_ref(last));
        wait_for_cut(&store, &snapshot);
        // What took the place of what was removed is on the disk.
        disk.cut_power(&mut fastrand::Rng::with_seed(1));
        drop(store);
        let (records, found) = read(dir.path());
        assert_eq!((&records, found.cut, found.torn, found.damage), (&snapshot, true, None, vec![]));
        let (mut store, records, _) = open(dir.path(), quick());
        assert_eq!(records, snapshot);
        store_each(&mut store, &[op(50)]);
        store.close().unwrap();
        assert_eq!(read(dir.path()).0, [snapshot, vec![op(50)]].concat());
    }
}

#[test]
fn a_base_without_an_end_removes_nothing() {
    let dir = TempDir::new();
    let mut all: Vec<_> = (1..30).map(op).collect();
    let half = &snapshot(30)[..6];
    all.extend_from_slice(half);
    // An end in another run is none of a snapshot that began in the one before.
    let (mut store, ..) = open(dir.path(), quick());
    store_each(&mut store, &all);
    store.close().unwrap();
    let (mut store, ..) = open(dir.path(), quick());
    store_each(&mut store, &[whole(4), base(40), Record::Forget, whole(0)]);
    store.close().unwrap();
    all.extend([whole(4), base(40), Record::Forget, whole(0)]);
    let (records, found) = read(dir.path());
    assert_eq!((records, found.cut, found.damage), (all, false, vec![]));
}

#[test]
fn a_journal_being_cut_may_be_interrupted_anywhere() {
    let kept = snapshot(40);
    let all: Vec<Record> = (1..40).map(op).chain(kept.iter().cloned()).chain((60..70).map(op)).collect();
    let mut beginnings = BTreeSet::new();
    for operations in 0.. {
        let dir = TempDir::new();
        let disk = Arc::new(FaultyDisk::quick());
        let (mut store, ..) = open(dir.path(), on(&disk, SyncMode::Always));
        disk.set(|faults| faults.operations = Some(operations));
        all.iter().for_each(|record| store.append(record));
        store.flush();
        let done = store.close().is_ok();
        let (records, found) = read(dir.path());
        assert_eq!(found.damage, [], "killed after {operations} operations");
        let at = all.windows(records.len().max(1)).position(|window| window == records);
        assert!(at.is_some() || records.is_empty(), "killed after {operations} operations: an unbroken part is left");
        assert_eq!(found.cut, at.unwrap_or(0) > 0);
        if found.cut {
            beginnings.insert(number_of_first(dir.path()));
            assert!(
                is_kept(&records),
                "killed after {operations} operations: it was cut, so there is a whole snapshot"
            );
        }
        // The next snapshot cuts what this one left.
        let (mut store, again, _) = open(dir.path(), quick());
        assert_eq!(again, records);
        let next = snapshot(100);
        store_each(&mut store, &next);
        store.close().unwrap();
        assert_eq!(read(dir.path()).0, next);
        if done {
            break;
        }
    }
    assert!(beginnings.len() >= 5, "it was interrupted between the removals: {beginnings:?}");
}

/// Whether there is a whole snapshot among these.
fn is_kept(records: &[Record]) -> bool {
    let base = records.iter().position(is_base);
    base.is_some_and(|base| records[base..].iter().any(is_whole))
}

#[test]
fn a_power_cut_never_takes_a_snapshot_whose_forerunners_are_gone() {
    let mut cuts = 0;
    for seed in 0..400 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let sync = chance.choice([SyncMode::Always, SyncMode::Interval, SyncMode::Never]).unwrap();
        let dir = TempDir::new();
        for round in 0..3 {
            let disk = Arc::new(FaultyDisk::quick());
            let (mut store, records, found) = open(dir.path(), on(&disk, sync));
            assert_eq!(found.damage, [], "seed {seed}");
            assert!(!found.cut || is_kept(&records), "seed {seed}: {} records left", records.len());
            cuts += u32::from(found.cut);
            for step in 0..chance.u64(..4) {
                let time = 1000 * (round + 1) + 100 * step;
                let records = if chance.bool() { snapshot(time) } else { (time..time + 9).map(op).collect() };
                for record in &records {
                    store.append(record);
                    if chance.u8(..3) == 0 {
                        store.flush();
                    }
                    if chance.u8(..6) == 0 {
                        store.flush();
                        let end = store.end();
                        wait(&store, |status| status.stored >= end);
                    }
                }
            }
            store.flush();
            if chance.bool() {
                std::thread::sleep(std::time::Duration::from_micros(chance.u64(..2000)));
            }
            disk.cut_power(&mut chance);
        }
    }
    assert!(cuts > 100, "only {cuts} of the journals were cut");
}

#[test]
fn what_cannot_be_removed_stays_until_the_next_snapshot() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    let (mut store, ..) = open(dir.path(), on(&disk, SyncMode::Always));
    let mut all: Vec<_> = (1..30).map(op).chain(snapshot(30)).chain([op(60), op(61)]).collect();
    disk.set(|faults| faults.fail_remove = true);
    store_each(&mut store, &all);
    wait_for_cut(&store, &all);
    assert!(store.room() && store.status().borrow().failed.is_none());
    assert_eq!(number_of_first(dir.path()), 1);
    disk.set(|faults| faults.fail_remove = false);
    store_each(&mut store, &[op(62)]);
    all.push(op(62));
    wait_for_cut(&store, &all);
    let next = snapshot(70);
    store_each(&mut store, &next);
    wait_for_cut(&store, &next);
    store.close().unwrap();
    assert_eq!(read(dir.path()).0, next);
}

#[test]
fn a_segment_that_somebody_else_has_removed_stops_nothing() {
    let dir = TempDir::new();
    let (mut store, ..) = open(dir.path(), quick());
    store_each(&mut store, &(1..30).map(op).collect::<Vec<_>>());
    fs::remove_file(dir.path().join(&segments(dir.path())[1])).unwrap();
    let next = snapshot(30);
    store_each(&mut store, &next);
    wait_for_cut(&store, &next);
    store.close().unwrap();
    assert_eq!(read(dir.path()).0, next);
}

#[test]
fn a_flipped_byte_of_a_cut_journal_is_reported_with_its_record() {
    let (written, broken) = (TempDir::new(), TempDir::new());
    let (mut store, ..) = open(written.path(), quick());
    let kept = snapshot(30);
    store_each(&mut store, &(1..30).map(op).chain(kept.iter().cloned()).collect::<Vec<_>>());
    store.close().unwrap();
    assert!(segments(written.path()).len() >= 3);
    for name in segments(written.path()) {
        let sound = fs::read(written.path().join(&name)).unwrap();
        for at in (0..sound.len()).step_by(3) {
            broken.become_copy_of(written.path());
            let mut bytes = sound.clone();
            bytes[at] ^= 0x20;
            fs::write(broken.path().join(&name), bytes).unwrap();
            let (records, found) = read(broken.path());
            assert!(!found.damage.is_empty() || found.torn.is_some(), "{name} byte {at}: not noticed");
            if let [damage] = &found.damage[..]
                && damage.why == Why::Bytes
            {
                let at = damage.record as usize;
                // The last frame, which says that the journal was closed, has no record.
                let without = [&kept[..at], kept.get(at + 1..).unwrap_or_default()].concat();
                assert!(records == without || records == kept, "{name}: record {at} is named");
            }
            let (mut store, opened, _) = open(broken.path(), quick());
            assert_eq!(opened, records);
            store_each(&mut store, &[op(1000)]);
            store.close().unwrap();
            let (after, clean) = read(broken.path());
            assert_eq!(after.split_last(), Some((&op(1000), &records[..])));
            assert_eq!((clean.torn, clean.damage), (None, vec![]));
        }
    }
    let copies = |name: &String| name.contains("damaged");
    assert!(crate::support::names(broken.path()).iter().filter(|name| copies(name)).count() <= 1);
}

#[test]
fn the_copies_of_damaged_files_stay_when_the_journal_is_cut() {
    let dir = TempDir::new();
    let (mut store, ..) = open(dir.path(), quick());
    store_each(&mut store, &(1..30).map(op).collect::<Vec<_>>());
    store.close().unwrap();
    let path = dir.path().join("journal-00000002");
    let mut bytes = fs::read(&path).unwrap();
    bytes[150] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (mut store, ..) = open(dir.path(), quick());
    let next = snapshot(30);
    store_each(&mut store, &next);
    store.close().unwrap();
    assert_eq!(read(dir.path()).0, next);
    assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), bytes);
}

#[test]
fn a_full_disk_is_made_room_on_by_a_snapshot_that_fits_into_what_is_left() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    let layout = Layout { segment_bytes: 8192, reserve_bytes: 256, ..SMALL };
    let (mut store, ..) =
        open(dir.path(), Options { sync: SyncMode::Always, layout, disk: Arc::clone(&disk) as Arc<_> });
    wait(&store, |status| status.room);
    disk.set(|faults| faults.no_spare = true);
    // Into the second segment, behind which there is none.
    let mut last = 0;
    while store.end() < 10_000 {
        last += 1;
        store_each(&mut store, &[op(last)]);
    }
    assert_eq!(segments(dir.path()), ["journal-00000001", "journal-00000002"]);
    let next = [snapshot(last), vec![op(5000)]].concat();
    store_each(&mut store, &next);
    wait(&store, |_| segments(dir.path()) == ["journal-00000002"]);
    drop(store);
    let (records, found) = read(dir.path());
    assert_eq!((found.cut, found.torn, found.damage), (true, None, vec![]));
    assert!(is_kept(&records) && !is_base(&records[0]), "it did not begin in a segment of its own");
    assert!(records.ends_with(&next));
}

#[test]
fn a_snapshot_is_wanted_when_the_journal_has_grown_past_twice_the_last_one() {
    let dir = TempDir::new();
    let layout = Layout { snapshot_bytes: 2000, ..SMALL };
    let options = || Options { layout, ..quick() };
    let (mut store, ..) = open(dir.path(), options());
    let mut last = 0;
    let mut grow = |store: &mut Store| {
        let before = store.end();
        while !store.is_long() {
            last += 1;
            store_each(store, &[op(last)]);
        }
        store.end() - before
    };
    assert!((2000..2200).contains(&grow(&mut store)), "a journal without one");
    let before = store.end();
    store_each(&mut store, &snapshot(500));
    let size = store.end() - before;
    assert!(!store.is_long());
    store.close().unwrap();
    // The next run knows of it.
    let (mut store, ..) = open(dir.path(), options());
    assert!((size + 2000..size + 2200).contains(&grow(&mut store)), "twice the last one, which counts once");
    store_each(&mut store, &snapshot(600));
    assert!(!store.is_long());
    store.lack_beginning();
    assert!(store.is_long(), "what is no whole beginning is not put up with");
    store_each(&mut store, &snapshot(700));
    assert!(!store.is_long());
}

#[test]
fn a_base_far_longer_than_an_op_comes_back() {
    let dir = TempDir::new();
    let Record::Snapshot(Part::Base(mut long)) = base(5) else { panic!("a base") };
    long.heads = (0..200_000).map(|n| (crate::support::node(n), long.heads[0].1)).collect();
    let records = [Record::Snapshot(Part::Base(long)), whole(0)];
    let (mut store, _) = Store::open(dir.path(), SyncMode::Always, &mut drop).unwrap();
    store_each(&mut store, &records);
    assert!(store.end() > 6 << 20);
    store.close().unwrap();
    assert!(read(dir.path()).0 == records);
}

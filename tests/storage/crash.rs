//! Processes that end, power that goes, syncs that fail.

use std::{fs, path::Path, sync::Arc};

use lamplight::{
    record::Record,
    storage::{Layout, Options, Store, StoreError, SyncMode},
};

use crate::{
    faulty::FaultyDisk,
    support::{TempDir, identity, is_part, on, op, op_of, open, quick, read, sample, segments, store_each, wait},
};

#[test]
fn what_was_appended_comes_back_in_order_however_often_it_is_opened() {
    let dir = TempDir::new();
    let mut all = Vec::new();
    for round in 0..100 {
        let (mut store, records, found) = open(dir.path(), quick());
        assert_eq!(records, all, "round {round}");
        assert_eq!((found.torn, found.damage), (None, vec![]));
        let more: Vec<_> = (0..round % 4).map(|n| op(round * 4 + n + 1)).collect();
        more.iter().for_each(|record| store.append(record));
        all.extend(more);
        store.close().unwrap();
    }
    let bytes: u64 = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 60_000, "to open and close costs little: {bytes} bytes");
}

#[test]
fn every_kind_and_length_of_record_comes_back_from_a_real_disk() {
    for sync in [SyncMode::Always, SyncMode::Interval, SyncMode::Never] {
        let dir = TempDir::new();
        let longest = (4 << 20) - 100;
        let records = [identity(), Record::Ceiling(77), op(1), op_of(2, 100_000), op_of(3, longest), Record::Forget];
        let all: Vec<_> = records.iter().cycle().take(24).cloned().collect();
        let (mut store, _) = Store::open(dir.path(), sync, &mut |_| panic!("a new journal")).unwrap();
        assert!(store.room() && store.status().borrow().room, "at once");
        all.iter().for_each(|record| store.append(record));
        store.flush();
        let end = store.end();
        wait(&store, |status| status.stored >= end && status.room);
        store.close().unwrap();
        let (back, found) = read(dir.path());
        assert!(back == all);
        assert_eq!((found.torn, found.damage), (None, vec![]));
    }
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = TempDir::new();
    let (store, ..) = open(dir.path(), quick());
    let refused = Store::open_with(dir.path(), quick(), &mut drop).unwrap_err();
    assert_eq!(refused.to_string(), format!("another process uses {}", dir.path().display()));
    assert!(matches!(lamplight::storage::read(dir.path(), &mut drop), Err(StoreError::Locked(_))));
    store.close().unwrap();
    open(dir.path(), quick());
}

#[test]
fn a_power_cut_takes_nothing_that_was_stored_and_is_no_damage() {
    for seed in 0..600 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let sync = chance.choice([SyncMode::Always, SyncMode::Interval, SyncMode::Never]).unwrap();
        let dir = TempDir::new();
        let mut all: Vec<Record> = Vec::new();
        let mut safe = 0;
        for _ in 0..3 {
            let disk = Arc::new(FaultyDisk::quick());
            let (mut store, records, found) = open(dir.path(), on(&disk, sync));
            assert_eq!(found.damage, [], "seed {seed}");
            assert!(records.len() >= safe, "seed {seed}: {safe} were stored, {} are left", records.len());
            assert_eq!(records, all[..records.len()], "seed {seed}: what is left is the beginning");
            all.truncate(records.len());
            safe = records.len();
            let mut ends = Vec::new();
            for _ in 0..chance.usize(..30) {
                let record = op_of(all.len() as u64 + 1, chance.usize(..900) * chance.usize(..2));
                store.append(&record);
                all.push(record);
                ends.push(store.end());
                if chance.u8(..3) == 0 {
                    store.flush();
                }
                if chance.u8(..6) == 0 {
                    store.flush();
                    let end = store.end();
                    wait(&store, |status| status.stored >= end);
                }
            }
            disk.cut_power(&mut chance);
            let stored = store.status().borrow().stored;
            if sync == SyncMode::Always {
                safe += ends.iter().filter(|end| **end <= stored).count();
            }
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_stored_in_any_mode() {
    for sync in [SyncMode::Always, SyncMode::Interval, SyncMode::Never] {
        let dir = TempDir::new();
        let disk = Arc::new(FaultyDisk::quick());
        let (mut store, ..) = open(dir.path(), on(&disk, sync));
        let all: Vec<_> = (1..30).map(op).collect();
        store_each(&mut store, &all);
        disk.kill();
        drop(store);
        let (records, found) = read(dir.path());
        assert_eq!((records, found.torn, found.damage), (all, None, vec![]));
    }
}

#[test]
fn all_that_gathers_while_a_sync_runs_shares_the_next() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    let (mut store, ..) = open(dir.path(), Options { layout: Layout::default(), ..on(&disk, SyncMode::Always) });
    store_each(&mut store, &[op(1)]);
    let before = disk.set(|faults| {
        faults.hold_sync = true;
        faults.syncs
    });
    let stored = store.end();
    for n in 2..100 {
        store.append(&op(n));
        store.flush();
        // The first sync is under way before the others come.
        wait(&store, |_| disk.set(|faults| faults.syncs) > before);
    }
    assert_eq!(store.status().borrow().stored, stored, "nothing is stored before its sync has ended");
    disk.set(|faults| faults.hold_sync = false);
    let end = store.end();
    wait(&store, |status| status.stored >= end);
    assert_eq!(disk.set(|faults| faults.syncs) - before, 2);
    store.close().unwrap();
    assert_eq!(read(dir.path()).0.len(), 99);
}

#[test]
fn a_start_has_the_system_forget_the_last_segments_before_it_reads_them() {
    let dir = TempDir::new();
    sample(dir.path(), 18, false);
    let disk = Arc::new(FaultyDisk::quick());
    let (store, ..) = open(dir.path(), on(&disk, SyncMode::Always));
    let forgotten = disk.set(|faults| std::mem::take(&mut faults.forgotten));
    let mut last: Vec<_> = segments(dir.path()).iter().map(|name| dir.path().join(name)).collect();
    last.reverse();
    assert!(forgotten.len() == 2 && last.starts_with(&forgotten), "{forgotten:?}");
    store.close().unwrap();
}

#[test]
fn after_a_sync_that_failed_nothing_is_stored_any_more() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    let (mut store, ..) = open(dir.path(), on(&disk, SyncMode::Always));
    store_each(&mut store, &[op(1)]);
    let stored = store.end();
    disk.set(|faults| faults.fail_sync = true);
    store.append(&op(2));
    store.flush();
    let status = wait(&store, |status| status.failed.is_some());
    let why = status.failed.unwrap();
    assert!(why.starts_with("cannot sync ") && why.contains("a sync that failed"), "{why}");
    // The next sync would work; it is not tried.
    store.append(&op(3));
    store.flush();
    let closed = store.status();
    assert!(!store.room());
    assert!(matches!(store.close(), Err(StoreError::Failed(_))));
    assert_eq!(closed.borrow().stored, stored);
    assert!(is_part(&read(dir.path()).0, &[op(1), op(2)]));
}

#[test]
fn nothing_is_stored_in_a_directory_that_is_gone() {
    let ways: [fn(&Path); 3] = [
        |dir| fs::remove_dir_all(dir).unwrap(),
        |dir| fs::rename(dir, dir.with_extension("moved")).unwrap(),
        |dir| {
            fs::remove_dir_all(dir).unwrap();
            sample(dir, 3, true);
        },
    ];
    for sync in [SyncMode::Always, SyncMode::Interval, SyncMode::Never] {
        for vanish in ways {
            let dir = TempDir::new();
            let (mut store, ..) = open(dir.path(), Options { sync, ..Options::default() });
            store_each(&mut store, &[op(1)]);
            let stored = store.end();
            vanish(dir.path());
            store.append(&op(2));
            store.flush();
            let status = wait(&store, |status| status.failed.is_some());
            assert_eq!(status.stored, stored, "nothing more is acknowledged");
            let why = status.failed.unwrap();
            assert!(why.contains("deleted or moved") && !why.contains("is on the disk"), "{why}");
            assert!(matches!(store.close(), Err(StoreError::Failed(_))));
            let _ = fs::remove_dir_all(dir.path().with_extension("moved"));
        }
    }
}

#[test]
fn after_a_write_that_failed_nothing_is_stored_any_more() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    let (mut store, ..) = open(dir.path(), on(&disk, SyncMode::Never));
    store_each(&mut store, &[op(1)]);
    disk.set(|faults| faults.fail_write = true);
    store.append(&op(2));
    store.flush();
    let why = wait(&store, |status| status.failed.is_some()).failed.unwrap();
    assert!(why.contains("a bad sector"), "{why}");
    drop(store);
    let (store, records, found) = open(dir.path(), quick());
    assert_eq!(records, [op(1)]);
    assert!(found.torn.is_some() && found.damage.is_empty());
    store.close().unwrap();
}

#[test]
fn a_journal_being_mended_may_be_interrupted_anywhere() {
    let (written, broken) = (TempDir::new(), TempDir::new());
    let all = sample(written.path(), 18, false);
    for (name, at) in [("journal-00000001", 130), ("journal-00000003", 3), ("journal-00000003", 300)] {
        let path = written.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 4;
        fs::write(&path, bytes).unwrap();
    }
    fs::remove_file(written.path().join("journal-00000002")).unwrap();
    let (left, found) = read(written.path());
    assert!(found.damage.len() >= 4 && is_part(&left, &all), "{found:?}");
    for operations in 0.. {
        broken.become_copy_of(written.path());
        let disk = Arc::new(FaultyDisk::quick());
        disk.set(|faults| faults.operations = Some(operations));
        let opened = Store::open_with(broken.path(), on(&disk, SyncMode::Always), &mut drop);
        let done = opened.is_ok();
        drop(opened);
        assert_eq!(read(broken.path()).0, left, "killed after {operations} operations");
        let (store, records, _) = open(broken.path(), quick());
        assert_eq!(records, left, "killed after {operations} operations");
        store.close().unwrap();
        let (records, clean) = read(broken.path());
        assert_eq!((&records, clean.torn, clean.damage), (&left, None, vec![]));
        if done {
            assert!(operations > 20, "mending takes some steps");
            break;
        }
    }
}

//! Disks without space: told before an op is taken, waited out, and nothing lost.

use std::{fs, io::Write, path::Path, process::Command, sync::Arc};

use lamplight::storage::{Layout, Options, Store, StoreError, SyncMode};

use crate::{
    faulty::FaultyDisk,
    support::{TempDir, on, op, op_of, open, quick, read, store_each, wait},
};

#[test]
fn a_disk_that_fills_up_stops_room_first_and_gives_it_back() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    let (mut store, ..) = open(dir.path(), on(&disk, SyncMode::Always));
    let mut all = vec![op(1)];
    store_each(&mut store, &all);
    wait(&store, |status| status.room);
    disk.set(|faults| faults.no_spare = true);
    while store.room() {
        let record = op(all.len() as u64 + 1);
        store_each(&mut store, std::slice::from_ref(&record));
        all.push(record);
    }
    assert!(all.len() > 3, "the segment made ready was used");
    wait(&store, |status| !status.room);
    disk.set(|faults| faults.no_spare = false);
    wait(&store, |status| status.room);
    assert!(store.room());
    store_each(&mut store, &[op_of(900, 100)]);
    all.push(op_of(900, 100));
    store.close().unwrap();
    assert_eq!(read(dir.path()).0, all);
}

#[test]
fn a_full_disk_keeps_half_of_the_reserve_for_deletions() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    let layout = Layout { segment_bytes: 16 << 10, reserve_bytes: 8 << 10, ..Layout::default() };
    let (mut store, ..) = open(dir.path(), Options { layout, ..on(&disk, SyncMode::Always) });
    wait(&store, |status| status.room);
    disk.set(|faults| faults.no_spare = true);
    let mut all = Vec::new();
    let mut fill = |store: &mut Store, goes_on: fn(&Store) -> bool| {
        let before = all.len();
        while goes_on(store) {
            all.push(op(all.len() as u64 + 1));
            store_each(store, &all[all.len() - 1..]);
        }
        all.len() - before
    };
    assert!(fill(&mut store, Store::room) > 20, "what was made ready is used first");
    assert!(store.deletion_room() && !store.status().borrow().room);
    assert!((20..80).contains(&fill(&mut store, Store::deletion_room)), "then half of the reserve");
    assert!(store.status().borrow().failed.is_none());
    disk.set(|faults| faults.no_spare = false);
    wait(&store, |status| status.room);
    assert!(store.deletion_room() && store.room());
    store.close().unwrap();
    assert_eq!(read(dir.path()).0, all);
}

#[test]
fn a_write_that_finds_no_space_is_tried_again_from_the_same_place() {
    for sync in [SyncMode::Always, SyncMode::Interval, SyncMode::Never] {
        let dir = TempDir::new();
        let disk = Arc::new(FaultyDisk::quick());
        let (mut store, ..) = open(dir.path(), on(&disk, sync));
        store_each(&mut store, &[op(1)]);
        disk.set(|faults| faults.full = true);
        let before = store.end();
        let more: Vec<_> = (2..20).map(op).collect();
        for record in &more {
            store.append(record);
            store.flush();
        }
        let status = wait(&store, |status| !status.room);
        assert_eq!((status.stored, status.failed), (before, None));
        disk.set(|faults| faults.full = false);
        let end = store.end();
        wait(&store, |status| status.stored >= end && status.room);
        store.close().unwrap();
        let (records, found) = read(dir.path());
        assert_eq!((records.len(), found.torn, found.damage), (19, None, vec![]));
    }
}

#[test]
fn a_journal_on_a_full_disk_opens_without_room() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    disk.set(|faults| faults.full = true);
    let (mut store, ..) = open(dir.path(), on(&disk, SyncMode::Always));
    assert!(!store.room() && !store.status().borrow().room);
    disk.set(|faults| faults.full = false);
    wait(&store, |status| status.room);
    store_each(&mut store, &[op(1)]);
    disk.set(|faults| faults.full = true);
    store.append(&op(2));
    assert!(matches!(store.close(), Err(StoreError::Full(_))), "what was appended could not be stored");
    let (_store, records, _) = open(dir.path(), quick());
    assert_eq!(records, [op(1)]);
}

/// A small file system of its own, as root: where it is, and the directory that its image is in.
struct Mount(TempDir, #[expect(dead_code, reason = "it goes away with it")] TempDir);

impl Mount {
    fn tmpfs() -> Mount {
        let (at, image) = (TempDir::new(), TempDir::new());
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(at.path()));
        Mount(at, image)
    }

    fn ext4() -> Mount {
        let (at, image) = (TempDir::new(), TempDir::new());
        let file = image.path().join("image");
        fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(at.path()));
        Mount(at, image)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.0.path()));
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?} does not run: {error}"));
    assert!(done.status.success(), "{command:?} (needs root): {}", String::from_utf8_lossy(&done.stderr));
}

/// Takes all the space there is.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [64 << 10, 4096, 512, 1] {
        while file.write_all(&vec![1; size]).and_then(|()| file.sync_data()).is_ok() {}
    }
}

#[test]
fn a_real_disk_that_fills_up_loses_nothing_that_was_stored() {
    for mount in [Mount::tmpfs(), Mount::ext4()] {
        for sync in [SyncMode::Always, SyncMode::Interval, SyncMode::Never] {
            let dir = mount.0.path().join(format!("{sync:?}"));
            let layout = Layout { segment_bytes: 64 << 10, reserve_bytes: 16 << 10, ..Layout::default() };
            let options = Options { sync, layout, ..Options::default() };
            let (mut store, ..) = open(&dir, options.clone());
            let filler = mount.0.path().join("filler");
            fill(&filler);
            let mut all = Vec::new();
            while store.room() {
                let record = op_of(all.len() as u64 + 1, 1000);
                store_each(&mut store, std::slice::from_ref(&record));
                all.push(record);
            }
            assert!((80..140).contains(&all.len()), "two segments were ready: {} records", all.len());
            assert_eq!(store.status().borrow().failed, None);
            fs::remove_file(&filler).unwrap();
            wait(&store, |status| status.room);
            all.push(op_of(5000, 1000));
            store_each(&mut store, &all[all.len() - 1..]);
            // Past what is ready, with nothing left: what cannot be written waits for space.
            fill(&filler);
            let more: Vec<_> = (1..300).map(|n| op_of(6000 + n, 1000)).collect();
            more.iter().for_each(|record| store.append(record));
            store.flush();
            let status = wait(&store, |status| !status.room);
            assert!(status.failed.is_none() && status.stored < store.end());
            fs::remove_file(&filler).unwrap();
            let end = store.end();
            wait(&store, |status| status.stored >= end && status.room);
            store.close().unwrap();
            all.extend(more);
            let (store, records, found) = open(&dir, options);
            assert!(records == all);
            assert_eq!((found.torn, found.damage), (None, vec![]));
            store.close().unwrap();
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn a_copy_onto_a_full_disk_fails() {
    let mount = Mount::tmpfs();
    let copied = lamplight::storage::copy(&mount.0.path().join("copy"), (1..100_000).map(op));
    assert!(matches!(copied, Err(StoreError::Full(_))), "{copied:?}");
}

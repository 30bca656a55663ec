//! Bytes that are not as they were written, missing files, files from elsewhere, and garbage.

use std::{fs, path::Path};

use lamplight::{
    record::Record,
    storage::{Found, Store, StoreError, Why},
};

use crate::support::{TempDir, is_part, names, op, open, quick, read, sample, segments, store_each};

/// A journal that something was done to: what is sound is read, the same is there after it was opened and mended, it
/// takes more, and what was reported is not reported again. Gives what was found.
fn survives(dir: &Path, all: &[Record]) -> (Vec<Record>, Found) {
    let (seen, found) = read(dir);
    assert!(is_part(&seen, all), "all that is read was written, in order");
    let (mut store, opened, again) = open(dir, quick());
    assert_eq!((&opened, &again), (&seen, &found), "to read and to open is the same");
    store_each(&mut store, &[op(1000)]);
    store.close().unwrap();
    let (after, clean) = read(dir);
    assert_eq!(after.split_last(), Some((&op(1000), &seen[..])));
    assert_eq!((clean.torn, clean.damage), (None, vec![]));
    (seen, found)
}

fn is_clean(found: &Found) -> bool {
    found.torn.is_none() && found.damage.is_empty()
}

#[test]
fn every_flipped_byte_is_noticed_and_takes_at_most_its_own_record() {
    let (written, broken) = (TempDir::new(), TempDir::new());
    let all = sample(written.path(), 13, true);
    assert!(segments(written.path()).len() >= 4, "several segments, and the next one");
    for name in segments(written.path()) {
        let sound = fs::read(written.path().join(&name)).unwrap();
        for at in 0..sound.len() {
            for flip in [0x01, 0x80, 0xff] {
                broken.become_copy_of(written.path());
                let mut bytes = sound.clone();
                bytes[at] ^= flip;
                fs::write(broken.path().join(&name), bytes).unwrap();
                let (seen, found) = survives(broken.path(), &all);
                assert!(!is_clean(&found), "{name} byte {at}: not noticed");
                assert!(seen.len() + 1 >= all.len(), "{name} byte {at}: {} records left, {found:?}", seen.len());
            }
        }
    }
}

#[test]
fn a_flipped_byte_in_a_journal_that_was_not_closed_takes_at_most_its_own_record() {
    let (written, broken) = (TempDir::new(), TempDir::new());
    let all = sample(written.path(), 8, false);
    for name in segments(written.path()) {
        let sound = fs::read(written.path().join(&name)).unwrap();
        for at in 0..sound.len() {
            broken.become_copy_of(written.path());
            let mut bytes = sound.clone();
            bytes[at] ^= 0x10;
            fs::write(broken.path().join(&name), bytes).unwrap();
            let (seen, found) = survives(broken.path(), &all);
            assert!(!is_clean(&found), "{name} byte {at}: not noticed");
            assert!(seen.len() + 1 >= all.len(), "{name} byte {at}: {} records left, {found:?}", seen.len());
        }
    }
}

#[test]
fn a_last_segment_cut_anywhere_leaves_all_before_the_cut() {
    for closed in [true, false] {
        let (written, broken) = (TempDir::new(), TempDir::new());
        let all = sample(written.path(), 8, closed);
        let names = segments(written.path());
        let [before @ .., last, spare] = &names[..] else { panic!("some segments") };
        assert!(!before.is_empty());
        let sound = fs::read(written.path().join(last)).unwrap();
        let mut least = usize::MAX;
        for length in (0..sound.len()).rev() {
            for keeps_spare in [true, false] {
                broken.become_copy_of(written.path());
                fs::write(broken.path().join(last), &sound[..length]).unwrap();
                if !keeps_spare {
                    fs::remove_file(broken.path().join(spare)).unwrap();
                }
                let (seen, _) = survives(broken.path(), &all);
                assert_eq!(seen, all[..seen.len()], "cut at {length}: what is left is the beginning");
                assert!(seen.len() <= least);
                least = seen.len();
            }
        }
        assert!(least > 0, "the other segments are whole");
    }
}

#[test]
fn a_middle_segment_cut_anywhere_is_damage_and_the_others_stay() {
    let (written, broken) = (TempDir::new(), TempDir::new());
    let all = sample(written.path(), 13, true);
    let name = &segments(written.path())[1];
    let sound = fs::read(written.path().join(name)).unwrap();
    for length in 0..sound.len() - 200 {
        broken.become_copy_of(written.path());
        fs::write(broken.path().join(name), &sound[..length]).unwrap();
        let (seen, found) = survives(broken.path(), &all);
        assert!(!found.damage.is_empty(), "cut at {length}");
        assert_eq!(seen.last(), all.last());
    }
}

#[test]
fn a_missing_segment_is_noticed_wherever_it_was() {
    let (written, broken) = (TempDir::new(), TempDir::new());
    let all = sample(written.path(), 13, true);
    let names = segments(written.path());
    // All but the one that is made ready for later, which holds nothing.
    for name in &names[..names.len() - 1] {
        broken.become_copy_of(written.path());
        fs::remove_file(broken.path().join(name)).unwrap();
        let (seen, found) = survives(broken.path(), &all);
        // Of the first it is not known here whether it was cut off.
        let missing = found.damage.iter().any(|damage| damage.why == Why::Missing);
        assert_eq!((missing, found.cut), (*name != names[0], *name == names[0]), "{name}: {found:?}");
        assert!(seen.len() < all.len());
    }
}

#[test]
fn segments_that_were_swapped_or_are_from_another_journal_are_strangers() {
    let (written, other, broken) = (TempDir::new(), TempDir::new(), TempDir::new());
    let all = sample(written.path(), 13, true);
    sample(other.path(), 13, true);
    let names = segments(written.path());
    broken.become_copy_of(written.path());
    fs::copy(written.path().join(&names[1]), broken.path().join(&names[0])).unwrap();
    fs::copy(written.path().join(&names[0]), broken.path().join(&names[1])).unwrap();
    let (_, found) = survives(broken.path(), &all);
    assert_eq!(found.damage.iter().filter(|damage| damage.why == Why::Stranger).count(), 2);
    for name in &names[..names.len() - 1] {
        broken.become_copy_of(written.path());
        fs::copy(other.path().join(name), broken.path().join(name)).unwrap();
        let (seen, found) = survives(broken.path(), &all);
        assert!(found.damage.iter().any(|damage| damage.why == Why::Stranger), "{name}: {found:?}");
        assert!(seen.len() >= all.len() / 2, "the others are still there");
    }
}

#[test]
fn the_bad_bytes_are_kept_aside() {
    let dir = TempDir::new();
    let all = sample(dir.path(), 13, true);
    let path = dir.path().join("journal-00000002");
    for round in ["damaged", "damaged-2"] {
        let mut bytes = fs::read(&path).unwrap();
        bytes[150] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (store, ..) = open(dir.path(), quick());
        store.close().unwrap();
        assert_eq!(fs::read(path.with_extension(round)).unwrap(), bytes);
    }
    assert!(is_part(&read(dir.path()).0, &all));
}

#[test]
fn garbage_of_any_kind_is_noticed_and_never_read_as_a_record() {
    let (written, broken) = (TempDir::new(), TempDir::new());
    let all = sample(written.path(), 13, true);
    let names = segments(written.path());
    for seed in 0..1500 {
        let mut chance = fastrand::Rng::with_seed(seed);
        broken.become_copy_of(written.path());
        for _ in 0..chance.usize(1..4) {
            let path = broken.path().join(&names[chance.usize(..names.len())]);
            let mut bytes = fs::read(&path).unwrap();
            let start = chance.usize(..=bytes.len());
            let end = chance.usize(start..=bytes.len());
            match chance.u8(..6) {
                0 => bytes[start..end].fill(0),
                1 => bytes[start..end].iter_mut().for_each(|byte| *byte = chance.u8(..)),
                2 => bytes.truncate(start),
                3 => drop(bytes.drain(start..end)),
                4 => bytes.extend_from_within(start..end),
                _ => bytes[start..end].reverse(),
            }
            fs::write(&path, bytes).unwrap();
        }
        survives(broken.path(), &all);
    }
}

#[test]
fn a_newer_version_is_refused_and_nothing_is_changed() {
    let dir = TempDir::new();
    sample(dir.path(), 13, true);
    let path = dir.path().join("journal-00000003");
    let mut bytes = fs::read(&path).unwrap();
    for copy in [0, 56] {
        bytes[copy + 8] = 2;
        let sum = crc32fast::hash(&[&bytes[copy..copy + 12], &bytes[copy + 16..copy + 56]].concat());
        bytes[copy + 12..copy + 16].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(&path, &bytes).unwrap();
    let files = || names(dir.path()).into_iter().map(|name| fs::read(dir.path().join(name)).unwrap());
    let before: Vec<_> = files().collect();
    let refused = Store::open_with(dir.path(), quick(), &mut |_| panic!("nothing is handed over")).unwrap_err();
    assert!(matches!(&refused, StoreError::Newer(at, 2) if *at == path), "{refused}");
    assert!(refused.to_string().contains("newer lamplight"));
    assert_eq!(before, files().collect::<Vec<_>>());
}

/// Writes a frame with right checksums at the end of a file's frames: what no disk does, but a program might.
fn forge(path: &Path, payload: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let position = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) + (end - 112) as u64;
    let lengths = [(payload.len() as u32).to_le_bytes(), u32::MAX.to_le_bytes()].concat();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[48..56]);
    hasher.update(&position.to_le_bytes());
    hasher.update(&lengths);
    let mark = hasher.clone().finalize();
    hasher.update(payload);
    let frame = [&mark.to_le_bytes()[..], &lengths[..], &hasher.finalize().to_le_bytes()[..], payload].concat();
    bytes[end..end + frame.len()].copy_from_slice(&frame);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_record_that_only_a_newer_version_knows_is_never_dropped() {
    let dir = TempDir::new();
    sample(dir.path(), 3, false);
    let path = dir.path().join("journal-00000001");
    forge(&path, &[200, 1, 2]);
    let before = fs::read(&path).unwrap();
    let refused = Store::open_with(dir.path(), quick(), &mut drop).unwrap_err();
    assert!(matches!(refused, StoreError::NewerRecord(_)), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_record_that_cannot_be_read_though_its_checksum_is_right_is_damage() {
    let dir = TempDir::new();
    let all = sample(dir.path(), 3, false);
    forge(&dir.path().join("journal-00000001"), &[2, 1, 2]);
    let (seen, found) = survives(dir.path(), &all);
    assert_eq!(seen, all);
    assert!(matches!(&found.damage[..], [damage] if damage.why == Why::Record && damage.record == 3), "{found:?}");
}

#[test]
fn a_file_that_is_far_too_long_is_cut_to_what_a_segment_can_be() {
    let dir = TempDir::new();
    let all = sample(dir.path(), 13, true);
    let path = dir.path().join("journal-00000002");
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    let (seen, found) = survives(dir.path(), &all);
    assert_eq!(seen, all);
    assert_eq!(found.damage[0].why, Why::TooLong);
    assert_eq!(fs::metadata(path.with_extension("damaged")).unwrap().len(), 1 << 40);
}

//! `lamplight check`: what it says of a journal, and that it changes nothing.

use std::{fs, path::Path, process::Command, sync::Arc};

use lamplight::{
    document::State,
    op::{Body, Command as Step, DocKey, Head, NodeId, Op, OpId},
    record::Record,
    snapshot::{Base, Part, Slice, Whole},
    storage::{Options, SyncMode, copy},
};
use serde_json::Value;

use crate::{
    faulty::FaultyDisk,
    support::{TempDir, identity, names, node, on, op, open, part, quick, read, sample, segments, store_each},
};

/// Runs it and gives its exit code, what it printed, and what it complained of.
fn check(dir: &Path, more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight"));
    let output = command.args(["check", "--data"]).arg(dir).args(more).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn op_at(origin: NodeId, seq: u64, time: u64, seen: Vec<(NodeId, u64)>) -> Record {
    let commands = vec![Step::Delete(DocKey::new("notes", "n"))];
    let body = Body { wall_ms: 1, seen, key: None, guards: vec![], commands };
    Record::Op(Op::encode(OpId { origin, seq }, time, &body).unwrap())
}

#[test]
fn a_sound_journal_is_called_sound_with_its_heads() {
    let dir = TempDir::new();
    let ops = [op_at(node(1), 1, 3, vec![]), op_at(node(2), 1, 5, vec![(node(1), 1)]), op_at(node(1), 2, 9, vec![])];
    copy(dir.path(), std::iter::once(identity()).chain(ops)).unwrap();
    let (code, said, complaint) = check(dir.path(), &[]);
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert!(said.contains("of the pool lamps") && said.contains("4 records") && said.contains("3 ops of 2 nodes"));
    assert!(said.ends_with("Sound: each checksum is right, and each op follows what it must follow.\n"), "{said}");
    let (code, said, _) = check(dir.path(), &["--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["sound"], &said["ops"]), (0, &Value::Bool(true), &Value::from(3)));
    let head = &said["heads"][node(1).to_string()];
    assert_eq!((&head["seq"], &head["time"]), (&Value::from(2), &Value::from(9)));
    assert_eq!(head["hash"].as_str().unwrap().len(), 32);
}

#[test]
fn damage_is_named_with_its_place_and_nothing_is_changed() {
    let dir = TempDir::new();
    sample(dir.path(), 13, true);
    let path = dir.path().join("journal-00000002");
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let before = names(dir.path());
    let (code, said, complaint) = check(dir.path(), &[]);
    assert_eq!(code, 1);
    assert!(said.contains("Damage: journal-00000002 at byte ") && !said.contains("Sound"), "{said}");
    assert!(said.contains("Broken rule: op "), "an op is missing: {said}");
    assert!(complaint.starts_with("lamplight: the journal in "), "{complaint}");
    let (code, said, _) = check(dir.path(), &["--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["sound"]), (1, &Value::Bool(false)));
    assert_eq!(said["damage"][0]["file"], "journal-00000002");
    assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (before, bytes));
}

#[test]
fn ops_that_do_not_follow_each_other_are_named() {
    let (a, b) = (node(1), node(2));
    for (ops, said) in [
        (vec![op_at(a, 2, 3, vec![])], "comes after seq 0"),
        (vec![op_at(a, 1, 3, vec![]), op_at(a, 3, 4, vec![])], "comes after seq 1"),
        (vec![op_at(a, 1, 3, vec![]), op_at(a, 2, 3, vec![])], "has time 3, and the one before it 3"),
        (vec![op_at(a, 1, 3, vec![(b, 1)]), op_at(b, 2, 2, vec![])], "but only seq 0 comes before it"),
        (vec![op(1), Record::Forget, op(2)], "comes after seq 0"),
    ] {
        let dir = TempDir::new();
        copy(dir.path(), ops).unwrap();
        let (code, found, _) = check(dir.path(), &[]);
        assert_eq!(code, 1);
        assert!(found.contains(said), "{found}");
    }
}

#[test]
fn an_incomplete_end_is_told_and_is_no_damage() {
    let dir = TempDir::new();
    sample(dir.path(), 8, false);
    let last = dir.path().join("journal-00000002");
    let mut bytes = fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end - 5..].fill(0);
    fs::write(&last, &bytes).unwrap();
    let (code, said, complaint) = check(dir.path(), &[]);
    assert_eq!((code, complaint.as_str()), (0, ""), "{said}");
    assert!(said.contains("Incomplete end, as a crash leaves it: journal-00000002"), "{said}");
    assert!(said.contains("Sound up to there"), "{said}");
}

/// All that can be done to the last segment so that records which were stored are gone from its end.
fn spoilt(sound: &[u8]) -> Vec<(String, Vec<u8>)> {
    let end = sound.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut all: Vec<(String, Vec<u8>)> =
        (0..end).map(|length| (format!("cut at {length}"), sound[..length].to_vec())).collect();
    for at in [0, 1, 55, 111, 112, 113, 130, 200] {
        for count in [1, 7, 16, 100] {
            let [mut shifted, mut moved] = [sound.to_vec(), sound.to_vec()];
            shifted.drain(at..at + count);
            moved.splice(at..at, vec![0xaa; count]);
            for (what, mut bytes) in [("taken out", shifted), ("put in", moved)] {
                all.push((format!("{count} bytes {what} at {at}"), bytes.clone()));
                // What is left of a last record, and zeros, looks as if its write had been broken off.
                if what == "put in" || at < 112 {
                    bytes.resize(sound.len(), 0);
                    all.push((format!("{count} bytes {what} at {at}, as long as before"), bytes));
                }
            }
        }
    }
    all
}

#[test]
fn a_last_segment_that_was_cut_or_shifted_is_damage_for_check_as_for_serve() {
    let (written, dir) = (TempDir::new(), TempDir::new());
    for (count, closed) in [(8, false), (8, true), (3, false)] {
        let all = sample(written.path(), count, closed);
        let names = segments(written.path());
        let last = &names[names.len() - 2];
        for (what, bytes) in spoilt(&fs::read(written.path().join(last)).unwrap()) {
            dir.become_copy_of(written.path());
            fs::write(dir.path().join(last), bytes).unwrap();
            let (seen, found) = read(dir.path());
            let lost = seen.len() < all.len();
            assert!(!lost || !found.damage.is_empty(), "{what} of {last}: {} of {}, {found:?}", seen.len(), all.len());
        }
        for name in super::support::names(written.path()) {
            fs::remove_file(written.path().join(name)).unwrap();
        }
    }
    sample(written.path(), 8, false);
    let last = written.path().join("journal-00000002");
    fs::File::options().write(true).open(&last).unwrap().set_len(130).unwrap();
    let (code, said, _) = check(written.path(), &[]);
    assert!(code == 1 && said.contains("Damage: journal-00000002") && !said.contains("Sound"), "{said}");
}

#[test]
fn what_cannot_be_checked_is_told() {
    let dir = TempDir::new();
    let (code, _, complaint) = check(dir.path(), &[]);
    assert_eq!(code, 1);
    assert!(complaint.contains("holds no journal"), "{complaint}");
    assert_eq!(check(&dir.path().join("nowhere"), &[]).0, 1);
    let (store, ..) = open(dir.path(), quick());
    let (code, _, complaint) = check(dir.path(), &[]);
    assert_eq!(code, 1);
    assert!(complaint.contains("another process uses"), "{complaint}");
    store.close().unwrap();
}

/// What is changed of a snapshot before its end is made to fit.
type Spoil<'a> = &'a dyn Fn(&mut Base, &mut Slice);

/// A snapshot of the ops up to a time, as a node would write it but for what `spoil` does.
fn snapshot(ops: &[Record], time: u64, spoil: Spoil) -> Vec<Record> {
    let ops: Vec<Op> =
        ops.iter().filter_map(|record| if let Record::Op(op) = record { Some(op.clone()) } else { None }).collect();
    let behind: Vec<Op> = ops.iter().filter(|op| op.time() <= time).cloned().collect();
    let mut state = State::default();
    state.insert(&behind);
    let head = behind.iter().fold(Head::default(), Head::extended);
    let mut base = Base { time, heads: vec![(node(7), head)], membership: vec![], documents: 0 };
    let mut slice = state.slice(None, time);
    spoil(&mut base, &mut slice);
    let digest = slice.documents.iter().map(State::mark_of).fold(0, u64::wrapping_add);
    let whole = Whole { documents: slice.documents.len() as u64, digest };
    let parts = [Part::Base(base), Part::Documents(slice)].map(Record::Snapshot);
    let kept = ops.into_iter().filter(|op| op.time() > time).map(Record::Op);
    parts.into_iter().chain([identity()]).chain(kept).chain([Record::Snapshot(Part::Whole(whole))]).collect()
}

/// Writes a journal in which all that was ever written is still there.
fn write(dir: &Path, records: &[Record]) {
    let disk = Arc::new(FaultyDisk::quick());
    disk.set(|faults| faults.fail_remove = true);
    let (mut store, ..) = open(dir, on(&disk, SyncMode::Never));
    store_each(&mut store, records);
    store.close().unwrap();
}

const SOUND: Spoil<'static> = &|_, _| {};

#[test]
fn a_snapshot_is_held_against_the_ops_before_it() {
    let ops: Vec<Record> = (1..10).map(op).collect();
    let check_with = |spoil: Spoil| {
        let dir = TempDir::new();
        write(dir.path(), &[&[identity()], &ops[..], &snapshot(&ops, 6, spoil), &[op(10)]].concat());
        let (code, said, _) = check(dir.path(), &["--json"]);
        (code, check(dir.path(), &[]).1, serde_json::from_str::<Value>(&said).unwrap())
    };
    let (code, said, json) = check_with(SOUND);
    assert!(
        code == 0 && said.contains("Snapshot of time 6, whole: 6 documents; as the ops before it make it"),
        "{said}"
    );
    assert!(said.contains("4 ops of 1 nodes behind the last snapshot") && said.contains("Sound"), "{said}");
    let expected = serde_json::json!([{ "time": 6, "documents": 6, "refolded": true }]);
    assert_eq!((&json["snapshots"], &json["cut"], &json["ops"]), (&expected, &Value::Bool(false), &Value::from(4)));
    assert_eq!(json["heads"][node(7).to_string()]["seq"], 10);
    let spoils: [(Spoil, &str); 5] = [
        (
            &|_, slice| slice.documents[2].text = "1".into(),
            "notes/n3 is not in the snapshot of time 6 as the ops make it",
        ),
        (&|_, slice| drop(slice.documents.remove(2)), "notes/n3 is not in the snapshot of time 6"),
        (&|_, slice| slice.documents[2].id = "m".into(), "notes/m is not in the snapshot of time 6"),
        (&|base, _| base.heads[0].1.hash.0[0] ^= 1, "has other heads than the ops before it"),
        (&|_, slice| slice.next = Some(("notes".into(), "n4".into())), "the snapshot of time 6 is not whole"),
    ];
    for (spoil, expected) in spoils {
        let (code, said, _) = check_with(spoil);
        assert!(code == 1 && said.contains(expected) && !said.contains("Sound"), "{expected}: {said}");
    }
}

#[test]
fn a_snapshot_whose_end_says_other_documents_is_not_whole() {
    let dir = TempDir::new();
    let ops: Vec<Record> = (1..10).map(op).collect();
    let mut records = snapshot(&ops, 6, SOUND);
    records.insert(2, part(6, 100, 10));
    write(dir.path(), &[ops, records].concat());
    let (code, said, _) = check(dir.path(), &[]);
    assert!(code == 1 && said.contains("the snapshot of time 6 is not whole: 7 documents, of 6"), "{said}");
}

#[test]
fn a_cut_journal_is_sound_and_a_later_snapshot_is_folded_from_the_one_before() {
    let dir = TempDir::new();
    let disk = Arc::new(FaultyDisk::quick());
    let (mut store, ..) = open(dir.path(), on(&disk, SyncMode::Always));
    let ops: Vec<Record> = (1..40).map(op).collect();
    store_each(&mut store, &[&[identity()], &ops[..19], &snapshot(&ops[..19], 15, SOUND)].concat());
    store.close().unwrap();
    let (code, said, _) = check(dir.path(), &[]);
    assert!(code == 0 && said.contains("whole: 15 documents; the ops before it are not here"), "{said}");
    let options = || Options { disk: Arc::clone(&disk) as Arc<_>, ..quick() };
    let (mut store, ..) = open(dir.path(), options());
    disk.set(|faults| faults.fail_remove = true);
    store_each(&mut store, &[&ops[19..30], &snapshot(&ops[..30], 25, SOUND), &ops[30..]].concat());
    store.close().unwrap();
    let (code, said, _) = check(dir.path(), &[]);
    assert!(code == 0 && said.contains("time 25, whole: 25 documents; as the ops before it make it"), "{said}");
    disk.set(|faults| faults.fail_remove = false);
    let (mut store, ..) = open(dir.path(), options());
    store_each(&mut store, &snapshot(&ops, 35, &|_, slice| slice.documents[0].text = "1".into())[..3]);
    store.close().unwrap();
    let (code, said, _) = check(dir.path(), &[]);
    assert!(code == 0 && said.contains("A snapshot of time 35 has begun and is not whole"), "{said}");
}

#[test]
fn a_journal_that_has_lost_its_beginning_is_damaged() {
    let dir = TempDir::new();
    sample(dir.path(), 13, true);
    fs::remove_file(dir.path().join(&segments(dir.path())[0])).unwrap();
    let (code, said, complaint) = check(dir.path(), &[]);
    assert!(code == 1 && said.contains("Damage: the beginning is lost"), "{said}");
    assert!(complaint.contains("1 damaged places"), "{complaint}");
    let (_, said, _) = check(dir.path(), &["--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["sound"], &said["cut"], &said["beginning"]), (&false.into(), &true.into(), &false.into()));
}

//! `lamplight check`: what it says of a journal, and that it changes nothing.

use std::{fs, path::Path, process::Command};

use lamplight::{
    op::{Body, Command as Step, DocKey, NodeId, Op, OpId},
    record::Record,
    storage::copy,
};
use serde_json::Value;

use crate::support::{TempDir, identity, names, node, op, open, quick, sample};

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
    let bytes = fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(&last, &bytes[..end - 5]).unwrap();
    let (code, said, complaint) = check(dir.path(), &[]);
    assert_eq!((code, complaint.as_str()), (0, ""), "{said}");
    assert!(said.contains("Incomplete end, as a crash leaves it: journal-00000002"), "{said}");
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

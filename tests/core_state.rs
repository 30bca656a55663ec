//! The fold, given ops directly: a million in random order, and its rules one by one.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use std::collections::BTreeSet;

use lamplight::{
    document::{Reason, State, View, json},
    op::{Body, Command, DocKey, Guard, IdempotencyKey, KEY_SPAN, NodeId, Op, OpId},
    version::Version,
};
use uuid::Uuid;

const OPS: usize = 1_000_000;
const DOCUMENTS: usize = 10_000;
const BATCH: usize = 5_000;

/// An op at `time` of node `origin`; its seq is its time, which the fold does not look at.
fn op(time: u64, origin: u128, guards: Vec<Guard<'_>>, commands: Vec<Command<'_>>) -> Op {
    keyed(time, origin, None, guards, commands)
}

fn keyed(time: u64, origin: u128, key: Option<(&str, u64)>, guards: Vec<Guard<'_>>, commands: Vec<Command<'_>>) -> Op {
    let id = OpId { origin: NodeId(Uuid::from_u128(origin)), seq: time };
    let key = key.map(|(text, span)| IdempotencyKey { text: text.into(), span });
    let body = Body { wall_ms: 0, seen: vec![], key, guards, commands };
    Op::encode(id, time, &body).unwrap()
}

fn doc(id: &str) -> DocKey<'_> {
    DocKey::new("c", id)
}

fn put<'a>(id: &'a str, value: &'a str) -> Command<'a> {
    Command::Put(doc(id), value.into())
}

fn merge<'a>(id: &'a str, value: &'a str) -> Command<'a> {
    Command::Merge(doc(id), value.into())
}

fn patch<'a>(id: &'a str, steps: &'a str) -> Command<'a> {
    Command::Patch(doc(id), steps.into())
}

/// The documents of `c`, as `id=text`.
fn view_at(state: &State, id: &str, time: u64) -> Option<View> {
    let mut views = state.get_at("c", id, time);
    while !views.replays.advance() {}
    views.views().next()
}

fn documents(state: &State) -> Vec<String> {
    state.scan("c", None, usize::MAX).0.iter().map(|view| format!("{}={}", view.id, view.text.as_str())).collect()
}

/// Inserts the ops one at a time in every order, and insists on one outcome.
#[track_caller]
fn check(ops: &[Op], documents_expected: &[&str], rejected_expected: &[u64]) {
    let mut orders = vec![vec![]];
    for op in ops {
        orders = orders
            .iter()
            .flat_map(|order| {
                (0..=order.len()).map(|at| {
                    let mut order: Vec<Op> = order.clone();
                    order.insert(at, op.clone());
                    order
                })
            })
            .collect();
    }
    for order in orders {
        let mut state = State::default();
        order.iter().for_each(|op| state.insert(std::slice::from_ref(op)));
        assert_eq!(documents(&state), documents_expected, "{order:?}");
        let rejected: Vec<u64> = state.rejected().map(|(stamp, _)| stamp.time).collect();
        assert_eq!(rejected, rejected_expected, "{order:?}");
        let mut batch = State::default();
        batch.insert(&order);
        assert_eq!(documents(&batch), documents_expected, "as one batch: {order:?}");
    }
}

#[test]
fn a_million_ops_in_random_order_end_as_in_order() {
    let mut rng = fastrand::Rng::with_seed(7);
    let value = |rng: &mut fastrand::Rng| format!("{{\"a\":{},\"b\":{}}}", rng.u8(..), rng.u8(..));
    let mut ops: Vec<Op> = (1..=OPS as u64)
        .map(|time| {
            let (id, value) = (format!("d{}", rng.usize(..DOCUMENTS)), value(&mut rng));
            let command = match rng.u8(..8) {
                0 => Command::Delete(doc(&id)),
                1..4 => put(&id, &value),
                4 => patch(&id, r#"[{"by":1,"op":"increment","path":"/a"}]"#),
                _ => merge(&id, &value),
            };
            op(time, rng.u128(1..4), vec![], vec![command])
        })
        .collect();
    let mut in_order = State::default();
    ops.chunks(BATCH).for_each(|batch| in_order.insert(batch));
    rng.shuffle(&mut ops);
    let mut shuffled = State::default();
    ops.chunks(BATCH).for_each(|batch| shuffled.insert(batch));
    assert!(shuffled.work().rolled_back > 500_000, "{:?}", shuffled.work());
    assert_eq!(documents(&in_order), documents(&shuffled));
    assert!(in_order.rejected().eq(shuffled.rejected()));
    assert!(in_order.rejected().next().is_some());
}

#[test]
fn the_greater_stamp_wins_and_ties_go_by_origin() {
    check(&[op(1, 1, vec![], vec![put("x", "1")]), op(1, 2, vec![], vec![put("x", "2")])], &["x=2"], &[]);
    check(&[op(2, 1, vec![], vec![put("x", "1")]), op(1, 2, vec![], vec![put("x", "2")])], &["x=1"], &[]);
}

#[test]
fn a_late_op_turns_a_verdict_both_ways() {
    let exists = vec![Guard::Exists(doc("x"))];
    let version = vec![Guard::Version(doc("x"), Version::of("1"))];
    check(
        &[op(2, 1, exists.clone(), vec![put("y", "1")]), op(1, 2, vec![], vec![put("x", "1")])],
        &["x=1", "y=1"],
        &[],
    );
    let ops = [
        op(1, 1, vec![], vec![put("x", "1")]),
        op(3, 1, version, vec![put("x", "3")]),
        op(2, 2, vec![], vec![put("x", "2")]),
    ];
    check(&ops, &["x=2"], &[3]);
}

#[test]
fn a_patch_whose_test_no_longer_holds_leaves_no_trace() {
    let ops = [
        op(1, 1, vec![], vec![put("x", r#"{"n":1}"#), put("y", "0")]),
        op(
            3,
            1,
            vec![],
            vec![put("y", "1"), patch("x", r#"[{"op":"test","path":"/n","value":1},{"op":"remove","path":"/n"}]"#)],
        ),
        op(2, 2, vec![], vec![merge("x", r#"{"n":2}"#)]),
    ];
    check(&ops, &[r#"x={"n":2}"#, "y=0"], &[3]);
}

#[test]
fn documents_that_guarded_ops_link_are_replayed_one_after_the_other() {
    // b is made if a exists, c if b exists, d if c does not.
    let ops = [
        op(2, 1, vec![Guard::Exists(doc("a"))], vec![put("b", "1")]),
        op(3, 1, vec![Guard::Exists(doc("b"))], vec![put("c", "1")]),
        op(4, 1, vec![Guard::Absent(doc("c"))], vec![put("d", "1")]),
        op(1, 2, vec![], vec![put("a", "1")]),
    ];
    check(&ops[..3], &["d=1"], &[2, 3]);
    check(&ops, &["a=1", "b=1", "c=1"], &[4]);
}

#[test]
fn an_unconditional_op_over_several_documents_is_not_carried_out_twice() {
    let ops = [
        op(1, 1, vec![], vec![put("a", "1"), put("b", "1")]),
        op(3, 1, vec![Guard::Exists(doc("b"))], vec![put("c", "1"), merge("a", r#"{"n":3}"#)]),
        op(2, 2, vec![], vec![Command::Delete(doc("b")), put("c", "2")]),
        op(4, 2, vec![], vec![patch("c", r#"[{"by":1,"op":"increment","path":""}]"#)]),
    ];
    check(&ops, &["a=1", "c=3"], &[3]);
}

#[test]
fn of_ops_with_one_key_only_the_first_in_the_order_counts() {
    let ops = [
        keyed(2, 1, Some(("k", KEY_SPAN)), vec![], vec![put("x", "2")]),
        keyed(1, 2, Some(("k", KEY_SPAN)), vec![Guard::Absent(doc("y"))], vec![put("y", "1")]),
        op(3, 1, vec![], vec![merge("x", r#"{"n":3}"#)]),
    ];
    check(&ops, &[r#"x={"n":3}"#, "y=1"], &[2]);
    let mut state = State::default();
    state.insert(&ops);
    assert_eq!(state.claim("k").map(|claim| claim.op), Some(ops[1].id()));
    assert_eq!(state.verdict(ops[0].stamp()), Err(Reason::Repeated(ops[1].id())));
}

#[test]
fn a_key_is_held_against_later_ops_for_as_long_as_the_op_that_holds_it_says() {
    let ops = [
        keyed(10, 1, Some(("k", 5)), vec![], vec![put("x", "1")]),
        keyed(15, 2, Some(("k", KEY_SPAN)), vec![], vec![put("x", "2")]),
        keyed(16, 2, Some(("k", 1_000)), vec![], vec![put("x", "3")]),
        keyed(1_017, 1, Some(("k", 0)), vec![], vec![put("y", "4")]),
        keyed(1_018, 2, Some(("k", 0)), vec![], vec![put("z", "5")]),
    ];
    check(&ops, &["x=3", "y=4", "z=5"], &[15]);
    let again = |op: &Op| Op::decode(op.bytes()).unwrap();
    assert!(ops.iter().all(|op| again(op).body() == op.body()));
}

#[test]
fn a_counter_of_many_increments_takes_late_ones_at_their_place() {
    let step = r#"[{"by":1,"op":"increment","path":"/n"}]"#;
    let mut state = State::default();
    state.insert(&[op(1, 1, vec![], vec![put("x", r#"{"n":0}"#)])]);
    for time in (3..1_000_u64).step_by(2).chain((1..500).rev().map(|half| 2 * half)) {
        state.insert(&[op(time, 1, vec![], vec![patch("x", step)])]);
    }
    assert_eq!(documents(&state), [r#"x={"n":998}"#]);
    state.insert(&[op(500, 2, vec![], vec![put("x", r#"{"n":0}"#)])]);
    assert_eq!(documents(&state), [r#"x={"n":499}"#]);
    let work = state.work();
    assert!(work.judged < 300_000, "checkpoints bound the replays: {work:?}");
}

#[test]
fn a_document_that_would_grow_too_large_at_its_place_rejects_the_op() {
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(600_000));
    let longer = format!("{{\"b\":\"{}\"}}", "x".repeat(600_000));
    let mut state = State::default();
    state.insert(&[op(1, 1, vec![], vec![put("x", &long)]), op(2, 1, vec![], vec![merge("x", &longer)])]);
    assert!(matches!(state.rejected().next(), Some((_, Reason::TooLarge { index: 0 }))));
    assert_eq!(state.get("c", "x").unwrap().text.len(), long.len());
}

#[test]
fn a_key_that_means_something_to_the_json_library_is_a_key_like_any_other() {
    let ops = [
        op(1, 1, vec![], vec![put("x", r#"{"$serde_json::private::RawValue":1}"#)]),
        op(2, 1, vec![], vec![merge("x", r#"{"n":2}"#)]),
    ];
    check(&ops, &[r#"x={"$serde_json::private::RawValue":1,"n":2}"#], &[]);
}

#[test]
fn the_stamp_of_a_document_is_that_of_the_last_op_that_wrote_it_not_of_one_that_only_read_it() {
    let ops = [
        op(1, 1, vec![], vec![put("a", "1"), put("b", "1")]),
        op(2, 1, vec![Guard::Exists(doc("a"))], vec![put("b", "2")]),
        op(3, 1, vec![Guard::Exists(doc("b"))], vec![put("b", "3"), put("d", "3")]),
        op(4, 1, vec![Guard::Exists(doc("a")), Guard::Absent(doc("b"))], vec![put("d", "4")]),
        op(5, 1, vec![Guard::Exists(doc("d"))], vec![merge("e", "{}")]),
    ];
    let check = |state: &State, order: &str| {
        let time = |id| state.stamp("c", id).map(|stamp| stamp.time);
        assert_eq!(["a", "b", "d", "e", "f"].map(time), [Some(1), Some(3), Some(3), Some(5), None], "{order}");
    };
    let mut state = State::default();
    ops.iter().for_each(|op| state.insert(std::slice::from_ref(op)));
    check(&state, "in order");
    let mut state = State::default();
    ops.iter().rev().for_each(|op| state.insert(std::slice::from_ref(op)));
    check(&state, "in reverse");
    let mut state = State::default();
    state.insert(&ops);
    check(&state, "as one batch");
}

#[test]
fn a_document_written_several_times_by_one_op_is_what_the_last_command_made_it() {
    let several = op(2, 1, vec![], vec![put("a", "1"), put("b", "1"), put("a", "2"), Command::Delete(doc("b"))]);
    let again = op(3, 2, vec![], vec![Command::Delete(doc("a")), put("b", "4"), put("a", "3")]);
    check(&[op(1, 1, vec![], vec![put("b", "0")]), several.clone()], &["a=2"], &[]);
    check(&[several, again, op(4, 1, vec![], vec![merge("b", "{\"x\":1}")])], &["a=3", "b={\"x\":1}"], &[]);
}

#[test]
fn a_document_at_a_time_is_what_the_ops_up_to_it_alone_make_of_it() {
    const TIMES: u64 = 150;
    let ids = ["a", "b", "c", "d"];
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let id = |rng: &mut fastrand::Rng| ids[rng.usize(..ids.len())];
        let mut ops: Vec<Op> = (1..=TIMES)
            .map(|time| {
                let value = format!("{{\"n\":{}}}", rng.u8(..));
                let increment = r#"[{"by":1,"op":"increment","path":"/n"}]"#;
                let commands = (0..rng.usize(1..3)).map(|_| match rng.u8(..8) {
                    0 => Command::Delete(doc(id(&mut rng))),
                    1 => put(id(&mut rng), &value),
                    2..5 => patch(id(&mut rng), increment),
                    _ => merge(id(&mut rng), &value),
                });
                let commands = commands.collect();
                let guards = match rng.u8(..6) {
                    0 => vec![Guard::Exists(doc(id(&mut rng)))],
                    1 => vec![Guard::Absent(doc(id(&mut rng)))],
                    _ => vec![],
                };
                op(time, rng.u128(1..4), guards, commands)
            })
            .collect();
        let in_order = ops.clone();
        rng.shuffle(&mut ops);
        let (mut whole, mut prefix) = (State::default(), State::default());
        ops.iter().for_each(|op| whole.insert(std::slice::from_ref(op)));
        assert!(whole.rejected().count() > 5, "some verdicts must matter");
        for op in &in_order {
            prefix.insert(std::slice::from_ref(op));
            for id in ids {
                assert_eq!(view_at(&whole, id, op.time()), prefix.get("c", id), "seed {seed}, {id} at {}", op.time());
            }
        }
        assert!(ids.iter().all(|id| view_at(&whole, id, 0).is_none()));
    }
}

#[test]
fn an_op_that_was_prepared_comes_to_the_same_as_one_that_is_inserted() {
    let mut rng = fastrand::Rng::with_seed(3);
    let (mut prepared, mut inserted) = (State::default(), State::default());
    let names = ["a", "b", "c"];
    let random = |time: u64, rng: &mut fastrand::Rng| {
        let (one, other) = (names[rng.usize(..3)], names[rng.usize(..3)]);
        let (number, key) = (rng.u32(..5).to_string(), format!("k{}", rng.u32(..40)));
        let key = rng.bool().then_some(&*key);
        let merged = format!("{{\"n\":{number}}}");
        let guards = match rng.u32(..3) {
            0 => vec![Guard::Exists(doc(other))],
            1 => vec![Guard::Absent(doc(other))],
            _ => Vec::new(),
        };
        let commands = match rng.u32(..5) {
            0 => vec![put(one, &number)],
            1 => vec![Command::Delete(doc(one))],
            2 => vec![patch(one, r#"[{"op":"add","path":"/p","value":1}]"#), merge(other, &merged)],
            _ => vec![merge(one, &merged)],
        };
        let span = if rng.bool() { KEY_SPAN } else { rng.u64(..400) };
        keyed(time, rng.u128(1..3), key.map(|key| (key, span)), guards, commands)
    };
    let (mut once, mut late) = (0, BTreeSet::new());
    for time in (10..4_000).step_by(10) {
        let op = random(time, &mut rng);
        match prepared.prepare(&op) {
            Ok(ready) => {
                prepared.insert_prepared(&op, ready);
                once += 1;
            }
            Err(_) => prepared.insert(std::slice::from_ref(&op)),
        }
        inserted.insert(std::slice::from_ref(&op));
        let late_time = rng.u64(1..time) / 10 * 10 + 5;
        if rng.u32(..5) == 0 && late.insert(late_time) {
            // Checkpoints and links are the same, too, or a late op comes to something else.
            let late = random(late_time, &mut rng);
            for state in [&mut prepared, &mut inserted] {
                state.insert(std::slice::from_ref(&late));
            }
        }
        assert_eq!(documents(&prepared), documents(&inserted), "at {time}");
        assert_eq!((prepared.digest(), prepared.count()), (inserted.digest(), inserted.count()));
        assert_eq!(prepared.changes().end(), inserted.changes().end());
    }
    assert!(once > 100, "{once} ops were prepared");
    assert_eq!(prepared.rejected().collect::<Vec<_>>(), inserted.rejected().collect::<Vec<_>>());
}

/// A document of half a mebibyte whose parsing costs much, and a patch that copies half of that 32 times.
fn costly() -> (String, String) {
    let half = vec!["{\"\":0}"; 30_000].join(",");
    let steps = vec![r#"{"from":"/a","op":"copy","path":"/b"}"#; 32].join(",");
    (format!("{{\"a\":[{half}],\"b\":0}}"), format!("[{steps}]"))
}

#[test]
fn a_hundred_patches_of_copies_are_rejected_and_change_nothing() {
    let (value, steps) = costly();
    let mut state = State::default();
    state.insert(&[op(1, 1, vec![], vec![put("a", &value)])]);
    let patches = op(2, 1, vec![], vec![patch("a", &steps); 100]);
    assert_eq!(state.judge(&patches), Err(Reason::TooCostly));
    state.insert(&[patches]);
    assert_eq!(state.rejected().map(|(_, why)| why).collect::<Vec<_>>(), [&Reason::TooCostly]);
    assert_eq!(state.text("c", "a").unwrap().as_str(), value);
}

#[test]
fn the_cost_counts_for_the_op_and_not_for_each_command() {
    let text = format!("\"{}\"", "x".repeat((1 << 20) - 3));
    let ids: Vec<String> = (0..8).map(|at| at.to_string()).collect();
    let mut state = State::default();
    ids.iter().zip(1..).for_each(|(id, time)| state.insert(&[op(time, 1, vec![], vec![put(id, &text)])]));
    let version = Version::of(&text);
    let replace = r#"[{"op":"replace","path":"","value":1}]"#;
    let replaces = |count: usize| ids[..count].iter().map(|id| patch(id, replace)).collect::<Vec<_>>();
    let merges = |count: usize| ids[..count].iter().map(|id| merge(id, "{}")).collect::<Vec<_>>();
    for (name, guards, commands, verdict) in [
        ("patches", vec![], replaces(5), Ok(())),
        ("patches", vec![], replaces(6), Err(Reason::TooCostly)),
        ("merges", vec![], merges(5), Ok(())),
        ("merges", vec![], merges(6), Err(Reason::TooCostly)),
        ("several of one document", vec![], vec![merge("0", "{}"); 900], Ok(())),
        ("guards", vec![Guard::Version(doc("0"), version); 30], merges(1), Ok(())),
        ("guards", vec![Guard::Version(doc("0"), version); 50], merges(1), Err(Reason::TooCostly)),
    ] {
        assert_eq!(state.judge(&op(100, 1, guards, commands)), verdict, "{name}");
    }
    let small = format!("\"{}\"", "x".repeat(400_000));
    let again: Vec<Command<'_>> = (0..9).flat_map(|_| [put("0", &small), put("0", "{}"), merge("0", "{}")]).collect();
    assert_eq!(state.judge(&op(100, 1, vec![], again)), Ok(()), "a small document, however often");
    // Each put makes a document that the merge after it must parse.
    let value = format!("[{}0]", "0,".repeat(150_000));
    let parsed = |times| (0..times).flat_map(|_| [put("0", &value), merge("0", "{}")]).collect();
    assert_eq!(state.judge(&op(100, 1, vec![], parsed(4))), Ok(()));
    assert_eq!(state.judge(&op(100, 1, vec![], parsed(5))), Err(Reason::TooCostly));
}

#[test]
fn a_large_value_is_charged_where_it_is_tested_added_and_merged() {
    let large = format!("[{}0]", "0,".repeat(300_000));
    let mut state = State::default();
    state.insert(&[op(1, 1, vec![], vec![put("a", &format!("{{\"a\":{large}}}"))])]);
    for (kind, path, times, verdict) in [
        ("test", "/a", 1, Ok(())),
        ("test", "/a", 2, Err(Reason::TooCostly)),
        ("replace", "/a", 1, Ok(())),
        ("replace", "/a", 2, Err(Reason::TooCostly)),
    ] {
        let steps = format!(r#"[{{"op":"{kind}","path":"{path}","value":{large}}}]"#);
        let judged = state.judge(&op(2, 1, vec![], vec![patch("a", &steps); times]));
        assert_eq!(judged, verdict, "{kind}, {times}");
    }
    let merge = format!("{{\"a\":{large}}}");
    let merges = |times| vec![Command::Merge(doc("a"), merge.as_str().into()); times];
    assert_eq!(state.judge(&op(2, 1, vec![], merges(1))), Ok(()));
    assert_eq!(state.judge(&op(2, 1, vec![], merges(2))), Err(Reason::TooCostly));
}

#[test]
fn the_verdict_over_the_cost_is_the_same_in_whatever_order_and_batches_ops_come() {
    let mut costly = 0;
    for seed in 0..3 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let big = |rng: &mut fastrand::Rng| format!("[{}0]", "0,".repeat(rng.usize(100_000..260_000)));
        let mut ops = Vec::new();
        for time in 1..=14 {
            let (one, other) = (["a", "b", "d"][rng.usize(..3)], ["a", "b", "d"][rng.usize(..3)]);
            let value = format!("{{\"x\":{},\"n\":{time}}}", big(&mut rng));
            let value = json::canonical(value.as_bytes()).unwrap();
            let copy = r#"[{"from":"/x","op":"copy","path":"/y"},{"op":"remove","path":"/y"}]"#;
            let commands = match rng.u8(..5) {
                0 => vec![put(one, &value)],
                1 => vec![Command::Merge(doc(one), value.as_str().into()), patch(other, copy)],
                2 => vec![patch(one, copy); rng.usize(1..4)],
                3 => vec![patch(one, copy), patch(other, copy), put(one, "{\"n\":1}"), patch(one, "[]")],
                _ => vec![Command::Merge(doc(one), "{\"m\":1}".into()), Command::Delete(doc(other))],
            };
            let guards = if rng.bool() { vec![] } else { vec![Guard::Exists(doc(other))] };
            ops.push(op(time, rng.u128(1..3), guards, commands));
        }
        let told = |state: &State| {
            let rejected: Vec<_> = state.rejected().map(|(stamp, why)| (*stamp, why.clone())).collect();
            (rejected, state.digest())
        };
        let mut in_order = State::default();
        ops.iter().for_each(|op| in_order.insert(std::slice::from_ref(op)));
        costly += in_order.rejected().filter(|(_, why)| **why == Reason::TooCostly).count();
        let mut at_once = State::default();
        at_once.insert(&ops);
        assert_eq!(told(&at_once), told(&in_order), "seed {seed}, at once");
        rng.shuffle(&mut ops);
        let mut shuffled = State::default();
        ops.chunks(rng.usize(1..9)).for_each(|batch| shuffled.insert(batch));
        assert_eq!(told(&shuffled), told(&in_order), "seed {seed}, shuffled");
    }
    assert!((2..3 * 14).contains(&costly), "{costly} of the ops are too costly");
}

//! Frames of links, the pool secret, JSON and what is done to it.

use std::borrow::Cow;

use lamplight::{
    document::{
        Reason, State, Text,
        cost::{COST_MAX, Cost},
        json::{self, Size},
        patch::{Patch, merge as merge_into, merge_sized},
        selector::{Selector, Sort, SortKey},
    },
    node::PoolSecret,
    op::{Body, Command, DocKey, NodeId, Op, OpId, Stamp},
    wire,
};
use serde_json::Value;
use uuid::Uuid;

use super::memory;

/// Most units of cost for each byte of a canonical text, as docs/limits.md says.
const UNITS_PER_BYTE: usize = 6;
/// Most bytes that may be allocated for each unit of cost, and beside: the smallest object takes over 600 bytes.
const ALLOCATED_PER_UNIT: usize = 128;
const ALLOCATED_BESIDE: usize = 16 << 10;

/// A frame of a link.
pub fn frame(input: &[u8]) {
    let Ok(message) = wire::decode(input) else { return };
    let encoded = wire::encode(&message);
    assert_eq!(wire::decode(&encoded), Ok(message.clone()), "what is written is read");
    assert_eq!(wire::encode(&message), encoded);
}

/// The file of a pool secret.
pub fn secret(input: &[u8]) {
    if let Ok(secret) = PoolSecret::new(input) {
        assert!(secret.is_set() && secret.count() > 0);
        assert_eq!(secret.replace(input), Ok(false), "it is the same");
    }
}

/// A JSON text, and the canonical form of it.
pub fn json(input: &[u8]) {
    let Ok(value) = json::parse(input) else { return };
    assert!(json::depth(&value) <= json::DEPTH_MAX);
    let Ok(text) = json::write(&value) else { return };
    assert_eq!(json::size(&value), text.len());
    let size = Size::of(&value);
    assert_eq!((Size::of_text(&text), size.bytes), (size, text.len()));
    assert!(size.units() <= UNITS_PER_BYTE * text.len(), "{} bytes cost {} units", text.len(), size.units());
    assert_eq!(json::parse(text.as_bytes()).as_ref(), Ok(&value));
    assert_eq!(json::canonical(text.as_bytes()).as_ref(), Ok(&text));
    assert!(json::is_canonical(&text));
    assert_eq!(json::is_canonical(str::from_utf8(input).unwrap_or_default()), input == text.as_bytes());
}

/// A JSON Patch, and behind a line's end the document that it is for.
pub fn patch(input: &[u8]) {
    let (patch, document) = halves(input);
    let Ok(steps) = json::canonical(patch) else { return };
    let (Ok(patch), Ok(mut value)) = (Patch::parse(&steps), json::parse(document)) else { return };
    let Ok(text) = json::write(&value) else { return };
    let mut again = value.clone();
    let (mut size, mut cost) = (Size::of(&value), Cost::default());
    let (before, charged) = (memory::allocated(), Size::of_text(&steps).units() + size.units());
    let applied = patch.apply_within(&mut value, &mut size, &mut cost);
    let allocated = memory::allocated() - before;
    assert!(cost.units() <= COST_MAX);
    // The parse of the patch and of the document is paid for where both are parsed.
    let most = ALLOCATED_BESIDE + ALLOCATED_PER_UNIT * (cost.units() + charged);
    assert!(allocated <= most, "{allocated} bytes for {} units", cost.units());
    assert_eq!(patch.apply(&mut again), applied);
    if applied.is_ok() {
        assert_eq!(size, Size::of(&value));
        check_kept(&value);
    }
    check_fold(&text, Command::Patch(DOC, steps.into()), applied.is_ok().then_some(&value));
}

/// A merge patch, and behind a line's end the document that it is for.
pub fn merge(input: &[u8]) {
    let (patch, document) = halves(input);
    let (Ok(patch), Ok(mut document)) = (json::parse(patch), json::parse(document)) else { return };
    let (before, mut size) = (json::write(&document), Size::of(&document));
    merge_sized(&mut document, &mut size, patch.clone());
    assert_eq!(size, Size::of(&document));
    if json::write(&document).is_ok() {
        check_kept(&document);
        if let (Ok(before), Ok(merge)) = (before, json::write(&patch)) {
            check_fold(&before, Command::Merge(DOC, merge.into()), Some(&document));
        }
    }
    let once = document.clone();
    merge_into(&mut document, patch);
    assert_eq!(document, once, "a merge patch that was applied changes nothing more");
}

const DOC: DocKey<'static> = DocKey { collection: Cow::Borrowed("c"), id: Cow::Borrowed("a") };

/// An op does to a document what its command does, or costs too much.
fn check_fold(before: &str, command: Command<'_>, after: Option<&Value>) {
    let op = |seq: u64, commands| {
        let body = Body { wall_ms: 0, seen: Vec::new(), key: None, guards: Vec::new(), commands };
        Op::encode(OpId { origin: NodeId(Uuid::from_u128(1)), seq }, seq, &body).expect("a sound op")
    };
    let mut state = State::default();
    state.insert(&[op(1, vec![Command::Put(DOC, before.into())])]);
    let once = op(2, vec![command]);
    let prepared = state.prepare(&once);
    let verdict = prepared.as_ref().map(|_| ()).map_err(Clone::clone);
    if verdict == Err(Reason::TooCostly) {
        return;
    }
    assert_eq!(verdict.is_ok(), after.is_some(), "{verdict:?}");
    match prepared {
        Ok(prepared) => state.insert_prepared(&once, prepared),
        Err(_) => state.insert(&[once]),
    }
    assert_eq!(state.verdict(Stamp { time: 2, origin: NodeId(Uuid::from_u128(1)) }), verdict);
    let text = after.map_or(before.to_string(), |value| json::write(value).expect("within its bounds"));
    assert_eq!(state.text("c", "a").map(Text::as_str), Some(&*text));
}

/// A document that is written is read as the same.
fn check_kept(value: &Value) {
    let text = json::write(value).expect("within its bounds");
    assert_eq!(json::parse(text.as_bytes()).as_ref(), Ok(value));
    assert!(json::is_canonical(&text));
}

/// A filter, a sort, and a document, each on a line.
pub fn selector(input: &[u8]) {
    let (filter, rest) = halves(input);
    let (sort, document) = halves(rest);
    let Ok(document) = json::parse(document) else { return };
    if let Ok(filter) = json::parse(filter)
        && let Ok(selector) = Selector::parse(&filter)
    {
        let not = Selector::parse(&serde_json::json!({ "$not": filter }));
        if let Ok(not) = not {
            assert_ne!(selector.matches(&document), not.matches(&document));
        }
    }
    if let Some(Ok(sort)) = str::from_utf8(sort).ok().map(Sort::parse) {
        let key = sort.key("id", &document);
        assert_eq!(SortKey::from_json(&key.to_json()).as_ref(), Ok(&key));
    }
}

/// Up to the first line's end, and behind it.
pub fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &[]),
    }
}

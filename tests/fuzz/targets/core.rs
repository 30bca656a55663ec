//! Frames of links, the pool secret, JSON and what is done to it.

use lamplight::{
    document::{
        json,
        patch::{Patch, merge as merge_into},
        selector::{Selector, Sort, SortKey},
    },
    node::PoolSecret,
    wire,
};
use serde_json::Value;

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
    assert_eq!(json::parse(text.as_bytes()).as_ref(), Ok(&value));
    assert_eq!(json::canonical(text.as_bytes()).as_ref(), Ok(&text));
    assert!(json::is_canonical(&text));
    assert_eq!(json::is_canonical(str::from_utf8(input).unwrap_or_default()), input == text.as_bytes());
}

/// A JSON Patch, and behind a line's end the document that it is for.
pub fn patch(input: &[u8]) {
    let (patch, document) = halves(input);
    let Some(patch) = str::from_utf8(patch).ok().and_then(|text| Patch::parse(text).ok()) else { return };
    let Ok(mut value) = json::parse(document) else { return };
    if json::write(&value).is_err() {
        return;
    }
    let mut again = value.clone();
    let applied = patch.apply(&mut value);
    assert_eq!(patch.apply(&mut again), applied);
    if applied.is_ok() {
        check_kept(&value);
    }
}

/// A merge patch, and behind a line's end the document that it is for.
pub fn merge(input: &[u8]) {
    let (patch, document) = halves(input);
    let (Ok(patch), Ok(mut document)) = (json::parse(patch), json::parse(document)) else { return };
    merge_into(&mut document, patch.clone());
    if json::write(&document).is_ok() {
        check_kept(&document);
    }
    let once = document.clone();
    merge_into(&mut document, patch);
    assert_eq!(document, once, "a merge patch that was applied changes nothing more");
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
        let key = sort.key(&document);
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

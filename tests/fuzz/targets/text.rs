//! Texts: deltas, and updates of Yjs documents.

use lamplight::document::{
    delta::parse_delta,
    json,
    prose::{DELTA_BYTES_MAX, Prose, Unfit},
};

use super::core::halves;

/// What is edited: some words, one of them marked, and a character of two units.
const BEFORE: &str = r#"[{"insert":"one two "},{"insert":"three","attributes":{"bold":true}},{"insert":" 𝄞\n"}]"#;

/// A delta for a text.
pub fn delta(input: &[u8]) {
    let Ok(value) = json::parse(input) else { return };
    let Ok(steps) = parse_delta(&value) else { return };
    let mut prose = written();
    let before = prose.plain();
    match prose.edit(7, &steps) {
        Ok(_) => {
            let other = told(&prose).expect("it was made of sound steps");
            // Its encoding may be another: where a run of characters is split depends on the order in which edits came.
            assert_eq!((other.plain(), other.delta()), (prose.plain(), prose.delta()));
        }
        Err(why) => {
            assert_ne!(why, Unfit::Broken, "a delta of steps that are sound");
            assert_eq!(prose.plain(), before, "what is refused changes nothing");
        }
    }
}

/// The updates that an editor sends, each behind its length, for a text; or, with a line's end before it, a state vector.
pub fn update(input: &[u8]) {
    let mut prose = written();
    if let (b"", vector) = halves(input) {
        if let Ok(update) = prose.encode(vector) {
            assert!(prose.has(&update), "it knows what it tells");
        }
        return;
    }
    for update in pieces(input) {
        let before = prose.plain();
        match prose.take(&[update.to_vec()]) {
            // What held the text is given up with it.
            Err(Unfit::Broken) => return,
            Ok(_) => {}
            Err(_) => assert_eq!(prose.plain(), before, "what is refused changes nothing"),
        }
    }
    // It may look otherwise to who is told it, where an update says what no editor says: that a character stands before what
    // stands before it (docs/security.md, "Left").
    told(&prose);
}

fn written() -> Prose {
    let mut prose = Prose::default();
    let steps = json::parse(BEFORE.as_bytes()).ok().and_then(|value| parse_delta(&value).ok()).expect("a delta");
    prose.edit(1, &steps).expect("it is empty");
    prose
}

/// The text can be told, and who is told it knows as much.
fn told(prose: &Prose) -> Option<Prose> {
    let state = prose.encode(&[]).ok()?;
    prose.plain().ok()?;
    assert!(prose.delta().ok()?.len() <= DELTA_BYTES_MAX);
    let other = Prose::of(std::iter::once(&*state)).expect("its own encoding");
    assert_eq!(other.clocks(), prose.clocks());
    Some(other)
}

/// Pieces of at most 255 bytes, each behind its length; the last has all that is left.
pub fn pieces(mut input: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = input.split_first() {
        let (piece, behind) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        pieces.push(piece);
        input = behind;
    }
    pieces
}

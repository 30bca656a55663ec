//! Whether what an op says can be carried out by every node alike: names, canonical texts, well-formed patches.
//!
//! One check for both doors: drafts of this node's clients and ops of its peers. What passes here can be replayed
//! without an error of form ever after.

use std::fmt;

use super::{
    claim::{Claim, KEYS},
    json::{self, DOCUMENT_BYTES_MAX},
    patch::{Patch, PatchError},
    prose::{TEXT_BYTES_MAX, Updates},
    update::{Malformed, Shape},
};
use crate::{
    op::{Body, Command, DocKey, Newcomer},
    snapshot::BaseDocument,
};

/// Longest name of a collection, in bytes.
pub const COLLECTION_BYTES_MAX: usize = 64;
/// Longest document id, in bytes.
pub const ID_BYTES_MAX: usize = 256;
/// Longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest name of a node, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 128;
/// Most URLs of a node, and the longest, in bytes.
pub const URLS_MAX: (usize, usize) = (8, 512);

/// What is wrong with an op's content. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A collection, id, key, node name or URL is out of its bounds; the text says which and how to mend it.
    BadName(String),
    /// A value or a merge patch is not canonical JSON; only a peer's op can show this.
    NotCanonical,
    /// A value or a patch is longer than [`DOCUMENT_BYTES_MAX`].
    TooLarge,
    /// A JSON Patch is malformed.
    BadPatch(PatchError),
    /// An edit of a text is no update that can be kept.
    BadUpdate(Malformed),
    /// A change of the member list does not stand alone in its op; only a peer's op can show this.
    NotAlone,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::BadName(why) => f.write_str(why),
            Fault::NotCanonical => f.write_str("a value is not in canonical form"),
            Fault::TooLarge => write!(f, "a document may have at most {DOCUMENT_BYTES_MAX} bytes: split it"),
            Fault::BadPatch(error) => error.fmt(f),
            Fault::BadUpdate(why) => why.fmt(f),
            Fault::NotAlone => f.write_str("a change of the member list must stand alone in its op"),
        }
    }
}

/// Checks an op's content.
pub fn check(body: &Body<'_>) -> Result<(), Fault> {
    body.key_text().map_or(Ok(()), check_key)?;
    body.guards.iter().try_for_each(|guard| check_name(guard.doc()))?;
    body.commands.iter().try_for_each(|command| check_command(body, command))
}

fn check_command(body: &Body<'_>, command: &Command<'_>) -> Result<(), Fault> {
    command.doc().map_or(Ok(()), check_name)?;
    match command {
        Command::Put(_, text) | Command::Merge(_, text) | Command::Patch(_, text)
            if text.len() > DOCUMENT_BYTES_MAX =>
        {
            Err(Fault::TooLarge)
        }
        Command::Put(_, text) | Command::Merge(_, text) if !json::is_canonical(text) => Err(Fault::NotCanonical),
        Command::Patch(_, text) if !json::is_canonical(text) => Err(Fault::NotCanonical),
        Command::Patch(_, text) => Patch::parse(text).map(drop).map_err(Fault::BadPatch),
        Command::Put(..) | Command::Merge(..) | Command::Delete(_) => Ok(()),
        Command::Text(_, edit) if edit.update.len() > TEXT_BYTES_MAX => Err(Fault::TooLarge),
        Command::Text(_, edit) => Shape::of(&edit.update).map(drop).map_err(Fault::BadUpdate),
        Command::Add(newcomer, _) => alone(body).and_then(|()| check_newcomer(newcomer)),
        Command::Retire | Command::Evict(_) | Command::Fence(..) | Command::Removed(_) | Command::Key(..) => {
            alone(body)
        }
    }
}

/// Checks a document of a snapshot that a peer sends.
pub fn check_base(document: &BaseDocument) -> Result<(), Fault> {
    let BaseDocument { collection, id, text, .. } = document;
    let readable = if collection == KEYS {
        text.parse::<Claim>().is_ok()
    } else {
        check_collection(collection).and_then(|()| check_id(id))?;
        let prose = Updates::read(text).is_some();
        if text.len() > DOCUMENT_BYTES_MAX && !prose {
            return Err(Fault::TooLarge);
        }
        prose || json::is_canonical(text)
    };
    if readable { Ok(()) } else { Err(Fault::NotCanonical) }
}

fn alone(body: &Body<'_>) -> Result<(), Fault> {
    let alone = body.commands.len() == 1 && body.guards.is_empty() && body.key.is_none();
    if alone { Ok(()) } else { Err(Fault::NotAlone) }
}

fn check_name(doc: &DocKey<'_>) -> Result<(), Fault> {
    check_collection(&doc.collection)?;
    check_id(&doc.id)
}

/// Checks an idempotency key.
pub fn check_key(key: &str) -> Result<(), Fault> {
    let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    if !key.is_empty() && key.len() <= KEY_BYTES_MAX && visible {
        return Ok(());
    }
    Err(Fault::BadName(format!("an idempotency key is 1 to {KEY_BYTES_MAX} visible ASCII characters")))
}

/// Checks the name of a collection.
pub fn check_collection(name: &str) -> Result<(), Fault> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts = name.bytes().next().is_some_and(word);
    if starts && name.len() <= COLLECTION_BYTES_MAX && name.bytes().all(|b| word(b) || b == b'-' || b == b'.') {
        return Ok(());
    }
    Err(Fault::BadName(format!(
        "a collection's name is 1 to {COLLECTION_BYTES_MAX} characters of A-Z a-z 0-9 _ - . and starts with a letter, \
         a digit or _"
    )))
}

/// Checks a document id.
pub fn check_id(id: &str) -> Result<(), Fault> {
    let dots = id == "." || id == "..";
    if !id.is_empty() && id.len() <= ID_BYTES_MAX && !dots && !id.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Fault::BadName(format!(
        "a document id is 1 to {ID_BYTES_MAX} bytes of UTF-8 without control characters, and not . or .."
    )))
}

/// Checks how a node describes itself.
pub fn check_newcomer(newcomer: &Newcomer<'_>) -> Result<(), Fault> {
    let name = &newcomer.name;
    if name.len() > NODE_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let why = format!("a node's name is at most {NODE_NAME_BYTES_MAX} bytes without control characters");
        return Err(Fault::BadName(why));
    }
    check_urls(&newcomer.urls)
}

/// Checks where a node says that it can be dialled.
pub fn check_urls(urls: &[String]) -> Result<(), Fault> {
    let (count, len) = URLS_MAX;
    let scheme_ok = |url: &str| url.starts_with("http://") || url.starts_with("https://");
    let url_ok = |url: &String| url.len() <= len && scheme_ok(url) && !url.chars().any(char::is_control);
    if urls.len() > count || !urls.iter().all(url_ok) {
        return Err(Fault::BadName(format!(
            "a node has at most {count} URLs http://host:port or https://host:port of {len} bytes"
        )));
    }
    Ok(())
}

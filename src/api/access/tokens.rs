//! The file of tokens (`--tokens`), and how a token is looked up in it.
//!
//! The table holds no tokens, only what a keyed hash under a key of this process makes of their hashes. So how long a
//! look-up takes tells nothing about the tokens: which place of the table it goes to nobody outside can foresee, and
//! there hashes are compared in constant time.

use std::{collections::HashMap, path::Path, sync::Arc};

use blake3::Hash;
use ring::{digest, rand::SecureRandom};
use serde::Deserialize;

use super::pass::{Grant, Role};
use crate::api::watched;

/// Most tokens of a file; more clients than that get JWTs.
const TOKENS_MAX: usize = 10_000;
/// Shortest token that is accepted in clear: shorter ones can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// Longest token of any kind; a JWT has some hundred bytes.
pub const TOKEN_BYTES_MAX: usize = 4 << 10;
/// Longest name of a token, in bytes: problems repeat it.
pub const NAME_BYTES_MAX: usize = 64;

/// The tokens of a file.
#[derive(Debug)]
pub struct Tokens {
    key: [u8; 32],
    grants: HashMap<Hash, Arc<Grant>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    tokens: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    role: Role,
    collections: Option<Vec<String>>,
    token: Option<String>,
    sha256: Option<String>,
    blake3: Option<String>,
}

impl Tokens {
    /// Reads the file. A token that stands there as before keeps its grant.
    pub fn read(path: &Path, before: Option<&Tokens>) -> Result<Tokens, String> {
        let bytes = watched::read(path)?;
        Tokens::parse(&bytes, before).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// Others are in force: what was let in by one that is not among them ends.
    pub fn end(&self, next: &Tokens) {
        let kept = |hash, grant| next.grants.get(hash).is_some_and(|now| Arc::ptr_eq(now, grant));
        let gone = self.grants.iter().filter(|(hash, grant)| !kept(hash, grant));
        gone.for_each(|(_, grant)| grant.revoked.cancel());
    }

    fn parse(bytes: &[u8], before: Option<&Tokens>) -> Result<Tokens, String> {
        let content: Content = serde_json::from_slice(bytes).map_err(|error| {
            format!("it is not of the form {{\"tokens\":[{{\"name\",\"role\",\"collections\",\"sha256\"}}…]}}: {error}")
        })?;
        if content.tokens.len() > TOKENS_MAX {
            return Err(format!("it has more than {TOKENS_MAX} tokens: give out JWTs (--jwt-key)"));
        }
        let mut tokens = Tokens { key: before.map_or_else(new_key, |before| Ok(before.key))?, grants: HashMap::new() };
        for (index, entry) in content.tokens.into_iter().enumerate() {
            let (hash, grant) = tokens.entry(entry).map_err(|why| format!("tokens[{index}]: {why}"))?;
            let known = before.and_then(|before| before.grants.get(&hash)).filter(|known| known.equals(&grant));
            let grant = known.map_or_else(|| Arc::new(grant), Arc::clone);
            if tokens.grants.insert(hash, grant).is_some() {
                return Err(format!("tokens[{index}]: the same token stands there twice"));
            }
        }
        Ok(tokens)
    }

    fn entry(&self, entry: Entry) -> Result<(Hash, Grant), String> {
        let Entry { name, role, collections, token, sha256, blake3 } = entry;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("\"name\" has 1 to {NAME_BYTES_MAX} bytes"));
        }
        let hash = match (token, sha256, blake3) {
            (Some(token), None, None) => {
                if token.len() < TOKEN_BYTES_MIN || token.len() > TOKEN_BYTES_MAX || !is_sendable(&token) {
                    return Err(format!(
                        "\"token\" has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters: \
                         openssl rand -base64 32 makes one"
                    ));
                }
                self.of_blake3(blake3::hash(token.as_bytes()).as_bytes())
            }
            (None, Some(hex), None) => self.of_sha256(&digest_in(&hex)?),
            (None, None, Some(hex)) => self.of_blake3(&digest_in(&hex)?),
            _ => return Err("it needs one of \"sha256\", \"blake3\" and \"token\"".into()),
        };
        Ok((hash, Grant::new(name, role, collections.as_deref())?))
    }

    /// What a token is good for, if it is one.
    pub fn get(&self, token: &str) -> Option<&Arc<Grant>> {
        let sha256 = digest::digest(&digest::SHA256, token.as_bytes());
        let by_sha256 = self.grants.get(&self.of_sha256(sha256.as_ref()));
        by_sha256.or_else(|| self.grants.get(&self.of_blake3(blake3::hash(token.as_bytes()).as_bytes())))
    }

    fn of_sha256(&self, digest: &[u8]) -> Hash {
        blake3::Hasher::new_keyed(&self.key).update(b"sha256").update(digest).finalize()
    }

    fn of_blake3(&self, digest: &[u8]) -> Hash {
        blake3::Hasher::new_keyed(&self.key).update(b"blake3").update(digest).finalize()
    }
}

/// Whether it can stand in a header.
fn is_sendable(token: &str) -> bool {
    token.bytes().all(|byte| byte.is_ascii_graphic())
}

fn digest_in(hex: &str) -> Result<[u8; 32], String> {
    let hash = Hash::from_hex(hex).map_err(|_| "a hash is 64 hex digits: printf %s \"$TOKEN\" | sha256sum".to_string());
    hash.map(|hash| *hash.as_bytes())
}

fn new_key() -> Result<[u8; 32], String> {
    let mut key = [0; 32];
    let filled = ring::rand::SystemRandom::new().fill(&mut key);
    filled.map(|()| key).map_err(|_| "the system gives no random numbers".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "correct-horse-battery";

    fn parse(text: &str) -> Result<Tokens, String> {
        Tokens::parse(text.as_bytes(), None)
    }

    fn one(member: &str) -> String {
        format!(r#"{{"tokens":[{{"name":"ada","role":"write","collections":["notes"],{member}}}]}}"#)
    }

    #[test]
    fn a_token_is_found_in_clear_and_by_its_hashes_and_no_other() {
        let sha256 = digest::digest(&digest::SHA256, TOKEN.as_bytes());
        // Only for its way of writing 32 bytes.
        let sha256 = Hash::from_slice(sha256.as_ref()).unwrap().to_hex();
        let blake3 = blake3::hash(TOKEN.as_bytes()).to_hex();
        for member in
            [format!(r#""token":"{TOKEN}""#), format!(r#""sha256":"{sha256}""#), format!(r#""blake3":"{blake3}""#)]
        {
            let tokens = parse(&one(&member)).unwrap();
            assert_eq!(tokens.get(TOKEN).unwrap().name, "ada", "{member}");
            for other in
                ["", "correct-horse-batterx", "correct-horse-batter", "correct-horse-battery ", &sha256, &blake3]
            {
                assert!(tokens.get(other).is_none(), "{other}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_for_it_might_grant_too_much() {
        let hash = "0".repeat(64);
        for (text, words) in [
            ("", "not of the form"),
            ("{}", "missing field `tokens`"),
            (&one(&format!(r#""token":"{TOKEN}","colections":[]"#)), "unknown field"),
            (&one(&format!(r#""token":"{TOKEN}","role":"admin""#)), "duplicate field"),
            (&one(r#""token":"short""#), "openssl rand"),
            (&one(r#""token":"with a space in it""#), "visible ASCII"),
            (&one(r#""sha256":"abc""#), "64 hex digits"),
            (&one(&format!(r#""sha256":"{hash}","blake3":"{hash}""#)), "one of"),
            (&one(r#""sha256":null"#), "one of"),
            (r#"{"tokens":[{"name":"a","role":"root","token":"correct-horse-battery"}]}"#, "unknown variant"),
            (
                r#"{"tokens":[{"name":"a","role":"read","token":"correct-horse-battery"}]}"#,
                "tokens[0]: \"collections\"",
            ),
            (r#"{"tokens":[{"name":"","role":"admin","token":"correct-horse-battery"}]}"#, "\"name\""),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
        let twice = format!(r#"{{"name":"a","role":"admin","token":"{TOKEN}"}}"#);
        assert!(parse(&format!(r#"{{"tokens":[{twice},{twice}]}}"#)).unwrap_err().contains("twice"));
    }
}

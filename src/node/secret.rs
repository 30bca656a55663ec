//! The pool's secret: what a node must know to be linked to.
//!
//! Several are accepted at once and the first is the one that this node proves, so a pool changes its secret while it
//! runs. What is kept is a key made of each, never the text. Rests on nothing; how a secret is proved is in `handshake`,
//! and where it is read from in the program.

use std::{fmt, sync::Arc};

use tokio::sync::watch;
use zeroize::Zeroizing;

/// Shortest secret, in bytes: one of 16 random characters cannot be guessed.
pub const SECRET_BYTES_MIN: usize = 16;
/// Most secrets accepted at once. A change needs two. A link that is opened with the last of them, or with none, costs the
/// acceptor one handshake for each: a fraction of a millisecond.
pub const SECRETS_MAX: usize = 8;

/// Sets these keys apart from all else that the same secret may be used for.
const CONTEXT: &str = "lamplight 2026-11 pool secret";

/// The secrets that a node accepts, or that its pool has none. A clone shares them.
#[derive(Clone, Default)]
pub struct PoolSecret(Option<Arc<watch::Sender<Vec<Key>>>>);

/// What one secret is used as.
#[derive(Clone)]
pub(super) struct Key(Zeroizing<[u8; 32]>);

/// Why a text holds no secrets that can be used. Those that were accepted before still are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretError {
    /// There is none in it.
    Empty,
    /// The one on this line has fewer than [`SECRET_BYTES_MIN`] bytes.
    TooShort(usize),
    /// There are more than [`SECRETS_MAX`].
    TooMany,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = "Make one with: head -c 32 /dev/urandom | base64";
        match self {
            SecretError::Empty => write!(f, "there is no secret in it. {advice}"),
            SecretError::TooShort(line) => {
                write!(f, "the secret on line {line} is shorter than {SECRET_BYTES_MIN} bytes. {advice}")
            }
            SecretError::TooMany => {
                write!(f, "there are more than {SECRETS_MAX} lines: leave the secrets out that no node uses any more")
            }
        }
    }
}

impl std::error::Error for SecretError {}

impl PoolSecret {
    /// For a pool without a secret: whoever reaches a node may link to it.
    pub fn none() -> PoolSecret {
        PoolSecret(None)
    }

    /// The secrets of a text, one a line. Empty lines, and blanks around a secret, do not count.
    pub fn new(text: &[u8]) -> Result<PoolSecret, SecretError> {
        Ok(PoolSecret(Some(Arc::new(watch::Sender::new(read(text)?)))))
    }

    /// Accepts the secrets of this text instead, and says whether that makes a difference. Links that were proved with
    /// one that is accepted no more end, and are dialled again.
    pub fn replace(&self, text: &[u8]) -> Result<bool, SecretError> {
        let keys = read(text)?;
        Ok(self.0.as_ref().is_some_and(|accepted| {
            accepted.send_if_modified(|old| {
                *old != keys && {
                    *old = keys;
                    true
                }
            })
        }))
    }

    /// Whether the pool has one.
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// How many are accepted.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// The one that this node proves; none if the pool has none.
    pub(super) fn first(&self) -> Option<Key> {
        self.all().into_iter().next()
    }

    /// Those that are accepted.
    pub(super) fn all(&self) -> Vec<Key> {
        self.0.as_ref().map(|accepted| accepted.borrow().clone()).unwrap_or_default()
    }

    /// Waits until a key is accepted no more.
    pub(super) async fn dropped(&self, key: &Key) {
        let Some(accepted) = &self.0 else { return std::future::pending().await };
        // It ends with an error only when the sender is gone, which this is.
        let _ = accepted.subscribe().wait_for(|keys| !keys.contains(key)).await;
    }
}

impl PartialEq for Key {
    /// In the same time, whatever they are.
    fn eq(&self, other: &Key) -> bool {
        blake3::Hash::from_bytes(*self.0) == blake3::Hash::from_bytes(*other.0)
    }
}

impl Key {
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn read(text: &[u8]) -> Result<Vec<Key>, SecretError> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).zip(1..);
    // With room for all, so that no key is left behind by growing.
    let mut keys = Vec::with_capacity(SECRETS_MAX);
    for (secret, line) in lines.filter(|(secret, _)| !secret.is_empty()) {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(SecretError::TooShort(line));
        }
        if keys.len() == SECRETS_MAX {
            return Err(SecretError::TooMany);
        }
        keys.push(Key(Zeroizing::new(blake3::derive_key(CONTEXT, secret))));
    }
    if keys.is_empty() { Err(SecretError::Empty) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<usize, SecretError>) {
        assert_eq!(PoolSecret::new(text.as_bytes()).map(|secret| secret.count()), expected, "{text:?}");
    }

    #[test]
    fn secrets_stand_one_a_line() {
        check("0123456789abcdef", Ok(1));
        check("0123456789abcdef\n", Ok(1));
        check("\r\n  0123456789abcdef \r\n\n\tfedcba9876543210\r\n", Ok(2));
        check("", Err(SecretError::Empty));
        check(" \n\r\n\t", Err(SecretError::Empty));
        check("0123456789abcdef\n\nshort", Err(SecretError::TooShort(3)));
        check(" 0123456789abcde ", Err(SecretError::TooShort(1)));
        check(&"0123456789abcdef\n".repeat(SECRETS_MAX), Ok(SECRETS_MAX));
        check(&"0123456789abcdef\n".repeat(SECRETS_MAX + 1), Err(SecretError::TooMany));
    }

    #[test]
    fn a_text_that_is_wrong_leaves_the_secrets_as_they_are() {
        let secret = PoolSecret::new(b"0123456789abcdef").expect("long enough");
        assert_eq!(secret.replace(b""), Err(SecretError::Empty));
        assert_eq!(secret.replace(b"short"), Err(SecretError::TooShort(1)));
        assert_eq!(secret.replace(b"0123456789abcdef\n"), Ok(false));
        assert_eq!(secret.replace(b"fedcba9876543210\n0123456789abcdef\n"), Ok(true));
        assert_eq!(secret.count(), 2);
    }

    #[test]
    fn no_secret_is_printed() {
        let words = [SecretError::Empty, SecretError::TooShort(1), SecretError::TooMany].map(|error| error.to_string());
        assert!(words.iter().all(|words| !words.contains("0123456789abcdef")));
    }
}

//! Who the bearer of a token is: whose idempotency keys an op carries, and who shares a limit.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;

/// What stands before the hash in the key of an op that the bearer of a token has issued.
const SCOPED: &str = "scoped:";
/// Bytes of the hash: enough that nobody finds a key of theirs that has the hash of another's.
const SCOPED_BYTES: usize = 24;

/// The bearer of a token. Several tokens may be of one: so they are changed without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Principal([u8; 32]);

impl Principal {
    /// The bearer of a token in the file of tokens.
    pub fn named(name: &str) -> Principal {
        Principal::of(&("token", name))
    }

    /// The bearer of a JWT.
    pub fn issued(issuer: Option<&str>, subject: Option<&str>) -> Principal {
        Principal::of(&("JWT", issuer, subject))
    }

    fn of(parts: &impl Serialize) -> Principal {
        let bytes = postcard::to_allocvec(parts).expect("plain data is written to memory");
        Principal(blake3::derive_key("lamplight principal 1", &bytes))
    }

    /// An idempotency key of this bearer, as ops carry it. Every node makes the same of it, and no other bearer can name it.
    pub fn scoped(&self, key: &str) -> String {
        let hash = blake3::keyed_hash(&self.0, key.as_bytes());
        format!("{SCOPED}{}", BASE64_URL_SAFE_NO_PAD.encode(&hash.as_bytes()[..SCOPED_BYTES]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bearer_has_keys_of_its_own() {
        let bearers = [
            Principal::named("ada"),
            Principal::named("adak"),
            Principal::issued(None, None),
            Principal::issued(None, Some("")),
            Principal::issued(None, Some("ada")),
            Principal::issued(Some("ada"), None),
            Principal::issued(Some("ada"), Some("ada")),
            Principal::issued(Some("a"), Some("daada")),
        ];
        let keys = |key: &'static str| bearers.iter().map(move |bearer| bearer.scoped(key));
        let all: std::collections::BTreeSet<String> = ["k", "kk"].into_iter().flat_map(keys).collect();
        assert_eq!(all.len(), 2 * bearers.len(), "{all:?}");
        assert!(all.iter().all(|key| crate::document::check_key(key).is_ok()), "{all:?}");
        assert_eq!(Principal::named("ada").scoped("k"), Principal::named("ada").scoped("k"));
    }

    #[test]
    fn what_ops_carry_stays_as_it_is() {
        // A node of another version must make the same of a key.
        assert_eq!(Principal::named("ada").scoped("k"), "scoped:H2ryktZETTCBR7a0zVT2wuDBN621-iJF");
        assert_eq!(
            Principal::issued(Some("https://id.example.com"), Some("ada")).scoped("k"),
            "scoped:vlYJS6l9H98Avqmw--aQCJjU2xopEGQk"
        );
    }
}

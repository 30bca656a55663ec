//! The secret key of a node, from which the static keys of its links are derived: one for each id that it goes by.
//!
//! A node that gives its id up proves another static key from then on, and nothing has to be written for that. So an id and its key
//! come and go together, and a copy of a data directory has the keys of the original. Erased on drop.

use std::fmt;

use zeroize::Zeroizing;

use super::noise::{KEY_BYTES, LinkKey, random_key};
use crate::op::{NodeId, PublicKey};

/// Sets these keys apart from all else that is derived from random bytes here.
const CONTEXT: &str = "lamplight 2026-11 link key of a node id";
/// Begins a text with a key.
const FORM: &str = "lamplight-node-key-1";
/// Hexadecimal digits of a checksum, which tells a damaged text from another key.
const SUM_DIGITS: usize = 16;

/// The secret key of a node.
#[derive(Clone)]
pub struct NodeKey(Zeroizing<[u8; KEY_BYTES]>);

/// A text that is no key: cut short, altered, or of another form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKey;

impl NodeKey {
    /// A new key; none if the system has no random numbers.
    pub fn generate() -> Option<NodeKey> {
        random_key().map(NodeKey)
    }

    /// The key in a text that [`NodeKey::to_text`] wrote.
    pub fn from_text(text: &[u8]) -> Result<NodeKey, NotAKey> {
        let text = str::from_utf8(text).map_err(|_| NotAKey)?;
        let mut words = text.split_ascii_whitespace();
        let (Some(FORM), Some(digits), Some(sum), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(NotAKey);
        };
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if digits.len() != 2 * KEY_BYTES || !digits.is_ascii() || sum != sum_of(digits) {
            return Err(NotAKey);
        }
        for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| NotAKey)?;
        }
        Ok(NodeKey(key))
    }

    /// The key as a line of text, with a checksum.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(FORM.len() + 2 * KEY_BYTES + SUM_DIGITS + 3));
        let mut digits = Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
        for byte in self.0.iter() {
            for digit in [byte >> 4, byte & 15] {
                digits.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
            }
        }
        for part in [FORM, " ", &digits, " ", &sum_of(&digits), "\n"] {
            text.push_str(part);
        }
        text
    }

    /// The static key that this node proves under an id.
    pub(super) fn link_key(&self, node: NodeId) -> LinkKey {
        let mut material = Zeroizing::new([0; KEY_BYTES + 16]);
        material[..KEY_BYTES].copy_from_slice(&*self.0);
        material[KEY_BYTES..].copy_from_slice(node.0.as_bytes());
        LinkKey::new(Zeroizing::new(blake3::derive_key(CONTEXT, &*material)))
    }

    /// The public half of that.
    pub fn public(&self, node: NodeId) -> PublicKey {
        self.link_key(node).public()
    }
}

/// It says nothing of the key.
impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey")
    }
}

fn sum_of(digits: &str) -> String {
    let mut sum = blake3::hash(digits.as_bytes()).to_hex().to_string();
    sum.truncate(SUM_DIGITS);
    sum
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key() -> NodeKey {
        NodeKey::generate().expect("random numbers")
    }

    #[test]
    fn a_text_gives_the_key_back_and_a_damaged_one_gives_none() {
        let (key, node) = (key(), NodeId(Uuid::from_u128(1)));
        let text = key.to_text();
        let again = NodeKey::from_text(text.as_bytes()).map(|again| again.public(node));
        assert_eq!(again, Ok(key.public(node)));
        for end in 0..text.len() - 1 {
            assert_eq!(NodeKey::from_text(&text.as_bytes()[..end]).err(), Some(NotAKey), "{end}");
        }
        for at in 0..text.len() - 1 {
            for other in [b'0', b'1', b' ', 0xff] {
                let mut altered = text.as_bytes().to_vec();
                if std::mem::replace(&mut altered[at], other) != other {
                    assert_eq!(NodeKey::from_text(&altered).err(), Some(NotAKey), "{at}");
                }
            }
        }
        assert_eq!(NodeKey::from_text(format!("{}x", *text).as_bytes()).err(), Some(NotAKey));
    }

    #[test]
    fn each_id_of_a_node_has_a_key_of_its_own() {
        let keys = [key(), key()];
        let ids = [1, 2].map(|id| NodeId(Uuid::from_u128(id)));
        let mut all: Vec<PublicKey> = keys.iter().flat_map(|key| ids.map(|id| key.public(id))).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
        assert_eq!(format!("{:?}", keys[0]), "NodeKey");
    }
}

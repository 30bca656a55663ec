//! The version of a document: a hash of its content, not of its history.
//!
//! A late op can change a document without changing its last stamp, so a stamp cannot be the `ETag`. Equal content has
//! an equal version on every node.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::op::ParseError;

/// The first 128 bits of BLAKE3 over the document's canonical text; 32 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version([u8; 16]);

impl Version {
    /// The version of a document with this canonical text.
    pub fn of(text: &str) -> Version {
        let mut version = [0; 16];
        version.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
        Version(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Version {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Version, ParseError> {
        // `from_str_radix` alone would take a sign and fewer digits.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseError);
        }
        u128::from_str_radix(text, 16).map(|n| Version(n.to_be_bytes())).map_err(|_| ParseError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_survives_its_text() {
        let version = Version::of("{}");
        assert_eq!(version.to_string().parse(), Ok(version));
        assert_eq!("+".repeat(32).parse::<Version>(), Err(ParseError));
    }
}

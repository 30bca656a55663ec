//! What is remembered of an idempotency key: which op came first with it, and what it asked for.
//!
//! A claim is the text of a document in a collection that no user can name, so "of all ops with one key only the first has
//! an effect" is rolled back and replayed like any other guard. It says enough to answer the same request again when the op
//! itself is long forgotten, and it ends by Lamport time, which is the same on every node. The op says when.

use std::{fmt, str::FromStr};

use super::Text;
use crate::op::{Body, Command, Guard, KEY_SPAN, Op, OpId, ParseError, Stamp};

/// The collection of claims: no user's collection has an empty name.
pub const KEYS: &str = "";

/// The claim of an op to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The op that holds the key.
    pub op: OpId,
    /// Its time.
    pub time: u64,
    /// The span, in Lamport times after that, in which it is held against other ops.
    pub span: u64,
    /// Whether it had an effect.
    pub applied: bool,
    /// What it asked for: the first 64 bits of BLAKE3 over its guards and commands.
    pub request: u64,
}

impl Claim {
    /// What `op` claims.
    pub(super) fn of(op: &Op, body: &Body<'_>, applied: bool) -> Claim {
        let span = body.key.as_ref().map_or(0, |key| key.span);
        Claim { op: op.id(), time: op.time(), span, applied, request: request(&body.guards, &body.commands) }
    }

    /// Whether an op at this time comes too late to be held against the claim.
    pub fn has_ended(&self, time: u64) -> bool {
        time > self.time.saturating_add(self.span)
    }

    /// The place of the op.
    pub fn stamp(&self) -> Stamp {
        Stamp { time: self.time, origin: self.op.origin }
    }

    pub(super) fn text(&self) -> Text {
        Text::own(self.to_string())
    }

    pub(super) fn read(text: &Text) -> Claim {
        text.as_str().parse().expect("a claim, written here or checked when it was taken in")
    }
}

/// Tells requests apart.
pub fn request(guards: &[Guard<'_>], commands: &[Command<'_>]) -> u64 {
    let bytes = postcard::to_allocvec(&(guards, commands)).expect("plain data is written to memory");
    u64::from_le_bytes(*blake3::hash(&bytes).as_bytes().first_chunk().expect("32 bytes"))
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {:x}", self.op, self.time, u8::from(self.applied), self.request)?;
        if self.span == KEY_SPAN { Ok(()) } else { write!(f, " {}", self.span) }
    }
}

impl FromStr for Claim {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Claim, ParseError> {
        let parts: Vec<&str> = text.split(' ').collect();
        let ([op, time, applied, request], span) = match parts[..] {
            [op, time, applied, request] => ([op, time, applied, request], KEY_SPAN),
            [op, time, applied, request, span] => ([op, time, applied, request], span.parse().map_err(|_| ParseError)?),
            _ => return Err(ParseError),
        };
        let claim = Claim {
            op: op.parse()?,
            time: time.parse().map_err(|_| ParseError)?,
            span,
            applied: applied == "1",
            request: u64::from_str_radix(request, 16).map_err(|_| ParseError)?,
        };
        // One claim has one text, or a digest over it would not be one.
        if claim.to_string() == text { Ok(claim) } else { Err(ParseError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::NodeId;

    #[test]
    fn a_claim_survives_its_text() {
        let op = OpId { origin: NodeId(uuid::Uuid::from_u128(7)), seq: 3 };
        for span in [0, 5, KEY_SPAN] {
            let claim = Claim { op, time: 9, span, applied: true, request: 0xfe };
            assert_eq!(claim.to_string().parse(), Ok(claim));
        }
        for other in [
            "",
            "x",
            "1 2 3",
            "00000000-0000-0000-0000-000000000007.3 09 1 fe",
            "00000000-0000-0000-0000-000000000007.3 9 1 fe 4194304",
        ] {
            assert_eq!(other.parse::<Claim>(), Err(ParseError), "{other}");
        }
    }
}

//! Where the final feed goes on, and the cursor that a client keeps of it.
//!
//! A place is a place in the pool's order, or in the listing of the documents at a time that comes before it. It says
//! nothing of a node, so the cursor is good on every node of the pool, also after a restart.

use axum::http::StatusCode;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Problem,
    log::{FIRST, LAST},
};
use crate::op::{NodeId, PoolId, Stamp};

/// Longest cursor, in characters: the longest key, and some numbers.
const CURSOR_MAX: usize = 1 << 10;
/// What a cursor begins with. One of the other feed never does: a dot is no letter of its alphabet.
const MARK: &str = "f.";

/// Where the final feed goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Amidst the documents as they were at a time.
    Snapshot {
        /// The time.
        time: u64,
        /// The collection that it has reached; without a name before the first.
        collection: String,
        /// None before the collection's first document.
        id: Option<String>,
    },
    /// Amidst an op: of its documents, in the order of their keys, so many are told.
    Amid(Stamp, u32),
    /// Behind an op, and all before it.
    Behind(Stamp),
}

impl Place {
    /// The beginning of what is known from a horizon on.
    pub fn first(horizon: u64) -> Place {
        match horizon {
            // Nothing is forgotten, so there is nothing to list.
            0 => Place::Behind(FIRST),
            time => Place::Snapshot { time, collection: String::new(), id: None },
        }
    }

    /// Behind all ops of a time.
    pub fn behind_time(time: u64) -> Place {
        Place::Behind(Stamp { time, ..LAST })
    }

    /// The last stamp of which nothing more is to be told.
    pub fn behind(&self) -> Stamp {
        match self {
            Place::Snapshot { time, .. } => Stamp { time: *time, ..LAST },
            Place::Behind(stamp) => *stamp,
            // Before the op, which is read again.
            Place::Amid(Stamp { time, origin }, _) => match origin.0.as_u128().checked_sub(1) {
                Some(before) => Stamp { time: *time, origin: NodeId(Uuid::from_u128(before)) },
                None => Stamp { time: time.saturating_sub(1), ..LAST },
            },
        }
    }

    /// Whether something is forgotten that would have to be told from here on.
    pub fn is_gone(&self, horizon: u64) -> bool {
        horizon > 0 && self.behind() < Stamp { time: horizon, ..LAST }
    }

    /// As opaque text.
    pub fn cursor(&self, pool: PoolId) -> String {
        let bytes = postcard::to_allocvec(&(pool, self)).expect("plain data is written to memory");
        format!("{MARK}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The place that a cursor of this pool names.
    pub fn parse(cursor: &str, pool: PoolId) -> Result<Place, Problem> {
        let encoded =
            Some(cursor).filter(|cursor| cursor.len() <= CURSOR_MAX).and_then(|cursor| cursor.strip_prefix(MARK));
        let bytes = encoded.and_then(|encoded| BASE64_URL_SAFE_NO_PAD.decode(encoded).ok());
        let parsed = bytes.as_deref().map(postcard::take_from_bytes::<(PoolId, Place)>);
        let Some(Ok(((of, place), []))) = parsed else {
            let detail = "not a cursor of the final feed: send back a \"next\" or event id of it as it came; those of the \
                          feed without view=final are others";
            return Err(Problem::bad("bad-cursor", detail));
        };
        if of != pool {
            let detail = format!(
                "the cursor is of the pool {of}, and this node is of the pool {pool}: ask a node of that pool, or start \
                 without since"
            );
            return Err(Problem::bad("other-pool", detail).with("pool", pool.to_string()));
        }
        Ok(place)
    }

    /// 410 for a place that [`is_gone`](Place::is_gone).
    pub fn gone(horizon: u64) -> Problem {
        let detail = format!(
            "the cursor lies before the time {horizon}, and what was up to there this node has forgotten: ask a node that \
             keeps more, or start again without since, with the documents as they were then"
        );
        Problem::new(StatusCode::GONE, "cursor-gone", detail).with("horizon", horizon.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_its_place_and_is_good_in_its_pool_only() {
        let (pool, other) = (PoolId(Uuid::from_u128(1)), PoolId(Uuid::from_u128(2)));
        let stamp = Stamp { time: 7, origin: NodeId(Uuid::from_u128(3)) };
        let amidst = Place::Snapshot { time: 7, collection: "c".into(), id: Some("x".repeat(256)) };
        for place in [Place::first(0), Place::first(9), amidst, Place::Amid(stamp, 3), Place::Behind(stamp)] {
            let cursor = place.cursor(pool);
            assert_eq!(Place::parse(&cursor, pool).unwrap(), place);
            assert_eq!(Place::parse(&cursor, other).unwrap_err().to_json()["type"], "urn:lamplight:problem:other-pool");
            for bad in [&cursor[1..], &cursor[..cursor.len() - 1], &format!("{cursor}AA"), "", "f.", "f.AAAA"] {
                assert_eq!(Place::parse(bad, pool).unwrap_err().to_json()["type"], "urn:lamplight:problem:bad-cursor");
            }
        }
    }

    #[test]
    fn a_place_is_gone_where_something_behind_it_may_be_forgotten() {
        let stamp = |time, origin| Stamp { time, origin: NodeId(Uuid::from_u128(origin)) };
        let check =
            |place: Place, horizon, expected| assert_eq!(place.is_gone(horizon), expected, "{place:?} {horizon}");
        check(Place::first(0), 0, false);
        check(Place::first(0), 1, true);
        check(Place::first(5), 5, false);
        check(Place::first(5), 6, true);
        check(Place::Behind(stamp(5, 1)), 4, false);
        // Another op of the same time may have been behind it.
        check(Place::Behind(stamp(5, 1)), 5, true);
        check(Place::behind_time(5), 5, false);
        check(Place::Amid(stamp(5, 0), 1), 4, false);
        check(Place::Amid(stamp(5, 0), 1), 5, true);
        assert!(Place::Amid(stamp(5, 0), 1).behind() < stamp(5, 0));
    }
}

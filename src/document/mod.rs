//! Documents: their text, the commands on them, and the fold of ops into them.
//!
//! Rests on `op` and `version`. It knows nothing of nodes, links or time: given the same set of ops, in whatever order
//! they came, two states are equal byte for byte.

mod base;
mod changes;
mod check;
mod chunks;
mod claim;
pub mod cost;
pub mod delta;
mod diff;
mod edits;
mod history;
mod incarnation;
pub mod json;
mod overwrite;
mod past;
pub mod patch;
mod pieces;
pub mod prose;
mod replay;
pub mod selector;
mod state;
mod text;
mod update;
mod workbench;

pub use base::REPLAY_UNITS;
pub use changes::{CHANGES_MAX, Change, Changes};
pub use check::{
    COLLECTION_BYTES_MAX, Fault, ID_BYTES_MAX, KEY_BYTES_MAX, URLS_MAX, check, check_base, check_collection, check_id,
    check_key, check_newcomer, check_urls,
};
pub use claim::{Claim, request};
pub use diff::diff;
pub use edits::{Edited, Edits};
pub use incarnation::Incarnation;
pub use overwrite::Writes;
pub use past::{Past, PastViews};
pub use replay::Replays;
pub use state::{State, Verdict, View, Work};
pub use text::Text;
pub use update::{Clocks, Malformed};
pub use workbench::Reason;

//! What a node tells everyone after each turn, and the sessions that are made of it.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    op::NodeId,
    replica::{Replica, Standing},
};

/// What the node tells everyone after each turn.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its id. It changes only where a node must come back as another.
    pub node: NodeId,
    /// Its Lamport clock.
    pub clock: u64,
    /// The session of a client that has seen all that this node holds; for the header `Lamplight-Session`.
    pub session: Arc<str>,
    /// How many ops it holds of each origin, in the order of the origins.
    tips: Arc<[(NodeId, u64)]>,
    /// How many ops it knows to have been issued again under other ids.
    pub reissued: usize,
    /// How many ops it holds. A late op may change nothing else, and still be what a session waits for.
    pub ops: usize,
    /// For how many Lamport times the idempotency keys of its clients are remembered.
    pub key_span: u64,
    /// The place behind the newest change.
    pub changes_end: u64,
    /// The place behind the newest edit of a text.
    pub edits_end: u64,
    /// The time up to which everything is final.
    pub frontier: u64,
    /// How often peers have said how many of this node's ops they hold; see [`super::Node::ask`].
    pub held: u64,
    /// How far it is in becoming a member.
    pub standing: Standing,
}

impl Published {
    pub(super) fn of(replica: &Replica) -> Published {
        let tips: Arc<[(NodeId, u64)]> = replica.tips().iter().map(|(node, seq)| (*node, *seq)).collect();
        Published {
            node: replica.node(),
            clock: replica.clock(),
            session: session(&tips).into(),
            tips,
            reissued: replica.reissued(),
            ops: replica.log().len(),
            key_span: replica.config().key_span,
            changes_end: replica.state().changes().end(),
            edits_end: replica.state().edits().end(),
            frontier: replica.frontier(),
            held: replica.counters().held,
            standing: replica.standing(),
        }
    }

    /// Whether it holds so many ops of an origin, under the ids that they were issued with first.
    pub fn holds(&self, (origin, seq): (NodeId, u64)) -> bool {
        let at = self.tips.binary_search_by_key(&origin, |(origin, _)| *origin);
        seq == 0 || at.is_ok_and(|at| self.tips[at].1 >= seq)
    }

    /// Whether there is no news since.
    pub(super) fn is_of(&self, replica: &Replica) -> bool {
        self.node == replica.node()
            && self.clock == replica.clock()
            && self.ops == replica.log().len()
            && self.reissued == replica.reissued()
            && self.changes_end == replica.state().changes().end()
            && self.edits_end == replica.state().edits().end()
            && self.frontier == replica.frontier()
            && self.held == replica.counters().held
            && self.standing == replica.standing()
    }
}

fn session(tips: &[(NodeId, u64)]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(postcard::to_allocvec(tips).expect("plain data is written to memory"))
}

/// The seqs that a session stands for; none if the text is no session.
pub fn session_seqs(text: &str) -> Option<Vec<(NodeId, u64)>> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    match postcard::take_from_bytes(&bytes) {
        Ok((seqs, [])) => Some(seqs),
        _ => None,
    }
}

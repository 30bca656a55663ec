//! The checks of a node's decisions on membership: an eviction, a retirement, an `Add`. Each is made from outside, with the state
//! that the node shows before the step.

use std::time::Duration;

use super::{Violation, ledger::Ledger};
use crate::{
    op::{Command, Eviction, NodeId, Op, OpId},
    replica::{BEAT_MS, Draft, LinkState, Member, MemberStatus, Replica},
};

/// The violation that there is if the node carries out this draft of an operator.
pub fn unfit(replica: &Replica, draft: &Draft, mono_ms: u64, ledger: &Ledger) -> Option<Violation> {
    match draft.commands[..] {
        [Command::Evict(Eviction { node, force: false })] => {
            let detail = lacks_majority(replica, node, mono_ms)?;
            Some(Violation { invariant: "an eviction asks for a majority that is heard", detail })
        }
        [Command::Retire] => {
            let lacking = lacks_majority(replica, replica.node(), mono_ms);
            let lacking =
                lacking.map(|detail| Violation { invariant: "a retirement leaves a majority that is heard", detail });
            lacking.or_else(|| leaves_predecessor(replica, mono_ms, ledger))
        }
        _ => None,
    }
}

/// The count of the members that are heard, if they are no majority without this one. Only members that are final for the node
/// count, and not the node itself if it retires. Heard means within two pulses and a beat.
fn lacks_majority(replica: &Replica, without: NodeId, mono_ms: u64) -> Option<String> {
    let retires = without == replica.node();
    let is_final = |member: &Member| member.added.time <= replica.frontier();
    let counts = |node: NodeId| {
        let member = replica.roster().present().find(|(other, _)| **other == node);
        member.is_some_and(|(_, member)| is_final(member)) && !(retires && node == without)
    };
    let pulse_ms = BEAT_MS * (replica.roster().len() as u64).div_ceil(16);
    let lately = Duration::from_millis(2 * pulse_ms + BEAT_MS);
    let is_heard =
        |member: &MemberStatus| member.heard_ago.map_or(member.link == LinkState::Linked, |ago| ago < lately);
    let members: Vec<MemberStatus> =
        replica.member_list(mono_ms).into_iter().filter(|member| counts(member.node)).collect();
    let heard = members.iter().filter(|member| member.node != without && is_heard(member)).count();
    let all = members.len();
    (2 * heard <= all).then(|| format!("{heard} of {all} members are heard by {} without {without}", replica.node()))
}

/// A member that the node was itself, and that nobody else will evict.
fn leaves_predecessor(replica: &Replica, mono_ms: u64, ledger: &Ledger) -> Option<Violation> {
    let is_own = |member: &MemberStatus| {
        replica.former().contains(&member.node) && !member.alive && !member.evicted && !ledger.is_copied(member.node)
    };
    let left = replica.member_list(mono_ms).into_iter().find(is_own)?;
    let detail = format!("{} was {}, which is a member still", replica.node(), left.node);
    Some(Violation { invariant: "a node that retires leaves no member that it was", detail })
}

/// True if the node is left behind or is being evicted, so that it must let nobody in.
pub fn is_outside(replica: &Replica) -> bool {
    replica.assembly().pending.contains(&replica.node()) || replica.is_left_behind()
}

/// Checks that a node which was outside in this step let nobody in after this op.
pub fn let_in(replica: &Replica, after: OpId) -> Result<(), Violation> {
    let added = |op: &Op| match op.body().commands.first() {
        Some(Command::Add(newcomer, _)) if newcomer.node != replica.node() => Some(newcomer.node),
        _ => None,
    };
    match replica.log().beyond(std::iter::once((after.origin, after.seq))).find_map(added) {
        None => Ok(()),
        Some(newcomer) => {
            let detail = format!("{} lets {newcomer} in, and is left behind or being evicted itself", replica.node());
            Err(Violation { invariant: "who is outside lets nobody in", detail })
        }
    }
}

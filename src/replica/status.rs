//! What people want to know of a pool: its members, and how this node stands to each.

use std::time::Duration;

use super::{Endpoint, Replica};
use crate::op::{Head, NodeId};

/// How this node is linked to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The member is this node.
    Oneself,
    /// There is a link.
    Linked,
    /// A dial is under way.
    Dialling,
    /// Neither.
    None,
}

/// A member, as this node knows it.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where it can be dialled.
    pub urls: Vec<String>,
    /// How this node is linked to it.
    pub link: LinkState,
    /// Whether a sign of life came lately, by any way.
    pub alive: bool,
    /// Whether it is to be evicted, which is not effective yet.
    pub evicted: bool,
    /// Its clock, as last heard.
    pub clock: u64,
    /// How far its ops are held here.
    pub head: Head,
    /// How long ago the last sign of life came; none if none ever did.
    pub heard_ago: Option<Duration>,
}

impl Replica {
    /// The member list, in the order of node ids: also those whose eviction is not effective yet.
    pub fn member_list(&self, mono_ms: u64) -> Vec<MemberStatus> {
        let (roster, pending) = (&self.roster, &self.finality.assembly.pending);
        let members = roster.all().iter().filter(|(node, _)| !roster.is_gone(**node) || pending.contains(node));
        members
            .map(|(node, member)| {
                let oneself = *node == self.config.node;
                let link = if oneself {
                    LinkState::Oneself
                } else if self.linked_to(*node).is_some() {
                    LinkState::Linked
                } else if self.peers.is_dialling(&member.urls) {
                    LinkState::Dialling
                } else {
                    LinkState::None
                };
                let (pulse, heard_ms) = self.pulses.get(node).copied().unwrap_or_default();
                let heard_ago_ms = (pulse.count > (0, 0)).then(|| mono_ms.saturating_sub(heard_ms));
                MemberStatus {
                    node: *node,
                    name: member.name.clone(),
                    urls: member.urls.clone(),
                    link,
                    alive: oneself || self.is_heard(*node, mono_ms),
                    evicted: pending.contains(node),
                    clock: if oneself { self.clock } else { pulse.said.clock },
                    head: self.log.head(*node),
                    heard_ago: if oneself { Some(Duration::ZERO) } else { heard_ago_ms.map(Duration::from_millis) },
                }
            })
            .collect()
    }

    /// What is wrong with the places this node tries to link to, and with those of members: `(URL, why)`; with the URL of this node,
    /// why it founds no pool, and why nothing becomes final where evictions have crossed.
    pub fn link_problems(&self) -> Vec<(String, String)> {
        let oneself = || self.config.urls.first().cloned().unwrap_or_default();
        let waits = self.founding_wait().map(|why| (oneself(), why));
        let problems = self.peers.problems().map(|(url, why)| (url.to_string(), why));
        let crossed = self.crossed_evictions().map(|why| (oneself(), why));
        waits.into_iter().chain(crossed).chain(problems).chain(self.shared_address_problems()).collect()
    }

    /// Why this node founds no pool yet, if it waits for others.
    pub fn founding_wait(&self) -> Option<String> {
        let (here, wanted) = self.found_waits()?;
        Some(format!("no pool is founded yet: {here} of {wanted} nodes (--found-with) have greeted each other"))
    }

    /// The places where this node was told to look and found a node of another pool, and what was said there.
    pub fn strangers(&self) -> impl Iterator<Item = (Endpoint, &str)> {
        self.peers.strangers()
    }

    /// How many ops of those that it must hold before it serves it holds, and how many these are.
    pub fn catch_up_progress(&self) -> Option<(u64, u64)> {
        let held = |(origin, seq): &(NodeId, u64)| self.log.head(*origin).seq.min(*seq);
        let progress = self.links.values().filter_map(|link| {
            let seqs = link.catch_up.as_ref()?;
            Some((seqs.iter().map(held).sum::<u64>(), seqs.iter().map(|(_, seq)| seq).sum::<u64>()))
        });
        progress.min_by_key(|(held, all)| all - held)
    }
}

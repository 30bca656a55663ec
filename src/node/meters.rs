//! What the node counts of itself, by looking at events and effects as they pass; the replica counts for itself what only
//! it can see ([`crate::replica::Counters`]).

use std::sync::Arc;

use tokio::sync::watch;

use super::said::Said;
use crate::{
    meter::{Counter, Gauge, Headcount},
    op::NodeId,
    record::Record,
    replica::{Effect, Event, LinkId, Refused},
    storage::{self, Status, Store},
    wire::{Message, Refusal, Why},
};

/// Why an op was not issued, in the words of [`Meters::refused`].
const REFUSALS: [&str; 10] = [
    "not-ready",
    "retired",
    "absent",
    "rejected",
    "key-reused",
    "fault",
    "too-large",
    "disk-full",
    "membership",
    "memory-full",
];

/// What a node has counted since it was started.
#[derive(Debug)]
pub struct Meters {
    /// Ops of this node that came into the log.
    pub issued: Counter,
    /// Ops of other nodes that did.
    pub heard: Counter,
    refused: [Counter; REFUSALS.len()],
    /// Links that are open.
    pub links: Headcount,
    /// Links that came about because this node dialled.
    pub links_dialled: Counter,
    /// Links that came about because a peer did.
    pub links_accepted: Counter,
    /// Links that this node refused, and says why to the peer.
    pub links_refused: Counter,
    /// Links that the peer refused.
    pub links_refused_by_peer: Counter,
    /// Links that were closed because the peer did not take its messages.
    pub links_overrun: Counter,
    /// Dials that came to nothing.
    pub dials_failed: Counter,
    /// Bytes of frames that came in on links.
    pub received_bytes: Counter,
    /// Bytes of frames that went out on links.
    pub sent_bytes: Counter,
    /// What waits for the disk.
    pub outbox: Gauge,
    /// How much memory the process may take before writes are refused; 0 if there is no bound.
    pub memory_max_bytes: Gauge,
    /// Whether it takes more.
    pub memory_full: Gauge,
    /// How far the journal is, and what it has counted; none where the data is in memory only.
    pub journal: Option<(watch::Receiver<Status>, Arc<storage::Meters>)>,
    /// What was said of links in the log.
    pub(super) said: Said,
}

impl Meters {
    pub(super) fn new(store: Option<&Store>) -> Meters {
        Meters {
            issued: Counter::default(),
            heard: Counter::default(),
            refused: Default::default(),
            links: Headcount::default(),
            links_dialled: Counter::default(),
            links_accepted: Counter::default(),
            links_refused: Counter::default(),
            links_refused_by_peer: Counter::default(),
            links_overrun: Counter::default(),
            dials_failed: Counter::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            outbox: Gauge::default(),
            memory_max_bytes: Gauge::default(),
            memory_full: Gauge::default(),
            journal: store.map(|store| (store.status(), store.meters())),
            said: Said::default(),
        }
    }

    /// How many ops were not issued, by why.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(&self.refused).map(|(why, counter)| (why, counter.read()))
    }

    pub(super) fn refuse(&self, refused: &Refused) {
        let why = match refused {
            Refused::NotReady => 0,
            Refused::Retired => 1,
            Refused::Absent => 2,
            Refused::Rejected(_) => 3,
            Refused::KeyReused(_) => 4,
            Refused::Fault(_) => 5,
            Refused::Op(_) => 6,
            Refused::DiskFull => 7,
            Refused::Membership(..) => 8,
            Refused::MemoryFull => 9,
            // That is no op.
            Refused::Unseen(_) => return,
        };
        self.refused[why].count();
    }

    /// Tells the operator of a refusal, if that is news.
    fn tell(&self, link: LinkId, by: &str, refusal: &Refusal, words: &'static str) {
        let why = &refusal.detail;
        if !self.is_news(by, refusal) {
        } else if refusal.why == Why::OtherKey {
            tracing::warn!(link = link.0, why, "{words}");
        } else {
            tracing::info!(link = link.0, why, "{words}");
        }
    }

    /// Whether a refusal is to be told: no cause more than once a minute, and not at all what is as it should be.
    fn is_news(&self, by: &str, refusal: &Refusal) -> bool {
        let usual = matches!(refusal.why, Why::Double | Why::Oneself);
        if refusal.why == Why::OtherKey {
            return self.said.is_news(&format!("{by} other key"));
        }
        // Clocks and the like differ from one to the next.
        let cause: String = refusal.detail.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        !usual && self.said.is_news(&format!("{by} {cause}"))
    }

    /// Counts an event before the replica takes it.
    pub(super) fn see_event(&self, event: &Event) {
        match event {
            Event::Opened(link, Some(endpoint), _) => {
                tracing::debug!(link = link.0, %endpoint, "link opened, dialled by this node");
                self.links_dialled.count();
            }
            Event::Opened(link, None, _) => {
                tracing::debug!(link = link.0, "link opened, dialled by the peer");
                self.links_accepted.count();
            }
            Event::Heard(link, Message::Refusal(refusal)) => {
                self.tell(*link, "peer", refusal, "the peer refuses the link");
                self.links_refused_by_peer.count();
            }
            Event::DialFailed(..) => self.dials_failed.count(),
            _ => {}
        }
    }

    /// Counts an effect before it is carried out by the node of this id.
    pub(super) fn see_effect(&self, effect: &Effect, node: NodeId) {
        match effect {
            Effect::Store(Record::Op(op)) => {
                tracing::trace!(op = %op.id(), stamp = %op.stamp(), "op taken into the log");
                if op.origin() == node { &self.issued } else { &self.heard }.count();
            }
            Effect::Send(link, Message::Refusal(refusal)) => {
                self.tell(*link, "node", refusal, "this node refuses the link");
                self.links_refused.count();
            }
            Effect::Receipt(_, Err(refused)) => {
                tracing::debug!(?refused, "an op is not issued");
                self.refuse(refused);
            }
            _ => {}
        }
    }
}

//! The receipts that a clients' WebSocket has still to send: of writes that are not final yet, or not held yet by as many
//! members as they wait for.
//!
//! It keeps the ids of messages and ops only; a receipt is read when it is due. An op that the node has to issue again,
//! under another id, is waited for as it is issued then.

use std::collections::{BTreeMap, VecDeque};

use super::{Api, Problem, rates::Caller, shape::ReceiptBody};
use crate::{
    node::{Published, Stopped},
    op::{NodeId, OpId},
    replica::{Now, OpStatus, Receipt, Replica},
};

/// Most ops of one connection of either kind; past that the oldest gets no further receipt.
const AWAITED_MAX: usize = 4_096;
/// Receipts that are read with one look at the node.
const RECEIPTS_AT_ONCE: usize = 64;

/// The receipts that are still to come on one connection.
#[derive(Debug, Default)]
pub struct Receipts {
    /// The tentative writes, by their times (and then as they came): each with the id of its message.
    tentative: BTreeMap<(u64, u64), (String, OpId)>,
    writes: u64,
    unheld: VecDeque<Unheld>,
    /// Receipts that are due and not sent yet.
    due: VecDeque<Due>,
    /// What the node had told when it was last looked who holds these.
    looked: Option<(NodeId, u64, u64)>,
}

/// A write that waits until a number of members hold it; with the id of its message.
#[derive(Debug)]
struct Unheld {
    id: String,
    op: OpId,
    number: usize,
}

/// A receipt that is to be sent; with the id of its message.
#[derive(Debug)]
struct Due {
    id: String,
    /// The status of the op when it was found to be due: the op may be forgotten since.
    status: OpStatus,
    held_by: Option<usize>,
}

impl Receipts {
    /// Waits until an op is final, if it is not.
    pub fn await_final(&mut self, id: &str, receipt: &Receipt) {
        if !receipt.is_final {
            self.look_at(id.to_string(), receipt.op, receipt.stamp.time);
        }
    }

    /// Waits until a number of members hold an op.
    pub fn await_held(&mut self, id: &str, receipt: &Receipt, number: usize) {
        if self.unheld.len() == AWAITED_MAX {
            self.unheld.pop_front();
        }
        self.unheld.push_back(Unheld { id: id.to_string(), op: receipt.op, number });
        self.looked = None;
    }

    /// Whether any is still to come.
    pub fn waits(&self) -> bool {
        !self.tentative.is_empty() || !self.unheld.is_empty() || self.is_due()
    }

    /// True if receipts are due and not sent.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether peers are to be asked what they hold.
    pub fn asks(&self) -> bool {
        !self.unheld.is_empty()
    }

    /// Asks them. A node that has to issue an op again asks for it once it has.
    pub async fn ask(&mut self, api: &Api) -> Result<(), Stopped> {
        let ops: Vec<OpId> = self.unheld.iter().map(|unheld| unheld.op).collect();
        let look = move |replica: &Replica, _: Now| -> (Option<u64>, Option<u64>) {
            let found = ops.iter().filter_map(|op| replica.status(*op));
            let (own, others): (Vec<OpStatus>, _) = found.partition(|found| found.op.origin == replica.node());
            (own.iter().map(|own| own.op.seq).max(), others.iter().map(|other| other.stamp.time).max())
        };
        let (seq, time) = api.look(look).await?;
        if let Some(seq) = seq {
            api.node.ask(seq).await?;
        }
        // What is known of another node's ops is how far all are complete.
        if let Some(time) = time {
            api.node.hurry(time).await?;
        }
        self.looked = None;
        Ok(())
    }

    /// The next receipts that are due by now, as messages.
    pub async fn due(&mut self, api: &Api, caller: &Caller) -> Result<Vec<String>, Problem> {
        if !self.waits() {
            return Ok(Vec::new());
        }
        let (news, mut messages) = (api.node.latest(), Vec::new());
        let held = self.held(api, &news).await?;
        let finals = self.finals(api, news.frontier).await?;
        self.due.extend(held.into_iter().chain(finals));
        let some: Vec<Due> = self.due.drain(..self.due.len().min(RECEIPTS_AT_ONCE)).collect();
        if some.is_empty() {
            return Ok(messages);
        }
        let ops: Vec<OpId> = some.iter().map(|due| due.status.op).collect();
        let look = move |replica: &Replica, _: Now| -> Vec<Option<Receipt>> {
            ops.iter().map(|op| replica.receipt(*op)).collect()
        };
        for (due, receipt) in some.into_iter().zip(api.look(look).await?) {
            let OpStatus { op, stamp, applied, is_final } = due.status;
            let receipt = match receipt {
                Some(receipt) => api.complete(caller, receipt).await?,
                None if is_final => Receipt::of_forgotten(op, stamp, applied),
                // A node that had to come back as another since may not hold an op that it had not issued.
                None => continue,
            };
            messages.push(message(&due.id, &receipt, due.held_by));
        }
        Ok(messages)
    }

    /// The writes that as many members hold as they wait for.
    async fn held(&mut self, api: &Api, news: &Published) -> Result<Vec<Due>, Stopped> {
        let told = Some((news.node, news.held, news.frontier));
        if self.unheld.is_empty() || self.looked == told {
            return Ok(Vec::new());
        }
        self.looked = told;
        let ops: Vec<OpId> = self.unheld.iter().map(|unheld| unheld.op).collect();
        let look = move |replica: &Replica, _: Now| -> Vec<Option<(OpStatus, usize)>> {
            let held = |found: OpStatus| (found, replica.holders(found.op));
            ops.into_iter().map(|op| replica.status(op).map(held)).collect()
        };
        let (found, mut due) = (api.look(look).await?, Vec::new());
        for (unheld, found) in std::mem::take(&mut self.unheld).into_iter().zip(found) {
            match found {
                Some((status, held_by)) if held_by >= unheld.number => {
                    due.push(Due { id: unheld.id, status, held_by: Some(held_by) });
                }
                _ => self.unheld.push_back(unheld),
            }
        }
        Ok(due)
    }

    /// The writes that are final.
    async fn finals(&mut self, api: &Api, frontier: u64) -> Result<Vec<Due>, Stopped> {
        let later = self.tentative.split_off(&(frontier + 1, 0));
        let settled = std::mem::replace(&mut self.tentative, later);
        if settled.is_empty() {
            return Ok(Vec::new());
        }
        let look = move |replica: &Replica, _: Now| -> Vec<(String, OpId, Option<OpStatus>, bool)> {
            let status = |(id, op)| (id, op, replica.status(op), replica.is_orphan(op));
            settled.into_values().map(status).collect()
        };
        let (found, mut due) = (api.look(look).await?, Vec::new());
        for (id, op, status, is_orphan) in found {
            match status {
                Some(status) if status.is_final => due.push(Due { id, status, held_by: None }),
                // It was issued again, at a later place.
                Some(status) => self.look_at(id, op, status.stamp.time),
                None if is_orphan => self.look_at(id, op, frontier + 1),
                // A node that had to come back as another may not hold an op that it had not issued.
                None => {}
            }
        }
        Ok(due)
    }

    /// Looks at an op when all is final up to a time.
    fn look_at(&mut self, id: String, op: OpId, time: u64) {
        if self.tentative.len() == AWAITED_MAX {
            self.tentative.pop_first();
        }
        self.writes += 1;
        self.tentative.insert((time, self.writes), (id, op));
    }
}

/// A receipt. The message's id takes the place of the document's, which is in the list of documents as well.
pub fn message(id: &str, receipt: &Receipt, held_by: Option<usize>) -> String {
    let receipt = ReceiptBody::from(receipt).held_by(held_by);
    let mut message = serde_json::to_value(receipt).expect("plain data is written to memory");
    message["id"] = id.into();
    message["type"] = "receipt".into();
    message.to_string()
}

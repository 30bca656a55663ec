//! Answers that wait until an op is final (`wait=final`) or until so many members hold it (`wait=N`), and `timeout=` for how
//! long.
//!
//! A node that has to come back under another id issues again what the pool lacks of it. In between it has no receipt to
//! show; whoever waits goes on waiting, for the receipt of the op as it is issued again.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use tokio::{
    sync::watch::{self, error::RecvError},
    time::{Instant, interval, sleep_until},
};

use super::{
    Api, Problem, check_ready,
    query::{self, Query},
    rates::Caller,
    shape,
};
use crate::{
    document::Reason,
    node::{Published, Stopped},
    op::{NodeId, OpId},
    replica::{Now, Receipt, Refused, Replica, Standing},
};

/// How long a write waits when it is not told, and how long at the most.
pub(super) const TIMEOUT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How often those who wait until members hold an op ask again: a link that has come about since was not asked.
pub const ASK_EVERY: Duration = Duration::from_millis(500);
/// The parameters of a call that can wait.
pub const PARAMETERS: [&str; 2] = ["wait", "timeout"];

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Nothing can come before the op any more.
    Final,
    /// So many members hold it, this node among them.
    Held(usize),
}

/// What an answer may wait for, and how long; nothing if it does not wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience(Option<(Goal, Duration)>);

impl Patience {
    /// What a query says.
    pub fn take(query: &mut Query) -> Result<Patience, Problem> {
        let bad = |detail: &str| Err(Problem::bad("bad-query", detail));
        let timeout = query.take("timeout");
        let goal = match query.take("wait").as_deref() {
            None if timeout.is_some() => {
                return bad("timeout is for wait=final and wait=N: without them the answer comes at once");
            }
            None => return Ok(Patience(None)),
            Some("final") => Goal::Final,
            // More than can be counted is more than there are members.
            Some(number) if is_number(number) => Goal::Held(number.parse().unwrap_or(usize::MAX)),
            Some(_) => return bad("wait is final, or a number of members, or left out"),
        };
        let (usual, most) = TIMEOUT;
        Ok(Patience(Some((goal, timeout.map_or(Ok(usual), |text| query::duration("timeout", &text, most))?))))
    }

    /// Whether the answer waits at all.
    pub fn waits(self) -> bool {
        self.0.is_some()
    }

    /// What is left of it after a while.
    fn after(self, spent: Duration) -> Patience {
        Patience(self.0.map(|(goal, patience)| (goal, patience.saturating_sub(spent))))
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Refuses, in words, to wait for a number of members that there cannot be.
pub fn check_number(replica: &Replica, number: usize) -> Result<(), String> {
    let members = replica.roster().present().count();
    // A node that has no pool yet refuses for that.
    let knows = matches!(replica.standing(), Standing::Member | Standing::Retired);
    if !knows || (1..=members).contains(&number) {
        return Ok(());
    }
    Err(format!("wait is a number of members, the node itself among them: from 1 to {members}, as many as there are"))
}

/// A receipt, and what came of waiting for it.
#[derive(Debug)]
pub struct Waited {
    /// The receipt as it stood when the wait ended.
    pub receipt: Receipt,
    /// How many members hold the op, where somebody waited for that.
    pub held_by: Option<usize>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It did not wait.
    AtOnce,
    Reached,
    InVain,
}

impl Waited {
    /// Whether what was waited for has come.
    pub fn has_reached(&self) -> bool {
        self.outcome == Outcome::Reached
    }

    /// The refusal of a write, if it is final that it has no effect: after a wait, or at once if it repeats such a write's key.
    pub fn check(&self, refuse: impl FnOnce(Reason) -> Problem) -> Result<(), Problem> {
        match &self.receipt.verdict {
            Err(reason) if self.receipt.is_final => Err(refuse(reason.clone()).with("op", self.receipt.op.to_string())),
            _ => Ok(()),
        }
    }

    /// The answer to a write: what `done` makes of it, or 202 if it has waited in vain.
    pub fn answer(&self, done: impl FnOnce(&Waited) -> Response) -> Response {
        if self.outcome == Outcome::InVain { self.accepted() } else { done(self) }
    }

    /// 202: the op stands, and its verdict may still turn.
    pub fn accepted(&self) -> Response {
        let mut response = shape::written(StatusCode::ACCEPTED, self);
        let location = format!("/v1/ops/{}", self.receipt.op);
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).expect("hex digits"));
        response
    }
}

impl Api {
    /// What the query of a call says that takes nothing else.
    pub(super) async fn patience(&self, uri: &Uri) -> Result<Patience, Problem> {
        let patience = Patience::take(&mut Query::of(uri, &PARAMETERS)?)?;
        self.admit(patience).await?;
        Ok(patience)
    }

    /// Refuses to wait for what cannot be, before anything is written.
    pub(super) async fn admit(&self, patience: Patience) -> Result<(), Problem> {
        let Patience(Some((Goal::Held(number), _))) = patience else { return Ok(()) };
        let checked = self.node.read(move |replica, _| check_number(replica, number)).await?;
        checked.map_err(|detail| Problem::bad("bad-query", detail))
    }

    /// The receipt once it is as the patience wants it, or as it stands when that has ended or the node is to stop.
    pub(super) async fn awaited(
        &self,
        caller: &Caller,
        receipt: Receipt,
        patience: Patience,
    ) -> Result<Waited, Problem> {
        tracing::debug!(op = %receipt.op, stamp = %receipt.stamp, "the receipt of an op");
        let mut waited = self.wait(receipt, patience).await?;
        waited.receipt = self.complete(caller, waited.receipt).await?;
        Ok(waited)
    }

    /// The receipt with the versions of all documents.
    pub(super) async fn complete(&self, caller: &Caller, mut receipt: Receipt) -> Result<Receipt, Problem> {
        let replays = std::mem::take(&mut receipt.documents.replays);
        receipt.documents.replays = self.workers.replay_all(caller, replays).await?;
        Ok(receipt)
    }

    async fn wait(&self, receipt: Receipt, patience: Patience) -> Result<Waited, Problem> {
        let Patience(Some((goal, patience))) = patience else {
            return Ok(Waited { receipt, held_by: None, outcome: Outcome::AtOnce });
        };
        let (op, created, deadline) = (receipt.op, receipt.created, Instant::now() + patience);
        let (mut published, mut asks) = (self.node.published(), interval(ASK_EVERY));
        let (mut known, mut ended) = (receipt, false);
        let mut hurried = None;
        loop {
            let sight = self.look(move |replica, _| Sight::of(replica, op)).await??;
            let reached = sight.has_reached(goal);
            known = sight.receipt.clone().map_or(known, |receipt| Receipt { created, ..receipt });
            if reached || ended {
                let outcome = if reached { Outcome::Reached } else { Outcome::InVain };
                let held_by = matches!(goal, Goal::Held(_)).then_some(sight.held_by);
                return Ok(Waited { receipt: known, held_by, outcome });
            }
            let hurries = goal == Goal::Final || known.op.origin != sight.node;
            if hurries && hurried.replace(known.op) != Some(known.op) {
                self.node.hurry(known.stamp.time).await?;
            }
            tokio::select! {
                moved = sight.moved(goal, &mut published) => moved.map_err(|_| Stopped)?,
                _ = asks.tick(), if goal != Goal::Final => {
                    if known.op.origin == sight.node {
                        self.node.ask(known.op.seq).await?;
                    }
                }
                () = sleep_until(deadline) => ended = true,
                () = self.stop.cancelled() => ended = true,
            }
        }
    }
    /// The same of an op that was issued earlier; none if this node does not hold it. One that it has yet to issue again has
    /// no receipt meanwhile: who waits, waits for that too.
    pub(super) async fn awaited_op(
        &self,
        caller: &Caller,
        op: OpId,
        patience: Patience,
    ) -> Result<Option<Waited>, Problem> {
        let (begun, mut published) = (Instant::now(), self.node.published());
        let deadline = begun + patience.0.map_or(Duration::ZERO, |(_, patience)| patience);
        loop {
            let look = move |replica: &Replica, _: Now| (receipt_on(replica, op), replica.is_orphan(op));
            match self.node.read(look).await? {
                (Ok(Some(receipt)), _) => {
                    return Ok(Some(self.awaited(caller, receipt, patience.after(begun.elapsed())).await?));
                }
                (receipt, false) => return receipt.map(|_| None).map_err(Problem::from),
                (_, true) => {}
            }
            tokio::select! {
                changed = published.changed() => changed.map_err(|_| Stopped)?,
                () = sleep_until(deadline) => return Err(Refused::NotReady.into()),
                () = self.stop.cancelled() => return Err(Stopped.into()),
            }
        }
    }
}

/// A node that has retired can still tell of the op by which it did.
fn receipt_on(replica: &Replica, op: OpId) -> Result<Option<Receipt>, Refused> {
    if replica.standing() != Standing::Retired {
        check_ready(replica.standing())?;
    }
    Ok(replica.receipt(op))
}

/// How an op stands.
struct Sight {
    /// The node's id, and how often peers had said what they hold.
    node: NodeId,
    held: u64,
    /// None while the node has given up the id that it issued the op under, and has not issued it again.
    receipt: Option<Receipt>,
    held_by: usize,
}

impl Sight {
    fn of(replica: &Replica, op: OpId) -> Result<Sight, Refused> {
        let receipt = settled(replica, op)?;
        let held_by = receipt.as_ref().map_or(0, |receipt| replica.holders(receipt.op));
        Ok(Sight { node: replica.node(), held: replica.counters().held, receipt, held_by })
    }

    fn has_reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::Final => self.receipt.as_ref().is_some_and(|receipt| receipt.is_final),
            Goal::Held(number) => self.held_by >= number,
        }
    }

    /// Waits until it may stand otherwise.
    async fn moved(&self, goal: Goal, published: &mut watch::Receiver<Published>) -> Result<(), RecvError> {
        let Some(receipt) = &self.receipt else { return published.changed().await };
        let moved = |news: &Published| {
            let is_final = news.frontier >= receipt.stamp.time;
            is_final != receipt.is_final || news.node != self.node || goal != Goal::Final && news.held != self.held
        };
        published.wait_for(moved).await.map(drop)
    }
}

/// The receipt of an op as it stands; where it is final that an earlier op with its idempotency key has had its effect,
/// the receipt of that one.
fn settled(replica: &Replica, op: OpId) -> Result<Option<Receipt>, Refused> {
    let Some(receipt) = replica.receipt(op) else { return Ok(None) };
    let Err(Reason::Repeated(first)) = receipt.verdict else { return Ok(Some(receipt)) };
    if !receipt.is_final {
        return Ok(Some(receipt));
    }
    let bodies = replica.log().get(op).zip(replica.log().get(first)).map(|(op, first)| (op.body(), first.body()));
    let same = bodies.is_some_and(|(op, first)| op.guards == first.guards && op.commands == first.commands);
    if same { Ok(replica.receipt_of(first)) } else { Err(Refused::KeyReused(first)) }
}

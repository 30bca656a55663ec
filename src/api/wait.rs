//! Writes that wait for their verdict to be final: `wait=final`, and `timeout=` for how long.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use tokio::time::{Instant, sleep_until};

use super::{
    Api, Problem,
    query::{self, Query},
    shape,
};
use crate::{
    document::Reason,
    node::Stopped,
    op::OpId,
    replica::{Receipt, Refused, Replica},
};

/// How long a write waits when it is not told, and how long at the most.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// The parameters of a call that can wait.
pub const PARAMETERS: [&str; 2] = ["wait", "timeout"];

/// How long an answer may wait until its op is final; nothing if it does not wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience(Option<Duration>);

impl Patience {
    /// What the query of a call says that takes nothing else.
    pub fn of(uri: &Uri) -> Result<Patience, Problem> {
        Patience::take(&mut Query::of(uri, &PARAMETERS)?)
    }

    /// What a query says.
    pub fn take(query: &mut Query) -> Result<Patience, Problem> {
        let bad = |detail: &str| Err(Problem::bad("bad-query", detail));
        let timeout = query.take("timeout");
        match query.take("wait").as_deref() {
            None if timeout.is_some() => bad("timeout is for wait=final: without it the answer comes at once"),
            None => Ok(Patience(None)),
            Some("final") => {
                let (usual, most) = TIMEOUT;
                Ok(Patience(Some(timeout.map_or(Ok(usual), |text| query::duration("timeout", &text, most))?)))
            }
            Some(number) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                bad("to wait until a number of members hold a write is not there yet: wait is final, or left out")
            }
            Some(_) => bad("wait is final, or left out"),
        }
    }

    /// Whether the answer waits at all.
    pub fn waits(self) -> bool {
        self.0.is_some()
    }

    /// The answer to a write: what `done` makes of its receipt, or 202 if it has waited in vain.
    pub fn answer(self, receipt: &Receipt, done: impl FnOnce(&Receipt) -> Response) -> Response {
        if receipt.is_final || !self.waits() { done(receipt) } else { accepted(receipt) }
    }
}

/// 202: the op stands, and its verdict may still turn.
pub fn accepted(receipt: &Receipt) -> Response {
    let mut response = shape::written(StatusCode::ACCEPTED, receipt);
    let location = format!("/v1/ops/{}", receipt.op);
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).expect("hex digits"));
    response
}

impl Api {
    /// The receipt once it is final, or as it stands when the patience has ended or the node is to stop.
    pub(super) async fn awaited(&self, receipt: Receipt, patience: Patience) -> Result<Receipt, Problem> {
        let Patience(Some(patience)) = patience else { return Ok(receipt) };
        let (op, time, deadline) = (receipt.op, receipt.stamp.time, Instant::now() + patience);
        if !receipt.is_final {
            let mut published = self.node.published();
            self.node.hurry(time).await?;
            let reached = async { published.wait_for(|news| news.frontier >= time).await.map(drop) };
            tokio::select! {
                reached = reached => reached.map_err(|_| Stopped)?,
                () = sleep_until(deadline) => {}
                () = self.stop.cancelled() => {}
            }
        }
        let settled = self.node.read(move |replica, _| settled(replica, op)).await??;
        // A node that had to come back as another may not hold it.
        Ok(settled.map_or(receipt.clone(), |settled| Receipt { created: receipt.created, ..settled }))
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
    if same { Ok(replica.receipt(first)) } else { Err(Refused::KeyReused(first)) }
}

/// What a write that has waited is refused with, if it is final that it has no effect.
pub fn check(receipt: &Receipt, patience: Patience, refuse: impl FnOnce(Reason) -> Problem) -> Result<(), Problem> {
    match &receipt.verdict {
        Err(reason) if receipt.is_final && patience.waits() => {
            Err(refuse(reason.clone()).with("op", receipt.op.to_string()))
        }
        _ => Ok(()),
    }
}

//! Transactions, and the receipts of ops: `POST /v1/tx`, `GET /v1/ops/{op}`.
//!
//! Rests on `steps` for what a transaction says. That it takes effect wholly or not at all is the replica's doing.

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    Api, Problem,
    access::Pass,
    conditions::Conditions,
    docs,
    extract::{self, OpPath},
    rates::Caller,
    shape::ReceiptBody,
    steps,
    wait::Waited,
};
use crate::{
    document::json,
    op::OpId,
    replica::{Draft, Replica},
};

/// `POST /v1/tx`: one op over many documents.
pub async fn post(State(api): State<Api>, pass: Pass, caller: Caller, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    docs::json_only(&parts.headers)?;
    Conditions::refuse(&parts.headers, "a transaction has \"guards\" in its body")?;
    let patience = api.patience(&parts.uri).await?;
    let body = extract::body(&api, &parts, body).await?;
    let mut draft = api.workers.parse(&caller, body, parse).await??;
    pass.check_write(&draft)?;
    let key = extract::idempotency_key(&parts.headers)?;
    if key.is_some() && draft.key.is_some() && key != draft.key {
        return Err(Problem::bad("bad-request", "\"key\" and the header Idempotency-Key differ: send one of them"));
    }
    draft.key = pass.own_key(key.or(draft.key))?;
    let waited = api.awaited(&caller, api.node.submit(caller.client(), draft).await??, patience).await?;
    waited.check(Problem::from)?;
    Ok(waited.answer(shown))
}

/// What a body says.
fn parse(body: &[u8]) -> Result<Draft, Problem> {
    match json::parse_within(body, steps::LEVELS_MAX)? {
        Value::Object(members) => steps::parse(members),
        _ => Err(Problem::bad("bad-request", "a transaction is an object: {\"guards\":[…],\"commands\":[…]}")),
    }
}

/// `GET /v1/ops/{op}`: the receipt as it stands, or as it is waited for. It is shown whatever it says.
pub async fn op(
    State(api): State<Api>,
    OpPath(op): OpPath,
    pass: Pass,
    caller: Caller,
    uri: Uri,
) -> Result<Response, Problem> {
    let patience = api.patience(&uri).await?;
    match api.awaited_op(&caller, op, patience).await? {
        Some(waited) => {
            check_op(&api, &pass, waited.receipt.op).await?;
            Ok(waited.answer(shown))
        }
        None => Err(api.node.read(move |replica, _| no_op(replica, op)).await?),
    }
}

/// Refuses an op that names documents which the token is not for: its receipt tells their names, versions, and which guard
/// failed.
async fn check_op(api: &Api, pass: &Pass, op: OpId) -> Result<(), Problem> {
    let asked = pass.clone();
    let look = move |replica: &Replica, _| replica.log().get(op).is_some_and(|op| asked.covers_op(&op.body()));
    if pass.check_all().is_ok() || api.node.read(look).await? {
        return Ok(());
    }
    let detail = format!("the op {op} names documents of collections that your token is not for: use one for these");
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

fn no_op(replica: &Replica, op: OpId) -> Problem {
    if op.seq > 0 && op.seq <= replica.log().start(op.origin).seq {
        let detail = format!(
            "the op {op} is final, and forgotten here with all up to the time {}: read its documents, or ask a node that \
             keeps more (--retain-ops)",
            replica.horizon()
        );
        return Problem::new(StatusCode::GONE, "past-forgotten", detail);
    }
    let detail = format!(
        "this node holds no op {op}: if another node gave you its receipt, send that answer's Lamplight-Session along, and \
         this node waits for it"
    );
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

fn shown(waited: &Waited) -> Response {
    Json(ReceiptBody::from(waited)).into_response()
}

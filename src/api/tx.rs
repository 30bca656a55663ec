//! Transactions, and the receipts of ops: `POST /v1/tx`, `GET /v1/ops/{op}`.
//!
//! Rests on `steps` for what a transaction says. That it takes effect wholly or not at all is the replica's doing.

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, Uri, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    Api, Problem, check_ready, docs,
    extract::{self, OpPath},
    shape::ReceiptBody,
    steps,
    wait::{self, Patience},
};
use crate::{
    document::json,
    op::OpId,
    replica::{Receipt, Refused, Replica, Standing},
};

/// `POST /v1/tx`: one op over many documents.
pub async fn post(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (Parts { headers, uri, .. }, body) = request.into_parts();
    docs::json_only(&headers)?;
    let patience = Patience::of(&uri)?;
    let Value::Object(members) = json::parse_within(&extract::body(&headers, body).await?, steps::LEVELS_MAX)? else {
        return Err(Problem::bad("bad-request", "a transaction is an object: {\"guards\":[…],\"commands\":[…]}"));
    };
    let mut draft = steps::parse(members)?;
    let key = extract::idempotency_key(&headers)?;
    if key.is_some() && draft.key.is_some() && key != draft.key {
        return Err(Problem::bad("bad-request", "\"key\" and the header Idempotency-Key differ: send one of them"));
    }
    draft.key = key.or(draft.key);
    let receipt = api.awaited(api.node.submit(draft).await??, patience).await?;
    wait::check(&receipt, patience, Problem::from)?;
    Ok(patience.answer(&receipt, shown))
}

/// `GET /v1/ops/{op}`: the receipt as it stands, or once it is final. It is shown whatever it says.
pub async fn op(State(api): State<Api>, OpPath(op): OpPath, uri: Uri) -> Result<Response, Problem> {
    let patience = Patience::of(&uri)?;
    let receipt = api.node.read(move |replica, _| receipt_on(replica, op)).await??;
    let receipt = receipt.ok_or_else(|| {
        let detail = format!(
            "this node holds no op {op}: if another node gave you its receipt, send that answer's Lamplight-Session \
             along, and this node waits for it"
        );
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    })?;
    Ok(patience.answer(&api.awaited(receipt, patience).await?, shown))
}

/// A node that has retired can still tell of the op by which it did.
fn receipt_on(replica: &Replica, op: OpId) -> Result<Option<Receipt>, Refused> {
    if replica.standing() != Standing::Retired {
        check_ready(replica.standing())?;
    }
    Ok(replica.receipt(op))
}

fn shown(receipt: &Receipt) -> Response {
    Json(ReceiptBody::from(receipt)).into_response()
}

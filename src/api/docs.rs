//! Single documents: PUT, PATCH, DELETE, POST, GET.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

use super::{
    Api, ConnectionMemory, Problem,
    access::Pass,
    bulk,
    extract::{self, CollectionPath, DocPath},
    past::When,
    query::Query,
    rates::Caller,
    shape, text_docs,
    texts::is_text,
    wait::{Patience, Waited},
};
use crate::{
    document::{Reason, json, patch::Patch, prose::is_prose},
    op::{Command, DocKey, Guard},
    replica::{Draft, Refused, Replica},
};

/// `PUT /v1/docs/{collection}/{id}`.
pub async fn put(
    State(api): State<Api>,
    doc: DocPath,
    pass: Pass,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let patience = api.patience(&parts.uri).await?;
    if extract::media_type(headers) == "text/plain" {
        let body = extract::body(&api, &parts, body).await?;
        return text_docs::put(&api, (doc.key(), &caller), headers, &body, patience).await;
    }
    json_only(headers)?;
    let value = api.workers.parse(&caller, extract::body(&api, &parts, body).await?, json::canonical).await??;
    let doc = doc.key();
    let draft = Draft {
        key: own_key(&pass, headers)?,
        guards: conditions(headers, &doc)?,
        commands: vec![Command::Put(doc, value.into())],
        present: false,
    };
    let waited = write(&api, &caller, draft, patience).await?;
    let status = if waited.receipt.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(waited.answer(|waited| shape::written(status, waited)))
}

/// `PATCH /v1/docs/{collection}/{id}`: a merge patch (RFC 7396) or a JSON Patch (RFC 6902).
pub async fn patch(
    State(api): State<Api>,
    doc: DocPath,
    pass: Pass,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let patience = api.patience(&parts.uri).await?;
    let media = extract::media_type(headers);
    let command: fn(DocKey<'static>, String) -> Command<'static> = match media.as_str() {
        "application/merge-patch+json" | "application/json" => |doc, text| Command::Merge(doc, text.into()),
        "application/json-patch+json" => |doc, text| Command::Patch(doc, text.into()),
        _ => {
            let detail =
                "PATCH takes application/merge-patch+json (RFC 7396) or application/json-patch+json (RFC 6902)";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", detail));
        }
    };
    let text = api.workers.parse(&caller, extract::body(&api, &parts, body).await?, json::canonical).await??;
    if media == "application/json-patch+json" {
        Patch::parse(&text)?;
    }
    let doc = doc.key();
    if media == "application/json"
        && let Some(delta) = json::parse(text.as_bytes()).ok().filter(text_docs::looks_like_delta)
        && is_text(&api, &doc).await? == Some(true)
    {
        return text_docs::patch(&api, (doc, &caller), headers, &delta, patience).await;
    }
    let mut guards = conditions(headers, &doc)?;
    // A patch says what to change, so at its place there must be something to change: without this guard, a merge that
    // comes after another node's deletion would leave a fragment.
    guards.push(Guard::Exists(doc.clone()));
    let draft = Draft { key: own_key(&pass, headers)?, guards, commands: vec![command(doc, text)], present: true };
    let waited = write(&api, &caller, draft, patience).await?;
    Ok(waited.answer(|waited| shape::written(StatusCode::OK, waited)))
}

/// `DELETE /v1/docs/{collection}/{id}`.
pub async fn delete(
    State(api): State<Api>,
    doc: DocPath,
    pass: Pass,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let patience = api.patience(&uri).await?;
    let doc = doc.key();
    let draft = Draft {
        key: own_key(&pass, &headers)?,
        guards: conditions(&headers, &doc)?,
        commands: vec![Command::Delete(doc)],
        present: true,
    };
    let waited = write(&api, &caller, draft, patience).await?;
    Ok(waited.answer(|waited| shape::written(StatusCode::OK, waited)))
}

/// `POST /v1/docs/{collection}`: create under an id that the server makes; or many, one a line.
pub async fn post(
    State(api): State<Api>,
    CollectionPath(collection): CollectionPath,
    pass: Pass,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let patience = api.patience(&parts.uri).await?;
    if extract::media_type(headers) == "application/x-ndjson" {
        if patience.waits() {
            let detail = "a bulk load does not wait, its lines are answered as they come: ask for the last of them, \
                          GET /v1/ops/{op}?wait=final";
            return Err(Problem::bad("bad-query", detail));
        }
        let memory = ConnectionMemory::of_request(&parts, &api);
        return bulk::load(api, collection, (caller, &memory), headers, body);
    }
    json_only(headers)?;
    let value = api.workers.parse(&caller, extract::body(&api, &parts, body).await?, json::canonical).await??;
    let key = own_key(&pass, headers)?;
    let id = new_id(&collection, key.as_deref());
    let doc = DocKey::new(collection.clone(), id.clone());
    let draft = Draft { key, guards: Vec::new(), commands: vec![Command::Put(doc, value.into())], present: false };
    let waited = write(&api, &caller, draft, patience).await?;
    Ok(waited.answer(|waited| {
        let mut response = shape::written(StatusCode::CREATED, waited);
        let location = format!("/v1/docs/{collection}/{}", utf8_percent_encode(&id, NON_ALPHANUMERIC));
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).expect("percent-encoded"));
        response
    }))
}

/// `GET /v1/docs/{collection}/{id}`.
pub async fn get(
    State(api): State<Api>,
    doc: DocPath,
    caller: Caller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let when = When::of(&mut Query::of(&uri, &["view", "at"])?)?;
    let DocPath { collection, id } = doc.clone();
    let look = move |replica: &Replica| when.get(replica, &collection, &id).map(|found| (found, replica.frontier()));
    let (found, frontier) = api.read(look).await??;
    let view = when.view(&api, &caller, found).await?;
    let view = view.ok_or_else(|| when.no_document(&doc.collection, &doc.id))?;
    let described = shape::describing(&view, frontier);
    let tags = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let current = described.get(header::ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default();
    let held = |tag: &str| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == current;
    if tags.flat_map(|tags| tags.split(',')).any(held) {
        return Ok((StatusCode::NOT_MODIFIED, described).into_response());
    }
    if is_prose(&view.text) {
        return text_docs::get(&api, (doc.key(), &caller), when, &headers, (view, frontier)).await;
    }
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((described, json, view.text.as_str().to_string()).into_response())
}

/// The id of a document that is made without one. With an idempotency key it follows from the key, so that the same
/// request is the same op; else it is a `UUIDv7` (RFC 9562, section 5.7), which sorts by the time it was made.
pub fn new_id(collection: &str, key: Option<&str>) -> String {
    let Some(key) = key else { return Uuid::now_v7().to_string() };
    let hash = blake3::hash(format!("{collection}\n{key}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    Uuid::new_v8(bytes).to_string()
}

/// The idempotency key of a request, as its op carries it.
fn own_key(pass: &Pass, headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let key = pass.own_key(extract::idempotency_key(headers)?);
    key.map_err(|fault| Problem::bad_header(format!("Idempotency-Key: {fault}")))
}

/// The guards that the conditional headers stand for.
pub fn conditions(headers: &HeaderMap, doc: &DocKey<'static>) -> Result<Vec<Guard<'static>>, Problem> {
    Ok(extract::if_match(headers, doc)?.into_iter().chain(extract::if_none_match(headers, doc)?).collect())
}

/// Issues a write of one document, and waits for it as long as it says; its guards are the client's conditions, so their
/// failure is 412.
pub async fn write(api: &Api, caller: &Caller, draft: Draft, patience: Patience) -> Result<Waited, Problem> {
    // Cloned only where a document must be there: no other refusal names it.
    let doc = draft.commands.first().and_then(Command::doc).filter(|_| draft.present).cloned();
    let creates = draft.guards.iter().position(|guard| matches!(guard, Guard::Absent(_)));
    // The last guard of a patch is none of the client's. It can fail only later, at the op's place.
    let patches = matches!(draft.commands[..], [Command::Merge(..) | Command::Patch(..)]);
    let conditions = draft.guards.len() - usize::from(patches);
    let refuse = |reason| match reason {
        Reason::Guard { index, current } if index < conditions => {
            let problem = if creates == Some(index) { Problem::exists_already } else { Problem::version_mismatch };
            problem(current.map(|version| version.to_string()))
        }
        reason => reason.into(),
    };
    match api.node.submit(caller.client(), draft).await? {
        Ok(receipt) => {
            let waited = api.awaited(caller, receipt, patience).await?;
            waited.check(refuse)?;
            Ok(waited)
        }
        Err(Refused::Absent) => {
            Err(doc.map_or_else(|| Refused::Absent.into(), |doc| Problem::no_document(&doc.collection, &doc.id)))
        }
        Err(Refused::Rejected(reason)) => Err(refuse(reason)),
        Err(refused) => Err(refused.into()),
    }
}

/// Bodies are JSON; a client that names no type, or curl's default for `-d`, is believed to mean it.
pub fn json_only(headers: &HeaderMap) -> Result<(), Problem> {
    match extract::media_type(headers).as_str() {
        "" | "application/json" | "application/x-www-form-urlencoded" => Ok(()),
        other => {
            let detail = format!("this call takes application/json, not {other} (and PUT text/plain, for a text)");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", detail))
        }
    }
}

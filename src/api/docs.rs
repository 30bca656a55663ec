//! Single documents: PUT, PATCH, DELETE, POST, GET.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use uuid::Uuid;

use super::{
    Api, ConnectionMemory, Problem,
    access::Pass,
    bulk,
    conditions::{Conditions, Read},
    extract::{self, CollectionPath, DocPath},
    media::{Charset, is_lines, media_type},
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
    version::Version,
};

/// Characters that are encoded in a segment of a path: all but the unreserved ones of RFC 3986.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The header that names the types of patches (RFC 5789, section 3.1).
static PATCHES: (HeaderName, &str) = (
    HeaderName::from_static("accept-patch"),
    "application/merge-patch+json, application/json-patch+json, application/json",
);

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
    let doc = doc.key();
    if media_type(headers) == "text/plain" {
        let body = extract::body(&api, &parts, body).await?;
        let guards = guards(&api, headers, &doc).await?;
        return text_docs::put(&api, (doc, &caller), (headers, guards), &body, patience).await;
    }
    json_only(headers)?;
    let value = api.workers.parse(&caller, extract::body(&api, &parts, body).await?, json::canonical).await??;
    let command = Command::Put(doc.clone(), value.into());
    let key = own_key(&pass, headers)?;
    let attempts = attempts(&api, key.as_ref(), headers, &doc, false).await?;
    let waited = write_any(&api, &caller, (key, command), attempts, patience).await?;
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
    let media = media_type(headers);
    let command: fn(DocKey<'static>, String) -> Command<'static> = match media.as_str() {
        "application/merge-patch+json" | "application/json" => |doc, text| Command::Merge(doc, text.into()),
        "application/json-patch+json" => |doc, text| Command::Patch(doc, text.into()),
        _ => {
            let detail =
                "PATCH takes application/merge-patch+json (RFC 7396) or application/json-patch+json (RFC 6902)";
            let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", detail);
            return Err(problem.header(&PATCHES));
        }
    };
    let text = api.workers.parse(&caller, extract::body(&api, &parts, body).await?, json::canonical).await??;
    if media == "application/json-patch+json" {
        Patch::parse(&text)?;
    }
    let doc = doc.key();
    let is_plain = media == "application/json";
    let delta = if is_plain { json::parse(text.as_bytes()).ok().filter(text_docs::looks_like_delta) } else { None };
    if let Some(delta) = &delta
        && is_text(&api, &doc).await? == Some(true)
    {
        let guards = guards(&api, headers, &doc).await?;
        return text_docs::patch(&api, (doc, &caller), (headers, guards), delta, patience).await;
    }
    let key = own_key(&pass, headers)?;
    // A patch says what to change, so at its place there must be something to change: without this guard, a merge that
    // comes after another node's deletion would leave a fragment. Where nothing is there now, a merge creates it.
    let mut attempts = attempts(&api, key.as_ref(), headers, &doc, true).await?;
    // What may be a delta makes no JSON document in the place of a text that was deleted.
    let creates = media != "application/json-patch+json" && delta.is_none();
    let creating = |attempt: &Attempt| Attempt { guards: attempt.guards.clone(), present: false };
    let creating: Vec<Attempt> = attempts.iter().filter(|_| creates).map(creating).collect();
    attempts.iter_mut().for_each(|attempt| attempt.guards.push(Guard::Exists(doc.clone())));
    attempts.extend(creating);
    let waited = write_any(&api, &caller, (key, command(doc, text)), attempts, patience).await?;
    let status = if waited.receipt.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(waited.answer(|waited| shape::written(status, waited)))
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
    let key = own_key(&pass, &headers)?;
    let attempts = attempts(&api, key.as_ref(), &headers, &doc, true).await?;
    let waited = write_any(&api, &caller, (key, Command::Delete(doc)), attempts, patience).await?;
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
    Conditions::refuse(headers, "it creates a document under an id of its own. PUT takes conditions")?;
    if is_lines(headers) {
        Charset::check_stream(headers)?;
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
        let location = format!("/v1/docs/{collection}/{}", utf8_percent_encode(&id, SEGMENT));
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
    if Conditions::judge_read(&headers, || Version::of(view.text.as_str()))? == Read::Held {
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

/// The version that a document has now, if conditions depend on it.
async fn current(api: &Api, conditions: &Conditions, doc: &DocKey<'static>) -> Result<Option<Version>, Problem> {
    if !conditions.need_current() {
        return Ok(None);
    }
    let DocKey { collection, id } = doc.clone();
    let view = api.read(move |replica| replica.state().get(&collection, &id)).await?;
    Ok(view.map(|view| Version::of(view.text.as_str())))
}

/// The guards that the conditional headers stand for, as the document is now.
async fn guards(api: &Api, headers: &HeaderMap, doc: &DocKey<'static>) -> Result<Vec<Guard<'static>>, Problem> {
    let conditions = Conditions::of_write(headers)?;
    conditions.guards(doc, current(api, &conditions, doc).await?)
}

/// The guards of a write, and whether the document must exist where it is issued.
struct Attempt {
    guards: Vec<Guard<'static>>,
    present: bool,
}

/// The attempts of a write under its conditions: as the document stands; and, if the request may have come before, as it may have
/// stood then.
async fn attempts(
    api: &Api,
    key: Option<&String>,
    headers: &HeaderMap,
    doc: &DocKey<'static>,
    present: bool,
) -> Result<Vec<Attempt>, Problem> {
    let conditions = Conditions::of_write(headers)?;
    conditions.check_key(key)?;
    let guards = conditions.guards(doc, current(api, &conditions, doc).await?)?;
    let others = if key.is_some() { conditions.other_guards(doc, &guards) } else { Vec::new() };
    Ok([guards].into_iter().chain(others).map(|guards| Attempt { guards, present }).collect())
}

/// Issues the first of these attempts that the document as it is, or was when the same request came first, lets through. A
/// command may be large: it is copied for one attempt at a time, and not for the last.
async fn write_any(
    api: &Api,
    caller: &Caller,
    (key, command): (Option<String>, Command<'static>),
    attempts: Vec<Attempt>,
    patience: Patience,
) -> Result<Waited, Problem> {
    let mut refused = Problem::from(Refused::Absent);
    let (mut left, mut command) = (attempts.len(), Some(command));
    for Attempt { guards, present } in attempts {
        left -= 1;
        let commands = if left == 0 { command.take() } else { command.clone() }.into_iter().collect();
        let draft = Draft { key: key.clone(), guards, commands, present };
        refused = match write(api, caller, draft, patience).await {
            Err(problem) if problem.is("key-reused") => problem,
            // Nothing is there to be changed: the next one may create it.
            Err(problem) if problem.is("not-found") && present && left > 0 => problem,
            outcome => return outcome,
        };
    }
    Err(refused)
}

/// Issues a write of one document, and waits for it as long as it says; its guards are the client's conditions, so their
/// failure is 412.
pub async fn write(api: &Api, caller: &Caller, draft: Draft, patience: Patience) -> Result<Waited, Problem> {
    // Cloned only where a document must be there: no other refusal names it.
    let doc = draft.commands.first().and_then(Command::doc).filter(|_| draft.present).cloned();
    let creates = draft.guards.iter().position(|guard| matches!(guard, Guard::Absent(_)));
    // The last guard of a patch is none of the client's. It can fail only later, at the op's place.
    let patches = draft.present && matches!(draft.commands[..], [Command::Merge(..) | Command::Patch(..)]);
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
    match media_type(headers).as_str() {
        "" | "application/json" | "application/x-www-form-urlencoded" => Ok(()),
        other => {
            let detail = format!("this call takes application/json, not {other} (and PUT text/plain, for a text)");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", detail))
        }
    }
}

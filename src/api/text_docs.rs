//! Text documents over REST: read as plain text or as a delta, written as plain text, edited by a delta.
//!
//! A delta says what to do to one version of a text (retain, insert, delete, in UTF-16 units, as Quill and Yjs count), so it
//! names that version by `If-Match`. Once made, the edit is one among others: what somebody else types meanwhile stays.

use std::sync::Arc;

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    Api, Problem, docs, extract,
    headers::IF_MATCH,
    live_text::{Edition, Live, Refusal},
    past::When,
    rates::Caller,
    shape,
    texts::{Opened, is_text},
    wait::Patience,
};
use crate::{
    document::{
        View,
        delta::{Step, difference, parse_delta},
        prose::{Allowance, Prose, Unfit},
    },
    op::{Command, DocKey, Edit, Guard},
    replica::{Draft, Replica},
};

/// A text that has changed comes with the refusal, if it is no longer than this.
const SHOWN_BYTES_MAX: usize = 64 << 10;

/// Answers a read of a text document; what is known of it otherwise is in `view`.
pub async fn get(
    api: &Api,
    (doc, caller): (DocKey<'static>, &Caller),
    when: When,
    headers: &HeaderMap,
    (view, frontier): (View, u64),
) -> Result<Response, Problem> {
    let as_delta = prefers_delta(headers);
    let reading = move |prose: &Prose, allowance: &mut dyn Allowance| {
        if as_delta { prose.delta_within(allowance).map(|ops| format!("{{\"ops\":{ops}}}")) } else { prose.plain() }
    };
    let (text, view) = match when {
        When::Now => {
            api.texts.reach(api.read(|replica| replica.state().edits().end()).await?).await;
            let (text, mark) = api.texts.open(&doc, caller).await?.read(caller, reading).await?;
            let mark = mark.ok_or_else(|| when.no_document(&doc.collection, &doc.id))?;
            (text, View { text: mark, ..view })
        }
        When::Final | When::At(_) => {
            let (asked, mark) = (doc.clone(), view.text.clone());
            let look = move |replica: &Replica| {
                let time = when.time(replica)?.unwrap_or(replica.clock());
                Ok::<_, Problem>(replica.state().source_at(&asked.collection, &asked.id, time, mark))
            };
            let source = api.read(look).await?;
            let source = source?.ok_or_else(|| when.no_document(&doc.collection, &doc.id))?;
            (api.texts.read_source((&doc, source), caller, reading).await?, view)
        }
    };
    let kind = if as_delta { "application/json" } else { "text/plain; charset=utf-8" };
    let kind =
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::VARY, HeaderValue::from_static("accept"))];
    Ok((shape::describing(&view, frontier), kind, text).into_response())
}

/// Whether JSON is asked for: the first of the two kinds that `Accept` names.
fn prefers_delta(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let at = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    at("application/json") < at("text/plain")
}

/// `PUT` of plain text: makes a text, or makes one that is there read so, by the shortest edit.
pub async fn put(
    api: &Api,
    (doc, caller): (DocKey<'static>, &Caller),
    (headers, guards): (&HeaderMap, Vec<Guard<'static>>),
    body: &[u8],
    patience: Patience,
) -> Result<Response, Problem> {
    no_key(headers)?;
    let text = str::from_utf8(body).map_err(|_| Problem::bad("bad-request", "text/plain is UTF-8 here"))?.to_string();
    if is_text(api, &doc).await? == Some(false) {
        return replace(api, (doc, caller), guards, text, patience).await;
    }
    let live = match settled(api, &doc, caller).await {
        // It cannot be edited: it begins again.
        Err(problem) if problem.is("unreadable-text") => {
            return replace(api, (doc, caller), guards, text, patience).await;
        }
        live => live?,
    };
    let edited = live.edit(caller, guards, move |prose| Ok(difference(&prose.plain()?, &text))).await;
    answer(api, &live, caller, edited, patience).await
}

/// Puts a text in the place of a JSON document.
async fn replace(
    api: &Api,
    (doc, caller): (DocKey<'static>, &Caller),
    guards: Vec<Guard<'static>>,
    text: String,
    patience: Patience,
) -> Result<Response, Problem> {
    let steps = [Step::Insert(text, None)];
    let work = move || Prose::default().edit(fastrand::u32(1..), &steps);
    let update = api.workers.run(caller, work).await?.map_err(|unfit| problem_of(&unfit))?;
    let edit = Edit { creates: true, update: update.unwrap_or_else(|| vec![0, 0]).into() };
    let commands = vec![Command::Delete(doc.clone()), Command::Text(doc, edit)];
    let waited = docs::write(api, caller, Draft { key: None, guards, commands, present: false }, patience).await?;
    Ok(waited.answer(|waited| shape::written(StatusCode::OK, waited)))
}

/// `PATCH` with a delta.
pub async fn patch(
    api: &Api,
    (doc, caller): (DocKey<'static>, &Caller),
    (headers, guards): (&HeaderMap, Vec<Guard<'static>>),
    delta: &Value,
    patience: Patience,
) -> Result<Response, Problem> {
    no_key(headers)?;
    if !IF_MATCH.is_in(headers) {
        let detail = "a delta edits one version of a text: name it by If-Match, with the ETag that GET gave";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "version-needed", detail));
    }
    let steps = parse_delta(delta).map_err(|unfit| problem_of(&unfit))?;
    let live = settled(api, &doc, caller).await?;
    let edited = live.edit(caller, guards, move |_| Ok(steps)).await;
    answer(api, &live, caller, edited, patience).await
}

/// Whether a JSON body may be a delta.
pub fn looks_like_delta(body: &Value) -> bool {
    body.is_array() || body.get("ops").is_some_and(Value::is_array)
}

/// A text as this node holds it now.
async fn settled(api: &Api, doc: &DocKey<'static>, caller: &Caller) -> Result<Opened, Problem> {
    api.texts.reach(api.read(|replica| replica.state().edits().end()).await?).await;
    api.texts.open(doc, caller).await
}

async fn answer(
    api: &Api,
    live: &Arc<Live>,
    caller: &Caller,
    edited: Result<Edition, Refusal>,
    patience: Patience,
) -> Result<Response, Problem> {
    let receipt = match edited {
        Ok(Some(receipt)) => receipt.await.map_err(|_| crate::node::Stopped)?,
        Ok(None) => {
            // It reads so already.
            let DocKey { collection, id } = live.doc().clone();
            let look =
                move |replica: &Replica| replica.state().get(&collection, &id).map(|view| (view, replica.frontier()));
            let (view, frontier) =
                api.read(look).await?.ok_or_else(|| Problem::no_document(&live.doc().collection, &live.doc().id))?;
            return Ok((shape::describing(&view, frontier), Json(json!({ "unchanged": true }))).into_response());
        }
        Err(Refusal::Problem(problem)) => return Err(problem),
        Err(Refusal::Unfit(unfit)) => return Err(problem_of(&unfit)),
        Err(Refusal::Changed(version, text)) => return Err(changed(version, text)),
    };
    let receipt = receipt?;
    let status = if receipt.created { StatusCode::CREATED } else { StatusCode::OK };
    let waited = api.awaited(caller, receipt, patience).await?;
    waited.check(Problem::from)?;
    Ok(waited.answer(|waited| shape::written(status, waited)))
}

/// 412, with the text as it is now.
fn changed(version: Option<String>, text: String) -> Problem {
    let shown = version.is_some() && text.len() <= SHOWN_BYTES_MAX;
    let problem = Problem::version_mismatch(version);
    if shown { problem.with("text", text) } else { problem }
}

fn problem_of(unfit: &Unfit) -> Problem {
    match unfit {
        Unfit::TooLarge | Unfit::TooManyParts | Unfit::LongDelta => Problem::too_large(unfit.to_string()),
        Unfit::TooCostly | Unfit::Exhausted => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too-costly", unfit.to_string())
        }
        Unfit::Delta(_) => Problem::bad("bad-delta", unfit.to_string()),
        Unfit::Malformed(_) | Unfit::Early | Unfit::Stranger(_) | Unfit::Broken => {
            Problem::bad("bad-update", unfit.to_string())
        }
    }
}

/// Why a text is not read.
pub fn unread(unfit: &Unfit) -> Problem {
    if *unfit == Unfit::LongDelta { problem_of(unfit) } else { Problem::unreadable_text() }
}

fn no_key(headers: &HeaderMap) -> Result<(), Problem> {
    if extract::idempotency_key(headers)?.is_none() {
        return Ok(());
    }
    let detail = "Idempotency-Key is not for texts: a PUT may be sent again as it is, and a delta fails the second time, for \
                  If-Match names another version";
    Err(Problem::bad_header(detail))
}

//! The parameters that calls take, and the headers of answers.

use serde_json::{Value, json};

use super::operation::schema;
use crate::{
    api::{page, query, wait},
    document::{COLLECTION_BYTES_MAX, ID_BYTES_MAX, KEY_BYTES_MAX},
    op::OpId,
};

/// A document of the examples.
pub const COLLECTION: &str = "notes";
/// Its id.
pub const ID: &str = "shopping";
/// Its version.
pub const VERSION: &str = "c1b4f0b1cf2ac6a2a9d9a3a5a8e0d3f7";
/// A node of the examples.
pub const NODE: &str = "0198c0de-7a11-7c3e-9d3f-5b1e6c0a9d42";

/// An op of the examples.
pub fn example_op() -> String {
    format!("{NODE}.7")
}

fn parameter(place: &str, name: &str, description: &str, schema: Value) -> Value {
    json!({ "in": place, "name": name, "description": description, "required": place == "path", "schema": schema })
}

fn in_query(name: &str, description: &str, schema: Value) -> Value {
    parameter("query", name, description, schema)
}

fn header(name: &str, description: &str, schema: Value) -> Value {
    parameter("header", name, description, schema)
}

/// A number of seconds or milliseconds, up to so many seconds.
fn duration(most: u64) -> Value {
    // The numbers are compared by the node; here are only those that have no more digits than the largest.
    let digits = |number: u64| number.to_string().len();
    let pattern = format!("^([0-9]{{1,{}}}ms|[0-9]{{1,{}}}s)$", digits(most * 1000), digits(most));
    json!({ "type": "string", "format": "lamplight-duration", "pattern": pattern })
}

/// The parameters, by the names that operations know them by.
pub fn parameters() -> Value {
    let mut all = json!({
        "collection": collection(),
        "document": document(),
        "op": parameter("path", "op", "The op, as a receipt names it.", schema("OpId")),
        "member": parameter("path", "id", "The member's node id.", schema("NodeId")),
        "file": parameter("path", "file", "The name of the file.", json!({ "enum": page::names() })),
        "filter": filter(),
        "sort": in_query("sort", "Fields to sort by, up to eight with commas between, dots going into objects and arrays; with `-` \
            before one, from the greatest. Without it: by id.",
            json!({ "type": "string", "examples": ["-at", "done,-at"], "format": "lamplight-sort" })),
        "id-in-query": in_query("id", "The document's id, in the place of the one in the path, which is then `_`: proxies \
            leave it alone.", json!({ "type": "string", "format": "lamplight-query-id" })),
        "after": in_query("after", "The `next` of a page of the same listing: goes on behind it.",
            json!({ "type": "string", "format": "lamplight-page" })),
        "order": in_query("order", "`desc`: newest first.", json!({ "enum": ["asc", "desc"], "default": "asc" })),
        "limit": in_query("limit", "How many at the most.", limit()),
        "values": in_query("values", "Whether each op comes with the document as it was after it.", flag()),
        "force": in_query("force", "Evicts a member that seems alive, or without a majority.", flag()),
        "origin": in_query("origin", "Only ops of this node.", schema("NodeId")),
        "if-match": header("If-Match", "Versions in quotes, or `*`: 412 if the document is there in none of them.",
            json!({ "type": "string", "format": "lamplight-condition",
                "pattern": r#"^(\*|(W/)?"[0-9a-f]{32}"(, ?(W/)?"[0-9a-f]{32}"){0,15})$"# })),
        "if-none-match": header("If-None-Match", "`*`: creates, and never replaces. Versions in quotes (not beside an \
            `Idempotency-Key`): 412 if the document is in one of them.", json!({ "const": "*" })),
        "held": header("If-None-Match", "Versions that the client holds: 304 if what there is, is one of them.",
            json!({ "type": "string" })),
        "idempotency-key": header("Idempotency-Key", "Names the request, so that it may be sent again: the same key \
            gives the first receipt, on any node. Each token's bearer has keys of its own.", key()),
        "session": header("Lamplight-Session", "The last one that a node gave: the node answers once it holds what \
            the client has seen.", json!({ "type": "string", "format": "lamplight-session" })),
        "last-event-id": header("Last-Event-ID", "The id of the last event seen, of an event stream that is resumed.",
            json!({ "type": "string", "format": "lamplight-cursor" })),
        "traceparent": header("traceparent", "W3C Trace Context: goes into the log lines that the request leads to. \
            What is none is passed over.", json!({ "type": "string" })),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut all, times()) {
        all.extend(more);
    }
    all
}

/// Parameters that say until or since when.
fn times() -> Value {
    let waits = |what: &str, most: u64| in_query("timeout", what, duration(most));
    json!({
        "wait": in_query("wait", "`final`: answers once the verdict is final. A number: once so many members, the \
            node itself among them, hold the op.",
            json!({ "type": "string", "pattern": "^(final|[1-9][0-9]{0,3})$", "format": "lamplight-wait" })),
        "timeout": waits("How long to wait (5s if left out, at most 60s). Only together with `wait`.",
            wait::TIMEOUT.1.as_secs()),
        "poll-timeout": waits("How long a long poll waits (30s if left out, at most 120s). Only together with `feed`.",
            crate::api::changes::WAIT.1.as_secs()),
        "feed": in_query("feed", "`longpoll`: waits for a change.", json!({ "const": "longpoll" })),
        "view": in_query("view", "`final`: as the final ops alone make it. Not together with `at`.",
            json!({ "const": "final" })),
        "feed-view": in_query("view", "`final`: the final feed, with cursors of its own.", json!({ "const": "final" })),
        "at": in_query("at", "As it was at this Lamport time, at most that of the node's clock. Not together with \
            `view`.", schema("Time")),
        "from": json!({ "in": "query", "name": "from", "required": true, "schema": schema("Time"),
            "description": "The Lamport time of the one document, at most that of the node's clock." }),
        "to": in_query("to", "The Lamport time of the other; now, if left out.", schema("Time")),
        "since-stamp": in_query("since", "A stamp, or a `next`: goes on behind it.", schema("Stamp")),
        "since": in_query("since", "A `next`, or the cursor of an event: goes on behind it.",
            json!({ "type": "string", "format": "lamplight-cursor" })),
        "only": in_query("collection", "Only this collection.", name_of_collection()),
    })
}

fn limit() -> Value {
    let (usual, most) = query::LIMIT;
    json!({ "type": "integer", "minimum": 1, "maximum": most, "default": usual })
}

fn flag() -> Value {
    json!({ "enum": ["true", "false"], "default": "false" })
}

fn key() -> Value {
    json!({ "type": "string", "format": "lamplight-key", "pattern": "^[!-~]+$", "minLength": 1, "maxLength": KEY_BYTES_MAX })
}

/// The name of a collection.
pub fn name_of_collection() -> Value {
    let more = COLLECTION_BYTES_MAX - 1;
    json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{more}}}$"), "examples": [COLLECTION] })
}

/// A document's id. Its bound is in bytes, which no schema can say.
pub fn document_id() -> Value {
    json!({
        "type": "string",
        "description": format!("1 to {ID_BYTES_MAX} bytes of UTF-8 without control characters; not `.` or `..`."),
        "minLength": 1,
        "maxLength": ID_BYTES_MAX,
        "format": "lamplight-id",
        "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
        "not": { "enum": [".", ".."] },
    })
}

fn collection() -> Value {
    let mut collection = parameter("path", "collection", "The collection.", name_of_collection());
    collection["example"] = COLLECTION.into();
    collection
}

fn document() -> Value {
    let mut document = parameter("path", "id", "The document's id, percent-encoded (`/` as `%2F`).", document_id());
    document["example"] = ID.into();
    document
}

fn filter() -> Value {
    json!({
        "in": "query",
        "name": "filter",
        "description": "A JSON selector: only documents that it holds of.",
        "required": false,
        "content": { "application/json": { "schema": schema("Filter"), "example": { "done": false } } },
    })
}

/// The headers of answers.
pub fn headers() -> Value {
    let header = |description: &str, schema: Value| json!({ "description": description, "schema": schema });
    let sure =
        |description: &str, schema: Value| json!({ "description": description, "required": true, "schema": schema });
    let etag = json!({ "type": "string", "pattern": r#"^"[0-9a-f]{32}"$"#, "examples": [format!("\"{VERSION}\"")] });
    let op = example_op();
    debug_assert!(op.parse::<OpId>().is_ok());
    json!({
        "Lamplight-Node": sure("The node that answers.", schema("NodeId")),
        "Lamplight-Clock": sure("Its Lamport clock.", schema("Time")),
        "Lamplight-Session": sure("What the node holds; send it back, to any node, and that waits until it holds as \
            much.", json!({ "type": "string" })),
        "Lamplight-Stamp": header("The stamp of the last op that made the document so.", schema("Stamp")),
        "Lamplight-Status": sure("What is promised of the document.", json!({ "enum": ["tentative", "final"] })),
        "ETag": sure("The document's version, in quotes.", etag.clone()),
        "Version": header("The document's version, in quotes; none if it was deleted.", etag),
        "Location": sure("Where the document is, or the op whose verdict is awaited.",
            json!({ "type": "string", "format": "uri-reference", "examples": [format!("/v1/ops/{op}")] })),
        "Cache-Control": sure("Keep it, but ask each time.", json!({ "const": "no-cache" })),
        "Retry-After": header("Seconds; not there where trying again is of no use.", json!({ "const": "1" })),
        "WWW-Authenticate": sure("How to send a token.", json!({ "type": "string", "pattern": "^Bearer " })),
    })
}

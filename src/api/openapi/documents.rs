//! The description of documents: `docs`, `listing`, `history`, `past`, `tx`.

use serde_json::{Value, json};

use super::{
    operation::{DATA, JSON, JSON_BODY, Operation, WRITE, as_json, schema},
    parameters::{COLLECTION, ID, NODE, VERSION, example_op},
};

const DOC: &str = "/v1/docs/{collection}/{id}";
const DOCS: &str = "/v1/docs/{collection}";
const TAG: &str = "Documents";
/// What a write takes as query.
const WAITS: [&str; 2] = ["wait", "timeout"];

/// All of them.
pub fn operations() -> Vec<Operation> {
    vec![put(), get(), patch(), delete(), post(), list(), history(), diff(), collections(), transaction(), receipt()]
}

fn receipt_example() -> Value {
    json!({
        "op": example_op(), "stamp": format!("42@{NODE}"), "status": "final", "verdict": "applied",
        "collection": COLLECTION, "id": ID, "version": VERSION,
        "docs": [{ "collection": COLLECTION, "id": ID, "version": VERSION }],
    })
}

fn receipt_body() -> Value {
    as_json("Receipt", receipt_example())
}

/// 202, which every call gives that waits.
fn in_vain(operation: Operation) -> Operation {
    let told = "The wait ended before what was waited for had come: the write stands, and this is its receipt so far.";
    let location = ["Location", "Version"];
    operation.answers(202, told, &location, receipt_body()).leads(
        202,
        "op",
        "getOp",
        json!({ "op": "$response.body#/op" }),
    )
}

fn put() -> Operation {
    let told = "Any JSON value; as `text/plain` a text, which concurrent edits do not replace but join. A body without a type, or \
                with curl's default one, is read as JSON.";
    let body = json!({
        JSON: { "schema": schema("Value"), "example": { "buy": ["lamp oil", "wicks"], "done": false } },
        "text/plain": { "schema": { "type": "string" }, "example": "Buy lamp oil.\n" },
    });
    let links = json!({ "collection": "$request.path.collection", "id": "$request.path.id" });
    let answer = as_json("TextWritten", receipt_example());
    let operation = Operation::new("put", DOC, "putDocument", TAG, "Create or replace a document")
        .tells(told)
        .takes(&["collection", "document"])
        .takes(&WAITS)
        .takes(&["if-match", "if-none-match", "idempotency-key", "session"])
        .body(body)
        .answers(200, "It was replaced, or (a text) reads so already.", &["Version"], answer)
        .answers(201, "It was created.", &["Version"], receipt_body())
        .leads(201, "document", "getDocument", links.clone())
        .leads(201, "history", "getHistory", links)
        .refuses(&JSON_BODY)
        .refuses(&DATA)
        .refuses(&WRITE)
        .refuses(&["version-mismatch", "guard-failed", "unreadable-text", "bad-update", "not-found", "not-a-text"])
        .refuses(&["too-costly", "overloaded"]);
    in_vain(operation)
}

fn get() -> Operation {
    let told =
        "The plain document. Of a text `text/plain`, or its Quill delta where `Accept` names `application/json` first.";
    let body = json!({
        JSON: { "schema": schema("Stored"), "example": { "buy": ["lamp oil", "wicks"], "done": false } },
        "text/plain": { "schema": { "type": "string" } },
    });
    let described = ["ETag", "Lamplight-Stamp", "Lamplight-Status"];
    Operation::new("get", DOC, "getDocument", TAG, "Read a document")
        .tells(told)
        .takes(&["collection", "document", "view", "at", "if-match", "held", "session"])
        .answers(200, "The document.", &described, body)
        .answers(304, "The client holds it.", &described, json!({}))
        .refuses(&DATA)
        .refuses(&[
            "bad-name",
            "not-found",
            "past-forgotten",
            "too-large",
            "unreadable-text",
            "not-a-text",
            "version-mismatch",
        ])
}

fn patch() -> Operation {
    let told = "A merge patch (RFC 7396; also as `application/json`), which creates what is absent, or a JSON Patch (RFC 6902, and `increment`). Of a \
                text: as `application/json` a delta, a list of steps or `{\"ops\":[…]}`, of the version named by `If-Match`.";
    let merge = json!({ "schema": schema("Value"), "example": { "done": true } });
    let step = json!([{ "op": "add", "path": "/done", "value": true }]);
    let body = json!({
        JSON: { "schema": { "anyOf": [schema("Value"), schema("Delta")] }, "example": { "done": true } },
        "application/merge-patch+json": merge,
        "application/json-patch+json": { "schema": schema("Patch"), "example": step },
    });
    let operation = Operation::new("patch", DOC, "patchDocument", TAG, "Change a part of a document")
        .tells(told)
        .takes(&["collection", "document"])
        .takes(&WAITS)
        .takes(&["if-match", "idempotency-key", "session"])
        .body(body)
        .answers(200, "It was changed.", &["Version"], as_json("TextWritten", receipt_example()))
        .answers(201, "A merge patch has created it.", &["Version"], receipt_body())
        .refuses(&JSON_BODY)
        .refuses(&DATA)
        .refuses(&WRITE)
        .refuses(&["bad-patch", "bad-delta", "bad-update", "not-found", "patch-failed", "guard-failed"])
        .refuses(&["too-costly", "version-mismatch", "version-needed", "unreadable-text", "not-a-text", "overloaded"]);
    in_vain(operation)
}

fn delete() -> Operation {
    let target = json!({ "collection": COLLECTION, "id": ID, "deleted": true });
    let example = json!({
        "op": example_op(), "stamp": format!("42@{NODE}"), "status": "final", "verdict": "applied",
        "collection": COLLECTION, "id": ID, "deleted": true, "docs": [target],
    });
    let operation = Operation::new("delete", DOC, "deleteDocument", TAG, "Delete a document")
        .takes(&["collection", "document"])
        .takes(&WAITS)
        .takes(&["if-match", "idempotency-key", "session"])
        .answers(200, "It was deleted.", &[], as_json("Receipt", example))
        .refuses(&DATA)
        .refuses(&WRITE)
        .refuses(&["not-found", "version-mismatch", "guard-failed"]);
    in_vain(operation)
}

fn post() -> Operation {
    let told = "Under an id that the node makes. As `application/x-ndjson`: many, each line `{\"id\"?,\"value\"}` and an op of \
                its own, answered line by line while they are sent: `{\"line\",\"receipt\"}` or `{\"line\",\"problem\"}`. \
                Such a load takes no `Idempotency-Key` and no `wait`.";
    let lines = "{\"id\":\"a\",\"value\":1}\n{\"value\":{\"done\":false}}\n";
    let body = json!({
        JSON: { "schema": schema("Value"), "example": { "buy": ["chimneys"] } },
        "application/x-ndjson": { "schema": { "type": "string" }, "example": lines },
        "application/jsonl": { "schema": { "type": "string" }, "example": lines },
        "application/ndjson": { "schema": { "type": "string" }, "example": lines },
    });
    let loaded = json!({ "application/x-ndjson": { "schema": { "type": "string" } } });
    let links = json!({ "collection": "$request.path.collection", "id": "$response.body#/id" });
    let operation = Operation::new("post", DOCS, "addDocument", TAG, "Create a document, or many")
        .tells(told)
        .takes(&["collection"])
        .takes(&WAITS)
        .takes(&["idempotency-key", "session"])
        .body(body)
        .answers(200, "The answers of a load, a line each.", &[], loaded)
        .answers(201, "It was created.", &["Location", "Version"], receipt_body())
        .leads(201, "document", "getDocument", links.clone())
        .leads(201, "patch", "patchDocument", links.clone())
        .leads(201, "delete", "deleteDocument", links)
        .refuses(&JSON_BODY)
        .refuses(&DATA)
        .refuses(&WRITE)
        .refuses(&["guard-failed"]);
    in_vain(operation)
}

fn list() -> Operation {
    let document = json!({ "id": ID, "version": VERSION, "stamp": format!("42@{NODE}"), "status": "final",
        "value": { "done": false } });
    let told = "A page may be shorter than `limit` (it also ends after 8 MiB): only `\"next\":null` is the end.";
    Operation::new("get", DOCS, "listDocuments", TAG, "List and filter documents")
        .tells(told)
        .takes(&["collection", "filter", "sort", "limit", "after", "view", "at", "session"])
        .answers(200, "A page.", &[], as_json("Listing", json!({ "docs": [document], "next": null })))
        .refuses(&DATA)
        .refuses(&["bad-name", "bad-filter", "bad-cursor", "past-forgotten"])
}

fn history() -> Operation {
    Operation::new("get", "/v1/docs/{collection}/{id}/history", "getHistory", TAG, "The ops of a document")
        .tells("What each op made of it, which it was concurrent with, and what was lost to it.")
        .takes(&["collection", "document", "since-stamp", "limit", "order", "values", "session"])
        .answers(200, "Its ops, oldest first.", &[], json!({ JSON: { "schema": schema("History") } }))
        .refuses(&DATA)
        .refuses(&["bad-name", "bad-cursor", "not-found", "past-forgotten"])
}

fn diff() -> Operation {
    let side = |time: &str, version: &str| json!({ "time": time, "version": version, "status": "final" });
    let example = json!({
        "from": side("41", "0123456789abcdef0123456789abcdef"),
        "to": side("42", VERSION),
        "patch": [{ "op": "replace", "path": "/done", "value": true }],
    });
    Operation::new("get", "/v1/docs/{collection}/{id}/diff", "diffDocument", TAG, "What changed between two times")
        .tells("A JSON Patch that makes of the document at `from` that at `to`; `to` may be the earlier.")
        .takes(&["collection", "document", "from", "to", "session"])
        .answers(200, "The difference.", &[], as_json("Difference", example))
        .refuses(&DATA)
        .refuses(&["bad-name", "not-found", "past-forgotten"])
}

fn collections() -> Operation {
    let example = json!({ "collections": [{ "name": COLLECTION, "docs": 3 }], "next": null });
    Operation::new("get", "/v1/collections", "listCollections", TAG, "Names and counts of collections")
        .takes(&["limit", "after", "session"])
        .answers(200, "A page of those that have documents.", &[], as_json("Collections", example))
        .refuses(&DATA)
        .refuses(&["bad-cursor"])
}

fn transaction() -> Operation {
    let body = json!({
        "guards": [{ "absent": { "collection": COLLECTION, "id": "lamp" } }],
        "commands": [{ "put": { "collection": COLLECTION, "id": "lamp", "value": { "lit": true } } }],
    });
    let operation = Operation::new("post", "/v1/tx", "transact", TAG, "Write many documents, wholly or not at all")
        .tells("One op. A failed guard or patch is 409, and nothing is written.")
        .takes(&WAITS)
        .takes(&["idempotency-key", "session"])
        .body(as_json("Transaction", body))
        .answers(200, "It has effect, as things stand.", &[], receipt_body())
        .refuses(&JSON_BODY)
        .refuses(&DATA)
        .refuses(&WRITE)
        .refuses(&["unknown-field", "bad-patch", "guard-failed", "patch-failed", "too-costly", "not-found"]);
    in_vain(operation)
}

fn receipt() -> Operation {
    let operation = Operation::new("get", "/v1/ops/{op}", "getOp", TAG, "The receipt of an op as it stands")
        .tells("With `wait`, once it is final or held. It is shown whatever it says, also `rejected`.")
        .takes(&["op"])
        .takes(&WAITS)
        .takes(&["session"])
        .answers(200, "The receipt.", &[], receipt_body())
        .refuses(&DATA)
        .refuses(&["bad-name", "not-found", "past-forgotten", "key-reused"]);
    in_vain(operation)
}

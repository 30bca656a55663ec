//! The schemas of what goes in, and of the pieces that answers are made of. Those of whole answers are in `answers`.

use serde_json::{Map, Value, json};

use super::{
    operation::schema,
    parameters::{COLLECTION, ID, NODE, VERSION, document_id, name_of_collection},
};
use crate::{
    document::{KEY_BYTES_MAX, json::DEPTH_MAX, patch::STEPS_MAX, selector},
    op::OP_STEPS_MAX,
};

const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/// All of them, by name.
pub fn schemas() -> Map<String, Value> {
    let mut all = Map::new();
    for part in [names(), values(), patches(), filters(), steps(), problem()] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    all
}

/// An object of members that must be there and others that may be, and of no other.
pub fn object(required: Value, optional: Value) -> Value {
    let (Value::Object(mut members), Value::Object(optional)) = (required, optional) else { return Value::Bool(true) };
    let names: Vec<String> = members.keys().cloned().collect();
    members.extend(optional);
    json!({ "type": "object", "required": names, "properties": members, "additionalProperties": false })
}

/// A list of these.
pub fn list(of: &str) -> Value {
    json!({ "type": "array", "items": schema(of) })
}

fn pattern(pattern: &str, description: &str, example: &str) -> Value {
    json!({ "type": "string", "pattern": pattern, "description": description, "examples": [example] })
}

fn names() -> Value {
    let number = "^[0-9]{1,20}$";
    let mut time = pattern(number, "A Lamport time. A string, for it may pass 2^53.", "42");
    time["format"] = "lamplight-time".into();
    let mut stamp = pattern(
        &format!("^[0-9]{{1,16}}@{UUID}$"),
        "A place in the pool's total order: Lamport time, then node.",
        &format!("42@{NODE}"),
    );
    stamp["format"] = "lamplight-stamp".into();
    json!({
        "NodeId": { "type": "string", "format": "uuid", "pattern": format!("^{UUID}$"), "examples": [NODE] },
        "OpId": pattern(&format!("^{UUID}\\.[0-9]{{1,16}}$"), "Names one operation of the pool, for ever.",
            &format!("{NODE}.7")),
        "Stamp": stamp,
        "Time": time,
        "Count": pattern(number, "A number. A string, for it may pass 2^53.", "7"),
        "Version": pattern("^[0-9a-f]{32}$", "A hash of the content; the `ETag` is the version in quotes.", VERSION),
        "Collection": name_of_collection(),
        "DocumentId": document_id(),
        "Status": { "enum": ["tentative", "final", "rejected"], "description": "What is promised of an op: one not \
            heard of yet may still come before it (`tentative`), or nothing can, and it has effect (`final`) or none \
            (`rejected`). `final` and `rejected` never turn." },
        "DocumentStatus": { "enum": ["tentative", "final"] },
        "Verdict": { "enum": ["applied", "rejected"], "description": "Whether an op has effect as things stand." },
        "Cursor": { "type": "string", "minLength": 1, "description": "Where to go on; opaque." },
        "Next": { "anyOf": [schema("Cursor"), { "type": "null" }], "description": "`null` at the end." },
    })
}

fn values() -> Value {
    json!({
        "Value": {
            "description": format!("Any JSON value of at most {DEPTH_MAX} levels and 1 MiB of canonical text. Numbers \
                are 64-bit integers, or doubles that need no more than 17 digits."),
            "anyOf": [
                { "type": "null" },
                { "type": "boolean" },
                schema("Number"),
                { "type": "string" },
                { "type": "array", "items": schema("Value") },
                { "type": "object", "additionalProperties": schema("Value") },
            ],
        },
        "Number": {
            "description": "An integer of 64 bits, or a double that needs no more than 17 digits.",
            "anyOf": [
                { "type": "integer", "minimum": i64::MIN, "maximum": u64::MAX },
                { "type": "number", "minimum": f64::MIN, "maximum": f64::MAX },
            ],
        },
        "Stored": { "description": "A document: any JSON value." },
        "Delta": object(json!({ "ops": list("DeltaStep") }), json!({})),
        "DeltaStep": { "oneOf": [
            object(json!({ "retain": { "type": "integer", "minimum": 1 } }), marks()),
            object(json!({ "insert": { "type": "string" } }), marks()),
            object(json!({ "delete": { "type": "integer", "minimum": 1 } }), json!({})),
        ] },
    })
}

/// What goes with a piece of a text.
fn marks() -> Value {
    json!({ "attributes": { "type": "object", "additionalProperties": schema("Value") } })
}

fn patches() -> Value {
    let pointer = json!({ "type": "string", "pattern": "^(/([^~/]|~[01])*)*$", "description": "A JSON Pointer \
        (RFC 6901)." });
    let step = |op: &str, more: Value| {
        let mut members = json!({ "op": { "const": op }, "path": schema("Pointer") });
        if let (Value::Object(members), Value::Object(more)) = (&mut members, more) {
            members.extend(more);
        }
        let names: Vec<String> =
            members.as_object().map(|members| members.keys().cloned().collect()).unwrap_or_default();
        json!({ "type": "object", "required": names, "properties": members,
            "additionalProperties": schema("Value") })
    };
    json!({
        "Pointer": pointer,
        "Patch": { "type": "array", "items": schema("PatchStep"), "maxItems": STEPS_MAX,
            "description": "A JSON Patch (RFC 6902), and `increment`." },
        "PatchStep": { "oneOf": [
            step("add", json!({ "value": schema("Value") })),
            step("remove", json!({})),
            step("replace", json!({ "value": schema("Value") })),
            step("test", json!({ "value": schema("Value") })),
            step("move", json!({ "from": schema("Pointer") })),
            step("copy", json!({ "from": schema("Pointer") })),
            step("increment", json!({ "by": schema("Number") })),
        ] },
    })
}

fn filters() -> Value {
    let ordered = json!({ "anyOf": [schema("Number"), { "type": "string" }] });
    json!({
        "Filter": {
            "description": format!("A selector: `{{\"field\":value}}` is equality, dots go into objects and \
                arrays; `{{\"field\":{{\"$gt\":1}}}}`; `$and`, `$or`, `$not` over selectors. At most {} levels and {} \
                conditions.", selector::SELECTOR_DEPTH_MAX, selector::SELECTOR_NODES_MAX),
            "type": "object",
            "properties": {
                "$and": { "type": "array", "items": schema("Filter"), "minItems": 1 },
                "$or": { "type": "array", "items": schema("Filter"), "minItems": 1 },
                "$not": schema("Filter"),
            },
            "patternProperties": { "^([^$.]|$)[^$]*$": schema("Condition") },
            "additionalProperties": false,
        },
        "Condition": { "anyOf": [
            schema("Operators"),
            { "type": ["null", "boolean", "string"] },
            schema("Number"),
            { "type": "array", "items": schema("Plain") },
            schema("PlainObject"),
        ] },
        "Plain": { "anyOf": [
            { "type": ["null", "boolean", "string"] },
            schema("Number"),
            { "type": "array", "items": schema("Plain") },
            schema("PlainObject"),
        ] },
        "PlainObject": {
            "description": "An object that a field is compared with: no key in it is an operator.",
            "type": "object", "propertyNames": { "pattern": "^([^$]|$)" }, "additionalProperties": schema("Plain"),
        },
        "Operators": {
            "type": "object",
            "properties": {
                "$gt": ordered, "$gte": ordered, "$lt": ordered, "$lte": ordered, "$ne": schema("Plain"),
                "$contains": schema("Condition"),
                "$in": { "type": "array", "items": schema("Value") }, "$exists": { "type": "boolean" }, "$not": schema("Condition"),
            },
            "minProperties": 1,
            "additionalProperties": false,
        },
    })
}

fn steps() -> Value {
    let target = || json!({ "collection": schema("Collection"), "id": schema("DocumentId") });
    let with = |name: &str, of: &str| {
        let mut members = target();
        members[name] = schema(of);
        object(members, json!({}))
    };
    let only = |name: &str, of: Value| object(json!({ name: of }), json!({}));
    json!({
        "Target": object(target(), json!({})),
        "Guard": { "oneOf": [
            only("exists", schema("Target")),
            only("absent", schema("Target")),
            only("version", with("version", "Version")),
        ] },
        "Command": { "oneOf": [
            only("put", with("value", "Value")),
            only("merge", with("value", "Value")),
            only("patch", with("patch", "Patch")),
            only("delete", schema("Target")),
        ] },
        "Transaction": object(
            json!({ "commands": { "type": "array", "items": schema("Command"), "minItems": 1, "maxItems": OP_STEPS_MAX } }),
            json!({
                "guards": { "type": "array", "items": schema("Guard"), "maxItems": OP_STEPS_MAX - 1,
                    "description": format!("Guards and commands together are at most {OP_STEPS_MAX}.") },
                "key": { "type": "string", "format": "lamplight-key", "pattern": "^[!-~]+$", "minLength": 1, "maxLength": KEY_BYTES_MAX,
                    "description": "As the header Idempotency-Key." },
            }),
        ),
        "Join": object(json!({ "url": { "type": "string", "format": "lamplight-node-url",
            "pattern": "^https?://[^/?#@ :]+:([0-9]{1,4}|[1-5][0-9]{4})/?$", "examples": ["http://10.0.0.2:7171"] } }), json!({})),
        "Cut": object(json!({ "cut": { "type": "boolean" } }), json!({})),
        "Health": object(json!({ "status": { "const": "ok" } }), json!({})),
    })
}

fn problem() -> Value {
    json!({ "Problem": {
        "description": "What went wrong (RFC 9457); `detail` says what to do next.",
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "pattern": "^urn:lamplight:problem:[a-z-]+$" },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string", "minLength": 1 },
            "op": { "anyOf": [schema("OpId")], "description": "The op that it is about." },
            "current": { "anyOf": [schema("Version"), { "type": "null" }], "description": "The version that the \
                document has now; null if it is absent." },
            "text": { "type": "string", "description": "A text as it is now." },
            "guard": { "type": "integer", "minimum": 0, "description": "Which guard, from 0." },
            "command": { "type": "integer", "minimum": 0, "description": "Which command, from 0." },
            "field": { "type": "string", "description": "The field that nothing knows." },
            "horizon": { "anyOf": [schema("Time")], "description": "The time from which on the past is known." },
            "needs": { "enum": ["read", "write", "admin"], "description": "The role that is needed." },
            "error": { "const": "invalid_token" },
        },
        "additionalProperties": false,
        "examples": [{
            "type": "urn:lamplight:problem:not-found",
            "title": "not found",
            "status": 404,
            "detail": format!("there is no document {ID:?} in {COLLECTION:?}: PUT creates it"),
        }],
    } })
}

//! The schemas of answers.

use serde_json::{Map, Value, json};

use super::{
    operation::schema,
    schemas::{list, object},
};

/// All of them, by name.
pub fn schemas() -> Map<String, Value> {
    let mut all = Map::new();
    for part in [receipts(), documents(), changes(), pasts(), ops(), pool()] {
        if let Value::Object(part) = part {
            all.extend(part);
        }
    }
    all
}

fn one_of(options: Vec<Value>) -> Value {
    json!({ "oneOf": options })
}

fn yes() -> Value {
    json!({ "const": true })
}

fn receipts() -> Value {
    let target = || json!({ "collection": schema("Collection"), "id": schema("DocumentId") });
    let written = |name: &str, of: Value| {
        let mut members = target();
        members[name] = of;
        object(members, json!({}))
    };
    json!({
        "Written": one_of(vec![written("version", schema("Version")), written("deleted", yes())]),
        "Receipt": object(
            json!({
                "op": schema("OpId"),
                "stamp": schema("Stamp"),
                "status": schema("Status"),
                "verdict": schema("Verdict"),
                "docs": list("Written"),
            }),
            json!({
                "collection": { "anyOf": [schema("Collection")], "description": "Of the only document of the op." },
                "id": schema("DocumentId"),
                "version": schema("Version"),
                "deleted": yes(),
                "reason": { "type": "string", "description": "Why it has no effect." },
                "held_by": { "type": "integer", "minimum": 0, "description": "How many members are known to hold it." },
            }),
        ),
        "Unchanged": object(json!({ "unchanged": yes() }), json!({})),
        "TextWritten": { "anyOf": [schema("Receipt"), schema("Unchanged")] },
    })
}

fn documents() -> Value {
    let document = json!({
        "id": schema("DocumentId"),
        "version": schema("Version"),
        "stamp": { "anyOf": [schema("Stamp"), { "type": "null" }], "description": "Null where it is forgotten." },
        "status": schema("DocumentStatus"),
        "value": schema("Stored"),
    });
    let text =
        json!({ "text": { "const": true, "description": "It is a text: its value is null; read it with GET." } });
    json!({
        "Document": object(document, text),
        "Listing": object(json!({ "docs": list("Document"), "next": schema("Next") }), json!({})),
        "Collections": object(
            json!({ "collections": { "type": "array", "items": object(
                json!({ "name": schema("Collection"), "docs": { "type": "integer", "minimum": 1 } }), json!({})) },
                "next": schema("Next") }),
            json!({}),
        ),
    })
}

fn changes() -> Value {
    let stamp = json!({ "anyOf": [schema("Stamp"), { "type": "null" }] });
    let named = |more: Value| {
        let mut members = json!({ "collection": schema("Collection"), "id": schema("DocumentId") });
        if let (Value::Object(members), Value::Object(more)) = (&mut members, more) {
            members.extend(more);
        }
        members
    };
    let valued = json!({ "stamp": stamp, "status": schema("DocumentStatus"), "version": schema("Version"),
        "value": schema("Stored") });
    let gone = json!({ "stamp": stamp, "status": schema("DocumentStatus"), "deleted": yes() });
    let version = json!({ "version": schema("Version"), "value": schema("Stored") });
    let op = json!({ "op": schema("OpId"), "stamp": schema("Stamp") });
    let joined = |left: &Value, right: Value| {
        let mut members = named(left.clone());
        if let (Value::Object(members), Value::Object(right)) = (&mut members, right) {
            members.extend(right);
        }
        members
    };
    let page = |of: &str| {
        object(json!({ "changes": list(of), "next": schema("Cursor"), "more": { "type": "boolean" } }), json!({}))
    };
    let text = || json!({ "text": yes() });
    let snapshot = json!({ "snapshot": yes(), "time": schema("Time") });
    let dated = json!({ "stamp": schema("Stamp"), "text": yes() });
    json!({
        "Change": one_of(vec![object(named(valued), text()), object(named(gone), json!({}))]),
        "Changes": page("Change"),
        "FinalChange": one_of(vec![
            object(joined(&op, version.clone()), text()),
            object(joined(&op, json!({ "deleted": yes() })), json!({})),
            object(joined(&snapshot, version), dated),
        ]),
        "FinalChanges": page("FinalChange"),
        "AnyChanges": { "anyOf": [schema("Changes"), schema("FinalChanges")] },
    })
}

fn pasts() -> Value {
    let side = object(
        json!({
            "time": schema("Time"),
            "version": { "anyOf": [schema("Version"), { "type": "null" }] },
            "status": schema("DocumentStatus"),
        }),
        json!({}),
    );
    let ops = |what: &str| json!({ "type": ["array", "null"], "items": schema("OpId"), "description": what });
    json!({
        "Side": side,
        "Difference": object(
            json!({ "from": schema("Side"), "to": schema("Side"), "patch": schema("StoredPatch") }), json!({})),
        "StoredPatch": { "type": "array", "items": { "type": "object", "required": ["op", "path"] } },
        "HistoryOp": object(
            json!({
                "op": schema("OpId"), "stamp": schema("Stamp"), "origin": schema("NodeId"), "wall": schema("Wall"),
                "guards": list("HeldGuard"), "commands": list("HeldCommand"),
                "others": { "type": "integer", "minimum": 0, "description": "Guards and commands on other documents." },
                "verdict": schema("Verdict"), "status": schema("Status"),
                "concurrent": ops("Ops that it had not seen, and that had not seen it; null where that is not told."),
                "overwrote": ops("Those among them whose work was lost to it."),
            }),
            json!({
                "reason": { "type": "string" }, "concurrent_more": yes(), "overwrote_more": yes(),
                "version": schema("Version"), "deleted": yes(), "value": schema("Stored"),
            }),
        ),
        "History": object(
            json!({
                "ops": list("HistoryOp"),
                "next": schema("Next"),
                "since": object(json!({ "time": schema("Time") }), json!({})),
            }),
            json!({}),
        ),
    })
}

fn ops() -> Value {
    let target = || json!({ "collection": schema("Collection"), "id": schema("DocumentId") });
    let with = |name: &str, of: Value| {
        let mut members = target();
        members[name] = of;
        object(members, json!({}))
    };
    let only = |name: &str, of: Value| object(json!({ name: of }), json!({}));
    let urls = json!({ "type": "array", "items": { "type": "string" } });
    let newcomer = json!({ "node": schema("NodeId"), "name": { "type": "string" }, "urls": urls });
    json!({
        "Wall": { "type": "string", "format": "date-time", "description": "The origin's own clock: no order rests on it." },
        "HeldGuard": one_of(vec![
            only("exists", schema("Target")), only("absent", schema("Target")),
            only("version", with("version", schema("Version"))),
        ]),
        "HeldCommand": one_of(vec![
            only("put", with("value", schema("Stored"))),
            only("merge", with("value", schema("Stored"))),
            only("patch", with("patch", schema("StoredPatch"))),
            only("delete", schema("Target")),
            only("text", with("update", json!({ "type": "string", "contentEncoding": "base64" }))),
            only("add", object(newcomer, json!({}))),
            only("retire", object(json!({}), json!({}))),
            only("evict", object(json!({ "node": schema("NodeId"), "force": { "type": "boolean" } }), json!({}))),
            only("fence", object(json!({ "node": schema("NodeId"), "held": schema("Count") }), json!({}))),
            only("removed", object(json!({ "node": schema("NodeId") }), json!({}))),
            only("key", object(json!({ "node": schema("NodeId"), "key": { "type": "string" } }), json!({}))),
        ]),
        "Op": object(
            json!({
                "op": schema("OpId"), "stamp": schema("Stamp"), "origin": schema("NodeId"), "seq": schema("Count"),
                "time": schema("Time"), "wall": schema("Wall"),
                "seen": { "type": "object", "additionalProperties": schema("Count") },
                "guards": list("HeldGuard"), "commands": list("HeldCommand"),
                "verdict": schema("Verdict"), "status": schema("Status"),
            }),
            json!({ "key": { "type": "string" }, "reason": { "type": "string" } }),
        ),
        "Log": object(json!({ "ops": list("Op"), "next": schema("Next") }), json!({})),
    })
}

fn pool() -> Value {
    let text = || json!({ "type": "string" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let ago = || json!({ "type": ["integer", "null"], "minimum": 0 });
    let strings = |names: &[&str]| {
        let members: Map<String, Value> = names.iter().map(|name| ((*name).to_string(), schema("Count"))).collect();
        object(members.into(), json!({}))
    };
    let progress = json!({ "type": "object", "properties": { "held": schema("Count"), "of": schema("Count"),
        "docs": object(json!({ "held": count(), "of": count() }), json!({})) }, "additionalProperties": false });
    let pool = object(json!({ "id": schema("NodeId"), "name": text() }), json!({}));
    json!({
        "Member": object(
            json!({
                "id": schema("NodeId"), "name": text(), "urls": { "type": "array", "items": text() },
                "self": { "type": "boolean" }, "link": { "enum": ["self", "linked", "dialling", "none"] },
                "alive": { "type": "boolean" }, "clock": schema("Time"),
                "head": object(json!({ "seq": schema("Count"), "hash": text() }), json!({})), "heard_ms_ago": ago(),
            }),
            json!({ "evicted": yes() }),
        ),
        "Holder": object(
            json!({ "member": schema("NodeId"), "name": text(), "why": { "enum": ["silent", "eviction"] },
                "since_ms": ago() }),
            json!({}),
        ),
        "Pool": object(
            json!({
                "pool": { "anyOf": [pool, { "type": "null" }] }, "node": schema("NodeId"),
                "state": { "enum": ["joining", "catching-up", "member", "retired"] }, "clock": schema("Time"),
                "frontier": schema("Time"), "final_lag": schema("Count"), "held_back_by": list("Holder"),
                "cut": { "type": "boolean" }, "ops": schema("Count"), "docs": count(), "horizon": schema("Time"),
                "kept": strings(&["ops", "bytes"]), "members": list("Member"),
                "problems": { "type": "array", "items": object(json!({ "url": text(), "detail": text() }), json!({})) },
            }),
            json!({ "progress": progress, "discrepancies": object(json!({ "seen": count(), "mended": count() }), json!({})) }),
        ),
    })
}

//! The description of what goes on and on: `changes`, `log`, `backup`, `ws`, `yjs`, `gossip`.

use serde_json::{Value, json};

use super::operation::{DATA, JSON, Operation, schema};

const TAG: &str = "Feeds";

/// All of them.
pub fn operations() -> Vec<Operation> {
    vec![changes(), log(), backup(), websocket(), yjs(), gossip()]
}

fn changes() -> Operation {
    let told = "The latest state of each document that changed; without `since`, every document first. With `view=final`: \
                final ops only, one after the other, the same on every node, with cursors that are good on every node. With \
                `Accept: text/event-stream` server-sent events `change` and `resync`, resumed by `Last-Event-ID`, which \
                take no `limit`, `feed` or `timeout`.";
    let body = json!({
        JSON: { "schema": schema("AnyChanges") },
        "text/event-stream": { "schema": { "type": "string" } },
    });
    Operation::new("get", "/v1/changes", "getChanges", TAG, "What changed since a cursor")
        .tells(told)
        .takes(&["since", "only", "limit", "feed", "poll-timeout", "feed-view", "last-event-id", "session"])
        .answers(200, "The changes, and where to go on.", &[], body)
        .leads(200, "next", "getChanges", json!({ "since": "$response.body#/next" }))
        .refuses(&DATA)
        .refuses(&["bad-name", "bad-cursor", "other-pool", "cursor-gone"])
}

fn log() -> Operation {
    Operation::new("get", "/v1/log", "getLog", TAG, "The ops that this node holds, in the pool's order")
        .tells("Needs a token for all collections. It answers in every state of the node.")
        .takes(&["origin", "since-stamp", "limit", "order", "session"])
        .answers(200, "Ops, and where to go on.", &[], json!({ JSON: { "schema": schema("Log") } }))
        .refuses(&["bad-cursor", "not-ready", "session-not-here"])
}

fn backup() -> Operation {
    let told = "Records, each as its length (four bytes, little-endian) and its bytes, as in the journal; a length of 0 ends \
                it. Needs the role `admin`.";
    Operation::new("get", "/v1/backup", "getBackup", TAG, "All that the node holds at this moment")
        .tells(told)
        .takes(&["session"])
        .answers(200, "The records.", &[], json!({ "application/octet-stream": {} }))
        .refuses(&DATA)
}

/// What all calls have in common that become a `WebSocket`.
fn upgrades(operation: Operation) -> Operation {
    operation
        .answers(101, "The connection is a WebSocket from here on.", &[], Value::Null)
        .refuses(&["bad-request", "other-origin"])
}

fn websocket() -> Operation {
    let told = "Subscriptions, writes and presence, one JSON object a text frame, subprotocol `lamplight.v1`. Its messages are \
                described in docs/API.md. Where tokens are asked for, one comes as `Authorization`, as the subprotocol \
                `bearer.<base64url of the token>`, or in the first message.";
    let operation = Operation::new("get", "/v1/ws", "openWebSocket", TAG, "The clients' WebSocket").tells(told);
    upgrades(operation.takes(&["session"])).refuses(&["not-ready", "session-not-here"]).greeted()
}

fn yjs() -> Operation {
    let told = "The protocol of y-websocket, for any Yjs editor: give it the address `ws://…/v1/yjs` and the room \
                `collection/id`.";
    let path = "/v1/yjs/{collection}/{id}";
    let operation = Operation::new("get", path, "openText", TAG, "A text, for Yjs editors").tells(told);
    upgrades(operation.takes(&["collection", "document", "session"])).refuses(&DATA).refuses(&["bad-name"])
}

fn gossip() -> Operation {
    let told = "For the nodes of the pool only: they prove to each other that they know the pool's secret.";
    let operation = Operation::new("get", "/v1/gossip", "openLink", TAG, "The nodes' WebSocket").tells(told);
    upgrades(operation.open()).refuses(&["pool-secret"])
}

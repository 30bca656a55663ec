//! The description of the pool, of health, and of what browsers are given.

use serde_json::json;

use super::operation::{JSON, JSON_BODY, Operation, as_json, schema};

const POOL: &str = "Pool";
const PAGE: &str = "Page";

/// All of them.
pub fn operations() -> Vec<Operation> {
    vec![show(), join(), links(), remove(), live(), ready(), metrics(), description(), reference(), page(), file()]
}

fn show() -> Operation {
    Operation::new("get", "/v1/pool", "getPool", POOL, "The member list, and who holds finality back")
        .tells("It answers in every state of the node.")
        .answers(200, "The pool as this node sees it.", &[], json!({ JSON: { "schema": schema("Pool") } }))
        .refuses(&["not-ready"])
}

fn join() -> Operation {
    let told = "Dials that node, at once and then for as long as there is no link. What comes of it shows in `GET /v1/pool`. \
                Needs the role `admin`.";
    let body = json!({ "url": "http://127.0.0.1:9" });
    Operation::new("post", "/v1/pool/join", "joinPool", POOL, "Join a pool through one of its nodes")
        .tells(told)
        .body(as_json("Join", body.clone()))
        .answers(202, "It is dialled.", &[], as_json("Join", body))
        .refuses(&JSON_BODY)
        .refuses(&["unknown-field", "other-origin", "not-ready"])
}

fn links() -> Operation {
    let body = json!({ "cut": false });
    Operation::new("post", "/v1/pool/links", "cutLinks", POOL, "Cut this node's links, or join them again")
        .tells("To show and to test a partition. Needs the role `admin`.")
        .body(as_json("Cut", body.clone()))
        .answers(200, "It is so now.", &[], as_json("Cut", body))
        .refuses(&JSON_BODY)
        .refuses(&["unknown-field", "other-origin", "not-ready"])
}

fn remove() -> Operation {
    let told = "Evicts a member that is gone for good, so that finality goes on without it; the node's own id makes it \
                retire. Needs the role `admin`.";
    let receipt = || json!({ JSON: { "schema": schema("Receipt") } });
    Operation::new("delete", "/v1/pool/members/{id}", "removeMember", POOL, "Evict a member, or retire")
        .tells(told)
        .takes(&["member", "force", "wait", "timeout"])
        .answers(200, "It is final, or held as was asked.", &[], receipt())
        .answers(202, "It was issued.", &["Location"], receipt())
        .refuses(&[
            "bad-name",
            "bad-request",
            "not-found",
            "member-alive",
            "no-majority",
            "last-member",
            "not-shared",
            "other-origin",
        ])
        .refuses(&["not-ready", "retired", "disk-full"])
}

fn live() -> Operation {
    Operation::new("get", "/livez", "isLive", POOL, "Whether the node's task takes turns")
        .open()
        .answers(200, "It does.", &[], as_json("Health", json!({ "status": "ok" })))
        .refuses(&["not-ready"])
}

fn ready() -> Operation {
    Operation::new("get", "/readyz", "isReady", POOL, "Whether the node takes reads and writes")
        .answers(200, "It does.", &[], as_json("Health", json!({ "status": "ok" })))
        .refuses(&["not-ready", "retired"])
}

fn metrics() -> Operation {
    let told = "The text format 0.0.4, or OpenMetrics 1.0 where `Accept` asks for it.";
    let text = json!({ "schema": { "type": "string" } });
    let body = json!({ "text/plain": text, "application/openmetrics-text": text });
    Operation::new("get", "/metrics", "getMetrics", POOL, "Figures for Prometheus")
        .tells(told)
        .answers(200, "The figures.", &[], body)
        .refuses(&["not-ready"])
}

/// A file that is a part of the program.
fn built_in(path: &'static str, id: &str, summary: &str, media: &[&str]) -> Operation {
    let content: serde_json::Map<_, _> = media.iter().map(|media| ((*media).to_string(), json!({}))).collect();
    let headers = ["ETag", "Cache-Control"];
    Operation::new("get", path, id, PAGE, summary)
        .open()
        .takes(&["held"])
        .answers(200, "The file.", &headers, content.into())
        .answers(304, "The client holds it.", &headers, json!({}))
}

fn description() -> Operation {
    built_in("/openapi.json", "getDescription", "This description", &[JSON])
}

fn reference() -> Operation {
    built_in("/docs", "openReference", "This description, for people", &["text/html"])
}

fn page() -> Operation {
    built_in("/", "openPage", "The page", &["text/html"]).tells("What is in its query, the page alone reads.")
}

fn file() -> Operation {
    let media = ["text/html", "text/javascript", "text/css", JSON, "text/plain"];
    built_in("/static/{file}", "getFile", "A file of the pages, and the browser client", &media)
        .takes(&["file"])
        .refuses(&["not-found"])
}

//! One operation of the description, and what all of them have in common.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::api::kinds;

/// A media type that is JSON.
pub const JSON: &str = "application/json";
/// What every request may be refused with, whatever it is about.
const DOOR: [&str; 8] = [
    "bad-header",
    "bad-query",
    "token-in-url",
    "unknown-host",
    "headers-too-large",
    "too-many-requests",
    "too-many-connections",
    "overloaded",
];
/// What a body of JSON may be refused with.
pub const JSON_BODY: [&str; 8] = [
    "too-slow",
    "malformed-json",
    "duplicate-key",
    "inexact-number",
    "too-deep",
    "too-large",
    "unsupported-type",
    "bad-request",
];
/// What a call may be refused with that reads data.
pub const DATA: [&str; 3] = ["not-ready", "retired", "session-not-here"];
/// What a call may be refused with that writes documents.
pub const WRITE: [&str; 6] = ["memory-full", "bad-name", "key-reused", "disk-full", "other-origin", "too-large"];

/// A method of a path.
pub struct Operation {
    method: &'static str,
    path: &'static str,
    says: Map<String, Value>,
    parameters: Vec<&'static str>,
    answers: Map<String, Value>,
    problems: BTreeSet<&'static str>,
    signed: bool,
}

impl Operation {
    /// An operation for who has a token that goes so far.
    pub fn new(method: &'static str, path: &'static str, id: &str, tag: &str, summary: &str) -> Operation {
        let mut says = Map::new();
        says.insert("operationId".into(), id.into());
        says.insert("tags".into(), json!([tag]));
        says.insert("summary".into(), summary.into());
        let operation = Operation {
            method,
            path,
            says,
            parameters: Vec::new(),
            answers: Map::new(),
            problems: BTreeSet::new(),
            signed: true,
        };
        operation.refuses(&DOOR).refuses(&["unauthorized", "forbidden"])
    }

    /// Nobody is asked for a token, and answers are not signed to who has none.
    pub fn open(mut self) -> Operation {
        self.says.insert("security".into(), json!([]));
        self.problems.retain(|slug| !matches!(*slug, "unauthorized" | "forbidden"));
        self.signed = false;
        self
    }

    /// A token may come later, in the first message.
    pub fn greeted(mut self) -> Operation {
        self.says.insert("security".into(), json!([{ "bearer": [] }, {}]));
        self
    }

    /// What there is to know beyond the summary.
    pub fn tells(mut self, text: &str) -> Operation {
        self.says.insert("description".into(), text.into());
        self
    }

    /// Which of the common parameters it takes.
    pub fn takes(mut self, parameters: &[&'static str]) -> Operation {
        self.parameters.extend(parameters);
        self
    }

    /// The body, by media type.
    pub fn body(mut self, content: Value) -> Operation {
        self.says.insert("requestBody".into(), json!({ "required": true, "content": content }));
        self
    }

    /// An answer that is no problem.
    pub fn answers(mut self, status: u16, description: &str, headers: &[&str], content: Value) -> Operation {
        let mut answer = json!({ "description": description });
        if content.as_object().is_some_and(|content| !content.is_empty()) {
            answer["content"] = content;
        }
        let mut named = Map::new();
        for name in headers {
            let header = if *name == "Version" { "ETag" } else { name };
            named.insert(header.into(), reference("headers", name));
        }
        if self.signed {
            for name in ["Lamplight-Node", "Lamplight-Clock", "Lamplight-Session"] {
                named.insert(name.into(), reference("headers", name));
            }
        }
        if !named.is_empty() {
            answer["headers"] = named.into();
        }
        self.answers.insert(status.to_string(), answer);
        self
    }

    /// Where to go on from an answer: an operation, and where in the answer its parameters are.
    pub fn leads(mut self, status: u16, name: &str, operation: &str, parameters: Value) -> Operation {
        let link = json!({ "operationId": operation, "parameters": parameters });
        self.answers[&status.to_string()]["links"][name] = link;
        self
    }

    /// The kinds of problems that it may be refused with.
    pub fn refuses(mut self, slugs: &[&'static str]) -> Operation {
        self.problems.extend(slugs);
        self
    }

    /// Its path, its method in small letters, and its description.
    pub fn describe(mut self) -> (&'static str, &'static str, Value) {
        let mut by_status: BTreeMap<u16, Vec<&kinds::Kind>> = BTreeMap::new();
        for kind in self.problems.iter().filter_map(|slug| kinds::find(slug)) {
            kind.statuses.iter().for_each(|status| by_status.entry(*status).or_default().push(kind));
        }
        for (status, kinds) in by_status {
            self.answers.insert(status.to_string(), problem(status, &kinds));
        }
        if self.parameters.contains(&"document") {
            self.parameters.push("id-in-query");
        }
        self.parameters.push("traceparent");
        let parameters: Vec<Value> = self.parameters.iter().map(|name| reference("parameters", name)).collect();
        self.says.insert("parameters".into(), parameters.into());
        self.says.insert("responses".into(), self.answers.into());
        (self.path, self.method, self.says.into())
    }
}

/// An answer that is a problem of one of these kinds.
fn problem(status: u16, kinds: &[&kinds::Kind]) -> Value {
    let types: Vec<String> = kinds.iter().map(|kind| format!("urn:lamplight:problem:{}", kind.slug)).collect();
    let told: Vec<String> = kinds.iter().map(|kind| format!("`{}`: {}", kind.slug, kind.when)).collect();
    let narrowed =
        json!({ "type": "object", "properties": { "type": { "enum": types }, "status": { "const": status } } });
    let schema = json!({ "allOf": [reference("schemas", "Problem"), narrowed] });
    let mut answer = json!({
        "description": told.join(".\n"),
        "content": { "application/problem+json": { "schema": schema } },
    });
    match status {
        401 => answer["headers"] = json!({ "WWW-Authenticate": reference("headers", "WWW-Authenticate") }),
        503 => answer["headers"] = json!({ "Retry-After": reference("headers", "Retry-After") }),
        _ => {}
    }
    answer
}

/// A reference to a component.
pub fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// A reference to a schema.
pub fn schema(name: &str) -> Value {
    reference("schemas", name)
}

/// A body or an answer of JSON.
pub fn as_json(schema_name: &str, example: Value) -> Value {
    json!({ JSON: { "schema": schema(schema_name), "example": example } })
}

//! `GET /openapi.json`: the description of the API (`OpenAPI` 3.1), made once and served as bytes.
//!
//! It is written beside the code, not derived from its types: most handlers work on JSON text, and what they take and give is
//! decided by status, header and media type. Bounds come from the code's own constants. So that it cannot drift, a test
//! compares its paths and methods with the router's, another its problems with those of the sources, and tests/openapi.py
//! asks a node for everything that is described, and holds every answer to it.

mod answers;
mod documents;
mod feeds;
mod operation;
mod parameters;
mod pool;
mod schemas;

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    http::{HeaderMap, Uri},
    response::Response,
};
use serde_json::{Map, Value, json};

use super::{
    Problem,
    page::{self, File},
    query::Query,
};

/// The text of it, and what goes with it.
static DESCRIPTION: LazyLock<File> = LazyLock::new(|| {
    let text = description().to_string();
    File::new("openapi.json", Bytes::from(text))
});

/// `GET /openapi.json`.
pub async fn show(uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    Ok(page::serve(&DESCRIPTION, &headers))
}

/// The whole description.
pub fn description() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let operations = documents::operations().into_iter().chain(feeds::operations()).chain(pool::operations());
    for (path, method, says) in operations.map(operation::Operation::describe) {
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = says;
    }
    let mut schemas = schemas::schemas();
    schemas.extend(answers::schemas());
    json!({
        "openapi": "3.1.0",
        "info": info(),
        "servers": [{ "url": "/", "description": "The node that you ask." }],
        "tags": tags(),
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": parameters::parameters(),
            "headers": parameters::headers(),
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer", "description": "A token of the node's \
                file, or a JWT. A node without tokens asks nobody for one." } },
        },
    })
}

fn info() -> Value {
    let told = "A leaderless live database: write to any node, cut the network, converge. Every path that takes GET takes HEAD as \
                well. A method that a path does not take is answered with 405 and `Allow`, a path that is none with 404; \
                errors are problem documents (RFC 9457). A parameter or a field that a call does not know is refused. Times, \
                sequence numbers and counts that may pass 2^53 are strings.";
    json!({
        "title": "Lamplight",
        "version": env!("CARGO_PKG_VERSION"),
        "description": told,
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    })
}

fn tags() -> Value {
    json!([
        { "name": "Documents", "description": "JSON values and texts under collection and id, their receipts and their past." },
        { "name": "Feeds", "description": "What changes, as it changes: pages, long polls, server-sent events, WebSockets." },
        { "name": "Pool", "description": "The nodes, their links, and how they are." },
        { "name": "Page", "description": "What browsers are given." },
    ])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All that is referred to, anywhere within a value.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(target)) = members.get("$ref") {
                    found.insert(target.clone());
                }
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn what_is_referred_to_is_there_and_what_is_there_is_referred_to() {
        let description = description();
        let mut found = BTreeSet::new();
        references(&description, &mut found);
        let mut there = BTreeSet::new();
        for kind in ["schemas", "parameters", "headers"] {
            for name in description["components"][kind].as_object().unwrap().keys() {
                there.insert(format!("#/components/{kind}/{name}"));
            }
        }
        assert_eq!(found, there);
    }

    #[test]
    fn links_lead_to_operations_that_are_there() {
        let description = description();
        let operations: Vec<&Value> = description["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .collect();
        let ids: BTreeSet<&str> = operations.iter().map(|one| one["operationId"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), operations.len(), "an operationId is there twice");
        for operation in operations {
            for answer in operation["responses"].as_object().unwrap().values() {
                for link in answer.get("links").and_then(Value::as_object).into_iter().flat_map(Map::values) {
                    assert!(ids.contains(link["operationId"].as_str().unwrap()), "{link}");
                }
            }
        }
    }
}

//! The pages: the files of static/, built into the program, and how what is built in is served.

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::{
    Problem,
    conditions::{Conditions, Read},
    error::no_such_path,
    query::Query,
    shape,
};
use crate::version::Version;

/// Scripts come from this node only, and so do the answers they read. A page stays with its node even when that stops: the
/// other nodes take no WebSocket from a page of this one (`Site::check_origin`), so naming them here would be of no use.
/// Other nodes' pages are shown in frames, side by side, at addresses that are not known beforehand. `Site::guard` adds which
/// pages may show this one so.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; frame-src http: https:; base-uri 'none'; form-action 'none'";

/// A file that is a part of the program.
pub struct File {
    name: &'static str,
    content: Bytes,
    version: Version,
}

impl File {
    /// A file whose tag follows from its content.
    pub fn new(name: &'static str, content: Bytes) -> File {
        let version = version_of(blake3::hash(&content));
        File { name, content, version }
    }
}

fn version_of(hash: blake3::Hash) -> Version {
    hash.to_hex()[..32].parse().expect("hex digits")
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../static/", $name)).as_slice())),*]
    };
}

const FILES: &[(&str, &[u8])] = &files![
    "abandon.js",
    "address.js",
    "app.js",
    "bearer.js",
    "connection.js",
    "diagram-draw.js",
    "diagram-feed.js",
    "diagram-model.js",
    "diagram.js",
    "dial.js",
    "document-writer.js",
    "docs.html",
    "dom.js",
    "editor.js",
    "http.js",
    "index.html",
    "json.js",
    "lamplight.d.ts",
    "lamplight.js",
    "live-query.js",
    "overlay.js",
    "package.json",
    "past.js",
    "pool-picture.js",
    "problem.js",
    "queue.js",
    "reference-example.js",
    "reference.css",
    "reference.js",
    "room.js",
    "selector.js",
    "shared-text.js",
    "sightings.js",
    "storage.js",
    "store.js",
    "style.css",
    "tabs.js",
    "text-area.js",
    "text-bytes.js",
    "text-carets.js",
    "text-change.js",
    "text-item.js",
    "text-items.js",
    "text-places.js",
    "text-provider.js",
    "text-session.js",
    "text-undo.js",
    "text-update.js",
    "text-waiting.js",
    "text.js",
    "token.js",
    "user.js",
    "view-documents.js",
    "view-editor.js",
    "view-log.js",
    "view-op.js",
    "view-pool.js",
    "view-side.js",
    "words.js",
    "write.js",
    "y-protocol.js",
];

/// Documents that the pages lead to.
const DOCUMENTS: &[(&str, &[u8])] = &[("websocket.md", include_bytes!("../../docs/websocket.md"))];

/// What is served under /static/. They change together, with the program, so they have one tag.
static SERVED: LazyLock<Vec<File>> = LazyLock::new(|| {
    let mut hasher = blake3::Hasher::new();
    for (name, content) in FILES.iter().chain(DOCUMENTS) {
        hasher.update(name.as_bytes()).update(&content.len().to_le_bytes()).update(content);
    }
    let version = version_of(hasher.finalize());
    let file =
        |(name, content): &(&'static str, &'static [u8])| File { name, content: Bytes::from_static(content), version };
    FILES.iter().chain(DOCUMENTS).map(file).collect()
});

/// The names of what is served under /static/.
pub fn names() -> Vec<&'static str> {
    FILES.iter().chain(DOCUMENTS).map(|(name, _)| *name).collect()
}

fn named(name: &str) -> Option<&'static File> {
    SERVED.iter().find(|file| file.name == name)
}

/// `GET /`. Its query is the page's own.
pub async fn index(headers: HeaderMap) -> Response {
    serve(named("index.html").expect("it is in the table"), &headers)
}

/// `GET /docs`: the description of the API, for people.
pub async fn reference(uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    Ok(serve(named("docs.html").expect("it is in the table"), &headers))
}

/// `GET /static/{file}`.
pub async fn file(uri: Uri, Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    match named(&name) {
        Some(file) => Ok(serve(file, &headers)),
        None => Err(no_such_path(uri).await),
    }
}

/// Answers with a file, or that the client holds it.
pub fn serve(file: &File, headers: &HeaderMap) -> Response {
    let held = Conditions::judge_read(headers, || file.version) == Ok(Read::Held);
    let content_type = match file.name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        // Types of a script, and documents, for people and their tools.
        Some("ts" | "md") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    let described = [
        (header::ETAG, shape::etag(file.version)),
        // Kept, but asked for each time: another version of the program has another page at the same address.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    if held {
        return (StatusCode::NOT_MODIFIED, described).into_response();
    }
    (described, [(header::CONTENT_TYPE, content_type)], file.content.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_static_is_served_and_no_other() {
        let entries = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/static")).unwrap();
        let there: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let served: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_string()).collect();
        assert_eq!(there, served);
    }
}

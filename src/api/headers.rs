//! The request headers that this node reads, in one list.
//!
//! A browser asks which headers a page of another origin may send, and drops the request if one is missing in the answer
//! (the Fetch standard's preflight). So a header is read through a [`Field`] of this list, which says who sets it, and a
//! test refuses code that reads another one.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// A request header that this node reads.
pub struct Field {
    name: HeaderName,
    set_by: SetBy,
}

/// The party that sets a header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SetBy {
    /// A script may: it is among those that a page of an allowed origin may send.
    Script,
    /// The browser or the proxy, which no script may pass itself off as.
    Others,
}

impl Field {
    const fn of_script(name: HeaderName) -> Field {
        Field { name, set_by: SetBy::Script }
    }

    const fn of_others(name: HeaderName) -> Field {
        Field { name, set_by: SetBy::Others }
    }

    /// The name of the header.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// The first value in a request.
    pub fn first<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        headers.get(&self.name)
    }

    /// The first value in a request, if it is ASCII.
    pub fn text<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        self.first(headers).and_then(|value| value.to_str().ok())
    }

    /// All values in a request.
    pub fn all<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h HeaderValue> {
        headers.get_all(&self.name).into_iter()
    }

    /// All values in a request that are ASCII.
    pub fn texts<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h str> {
        self.all(headers).filter_map(|value| value.to_str().ok())
    }

    /// Returns true if a request has the header.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(&self.name)
    }
}

macro_rules! fields {
    ($($field:ident = $made:ident($name:expr), $about:literal;)*) => {
        $(#[doc = $about] pub static $field: Field = Field::$made($name);)*
        static FIELDS: &[&Field] = &[$(&$field),*];
    };
}

fields! {
    ACCEPT = of_script(header::ACCEPT), "The types that the client prefers.";
    AUTHORIZATION = of_script(header::AUTHORIZATION), "The token.";
    BAGGAGE = of_script(HeaderName::from_static("baggage")), "Passed over; libraries for tracing send it.";
    CONTENT_ENCODING = of_script(header::CONTENT_ENCODING), "The coding of the body, of which none is read.";
    CONTENT_RANGE = of_script(header::CONTENT_RANGE), "A part of a document, which no call takes.";
    CONTENT_TYPE = of_script(header::CONTENT_TYPE), "The type and the charset of the body.";
    IDEMPOTENCY_KEY = of_script(HeaderName::from_static("idempotency-key")), "The name of the request, so that it may be sent again.";
    IF_MATCH = of_script(header::IF_MATCH), "A condition of the request.";
    IF_NONE_MATCH = of_script(header::IF_NONE_MATCH), "A condition of the request.";
    LAMPLIGHT_SESSION = of_script(HeaderName::from_static("lamplight-session")), "The session to wait for.";
    LAST_EVENT_ID = of_script(HeaderName::from_static("last-event-id")), "The place where an event stream goes on.";
    TRACEPARENT = of_script(HeaderName::from_static("traceparent")), "The trace that the request is a part of.";
    TRACESTATE = of_script(HeaderName::from_static("tracestate")), "Passed over; it comes with `traceparent`.";

    ACCESS_CONTROL_REQUEST_METHOD = of_others(header::ACCESS_CONTROL_REQUEST_METHOD), "The mark of a preflight.";
    CONNECTION = of_others(header::CONNECTION), "The request for a WebSocket.";
    EXPECT = of_others(header::EXPECT), "The mark of a client that asks before it sends a body.";
    FORWARDED_SCHEME = of_others(HeaderName::from_static("x-forwarded-proto")), "The scheme by which a browser asked the proxy in front of this node.";
    HOST = of_others(header::HOST), "The name by which this node was asked.";
    ORIGIN = of_others(header::ORIGIN), "The origin of the page that sends the request.";
    SEC_WEBSOCKET_KEY = of_others(header::SEC_WEBSOCKET_KEY), "The key of a WebSocket.";
    SEC_WEBSOCKET_PROTOCOL = of_others(header::SEC_WEBSOCKET_PROTOCOL), "The subprotocols of a WebSocket, a token among them.";
    SEC_WEBSOCKET_VERSION = of_others(header::SEC_WEBSOCKET_VERSION), "The version of a WebSocket.";
    UPGRADE = of_others(header::UPGRADE), "The request for a WebSocket.";
}

/// The headers that a page of another origin may send, as a preflight is answered.
pub fn of_scripts() -> HeaderValue {
    let names = FIELDS.iter().filter(|field| field.set_by == SetBy::Script).map(|field| field.name.as_str());
    HeaderValue::from_str(&names.collect::<Vec<_>>().join(", ")).expect("names of headers are visible ASCII")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Ways to read a header beside this list.
    const READS: [&str; 6] = [
        "headers.get(",
        "headers.get_all(",
        "headers().get(",
        "headers().get_all(",
        ".contains_key(header::",
        "headers.contains_key(",
    ];

    fn readers(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                readers(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("headers.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let product = text.split("#[cfg(test)]").next().unwrap();
                let lines = product.lines().filter(|line| READS.iter().any(|read| line.contains(read)));
                found.extend(lines.map(|line| format!("{}: {}", path.display(), line.trim())));
            }
        }
    }

    #[test]
    fn a_request_header_is_read_through_the_list_only() {
        let mut found = Vec::new();
        readers(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api")), &mut found);
        // These read what this node has put into a response, what nodes say to each other, and a header of the list by its name.
        let others = [
            "response.headers().get(",
            "described.get(",
            "self.policy(headers.get(",
            "(HANDSHAKE)",
            "(EARLIER_HANDSHAKE)",
            "headers.get(header::ACCEPT)",
        ];
        found.retain(|line| !others.iter().any(|other| line.contains(other)));
        assert!(found.is_empty(), "read these through a field of the list: {found:#?}");
    }

    #[test]
    fn each_header_is_in_the_list_once() {
        let names: BTreeSet<&str> = FIELDS.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names.len(), FIELDS.len());
    }

    #[test]
    fn a_preflight_names_what_scripts_send_and_not_what_proxies_do() {
        let allowed = of_scripts();
        let allowed: BTreeSet<&str> = allowed.to_str().unwrap().split(", ").collect();
        for name in ["traceparent", "tracestate", "authorization", "content-type", "if-match", "lamplight-session"] {
            assert!(allowed.contains(name), "{name}");
        }
        for name in ["x-forwarded-proto", "host", "origin", "connection"] {
            assert!(!allowed.contains(name), "{name}");
        }
    }
}

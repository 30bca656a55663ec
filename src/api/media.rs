//! The headers that describe a body: its type, its charset, its coding.
//!
//! Each is honoured or refused, never ignored: a text in UTF-16 that is taken for UTF-8 is another text.

use std::borrow::Cow;

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, StatusCode, header},
};
use encoding_rs::{Encoding, UTF_8};

use super::{
    BODY_BYTES_MAX, Problem,
    headers::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE},
};
use crate::document::json::excerpt;

/// The names of JSON lines that programs use. None is registered.
const LINES: [&str; 6] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
];

/// The header that names the codings that a body may have.
static CODINGS: (HeaderName, &str) = (header::ACCEPT_ENCODING, "identity");

/// Most bytes that a byte of another charset becomes in UTF-8.
pub const UTF8_GROWTH_MAX: usize = 3;

/// The media type of the body in lower case, without parameters; empty if none is named.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = CONTENT_TYPE.text(headers).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Returns true if the body is JSON lines.
pub fn is_lines(headers: &HeaderMap) -> bool {
    LINES.contains(&media_type(headers).as_str())
}

/// The charset of a body.
#[derive(Clone, Copy, Debug)]
pub struct Charset(&'static Encoding);

impl Charset {
    /// Reads what the headers say, and refuses what a body cannot be here.
    pub fn of(headers: &HeaderMap) -> Result<Charset, Problem> {
        check_coding(headers)?;
        if CONTENT_RANGE.is_in(headers) {
            let detail =
                "Content-Range is not taken: a write replaces the whole document, and PATCH changes parts of it";
            return Err(Problem::bad_header(detail));
        }
        let mut types = CONTENT_TYPE.all(headers);
        let Some(named) = types.next() else { return Ok(Charset(UTF_8)) };
        if types.next().is_some() {
            return Err(Problem::bad_header("Content-Type must be there once"));
        }
        let Some(label) = named.to_str().ok().and_then(charset_in) else { return Ok(Charset(UTF_8)) };
        let unknown = || {
            let detail = format!(
                "this node does not read the charset {:?}: send the body as UTF-8, or in a charset of the Encoding standard, \
                 such as utf-16le or windows-1252",
                excerpt(&label)
            );
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", detail)
        };
        Encoding::for_label_no_replacement(label.as_bytes()).map(Charset).ok_or_else(unknown)
    }

    /// Returns true if the body needs no decoding.
    pub fn is_utf8(self) -> bool {
        self.0 == UTF_8
    }

    /// Refuses a body that is read while it comes and is not in UTF-8.
    pub fn check_stream(headers: &HeaderMap) -> Result<(), Problem> {
        let Charset(encoding) = Charset::of(headers)?;
        if encoding == UTF_8 {
            return Ok(());
        }
        let name = encoding.name().to_ascii_lowercase();
        let detail = format!("JSON lines are read as UTF-8, not as {name}: convert them first, as with iconv");
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", detail))
    }

    /// The body in UTF-8, without a byte-order mark. What is UTF-8 already is given as it is, whether it is valid or not: its
    /// reader says where it is not.
    pub fn decode(self, body: Bytes) -> Result<Bytes, Problem> {
        let Charset(encoding) = self;
        if encoding == UTF_8 {
            let text = without_mark(&body);
            return Ok(body.slice_ref(text));
        }
        let name = encoding.name().to_ascii_lowercase();
        let (text, _, is_malformed) = encoding.decode(&body);
        if is_malformed {
            let detail =
                format!("the body is no {name}, which its Content-Type names as the charset: name the right one");
            return Err(Problem::bad("bad-request", detail));
        }
        if text.len() > BODY_BYTES_MAX {
            return Err(Problem::too_large(format!("a body has at most {BODY_BYTES_MAX} bytes as UTF-8: split it")));
        }
        Ok(match text {
            Cow::Borrowed(text) => body.slice_ref(text.as_bytes()),
            Cow::Owned(text) => text.into(),
        })
    }
}

/// The bytes without a byte-order mark, which is no part of a text (RFC 8259, section 8.1; Encoding standard, "decode"). Programs
/// for Windows write one.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Refuses a body in a coding, and says in which there are none (RFC 9110, section 15.5.16).
fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let codings = CONTENT_ENCODING.all(headers).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let named = codings.map(|coding| String::from_utf8_lossy(coding.trim_ascii()));
    let other = named.into_iter().find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    let Some(other) = other else { return Ok(()) };
    let detail = format!("this node does not read the Content-Encoding {:?}: send the body as it is", excerpt(&other));
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", detail);
    Err(problem.header(&CODINGS))
}

/// The charset that a media type names.
fn charset_in(media: &str) -> Option<String> {
    let parameters = media.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut charsets = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charsets.next().map(|(_, value)| value.trim().trim_matches('"').to_string())
}

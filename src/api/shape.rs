//! The JSON of answers: receipts and documents.

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{error::describe, wait::Waited};
use crate::{
    document::{Verdict, View, prose::is_prose},
    replica::Receipt,
    version::Version,
};

/// What is promised of a document, or of an op that has effect: nothing can come before what made it so, or ops not
/// heard of yet still may.
pub fn status(is_final: bool) -> &'static str {
    if is_final { "final" } else { "tentative" }
}

/// What is promised of an op. One that would be rejected as things stand is tentative, too, until that is final.
pub fn op_status(verdict: &Verdict, is_final: bool) -> &'static str {
    if is_final && verdict.is_err() { "rejected" } else { status(is_final) }
}

/// An op's verdict as it stands, in a word.
pub fn verdict(verdict: &Verdict) -> &'static str {
    if verdict.is_ok() { "applied" } else { "rejected" }
}

/// A receipt, as docs/API.md describes it.
#[derive(Clone, Debug, Serialize)]
pub struct ReceiptBody {
    op: String,
    stamp: String,
    status: &'static str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_by: Option<usize>,
    #[serde(flatten)]
    only: Option<Written>,
    docs: Vec<Written>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// A document that an op wrote, with the version that it has right after the op.
#[derive(Clone, Debug, Serialize)]
struct Written {
    collection: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

impl From<&Receipt> for ReceiptBody {
    fn from(receipt: &Receipt) -> ReceiptBody {
        let docs: Vec<Written> = receipt
            .documents
            .versions()
            .map(|(doc, version)| Written {
                collection: doc.collection.to_string(),
                id: doc.id.to_string(),
                version: version.map(|version| version.to_string()),
                deleted: version.is_none(),
            })
            .collect();
        ReceiptBody {
            op: receipt.op.to_string(),
            stamp: receipt.stamp.to_string(),
            status: op_status(&receipt.verdict, receipt.is_final),
            verdict: verdict(&receipt.verdict),
            held_by: None,
            only: if let [only] = &docs[..] { Some(only.clone()) } else { None },
            docs,
            reason: receipt.verdict.as_ref().err().map(describe),
        }
    }
}

impl ReceiptBody {
    /// The same, with how many members hold the op.
    pub fn held_by(self, held_by: Option<usize>) -> ReceiptBody {
        ReceiptBody { held_by, ..self }
    }
}

impl From<&Waited> for ReceiptBody {
    fn from(waited: &Waited) -> ReceiptBody {
        ReceiptBody::from(&waited.receipt).held_by(waited.held_by)
    }
}

/// The answer to a write of one document.
pub fn written(status: StatusCode, waited: &Waited) -> Response {
    let mut response = (status, Json(ReceiptBody::from(waited))).into_response();
    let mut documents = waited.receipt.documents.versions();
    if let (Some((_, Some(version))), None) = (documents.next(), documents.next()) {
        response.headers_mut().insert(header::ETAG, etag(version));
    }
    response
}

/// The strong entity tag of a version.
pub fn etag(version: Version) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("hex digits in quotes")
}

/// The headers of a response that goes on while it is read. A proxy that buffers or compresses would hold it back: nginx
/// takes the first, others the second, which RFC 9111 (section 5.2.2.6) has against changes of any kind.
pub fn streaming(media: &'static str) -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(media)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}

/// A document with what is known of it, in a listing, a change or a snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct DocBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<String>,
    id: String,
    version: String,
    stamp: Option<String>,
    status: &'static str,
    value: Box<RawValue>,
    /// Whether it is a text: its value is null, and the text is read from the document itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    text: bool,
}

impl DocBody {
    /// A document, where all is final up to `frontier`; `named` says whether with its collection.
    pub fn new(view: &View, frontier: u64, named: bool) -> DocBody {
        DocBody {
            collection: named.then(|| view.collection.to_string()),
            id: view.id.to_string(),
            version: Version::of(view.text.as_str()).to_string(),
            stamp: view.stamp.map(|stamp| stamp.to_string()),
            status: status(view.latest <= frontier),
            value: RawValue::from_string(view.text.json().to_string()).expect("documents are JSON"),
            text: is_prose(&view.text),
        }
    }
}

/// The headers that describe a document, where all is final up to `frontier`.
pub fn describing(view: &View, frontier: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, etag(Version::of(view.text.as_str())));
    let status = HeaderValue::from_static(status(view.latest <= frontier));
    headers.insert(HeaderName::from_static("lamplight-status"), status);
    let stamp = view.stamp.and_then(|stamp| HeaderValue::from_str(&stamp.to_string()).ok());
    stamp.into_iter().for_each(|stamp| drop(headers.insert(HeaderName::from_static("lamplight-stamp"), stamp)));
    headers
}

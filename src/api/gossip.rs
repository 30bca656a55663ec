//! The door for peers: a WebSocket becomes a link of the node.
//!
//! It stands beside all other routes: no token opens it, but the pool's secret, and its answers carry none of the headers
//! that say who this node is and whom it knows. The WebSocket is opened here by hand, for whoever has not proved the
//! secret is read by `node` alone, in a few bytes of known number.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Api, ConnectionMemory, Problem, bound_head,
    headers::{CONNECTION, Field, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    server::PeerAddress,
};
use crate::node::{EARLIER_HANDSHAKE, HANDSHAKE, NotAdmitted, Offer, REFUSAL};

/// Longest head of a peer's request, in bytes. Only the HTTP server reads a longer one, up to its own bound.
const PEER_HEAD_BYTES_MAX: usize = 4 << 10;

/// `GET /v1/gossip`.
pub async fn accept(State(api): State<Api>, mut request: Request) -> Result<Response<Body>, Response<Body>> {
    bound_head(&request, PEER_HEAD_BYTES_MAX).map_err(IntoResponse::into_response)?;
    let headers = request.headers();
    // Nodes say no origin, and browsers always do: no page of any site is a node.
    if ORIGIN.is_in(headers) {
        let detail = "this is the WebSocket of the pool's nodes, and no page is one: the one for clients is /v1/ws";
        return Err(Problem::new(StatusCode::FORBIDDEN, "other-origin", detail).into_response());
    }
    let key = accept_key(headers).ok_or_else(|| {
        Problem::bad("bad-request", "this is the WebSocket of the pool's nodes: the one for clients is /v1/ws")
            .into_response()
    })?;
    let from = request.extensions().get::<PeerAddress>().map(|address| address.0);
    let admission = api.node.admit(offer(headers), from).map_err(refused)?;
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let said = answer.headers_mut();
    said.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    said.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    said.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    if let Some(message) = admission.header().and_then(|message| HeaderValue::try_from(message).ok()) {
        said.insert(HeaderName::from_static(HANDSHAKE), message);
    }
    if let Some(memory) = ConnectionMemory::of(request.extensions()) {
        memory.becomes_link();
    }
    let opening = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let opening = async { opening.await.map(TokioIo::new).map_err(|error| error.to_string()) };
        api.node.accept(admission, from, opening).await;
    });
    Ok(answer)
}

/// The handshake that a peer offers.
fn offer(headers: &HeaderMap) -> Offer<'_> {
    match headers.get(HANDSHAKE) {
        Some(message) => Offer::Noise(message.to_str().unwrap_or_default()),
        None if headers.contains_key(EARLIER_HANDSHAKE) => Offer::Earlier,
        None => Offer::Plain,
    }
}

/// What answers the key of a request for a WebSocket; none if it is no such request.
fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let says = |field: &Field, word: &str| {
        field.texts(headers).flat_map(|value| value.split(',')).any(|said| said.trim().eq_ignore_ascii_case(word))
    };
    let asks = says(&CONNECTION, "upgrade") && says(&UPGRADE, "websocket") && says(&SEC_WEBSOCKET_VERSION, "13");
    let key = SEC_WEBSOCKET_KEY.first(headers).filter(|_| asks)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

/// Tells a peer what its operator has to see to, and nothing of the pool.
fn refused(why: NotAdmitted) -> Response<Body> {
    let (status, detail) = match why {
        NotAdmitted::SecretNeeded => (
            StatusCode::FORBIDDEN,
            "this node links only to nodes that know its pool secret: start the other one with --pool-secret-file"
                .into(),
        ),
        NotAdmitted::NoSecret => (
            StatusCode::FORBIDDEN,
            "this node has no pool secret: start it with --pool-secret-file, or the other one without".into(),
        ),
        // Nodes up to protocol version 5 show the words of the status to their operators.
        NotAdmitted::OtherVersion => (
            StatusCode::UPGRADE_REQUIRED,
            "the two nodes speak different versions of the handshake between nodes: update the older of the two".into(),
        ),
        NotAdmitted::TooMany => (
            StatusCode::TOO_MANY_REQUESTS,
            "too many handshakes were begun from this address, or from all that have not proved the pool secret".into(),
        ),
        NotAdmitted::Failed(why) => (StatusCode::BAD_REQUEST, format!("there is no link: {why}")),
    };
    let mut answer = Problem::new(status, "pool-secret", detail).into_response();
    if why == NotAdmitted::TooMany {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if why == NotAdmitted::OtherVersion {
        // RFC 9110, section 15.5.22, has 426 say to what.
        answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    answer.headers_mut().insert(HeaderName::from_static(REFUSAL), HeaderValue::from_static(why.word()));
    answer
}

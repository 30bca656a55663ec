//! The door for peers: a WebSocket becomes a link of the node.

use axum::{
    body::Bytes,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    response::Response,
};
use futures_util::{SinkExt, StreamExt};

use super::{Api, Problem};
use crate::wire::FRAME_BYTES_MAX;

/// `GET /v1/gossip`.
pub async fn accept(
    State(api): State<Api>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|_| Problem::bad("bad-request", "this is the WebSocket of the pool's nodes"))?;
    Ok(upgrade
        .read_buffer_size(64 << 10)
        .max_message_size(FRAME_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_write_buffer_size(2 * FRAME_BYTES_MAX)
        .on_upgrade(move |socket| async move { api.node.accept(frames(socket)).await }))
}

/// A WebSocket as binary frames.
fn frames(socket: WebSocket) -> impl crate::node::Transport {
    let incoming = socket.filter_map(|message| async {
        match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            // Text is no frame of ours, and decoding nothing says so.
            Ok(Message::Text(_)) => Some(Ok(Bytes::new())),
            Ok(_) => None,
            Err(error) => Some(Err(error.to_string())),
        }
    });
    let both = incoming.with(|bytes: Bytes| async { Ok::<_, axum::Error>(Message::Binary(bytes)) });
    Box::pin(both.sink_map_err(|error| error.to_string()))
}

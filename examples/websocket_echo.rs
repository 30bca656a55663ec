//! Says everything back over a WebSocket with the settings of a client's WebSocket: what `tests/autobahn.py` asks
//! the cases of the Autobahn suite. It prints its address and runs until it is ended.

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::get,
};
use lamplight::api::{BODY_BYTES_MAX, bounded, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let open = |upgrade: WebSocketUpgrade| async { bounded(upgrade, None, BODY_BYTES_MAX).on_upgrade(echo) };
    let router = Router::new().route("/", get(open));
    serve(listener, router, CancellationToken::new()).await;
    Ok(())
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        // Pings are answered, and closes, by the library.
        let says = matches!(message, Message::Text(_) | Message::Binary(_));
        if says && socket.send(message).await.is_err() {
            return;
        }
    }
}

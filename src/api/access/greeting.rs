//! The first message of a client that could not send its token with the request: `{"type":"auth","token":…}`.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::extract::ws::{Message, WebSocket};
use serde_json::Value;
use tokio::time::timeout;

use super::{Access, Pass};
use crate::{
    api::{
        ConnectionMemory, Problem,
        rates::Caller,
        shares::{Beyond, Share, Shares},
        steps::Fields,
    },
    document::json,
    node::Whence,
};

/// How long a stranger may take for its first message.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait for their first message at once. Each may make the node hold a message of the largest size, and
/// nobody knows who they are; past this they are refused, and may come back or send the token with the request.
const STRANGERS_MAX: usize = 128;
/// How many of them one address may have, so that others get in whatever it does.
const STRANGERS_PER_ADDRESS_MAX: usize = 32;
/// The close code upon which a client does not come back by itself, but gets a token first.
pub const UNAUTHORIZED: u16 = 4401;

/// Room for strangers.
#[derive(Clone, Debug)]
pub struct Lobby(Arc<Shares>);

impl Default for Lobby {
    fn default() -> Lobby {
        Lobby(Shares::new(STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX))
    }
}

impl Lobby {
    /// Lets a stranger in, or says that there are too many.
    pub fn enter(&self, whence: Option<Whence>) -> Result<Share, Problem> {
        let address = whence.unwrap_or(Whence::of(IpAddr::from([0; 4])));
        self.0.take(Caller::Address(address), 1).map_err(|beyond| {
            let whose = if beyond == Beyond::All { "clients" } else { "clients of your address" };
            let detail = format!(
                "too many {whose} wait with no token shown: send it with the request, as Authorization or as a \
                 subprotocol, or try again"
            );
            Problem::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
        })
    }
}

/// Waits for the first message, and takes the token in it.
pub async fn greet(access: &Access, socket: &mut WebSocket, memory: &ConnectionMemory) -> Result<Pass, Problem> {
    let first = async {
        loop {
            match socket.recv().await {
                Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => memory.control_frame(payload.len()),
                Some(Ok(Message::Text(text))) => return token_in(&text),
                _ => return Err(Problem::no_token()),
            }
        }
    };
    let token = timeout(GREETING_TIMEOUT, first).await.unwrap_or_else(|_| Err(Problem::no_token()))?;
    access.pass(&token)
}

fn token_in(text: &str) -> Result<String, Problem> {
    let Ok(Value::Object(mut members)) = json::parse(text.as_bytes()) else { return Err(Problem::no_token()) };
    if members.remove("type").as_ref().and_then(Value::as_str) != Some("auth") {
        return Err(Problem::no_token());
    }
    members.remove("id");
    let mut fields = Fields::open("auth", members.into(), &["token"])?;
    fields.optional_text("token")?.ok_or_else(Problem::no_token)
}

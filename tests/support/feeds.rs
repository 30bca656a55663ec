//! Clients of what streams: the WebSocket, and server-sent events.

use std::collections::VecDeque;

use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::{Method, body::Incoming};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async, connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::Response},
};

use super::TestNode;

/// A client of `/v1/ws`.
pub struct Ws(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Ws {
    pub async fn connect(node: &TestNode) -> Ws {
        Ws::connect_with(node, &[]).await.unwrap().0
    }

    /// Connects with further headers; gives the answer's head too, or why there is no connection.
    pub async fn connect_with(
        node: &TestNode,
        headers: &[(&'static str, &str)],
    ) -> Result<(Ws, Response<Option<Vec<u8>>>), tokio_tungstenite::tungstenite::Error> {
        let url = format!("{}/v1/ws", node.url.replace("http", "ws"));
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, response) = connect_async(request).await?;
        Ok((Ws(socket), response))
    }

    /// Connects with a receive buffer so small that what it does not read soon stops the server.
    pub async fn connect_narrow(node: &TestNode) -> Ws {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let address = node.url.strip_prefix("http://").unwrap();
        let stream = MaybeTlsStream::Plain(socket.connect(address.parse().unwrap()).await.unwrap());
        Ws(client_async(format!("ws://{address}/v1/ws"), stream).await.unwrap().0)
    }

    pub async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub async fn subscribe(&mut self, id: &str, collection: &str) {
        self.send(json!({ "type": "subscribe", "id": id, "collection": collection })).await;
    }

    /// The next message.
    pub async fn next(&mut self) -> Value {
        loop {
            match self.0.next().await.expect("the connection is open").unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next message, which must be of this type.
    #[track_caller]
    pub fn expect<'a>(&'a mut self, kind: &'a str) -> impl Future<Output = Value> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let message = self.next().await;
            assert_eq!(message["type"], kind, "at {place}: {message}");
            message
        }
    }

    /// The next message, which must be an error with this slug.
    #[track_caller]
    pub fn expect_error<'a>(&'a mut self, slug: &'a str) -> impl Future<Output = Value> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let message = self.next().await;
            assert_eq!(message["type"], "error", "at {place}: {message}");
            let problem = &message["problem"];
            assert_eq!(problem["type"], format!("urn:lamplight:problem:{slug}"), "at {place}: {message}");
            assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "at {place}: {message}");
            message
        }
    }

    /// A question that is answered, so that all that was asked before has been answered too.
    pub async fn ping(&mut self) {
        self.send(json!({ "type": "ping" })).await;
        self.expect("pong").await;
    }

    /// Waits for the end, and gives the close code.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    }
}

/// A client of server-sent events.
pub struct Events {
    body: Incoming,
    buffer: String,
    ready: VecDeque<Event>,
}

/// One event, with the fields that were there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub name: String,
    pub id: String,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

impl Events {
    pub async fn open(node: &TestNode, path: &str, last: Option<&str>) -> Events {
        let mut call = node.call(Method::GET, path).header("accept", "text/event-stream");
        if let Some(last) = last {
            call = call.header("last-event-id", last);
        }
        let response = call.stream().await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), buffer: String::new(), ready: VecDeque::new() }
    }

    /// The next event; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.push_str(std::str::from_utf8(frame.data_ref()?).unwrap());
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let event = parse(block);
                self.buffer = rest.to_string();
                // As the specification says, what has no data is no event.
                self.ready.extend((!event.data.is_empty()).then_some(event));
            }
        }
    }
}

fn parse(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", name)) => event.name = name.into(),
            Some(("id", id)) => event.id = id.into(),
            Some(("data", data)) => event.data = data.into(),
            _ => {}
        }
    }
    event
}

//! `watch --final`: follows the final feed, as server-sent events.
//!
//! Its cursor is good on every node, so when a connection breaks it goes on behind the last line, on whichever node
//! answers, and nothing comes twice.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Incoming, header};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    Failure,
    client::{Base, Client, encoded, joined, root},
    output,
    watch::{PAUSE, SILENCE_MAX},
    wire::Means,
};

/// A reader of the final feed that outlives its connections.
pub struct FinalFollower {
    /// The only collection, if there is one.
    pub collection: Option<String>,
    /// Where it goes on.
    pub cursor: Option<String>,
}

impl FinalFollower {
    /// Follows until it fails for good.
    pub async fn run(mut self, bases: Vec<Base>, means: Means) -> Result<(), Failure> {
        let client = Client::of(bases.clone(), means);
        let (mut turn, mut pause, mut failures, mut begun) = (0, PAUSE.0, Vec::new(), false);
        loop {
            let base = &bases[turn % bases.len()];
            let lost = match self.open(&client, base).await {
                Ok(events) => {
                    (begun, pause) = (true, PAUSE.0);
                    let lost = self.follow(base, events).await?;
                    eprintln!("lamplight: {lost}; connecting again");
                    None
                }
                // A node that is not there, or not ready, may be soon; another may be now.
                Err(failure) if failure.code == 5 => Some(failure),
                Err(failure) => return Err(failure),
            };
            turn += 1;
            if let Some(failure) = lost.filter(|_| !begun) {
                failures.push(failure);
                if turn == bases.len() {
                    return Err(joined(failures));
                }
                continue;
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = PAUSE.1.min(pause * 2);
        }
    }

    async fn open(&self, client: &Client, base: &Base) -> Result<Incoming, Failure> {
        let given = [("collection", &self.collection), ("since", &self.cursor)];
        let given = given.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", encoded(value.as_ref()?))));
        let url = base.at(&format!("/v1/changes?view=final{}", given.collect::<String>()));
        let request = Request::get(url).header(header::ACCEPT, "text/event-stream");
        let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
        let request = request.body(body).map_err(|error| Failure::usage(error.to_string()))?;
        let late = || Failure::unreachable(format!("{base} gives no answer"));
        timeout(SILENCE_MAX, client.stream(base, request)).await.unwrap_or_else(|_| Err(late()))
    }

    /// Prints what comes over one connection; says why it ended.
    async fn follow(&mut self, base: &Base, mut events: Incoming) -> Result<String, Failure> {
        let mut buffer = Vec::new();
        loop {
            let frame = match timeout(SILENCE_MAX, events.frame()).await {
                Err(_) => return Ok(format!("lost {base}: it has fallen silent")),
                Ok(None) => return Ok(format!("lost {base}: the connection was closed")),
                Ok(Some(Err(error))) => return Ok(format!("lost {base}: {}", root(&error))),
                Ok(Some(Ok(frame))) => frame,
            };
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = buffer.drain(..end + 2).collect();
                self.on_event(&String::from_utf8_lossy(&event))?;
            }
        }
    }

    fn on_event(&mut self, event: &str) -> Result<(), Failure> {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        if field("event: ") == Some("resync") {
            self.cursor = None;
            return print("{\"resync\":true}");
        }
        if let Some(cursor) = field("id: ") {
            self.cursor = Some(cursor.into());
        }
        let Some(data) = field("data: ") else { return Ok(()) };
        let mut entry: Value = serde_json::from_str(data)
            .map_err(|error| Failure::new(format!("the node's event is not JSON: {error}")))?;
        entry["cursor"] = self.cursor.as_deref().into();
        print(&entry.to_string())
    }
}

/// A reader may be slow, or stuck; this thread must not keep signals from the others meanwhile.
fn print(line: &str) -> Result<(), Failure> {
    tokio::task::block_in_place(|| output::line(line))
}

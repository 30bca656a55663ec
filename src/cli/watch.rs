//! `watch`: follows changes over the clients' WebSocket, for as long as someone reads them.
//!
//! The WebSocket and not `GET /v1/changes`, for only subscriptions take a filter. After a broken connection it goes on
//! at its cursor on the same node; a cursor means nothing to another node, so there all documents follow again, and a
//! line says so.

use std::time::Duration;

use clap::{Args, builder::NonEmptyStringValueParser};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json, value::RawValue};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Failure,
    client::{Base, Target, joined, open_socket, refusal, root},
    final_watch::FinalFollower,
    output,
    wire::Means,
};

/// A node pings its clients every 30 s. One that is silent for longer than two pings hangs, or is cut off.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(75);
/// The first pause before connecting again, and the longest; it doubles in between.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Flags of `watch`.
#[derive(Args, Debug)]
#[command(after_help = examples!(
    "  lamplight watch
  lamplight watch notes --filter '{\"buy\":true}'
  lamplight watch notes | jq -c 'select(.deleted) | .id'
  lamplight watch notes --final >>final.ndjson

Each line is a change: {\"collection\",\"id\",\"version\",\"stamp\",\"status\",\"value\"}, or \"deleted\":true, or
\"removed\":true for a document that the filter no longer holds for; \"cursor\" is what --since takes.
It begins with all documents there are. The line {\"resync\":true} says that they all follow afresh.
With --final each line is what a final operation made of a document: the same lines from every node, none ever taken
back, and --since goes on from any node. Where a node has forgotten the beginning, documents with \"snapshot\":true
come first, as they were there.
It connects again when a connection breaks, and ends with code 0 on Ctrl-C or when nobody reads on."
))]
pub struct WatchArgs {
    /// Follow this collection only.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    collection: Option<String>,
    /// Only documents that this selector holds for ($gt $gte $lt $lte $ne $in $exists $contains $and $or $not).
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Follow what is final only, operation by operation.
    #[arg(long = "final", id = "finally", conflicts_with = "filter")]
    is_final: bool,
    /// Go on behind this change, on the node that told of it; with --final on any node.
    // One cursor in 64 begins with a hyphen.
    #[arg(long, value_name = "CURSOR", allow_hyphen_values = true)]
    since: Option<String>,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Follows changes until interrupted.
pub async fn watch(args: WatchArgs) -> Result<(), Failure> {
    let means = args.target.means();
    if args.is_final {
        let follower = FinalFollower { collection: args.collection, cursor: args.since };
        return until_interrupted(follower.run(args.target.urls, means)).await;
    }
    let filter = args.filter.map(RawValue::from_string).transpose();
    let filter = filter.map_err(|error| Failure::usage(format!("--filter is not JSON: {error}")))?;
    let follower = Follower { collection: args.collection, filter, cursor: args.since, means, heard: false };
    until_interrupted(follower.run(args.target.urls)).await
}

/// Follows something until it ends, the user interrupts it, or nobody reads on.
pub(super) async fn until_interrupted(
    following: impl Future<Output = Result<(), Failure>> + Send + 'static,
) -> Result<(), Failure> {
    // A task of its own: a reader that is slow to take lines must not keep Ctrl-C from being noticed.
    let following = tokio::spawn(following);
    tokio::select! {
        ended = following => ended.map_err(|error| Failure::new(format!("watching ended: {error}")))?,
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = output::unread() => Ok(()),
    }
}

/// A subscription that outlives its connections.
struct Follower {
    collection: Option<String>,
    filter: Option<Box<RawValue>>,
    cursor: Option<String>,
    means: Means,
    /// Whether the last connection told of anything.
    heard: bool,
}

/// Why a connection ended.
enum End {
    /// Another may do better.
    Lost(Failure),
    /// None would.
    Failed(Failure),
}

impl Follower {
    async fn run(mut self, bases: Vec<Base>) -> Result<(), Failure> {
        let (mut turn, mut pause, mut failures, mut begun) = (0, PAUSE.0, Vec::new(), false);
        loop {
            self.heard = false;
            let lost = match self.follow(&bases[turn % bases.len()]).await {
                End::Failed(failure) => return Err(failure),
                End::Lost(failure) => failure,
            };
            if self.heard {
                eprintln!("lamplight: {}; connecting again", lost.message);
                (begun, pause) = (true, PAUSE.0);
            } else {
                turn += 1;
                // What never worked is more likely a wrong URL than a node that will come back.
                if !begun {
                    failures.push(lost);
                    if turn == bases.len() {
                        return Err(joined(failures));
                    }
                    continue;
                }
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = PAUSE.1.min(pause * 2);
        }
    }

    /// Follows one node until the connection ends.
    async fn follow(&mut self, base: &Base) -> End {
        let lost = |why: &str| End::Lost(Failure::unreachable(format!("lost {base}: {why}")));
        let mut socket = match open_socket(base, &self.means).await {
            Ok(socket) => socket,
            Err(failure) if failure.code == 5 => return End::Lost(failure),
            Err(failure) => return End::Failed(failure),
        };
        // Where nothing has changed since the cursor, only the answer to the ping tells that the node follows.
        for message in [self.subscribe(), json!({ "type": "ping" }).to_string()] {
            if let Err(error) = socket.send(Message::text(message)).await {
                return lost(&root(&error));
            }
        }
        loop {
            let told = match timeout(SILENCE_MAX, socket.next()).await {
                Err(_) => return lost("it has fallen silent"),
                Ok(None) => return lost("the connection was closed"),
                Ok(Some(Err(error))) => return lost(&root(&error)),
                Ok(Some(Ok(Message::Text(text)))) => self.on_message(&text),
                Ok(Some(Ok(Message::Close(Some(close))))) => return lost(&close.reason),
                Ok(Some(Ok(_))) => Ok(()),
            };
            if let Err(end) = told {
                return end;
            }
        }
    }

    fn subscribe(&self) -> String {
        let mut message = json!({ "type": "subscribe", "id": "watch" });
        let given = [("collection", &self.collection), ("since", &self.cursor)];
        for (name, value) in given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))) {
            message[name] = value.into();
        }
        let message = message.to_string();
        // The filter goes as it was typed, so that the node sees keys that stand twice and refuses them.
        let filter = self.filter.as_ref().map(|filter| format!(",\"filter\":{}}}", filter.get()));
        filter.map_or(message.clone(), |filter| message.trim_end_matches('}').to_string() + &filter)
    }

    fn on_message(&mut self, text: &str) -> Result<(), End> {
        let Ok(mut message) = serde_json::from_str::<Value>(text) else {
            return Err(End::Failed(Failure::new("the node's message is not JSON")));
        };
        let cursor = message["cursor"].as_str().map(String::from);
        let kind = message["type"].as_str().unwrap_or_default().to_string();
        match &*kind {
            "change" => self.tell(vec![message["doc"].take()], cursor),
            "snapshot" => match message["docs"].take() {
                Value::Array(docs) => self.tell(docs, cursor),
                _ => Ok(()),
            },
            "pong" => {
                self.heard = true;
                Ok(())
            }
            "resync" => {
                (self.heard, self.cursor) = (true, None);
                output::line("{\"resync\":true}").map_err(End::Failed)
            }
            "error" => {
                let failure = refusal(message["problem"].take());
                Err(if failure.code == 5 { End::Lost(failure) } else { End::Failed(failure) })
            }
            // Newer nodes may say more.
            _ => Ok(()),
        }
    }

    /// Prints documents. The cursor stands behind all of them, so the last carries it.
    fn tell(&mut self, mut docs: Vec<Value>, cursor: Option<String>) -> Result<(), End> {
        self.heard = true;
        if let (Some(Value::Object(last)), Some(cursor)) = (docs.last_mut(), &cursor) {
            last.insert("cursor".into(), cursor.as_str().into());
        }
        // A reader may be slow, or stuck; this thread must not keep signals from the others meanwhile.
        let print = || docs.iter().try_for_each(|doc| output::line(&doc.to_string()));
        tokio::task::block_in_place(print).map_err(End::Failed)?;
        self.cursor = cursor.or(self.cursor.take());
        Ok(())
    }
}
